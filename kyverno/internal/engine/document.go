package engine

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"

	yamlv3 "go.yaml.in/yaml/v3"
	"k8s.io/apimachinery/pkg/runtime/schema"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"github.com/holdfastcd/holdfast/internal/policy"
	"github.com/holdfastcd/holdfast/internal/policy/judge"
)

// maxDocument bounds a file before it is parsed. The largest policy of Kyverno's own
// library has 20 KiB.
const maxDocument = 4 << 20

// item is one object of a file.
type item struct {
	file    string
	line    int // where it begins
	text    []byte
	json    []byte
	group   string
	version string
	kind    string
	name    string
}

// header is what tells objects apart.
type header struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Metadata   struct {
		Name      string `json:"name"`
		Namespace string `json:"namespace"`
	} `json:"metadata"`
	Items []json.RawMessage `json:"items"`
}

// kyvernos says whether an item is of one of Kyverno's groups.
func (i *item) kyvernos() bool {
	return i.group == "kyverno.io" || strings.HasSuffix(i.group, ".kyverno.io")
}

// flaw tells what is wrong with an item.
func (i *item) flaw(line int, format string, args ...any) policy.Flaw {
	if line == 0 {
		line = i.line
	}
	return policy.Flaw{File: i.file, Line: line, Policy: i.name, Message: fmt.Sprintf(format, args...)}
}

// read returns the objects of a file, lists taken apart. What cannot be read is a flaw,
// but only where Kyverno's name stands in it: other engines read the same files.
func read(d policy.Document) (items []item, flaws []policy.Flaw) {
	if !bytes.Contains(d.Content, []byte("kyverno.io")) && !bytes.Contains(d.Content, []byte("ConfigMap")) {
		return nil, nil
	}
	if len(d.Content) > maxDocument {
		if !judge.IsKyverno(d) {
			return nil, nil
		}
		return nil, []policy.Flaw{{File: d.File, Message: fmt.Sprintf("it has %d bytes; a file with policies may have %d", len(d.Content), maxDocument)}}
	}
	for _, p := range split(d) {
		more, err := parse(p)
		if err == nil {
			items = append(items, more...)
		} else if judge.IsKyverno(policy.Document{Content: p.text}) {
			flaws = append(flaws, p.flaw(0, "it cannot be read: %s", strings.TrimPrefix(err.Error(), "error converting YAML to JSON: ")))
		}
	}
	return items, flaws
}

// split takes a file apart at the lines that separate YAML documents.
func split(d policy.Document) []item {
	var parts []item
	current := item{file: d.File, line: 1}
	end := func(next int) {
		if len(bytes.TrimSpace(current.text)) > 0 {
			parts = append(parts, current)
		}
		current = item{file: d.File, line: next}
	}
	n := 0
	for line := range bytes.Lines(d.Content) {
		n++
		if rest, ok := bytes.CutPrefix(line, []byte("---")); ok && (len(bytes.TrimSpace(rest)) == 0 || rest[0] == ' ' || rest[0] == '\t') {
			end(n + 1)
			continue
		}
		if len(current.text) == 0 && (len(bytes.TrimSpace(line)) == 0 || line[0] == '#') {
			current.line = n + 1
			continue
		}
		current.text = append(current.text, line...)
	}
	end(0)
	return parts
}

// parse reads one document; a List is its items.
func parse(p item) ([]item, error) {
	raw, err := yaml.YAMLToJSONStrict(p.text)
	if err != nil {
		return nil, err
	}
	p.json = raw
	var h header
	if err := kjson.UnmarshalCaseSensitivePreserveInts(raw, &h); err != nil {
		return nil, err
	}
	if h.Kind == "List" && h.APIVersion == "v1" {
		return list(p, h.Items)
	}
	return []item{p.headed(h)}, nil
}

func list(p item, raw []json.RawMessage) ([]item, error) {
	all := make([]item, 0, len(raw))
	for _, r := range raw {
		var h header
		if err := kjson.UnmarshalCaseSensitivePreserveInts(r, &h); err != nil {
			return nil, err
		}
		one := p
		one.json, one.text = r, nil
		all = append(all, one.headed(h))
	}
	return all, nil
}

func (i item) headed(h header) item {
	gv, err := schema.ParseGroupVersion(h.APIVersion)
	if err == nil {
		i.group, i.version = gv.Group, gv.Version
	}
	i.kind, i.name = h.Kind, h.Metadata.Name
	if h.Metadata.Namespace != "" {
		i.name = h.Metadata.Namespace + "/" + h.Metadata.Name
	}
	return i
}

// decode reads an item into one of Kyverno's types. A field that is unknown is an error,
// but not in the status, which a cluster may have written that runs another Kyverno.
func decode(i *item, into any) error {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(i.json, &fields); err != nil {
		return err
	}
	delete(fields, "status")
	written, err := json.Marshal(fields)
	if err != nil {
		return err
	}
	strict, err := kjson.UnmarshalStrict(written, into)
	if err != nil {
		return err
	}
	if len(strict) > 0 {
		words := make([]string, len(strict))
		for n, e := range strict {
			words[n] = e.Error()
		}
		return fmt.Errorf("%s", strings.Join(words, "; "))
	}
	return nil
}

// lines tells where the entries of a list below spec begin, each by its name; entries
// without one by their number.
func (i *item) lines(list string) map[string]int {
	found := map[string]int{}
	var doc yamlv3.Node
	if i.text == nil || yamlv3.Unmarshal(i.text, &doc) != nil || len(doc.Content) == 0 {
		return found
	}
	entries := child(child(doc.Content[0], "spec"), list)
	if entries == nil {
		return found
	}
	for n, e := range entries.Content {
		key := fmt.Sprint(n)
		if name := child(e, "name"); name != nil {
			key = name.Value
		}
		found[key] = i.line + e.Line - 1
	}
	return found
}

// child returns the value of a key of a mapping; nil where there is none.
func child(n *yamlv3.Node, key string) *yamlv3.Node {
	if n == nil || n.Kind != yamlv3.MappingNode {
		return nil
	}
	for k := 0; k+1 < len(n.Content); k += 2 {
		if n.Content[k].Value == key {
			return n.Content[k+1]
		}
	}
	return nil
}
