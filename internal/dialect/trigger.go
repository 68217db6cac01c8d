package dialect

import (
	"context"
	"iter"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/controller/priorityqueue"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/holdfastcd/holdfast/internal/delivery"
)

// Priority says how soon a queued object gets its turn; higher is sooner.
type Priority int

// The priorities, lowest first.
const (
	Untouched Priority = -10 // a commit arrived that leaves it as it is: only its status moves
	Normal    Priority = 0
	Touched   Priority = 10 // a commit or an event changes it
)

// Trigger is a source of requests for a controller: whatever calls [Trigger.Add]
// puts an object into its queue. Adding before the controller starts is kept.
type Trigger struct {
	mu      sync.Mutex
	queue   workqueue.TypedRateLimitingInterface[reconcile.Request]
	pending map[types.NamespacedName]Priority

	first   map[types.NamespacedName]struct{} // what a commit changes, until it is settled
	held    []types.NamespacedName            // what it leaves alone
	release *time.Timer                       // of what is held
}

// Start implements the controller runtime's source.
func (t *Trigger) Start(_ context.Context, queue workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
	t.mu.Lock()
	t.queue = queue
	pending := t.pending
	t.pending = nil
	t.mu.Unlock()
	for name, p := range pending {
		t.Add(name, p)
	}
	return nil
}

// Add queues an object. It does not block.
func (t *Trigger) Add(name types.NamespacedName, p Priority) {
	t.mu.Lock()
	queue := t.queue
	if queue == nil {
		if t.pending == nil {
			t.pending = map[types.NamespacedName]Priority{}
		}
		t.pending[name] = p
	}
	t.mu.Unlock()
	if queue == nil {
		return
	}
	request := reconcile.Request{NamespacedName: name}
	if pq, ok := queue.(priorityqueue.PriorityQueue[reconcile.Request]); ok {
		priority := int(p)
		pq.AddWithOpts(priorityqueue.AddOpts{Priority: &priority}, request)
		return
	}
	queue.Add(request)
}

// mostHeld is how long what a commit leaves alone waits, at most, for what it changes.
const mostHeld = time.Second

// AddAll queues objects by what a commit means to each: what it touches at once,
// while others are still judged; what it leaves as it is when all of those have been
// settled, or after a second.
func (t *Trigger) AddAll(judged iter.Seq2[types.NamespacedName, Priority]) {
	var untouched []types.NamespacedName
	for name, p := range judged {
		if p == Untouched {
			untouched = append(untouched, name)
			continue
		}
		if p == Touched {
			t.ahead(name)
		}
		t.Add(name, p)
	}
	for _, name := range t.hold(untouched) {
		t.Add(name, Untouched)
	}
}

func (t *Trigger) ahead(name types.NamespacedName) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.first == nil {
		t.first = map[types.NamespacedName]struct{}{}
	}
	t.first[name] = struct{}{}
}

// hold keeps names back for as long as there is something ahead of them. It returns
// those that need not wait.
func (t *Trigger) hold(names []types.NamespacedName) []types.NamespacedName {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.first) == 0 || len(names) == 0 {
		return names
	}
	t.held = append(t.held, names...)
	if t.release == nil {
		t.release = time.AfterFunc(mostHeld, func() { t.let(func() { clear(t.first) }) })
	}
	return nil
}

// Settled says that a pass over an object has ended: what was held back for it alone
// gets its turn.
func (t *Trigger) Settled(name types.NamespacedName) {
	t.let(func() { delete(t.first, name) })
}

// let lets go of what is held if, after done, nothing is ahead of it any more.
func (t *Trigger) let(done func()) {
	t.mu.Lock()
	done()
	var free []types.NamespacedName
	if len(t.first) == 0 && t.release != nil {
		t.release.Stop()
		free, t.held, t.release = t.held, nil, nil
	}
	t.mu.Unlock()
	for _, name := range free {
		t.Add(name, Untouched)
	}
}

// Router hands the events of deliveries to the trigger of their kind.
type Router map[string]*Trigger

// Notify queues the delivery; kinds nobody serves are dropped.
func (r Router) Notify(id delivery.ID) {
	if t, ok := r[id.Kind]; ok {
		t.Add(types.NamespacedName{Namespace: id.Namespace, Name: id.Name}, Touched)
	}
}
