// Package tree holds immutable file trees: content-addressed, with a digest for
// every path. A revision of a source is a tree; rendering is a function of one.
//
// Paths are slash-separated, relative to the root, cleaned, and never leave it;
// "" and "." are the root.
package tree

import (
	"encoding/hex"
	"errors"

	"github.com/holdfastcd/holdfast/internal/fault"
)

// Digest identifies content: the raw bytes of a Git object id (SHA-1 with
// collision detection, or SHA-256), or of a listing digest made by [ListingDigest].
type Digest string

// Kind is what a path is.
type Kind uint8

// The kinds of entries a tree can hold.
const (
	File Kind = iota + 1
	Executable
	Dir
	Symlink
	Submodule // recorded by Git, never followed
)

// Entry is one name in a directory.
type Entry struct {
	Name   string
	Kind   Kind
	Digest Digest
}

// ErrNotExist is returned (wrapped) for a path that the tree does not hold.
var ErrNotExist = errors.New("no such path in the tree")

// Tree gives access to one immutable tree. Paths are taken literally: symlinks
// are not followed, see [View] for that. Implementations are safe for
// concurrent use.
type Tree interface {
	// Stat returns the entry at path; the root is a Dir with the tree's digest.
	Stat(path string) (Entry, error)
	// ReadDir returns the entries of a directory, sorted by name.
	ReadDir(path string) ([]Entry, error)
	// ReadFile returns the content of a file, or the target of a symlink. It
	// fails before reading when the content is larger than limit bytes.
	ReadFile(path string, limit int64) ([]byte, error)
}

// Limits bound what one load or one view may cost. A zero field takes its default.
type Limits struct {
	FileBytes  int64 // largest file that is read; default 16 MiB
	TotalBytes int64 // of all files together; default 256 MiB
	Count      int   // entries loaded, or questions asked; default 100 000
	Hops       int   // symlinks followed for one path; default 40
}

func (l Limits) withDefaults() Limits {
	if l.FileBytes <= 0 {
		l.FileBytes = 16 << 20
	}
	if l.TotalBytes <= 0 {
		l.TotalBytes = 256 << 20
	}
	if l.Count <= 0 {
		l.Count = 100_000
	}
	if l.Hops <= 0 {
		l.Hops = 40
	}
	return l
}

// String returns the digest in hexadecimal.
func (d Digest) String() string { return hex.EncodeToString([]byte(d)) }

// String returns the kind's name, as an error message would use it.
func (k Kind) String() string {
	switch k {
	case File:
		return "file"
	case Executable:
		return "executable file"
	case Dir:
		return "directory"
	case Symlink:
		return "symlink"
	case Submodule:
		return "submodule"
	}
	return "nothing"
}

// IsFile reports whether k has content of its own.
func (k Kind) IsFile() bool { return k == File || k == Executable }

// NotExist returns the error for a path that a tree does not hold: a
// *fault.Error of kind NotFound that wraps [ErrNotExist].
func NotExist(path string) error {
	return fault.New(fault.NotFound, "no such file or directory in the source").At(path, 0).Because(ErrNotExist)
}

// TooLarge returns the error for a file of size bytes where limit are allowed:
// a *fault.Error of kind Limit.
func TooLarge(path string, size, limit int64) error {
	return fault.New(fault.Limit, "the file has %d bytes, %d are allowed", size, limit).At(path, 0)
}
