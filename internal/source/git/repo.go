package git

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"weak"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/source"
	"github.com/holdfastcd/holdfast/internal/tree"
)

const (
	stateFile = "state.json"
	markEvery = time.Hour
	// largePack is from where on what a pack takes to index, in memory or on disk,
	// is worth waiting for a turn.
	largePack = 1 << 20
	// graveEvery is how often a store begins anew for the sake of one commit.
	graveEvery = time.Hour
)

// repo is the object store of one repository: a few packs and a state that
// says what they hold. The state is replaced whole, after the packs it names
// are in place: a process that is killed leaves files that nobody names, and
// they are removed when the store is opened again.
type repo struct {
	store *Store
	dir   string
	url   string
	// filter has servers that can leave out objects; what is here then has no trees.
	filter packp.Filter

	busy   chan struct{} // held by the one that fetches or compacts
	opened bool          // guarded by busy
	broken atomic.Bool   // damage was seen; the next fetch starts anew
	// generation counts the new starts. Trees from before one may miss objects
	// without that being damage.
	generation atomic.Int64

	mu    sync.RWMutex // packs are read under RLock
	state state
	packs []*pack // as in state.Packs
	live  map[plumbing.Hash]weak.Pointer[snapshot]
	known map[ancestry]bool // proven; guarded by busy
	// expanded are abbreviations that were looked up; guarded by busy.
	expanded map[abbreviation]plumbing.Hash
	marked   time.Time // when the last use was noted on disk; guarded by busy
	changed  bool      // something was written or removed; guarded by busy
	// begun are the commits for whose sake the store began anew, and when.
	begun map[plumbing.Hash]time.Time
}

// state is what the packs hold.
type state struct {
	URL   string   `json:"url"` // for a person who looks at the directory
	Packs []string `json:"packs"`
	// Tips are the commits and tags that are here with all that they need: a
	// whole tree, and all ancestors down to Shallow.
	Tips []plumbing.Hash `json:"-"`
	// Shallow are commits that are here without their parents.
	Shallow []plumbing.Hash `json:"-"`

	TipIDs     []string `json:"tips"`
	ShallowIDs []string `json:"shallow"`
}

// ancestry says that commit is tip or an ancestor of it.
type ancestry struct{ tip, commit plumbing.Hash }

// abbreviation is the beginning of a commit id among the ancestors of some tips.
type abbreviation struct {
	prefix string
	tips   [sha256.Size]byte
}

func newRepo(s *Store, dir, url string) *repo {
	return &repo{store: s, dir: dir, url: url, busy: make(chan struct{}, 1), live: map[plumbing.Hash]weak.Pointer[snapshot]{}}
}

// lock waits for its turn to fetch and makes the store ready for use.
func (r *repo) lock(ctx context.Context) error {
	select {
	case r.busy <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := r.ready(); err != nil {
		r.unlock()
		return err
	}
	r.mark(r.store.opts.Now())
	r.store.budget.use(r.name(), tenantOf(ctx))
	return nil
}

// name is the store's among all.
func (r *repo) name() string { return filepath.Base(r.dir) }

// settle tells the budget what the store takes now, and who changed that; the
// caller holds busy. If it cannot be told, what was reserved stays.
func (r *repo) settle(tenant string) {
	if !r.changed {
		return
	}
	if size, err := sizeOf(r.dir); err == nil {
		r.changed = false
		r.store.budget.settle(r.name(), tenant, size)
	}
}

// mark notes on disk that the store is in use: by the time of its state, so that
// nothing is written. If that fails, the store goes sooner, and is fetched anew.
func (r *repo) mark(now time.Time) {
	if now.Sub(r.marked) < markEvery {
		return
	}
	r.marked = now
	_ = os.Chtimes(filepath.Join(r.dir, stateFile), now, now)
}

// expire throws everything away if nobody fetched or holds it for long.
func (r *repo) expire(now time.Time) {
	select {
	case r.busy <- struct{}{}:
	default:
		return // it is in use
	}
	defer r.unlock()
	if now.Sub(r.marked) >= r.store.opts.Unused && len(r.held()) == 0 {
		_ = r.clear() // disk that cannot be freed today may be tomorrow
	}
}

// evict throws everything away to make room; false if it is in use by a fetch, or,
// without force, a tree of it is held.
func (r *repo) evict(force bool) bool {
	select {
	case r.busy <- struct{}{}:
	default:
		return false
	}
	defer r.unlock()
	return (force || len(r.held()) == 0) && r.clear() == nil
}

func (r *repo) unlock() { <-r.busy }

func (r *repo) ready() error {
	if r.broken.Load() {
		return r.reset()
	}
	if r.opened {
		return nil
	}
	if err := r.open(); err != nil {
		return r.reset()
	}
	r.opened = true
	return nil
}

// open takes over what an earlier process left.
func (r *repo) open() error {
	raw, err := os.ReadFile(filepath.Join(r.dir, stateFile))
	if err != nil {
		return err
	}
	var st state
	if err := json.Unmarshal(raw, &st); err != nil {
		return err
	}
	st.Tips, st.Shallow = hashes(st.TipIDs), hashes(st.ShallowIDs)
	var packs []*pack
	for _, name := range st.Packs {
		p, err := openPack(r.dir, filepath.Base(name), r.store.bases)
		if err != nil {
			closeAll(packs)
			return err
		}
		packs = append(packs, p)
	}
	r.mu.Lock()
	r.state, r.packs = st, packs
	r.mu.Unlock()
	return r.sweep(st)
}

// sweep removes the files that the state does not name.
func (r *repo) sweep(st state) error {
	files, err := os.ReadDir(r.dir)
	if err != nil {
		return err
	}
	for _, f := range files {
		name := strings.TrimSuffix(strings.TrimSuffix(f.Name(), ".pack"), ".idx")
		if f.Name() == stateFile || slices.Contains(st.Packs, name) {
			continue
		}
		if err := os.RemoveAll(filepath.Join(r.dir, f.Name())); err != nil {
			return err
		}
	}
	return nil
}

// clear throws everything away, the directory, too.
func (r *repo) clear() error {
	r.generation.Add(1) // first: what is not found from here on is no damage
	r.close()
	r.opened, r.known, r.expanded, r.changed = false, nil, nil, true
	if err := os.RemoveAll(r.dir); err != nil {
		return err
	}
	r.settle(nobody)
	return nil
}

// reset throws everything away and begins anew.
func (r *repo) reset() error {
	if err := r.clear(); err != nil {
		return err
	}
	if err := os.MkdirAll(r.dir, 0o700); err != nil {
		return err
	}
	if err := r.save(state{}); err != nil {
		return err
	}
	r.opened, r.changed = true, true
	r.broken.Store(false)
	return nil
}

// beginsAnew reports whether the store may begin anew because of a commit, and notes
// that it does: once in a while. A commit that is damaged again just after it was
// fetched is so where it comes from, and others who read here must not pay for it.
func (r *repo) beginsAnew(commit plumbing.Hash) bool {
	now := r.store.opts.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	if at, ok := r.begun[commit]; ok && now.Sub(at) < graveEvery {
		return false
	}
	if r.begun == nil || len(r.begun) >= maxKnown {
		r.begun = map[plumbing.Hash]time.Time{}
	}
	r.begun[commit] = now
	return true
}

func (r *repo) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	closeAll(r.packs)
	r.packs, r.state = nil, state{}
}

// save makes st the state, on disk and here. It is not synced to the disk: a
// state or pack lost in a power failure is noticed, and fetched again.
func (r *repo) save(st state) error {
	st.URL, st.TipIDs, st.ShallowIDs = r.url, texts(st.Tips), texts(st.Shallow)
	raw, err := json.MarshalIndent(st, "", "  ")
	if err != nil {
		return err
	}
	temporary := filepath.Join(r.dir, stateFile+".tmp")
	if err := os.WriteFile(temporary, raw, 0o600); err != nil {
		return err
	}
	if err := os.Rename(temporary, filepath.Join(r.dir, stateFile)); err != nil {
		return err
	}
	r.mu.Lock()
	r.state = st
	r.mu.Unlock()
	return nil
}

// install takes a pack from in, at most limit bytes of it, checks and indexes
// it, and returns it open. An empty pack is nil.
func (r *repo) install(ctx context.Context, in io.Reader, limit int64) (*pack, error) {
	r.changed = true
	room := &allowance{budget: r.store.budget, store: r.name(), tenant: tenantOf(ctx)}
	if err := room.take(fileCosts); err != nil {
		return nil, err
	}
	in = charged{in, room}
	file, err := os.CreateTemp(r.dir, "incoming-*.pack")
	if err != nil {
		return nil, err
	}
	defer os.Remove(file.Name()) // or it has its final name by then
	defer file.Close()           // opened again below
	n, err := io.Copy(file, io.LimitReader(contextReader{ctx, in}, limit+1))
	if err != nil {
		return nil, err
	}
	if n > limit {
		return nil, fault.New(fault.Limit, "the Git server sent more than %d bytes", limit)
	}
	index, err := os.Create(strings.TrimSuffix(file.Name(), ".pack") + ".idx")
	if err != nil {
		return nil, err
	}
	defer os.Remove(index.Name())
	sum, count, err := r.index(ctx, file, index, n, room)
	if err := errors.Join(err, index.Close()); err != nil || count == 0 {
		return nil, err
	}
	name := "pack-" + sum.String()
	for from, to := range map[string]string{index.Name(): ".idx", file.Name(): ".pack"} {
		if err := os.Rename(from, filepath.Join(r.dir, name+to)); err != nil {
			return nil, err
		}
	}
	return openPack(r.dir, name, r.store.bases)
}

// index is [indexPack], one at a time for packs that take memory, tenants in turn.
func (r *repo) index(ctx context.Context, file, index *os.File, size int64, room *allowance) (plumbing.Hash, int, error) {
	give := func() {}
	defer func() { give() }()
	x := newIndexer(ctx, file, r.object)
	x.grow = room.take
	x.large = func() (err error) {
		x.large = nil
		g, err := r.store.indexing.Take(ctx, tenantOf(ctx))
		if err == nil {
			give = g
		}
		return err
	}
	if size > largePack {
		if err := x.enter(); err != nil {
			return plumbing.ZeroHash, 0, err
		}
	}
	return x.run(index)
}

// add makes a pack (or none) and what is known about it part of the store.
func (r *repo) add(p *pack, st state) error {
	if p != nil && slices.Contains(st.Packs, p.name) {
		p.close() // the server sent again what is here
		p = nil
	}
	if p != nil {
		st.Packs = append(slices.Clone(st.Packs), p.name)
		r.mu.Lock()
		r.packs = append(r.packs, p)
		r.mu.Unlock()
	}
	return r.save(st)
}

func (r *repo) packCount() int {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return len(r.packs)
}

// locate finds an object; the caller holds mu. Later packs are asked first:
// what is read next is likely to be what came last.
func (r *repo) locate(id plumbing.Hash) (*pack, int64, error) {
	for _, p := range slices.Backward(r.packs) {
		offset, err := p.find(id)
		if err != nil {
			return nil, 0, err
		}
		if offset >= 0 {
			return p, offset, nil
		}
	}
	return nil, 0, errMissing
}

// object returns the content of an object, checked against its id.
func (r *repo) object(id plumbing.Hash, limit int64) (plumbing.ObjectType, []byte, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	p, offset, err := r.locate(id)
	if err != nil {
		return 0, nil, err
	}
	kind, content, err := p.read(offset, limit)
	if err != nil {
		return 0, nil, err
	}
	if plumbing.ComputeHash(kind, content) != id {
		return 0, nil, errCorrupt
	}
	return kind, content, nil
}

// need is object for what must be there: anything amiss is damage, which is mended
// at once, behind the reader's back. Errors are *fault.Error: Internal, Limit, or,
// if it is the repository that is damaged and not the copy of it, Invalid or NotFound.
func (r *repo) need(id plumbing.Hash, want plumbing.ObjectType, limit int64, s *snapshot) ([]byte, error) {
	generation := s.generation.Load()
	kind, content, err := r.object(id, limit)
	switch {
	case err == nil && kind != want:
		// It has the content that its id stands for: to fetch it again is no use.
		return nil, fault.New(fault.Invalid, "the repository names a %s where a %s belongs", kind, want).
			WithHint("Git itself does not write this; commit it anew")
	case err == nil || fault.KindOf(err) == fault.Limit:
		return content, err
	case generation != r.generation.Load():
		s.damaged.Store(true)
		r.store.repair(s)
		return nil, fault.New(fault.Unreachable, "the local copy of the repository had to make room; it will be fetched again").Because(err)
	case r.broken.Load():
	case !r.beginsAnew(s.commit):
		return nil, fault.New(fault.NotFound, "the repository does not have all of commit %s", s.commit).
			WithHint("its server sent less than it names, twice; push another commit").Because(err)
	case r.broken.CompareAndSwap(false, true):
		s.damaged.Store(true)
		r.store.repair(s)
	}
	s.damaged.Store(true)
	return nil, fault.New(fault.Internal, "the local copy of the repository is damaged; it will be fetched anew").Because(err)
}

func (r *repo) listing(id tree.Digest, s *snapshot) ([]tree.Entry, error) {
	key := listingKey{r, id}
	if entries, ok := r.store.listings.get(key); ok {
		return entries, nil
	}
	content, err := r.need(hash(id), plumbing.TreeObject, maxListing, s)
	if err != nil {
		return nil, err
	}
	entries, err := parseTree(content)
	if err != nil {
		return nil, err
	}
	r.store.listings.put(key, entries, int64(len(content)+len(entries)*40+128))
	return entries, nil
}

// snapshot returns the tree of a commit that is here; always the same one for
// as long as somebody holds it.
func (r *repo) snapshot(id plumbing.Hash, req source.Request) (*snapshot, error) {
	r.mu.RLock()
	held := r.live[id].Value()
	r.mu.RUnlock()
	if held != nil {
		if now := r.generation.Load(); held.generation.Swap(now) != now {
			held.damaged.Store(false) // its objects are back
		}
		return held, nil
	}
	kind, content, err := r.object(id, maxCommit)
	if err != nil {
		return nil, err
	}
	if kind != plumbing.CommitObject {
		return nil, errNoCommit()
	}
	c, err := parseCommit(content)
	if err != nil {
		return nil, err
	}
	s := &snapshot{repo: r, commit: id, root: c.tree, told: c.tell(), request: req}
	s.generation.Store(r.generation.Load())
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, held := range r.live {
		if held.Value() == nil {
			delete(r.live, id)
		}
	}
	r.live[id] = weak.Make(s)
	return s, nil
}

func closeAll(packs []*pack) {
	for _, p := range packs {
		p.close()
	}
}

func hashes(texts []string) []plumbing.Hash {
	out := make([]plumbing.Hash, len(texts))
	for i, t := range texts {
		out[i] = plumbing.NewHash(t)
	}
	return out
}

func texts(hashes []plumbing.Hash) []string {
	out := make([]string, len(hashes))
	for i, h := range hashes {
		out[i] = h.String()
	}
	return out
}
