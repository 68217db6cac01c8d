package git

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/holdfastcd/holdfast/internal/fault"
)

// budget is the disk that all stores have together, and who uses it. Bytes are
// charged to the tenant whose fetch brought them. When there is no room, it is
// made by throwing stores away: first those that nobody reads, the one unused for
// longest before the others, but of a neighbour only if that uses more than the one
// who asks; then what is read, of tenants that use more than the one who asks
// will, the largest first. Whoever is the largest is refused instead. So shares
// become equal as far as tenants want them (max-min fairness), nothing is set
// aside for who does not, and who stays below is never touched.
type budget struct {
	limit int64
	now   func() time.Time
	held  func(store string) bool             // somebody holds a tree of it
	evict func(store string, force bool) bool // throws a store away; force: held or not

	making sync.Mutex // room is made for one at a time

	mu     sync.Mutex
	total  int64
	stores map[string]*account
}

// account is what is known of one store.
type account struct {
	size int64
	by   map[string]int64 // tenant → what it brought; nobody's is what was here before
	used time.Time
}

const (
	nobody = ""
	// deserted is after how long a store that nobody holds is nobody's.
	deserted = 2 * time.Hour
	// block is what a file takes on disk at least.
	block = 4 << 10
	// fileCosts is what a directory, a pack, an index and a state take beside what
	// is in the larger two.
	fileCosts = 6 * block
)

func newBudget(limit int64, now func() time.Time) *budget {
	return &budget{limit: limit, now: now, stores: map[string]*account{}}
}

// step is in what pieces a fetch takes room, before it knows how much it needs.
func (b *budget) step() int64 { return min(max(b.limit/1024, block), 4<<20) }

// take charges n bytes in a store to a tenant, and makes room for them if need be.
// Errors: Limit, if the tenant is the one to go without.
func (b *budget) take(store, tenant string, n int64) error {
	if b.reserve(store, tenant, n) {
		return nil
	}
	b.making.Lock()
	defer b.making.Unlock()
	tried := map[string]bool{store: true}
	for !b.reserve(store, tenant, n) {
		h, ok := b.victim(tenant, n, tried)
		if !ok {
			return b.full(tenant)
		}
		tried[h.store] = true
		b.evict(h.store, h.held) // which settles it
	}
	return nil
}

func (b *budget) reserve(store, tenant string, n int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.total+n > b.limit {
		return false
	}
	a := b.account(store)
	a.size += n
	a.by[tenant] += n
	a.used = b.now()
	b.total += n
	return true
}

func (b *budget) account(store string) *account {
	a := b.stores[store]
	if a == nil {
		a = &account{by: map[string]int64{}}
		b.stores[store] = a
	}
	return a
}

// settle corrects what a store takes. What is more was brought by tenant; what is
// less is taken off what it reserved, and then off everybody's.
func (b *budget) settle(store, tenant string, size int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	a := b.account(store)
	b.total += size - a.size
	if size == 0 {
		delete(b.stores, store)
		return
	}
	if rest := a.size - a.by[tenant]; size < rest {
		a.by[tenant] = 0
		for t, n := range a.by {
			a.by[t] = int64(float64(n) * float64(size) / float64(rest))
		}
	} else {
		a.by[tenant] = size - rest
	}
	a.size = size
}

// use notes that a tenant uses a store: what was nobody's is its own from now on.
func (b *budget) use(store, tenant string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	a := b.account(store)
	a.used = b.now()
	if tenant != nobody {
		a.by[tenant] += a.by[nobody]
		delete(a.by, nobody)
	}
}

// found notes a store that is there at the start.
func (b *budget) found(store string, size int64, used time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.stores[store] = &account{size: size, by: map[string]int64{nobody: size}, used: used}
	b.total += size
}

// trim throws away what is too much at the start.
func (b *budget) trim() {
	tried := map[string]bool{}
	for b.over() {
		h, ok := b.victim(nobody, 0, tried)
		if !ok {
			return
		}
		tried[h.store] = true
		b.evict(h.store, false)
	}
}

func (b *budget) over() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.total > b.limit
}

// full says who is refused, and why.
func (b *budget) full(tenant string) error {
	b.mu.Lock()
	used := b.usage()[tenant]
	b.mu.Unlock()
	return fault.New(fault.Limit, "there is no room for the repository: the controller keeps %s of repositories, and %s of that are this tenant's (%s)",
		amount(b.limit), amount(used), cmp.Or(tenant, "nobody")).
		WithHint("use fewer or smaller repositories, or have the controller's --data-limit raised").Because(errFull)
}

// errFull is the cause of a refusal for want of room.
var errFull = errors.New("the data directory is full")

// usage returns what each tenant has brought; the caller holds mu.
func (b *budget) usage() map[string]int64 {
	use := map[string]int64{}
	for _, a := range b.stores {
		for tenant, n := range a.by {
			use[tenant] += n
		}
	}
	return use
}

// holding is a store as it is judged when there is no room.
type holding struct {
	store, owner string // the owner is who brought most of it
	shared       bool   // others use it, too
	held         bool
	size         int64
	used         time.Time
}

// victim returns the store to go next, for n more bytes of a tenant.
func (b *budget) victim(tenant string, n int64, tried map[string]bool) (holding, bool) {
	now := b.now()
	b.mu.Lock()
	use := b.usage()
	var all []holding
	for store, a := range b.stores {
		if !tried[store] && a.size > 0 {
			all = append(all, holding{store: store, owner: a.owner(), shared: len(a.by) > 1, size: a.size, used: a.used})
		}
	}
	b.mu.Unlock()
	for i, h := range all {
		all[i].held = b.held(h.store)
		if !all[i].held && now.Sub(h.used) > deserted {
			all[i].owner = nobody
		}
	}
	return choose(all, use, tenant, use[tenant]+n)
}

func (a *account) owner() string {
	owner := nobody
	for _, tenant := range slices.Sorted(maps.Keys(a.by)) {
		if a.by[tenant] > a.by[owner] {
			owner = tenant
		}
	}
	return owner
}

// choose returns which store goes first when a tenant will use so much; none if it
// is the tenant itself that has to go without. See [budget].
func choose(all []holding, use map[string]int64, tenant string, will int64) (holding, bool) {
	all = slices.DeleteFunc(all, func(h holding) bool {
		larger := use[h.owner] > will && h.owner != tenant
		if h.held {
			return !larger || h.owner == nobody
		}
		return h.owner != nobody && h.owner != tenant && !larger
	})
	if len(all) == 0 {
		return holding{}, false
	}
	return slices.MinFunc(all, func(a, b holding) int {
		switch {
		case a.held != b.held:
			return order(a.held)
		case !a.held:
			return cmp.Or(a.used.Compare(b.used), cmp.Compare(a.store, b.store))
		case a.shared != b.shared:
			return order(a.shared)
		}
		return cmp.Or(cmp.Compare(use[b.owner], use[a.owner]), a.used.Compare(b.used), cmp.Compare(a.store, b.store))
	}), true
}

// order puts what is true behind what is not.
func order(last bool) int {
	if last {
		return 1
	}
	return -1
}

// amount writes a number of bytes for people.
func amount(n int64) string {
	switch {
	case n >= 10<<30:
		return fmt.Sprintf("%d GiB", n>>30)
	case n >= 1<<20:
		return fmt.Sprintf("%d MiB", n>>20)
	}
	return fmt.Sprintf("%d KiB", n>>10)
}

// allowance is the room of one fetch, taken in steps.
type allowance struct {
	budget        *budget
	store, tenant string
	left          int64
}

func (a *allowance) take(n int64) error {
	if n > a.left {
		more := max(n-a.left, a.budget.step())
		if err := a.budget.take(a.store, a.tenant, more); err != nil {
			return err
		}
		a.left += more
	}
	a.left -= n
	return nil
}

// charged is a reader of what goes to the disk.
type charged struct {
	r io.Reader
	a *allowance
}

func (c charged) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	if full := c.a.take(int64(n)); full != nil {
		return 0, full
	}
	return n, err
}

// sizeOf returns what a directory's files take on disk, about.
func sizeOf(dir string) (int64, error) {
	files, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	size := int64(block) // its own
	for _, f := range files {
		if info, err := f.Info(); err == nil { // else it is gone
			size += (info.Size() + block - 1) / block * block
		}
	}
	return size, nil
}

// tenantKey is where a context holds for whom something is done.
type tenantKey struct{}

func withTenant(ctx context.Context, tenant string) context.Context {
	return context.WithValue(ctx, tenantKey{}, tenant)
}

func tenantOf(ctx context.Context) string {
	tenant, _ := ctx.Value(tenantKey{}).(string)
	return tenant
}
