package why

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"

	"github.com/holdfastcd/holdfast/internal/fault"
)

// Live reads live objects of a cluster, of every kind that it serves.
type Live struct {
	client dynamic.Interface
	kinds  []metav1.APIResource // with group and version filled in, preferred ones first
}

// Connect asks the cluster what it serves. Errors are *fault.Error: Unreachable,
// Unauthorized, Invalid.
func Connect(cfg *rest.Config) (*Live, error) {
	client, err := dynamic.NewForConfig(cfg)
	if err != nil {
		return nil, fault.New(fault.Invalid, "cannot use the configuration of the cluster: %s", err).Because(err)
	}
	d, err := discovery.NewDiscoveryClientForConfig(cfg)
	if err != nil {
		return nil, fault.New(fault.Invalid, "cannot use the configuration of the cluster: %s", err).Because(err)
	}
	lists, err := discovery.ServerPreferredResources(d)
	if err != nil && len(lists) == 0 { // a group that does not answer is not asked for, mostly
		return nil, problem(err, "ask the cluster for its kinds")
	}
	l := &Live{client: client}
	for _, list := range lists {
		gv, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			continue
		}
		for _, r := range list.APIResources {
			if strings.Contains(r.Name, "/") {
				continue
			}
			r.Group, r.Version = gv.Group, gv.Version
			l.kinds = append(l.kinds, r)
		}
	}
	return l, nil
}

// Kind returns the kind that goes by a name, as kubectl takes it: the plural, the
// singular, a short name or the kind itself, with .group or .version.group behind it
// or without, and whether its objects lie in namespaces. It fails with NotFound.
func (l *Live) Kind(name string) (gvk schema.GroupVersionKind, namespaced bool, err error) {
	resource, group, qualified := strings.Cut(strings.ToLower(name), ".")
	fits := func(r metav1.APIResource) bool {
		named := r.Name == resource || r.SingularName == resource || strings.ToLower(r.Kind) == resource || slices.Contains(r.ShortNames, resource)
		return named && (!qualified || group == r.Group || group == r.Version+"."+r.Group)
	}
	// A full name goes before the short name of another kind.
	exact := func(r metav1.APIResource) bool { return fits(r) && !slices.Contains(r.ShortNames, resource) }
	for _, chosen := range []func(metav1.APIResource) bool{exact, fits} {
		if i := slices.IndexFunc(l.kinds, chosen); i >= 0 {
			r := l.kinds[i]
			return schema.GroupVersionKind{Group: r.Group, Version: r.Version, Kind: r.Kind}, r.Namespaced, nil
		}
	}
	return schema.GroupVersionKind{}, false, fault.New(fault.NotFound, "the cluster has no kind %q", name).
		WithHint("'kubectl api-resources' lists them all")
}

// resource returns how to ask for objects of a kind.
func (l *Live) resource(gvk schema.GroupVersionKind, namespace string) (dynamic.ResourceInterface, error) {
	i := slices.IndexFunc(l.kinds, func(r metav1.APIResource) bool { return r.Group == gvk.Group && r.Kind == gvk.Kind })
	if i < 0 {
		return nil, fault.New(fault.NotFound, "the cluster has no kind %s", gvk.GroupKind())
	}
	r := l.kinds[i]
	client := l.client.Resource(schema.GroupVersionResource{Group: r.Group, Version: r.Version, Resource: r.Name})
	if r.Namespaced {
		return client.Namespace(namespace), nil
	}
	return client, nil
}

// Get implements [Cluster]. The version is the one that the cluster prefers.
func (l *Live) Get(ctx context.Context, gvk schema.GroupVersionKind, namespace, name string) (*unstructured.Unstructured, error) {
	client, err := l.resource(gvk, namespace)
	if err != nil {
		return nil, err
	}
	u, err := client.Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, problem(err, fmt.Sprintf("read %s %s", gvk.Kind, name))
	}
	return u, nil
}

// Pods implements [Cluster].
func (l *Live) Pods(ctx context.Context, namespace, selector string, limit int64) ([]*unstructured.Unstructured, error) {
	client, err := l.resource(schema.GroupVersionKind{Version: "v1", Kind: "Pod"}, namespace)
	if err != nil {
		return nil, err
	}
	list, err := client.List(ctx, metav1.ListOptions{LabelSelector: selector, Limit: limit})
	if err != nil {
		return nil, problem(err, "list Pods")
	}
	pods := make([]*unstructured.Unstructured, 0, len(list.Items))
	for i := range list.Items {
		pods = append(pods, &list.Items[i])
	}
	return pods, nil
}

func fromMap(m map[string]any, into any) error {
	return runtime.DefaultUnstructuredConverter.FromUnstructured(m, into)
}

// problem turns an error of a client into a fault.
func problem(err error, doing string) error {
	kind := fault.Internal
	var network net.Error
	switch {
	case apierrors.IsUnauthorized(err):
		kind = fault.Unauthorized
	case apierrors.IsNotFound(err), meta.IsNoMatchError(err):
		kind = fault.NotFound
	case apierrors.IsForbidden(err), apierrors.IsBadRequest(err), apierrors.IsInvalid(err):
		kind = fault.Rejected
	case errors.As(err, &network), errors.Is(err, io.EOF), apierrors.IsServiceUnavailable(err), apierrors.IsTimeout(err), apierrors.IsServerTimeout(err):
		kind = fault.Unreachable
	}
	return fault.New(kind, "cannot %s: %s", doing, err).Because(err)
}
