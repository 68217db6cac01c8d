package sops

import (
	"bytes"
	"errors"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/holdfastcd/holdfast/internal/fault"
)

// document is one of the YAML documents of a file.
type document struct {
	text   []byte     // as committed, with the marker that begins it
	root   *yaml.Node // its mapping; nil for an empty document
	mac    string     // the MAC of its metadata; "" for none
	sealed bool       // has metadata
	left   bool       // is to be left sealed
}

// separator begins a document wherever it stands at the beginning of a line: neither
// quoted nor block scalars may contain it there (YAML 1.2, 9.1.2).
var separator = regexp.MustCompile(`(?m)^---(?:[ \t\r\n]|$)`)

// split parts a file where its documents begin. Nothing is lost: the parts, one after
// the other, are the file.
func split(content []byte) [][]byte {
	var parts [][]byte
	from := 0
	for _, at := range separator.FindAllIndex(content, maxDocuments+1) {
		if at[0] > from {
			parts = append(parts, content[from:at[0]])
		}
		from = at[0]
	}
	return append(parts, content[from:])
}

// documents reads the documents of a sealed file. Errors: Invalid, Limit, Refused.
func documents(content []byte) ([]document, error) {
	parts := split(content)
	if len(parts) > maxDocuments {
		return nil, fault.New(fault.Limit, "the sealed file has more than %d documents", maxDocuments)
	}
	all := make([]document, 0, len(parts))
	budget := maxItems
	for _, part := range parts {
		d, err := parseDocument(part)
		if err != nil {
			return nil, err
		}
		if err := d.check(&budget); err != nil {
			return nil, err
		}
		all = append(all, d)
	}
	return all, nil
}

// parseDocument reads one document. What the library reads must be what was looked
// at here: a part that holds two is refused.
func parseDocument(text []byte) (document, error) {
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	var root, more yaml.Node
	switch err := decoder.Decode(&root); {
	case errors.Is(err, io.EOF):
		return document{text: text}, nil
	case err != nil:
		return document{}, syntaxOf(formatYAML, err)
	}
	if err := decoder.Decode(&more); !errors.Is(err, io.EOF) {
		return document{}, fault.New(fault.Invalid, "documents of a sealed file are parted by lines of \"---\", and by nothing else")
	}
	d := document{text: text}
	if root.Kind != yaml.DocumentNode || len(root.Content) != 1 {
		return d, nil
	}
	d.root = root.Content[0]
	metadata := child(d.root, "sops")
	d.sealed = metadata != nil && metadata.Kind == yaml.MappingNode
	if d.sealed {
		if mac := child(metadata, "mac"); mac != nil {
			d.mac = mac.Value
		}
		d.left = disabled(d.root)
	}
	return d, nil
}

// lineOf finds the line in an error of the YAML library, whose text may quote values.
var lineOf = regexp.MustCompile(`line (\d+)`)

func syntaxOf(f format, err error) *fault.Error {
	bad := fault.New(fault.Invalid, "the file is sealed, and cannot be read as %s", f)
	if m := lineOf.FindStringSubmatch(err.Error()); m != nil {
		if n, convErr := strconv.Atoi(m[1]); convErr == nil {
			bad.Line = n
		}
	}
	return bad
}

// check holds a document to bounds, and to what the library writes: it would follow
// an alias in any but the first document for ever.
func (d document) check(budget *int) error {
	if d.root == nil {
		return nil
	}
	if d.sealed {
		return walk(d.root, 0, budget)
	}
	if hasValue(d.root, 0) {
		return fault.New(fault.Refused, "the document has sealed values, but no sops metadata").
			WithHint("restore it as it was sealed")
	}
	return nil
}

// tags are those that the library writes, where the text of a value is not enough.
var tags = []string{"!!binary", "!!float", "!!timestamp"}

func walk(n *yaml.Node, depth int, budget *int) error {
	*budget--
	switch {
	case *budget < 0:
		return fault.New(fault.Limit, "the sealed file has more than %d values", maxItems)
	case n.Kind == yaml.MappingNode && len(n.Content) > 2*maxKeyNames:
		return fault.New(fault.Limit, "a mapping of the sealed file has more than %d names", maxKeyNames)
	case depth > maxDepth:
		return fault.New(fault.Limit, "the sealed file nests deeper than %d levels", maxDepth)
	case n.Kind == yaml.AliasNode:
		bad := fault.New(fault.Invalid, "the sealed file has a YAML alias").WithHint("write the value out: sealed files have no aliases")
		bad.Line = n.Line
		return bad
	}
	if n.Style&yaml.TaggedStyle != 0 && !slices.Contains(tags, n.ShortTag()) {
		bad := fault.New(fault.Invalid, "the sealed file has a YAML tag that SOPS does not write")
		bad.Line = n.Line
		return bad
	}
	for _, c := range n.Content {
		if err := walk(c, depth+1, budget); err != nil {
			return err
		}
	}
	return nil
}

// hasValue reports whether a sealed value is below n. Aliases are not followed: what
// they stand for is below n, too.
func hasValue(n *yaml.Node, depth int) bool {
	if n.Kind == yaml.ScalarNode {
		return value.MatchString(n.Value)
	}
	for _, c := range n.Content {
		if depth < 10*maxDepth && hasValue(c, depth+1) {
			return true
		}
	}
	return false
}

// yamlSealed reports whether a file without metadata where they should be has a
// sealed value. What is no YAML, such as a template, is judged by its text.
func yamlSealed(content []byte) bool {
	decoder := yaml.NewDecoder(bytes.NewReader(content))
	for {
		var root yaml.Node
		switch err := decoder.Decode(&root); {
		case errors.Is(err, io.EOF):
			return false
		case err != nil:
			return textSealed(content)
		case hasValue(&root, 0):
			return true
		}
	}
}

// child returns the value of a key of a mapping, nil if there is none.
func child(n *yaml.Node, key string) *yaml.Node {
	if n == nil || n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i+1]
		}
	}
	return nil
}

// Flux's mark, an annotation or a label, on an object that is to stay sealed.
const decryptMark = "kustomize.toolkit.fluxcd.io/decrypt"

func disabled(root *yaml.Node) bool {
	metadata := child(root, "metadata")
	for _, where := range []string{"annotations", "labels"} {
		if v := child(child(metadata, where), decryptMark); v != nil && strings.EqualFold(v.Value, "disabled") {
			return true
		}
	}
	return false
}
