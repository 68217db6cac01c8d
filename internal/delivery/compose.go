package delivery

import (
	"context"
	"errors"
	"maps"
	"strings"

	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/plan"
	"github.com/holdfastcd/holdfast/internal/render"
	"github.com/holdfastcd/holdfast/internal/schema"
	"github.com/holdfastcd/holdfast/internal/secret"
	"github.com/holdfastcd/holdfast/internal/tree"
	"github.com/holdfastcd/holdfast/internal/trust"
)

// composed is what a revision comes to.
type composed struct {
	desired []plan.Desired
	trace   tree.Trace
	asked   render.Asked // of the capabilities
	images  []string     // that the desired objects run
	// admission is what was found about the images; nil where nothing asks.
	admission *admission
	// ruling is what policies said of the objects; nil where no set selects the delivery.
	ruling *ruling
	runs   map[object.ID][]string // the images of each object, as applied
	opened bool                   // something was sealed
}

// stages are what the way from a revision to what will be sent needs of others.
type stages struct {
	render  render.Renderer
	served  schema.Kinds // of the cluster; those that the delivery itself defines join them
	examine examiner
	digest  Digester
	// unsealer opens SealedSecrets; nil: they are left as they are.
	unsealer secret.Unsealer
	// mayDeliver refuses what the account of the delivery may not write; nil: nobody asks.
	mayDeliver func(ctx context.Context, id object.ID) error
	// plain judges what stands open in what was read; nil: nobody asks.
	plain func(context.Context, render.Result) error
	// judge has policies judge; nil: no set selects the delivery.
	judge jury
	mask  *secret.Mask // takes in the secret values
}

// compose goes the way from a verified revision to what will be sent: rendered,
// opened, variables replaced, placed, admitted, images examined and pinned, judged by
// policies, completed. That a policy forbids it is no error here, see [state.abide].
// Errors are *fault.Error of these stages, and hold no value that was opened; those of
// source alone, which the cluster has no part in, come as *flaw.
func (s Spec) compose(ctx context.Context, v trust.Verified, by stages) (composed, error) {
	made, err := s.composeAll(ctx, v, by)
	if lies, ok := errors.AsType[*flaw](err); ok {
		return made, &flaw{by.mask.Error(lies.error)}
	}
	return made, by.mask.Error(err)
}

func (s Spec) composeAll(ctx context.Context, v trust.Verified, by stages) (composed, error) {
	rendered, err := s.source(ctx, by, v.Revision().Tree)
	if err != nil {
		return composed{}, &flaw{err}
	}
	if by.plain != nil {
		if err := by.plain(ctx, rendered); err != nil {
			return composed{}, err
		}
	}
	kinds := schema.Union{by.served, declared(rendered.Objects)}
	placed, err := s.place(rendered.Objects, kinds)
	if err != nil {
		return composed{}, err
	}
	if _, err := s.Rules.Admit(placed, kinds); err != nil {
		return composed{}, err
	}
	placed, sealed, err := by.unseal(ctx, placed, s.Rules)
	if err != nil {
		return composed{}, err
	}
	opened := by.mask.Opened() || len(sealed.owners) > 0
	hide(by.mask, placed...)
	admitted, err := s.Rules.Admit(placed, kinds)
	if err != nil {
		return composed{}, err
	}
	evidence, err := by.examine(ctx, admitted.Objects())
	if err != nil {
		return composed{}, err
	}
	// Before images are pinned: CI, which asks no registry, sees them as they are written.
	found, err := by.ruling(ctx, admitted.Objects(), kinds, sealed)
	if err != nil {
		return composed{}, err
	}
	admitted = evidence.pin(admitted, v.Demands())
	made := composed{
		trace: rendered.Trace, asked: rendered.Asked, images: object.Images(placed), admission: evidence, ruling: found,
		runs: runs(admitted.Objects(), v.Demands()), opened: opened,
	}
	made.desired, err = s.complete(admitted, kinds, by.digest)
	note(made.desired, rendered.Notes)
	sealed.mark(made.desired)
	s.need(admitted.Objects(), made.desired)
	return made, err
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
func (s Spec) source(ctx context.Context, by stages, t tree.Tree) (render.Result, error) {
	opener, request := s.opener(), s.Render
	request.Keys = opener.ID()
	s.hideVariables(by.mask)
	rendered, err := by.render.Render(ctx, request, secret.NewTree(ctx, t, opener, by.mask))
	if err != nil {
		return rendered, err
	}
	for _, v := range rendered.Opened { // by a rendering before, whose result was kept
		by.mask.AddSealed(string(v.Reveal()))
	}
	if err := s.open(ctx, rendered.Objects, by.mask); err != nil {
		return rendered, err
	}
	if rendered.Objects, err = s.substitute(rendered.Objects, by.mask); err != nil {
		return rendered, err
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
	mask := &secret.Mask{}
	// Nothing is sent, and so nothing has to be proven, nor compared by digest.
	made, err := spec.compose(ctx, trust.Vouch(spec.Revision, trust.Evidence{}, trust.Demands{}), stages{
		render: r, served: kinds, examine: unexamined, digest: func([]byte) [32]byte { return [32]byte{} },
		mask: mask,
	})
	if err != nil {
		return plan.Plan{}, err
	}
	p, err := plan.Make(plan.Input{
		Owner:   spec.ID.String(),
		Desired: made.desired,
		Observe: func(object.ID) plan.Observed { return plan.Observed{Sight: plan.Absent} },
		Profile: spec.Profile.Plan,
	})
	p.Mask = mask
	return p, err
}
