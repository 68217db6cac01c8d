package cli

import (
	"context"
	"encoding/base64"
	"errors"
	"maps"
	"os"
	"strings"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	api "github.com/holdfastcd/holdfast/api/argo/v1alpha1"
	"github.com/holdfastcd/holdfast/internal/delivery"
	"github.com/holdfastcd/holdfast/internal/dialect/argo"
	"github.com/holdfastcd/holdfast/internal/dialect/flux"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/render"
	"github.com/holdfastcd/holdfast/internal/source"
	"github.com/holdfastcd/holdfast/internal/tree"
)

// Where custom resources live that name no namespace: where their peers put them.
const (
	fluxNamespace = "flux-system"
	argoNamespace = "argocd"
)

// requested are the custom resources found in files: what asks for deliveries,
// and what these refer to. Everything else in the files is left alone.
type requested struct {
	kustomizations []*kustomizev1.Kustomization
	applications   []*api.Application
	repositories   []*sourcev1.GitRepository
	projects       []*api.AppProject
	configs        []*unstructured.Unstructured // ConfigMaps and Secrets that variables may come from
}

// find picks the custom resources out of objects. Errors are Invalid: a field
// that its kind does not have, or nothing that asks for a delivery.
func find(objects []*unstructured.Unstructured) (requested, error) {
	var r requested
	for _, o := range objects {
		if err := r.take(o); err != nil {
			return requested{}, err
		}
	}
	if len(r.kustomizations)+len(r.applications) > 0 {
		return r, nil
	}
	err := fault.New(fault.Invalid, "there is no Flux Kustomization and no Argo CD Application in the files")
	for _, o := range objects {
		if strings.HasPrefix(o.GetAPIVersion(), "kustomize.config.k8s.io/") {
			return requested{}, err.WithHint("a kustomization.yaml is not a delivery: give the resource that refers to its directory")
		}
	}
	return requested{}, err.WithHint("give the resource that asks for the delivery, not what is delivered")
}

func (r *requested) take(o *unstructured.Unstructured) error {
	switch o.GroupVersionKind().GroupKind().String() {
	case "Kustomization.kustomize.toolkit.fluxcd.io":
		return into(o, fluxNamespace, &r.kustomizations)
	case "GitRepository.source.toolkit.fluxcd.io":
		if err := into(o, fluxNamespace, &r.repositories); err != nil {
			return err
		}
		return named(flux.Check(o), o.GetKind(), o.GetNamespace(), o.GetName())
	case "Application.argoproj.io":
		return into(o, argoNamespace, &r.applications)
	case "AppProject.argoproj.io":
		return into(o, argoNamespace, &r.projects)
	case "ConfigMap", "Secret":
		r.configs = append(r.configs, o)
	}
	return nil
}

// into converts o strictly and appends it.
func into[T any](o *unstructured.Unstructured, namespace string, list *[]*T) error {
	if o.GetNamespace() == "" {
		o = o.DeepCopy()
		o.SetNamespace(namespace)
	}
	typed := new(T)
	if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(o.Object, typed, true); err != nil {
		return fault.New(fault.Invalid, "%s", err).On(o.GetKind() + "/" + o.GetName())
	}
	*list = append(*list, typed)
	return nil
}

// directory reads a directory as a revision.
func directory(dir string) (source.Revision, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return source.Revision{}, fault.New(fault.NotFound, "cannot open the source: %s", err).WithHint("--source names a directory").Because(err)
	}
	defer func() { _ = root.Close() }() // the tree is in memory by then
	t, err := tree.FromFS(root.FS(), tree.Limits{})
	if err != nil {
		return source.Revision{}, err
	}
	return source.Revision{Commit: "local", Tree: t}, nil
}

// specs translates what was requested, for a preview: as the controller would,
// but for the account, which is demanded only where the cluster is asked.
func (r *requested) specs(ctx context.Context, revision source.Revision, o previewOptions) ([]delivery.Spec, error) {
	var specs []delivery.Spec
	for _, ks := range r.kustomizations {
		filtered := revision
		filtered.Tree = flux.Filter(revision.Tree, r.ignored(ks))
		spec, err := flux.Spec(ks, filtered, flux.Options{
			DefaultServiceAccount: o.DefaultServiceAccount, Permissive: o.Permissive, Variables: o.variables, Opener: o.keys.named(ctx, ks),
		})
		if err != nil {
			return nil, named(err, kustomizev1.KustomizationKind, ks.Namespace, ks.Name)
		}
		specs = append(specs, o.keys.without(spec))
	}
	for _, app := range r.applications {
		spec, err := r.application(app, revision, o)
		if err != nil {
			return nil, named(err, api.ApplicationKind, app.Namespace, app.Name)
		}
		spec.Opener = o.keys.ofProject(ctx, app)
		specs = append(specs, o.keys.without(spec))
	}
	return specs, nil
}

// previewOptions are the controller's own that change what a delivery is.
type previewOptions struct {
	DefaultServiceAccount string
	Permissive            bool

	// variables reads what Kustomizations take variables from; capabilities are what
	// charts are told of the cluster; nil: neither is known.
	variables    func(flux.VariablesRef) (map[string]string, error)
	capabilities func() render.Capabilities
	// keys open sealed files; nil: they are left sealed.
	keys *previewKeys
}

// variable reads variables from the ConfigMaps and Secrets in the files.
func (r *requested) variable(ref flux.VariablesRef) (map[string]string, error) {
	for _, o := range r.configs {
		if o.GetKind() != ref.Kind || o.GetName() != ref.Name || o.GetNamespace() != "" && o.GetNamespace() != ref.Namespace {
			continue
		}
		at := ref.Kind + "/" + ref.Namespace + "/" + ref.Name
		var config struct {
			Data       map[string]string `json:"data"`
			StringData map[string]string `json:"stringData"`
		}
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, &config); err != nil {
			return nil, fault.New(fault.Invalid, "it cannot be read").On(at) // the error would repeat a value
		}
		values := map[string]string{}
		for key, value := range config.Data {
			if ref.Kind == "Secret" {
				plain, err := base64.StdEncoding.DecodeString(value)
				if err != nil {
					return nil, fault.New(fault.Invalid, "the key %s is not base64", key).On(at)
				}
				value = string(plain)
			}
			values[key] = value
		}
		maps.Copy(values, config.StringData)
		return values, nil
	}
	return nil, fault.New(fault.NotFound, "%s %s/%s, which spec.postBuild.substituteFrom names, is not in the files", ref.Kind, ref.Namespace, ref.Name).
		WithHint("give it with -f as well, or use 'holdfast diff', which reads it from the cluster")
}

func (r *requested) application(app *api.Application, revision source.Revision, o previewOptions) (delivery.Spec, error) {
	project, err := r.rulesFor(app)
	if err != nil {
		return delivery.Spec{}, err
	}
	return argo.Spec(app, project, revision, argo.Options{
		Namespace: app.Namespace, Permissive: o.Permissive, AllowFileURLs: true, Capabilities: o.capabilities,
	})
}

// rulesFor returns the rules of an Application's project; where nobody knows it,
// everything is permitted.
func (r *requested) rulesFor(app *api.Application) (*argo.Project, error) {
	if p := r.project(app.Spec.Project); p != nil {
		return argo.Compile(p)
	}
	return argo.Open(app.Spec.Project), nil
}

func (r *requested) project(name string) *api.AppProject {
	for _, p := range r.projects {
		if p.Name == name {
			return p
		}
	}
	return nil
}

// repository returns the source of a Kustomization; nil if it is not known.
func (r *requested) repository(ks *kustomizev1.Kustomization) *sourcev1.GitRepository {
	for _, g := range r.repositories {
		if g.Name == ks.Spec.SourceRef.Name && g.Namespace == ks.Namespace {
			return g
		}
	}
	return nil
}

// ignored returns what the source of a Kustomization says to leave out.
func (r *requested) ignored(ks *kustomizev1.Kustomization) *string {
	if g := r.repository(ks); g != nil {
		return g.Spec.Ignore
	}
	return nil
}

// named says which resource an error is about, unless it says so itself.
func named(err error, kind, namespace, name string) error {
	var f *fault.Error
	if errors.As(err, &f) && f.Object == "" {
		return f.On(delivery.ID{Kind: kind, Namespace: namespace, Name: name}.String())
	}
	return err
}
