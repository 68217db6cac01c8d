package cluster_test

import (
	"context"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/holdfastcd/holdfast/internal/cluster"
	"github.com/holdfastcd/holdfast/internal/health"
	"github.com/holdfastcd/holdfast/internal/object"
	hschema "github.com/holdfastcd/holdfast/internal/schema"
	"github.com/holdfastcd/holdfast/test/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

// judged are the kinds that these tests watch whole; everything else is seen by
// its metadata alone.
var mutatingPolicy = schema.GroupKind{Group: "admissionregistration.k8s.io", Kind: "MutatingAdmissionPolicy"}

func judged(gk schema.GroupKind) bool { return gk.Kind == "StatefulSet" }

// connect returns a started connection that ends with the test, and a channel of
// its events.
func connect(t *testing.T, agent string) (*cluster.Cluster, <-chan cluster.Event) {
	t.Helper()
	cfg := harness.Shared(t).Config()
	c, err := cluster.Connect(cfg, cluster.Options{
		UserAgent: agent,
		Owner:     func(_ object.ID, labels, _ map[string]string) string { return labels["example.com/owner"] },
		Kept: func(_, annotations map[string]string) (bool, bool) {
			return annotations["example.com/keep"] == "true", false
		},
		NeedsObject: judged,
		Health: func(o *unstructured.Unstructured) (health.Verdict, bool) {
			replicas, found, _ := unstructured.NestedInt64(o.Object, "spec", "replicas")
			if !found {
				return health.Verdict{Status: health.Unknown, Message: "no replicas in " + o.GetKind()}, true
			}
			updated, _, _ := unstructured.NestedInt64(o.Object, "status", "readyReplicas")
			if updated == replicas {
				return health.Verdict{Status: health.Healthy}, true
			}
			return health.Verdict{Status: health.Progressing}, true
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(func() {
		cancel()
		c.Wait()
	})
	events := make(chan cluster.Event, 4096)
	c.Subscribe(func(e cluster.Event) { events <- e })
	start := time.Now()
	if err := c.Start(ctx); err != nil {
		t.Fatal(err)
	}
	t.Logf("started in %s", time.Since(start))
	return c, events
}

// lookup returns a kind that the cluster must serve.
func lookup(t *testing.T, c *cluster.Cluster, group, kind string) hschema.Kind {
	t.Helper()
	k, ok := c.LookupGroupKind(schema.GroupKind{Group: group, Kind: kind})
	if !ok {
		t.Fatalf("the cluster does not serve %s %s", group, kind)
	}
	return k
}

func TestStart(t *testing.T) {
	c, _ := connect(t, "start")
	if k := lookup(t, c, "apps", "Deployment"); k.Resource != "deployments" || !k.Namespaced || k.GVK.Version != "v1" {
		t.Errorf("got %+v", k)
	}
	if k := lookup(t, c, "", "Namespace"); k.Namespaced {
		t.Errorf("got %+v", k)
	}
	if got, want := c.Requests(), map[string]int{"get": 2, "watch": 1}; !cmp.Equal(got, want) {
		t.Errorf("starting took %v, want %v: discovery, and a watch that lists by itself", got, want)
	}
}
