package flux

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/fluxcd/pkg/apis/meta"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/holdfastcd/holdfast/internal/cluster"
	"github.com/holdfastcd/holdfast/internal/delivery"
	"github.com/holdfastcd/holdfast/internal/dialect"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/secret"
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

	memories dialect.Memories[memory]
	checks   watchlist
}

// retractCheck is the pace of looking at a deletion that is under way.
const retractCheck = 30 * time.Second

// memory is what is remembered of a Kustomization between passes. Losing it
// costs nothing but time.
type memory struct {
	mu sync.Mutex // held by the pass; whoever else would look does not wait
	// unsaved is an inventory that could not be written: what was applied must
	// not be forgotten.
	unsaved   []delivery.Entry
	patience  patience
	failures  int
	behind    time.Time // since when its dependencies are ready, but not on its revision
	variables variables
	opener    secret.Opener // of its last pass; nil: there was none
	finding   string        // what was last said of it while it is only observed
	pauses    dialect.Pauses
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
	case v.ready == metav1.ConditionTrue:
		*p = patience{}
	default:
		p.spent = max(waited, 1)
	}
}

// forget drops what is remembered of a Kustomization that does not exist.
func (c *kustomizations) forget(name types.NamespacedName) {
	c.checks.set(name, nil)
	if c.env.Decryption != nil {
		c.env.Decryption.Release(deliveryID(name))
	}
	m := c.memories.Drop(name)
	if m == nil {
		return
	}
	if m.finding != "" {
		c.env.EndFinding(deliveryID(name))
	}
	c.env.Engine.Forget(deliveryID(name))
}

func deliveryID(name types.NamespacedName) delivery.ID {
	return delivery.ID{Kind: kustomizev1.KustomizationKind, Namespace: name.Namespace, Name: name.Name}
}

// Reconcile implements the controller runtime's reconciler.
func (c *kustomizations) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	defer c.trigger.Settled(req.NamespacedName)
	return dialect.Settle(c.reconcile(ctx, req.NamespacedName))
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
	m := c.memories.Of(name)
	m.mu.Lock()
	defer m.mu.Unlock()
	observing := c.env.Observing(u)
	if gone, err := c.env.HandBack(ctx, u); gone || err != nil {
		return 0, err
	}
	ks, bad := decode[kustomizev1.Kustomization](u)
	ks.Spec.Suspend = dialect.Suspended(u)
	if !observing {
		m.pauses.See(c.env, u, ks.Spec.Suspend)
	}
	switch {
	case observing && (ks.Spec.Suspend || !ks.DeletionTimestamp.IsZero()): // whoever serves it removes what it delivered
		m.finding = ""
		c.env.EndFinding(deliveryID(name))
		return 0, nil
	case !ks.DeletionTimestamp.IsZero():
		return c.retract(ctx, u, ks, m)
	case ks.Spec.Suspend:
		return 0, nil
	}
	return c.deliver(ctx, pass{u: u, ks: ks, bad: bad, memory: m, observing: observing})
}

// pass is one look at a living Kustomization.
type pass struct {
	u         *unstructured.Unstructured // as it is written
	ks        *kustomizev1.Kustomization
	bad       *fault.Error // its spec cannot be read
	memory    *memory
	observing bool // nothing may be written
}

// deliver does a pass over a living Kustomization.
func (c *kustomizations) deliver(ctx context.Context, p pass) (time.Duration, error) {
	start, ks, m := c.env.Clock(), p.ks, p.memory
	o := outcome{
		generation: ks.Generation, requested: requested(ks.Annotations), path: ks.Spec.Path,
		wait: judged(ks), timeout: ks.GetTimeout(),
	}
	spec, after, ready := c.prepare(ctx, p, &o)
	if !ready {
		return after, nil
	}
	if o.early == nil {
		if err := c.run(ctx, p, spec, &o); err != nil {
			return 0, err
		}
	}
	o.now = c.env.Clock()
	o.took = o.now.Sub(start)
	o.waited = m.patience.waited(fmt.Sprintf("%s %d", o.revision, o.generation), o.now)
	if p.observing {
		m.finding = c.env.Finding(spec.ID, o.found(), m.finding)
		return spread(max(ks.Spec.Interval.Duration, minInterval), ks.UID), nil
	}
	v := o.judge()
	m.patience.settle(v, o.waited, o.now)
	if err := c.tell(ctx, p, o, v); err != nil {
		return 0, err
	}
	return c.due(ks, o, v, m), nil
}

// run does the engine's pass, for no longer than the timeout.
func (c *kustomizations) run(ctx context.Context, p pass, spec delivery.Spec, o *outcome) error {
	if !p.observing {
		if err := c.desk.setFinalizer(ctx, p.u, true); err != nil {
			return err
		}
	}
	spec.Inventory = union(spec.Inventory, p.memory.unsaved)
	spec.Observe = p.observing
	o.rendered = !c.env.Engine.Unchanged(spec)
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	report := c.env.Engine.Deliver(ctx, spec)
	o.report = &report
	if !p.observing {
		c.alert(p.u, o.revision, report.Alerts)
	}
	if len(p.ks.Spec.HealthChecks) > 0 && !p.ks.Spec.Wait && !p.observing {
		o.checked = c.check(ctx, p.ks, spec, report)
	}
	return nil
}

// alert tells what came up once. That a revision is refused is told with the status.
func (c *kustomizations) alert(u *unstructured.Unstructured, revision string, alerts []delivery.Alert) {
	for _, a := range alerts {
		if a.Reason != delivery.AlertRefused && a.Reason != delivery.AlertViolation {
			c.event(u, revision, corev1.EventTypeWarning, a.Reason, a.Message)
		}
	}
}

// prepare makes the spec of the delivery, or says in o why there is none. It
// reports false if there is nothing to tell yet, and when to look again (0: an
// event brings it).
func (c *kustomizations) prepare(ctx context.Context, p pass, o *outcome) (delivery.Spec, time.Duration, bool) {
	ks := p.ks
	e, looked := c.catalog.get(sourceOf(ks))
	spec, err := c.plain(p, e)
	if err != nil {
		o.early, o.stalled = fault.From(err), true
		o.reason = specReason(o.early.Kind)
		return delivery.Spec{ID: deliveryID(nameOf(ks))}, 0, true
	}
	o.permissive = permitted(ks, spec)
	if !e.has() {
		return spec, 0, c.missing(ctx, sourceOf(ks), e, looked, o)
	}
	if wait, silent := c.depend(ctx, p, e, o); o.early != nil || silent {
		return spec, wait, !silent
	}
	o.revision = e.label
	options := c.options
	options.Variables = c.variables(ctx, p, e.label)
	if spec.Substitute, err = options.substitution(ks, spec.Account); err != nil {
		o.early, o.reason = fault.From(err), meta.BuildFailedReason
	}
	if spec.Opener, err = c.opener(ctx, p, spec.ID); err != nil && o.early == nil {
		o.early, o.reason = fault.From(err), meta.BuildFailedReason
	}
	if err := c.env.Demand(&spec, ks, "", e.url); err != nil {
		o.early, o.reason = fault.From(err), reasonUntrusted
	}
	if asked := requested(ks.Annotations); asked != "" && asked != ks.Status.LastHandledReconcileAt {
		spec.By = dialect.Asked(p.u)
	}
	return spec, 0, true
}

// opener returns what opens sealed files, and remembers it for [kustomizations.urgency].
func (c *kustomizations) opener(ctx context.Context, p pass, id delivery.ID) (secret.Opener, error) {
	options := c.options
	if c.env.Decryption != nil {
		if p.ks.Spec.Decryption == nil {
			c.env.Decryption.Release(id)
		}
		options.Opener = func(namespace, name string) (secret.Opener, error) {
			return c.env.Decryption.Named(ctx, id, namespace, name)
		}
	}
	opener, err := options.opener(p.ks)
	p.memory.opener = opener
	return opener, err
}

// plain judges the object itself: its fields as written, because the API server
// may know more of them than this version's types.
func (c *kustomizations) plain(p pass, e edition) (delivery.Spec, error) {
	if p.bad != nil {
		return delivery.Spec{}, p.bad
	}
	if raw, ok := p.u.Object["spec"].(map[string]any); ok {
		if err := c.options.checkFields(raw, p.ks); err != nil {
			return delivery.Spec{}, err
		}
	}
	return c.options.plain(p.ks, e.revision)
}

// missing says in o why there is no source to deliver; false if it was not looked
// at yet: then it will tell.
func (c *kustomizations) missing(ctx context.Context, name types.NamespacedName, e edition, looked bool, o *outcome) bool {
	o.reason = meta.ArtifactFailedReason
	if looked && e.err != nil {
		o.early = fault.New(fault.NotFound, "Source artifact not found: GitRepository/%s: %s", name, e.err)
		return true
	}
	source, err := c.sources.get(ctx, name)
	switch {
	case err != nil:
		o.early = fault.New(fault.Unreachable, "GitRepository/%s cannot be read: %s", name, err).Because(err)
	case source == nil:
		o.early = fault.New(fault.NotFound, "Source artifact not found: GitRepository/%s does not exist", name)
	}
	return o.early != nil
}

func nameOf(ks *kustomizev1.Kustomization) types.NamespacedName {
	return types.NamespacedName{Namespace: ks.Namespace, Name: ks.Name}
}

// sourceOf names the source of a Kustomization.
func sourceOf(ks *kustomizev1.Kustomization) types.NamespacedName {
	return types.NamespacedName{Namespace: cmp.Or(ks.Spec.SourceRef.Namespace, ks.Namespace), Name: ks.Spec.SourceRef.Name}
}

// permitted says what only permissive mode permits of a Kustomization; empty if
// it needs no such permission.
func permitted(ks *kustomizev1.Kustomization, spec delivery.Spec) string {
	var parts []string
	if spec.Account.User == "" {
		parts = append(parts, "delivered with Holdfast's own identity, because spec.serviceAccountName is not set")
	}
	if refs := elsewhere(ks); len(refs) > 0 {
		parts = append(parts, strings.Join(refs, " and ")+" refers to another namespace")
	}
	if len(parts) == 0 {
		return ""
	}
	return strings.Join(parts, "; ") + ": permissive mode is on"
}

// tell writes status and events, if there is anything new, and wakes those who
// wait for it.
func (c *kustomizations) tell(ctx context.Context, p pass, o outcome, v verdict) error {
	status := next(p.ks.Status, o)
	if o.report != nil {
		p.memory.unsaved = o.report.Inventory // until it is written
	}
	written, err := c.desk.setStatus(ctx, p.u, &p.ks.Status, &status)
	if err != nil {
		return err
	}
	p.memory.unsaved = nil
	if o.report != nil {
		if text, drift := news(*o.report); drift {
			c.event(p.u, o.revision, corev1.EventTypeNormal, reasonDrift, text)
		} else if text != "" {
			c.event(p.u, o.revision, corev1.EventTypeNormal, meta.ReconciliationSucceededReason, text)
		}
	}
	if !written {
		return nil
	}
	c.wake(ctx, nameOf(p.ks))
	if v.ready != metav1.ConditionFalse {
		return nil
	}
	kind := corev1.EventTypeWarning
	if v.reason == meta.DependencyNotReadyReason { // it happens with every commit
		kind = corev1.EventTypeNormal
	}
	c.event(p.u, o.revision, kind, v.reason, v.message)
	c.env.Log.Warn("a delivery failed", "kustomization", nameOf(p.ks).String(), "reason", v.reason, "error", v.message)
	return nil
}

// event writes an event that carries the revision as Flux's do.
func (c *kustomizations) event(u *unstructured.Unstructured, revision, kind, reason, message string) {
	c.env.Events.AnnotatedEventf(u, map[string]string{revisionMark: revision}, kind, reason, "%s", clip(message, maxEvent))
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
	case v.pending():
		m.failures = 0
		after = max(o.timeout-o.waited, minInterval)
	case v.ready == metav1.ConditionTrue:
		m.failures = 0
		after = interval
	case v.event: // of another object, or a word of somebody's
		after = interval
	case v.sick, v.terminal:
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
		c.abandon(u, spec, fault.From(err))
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
	b.set(meta.ReadyCondition, metav1.ConditionFalse, meta.PruneFailedReason, "cannot remove what was delivered: "+report.Err.Error())
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
	all, err := c.desk.list(ctx, client.MatchingFields{bySource: source.String()})
	if err != nil {
		return err
	}
	c.trigger.AddAll(func(yield func(types.NamespacedName, dialect.Priority) bool) {
		for i := range all {
			name := client.ObjectKeyFromObject(&all[i])
			if !yield(name, c.urgency(name, &all[i], e)) {
				return
			}
		}
	})
	return nil
}

// urgency judges whether an edition changes what a Kustomization delivers.
func (c *kustomizations) urgency(name types.NamespacedName, u *unstructured.Unstructured, e edition) dialect.Priority {
	if !e.has() {
		return dialect.Normal
	}
	m := c.memories.Of(name)
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
	options := c.options
	options.Variables = m.variables.known
	options.Opener = func(string, string) (secret.Opener, error) { return m.opener, nil }
	spec, err := Spec(ks, e.revision, options)
	if err == nil {
		err = c.env.Demand(&spec, ks, "", e.url)
	}
	if err != nil || c.env.Engine.Unchanged(spec) {
		return dialect.Untouched
	}
	return dialect.Touched
}
