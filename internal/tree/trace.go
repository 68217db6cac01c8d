package tree

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
)

// Op says what was asked about a path.
type Op uint8

// The questions a view answers, each with what its digest covers.
const (
	OpFile   Op = iota + 1 // content of a file
	OpDir                  // names and kinds of a directory's entries, not their contents
	OpLink                 // target of a symlink that was followed
	OpAbsent               // nothing was there; the digest is empty
	OpKind                 // only what kind of entry it is
)

// Read is one question about a tree and the digest of its answer.
type Read struct {
	Op     Op
	Path   string
	Digest Digest
}

// Trace is the set of reads behind a result, sorted by path and operation,
// without doubles.
type Trace []Read

// Holds reports whether every read would have the same answer on t: whatever
// was computed from those reads alone would be the same. It looks at entries
// and listings only and never reads a file's content. An error of t counts as
// another answer.
func (tr Trace) Holds(t Tree) bool {
	for _, r := range tr {
		if !r.holds(t) {
			return false
		}
	}
	return true
}

func (r Read) holds(t Tree) bool {
	if r.Op == OpAbsent {
		return absent(t, r.Path)
	}
	e, err := t.Stat(r.Path)
	if err != nil {
		return false
	}
	switch r.Op {
	case OpFile:
		return e.Kind.IsFile() && e.Digest == r.Digest
	case OpLink:
		return e.Kind == Symlink && e.Digest == r.Digest
	case OpKind:
		return kindDigest(e.Kind) == r.Digest
	case OpDir:
		if e.Kind != Dir {
			return false
		}
		entries, err := t.ReadDir(r.Path)
		return err == nil && ListingDigest(entries) == r.Digest
	default: // an absence is judged before
	}
	return false
}

// absent reports whether nothing is at p and no symlink on the way could lead
// to something: a directory replaced by a symlink may bring the path to life.
func absent(t Tree, p string) bool {
	if _, err := t.Stat(p); !errors.Is(err, ErrNotExist) {
		return false
	}
	for dir := parent(p); dir != ""; dir = parent(dir) {
		e, err := t.Stat(dir)
		if err == nil {
			return e.Kind != Symlink
		}
		if !errors.Is(err, ErrNotExist) {
			return false
		}
	}
	return true
}

// Digest returns a digest of the whole trace: equal for equal traces.
func (tr Trace) Digest() Digest {
	h := sha256.New()
	var buf []byte
	for _, r := range tr {
		buf = append(buf[:0], byte(r.Op))
		buf = binary.AppendUvarint(buf, uint64(len(r.Path)))
		buf = append(buf, r.Path...)
		buf = binary.AppendUvarint(buf, uint64(len(r.Digest)))
		buf = append(buf, r.Digest...)
		h.Write(buf)
	}
	return Digest(h.Sum(nil))
}
