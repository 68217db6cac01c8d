package git

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/source"
	"github.com/holdfastcd/holdfast/test/gitserver"
)

func TestChoose(t *testing.T) {
	at := func(n int) time.Time { return time.Unix(int64(n), 0) }
	use := map[string]int64{"large": 100, "middle": 50, "small": 10}
	tests := map[string]struct {
		reason string
		all    []holding
		tenant string
		will   int64 // use of tenant
		want   string
	}{
		"nothing":          {"there may be nothing to throw away", nil, "small", 20, ""},
		"nobody's":         {"what nobody reads and nobody uses goes for anybody", []holding{{store: "a", size: 1}}, "large", 200, "a"},
		"unused first":     {"of what nobody reads, the one unused for longest", []holding{{store: "a", used: at(2)}, {store: "b", used: at(1)}}, "small", 20, "b"},
		"own":              {"one's own", []holding{{store: "a", owner: "large", used: at(2)}}, "large", 200, "a"},
		"not own, held":    {"who is the largest is refused, and keeps what it reads", []holding{{store: "a", owner: "large", held: true}}, "large", 200, ""},
		"neighbour's":      {"not what a smaller neighbour is about to read again", []holding{{store: "a", owner: "small"}}, "large", 200, ""},
		"smaller, held":    {"and not what it reads", []holding{{store: "a", owner: "middle", held: true}}, "small", 60, ""},
		"as large":         {"nor what one as large reads", []holding{{store: "a", owner: "middle", held: true}}, "small", 50, ""},
		"larger":           {"what a larger one does not read", []holding{{store: "a", owner: "middle"}}, "small", 20, "a"},
		"larger, held":     {"and what it reads", []holding{{store: "a", owner: "middle", held: true}}, "small", 20, "a"},
		"idle before held": {"but first what nobody reads", []holding{{store: "a", owner: "large", held: true}, {store: "b", used: at(9)}}, "small", 20, "b"},
		"largest first":    {"the largest tenant first", []holding{{store: "a", owner: "middle", held: true}, {store: "b", owner: "large", used: at(9), held: true}}, "small", 20, "b"},
		"shared last":      {"what neighbours use, too, last", []holding{{store: "a", owner: "large", held: true, shared: true}, {store: "b", owner: "middle", used: at(9), held: true}}, "small", 20, "b"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if got, ok := choose(tc.all, use, tc.tenant, tc.will); got.store != tc.want || ok != (tc.want != "") {
				t.Errorf("%q goes, want %q: %s", got.store, tc.want, tc.reason)
			}
		})
	}
}

func TestCharges(t *testing.T) {
	b := newBudget(1000, func() time.Time { return time.Unix(0, 0) })
	b.found("s", 100, time.Unix(0, 0))
	check := func(reason string, total int64, want map[string]int64) {
		t.Helper()
		if got := b.usage(); b.total != total || !maps.Equal(got, want) {
			t.Errorf("%s: %d, %v; want %d, %v", reason, b.total, got, total, want)
		}
	}
	check("what was here is nobody's", 100, map[string]int64{"": 100})
	b.use("s", "a")
	check("who uses it first has it", 100, map[string]int64{"a": 100})
	b.use("s", "b")
	check("a second one reads for nothing", 100, map[string]int64{"a": 100, "b": 0})
	if err := b.take("s", "b", 400); err != nil {
		t.Fatal(err)
	}
	check("while a fetch is under way, what it may need is taken", 500, map[string]int64{"a": 100, "b": 400})
	b.settle("s", "b", 150)
	check("then what it took", 150, map[string]int64{"a": 100, "b": 50})
	b.settle("s", "b", 50)
	check("what is tidied is taken off all", 50, map[string]int64{"a": 50, "b": 0})
	b.settle("s", nobody, 0)
	check("what is thrown away is free", 0, map[string]int64{})
}

// noise is content of so many bytes that no compression makes smaller.
func noise(seed uint64, n int) string {
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	b := make([]byte, n)
	_, _ = r.Read(b) // never fails
	return string(b)
}

// TestFullDisk: a hostile tenant with many large repositories beside quiet ones.
func TestFullDisk(t *testing.T) {
	var posts atomic.Int64
	server, _ := newServer(t, gitserver.Options{Wrap: func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPost {
				posts.Add(1)
			}
			next.ServeHTTP(w, r)
		})
	}})
	repository := func(name string, size int) *gitserver.Repo {
		r, err := server.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		push(t, r, gitserver.Put("a", name), gitserver.Put("big", noise(uint64(len(name))<<8|uint64(name[len(name)-1]), size)))
		return r
	}
	const limit = 2 << 20
	dir := t.TempDir()
	s := newStore(t, dir, Options{MaxBytes: limit})
	ask := func(tenant string, r *gitserver.Repo) (source.Revision, error) {
		return s.Fetch(t.Context(), source.Request{URL: r.URL(), Tenant: tenant})
	}
	must := func(tenant string, r *gitserver.Repo) source.Revision {
		t.Helper()
		rev, err := ask(tenant, r)
		if err != nil {
			t.Fatalf("%s: %v", tenant, err)
		}
		return rev
	}
	onDisk := func() {
		t.Helper()
		var size int64
		for name := range s.budget.stores {
			n, err := sizeOf(dir + "/" + name)
			if err != nil {
				t.Fatal(err)
			}
			size += n
		}
		if size > limit || size != s.budget.total {
			t.Errorf("%d bytes are on disk, %d are accounted for, %d are allowed", size, s.budget.total, limit)
		}
	}

	quiet := repository("quiet", 200<<10)
	held := must("quiet", quiet)
	var hostile []source.Revision // which it reads, all of them
	var refused error
	for i := range 12 {
		rev, err := ask("hostile", repository(fmt.Sprintf("hostile-%c", 'a'+i), 300<<10))
		if err != nil {
			refused = err
			continue
		}
		hostile = append(hostile, rev)
		onDisk()
	}
	if len(hostile) < 4 || len(hostile) > 6 || fault.KindOf(refused) != fault.Limit || !errors.Is(refused, errFull) {
		t.Fatalf("%d repositories of 300 KiB are had in %d KiB, then: %v", len(hostile), limit>>10, refused)
	}
	for _, part := range []string{"hostile", "2 MiB", "--data-limit"} {
		if !strings.Contains(refused.Error(), part) {
			t.Errorf("%q does not say %q", refused, part)
		}
	}
	for _, rev := range hostile {
		if len(content(t, rev.Tree, "big")) != 300<<10 {
			t.Error("what it had is gone, though it was refused")
		}
	}
	before := posts.Load()
	must("quiet", quiet)
	if len(content(t, held.Tree, "big")) != 200<<10 || posts.Load() != before {
		t.Error("the quiet tenant had to fetch again")
	}

	// Somebody comes late: room is made for who uses less.
	late := must("late", repository("late", 250<<10))
	onDisk()
	if len(content(t, late.Tree, "big")) != 250<<10 || len(content(t, held.Tree, "big")) != 200<<10 {
		t.Error("who came late, or the quiet one, does not get what it asked for")
	}
	gone := 0
	for _, rev := range hostile {
		if _, err := rev.Tree.ReadFile("big", 1<<20); err != nil {
			gone++
			wantFault(t, err, fault.Unreachable, "make room")
		}
	}
	if gone != 1 {
		t.Errorf("%d repositories of the hostile tenant had to go, want 1", gone)
	}
	s.background.Wait() // and are not had again in its stead
	if len(content(t, late.Tree, "big")) != 250<<10 {
		t.Error("the hostile tenant's repair took the room back")
	}

	// A process that begins with less room throws away what nobody reads yet.
	s.Close()
	s = newStore(t, dir, Options{MaxBytes: limit / 2})
	if s.budget.total > limit/2 || s.budget.total == 0 {
		t.Errorf("%d bytes are kept at the start, %d are allowed", s.budget.total, limit/2)
	}
	must("quiet", quiet)
}

// TestEvictedIsFetchedAgain: a tree that is held gets its objects back when there is room.
func TestEvictedIsFetchedAgain(t *testing.T) {
	_, repo := newServer(t, gitserver.Options{})
	push(t, repo, gitserver.Put("a", "1"))
	s := newStore(t, t.TempDir(), Options{})
	req := source.Request{URL: repo.URL(), Tenant: "x"}
	held := fetch(t, s, req)
	r := s.repo(req)
	if r.evict(false) {
		t.Error("a store that somebody holds goes without force")
	}
	if !r.evict(true) {
		t.Fatal("it does not go")
	}
	if _, err := os.Stat(r.dir); !os.IsNotExist(err) || s.budget.total != 0 {
		t.Errorf("%d bytes are left: %v", s.budget.total, err)
	}
	_, err := held.Tree.ReadFile("a", 10)
	wantFault(t, err, fault.Unreachable, "it will be fetched again")
	s.background.Wait()
	if content(t, held.Tree, "a") != "1" {
		t.Error("it is not there again")
	}
	if f, ok := held.Tree.(source.Fragile); !ok || f.Damaged() {
		t.Error("it says that it is damaged")
	}
	if err := r.lock(t.Context()); err != nil {
		t.Fatal(err)
	}
	if r.evict(true) {
		t.Error("a store goes in the middle of a fetch")
	}
	r.unlock()
}
