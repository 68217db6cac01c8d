package source

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/tree"
	"github.com/holdfastcd/holdfast/internal/tree/treetest"
)

// counting is a fetcher that takes a second, whose answers are numbered, and
// that fails when told to.
type counting struct {
	mu      sync.Mutex
	fetches map[Key]int
	err     error
	panics  bool
}

func (c *counting) Fetch(_ context.Context, req Request) (Revision, error) {
	c.mu.Lock()
	if c.fetches == nil {
		c.fetches = map[Key]int{}
	}
	c.fetches[req.Key()]++
	n, err, panics := c.fetches[req.Key()], c.err, c.panics
	c.mu.Unlock()
	time.Sleep(time.Second) // in a synctest bubble: no time passes outside
	if panics {
		panic("a parser met what it did not expect")
	}
	return Revision{Commit: fmt.Sprint(n)}, err
}

func (c *counting) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = err
}

func (c *counting) count(req Request) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.fetches[req.Key()]
}

func get(t *testing.T, h *Hub, req Request, maxAge time.Duration) string {
	t.Helper()
	rev, err := h.Get(t.Context(), req, maxAge)
	if err != nil {
		t.Errorf("Get: %v", err)
	}
	return rev.Commit
}

func TestHubSharesOneFetch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &counting{}
		h := NewHub(f, time.Now)
		req := Request{URL: "https://h/x"}
		other := Request{URL: "https://h/x", Credential: NewCredential("other", Secret{Username: "u", Password: "p"})}
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() { get(t, h, req, 0) })
			wg.Go(func() { get(t, h, other, time.Hour) })
		}
		wg.Wait()
		if f.count(req) != 1 || f.count(other) != 1 {
			t.Errorf("%d and %d fetches for 100 callers each, want 1 for each credential", f.count(req), f.count(other))
		}
	})
}

func TestHubKeepsAnswersForTheirAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := NewHub(&counting{}, time.Now)
		req := Request{URL: "https://h/x"}
		steps := []struct {
			reason string
			wait   time.Duration
			maxAge time.Duration
			want   string
		}{
			{"nothing is known", 0, time.Minute, "1"},
			{"young enough", 30 * time.Second, time.Minute, "1"},
			{"too old", 31 * time.Second, time.Minute, "2"},
			{"a caller that wants it fresh", time.Second, 0, "3"},
			{"which serves the others", time.Second, time.Minute, "3"},
			{"unused for long, and forgotten", 24 * time.Hour, 48 * time.Hour, "4"},
		}
		for _, s := range steps {
			time.Sleep(s.wait)
			if got := get(t, h, req, s.maxAge); got != s.want {
				t.Errorf("%s: revision %s, want %s", s.reason, got, s.want)
			}
		}
	})
}

func TestHubRefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &counting{}
		h := NewHub(f, time.Now)
		main := Request{URL: "https://h/x"}
		branch := Request{URL: "https://h/x.git", Ref: Ref{Branch: "b"}}
		other := Request{URL: "https://h/y"}
		for _, r := range []Request{main, branch, other} {
			get(t, h, r, time.Hour)
		}
		if n := h.Refresh("git@H:x.git"); n != 2 {
			t.Errorf("%d keys were marked, want 2", n)
		}
		for r, want := range map[Request]string{main: "2", branch: "2", other: "1"} {
			if got := get(t, h, r, time.Hour); got != want {
				t.Errorf("%v after a refresh: revision %s, want %s", r.Key(), got, want)
			}
		}
		if n := h.Refresh(""); n != 0 {
			t.Errorf("no URL marks %d keys", n)
		}

		// A refresh during a fetch: what that one brings may be from before.
		h.Refresh(main.URL)
		got := make(chan string)
		go func() { got <- get(t, h, main, time.Hour) }()
		synctest.Wait() // until the fetch is under way
		h.Refresh(main.URL)
		if rev := <-got; rev != "4" {
			t.Errorf("a refresh during fetch 3 is answered with fetch %s", rev)
		}
	})
}

func TestHubBacksOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &counting{}
		h := NewHub(f, time.Now)
		req := Request{URL: "https://h/x"}
		get(t, h, req, time.Hour)
		down := fault.New(fault.Unreachable, "down")
		f.fail(down)
		start := time.Now()
		for time.Since(start) < time.Minute { // a hundred applications try on and on
			if _, err := h.Get(t.Context(), req, 0); !errors.Is(err, down) {
				t.Fatalf("the error is %v", err)
			}
			time.Sleep(100 * time.Millisecond)
		}
		if n := f.count(req) - 1; n < 4 || n > 8 {
			t.Errorf("%d fetches in a minute of failures, want a few", n)
		}
		f.fail(nil)
		h.Refresh(req.URL) // it was pushed to: do not wait
		before := f.count(req)
		if got := get(t, h, req, time.Hour); got != fmt.Sprint(before+1) {
			t.Errorf("after a refresh: revision %s, want %d", got, before+1)
		}
	})
}

// rotten is a tree that was found to be damaged.
type rotten struct{ tree.Tree }

func (rotten) Damaged() bool { return true }

func TestHubFetchesDamagedTreesAnew(t *testing.T) {
	n := 0
	h := NewHub(fetcherFunc(func(Request) (Revision, error) {
		n++
		if n == 1 {
			return Revision{Commit: "1", Tree: rotten{}}, nil
		}
		return Revision{Commit: fmt.Sprint(n), Tree: treetest.FromFiles(nil)}, nil
	}), time.Now)
	for _, want := range []string{"1", "2", "2"} {
		if got := get(t, h, Request{URL: "https://h/x"}, time.Hour); got != want {
			t.Errorf("revision %s, want %s", got, want)
		}
	}
}

func TestHubCallerMayLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := NewHub(&counting{}, time.Now)
		req := Request{URL: "https://h/x"}
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if _, err := h.Get(ctx, req, 0); fault.KindOf(err) != fault.Unreachable || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a caller in a hurry gets %v", err)
		}
		if got := get(t, h, req, time.Hour); got != "1" {
			t.Errorf("the fetch it started was repeated: revision %s", got)
		}
	})
}

func TestHubSurvivesPanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := NewHub(&counting{panics: true}, time.Now)
		if _, err := h.Get(t.Context(), Request{URL: "https://h/x"}, 0); fault.KindOf(err) != fault.Internal || err == nil {
			t.Errorf("a panic became %v", err)
		}
	})
}

func TestHubIsBounded(t *testing.T) {
	now := time.Unix(0, 0)
	h := NewHub(fetcherFunc(func(Request) (Revision, error) { return Revision{}, nil }), func() time.Time { return now })
	for i := range maxKeys + 100 {
		now = now.Add(time.Millisecond)
		if _, err := h.Get(t.Context(), Request{URL: fmt.Sprint("https://h/", i)}, time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	if len(h.keys) > maxKeys {
		t.Errorf("%d keys are kept, want %d at most", len(h.keys), maxKeys)
	}
	if h.keys[Key{URL: "https://h/0"}] != nil || h.keys[Key{URL: fmt.Sprint("https://h/", maxKeys+99)}] == nil {
		t.Error("not the oldest were dropped")
	}
}

type fetcherFunc func(Request) (Revision, error)

func (f fetcherFunc) Fetch(_ context.Context, req Request) (Revision, error) { return f(req) }

// A fetch that takes long is told to those who ask, and goes on without them.
func TestHubDoesNotWaitForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := fetcherFunc(func(Request) (Revision, error) {
			time.Sleep(time.Minute) // of the bubble's clock
			return Revision{Commit: "c"}, nil
		})
		h := NewHub(slow, time.Now)
		req := Request{URL: "https://h/x"}
		start := time.Now()
		_, err := h.Get(t.Context(), req, 0)
		if fault.KindOf(err) != fault.Waiting || time.Since(start) != patience {
			t.Fatalf("after %s: %v", time.Since(start), err)
		}
		again := time.Now()
		if _, err := h.Get(t.Context(), req, 0); fault.KindOf(err) != fault.Waiting || time.Since(again) != 0 {
			t.Errorf("the second question took %s: %v", time.Since(again), err)
		}
		time.Sleep(time.Minute) // of the bubble's clock
		if r, err := h.Get(t.Context(), req, time.Hour); err != nil || r.Commit != "c" {
			t.Errorf("when it is there: %v, %v", r, err)
		}
	})
}
