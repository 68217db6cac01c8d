package source

import (
	"sync"
	"time"
)

// The bounds of a Recent.
const (
	maxRecent  = 128
	recentLife = idleAfter
)

// Recent is what a fetcher keeps of its last answers, so that it need not ask again for
// what did not change: by the key of the request, since what one credential was shown is
// not another's. What nobody asked for lately goes. It is safe for concurrent use.
type Recent[V any] struct {
	now func() time.Time

	mu   sync.Mutex
	kept map[Key]recent[V]
}

type recent[V any] struct {
	value V
	used  time.Time
}

// NewRecent returns an empty one, by a clock.
func NewRecent[V any](now func() time.Time) *Recent[V] {
	return &Recent[V]{now: now, kept: map[Key]recent[V]{}}
}

// Get returns what is kept for a key.
func (r *Recent[V]) Get(key Key) (V, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sweep()
	k, ok := r.kept[key]
	if ok {
		k.used = r.now()
		r.kept[key] = k
	}
	return k.value, ok
}

// Put keeps value for a key.
func (r *Recent[V]) Put(key Key, value V) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.kept[key] = recent[V]{value, r.now()}
	r.sweep()
}

// sweep drops what was not used lately, and what is too much. r.mu is held.
func (r *Recent[V]) sweep() {
	var oldest Key
	for key, k := range r.kept {
		if r.now().Sub(k.used) > recentLife {
			delete(r.kept, key)
			continue
		}
		if o, ok := r.kept[oldest]; !ok || k.used.Before(o.used) {
			oldest = key
		}
	}
	if len(r.kept) > maxRecent {
		delete(r.kept, oldest)
	}
}
