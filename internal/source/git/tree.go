package git

import (
	"bytes"
	"cmp"
	"errors"
	"path"
	"slices"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/tree"
)

// maxListing is the largest directory: about half a million names.
const maxListing = 32 << 20

// snapshot is the tree of one commit, read from the object store when asked.
// While somebody holds it, the store keeps its objects.
type snapshot struct {
	repo       *repo
	generation int64 // of the store when the commit was there
	commit     plumbing.Hash
	root       plumbing.Hash
}

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
			return tree.Entry{}, tree.NotExist(name)
		}
		entries, err := s.repo.listing(entry.Digest, s.generation)
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
		return nil, tree.NotExist(name)
	}
	entries, err := s.repo.listing(e.Digest, s.generation)
	if err != nil {
		return nil, at(err, name)
	}
	return slices.Clone(entries), nil
}

func (s *snapshot) ReadFile(name string, limit int64) ([]byte, error) {
	e, err := s.Stat(name)
	if err != nil {
		return nil, err
	}
	if !e.Kind.IsFile() && e.Kind != tree.Symlink {
		return nil, tree.NotExist(name)
	}
	content, err := s.repo.need(hash(e.Digest), plumbing.BlobObject, limit, s.generation)
	if err != nil {
		return nil, at(err, name)
	}
	return content, nil
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
