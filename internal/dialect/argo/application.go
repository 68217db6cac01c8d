package argo

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	api "github.com/holdfastcd/holdfast/api/argo/v1alpha1"
	"github.com/holdfastcd/holdfast/internal/audit"
	"github.com/holdfastcd/holdfast/internal/delivery"
	"github.com/holdfastcd/holdfast/internal/dialect"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/secret"
	"github.com/holdfastcd/holdfast/internal/source"
)

// Reconcile does one pass over an Application, and at most one write of it.
func (a *Argo) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	defer a.trigger.Settled(req.NamespacedName)
	return dialect.Settle(a.reconcile(ctx, req.NamespacedName))
}

// reconcile returns when the next pass is due by the clock; 0: an event brings it.
func (a *Argo) reconcile(ctx context.Context, name types.NamespacedName) (time.Duration, error) {
	u, err := a.desk.get(ctx, name)
	if err != nil {
		return 0, err
	}
	if u == nil {
		a.forget(name)
		return 0, nil
	}
	m := a.memories.Of(name)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.project = projectOf(u)
	observing := a.env.Observing(u)
	if given, err := a.env.HandBack(ctx, u); given || err != nil {
		return 0, err
	}
	if observing {
		return a.observe(ctx, u, m), nil
	}
	app, bad := Decode(u)
	m.pauses.See(a.env, u, dialect.Suspended(u))
	switch {
	case dialect.Suspended(u):
		return 0, nil
	case !app.DeletionTimestamp.IsZero():
		return a.retract(ctx, u, app, m)
	}
	a.refresh(app)
	f, idle := a.pass(ctx, app, bad, m)
	if idle > 0 {
		// Nothing was looked at; only a request to refresh may be left to answer.
		return idle, a.desk.update(ctx, u, app.Status, app.Status, answers{refresh: app.Annotations[annRefresh] != ""})
	}
	return a.conclude(ctx, u, app, f, m)
}

// refresh has the source fetched anew if somebody asks for it.
func (a *Argo) refresh(app *api.Application) {
	if app.Annotations[annRefresh] != "" && app.Spec.Source != nil {
		a.env.Hub.Refresh(app.Spec.Source.RepoURL)
	}
}

// pass finds out how source and cluster stand, and delivers if that is wanted. If
// it is too early for anything, it says for how long.
func (a *Argo) pass(ctx context.Context, app *api.Application, bad error, m *memory) (f found, idle time.Duration) {
	f = found{at: a.env.Clock()}
	if f.ended = stopped(app, f.at); f.ended != nil {
		return f, 0
	}
	o, err := orderOf(app)
	if err != nil {
		f.order, f.ended = o, o.refuse(app, err, f.at)
		return f, 0
	}
	f.order = o
	spec, err := a.want(ctx, app, bad, &f)
	if f.ended != nil {
		return f, 0
	}
	if fault.KindOf(err) == fault.Waiting {
		return f, dialect.StillFetching
	}
	if err != nil {
		if o != nil {
			f.attempt = next(app, o, "", false, f.at)
			return f, f.attempt.wait
		}
		return f, a.grace(app, &f, m)
	}
	m.failing = time.Time{}
	f.attempt = next(app, o, f.commit, app.Annotations[annRefresh] == "hard", f.at)
	if f.attempt.wait > 0 {
		return f, f.attempt.wait
	}
	spec.Inventory, m.opener = united(spec.Inventory, m.unsaved), spec.Opener
	return f, a.run(ctx, app, spec, &f, m)
}

// want finds out what is to be delivered, and notes what it learns in f, errors
// included.
func (a *Argo) want(ctx context.Context, app *api.Application, bad error, f *found) (delivery.Spec, error) {
	fail := func(as api.ApplicationConditionType, err error) (delivery.Spec, error) {
		f.as, f.err = as, fault.From(err)
		return delivery.Spec{}, err
	}
	if bad != nil {
		return fail(api.ConditionInvalidSpecError, bad)
	}
	if err := Validate(app, a.options); err != nil {
		return fail(api.ConditionInvalidSpecError, err)
	}
	wanted := f.order.app(app)
	project, err := a.project(ctx, app.Spec.Project)
	if err != nil {
		return fail(api.ConditionInvalidSpecError, err)
	}
	request, err := Request(wanted, project, a.options)
	if err != nil {
		return fail(api.ConditionInvalidSpecError, err)
	}
	if f.order != nil && f.order.target != "" {
		request.Ref = ref(f.order.target)
	}
	revision, err := a.look(ctx, app, request, project)
	if err != nil {
		return fail(api.ConditionComparisonError, err)
	}
	revision = f.order.found(revision, wanted)
	f.commit = revision.Commit
	if f.order.elsewhere(app) && !a.leadsTo(ctx, app, project, revision.Commit, f.order) {
		f.detour = true
		if syncsItself(app) && !f.order.pinned {
			f.ended = f.order.refuse(wanted, automatedStays(app), f.at)
			return delivery.Spec{}, nil
		}
	}
	spec, err := Spec(wanted, project, revision, a.options)
	if err != nil {
		return fail(api.ConditionInvalidSpecError, err)
	}
	if err := a.env.Demand(&spec, app, app.Spec.Project, wanted.Spec.Source.RepoURL); err != nil {
		return fail(api.ConditionComparisonError, err)
	}
	spec.Opener = a.opener(ctx, spec.ID, project)
	f.warn, f.sourceType = warnings(project, spec), sourceType(spec.Render)
	if f.order != nil {
		f.order.shape(&spec, wanted)
	}
	return spec, nil
}

// opener returns what opens the sealed files of an Application: with the keys that
// are for its project, whatever the Application says.
func (a *Argo) opener(ctx context.Context, id delivery.ID, project *Project) secret.Opener {
	if a.env.Decryption == nil {
		return dialect.Sealed("this process has no keys")
	}
	return a.env.Decryption.OfProject(ctx, id, a.env.ArgoNamespace, project.name)
}

// look fetches, and has the others that follow the same branch not wait for their
// turn to ask if it has moved.
func (a *Argo) look(ctx context.Context, app *api.Application, request source.Request, project *Project) (source.Revision, error) {
	revision, moved, err := a.fetch(ctx, request, project, poll(nameOf(app)))
	if err == nil && moved {
		a.pushes.add(push{source.NormalizeURL(request.URL), revision.Branch})
	}
	return revision, err
}

// leadsTo reports whether an Application's own source leads to a commit now, so that
// an order which names the commit asks for nothing else.
func (a *Argo) leadsTo(ctx context.Context, app *api.Application, project *Project, commit string, o *order) bool {
	if s := o.op.Sync.Source; s != nil && !sameSource(s, app.Spec.Source) {
		return false
	}
	request, err := Request(app, project, a.options)
	if err != nil {
		return false
	}
	own, err := a.look(ctx, app, request, project)
	return err == nil && own.Commit == commit
}

// graceful is for how long a repository may not answer before it is told: what was
// found before stays until then, as with Argo CD.
const graceful = 180 * time.Second

// grace returns when to ask a repository again that does not answer; 0: it is to be
// told that it does not, because it has been long enough, somebody wants to know,
// or nothing was ever found.
func (a *Argo) grace(app *api.Application, f *found, m *memory) time.Duration {
	before := app.Status.Sync.Status
	if compared := app.Status.Sync.ComparedTo.Source; !sameSource(compared, app.Spec.Source) {
		return 0 // what was found before was found elsewhere
	}
	if f.err.Kind != fault.Unreachable || f.order != nil || app.Annotations[annRefresh] != "" || before == "" || before == api.SyncStatusCodeUnknown {
		return 0
	}
	if m.failing.IsZero() {
		m.failing = f.at
	}
	if f.at.Sub(m.failing) >= graceful {
		return 0
	}
	return retryEvery
}

// run delivers or compares, as the attempt says.
func (a *Argo) run(ctx context.Context, app *api.Application, spec delivery.Spec, f *found, m *memory) (idle time.Duration) {
	if f.attempt.apply {
		a.noteRollback(app, spec, f)
		spec.Revert = spec.Revert || f.attempt.fresh
		report := a.env.Engine.Deliver(ctx, spec)
		f.report = &report
		return 0
	}
	// Events of a busy workload are many: they wait for their turn together.
	key := comparisonKey(app, spec)
	if wait := compareEvery - f.at.Sub(m.comparedAt); m.compared == key && wait > 0 && app.Annotations[annRefresh] == "" {
		return wait
	}
	m.compared, m.comparedAt = key, f.at
	spec.Observe, spec.Revert = true, true
	report := a.env.Engine.Deliver(ctx, spec)
	f.report = &report
	return 0
}

// noteRollback records that somebody asks for what was delivered before, when that
// begins.
func (a *Argo) noteRollback(app *api.Application, spec delivery.Spec, f *found) {
	before := slices.ContainsFunc(app.Status.History, func(h api.RevisionHistory) bool { return h.Revision == f.commit })
	if !f.detour || !before || f.order.ongoing(app.Status.OperationState) || spec.Observe {
		return
	}
	a.env.Engine.Record(audit.Entry{
		Action: audit.Rollback, Delivery: spec.ID.String(), UID: spec.UID, Who: spec.By,
		Source: &audit.Source{URL: spec.Revision.URL, Commit: f.commit},
	})
}

// observe tells what a pass over an Application would do that is not Holdfast's to
// deliver, and writes nothing. What somebody asks for by .operation is Argo CD's.
func (a *Argo) observe(ctx context.Context, u *unstructured.Unstructured, m *memory) time.Duration {
	app, bad := Decode(u)
	if !app.DeletionTimestamp.IsZero() || dialect.Suspended(u) {
		m.said, m.compared = "", ""
		a.env.EndFinding(deliveryID(nameOf(app)))
		return 0
	}
	f := found{at: a.env.Clock()}
	spec, err := a.want(ctx, app, bad, &f)
	if f.err == nil {
		if wait := compareEvery - f.at.Sub(m.comparedAt); m.compared == comparisonKey(app, spec) && wait > 0 {
			return wait
		}
		m.compared, m.comparedAt = comparisonKey(app, spec), f.at
	}
	report := delivery.Report{Err: f.err, Inventory: inventory(app)}
	if err == nil {
		spec.Observe, spec.Revert = true, true
		report = a.env.Engine.Deliver(ctx, spec)
	}
	m.said = a.env.Finding(deliveryID(nameOf(app)), report, m.said)
	return a.due(app, f, nil)
}

// comparisonKey names what a comparison depends on, but for the cluster.
func comparisonKey(app *api.Application, spec delivery.Spec) string {
	b, err := json.Marshal(app.Spec)
	if err != nil {
		return ""
	}
	keys := ""
	if spec.Opener != nil {
		keys = spec.Opener.ID()
	}
	return fmt.Sprintf("%s %s %s %s %s %t %s", spec.Revision.Commit, spec.Rules.Version, spec.Trust.Version+spec.Policies.Version, keys, app.UID, app.Operation != nil, b)
}

// fetch gets the revision that a request asks for, with the credential that
// Applications of the project have for it, and says whether what it follows has
// moved since anybody looked.
func (a *Argo) fetch(ctx context.Context, request source.Request, project *Project, maxAge time.Duration) (source.Revision, bool, error) {
	var err error
	if request.Credential, err = a.secrets.find(ctx, request.URL, project.name); err != nil {
		return source.Revision{}, false, err
	}
	revision, err := a.env.Hub.Get(ctx, request, maxAge)
	switch {
	case err == nil:
		return revision, a.noteHead(request, revision.Commit), nil
	case fault.KindOf(err) == fault.Unauthorized && request.Credential.ID == "":
		return revision, false, fault.From(err).WithHint(
			"in namespace %s, no Secret with the label %s: %s has this url, and none of type %s the beginning of it",
			a.env.ArgoNamespace, labelSecretType, secretRepository, secretTemplate)
	}
	return revision, false, err
}

func nameOf(app *api.Application) types.NamespacedName {
	return types.NamespacedName{Namespace: app.Namespace, Name: app.Name}
}

// united is an inventory with what could not be written of it before.
func united(inventory, unsaved []delivery.Entry) []delivery.Entry {
	known := make(map[string]bool, len(inventory))
	for _, e := range inventory {
		known[e.ID.String()] = true
	}
	for _, e := range unsaved {
		if !known[e.ID.String()] {
			inventory = append(inventory, e)
		}
	}
	return inventory
}

// warnings are the conditions that stand although all is well.
func warnings(project *Project, spec delivery.Spec) []api.ApplicationCondition {
	var list []api.ApplicationCondition
	if spec.Account.User == "" {
		list = append(list, api.ApplicationCondition{
			Type: ConditionPermissive,
			Message: "project " + project.name + " names no service account for this destination: " +
				"the objects are written with Holdfast's own identity, because it runs with --permissive",
		})
	}
	if project.warning != "" {
		list = append(list, api.ApplicationCondition{Type: api.ConditionOrphanedResourceWarning, Message: project.warning})
	}
	return list
}

// conclude writes what a pass found, tells of it, and says when to look again.
func (a *Argo) conclude(ctx context.Context, u *unstructured.Unstructured, app *api.Application, f found, m *memory) (time.Duration, error) {
	if f.report != nil {
		a.env.Alert(u, f.report.Alerts)
	}
	status := *app.Status.DeepCopy()
	if f.ended != nil {
		status.OperationState = f.ended
	} else {
		status = transition(app, f)
	}
	over := app.Operation != nil && !running(status.OperationState)
	answered := answers{refresh: app.Annotations[annRefresh] != "" && f.ended == nil, operation: over}
	if err := a.desk.update(ctx, u, app.Status, status, answered); err != nil {
		if f.report != nil {
			m.unsaved = f.report.Inventory
		}
		if rejected := apierrors.IsInvalid(err) || apierrors.IsRequestEntityTooLargeError(err); rejected {
			a.env.Log.Error("the status of an Application was not accepted", "application", app.Name, "error", err)
			return poll(nameOf(app)), nil
		}
		return 0, err
	}
	m.unsaved = nil
	a.tell(u, app.Status, status)
	if over || f.ended != nil {
		m.compared = "" // what was asked for is done; how the spec stands is to be seen
	}
	if f.ended != nil || over && f.detour {
		return dialect.AtOnce, nil
	}
	return a.due(app, f, status.OperationState), nil
}

// tell emits the events of a pass.
func (a *Argo) tell(u *unstructured.Unstructured, before, after api.ApplicationStatus) {
	started, completed, failed := news(before.OperationState, after.OperationState)
	if started != "" {
		a.env.Events.Event(u, corev1.EventTypeNormal, "OperationStarted", started)
	}
	kind := corev1.EventTypeNormal
	if failed {
		kind = corev1.EventTypeWarning
	}
	if completed != "" {
		a.env.Events.Event(u, kind, "OperationCompleted", completed)
	}
	for _, change := range changes(before, after) {
		a.env.Events.Event(u, corev1.EventTypeNormal, "ResourceUpdated", change)
	}
	for _, c := range failures(before, after) {
		a.env.Log.Warn("a delivery failed", "application", u.GetNamespace()+"/"+u.GetName(), "reason", c.Type, "error", c.Message)
	}
}

// failures are the conditions that say what is wrong, and did not say it before.
func failures(before, after api.ApplicationStatus) []api.ApplicationCondition {
	var list []api.ApplicationCondition
	for _, c := range after.Conditions {
		if c.Fails() && !slices.ContainsFunc(before.Conditions, func(b api.ApplicationCondition) bool {
			return b.Type == c.Type && b.Message == c.Message
		}) {
			list = append(list, c)
		}
	}
	return list
}

// due says when the next pass is due by the clock.
func (a *Argo) due(app *api.Application, f found, op *api.OperationState) time.Duration {
	after := poll(nameOf(app))
	err := f.err
	if f.report != nil {
		if err = f.report.Err; f.report.RetryAfter > 0 {
			after = min(after, f.report.RetryAfter)
		}
	}
	switch {
	case running(op) && op.FinishedAt != nil:
		r := ownRetries(app)
		if f.order != nil {
			r = f.order.retries
		}
		after = min(after, max(op.FinishedAt.Add(r.backOff(op.RetryCount)).Sub(f.at), time.Second))
	case err != nil && !err.Kind.Terminal() && err.Kind != fault.Waiting:
		after = min(after, retryEvery)
	}
	return after
}

// retract answers the deletion of an Application: with our finalizer its objects
// go first, without it they stay.
func (a *Argo) retract(ctx context.Context, u *unstructured.Unstructured, app *api.Application, m *memory) (time.Duration, error) {
	propagation, ours := cascades(app.Finalizers)
	if !ours {
		return 0, nil
	}
	done, err := a.withdraw(ctx, app, propagation, m)
	if err == nil && done {
		a.env.Engine.Forget(deliveryID(nameOf(app)))
		return 0, a.desk.release(ctx, u)
	}
	status := *app.Status.DeepCopy()
	status.Conditions = nil
	if err != nil && err.Kind != fault.Waiting {
		status.Conditions = conditions(app.Status.Conditions, []api.ApplicationCondition{
			{Type: api.ConditionDeletionError, Message: err.Error()},
		}, a.env.Clock())
	}
	return retryEvery, a.desk.update(ctx, u, app.Status, status, answers{})
}

// withdraw deletes what an Application holds, as the account that wrote it.
func (a *Argo) withdraw(ctx context.Context, app *api.Application, propagation string, m *memory) (bool, *fault.Error) {
	if hooks := hookFinalizers(app.Finalizers); len(hooks) > 0 {
		return false, notYet(hooks)
	}
	options, _ := syncOptions(app)
	if options.neverDelete || len(app.Status.Resources) == 0 && len(m.unsaved) == 0 {
		return true, nil
	}
	if options.confirmDelete && !approved(app, app.DeletionTimestamp.Time) {
		return false, fault.New(fault.Refused, "the deletion waits for an approval, because of the option Delete=confirm").
			WithHint("kubectl annotate application -n %s %s %s=$(date -u +%%FT%%TZ)", app.Namespace, app.Name, annApproved)
	}
	project, err := a.project(ctx, app.Spec.Project)
	if err != nil {
		return false, fault.From(err)
	}
	spec, err := base(app, project, a.options)
	if err != nil {
		return false, fault.From(err)
	}
	spec.Inventory = united(spec.Inventory, m.unsaved)
	spec.Profile.Propagation = propagation
	report, done := a.env.Engine.Retract(ctx, spec)
	return done, report.Err
}
