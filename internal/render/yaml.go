package render

import (
	"bytes"
	"errors"
	"io"
	"math"
	"path"
	"regexp"
	"sort"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
	"sigs.k8s.io/json"

	"github.com/holdfastcd/holdfast/internal/fault"
)

// maxDepth is how deep a document may nest; the API server's own limit is higher.
const maxDepth = 100

// document is one object as it was written: a YAML document, or an item of a List.
type document struct {
	value map[string]any
	line  int // in the file, of its first line
}

// parse returns the objects of a YAML or JSON file. Empty documents are left
// out and lists are expanded. Errors are *fault.Error with file and line: Invalid
// for what is no object or has a key twice, Limit for depth, size and count.
func parse(file string, content []byte, b *budget) ([]document, error) {
	var docs []document
	var err error
	if path.Ext(file) == ".json" {
		docs, err = parseJSON(content, b)
	} else {
		docs, err = parseYAML(content, b)
	}
	if f, ok := errors.AsType[*fault.Error](err); ok {
		return nil, f.At(file, max(f.Line, 1))
	}
	return docs, err
}

// parseYAML reads documents one after the other from one decoder, so that
// every line number counts from the beginning of the file.
func parseYAML(content []byte, b *budget) ([]document, error) {
	var docs []document
	decoder := yaml.NewDecoder(bytes.NewReader(content))
	for {
		var root yaml.Node
		err := decoder.Decode(&root)
		if errors.Is(err, io.EOF) {
			return docs, nil
		}
		if err != nil {
			return nil, locate(content, yamlFault(err))
		}
		if docs, err = appendDocument(docs, &root, b); err != nil {
			return nil, err
		}
	}
}

// appendDocument adds the object, or the objects, of one document.
func appendDocument(docs []document, root *yaml.Node, b *budget) ([]document, error) {
	if len(root.Content) == 0 || root.Content[0].Tag == "!!null" {
		return docs, nil
	}
	node := root.Content[0]
	value, err := nodeValue(node, b)
	if err != nil {
		return nil, err
	}
	return expand(docs, value, node.Line, itemLines(node), b, 0)
}

// nodeValue turns a YAML node into what JSON would decode to.
func nodeValue(node *yaml.Node, b *budget) (any, error) {
	if err := normalise(node, 0); err != nil {
		return nil, err
	}
	var raw any
	if err := node.Decode(&raw); err != nil {
		f := yamlFault(err)
		return nil, f.At("", max(f.Line, node.Line))
	}
	value, err := b.jsonable(raw, 0)
	if f, ok := errors.AsType[*fault.Error](err); ok {
		return nil, f.At("", node.Line)
	}
	return value, err
}

// normalise makes the parser, which knows YAML 1.2, read scalars as Kubernetes
// tools do: yes, no, on and off are booleans, timestamps are text, and every
// key of a mapping is text.
func normalise(n *yaml.Node, depth int) error {
	if depth > maxDepth {
		return fault.New(fault.Limit, "the document nests deeper than %d levels", maxDepth).At("", n.Line)
	}
	switch n.Kind {
	case yaml.ScalarNode:
		normaliseScalar(n)
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			key, err := textKey(n.Content[i])
			if err != nil {
				return err
			}
			n.Content[i] = key
			if err := normalise(n.Content[i+1], depth+1); err != nil {
				return err
			}
		}
	case yaml.SequenceNode:
		for _, item := range n.Content {
			if err := normalise(item, depth+1); err != nil {
				return err
			}
		}
	default: // an alias is normalised where its anchor is
	}
	return nil
}

func normaliseScalar(n *yaml.Node) {
	switch {
	case n.Tag == "!!timestamp" && n.Style&yaml.TaggedStyle == 0:
		n.Tag = "!!str"
	case n.Tag == "!!str" && n.Style == 0:
		switch n.Value {
		case "y", "Y", "yes", "Yes", "YES", "on", "On", "ON":
			n.Tag, n.Value = "!!bool", "true"
		case "n", "N", "no", "No", "NO", "off", "Off", "OFF":
			n.Tag, n.Value = "!!bool", "false"
		}
	}
}

// textKey returns the key as text; a copy, because an anchor may have made the
// same node a value elsewhere.
func textKey(n *yaml.Node) (*yaml.Node, error) {
	if n.Tag == "!!merge" {
		return n, nil
	}
	if n.Kind == yaml.AliasNode && n.Alias != nil {
		n = n.Alias
	}
	if n.Kind != yaml.ScalarNode || n.Tag == "!!null" {
		return nil, fault.New(fault.Invalid, "a key must be text").At("", n.Line)
	}
	key := *n
	normaliseScalar(&key)
	if key.Tag == "!!bool" {
		key.Value = strings.ToLower(key.Value)
	}
	key.Tag = "!!str"
	return &key, nil
}

// itemLines returns the lines of the items of a List.
func itemLines(n *yaml.Node) []int {
	var lines []int
	for i := 0; i+1 < len(n.Content) && n.Kind == yaml.MappingNode; i += 2 {
		if n.Content[i].Value != "items" {
			continue
		}
		for _, item := range n.Content[i+1].Content {
			lines = append(lines, item.Line)
		}
	}
	return lines
}

// expand appends an object, or the items of a List instead of it. An item of a
// typed list (ConfigMapList) need not repeat what it is.
func expand(docs []document, value any, line int, lines []int, b *budget, depth int) ([]document, error) {
	m, ok := value.(map[string]any)
	if !ok {
		return nil, notAnObject(value).At("", line)
	}
	kind, _ := m["kind"].(string)
	items, isList := m["items"].([]any)
	if !isList || !strings.HasSuffix(kind, "List") || depth > 4 {
		if err := b.count(); err != nil {
			return nil, err.At("", line)
		}
		return append(docs, document{value: m, line: line}), nil
	}
	for i, item := range items {
		at := line
		if i < len(lines) {
			at = lines[i]
		}
		if o, ok := item.(map[string]any); ok && kind != "List" {
			fill(o, "apiVersion", m["apiVersion"])
			fill(o, "kind", strings.TrimSuffix(kind, "List"))
		}
		var err error
		if docs, err = expand(docs, item, at, nil, b, depth+1); err != nil {
			return nil, err
		}
	}
	return docs, nil
}

func fill(o map[string]any, key string, value any) {
	if _, ok := o[key]; !ok && value != nil {
		o[key] = value
	}
}

func notAnObject(value any) *fault.Error {
	if _, ok := value.([]any); ok {
		return fault.New(fault.Invalid, "this is a list, not a Kubernetes object").
			WithHint("put each object in its own document, or use kind: List")
	}
	return fault.New(fault.Invalid, "this is not a Kubernetes object")
}

// parseJSON reads one JSON value: YAML parsers do not take all JSON.
func parseJSON(content []byte, b *budget) ([]document, error) {
	trimmed := bytes.TrimLeft(content, " \t\r\n")
	if len(trimmed) == 0 {
		return nil, nil
	}
	start := lineAt(content, len(content)-len(trimmed))
	var raw any
	strict, err := json.UnmarshalStrict(content, &raw, json.DisallowDuplicateFields)
	if isOffset, offset := json.SyntaxErrorOffset(err); isOffset {
		return nil, fault.New(fault.Invalid, "not valid JSON: %v", err).At("", lineAt(content, int(offset)))
	}
	if err != nil {
		return nil, fault.New(fault.Invalid, "not valid JSON: %v", err).At("", start)
	}
	if len(strict) > 0 {
		return nil, fault.New(fault.Invalid, "%v", strict[0]).At("", start)
	}
	value, err := b.jsonable(raw, 0)
	if err != nil {
		return nil, err
	}
	return expand(nil, value, start, nil, b, 0)
}

// lineAt returns the 1-based line of an offset.
func lineAt(content []byte, offset int) int {
	return 1 + bytes.Count(content[:min(max(offset, 0), len(content))], []byte("\n"))
}

var yamlText = regexp.MustCompile(`^(?:yaml: )?(?:unmarshal errors:\s*)?(?:line (\d+): )?([^\n]*)`)

// unexpected begins what the library's parser complains of, whose lines it
// counts from zero; those of its scanner it counts from one.
const unexpected = "did not find expected "

// yamlFault turns an error of the YAML library into ours, with its line if the
// library gives one.
func yamlFault(err error) *fault.Error {
	m := yamlText.FindStringSubmatch(err.Error())
	line, err := strconv.Atoi(m[1])
	if err == nil && strings.HasPrefix(m[2], unexpected) {
		line++
	}
	if strings.Contains(m[2], "excessive aliasing") || strings.Contains(m[2], "exceeded max depth") {
		return fault.New(fault.Limit, "not accepted as YAML: %s", m[2]).At("", line)
	}
	return fault.New(fault.Invalid, "not valid YAML: %s", m[2]).At("", line)
}

// locate improves the line of a syntax error: in a block, the library names
// the line on which the block begins. The first line with which the error
// appears is nearer to what has to be mended.
func locate(content []byte, f *fault.Error) *fault.Error {
	if len(content) > 1<<20 || !strings.HasSuffix(f.Msg, unexpected+"key") && !strings.HasSuffix(f.Msg, unexpected+"'-' indicator") {
		return f
	}
	lines := bytes.SplitAfter(content, []byte("\n"))
	n := sort.Search(len(lines), func(n int) bool {
		err := syntax(bytes.Join(lines[:n+1], nil))
		return err != nil && yamlFault(err).Msg == f.Msg
	})
	return f.At("", n+1)
}

// syntax returns the first syntax error of a stream of documents.
func syntax(content []byte) error {
	decoder := yaml.NewDecoder(bytes.NewReader(content))
	for {
		var root yaml.Node
		if err := decoder.Decode(&root); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// budget is what is left of what one rendering may give.
type budget struct {
	bytes   int64 // of output
	objects int
}

func newBudget() *budget { return &budget{bytes: maxOutput, objects: maxObjects} }

func (b *budget) count() *fault.Error {
	if b.objects--; b.objects < 0 {
		return fault.New(fault.Limit, "there are more than %d objects", maxObjects)
	}
	return nil
}

func (b *budget) spend(n int) error {
	if b.bytes -= int64(n); b.bytes < 0 {
		return fault.New(fault.Limit, "the objects have more than %d MiB", maxOutput>>20)
	}
	return nil
}

// jsonable returns v in the types that JSON decodes to, and takes its size from
// the budget before anybody writes it out: aliases make large values of small files.
func (b *budget) jsonable(v any, depth int) (any, error) {
	if depth > maxDepth {
		return nil, fault.New(fault.Limit, "the document nests deeper than %d levels", maxDepth)
	}
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for key, item := range v {
			if err := b.spend(len(key) + 4); err != nil {
				return nil, err
			}
			value, err := b.jsonable(item, depth+1)
			if err != nil {
				return nil, err
			}
			out[key] = value
		}
		return out, nil
	case []any:
		out := make([]any, len(v))
		for i, item := range v {
			value, err := b.jsonable(item, depth+1)
			if err != nil {
				return nil, err
			}
			out[i] = value
		}
		return out, b.spend(len(v) + 2)
	case string:
		return v, b.spend(len(v) + 2)
	}
	return b.number(v)
}

func (b *budget) number(v any) (any, error) {
	if err := b.spend(8); err != nil {
		return nil, err
	}
	switch v := v.(type) {
	case nil, bool, int64:
		return v, nil
	case int:
		return int64(v), nil
	case uint64:
		return float64(v), nil
	case float64:
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return nil, fault.New(fault.Invalid, "%v is not a number that JSON knows", v)
		}
		return v, nil
	}
	return nil, fault.New(fault.Invalid, "a value of type %T has no place in an object", v)
}
