package s3

import (
	"database/sql"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfastcd/holdfast/internal/audit"
	"github.com/holdfastcd/holdfast/internal/audit/audittest"
	"github.com/holdfastcd/holdfast/internal/fault"
)

// refused tries to append: it must fail, and say why.
func refused(t *testing.T, l *audit.Log, reason, want string, r *audit.Record) {
	t.Helper()
	size := l.Size()
	_, err := l.Append(t.Context(), audit.Entry{Action: audit.Sync, Delivery: "Kustomization/a/b", Source: &audit.Source{URL: "u", Commit: "c"}}, r)
	if err == nil || !strings.Contains(err.Error(), want) || fault.From(err).Hint == "" || strings.Contains(err.Error(), "secret-") {
		t.Errorf("%s: %v", reason, err)
	}
	if l.Size() != size {
		t.Errorf("%s: %d entries, want %d", reason, l.Size(), size)
	}
}

// outages has the database full and read-only, and the bucket answer slowly that it cannot:
// nothing is acknowledged, it is told why, and all goes on afterwards.
func outages(t *testing.T, w *world) {
	var busy atomic.Bool
	behind, err := url.Parse(w.buckets.Endpoint)
	if err != nil {
		t.Fatal(err)
	}
	pass := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(behind); r.Out.Host = r.In.Host }}
	front := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if busy.Load() && r.Method == http.MethodPut {
			time.Sleep(200 * time.Millisecond) // that is the trouble
			http.Error(rw, `<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>`, http.StatusServiceUnavailable)
			return
		}
		pass.ServeHTTP(rw, r)
	}))
	defer front.Close()
	o := w.options(t)
	o.Endpoint = front.URL
	key := audittest.Key(t)
	l, store, err := openSite(t.Context(), site{Options: o, Dir: filepath.Join(t.TempDir(), "log")}, key)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	db, err := sql.Open("mysql", w.database.Root(o.DSN))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	do := func(statement string) {
		t.Helper()
		if _, err := db.ExecContext(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	for _, tc := range []struct{ reason, begin, end, want string }{
		{"a full database", "CREATE TRIGGER full BEFORE INSERT ON Seq FOR EACH ROW SIGNAL SQLSTATE 'HY000' SET MYSQL_ERRNO = 1114, MESSAGE_TEXT = 'The table ''Seq'' is full'", "DROP TRIGGER full", "is full"},
		{"a read-only database", "SET GLOBAL read_only = ON", "SET GLOBAL read_only = OFF", "the audit log cannot be written"},
	} {
		do(tc.begin)
		refused(t, l, tc.reason, tc.want, nil)
		do(tc.end)
	}
	busy.Store(true)
	refused(t, l, "a bucket that cannot", "SlowDown", &audit.Record{Objects: []audit.Change{{Object: "/v1/ConfigMap/a/b"}}})
	busy.Store(false)
	at, err := l.Append(t.Context(), audit.Entry{Action: audit.Suspend}, nil)
	if err != nil {
		t.Fatalf("it goes on: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if v, err := audit.Verify(t.Context(), store, audit.VerifyOptions{Verifier: key.Verifier}); err != nil || v.Size != at+1 || v.Unsigned != 0 {
		t.Errorf("%+v %v", v, err)
	}
}

// clocks has a log go on a machine whose clock is an hour behind the one before: it signs
// at once, not when its clock has caught up.
func clocks(t *testing.T, w *world) {
	o, key := w.options(t), audittest.Key(t)
	db, err := sql.Open("mysql", o.DSN)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for range 2 {
		l, store, err := openSite(t.Context(), site{Options: o, Dir: filepath.Join(t.TempDir(), "log")}, key)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := l.Append(t.Context(), audit.Entry{Action: audit.Suspend}, nil); err != nil {
			t.Error(err)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		if v, err := audit.Verify(t.Context(), store, audit.VerifyOptions{Verifier: key.Verifier}); err != nil || v.Unsigned != 0 {
			t.Errorf("%+v %v", v, err)
		}
		if _, err := db.ExecContext(t.Context(), "UPDATE PubCoord SET publishedAt = ?", time.Now().Add(time.Hour).Unix()); err != nil {
			t.Fatal(err)
		}
	}
}
