package argo

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	api "github.com/holdfastcd/holdfast/api/argo/v1alpha1"
	"github.com/holdfastcd/holdfast/internal/delivery"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/health"
	"github.com/holdfastcd/holdfast/internal/object"
)

// an is an object of a report.
func an(kind, name string, outcome delivery.Outcome, more ...func(*delivery.Object)) delivery.Object {
	group := map[string]string{"Deployment": "apps", "Application": "argoproj.io"}[kind]
	o := delivery.Object{
		ID:      object.ID{Group: group, Kind: kind, Namespace: "shop", Name: name},
		GVK:     schema.GroupVersionKind{Group: group, Version: "v1", Kind: kind},
		Origin:  object.Origin{File: "apps/web/" + name + ".yaml", Line: 1},
		Desired: true, Outcome: outcome,
	}
	for _, m := range more {
		m(&o)
	}
	return o
}

func fares(s health.Status, message string) func(*delivery.Object) {
	return func(o *delivery.Object) { o.Health = &health.Verdict{Status: s, Message: message} }
}

func because(message string) func(*delivery.Object) {
	return func(o *delivery.Object) { o.Message = message }
}

func leftover(o *delivery.Object) { o.Desired = false }

// report makes a report in which everything that is not given up is held.
func report(err *fault.Error, objects ...delivery.Object) *delivery.Report {
	r := &delivery.Report{Objects: objects, Err: err}
	for _, o := range objects {
		if o.Outcome != delivery.Released && !loose(o) {
			r.Inventory = append(r.Inventory, delivery.Entry{ID: o.ID, Version: o.GVK.Version})
		}
	}
	return r
}

// step is one pass in the life of an Application.
type step struct {
	reason string
	after  time.Duration // since the step before
	commit string
	change func(*api.Application)
	again  bool
	report *delivery.Report // nil: the pass must be too early for anything
	err    *fault.Error
	as     api.ApplicationConditionType

	detour        bool
	apply, revert bool   // what the pass must want
	quiet         bool   // the status must not change
	want          string // the status in a line
	events        string
}

// line is a status in a line.
func line(s api.ApplicationStatus) string {
	short := func(commit string) string { return commit[:min(1, len(commit))] }
	parts := []string{string(s.Sync.Status), short(s.Sync.Revision), string(s.Health.Status)}
	if op := s.OperationState; op != nil {
		part := "op=" + string(op.Phase) + "@" + short(op.SyncResult.Revision)
		if op.RetryCount > 0 {
			part += "/retry"
		}
		if op.Operation.Sync.Resources != nil {
			part += "/heal"
		}
		parts = append(parts, part)
	}
	var history []string
	for _, h := range s.History {
		history = append(history, short(h.Revision))
	}
	if len(history) > 0 {
		parts = append(parts, "history="+strings.Join(history, ","))
	}
	for _, r := range s.Resources {
		part := r.Name + "=" + string(r.Status)
		if r.RequiresPruning {
			part += "/prune"
		}
		parts = append(parts, part)
	}
	for _, c := range s.Conditions {
		parts = append(parts, "!"+string(c.Type))
	}
	return strings.Join(parts, " ")
}

// live runs an Application through its passes, as the controller would.
func live(t *testing.T, app *api.Application, steps []step) {
	now := noon
	for i, s := range steps {
		now = now.Add(s.after)
		if s.change != nil {
			s.change(app)
		}
		o, err := orderOf(app)
		if err != nil {
			t.Fatal(err)
		}
		a := next(app, o, s.commit, s.again, now)
		if a.wait > 0 {
			if s.report != nil || s.err != nil {
				t.Fatalf("step %d (%s): waits %v", i, s.reason, a.wait)
			}
			continue
		}
		if a.apply != s.apply || a.apply && (a.fresh || revert(app, s.commit)) != s.revert {
			t.Errorf("step %d (%s): apply %v, fresh %v, revert %v", i, s.reason, a.apply, a.fresh, revert(app, s.commit))
		}
		f := found{at: now, order: o, detour: s.detour, commit: s.commit, attempt: a, report: s.report, err: s.err, as: s.as}
		if s.err != nil {
			f.commit = ""
		}
		after := transition(app, f)
		if got := line(after); got != s.want {
			t.Errorf("step %d (%s):\n got %s\nwant %s", i, s.reason, got, s.want)
		}
		started, completed, _ := news(app.Status.OperationState, after.OperationState)
		if got := strings.Trim(started+" | "+completed, " |"); got != s.events {
			t.Errorf("step %d (%s): events\n got %q\nwant %q", i, s.reason, got, s.events)
		}
		if same := apiequality.Semantic.DeepEqual(after, app.Status); same != s.quiet {
			t.Errorf("step %d (%s): quiet is %v:\n%s", i, s.reason, same, cmp.Diff(app.Status, after))
		}
		app.Status = after
		// The same report once more must change nothing, or the status would be
		// written again and again.
		f.at, f.order, f.detour = f.at.Add(time.Minute), nil, false
		f.attempt = next(app, nil, s.commit, false, f.at)
		if s.detour || f.report == nil || f.report.Err != nil || len(f.report.Changed()) > 0 {
			continue
		}
		if once := transition(app, f); !apiequality.Semantic.DeepEqual(once, app.Status) {
			t.Errorf("step %d (%s): another pass that found the same writes again:\n%s", i, s.reason, cmp.Diff(app.Status, once))
		}
	}
}

const (
	startedA   = "initiated automated sync to '" + commitA + "'"
	succeededA = "Sync operation to " + commitA + " succeeded"
)

func TestLife(t *testing.T) {
	healthy := fares(health.Healthy, "")
	busy := fares(health.Progressing, "1 of 2 replicas")
	ask := func(sync api.SyncOperation) func(*api.Application) {
		return func(a *api.Application) { a.Operation = &api.Operation{Sync: &sync} }
	}
	done := func(a *api.Application) { a.Operation = nil }
	observed := func(r *delivery.Report) *delivery.Report { r.Observed = true; return r }
	rejected := fault.New(fault.Rejected, "Deployment/shop/b: no")
	tests := []struct {
		reason string
		change func(*api.Application)
		steps  []step
	}{
		{"deliver, wait for health, a commit beside it, a commit, a heal", nil, []step{
			{
				reason: "first sync", commit: commitA, report: report(nil, an("ConfigMap", "a", delivery.Created), an("Deployment", "b", delivery.Created, busy)), apply: true, revert: true,
				want: "Synced a Progressing op=Succeeded@a history=a a=Synced b=Synced", events: startedA + " | " + succeededA,
			},
			{
				reason: "still busy, otherwise", after: time.Second, commit: commitA, report: report(nil, an("ConfigMap", "a", delivery.Unchanged), an("Deployment", "b", delivery.Unchanged, fares(health.Progressing, "2 of 2"))), apply: true, revert: true, quiet: true,
				want: "Synced a Progressing op=Succeeded@a history=a a=Synced b=Synced",
			},
			{
				reason: "well", after: time.Second, commit: commitA, report: report(nil, an("ConfigMap", "a", delivery.Unchanged), an("Deployment", "b", delivery.Unchanged, healthy)), apply: true, revert: true,
				want: "Synced a Healthy op=Succeeded@a history=a a=Synced b=Synced",
			},
			{
				reason: "nothing new", after: time.Minute, commit: commitA, report: report(nil, an("ConfigMap", "a", delivery.Unchanged), an("Deployment", "b", delivery.Unchanged, healthy)), apply: true, revert: true, quiet: true,
				want: "Synced a Healthy op=Succeeded@a history=a a=Synced b=Synced",
			},
			{
				reason: "a commit that does not touch it", after: time.Minute, commit: commitB, report: report(nil, an("ConfigMap", "a", delivery.Unchanged), an("Deployment", "b", delivery.Unchanged, healthy)), apply: true, revert: true,
				want: "Synced b Healthy op=Succeeded@a history=a a=Synced b=Synced",
			},
			{
				reason: "a revert of the commit that prunes", after: time.Minute, commit: commitA, report: report(nil, an("Deployment", "b", delivery.Configured, healthy), an("ConfigMap", "a", delivery.Pruned, leftover)), apply: true, revert: true,
				want: "Synced a Healthy op=Succeeded@a/heal history=a a=OutOfSync/prune b=Synced", events: "initiated automated partial sync to '" + commitA + "' | Partial sync operation to " + commitA + " succeeded",
			},
			{
				reason: "it is gone", after: time.Second, commit: commitA, report: report(nil, an("Deployment", "b", delivery.Unchanged, healthy), an("ConfigMap", "a", delivery.Released, leftover)), apply: true, revert: true,
				want: "Synced a Healthy op=Succeeded@a/heal history=a b=Synced",
			},
			{
				reason: "drift", after: time.Minute, commit: commitA, report: report(nil, an("Deployment", "b", delivery.Reverted, healthy, because("it was changed in the cluster by kubectl"))), apply: true, revert: true,
				want: "Synced a Healthy op=Succeeded@a/heal history=a b=Synced", events: "initiated automated partial sync to '" + commitA + "' | Partial sync operation to " + commitA + " succeeded; deployment.apps/b reverted: it was changed in the cluster by kubectl",
			},
		}},
		{"a failure is tried again, then given up, until something changes", nil, []step{
			{
				reason: "fails", commit: commitA, report: report(rejected, an("ConfigMap", "a", delivery.Created), an("Deployment", "b", delivery.Failed)), apply: true, revert: true,
				want: "OutOfSync a Healthy op=Running@a a=Synced b=OutOfSync !SyncError", events: startedA,
			},
			{reason: "too early", after: time.Second, commit: commitA},
			{
				reason: "1", after: 5 * time.Second, commit: commitA, report: report(rejected, an("Deployment", "b", delivery.Failed)), apply: true, revert: true,
				want: "OutOfSync a Healthy op=Running@a/retry b=OutOfSync !SyncError",
			},
			{reason: "too early for 2", after: 9 * time.Second, commit: commitA},
			{
				reason: "2", after: time.Second, commit: commitA, report: report(rejected, an("Deployment", "b", delivery.Failed)), apply: true, revert: true,
				want: "OutOfSync a Healthy op=Running@a/retry b=OutOfSync !SyncError",
			},
			{
				reason: "3", after: 20 * time.Second, commit: commitA, report: report(rejected, an("Deployment", "b", delivery.Failed)), apply: true, revert: true,
				want: "OutOfSync a Healthy op=Running@a/retry b=OutOfSync !SyncError",
			},
			{
				reason: "4", after: 40 * time.Second, commit: commitA, report: report(rejected, an("Deployment", "b", delivery.Failed)), apply: true, revert: true,
				want: "OutOfSync a Healthy op=Running@a/retry b=OutOfSync !SyncError",
			},
			{
				reason: "5, the last", after: 80 * time.Second, commit: commitA, report: report(rejected, an("Deployment", "b", delivery.Failed)), apply: true, revert: true,
				want: "OutOfSync a Healthy op=Failed@a/retry b=OutOfSync !SyncError", events: "Sync operation to " + commitA + " failed: one or more objects failed to apply, reason: Deployment/shop/b: no (retried 5 times). The next commit is tried again; to try this one, set the annotation argocd.argoproj.io/refresh: hard",
			},
			{
				reason: "given up: compared only", after: time.Hour, commit: commitA, report: report(nil, an("Deployment", "b", delivery.Left)), quiet: true,
				want: "OutOfSync a Healthy op=Failed@a/retry b=OutOfSync !SyncError",
			},
			{
				reason: "somebody asks", after: time.Hour, commit: commitA, again: true, report: report(rejected, an("Deployment", "b", delivery.Failed)), apply: true, revert: true,
				want: "OutOfSync a Healthy op=Running@a b=OutOfSync !SyncError", events: startedA,
			},
			{
				reason: "a new commit", after: time.Hour, commit: commitB, report: report(nil, an("Deployment", "b", delivery.Created, healthy)), apply: true, revert: true,
				want: "Synced b Healthy op=Succeeded@b history=b b=Synced", events: strings.ReplaceAll("Sync operation to A succeeded", "A", commitB),
			},
		}},
		{"what cannot be compared leaves the inventory alone", nil, []step{
			{
				reason: "synced", commit: commitA, report: report(nil, an("Deployment", "b", delivery.Created, healthy)), apply: true, revert: true,
				want: "Synced a Healthy op=Succeeded@a history=a b=Synced", events: startedA + " | " + succeededA,
			},
			{
				reason: "a broken commit", after: time.Minute, commit: commitB, report: report(fault.New(fault.Invalid, "bad yaml").At("a.yaml", 3), an("Deployment", "b", delivery.Left, healthy)), apply: true, revert: true,
				want: "Unknown b Healthy op=Succeeded@a history=a b=Unknown !ComparisonError",
			},
			{
				reason: "the server is away", after: time.Minute, commit: commitB, err: fault.New(fault.Unreachable, "no answer"), as: api.ConditionComparisonError, apply: true, revert: true,
				want: "Unknown b Healthy op=Succeeded@a history=a b=Unknown !ComparisonError",
			},
			{
				reason: "the spec is refused", after: time.Minute, commit: commitB, err: fault.New(fault.Unsupported, "spec.x is not supported yet"), as: api.ConditionInvalidSpecError, apply: true, revert: true,
				want: "Unknown b Unknown op=Succeeded@a history=a b=Unknown !InvalidSpecError",
			},
			{
				reason: "and back", after: time.Minute, commit: commitA, report: report(nil, an("Deployment", "b", delivery.Unchanged, healthy)), apply: true, revert: true,
				want: "Synced a Healthy op=Succeeded@a history=a b=Synced",
			},
		}},
		{"an event completes what is being waited for", nil, []step{
			{
				reason: "a definition is not established", commit: commitA, report: report(fault.New(fault.Waiting, "Deployment/shop/b: behind"), an("ConfigMap", "a", delivery.Created), an("Deployment", "b", delivery.Skipped)), apply: true, revert: true,
				want: "OutOfSync a Healthy op=Running@a a=Synced b=OutOfSync", events: startedA,
			},
			{
				reason: "still", after: time.Second, commit: commitA, report: report(fault.New(fault.Waiting, "Deployment/shop/b: behind"), an("ConfigMap", "a", delivery.Unchanged), an("Deployment", "b", delivery.Skipped)), apply: true, revert: true, quiet: true,
				want: "OutOfSync a Healthy op=Running@a a=Synced b=OutOfSync",
			},
			{
				reason: "done", after: time.Second, commit: commitA, report: report(nil, an("ConfigMap", "a", delivery.Unchanged), an("Deployment", "b", delivery.Created)), apply: true, revert: true,
				want: "Synced a Healthy op=Succeeded@a history=a a=Synced b=Synced", events: succeededA,
			},
		}},
		{"without selfHeal, drift is told and left", func(a *api.Application) { a.Spec.SyncPolicy.Automated = &api.SyncPolicyAutomated{} }, []step{
			{
				reason: "synced", commit: commitA, report: report(nil, an("Deployment", "b", delivery.Created, healthy)), apply: true, revert: true,
				want: "Synced a Healthy op=Succeeded@a history=a b=Synced", events: startedA + " | " + succeededA,
			},
			{
				reason: "drift", after: time.Minute, commit: commitA, report: report(nil, an("Deployment", "b", delivery.Left, healthy)), apply: true,
				want: "OutOfSync a Healthy op=Succeeded@a history=a b=OutOfSync",
			},
			{
				reason: "a commit that leaves something over", after: time.Minute, commit: commitB, report: report(nil, an("Deployment", "b", delivery.Reverted, healthy, because("why")), an("ConfigMap", "a", delivery.Left, leftover)), apply: true, revert: true,
				want: "OutOfSync b Healthy op=Succeeded@b history=a,b a=OutOfSync/prune b=Synced", events: strings.ReplaceAll("initiated automated sync to 'A' | Sync operation to A succeeded; deployment.apps/b reverted: why", "A", commitB),
			},
		}},
		{"automated off: compared only", func(a *api.Application) { a.Spec.SyncPolicy = nil }, []step{
			{
				reason: "out of sync", commit: commitA, report: report(nil, an("Deployment", "b", delivery.Left, fares(health.Missing, ""))),
				want: "OutOfSync a Missing b=OutOfSync",
			},
			{
				reason: "a sync is asked for", after: time.Second, commit: commitA, change: ask(api.SyncOperation{}), report: report(rejected, an("Deployment", "b", delivery.Failed)), apply: true, revert: true,
				want: "OutOfSync a Healthy op=Failed@a b=OutOfSync", events: "somebody initiated sync to '" + commitA + "' | Sync operation to " + commitA + " failed: one or more objects failed to apply, reason: Deployment/shop/b: no",
			},
			{
				reason: "it is over: compared only", after: time.Second, commit: commitA, change: done, report: report(nil, an("Deployment", "b", delivery.Left, fares(health.Missing, ""))),
				want: "OutOfSync a Missing op=Failed@a b=OutOfSync",
			},
			{
				reason: "one that is tried again", after: time.Second, commit: commitA, change: func(a *api.Application) {
					ask(api.SyncOperation{})(a)
					a.Operation.Retry = api.RetryStrategy{Limit: 1, Backoff: &api.Backoff{Duration: "7"}}
				}, report: report(rejected, an("Deployment", "b", delivery.Failed)), apply: true, revert: true,
				want: "OutOfSync a Healthy op=Running@a b=OutOfSync", events: "somebody initiated sync to '" + commitA + "'",
			},
			{reason: "too early", after: 6 * time.Second, commit: commitA},
			{
				reason: "the only retry, at the same commit whatever the branch does", after: time.Second, commit: commitA, report: report(nil, an("Deployment", "b", delivery.Created, healthy)), apply: true, revert: true,
				want: "Synced a Healthy op=Succeeded@a/retry history=a b=Synced", events: succeededA,
			},
			{
				reason: "a new commit is compared only", after: time.Minute, commit: commitB, change: done, report: report(nil, an("Deployment", "b", delivery.Left, healthy)),
				want: "OutOfSync b Healthy op=Succeeded@a/retry history=a b=OutOfSync",
			},
			{
				reason: "a sync of a part", after: time.Minute, commit: commitB, change: ask(api.SyncOperation{Resources: []api.SyncOperationResource{{Kind: "ConfigMap", Name: "a"}}}),
				report: report(nil, an("ConfigMap", "a", delivery.Created), an("Deployment", "b", delivery.Left, healthy)), apply: true, revert: true,
				want: "OutOfSync b Healthy op=Succeeded@b/heal history=a a=Synced b=OutOfSync", events: "somebody initiated partial sync to '" + commitB + "' | Partial sync operation to " + commitB + " succeeded",
			},
			{
				reason: "a dry run", after: time.Minute, commit: commitB, change: ask(api.SyncOperation{DryRun: true}),
				report: observed(report(nil, an("ConfigMap", "a", delivery.Unchanged), an("Deployment", "b", delivery.Left, healthy))), apply: true, revert: true,
				want: "OutOfSync b Healthy op=Succeeded@b history=a a=Synced b=OutOfSync", events: strings.ReplaceAll("somebody initiated sync to 'A' | Sync operation to A succeeded", "A", commitB),
			},
			{
				reason: "a rollback, which says nothing about the branch", after: time.Minute, commit: commitA, detour: true, change: func(a *api.Application) {
					ask(api.SyncOperation{Revision: commitA})(a)
					a.Operation.InitiatedBy.Username = "alice"
				}, report: report(nil, an("Deployment", "b", delivery.Configured, healthy)), apply: true, revert: true,
				want: "OutOfSync b Healthy op=Succeeded@a history=a,a b=Synced", events: "alice initiated sync to '" + commitA + "' | Sync operation to " + commitA + " succeeded",
			},
			{
				reason: "the source is away when a sync is asked for", after: time.Minute, change: ask(api.SyncOperation{}), err: fault.New(fault.Unreachable, "no answer"), as: api.ConditionComparisonError, apply: true, revert: true,
				want: "Unknown b Healthy op=Error@ history=a,a b=Unknown !ComparisonError", events: "somebody initiated sync to '' | Sync operation to  failed: one or more objects failed to apply, reason: no answer",
			},
			{
				reason: "switched on", after: time.Second, commit: commitA, change: func(a *api.Application) {
					done(a)
					a.Spec.SyncPolicy = &api.SyncPolicy{Automated: &api.SyncPolicyAutomated{}}
				}, report: report(nil, an("Deployment", "b", delivery.Created, healthy)), apply: true, revert: true,
				want: "Synced a Healthy op=Succeeded@a history=a,a,a b=Synced", events: startedA + " | " + succeededA,
			},
		}},
		{"a namespace that is created is not part of the Application", nil, []step{
			{
				reason: "synced", commit: commitA, report: report(nil, an("Namespace", "shop", delivery.Created, func(o *delivery.Object) { o.Origin = object.Origin{}; o.ID.Namespace = "" }), an("ConfigMap", "a", delivery.Created)), apply: true, revert: true,
				want: "Synced a Healthy op=Succeeded@a history=a a=Synced", events: startedA + " | " + succeededA,
			},
		}},
	}
	for _, tc := range tests {
		t.Run(tc.reason, func(t *testing.T) {
			app := application(t)
			if tc.change != nil {
				tc.change(app)
			}
			live(t, app, tc.steps)
		})
	}
}

func TestHealth(t *testing.T) {
	missing := an("Deployment", "m", delivery.Waiting, fares(health.Missing, ""))
	tests := []struct {
		reason  string
		objects []delivery.Object
		want    string
	}{
		{"nothing", nil, "Healthy "},
		{"nothing that has health", []delivery.Object{an("ConfigMap", "a", delivery.Unchanged)}, "Healthy "},
		{"the worst counts, and is named", []delivery.Object{an("Deployment", "a", delivery.Unchanged, fares(health.Degraded, "crash")), an("Deployment", "b", delivery.Unchanged, fares(health.Progressing, ""))}, "Degraded Deployment shop/a: crash"},
		{"what is missing does not count", []delivery.Object{missing, an("ConfigMap", "a", delivery.Unchanged)}, "Healthy "},
		{"unless everything is", []delivery.Object{missing}, "Missing "},
		{"a child Application speaks for itself", []delivery.Object{an("Application", "a", delivery.Unchanged, fares(health.Degraded, "x"))}, "Healthy "},
		{"a leftover does not count", []delivery.Object{an("Deployment", "a", delivery.Left, leftover, fares(health.Degraded, "x"))}, "Healthy "},
	}
	for _, tc := range tests {
		t.Run(tc.reason, func(t *testing.T) {
			status, message := worst(tc.objects)
			if got := string(status) + " " + message; got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

func TestHealthTransitionTime(t *testing.T) {
	at := metav1.NewTime(noon)
	before := api.HealthStatus{Status: "Healthy", LastTransitionTime: &at}
	same := healthStatus(before, found{at: noon.Add(time.Hour), report: report(nil)})
	if !same.LastTransitionTime.Equal(&at) {
		t.Error("the time moved although the status did not")
	}
	other := healthStatus(before, found{at: noon.Add(time.Hour), report: report(nil, an("Deployment", "a", delivery.Unchanged, fares(health.Degraded, "")))})
	if !other.LastTransitionTime.Equal(&metav1.Time{Time: noon.Add(time.Hour)}) {
		t.Error("the time did not move with the status")
	}
}

func TestHistoryLimit(t *testing.T) {
	app := application(t)
	at := metav1.NewTime(noon)
	sync := func() {
		op := &api.OperationState{Phase: api.OperationSucceeded, FinishedAt: &at, Operation: api.Operation{Sync: &api.SyncOperation{}}, SyncResult: &api.SyncOperationResult{}}
		app.Status.History = history(app, op)
		app.Status.OperationState = op
	}
	for range 12 {
		sync()
	}
	if n := len(app.Status.History); n != 10 || app.Status.History[9].ID != 11 || app.Status.History[0].ID != 2 {
		t.Errorf("got %d entries: %+v", n, app.Status.History)
	}
	two := int64(2)
	app.Spec.RevisionHistoryLimit = &two
	sync()
	if n := len(app.Status.History); n != 2 || app.Status.History[1].ID != 12 {
		t.Errorf("got %d entries: %+v", n, app.Status.History)
	}
	none := int64(0)
	app.Spec.RevisionHistoryLimit = &none
	if sync(); len(app.Status.History) != 0 {
		t.Errorf("got %+v", app.Status.History)
	}
}

func TestContested(t *testing.T) {
	o := an("Deployment", "b", delivery.Left, because("somebody else keeps changing it (it was changed in the cluster by hpa); reverts back off"))
	o.Contested = true
	r := report(nil, o)
	r.RetryAfter = 2 * time.Second
	f := found{at: noon, commit: commitA, attempt: attempt{apply: true}, report: r}
	app := application(t)
	app.Status = transition(app, f)
	i := slices.IndexFunc(app.Status.Conditions, func(c api.ApplicationCondition) bool { return c.Type == ConditionContested })
	if i < 0 {
		t.Fatalf("no condition: %+v", app.Status.Conditions)
	}
	r.RetryAfter = time.Second
	if again := transition(app, f); !apiequality.Semantic.DeepEqual(again, app.Status) {
		t.Errorf("the status follows the clock:\n%s", cmp.Diff(app.Status, again))
	}
}

func TestResultsOfAnOperationAddUp(t *testing.T) {
	r := func(name, message string, code api.ResultCode) api.ResourceResult {
		return api.ResourceResult{Kind: "ConfigMap", Name: name, Message: message, Status: code}
	}
	got := merged(
		[]api.ResourceResult{r("a", "configmap/a created", api.ResultCodeSynced), r("b", "no", api.ResultCodeSyncFailed)},
		[]api.ResourceResult{r("a", "configmap/a unchanged", api.ResultCodeSynced), r("b", "configmap/b unchanged", api.ResultCodeSynced), r("c", "configmap/c created", api.ResultCodeSynced)},
	)
	want := []api.ResourceResult{r("a", "configmap/a created", api.ResultCodeSynced), r("b", "configmap/b unchanged", api.ResultCodeSynced), r("c", "configmap/c created", api.ResultCodeSynced)}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}
