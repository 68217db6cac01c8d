// Package policy judges objects before they are applied: objects and rules in,
// verdicts out, no effects. Today it holds the project rules (which destinations
// and kinds a project permits); engines for policy languages join them here.
package policy

import (
	"path"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/schema"
)

// GroupKind is a pair of globs on an object's group and kind, and optionally its name.
type GroupKind struct {
	Group, Kind, Name string
}

func (g GroupKind) matches(id object.ID) bool {
	return Glob(g.Group, id.Group) && Glob(g.Kind, id.Kind) && (g.Name == "" || Glob(g.Name, id.Name))
}

// Rules are what a project permits of the objects of one delivery. The zero
// value permits everything.
type Rules struct {
	Project string // for messages; empty permits everything
	// Version changes whenever the rules do: what was admitted under another
	// version is judged again.
	Version string
	// Namespaces permits namespaces on the destination cluster; nil permits all.
	Namespaces func(namespace string) bool
	// ClusterAllow and ClusterDeny judge cluster-scoped objects. A nil
	// ClusterAllow permits none when Project is set.
	ClusterAllow, ClusterDeny []GroupKind
	// NamespaceAllow and NamespaceDeny judge namespaced objects. A nil
	// NamespaceAllow permits all, an empty one none.
	NamespaceAllow, NamespaceDeny []GroupKind
}

// Admitted are objects that every rule permits. Only [Rules.Admit] makes one.
type Admitted struct{ objects []object.Object }

// Objects returns the admitted objects, in the order they were given.
func (a Admitted) Objects() []object.Object { return a.objects }

// Admit judges the whole of a delivery: one refusal refuses all of it. kinds
// tells the scope of each object; namespaces must be defaulted before. Errors
// are *fault.Error of kind Refused, naming object, file and line.
func (r Rules) Admit(objects []object.Object, kinds schema.Kinds) (Admitted, error) {
	for i := range objects {
		o := &objects[i]
		kind, ok := kinds.Lookup(o.GroupVersionKind())
		if err := r.Permits(o.ID(), !ok || kind.Namespaced); err != nil {
			err.File, err.Line = o.Origin.File, o.Origin.Line
			return Admitted{}, err
		}
	}
	return Admitted{objects: objects}, nil
}

// Permits judges one object by its identity; it returns nil if r permits it. It
// holds for writes and for deletes.
func (r Rules) Permits(id object.ID, namespaced bool) *fault.Error {
	if r.Project == "" {
		return nil
	}
	refuse := func(format string, args ...any) *fault.Error {
		return fault.New(fault.Refused, format, args...).On(id.String())
	}
	if !namespaced {
		if matchAny(r.ClusterDeny, id) || !matchAny(r.ClusterAllow, id) {
			return refuse("resource %s:%s is not permitted in project %s", id.Group, id.Kind, r.Project).
				WithHint("add it to spec.clusterResourceWhitelist of the AppProject")
		}
		return nil
	}
	if r.Namespaces != nil && !r.Namespaces(id.Namespace) {
		return refuse("namespace %s is not permitted in project %s", id.Namespace, r.Project).
			WithHint("add it to spec.destinations of the AppProject")
	}
	if matchAny(r.NamespaceDeny, id) || r.NamespaceAllow != nil && !matchAny(r.NamespaceAllow, id) {
		return refuse("resource %s:%s is not permitted in project %s", id.Group, id.Kind, r.Project).
			WithHint("change namespaceResourceWhitelist or namespaceResourceBlacklist of the AppProject")
	}
	return nil
}

func matchAny(list []GroupKind, id object.ID) bool {
	for _, g := range list {
		if g.matches(id) {
			return true
		}
	}
	return false
}

// Glob matches a pattern with * (any run of characters), ? and [sets]. Kinds,
// groups and namespaces hold no slashes, so that path.Match serves. A malformed
// pattern matches nothing.
func Glob(pattern, value string) bool {
	ok, err := path.Match(pattern, value)
	return ok && err == nil
}
