package delivery

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	kschema "k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/holdfastcd/holdfast/internal/apply"
	"github.com/holdfastcd/holdfast/internal/cluster"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/plan"
	"github.com/holdfastcd/holdfast/internal/render"
	"github.com/holdfastcd/holdfast/internal/secret"
	"github.com/holdfastcd/holdfast/internal/trust"
)

// Memory keeps fingerprints across restarts. Losing it costs requests, nothing else.
type Memory interface {
	Load(delivery string) (map[object.ID]cluster.Fingerprint, error)
	Save(delivery string, prints map[object.ID]cluster.Fingerprint) error
	Delete(delivery string) error
}

// Options are what an engine is made of.
type Options struct {
	// Renderer returns the renderer of one delivery: what it caches for one, no
	// other delivery gets.
	Renderer func(ID) render.Renderer
	Cluster  *cluster.Cluster
	Memory   Memory
	Digest   Digester
	Clock    func() time.Time
	Log      *slog.Logger
	// Alive reports whether a delivery, named as marks name it, still exists.
	Alive func(owner string) bool
	// Commits and Images gather what trust policies demand; nil: whatever they demand
	// is refused.
	Commits Commits
	Images  Images
	// Judged is told which policies refuse a delivery, and which would but only audit,
	// when that changes; none: it is proven what they demand. nil: nobody is.
	Judged func(id ID, refusing, unproven []string)
	// Audit is the log without which nothing is sent; nil: nothing is recorded, as
	// previews may.
	Audit Audit
	// Editors tell which users are behind changes of delivered objects; nil: nobody does.
	Editors Editors
	// Leaks searches files for secrets that nobody sealed; nil: whatever asks for it is
	// refused.
	Leaks Leaks
	// Unsealer opens SealedSecrets; nil: they are applied as they are.
	Unsealer secret.Unsealer
	// Policies judge objects by policies; nil: whatever a set selects is refused.
	Policies Policies
	// Complete fills in, for policies, what the API server would; nil: nothing is.
	Complete func(map[string]any)
	// NamespaceLabels are those of a namespace of the cluster, for policies; nil: nobody knows.
	NamespaceLabels func(namespace string) map[string]string
	// Ruled is told what policies say of a delivery, when that changes; nil: nobody is.
	Ruled func(ID, Ruling)
}

// Engine delivers specs to one cluster. One pass is one call of [Engine.Deliver]:
// it does what can be done now and returns; an event on an object of the delivery
// (see [Engine.OnEvent]) asks for the next pass. Passes of different deliveries
// run side by side; those of one delivery must not.
type Engine struct {
	Options

	mu     sync.Mutex
	states map[ID]*state
	named  map[string]*state    // those that count what carries their marks, by name
	owners map[object.ID]*state // which delivery an event concerns
	rivals rivals               // and which others want the object
	stuck  map[ID]bool          // deliveries that a new kind may help on
	// awaiting are the deliveries that may still learn who changed their objects.
	awaiting map[ID]bool
	expected map[object.ID]map[ID]struct{} // who needs an object, whoever holds it
	notify   func(ID)
	version  string // of the cluster, as policies have it; "" while nobody asked
}

// New returns an engine; it reads the cluster's events from now on.
func New(o Options) *Engine {
	if o.Audit == nil {
		o.Audit = unlogged{}
	}
	e := &Engine{
		Options: o, states: map[ID]*state{}, named: map[string]*state{},
		owners: map[object.ID]*state{}, rivals: rivals{}, stuck: map[ID]bool{}, awaiting: map[ID]bool{},
		expected: map[object.ID]map[ID]struct{}{},
	}
	o.Cluster.Subscribe(e.dispatch)
	o.Cluster.SubscribeKinds(func([]kschema.GroupKind) { e.unstick() })
	return e
}

// OnEvent sets who is told that a delivery needs a pass. It must not block.
func (e *Engine) OnEvent(notify func(ID)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.notify = notify
}

// dispatch hands an event to the delivery that it concerns: the one that claims the
// object, or else the one that its marks name; to those that wait for the object; and,
// when it becomes another's, to those that want it as well.
func (e *Engine) dispatch(ev cluster.Event) {
	e.mu.Lock()
	st, ok := e.owners[ev.ID]
	if !ok && ev.Record.Owner != "" && !ev.Gone {
		if st, ok = e.named[ev.Record.Owner]; ok {
			st.stray(ev.ID)
		}
	}
	notify, waiting := e.notify, slices.Collect(maps.Keys(e.expected[ev.ID]))
	if !ev.Gone {
		waiting = append(waiting, e.rivals.told(ev.ID, ev.Record.Owner)...)
	}
	e.mu.Unlock()
	if notify == nil {
		return
	}
	if ok {
		notify(st.id)
	}
	for _, id := range waiting {
		notify(id)
	}
}

// unstick asks for a pass of every delivery that did not get through: the kind
// that it lacked may be served now.
func (e *Engine) unstick() {
	e.mu.Lock()
	ids := slices.Collect(maps.Keys(e.stuck))
	notify := e.notify
	e.mu.Unlock()
	for _, id := range ids {
		if notify != nil {
			notify(id)
		}
	}
}

// Deliver does one pass over a delivery: render, admit, plan, apply. What fails
// is told in the report, never as a panic or a half-made inventory.
func (e *Engine) Deliver(ctx context.Context, spec Spec) Report {
	st := e.state(spec.ID)
	defer st.pass()()
	e.writes(st, spec.Account.User)
	e.identify(ctx, spec, st)
	report := e.deliver(ctx, spec, st)
	report.Alerts, st.alerts = st.alerts, nil
	report = discreet(report, st.mask)
	e.judged(spec, st, report)
	e.ruled(spec, st, report)
	e.mu.Lock()
	defer e.mu.Unlock()
	if report.Err != nil {
		e.stuck[spec.ID] = true
	} else {
		delete(e.stuck, spec.ID)
	}
	return report
}

func (e *Engine) deliver(ctx context.Context, spec Spec, st *state) Report {
	if spec.Observe {
		return e.regard(ctx, spec, st)
	}
	p, err := e.plan(ctx, spec, st)
	if err != nil {
		e.tellUnopened(ctx, spec, st, err)
		return e.refuse(spec, st, err)
	}
	if conflict := p.Conflict(); conflict != nil {
		return e.refuse(spec, st, conflict)
	}
	st.refusal, st.alarmed = "", ""
	if err := e.notice(ctx, spec, st, p); err != nil {
		return e.refuse(spec, st, err)
	}
	e.holdFights(ctx, spec, p, st)
	return e.execute(ctx, spec, st, p, false)
}

// execute records what the plan says, sends it, remembers what the API server
// answered, and records and tells what came of it. What cannot be recorded is not sent.
func (e *Engine) execute(ctx context.Context, spec Spec, st *state, p plan.Plan, retract bool) Report {
	in, err := e.intend(ctx, spec, st, p, retract)
	if err != nil {
		return e.refuse(spec, st, err)
	}
	st.clear(p.Confirmed)
	res := apply.Execute(ctx, p, e.Cluster.As(spec.Account), apply.Options{
		Manager:     spec.Profile.FieldManager,
		Peers:       spec.Profile.peers(),
		Force:       spec.Force,
		Propagation: spec.Profile.Propagation,
		Ready:       e.ready(p),
		Retract:     retract,
	})
	e.remember(spec, st, res)
	e.tellSealed(ctx, spec, res)
	report := e.report(spec, st, p, res)
	e.conclude(ctx, spec, st, in, res, report)
	return report
}

// Unchanged reports whether spec is known to render, on its revision, what its
// last pass rendered: the next pass will send nothing unless the cluster moved.
func (e *Engine) Unchanged(spec Spec) bool {
	st := e.state(spec.ID)
	return st.desired != nil && st.key == e.key(spec) && (st.sealing == "" || st.sealing == e.unsealedBy()) && st.answers == st.asked.Answers(spec.Render.Capabilities) &&
		st.trace.Holds(spec.Revision.Tree)
}

// Preview returns the plan of a pass, with the fields that it would change, and
// sends nothing but reads and dry runs.
func (e *Engine) Preview(ctx context.Context, spec Spec) (plan.Plan, error) {
	st := e.state(spec.ID)
	defer st.pass()()
	in, err := e.prepare(ctx, spec, st, true)
	if err != nil {
		return plan.Plan{}, err
	}
	in.Observe, err = e.raise(ctx, spec, nil, in, func(plan.Desired, plan.Observed) bool { return true })
	if err != nil {
		return plan.Plan{}, st.mask.Error(err)
	}
	for _, d := range in.Desired {
		st.masked(in.Observe(d.ID))
	}
	p, err := plan.Make(in)
	p.Mask = st.mask
	return p, err
}

// Retract removes what a delivery holds, because its resource is being deleted.
// It reports true when nothing is left to wait for.
func (e *Engine) Retract(ctx context.Context, spec Spec) (Report, bool) {
	st := e.state(spec.ID)
	defer st.pass()()
	spec.Prune, spec.Profile.Plan.AllowEmpty = true, true
	spec.Profile.Plan.Brake, spec.Only = plan.NoBrake(), nil // to delete the resource is a word
	in, err := e.input(ctx, spec, st, nil, true)
	if err != nil {
		return e.refuse(spec, st, err), false
	}
	p, err := plan.Make(in)
	if err != nil {
		return e.refuse(spec, st, err), false
	}
	report := discreet(e.execute(ctx, spec, st, p, true), st.mask)
	return report, len(report.Inventory) == 0
}

// Forget drops what is remembered of a delivery that no longer exists.
func (e *Engine) Forget(id ID) {
	e.mu.Lock()
	st := e.states[id]
	e.mu.Unlock()
	if st != nil {
		e.expect(st, nil)
	}
	e.mu.Lock()
	if st != nil {
		for o := range st.claims {
			delete(e.owners, o)
		}
		for o := range st.wanted {
			e.rivals.leave(o, id)
		}
	}
	delete(e.states, id)
	delete(e.named, id.String())
	delete(e.stuck, id)
	delete(e.awaiting, id)
	e.mu.Unlock()
	if err := e.Memory.Delete(id.String()); err != nil {
		e.Log.Warn("cannot delete fingerprints", "delivery", id.String(), "error", err)
	}
}

// plan makes the plan of a pass. Bodies are made only if the plan without them
// shows that something must be applied, or compared by value.
func (e *Engine) plan(ctx context.Context, spec Spec, st *state) (plan.Plan, error) {
	in, err := e.prepare(ctx, spec, st, false)
	if err != nil {
		return plan.Plan{}, err
	}
	p, err := plan.Make(in)
	if err != nil || !needsBodies(p, spec) {
		return p, err
	}
	if in.Desired, err = e.desire(ctx, spec, st, true); err != nil {
		return plan.Plan{}, err
	}
	if in.Observe, err = e.raise(ctx, spec, st, in, spec.untold); err != nil {
		return plan.Plan{}, err
	}
	return plan.Make(in)
}

// prepare gathers what the plan of a pass is made from, with bodies or without.
func (e *Engine) prepare(ctx context.Context, spec Spec, st *state, bodies bool) (plan.Input, error) {
	desired, err := e.desire(ctx, spec, st, bodies)
	if err != nil {
		return plan.Input{}, err
	}
	return e.input(ctx, spec, st, desired, false)
}

func needsBodies(p plan.Plan, spec Spec) bool {
	return slices.ContainsFunc(p.Actions(), func(a plan.Action) bool {
		return a.Op.Applies() && a.Desired.Body.IsZero() || a.Desired != nil && spec.untold(*a.Desired, a.Observed)
	})
}

// desire returns the desired objects of a spec, once its revision has proven what is
// demanded of it: from memory where what they were made from still stands, without
// bodies unless they are asked for. A source that was found to be wrong is not
// rendered again until it changes.
func (e *Engine) desire(ctx context.Context, spec Spec, st *state, bodies bool) ([]plan.Desired, error) {
	verified, err := e.verify(ctx, spec, st)
	if err != nil {
		return nil, err
	}
	if !bodies && e.Unchanged(spec) && st.plaintext.stands(spec, e.Clock()) && e.stands(spec, st) {
		return st.desired, nil
	}
	key, now := e.failureKey(spec), e.Clock()
	if st.failed.stands(key, spec, now) {
		return nil, st.failed.err
	}
	made, err := e.compose(ctx, spec, st, verified)
	if err != nil {
		if st.failed = nil; ctx.Err() == nil {
			st.failed = failureOf(err, key, spec, now)
		}
		return nil, err
	}
	st.failed = nil
	if err := st.abide(made.ruling, made.desired); err != nil {
		return nil, err
	}
	st.admit(made.admission)
	st.key, st.trace, st.images, st.desired, st.runs = e.key(spec), made.trace, made.images, bodiless(made.desired), made.runs
	st.asked, st.answers = made.asked, made.asked.Answers(spec.Render.Capabilities)
	st.opened, st.sealing = made.opened, e.sealing(made.desired)
	return made.desired, nil
}

// compose is [Spec.compose] with the kinds that the cluster serves. It is asked
// anew for one that it does not know: no event tells of what an aggregated API serves.
func (e *Engine) compose(ctx context.Context, spec Spec, st *state, v trust.Verified) (composed, error) {
	known := e.Cluster.Kinds()
	by := stages{
		render: e.Renderer(spec.ID), served: known, examine: e.examine(spec, st), digest: e.Digest,
		unsealer: e.Unsealer, mayDeliver: e.mayDeliver(spec.Account), plain: e.plain(spec, st),
		judge: e.jury(spec, st), mask: st.mask,
	}
	made, err := spec.compose(ctx, v, by)
	if _, lies := errors.AsType[*flaw](err); lies || fault.KindOf(err) != fault.NotFound {
		return made, err
	}
	if failed := e.Cluster.Rediscover(ctx); failed != nil || e.Cluster.Kinds() == known {
		return made, err
	}
	by.served = e.Cluster.Kinds()
	return spec.compose(ctx, v, by)
}

func bodiless(desired []plan.Desired) []plan.Desired {
	out := slices.Clone(desired)
	for i := range out {
		out[i].Body = secret.Text{}
	}
	return out
}
