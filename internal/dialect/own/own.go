// Package own serves Holdfast's own kinds. It compiles TrustPolicies, with the keys
// that they name, to what deliveries must prove, says which deliveries they are
// for, and tells on each policy how it stands. It judges no delivery: that is done
// where commits and images are verified.
package own

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	toolscache "k8s.io/client-go/tools/cache"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	api "github.com/holdfastcd/holdfast/api/holdfast/v1alpha1"
	"github.com/holdfastcd/holdfast/internal/audit"
	"github.com/holdfastcd/holdfast/internal/dialect"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/trust"
)

// Options are what the process adds to the policies.
type Options struct {
	// Changed is told that deliveries must prove something else than before, and all
	// of them need a pass; nil: nobody is. It must not block.
	Changed func()
	// Record is given an entry for each change of what is demanded; nil: nobody is.
	// It must not block.
	Record func(audit.Entry)
	// Alive reports whether a delivery, named Kind/namespace/name, still exists; nil:
	// those that asked do.
	Alive func(owner string) bool
}

// Own serves the TrustPolicies of a cluster.
type Own struct {
	env     *dialect.Env
	options Options
	client  dynamic.Interface
	keyring *keyring
	trigger *dialect.Trigger
	begin   func(context.Context) error // once

	mu       sync.Mutex
	known    bool                // all policies that were there at the beginning have been read
	settled  chan struct{}       // closed when they have, with their keys
	policies map[string]*current // by name
	subjects map[string]*subject // that have asked, by name
	made     map[string]trust.Demands
	wrote    map[string]time.Time // the status of policies, by name
	swept    time.Time            // when it was last asked which deliveries exist
}

// current is a policy as it is now.
type current struct {
	Compiled

	object *unstructured.Unstructured
	// what happened to it, and by whom, is told when its keys have been read.
	what string
	by   []audit.Person
}

// subject is a delivery that has asked what it must prove.
type subject struct {
	trust.Subject

	told    bool     // how it was judged
	refused []string // by these policies
}

// name is how marks and messages name a delivery.
func name(kind, namespace, name string) string { return kind + "/" + namespace + "/" + name }

// Setup has a manager serve TrustPolicies. They are known once [Own.Start] has
// returned, or soon after the manager has started. Errors are *fault.Error:
// NotFound if the cluster does not serve the kind, Unreachable, Internal.
func Setup(mgr ctrl.Manager, env *dialect.Env, o Options) (*Own, error) {
	_, err := mgr.GetRESTMapper().RESTMapping(api.GroupVersion.WithKind(api.TrustPolicyKind).GroupKind(), api.GroupVersion.Version)
	switch {
	case meta.IsNoMatchError(err):
		return nil, fault.New(fault.NotFound, "the cluster does not serve %s", api.GroupVersion.WithKind(api.TrustPolicyKind)).
			WithHint("install the definitions: holdfast install --crds-only")
	case err != nil:
		return nil, fault.New(fault.Unreachable, "cannot ask for the kinds of the cluster: %s", err).Because(err)
	}
	typed, err := kubernetes.NewForConfigAndClient(mgr.GetConfig(), mgr.GetHTTPClient())
	if err != nil {
		return nil, fault.New(fault.Internal, "cannot make a client: %s", err).Because(err)
	}
	plain, err := dynamic.NewForConfigAndClient(mgr.GetConfig(), mgr.GetHTTPClient())
	if err != nil {
		return nil, fault.New(fault.Internal, "cannot make a client: %s", err).Because(err)
	}
	own := newOwn(env, o, plain, typed)
	if err := mgr.Add(manager.RunnableFunc(func(ctx context.Context) error {
		if err := own.begin(ctx); err != nil {
			return err
		}
		<-ctx.Done()
		return nil
	})); err != nil {
		return nil, fault.New(fault.Internal, "cannot add to the manager: %s", err).Because(err)
	}
	err = ctrl.NewControllerManagedBy(mgr).Named("trustpolicy").
		WatchesRawSource(own.trigger).
		Complete(reconcile.Func(own.reconcile))
	if err != nil {
		return nil, fault.New(fault.Internal, "cannot set up the controller of TrustPolicies: %s", err).Because(err)
	}
	return own, nil
}

func newOwn(env *dialect.Env, o Options, c dynamic.Interface, keys kubernetes.Interface) *Own {
	if o.Changed == nil {
		o.Changed = func() {}
	}
	if o.Record == nil {
		o.Record = func(audit.Entry) {}
	}
	if o.Alive == nil {
		o.Alive = func(string) bool { return true }
	}
	if env.Log == nil {
		env.Log = slog.New(slog.DiscardHandler)
	}
	own := &Own{
		env: env, options: o, client: c, trigger: &dialect.Trigger{}, settled: make(chan struct{}),
		policies: map[string]*current{}, subjects: map[string]*subject{}, made: map[string]trust.Demands{},
		wrote: map[string]time.Time{}, swept: time.Now(),
	}
	own.keyring = newKeyring(keys, env.Log, own.keyChanged)
	var once sync.Once
	own.begin = func(ctx context.Context) (err error) {
		once.Do(func() { err = own.watch(ctx) })
		return err
	}
	return own
}

// settleWithin is how long [Own.Start] waits.
const settleWithin = 10 * time.Second

// Start reads the policies and the keys that they name, and follows them until ctx
// ends. It returns when they are known, so that no delivery that begins after it
// is told to wait; after some seconds, or when ctx ends, it returns without. It
// needs no running manager.
func (o *Own) Start(ctx context.Context) error {
	if err := o.begin(ctx); err != nil {
		return err
	}
	timer := time.NewTimer(settleWithin)
	defer timer.Stop()
	select {
	case <-o.settled:
	case <-timer.C:
	case <-ctx.Done():
	}
	return nil
}

// watch follows the policies until ctx ends. It returns at once.
func (o *Own) watch(ctx context.Context) error {
	o.keyring.run(ctx)
	policies := o.client.Resource(api.GroupVersion.WithResource("trustpolicies"))
	informer := toolscache.NewSharedIndexInformer(listWatch(policies), &unstructured.Unstructured{}, 0, nil)
	if err := informer.SetTransform(dialect.Slim); err != nil {
		return fault.New(fault.Internal, "cannot watch TrustPolicies: %s", err)
	}
	registration, err := informer.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
		AddFunc:    func(x any) { o.seen(x) },
		UpdateFunc: func(_, x any) { o.seen(x) },
		DeleteFunc: o.gone,
	})
	if err != nil {
		return fault.New(fault.Internal, "cannot watch TrustPolicies: %s", err)
	}
	go informer.RunWithContext(ctx)
	go func() {
		if toolscache.WaitForCacheSync(ctx.Done(), registration.HasSynced) {
			o.becomeKnown()
		}
	}()
	return nil
}

// becomeKnown ends the time in which every delivery is refused.
func (o *Own) becomeKnown() {
	o.mu.Lock()
	o.known = true
	entries := o.inForce()
	o.settle()
	o.mu.Unlock()
	for _, e := range entries {
		o.options.Record(e)
	}
	// Whoever has asked was told to wait.
	o.options.Changed()
}

// settle tells [Own.Start] once everything is known. o.mu is held.
func (o *Own) settle() {
	for _, p := range o.policies {
		if p.Waiting {
			return
		}
	}
	select {
	case <-o.settled:
	default:
		if o.known {
			close(o.settled)
		}
	}
}

// Demands returns what a delivery must prove: the policies that select it. Errors
// are *fault.Error of kind Waiting, while the policies or the keys that they name
// are not known yet: nothing is delivered until they are.
func (o *Own) Demands(s trust.Subject) (trust.Demands, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.known {
		return trust.Demands{}, fault.New(fault.Waiting, "the TrustPolicies are not known yet")
	}
	o.note(s)
	var policies []trust.Policy
	var key strings.Builder
	for _, name := range slices.Sorted(maps.Keys(o.policies)) {
		p := o.policies[name]
		switch {
		case !p.Selects(s):
		case p.Waiting:
			return trust.Demands{}, fault.New(fault.Waiting, "the keys of TrustPolicy %s have not been read yet", name)
		default:
			policies = append(policies, p.Policy)
			key.WriteString(name + "\n")
		}
	}
	demands, ok := o.made[key.String()]
	if !ok {
		demands = trust.NewDemands(policies...)
		o.made[key.String()] = demands
	}
	return demands, nil
}

// seen takes in a policy as it is now.
func (o *Own) seen(x any) {
	u, ok := x.(*unstructured.Unstructured)
	if !ok {
		return
	}
	o.mu.Lock()
	before := o.policies[u.GetName()]
	if before != nil && before.object.GetUID() == u.GetUID() && before.object.GetGeneration() == u.GetGeneration() {
		before.object = u // only its status or its metadata moved
		o.mu.Unlock()
		return
	}
	now := &current{Compiled: Compile(u, o.keyring.read), object: u, what: "created", by: dialect.LastWriter(u)}
	if before != nil && before.object.GetUID() == u.GetUID() {
		now.what = "changed"
	}
	o.policies[u.GetName()] = now
	o.keyring.keep(o.refs())
	o.changed(before, now)
}

// gone takes in that a policy is deleted.
func (o *Own) gone(x any) {
	if tombstone, ok := x.(toolscache.DeletedFinalStateUnknown); ok {
		x = tombstone.Obj
	}
	u, ok := x.(*unstructured.Unstructured)
	if !ok {
		return
	}
	o.mu.Lock()
	before := o.policies[u.GetName()]
	if before == nil {
		o.mu.Unlock()
		return
	}
	delete(o.policies, u.GetName())
	delete(o.wrote, u.GetName())
	o.keyring.keep(o.refs())
	o.changed(before, nil)
}

// keyChanged compiles the policies anew that name what has changed.
func (o *Own) keyChanged(r Ref, by []audit.Person) {
	o.mu.Lock()
	names := slices.Sorted(maps.Keys(o.policies))
	o.mu.Unlock()
	for _, name := range names {
		o.mu.Lock()
		before := o.policies[name]
		if before == nil || !slices.Contains(before.Refs, r) {
			o.mu.Unlock()
			continue
		}
		now := &current{Compiled: Compile(before.object, o.keyring.read), object: before.object, what: "changed: the content of " + r.String(), by: by}
		if before.Waiting {
			now.what, now.by = before.what, before.by
		}
		o.policies[name] = now
		o.changed(before, now)
	}
}

// changed tells of a policy that was one thing and is another, if that makes a
// difference. A policy of which the keys are being read makes one when they have
// been. o.mu is held, and is not afterwards.
func (o *Own) changed(before, now *current) {
	tell := o.known && (before == nil || now == nil || before.print != now.print || before.Waiting != now.Waiting)
	clear(o.made)
	var e audit.Entry
	if now == nil {
		// Who deletes an object is not told on it.
		e = o.entry(before, "deleted", nil)
	} else {
		e = o.entry(now, now.what, now.by)
		tell = tell && !now.Waiting
		o.trigger.Add(types.NamespacedName{Name: now.Policy.Name}, dialect.Normal)
	}
	o.settle()
	o.mu.Unlock()
	if tell {
		o.options.Record(e)
		o.options.Changed()
	}
}

// refs are what the policies name. o.mu is held.
func (o *Own) refs() map[Ref]bool {
	named := map[Ref]bool{}
	for _, p := range o.policies {
		for _, r := range p.Refs {
			named[r] = true
		}
	}
	return named
}
