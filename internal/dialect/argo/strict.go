package argo

import (
	"encoding/json"
	"maps"
	"path"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"unicode"

	api "github.com/holdfastcd/holdfast/api/argo/v1alpha1"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/plan"
	"github.com/holdfastcd/holdfast/internal/render"
	"github.com/holdfastcd/holdfast/internal/source"
)

// Options are what the process decides for every Application.
type Options struct {
	// Namespace is where Applications and AppProjects live.
	Namespace string
	// Permissive writes with Holdfast's own identity where a project names no account.
	Permissive bool
	// AllowFileURLs permits file:// repositories.
	AllowFileURLs bool
	// Capabilities tells charts which cluster they are rendered for; nil: nothing is
	// known of it.
	Capabilities func() render.Capabilities
}

func (o Options) capabilities() render.Capabilities {
	if o.Capabilities == nil {
		return render.Capabilities{}
	}
	return o.Capabilities()
}

// supported are the fields of an Application's spec that are honoured, below
// which everything is. A field that is not listed is refused by name, unless it
// says nothing: a list of what is known cannot forget what it does not know.
var supported = fields(
	"project", "info", "revisionHistoryLimit",
	"destination.server", "destination.name", "destination.namespace",
	"source.repoURL", "source.path", "source.targetRevision", "source.name",
	"source.directory.recurse", "source.directory.include", "source.directory.exclude", "source.directory.jsonnet",
	"source.helm.valueFiles", "source.helm.ignoreMissingValueFiles", "source.helm.values", "source.helm.valuesObject",
	"source.helm.parameters", "source.helm.fileParameters", "source.helm.releaseName", "source.helm.namespace",
	"source.helm.version", "source.helm.skipCrds", "source.helm.skipTests", "source.helm.skipSchemaValidation",
	"source.helm.kubeVersion", "source.helm.apiVersions",
	"source.kustomize.namePrefix", "source.kustomize.nameSuffix", "source.kustomize.namespace",
	"source.kustomize.images", "source.kustomize.replicas", "source.kustomize.patches",
	"source.kustomize.components", "source.kustomize.ignoreMissingComponents",
	"source.kustomize.commonLabels", "source.kustomize.forceCommonLabels",
	"source.kustomize.labelWithoutSelector", "source.kustomize.labelIncludeTemplates",
	"source.kustomize.commonAnnotations", "source.kustomize.forceCommonAnnotations",
	"source.kustomize.commonAnnotationsEnvsubst",
	"source.kustomize.kubeVersion", "source.kustomize.apiVersions",
	"syncPolicy.automated.enabled", "syncPolicy.automated.prune",
	"syncPolicy.automated.selfHeal", "syncPolicy.automated.allowEmpty",
	"syncPolicy.syncOptions", "syncPolicy.retry", "syncPolicy.managedNamespaceMetadata",
	"ignoreDifferences",
)

// Validate refuses an Application that asks for what this version does not do, or
// that contradicts itself. Errors are *fault.Error: Unsupported, naming each
// field, Invalid, or Refused (the address of the repository).
func Validate(app *api.Application, o Options) error {
	if o.Namespace != "" && app.Namespace != "" && app.Namespace != o.Namespace {
		return fault.New(fault.Unsupported, "Applications outside of namespace %s are not supported yet", o.Namespace)
	}
	refused, err := unsupported(app.Spec, supported)
	if err != nil {
		return err
	}
	refused = append(refused, unsupportedMarks(app)...)
	_, bad := syncOptions(app)
	if refused = append(refused, bad...); len(refused) > 0 {
		return notYet(refused)
	}
	if err := checkDestination(app.Spec.Destination); err != nil {
		return err
	}
	if p := app.Spec.SyncPolicy; p != nil {
		if _, err := retriesOf(p.Retry, 0); err != nil {
			return fault.From(err).On("spec.syncPolicy.retry")
		}
	}
	if _, err := plan.CompileIgnores(ignored(app)); err != nil {
		return fault.From(err).On("spec.ignoreDifferences")
	}
	return checkSource(app.Spec.Source, o)
}

// notYet is the error that refuses things by name.
func notYet(what []string) *fault.Error {
	slices.Sort(what)
	const most = 10
	if n := len(what); n > most {
		what = append(what[:most:most], "and more")
	}
	verb := "is"
	if len(what) > 1 {
		verb = "are"
	}
	return fault.New(fault.Unsupported, "%s %s not supported yet", strings.Join(what, ", "), verb)
}

// unsupported lists the fields of a spec that say something and are not in allowed.
func unsupported(spec any, allowed map[string]bool) ([]string, error) {
	b, err := json.Marshal(spec)
	if err != nil {
		return nil, fault.New(fault.Invalid, "the spec cannot be read").Because(err)
	}
	var m map[string]any
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, fault.New(fault.Invalid, "the spec cannot be read").Because(err)
	}
	var refused []string
	var walk func(at string, m map[string]any)
	walk = func(at string, m map[string]any) {
		for _, name := range slices.Sorted(maps.Keys(m)) {
			field := at + name
			child, isMap := m[name].(map[string]any)
			whole, known := allowed[field]
			switch {
			case whole || silent(m[name]):
			case known && isMap:
				walk(field+".", child)
			default:
				refused = append(refused, "spec."+field)
			}
		}
	}
	walk("", m)
	return refused, nil
}

// fields makes the set of what is allowed: true for a field that is honoured as
// a whole, false for one of which only some parts are.
func fields(paths ...string) map[string]bool {
	set := map[string]bool{}
	for _, p := range paths {
		set[p] = true
		for i := strings.LastIndexByte(p, '.'); i > 0; i = strings.LastIndexByte(p[:i], '.') {
			if !set[p[:i]] {
				set[p[:i]] = false
			}
		}
	}
	return set
}

// silent reports whether a value says nothing: it is empty all the way down.
func silent(v any) bool {
	switch v := v.(type) {
	case map[string]any:
		for _, child := range v {
			if !silent(child) {
				return false
			}
		}
		return true
	case []any:
		return len(v) == 0
	case nil:
		return true
	default:
		return reflect.ValueOf(v).IsZero()
	}
}

// unsupportedMarks lists the annotations and finalizers of an Application that
// ask for what is not done. Those that only people or other programs read are fine.
func unsupportedMarks(app *api.Application) []string {
	var refused []string
	if v := app.Annotations[annHydrate]; v != "" {
		refused = append(refused, "annotation "+annHydrate)
	}
	for option := range strings.SplitSeq(app.Annotations[annCompareOptions], ",") {
		// Differences are always found by the API server.
		switch strings.TrimSpace(option) {
		case "", "ServerSideDiff=true", "IncludeMutationWebhook=true":
		default:
			refused = append(refused, "annotation "+annCompareOptions+": "+option)
		}
	}
	return append(refused, hookFinalizers(app.Finalizers)...)
}

// hookFinalizers lists the finalizers that stand for deletion hooks.
func hookFinalizers(finalizers []string) []string {
	var found []string
	for _, f := range finalizers {
		if strings.HasPrefix(f, finalizerPreDelete) || strings.HasPrefix(f, finalizerPostDelete) {
			found = append(found, "finalizer "+f)
		}
	}
	return found
}

// choices are the sync options of an Application, as far as they change anything.
type choices struct {
	createNamespace bool
	neverPrune      bool
	confirmPrune    bool
	neverDelete     bool
	confirmDelete   bool
	force           bool
	respect         bool   // of what is ignored, also where an object is applied
	propagation     string // empty: Foreground
}

// harmless are the options that say what is done anyway, or what makes no
// difference here: every write is a forced server-side apply of what differs, which
// takes over what was applied client-side, and which the API server validates;
// prunes come last; an object of another Application is never taken; and a kind
// that the cluster does not serve yet is waited for.
var harmless = []string{
	"ServerSideApply=true", "ServerSideApply=false", "ApplyOutOfSyncOnly=true", "ApplyOutOfSyncOnly=false",
	"PruneLast=true", "PruneLast=false", "FailOnSharedResource=true", "FailOnSharedResource=false",
	"Validate=true", "Validate=false", "Replace=false", "Force=false", "Prune=true", "Delete=true",
	"CreateNamespace=false", "ClientSideApplyMigration=true",
	"SkipDryRunOnMissingResource=true", "SkipDryRunOnMissingResource=false",
	"RespectIgnoreDifferences=false",
}

// syncOptions reads the options of an Application; refused are those that cannot be honoured.
func syncOptions(app *api.Application) (c choices, refused []string) {
	if app.Spec.SyncPolicy == nil {
		return c, nil
	}
	bad := c.read(app.Spec.SyncPolicy.SyncOptions)
	for _, option := range bad {
		refused = append(refused, "spec.syncPolicy.syncOptions: "+option)
	}
	return c, refused
}

// read takes options in; those that cannot be honoured are returned.
func (c *choices) read(options []string) (refused []string) {
	switches := map[string]*bool{
		"CreateNamespace=true": &c.createNamespace, "Force=true": &c.force, "RespectIgnoreDifferences=true": &c.respect,
		"Prune=false": &c.neverPrune, "Prune=confirm": &c.confirmPrune,
		"Delete=false": &c.neverDelete, "Delete=confirm": &c.confirmDelete,
	}
	replace := ""
	for _, option := range options {
		option = strings.ReplaceAll(option, " ", "")
		on, known := switches[option]
		switch {
		case known:
			*on = true
		case propagations[option] != "":
			c.propagation = propagations[option]
		case option == replaceTrue:
			replace = option
		case option == "" || slices.Contains(harmless, option):
		default:
			refused = append(refused, option)
		}
	}
	// To replace by force is to delete and create again; without force it would drop
	// what others have set.
	if replace != "" && !c.force {
		refused = append(refused, replace)
	}
	return refused
}

const replaceTrue = "Replace=true"

var propagations = map[string]string{
	"PrunePropagationPolicy=foreground": "Foreground",
	"PrunePropagationPolicy=background": "Background",
	"PrunePropagationPolicy=orphan":     "Orphan",
}

func checkDestination(d api.ApplicationDestination) error {
	switch {
	case d.Server == "" && d.Name == "":
		return fault.New(fault.Invalid, "spec.destination names no cluster").WithHint("set server: %s", Server)
	case d.Server != "" && d.Name != "":
		return fault.New(fault.Invalid, "spec.destination sets both server and name").WithHint("remove one of the two")
	case d.Server != "" && strings.TrimSuffix(d.Server, "/") != Server:
		return fault.New(fault.Unsupported, "spec.destination.server: clusters other than %s are not supported yet", Server)
	case d.Name != "" && d.Name != ServerName:
		return fault.New(fault.Unsupported, "spec.destination.name: clusters other than %s are not supported yet", ServerName)
	}
	return nil
}

var commitID = regexp.MustCompile(`\A(?:[0-9a-f]{40}|[0-9a-f]{64})\z`)

// maxTarget bounds a target revision.
const maxTarget = 255

func checkSource(s *api.ApplicationSource, o Options) error {
	if s == nil {
		return fault.New(fault.Invalid, "spec.source is missing")
	}
	if err := source.CheckURL(s.RepoURL, o.AllowFileURLs); err != nil {
		return fault.From(err).On("spec.source.repoURL")
	}
	if err := checkPath(s.Path); err != nil {
		return err
	}
	if err := checkTarget(s.TargetRevision); err != nil {
		return err
	}
	return checkTools(s)
}

func checkTarget(target string) error {
	if len(target) > maxTarget || strings.HasPrefix(target, "-") || strings.ContainsFunc(target, unicode.IsControl) {
		return fault.New(fault.Invalid, "spec.source.targetRevision is no revision")
	}
	return nil
}

// checkTools refuses what contradicts itself in the blocks of the tools, and those
// values that are not supported although their fields are.
func checkTools(s *api.ApplicationSource) error {
	var blocks []string
	for name, isEmpty := range map[string]bool{"helm": empty(s.Helm), "kustomize": empty(s.Kustomize), "directory": empty(s.Directory)} {
		if !isEmpty {
			blocks = append(blocks, name)
		}
	}
	if len(blocks) > 1 {
		slices.Sort(blocks)
		return fault.New(fault.Invalid, "spec.source sets %s, which are for different tools", strings.Join(blocks, " and ")).WithHint("keep one of them")
	}
	if s.Helm == nil {
		return nil
	}
	if !slices.Contains([]string{"", "3", "v3", "4", "v4"}, s.Helm.Version) {
		return fault.New(fault.Unsupported, "spec.source.helm.version: %q is not supported", s.Helm.Version).WithHint("leave it out, or set v3")
	}
	for _, f := range s.Helm.ValueFiles {
		if err := checkValueFile(f); err != nil {
			return err
		}
	}
	return nil
}

// checkValueFile refuses value files from elsewhere than the source itself.
func checkValueFile(f string) error {
	name, _, _ := strings.Cut(strings.Trim(f, "${}"), "/")
	switch {
	case strings.Contains(f, "://"):
		return fault.New(fault.Unsupported, "spec.source.helm.valueFiles: %q: files from other servers are not supported yet", f)
	case strings.HasPrefix(f, "$") && !strings.HasPrefix(name, "ARGOCD_APP_") && !strings.HasPrefix(name, "KUBE_"):
		return fault.New(fault.Unsupported, "spec.source.helm.valueFiles: %q: files of other sources are not supported yet", f)
	}
	return nil
}

func checkPath(p string) error {
	switch {
	case p == "":
		return fault.New(fault.Invalid, "spec.source.path is missing").WithHint(`write "." for the root of the repository`)
	case path.IsAbs(p) || slices.Contains(strings.Split(p, "/"), ".."):
		return fault.New(fault.Invalid, "spec.source.path leaves the repository").WithHint("write a path relative to its root")
	}
	return nil
}

// empty reports whether a block of the spec is absent or all zero, which is the same.
func empty[T any](block *T) bool { return block == nil || reflect.ValueOf(*block).IsZero() }
