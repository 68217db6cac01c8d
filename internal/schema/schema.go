// Package schema says, as a value, what a cluster knows about kinds: their
// scope, their resource name and whether their generation counts.
package schema

import (
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Kind is what has to be known of one group, version and kind to send it.
type Kind struct {
	GVK        schema.GroupVersionKind
	Resource   string // plural, as in the URL
	Namespaced bool
}

// GVR returns the resource that serves k.
func (k Kind) GVR() schema.GroupVersionResource {
	return k.GVK.GroupVersion().WithResource(k.Resource)
}

// Kinds looks kinds up; a map, a discovery cache or the union of both.
type Kinds interface {
	// Lookup finds a kind by group, version and kind.
	Lookup(gvk schema.GroupVersionKind) (Kind, bool)
}
