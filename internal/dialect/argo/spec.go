package argo

import (
	"slices"
	"strings"
	"time"

	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	api "github.com/holdfastcd/holdfast/api/argo/v1alpha1"
	"github.com/holdfastcd/holdfast/internal/delivery"
	"github.com/holdfastcd/holdfast/internal/dialect"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/health"
	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/plan"
	"github.com/holdfastcd/holdfast/internal/source"
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
	return source.Request{URL: repo, Ref: ref(app.Spec.Source.TargetRevision), Tenant: "project " + project.name}, nil
}

// ref reads a target revision: HEAD or nothing, a full commit id, the full name of
// a ref, else whatever the repository has of that name: a branch, a tag, the
// highest tag in a range of versions, the beginning of a commit id.
func ref(target string) source.Ref {
	switch {
	case target == "" || target == "HEAD":
		return source.Ref{}
	case commitID.MatchString(strings.ToLower(target)):
		return source.Ref{Commit: strings.ToLower(target)}
	case strings.HasPrefix(target, "refs/"):
		return source.Ref{Name: target}
	}
	return source.Ref{Target: target}
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
	if spec.Strict, err = dialect.Strict(app.Annotations); err != nil {
		return delivery.Spec{}, err
	}
	if spec.Render, err = request(app, revision, o); err != nil {
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
		Prune:           isTrue(auto.Prune) && mayPrune(app, options),
		Inventory:       inventory(app),
		Profile:         profile(app, options),
		Ignore:          ignored(app),
		Force:           options.force,
		Confirmed:       app.Annotations[dialect.AnnotationConfirm],
		UID:             string(app.UID),
		ApprovedBy:      dialect.Approver(app),
	}
	if options.confirmPrune && mayPrune(app, options) {
		spec.Approval = annApproved + ": " + app.Annotations[annApproved]
	}
	if options.createNamespace && !spec.CreateNamespace {
		spec.NamespaceHint = "CreateNamespace=true does nothing, as project " + project.name +
			` does not permit Namespaces: add to the AppProject: spec: {clusterResourceWhitelist: [{group: "", kind: Namespace}]}`
	}
	if p := app.Spec.SyncPolicy; spec.CreateNamespace && p.ManagedNamespaceMetadata != nil {
		spec.NamespaceLabels, spec.NamespaceAnnotations = p.ManagedNamespaceMetadata.Labels, p.ManagedNamespaceMetadata.Annotations
	}
	spec.Profile.Plan.AllowEmpty = isTrue(auto.AllowEmpty)
	return spec, nil
}

// mayPrune reports whether the sync options let anything be pruned. Prune=confirm
// waits for an approval that is younger than the last sync.
func mayPrune(app *api.Application, options choices) bool {
	if options.neverPrune || !options.confirmPrune {
		return !options.neverPrune
	}
	op := app.Status.OperationState
	return op != nil && approved(app, op.StartedAt.Time)
}

// approved reports whether somebody has approved of deletions, at or after a time.
func approved(app *api.Application, since time.Time) bool {
	at, err := time.Parse(time.RFC3339, app.Annotations[annApproved])
	return err == nil && !at.Before(since.Truncate(time.Second))
}

// ignored translates the differences that an Application ignores. Patterns of
// groups and kinds are Argo CD's; a group left out is the core group.
func ignored(app *api.Application) []plan.Ignore {
	options, _ := syncOptions(app)
	var out []plan.Ignore
	for _, d := range app.Spec.IgnoreDifferences {
		out = append(out, plan.Ignore{
			Group: d.Group, Core: d.Group == "", Kind: d.Kind, Namespace: d.Namespace, Name: d.Name,
			Pointers: d.JSONPointers, Paths: d.JQPathExpressions, Managers: d.ManagedFieldsManagers,
			Respect: options.respect,
		})
	}
	return out
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
		Treat:       treat,
		WaveKeys:    []string{annSyncWave, annHelmWeight},
		PruneMarked: true,
		Plan: plan.Profile{
			Stages: []plan.StageRule{{
				Name: "definitions",
				Kinds: []schema.GroupKind{
					{Kind: "Namespace"},
					{Group: "apiextensions.k8s.io", Kind: "CustomResourceDefinition"},
				},
				Gate: true,
			}},
			GateWaves: true,
			Brake:     dialect.Brake(),
		},
	}
}

// inventory reads what an Application holds from its status. The planner deletes
// nothing of it that does not carry the Application's own mark; an Application
// that delivers itself is never its own to delete. What is only wanted so far is
// listed as missing.
func inventory(app *api.Application) []delivery.Entry {
	self := object.ID{Group: api.GroupVersion.Group, Kind: api.ApplicationKind, Namespace: app.Namespace, Name: app.Name}
	entries := make([]delivery.Entry, 0, len(app.Status.Resources))
	for _, r := range app.Status.Resources {
		id := object.ID{Group: r.Group, Kind: r.Kind, Namespace: r.Namespace, Name: r.Name}
		if id != self && (r.Health == nil || r.Health.Status != api.HealthStatusCode(health.Missing)) {
			entries = append(entries, delivery.Entry{ID: id, Version: r.Version, Wave: int(r.SyncWave)})
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
	return api.ComparedTo{Source: normalised(app.Spec.Source), Destination: app.Spec.Destination, IgnoreDifferences: app.Spec.IgnoreDifferences}
}

func sameSource(a, b *api.ApplicationSource) bool {
	return apiequality.Semantic.DeepEqual(normalised(a), normalised(b))
}

// Screen refuses rendered objects that ask, by annotation, for what this version
// does not do: hooks, and options of their own. Errors are *fault.Error of kind
// Unsupported with file and line.
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
	hook, isHook := annotations[annHook]
	if isHook && hook != "Skip" {
		refused = append(refused, "annotation "+annHook)
	}
	// Hooks of Argo CD's own go before those of Helm.
	if hook, set := annotations[annHelmHook]; set && !isHook && !inert(hook) && hook != "crd-install" {
		refused = append(refused, "annotation "+annHelmHook)
	}
	var c choices
	for _, option := range c.read(strings.Split(annotations[annSyncOptions], ",")) {
		refused = append(refused, "annotation "+annSyncOptions+": "+option)
	}
	for option := range strings.SplitSeq(annotations[annCompareOptions], ",") {
		// What is extraneous is never taken for a part of the Application.
		if option = strings.TrimSpace(option); option != "" && option != "IgnoreExtraneous" && !strings.HasPrefix(option, "ServerSideDiff=") {
			refused = append(refused, "annotation "+annCompareOptions+": "+option)
		}
	}
	return refused
}

// inert reports whether all of an object's Helm hooks are ones that no delivery
// ever runs: tests, and those of Helm's own rollbacks.
func inert(hooks string) bool {
	for hook := range strings.SplitSeq(hooks, ",") {
		switch strings.TrimSpace(hook) {
		case "test", "test-success", "test-failure", "pre-rollback", "post-rollback":
		default:
			return false
		}
	}
	return true
}

// treat reads how an object wants to be treated.
func treat(u *unstructured.Unstructured) plan.Treatment {
	annotations := u.GetAnnotations()
	var t plan.Treatment
	hook, isHook := annotations[annHook]
	helm, isHelm := annotations[annHelmHook]
	switch {
	case isHook && hook == "Skip":
		t.Skip = "its annotation " + annHook + " is Skip"
	case isHelm && !isHook && inert(helm):
		t.Skip = "it is a hook of Helm's that no delivery runs: " + helm
	}
	var c choices
	c.read(strings.Split(annotations[annSyncOptions], ","))
	t.Force = c.force
	t.Unjudged = annotations[annIgnoreHealth] == "true"
	return t
}
