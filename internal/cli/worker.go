package cli

import (
	"maps"
	"sync"

	"github.com/spf13/cobra"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/policy"
	"github.com/holdfastcd/holdfast/internal/policy/builtin"
	"github.com/holdfastcd/holdfast/internal/policy/cel"
	judging "github.com/holdfastcd/holdfast/internal/policy/judge"
	"github.com/holdfastcd/holdfast/internal/policy/rego"
	"github.com/holdfastcd/holdfast/internal/render"
	"github.com/holdfastcd/holdfast/internal/secret/leak"
	"github.com/holdfastcd/holdfast/internal/worker"
)

// Handlers returns what runs inside a worker of this program, for [worker.RunIfWorker].
// It is called in every process, and makes nothing that only a worker needs.
func Handlers() map[string]worker.Handler {
	all := render.Handlers()
	maps.Copy(all, leak.Handlers())
	bench := sync.OnceValue(newBench)
	all[judging.Kind] = func(payload []byte, files worker.Files) ([]byte, error) { return bench().Handler(payload, files) }
	return all
}

// newBench returns every engine for policies but Kyverno's, which is another program.
func newBench() *judging.Bench {
	return judging.NewBench([]policy.Engine{&rego.Engine{}, &cel.Engine{}}, builtin.Compile, judging.IsKyverno)
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
