package cli

import (
	"context"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/operate"
)

// Suspend says what to pause, or to go on with.
type Suspend struct {
	Order

	All bool
}

const suspendExamples = `  # leave it as it is, whatever Git says, and go on later
  holdfast suspend ks/apps -n flux-system
  holdfast resume ks/apps -n flux-system

  # several, and everything in a namespace
  holdfast suspend app/shop app/guestbook
  holdfast suspend --all -n team-a`

const resumeExamples = `  # go on, with one and with everything in a namespace
  holdfast resume ks/apps -n flux-system
  holdfast resume --all -n team-a`

func newSuspend(p Process) *cobra.Command {
	return pausing(p, operate.Suspend, "suspended", &cobra.Command{
		Use:   "suspend [KIND/]NAME...",
		Short: "Leave deliveries as they are until they are resumed",
		Long: `Leave deliveries as they are, whatever Git says and whatever others change in the
cluster, until they are resumed. What is delivered stays.

` + naming + `

Flux's kinds get spec.suspend; an Application gets the annotation
argocd.argoproj.io/skip-reconcile, by which Argo CD leaves it alone too. What was
taken over is suspended for Holdfast, and stays suspended for the other.

Exit codes: 0 they are suspended, or were before; 2 anything failed.`,
		Example: suspendExamples,
	})
}

func newResume(p Process) *cobra.Command {
	return pausing(p, operate.Resume, "resumed", &cobra.Command{
		Use:   "resume [KIND/]NAME...",
		Short: "Go on with deliveries that were suspended",
		Long: `Go on with deliveries that were suspended: they are looked at now, and made to be
what Git says.

` + naming + `

Exit codes: 0 they are resumed, or were never suspended; 2 anything failed.`,
		Example: resumeExamples,
	})
}

// pausing completes a command that changes a mark of deliveries.
func pausing(p Process, change func(*unstructured.Unstructured) error, done string, cmd *cobra.Command) *cobra.Command {
	var o Suspend
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if o.All == (len(args) > 0) || o.All && o.Namespace == "" {
			return wrongUsage(cmd, fault.New(fault.Invalid, "name the deliveries, or give --all with -n NAMESPACE"))
		}
		c, err := o.connect()
		if err != nil {
			return err
		}
		return o.run(cmd.Context(), c, args, p, change, done)
	}
	cmd.Args = cobra.ArbitraryArgs
	o.bind(cmd)
	cmd.Flags().BoolVar(&o.All, "all", false, "every Application and Kustomization in the namespace")
	return cmd
}

func (o *Suspend) run(ctx context.Context, c *operate.Cluster, args []string, p Process, change func(*unstructured.Unstructured) error, done string) error {
	all, err := o.chosen(ctx, c, args)
	if err != nil {
		return err
	}
	for _, u := range all {
		if err := c.Change(ctx, u, change); err != nil {
			return err
		}
		if o.Output != "text" {
			continue
		}
		if err := o.show(p, operate.Name(u)+" "+done); err != nil {
			return err
		}
	}
	if o.Output == "text" {
		return nil
	}
	return o.show(p, "", all...)
}

// chosen finds everything that is named before anything is changed.
func (o *Suspend) chosen(ctx context.Context, c *operate.Cluster, args []string) ([]*unstructured.Unstructured, error) {
	if o.All {
		return c.All(ctx, operate.Choice{Namespace: o.Namespace})
	}
	choices, err := o.choices(args)
	if err != nil {
		return nil, err
	}
	var all []*unstructured.Unstructured
	for _, choice := range choices {
		u, err := c.One(ctx, choice)
		if err != nil {
			return nil, err
		}
		all = append(all, u)
	}
	return all, nil
}
