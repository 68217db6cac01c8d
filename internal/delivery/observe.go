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
// delivery needs and has not got yet, and claims its objects' events. retract: the
// delivery itself is being deleted.
func (e *Engine) input(ctx context.Context, spec Spec, st *state, desired []plan.Desired, retract bool) (plan.Input, error) {
	inventory := e.inventory(spec, st)
	watched, err := e.watch(ctx, spec.Profile, desired, inventory)
	if err != nil {
		return plan.Input{}, err
	}
	if spec.Profile.PruneMarked {
		inventory = e.marked(spec, st, watched, inventory)
	}
	inventory = leave(desired, inventory)
	e.claim(st, desired, inventory)
	needed, err := e.needed(ctx, st, desired)
	if err != nil {
		return plan.Input{}, err
	}
	kinds := make(map[object.ID]schema.Kind, len(desired)+len(inventory))
	for _, entry := range inventory {
		kinds[entry.ID] = entry.Kind
	}
	peers := make(map[object.ID][]string)
	for _, d := range desired {
		kinds[d.ID] = d.Kind
		if d.Peers != nil {
			peers[d.ID] = d.Peers
		}
	}
	return plan.Input{
		Owner:     spec.ID.String(),
		Desired:   desired,
		Inventory: inventory,
		Observe: func(id object.ID) plan.Observed {
			seen := e.observe(kinds[id], id, st, spec, retract)
			seen.Peers = seen.Peers || peers[id] != nil && e.peered(kinds[id], id, spec, peers[id])
			return seen
		},
		Alive: e.Alive,
		Permits: func(entry plan.Entry) *fault.Error {
			return spec.Rules.Permits(entry.ID, entry.Kind.Namespaced)
		},
		Prune:     spec.Prune,
		Revert:    spec.Revert,
		Profile:   spec.planProfile(),
		Only:      spec.only(),
		Confirmed: spec.Confirmed,
		Cleared:   func(id object.ID) bool { return st.cleared[id] },
		Needed:    needed,
	}, nil
}

// planProfile is the plan's part of the profile, with the brake that holds where
// none is asked for.
func (s Spec) planProfile() plan.Profile {
	p := s.Profile.Plan
	if p.Brake.IsZero() {
		p.Brake = plan.DefaultBrake()
	}
	return p
}

// only says which objects a pass is for; nil: all.
func (s Spec) only() func(object.ID) bool {
	if s.Only == nil {
		return nil
	}
	chosen := make(map[object.ID]bool, len(s.Only))
	for _, id := range s.Only {
		chosen[id] = true
	}
	return func(id object.ID) bool { return chosen[id] }
}

// marked adds the objects to an inventory that carry the delivery's marks, of the
// watched kinds. All records are searched when there is a kind more than before;
// after that, events tell. The resource that asks for the delivery is not its own.
func (e *Engine) marked(spec Spec, st *state, watched int, inventory []plan.Entry) []plan.Entry {
	var found []object.ID
	if watched > st.swept {
		st.swept = watched
		found = e.Cluster.Owned(spec.ID.String())
	}
	listed := make(map[object.ID]bool, len(inventory))
	for _, entry := range inventory {
		listed[entry.ID] = true
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.named[spec.ID.String()] = st
	for _, id := range found {
		st.stray(id)
	}
	for id := range st.strays {
		self := id.Kind == spec.ID.Kind && id.Namespace == spec.ID.Namespace && id.Name == spec.ID.Name
		if listed[id] || self {
			delete(st.strays, id)
			continue
		}
		kind := e.kindOf(Entry{ID: id})
		if spec.Rules.Permits(id, kind.Namespaced) != nil {
			continue // another control plane may have a delivery of the same name
		}
		inventory = append(inventory, plan.Entry{ID: id, Kind: kind})
	}
	return inventory
}

// inventory is what the delivery holds: what its status remembers, and what was
// applied but did not get there because the process ended in between.
func (e *Engine) inventory(spec Spec, st *state) []plan.Entry {
	all := make([]plan.Entry, 0, len(spec.Inventory))
	listed := make(map[object.ID]bool, len(spec.Inventory))
	for _, entry := range spec.Inventory {
		listed[entry.ID] = true
		all = append(all, plan.Entry{ID: entry.ID, Kind: e.kindOf(entry), Wave: entry.Wave})
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

// watch makes sure that every kind of a delivery is watched, whole where its health
// is asked for, and waits for first lists. It returns how many kinds these are.
func (e *Engine) watch(ctx context.Context, profile Profile, desired []plan.Desired, inventory []plan.Entry) (int, error) {
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
	whole := slices.Clone(kinds)
	whole = slices.DeleteFunc(whole, func(k schema.Kind) bool { return profile.NoHealth || !profile.Health.NeedsObject(k.GVK.GroupKind()) })
	if err := e.Cluster.WatchWhole(ctx, whole...); err != nil {
		return 0, err
	}
	return len(kinds), e.Cluster.Watch(ctx, kinds...)
}

// claim routes the events of a delivery's objects to it. An object that another
// delivery claims stays there: the plan refuses it by its marks, and this delivery
// hears of it when they change.
func (e *Engine) claim(st *state, desired []plan.Desired, inventory []plan.Entry) {
	e.mu.Lock()
	defer e.mu.Unlock()
	wanted := make(map[object.ID]struct{})
	take := func(o object.ID) {
		switch holder, taken := e.owners[o]; {
		case !taken:
			e.owners[o] = st
			st.claims[o] = struct{}{}
		case holder != st:
			e.rivals.enter(o, st.id)
			wanted[o] = struct{}{}
		}
	}
	for _, d := range desired {
		take(d.ID)
	}
	for _, entry := range inventory {
		take(entry.ID)
	}
	for o := range st.wanted {
		if _, still := wanted[o]; !still {
			e.rivals.leave(o, st.id)
		}
	}
	st.wanted = wanted
}

// observe says what the watches show of one object.
func (e *Engine) observe(kind schema.Kind, id object.ID, st *state, spec Spec, retract bool) plan.Observed {
	if _, served := e.Cluster.Kinds().Lookup(kind.GVK); !served {
		return plan.Observed{Sight: plan.KindUnknown}
	}
	record, ok := e.Cluster.Look(kind, id)
	if !ok {
		return plan.Observed{Sight: plan.Absent, Digest: st.prints[id].Digest}
	}
	seen := plan.Observed{
		Sight:           plan.Unsure,
		UID:             record.UID,
		ResourceVersion: record.ResourceVersion,
		Owner:           record.Owner,
		Deleting:        record.Deleting,
		Generation:      record.Generation,
		Ours:            record.Ours(spec.Profile.FieldManager),
		Peers:           record.Peered(spec.Profile.FieldManager, spec.Profile.peers()),
		Kept:            record.KeptInPrune && !retract || record.KeptInDelete && retract,
	}
	seen.Kept = seen.Kept || isSecret(id) && e.keptSealed(id, retract)
	if taken, known := st.prints[id]; known {
		seen.Digest = taken.Digest
		seen.Sight = record.Sight(taken, spec.Profile.FieldManager)
		if seen.Sight == plan.AsApplied && record.Generation != taken.Generation {
			// Status alone moved it: a later move must not hide behind this one.
			st.prints[id], _ = record.Fingerprint(spec.Profile.FieldManager, taken.Digest)
		}
	}
	if seen.Sight == plan.Drifted {
		seen.By = lastOf(record.Others(spec.Profile.FieldManager))
	}
	return seen
}

// peered reports whether an object shows fields of these peers.
func (e *Engine) peered(kind schema.Kind, id object.ID, spec Spec, peers []string) bool {
	record, ok := e.Cluster.Look(kind, id)
	return ok && record.Peered(spec.Profile.FieldManager, peers)
}

func lastOf(names []string) string {
	if len(names) == 0 {
		return ""
	}
	return names[len(names)-1]
}

// untold reports whether an object that was applied before has to be compared by
// value, since its record cannot tell whether it was changed in a way that
// counts: for a delivery that does not revert, and for an object of which fields
// are ignored.
func (s Spec) untold(d plan.Desired, o plan.Observed) bool {
	if o.Digest == [32]byte{} {
		return false
	}
	switch o.Sight {
	case plan.Unsure:
		return !s.Revert || d.Ignored != nil
	case plan.Drifted:
		return d.Ignored != nil && o.Digest == d.Digest
	default:
		return false
	}
}

// peers are the managers whose objects are taken over.
func (p Profile) peers() []string {
	if p.Peers == nil {
		return cluster.Peers()
	}
	return p.Peers
}

// raise replaces the observations that pick chooses by the live object and the
// result of a dry run beside it. Desired objects must have their bodies. What
// comes of it is noted in st, unless that is nil.
func (e *Engine) raise(ctx context.Context, spec Spec, st *state, in plan.Input, pick func(plan.Desired, plan.Observed) bool) (func(object.ID) plan.Observed, error) {
	client := e.Cluster.As(spec.Account)
	raised := map[object.ID]plan.Observed{}
	for _, d := range in.Desired {
		seen := in.Observe(d.ID)
		if seen.Sight == plan.Absent || seen.Sight == plan.KindUnknown || seen.Deleting || !pick(d, seen) {
			continue
		}
		record, _ := e.Cluster.Look(d.Kind, d.ID)
		taken, owned := record.Fingerprint(spec.Profile.FieldManager, d.Digest)
		if st != nil && (!owned || st.differs[d.ID] == taken) {
			continue // it is not ours as it should be, or known to differ
		}
		if err := e.compare(ctx, client, spec, d, &seen); err != nil {
			return nil, err
		}
		raised[d.ID] = seen
		if st != nil && seen.Live.GetResourceVersion() == record.ResourceVersion {
			st.settle(d, seen, taken)
		}
	}
	return func(id object.ID) plan.Observed {
		if seen, ok := raised[id]; ok {
			return seen
		}
		return in.Observe(id)
	}, nil
}

// settle notes what came of comparing an object by value when its fingerprint was
// taken: the next pass need not do it again.
func (st *state) settle(d plan.Desired, seen plan.Observed, taken cluster.Fingerprint) {
	delete(st.differs, d.ID)
	switch {
	case len(plan.Diff(seen.Live, seen.DryRun)) > 0:
		st.differs[d.ID] = taken
	case seen.Digest == d.Digest:
		st.reprint(d.ID, taken)
	}
}

// compare fills the live object and its dry run into seen, both without the
// fields that are ignored.
func (e *Engine) compare(ctx context.Context, client *cluster.Client, spec Spec, d plan.Desired, seen *plan.Observed) error {
	live, err := client.Get(ctx, d.Kind, d.ID)
	if err != nil {
		return err
	}
	body, err := bodyOf(e.Cluster, d)
	if err != nil {
		return err
	}
	dry, err := client.DryRunApply(ctx, d.Kind, d.ID, body, spec.Profile.FieldManager)
	if err != nil {
		return err
	}
	if seen.Digest == [32]byte{} && !d.Treatment.Merge {
		cluster.Foresee(live, dry, spec.Profile.FieldManager, slices.Concat(spec.Profile.peers(), d.Peers))
	}
	d.Ignored.Clear(live, dry)
	seen.Live = &object.Object{Unstructured: *live}
	seen.DryRun = &object.Object{Unstructured: *dry}
	return nil
}
