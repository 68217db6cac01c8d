// Package object is the vocabulary of Kubernetes objects that the stages share:
// identity, origin, order and normalisation. It knows no cluster.
package object

import (
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// ID names one object in a cluster, whatever version of its API is used.
// Namespace is empty for cluster-scoped objects.
type ID struct {
	Group, Kind, Namespace, Name string
}

// String renders Kind.group/namespace/name, without the empty parts.
func (id ID) String() string {
	var b strings.Builder
	b.WriteString(id.Kind)
	if id.Group != "" {
		b.WriteString("." + id.Group)
	}
	if id.Namespace != "" {
		b.WriteString("/" + id.Namespace)
	}
	return b.String() + "/" + id.Name
}

// GroupKind returns the group and kind.
func (id ID) GroupKind() schema.GroupKind {
	return schema.GroupKind{Group: id.Group, Kind: id.Kind}
}

// Origin is where in the source tree an object was read.
type Origin struct {
	File string `json:"file,omitempty"` // slash-separated path from the root of the tree
	Line int    `json:"line,omitempty"` // 1-based first line of the document; 0 when unknown
}

// Object is one Kubernetes object on its way from a source tree to a cluster.
type Object struct {
	unstructured.Unstructured

	Origin Origin
}

// ID returns the identity of o as written; namespaces are defaulted by package schema.
func (o *Object) ID() ID {
	gvk := o.GroupVersionKind()
	return ID{Group: gvk.Group, Kind: gvk.Kind, Namespace: o.GetNamespace(), Name: o.GetName()}
}
