package cli

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/holdfastcd/holdfast/internal/demo"
	"github.com/holdfastcd/holdfast/internal/fault"
)

const demoExamples = `  # in a checkout of the repository
  make demo

  # show everything once and end
  holdfast demo --once`

func newDemo(p Process) *cobra.Command {
	var repo string
	var once bool
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Deliver an example to a throw-away cluster, on this machine",
		Long: `Deliver an example to a throw-away cluster, on this machine: start a real Kubernetes
control plane, a Git server and the controller; deliver examples/fleet by Argo CD
Applications and Flux Kustomizations; revert an edit, deliver a commit, and tell what
else to try. Nothing else on this machine is touched, and Ctrl-C leaves nothing behind.

It needs Go and Git, and a checkout of the repository, whose devcluster builds the
control plane on first use.

Exit codes: 0 it was shown, or ended by Ctrl-C; 2 something did not work.`,
		Example: demoExamples,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if repo == "" {
				repo = "."
			}
			root, err := demo.FindRepo(repo)
			if err != nil {
				return err
			}
			self, err := os.Executable()
			if err != nil {
				return fault.New(fault.Internal, "cannot find this program: %s", err)
			}
			return demo.Run(cmd.Context(), demo.Options{Repo: root, Holdfast: self, Once: once, Out: p.Out, Live: isTerminal(p.Out)})
		},
	}
	s := settings{cmd.Flags()}
	s.text(&repo, "repo", "", "`DIR` in a checkout of Holdfast's repository (default: the current one)")
	s.flags.BoolVar(&once, "once", false, "end when everything was shown")
	return cmd
}
