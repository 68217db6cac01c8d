package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/holdfastcd/holdfast/internal/audit"
	"github.com/holdfastcd/holdfast/test/gitserver"
	"github.com/holdfastcd/holdfast/test/harness"
	"github.com/holdfastcd/holdfast/test/signing"
)

var trustPolicies = schema.GroupVersionResource{Group: "holdfast.dev", Version: "v1alpha1", Resource: "trustpolicies"}

// committer is a person with an SSH key, as ssh-keygen makes one.
type committer struct{ name, email, key string }

func newCommitter(t *testing.T, name string) committer {
	t.Helper()
	c := committer{name: name, email: strings.ToLower(name) + "@example.com", key: filepath.Join(t.TempDir(), "key")}
	out, err := exec.CommandContext(t.Context(), "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", c.email, "-f", c.key).CombinedOutput()
	if err != nil {
		t.Fatalf("ssh-keygen: %v\n%s", err, out)
	}
	return c
}

// allowed is the committer's line in allowed_signers.
func (c committer) allowed(t *testing.T) string {
	t.Helper()
	public, err := os.ReadFile(c.key + ".pub")
	must(t, err)
	return c.email + ` namespaces="git" ` + strings.TrimSpace(string(public))
}

// commit makes a signed commit, with Git itself.
func (c committer) commit(t *testing.T, repo *gitserver.Repo, changes ...gitserver.Change) string {
	t.Helper()
	git := func(args ...string) string {
		t.Helper()
		out, err := repo.Git(args...)
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(out)
	}
	parent, err := repo.Head()
	must(t, err)
	unsigned := commit(t, repo, changes...)
	id := git("-c", "gpg.format=ssh", "-c", "user.signingkey="+c.key, "-c", "user.name="+c.name, "-c", "user.email="+c.email,
		"commit-tree", "-S", unsigned+"^{tree}", "-p", parent, "-m", "change")
	must(t, repo.Set(id))
	return id
}

// trust makes a TrustPolicy, and takes it away after the test.
func (w *world) trust(t *testing.T, name, spec string) {
	t.Helper()
	w.apply(t, fmt.Sprintf("apiVersion: holdfast.dev/v1alpha1\nkind: TrustPolicy\nmetadata: {name: %s}\nspec:\n%s", name, spec))
	t.Cleanup(func() {
		// Not the test's context, which has ended.
		_ = w.cluster.Dynamic().Resource(trustPolicies).Delete(context.Background(), name, metav1.DeleteOptions{})
	})
	w.cluster.Await(t, trustPolicies, "", name, "to be judged by", says("Ready", "True"))
}

// signedCommits demands that every commit since root is signed by one person.
func signedCommits(t *testing.T, namespace string, who committer, url, root string) string {
	t.Helper()
	return fmt.Sprintf(`  select: {namespaces: [%s]}
  commits:
    verify: range
    from: [{repository: %q, commit: %s}]
    authorities:
    - name: people
      ssh: {inline: %q}
`, namespace, url, root, who.allowed(t))
}

// decisions are the actions that the controller has recorded of a delivery, and what
// came of them.
func (c *controller) decisions(t *testing.T, delivery string) []audit.Entry {
	t.Helper()
	var found []audit.Entry
	for e, err := range c.recorded(t) {
		must(t, err)
		if e.Delivery == delivery {
			found = append(found, e)
		}
	}
	return found
}

// counted counts the entries with an action.
func counted(entries []audit.Entry, action audit.Action) int {
	n := 0
	for _, e := range entries {
		if e.Action == action {
			n++
		}
	}
	return n
}

// TestSignedCommits delivers what is signed, and nothing else, whoever edits the
// status of the delivery.
func TestSignedCommits(t *testing.T) {
	w := theWorld(t)
	ns := w.tenant(t)
	ann := newCommitter(t, "Ann")
	repo := w.repository(t, map[string]string{"app/config.yaml": configMap("settings", "root")})
	root, err := repo.Head()
	must(t, err)
	w.trust(t, ns, signedCommits(t, ns, ann, repo.URL(), root))
	w.flux(t, ns, repo.URL(), "./app")
	await := func(aim string, c harness.Condition) {
		t.Helper()
		w.cluster.Await(t, kustomizations, ns, "app", aim, c)
	}
	await("to be delivered at the commit that is trusted by name", appliedAt(root))

	one := ann.commit(t, repo, gitserver.Put("app/config.yaml", configMap("settings", "one")))
	w.main.push(t, repo)
	await("to be delivered at a signed commit", appliedAt(one))

	unsigned := commit(t, repo, gitserver.Put("app/config.yaml", configMap("settings", "unsigned")))
	w.main.push(t, repo)
	await("to refuse an unsigned commit, by name", says("Ready", "False VerificationError", unsigned[:7]))
	mallory := newCommitter(t, "Mallory")
	mallory.commit(t, repo, gitserver.Put("app/config.yaml", configMap("settings", "mallory")))
	w.main.push(t, repo)
	await("to refuse a key that nobody allowed", says("Ready", "False VerificationError"))

	head := ann.commit(t, repo, gitserver.Put("app/config.yaml", configMap("settings", "laundered")))
	w.main.push(t, repo)
	await("to refuse what hides behind a signed commit", func(o *unstr) bool {
		return strings.HasSuffix(field(o, "status.lastAttemptedRevision"), head) && strings.HasPrefix(condition(o, "Ready"), "False VerificationError")
	})
	_, err = w.cluster.Dynamic().Resource(kustomizations).Namespace(ns).Patch(t.Context(), "app", "application/merge-patch+json",
		[]byte(`{"status":{"lastAppliedRevision":"main@sha1:`+head+`","lastAttemptedRevision":"main@sha1:`+head+`","conditions":null}}`),
		metav1.PatchOptions{FieldManager: "mallory"}, "status")
	must(t, err)
	w.patch(t, kustomizations, ns, "app", `{"metadata":{"annotations":{"reconcile.fluxcd.io/requestedAt":"after the forgery"}}}`)
	await("to look again", has("status.lastHandledReconcileAt", "after the forgery"))
	await("not to begin where a forged status says", says("Ready", "False VerificationError"))
	w.cluster.Await(t, harness.ConfigMaps, ns, "settings", "to be in its last good state", has("data.value", "one"))

	must(t, repo.Set(root))
	aside := ann.commit(t, repo, gitserver.Put("app/config.yaml", configMap("settings", "aside")))
	w.main.push(t, repo)
	await("to refuse a branch that was rewound", func(o *unstr) bool {
		return strings.HasSuffix(field(o, "status.lastAttemptedRevision"), aside) && strings.HasPrefix(condition(o, "Ready"), "False VerificationError")
	})
	if text := w.event(t, ns, "app", "HistoryRewound"); !strings.Contains(text, one) {
		t.Errorf("the event does not name what was lost: %s", text)
	}
	must(t, repo.Set(one))
	last := ann.commit(t, repo, gitserver.Put("app/config.yaml", configMap("settings", "last")))
	w.main.push(t, repo)
	await("to go on from the last that was proven", appliedAt(last))
	w.cluster.Await(t, harness.ConfigMaps, ns, "settings", "to be as committed", has("data.value", "last"))

	var entries []audit.Entry
	of := func(e audit.Entry) bool { return e.Action == audit.Sync && e.Source.Commit == last }
	poll(t, func() bool { // entries are signed a moment after they are written
		entries = w.main.decisions(t, "Kustomization/"+ns+"/app")
		return slices.ContainsFunc(entries, of)
	})
	if refused, rewound := counted(entries, audit.Refuse), counted(entries, audit.Rewind); refused != 4 || rewound != 1 {
		t.Errorf("the log has %d refusals and %d rewinds, want one for each commit that was refused, and one", refused, rewound)
	}
	for _, e := range slices.DeleteFunc(entries, func(e audit.Entry) bool { return !of(e) }) {
		signer := e.Who[len(e.Who)-1]
		if signer.Role != "signer" || !signer.Proven || signer.Name != ann.email || e.Source.Verified != ns {
			t.Errorf("the log does not say who has signed, and what that proved: %+v %+v", e.Who, e.Source)
		}
	}
}

// TestSignedCommitsOfAnApplication does the same for Argo CD's kind, with a policy
// that first only audits.
func TestSignedCommitsOfAnApplication(t *testing.T) {
	w := theWorld(t)
	ns := w.tenant(t)
	ann := newCommitter(t, "Ann")
	repo := w.repository(t, map[string]string{"app/config.yaml": configMap("settings", "root")})
	root, err := repo.Head()
	must(t, err)
	w.project(t, ns, repo.URL())
	policy := strings.Replace(signedCommits(t, ns, ann, repo.URL(), root), "namespaces: ["+ns+"]", "projects: ["+ns+"]", 1)
	w.trust(t, ns, "  mode: audit\n"+policy)
	w.apply(t, application(ns, ns, repo.URL(), "app", ns, "{automated: {prune: true, selfHeal: true}}"))
	await := func(aim string, c harness.Condition) {
		t.Helper()
		w.cluster.Await(t, applications, argocd, ns, aim, c)
	}
	await("to be delivered", syncedAt(root))
	unsigned := commit(t, repo, gitserver.Put("app/config.yaml", configMap("settings", "unsigned")))
	w.main.push(t, repo)
	await("to be delivered, and told of", func(o *unstr) bool {
		return syncedAt(unsigned)(o) && strings.Contains(field(o, "status.conditions"), "TrustWarning")
	})
	w.event(t, argocd, ns, "TrustUnproven")

	must(t, repo.Set(root))
	one := ann.commit(t, repo, gitserver.Put("app/config.yaml", configMap("settings", "one")))
	w.main.push(t, repo)
	await("to be delivered, for a policy that audits permits a rewind", syncedAt(one))
	w.event(t, argocd, ns, "HistoryRewound")

	w.trust(t, ns, policy)
	w.patch(t, trustPolicies, "", ns, `{"spec":{"mode":"enforce"}}`)
	w.cluster.Await(t, trustPolicies, "", ns, "to enforce", says("Ready", "Enforced"))
	commit(t, repo, gitserver.Put("app/config.yaml", configMap("settings", "unsigned")))
	w.main.push(t, repo)
	await("to refuse an unsigned commit", func(o *unstr) bool {
		return field(o, "status.sync.status") == "Unknown" && strings.Contains(field(o, "status.conditions"), "ComparisonError")
	})
	w.event(t, argocd, ns, "VerificationError")
	w.cluster.Await(t, harness.ConfigMaps, ns, "settings", "to be in its last good state", has("data.value", "one"))
	w.cluster.Await(t, trustPolicies, "", ns, "to tell that it stops one", has("status.refused", "1"))
}

// TestSignedImages delivers an image that is signed, pinned, and refuses one that is not.
func TestSignedImages(t *testing.T) {
	w := theWorld(t)
	ns := w.tenant(t)
	registry, key := signing.Registry(t), signing.NewKey(t)
	good, bad := signing.Push(t, registry+"/shop:v1"), signing.Push(t, registry+"/shop:v2")
	signing.Cosign(t, good.Ref, signing.Options{By: signing.By{Key: key}})
	repo := w.repository(t, map[string]string{"app/shop.yaml": running("shop", good.Tag)})
	w.trust(t, ns, fmt.Sprintf(`  select: {namespaces: [%s]}
  images:
    authorities:
    - name: release
      key: {inline: %q}
`, ns, key.Public))
	w.flux(t, ns, repo.URL(), "./app")
	first, err := repo.Head()
	must(t, err)
	w.cluster.Await(t, kustomizations, ns, "app", "to be delivered", appliedAt(first))
	w.cluster.Await(t, harness.Deployments, ns, "shop", "to run a signed image, by digest",
		has("spec.template.spec.containers.0.image", good.Tag+"@"+good.Digest))
	commit(t, repo, gitserver.Put("app/shop.yaml", running("shop", bad.Tag)))
	w.main.push(t, repo)
	w.cluster.Await(t, kustomizations, ns, "app", "to refuse an image that nobody signed", says("Ready", "False VerificationError", "shop:v2"))
}

// running is a Deployment of an image.
func running(name, image string) string {
	return fmt.Sprintf(`apiVersion: apps/v1
kind: Deployment
metadata: {name: %[1]s}
spec:
  replicas: 1
  selector: {matchLabels: {app: %[1]s}}
  template:
    metadata: {labels: {app: %[1]s}}
    spec: {containers: [{name: main, image: %[2]q}]}
`, name, image)
}
