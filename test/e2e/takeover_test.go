package e2e

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"github.com/holdfastcd/holdfast/test/gitserver"
	"github.com/holdfastcd/holdfast/test/harness"
)

const lastApplied = "kubectl.kubernetes.io/last-applied-configuration"

// writeAs writes an object as a peer does: by client-side apply, which is an
// update with a copy of itself in an annotation, or by server-side apply.
func (w *world) writeAs(t *testing.T, manager string, serverSide bool, text string) *unstr {
	t.Helper()
	o := &unstr{}
	must(t, yaml.Unmarshal([]byte(text), &o.Object))
	body, err := json.Marshal(o)
	must(t, err)
	r := w.resource(t, o)
	if serverSide {
		force := true
		got, err := r.Patch(t.Context(), o.GetName(), types.ApplyPatchType, body, metav1.PatchOptions{FieldManager: manager, Force: &force})
		must(t, err)
		return got
	}
	annotations := o.GetAnnotations()
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations[lastApplied] = string(body)
	o.SetAnnotations(annotations)
	got, err := r.Create(t.Context(), o, metav1.CreateOptions{FieldManager: manager})
	must(t, err)
	return got
}

// managers lists who owns fields of an object besides its status.
func managers(o *unstr) []string {
	var list []string
	for _, e := range o.GetManagedFields() {
		if e.Subresource == "" {
			list = append(list, fmt.Sprintf("%s %s", e.Manager, e.Operation))
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// pods lists the Pods of a namespace by their UIDs.
func (w *world) pods(t *testing.T, namespace string) []string {
	t.Helper()
	list, err := w.kube.CoreV1().Pods(namespace).List(t.Context(), metav1.ListOptions{})
	must(t, err)
	var uids []string
	for i := range list.Items {
		uids = append(uids, string(list.Items[i].UID))
	}
	slices.Sort(uids)
	return uids
}

func inNamespace(text, namespace string) string {
	return strings.Replace(text, "metadata:\n", "metadata:\n  namespace: "+namespace+"\n", 1)
}

// TestTakeOver: objects that kubectl, Argo CD or Flux applied become Holdfast's:
// nothing restarts, what left Git is gone, and the peer may have them back.
func TestTakeOver(t *testing.T) {
	w := theWorld(t)
	tests := map[string]struct {
		reason, manager string
		serverSide      bool
		mark            string // an annotation or label of the peer's, as a line of the metadata
	}{
		"kubectl":             {"kubectl apply", "kubectl-client-side-apply", false, ""},
		"kubectl server-side": {"kubectl apply --server-side", "kubectl", true, ""},
		"argo cd":             {"Argo CD by client-side apply", "argocd-controller", false, "annotations: {argocd.argoproj.io/tracking-id: \"app:apps/Deployment:NS/web\"}"},
		"argo cd server-side": {"Argo CD by server-side apply", "argocd-controller", true, "annotations: {argocd.argoproj.io/tracking-id: \"app:apps/Deployment:NS/web\"}"},
		"flux":                {"Flux", "kustomize-controller", true, "labels: {kustomize.toolkit.fluxcd.io/name: app, kustomize.toolkit.fluxcd.io/namespace: NS}"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			ns := w.tenant(t)
			mark := ""
			if tc.mark != "" {
				mark = "  " + strings.ReplaceAll(tc.mark, "NS", ns) + "\n"
			}
			text := strings.Replace(inNamespace(deployment("web", 2), ns), "metadata:\n", "metadata:\n"+mark, 1)
			w.writeAs(t, tc.manager, tc.serverSide, text)
			stale := inNamespace(configMap("settings", "one"), ns) + "  stale: left Git long ago\n"
			w.writeAs(t, tc.manager, tc.serverSide, stale)
			before := w.cluster.Await(t, harness.Deployments, ns, "web", "to run", harness.Ready(2))
			pods := w.pods(t, ns)

			repo := w.repository(t, map[string]string{"app/web.yaml": deployment("web", 2), "app/config.yaml": configMap("settings", "one")})
			head, err := repo.Head()
			must(t, err)
			w.flux(t, ns, repo.URL(), "./app")
			w.cluster.Await(t, kustomizations, ns, "app", "to be applied over "+tc.reason, appliedAt(head))

			web := w.cluster.Await(t, harness.Deployments, ns, "web", "to be there", harness.Exists)
			if web.GetUID() != before.GetUID() || field(web, "spec.template") != field(before, "spec.template") {
				t.Error("the Deployment's template was changed")
			}
			if now := w.pods(t, ns); !slices.Equal(now, pods) {
				t.Errorf("the Pods are %v, before %v", now, pods)
			}
			cm := w.cluster.Await(t, harness.ConfigMaps, ns, "settings", "to lose what left Git", has("data.stale", "<none>"))
			for _, o := range []*unstr{web, cm} {
				if _, there := o.GetAnnotations()[lastApplied]; there {
					t.Errorf("%s still carries the annotation of kubectl's client-side apply", o.GetName())
				}
				for _, m := range managers(o) {
					if m != "kustomize-controller Apply" && !strings.HasPrefix(m, "kube-") {
						t.Errorf("%s is still owned by %s", o.GetName(), m)
					}
				}
			}

			// The peer takes it back: what it applies holds, and what it leaves out goes.
			must(t, w.cluster.Dynamic().Resource(kustomizations).Namespace(ns).Delete(t.Context(), "app", orphan(t, w, ns)))
			w.cluster.Await(t, kustomizations, ns, "app", "to be gone", harness.Gone)
			w.cluster.Await(t, harness.ConfigMaps, ns, "settings", "to stay", harness.Exists)
			w.writeAs(t, "kustomize-controller", true, inNamespace("apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: settings\ndata:\n  other: \"1\"\n", ns))
			w.cluster.Await(t, harness.ConfigMaps, ns, "settings", "to be the peer's again", func(o *unstr) bool {
				return field(o, "data.value") == "<none>" && field(o, "data.other") == "1"
			})
		})
	}
}

// orphan prepares a Kustomization to be deleted without its objects.
func orphan(t *testing.T, w *world, ns string) metav1.DeleteOptions {
	t.Helper()
	w.patch(t, kustomizations, ns, "app", `{"spec":{"deletionPolicy":"Orphan"}}`)
	return metav1.DeleteOptions{}
}

// TestArgoWaves: a wave is sent when the one before is healthy, and not earlier.
func TestArgoWaves(t *testing.T) {
	w := theWorld(t)
	ns := w.tenant(t)
	wave := func(n, text string) string {
		return strings.Replace(text, "metadata:\n", "metadata:\n  annotations: {argocd.argoproj.io/sync-wave: \""+n+"\"}\n", 1)
	}
	slow := strings.Replace(deployment("web", 1), "    metadata:\n", "    metadata:\n      annotations: {devcluster.holdfast.dev/pod: pending}\n", 1)
	repo := w.repository(t, map[string]string{
		"app/first.yaml":  wave("-1", configMap("first", "x")),
		"app/web.yaml":    slow,
		"app/second.yaml": wave("2", configMap("second", "x")),
	})
	w.project(t, ns, repo.URL())
	w.apply(t, application(ns, ns, repo.URL(), "app", ns, automated))
	w.cluster.Await(t, harness.Deployments, ns, "web", "to exist", harness.Exists)
	w.cluster.Await(t, harness.ConfigMaps, ns, "first", "to exist", harness.Exists)
	w.cluster.Await(t, applications, argocd, ns, "to say what it waits for", func(o *unstr) bool {
		return field(o, "status.operationState.phase") == "Running" && strings.Contains(field(o, "status.operationState.message"), "web")
	})
	w.cluster.Await(t, harness.ConfigMaps, ns, "second", "to wait", harness.Gone)
	healthy := commit(t, repo, gitserver.Put("app/web.yaml", deployment("web", 1)))
	w.main.push(t, repo)
	w.cluster.Await(t, harness.ConfigMaps, ns, "second", "to follow", harness.Exists)
	w.cluster.Await(t, applications, argocd, ns, "to be synced", syncedAt(healthy))
}

// TestTwoTenantsOneRepository: who has no credential, or a wrong one, sees and
// moves nothing of what another delivers from the same address.
func TestTwoTenantsOneRepository(t *testing.T) {
	w := theWorld(t)
	dir := t.TempDir()
	locked, err := gitserver.Start(dir, gitserver.Options{Username: "robot", Password: "right"})
	must(t, err)
	t.Cleanup(func() { _ = locked.Close() })
	repo, err := locked.Create("shared")
	must(t, err)
	head := commit(t, repo, gitserver.Put("app/config.yaml", configMap("settings", "one")))
	secret := func(ns, password string) {
		w.apply(t, fmt.Sprintf("apiVersion: v1\nkind: Secret\nmetadata: {name: git, namespace: %s}\nstringData: {username: robot, password: %q}\n", ns, password))
	}
	owner, anonymous, guesser := w.tenant(t), w.tenant(t), w.tenant(t)
	secret(owner, "right")
	secret(guesser, "guess")
	for ns, ref := range map[string]string{owner: "  secretRef: {name: git}", guesser: "  secretRef: {name: git}", anonymous: ""} {
		w.gitRepository(t, ns, repo.URL(), ref)
		w.kustomization(t, ns, "app", "./app", "  targetNamespace: "+ns)
	}
	w.cluster.Await(t, kustomizations, owner, "app", "to be applied", appliedAt(head))
	for _, ns := range []string{anonymous, guesser} {
		w.cluster.Await(t, gitRepositories, ns, "app", "to be refused", says("Ready", "False"))
		w.cluster.Await(t, harness.ConfigMaps, ns, "settings", "not to be delivered", harness.Gone)
		// Asking for the commit by its id does not help, although the store has it.
		w.patch(t, gitRepositories, ns, "app", fmt.Sprintf(`{"spec":{"ref":{"commit":%q}}}`, head))
	}
	next := commit(t, repo, gitserver.Put("app/config.yaml", configMap("settings", "two")))
	w.main.push(t, repo)
	w.cluster.Await(t, kustomizations, owner, "app", "to be applied again", appliedAt(next))
	for _, ns := range []string{anonymous, guesser} {
		w.cluster.Await(t, gitRepositories, ns, "app", "to be refused still", func(o *unstr) bool {
			return says("Ready", "False")(o) && field(o, "status.conditions.0.observedGeneration") == fmt.Sprint(o.GetGeneration())
		})
		w.cluster.Await(t, harness.ConfigMaps, ns, "settings", "not to be delivered", harness.Gone)
	}
}
