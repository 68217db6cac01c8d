package tree

import (
	"cmp"
	"crypto/sha256"
	"hash"
	"slices"
	"strconv"

	"github.com/pjbgf/sha1cd"
)

// NewBlobHash returns a hash that, once size bytes of content are written to
// it, sums to the Git object id of that content. Crafted SHA-1 collisions are
// detected and get other ids.
func NewBlobHash(size int64) hash.Hash { return newObjectHash("blob", size) }

// BlobDigest returns the Git object id of a file with this content.
func BlobDigest(content []byte) Digest {
	h := NewBlobHash(int64(len(content)))
	h.Write(content)
	return Digest(h.Sum(nil))
}

func newObjectHash(kind string, size int64) hash.Hash {
	h := sha1cd.New()
	h.Write([]byte(kind + " " + strconv.FormatInt(size, 10) + "\x00"))
	return h
}

// gitModes are the modes that Git writes in its tree objects.
var gitModes = map[Kind]string{File: "100644", Executable: "100755", Symlink: "120000", Dir: "40000", Submodule: "160000"}

// treeDigest returns the Git object id of a directory with these entries.
func treeDigest(entries []Entry) Digest {
	sorted := slices.Clone(entries)
	slices.SortFunc(sorted, func(a, b Entry) int { return cmp.Compare(gitOrder(a), gitOrder(b)) })
	var body []byte
	for _, e := range sorted {
		body = append(body, gitModes[e.Kind]...)
		body = append(body, ' ')
		body = append(body, e.Name...)
		body = append(body, 0)
		body = append(body, e.Digest...)
	}
	h := newObjectHash("tree", int64(len(body)))
	h.Write(body)
	return Digest(h.Sum(nil))
}

// gitOrder is what Git sorts a tree's entries by: a directory counts as if its
// name ended in a slash.
func gitOrder(e Entry) string {
	if e.Kind == Dir {
		return e.Name + "/"
	}
	return e.Name
}

// ListingDigest returns a digest of the names and kinds of a directory's
// entries, which must be sorted by name. What the entries contain does not
// matter to it.
func ListingDigest(entries []Entry) Digest {
	h := sha256.New()
	var buf [2]byte
	for _, e := range entries {
		// A name holds neither NUL nor slash, so that the encoding is unambiguous.
		h.Write([]byte(e.Name))
		buf = [2]byte{0, byte(e.Kind)}
		h.Write(buf[:])
	}
	return Digest(h.Sum(nil))
}

func kindDigest(k Kind) Digest { return Digest([]byte{byte(k)}) }
