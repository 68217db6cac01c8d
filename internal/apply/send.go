package apply

import (
	"context"
	"encoding/json"
	"errors"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/holdfastcd/holdfast/internal/cluster"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/plan"
)

// send sends one action's request, more than once if need be.
func (e *executor) send(ctx context.Context, a plan.Action) ObjectResult {
	r := ObjectResult{Action: a}
	err := e.try(ctx, func() error {
		var err error
		if a.Op == plan.Prune {
			r.Outcome, err = e.prune(ctx, a)
			return err
		}
		r.Record, err = e.apply(ctx, a)
		r.Outcome = e.applied(a, r.Record)
		if errors.Is(err, cluster.ErrImmutable) {
			err = e.replace(ctx, a, err)
		}
		return err
	})
	if err != nil {
		r.Outcome, r.Err = failed(err), err
	}
	return r
}

// apply takes an object over from its peers, if that is due, and applies it.
func (e *executor) apply(ctx context.Context, a plan.Action) (cluster.Record, error) {
	if len(a.Surplus) > 0 {
		if err := e.client.Strip(ctx, a.Kind, a.ID, a.Surplus, e.Manager); err != nil {
			return cluster.Record{}, err
		}
	}
	adopts, peers := a.Adopts(), slices.Concat(e.Peers, a.Desired.Peers)
	if adopts {
		if err := e.client.Adopt(ctx, a.Kind, a.ID, e.Manager, peers); err != nil {
			return cluster.Record{}, err
		}
	}
	r, err := e.applyOnce(ctx, a)
	if err != nil || !adopts || !r.Peered(e.Manager, nil) {
		return r, err
	}
	// The object had no managedFields: who sent what shows only now.
	if err := e.client.Adopt(ctx, a.Kind, a.ID, e.Manager, peers); err != nil {
		return r, err
	}
	return e.applyOnce(ctx, a)
}

func (e *executor) applyOnce(ctx context.Context, a plan.Action) (cluster.Record, error) {
	body, err := e.body(ctx, a)
	if err != nil {
		return cluster.Record{}, err
	}
	return e.client.Apply(ctx, a.Kind, a.ID, body, e.Manager, true, false)
}

// body is what is sent: the desired object, but for the fields that are left to
// others, which depend on the live object.
func (e *executor) body(ctx context.Context, a plan.Action) ([]byte, error) {
	body, err := e.desired(a)
	if err != nil || a.Op == plan.Create || !a.Desired.Ignored.Respected() {
		return body, err
	}
	live, err := e.client.Get(ctx, a.Kind, a.ID)
	if fault.KindOf(err) == fault.NotFound && !errors.Is(err, cluster.ErrNotServed) {
		return body, nil // it is created
	}
	if err != nil {
		return nil, err
	}
	desired := &unstructured.Unstructured{}
	if err := desired.UnmarshalJSON(body); err != nil {
		return nil, fault.New(fault.Internal, "the desired object cannot be read").On(a.ID.String()).Because(err)
	}
	if a.Desired.Ignored.Settle(desired.Object, live, e.Manager) {
		desired.SetResourceVersion(live.GetResourceVersion()) // refused, and tried again, if it moves meanwhile
	}
	return json.Marshal(desired.Object)
}

// applied names what a successful apply did.
func (e *executor) applied(a plan.Action, r cluster.Record) Outcome {
	switch {
	case a.Op == plan.Create:
		return Created
	case r.ResourceVersion == a.Observed.ResourceVersion:
		return Unchanged
	case a.Op == plan.Confirm && r.Ours(e.Manager) == a.Observed.Ours && a.Observed.Ours != [16]byte{}:
		return Unchanged // somebody else wrote at the same time; our fields were, and are, as desired
	case a.Op == plan.Revert:
		return Reverted
	}
	return Configured
}

// replace deletes an object of which an immutable field is to change, where that
// is asked for; it is created again when a watch shows that it is gone. It returns
// why it is not applied now.
func (e *executor) replace(ctx context.Context, a plan.Action, cause error) error {
	switch f, ok := errors.AsType[*fault.Error](cause); {
	case !ok || !e.Force && !a.Desired.Treatment.Force:
		return cause
	case slices.Contains(plan.Precious(), a.ID.GroupKind()):
		return f.WithHint("a %s is never replaced by force, for what it holds goes with it", a.ID.Kind)
	}
	version := a.Observed.ResourceVersion
	if now, ok := e.client.Look(a.Kind, a.ID); ok && now.UID == a.Observed.UID {
		version = now.ResourceVersion
	}
	if err := e.client.Delete(ctx, a.Kind, a.ID, a.Observed.UID, version, metav1.DeletePropagationForeground); err != nil {
		return err
	}
	return fault.New(fault.Waiting, "it is being replaced by force: %s", fault.From(cause).Msg).On(a.ID.String())
}
