// Package audittest has the tests that every [audit.Store] must pass.
package audittest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfastcd/holdfast/internal/audit"
	"github.com/holdfastcd/holdfast/internal/fault"
)

// Place is an empty place for a log, that lasts as long as the test.
type Place struct {
	// Open returns a store there, as a new process does; nil: [audit.Options.Dir] holds the log.
	Open func(t testing.TB) audit.Store
	// Break has what it lies on fail until the returned function is called; nil: it cannot.
	Break func(t testing.TB) (mend func())
}

// Key returns a key for a log.
func Key(tb testing.TB) audit.Key {
	tb.Helper()
	text, err := audit.NewKey(rand.Reader, "test.example/log")
	if err != nil {
		tb.Fatal(err)
	}
	key, err := audit.ParseKey(text)
	if err != nil {
		tb.Fatal(err)
	}
	return key
}

// host is a machine with a log.
type host struct {
	place Place
	dir   string
	key   audit.Key
}

func (h host) options(tb testing.TB) audit.Options {
	tb.Helper()
	o := audit.Options{Dir: h.dir, Signer: h.key.Signer, Verifier: h.key.Verifier, SignEvery: time.Millisecond, Gather: time.Millisecond}
	if h.place.Open != nil {
		o.Store = h.place.Open(tb)
	}
	return o
}

func (h host) open(tb testing.TB) *audit.Log {
	tb.Helper()
	l, err := audit.Open(tb.Context(), h.options(tb))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = l.Close() }) // a second Close does nothing
	return l
}

func (h host) reader(tb testing.TB) audit.Lister {
	tb.Helper()
	if o := h.options(tb); o.Store != nil {
		return o.Store
	}
	return audit.Dir(h.dir)
}

func shut(tb testing.TB, l *audit.Log) {
	tb.Helper()
	if err := l.Close(); err != nil {
		tb.Fatal(err)
	}
}

// Store tests a kind of store, but for [Break]. Each call of fresh returns an empty place
// for the test that it is given, which may run beside others.
func Store(t *testing.T, fresh func(t *testing.T) Place) {
	t.Helper()
	for name, test := range map[string]func(*testing.T, host){
		"Log": wholeLog, "Crash": crash, "Put": put, "Takeover": another, "Damage": damage,
	} {
		t.Run(name, func(t *testing.T) { test(t, newHost(t, fresh(t))) })
	}
}

// Break tests that a store which fails for a while loses nothing.
func Break(t *testing.T, place Place) {
	t.Helper()
	breaks(t, newHost(t, place))
}

func newHost(tb testing.TB, place Place) host {
	tb.Helper()
	return host{place: place, dir: filepath.Join(tb.TempDir(), "log"), key: Key(tb)}
}

const delivery = "Kustomization/web/shop"

func record(name string) *audit.Record {
	return &audit.Record{Objects: []audit.Change{{Object: "apps/v1/Deployment/web/" + name, Operation: "update"}}}
}

// wholeLog writes from many goroutines, reads at once what was written, closes, verifies,
// opens without an index, and compares.
func wholeLog(t *testing.T, h host) { //nolint:gocognit,cyclop // one story
	t.Helper()
	l := h.open(t)
	const writers, each = 8, 20 // more than a full bundle
	var wait sync.WaitGroup
	for w := range writers {
		wait.Go(func() {
			for i := range each {
				name := fmt.Sprintf("%d-%d", w, i)
				at, err := l.Append(t.Context(), audit.Entry{Action: audit.Sync, Delivery: name, Source: &audit.Source{URL: "u", Commit: name}}, record("a"))
				if err != nil {
					t.Error(err)
					return
				}
				if e, err := l.Entry(at); err != nil || e.Delivery != name {
					t.Errorf("what was appended is read at once: %+v %v", e, err)
				}
				l.Later(audit.Entry{Action: audit.Outcome, Delivery: name, Of: &at, Result: audit.ResultDelivered}, nil)
				if last, ok, err := l.Last(name); err != nil || !ok || last.Source.Commit != name {
					t.Errorf("what was delivered is known at once: %+v %v %v", last, ok, err)
				}
			}
		})
	}
	wait.Wait()
	shut(t, l)
	v, err := audit.Verify(t.Context(), h.reader(t), audit.VerifyOptions{Verifier: h.key.Verifier})
	if err != nil || v.Size != 2*writers*each || v.Unsigned != 0 || len(v.Strange) != 0 || v.Records != writers*each {
		t.Errorf("after an orderly end all is signed: %+v %v", v, err)
	}
	if err := os.RemoveAll(filepath.Join(h.dir, "index")); err != nil {
		t.Fatal(err)
	}
	l = h.open(t)
	if l.Size() != v.Size {
		t.Errorf("%d entries, want %d", l.Size(), v.Size)
	}
	if found, err := l.About("apps/v1/Deployment/web/a", 5); err != nil || len(found) != 5 || found[0].Outcome == nil {
		t.Errorf("the index is made anew: %v %v", found, err)
	}
	if last, ok, err := l.Last("3-19"); err != nil || !ok || last.Source.Commit != "3-19" {
		t.Errorf("%+v %v %v", last, ok, err)
	}
	if n, err := l.Readable(t.Context()); err != nil || n != v.Size {
		t.Errorf("%d entries can be read: %v", n, err)
	}
	shut(t, l)
	again, err := audit.Verify(t.Context(), h.reader(t), audit.VerifyOptions{Verifier: h.key.Verifier, Against: v.Checkpoint})
	if err != nil || again.Size != v.Size {
		t.Errorf("opening it added nothing: %+v %v", again, err)
	}
}

// crash leaves an intent without outcome.
func crash(t *testing.T, h host) {
	t.Helper()
	l := h.open(t)
	at, err := l.Append(t.Context(), audit.Entry{Action: audit.Sync, Delivery: delivery, Source: &audit.Source{URL: "u", Commit: "c"}}, record("a"))
	if err != nil {
		t.Fatal(err)
	}
	shut(t, l)
	l = h.open(t)
	e, err := l.Entry(at + 1)
	if err != nil || e.Action != audit.Outcome || e.Result != audit.ResultInterrupted || *e.Of != at {
		t.Errorf("the intent is closed: %+v %v", e, err)
	}
	if _, ok, err := l.Last(delivery); ok || err != nil {
		t.Errorf("nothing was delivered: %v", err)
	}
	shut(t, l)
	l = h.open(t)
	if l.Size() != at+2 {
		t.Errorf("it is closed once: %d entries", l.Size())
	}
}

// put looks at the files of a store.
func put(t *testing.T, h host) {
	t.Helper()
	s := h.options(t).Store
	if s == nil {
		t.Log("files are tested with the log")
		return
	}
	ctx := t.Context()
	const name = "records/ab/ab00"
	if _, err := s.Read(ctx, name, 100); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what is not there is told: %v", err)
	}
	for _, tc := range []struct {
		data          string
		replace, want bool
		then          string
	}{
		{"first", false, true, "first"},
		{"second", false, false, "first"},
		{"third", true, true, "third"},
	} {
		written, err := s.Put(ctx, name, []byte(tc.data), tc.replace)
		if err != nil || written != tc.want {
			t.Errorf("%+v: %v %v", tc, written, err)
		}
		if got, err := s.Read(ctx, name, 100); err != nil || string(got) != tc.then {
			t.Errorf("%+v: %s %v", tc, got, err)
		}
	}
	if _, err := s.Read(ctx, name, 3); fault.KindOf(err) != fault.Limit {
		t.Errorf("what is too long is refused: %v", err)
	}
	var names []string
	for n, err := range s.List(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, n)
	}
	if !slices.Equal(names, []string{name}) {
		t.Error(cmp.Diff([]string{name}, names))
	}
}

// another process on another machine waits until the log is given back.
func another(t *testing.T, h host) {
	t.Helper()
	l := h.open(t)
	other := h
	if h.place.Open != nil {
		other.dir = filepath.Join(t.TempDir(), "log")
	}
	// A database on a busy machine may not have answered yet; what has, says who holds the log.
	for patience := 200 * time.Millisecond; ; patience *= 2 {
		second, err := openWithin(t, other, patience)
		if fault.KindOf(err) == fault.Waiting {
			break
		}
		if err == nil || patience > 10*time.Second {
			t.Fatalf("a second process must not write: %v %v", second, err)
		}
	}
	if _, err := l.Append(t.Context(), audit.Entry{Action: audit.Suspend}, nil); err != nil {
		t.Errorf("the first one goes on: %v", err)
	}
	shut(t, l)
	l = other.open(t)
	if l.Size() != 1 {
		t.Errorf("%d entries", l.Size())
	}
}

func openWithin(t *testing.T, h host, patience time.Duration) (*audit.Log, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	return audit.Open(ctx, h.options(t))
}

// breaks has the store fail: nothing is acknowledged, and nothing is lost that waits.
func breaks(t *testing.T, h host) {
	t.Helper()
	if h.place.Break == nil {
		t.Log("it cannot be broken")
		return
	}
	l := h.open(t)
	at, err := l.Append(t.Context(), audit.Entry{Action: audit.Sync, Delivery: delivery, Source: &audit.Source{URL: "u", Commit: "c"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	mend := h.place.Break(t)
	l.Later(audit.Entry{Action: audit.Outcome, Delivery: delivery, Of: &at, Result: audit.ResultDelivered}, record("late"))
	if _, err := l.Append(t.Context(), audit.Entry{Action: audit.Sync, Delivery: "Kustomization/web/other"}, record("b")); err == nil {
		t.Error("nothing may be acknowledged")
	}
	mend()
	end := time.Now().Add(time.Minute)
	for {
		_, err := l.Append(t.Context(), audit.Entry{Action: audit.Suspend, Delivery: delivery}, nil)
		if err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("it does not come back: %v", err)
		}
		time.Sleep(20 * time.Millisecond)
	}
	shut(t, l)
	l = h.open(t)
	if last, ok, err := l.Last(delivery); err != nil || !ok || last.Source.Commit != "c" {
		t.Errorf("the outcome was written later: %+v %v %v", last, ok, err)
	}
	shut(t, l)
	if _, err := audit.Verify(t.Context(), h.reader(t), audit.VerifyOptions{Verifier: h.key.Verifier}); err != nil {
		t.Error(err)
	}
}

// damage is told: by verify, and where the log is opened.
func damage(t *testing.T, h host) {
	t.Helper()
	s := h.options(t).Store
	if s == nil {
		t.Log("files are tested with the log")
		return
	}
	l := h.open(t)
	for i := range 10 {
		if _, err := l.Append(t.Context(), audit.Entry{Action: audit.Suspend, Delivery: delivery, Reason: fmt.Sprint(i)}, record("a")); err != nil {
			t.Fatal(err)
		}
	}
	shut(t, l)
	for name, err := range s.List(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		whole, err := s.Read(t.Context(), name, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		bad := slices.Clone(whole)
		bad[len(bad)/2] ^= 1
		if _, err := s.Put(t.Context(), name, bad, true); err != nil {
			t.Fatal(err)
		}
		if _, err := audit.Verify(t.Context(), h.reader(t), audit.VerifyOptions{Verifier: h.key.Verifier}); fault.KindOf(err) != fault.Invalid {
			t.Errorf("%s was changed: %v", name, err)
		}
		if _, err := s.Put(t.Context(), name, whole, true); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Put(t.Context(), "checkpoint", []byte("none"), true); err != nil {
		t.Fatal(err)
	}
	if _, err := audit.Open(t.Context(), h.options(t)); fault.KindOf(err) != fault.Invalid {
		t.Errorf("nothing is added to what cannot be trusted: %v", err)
	}
}

// Latency tells how long n entries wait, one after the other, each with the outcome of
// the one before: half of them with a record.
func Latency(t *testing.T, l *audit.Log, n int) {
	t.Helper()
	var plain, recorded []time.Duration
	for i := range n {
		var r *audit.Record
		if i%2 == 0 {
			r = record(fmt.Sprint(i))
		}
		start := time.Now()
		at, err := l.Append(t.Context(), audit.Entry{Action: audit.Sync, Delivery: delivery, Source: &audit.Source{URL: "u", Commit: fmt.Sprint(i)}}, r)
		if err != nil {
			t.Fatal(err)
		}
		if spent := time.Since(start); r == nil {
			plain = append(plain, spent)
		} else {
			recorded = append(recorded, spent)
		}
		l.Later(audit.Entry{Action: audit.Outcome, Delivery: delivery, Of: &at, Result: audit.ResultDelivered}, nil)
	}
	for what, list := range map[string][]time.Duration{"without a record": plain, "with a record": recorded} {
		slices.Sort(list)
		t.Logf("%d entries %s: %s in the median, %s at the 99th percentile", len(list), what, list[len(list)/2], list[len(list)*99/100])
	}
}
