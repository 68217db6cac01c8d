package argo

import (
	"github.com/holdfastcd/holdfast/internal/delivery"
	"github.com/holdfastcd/holdfast/internal/health"
	"github.com/holdfastcd/holdfast/internal/plan"
)

// compared tells a plan that is not going to be executed as a report: what a sync
// would do is what differs. The plan must be a preview, whose observations hold
// the live objects.
func compared(p plan.Plan, before []delivery.Entry) delivery.Report {
	r := delivery.Report{Inventory: before}
	held := map[string]bool{}
	for _, e := range before {
		held[e.ID.String()] = true
	}
	for _, a := range p.Actions() {
		o := judge(a)
		r.Objects = append(r.Objects, o)
		if o.Desired && !held[a.ID.String()] {
			r.Inventory = append(r.Inventory, delivery.Entry{ID: a.ID, Version: a.Kind.GVK.Version})
		}
	}
	return r
}

// judge tells one action.
func judge(a plan.Action) delivery.Object {
	o := delivery.Object{ID: a.ID, GVK: a.Kind.GVK, Desired: a.Desired != nil, Outcome: delivery.Left, Message: a.Reason}
	if a.Desired != nil {
		o.Origin = a.Desired.Origin
	}
	live, dry := a.Observed.Live, a.Observed.DryRun
	switch {
	case a.Op == plan.Release:
		o.Outcome = delivery.Released
	case a.Op == plan.Keep, live != nil && dry != nil && len(plan.Diff(live, dry)) == 0:
		o.Outcome = delivery.Unchanged
	}
	switch {
	case live != nil:
		if v, ok := health.Judge(&live.Unstructured); ok {
			o.Health = &v
		}
	case o.Desired && a.Observed.Sight == plan.Absent:
		o.Health = &health.Verdict{Status: health.Missing}
	}
	return o
}
