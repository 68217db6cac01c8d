package cli

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	api "github.com/holdfastcd/holdfast/api/argo/v1alpha1"
	"github.com/holdfastcd/holdfast/internal/operate"
	"github.com/holdfastcd/holdfast/internal/overview"
)

// Rollback says where to go back to.
type Rollback struct {
	Order
	Waiting
	operate.Rollback

	List bool
}

const rollbackExamples = `  # what can be gone back to?
  holdfast rollback app/shop --list

  # to what was delivered before, or to one of those
  holdfast rollback app/shop
  holdfast rollback app/shop 7`

func newRollback(p Process) *cobra.Command {
	o := Rollback{Rollback: operate.Rollback{ID: -1}}
	cmd := &cobra.Command{
		Use:   "rollback [app/]NAME [ID]",
		Short: "Deliver again what an Application delivered before",
		Long: `Deliver again what an Application delivered before: the entry of its history with an
ID, or the one before the last. --list shows the history.

It is refused while the Application syncs itself, as with Argo CD: the next look at
Git would undo it. There, and for a Kustomization, going back is a commit: revert it
in Git.

Exit codes: 0 it is delivered, or asked for with --wait=false; 2 it failed, was
refused, or was not done within --timeout.`,
		Example: rollbackExamples,
		Args:    cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 2 {
				if _, err := fmt.Sscanf(args[1]+"\n", "%d\n", &o.ID); err != nil || o.ID < 0 {
					return wrongUsage(cmd, fmt.Errorf("%q is no id of a history", args[1]))
				}
			}
			c, err := o.connect()
			if err != nil {
				return err
			}
			return o.run(cmd.Context(), c, args[:1], p)
		},
	}
	o.Order.bind(cmd)
	o.Waiting.bind(cmd, true)
	cmd.Flags().BoolVar(&o.List, "list", false, "show the history, and do nothing")
	cmd.Flags().BoolVar(&o.Prune, "prune", false, "delete what was not there then")
	cmd.Flags().BoolVar(&o.DryRun, "dry-run", false, "only have the API server judge what would be sent")
	return cmd
}

func (o *Rollback) run(ctx context.Context, c *operate.Cluster, args []string, p Process) error {
	u, err := o.one(ctx, c, args)
	if err != nil {
		return err
	}
	if o.List {
		return o.list(u, p)
	}
	o.User = c.User(ctx)
	var id int64
	var revision string
	err = c.Change(ctx, u, func(u *unstructured.Unstructured) error {
		entry, err := o.Ask(u)
		id, revision = entry.ID, entry.Revision
		return err
	})
	if err != nil {
		return err
	}
	if o.Wait {
		if err := o.until(ctx, c, p, u, operate.Answered("")); err != nil {
			return err
		}
	}
	return o.show(p, fmt.Sprintf("%s rolled back to entry %d: %s", operate.Name(u), id, overview.ShortRevision(revision)), u)
}

// list prints the history, the newest first.
func (o *Rollback) list(u *unstructured.Unstructured, p Process) error {
	history, err := operate.History(u)
	if err != nil {
		return err
	}
	if o.Output != "text" {
		return encode(p.Out, o.Output, append([]api.RevisionHistory{}, history...))
	}
	if len(history) == 0 {
		fmt.Fprintln(p.Err, "It has delivered nothing yet.")
		return nil
	}
	rows := [][]string{{"ID", "DEPLOYED", "REVISION", "BY"}}
	for _, entry := range slices.Backward(history) {
		by := entry.InitiatedBy.Username
		if entry.InitiatedBy.Automated {
			by = "itself"
		}
		rows = append(rows, []string{fmt.Sprint(entry.ID), entry.DeployedAt.UTC().Format(time.RFC3339), entry.Revision, by})
	}
	return table(p.Out, rows)
}
