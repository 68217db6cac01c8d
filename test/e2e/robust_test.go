package e2e

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/holdfastcd/holdfast/test/gitserver"
	"github.com/holdfastcd/holdfast/test/harness"
)

func neighbour(ns string) string {
	return strings.ReplaceAll(`
apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: next, namespace: NS}
spec: {interval: 10m, path: ./next, prune: true, targetNamespace: NS, serviceAccountName: deployer, sourceRef: {kind: GitRepository, name: app}}
`, "NS", ns)
}

func bomb() string {
	var b strings.Builder
	b.WriteString("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: bomb}\na0: &a0 [x,x,x,x,x,x,x,x,x,x]\n")
	for i := range 9 {
		fmt.Fprintf(&b, "a%d: &a%d [%s]\n", i+1, i+1, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d,", i), 10), ","))
	}
	return b.String()
}

// TestBadSource: what is wrong with a source is said on the GitRepository, and
// on the Kustomization that waits for it.
func TestBadSource(t *testing.T) {
	w := theWorld(t)
	repo := w.repository(t, map[string]string{"app/config.yaml": configMap("settings", "one")})
	tests := map[string]struct {
		reason, spec string
		want         []string
	}{
		"no such ref":   {"the branch does not exist", "{url: " + repo.URL() + ", interval: 10m, ref: {branch: nowhere}}", []string{"nowhere"}},
		"unreachable":   {"nobody listens", "{url: 'http://127.0.0.1:1/x.git', interval: 10m, ref: {branch: main}}", []string{"127.0.0.1:1"}},
		"not found":     {"no such repository", "{url: " + w.git.URL("nothing") + ", interval: 10m, ref: {branch: main}}", []string{"no such repository"}},
		"metacharacter": {"a URL is never a command", "{url: 'http://git.example/$(id).git;rm', interval: 10m, ref: {branch: main}}", []string{"URL", "characters"}},
		"unsupported":   {"a field that is not there yet is refused by name", "{url: " + repo.URL() + ", interval: 10m, ref: {branch: main}, verify: {mode: HEAD, secretRef: {name: keys}}}", []string{"spec.verify"}},
		"other secret":  {"a missing Secret is named", "{url: " + repo.URL() + ", interval: 10m, ref: {branch: main}, secretRef: {name: missing}}", []string{"missing"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			ns := w.tenant(t)
			w.flux(t, ns, repo.URL(), "./app")
			w.cluster.Await(t, harness.ConfigMaps, ns, "settings", "to be delivered", has("data.value", "one"))
			must(t, w.cluster.Dynamic().Resource(gitRepositories).Namespace(ns).Delete(t.Context(), "app", metav1.DeleteOptions{}))
			w.cluster.Await(t, gitRepositories, ns, "app", "to be gone", harness.Gone)
			w.apply(t, "apiVersion: source.toolkit.fluxcd.io/v1\nkind: GitRepository\nmetadata: {name: app, namespace: "+ns+"}\nspec: "+tc.spec)
			w.cluster.Await(t, gitRepositories, ns, "app", "to say: "+tc.reason, says("Ready", append(tc.want, "False ")...))
			w.cluster.Await(t, kustomizations, ns, "app", "to say that its source has nothing", says("Ready", "False"))
			w.cluster.Await(t, harness.ConfigMaps, ns, "settings", "to be left alone", has("data.value", "one"))
		})
	}
}

// TestCredentials: a repository behind basic authentication; a wrong password
// is told, and never shown.
func TestCredentials(t *testing.T) {
	w := theWorld(t)
	ns := w.tenant(t)
	git, err := gitserver.Start(t.TempDir(), gitserver.Options{Username: "robot", Password: "swordfish"})
	must(t, err)
	t.Cleanup(func() { _ = git.Close() })
	repo, err := git.Create("private")
	must(t, err)
	head := commit(t, repo, gitserver.Put("app/config.yaml", configMap("settings", "one")))
	secret := func(password string) {
		w.apply(t, "apiVersion: v1\nkind: Secret\nmetadata: {name: git, namespace: "+ns+"}\nstringData: {username: robot, password: "+password+"}")
	}
	secret("wrong-horse")
	w.flux(t, ns, repo.URL(), "./app")
	w.patch(t, gitRepositories, ns, "app", `{"spec":{"secretRef":{"name":"git"}}}`)
	o := w.cluster.Await(t, gitRepositories, ns, "app", "to tell that the credentials are refused", says("Ready", "False AuthenticationFailed"))
	if strings.Contains(fmt.Sprint(o.Object["status"]), "wrong-horse") || strings.Contains(w.main.log.String(), "wrong-horse") {
		t.Error("the password is shown")
	}
	secret("swordfish")
	w.patch(t, gitRepositories, ns, "app", `{"metadata":{"annotations":{"reconcile.fluxcd.io/requestedAt":"1"}}}`)
	w.cluster.Await(t, kustomizations, ns, "app", "to be applied", appliedAt(head))
}

// TestAccounts: a delivery can do what its account may do, and nothing else.
func TestAccounts(t *testing.T) {
	w := theWorld(t)
	ns, other := w.tenant(t), w.cluster.Namespace(t)
	repo := w.repository(t, map[string]string{
		"app/config.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: intruder\n  namespace: " + other + "\n",
	})
	w.flux(t, ns, repo.URL(), "./app")
	w.patch(t, kustomizations, ns, "app", `{"spec":{"targetNamespace":null}}`)
	w.cluster.Await(t, kustomizations, ns, "app", "to be told by the API server",
		says("Ready", "False", "system:serviceaccount:"+ns+":deployer", other))
	w.cluster.Await(t, harness.ConfigMaps, other, "intruder", "not to be there", harness.Gone)
	w.patch(t, kustomizations, ns, "app", `{"spec":{"serviceAccountName":null}}`)
	w.cluster.Await(t, kustomizations, ns, "app", "to be refused without an account", says("Ready", "False", "serviceAccountName"))
}

// TestOwnership: a second delivery of the same object is refused by name.
func TestOwnership(t *testing.T) {
	w := theWorld(t)
	ns := w.tenant(t)
	repo := w.repository(t, map[string]string{
		"app/config.yaml":  configMap("settings", "mine"),
		"next/config.yaml": configMap("settings", "theirs"),
	})
	head, err := repo.Head()
	must(t, err)
	w.flux(t, ns, repo.URL(), "./app")
	w.cluster.Await(t, kustomizations, ns, "app", "to be applied", appliedAt(head))
	w.apply(t, neighbour(ns))
	w.cluster.Await(t, kustomizations, ns, "next", "to be refused", says("Ready", "False", "Kustomization/"+ns+"/app", "next/config.yaml"))
	w.cluster.Await(t, harness.ConfigMaps, ns, "settings", "to stay the first one's", has("data.value", "mine"))
}

// TestNothingToDoSendsNothing counts, in the API server's own log, what the
// controller sends when nothing has changed: over a full reconcile, nothing; and
// over a commit elsewhere, one status patch.
func TestNothingToDoSendsNothing(t *testing.T) {
	w := theWorld(t)
	ns := w.tenant(t)
	repo := w.repository(t, map[string]string{"app/config.yaml": configMap("settings", "one"), "app/deployment.yaml": deployment("web", 1)})
	head, err := repo.Head()
	must(t, err)
	w.flux(t, ns, repo.URL(), "./app", "  wait: true")
	w.cluster.Await(t, kustomizations, ns, "app", "to be applied and healthy", appliedAt(head))
	writes := func(since harness.Mark) []harness.Request {
		return w.cluster.RequestsSince(t, since, harness.ByUserAgent("holdfast"), harness.Writes, harness.InNamespace(ns),
			func(r harness.Request) bool { return r.Resource != "events" })
	}
	var applies int
	for _, r := range w.cluster.Requests(t, harness.ByUserAgent("holdfast"), harness.Writes, harness.InNamespace(ns)) {
		if r.Resource == "configmaps" || r.Resource == "deployments" {
			applies++
		}
	}
	if applies != 2 {
		t.Errorf("a first delivery of two objects took %d writes to them", applies)
	}

	mark := w.cluster.Mark(t)
	w.patch(t, kustomizations, ns, "app", `{"metadata":{"annotations":{"reconcile.fluxcd.io/requestedAt":"again"}}}`)
	w.cluster.Await(t, kustomizations, ns, "app", "to have been looked at", has("status.lastHandledReconcileAt", "again"))
	for _, r := range writes(mark) {
		if r.Resource != "kustomizations" {
			t.Errorf("with nothing to do it sent %s %s", r.Verb, r.URI)
		}
	}

	mark = w.cluster.Mark(t)
	next := commit(t, repo, gitserver.Put("README.md", "nothing of interest\n"))
	w.main.push(t, repo)
	w.cluster.Await(t, kustomizations, ns, "app", "to tell the new revision", appliedAt(next))
	var patches int
	for _, r := range writes(mark) {
		switch {
		case r.Resource == "kustomizations" && r.Subresource == "status":
			patches++
		case r.Resource == "gitrepositories":
		default:
			t.Errorf("a commit that leaves it untouched sent %s %s", r.Verb, r.URI)
		}
	}
	if patches != 1 {
		t.Errorf("a commit that leaves it untouched cost %d status patches", patches)
	}
}

// TestKilledInMidSync kills the controller while it delivers, and starts it again
// on the same data: the delivery is completed, and after a second restart nothing is sent.
func TestKilledInMidSync(t *testing.T) {
	w := theWorld(t)
	w.main.kill() // one controller at a time serves a cluster
	t.Cleanup(func() { w.restart(t) })
	ns := w.tenant(t)
	files := map[string]string{}
	const many = 150
	for i := range many {
		name := fmt.Sprintf("c%03d", i)
		files["app/"+name+".yaml"] = configMap(name, "one")
	}
	repo := w.repository(t, files)
	head, err := repo.Head()
	must(t, err)
	data := filepath.Join(t.TempDir(), "data")

	c, err := w.startController(data)
	must(t, err)
	w.flux(t, ns, repo.URL(), "./app")
	w.cluster.Await(t, harness.ConfigMaps, ns, "c010", "to be delivered, as one of the first", harness.Exists)
	c.kill()

	c, err = w.startController(data)
	must(t, err)
	w.cluster.Await(t, kustomizations, ns, "app", "to be completed", appliedAt(head))
	for i := range many {
		w.cluster.Await(t, harness.ConfigMaps, ns, fmt.Sprintf("c%03d", i), "to be there", has("data.value", "one"))
	}
	c.kill()

	mark := w.cluster.Mark(t)
	c, err = w.startController(data)
	must(t, err)
	t.Cleanup(c.kill)
	w.patch(t, kustomizations, ns, "app", `{"metadata":{"annotations":{"reconcile.fluxcd.io/requestedAt":"after the restart"}}}`)
	w.cluster.Await(t, kustomizations, ns, "app", "to have been looked at", has("status.lastHandledReconcileAt", "after the restart"))
	sent := w.cluster.RequestsSince(t, mark, harness.ByUserAgent("holdfast"), harness.ByVerb("patch", "create", "delete", "get"), harness.InNamespace(ns),
		func(r harness.Request) bool { return r.Resource == "configmaps" })
	if len(sent) > 0 {
		t.Errorf("a restart sent %d requests for objects that stand, the first %s %s", len(sent), sent[0].Verb, sent[0].URI)
	}
}
