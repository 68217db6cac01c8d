// Command controlplane is every process of a Kubernetes control plane in one binary: its first argument says which one to
// be, the others are that program's own flags.
//
// One binary links the libraries that the five programs share once, so it builds in half the time and takes half the disk of
// five. Each role is still its own process, so a test can kill one and leave the others. The devcluster command builds this
// program on first use and runs it; nothing else should: it ends when its standard input closes.
package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
	_ "time/tzdata" // CronJobs name time zones, and the machine may have no zone files

	_ "k8s.io/component-base/metrics/prometheus/clientgo" // counts client requests in the components' metrics
	_ "k8s.io/component-base/metrics/prometheus/version"  // reports the version set at link time in the metrics
)

// roles maps the first argument to the program it runs. A role gets the arguments after its name, as os.Args, and returns
// the exit code.
var roles = map[string]func() int{
	"etcd":                    runEtcd,
	"kube-apiserver":          runAPIServer,
	"kube-controller-manager": runControllerManager,
	"kube-scheduler":          runScheduler,
	"kwok":                    runKwok,
}

func main() {
	if len(os.Args) < 2 || roles[os.Args[1]] == nil {
		fmt.Fprintf(os.Stderr, "controlplane: say which program to be: %s\n", strings.Join(names(), ", "))
		os.Exit(2)
	}
	go exitWithParent()
	role := os.Args[1]
	os.Args = append([]string{role}, os.Args[2:]...)
	os.Exit(roles[role]())
}

// names lists the roles, sorted.
func names() []string {
	all := make([]string, 0, len(roles))
	for name := range roles {
		all = append(all, name)
	}
	slices.Sort(all)
	return all
}
