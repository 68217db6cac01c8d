package own

import (
	"context"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"reflect"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"
	ctrl "sigs.k8s.io/controller-runtime"

	api "github.com/holdfastcd/holdfast/api/holdfast/v1alpha1"
	"github.com/holdfastcd/holdfast/internal/audit"
	"github.com/holdfastcd/holdfast/internal/dialect"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/trust"
)

// Options are what the process adds to the objects of a kind.
type Options struct {
	// Changed is told that deliveries must prove, or are judged by, something else than
	// before, and all of them need a pass; nil: nobody is. It must not block.
	Changed func()
	// Record is given an entry for each change of that; nil: nobody is. It must not block.
	Record func(audit.Entry)
	// Alive reports whether a delivery, named Kind/namespace/name, still exists; nil:
	// those that asked do.
	Alive func(owner string) bool
}

// roster is what all kinds here have: their objects as they are now, each an O, and the
// deliveries that have asked, of each of which a T is told.
type roster[O held, T any] struct {
	kind    string
	env     *dialect.Env
	options Options
	once    sync.Once
	watch   func(context.Context) error // begins to follow the objects, until the context ends
	waits   func() bool                 // for something that objects name; mu is held
	look    func(name string)           // has the status of an object be looked at

	mu       sync.Mutex
	known    bool                 // all objects that were there at the beginning have been seen
	settled  chan struct{}        // closed when they have, with what they name
	objects  map[string]O         // by name
	subjects map[string]*asker[T] // by name
	wrote    map[string]time.Time // the status of objects, by name
	swept    time.Time            // when it was last asked which deliveries exist
}

// held is what is compiled of an object.
type held interface {
	last() *kept
	Selects(s trust.Subject) bool
}

// kept is an object as it is now, what happened to it, and by whom.
type kept struct {
	object *unstructured.Unstructured
	what   string
	by     []audit.Person
}

func (k *kept) last() *kept { return k }

// asker is a delivery that has asked.
type asker[T any] struct {
	trust.Subject

	told *T // of it at last; nil: nothing was
}

// name is how marks and messages name a delivery.
func name(kind, namespace, name string) string { return kind + "/" + namespace + "/" + name }

// serving returns a client for a kind of Holdfast's. Errors are *fault.Error: NotFound if
// the cluster does not serve it, Unreachable, Internal.
func serving(mgr ctrl.Manager, kind string) (dynamic.Interface, error) {
	gvk := api.GroupVersion.WithKind(kind)
	_, err := mgr.GetRESTMapper().RESTMapping(gvk.GroupKind(), gvk.Version)
	switch {
	case meta.IsNoMatchError(err):
		return nil, fault.New(fault.NotFound, "the cluster does not serve %s", gvk).WithHint("install the definitions: holdfast install --crds-only")
	case err != nil:
		return nil, fault.New(fault.Unreachable, "cannot ask for the kinds of the cluster: %s", err).Because(err)
	}
	c, err := dynamic.NewForConfigAndClient(mgr.GetConfig(), mgr.GetHTTPClient())
	if err != nil {
		return nil, noClient(err)
	}
	return c, nil
}

func noClient(err error) error {
	return fault.New(fault.Internal, "cannot make a client: %s", err).Because(err)
}

func newRoster[O held, T any](kind string, env *dialect.Env, o Options) *roster[O, T] {
	if o.Changed == nil {
		o.Changed = func() {}
	}
	if o.Record == nil {
		o.Record = func(audit.Entry) {}
	}
	if o.Alive == nil {
		o.Alive = func(string) bool { return true }
	}
	if env.Log == nil {
		env.Log = slog.New(slog.DiscardHandler)
	}
	return &roster[O, T]{
		kind: kind, env: env, options: o, settled: make(chan struct{}), objects: map[string]O{},
		subjects: map[string]*asker[T]{}, wrote: map[string]time.Time{}, swept: time.Now(),
	}
}

// begin has the objects be followed until ctx ends, once. It returns at once.
func (r *roster[O, T]) begin(ctx context.Context) (err error) {
	r.once.Do(func() { err = r.watch(ctx) })
	return err
}

// settleWithin is how long Start waits.
const settleWithin = 10 * time.Second

// Start reads the objects and what they name, and follows them until ctx ends. It
// returns when they are known, so that no delivery that begins after it is told to wait;
// after some seconds, or when ctx ends, it returns without. It needs no running manager.
func (r *roster[O, T]) Start(ctx context.Context) error {
	if err := r.begin(ctx); err != nil {
		return err
	}
	timer := time.NewTimer(settleWithin)
	defer timer.Stop()
	select {
	case <-r.settled:
	case <-timer.C:
	case <-ctx.Done():
	}
	return nil
}

// settle ends the wait of Start once everything is known. r.mu is held.
func (r *roster[O, T]) settle() {
	if !r.known || r.waits() {
		return
	}
	select {
	case <-r.settled:
	default:
		close(r.settled)
	}
}

// take returns what an object was before, and what to keep of it as it is now: nil if only
// its status or its metadata moved. r.mu is held.
func (r *roster[O, T]) take(u *unstructured.Unstructured) (before O, now *kept) {
	now = &kept{object: u, what: "created", by: dialect.LastWriter(u)}
	before, ok := r.objects[u.GetName()]
	if !ok || before.last().object.GetUID() != u.GetUID() {
		return before, now
	}
	if before.last().object.GetGeneration() == u.GetGeneration() {
		before.last().object = u
		return before, nil
	}
	now.what = "changed"
	return before, now
}

// drop forgets an object; false if there was none. r.mu is held.
func (r *roster[O, T]) drop(name string) (before O, ok bool) {
	before, ok = r.objects[name]
	delete(r.objects, name)
	delete(r.wrote, name)
	return before, ok
}

// entry is what the audit log holds of a change of an object; stands says what it does.
// Who made it is what a field manager says of itself.
func (r *roster[O, T]) entry(k *kept, what string, by []audit.Person, stands string) audit.Entry {
	u := k.object
	return audit.Entry{
		Time: r.now(), Action: audit.Policy, Delivery: name(r.kind, "", u.GetName()), UID: string(u.GetUID()), Who: by,
		Reason: fmt.Sprintf("%s: generation %d, %s", what, u.GetGeneration(), stands),
	}
}

// note remembers that a delivery has asked. r.mu is held.
func (r *roster[O, T]) note(s trust.Subject) {
	key := name(s.Kind, s.Namespace, s.Name)
	known := r.subjects[key]
	if known == nil {
		known = &asker[T]{}
		r.subjects[key] = known
	} else if reflect.DeepEqual(known.Subject, s) {
		return
	}
	s.Labels = maps.Clone(s.Labels)
	known.Subject = s
	r.recount()
}

// recount has the status of all objects be looked at. r.mu is held.
func (r *roster[O, T]) recount() {
	for name := range r.objects {
		r.look(name)
	}
}

// askers are the deliveries that an object selects, by name. r.mu is held.
func (r *roster[O, T]) askers(o O) iter.Seq2[string, *asker[T]] {
	return func(yield func(string, *asker[T]) bool) {
		for _, key := range slices.Sorted(maps.Keys(r.subjects)) {
			if s := r.subjects[key]; o.Selects(s.Subject) && !yield(key, s) {
				return
			}
		}
	}
}

// sweep forgets deliveries that are gone, now and then.
func (r *roster[O, T]) sweep() {
	r.mu.Lock()
	if r.now().Sub(r.swept) < recount {
		r.mu.Unlock()
		return
	}
	r.swept = r.now()
	asked := slices.Collect(maps.Keys(r.subjects))
	r.mu.Unlock()
	for _, key := range asked {
		if r.options.Alive(key) {
			continue
		}
		r.mu.Lock()
		delete(r.subjects, key)
		r.mu.Unlock()
	}
}

func (r *roster[O, T]) now() time.Time {
	if r.env.Clock == nil {
		return time.Now()
	}
	return r.env.Clock()
}
