package cli

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfastcd/holdfast/internal/check"
	"github.com/holdfastcd/holdfast/internal/dialect"
	"github.com/holdfastcd/holdfast/internal/dialect/own"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/policy"
	"github.com/holdfastcd/holdfast/internal/policy/builtin"
	"github.com/holdfastcd/holdfast/internal/render"
	"github.com/holdfastcd/holdfast/internal/schema/defaults"
	"github.com/holdfastcd/holdfast/internal/schema/openapi"
	"github.com/holdfastcd/holdfast/internal/secret/leak"
	"github.com/holdfastcd/holdfast/internal/tree"
	"github.com/holdfastcd/holdfast/internal/worker"
)

// Check says what to judge.
type Check struct {
	check.Options
	Connection

	ByCluster bool
	Output    string
	Policies  []string // directories or files
	Builtins  []string
	NoCache   bool
}

const checkExamples = `  # would this repository be delivered, and is there a secret in plaintext in it?
  holdfast check

  # by policies of a directory, and some of Holdfast's own
  holdfast check --policy policies/ --builtin pod-security-baseline --builtin no-latest-tag

  # what would the next commit bring?
  holdfast check --staged

  # what does a branch alter? As a comment on its pull request:
  holdfast check --diff-base origin/main -o markdown

  # was there ever a secret?
  holdfast check --history

  # for a code host, and for CI
  holdfast check -o sarif > holdfast.sarif
  holdfast check -o junit > holdfast.xml`

func newCheck(p Process) *cobra.Command {
	var o Check
	cmd := &cobra.Command{
		Use:   "check [PATH]",
		Short: "Judge what a repository would deliver, before it is pushed",
		Long: `Render everything that a repository would deliver, and judge it as the cluster would:
by the schemas of the API, by policies, by the rules of AppProjects, and search the
files for secrets that nobody sealed. The functions are the controller's own; no
cluster is asked, and nothing is sent anywhere.

Deliveries are the Flux Kustomizations and Argo CD Applications in the repository, and
those that these deliver in turn, as far as their source is this repository. Where
there are none, the charts, kustomizations and manifests below PATH are judged.

Policies come from the PolicySets in the repository, from --policy and --builtin. What
needs keys, a registry or a cluster is not judged, and that is said.

A secret in plaintext that is none is excused by an entry in ` + leak.AllowFile + `
with a reason and a date, at most a year ahead:

  allow:
  - path: apps/shop/tests/**
    rule: generic-api-key
    reason: made up for a test
    expires: 2027-03-31

Comments that say gitleaks:allow do not count, because who writes the secret writes
them; --honor-inline-allow has them count here, but never in the cluster.

The report of a tree that did not change is kept for the day, in the user's cache
directory; it holds no secret.

Exit codes: 0 nothing was found, or warnings alone; 1 something was; 2 it could not be told.`,
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
	o.bind(cmd)
	return cmd
}

func (o *Check) bind(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.BoolVar(&o.Staged, "staged", false, "judge only what is staged in Git, as a pre-commit hook does")
	flags.BoolVar(&o.History, "history", false, "search every commit that HEAD, a branch or a tag reaches for secrets, each content once")
	flags.StringVar(&o.Base, "diff-base", "", "judge and show only what differs from where `REV` and HEAD parted")
	flags.BoolVar(&o.SecretsOnly, "secrets-only", false, "search for secrets, and render nothing")
	flags.BoolVar(&o.HonorInline, "honor-inline-allow", false, "leave out lines with the comment gitleaks:allow")
	flags.StringArrayVar(&o.Policies, "policy", nil, "judge by the policies of a `DIR` or file: *.rego, *.yaml, *.yml, *.json; repeatable")
	flags.StringSliceVar(&o.Builtins, "builtin", nil, "judge by a policy of Holdfast's own, by its `NAME`; repeatable")
	flags.StringVar(&o.Kubernetes, "kubernetes-version", "", "minor `VERSION` of the API that objects must fit, such as 1.36 (default: the newest that is known)")
	flags.BoolVar(&o.ByCluster, "cluster", false, "judge by the API of a cluster: its version and CustomResourceDefinitions; and by the labels of its namespaces")
	o.Connection.bind(settings{flags})
	flags.StringSliceVar(&o.Repository, "repository", nil, "`URL` by which deliveries name this repository, beside those of its remotes; repeatable")
	flags.BoolVar(&o.NoCache, "no-cache", false, "judge again what did not change")
	flags.StringVarP(&o.Output, "output", "o", check.Text, "`FORMAT`: "+either(check.Formats()))
	cmd.MarkFlagsMutuallyExclusive("staged", "history", "diff-base")
	cmd.MarkFlagsMutuallyExclusive("cluster", "secrets-only")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(check.Formats(), cobra.ShellCompDirectiveNoFileComp))
	_ = cmd.RegisterFlagCompletionFunc("builtin", cobra.FixedCompletions(builtins(), cobra.ShellCompDirectiveNoFileComp))
}

// either lists words as a sentence has them.
func either(words []string) string {
	return strings.Join(words[:len(words)-1], ", ") + " or " + words[len(words)-1]
}

// builtins are the names of Holdfast's own policies.
func builtins() []string {
	var names []string
	for _, about := range builtin.Names() {
		names = append(names, about.Name)
	}
	return names
}

func (o *Check) run(ctx context.Context, p Process) error {
	if !slices.Contains(check.Formats(), o.Output) {
		return fault.New(fault.Invalid, "%q is no output format", o.Output).WithHint("choose %s", either(check.Formats()))
	}
	o.Now = time.Now()
	if err := o.askCluster(ctx); err != nil {
		return err
	}
	minors := openapi.Minors()
	o.Kubernetes = cmp.Or(strings.TrimPrefix(o.Kubernetes, "v"), minors[len(minors)-1])
	if !slices.Contains(minors, o.Kubernetes) {
		return fault.New(fault.Invalid, "the API of Kubernetes %s is not known", o.Kubernetes).WithHint("choose %s", either(minors))
	}
	if index, ok := p.Lookup("GIT_INDEX_FILE"); ok && o.Staged { // Git says so to its hooks
		o.Index = index
	}
	if err := o.sets(p); err != nil {
		return err
	}
	engine, end := o.engine(p)
	defer end()
	report, err := engine.Run(ctx, o.Options)
	if err != nil {
		return err
	}
	if err := o.print(p, report); err != nil {
		return err
	}
	switch {
	case len(report.Undecided) > 0:
		return fault.New(fault.Internal, "it could not be told of %s: %s", amount(len(report.Undecided), "delivery"), plain(report.Undecided[0])).
			WithHint("see why, and try again")
	case report.Failed():
		return errChanges
	}
	return nil
}

// engine returns what the check works with, and the function that ends it.
func (o *Check) engine(p Process) (*check.Engine, func()) {
	pool := worker.NewPool(worker.Options{Size: 2, Deadline: time.Minute, MemoryLimit: 512 << 20, KeepMemory: 384 << 20})
	judges, endKyverno, command := newPolicies(p, pool)
	end := func() {
		pool.Close()
		endKyverno()
	}
	e := &check.Engine{
		Secrets: leak.New(pool), Renderer: render.New(pool), Dialects: newFleet(o.Now), Judge: judges, Left: dialect.Left, Complete: defaults.Complete, Schemas: schemas,
	}
	if !o.NoCache {
		e.Cache = cache(p, command)
	}
	return e, end
}

// cache is where reports are kept; nil where there is no place for them.
func cache(p Process, kyverno string) *check.Cache {
	dir, ok := p.Lookup("XDG_CACHE_HOME")
	if !ok || !filepath.IsAbs(dir) {
		var err error
		if dir, err = os.UserCacheDir(); err != nil {
			return nil
		}
	}
	var version strings.Builder
	self, err := os.Executable()
	if err != nil {
		return nil
	}
	for _, program := range []string{self, kyverno} {
		if info, err := os.Stat(program); err == nil {
			fmt.Fprintf(&version, "%s %d %d\n", program, info.Size(), info.ModTime().UnixNano())
		}
	}
	return &check.Cache{Dir: filepath.Join(dir, "holdfast", "check"), Version: version.String() + readBuild().Version}
}

// sets makes sets of the policies that flags name.
func (o *Check) sets(p Process) error {
	for _, name := range o.Policies {
		documents, err := readPolicies(p, name)
		if err != nil {
			return err
		}
		o.Sets = append(o.Sets, check.SelectedSet{Set: policy.Set{Name: name, Documents: documents}})
	}
	set := policy.Set{Name: "builtin"}
	for _, name := range o.Builtins {
		if !slices.Contains(builtins(), name) {
			return fault.New(fault.Invalid, "there is no built-in policy %q", name).WithHint("choose %s", either(builtins()))
		}
		set.Builtins = append(set.Builtins, policy.Builtin{Name: name})
	}
	if len(set.Builtins) > 0 {
		o.Sets = append(o.Sets, check.SelectedSet{Set: set})
	}
	return nil
}

// readPolicies reads the files of a directory, as a PolicySet's source is read, or one file.
func readPolicies(p Process, name string) ([]policy.Document, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, fault.New(fault.NotFound, "there are no policies at %s", name).WithHint("--policy names a directory or a file").Because(err)
	}
	if !info.IsDir() {
		content, err := readFile(p, name)
		return []policy.Document{{File: filepath.ToSlash(name), Content: content}}, err
	}
	root, err := os.OpenRoot(name)
	if err != nil {
		return nil, fault.New(fault.Invalid, "the policies at %s cannot be read", name).Because(err)
	}
	defer func() { _ = root.Close() }() // only read from
	t, err := tree.FromFS(root.FS(), tree.Limits{})
	if err != nil {
		return nil, err
	}
	documents, err := own.ReadPolicies(t, "")
	for i := range documents {
		documents[i].File = filepath.ToSlash(filepath.Join(name, documents[i].File))
	}
	return documents, err
}

func (o *Check) print(p Process, report check.Report) error {
	colour := colours(p.Out, p)
	paint := func(s check.Style, text string) string {
		return colour.paint(map[check.Style]string{check.Bold: bold, check.Faint: faint, check.Bad: red, check.Careful: yellow, check.Good: green}[s], text)
	}
	if err := report.Write(p.Out, o.Output, readBuild().Version, paint); err != nil {
		return err
	}
	if o.Output != check.Text {
		return nil
	}
	for _, n := range report.Notices {
		fmt.Fprintln(p.Err, "holdfast: note: "+plain(n))
	}
	fmt.Fprintln(p.Err, o.sum(report))
	if slices.ContainsFunc(report.Findings, func(f check.Finding) bool { return f.Kind == check.KindSecret }) {
		fmt.Fprintf(p.Err, "Seal what is secret, and replace it: it is known. What is none, allow in %s.\n", leak.AllowFile)
	}
	return nil
}

// sum says in a line what was looked at, and what was found.
func (o *Check) sum(report check.Report) string {
	searched := amount(report.Files, "file")
	if report.Commits > 0 {
		searched = fmt.Sprintf("%s of %s", amount(report.Files, "content"), amount(report.Commits, "commit"))
	}
	if n := len(report.Deliveries); n > 0 {
		searched += fmt.Sprintf(" and %s of %s", amount(report.Objects, "object"), amount(n, "delivery"))
	}
	found := amount(len(report.Findings), "finding")
	if n := report.Count(check.Warning); n > 0 {
		found += fmt.Sprintf(" (%s)", amount(n, "warning"))
	}
	text := fmt.Sprintf("%s in %s; %d allowed.", found, searched, report.Allowed+report.Excused)
	if report.Base != "" {
		text += fmt.Sprintf(" %s would be delivered otherwise than at %.12s.", amount(len(report.Changes), "object"), report.Base)
	}
	return text
}

func amount(n int, of string) string {
	if n == 1 {
		return "1 " + of
	}
	if stem, ok := strings.CutSuffix(of, "y"); ok {
		return fmt.Sprintf("%d %sies", n, stem)
	}
	return fmt.Sprintf("%d %ss", n, of)
}
