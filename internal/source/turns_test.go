package source

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfastcd/holdfast/internal/fault"
)

// TestTurns lets tenants enter in an order, with one turn ending after the other,
// and says in which order they are served.
func TestTurns(t *testing.T) {
	tests := map[string]struct {
		reason       string
		places, each int
		enter, want  []string
	}{
		"one tenant":  {"who is alone waits for nobody but itself", 1, 1, []string{"a", "a", "a"}, []string{"a", "a", "a"}},
		"in rotation": {"a hundred of one cost another no more than one", 1, 1, []string{"a", "a", "a", "a", "b", "c", "b"}, []string{"a", "a", "b", "c", "a", "b", "a"}},
		"not all":     {"one tenant never has all places", 2, 1, []string{"a", "a", "a", "b", "b"}, []string{"a", "b", "a", "b", "a"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				turns := NewTurns(tc.places, tc.each)
				var mu sync.Mutex
				var got []string
				running, most := map[string]int{}, 0
				for _, tenant := range tc.enter {
					go func() {
						give, err := turns.Take(t.Context(), tenant)
						if err != nil {
							t.Error(err)
							return
						}
						mu.Lock()
						got = append(got, tenant) // one after the other: they begin at different moments
						running[tenant]++
						most = max(most, running[tenant])
						mu.Unlock()
						time.Sleep(time.Second)
						mu.Lock()
						running[tenant]--
						mu.Unlock()
						give()
						give() // does nothing
					}()
					synctest.Wait()
					time.Sleep(time.Millisecond)
				}
				time.Sleep(time.Minute)
				mu.Lock()
				defer mu.Unlock()
				if !slices.Equal(got, tc.want) || most > tc.each {
					t.Errorf("served %v, %d of one at once; want %v, %d: %s", got, most, tc.want, tc.each, tc.reason)
				}
				turns.mu.Lock()
				defer turns.mu.Unlock()
				if turns.free != tc.places || len(turns.running)+len(turns.waiting)+len(turns.order) != 0 {
					t.Errorf("left behind: %+v", turns)
				}
			})
		})
	}
}

// TestTurnsGivenUp: who leaves the line takes no place.
func TestTurnsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := NewTurns(1, 1)
		give, err := turns.Take(t.Context(), "a")
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := turns.Take(ctx, "b"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v, want that it is given up", err)
		}
		give()
		if give, err = turns.Take(t.Context(), "c"); err != nil {
			t.Fatal(err)
		}
		give()
	})
}

// TestHubTenants: one tenant with hundreds of servers that never answer beside one
// with a server that does.
func TestHubTenants(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := fetcherFunc(func(req Request) (Revision, error) {
			if req.Tenant == "hostile" {
				time.Sleep(time.Hour) // of the bubble's clock
			}
			return Revision{Commit: "c"}, nil
		})
		h := NewHub(slow, time.Now)
		for i := range 500 {
			go func() {
				_, err := h.Get(t.Context(), Request{URL: fmt.Sprint("https://h/", i), Tenant: "hostile"}, 0)
				if fault.KindOf(err) != fault.Waiting {
					t.Errorf("a slow server: %v, want Waiting", err)
				}
			}()
		}
		synctest.Wait()
		start := time.Now()
		req := Request{URL: "https://h/0", Tenant: "quiet"} // the same URL
		if got := get(t, h, req, 0); got != "c" || time.Since(start) != 0 {
			t.Errorf("the quiet tenant gets %q after %s", got, time.Since(start))
		}
		time.Sleep(500 * time.Hour)
	})
}

// TestHubForgetsTheLargestTenantFirst: one tenant's keys do not push out another's.
func TestHubForgetsTheLargestTenantFirst(t *testing.T) {
	now := time.Unix(0, 0)
	h := NewHub(fetcherFunc(func(Request) (Revision, error) { return Revision{}, nil }), func() time.Time { return now })
	quiet := Request{URL: "https://h/quiet", Tenant: "quiet"}
	for i := -1; i < maxKeys+10; i++ {
		req := Request{URL: fmt.Sprint("https://h/", i), Tenant: "hostile"}
		if i < 0 {
			req = quiet
		}
		now = now.Add(time.Millisecond)
		if _, err := h.Get(t.Context(), req, time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	if len(h.keys) > maxKeys || h.keys[quiet.Key()] == nil {
		t.Errorf("%d keys are kept, the oldest of all, of a quiet tenant, among them: %t", len(h.keys), h.keys[quiet.Key()] != nil)
	}
}
