package argo

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	api "github.com/holdfastcd/holdfast/api/argo/v1alpha1"
	"github.com/holdfastcd/holdfast/internal/delivery"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/source"
)

func ordered(t *testing.T, op api.Operation, change ...func(*api.Application)) (*api.Application, *order, error) {
	t.Helper()
	app := application(t, append(change, func(a *api.Application) { a.Operation = &op })...)
	o, err := orderOf(app)
	return app, o, err
}

func TestOrderRefuses(t *testing.T) {
	tests := []struct {
		reason string
		op     api.Operation
		want   string // part of the error; empty: none
	}{
		{"all that is asked for by kubectl", api.Operation{Sync: &api.SyncOperation{}}, ""},
		{"all that is asked for by the command line", api.Operation{
			Sync: &api.SyncOperation{
				Revision: commitA, Prune: true, DryRun: true, SyncOptions: []string{"CreateNamespace=true"}, AutoHealAttemptsCount: 1,
				SyncStrategy: &api.SyncStrategy{Hook: &api.SyncStrategyHook{Force: true}}, Resources: []api.SyncOperationResource{{Kind: "A", Name: "a"}},
			},
			InitiatedBy: api.OperationInitiator{Username: "alice"}, Info: []api.Info{{Name: "a", Value: "b"}}, Retry: api.RetryStrategy{Limit: 3},
		}, ""},
		{"nothing", api.Operation{}, "Invalid: operation asks for nothing"},
		{"manifests from somewhere else", api.Operation{Sync: &api.SyncOperation{Manifests: []string{"x"}}}, "Unsupported: operation.sync.manifests is not supported yet"},
		{"several sources", api.Operation{Sync: &api.SyncOperation{Revisions: []string{"x"}, Sources: []api.ApplicationSource{{RepoURL: "x"}}}}, "operation.sync.revisions, operation.sync.sources are not"},
		{"an option", api.Operation{Sync: &api.SyncOperation{SyncOptions: []string{"Replace=true"}}}, "operation.sync.syncOptions: Replace=true is"},
		{"a distance", api.Operation{Sync: &api.SyncOperation{}, Retry: api.RetryStrategy{Backoff: &api.Backoff{MaxDuration: "x"}}}, "operation.retry: backoff"},
		{"a revision that is an argument", api.Operation{Sync: &api.SyncOperation{Revision: "-x"}}, "Invalid: "},
	}
	for _, tc := range tests {
		t.Run(tc.reason, func(t *testing.T) {
			app, o, err := ordered(t, tc.op)
			got := text(t, err)
			if tc.want == "" && got != "" || !strings.Contains(got, tc.want) {
				t.Errorf("got %q, want %q", got, tc.want)
			}
			if err == nil {
				return
			}
			state := o.refuse(app, err, noon)
			if state.Phase != api.OperationError || state.Message != err.Error() || state.FinishedAt == nil || state.SyncResult == nil {
				t.Errorf("the refusal is not on record: %+v", state)
			}
		})
	}
}

func TestOrderShapes(t *testing.T) {
	app, o, err := ordered(t, api.Operation{Sync: &api.SyncOperation{
		Prune: true, DryRun: true, SyncOptions: []string{"PrunePropagationPolicy=orphan"},
		SyncStrategy: &api.SyncStrategy{Apply: &api.SyncStrategyApply{Force: true}},
		Resources:    []api.SyncOperationResource{{Kind: "ConfigMap", Name: "a"}, {Group: "apps", Kind: "Deployment", Namespace: "n", Name: "b"}},
	}}, func(a *api.Application) {
		a.Spec.SyncPolicy = nil
		a.Status.Resources = []api.ResourceStatus{{Kind: "ConfigMap", Namespace: "other", Name: "a"}, {Kind: "Secret", Namespace: "other", Name: "a"}}
	})
	if err != nil {
		t.Fatal(err)
	}
	wanted := o.app(app)
	spec, err := Spec(wanted, project(t, ""), revision(commitA), options)
	if err != nil {
		t.Fatal(err)
	}
	o.shape(&spec, wanted)
	if !spec.Prune || !spec.Revert || !spec.Force || !spec.Observe || spec.Profile.Propagation != "Orphan" {
		t.Errorf("got %+v", spec)
	}
	if b := spec.Profile.Plan.Brake; b.Share != 0 || len(b.Protected) == 0 {
		t.Errorf("a word to prune lifts the brake on the share and no other: %+v", b)
	}
	want := []object.ID{
		{Kind: "ConfigMap", Name: "a"},
		{Kind: "ConfigMap", Namespace: "shop", Name: "a"},
		{Kind: "ConfigMap", Namespace: "other", Name: "a"},
		{Group: "apps", Kind: "Deployment", Namespace: "n", Name: "b"},
	}
	if diff := cmp.Diff(want, spec.Only); diff != "" {
		t.Errorf("the selection, -want +got:\n%s", diff)
	}
	if app.Spec.SyncPolicy != nil {
		t.Error("the order changed the Application itself")
	}
}

func TestOrderElsewhere(t *testing.T) {
	other := &api.ApplicationSource{RepoURL: "https://git.example.com/shop/deploy.git", Path: "apps/old", TargetRevision: "main"}
	tests := []struct {
		reason string
		sync   api.SyncOperation
		want   bool
	}{
		{"the spec's own", api.SyncOperation{}, false},
		{"the branch by name", api.SyncOperation{Revision: "main"}, false},
		{"a commit, which may be another", api.SyncOperation{Revision: commitA}, true},
		{"the same source, spelled out", api.SyncOperation{Source: &api.ApplicationSource{
			RepoURL: "https://git.example.com/shop/deploy.git", Path: "apps/web", TargetRevision: "main", Helm: &api.ApplicationSourceHelm{},
		}}, false},
		{"another source", api.SyncOperation{Source: other}, true},
	}
	for _, tc := range tests {
		app, o, err := ordered(t, api.Operation{Sync: &tc.sync})
		if err != nil {
			t.Fatal(err)
		}
		if got := o.elsewhere(app); got != tc.want {
			t.Errorf("%s: got %v", tc.reason, got)
		}
	}
	var none *order
	if none.elsewhere(application(t)) || none.app(application(t)) == nil {
		t.Error("nothing is ordered, and yet it leads elsewhere")
	}
}

// An operation that waits for its next attempt goes on with the commit that it began with.
func TestOrderIsPinned(t *testing.T) {
	op := api.Operation{Sync: &api.SyncOperation{}, Retry: api.RetryStrategy{Limit: 2}}
	begun := func(a *api.Application) {
		at := metav1.NewTime(noon)
		a.Status.OperationState = &api.OperationState{
			Operation: op, Phase: api.OperationRunning, StartedAt: at, FinishedAt: &at, SyncResult: &api.SyncOperationResult{Revision: commitA},
		}
	}
	if _, o, _ := ordered(t, op, begun); o.target != commitA || !o.pinned {
		t.Errorf("got %+v", o)
	}
	app, o, _ := ordered(t, op, begun)
	for _, tc := range []struct{ reason, target, want string }{
		{"the status names the commit, and nobody asked for an older one than the branch had", "main", "main"},
		{"the default branch", "", "HEAD"},
		{"who asks for a commit by its id may go back", commitA, ""},
	} {
		app.Spec.Source.TargetRevision = tc.target
		if got := o.found(source.Revision{Commit: commitA}, app).Ref(); got != tc.want {
			t.Errorf("%s: got %q", tc.reason, got)
		}
	}
	if got := (*order)(nil).found(source.Revision{Commit: commitA}, app).Ref(); got != "" {
		t.Errorf("nothing is ordered: got %q", got)
	}
	if _, o, _ := ordered(t, api.Operation{Sync: &api.SyncOperation{Prune: true}}, begun); o.target != "" {
		t.Errorf("another order goes on with the last one's commit: %+v", o)
	}
	op.Retry.Refresh = true
	if _, o, _ := ordered(t, op, begun); o.target != "" {
		t.Errorf("a retry that resolves anew is pinned: %+v", o)
	}
}

func TestStopped(t *testing.T) {
	app := application(t, func(a *api.Application) {
		a.Status.OperationState = &api.OperationState{Phase: api.OperationRunning, StartedAt: metav1.NewTime(noon)}
	})
	if stopped(app, noon) != nil {
		t.Error("nobody asked for an end")
	}
	app.Status.OperationState.Phase = api.OperationTerminating
	got := stopped(app, noon.Add(time.Minute))
	if got == nil || got.Phase != api.OperationFailed || got.FinishedAt == nil || got.Message != "Operation terminated" || got.SyncResult == nil {
		t.Errorf("got %+v", got)
	}
}

func TestRetries(t *testing.T) {
	three := int64(3)
	tests := []struct {
		reason   string
		strategy *api.RetryStrategy
		limit    int64
		wait     []time.Duration
	}{
		{"nothing is said", nil, 5, []time.Duration{5 * time.Second, 10 * time.Second, 20 * time.Second, 40 * time.Second, 80 * time.Second, 160 * time.Second, 3 * time.Minute, 3 * time.Minute}},
		{"a bare number counts seconds", &api.RetryStrategy{Limit: 2, Backoff: &api.Backoff{Duration: "2"}}, 2, []time.Duration{2 * time.Second, 4 * time.Second}},
		{"a factor and a bound", &api.RetryStrategy{Limit: -1, Backoff: &api.Backoff{Duration: "1m", Factor: &three, MaxDuration: "5m"}}, -1, []time.Duration{time.Minute, 3 * time.Minute, 5 * time.Minute}},
		{"never", &api.RetryStrategy{}, 0, nil},
	}
	for _, tc := range tests {
		r, err := retriesOf(tc.strategy, 5)
		if err != nil || r.limit != tc.limit {
			t.Errorf("%s: got %+v, %v", tc.reason, r, err)
		}
		for n, want := range tc.wait {
			if got := r.backOff(int64(n)); got != want {
				t.Errorf("%s: after %d retries %v, want %v", tc.reason, n, got, want)
			}
		}
		if r.left(1_000_000) != (tc.limit < 0) || r.backOff(1_000_000) != r.most {
			t.Errorf("%s: it never ends", tc.reason)
		}
	}
}

func TestChanges(t *testing.T) {
	state := func(sync api.SyncStatusCode, health api.HealthStatusCode) api.ApplicationStatus {
		return api.ApplicationStatus{Sync: api.SyncStatus{Status: sync}, Health: api.HealthStatus{Status: health}}
	}
	got := changes(state("Synced", "Healthy"), state("OutOfSync", "Degraded"))
	if diff := cmp.Diff([]string{"Updated sync status: Synced -> OutOfSync", "Updated health status: Healthy -> Degraded"}, got); diff != "" {
		t.Error(diff)
	}
	if got := changes(state("", ""), state("Synced", "Healthy")); got != nil {
		t.Errorf("what an Application begins with is no news: %v", got)
	}
}

// A failure is told in the log once, not with every pass that meets it again.
func TestFailures(t *testing.T) {
	status := func(conditions ...api.ApplicationCondition) api.ApplicationStatus {
		return api.ApplicationStatus{Conditions: conditions}
	}
	bad := api.ApplicationCondition{Type: api.ConditionComparisonError, Message: "a.yaml:1: not valid YAML"}
	worse := api.ApplicationCondition{Type: api.ConditionComparisonError, Message: "a.yaml:7: not valid YAML"}
	held := api.ApplicationCondition{Type: ConditionHeld, Message: "a prune is held"}
	for _, tc := range []struct {
		reason        string
		before, after api.ApplicationStatus
		want          []api.ApplicationCondition
	}{
		{"it failed", status(), status(bad, held), []api.ApplicationCondition{bad}},
		{"it fails as before", status(bad), status(bad), nil},
		{"it fails in another way", status(bad), status(worse), []api.ApplicationCondition{worse}},
		{"it is well again", status(bad), status(), nil},
	} {
		if diff := cmp.Diff(tc.want, failures(tc.before, tc.after)); diff != "" {
			t.Errorf("%s: %s", tc.reason, diff)
		}
	}
}

// What the brake holds is told with the word that lets it go.
func TestHeld(t *testing.T) {
	app := application(t)
	r := report(fault.New(fault.Waiting, "a prune is held"), an("ConfigMap", "a", delivery.Unchanged), an("ConfigMap", "b", delivery.Held, leftover, because("its prune waits for a word")))
	r.Held, r.HeldDigest = []object.ID{{Kind: "ConfigMap", Namespace: "shop", Name: "b"}}, "d1gest"
	s := transition(app, found{at: noon, commit: commitA, attempt: attempt{apply: true}, report: r})
	if len(s.Conditions) != 1 || s.Conditions[0].Type != ConditionHeld ||
		!strings.Contains(s.Conditions[0].Message, "kubectl annotate application -n argocd web --overwrite holdfast.dev/confirm-prune=d1gest") {
		t.Errorf("got %+v", s.Conditions)
	}
	if b := s.Resources[1]; !b.RequiresPruning || !b.RequiresDeletionConfirmation {
		t.Errorf("got %+v", b)
	}
}
