package overview

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	api "github.com/holdfastcd/holdfast/api/argo/v1alpha1"
	"github.com/holdfastcd/holdfast/internal/fault"
)

// Deleted is the state of a resource that is gone; only [Reader.Watch] tells it.
const Deleted = "Deleted"

// kinds are those that are summarised, with the names they go by.
var kinds = []struct {
	names []string
	list  func() client.ObjectList
}{
	{[]string{"application", "applications", "app", "apps"}, func() client.ObjectList { return &api.ApplicationList{} }},
	{[]string{"gitrepository", "gitrepositories", "gitrepo"}, func() client.ObjectList { return &sourcev1.GitRepositoryList{} }},
	{[]string{"kustomization", "kustomizations", "ks"}, func() client.ObjectList { return &kustomizev1.KustomizationList{} }},
}

// Scheme returns the kinds of both dialects as Go types. An error is a defect.
func Scheme() (*runtime.Scheme, error) {
	s := runtime.NewScheme()
	err := errors.Join(api.AddToScheme(s), sourcev1.AddToScheme(s), kustomizev1.AddToScheme(s))
	if err != nil {
		return nil, fault.New(fault.Internal, "cannot register a kind: %s", err)
	}
	return s, nil
}

// Reader reads a choice of resources from a cluster.
type Reader struct {
	client    client.WithWatch
	namespace string // empty: all
	name      string // empty: all
	lists     []func() client.ObjectList
	versions  []string // where the watch goes on, for each of lists
}

// NewReader returns a reader of the resources of a kind (empty: every kind; its
// plural and short names serve as well) in a namespace (empty: all) with a name
// (empty: any). It fails with Invalid for an unknown kind.
func NewReader(cfg *rest.Config, kind, namespace, name string) (*Reader, error) {
	lists, err := find(kind)
	if err != nil {
		return nil, err
	}
	r := &Reader{namespace: namespace, name: name, lists: lists, versions: make([]string, len(lists))}
	scheme, err := Scheme()
	if err != nil {
		return nil, err
	}
	if r.client, err = client.NewWithWatch(cfg, client.Options{Scheme: scheme}); err != nil {
		return nil, fault.New(fault.Invalid, "cannot use the configuration of the cluster: %s", err).Because(err)
	}
	return r, nil
}

// CheckKind returns the error that NewReader has for a kind; nil if it is known.
func CheckKind(kind string) error {
	_, err := find(kind)
	return err
}

func find(kind string) ([]func() client.ObjectList, error) {
	var lists []func() client.ObjectList
	for _, k := range kinds {
		if kind == "" || slices.Contains(k.names, strings.ToLower(kind)) {
			lists = append(lists, k.list)
		}
	}
	if len(lists) == 0 {
		return nil, fault.New(fault.Invalid, "there is no kind %q", kind).WithHint("choose application, gitrepository or kustomization")
	}
	return lists, nil
}

// List reads all resources, by kind, namespace and name. A kind that the cluster
// does not define is left out; it fails with NotFound if it defines none. Other
// errors are those of the client.
func (r *Reader) List(ctx context.Context) ([]Row, error) {
	var rows []Row
	var unknown error
	known := false
	for i, list := range r.lists {
		l := list()
		err := r.client.List(ctx, l, client.InNamespace(r.namespace))
		if meta.IsNoMatchError(err) || apierrors.IsNotFound(err) {
			unknown = err
			continue
		}
		if err != nil {
			return nil, err
		}
		known = true
		r.versions[i] = l.GetResourceVersion()
		rows = append(rows, r.rows(l)...)
	}
	if !known {
		return nil, fault.New(fault.NotFound, "the cluster does not define what Holdfast reads").
			WithHint("run 'holdfast install --crds-only' first").Because(unknown)
	}
	slices.SortFunc(rows, func(a, b Row) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return rows, nil
}

func (r *Reader) rows(list client.ObjectList) []Row {
	var rows []Row
	_ = meta.EachListItem(list, func(item runtime.Object) error { // the function never fails
		if o, ok := item.(client.Object); ok && r.wants(o) {
			rows = append(rows, Describe(o))
		}
		return nil
	})
	return rows
}

func (r *Reader) wants(o metav1.Object) bool { return r.name == "" || o.GetName() == r.name }

// Watch calls changed for every resource that reads differently than it did, from
// what List returned on, until ctx ends or changed fails, whose error it returns.
// Calls do not overlap. It survives an API server that is away for a while.
func (r *Reader) Watch(ctx context.Context, from []Row, changed func(Row) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	seen := make(chan Row)
	for i, list := range r.lists {
		go r.watch(ctx, list, r.versions[i], seen)
	}
	last := map[[3]string]Row{}
	for _, row := range from {
		last[row.key()] = row
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case row := <-seen:
			if last[row.key()] == row {
				continue
			}
			last[row.key()] = row
			if err := changed(row); err != nil {
				return err
			}
		}
	}
}

func (r *Row) key() [3]string { return [3]string{r.Kind, r.Namespace, r.Name} }

// watch sends what there is of one kind as it changes, from version on, or from a
// new list where there is none or the watch has ended.
func (r *Reader) watch(ctx context.Context, list func() client.ObjectList, version string, to chan<- Row) {
	for ctx.Err() == nil {
		if version == "" {
			l := list()
			if err := r.client.List(ctx, l, client.InNamespace(r.namespace)); err != nil {
				pause(ctx)
				continue
			}
			for _, row := range r.rows(l) {
				send(ctx, to, row)
			}
			version = l.GetResourceVersion()
		}
		w, err := r.client.Watch(ctx, list(), client.InNamespace(r.namespace), from(version))
		version = ""
		if err != nil {
			pause(ctx)
			continue
		}
		r.drain(ctx, w, to)
	}
}

func from(version string) client.ListOption {
	return &client.ListOptions{Raw: &metav1.ListOptions{ResourceVersion: version}}
}

// drain sends what a watch shows until it ends.
func (r *Reader) drain(ctx context.Context, w watch.Interface, to chan<- Row) {
	defer w.Stop()
	for event := range w.ResultChan() {
		o, ok := event.Object.(client.Object)
		if !ok || !r.wants(o) || event.Type == watch.Bookmark {
			continue
		}
		row := Describe(o)
		if event.Type == watch.Deleted {
			row.State, row.Message = Deleted, ""
		}
		send(ctx, to, row)
	}
}

func send(ctx context.Context, to chan<- Row, row Row) {
	select {
	case to <- row:
	case <-ctx.Done():
	}
}

// pause leaves an API server alone for a moment.
func pause(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-time.After(time.Second):
	}
}
