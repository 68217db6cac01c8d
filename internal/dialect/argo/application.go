package argo

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	api "github.com/holdfastcd/holdfast/api/argo/v1alpha1"
	"github.com/holdfastcd/holdfast/internal/delivery"
	"github.com/holdfastcd/holdfast/internal/dialect"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/source"
)

// Reconcile does one pass over an Application, and at most one write of it.
func (a *Argo) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	after, err := a.reconcile(ctx, req.NamespacedName)
	if moved(err) {
		after, err = time.Millisecond, nil
	}
	// What comes by the clock is not urgent, whatever brought it here this time.
	priority := int(dialect.Normal)
	return reconcile.Result{RequeueAfter: after, Priority: &priority}, err
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
	m := a.memory(name)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.project = projectOf(u)
	app, bad := Decode(u)
	switch {
	case app.Annotations[annSkipReconcile] == "true":
		return 0, nil
	case !app.DeletionTimestamp.IsZero():
		return a.retract(ctx, u, app, m)
	}
	a.refresh(app)
	f, idle := a.pass(ctx, app, bad, m)
	if idle > 0 {
		// Nothing was looked at; only a request to refresh may be left to answer.
		return idle, a.desk.update(ctx, u, app.Status, app.Status, app.Annotations[annRefresh] != "")
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
	fail := func(as api.ApplicationConditionType, err error) (found, time.Duration) {
		f.as, f.err = as, asFault(err)
		return f, 0
	}
	if bad != nil {
		return fail(api.ConditionInvalidSpecError, bad)
	}
	if err := Validate(app, a.options); err != nil {
		return fail(api.ConditionInvalidSpecError, err)
	}
	project, err := a.project(ctx, app.Spec.Project)
	if err != nil {
		return fail(api.ConditionInvalidSpecError, err)
	}
	request, err := Request(app, project, a.options)
	if err != nil {
		return fail(api.ConditionInvalidSpecError, err)
	}
	revision, moved, err := a.fetch(ctx, request, project, poll(nameOf(app)))
	if err != nil {
		return fail(api.ConditionComparisonError, err)
	}
	if moved { // the others that follow this branch need not wait for their turn to ask
		a.pushes.add(push{source.NormalizeURL(request.URL), request.Ref.Branch})
	}
	f.commit = revision.Commit
	spec, err := Spec(app, project, revision, a.options)
	if err != nil {
		return fail(api.ConditionInvalidSpecError, err)
	}
	spec.Inventory = united(spec.Inventory, m.unsaved)
	f.warn = warnings(project, spec)
	f.sourceType = sourceType(spec.Render, revision.Tree)
	f.attempt = next(app, revision.Commit, app.Annotations[annRefresh] == "hard", f.at)
	if f.attempt.wait > 0 {
		return f, f.attempt.wait
	}
	idle = a.run(ctx, app, spec, &f, m)
	return f, idle
}

// run delivers or compares, as the attempt says.
func (a *Argo) run(ctx context.Context, app *api.Application, spec delivery.Spec, f *found, m *memory) (idle time.Duration) {
	if f.attempt.apply {
		spec.Revert = spec.Revert || f.attempt.fresh
		report := a.env.Engine.Deliver(ctx, spec)
		f.report = &report
		return 0
	}
	// To compare costs two requests an object, and events of a busy workload are
	// many: they wait for their turn together.
	key := comparisonKey(app, spec)
	if wait := compareEvery - f.at.Sub(m.comparedAt); m.compared == key && wait > 0 && app.Annotations[annRefresh] == "" {
		return wait
	}
	spec.Revert = true
	plan, err := a.env.Engine.Preview(ctx, spec)
	if err != nil {
		f.as, f.err = api.ConditionComparisonError, asFault(err)
		return 0
	}
	m.compared, m.comparedAt = key, f.at
	report := compared(plan, spec.Inventory)
	f.report = &report
	return 0
}

// comparisonKey names what a comparison depends on, but for the cluster.
func comparisonKey(app *api.Application, spec delivery.Spec) string {
	b, err := json.Marshal(app.Spec)
	if err != nil {
		return ""
	}
	return fmt.Sprintf("%s %s %s %t %s", spec.Revision.Commit, spec.Rules.Version, app.UID, app.Operation != nil, b)
}

// fetch gets the revision that a request asks for, with the credential that
// Applications of the project have for it, and whether the branch has moved since
// anybody looked.
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
		return revision, false, asFault(err).WithHint(
			"no Secret in namespace %s with the label %s: %s has this url; Secrets of type repo-creds are not supported yet",
			a.env.ArgoNamespace, labelSecretType, secretRepository)
	case fault.KindOf(err) == fault.NotFound && asFault(err).Hint == "":
		return revision, false, asFault(err).WithHint("tags are not supported yet; name a branch or a full commit id")
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
	status := transition(app, f)
	if err := a.desk.update(ctx, u, app.Status, status, app.Annotations[annRefresh] != ""); err != nil {
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
	a.tell(u, app.Status.OperationState, status.OperationState)
	return a.due(app, f, status.OperationState), nil
}

// tell emits the events of a sync.
func (a *Argo) tell(u *unstructured.Unstructured, before, after *api.OperationState) {
	started, completed, failed := news(before, after)
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
	case running(op) && op.FinishedAt != nil && f.attempt.apply:
		after = min(after, max(op.FinishedAt.Add(backOff(op.RetryCount)).Sub(f.at), time.Second))
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
	return retryEvery, a.desk.update(ctx, u, app.Status, status, false)
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
	project, err := a.project(ctx, app.Spec.Project)
	if err != nil {
		return false, asFault(err)
	}
	spec, err := base(app, project, a.options)
	if err != nil {
		return false, asFault(err)
	}
	spec.Inventory = united(spec.Inventory, m.unsaved)
	spec.Profile.Propagation = propagation
	report, done := a.env.Engine.Retract(ctx, spec)
	return done, report.Err
}
