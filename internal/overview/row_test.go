package overview

import (
	"testing"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/fluxcd/pkg/apis/meta"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	api "github.com/holdfastcd/holdfast/api/argo/v1alpha1"
)

func TestDescribe(t *testing.T) {
	ready := func(status metav1.ConditionStatus, reason, message string) []metav1.Condition {
		return []metav1.Condition{{Type: meta.ReadyCondition, Status: status, Reason: reason, Message: message}}
	}
	kustomization := func(suspend bool, generation, observed int64, conditions []metav1.Condition) *kustomizev1.Kustomization {
		ks := &kustomizev1.Kustomization{}
		ks.Namespace, ks.Name, ks.Generation = "flux-system", "apps", generation
		ks.Spec.SourceRef.Kind, ks.Spec.SourceRef.Name, ks.Spec.Path, ks.Spec.Suspend = "GitRepository", "fleet", "./apps", suspend
		ks.Status.ObservedGeneration, ks.Status.Conditions = observed, conditions
		ks.Status.LastAppliedRevision = "main@sha1:0123456789abcdef"
		return ks
	}
	row := func(state, message string) Row {
		return Row{
			Kind: "Kustomization", Namespace: "flux-system", Name: "apps", Source: "GitRepository/fleet", Path: "./apps",
			Revision: "main@sha1:0123456789abcdef", State: state, Message: message,
		}
	}
	application := func(change func(*api.Application)) *api.Application {
		app := &api.Application{}
		app.Namespace, app.Name = "argocd", "shop"
		app.Spec.Source = &api.ApplicationSource{RepoURL: "https://git.example/fleet.git", Path: "apps/shop"}
		app.Status.Sync.Status, app.Status.Sync.Revision = api.SyncStatusCodeSynced, "0123456789abcdef"
		app.Status.Health.Status = "Healthy"
		app.Status.Resources = []api.ResourceStatus{{Kind: "Service", Name: "web", Status: api.SyncStatusCodeSynced}}
		change(app)
		return app
	}
	shop := func(state, health, message string) Row {
		return Row{
			Kind: "Application", Namespace: "argocd", Name: "shop", Source: "https://git.example/fleet.git", Path: "apps/shop",
			Revision: "0123456789abcdef", State: state, Health: health, Message: message, Objects: 1,
		}
	}
	now := metav1.Now()
	tests := []struct {
		name, reason string
		in           client.Object
		want         Row
	}{
		{"ready", "all is well", kustomization(false, 1, 1, ready("True", "x", "Applied")), row(Synced, "Applied")},
		{"failed", "and why", kustomization(false, 1, 1, ready("False", "BuildFailed", "a.yaml:1: bad")), row(Failed, "a.yaml:1: bad")},
		{"waits", "for another", kustomization(false, 1, 1, ready("False", meta.DependencyNotReadyReason, "waits")), row(Progressing, "waits")},
		{"progressing", "it is being applied", kustomization(false, 1, 1, ready("Unknown", "x", "applying")), row(Progressing, "applying")},
		{"outdated", "the condition is about an older spec", kustomization(false, 2, 1, ready("True", "x", "Applied")), row(Progressing, "Applied")},
		{"suspended", "nobody looks", kustomization(true, 2, 1, ready("False", "x", "old")), row(Suspended, "old")},
		{"new", "no controller has seen it", kustomization(false, 1, 0, nil), row(Unknown, "nobody has looked at it yet; is the controller running?")},
		{
			"deleted", "it is going", func() client.Object {
				ks := kustomization(false, 1, 1, ready("True", "x", "Applied"))
				ks.DeletionTimestamp = &now
				return ks
			}(), row(Progressing, "being deleted; Applied"),
		},
		{
			"unhealthy", "wait looks at health", kustomization(false, 1, 1, append(ready("True", "x", ""), metav1.Condition{Type: meta.HealthyCondition, Status: "False"})),
			func() Row { r := row(Synced, ""); r.Health = "Degraded"; return r }(),
		},
		{
			"refused", "nothing is under way", kustomization(false, 1, 1, append(ready("False", "VerificationError", "not signed"), metav1.Condition{Type: meta.HealthyCondition, Status: "Unknown"})),
			func() Row { r := row(Failed, "not signed"); r.Health = Unknown; return r }(),
		},
		{
			"rolls out", "its Pods are not there yet", kustomization(false, 1, 1, append(ready("Unknown", "x", "waits"), metav1.Condition{Type: meta.HealthyCondition, Status: "Unknown"})),
			func() Row { r := row(Progressing, "waits"); r.Health = Progressing; return r }(),
		},
		{
			"warned", "what would be refused if it were new is told", kustomization(false, 1, 1, append(ready("True", "x", "Applied"), metav1.Condition{Type: "PolicyWarning", Status: "True", Message: "no limits"})),
			row(Synced, "warning: no limits"),
		},
		{
			"failed and warned", "the failure is what matters", kustomization(false, 1, 1, append(ready("False", "x", "bad"), metav1.Condition{Type: "PolicyWarning", Status: "True", Message: "no limits"})),
			row(Failed, "bad"),
		},
		{
			"repository", "a source", func() client.Object {
				g := &sourcev1.GitRepository{}
				g.Namespace, g.Name, g.Spec.URL = "flux-system", "fleet", "https://git.example/fleet.git"
				g.Status.Artifact = &meta.Artifact{Revision: "main@sha1:01"}
				g.Status.Conditions = ready("True", "x", "stored")
				return g
			}(), Row{Kind: "GitRepository", Namespace: "flux-system", Name: "fleet", Source: "https://git.example/fleet.git", Revision: "main@sha1:01", State: Synced, Message: "stored"},
		},
		{"application", "all is well", application(func(*api.Application) {}), shop(Synced, "Healthy", "")},
		{"application differs", "and where", application(func(a *api.Application) {
			a.Status.Sync.Status = api.SyncStatusCodeOutOfSync
			a.Status.Resources[0].Status = api.SyncStatusCodeOutOfSync
		}), shop(OutOfSync, "Healthy", "differs: Service/web")},
		{"application cannot be compared", "a condition says why", application(func(a *api.Application) {
			a.Status.Conditions = []api.ApplicationCondition{{Type: api.ConditionComparisonError, Message: "no such path"}}
		}), shop(Failed, "Healthy", "no such path")},
		{"a warning", "is no failure", application(func(a *api.Application) {
			a.Status.Conditions = []api.ApplicationCondition{{Type: api.ConditionSharedResourceWarning, Message: "shared"}}
		}), shop(Synced, "Healthy", "")},
		{"application warned", "what a policy that audits would refuse is told", application(func(a *api.Application) {
			a.Status.Conditions = []api.ApplicationCondition{{Type: "TrustWarning", Message: "not signed"}}
		}), shop(Synced, "Healthy", "warning: not signed")},
		{"application failed", "the operation says why", application(func(a *api.Application) {
			a.Status.Sync.Status = api.SyncStatusCodeOutOfSync
			a.Status.OperationState = &api.OperationState{Phase: api.OperationFailed, Message: "forbidden"}
		}), shop(Failed, "Healthy", "forbidden")},
		{"application recovered", "an old failure does not matter", application(func(a *api.Application) {
			a.Status.OperationState = &api.OperationState{Phase: api.OperationFailed, Message: "forbidden"}
		}), shop(Synced, "Healthy", "")},
		{"application suspended", "as Argo CD is told", application(func(a *api.Application) {
			a.Annotations = map[string]string{"argocd.argoproj.io/skip-reconcile": "true"}
		}), shop(Suspended, "Healthy", "")},
		{"application taken over", "the mark speaks to the other controller", application(func(a *api.Application) {
			a.Annotations = map[string]string{"argocd.argoproj.io/skip-reconcile": "true", "holdfast.dev/takeover": "true"}
		}), func() Row { r := shop(Synced, "Healthy", ""); r.Takeover = "true"; return r }()},
		{"handed back", "it is on the way", func() client.Object {
			ks := kustomization(true, 1, 1, ready("True", "x", "Applied"))
			ks.Annotations = map[string]string{"holdfast.dev/takeover": "handback"}
			return ks
		}(), func() Row { r := row(Progressing, "being handed back; Applied"); r.Takeover = "handback"; return r }()},
		{"application runs", "it is being synced", application(func(a *api.Application) {
			a.Status.OperationState = &api.OperationState{Phase: api.OperationRunning, Message: "waiting"}
		}), shop(Progressing, "Healthy", "waiting")},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, Describe(tt.in)); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tt.reason, diff)
			}
		})
	}
}

func TestShortRevision(t *testing.T) {
	tests := []struct{ in, want, reason string }{
		{"main@sha1:0123456789abcdef", "main@01234567", "Flux's"},
		{"feature/a@b@sha1:0123456789abcdef", "feature/a@b@01234567", "a branch may hold an at sign"},
		{"sha1:0123456789abcdef", "01234567", "a commit alone"},
		{"0123456789abcdef", "01234567", "Argo CD's"},
		{"", "", "none"},
	}
	for _, tt := range tests {
		if got := ShortRevision(tt.in); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.reason, got, tt.want)
		}
	}
}

func TestCheckKind(t *testing.T) {
	for _, kind := range []string{"", "Application", "apps", "KS", "gitrepo"} {
		if err := CheckKind(kind); err != nil {
			t.Errorf("%q: %v", kind, err)
		}
	}
	if CheckKind("pods") == nil {
		t.Error("pods are nothing that asks for a delivery")
	}
}
