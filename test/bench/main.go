// Command bench reproduces the table of the design: what Holdfast needs for a
// first sync, for commits that touch none, one or all of its applications, for
// reverting a live edit, and for doing nothing; beside the floor, the same
// writes sent by a client that does nothing else. Everything runs on loopback,
// on a throw-away control plane, and ends by itself.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"time"
)

// options are what can be asked on the command line.
type options struct {
	holdfast string
	dialect  string
	apps     int
	objects  int
	runs     int
	idle     time.Duration
	limit    time.Duration
	json     string
	keepLog  string
	count    bool
	profile  string
	signed   int
	policies string
	demand   bool
}

func parse() options {
	var o options
	flag.StringVar(&o.holdfast, "holdfast", "bin/holdfast", "the binary to measure")
	flag.StringVar(&o.dialect, "dialect", "flux", "custom resources to drive it with: flux or argo")
	flag.IntVar(&o.apps, "apps", 100, "applications")
	flag.IntVar(&o.objects, "objects", 5, "objects per application")
	flag.IntVar(&o.runs, "runs", 5, "runs of each repeatable phase; the median counts")
	flag.DurationVar(&o.idle, "idle", time.Minute, "how long to watch it do nothing")
	flag.DurationVar(&o.limit, "limit", 5*time.Minute, "bound on every single phase")
	flag.StringVar(&o.json, "json", "", "also write the result as JSON to this file; - for standard output")
	flag.StringVar(&o.keepLog, "log", "", "write the controller's log to this file")
	flag.BoolVar(&o.count, "count", true, "count requests by verb in the API server's audit log, which costs it time")
	flag.StringVar(&o.profile, "profile", "", "address of the controller's pprof endpoint to enable, for profiling by hand")
	flag.IntVar(&o.signed, "signed", 0, "put so many signed commits on top of the fleet, and measure the first sync alone")
	flag.BoolVar(&o.demand, "demand", true, "with -signed: have a TrustPolicy demand the signatures")
	flag.StringVar(&o.policies, "policies", "", "apply this file before the first sync: PolicySets that judge the fleet")
	flag.Parse()
	return o
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, parse()); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1) //nolint:gocritic // stop only releases a signal handler
	}
}

// run measures everything and prints the result.
func run(ctx context.Context, o options) error {
	b, err := prepare(ctx, o)
	if err != nil {
		return err
	}
	defer b.close()
	if err := b.measure(ctx); err != nil {
		return err
	}
	if err := b.result.table(os.Stdout); err != nil {
		return err
	}
	switch o.json {
	case "":
		return nil
	case "-":
		return b.result.json(os.Stdout)
	}
	f, err := os.Create(o.json)
	if err != nil {
		return err
	}
	defer f.Close()
	return b.result.json(f)
}
