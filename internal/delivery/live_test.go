package delivery_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	kschema "k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"github.com/holdfastcd/holdfast/internal/cluster"
	"github.com/holdfastcd/holdfast/internal/delivery"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/health"
	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/plan"
	"github.com/holdfastcd/holdfast/internal/render"
	"github.com/holdfastcd/holdfast/internal/schema"
	"github.com/holdfastcd/holdfast/internal/secret/leak"
	"github.com/holdfastcd/holdfast/internal/source"
	"github.com/holdfastcd/holdfast/internal/substitute"
	"github.com/holdfastcd/holdfast/internal/tree"
	"github.com/holdfastcd/holdfast/internal/tree/treetest"
	"github.com/holdfastcd/holdfast/internal/worker"
	"github.com/holdfastcd/holdfast/test/harness"
)

func TestMain(m *testing.M) {
	worker.RunIfWorker(leak.Handlers())
	harness.Main(m)
}

const (
	file    = "all.yaml"
	mark    = "example.com/owner"
	waveKey = "example.com/wave"
)

var (
	configmaps = kschema.GroupVersionResource{Version: "v1", Resource: "configmaps"}
	namespaces = kschema.GroupVersionResource{Version: "v1", Resource: "namespaces"}
)

// memory is a delivery.Memory of nothing.
type memory struct{}

func (memory) Load(string) (map[object.ID]cluster.Fingerprint, error) {
	return map[object.ID]cluster.Fingerprint{}, nil
}

func (memory) Save(string, map[object.ID]cluster.Fingerprint) error { return nil }
func (memory) Delete(string) error                                  { return nil }

// renderer reads the documents of one file, and counts.
type renderer struct{ n atomic.Int64 }

// Render implements render.Renderer.
func (r *renderer) Render(_ context.Context, _ render.Request, t tree.Tree) (render.Result, error) {
	r.n.Add(1)
	text, err := t.ReadFile(file, 1<<20)
	if err != nil {
		return render.Result{}, err
	}
	entry, err := t.Stat(file)
	if err != nil {
		return render.Result{}, err
	}
	result := render.Result{Trace: tree.Trace{{Op: tree.OpFile, Path: file, Digest: entry.Digest}}}
	for i, doc := range strings.Split(string(text), "\n---\n") {
		o := object.Object{Origin: object.Origin{File: file, Line: i + 1}}
		if strings.TrimSpace(doc) == "" {
			continue
		}
		if err := yaml.Unmarshal([]byte(doc), &o.Object); err != nil {
			return result, fault.New(fault.Invalid, "not YAML").At(file, 1)
		}
		result.Objects = append(result.Objects, o)
	}
	return result, nil
}

// world is an engine on a real cluster, with a namespace to work in.
type world struct {
	t       testing.TB
	harness *harness.Cluster
	cluster *cluster.Cluster
	engine  *delivery.Engine
	render  *renderer
	events  chan delivery.ID
	ns      string
	spec    delivery.Spec
	late    atomic.Int64 // by how much the cluster's clock is ahead
}

func newWorld(t testing.TB) *world {
	t.Helper()
	return newWorldOn(t, harness.Shared(t))
}

func newWorldOn(t testing.TB, h *harness.Cluster) *world {
	t.Helper()
	w := &world{t: t, harness: h, render: &renderer{}, events: make(chan delivery.ID, 4096), ns: h.Namespace(t)}
	var err error
	w.cluster, err = cluster.Connect(h.Config(), cluster.Options{
		Owner: func(_ object.ID, labels, _ map[string]string) string {
			return strings.ReplaceAll(labels[mark], ".", "/")
		},
		Health: health.Both,
		Clock:  func() time.Time { return time.Now().Add(time.Duration(w.late.Load())) },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	t.Cleanup(func() {
		stop()
		w.cluster.Wait()
	})
	if err := w.cluster.Start(ctx); err != nil {
		t.Fatal(err)
	}
	w.engine = delivery.New(delivery.Options{
		Renderer: func(delivery.ID) render.Renderer { return w.render }, Cluster: w.cluster, Memory: memory{},
		Digest: sha256.Sum256, Clock: time.Now, Log: slog.New(slog.DiscardHandler), Alive: func(string) bool { return true },
	})
	w.listen()
	id := delivery.ID{Kind: "Thing", Namespace: "here", Name: w.ns}
	w.spec = delivery.Spec{
		ID: id, Namespace: w.ns, Prune: true, Revert: true,
		Profile: delivery.Profile{
			FieldManager: "tester", Propagation: "Background", WaveKeys: []string{waveKey},
			Marks: delivery.Marks{Labels: map[string]string{mark: strings.ReplaceAll(id.String(), "/", ".")}},
			Plan: plan.Profile{GateWaves: true, AllowEmpty: true, Stages: []plan.StageRule{
				{Name: "namespaces", Gate: true, Kinds: []kschema.GroupKind{{Kind: "Namespace"}}},
			}},
		},
	}
	return w
}

// listen has the engine's events end what the test waits for.
func (w *world) listen() {
	w.engine.OnEvent(func(id delivery.ID) {
		select {
		case w.events <- id:
		default:
		}
	})
}

// commit is a new state of the source.
func (w *world) commit(docs ...string) {
	w.spec.Revision = source.Revision{Tree: treetest.FromFiles(map[string][]byte{file: []byte(strings.Join(docs, "\n---\n"))})}
}

// pass does one pass, as the status remembers what came before.
func (w *world) pass() delivery.Report {
	w.t.Helper()
	r := w.engine.Deliver(w.t.Context(), w.spec)
	w.spec.Inventory = r.Inventory
	return r
}

// until does a pass for each event until a report is as wanted.
func (w *world) until(what string, wanted func(delivery.Report) bool) delivery.Report {
	w.t.Helper()
	// The collector of garbage looks for new kinds every 30 s, and what is deleted in the
	// foreground waits for it.
	timeout := time.After(2 * time.Minute)
	for {
		r := w.pass()
		if wanted(r) {
			return r
		}
		var retry <-chan time.Time
		if r.RetryAfter > 0 {
			retry = time.After(r.RetryAfter)
		} else if r.Err != nil && r.Err.Kind != fault.Waiting {
			retry = time.After(100 * time.Millisecond) // as a queue backs off
		}
		select {
		case <-w.events:
		case <-retry:
		case <-timeout:
			w.t.Fatalf("waited for %s in vain; the last report:\n%s", what, show(r))
		}
	}
}

func applied(r delivery.Report) bool { return r.Err == nil }

// show renders what a report says of each object, and as a whole.
func show(r delivery.Report) string {
	var b strings.Builder
	for _, o := range r.Objects {
		fmt.Fprintf(&b, "%s %s %s", o.ID.Kind, o.ID.Name, o.Outcome)
		if o.Would {
			b.WriteString(" would")
		}
		if len(o.Fields) > 0 {
			b.WriteString(" " + strings.Join(o.Fields, ","))
		}
		b.WriteString("\n")
	}
	if r.Err != nil {
		fmt.Fprintf(&b, "%s: %s\n", r.Err.Kind, r.Err)
	}
	return b.String()
}

func (w *world) want(r delivery.Report, reason, want string) {
	w.t.Helper()
	if diff := cmp.Diff(strings.NewReplacer("\t", "", "/NS/", "/"+w.ns+"/").Replace(strings.TrimLeft(want, "\n")), show(r)); diff != "" {
		w.t.Errorf("%s (-want +got):\n%s", reason, diff)
	}
}

func config(name, value string) string {
	return fmt.Sprintf("{apiVersion: v1, kind: ConfigMap, metadata: {name: %s}, data: {key: %q}}", name, value)
}

// says is what a ConfigMap of [config] says in the cluster; empty if it is not there.
func (w *world) says(name string) string {
	w.t.Helper()
	o, err := w.harness.Dynamic().Resource(configmaps).Namespace(w.ns).Get(w.t.Context(), name, metav1.GetOptions{})
	if err != nil {
		return ""
	}
	text, _, _ := unstructured.NestedString(o.Object, "data", "key")
	return text
}

func (w *world) edit(name, value string) {
	w.t.Helper()
	patch := fmt.Appendf(nil, `{"data":{"key":%q}}`, value)
	_, err := w.harness.Dynamic().Resource(configmaps).Namespace(w.ns).
		Patch(w.t.Context(), name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: "meddler"})
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) await(name, what string, c harness.Condition) {
	w.t.Helper()
	w.harness.Await(w.t, configmaps, w.ns, name, what, c)
}

func TestWavesWaitForHealth(t *testing.T) {
	w := newWorld(t)
	w.commit(
		"{apiVersion: v1, kind: ConfigMap, metadata: {name: late, annotations: {"+waveKey+": '1'}}}",
		`{apiVersion: apps/v1, kind: Deployment, metadata: {name: web}, spec: {replicas: 1, selector: {matchLabels: {a: web}},
		template: {metadata: {labels: {a: web}}, spec: {containers: [{name: web, image: "example.org/web:1"}]}}}}`,
	)
	r := w.pass()
	w.want(r, "the second wave waits for the first", `
		Deployment web created
		ConfigMap late waiting
		Waiting: all.yaml:1: ConfigMap/`+w.ns+`/late: waits for Deployment.apps/`+w.ns+`/web to be ready
	`)
	r = w.until("the second wave", applied)
	if r.Health.Status != health.Healthy {
		t.Errorf("the second wave was sent while the first was %s", r.Health.Status)
	}
	if diff := cmp.Diff([]string{"example.org/web:1"}, r.Images); diff != "" {
		t.Errorf("images (-want +got):\n%s", diff)
	}
}

func TestMassPruneWaitsForAWord(t *testing.T) {
	w := newWorld(t)
	all := make([]string, 6)
	for i := range all {
		all[i] = config(fmt.Sprintf("c%d", i), "x")
	}
	w.commit(all...)
	w.until("six objects", applied)
	w.commit(append(all[:1:1], config("new", "y"))...)
	r := w.pass()
	w.want(r, "what is not a prune goes on", `
		ConfigMap c0 unchanged
		ConfigMap new created
		ConfigMap c5 held
		ConfigMap c4 held
		ConfigMap c3 held
		ConfigMap c2 held
		ConfigMap c1 held
		Waiting: 5 objects left the source and are not deleted before somebody confirms: `+
		strings.Join([]string{"ConfigMap/NS/c1", "ConfigMap/NS/c2", "ConfigMap/NS/c3", "ConfigMap/NS/c4", "ConfigMap/NS/c5"}, "; ")+
		` (set the annotation holdfast.dev/confirm-prune: `+r.HeldDigest+`)
	`)
	if len(r.Held) != 5 || len(r.Inventory) != 7 {
		t.Errorf("held %v, inventory %v", r.Held, r.Inventory)
	}
	old := r.HeldDigest
	w.commit(config("new", "y"))
	w.spec.Confirmed = old
	if r = w.pass(); len(r.Held) != 6 || r.HeldDigest == old {
		t.Errorf("the word for five objects must not do for six: %s", show(r))
	}
	w.spec.Confirmed = r.HeldDigest
	r = w.until("the prune that was confirmed", func(r delivery.Report) bool { return len(r.Inventory) == 1 })
	if r.Err != nil {
		t.Error(r.Err)
	}
}

func TestProtectedKindWaitsForAWord(t *testing.T) {
	w := newWorld(t)
	claim := "{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: data}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}"
	w.commit(claim, config("a", "x"))
	w.until("both", applied)
	w.commit(config("a", "x"))
	r := w.pass()
	if len(r.Held) != 1 || r.Held[0].Kind != "PersistentVolumeClaim" {
		t.Fatalf("data must not go without a word:\n%s", show(r))
	}
	report, done := w.engine.Retract(t.Context(), w.spec)
	for !done {
		select {
		case <-w.events:
		case <-time.After(30 * time.Second):
			t.Fatalf("deleting the delivery itself is a word:\n%s", show(report))
		}
		w.spec.Inventory = report.Inventory
		report, done = w.engine.Retract(t.Context(), w.spec)
	}
}

func TestObserveWritesNothing(t *testing.T) {
	w := newWorld(t)
	w.spec.Observe = true
	for name, value := range map[string]string{"same": "x", "other": "live"} {
		o := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(config(name, value)), &o.Object); err != nil {
			t.Fatal(err)
		}
		o.SetLabels(w.spec.Profile.Marks.Labels)
		if _, err := w.harness.Dynamic().Resource(configmaps).Namespace(w.ns).Create(t.Context(), o, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	w.commit(config("same", "x"), config("other", "git"), config("missing", "x"))
	const want = `
		ConfigMap missing created would
		ConfigMap other configured would data.key
		ConfigMap same unchanged
	`
	r := w.pass()
	w.want(r, "what a pass would do", want)
	if !r.Observed || len(r.Inventory) != 0 || r.Objects[0].Synced() || len(r.Changed()) != 0 {
		t.Errorf("nothing was done: %+v", r)
	}
	before := w.cluster.Requests()
	w.want(w.pass(), "the same again", want)
	if diff := cmp.Diff(before, w.cluster.Requests()); diff != "" {
		t.Errorf("nothing moved, so nothing is asked (-before +after):\n%s", diff)
	}
	if before["apply"] != 0 || before["delete"] != 0 {
		t.Errorf("requests: %v", before)
	}
	w.edit("same", "drift")
	w.until("the drift to be seen", func(r delivery.Report) bool {
		return strings.Contains(show(r), "ConfigMap same configured would data.key")
	})
}

func TestNamespaceDeletedByHandComesBackWithEverythingInIt(t *testing.T) {
	w := newWorld(t)
	ns := w.ns + "-inner"
	w.spec.Namespace = ns
	w.commit("{apiVersion: v1, kind: Namespace, metadata: {name: "+ns+"}}", config("a", "x"), config("b", "x"))
	w.until("the first delivery", applied)
	uid := w.harness.Await(t, namespaces, "", ns, "to be there", harness.Exists).GetUID()
	if err := w.harness.Dynamic().Resource(namespaces).Delete(t.Context(), ns, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	w.until("everything to be back", func(r delivery.Report) bool {
		record, ok := w.cluster.Look(kindOf(t, w, "Namespace"), object.ID{Kind: "Namespace", Name: ns})
		return ok && record.UID != uid && !record.Deleting && r.Err == nil
	})
	w.harness.Await(t, configmaps, ns, "b", "to be back", harness.Exists)
	w.spec.Confirmed = ""
	if _, done := w.engine.Retract(t.Context(), w.spec); done {
		t.Error("a namespace takes its time to go")
	}
}

func kindOf(t *testing.T, w *world, kind string) schema.Kind {
	t.Helper()
	k, ok := w.cluster.LookupGroupKind(kschema.GroupKind{Kind: kind})
	if !ok {
		t.Fatalf("the cluster does not serve %s", kind)
	}
	return k
}

func TestFightIsNamed(t *testing.T) {
	w := newWorld(t)
	w.commit(config("a", "git"))
	w.until("the delivery", applied)
	contested := func(r delivery.Report) bool { return r.Objects[0].Contested }
	for range 4 {
		w.edit("a", "theirs")
		r := w.until("the edit to be seen", func(r delivery.Report) bool { return r.Objects[0].Outcome == delivery.Reverted || contested(r) })
		if !contested(r) {
			continue
		}
		o := r.Objects[0]
		if o.By != "meddler" || !cmp.Equal(o.Fields, []string{"data.key"}) || r.RetryAfter == 0 || !strings.Contains(o.Message, "meddler") {
			t.Errorf("the fight is not named: %+v", o)
		}
		return
	}
	t.Error("nobody backed off")
}

func TestBadSourceIsRenderedOnce(t *testing.T) {
	w := newWorld(t)
	w.commit("{apiVersion: v1")
	for range 3 {
		if r := w.pass(); r.Err == nil || r.Err.Kind != fault.Invalid || r.Err.File != file {
			t.Fatalf("got %v", r.Err)
		}
	}
	if n := w.render.n.Load(); n != 1 {
		t.Errorf("it was rendered %d times", n)
	}
	w.commit(config("a", "${who}"))
	w.spec.Substitute = &substitute.Variables{Strict: true, Variables: map[string]string{"other": "x"}}
	for range 2 {
		if r := w.pass(); r.Err == nil || !strings.Contains(r.Err.Error(), "all.yaml:1: ConfigMap/a: the variable who is not set") {
			t.Fatalf("got %v", r.Err)
		}
	}
	if n := w.render.n.Load(); n != 2 {
		t.Errorf("it was rendered %d times", n)
	}
	w.spec.Substitute.Variables["who"] = "me"
	w.until("the delivery", applied)
	w.await("a", "to have the value", func(o *unstructured.Unstructured) bool {
		v, _, _ := unstructured.NestedString(o.Object, "data", "key")
		return v == "me"
	})
	if r := w.pass(); r.Objects[0].Outcome != delivery.Unchanged {
		t.Error(show(r))
	}
}

// TestUnknownKindIsAskedForAgain: no event tells of a kind that an aggregated API
// begins to serve.
func TestUnknownKindIsAskedForAgain(t *testing.T) {
	w := newWorld(t)
	w.commit("apiVersion: unheard.example.com/v1\nkind: Thing\nmetadata: {name: a}")
	for _, step := range []struct {
		reason string
		later  time.Duration
		asks   bool
	}{
		{"the cluster was asked when it was connected to", 0, false},
		{"it may serve more by now", time.Minute, true},
		{"nobody asks twice in a moment", time.Second, false},
	} {
		w.late.Add(int64(step.later))
		before := w.cluster.Requests()["get"]
		r := w.pass()
		if r.Err == nil || r.Err.Kind != fault.NotFound || !strings.Contains(r.Err.Error(), "Thing") {
			t.Errorf("%s: got %v", step.reason, r.Err)
		}
		if asked := w.cluster.Requests()["get"] > before; asked != step.asks {
			t.Errorf("%s: asked %v", step.reason, asked)
		}
	}
}

func TestMarkedObjectsArePruned(t *testing.T) {
	w := newWorld(t)
	w.spec.Profile.PruneMarked = true
	create := func(name string) {
		t.Helper()
		o := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(config(name, "x")), &o.Object); err != nil {
			t.Fatal(err)
		}
		o.SetLabels(w.spec.Profile.Marks.Labels)
		if _, err := w.harness.Dynamic().Resource(configmaps).Namespace(w.ns).Create(t.Context(), o, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	create("before")
	w.commit(config("a", "x"))
	if r := w.pass(); !strings.Contains(show(r), "ConfigMap before pruned") {
		t.Errorf("it carries our mark:\n%s", show(r))
	}
	create("after")
	w.until("the other to be pruned", func(r delivery.Report) bool { return strings.Contains(show(r), "ConfigMap after pruned") })
}

func TestOnlySomeObjects(t *testing.T) {
	w := newWorld(t)
	w.commit(config("a", "1"), config("b", "1"))
	w.until("both", applied)
	w.commit(config("a", "2"), config("c", "2"))
	w.spec.Only = []object.ID{{Kind: "ConfigMap", Namespace: w.ns, Name: "a"}}
	r := w.pass()
	w.want(r, "what is not asked for stays as it is", `
		ConfigMap a configured
		ConfigMap c left
		ConfigMap b left
	`)
	if len(r.Inventory) != 2 {
		t.Errorf("what was not created is not held: %v", r.Inventory)
	}
}

func TestTreatment(t *testing.T) {
	w := newWorld(t)
	w.spec.Profile.Treat = func(o *unstructured.Unstructured) plan.Treatment {
		switch o.GetName() {
		case "alone":
			return plan.Treatment{Skip: "it asks to be left alone"}
		case "once":
			return plan.Treatment{IfNotPresent: true}
		}
		return plan.Treatment{}
	}
	w.commit(config("alone", "x"), config("once", "x"))
	w.want(w.pass(), "one is left alone, the other created", `
		ConfigMap alone exempt
		ConfigMap once created
	`)
	w.edit("once", "theirs")
	w.commit(config("alone", "y"), config("once", "y"))
	r := w.until("the edit to be seen", func(delivery.Report) bool { return true })
	w.want(r, "what exists is left as it is", `
		ConfigMap alone exempt
		ConfigMap once unchanged
	`)
	if len(r.Inventory) != 1 {
		t.Errorf("inventory: %v", r.Inventory)
	}
}

// What nobody asks the health of is watched by its metadata; whoever asks later
// gets it.
func TestHealthOnDemand(t *testing.T) {
	w := newWorld(t)
	w.commit("{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {type: LoadBalancer, ports: [{port: 80}]}}")
	w.spec.Profile.NoHealth = true
	if r := w.until("the delivery", applied); r.Objects[0].Health != nil {
		t.Errorf("nobody asked: %+v", r.Objects[0].Health)
	}
	w.spec.Profile.NoHealth = false
	if r := w.pass(); r.Objects[0].Health == nil || r.Objects[0].Health.Status != health.Progressing {
		t.Errorf("Argo CD waits for an address: %+v", r.Objects[0].Health)
	}
	w.spec.Profile.Health = health.Options{Kstatus: true}
	if r := w.pass(); r.Objects[0].Health == nil || r.Objects[0].Health.Status != health.Healthy {
		t.Errorf("Flux does not: %+v", r.Objects[0].Health)
	}
}

// A pass answers every event, and mostly finds nothing to do.
func BenchmarkPassWithNothingToDo(b *testing.B) {
	w := newWorld(b)
	docs := make([]string, 10)
	for i := range docs {
		docs[i] = config(fmt.Sprintf("c%d", i), "x")
	}
	w.commit(docs...)
	w.until("the first delivery", applied)
	before := w.cluster.Requests()
	b.ReportAllocs()
	for b.Loop() {
		w.pass()
	}
	if diff := cmp.Diff(before, w.cluster.Requests()); diff != "" {
		b.Errorf("requests were sent (-before +after):\n%s", diff)
	}
}
