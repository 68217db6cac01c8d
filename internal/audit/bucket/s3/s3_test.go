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

func credentials(t *testing.T) {
	t.Helper()
	t.Setenv("AWS_ACCESS_KEY_ID", stores.AccessKey)
	t.Setenv("AWS_SECRET_ACCESS_KEY", stores.SecretKey)
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

// Test runs all that needs a database and a bucket, with one of each.
func Test(t *testing.T) {
	credentials(t)
	w := newWorld(t)
	for name, test := range map[string]func(*testing.T, *world){
		"Store": store, "Killed": killed, "TakenOver": takenOver, "Stolen": stolen, "Read": reading, "Trouble": troubles, "Latency": latency,
	} {
		t.Run(name, func(t *testing.T) { test(t, w) })
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

func store(t *testing.T, w *world) {
	place := func(part *stores.Process) func(testing.TB) audittest.Place {
		return func(tb testing.TB) audittest.Place {
			o := w.options(tb)
			return audittest.Place{
				Open: func(tb testing.TB) audit.Store { return open(tb, o) },
				Break: func(testing.TB) func() {
					part.Stop()
					return func() { part.Start(t) }
				},
			}
		}
	}
	audittest.Store(t, place(&w.database.Process))
	t.Run("BreakBucket", func(t *testing.T) { audittest.Break(t, place(&w.buckets.Process)) })
}
