package argo

import (
	"cmp"
	"path"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/yaml"

	api "github.com/holdfastcd/holdfast/api/argo/v1alpha1"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/render"
	"github.com/holdfastcd/holdfast/internal/source"
	"github.com/holdfastcd/holdfast/internal/tree"
)

// request says how to render an Application's source at a revision: what the
// Application asks for, what files in the directory lay over it, and what tool the
// directory is for where neither says so.
func request(app *api.Application, revision source.Revision, o Options) (render.Request, error) {
	look := tree.NewView(revision.Tree, tree.Limits{FileBytes: maxOverride})
	s, err := overridden(app, look)
	if err != nil {
		return render.Request{}, err
	}
	t := translation{app: app, source: s, env: environment(app, revision, o), options: o}
	r := render.Request{Path: path.Clean(s.Path), Tool: toolOf(s, look)}
	switch r.Tool {
	case render.Helm:
		err = t.helm(&r)
	case render.Kustomize:
		err = t.kustomize(&r)
	case render.Plain, render.Detect, render.KustomizeOrGenerate:
		t.directory(&r)
	}
	return r, err
}

// toolOf chooses the tool: the one that has a block, else the one that the
// directory has a file for.
func toolOf(s *api.ApplicationSource, look *tree.View) render.Tool {
	switch {
	case !empty(s.Helm):
		return render.Helm
	case !empty(s.Kustomize):
		return render.Kustomize
	case !empty(s.Directory):
		return render.Plain
	case holds(look, s.Path, "Chart.yaml"):
		return render.Helm
	}
	for _, name := range []string{"kustomization.yaml", "kustomization.yml", "Kustomization"} {
		if holds(look, s.Path, name) {
			return render.Kustomize
		}
	}
	return render.Plain
}

func holds(look *tree.View, dir, name string) bool {
	_, err := look.Stat(path.Join(dir, name))
	return err == nil
}

// sourceType names the tool that renders a request, as Argo CD does.
func sourceType(r render.Request) api.ApplicationSourceType {
	switch r.Tool {
	case render.Helm:
		return api.ApplicationSourceTypeHelm
	case render.Kustomize, render.KustomizeOrGenerate:
		return api.ApplicationSourceTypeKustomize
	case render.Plain, render.Detect:
	}
	return api.ApplicationSourceTypeDirectory
}

// translation is what the blocks of a source are translated with.
type translation struct {
	app     *api.Application
	source  *api.ApplicationSource
	env     env
	options Options
}

func (t translation) directory(r *render.Request) {
	d := t.source.Directory
	if d == nil {
		return
	}
	r.Recurse, r.Include, r.Exclude = d.Recurse, d.Include, d.Exclude
	j := d.Jsonnet
	if len(j.ExtVars)+len(j.TLAs)+len(j.Libs) == 0 {
		return
	}
	r.Jsonnet = &render.Jsonnet{ExtVars: t.variables(j.ExtVars), TLAs: t.variables(j.TLAs)}
	for _, lib := range j.Libs {
		r.Jsonnet.Libraries = append(r.Jsonnet.Libraries, strings.TrimPrefix(path.Clean("/"+lib), "/"))
	}
}

func (t translation) variables(list []api.JsonnetVar) []render.Variable {
	var out []render.Variable
	for _, v := range list {
		out = append(out, render.Variable{Name: v.Name, Value: t.env.expand(v.Value), Code: v.Code})
	}
	return out
}

// helm fills in what a chart is rendered with. Objects that belong to Helm's tests
// are never part of an Application.
func (t translation) helm(r *render.Request) error {
	h := t.source.Helm
	if h == nil {
		h = &api.ApplicationSourceHelm{}
	}
	values := h.Values
	if h.ValuesObject != nil && len(h.ValuesObject.Raw) > 0 { // it goes before the text, as a whole
		text, err := yaml.JSONToYAML(h.ValuesObject.Raw)
		if err != nil {
			return fault.New(fault.Invalid, "spec.source.helm.valuesObject is no object: %s", err)
		}
		values = string(text)
	}
	r.Helm = &render.HelmRequest{
		ReleaseName: cmp.Or(h.ReleaseName, t.app.Name),
		Namespace:   cmp.Or(h.Namespace, t.app.Spec.Destination.Namespace),

		IgnoreMissingValueFiles: h.IgnoreMissingValueFiles,
		Values:                  values,
		SkipCRDs:                h.SkipCrds,
		SkipTests:               true,
		SkipSchemaValidation:    h.SkipSchemaValidation,
		// The UID keeps what a chart makes up from following from what is in Git.
		Seed: deliveryID(nameOf(t.app)).String() + "@" + string(t.app.UID),
	}
	if at := t.app.CreationTimestamp; !at.IsZero() {
		r.Helm.Now = at.Unix()
	}
	for _, f := range h.ValueFiles {
		r.Helm.ValueFiles = append(r.Helm.ValueFiles, t.env.expand(f))
	}
	for _, p := range h.Parameters {
		r.Helm.Parameters = append(r.Helm.Parameters, render.HelmParameter{Name: p.Name, Value: t.env.expand(p.Value), ForceString: p.ForceString})
	}
	for _, p := range h.FileParameters {
		r.Helm.FileParameters = append(r.Helm.FileParameters, render.HelmFile{Name: p.Name, Path: t.env.expand(p.Path)})
	}
	known := t.options.capabilities()
	r.Capabilities = &render.Capabilities{KubeVersion: cmp.Or(h.KubeVersion, known.KubeVersion), APIVersions: h.APIVersions}
	if len(h.APIVersions) == 0 {
		r.Capabilities.APIVersions = known.APIVersions
	}
	return nil
}

// kustomize fills in what is laid over a kustomization.
func (t translation) kustomize(r *render.Request) error {
	k := t.source.Kustomize
	if k == nil {
		return nil
	}
	r.Namespace, r.NamePrefix, r.NameSuffix = k.Namespace, k.NamePrefix, k.NameSuffix
	for _, image := range k.Images {
		r.Images = append(r.Images, t.env.expand(image))
	}
	if k.KubeVersion != "" || len(k.APIVersions) > 0 {
		r.Capabilities = &render.Capabilities{KubeVersion: k.KubeVersion, APIVersions: k.APIVersions}
	}
	replicas, err := replicaCounts(k.Replicas)
	if err != nil {
		return err
	}
	o := render.Overrides{
		Labels:           t.env.all(k.CommonLabels),
		Annotations:      k.CommonAnnotations,
		ForceLabels:      k.ForceCommonLabels,
		ForceAnnotations: k.ForceCommonAnnotations,
		Replicas:         replicas,
		Patches:          patches(k.Patches),
		Components:       k.Components,

		IgnoreMissingComponents: k.IgnoreMissingComponents,
	}
	if len(o.Labels) > 0 {
		o.LabelSelectors, o.LabelTemplates = !k.LabelWithoutSelector, k.LabelIncludeTemplates
	}
	if k.CommonAnnotationsEnvsubst {
		o.Annotations = t.env.all(k.CommonAnnotations)
	}
	if len(o.Labels)+len(o.Annotations)+len(o.Replicas)+len(o.Patches)+len(o.Components) > 0 {
		r.Overrides = &o
	}
	return nil
}

func replicaCounts(list []api.KustomizeReplica) ([]render.Replicas, error) {
	var out []render.Replicas
	for _, r := range list {
		count := int64(r.Count.IntVal)
		if r.Count.Type == intstr.String {
			n, err := strconv.ParseInt(r.Count.StrVal, 10, 32)
			if err != nil {
				return nil, fault.New(fault.Invalid, "spec.source.kustomize.replicas: the count %q of %q is no number", r.Count.StrVal, r.Name)
			}
			count = n
		}
		if count < 0 {
			return nil, fault.New(fault.Invalid, "spec.source.kustomize.replicas: the count of %q is negative", r.Name)
		}
		out = append(out, render.Replicas{Name: r.Name, Count: count})
	}
	return out, nil
}

func patches(list []api.KustomizePatch) []render.Patch {
	var out []render.Patch
	for _, p := range list {
		patch := render.Patch{Path: p.Path, Patch: p.Patch, Options: p.Options}
		if t := p.Target; t != nil {
			patch.Target = &render.PatchTarget{
				Group: t.Group, Version: t.Version, Kind: t.Kind, Namespace: t.Namespace, Name: t.Name,
				LabelSelector: t.LabelSelector, AnnotationSelector: t.AnnotationSelector,
			}
		}
		out = append(out, patch)
	}
	return out
}
