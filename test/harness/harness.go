// Package harness gives end-to-end tests a real Kubernetes cluster.
//
// A test package starts at most one cluster, on first use, and shares it between its tests; each test works in namespaces of its
// own. The cluster comes from the devcluster module, which is run as a program and never imported: the code under test must not
// be built with the API server's dependencies. The first run on a machine builds the control plane, which takes some minutes;
// later runs are ready in seconds.
//
//	func TestMain(m *testing.M) { harness.Main(m) }
//
//	func TestDeliver(t *testing.T) {
//		cluster := harness.Shared(t)
//		namespace := cluster.Namespace(t)
//		...
//		cluster.Await(t, harness.Deployments, namespace, "web", "to be ready", harness.Ready(3))
//	}
//
// A test that needs a cluster and cannot have one fails; it skips only where -short asks for that.
package harness

import (
	"context"
	"fmt"
	"net"
	"os"
	"sync"
	"testing"
)

// shared is the cluster of this test process.
var shared struct {
	once    sync.Once
	cluster *Cluster
	err     error

	mu   sync.Mutex
	ends []func()
}

// AtEnd has something be done when the tests of the package are over: what they share
// belongs to none of them.
func AtEnd(do func()) {
	shared.mu.Lock()
	defer shared.mu.Unlock()
	shared.ends = append(shared.ends, do)
}

// Main runs a package's tests and then stops the cluster that they shared, if they started one. It is the body of TestMain.
func Main(m *testing.M) {
	code := m.Run()
	for _, do := range shared.ends {
		do()
	}
	if shared.cluster != nil {
		if err := shared.cluster.Stop(); err != nil {
			fmt.Fprintln(os.Stderr, "harness:", err)
			code = max(code, 1)
		}
	}
	os.Exit(code)
}

// Shared returns the cluster that all tests of this process share, and starts it on first use. Its requests are audited.
func Shared(tb testing.TB) *Cluster {
	tb.Helper()
	if testing.Short() {
		tb.Skip("needs a cluster: run it without -short")
	}
	shared.once.Do(func() {
		// Not the test's context: the cluster outlives the test that happens to come first.
		shared.cluster, shared.err = Start(context.Background(), Options{Audit: true, Messages: os.Stderr})
	})
	if shared.err != nil {
		tb.Fatalf("start the cluster that the tests share: %v", shared.err)
	}
	return shared.cluster
}

// Address returns an address of this machine that the API server forwards requests to:
// it refuses loopback's.
func Address(tb testing.TB) string {
	tb.Helper()
	all, err := net.InterfaceAddrs()
	if err != nil {
		tb.Fatal(err)
	}
	for _, a := range all {
		if n, ok := a.(*net.IPNet); ok && n.IP.To4() != nil && n.IP.IsGlobalUnicast() {
			return n.IP.String()
		}
	}
	tb.Fatal("this machine has no address but loopback, and the API server forwards to none of these")
	return ""
}
