// Command devcluster runs throw-away Kubernetes clusters for tests, demos and development: a real API server, etcd, controllers
// and scheduler, and nodes that make Pods ready without running them. It needs Go and nothing else.
//
// It is small and uses the standard library only, so that it compiles at once; the control plane itself is another program,
// which it builds on first use.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

const usage = `devcluster runs throw-away Kubernetes clusters: real control plane, simulated nodes.

  devcluster up           start a cluster, print the path of its kubeconfig when it is ready, and keep it until Ctrl-C
  devcluster kubeconfig   print the path of a running cluster's kubeconfig
  devcluster down         stop a running cluster
  devcluster build        print the path of the control plane's program, built if it was not yet

The first start builds the control plane, which takes some minutes; later ones take seconds.
Each command explains its flags with --help.`

// command is one of devcluster's commands.
type command func(ctx context.Context, args []string, streams streams) error

// streams are where a command reads and writes.
type streams struct {
	in  io.Reader
	out io.Writer // results only
	err io.Writer // messages to people
}

// print writes a result as one line.
func (s streams) print(result string) error {
	if _, err := fmt.Fprintln(s.out, result); err != nil {
		return fmt.Errorf("write to standard output: %w", err)
	}
	return nil
}

// tellf writes a message to people as one line.
func (s streams) tellf(format string, args ...any) {
	_, _ = fmt.Fprintf(s.err, "devcluster: "+format+"\n", args...) // there is nowhere to say that nobody can be told
}

var commands = map[string]command{
	"up":         up,
	"down":       down,
	"kubeconfig": kubeconfig,
	"build":      buildProgram,
	"help":       printUsage,
	"--help":     printUsage,
	"-h":         printUsage,
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	code := run(ctx, os.Args[1:], streams{in: os.Stdin, out: os.Stdout, err: os.Stderr})
	stop()
	os.Exit(code)
}

// run runs the command that args name and returns the exit code.
func run(ctx context.Context, args []string, s streams) int {
	if len(args) == 0 {
		args = []string{"help"}
	}
	command, known := commands[args[0]]
	if !known {
		s.tellf("there is no command %q\n\n%s", args[0], usage)
		return 2
	}
	err := command(ctx, args[1:], s)
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return 0
	case errors.Is(err, errUsage):
		s.tellf("%v", err)
		return 2
	default:
		s.tellf("%v", err)
		return 1
	}
}
