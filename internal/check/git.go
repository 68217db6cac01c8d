package check

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"sync"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/format/index"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/go-git/go-git/v5/plumbing/storer"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/secret/leak"
	"github.com/holdfastcd/holdfast/internal/tree"
)

const (
	maxIndex   = 256 << 20 // bytes
	maxCommits = 1_000_000
	portion    = 2000 // contents that are searched at once
)

// errNoRepository is what there is to say where Git is needed.
func errNoRepository() error {
	return fault.New(fault.Invalid, "this is no repository of Git").WithHint("name a directory of one, or leave out --staged and --history")
}

// entries reads Git's index; nil where there is none.
func (r *repository) entries(name string) ([]*index.Entry, error) {
	if name == "" {
		name = filepath.Join(r.meta, "index")
	}
	f, err := os.Open(name) //nolint:gosec // of the repository that the user named
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, unreadable(name, err)
	}
	defer func() { _ = f.Close() }() // only read from
	var idx index.Index
	if err := index.NewDecoder(bufio.NewReader(io.LimitReader(f, maxIndex))).Decode(&idx); err != nil {
		return nil, fault.New(fault.Unsupported, "Git's index cannot be read: %s", err)
	}
	return idx.Entries, nil
}

// tracked lists the files that Git tracks.
func (r *repository) tracked() ([]string, error) {
	if r.git == nil {
		return nil, nil
	}
	entries, err := r.entries("")
	var names []string
	for _, e := range entries {
		names = append(names, e.Name)
	}
	return names, err
}

// staged judges what the next commit would change. The kustomizations beside and above
// are looked at for what they say of the files; only what is staged is told of.
func (r *repository) staged(ctx context.Context, s *search) error {
	if r.git == nil {
		return errNoRepository()
	}
	entries, err := r.entries(s.options.Index)
	if err != nil {
		return err
	}
	before, err := r.head()
	if err != nil {
		return err
	}
	g := &blobs{store: r.git}
	all := map[string]plumbing.Hash{}
	wanted := map[string]bool{}
	for _, e := range entries {
		if !isFile(e.Mode) || e.IntentToAdd {
			continue
		}
		all[e.Name] = e.Hash
		if before[e.Name] != e.Hash && r.covers(e.Name) {
			wanted[e.Name] = true
		}
	}
	names := beside(wanted, all)
	files := make([]leak.File, len(names))
	for i, name := range names {
		files[i] = g.file(name, all[name])
	}
	look := func(_ int, name string) (leak.File, bool) {
		hash, ok := all[name]
		return g.file(name, hash), ok
	}
	err = s.files(ctx, files, look, wanted, nil)
	s.report.Files = len(wanted)
	return err
}

// beside adds the kustomizations that may make Secrets of files, and sorts.
func beside(wanted map[string]bool, all map[string]plumbing.Hash) []string {
	named := map[string]bool{}
	for name := range wanted {
		named[name] = true
		for _, dir := range parents(name) {
			for _, base := range []string{"kustomization.yaml", "kustomization.yml", "Kustomization"} {
				if _, ok := all[path.Join(dir, base)]; ok {
					named[path.Join(dir, base)] = true
				}
			}
		}
	}
	names := make([]string, 0, len(named))
	for name := range named {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func isFile(m filemode.FileMode) bool {
	return m == filemode.Regular || m == filemode.Executable || m == filemode.Deprecated
}

// head lists the files of the commit that is checked out, with their contents.
func (r *repository) head() (map[string]plumbing.Hash, error) {
	files := map[string]plumbing.Hash{}
	ref, err := storer.ResolveReference(r.git, plumbing.HEAD)
	if errors.Is(err, plumbing.ErrReferenceNotFound) {
		return files, nil // before the first commit
	}
	if err != nil {
		return nil, damaged(err)
	}
	commit, err := object.GetCommit(r.git, ref.Hash())
	if err != nil {
		return nil, damaged(err)
	}
	return files, r.walkTree(commit.TreeHash, "", nil, func(name string, hash plumbing.Hash) { files[name] = hash })
}

// walkTree visits the files of a tree. Trees that seen holds are left out; those that
// are visited are added to it, if it is not nil.
func (r *repository) walkTree(id plumbing.Hash, dir string, seen map[plumbing.Hash]bool, visit func(name string, hash plumbing.Hash)) error {
	if seen[id] {
		return nil
	}
	if seen != nil {
		seen[id] = true
	}
	t, err := object.GetTree(r.git, id)
	if err != nil {
		return damaged(err)
	}
	for _, e := range t.Entries {
		name := path.Join(dir, e.Name)
		switch {
		case e.Mode == filemode.Dir:
			if err := r.walkTree(e.Hash, name, seen, visit); err != nil {
				return err
			}
		case isFile(e.Mode):
			visit(name, e.Hash)
		}
	}
	return nil
}

func damaged(err error) error {
	return fault.New(fault.Invalid, "the repository cannot be read: %s", err).WithHint("see 'git fsck'")
}

// history judges every content that a commit holds, once, as of the first commit.
func (r *repository) history(ctx context.Context, s *search) error {
	if r.git == nil {
		return errNoRepository()
	}
	if shallow, err := r.git.Shallow(); err != nil || len(shallow) > 0 {
		return fault.New(fault.Invalid, "the repository is shallow: commits are missing that it once held").WithHint("fetch them: git fetch --unshallow")
	}
	commits, err := r.commits(ctx)
	if err != nil {
		return err
	}
	h := &past{repository: r, search: s, blobs: &blobs{store: r.git}, trees: map[plumbing.Hash]bool{}, contents: map[plumbing.Hash]bool{}}
	for _, c := range commits {
		if err := h.commit(ctx, c); err != nil {
			return err
		}
	}
	s.report.Commits = len(commits)
	return h.flush(ctx)
}

// past is a search of the history.
type past struct {
	*repository

	search   *search
	blobs    *blobs
	trees    map[plumbing.Hash]bool
	contents map[plumbing.Hash]bool

	files []leak.File
	roots []plumbing.Hash // the tree in which each file was found
	first map[tree.Digest]string
}

func (h *past) commit(ctx context.Context, c *object.Commit) error {
	if err := ctx.Err(); err != nil {
		return fault.New(fault.Internal, "the search was cancelled").Because(err)
	}
	err := h.walkTree(c.TreeHash, "", h.trees, func(name string, hash plumbing.Hash) {
		if h.contents[hash] || !h.covers(name) {
			return
		}
		h.contents[hash] = true
		if h.first == nil {
			h.first = map[tree.Digest]string{}
		}
		f := h.blobs.file(name, hash)
		h.first[f.Digest] = c.Hash.String()
		h.files, h.roots = append(h.files, f), append(h.roots, c.TreeHash)
	})
	if err != nil || len(h.files) < portion {
		return err
	}
	return h.flush(ctx)
}

// flush searches what was gathered.
func (h *past) flush(ctx context.Context) error {
	look := func(from int, name string) (leak.File, bool) {
		t, err := object.GetTree(h.git, h.roots[from])
		if err != nil {
			return leak.File{}, false
		}
		e, err := t.FindEntry(name)
		if err != nil || !isFile(e.Mode) {
			return leak.File{}, false
		}
		return h.blobs.file(name, e.Hash), true
	}
	err := h.search.files(ctx, h.files, look, nil, h.first)
	h.files, h.roots = nil, nil
	return err
}

// commits lists what HEAD and refs reach, parents before their children.
func (r *repository) commits(ctx context.Context) ([]*object.Commit, error) {
	tips, err := r.tips()
	if err != nil {
		return nil, err
	}
	var all []*object.Commit
	done := map[plumbing.Hash]bool{}
	stack := tips
	for len(stack) > 0 {
		if err := ctx.Err(); err != nil {
			return nil, fault.New(fault.Internal, "the search was cancelled").Because(err)
		}
		top := stack[len(stack)-1]
		if done[top.Hash] {
			stack = stack[:len(stack)-1]
			continue
		}
		more, err := r.undone(top, done)
		if err != nil {
			return nil, err
		}
		if len(more) > 0 {
			stack = append(stack, more...)
			continue
		}
		if done[top.Hash] = true; len(done) > maxCommits {
			return nil, fault.New(fault.Limit, "the repository has more than %d commits", maxCommits)
		}
		all, stack = append(all, top), stack[:len(stack)-1]
	}
	return all, nil
}

// undone returns the parents of a commit that were not visited.
func (r *repository) undone(c *object.Commit, done map[plumbing.Hash]bool) ([]*object.Commit, error) {
	var more []*object.Commit
	for _, id := range slices.Backward(c.ParentHashes) { // the first parent is visited first
		if done[id] {
			continue
		}
		parent, err := object.GetCommit(r.git, id)
		if err != nil {
			return nil, damaged(err)
		}
		more = append(more, parent)
	}
	return more, nil
}

// tips are the commits that refs name, the one committed first at the end.
func (r *repository) tips() ([]*object.Commit, error) {
	refs, err := r.git.IterReferences()
	if err != nil {
		return nil, damaged(err)
	}
	var tips []*object.Commit
	err = refs.ForEach(func(ref *plumbing.Reference) error {
		if ref.Type() != plumbing.HashReference {
			return nil // it names another, or nothing yet
		}
		c, err := r.peel(ref.Hash())
		if c != nil {
			tips = append(tips, c)
		}
		return err
	})
	if err != nil {
		return nil, damaged(err)
	}
	slices.SortStableFunc(tips, func(a, b *object.Commit) int { return b.Committer.When.Compare(a.Committer.When) })
	return tips, nil
}

// peel returns the commit that an id leads to; nil for a tag of something else.
func (r *repository) peel(id plumbing.Hash) (*object.Commit, error) {
	const deep = 10
	for range deep {
		tag, err := object.GetTag(r.git, id)
		if errors.Is(err, plumbing.ErrObjectNotFound) {
			break
		}
		if err != nil {
			return nil, err
		}
		id = tag.Target
	}
	c, err := object.GetCommit(r.git, id)
	if errors.Is(err, plumbing.ErrObjectNotFound) {
		if _, known := r.git.EncodedObject(plumbing.AnyObject, id); known == nil {
			return nil, nil //nolint:nilnil // it is a tree or a file
		}
	}
	return c, err
}

// blobs reads contents. The storage is not made for several readers.
type blobs struct {
	mu    sync.Mutex
	store storer.EncodedObjectStorer
}

func (b *blobs) file(name string, hash plumbing.Hash) leak.File {
	return leak.File{Path: name, Digest: tree.Digest(hash[:]), Read: func(limit int64) ([]byte, error) { return b.read(name, hash, limit) }}
}

func (b *blobs) read(name string, hash plumbing.Hash, limit int64) ([]byte, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	size, err := b.store.EncodedObjectSize(hash)
	if err != nil {
		return nil, damaged(err)
	}
	if size > limit {
		return nil, tree.TooLarge(name, size, limit)
	}
	o, err := b.store.EncodedObject(plumbing.BlobObject, hash)
	if err != nil {
		return nil, damaged(err)
	}
	in, err := o.Reader()
	if err != nil {
		return nil, damaged(err)
	}
	defer func() { _ = in.Close() }() // only read from
	content, err := io.ReadAll(io.LimitReader(in, limit))
	if err != nil {
		return nil, damaged(err)
	}
	return content, nil
}
