package git

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/adler32"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime/debug"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/pjbgf/sha1cd"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/source"
)

// memoryEnv has TestHostileMemory measure the whole size: HOLDFAST_MEMORY=full.
const memoryEnv = "HOLDFAST_MEMORY"

// hostileSize is how bad servers are, all within the bounds of one fetch.
type hostileSize struct {
	fetches int // at once
	refs    int // in a list
	objects int // in a pack
	delta   int // bytes that a delta makes
	bar     int // MiB, for all together
}

// TestHostileMemory measures, in a process of its own, what many fetches take at
// once, of servers that send as much as they may: lists of refs, packs of many
// objects, and deltas that unfold. HOLDFAST_MEMORY=full go test -run
// TestHostileMemory -timeout 30m -v ./internal/source/git does it in full size,
// and without turns, for comparison.
func TestHostileMemory(t *testing.T) {
	size, ways := hostileSize{fetches: 6, refs: 20_000, objects: 6_000, delta: 2 << 20, bar: maxResident}, []string{"hostile"}
	if os.Getenv(memoryEnv) == "full" {
		size, ways = hostileSize{fetches: 24, refs: 240_000, objects: 900_000, delta: 60 << 20, bar: 512}, []string{"hostile", "hostile-unbounded"}
	}
	server := httptest.NewServer(hostileServer(size))
	defer server.Close()
	for _, way := range ways {
		got := sendOut(t, errand{Way: way, URL: server.URL, Commit: fmt.Sprint(size.fetches), Dir: t.TempDir()})
		t.Logf("%d fetches at once (%d refs, %d objects, %d MiB by deltas): %s: %s, %d MiB resident",
			size.fetches, size.refs, size.objects, size.delta>>20, way, got.Took.Round(time.Millisecond), got.Resident)
		if way == "hostile" && got.Resident > size.bar {
			t.Errorf("%d MiB resident, want %d at most", got.Resident, size.bar)
		}
	}
}

// hostileServer answers by the first step of the path.
func hostileServer(size hostileSize) http.Handler {
	var list bytes.Buffer
	id := strings.Repeat("1", 40)
	list.WriteString(pkt(id + " HEAD\x00ofs-delta\n"))
	for i := range size.refs {
		list.WriteString(pkt(fmt.Sprintf("%s refs/heads/%06d\n", id, i)))
	}
	packs := map[string][]byte{"refs": nil, "objects": manyObjectsPack(size.objects), "deltas": deltaPack(size.delta)}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		kind, _, _ := strings.Cut(r.URL.Path[1:], "/")
		if r.Method == http.MethodPost {
			w.Header().Set("Content-Type", "application/x-git-upload-pack-result")
			_, _ = w.Write(append([]byte("0008NAK\n"), packs[kind]...))
			return
		}
		w.Header().Set("Content-Type", "application/x-git-upload-pack-advertisement")
		_, _ = w.Write([]byte("001e# service=git-upload-pack\n0000"))
		if kind == "refs" {
			_, _ = w.Write(list.Bytes())
		} else {
			_, _ = w.Write([]byte(pkt(id + " HEAD\x00ofs-delta\n")))
		}
		_, _ = w.Write([]byte("0000"))
	})
}

// sealed is a pack of so many objects.
func sealed(count int, objects []byte) []byte {
	b := binary.BigEndian.AppendUint32([]byte("PACK\x00\x00\x00\x02"), uint32(count))
	b = append(b, objects...)
	h := sha1cd.New()
	h.Write(b)
	return h.Sum(b)
}

// manyObjectsPack is a pack of different files of four bytes each, not compressed.
func manyObjectsPack(count int) []byte {
	var b []byte
	for i := range count {
		content := binary.BigEndian.AppendUint32(nil, uint32(i))
		b = append(b, objectHeader(plumbing.BlobObject, 4)...)
		b = append(b, 0x78, 0x01, 1, 4, 0, 0xfb, 0xff)
		b = append(b, content...)
		b = binary.BigEndian.AppendUint32(b, adler32.Checksum(content))
	}
	return sealed(count, b)
}

// deltaPack is a small pack of two deltas, one built upon the other, each of which is
// as large as what it makes.
func deltaPack(size int) []byte {
	length := binary.AppendUvarint(nil, uint64(size/128*127))
	insert := strings.Repeat("\x7f"+strings.Repeat("\x00", 127), size/128)
	parts := [][]byte{blobPart("x")}
	for _, from := range [][]byte{{1}, length} {
		delta := string(from) + string(length) + insert
		part := append(objectHeader(plumbing.OFSDeltaObject, int64(len(delta))), back(len(parts[len(parts)-1]))...)
		parts = append(parts, append(part, deflated(delta)...))
	}
	return sealed(len(parts), bytes.Join(parts, nil))
}

// hostileFetches is what the child process of TestHostileMemory does.
func hostileFetches(t *testing.T, e errand) {
	debug.SetMemoryLimit(448 << 20) // as the Deployment does
	var n int
	if _, err := fmt.Sscan(e.Commit, &n); err != nil {
		t.Fatal(err)
	}
	s := newStore(t, e.Dir, Options{})
	hub := source.NewHub(s, time.Now)
	get := func(req source.Request) error {
		for {
			if _, err := hub.Get(t.Context(), req, time.Hour); fault.KindOf(err) != fault.Waiting || err == nil {
				return err
			}
			time.Sleep(50 * time.Millisecond) // whoever asks comes again
		}
	}
	if e.Way == "hostile-unbounded" {
		s.indexing, s.remote.lists = source.NewTurns(n, n), source.NewTurns(n, n)
		get = func(req source.Request) error {
			_, err := s.Fetch(t.Context(), req)
			return err
		}
	}
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			kind := []string{"refs", "objects", "deltas"}[i%3]
			req := source.Request{URL: fmt.Sprintf("%s/%s/%d", e.URL, kind, i), Tenant: fmt.Sprint("tenant ", i/3%4)}
			if get(req) == nil {
				t.Errorf("%s: what cannot be had is had", req.URL)
			}
		})
	}
	all.Wait()
}
