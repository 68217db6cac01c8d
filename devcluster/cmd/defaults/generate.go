package main

import (
	"math/rand/v2"
	"reflect"
	"strings"
)

// generator makes objects of a type, as JSON has them.
type generator struct {
	rand   *rand.Rand
	values constants
}

func newGenerator(seed uint64, values constants) *generator {
	return &generator{rand: rand.New(rand.NewPCG(seed, 0)), values: values} //nolint:gosec // test data
}

// depth is how far random objects go below where they begin.
const depth = 9

// several is how many random objects there are for each struct.
const several = 60

// each calls use with objects of a kind: for every struct in it, one that has nothing but the way there, one with each value
// of each field, and some with several; then random ones.
func (g *generator) each(k kind, random int, use func(map[string]any)) {
	g.nodes(k.typ, nil, func(o any) map[string]any {
		root, _ := o.(map[string]any)
		return named(k, root)
	}, use)
	for range random {
		root, _ := g.fill(k.typ, depth, 0.3).(map[string]any)
		use(named(k, root))
	}
}

// named gives an object its kind and a name.
func named(k kind, o map[string]any) map[string]any {
	o["apiVersion"], o["kind"] = k.gvk.GroupVersion().String(), k.gvk.Kind
	o["metadata"] = map[string]any{"name": "x"}
	return o
}

// nodes goes through all structs below t; wrap puts one of t into an object.
func (g *generator) nodes(t reflect.Type, above []reflect.Type, wrap func(any) map[string]any, use func(map[string]any)) {
	for _, seen := range above {
		if seen == t {
			return
		}
	}
	above = append(above[:len(above):len(above)], t)
	use(wrap(map[string]any{}))
	fields := fieldsOf(t)
	for _, f := range fields {
		for _, v := range g.candidates(f) {
			use(wrap(map[string]any{f.name: v}))
		}
	}
	for range several {
		use(wrap(g.fill(t, 2, 0.5)))
	}
	for _, f := range fields {
		if f.node != nil {
			g.nodes(f.node, above, func(o any) map[string]any { return wrap(map[string]any{f.name: f.around(o)}) }, use)
		}
	}
}

// around puts an item into what f holds.
func (f field) around(o any) any {
	switch f.step {
	case "[]":
		return []any{o}
	case "{}":
		return map[string]any{"k": o}
	default:
		return o
	}
}

// fill makes a struct that has each field with the given chance.
func (g *generator) fill(t reflect.Type, depth int, chance float64) any {
	o := map[string]any{}
	for _, f := range fieldsOf(t) {
		if g.rand.Float64() > chance {
			continue
		}
		if f.node != nil && depth > 0 {
			o[f.name] = f.around(g.fill(f.node, depth-1, chance))
			continue
		}
		all := g.candidates(f)
		o[f.name] = all[g.rand.IntN(len(all))]
	}
	if _, template := t.FieldByName("ObjectMeta"); template && g.rand.Float64() < chance {
		o["metadata"] = map[string]any{"labels": map[string]any{"app": "x"}}
	}
	return o
}

// candidates are values that f can have, never the zero value of a plain one.
func (g *generator) candidates(f field) []any {
	if f.node != nil {
		return []any{f.around(map[string]any{})}
	}
	t := f.typ
	switch {
	case t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Uint8:
		return []any{"eA=="}
	case t.Kind() == reflect.Slice:
		var all []any
		for _, v := range g.leaves(f.name, t.Elem()) {
			all = append(all, []any{v})
		}
		return all
	case t.Kind() == reflect.Map && t.Elem().Kind() == reflect.Slice && t.Elem().Elem().Kind() == reflect.Uint8:
		return []any{map[string]any{"k": "eA=="}}
	case t.Kind() == reflect.Map && t.Key().Name() == "ResourceName":
		return []any{map[string]any{"cpu": "1"}, map[string]any{"memory": "1Gi"}, map[string]any{"cpu": "2", "memory": "2Gi"}, map[string]any{}}
	case t.Kind() == reflect.Map:
		return []any{map[string]any{"k": g.leaves(f.name, t.Elem())[0]}}
	default:
		return g.leaves(f.name, t)
	}
}

// leaves are values of a type that is no struct, list or map.
func (g *generator) leaves(name string, t reflect.Type) []any {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if known, ok := leafTypes[t.Name()]; ok {
		return known
	}
	switch t.Kind() {
	case reflect.Bool:
		return []any{true, false}
	case reflect.Int32, reflect.Int64, reflect.Int, reflect.Uint8, reflect.Uint32, reflect.Float64:
		return []any{1, 7}
	case reflect.String:
		return g.texts(name, t)
	case reflect.Map:
		return []any{map[string]any{"k": "v"}}
	case reflect.Slice:
		return []any{[]any{}}
	default:
		return []any{map[string]any{}}
	}
}

// leafTypes are values of types whose JSON is their own.
var leafTypes = map[string][]any{
	"Quantity":     {"1", "2Gi"},
	"Time":         {"2020-01-01T00:00:00Z"},
	"MicroTime":    {"2020-01-01T00:00:00.000000Z"},
	"Duration":     {"5s"},
	"IntOrString":  {5, "30%"},
	"RawExtension": {map[string]any{}},
	"FieldsV1":     {map[string]any{}},
	"JSON":         {map[string]any{}},
}

// texts are values of a string, after its type or its name.
func (g *generator) texts(name string, t reflect.Type) []any {
	var all []any
	for _, v := range g.values[strings.TrimPrefix(nameOf(t), "meta/")] {
		all = append(all, v)
	}
	if len(all) > 0 {
		return all
	}
	switch name {
	case "image", "reference":
		return []any{"nginx", "nginx:1", "nginx:latest", "example.com:5000/a/b", "example.com/a@sha256:" + strings.Repeat("a", 64)}
	case "kind":
		return []any{"User", "Group", "ServiceAccount", "Thing"}
	default:
		return []any{"x"}
	}
}
