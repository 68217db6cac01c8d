package argo

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	api "github.com/holdfastcd/holdfast/api/argo/v1alpha1"
	"github.com/holdfastcd/holdfast/internal/delivery"
	"github.com/holdfastcd/holdfast/internal/dialect"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/source"
)

// order is a sync that somebody asked for through .operation, and that is not over
// yet. The field stays until it is, so that clients see that it runs, and can stop
// it; then it is taken away, and the account of it is in status.operationState.
type order struct {
	op *api.Operation
	// target is the revision to deliver instead of the source's own; empty: that.
	target string
	// pinned: target is where the first attempt led, not what somebody asked for.
	pinned  bool
	force   bool
	options choices
	retries retries
}

// operationFields are the fields of an operation that are honoured. Which hooks run
// makes no difference as long as there are none.
var operationFields = fields("sync.revision", "sync.prune", "sync.dryRun", "sync.syncStrategy", "sync.resources",
	"sync.source", "sync.syncOptions", "sync.autoHealAttemptsCount", "initiatedBy", "info", "retry")

// orderOf reads what is asked for; nil if nothing is. Errors are *fault.Error:
// Unsupported for what an operation of this version cannot do, Invalid.
func orderOf(app *api.Application) (*order, error) {
	if app.Operation == nil {
		return nil, nil //nolint:nilnil // nothing asked for is no failure
	}
	o := &order{op: app.Operation}
	if err := o.check(); err != nil {
		return o, err
	}
	var err error
	if o.retries, err = retriesOf(&app.Operation.Retry, 0); err != nil {
		return o, fault.From(err).On("operation.retry")
	}
	sync := app.Operation.Sync
	o.target = sync.Revision
	if before := app.Status.OperationState; o.target == "" && o.ongoing(before) && before.SyncResult != nil && !app.Operation.Retry.Refresh {
		o.target, o.pinned = before.SyncResult.Revision, true
	}
	if s := sync.SyncStrategy; s != nil {
		o.force = s.Apply != nil && s.Apply.Force || s.Hook != nil && s.Hook.Force
	}
	return o, checkTarget(o.target)
}

// check refuses by name what an operation cannot do.
func (o *order) check() error {
	refused, err := unsupported(o.op, operationFields)
	if err != nil {
		return err
	}
	for i := range refused {
		refused[i] = "operation" + strings.TrimPrefix(refused[i], "spec")
	}
	if o.op.Sync == nil && len(refused) == 0 {
		return fault.New(fault.Invalid, "operation asks for nothing").WithHint("set operation.sync")
	}
	if o.op.Sync != nil {
		for _, option := range o.options.read(o.op.Sync.SyncOptions) {
			refused = append(refused, "operation.sync.syncOptions: "+option)
		}
	}
	if len(refused) > 0 {
		return notYet(refused)
	}
	return nil
}

// app returns the Application as the order wants it delivered: from another source
// and with other options, where it says so.
func (o *order) app(app *api.Application) *api.Application {
	if o == nil || o.op.Sync == nil {
		return app
	}
	wanted := *app
	if o.op.Sync.Source != nil {
		wanted.Spec.Source = o.op.Sync.Source
	}
	if len(o.op.Sync.SyncOptions) > 0 {
		policy := api.SyncPolicy{}
		if app.Spec.SyncPolicy != nil {
			policy = *app.Spec.SyncPolicy
		}
		policy.SyncOptions = o.op.Sync.SyncOptions
		wanted.Spec.SyncPolicy = &policy
	}
	return &wanted
}

// elsewhere reports whether the order names a source or revision of its own, so that
// it may be about something else than what the Application's spec leads to.
func (o *order) elsewhere(app *api.Application) bool {
	if o == nil {
		return false
	}
	s := o.op.Sync.Source
	return s != nil && !sameSource(s, app.Spec.Source) || o.target != "" && o.target != app.Spec.Source.TargetRevision
}

// found names the ref of the source on a revision that a later attempt found by the id
// which the status has: nobody asked for that commit, and it must not be older than
// what the ref led to before.
func (o *order) found(r source.Revision, wanted *api.Application) source.Revision {
	if own := wanted.Spec.Source.TargetRevision; o != nil && o.pinned && r.Ref() == "" && ref(own).Commit == "" {
		r.Name = cmp.Or(own, "HEAD")
	}
	return r
}

// ongoing reports whether a state is the account of this order, and not its end.
func (o *order) ongoing(state *api.OperationState) bool {
	return running(state) && apiequality.Semantic.DeepEqual(state.Operation, *o.op)
}

// shape makes a delivery into the one that was ordered. A person's word to prune
// counts for the share of objects that goes, but not for kinds that are protected:
// those have to be named by the digest.
func (o *order) shape(spec *delivery.Spec, app *api.Application) {
	sync := o.op.Sync
	options, _ := syncOptions(app)
	spec.Revert = true
	spec.Prune = sync.Prune && mayPrune(app, options)
	spec.Force = spec.Force || o.force
	spec.Observe = sync.DryRun
	spec.Only = selected(app, sync.Resources)
	spec.By = dialect.Requester(o.op.InitiatedBy.Username)
	if sync.Prune {
		spec.Profile.Plan.Brake.Share = 0
		spec.Profile.Plan.AllowEmpty = true
	}
}

// selected names the objects of a partial sync; nil for all. A selection without a
// namespace means every object of that name, as far as they are known, or would be
// by the destination.
func selected(app *api.Application, resources []api.SyncOperationResource) []object.ID {
	if len(resources) == 0 {
		return nil
	}
	ids := []object.ID{}
	add := func(id object.ID) {
		if !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	for _, r := range resources {
		id := object.ID{Group: r.Group, Kind: r.Kind, Namespace: r.Namespace, Name: r.Name}
		add(id)
		if r.Namespace != "" {
			continue
		}
		id.Namespace = app.Spec.Destination.Namespace
		add(id)
		for _, known := range app.Status.Resources {
			if known.Group == r.Group && known.Kind == r.Kind && known.Name == r.Name {
				id.Namespace = known.Namespace
				add(id)
			}
		}
	}
	return ids
}

// refuse is the account of an order that was never begun.
func (o *order) refuse(app *api.Application, err error, now time.Time) *api.OperationState {
	at := metav1.Time{Time: now.Truncate(time.Second)}
	state := &api.OperationState{
		Operation: *o.op, Phase: api.OperationError, Message: err.Error(), StartedAt: at, FinishedAt: &at,
		SyncResult: &api.SyncOperationResult{Revision: o.target, Source: normalised(app.Spec.Source)},
	}
	if before := app.Status.OperationState; o.ongoing(before) {
		state.StartedAt, state.RetryCount = before.StartedAt, before.RetryCount
	}
	return state
}

// stopped is the account of an operation that somebody wants to end; nil if nobody
// does. What it has applied stays as it is.
func stopped(app *api.Application, now time.Time) *api.OperationState {
	before := app.Status.OperationState
	if before == nil || before.Phase != api.OperationTerminating {
		return nil
	}
	after := before.DeepCopy()
	after.Phase, after.Message = api.OperationFailed, "Operation terminated"
	after.FinishedAt = &metav1.Time{Time: now.Truncate(time.Second)}
	if after.SyncResult == nil {
		after.SyncResult = &api.SyncOperationResult{Revision: app.Status.Sync.Revision, Source: normalised(app.Spec.Source)}
	}
	return after
}

// retries say how often and at what distance a sync that fails is tried again.
type retries struct {
	limit       int64 // negative: without end
	first, most time.Duration
	factor      int64
}

// How a sync that fails is tried again where nothing says so. An Application's own
// syncs are tried five times more, those that a person asks for not at all.
const (
	retryLimit  = 5
	retryFirst  = 5 * time.Second
	retryFactor = 2
	retryMost   = 3 * time.Minute
	// retryBound is further away than any distance that makes sense.
	retryBound = 24 * time.Hour
)

// retriesOf reads a strategy; limit stands for one that is absent. It fails with Invalid.
func retriesOf(s *api.RetryStrategy, limit int64) (retries, error) {
	r := retries{limit: limit, first: retryFirst, most: retryMost, factor: retryFactor}
	if s == nil {
		return r, nil
	}
	r.limit = s.Limit
	if s.Backoff == nil {
		return r, nil
	}
	for text, into := range map[*string]*time.Duration{&s.Backoff.Duration: &r.first, &s.Backoff.MaxDuration: &r.most} {
		if *text == "" {
			continue
		}
		d, err := duration(*text)
		if err != nil {
			return r, err
		}
		*into = d
	}
	if f := s.Backoff.Factor; f != nil {
		if *f < 1 {
			return r, fault.New(fault.Invalid, "backoff.factor is less than 1")
		}
		r.factor = *f
	}
	return r, nil
}

// duration reads a distance; a bare number counts seconds.
func duration(text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if err != nil {
		d, err = time.ParseDuration(text + "s")
	}
	if err != nil || d <= 0 || d > retryBound {
		return 0, fault.New(fault.Invalid, "backoff: %q is no duration between 0 and %s", text, retryBound)
	}
	return d, nil
}

// backOff is the distance to the attempt after n retries.
func (r retries) backOff(n int64) time.Duration {
	wait := cmp.Or(r.first, retryFirst)
	most := cmp.Or(r.most, retryMost)
	for range min(n, 64) {
		if wait >= most/time.Duration(max(r.factor, 1)) {
			return most
		}
		wait *= time.Duration(max(r.factor, 1))
	}
	return min(wait, most)
}

// left reports whether another attempt follows n retries.
func (r retries) left(n int64) bool { return r.limit < 0 || n < r.limit }

// ownRetries are those of an Application's own syncs. What [Validate] has refused
// counts as absent.
func ownRetries(app *api.Application) retries {
	var s *api.RetryStrategy
	if app.Spec.SyncPolicy != nil {
		s = app.Spec.SyncPolicy.Retry
	}
	r, err := retriesOf(s, retryLimit)
	if err != nil {
		r, _ = retriesOf(nil, retryLimit)
	}
	return r
}

// automatedStays is why an order is refused: rolling back what is synced by itself
// would be undone at once.
func automatedStays(app *api.Application) error {
	return fault.New(fault.Refused, "automated sync is on, and would bring %s back at once", cmp.Or(app.Spec.Source.TargetRevision, "HEAD")).
		WithHint("turn spec.syncPolicy.automated off first, or commit a revert")
}

// who says who asked for an operation, at the beginning of a sentence.
func who(op api.Operation) string {
	switch {
	case op.InitiatedBy.Automated:
		return "initiated automated"
	case op.InitiatedBy.Username != "":
		return fmt.Sprintf("%s initiated", op.InitiatedBy.Username)
	}
	return "somebody initiated"
}
