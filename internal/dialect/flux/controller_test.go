package flux_test

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	notificationv1 "github.com/fluxcd/notification-controller/api/v1"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"github.com/go-logr/logr"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	ctrl "sigs.k8s.io/controller-runtime"
	metrics "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/holdfastcd/holdfast/deploy"
	"github.com/holdfastcd/holdfast/internal/cluster"
	"github.com/holdfastcd/holdfast/internal/delivery"
	"github.com/holdfastcd/holdfast/internal/dialect"
	"github.com/holdfastcd/holdfast/internal/dialect/flux"
	"github.com/holdfastcd/holdfast/internal/health"
	"github.com/holdfastcd/holdfast/internal/render"
	"github.com/holdfastcd/holdfast/internal/source"
	"github.com/holdfastcd/holdfast/internal/source/git"
	"github.com/holdfastcd/holdfast/internal/store"
	"github.com/holdfastcd/holdfast/internal/worker"
	"github.com/holdfastcd/holdfast/test/gitserver"
	"github.com/holdfastcd/holdfast/test/harness"
)

const agent = "holdfast-flux-test"

var (
	gitRepositories = schema.GroupVersionResource{Group: "source.toolkit.fluxcd.io", Version: "v1", Resource: "gitrepositories"}
	kustomizations  = schema.GroupVersionResource{Group: "kustomize.toolkit.fluxcd.io", Version: "v1", Resource: "kustomizations"}
	receivers       = schema.GroupVersionResource{Group: "notification.toolkit.fluxcd.io", Version: "v1", Resource: "receivers"}
	secrets         = schema.GroupVersionResource{Version: "v1", Resource: "secrets"}
	roleBindings    = schema.GroupVersionResource{Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "rolebindings"}
	definitions     = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}
	events          = schema.GroupVersionResource{Version: "v1", Resource: "events"}
)

// world is a controller of Flux's kinds against the cluster that the tests share.
type world struct {
	cluster *harness.Cluster
	flux    *flux.Flux
	hub     *source.Hub
	git     *gitserver.Server
}

var shared struct {
	once sync.Once
	w    *world
	err  error
}

func TestMain(m *testing.M) {
	worker.RunIfWorker(render.Handlers())
	harness.Main(m)
}

// start returns the world, which all tests share: a controller sees every
// namespace, so that there can be only one.
func start(t *testing.T) *world {
	t.Helper()
	c := harness.Shared(t)
	shared.once.Do(func() { shared.w, shared.err = newWorld(t, c, nil) })
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.w
}

// newWorld runs a controller; change, if not nil, changes what it is made from.
func newWorld(t *testing.T, c *harness.Cluster, change func(*dialect.Env)) (*world, error) {
	t.Helper()
	ctx := context.Background() // it lives as long as the process
	crds, err := deploy.CRDs()
	if err != nil {
		return nil, err
	}
	for _, crd := range crds {
		if _, err := c.Dynamic().Resource(definitions).Create(ctx, crd, metav1.CreateOptions{}); err != nil {
			return nil, err
		}
		c.Await(t, definitions, "", crd.GetName(), "to be established", established)
	}
	dir, err := os.MkdirTemp("", "holdfast-flux-")
	if err != nil {
		return nil, err
	}
	harness.AtEnd(func() { _ = os.RemoveAll(dir) })
	w := &world{cluster: c}
	if w.git, err = gitserver.Start(filepath.Join(dir, "git"), gitserver.Options{}); err != nil {
		return nil, err
	}
	return w, w.run(ctx, dir, change)
}

// run wires the controller as the program does, but for the renderer.
func (w *world) run(ctx context.Context, dir string, change func(*dialect.Env)) error {
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	config := w.cluster.Config()
	config.UserAgent = agent
	disk, err := store.Open(filepath.Join(dir, "data"))
	if err != nil {
		return err
	}
	fetcher, err := git.New(filepath.Join(dir, "mirrors"), git.Options{})
	if err != nil {
		return err
	}
	judge := health.Options{Kstatus: true}
	live, err := cluster.Connect(config, cluster.Options{
		Owner: flux.Owner, Kept: flux.Kept, Health: judge.Judge, NeedsObject: judge.NeedsObject, UserAgent: agent, Logger: log,
	})
	if err != nil {
		return err
	}
	ctrl.SetLogger(logr.FromSlogHandler(log.Handler()))
	mgr, err := ctrl.NewManager(config, ctrl.Options{
		Scheme: clientgoscheme.Scheme, Metrics: metrics.Options{BindAddress: "0"}, Logger: logr.FromSlogHandler(log.Handler()),
	})
	if err != nil {
		return err
	}
	if err := live.Start(ctx); err != nil {
		return err
	}
	renderer := render.New(worker.NewPool(worker.Options{})) // its workers end with this process
	engine := delivery.New(delivery.Options{
		Renderer: func(delivery.ID) render.Renderer { return renderer }, Cluster: live, Memory: disk, Digest: disk.Digest, Clock: time.Now, Log: log,
		Alive: func(owner string) bool { return w.flux.Alive(owner) },
	})
	w.hub = source.NewHub(fetcher, time.Now)
	env := &dialect.Env{
		Client: mgr.GetClient(), Reader: mgr.GetAPIReader(), Events: mgr.GetEventRecorderFor(agent), //nolint:staticcheck // the type that Env names
		Engine: engine, Hub: w.hub, Clock: time.Now, Log: log, Concurrency: 8,
	}
	if change != nil {
		change(env)
	}
	router := dialect.Router{}
	watch, err := dialect.WatchSecrets(config)
	if err != nil {
		return err
	}
	env.Decryption = dialect.NewDecryption(dialect.DecryptionOptions{
		Reader: env.Reader, Watch: watch, Notify: router.Notify, Clock: time.Now, Log: log,
	})
	if err := mgr.Add(env.Decryption); err != nil {
		return err
	}
	if w.flux, err = flux.Setup(mgr, env, router); err != nil {
		return err
	}
	engine.OnEvent(router.Notify)
	go func() {
		if err := mgr.Start(ctx); err != nil {
			panic(err)
		}
	}()
	mgr.GetCache().WaitForCacheSync(ctx)
	return nil
}

func established(o *unstructured.Unstructured) bool {
	return o != nil && condition(o, "Established") == "True"
}

// condition returns the status of a condition, and reason behind a blank if it has one.
func condition(o *unstructured.Unstructured, kind string) string {
	c := conditionOf(o, kind)
	s, _ := c["status"].(string)
	return s
}

func conditionOf(o *unstructured.Unstructured, kind string) map[string]any {
	if o == nil {
		return nil
	}
	all, _, _ := unstructured.NestedSlice(o.Object, "status", "conditions")
	for _, c := range all {
		if m, ok := c.(map[string]any); ok && m["type"] == kind {
			return m
		}
	}
	return nil
}

// is waits for a condition with a reason and a message that contains text.
func is(kind, status, reason, text string) harness.Condition {
	return func(o *unstructured.Unstructured) bool {
		c := conditionOf(o, kind)
		message, _ := c["message"].(string)
		return c["status"] == status && c["reason"] == reason && strings.Contains(message, text)
	}
}

func applied(commit string) harness.Condition {
	return is("Ready", "True", "ReconciliationSucceeded", "Applied revision: main@sha1:"+commit)
}

// tenant is a namespace with an account that may do everything in it.
type tenant struct {
	*world
	*testing.T
	namespace string
	repo      *gitserver.Repo
}

func (w *world) tenant(t *testing.T) tenant {
	t.Helper()
	x := tenant{world: w, T: t, namespace: w.cluster.Namespace(t)}
	x.create(harness.ServiceAccounts, map[string]any{"apiVersion": "v1", "kind": "ServiceAccount", "metadata": map[string]any{"name": "deployer"}})
	x.create(roleBindings, map[string]any{
		"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": map[string]any{"name": "deployer"},
		"roleRef":  map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "admin"},
		"subjects": []any{map[string]any{"kind": "ServiceAccount", "name": "deployer", "namespace": x.namespace}},
	})
	var err error
	if x.repo, err = w.git.Create(x.namespace); err != nil {
		t.Fatal(err)
	}
	return x
}

func (x tenant) create(r schema.GroupVersionResource, o map[string]any) {
	x.Helper()
	if _, err := x.cluster.Dynamic().Resource(r).Namespace(x.namespace).Create(x.Context(), &unstructured.Unstructured{Object: o}, metav1.CreateOptions{}); err != nil {
		x.Fatal(err)
	}
}

func (x tenant) patch(r schema.GroupVersionResource, name, patch string) {
	x.Helper()
	if _, err := x.cluster.Dynamic().Resource(r).Namespace(x.namespace).Patch(x.Context(), name, types.MergePatchType, []byte(patch), metav1.PatchOptions{FieldManager: "somebody"}); err != nil {
		x.Fatal(err)
	}
}

func (x tenant) delete(r schema.GroupVersionResource, name string) {
	x.Helper()
	if err := x.cluster.Dynamic().Resource(r).Namespace(x.namespace).Delete(x.Context(), name, metav1.DeleteOptions{}); err != nil {
		x.Fatal(err)
	}
}

func (x tenant) commit(changes ...gitserver.Change) string {
	x.Helper()
	id, err := x.repo.Commit("change", changes...)
	if err != nil {
		x.Fatal(err)
	}
	return id
}

// push commits and tells it, as a webhook would.
func (x tenant) push(changes ...gitserver.Change) string {
	x.Helper()
	id := x.commit(changes...)
	x.hub.Refresh(x.repo.URL())
	x.flux.Refresh(x.repo.URL(), "main")
	return id
}

// source creates the GitRepository "fleet"; deliver a Kustomization of a directory.
func (x tenant) source() {
	x.Helper()
	x.create(gitRepositories, map[string]any{
		"apiVersion": sourcev1.GroupVersion.String(), "kind": "GitRepository", "metadata": map[string]any{"name": "fleet"},
		"spec": map[string]any{"url": x.repo.URL(), "interval": "1h", "ref": map[string]any{"branch": "main"}},
	})
}

func (x tenant) deliver(name string, more map[string]any) {
	x.Helper()
	spec := map[string]any{
		"interval": "1h", "path": "./" + name, "prune": true, "serviceAccountName": "deployer", "targetNamespace": x.namespace,
		"sourceRef": map[string]any{"kind": "GitRepository", "name": "fleet"},
	}
	maps.Copy(spec, more)
	x.create(kustomizations, map[string]any{
		"apiVersion": kustomizev1.GroupVersion.String(), "kind": "Kustomization", "metadata": map[string]any{"name": name}, "spec": spec,
	})
}

func (x tenant) await(r schema.GroupVersionResource, name, aim string, c harness.Condition) *unstructured.Unstructured {
	x.Helper()
	return x.cluster.Await(x, r, x.namespace, name, aim, c)
}

func (x tenant) has(name, value string) {
	x.Helper()
	x.await(harness.ConfigMaps, name, "to hold "+value, holds(value))
}

func holds(value string) harness.Condition {
	return func(o *unstructured.Unstructured) bool {
		if o == nil {
			return false
		}
		got, _, _ := unstructured.NestedString(o.Object, "data", "key")
		return got == value
	}
}

func configMap(name, value string) string {
	return fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: %s\ndata:\n  key: %q\n", name, value)
}

// requests tells what our client wrote in the tenant's namespace since mark, events aside.
func (x tenant) requests(mark harness.Mark) []string {
	x.Helper()
	var found []string
	for _, r := range x.cluster.RequestsSince(x, mark, harness.ByUserAgent(agent), harness.Writes, harness.InNamespace(x.namespace)) {
		if r.Resource == "events" {
			continue
		}
		what := r.Resource
		if r.Subresource != "" {
			what += "/" + r.Subresource
		}
		found = append(found, r.Verb+" "+what+" "+r.Name)
	}
	slices.Sort(found)
	return found
}

func equal(t *testing.T, what string, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s:\ngot  %s\nwant %s", what, strings.Join(got, ", "), strings.Join(want, ", "))
	}
}

func TestDelivery(t *testing.T) {
	x := start(t).tenant(t)
	first := x.commit(
		gitserver.Put("web/a.yaml", configMap("a", "1")), gitserver.Put("web/b.yaml", configMap("b", "1")),
		gitserver.Put("api/c.yaml", configMap("c", "1")))
	mark := x.cluster.Mark(t)
	x.source()
	x.deliver("web", nil)
	x.deliver("api", nil)
	ks := x.await(kustomizations, "web", "to be ready", applied(first))
	x.await(kustomizations, "api", "to be ready", applied(first))
	x.has("a", "1")
	x.await(gitRepositories, "fleet", "to be ready", is("Ready", "True", "Succeeded", "stored artifact for revision 'main@sha1:"+first+"'"))
	equal(t, "first sync", x.requests(mark), []string{
		"patch configmaps a", "patch configmaps b", "patch configmaps c", "patch gitrepositories/status fleet",
		"patch kustomizations api", "patch kustomizations web",
		"patch kustomizations/status api", "patch kustomizations/status web",
	})
	if got := ks.GetFinalizers(); !slices.Equal(got, []string{"finalizers.fluxcd.io"}) {
		t.Errorf("finalizers: %v", got)
	}
	checkStatus(t, ks, x.namespace, first)

	mark = x.cluster.Mark(t)
	second := x.push(gitserver.Put("web/a.yaml", configMap("a", "2")), gitserver.Delete("web/b.yaml"))
	x.has("a", "2")
	x.await(harness.ConfigMaps, "b", "to be pruned", harness.Gone)
	x.await(kustomizations, "web", "to be ready", applied(second))
	x.await(kustomizations, "api", "to be ready", applied(second))
	x.await(gitRepositories, "fleet", "to be ready", is("Ready", "True", "Succeeded", second))
	x.await(kustomizations, "web", "to have forgotten b", inventory(x.namespace+"_a__ConfigMap"))
	got := x.requests(mark)
	if n := count(got, "patch kustomizations/status web"); n < 1 || n > 2 { // again when b is seen gone
		t.Errorf("status of web was written %d times", n)
	}
	got = slices.DeleteFunc(got, func(s string) bool { return s == "patch kustomizations/status web" })
	equal(t, "a commit that touches one", got, []string{
		"delete configmaps b", "patch configmaps a", "patch gitrepositories/status fleet", "patch kustomizations/status api",
	})
}

func count(all []string, one string) (n int) {
	for _, s := range all {
		if s == one {
			n++
		}
	}
	return n
}

func inventory(ids ...string) harness.Condition {
	return func(o *unstructured.Unstructured) bool {
		entries, _, _ := unstructured.NestedSlice(o.Object, "status", "inventory", "entries")
		var got []string
		for _, e := range entries {
			if m, ok := e.(map[string]any); ok {
				got = append(got, fmt.Sprint(m["id"]))
			}
		}
		slices.Sort(got)
		return slices.Equal(got, ids)
	}
}

func checkStatus(t *testing.T, ks *unstructured.Unstructured, namespace, commit string) {
	t.Helper()
	if !inventory(namespace+"_a__ConfigMap", namespace+"_b__ConfigMap")(ks) {
		t.Errorf("inventory: %v", ks.Object["status"])
	}
	for field, want := range map[string]any{
		"lastAppliedRevision": "main@sha1:" + commit, "lastAttemptedRevision": "main@sha1:" + commit, "observedGeneration": ks.GetGeneration(),
	} {
		if got, _, _ := unstructured.NestedFieldNoCopy(ks.Object, "status", field); got != want {
			t.Errorf("status.%s: got %v, want %v", field, got, want)
		}
	}
	history, _, _ := unstructured.NestedSlice(ks.Object, "status", "history")
	if len(history) != 1 {
		t.Errorf("history: %v", history)
	}
}

func TestDriftIsReverted(t *testing.T) {
	x := start(t).tenant(t)
	first := x.commit(gitserver.Put("web/a.yaml", configMap("a", "1")))
	x.source()
	x.deliver("web", nil)
	x.await(kustomizations, "web", "to be ready", applied(first))
	mark := x.cluster.Mark(t)
	x.patch(harness.ConfigMaps, "a", `{"data":{"key":"edited"}}`)
	x.has("a", "1")
	x.delete(harness.ConfigMaps, "a")
	x.has("a", "1")
	if got := x.requests(mark); slices.ContainsFunc(got, func(s string) bool { return strings.Contains(s, "status") }) {
		t.Errorf("a revert changes no status: %v", got)
	}
	x.awaitEvent("DriftCorrected", "ConfigMap/"+x.namespace+"/a configured")
}

// awaitEvent waits for an event of the tenant.
func (x tenant) awaitEvent(reason, text string) {
	x.Helper()
	w, err := x.cluster.Dynamic().Resource(events).Namespace(x.namespace).Watch(x.Context(), metav1.ListOptions{})
	if err != nil {
		x.Fatal(err)
	}
	defer w.Stop()
	for deadline := time.After(30 * time.Second); ; {
		select {
		case e := <-w.ResultChan():
			u, ok := e.Object.(*unstructured.Unstructured)
			if !ok {
				x.Fatalf("the watch of events ended: %v", e)
			}
			message, _, _ := unstructured.NestedString(u.Object, "message")
			if got, _, _ := unstructured.NestedString(u.Object, "reason"); got == reason && strings.Contains(message, text) {
				return
			}
		case <-deadline:
			x.Fatalf("no event %s with %q", reason, text)
		}
	}
}

func TestBrokenCommitChangesNothing(t *testing.T) {
	x := start(t).tenant(t)
	first := x.commit(gitserver.Put("web/a.yaml", configMap("a", "1")))
	x.source()
	x.deliver("web", nil)
	x.await(kustomizations, "web", "to be ready", applied(first))
	x.push(gitserver.Put("web/a.yaml", configMap("a", "2")), gitserver.Put("web/b.yaml", "a: b: c"))
	ks := x.await(kustomizations, "web", "to tell", is("Ready", "False", "BuildFailed", "web/b.yaml:1: not valid YAML"))
	if got, _, _ := unstructured.NestedString(ks.Object, "status", "lastAppliedRevision"); got != "main@sha1:"+first {
		t.Errorf("lastAppliedRevision: %s", got)
	}
	x.has("a", "1")
	last := x.push(gitserver.Delete("web/b.yaml"))
	x.await(kustomizations, "web", "to recover", applied(last))
	x.has("a", "2")
	x.push(gitserver.Delete("web"))
	x.await(kustomizations, "web", "to miss its path", is("Ready", "False", "ArtifactFailed", "kustomization path not found: ./web"))
	x.has("a", "2")
}

func TestRefusals(t *testing.T) {
	x := start(t).tenant(t)
	first := x.commit(gitserver.Put("web/a.yaml", configMap("a", "1")))
	x.deliver("web", nil)
	x.await(kustomizations, "web", "to miss its source", is("Ready", "False", "ArtifactFailed", "Source artifact not found: GitRepository/"+x.namespace+"/fleet does not exist"))
	x.source()
	x.await(kustomizations, "web", "to be ready", applied(first))

	mark := x.cluster.Mark(t)
	for _, tc := range []struct {
		name         string
		more         map[string]any
		reason, text string
	}{
		{"field", map[string]any{"buildMetadata": []any{"originAnnotations"}}, "UnsupportedField", "spec.buildMetadata is not supported yet"},
		{"elsewhere", map[string]any{"sourceRef": map[string]any{"kind": "GitRepository", "name": "fleet", "namespace": "other"}}, "AccessDenied", "cross-namespace references have been blocked"},
		{"nobody", map[string]any{"serviceAccountName": ""}, "AccessDenied", "--default-service-account"},
		{"overflow", map[string]any{"interval": "99999999999999h"}, "InvalidSpec", "the spec cannot be read"},
	} {
		x.deliver(tc.name, tc.more)
		ks := x.await(kustomizations, tc.name, "to be refused", is("Ready", "False", tc.reason, tc.text))
		if condition(ks, "Stalled") != "True" {
			t.Errorf("%s is not stalled", tc.name)
		}
	}
	equal(t, "what was refused", x.requests(mark), []string{
		"patch kustomizations/status elsewhere", "patch kustomizations/status field", "patch kustomizations/status nobody", "patch kustomizations/status overflow",
	})
	second := x.push(gitserver.Put("web/a.yaml", configMap("a", "2")))
	x.await(kustomizations, "web", "to go on", applied(second))

	x.patch(kustomizations, "field", `{"spec":{"buildMetadata":null,"path":"./web","prune":false}}`)
	// What web delivers belongs to web.
	x.await(kustomizations, "field", "to be refused", is("Ready", "False", "ReconciliationFailed", "belongs to Kustomization/"+x.namespace+"/web"))
}

func TestSourceRefusals(t *testing.T) {
	x := start(t).tenant(t)
	x.commit(gitserver.Put("a", "b"))
	spec := func(more map[string]any) map[string]any {
		s := map[string]any{"url": x.repo.URL(), "interval": "1h", "ref": map[string]any{"branch": "main"}}
		maps.Copy(s, more)
		return s
	}
	for _, tc := range []struct {
		name         string
		more         map[string]any
		stalled      string
		reason, text string
	}{
		{"sub", map[string]any{"recurseSubmodules": true}, "True", "UnsupportedField", "spec.recurseSubmodules is not supported yet"},
		{"tag", map[string]any{"ref": map[string]any{"tag": "v1"}}, "", "GitOperationFailed", `no tag "v1"`},
		{"ssh", map[string]any{"url": "ssh://git@x/y"}, "", "AuthenticationFailed", "spec.secretRef names no Secret"},
		{"nobranch", map[string]any{"ref": map[string]any{"branch": "nope"}}, "", "GitOperationFailed", `no branch "nope"`},
		{"nosecret", map[string]any{"secretRef": map[string]any{"name": "nope"}}, "", "AuthenticationFailed", "does not exist"},
		{"down", map[string]any{"url": "http://127.0.0.1:1/x"}, "", "GitOperationFailed", ""},
		{"overflow", map[string]any{"interval": "99999999999999h"}, "True", "InvalidSpec", "the spec cannot be read"},
	} {
		x.create(gitRepositories, map[string]any{
			"apiVersion": sourcev1.GroupVersion.String(), "kind": "GitRepository", "metadata": map[string]any{"name": tc.name}, "spec": spec(tc.more),
		})
		o := x.await(gitRepositories, tc.name, "to be refused", is("Ready", "False", tc.reason, tc.text))
		if got := condition(o, "Stalled"); got != tc.stalled {
			t.Errorf("%s: stalled is %q", tc.name, got)
		}
	}
}

func TestDeletion(t *testing.T) {
	x := start(t).tenant(t)
	first := x.commit(gitserver.Put("web/a.yaml", configMap("a", "1")), gitserver.Put("api/b.yaml", configMap("b", "1")), gitserver.Put("job/c.yaml", configMap("c", "1")))
	x.source()
	x.deliver("web", nil)
	x.deliver("api", nil)
	x.deliver("job", map[string]any{"prune": false})
	for _, name := range []string{"web", "api", "job"} {
		x.await(kustomizations, name, "to be ready", applied(first))
	}
	x.patch(kustomizations, "api", `{"spec":{"suspend":true}}`)
	for _, name := range []string{"web", "api", "job"} {
		x.delete(kustomizations, name)
		x.await(kustomizations, name, "to go", harness.Gone)
	}
	x.await(harness.ConfigMaps, "a", "to go with its Kustomization", harness.Gone)
	x.has("b", "1")
	x.has("c", "1")
	x.delete(gitRepositories, "fleet")
	x.await(gitRepositories, "fleet", "to go", harness.Gone)
}

func TestDeletionWithoutItsAccount(t *testing.T) {
	x := start(t).tenant(t)
	first := x.commit(gitserver.Put("web/a.yaml", configMap("a", "1")))
	x.source()
	x.deliver("web", nil)
	x.await(kustomizations, "web", "to be ready", applied(first))
	x.delete(roleBindings, "deployer")
	x.delete(kustomizations, "web")
	x.await(kustomizations, "web", "to tell", is("Ready", "False", "PruneFailed", "cannot delete configmaps"))
	x.delete(harness.ServiceAccounts, "deployer")
	x.await(kustomizations, "web", "to be let go", harness.Gone)
	x.has("a", "1")
}

func TestWait(t *testing.T) {
	x := start(t).tenant(t)
	deployment := `apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers: [{name: web, image: nginx}]
`
	first := x.commit(gitserver.Put("web/a.yaml", deployment))
	x.source()
	x.deliver("web", map[string]any{"wait": true, "timeout": "5m"})
	ks := x.await(kustomizations, "web", "to be ready", applied(first))
	if got := condition(ks, "Healthy"); got != "True" {
		t.Errorf("Healthy is %q", got)
	}
	x.await(harness.Deployments, "web", "to be ready", harness.Ready(1))
}

func TestSuspendedDoesNothing(t *testing.T) {
	x := start(t).tenant(t)
	first := x.commit(gitserver.Put("web/a.yaml", configMap("a", "1")), gitserver.Put("api/b.yaml", configMap("b", "1")))
	x.source()
	x.deliver("web", nil)
	x.deliver("api", nil)
	x.await(kustomizations, "web", "to be ready", applied(first))
	x.await(kustomizations, "api", "to be ready", applied(first))
	x.patch(kustomizations, "web", `{"spec":{"suspend":true}}`)
	second := x.push(gitserver.Put("web/a.yaml", configMap("a", "2")))
	x.await(kustomizations, "api", "to go on", applied(second))
	x.has("a", "1")
	x.patch(kustomizations, "web", `{"spec":{"suspend":false}}`)
	x.await(kustomizations, "web", "to catch up", applied(second))
	x.has("a", "2")
}

func TestRequestedAt(t *testing.T) {
	x := start(t).tenant(t)
	x.commit(gitserver.Put("web/a.yaml", configMap("a", "1")))
	x.source()
	x.deliver("web", nil)
	x.has("a", "1")
	second := x.commit(gitserver.Put("web/a.yaml", configMap("a", "2")))
	for _, r := range []schema.GroupVersionResource{gitRepositories, kustomizations} {
		name := map[bool]string{true: "fleet", false: "web"}[r == gitRepositories]
		x.patch(r, name, `{"metadata":{"annotations":{"reconcile.fluxcd.io/requestedAt":"now"}}}`)
		x.await(r, name, "to answer", func(o *unstructured.Unstructured) bool {
			got, _, _ := unstructured.NestedString(o.Object, "status", "lastHandledReconcileAt")
			return got == "now"
		})
	}
	x.await(kustomizations, "web", "to be ready", applied(second))
}

func TestReceiver(t *testing.T) {
	x := start(t).tenant(t)
	first := x.commit(gitserver.Put("web/a.yaml", configMap("a", "1")))
	x.source()
	x.deliver("web", nil)
	x.await(kustomizations, "web", "to be ready", applied(first))
	x.create(secrets, map[string]any{"apiVersion": "v1", "kind": "Secret", "metadata": map[string]any{"name": "token"}, "stringData": map[string]any{"token": "t0ken"}})
	x.create(receivers, map[string]any{
		"apiVersion": notificationv1.GroupVersion.String(), "kind": "Receiver", "metadata": map[string]any{"name": "push"},
		"spec": map[string]any{
			"type": "generic-hmac", "secretRef": map[string]any{"name": "token"},
			"resources": []any{map[string]any{"kind": "GitRepository", "name": "fleet"}},
		},
	})
	o := x.await(receivers, "push", "to be ready", is("Ready", "True", "Succeeded", "Receiver initialized for path: /hook/"))
	path, _, _ := unstructured.NestedString(o.Object, "status", "webhookPath")
	srv := httptest.NewServer(x.flux.Hooks)
	defer srv.Close()
	second := x.commit(gitserver.Put("web/a.yaml", configMap("a", "2")))
	mac := hmac.New(sha256.New, []byte("t0ken"))
	mac.Write([]byte("{}"))
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, srv.URL+path, bytes.NewReader([]byte("{}")))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("X-Signature", "sha256="+hex.EncodeToString(mac.Sum(nil)))
	begin := time.Now()
	res, err := http.DefaultClient.Do(r)
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("%v %v", res, err)
	}
	x.has("a", "2")
	t.Logf("push to live: %s", time.Since(begin).Round(time.Millisecond))
	x.await(kustomizations, "web", "to be ready", applied(second))
	x.await(gitRepositories, "fleet", "to carry the request", func(o *unstructured.Unstructured) bool {
		token := o.GetAnnotations()["reconcile.fluxcd.io/requestedAt"]
		got, _, _ := unstructured.NestedString(o.Object, "status", "lastHandledReconcileAt")
		return token != "" && token == got
	})
}

func TestArtifactIsServed(t *testing.T) {
	x := start(t).tenant(t)
	x.commit(gitserver.Put("web/a.yaml", configMap("a", "1")))
	x.source()
	o := x.await(gitRepositories, "fleet", "to be ready", func(o *unstructured.Unstructured) bool { return condition(o, "Ready") == "True" })
	path, _, _ := unstructured.NestedString(o.Object, "status", "artifact", "path")
	digest, _, _ := unstructured.NestedString(o.Object, "status", "artifact", "digest")
	url, _, _ := unstructured.NestedString(o.Object, "status", "artifact", "url")
	if url != "http://holdfast.holdfast-system.svc.cluster.local./"+path {
		t.Errorf("url: %s", url)
	}
	w := httptest.NewRecorder()
	x.flux.Artifacts.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/"+path, nil))
	sum := sha256.Sum256(w.Body.Bytes())
	if got := "sha256:" + hex.EncodeToString(sum[:]); w.Code != http.StatusOK || got != digest {
		t.Errorf("%d, digest %s, want %s", w.Code, got, digest)
	}
}
