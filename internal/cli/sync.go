package cli

import (
	"context"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/holdfastcd/holdfast/internal/operate"
	"github.com/holdfastcd/holdfast/internal/overview"
)

// Sync says what to sync, and how.
type Sync struct {
	Order
	Waiting
	operate.Sync

	WithSource bool
}

const syncExamples = `  # fetch and deliver now, and wait until that is done
  holdfast sync app/shop
  holdfast sync ks/apps -n flux-system

  # an Application to another revision, deleting what left the source
  holdfast sync app/shop --revision v1.4.2 --prune

  # one object of it only
  holdfast sync app/shop --resource apps:Deployment:web

  # let a prune happen that is held back; 'holdfast diff' tells its digest
  holdfast sync ks/apps -n flux-system --confirm-prune 4f2a9c`

func newSync(p Process) *cobra.Command {
	var o Sync
	cmd := &cobra.Command{
		Use:   "sync [KIND/]NAME",
		Short: "Deliver now, and wait until it is done",
		Long: `Ask for a delivery to be fetched and made now, and wait until that is done.

` + naming + `

An Application gets an operation, as Argo CD's own client writes it; --revision,
--prune, --dry-run, --force and --resource are for it alone. A Kustomization gets the
annotation reconcile.fluxcd.io/requestedAt, and so does its source before it, unless
--with-source=false; a GitRepository can be named as well.

What happens is told on standard error if that is a terminal. In a pipe, the command
prints one line when it is done.

Exit codes: 0 it is delivered, or asked for with --wait=false; 2 it failed, or was not
done within --timeout.`,
		Example: syncExamples,
		Args:    cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := o.connect()
			if err != nil {
				return err
			}
			return o.run(cmd.Context(), c, args, p)
		},
	}
	o.Order.bind(cmd)
	o.Waiting.bind(cmd, true)
	flags := cmd.Flags()
	flags.StringVar(&o.Revision, "revision", "", "deliver this `REVISION` instead of the one that the source names")
	flags.BoolVar(&o.Prune, "prune", false, "delete what left the source")
	flags.BoolVar(&o.DryRun, "dry-run", false, "only have the API server judge what would be sent")
	flags.BoolVar(&o.Force, "force", false, "delete and create objects that cannot be changed in place")
	flags.StringArrayVar(&o.Resources, "resource", nil, "only this object, as `GROUP:KIND:NAME` or GROUP:KIND:NAMESPACE/NAME; repeatable")
	flags.StringVar(&o.Confirm, "confirm-prune", "", "let the prune happen that is held back under this `DIGEST`")
	flags.BoolVar(&o.WithSource, "with-source", true, "have the source of a Kustomization fetched first")
	return cmd
}

func (o *Sync) run(ctx context.Context, c *operate.Cluster, args []string, p Process) error {
	u, err := o.one(ctx, c, args)
	if err != nil {
		return err
	}
	if u.GetKind() == operate.Application.Kind {
		o.User = c.User(ctx)
	}
	if err := o.fetch(ctx, c, u, p); err != nil {
		return err
	}
	before := u.DeepCopy()
	if err := o.ask(ctx, c, u, o.Sync, p); err != nil {
		return err
	}
	if o.Wait && len(o.Resources) > 0 {
		if err := o.Missing(before, u); err != nil {
			return err
		}
	}
	return o.show(p, o.sentence(u), u)
}

// fetch has the source of a Kustomization looked at first.
func (o *Sync) fetch(ctx context.Context, c *operate.Cluster, u *unstructured.Unstructured, p Process) error {
	choice, ok := operate.Source(u)
	if !ok || !o.WithSource {
		return nil
	}
	source, err := c.One(ctx, choice)
	if err != nil {
		return err
	}
	return o.ask(ctx, c, source, operate.Sync{}, p)
}

// ask writes one request, and waits for its answer.
func (o *Sync) ask(ctx context.Context, c *operate.Cluster, u *unstructured.Unstructured, s operate.Sync, p Process) error {
	token := operate.Token(time.Now())
	err := c.Change(ctx, u, func(u *unstructured.Unstructured) error { return s.Ask(u, token) })
	if err != nil || !o.Wait {
		return err
	}
	done := operate.Answered(token)
	if only, err := s.OnlyConfirms(u); err == nil && only {
		done = operate.Confirmed
	}
	return o.until(ctx, c, p, u, done)
}

func (o *Sync) sentence(u *unstructured.Unstructured) string {
	if !o.Wait {
		return operate.Name(u) + " was asked to sync"
	}
	if o.DryRun {
		return operate.Name(u) + " would be synced: the API server accepts what would be sent; it is " + told(u)
	}
	return operate.Name(u) + " " + told(u)
}

// told says how a resource stands, in a few words.
func told(u *unstructured.Unstructured) string {
	row, err := overview.Read(u)
	if err != nil {
		return "is done"
	}
	text := row.State
	if row.Revision != "" {
		text += " at " + overview.ShortRevision(row.Revision)
	}
	if row.Message != "" && row.State != overview.Synced {
		text += ": " + row.Message
	}
	return text
}
