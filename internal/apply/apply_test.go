package apply_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
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

func TestConformance(t *testing.T) { applytest.Conformance(t, applytest.New("apps"), "apps") }

func id(name string) object.ID {
	return object.ID{Kind: "ConfigMap", Namespace: "apps", Name: name}
}

// do is an action on a ConfigMap, observed as the API shows it now.
func do(api *applytest.API, op plan.Op, name string) plan.Action {
	a := plan.Action{Op: op, Kind: applytest.ConfigMap, ID: id(name), Reason: "because"}
	if r, ok := api.Look(a.Kind, a.ID); ok {
		a.Observed = plan.Observed{UID: r.UID, ResourceVersion: r.ResourceVersion, Owner: r.Owner}
	}
	if op != plan.Prune && op != plan.Release {
		a.Desired = &plan.Desired{ID: a.ID, Kind: a.Kind, Body: secret.Hide(body(name, "desired"))}
	}
	return a
}

func body(name, value string) []byte {
	return fmt.Appendf(nil, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":%q,"namespace":"apps"},"data":{"key":%q}}`, name, value)
}

// api returns an API that holds ConfigMaps of the given names, each with an old value.
func api(t *testing.T, names ...string) *applytest.API {
	t.Helper()
	a := applytest.New("apps")
	for _, n := range names {
		if _, err := a.Apply(context.Background(), applytest.ConfigMap, id(n), body(n, "old"), "holdfast", true, false); err != nil {
			t.Fatal(err)
		}
	}
	return a
}

// summary renders a result, an object a line.
func summary(res apply.Result) string {
	var b strings.Builder
	for _, o := range res.Objects {
		fmt.Fprintf(&b, "%s %s %s", o.Action.Op, o.Action.ID.Name, o.Outcome)
		if o.Err != nil {
			fmt.Fprintf(&b, ": %s", o.Err)
		}
		b.WriteString("\n")
	}
	for _, w := range res.Waiting {
		fmt.Fprintf(&b, "waiting for %s\n", w.Name)
	}
	return b.String()
}

func TestExecute(t *testing.T) {
	down := fault.New(fault.Rejected, "no")
	tests := []struct {
		name   string
		reason string
		stages []plan.Stage // actions by name and operation; see do
		before func(verb string, id object.ID) error
		ready  func(plan.Action, cluster.Record) bool
		want   string
		sent   []string
	}{
		{
			name:   "each operation",
			reason: "one apply for what changes, one delete for what goes, nothing for the rest",
			stages: []plan.Stage{{Actions: []plan.Action{
				{Op: plan.Create, ID: id("new")},
				{Op: plan.Update, ID: id("a")},
				{Op: plan.Revert, ID: id("b")},
				{Op: plan.Keep, ID: id("c")},
				{Op: plan.Leave, ID: id("d")},
				{Op: plan.Release, ID: id("e")},
				{Op: plan.Prune, ID: id("f")},
			}}},
			want: `create new created
update a configured
revert b reverted
keep c unchanged
leave d left
release e released
prune f pruned
`,
			sent: []string{"apply ConfigMap/apps/a", "apply ConfigMap/apps/b", "apply ConfigMap/apps/new", "delete ConfigMap/apps/f"},
		},
		{
			name:   "a failure",
			reason: "its stage goes on, those behind it do not; what sends nothing is as it is",
			stages: []plan.Stage{
				{Actions: []plan.Action{{Op: plan.Update, ID: id("a")}, {Op: plan.Update, ID: id("b")}}},
				{Actions: []plan.Action{{Op: plan.Update, ID: id("c")}, {Op: plan.Keep, ID: id("d")}}},
				{Actions: []plan.Action{{Op: plan.Prune, ID: id("e")}}},
			},
			before: func(_ string, i object.ID) error {
				if i == id("a") {
					return down
				}
				return nil
			},
			want: `update a failed: no
update b configured
update c skipped: not sent: ConfigMap/apps/a failed before it
keep d unchanged
prune e skipped: not sent: ConfigMap/apps/a failed before it
`,
			sent: []string{"apply ConfigMap/apps/a", "apply ConfigMap/apps/b"},
		},
		{
			name:   "a refusal",
			reason: "counts as a failure: nothing behind it is sent",
			stages: []plan.Stage{
				{Actions: []plan.Action{{Op: plan.Refuse, ID: id("a")}}},
				{Actions: []plan.Action{{Op: plan.Update, ID: id("b")}}},
			},
			want: `refuse a refused: ConfigMap/apps/a: because
update b skipped: not sent: ConfigMap/apps/a failed before it
`,
		},
		{
			name:   "a gate that is not open",
			reason: "the caller comes back when the objects named are ready",
			stages: []plan.Stage{
				{Gate: true, Actions: []plan.Action{{Op: plan.Update, ID: id("a")}, {Op: plan.Keep, ID: id("b")}}},
				{Actions: []plan.Action{{Op: plan.Update, ID: id("c")}, {Op: plan.Await, ID: id("d")}}},
			},
			ready: func(a plan.Action, _ cluster.Record) bool { return a.ID != id("b") },
			want: `update a configured
keep b unchanged
update c waiting: waits for ConfigMap/apps/b to be ready
await d waiting: ConfigMap/apps/d: because
waiting for b
`,
			sent: []string{"apply ConfigMap/apps/a"},
		},
		{
			name:   "a gate that is open",
			reason: "the record that readiness is judged by is what the watch shows",
			stages: []plan.Stage{
				{Gate: true, Actions: []plan.Action{{Op: plan.Keep, ID: id("a")}}},
				{Actions: []plan.Action{{Op: plan.Update, ID: id("b")}}},
			},
			ready: func(_ plan.Action, r cluster.Record) bool { return r.UID != "" },
			want:  "keep a unchanged\nupdate b configured\n",
			sent:  []string{"apply ConfigMap/apps/b"},
		},
		{
			name:   "a namespace on its way out",
			reason: "that is no failure: it ends by itself",
			stages: []plan.Stage{{Actions: []plan.Action{{Op: plan.Update, ID: id("a")}}}},
			before: func(string, object.ID) error { return fault.New(fault.Waiting, "being deleted") },
			want:   "update a waiting: being deleted\n",
			sent:   []string{"apply ConfigMap/apps/a"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := api(t, "a", "b", "c", "d", "e", "f")
			setup := len(a.Requests())
			a.Before = tt.before
			for i := range tt.stages {
				for j, act := range tt.stages[i].Actions {
					tt.stages[i].Actions[j] = do(a, act.Op, act.ID.Name)
				}
			}
			res := apply.Execute(t.Context(), plan.Plan{Stages: tt.stages}, a, apply.Options{Manager: "holdfast", Ready: tt.ready})
			if diff := cmp.Diff(tt.want, summary(res)); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tt.reason, diff)
			}
			sent := a.Requests()[setup:]
			slices.Sort(sent)
			if diff := cmp.Diff(tt.sent, sent); diff != "" && len(tt.sent)+len(sent) > 0 {
				t.Errorf("%s: requests (-want +got):\n%s", tt.reason, diff)
			}
		})
	}
}

// TestPrune changes the object between plan and execution.
func TestPrune(t *testing.T) {
	label := func(owner string) []byte {
		return fmt.Appendf(nil, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a","namespace":"apps","labels":{"owner":%q}}}`, owner)
	}
	tests := []struct {
		name, reason string
		meanwhile    func(t *testing.T, a *applytest.API)
		want         apply.Outcome
		exists       bool
	}{
		{"untouched", "it goes", func(*testing.T, *applytest.API) {}, apply.Pruned, false},
		{"touched", "a newer version of the same object with the same owner goes too", func(t *testing.T, a *applytest.API) {
			must(t, a, []byte(`{"data":{"more":"x"}}`), "other")
		}, apply.Pruned, false},
		{"taken over", "another delivery owns it now", func(t *testing.T, a *applytest.API) {
			must(t, a, label("theirs"), "other")
		}, apply.Refused, true},
		{"replaced", "it is another object of the same name", func(t *testing.T, a *applytest.API) {
			if err := a.Delete(t.Context(), applytest.ConfigMap, id("a"), "", "", ""); err != nil {
				t.Fatal(err)
			}
			must(t, a, label("ours"), "holdfast")
		}, apply.Refused, true},
		{"deleted", "somebody was faster", func(t *testing.T, a *applytest.API) {
			if err := a.Delete(t.Context(), applytest.ConfigMap, id("a"), "", "", ""); err != nil {
				t.Fatal(err)
			}
		}, apply.Pruned, false},
		{"being deleted", "a finalizer holds it; asking again changes nothing", func(_ *testing.T, a *applytest.API) {
			a.Hold(id("a"))
		}, apply.Pruned, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := applytest.New("apps")
			a.Owner = func(labels map[string]string) string { return labels["owner"] }
			must(t, a, label("ours"), "holdfast")
			p := plan.Plan{Stages: []plan.Stage{{Actions: []plan.Action{do(a, plan.Prune, "a")}}}}
			tt.meanwhile(t, a)
			res := apply.Execute(t.Context(), p, a, apply.Options{})
			if got := res.Objects[0]; got.Outcome != tt.want {
				t.Errorf("%s: got %s (%v), want %s", tt.reason, got.Outcome, got.Err, tt.want)
			}
			if _, ok := a.Look(applytest.ConfigMap, id("a")); ok != tt.exists {
				t.Errorf("%s: exists is %t", tt.reason, ok)
			}
		})
	}
}

func must(t *testing.T, a *applytest.API, body []byte, manager string) {
	t.Helper()
	if _, err := a.Apply(t.Context(), applytest.ConfigMap, id("a"), body, manager, true, false); err != nil {
		t.Fatal(err)
	}
}

func TestRetry(t *testing.T) {
	unreachable := fault.New(fault.Unreachable, "down")
	tests := []struct {
		name, reason string
		errs         []error // of the first tries; those after succeed
		want         apply.Outcome
		slept        []time.Duration
	}{
		{"once", "a moment mends it", []error{unreachable}, apply.Created, []time.Duration{75 * time.Millisecond}},
		{"growing", "each pause is longer", []error{unreachable, unreachable}, apply.Created, []time.Duration{75 * time.Millisecond, 225 * time.Millisecond}},
		{
			"for good", "tries are bounded",
			[]error{unreachable, unreachable, unreachable, unreachable, unreachable},
			apply.Failed,
			[]time.Duration{75 * time.Millisecond, 225 * time.Millisecond, 675 * time.Millisecond},
		},
		{
			"not served yet", "a definition was established a moment ago",
			[]error{fault.New(fault.NotFound, "no").Because(cluster.ErrNotServed)},
			apply.Created,
			[]time.Duration{75 * time.Millisecond},
		},
		{"rejected", "the same again is rejected again", []error{fault.New(fault.Rejected, "no")}, apply.Failed, nil},
		{"deadline", "it has waited enough", []error{fault.New(fault.Unreachable, "slow").Because(context.DeadlineExceeded)}, apply.Failed, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := applytest.New("apps")
			errs := tt.errs
			a.Before = func(string, object.ID) error {
				if len(errs) == 0 {
					return nil
				}
				err := errs[0]
				errs = errs[1:]
				return err
			}
			var slept []time.Duration
			res := apply.Execute(t.Context(), plan.Plan{Stages: []plan.Stage{{Actions: []plan.Action{do(a, plan.Create, "a")}}}}, a, apply.Options{
				Manager: "holdfast",
				Sleep:   func(_ context.Context, d time.Duration) error { slept = append(slept, d); return nil },
				Jitter:  func() float64 { return 0.5 },
			})
			if got := res.Objects[0]; got.Outcome != tt.want {
				t.Errorf("%s: got %s (%v), want %s", tt.reason, got.Outcome, got.Err, tt.want)
			}
			if diff := cmp.Diff(tt.slept, slept); diff != "" {
				t.Errorf("%s: pauses (-want +got):\n%s", tt.reason, diff)
			}
		})
	}
}

// TestConcurrency checks that a stage's requests run side by side, but no more
// of them than are asked for.
func TestConcurrency(t *testing.T) {
	const limit, n = 3, 12
	a := applytest.New("apps")
	var mu sync.Mutex
	running, most := 0, 0
	full := make(chan struct{})
	a.Before = func(string, object.ID) error {
		mu.Lock()
		running++
		if most = max(most, running); running == limit {
			select {
			case <-full:
			default:
				close(full)
			}
		}
		mu.Unlock()
		<-full // the first ones wait until as many run as may
		mu.Lock()
		running--
		mu.Unlock()
		return nil
	}
	var actions []plan.Action
	for i := range n {
		actions = append(actions, do(a, plan.Create, fmt.Sprint("o", i)))
	}
	res := apply.Execute(t.Context(), plan.Plan{Stages: []plan.Stage{{Actions: actions}}}, a, apply.Options{Manager: "holdfast", Concurrency: limit})
	for _, o := range res.Objects {
		if o.Outcome != apply.Created {
			t.Errorf("%s: %s %v", o.Action.ID, o.Outcome, o.Err)
		}
	}
	if most != limit {
		t.Errorf("%d requests ran at once, want %d", most, limit)
	}
}

// TestAfter checks that an action which says After is sent when those before it were
// answered, however long that takes.
func TestAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := applytest.New("apps")
		var slow atomic.Bool
		a.Before = func(_ string, id object.ID) error {
			switch id.Name {
			case "a":
				time.Sleep(time.Second) // of the bubble: all others go on meanwhile
				slow.Store(true)
			case "c", "d":
				if !slow.Load() {
					t.Errorf("%s was sent before those before it were answered", id.Name)
				}
			}
			return nil
		}
		actions := []plan.Action{do(a, plan.Create, "a"), do(a, plan.Create, "b"), do(a, plan.Create, "c"), do(a, plan.Create, "d")}
		actions[2].After = true
		res := apply.Execute(t.Context(), plan.Plan{Stages: []plan.Stage{{Actions: actions}}}, a, apply.Options{Manager: "holdfast"})
		for _, o := range res.Objects {
			if o.Outcome != apply.Created {
				t.Errorf("%s: %s %v", o.Action.ID, o.Outcome, o.Err)
			}
		}
	})
}

func TestCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	a := applytest.New("apps")
	a.Before = func(string, object.ID) error {
		cancel()
		return fault.New(fault.Unreachable, "interrupted").Because(ctx.Err())
	}
	res := apply.Execute(ctx, plan.Plan{Stages: []plan.Stage{{Actions: []plan.Action{do(a, plan.Create, "a")}}}}, a, apply.Options{})
	if got := res.Objects[0]; got.Outcome != apply.Failed || !errors.Is(got.Err, context.Canceled) || len(a.Requests()) != 1 {
		t.Errorf("got %s %v after %v, want one request and no retry", got.Outcome, got.Err, a.Requests())
	}
}
