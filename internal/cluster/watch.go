package cluster

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/conversion/queryparams"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/object"
	hschema "github.com/holdfastcd/holdfast/internal/schema"
)

// What the API server is asked to answer with: metadata alone, as protobuf where
// it can, or whole objects.
const (
	acceptMeta = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1," +
		"application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json"
	acceptMetaList = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1," +
		"application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json"
	acceptWhole    = "application/json"
	acceptMetaJSON = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json"
)

// Watch makes sure that a watch of each kind runs and returns when all have shown
// what exists. From then on [Cluster.Look] answers for the kind, and changes are
// told to those who subscribed. Kinds are watched once, whichever of their
// versions is asked for. Errors: Rejected with the rule to grant, Unauthorized,
// NotFound (the kind is not served), Unsupported (it cannot be watched),
// Unreachable; a watch that failed goes on trying.
func (c *Cluster) Watch(ctx context.Context, kinds ...hschema.Kind) error {
	return c.watch(ctx, false, kinds)
}

// WatchWhole is [Cluster.Watch] of whole objects, which are judged by their health.
// A kind that was watched by its metadata until now is watched anew; once it is
// watched whole it stays so.
func (c *Cluster) WatchWhole(ctx context.Context, kinds ...hschema.Kind) error {
	return c.watch(ctx, true, kinds)
}

func (c *Cluster) watch(ctx context.Context, whole bool, kinds []hschema.Kind) error {
	watchers := make([]*watcher, 0, len(kinds))
	for _, k := range kinds {
		w, err := c.ensure(k, whole) //nolint:contextcheck // a watch outlives the call that asks for it
		if err != nil {
			return err
		}
		watchers = append(watchers, w)
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	for _, w := range watchers {
		if err := w.wait(ctx); err != nil {
			return err
		}
	}
	return nil
}

// Forget ends the watch of a kind and drops its records, without events.
func (c *Cluster) Forget(gk schema.GroupKind) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if w := c.watches[gk]; w != nil {
		w.stop()
		delete(c.watches, gk)
	}
}

// drop ends the watch of a kind that is not served any more: its objects are gone.
func (c *Cluster) drop(gk schema.GroupKind) {
	w := c.watcher(gk)
	if w == nil {
		return
	}
	c.Forget(gk)
	for _, ch := range w.records.replace(nil, "") {
		w.tell(ch)
	}
}

// ensure returns the running watch of a kind. One that failed before it was
// complete, whose version is not served any more, or that shows less than is asked
// for, is begun anew.
func (c *Cluster) ensure(k hschema.Kind, whole bool) (*watcher, error) {
	kinds := c.kinds.Load()
	switch {
	case c.life == nil:
		return nil, fault.New(fault.Internal, "the connection is not started")
	case k.Resource == "":
		return nil, fault.New(fault.NotFound, "the cluster does not serve %s", k.GVK).Because(ErrNotServed)
	case kinds.blind[k.GVK]:
		return nil, fault.New(fault.Unsupported, "%s cannot be watched", k.GVK)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	gk := k.GVK.GroupKind()
	old := c.watches[gk]
	if old != nil {
		_, served := kinds.served[old.kind.GVK]
		whole = whole || old.whole
		if !old.failedFor(c.opts.Clock(), restartFailedOnce) && (served || old.kind == k) && old.whole == whole {
			return old, nil
		}
		old.stop()
	}
	w, err := c.newWatcher(k, whole, old)
	if err != nil {
		return nil, err
	}
	c.watches[gk] = w
	ctx, stop := context.WithCancel(c.life)
	w.stop = stop
	c.running.Go(func() { w.run(ctx) })
	return w, nil
}

// Wait returns when all watches have ended, which they do after the context of
// [Cluster.Start] has.
func (c *Cluster) Wait() { c.running.Wait() }

// watcher keeps the records of one kind current. It is the store of a reflector,
// which lists, watches, and begins anew when the watch breaks.
type watcher struct {
	c         *Cluster
	kind      hschema.Kind
	whole     bool // objects are seen whole, and judged
	inherited bool // records come from the watch before: the first list makes events
	client    *rest.RESTClient
	records   *records
	stop      context.CancelFunc

	synced chan struct{} // closed when the first list is complete
	failed chan struct{} // closed at the first failure
	once   sync.Once     // closes synced
	mu     sync.Mutex
	err    error // the last failure; nil while all is well
	at     time.Time
}

func (c *Cluster) newWatcher(k hschema.Kind, whole bool, old *watcher) (*watcher, error) {
	gk := k.GVK.GroupKind()
	w := &watcher{
		c: c, kind: k,
		whole:   whole || gk == crdKind || c.opts.NeedsObject(gk),
		records: &records{all: map[key]Record{}},
		synced:  make(chan struct{}),
		failed:  make(chan struct{}),
	}
	if old != nil && old.isSynced() {
		w.records, w.inherited = old.records, true
	}
	var err error
	w.client, err = c.reader(w)
	return w, err
}

// reader returns a client whose responses are reduced, and judged as w says.
func (c *Cluster) reader(w *watcher) (*rest.RESTClient, error) {
	return c.client(reducer{codecs(), c, w})
}

func (c *Cluster) client(s runtime.NegotiatedSerializer) (*rest.RESTClient, error) {
	cfg := *c.config
	cfg.NegotiatedSerializer = s
	return rest.RESTClientForConfigAndClient(&cfg, c.http)
}

func (w *watcher) run(ctx context.Context) {
	r := cache.NewReflectorWithOptions(&cache.ListWatch{
		ListWithContextFunc:  w.list,
		WatchFuncWithContext: w.open,
	}, nil, w, cache.ReflectorOptions{Name: w.kind.GVR().String(), TypeDescription: w.kind.GVK.String()})
	r.RunWithContext(klog.NewContext(ctx, logr.Discard())) // failures are told by fail
}

func (w *watcher) get(o metav1.ListOptions, accept string) (*rest.Request, error) {
	values, err := queryparams.Convert(&o)
	if err != nil {
		return nil, err
	}
	r := w.client.Get().AbsPath(urlPath(w.kind, "", "")...).SetHeader("Accept", accept).MaxRetries(0)
	for name := range values {
		r.Param(name, values.Get(name))
	}
	return r, nil
}

func (w *watcher) list(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
	accept := acceptMetaList
	if w.whole {
		accept = acceptWhole
	}
	r, err := w.get(o, accept)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	l, err := r.Do(ctx).Get()
	w.fail(err)
	return l, err
}

// open begins a watch. A kind that was established a moment ago may not be
// served yet, or its cache not be ready (which the API server answers with 429):
// that is waited for, here, a little.
func (w *watcher) open(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
	accept := acceptMeta
	if w.whole {
		accept = acceptWhole
	}
	o.Watch = true
	r, err := w.get(o, accept)
	if err != nil {
		return nil, err
	}
	for delay := 20 * time.Millisecond; ; delay *= 2 {
		i, err := r.Watch(ctx)
		if err == nil {
			w.recovered()
			return i, nil
		}
		if !apierrors.IsNotFound(err) && !apierrors.IsTooManyRequests(err) || delay > time.Second || ctx.Err() != nil {
			w.failedToOpen(o, err)
			return nil, err
		}
		sleep(ctx, delay)
	}
}

// failedToOpen takes a failure, unless the reflector goes on to list instead of
// watching from the beginning: then the list tells.
func (w *watcher) failedToOpen(o metav1.ListOptions, err error) {
	if o.SendInitialEvents == nil || utilnet.IsConnectionRefused(err) || apierrors.IsTooManyRequests(err) {
		w.fail(err)
	}
}

func (w *watcher) fail(err error) {
	if err == nil || errors.Is(err, context.Canceled) || apierrors.IsResourceExpired(err) || apierrors.IsGone(err) {
		return
	}
	f := explain(err, request{verb: "watch", kind: w.kind})
	w.c.log.Warn("a watch failed and is tried again", "kind", w.kind.GVK.String(), "error", f)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.err, w.at = f, w.c.opts.Clock()
	select {
	case <-w.failed:
	default:
		close(w.failed)
	}
}

func (w *watcher) recovered() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.err = nil
}

func (w *watcher) isSynced() bool {
	select {
	case <-w.synced:
		return true
	default:
		return false
	}
}

// failedFor reports whether the watch failed before it was complete, and not
// just now.
func (w *watcher) failedFor(now time.Time, d time.Duration) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return !w.isSynced() && w.err != nil && now.Sub(w.at) >= d
}

// wait returns when the records are complete, or why they cannot be.
func (w *watcher) wait(ctx context.Context) error {
	select {
	case <-w.synced:
		return w.lost()
	default:
	}
	select {
	case <-w.synced:
		return w.lost()
	case <-w.failed:
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.err != nil {
			return w.err
		}
		return fault.New(fault.Unreachable, "the watch of %s is being tried again", w.kind.GVK)
	case <-ctx.Done():
		return fault.New(fault.Unreachable, "the API server did not list %s in time", w.kind.GVK).Because(ctx.Err())
	}
}

// lost returns why a watch that was complete cannot go on, if time alone will
// not mend it: its records must not be trusted any more.
func (w *watcher) lost() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil || fault.KindOf(w.err) == fault.Unreachable {
		return nil
	}
	return w.err
}

// Add implements cache.ReflectorStore.
func (w *watcher) Add(o any) error { return w.Update(o) }

// Update implements cache.ReflectorStore.
func (w *watcher) Update(o any) error {
	s, err := asSeen(o)
	if err != nil {
		return err
	}
	if w.kind.GVK.GroupKind() == crdKind && s.crd != nil {
		w.c.learn(map[string]*declared{s.key.name: s.crd})
	}
	if w.records.put(s.key, s.record) {
		w.tell(change{s.key, s.record, false})
	}
	return nil
}

// Delete implements cache.ReflectorStore.
func (w *watcher) Delete(o any) error {
	s, err := asSeen(o)
	if err != nil {
		return err
	}
	if w.kind.GVK.GroupKind() == crdKind {
		w.c.learn(map[string]*declared{s.key.name: nil})
	}
	if w.records.remove(s.key, s.record.ResourceVersion) {
		w.tell(change{s.key, s.record, true})
	}
	return nil
}

// Replace implements cache.ReflectorStore: a complete list.
func (w *watcher) Replace(items []any, resourceVersion string) error {
	list := make(map[key]Record, len(items))
	crds := map[string]*declared{}
	for _, o := range items {
		s, err := asSeen(o)
		if err != nil {
			return err
		}
		list[s.key] = s.record
		if s.crd != nil {
			crds[s.key.name] = s.crd
		}
	}
	if w.kind.GVK.GroupKind() == crdKind {
		w.c.learn(w.c.complete(crds))
	}
	changes := w.records.replace(list, resourceVersion)
	if w.inherited || w.isSynced() {
		for _, ch := range changes {
			w.tell(ch)
		}
	}
	w.recovered()
	w.once.Do(func() { close(w.synced) })
	return nil
}

func asSeen(o any) (*seen, error) {
	s, ok := o.(*seen)
	if !ok {
		return nil, fault.New(fault.Internal, "a watch brought a %T", o)
	}
	return s, nil
}

// Resync implements cache.ReflectorStore.
func (w *watcher) Resync() error { return nil }

func (w *watcher) tell(ch change) {
	gk := w.kind.GVK.GroupKind()
	w.c.events.tell(Event{
		ID:     object.ID{Group: gk.Group, Kind: gk.Kind, Namespace: ch.key.namespace, Name: ch.key.name},
		Record: ch.record, Gone: ch.gone,
	})
}

// complete adds to a complete list of definitions those that are gone from it.
func (c *Cluster) complete(crds map[string]*declared) map[string]*declared {
	c.kindsMu.Lock()
	defer c.kindsMu.Unlock()
	for name := range c.crds.byName {
		if _, ok := crds[name]; !ok {
			crds[name] = nil
		}
	}
	return crds
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
