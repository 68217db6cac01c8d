package argo

import (
	"context"
	"reflect"
	"slices"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/predicate"

	api "github.com/holdfastcd/holdfast/api/argo/v1alpha1"
	"github.com/holdfastcd/holdfast/internal/dialect"
	"github.com/holdfastcd/holdfast/internal/fault"
)

// blank returns an empty object of a kind of this dialect.
//
// Custom resources are watched as plain JSON, not as Go types: a value that a type
// cannot hold would end the watch for every object of the kind.
func blank(kind string) *unstructured.Unstructured {
	u := &unstructured.Unstructured{}
	u.SetGroupVersionKind(api.GroupVersion.WithKind(kind))
	return u
}

// desk reads Applications from the cache and writes what is ours on them.
type desk struct {
	cache  client.Reader
	client client.Client

	mu sync.Mutex
	// written is the answer to our last write of each Application until the cache
	// shows it: a pass must not start from what the last one has replaced.
	written map[types.NamespacedName]*unstructured.Unstructured
}

func newDesk(cache client.Reader, c client.Client) *desk {
	return &desk{cache: cache, client: c, written: map[types.NamespacedName]*unstructured.Unstructured{}}
}

// get returns the newest state known of an Application; nil if there is none.
func (d *desk) get(ctx context.Context, name types.NamespacedName) (*unstructured.Unstructured, error) {
	u := blank(api.ApplicationKind)
	err := d.cache.Get(ctx, name, u)
	d.mu.Lock()
	defer d.mu.Unlock()
	if err != nil {
		delete(d.written, name)
		return nil, client.IgnoreNotFound(err)
	}
	if ours, ok := d.written[name]; ok && ours.GetUID() == u.GetUID() {
		if c, err := resourceversion.CompareResourceVersion(u.GetResourceVersion(), ours.GetResourceVersion()); err == nil && c < 0 {
			return ours.DeepCopy(), nil
		}
	}
	delete(d.written, name)
	return u, nil
}

// list returns the Applications in a namespace. They belong to the cache: they
// may only be read.
func (d *desk) list(ctx context.Context, namespace string) ([]unstructured.Unstructured, error) {
	l := &unstructured.UnstructuredList{}
	l.SetGroupVersionKind(api.GroupVersion.WithKind(api.ApplicationKind + "List"))
	err := d.cache.List(ctx, l, client.InNamespace(namespace), client.UnsafeDisableDeepCopy)
	return l.Items, err
}

// answers are the requests on an Application that a pass has answered.
type answers struct{ refresh, operation bool }

// update writes a status, and takes away the requests that were answered. All is
// one patch, that sends only what differs, and nothing if nothing does. What is
// taken away must be what was seen: if the object has moved on, the patch fails
// with a conflict, and the pass is to be done again.
func (d *desk) update(ctx context.Context, u *unstructured.Unstructured, before, after api.ApplicationStatus, answered answers) error {
	old, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&before)
	if err != nil {
		return err
	}
	status, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&after)
	if err != nil {
		return err
	}
	// Between what we know of the status then and now, fields that we do not
	// know do not differ, and so survive.
	base, next := changeable(u, old), changeable(u, status)
	options := []client.MergeFromOption{}
	if answered.refresh {
		annotations := next.GetAnnotations()
		delete(annotations, annRefresh)
		delete(annotations, annRefreshTimestamp)
		next.SetAnnotations(annotations)
	}
	if answered.operation {
		delete(next.Object, "operation")
	}
	if answered != (answers{}) {
		options = append(options, client.MergeFromWithOptimisticLock{})
	} else if reflect.DeepEqual(old, status) {
		return nil
	}
	return d.patch(ctx, base, next, options...)
}

// changeable returns the parts of an Application that [desk.update] writes: what is
// left out is not compared, which costs more than the rest of a request.
func changeable(u *unstructured.Unstructured, status map[string]any) *unstructured.Unstructured {
	part := &unstructured.Unstructured{Object: map[string]any{"status": status}}
	part.SetGroupVersionKind(u.GroupVersionKind())
	part.SetNamespace(u.GetNamespace())
	part.SetName(u.GetName())
	part.SetResourceVersion(u.GetResourceVersion())
	part.SetAnnotations(u.GetAnnotations())
	if operation, ok := u.Object["operation"]; ok {
		part.Object["operation"] = operation
	}
	return part
}

// release removes our finalizers.
func (d *desk) release(ctx context.Context, u *unstructured.Unstructured) error {
	next := u.DeepCopy()
	next.SetFinalizers(slices.DeleteFunc(next.GetFinalizers(), func(f string) bool {
		return f == finalizerResources || f == finalizerForeground || f == finalizerBackground
	}))
	return d.patch(ctx, u, next, client.MergeFromWithOptimisticLock{})
}

func (d *desk) patch(ctx context.Context, base, next *unstructured.Unstructured, options ...client.MergeFromOption) error {
	err := d.client.Patch(ctx, next, client.MergeFromWithOptions(base, options...), client.FieldOwner(dialect.StatusManager))
	if err != nil {
		return client.IgnoreNotFound(err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.written[client.ObjectKeyFromObject(next)] = next
	return nil
}

// Decode reads an Application. The error, a *fault.Error, is what is wrong with
// its spec: Invalid for a value that does not fit, Unsupported for fields that
// nobody here knows. Metadata and, where it can be read, status are returned
// all the same.
func Decode(u *unstructured.Unstructured) (*api.Application, error) {
	app := &api.Application{}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, app); err != nil {
		invalid := fault.New(fault.Invalid, "the Application cannot be read: %s", err)
		rest := *u
		for _, part := range []string{"operation", "spec", "status"} {
			rest.Object = without(rest.Object, part)
			some := &api.Application{}
			if runtime.DefaultUnstructuredConverter.FromUnstructured(rest.Object, some) == nil {
				return some, invalid
			}
		}
		return &api.Application{}, invalid
	}
	refused, err := unsupported(u.Object["spec"], supported)
	if err == nil && len(refused) > 0 {
		return app, notYet(refused)
	}
	return app, err
}

// DecodeProject reads an AppProject; errors as [Decode].
func DecodeProject(u *unstructured.Unstructured) (*api.AppProject, error) {
	project := &api.AppProject{}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, project); err != nil {
		return nil, fault.New(fault.Invalid, "the AppProject cannot be read: %s", err).On("AppProject " + u.GetName())
	}
	refused, err := unsupported(u.Object["spec"], projectFields)
	if err == nil && len(refused) > 0 {
		return nil, notYet(refused).On("AppProject " + u.GetName())
	}
	return project, err
}

func without(m map[string]any, key string) map[string]any {
	out := make(map[string]any, len(m))
	for k, v := range m {
		if k != key {
			out[k] = v
		}
	}
	return out
}

// asks is the predicate of Applications: an update counts if it asks for
// something. What we write ourselves (status, the request to refresh that was
// answered) does not; there is no generation that would tell, because there is
// no status subresource.
func asks() predicate.Predicate {
	return predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
		before, ok := e.ObjectOld.(*unstructured.Unstructured)
		after, same := e.ObjectNew.(*unstructured.Unstructured)
		return !ok || !same || wish(before, after)
	}}
}

func wish(before, after *unstructured.Unstructured) bool {
	for _, part := range []string{"spec", "operation"} {
		if !reflect.DeepEqual(before.Object[part], after.Object[part]) {
			return true
		}
	}
	return before.GetUID() != after.GetUID() ||
		before.GetDeletionTimestamp().IsZero() != after.GetDeletionTimestamp().IsZero() ||
		!slices.Equal(before.GetFinalizers(), after.GetFinalizers()) ||
		!reflect.DeepEqual(before.GetLabels(), after.GetLabels()) ||
		!reflect.DeepEqual(lasting(before.GetAnnotations()), lasting(after.GetAnnotations())) ||
		!stopAsked(before) && stopAsked(after) ||
		refreshAsked(after) != "" && (refreshAsked(after) != refreshAsked(before) ||
			after.GetAnnotations()[annRefreshTimestamp] != before.GetAnnotations()[annRefreshTimestamp])
}

// stopAsked reports whether somebody wants the running operation to end.
func stopAsked(u *unstructured.Unstructured) bool {
	phase, _, _ := unstructured.NestedString(u.Object, "status", "operationState", "phase")
	return phase == string(api.OperationTerminating)
}

// lasting are the annotations without requests.
func lasting(annotations map[string]string) map[string]string {
	out := make(map[string]string, len(annotations))
	for k, v := range annotations {
		if k != annRefresh && k != annRefreshTimestamp {
			out[k] = v
		}
	}
	return out
}

func refreshAsked(u *unstructured.Unstructured) string {
	return strings.TrimSpace(u.GetAnnotations()[annRefresh])
}
