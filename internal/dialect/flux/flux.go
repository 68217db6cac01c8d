// Package flux serves Flux's kinds: GitRepository, Kustomization and Receiver.
// It translates them to sources and deliveries, and reports to status, as the
// clients of Flux expect it. What is delivered, and how, is the engine's.
//
// A field that is not supported yet is refused by name, on the object. References
// to other namespaces are refused.
package flux

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"strings"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	notificationv1 "github.com/fluxcd/notification-controller/api/v1"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/holdfastcd/holdfast/internal/cluster"
	"github.com/holdfastcd/holdfast/internal/delivery"
	"github.com/holdfastcd/holdfast/internal/dialect"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/source"
)

// The indexes by which objects are found in the cache.
const (
	bySource     = "holdfast.source"     // Kustomizations by the GitRepository they name
	byDependency = "holdfast.dependency" // Kustomizations by those they depend on
	byConfig     = "holdfast.config"     // Kustomizations by what they take variables from
	byURL        = "holdfast.url"        // GitRepositories by the address of their repository
	byPath       = "holdfast.path"       // Receivers by the path they listen at
)

// fetchesAtOnce is how many GitRepositories may wait for a server side by side;
// the hub asks each server once for all who ask the same.
const fetchesAtOnce = 32

// urgent is the priority of what somebody asked for.
const urgent = dialect.Touched

// Flux is the running dialect.
type Flux struct {
	// Artifacts serves the trees of GitRepositories, below /gitrepository/. Its
	// BaseURL is to be set before the manager starts.
	Artifacts *Artifacts
	// Hooks serves Receivers, below /hook/.
	Hooks http.Handler

	env                                     *dialect.Env
	repositories, kustomizations, receivers *desk
	git                                     *repositories
	known                                   *catalog
	fetches, deliveries                     *dialect.Trigger
}

// Setup registers the controllers of Flux's kinds with a manager that has not
// started, and lets router reach the Kustomizations. It fails, with a
// *fault.Error, if the cluster does not serve one of the kinds.
func Setup(mgr ctrl.Manager, env *dialect.Env, router dialect.Router) (*Flux, error) {
	cache := mgr.GetCache()
	f := &Flux{
		Artifacts:      newArtifacts(),
		env:            env,
		repositories:   newDesk(sourcev1.GroupVersion.WithKind(sourcev1.GitRepositoryKind), cache, env.Client, dialect.StatusManager),
		kustomizations: newDesk(kustomizev1.GroupVersion.WithKind(kustomizev1.KustomizationKind), cache, env.Client, dialect.StatusManager),
		receivers:      newDesk(notificationv1.GroupVersion.WithKind(notificationv1.ReceiverKind), cache, env.Client, dialect.StatusManager),
		fetches:        &dialect.Trigger{},
		deliveries:     &dialect.Trigger{},
	}
	f.Hooks = hooks{flux: f, slots: make(chan struct{}, hooksAtOnce)}
	if err := f.index(mgr); err != nil {
		return nil, err
	}
	known := newCatalog()
	f.known = known
	ks := &kustomizations{
		env: env, desk: f.kustomizations, sources: f.repositories, catalog: known, trigger: f.deliveries,
		options: Options{DefaultServiceAccount: env.DefaultServiceAccount, Permissive: env.Permissive},
	}
	if err := ks.watchConfigs(mgr); err != nil {
		return nil, err
	}
	env.Engine.Cluster.Subscribe(func(e cluster.Event) { ks.checks.moved(e.ID, f.deliveries) })
	f.git = &repositories{
		env: env, desk: f.repositories, catalog: known, artifacts: f.Artifacts, offer: ks.offer,
		failures: map[types.NamespacedName]int{}, heard: map[types.NamespacedName]string{},
	}
	router[kustomizev1.KustomizationKind] = f.deliveries
	rs := &receivers{env: env, desk: f.receivers}
	for _, err := range []error{
		register(mgr, "gitrepository", f.repositories, f.git, f.fetches, fetchesAtOnce),
		register(mgr, "kustomization", f.kustomizations, ks, f.deliveries, max(env.Concurrency, 1)),
		register(mgr, "receiver", f.receivers, rs, &dialect.Trigger{}, 1),
	} {
		if err != nil {
			return nil, err
		}
	}
	return f, nil
}

// register makes the controller of one kind.
func register(mgr ctrl.Manager, name string, d *desk, by reconcile.Reconciler, trigger *dialect.Trigger, workers int) error {
	skip := true // names are for metrics; several managers may run in one process
	err := ctrl.NewControllerManagedBy(mgr).Named("flux-"+name).
		For(d.blank(), builder.WithPredicates(wanted())).
		WatchesRawSource(trigger).
		WithOptions(controller.Options{MaxConcurrentReconciles: workers, SkipNameValidation: &skip}).
		Complete(by)
	if err != nil {
		return fault.New(fault.Internal, "cannot set up the controller of %s: %s", d.gvk.Kind, err).Because(err)
	}
	return nil
}

// index makes the objects findable in the manager's cache.
func (f *Flux) index(mgr ctrl.Manager) error {
	for _, i := range []struct {
		desk *desk
		name string
		keys client.IndexerFunc
	}{
		{f.kustomizations, bySource, sourceIndex},
		{f.kustomizations, byDependency, dependencyIndex},
		{f.kustomizations, byConfig, configIndex},
		{f.repositories, byURL, fieldIndex([]string{"spec", "url"}, source.NormalizeURL)},
		{f.receivers, byPath, fieldIndex([]string{"status", "webhookPath"}, nil)},
	} {
		// The manager has not started: nothing here waits.
		err := mgr.GetFieldIndexer().IndexField(context.Background(), i.desk.blank(), i.name, i.keys)
		if meta.IsNoMatchError(err) {
			return fault.New(fault.NotFound, "the cluster does not serve %s", i.desk.gvk).
				WithHint("install the definitions: holdfast install --crds-only")
		}
		if err != nil {
			return fault.New(fault.Unreachable, "cannot watch %s: %s", i.desk.gvk.Kind, err).Because(err)
		}
	}
	return nil
}

// sourceIndex indexes Kustomizations by their sources.
func sourceIndex(o client.Object) []string {
	u, ok := o.(*unstructured.Unstructured)
	if !ok {
		return nil
	}
	ref, _, err := unstructured.NestedMap(u.Object, "spec", "sourceRef")
	name, _ := ref["name"].(string)
	if err != nil || name == "" {
		return nil
	}
	namespace, _ := ref["namespace"].(string)
	return []string{types.NamespacedName{Namespace: cmp.Or(namespace, u.GetNamespace()), Name: name}.String()}
}

// fieldIndex indexes by a string field, changed by key if that is not nil.
func fieldIndex(path []string, key func(string) string) client.IndexerFunc {
	return func(o client.Object) []string {
		u, ok := o.(*unstructured.Unstructured)
		if !ok {
			return nil
		}
		value, _, err := unstructured.NestedString(u.Object, path...)
		if err != nil || value == "" {
			return nil
		}
		if key != nil {
			value = key(value)
		}
		return []string{value}
	}
}

// Offer returns what a GitRepository offers now, and the address of its repository.
// Errors are *fault.Error: why nothing could be had of it; Waiting where nobody has
// looked yet, NotFound where it does not exist.
func (f *Flux) Offer(ctx context.Context, name types.NamespacedName) (source.Revision, string, error) {
	e, looked := f.known.get(name)
	switch {
	case looked && e.has() && e.err == nil:
		return e.revision, e.url, nil
	case looked && e.err != nil:
		return source.Revision{}, "", e.err
	}
	u, err := f.repositories.get(ctx, name)
	if err == nil && u == nil {
		return source.Revision{}, "", fault.New(fault.NotFound, "GitRepository/%s does not exist", name)
	}
	return source.Revision{}, "", fault.New(fault.Waiting, "GitRepository/%s has not been fetched yet", name)
}

// OnOffer sets who is told that a GitRepository offers something else, before the
// manager starts. It must not block.
func (f *Flux) OnOffer(tell func(types.NamespacedName)) { f.git.onOffer = tell }

// Refresh makes every GitRepository of a repository that follows branch (empty:
// any) fetch at once, however its URL is written. It does not wait for them.
// The hub must have been told before.
func (f *Flux) Refresh(url, branch string) {
	address := source.NormalizeURL(url)
	if address == "" {
		return
	}
	found, err := f.repositories.list(context.Background(), client.MatchingFields{byURL: address})
	if err != nil {
		f.env.Log.Error("cannot look up GitRepositories", "error", err)
		return
	}
	for i := range found {
		u := &found[i]
		if follows(u, branch) {
			f.fetches.Add(types.NamespacedName{Namespace: u.GetNamespace(), Name: u.GetName()}, urgent)
		}
	}
}

// All queues every Kustomization: what they must prove may have changed. It does not
// wait for them.
func (f *Flux) All() {
	found, err := f.kustomizations.list(context.Background())
	if errors.As(err, new(*cache.ErrCacheNotStarted)) {
		return // when it starts, each is queued
	}
	if err != nil {
		f.env.Log.Error("cannot list Kustomizations", "error", err)
		return
	}
	for i := range found {
		f.deliveries.Add(types.NamespacedName{Namespace: found[i].GetNamespace(), Name: found[i].GetName()}, dialect.Normal)
	}
}

// follows reports whether a GitRepository as written would see a push to branch.
// One that follows no branch sees every push: a tag may have come with it.
func follows(u *unstructured.Unstructured, branch string) bool {
	repo, bad := decode[sourcev1.GitRepository](u)
	if bad != nil {
		return false
	}
	asked := RefOf(repo)
	return asked.Commit == "" && (branch == "" || asked.Branch == "" || strings.TrimPrefix(asked.Branch, "refs/heads/") == branch)
}

// Alive reports whether the Kustomization that marks name, as [Owner] renders
// it, exists. In doubt it does: what might be another's is not taken.
func (f *Flux) Alive(owner string) bool {
	name, ok := kustomizationOf(owner)
	if !ok {
		return false
	}
	u, err := f.kustomizations.get(context.Background(), name)
	return err != nil || u != nil
}

// kustomizationOf reads what Owner renders.
func kustomizationOf(owner string) (types.NamespacedName, bool) {
	parts := strings.Split(owner, "/")
	if len(parts) != 3 || parts[0] != kustomizev1.KustomizationKind {
		return types.NamespacedName{}, false
	}
	id := delivery.ID{Kind: parts[0], Namespace: parts[1], Name: parts[2]}
	return types.NamespacedName{Namespace: id.Namespace, Name: id.Name}, true
}
