package e2e

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/holdfastcd/holdfast/internal/audit"
	"github.com/holdfastcd/holdfast/internal/why"
	"github.com/holdfastcd/holdfast/test/gitserver"
	"github.com/holdfastcd/holdfast/test/harness"
	"github.com/holdfastcd/holdfast/test/signing"
)

// TestChain follows a Deployment back to the people behind it, with the command line,
// and has the log proven: whole as it is, changed after one byte of it was.
func TestChain(t *testing.T) {
	w := theWorld(t)
	ns := w.tenant(t)
	ann := newCommitter(t, "Ann")
	registry, key := signing.Registry(t), signing.NewKey(t)
	image := signing.Push(t, registry+"/shop:v1")
	signing.Cosign(t, image.Ref, signing.Options{By: signing.By{Key: key}})
	repo := w.repository(t, map[string]string{"app/config.yaml": configMap("settings", "one")})
	root, err := repo.Head()
	must(t, err)
	w.trust(t, ns, signedCommits(t, ns, ann, repo.URL(), root)+fmt.Sprintf(`
  images:
    authorities:
    - name: release
      key: {inline: %q}
`, key.Public))
	head := ann.commit(t, repo, gitserver.Put("app/shop.yaml", running("shop", image.Tag)))
	w.flux(t, ns, repo.URL(), "./app")
	w.cluster.Await(t, kustomizations, ns, "app", "to be delivered", appliedAt(head))
	w.patch(t, harness.Deployments, ns, "shop", `{"spec":{"replicas":5}}`)
	w.cluster.Await(t, harness.Deployments, ns, "shop", "to be as committed again", has("spec.replicas", "1"))

	dir := filepath.Join(w.main.data, "audit")
	var chain why.Chain
	var out string
	told := func() bool { // entries are signed a moment after they are written
		var code int
		out, _, code = w.holdfast(t, "why", "deploy/shop", "-n", ns, "--dir", dir, "-o", "json")
		chain = why.Chain{}
		return code == 0 && json.Unmarshal([]byte(out), &chain) == nil && chain.Sync != nil && len(chain.Since) > 0
	}
	if !poll(t, told) {
		t.Fatalf("the log tells no sync and no revert:\n%s", out)
	}
	for link, text := range map[string]string{
		why.LinkDelivery: "Kustomization/" + ns + "/app", why.LinkSource: head, why.LinkAuthor: ann.email, why.LinkSigner: ann.email,
		why.LinkRender: "app/shop.yaml", why.LinkPolicy: ns, why.LinkImage: image.Digest,
	} {
		if !proves(chain, link, text) {
			t.Errorf("%s is not proven to be %s:\n%s", link, text, out)
		}
	}

	w.main.terminate(t)
	t.Cleanup(func() { w.restart(t) })
	secret, err := os.ReadFile(filepath.Join(w.main.data, "audit.key"))
	must(t, err)
	parsed, err := audit.ParseKey(secret)
	must(t, err)
	w.says(t, 0, "", "audit", "verify", "--dir", dir, "--key", parsed.Public)
	forged := t.TempDir()
	must(t, os.CopyFS(forged, os.DirFS(dir)))
	var entries string
	must(t, filepath.WalkDir(filepath.Join(forged, "tile", "entries"), func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			entries = path
		}
		return err
	}))
	text, err := os.ReadFile(entries)
	must(t, err)
	text[len(text)/2] ^= 1
	must(t, os.WriteFile(entries, text, 0o600))
	if out, errs, code := w.holdfast(t, "audit", "verify", "--dir", forged, "--key", parsed.Public); code != 1 || !strings.Contains(out+errs, "tile/entries/") {
		t.Errorf("a log of which one bit was flipped: exit code %d\n%s%s", code, out, errs)
	}
}

// proves reports whether a link of a chain is proven, and says a text.
func proves(c why.Chain, name, text string) bool {
	for _, l := range c.Links {
		if l.Name == name && l.State == why.Proven && strings.Contains(strings.Join(l.Text, "\n")+l.By, text) {
			return true
		}
	}
	return false
}
