package source

import (
	"context"
	"sync"
	"time"

	"github.com/holdfastcd/holdfast/internal/fault"
)

// Bounds of a Hub. The back-off is short: it shields a dead server from a
// hundred applications, and leaves the pace of retries to the callers.
const (
	firstBackOff = time.Second
	maxBackOff   = 15 * time.Second
	idleAfter    = 2 * time.Hour
	maxKeys      = 10_000
	patience     = 5 * time.Second // with a fetch, from its beginning

	// Fetches at once, and of one tenant: each holds a connection, its buffers, and
	// up to a few MiB of what a server sends.
	maxFetches       = 32
	maxTenantFetches = 8
)

// Hub fetches each revision once for all of a tenant's who ask for it, a few at a
// time, tenants in turn. It is safe for concurrent use.
type Hub struct {
	fetcher Fetcher
	now     func() time.Time
	turns   *Turns

	mu    sync.Mutex
	keys  map[Key]*answer
	swept time.Time
}

// answer is the state of one key. The clock values are when a fetch began,
// because that is the moment whose truth it tells.
type answer struct {
	url      string // normalised
	revision Revision
	err      error
	began    time.Time // zero: never fetched
	used     time.Time
	stale    bool
	failures int
	retryAt  time.Time
	running  *call
}

// call is a fetch under way; revision and err are written before done closes.
type call struct {
	began    time.Time
	done     chan struct{}
	outdated bool // a refresh was asked after it began; guarded by the hub's lock
	revision Revision
	err      error
}

// NewHub returns a hub over f. The clock is read often and may be faked.
func NewHub(f Fetcher, now func() time.Time) *Hub {
	return &Hub{fetcher: f, now: now, turns: NewTurns(maxFetches, maxTenantFetches), keys: map[Key]*answer{}}
}

// Get returns the revision for req: the last one if it was fetched no longer
// than maxAge ago, no refresh was asked since and it is not damaged, else what one fetch, shared
// by all who wait, brings. ctx ends the waiting, not the fetch. Errors are the
// fetcher's; an error is given again, without a fetch, for a short time that
// grows with each failure. A request that ctx ends returns Unreachable; one whose
// fetch takes long returns Waiting, and the answer is there for a later one.
func (h *Hub) Get(ctx context.Context, req Request, maxAge time.Duration) (Revision, error) {
	for {
		c, revision, err := h.look(ctx, req, maxAge)
		if c == nil {
			return revision, err
		}
		if err := h.wait(ctx, c); err != nil {
			return Revision{}, err
		}
		if !h.isOutdated(c) {
			return c.revision, c.err
		}
	}
}

// wait waits for the end of a call, but not for long: a server that answers slowly
// must not hold whoever asks, and others have questions, too.
func (h *Hub) wait(ctx context.Context, c *call) error {
	select {
	case <-c.done:
		return nil
	default:
	}
	timer := time.NewTimer(patience - h.now().Sub(c.began))
	defer timer.Stop()
	select {
	case <-c.done:
		return nil
	case <-ctx.Done():
		return fault.New(fault.Unreachable, "the source was not fetched in time").Because(ctx.Err())
	case <-timer.C:
		return fault.New(fault.Waiting, "the source is still being fetched")
	}
}

// Refresh marks every key of a repository as stale, however the URL is
// written, and returns how many there are: the next Get of each fetches. A
// fetch that is under way no longer counts as an answer, because it may have
// looked before the change.
func (h *Hub) Refresh(url string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	n, want := 0, NormalizeURL(url)
	if want == "" {
		return 0
	}
	for _, a := range h.keys {
		if a.url != want {
			continue
		}
		n++
		a.stale, a.failures, a.retryAt = true, 0, time.Time{}
		if a.running != nil {
			a.running.outdated = true
		}
	}
	return n
}

func (h *Hub) isOutdated(c *call) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return c.outdated
}

// look returns a call to wait for, or, with a nil call, the answer.
func (h *Hub) look(ctx context.Context, req Request, maxAge time.Duration) (*call, Revision, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := h.now()
	h.sweep(now)
	key := req.Key()
	a := h.keys[key]
	if a == nil {
		a = &answer{url: NormalizeURL(req.URL)}
		h.keys[key] = a
	}
	a.used = now
	if a.running != nil {
		return a.running, Revision{}, nil
	}
	if a.err != nil && now.Before(a.retryAt) {
		return nil, Revision{}, a.err
	}
	if a.err == nil && !a.stale && !a.began.IsZero() && now.Sub(a.began) <= maxAge && !damaged(a.revision) {
		return nil, a.revision, nil
	}
	a.running = &call{began: now, done: make(chan struct{})}
	a.stale, a.began = false, now
	// The fetch outlives the caller that happened to be first.
	go h.run(context.WithoutCancel(ctx), req, a, a.running)
	return a.running, Revision{}, nil
}

func damaged(r Revision) bool {
	f, ok := r.Tree.(Fragile)
	return ok && f.Damaged()
}

func (h *Hub) run(ctx context.Context, req Request, a *answer, c *call) {
	c.revision, c.err = h.fetch(ctx, req)
	h.mu.Lock()
	defer h.mu.Unlock()
	a.running = nil
	a.err = c.err
	switch {
	case c.err == nil:
		a.revision, a.failures = c.revision, 0
	case !c.outdated:
		backOff := min(firstBackOff<<min(a.failures, 10), maxBackOff)
		a.failures++
		a.retryAt = h.now().Add(backOff)
	}
	close(c.done)
}

// fetch waits for a turn, and turns a panic into an error: the parsers below read what
// a stranger's server sends, and one tenant's server must not end the process.
func (h *Hub) fetch(ctx context.Context, req Request) (r Revision, err error) {
	give, err := h.turns.Take(ctx, req.Tenant)
	if err != nil {
		return Revision{}, fault.New(fault.Unreachable, "the source was not fetched in time").Because(err)
	}
	defer give()
	defer func() {
		if p := recover(); p != nil {
			r, err = Revision{}, fault.New(fault.Internal, "fetching the source failed on what its server sent")
		}
	}()
	return h.fetcher.Fetch(ctx, req)
}

// sweep drops keys that nobody asked for lately, and, when there are still too
// many, the one unused for longest of the tenant that has most.
func (h *Hub) sweep(now time.Time) {
	full := len(h.keys) >= maxKeys
	if !full && now.Sub(h.swept) < idleAfter/8 {
		return
	}
	h.swept = now
	oldest, count := map[string]Key{}, map[string]int{}
	for key, a := range h.keys {
		count[key.Tenant]++
		if a.running != nil {
			continue
		}
		if now.Sub(a.used) > idleAfter {
			delete(h.keys, key)
			count[key.Tenant]--
			continue
		}
		if o, ok := oldest[key.Tenant]; !ok || a.used.Before(h.keys[o].used) {
			oldest[key.Tenant] = key
		}
	}
	if len(h.keys) < maxKeys {
		return
	}
	most := ""
	for tenant := range oldest {
		if _, ok := oldest[most]; !ok || count[tenant] > count[most] {
			most = tenant
		}
	}
	delete(h.keys, oldest[most])
}
