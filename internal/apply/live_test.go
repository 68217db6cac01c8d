package apply_test

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	kschema "k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/yaml"

	"github.com/holdfastcd/holdfast/internal/apply"
	"github.com/holdfastcd/holdfast/internal/cluster"
	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/plan"
	"github.com/holdfastcd/holdfast/internal/schema"
	"github.com/holdfastcd/holdfast/internal/secret"
	"github.com/holdfastcd/holdfast/test/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

const patience = 60 * time.Second // for what should take milliseconds

// site is a connection to a real cluster, and a namespace whose account "deployer"
// may do everything in it.
type site struct {
	*cluster.Cluster

	agent  string
	ns     string
	events chan cluster.Event
}

func newSite(t *testing.T) *site {
	t.Helper()
	ns := harness.Shared(t).Namespace(t)
	s := (&site{ns: ns, agent: "site-" + ns}).reconnect(t)
	s.as(t, "test", fmt.Sprintf(`{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: deployer, namespace: %[1]s},
		roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: admin},
		subjects: [{kind: ServiceAccount, name: deployer, namespace: %[1]s}]}`, s.ns))
	// The API server goes by what its own watch of bindings has shown it, and tells nobody.
	kind, _ := s.LookupGroupKind(kschema.GroupKind{Group: "apps", Kind: "Deployment"})
	for end := time.Now().Add(patience); ; {
		may, err := s.As(cluster.ServiceAccount(s.ns, "deployer")).May(t.Context(), "patch", kind, object.ID{Group: "apps", Kind: "Deployment", Namespace: s.ns})
		if may {
			return s
		}
		if err != nil || time.Now().After(end) {
			t.Fatalf("the account has no rights still: %v", err)
		}
	}
}

// reconnect returns a new connection for the same namespace.
func (s *site) reconnect(t *testing.T) *site {
	t.Helper()
	again := &site{ns: s.ns, agent: s.agent, events: make(chan cluster.Event, 4096)}
	c, err := cluster.Connect(harness.Shared(t).Config(), cluster.Options{UserAgent: s.agent})
	if err != nil {
		t.Fatal(err)
	}
	again.Cluster = c
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(func() { cancel(); c.Wait() })
	c.Subscribe(func(e cluster.Event) {
		select {
		case again.events <- e:
		default: // those who wait look again anyway
		}
	})
	if err := c.Start(ctx); err != nil {
		t.Fatal(err)
	}
	return again
}

// parse reads an object from YAML and gives it the namespace.
func (s *site) parse(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	o := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(text), &o.Object); err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(o.Object)
	if err == nil {
		err = o.UnmarshalJSON(raw) // numbers as the API has them
	}
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func (s *site) kind(t *testing.T, o *unstructured.Unstructured) schema.Kind {
	t.Helper()
	k, ok := s.LookupGroupKind(o.GroupVersionKind().GroupKind())
	if !ok {
		t.Fatalf("the cluster does not serve %s", o.GroupVersionKind())
	}
	return k
}

// api is an administrator's way to the objects of o's kind.
func (s *site) api(t *testing.T, o *unstructured.Unstructured) dynamic.ResourceInterface {
	t.Helper()
	r := harness.Shared(t).Dynamic().Resource(s.kind(t, o).GVR())
	if s.kind(t, o).Namespaced {
		return r.Namespace(s.ns)
	}
	return r
}

// as applies an object by server-side apply, as somebody else.
func (s *site) as(t *testing.T, manager, text string) *unstructured.Unstructured {
	t.Helper()
	o := s.parse(t, text)
	out, err := s.api(t, o).Apply(t.Context(), o.GetName(), o, metav1.ApplyOptions{FieldManager: manager, Force: true})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// clientSide does what client-side apply does: it creates the object with the
// annotation of what was sent, or patches it and drops what it sent before.
func (s *site) clientSide(t *testing.T, manager, text string) {
	t.Helper()
	o := s.parse(t, text)
	sent, err := o.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	annotations := o.GetAnnotations()
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations[object.LastApplied] = string(sent)
	o.SetAnnotations(annotations)
	s.create(t, manager, o)
}

func (s *site) create(t *testing.T, manager string, o *unstructured.Unstructured) {
	t.Helper()
	if _, err := s.api(t, o).Create(t.Context(), o, metav1.CreateOptions{FieldManager: manager}); err != nil {
		t.Fatal(err)
	}
}

func (s *site) patch(t *testing.T, o *unstructured.Unstructured, how types.PatchType, manager, patch string, subresource ...string) {
	t.Helper()
	if _, err := s.api(t, o).Patch(t.Context(), o.GetName(), how, []byte(patch), metav1.PatchOptions{FieldManager: manager}, subresource...); err != nil {
		t.Fatal(err)
	}
}

func (s *site) get(t *testing.T, o *unstructured.Unstructured) *unstructured.Unstructured {
	t.Helper()
	live, err := s.api(t, o).Get(t.Context(), o.GetName(), metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return live
}

// held is one object that is held to its source, as a delivery does it.
type held struct {
	*site

	manager string
	o       *unstructured.Unstructured
	desired plan.Desired
	print   *cluster.Fingerprint
	options apply.Options
}

// hold makes text the source of an object; nothing is sent.
func (s *site) hold(t *testing.T, manager, text string, rules ...plan.Ignore) *held {
	t.Helper()
	h := &held{site: s, manager: manager}
	h.source(t, text, rules...)
	if err := s.Watch(t.Context(), h.desired.Kind); err != nil {
		t.Fatal(err)
	}
	return h
}

// source changes what the object is held to.
func (h *held) source(t *testing.T, text string, rules ...plan.Ignore) {
	t.Helper()
	h.o = h.parse(t, text)
	kind := h.kind(t, h.o)
	if kind.Namespaced {
		h.o.SetNamespace(h.ns)
	}
	wrapped := object.Object{Unstructured: *h.o}
	h.desired = plan.Desired{ID: wrapped.ID(), Kind: kind}
	h.desired.Warnings = object.Normalise(h.o, schema.Lists(kind.GVK.GroupKind()))
	ignores, err := plan.CompileIgnores(rules)
	if err != nil {
		t.Fatal(err)
	}
	h.desired.Ignored = ignores.For(h.desired.ID)
	body, err := json.Marshal(h.o.Object)
	if err != nil {
		t.Fatal(err)
	}
	h.desired.Body, h.desired.Digest = secret.Hide(body), sha256.Sum256(body)
}

func (h *held) observe(id object.ID) plan.Observed {
	r, ok := h.Look(h.desired.Kind, id)
	if !ok {
		return plan.Observed{Sight: plan.Absent}
	}
	seen := plan.Observed{
		Sight: plan.Unsure, UID: r.UID, ResourceVersion: r.ResourceVersion, Deleting: r.Deleting,
		Generation: r.Generation, Ours: r.Ours(h.manager), Peers: r.Peered(h.manager, cluster.Peers()),
	}
	if h.print != nil {
		seen.Digest, seen.Sight = h.print.Digest, r.Sight(*h.print, h.manager)
	}
	return seen
}

// pass does what one pass of a delivery does.
func (h *held) pass(t *testing.T) apply.ObjectResult {
	t.Helper()
	p, err := plan.Make(plan.Input{Desired: []plan.Desired{h.desired}, Observe: h.observe, Revert: true})
	if err != nil {
		t.Fatal(err)
	}
	o := h.options
	o.Manager, o.Peers = h.manager, cluster.Peers()
	r := apply.Execute(t.Context(), p, h.As(cluster.ServiceAccount(h.ns, "deployer")), o).Objects[0]
	if r.Outcome == apply.Created || r.Outcome == apply.Configured || r.Outcome == apply.Reverted || r.Action.Op == plan.Confirm && r.Err == nil {
		if f, ok := r.Record.Fingerprint(h.manager, h.desired.Digest); ok {
			h.print = &f
		}
	}
	return r
}

// must is pass, which must come to an outcome.
func (h *held) must(t *testing.T, want apply.Outcome) apply.ObjectResult {
	t.Helper()
	r := h.pass(t)
	if r.Outcome != want {
		t.Fatalf("%s: %s (%s): %v, want %s", h.desired.ID, r.Outcome, r.Action.Op, r.Err, want)
	}
	return r
}

// await returns when the watch shows what is wanted.
func (h *held) await(t *testing.T, aim string, wanted func(plan.Observed) bool) {
	t.Helper()
	deadline := time.After(patience)
	for !wanted(h.observe(h.desired.ID)) {
		select {
		case <-h.events:
		case <-time.After(10 * time.Millisecond): // what means nothing makes no event
		case <-deadline:
			t.Fatalf("%s: the watch does not show it %s: %+v", h.desired.ID, aim, h.observe(h.desired.ID))
		}
	}
}

// level waits until the watch is as far as the API server.
func (h *held) level(t *testing.T) {
	t.Helper()
	want := version(t, h.get(t, h.o).GetResourceVersion())
	h.await(t, "as it is", func(o plan.Observed) bool { return o.Sight != plan.Absent && version(t, o.ResourceVersion) >= want })
}

func version(t *testing.T, text string) uint64 {
	t.Helper()
	v, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// sent returns what was sent about objects of the namespace since mark, by verb, as whom.
func (s *site) sent(t *testing.T, mark harness.Mark) []string {
	t.Helper()
	var all []string
	for _, r := range harness.Shared(t).RequestsSince(t, mark, harness.ByUserAgent(s.agent), harness.ByVerb("get", "patch", "create", "update", "delete")) {
		if r.Resource == "" {
			continue
		}
		who := "holdfast"
		if r.As == "system:serviceaccount:"+s.ns+":deployer" {
			who = "deployer"
		}
		all = append(all, r.Verb+" by "+who)
	}
	return all
}

const (
	oldWeb = `{apiVersion: apps/v1, kind: Deployment, metadata: {name: web, labels: {keep: x, stale: x}, annotations: {stale: x}}, spec: {replicas: 1, revisionHistoryLimit: 3,
		selector: {matchLabels: {app: web}}, template: {metadata: {labels: {app: web}}, spec: {containers: [{name: web, image: "web:1", env: [{name: A, value: a}]}]}}}}`
	newWeb = `{apiVersion: apps/v1, kind: Deployment, metadata: {name: web, labels: {keep: x}}, spec: {replicas: 1,
		selector: {matchLabels: {app: web}}, template: {metadata: {labels: {app: web}}, spec: {containers: [{name: web, image: "web:1", env: [{name: A, value: a}]}]}}}}`
)

var replicaSets = kschema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "replicasets"}

// running returns the names of the ReplicaSets and of the pods, which change with
// every restart.
func (s *site) running(t *testing.T) string {
	t.Helper()
	var names []string
	for _, r := range []kschema.GroupVersionResource{replicaSets, harness.Pods} {
		l, err := harness.Shared(t).Dynamic().Resource(r).Namespace(s.ns).List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range l.Items {
			names = append(names, o.GetName())
		}
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}

// TestTakeOver takes a running Deployment over from everybody who may hold one.
func TestTakeOver(t *testing.T) {
	const flux, argo = "kustomize-controller", "argocd-controller"
	tests := []struct {
		name, reason string
		us           string
		before       func(t *testing.T, s *site)
		requests     int // of the first pass
	}{
		{"kubectl apply", "client-side", flux, func(t *testing.T, s *site) { s.clientSide(t, "kubectl-client-side-apply", oldWeb) }, 3},
		{"kubectl apply, argo", "client-side, to the other dialect", argo, func(t *testing.T, s *site) { s.clientSide(t, "kubectl-client-side-apply", oldWeb) }, 3},
		{"kubectl apply --server-side", "an apply of another name", flux, func(t *testing.T, s *site) { s.as(t, "kubectl", oldWeb) }, 3},
		{"kubectl create, edit, replace", "several entries", flux, func(t *testing.T, s *site) {
			s.create(t, "kubectl-create", s.parse(t, newWeb))
			s.patch(t, s.parse(t, newWeb), types.MergePatchType, "kubectl-edit", `{"metadata":{"labels":{"stale":"x"}}}`)
			s.patch(t, s.parse(t, newWeb), types.MergePatchType, "kubectl-replace", `{"spec":{"revisionHistoryLimit":3},"metadata":{"annotations":{"stale":"x"}}}`)
		}, 3},
		{"Argo CD, client-side", "under our own name, but an update", argo, func(t *testing.T, s *site) { s.clientSide(t, argo, oldWeb) }, 3},
		{"Argo CD, client-side, to Flux", "the other dialect", flux, func(t *testing.T, s *site) { s.clientSide(t, "argocd-application-controller", oldWeb) }, 3},
		{"Argo CD, server-side", "under our own name: no request but the apply", argo, func(t *testing.T, s *site) { s.as(t, argo, oldWeb) }, 1},
		{"Argo CD, from client-side to server-side", "both entries, and the annotation", argo, func(t *testing.T, s *site) {
			s.clientSide(t, argo, oldWeb)
			s.as(t, argo, newWeb)
		}, 3},
		{"Flux", "under our own name", flux, func(t *testing.T, s *site) { s.as(t, flux, oldWeb) }, 1},
		{"Flux, to Argo CD", "the other dialect", argo, func(t *testing.T, s *site) { s.as(t, flux, oldWeb) }, 3},
		{"Flux of old", "updates of a toolkit controller", flux, func(t *testing.T, s *site) { s.create(t, "gotk-kustomize-controller", s.parse(t, oldWeb)) }, 3},
		{"nobody knows", "managedFields were reset; the annotation tells what was sent", flux, func(t *testing.T, s *site) {
			s.clientSide(t, "kubectl-client-side-apply", oldWeb)
			s.patch(t, s.parse(t, oldWeb), types.JSONPatchType, "someone", `[{"op":"replace","path":"/metadata/managedFields","value":[{}]}]`)
		}, 0}, // the deployment's controller may be the first to write again: any number
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newSite(t)
			shared := harness.Shared(t)
			tt.before(t, s)
			shared.Await(t, harness.Deployments, s.ns, "web", "to be ready", harness.Ready(1))
			h := s.hold(t, tt.us, newWeb)
			before := s.running(t)
			h.level(t)
			mark := shared.Mark(t)
			h.must(t, apply.Configured)
			sent := s.sent(t, mark)
			if tt.requests > 0 && len(sent) != tt.requests || slices.Contains(sent, "patch by holdfast") || slices.Contains(sent, "get by holdfast") {
				t.Errorf("%s: sent %v, want %d requests by deployer", tt.reason, sent, tt.requests)
			}
			h.taken(t)
			h.level(t)
			mark = shared.Mark(t)
			if r := h.pass(t); r.Action.Op == plan.Revert {
				t.Errorf("our own take-over looks like drift: %s", r.Action.Reason)
			}
			h.level(t)
			h.must(t, apply.Unchanged)
			if sent := s.sent(t, mark); len(sent) > 1 { // its controller may have noted its generation
				t.Errorf("after the first pass, which took it over, more was sent: %v", sent)
			}
			shared.Await(t, harness.Deployments, s.ns, "web", "to be ready", harness.Ready(1))
			if after := s.running(t); after != before {
				t.Errorf("%s: something restarted: %s, before %s", tt.reason, after, before)
			}
		})
	}
}

// taken checks that nothing stale stayed.
func (h *held) taken(t *testing.T) {
	t.Helper()
	live := h.get(t, h.o)
	if _, ok := live.GetLabels()["stale"]; ok || live.GetLabels()["keep"] != "x" {
		t.Errorf("labels are %v", live.GetLabels())
	}
	for _, a := range []string{"stale", object.LastApplied} {
		if _, ok := live.GetAnnotations()[a]; ok {
			t.Errorf("the annotation %s stayed", a)
		}
	}
	if limit, _, _ := unstructured.NestedInt64(live.Object, "spec", "revisionHistoryLimit"); limit != 10 {
		t.Errorf("spec.revisionHistoryLimit is %d, want its default", limit)
	}
	for _, m := range live.GetManagedFields() {
		if m.Subresource == "" && m.Manager != "kube-controller-manager" && (m.Manager != h.manager || m.Operation != metav1.ManagedFieldsOperationApply) {
			t.Errorf("%s still owns fields (%s)", m.Manager, m.Operation)
		}
	}
}

// TestTakeOverKeepsRestarts: an annotation by which somebody restarted pods is not
// the manifest's, whoever is noted for it.
func TestTakeOverKeepsRestarts(t *testing.T) {
	s := newSite(t)
	s.clientSide(t, "kubectl-client-side-apply", oldWeb)
	s.patch(t, s.parse(t, oldWeb), types.MergePatchType, "kubectl-edit", `{"spec":{"template":{"metadata":{"annotations":{"kubectl.kubernetes.io/restartedAt":"2024-01-01T00:00:00Z"}}}}}`)
	harness.Shared(t).Await(t, harness.Deployments, s.ns, "web", "to be ready", harness.Ready(1))
	before := s.running(t)
	h := s.hold(t, "argocd-controller", newWeb)
	h.must(t, apply.Configured)
	harness.Shared(t).Await(t, harness.Deployments, s.ns, "web", "to be ready", harness.Ready(1))
	if after := s.running(t); after != before {
		t.Errorf("it restarted: %s, before %s", after, before)
	}
	h.taken(t)
}

// TestHandBack gives an object back to whoever held it: their next apply does what
// it says, and nothing of ours is in its way.
func TestHandBack(t *testing.T) {
	const back = `{apiVersion: apps/v1, kind: Deployment, metadata: {name: web, labels: {back: x}}, spec: {replicas: 2,
		selector: {matchLabels: {app: web}}, template: {metadata: {labels: {app: web}}, spec: {containers: [{name: web, image: "web:1"}]}}}}`
	tests := []struct {
		name, us string
		apply    func(t *testing.T, s *site)
	}{
		{"to Argo CD, server-side", "argocd-controller", func(t *testing.T, s *site) { s.unforced(t, "argocd-controller", back) }},
		{"to Flux", "kustomize-controller", func(t *testing.T, s *site) { s.unforced(t, "kustomize-controller", back) }},
		{"to kubectl apply", "argocd-controller", func(t *testing.T, s *site) {
			// What client-side apply sends where there is no annotation: the whole manifest as a patch.
			patch, err := s.parse(t, back).MarshalJSON()
			if err != nil {
				t.Fatal(err)
			}
			s.patch(t, s.parse(t, back), types.StrategicMergePatchType, "kubectl-client-side-apply", string(patch))
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newSite(t)
			s.clientSide(t, "kubectl-client-side-apply", oldWeb)
			h := s.hold(t, tt.us, newWeb)
			h.must(t, apply.Configured)
			tt.apply(t, s)
			live := s.get(t, h.o)
			replicas, _, _ := unstructured.NestedInt64(live.Object, "spec", "replicas")
			if replicas != 2 || live.GetLabels()["back"] != "x" {
				t.Errorf("the peer's apply came to %d replicas and labels %v", replicas, live.GetLabels())
			}
			_, keep := live.GetLabels()["keep"]
			if clientSide := strings.Contains(tt.name, "kubectl"); keep != clientSide {
				t.Errorf("a label that its manifest does not have: there %t", keep)
			}
		})
	}
}

// unforced applies as who does not dare to take fields from others.
func (s *site) unforced(t *testing.T, manager, text string) {
	t.Helper()
	o := s.parse(t, text)
	if _, err := s.api(t, o).Apply(t.Context(), o.GetName(), o, metav1.ApplyOptions{FieldManager: manager}); err != nil {
		t.Fatal(err)
	}
}
