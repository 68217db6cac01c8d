//go:build unix

package audit

import (
	"context"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// entriesEnv is how many entries TestScale writes (make audit-scale: a million).
const entriesEnv = "HOLDFAST_AUDIT_ENTRIES"

// realistic is an entry as a sync of a signed commit writes it.
func realistic(i int) Entry {
	return Entry{
		Action: Sync, Delivery: fmt.Sprintf("Kustomization/team-%d/service-%d", i%40, i%2000), UID: "6f1f0a4e-5a3b-4b0e-9d53-0c7f4a4f1c11",
		Source: &Source{
			URL: "https://git.example.com/platform/fleet.git", Ref: "refs/heads/main",
			Commit: fmt.Sprintf("%040x", i), Tree: fmt.Sprintf("sha256:%064x", i),
		},
		Who: []Person{
			{Role: "author", Name: "Ada Example <ada@example.com>"},
			{Role: "signer", Name: "ada@example.com", Proven: true, By: "ssh SHA256:2k5lC3n1Z0cWQ7yPpYw1Gx4H2m8d9sTqfVbU6rJtA0E"},
		},
		Verdicts: []Verdict{{Rule: "trust/production/commits", Outcome: "pass"}},
		Counts:   map[string]int{"update": 3},
	}
}

// TestScale measures what the design page tells: how many entries a second, how long
// one waits, the room on disk, the time to open, to look up, to prove and to verify.
func TestScale(t *testing.T) {
	n := 1000
	if v, err := strconv.Atoi(os.Getenv(entriesEnv)); err == nil {
		n = v
	}
	dir := t.TempDir()
	o := options(dir)
	o.BatchAge, o.SignEvery = 0, 0 // the defaults
	l, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	alone := waits(t, l, 1, min(n/20, 1000), 0)
	start := time.Now()
	loaded := waits(t, l, 64, n/2, 2000)
	rate := float64(n) / time.Since(start).Seconds()
	start = time.Now()
	closeLog(t, l)
	t.Logf("%d entries: %.0f/s; Append alone %s; with 64 at a time %s; Close %s", n, rate, quantiles(alone), quantiles(loaded), time.Since(start))
	start = time.Now()
	// Tiles that are not full any more pile up in a burst, and go when it is over.
	if l, err = Open(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	t.Logf("Open after the burst: %s", time.Since(start))
	closeLog(t, l)
	room(t, dir, n)

	start = time.Now()
	if l, err = Open(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	opened := time.Since(start)
	t.Logf("Open with a current index: %s", opened)
	random := rand.New(rand.NewPCG(1, 1))
	var proofs, lookups []time.Duration
	for range min(n/20, 1000) {
		start = time.Now()
		p, err := Prove(t.Context(), l.Reader(), random.Uint64N(uint64(n)))
		proofs = append(proofs, time.Since(start))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.Verify(testKey().Verifier); err != nil {
			t.Fatal(err)
		}
		start = time.Now()
		if _, err := l.Concerning(fmt.Sprintf("Kustomization/team-%d/service-%d", 7, 47), 20); err != nil {
			t.Fatal(err)
		}
		lookups = append(lookups, time.Since(start))
	}
	t.Logf("inclusion proofs %s; the last 20 entries of a delivery %s", quantiles(proofs), quantiles(lookups))
	closeLog(t, l)
	start = time.Now()
	verify(t, dir, nil)
	t.Logf("Verify: %s", time.Since(start))
	if n < 1_000_000 {
		return // too few to tell anything
	}
	if rate < 1000 || alone[len(alone)/2] > 15*time.Millisecond || opened > time.Second || proofs[len(proofs)/2] > 50*time.Millisecond {
		t.Error("a bar is missed")
	}
	rebuild(t, o)
}

func rebuild(t *testing.T, o Options) {
	t.Helper()
	if err := os.RemoveAll(filepath.Join(o.Dir, indexDir)); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	l, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("Open without an index: %s", time.Since(start))
	closeLog(t, l)
}

// waits appends n entries from so many goroutines, each waiting for its own, and
// returns how long they waited, sorted. Each is followed by an outcome that nobody
// waits for. One in records has a record, unless that is 0.
func waits(t *testing.T, l *Log, goroutines, n, records int) []time.Duration {
	t.Helper()
	list := make([]time.Duration, n)
	var wait sync.WaitGroup
	for w := range goroutines {
		wait.Go(func() {
			for i := w; i < n; i += goroutines {
				e := realistic(i)
				var r *Record
				if records > 0 && i%records == 0 {
					r = objects(strconv.Itoa(i))
				}
				start := time.Now()
				at, err := l.Append(context.Background(), e, r)
				list[i] = time.Since(start)
				if err != nil {
					t.Error(err)
					return
				}
				l.Later(Entry{Action: Outcome, Of: &at, Delivery: e.Delivery, Source: e.Source, Result: ResultDelivered, Counts: e.Counts}, nil)
			}
		})
	}
	wait.Wait()
	slices.Sort(list)
	return list
}

func quantiles(d []time.Duration) string {
	slices.Sort(d)
	return fmt.Sprintf("p50 %s, p99 %s, max %s", d[len(d)/2], d[len(d)*99/100], d[len(d)-1])
}

// room tells the blocks that files take, by what they are.
func room(t *testing.T, dir string, n int) {
	t.Helper()
	sums := map[string]int64{}
	var files int
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		kind, _, _ := strings.Cut(rel, "/")
		if strings.HasPrefix(rel, "tile/entries") {
			kind = "entries"
		}
		sums[kind] += st.Blocks * 512
		if !e.IsDir() {
			files++
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	var all int64
	for kind, n := range sums {
		if kind != "records" {
			all += n
		}
	}
	t.Logf("room: %v bytes in %d files; %d bytes an entry without records: %.2f GiB for 10 million", sums, files, all/int64(n), float64(all)/float64(n)*1e7/(1<<30))
}
