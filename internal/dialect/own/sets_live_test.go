package own

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/yaml"

	api "github.com/holdfastcd/holdfast/api/holdfast/v1alpha1"
	"github.com/holdfastcd/holdfast/internal/audit"
	"github.com/holdfastcd/holdfast/internal/delivery"
	"github.com/holdfastcd/holdfast/internal/dialect"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/policy"
	"github.com/holdfastcd/holdfast/internal/source"
	"github.com/holdfastcd/holdfast/internal/tree/treetest"
	"github.com/holdfastcd/holdfast/internal/trust"
	"github.com/holdfastcd/holdfast/test/harness"
)

var policySets = api.GroupVersion.WithResource("policysets")

// compiles is a jury that knows one thing: a policy with the word broken does not compile.
type compiles struct{}

// Judge implements delivery.Policies.
func (compiles) Judge(_ context.Context, sets []policy.Set, c *policy.Case, now time.Time) ([]policy.Decision, error) {
	all := make([]policy.Decision, len(sets))
	for i, s := range sets {
		var flaws []policy.Flaw
		for _, d := range s.Documents {
			if strings.Contains(string(d.Content), "broken") {
				flaws = append(flaws, policy.Flaw{File: d.File, Line: 1, Message: "it does not compile"})
			}
		}
		all[i] = s.Decide(c, policy.Findings{}, flaws, now)
	}
	return all, nil
}

// offered is what a GitRepository offers.
type offered struct {
	mu       sync.Mutex
	revision source.Revision
	err      error
	unproven error
}

func (o *offered) set(commit, content string, err, unproven error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.revision = source.Revision{Commit: commit, Tree: treetest.FromFiles(map[string][]byte{"p/a.rego": []byte(content)})}
	o.err, o.unproven = err, unproven
}

func (o *offered) repository(context.Context, types.NamespacedName) (source.Revision, string, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.revision, "https://git.example.com/policies", o.err
}

func (o *offered) verify(_ context.Context, _ source.Revision, s trust.Subject, _ string) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if s.Kind != api.PolicySetKind || s.Repository == "" {
		return fault.New(fault.Internal, "it is not verified as what it is: %v", s)
	}
	return o.unproven
}

// setRig is PolicySets on a real API server.
type setRig struct {
	*rig

	sets    *PolicySets
	offered offered
	changed chan struct{}
	entries chan audit.Entry
}

func newSetRig(t *testing.T) *setRig {
	t.Helper()
	r := &setRig{rig: newRig(t), changed: make(chan struct{}, 1000), entries: make(chan audit.Entry, 1000)}
	mgr, err := ctrl.NewManager(r.cluster.Config(), ctrl.Options{Scheme: runtime.NewScheme(), Metrics: server.Options{BindAddress: "0"}})
	if err != nil {
		t.Fatal(err)
	}
	env := &dialect.Env{Client: mgr.GetClient(), Clock: time.Now, Log: slog.New(slog.NewTextHandler(t.Output(), nil))}
	r.sets, err = SetupPolicySets(mgr, env, SetOptions{
		Options:  Options{Changed: func() { r.changed <- struct{}{} }, Record: func(e audit.Entry) { r.entries <- e }},
		Policies: compiles{}, Repository: r.offered.repository, Verify: r.offered.verify,
		Served: r.resource,
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *setRig) run(t *testing.T) {
	t.Helper()
	if _, err := r.sets.Sets(r.subject()); fault.KindOf(err) != fault.Waiting {
		t.Errorf("before the sets are known, everything waits; got %v", err)
	}
	ctx, stop := context.WithCancel(context.Background())
	t.Cleanup(stop)
	if err := r.sets.Start(ctx); err != nil {
		t.Fatal(err)
	}
}

func (r *setRig) subject() trust.Subject {
	return trust.Subject{Kind: "Kustomization", Namespace: r.ns, Name: "app"}
}

// write makes or changes a set that is for the namespace of the test.
func (r *setRig) write(t *testing.T, name, spec string) {
	t.Helper()
	u := blank(api.PolicySetKind, name)
	var m map[string]any
	if err := yaml.Unmarshal([]byte(spec), &m); err != nil {
		t.Fatal(err)
	}
	m["select"] = map[string]any{"namespaces": []any{r.ns}}
	u.Object["spec"] = m
	if _, err := r.cluster.Dynamic().Resource(policySets).Apply(t.Context(), name, u, metav1.ApplyOptions{FieldManager: "ann", Force: true}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = r.cluster.Dynamic().Resource(policySets).Delete(context.Background(), name, metav1.DeleteOptions{})
	})
}

func (r *setRig) awaitSet(t *testing.T, name, aim string, wanted func(*unstructured.Unstructured) bool) {
	t.Helper()
	r.cluster.Await(t, policySets, "", name, aim, wanted)
}

// judgedBy waits until a delivery is judged by what is wanted.
func (r *setRig) judgedBy(t *testing.T, aim string, wanted func([]policy.Set) bool, more ...func() string) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	for {
		got, err := r.sets.Sets(r.subject())
		if err == nil && wanted(got.List) {
			return
		}
		select {
		case <-r.changed:
		case <-deadline:
			if len(more) > 0 {
				t.Fatalf("the delivery was not %s: %s", aim, more[0]())
			}
			t.Fatalf("the delivery was not %s: %v, %v", aim, got.List, err)
		}
	}
}

func is(kind, status, reason, text string) harness.Condition {
	return func(o *unstructured.Unstructured) bool {
		c := condition(o, kind)
		return c.status == status && c.reason == reason && strings.Contains(c.message, text)
	}
}

func number(o *unstructured.Unstructured, field string) int64 {
	n, ok, _ := unstructured.NestedInt64(o.Object, "status", field)
	if !ok {
		return -1
	}
	return n
}

func TestLivePolicySets(t *testing.T) {
	r := newSetRig(t)
	r.write(t, r.ns, `{inline: [{name: a.rego, content: fine}]}`)
	r.run(t)
	first, err := r.sets.Sets(r.subject())
	if err != nil || len(first.List) != 1 || first.List[0].Documents[0].File != "inline/a.rego" || first.Version == "" {
		t.Fatalf("what is there at the start is judged by at once: %+v, %v", first, err)
	}
	if other, err := r.sets.Sets(trust.Subject{Kind: "Kustomization", Namespace: "other"}); err != nil || len(other.List) != 0 {
		t.Errorf("a set is for what it selects: %v, %v", other, err)
	}
	if r.sets.NamespaceLabels(r.ns)["kubernetes.io/metadata.name"] != r.ns {
		t.Errorf("the labels of the namespace: %v", r.sets.NamespaceLabels(r.ns))
	}
	r.awaitSet(t, r.ns, "to say that it is judged by", is("Ready", "True", ReasonEnforced, "refused"))
	r.sets.Ruled(delivery.ID{Kind: "Kustomization", Namespace: r.ns, Name: "app"}, delivery.Ruling{
		Sets: []string{r.ns}, Verdicts: []policy.Verdict{{Policy: r.ns, Rule: "a/b", Object: "Pod/x/y", Outcome: policy.Fail, Message: "no"}},
	})
	r.awaitSet(t, r.ns, "to count what it refuses", func(o *unstructured.Unstructured) bool {
		failing, _, _ := unstructured.NestedSlice(o.Object, "status", "failing")
		return number(o, "selected") == 1 && number(o, "refused") == 1 && number(o, "warned") == 0 && len(failing) == 1
	})

	r.write(t, r.ns, `{inline: [{name: a.rego, content: broken}]}`)
	r.judgedBy(t, "judged by the set as it is now", func(l []policy.Set) bool { return string(l[0].Documents[0].Content) == "broken" })
	r.awaitSet(t, r.ns, "to name what does not compile", is("Ready", "False", ReasonPolicies, "inline/a.rego:1: it does not compile"))
	soon := time.Now().Add(48 * time.Hour).Format(time.DateOnly)
	r.write(t, r.ns, `{builtin: [{name: x}], exceptions: [{kind: Pod, owner: ann, reason: a test, expires: "`+soon+`"}], fields: none}`)
	r.awaitSet(t, r.ns, "to refuse a field that nobody knows", is("Ready", "False", ReasonUnknown, "spec.fields"))
	r.judgedBy(t, "refused by a set that is broken", func(l []policy.Set) bool { return l[0].Broken != "" })
	r.awaitSet(t, r.ns, "to say that an exception ends", is("ExceptionExpiring", "True", ReasonExpiring, "ends on "+soon))
	if err := r.cluster.Dynamic().Resource(policySets).Delete(t.Context(), r.ns, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	r.judgedBy(t, "judged by none that is deleted", func(l []policy.Set) bool { return len(l) == 0 })
	var what []string
	for len(r.entries) > 0 {
		e := <-r.entries
		what = append(what, strings.SplitN(e.Reason, ":", 2)[0])
	}
	if !slices.Contains(what, "changed") || what[len(what)-1] != "deleted" {
		t.Errorf("the log has what happened to it: %q", what)
	}
}

func TestLivePolicySources(t *testing.T) {
	r := newSetRig(t)
	const spec = `{sources: [{gitRepositoryRef: {namespace: flux-system, name: policies}, path: p}]}`
	r.offered.set("", "", fault.New(fault.Unreachable, "the server does not answer"), nil)
	r.write(t, r.ns, spec)
	r.run(t)
	r.judgedBy(t, "refused by a set of which nothing could be had", func(l []policy.Set) bool { return strings.Contains(l[0].Broken, "does not answer") })
	r.awaitSet(t, r.ns, "to say that it has nothing", is("Ready", "False", ReasonSource, "does not answer"))

	name := types.NamespacedName{Namespace: "flux-system", Name: "policies"}
	r.offered.set("c1", "one", nil, nil)
	r.sets.Offered(name)
	r.judgedBy(t, "judged by the source", func(l []policy.Set) bool { return l[0].Revision == "c1" && l[0].Documents[0].File == "p/a.rego" })
	for _, tt := range []struct {
		reason   string
		err, bad error
		want     string
	}{
		{"a source that does not answer", fault.New(fault.Unreachable, "the server does not answer"), nil, "does not answer"},
		{"a commit that is not proven", nil, fault.New(fault.Refused, "commit c2 is not proven"), "is not proven"},
	} {
		r.offered.set("c2", "two", tt.err, tt.bad)
		r.sets.Offered(name)
		r.awaitSet(t, r.ns, "to tell of "+tt.reason, is("Stale", "True", ReasonSource, tt.want))
		r.judgedBy(t, "judged by what was read before, after "+tt.reason, func(l []policy.Set) bool { return l[0].Revision == "c1" && l[0].Broken == "" })
	}
	r.offered.set("c2", "two", nil, nil)
	r.sets.Offered(name)
	r.judgedBy(t, "judged by the newest", func(l []policy.Set) bool { return l[0].Revision == "c2" })
	r.awaitSet(t, r.ns, "to be fresh again", func(o *unstructured.Unstructured) bool { return condition(o, "Stale").status == "" })
}
