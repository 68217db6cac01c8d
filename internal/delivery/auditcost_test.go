package delivery_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/holdfastcd/holdfast/internal/audit"
	"github.com/holdfastcd/holdfast/internal/delivery"
)

// syncsEnv asks [TestAuditCost] for so many syncs, and holds them to the bar.
const syncsEnv = "HOLDFAST_AUDIT_SYNCS"

// auditBar is what the log may add to a sync; regression, what it would add at least
// if batches waited as long as tessera has them wait by default.
const (
	auditBar   = 15 * time.Millisecond
	regression = 250 * time.Millisecond
)

// stopwatch is a log that adds up how long deliveries are in it.
type stopwatch struct {
	delivery.Audit

	mu    sync.Mutex
	spent time.Duration
}

func (s *stopwatch) since(start time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.spent += time.Since(start)
}

// Append implements delivery.Audit.
func (s *stopwatch) Append(ctx context.Context, e audit.Entry, r *audit.Record) (uint64, error) {
	defer s.since(time.Now())
	return s.Audit.Append(ctx, e, r)
}

// Later implements delivery.Audit.
func (s *stopwatch) Later(e audit.Entry, r *audit.Record) {
	defer s.since(time.Now())
	s.Audit.Later(e, r)
}

// Untouched implements delivery.Audit.
func (s *stopwatch) Untouched(src audit.Source, who []audit.Person, id string) {
	defer s.since(time.Now())
	s.Audit.Untouched(src, who, id)
}

// Last implements delivery.Audit.
func (s *stopwatch) Last(id string) (audit.Delivered, bool, error) {
	defer s.since(time.Now())
	return s.Audit.Last(id)
}

// take returns what was spent since it was called last.
func (s *stopwatch) take() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	spent := s.spent
	s.spent = 0
	return spent
}

// TestAuditCost measures what a log on disk adds to syncs that change one object of
// five on a real API server: all the time that a pass is in the log's methods. Each
// begins when the outcome of the one before is on disk, or, in a burst, at once behind
// the one before.
func TestAuditCost(t *testing.T) {
	syncs, bar := 5, regression
	if text := os.Getenv(syncsEnv); text != "" {
		var err error
		if syncs, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
		bar = auditBar
	}
	w := newTrusted(t)
	log := openLog(t)
	watch := &stopwatch{Audit: log}
	w.engine.Audit = watch
	docs := func(i int) []string {
		all := []string{config("changing", strconv.Itoa(i))}
		for j := range 4 {
			all = append(all, config(fmt.Sprintf("other%d", j), "x"))
		}
		return all
	}
	w.push(fmt.Sprintf("%040x", 1), docs(0)...)
	w.until("the first sync", applied)
	done := 0
	for _, form := range []struct {
		reason string
		burst  bool
	}{{reason: "one by one"}, {reason: "in a burst", burst: true}} {
		var spent, passes []time.Duration
		for range syncs {
			done++
			if !form.burst {
				settle(t, log, 2*uint64(done))
			}
			watch.take()
			w.push(fmt.Sprintf("%040x", done+1), docs(done)...)
			start := time.Now()
			w.until("a sync", applied)
			passes = append(passes, time.Since(start))
			spent = append(spent, watch.take())
		}
		slices.Sort(spent)
		slices.Sort(passes)
		median, worst := spent[syncs/2], spent[syncs*99/100]
		t.Logf("of %d syncs %s, the log took %s in the median and %s at the 99th percentile; a sync took %s in the median",
			syncs, form.reason, median.Round(time.Microsecond), worst.Round(time.Microsecond), passes[syncs/2].Round(time.Microsecond))
		if median == 0 || median > bar {
			t.Errorf("the log adds %s to a sync %s, %s at most", median, form.reason, bar)
		}
	}
}

// settle waits until so many entries are on disk, of which nothing tells.
func settle(t *testing.T, log *audit.Log, entries uint64) {
	t.Helper()
	timeout := time.After(40 * time.Second)
	for tick := time.NewTicker(time.Millisecond); log.Size() < entries; {
		select {
		case <-tick.C:
		case <-timeout:
			t.Fatalf("the log has %d entries, want %d", log.Size(), entries)
		}
	}
}

// openLog opens an audit log on disk, as the controller does.
func openLog(t *testing.T) *audit.Log {
	t.Helper()
	text, err := audit.NewKey(rand.Reader, "test.example/log")
	if err != nil {
		t.Fatal(err)
	}
	key, err := audit.ParseKey(text)
	if err != nil {
		t.Fatal(err)
	}
	l, err := audit.Open(t.Context(), audit.Options{Dir: t.TempDir(), Signer: key.Signer, Verifier: key.Verifier, Clock: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}
