package e2e

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfastcd/holdfast/test/gitserver"
)

// TestTrustCheck tries policies before they are there, as a platform engineer would.
func TestTrustCheck(t *testing.T) {
	t.Parallel()
	w := theWorld(t)
	ns := w.tenant(t)
	const image = "registry.invalid/shop/web:1.2"
	files := map[string]string{"app/web.yaml": "{apiVersion: apps/v1, kind: Deployment, metadata: {name: web}, spec: {replicas: 0, " +
		"selector: {matchLabels: {app: web}}, template: {metadata: {labels: {app: web}}, spec: {containers: [{name: web, image: \"" + image + "\"}]}}}}"}
	repo := w.repository(t, files)
	head, err := repo.Head()
	must(t, err)
	w.flux(t, ns, repo.URL(), "./app")
	w.cluster.Await(t, kustomizations, ns, "app", "to be applied", appliedAt(head))

	dir := t.TempDir()
	key := filepath.Join(dir, "id")
	shell(t, dir, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "me@example.com", "-f", key)
	public, err := os.ReadFile(key + ".pub")
	must(t, err)
	file := filepath.Join(dir, "policy.yaml")
	write := func(spec string) {
		must(t, os.WriteFile(file, []byte(`apiVersion: v1
kind: ConfigMap
metadata: {name: keys, namespace: `+ns+`}
data:
  signers: |
    me@example.com `+strings.TrimSpace(string(public))+`
---
apiVersion: holdfast.dev/v1alpha1
kind: TrustPolicy
metadata: {name: tried}
spec: `+spec+"\n"), 0o600))
	}
	check := func(want int, says string, more ...string) string {
		t.Helper()
		out, errs, code := w.holdfast(t, append([]string{"trust", "check", "-f", file, "ks/app", "-n", ns, "--default-service-account", "deployer"}, more...)...)
		if code != want || !strings.Contains(out+errs, says) {
			t.Errorf("ended with %d, want %d and %q; it said\n%s%s", code, want, says, out, errs)
		}
		return out
	}
	const signed = `commits: {authorities: [{name: me, ssh: {configMapRef: {namespace: NS, name: keys, key: signers}}}]}`
	commits := strings.ReplaceAll(signed, "NS", ns)

	write(`{` + commits + `}`)
	check(1, "tried commits: would be refused")
	var found []struct{ Delivery, Revision, Policy, Rule, Outcome string }
	must(t, json.Unmarshal([]byte(check(1, "", "-o", "json")), &found))
	if len(found) != 1 || found[0].Outcome != "fail" || found[0].Revision != head || found[0].Delivery != "Kustomization/"+ns+"/app" {
		t.Errorf("as JSON: %+v", found)
	}
	write(`{mode: audit, ` + commits + `}`)
	check(0, "would be told")
	write(`{select: {namespaces: [elsewhere]}, ` + commits + `}`)
	check(0, "no policy is for it")
	write(`{images: {allowed: ["registry.example.com/**"]}}`)
	check(1, image)
	write(`{secrets: {plaintext: Refuse}}`)
	check(0, "tried secrets/plaintext: ok")
	_, err = repo.Commit("a password", gitserver.Put("app/secret.yaml", "{apiVersion: v1, kind: Secret, metadata: {name: s}, stringData: {password: stood-in-the-open}}"))
	must(t, err)
	if out := check(1, "tried secrets/plaintext: would be refused: what is secret stands in plaintext: app/secret.yaml:1: kubernetes-secret"); strings.Contains(out, "stood-in") {
		t.Errorf("the value is told: %s", out)
	}
	write(`{secrets: {plaintext: Refuse, allow: [{path: "app/**", rule: "*", reason: a test, expires: "` + time.Now().AddDate(0, 1, 0).Format(time.DateOnly) + `"}]}}`)
	check(0, "tried secrets/plaintext: ok")
	write(`{comits: {}, strict: true}`)
	check(1, `unknown field "spec.comits"`)
	write(`{` + strings.ReplaceAll(commits, "name: keys", "name: others") + `}`)
	check(1, "others does not exist; create it")

	// The same from a checkout, of which the commit is signed.
	write(`{` + commits + `}`)
	source := filepath.Join(dir, "src")
	must(t, os.MkdirAll(filepath.Join(source, "app"), 0o750))
	must(t, os.WriteFile(filepath.Join(source, "app", "web.yaml"), []byte(files["app/web.yaml"]), 0o600))
	shell(t, source, "git", "init", "-q", "-b", "main")
	shell(t, source, "git", "add", ".")
	shell(t, source, "git", "-c", "user.name=Me", "-c", "user.email=me@example.com", "-c", "gpg.format=ssh",
		"-c", "user.signingKey="+key, "commit", "-q", "-S", "-m", "signed")
	check(0, "signed by me@example.com", "--source", source)
	must(t, os.RemoveAll(filepath.Join(source, ".git")))
	check(2, "the source has no commits", "--source", source)
}

func shell(t *testing.T, dir, name string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL="+os.DevNull, "GIT_CONFIG_NOSYSTEM=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
}
