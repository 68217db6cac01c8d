package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfastcd/holdfast/internal/check"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/secret/leak"
	"github.com/holdfastcd/holdfast/internal/worker"
)

// Check says what to judge.
type Check struct {
	check.Options

	Output string
}

const checkExamples = `  # is there a secret in plaintext in this repository?
  holdfast check

  # what would the next commit bring?
  holdfast check --staged

  # was there ever one?
  holdfast check --history

  # for a code host
  holdfast check -o sarif > holdfast.sarif`

func newCheck(p Process) *cobra.Command {
	var o Check
	cmd := &cobra.Command{
		Use:   "check [PATH]",
		Short: "Find secrets in plaintext, before they are pushed",
		Long: `Search the files of a directory for secrets that nobody sealed: values of Secrets and
what Kustomize makes Secrets of, private keys, and what the rules of gitleaks find. In
a repository of Git, files that it ignores are left out. What SOPS or a SealedSecret
seals is no finding. Values are never printed; each finding has a fingerprint.

A finding that is no secret is excused by an entry in ` + leak.AllowFile + `
with a reason and a date, at most a year ahead:

  allow:
  - path: apps/shop/tests/**
    rule: generic-api-key
    reason: made up for a test
    expires: 2027-03-31

Comments that say gitleaks:allow do not count, because who writes the secret writes
them; --honor-inline-allow has them count here, but never in the cluster.

Exit codes: 0 nothing was found; 1 something was; 2 it could not be told.`,
		Example: checkExamples,
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Dir = "."
			if len(args) > 0 {
				o.Dir = args[0]
			}
			return o.run(cmd.Context(), p)
		},
	}
	cmd.Flags().BoolVar(&o.Staged, "staged", false, "judge only what is staged in Git, as a pre-commit hook does")
	cmd.Flags().BoolVar(&o.History, "history", false, "judge every commit that HEAD, a branch or a tag reaches, each content once")
	cmd.Flags().BoolVar(&o.HonorInline, "honor-inline-allow", false, "leave out lines with the comment gitleaks:allow")
	cmd.Flags().StringVarP(&o.Output, "output", "o", check.Text, "`FORMAT`: text, json or sarif")
	cmd.MarkFlagsMutuallyExclusive("staged", "history")
	return cmd
}

func (o *Check) run(ctx context.Context, p Process) error {
	switch o.Output {
	case check.Text, check.JSON, check.SARIF:
	default:
		return fault.New(fault.Invalid, "%q is no output format", o.Output).WithHint("choose text, json or sarif")
	}
	o.Now = time.Now()
	if index, ok := p.Lookup("GIT_INDEX_FILE"); ok && o.Staged { // Git says so to its hooks
		o.Index = index
	}
	pool := worker.NewPool(worker.Options{Size: 2, Deadline: time.Minute})
	defer pool.Close()
	report, err := check.Run(ctx, leak.New(pool), o.Options)
	if err != nil {
		return err
	}
	if err := o.print(p, report); err != nil {
		return err
	}
	if len(report.Findings) > 0 {
		return errChanges
	}
	return nil
}

func (o *Check) print(p Process, report check.Report) error {
	switch o.Output {
	case check.JSON:
		return report.WriteJSON(p.Out)
	case check.SARIF:
		return report.WriteSARIF(p.Out, readBuild().Version)
	}
	for _, f := range report.Findings {
		if _, err := fmt.Fprintln(p.Out, plain(f.String())); err != nil {
			return err
		}
	}
	for _, n := range report.Notices {
		fmt.Fprintln(p.Err, "holdfast: note: "+plain(n))
	}
	searched := amount(report.Files, "file")
	if report.Commits > 0 {
		searched = fmt.Sprintf("%s of %s", amount(report.Files, "content"), amount(report.Commits, "commit"))
	}
	fmt.Fprintf(p.Err, "%s in %s; %d allowed.\n", amount(len(report.Findings), "finding"), searched, report.Allowed)
	if len(report.Findings) > 0 {
		fmt.Fprintf(p.Err, "Seal what is secret, and replace it: it is known. What is none, allow in %s.\n", leak.AllowFile)
	}
	return nil
}

func amount(n int, of string) string {
	if n == 1 {
		return "1 " + of
	}
	return fmt.Sprintf("%d %ss", n, of)
}
