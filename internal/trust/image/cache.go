package image

import (
	"sync"
	"time"
)

// generation is how many entries a cache's newer half holds.
const generation = 2048

// cache remembers values for a time, the most recent of them: at most twice
// [generation]. The zero value is ready.
type cache[K comparable, V any] struct {
	mu       sync.Mutex
	new, old map[K]kept[V]
}

type kept[V any] struct {
	value V
	until time.Time // zero: for ever
}

// get returns what is kept for key and counts at now.
func (c *cache[K, V]) get(key K, now time.Time) (V, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	found, ok := c.new[key]
	if !ok {
		if found, ok = c.old[key]; ok {
			c.keep(key, found)
		}
	}
	if !ok || !found.until.IsZero() && !now.Before(found.until) {
		var none V
		return none, false
	}
	return found.value, true
}

// put keeps value for key, until a time.
func (c *cache[K, V]) put(key K, value V, until time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.keep(key, kept[V]{value, until})
}

// keep drops what was not asked for since the newer half was last full.
func (c *cache[K, V]) keep(key K, v kept[V]) {
	if c.new == nil || len(c.new) >= generation {
		c.old, c.new = c.new, map[K]kept[V]{}
	}
	c.new[key] = v
}
