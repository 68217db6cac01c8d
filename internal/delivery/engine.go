package delivery

import (
	"context"
	"encoding/json"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	kschema "k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/holdfastcd/holdfast/internal/apply"
	"github.com/holdfastcd/holdfast/internal/cluster"
	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/plan"
	"github.com/holdfastcd/holdfast/internal/render"
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
}

// Engine delivers specs to one cluster. One pass is one call of [Engine.Deliver]:
// it does what can be done now and returns; an event on an object of the delivery
// (see [Engine.OnEvent]) asks for the next pass. Passes of different deliveries
// run side by side; those of one delivery must not.
type Engine struct {
	Options

	mu     sync.Mutex
	states map[ID]*state
	owners map[object.ID]ID // which delivery an event concerns
	stuck  map[ID]bool      // deliveries that a new kind may help on
	notify func(ID)
}

// state is what the engine remembers of a delivery between passes. Only the
// running pass of the delivery touches it.
type state struct {
	rendered render.Result // without objects; what desired was made from
	spec     string        // the rest of what desired was made from
	desired  []plan.Desired
	prints   map[object.ID]cluster.Fingerprint
	fights   map[object.ID]*fight
}

// New returns an engine; it reads the cluster's events from now on.
func New(o Options) *Engine {
	e := &Engine{Options: o, states: map[ID]*state{}, owners: map[object.ID]ID{}, stuck: map[ID]bool{}}
	o.Cluster.Subscribe(func(ev cluster.Event) { e.dispatch(ev.ID) })
	o.Cluster.SubscribeKinds(func([]kschema.GroupKind) { e.unstick() })
	return e
}

// OnEvent sets who is told that a delivery needs a pass. It must not block.
func (e *Engine) OnEvent(notify func(ID)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.notify = notify
}

func (e *Engine) dispatch(id object.ID) {
	e.mu.Lock()
	owner, ok := e.owners[id]
	notify := e.notify
	e.mu.Unlock()
	if ok && notify != nil {
		notify(owner)
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
	report := e.deliver(ctx, spec)
	e.mu.Lock()
	defer e.mu.Unlock()
	if report.Err != nil {
		e.stuck[spec.ID] = true
	} else {
		delete(e.stuck, spec.ID)
	}
	return report
}

func (e *Engine) deliver(ctx context.Context, spec Spec) Report {
	st := e.state(spec.ID)
	p, err := e.plan(ctx, spec, st)
	if err != nil {
		return e.refused(spec, err)
	}
	if conflict := p.Conflict(); conflict != nil {
		return e.refused(spec, conflict)
	}
	e.holdFights(p, st)
	return e.execute(ctx, spec, st, p)
}

// execute sends what the plan says, remembers what the API server answered, and
// tells what came of it.
func (e *Engine) execute(ctx context.Context, spec Spec, st *state, p plan.Plan) Report {
	res := apply.Execute(ctx, p, e.Cluster.As(spec.Account), apply.Options{
		Manager:     spec.Profile.FieldManager,
		Propagation: spec.Profile.Propagation,
		Ready:       e.ready,
	})
	e.remember(spec, st, res)
	return e.report(st, res)
}

// Unchanged reports whether spec is known to render, on its revision, what its
// last pass rendered: the next pass will send nothing unless the cluster moved.
func (e *Engine) Unchanged(spec Spec) bool {
	st := e.state(spec.ID)
	return st.desired != nil && st.spec == spec.key() && st.rendered.Trace.Holds(spec.Revision.Tree)
}

// Preview returns the plan of a pass, with the fields that it would change, and
// sends nothing but reads and dry runs.
func (e *Engine) Preview(ctx context.Context, spec Spec) (plan.Plan, error) {
	st := e.state(spec.ID)
	desired, err := e.desire(ctx, spec, st, true)
	if err != nil {
		return plan.Plan{}, err
	}
	in, err := e.input(ctx, spec, st, desired)
	if err != nil {
		return plan.Plan{}, err
	}
	in.Observe, err = e.raise(ctx, spec, in, func(plan.Observed) bool { return true })
	if err != nil {
		return plan.Plan{}, err
	}
	return plan.Make(in)
}

// Retract removes what a delivery holds, because its resource is being deleted.
// It reports true when nothing is left to wait for.
func (e *Engine) Retract(ctx context.Context, spec Spec) (Report, bool) {
	st := e.state(spec.ID)
	spec.Prune, spec.Profile.Plan.AllowEmpty = true, true
	in, err := e.input(ctx, spec, st, nil)
	if err != nil {
		return e.refused(spec, err), false
	}
	p, err := plan.Make(in)
	if err != nil {
		return e.refused(spec, err), false
	}
	report := e.execute(ctx, spec, st, p)
	return report, len(report.Inventory) == 0
}

// Forget drops what is remembered of a delivery that no longer exists.
func (e *Engine) Forget(id ID) {
	e.mu.Lock()
	delete(e.states, id)
	delete(e.stuck, id)
	for o, owner := range e.owners {
		if owner == id {
			delete(e.owners, o)
		}
	}
	e.mu.Unlock()
	if err := e.Memory.Delete(id.String()); err != nil {
		e.Log.Warn("cannot delete fingerprints", "delivery", id.String(), "error", err)
	}
}

// state returns the memory of a delivery, from disk at first sight.
func (e *Engine) state(id ID) *state {
	e.mu.Lock()
	st, ok := e.states[id]
	e.mu.Unlock()
	if ok {
		return st
	}
	prints, err := e.Memory.Load(id.String())
	if err != nil {
		e.Log.Warn("cannot read fingerprints; objects are checked once more", "delivery", id.String(), "error", err)
	}
	if prints == nil {
		prints = map[object.ID]cluster.Fingerprint{}
	}
	st = &state{prints: prints, fights: map[object.ID]*fight{}}
	e.mu.Lock()
	e.states[id] = st
	e.mu.Unlock()
	return st
}

// key is what the desired objects depend on besides the rendered ones.
func (s Spec) key() string {
	b, err := json.Marshal([]any{s.Render, s.Namespace, s.CreateNamespace, s.Profile.FieldManager, s.Profile.Marks, s.Rules.Version})
	if err != nil {
		return ""
	}
	return string(b)
}

// plan makes the plan of a pass. Bodies are made only if the plan without them
// shows that something must be applied, or compared by value.
func (e *Engine) plan(ctx context.Context, spec Spec, st *state) (plan.Plan, error) {
	desired, err := e.desire(ctx, spec, st, false)
	if err != nil {
		return plan.Plan{}, err
	}
	in, err := e.input(ctx, spec, st, desired)
	if err != nil {
		return plan.Plan{}, err
	}
	p, err := plan.Make(in)
	if err != nil || !needsBodies(p, spec) {
		return p, err
	}
	if desired, err = e.desire(ctx, spec, st, true); err != nil {
		return plan.Plan{}, err
	}
	in.Desired = desired
	if !spec.Revert {
		if in.Observe, err = e.raise(ctx, spec, in, untold); err != nil {
			return plan.Plan{}, err
		}
	}
	return plan.Make(in)
}

// untold: applied by us before, and the watch cannot say whether it was changed.
// A delivery that does not revert must compare it by value.
func untold(o plan.Observed) bool { return o.Sight == plan.Unsure && o.Digest != [32]byte{} }

func needsBodies(p plan.Plan, spec Spec) bool {
	return slices.ContainsFunc(p.Actions(), func(a plan.Action) bool {
		return a.Op.Applies() && a.Desired.Body == nil || !spec.Revert && untold(a.Observed)
	})
}

// desire returns the desired objects of a spec: from memory where what they were
// made from still stands, without bodies unless they are asked for.
func (e *Engine) desire(ctx context.Context, spec Spec, st *state, bodies bool) ([]plan.Desired, error) {
	if !bodies && e.Unchanged(spec) {
		return st.desired, nil
	}
	desired, rendered, err := spec.compose(ctx, e.Renderer(spec.ID), e.Cluster.Kinds(), e.Digest)
	if err != nil {
		return nil, err
	}
	st.rendered, st.spec, st.desired = render.Result{Trace: rendered.Trace}, spec.key(), bodiless(desired)
	return desired, nil
}

func bodiless(desired []plan.Desired) []plan.Desired {
	out := slices.Clone(desired)
	for i := range out {
		out[i].Body = nil
	}
	return out
}
