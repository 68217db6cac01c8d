package delivery

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/holdfastcd/holdfast/internal/apply"
	"github.com/holdfastcd/holdfast/internal/cluster"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/health"
	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/plan"
)

// refused is the report of a pass that could not even be planned: the cluster
// and the inventory stay as they are.
func (e *Engine) refused(spec Spec, err error) Report {
	report := Report{Inventory: spec.Inventory, Err: asFault(err)}
	for _, entry := range spec.Inventory {
		report.Objects = append(report.Objects, Object{
			ID: entry.ID, GVK: entry.ID.GroupKind().WithVersion(entry.Version),
			Desired: true, Outcome: Left, Health: e.healthOf(entry),
		})
	}
	report.Health = worst(report.Objects)
	return report
}

// asFault returns err as a fault; an error that nobody classified is Internal.
func asFault(err error) *fault.Error {
	if f, ok := errors.AsType[*fault.Error](err); ok {
		return f
	}
	return fault.New(fault.Internal, "%s", err).Because(err)
}

// report tells what came of an executed plan.
func (e *Engine) report(st *state, res apply.Result) Report {
	var r Report
	for _, o := range res.Objects {
		told := e.tell(o)
		told.Contested = told.Outcome == Left && st.fights[told.ID].hold(e.Clock()) > 0
		r.Objects = append(r.Objects, told)
		if e.holds(o) {
			r.Inventory = append(r.Inventory, Entry{ID: o.Action.ID, Version: o.Action.Kind.GVK.Version})
		}
	}
	slices.SortFunc(r.Inventory, func(a, b Entry) int { return object.Compare(a.ID, b.ID) })
	r.Health = worst(r.Objects)
	r.Err = problem(r.Objects)
	for _, f := range st.fights {
		if wait := f.hold(e.Clock()); wait > 0 && (r.RetryAfter == 0 || wait < r.RetryAfter) {
			r.RetryAfter = wait
		}
	}
	return r
}

// tell translates the result of one action.
func (e *Engine) tell(o apply.ObjectResult) Object {
	a := o.Action
	out := Object{ID: a.ID, GVK: a.Kind.GVK, Desired: a.Desired != nil, Outcome: Outcome(o.Outcome), Message: a.Reason}
	if a.Desired != nil {
		out.Origin = a.Desired.Origin
	}
	if o.Err != nil {
		out.Message = asFault(o.Err).At(out.Origin.File, out.Origin.Line).Error()
	}
	if out.Outcome == Pruned || out.Outcome == Released {
		return out
	}
	if record, ok := e.Cluster.Look(a.Kind, a.ID); ok && record.Judged {
		out.Health = &record.Health
	} else if !ok && out.Desired {
		out.Health = &health.Verdict{Status: health.Missing}
	}
	return out
}

// holds reports whether an object is in the inventory after a pass. What is not
// yet gone stays, so that it is not forgotten; what is not ours never enters.
func (e *Engine) holds(o apply.ObjectResult) bool {
	a := o.Action
	if a.Desired != nil && a.Desired.Loose {
		return false
	}
	switch o.Outcome {
	case apply.Released, apply.Refused:
		return false
	case apply.Pruned:
		_, there := e.Cluster.Look(a.Kind, a.ID) // a finalizer may hold it
		return there
	case apply.Waiting, apply.Skipped, apply.Failed:
		applied := a.Observed.Digest != [32]byte{}
		return a.Desired == nil || applied
	default:
		return true
	}
}

func (e *Engine) healthOf(entry Entry) *health.Verdict {
	kind := e.kindOf(entry)
	if record, ok := e.Cluster.Look(kind, entry.ID); ok && record.Judged {
		return &record.Health
	}
	return nil
}

// worst aggregates the health of what is desired and judged.
func worst(objects []Object) health.Verdict {
	var verdicts []health.Verdict
	for _, o := range objects {
		if o.Health != nil && o.Desired {
			verdicts = append(verdicts, *o.Health)
		}
	}
	return health.Aggregate(verdicts)
}

// problem sums up why a pass did not deliver everything: real failures first,
// then what is only being waited for.
func problem(objects []Object) *fault.Error {
	var failed, waiting []string
	for _, o := range objects {
		switch o.Outcome {
		case Failed, Refused:
			failed = append(failed, named(o))
		case Waiting, Skipped:
			if o.Desired {
				waiting = append(waiting, named(o))
			}
		default: // nothing to complain about
		}
	}
	switch {
	case len(failed) > 0:
		return fault.New(kindOfProblem(objects), "%s", few(failed))
	case len(waiting) > 0:
		return fault.New(fault.Waiting, "%s", few(waiting))
	}
	return nil
}

// named is the message of an object, with its name where it does not have it yet.
func named(o Object) string {
	if strings.Contains(o.Message, o.ID.String()) {
		return o.Message
	}
	return o.ID.String() + ": " + o.Message
}

// kindOfProblem is Conflict if everything that failed belongs to others.
func kindOfProblem(objects []Object) fault.Kind {
	for _, o := range objects {
		if o.Outcome == Failed {
			return fault.Rejected
		}
	}
	return fault.Conflict
}

// few joins the first messages and counts the rest.
func few(messages []string) string {
	const most = 5
	if len(messages) <= most {
		return strings.Join(messages, "; ")
	}
	return fmt.Sprintf("%s; and %d more", strings.Join(messages[:most], "; "), len(messages)-most)
}

// remember keeps the fingerprints of what was applied, and counts reverts.
func (e *Engine) remember(spec Spec, st *state, res apply.Result) {
	changed := false
	now := e.Clock()
	for _, o := range res.Objects {
		switch o.Outcome {
		case apply.Created, apply.Configured, apply.Reverted, apply.Unchanged:
			changed = st.keep(o, spec.Profile.FieldManager) || changed
		case apply.Released:
			_, had := st.prints[o.Action.ID]
			delete(st.prints, o.Action.ID)
			e.release(o.Action.ID, spec.ID)
			changed = changed || had
		default: // nothing was applied
		}
		if o.Outcome == apply.Reverted {
			st.fight(o.Action.ID).reverted(now)
		}
	}
	if !changed {
		return
	}
	if err := e.Memory.Save(spec.ID.String(), st.prints); err != nil {
		e.Log.Warn("cannot save fingerprints; objects will be checked again after a restart", "delivery", spec.ID.String(), "error", err)
	}
}

// keep notes the fingerprint of one applied object; it reports whether that was news.
func (st *state) keep(o apply.ObjectResult, manager string) bool {
	a := o.Action
	if a.Op == plan.Keep || a.Desired == nil || a.Desired.Loose {
		return false
	}
	taken, ok := o.Record.Fingerprint(manager, a.Desired.Digest)
	if !ok {
		return false
	}
	st.prints[a.ID] = taken
	return true
}

func (st *state) fight(id object.ID) *fight {
	f, ok := st.fights[id]
	if !ok {
		f = &fight{}
		st.fights[id] = f
	}
	return f
}

// release gives up a claim.
func (e *Engine) release(o object.ID, owner ID) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.owners[o] == owner {
		delete(e.owners, o)
	}
}

// ready reports whether an applied object lets the stages behind its own start:
// a definition that is established, anything else at once.
func (e *Engine) ready(a plan.Action, record cluster.Record) bool {
	if a.ID.Kind != "CustomResourceDefinition" {
		return true
	}
	return record.Judged && record.Health.Status == health.Healthy
}

// holdFights turns reverts of objects in a fight into waiting.
func (e *Engine) holdFights(p plan.Plan, st *state) {
	now := e.Clock()
	for i := range p.Stages {
		for j := range p.Stages[i].Actions {
			a := &p.Stages[i].Actions[j]
			wait := st.fights[a.ID].hold(now)
			if a.Op == plan.Revert && wait > 0 {
				a.Op = plan.Leave
				a.Reason = fmt.Sprintf("somebody else keeps changing it (%s); reverts back off", a.Reason)
			}
		}
	}
}
