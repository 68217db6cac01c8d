package e2e

import (
	"fmt"
	"maps"
	"os/exec"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/holdfastcd/holdfast/test/gitserver"
	"github.com/holdfastcd/holdfast/test/harness"
)

// observer puts a controller that observes in the place of the one that delivers,
// with the rights that an installation with some flags gives it.
func (w *world) observer(t *testing.T, install ...string) *controller {
	t.Helper()
	w.main.kill()
	t.Cleanup(func() {
		// Not with the test's context, which has ended.
		if out, err := exec.Command(w.binary, "install", "--kubeconfig", w.cluster.Kubeconfig()).CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		w.restart(t)
	})
	w.says(t, 0, "ClusterRole/holdfast-serve applied", append([]string{"install"}, install...)...)
	c, err := w.startController(t.TempDir(), "--observe")
	must(t, err)
	t.Cleanup(func() {
		c.kill()
		if t.Failed() {
			t.Logf("the observer said:\n%s", tail(c.log.String(), 0))
		}
	})
	return c
}

// TestObserveWithoutRights: with what `install --observe` permits, everything is
// looked at, nothing is written, and a take-over is refused before it begins.
func TestObserveWithoutRights(t *testing.T) {
	w := theWorld(t)
	ns := w.tenant(t)
	repo := w.repository(t, map[string]string{"app/config.yaml": configMap("settings", "one")})
	// What another controller delivered: an object and a status, and marks of its own.
	w.writeAs(t, "argocd-controller", false, strings.Replace(inNamespace(configMap("settings", "zero"), ns),
		"metadata:\n", fmt.Sprintf("metadata:\n  annotations: {argocd.argoproj.io/tracking-id: %q}\n", ns+":/ConfigMap:"+ns+"/settings"), 1))
	observer := w.observer(t, "--observe")
	w.project(t, ns, repo.URL())
	w.apply(t, application(ns, ns, repo.URL(), "app", ns, automated))
	w.flux(t, ns, repo.URL(), "./app")
	before := map[string]string{}
	versions := func() map[string]string {
		return map[string]string{
			"Application":   w.cluster.Await(t, applications, argocd, ns, "to exist", harness.Exists).GetResourceVersion(),
			"Kustomization": w.cluster.Await(t, kustomizations, ns, "app", "to exist", harness.Exists).GetResourceVersion(),
			"GitRepository": w.cluster.Await(t, gitRepositories, ns, "app", "to exist", harness.Exists).GetResourceVersion(),
			"ConfigMap":     w.cluster.Await(t, harness.ConfigMaps, ns, "settings", "to exist", harness.Exists).GetResourceVersion(),
		}
	}
	maps.Copy(before, versions())
	observer.awaitObserved(t, `"name": "`+ns+`"`)
	observer.awaitObserved(t, `"namespace": "`+ns+`"`)
	observer.awaitObserved(t, `"data.value"`)

	w.says(t, 2, "holdfast install --takeover", "takeover", "app/"+ns, "--no-preview", "--yes")
	w.says(t, 2, "holdfast install --takeover", "takeover", "ks/app", "-n", ns, "--no-preview", "--yes")
	if after := versions(); !maps.Equal(before, after) {
		t.Errorf("something was written beside a peer: %v before, %v after", before, after)
	}
	if log := observer.log.String(); strings.Contains(log, "forbidden") {
		t.Errorf("an observer tries what it may not do:\n%s", log)
	}

	// What is gone, or paused, is not observed any more.
	w.says(t, 0, "suspended", "suspend", "ks/app", "-n", ns)
	observer.awaitNotObserved(t, `"namespace": "`+ns+`"`)
	w.patch(t, applications, argocd, ns, `{"metadata":{"finalizers":null}}`)
	must(t, w.cluster.Dynamic().Resource(applications).Namespace(argocd).Delete(t.Context(), ns, metav1.DeleteOptions{}))
	observer.awaitNotObserved(t, `"name": "`+ns+`"`)
}

// awaitNotObserved polls until something is not told any more.
func (c *controller) awaitNotObserved(t *testing.T, text string) {
	t.Helper()
	last := ""
	if !poll(t, func() bool { last = c.observed(t); return !strings.Contains(last, text) }) {
		t.Fatalf("%s is observed still; last:\n%s", text, last)
	}
}

// TestTakeOverAnApplication takes an Application over from a peer that delivered it,
// pauses it, and hands it back: the Pods run on, the marks go in one write, and what
// is committed after that is the peer's to deliver.
func TestTakeOverAnApplication(t *testing.T) {
	w := theWorld(t)
	ns := w.tenant(t)
	repo := w.repository(t, map[string]string{"app/web.yaml": deployment("web", 2), "app/config.yaml": configMap("settings", "one")})
	w.writeAs(t, "argocd-controller", false, strings.Replace(inNamespace(deployment("web", 2), ns),
		"metadata:\n", fmt.Sprintf("metadata:\n  annotations: {argocd.argoproj.io/tracking-id: %q}\n", ns+":apps/Deployment:"+ns+"/web"), 1))
	w.cluster.Await(t, harness.Deployments, ns, "web", "to run", harness.Ready(2))
	pods := w.pods(t, ns)
	observer := w.observer(t, "--takeover")
	w.project(t, ns, repo.URL())
	w.apply(t, application(ns, ns, repo.URL(), "app", ns, automated))
	observer.awaitObserved(t, `"ConfigMap/`+ns+`/settings"`)

	out, errs, code := w.holdfast(t, "takeover", "app/"+ns, "--yes")
	if code != 0 || !strings.Contains(out, "is delivered by Holdfast: Synced") || !strings.Contains(errs, "+ ConfigMap/"+ns+"/settings") {
		t.Fatalf("takeover ended with %d and said\n%s%s", code, out, errs)
	}
	w.cluster.Await(t, harness.ConfigMaps, ns, "settings", "to be delivered", has("data.value", "one"))
	w.cluster.Await(t, harness.Deployments, ns, "web", "to be Holdfast's", func(o *unstr) bool {
		return o.GetAnnotations()[lastApplied] == "" && slices.Contains(managers(o), "argocd-controller Apply")
	})
	if now := w.pods(t, ns); !slices.Equal(now, pods) {
		t.Errorf("the Pods are %v, before %v", now, pods)
	}
	w.patch(t, harness.ConfigMaps, ns, "settings", `{"data":{"value":"by hand"}}`)
	w.cluster.Await(t, harness.ConfigMaps, ns, "settings", "to be healed", has("data.value", "one"))
	second := commit(t, repo, gitserver.Put("app/config.yaml", configMap("settings", "two")))
	observer.push(t, repo)
	w.cluster.Await(t, applications, argocd, ns, "to follow Git", syncedAt(second))

	w.says(t, 0, "suspended", "suspend", "app/"+ns)
	w.says(t, 0, "Suspended", "get", "app", ns)
	w.says(t, 0, "resumed", "resume", "app/"+ns)
	w.says(t, 0, "Synced", "sync", "app/"+ns)

	w.says(t, 0, "is given back", "handback", "app/"+ns)
	app := w.cluster.Await(t, applications, argocd, ns, "to carry no marks", func(o *unstr) bool {
		return o != nil && o.GetAnnotations()["holdfast.dev/takeover"] == "" && o.GetAnnotations()["argocd.argoproj.io/skip-reconcile"] == ""
	})
	commit(t, repo, gitserver.Put("app/config.yaml", configMap("settings", "three")))
	observer.push(t, repo)
	observer.awaitObserved(t, `"data.value"`)
	cm := w.cluster.Await(t, harness.ConfigMaps, ns, "settings", "to exist", harness.Exists)
	after := w.cluster.Await(t, applications, argocd, ns, "to exist", harness.Exists)
	if field(cm, "data.value") != "two" || after.GetResourceVersion() != app.GetResourceVersion() {
		t.Errorf("what was handed back was written: %s, %v", field(cm, "data.value"), after.Object)
	}
	w.says(t, 2, "was not taken over", "handback", "app/"+ns)
}

// TestConfirmPrune: a commit that drops most of a delivery deletes nothing until
// somebody says the word that diff tells.
func TestConfirmPrune(t *testing.T) {
	t.Parallel()
	w := theWorld(t)
	files, drop := map[string]string{}, []gitserver.Change{}
	for i := range 6 {
		name := fmt.Sprintf("app/c%d.yaml", i)
		files[name] = configMap(fmt.Sprintf("c%d", i), "x")
		if i > 0 {
			drop = append(drop, gitserver.Delete(name))
		}
	}
	tests := map[string]struct {
		reason, kind string
		make         func(ns, url string)
		named        func(ns string) []string
	}{
		"kustomization": {"Flux's kinds say it in Ready", "Kustomization", func(ns, url string) {
			w.flux(t, ns, url, "./app")
		}, func(ns string) []string { return []string{"ks/app", "-n", ns} }},
		"application": {"Argo CD's say it in a condition", "Application", func(ns, url string) {
			w.project(t, ns, url)
			w.apply(t, application(ns, ns, url, "app", ns, automated))
		}, func(ns string) []string { return []string{"app/" + ns, "-n", argocd} }},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			ns := w.tenant(t)
			repo := w.repository(t, files)
			tc.make(ns, repo.URL())
			order := func(verb string, more ...string) []string {
				return append(append([]string{verb}, tc.named(ns)...), more...)
			}
			w.cluster.Await(t, harness.ConfigMaps, ns, "c5", "to be delivered", harness.Exists)
			w.says(t, 0, "Synced", order("sync")...)
			commit(t, repo, drop...)
			w.main.push(t, repo)
			w.awaitGet(t, "--confirm-prune", order("diff")...)
			out, errs, code := w.holdfast(t, order("diff")...)
			_, word, told := strings.Cut(errs, "--confirm-prune ")
			word, _, _ = strings.Cut(word, "'")
			if code != 1 || !told || strings.Count(out, "# ConfigMap/") != 5 {
				t.Fatalf("diff ended with %d and says of what is held (%s):\n%s%s", code, tc.reason, out, errs)
			}
			w.says(t, 2, "ConfigMap/"+ns+"/c1", order("sync", "--confirm-prune", "another")...)
			w.cluster.Await(t, harness.ConfigMaps, ns, "c5", "to stay: that was another word", harness.Exists)

			w.says(t, 0, "Synced", order("sync", "--confirm-prune", word)...)
			for i := range 6 {
				if i > 0 {
					w.cluster.Await(t, harness.ConfigMaps, ns, fmt.Sprintf("c%d", i), "to be pruned", harness.Gone)
				}
			}
			w.cluster.Await(t, harness.ConfigMaps, ns, "c0", "to stay", harness.Exists)
		})
	}
}

// awaitGet runs a command until it says something.
func (w *world) awaitGet(t *testing.T, text string, args ...string) {
	t.Helper()
	last := ""
	if !poll(t, func() bool {
		out, errs, _ := w.holdfast(t, args...)
		last = out + errs
		return strings.Contains(last, text)
	}) {
		t.Fatalf("holdfast %s does not say %q:\n%s", strings.Join(args, " "), text, last)
	}
}
