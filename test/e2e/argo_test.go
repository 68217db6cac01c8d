package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/holdfastcd/holdfast/test/gitserver"
	"github.com/holdfastcd/holdfast/test/harness"
)

type unstr = unstructured.Unstructured

const argocd = "argocd"

// project makes an AppProject for a tenant's namespace and a root that may
// create Applications; its name is the namespace's.
func (w *world) project(t *testing.T, ns, url string) {
	t.Helper()
	w.apply(t, `
apiVersion: v1
kind: Namespace
metadata: {name: argocd}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: app-of-apps, namespace: argocd}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: app-of-apps, namespace: argocd}
rules: [{apiGroups: [argoproj.io], resources: [applications], verbs: ["*"]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: app-of-apps, namespace: argocd}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: app-of-apps}
subjects: [{kind: ServiceAccount, name: app-of-apps, namespace: argocd}]
---
`+fmt.Sprintf(`
apiVersion: argoproj.io/v1alpha1
kind: AppProject
metadata: {name: %[1]s, namespace: argocd}
spec:
  sourceRepos: ["%[2]s", "file:///**"]
  destinations:
    - {server: https://kubernetes.default.svc, namespace: %[1]s}
    - {server: https://kubernetes.default.svc, namespace: argocd}
  destinationServiceAccounts:
    - {server: https://kubernetes.default.svc, namespace: argocd, defaultServiceAccount: app-of-apps}
    - {server: https://kubernetes.default.svc, namespace: %[1]s, defaultServiceAccount: deployer}
`, ns, url))
	t.Cleanup(func() {
		ctx, apps := context.Background(), w.cluster.Dynamic().Resource(applications).Namespace(argocd) // the test's context has ended
		list, err := apps.List(ctx, metav1.ListOptions{})
		if err != nil {
			t.Error(err)
			return
		}
		for _, app := range list.Items {
			if field(&app, "spec.project") == ns {
				_ = apps.Delete(ctx, app.GetName(), metav1.DeleteOptions{}) // it may be gone
			}
		}
	})
}

func application(name, project, url, path, namespace, policy string) string {
	return fmt.Sprintf(`apiVersion: argoproj.io/v1alpha1
kind: Application
metadata:
  name: %s
  namespace: argocd
  finalizers: [resources-finalizer.argocd.argoproj.io]
spec:
  project: %s
  source: {repoURL: %q, path: %s, targetRevision: main}
  destination: {server: "https://kubernetes.default.svc", namespace: %s}
  syncPolicy: %s
`, name, project, url, path, namespace, policy)
}

const automated = "{automated: {prune: true, selfHeal: true}}"

// TestArgoAppOfApps delivers a root that delivers two applications, one plain
// and one with Kustomize; heals, prunes and takes everything down by the root.
func TestArgoAppOfApps(t *testing.T) {
	w := theWorld(t)
	ns := w.tenant(t)
	repo := w.repository(t, map[string]string{"README.md": "a fleet\n"})
	one, two := ns+"-one", ns+"-two"
	head := commit(t, repo,
		gitserver.Put("root/one.yaml", application(one, ns, repo.URL(), "one", ns, automated)),
		gitserver.Put("root/two.yaml", application(two, ns, repo.URL(), "two/overlays/dev", ns, automated)),
		gitserver.Put("one/config.yaml", configMap("one", "first")),
		gitserver.Put("two/base/kustomization.yaml", "resources: [deployment.yaml]\n"),
		gitserver.Put("two/base/deployment.yaml", deployment("two", 1)),
		gitserver.Put("two/overlays/dev/kustomization.yaml", "resources: [../../base]\nnamePrefix: dev-\nreplicas: [{name: two, count: 3}]\n"),
	)
	w.project(t, ns, repo.URL())
	w.apply(t, application(ns, ns, repo.URL(), "root", argocd, automated))

	w.cluster.Await(t, applications, argocd, ns, "the root, to be synced", syncedAt(head))
	w.cluster.Await(t, applications, argocd, one, "the first child, to be synced", syncedAt(head))
	app := w.cluster.Await(t, applications, argocd, two, "the second child, to be healthy", func(o *unstr) bool {
		return syncedAt(head)(o) && field(o, "status.health.status") == "Healthy"
	})
	if got := field(app, "status.sourceType"); got != "Kustomize" {
		t.Errorf("the source type is %s", got)
	}
	if got := field(app, "status.operationState.phase"); got != "Succeeded" {
		t.Errorf("the operation's phase is %s", got)
	}
	w.cluster.Await(t, harness.Deployments, ns, "dev-two", "to be ready", harness.Ready(3))
	cm := w.cluster.Await(t, harness.ConfigMaps, ns, "one", "to exist", harness.Exists)
	if got, want := cm.GetAnnotations()["argocd.argoproj.io/tracking-id"], fmt.Sprintf("%s:/ConfigMap:%s/one", one, ns); got != want {
		t.Errorf("the tracking id is %q, want %q", got, want)
	}

	w.patch(t, harness.ConfigMaps, ns, "one", `{"data":{"value":"by hand"}}`)
	w.cluster.Await(t, harness.ConfigMaps, ns, "one", "to be healed", has("data.value", "first"))

	next := commit(t, repo, gitserver.Put("one/config.yaml", configMap("one", "second")), gitserver.Put("one/more.yaml", configMap("more", "x")))
	w.main.push(t, repo)
	w.cluster.Await(t, harness.ConfigMaps, ns, "one", "to be as committed", has("data.value", "second"))
	w.cluster.Await(t, applications, argocd, one, "to tell the new revision", syncedAt(next))
	w.cluster.Await(t, applications, argocd, two, "which is untouched, to tell it too", syncedAt(next))

	commit(t, repo, gitserver.Delete("one/more.yaml"))
	w.main.push(t, repo)
	w.cluster.Await(t, harness.ConfigMaps, ns, "more", "to be pruned", harness.Gone)

	commit(t, repo, gitserver.Delete("root/two.yaml"))
	w.main.push(t, repo)
	w.cluster.Await(t, harness.Deployments, ns, "dev-two", "to go with its Application", harness.Gone)
	w.cluster.Await(t, applications, argocd, two, "to be gone", harness.Gone)

	must(t, w.cluster.Dynamic().Resource(applications).Namespace(argocd).Delete(t.Context(), ns, metav1.DeleteOptions{}))
	w.cluster.Await(t, harness.ConfigMaps, ns, "one", "to go with the root", harness.Gone)
	w.cluster.Await(t, applications, argocd, ns, "the root, to be gone", harness.Gone)
}

// TestArgoWithoutSelfHeal shows drift and leaves it.
func TestArgoWithoutSelfHeal(t *testing.T) {
	w := theWorld(t)
	ns := w.tenant(t)
	repo := w.repository(t, map[string]string{"app/config.yaml": configMap("one", "first")})
	w.project(t, ns, repo.URL())
	w.apply(t, application(ns, ns, repo.URL(), "app", ns, "{automated: {prune: true}}"))
	head, err := repo.Head()
	must(t, err)
	w.cluster.Await(t, applications, argocd, ns, "to be synced", syncedAt(head))
	w.patch(t, harness.ConfigMaps, ns, "one", `{"data":{"value":"by hand"}}`)
	w.cluster.Await(t, applications, argocd, ns, "to be out of sync", has("status.sync.status", "OutOfSync"))
	w.cluster.Await(t, harness.ConfigMaps, ns, "one", "to be left alone", has("data.value", "by hand"))
	commit(t, repo, gitserver.Put("app/config.yaml", configMap("one", "second")))
	w.main.push(t, repo)
	w.cluster.Await(t, harness.ConfigMaps, ns, "one", "to be as committed", has("data.value", "second"))
}

// TestArgoProjectRules refuses what the project does not permit, by name.
func TestArgoProjectRules(t *testing.T) {
	w := theWorld(t)
	ns := w.tenant(t)
	repo := w.repository(t, map[string]string{
		"elsewhere/config.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: one\n  namespace: kube-system\n",
		"cluster/role.yaml":     "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata:\n  name: " + ns + "\nrules: []\n",
		"app/config.yaml":       configMap("one", "first"),
	})
	w.project(t, ns, repo.URL())
	tests := map[string]struct {
		reason, url, path, namespace string
		want                         []string
	}{
		"namespace": {"a manifest names a namespace outside the destinations", repo.URL(), "elsewhere", ns, []string{"kube-system", "elsewhere/config.yaml"}},
		"cluster":   {"no cluster-scoped kind is listed", repo.URL(), "cluster", ns, []string{"ClusterRole", "cluster/role.yaml"}},
		"file":      {"a file URL reads the controller's own disk, whatever the project permits", "file:///etc", "app", ns, []string{"file", "InvalidSpecError"}},
		"source":    {"the repository is not the project's", "https://git.example/other.git", "app", ns, []string{"git.example/other", "not permitted"}},
		"target":    {"the destination is not the project's", repo.URL(), "app", "kube-system", []string{"kube-system", "not permitted"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			w.apply(t, application(ns+"-"+name, ns, tc.url, tc.path, tc.namespace, automated))
			w.cluster.Await(t, applications, argocd, ns+"-"+name, "to be refused: "+tc.reason, func(o *unstr) bool {
				text := field(o, "status.conditions")
				for _, part := range tc.want {
					if !strings.Contains(text, part) {
						return false
					}
				}
				return true
			})
		})
	}
}
