package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/rest"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/operate"
)

// Takeover says what to take over from Argo CD or Flux.
type Takeover struct {
	Order
	Waiting

	Yes       bool
	NoPreview bool
	// preview compares what Holdfast would deliver with the cluster.
	preview Diff
}

const takeoverExamples = `  # what would change, and then take it over
  holdfast takeover app/shop

  # the same in a script, with a checkout instead of fetching
  holdfast takeover ks/apps -n flux-system --source . --yes`

const handbackExamples = `  # give it back
  holdfast handback app/shop

  # Holdfast does not run any more
  holdfast handback ks/apps -n flux-system --force`

func newTakeover(p Process) *cobra.Command {
	var o Takeover
	cmd := &cobra.Command{
		Use:   "takeover [KIND/]NAME",
		Short: "Take one delivery over from Argo CD or Flux, which runs beside",
		Long: `Take one delivery over from Argo CD or Flux, which runs in the same cluster beside
'holdfast controller --observe':

  1. show what would change, as 'holdfast diff' does, and ask;
  2. tell the other controller to leave the resource alone, by its own means
     (argocd.argoproj.io/skip-reconcile, spec.suspend), and wait until it has;
  3. mark the resource with holdfast.dev/takeover, and wait until Holdfast delivers it.

Both never write at once, and what is delivered is not touched in between. If nobody
answers, the marks are taken away again. The comparison reads as the account of the
delivery, and fetches without credentials; --source gives it a checkout instead.

` + naming + `

Exit codes: 0 Holdfast delivers it; 2 it does not, and the message says who does.`,
		Example: takeoverExamples,
		Args:    cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := o.connect()
			if err != nil {
				return err
			}
			cfg, err := o.config()
			if err != nil {
				return err
			}
			return o.run(cmd.Context(), cfg, c, args, p)
		},
	}
	o.Order.bind(cmd)
	o.Waiting.bind(cmd, false)
	o.preview.bindComparison(settings{cmd.Flags()})
	cmd.Flags().BoolVarP(&o.Yes, "yes", "y", false, "do not ask")
	cmd.Flags().BoolVar(&o.NoPreview, "no-preview", false, "do not show what would change")
	return cmd
}

func (o *Takeover) run(ctx context.Context, cfg *rest.Config, c *operate.Cluster, args []string, p Process) error {
	u, err := o.one(ctx, c, args)
	if err != nil {
		return err
	}
	if err := operate.CanTake(u); err != nil {
		return err
	}
	if err := mayServe(ctx, cfg); err != nil {
		return err
	}
	if err := o.consent(ctx, cfg, u, p); err != nil {
		return err
	}
	return o.take(ctx, c, u, p)
}

// consent shows what would change and asks for a word.
func (o *Takeover) consent(ctx context.Context, cfg *rest.Config, u *unstructured.Unstructured, p Process) error {
	if !o.NoPreview {
		asked, err := live(u)
		if err != nil {
			return err
		}
		differences, err := o.preview.compare(ctx, cfg, asked)
		if err != nil {
			return hinted(err, "what would change cannot be told: correct that first, give a checkout with --source DIR, or go without with --no-preview")
		}
		o.preview.keys.tell(p.Err, "compared")
		if err := o.tell(p, differences); err != nil {
			return err
		}
	}
	if o.Yes {
		return nil
	}
	return confirm(p, fmt.Sprintf("Take over %s?", operate.Name(u)))
}

// tell prints the comparison: to standard error, because the answer is what follows.
func (o *Takeover) tell(p Process, differences []difference) error {
	p.Out, o.preview.Output = p.Err, "text"
	if len(differences) == 0 {
		fmt.Fprintln(p.Err, "Nothing would change.")
		return nil
	}
	return o.preview.print(p, differences)
}

// hinted adds a hint to an error that has none.
func hinted(err error, hint string) error {
	f := fault.New(fault.KindOf(err), "%s", err).Because(err)
	return f.WithHint("%s", hint)
}

// unhinted is what an error says, without what to do about it.
func unhinted(err error) string {
	if f, ok := errors.AsType[*fault.Error](err); ok {
		return f.WithHint("%s", "").Error()
	}
	return err.Error()
}

// take is the take-over itself.
func (o *Takeover) take(ctx context.Context, c *operate.Cluster, u *unstructured.Unstructured, p Process) error {
	if err := c.Change(ctx, u, operate.Leave); err != nil {
		return err
	}
	if err := o.release(ctx, c, u); err != nil {
		return o.undo(ctx, c, u, err)
	}
	token := operate.Token(time.Now())
	err := c.Change(ctx, u, func(u *unstructured.Unstructured) error { return operate.Take(u, token) })
	if err != nil {
		return o.undo(ctx, c, u, err)
	}
	switch err = o.until(ctx, c, p, u, operate.Taken(token)); fault.KindOf(err) {
	case fault.Internal:
		if err != nil {
			return err
		}
	case fault.Rejected:
		return hinted(err, fmt.Sprintf("it is Holdfast's, which tries again; 'holdfast handback %s/%s -n %s' gives it back",
			strings.ToLower(u.GetKind()), u.GetName(), u.GetNamespace()))
	default:
		return o.undo(ctx, c, u, err)
	}
	return o.show(p, operate.Name(u)+" is delivered by Holdfast: "+told(u), u)
}

// release waits until the other controller has nothing under way for a resource.
func (o *Takeover) release(ctx context.Context, c *operate.Cluster, u *unstructured.Unstructured) error {
	ctx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	err := c.Quiet(ctx, u, operate.Idle, operate.Settle)
	if fault.KindOf(err) != fault.Waiting {
		return err
	}
	return fault.New(fault.Waiting, "the other controller is still at work on it after %s", o.Timeout).On(operate.Name(u)).
		WithHint("try again when it is done").Because(err)
}

// undo gives a resource back that could not be taken over, and says so with why.
func (o *Takeover) undo(ctx context.Context, c *operate.Cluster, u *unstructured.Unstructured, why error) error {
	// Also when the person has given up waiting.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	if err := c.Change(ctx, u, operate.Undo); err != nil {
		return fault.New(fault.KindOf(why), "%s; and its marks could not be removed: %s", unhinted(why), err).
			WithHint("nobody delivers it now: 'holdfast handback --force' gives it back").Because(why)
	}
	return fault.New(fault.KindOf(why), "%s; it is the other controller's again", unhinted(why)).
		WithHint("is 'holdfast controller --observe' running, with the rights of 'holdfast install --takeover'?").Because(why)
}

// Handback says what to give back.
type Handback struct {
	Order
	Waiting

	Force bool
}

func newHandback(p Process) *cobra.Command {
	var o Handback
	cmd := &cobra.Command{
		Use:   "handback [KIND/]NAME",
		Short: "Give a delivery back that was taken over",
		Long: `Give a delivery back that was taken over: Holdfast ends what it has under way for it,
and removes its mark and the one by which the other controller left it alone. What is
delivered is not touched.

Where the other controller is gone and Holdfast runs without --observe, this only
tidies up: Holdfast goes on with a resource that has no marks.

` + naming + `

Exit codes: 0 it is given back; 2 it is not.`,
		Example: handbackExamples,
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
	o.Waiting.bind(cmd, false)
	cmd.Flags().BoolVar(&o.Force, "force", false, "remove the marks without asking Holdfast, if it does not run any more")
	return cmd
}

func (o *Handback) run(ctx context.Context, c *operate.Cluster, args []string, p Process) error {
	u, err := o.one(ctx, c, args)
	if err != nil {
		return err
	}
	ask := operate.Return
	if o.Force {
		ask = operate.Undo
	}
	if err := c.Change(ctx, u, ask); err != nil {
		return err
	}
	if !o.Force {
		if err := o.until(ctx, c, p, u, operate.Returned); err != nil {
			return hinted(err, "if Holdfast does not run any more, use --force")
		}
	}
	return o.show(p, operate.Name(u)+" is given back", u)
}

// confirm asks a person. It fails with Refused for any answer but yes, and with
// Invalid where there is nobody to ask.
func confirm(p Process, question string) error {
	in, ok := p.In.(*os.File)
	if !ok || !term.IsTerminal(int(in.Fd())) {
		return fault.New(fault.Invalid, "there is nobody to ask").WithHint("say yes with --yes")
	}
	fmt.Fprint(p.Err, plain(question)+" [y/N] ")
	answer, err := bufio.NewReader(in).ReadString('\n')
	if a := strings.ToLower(strings.TrimSpace(answer)); err == nil && (a == "y" || a == "yes") {
		return nil
	}
	return fault.New(fault.Refused, "not confirmed; nothing was changed").WithHint("run it again")
}
