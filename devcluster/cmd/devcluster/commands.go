package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/holdfastcd/holdfast/devcluster/internal/build"
	"github.com/holdfastcd/holdfast/devcluster/internal/cluster"
	"github.com/holdfastcd/holdfast/devcluster/internal/rundir"
)

// errUsage says that the command line is wrong.
var errUsage = errors.New("wrong usage")

// downWithin is how long down waits for a cluster to end.
const downWithin = 20 * time.Second

// parse parses args into flags, which take no arguments beside them.
func parse(flags *flag.FlagSet, args []string, s streams) error {
	flags.SetOutput(s.err)
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return err
		}
		return fmt.Errorf("%w: %w", errUsage, err)
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("%w: %s takes no argument, only flags, but got %q", errUsage, flags.Name(), flags.Arg(0))
	}
	return nil
}

// builderFlags declares the flags that say where the control plane is built and kept.
func builderFlags(flags *flag.FlagSet, s streams) *build.Builder {
	b := &build.Builder{Messages: s.err, Live: isTerminal(s.err)}
	flags.StringVar(&b.Source, "source", "", "the devcluster `directory` of a Holdfast repository (default: that of the current directory)")
	flags.StringVar(&b.Cache, "cache", "", "the `directory` that built programs are kept in (default: in the user's cache directory)")
	return b
}

// program returns the path of the control plane program, built if need be.
func program(ctx context.Context, b *build.Builder) (string, error) {
	if b.Source == "" {
		here, err := os.Getwd()
		if err != nil {
			return "", fmt.Errorf("find the current directory: %w", err)
		}
		if b.Source, err = build.FindModule(here); err != nil {
			return "", err
		}
	}
	return b.Program(ctx)
}

// isTerminal says whether w is a terminal.
func isTerminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := file.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// printUsage is the help command.
func printUsage(_ context.Context, _ []string, s streams) error { return s.print(usage) }

// buildProgram is the build command.
func buildProgram(ctx context.Context, args []string, s streams) error {
	flags := flag.NewFlagSet("devcluster build", flag.ContinueOnError)
	builder := builderFlags(flags, s)
	if err := parse(flags, args, s); err != nil {
		return err
	}
	path, err := program(ctx, builder)
	if err != nil {
		return err
	}
	return s.print(path)
}

// up is the up command.
func up(ctx context.Context, args []string, s streams) error {
	flags := flag.NewFlagSet("devcluster up", flag.ContinueOnError)
	builder := builderFlags(flags, s)
	options := cluster.Options{Messages: s.err}
	flags.StringVar(&options.Dir, "dir", "", "the `directory` for the cluster's files, removed when it stops (default: a new temporary one)")
	flags.BoolVar(&options.Audit, "audit", false, "log every request to the API server, but those of the control plane itself")
	flags.StringVar(&options.AuditWebhook, "audit-webhook", "", "a kubeconfig `file` that says where the API server sends what --audit would log")
	flags.IntVar(&options.Nodes, "nodes", 1, "how many nodes there are")
	flags.BoolVar(&options.Keep, "keep", false, "leave the cluster's directory, with its logs, when it stops")
	parentStdin := flags.Bool("parent-stdin", false, "also stop when standard input closes, for a parent that holds the other end")
	output := flags.String("o", "path", "what to print when ready: path, the kubeconfig's; or json, all there is to know, on one line")
	if err := parse(flags, args, s); err != nil {
		return err
	}
	if *output != "path" && *output != "json" {
		return fmt.Errorf("%w: -o takes path or json, but got %q", errUsage, *output)
	}
	if options.Nodes < 1 {
		return fmt.Errorf("%w: --nodes must be at least 1", errUsage)
	}
	if options.AuditWebhook != "" {
		path, err := filepath.Abs(options.AuditWebhook) // the API server runs elsewhere
		if err != nil {
			return fmt.Errorf("find %s: %w", options.AuditWebhook, err)
		}
		options.AuditWebhook = path
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if *parentStdin {
		go func() {
			_, _ = io.Copy(io.Discard, s.in) // its end is all that matters
			cancel()
		}()
	}
	var err error
	if options.Binary, err = program(ctx, builder); err != nil {
		return err
	}
	return keepUp(ctx, options, *output, s)
}

// keepUp runs a cluster until ctx is done.
func keepUp(ctx context.Context, options cluster.Options, output string, s streams) error {
	begun := time.Now()
	running, err := cluster.Start(ctx, options)
	if err != nil {
		return err
	}
	state := running.State()
	if err := announce(s, output, state); err != nil {
		return errors.Join(err, running.Stop())
	}
	s.tellf("ready in %s; it stays until Ctrl-C or: devcluster down --dir %s",
		time.Since(begun).Round(100*time.Millisecond), state.Dir)
	return errors.Join(running.Wait(ctx), running.Stop())
}

// announce prints the one line that says that the cluster is ready.
func announce(s streams, output string, state rundir.State) error {
	if output == "path" {
		return s.print(state.Kubeconfig)
	}
	encoded, err := json.Marshal(state)
	if err != nil {
		return fmt.Errorf("encode the cluster's state: %w", err)
	}
	return s.print(string(encoded))
}

// find returns the state of the running cluster in dir, or, without dir, of the only one there is.
func find(dir string) (rundir.State, error) {
	if dir != "" {
		return rundir.Read(dir)
	}
	running, err := rundir.Running(os.TempDir())
	if err != nil {
		return rundir.State{}, err
	}
	switch len(running) {
	case 0:
		return rundir.State{}, errors.New("no cluster is running in the temporary directory: start one with devcluster up, " +
			"or name its directory with --dir")
	case 1:
		return rundir.Read(running[0])
	default:
		return rundir.State{}, fmt.Errorf("several clusters are running; choose one:\n  --dir %s", strings.Join(running, "\n  --dir "))
	}
}

// kubeconfig is the kubeconfig command.
func kubeconfig(_ context.Context, args []string, s streams) error {
	flags := flag.NewFlagSet("devcluster kubeconfig", flag.ContinueOnError)
	dir := flags.String("dir", "", "the `directory` of the cluster (default: of the only one running)")
	if err := parse(flags, args, s); err != nil {
		return err
	}
	state, err := find(*dir)
	if err != nil {
		return err
	}
	return s.print(state.Kubeconfig)
}

// down is the down command.
func down(ctx context.Context, args []string, s streams) error {
	flags := flag.NewFlagSet("devcluster down", flag.ContinueOnError)
	dir := flags.String("dir", "", "the `directory` of the cluster (default: of the only one running)")
	if err := parse(flags, args, s); err != nil {
		return err
	}
	state, err := find(*dir)
	if err != nil {
		return err
	}
	if err := syscall.Kill(state.Launcher, syscall.SIGTERM); err != nil {
		return fmt.Errorf("ask the cluster's process %d to stop: %w", state.Launcher, err)
	}
	return awaitGone(ctx, state)
}

// awaitGone waits until the cluster's launcher has let go of its directory. Another user's process gives no other sign.
func awaitGone(ctx context.Context, state rundir.State) error {
	deadline := time.After(downWithin)
	for rundir.Alive(state.Dir) {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-deadline:
			return fmt.Errorf("the cluster in %s has not stopped within %s: end its process %d yourself", state.Dir, downWithin, state.Launcher)
		case <-time.After(20 * time.Millisecond):
		}
	}
	return nil
}
