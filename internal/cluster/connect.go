package cluster

import (
	"context"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/health"
	"github.com/holdfastcd/holdfast/internal/object"
	hschema "github.com/holdfastcd/holdfast/internal/schema"
)

// Options say what a connection makes of what it sees. All may be left out.
type Options struct {
	// Owner reads from an object's marks which delivery it belongs to; empty: none.
	// It is told which object that is, because marks are copied with what they are on.
	Owner func(id object.ID, labels, annotations map[string]string) string
	// Kept reads from an object's marks that it must stay when it leaves the source,
	// and when its delivery is deleted.
	Kept func(labels, annotations map[string]string) (inPrune, inDelete bool)
	// Health judges a live object; false if there is nothing to judge.
	Health func(*unstructured.Unstructured) (health.Verdict, bool)
	// NeedsObject names the kinds that are always watched whole, for Health to
	// see. All others are watched by their metadata alone until somebody asks for
	// more, see [Cluster.WatchWhole].
	NeedsObject func(schema.GroupKind) bool

	// StatusManager is the field manager by which status is written to kinds
	// without a status subresource (Argo CD's); such a write moves the generation
	// and is nobody's drift. Empty: there is none.
	StatusManager string

	MaxInFlight int              // writes and reads sent at once; 0: 24
	UserAgent   string           // empty: that of the configuration
	Logger      *slog.Logger     // nil: silent
	Clock       func() time.Time // nil: time.Now
}

// Limits of a connection.
const (
	defaultInFlight   = 24
	requestTimeout    = 30 * time.Second // of one request, and of a first list
	rediscoverAtMost  = 15 * time.Second
	restartFailedOnce = 2 * time.Second // a failed watch is tried again when asked for, this often
)

// Cluster is a connection to one cluster. It is safe for concurrent use.
type Cluster struct {
	opts   Options
	config *rest.Config
	http   *http.Client
	plain  *rest.RESTClient // whole objects and deletes
	meta   *rest.RESTClient // responses reduced to records
	count  *counter
	slots  chan struct{} // one for each request in flight
	names  interner
	log    *slog.Logger

	life    context.Context // set by Start: the life of the watches
	kinds   atomic.Pointer[kindSet]
	kindsMu sync.Mutex // orders changes of kinds
	crds    crdSet     // guarded by kindsMu
	asked   time.Time  // of the last discovery, guarded by kindsMu

	mu       sync.RWMutex
	watches  map[schema.GroupKind]*watcher
	events   subscribers[Event]
	newKinds subscribers[[]schema.GroupKind]
	running  sync.WaitGroup
}

// Connect prepares a connection; nothing is sent before [Cluster.Start]. It
// fails with Invalid if cfg cannot be used.
func Connect(cfg *rest.Config, opts Options) (*Cluster, error) {
	c := &Cluster{opts: opts.withDefaults(), count: &counter{}, watches: map[schema.GroupKind]*watcher{}}
	c.log = c.opts.Logger
	c.slots = make(chan struct{}, c.opts.MaxInFlight)
	c.kinds.Store(newKindSet())
	c.crds = newCRDSet()
	c.config = rest.CopyConfig(cfg)
	c.config.QPS = -1                                // the API server's priority and fairness is the limiter
	c.config.DisableCompression = true               // of little use on streams, and dear on both sides
	c.config.WarningHandler = rest.NoWarnings{}      // klog is not ours
	c.config.GroupVersion = &schema.GroupVersion{}   // paths are absolute
	c.config.APIPath = "/this-is-never-sent"         // the same
	c.config.AcceptContentTypes = "application/json" // each request says what it accepts
	c.config.ContentType = "application/json"
	if opts.UserAgent != "" {
		c.config.UserAgent = opts.UserAgent
	}
	c.config.Wrap(c.count.wrap)
	if err := c.clients(); err != nil {
		return nil, fault.New(fault.Invalid, "cannot use the configuration of the cluster: %s", err).Because(err)
	}
	return c, nil
}

// clients makes the clients that share one HTTP client, and so its connections.
func (c *Cluster) clients() (err error) {
	if c.http, err = rest.HTTPClientFor(c.config); err != nil {
		return err
	}
	if c.meta, err = c.reader(nil); err != nil {
		return err
	}
	c.plain, err = c.client(codecs())
	return err
}

func (o Options) withDefaults() Options {
	if o.Owner == nil {
		o.Owner = func(object.ID, map[string]string, map[string]string) string { return "" }
	}
	if o.Kept == nil {
		o.Kept = func(_, _ map[string]string) (bool, bool) { return false, false }
	}
	if o.Health == nil {
		o.Health = func(*unstructured.Unstructured) (health.Verdict, bool) { return health.Verdict{}, false }
	}
	if o.NeedsObject == nil {
		o.NeedsObject = func(schema.GroupKind) bool { return false }
	}
	if o.MaxInFlight <= 0 {
		o.MaxInFlight = defaultInFlight
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	return o
}

// Start discovers the kinds that the cluster serves and begins to watch its
// CustomResourceDefinitions, which keeps them current. It returns when both are
// complete. Watches live until ctx ends. Errors: Unreachable, Unauthorized,
// Rejected (with the rule to grant).
func (c *Cluster) Start(ctx context.Context) error {
	c.life = ctx
	if err := c.discover(ctx); err != nil {
		return err
	}
	crds, ok := c.LookupGroupKind(crdKind)
	if !ok {
		return fault.New(fault.Unsupported, "the cluster does not serve %s", crdKind)
	}
	return c.Watch(ctx, crds)
}

// Subscribe calls f for every change of a record, in order for each kind, on
// the goroutine that reads the watch: f must not block. What a watch shows first
// is no change. The returned function ends the subscription.
func (c *Cluster) Subscribe(f func(Event)) (cancel func()) { return c.events.add(f) }

// SubscribeKinds calls f with the kinds that the cluster has begun to serve.
// f must not block. The returned function ends the subscription.
func (c *Cluster) SubscribeKinds(f func([]schema.GroupKind)) (cancel func()) {
	return c.newKinds.add(f)
}

// Requests returns how many requests were sent, by verb: get, list, watch,
// apply, dry-run, delete and other.
func (c *Cluster) Requests() map[string]int { return c.count.read() }

// Look returns what is known of an object; false if the watch of its kind, which
// must have been asked for (see [Cluster.Watch]), does not show it.
func (c *Cluster) Look(kind hschema.Kind, id object.ID) (Record, bool) {
	w := c.watcher(kind.GVK.GroupKind())
	if w == nil {
		return Record{}, false
	}
	return w.records.get(keyOf(id))
}

// Owned returns the objects, of the kinds that are watched, whose marks name
// owner. It looks at every record: it is for the first look, not for every pass.
func (c *Cluster) Owned(owner string) []object.ID {
	c.mu.RLock()
	watchers := slices.Collect(maps.Values(c.watches))
	c.mu.RUnlock()
	var ids []object.ID
	for _, w := range watchers {
		gk := w.kind.GVK.GroupKind()
		for _, k := range w.records.owned(owner) {
			ids = append(ids, object.ID{Group: gk.Group, Kind: gk.Kind, Namespace: k.namespace, Name: k.name})
		}
	}
	slices.SortFunc(ids, object.Compare)
	return ids
}

// Note records what the API server answered to our own apply, so that nobody
// takes the change for somebody else's before the watch shows it. It has no
// effect if the watch is already as far, and makes no event. [Client.Apply] calls it.
func (c *Cluster) Note(id object.ID, r Record) {
	if w := c.watcher(id.GroupKind()); w != nil {
		w.records.note(keyOf(id), r, w.whole)
	}
}

// Gone records that an object with this UID is known not to exist any more. It
// makes no event. [Client.Delete] calls it.
func (c *Cluster) Gone(id object.ID, uid string) {
	if w := c.watcher(id.GroupKind()); w != nil {
		w.records.forget(keyOf(id), uid)
	}
}

func (c *Cluster) watcher(gk schema.GroupKind) *watcher {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.watches[gk]
}

// subscribers is a set of functions that are told the same things.
type subscribers[T any] struct {
	mu   sync.RWMutex
	next int
	all  map[int]func(T)
}

func (s *subscribers[T]) add(f func(T)) (cancel func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all == nil {
		s.all = map[int]func(T){}
	}
	id := s.next
	s.next++
	s.all[id] = f
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.all, id)
	}
}

func (s *subscribers[T]) tell(v T) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, f := range s.all {
		f(v)
	}
}
