package git

import (
	"bytes"
	"compress/zlib"
	"os"
	"path/filepath"
	"testing"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/pjbgf/sha1cd"
)

// packOf builds a pack from raw parts, with a right checksum.
func packOf(count byte, parts ...[]byte) []byte {
	b := []byte{'P', 'A', 'C', 'K', 0, 0, 0, 2, 0, 0, 0, count}
	for _, p := range parts {
		b = append(b, p...)
	}
	h := sha1cd.New()
	h.Write(b)
	return h.Sum(b)
}

func deflated(content string) []byte {
	var b bytes.Buffer
	z := zlib.NewWriter(&b)
	z.Write([]byte(content))
	z.Close()
	return b.Bytes()
}

// blobPart is a whole object in a pack; deltaPart one made from the object back
// bytes before.
func blobPart(content string) []byte {
	return append(objectHeader(plumbing.BlobObject, int64(len(content))), deflated(content)...)
}

func deltaPart(back int, delta string) []byte {
	b := objectHeader(plumbing.OFSDeltaObject, int64(len(delta)))
	return append(append(b, byte(back)), deflated(delta)...)
}

func refPart(id plumbing.Hash, delta string) []byte {
	b := objectHeader(plumbing.REFDeltaObject, int64(len(delta)))
	return append(append(b, id[:]...), deflated(delta)...)
}

// FuzzPack indexes whatever a server may send. What is accepted must read back
// under the ids that the index gives; nothing may panic.
func FuzzPack(f *testing.F) {
	hello := blobPart("hello world")
	f.Add(packOf(1, hello)[12:])
	f.Add(packOf(2, hello, deltaPart(len(hello), "\x0b\x05\x90\x05"))[12:])
	f.Add(packOf(2, refPart(plumbing.ComputeHash(plumbing.BlobObject, []byte("hello world")), "\x0b\x05\x90\x05"), hello)[12:])
	f.Add(packOf(1, refPart(plumbing.ComputeHash(plumbing.BlobObject, []byte("known")), "\x05\x02\x90\x02"))[12:])
	f.Fuzz(func(t *testing.T, body []byte) {
		if len(body) < hashSize {
			return
		}
		for count := range byte(3) {
			tryPack(t, packOf(count, body[:len(body)-hashSize]))
		}
	})
}

func tryPack(t *testing.T, content []byte) {
	dir := t.TempDir()
	name := filepath.Join(dir, "p.pack")
	if err := os.WriteFile(name, content, 0o600); err != nil {
		t.Fatal(err)
	}
	file, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var index bytes.Buffer
	known := func(id plumbing.Hash, _ int64) (plumbing.ObjectType, []byte, error) {
		if id != plumbing.ComputeHash(plumbing.BlobObject, []byte("known")) {
			return 0, nil, errMissing
		}
		return plumbing.BlobObject, []byte("known"), nil
	}
	if _, _, err := indexPack(t.Context(), file, &index, known); err != nil {
		return
	}
	if err := os.WriteFile(filepath.Join(dir, "p.idx"), index.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := openPack(dir, "p", newLRU[baseKey, base](1<<20))
	if err != nil {
		t.Fatalf("what was indexed cannot be opened: %v", err)
	}
	defer p.close()
	for n := range p.count() {
		var id plumbing.Hash
		if _, err := p.index.ReadAt(id[:], namesAt+n*hashSize); err != nil {
			t.Fatal(err)
		}
		offset, err := p.find(id)
		if err != nil || offset < 0 {
			t.Fatalf("object %s is in the index and not found: %v", id, err)
		}
		kind, object, err := p.read(offset, 1<<20)
		if err != nil {
			if _, size, _ := p.stat(offset); size > 1<<20 {
				continue
			}
			t.Fatalf("object %s: %v", id, err)
		}
		if plumbing.ComputeHash(kind, object) != id {
			t.Fatalf("object %s has the content of another", id)
		}
	}
}

func TestThinPackIsCompleted(t *testing.T) {
	known := plumbing.ComputeHash(plumbing.BlobObject, []byte("known"))
	dir := t.TempDir()
	name := filepath.Join(dir, "p.pack")
	if err := os.WriteFile(name, packOf(1, refPart(known, "\x05\x02\x90\x02")), 0o600); err != nil {
		t.Fatal(err)
	}
	file, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var index bytes.Buffer
	_, n, err := indexPack(t.Context(), file, &index, func(plumbing.Hash, int64) (plumbing.ObjectType, []byte, error) {
		return plumbing.BlobObject, []byte("known"), nil
	})
	if err != nil || n != 2 {
		t.Fatalf("a thin pack has %d objects after indexing (%v), want its own and the base", n, err)
	}
	_, _, err = indexPack(t.Context(), file, &bytes.Buffer{}, nil)
	if err != nil {
		t.Errorf("the completed pack does not stand for itself: %v", err)
	}
}

// FuzzTree parses whatever a tree object may hold.
func FuzzTree(f *testing.F) {
	f.Add([]byte("100644 a\x0012345678901234567890"))
	f.Add([]byte("40000 dir\x001234567890123456789040000 dir\x0012345678901234567890"))
	f.Fuzz(func(t *testing.T, content []byte) {
		entries, err := parseTree(content)
		if err != nil {
			return
		}
		for i, e := range entries {
			if !isName(e.Name) || e.Kind == 0 || len(e.Digest) != hashSize || i > 0 && entries[i-1].Name >= e.Name {
				t.Errorf("entry %d is %+v", i, e)
			}
		}
	})
}
