package store

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io/fs"
	"sort"

	"k8s.io/apimachinery/pkg/types"

	"github.com/holdfastcd/holdfast/internal/cluster"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/object"
)

// A file of fingerprints is: magic, the delivery's id, the number of objects, the
// objects, and a digest of all before it. Strings carry their length.
const (
	magic      = "holdfast fingerprints 1\n"
	maxFile    = 64 << 20 // bounds what is read; about 300 000 objects
	maxString  = 4096     // bounds a string in it
	digestSize = 8

	defaultLimit = 384 << 20 // of all files
)

// Load returns the fingerprints saved for a delivery; an empty map if there are
// none, or none that can be read. Errors: Invalid, if the directory fails.
func (s *Store) Load(delivery string) (map[object.ID]cluster.Fingerprint, error) {
	name := fingerprints(delivery)
	s.touch(name)
	info, err := s.root.Stat(name)
	if errors.Is(err, fs.ErrNotExist) || err == nil && info.Size() > maxFile {
		return map[object.ID]cluster.Fingerprint{}, nil
	}
	if err != nil {
		return nil, unusable(s.dir, err)
	}
	b, err := s.root.ReadFile(name)
	if err != nil {
		return nil, unusable(s.dir, err)
	}
	prints, ok := decode(b, delivery)
	if !ok {
		return map[object.ID]cluster.Fingerprint{}, nil
	}
	return prints, nil
}

// Save replaces the fingerprints of a delivery, whole or not at all. Errors:
// Invalid, if the directory fails, and Limit for an identifier out of all measure.
func (s *Store) Save(delivery string, prints map[object.ID]cluster.Fingerprint) error {
	b, ok := encode(delivery, prints)
	if !ok {
		return fault.New(fault.Limit, "an object's identifier is longer than %d bytes", maxString)
	}
	name := fingerprints(delivery)
	if err := s.replace(name, b); err != nil {
		return err
	}
	s.note(name, int64(len(b)), s.next())
	return s.shrink(name)
}

// Delete removes what is saved for a delivery; it is no error if nothing is.
func (s *Store) Delete(delivery string) error {
	return s.remove(fingerprints(delivery))
}

// fingerprints names the file of a delivery, whatever characters its id is made of.
func fingerprints(delivery string) string {
	sum := sha256.Sum256([]byte(delivery))
	return "fingerprints/" + hex.EncodeToString(sum[:16])
}

// encode renders fingerprints in the order of their objects, so that equal
// fingerprints are equal files. It reports false for strings too long.
func encode(delivery string, prints map[object.ID]cluster.Fingerprint) ([]byte, bool) {
	ids := make([]object.ID, 0, len(prints))
	for id := range prints {
		ids = append(ids, id)
	}
	sort.Slice(ids, func(i, j int) bool { return ids[i].String() < ids[j].String() })
	w := writer{b: make([]byte, 0, 64+len(ids)*256), ok: true}
	w.b = append(w.b, magic...)
	w.string(delivery)
	w.b = binary.AppendUvarint(w.b, uint64(len(ids)))
	for _, id := range ids {
		f := prints[id]
		for _, s := range []string{id.Group, id.Kind, id.Namespace, id.Name, string(f.UID), f.ResourceVersion} {
			w.string(s)
		}
		w.b = binary.AppendVarint(w.b, f.Generation)
		for _, h := range []cluster.Hash{f.Ours, f.Others, f.Status} {
			w.b = append(w.b, h[:]...)
		}
		w.b = append(w.b, f.Digest[:]...)
	}
	sum := sha256.Sum256(w.b)
	return append(w.b, sum[:digestSize]...), w.ok
}

// decode reads what encode wrote for the same delivery; false for anything else.
func decode(b []byte, delivery string) (map[object.ID]cluster.Fingerprint, bool) {
	if len(b) < len(magic)+digestSize || !bytes.HasPrefix(b, []byte(magic)) {
		return nil, false
	}
	body, tail := b[:len(b)-digestSize], b[len(b)-digestSize:]
	if sum := sha256.Sum256(body); !bytes.Equal(sum[:digestSize], tail) {
		return nil, false
	}
	r := reader{b: body[len(magic):], ok: true}
	if r.string() != delivery {
		return nil, false
	}
	n := r.uvarint()
	prints := map[object.ID]cluster.Fingerprint{}
	for i := uint64(0); i < n && r.ok; i++ {
		id := object.ID{Group: r.string(), Kind: r.string(), Namespace: r.string(), Name: r.string()}
		f := cluster.Fingerprint{UID: types.UID(r.string()), ResourceVersion: r.string(), Generation: r.varint()}
		for _, h := range []*cluster.Hash{&f.Ours, &f.Others, &f.Status} {
			copy(h[:], r.take(len(h)))
		}
		copy(f.Digest[:], r.take(len(f.Digest)))
		prints[id] = f
	}
	return prints, r.ok && len(r.b) == 0
}

type writer struct {
	b  []byte
	ok bool
}

func (w *writer) string(s string) {
	w.ok = w.ok && len(s) <= maxString
	w.b = append(binary.AppendUvarint(w.b, uint64(len(s))), s...)
}

// reader reads what writer wrote; ok turns false for good when something is amiss.
type reader struct {
	b  []byte
	ok bool
}

func (r *reader) take(n int) []byte {
	if n > len(r.b) {
		r.ok, r.b = false, nil
		return nil
	}
	b := r.b[:n]
	r.b = r.b[n:]
	return b
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.ok, r.b = false, nil
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) varint() int64 {
	v, n := binary.Varint(r.b)
	if n <= 0 {
		r.ok, r.b = false, nil
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) string() string {
	n := r.uvarint()
	if n > maxString {
		r.ok, r.b = false, nil
		return ""
	}
	return string(r.take(int(n)))
}
