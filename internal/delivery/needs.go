package delivery

import (
	"context"
	"fmt"
	"slices"
	"time"

	kschema "k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/health"
	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/plan"
)

// patience is how long an object waits for a Secret that another one is to make. Then
// it is sent all the same: its Pods wait for the Secret by themselves, and what the
// Secret waits for may be something that nobody knew it needs.
const patience = 5 * time.Minute

// need notes on desired objects which Secrets they wait for, of those that others of
// them make. What cannot be waited for, since it would never come, is a warning.
func (s Spec) need(objects []object.Object, desired []plan.Desired) {
	needs := object.Needs(objects)
	if len(needs) == 0 {
		return
	}
	at := make(map[object.ID]*plan.Desired, len(desired))
	for i := range desired {
		at[desired[i].ID] = &desired[i]
	}
	for i := range desired {
		d := &desired[i]
		for _, n := range needs[d.ID] {
			maker := at[n.Maker]
			switch why := s.futile(d, maker, n); {
			case maker == nil || at[n.Secret] != nil: // it is delivered itself
			case why != "":
				d.Warnings = append(d.Warnings, fmt.Sprintf("%s: sent without waiting for %s, which %s makes: %s", n.Field, n.Secret, n.Maker, why))
			default:
				d.Needs = append(d.Needs, n)
			}
		}
	}
}

// futile returns why a Secret would never come as long as d waits for it; "" if it may.
func (s Spec) futile(d, maker *plan.Desired, n object.Need) string {
	switch {
	case n.Through == d.ID:
		return "it is made by this very object"
	case n.Through != object.ID{}:
		return "that needs this object itself, through " + n.Through.String()
	case maker != nil && s.Profile.Plan.GateWaves && maker.Wave > d.Wave:
		return fmt.Sprintf("that is in wave %d, which waits for this one", maker.Wave)
	}
	return ""
}

// needed starts to watch the Secrets that desired objects need, and returns what is
// there of them. The event of one that is missing asks for the next pass, and so does
// one of a namespace that several deliveries have made: only one of them claims it.
func (e *Engine) needed(ctx context.Context, st *state, desired []plan.Desired) (func(object.ID) plan.Presence, error) {
	var secrets, shared []object.ID
	for _, d := range desired {
		if d.Loose {
			shared = append(shared, d.ID)
		}
		for _, n := range d.Needs {
			secrets = append(secrets, n.Secret)
		}
	}
	if len(secrets) == 0 {
		e.expect(st, shared)
		st.lacking = nil
		return func(object.ID) plan.Presence { return plan.There }, nil
	}
	kind, ok := e.Cluster.LookupGroupKind(kschema.GroupKind{Kind: "Secret"})
	if !ok {
		return nil, fault.New(fault.Unreachable, "the cluster does not say how it serves Secrets")
	}
	if err := e.Cluster.Watch(ctx, kind); err != nil {
		return nil, err
	}
	e.expect(st, slices.Concat(shared, secrets)) // before they are looked for: one that comes in between is told
	now := e.Clock()
	lacking := map[object.ID]time.Time{}
	var missing []object.ID
	for _, id := range secrets {
		if record, there := e.Cluster.Look(kind, id); there && !record.Deleting {
			continue
		}
		missing = append(missing, id)
		since, known := st.lacking[id]
		if !known {
			since = now
		}
		lacking[id] = since
	}
	st.lacking = lacking
	e.expect(st, append(shared, missing...))
	return func(id object.ID) plan.Presence {
		since, missing := lacking[id]
		switch {
		case !missing:
			return plan.There
		case now.Sub(since) >= patience:
			return plan.Overdue
		}
		return plan.Missing
	}, nil
}

// expect routes the events of objects that a delivery needs to it, and no others: who
// holds them is another matter.
func (e *Engine) expect(st *state, needed []object.ID) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for id := range st.expects {
		delete(e.expected[id], st.id)
		if len(e.expected[id]) == 0 {
			delete(e.expected, id)
		}
	}
	st.expects = nil
	for _, id := range needed {
		if st.expects == nil {
			st.expects = map[object.ID]struct{}{}
		}
		st.expects[id] = struct{}{}
		if e.expected[id] == nil {
			e.expected[id] = map[ID]struct{}{}
		}
		e.expected[id][st.id] = struct{}{}
	}
}

// waits is how long until the first of the objects that wait has waited for long
// enough; 0 if none waits.
func (st *state) waits(now time.Time) time.Duration {
	var first time.Duration
	for _, since := range st.lacking {
		left := patience - now.Sub(since)
		if left > 0 && (first == 0 || left < first) {
			first = left
		}
	}
	return first
}

// trouble is what the one who is to make a Secret says of why it has not; "" if it says
// nothing.
func (e *Engine) trouble(spec Spec, maker object.ID) string {
	kind, ok := e.Cluster.LookupGroupKind(maker.GroupKind())
	if !ok {
		return ""
	}
	verdict := e.healthOf(spec, kind, maker)
	if verdict == nil || verdict.Status == health.Healthy && verdict.Message == "" {
		return ""
	}
	return verdict.Message
}
