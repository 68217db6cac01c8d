package argo

import (
	"errors"
	"path"
	"slices"
	"strings"

	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime/schema"

	api "github.com/holdfastcd/holdfast/api/argo/v1alpha1"
	"github.com/holdfastcd/holdfast/internal/delivery"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/plan"
	"github.com/holdfastcd/holdfast/internal/render"
	"github.com/holdfastcd/holdfast/internal/source"
	"github.com/holdfastcd/holdfast/internal/tree"
)

// Request says which revision an Application asks for; the credential is the
// caller's to add. Errors are those of [Validate], and *fault.Error of kind
// Refused for a source that the project does not permit: nothing is fetched then.
func Request(app *api.Application, project *Project, o Options) (source.Request, error) {
	if err := Validate(app, o); err != nil {
		return source.Request{}, err
	}
	repo := app.Spec.Source.RepoURL
	if !project.PermitsSource(repo) {
		return source.Request{}, fault.New(fault.Refused, "the source %s is not permitted in project %s", repo, project.name).
			WithHint("add it to spec.sourceRepos of the AppProject")
	}
	return source.Request{URL: repo, Ref: ref(app.Spec.Source.TargetRevision)}, nil
}

// ref reads a target revision: a full commit id, HEAD or nothing, else a branch.
func ref(target string) source.Ref {
	switch {
	case target == "" || target == "HEAD":
		return source.Ref{}
	case commitID.MatchString(strings.ToLower(target)):
		return source.Ref{Commit: strings.ToLower(target)}
	}
	return source.Ref{Branch: strings.TrimPrefix(target, "refs/heads/")}
}

// Spec says what to deliver for an Application, under the rules of its project,
// at a revision. It is pure: the controller, `holdfast build` and `holdfast diff`
// call it alike. Whether to revert follows from the status, see [revert]. Errors
// are those of [Request]; Unsupported for what the tree asks for and this
// version does not have; Refused where the project forbids the destination or
// names no account.
func Spec(app *api.Application, project *Project, revision source.Revision, o Options) (delivery.Spec, error) {
	if _, err := Request(app, project, o); err != nil {
		return delivery.Spec{}, err
	}
	namespace := app.Spec.Destination.Namespace
	if namespace != "" && !project.permits(namespace) {
		return delivery.Spec{}, fault.New(fault.Refused, "the destination %s, namespace %s, is not permitted in project %s", Server, namespace, project.name).
			WithHint("add it to spec.destinations of the AppProject")
	}
	spec, err := base(app, project, o)
	if err != nil {
		return delivery.Spec{}, err
	}
	spec.Revision = revision
	if spec.Render, err = request(app.Spec.Source, app.Name, revision.Tree); err != nil {
		return delivery.Spec{}, err
	}
	spec.Revert = revert(app, revision.Commit)
	return spec, nil
}

// base is what a delivery has without a revision; it suffices to retract it.
func base(app *api.Application, project *Project, o Options) (delivery.Spec, error) {
	namespace := app.Spec.Destination.Namespace
	as, err := project.Account(namespace, app.Namespace, o.Permissive)
	if err != nil {
		return delivery.Spec{}, err
	}
	options, _ := syncOptions(app)
	auto := automated(app)
	spec := delivery.Spec{
		ID:        delivery.ID{Kind: Kind, Namespace: app.Namespace, Name: app.Name},
		Namespace: namespace,
		// A namespace that is created is an object like any other to the project.
		CreateNamespace: options.createNamespace && project.permitsNamespaceObject(namespace),
		Account:         as,
		Rules:           project.rules,
		Prune:           isTrue(auto.Prune) && !options.neverPrune,
		Inventory:       inventory(app),
		Profile:         profile(app, options),
	}
	spec.Profile.Plan.AllowEmpty = isTrue(auto.AllowEmpty)
	return spec, nil
}

// profile is how Argo CD wants things done.
func profile(app *api.Application, options choices) delivery.Profile {
	propagation := options.propagation
	if propagation == "" {
		propagation = "Foreground"
	}
	return delivery.Profile{
		FieldManager: FieldManager,
		Marks: delivery.Marks{Tracking: &delivery.Tracking{
			Annotation: annTracking, App: app.Name, Namespace: app.Spec.Destination.Namespace,
		}},
		Propagation: propagation,
		Screen:      Screen,
		Plan: plan.Profile{Stages: []plan.StageRule{{
			Name: "definitions",
			Kinds: []schema.GroupKind{
				{Kind: "Namespace"},
				{Group: "apiextensions.k8s.io", Kind: "CustomResourceDefinition"},
			},
			Gate: true,
		}}},
	}
}

// inventory reads what an Application holds from its status. The planner deletes
// nothing of it that does not carry the Application's own mark; an Application
// that delivers itself is never its own to delete.
func inventory(app *api.Application) []delivery.Entry {
	self := object.ID{Group: api.GroupVersion.Group, Kind: api.ApplicationKind, Namespace: app.Namespace, Name: app.Name}
	entries := make([]delivery.Entry, 0, len(app.Status.Resources))
	for _, r := range app.Status.Resources {
		id := object.ID{Group: r.Group, Kind: r.Kind, Namespace: r.Namespace, Name: r.Name}
		if id != self {
			entries = append(entries, delivery.Entry{ID: id, Version: r.Version})
		}
	}
	slices.SortFunc(entries, func(a, b delivery.Entry) int { return object.Compare(a.ID, b.ID) })
	return entries
}

// automated returns the policy of automated syncs; the zero value, which prunes
// and heals nothing, if there is none.
func automated(app *api.Application) api.SyncPolicyAutomated {
	if app.Spec.SyncPolicy == nil || app.Spec.SyncPolicy.Automated == nil {
		return api.SyncPolicyAutomated{}
	}
	return *app.Spec.SyncPolicy.Automated
}

// syncsItself reports whether automated sync is on.
func syncsItself(app *api.Application) bool {
	p := app.Spec.SyncPolicy
	return p != nil && p.Automated != nil && (p.Automated.Enabled == nil || *p.Automated.Enabled)
}

func isTrue(b *bool) bool { return b != nil && *b }

// request says how to render a source. What the directory itself asks for and is
// not supported is refused, because the renderer would take it for plain files.
func request(s *api.ApplicationSource, app string, t tree.Tree) (render.Request, error) {
	r := render.Request{Path: path.Clean(s.Path)}
	for _, name := range []string{".argocd-source.yaml", ".argocd-source-" + app + ".yaml"} {
		if holds(t, r.Path, name) {
			return r, fault.New(fault.Unsupported, "overrides of the source in the repository are not supported yet").At(path.Join(r.Path, name), 0)
		}
	}
	switch {
	case !empty(s.Kustomize):
		k := s.Kustomize
		r.Tool = render.Kustomize
		r.Namespace, r.NamePrefix, r.NameSuffix, r.Images = k.Namespace, k.NamePrefix, k.NameSuffix, k.Images
	case !empty(s.Directory):
		d := s.Directory
		r.Tool = render.Plain
		r.Recurse, r.Include, r.Exclude = d.Recurse, d.Include, d.Exclude
	case holds(t, r.Path, "Chart.yaml"):
		return r, fault.New(fault.Unsupported, "Helm charts are not supported yet").At(path.Join(r.Path, "Chart.yaml"), 0)
	}
	return r, nil
}

// sourceType names the tool that renders a request, as Argo CD does.
func sourceType(r render.Request, t tree.Tree) api.ApplicationSourceType {
	kustomize := r.Tool == render.Kustomize
	if r.Tool == render.Detect {
		kustomize = holds(t, r.Path, "kustomization.yaml") || holds(t, r.Path, "kustomization.yml") || holds(t, r.Path, "Kustomization")
	}
	if kustomize {
		return api.ApplicationSourceTypeKustomize
	}
	return api.ApplicationSourceTypeDirectory
}

func holds(t tree.Tree, dir, name string) bool {
	_, err := t.Stat(path.Join(dir, name))
	return err == nil
}

// normalised is a source as it is compared: blocks that say nothing are absent.
func normalised(s *api.ApplicationSource) *api.ApplicationSource {
	if s == nil {
		return nil
	}
	out := s.DeepCopy()
	if empty(out.Helm) {
		out.Helm = nil
	}
	if empty(out.Kustomize) {
		out.Kustomize = nil
	}
	if empty(out.Directory) {
		out.Directory = nil
	}
	return out
}

// comparedTo is what a comparison is made with.
func comparedTo(app *api.Application) api.ComparedTo {
	return api.ComparedTo{Source: normalised(app.Spec.Source), Destination: app.Spec.Destination}
}

func sameSource(a, b *api.ApplicationSource) bool {
	return apiequality.Semantic.DeepEqual(normalised(a), normalised(b))
}

// Screen refuses rendered objects that ask, by annotation, for what this version
// does not do: hooks, waves, and options of their own. Errors are *fault.Error of
// kind Unsupported with file and line.
func Screen(objects []object.Object) error {
	for i := range objects {
		o := &objects[i]
		if refused := unsupportedOn(o.GetAnnotations()); len(refused) > 0 {
			return notYet(refused).On(o.ID().String()).At(o.Origin.File, o.Origin.Line)
		}
	}
	return nil
}

// unsupportedOn lists what an object's annotations ask for in vain.
func unsupportedOn(annotations map[string]string) []string {
	var refused []string
	for _, key := range []string{annHook, annHelmHook, prefix + "ignore-healthcheck"} {
		if v, set := annotations[key]; set && v != "false" {
			refused = append(refused, "annotation "+key)
		}
	}
	if wave, set := annotations[annSyncWave]; set && strings.TrimLeft(wave, "+-0") != "" {
		refused = append(refused, "annotation "+annSyncWave+" other than 0")
	}
	for option := range strings.SplitSeq(annotations[annSyncOptions], ",") {
		option = strings.ReplaceAll(option, " ", "")
		if option != "" && !slices.Contains(harmless, option) && !slices.Contains(keeping, option) {
			refused = append(refused, "annotation "+annSyncOptions+": "+option)
		}
	}
	if v := annotations[annCompareOptions]; v != "" {
		refused = append(refused, "annotation "+annCompareOptions+": "+v)
	}
	return refused
}

// keeping are the options of an object that [Kept] reads.
var keeping = []string{"Prune=false", "Prune=confirm", "Delete=false", "Delete=confirm"}

// asFault returns err as a fault; one that nobody classified is Internal.
func asFault(err error) *fault.Error {
	if f, ok := errors.AsType[*fault.Error](err); ok {
		return f
	}
	return fault.New(fault.Internal, "%s", err).Because(err)
}
