package delivery_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	kschema "k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/holdfastcd/holdfast/internal/audit"
	"github.com/holdfastcd/holdfast/internal/delivery"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/render"
	"github.com/holdfastcd/holdfast/internal/source"
	"github.com/holdfastcd/holdfast/internal/trust"
	"github.com/holdfastcd/holdfast/test/harness"
)

const (
	repository = "https://git.example.com/team/repo"
	first      = "1111111111111111111111111111111111111111"
	second     = "2222222222222222222222222222222222222222"
	third      = "3333333333333333333333333333333333333333"
)

var deployments = kschema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"}

// ledger is an audit log in memory.
type ledger struct {
	mu      sync.Mutex
	entries []audit.Entry
	records []*audit.Record
	last    map[string]audit.Delivered
	broken  error
	unread  error             // why nobody can tell what was delivered last
	before  func(audit.Entry) // what an intent waits for
}

// Append implements delivery.Audit.
func (l *ledger) Append(_ context.Context, e audit.Entry, r *audit.Record) (uint64, error) {
	if l.broken != nil {
		return 0, l.broken
	}
	if l.before != nil {
		l.before(e)
	}
	return l.add(e, r), nil
}

// Later implements delivery.Audit.
func (l *ledger) Later(e audit.Entry, r *audit.Record) { l.add(e, r) }

// Untouched implements delivery.Audit.
func (l *ledger) Untouched(src audit.Source, who []audit.Person, id string) {
	l.add(audit.Entry{Action: audit.Untouched, Source: &src, Who: who, Deliveries: []string{id}}, nil)
}

// Last implements delivery.Audit.
func (l *ledger) Last(id string) (audit.Delivered, bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	d, ok := l.last[id]
	return d, ok && l.unread == nil, l.unread
}

func (l *ledger) add(e audit.Entry, r *audit.Record) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.entries, l.records = append(l.entries, e), append(l.records, r)
	index := uint64(len(l.entries) - 1)
	if l.last == nil {
		l.last = map[string]audit.Delivered{}
	}
	switch {
	case e.Action == audit.Outcome && e.Result == "delivered":
		d := audit.Delivered{Index: index, Source: *e.Source, Pins: map[string]string{}}
		for _, image := range l.records[*e.Of].Images {
			d.Pins[image.Name] = image.Digest
		}
		l.last[e.Delivery] = d
	case e.Action == audit.Untouched:
		d := l.last[e.Deliveries[0]]
		d.Index, d.Source = index, *e.Source
		l.last[e.Deliveries[0]] = d
	}
	return index
}

// told lists the entries since the last call: action, and what came of it.
func (l *ledger) told() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var list []string
	for _, e := range l.entries {
		list = append(list, strings.TrimSpace(string(e.Action)+" "+e.Result))
	}
	l.entries, l.records = nil, nil
	return list
}

// gate is a verifier that knows what is signed.
type gate struct {
	evidence map[string]trust.Evidence // by commit
	refused  map[string]error
	asked    []string // commit, and since which
}

// Verify implements delivery.Commits.
func (g *gate) Verify(_ context.Context, r source.Revision, d trust.Demands, last string) (trust.Verified, error) {
	g.asked = append(g.asked, r.Commit[:1]+" since "+last[:min(len(last), 1)])
	if err := g.refused[r.Commit]; err != nil {
		return trust.Verified{}, err
	}
	return trust.Vouch(r, g.evidence[r.Commit], d), nil
}

func (g *gate) told() []string {
	asked := g.asked
	g.asked = nil
	return asked
}

// registry is an examiner of images whose tags move.
type registry struct {
	digests map[string]string // by name
	asked   int
}

// Examine implements delivery.Images.
func (r *registry) Examine(_ context.Context, names []string, _ trust.Demands, pins map[string]string) ([]trust.Image, error) {
	r.asked++
	var images []trust.Image
	for _, name := range names {
		digest := pins[name]
		if digest == "" {
			digest = r.digests[name]
		}
		if digest == "" {
			return nil, fault.New(fault.Unreachable, "the registry of %s does not answer", name)
		}
		images = append(images, trust.Image{Name: name, Digest: digest, Pinned: name + "@" + digest})
	}
	return images, nil
}

// trusted is a world whose deliveries are verified and recorded.
type trusted struct {
	*world

	log      *ledger
	gate     *gate
	registry *registry
	editors  delivery.Editors
	lines    lines // of the process's log
}

// lines are what a log says, one for each message, without the time.
type lines struct {
	mu   sync.Mutex
	list []string
}

// Write implements io.Writer, for a handler that writes a line at a time.
func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, line, _ := strings.Cut(strings.TrimSpace(string(b)), " level=")
	l.list = append(l.list, line)
	return len(b), nil
}

// take returns what was said since it was last asked.
func (l *lines) take() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	list := l.list
	l.list = nil
	return list
}

func newTrusted(t *testing.T) *trusted {
	t.Helper()
	w := &trusted{world: newWorld(t), log: &ledger{}, gate: &gate{refused: map[string]error{}}, registry: &registry{digests: map[string]string{}}}
	w.start()
	w.spec.UID = "u-1"
	return w
}

// start begins with an engine that remembers nothing but what the log says.
func (w *trusted) start() {
	w.engine = delivery.New(delivery.Options{
		Renderer: func(delivery.ID) render.Renderer { return w.render }, Cluster: w.cluster, Memory: memory{},
		Digest: func(b []byte) [32]byte { return sha256.Sum256(append([]byte("key"), b...)) },
		Clock:  time.Now, Log: slog.New(slog.NewTextHandler(&w.lines, nil)), Alive: func(string) bool { return true },
		Commits: w.gate, Images: w.registry, Audit: w.log, Editors: w.editors,
	})
	w.listen()
}

// push is a commit with an id.
func (w *trusted) push(id string, docs ...string) {
	w.commit(docs...)
	w.spec.Revision.Commit, w.spec.Revision.Branch, w.spec.Revision.URL = id, "main", repository
	w.spec.Revision.Author = "Ann <ann@example.com>"
}

func same[T any](t *testing.T, reason string, want, got T) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", reason, diff)
	}
}

// value is the condition that a ConfigMap of [config] has a value.
func value(want string) harness.Condition {
	return func(u *unstructured.Unstructured) bool {
		got, _, _ := unstructured.NestedString(u.Object, "data", "key")
		return got == want
	}
}

func secret(name, value string) string {
	return "apiVersion: v1\nkind: Secret\nmetadata: {name: " + name + "}\nstringData: {password: " + value + "}"
}

// TestNothingIsWrittenBeforeItIsRecorded looks at the cluster when an intent is being
// made durable, and has the log fail.
func TestNothingIsWrittenBeforeItIsRecorded(t *testing.T) {
	w := newTrusted(t)
	w.push(first, config("a", "1"), secret("s", "hunter2"))
	w.log.broken = errors.New("no space left on device")
	r := w.pass()
	if r.Err == nil || !strings.Contains(r.Err.Error(), "audit log cannot be written") || r.Err.Kind.Terminal() {
		t.Errorf("a log that fails: got %v, want an error that says so and is tried again", r.Err)
	}
	w.absent("a", "what cannot be recorded is not applied")

	w.log.broken = nil
	w.log.before = func(audit.Entry) { w.absent("a", "the intent comes before the first write") }
	w.until("delivery", applied)
	w.log.before = nil
	intent, record := w.log.entries[0], w.log.records[0]
	same(t, "an intent, and what came of it", []audit.Action{audit.Sync, audit.Outcome}, actions(w.log))
	same(t, "what was delivered", "delivered", w.log.entries[1].Result)
	same(t, "from where", audit.Source{URL: repository, Ref: "main", Commit: first, Tree: intent.Source.Tree}, *intent.Source)
	same(t, "by whom: a claim", []audit.Person{{Role: "author", Name: "Ann <ann@example.com>"}}, intent.Who)
	same(t, "counted", map[string]int{"create": 2}, intent.Counts)
	for _, c := range record.Objects {
		keyed := strings.HasPrefix(c.After, "hmac-sha256:")
		if keyed != strings.Contains(c.Object, "Secret") || c.Before != "" || c.File != file || c.Line == 0 {
			t.Errorf("a digest of a Secret is keyed, others can be checked: %+v", c)
		}
	}
	if digest := record.Render.Inputs[file]; !strings.HasPrefix(digest, "hmac-sha256:") {
		t.Errorf("by the digest of a file that holds a Secret, its value could be guessed: %q", digest)
	}
	w.log.told()
	w.pass()
	same(t, "a pass with nothing to do records nothing", nil, w.log.told())
}

func actions(l *ledger) []audit.Action {
	var list []audit.Action
	for _, e := range l.entries {
		list = append(list, e.Action)
	}
	return list
}

func (w *trusted) absent(name, reason string) {
	w.t.Helper()
	_, err := w.harness.Dynamic().Resource(configmaps).Namespace(w.ns).Get(context.Background(), name, metav1.GetOptions{})
	if err == nil {
		w.t.Errorf("%s: ConfigMap %s is there", reason, name)
	}
}

// TestWhatIsRecorded walks a delivery through what can happen to it.
func TestWhatIsRecorded(t *testing.T) {
	w := newTrusted(t)
	w.push(first, config("a", "1"), config("b", "1"))
	w.until("delivery", applied)
	after := w.log.records[0].Objects[0].After
	if digest := w.log.records[0].Render.Inputs[file]; digest == "" || strings.HasPrefix(digest, "hmac") {
		t.Errorf("without Secrets, files can be compared with Git's: %q", digest)
	}
	same(t, "the first sync", []string{"sync", "outcome delivered"}, w.log.told())

	w.push(second, config("a", "1"), config("b", "1"))
	w.pass()
	same(t, "a commit that touches nothing is noted, once", []string{"untouched"}, w.log.told())
	w.pass()
	same(t, "a commit that touches nothing is noted, once", nil, w.log.told())

	w.push(third, config("a", "2"))
	w.until("prune", applied)
	changes := map[string]audit.Change{}
	for _, c := range w.log.records[0].Objects {
		changes[c.Operation] = c
	}
	same(t, "what it was before is what it became then", after, changes["update"].Before)
	if changes["prune"].After != "" || changes["prune"].Before == "" {
		t.Errorf("what is pruned was there, and is gone: %+v", changes["prune"])
	}
	same(t, "an update and a prune", []string{"sync", "outcome delivered"}, w.log.told())

	w.edit("a", "9")
	w.until("revert", func(r delivery.Report) bool { return len(r.Changed()) == 1 })
	same(t, "drift that is undone", []string{"drift", "revert", "outcome delivered"}, w.log.told())

	w.push(first, "kind: {")
	for range 3 {
		w.pass()
	}
	same(t, "what cannot be delivered is noted once", []string{"refuse"}, w.log.told())

	_, done := w.engine.Retract(t.Context(), w.spec)
	for !done {
		<-w.events
		_, done = w.engine.Retract(t.Context(), w.spec)
	}
	if told := w.log.told(); !slices.Contains(told, "retract") {
		t.Errorf("the end of a delivery: got %v", told)
	}
}

// signed are demands that a policy with a name makes of commits.
func signed(names ...string) trust.Demands {
	policies := make([]trust.Policy, 0, len(names))
	for _, name := range names {
		name, audited := strings.CutSuffix(name, "?")
		policies = append(policies, trust.Policy{Name: name, Audit: audited, Commits: &trust.Commits{Range: true}})
	}
	return trust.NewDemands(policies...)
}

// TestOnlyWhatIsProvenIsDelivered has commits refused, and asks what is verified when.
func TestOnlyWhatIsProvenIsDelivered(t *testing.T) {
	w := newTrusted(t)
	w.push(first, config("a", "1"))
	w.until("delivery", applied)
	same(t, "without demands, only a rewind is looked for", []string{"1 since "}, w.gate.told())
	w.log.told()

	w.spec.Trust = signed("prod")
	w.pass()
	same(t, "what was delivered before the policy proves nothing to it", []string{"1 since 1"}, w.gate.told())
	same(t, "it is proven now, and that is noted", []string{"untouched"}, w.log.told())

	w.push(second, config("a", "2"))
	w.gate.refused[second] = fault.New(fault.Refused, "TrustPolicy prod: commit 2222222 is not signed")
	for range 3 {
		r := w.pass()
		if r.Err == nil || !r.Untrusted || r.Err.Kind != fault.Refused {
			t.Fatalf("an unsigned commit: got %v", r.Err)
		}
	}
	same(t, "since the last one that was proven, and not again", []string{"2 since 1"}, w.gate.told())
	same(t, "recorded once", []string{"refuse"}, w.log.told())
	w.await("a", "the last good state", value("1"))

	w.spec.Trust = signed("prod", "strict")
	w.pass()
	same(t, "other demands are judged anew", []string{"2 since 1"}, w.gate.told())
	w.spec.Trust = signed("held?", "prod?")
	delete(w.gate.refused, second)
	w.gate.evidence = map[string]trust.Evidence{second: {Unproven: []string{"commit 2222222 is not signed"}, UnprovenTo: []string{"prod"}, Rewound: true}}
	var judged [][]string
	w.engine.Judged = func(_ delivery.ID, refusing, unproven []string) { judged = append(judged, refusing, unproven) }
	r := w.until("delivery", applied)
	same(t, "the policy that audits would refuse it, told once", [][]string{nil, {"prod"}}, judged)
	same(t, "a policy that audits tells", []string{"commit 2222222 is not signed"}, r.Unproven)
	recorded := map[string]string{}
	for _, e := range w.log.entries {
		for _, v := range e.Verdicts {
			recorded[v.Rule] = v.Outcome
		}
	}
	same(t, "of two that audit, each is recorded by itself", map[string]string{"trust/held/commits": "pass", "trust/prod/commits": "audit"}, recorded)
	var reasons []string
	for _, a := range r.Alerts {
		reasons = append(reasons, a.Reason)
	}
	same(t, "once", []string{delivery.AlertRewound, delivery.AlertUnproven}, reasons)
	same(t, "once", 0, len(w.pass().Alerts))
	if told := w.log.told(); !slices.Contains(told, "rewind") {
		t.Errorf("a rewind is recorded: got %v", told)
	}

	w.gate.told()
	w.start()
	w.spec.Trust = signed("prod")
	w.pass()
	same(t, "after a restart too, what only was audited is no base", []string{"2 since 2"}, w.gate.told())
}

// TestWhatWasAuditedProvesNothing delivers an unsigned commit, and others on top of it
// under a policy that only audits.
func TestWhatWasAuditedProvesNothing(t *testing.T) {
	w := newTrusted(t)
	verified := func() string { return w.log.last[w.spec.ID.String()].Source.Verified }
	w.push(first, config("a", "1"))
	w.until("delivery", applied)

	w.spec.Trust = signed("prod?")
	w.pass()
	same(t, "nothing is judged since what was delivered, and so nothing is proven", "", verified())
	w.push(second, config("a", "2"))
	w.until("delivery", applied)
	same(t, "nor by a signed commit on top of it", "", verified())

	w.spec.Trust = trust.NewDemands(trust.Policy{Name: "head", Audit: true, Commits: &trust.Commits{}})
	w.pass()
	same(t, "a policy about the newest commit asks for no more", "head", verified())
	w.spec.Trust = signed("prod")
	w.pass()
	w.push(third, config("a", "3"))
	w.spec.Trust = signed("prod?")
	w.until("delivery", applied)
	same(t, "what was proven while it was enforced goes on", "prod", verified())
}

// TestUnknownPastIsRefused has the log not tell what was delivered last.
func TestUnknownPastIsRefused(t *testing.T) {
	w := newTrusted(t)
	w.push(first, config("a", "1"))
	w.until("delivery", applied)
	w.start()
	w.log.unread = fault.New(fault.Invalid, "entry 0 is not the one that was written")
	w.push(second, config("a", "2"))
	w.spec.Trust = signed("prod")
	r := w.pass()
	if r.Err == nil || !r.Untrusted || r.Err.Kind.Terminal() || !strings.Contains(r.Err.Error(), "entry 0") {
		t.Errorf("a past that nobody knows may hide a rewind: got %v", r.Err)
	}
	w.await("a", "the last good state", value("1"))
	w.log.unread = nil
	w.until("delivery", applied)
	w.await("a", "as soon as it can be told again", value("2"))
}

// TestProofIsOfTheRef asks for a commit by its id, and then by a branch.
func TestProofIsOfTheRef(t *testing.T) {
	w := newTrusted(t)
	w.spec.Trust = signed("prod")
	w.push(first, config("a", "1"))
	w.spec.Revision.Branch = ""
	w.spec.Observe = true
	w.pass()
	w.gate.told()
	w.spec.Revision.Branch = "main"
	w.pass()
	same(t, "who names a commit may go back, and a branch may not: it is judged by itself", []string{"1 since "}, w.gate.told())
	w.spec.Revision.Branch = ""
	w.pass()
	same(t, "what a branch has proven stands for the commit", nil, w.gate.told())
}

func workload(name, image string) string {
	return `apiVersion: apps/v1
kind: Deployment
metadata: {name: ` + name + `}
spec:
  replicas: 0
  selector: {matchLabels: {app: ` + name + `}}
  template:
    metadata: {labels: {app: ` + name + `}}
    spec: {containers: [{name: c, image: "` + image + `"}]}`
}

// image is what a live Deployment runs.
func (w *trusted) image(name string) string {
	w.t.Helper()
	u, err := w.harness.Dynamic().Resource(deployments).Namespace(w.ns).Get(w.t.Context(), name, metav1.GetOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	var images []string
	spec, _ := u.Object["spec"].(map[string]any)
	template, _ := spec["template"].(map[string]any)
	pod, _ := template["spec"].(map[string]any)
	containers, _ := pod["containers"].([]any)
	for _, c := range containers {
		m, _ := c.(map[string]any)
		image, _ := m["image"].(string)
		images = append(images, image)
	}
	return strings.Join(images, " ")
}

// TestImagesArePinned has a tag move under a delivery.
func TestImagesArePinned(t *testing.T) {
	const name = "registry.example.com/shop:v1"
	one, two := "sha256:"+strings.Repeat("1", 64), "sha256:"+strings.Repeat("2", 64)
	w := newTrusted(t)
	w.push(first, workload("shop", name))
	w.until("delivery", applied)
	same(t, "no policy asks about images: no registry is asked", 0, w.registry.asked)
	same(t, "nothing is pinned", name, w.image("shop"))

	w.registry.digests[name] = one
	w.spec.Trust = trust.NewDemands(trust.Policy{Name: "images", Images: &trust.Images{Allowed: []string{"registry.example.com/**"}}})
	w.until("delivery", applied)
	same(t, "pinned where it is applied", name+"@"+one, w.image("shop"))
	same(t, "the record names it", one, w.log.records[len(w.log.records)-2].Images[0].Digest)
	same(t, "of the object too", []string{name + "@" + one}, w.log.records[len(w.log.records)-2].Objects[0].Images)

	w.registry.digests[name] = two
	asked := w.registry.asked
	w.pass()
	same(t, "a pass with nothing to do asks no registry", asked, w.registry.asked)
	w.start()
	w.until("delivery", applied)
	same(t, "after a restart it stays, though the tag has moved", name+"@"+one, w.image("shop"))

	w.push(second, workload("shop", name), config("a", "1"))
	w.until("delivery", applied)
	same(t, "with a commit, the tag is looked at again", name+"@"+two, w.image("shop"))

	w.push(third, workload("shop", name), workload("other", "elsewhere.example.com/x:1"), config("a", "2"))
	w.registry.digests["elsewhere.example.com/x:1"] = one
	w.log.told()
	r := w.pass()
	if r.Err == nil || !r.Untrusted || !strings.Contains(r.Err.Error(), "elsewhere.example.com/x") {
		t.Fatalf("an image from elsewhere: got %v", r.Err)
	}
	same(t, "one refusal refuses all", []string{"refuse"}, w.log.told())
	w.await("a", "the last good state", value("1"))

	w.spec.Trust.Policies[0].Audit = true
	w.spec.Trust = trust.NewDemands(w.spec.Trust.Policies...)
	r = w.until("delivery", applied)
	if len(r.Unproven) != 1 || len(r.Alerts) > 1 {
		t.Errorf("a policy that audits tells, and delivers: %+v", r)
	}
}

// TestDigestsCanBeChecked computes one from what is applied.
func TestDigestsCanBeChecked(t *testing.T) {
	w := newTrusted(t)
	w.push(first, config("a", "1"))
	w.until("delivery", applied)
	label := strings.ReplaceAll(w.spec.ID.String(), "/", ".")
	body := `{"apiVersion":"v1","data":{"key":"1"},"kind":"ConfigMap","metadata":{"labels":{"` + mark + `":"` + label + `"},"name":"a","namespace":"` + w.ns + `"}}`
	sum := sha256.Sum256([]byte(body))
	same(t, "sha256 of the JSON as applied", "sha256:"+hex.EncodeToString(sum[:]), w.log.records[0].Objects[0].After)
	same(t, "named by group, version, kind, namespace and name", "/v1/ConfigMap/"+w.ns+"/a", w.log.records[0].Objects[0].Object)
}
