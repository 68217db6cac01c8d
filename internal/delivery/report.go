package delivery

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/holdfastcd/holdfast/internal/apply"
	"github.com/holdfastcd/holdfast/internal/cluster"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/health"
	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/plan"
	"github.com/holdfastcd/holdfast/internal/render"
	"github.com/holdfastcd/holdfast/internal/schema"
)

// refused is the report of a pass that could not even be planned: the cluster
// and the inventory stay as they are.
func (e *Engine) refused(spec Spec, err error) Report {
	report := Report{Inventory: spec.Inventory, Err: fault.From(err), Observed: spec.Observe}
	for _, entry := range spec.Inventory {
		report.Objects = append(report.Objects, Object{
			ID: entry.ID, GVK: entry.ID.GroupKind().WithVersion(entry.Version),
			Desired: true, Outcome: Left, Wave: entry.Wave, Health: e.healthOf(spec, e.kindOf(entry), entry.ID),
		})
	}
	report.Health = worst(report.Objects)
	if errors.Is(err, render.ErrTurn) {
		report.RetryAfter = retryTurn
	}
	return report
}

// retryTurn is when a rendering that had to wait for its turn is tried again.
const retryTurn = 5 * time.Second

// report tells what came of an executed plan.
func (e *Engine) report(spec Spec, st *state, p plan.Plan, res apply.Result) Report {
	r := Report{Held: p.Held, HeldDigest: p.HeldDigest, Images: st.images, Unproven: st.unproven(), Warned: st.warned()}
	now := e.Clock()
	r.Objects = make([]Object, 0, len(res.Objects))
	for _, o := range res.Objects {
		told := e.tell(spec, o)
		if f := st.fights[told.ID]; told.Outcome == Left && f != nil && f.holding {
			told.Contested, told.By, told.Fields = true, f.by, f.fields
		}
		r.Objects = append(r.Objects, told)
		if e.holds(spec, o) {
			r.Inventory = append(r.Inventory, Entry{ID: o.Action.ID, Version: o.Action.Kind.GVK.Version, Wave: o.Action.Wave})
		}
	}
	slices.SortFunc(r.Inventory, func(a, b Entry) int { return object.Compare(a.ID, b.ID) })
	r.Health = worst(r.Objects)
	r.Err = problem(r)
	if why := sick(p, r.Objects); why != nil && (r.Err == nil || r.Err.Kind == fault.Waiting) {
		r.Err = why
	}
	r.RetryAfter = st.retry(now)
	return r
}

// retry is after which time a pass is due that no event asks for; 0: none is.
func (st *state) retry(now time.Time) time.Duration {
	first := st.again
	sooner := func(wait time.Duration) {
		if wait > 0 && (first == 0 || wait < first) {
			first = wait
		}
	}
	sooner(st.waits(now))
	for _, f := range st.fights {
		sooner(f.pause(now))
	}
	return first
}

// tell translates the result of one action.
func (e *Engine) tell(spec Spec, o apply.ObjectResult) Object {
	a := o.Action
	out := Object{
		ID: a.ID, GVK: a.Kind.GVK, Desired: a.Desired != nil, Outcome: Outcome(o.Outcome), Message: a.Reason,
		Wave: a.Wave, Op: a.Op,
	}
	switch a.Op {
	case plan.Hold:
		out.Outcome = Held
	case plan.Skip:
		out.Outcome = Exempt
	default: // as executed
	}
	if a.Desired != nil {
		out.Origin, out.Unjudged, out.Warnings = a.Desired.Origin, a.Desired.Treatment.Unjudged, a.Desired.Warnings
	}
	if o.Err != nil && out.Outcome != Held {
		why := fault.From(o.Err)
		if spec.NamespaceHint != "" && errors.Is(o.Err, cluster.ErrNoNamespace) {
			why = why.WithHint("%s", spec.NamespaceHint)
		}
		out.Message = why.On(a.ID.String()).At(out.Origin.File, out.Origin.Line).Error()
	}
	if why := e.trouble(spec, a.Lacks); why != "" {
		out.Message += ": " + why
	}
	if out.Outcome == Pruned || out.Outcome == Released {
		return out
	}
	out.Health = e.healthOf(spec, a.Kind, a.ID)
	if _, there := e.Cluster.Look(a.Kind, a.ID); !there && out.Desired && out.Outcome != Exempt {
		out.Health = &health.Verdict{Status: health.Missing}
	}
	return out
}

// holds reports whether an object is in the inventory after a pass. What is not
// yet gone stays, so that it is not forgotten; what is not ours never enters.
func (e *Engine) holds(spec Spec, o apply.ObjectResult) bool {
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
	case apply.Left:
		return a.Held
	case apply.Unchanged:
		if a.Op == plan.Skip {
			return a.Held
		}
		created := a.Desired == nil || !a.Desired.Treatment.IfNotPresent
		return created || a.Observed.Owner == spec.ID.String()
	default:
		return true
	}
}

// healthOf judges an object as the profile wants it; nil if it is not judged.
func (e *Engine) healthOf(spec Spec, kind schema.Kind, id object.ID) *health.Verdict {
	record, ok := e.Cluster.Look(kind, id)
	if !ok || !record.Judged || spec.Profile.NoHealth {
		return nil
	}
	verdict, ok := record.Health.By(spec.Profile.Health)
	if !ok {
		return nil
	}
	return &verdict
}

// worst aggregates the health of what is desired and judged.
func worst(objects []Object) health.Verdict {
	var verdicts []health.Verdict
	for _, o := range objects {
		if o.Health != nil && o.Desired && !o.Unjudged {
			verdicts = append(verdicts, *o.Health)
		}
	}
	return health.Aggregate(verdicts)
}

// sick returns why a wave is not followed by the next: an object of it, or of one
// before, that will not become healthy by itself.
func sick(p plan.Plan, objects []Object) *fault.Error {
	if p.HealthyBefore == nil {
		return nil
	}
	for _, o := range objects {
		if o.Desired && o.Wave < *p.HealthyBefore && !o.Unjudged && o.Health != nil && o.Health.Status == health.Degraded {
			return fault.New(fault.Rejected, "the objects after wave %d are not sent: it is degraded: %s", o.Wave, o.Health.Message).
				On(o.ID.String()).At(o.Origin.File, o.Origin.Line)
		}
	}
	return nil
}

// problem sums up why a pass did not deliver everything: real failures first,
// then what is only being waited for.
func problem(r Report) *fault.Error {
	var failed, waiting []string
	for _, o := range r.Objects {
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
		return fault.New(kindOfProblem(r.Objects), "%s", few(failed))
	case len(waiting) > 0:
		return fault.New(fault.Waiting, "%s", few(waiting))
	case len(r.Held) > 0:
		return fault.New(fault.Waiting, "%d objects left the source and are not deleted before somebody confirms: %s", len(r.Held), few(names(r.Held))).
			WithHint("set the annotation %s: %s", plan.ConfirmAnnotation, r.HeldDigest)
	}
	return nil
}

func names(ids []object.ID) []string {
	all := make([]string, 0, len(ids))
	for _, id := range ids {
		all = append(all, id.String())
	}
	return all
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
			e.release(o.Action.ID, st)
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
	if !a.Op.Applies() || a.Desired == nil || a.Desired.Loose || a.Desired.Treatment.IfNotPresent {
		return false
	}
	taken, ok := o.Record.Fingerprint(manager, a.Desired.Digest)
	if !ok {
		return false
	}
	if o.Outcome == apply.Created {
		delete(st.notices, a.ID)
	}
	st.stripped(a)
	st.reprint(a.ID, taken)
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
func (e *Engine) release(o object.ID, st *state) {
	delete(st.cleared, o)
	delete(st.seen, o)
	delete(st.fights, o)
	delete(st.notices, o)
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(st.strays, o)
	if e.owners[o] == st {
		delete(e.owners, o)
		delete(st.claims, o)
	}
}

// ready returns the function that says whether an applied object lets the stages
// behind its own start: a definition that is established, and what a later wave
// waits for when it is healthy. What has no health is ready at once.
func (e *Engine) ready(p plan.Plan) func(plan.Action, cluster.Record) bool {
	makes := map[object.ID]bool{} // what others are made from is ready when they are sent
	for _, a := range p.Actions() {
		if a.Desired != nil && a.Desired.Owner != (object.ID{}) {
			makes[a.Desired.Owner] = true
		}
	}
	return func(a plan.Action, record cluster.Record) bool {
		if makes[a.ID] {
			return true
		}
		if p.HealthyBefore != nil && a.Wave < *p.HealthyBefore && record.Judged && !a.Desired.Treatment.Unjudged {
			verdict, ok := record.Health.By(health.Options{})
			return !ok || verdict.Status == health.Healthy
		}
		if a.ID.Kind != "CustomResourceDefinition" {
			return true
		}
		return record.Judged && record.Health.Status == health.Healthy
	}
}
