package e2e

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/holdfastcd/holdfast/test/gitserver"
	"github.com/holdfastcd/holdfast/test/harness"
)

// flaky is a way to a Git server that can be closed and opened.
type flaky struct {
	*httptest.Server

	closed atomic.Bool
}

func newFlaky(t *testing.T, to string) *flaky {
	t.Helper()
	target, err := url.Parse(to)
	must(t, err)
	f := &flaky{}
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(&url.URL{Scheme: target.Scheme, Host: target.Host}) }}
	f.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if f.closed.Load() {
			panic(http.ErrAbortHandler) // the connection ends without an answer
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(f.Close)
	return f
}

// TestGitServerDown: without its source a delivery says so, keeps what it holds,
// still reverts edits, and goes on by itself when the server is back.
func TestGitServerDown(t *testing.T) {
	w := theWorld(t)
	ns := w.tenant(t)
	repo := w.repository(t, map[string]string{"app/config.yaml": configMap("settings", "one")})
	head, err := repo.Head()
	must(t, err)
	way := newFlaky(t, repo.URL())
	origin, err := url.Parse(repo.URL())
	must(t, err)
	w.flux(t, ns, way.URL+origin.Path, "./app")
	w.cluster.Await(t, kustomizations, ns, "app", "to be applied", appliedAt(head))

	way.closed.Store(true)
	w.patch(t, gitRepositories, ns, "app", `{"metadata":{"annotations":{"reconcile.fluxcd.io/requestedAt":"while it is down"}}}`)
	w.cluster.Await(t, gitRepositories, ns, "app", "to say that the server is away", says("Ready", "False"))
	w.patch(t, harness.ConfigMaps, ns, "settings", `{"data":{"value":"by hand"}}`)
	w.cluster.Await(t, harness.ConfigMaps, ns, "settings", "to be held to the last good state", has("data.value", "one"))

	way.closed.Store(false)
	next := commit(t, repo, gitserver.Put("app/config.yaml", configMap("settings", "two")))
	w.cluster.Await(t, kustomizations, ns, "app", "to go on without being told", appliedAt(next))
	w.cluster.Await(t, harness.ConfigMaps, ns, "settings", "to be as committed", has("data.value", "two"))
}

// TestControlPlaneRestarts kills etcd, then the API server: the controller stays,
// delivers what was committed meanwhile, and reverts as before.
func TestControlPlaneRestarts(t *testing.T) {
	w := theWorld(t)
	ns := w.tenant(t)
	repo := w.repository(t, map[string]string{"app/config.yaml": configMap("settings", "one")})
	head, err := repo.Head()
	must(t, err)
	w.flux(t, ns, repo.URL(), "./app")
	w.cluster.Await(t, kustomizations, ns, "app", "to be applied", appliedAt(head))
	for i, component := range []string{"etcd", "kube-apiserver"} {
		value := fmt.Sprint("after ", component)
		next := commit(t, repo, gitserver.Put("app/config.yaml", configMap("settings", value)))
		w.cluster.Kill(t, component)
		w.main.push(t, repo)
		w.cluster.Await(t, kustomizations, ns, "app", "to be applied after the end of "+component, appliedAt(next))
		w.cluster.Await(t, harness.ConfigMaps, ns, "settings", "to be as committed", has("data.value", value))
		w.patch(t, harness.ConfigMaps, ns, "settings", fmt.Sprintf(`{"data":{"value":"by hand %d"}}`, i))
		w.cluster.Await(t, harness.ConfigMaps, ns, "settings", "to be reverted", has("data.value", value))
		if !w.main.alive() {
			t.Fatalf("the controller ended with %s:\n%s", component, w.main.log)
		}
	}
}

// TestNamespaceDeletedByHand: a namespace in Git, deleted with everything in it, comes back with everything in it.
func TestNamespaceDeletedByHand(t *testing.T) {
	t.Parallel()
	w := theWorld(t)
	ns := w.tenant(t)
	w.clusterAdmin(t, ns, "deployer")
	target := ns + "-made"
	repo := w.repository(t, map[string]string{
		"app/namespace.yaml":  "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: " + target + "\n",
		"app/config.yaml":     strings.Replace(configMap("settings", "one"), "metadata:\n", "metadata:\n  namespace: "+target+"\n", 1),
		"app/deployment.yaml": strings.Replace(deployment("web", 1), "metadata:\n", "metadata:\n  namespace: "+target+"\n", 1),
	})
	head, err := repo.Head()
	must(t, err)
	w.gitRepository(t, ns, repo.URL())
	w.kustomization(t, ns, "app", "./app")
	w.cluster.Await(t, kustomizations, ns, "app", "to be applied", appliedAt(head))
	before := w.cluster.Await(t, harness.ConfigMaps, target, "settings", "to exist", harness.Exists).GetUID()

	must(t, w.cluster.Dynamic().Resource(harness.Namespaces).Delete(t.Context(), target, metav1.DeleteOptions{}))
	w.cluster.Await(t, harness.ConfigMaps, target, "settings", "to be another one", func(o *unstr) bool { return o != nil && o.GetUID() != before })
	w.cluster.Await(t, harness.Deployments, target, "web", "to be ready again", harness.Ready(1))
	w.cluster.Await(t, kustomizations, ns, "app", "to be applied again", appliedAt(head))
}

// TestManyRestarted: a controller that held three hundred deliveries ends, one
// object is changed, and the next controller sends that one apply and no other.
func TestManyRestarted(t *testing.T) {
	w := theWorld(t)
	w.main.kill() // one controller at a time serves a cluster
	t.Cleanup(func() { w.restart(t) })
	const many = 300
	ns := w.tenant(t)
	name := func(i int) string { return fmt.Sprintf("app-%03d", i) }
	files := map[string]string{}
	for i := range many {
		files["apps/"+name(i)+"/config.yaml"] = configMap(name(i), "one")
		files["apps/"+name(i)+"/more.yaml"] = configMap(name(i)+"-more", "one")
	}
	repo := w.repository(t, files)
	head, err := repo.Head()
	must(t, err)
	data := filepath.Join(t.TempDir(), "data")
	c, err := w.startController(data)
	must(t, err)
	w.flux(t, ns, repo.URL(), "./apps/"+name(0))
	for i := 1; i < many; i++ {
		w.kustomization(t, ns, name(i), "./apps/"+name(i), "  targetNamespace: "+ns)
	}
	for i := 1; i < many; i++ {
		w.cluster.Await(t, kustomizations, ns, name(i), "to be applied", appliedAt(head))
	}
	c.kill()

	w.patch(t, harness.ConfigMaps, ns, name(7), `{"data":{"value":"by hand"}}`)
	mark := w.cluster.Mark(t)
	c, err = w.startController(data)
	must(t, err)
	t.Cleanup(c.kill)
	w.cluster.Await(t, harness.ConfigMaps, ns, name(7), "to be reverted", has("data.value", "one"))
	next := commit(t, repo, gitserver.Put("README.md", "nothing of interest\n"))
	c.push(t, repo)
	for i := 1; i < many; i++ {
		w.cluster.Await(t, kustomizations, ns, name(i), "to have been looked at", appliedAt(next))
	}
	sent := w.cluster.RequestsSince(t, mark, harness.ByUserAgent("holdfast"), harness.ByVerb("patch", "create", "delete", "get"), harness.InNamespace(ns),
		func(r harness.Request) bool { return r.Resource == "configmaps" })
	var verbs []string
	for _, r := range sent {
		verbs = append(verbs, r.Verb)
	}
	if got := strings.Join(verbs, ", "); got != "get, patch" { // one read names what was changed
		t.Errorf("after a restart, one changed object of %d took the requests %s", 2*many, got)
	}
}
