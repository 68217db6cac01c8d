package rego

import (
	"bytes"
	"path"
	"regexp"
	"strconv"
	"strings"

	yamlv3 "go.yaml.in/yaml/v3"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/holdfastcd/holdfast/internal/policy"
)

// manifest is an object of Gatekeeper's as it stands in a file.
type manifest struct {
	unstructured.Unstructured

	file string
	line int
	node *yamlv3.Node // the same, with lines; nil if they are not known
	base int          // what to add to the lines of node
}

// readManifests returns the objects of Gatekeeper's in a file.
func readManifests(d policy.Document) ([]manifest, []policy.Flaw) {
	var all []manifest
	var flaws []policy.Flaw
	for _, chunk := range chunks(d) {
		if !bytes.Contains(chunk.text, []byte("gatekeeper.sh/")) {
			continue
		}
		var object map[string]any
		if err := yaml.UnmarshalStrict(chunk.text, &object); err != nil {
			line := chunk.base + max(lineOf(err), 1)
			flaws = append(flaws, policy.Flaw{File: d.File, Line: line, Message: "it cannot be read: " + oneLine(err.Error())})
			continue
		}
		m := manifest{Unstructured: unstructured.Unstructured{Object: object}, file: d.File, line: chunk.base + 1, base: chunk.base}
		var root yamlv3.Node
		if yamlv3.Unmarshal(chunk.text, &root) == nil && len(root.Content) == 1 {
			m.node = root.Content[0]
			m.line = chunk.base + m.node.Line
		}
		for _, item := range m.items() {
			if group := item.GroupVersionKind().Group; strings.HasSuffix(group, ".gatekeeper.sh") {
				all = append(all, item)
			}
		}
	}
	return all, flaws
}

// items returns what a List holds, and the object itself if it is none.
func (m manifest) items() []manifest {
	list, ok := m.Object["items"].([]any)
	if !ok || !strings.HasSuffix(m.GetKind(), "List") {
		return []manifest{m}
	}
	var all []manifest
	for i, item := range list {
		object, ok := item.(map[string]any)
		if !ok {
			continue
		}
		one := manifest{Unstructured: unstructured.Unstructured{Object: object}, file: m.file, line: m.line, base: m.base, node: find(m.node, "items", i)}
		if one.node != nil {
			one.line = m.base + one.node.Line
		}
		all = append(all, one)
	}
	return all
}

// flaw tells what is wrong with a manifest, at its first line.
func (m manifest) flaw(message, hint string) policy.Flaw {
	return policy.Flaw{File: m.file, Line: m.line, Policy: m.GetKind() + "/" + m.GetName(), Message: message, Hint: hint}
}

// offset returns how many lines stand before the text at a path. The text of a block
// begins in the line after its mark.
func (m manifest) offset(at ...any) int {
	node := find(m.node, at...)
	if node == nil {
		return max(m.line-1, 0)
	}
	offset := m.base + node.Line - 1
	if node.Style&(yamlv3.LiteralStyle|yamlv3.FoldedStyle) != 0 {
		offset++
	}
	return offset
}

// find follows keys and indices; nil if there is nothing.
func find(n *yamlv3.Node, at ...any) *yamlv3.Node {
	for _, step := range at {
		if n == nil {
			return nil
		}
		var next *yamlv3.Node
		switch step := step.(type) {
		case int:
			if n.Kind == yamlv3.SequenceNode && step < len(n.Content) {
				next = n.Content[step]
			}
		case string:
			for i := 0; n.Kind == yamlv3.MappingNode && i+1 < len(n.Content); i += 2 {
				if n.Content[i].Value == step {
					next = n.Content[i+1]
				}
			}
		}
		n = next
	}
	return n
}

// chunk is a document in a file, and how many lines stand before it.
type chunk struct {
	text []byte
	base int
}

// chunks divides a file where a line begins with ---, as Kubernetes does.
func chunks(d policy.Document) []chunk {
	if path.Ext(d.File) == ".json" {
		return []chunk{{d.Content, 0}}
	}
	var all []chunk
	now, n := chunk{}, 0
	for line := range bytes.Lines(d.Content) {
		n++
		if bytes.HasPrefix(line, []byte("---")) {
			all = append(all, now)
			now = chunk{base: n}
			continue
		}
		now.text = append(now.text, line...)
	}
	return append(all, now)
}

var lineWord = regexp.MustCompile(`\bline (\d+)`)

// lineOf reads the line out of an error of the YAML library's; 0 if it says none.
func lineOf(err error) int {
	if found := lineWord.FindStringSubmatch(err.Error()); found != nil {
		n, _ := strconv.Atoi(found[1])
		return n
	}
	return 0
}
