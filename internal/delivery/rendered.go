package delivery

import (
	"context"

	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/render"
	"github.com/holdfastcd/holdfast/internal/schema"
	"github.com/holdfastcd/holdfast/internal/secret"
	"github.com/holdfastcd/holdfast/internal/tree"
)

// Rendered is what a delivery brings, before anybody judges it.
type Rendered struct {
	// Objects are placed in the namespaces that they will live in.
	Objects []object.Object
	// Kinds are those that served knows, and those that the delivery itself defines.
	Kinds schema.Kinds
	// Trace is every read that the objects came of.
	Trace tree.Trace
}

// Render goes the first part of the way that a delivery goes to a cluster: rendered,
// opened, variables replaced, placed. Nothing is judged, and SealedSecrets stay as they
// are. Values that are secret are added to mask. Errors are *fault.Error of these stages,
// and hold none.
func Render(ctx context.Context, r render.Renderer, spec Spec, served schema.Kinds, mask *secret.Mask) (Rendered, error) {
	made, err := spec.source(ctx, stages{render: r, mask: mask}, spec.Revision.Tree)
	if err != nil {
		return Rendered{}, mask.Error(err)
	}
	kinds := schema.Union{served, declared(made.Objects)}
	placed, err := spec.place(made.Objects, kinds)
	if err != nil {
		return Rendered{}, mask.Error(err)
	}
	hide(mask, placed...)
	return Rendered{Objects: placed, Kinds: kinds, Trace: made.Trace}, nil
}
