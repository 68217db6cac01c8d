package audit

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfastcd/holdfast/internal/fault"
)

// memory is a stored log in memory: many changes are tried on it.
type memory map[string][]byte

func (m memory) Read(_ context.Context, name string, limit int64) ([]byte, error) {
	data, ok := m[name]
	if !ok {
		return nil, missing(name, os.ErrNotExist)
	}
	return readBounded(bytes.NewReader(data), name, limit)
}

func (m memory) List(context.Context) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		for _, name := range slices.Sorted(maps.Keys(m)) {
			if !yield(name, nil) {
				return
			}
		}
	}
}

// load reads a directory, without what is derived from the log.
func load(t testing.TB, dir string) memory {
	t.Helper()
	m := memory{}
	for name, err := range Dir(dir).List(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(name, indexDir) {
			continue
		}
		if m[name], err = os.ReadFile(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

// stored writes a log of n syncs, two entries each.
func stored(t testing.TB, n int) memory {
	t.Helper()
	dir := t.TempDir()
	l := open(t, dir)
	for i := range n {
		at := uint64(2 * i)
		src := &Source{URL: "https://git.example/fleet", Commit: fmt.Sprint(i)}
		l.Later(Entry{Action: Sync, Delivery: "d", Source: src}, objects(fmt.Sprint(i%7)))
		l.Later(Entry{Action: Outcome, Of: &at, Delivery: "d", Result: ResultDelivered}, nil)
		if i == 0 { // so that there are partial tiles that others take the place of
			for l.Size() < 2 {
				runtime.Gosched()
			}
		}
	}
	closeLog(t, l)
	return load(t, dir)
}

func verifyMemory(m memory, against []byte) (Verified, error) {
	return Verify(context.Background(), m, VerifyOptions{Verifier: testKey().Verifier, Against: against})
}

// places are the bytes of a file that are flipped: all of a small one.
func places(size, most int, random *rand.Rand) []int {
	var list []int
	for i := range size {
		list = append(list, i)
	}
	if size <= most {
		return list
	}
	random.Shuffle(size, func(i, j int) { list[i], list[j] = list[j], list[i] })
	return append(list[:most], 0, size-1)
}

// TestEveryByte flips each byte of each file of a small log, and samples of a larger one.
func TestEveryByte(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for _, tc := range []struct {
		syncs, most int
	}{{1, 1 << 20}, {130, 1}} {
		log := stored(t, tc.syncs)
		if _, err := verifyMemory(log, nil); err != nil {
			t.Fatal(err)
		}
		flipped := 0
		for name, data := range log {
			for _, at := range places(len(data), tc.most, random) {
				bit := byte(1) << random.IntN(8)
				data[at] ^= bit
				_, err := verifyMemory(log, nil)
				data[at] ^= bit
				flipped++
				f, ok := errors.AsType[*fault.Error](err)
				if !ok {
					t.Fatalf("%s: flipping bit %#x of byte %d is not found", name, bit, at)
				}
				// A file that was superseded may be told by the one that has taken its place.
				if !names(f, name) {
					t.Errorf("%s: byte %d: another file is named: %v", name, at, err)
				}
			}
		}
		t.Logf("%d entries: %d flips in %d files", 2*tc.syncs, flipped, len(log))
	}
}

// names reports whether a message leads to the file: by its name, or by the entry in it.
func names(f *fault.Error, name string) bool {
	return f.File == name || strings.HasPrefix(name, "tile/entries/") && strings.Contains(f.Msg, "entry ")
}

// TestTampering changes a log as somebody would who has the disk, and not the key.
func TestTampering(t *testing.T) {
	log := stored(t, 300)
	older := stored(t, 40)
	bundle, tile := "tile/entries/000", "tile/0/000"
	swap := func(m memory, i, j int) {
		list, err := splitBundle(bundle, 0, m[bundle])
		if err != nil {
			t.Fatal(err)
		}
		list[i], list[j] = list[j], list[i]
		var b bytes.Buffer
		for _, e := range list {
			b.Write([]byte{byte(len(e) >> 8), byte(len(e))})
			b.Write(e)
		}
		m[bundle] = b.Bytes()
	}
	record := func(m memory) string {
		for name := range m {
			if strings.HasPrefix(name, "records/") {
				return name
			}
		}
		return ""
	}
	for _, tc := range []struct {
		reason string
		change func(memory)
		want   string
	}{
		{"an entry is dropped", func(m memory) {
			n := 2 + int(m[bundle][0])<<8 + int(m[bundle][1])
			m[bundle] = m[bundle][n:]
		}, bundle},
		{"two entries are exchanged", func(m memory) { swap(m, 3, 9) }, "entry 3 was changed"},
		{"an entry is doubled in the place of another", func(m memory) {
			swap(m, 3, 9)
		}, bundle},
		{"a bundle is cut", func(m memory) { m[bundle] = m[bundle][:1000] }, "is cut off"},
		{"a bundle is longer", func(m memory) { m[bundle] = append(m[bundle], 0, 1, 'x') }, "257 entries"},
		{"a bundle is gone", func(m memory) { delete(m, bundle) }, "missing"},
		{"a tile is gone", func(m memory) { delete(m, tile) }, "missing"},
		{"an upper tile is gone", func(m memory) { delete(m, "tile/1/000.p/2") }, "missing"},
		{"a tile is cut", func(m memory) { m[tile] = m[tile][:32] }, tile},
		{"bundles are exchanged, with their tiles", func(m memory) {
			m[bundle], m["tile/entries/001"] = m["tile/entries/001"], m[bundle]
			m[tile], m["tile/0/001"] = m["tile/0/001"], m[tile]
		}, ""},
		{"a record is gone", func(m memory) { delete(m, record(m)) }, "the record of entry"},
		{"a record is another one", func(m memory) {
			text, err := (&press{}).deflate([]byte(`{}`))
			if err != nil {
				t.Fatal(err)
			}
			m[record(m)] = text
		}, "not the one of this digest"},
		{"the checkpoint is an older one", func(m memory) { m["checkpoint"] = older["checkpoint"] }, ""},
		{"the checkpoint is gone", func(m memory) { delete(m, "checkpoint") }, "checkpoint"},
		{"the state is an older one", func(m memory) { m[stateName] = older[stateName] }, "it was cut"},
	} {
		m := maps.Clone(log)
		for name := range m {
			m[name] = bytes.Clone(m[name])
		}
		tc.change(m)
		if _, err := verifyMemory(m, nil); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v", tc.reason, err)
		}
	}
}

// TestAgainst compares logs with checkpoints that were kept elsewhere.
func TestAgainst(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir)
	var kept [][]byte
	var old memory
	for i := range 3 {
		for j := range 150 {
			l.Later(Entry{Action: Suspend, Delivery: fmt.Sprint(i, j)}, nil)
		}
		closeLog(t, l)
		m := load(t, dir)
		if i == 0 {
			old = m
		}
		kept = append(kept, m["checkpoint"])
		l = open(t, dir)
	}
	closeLog(t, l)
	for i, c := range kept {
		if v := verify(t, dir, c); v.Kept != uint64(150*(i+1)) {
			t.Errorf("%+v", v)
		}
	}
	if _, err := verifyMemory(old, nil); err != nil {
		t.Errorf("an older copy of the whole log cannot be told from its end alone: %v", err)
	}
	if _, err := verifyMemory(old, kept[1]); err == nil || !strings.Contains(err.Error(), "older copy") {
		t.Errorf("a checkpoint kept elsewhere tells it: %v", err)
	}
	// Another log, signed by the same key: its owner rewrote history.
	rewritten := stored(t, 200)
	if _, err := verifyMemory(rewritten, kept[0]); err == nil || !strings.Contains(err.Error(), "rewritten") {
		t.Errorf("a log that was rewritten and signed again is told: %v", err)
	}
	if _, err := verifyMemory(old, []byte("no checkpoint")); fault.KindOf(err) != fault.Refused {
		t.Errorf("%v", err)
	}
}

// TestLive verifies a log over HTTP and in its directory while it grows.
func TestLive(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir)
	server := httptest.NewServer(http.StripPrefix("/audit", Files(Dir(dir))))
	defer server.Close()
	base, err := url.Parse(server.URL + "/audit")
	if err != nil {
		t.Fatal(err)
	}
	remote := HTTP(server.Client(), base)

	stop := make(chan struct{})
	var wait sync.WaitGroup
	for range 4 {
		wait.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := l.Append(context.Background(), Entry{Action: Sync, Delivery: "d"}, objects("a")); err != nil {
					t.Error(err)
				}
			}
		})
	}
	var against []byte
	for until := time.Now().Add(1500 * time.Millisecond); time.Now().Before(until); {
		for _, r := range []Reader{remote, l.Reader()} {
			v, err := Verify(t.Context(), r, VerifyOptions{Verifier: testKey().Verifier, Against: against})
			if err != nil {
				t.Fatalf("%T: %v", r, err)
			}
			against = v.Checkpoint
		}
	}
	close(stop)
	wait.Wait()
	if v := verify(t, dir, l.Checkpoint()); v.Size == 0 {
		t.Errorf("%+v", v)
	}
	for name, status := range map[string]int{
		"checkpoint": 200, ".state/treeState": 404, "index/manifest.json": 404, "lock": 404, "tile/../lock": 404,
		"tile": 404, "records/aa/..": 404,
	} {
		w := httptest.NewRecorder()
		Files(Dir(dir)).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/"+name, nil))
		if w.Code != status {
			t.Errorf("%s: %d", name, w.Code)
		}
	}
}

func TestHTTPFails(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/checkpoint":
			_, _ = io.WriteString(w, strings.Repeat("x", maxState+1))
		case "/denied":
			w.WriteHeader(http.StatusForbidden)
		case "/broken":
			w.WriteHeader(http.StatusBadGateway)
		default:
			http.NotFound(w, r)
		}
	}))
	base, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	base.User = url.UserPassword("u", "hunter2")
	r := HTTP(server.Client(), base)
	for name, kind := range map[string]fault.Kind{
		"checkpoint": fault.Limit, "denied": fault.Unauthorized, "broken": fault.Unreachable, "none": fault.NotFound,
	} {
		if _, err := r.Read(t.Context(), name, maxState); fault.KindOf(err) != kind {
			t.Errorf("%s: %v", name, err)
		}
	}
	server.Close()
	if _, err := r.Read(t.Context(), "checkpoint", 1); fault.KindOf(err) != fault.Unreachable || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("%v", err)
	}
}

func TestProofs(t *testing.T) {
	log := stored(t, 300)
	for _, i := range []uint64{0, 255, 256, 511, 599} {
		p, err := Prove(t.Context(), log, i)
		if err != nil {
			t.Fatal(err)
		}
		text, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		var again Proof
		if err := json.Unmarshal(text, &again); err != nil {
			t.Fatal(err)
		}
		if _, err := again.Verify(testKey().Verifier); err != nil {
			t.Errorf("entry %d: %v", i, err)
		}
		again.Leaf[10] ^= 1
		if _, err := again.Verify(testKey().Verifier); err == nil {
			t.Errorf("entry %d: a changed entry is proven", i)
		}
	}
	if _, err := Prove(t.Context(), log, 600); fault.KindOf(err) != fault.NotFound {
		t.Errorf("%v", err)
	}
}

func TestExport(t *testing.T) {
	log := stored(t, 150)
	var out bytes.Buffer
	if err := Export(t.Context(), log, &out, 290); err != nil {
		t.Fatal(err)
	}
	var got []uint64
	for line := range strings.Lines(out.String()) {
		var e Numbered
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatal(err)
		}
		if e.Action == "" || !strings.Contains(line, `"action":`) {
			t.Errorf("%s", line)
		}
		got = append(got, e.Index)
	}
	if diff := cmp.Diff([]uint64{290, 291, 292, 293, 294, 295, 296, 297, 298, 299}, got); diff != "" {
		t.Error(diff)
	}
	delete(log, "tile/entries/000")
	if err := Export(t.Context(), log, io.Discard, 0); fault.KindOf(err) != fault.NotFound {
		t.Errorf("%v", err)
	}
}

// failing stops writing.
type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

func TestExportFails(t *testing.T) {
	if err := Export(t.Context(), stored(t, 1), failing{}, 0); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("%v", err)
	}
}
