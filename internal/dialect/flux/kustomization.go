package flux

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/fluxcd/pkg/apis/meta"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/holdfastcd/holdfast/internal/cluster"
	"github.com/holdfastcd/holdfast/internal/delivery"
	"github.com/holdfastcd/holdfast/internal/dialect"
	"github.com/holdfastcd/holdfast/internal/fault"
)

// kustomizations reconciles Kustomizations. A reconciliation is one pass of the
// engine, and at most one write of the status.
type kustomizations struct {
	env     *dialect.Env
	options Options
	desk    *desk
	sources *desk
	catalog *catalog
	trigger *dialect.Trigger

	mu       sync.Mutex
	memories map[types.NamespacedName]*memory
}

// retractCheck is the pace of looking at a deletion that is under way.
const retractCheck = 30 * time.Second

// memory is what is remembered of a Kustomization between passes. Losing it
// costs nothing but time.
type memory struct {
	mu sync.Mutex // held by the pass; whoever else would look does not wait
	// unsaved is an inventory that could not be written: what was applied must
	// not be forgotten.
	unsaved  []delivery.Entry
	patience patience
	failures int
}

// patience measures how long something is being waited for.
type patience struct {
	what  string
	since time.Time
	spent time.Duration // when it was lost; until it is found again, time stands still
}

// waited returns for how long what is being waited for.
func (p *patience) waited(what string, now time.Time) time.Duration {
	if p.what != what {
		*p = patience{what: what, since: now}
	}
	if p.spent > 0 {
		return p.spent
	}
	return now.Sub(p.since)
}

// settle notes how the wait stands after a verdict.
func (p *patience) settle(v verdict, waited time.Duration, now time.Time) {
	switch {
	case v.pending() && p.spent > 0: // hope again
		p.since, p.spent = now, 0
	case v.pending():
	case v.ready == "True":
		*p = patience{}
	default:
		p.spent = max(waited, 1)
	}
}

func (c *kustomizations) memory(name types.NamespacedName) *memory {
	c.mu.Lock()
	defer c.mu.Unlock()
	m, ok := c.memories[name]
	if !ok {
		m = &memory{}
		c.memories[name] = m
	}
	return m
}

// forget drops what is remembered of a Kustomization that does not exist.
func (c *kustomizations) forget(name types.NamespacedName) {
	c.mu.Lock()
	_, known := c.memories[name]
	delete(c.memories, name)
	c.mu.Unlock()
	if known {
		c.env.Engine.Forget(deliveryID(name))
	}
}

func deliveryID(name types.NamespacedName) delivery.ID {
	return delivery.ID{Kind: kustomizev1.KustomizationKind, Namespace: name.Namespace, Name: name.Name}
}

// Reconcile implements the controller runtime's reconciler.
func (c *kustomizations) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	after, err := c.reconcile(ctx, req.NamespacedName)
	switch {
	case apierrors.IsConflict(err): // it changed since it was read: do it again
		after, err = time.Millisecond, nil
	case apierrors.IsNotFound(err): // the end of the object is on its way
		err = nil
	}
	// What comes by the clock is not urgent, whatever brought it here this time.
	priority := int(dialect.Untouched)
	return reconcile.Result{RequeueAfter: after, Priority: &priority}, err
}

// reconcile does one pass and returns when the next one is due by the clock; 0:
// an event will bring it.
func (c *kustomizations) reconcile(ctx context.Context, name types.NamespacedName) (time.Duration, error) {
	u, err := c.desk.get(ctx, name)
	if err != nil {
		return 0, err
	}
	if u == nil {
		c.forget(name)
		return 0, nil
	}
	m := c.memory(name)
	m.mu.Lock()
	defer m.mu.Unlock()
	ks, bad := decode[kustomizev1.Kustomization](u)
	switch {
	case !ks.DeletionTimestamp.IsZero():
		return c.retract(ctx, u, ks, m)
	case ks.Spec.Suspend:
		return 0, nil
	}
	return c.deliver(ctx, u, ks, bad, m)
}

// deliver does a pass over a living Kustomization.
func (c *kustomizations) deliver(ctx context.Context, u *unstructured.Unstructured, ks *kustomizev1.Kustomization, bad *fault.Error, m *memory) (time.Duration, error) {
	start := c.env.Clock()
	o := outcome{
		generation: ks.Generation, requested: requested(ks.Annotations), path: ks.Spec.Path,
		wait: ks.Spec.Wait, timeout: ks.GetTimeout(),
	}
	spec, known := c.prepare(ctx, u, ks, bad, &o)
	if !known {
		return 0, nil // the source is about to be looked at; it will tell
	}
	if o.early == nil {
		if err := c.desk.setFinalizer(ctx, u, true); err != nil {
			return 0, err
		}
		spec.Inventory = union(spec.Inventory, m.unsaved)
		o.rendered = !c.env.Engine.Unchanged(spec)
		report := c.run(ctx, spec, o.timeout)
		o.report = &report
	}
	o.now = c.env.Clock()
	o.took = o.now.Sub(start)
	o.waited = m.patience.waited(fmt.Sprintf("%s %d", o.revision, o.generation), o.now)
	v := o.judge()
	m.patience.settle(v, o.waited, o.now)
	if err := c.tell(ctx, u, ks, o, v, m); err != nil {
		return 0, err
	}
	return c.due(ks, o, v, m), nil
}

// run does the engine's pass, for no longer than timeout.
func (c *kustomizations) run(ctx context.Context, spec delivery.Spec, timeout time.Duration) delivery.Report {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return c.env.Engine.Deliver(ctx, spec)
}

// prepare makes the spec of the delivery, or says in o why there is none. It
// reports false if the source was not looked at yet.
func (c *kustomizations) prepare(ctx context.Context, u *unstructured.Unstructured, ks *kustomizev1.Kustomization, bad *fault.Error, o *outcome) (delivery.Spec, bool) {
	stall := func(err error) (delivery.Spec, bool) {
		o.early, o.stalled = asFault(err), true
		o.reason = specReason(o.early.Kind)
		return delivery.Spec{}, true
	}
	if bad != nil {
		return stall(bad)
	}
	// The fields as written, because the API server may know more of them than
	// this version's types.
	if raw, ok := u.Object["spec"].(map[string]any); ok {
		if err := checkFields(raw, ks); err != nil {
			return stall(err)
		}
	}
	name := types.NamespacedName{Namespace: ks.Namespace, Name: ks.Spec.SourceRef.Name}
	e, looked := c.catalog.get(name)
	spec, err := Spec(ks, e.revision, c.options)
	if err != nil {
		return stall(err)
	}
	o.permissive = spec.Account.User == ""
	if e.has() {
		o.revision = e.label
		return spec, true
	}
	o.reason = meta.ArtifactFailedReason
	if looked && e.err != nil {
		o.early = fault.New(fault.NotFound, "Source artifact not found: GitRepository/%s: %s", name, e.err)
		return delivery.Spec{}, true
	}
	source, err := c.sources.get(ctx, name)
	switch {
	case err != nil:
		o.early = fault.New(fault.Unreachable, "GitRepository/%s cannot be read: %s", name, err).Because(err)
	case source == nil:
		o.early = fault.New(fault.NotFound, "Source artifact not found: GitRepository/%s does not exist", name)
	}
	return delivery.Spec{}, o.early != nil
}

// tell writes status and events, if there is anything new.
func (c *kustomizations) tell(ctx context.Context, u *unstructured.Unstructured, ks *kustomizev1.Kustomization, o outcome, v verdict, m *memory) error {
	status := next(ks.Status, o)
	if o.report != nil {
		m.unsaved = o.report.Inventory // until it is written
	}
	written, err := c.desk.setStatus(ctx, u, &ks.Status, &status)
	if err != nil {
		return err
	}
	m.unsaved = nil
	if o.report != nil {
		if text, drift := news(*o.report); drift {
			c.env.Events.Event(u, corev1.EventTypeNormal, reasonDrift, text)
		} else if text != "" {
			c.env.Events.Event(u, corev1.EventTypeNormal, meta.ReconciliationSucceededReason, text)
		}
	}
	if written && v.ready == "False" {
		c.env.Events.Event(u, corev1.EventTypeWarning, v.reason, clip(v.message, maxEvent))
		c.env.Log.Warn("a delivery failed", "kustomization", ks.Namespace+"/"+ks.Name, "reason", v.reason, "error", v.message)
	}
	return nil
}

// due returns when the next pass is due by the clock.
func (c *kustomizations) due(ks *kustomizev1.Kustomization, o outcome, v verdict, m *memory) time.Duration {
	interval := spread(max(ks.Spec.Interval.Duration, minInterval), ks.UID)
	retry := ks.GetRetryInterval()
	if ks.Spec.RetryInterval == nil {
		retry = min(retry, mostRetry)
	}
	var after time.Duration
	switch {
	case v.stalled: // a change of the object brings the next
		return 0
	case o.early != nil: // its source does
		return interval
	case v.pending():
		m.failures = 0
		after = max(o.timeout-o.waited, minInterval)
	case v.ready == "True":
		m.failures = 0
		after = interval
	case v.sick, o.report.Err != nil && o.report.Err.Kind.Terminal():
		after = max(ks.GetRetryInterval(), minInterval)
	default:
		after = backOff(m.failures, retry)
		m.failures++
	}
	if o.report != nil && o.report.RetryAfter > 0 {
		after = min(after, o.report.RetryAfter)
	}
	return min(after, interval)
}

// retract removes what a Kustomization delivered, because it is being deleted.
func (c *kustomizations) retract(ctx context.Context, u *unstructured.Unstructured, ks *kustomizev1.Kustomization, m *memory) (time.Duration, error) {
	if !controllerutil.ContainsFinalizer(u, finalizer) {
		return 0, nil
	}
	spec := identity(ks, cluster.Account{})
	spec.Inventory = union(spec.Inventory, m.unsaved)
	if orphans(ks) || len(spec.Inventory) == 0 {
		return 0, c.release(ctx, u)
	}
	account, err := c.options.account(ks)
	if err != nil {
		c.abandon(u, spec, asFault(err))
		return 0, c.release(ctx, u)
	}
	spec.Account = account
	report, done := c.env.Engine.Retract(ctx, spec)
	if done {
		return 0, c.release(ctx, u)
	}
	if report.Err == nil || report.Err.Kind == fault.Waiting {
		return retractCheck, nil // events are faster; this is for what they miss
	}
	if gone, err := c.accountGone(ctx, ks); err == nil && gone {
		c.abandon(u, spec, report.Err)
		return 0, c.release(ctx, u)
	}
	status := *ks.Status.DeepCopy()
	b := board{conditions: &status.Conditions, generation: ks.Generation, now: c.env.Clock()}
	b.set(meta.ReadyCondition, "False", meta.PruneFailedReason, "cannot remove what was delivered: "+report.Err.Error())
	if _, err := c.desk.setStatus(ctx, u, &ks.Status, &status); err != nil {
		return 0, err
	}
	m.failures++
	return backOff(m.failures, mostRetry), nil
}

// abandon tells that objects stay behind.
func (c *kustomizations) abandon(u *unstructured.Unstructured, spec delivery.Spec, why *fault.Error) {
	c.env.Log.Warn("a deleted Kustomization leaves its objects behind", "delivery", spec.ID.String(), "objects", len(spec.Inventory), "error", why)
	c.env.Events.Eventf(u, corev1.EventTypeWarning, meta.PruneFailedReason,
		"%d objects stay in the cluster: %s", len(spec.Inventory), clip(why.Error(), maxEvent/2))
}

// release lets go of a Kustomization that is being deleted.
func (c *kustomizations) release(ctx context.Context, u *unstructured.Unstructured) error {
	return c.desk.setFinalizer(ctx, u, false)
}

// accountGone reports whether the account that delivers does not exist any more:
// then nobody can remove what it delivered. A missing right is no reason to leave
// objects behind: it can be granted.
func (c *kustomizations) accountGone(ctx context.Context, ks *kustomizev1.Kustomization) (bool, error) {
	name := ks.Spec.ServiceAccountName
	if name == "" {
		name = c.options.DefaultServiceAccount
	}
	if name == "" {
		return false, nil
	}
	// Holdfast may list, not get.
	var accounts corev1.ServiceAccountList
	err := c.env.Reader.List(ctx, &accounts, client.InNamespace(ks.Namespace), client.MatchingFields{"metadata.name": name})
	return len(accounts.Items) == 0, err
}

// offer tells those who deliver from a source that it has something new; those
// whose objects it changes come first.
func (c *kustomizations) offer(ctx context.Context, source types.NamespacedName, e edition) error {
	all, err := c.desk.list(ctx, client.InNamespace(source.Namespace), client.MatchingFields{bySource: source.Name})
	if err != nil {
		return err
	}
	for i := range all {
		name := types.NamespacedName{Namespace: all[i].GetNamespace(), Name: all[i].GetName()}
		c.trigger.Add(name, c.urgency(name, &all[i], e))
	}
	return nil
}

// urgency judges whether an edition changes what a Kustomization delivers.
func (c *kustomizations) urgency(name types.NamespacedName, u *unstructured.Unstructured, e edition) dialect.Priority {
	if !e.has() {
		return dialect.Normal
	}
	m := c.memory(name)
	if !m.mu.TryLock() {
		return dialect.Touched // its pass is under way
	}
	defer m.mu.Unlock()
	ks, bad := decode[kustomizev1.Kustomization](&unstructured.Unstructured{Object: map[string]any{
		"metadata": u.Object["metadata"], "spec": u.Object["spec"],
	}})
	if bad != nil {
		return dialect.Untouched
	}
	spec, err := Spec(ks, e.revision, c.options)
	if err != nil || c.env.Engine.Unchanged(spec) {
		return dialect.Untouched
	}
	return dialect.Touched
}

// asFault returns err as a fault; an error that nobody classified is Internal.
func asFault(err error) *fault.Error {
	if f, ok := errors.AsType[*fault.Error](err); ok {
		return f
	}
	return fault.New(fault.Internal, "%s", err).Because(err)
}
