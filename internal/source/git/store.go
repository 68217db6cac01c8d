// Package git fetches revisions of Git repositories and serves their trees
// straight from packed objects: there is no working copy and no git binary.
//
// There is one object store per URL, and only objects are shared in it. What a
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
	"encoding/hex"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/go-git/go-git/v5/plumbing"

	"github.com/holdfastcd/holdfast/internal/source"
	"github.com/holdfastcd/holdfast/internal/tree"
)

// Options configure a store. Zero fields take the defaults.
type Options struct {
	// AllowFile lets file URLs be fetched: they read the disk of this process.
	AllowFile bool
	// Timeout of one fetch; default 5 minutes.
	Timeout time.Duration
	// MaxPack is the largest pack that is accepted; default 1 GiB.
	MaxPack int64
	// MaxRefs is the largest list of refs, in bytes; default 32 MiB.
	MaxRefs int64
	// MaxPacks is how many packs pile up in a store before they are made one;
	// default 50.
	MaxPacks int
	// CacheBytes bounds the memory for directory listings, and again for the
	// bases of deltas, of all stores together; default 8 MiB.
	CacheBytes int64
	// Proxy chooses a proxy for a request; default none.
	Proxy func(*http.Request) (*url.URL, error)
}

func (o Options) withDefaults() Options {
	if o.Timeout <= 0 {
		o.Timeout = 5 * time.Minute
	}
	if o.MaxPack <= 0 {
		o.MaxPack = 1 << 30
	}
	if o.MaxRefs <= 0 {
		o.MaxRefs = 32 << 20
	}
	if o.MaxPacks <= 0 {
		o.MaxPacks = 50
	}
	if o.CacheBytes <= 0 {
		o.CacheBytes = 8 << 20
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

	mu         sync.Mutex
	repos      map[string]*repo
	background sync.WaitGroup // compactions under way
}

type listingKey struct {
	repo *repo // a store's objects are for those who may read that store
	id   tree.Digest
}

// New returns a store that keeps its objects below dir, creating it if need
// be. What an earlier process left there is used.
func New(dir string, opts Options) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	opts = opts.withDefaults()
	return &Store{
		dir: dir, opts: opts, remote: newRemote(opts), repos: map[string]*repo{},
		bases:    newLRU[baseKey, base](opts.CacheBytes),
		listings: newLRU[listingKey, []tree.Entry](opts.CacheBytes),
	}, nil
}

// Close waits for compactions and closes files and connections. Trees from
// this store cannot be read any longer.
func (s *Store) Close() error {
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
	ctx, cancel := context.WithTimeout(ctx, s.opts.Timeout)
	defer cancel()
	c, err := s.remote.connect(ctx, req)
	if err != nil {
		return source.Revision{}, s.remote.classify(err, req)
	}
	want, err := resolve(c.refs, req.Ref)
	if err != nil {
		return source.Revision{}, err
	}
	r := s.repo(req.URL)
	if err := r.lock(ctx); err != nil {
		return source.Revision{}, s.remote.classify(err, req)
	}
	defer r.unlock()
	snap, err := r.revision(ctx, c, want)
	if err != nil {
		return source.Revision{}, s.remote.classify(err, req)
	}
	if r.packCount() > s.opts.MaxPacks {
		r.compactLater(&s.background) //nolint:contextcheck // it goes on when the request is over
	}
	return source.Revision{Commit: snap.commit.String(), Branch: want.branch, Tree: snap}, nil
}

// repo returns the store of a URL. The scheme is part of its identity: what
// came over an untrusted transport must not stand in for what comes over TLS.
func (s *Store) repo(raw string) *repo {
	scheme, _, _ := strings.Cut(raw, "://")
	id := sha256.Sum256([]byte(scheme + "://" + source.NormalizeURL(raw)))
	name := hex.EncodeToString(id[:16])
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.repos[name]
	if r == nil {
		r = newRepo(s, filepath.Join(s.dir, name), raw)
		s.repos[name] = r
	}
	return r
}

// target is what a request asks for.
type target struct {
	branch string
	tip    plumbing.Hash // of the branch or HEAD, when no commit is given
	commit plumbing.Hash // zero if none is given
	// groups are the refs one of which must lead to commit, likely ones first.
	groups [][]plumbing.Hash
}
