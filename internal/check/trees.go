package check

import (
	"cmp"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"

	"github.com/holdfastcd/holdfast/internal/tree"
)

// leaf is a file or symlink of a state of the repository.
type leaf struct {
	kind   tree.Kind
	digest tree.Digest
}

// state is the repository at one moment: the working tree, what is staged, or a commit.
// It is a tree whose root is a directory of the repository.
type state struct {
	at      string // that directory; "" for the root of the repository
	leaves  map[string]leaf
	entries map[string]tree.Entry
	dirs    map[string][]tree.Entry
	content func(name string, limit int64) ([]byte, error) // by path from the root of the repository
}

// newState lays out leaves, by their paths from the root of the repository, below a
// directory of it.
func newState(at string, leaves map[string]leaf, content func(string, int64) ([]byte, error)) *state {
	s := &state{at: at, leaves: map[string]leaf{}, entries: map[string]tree.Entry{"": {Kind: tree.Dir}}, dirs: map[string][]tree.Entry{"": nil}, content: content}
	for name, l := range leaves {
		if at != "" {
			inside, ok := strings.CutPrefix(name, at+"/")
			if !ok {
				continue
			}
			name = inside
		}
		s.leaves[name] = l
		s.add(name, tree.Entry{Name: path.Base(name), Kind: l.kind, Digest: l.digest})
	}
	for _, list := range s.dirs {
		slices.SortFunc(list, func(a, b tree.Entry) int { return cmp.Compare(a.Name, b.Name) })
	}
	return s
}

// add takes an entry in, and the directories above it.
func (s *state) add(name string, e tree.Entry) {
	for {
		_, known := s.entries[name]
		s.entries[name] = e
		if known {
			return
		}
		dir := path.Dir(name)
		if dir == "." {
			dir = ""
		}
		s.dirs[dir] = append(s.dirs[dir], e)
		if dir == "" {
			return
		}
		name, e = dir, tree.Entry{Name: path.Base(dir), Kind: tree.Dir}
	}
}

// Stat implements [tree.Tree].
func (s *state) Stat(name string) (tree.Entry, error) {
	if name == "." {
		name = ""
	}
	if e, ok := s.entries[name]; ok {
		return e, nil
	}
	return tree.Entry{}, tree.NotExist(name)
}

// ReadDir implements [tree.Tree].
func (s *state) ReadDir(name string) ([]tree.Entry, error) {
	if name == "." {
		name = ""
	}
	list, ok := s.dirs[name]
	if !ok {
		return nil, tree.NotExist(name)
	}
	return slices.Clone(list), nil
}

// ReadFile implements [tree.Tree].
func (s *state) ReadFile(name string, limit int64) ([]byte, error) {
	if _, ok := s.leaves[name]; !ok {
		return nil, tree.NotExist(name)
	}
	return s.content(s.place(name), limit)
}

// place is a path of the tree, from the root of the repository.
func (s *state) place(name string) string { return path.Join(s.at, name) }

// within is the part of a state of the whole repository below a directory.
func (s *state) within(at string) *state { return newState(at, s.leaves, s.content) }

// names lists the files, sorted.
func (s *state) names() []string {
	names := make([]string, 0, len(s.leaves))
	for name, l := range s.leaves {
		if l.kind.IsFile() {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// workingTree is what was found in the working tree. Every file is read once, for its digest.
func (r *repository) workingTree(found listing) (*state, error) {
	leaves := make(map[string]leaf, len(found.names)+len(found.links))
	for _, name := range found.names {
		l, err := r.leaf(name)
		if errors.Is(err, tree.ErrNotExist) {
			continue // it went away meanwhile
		}
		if err != nil {
			return nil, err
		}
		leaves[name] = l
	}
	for _, name := range found.links {
		target, err := r.root.Readlink(filepath.FromSlash(name))
		if err != nil {
			continue
		}
		leaves[name] = leaf{tree.Symlink, tree.BlobDigest([]byte(filepath.ToSlash(target)))}
	}
	return newState("", leaves, func(name string, limit int64) ([]byte, error) {
		if leaves[name].kind == tree.Symlink {
			target, err := r.root.Readlink(filepath.FromSlash(name))
			return []byte(filepath.ToSlash(target)), err
		}
		return r.read(name, limit)
	}), nil
}

// leaf takes the digest of a file.
func (r *repository) leaf(name string) (leaf, error) {
	f, err := r.root.Open(filepath.FromSlash(name))
	if errors.Is(err, fs.ErrNotExist) {
		return leaf{}, tree.NotExist(name)
	}
	if err != nil {
		return leaf{}, unreadable(name, err)
	}
	defer func() { _ = f.Close() }() // only read from
	info, err := f.Stat()
	if err != nil {
		return leaf{}, unreadable(name, err)
	}
	l := leaf{kind: tree.File}
	if info.Mode()&0o111 != 0 {
		l.kind = tree.Executable
	}
	h := tree.NewBlobHash(info.Size())
	if _, err := io.Copy(h, io.LimitReader(f, info.Size())); err != nil {
		return leaf{}, unreadable(name, err)
	}
	l.digest = tree.Digest(h.Sum(nil))
	return l, nil
}

// gitState is a state, below a directory, whose contents are in Git's object store.
func (r *repository) gitState(leaves map[string]leaf, at string) *state {
	g := &blobs{store: r.git}
	return newState(at, leaves, func(name string, limit int64) ([]byte, error) {
		var hash plumbing.Hash
		copy(hash[:], leaves[name].digest)
		return g.read(name, hash, limit)
	})
}

// kindOf says what a mode of Git is; false for what no delivery can read.
func kindOf(m filemode.FileMode) (tree.Kind, bool) {
	switch m {
	case filemode.Regular, filemode.Deprecated:
		return tree.File, true
	case filemode.Executable:
		return tree.Executable, true
	case filemode.Symlink:
		return tree.Symlink, true
	default:
		return 0, false
	}
}

// exists reports whether something is at a path of the working tree.
func (r *repository) exists(name string) bool {
	_, err := r.root.Lstat(filepath.FromSlash(cmp.Or(name, ".")))
	return err == nil || !errors.Is(err, os.ErrNotExist)
}
