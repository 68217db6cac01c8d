package cli

import (
	"context"
	"fmt"
	"io"
	"maps"
	"strings"

	"github.com/spf13/cobra"
	k8sschema "k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	"github.com/holdfastcd/holdfast/deploy"
	"github.com/holdfastcd/holdfast/internal/delivery"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/plan"
	"github.com/holdfastcd/holdfast/internal/render"
	"github.com/holdfastcd/holdfast/internal/schema"
	"github.com/holdfastcd/holdfast/internal/tree"
	"github.com/holdfastcd/holdfast/internal/worker"
)

const buildExamples = `  # what does this Kustomization deliver?
  holdfast build -f clusters/dev/apps.yaml --source .

  # the same of an Application, under the rules of its project
  holdfast build -f root.yaml -f project.yaml --source .

  # a chart, as a newer cluster would have it
  holdfast build -f app.yaml --source . --kube-version 1.36.0 --api-versions monitoring.coreos.com/v1

  # what does a change deliver differently?
  diff <(holdfast build -f app.yaml --source ../main) <(holdfast build -f app.yaml --source .)`

func newBuild(p Process) *cobra.Command {
	var files []string
	var dir string
	var capabilities render.Capabilities
	cmd := &cobra.Command{
		Use:   "build -f FILE --source DIR",
		Short: "Print what a delivery would apply, with no cluster",
		Long: `Print the objects that Flux Kustomizations and Argo CD Applications would apply,
complete and in order, as YAML. The same code renders them as in the controller; no
cluster is asked. Every delivery in the files is built from the same directory,
whatever repository it names. Variables that a Kustomization takes from ConfigMaps and
Secrets are read from those in the files. What is sealed is printed as it is.

The scope of kinds is known for those of Kubernetes, of Flux and Argo CD, and those
that the delivery itself defines. Others are taken as namespaced, with a warning.

Exit codes: 0 everything is printed; 2 something cannot be built.`,
		Example: buildExamples,
		RunE: func(cmd *cobra.Command, _ []string) error {
			objects, err := readObjects(p, files)
			if err != nil {
				return err
			}
			asked, err := find(objects)
			if err != nil {
				return err
			}
			return buildDeliveries(cmd.Context(), asked, dir, capabilities, p)
		},
	}
	cmd.Flags().StringArrayVarP(&files, "filename", "f", nil, "`FILE` with Kustomizations or Applications, - for standard input; repeatable")
	cmd.Flags().StringVar(&dir, "source", ".", "`DIR` that stands for the root of the repository")
	cmd.Flags().StringVar(&capabilities.KubeVersion, "kube-version", "", "`VERSION` of Kubernetes that charts are told (default: that of the library)")
	cmd.Flags().StringSliceVar(&capabilities.APIVersions, "api-versions", nil, "`APIS` that charts are told the cluster has, as group/version or group/version/Kind; repeatable")
	return cmd
}

func buildDeliveries(ctx context.Context, asked requested, dir string, capabilities render.Capabilities, p Process) error {
	revision, err := directory(dir)
	if err != nil {
		return err
	}
	keys := &previewKeys{}
	specs, err := asked.specs(ctx, revision, previewOptions{
		Permissive: true, variables: asked.variable, capabilities: func() render.Capabilities { return capabilities }, keys: keys,
	})
	if err != nil {
		return err
	}
	renderer, closeRenderer := newRenderer()
	defer closeRenderer()
	known, err := newOffline(renderer, p.Err)
	if err != nil {
		return err
	}
	for _, spec := range specs {
		composed, err := delivery.Compose(ctx, known, spec, known)
		if err != nil {
			return named(err, spec.ID.Kind, spec.ID.Namespace, spec.ID.Name)
		}
		if err := printPlan(p.Out, composed); err != nil {
			return err
		}
		warn(p.Err, composed)
	}
	keys.tell(p.Err, "opened")
	return nil
}

// printPlan prints the objects of a plan, each with the place it comes from.
func printPlan(w io.Writer, composed plan.Plan) error {
	for _, a := range composed.Actions() {
		if a.Desired == nil {
			continue
		}
		document, err := yaml.JSONToYAML(a.Desired.Body.Reveal())
		if err != nil {
			return fault.New(fault.Internal, "cannot write YAML: %s", err).On(a.ID.String())
		}
		from := ""
		if o := a.Desired.Origin; o.File != "" {
			from = "# from " + plain(o.File) + "\n"
		}
		if _, err := fmt.Fprintf(w, "---\n%s%s", from, document); err != nil {
			return err
		}
	}
	return nil
}

// warn tells what was changed of the manifests, or is not what it seems.
func warn(w io.Writer, composed plan.Plan) {
	for _, a := range composed.Actions() {
		if a.Desired == nil {
			continue
		}
		for _, text := range a.Desired.Warnings {
			fmt.Fprintf(w, "holdfast: warning: %s: %s: %s\n", plain(place(a.Desired.Origin.File, a.Desired.Origin.Line)), plain(a.ID.String()), plain(text))
		}
	}
}

// offline are the kinds known without a cluster: it renders, and learns from what
// was rendered. A kind that stays unknown is taken as namespaced, unless its name
// says otherwise, and a warning is printed once.
type offline struct {
	render.Renderer

	known  schema.Table
	warned map[k8sschema.GroupVersionKind]bool
	to     io.Writer
}

func newOffline(r render.Renderer, warnings io.Writer) (*offline, error) {
	o := &offline{Renderer: r, known: maps.Clone(schema.Builtin()), warned: map[k8sschema.GroupVersionKind]bool{}, to: warnings}
	served, err := deploy.CRDs()
	if err != nil {
		return nil, err
	}
	for _, crd := range served {
		maps.Copy(o.known, schema.FromCRD(crd))
	}
	return o, nil
}

// Render implements render.Renderer.
func (o *offline) Render(ctx context.Context, req render.Request, t tree.Tree) (render.Result, error) {
	rendered, err := o.Renderer.Render(ctx, req, t)
	for i := range rendered.Objects {
		maps.Copy(o.known, schema.FromCRD(&rendered.Objects[i].Unstructured))
	}
	return rendered, err
}

// Lookup implements schema.Kinds.
func (o *offline) Lookup(gvk k8sschema.GroupVersionKind) (schema.Kind, bool) {
	if k, ok := o.known.Lookup(gvk); ok {
		return k, true
	}
	// Kinds that say Cluster in front live outside of namespaces, nearly always.
	namespaced := !strings.HasPrefix(gvk.Kind, "Cluster")
	if !o.warned[gvk] {
		o.warned[gvk] = true
		scope := "namespaced"
		if !namespaced {
			scope = "cluster-scoped"
		}
		fmt.Fprintf(o.to, "holdfast: warning: the scope of %s in %s is not known without a cluster, and taken as %s\n",
			plain(gvk.Kind), plain(gvk.GroupVersion().String()), scope)
	}
	return schema.Kind{GVK: gvk, Resource: strings.ToLower(gvk.Kind) + "s", Namespaced: namespaced}, true
}

// newRenderer returns the renderer that the controller has, with workers of its
// own, and the function that ends them.
func newRenderer() (render.Renderer, func()) {
	pool := worker.NewPool(worker.Options{Size: 1})
	return render.New(pool), pool.Close
}
