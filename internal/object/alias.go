package object

import (
	"bytes"
	"errors"
	"io"
	"slices"

	"go.yaml.in/yaml/v3"
)

// Aliased reports whether YAML text uses aliases, in which a few bytes stand for as
// many as one likes: whoever unfolds such text outside of a worker must not. It is
// also true of text that cannot be read, and never of text that cannot hold an alias.
func Aliased(text []byte) bool {
	if bytes.IndexByte(text, '&') < 0 || bytes.IndexByte(text, '*') < 0 {
		return false
	}
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	for {
		var root yaml.Node
		err := decoder.Decode(&root)
		if errors.Is(err, io.EOF) {
			return false
		}
		if err != nil || hasAlias(&root) {
			return true
		}
	}
}

// hasAlias looks at each node once: an alias is a node of its own.
func hasAlias(n *yaml.Node) bool {
	if n.Kind == yaml.AliasNode {
		return true
	}
	return slices.ContainsFunc(n.Content, hasAlias)
}
