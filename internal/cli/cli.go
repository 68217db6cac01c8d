// Package cli is the command line: one file for each command, which parses, calls
// and prints. What a command needs of the process (its streams and environment)
// is handed to it, so that tests can run it like any function.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"

	"github.com/go-logr/logr"
	"github.com/spf13/cobra"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"

	"github.com/holdfastcd/holdfast/internal/fault"
)

// The exit codes. Every command that fails, for whatever reason, ends with 2:
// 1 is an answer.
const (
	exitOK      = 0
	exitChanges = 1
	exitFailed  = 2
)

// Process is what a command may use of the process that it runs in.
type Process struct {
	In       io.Reader
	Out, Err io.Writer
	// Lookup reads the environment.
	Lookup func(name string) (string, bool)
}

// OS returns the process as the operating system started it.
func OS() Process {
	return Process{In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Lookup: os.LookupEnv}
}

// errChanges is how diff says that there are changes.
var errChanges = errors.New("there are changes")

// Run runs the command that args name until it is done or the process is asked
// to end, and returns the exit code. What went wrong stands on p.Err, with what
// to do about it.
func Run(args []string, p Process) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	// A second signal ends the process at once.
	context.AfterFunc(ctx, stop)
	silence()
	root := newRoot(p)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, errChanges), errors.Is(err, errTampered):
		return exitChanges
	default:
		fmt.Fprintln(p.Err, "holdfast: "+explain(err))
		return exitFailed
	}
}

// silence keeps the Kubernetes libraries from writing to standard error; what
// matters of it reaches the controller's own log. Once for the process: their loggers
// are not made to be exchanged while they are used.
var silence = sync.OnceFunc(func() {
	klog.SetLogger(logr.Discard())
	ctrl.SetLogger(logr.Discard())
})

const about = `Holdfast takes what is in Git and holds a Kubernetes cluster to it.

It reads the manifests that you already have: Argo CD's Application and
AppProject, and Flux's GitRepository, Kustomization and Receiver.`

const more = `
Every setting shown with a variable, such as [$HOLDFAST_DATA_DIR], can be given
in the environment as well; the flag wins.

Exit codes: 0 success; 1 "diff" found changes, "check" something wrong, "trust check" what
would be refused, or "audit verify" a changed log; 2 anything failed, a wrong command line included.
`

const rootExamples = `  # watch a repository being delivered, on this machine, and drift being reverted
  holdfast demo

  # what would this repository deliver?
  holdfast build -f clusters/dev/apps.yaml --source .

  # what would change in the cluster?
  holdfast diff -f clusters/dev/apps.yaml --source .

  # what is delivered, from where, and why is something not?
  holdfast get

  # deliver now, and wait
  holdfast sync app/shop

  # try it beside Argo CD or Flux
  holdfast install --observe`

func newRoot(p Process) *cobra.Command {
	root := &cobra.Command{
		Use:                        "holdfast",
		Short:                      "Hold a Kubernetes cluster to what is in Git",
		Long:                       about + "\n" + more,
		Example:                    rootExamples,
		SilenceErrors:              true,
		SuggestionsMinimumDistance: 2,
		SilenceUsage:               true,
		Args:                       knownCommand,
		RunE:                       func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		PersistentPreRunE:          func(cmd *cobra.Command, _ []string) error { return fromEnvironment(cmd, p.Lookup) },
	}
	root.SetIn(p.In)
	root.SetOut(p.Out)
	root.SetErr(p.Err)
	root.SetFlagErrorFunc(wrongUsage)
	group(root, "Look:", newGet(p), newDiff(p), newBuild(p), newHealth(p), newWhy(p), newAudit(p), newTrust(p), newPolicy(p), newCheck(p))
	group(root, "Operate deliveries:", newSync(p), newRollback(p), newSuspend(p), newResume(p), newTakeover(p), newHandback(p))
	group(root, "Keep secrets:", newSeal(p), newKeys(p))
	group(root, "Run Holdfast:", newInstall(p), newController(p), newDemo(p))
	root.AddCommand(newVersion(p), newWorker())
	root.CompletionOptions.SetDefaultShellCompDirective(cobra.ShellCompDirectiveDefault)
	root.InitDefaultCompletionCmd()
	root.SetUsageTemplate(strings.ReplaceAll(root.UsageTemplate(), ".FlagUsages ", ".FlagUsagesWrapped 120 "))
	for _, cmd := range root.Commands() {
		strict(cmd)
	}
	return root
}

// group adds commands under a title in the help.
func group(root *cobra.Command, title string, commands ...*cobra.Command) {
	root.AddGroup(&cobra.Group{ID: title, Title: title})
	for _, cmd := range commands {
		cmd.GroupID = title
		root.AddCommand(cmd)
	}
}

// knownCommand refuses a command that does not exist, and names those that come close.
func knownCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	err := fault.New(fault.Invalid, "there is no command %q", args[0])
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		return err.WithHint("did you mean %s? see '%s --help'", strings.Join(near, " or "), cmd.CommandPath())
	}
	return err.WithHint("see '%s --help'", cmd.CommandPath())
}

// strict makes the complaints of a command, and of those below it, about their
// arguments say what to do.
func strict(cmd *cobra.Command) {
	check := cmd.Args
	switch {
	case cmd.HasSubCommands():
		check = knownCommand
		if !cmd.Runnable() { // cobra would print its help, and report success, whatever it was given
			cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
		}
	case check == nil:
		check = cobra.NoArgs
	}
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		err := check(cmd, args)
		if _, ours := errors.AsType[*fault.Error](err); ours || err == nil {
			return err
		}
		if len(args) == 0 {
			return wrongUsage(cmd, fmt.Errorf("an argument is missing: the command is '%s'", cmd.UseLine()))
		}
		return wrongUsage(cmd, fmt.Errorf("%q does not belong there: the command is '%s'", args[len(args)-1], cmd.UseLine()))
	}
	for _, below := range cmd.Commands() {
		strict(below)
	}
}

func wrongUsage(cmd *cobra.Command, err error) error {
	return fault.New(fault.Invalid, "%s", err).WithHint("see '%s --help'", cmd.CommandPath())
}

// next says what to do about a failure whose error does not say it.
var next = map[fault.Kind]string{
	fault.Internal:     "run it again with --help to check its use; if it should work, report it with this message",
	fault.Unreachable:  "check the address, and that the server can be reached from here",
	fault.Unauthorized: "check the credentials of your kubeconfig or repository",
	fault.Rejected:     "the API server says why; change the object or ask for the permission",
	fault.NotFound:     "check the name and where it is looked for",
	fault.Invalid:      "correct it and try again",
	fault.Unsupported:  "remove it, or wait for a version that has it",
	fault.Waiting:      "try again in a moment",
}

// explain renders an error so that it ends with what to do next.
func explain(err error) string {
	var f *fault.Error
	if !errors.As(err, &f) {
		return err.Error() + " (" + next[fault.Internal] + ")"
	}
	if hint := next[f.Kind]; f.Hint == "" && hint != "" {
		return f.WithHint("%s", hint).Error()
	}
	return f.Error()
}

// newLog returns the process's log: lines of text for people on a terminal, and
// for machines as JSON.
func newLog(w io.Writer, level, format string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, fault.New(fault.Invalid, "%q is no log level", level).WithHint("choose debug, info, warn or error")
	}
	o := &slog.HandlerOptions{Level: l}
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(w, o)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, o)), nil
	}
	return nil, fault.New(fault.Invalid, "%q is no log format", format).WithHint("choose text or json")
}
