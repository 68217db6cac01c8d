package cli

import (
	"maps"

	"github.com/spf13/cobra"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/render"
	"github.com/holdfastcd/holdfast/internal/secret/leak"
	"github.com/holdfastcd/holdfast/internal/worker"
)

// Handlers returns what runs inside a worker of this program, for [worker.RunIfWorker].
func Handlers() map[string]worker.Handler {
	all := render.Handlers()
	maps.Copy(all, leak.Handlers())
	return all
}

// newWorker returns the command that only exists to be explained: a process that
// is started as a worker becomes one before any command is looked for.
func newWorker() *cobra.Command {
	return &cobra.Command{
		Use:    worker.Arg,
		Short:  "Render in a cage; started by holdfast itself",
		Hidden: true,
		Args:   cobra.ArbitraryArgs,
		RunE: func(*cobra.Command, []string) error {
			return fault.New(fault.Invalid, "a worker is started by holdfast itself, without arguments").
				WithHint("see 'holdfast build --help' to render something")
		},
	}
}
