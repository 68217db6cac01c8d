package applytest

import (
	"context"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfastcd/holdfast/internal/apply"
	"github.com/holdfastcd/holdfast/internal/plan"
	"github.com/holdfastcd/holdfast/internal/schema"
	"github.com/holdfastcd/holdfast/internal/secret"
)

// execute runs plans through the client, one after the other, as a delivery does.
func (f conformance) execute(t *testing.T) {
	steps := []struct {
		op      plan.Op
		value   string
		outcome apply.Outcome
		reason  string
	}{
		{plan.Create, "1", apply.Created, "it is absent"},
		{plan.Confirm, "1", apply.Unchanged, "nothing is to be changed"},
		{plan.Update, "2", apply.Configured, "the desired object changed"},
		{plan.Keep, "2", apply.Unchanged, "nothing is sent"},
		{plan.Prune, "", apply.Pruned, "it left the desired set"},
		{plan.Prune, "", apply.Pruned, "it is gone already"},
	}
	for _, s := range steps {
		a := f.action(s.op, ConfigMap, "execute", s.value)
		res := apply.Execute(context.Background(), plan.Plan{Stages: []plan.Stage{{Actions: []plan.Action{a}}}}, f, apply.Options{Manager: manager})
		got := res.Objects[0]
		if diff := cmp.Diff(s.outcome, got.Outcome); diff != "" || got.Err != nil {
			t.Errorf("%s, for %s: %v\n%s", s.op, s.reason, got.Err, diff)
		}
	}
}

func (f conformance) action(op plan.Op, k schema.Kind, name, value string) plan.Action {
	a := plan.Action{Op: op, Kind: k, ID: f.id(k, name)}
	if r, ok := f.Look(k, a.ID); ok {
		a.Observed = plan.Observed{Sight: plan.Unsure, UID: r.UID, ResourceVersion: r.ResourceVersion, Owner: r.Owner}
	}
	if op != plan.Prune {
		a.Desired = &plan.Desired{ID: a.ID, Kind: k, Body: secret.Hide(f.configMap(name, value))}
	}
	return a
}
