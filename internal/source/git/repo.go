package git

import (
	"cmp"
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

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/source"
	"github.com/holdfastcd/holdfast/internal/tree"
)

const (
	stateFile = "state.json"
	markEvery = time.Hour
	largePack = 1 << 20
)

// repo is the object store of one repository: a few packs and a state that
// says what they hold. The state is replaced whole, after the packs it names
// are in place: a process that is killed leaves files that nobody names, and
// they are removed when the store is opened again.
type repo struct {
	store *Store
	dir   string
	url   string

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
	return nil
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
		r.broken.Store(r.reset() != nil)
	}
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

// reset throws everything away.
func (r *repo) reset() error {
	r.close()
	if err := os.RemoveAll(r.dir); err != nil {
		return err
	}
	if err := os.MkdirAll(r.dir, 0o700); err != nil {
		return err
	}
	if err := r.save(state{}); err != nil {
		return err
	}
	r.mu.Lock()
	clear(r.live)
	r.mu.Unlock()
	r.opened, r.known, r.expanded = true, nil, nil
	r.generation.Add(1)
	r.broken.Store(false)
	return nil
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
	sum, count, err := r.index(ctx, file, index, n)
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

// index is [indexPack], one at a time for large packs: each object takes some 230
// bytes of memory meanwhile.
func (r *repo) index(ctx context.Context, file, index *os.File, size int64) (plumbing.Hash, int, error) {
	if size > largePack {
		select {
		case r.store.indexing <- struct{}{}:
			defer func() { <-r.store.indexing }()
		case <-ctx.Done():
			return plumbing.ZeroHash, 0, ctx.Err()
		}
	}
	return indexPack(ctx, file, index, r.object)
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
// at once, behind the reader's back. Errors are *fault.Error: Internal, or Limit.
func (r *repo) need(id plumbing.Hash, want plumbing.ObjectType, limit int64, s *snapshot) ([]byte, error) {
	kind, content, err := r.object(id, limit)
	if err == nil && kind != want {
		err = errCorrupt
	}
	if err == nil {
		return content, nil
	}
	if fault.KindOf(err) == fault.Limit {
		return nil, err
	}
	s.damaged.Store(true)
	if s.generation == r.generation.Load() && r.broken.CompareAndSwap(false, true) {
		r.store.repair(s)
	}
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
		return held, nil
	}
	kind, content, err := r.object(id, maxCommit)
	if err != nil || kind != plumbing.CommitObject {
		return nil, cmp.Or(err, errCorrupt)
	}
	c, err := parseCommit(content)
	if err != nil {
		return nil, err
	}
	s := &snapshot{repo: r, generation: r.generation.Load(), commit: id, root: c.tree, told: c.tell(), request: req}
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
