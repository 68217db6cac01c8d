package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
)

// absent stands for a field that is not there in the stored object either.
const absent = ""

// seen are the values that one field had where it was left out, by kind.
type seen map[string]map[string]bool

// observations are what was seen of the fields of a type.
type observations struct {
	of    map[reflect.Type]map[string]seen
	links map[reflect.Type]bool // types with something to say, here or below
}

// record notes what the server made of in. Both are of type t; in may be nil, where the server made the whole of out.
func (o *observations) record(kind string, t reflect.Type, in, out map[string]any) {
	for _, f := range fieldsOf(t) {
		was, is := in[f.name], out[f.name]
		if was == nil {
			o.add(t, f, kind, is)
		}
		if f.node != nil && is != nil {
			o.below(kind, f, was, is)
		}
	}
}

// below records what is in the value of a field.
func (o *observations) below(kind string, f field, was, is any) {
	switch f.step {
	case "[]":
		from, to := asList(was), asList(is)
		for i := range min(len(from), len(to)) {
			o.record(kind, f.node, asMap(from[i]), asMap(to[i]))
		}
	case "{}":
		from, to := asMap(was), asMap(is)
		for key := range from {
			o.record(kind, f.node, asMap(from[key]), asMap(to[key]))
		}
	default:
		o.record(kind, f.node, asMap(was), asMap(is))
	}
}

func asMap(v any) map[string]any { m, _ := v.(map[string]any); return m }
func asList(v any) []any         { l, _ := v.([]any); return l }

func (o *observations) add(t reflect.Type, f field, kind string, value any) {
	text := absent
	switch {
	case value == nil:
	case value == "":
		// An empty string is what a missing one looks like to the server too. It says nothing, and much of what would be
		// listed is required.
	case f.typ.Name() == "Time":
		// The time of the request is no default that could be told beforehand.
	case f.node != nil && f.step == "":
		text = "{}" // what is in it is said of its own type
	default:
		data, err := json.Marshal(value)
		if err != nil {
			panic(err) // it comes from JSON
		}
		text = string(data)
	}
	if o.of[t] == nil {
		o.of[t] = map[string]seen{}
	}
	if o.of[t][f.name] == nil {
		o.of[t][f.name] = seen{}
	}
	if o.of[t][f.name][kind] == nil {
		o.of[t][f.name][kind] = map[string]bool{}
	}
	o.of[t][f.name][kind][text] = true
}

// rule says what the table says of a field: nothing, one value, or that it depends. The values of some kinds alone come with
// these kinds.
func (s seen) rule() string {
	all := map[string]bool{}
	varies := false
	for _, values := range s {
		maps.Copy(all, values)
		varies = varies || len(values) > 1
	}
	switch {
	case len(all) == 1 && all[absent]:
		return ""
	case len(all) == 1:
		return " = " + slices.Sorted(maps.Keys(all))[0]
	case !varies && len(all) == 2 && all[absent]:
		return s.some()
	}
	delete(all, absent)
	return " ? " + strings.Join(slices.Sorted(maps.Keys(all)), " ")
}

// some is the rule of a field that has one value in some kinds, and none in the others.
func (s seen) some() string {
	value := ""
	var kinds []string
	for kind, values := range s {
		if !values[absent] {
			value = slices.Sorted(maps.Keys(values))[0]
			kinds = append(kinds, kind)
		}
	}
	slices.Sort(kinds)
	return " = " + value + " in " + strings.Join(kinds, ",")
}

// header explains the table to its readers.
const header = `# What the API server sets in objects that leave fields out. Made by "make schemas"; do not edit.
#
#   kind VERSION KIND : TYPE     objects of this kind are of this type
#   FIELD = VALUE                the field has this value where it is absent
#   FIELD = VALUE in KINDS       only in objects of these kinds
#   FIELD ? VALUES               it depends: a rule in rules.go says which value, if any
#   FIELD : TYPE                 what is in the field is of this type
#
# [] are the items of a list, {} the values of a map; ~ says that an empty value is the same as none.

`

// writeTable infers the table and prints it.
func writeTable(out *bufio.Writer, s *server, g *generator, count int) error {
	o := &observations{of: map[reflect.Type]map[string]seen{}, links: map[reflect.Type]bool{}}
	for _, k := range s.kinds {
		g.each(k, count, func(in map[string]any) {
			if stored, err := s.store(k, in); err == nil {
				o.record(k.gvk.GroupVersion().String()+"/"+k.gvk.Kind, k.typ, in, stored)
			}
		})
	}
	fmt.Fprint(out, header)
	for _, k := range s.kinds {
		if o.says(k.typ, nil) {
			fmt.Fprintf(out, "kind %s %s : %s\n", k.gvk.GroupVersion(), k.gvk.Kind, nameOf(k.typ))
		}
	}
	types := slices.SortedFunc(maps.Keys(o.links), func(a, b reflect.Type) int { return strings.Compare(nameOf(a), nameOf(b)) })
	for _, t := range types {
		fmt.Fprintf(out, "\n%s\n", nameOf(t))
		for _, f := range fieldsOf(t) {
			o.writeField(out, t, f)
		}
	}
	return nil
}

// says reports whether the table has anything on a type or below it, and remembers those of which it has.
func (o *observations) says(t reflect.Type, above []reflect.Type) bool {
	if slices.Contains(above, t) {
		return false
	}
	above = append(above[:len(above):len(above)], t)
	found := false
	for _, f := range fieldsOf(t) {
		if f.node != nil && o.says(f.node, above) {
			found = true
		}
		if o.of[t][f.name].rule() != "" {
			found = true
		}
	}
	if found {
		o.links[t] = true
	}
	return found
}

func (o *observations) writeField(out *bufio.Writer, t reflect.Type, f field) {
	rule := o.of[t][f.name].rule()
	link := ""
	if f.node != nil && o.links[f.node] {
		link = " : " + nameOf(f.node)
	}
	if rule == "" && link == "" {
		return
	}
	name := f.name + f.step
	if rule != "" && f.plain {
		name += "~"
	}
	fmt.Fprintf(out, "  %s%s%s\n", name, link, rule)
}

// writeSamples prints pairs of what is sent and what is stored.
func writeSamples(out *bufio.Writer, s *server, g *generator, count int) error {
	encoder := json.NewEncoder(out)
	var failed error
	for _, k := range s.kinds {
		g.each(k, count, func(in map[string]any) {
			if stored, err := s.store(k, in); err == nil && failed == nil {
				failed = encoder.Encode([]any{in, stored})
			}
		})
	}
	return failed
}
