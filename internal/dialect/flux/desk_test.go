package flux

import (
	"context"
	"testing"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/event"
)

// lagging is a cache that shows what it was last given.
type lagging struct {
	client.Reader
	shown *unstructured.Unstructured
}

func (l *lagging) Get(_ context.Context, name types.NamespacedName, into client.Object, _ ...client.GetOption) error {
	if l.shown == nil {
		return apierrors.NewNotFound(schema.GroupResource{Resource: "kustomizations"}, name.Name)
	}
	l.shown.DeepCopyInto(into.(*unstructured.Unstructured))
	return nil
}

// What a pass decides must not be based on a cache that has not seen its own last
// write: an inventory would be lost.
func TestDeskRemembersItsWrites(t *testing.T) {
	scheme := runtime.NewScheme()
	if err := kustomizev1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	c := fake.NewClientBuilder().WithScheme(scheme).WithStatusSubresource(&kustomizev1.Kustomization{}).
		WithObjects(kustomization(func(ks *kustomizev1.Kustomization) { ks.UID = "u1" })).Build()
	name := types.NamespacedName{Namespace: "apps", Name: "web"}
	cache := &lagging{}
	d := newDesk(kustomizev1.GroupVersion.WithKind("Kustomization"), cache, c, "o")
	cache.shown = d.blank()
	if err := c.Get(t.Context(), name, cache.shown); err != nil {
		t.Fatal(err)
	}
	stale := cache.shown.DeepCopy()

	u, err := d.get(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.setFinalizer(t.Context(), u, true); err != nil {
		t.Fatal(err)
	}
	old, status := kustomizev1.KustomizationStatus{}, kustomizev1.KustomizationStatus{LastAppliedRevision: "r1"}
	if written, err := d.setStatus(t.Context(), u, &old, &status); err != nil || !written {
		t.Fatal(written, err)
	}
	if written, err := d.setStatus(t.Context(), u, &status, status.DeepCopy()); err != nil || written {
		t.Errorf("an equal status was written: %t, %v", written, err)
	}
	revision := func() string {
		u, err := d.get(t.Context(), name)
		if err != nil || u == nil {
			t.Fatal(u, err)
		}
		got, _, _ := unstructured.NestedString(u.Object, "status", "lastAppliedRevision")
		return got
	}
	if got := revision(); got != "r1" {
		t.Errorf("the cache lags, and the desk forgot what it wrote: %q", got)
	}
	other := stale.DeepCopy()
	other.SetUID("u2")
	cache.shown = other
	if got := revision(); got != "" {
		t.Errorf("another object of the same name got the status %q", got)
	}
	cache.shown = u
	if got := revision(); got != "r1" {
		t.Errorf("the cache has caught up, got %q", got)
	}
	cache.shown = nil
	if u, err := d.get(t.Context(), name); u != nil || err != nil {
		t.Errorf("it is gone: %v, %v", u, err)
	}
}

func TestWanted(t *testing.T) {
	object := func(change func(*metav1.ObjectMeta)) client.Object {
		ks := kustomization(nil)
		change(&ks.ObjectMeta)
		return ks
	}
	now := metav1.NewTime(noon)
	got := map[string]bool{}
	for what, change := range map[string]func(*metav1.ObjectMeta){
		"status":     func(m *metav1.ObjectMeta) { m.ResourceVersion = "2" },
		"finalizer":  func(m *metav1.ObjectMeta) { m.Finalizers = []string{finalizer} },
		"label":      func(m *metav1.ObjectMeta) { m.Labels = map[string]string{"a": "b"} },
		"generation": func(m *metav1.ObjectMeta) { m.Generation++ },
		"deletion":   func(m *metav1.ObjectMeta) { m.DeletionTimestamp = &now },
		"request":    func(m *metav1.ObjectMeta) { m.Annotations = map[string]string{"reconcile.fluxcd.io/requestedAt": "t"} },
		"annotation": func(m *metav1.ObjectMeta) { m.Annotations = map[string]string{"a": "b"} },
		"successor":  func(m *metav1.ObjectMeta) { m.UID = "other" },
	} {
		got[what] = wanted().Update(event.UpdateEvent{ObjectOld: kustomization(nil), ObjectNew: object(change)})
	}
	want := map[string]bool{
		"status": false, "finalizer": false, "label": false, "annotation": false,
		"generation": true, "deletion": true, "request": true, "successor": true,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("what asks for work (-want +got):\n%s", diff)
	}
}
