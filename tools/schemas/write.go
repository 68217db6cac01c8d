package main

import (
	"maps"
	"slices"
	"strings"
)

// writer turns the schemas of a release into the forms of the file, and with each what it leads to.
type writer struct {
	schemas map[string]*schema
	enums   *source
	filled  map[string]bool
	done    map[string]string // the fields of each type
}

// define writes the fields of a type.
func (w *writer) define(name string) {
	if _, done := w.done[name]; done {
		return
	}
	w.done[name] = "" // a type may lead back to itself
	s := w.schemas[name]
	var b strings.Builder
	for _, field := range slices.Sorted(maps.Keys(s.Properties)) {
		b.WriteString(" " + field)
		if slices.Contains(s.Required, field) && !w.filled[structOf(name)+" "+field] {
			b.WriteString("!")
		}
		b.WriteString(" " + w.form(s.Properties[field]))
		if allowed := w.enums.allowed(name, field); len(allowed) > 0 {
			b.WriteString("=" + strings.Join(allowed, "|"))
		}
		b.WriteString("\n")
	}
	w.done[name] = b.String()
}

// scalars are the forms of types that have no parts, by type and format.
var scalars = map[string]string{
	"string": "s", "string byte": "x", "string date-time": "t", "boolean": "b", "number": "n", "number double": "n",
	"integer": "l", "integer int64": "l", "integer int32": "i", " int-or-string": "u",
}

// form writes a schema where it is used.
func (w *writer) form(s *schema) string {
	if len(s.AllOf) == 1 {
		return w.form(s.AllOf[0])
	}
	if s.Ref != "" {
		name := s.Ref[strings.LastIndexByte(s.Ref, '/')+1:]
		if strings.HasSuffix(name, ".resource.Quantity") {
			return "q"
		}
		if target := w.schemas[name]; len(target.Properties) == 0 {
			return w.form(target)
		}
		w.define(name)
		return "@" + name
	}
	if scalar, ok := scalars[strings.TrimRight(s.Type+" "+s.Format, " ")]; ok {
		return scalar
	}
	switch {
	case s.Items != nil:
		return "[" + w.form(s.Items)
	case s.Values != nil:
		return "{" + w.form(s.Values)
	case s.Type == "object":
		return "{*"
	default:
		return "*"
	}
}
