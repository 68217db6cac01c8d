package gcs

import (
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"k8s.io/klog/v2"

	"github.com/holdfastcd/holdfast/internal/audit"
	"github.com/holdfastcd/holdfast/internal/audit/audittest"
	"github.com/holdfastcd/holdfast/test/stores"
)

func TestMain(m *testing.M) {
	klog.LogToStderr(false)
	klog.SetOutput(io.Discard)
	os.Exit(m.Run())
}

// TestStore runs against a server of buckets and the in-memory Spanner of Google's
// client library. Neither is the service itself: that was never asked.
func TestStore(t *testing.T) {
	if testing.Short() {
		t.Skip("it needs a server of buckets")
	}
	buckets := stores.GCS(t)
	t.Setenv("STORAGE_EMULATOR_HOST", strings.TrimPrefix(buckets.Endpoint, "http://"))
	fresh := func(tb *testing.T) audittest.Place {
		tb.Helper()
		if err := os.Setenv("SPANNER_EMULATOR_HOST", startSpanner(tb)); err != nil { // tessera asks it
			tb.Fatal(err)
		}
		o := Options{Bucket: buckets.Bucket(tb), Prefix: "cluster-1", Spanner: "projects/p/instances/i/databases/d", Takeover: 2 * time.Second}
		return audittest.Place{
			Open: func(tb testing.TB) audit.Store {
				s, err := Open(tb.Context(), o)
				if err != nil {
					tb.Fatal(fmt.Errorf("opening: %w", err))
				}
				tb.Cleanup(func() { _ = s.Close() })
				return s
			},
			Break: func(tb testing.TB) func() {
				buckets.Stop()
				return func() { buckets.Start(t) }
			},
		}
	}
	audittest.Store(t, fresh)
	t.Run("Break", func(t *testing.T) { audittest.Break(t, fresh(t)) })
}
