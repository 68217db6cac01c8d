package apply_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfastcd/holdfast/internal/apply"
	"github.com/holdfastcd/holdfast/internal/apply/applytest"
	"github.com/holdfastcd/holdfast/internal/cluster"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/plan"
	"github.com/holdfastcd/holdfast/internal/secret"
)

// one executes a plan of one action, without waiting between tries.
func one(a *applytest.API, act plan.Action, o apply.Options) apply.ObjectResult {
	o.Manager, o.Peers = "holdfast", []string{"peer"}
	o.Sleep = func(context.Context, time.Duration) error { return nil }
	return apply.Execute(context.Background(), plan.Plan{Stages: []plan.Stage{{Actions: []plan.Action{act}}}}, a, o).Objects[0]
}

func TestAdoptsAtFirstSight(t *testing.T) {
	tests := []struct {
		name, reason string
		change       func(*plan.Action)
		sent         []string
	}{
		{"peers", "their fields become ours before the apply", func(*plan.Action) {}, []string{"adopt", "apply"}},
		{"no peers", "nobody to take it over from", func(a *plan.Action) { a.Observed.Peers = false }, []string{"apply"}},
		{"applied before", "what peers do later is drift, or their addition", func(a *plan.Action) { a.Observed.Digest[0] = 1 }, []string{"apply"}},
		{"merge", "the object asks to leave others' fields", func(a *plan.Action) { a.Desired.Treatment.Merge = true }, []string{"apply"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := api(t, "a")
			before := len(a.Requests())
			act := do(a, plan.Confirm, "a")
			act.Observed.Peers = true
			tt.change(&act)
			if r := one(a, act, apply.Options{}); r.Err != nil || r.Outcome != apply.Configured {
				t.Errorf("%s, %v", r.Outcome, r.Err)
			}
			if diff := cmp.Diff(tt.sent, verbs(a.Requests()[before:])); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tt.reason, diff)
			}
		})
	}
}

func verbs(requests []string) []string {
	var all []string
	for _, r := range requests {
		verb, _, _ := strings.Cut(r, " ")
		all = append(all, verb)
	}
	return all
}

func TestConflictOfAdoptionIsTriedAgain(t *testing.T) {
	a, n := api(t, "a"), 0
	a.Before = func(verb string, _ object.ID) error {
		if n++; verb == "adopt" && n == 1 {
			return fault.New(fault.Conflict, "it changed").Because(cluster.ErrChanged)
		}
		return nil
	}
	act := do(a, plan.Confirm, "a")
	act.Observed.Peers = true
	if r := one(a, act, apply.Options{}); r.Err != nil {
		t.Error(r.Err)
	}
	a.Before = func(verb string, _ object.ID) error {
		return fault.New(fault.Conflict, "it changed").Because(cluster.ErrChanged)
	}
	before := len(a.Requests())
	if r := one(a, act, apply.Options{Attempts: 3}); r.Outcome != apply.Failed || len(a.Requests())-before != 3 {
		t.Errorf("conflicts without end: %s after %d requests, want three", r.Outcome, len(a.Requests())-before)
	}
}

func TestForce(t *testing.T) {
	immutable := fault.New(fault.Rejected, "spec: field is immutable").Because(cluster.ErrImmutable)
	tests := []struct {
		name, reason string
		force        bool
		change       func(*plan.Action)
		outcome      apply.Outcome
		sent         []string
		says         string
	}{
		{"no force", "it is told, and nothing is deleted", false, func(*plan.Action) {}, apply.Failed, []string{"apply"}, "immutable"},
		{"force", "it is deleted; a watch shows when it is gone", true, func(*plan.Action) {}, apply.Waiting, []string{"apply", "delete"}, "replaced by force: spec: field is immutable"},
		{"the object asks", "for itself alone", false, func(a *plan.Action) { a.Desired.Treatment.Force = true }, apply.Waiting, []string{"apply", "delete"}, "replaced by force"},
		{"a namespace", "everything in it would go", true, func(a *plan.Action) { a.ID.Kind, a.Desired.Treatment.Force = "Namespace", true }, apply.Failed, []string{"apply"}, "never replaced"},
		{"another object", "it is not the one that was looked at", true, func(a *plan.Action) { a.Observed.UID = "other" }, apply.Failed, nil, "changed"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := api(t, "a")
			act := do(a, plan.Update, "a")
			tt.change(&act)
			before := len(a.Requests())
			a.Before = func(verb string, _ object.ID) error {
				if verb == "apply" {
					return immutable
				}
				return nil
			}
			r := one(a, act, apply.Options{Force: tt.force})
			if r.Outcome != tt.outcome || r.Err == nil || !strings.Contains(r.Err.Error(), tt.says) {
				t.Errorf("%s: %s, %v", tt.reason, r.Outcome, r.Err)
			}
			if tt.outcome == apply.Failed && !errors.Is(r.Err, cluster.ErrImmutable) && !errors.Is(r.Err, cluster.ErrChanged) {
				t.Error("the cause is lost")
			}
			if sent := verbs(a.Requests()[before:]); tt.sent != nil && !slices.Equal(sent, tt.sent) {
				t.Errorf("sent %v, want %v", sent, tt.sent)
			}
		})
	}
}

func TestRespectedFieldsAreRead(t *testing.T) {
	ignores, err := plan.CompileIgnores([]plan.Ignore{{Pointers: []string{"/data/key"}, Respect: true}})
	if err != nil {
		t.Fatal(err)
	}
	a := api(t, "a")
	act := do(a, plan.Update, "a")
	act.Desired.Ignored = ignores.For(act.ID)
	if r := one(a, act, apply.Options{}); r.Err != nil {
		t.Fatal(r.Err)
	}
	if v, _ := a.Value(act.ID, "/data/key"); v != `"old"` {
		t.Errorf("the live value became %s", v)
	}
	act = do(a, plan.Create, "new")
	act.Desired.Ignored = ignores.For(act.ID)
	before := len(a.Requests())
	if r := one(a, act, apply.Options{}); r.Err != nil {
		t.Fatal(r.Err)
	}
	if v, _ := a.Value(act.ID, "/data/key"); v != `"desired"` || len(a.Requests())-before != 1 {
		t.Errorf("a new object has %s, after %v", v, a.Requests()[before:])
	}
}

func TestConcurrentWriteIsNotOurs(t *testing.T) {
	for _, tt := range []struct {
		reason string
		op     plan.Op
		ours   bool
		want   apply.Outcome
	}{
		{"our entry stands: somebody else moved the version", plan.Confirm, true, apply.Unchanged},
		{"our entry moved: we set something", plan.Confirm, false, apply.Configured},
		{"an update within a second of the last may leave the entry as it was", plan.Update, true, apply.Configured},
	} {
		a := api(t, "a")
		act := do(a, tt.op, "a")
		r, _ := a.Look(act.Kind, act.ID)
		act.Desired.Body = secret.Hide(body("a", "old"))
		if act.Observed.Ours = r.Ours("holdfast"); !tt.ours {
			act.Observed.Ours[0]++
		}
		act.Observed.ResourceVersion = "before"
		if got := one(a, act, apply.Options{}).Outcome; got != tt.want {
			t.Errorf("%s: %s, want %s", tt.reason, got, tt.want)
		}
	}
}
