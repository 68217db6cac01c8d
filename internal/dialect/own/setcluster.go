package own

import (
	"bytes"
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
	"sigs.k8s.io/yaml"

	api "github.com/holdfastcd/holdfast/api/holdfast/v1alpha1"
	"github.com/holdfastcd/holdfast/internal/dialect"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/policy"
	"github.com/holdfastcd/holdfast/internal/policy/cel"
	"github.com/holdfastcd/holdfast/internal/schema"
)

// clusterKinds are the kinds of objects behind each name in spec.cluster.
var clusterKinds = map[string][]kschema.GroupKind{
	api.ClusterValidatingAdmissionPolicy: {
		{Group: "admissionregistration.k8s.io", Kind: "ValidatingAdmissionPolicy"},
		{Group: "admissionregistration.k8s.io", Kind: "ValidatingAdmissionPolicyBinding"},
	},
	api.ClusterKyverno: {
		{Group: "kyverno.io", Kind: "ClusterPolicy"},
		{Group: "kyverno.io", Kind: "Policy"},
		{Group: "policies.kyverno.io", Kind: "ValidatingPolicy"},
	},
	api.ClusterGatekeeper: {{Group: templateGroup, Kind: "ConstraintTemplate"}},
}

// The kinds of Gatekeeper's: each ConstraintTemplate defines the kind of its constraints.
const (
	templateGroup   = "templates.gatekeeper.sh"
	constraintGroup = "constraints.gatekeeper.sh"
)

// portion is what one list, or one watch, is of: all objects of a kind, or some.
type portion struct {
	kschema.GroupKind

	version   string // "" for the one that the cluster prefers
	namespace string // "" for any
	name      string // "" for any
	labels    string // a selector; "" for any
}

// served is what the cluster serves of it.
func (l portion) served(lookup func(kschema.GroupKind) (schema.Kind, bool)) (schema.Kind, bool) {
	kind, ok := lookup(l.GroupKind)
	if l.version != "" {
		kind.GVK.Version = l.version
	}
	return kind, ok
}

// of narrows a list or a watch to it.
func (l portion) of(o metav1.ListOptions) metav1.ListOptions {
	if l.name != "" {
		o.FieldSelector = fields.OneTermEqualSelector("metadata.name", l.name).String()
	}
	o.LabelSelector = l.labels
	return o
}

// in is where its objects are.
func (l portion) in(c dynamic.Interface, kind schema.Kind) dynamic.ResourceInterface {
	if l.namespace != "" && kind.Namespaced {
		return c.Resource(kind.GVR()).Namespace(l.namespace)
	}
	return c.Resource(kind.GVR())
}

// InEffect returns, of the policies of a name of spec.cluster, one object a document,
// those that can mean something to a delivery. What a cluster holds without effect is
// there for others, and no mistake of a set that takes it in.
func InEffect(name string, all []policy.Document) []policy.Document {
	switch name {
	case api.ClusterValidatingAdmissionPolicy:
		all, _ = cel.InEffect(all)
	case api.ClusterGatekeeper:
		all = constrained(all)
	}
	return all
}

// gatekept is what tells a template and a constraint apart.
type gatekept struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Spec       struct {
		CRD struct {
			Spec struct {
				Names struct {
					Kind string `json:"kind"`
				} `json:"names"`
			} `json:"spec"`
		} `json:"crd"`
	} `json:"spec"`
}

// defines is the kind of the constraints of a template; "" for what is none.
func (g gatekept) defines() string {
	if group, _, _ := strings.Cut(g.APIVersion, "/"); group == templateGroup {
		return g.Spec.CRD.Spec.Names.Kind
	}
	return ""
}

func gatekeptIn(all []policy.Document) []gatekept {
	heads := make([]gatekept, len(all))
	for i, d := range all {
		if yaml.Unmarshal(d.Content, &heads[i]) != nil {
			heads[i] = gatekept{} // those who compile it say what is wrong with it
		}
	}
	return heads
}

// constrained leaves out templates that nobody has set a constraint by, and constraints
// whose template is gone.
func constrained(all []policy.Document) []policy.Document {
	heads, defined, used := gatekeptIn(all), map[string]bool{}, map[string]bool{}
	for _, h := range heads {
		if kind := h.defines(); kind != "" {
			defined[kind] = true
		} else {
			used[h.Kind] = true
		}
	}
	var kept []policy.Document
	for i, h := range heads {
		if kind := h.defines(); kind != "" && used[kind] || kind == "" && (h.Kind == "" || defined[h.Kind]) {
			kept = append(kept, all[i])
		}
	}
	return kept
}

// namedBy is what the policies of a name refer to: the constraints of templates, and the
// parameters of bindings. Secrets are none: no policy is given what they hold.
func namedBy(name string, all []policy.Document) []portion {
	var more []portion
	switch name {
	case api.ClusterGatekeeper:
		for _, h := range gatekeptIn(all) {
			if kind := h.defines(); kind != "" {
				more = append(more, portion{GroupKind: kschema.GroupKind{Group: constraintGroup, Kind: kind}})
			}
		}
	case api.ClusterValidatingAdmissionPolicy:
		_, params := cel.InEffect(all)
		for _, p := range params {
			if gk := p.Kind.GroupKind(); gk != (kschema.GroupKind{Kind: "Secret"}) {
				more = append(more, portion{gk, p.Kind.Version, p.Namespace, p.Name, p.Labels})
			}
		}
	}
	return more
}

// taken is what a name of spec.cluster stands for.
type taken struct {
	documents []policy.Document
	served    bool // the cluster serves one of its kinds
}

// takeIn returns the policies behind a name, in the order of their names, with what they
// refer to; read returns the objects of a list. Errors are those of read, and Limit.
func takeIn(name string, lookup func(kschema.GroupKind) (schema.Kind, bool), read func(portion) ([]policy.Document, error)) (taken, error) {
	var t taken
	add := func(l portion) error {
		if _, served := l.served(lookup); !served {
			return nil
		}
		t.served = true
		found, err := read(l)
		t.documents = append(t.documents, found...)
		return err
	}
	for _, gk := range clusterKinds[name] {
		if err := add(portion{GroupKind: gk}); err != nil {
			return t, err
		}
	}
	policies := len(t.documents)
	for _, l := range namedBy(name, t.documents) {
		if err := add(l); err != nil {
			return t, err
		}
	}
	for i := range t.documents[policies:] {
		if name == api.ClusterValidatingAdmissionPolicy {
			quiet(&t.documents[policies+i])
		}
	}
	var err error
	if t.documents, err = sorted(t.documents); err == nil {
		t.documents = InEffect(name, t.documents)
	}
	return t, err
}

// quiet writes a parameter so that nothing in it looks like a policy of another
// language: it may be a tenant's, and would be a flaw of the set.
func quiet(d *policy.Document) {
	d.Content = bytes.ReplaceAll(d.Content, []byte("/"), []byte(`\u002f`))
}

// sorted returns documents in the order of their names, each once. The error is Limit.
func sorted(all []policy.Document) ([]policy.Document, error) {
	all = slices.SortedFunc(slices.Values(all), func(a, b policy.Document) int {
		return cmp.Or(strings.Compare(a.File, b.File), bytes.Compare(a.Content, b.Content))
	})
	// Kinds of two groups may have one name.
	all = slices.CompactFunc(all, func(a, b policy.Document) bool { return a.File == b.File && bytes.Equal(a.Content, b.Content) })
	size := 0
	for _, d := range all {
		size += len(d.Content)
	}
	if len(all) > maxPolicies || size > maxPolicyBytes {
		return nil, tooMany()
	}
	return all, nil
}

func tooMany() error {
	return fault.New(fault.Limit, "with their parameters they are more than %d objects or %d MiB", maxPolicies, maxPolicyBytes>>20).
		WithHint("name parameters in bindings by namespace and name")
}

// ReadCluster reads, once, the policies behind names of spec.cluster. absent are the names
// of which the cluster serves no kind. Errors are *fault.Error: Unreachable, Limit, and
// Rejected where they may not be listed.
func ReadCluster(ctx context.Context, c dynamic.Interface, lookup func(kschema.GroupKind) (schema.Kind, bool), names []string) (all []policy.Document, absent []string, err error) {
	for _, name := range names {
		t, err := takeIn(name, lookup, func(l portion) ([]policy.Document, error) {
			kind, _ := l.served(lookup)
			list, err := l.in(c, kind).List(ctx, l.of(metav1.ListOptions{Limit: maxPolicies + 1}))
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
		if !t.served {
			absent = append(absent, name)
		}
		all = append(all, t.documents...)
	}
	return all, absent, nil
}

// clusterLists holds the policies that lie in the cluster, of the kinds that sets take in.
type clusterLists struct {
	client  dynamic.Interface
	served  func(kschema.GroupKind) (schema.Kind, bool)
	changed func()

	mu    sync.Mutex
	lists map[portion]*clusterList
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
	return &clusterLists{client: c, served: served, changed: changed, lists: map[portion]*clusterList{}}
}

// keep watches what these names stand for, and nothing else.
func (l *clusterLists) keep(ctx context.Context, names []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	wanted := map[portion]bool{}
	for _, name := range names {
		// It fails by its bounds alone, and has asked for all lists by then.
		_, _ = takeIn(name, l.served, func(of portion) ([]policy.Document, error) {
			wanted[of] = true
			if list := l.lists[of]; list != nil {
				return slices.Collect(maps.Values(list.all)), nil
			}
			return nil, nil
		})
	}
	for of, list := range l.lists {
		if kind, served := of.served(l.served); !wanted[of] || !served || kind != list.kind {
			list.stop()
			delete(l.lists, of)
		}
	}
	for of := range wanted {
		if kind, served := of.served(l.served); served && l.lists[of] == nil {
			l.lists[of] = l.start(ctx, of, kind)
		}
	}
}

// unread is what is said of a list that nothing is wrong with.
const unread = "it is being read"

// take returns the policies behind a name. Errors are Waiting, while they are being read,
// and Limit.
func (l *clusterLists) take(name string) (taken, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return takeIn(name, l.served, func(of portion) ([]policy.Document, error) {
		list := l.lists[of]
		switch {
		case list == nil, !list.synced() && list.failed == "":
			return nil, fault.New(fault.Waiting, unread)
		case !list.synced():
			return nil, fault.New(fault.Waiting, "%s", list.failed)
		case list.over:
			return nil, tooMany()
		}
		return slices.Collect(maps.Values(list.all)), nil
	})
}

// start begins to watch.
func (l *clusterLists) start(ctx context.Context, of portion, kind schema.Kind) *clusterList {
	ctx, cancel := context.WithCancel(ctx)
	list := &clusterList{kind: kind, stop: cancel, all: map[string]policy.Document{}}
	resource := of.in(l.client, kind)
	informer := toolscache.NewSharedIndexInformer(&toolscache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			return resource.List(ctx, of.of(o))
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			return resource.Watch(ctx, of.of(o))
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
func (l *clusterLists) fails(of portion, list *clusterList, err error) {
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
	if len(list.all) < maxPolicies && list.size+len(d.Content) <= maxPolicyBytes || list.all[d.File].File != "" {
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
	if !gone || !list.over || len(list.all) >= maxPolicies {
		return
	}
	list.stop()
	maps.DeleteFunc(l.lists, func(_ portion, other *clusterList) bool { return other == list })
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
		case !t.served:
			c.absent = append(c.absent, name)
		}
		documents = append(documents, t.documents...)
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
