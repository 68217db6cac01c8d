// Package own serves Holdfast's own kinds. It compiles TrustPolicies, with the keys
// that they name, to what deliveries must prove, says which deliveries they are
// for, and tells on each policy how it stands. It judges no delivery: that is done
// where commits and images are verified.
package own

import (
	"context"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	api "github.com/holdfastcd/holdfast/api/holdfast/v1alpha1"
	"github.com/holdfastcd/holdfast/internal/audit"
	"github.com/holdfastcd/holdfast/internal/dialect"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/trust"
)

// Own serves the TrustPolicies of a cluster. Of a delivery that has asked it is told what
// they say.
type Own struct {
	*roster[*current, judgement]

	client  dynamic.Interface
	keyring *keyring
	trigger *dialect.Trigger
	made    map[string]trust.Demands
}

// judgement is which policies refuse a delivery, and which would but only audit.
type judgement struct{ refused, unproven []string }

// current is a policy as it is now; what happened to it is told when its keys have been
// read.
type current struct {
	Compiled
	*kept
}

// Setup has a manager serve TrustPolicies. They are known once [Own.Start] has
// returned, or soon after the manager has started. Errors are *fault.Error:
// NotFound if the cluster does not serve the kind, Unreachable, Internal.
func Setup(mgr ctrl.Manager, env *dialect.Env, o Options) (*Own, error) {
	plain, err := serving(mgr, api.TrustPolicyKind)
	if err != nil {
		return nil, err
	}
	typed, err := kubernetes.NewForConfigAndClient(mgr.GetConfig(), mgr.GetHTTPClient())
	if err != nil {
		return nil, noClient(err)
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
	own := &Own{
		roster: newRoster[*current, judgement](api.TrustPolicyKind, env, o),
		client: c, trigger: &dialect.Trigger{}, made: map[string]trust.Demands{},
	}
	own.watch, own.waits = own.follow, own.reading
	own.look = func(name string) { own.trigger.Add(types.NamespacedName{Name: name}, dialect.Untouched) }
	own.keyring = newKeyring(keys, env.Log, own.keyChanged)
	return own
}

// follow follows the policies until ctx ends. It returns at once.
func (o *Own) follow(ctx context.Context) error {
	o.keyring.run(ctx)
	return subscribe(ctx, o.client, "trustpolicies", subscriber{seen: o.seen, gone: o.gone, known: o.becomeKnown})
}

// reading reports whether keys have not been read yet. o.mu is held.
func (o *Own) reading() bool {
	for _, p := range o.objects {
		if p.Waiting {
			return true
		}
	}
	return false
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
	for _, name := range slices.Sorted(maps.Keys(o.objects)) {
		p := o.objects[name]
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
func (o *Own) seen(u *unstructured.Unstructured) {
	o.mu.Lock()
	before, fresh := o.take(u)
	if fresh == nil {
		o.mu.Unlock()
		return
	}
	now := &current{Compile(u, o.keyring.read), fresh}
	o.objects[u.GetName()] = now
	o.keyring.keep(o.refs())
	o.changed(before, now)
}

// gone takes in that a policy is deleted.
func (o *Own) gone(u *unstructured.Unstructured) {
	o.mu.Lock()
	before, ok := o.drop(u.GetName())
	if !ok {
		o.mu.Unlock()
		return
	}
	o.keyring.keep(o.refs())
	o.changed(before, nil)
}

// keyChanged compiles the policies anew that name what has changed.
func (o *Own) keyChanged(r Ref, by []audit.Person) {
	o.mu.Lock()
	names := slices.Sorted(maps.Keys(o.objects))
	o.mu.Unlock()
	for _, name := range names {
		o.mu.Lock()
		before := o.objects[name]
		if before == nil || !slices.Contains(before.Refs, r) {
			o.mu.Unlock()
			continue
		}
		now := &current{Compile(before.object, o.keyring.read), &kept{before.object, "changed: the content of " + r.String(), by}}
		if before.Waiting {
			now.what, now.by = before.what, before.by
		}
		o.objects[name] = now
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
		e = o.entry(before.kept, "deleted", nil, before.stands())
	} else {
		e = o.entry(now.kept, now.what, now.by, now.stands())
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
	for _, p := range o.objects {
		for _, r := range p.Refs {
			named[r] = true
		}
	}
	return named
}
