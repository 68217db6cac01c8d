// Package operate asks for what people ask of a delivery: to sync it now, to go
// back, to pause, to take it over from Argo CD or Flux and to hand it back. It does
// so as the clients of Argo CD and Flux do, by writes to the custom resource that
// its controller answers; it never touches what is delivered.
//
// What an order writes is decided by functions on the resource as plain JSON, so
// that fields which nobody here knows survive; [Cluster] reads, writes and waits.
package operate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/holdfastcd/holdfast/internal/fault"
)

// The kinds that can be operated on.
var (
	Application   = schema.GroupVersionKind{Group: "argoproj.io", Version: "v1alpha1", Kind: "Application"}
	Kustomization = schema.GroupVersionKind{Group: "kustomize.toolkit.fluxcd.io", Version: "v1", Kind: "Kustomization"}
	GitRepository = schema.GroupVersionKind{Group: "source.toolkit.fluxcd.io", Version: "v1", Kind: "GitRepository"}
)

// kinds are the operable kinds with the names they go by, the plural first.
var kinds = []struct {
	gvk   schema.GroupVersionKind
	names []string
}{
	{Application, []string{"applications", "application", "app", "apps"}},
	{Kustomization, []string{"kustomizations", "kustomization", "ks"}},
	{GitRepository, []string{"gitrepositories", "gitrepository", "gitrepo"}},
}

// KindOf returns the kind that goes by a name, short ones and plurals included. It
// fails with Invalid.
func KindOf(name string) (schema.GroupVersionKind, error) {
	for _, k := range kinds {
		if slices.Contains(k.names, strings.ToLower(name)) {
			return k.gvk, nil
		}
	}
	return schema.GroupVersionKind{}, fault.New(fault.Invalid, "there is no kind %q", name).
		WithHint("choose application, kustomization or gitrepository")
}

// Name renders a resource as Kind/namespace/name.
func Name(u *unstructured.Unstructured) string {
	return u.GetKind() + "/" + u.GetNamespace() + "/" + u.GetName()
}

// fieldOwner is who writes what a person asks for.
const fieldOwner = "holdfast-cli"

// Cluster reads and writes custom resources.
type Cluster struct{ client client.WithWatch }

// Connect returns the cluster that cfg names. Nothing is sent yet. It fails with Invalid.
func Connect(cfg *rest.Config) (*Cluster, error) {
	mapper := meta.NewDefaultRESTMapper(nil)
	for _, k := range kinds {
		plural, singular := k.gvk.GroupVersion().WithResource(k.names[0]), k.gvk.GroupVersion().WithResource(k.names[1])
		mapper.AddSpecific(k.gvk, plural, singular, meta.RESTScopeNamespace)
	}
	plural, singular := review.GroupVersion().WithResource("selfsubjectreviews"), review.GroupVersion().WithResource("selfsubjectreview")
	mapper.AddSpecific(review, plural, singular, meta.RESTScopeRoot)
	c, err := client.NewWithWatch(cfg, client.Options{Mapper: mapper})
	if err != nil {
		return nil, fault.New(fault.Invalid, "cannot use the configuration of the cluster: %s", err).Because(err)
	}
	return New(c), nil
}

// New returns a cluster behind a client that knows the kinds.
func New(c client.WithWatch) *Cluster { return &Cluster{client: c} }

var review = schema.GroupVersionKind{Group: "authentication.k8s.io", Version: "v1", Kind: "SelfSubjectReview"}

// User returns the name by which the API server knows who is asking; empty if it
// does not say. It is noted in operations, for people.
func (c *Cluster) User(ctx context.Context) string {
	u := &unstructured.Unstructured{}
	u.SetGroupVersionKind(review)
	if err := c.client.Create(ctx, u); err != nil {
		return ""
	}
	name, _, _ := unstructured.NestedString(u.Object, "status", "userInfo", "username")
	return name
}

// Choice says which resources are meant.
type Choice struct {
	// Kind is one of the kinds; empty: any that asks for a delivery.
	Kind schema.GroupVersionKind
	// Namespace, if not empty, is the only one that is looked at.
	Namespace string
	// Name, if not empty, is the only name that is meant.
	Name string
}

func (c Choice) kinds() []schema.GroupVersionKind {
	if c.Kind.Kind != "" {
		return []schema.GroupVersionKind{c.Kind}
	}
	return []schema.GroupVersionKind{Application, Kustomization}
}

// One returns the resource that is meant. Errors are *fault.Error: NotFound;
// Conflict if several are meant, with their names; those of [Cluster.All].
func (c *Cluster) One(ctx context.Context, choice Choice) (*unstructured.Unstructured, error) {
	all, err := c.All(ctx, choice)
	if err != nil {
		return nil, err
	}
	switch len(all) {
	case 0:
		return nil, missing(choice)
	case 1:
		return all[0], nil
	}
	var names []string
	for _, u := range all {
		names = append(names, Name(u))
	}
	return nil, fault.New(fault.Conflict, "there are several of the name %s: %s", choice.Name, strings.Join(names, ", ")).
		WithHint("say which with its kind in front, such as app/%s, and -n NAMESPACE", choice.Name)
}

func missing(choice Choice) error {
	what, where := "delivery", ""
	if choice.Kind.Kind != "" {
		what = choice.Kind.Kind
	}
	if choice.Namespace != "" {
		where = " in namespace " + choice.Namespace
	}
	return fault.New(fault.NotFound, "there is no %s %s%s", what, choice.Name, where).WithHint("'holdfast get' lists all there are")
}

// All returns the resources that are meant, by kind, namespace and name; none is no
// error. Errors are *fault.Error: NotFound if the cluster defines none of the kinds,
// Unauthorized, Rejected, Unreachable.
func (c *Cluster) All(ctx context.Context, choice Choice) ([]*unstructured.Unstructured, error) {
	var all []*unstructured.Unstructured
	served := false
	for _, gvk := range choice.kinds() {
		list := listOf(gvk)
		err := c.client.List(ctx, list, choice.options()...)
		if apierrors.IsNotFound(err) || meta.IsNoMatchError(err) {
			continue // the cluster does not define it
		}
		if err != nil {
			return nil, problem(err, "list "+gvk.Kind+"s")
		}
		served = true
		for i := range list.Items {
			all = append(all, &list.Items[i])
		}
	}
	if !served {
		return nil, fault.New(fault.NotFound, "the cluster does not define what Holdfast reads").
			WithHint("run 'holdfast install --crds-only' first")
	}
	slices.SortFunc(all, func(a, b *unstructured.Unstructured) int { return strings.Compare(Name(a), Name(b)) })
	return all, nil
}

func (c Choice) options() []client.ListOption {
	options := []client.ListOption{client.InNamespace(c.Namespace)}
	if c.Name != "" {
		options = append(options, client.MatchingFields{metav1.ObjectNameField: c.Name})
	}
	return options
}

func listOf(gvk schema.GroupVersionKind) *unstructured.UnstructuredList {
	l := &unstructured.UnstructuredList{}
	l.SetGroupVersionKind(gvk.GroupVersion().WithKind(gvk.Kind + "List"))
	return l
}

// tries is how often a write is decided again because the resource moved meanwhile.
const tries = 5

// Change lets change decide about the newest state of a resource, and writes what it
// changed of it; u becomes the result. The write holds for the state that was
// decided about, or does not happen. Errors are those of change, and *fault.Error:
// NotFound, Unauthorized, Rejected, Unreachable, Conflict if the resource does not
// stand still.
func (c *Cluster) Change(ctx context.Context, u *unstructured.Unstructured, change func(*unstructured.Unstructured) error) error {
	for try := 1; ; try++ {
		if err := c.client.Get(ctx, client.ObjectKeyFromObject(u), u); err != nil {
			return problem(err, "read "+Name(u))
		}
		before := u.DeepCopy()
		if err := change(u); err != nil {
			return err
		}
		if equality.Semantic.DeepEqual(before.Object, u.Object) {
			return nil
		}
		patch := client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})
		err := c.client.Patch(ctx, u, patch, client.FieldOwner(fieldOwner))
		if err == nil || !apierrors.IsConflict(err) || try == tries {
			return problem(err, "write "+Name(u))
		}
	}
}

// Await waits until done says so or fails, and tells it every state on the way; u is
// the newest. A deadline of ctx is answered with Waiting, the end of the resource
// with NotFound; other errors are those of done and of the API server.
func (c *Cluster) Await(ctx context.Context, u *unstructured.Unstructured, done func(*unstructured.Unstructured) (bool, error)) error {
	for {
		finished, err := c.follow(ctx, u, done)
		switch {
		case ctx.Err() != nil:
			return fault.New(fault.Waiting, "%s is not done yet", Name(u)).Because(context.Cause(ctx))
		case finished || err != nil:
			return err
		}
	}
}

// follow reads the resource and watches it from there, until done says so or the
// watch ends, as it does now and then.
func (c *Cluster) follow(ctx context.Context, u *unstructured.Unstructured, done func(*unstructured.Unstructured) (bool, error)) (bool, error) {
	if err := c.client.Get(ctx, client.ObjectKeyFromObject(u), u); err != nil {
		return false, problem(err, "read "+Name(u))
	}
	if finished, err := done(u); finished || err != nil {
		return finished, err
	}
	from := &client.ListOptions{Raw: &metav1.ListOptions{ResourceVersion: u.GetResourceVersion()}}
	choice := Choice{Namespace: u.GetNamespace(), Name: u.GetName()}
	w, err := c.client.Watch(ctx, listOf(u.GroupVersionKind()), append(choice.options(), from)...)
	if err != nil {
		return false, problem(err, "watch "+Name(u))
	}
	defer w.Stop()
	stop := context.AfterFunc(ctx, w.Stop)
	defer stop()
	for event := range w.ResultChan() {
		next, ok := event.Object.(*unstructured.Unstructured)
		switch {
		case event.Type == watch.Deleted:
			return false, fault.New(fault.NotFound, "%s was deleted", Name(u))
		case event.Type == watch.Bookmark || !ok:
			continue
		case event.Type == watch.Error:
			return false, nil // too old to go on from; read it anew
		}
		next.DeepCopyInto(u)
		if finished, err := done(u); finished || err != nil {
			return finished, err
		}
	}
	return false, nil
}

// Quiet waits until a resource is idle and has not changed for a while. It fails as
// Await does.
func (c *Cluster) Quiet(ctx context.Context, u *unstructured.Unstructured, idle func(*unstructured.Unstructured) bool, during time.Duration) error {
	for {
		if err := c.Await(ctx, u, func(u *unstructured.Unstructured) (bool, error) { return idle(u), nil }); err != nil {
			return err
		}
		version := u.GetResourceVersion()
		calm, stop := context.WithTimeout(ctx, during)
		err := c.Await(calm, u, func(u *unstructured.Unstructured) (bool, error) { return u.GetResourceVersion() != version, nil })
		over := calm.Err() != nil && ctx.Err() == nil
		stop()
		if over {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// problem turns an error of a client into a fault; nil stays nil.
func problem(err error, doing string) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*fault.Error](err); ok {
		return err
	}
	kind := fault.Unreachable
	switch {
	case apierrors.IsUnauthorized(err):
		kind = fault.Unauthorized
	case apierrors.IsConflict(err):
		kind = fault.Conflict
	case apierrors.IsForbidden(err), apierrors.IsInvalid(err), apierrors.IsBadRequest(err):
		kind = fault.Rejected
	case apierrors.IsNotFound(err), meta.IsNoMatchError(err):
		kind = fault.NotFound
	}
	return fault.New(kind, "%s", fmt.Sprintf("cannot %s: %s", doing, err)).Because(err)
}
