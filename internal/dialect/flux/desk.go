package flux

import (
	"context"
	"maps"
	"sync"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/holdfastcd/holdfast/internal/dialect"
	"github.com/holdfastcd/holdfast/internal/fault"
)

// finalizer is Flux's: an object that Flux served before is released by us.
const finalizer = "finalizers.fluxcd.io"

// desk reads and writes the custom resources of one kind.
//
// They are watched as plain JSON, not as Go types: a value that a type cannot
// hold would otherwise end the watch for every object of the kind.
type desk struct {
	gvk    schema.GroupVersionKind
	cache  client.Reader
	client client.Client
	owner  string // field owner of what is written

	mu sync.Mutex
	// written is the answer to our last write of each object, until the cache
	// shows it: what we decide next must not be based on what we replaced.
	written map[types.NamespacedName]*unstructured.Unstructured
}

func newDesk(gvk schema.GroupVersionKind, cache client.Reader, c client.Client, owner string) *desk {
	return &desk{gvk: gvk, cache: cache, client: c, owner: owner, written: map[types.NamespacedName]*unstructured.Unstructured{}}
}

// blank returns an empty object of the desk's kind.
func (d *desk) blank() *unstructured.Unstructured {
	u := &unstructured.Unstructured{}
	u.SetGroupVersionKind(d.gvk)
	return u
}

// get returns the newest state known of an object; nil if it does not exist.
func (d *desk) get(ctx context.Context, name types.NamespacedName) (*unstructured.Unstructured, error) {
	u := d.blank()
	err := d.cache.Get(ctx, name, u)
	d.mu.Lock()
	defer d.mu.Unlock()
	if err != nil {
		delete(d.written, name)
		return nil, client.IgnoreNotFound(err)
	}
	ours, ok := d.written[name]
	if !ok {
		return u, nil
	}
	if ours.GetUID() == u.GetUID() && older(u, ours) {
		return ours.DeepCopy(), nil
	}
	delete(d.written, name)
	return u, nil
}

// older reports whether a is an older state than b.
func older(a, b *unstructured.Unstructured) bool {
	c, err := resourceversion.CompareResourceVersion(a.GetResourceVersion(), b.GetResourceVersion())
	return err == nil && c < 0
}

// list returns the objects that the options choose. They belong to the cache:
// reading is all that may be done with them.
func (d *desk) list(ctx context.Context, opts ...client.ListOption) ([]unstructured.Unstructured, error) {
	l := &unstructured.UnstructuredList{}
	l.SetGroupVersionKind(d.gvk.GroupVersion().WithKind(d.gvk.Kind + "List"))
	if err := d.cache.List(ctx, l, append(opts, client.UnsafeDisableDeepCopy)...); err != nil {
		return nil, err
	}
	return l.Items, nil
}

// setFinalizer adds or removes the finalizer; u becomes the result. It sends
// nothing if nothing changes.
func (d *desk) setFinalizer(ctx context.Context, u *unstructured.Unstructured, present bool) error {
	base := u.DeepCopy()
	change := controllerutil.RemoveFinalizer
	if present {
		change = controllerutil.AddFinalizer
	}
	if !change(u, finalizer) {
		return nil
	}
	// A merge patch replaces the whole list: it must be the list we saw.
	patch := client.MergeFromWithOptions(base, client.MergeFromWithOptimisticLock{})
	err := d.client.Patch(ctx, u, patch, client.FieldOwner(d.owner))
	switch {
	case err == nil && present:
		d.note(u)
	case !present:
		return client.IgnoreNotFound(err)
	}
	return err
}

// setStatus writes a status, given by a pointer; u becomes the result. It sends
// nothing, and reports false, if old and status are equal.
func (d *desk) setStatus(ctx context.Context, u *unstructured.Unstructured, old, status any) (bool, error) {
	if equality.Semantic.DeepEqual(old, status) {
		return false, nil
	}
	fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(status)
	if err != nil {
		return false, err
	}
	patch, err := dialect.StatusPatch(u.Object["status"], fields)
	if err != nil {
		return false, err
	}
	if err := d.client.Status().Patch(ctx, u, patch, client.FieldOwner(d.owner)); err != nil {
		return false, err
	}
	d.note(u)
	return true, nil
}

// annotate sets an annotation.
func (d *desk) annotate(ctx context.Context, name types.NamespacedName, key, value string) error {
	u := d.blank()
	u.SetNamespace(name.Namespace)
	u.SetName(name.Name)
	base := u.DeepCopy()
	u.SetAnnotations(map[string]string{key: value})
	return client.IgnoreNotFound(d.client.Patch(ctx, u, client.MergeFrom(base), client.FieldOwner(d.owner)))
}

func (d *desk) note(u *unstructured.Unstructured) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.written[types.NamespacedName{Namespace: u.GetNamespace(), Name: u.GetName()}] = u.DeepCopy()
}

// decode returns an object as a Go type. What is wrong with its spec is the
// error, of kind Invalid; metadata and status are there all the same.
func decode[T any](u *unstructured.Unstructured) (*T, *fault.Error) {
	whole := new(T)
	err := convert(u.Object, whole)
	if err == nil {
		return whole, nil
	}
	invalid := fault.New(fault.Invalid, "the spec cannot be read: %s", err)
	o := maps.Clone(u.Object)
	// A status is ours to write anew, but for the one thing that must not be lost.
	o["status"] = map[string]any{}
	if inventory, ok, _ := unstructured.NestedMap(u.Object, "status", "inventory"); ok {
		o["status"] = map[string]any{"inventory": inventory}
	}
	if some := new(T); convert(o, some) == nil {
		return some, nil
	}
	delete(o, "spec")
	if status, ok := u.Object["status"]; ok {
		o["status"] = status
	}
	some := new(T)
	if convert(o, some) == nil {
		return some, invalid
	}
	delete(o, "status")
	some = new(T)
	_ = convert(o, some) // metadata is the API server's: it fits
	return some, invalid
}

func convert(o map[string]any, into any) error {
	return runtime.DefaultUnstructuredConverter.FromUnstructured(o, into)
}
