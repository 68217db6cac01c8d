package store

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfastcd/holdfast/internal/cluster"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/object"
)

func mustOpen(t testing.TB, dir string) *Store {
	t.Helper()
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func TestOpen(t *testing.T) {
	tests := []struct {
		name, reason string
		prepare      func(t *testing.T, dir string)
		want         fault.Kind
		ok           bool
	}{
		{"new", "a directory that does not exist is made", func(*testing.T, string) {}, 0, true},
		{"used before", "it is found again", func(t *testing.T, dir string) {
			if err := mustOpen(t, dir).Close(); err != nil {
				t.Fatal(err)
			}
		}, 0, true},
		{"in use", "two processes would overwrite each other's files", func(t *testing.T, dir string) { mustOpen(t, dir) }, fault.Conflict, false},
		{"newer", "a layout that is not known is not guessed at", func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, "layout"), "2\n")
		}, fault.Unsupported, false},
		{"a file", "there is no directory to use", func(t *testing.T, dir string) {
			write(t, dir, "x")
		}, fault.Invalid, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "data")
			tt.prepare(t, dir)
			s, err := Open(dir)
			if (err == nil) != tt.ok || err != nil && fault.KindOf(err) != tt.want {
				t.Fatalf("%s: got %v, want kind %s", tt.reason, err, tt.want)
			}
			if err != nil {
				return
			}
			if _, err := os.Stat(s.Git()); err != nil {
				t.Error(err)
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestKey(t *testing.T) {
	dir := t.TempDir()
	s := mustOpen(t, dir)
	key, digest := s.Key(), s.Digest([]byte("object"))
	if key == [32]byte{} {
		t.Fatal("the key is empty")
	}
	info, err := os.Stat(filepath.Join(dir, "key"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key's file: %v, %v", info, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	again := mustOpen(t, dir)
	if again.Key() != key || again.Digest([]byte("object")) != digest {
		t.Error("the key is another one after a restart")
	}
	if other := mustOpen(t, t.TempDir()); other.Digest([]byte("object")) == digest {
		t.Error("two directories make the same digest")
	}
	if _, err := open(t.TempDir(), iotest.ErrReader(errors.New("no entropy"))); err == nil {
		t.Error("a store without randomness was opened")
	}
}

func TestShortKeyIsReplaced(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "key"), "short")
	if s := mustOpen(t, dir); s.Key() == [32]byte{} || bytes.HasPrefix(s.key[:], []byte("short")) {
		t.Error("a key that was cut short is used")
	}
}

func prints(n int) map[object.ID]cluster.Fingerprint {
	m := map[object.ID]cluster.Fingerprint{}
	for i := range n {
		m[object.ID{Group: "apps", Kind: "Deployment", Namespace: "ns", Name: fmt.Sprint("web-", i)}] = cluster.Fingerprint{
			UID: "0f0e7f26-5c1d-4d0b-8b51-0d1c4e5b8a11", Ours: cluster.Hash{1, byte(i)}, Generation: int64(i), Digest: [32]byte{2, byte(i)},
		}
		m[object.ID{Kind: "ConfigMap", Namespace: "ns", Name: fmt.Sprint("web-", i)}] = cluster.Fingerprint{
			UID: "5b6c6b6e-0b0f-4c8e-9f43-0f6d2a0c6a22", Ours: cluster.Hash{3, byte(i)}, ResourceVersion: fmt.Sprint(i),
		}
	}
	return m
}

func TestFingerprints(t *testing.T) {
	dir := t.TempDir()
	s := mustOpen(t, dir)
	want := prints(3)
	if err := s.Save("Kustomization/ns/a", want); err != nil {
		t.Fatal(err)
	}
	if err := s.Save("Kustomization/ns/b", prints(1)); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = mustOpen(t, dir)
	load := func(delivery string) map[object.ID]cluster.Fingerprint {
		t.Helper()
		got, err := s.Load(delivery)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	if diff := cmp.Diff(want, load("Kustomization/ns/a")); diff != "" {
		t.Errorf("after a restart (-want +got):\n%s", diff)
	}
	if err := s.Delete("Kustomization/ns/a"); err != nil {
		t.Fatal(err)
	}
	if got := load("Kustomization/ns/a"); len(got) != 0 || len(load("Kustomization/ns/b")) != 2 {
		t.Errorf("after a delete: %v", got)
	}
	if err := s.Delete("Kustomization/ns/a"); err != nil {
		t.Errorf("deleting nothing: %v", err)
	}
	if err := s.Save("x", map[object.ID]cluster.Fingerprint{{Name: string(make([]byte, maxString+1))}: {}}); fault.KindOf(err) != fault.Limit {
		t.Errorf("a name of 4 KiB: got %v, want Limit", err)
	}
}

// TestCorrupt changes every byte and every length of a file: what cannot be read
// as it was written is absent.
func TestCorrupt(t *testing.T) {
	b, ok := encode("d", prints(1))
	if !ok {
		t.Fatal("cannot encode")
	}
	for i := range b {
		bad := bytes.Clone(b)
		bad[i] ^= 0x40
		if _, ok := decode(bad, "d"); ok {
			t.Fatalf("a changed byte at %d was not noticed", i)
		}
		if _, ok := decode(b[:i], "d"); ok {
			t.Fatalf("a file cut at %d was not noticed", i)
		}
	}
	if _, ok := decode(b, "another"); ok {
		t.Error("the file of another delivery was taken")
	}
	s := mustOpen(t, t.TempDir())
	write(t, filepath.Join(s.dir, fingerprints("d")), "garbage")
	if got, err := s.Load("d"); err != nil || len(got) != 0 {
		t.Errorf("a corrupt file: got %v, %v; want none", got, err)
	}
}

// TestBurst bounds what the end of a first sync costs.
func TestBurst(t *testing.T) {
	s := mustOpen(t, t.TempDir())
	p := prints(5)
	start := time.Now()
	for i := range 100 {
		if err := s.Save(fmt.Sprint("Application/argocd/app-", i), p); err != nil {
			t.Fatal(err)
		}
	}
	took := time.Since(start)
	t.Logf("100 saves of %d objects: %s", len(p), took)
	if took > 500*time.Millisecond { // ten times what it should be, for slow machines
		t.Errorf("100 saves took %s", took)
	}
}

func FuzzDecode(f *testing.F) {
	b, _ := encode("d", prints(2))
	f.Add(b[:len(b)-digestSize])
	f.Add([]byte(magic))
	f.Fuzz(func(t *testing.T, b []byte) {
		sum := sha256.Sum256(b) // or nothing would get past the first check
		got, ok := decode(slices.Concat(b, sum[:digestSize]), "d")
		if !ok {
			return
		}
		again, ok := encode("d", got)
		if !ok {
			t.Fatal("what was decoded cannot be encoded")
		}
		if back, ok := decode(again, "d"); !ok || !cmp.Equal(got, back) {
			t.Fatal("what was decoded does not come back")
		}
	})
}

// TestFingerprintsAreBounded: what was unused for longest goes, at the start, too.
func TestFingerprintsAreBounded(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	const files = 4
	prints := map[object.ID]cluster.Fingerprint{{Kind: "ConfigMap", Name: "x"}: {ResourceVersion: "1"}}
	has := func(when, want string) {
		t.Helper()
		got := ""
		for _, d := range "abcdef" {
			if _, err := s.root.Stat(fingerprints(string(d))); err == nil {
				got += string(d)
			}
		}
		if got != want {
			t.Errorf("%s there are %q, want %q", when, got, want)
		}
	}
	save := func(d string) {
		t.Helper()
		if err := s.Save(d, prints); err != nil {
			t.Fatal(err)
		}
	}
	save("a")
	each := s.total
	if err := s.Bound(files * each); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"b", "c", "d", "a", "c"} {
		save(d)
	}
	has("when it is full", "abcd")
	if _, err := s.Load("b"); err != nil {
		t.Fatal(err)
	}
	save("e")
	has("after one more", "abce")
	if err := s.Delete("a"); err != nil || s.total != 3*each {
		t.Errorf("%d bytes after a file is deleted: %v", s.total, err)
	}
	save("f")
	has("in its place", "bcef")
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(filepath.Join(dir, fingerprints("f")), old, old); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if s, err = Open(dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	if err := s.Bound(3 * each); err != nil {
		t.Fatal(err)
	}
	has("after a new start with less", "bce")
}
