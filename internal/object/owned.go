package object

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Owned is a set of fields of one object, in the form of managedFields (FieldsV1):
// "f:name" leads to a field, "k:{…}" to an item of a list by its key, "v:…" to an
// item by its value; "." is the map or item itself, beside what is below it. An
// empty set below a step is a field with all that it holds.
type Owned map[string]any

// Path is the way to one field, in the steps of [Owned]; "i:n" is an item of a
// list by its index.
type Path []string

// ParseOwned reads a FieldsV1.
func ParseOwned(raw []byte) (Owned, error) {
	var o Owned
	if err := json.Unmarshal(raw, &o); err != nil {
		return nil, fmt.Errorf("managedFields: %w", err)
	}
	return o, nil
}

// OwnedIn returns the fields in entries of managedFields; one that cannot be read
// has none.
func OwnedIn(entries []metav1.ManagedFieldsEntry) Owned {
	all := Owned{}
	for _, e := range entries {
		if e.FieldsV1 == nil {
			continue
		}
		if fields, err := ParseOwned(e.FieldsV1.GetRawBytes()); err == nil {
			all = all.Union(fields)
		}
	}
	return all
}

// Union returns the fields of both sets; neither changes.
func (o Owned) Union(other Owned) Owned {
	sum := maps.Clone(o)
	if sum == nil {
		sum = Owned{}
	}
	for step, theirs := range other {
		mine, both := sum[step]
		if !both {
			sum[step] = theirs
			continue
		}
		a, b := below(mine), below(theirs)
		both = len(a) == 0 || len(b) == 0
		united := a.Union(b)
		if both && len(united) > 0 {
			united["."] = map[string]any{} // the field itself was in one of them
		}
		sum[step] = map[string]any(united)
	}
	return sum
}

// Without returns o without the field that path leads to, and what it holds. A
// field with all that it holds stays whole.
func (o Owned) Without(path ...string) Owned {
	if len(path) == 0 {
		return Owned{}
	}
	next, ok := o[path[0]]
	child := below(next)
	if !ok || len(path) > 1 && len(child) == 0 {
		return o
	}
	rest := maps.Clone(o)
	delete(rest, path[0])
	if len(path) > 1 {
		if child = child.Without(path[1:]...); len(child) > 0 {
			rest[path[0]] = map[string]any(child)
		}
	}
	return rest
}

// Within returns the part of o that content has.
func (o Owned) Within(content any) Owned {
	part := Owned{}
	for step, v := range o {
		if step == "." {
			part[step] = v
			continue
		}
		value, ok := follow(content, step)
		if !ok {
			continue
		}
		child := below(v)
		if len(child) == 0 {
			part[step] = v
		} else if child = child.Within(value); len(child) > 0 {
			part[step] = map[string]any(child)
		}
	}
	return part
}

// Leaves returns the paths of o that end at a field with all that it holds, in order.
func (o Owned) Leaves() []Path {
	var leaves []Path
	for _, step := range slices.Sorted(maps.Keys(o)) {
		if step == "." {
			continue
		}
		deeper := below(o[step]).Leaves()
		if len(deeper) == 0 {
			leaves = append(leaves, Path{step})
		}
		for _, d := range deeper {
			leaves = append(leaves, append(Path{step}, d...))
		}
	}
	return leaves
}

// Has reports whether the field at path, or one that it holds, is in o.
func (o Owned) Has(path Path) bool {
	for _, step := range path {
		next, ok := o[step]
		if !ok {
			return false
		}
		if o = below(next); len(o) == 0 {
			return true // with all that it holds
		}
	}
	return true
}

// Locate turns a way through content, of field names and list indexes, into a
// path: an item is found by the key under which o knows it. Where a list is owned
// as a whole, the path ends there. It reports false where o knows the list by its
// items, and not this one.
func (o Owned) Locate(content any, way []any) (Path, bool) {
	path := make(Path, 0, len(way))
	for _, w := range way {
		var step string
		switch w := w.(type) {
		case string:
			step = "f:" + w
			fields, _ := content.(map[string]any)
			content = fields[w]
		case int:
			items, _ := content.([]any)
			if w < 0 || w >= len(items) {
				return nil, false
			}
			content = items[w]
			var keyed bool
			if step, keyed = o.stepTo(content); step == "" {
				return path, !keyed
			}
		}
		path = append(path, step)
		o = below(o[step])
	}
	return path, true
}

// stepTo is how o knows an item of a list; empty if it does not. It reports
// whether o knows any.
func (o Owned) stepTo(item any) (step string, keyed bool) {
	for _, step := range slices.Sorted(maps.Keys(o)) {
		if isItem(step, item) {
			return step, true
		}
		keyed = keyed || strings.HasPrefix(step, "k:") || strings.HasPrefix(step, "v:")
	}
	return "", keyed
}

// PathOf turns a way of field names and list indexes into a path by indexes.
func PathOf(way []any) Path {
	path := make(Path, 0, len(way))
	for _, w := range way {
		switch w := w.(type) {
		case string:
			path = append(path, "f:"+w)
		case int:
			path = append(path, "i:"+strconv.Itoa(w))
		}
	}
	return path
}

func below(v any) Owned {
	switch v := v.(type) {
	case Owned:
		return v
	case map[string]any:
		return v
	}
	return nil
}

// isItem reports whether step names item by key or value. Key fields that are not
// written have defaults, so that they may be anything.
func isItem(step string, item any) bool {
	text, byKey := strings.CutPrefix(step, "k:")
	if !byKey {
		text, byValue := strings.CutPrefix(step, "v:")
		var value any
		return byValue && json.Unmarshal([]byte(text), &value) == nil && fmt.Sprint(value) == fmt.Sprint(item)
	}
	fields, ok := item.(map[string]any)
	var key map[string]any
	if !ok || json.Unmarshal([]byte(text), &key) != nil {
		return false
	}
	known := false
	for name, want := range key {
		got, written := fields[name]
		if written && fmt.Sprint(got) != fmt.Sprint(want) {
			return false
		}
		known = known || written
	}
	return known
}

// follow goes one step into content.
func follow(content any, step string) (any, bool) {
	if name, ok := strings.CutPrefix(step, "f:"); ok {
		fields, _ := content.(map[string]any)
		v, ok := fields[name]
		return v, ok
	}
	items, _ := content.([]any)
	if i := indexOf(items, step); i >= 0 {
		return items[i], true
	}
	return nil, false
}

// indexOf finds the item that step names; -1 if there is none.
func indexOf(items []any, step string) int {
	if n, ok := strings.CutPrefix(step, "i:"); ok {
		i, err := strconv.Atoi(n)
		if err != nil || i < 0 || i >= len(items) {
			return -1
		}
		return i
	}
	return slices.IndexFunc(items, func(item any) bool { return isItem(step, item) })
}

// Owned returns the set of the one field at p, with all that it holds.
func (p Path) Owned() Owned {
	set := Owned{}
	for _, step := range slices.Backward(p) {
		set = Owned{step: map[string]any(set)}
	}
	return set
}

// Get returns what content has at p.
func (p Path) Get(content any) (any, bool) {
	for _, step := range p {
		next, ok := follow(content, step)
		if !ok {
			return nil, false
		}
		content = next
	}
	return content, true
}

// Delete removes from content what is at p, and maps that become empty by it.
func (p Path) Delete(content map[string]any) {
	if len(p) > 0 {
		remove(content, p)
	}
}

// remove returns container without what is at p.
func remove(container any, p Path) any {
	switch c := container.(type) {
	case map[string]any:
		name := strings.TrimPrefix(p[0], "f:")
		child, ok := c[name]
		if !ok {
			return c
		}
		if len(p) > 1 {
			child = remove(child, p[1:])
			c[name] = child
		}
		if m, isMap := child.(map[string]any); len(p) == 1 || isMap && len(m) == 0 {
			delete(c, name)
		}
		return c
	case []any:
		i := indexOf(c, p[0])
		switch {
		case i < 0:
			return c
		case len(p) == 1:
			return slices.Delete(c, i, i+1)
		}
		c[i] = remove(c[i], p[1:])
		return c
	}
	return container
}

// Set puts value at p into content and makes the maps on the way. It reports
// false, and changes nothing, where an item of a list on the way is missing.
func (p Path) Set(content map[string]any, value any) bool {
	if len(p) == 0 {
		return false
	}
	for n, step := range p {
		if !strings.HasPrefix(step, "f:") {
			if _, ok := p[:n+1].Get(content); !ok {
				return false
			}
		}
	}
	var at any = content
	for _, step := range p[:len(p)-1] {
		next, ok := follow(at, step)
		if fields, isMap := at.(map[string]any); !ok && isMap {
			next = map[string]any{}
			fields[strings.TrimPrefix(step, "f:")] = next
		}
		at = next
	}
	last := p[len(p)-1]
	switch c := at.(type) {
	case map[string]any:
		c[strings.TrimPrefix(last, "f:")] = value
	case []any:
		c[indexOf(c, last)] = value
	default:
		return false
	}
	return true
}
