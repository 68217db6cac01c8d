package delivery

import (
	"context"
	"slices"

	"github.com/holdfastcd/holdfast/internal/cluster"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/plan"
	"github.com/holdfastcd/holdfast/internal/schema"
)

// input gathers what a plan is made from. It starts the watches that the
// delivery needs and has not got yet, and claims its objects' events.
func (e *Engine) input(ctx context.Context, spec Spec, st *state, desired []plan.Desired) (plan.Input, error) {
	inventory := e.inventory(spec, st)
	if err := e.watch(ctx, desired, inventory); err != nil {
		return plan.Input{}, err
	}
	e.claim(spec.ID, desired, inventory)
	kinds := make(map[object.ID]schema.Kind, len(desired)+len(inventory))
	for _, entry := range inventory {
		kinds[entry.ID] = entry.Kind
	}
	for _, d := range desired {
		kinds[d.ID] = d.Kind
	}
	return plan.Input{
		Owner:     spec.ID.String(),
		Desired:   desired,
		Inventory: inventory,
		Observe: func(id object.ID) plan.Observed {
			return e.observe(kinds[id], id, st, spec)
		},
		Alive: e.Alive,
		Permits: func(entry plan.Entry) *fault.Error {
			return spec.Rules.Permits(entry.ID, entry.Kind.Namespaced)
		},
		Prune:   spec.Prune,
		Revert:  spec.Revert,
		Profile: spec.Profile.Plan,
	}, nil
}

// inventory is what the delivery holds: what its status remembers, and what was
// applied but did not get there because the process ended in between.
func (e *Engine) inventory(spec Spec, st *state) []plan.Entry {
	all := make([]plan.Entry, 0, len(spec.Inventory))
	listed := make(map[object.ID]bool, len(spec.Inventory))
	for _, entry := range spec.Inventory {
		listed[entry.ID] = true
		all = append(all, plan.Entry{ID: entry.ID, Kind: e.kindOf(entry)})
	}
	for id := range st.prints {
		if !listed[id] {
			all = append(all, plan.Entry{ID: id, Kind: e.kindOf(Entry{ID: id})})
		}
	}
	return all
}

// kindOf finds how the cluster serves an inventory entry; the zero Kind if it does not.
func (e *Engine) kindOf(entry Entry) schema.Kind {
	gk := entry.ID.GroupKind()
	if k, ok := e.Cluster.Kinds().Lookup(gk.WithVersion(entry.Version)); ok {
		return k
	}
	k, _ := e.Cluster.LookupGroupKind(gk)
	return k
}

// watch makes sure that every kind of a delivery is watched, and waits for first lists.
func (e *Engine) watch(ctx context.Context, desired []plan.Desired, inventory []plan.Entry) error {
	var kinds []schema.Kind
	add := func(k schema.Kind) {
		if k.Resource == "" || slices.Contains(kinds, k) {
			return
		}
		if _, served := e.Cluster.Kinds().Lookup(k.GVK); served {
			kinds = append(kinds, k)
		}
	}
	for _, d := range desired {
		add(d.Kind)
	}
	for _, entry := range inventory {
		add(entry.Kind)
	}
	return e.Cluster.Watch(ctx, kinds...)
}

// claim routes the events of a delivery's objects to it. An object that another
// delivery claims stays there: the plan refuses it by its marks.
func (e *Engine) claim(id ID, desired []plan.Desired, inventory []plan.Entry) {
	e.mu.Lock()
	defer e.mu.Unlock()
	take := func(o object.ID) {
		if _, taken := e.owners[o]; !taken {
			e.owners[o] = id
		}
	}
	for _, d := range desired {
		take(d.ID)
	}
	for _, entry := range inventory {
		take(entry.ID)
	}
}

// observe says what the watches show of one object.
func (e *Engine) observe(kind schema.Kind, id object.ID, st *state, spec Spec) plan.Observed {
	if _, served := e.Cluster.Kinds().Lookup(kind.GVK); !served {
		return plan.Observed{Sight: plan.KindUnknown}
	}
	record, ok := e.Cluster.Look(kind, id)
	if !ok {
		return plan.Observed{Sight: plan.Absent}
	}
	seen := plan.Observed{
		Sight:           plan.Unsure,
		UID:             record.UID,
		ResourceVersion: record.ResourceVersion,
		Owner:           record.Owner,
		Deleting:        record.Deleting,
		Kept:            record.Kept,
	}
	if taken, known := st.prints[id]; known {
		seen.Digest = taken.Digest
		seen.Sight = record.Sight(taken, spec.Profile.FieldManager)
		if seen.Sight == plan.AsApplied && record.Generation != taken.Generation {
			// Status alone moved it: a later move must not hide behind this one.
			st.prints[id], _ = record.Fingerprint(spec.Profile.FieldManager, taken.Digest)
		}
	}
	if seen.Sight == plan.Drifted {
		seen.By = firstOf(record.Others(spec.Profile.FieldManager))
	}
	return seen
}

func firstOf(names []string) string {
	if len(names) == 0 {
		return ""
	}
	return names[len(names)-1]
}

// raise replaces the observations that pick chooses by the live object and the
// result of a dry run beside it. Desired objects must have their bodies.
func (e *Engine) raise(ctx context.Context, spec Spec, in plan.Input, pick func(plan.Observed) bool) (func(object.ID) plan.Observed, error) {
	client := e.Cluster.As(spec.Account)
	raised := map[object.ID]plan.Observed{}
	for _, d := range in.Desired {
		seen := in.Observe(d.ID)
		if seen.Sight == plan.Absent || seen.Sight == plan.KindUnknown || seen.Deleting || !pick(seen) {
			continue
		}
		if err := compare(ctx, client, spec, d, &seen); err != nil {
			return nil, err
		}
		raised[d.ID] = seen
	}
	return func(id object.ID) plan.Observed {
		if seen, ok := raised[id]; ok {
			return seen
		}
		return in.Observe(id)
	}, nil
}

// compare fills the live object and its dry run into seen.
func compare(ctx context.Context, client *cluster.Client, spec Spec, d plan.Desired, seen *plan.Observed) error {
	live, err := client.Get(ctx, d.Kind, d.ID)
	if err != nil {
		return err
	}
	dry, err := client.DryRunApply(ctx, d.Kind, d.ID, d.Body, spec.Profile.FieldManager)
	if err != nil {
		return err
	}
	seen.Live = &object.Object{Unstructured: *live}
	seen.DryRun = &object.Object{Unstructured: *dry}
	return nil
}
