package e2e

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/holdfastcd/holdfast/test/gitserver"
	"github.com/holdfastcd/holdfast/test/harness"
)

// TestFluxStory walks the guides' story with Flux's kinds: deliver, change,
// revert an edit and a delete, prune, roll back, survive a broken commit.
func TestFluxStory(t *testing.T) {
	w := theWorld(t)
	ns := w.tenant(t)
	repo := w.repository(t, map[string]string{
		"app/config.yaml":     configMap("settings", "one"),
		"app/deployment.yaml": deployment("web", 2),
	})
	await := func(resource string, name, aim string, c harness.Condition) {
		t.Helper()
		switch resource {
		case "configmap":
			w.cluster.Await(t, harness.ConfigMaps, ns, name, aim, c)
		case "deployment":
			w.cluster.Await(t, harness.Deployments, ns, name, aim, c)
		case "kustomization":
			w.cluster.Await(t, kustomizations, ns, name, aim, c)
		}
	}
	first, err := repo.Head()
	must(t, err)

	w.flux(t, ns, repo.URL(), "./app", "  wait: true")
	await("kustomization", "app", "to be applied and healthy", appliedAt(first))
	await("deployment", "web", "to be ready", harness.Ready(2))
	await("configmap", "settings", "to hold the first value", has("data.value", "one"))
	ks := w.cluster.Await(t, kustomizations, ns, "app", "to exist", harness.Exists)
	if got, want := condition(ks, "Ready"), "True ReconciliationSucceeded: Applied revision: main@sha1:"+first; got != want {
		t.Errorf("Ready is %q, want %q", got, want)
	}
	if got, want := field(ks, "metadata.finalizers.0"), "finalizers.fluxcd.io"; got != want {
		t.Errorf("the finalizer is %q, want %q", got, want)
	}
	if got, want := field(ks, "status.inventory.entries.0.id"), ns+"_settings__ConfigMap"; got != want {
		t.Errorf("the inventory begins with %q, want %q", got, want)
	}
	cm := w.cluster.Await(t, harness.ConfigMaps, ns, "settings", "to exist", harness.Exists)
	if cm.GetLabels()["kustomize.toolkit.fluxcd.io/name"] != "app" || cm.GetManagedFields()[0].Manager != "kustomize-controller" {
		t.Errorf("the marks are not Flux's: %v, manager %s", cm.GetLabels(), cm.GetManagedFields()[0].Manager)
	}

	second := commit(t, repo, gitserver.Put("app/config.yaml", configMap("settings", "two")))
	w.main.push(t, repo)
	await("configmap", "settings", "to hold the committed value", has("data.value", "two"))
	await("kustomization", "app", "to tell the new revision", appliedAt(second))

	w.patch(t, harness.ConfigMaps, ns, "settings", `{"data":{"value":"by hand"}}`)
	await("configmap", "settings", "to be as committed again", has("data.value", "two"))
	w.patch(t, harness.Deployments, ns, "web", `{"spec":{"replicas":5}}`)
	await("deployment", "web", "to be scaled back", has("spec.replicas", "2"))

	must(t, w.cluster.Dynamic().Resource(harness.ConfigMaps).Namespace(ns).Delete(t.Context(), "settings", metav1.DeleteOptions{}))
	uid := string(cm.GetUID())
	await("configmap", "settings", "to be created again", func(o *unstr) bool { return o != nil && string(o.GetUID()) != uid })

	third := commit(t, repo, gitserver.Delete("app/deployment.yaml"))
	w.main.push(t, repo)
	await("deployment", "web", "to be pruned", harness.Gone)
	await("kustomization", "app", "to tell the new revision", appliedAt(third))

	_, err = repo.Revert(third)
	must(t, err)
	w.main.push(t, repo)
	await("deployment", "web", "to be back after the revert", harness.Ready(2))

	broken := commit(t, repo, gitserver.Put("app/config.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: settings\ndata:\n\tvalue: three\n"))
	w.main.push(t, repo)
	await("kustomization", "app", "to say what is broken", says("Ready", "False BuildFailed", "app/config.yaml:6"))
	await("configmap", "settings", "to be as it was", has("data.value", "two"))
	await("kustomization", "app", "to have tried the broken commit", func(o *unstr) bool {
		return strings.HasSuffix(field(o, "status.lastAttemptedRevision"), broken) && !strings.HasSuffix(field(o, "status.lastAppliedRevision"), broken)
	})

	must(t, w.cluster.Dynamic().Resource(kustomizations).Namespace(ns).Delete(t.Context(), "app", metav1.DeleteOptions{}))
	await("deployment", "web", "to go with its Kustomization", harness.Gone)
	await("kustomization", "app", "to be gone", harness.Gone)
}

// TestReceiver pushes through a Flux Receiver with an HMAC.
func TestReceiver(t *testing.T) {
	w := theWorld(t)
	ns := w.tenant(t)
	repo := w.repository(t, map[string]string{"app/config.yaml": configMap("settings", "one")})
	w.flux(t, ns, repo.URL(), "./app")
	w.apply(t, `
apiVersion: v1
kind: Secret
metadata: {name: hook, namespace: `+ns+`}
stringData: {token: correct-horse}
---
apiVersion: notification.toolkit.fluxcd.io/v1
kind: Receiver
metadata: {name: push, namespace: `+ns+`}
spec:
  type: generic-hmac
  secretRef: {name: hook}
  resources: [{kind: GitRepository, name: app}]
`)
	w.cluster.Await(t, harness.ConfigMaps, ns, "settings", "to be delivered", has("data.value", "one"))
	r := w.cluster.Await(t, receivers, ns, "push", "to have a path", func(o *unstr) bool { return field(o, "status.webhookPath") != "<none>" })
	sum := sha256.Sum256([]byte("correct-horse" + "push" + ns))
	if got, want := field(r, "status.webhookPath"), "/hook/"+hex.EncodeToString(sum[:]); got != want {
		t.Fatalf("the path is %s, want %s", got, want)
	}
	commit(t, repo, gitserver.Put("app/config.yaml", configMap("settings", "two")))
	post := func(signature string) int {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+w.main.address+field(r, "status.webhookPath"), strings.NewReader(`{}`))
		must(t, err)
		req.Header.Set("X-Signature", signature)
		resp, err := http.DefaultClient.Do(req)
		must(t, err)
		resp.Body.Close()
		return resp.StatusCode
	}
	if code := post("sha256=" + strings.Repeat("0", 64)); code < 400 {
		t.Errorf("a forged signature was answered with %d", code)
	}
	mac := hmac.New(sha256.New, []byte("correct-horse"))
	mac.Write([]byte(`{}`))
	if code := post("sha256=" + hex.EncodeToString(mac.Sum(nil))); code != http.StatusOK {
		t.Errorf("a true signature was answered with %d", code)
	}
	w.cluster.Await(t, harness.ConfigMaps, ns, "settings", "to be as pushed", has("data.value", "two"))
}

// TestDefinitionAndResourceInOneCommit delivers a kind and an object of it.
func TestDefinitionAndResourceInOneCommit(t *testing.T) {
	w := theWorld(t)
	ns := w.tenant(t)
	w.clusterAdmin(t, ns, "deployer")
	repo := w.repository(t, map[string]string{
		"app/a-thing.yaml": "apiVersion: e2e.example.org/v1\nkind: Thing\nmetadata:\n  name: one\nspec:\n  size: 3\n",
		"app/crd.yaml": `apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  name: things.e2e.example.org
spec:
  group: e2e.example.org
  names: {kind: Thing, plural: things, singular: thing, listKind: ThingList}
  scope: Namespaced
  versions:
    - name: v1
      served: true
      storage: true
      schema:
        openAPIV3Schema:
          type: object
          properties:
            spec:
              type: object
              properties:
                size: {type: integer}
`,
	})
	head, err := repo.Head()
	must(t, err)
	w.flux(t, ns, repo.URL(), "./app")
	w.cluster.Await(t, kustomizations, ns, "app", "to be applied", appliedAt(head))
	things := kustomizations
	things.Group, things.Version, things.Resource = "e2e.example.org", "v1", "things"
	w.cluster.Await(t, things, ns, "one", "to exist", has("spec.size", "3"))
	w.patch(t, things, ns, "one", `{"spec":{"size":4}}`)
	w.cluster.Await(t, things, ns, "one", "to be reverted", has("spec.size", "3"))
}

// TestSuspend leaves a suspended Kustomization's objects alone, also when it is deleted.
func TestSuspend(t *testing.T) {
	w := theWorld(t)
	ns := w.tenant(t)
	repo := w.repository(t, map[string]string{"app/config.yaml": configMap("settings", "one")})
	head, err := repo.Head()
	must(t, err)
	w.flux(t, ns, repo.URL(), "./app")
	w.cluster.Await(t, kustomizations, ns, "app", "to be applied", appliedAt(head))
	w.patch(t, kustomizations, ns, "app", `{"spec":{"suspend":true}}`)
	// A second delivery of the same repository shows when the first would have acted.
	w.apply(t, strings.NewReplacer("NS", ns).Replace(`
apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: witness, namespace: NS}
spec: {interval: 10m, path: ./witness, prune: true, targetNamespace: NS, serviceAccountName: deployer, sourceRef: {kind: GitRepository, name: app}}
`))
	commit(t, repo, gitserver.Put("app/config.yaml", configMap("settings", "two")), gitserver.Put("witness/config.yaml", configMap("witness", "two")))
	w.main.push(t, repo)
	w.cluster.Await(t, harness.ConfigMaps, ns, "witness", "to be delivered", has("data.value", "two"))
	w.cluster.Await(t, harness.ConfigMaps, ns, "settings", "to be left as it was", has("data.value", "one"))
	must(t, w.cluster.Dynamic().Resource(kustomizations).Namespace(ns).Delete(t.Context(), "app", metav1.DeleteOptions{}))
	w.cluster.Await(t, kustomizations, ns, "app", "to be gone", harness.Gone)
	w.cluster.Await(t, harness.ConfigMaps, ns, "settings", "to outlive its suspended Kustomization", harness.Exists)
}

// TestRequestedAt echoes the token of a manual trigger.
func TestRequestedAt(t *testing.T) {
	w := theWorld(t)
	ns := w.tenant(t)
	repo := w.repository(t, map[string]string{"app/config.yaml": configMap("settings", "one")})
	w.flux(t, ns, repo.URL(), "./app")
	w.cluster.Await(t, harness.ConfigMaps, ns, "settings", "to be delivered", harness.Exists)
	token := `{"metadata":{"annotations":{"reconcile.fluxcd.io/requestedAt":"now-please"}}}`
	commit(t, repo, gitserver.Put("app/config.yaml", configMap("settings", "two")))
	w.patch(t, gitRepositories, ns, "app", token)
	w.cluster.Await(t, harness.ConfigMaps, ns, "settings", "to be fetched without a webhook", has("data.value", "two"))
	w.cluster.Await(t, gitRepositories, ns, "app", "to echo the token", has("status.lastHandledReconcileAt", "now-please"))
	w.patch(t, kustomizations, ns, "app", token)
	w.cluster.Await(t, kustomizations, ns, "app", "to echo the token", has("status.lastHandledReconcileAt", "now-please"))
}
