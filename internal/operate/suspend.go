package operate

import (
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/holdfastcd/holdfast/internal/dialect"
	"github.com/holdfastcd/holdfast/internal/fault"
)

// Suspend has nobody deliver a resource, neither Holdfast nor a peer, until
// [Resume]: spec.suspend for Flux's kinds, skip-reconcile for an Application, and the
// mark of the take-over where there was one. It fails with Refused on the way of a
// hand-back.
func Suspend(u *unstructured.Unstructured) error { return mark(u, true, dialect.TakenPaused) }

// Resume undoes [Suspend]: whoever delivered the resource before goes on.
func Resume(u *unstructured.Unstructured) error { return mark(u, false, dialect.TakenOver) }

// mark sets the mark of the kind itself, or, where that one is the peer's, the value
// of the take-over.
func mark(u *unstructured.Unstructured, leave bool, taken string) error {
	switch dialect.Taken(u) {
	case dialect.TakenBack:
		return fault.New(fault.Refused, "it is being handed back").On(Name(u)).WithHint("try again in a moment")
	case "":
		dialect.SetLeftAlone(u, leave)
	default:
		dialect.Annotate(u, dialect.AnnotationTakeover, taken)
	}
	return nil
}
