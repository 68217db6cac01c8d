package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfastcd/holdfast/test/gitserver"
	"github.com/holdfastcd/holdfast/test/harness"
)

// says runs a command and checks its exit code, what it prints, and that it is
// quiet beside that, as it must be in a pipe.
func (w *world) says(t *testing.T, code int, want string, args ...string) string {
	t.Helper()
	out, errs, got := w.holdfast(t, args...)
	if got != code || !strings.Contains(out+errs, want) {
		t.Fatalf("holdfast %s ended with %d, not %d, and does not say %q:\n%s%s", strings.Join(args, " "), got, code, want, out, errs)
	}
	if code == 0 && errs != "" && args[0] != "diff" {
		t.Errorf("holdfast %s succeeded and chatters in a pipe: %s", strings.Join(args, " "), errs)
	}
	return out
}

// TestOrdersToAKustomization syncs, suspends and resumes as its owner would.
func TestOrdersToAKustomization(t *testing.T) {
	t.Parallel()
	w := theWorld(t)
	ns := w.tenant(t)
	repo := w.repository(t, map[string]string{"app/config.yaml": configMap("settings", "one")})
	w.flux(t, ns, repo.URL(), "./app")
	w.says(t, 0, "Kustomization/"+ns+"/app Synced", "sync", "ks/app", "-n", ns)

	second := commit(t, repo, gitserver.Put("app/config.yaml", configMap("settings", "two")))
	out := w.says(t, 0, second[:7], "sync", "kustomization", "app", "-n", ns, "-o", "json")
	var rows []map[string]any
	if err := json.Unmarshal([]byte(out), &rows); err != nil || len(rows) != 1 || rows[0]["state"] != "Synced" {
		t.Errorf("sync -o json says %v (%v)", out, err)
	}
	cm := w.cluster.Await(t, harness.ConfigMaps, ns, "settings", "to exist", harness.Exists)
	if field(cm, "data.value") != "two" {
		t.Errorf("sync ended before the commit was delivered: %v", cm.Object)
	}

	w.says(t, 0, "suspended", "suspend", "ks/app", "-n", ns)
	w.says(t, 0, "Suspended", "get", "ks", "app", "-n", ns)
	w.says(t, 2, "holdfast resume kustomization/app -n "+ns, "sync", "ks/app", "-n", ns)
	w.says(t, 0, "resumed", "resume", "--all", "-n", ns)
	w.says(t, 0, "asked to sync", "sync", "ks/app", "-n", ns, "--wait=false")
	w.says(t, 0, "", "sync", "gitrepo/app", "-n", ns)

	w.says(t, 2, "git revert", "rollback", "ks/app", "-n", ns)
	w.says(t, 2, "--prune is for Applications", "sync", "ks/app", "-n", ns, "--prune")
	w.says(t, 2, "there is no Application app", "sync", "app/app", "-n", ns)
	w.says(t, 0, "", "diff", "ks/app", "-n", ns, "--source", w.checkout(t, configMap("settings", "two")))
	w.says(t, 1, "data.value", "diff", "ks/app", "-n", ns, "--source", w.checkout(t, configMap("settings", "three")))

	commit(t, repo, gitserver.Put("app/config.yaml", "a: b: c"))
	w.says(t, 2, "BuildFailed", "sync", "ks/app", "-n", ns)
}

// checkout makes a directory as the tests' repositories are.
func (w *world) checkout(t *testing.T, config string) string {
	t.Helper()
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "app", "config.yaml"), config)
	return dir
}

// TestOrdersToAnApplication syncs by hand, goes back, and pauses.
func TestOrdersToAnApplication(t *testing.T) {
	t.Parallel()
	w := theWorld(t)
	ns := w.tenant(t)
	repo := w.repository(t, map[string]string{"app/config.yaml": configMap("settings", "one")})
	first, err := repo.Head()
	must(t, err)
	w.project(t, ns, repo.URL())
	w.apply(t, application(ns, ns, repo.URL(), "app", ns, "{}"))
	value := func(want string) {
		t.Helper()
		w.cluster.Await(t, harness.ConfigMaps, ns, "settings", "to hold "+want, has("data.value", want))
	}
	w.says(t, 0, "Application/argocd/"+ns, "sync", "app/"+ns)
	value("one")
	second := commit(t, repo, gitserver.Put("app/config.yaml", configMap("settings", "two")))
	w.main.push(t, repo)
	w.says(t, 0, second[:7], "sync", "app/"+ns)
	value("two")

	w.says(t, 0, first, "rollback", ns, "--list")
	w.says(t, 0, "rolled back to entry 0", "rollback", ns)
	value("one")
	w.says(t, 2, "there is no entry 99", "rollback", ns, "99")

	w.says(t, 0, "suspended", "suspend", "app/"+ns)
	w.says(t, 2, "it is suspended", "sync", ns)
	w.says(t, 0, "resumed", "resume", "app/"+ns)
	w.says(t, 0, "", "sync", ns, "--resource", ":ConfigMap:settings")
	w.says(t, 2, "it has no object :ConfigMap:nobody", "sync", ns, "--resource", ":ConfigMap:nobody")
	value("two")
}

// TestGetWatches follows a delivery until it fails.
func TestGetWatches(t *testing.T) {
	w := theWorld(t)
	ns := w.tenant(t)
	repo := w.repository(t, map[string]string{"app/config.yaml": configMap("settings", "one")})
	w.flux(t, ns, repo.URL(), "./app")
	w.says(t, 0, "", "sync", "ks/app", "-n", ns)
	cmd := exec.CommandContext(t.Context(), w.binary, "get", "ks", "-n", ns, "--watch", "--kubeconfig", w.cluster.Kubeconfig())
	pipe, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	lines := lineReader(pipe)
	lines.until(t, "Synced")
	commit(t, repo, gitserver.Put("app/config.yaml", "a: b: c"))
	w.says(t, 2, "BuildFailed", "sync", "ks/app", "-n", ns)
	lines.until(t, "Failed")
	must(t, cmd.Process.Kill())
	_ = cmd.Wait()
}

// TestTakeoverBesideAPeer observes, takes one delivery over, and hands it back. The
// peer is this test: it does what a suspended peer does, nothing, until it does not.
func TestTakeoverBesideAPeer(t *testing.T) {
	w := theWorld(t)
	ns := w.tenant(t)
	repo := w.repository(t, map[string]string{"app/config.yaml": configMap("settings", "one"), "next/config.yaml": configMap("other", "one")})
	w.main.kill()
	t.Cleanup(func() { w.restart(t) })
	observer, err := w.startController(t.TempDir(), "--observe")
	must(t, err)
	defer observer.kill()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the observer said:\n%s", tail(observer.log.String(), 0))
		}
	})

	w.flux(t, ns, repo.URL(), "./app")
	w.apply(t, neighbour(ns))
	observer.awaitObserved(t, fmt.Sprintf(`%q`, "ConfigMap/"+ns+"/settings"))
	ks := w.cluster.Await(t, kustomizations, ns, "app", "to exist", harness.Exists)
	if status := field(ks, "status.conditions.0.type"); status != "<none>" || len(ks.GetFinalizers()) > 0 {
		t.Errorf("an observer wrote to what it observes: %v", ks.Object)
	}
	w.cluster.Await(t, harness.ConfigMaps, ns, "settings", "not to be created", harness.Gone)

	w.says(t, 2, "there is nobody to ask", "takeover", "ks/app", "-n", ns, "--source", w.checkout(t, configMap("settings", "one")))
	out, errs, code := w.holdfast(t, "takeover", "ks/app", "-n", ns, "--source", w.checkout(t, configMap("settings", "one")), "--yes")
	if code != 0 || !strings.Contains(out, "is delivered by Holdfast") || !strings.Contains(errs, "+ ConfigMap/"+ns+"/settings") {
		t.Fatalf("takeover ended with %d and said\n%s%s", code, out, errs)
	}
	w.cluster.Await(t, harness.ConfigMaps, ns, "settings", "to be delivered", has("data.value", "one"))
	w.cluster.Await(t, harness.ConfigMaps, ns, "other", "not to be created: its delivery was not taken over", harness.Gone)
	w.says(t, 2, "taken over already", "takeover", "ks/app", "-n", ns, "--yes", "--no-preview")

	w.says(t, 0, "is given back", "handback", "ks/app", "-n", ns)
	ks = w.cluster.Await(t, kustomizations, ns, "app", "to carry no marks", func(o *unstr) bool {
		return o != nil && field(o, "spec.suspend") == "<none>" && o.GetAnnotations()["holdfast.dev/takeover"] == ""
	})
	before := ks.GetResourceVersion()
	commit(t, repo, gitserver.Put("app/config.yaml", configMap("settings", "two")))
	observer.push(t, repo)
	observer.awaitObserved(t, `"data.value"`)
	cm := w.cluster.Await(t, harness.ConfigMaps, ns, "settings", "to exist", harness.Exists)
	ks = w.cluster.Await(t, kustomizations, ns, "app", "to exist", harness.Exists)
	if field(cm, "data.value") != "one" || ks.GetResourceVersion() != before {
		t.Errorf("what was handed back was written: %s, %v", field(cm, "data.value"), ks.Object)
	}
	w.says(t, 2, "was not taken over", "handback", "ks/app", "-n", ns)
}

// awaitObserved polls what is observed: nothing tells of a change there.
func (c *controller) awaitObserved(t *testing.T, text string) {
	t.Helper()
	last := ""
	if !poll(t, func() bool { last = c.observed(t); return strings.Contains(last, text) }) {
		t.Fatalf("%s is not observed; last:\n%s", text, last)
	}
}

// observed is what a controller tells of what it observes; empty if it does not answer.
func (c *controller) observed(t *testing.T) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+c.address+"/observe", http.NoBody)
	must(t, err)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return ""
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	must(t, err)
	return string(body)
}

// TestInstallBesidePeers keeps what a peer has installed, and does not start beside
// one that runs.
func TestInstallBesidePeers(t *testing.T) {
	w := theWorld(t)
	ns := w.cluster.Namespace(t)
	w.apply(t, fmt.Sprintf(`
apiVersion: apps/v1
kind: Deployment
metadata: {name: kustomize-controller, namespace: %s, labels: {app: kustomize-controller}}
spec:
  replicas: 1
  selector: {matchLabels: {app: kustomize-controller}}
  template:
    metadata: {labels: {app: kustomize-controller}}
    spec: {containers: [{name: manager, image: manager}]}
`, ns))
	w.says(t, 2, "Flux runs in this cluster, as "+ns+"/kustomize-controller", "install")
	w.patch(t, harness.Deployments, ns, "kustomize-controller", `{"spec":{"replicas":0}}`)
	w.says(t, 0, "Deployment/holdfast applied", "install")
}

// poll asks until the answer is yes, for a minute at most.
func poll(t *testing.T, ask func() bool) bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !ask() {
		select {
		case <-ctx.Done():
			return false
		case <-tick.C:
		}
	}
	return true
}

func writeFile(t *testing.T, name, content string) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(name), 0o750))
	must(t, os.WriteFile(name, []byte(content), 0o600))
}

// lines are what a running command prints.
type lines chan string

func lineReader(r io.Reader) lines {
	l := make(lines, 100)
	go func() {
		defer close(l)
		for s := bufio.NewScanner(r); s.Scan(); {
			l <- s.Text()
		}
	}()
	return l
}

// until reads on to a line that holds text.
func (l lines) until(t *testing.T, text string) {
	t.Helper()
	late := time.After(time.Minute)
	for {
		select {
		case line, more := <-l:
			if !more {
				t.Fatalf("it ended without saying %q", text)
			}
			if strings.Contains(line, text) {
				return
			}
		case <-late:
			t.Fatalf("it does not say %q", text)
		}
	}
}
