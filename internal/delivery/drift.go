package delivery

import (
	"context"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"github.com/holdfastcd/holdfast/internal/cluster"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/plan"
	"github.com/holdfastcd/holdfast/internal/trust"
	"github.com/holdfastcd/holdfast/internal/writes"
)

// AlertDrift is the reason of events that tell that somebody else changed an object
// which the delivery holds.
const AlertDrift = "DriftDetected"

// Editors tell who wrote to an object, by what the API server's audit log says;
// *writes.Memory is one.
type Editors interface {
	// Wrote returns the users who may have made a change, each once.
	Wrote(q writes.Query) []string
}

// Bounds of what is looked at and told.
const (
	maxLooks   = 100 // objects that one pass reads because others wrote to them
	atOnce     = 8   // of these reads
	maxAlerts  = 10  // objects that get an event of their own in one pass
	maxForeign = 8   // states of others' fields that are remembered of one object
	maxTold    = 256 // added fields that are remembered of one object
	maxUnnamed = 100 // changes of which the user may still become known
	nameWithin = 2 * time.Minute
)

// byAuditLog is what proves who an editor is.
const byAuditLog = "API server audit log"

// notice is what is remembered of others' writes to one object.
type notice struct {
	foreign []cluster.Hash // what others owned when it was looked at and there was nothing to remove, the last ones
	surplus []object.Path  // fields of others that a strict delivery removes
	dirty   cluster.Hash   // what others owned when these were found
	uid     types.UID      // and ours: the change of our own fields that was told last
	ours    cluster.Hash
	gone    bool            // it was told that the object was deleted
	told    map[string]bool // fields of others that were told
	pace    fight           // how often it was looked at
}

// suspect is an object that others may have changed, and what came of looking.
type suspect struct {
	action *plan.Action
	print  cluster.Fingerprint // as the watch shows it
	moved  bool                // our own fields were changed
	old    bool                // and that was told before
	gone   bool
	drift  plan.Drift
	failed error // why it could not be looked at
}

// notice looks at the objects of a plan that others wrote to since they were looked at
// last, tells what was changed and by whom, and has what others added removed where the
// delivery is strict. An object of which the watch shows nothing new costs nothing, one
// that was changed costs one read.
func (e *Engine) notice(ctx context.Context, spec Spec, st *state, p plan.Plan) error {
	st.again = 0
	var suspects []*suspect
	for i := range p.Stages {
		for j := range p.Stages[i].Actions {
			if s := e.suspect(spec, st, &p.Stages[i].Actions[j]); s != nil {
				suspects = append(suspects, s)
			}
		}
	}
	if len(suspects) > 0 {
		if err := e.look(ctx, spec, st, suspects); err != nil {
			return err
		}
		e.tellDrift(ctx, spec, st, suspects)
	}
	if !spec.strict() {
		return nil
	}
	return e.strip(ctx, spec, st, p)
}

// strict reports whether what others add is removed.
func (s Spec) strict() bool {
	return !s.Observe && (s.Strict || slices.ContainsFunc(s.Trust.Policies, func(p trust.Policy) bool { return p.Strict && !p.Audit }))
}

// suspect returns an action's object if others may have changed it in a way that was
// not looked at yet.
func (e *Engine) suspect(spec Spec, st *state, a *plan.Action) *suspect {
	known, ok := st.prints[a.ID]
	if !ok || !held(a.Desired) {
		return nil
	}
	n := st.notices[a.ID]
	record, there := e.Cluster.Look(a.Kind, a.ID)
	if !there {
		return missed(a, n)
	}
	if !keeps(a.Op) {
		return nil
	}
	now, _ := record.Fingerprint(spec.Profile.FieldManager, a.Desired.Digest)
	s := &suspect{action: a, print: now, moved: now.UID != known.UID || now.Ours != known.Ours}
	s.old = s.moved && n != nil && n.uid == now.UID && n.ours == now.Ours
	if s.moved && !s.old {
		return s // reverts back off by themselves
	}
	if !n.newTo(known, s, spec.strict()) {
		return nil
	}
	if n != nil && n.pace.hold(e.Clock()) > 0 {
		st.lookAgain(n.pace.hold(e.Clock()))
		return nil
	}
	return s
}

// held reports whether an object is held to what is desired, so that changes by others count.
func held(d *plan.Desired) bool { return d != nil && !d.Loose && !d.Treatment.IfNotPresent }

// keeps reports whether an object is desired after an operation.
func keeps(op plan.Op) bool { return op == plan.Keep || op == plan.Leave || op.Applies() }

// missed returns the object of an action that somebody deleted, unless that was told.
func missed(a *plan.Action, n *notice) *suspect {
	deleted := a.Observed.Sight == plan.Absent && a.Observed.Digest == a.Desired.Digest && !plan.Fleeting(a.ID.GroupKind())
	if !deleted || n != nil && n.gone {
		return nil
	}
	return &suspect{action: a, gone: true}
}

// newTo reports whether others own something that was not looked at. What is held
// strictly is looked at once, whatever the fingerprint says.
func (n *notice) newTo(known cluster.Fingerprint, s *suspect, strict bool) bool {
	inPlace := plan.StatusInPlace(s.action.ID.GroupKind())
	foreign := s.print.Foreign(inPlace)
	if n != nil {
		return !n.knows(foreign)
	}
	return foreign != known.Foreign(inPlace) || strict && foreign != cluster.Hash{}
}

// knows reports whether an object was looked at when others owned this of it.
func (n *notice) knows(foreign cluster.Hash) bool {
	return slices.Contains(n.foreign, foreign) || len(n.surplus) > 0 && foreign == n.dirty
}

// lookAgain asks for another pass after a while.
func (st *state) lookAgain(wait time.Duration) {
	if st.again == 0 || wait < st.again {
		st.again = wait
	}
}

// look reads the suspects and finds out what was done to them. One that cannot be read
// is told by what the watch shows of it.
func (e *Engine) look(ctx context.Context, spec Spec, st *state, suspects []*suspect) error {
	if slices.ContainsFunc(suspects, func(s *suspect) bool { return s.moved && s.action.Desired.Body.IsZero() }) {
		if err := e.fill(ctx, spec, st, suspects); err != nil {
			return err
		}
	}
	var group errgroup.Group
	group.SetLimit(atOnce)
	client := e.Cluster.As(spec.Account)
	for i, s := range suspects {
		if s.gone {
			continue
		}
		if s.failed = errLater; i < maxLooks {
			group.Go(func() error {
				s.failed = s.read(ctx, client, spec)
				return nil
			})
		}
	}
	_ = group.Wait() // each has its own error
	for _, s := range suspects {
		if s.failed != nil {
			e.unread(spec, st, s)
		}
	}
	return nil
}

// errLater is why an object was not read: it is not the turn of so many.
var errLater = fault.New(fault.Waiting, "others changed many objects at once")

// unread decides what becomes of an object that was not read: it is told without its
// fields, or looked at again.
func (e *Engine) unread(spec Spec, st *state, s *suspect) {
	switch kind := fault.KindOf(s.failed); {
	case kind == fault.Rejected || s.moved:
		s.guess(e, spec)
		return
	case kind == fault.Waiting:
		st.lookAgain(time.Second)
	case kind != fault.NotFound: // its end is another event
		st.lookAgain(retryTurn)
	}
	s.action = nil
}

// read gets the live object, unless it was read for the plan, and compares it.
func (s *suspect) read(ctx context.Context, client *cluster.Client, spec Spec) error {
	if known := s.action.Observed.Live; known != nil {
		return s.compare(spec, known.DeepCopy())
	}
	live, err := client.Get(ctx, s.action.Kind, s.action.ID)
	if err != nil {
		return err
	}
	return s.compare(spec, live)
}

// fill gives the suspects' objects their bodies.
func (e *Engine) fill(ctx context.Context, spec Spec, st *state, suspects []*suspect) error {
	bodies, err := e.bodies(ctx, spec, st)
	if err != nil {
		return err
	}
	for _, s := range suspects {
		if d, ok := bodies[s.action.ID]; ok {
			s.action.Desired = &d
		}
	}
	return nil
}

// bodies returns the desired objects with their bodies.
func (e *Engine) bodies(ctx context.Context, spec Spec, st *state) (map[object.ID]plan.Desired, error) {
	desired, err := e.desire(ctx, spec, st, true)
	if err != nil {
		return nil, err
	}
	all := make(map[object.ID]plan.Desired, len(desired))
	for _, d := range desired {
		all[d.ID] = d
	}
	return all, nil
}

// compare finds out what was done to a live object.
func (s *suspect) compare(spec Spec, live *unstructured.Unstructured) error {
	a := s.action
	scene := plan.Scene{
		ID: a.ID, Live: live, Manager: spec.Profile.FieldManager, Moved: s.moved,
		Ignored: a.Desired.Ignored, Shared: a.Desired.Treatment.Merge,
	}
	if a.Op != plan.Update && !a.Desired.Body.IsZero() { // the source may have changed since it was applied
		scene.Desired = &unstructured.Unstructured{}
		if err := scene.Desired.UnmarshalJSON(a.Desired.Body.Reveal()); err != nil {
			return fault.New(fault.Rejected, "the desired object cannot be read").On(a.ID.String()).Because(err)
		}
		refer(scene.Desired, live, a.Desired.Owner)
	}
	s.drift = plan.FindDrift(scene)
	return nil
}

// refer gives a desired object the references to its owner that the live one has: with
// which UID they were sent, nobody remembers.
func refer(desired, live *unstructured.Unstructured, owner object.ID) {
	if owner == (object.ID{}) {
		return
	}
	var ours []any
	all, _, _ := unstructured.NestedSlice(live.Object, "metadata", "ownerReferences")
	for _, r := range all {
		if fields, ok := r.(map[string]any); ok && fields["kind"] == owner.Kind && fields["name"] == owner.Name {
			ours = append(ours, fields)
		}
	}
	if metadata, ok := desired.Object["metadata"].(map[string]any); ok && ours != nil {
		metadata["ownerReferences"] = ours
	}
}

// guess tells of a change without its fields.
func (s *suspect) guess(e *Engine, spec Spec) {
	record, _ := e.Cluster.Look(s.action.Kind, s.action.ID)
	s.drift.Changed = []plan.Touch{{Manager: lastOf(record.Others(spec.Profile.FieldManager))}}
}

// tellDrift notes what was found, and tells what is news of it.
func (e *Engine) tellDrift(ctx context.Context, spec Spec, st *state, suspects []*suspect) {
	var found []edit
	for _, s := range suspects {
		if s.action == nil {
			continue
		}
		n := st.noticeOf(s.action.ID)
		if news := n.take(s, st.prints[s.action.ID], e.Clock()); s.gone || !news.None() {
			f := e.editOf(s, news)
			f.change.Fields, f.change.Added = st.mask.Texts(f.change.Fields), st.mask.Texts(f.change.Added) // it may be told again later
			found = append(found, f)
		}
	}
	if len(found) == 0 {
		return
	}
	e.recordEdits(ctx, spec, st, found, "")
	for i, f := range found {
		if i == maxAlerts {
			st.alerts = append(st.alerts, Alert{AlertDrift, fmt.Sprintf("%d more objects were changed by others", len(found)-i)})
			break
		}
		st.alerts = append(st.alerts, Alert{AlertDrift, f.text()})
	}
	e.await(spec, st, found)
}

func (st *state) noticeOf(id object.ID) *notice {
	n, ok := st.notices[id]
	if !ok {
		if st.notices == nil {
			st.notices = map[object.ID]*notice{}
		}
		n = &notice{}
		st.notices[id] = n
	}
	return n
}

// take notes what was found of an object, and returns what was not told before.
func (n *notice) take(s *suspect, known cluster.Fingerprint, now time.Time) plan.Drift {
	if s.gone {
		n.gone = true
		return plan.Drift{}
	}
	inPlace := plan.StatusInPlace(s.action.ID.GroupKind())
	if before := known.Foreign(inPlace); n.foreign == nil && before != s.print.Foreign(inPlace) {
		n.foreign = []cluster.Hash{before}
	}
	n.surplus, n.dirty = s.drift.Surplus, s.print.Foreign(inPlace)
	if len(n.surplus) == 0 && !n.knows(n.dirty) {
		n.foreign = append(n.foreign, n.dirty)
		n.foreign = n.foreign[max(0, len(n.foreign)-maxForeign):]
	}
	if s.moved {
		n.uid, n.ours = s.print.UID, s.print.Ours
	}
	if !s.moved || s.old {
		n.pace.reverted(now)
	}
	var news plan.Drift
	if !s.old {
		news.Changed = s.drift.Changed
	}
	told := map[string]bool{}
	for _, t := range s.drift.Added {
		key := t.Manager + " " + t.Field
		if !n.told[key] {
			news.Added = append(news.Added, t)
		}
		if len(told) < maxTold {
			told[key] = true
		}
	}
	n.told = told // what is not there any more is news when it comes back
	return news
}

// strip turns what is strictly held, and has fields that others added, into a revert.
func (e *Engine) strip(ctx context.Context, spec Spec, st *state, p plan.Plan) error {
	var bodies map[object.ID]plan.Desired
	for i := range p.Stages {
		for j := range p.Stages[i].Actions {
			a := &p.Stages[i].Actions[j]
			if !st.surplus(a) {
				continue
			}
			if a.Desired.Body.IsZero() && bodies == nil {
				var err error
				if bodies, err = e.bodies(ctx, spec, st); err != nil {
					return err
				}
			}
			if d, ok := bodies[a.ID]; ok {
				a.Desired = &d
			}
			a.Surplus = st.notices[a.ID].surplus
			if a.Op != plan.Update {
				a.Op, a.Reason = plan.Revert, "others added fields to it, and it is held strictly"
			}
		}
	}
	return nil
}

// surplus reports whether others added to an object which may be applied now.
func (st *state) surplus(a *plan.Action) bool {
	n := st.notices[a.ID]
	if n == nil || len(n.surplus) == 0 || a.Desired == nil {
		return false
	}
	return a.Op == plan.Keep || a.Op.Applies() && a.Op != plan.Create
}

// stripped forgets the fields that a removed.
func (st *state) stripped(a plan.Action) {
	if n := st.notices[a.ID]; n != nil && len(a.Surplus) > 0 {
		n.surplus = nil
	}
}

// reprint replaces the fingerprint of an object. What others wrote between the last look
// and the request that the new one is from has not been looked at.
func (st *state) reprint(id object.ID, taken cluster.Fingerprint) {
	inPlace := plan.StatusInPlace(id.GroupKind())
	old, known := st.prints[id]
	if foreign := old.Foreign(inPlace); known && st.notices[id] == nil && foreign != taken.Foreign(inPlace) {
		st.noticeOf(id).foreign = []cluster.Hash{foreign}
	}
	st.prints[id] = taken
}
