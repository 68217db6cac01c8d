package git

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"path/filepath"
	"slices"
	"sync"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/capability"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/source"
)

// maxListed bounds the commits that [source.History.Since] lists.
const maxListed = 200_000

// history is the [source.History] of one revision. Commits are read from the
// repository's store, and from another beside it that holds commits alone: servers
// that can filter send history without its trees and files, and what has no trees
// must not count as something that is here when a head is fetched.
type history struct {
	store *Store
	snap  *snapshot
	req   source.Request

	tag    plumbing.Hash // the annotated tag that was asked for; or zero
	tagRaw []byte
	tagErr error

	mu    sync.Mutex
	known map[plumbing.Hash]bool // commits that the revision was found to reach
}

// newHistory returns the history behind a snapshot, which a ref with the given tip
// led to. It is called with the store's lock held.
func (s *Store) newHistory(snap *snapshot, want target, req source.Request) *history {
	h := &history{store: s, snap: snap, req: req, known: map[plumbing.Hash]bool{snap.commit: true}}
	if want.tag != "" && want.tip != snap.commit {
		h.tag = want.tip
		_, h.tagRaw, h.tagErr = snap.repo.object(h.tag, maxCommit)
	}
	return h
}

// Commit implements [source.History].
func (h *history) Commit(ctx context.Context, id string) ([]byte, error) {
	want, err := commitID(id)
	if err != nil {
		return nil, err
	}
	if !h.isKnown(want) {
		reached, err := h.Contains(ctx, id)
		if err != nil {
			return nil, err
		}
		if !reached {
			return nil, fault.New(fault.NotFound, "the revision does not reach commit %s", id)
		}
	}
	raw, err := h.read(want)
	if errors.Is(err, errMissing) { // it is known by its child alone, or had to make room
		if _, err := h.walk(ctx, func(w *walker) (bool, error) { return w.holds(want) }); err != nil {
			return nil, err
		}
		raw, err = h.read(want)
	}
	return raw, h.classify(err)
}

// Tag implements [source.History].
func (h *history) Tag(context.Context) (string, []byte, error) {
	if h.tag.IsZero() || h.tagErr != nil {
		return "", nil, h.classify(h.tagErr)
	}
	return h.tag.String(), h.tagRaw, nil
}

// Since implements [source.History]. A commit that base reaches only by a way that
// is longer than what was fetched may be listed, too: that is never too little.
func (h *history) Since(ctx context.Context, base string, firstParent bool) ([]string, error) {
	var from plumbing.Hash
	if base != "" {
		var err error
		if from, err = commitID(base); err != nil {
			return nil, err
		}
	}
	var list []plumbing.Hash
	found := base == ""
	_, err := h.walk(ctx, func(w *walker) (done bool, err error) {
		if base != "" {
			if done, err = w.finds(from); !done || err != nil {
				return false, err
			}
			found = true
		}
		list, done, err = w.since(from, firstParent)
		return done, err
	})
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, fault.New(fault.NotFound, "commit %s is not among the ancestors of %s", base, h.snap.commit)
	}
	h.remember(list...)
	h.remember(from)
	return texts(list), nil
}

// Contains implements [source.History].
func (h *history) Contains(ctx context.Context, commit string) (bool, error) {
	want, err := commitID(commit)
	if err != nil {
		return false, err
	}
	if h.isKnown(want) {
		return true, nil
	}
	tip := h.snap.commit
	if known, ok := h.store.lineage.get(ancestry{tip, want}); ok {
		return known, nil
	}
	found, err := h.walk(ctx, func(w *walker) (bool, error) { return w.finds(want) })
	if err != nil {
		return false, err
	}
	h.store.lineage.put(ancestry{tip, want}, found, 1) // either is true for ever
	if found {
		h.remember(want)
	}
	return found, nil
}

func (h *history) isKnown(id plumbing.Hash) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.known[id]
}

func (h *history) remember(ids ...plumbing.Hash) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, id := range ids {
		h.known[id] = true
	}
}

// commitID reads a full commit id. Errors: Invalid.
func commitID(text string) (plumbing.Hash, error) {
	if len(text) != 2*hashSize || !isHex(text) {
		return plumbing.ZeroHash, fault.New(fault.Invalid, "%.50q is not a commit id", text).WithHint("write all of its 40 hexadecimal digits")
	}
	return plumbing.NewHash(text), nil
}

// commits is the store beside the repository's that holds history alone.
func (h *history) commits() *repo {
	sum := sha256.Sum256([]byte("history of " + h.snap.repo.name()))
	name := hex.EncodeToString(sum[:storeIDSize])
	s := h.store
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.repos[name]
	if r == nil {
		r = newRepo(s, filepath.Join(s.dir, name), h.snap.repo.url)
		r.filter = packp.FilterTreeDepth(0)
		s.repos[name] = r
	}
	return r
}

// read returns a commit from either store.
func (h *history) read(id plumbing.Hash) ([]byte, error) {
	r := h.snap.repo
	kind, content, err := r.object(id, maxCommit)
	if errors.Is(err, errMissing) {
		r = h.commits()
		kind, content, err = r.object(id, maxCommit)
	}
	switch {
	case errors.Is(err, errCorrupt):
		r.broken.Store(true) // the next fetch begins anew
		return nil, err
	case err != nil:
		return nil, err
	case kind != plumbing.CommitObject:
		return nil, errNoCommit()
	}
	return content, nil
}

func (h *history) classify(err error) error {
	if err == nil {
		return nil
	}
	return h.store.remote.classify(err, h.req)
}

// walk calls look with what is here, until it says that it is done or all that there
// is of the history is here, and deepens the history in between. It returns what
// look said last. Errors are look's, or *fault.Error as of a fetch.
func (h *history) walk(ctx context.Context, look func(*walker) (done bool, err error)) (bool, error) {
	ctx, cancel := context.WithTimeout(withTenant(ctx, h.req.Tenant), h.store.opts.Timeout)
	defer cancel()
	done, whole, err := h.look(ctx, look)
	if done || whole || err != nil {
		return done, h.classify(err)
	}
	c, err := h.store.remote.connect(ctx, h.req)
	if err != nil {
		return false, h.classify(err)
	}
	defer func() { _ = c.upload.Close() }() // what matters was read by then
	tips, err := h.tips(c)
	c.forget()
	if err != nil {
		return false, err
	}
	done, err = h.deepen(ctx, c, tips, look)
	return done, h.classify(err)
}

func (h *history) look(ctx context.Context, look func(*walker) (bool, error)) (done, whole bool, err error) {
	w := &walker{ctx: ctx, history: h, parents: map[plumbing.Hash][]plumbing.Hash{}}
	done, err = look(w)
	return done, !w.missed, err
}

// tips returns what to ask the server for so that the revision's history is sent.
func (h *history) tips(c *connection) ([]plumbing.Hash, error) {
	want, err := resolve(c.refs, h.req.Ref)
	if err != nil {
		return nil, err
	}
	if !want.tip.IsZero() {
		return []plumbing.Hash{want.tip}, nil
	}
	tips := slices.Concat(want.groups...)
	if len(want.groups) > 1 {
		tips = slices.Compact(slices.SortedFunc(slices.Values(tips), func(a, b plumbing.Hash) int { return slices.Compare(a[:], b[:]) }))
	}
	if len(tips) > maxTips {
		return nil, fault.New(fault.Limit, "the repository has more than %d branches and tags to look for a commit in", maxTips).
			WithHint("name the branch that it is on, or a tag")
	}
	return tips, nil
}

// deepen fetches more and more history until look is done.
func (h *history) deepen(ctx context.Context, c *connection, tips []plumbing.Hash, look func(*walker) (bool, error)) (bool, error) {
	r := h.snap.repo
	if c.refs.Capabilities.Supports(capability.Filter) {
		r = h.commits()
	}
	if err := r.lock(ctx); err != nil {
		return false, err
	}
	defer r.unlock()
	defer r.settle(h.req.Tenant)
	if r.packCount() > h.store.opts.MaxPacks {
		r.compactLater(&h.store.background, h.req.Tenant) //nolint:contextcheck // it goes on when the request is over
	}
	for _, depth := range append([]int{0}, depths...) {
		if depth > 0 { // else another has fetched it meanwhile
			if err := r.download(ctx, c, tips, depth); err != nil {
				return false, err
			}
		}
		done, whole, err := h.look(ctx, look)
		if done || whole || err != nil {
			return done, err
		}
	}
	return false, fault.New(fault.Unreachable, "the Git server no longer offers the history of commit %s", h.snap.commit).
		WithHint("the branch or tag was moved meanwhile; it is fetched again")
}

// walker goes through the commits that are here.
type walker struct {
	ctx     context.Context //nolint:containedctx // it lives as long as one walk
	history *history
	parents map[plumbing.Hash][]plumbing.Hash
	missed  bool // a commit was not here
}

// parentsOf returns a commit's parents; here is false if it is not here.
func (w *walker) parentsOf(id plumbing.Hash) (parents []plumbing.Hash, here bool, err error) {
	if known, ok := w.parents[id]; ok {
		return known, true, nil
	}
	if err := w.ctx.Err(); err != nil {
		return nil, false, err
	}
	if len(w.parents) > maxWalk {
		return nil, false, fault.New(fault.Limit, "the repository has more than %d commits", maxWalk)
	}
	content, err := w.history.read(id)
	if errors.Is(err, errMissing) {
		w.missed = true
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	c, err := parseCommit(content)
	if err != nil {
		return nil, false, err
	}
	w.parents[id] = c.parents
	return c.parents, true, nil
}

// finds looks for a commit among the revision and its ancestors, nearest first. It
// need not be here: that its child names it is proof enough.
func (w *walker) finds(want plumbing.Hash) (bool, error) {
	next := []plumbing.Hash{w.history.snap.commit}
	seen := map[plumbing.Hash]bool{next[0]: true}
	for ; len(next) > 0; next = next[1:] {
		if next[0] == want {
			return true, nil
		}
		parents, _, err := w.parentsOf(next[0])
		if err != nil {
			return false, err
		}
		for _, p := range parents {
			if !seen[p] {
				seen[p] = true
				next = append(next, p)
			}
		}
	}
	return false, nil
}

// holds is finds for a commit whose content is wanted, too.
func (w *walker) holds(want plumbing.Hash) (bool, error) {
	if found, err := w.finds(want); !found || err != nil {
		return false, err
	}
	_, here, err := w.parentsOf(want)
	return here, err
}

// ancestors returns a commit and all of its ancestors that are here.
func (w *walker) ancestors(of plumbing.Hash) (map[plumbing.Hash]bool, error) {
	set := map[plumbing.Hash]bool{of: true}
	for next := []plumbing.Hash{of}; len(next) > 0; {
		id := next[len(next)-1]
		next = next[:len(next)-1]
		parents, _, err := w.parentsOf(id)
		if err != nil {
			return nil, err
		}
		for _, p := range parents {
			if !set[p] {
				set[p] = true
				next = append(next, p)
			}
		}
	}
	return set, nil
}

// since lists the commits of the revision that base, which is among its ancestors,
// does not reach, children first. It is not done if more history is needed for it.
func (w *walker) since(base plumbing.Hash, firstParent bool) (list []plumbing.Hash, done bool, err error) {
	var behind map[plumbing.Hash]bool
	if !base.IsZero() {
		if behind, err = w.ancestors(base); err != nil {
			return nil, false, err
		}
	}
	cut := w.missed // what is behind base is known in part only
	w.missed = false
	found, rooted, err := w.reached(behind, firstParent)
	if err != nil {
		return nil, false, err
	}
	if w.missed || cut && rooted {
		w.missed = true
		return nil, false, nil
	}
	w.missed = cut
	return w.sorted(found), true, nil
}

// reached collects the revision and its ancestors up to those in behind. rooted says
// that one of them has no parents: it ends elsewhere.
func (w *walker) reached(behind map[plumbing.Hash]bool, firstParent bool) (found map[plumbing.Hash][]plumbing.Hash, rooted bool, err error) {
	found = map[plumbing.Hash][]plumbing.Hash{}
	for next := []plumbing.Hash{w.history.snap.commit}; len(next) > 0; {
		id := next[len(next)-1]
		next = next[:len(next)-1]
		if _, ok := found[id]; ok || behind[id] {
			continue
		}
		parents, _, err := w.parentsOf(id)
		if err != nil {
			return nil, false, err
		}
		if len(found) >= maxListed {
			return nil, false, fault.New(fault.Limit, "there are more than %d commits to list", maxListed)
		}
		rooted = rooted || len(parents) == 0
		if firstParent && len(parents) > 1 {
			parents = parents[:1]
		}
		found[id] = parents
		next = append(next, parents...)
	}
	return found, rooted, nil
}

// sorted puts commits in an order in which none comes before its children.
func (w *walker) sorted(found map[plumbing.Hash][]plumbing.Hash) []plumbing.Hash {
	children := map[plumbing.Hash]int{}
	for _, parents := range found {
		for _, p := range parents {
			children[p]++
		}
	}
	list := make([]plumbing.Hash, 0, len(found))
	if len(found) == 0 {
		return list
	}
	list = append(list, w.history.snap.commit)
	for i := 0; i < len(list); i++ { // the list grows meanwhile
		for _, p := range found[list[i]] {
			if children[p]--; children[p] == 0 {
				if _, ok := found[p]; ok {
					list = append(list, p)
				}
			}
		}
	}
	return list
}
