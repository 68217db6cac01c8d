// Package git fetches revisions of Git repositories and serves their trees
// straight from packed objects: there is no working copy and no git binary.
//
// There is one object store per URL and way to it (a credential's own CA, known
// hosts and proxy), and only objects are shared in it. What a
// request may see is decided anew each time: its own credential asks the
// remote for refs, and a commit asked for by id must be reachable from one of
// them. When the remote names a commit that is already here, that one question
// is all that is sent.
//
// Branch heads are fetched without history (depth 1): a delivery needs a tree,
// and the history of a repository is many times larger. Servers send only what
// is missing in comparison to the heads that are here, also between such
// shallow commits. History is fetched only to prove that a commit asked for by
// id belongs to a branch. Servers that cannot do this send all.
//
// Objects are checked against their ids when they arrive and when they are
// read. The store is a cache: whatever is found damaged or half-written is
// thrown away and fetched again, so that nothing here waits for a disk.
package git

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/holdfastcd/holdfast/internal/source"
	"github.com/holdfastcd/holdfast/internal/tree"
)

// Options configure a store. Zero fields take the defaults.
type Options struct {
	// AllowFile lets file URLs be fetched: they read the disk of this process.
	AllowFile bool
	// AllowLinkLocal lets Git servers and proxies be at link-local addresses, where
	// clouds have the metadata of their machines.
	AllowLinkLocal bool
	// Timeout of one fetch; default 5 minutes.
	Timeout time.Duration
	// MaxPack is the largest pack that is accepted; default 1 GiB.
	MaxPack int64
	// MaxBytes is the disk that all stores may take together; default 6 GiB.
	MaxBytes int64
	// MaxRefs is the largest list of refs, in bytes; default 16 MiB.
	MaxRefs int64
	// MaxPacks is how many packs pile up in a store before they are made one;
	// default 50.
	MaxPacks int
	// CacheBytes bounds the memory for directory listings, and again for the
	// bases of deltas, of all stores together; default 8 MiB.
	CacheBytes int64
	// Proxy chooses a proxy for HTTP where a credential brings none of its own;
	// default none.
	Proxy func(*http.Request) (*url.URL, error)
	// Unused is after how long without a fetch the objects of a repository are
	// deleted; default 7 days.
	Unused time.Duration
	// Now is the clock by which that is judged; default time.Now.
	Now func() time.Time
}

func (o Options) withDefaults() Options {
	if o.Timeout <= 0 {
		o.Timeout = 5 * time.Minute
	}
	if o.MaxPack <= 0 {
		o.MaxPack = 1 << 30
	}
	if o.MaxBytes <= 0 {
		o.MaxBytes = 6 << 30
	}
	if o.MaxRefs <= 0 {
		o.MaxRefs = 16 << 20
	}
	if o.MaxPacks <= 0 {
		o.MaxPacks = 50
	}
	if o.CacheBytes <= 0 {
		o.CacheBytes = 8 << 20
	}
	if o.Unused <= 0 {
		o.Unused = 7 * 24 * time.Hour
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return o
}

// Store is a [source.Fetcher] for Git repositories. It is safe for concurrent
// use; its directory must be its own.
type Store struct {
	dir      string
	opts     Options
	remote   *remote
	bases    *lru[baseKey, base]
	listings *lru[listingKey, []tree.Entry]
	lineage  *lru[ancestry, bool] // whether a commit is another's ancestor: that never changes

	budget    *budget
	indexing  *source.Turns // while a pack is indexed that takes memory
	repairing *source.Turns

	mu         sync.Mutex
	repos      map[string]*repo
	swept      time.Time
	background sync.WaitGroup  // compactions and repairs under way
	open       context.Context //nolint:containedctx // ends what runs in the background
	end        context.CancelFunc
}

type listingKey struct {
	repo *repo // a store's objects are for those who may read that store
	id   tree.Digest
}

// New returns a store that keeps its objects below dir, creating it if need
// be. What an earlier process left there is used, unless it was not for long.
func New(dir string, opts Options) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	opts = opts.withDefaults()
	s := &Store{
		dir: dir, opts: opts, remote: newRemote(dir, opts), repos: map[string]*repo{},
		budget:   newBudget(opts.MaxBytes, opts.Now),
		indexing: source.NewTurns(1, 1), repairing: source.NewTurns(2, 1),
		bases:    newLRU[baseKey, base](opts.CacheBytes),
		listings: newLRU[listingKey, []tree.Entry](opts.CacheBytes),
		lineage:  newLRU[ancestry, bool](maxKnown),
	}
	s.budget.held, s.budget.evict = s.isHeld, s.evict
	s.open, s.end = context.WithCancel(context.Background())
	if err := s.expire(); err != nil {
		return nil, err
	}
	return s, s.measure()
}

// measure finds out what an earlier process left, and throws away what is too much.
func (s *Store) measure() error {
	dirs, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	for _, d := range dirs {
		if !isStore(d.Name()) {
			continue
		}
		dir := filepath.Join(s.dir, d.Name())
		size, err := sizeOf(dir)
		if err != nil {
			return err
		}
		info, err := os.Stat(filepath.Join(dir, stateFile))
		if err != nil {
			return err // it was there when unused ones were looked for
		}
		s.budget.found(d.Name(), size, info.ModTime())
	}
	s.budget.trim()
	return nil
}

// isHeld reports whether somebody holds a tree of a store.
func (s *Store) isHeld(name string) bool {
	s.mu.Lock()
	r := s.repos[name]
	s.mu.Unlock()
	return r != nil && len(r.held()) > 0
}

// evict throws a store away, unless it is in use by a fetch, or, without force,
// somebody holds a tree of it. Whoever needs it again fetches it again.
func (s *Store) evict(name string, force bool) bool {
	s.mu.Lock()
	r := s.repos[name]
	if r == nil { // nobody can begin to use it now
		defer s.mu.Unlock()
		err := os.RemoveAll(filepath.Join(s.dir, name))
		if err == nil {
			s.budget.settle(name, nobody, 0)
		}
		return err == nil
	}
	s.mu.Unlock()
	return r.evict(force)
}

// Close waits for what runs in the background and closes files and connections.
// Trees from this store cannot be read any longer.
func (s *Store) Close() error {
	s.mu.Lock()
	s.end()
	s.mu.Unlock()
	s.background.Wait()
	s.remote.close()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.repos {
		r.close()
	}
	return nil
}

// Fetch implements [source.Fetcher]. Besides the errors named there, Internal
// means that the store itself could not be written or read.
func (s *Store) Fetch(ctx context.Context, req source.Request) (source.Revision, error) {
	if err := source.CheckURL(req.URL, s.opts.AllowFile); err != nil {
		return source.Revision{}, err
	}
	ctx, cancel := context.WithTimeout(withTenant(ctx, req.Tenant), s.opts.Timeout)
	defer cancel()
	c, err := s.remote.connect(ctx, req)
	if err != nil {
		return source.Revision{}, s.remote.classify(err, req)
	}
	defer func() { _ = c.upload.Close() }() // what matters was read by then
	want, err := resolve(c.refs, req.Ref)
	c.forget()
	if err != nil {
		return source.Revision{}, err
	}
	s.sweep()
	r := s.repo(req)
	if err := r.lock(ctx); err != nil {
		return source.Revision{}, s.remote.classify(err, req)
	}
	defer r.unlock()
	defer r.settle(req.Tenant)
	snap, err := r.revision(ctx, c, want, req)
	if err != nil {
		return source.Revision{}, s.remote.classify(err, req)
	}
	if r.packCount() > s.opts.MaxPacks {
		r.compactLater(&s.background, req.Tenant) //nolint:contextcheck // it goes on when the request is over
	}
	return source.Revision{
		Commit: snap.commit.String(), Branch: want.branch, Tag: want.tag, Name: want.name, Tree: snap,
		Author: snap.told.author, Committer: snap.told.committer, Date: snap.told.date, Message: snap.told.message,
		History: s.newHistory(snap, want, req), URL: source.NormalizeURL(req.URL),
	}, nil
}

// repairEvery is how often a tree is fetched again that misses something, at most.
const repairEvery = 30 * time.Second

// repair fetches again, in the background, what brought a tree that was found
// to be damaged, or that had to make room. If that fails, the next fetch mends it.
func (s *Store) repair(damaged *snapshot) {
	now, last := s.opts.Now().UnixNano(), damaged.repaired.Load()
	if last != 0 && now-last < int64(repairEvery) || !damaged.repaired.CompareAndSwap(last, now) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open.Err() != nil {
		return
	}
	s.background.Go(func() {
		give, err := s.repairing.Take(s.open, damaged.request.Tenant)
		if err != nil {
			return
		}
		defer give()
		_, _ = s.Fetch(s.open, damaged.request)
	})
}

// repo returns the objects that a request shares with others.
func (s *Store) repo(req source.Request) *repo {
	name := storeID(req)
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.repos[name]
	if r == nil {
		r = newRepo(s, filepath.Join(s.dir, name), req.URL)
		s.repos[name] = r
	}
	return r
}

// storeID names the store of a request. The scheme is part of it: what came over
// an untrusted transport must not stand in for what comes over TLS. So is
// whatever else decides who answers: to someone who brings a CA, known hosts or a
// proxy, a server of their own can answer in the place of the real one, and claim
// that its branch is at a commit that only others may see.
func storeID(req source.Request) string {
	scheme, _, ok := strings.Cut(req.URL, "://")
	if !ok {
		scheme = "ssh" // git@host:path
	}
	h := sha256.New()
	part := func(b []byte) {
		h.Write(binary.AppendUvarint(nil, uint64(len(b))))
		h.Write(b)
	}
	part([]byte(scheme + "://" + exactly(req.URL)))
	secret := req.Credential.Secret()
	part(secret.CA)
	part(secret.KnownHosts)
	if p := secret.Proxy; p != nil {
		part([]byte(p.URL))
		part([]byte(p.Username))
		part([]byte(p.NoProxy))
	}
	return hex.EncodeToString(h.Sum(nil)[:storeIDSize])
}

// exactly returns a URL in one form for all that certainly mean the same: the host
// in lower case, no slash at the end. [source.NormalizeURL] goes further, and would
// have two ports of a host, or the homes of two users of ssh, share a store.
func exactly(raw string) string {
	raw = strings.TrimRight(raw, "/")
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" {
		return raw
	}
	u.Host = strings.ToLower(u.Host)
	return u.String()
}

const (
	storeIDSize = 16
	sweepEvery  = 24 * time.Hour
)

// sweep looks for stores that nobody uses, once a day.
func (s *Store) sweep() {
	now := s.opts.Now()
	s.mu.Lock()
	due := now.Sub(s.swept) >= sweepEvery
	s.mu.Unlock()
	if due {
		_ = s.expire() // disk that cannot be freed today may be tomorrow
	}
}

// expire frees the stores that no request was made for in a long time. It
// touches only what looks like a store.
func (s *Store) expire() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.swept = s.opts.Now()
	dirs, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	for _, d := range dirs {
		if !isStore(d.Name()) {
			continue
		}
		if r := s.repos[d.Name()]; r != nil {
			r.expire(s.swept)
			continue
		}
		dir := filepath.Join(s.dir, d.Name())
		info, err := os.Stat(filepath.Join(dir, stateFile))
		if err == nil && s.swept.Sub(info.ModTime()) < s.opts.Unused {
			continue
		}
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
		s.budget.settle(d.Name(), nobody, 0)
	}
	return nil
}

// isStore reports whether a directory is one that [Store.repo] names.
func isStore(name string) bool {
	id, err := hex.DecodeString(name)
	return err == nil && len(id) == storeIDSize
}
