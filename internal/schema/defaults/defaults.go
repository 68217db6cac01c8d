// Package defaults completes objects of Kubernetes' own kinds with what the API
// server would set where they leave a field out, so that whoever judges an object
// before it is sent judges what would be stored.
//
// The table is made from the server's own defaulting functions, see
// docs/design/schemas.md; what depends on more than one field is a rule in
// rules.go. What a cluster decides by its configuration or allocates is not here:
// cluster IPs, node ports, storage classes, priorities, tolerations.
package defaults

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
)

//go:embed table.txt
var text string

// shape is a type of the API, as far as it has defaults.
type shape struct {
	name   string
	fields []field
}

// field is a field of a type that has a default, or in which there are some.
type field struct {
	name    string
	step    string // "[]" for a list of link, "{}" for a map
	plain   bool   // an empty value is the same as none
	value   any    // nil: none
	only    map[string]bool
	depends rule
	link    *shape
}

// table is what the text says: the type of each kind, by "apiVersion/kind".
type table struct {
	kinds map[string]*shape
	types map[string]*shape
}

// loaded reads the table on first use.
var loaded = sync.OnceValue(func() *table {
	t, err := parse(text)
	if err != nil {
		panic(err) // the table is part of the program, and a test reads it
	}
	return t
})

// parse reads a table in the format that its head explains.
func parse(text string) (*table, error) {
	t := &table{kinds: map[string]*shape{}, types: map[string]*shape{}}
	var current *shape
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		rest, isKind := strings.CutPrefix(line, "kind ")
		entry, isField := strings.CutPrefix(line, "  ")
		switch {
		case line == "" || line[0] == '#':
		case isKind:
			words := strings.Fields(rest) // version, kind, ":", type
			if len(words) != 4 {
				return nil, fmt.Errorf("defaults: %q is no kind", line)
			}
			t.kinds[words[0]+"/"+words[1]] = t.shape(words[3])
		case isField && current != nil:
			f, err := t.field(current.name, entry)
			if err != nil {
				return nil, err
			}
			current.fields = append(current.fields, f)
		default:
			current = t.shape(line)
		}
	}
	return t, nil
}

// shape returns the type of a name, made on first mention.
func (t *table) shape(name string) *shape {
	s, ok := t.types[name]
	if !ok {
		s = &shape{name: name}
		t.types[name] = s
	}
	return s
}

// field reads one line of a type: its name, then what is in it, then its value.
func (t *table) field(of, line string) (field, error) {
	name, rest, _ := strings.Cut(line, " ")
	f := field{}
	name, f.plain = strings.CutSuffix(name, "~")
	for _, step := range []string{"[]", "{}"} {
		if bare, ok := strings.CutSuffix(name, step); ok {
			name, f.step = bare, step
		}
	}
	f.name = name
	if link, ok := strings.CutPrefix(rest, ": "); ok {
		link, rest, _ = strings.Cut(link, " ")
		f.link = t.shape(link)
	}
	if strings.HasPrefix(rest, "? ") {
		f.depends = rules[of+" "+name]
		return f, nil
	}
	value, given := strings.CutPrefix(rest, "= ")
	if !given {
		return f, nil
	}
	value, kinds, some := strings.Cut(value, " in ")
	if some {
		f.only = map[string]bool{}
		for kind := range strings.SplitSeq(kinds, ",") {
			f.only[kind] = true
		}
	}
	if err := json.Unmarshal([]byte(value), &f.value); err != nil {
		return field{}, fmt.Errorf("defaults: %s of %s: %w", name, of, err)
	}
	f.value = whole(f.value)
	return f, nil
}

// whole turns the numbers of a value, of which the table has whole ones only, into
// those of Kubernetes' objects.
func whole(v any) any {
	switch v := v.(type) {
	case float64:
		return int64(v)
	case []any:
		for i := range v {
			v[i] = whole(v[i])
		}
	case map[string]any:
		for key := range v {
			v[key] = whole(v[key])
		}
	}
	return v
}

// Complete sets in o, in place, what the API server would set in it: nothing in
// objects of kinds that it does not know. Fields of the wrong type are left as
// they are; to complete an object twice changes nothing.
func Complete(o map[string]any) {
	version, _ := o["apiVersion"].(string)
	kind, _ := o["kind"].(string)
	s, known := loaded().kinds[version+"/"+kind]
	if !known {
		return
	}
	n := &node{kind: version + "/" + kind, shape: s, o: o}
	if set := ofMetadata[n.kind]; set != nil {
		set(o)
	}
	n.complete()
}

// node is one place in an object: what is there, how it is reached, and what it is.
type node struct {
	kind  string // of the whole object, "apiVersion/kind"
	shape *shape
	at    string // the field of up that leads here
	o     map[string]any
	up    *node
}

func (n *node) complete() {
	for _, f := range n.shape.fields {
		n.set(f)
	}
	for _, f := range n.shape.fields {
		if f.link != nil {
			n.descend(f)
		}
	}
}

// set gives a field its default. What depends on other fields sees them as they
// are by then: those with a name before its own are complete.
func (n *node) set(f field) {
	value := f.value
	if f.depends != nil {
		value = f.depends(n)
	}
	if value == nil || f.only != nil && !f.only[n.kind] {
		return
	}
	if f.absent(n.o) {
		n.o[f.name] = clone(value)
		return
	}
	given, isMap := n.o[f.name].(map[string]any)
	fill, isFill := value.(map[string]any)
	if f.depends == nil || f.step != "{}" || !isMap || !isFill {
		return
	}
	for key, v := range fill { // a rule about a map speaks of each of its keys
		if given[key] == nil {
			given[key] = clone(v)
		}
	}
}

func (f field) absent(o map[string]any) bool {
	v := o[f.name]
	return v == nil || f.plain && empty(v)
}

// empty says whether a value is what Go has where there is none.
func empty(v any) bool {
	switch v := v.(type) {
	case string:
		return v == ""
	case bool:
		return !v
	case int64:
		return v == 0
	case int:
		return v == 0
	case float64:
		return v == 0
	case []any:
		return len(v) == 0
	case map[string]any:
		return len(v) == 0
	}
	return false
}

// descend completes what is in a field.
func (n *node) descend(f field) {
	below := func(v any) {
		if o, ok := v.(map[string]any); ok {
			(&node{kind: n.kind, shape: f.link, at: f.name, o: o, up: n}).complete()
		}
	}
	switch f.step {
	case "[]":
		items, _ := n.o[f.name].([]any)
		for _, item := range items {
			below(item)
		}
	case "{}":
		values, _ := n.o[f.name].(map[string]any)
		for _, value := range values {
			below(value)
		}
	default:
		below(n.o[f.name])
	}
}

// clone copies a value of the table or of the object, so that nothing is shared.
func clone(v any) any {
	switch v := v.(type) {
	case map[string]any:
		c := make(map[string]any, len(v))
		for key, value := range v {
			c[key] = clone(value)
		}
		return c
	case []any:
		c := make([]any, len(v))
		for i, value := range v {
			c[i] = clone(value)
		}
		return c
	}
	return v
}
