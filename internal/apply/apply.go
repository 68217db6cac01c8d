// Package apply executes plans: a plan in, requests out, a result for every
// object back. It decides nothing that the plan has not decided; it only looks
// again before it deletes, repeats what failed for a moment, and stops where a
// later stage needs what an earlier one has not brought about.
//
// Nothing waits here for the cluster to act. Where a stage's objects are not
// ready, Execute returns and names them, and the caller comes back when a watch
// shows that they are.
package apply

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"github.com/holdfastcd/holdfast/internal/cluster"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/plan"
	"github.com/holdfastcd/holdfast/internal/schema"
)

// Client sends the requests of a plan; *cluster.Client is one.
type Client interface {
	// Apply applies body by server-side apply and returns what became of it.
	Apply(ctx context.Context, kind schema.Kind, id object.ID, body []byte, manager string, force, dryRun bool) (cluster.Record, error)
	// Delete deletes an object that still has this UID and resource version. An
	// object that does not exist is no error; one that changed is cluster.ErrChanged.
	Delete(ctx context.Context, kind schema.Kind, id object.ID, uid types.UID, resourceVersion string, propagation metav1.DeletionPropagation) error
	// Adopt makes the fields that peers own fields of manager's.
	Adopt(ctx context.Context, kind schema.Kind, id object.ID, manager string, peers []string) error
	// Strip removes fields from an object. What is gone already is no error.
	Strip(ctx context.Context, kind schema.Kind, id object.ID, fields []object.Path, manager string) error
	// Get returns a live object.
	Get(ctx context.Context, kind schema.Kind, id object.ID) (*unstructured.Unstructured, error)
	// Look returns what the watch shows of an object now, without a request.
	Look(kind schema.Kind, id object.ID) (cluster.Record, bool)
}

// Options say how a plan is executed.
type Options struct {
	Manager     string   // the field manager of every apply
	Peers       []string // the managers whose fields are taken over where a plan says so
	Propagation string   // of deletes: Background, Foreground or Orphan; empty: Background
	// Force deletes objects of which an immutable field is to change, to create
	// them again; see also plan.Treatment.
	Force bool
	// Ready says whether an object of a gated stage lets the stages behind go
	// on, given its record. nil: at once.
	Ready func(plan.Action, cluster.Record) bool
	// Retract: the delivery itself is being deleted, and what its marks keep is
	// what must outlive it.
	Retract bool

	Concurrency int                                              // requests of one stage at once; 0: 8
	Attempts    int                                              // tries of one request; 0: 4
	Sleep       func(ctx context.Context, d time.Duration) error // nil: a timer
	Jitter      func() float64                                   // in [0, 1); nil: random
}

// Outcome is what became of one object.
type Outcome string

// The outcomes.
const (
	Unchanged  Outcome = "unchanged"  // as desired, before and after
	Created    Outcome = "created"    // it was absent
	Configured Outcome = "configured" // it was changed to what is desired
	Reverted   Outcome = "reverted"   // a change made in the cluster was undone
	Pruned     Outcome = "pruned"     // its deletion was accepted, or it was gone already
	Released   Outcome = "released"   // it left the inventory and stays
	Left       Outcome = "left"       // it differs, and the plan does not correct that
	Skipped    Outcome = "skipped"    // not sent: an earlier stage failed
	Waiting    Outcome = "waiting"    // not sent: something must come first
	Refused    Outcome = "refused"    // not sent: it belongs to somebody else, or is forbidden
	Failed     Outcome = "failed"     // the request failed, see Err
)

// ObjectResult is what became of one action.
type ObjectResult struct {
	Action  plan.Action
	Outcome Outcome
	Record  cluster.Record // the answer to an apply; zero otherwise
	Err     error          // a *fault.Error: why the outcome is Skipped, Waiting, Refused or Failed
}

// Result is what became of a plan, in its order.
type Result struct {
	Objects []ObjectResult
	// Waiting are the objects whose readiness would let the rest go on.
	Waiting []object.ID
}

// Execute executes p through c. Within a stage all actions are tried, whatever
// becomes of the others, and several at once, but where one says After; behind a
// stage in which one failed, was refused, or is waited for, nothing more is sent.
// Actions that send nothing have their outcome in any case.
func Execute(ctx context.Context, p plan.Plan, c Client, o Options) Result {
	e := executor{client: c, Options: o.withDefaults(), kinds: map[object.ID]schema.Kind{}}
	for _, a := range p.Actions() {
		e.kinds[a.ID] = a.Kind
	}
	var res Result
	var halt *halt
	for _, s := range p.Stages {
		results := make([]ObjectResult, len(s.Actions))
		e.stage(ctx, s, results, halt)
		res.Objects = append(res.Objects, results...)
		if halt == nil {
			halt, res.Waiting = e.judge(s, results)
		}
	}
	return res
}

// halt is why nothing more is sent.
type halt struct {
	outcome Outcome
	err     *fault.Error
}

type executor struct {
	Options

	client Client
	kinds  map[object.ID]schema.Kind // of the objects of the plan
}

func (o Options) withDefaults() Options {
	if o.Propagation == "" {
		o.Propagation = string(metav1.DeletePropagationBackground)
	}
	if o.Ready == nil {
		o.Ready = func(plan.Action, cluster.Record) bool { return true }
	}
	if o.Concurrency <= 0 {
		o.Concurrency = 8
	}
	if o.Attempts <= 0 {
		o.Attempts = 4
	}
	if o.Sleep == nil {
		o.Sleep = sleep
	}
	if o.Jitter == nil {
		o.Jitter = rand.Float64
	}
	return o
}

// stage fills in the results of one stage.
func (e *executor) stage(ctx context.Context, s plan.Stage, results []ObjectResult, halt *halt) {
	var group errgroup.Group
	group.SetLimit(e.Concurrency)
	for i, a := range s.Actions {
		if a.After {
			_ = group.Wait() // results carry their errors
		}
		switch {
		case !a.Op.Sends():
			results[i] = settled(a)
		case halt != nil:
			results[i] = ObjectResult{Action: a, Outcome: halt.outcome, Err: halt.err}
		default:
			group.Go(func() error {
				results[i] = e.send(ctx, a)
				return nil
			})
		}
	}
	_ = group.Wait()
}

// settled is the result of an action that sends nothing.
func settled(a plan.Action) ObjectResult {
	r := ObjectResult{Action: a, Outcome: Unchanged}
	switch a.Op {
	default: // Keep
	case plan.Release:
		r.Outcome = Released
	case plan.Leave:
		r.Outcome = Left
	case plan.Await, plan.Hold:
		r.Outcome, r.Err = Waiting, fault.New(fault.Waiting, "%s", a.Reason).On(a.ID.String())
	case plan.Refuse:
		r.Outcome, r.Err = Refused, fault.New(fault.Conflict, "%s", a.Reason).On(a.ID.String())
	}
	return r
}

// judge says what the results of a stage mean for those behind it.
func (e *executor) judge(s plan.Stage, results []ObjectResult) (*halt, []object.ID) {
	var waiting []object.ID
	for _, r := range results {
		switch {
		case r.Outcome == Failed, r.Outcome == Refused:
			return &halt{Skipped, fault.New(fault.Waiting, "not sent: %s failed before it", r.Action.ID)}, nil
		case s.Gate && !e.ready(r):
			waiting = append(waiting, r.Action.ID)
		}
	}
	if len(waiting) == 0 {
		return nil, nil
	}
	return &halt{Waiting, fault.New(fault.Waiting, "waits for %s to be ready", waiting[0])}, waiting
}

// ready reports whether one object of a gated stage lets the others go on. The
// watch knows best; before it shows the object, the answer to our request is all
// there is.
func (e *executor) ready(r ObjectResult) bool {
	switch r.Outcome {
	default: // it exists, and is to be judged
	case Waiting, Skipped:
		return false
	case Pruned, Released:
		return true
	}
	record, ok := e.client.Look(r.Action.Kind, r.Action.ID)
	if !ok {
		record = r.Record
	}
	return e.Ready(r.Action, record)
}

// failed names what an error means for the object. An object that became
// somebody else's since it was planned is refused, not failed.
func failed(err error) Outcome {
	switch {
	case errors.Is(err, errTaken):
		return Refused
	case fault.KindOf(err) == fault.Waiting:
		return Waiting
	}
	return Failed
}

// errTaken is the cause of a prune that was given up.
var errTaken = errors.New("taken by another owner")

// prune deletes an object, if it still is what the plan took it for: the same
// object, with the same owner, and nobody has asked to keep it.
func (e *executor) prune(ctx context.Context, a plan.Action) (Outcome, error) {
	uid, version := a.Observed.UID, a.Observed.ResourceVersion
	if now, ok := e.client.Look(a.Kind, a.ID); ok {
		switch {
		case now.Deleting && now.UID == uid:
			return Pruned, nil
		case now.UID != uid:
			return "", taken(a, "it is another object of the same name now")
		case now.Owner != a.Observed.Owner:
			return "", taken(a, "it belongs to "+orNobody(now.Owner)+" now")
		case e.Retract && now.KeptInDelete, !e.Retract && now.KeptInPrune:
			return Released, nil
		}
		version = now.ResourceVersion
	}
	return Pruned, e.client.Delete(ctx, a.Kind, a.ID, uid, version, metav1.DeletionPropagation(e.Propagation))
}

func taken(a plan.Action, why string) error {
	return fault.New(fault.Conflict, "not deleted: %s", why).On(a.ID.String()).Because(errTaken)
}

func orNobody(owner string) string {
	if owner == "" {
		return "nobody"
	}
	return owner
}
