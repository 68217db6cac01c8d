package applytest

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gvk "k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/holdfastcd/holdfast/internal/apply"
	"github.com/holdfastcd/holdfast/internal/cluster"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/schema"
)

// The kinds that the conformance test uses: one without a generation, one with.
var (
	ConfigMap = schema.Kind{
		GVK:      gvk.GroupVersionKind{Version: "v1", Kind: "ConfigMap"},
		Resource: "configmaps", Namespaced: true,
	}
	NetworkPolicy = schema.Kind{
		GVK:      gvk.GroupVersionKind{Group: "networking.k8s.io", Version: "v1", Kind: "NetworkPolicy"},
		Resource: "networkpolicies", Namespaced: true,
	}
)

const manager = "conformance"

type conformance struct {
	apply.Client

	ns string
}

// Conformance tests that c, which watches both kinds, carries out applies and
// deletes as executing a plan relies on. It works in namespace ns, which exists.
func Conformance(t *testing.T, c apply.Client, ns string) {
	t.Helper()
	f := conformance{c, ns}
	t.Run("create, repeat, change", f.repeat)
	t.Run("generation", f.generation)
	t.Run("dry run", f.dryRun)
	t.Run("two managers", f.managers)
	t.Run("adopt", f.adopt)
	t.Run("strip", f.strip)
	t.Run("delete", f.delete)
	t.Run("errors", f.errors)
	t.Run("execute", f.execute)
}

func (f conformance) id(k schema.Kind, name string) object.ID {
	return object.ID{Group: k.GVK.Group, Kind: k.GVK.Kind, Namespace: f.ns, Name: name}
}

func (f conformance) configMap(name, value string) []byte {
	return fmt.Appendf(nil, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":%q,"namespace":%q},"data":{"key":%q}}`, name, f.ns, value)
}

func (f conformance) policy(name, app string) []byte {
	return fmt.Appendf(nil, `{"apiVersion":"networking.k8s.io/v1","kind":"NetworkPolicy","metadata":{"name":%q,"namespace":%q},`+
		`"spec":{"podSelector":{"matchLabels":{"app":%q}},"policyTypes":["Ingress"]}}`, name, f.ns, app)
}

func (f conformance) must(t *testing.T, k schema.Kind, name string, body []byte, by string) cluster.Record {
	t.Helper()
	r, err := f.Apply(context.Background(), k, f.id(k, name), body, by, true, false)
	if err != nil {
		t.Fatalf("apply %s: %v", name, err)
	}
	return r
}

func (f conformance) repeat(t *testing.T) {
	a := f.must(t, ConfigMap, "repeat", f.configMap("repeat", "1"), manager)
	first, ok := a.Fingerprint(manager, [32]byte{1})
	if !ok || a.UID == "" || a.ResourceVersion == "" {
		t.Fatalf("the answer to a create proves nothing: %+v", a)
	}
	b := f.must(t, ConfigMap, "repeat", f.configMap("repeat", "1"), manager)
	if b.ResourceVersion != a.ResourceVersion {
		t.Errorf("the same apply moved the version from %s to %s", a.ResourceVersion, b.ResourceVersion)
	}
	if again, _ := b.Fingerprint(manager, [32]byte{1}); again != first {
		t.Errorf("the same apply has another fingerprint: %+v, was %+v", again, first)
	}
	c := f.must(t, ConfigMap, "repeat", f.configMap("repeat", "2"), manager)
	if c.UID != a.UID || version(t, c) <= version(t, a) {
		t.Errorf("a change gave %+v after %+v", c, a)
	}
	if seen, ok := f.Look(ConfigMap, f.id(ConfigMap, "repeat")); !ok || version(t, seen) < version(t, c) {
		t.Errorf("our own apply is not seen: %+v, want version %s", seen, c.ResourceVersion)
	}
}

func (f conformance) generation(t *testing.T) {
	a := f.must(t, NetworkPolicy, "generation", f.policy("generation", "a"), manager)
	b := f.must(t, NetworkPolicy, "generation", f.policy("generation", "b"), manager)
	if a.Generation == 0 || b.Generation != a.Generation+1 {
		t.Errorf("generations %d and %d, want one to follow the other", a.Generation, b.Generation)
	}
	if c := f.must(t, ConfigMap, "generation", f.configMap("generation", "a"), manager); c.Generation != 0 {
		t.Errorf("a ConfigMap has generation %d", c.Generation)
	}
}

func (f conformance) dryRun(t *testing.T) {
	a := f.must(t, ConfigMap, "dry", f.configMap("dry", "1"), manager)
	if _, err := f.Apply(context.Background(), ConfigMap, f.id(ConfigMap, "dry"), f.configMap("dry", "2"), manager, true, true); err != nil {
		t.Fatal(err)
	}
	if b := f.must(t, ConfigMap, "dry", f.configMap("dry", "1"), manager); b.ResourceVersion != a.ResourceVersion {
		t.Errorf("a dry run changed the object: version %s, was %s", b.ResourceVersion, a.ResourceVersion)
	}
}

func (f conformance) managers(t *testing.T) {
	id := f.id(ConfigMap, "managers")
	a := f.must(t, ConfigMap, "managers", f.configMap("managers", "1"), manager)
	taken, _ := a.Fingerprint(manager, [32]byte{})
	_, err := f.Apply(context.Background(), ConfigMap, id, f.configMap("managers", "2"), "other", false, false)
	if fault.KindOf(err) != fault.Conflict || errors.Is(err, cluster.ErrChanged) {
		t.Errorf("an apply that is not forced: got %v, want Conflict over fields", err)
	}
	b := f.must(t, ConfigMap, "managers", f.configMap("managers", "2"), "other")
	if now, ok := b.Fingerprint(manager, [32]byte{}); ok && now.Ours == taken.Ours {
		t.Error("a field was taken, and our entry stands")
	}
}

// adopt takes an object over from another manager: what it set goes with the next
// apply, if that does not set it too.
func (f conformance) adopt(t *testing.T) {
	ctx, id := context.Background(), f.id(ConfigMap, "adopt")
	if err := f.Adopt(ctx, ConfigMap, f.id(ConfigMap, "nothing"), manager, []string{"peer"}); err != nil {
		t.Errorf("of an object that does not exist: %v", err)
	}
	peers := fmt.Appendf(nil, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"adopt","namespace":%q},"data":{"key":"1","stale":"1"}}`, f.ns)
	f.must(t, ConfigMap, "adopt", peers, "peer")
	for range 2 {
		if err := f.Adopt(ctx, ConfigMap, id, manager, []string{"peer"}); err != nil {
			t.Fatal(err)
		}
	}
	f.must(t, ConfigMap, "adopt", f.configMap("adopt", "1"), manager)
	live, err := f.Get(ctx, ConfigMap, id)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]any{"key": "1"}, live.Object["data"]); diff != "" {
		t.Errorf("after a take-over (-want +got):\n%s", diff)
	}
	for _, m := range live.GetManagedFields() {
		if m.Manager == "peer" {
			t.Error("the peer still owns fields")
		}
	}
	if _, err := f.Get(ctx, ConfigMap, f.id(ConfigMap, "nothing")); fault.KindOf(err) != fault.NotFound {
		t.Errorf("an object that does not exist: got %v", err)
	}
}

func (f conformance) strip(t *testing.T) {
	ctx, id := context.Background(), f.id(ConfigMap, "strip")
	surplus := []object.Path{{"f:data", "f:extra"}, {"f:data", "f:nothing"}}
	if err := f.Strip(ctx, ConfigMap, f.id(ConfigMap, "nothing"), surplus, manager); err != nil {
		t.Errorf("of an object that does not exist: %v", err)
	}
	f.must(t, ConfigMap, "strip", f.configMap("strip", "1"), manager)
	added := fmt.Appendf(nil, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"strip","namespace":%q},"data":{"extra":"1","other":"1"}}`, f.ns)
	f.must(t, ConfigMap, "strip", added, "somebody")
	for range 2 {
		if err := f.Strip(ctx, ConfigMap, id, surplus, manager); err != nil {
			t.Fatal(err)
		}
	}
	live, err := f.Get(ctx, ConfigMap, id)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]any{"key": "1", "other": "1"}, live.Object["data"]); diff != "" {
		t.Errorf("after a field was removed (-want +got):\n%s", diff)
	}
}

func (f conformance) delete(t *testing.T) {
	ctx, id := context.Background(), f.id(ConfigMap, "delete")
	a := f.must(t, ConfigMap, "delete", f.configMap("delete", "1"), manager)
	b := f.must(t, ConfigMap, "delete", f.configMap("delete", "2"), manager)
	if err := f.Delete(ctx, ConfigMap, id, a.UID, a.ResourceVersion, metav1.DeletePropagationBackground); !errors.Is(err, cluster.ErrChanged) {
		t.Errorf("with an old version: got %v, want ErrChanged", err)
	}
	if err := f.Delete(ctx, ConfigMap, id, "another", b.ResourceVersion, metav1.DeletePropagationBackground); !errors.Is(err, cluster.ErrChanged) {
		t.Errorf("with another UID: got %v, want ErrChanged", err)
	}
	for i := range 2 {
		if err := f.Delete(ctx, ConfigMap, id, b.UID, b.ResourceVersion, metav1.DeletePropagationBackground); err != nil {
			t.Errorf("delete %d: %v", i, err)
		}
	}
}

func (f conformance) errors(t *testing.T) {
	ctx := context.Background()
	id := f.id(ConfigMap, "errors")
	id.Namespace = f.ns + "-missing"
	body := fmt.Appendf(nil, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"errors","namespace":%q}}`, id.Namespace)
	if _, err := f.Apply(ctx, ConfigMap, id, body, manager, true, false); fault.KindOf(err) != fault.NotFound || errors.Is(err, cluster.ErrNotServed) {
		t.Errorf("in a namespace that does not exist: got %v, want NotFound", err)
	}
	unknown := schema.Kind{GVK: gvk.GroupVersionKind{Group: "example.com", Version: "v1", Kind: "Unknown"}}
	if _, err := f.Apply(ctx, unknown, f.id(unknown, "x"), []byte(`{}`), manager, true, false); !errors.Is(err, cluster.ErrNotServed) {
		t.Errorf("of an unknown kind: got %v, want ErrNotServed", err)
	}
}

func version(t *testing.T, r cluster.Record) uint64 {
	t.Helper()
	v, err := strconv.ParseUint(r.ResourceVersion, 10, 64)
	if err != nil {
		t.Fatalf("resource version %q is no number", r.ResourceVersion)
	}
	return v
}
