package operate

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/holdfastcd/holdfast/internal/dialect"
	"github.com/holdfastcd/holdfast/internal/fault"
)

func parse(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	u := &unstructured.Unstructured{}
	b, err := yaml.YAMLToJSON([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if err := u.UnmarshalJSON(b); err != nil { // whole numbers stay whole, as from a cluster
		t.Fatal(err)
	}
	return u
}

const (
	app = `
apiVersion: argoproj.io/v1alpha1
kind: Application
metadata: {name: shop, namespace: argocd}
spec:
  project: default
  source: {repoURL: "https://git.example/shop.git", path: ., targetRevision: main}
  destination: {server: "https://kubernetes.default.svc", namespace: shop}
  strange: {field: kept}
`
	history = `
status:
  history:
  - {id: 3, revision: aaa, deployedAt: "2026-01-01T00:00:00Z", source: {repoURL: "https://git.example/old.git", path: old}}
  - {id: 4, revision: bbb, deployedAt: "2026-01-02T00:00:00Z"}
`
	ks = `
apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: apps, namespace: flux-system, generation: 2}
spec:
  path: ./apps
  sourceRef: {kind: GitRepository, name: fleet}
`
)

func TestSyncAsks(t *testing.T) {
	tests := []struct {
		name, reason string
		on           string
		ask          Sync
		want         string // what differs, as YAML of operation or annotations
		kind         fault.Kind
		fails        string
	}{
		{name: "plain", reason: "as Argo CD's client writes it", on: app, ask: Sync{User: "ann"}, want: "{initiatedBy: {username: ann}, sync: {}}"},
		{
			name: "everything", reason: "every flag arrives", on: app,
			ask: Sync{Revision: "v1", Prune: true, DryRun: true, Force: true, Resources: []string{"apps:Deployment:web", ":Service:shop/web"}},
			want: `{sync: {revision: v1, prune: true, dryRun: true, syncStrategy: {hook: {force: true}},
			  resources: [{group: apps, kind: Deployment, name: web}, {kind: Service, namespace: shop, name: web}]}}`,
		},
		{
			name: "policy", reason: "options and retry of the Application count for a sync by hand too",
			on:   app + "  syncPolicy: {syncOptions: [CreateNamespace=true], retry: {limit: 2}}\n",
			want: "{sync: {syncOptions: [CreateNamespace=true]}, retry: {limit: 2}}",
		},
		{
			name: "elsewhere", reason: "the next look at Git would undo it", on: app + "  syncPolicy: {automated: {}}\n",
			ask: Sync{Revision: "v1"}, fails: "synced by itself to main", kind: fault.Refused,
		},
		{name: "busy", reason: "one operation at a time", on: app + "operation: {sync: {}}\n", fails: "another operation", kind: fault.Refused},
		{name: "no object", reason: "half a name names nothing", on: app, ask: Sync{Resources: []string{"web"}}, fails: `"web" names no object`, kind: fault.Invalid},
		{name: "kustomization", reason: "as Flux's client asks", on: ks, want: "{reconcile.fluxcd.io/requestedAt: now}"},
		{name: "confirm", reason: "the word goes with the request", on: ks, ask: Sync{Confirm: "4f"}, want: "{reconcile.fluxcd.io/requestedAt: now, holdfast.dev/confirm-prune: 4f}"},
		{
			name: "confirm beside a prune", reason: "a sync that prunes is an operation", on: app,
			ask: Sync{Prune: true, Confirm: "4f"}, want: "{sync: {prune: true}}",
		},
		{
			name: "confirm to one that prunes", reason: "it prunes by itself; an operation without prune would not",
			on: app + "  syncPolicy: {automated: {prune: true}}\n", ask: Sync{Confirm: "4f"}, want: "",
		},
		{
			name: "confirm to one that does not", reason: "there is nothing that the word lets happen",
			on: app, ask: Sync{Confirm: "4f"}, fails: "give --prune as well", kind: fault.Invalid,
		},
		{
			name: "confirm a part", reason: "what is confirmed is a set",
			on: app + "  syncPolicy: {automated: {prune: true}}\n", ask: Sync{Confirm: "4f", Force: true}, fails: "goes with --prune or alone", kind: fault.Invalid,
		},
		{name: "revision of a kustomization", reason: "refused by name", on: ks, ask: Sync{Revision: "v1"}, fails: "--revision is for Applications", kind: fault.Unsupported},
		{name: "dry run of a kustomization", reason: "never ignored", on: ks, ask: Sync{DryRun: true}, fails: "holdfast diff", kind: fault.Unsupported},
		{name: "suspended", reason: "nobody would answer", on: ks + "  suspend: true\n", fails: "holdfast resume kustomization/apps -n flux-system", kind: fault.Refused},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			u := parse(t, tt.on)
			err := tt.ask.Ask(u, "now")
			if tt.fails != "" {
				if err == nil || !strings.Contains(err.Error(), tt.fails) || fault.KindOf(err) != tt.kind {
					t.Fatalf("%s: got %v", tt.reason, err)
				}
				return
			}
			if err != nil {
				t.Fatalf("%s: %v", tt.reason, err)
			}
			place := []string{"operation"}
			if u.GetKind() != Application.Kind {
				place = []string{"metadata", "annotations"}
			}
			if diff := differs(t, tt.want, u, place...); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tt.reason, diff)
			}
			if u.GetKind() == Application.Kind && u.GetAnnotations()[AnnotationRefresh] != "normal" {
				t.Error("what was fetched before is delivered, not what is in Git now")
			}
			if got := u.GetAnnotations()[dialect.AnnotationConfirm]; got != tt.ask.Confirm {
				t.Errorf("%s: the word is %q", tt.reason, got)
			}
			if strange, _, _ := unstructured.NestedString(u.Object, "spec", "strange", "field"); u.GetKind() == Application.Kind && strange != "kept" {
				t.Error("a field that nobody here knows was lost")
			}
		})
	}
}

// differs compares what YAML says with what a resource has at a place; empty if
// they are the same.
func differs(t *testing.T, want string, u *unstructured.Unstructured, place ...string) string {
	t.Helper()
	var wanted map[string]any
	if err := yaml.Unmarshal([]byte(want), &wanted); err != nil {
		t.Fatal(err)
	}
	got, _, _ := unstructured.NestedMap(u.Object, place...)
	return cmp.Diff(text(t, wanted), text(t, got))
}

func text(t *testing.T, v any) string {
	t.Helper()
	b, err := yaml.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestRollback(t *testing.T) {
	tests := []struct {
		name, reason string
		on           string
		ask          Rollback
		id           int64
		want         string
		fails        string
		kind         fault.Kind
	}{
		{
			name: "previous", reason: "the one before the last, with its own source and without hooks", on: app + history, ask: Rollback{ID: -1, Prune: true}, id: 3,
			want: "{sync: {revision: aaa, prune: true, source: {repoURL: 'https://git.example/old.git', path: old}, syncStrategy: {apply: {}}}}",
		},
		{name: "named", reason: "any entry", on: app + history, ask: Rollback{ID: 4, User: "ann"}, id: 4, want: "{initiatedBy: {username: ann}, sync: {revision: bbb, syncStrategy: {apply: {}}}}"},
		{name: "unknown", reason: "it names those there are", on: app + history, ask: Rollback{ID: 9}, fails: "[3, 4]", kind: fault.NotFound},
		{name: "first", reason: "nothing came before", on: app, ask: Rollback{ID: -1}, fails: "nothing before", kind: fault.NotFound},
		{name: "automated", reason: "as Argo CD refuses it", on: app + "  syncPolicy: {automated: {prune: true}}\n" + history, ask: Rollback{ID: 3}, fails: "synced by itself", kind: fault.Refused},
		{name: "automation off", reason: "a policy that is switched off does nothing", on: app + "  syncPolicy: {automated: {enabled: false}}\n" + history, ask: Rollback{ID: 4}, id: 4, want: "{sync: {revision: bbb, syncStrategy: {apply: {}}}}"},
		{name: "kustomization", reason: "its history is Git's", on: ks, ask: Rollback{ID: -1}, fails: "git revert", kind: fault.Unsupported},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			u := parse(t, tt.on)
			entry, err := tt.ask.Ask(u)
			if tt.fails != "" {
				if err == nil || !strings.Contains(err.Error(), tt.fails) || fault.KindOf(err) != tt.kind {
					t.Fatalf("%s: got %v", tt.reason, err)
				}
				return
			}
			if err != nil {
				t.Fatalf("%s: %v", tt.reason, err)
			}
			if diff := differs(t, tt.want, u, "operation"); diff != "" || entry.ID != tt.id {
				t.Errorf("%s: entry %d (-want +got):\n%s", tt.reason, entry.ID, diff)
			}
		})
	}
}

func TestAnswered(t *testing.T) {
	ready := func(handled, status, reason string, observed string) string {
		return ks + "status: {lastHandledReconcileAt: " + handled +
			", conditions: [{type: Ready, observedGeneration: " + observed + ", status: '" + status + "', reason: " + reason + ", message: why}]}\n"
	}
	tests := []struct {
		name, reason, on string
		done             bool
		fails            string
	}{
		{"waiting", "the operation was not begun", app + "operation: {sync: {}}\nstatus: {operationState: {phase: Succeeded}}\n", false, ""},
		{"running", "it is under way", app + "status: {operationState: {phase: Running, message: m}}\n", false, ""},
		{"succeeded", "it is over", app + "status: {operationState: {phase: Succeeded, finishedAt: '2026-01-01T00:00:00Z'}}\n", true, ""},
		{"failed", "and why", app + "status: {operationState: {phase: Failed, message: forbidden, finishedAt: '2026-01-01T00:00:00Z'}}\n", false, "forbidden"},
		{"refused", "nobody begins what is not valid", app + "status: {conditions: [{type: InvalidSpecError, message: no project}]}\n", false, "no project"},
		{"not handled", "the answer is to an older request", ready("before", "True", "ok", "2"), false, ""},
		{"an old spec", "the answer is about an older spec", ready("now", "True", "ok", "1"), false, ""},
		{"ready", "that is the answer", ready("now", "True", "ok", "2"), true, ""},
		{"not yet", "it is being applied", ready("now", "Unknown", "Progressing", "2"), false, ""},
		{"depends", "another comes first", ready("now", "False", "DependencyNotReady", "2"), false, ""},
		{"not ready", "and why", ready("now", "False", "BuildFailed", "2"), false, "BuildFailed: why"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			done, err := Answered("now")(parse(t, tt.on))
			if done != tt.done || (err != nil) != (tt.fails != "") || err != nil && !strings.Contains(err.Error(), tt.fails) {
				t.Errorf("%s: got %t, %v", tt.reason, done, err)
			}
		})
	}
}

func TestSource(t *testing.T) {
	choice, ok := Source(parse(t, ks))
	if want := (Choice{Kind: GitRepository, Namespace: "flux-system", Name: "fleet"}); !ok || choice != want {
		t.Errorf("got %v, %t", choice, ok)
	}
	if _, ok := Source(parse(t, app)); ok {
		t.Error("an Application has no source of its own kind")
	}
}

// What is suspended, taken over, suspended again, resumed and handed back ends as it began.
func TestTheWayThereAndBack(t *testing.T) {
	for _, text := range []string{app, ks} {
		u := parse(t, text)
		u.SetAnnotations(map[string]string{})
		before := u.DeepCopy()
		check := func(step string, err error, taken string, suspended bool) {
			t.Helper()
			if err != nil {
				t.Fatalf("%s: %v", step, err)
			}
			if got := dialect.Taken(u); got != taken || dialect.Suspended(u) != suspended {
				t.Fatalf("%s: taken %q, suspended %t", step, got, dialect.Suspended(u))
			}
		}
		check("suspend", Suspend(u), "", true)
		if err := CanTake(u); fault.KindOf(err) != fault.Refused {
			t.Errorf("what somebody suspended may be taken over: %v", err)
		}
		check("resume", Resume(u), "", false)
		check("resume again", Resume(u), "", false)
		if err := Return(u); fault.KindOf(err) != fault.Refused {
			t.Errorf("what was not taken can be handed back: %v", err)
		}
		if err := Take(u, "now"); fault.KindOf(err) != fault.Refused {
			t.Errorf("it can be taken while the peer is at it: %v", err)
		}
		check("can take", CanTake(u), "", false)
		check("leave", Leave(u), "", true)
		check("take", Take(u, "now"), dialect.TakenOver, false)
		check("suspend ours", Suspend(u), dialect.TakenPaused, true)
		check("resume ours", Resume(u), dialect.TakenOver, false)
		check("hand back", Return(u), dialect.TakenBack, true)
		if err := Suspend(u); fault.KindOf(err) != fault.Refused {
			t.Errorf("it can be suspended on the way back: %v", err)
		}
		check("undo", Undo(u), "", false)
		dialect.Annotate(u, dialect.AnnotationTakeover, dialect.TakenOver)
		check("hand back what the peer took", Return(u), "", false)
		if u.GetAnnotations()[dialect.AnnotationTakeover] != "" {
			t.Error("its next suspension would be a take-over")
		}
		annotations := u.GetAnnotations()
		delete(annotations, AnnotationRefresh)
		delete(annotations, AnnotationRequested)
		if len(annotations) > 0 {
			t.Errorf("annotations are left: %v", annotations)
		}
		u.SetAnnotations(nil)
		before.SetAnnotations(nil)
		if diff := cmp.Diff(before.Object, u.Object); diff != "" {
			t.Errorf("something is left (-before +after):\n%s", diff)
		}
	}
}

func TestTakenIsAnswered(t *testing.T) {
	marked := func(text, status string) *unstructured.Unstructured {
		u := parse(t, text+status)
		dialect.SetLeftAlone(u, true)
		dialect.Annotate(u, dialect.AnnotationTakeover, dialect.TakenOver)
		return u
	}
	asked := marked(app, "")
	dialect.Annotate(asked, AnnotationRefresh, "normal")
	called := marked(app, "")
	dialect.SetLeftAlone(called, false)
	const automated = "  syncPolicy: {automated: {}}\n"
	tests := []struct {
		name, reason string
		on           *unstructured.Unstructured
		done         bool
		fails        string
	}{
		{"asked", "nobody has looked yet", asked, false, ""},
		{"by hand", "it is compared, and delivered when somebody asks", marked(app, "status: {sync: {status: OutOfSync}}\n"), true, ""},
		{"not yet", "it delivers itself", marked(app+automated, "status: {sync: {status: OutOfSync}}\n"), false, ""},
		{"delivered", "as wanted", marked(app+automated, "status: {sync: {status: Synced}}\n"), true, ""},
		{"failed", "and why", marked(app+automated, "status: {sync: {status: OutOfSync}, operationState: {phase: Failed, message: forbidden}}\n"), false, "forbidden"},
		{"error", "a condition says so", marked(app, "status: {conditions: [{type: ComparisonError, message: no path}]}\n"), false, "no path"},
		{"called back", "somebody resumed the peer", called, false, "not Holdfast's"},
		{"kustomization", "the request was handled", marked(ks, "status: {lastHandledReconcileAt: now, observedGeneration: 2, conditions: [{type: Ready, observedGeneration: 2, status: 'True'}]}\n"), true, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			done, err := Taken("now")(tt.on)
			if done != tt.done || (err != nil) != (tt.fails != "") || err != nil && !strings.Contains(err.Error(), tt.fails) {
				t.Errorf("%s: got %t, %v", tt.reason, done, err)
			}
		})
	}
}

func TestIdle(t *testing.T) {
	tests := []struct {
		reason, on string
		want       bool
	}{
		{"nothing was ever done", app, true},
		{"an operation waits", app + "operation: {sync: {}}\n", false},
		{"an operation runs", app + "status: {operationState: {phase: Running}}\n", false},
		{"the last is over", app + "status: {operationState: {phase: Failed}}\n", true},
		{"Flux is at it", ks + "status: {conditions: [{type: Reconciling, status: 'True'}]}\n", false},
		{"Flux is done", ks + "status: {conditions: [{type: Ready, status: 'True'}]}\n", true},
	}
	for _, tt := range tests {
		if got := Idle(parse(t, tt.on)); got != tt.want {
			t.Errorf("%s: got %t", tt.reason, got)
		}
	}
}

func TestKindOf(t *testing.T) {
	for _, name := range []string{"app", "Applications", "KS", "kustomization", "gitrepo"} {
		if _, err := KindOf(name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := KindOf("pod"); fault.KindOf(err) != fault.Invalid {
		t.Errorf("got %v", err)
	}
}

func TestMissing(t *testing.T) {
	had := parse(t, app+"status: {resources: [{group: apps, kind: Deployment, namespace: shop, name: old}]}\n")
	has := parse(t, app+"status: {resources: [{kind: Service, namespace: shop, name: web}]}\n")
	tests := []struct{ reason, name, want string }{
		{"what is delivered", ":Service:web", ""},
		{"with its namespace", ":Service:shop/web", ""},
		{"what the sync deleted", "apps:Deployment:old", ""},
		{"a name that nothing has", "apps:Deployment:web", "it has no object apps:Deployment:web"},
		{"another namespace", ":Service:other/web", "it has no object :Service:other/web"},
		{"no group is the core group, not any", ":Deployment:old", "it has no object :Deployment:old"},
	}
	for _, tc := range tests {
		err := Sync{Resources: []string{tc.name}}.Missing(had, has)
		if (err == nil) != (tc.want == "") || err != nil && (fault.KindOf(err) != fault.NotFound || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%s: %s: got %v, want %q", tc.reason, tc.name, err, tc.want)
		}
	}
}

func FuzzResource(f *testing.F) {
	for _, s := range []string{"apps:Deployment:web", ":Service:a/b", "::", "a:b:c:d", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := resource(s)
		if err == nil && (r.Kind == "" || strings.Contains(r.Group, ":")) {
			t.Errorf("%q became %v", s, r)
		}
	})
}

// The answer to a word comes with the pass that it asks for.
func TestConfirmed(t *testing.T) {
	const synced, held = "status: {sync: {status: Synced}}\n", `status: {sync: {status: OutOfSync}, conditions: [{type: PruneHeldWarning, message: "five objects"}]}` + "\n"
	prunes := app + "  syncPolicy: {automated: {prune: true}}\n"
	waits := strings.Replace(prunes, "namespace: argocd}", "namespace: argocd, annotations: {argocd.argoproj.io/refresh: normal}}", 1)
	tests := map[string]struct {
		on    string
		done  bool
		fails string
	}{
		"nobody has looked":              {waits + synced, false, ""},
		"it is being pruned":             {prunes + "status: {sync: {status: OutOfSync}}\n", false, ""},
		"it is pruned":                   {prunes + synced, true, ""},
		"the word was another":           {prunes + held, false, "five objects"},
		"the word was not yet looked at": {waits + held, false, ""},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			done, err := Confirmed(parse(t, tc.on))
			if done != tc.done || (err != nil) != (tc.fails != "") || err != nil && !strings.Contains(err.Error(), tc.fails) {
				t.Errorf("done %t, %v", done, err)
			}
		})
	}
}
