package render

import (
	"bytes"
	"errors"
	"io"

	"go.yaml.in/yaml/v3"

	"github.com/holdfastcd/holdfast/internal/fault"
)

// maxUnfolded is how many nodes a manifest may have once its aliases are unfolded.
const maxUnfolded = 1_000_000

// boundAliases refuses a manifest whose aliases unfold to more than fits, before
// kustomize, which unfolds them, sees it. What is not YAML is left to kustomize.
func boundAliases(name string, content []byte) error {
	if bytes.IndexByte(content, '&') < 0 || bytes.IndexByte(content, '*') < 0 {
		return nil
	}
	decoder := yaml.NewDecoder(bytes.NewReader(content))
	for {
		var root yaml.Node
		if err := decoder.Decode(&root); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return nil
		}
		if u := (unfolding{seen: map[*yaml.Node]int{}}); u.size(&root) > maxUnfolded {
			return fault.New(fault.Limit, "its YAML aliases unfold to more than %d nodes", maxUnfolded).At(name, root.Line)
		}
	}
}

// unfolding counts nodes; a node that is being counted has size -1.
type unfolding struct{ seen map[*yaml.Node]int }

func (u unfolding) size(n *yaml.Node) int {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	switch known := u.seen[n]; {
	case known > 0:
		return known
	case known < 0: // it holds itself
		return maxUnfolded + 1
	}
	u.seen[n] = -1
	total := 1
	for _, child := range n.Content {
		if total += u.size(child); total > maxUnfolded {
			total = maxUnfolded + 1
			break
		}
	}
	u.seen[n] = total
	return total
}
