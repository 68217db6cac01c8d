package argo

import (
	"context"
	"errors"
	"hash/fnv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	toolscache "k8s.io/client-go/tools/cache"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	api "github.com/holdfastcd/holdfast/api/argo/v1alpha1"
	"github.com/holdfastcd/holdfast/internal/delivery"
	"github.com/holdfastcd/holdfast/internal/dialect"
	"github.com/holdfastcd/holdfast/internal/secret"
	"github.com/holdfastcd/holdfast/internal/source"
)

// How often things are looked at without an event.
const (
	pollEvery    = 120 * time.Second // a source; plus up to pollJitter, by name
	pollJitter   = 60 * time.Second
	retryEvery   = 20 * time.Second // after an error that can go away by itself
	compareEvery = 10 * time.Second // at most, where cluster and source are only compared
)

// Argo serves Applications and AppProjects.
type Argo struct {
	env     *dialect.Env
	options Options
	desk    *desk
	secrets *credentials
	trigger *dialect.Trigger
	letting *dialect.Trigger // of projects that may be waiting for their last Application
	pushes  *pushes

	memories dialect.Memories[memory]

	mu       sync.Mutex
	projects map[string]compiled // by name
	heads    map[source.Key]string
}

// memory is what is remembered of an Application between passes. Losing it costs
// nothing but time.
type memory struct {
	// mu is held by the pass; whoever else would look does not wait.
	mu      sync.Mutex
	project string
	// unsaved is an inventory that could not be written: what was applied must
	// not be forgotten.
	unsaved []delivery.Entry
	// compared is what was last compared without delivering, and when.
	compared   string
	comparedAt time.Time
	// opener is that of the last pass; nil: there was none.
	opener secret.Opener
	// failing is since when the repository does not answer; zero: it does.
	failing time.Time
	// said is what was last told of an Application that is only observed.
	said   string
	pauses dialect.Pauses
}

// Setup has a manager serve Applications and AppProjects in env.ArgoNamespace, and
// routes the events of their objects to them. The manager's scheme need not know
// the kinds. Errors are those of the controller runtime.
func Setup(mgr ctrl.Manager, env *dialect.Env, router dialect.Router) (*Argo, error) {
	a := newArgo(env, newDesk(mgr.GetCache(), env.Client))
	router[Kind] = a.trigger
	err := ctrl.NewControllerManagedBy(mgr).Named("application").
		For(blank(api.ApplicationKind), builder.WithPredicates(asks())).
		WatchesRawSource(a.trigger).
		WithOptions(controller.Options{MaxConcurrentReconciles: max(env.Concurrency, 1)}).
		Complete(reconcile.Func(a.Reconcile))
	if err != nil {
		return nil, err
	}
	err = ctrl.NewControllerManagedBy(mgr).Named("appproject").
		For(blank(api.AppProjectKind), builder.WithPredicates(asks())).
		WatchesRawSource(a.letting).
		Complete(reconcile.Func(a.reconcileProject))
	if err != nil {
		return nil, err
	}
	if err := mgr.Add(manager.RunnableFunc(a.spread)); err != nil {
		return nil, err
	}
	return a, a.watchSecrets(mgr)
}

func newArgo(env *dialect.Env, d *desk) *Argo {
	abilities := &abilities{env: env}
	return &Argo{
		env: env,
		options: Options{
			Namespace: env.ArgoNamespace, Permissive: env.Permissive, AllowFileURLs: env.AllowFileURLs, Capabilities: abilities.get,
		},
		desk:     d,
		secrets:  &credentials{reader: env.Reader, namespace: env.ArgoNamespace, clock: env.Clock},
		trigger:  &dialect.Trigger{},
		letting:  &dialect.Trigger{},
		pushes:   newPushes(),
		projects: map[string]compiled{},
		heads:    map[source.Key]string{},
	}
}

// watchSecrets has changes of what says how repositories are reached noticed at
// once. Only metadata is watched; without the right to do so, the objects are
// listed now and then.
func (a *Argo) watchSecrets(mgr ctrl.Manager) error {
	secrets, maps := &metav1.PartialObjectMetadata{}, &metav1.PartialObjectMetadata{}
	secrets.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Secret"))
	maps.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("ConfigMap"))
	c, err := cache.New(mgr.GetConfig(), cache.Options{
		HTTPClient:        mgr.GetHTTPClient(),
		Scheme:            mgr.GetScheme(),
		Mapper:            mgr.GetRESTMapper(),
		DefaultNamespaces: map[string]cache.Config{a.env.ArgoNamespace: {}},
		ByObject:          map[client.Object]cache.ByObject{secrets: {Label: secretSelector()}},
	})
	if err != nil {
		return err
	}
	return mgr.Add(manager.RunnableFunc(func(ctx context.Context) error {
		synced := make([]toolscache.InformerSynced, 0, 2)
		for _, of := range []client.Object{secrets, maps} {
			informer, err := c.GetInformer(ctx, of, cache.BlockUntilSynced(false))
			if err != nil {
				return err
			}
			registration, err := informer.AddEventHandler(a.accessChanged(ctx))
			if err != nil {
				return err
			}
			synced = append(synced, registration.HasSynced)
		}
		go func() {
			if toolscache.WaitForCacheSync(ctx.Done(), synced...) {
				a.secrets.changed() // what was listed before the watch may have changed meanwhile
				a.secrets.watching(true)
			}
		}()
		return c.Start(ctx)
	}))
}

// accessChanged has every Application look at its source again when a Secret or
// ConfigMap changes that it may be reached with.
func (a *Argo) accessChanged(ctx context.Context) toolscache.ResourceEventHandler {
	changed := func(o any) {
		if gone, ok := o.(toolscache.DeletedFinalStateUnknown); ok {
			o = gone.Obj
		}
		m, ok := o.(*metav1.PartialObjectMetadata)
		if ok && m.Kind != "Secret" && m.Labels[labelSecretType] == "" && m.Name != knownHosts && m.Name != certificates {
			return
		}
		a.secrets.changed()
		a.all(ctx, dialect.Normal)
	}
	return toolscache.ResourceEventHandlerDetailedFuncs{
		AddFunc: func(o any, initial bool) {
			if !initial {
				changed(o)
			}
		},
		UpdateFunc: func(_, o any) { changed(o) },
		DeleteFunc: changed,
	}
}

// Alive reports whether an Application exists; true also if nobody can tell.
func (a *Argo) Alive(ctx context.Context, namespace, name string) bool {
	u, err := a.desk.get(ctx, types.NamespacedName{Namespace: namespace, Name: name})
	return u != nil || err != nil
}

// All queues every Application: what they must prove may have changed. It does not
// wait for them.
func (a *Argo) All() { a.all(context.Background(), dialect.Normal) }

// all queues every Application.
func (a *Argo) all(ctx context.Context, p dialect.Priority) {
	apps, err := a.desk.list(ctx, a.env.ArgoNamespace)
	if errors.As(err, new(*cache.ErrCacheNotStarted)) {
		return // when it starts, each is queued
	}
	if err != nil {
		a.env.Log.Warn("cannot list Applications", "error", err)
		return
	}
	for i := range apps {
		a.trigger.Add(types.NamespacedName{Namespace: apps[i].GetNamespace(), Name: apps[i].GetName()}, p)
	}
}

// forget drops what is remembered of an Application that does not exist.
func (a *Argo) forget(name types.NamespacedName) {
	id := deliveryID(name)
	if a.env.Decryption != nil {
		a.env.Decryption.Release(id)
	}
	if m := a.memories.Drop(name); m != nil {
		if m.project != "" {
			a.letting.Add(types.NamespacedName{Namespace: a.env.ArgoNamespace, Name: m.project}, dialect.Normal)
		}
		if m.said != "" {
			a.env.EndFinding(id)
		}
	}
	a.env.Engine.Forget(id)
}

func deliveryID(name types.NamespacedName) delivery.ID {
	return delivery.ID{Kind: Kind, Namespace: name.Namespace, Name: name.Name}
}

// poll returns how old a revision may be for an Application. It differs by name,
// so that a hundred of them do not ask in the same second.
func poll(name types.NamespacedName) time.Duration {
	h := fnv.New32a()
	_, _ = h.Write([]byte(name.String()))
	return pollEvery + time.Duration(h.Sum32()%uint32(pollJitter/time.Millisecond))*time.Millisecond
}
