package check

import (
	"context"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/holdfastcd/holdfast/internal/delivery"
	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/policy"
	holdfastschema "github.com/holdfastcd/holdfast/internal/schema"
	"github.com/holdfastcd/holdfast/internal/tree"
	"github.com/holdfastcd/holdfast/internal/trust"
)

// Dialects read custom resources, as the controllers do. They alone know kinds.
type Dialects interface { //nolint:interfacebloat // one reader of custom resources
	// Reads reports whether objects of a kind matter: they ask for deliveries, or say
	// something of them. Asks reports the former.
	Reads(kind schema.GroupKind) bool
	Asks(kind schema.GroupKind) bool
	// Source says from where an object asks to be delivered.
	Source(asked object.Object, known *Known) Source
	// Deliver translates an object that asks for what stands in t. Errors are *fault.Error.
	Deliver(ctx context.Context, asked object.Object, known *Known, t tree.Tree) (Delivery, error)
	// Policies compiles the policies among what is known.
	Policies(known *Known, t tree.Tree) Policies
	// Kinds are those of the dialects themselves, and of Kubernetes; Definitions the
	// CustomResourceDefinitions of the former.
	Kinds() holdfastschema.Table
	Definitions() []map[string]any
}

// Known is what was found in a repository so far, for [Dialects].
type Known struct {
	// Objects are those that [Dialects.Reads] names.
	Objects []object.Object
	// Find returns another object of the repository. It reports false if there is none.
	Find func(kind, namespace, name string) (object.Object, bool)
	// Here reports whether an address is that of this repository.
	Here func(url string) bool
	// Sealed is told of files that are left sealed. It is safe for concurrent use.
	Sealed func(file string)
	// Kubernetes is the version that charts are told, "" for that of the library.
	Kubernetes string
}

// Source is where a delivery comes from.
type Source struct {
	URL  string // "" where it is not known
	Path string // from the root of that repository
	// Elsewhere says why it cannot be this repository; "" if it can.
	Elsewhere string
}

// Delivery is what an object asks for.
type Delivery struct {
	Spec delivery.Spec
	// Subject is what policies select it by.
	Subject trust.Subject
	// Notices say what is not as it would be in the cluster.
	Notices []string
	// Open: variables are not known, and stand in the objects as they were written.
	Open bool
}

// Policies are those of the repository.
type Policies struct {
	Sets  []SelectedSet
	Trust []SelectedTrust
	// Notices say what of them is not judged.
	Notices []string
}

// SelectedSet is a set of policies, and what it is for; Selects is nil for everything.
type SelectedSet struct {
	policy.Set

	Selects func(trust.Subject) bool
	Origin  object.Origin // where it is written, in the repository
}

// SelectedTrust is a TrustPolicy, and what it is for.
type SelectedTrust struct {
	trust.Policy

	Selects func(trust.Subject) bool
	Origin  object.Origin // where it is written
}
