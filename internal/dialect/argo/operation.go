package argo

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	api "github.com/holdfastcd/holdfast/api/argo/v1alpha1"
	"github.com/holdfastcd/holdfast/internal/delivery"
	"github.com/holdfastcd/holdfast/internal/fault"
)

const synced = "successfully synced (all tasks run)"

// operation returns the account of the last sync after a pass. A pass that had
// nothing to do, because the cluster is as it was synced, leaves it alone.
func operation(app *api.Application, f found, status api.SyncStatusCode) *api.OperationState {
	before := app.Status.OperationState
	if f.order != nil {
		return f.order.account(app, f)
	}
	if !f.attempt.apply || f.refused() {
		return before
	}
	continued := running(before) && about(before, app, f.commit)
	problem := f.report.Err
	switch {
	case continued || len(f.report.Changed()) > 0:
	case f.attempt.fresh && status != api.SyncStatusCodeSynced:
	case problem != nil && problem.Kind != fault.Waiting:
	default:
		return before
	}
	op := begin(app, f)
	op.SyncResult.Resources = results(f, op)
	if continued {
		op.StartedAt = before.StartedAt
		op.SyncResult.Resources = merged(before.SyncResult.Resources, op.SyncResult.Resources)
	}
	conclude(op, problem, ownRetries(app), f.at)
	if op.Phase == api.OperationFailed {
		op.Message += fmt.Sprintf(". The next commit is tried again; to try this one, set the annotation %s: hard", annRefresh)
	}
	return op
}

// account tells how far an order has come.
func (o *order) account(app *api.Application, f found) *api.OperationState {
	before := app.Status.OperationState
	op := &api.OperationState{
		Operation:  *o.op,
		SyncResult: &api.SyncOperationResult{Revision: f.commit, Source: normalised(o.app(app).Spec.Source)},
		StartedAt:  metav1.Time{Time: f.at.Truncate(time.Second)},
		RetryCount: f.attempt.retry,
	}
	problem := f.err
	if f.report != nil {
		problem = f.report.Err
		op.SyncResult.Resources = results(f, op)
	}
	if o.ongoing(before) {
		op.StartedAt = before.StartedAt
		if before.SyncResult != nil {
			op.SyncResult.Resources = merged(before.SyncResult.Resources, op.SyncResult.Resources)
			op.SyncResult.Revision = cmp.Or(f.commit, before.SyncResult.Revision)
		}
	}
	conclude(op, problem, o.retries, f.at)
	if op.Phase == api.OperationFailed && f.refused() {
		op.Phase = api.OperationError
	}
	if m := o.app(app).Spec.SyncPolicy; m != nil {
		op.SyncResult.ManagedNamespaceMetadata = m.ManagedNamespaceMetadata
	}
	return op
}

// running reports whether an operation is under way: also between two attempts.
func running(op *api.OperationState) bool { return op != nil && op.Phase == api.OperationRunning }

// begin makes the account of a sync that starts now.
func begin(app *api.Application, f found) *api.OperationState {
	auto := automated(app)
	sync := &api.SyncOperation{Revision: f.commit, Prune: isTrue(auto.Prune)}
	if !f.attempt.fresh {
		sync.Resources = healed(f.report.Changed())
		sync.AutoHealAttemptsCount = 1
		if before := app.Status.OperationState; about(before, app, f.commit) && before.Operation.Sync != nil {
			sync.AutoHealAttemptsCount += before.Operation.Sync.AutoHealAttemptsCount
		}
	}
	op := &api.OperationState{
		Operation: api.Operation{
			Sync:        sync,
			InitiatedBy: api.OperationInitiator{Automated: true},
			Retry:       api.RetryStrategy{Limit: retryLimit},
		},
		SyncResult: &api.SyncOperationResult{Revision: f.commit, Source: normalised(app.Spec.Source)},
		StartedAt:  metav1.Time{Time: f.at.Truncate(time.Second)},
		RetryCount: f.attempt.retry,
	}
	if p := app.Spec.SyncPolicy; p != nil {
		sync.SyncOptions = p.SyncOptions
		op.SyncResult.ManagedNamespaceMetadata = p.ManagedNamespaceMetadata
		if p.Retry != nil {
			op.Operation.Retry = *p.Retry
		}
	}
	return op
}

// conclude says how far a sync has come.
func conclude(op *api.OperationState, problem *fault.Error, r retries, now time.Time) {
	finished := &metav1.Time{Time: now.Truncate(time.Second)}
	switch {
	case problem == nil:
		op.Phase, op.Message, op.FinishedAt = api.OperationSucceeded, synced, finished
	case problem.Kind == fault.Waiting:
		op.Phase, op.Message = api.OperationRunning, "waiting: "+problem.Error()
	case !problem.Kind.Terminal() && r.left(op.RetryCount):
		at := now.Add(r.backOff(op.RetryCount)).UTC().Format("15:04:05Z")
		op.Phase, op.FinishedAt = api.OperationRunning, finished
		op.Message = fmt.Sprintf("one or more objects failed to apply, reason: %s. Retrying attempt #%d at %s.", problem, op.RetryCount+1, at)
	default:
		op.Phase, op.FinishedAt = api.OperationFailed, finished
		op.Message = fmt.Sprintf("one or more objects failed to apply, reason: %s", problem)
		if op.RetryCount > 0 {
			op.Message += fmt.Sprintf(" (retried %d times)", op.RetryCount)
		}
	}
}

// healed names the objects that a pass corrected at a revision already synced.
func healed(changed []delivery.Object) []api.SyncOperationResource {
	var list []api.SyncOperationResource
	for _, o := range changed {
		list = append(list, api.SyncOperationResource{Group: o.ID.Group, Kind: o.ID.Kind, Namespace: o.ID.Namespace, Name: o.ID.Name})
	}
	return list
}

// results lists what a sync did: to all objects if it was one of a whole
// revision, else to those that it touched.
func results(f found, op *api.OperationState) []api.ResourceResult {
	objects := f.report.Objects
	if len(op.Operation.Sync.Resources) > 0 && !f.report.Observed {
		objects = f.report.Changed()
	}
	var list []api.ResourceResult
	for _, o := range objects {
		if r, ok := result(o); ok {
			list = append(list, r)
		}
	}
	return list
}

// result says what a sync did to one object; false if it is not worth a line.
func result(o delivery.Object) (api.ResourceResult, bool) {
	r := api.ResourceResult{
		Group: o.ID.Group, Version: o.GVK.Version, Kind: o.ID.Kind, Namespace: o.ID.Namespace, Name: o.ID.Name,
		Status: api.ResultCodeSynced, HookPhase: api.OperationRunning, SyncPhase: api.SyncPhaseSync,
	}
	what := strings.ToLower(o.ID.Kind)
	if o.ID.Group != "" {
		what += "." + o.ID.Group
	}
	what += "/" + o.ID.Name
	if o.Would {
		r.Message = fmt.Sprintf("%s %s (dry run)", what, o.Outcome)
		return r, true
	}
	switch o.Outcome {
	case delivery.Unchanged, delivery.Created, delivery.Configured:
		r.Message = what + " " + string(o.Outcome)
	case delivery.Reverted:
		r.Message = what + " reverted: " + o.Message
	case delivery.Pruned:
		r.Status, r.Message, r.HookPhase = api.ResultCodePruned, "pruned", api.OperationSucceeded
	case delivery.Left, delivery.Held:
		r.Status, r.Message = api.ResultCodePruneSkipped, "ignored (requires pruning)"
		if o.Desired || o.Outcome == delivery.Held {
			r.Message = o.Message
		}
	case delivery.Failed, delivery.Refused:
		r.Status, r.Message, r.HookPhase = api.ResultCodeSyncFailed, o.Message, api.OperationFailed
	default: // released, exempt, skipped, waiting
		return r, false
	}
	return r, true
}

// merged lays later results over earlier ones of the same operation. An object
// that an earlier pass changed and a later one found unchanged stays changed.
func merged(earlier, later []api.ResourceResult) []api.ResourceResult {
	all := slices.Clone(earlier)
	for _, r := range later {
		i := slices.IndexFunc(all, func(e api.ResourceResult) bool {
			return e.Group == r.Group && e.Kind == r.Kind && e.Namespace == r.Namespace && e.Name == r.Name
		})
		switch {
		case i < 0:
			all = append(all, r)
		case all[i].Status != r.Status || !strings.HasSuffix(r.Message, " "+string(delivery.Unchanged)):
			all[i] = r
		}
	}
	return all
}

const defaultHistory = 10

// history appends a sync of a whole revision that has just succeeded.
func history(app *api.Application, op *api.OperationState) []api.RevisionHistory {
	list, before := app.Status.History, app.Status.OperationState
	limit := int64(defaultHistory)
	if l := app.Spec.RevisionHistoryLimit; l != nil && *l >= 0 {
		limit = *l
	}
	done := op != nil && op != before && op.Phase == api.OperationSucceeded &&
		len(op.Operation.Sync.Resources) == 0 && !op.Operation.Sync.DryRun
	if done {
		entry := api.RevisionHistory{
			Revision: op.SyncResult.Revision, Source: op.SyncResult.Source,
			DeployedAt: *op.FinishedAt, DeployStartedAt: &op.StartedAt, InitiatedBy: op.Operation.InitiatedBy,
		}
		if n := len(list); n > 0 {
			entry.ID = list[n-1].ID + 1
		}
		list = append(slices.Clone(list), entry)
	}
	if over := int64(len(list)) - limit; over > 0 {
		list = list[over:]
	}
	return list
}

// news says which events a change of the last operation is worth.
func news(before, after *api.OperationState) (started, completed string, failed bool) {
	if after == nil || after == before || after.SyncResult == nil {
		return "", "", false
	}
	commit := after.SyncResult.Revision
	kind := "Sync"
	if after.Operation.Sync != nil && len(after.Operation.Sync.Resources) > 0 {
		kind = "Partial sync"
	}
	if !running(before) {
		started = fmt.Sprintf("%s %s to '%s'", who(after.Operation), strings.ToLower(kind), commit)
	}
	switch after.Phase {
	case api.OperationSucceeded:
		completed = fmt.Sprintf("%s operation to %s succeeded%s", kind, commit, corrections(after))
	case api.OperationFailed, api.OperationError:
		completed, failed = fmt.Sprintf("%s operation to %s failed: %s", kind, commit, after.Message), true
	default: // it is not over
	}
	return started, completed, failed
}

// changes says which events a change of the status is worth, beside those of an
// operation. What an Application begins with is no news.
func changes(before, after api.ApplicationStatus) []string {
	var list []string
	if b, a := before.Sync.Status, after.Sync.Status; b != a && b != "" {
		list = append(list, fmt.Sprintf("Updated sync status: %s -> %s", b, a))
	}
	if b, a := before.Health.Status, after.Health.Status; b != a && b != "" {
		list = append(list, fmt.Sprintf("Updated health status: %s -> %s", b, a))
	}
	return list
}

// corrections names what a sync reverted.
func corrections(op *api.OperationState) string {
	const most = 3
	var list []string
	for _, r := range op.SyncResult.Resources {
		if strings.Contains(r.Message, " reverted: ") {
			list = append(list, r.Message)
		}
	}
	if len(list) == 0 {
		return ""
	}
	if n := len(list); n > most {
		list = append(list[:most], fmt.Sprintf("and %d more", n-most))
	}
	return "; " + strings.Join(list, "; ")
}
