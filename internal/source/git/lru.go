package git

import (
	"container/list"
	"sync"
)

// lru keeps values up to a total cost, and forgets the one unused for longest.
// It is safe for concurrent use; values must not be changed once they are in.
type lru[K comparable, V any] struct {
	limit   int64
	dropped func(V) // told what was forgotten; may be nil; set before use

	mu    sync.Mutex
	cost  int64
	order *list.List // of item, the one used last in front
	items map[K]*list.Element
}

type item[K comparable, V any] struct {
	key   K
	value V
	cost  int64
}

func newLRU[K comparable, V any](limit int64) *lru[K, V] {
	return &lru[K, V]{limit: limit, order: list.New(), items: map[K]*list.Element{}}
}

func (c *lru[K, V]) get(key K) (V, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok := c.items[key]; ok {
		c.order.MoveToFront(e)
		return e.Value.(item[K, V]).value, true //nolint:forcetypeassert // nothing else is ever put in
	}
	var none V
	return none, false
}

// put adds a value. One that would fill more than a quarter is not worth what
// it would drive out.
func (c *lru[K, V]) put(key K, value V, cost int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.items[key]; ok || cost > c.limit/4 {
		return
	}
	c.items[key] = c.order.PushFront(item[K, V]{key, value, cost})
	c.cost += cost
	c.shrink(c.limit)
}

// clear forgets everything.
func (c *lru[K, V]) clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.shrink(0)
}

func (c *lru[K, V]) shrink(limit int64) {
	for c.cost > limit {
		last := c.order.Back()
		old := c.order.Remove(last).(item[K, V]) //nolint:forcetypeassert // nothing else is ever put in
		delete(c.items, old.key)
		c.cost -= old.cost
		if c.dropped != nil {
			c.dropped(old.value)
		}
	}
}
