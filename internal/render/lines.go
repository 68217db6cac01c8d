package render

import (
	"bytes"
	"path"
)

// lineIndex tells where in a file its documents begin.
type lineIndex []lineEntry

type lineEntry struct {
	line       int
	kind, name string
}

// line returns the line of the document in a file from which kustomize made an
// object; 0 if that is not certain. Kustomize itself tells only the file.
func (b *build) line(file string, value map[string]any) int {
	ext := path.Ext(file)
	if ext != ".yaml" && ext != ".yml" {
		return 0
	}
	index, ok := b.lines[file]
	if !ok {
		if content, err := b.fs.readFile(file); err == nil && b.fs.over[file] == nil {
			index = indexLines(content)
		}
		b.lines[file] = index
	}
	kind, _ := value["kind"].(string)
	meta, _ := value["metadata"].(map[string]any)
	name, _ := meta["name"].(string)
	return index.line(kind, name)
}

// line returns the line of the only document of a kind, or the only one with
// that name too: a build may have changed the name.
func (l lineIndex) line(kind, name string) int {
	line, exact := 0, 0
	kinds, names := 0, 0
	for _, e := range l {
		if e.kind != kind {
			continue
		}
		line, kinds = e.line, kinds+1
		if e.name == name {
			exact, names = e.line, names+1
		}
	}
	switch {
	case kinds == 1:
		return line
	case names == 1:
		return exact
	}
	return 0
}

// indexLines finds kinds and names in block style by the text alone, which
// costs a tenth of parsing it. What is written otherwise has no line.
func indexLines(content []byte) lineIndex {
	var index lineIndex
	var doc lineEntry
	flush := func() {
		if doc.kind != "" {
			index = append(index, doc)
		}
		doc = lineEntry{}
	}
	n, inMeta := 0, false
	for line := range bytes.Lines(content) {
		n++
		line = bytes.TrimRight(line, " \t\r\n")
		if bytes.HasPrefix(line, []byte("---")) {
			flush()
			continue
		}
		text := bytes.TrimLeft(line, " ")
		if len(text) == 0 || text[0] == '#' {
			continue
		}
		if doc.line == 0 {
			doc.line = n
		}
		if key, value, ok := scalarField(text); ok && len(text) == len(line) {
			inMeta = key == "metadata"
			if key == "kind" {
				doc.kind = value
			}
		} else if ok && inMeta && key == "name" && doc.name == "" {
			doc.name = value
		}
	}
	flush()
	return index
}

// scalarField reads "key: value" of one line.
func scalarField(text []byte) (key, value string, ok bool) {
	k, v, ok := bytes.Cut(text, []byte(":"))
	v, _, _ = bytes.Cut(v, []byte(" #"))
	return string(k), string(bytes.Trim(v, ` "'`)), ok
}
