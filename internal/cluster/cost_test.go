package cluster_test

import (
	"encoding/json"
	"fmt"
	"runtime"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/holdfastcd/holdfast/internal/cluster"
	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/test/harness"
)

// BenchmarkApply sends what a first sync of 100 applications of five objects
// sends, while the kinds are watched, and reports what that costs this process.
func BenchmarkApply(b *testing.B) {
	c, err := cluster.Connect(harness.Shared(b).Config(), cluster.Options{UserAgent: "cost", NeedsObject: judged})
	if err != nil {
		b.Fatal(err)
	}
	if err := c.Start(b.Context()); err != nil {
		b.Fatal(err)
	}
	ns := harness.Shared(b).Namespace(b)
	contents := []struct{ group, kind, content string }{
		{"apps", "Deployment", deployment},
		{"", "Service", `{"spec":{"selector":{"app":"web"},"ports":[{"name":"http","port":80}]}}`},
		{"", "ConfigMap", `{"data":{"a":"1"}}`},
		{"", "ServiceAccount", `{}`},
		{"rbac.authorization.k8s.io", "Role", `{"rules":[{"apiGroups":[""],"resources":["pods"],"verbs":["get"]}]}`},
	}
	start, cpu := time.Now(), processorTime(b)
	for b.Loop() {
		var g errgroup.Group
		g.SetLimit(24)
		for i := range 100 {
			for _, o := range contents {
				k, ok := c.LookupGroupKind(object.ID{Group: o.group, Kind: o.kind}.GroupKind())
				if !ok {
					b.Fatal(o.kind)
				}
				if err := c.Watch(b.Context(), k); err != nil {
					b.Fatal(err)
				}
				s := &subject{kind: k, id: object.ID{Group: o.group, Kind: o.kind, Namespace: ns, Name: fmt.Sprint("cost-", i)}}
				body := s.whole(o.content)
				if !json.Valid(body) {
					b.Fatal("not JSON")
				}
				g.Go(func() error {
					_, err := c.As(cluster.Account{}).Apply(b.Context(), k, s.id, body, us, true, false)
					return err
				})
			}
		}
		if err := g.Wait(); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(time.Since(start).Milliseconds())/float64(b.N), "wall-ms/op")
	b.ReportMetric(float64((processorTime(b)-cpu).Milliseconds())/float64(b.N), "cpu-ms/op")
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	b.ReportMetric(float64(m.HeapAlloc)/(1<<20), "heap-MiB")
}

func processorTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
