package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/holdfastcd/holdfast/test/gitserver"
	"github.com/holdfastcd/holdfast/test/harness"
)

var appProjects = applications.GroupVersion().WithResource("appprojects")

// sentAbout counts what a controller asks and writes about objects of a kind, by verb.
func (w *world) sentAbout(t *testing.T, since harness.Mark, resource string, filters ...harness.Filter) string {
	t.Helper()
	filters = append(filters, harness.ByUserAgent("holdfast"), harness.ByVerb("get", "create", "update", "patch", "delete", "deletecollection"))
	var verbs []string
	for _, r := range w.cluster.RequestsSince(t, since, filters...) {
		if r.Resource == resource {
			verbs = append(verbs, r.Verb)
		}
	}
	return strings.Join(verbs, ", ")
}

// TestApplicationsThatACommitLeavesAlone counts what Argo CD's resources cost when
// nothing changes: a look costs their objects nothing, and a commit elsewhere one
// write of status.
func TestApplicationsThatACommitLeavesAlone(t *testing.T) {
	w := theWorld(t)
	ns := w.tenant(t)
	repo := w.repository(t, map[string]string{"app/config.yaml": configMap("settings", "one"), "app/web.yaml": deployment("web", 1)})
	head, err := repo.Head()
	must(t, err)
	w.project(t, ns, repo.URL())
	mark := w.cluster.Mark(t)
	w.apply(t, application(ns, ns, repo.URL(), "app", ns, automated))
	healthy := func(commit string) harness.Condition {
		return func(o *unstr) bool { return syncedAt(commit)(o) && field(o, "status.health.status") == "Healthy" }
	}
	w.cluster.Await(t, applications, argocd, ns, "to be synced and healthy", healthy(head))
	for _, resource := range []string{"configmaps", "deployments"} {
		if got := w.sentAbout(t, mark, resource, harness.InNamespace(ns)); got != "patch" {
			t.Errorf("the first delivery of one of the %s took: %s", resource, got)
		}
	}
	named := func(r harness.Request) bool { return r.Name == ns }
	quiet := func(since harness.Mark, after string) {
		t.Helper()
		for _, resource := range []string{"configmaps", "deployments"} {
			if got := w.sentAbout(t, since, resource, harness.InNamespace(ns)); got != "" {
				t.Errorf("%s sent about %s: %s", after, resource, got)
			}
		}
	}

	mark = w.cluster.Mark(t)
	w.patch(t, applications, argocd, ns, `{"metadata":{"annotations":{"argocd.argoproj.io/refresh":"normal"}}}`)
	w.cluster.Await(t, applications, argocd, ns, "to have been looked at", func(o *unstr) bool {
		return o != nil && o.GetAnnotations()["argocd.argoproj.io/refresh"] == ""
	})
	quiet(mark, "a look with nothing to do")

	mark = w.cluster.Mark(t)
	second := commit(t, repo, gitserver.Put("README.md", "nothing of interest\n"))
	w.main.push(t, repo)
	w.cluster.Await(t, applications, argocd, ns, "to tell the new revision", healthy(second))
	quiet(mark, "a commit that leaves it untouched")
	if got := w.sentAbout(t, mark, "applications", named); got != "patch" {
		t.Errorf("a commit that leaves it untouched cost the Application: %s", got)
	}
}

// TestApplicationsRestarted: a controller that held many Applications ends, one object
// is changed and one commit is made, and the next controller sends what that takes.
// HOLDFAST_MANY says how many: make many has as many as a large cluster.
func TestApplicationsRestarted(t *testing.T) {
	w := theWorld(t)
	many := 24
	if text := os.Getenv("HOLDFAST_MANY"); text != "" {
		var err error
		many, err = strconv.Atoi(text)
		must(t, err)
	}
	w.main.kill() // one controller at a time serves a cluster
	t.Cleanup(func() { w.restart(t) })
	ns := w.tenant(t)
	name := func(i int) string { return fmt.Sprintf("%s-%03d", ns, i) }
	files := map[string]string{}
	for i := range many {
		files[name(i)+"/config.yaml"] = configMap(name(i), "one")
		files[name(i)+"/more.yaml"] = configMap(name(i)+"-more", "one")
	}
	repo := w.repository(t, files)
	head, err := repo.Head()
	must(t, err)
	w.project(t, ns, repo.URL())
	data := filepath.Join(t.TempDir(), "data")
	c, err := w.startController(data)
	must(t, err)
	for i := range many {
		w.apply(t, application(name(i), ns, repo.URL(), name(i), ns, automated))
	}
	for i := range many {
		w.cluster.Await(t, applications, argocd, name(i), "to be synced", syncedAt(head))
	}
	c.kill()

	w.patch(t, harness.ConfigMaps, ns, name(7), `{"data":{"value":"by hand"}}`)
	next := commit(t, repo, gitserver.Put(name(8)+"/more.yaml", configMap(name(8)+"-more", "two")))
	mark := w.cluster.Mark(t)
	c, err = w.startController(data)
	must(t, err)
	t.Cleanup(c.kill)
	w.cluster.Await(t, harness.ConfigMaps, ns, name(7), "to be healed", has("data.value", "one"))
	w.cluster.Await(t, harness.ConfigMaps, ns, name(8)+"-more", "to be as committed", has("data.value", "two"))
	for i := range many {
		w.cluster.Await(t, applications, argocd, name(i), "to tell the new revision", syncedAt(next))
	}
	about := func(object string) string {
		return w.sentAbout(t, mark, "configmaps", harness.InNamespace(ns), func(r harness.Request) bool { return r.Name == object })
	}
	if got := about(name(7)); got != "get, patch" { // one read names what was changed
		t.Errorf("what was edited took: %s", got)
	}
	if got := about(name(8) + "-more"); got != "patch" {
		t.Errorf("what was committed took: %s", got)
	}
	if all := w.sentAbout(t, mark, "configmaps", harness.InNamespace(ns)); strings.Count(all, ",") != 2 {
		t.Errorf("after a restart, two changed objects of %d took: %s", 2*many, all)
	}
	untouched := w.sentAbout(t, mark, "applications", func(r harness.Request) bool { return r.Name == name(9) })
	if untouched != "patch" {
		t.Errorf("an Application that nothing touched took: %s", untouched)
	}
}

// TestClaims: who delivered an object first keeps it, whatever kind of delivery asks
// for it next; the other is told by name, and both of them go on.
func TestClaims(t *testing.T) {
	w := theWorld(t)
	ns := w.tenant(t)
	repo := w.repository(t, map[string]string{
		"flux/config.yaml":   configMap("of-flux", "flux"),
		"argo/config.yaml":   configMap("of-argo", "argo"),
		"both/flux.yaml":     configMap("of-flux", "stolen"),
		"both/own.yaml":      configMap("own", "one"),
		"second/argo.yaml":   configMap("of-argo", "stolen"),
		"flux-two/argo.yaml": configMap("of-argo", "stolen"),
	})
	head, err := repo.Head()
	must(t, err)
	w.project(t, ns, repo.URL())
	w.flux(t, ns, repo.URL(), "./flux")
	w.apply(t, application(ns, ns, repo.URL(), "argo", ns, automated))
	w.cluster.Await(t, kustomizations, ns, "app", "to be applied", appliedAt(head))
	w.cluster.Await(t, applications, argocd, ns, "to be synced", syncedAt(head))

	w.apply(t, application(ns+"-both", ns, repo.URL(), "both", ns, automated))
	w.apply(t, application(ns+"-second", ns, repo.URL(), "second", ns, automated))
	w.kustomization(t, ns, "two", "./flux-two", "  targetNamespace: "+ns)
	w.cluster.Await(t, applications, argocd, ns+"-both", "to name the Kustomization and the file", tells("Kustomization/"+ns+"/app", "both/flux.yaml"))
	w.cluster.Await(t, applications, argocd, ns+"-second", "to name the Application and the file", tells("Application/argocd/"+ns, "second/argo.yaml"))
	w.cluster.Await(t, kustomizations, ns, "two", "to name the Application and the file", says("Ready", "False", "Application/argocd/"+ns, "flux-two/argo.yaml"))
	w.cluster.Await(t, harness.ConfigMaps, ns, "own", "not to be delivered: one refusal refuses the whole", harness.Gone)

	second := commit(t, repo, gitserver.Put("flux/config.yaml", configMap("of-flux", "flux two")), gitserver.Put("argo/config.yaml", configMap("of-argo", "argo two")))
	w.main.push(t, repo)
	w.cluster.Await(t, kustomizations, ns, "app", "to go on", appliedAt(second))
	w.cluster.Await(t, applications, argocd, ns, "to go on", syncedAt(second))
	w.cluster.Await(t, harness.ConfigMaps, ns, "of-flux", "to be the Kustomization's", has("data.value", "flux two"))
	w.cluster.Await(t, harness.ConfigMaps, ns, "of-argo", "to be the Application's", has("data.value", "argo two"))

	// Whoever claimed in vain takes nothing down with it.
	must(t, w.cluster.Dynamic().Resource(applications).Namespace(argocd).Delete(t.Context(), ns+"-both", metav1.DeleteOptions{}))
	must(t, w.cluster.Dynamic().Resource(kustomizations).Namespace(ns).Delete(t.Context(), "two", metav1.DeleteOptions{}))
	w.cluster.Await(t, applications, argocd, ns+"-both", "to be gone", harness.Gone)
	w.cluster.Await(t, kustomizations, ns, "two", "to be gone", harness.Gone)
	for _, name := range []string{"of-flux", "of-argo"} {
		if o := w.cluster.Await(t, harness.ConfigMaps, ns, name, "to be there", harness.Exists); o.GetDeletionTimestamp() != nil {
			t.Errorf("%s goes with who did not own it", name)
		}
	}
}

// TestCreatedNamespaceDeletedByHand: a namespace that was made for two Applications
// comes back with everything in it, as soon as the old one is gone.
func TestCreatedNamespaceDeletedByHand(t *testing.T) {
	t.Parallel()
	w := theWorld(t)
	ns := w.tenant(t)
	w.clusterAdmin(t, ns, "deployer")
	target := ns + "-made"
	t.Cleanup(func() {
		_ = w.cluster.Dynamic().Resource(harness.Namespaces).Delete(context.Background(), target, metav1.DeleteOptions{})
	})
	repo := w.repository(t, map[string]string{"app/config.yaml": configMap("settings", "one"), "next/config.yaml": configMap("next", "one")})
	head, err := repo.Head()
	must(t, err)
	w.project(t, ns, repo.URL())
	w.patch(t, appProjects, argocd, ns, fmt.Sprintf(`{"spec":{"destinations":[{"server":"*","namespace":%q}],
		"destinationServiceAccounts":[{"server":"*","namespace":"*","defaultServiceAccount":"%s:deployer"}]}}`, target, ns))
	made := map[string]string{ns: "settings", ns + "-next": "next"} // by Application
	for name, path := range map[string]string{ns: "app", ns + "-next": "next"} {
		w.apply(t, application(name, ns, repo.URL(), path, target, "{automated: {selfHeal: true}, syncOptions: [CreateNamespace=true]}"))
	}
	for name := range made {
		w.cluster.Await(t, applications, argocd, name, "to say that its project permits no Namespace", tells("namespace "+target+" does not exist", "clusterResourceWhitelist"))
	}
	w.patch(t, appProjects, argocd, ns, `{"spec":{"clusterResourceWhitelist":[{"group":"","kind":"Namespace"}]}}`)
	before := map[string]types.UID{}
	for name, config := range made {
		w.cluster.Await(t, applications, argocd, name, "to be synced", syncedAt(head))
		before[config] = w.cluster.Await(t, harness.ConfigMaps, target, config, "to be delivered", has("data.value", "one")).GetUID()
	}
	must(t, w.cluster.Dynamic().Resource(harness.Namespaces).Delete(t.Context(), target, metav1.DeleteOptions{}))
	for name, config := range made {
		w.cluster.Await(t, harness.ConfigMaps, target, config, "to be another one", func(o *unstr) bool {
			return o != nil && o.GetUID() != before[config] && field(o, "data.value") == "one"
		})
		app := w.cluster.Await(t, applications, argocd, name, "to be synced again", syncedAt(head))
		if tries := field(app, "status.operationState.retryCount"); tries != "<none>" {
			t.Errorf("%s was tried %s times more, instead of waiting for the namespace to be gone", name, tries)
		}
	}
}

// TestTrackedLeftovers: what Argo CD delivered and Git has not any more goes when its
// Application is taken over: what its status lists, of kinds that nothing else is of,
// and what carries its mark. A copy of the mark on another object is none.
func TestTrackedLeftovers(t *testing.T) {
	w := theWorld(t)
	ns := w.tenant(t)
	repo := w.repository(t, map[string]string{"app/config.yaml": configMap("settings", "one")})
	head, err := repo.Head()
	must(t, err)
	tracked := func(text, kind, name string) string {
		return strings.Replace(inNamespace(text, ns), "metadata:\n", fmt.Sprintf("metadata:\n  annotations: {argocd.argoproj.io/tracking-id: \"%s:/%s:%s/%s\"}\n", ns, kind, ns, name), 1)
	}
	const service = "apiVersion: v1\nkind: Service\nmetadata:\n  name: left\nspec: {ports: [{port: 80}], selector: {app: x}}\n"
	for _, text := range []string{
		tracked(configMap("settings", "zero"), "ConfigMap", "settings"),
		tracked(configMap("marked", "zero"), "ConfigMap", "marked"),
		tracked(service, "Service", "left"),
		tracked(configMap("copy", "zero"), "ConfigMap", "marked"),
	} {
		w.writeAs(t, "argocd-controller", false, text)
	}
	w.project(t, ns, repo.URL())
	w.main.kill()
	restarted := false
	t.Cleanup(func() {
		if !restarted {
			w.restart(t)
		}
	})
	w.apply(t, application(ns, ns, repo.URL(), "app", ns, automated))
	w.patch(t, applications, argocd, ns, fmt.Sprintf(`{"status":{"resources":[
		{"version":"v1","kind":"ConfigMap","namespace":%[1]q,"name":"settings","status":"Synced"},
		{"version":"v1","kind":"Service","namespace":%[1]q,"name":"left","status":"Synced"}]}}`, ns))
	w.restart(t)
	restarted = true
	w.cluster.Await(t, applications, argocd, ns, "to be synced", syncedAt(head))
	w.cluster.Await(t, harness.Services, ns, "left", "to go: the status lists it", harness.Gone)
	w.cluster.Await(t, harness.ConfigMaps, ns, "marked", "to go: it carries the mark", harness.Gone)
	w.cluster.Await(t, harness.ConfigMaps, ns, "settings", "to be as committed", has("data.value", "one"))
	if o := w.cluster.Await(t, harness.ConfigMaps, ns, "copy", "to stay", harness.Exists); o.GetDeletionTimestamp() != nil {
		t.Error("an object with the mark of another one was deleted")
	}
}

// TestChangedGoesFirst: of many deliveries of one repository, the one that a commit
// changes is changed before the others write their status, which wait a second for it.
func TestChangedGoesFirst(t *testing.T) {
	w := theWorld(t)
	ns := w.tenant(t)
	const many, last = 60, "d-59"
	name := func(i int) string { return fmt.Sprintf("d-%02d", i) }
	files := map[string]string{}
	for i := range many {
		files[name(i)+"/config.yaml"] = configMap(name(i), "one")
	}
	repo := w.repository(t, files)
	head, err := repo.Head()
	must(t, err)
	w.gitRepository(t, ns, repo.URL())
	for i := range many {
		w.kustomization(t, ns, name(i), "./"+name(i), "  targetNamespace: "+ns)
	}
	for i := range many {
		w.cluster.Await(t, kustomizations, ns, name(i), "to be applied", appliedAt(head))
	}
	mark := w.cluster.Mark(t)
	next := commit(t, repo, gitserver.Put(last+"/config.yaml", configMap(last, "two")))
	pushed := time.Now()
	w.main.push(t, repo)
	w.cluster.Await(t, harness.ConfigMaps, ns, last, "to be changed", has("data.value", "two"))
	took := time.Since(pushed)
	for i := range many {
		w.cluster.Await(t, kustomizations, ns, name(i), "to tell the new revision", appliedAt(next))
	}
	before := 0
	seen := false
	for _, r := range w.cluster.RequestsSince(t, mark, harness.ByUserAgent("holdfast"), harness.Writes, harness.InNamespace(ns)) {
		switch {
		case r.Resource == "configmaps":
			seen = true
		case r.Resource == "kustomizations" && !seen:
			before++
		}
	}
	t.Logf("the change took %s, and %d of %d others wrote their status before it was sent", took, before, many-1)
	if !seen || before > 0 && took < time.Second {
		t.Errorf("the change took %s, and %d of %d others wrote their status before it was sent", took, before, many-1)
	}
}

// TestCompletion: what a shell suggests are the names of what the cluster holds.
func TestCompletion(t *testing.T) {
	w := theWorld(t)
	ns := w.tenant(t)
	repo := w.repository(t, map[string]string{"app/config.yaml": configMap("settings", "one")})
	w.flux(t, ns, repo.URL(), "./app")
	w.cluster.Await(t, kustomizations, ns, "app", "to exist", harness.Exists)
	for _, verb := range []string{"sync", "suspend", "resume", "takeover", "handback", "diff", "get"} {
		out, errs, code := w.holdfast(t, "__complete", verb, "-n", ns, "")
		if code != 0 || !strings.Contains(out, "app") || !strings.Contains(out, ":4") {
			t.Errorf("after %s, %d is suggested:\n%s%s", verb, code, out, errs)
		}
	}
	if out, _, _ := w.holdfast(t, "__complete", "get", "-n", ""); !strings.Contains(out, ns) {
		t.Errorf("no namespace is suggested: %s", out)
	}
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		w.says(t, 0, "holdfast", "completion", shell)
	}
}
