package git

import (
	"bytes"
	"cmp"
	"errors"
	"path"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/go-git/go-git/v5/plumbing"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/source"
	"github.com/holdfastcd/holdfast/internal/tree"
)

// maxListing is the largest directory: about half a million names.
const maxListing = 32 << 20

// snapshot is the tree of one commit, read from the object store when asked.
// While somebody holds it, the store keeps its objects.
type snapshot struct {
	repo       *repo
	commit     plumbing.Hash
	root       plumbing.Hash
	told       told
	request    source.Request // which brought it, and may mend it
	generation atomic.Int64   // of the store when the commit was there
	damaged    atomic.Bool    // something that it needs was not there
	repaired   atomic.Int64   // when it was last fetched again for that, in nanoseconds
}

// Damaged implements [source.Fragile].
func (s *snapshot) Damaged() bool { return s.damaged.Load() }

func (s *snapshot) Stat(name string) (tree.Entry, error) {
	entry := tree.Entry{Kind: tree.Dir, Digest: digest(s.root)}
	if name == "" || name == "." {
		return entry, nil
	}
	rest := name
	for more := true; more; {
		var step string
		step, rest, more = strings.Cut(rest, "/")
		if entry.Kind != tree.Dir {
			return tree.Entry{}, below(entry, name)
		}
		entries, err := s.repo.listing(entry.Digest, s)
		if err != nil {
			return tree.Entry{}, at(err, name)
		}
		i, ok := slices.BinarySearchFunc(entries, step, func(e tree.Entry, step string) int { return cmp.Compare(e.Name, step) })
		if !ok {
			return tree.Entry{}, tree.NotExist(name)
		}
		entry = entries[i]
	}
	return entry, nil
}

func (s *snapshot) ReadDir(name string) ([]tree.Entry, error) {
	e, err := s.Stat(name)
	if err != nil {
		return nil, err
	}
	if e.Kind != tree.Dir {
		return nil, below(e, name)
	}
	entries, err := s.repo.listing(e.Digest, s)
	if err != nil {
		return nil, at(err, name)
	}
	for _, e := range entries {
		if e.Kind == tree.Submodule || e.Name == ".gitmodules" {
			return nil, errSubmodule(path.Join(name, e.Name))
		}
	}
	return slices.Clone(entries), nil
}

func (s *snapshot) ReadFile(name string, limit int64) ([]byte, error) {
	e, err := s.Stat(name)
	if err != nil {
		return nil, err
	}
	if !e.Kind.IsFile() && e.Kind != tree.Symlink {
		return nil, below(e, name)
	}
	content, err := s.repo.need(hash(e.Digest), plumbing.BlobObject, limit, s)
	if err != nil {
		return nil, at(err, name)
	}
	if isPointer(content) {
		return nil, fault.New(fault.Unsupported, "the file's content is in Git LFS, which is not supported").
			WithHint("commit the content itself").At(path.Clean(name), 0)
	}
	return content, nil
}

// below says why there is nothing of a name where e is.
func below(e tree.Entry, name string) error {
	if e.Kind == tree.Submodule {
		return errSubmodule(path.Clean(name))
	}
	return tree.NotExist(name)
}

// errSubmodule refuses, rather than deliver less than the repository means.
func errSubmodule(name string) error {
	return fault.New(fault.Unsupported, "the source has a submodule here, and submodules are not supported").
		WithHint("deliver a path without it, or commit its content").At(name, 0)
}

// isPointer tells a stand-in of Git LFS, as its specification has it: a file of
// less than 1024 bytes that begins with its version.
func isPointer(content []byte) bool {
	return len(content) < 1024 && bytes.HasPrefix(content, []byte("version https://git-lfs.github.com/spec/v1\n"))
}

// at gives an error of the store the path it is about.
func at(err error, name string) error {
	var f *fault.Error
	if errors.As(err, &f) && f.File == "" {
		return f.At(path.Clean(name), 0)
	}
	return err
}

func digest(h plumbing.Hash) tree.Digest { return tree.Digest(h[:]) }

func hash(d tree.Digest) (h plumbing.Hash) {
	copy(h[:], d)
	return h
}

// parseTree reads a tree object into entries sorted by name. Names and digests
// are parts of one string: a listing costs little more than its bytes.
func parseTree(content []byte) ([]tree.Entry, error) {
	all := string(content)
	entries := make([]tree.Entry, 0, bytes.Count(content, []byte{0})/2+1)
	for len(all) > 0 {
		mode, rest, ok := strings.Cut(all, " ")
		name, rest, ok2 := strings.Cut(rest, "\x00")
		kind := kindOf(mode)
		if !ok || !ok2 || len(rest) < hashSize || kind == 0 || !isName(name) {
			return nil, fault.New(fault.Invalid, "the repository holds a directory that Git would not have made")
		}
		entries = append(entries, tree.Entry{Name: name, Kind: kind, Digest: tree.Digest(rest[:hashSize])})
		all = rest[hashSize:]
	}
	slices.SortFunc(entries, func(a, b tree.Entry) int { return cmp.Compare(a.Name, b.Name) })
	for i := 1; i < len(entries); i++ {
		if entries[i].Name == entries[i-1].Name {
			return nil, fault.New(fault.Invalid, "the repository holds a directory with the name %q twice", entries[i].Name)
		}
	}
	return entries, nil
}

func isName(name string) bool {
	return name != "" && name != "." && name != ".." && name != ".git" && !strings.Contains(name, "/")
}

func kindOf(mode string) tree.Kind {
	switch mode {
	case "100644", "100664": // old versions of Git wrote the latter
		return tree.File
	case "100755":
		return tree.Executable
	case "40000", "040000":
		return tree.Dir
	case "120000":
		return tree.Symlink
	case "160000":
		return tree.Submodule
	}
	return 0
}
