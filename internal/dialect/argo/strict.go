package argo

import (
	"encoding/json"
	"maps"
	"path"
	"reflect"
	"regexp"
	"slices"
	"strings"

	api "github.com/holdfastcd/holdfast/api/argo/v1alpha1"
	"github.com/holdfastcd/holdfast/internal/fault"
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
}

// supported are the fields of an Application's spec that are honoured, below
// which everything is. A field that is not listed is refused by name, unless it
// says nothing: a list of what is known cannot forget what it does not know.
var supported = fields(
	"project", "info", "revisionHistoryLimit",
	"destination.server", "destination.name", "destination.namespace",
	"source.repoURL", "source.path", "source.targetRevision", "source.name",
	"source.directory.recurse", "source.directory.include", "source.directory.exclude",
	"source.kustomize.namePrefix", "source.kustomize.nameSuffix",
	"source.kustomize.namespace", "source.kustomize.images",
	"syncPolicy.automated.enabled", "syncPolicy.automated.prune",
	"syncPolicy.automated.selfHeal", "syncPolicy.automated.allowEmpty",
	"syncPolicy.syncOptions",
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
		if option = strings.TrimSpace(option); option != "" && option != "ServerSideDiff=true" {
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
	neverDelete     bool
	propagation     string // empty: Foreground
}

// harmless are the options that say what is done anyway: every write is a forced
// server-side apply of what differs, prunes come last, and an object of another
// Application is never taken.
var harmless = []string{
	"ServerSideApply=true", "ApplyOutOfSyncOnly=true", "PruneLast=true", "PruneLast=false",
	"FailOnSharedResource=true", "Validate=true", "Replace=false", "Force=false", "Prune=true", "Delete=true",
	"CreateNamespace=false", "ClientSideApplyMigration=true", "SkipDryRunOnMissingResource=false",
	"RespectIgnoreDifferences=true", "RespectIgnoreDifferences=false", // of differences, none is ignored
}

// syncOptions reads the options of an Application; refused are those that cannot be honoured.
func syncOptions(app *api.Application) (c choices, refused []string) {
	if app.Spec.SyncPolicy == nil {
		return c, nil
	}
	for _, option := range app.Spec.SyncPolicy.SyncOptions {
		switch option = strings.ReplaceAll(option, " ", ""); {
		case option == "CreateNamespace=true":
			c.createNamespace = true
		case option == "Prune=false":
			c.neverPrune = true
		case option == "Delete=false":
			c.neverDelete = true
		case propagations[option] != "":
			c.propagation = propagations[option]
		case option == "" || slices.Contains(harmless, option):
		default:
			refused = append(refused, "spec.syncPolicy.syncOptions: "+option)
		}
	}
	return c, refused
}

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

// rangeMarks cannot occur in the name of a branch, but do in ranges of versions.
const rangeMarks = "*^~><=| ?:[\\"

var (
	commitID = regexp.MustCompile(`\A(?:[0-9a-f]{40}|[0-9a-f]{64})\z`)
	wildcard = regexp.MustCompile(`\Av?\d+\.(?:\d+\.)?[xX]\z`)
)

func checkSource(s *api.ApplicationSource, o Options) error {
	if s == nil {
		return fault.New(fault.Invalid, "spec.source is missing")
	}
	if err := source.CheckURL(s.RepoURL, o.AllowFileURLs); err != nil {
		return asFault(err).On("spec.source.repoURL")
	}
	if err := checkPath(s.Path); err != nil {
		return err
	}
	switch rev := s.TargetRevision; {
	case strings.HasPrefix(rev, "refs/") && !strings.HasPrefix(rev, "refs/heads/"):
		return fault.New(fault.Unsupported, "spec.source.targetRevision: refs other than branches are not supported yet")
	case strings.ContainsAny(rev, rangeMarks) || wildcard.MatchString(rev):
		return fault.New(fault.Unsupported, "spec.source.targetRevision: ranges of versions are not supported yet").
			WithHint("name a branch or a full commit id")
	}
	if !empty(s.Directory) && !empty(s.Kustomize) {
		return fault.New(fault.Invalid, "spec.source sets both directory and kustomize").WithHint("remove one of the two")
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
