package harness

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
)

// patience is how long Await and its like wait before they fail the test. What tests wait for takes a fraction of a second; this
// is for machines that do much else at the same time.
const patience = 60 * time.Second

// Resources that tests often wait for.
var (
	Namespaces      = schema.GroupVersionResource{Version: "v1", Resource: "namespaces"}
	Pods            = schema.GroupVersionResource{Version: "v1", Resource: "pods"}
	ConfigMaps      = schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}
	Services        = schema.GroupVersionResource{Version: "v1", Resource: "services"}
	ServiceAccounts = schema.GroupVersionResource{Version: "v1", Resource: "serviceaccounts"}
	Deployments     = schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"}
	Jobs            = schema.GroupVersionResource{Group: "batch", Version: "v1", Resource: "jobs"}
)

// notNameCharacters are what a namespace's name cannot have.
var notNameCharacters = regexp.MustCompile(`[^a-z0-9]+`)

// Namespace makes a namespace of a new name, in which Pods can be made at once, and deletes it when the test ends.
func (c *Cluster) Namespace(tb testing.TB) string {
	tb.Helper()
	prefix := strings.Trim(notNameCharacters.ReplaceAllString(strings.ToLower(tb.Name()), "-"), "-")
	namespace := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "Namespace"}}
	namespace.SetGenerateName(prefix[:min(len(prefix), 40)] + "-")
	created, err := c.dynamic.Resource(Namespaces).Create(tb.Context(), namespace, metav1.CreateOptions{})
	if err != nil {
		tb.Fatalf("make a namespace: %v", err)
	}
	name := created.GetName()
	tb.Cleanup(func() {
		err := c.dynamic.Resource(Namespaces).Delete(context.Background(), name, metav1.DeleteOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			tb.Errorf("delete the test's namespace: %v", err)
		}
	})
	// Admission refuses Pods until the namespace has its default service account.
	c.Await(tb, ServiceAccounts, name, "default", "to exist", Exists)
	return name
}

// Condition says whether an object is as wanted. It gets nil when there is no such object.
type Condition func(object *unstructured.Unstructured) bool

// HasPassword is the condition that a Secret holds a password.
func HasPassword(want string) Condition {
	return func(o *unstructured.Unstructured) bool {
		if o == nil {
			return false
		}
		got, _, _ := unstructured.NestedString(o.Object, "data", "password")
		return got == base64.StdEncoding.EncodeToString([]byte(want))
	}
}

// Exists is the condition that there is such an object.
func Exists(object *unstructured.Unstructured) bool { return object != nil }

// Gone is the condition that there is no such object.
func Gone(object *unstructured.Unstructured) bool { return object == nil }

// Ready is the condition that a workload's controller has seen its present generation and counts so many ready replicas of it.
func Ready(replicas int64) Condition {
	return func(object *unstructured.Unstructured) bool {
		if object == nil {
			return false
		}
		count := func(field string) int64 {
			n, _, _ := unstructured.NestedInt64(object.Object, "status", field) // absent, or another type: none
			return n
		}
		return count("observedGeneration") == object.GetGeneration() &&
			count("readyReplicas") == replicas && count("updatedReplicas") == replicas && count("replicas") == replicas
	}
}

// Await watches the object until it is as wanted and returns it, nil if that means that there is none. If it does not get there
// in time, the test fails with the object as it was last; aim, like "to be ready", completes that message. An object of no
// namespace has the namespace "".
func (c *Cluster) Await(
	tb testing.TB, resource schema.GroupVersionResource, namespace, name, aim string, wanted Condition,
) *unstructured.Unstructured {
	tb.Helper()
	ctx, cancel := context.WithTimeoutCause(tb.Context(), patience, fmt.Errorf("waited %s", patience))
	defer cancel()
	w := &waiter{client: c.dynamic.Resource(resource).Namespace(namespace), name: name, wanted: wanted}
	for {
		done, err := w.follow(ctx)
		if done {
			return w.last
		}
		if err == nil && ctx.Err() == nil {
			continue // the server ended the watch, as it does now and then
		}
		tb.Fatalf("wait for %s %s/%s %s: %v; it was last:\n%s",
			resource.Resource, namespace, name, aim, errors.Join(context.Cause(ctx), err), w)
	}
}

// waiter waits for one object.
type waiter struct {
	client dynamic.ResourceInterface
	name   string
	wanted Condition
	last   *unstructured.Unstructured
}

// follow reads the object, then watches it from there, until it is as wanted or the watch ends.
func (w *waiter) follow(ctx context.Context) (bool, error) {
	options := metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector(metav1.ObjectNameField, w.name).String()}
	list, err := w.client.List(ctx, options)
	if err != nil {
		return false, err
	}
	w.last = nil
	if len(list.Items) > 0 {
		w.last = &list.Items[0]
	}
	if w.wanted(w.last) {
		return true, nil
	}
	options.ResourceVersion = list.GetResourceVersion()
	events, err := w.client.Watch(ctx, options)
	if err != nil {
		return false, err
	}
	defer events.Stop()
	for event := range events.ResultChan() {
		if event.Type == watch.Error {
			return false, apierrors.FromObject(event.Object)
		}
		w.last = nil
		if object, ok := event.Object.(*unstructured.Unstructured); ok && event.Type != watch.Deleted {
			w.last = object
		}
		if w.wanted(w.last) {
			return true, nil
		}
	}
	return false, nil
}

// String shows the object as it was last, without what nobody reads.
func (w *waiter) String() string {
	if w.last == nil {
		return "not there"
	}
	shown := w.last.DeepCopy()
	shown.SetManagedFields(nil)
	encoded, err := json.MarshalIndent(shown, "", "  ")
	if err != nil {
		return err.Error()
	}
	return string(encoded)
}
