package rego

import (
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

// bare is the name by which an exception calls a rule: without its prefix, so that plain
// deny is the empty text.
func bare(name string) string {
	_, rest, _ := strings.Cut(name, "_")
	return rest
}

// excused returns the rules, as package/name, that a package's own rule exception excuses
// for this input: conftest asks data.<package>.exception[_][_] == name.
func (u *unit) excused(said reply) map[string]bool {
	var all map[string]bool
	for i, values := range said.values {
		r := &u.rules[i]
		if !r.exception {
			continue
		}
		each(values[0], func(list *ast.Term) {
			each(list.Value, func(name *ast.Term) {
				if text, ok := name.Value.(ast.String); ok {
					if all == nil {
						all = map[string]bool{}
					}
					all[r.policy+"/"+string(text)] = true
				}
			})
		})
	}
	return all
}

// each calls f with what [_] stands for: the elements of a set or list, or the values of
// an object.
func each(v ast.Value, f func(*ast.Term)) {
	switch v := v.(type) {
	case ast.Set:
		v.Foreach(f)
	case *ast.Array:
		v.Foreach(f)
	case ast.Object:
		v.Foreach(func(_, value *ast.Term) { f(value) })
	}
}
