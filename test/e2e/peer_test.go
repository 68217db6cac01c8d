package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/holdfastcd/holdfast/test/gitserver"
	"github.com/holdfastcd/holdfast/test/harness"
)

// peer is what a controller of Flux or Argo CD does to a resource that it serves:
// it writes its status, again and again.
type peer struct {
	resource        schema.GroupVersionResource
	namespace, name string
	manager         string
	subresources    []string
	status          func(at time.Time) string
}

// write writes the status, at a time that differs from that of the write before.
func (p peer) write(t *testing.T, w *world, at time.Time) {
	t.Helper()
	_, err := w.cluster.Dynamic().Resource(p.resource).Namespace(p.namespace).Patch(t.Context(), p.name, types.MergePatchType,
		[]byte(p.status(at)), metav1.PatchOptions{FieldManager: p.manager}, p.subresources...)
	must(t, err)
}

// event polls for a warning about an object: a list of events is what people read.
func (w *world) event(t *testing.T, namespace, name, reason string) string {
	t.Helper()
	var message string
	about := fields.Set{"involvedObject.name": name, "reason": reason}.String()
	ok := poll(t, func() bool {
		list, err := w.kube.CoreV1().Events(namespace).List(t.Context(), metav1.ListOptions{FieldSelector: about})
		if err != nil || len(list.Items) == 0 {
			return false
		}
		message = list.Items[0].Message
		return true
	})
	if !ok {
		t.Fatalf("no event %s about %s/%s", reason, namespace, name)
	}
	return message
}

// TestPeerStillRuns: where another controller goes on writing the status of what
// Holdfast delivers, Holdfast stops, names it in an event, shows what it would do,
// and goes on with everything else.
func TestPeerStillRuns(t *testing.T) {
	w := theWorld(t)
	ns := w.tenant(t)
	repo := w.repository(t, map[string]string{
		"flux/config.yaml": configMap("flux", "one"),
		"argo/config.yaml": configMap("argo", "one"),
		"next/config.yaml": configMap("neighbour", "one"),
	})
	first, err := repo.Head()
	must(t, err)
	w.project(t, ns, repo.URL())
	w.flux(t, ns, repo.URL(), "./flux")
	w.apply(t, neighbour(ns))
	w.apply(t, application(ns, ns, repo.URL(), "argo", ns, automated))
	w.cluster.Await(t, kustomizations, ns, "app", "to be applied", appliedAt(first))
	w.cluster.Await(t, applications, argocd, ns, "to be synced", syncedAt(first))

	peers := map[string]peer{
		"flux": {
			kustomizations, ns, "app", "gotk-kustomize-controller",
			[]string{"status"},
			func(at time.Time) string {
				return fmt.Sprintf(`{"status":{"lastHandledReconcileAt":%q}}`, at.Format(time.RFC3339))
			},
		},
		"argo": {
			applications, argocd, ns, "argocd-application-controller", nil,
			func(at time.Time) string {
				return fmt.Sprintf(`{"status":{"reconciledAt":%q}}`, at.UTC().Format(time.RFC3339))
			},
		},
	}
	start := time.Now()
	for i := range 2 {
		for _, p := range peers {
			p.write(t, w, start.Add(time.Duration(i)*time.Minute))
		}
	}
	mark := w.cluster.Mark(t)
	second := commit(t, repo, gitserver.Put("flux/config.yaml", configMap("flux", "two")), gitserver.Put("argo/config.yaml", configMap("argo", "two")),
		gitserver.Put("next/config.yaml", configMap("neighbour", "two")))
	w.main.push(t, repo)
	w.cluster.Await(t, kustomizations, ns, "next", "which nobody else serves, to go on", appliedAt(second))
	for name, p := range peers {
		if said := w.event(t, p.namespace, p.name, "PeerStillRuns"); !strings.Contains(said, p.manager) || !strings.Contains(said, "holdfast takeover") {
			t.Errorf("the event must name the peer and say what to do: %s", said)
		}
		w.main.awaitObserved(t, fmt.Sprintf(`"ConfigMap/%s/%s"`, ns, name))
		w.cluster.Await(t, harness.ConfigMaps, ns, name, "to be left to the peer", has("data.value", "one"))
	}
	for _, r := range w.cluster.RequestsSince(t, mark, harness.ByUserAgent("holdfast"), harness.Writes) {
		if strings.Contains(r.URI, "/kustomizations/app") && strings.Contains(r.URI, ns) || strings.Contains(r.URI, "/applications/"+ns) ||
			strings.HasSuffix(r.URI, "/configmaps/flux") || strings.HasSuffix(r.URI, "/configmaps/argo") {
			t.Errorf("beside a peer it sent %s %s", r.Verb, r.URI)
		}
	}
}
