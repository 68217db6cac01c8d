package rego

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/open-policy-agent/opa/v1/ast"
)

// message is one thing that a rule says.
type message struct{ text, severity string }

// messages reads what a rule gives: texts, or objects with a text in msg.
func (r *rule) messages(values []ast.Value) ([]message, error) {
	var all []message
	var failed error
	for _, v := range values {
		list := []ast.Value{v}
		if !r.set {
			list = unpack(v)
		}
		for _, item := range list {
			m, err := messageOf(item)
			if err != nil {
				failed = cmp.Or(failed, err)
				continue
			}
			all = append(all, m)
		}
	}
	slices.SortFunc(all, func(a, b message) int {
		return cmp.Or(cmp.Compare(a.text, b.text), cmp.Compare(a.severity, b.severity))
	})
	return slices.Compact(all), failed
}

// unpack returns the messages in the value of a rule that is no partial set: those of a
// set or list, or the value itself. true is a message too: conftest takes a rule without
// messages for one that passes, and nobody who writes one means that.
func unpack(v ast.Value) []ast.Value {
	var list []ast.Value
	switch v := v.(type) {
	case ast.Null:
	case ast.Boolean:
		if v {
			list = append(list, ast.String("the rule holds, and gives no message"))
		}
	case ast.Set, *ast.Array:
		each(v, func(t *ast.Term) { list = append(list, t.Value) })
	case ast.Object:
		if v.Len() > 0 {
			list = append(list, v)
		}
	default:
		list = append(list, v)
	}
	return list
}

func messageOf(v ast.Value) (message, error) {
	switch v := v.(type) {
	case ast.String:
		return message{text: string(v)}, nil
	case ast.Object:
		text, ok := textAt(v, "msg")
		if !ok {
			return message{}, fmt.Errorf("it gives an object without a text in msg: %s", oneLine(v.String()))
		}
		severity, _ := textAt(v, "severity")
		return message{text, severityOf(severity)}, nil
	}
	return message{}, fmt.Errorf("it gives %s, where a text or an object with msg is wanted", oneLine(v.String()))
}

func textAt(o ast.Object, key string) (string, bool) {
	t := o.Get(ast.InternedTerm(key))
	if t == nil {
		return "", false
	}
	text, ok := t.Value.(ast.String)
	return string(text), ok
}
