package s3

import (
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfastcd/holdfast/internal/audit"
	"github.com/holdfastcd/holdfast/internal/audit/audittest"
	"github.com/holdfastcd/holdfast/internal/audit/remote"
	"github.com/holdfastcd/holdfast/test/stores"
)

// takeover is short, so that tests need not wait.
const takeover = 2 * time.Second

// world is a database and a server of buckets.
type world struct {
	database *stores.Database
	buckets  *stores.Buckets
}

func newWorld(tb testing.TB) *world {
	tb.Helper()
	if testing.Short() {
		tb.Skip("it needs a database and a server of buckets")
	}
	w := &world{}
	var wait sync.WaitGroup
	wait.Go(func() { w.buckets = stores.S3(tb) })
	w.database = stores.MariaDB(tb)
	wait.Wait()
	return w
}

// options are of an empty place.
func (w *world) options(tb testing.TB) Options {
	tb.Helper()
	return Options{
		Bucket: w.buckets.Bucket(tb), Prefix: "cluster-1", Region: "us-east-1", Endpoint: w.buckets.Endpoint, PathStyle: true,
		DSN: w.database.DSN(tb), Takeover: takeover,
	}
}

func open(tb testing.TB, o Options) audit.Store {
	tb.Helper()
	s, err := Open(tb.Context(), o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := s.Close(); err != nil {
			tb.Error(err)
		}
	})
	return s
}

// Test runs all that needs a database and a bucket, with one of each: first what stops
// them, or changes the environment, then the others side by side, since they mostly wait.
func Test(t *testing.T) {
	w := newWorld(t)
	for name, test := range map[string]func(*testing.T, *world){"Break": breaks, "Outages": outages, "Trouble": troubles, "Latency": latency} {
		t.Run(name, func(t *testing.T) { test(t, w) })
	}
	for name, test := range map[string]func(*testing.T, *world){
		"Store": store, "Killed": killed, "TakenOver": takenOver, "Stolen": stolen, "Clocks": clocks, "Read": reading,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, w)
		})
	}
}

// reading reads a log while it is open: over HTTP, in the bucket without the database,
// and with it.
func reading(t *testing.T, w *world) {
	o := w.options(t)
	key := audittest.Key(t)
	l, all, err := openSite(t.Context(), site{Options: o, Dir: filepath.Join(t.TempDir(), "log")}, key)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	const entries = 300
	for i := range entries {
		e := audit.Entry{Action: audit.Suspend, Delivery: "Kustomization/a/b", Reason: strconv.Itoa(i)}
		if i == 7 {
			if _, err := l.Append(t.Context(), e, &audit.Record{Objects: []audit.Change{{Object: "/v1/ConfigMap/a/b"}}}); err != nil {
				t.Fatal(err)
			}
			continue
		}
		l.Later(e, nil)
	}
	for n := uint64(0); n < entries; { // nothing tells that a checkpoint is signed
		n, _ = audit.Signed(t.Context(), all)
		if t.Context().Err() != nil {
			t.Fatal("it is never signed")
		}
	}
	o.DSN = ""
	bare, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	web := httptest.NewServer(audit.Files(l.Reader()))
	defer web.Close()
	base, err := url.Parse(web.URL)
	if err != nil {
		t.Fatal(err)
	}
	if _, lists := bare.Reader().(audit.Lister); lists {
		t.Error("without a database, nobody tells which files belong to the log")
	}
	for from, r := range map[string]audit.Reader{"the database": all, "the bucket": bare.Reader(), "HTTP": audit.HTTP(web.Client(), base)} {
		v, err := audit.Verify(t.Context(), r, audit.VerifyOptions{Verifier: key.Verifier})
		if err != nil || v.Size != entries || v.Records != 1 {
			t.Errorf("%s: %+v %v", from, v, err)
		}
		var out strings.Builder
		if err := audit.Export(t.Context(), r, &out, 290); err != nil || strings.Count(out.String(), "\n") != 10 {
			t.Errorf("%s: %s %v", from, out.String(), err)
		}
		page, err := remote.Stored(r, from).Entries(t.Context(), remote.Query{Limit: 3})
		if err != nil || len(page.Entries) != 3 || page.Entries[0].Index != entries-1 {
			t.Errorf("%s: %+v %v", from, page, err)
		}
	}
	page, err := remote.Kept(l).Entries(t.Context(), remote.Query{Limit: 1})
	if err != nil || page.Size != entries {
		t.Errorf("%+v %v", page, err)
	}
}

// place is an empty place for a log; one of the servers can be stopped.
func (w *world) place(tb testing.TB, part *stores.Process) audittest.Place {
	tb.Helper()
	o := w.options(tb)
	return audittest.Place{
		Open: func(tb testing.TB) audit.Store {
			tb.Helper()
			return open(tb, o)
		},
		Break: func(tb testing.TB) func() {
			tb.Helper()
			part.Stop()
			return func() { part.Start(tb) }
		},
	}
}

func store(t *testing.T, w *world) {
	audittest.Store(t, func(t *testing.T) audittest.Place {
		t.Helper()
		t.Parallel()
		return w.place(t, nil)
	})
}

func breaks(t *testing.T, w *world) {
	for name, part := range map[string]*stores.Process{"Database": &w.database.Process, "Bucket": &w.buckets.Process} {
		t.Run(name, func(t *testing.T) { audittest.Break(t, w.place(t, part)) })
	}
}
