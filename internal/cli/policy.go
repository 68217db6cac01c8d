package cli

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	api "github.com/holdfastcd/holdfast/api/holdfast/v1alpha1"
	"github.com/holdfastcd/holdfast/internal/controller"
	"github.com/holdfastcd/holdfast/internal/dialect/own"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/operate"
	"github.com/holdfastcd/holdfast/internal/overview"
	"github.com/holdfastcd/holdfast/internal/policy"
	"github.com/holdfastcd/holdfast/internal/policy/judge"
	"github.com/holdfastcd/holdfast/internal/schema/defaults"
	"github.com/holdfastcd/holdfast/internal/source"
	"github.com/holdfastcd/holdfast/internal/worker"
)

func newPolicy(p Process) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "policy",
		Short: "Try what PolicySets would refuse",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	check := newPolicyCheck(p)
	strict(check)
	cmd.AddCommand(check)
	return cmd
}

// PolicyCheck says what to judge, and by which sets.
type PolicyCheck struct {
	Diff

	Sets     []string // files
	Selector string   // of deliveries
}

const policyCheckExamples = `  # what would this set refuse, if it were there?
  holdfast policy check -f set.yaml

  # what do the sets of the cluster say about one delivery?
  holdfast policy check app/shop

  # for a script, about the deliveries of a team
  holdfast policy check -f set.yaml --selector team=shop -o json

  # of a change that is not pushed yet
  holdfast policy check ks/shop -n shop --source .`

func newPolicyCheck(p Process) *cobra.Command {
	var o PolicyCheck
	cmd := &cobra.Command{
		Use:   "check [-f SET]... [[KIND/]NAME...]",
		Short: "Say what PolicySets would refuse, without enforcing anything",
		Long: `Say of each delivery in the cluster what PolicySets would say about what its source
has now. The same code renders and judges as in the controller; nothing is changed.
What a set would refuse stays live when the set is there, and its next change is
refused: here it is told before.

Sets in files are judged alone, as if no other were there; without files, those of the
cluster are judged by. Their sources are fetched without credentials; what spec.cluster
names is read from the cluster.

` + naming + ` Without a name, all are judged.

Nobody is proven to have signed anything here: to a policy that asks for the signer,
there is none.

Exit codes: 0 nothing would be refused; 1 something would; 2 something could not be
judged.`,
		Example: policyCheckExamples,
		Args:    cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := o.check(); err != nil {
				return err
			}
			found, err := o.judge(cmd.Context(), args, p)
			if err != nil {
				return err
			}
			return (&TrustCheck{Diff: o.Diff}).conclude(p, found)
		},
	}
	o.bind(cmd)
	o.bindComparison(settings{cmd.Flags()})
	cmd.Flags().StringArrayVarP(&o.Sets, "filename", "f", nil, "`FILE` with PolicySets, - for standard input; repeatable (default: those of the cluster)")
	cmd.Flags().StringVarP(&o.Selector, "selector", "l", "", "judge deliveries with these `LABELS` alone")
	return cmd
}

// judge judges the deliveries that arguments name.
func (o *PolicyCheck) judge(ctx context.Context, args []string, p Process) ([]finding, error) {
	wanted, err := labels.Parse(o.Selector)
	if err != nil {
		return nil, fault.New(fault.Invalid, "--selector %q cannot be read: %s", o.Selector, err)
	}
	sets, err := o.compiled(p)
	if err != nil {
		return nil, err
	}
	c, err := o.connect()
	if err != nil {
		return nil, err
	}
	cfg, err := o.config()
	if err != nil {
		return nil, err
	}
	deliveries, err := (&Suspend{Order: o.Order, All: len(args) == 0}).chosen(ctx, c, args)
	if err != nil {
		return nil, err
	}
	j, err := o.newJudge(ctx, cfg, p)
	if err != nil {
		return nil, err
	}
	defer j.close()
	if err := j.read(ctx, sets, p); err != nil {
		return nil, err
	}
	all := []finding{}
	for _, u := range deliveries {
		if wanted.Matches(labels.Set(u.GetLabels())) {
			all = append(all, j.delivery(ctx, u)...)
		}
	}
	o.keys.tell(p.Err, "judged")
	return all, nil
}

// compiled are the sets of the files; nil without files.
func (o *PolicyCheck) compiled(p Process) ([]own.CompiledSet, error) {
	if len(o.Sets) == 0 {
		return nil, nil
	}
	objects, err := readObjects(p, o.Sets)
	if err != nil {
		return nil, err
	}
	var sets []own.CompiledSet
	for _, u := range objects {
		if u.GetKind() == api.PolicySetKind && u.GroupVersionKind().Group == api.GroupVersion.Group {
			sets = append(sets, own.CompilePolicySet(u, time.Now()))
		}
	}
	if len(sets) == 0 {
		return nil, fault.New(fault.NotFound, "%s: there is no PolicySet in it", strings.Join(o.Sets, ", ")).
			WithHint("name the file of one, of apiVersion %s", api.GroupVersion)
	}
	return sets, nil
}

// policyJudge judges deliveries by sets as the controller would.
type policyJudge struct {
	*trustJudge

	client client.Client
	sets   []readSet
}

// readSet is a set with what its sources hold.
type readSet struct {
	own.CompiledSet

	now policy.Set
}

func (o *PolicyCheck) newJudge(ctx context.Context, cfg *rest.Config, p Process) (_ *policyJudge, err error) {
	if o.keys, err = newPreviewKeys(cfg, o.decryptionSecret, o.ArgoNamespace); err != nil {
		return nil, err
	}
	unsealer, err := controller.PreviewKeys(ctx, cfg, o.sealingNamespaces)
	if err != nil {
		return nil, err
	}
	scheme, err := overview.Scheme()
	if err == nil {
		err = corev1.AddToScheme(scheme)
	}
	if err != nil {
		return nil, fault.New(fault.Internal, "cannot make a client: %s", err)
	}
	j := &policyJudge{}
	if j.client, err = client.New(cfg, client.Options{Scheme: scheme}); err != nil {
		return nil, classify(err, "connect to the cluster")
	}
	spaces, err := namespaceLabels(ctx, j.client)
	if err != nil {
		return nil, err
	}
	if j.trustJudge, err = (&TrustCheck{Diff: o.Diff}).newJudge(ctx, cfg, nil); err != nil {
		return nil, err
	}
	pool := worker.NewPool(worker.Options{Size: 1, Deadline: time.Minute, MemoryLimit: 512 << 20, KeepMemory: 384 << 20})
	judges, end, _ := newPolicies(p, pool)
	j.closers = append(j.closers, pool.Close, end)
	j.engine.Policies, j.engine.Complete, j.engine.Unsealer = judges, defaults.Complete, unsealer
	j.engine.NamespaceLabels = func(name string) map[string]string { return spaces[name] }
	return j, nil
}

// newPolicies returns what judges by policies in a pool, what ends that of Kyverno's
// engine, and where its program is; "" where it is not.
func newPolicies(p Process, pool *worker.Pool) (judges *judge.Judge, end func(), kyverno string) {
	kyverno, hint := judge.FindKyverno(func(name string) string { v, _ := p.Lookup(name); return v })
	if kyverno == "" {
		return judge.New(pool, nil, hint), func() {}, ""
	}
	theirs := worker.NewPool(judge.KyvernoOptions(kyverno))
	return judge.New(pool, theirs, hint), theirs.Close, kyverno
}

// namespaceLabels are the labels of all namespaces of the cluster.
func namespaceLabels(ctx context.Context, c client.Client) (map[string]map[string]string, error) {
	list := &metav1.PartialObjectMetadataList{}
	list.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("NamespaceList"))
	if err := c.List(ctx, list); err != nil {
		return nil, kubeFault(err, "list namespaces")
	}
	spaces := map[string]map[string]string{}
	for i := range list.Items {
		spaces[list.Items[i].Name] = list.Items[i].Labels
	}
	return spaces, nil
}

// read reads what sets hold; nil are those of the cluster. Errors are those of reading:
// to judge without a part would mislead.
func (j *policyJudge) read(ctx context.Context, sets []own.CompiledSet, p Process) error {
	if sets == nil {
		list := &unstructured.UnstructuredList{}
		list.SetGroupVersionKind(api.GroupVersion.WithKind(api.PolicySetKind + "List"))
		if err := j.client.List(ctx, list); err != nil {
			return kubeFault(err, "list PolicySets")
		}
		for i := range list.Items {
			sets = append(sets, own.CompilePolicySet(&list.Items[i], time.Now()))
		}
	}
	if len(sets) == 0 {
		return fault.New(fault.NotFound, "there is no PolicySet").WithHint("write one, and try it with -f FILE; see docs/policy.md")
	}
	for _, set := range sets {
		now, err := j.content(ctx, set, p)
		if err != nil {
			return named(err, api.PolicySetKind, "", set.Set.Name)
		}
		if len(now.Documents)+len(now.Builtins) == 0 && now.Broken == "" {
			fmt.Fprintf(p.Err, "holdfast: note: policy set %s: the cluster holds no policy that it takes in\n", plain(now.Name))
			continue
		}
		j.sets = append(j.sets, readSet{set, now})
	}
	return nil
}

// content is a set with what its sources and the cluster hold.
func (j *policyJudge) content(ctx context.Context, set own.CompiledSet, p Process) (policy.Set, error) {
	var documents []policy.Document
	var revisions []string
	for i, s := range set.Sources {
		request, err := j.request(ctx, s)
		if err != nil {
			return policy.Set{}, err
		}
		revision, err := j.fetcher.store.Fetch(ctx, request)
		if err != nil {
			return policy.Set{}, err
		}
		read, err := own.ReadPolicies(revision.Tree, s.Path)
		if err != nil {
			return policy.Set{}, err
		}
		for _, d := range read {
			if i > 0 {
				d.File = fmt.Sprintf("sources[%d]/%s", i, d.File)
			}
			documents = append(documents, d)
		}
		revisions = append(revisions, revision.Commit)
	}
	plainClient, err := dynamic.NewForConfig(j.config)
	if err != nil {
		return policy.Set{}, classify(err, "connect to the cluster")
	}
	found, absent, err := own.ReadCluster(ctx, plainClient, j.engine.Cluster.LookupGroupKind, set.Cluster)
	for _, name := range absent {
		fmt.Fprintf(p.Err, "holdfast: note: policy set %s: the cluster serves no policies of %s\n", plain(set.Set.Name), name)
	}
	return set.With(slices.Concat(documents, found), strings.Join(revisions, ",")), err
}

// request is what to fetch for a source of policies.
func (j *policyJudge) request(ctx context.Context, s own.SetSource) (source.Request, error) {
	switch {
	case s.Place != "":
		return source.Request{}, fault.New(fault.Unsupported, "%s: artifacts and buckets are not read here", s).
			WithHint("try its policies as files: holdfast check --policy DIR")
	case s.Repository.Name == "":
		return source.Request{URL: s.URL, Ref: s.Ref}, nil
	}
	repository := &sourcev1.GitRepository{}
	if err := j.client.Get(ctx, s.Repository, repository); err != nil {
		return source.Request{}, kubeFault(err, "read GitRepository "+s.Repository.String())
	}
	return gitRequest(repository), nil
}

// delivery says what the sets say about a delivery. What cannot be told is a finding:
// the others are judged all the same.
func (j *policyJudge) delivery(ctx context.Context, u *unstructured.Unstructured) []finding {
	all, err := j.findings(ctx, u)
	if err != nil {
		all = append(all, finding{Delivery: operate.Name(u), Outcome: unjudged, Message: fault.From(err).On("").Error()})
	}
	return all
}

func (j *policyJudge) findings(ctx context.Context, u *unstructured.Unstructured) ([]finding, error) {
	asked, err := live(u)
	if err == nil {
		known := j.Diff
		known.Source = "" // a checkout stands for a repository, whose address counts all the same
		err = known.complete(ctx, j.config, &asked)
	}
	if err != nil {
		return nil, err
	}
	subject := subjectOf(asked)
	var selected []policy.Set
	for _, set := range j.sets {
		if set.Selects(subject) {
			selected = append(selected, set.now)
		}
	}
	if len(selected) == 0 {
		return []finding{{Delivery: operate.Name(u), Outcome: skipped, Message: "no policy set is for it"}}, nil
	}
	spec, err := j.spec(ctx, asked, subject.Repository)
	if err != nil {
		return nil, err
	}
	spec.Policies = policy.NewSets(selected...)
	ruling, err := j.engine.Judge(ctx, spec)
	var all []finding
	for _, v := range ruling.Verdicts {
		all = append(all, finding{
			Delivery: operate.Name(u), Revision: spec.Revision.Commit, Policy: v.Policy, Rule: v.Rule, Object: v.Object,
			Outcome: v.Outcome, Message: cmp.Or(v.Message, "every policy holds"),
		})
	}
	return all, err
}
