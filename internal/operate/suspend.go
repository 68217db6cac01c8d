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
func Suspend(u *unstructured.Unstructured) error {
	switch dialect.Taken(u) {
	case dialect.TakenBack:
		return fault.New(fault.Refused, "it is being handed back").On(Name(u)).WithHint("try again in a moment")
	case "":
		dialect.SetLeftAlone(u, true)
	default:
		dialect.Annotate(u, dialect.AnnotationTakeover, dialect.TakenPaused)
	}
	return nil
}

// Resume undoes [Suspend]: whoever delivered the resource before goes on.
func Resume(u *unstructured.Unstructured) error {
	switch dialect.Taken(u) {
	case dialect.TakenBack:
		return fault.New(fault.Refused, "it is being handed back").On(Name(u)).WithHint("try again in a moment")
	case "":
		dialect.SetLeftAlone(u, false)
	default:
		dialect.Annotate(u, dialect.AnnotationTakeover, dialect.TakenOver)
	}
	return nil
}
