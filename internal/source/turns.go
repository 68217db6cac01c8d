package source

import (
	"context"
	"slices"
	"sync"
)

// Turns lets a few pieces of work go on at once, each for a tenant. Who waits is
// served by tenants in rotation, so that one with a thousand pieces costs another
// no more than one with two; and no tenant holds all places at once if there are
// more than it may have. It is safe for concurrent use.
type Turns struct {
	each int

	mu      sync.Mutex
	free    int
	running map[string]int
	waiting map[string][]chan struct{}
	order   []string // tenants that wait, the next one first
}

// NewTurns returns turns for so many pieces of work at once, each tenant having at
// most each of them.
func NewTurns(places, each int) *Turns {
	return &Turns{each: each, free: places, running: map[string]int{}, waiting: map[string][]chan struct{}{}}
}

// Take waits for a turn and returns what gives it back, once. The error is that of
// ctx, which ends the waiting.
func (t *Turns) Take(ctx context.Context, tenant string) (give func(), err error) {
	granted := t.join(tenant)
	select {
	case <-granted:
	case <-ctx.Done():
		if t.leave(tenant, granted) {
			return nil, ctx.Err()
		}
		t.release(tenant) // it was granted meanwhile
		return nil, ctx.Err()
	}
	var once sync.Once
	return func() { once.Do(func() { t.release(tenant) }) }, nil
}

// join enters the line of a tenant; what it returns is closed when it is its turn.
func (t *Turns) join(tenant string) chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	granted := make(chan struct{})
	if len(t.waiting[tenant]) == 0 {
		t.order = append(t.order, tenant)
	}
	t.waiting[tenant] = append(t.waiting[tenant], granted)
	t.grant()
	return granted
}

// leave gives up waiting; false if it was granted already.
func (t *Turns) leave(tenant string, granted chan struct{}) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	i := slices.Index(t.waiting[tenant], granted)
	if i < 0 {
		return false
	}
	t.keep(tenant, slices.Delete(t.waiting[tenant], i, i+1))
	return true
}

func (t *Turns) release(tenant string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.free++
	if t.running[tenant]--; t.running[tenant] == 0 {
		delete(t.running, tenant)
	}
	t.grant()
}

// grant gives the free places to those who wait and may have one.
func (t *Turns) grant() {
	for t.free > 0 {
		i := slices.IndexFunc(t.order, func(tenant string) bool { return t.running[tenant] < t.each })
		if i < 0 {
			return
		}
		tenant := t.order[i]
		line := t.waiting[tenant]
		close(line[0])
		t.free--
		t.running[tenant]++
		t.order = append(slices.Delete(t.order, i, i+1), tenant) // behind the others
		t.keep(tenant, line[1:])
	}
}

// keep makes line what is left of a tenant's.
func (t *Turns) keep(tenant string, line []chan struct{}) {
	if len(line) > 0 {
		t.waiting[tenant] = line
		return
	}
	delete(t.waiting, tenant)
	t.order = slices.DeleteFunc(t.order, func(o string) bool { return o == tenant })
}
