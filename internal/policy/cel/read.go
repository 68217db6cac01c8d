package cel

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
	kjson "sigs.k8s.io/json"

	"github.com/holdfastcd/holdfast/internal/policy"
)

// maxBytes is how long a file may be: as long as a request to the API server.
const maxBytes = 3 << 20

// maxDepth is how deep a document may nest.
const maxDepth = 100

// manifest is one object of a file: a document of it, or an item of a List.
type manifest struct {
	document int // index of the file
	file     string
	node     *yaml.Node
	value    map[string]any
}

// ours finds text that wants to be a policy of this language, whether it can be read
// or not. It is applied to what names the API group only.
var ours = regexp.MustCompile(`kind["']?\s*:\s*["']?(?:Validating|Mutating)AdmissionPolicy`)

// concerns reports whether a file may hold policies or bindings.
func concerns(d policy.Document) bool {
	return !foreign(d.File) && bytes.Contains(d.Content, []byte(group)) && ours.Match(d.Content)
}

// foreign reports whether a file is none of YAML or JSON by its name.
func foreign(file string) bool {
	return slices.Contains([]string{".rego", ".md", ".txt", ".star", ".lua"}, path.Ext(file))
}

// read returns the objects of a file. What is no object is left out. The error says
// what is wrong with the file, at line.
func read(document int, d policy.Document) (all []manifest, line int, err error) {
	if len(d.Content) > maxBytes {
		return nil, 0, fmt.Errorf("the file is longer than %d MiB", maxBytes>>20)
	}
	decoder := yaml.NewDecoder(bytes.NewReader(d.Content))
	for {
		var root yaml.Node
		err := decoder.Decode(&root)
		if errors.Is(err, io.EOF) {
			return all, 0, nil
		}
		if err != nil {
			return nil, lineOf(err), fmt.Errorf("it is no YAML: %s", plain(err))
		}
		if len(root.Content) == 0 || root.Content[0].Kind != yaml.MappingNode {
			continue
		}
		node := root.Content[0]
		if at, err := normalise(node, 0); err != nil {
			return nil, at, err
		}
		value, err := decode(node)
		if err != nil {
			return nil, max(lineOf(err), node.Line), err
		}
		all = expand(all, manifest{document, d.File, node, value}, 0)
	}
}

// normalise has scalars read as kubectl reads them (yes and no are booleans, times are
// text) and refuses aliases, in which a few bytes stand for as many as one likes. It
// returns the line of an error.
func normalise(n *yaml.Node, depth int) (int, error) {
	switch {
	case n.Kind == yaml.AliasNode:
		return n.Line, errors.New("YAML aliases are not supported in policies")
	case depth > maxDepth:
		return n.Line, fmt.Errorf("the document nests deeper than %d levels", maxDepth)
	case n.Kind == yaml.ScalarNode && n.Tag == "!!timestamp":
		n.Tag = "!!str"
	case n.Kind == yaml.ScalarNode && n.Tag == "!!str" && n.Style == 0:
		switch strings.ToLower(n.Value) {
		case "y", "yes", "on":
			n.Tag, n.Value = "!!bool", "true"
		case "n", "no", "off":
			n.Tag, n.Value = "!!bool", "false"
		}
	}
	for i, child := range n.Content {
		if n.Kind == yaml.MappingNode && i%2 == 0 && child.Kind == yaml.ScalarNode {
			child.Tag = "!!str"
			continue
		}
		if at, err := normalise(child, depth+1); err != nil {
			return at, err
		}
	}
	return 0, nil
}

// decode turns a mapping into what JSON decodes to, with whole numbers as int64.
func decode(node *yaml.Node) (map[string]any, error) {
	var raw map[string]any
	if err := node.Decode(&raw); err != nil {
		return nil, fmt.Errorf("it cannot be read: %s", plain(err))
	}
	text, err := json.Marshal(raw)
	if err != nil {
		return nil, fmt.Errorf("it cannot be read: %s", plain(err))
	}
	var value map[string]any
	if err := kjson.UnmarshalCaseSensitivePreserveInts(text, &value); err != nil {
		return nil, fmt.Errorf("it cannot be read: %s", plain(err))
	}
	return value, nil
}

// expand appends an object, or the items of a List in its place.
func expand(all []manifest, m manifest, depth int) []manifest {
	kind, _ := m.value["kind"].(string)
	items, isList := m.value["items"].([]any)
	if !isList || !strings.HasSuffix(kind, "List") || depth > 4 {
		return append(all, m)
	}
	nodes, _ := find(m.node, []any{"items"})
	for i, item := range items {
		value, ok := item.(map[string]any)
		if !ok || i >= len(nodes.Content) {
			continue
		}
		if kind != "List" {
			for field, inherited := range map[string]any{"apiVersion": m.value["apiVersion"], "kind": strings.TrimSuffix(kind, "List")} {
				if value[field] == nil {
					value[field] = inherited
				}
			}
		}
		all = expand(all, manifest{m.document, m.file, nodes.Content[i], value}, depth+1)
	}
	return all
}

// find follows a path of field names and indexes, as far as it leads, and reports
// whether that is the end of it.
func find(n *yaml.Node, way []any) (*yaml.Node, bool) {
	for _, step := range way {
		next := -1
		switch step := step.(type) {
		case int:
			if n.Kind == yaml.SequenceNode && step < len(n.Content) {
				next = step
			}
		case string:
			for i := 0; i+1 < len(n.Content) && n.Kind == yaml.MappingNode; i += 2 {
				if n.Content[i].Value == step {
					next = i + 1
				}
			}
		}
		if next < 0 {
			return n, false
		}
		n = n.Content[next]
	}
	return n, true
}

// line returns the line of a field; of what holds it where it is not written.
func (m manifest) line(way ...any) int {
	n, _ := find(m.node, way)
	return n.Line
}

// within returns the line of a place in the text of a field, which begins at line 1.
func (m manifest) within(line int, way ...any) int {
	n, _ := find(m.node, way)
	if n.Style == yaml.LiteralStyle {
		return n.Line + line // the text begins below its mark
	}
	return n.Line
}

func (m manifest) text(way ...any) string {
	n, ok := find(m.node, way)
	if !ok || n.Kind != yaml.ScalarNode {
		return ""
	}
	return n.Value
}

// flaw returns a flaw of m at a field.
func (m manifest) flaw(message string, way ...any) policy.Flaw {
	return policy.Flaw{File: m.file, Line: m.line(way...), Policy: m.text("metadata", "name"), Message: message}
}

var numbered = regexp.MustCompile(`line (\d+)(?:: )?`)

var prefixed = regexp.MustCompile(`line \d+: `)

// lineOf returns the line that an error of the YAML library names; 0 if it names none.
func lineOf(err error) int {
	var line int
	if found := numbered.FindStringSubmatch(err.Error()); found != nil {
		_, _ = fmt.Sscan(found[1], &line) // digits
	}
	return line
}

// plain renders an error of a library in a line.
func plain(err error) string {
	text := strings.TrimPrefix(strings.TrimPrefix(err.Error(), "yaml: "), "unmarshal errors:")
	return strings.Join(strings.Fields(prefixed.ReplaceAllString(text, "")), " ")
}
