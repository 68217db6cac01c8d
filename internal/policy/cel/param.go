package cel

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	registration "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	kschema "k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/holdfastcd/holdfast/internal/policy"
	"github.com/holdfastcd/holdfast/internal/schema"
)

// params are the objects that policies may take for their parameters, by kind.
type params map[kschema.GroupVersionKind]*paramKind

// paramKind is what is known of one kind of parameters.
type paramKind struct {
	namespaced bool
	// known: by a definition, and not by how the objects look.
	known   bool
	objects []*unstructured.Unstructured
	there   map[types.NamespacedName]bool
}

// wanted returns the kinds that policies have for parameters, empty.
func wanted(rules []*rule) params {
	p := params{}
	for _, r := range rules {
		if r.spec.ParamKind == nil {
			continue
		}
		gvk := r.paramKind()
		if p[gvk] != nil {
			continue
		}
		p[gvk] = &paramKind{there: map[types.NamespacedName]bool{}}
		p.learn(schema.Builtin())
	}
	return p
}

func (r *rule) paramKind() kschema.GroupVersionKind {
	return kschema.FromAPIVersionAndKind(r.spec.ParamKind.APIVersion, r.spec.ParamKind.Kind)
}

// learn takes the scopes of kinds from a table.
func (p params) learn(t schema.Table) {
	for gvk, k := range p {
		if kind, ok := t.Lookup(gvk); ok {
			k.known, k.namespaced = true, kind.Namespaced
		}
	}
}

// mentioned reports whether a file may hold parameters, or what tells their scope.
func (p params) mentioned(d policy.Document) bool {
	if foreign(d.File) {
		return false
	}
	for gvk, k := range p {
		if kindIs(d.Content, gvk.Kind) || !k.known && kindIs(d.Content, "CustomResourceDefinition") {
			return true
		}
	}
	return false
}

func kindIs(content []byte, kind string) bool {
	return regexp.MustCompile(`kind["']?\s*:\s*["']?` + regexp.QuoteMeta(kind) + `(?:List)?\b`).Match(content)
}

// add takes an object if it may be a parameter, and reports whether it did. One that is
// there already, by its name, stays. CustomResourceDefinitions tell scopes.
func (p params) add(content map[string]any) bool {
	o := &unstructured.Unstructured{Object: content}
	if o.GetKind() == "CustomResourceDefinition" {
		p.learn(schema.FromCRD(o))
	}
	k := p[o.GroupVersionKind()]
	if k == nil {
		return false
	}
	o = asStored(content)
	if k.known && k.namespaced && o.GetNamespace() == "" {
		o = o.DeepCopy()
		o.SetNamespace("default") // as kubectl would
	}
	if !k.known {
		k.namespaced = k.namespaced || o.GetNamespace() != ""
	}
	if id := (types.NamespacedName{Namespace: o.GetNamespace(), Name: o.GetName()}); !k.there[id] {
		k.there[id] = true
		k.objects = append(k.objects, o)
	}
	return true
}

// with returns the parameters and those that a case delivers, sorted: what lies beside
// the policies is not replaced by what a tenant delivers.
func (p params) with(c *policy.Case) params {
	all := make(params, len(p))
	for gvk, k := range p {
		copied := *k
		copied.objects, copied.there = slices.Clone(k.objects), maps.Clone(k.there)
		all[gvk] = &copied
	}
	if len(p) == 0 {
		return all
	}
	for i := range c.Subjects {
		s := &c.Subjects[i]
		o := unstructured.Unstructured{Object: s.Object}
		if k := all[o.GroupVersionKind()]; k != nil && !k.known {
			k.known, k.namespaced = true, s.Namespaced
		}
	}
	for i := range c.Subjects {
		if c.Subjects[i].Of == nil {
			all.add(c.Subjects[i].Object)
		}
	}
	for _, k := range all {
		slices.SortFunc(k.objects, func(a, b *unstructured.Unstructured) int {
			return strings.Compare(a.GetNamespace()+"/"+a.GetName(), b.GetNamespace()+"/"+b.GetName())
		})
	}
	return all
}

var errNoParams = errors.New("no params found for policy binding with `Deny` parameterNotFoundAction")

// collect returns the parameters that a binding has for an object of a namespace: one
// that is nil where it takes none, and none at all where they are missing and need not
// be there. It decides as CollectParams of
// k8s.io/apiserver/pkg/admission/plugin/policy/generic.
func (p params) collect(r *rule, b *binding, namespace string) ([]runtime.Object, error) {
	ref := b.spec.ParamRef
	if r.spec.ParamKind == nil || ref == nil {
		return []runtime.Object{nil}, nil
	}
	k := p[r.paramKind()]
	namespace, err := k.namespaceFor(ref, namespace)
	if err != nil {
		return nil, err
	}
	var found []runtime.Object
	for _, o := range k.objects {
		if o.GetNamespace() == namespace && b.selects(o) {
			found = append(found, o)
		}
	}
	if len(found) == 0 && deref(ref.ParameterNotFoundAction) == string(registration.DenyAction) {
		return nil, fmt.Errorf("%w: neither what lies beside the policy nor the delivery holds %s", errNoParams, b.wanted(r, namespace))
	}
	return found, nil
}

// namespaceFor returns where a binding's parameters lie for an object of a namespace.
func (k *paramKind) namespaceFor(ref *registration.ParamRef, namespace string) (string, error) {
	switch {
	case k.namespaced && ref.Namespace == "" && namespace == "":
		return "", errors.New("cannot use namespaced paramRef in policy binding that matches cluster-scoped resources")
	case k.namespaced && ref.Namespace == "":
		return namespace, nil
	case !k.namespaced && ref.Namespace != "" && (k.known || len(k.objects) > 0):
		return "", errors.New("paramRef.namespace must not be provided for a cluster-scoped `paramKind`")
	}
	return ref.Namespace, nil
}

// selects reports whether a binding takes an object of the right kind and namespace.
func (b *binding) selects(o *unstructured.Unstructured) bool {
	if b.params == nil {
		return o.GetName() == b.spec.ParamRef.Name
	}
	return b.params.Matches(labels.Set(o.GetLabels()))
}

// wanted names the parameters that a binding looks for.
func (b *binding) wanted(r *rule, namespace string) string {
	name := "one with labels " + metaSelector(b.params)
	if b.params == nil {
		name = b.spec.ParamRef.Name
	}
	if namespace != "" {
		name = namespace + "/" + name
	}
	return r.spec.ParamKind.Kind + " " + name
}

func metaSelector(s labels.Selector) string {
	if s == nil || s.Empty() {
		return "of any sort"
	}
	return s.String()
}
