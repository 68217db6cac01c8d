package harness

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Kill ends one program of the cluster, by its name ("etcd", "kube-apiserver"), as a crash would, and returns when the
// launcher has started it again and the API server answers. Tests that share the cluster see it go, too.
func (c *Cluster) Kill(tb testing.TB, component string) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), patience)
	defer cancel()
	before, err := c.pid(component)
	if err != nil || before == 0 {
		tb.Fatalf("the process of %s is not known: %v", component, err)
	}
	if err := syscall.Kill(before, syscall.SIGKILL); err != nil {
		tb.Fatalf("kill %s: %v", component, err)
	}
	// A file and a port tell of the new process; neither has an event.
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if now, err := c.pid(component); err == nil && now != before && c.answers(ctx) {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			tb.Fatalf("%s was killed and did not come back", component)
		}
	}
}

// pid reads which process a component is now.
func (c *Cluster) pid(component string) (int, error) {
	raw, err := os.ReadFile(filepath.Join(c.state.Dir, "devcluster.json"))
	if err != nil {
		return 0, err
	}
	var now state
	err = json.Unmarshal(raw, &now)
	return now.Processes[component], err
}

// answers reports whether the API server serves objects from its storage.
func (c *Cluster) answers(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	_, err := c.dynamic.Resource(Namespaces).Get(ctx, "default", metav1.GetOptions{})
	return err == nil
}
