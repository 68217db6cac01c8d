package delivery_test

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/plan"
	"github.com/holdfastcd/holdfast/test/harness"
)

const scaled = `{apiVersion: apps/v1, kind: Deployment, metadata: {name: web}, spec: {replicas: 1, selector: {matchLabels: {a: web}},
template: {metadata: {labels: {a: web}}, spec: {containers: [{name: web, image: "example.org/web:1"}]}}}}`

// live returns the Deployment as it is, once the engine's watch is as far.
func (w *world) live() *unstructured.Unstructured {
	w.t.Helper()
	o, err := w.harness.Dynamic().Resource(harness.Deployments).Namespace(w.ns).Get(w.t.Context(), "web", metav1.GetOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	kind, ok := w.cluster.LookupGroupKind(o.GroupVersionKind().GroupKind())
	if !ok {
		w.t.Fatal("no Deployments")
	}
	id := (&object.Object{Unstructured: *o}).ID()
	want, err := strconv.Atoi(o.GetResourceVersion())
	if err != nil {
		w.t.Fatal(err)
	}
	timeout := time.After(40 * time.Second)
	for {
		if r, ok := w.cluster.Look(kind, id); ok {
			if got, err := strconv.Atoi(r.ResourceVersion); err == nil && got >= want {
				return o
			}
		}
		select {
		case <-w.events:
		case <-time.After(10 * time.Millisecond): // what means nothing makes no event
		case <-timeout:
			w.t.Fatal("the watch does not keep up")
		}
	}
}

// sent returns the requests, besides lists and watches, that f makes the engine send.
func (w *world) sent(f func()) map[string]int {
	before := w.cluster.Requests()
	f()
	diff := map[string]int{}
	for verb, n := range w.cluster.Requests() {
		if d := n - before[verb]; d > 0 && verb != "watch" && verb != "list" {
			diff[verb] = d
		}
	}
	return diff
}

// calm does passes until one sends nothing.
func (w *world) calm() {
	w.t.Helper()
	w.harness.Await(w.t, harness.Deployments, w.ns, "web", "to be ready", func(o *unstructured.Unstructured) bool {
		n, _, _ := unstructured.NestedInt64(o.Object, "spec", "replicas")
		return harness.Ready(n)(o)
	})
	for range 10 {
		w.live()
		if len(w.sent(func() { w.pass() })) == 0 {
			return
		}
	}
	w.t.Fatal("every pass sends something")
}

func (w *world) scale(n string) {
	w.t.Helper()
	_, err := w.harness.Dynamic().Resource(harness.Deployments).Namespace(w.ns).Patch(w.t.Context(), "web", types.MergePatchType,
		[]byte(`{"spec":{"replicas":`+n+`}}`), metav1.PatchOptions{FieldManager: "kubectl"}, "scale")
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) wantReplicas(want int64, when string) {
	w.t.Helper()
	if got, _, _ := unstructured.NestedInt64(w.live().Object, "spec", "replicas"); got != want {
		w.t.Errorf("%d replicas %s, want %d", got, when, want)
	}
}

// TestIgnoredFields: a field that is ignored is no drift and no change of the
// source, at the cost of one check for each change of it in the cluster.
func TestIgnoredFields(t *testing.T) {
	replicas := []string{"/spec/replicas"}
	tests := []struct {
		name, reason string
		rule         plan.Ignore
		revert       bool
		after        int64 // replicas, after another field of the source changed
	}{
		{"ignored", "a sync for another reason sends the field too", plan.Ignore{Pointers: replicas}, true, 2},
		{"ignored, no self-heal", "the same where nothing is reverted", plan.Ignore{Pointers: replicas}, false, 2},
		{"respected", "a sync for another reason leaves it alone", plan.Ignore{Pointers: replicas, Respect: true}, true, 5},
		{"by path", "jq", plan.Ignore{Paths: []string{".spec.replicas"}, Respect: true}, true, 5},
		{"by manager", "whatever one manager owns", plan.Ignore{Managers: []string{"kubectl"}, Respect: true}, true, 5},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			w.spec.Revert = tt.revert
			w.spec.Ignore = []plan.Ignore{tt.rule}
			w.commit(scaled)
			w.pass()
			w.calm()
			w.scale("5")
			w.live()
			if diff := cmp.Diff(map[string]int{"get": 1, "dry-run": 1}, w.sent(func() { w.pass() })); diff != "" {
				t.Errorf("one check tells (-want +got):\n%s", diff)
			}
			w.calm()
			w.wantReplicas(5, "after a manual scale")
			if len(tt.rule.Managers) == 0 {
				w.commit(strings.Replace(scaled, "replicas: 1", "replicas: 2", 1))
				if sent := w.sent(func() { w.pass() }); len(sent) > 0 {
					t.Errorf("a change of an ignored field in the source sent %v", sent)
				}
			}
			w.commit(strings.NewReplacer("replicas: 1", "replicas: 2", "web:1", "web:2").Replace(scaled))
			if r := w.pass(); r.Err != nil {
				t.Fatal(r.Err)
			}
			w.wantReplicas(tt.after, "after "+tt.reason)
			w.calm()
			w.wantReplicas(tt.after, "a while later")
		})
	}
}

// TestDriftBesideIgnored: what is not ignored is reverted, and what is, stays.
func TestDriftBesideIgnored(t *testing.T) {
	w := newWorld(t)
	w.spec.Ignore = []plan.Ignore{{Kind: "Deployment", Pointers: []string{"/spec/replicas"}, Respect: true}}
	w.commit(scaled)
	w.pass()
	w.calm()
	w.scale("3")
	_, err := w.harness.Dynamic().Resource(harness.Deployments).Namespace(w.ns).Patch(t.Context(), "web", types.MergePatchType,
		[]byte(`{"metadata":{"labels":{"`+mark+`":"somebody"}},"spec":{"paused":true}}`), metav1.PatchOptions{FieldManager: "kubectl-edit"})
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.harness.Dynamic().Resource(harness.Deployments).Namespace(w.ns).Patch(t.Context(), "web", types.JSONPatchType,
		[]byte(`[{"op":"replace","path":"/spec/template/spec/containers/0/image","value":"example.org/other"}, {"op":"replace","path":"/metadata/labels","value":{"`+mark+`":"Thing.here.`+w.ns+`"}}]`),
		metav1.PatchOptions{FieldManager: "kubectl-edit"})
	if err != nil {
		t.Fatal(err)
	}
	w.live()
	w.pass()
	o := w.live()
	containers, _, _ := unstructured.NestedSlice(o.Object, "spec", "template", "spec", "containers")
	c, _ := containers[0].(map[string]any)
	if c["image"] != "example.org/web:1" {
		t.Errorf("the image is %v", c["image"])
	}
	w.wantReplicas(3, "after a revert beside it")
}

// TestWarnings: what was left out of a manifest is told with the object.
func TestWarnings(t *testing.T) {
	w := newWorld(t)
	w.commit("{apiVersion: v1, kind: ConfigMap, metadata: {name: copied, managedFields: [{manager: x}]}}")
	for _, when := range []string{"applied", "unchanged"} {
		r := w.pass()
		if len(r.Objects) != 1 || len(r.Objects[0].Warnings) != 1 || !strings.HasPrefix(r.Objects[0].Warnings[0], "metadata.managedFields: ") {
			t.Errorf("%s: the report warns of %+v", when, r.Objects)
		}
	}
}
