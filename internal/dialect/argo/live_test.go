package argo

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	kschema "k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"

	api "github.com/holdfastcd/holdfast/api/argo/v1alpha1"
	"github.com/holdfastcd/holdfast/deploy"
	"github.com/holdfastcd/holdfast/internal/cluster"
	"github.com/holdfastcd/holdfast/internal/delivery"
	"github.com/holdfastcd/holdfast/internal/dialect"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/health"
	"github.com/holdfastcd/holdfast/internal/render"
	"github.com/holdfastcd/holdfast/internal/source"
	"github.com/holdfastcd/holdfast/internal/store"
	"github.com/holdfastcd/holdfast/internal/tree/treetest"
	"github.com/holdfastcd/holdfast/internal/worker"
	"github.com/holdfastcd/holdfast/test/harness"
)

func TestMain(m *testing.M) {
	worker.RunIfWorker(render.Handlers())
	// What the libraries log is not of interest; once, because they read it all the time.
	klog.SetLogger(logr.Discard())
	harness.Main(m)
}

var (
	applications = api.GroupVersion.WithResource("applications")
	appprojects  = api.GroupVersion.WithResource("appprojects")
	secrets      = corev1.SchemeGroupVersion.WithResource("secrets")
	crds         = kschema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}
	roles        = kschema.GroupVersionResource{Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "roles"}
	rolebindings = kschema.GroupVersionResource{Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "rolebindings"}
)

const userAgent = "argo-test"

// remote is a repository in memory.
type remote struct {
	mu       sync.Mutex
	commits  int
	files    map[string]string
	before   map[string]map[string][]byte // by commit
	password string                       // if set, what must be sent
	asked    []source.Ref
}

// commit lays changes over the files; an empty content deletes. It returns the commit.
func (r *remote) commit(changes map[string]string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	for name, content := range changes {
		if r.files[name] = content; content == "" {
			delete(r.files, name)
		}
	}
	r.commits++
	files := map[string][]byte{}
	for name, content := range r.files {
		files[name] = []byte(content)
	}
	r.before[r.id()] = files
	return r.id()
}

func (r *remote) id() string { return fmt.Sprintf("%040x", r.commits) }

// Fetch implements source.Fetcher.
func (r *remote) Fetch(_ context.Context, req source.Request) (source.Revision, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if req.Credential.Secret().Password != r.password {
		return source.Revision{}, fault.New(fault.Unauthorized, "the credentials were refused")
	}
	r.asked = append(r.asked, req.Ref)
	commit := r.id()
	if req.Ref.Commit != "" {
		commit = req.Ref.Commit
	}
	files, known := r.before[commit]
	if !known {
		return source.Revision{}, fault.New(fault.NotFound, "there is no commit %s", commit)
	}
	return source.Revision{Commit: commit, Branch: "main", Tree: treetest.FromFiles(files)}, nil
}

// rig is a running dialect in a namespace of its own, which is control plane and
// destination at once.
type rig struct {
	cluster *harness.Cluster
	remote  *remote
	argo    *Argo
	hub     *source.Hub
	ns      string
}

func newRig(t *testing.T, change ...func(*dialect.Env)) *rig {
	t.Helper()
	if testing.Short() {
		t.Skip("needs a cluster")
	}
	c := harness.Shared(t)
	r := &rig{cluster: c, remote: &remote{files: map[string]string{}, before: map[string]map[string][]byte{}}}
	definitions, err := deploy.CRDs()
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range definitions {
		r.apply(t, crds, "", d)
	}
	for _, d := range definitions {
		c.Await(t, crds, "", d.GetName(), "to be established", func(o *unstructured.Unstructured) bool {
			v, _ := health.Options{}.Judge(o)
			return v.Status == health.Healthy
		})
	}
	r.ns = c.Namespace(t)
	r.text(t, rolebindings, `{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: deployer},
		roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: admin},
		subjects: [{kind: ServiceAccount, name: deployer, namespace: `+r.ns+`}]}`)
	r.text(t, appprojects, `{apiVersion: argoproj.io/v1alpha1, kind: AppProject, metadata: {name: shop}, spec: {
		sourceRepos: ["https://git.example.com/*"],
		destinations: [{server: "*", namespace: `+r.ns+`}],
		destinationServiceAccounts: [{server: "*", namespace: "*", defaultServiceAccount: deployer}]}}`)
	r.start(t, change...)
	return r
}

// start runs the dialect until the test ends.
func (r *rig) start(t *testing.T, change ...func(*dialect.Env)) {
	t.Helper()
	cfg := r.cluster.Config()
	cfg.UserAgent = userAgent
	log := slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	connection, err := cluster.Connect(cfg, cluster.Options{
		Owner: Owner(r.ns), Kept: Kept, Health: health.Both, StatusManager: dialect.StatusManager, UserAgent: userAgent, Logger: log,
	})
	if err != nil {
		t.Fatal(err)
	}
	scheme := runtime.NewScheme()
	if err := corev1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	unique := true
	mgr, err := ctrl.NewManager(cfg, ctrl.Options{
		Scheme: scheme, Metrics: server.Options{BindAddress: "0"}, Controller: config.Controller{SkipNameValidation: &unique},
		Client: client.Options{Cache: &client.CacheOptions{Unstructured: true, DisableFor: []client.Object{&corev1.Secret{}}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	memory, err := store.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	pool := worker.NewPool(worker.Options{})
	t.Cleanup(pool.Close)
	renderer := render.New(pool)
	engine := delivery.New(delivery.Options{
		Renderer: func(delivery.ID) render.Renderer { return renderer }, Cluster: connection, Memory: memory, Digest: sha256.Sum256, Clock: time.Now, Log: log,
		Alive: func(owner string) bool {
			parts := strings.Split(owner, "/")
			return r.argo.Alive(context.Background(), parts[1], parts[2])
		},
	})
	router := dialect.Router{}
	r.hub = source.NewHub(r.remote, time.Now)
	env := &dialect.Env{
		Client: mgr.GetClient(), Reader: mgr.GetAPIReader(), Events: mgr.GetEventRecorderFor("holdfast"), //nolint:staticcheck // as the controller does
		Engine: engine, Hub: r.hub, Clock: time.Now, Log: log, ArgoNamespace: r.ns, Concurrency: 2,
	}
	watch, err := dialect.WatchSecrets(cfg)
	if err != nil {
		t.Fatal(err)
	}
	env.Decryption = dialect.NewDecryption(dialect.DecryptionOptions{
		Reader: env.Reader, Watch: watch, Notify: router.Notify, Clock: time.Now, Log: log,
	})
	if err := mgr.Add(env.Decryption); err != nil {
		t.Fatal(err)
	}
	for _, c := range change {
		c(env)
	}
	if r.argo, err = Setup(mgr, env, router); err != nil {
		t.Fatal(err)
	}
	engine.OnEvent(router.Notify)
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	if err := connection.Start(ctx); err != nil {
		t.Fatal(err)
	}
	go func() { done <- mgr.Start(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("the manager ended with %v", err)
		}
		_ = memory.Close()
	})
}

func (r *rig) in(resource kschema.GroupVersionResource, ns string) dynamic.ResourceInterface {
	if ns == "" {
		return r.cluster.Dynamic().Resource(resource)
	}
	return r.cluster.Dynamic().Resource(resource).Namespace(ns)
}

func (r *rig) apply(t *testing.T, resource kschema.GroupVersionResource, ns string, u *unstructured.Unstructured) {
	t.Helper()
	if _, err := r.in(resource, ns).Apply(t.Context(), u.GetName(), u, metav1.ApplyOptions{FieldManager: "admin", Force: true}); err != nil {
		t.Fatal(err)
	}
}

func (r *rig) text(t *testing.T, resource kschema.GroupVersionResource, text string) {
	t.Helper()
	r.apply(t, resource, r.ns, parse(t, text))
}

func (r *rig) patch(t *testing.T, resource kschema.GroupVersionResource, name, patch string) {
	t.Helper()
	if _, err := r.in(resource, r.ns).Patch(t.Context(), name, types.MergePatchType, []byte(patch), metav1.PatchOptions{FieldManager: "kubectl-edit"}); err != nil {
		t.Fatal(err)
	}
}

// app applies an Application that delivers a directory to the rig's namespace.
func (r *rig) app(t *testing.T, name, dir, policy string, finalizers ...string) {
	t.Helper()
	f, err := json.Marshal(append([]string{}, finalizers...))
	if err != nil {
		t.Fatal(err)
	}
	r.text(t, applications, fmt.Sprintf(`{apiVersion: argoproj.io/v1alpha1, kind: Application, metadata: {name: %s, finalizers: %s}, spec: {
		project: shop, source: {repoURL: "https://git.example.com/shop", path: %s, targetRevision: main},
		destination: {server: "https://kubernetes.default.svc", namespace: %s}, syncPolicy: %s}}`, name, f, dir, r.ns, policy))
}

func (r *rig) await(t *testing.T, name, aim string, wanted func(*api.Application) bool) *api.Application {
	t.Helper()
	var app *api.Application
	r.cluster.Await(t, applications, r.ns, name, aim, func(o *unstructured.Unstructured) bool {
		if o == nil {
			return false
		}
		app, _ = Decode(o)
		return wanted(app)
	})
	return app
}

// over tells that the last operation ended in a phase, and is not asked for any more.
func over(phase api.OperationPhase) func(*api.Application) bool {
	return func(a *api.Application) bool {
		return a.Operation == nil && a.Status.OperationState != nil && a.Status.OperationState.Phase == phase
	}
}

// writes are the requests of the dialect that changed objects of a resource.
func (r *rig) writes(t *testing.T, mark harness.Mark, resource string) []harness.Request {
	t.Helper()
	var list []harness.Request
	for _, q := range r.cluster.RequestsSince(t, mark, harness.ByUserAgent(userAgent), harness.Writes, harness.InNamespace(r.ns)) {
		if q.Resource == resource {
			list = append(list, q)
		}
	}
	return list
}

// stored are those of them that were no dry runs.
func (r *rig) stored(t *testing.T, mark harness.Mark, resource string) []harness.Request {
	t.Helper()
	return slices.DeleteFunc(r.writes(t, mark, resource), func(q harness.Request) bool { return q.DryRun })
}

func syncedAt(commit string) func(*api.Application) bool {
	return func(a *api.Application) bool {
		return a.Status.Sync.Status == api.SyncStatusCodeSynced && a.Status.Sync.Revision == commit
	}
}

func cm(name, value string) string {
	return fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s}\ndata: {value: %q}\n", name, value)
}

func value(want string) harness.Condition {
	return func(o *unstructured.Unstructured) bool {
		if o == nil {
			return false
		}
		got, _, _ := unstructured.NestedString(o.Object, "data", "value")
		return got == want
	}
}

const healing = `{automated: {prune: true, selfHeal: true}}`

func TestLiveDelivery(t *testing.T) {
	r := newRig(t)
	first := r.remote.commit(map[string]string{"web/a.yaml": cm("a", "1"), "web/b.yaml": cm("b", "1"), "else/c.yaml": cm("c", "1")})
	start := r.cluster.Mark(t)
	r.app(t, "web", "web", healing, finalizerResources)
	r.app(t, "else", "else", healing)
	app := r.await(t, "web", "to be synced", syncedAt(first))
	r.await(t, "else", "to be synced", syncedAt(first))
	if len(app.Status.Resources) != 2 || app.Status.OperationState.Phase != api.OperationSucceeded || len(app.Status.History) != 1 || app.Status.SourceType != "Directory" {
		t.Errorf("the status is %+v", app.Status)
	}
	for _, q := range r.writes(t, start, "configmaps") {
		if want := "system:serviceaccount:" + r.ns + ":deployer"; q.As != want {
			t.Errorf("%s %s was written as %q, want %q", q.Verb, q.Name, q.As, want)
		}
	}
	if n := len(r.writes(t, start, "applications")); n != 2 {
		t.Errorf("two Applications, each synced at once, took %d writes of status", n)
	}

	mark := r.cluster.Mark(t)
	r.patch(t, harness.ConfigMaps, "a", `{"data":{"value":"by hand"}}`)
	r.cluster.Await(t, harness.ConfigMaps, r.ns, "a", "to be healed", value("1"))
	app = r.await(t, "web", "to tell of it", func(a *api.Application) bool {
		op := a.Status.OperationState
		return op != nil && len(op.Operation.Sync.Resources) == 1 && op.Operation.Sync.AutoHealAttemptsCount == 1
	})
	if len(app.Status.History) != 1 {
		t.Error("a heal is no delivery")
	}
	if n := len(r.writes(t, mark, "configmaps")); n != 1 {
		t.Errorf("to heal took %d writes", n)
	}

	mark = r.cluster.Mark(t)
	second := r.remote.commit(map[string]string{"web/a.yaml": cm("a", "2"), "web/b.yaml": ""})
	r.hub.Refresh("git@git.example.com:shop.git")
	r.argo.Refresh("git@git.example.com:shop.git", "main")
	r.cluster.Await(t, harness.ConfigMaps, r.ns, "a", "to be as committed", value("2"))
	r.cluster.Await(t, harness.ConfigMaps, r.ns, "b", "to be pruned", harness.Gone)
	r.await(t, "else", "which is untouched, to tell the revision", syncedAt(second))
	r.await(t, "web", "to have let go", func(a *api.Application) bool { return syncedAt(second)(a) && len(a.Status.Resources) == 1 })
	for _, q := range r.writes(t, mark, "configmaps") {
		if q.Name == "c" {
			t.Errorf("an object that no commit touched was sent: %s", q.Verb)
		}
	}

	// A broken commit changes nothing but the status.
	r.remote.commit(map[string]string{"web/a.yaml": "a: b: c"})
	r.patch(t, applications, "web", `{"metadata":{"annotations":{"argocd.argoproj.io/refresh":"normal"}}}`)
	app = r.await(t, "web", "to complain", func(a *api.Application) bool { return len(a.Status.Conditions) == 1 && a.Annotations[annRefresh] == "" })
	if c := app.Status.Conditions[0]; c.Type != api.ConditionComparisonError || !strings.Contains(c.Message, "web/a.yaml:1") || len(app.Status.Resources) != 1 {
		t.Errorf("got %+v, resources %+v", c, app.Status.Resources)
	}
	r.cluster.Await(t, harness.ConfigMaps, r.ns, "a", "to be as before", value("2"))

	// With the finalizer, the objects go first; without it, they stay.
	for _, name := range []string{"web", "else"} {
		if err := r.in(applications, r.ns).Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		r.cluster.Await(t, applications, r.ns, name, "to be gone", harness.Gone)
	}
	r.cluster.Await(t, harness.ConfigMaps, r.ns, "a", "to have gone with its Application", harness.Gone)
	r.cluster.Await(t, harness.ConfigMaps, r.ns, "c", "to have stayed", harness.Exists)
}

// A sync that cannot succeed yet is tried again; what is refused says so.
func TestLiveFailureAndRefusal(t *testing.T) {
	r := newRig(t)
	// The account may not write quotas.
	head := r.remote.commit(map[string]string{
		"web/a.yaml": cm("a", "1"),
		"web/q.yaml": "apiVersion: v1\nkind: ResourceQuota\nmetadata: {name: q}\nspec: {hard: {pods: 1}}\n",
	})
	r.app(t, "web", "web", healing)
	app := r.await(t, "web", "to fail and plan another attempt", func(a *api.Application) bool {
		op := a.Status.OperationState
		return op != nil && op.Phase == api.OperationRunning && op.FinishedAt != nil
	})
	if !strings.Contains(app.Status.OperationState.Message, "resourcequotas") || app.Status.Sync.Status != api.SyncStatusCodeOutOfSync {
		t.Errorf("the status is %+v", app.Status)
	}
	r.text(t, rolebindings, `{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: more},
		roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin},
		subjects: [{kind: ServiceAccount, name: deployer, namespace: `+r.ns+`}]}`)
	// Somebody who does not want to wait for the next attempt.
	r.patch(t, applications, "web", `{"metadata":{"annotations":{"argocd.argoproj.io/refresh":"hard"}}}`)
	r.await(t, "web", "to be synced", syncedAt(head))

	r.patch(t, applications, "web", `{"spec":{"source":{"chart":"web"}}}`)
	app = r.await(t, "web", "to be refused by name", func(a *api.Application) bool { return len(a.Status.Conditions) == 1 })
	if c := app.Status.Conditions[0]; c.Type != api.ConditionInvalidSpecError || c.Message != "spec.source.chart is not supported yet" ||
		app.Status.Health.Status != "Unknown" || app.Status.Sync.Status != "Unknown" {
		t.Errorf("got %+v", app.Status)
	}

	r.patch(t, applications, "web", `{"spec":{"source":{"chart":null}}}`)
	r.await(t, "web", "to be synced again", syncedAt(head))
	r.patch(t, appprojects, "shop", `{"spec":{"syncWindows":[{"kind":"deny","schedule":"* * * * *","duration":"1h"}]}}`)
	r.await(t, "web", "to be stopped by its project", func(a *api.Application) bool {
		return len(a.Status.Conditions) == 1 && strings.Contains(a.Status.Conditions[0].Message, "spec.syncWindows is not supported yet")
	})
}

func TestLiveManual(t *testing.T) {
	r := newRig(t)
	head := r.remote.commit(map[string]string{"web/a.yaml": cm("a", "1")})
	start := r.cluster.Mark(t)
	r.app(t, "web", "web", `{}`)
	app := r.await(t, "web", "to be compared", func(a *api.Application) bool { return a.Status.Sync.Revision == head })
	if app.Status.Sync.Status != api.SyncStatusCodeOutOfSync || app.Status.Health.Status != "Missing" || app.Status.OperationState != nil {
		t.Errorf("the status is %+v", app.Status)
	}
	if n := len(r.writes(t, start, "configmaps")); n != 0 {
		t.Errorf("%d writes without automated sync", n)
	}
	r.patch(t, applications, "web", `{"operation":{"initiatedBy":{"username":"alice"},"sync":{"manifests":["x"]}}}`)
	app = r.await(t, "web", "to refuse the operation", over(api.OperationError))
	if m := app.Status.OperationState.Message; m != "operation.sync.manifests is not supported yet" {
		t.Errorf("got %q", m)
	}
	r.patch(t, applications, "web", `{"operation":{"initiatedBy":{"username":"alice"},"sync":{}}}`)
	app = r.await(t, "web", "to be synced by hand", func(a *api.Application) bool { return syncedAt(head)(a) && over(api.OperationSucceeded)(a) })
	if h := app.Status.History; len(h) != 1 || h[0].InitiatedBy.Username != "alice" || h[0].ID != 0 {
		t.Errorf("the history is %+v", h)
	}

	// A commit is shown, not synced; then only a part of it is, then the rest with what is to be pruned.
	second := r.remote.commit(map[string]string{"web/a.yaml": "", "web/b.yaml": cm("b", "2"), "web/c.yaml": cm("c", "2")})
	r.patch(t, applications, "web", `{"metadata":{"annotations":{"argocd.argoproj.io/refresh":"normal"}}}`)
	r.await(t, "web", "to be out of sync", func(a *api.Application) bool {
		return a.Status.Sync.Revision == second && a.Status.Sync.Status == api.SyncStatusCodeOutOfSync && len(a.Status.Resources) == 3
	})
	r.patch(t, applications, "web", `{"operation":{"sync":{"resources":[{"kind":"ConfigMap","name":"b"}]}}}`)
	app = r.await(t, "web", "to have synced a part", func(a *api.Application) bool {
		return over(api.OperationSucceeded)(a) && len(a.Status.OperationState.Operation.Sync.Resources) == 1
	})
	if len(app.Status.History) != 1 || app.Status.Sync.Status != api.SyncStatusCodeOutOfSync {
		t.Errorf("the status is %+v", app.Status)
	}
	r.cluster.Await(t, harness.ConfigMaps, r.ns, "b", "to be there", value("2"))
	r.cluster.Await(t, harness.ConfigMaps, r.ns, "c", "not to be there", harness.Gone)
	mark := r.cluster.Mark(t)
	r.patch(t, applications, "web", `{"operation":{"sync":{"prune":true,"dryRun":true}}}`)
	app = r.await(t, "web", "to have tried", func(a *api.Application) bool {
		return over(api.OperationSucceeded)(a) && a.Status.OperationState.Operation.Sync.DryRun
	})
	if n := len(r.stored(t, mark, "configmaps")); n != 0 || len(app.Status.History) != 1 {
		t.Errorf("a dry run wrote %d objects, and the history is %+v", n, app.Status.History)
	}
	r.patch(t, applications, "web", `{"operation":{"sync":{"revision":"`+second+`","prune":true}}}`)
	app = r.await(t, "web", "to be synced", func(a *api.Application) bool { return syncedAt(second)(a) && len(a.Status.History) == 2 })
	r.cluster.Await(t, harness.ConfigMaps, r.ns, "a", "to be pruned", harness.Gone)

	// What was there before comes back as the history has it; the branch is not there any more.
	old, err := json.Marshal(map[string]any{"operation": map[string]any{"sync": map[string]any{
		"revision": app.Status.History[0].Revision, "source": app.Status.History[0].Source, "syncStrategy": map[string]any{"apply": map[string]any{}}, "prune": true,
	}}})
	if err != nil {
		t.Fatal(err)
	}
	r.patch(t, applications, "web", string(old))
	r.await(t, "web", "to be rolled back", func(a *api.Application) bool {
		return over(api.OperationSucceeded)(a) && len(a.Status.History) == 3 && a.Status.History[2].Revision == head &&
			a.Status.Sync.Revision == second && a.Status.Sync.Status == api.SyncStatusCodeOutOfSync
	})
	r.cluster.Await(t, harness.ConfigMaps, r.ns, "a", "to be back", value("1"))
	r.cluster.Await(t, harness.ConfigMaps, r.ns, "b", "to be gone", harness.Gone)

	r.patch(t, applications, "web", `{"spec":{"syncPolicy":{"automated":{"prune":true}}}}`)
	r.await(t, "web", "to be synced by itself", syncedAt(second))
	// Without selfHeal, what others change is told and left.
	r.patch(t, harness.ConfigMaps, "b", `{"data":{"value":"by hand"}}`)
	r.await(t, "web", "to be out of sync", func(a *api.Application) bool { return a.Status.Sync.Status == api.SyncStatusCodeOutOfSync })
	r.cluster.Await(t, harness.ConfigMaps, r.ns, "b", "to be left alone", value("by hand"))

	r.patch(t, applications, "web", string(old))
	app = r.await(t, "web", "to refuse what it would undo", over(api.OperationError))
	if m := app.Status.OperationState.Message; !strings.Contains(m, "automated sync is on") {
		t.Errorf("got %q", m)
	}
}

// A root delivers Applications like anything else, and takes them down.
func TestLiveAppOfApps(t *testing.T) {
	r := newRig(t)
	r.text(t, roles, `{apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {name: apps}, rules: [{apiGroups: [argoproj.io], resources: [applications], verbs: ["*"]}]}`)
	r.text(t, rolebindings, `{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: apps},
		roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: apps},
		subjects: [{kind: ServiceAccount, name: deployer, namespace: `+r.ns+`}]}`)
	child := func(name string) string {
		return fmt.Sprintf(`{apiVersion: argoproj.io/v1alpha1, kind: Application, metadata: {name: %s, finalizers: [%s]}, spec: {
		project: shop, source: {repoURL: "https://git.example.com/shop", path: %s, targetRevision: main},
		destination: {server: "https://kubernetes.default.svc", namespace: %s}, syncPolicy: {automated: {}}}}`, name, finalizerResources, name, r.ns)
	}
	head := r.remote.commit(map[string]string{
		"root/one.yaml": child("one"), "root/two.yaml": child("two"), "one/a.yaml": cm("a", "1"), "two/b.yaml": cm("b", "1"),
	})
	// In the background: after a new definition, the garbage collector takes up to
	// half a minute until it lets foreground deletions of the kind finish.
	r.app(t, "root", "root", healing, finalizerBackground)
	for _, name := range []string{"root", "one", "two"} {
		r.await(t, name, "to be synced", syncedAt(head))
	}
	second := r.remote.commit(map[string]string{"one/a.yaml": cm("a", "2")})
	r.hub.Refresh("https://git.example.com/shop")
	r.argo.Refresh("https://git.example.com/shop", "main")
	var root *api.Application
	for _, name := range []string{"one", "two", "root"} {
		root = r.await(t, name, "to be synced", syncedAt(second))
	}
	if !root.Status.Summary.IsAppOfApps || root.Status.Health.Status != "Healthy" || root.Status.OperationState.Operation.Sync.Resources != nil {
		t.Errorf("the status is %+v", root.Status)
	}
	if err := r.in(applications, r.ns).Delete(t.Context(), "root", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	r.cluster.Await(t, applications, r.ns, "root", "to be gone", harness.Gone)
	for resource, names := range map[kschema.GroupVersionResource][]string{applications: {"one", "two"}, harness.ConfigMaps: {"a", "b"}} {
		for _, name := range names {
			r.cluster.Await(t, resource, r.ns, name, "to have gone with the root", harness.Gone)
		}
	}
}

func TestLiveCredentials(t *testing.T) {
	r := newRig(t)
	r.remote.password = "hunter2"
	head := r.remote.commit(map[string]string{"web/a.yaml": cm("a", "1")})
	r.app(t, "web", "web", healing)
	app := r.await(t, "web", "to be told which Secret is missing", func(a *api.Application) bool { return len(a.Status.Conditions) == 1 })
	if m := app.Status.Conditions[0].Message; !strings.Contains(m, labelSecretType) {
		t.Errorf("got %q", m)
	}
	r.text(t, secrets, `{apiVersion: v1, kind: Secret, metadata: {name: repo, labels: {argocd.argoproj.io/secret-type: repository}},
		stringData: {url: "https://git.example.com/shop.git", username: u, password: hunter2}}`)
	// The watch of the Secrets brings it, not the clock.
	r.await(t, "web", "to be synced", syncedAt(head))
}

func TestLiveProjectGoesLast(t *testing.T) {
	r := newRig(t)
	head := r.remote.commit(map[string]string{"web/a.yaml": cm("a", "1")})
	r.app(t, "web", "web", healing, finalizerBackground)
	r.await(t, "web", "to be synced", syncedAt(head))
	r.patch(t, appprojects, "shop", `{"metadata":{"finalizers":["resources-finalizer.argocd.argoproj.io"]}}`)
	if err := r.in(appprojects, r.ns).Delete(t.Context(), "shop", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := r.in(applications, r.ns).Delete(t.Context(), "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	r.cluster.Await(t, applications, r.ns, "web", "to be gone", harness.Gone)
	r.cluster.Await(t, appprojects, r.ns, "shop", "to be let go", harness.Gone)
	r.cluster.Await(t, harness.ConfigMaps, r.ns, "a", "to be gone", harness.Gone)
}
