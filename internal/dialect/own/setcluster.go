package own

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	kschema "k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	toolscache "k8s.io/client-go/tools/cache"

	"github.com/holdfastcd/holdfast/internal/dialect"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/policy"
	"github.com/holdfastcd/holdfast/internal/policy/installed"
	"github.com/holdfastcd/holdfast/internal/schema"
)

// narrowed are the options of a list or a watch of one part.
func narrowed(p installed.Part, o metav1.ListOptions) metav1.ListOptions {
	if p.Name != "" {
		o.FieldSelector = fields.OneTermEqualSelector("metadata.name", p.Name).String()
	}
	o.LabelSelector = p.Labels
	return o
}

// placed is where the objects of a part are.
func placed(p installed.Part, c dynamic.Interface, kind schema.Kind) dynamic.ResourceInterface {
	if p.Namespace != "" && kind.Namespaced {
		return c.Resource(kind.GVR()).Namespace(p.Namespace)
	}
	return c.Resource(kind.GVR())
}

// ReadCluster reads, once, the policies behind names of spec.cluster. absent are the names
// of which the cluster serves no kind. Errors are *fault.Error: Unreachable, Limit, and
// Rejected where they may not be listed.
func ReadCluster(ctx context.Context, c dynamic.Interface, lookup func(kschema.GroupKind) (schema.Kind, bool), names []string) (all []policy.Document, absent []string, err error) {
	for _, name := range names {
		t, err := installed.Take(name, lookup, func(l installed.Part) ([]policy.Document, error) {
			kind, _ := l.Kind(lookup)
			list, err := placed(l, c, kind).List(ctx, narrowed(l, metav1.ListOptions{Limit: installed.MaxPolicies + 1}))
			switch {
			case apierrors.IsForbidden(err):
				return nil, fault.New(fault.Rejected, "%s may not be listed: %s", l.GroupKind, err).Because(err)
			case err != nil:
				return nil, fault.New(fault.Unreachable, "%s cannot be listed: %s", l.GroupKind, err).Because(err)
			}
			var found []policy.Document
			for i := range list.Items {
				found = append(found, documentOf(&list.Items[i]))
			}
			return found, nil
		})
		if err != nil {
			return nil, nil, err
		}
		if !t.Served {
			absent = append(absent, name)
		}
		all = append(all, t.Documents...)
	}
	return all, absent, nil
}

// clusterLists holds the policies that lie in the cluster, of the kinds that sets take in.
type clusterLists struct {
	client  dynamic.Interface
	served  func(kschema.GroupKind) (schema.Kind, bool)
	changed func()

	mu    sync.Mutex
	lists map[installed.Part]*clusterList
}

// clusterList is the objects of one watch.
type clusterList struct {
	kind   schema.Kind
	stop   context.CancelFunc
	synced func() bool
	failed string // why the last list or watch failed
	all    map[string]policy.Document
	size   int
	over   bool // there are more than are held
}

func newClusterLists(c dynamic.Interface, served func(kschema.GroupKind) (schema.Kind, bool), changed func()) *clusterLists {
	return &clusterLists{client: c, served: served, changed: changed, lists: map[installed.Part]*clusterList{}}
}

// keep watches what these names stand for, and nothing else.
func (l *clusterLists) keep(ctx context.Context, names []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	wanted := map[installed.Part]bool{}
	for _, name := range names {
		// It fails by its bounds alone, and has asked for all lists by then.
		_, _ = installed.Take(name, l.served, func(of installed.Part) ([]policy.Document, error) {
			wanted[of] = true
			if list := l.lists[of]; list != nil {
				return slices.Collect(maps.Values(list.all)), nil
			}
			return nil, nil
		})
	}
	for of, list := range l.lists {
		if kind, served := of.Kind(l.served); !wanted[of] || !served || kind != list.kind {
			list.stop()
			delete(l.lists, of)
		}
	}
	for of := range wanted {
		if kind, served := of.Kind(l.served); served && l.lists[of] == nil {
			l.lists[of] = l.start(ctx, of, kind)
		}
	}
}

// unread is what is said of a list that nothing is wrong with.
const unread = "it is being read"

// take returns the policies behind a name. Errors are Waiting, while they are being read,
// and Limit.
func (l *clusterLists) take(name string) (installed.Taken, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return installed.Take(name, l.served, func(of installed.Part) ([]policy.Document, error) {
		list := l.lists[of]
		switch {
		case list == nil, !list.synced() && list.failed == "":
			return nil, fault.New(fault.Waiting, unread)
		case !list.synced():
			return nil, fault.New(fault.Waiting, "%s", list.failed)
		case list.over:
			return nil, installed.TooMany()
		}
		return slices.Collect(maps.Values(list.all)), nil
	})
}

// start begins to watch.
func (l *clusterLists) start(ctx context.Context, of installed.Part, kind schema.Kind) *clusterList {
	ctx, cancel := context.WithCancel(ctx)
	list := &clusterList{kind: kind, stop: cancel, all: map[string]policy.Document{}}
	resource := placed(of, l.client, kind)
	informer := toolscache.NewSharedIndexInformer(&toolscache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			return resource.List(ctx, narrowed(of, o))
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			return resource.Watch(ctx, narrowed(of, o))
		},
	}, &unstructured.Unstructured{}, 0, nil)
	// The errors below are those of an informer that has been started.
	_ = informer.SetTransform(func(x any) (any, error) { return l.held(list, x) })
	_ = informer.SetWatchErrorHandlerWithContext(func(_ context.Context, _ *toolscache.Reflector, err error) { l.fails(of, list, err) })
	registration, err := informer.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
		AddFunc:    func(x any) { l.seen(list, x, false) },
		UpdateFunc: func(_, x any) { l.seen(list, x, false) },
		DeleteFunc: func(x any) { l.seen(list, x, true) },
	})
	list.synced = func() bool { return err == nil && registration.HasSynced() }
	go informer.RunWithContext(ctx)
	go func() {
		if err == nil && toolscache.WaitForCacheSync(ctx.Done(), registration.HasSynced) {
			l.changed()
		}
	}()
	return list
}

// fails notes why a kind cannot be read, so that who waits for it hears of it. Who has
// read it keeps what it was until the watch is there again.
func (l *clusterLists) fails(of installed.Part, list *clusterList, err error) {
	text := fmt.Sprintf("%s cannot be listed: %s", of.GroupKind, err)
	l.mu.Lock()
	news := !list.synced() && list.failed != text
	list.failed = text
	l.mu.Unlock()
	if news {
		l.changed()
	}
}

// held is what is kept of an object: little of one, if there are more than may be.
func (l *clusterLists) held(list *clusterList, x any) (any, error) {
	x, err := dialect.Slim(x)
	u, ok := x.(*unstructured.Unstructured)
	if err != nil || !ok {
		return x, err
	}
	d := documentOf(u)
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(list.all) < installed.MaxPolicies && list.size+len(d.Content) <= installed.MaxBytes || list.all[d.File].File != "" {
		return u, nil
	}
	list.over = true
	bare := &unstructured.Unstructured{Object: map[string]any{"apiVersion": u.GetAPIVersion(), "kind": u.GetKind()}}
	bare.SetNamespace(u.GetNamespace())
	bare.SetName(u.GetName())
	bare.SetUID(u.GetUID())
	bare.SetResourceVersion(u.GetResourceVersion())
	return bare, nil
}

// seen takes in an object, or that it is gone.
func (l *clusterLists) seen(list *clusterList, x any, gone bool) {
	if tombstone, ok := x.(toolscache.DeletedFinalStateUnknown); ok {
		x = tombstone.Obj
	}
	u, ok := x.(*unstructured.Unstructured)
	if !ok {
		return
	}
	d := documentOf(u)
	l.mu.Lock()
	before, had := list.all[d.File]
	list.size -= len(before.Content)
	delete(list.all, d.File)
	if !gone {
		list.all[d.File], list.size = d, list.size+len(d.Content)
	}
	l.restart(list, gone)
	synced := list.synced()
	l.mu.Unlock()
	if synced && (gone || !had || string(before.Content) != string(d.Content)) {
		l.changed()
	}
}

// restart has a watch that saw more than is held begin again when there is room. l.mu is
// held.
func (l *clusterLists) restart(list *clusterList, gone bool) {
	if !gone || !list.over || len(list.all) >= installed.MaxPolicies {
		return
	}
	list.stop()
	maps.DeleteFunc(l.lists, func(_ installed.Part, other *clusterList) bool { return other == list })
}

// takeIn returns what the cluster holds of the policies that a set takes in, or why that
// cannot be judged by. It notes what is not read yet, and what the cluster does not serve.
func (c *currentSet) takeIn(lists *clusterLists) (documents []policy.Document, broken string) {
	c.absent = nil
	for _, name := range c.Cluster {
		t, err := lists.take(name)
		switch about := "what the cluster holds of " + name; {
		case fault.KindOf(err) == fault.Waiting:
			if why := fault.From(err).Msg; why != unread {
				about += " (" + why + ")"
			}
			c.waiting = cmp.Or(c.waiting, about)
		case err != nil:
			broken = cmp.Or(broken, about+" cannot be judged by: "+fault.From(err).Error())
		case !t.Served:
			c.absent = append(c.absent, name)
		}
		documents = append(documents, t.Documents...)
	}
	return documents, broken
}

// documentOf is an object of the cluster as a file with policies would hold it.
func documentOf(u *unstructured.Unstructured) policy.Document {
	bare := map[string]any{"apiVersion": u.GetAPIVersion(), "kind": u.GetKind()}
	metadata := map[string]any{"name": u.GetName()}
	if u.GetNamespace() != "" {
		metadata["namespace"] = u.GetNamespace()
	}
	if labels, ok, _ := unstructured.NestedMap(u.Object, "metadata", "labels"); ok {
		metadata["labels"] = labels
	}
	if annotations, ok, _ := unstructured.NestedMap(u.Object, "metadata", "annotations"); ok {
		delete(annotations, "kubectl.kubernetes.io/last-applied-configuration")
		metadata["annotations"] = annotations
	}
	bare["metadata"] = metadata
	for field, value := range u.Object {
		if field != "status" && field != "metadata" {
			bare[field] = value
		}
	}
	content, err := json.Marshal(bare)
	if err != nil {
		content = nil // an object of the API server is JSON
	}
	return policy.Document{File: "cluster/" + strings.ReplaceAll(strings.Trim(u.GetKind()+"/"+u.GetNamespace()+"/"+u.GetName(), "/"), "//", "/") + ".json", Content: content}
}

// watchNamespaces follows the labels of namespaces, from the first set on. p.mu is held.
func (p *PolicySets) watchNamespaces(ctx context.Context) {
	if p.spaces != nil {
		return
	}
	p.spaces = map[string]map[string]string{}
	of := p.bare.Resource(kschema.GroupVersionResource{Version: "v1", Resource: "namespaces"})
	informer := toolscache.NewSharedIndexInformer(&toolscache.ListWatch{
		ListWithContextFunc:  func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return of.List(ctx, o) },
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) { return of.Watch(ctx, o) },
	}, &metav1.PartialObjectMetadata{}, 0, nil)
	// The errors below are those of an informer that has been started.
	_ = informer.SetTransform(func(x any) (any, error) {
		if m, ok := x.(*metav1.PartialObjectMetadata); ok {
			m.ManagedFields, m.Annotations = nil, nil
		}
		return x, nil
	})
	registration, err := informer.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
		AddFunc:    func(x any) { p.seenNamespace(x, false) },
		UpdateFunc: func(_, x any) { p.seenNamespace(x, false) },
		DeleteFunc: func(x any) { p.seenNamespace(x, true) },
	})
	p.spacious = func() bool { return err == nil && registration.HasSynced() }
	go informer.RunWithContext(ctx)
	go func() {
		if err == nil && toolscache.WaitForCacheSync(ctx.Done(), registration.HasSynced) {
			p.mu.Lock()
			p.settle()
			known := p.known
			p.mu.Unlock()
			if known {
				p.options.Changed() // who asked was told to wait
			}
		}
	}()
}

// seenNamespace takes in the labels of a namespace.
func (p *PolicySets) seenNamespace(x any, gone bool) {
	if tombstone, ok := x.(toolscache.DeletedFinalStateUnknown); ok {
		x = tombstone.Obj
	}
	m, ok := x.(*metav1.PartialObjectMetadata)
	if !ok {
		return
	}
	p.mu.Lock()
	before, had := p.spaces[m.Name]
	labels := m.Labels
	if labels == nil {
		labels = map[string]string{}
	}
	if gone {
		delete(p.spaces, m.Name)
	} else {
		p.spaces[m.Name] = labels
	}
	p.mu.Unlock()
	if had && (gone || !maps.Equal(before, labels)) {
		p.options.Changed() // those that lie in it are judged again
	}
}

// NamespaceLabels returns the labels of a namespace of the cluster; nil if there is no
// such namespace, or nobody knows yet.
func (p *PolicySets) NamespaceLabels(namespace string) map[string]string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.spaces[namespace]
}
