package e2e

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/holdfastcd/holdfast/test/gitserver"
	"github.com/holdfastcd/holdfast/test/harness"
)

// fleet reads examples/fleet, with the address of a repository in it.
func fleet(t *testing.T, url string) map[string]string {
	t.Helper()
	const root = "../../examples/fleet"
	files := map[string]string{}
	must(t, filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(root, name)
		files[filepath.ToSlash(relative)] = strings.ReplaceAll(string(content), "http://git.example/fleet.git", url)
		return err
	}))
	return files
}

// drifts lists the events that tell of drift: of what, and what was done.
func (w *world) drifts(t *testing.T, namespace string) []string {
	t.Helper()
	events, err := w.kube.CoreV1().Events(namespace).List(t.Context(), metav1.ListOptions{FieldSelector: "reason=DriftDetected"})
	must(t, err)
	var all []string
	for _, e := range events.Items {
		all = append(all, e.InvolvedObject.Kind+"/"+e.InvolvedObject.Name+": "+e.Message)
	}
	return all
}

// TestFleetIsQuiet delivers the example beside the controllers of Kubernetes, which fill
// in what they fill in, and then has somebody meddle.
func TestFleetIsQuiet(t *testing.T) {
	w := theWorld(t)
	repo := w.repository(t, map[string]string{"README.md": "a fleet\n"})
	files := fleet(t, repo.URL())
	commit(t, repo, gitserver.Files(files)...)
	for _, name := range []string{"namespaces", "tenants", "infrastructure", "projects", "roots"} {
		for doc := range strings.SplitSeq("\n"+files["clusters/dev/bootstrap/"+name+".yaml"], "\n---\n") {
			if strings.Contains("\n"+doc, "\nkind:") {
				w.apply(t, doc)
			}
		}
	}
	w.apply(t, strings.TrimSpace(files["clusters/dev/root-argo.yaml"]))
	for doc := range strings.SplitSeq("\n"+files["clusters/dev/root-flux.yaml"], "\n---\n") {
		if strings.Contains("\n"+doc, "\nkind:") {
			w.apply(t, doc)
		}
	}
	healthy := func(o *unstr) bool {
		return field(o, "status.health.status") == "Healthy" && field(o, "status.sync.status") == "Synced"
	}
	for _, app := range []string{"root", "guestbook", "shop"} {
		w.cluster.Await(t, applications, argocd, app, "to be healthy", healthy)
	}
	w.cluster.Await(t, kustomizations, "flux-system", "infrastructure", "to be ready", func(o *unstr) bool { return strings.HasPrefix(condition(o, "Ready"), "True") })
	ours := []string{"Application/root:", "Application/guestbook:", "Application/shop:", "Kustomization/root:", "Kustomization/infrastructure:"}
	for _, namespace := range []string{argocd, "flux-system"} {
		told := slices.DeleteFunc(w.drifts(t, namespace), func(text string) bool {
			return !slices.ContainsFunc(ours, func(name string) bool { return strings.HasPrefix(text, name) })
		})
		if len(told) > 0 {
			t.Errorf("nobody meddled, and drift is told:\n%s", strings.Join(told, "\n"))
		}
	}

	w.patch(t, harness.Deployments, "shop-dev", "storefront", `{"spec":{"template":{"spec":{"hostPID":true}}}}`)
	const want = "Deployment.apps/shop-dev/storefront: "
	text := w.event(t, argocd, "shop", "DriftDetected")
	if !strings.HasPrefix(text, want) || !strings.HasSuffix(text, " added spec.template.spec.hostPID") {
		t.Errorf("the event says %q", text)
	}
	hostPID := func(o *unstr) bool { return field(o, "spec.template.spec.hostPID") == "true" }
	w.cluster.Await(t, harness.Deployments, "shop-dev", "storefront", "to keep what was added", hostPID)
	w.patch(t, applications, argocd, "shop", `{"metadata":{"annotations":{"holdfast.dev/strict":"true"}}}`)
	w.cluster.Await(t, harness.Deployments, "shop-dev", "storefront", "to be held strictly", func(o *unstr) bool { return !hostPID(o) })
}
