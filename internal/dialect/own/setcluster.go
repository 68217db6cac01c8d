package own

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	kschema "k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	toolscache "k8s.io/client-go/tools/cache"

	api "github.com/holdfastcd/holdfast/api/holdfast/v1alpha1"
	"github.com/holdfastcd/holdfast/internal/dialect"
	"github.com/holdfastcd/holdfast/internal/policy"
	"github.com/holdfastcd/holdfast/internal/schema"
)

// clusterKinds are the kinds of objects behind each name in spec.cluster.
var clusterKinds = map[string][]kschema.GroupKind{
	api.ClusterValidatingAdmissionPolicy: {
		admissionPolicies,
		{Group: "admissionregistration.k8s.io", Kind: "ValidatingAdmissionPolicyBinding"},
	},
	api.ClusterKyverno: {
		{Group: "kyverno.io", Kind: "ClusterPolicy"},
		{Group: "kyverno.io", Kind: "Policy"},
		{Group: "policies.kyverno.io", Kind: "ValidatingPolicy"},
	},
	api.ClusterGatekeeper: {templates},
}

// Kinds of which objects name others: each of Gatekeeper's ConstraintTemplates defines the
// kind of its constraints, and a ValidatingAdmissionPolicy may name that of its parameters.
var (
	templates         = kschema.GroupKind{Group: "templates.gatekeeper.sh", Kind: "ConstraintTemplate"}
	admissionPolicies = kschema.GroupKind{Group: "admissionregistration.k8s.io", Kind: "ValidatingAdmissionPolicy"}
)

// namedBy returns the kind that an object names; none if it names none. Parameters in
// ConfigMaps and other kinds of the core are left out: nobody wants all of these read.
func namedBy(gk kschema.GroupKind, u *unstructured.Unstructured) kschema.GroupKind {
	switch gk {
	case templates:
		kind, _, _ := unstructured.NestedString(u.Object, "spec", "crd", "spec", "names", "kind")
		return kschema.GroupKind{Group: "constraints.gatekeeper.sh", Kind: kind}
	case admissionPolicies:
		version, _, _ := unstructured.NestedString(u.Object, "spec", "paramKind", "apiVersion")
		kind, _, _ := unstructured.NestedString(u.Object, "spec", "paramKind", "kind")
		if gv, err := kschema.ParseGroupVersion(version); err == nil && gv.Group != "" {
			return kschema.GroupKind{Group: gv.Group, Kind: kind}
		}
	}
	return kschema.GroupKind{}
}

// clusterLists holds the policies that lie in the cluster, of the kinds that sets take in.
type clusterLists struct {
	client  dynamic.Interface
	served  func(kschema.GroupKind) (schema.Kind, bool)
	changed func()

	mu    sync.Mutex
	lists map[kschema.GroupKind]*clusterList
}

// clusterList is the objects of a kind.
type clusterList struct {
	stop   context.CancelFunc
	synced func() bool
	all    map[string]policy.Document
	kinds  map[string]kschema.GroupKind // that objects name, by their names
}

func newClusterLists(c dynamic.Interface, served func(kschema.GroupKind) (schema.Kind, bool), changed func()) *clusterLists {
	return &clusterLists{client: c, served: served, changed: changed, lists: map[kschema.GroupKind]*clusterList{}}
}

// keep watches what these names stand for, and nothing else.
func (l *clusterLists) keep(ctx context.Context, names []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	wanted := map[kschema.GroupKind]bool{}
	for _, n := range names {
		for _, gk := range l.kindsOf(n) {
			wanted[gk] = true
		}
	}
	for gk, list := range l.lists {
		if _, served := l.served(gk); !wanted[gk] || !served {
			list.stop()
			delete(l.lists, gk)
		}
	}
	for gk := range wanted {
		if kind, served := l.served(gk); served && l.lists[gk] == nil {
			l.lists[gk] = l.start(ctx, gk, kind)
		}
	}
}

// kindsOf are the kinds behind a name, with those that their objects name. l.mu is held.
func (l *clusterLists) kindsOf(name string) []kschema.GroupKind {
	kinds := slices.Clone(clusterKinds[name])
	for _, gk := range clusterKinds[name] {
		if list := l.lists[gk]; list != nil {
			kinds = slices.AppendSeq(kinds, maps.Values(list.kinds))
		}
	}
	return kinds
}

// documents are the policies behind a name, in the order of their names; false while they
// are being read. Of kinds that the cluster does not serve there are none.
func (l *clusterLists) documents(name string) ([]policy.Document, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := map[string]policy.Document{}
	for _, gk := range l.kindsOf(name) {
		if _, served := l.served(gk); !served {
			continue
		}
		list := l.lists[gk]
		if list == nil || !list.synced() {
			return nil, false
		}
		maps.Copy(all, list.all)
	}
	documents := make([]policy.Document, 0, len(all))
	for _, file := range slices.Sorted(maps.Keys(all)) {
		documents = append(documents, all[file])
	}
	return documents, true
}

// start begins to watch a kind.
func (l *clusterLists) start(ctx context.Context, gk kschema.GroupKind, kind schema.Kind) *clusterList {
	ctx, cancel := context.WithCancel(ctx)
	list := &clusterList{stop: cancel, all: map[string]policy.Document{}, kinds: map[string]kschema.GroupKind{}}
	resource := l.client.Resource(kind.GVK.GroupVersion().WithResource(kind.Resource))
	informer := toolscache.NewSharedIndexInformer(listWatch(resource), &unstructured.Unstructured{}, 0, nil)
	// The errors below are those of an informer that has been started.
	_ = informer.SetTransform(dialect.Slim)
	registration, err := informer.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
		AddFunc:    func(x any) { l.seen(gk, list, x, false) },
		UpdateFunc: func(_, x any) { l.seen(gk, list, x, false) },
		DeleteFunc: func(x any) { l.seen(gk, list, x, true) },
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

// seen takes in an object, or that it is gone.
func (l *clusterLists) seen(gk kschema.GroupKind, list *clusterList, x any, gone bool) {
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
	if gone {
		delete(list.all, d.File)
		delete(list.kinds, u.GetName())
	} else {
		list.all[d.File] = d
		delete(list.kinds, u.GetName())
		if named := namedBy(gk, u); named.Kind != "" {
			list.kinds[u.GetName()] = named
		}
	}
	synced := list.synced != nil && list.synced()
	l.mu.Unlock()
	if synced && (gone || !had || string(before.Content) != string(d.Content)) {
		l.changed()
	}
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
