package delivery

import (
	"context"

	"github.com/holdfastcd/holdfast/internal/apply"
	"github.com/holdfastcd/holdfast/internal/cluster"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/plan"
)

// comparison is what came of comparing a live object with a dry run of what is
// desired. It stands while neither moves.
type comparison struct {
	print  cluster.Fingerprint // of the live object then
	fields []string            // that differ
	err    error               // why the API server did not accept it
}

// regard is a pass that writes nothing: a report of what a pass would do. What the
// watches cannot tell is compared by value, once until object or source move.
func (e *Engine) regard(ctx context.Context, spec Spec, st *state) Report {
	p, err := e.foresee(ctx, spec, st)
	if err != nil {
		return e.refuse(spec, st, err)
	}
	if err := e.notice(ctx, spec, st, p); err != nil {
		return e.refuse(spec, st, err)
	}
	r := Report{
		Inventory: spec.Inventory, Observed: true, RetryAfter: st.again,
		Held: p.Held, HeldDigest: p.HeldDigest, Images: st.images, Unproven: st.unproven(), Warned: st.warned(),
	}
	for _, a := range p.Actions() {
		r.Objects = append(r.Objects, e.foretell(spec, a, st.seen[a.ID]))
	}
	r.Health = worst(r.Objects)
	if r.Err = problem(r); r.Err == nil {
		r.Err = p.Conflict()
	}
	return r
}

// foresee makes the plan of a pass as it would be, with what differs in st.seen.
func (e *Engine) foresee(ctx context.Context, spec Spec, st *state) (plan.Plan, error) {
	in, err := e.prepare(ctx, spec, st, false)
	if err != nil {
		return plan.Plan{}, err
	}
	p, err := plan.Make(in)
	if err != nil {
		return p, err
	}
	if len(st.seen) > 2*len(in.Desired) {
		st.seen = nil // most of it is about objects that nobody asks for any more
	}
	return p, e.compareAll(ctx, spec, st, p)
}

// compareAll compares what exists and would be applied, where that was not done
// yet. What turns out to be as desired is kept.
func (e *Engine) compareAll(ctx context.Context, spec Spec, st *state, p plan.Plan) error {
	var bodies map[object.ID]plan.Desired
	for i := range p.Stages {
		for j := range p.Stages[i].Actions {
			a := &p.Stages[i].Actions[j]
			if !mayDiffer(*a) {
				continue
			}
			record, _ := e.Cluster.Look(a.Kind, a.ID)
			now, _ := record.Fingerprint(spec.Profile.FieldManager, a.Desired.Digest)
			if c, known := st.seen[a.ID]; !known || c.print != now {
				if err := e.compareOne(ctx, spec, st, &bodies, *a, now); err != nil {
					return err
				}
			}
			if c := st.seen[a.ID]; c.err == nil && len(c.fields) == 0 {
				a.Op, a.Reason = plan.Keep, ""
			}
		}
	}
	return nil
}

// mayDiffer reports whether an action is about an object that exists, and may
// differ from what is desired.
func mayDiffer(a plan.Action) bool {
	if a.Desired == nil || a.Observed.Sight == plan.Absent {
		return false
	}
	return a.Op.Applies() || a.Op == plan.Leave
}

// compareOne notes in st.seen how one object differs. Bodies are made at the first
// need. The error is one that says nothing of the object.
func (e *Engine) compareOne(ctx context.Context, spec Spec, st *state, bodies *map[object.ID]plan.Desired, a plan.Action, now cluster.Fingerprint) error {
	if *bodies == nil {
		desired, err := e.desire(ctx, spec, st, true)
		if err != nil {
			return err
		}
		*bodies = make(map[object.ID]plan.Desired, len(desired))
		for _, d := range desired {
			(*bodies)[d.ID] = d
		}
	}
	seen, c := a.Observed, comparison{print: now}
	c.err = e.compare(ctx, e.Cluster.As(spec.Account), spec, (*bodies)[a.ID], &seen)
	st.masked(seen)
	c.err = st.mask.Error(c.err)
	switch {
	case c.err == nil:
		c.fields = fieldsOf(plan.Diff(seen.Live, seen.DryRun))
	case fault.KindOf(c.err) == fault.Unreachable, fault.KindOf(c.err) == fault.Unauthorized:
		return c.err
	}
	if st.seen == nil {
		st.seen = map[object.ID]comparison{}
	}
	st.seen[a.ID] = c
	return nil
}

// foretold are the outcomes of operations that do what they are meant to; of others
// tell knows.
var foretold = map[plan.Op]apply.Outcome{
	plan.Create:  apply.Created,
	plan.Update:  apply.Configured,
	plan.Confirm: apply.Configured,
	plan.Revert:  apply.Reverted,
	plan.Prune:   apply.Pruned,
	plan.Release: apply.Released,
	plan.Leave:   apply.Left,
	plan.Await:   apply.Waiting,
	plan.Refuse:  apply.Refused,
}

// foretell says of one object what a pass would do.
func (e *Engine) foretell(spec Spec, a plan.Action, c comparison) Object {
	result := apply.ObjectResult{Action: a, Outcome: apply.Unchanged}
	if outcome, ok := foretold[a.Op]; ok {
		result.Outcome = outcome
	}
	if a.Op.Applies() && c.err != nil && a.Op != plan.Create {
		result.Outcome, result.Err = apply.Failed, c.err
	}
	out := e.tell(spec, result)
	out.Would = a.Op.Sends() && out.Outcome != Failed
	if a.Op != plan.Keep && a.Op != plan.Create && a.Desired != nil {
		out.Fields = c.fields
	}
	return out
}
