package argo

import (
	"time"

	apiequality "k8s.io/apimachinery/pkg/api/equality"

	api "github.com/holdfastcd/holdfast/api/argo/v1alpha1"
)

// attempt is what a pass over an Application shall do.
type attempt struct {
	// apply delivers; otherwise source and cluster are only compared.
	apply bool
	// fresh is a sync of a new revision or source, or another go at it; otherwise
	// the pass only holds the cluster to what was synced before.
	fresh bool
	// retry counts the attempts after the first.
	retry int64
	// wait, if not 0, is how long nothing shall be done.
	wait time.Duration
	// failed is the last sync if it failed for good.
	failed *api.OperationState
}

// next decides what to do at a revision. A revision and source that failed for
// good are not tried again before one of them changes, or again asks for it.
func next(app *api.Application, o *order, commit string, again bool, now time.Time) attempt {
	op := app.Status.OperationState
	switch {
	case o != nil && o.ongoing(op):
		return resume(op, o.retries, now)
	case o != nil:
		return attempt{apply: true, fresh: true}
	case !syncsItself(app):
		return attempt{}
	case !about(op, app, commit):
		return attempt{apply: true, fresh: !settled(app, commit)}
	case op.Phase == api.OperationSucceeded:
		return attempt{apply: true}
	case again:
		return attempt{apply: true, fresh: true}
	case op.Phase == api.OperationRunning:
		return resume(op, ownRetries(app), now)
	}
	return attempt{failed: op}
}

// resume goes on with an operation: at once, or when its next attempt is due.
func resume(op *api.OperationState, r retries, now time.Time) attempt {
	if op.FinishedAt == nil {
		return attempt{apply: true, fresh: true, retry: op.RetryCount}
	}
	due := op.FinishedAt.Add(r.backOff(op.RetryCount))
	if wait := due.Sub(now); wait > 0 {
		return attempt{wait: wait}
	}
	return attempt{apply: true, fresh: true, retry: op.RetryCount + 1}
}

// revert reports whether a pass corrects what others changed: where the
// Application heals itself, and while a revision is being synced.
func revert(app *api.Application, commit string) bool {
	if isTrue(automated(app).SelfHeal) {
		return true
	}
	op := app.Status.OperationState
	if about(op, app, commit) {
		return op.Phase != api.OperationSucceeded
	}
	return !settled(app, commit)
}

// about reports whether an operation is a sync of this revision, source and destination.
func about(op *api.OperationState, app *api.Application, commit string) bool {
	return op != nil && op.SyncResult != nil && op.SyncResult.Revision == commit &&
		sameSource(op.SyncResult.Source, app.Spec.Source) && sameDestination(app)
}

// settled reports whether the cluster was found to be as this revision wants it,
// so that no sync of it was necessary.
func settled(app *api.Application, commit string) bool {
	s := app.Status.Sync
	return s.Status == api.SyncStatusCodeSynced && s.Revision == commit &&
		sameSource(s.ComparedTo.Source, app.Spec.Source) && sameDestination(app)
}

func sameDestination(app *api.Application) bool {
	return apiequality.Semantic.DeepEqual(app.Status.Sync.ComparedTo.Destination, app.Spec.Destination)
}
