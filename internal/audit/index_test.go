package audit

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/mod/sumdb/note"
)

// TestPostings compares an index that is written in many small segments, which are
// joined behind, with a map.
func TestPostings(t *testing.T) {
	dir := t.TempDir()
	x := newIndex(dir, t.TempDir(), testSeal())
	random := rand.New(rand.NewPCG(5, 6))
	want := map[uint64][]uint64{}
	for i := range uint64(5_000) {
		key := random.Uint64N(300) // some often, and many blocks of each
		want[key] = append(want[key], i)
		x.mu.Lock()
		x.fresh = append(x.fresh, posting{key, i})
		if random.IntN(120) == 0 {
			if err := x.flush(); err != nil {
				t.Fatal(err)
			}
		}
		x.mu.Unlock()
	}
	check := func(x *index) {
		t.Helper()
		for key, list := range want {
			slices.Reverse(list)
			for _, limit := range []int{1, 7, 1000} {
				got, err := x.find(key, limit)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(list[:min(limit, len(list))], got); diff != "" {
					t.Fatalf("key %d: %s", key, diff)
				}
			}
			slices.Reverse(list)
		}
		if got, err := x.find(999, 10); err != nil || len(got) != 0 {
			t.Errorf("%v %v", got, err)
		}
	}
	check(x)
	if err := x.close(); err != nil {
		t.Fatal(err)
	}
	if n := len(x.segments); n >= 2*mergeWidth {
		t.Errorf("%d segments are not joined", n)
	}
	if err := os.WriteFile(filepath.Join(dir, "00000099.postings"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	y := loadIndex(t.Context(), dir, t.TempDir(), testSeal())
	if y == nil {
		t.Fatal("it does not load")
	}
	check(y)
	if err := y.sweep(); err != nil {
		t.Fatal(err)
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != len(y.segments)+1 {
		t.Errorf("files of a crash are removed: %v %v", files, err)
	}

	if err := flip(filepath.Join(dir, y.segments[0].Name), 100); err != nil {
		t.Fatal(err)
	}
	failed := false
	for key := range want {
		_, err := y.find(key, 1000)
		failed = failed || err != nil
	}
	if !failed {
		t.Error("a damaged block is not told")
	}
	if err := os.Truncate(filepath.Join(dir, y.segments[0].Name), 10); err != nil {
		t.Fatal(err)
	}
	y.forget()
	if loadIndex(t.Context(), dir, t.TempDir(), testSeal()) != nil {
		t.Error("an index that was cut loads")
	}
}

func TestParseTile(t *testing.T) {
	for name, ok := range map[string]bool{
		"tile/0/000": true, "tile/entries/x001/234": true, "tile/entries/x001/234.p/17": true, "tile/3/000.p/255": true,
		"tile/0/000123456": false, "tile/0/000.p/17123456": false, "tile/0/000.p/0": false, "tile/0/000.p/256": false,
		"tile/64/000": false, "tile/00/000": false, "tile/0": false, "tile/-1/000": false, "tile/0/x000/000": false,
	} {
		if got, isTile := parseTile(name); isTile != ok {
			t.Errorf("%s: %v %+v", name, isTile, got)
		}
	}
}

func FuzzBundle(f *testing.F) {
	f.Add([]byte{0, 1, 'x', 0, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		list, err := splitBundle("b", 0, data)
		if err != nil {
			return
		}
		n := 0
		for _, e := range list {
			n += 2 + len(e)
		}
		if n != len(data) {
			t.Errorf("%d bytes of %d", n, len(data))
		}
	})
}

func FuzzStored(f *testing.F) {
	record, err := (&press{}).deflate([]byte(`{"objects":[{"object":"a"}]}`))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(record, "tile/0/000.p/3")
	f.Fuzz(func(t *testing.T, data []byte, name string) {
		digest := digestOf(data)
		file, err := recordName(digest)
		if err != nil {
			t.Fatal(err)
		}
		m := memory{file: data, checkpointName: data, stateName: data}
		if _, err := ReadRecord(t.Context(), m, digest); err == nil {
			t.Error("nobody finds a file that holds the digest of itself")
		}
		if _, err := verifyMemory(m, data); err == nil {
			t.Error("this log is signed by nobody")
		}
		if tile, ok := parseTile(name); ok && tile.name() != name {
			t.Errorf("%q is %q", name, tile.name())
		}
	})
}

func testSeal() seal {
	return seal{signer: testKey().Signer, verifiers: []note.Verifier{testKey().Verifier}}
}
