package e2e

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/holdfastcd/holdfast/test/gitserver"
	"github.com/holdfastcd/holdfast/test/harness"
)

// permissive replaces the controller by one that was started and installed as
// permissive, with secrets for webhooks, until the test ends.
func (w *world) permissive(t *testing.T, secrets map[string]string) *controller {
	t.Helper()
	w.main.kill() // one controller at a time serves a cluster
	binding := "permissive-" + strings.ToLower(t.Name())
	bindings := schema.GroupVersionResource{Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "clusterrolebindings"}
	t.Cleanup(func() {
		ctx := context.Background()
		must(t, w.cluster.Dynamic().Resource(bindings).Delete(ctx, binding, metav1.DeleteOptions{}))
		must(t, w.kube.CoreV1().Secrets(argocd).Delete(ctx, "argocd-secret", metav1.DeleteOptions{}))
		w.restart(t)
	})
	w.apply(t, fmt.Sprintf(`
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: %s}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin}
subjects: [{kind: ServiceAccount, name: holdfast, namespace: holdfast-system}]
---
apiVersion: v1
kind: Namespace
metadata: {name: argocd}
---
apiVersion: v1
kind: Secret
metadata: {name: argocd-secret, namespace: argocd}
`, binding))
	for key, value := range secrets {
		w.apply(t, fmt.Sprintf("apiVersion: v1\nkind: Secret\nmetadata: {name: argocd-secret, namespace: argocd}\nstringData: {%s: %s}\n", key, value))
	}
	c, err := w.startController(filepath.Join(t.TempDir(), "data"), "--permissive")
	must(t, err)
	t.Cleanup(c.kill)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the permissive controller said:\n%s", tail(c.log.String(), 0))
		}
	})
	return c
}

// TestPrintedManifests: what introductions print, which names neither an account nor
// a project of its own, works on a permissive controller as it is: one root that
// delivers everything, a project for a family of namespaces, an application of
// production that waits for a person, and one whose namespace is made for it. A
// commit comes by a signed webhook of the small Git server that such clusters have.
func TestPrintedManifests(t *testing.T) {
	w := theWorld(t)
	const key = "correct-horse"
	c := w.permissive(t, map[string]string{"webhook.gogs.secret": key})
	ns := w.cluster.Namespace(t)
	family, production := "apps-"+ns, ns+"-production"
	repo := w.repository(t, map[string]string{"README.md": "a cluster at home\n"})
	source := func(path string) string {
		return fmt.Sprintf("  source:\n    repoURL: %s\n    targetRevision: main\n    path: %s\n", repo.URL(), path)
	}
	header := func(name, project string) string {
		return fmt.Sprintf("apiVersion: argoproj.io/v1alpha1\nkind: Application\nmetadata:\n  name: %s\n  namespace: argocd\nspec:\n  project: %s\n", name, project)
	}
	destination := func(namespace string) string {
		return "  destination:\n    server: https://kubernetes.default.svc\n    namespace: " + namespace + "\n"
	}
	const healing = "  syncPolicy:\n    automated:\n      prune: true\n      selfHeal: true\n    syncOptions:\n    - CreateNamespace=true\n"
	project, vault, shop, root := ns+"-apps", ns+"-vault", ns+"-shop", ns+"-root"
	first := commit(
		t, repo,
		gitserver.Put("clusters/home/project.yaml", fmt.Sprintf(`apiVersion: argoproj.io/v1alpha1
kind: AppProject
metadata:
  name: %s
  namespace: argocd
spec:
  description: What runs at home
  sourceRepos:
    - '%s'
  destinations:
    - namespace: 'apps-*'
      server: https://kubernetes.default.svc
    - namespace: 'monitoring'
      server: https://kubernetes.default.svc
  clusterResourceWhitelist: []
  namespaceResourceBlacklist:
    - group: ''
      kind: ResourceQuota
    - group: ''
      kind: LimitRange
  roles:
    - name: viewer
      description: May look
      policies:
        - p, proj:%[1]s:viewer, applications, get, %[1]s/*, allow
`, project, repo.URL())),
		gitserver.Put("clusters/home/namespace.yaml", "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: "+family+"\n"),
		gitserver.Put("clusters/home/vault.yaml", header(vault, project)+source("apps/vault/overlays/prod")+destination(family)),
		gitserver.Put("clusters/home/shop.yaml", header(shop, "default")+source("apps/shop/production")+destination(production)+healing),
		gitserver.Put("apps/vault/base/kustomization.yaml", "resources: [config.yaml, quota.yaml]\n"),
		gitserver.Put("apps/vault/base/config.yaml", configMap("vault", "one")),
		gitserver.Put("apps/vault/base/quota.yaml", "apiVersion: v1\nkind: ResourceQuota\nmetadata:\n  name: all\nspec: {hard: {pods: '10'}}\n"),
		gitserver.Put("apps/vault/overlays/prod/kustomization.yaml", "resources: [../../base]\n"),
		gitserver.Put("apps/shop/production/web.yaml", deployment("web", 2)),
		gitserver.Put("apps/shop/production/config.yaml", configMap("settings", "one")),
	)
	t.Cleanup(func() {
		ctx := context.Background()
		for _, name := range []string{root, vault, shop} {
			_ = w.cluster.Dynamic().Resource(applications).Namespace(argocd).Delete(ctx, name, metav1.DeleteOptions{})
		}
		for _, name := range []string{family, production} {
			_ = w.cluster.Dynamic().Resource(harness.Namespaces).Delete(ctx, name, metav1.DeleteOptions{})
		}
	})
	w.apply(t, header(root, "default")+source("clusters/home")+"  destination:\n    server: https://kubernetes.default.svc\n"+healing)

	app := w.cluster.Await(t, applications, argocd, root, "the root, to be synced", syncedAt(first))
	if !strings.Contains(field(app, "status.conditions"), "PermissiveWarning") {
		t.Errorf("nothing shows that it is delivered with Holdfast's own rights: %s", field(app, "status.conditions"))
	}
	w.cluster.Await(t, applications, argocd, shop, "to be healthy in the namespace made for it", func(o *unstr) bool {
		return syncedAt(first)(o) && field(o, "status.health.status") == "Healthy"
	})
	w.cluster.Await(t, harness.Deployments, production, "web", "to be ready", harness.Ready(2))
	must(t, w.cluster.Dynamic().Resource(harness.ConfigMaps).Namespace(production).Delete(t.Context(), "settings", metav1.DeleteOptions{}))
	w.cluster.Await(t, harness.ConfigMaps, production, "settings", "to be back", has("data.value", "one"))

	// The project has the last word: a quota is not the family's to make.
	w.cluster.Await(t, applications, argocd, vault, "to be refused by its project", func(o *unstr) bool {
		return strings.Contains(field(o, "status.conditions"), "ResourceQuota is not permitted in project "+project)
	})
	second := commit(t, repo, gitserver.Put("apps/vault/base/kustomization.yaml", "resources: [config.yaml]\n"),
		gitserver.Delete("apps/vault/base/quota.yaml"), gitserver.Put("apps/shop/production/config.yaml", configMap("settings", "two")))
	body := giteaPush(t, repo)
	headers := map[string]string{"X-Gitea-Event": "push", "X-Gogs-Event": "push", "X-Gitea-Signature": signature("wrong", body)}
	if code := c.pushed(t, "/api/webhook", headers, body); code != http.StatusUnauthorized {
		t.Errorf("a forged push was answered with %d", code)
	}
	headers["X-Gitea-Signature"] = signature(key, body)
	if code := c.pushed(t, "/api/webhook", headers, body); code != http.StatusOK {
		t.Errorf("a signed push was answered with %d", code)
	}
	w.cluster.Await(t, harness.ConfigMaps, production, "settings", "to be as pushed", has("data.value", "two"))
	w.cluster.Await(t, applications, argocd, vault, "to wait for a person", func(o *unstr) bool {
		return field(o, "status.sync.status") == "OutOfSync" && field(o, "status.sync.revision") == second && field(o, "status.conditions.1") == "<none>"
	})
	w.cluster.Await(t, harness.ConfigMaps, family, "vault", "not to be delivered unasked", harness.Gone)
	w.says(t, 0, second[:7], "sync", vault)
	w.cluster.Await(t, harness.ConfigMaps, family, "vault", "to be delivered", has("data.value", "one"))

	commit(t, repo, gitserver.Delete("apps/shop/production/config.yaml"))
	c.pushed(t, "/api/webhook", map[string]string{"X-Gogs-Event": "push", "X-Gogs-Signature": signature(key, giteaPush(t, repo))}, giteaPush(t, repo))
	w.cluster.Await(t, harness.ConfigMaps, production, "settings", "to be pruned", harness.Gone)
}
