package delivery

import (
	"context"
	"maps"
	"strings"

	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/plan"
	"github.com/holdfastcd/holdfast/internal/render"
	"github.com/holdfastcd/holdfast/internal/schema"
	"github.com/holdfastcd/holdfast/internal/tree"
)

// composed is what a revision comes to.
type composed struct {
	desired []plan.Desired
	trace   tree.Trace
	asked   render.Asked // of the capabilities
	images  []string     // that the desired objects run
}

// compose goes the way from a revision to what will be sent: rendered, variables
// replaced, placed, admitted, completed. served are the kinds of the cluster; those
// that the delivery itself defines join them. Errors are *fault.Error of these
// stages; those of source alone, which the cluster has no part in, come as *flaw.
func (s Spec) compose(ctx context.Context, r render.Renderer, served schema.Kinds, digest Digester) (composed, error) {
	rendered, err := s.source(ctx, r)
	if err != nil {
		return composed{}, &flaw{err}
	}
	kinds := schema.Union{served, declared(rendered.Objects)}
	placed, err := s.place(rendered.Objects, kinds)
	if err != nil {
		return composed{}, err
	}
	admitted, err := s.Rules.Admit(placed, kinds)
	if err != nil {
		return composed{}, err
	}
	images := object.Images(placed)
	desired, err := s.complete(admitted, kinds, digest)
	note(desired, rendered.Notes)
	return composed{desired, rendered.Trace, rendered.Asked, images}, err
}

// note adds to the warnings of objects what is worth knowing of the file that
// they were rendered from.
func note(desired []plan.Desired, notes []render.Note) {
	for _, n := range notes {
		for i := range desired {
			d := &desired[i]
			if d.Origin.File != n.File {
				continue
			}
			if len(n.Functions) > 0 {
				d.Warnings = append(d.Warnings, strings.Join(n.Functions, ", ")+
					": not random and not of this moment here, but the same for as long as the delivery exists")
			}
			if len(n.Repeated) > 0 {
				d.Warnings = append(d.Warnings, strings.Join(n.Repeated, ", ")+": there more than once; the last one counts")
			}
		}
	}
}

// source is the part of compose that depends on the source alone.
func (s Spec) source(ctx context.Context, r render.Renderer) (render.Result, error) {
	rendered, err := r.Render(ctx, s.Render, s.Revision.Tree)
	if err != nil {
		return rendered, err
	}
	if s.Substitute != nil {
		if rendered.Objects, err = s.Substitute.Objects(rendered.Objects); err != nil {
			return rendered, err
		}
	}
	if s.Profile.Screen != nil {
		err = s.Profile.Screen(rendered.Objects)
	}
	return rendered, err
}

// flaw is an error that lies in the source.
type flaw struct{ error }

// Unwrap returns the error itself.
func (f *flaw) Unwrap() error { return f.error }

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
	made, err := spec.compose(ctx, r, kinds, func([]byte) [32]byte { return [32]byte{} })
	if err != nil {
		return plan.Plan{}, err
	}
	return plan.Make(plan.Input{
		Owner:   spec.ID.String(),
		Desired: made.desired,
		Observe: func(object.ID) plan.Observed { return plan.Observed{Sight: plan.Absent} },
		Profile: spec.Profile.Plan,
	})
}
