package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/policy"
)

func newTrust(p Process) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "trust",
		Short: "Try what TrustPolicies would refuse",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	check := newTrustCheck(p)
	strict(check)
	cmd.AddCommand(check)
	return cmd
}

// TrustCheck says what to judge, and by which policies.
type TrustCheck struct {
	Diff

	Policies []string // files
}

const trustCheckExamples = `  # what would this policy refuse, if it were there?
  holdfast trust check -f policy.yaml

  # what do the policies of the cluster say about one delivery?
  holdfast trust check app/shop

  # for a script, about a checkout
  holdfast trust check -f policy.yaml app/shop --source . -o json`

func newTrustCheck(p Process) *cobra.Command {
	var o TrustCheck
	cmd := &cobra.Command{
		Use:   "check [-f POLICY]... [[KIND/]NAME...]",
		Short: "Say what TrustPolicies would refuse, without enforcing anything",
		Long: `Say of each delivery in the cluster what TrustPolicies would say about what its
source has now: the commits that it consists of, the images that it runs, and secrets
that stand in plaintext. The same code judges as in the controller; nothing is changed.

Policies in files are judged alone, as if no other were there: with the ConfigMaps and
Secrets that stand beside them in the files, and else those of the cluster. Without
files, the policies of the cluster are judged by.

` + naming + ` Without a name, all are judged.

What was delivered before is not asked: a policy with verify: range judges all commits
behind its "from". Repositories are fetched without credentials; one that needs some
is judged from a checkout, with --source. A checkout is judged as it is committed.

Exit codes: 0 nothing would be refused; 1 something would; 2 something could not be
judged.`,
		Example: trustCheckExamples,
		Args:    cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := o.check(); err != nil {
				return err
			}
			found, err := o.judge(cmd.Context(), args, p)
			if err != nil {
				return err
			}
			return o.conclude(p, found)
		},
	}
	o.bind(cmd)
	o.bindComparison(settings{cmd.Flags()})
	cmd.Flags().StringArrayVarP(&o.Policies, "filename", "f", nil, "`FILE` with TrustPolicies, - for standard input; repeatable (default: those of the cluster)")
	return cmd
}

// The outcomes of a check, beside those of package policy.
const (
	unjudged = "error"
	skipped  = "skip"
)

// finding is what one policy says about one thing of a delivery.
type finding struct {
	Delivery string `json:"delivery"`
	Revision string `json:"revision,omitempty"`
	Policy   string `json:"policy,omitempty"` // "" where none is for the delivery
	Rule     string `json:"rule,omitempty"`
	Image    string `json:"image,omitempty"`
	Object   string `json:"object,omitempty"`
	// Outcome is pass, fail, audit (it would be told), skip (no policy is for it) or
	// error (it cannot be judged).
	Outcome string `json:"outcome"`
	Message string `json:"message,omitempty"`
}

// conclude prints, and turns what was found into the exit code.
func (o *TrustCheck) conclude(p Process, all []finding) error {
	counts := map[string]int{}
	for _, f := range all {
		counts[f.Outcome]++
	}
	if o.Output == "text" {
		printFindings(p, all)
	} else if err := encode(p.Out, o.Output, all); err != nil {
		return err
	}
	switch {
	case counts[unjudged] > 0:
		return fault.New(fault.Invalid, "%d could not be judged", counts[unjudged]).WithHint("see above")
	case counts[policy.Fail] > 0:
		return errChanges
	}
	return nil
}

// outcomes are how they are shown.
var outcomes = map[string]struct{ word, colour string }{
	policy.Pass:  {"ok", green},
	policy.Fail:  {"would be refused", red},
	policy.Audit: {"would be told", yellow},
	skipped:      {"", faint},
	unjudged:     {"cannot be judged", red},
}

func printFindings(p Process, all []finding) {
	colour := colours(p.Out, p)
	last := ""
	for _, f := range all {
		if f.Delivery != last {
			last = f.Delivery
			at := ""
			if f.Revision != "" {
				at = " at " + f.Revision[:min(12, len(f.Revision))]
			}
			fmt.Fprintln(p.Out, colour.paint(bold, plain(f.Delivery))+plain(at))
		}
		var parts []string
		if f.Policy != "" {
			parts = append(parts, strings.TrimSpace(f.Policy+" "+f.Rule))
		}
		shown := outcomes[f.Outcome]
		if shown.word != "" {
			parts = append(parts, colour.paint(shown.colour, shown.word))
		}
		for _, about := range []string{f.Image, f.Object, f.Message} {
			if about != "" {
				parts = append(parts, plain(about))
			}
		}
		fmt.Fprintln(p.Out, "  "+strings.Join(parts, ": "))
	}
	if len(all) == 0 {
		fmt.Fprintln(p.Err, "There is no delivery to judge.")
	}
}

// judge judges the deliveries that arguments name.
func (o *TrustCheck) judge(ctx context.Context, args []string, p Process) ([]finding, error) {
	c, err := o.connect()
	if err != nil {
		return nil, err
	}
	cfg, err := o.config()
	if err != nil {
		return nil, err
	}
	policies, err := o.policies(ctx, cfg, p)
	if err != nil {
		return nil, err
	}
	deliveries, err := (&Suspend{Order: o.Order, All: len(args) == 0}).chosen(ctx, c, args)
	if err != nil {
		return nil, err
	}
	j, err := o.newJudge(ctx, cfg, policies)
	if err != nil {
		return nil, err
	}
	defer j.close()
	all := []finding{}
	for _, u := range deliveries {
		all = append(all, j.delivery(ctx, u)...)
	}
	return all, nil
}
