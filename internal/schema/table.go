package schema

import (
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Table is a fixed set of kinds.
type Table map[schema.GroupVersionKind]Kind

// Lookup implements Kinds.
func (t Table) Lookup(gvk schema.GroupVersionKind) (Kind, bool) {
	k, ok := t[gvk]
	return k, ok
}

// Union looks in each of several Kinds in turn.
type Union []Kinds

// Lookup implements Kinds.
func (u Union) Lookup(gvk schema.GroupVersionKind) (Kind, bool) {
	for _, kinds := range u {
		if k, ok := kinds.Lookup(gvk); ok {
			return k, true
		}
	}
	return Kind{}, false
}

// FromCRD returns the kinds that one CustomResourceDefinition serves; empty for
// any other object.
func FromCRD(o *unstructured.Unstructured) Table {
	t := Table{}
	if o.GetKind() != "CustomResourceDefinition" || o.GroupVersionKind().Group != "apiextensions.k8s.io" {
		return t
	}
	group, _, _ := unstructured.NestedString(o.Object, "spec", "group")
	kind, _, _ := unstructured.NestedString(o.Object, "spec", "names", "kind")
	plural, _, _ := unstructured.NestedString(o.Object, "spec", "names", "plural")
	scope, _, _ := unstructured.NestedString(o.Object, "spec", "scope")
	versions, _, _ := unstructured.NestedSlice(o.Object, "spec", "versions")
	for _, v := range versions {
		version, ok := v.(map[string]any)
		if !ok || version["served"] == false {
			continue
		}
		name, _ := version["name"].(string)
		gvk := schema.GroupVersionKind{Group: group, Version: name, Kind: kind}
		t[gvk] = Kind{GVK: gvk, Resource: plural, Namespaced: scope != "Cluster"}
	}
	return t
}
