package delivery

import (
	"context"
	"maps"

	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/plan"
	"github.com/holdfastcd/holdfast/internal/render"
	"github.com/holdfastcd/holdfast/internal/schema"
)

// compose goes the way from a revision to what will be sent: rendered, placed,
// admitted, completed. served are the kinds of the cluster; those that the
// delivery itself defines join them. Errors are *fault.Error of these stages.
func (s Spec) compose(ctx context.Context, r render.Renderer, served schema.Kinds, digest Digester) ([]plan.Desired, render.Result, error) {
	rendered, err := r.Render(ctx, s.Render, s.Revision.Tree)
	if err != nil {
		return nil, rendered, err
	}
	if s.Profile.Screen != nil {
		if err := s.Profile.Screen(rendered.Objects); err != nil {
			return nil, rendered, err
		}
	}
	kinds := schema.Union{served, declared(rendered.Objects)}
	placed, err := s.place(rendered.Objects, kinds)
	if err != nil {
		return nil, rendered, err
	}
	admitted, err := s.Rules.Admit(placed, kinds)
	if err != nil {
		return nil, rendered, err
	}
	desired, err := s.complete(admitted, kinds, digest)
	return desired, rendered, err
}

// declared returns the kinds that the definitions among objects declare.
func declared(objects []object.Object) schema.Table {
	t := schema.Table{}
	for i := range objects {
		maps.Copy(t, schema.FromCRD(&objects[i].Unstructured))
	}
	return t
}

// Compose returns the plan of a first delivery of spec to an empty cluster that
// serves kinds, and those that the delivery itself defines: what would be
// created, complete with its marks, in the order in which it would be sent. It
// needs no cluster, and goes the same way as [Engine.Deliver]. Errors are
// *fault.Error, as those of rendering, admission and planning.
func Compose(ctx context.Context, r render.Renderer, spec Spec, kinds schema.Kinds) (plan.Plan, error) {
	// Nothing is compared by digest here.
	desired, _, err := spec.compose(ctx, r, kinds, func([]byte) [32]byte { return [32]byte{} })
	if err != nil {
		return plan.Plan{}, err
	}
	return plan.Make(plan.Input{
		Owner:   spec.ID.String(),
		Desired: desired,
		Observe: func(object.ID) plan.Observed { return plan.Observed{Sight: plan.Absent} },
		Profile: spec.Profile.Plan,
	})
}
