package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	api "github.com/holdfastcd/holdfast/api/argo/v1alpha1"
	"github.com/holdfastcd/holdfast/deploy"
	"github.com/holdfastcd/holdfast/internal/cluster"
	"github.com/holdfastcd/holdfast/internal/controller"
	"github.com/holdfastcd/holdfast/internal/delivery"
	"github.com/holdfastcd/holdfast/internal/dialect/argo"
	"github.com/holdfastcd/holdfast/internal/dialect/flux"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/overview"
	"github.com/holdfastcd/holdfast/internal/plan"
	"github.com/holdfastcd/holdfast/internal/render"
	"github.com/holdfastcd/holdfast/internal/secret/sealed"
	"github.com/holdfastcd/holdfast/internal/source"
	"github.com/holdfastcd/holdfast/internal/source/git"
)

// Diff says what to compare with which cluster.
type Diff struct {
	Order
	previewOptions

	Files         []string
	All           bool
	Source        string
	ArgoNamespace string

	decryptionSecret  string
	sealingNamespaces []string
}

// bindComparison binds what decides how a delivery is compared.
func (o *Diff) bindComparison(s settings) {
	s.text(&o.DefaultServiceAccount, "default-service-account", "", "as given to the controller: `NAME` of the account of Kustomizations that name none")
	s.toggle(&o.Permissive, "permissive", "as given to the controller: deliveries that name no account use your own identity")
	s.text(&o.ArgoNamespace, "argocd-namespace", argoNamespace, "`NAMESPACE` of AppProjects")
	s.text(&o.decryptionSecret, "decryption-secret", "", "as given to the controller: `NAMESPACE/NAME` of the keys of deliveries that name none")
	s.flags.StringSliceVar(&o.sealingNamespaces, "sealing-key-namespace", []string{sealed.StockNamespace, deploy.DefaultNamespace}, "as given to the controller: `NAMESPACE` with keys of SealedSecrets; repeatable")
	s.bind("sealing-key-namespace")
	s.flags.StringVar(&o.Source, "source", "", "`DIR` that stands for the root of the repository (default: fetch it, without credentials)")
}

const diffExamples = `  # what differs from what is in Git now?
  holdfast diff app/shop
  holdfast diff --all -n team-a

  # what would this checkout change?
  holdfast diff -f clusters/dev/apps.yaml --source .

  # for a script, of a delivery that is not in the cluster yet
  holdfast diff -f app.yaml -o json`

func newDiff(p Process) *cobra.Command {
	var o Diff
	cmd := &cobra.Command{
		Use:   "diff {-f FILE | [KIND/]NAME... | --all} [--source DIR]",
		Short: "Show what a delivery would change in the cluster",
		Long: `Show what Flux Kustomizations and Argo CD Applications would change in the cluster:
the very plan that the controller would execute, made by the same code. Reads and dry
runs are sent as the delivery's own account, which you must be permitted to
impersonate; nothing is changed. Values of Secrets are never shown. What is sealed is
opened with the delivery's keys if you may read them; if not, it is left out, and that
is said.

Files, names or --all say which deliveries are meant.

` + naming + `

What is already delivered is read from the status of the resource in the cluster, if
it is there, so that objects that would be pruned are shown as well. A prune that is
held back until somebody confirms it is shown as such, with the word to say.

Exit codes: 0 nothing would change; 1 there are changes; 2 the comparison failed.`,
		Example: diffExamples,
		Args:    cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := o.check(); err != nil {
				return err
			}
			if given(len(o.Files) > 0, len(args) > 0, o.All) != 1 {
				return wrongUsage(cmd, fault.New(fault.Invalid, "give files, names, or --all"))
			}
			if len(args) == 0 && !o.All {
				return o.files(cmd.Context(), p)
			}
			return o.live(cmd.Context(), args, p)
		},
	}
	o.bind(cmd)
	o.bindComparison(settings{cmd.Flags()})
	cmd.Flags().StringArrayVarP(&o.Files, "filename", "f", nil, "`FILE` with Kustomizations or Applications, - for standard input; repeatable")
	cmd.Flags().BoolVar(&o.All, "all", false, "every Application and Kustomization, in --namespace if that is given")
	return cmd
}

func given(each ...bool) int {
	n := 0
	for _, yes := range each {
		if yes {
			n++
		}
	}
	return n
}

// files compares what files ask for.
func (o *Diff) files(ctx context.Context, p Process) error {
	objects, err := readObjects(p, o.Files)
	if err != nil {
		return err
	}
	asked, err := find(objects)
	if err != nil {
		return err
	}
	cfg, err := o.config()
	if err != nil {
		return err
	}
	return o.conclude(ctx, cfg, asked, p)
}

// live compares what resources in the cluster ask for.
func (o *Diff) live(ctx context.Context, args []string, p Process) error {
	c, err := o.connect()
	if err != nil {
		return err
	}
	cfg, err := o.config()
	if err != nil {
		return err
	}
	all, err := (&Suspend{Order: o.Order, All: o.All}).chosen(ctx, c, args)
	if err != nil {
		return err
	}
	asked, err := live(all...)
	if err != nil {
		return err
	}
	return o.conclude(ctx, cfg, asked, p)
}

// live turns resources of a cluster into what was requested, as if they had been
// read from files.
func live(resources ...*unstructured.Unstructured) (requested, error) {
	var asked requested
	for _, u := range resources {
		o := u.DeepCopy()
		// What others may have written beside the spec is not what is asked for.
		for _, field := range []string{"status", "operation"} {
			unstructured.RemoveNestedField(o.Object, field)
		}
		o.SetManagedFields(nil)
		if err := asked.take(o); err != nil {
			return requested{}, err
		}
	}
	return asked, nil
}

// conclude compares, prints, and turns what was found into the exit code.
func (o *Diff) conclude(ctx context.Context, cfg *rest.Config, asked requested, p Process) error {
	differences, err := o.compare(ctx, cfg, asked)
	if err != nil {
		return err
	}
	o.keys.tell(p.Err, "compared")
	if err := o.print(p, differences); err != nil {
		return err
	}
	if len(differences) > 0 {
		return errChanges
	}
	return nil
}

// compare returns what deliveries would change in the cluster, and sends nothing but
// reads and dry runs.
func (o *Diff) compare(ctx context.Context, cfg *rest.Config, asked requested) ([]difference, error) {
	if err := o.complete(ctx, cfg, &asked); err != nil {
		return nil, err
	}
	renderer, closeRenderer := newRenderer()
	defer closeRenderer()
	unsealer, err := controller.PreviewKeys(ctx, cfg, o.sealingNamespaces)
	if err != nil {
		return nil, err
	}
	engine, err := controller.Previewer(ctx, cfg, renderer, o.ArgoNamespace, unsealer)
	if err != nil {
		return nil, err
	}
	if o.keys, err = newPreviewKeys(cfg, o.decryptionSecret, o.ArgoNamespace); err != nil {
		return nil, err
	}
	o.ask(ctx, engine.Cluster)
	specs, closeSources, err := o.specs(ctx, asked)
	if err != nil {
		return nil, err
	}
	defer closeSources()
	differences := []difference{}
	for _, spec := range specs {
		made, err := engine.Preview(ctx, spec)
		if err != nil {
			return nil, named(err, spec.ID.Kind, spec.ID.Namespace, spec.ID.Name)
		}
		if conflict := made.Conflict(); conflict != nil {
			return nil, conflict
		}
		o.keys.see(made, unsealer)
		differences = append(differences, differencesOf(spec.ID, made)...)
	}
	return differences, nil
}

// ask has deliveries learn from the cluster what the controller would tell them.
func (o *Diff) ask(ctx context.Context, c *cluster.Cluster) {
	o.variables = func(ref flux.VariablesRef) (map[string]string, error) { return flux.ReadVariables(ctx, c, ref) }
	o.capabilities = func() render.Capabilities {
		version, err := c.Version(ctx)
		if err != nil {
			version = "" // that of the library that renders
		}
		return render.Capabilities{KubeVersion: version, APIVersions: c.APIVersions()}
	}
}

// complete adds what the cluster knows of the resources: the status, which holds
// the inventory, and the projects that the files do not have.
func (o *Diff) complete(ctx context.Context, cfg *rest.Config, asked *requested) error {
	scheme, err := overview.Scheme()
	if err != nil {
		return err
	}
	c, err := client.New(cfg, client.Options{Scheme: scheme})
	if err != nil {
		return classify(err, "connect to the cluster")
	}
	for _, ks := range asked.kustomizations {
		live := &kustomizev1.Kustomization{}
		if err := lookUp(ctx, c, ks.Namespace, ks.Name, live); err != nil {
			return err
		}
		ks.Status = live.Status
		if o.Source != "" || asked.repository(ks) != nil {
			continue
		}
		repository := &sourcev1.GitRepository{}
		if err := lookUp(ctx, c, ks.Namespace, ks.Spec.SourceRef.Name, repository); err != nil {
			return err
		}
		if repository.Name != "" {
			asked.repositories = append(asked.repositories, repository)
		}
	}
	for _, app := range asked.applications {
		live := &api.Application{}
		if err := lookUp(ctx, c, app.Namespace, app.Name, live); err != nil {
			return err
		}
		app.Status = live.Status
		project := &api.AppProject{}
		if err := lookUp(ctx, c, o.ArgoNamespace, app.Spec.Project, project); err != nil {
			return err
		}
		// A project in the files comes first, and counts.
		if project.Name != "" && asked.project(project.Name) == nil {
			asked.projects = append(asked.projects, project)
		}
	}
	return nil
}

// lookUp reads an object; into stays empty if there is none.
func lookUp(ctx context.Context, c client.Client, namespace, name string, into client.Object) error {
	err := c.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, into)
	if err == nil || apierrors.IsNotFound(err) || meta.IsNoMatchError(err) {
		return nil
	}
	return kubeFault(err, "read "+namespace+"/"+name)
}

// specs reads or fetches the sources and translates what was requested. The
// function that it returns gives up what the trees are read from.
func (o *Diff) specs(ctx context.Context, asked requested) ([]delivery.Spec, func(), error) {
	if o.Source != "" {
		revision, err := directory(o.Source)
		if err != nil {
			return nil, nil, err
		}
		specs, err := asked.specs(ctx, revision, o.previewOptions)
		return specs, func() {}, err
	}
	f, err := newFetcher(git.Options{Proxy: http.ProxyFromEnvironment})
	if err != nil {
		return nil, nil, err
	}
	specs, err := f.specs(ctx, &asked, o.previewOptions)
	if err != nil {
		f.close()
		return nil, nil, err
	}
	return specs, f.close, nil
}

// fetcher fetches the sources of a preview into a directory of its own.
type fetcher struct {
	dir   string
	store *git.Store
}

func newFetcher(o git.Options) (*fetcher, error) {
	dir, err := os.MkdirTemp("", "holdfast-diff-")
	if err != nil {
		return nil, fault.New(fault.Internal, "cannot make a temporary directory: %s", err)
	}
	store, err := git.New(dir, o)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return &fetcher{dir: dir, store: store}, nil
}

func (f *fetcher) close() {
	// What is left behind is a temporary directory.
	_ = f.store.Close()
	_ = os.RemoveAll(f.dir)
}

func (f *fetcher) specs(ctx context.Context, asked *requested, o previewOptions) ([]delivery.Spec, error) {
	var specs []delivery.Spec
	one := func(part requested, request source.Request) error {
		revision, err := f.store.Fetch(ctx, request)
		if err != nil {
			return withSource(err)
		}
		part.repositories, part.projects = asked.repositories, asked.projects
		more, err := part.specs(ctx, revision, o)
		specs = append(specs, more...)
		return err
	}
	for _, ks := range asked.kustomizations {
		repository := asked.repository(ks)
		if repository == nil {
			return nil, fault.New(fault.NotFound, "there is no GitRepository %s/%s, neither in the files nor in the cluster", ks.Namespace, ks.Spec.SourceRef.Name).
				WithHint("give its file with -f, or a checkout with --source DIR")
		}
		if err := one(requested{kustomizations: []*kustomizev1.Kustomization{ks}}, gitRequest(repository)); err != nil {
			return nil, named(err, kustomizev1.KustomizationKind, ks.Namespace, ks.Name)
		}
	}
	for _, app := range asked.applications {
		project, err := asked.rulesFor(app)
		if err != nil {
			return nil, err
		}
		request, err := argo.Request(app, project, argo.Options{Namespace: app.Namespace, Permissive: o.Permissive})
		if err == nil {
			err = one(requested{applications: []*api.Application{app}}, request)
		}
		if err != nil {
			return nil, named(err, api.ApplicationKind, app.Namespace, app.Name)
		}
	}
	return specs, nil
}

// withSource points to the way that needs no credentials.
func withSource(err error) error {
	if fault.KindOf(err) != fault.Unauthorized {
		return err
	}
	return fault.New(fault.Unauthorized, "%s, and the credentials of the delivery are not read here", unhinted(err)).
		WithHint("give a checkout with --source DIR").Because(err)
}

// gitRequest says what a GitRepository asks of its server, but for the credential.
func gitRequest(r *sourcev1.GitRepository) source.Request {
	return source.Request{URL: r.Spec.URL, Ref: flux.RefOf(r)}
}

// difference is what would happen to one object.
type difference struct {
	Delivery string  `json:"delivery"`
	Op       plan.Op `json:"operation"`
	Object   string  `json:"object"`
	Reason   string  `json:"reason,omitempty"`
	Wave     int     `json:"wave,omitempty"`
	Confirm  string  `json:"confirm,omitempty"` // the word that lets a held prune happen
	// Warnings tell what was changed of the manifest, or is not what it seems.
	Warnings []string      `json:"warnings,omitempty"`
	File     string        `json:"file,omitempty"`
	Line     int           `json:"line,omitempty"`
	Fields   []plan.Change `json:"fields,omitempty"`
}

// differencesOf lists what a plan would change, and what it cannot tell yet.
func differencesOf(id delivery.ID, made plan.Plan) []difference {
	var all []difference
	for _, a := range made.Actions() {
		if a.Op == plan.Keep || a.Op == plan.Release || a.Op == plan.Skip {
			continue
		}
		d := difference{Delivery: id.String(), Op: a.Op, Object: a.ID.String(), Reason: a.Reason, Wave: a.Wave}
		if a.Desired != nil {
			d.File, d.Line, d.Warnings = a.Desired.Origin.File, a.Desired.Origin.Line, a.Desired.Warnings
		}
		d.Fields = made.Fields(a)
		d.Reason, d.Warnings = made.Mask.Text(d.Reason), made.Mask.Texts(d.Warnings)
		if a.Op == plan.Hold {
			d.Confirm = made.HeldDigest
		}
		all = append(all, d)
	}
	return all
}

// signs are how operations are shown; others change an object.
var signs = map[plan.Op]struct{ sign, colour string }{
	plan.Create: {"+", green},
	plan.Prune:  {"-", red},
	plan.Await:  {"?", yellow},
	plan.Leave:  {"=", yellow},
	plan.Refuse: {"!", red},
	plan.Hold:   {"#", yellow},
}

func (o *Diff) print(p Process, all []difference) error {
	if o.Output != "text" {
		return encode(p.Out, o.Output, all)
	}
	colour := colours(p.Out, p)
	last, wave := "", 0
	for _, d := range all {
		if d.Delivery != last {
			last, wave = d.Delivery, 0
			fmt.Fprintln(p.Out, colour.paint(bold, plain(d.Delivery)))
		}
		if d.Wave != wave {
			wave = d.Wave
			fmt.Fprintln(p.Out, colour.paint(faint, fmt.Sprintf("  wave %d", wave)))
		}
		if err := d.print(p.Out, colour); err != nil {
			return err
		}
	}
	o.held(p, all)
	if len(all) == 0 {
		fmt.Fprintln(p.Err, "The cluster is as the source wants it.")
	}
	return nil
}

// held says, once for each delivery, how a prune that is held back can happen.
func (o *Diff) held(p Process, all []difference) {
	told := map[string]bool{}
	for _, d := range all {
		if d.Confirm == "" || told[d.Delivery] {
			continue
		}
		told[d.Delivery] = true
		parts := strings.Split(d.Delivery, "/")
		fmt.Fprintf(p.Err, "Prunes of %s are held back: 'holdfast sync %s/%s -n %s --confirm-prune %s' lets them happen.\n",
			plain(d.Delivery), strings.ToLower(parts[0]), plain(parts[2]), plain(parts[1]), d.Confirm)
	}
}

func (d difference) print(w io.Writer, colour palette) error {
	s, ok := signs[d.Op]
	if !ok {
		s.sign, s.colour = "~", yellow
	}
	from := ""
	if d.File != "" {
		from = "  " + colour.paint(faint, place(d.File, d.Line))
	}
	var b strings.Builder
	// The word is said once for all, see held.
	reason := strings.TrimSuffix(d.Reason, "; to confirm, set the annotation "+plan.ConfirmAnnotation+": "+d.Confirm)
	fmt.Fprintf(&b, "%s %s  %s%s\n", colour.paint(s.colour, s.sign), plain(d.Object), plain(reason), from)
	for _, f := range d.Fields {
		switch {
		case f.From == "":
			fmt.Fprintf(&b, "    %s: %s\n", plain(f.Path), colour.paint(green, "+"+plain(f.To)))
		case f.To == "":
			fmt.Fprintf(&b, "    %s: %s\n", plain(f.Path), colour.paint(red, "-"+plain(f.From)))
		default:
			fmt.Fprintf(&b, "    %s: %s → %s\n", plain(f.Path), colour.paint(red, plain(f.From)), colour.paint(green, plain(f.To)))
		}
	}
	for _, text := range d.Warnings {
		fmt.Fprintf(&b, "    %s\n", colour.paint(yellow, "warning: "+plain(text)))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func place(file string, line int) string {
	if line == 0 {
		return plain(file)
	}
	return fmt.Sprintf("%s:%d", plain(file), line)
}
