package e2e

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/holdfastcd/holdfast/test/harness"
)

// TestCommandLine uses get and diff on a delivery, as its owner would.
func TestCommandLine(t *testing.T) {
	w := theWorld(t)
	ns := w.tenant(t)
	repo := w.repository(t, map[string]string{"app/config.yaml": configMap("settings", "one")})
	head, err := repo.Head()
	must(t, err)
	w.flux(t, ns, repo.URL(), "./app")
	w.cluster.Await(t, kustomizations, ns, "app", "to be applied", appliedAt(head))

	out, errs, code := w.holdfast(t, "get", "-n", ns)
	if code != 0 || !strings.Contains(out, "Kustomization") || !strings.Contains(out, head[:7]) {
		t.Errorf("get ended with %d and said\n%s%s", code, out, errs)
	}
	out, errs, code = w.holdfast(t, "get", "-n", ns, "-o", "json")
	if code != 0 || !json.Valid([]byte(out)) {
		t.Errorf("get -o json ended with %d and said\n%s%s", code, out, errs)
	}

	dir := t.TempDir()
	file := filepath.Join(dir, "ks.yaml")
	must(t, os.WriteFile(file, []byte(strings.ReplaceAll(strings.Replace(neighbour(ns), "name: next", "name: app", 1), "./next", "./app")), 0o600))
	write := func(value string) {
		must(t, os.MkdirAll(filepath.Join(dir, "src", "app"), 0o750))
		must(t, os.WriteFile(filepath.Join(dir, "src", "app", "config.yaml"), []byte(configMap("settings", value)), 0o600))
	}
	diff := func() (string, int) {
		out, errs, code := w.holdfast(t, "diff", "-f", file, "--source", filepath.Join(dir, "src"))
		return out + errs, code
	}
	write("one")
	if text, code := diff(); code != 0 {
		t.Errorf("diff of what is delivered ended with %d and said\n%s", code, text)
	}
	write("two")
	if text, code := diff(); code != 1 || !strings.Contains(text, "data.value") || !strings.Contains(text, "two") {
		t.Errorf("diff of a change ended with %d and said\n%s", code, text)
	}
	w.cluster.Await(t, harness.ConfigMaps, ns, "settings", "to be untouched by diff", has("data.value", "one"))
	must(t, os.WriteFile(filepath.Join(dir, "src", "app", "config.yaml"), []byte("a: b: c"), 0o600))
	if text, code := diff(); code != 2 || !strings.Contains(text, "app/config.yaml") {
		t.Errorf("diff of what is broken ended with %d and said\n%s", code, text)
	}
}

// TestDemo runs the demonstration to its end and looks for what it leaves behind.
func TestDemo(t *testing.T) {
	t.Parallel()
	w := theWorld(t)
	cmd := exec.CommandContext(t.Context(), w.binary, "demo", "--once", "--repo", "../..")
	cmd.Env = append(os.Environ(), "TMPDIR="+t.TempDir())
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, part := range []string{"KUBECONFIG=", "reverted", "delivered"} {
		if !strings.Contains(string(out), part) {
			t.Errorf("the demo says nothing of %q:\n%s", part, out)
		}
	}
	left, err := os.ReadDir(cmd.Env[len(cmd.Env)-1][len("TMPDIR="):])
	must(t, err)
	if len(left) > 0 {
		t.Errorf("the demo left %d things behind, the first %s", len(left), left[0].Name())
	}
}
