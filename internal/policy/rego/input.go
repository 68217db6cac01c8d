package rego

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/policy"
)

// maxDepth is how deep a value may nest; objects were read with a smaller bound.
const maxDepth = 200

// converter turns what JSON decodes to into OPA's values. Keys are the same few in all
// objects, and are kept. It is for one goroutine.
type converter struct{ keys map[string]*ast.Term }

func newConverter() *converter { return &converter{map[string]*ast.Term{}} }

// value converts a value. Unlike OPA's own conversion, it writes a whole number that was
// decoded to a float as a whole number, as it stands in the text.
func (c *converter) value(x any, depth int) (*ast.Term, error) {
	if depth > maxDepth {
		return nil, fault.New(fault.Limit, "a value nests deeper than %d levels", maxDepth)
	}
	switch x := x.(type) {
	case map[string]any:
		return c.object(x, depth)
	case []any:
		list := make([]*ast.Term, len(x))
		for i, item := range x {
			t, err := c.value(item, depth+1)
			if err != nil {
				return nil, err
			}
			list[i] = t
		}
		return ast.ArrayTerm(list...), nil
	case float64:
		if x == math.Trunc(x) && math.Abs(x) < 1<<53 {
			return ast.NumberTerm(json.Number(strconv.FormatInt(int64(x), 10))), nil
		}
	}
	v, err := ast.InterfaceToValue(x)
	if err != nil {
		return nil, fault.New(fault.Invalid, "a value cannot be given to a policy: %s", err)
	}
	return ast.NewTerm(v), nil
}

func (c *converter) object(x map[string]any, depth int) (*ast.Term, error) {
	pairs := make([][2]*ast.Term, 0, len(x))
	for key, item := range x {
		t, err := c.value(item, depth+1)
		if err != nil {
			return nil, err
		}
		pairs = append(pairs, [2]*ast.Term{c.key(key), t})
	}
	return ast.ObjectTerm(pairs...), nil
}

func (c *converter) key(key string) *ast.Term {
	const kept = 10_000
	t := c.keys[key]
	if t == nil {
		t = ast.StringTerm(key)
		if len(c.keys) < kept {
			c.keys[key] = t
		}
	}
	return t
}

// inputs are what rules are given for one subject, each made when it is first asked for.
type inputs struct {
	convert  *converter
	c        *policy.Case
	subject  *policy.Subject
	delivery *ast.Term // the same for all subjects
	object   *ast.Term
	request  *ast.Term
	made     [asReview]*ast.Term
}

// of returns the input of a shape.
func (in *inputs) of(s shape) (*ast.Term, error) {
	if in.made[s] != nil {
		return in.made[s], nil
	}
	object, err := in.theObject()
	if err != nil {
		return nil, err
	}
	var t *ast.Term
	switch s {
	case asDelivered:
		t = object
		if fields, ok := object.Value.(ast.Object); ok && fields.Get(in.convert.key("delivery")) == nil {
			merged, _ := fields.Merge(ast.NewObject(in.pair("delivery", in.delivery)))
			t = ast.NewTerm(merged)
		}
	case asRequest:
		request, err := in.theRequest()
		if err != nil {
			return nil, err
		}
		t = ast.ObjectTerm(
			in.pair("apiVersion", ast.StringTerm("admission.k8s.io/v1")), in.pair("kind", ast.StringTerm("AdmissionReview")),
			in.pair("request", request), in.pair("review", request), in.pair("delivery", in.delivery),
		)
	default:
		t = object
	}
	in.made[s] = t
	return t, nil
}

func (in *inputs) pair(key string, value *ast.Term) [2]*ast.Term {
	return [2]*ast.Term{in.convert.key(key), value}
}

func (in *inputs) theObject() (*ast.Term, error) {
	if in.object == nil {
		object, err := in.convert.object(in.subject.Object, 0)
		if err != nil {
			return nil, err
		}
		in.object = object
	}
	return in.object, nil
}

// theRequest is the admission request that the API server would make of the subject, as
// k8s.io/api/admission/v1.AdmissionRequest is written in JSON.
func (in *inputs) theRequest() (*ast.Term, error) {
	if in.request != nil {
		return in.request, nil
	}
	object, err := in.theObject()
	if err != nil {
		return nil, err
	}
	s := in.subject
	old, operation := ast.NullTerm(), "CREATE"
	if s.Old != nil {
		operation = "UPDATE"
		if old, err = in.convert.object(s.Old, 0); err != nil {
			return nil, err
		}
	}
	o := unstructured.Unstructured{Object: s.Object}
	gvk := o.GroupVersionKind()
	kind := map[string]any{"group": gvk.Group, "version": gvk.Version, "kind": gvk.Kind}
	resource := map[string]any{"group": gvk.Group, "version": gvk.Version, "resource": s.Resource}
	rest := map[string]any{
		"kind": kind, "requestKind": kind, "resource": resource, "requestResource": resource,
		"operation": operation, "name": o.GetName(), "dryRun": false, "options": nil, "userInfo": user(in.c.Delivery.Account),
	}
	if namespace := namespaceOf(s); namespace != "" {
		rest["namespace"] = namespace
		if labels, ok := in.c.Namespaces[namespace]; ok {
			object := namespaceObject(namespace, labels)
			rest["namespaceObject"] = object
			rest["_unstable"] = map[string]any{"namespace": object}
		}
	}
	t, err := in.convert.object(rest, 0)
	if err != nil {
		return nil, err
	}
	fields := t.Value.(ast.Object) //nolint:forcetypeassert // it was made here
	fields.Insert(in.convert.key("object"), object)
	fields.Insert(in.convert.key("oldObject"), old)
	in.request = t
	return t, nil
}

// namespaceOf is the namespace of a request. The API server says of a Namespace that it
// lies in itself.
func namespaceOf(s *policy.Subject) string {
	o := unstructured.Unstructured{Object: s.Object}
	if isNamespace(s) {
		return o.GetName()
	}
	return o.GetNamespace()
}

func isNamespace(s *policy.Subject) bool {
	return s.Object["apiVersion"] == "v1" && s.Object["kind"] == "Namespace"
}

func namespaceObject(name string, labels map[string]string) map[string]any {
	all := map[string]any{}
	for key, value := range labels {
		all[key] = value
	}
	return map[string]any{"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": name, "labels": all}}
}

// user is who applies, with the groups that the API server gives to every account.
func user(account string) map[string]any {
	groups := []any{"system:authenticated"}
	if rest, ok := strings.CutPrefix(account, "system:serviceaccount:"); ok {
		namespace, _, _ := strings.Cut(rest, ":")
		groups = []any{"system:serviceaccounts", "system:serviceaccounts:" + namespace, "system:authenticated"}
	}
	return map[string]any{"username": account, "groups": groups}
}

// deliveryTerm is who brings the case, for rules.
func deliveryTerm(c *converter, d policy.Delivery) (*ast.Term, error) {
	text, err := json.Marshal(d)
	if err != nil {
		return nil, fault.From(err)
	}
	var fields map[string]any
	if err := json.Unmarshal(text, &fields); err != nil {
		return nil, fault.From(err)
	}
	return c.object(fields, 0)
}

// nameOf tells an object in a message.
func nameOf(s *policy.Subject) string {
	id := s.ID()
	if s.Of != nil {
		return fmt.Sprintf("the Pod of %s", id.Name)
	}
	return id.String()
}
