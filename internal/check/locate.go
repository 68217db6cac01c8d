package check

import (
	"bytes"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/holdfastcd/holdfast/internal/object"
)

// maxLocated bounds files in which lines of fields are looked for.
const maxLocated = 1 << 20

// line returns the line on which a field of an object stands, or the nearest thing above
// it that stands there; the object's own, where the file does not hold the object as it
// is: a template of it, say.
func (t *trial) line(o *object.Object, field string) int {
	n := t.nodeOf(o)
	if n == nil || field == "" {
		return o.Origin.Line
	}
	line := o.Origin.Line
	for _, step := range steps(field) {
		key, child := descend(n, step)
		if child == nil {
			break
		}
		n, line = child, key
	}
	return line
}

// lineOf returns the first line of an object on which a value stands.
func (t *trial) lineOf(o *object.Object, value string) int {
	if n := t.nodeOf(o); n != nil {
		if line := scalar(n, value); line > 0 {
			return line
		}
	}
	return o.Origin.Line
}

func scalar(n *yaml.Node, value string) int {
	if n.Kind == yaml.ScalarNode && n.Value == value {
		return n.Line
	}
	for _, c := range n.Content {
		if line := scalar(c, value); line > 0 {
			return line
		}
	}
	return 0
}

// nodeOf returns the document that an object was read from; nil if it is not there.
func (t *trial) nodeOf(o *object.Object) *yaml.Node {
	content, err := t.state.ReadFile(o.Origin.File, maxLocated)
	if err != nil || o.Origin.Line == 0 || object.Aliased(content) {
		return nil
	}
	var only *yaml.Node
	for _, doc := range documents(content) {
		if doc.line > o.Origin.Line || doc.line+bytes.Count(doc.text, []byte("\n")) < o.Origin.Line {
			continue
		}
		var root yaml.Node
		if yaml.Unmarshal(doc.text, &root) != nil || len(root.Content) != 1 {
			return nil
		}
		only = root.Content[0]
		shift(only, doc.first-1)
	}
	if only == nil {
		return nil
	}
	if _, kind := descend(only, "kind"); kind == nil || kind.Value != o.GetKind() {
		return nil
	}
	return only
}

// shift moves the lines of a document to where it is in its file.
func shift(n *yaml.Node, by int) {
	n.Line += by
	for _, c := range n.Content {
		shift(c, by)
	}
}

var step = regexp.MustCompile(`\[(\d+)\]|\["?'?([^\]"']*)"?'?\]|([^.\[\]]+)`)

// steps cuts a path as Kubernetes writes it: spec.containers[0].image, or
// metadata.labels[a.b/c].
func steps(field string) []string {
	var all []string
	for _, m := range step.FindAllStringSubmatch(strings.TrimPrefix(field, "."), -1) {
		all = append(all, m[1]+m[2]+m[3])
	}
	return all
}

// descend returns what a step leads to, and the line on which that begins.
func descend(n *yaml.Node, step string) (int, *yaml.Node) {
	switch n.Kind {
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			if n.Content[i].Value == step {
				return n.Content[i].Line, n.Content[i+1]
			}
		}
	case yaml.SequenceNode:
		if i, err := strconv.Atoi(step); err == nil && i < len(n.Content) {
			return n.Content[i].Line, n.Content[i]
		}
	default: // there is nothing below
	}
	return 0, nil
}
