// Package plan compares what is desired with what is observed and decides what
// to do, as a value: it can be printed, shown, approved and executed, and making
// it has no effect.
package plan

import (
	"k8s.io/apimachinery/pkg/types"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/schema"
	"github.com/holdfastcd/holdfast/internal/secret"
)

// Desired is one object as it shall be: complete, marked, normalised.
type Desired struct {
	ID     object.ID
	Kind   schema.Kind
	Origin object.Origin
	// Digest is a keyed digest of Body; equal digests mean an equal request.
	Digest [32]byte
	// Body is the object as JSON, as a server-side apply sends it. It is zero
	// where an object is known by its digest only, which suffices to keep it.
	Body secret.Text
	// Owner is the object that this one is made from, and a controller owner reference
	// names, once its UID is known; zero: there is none. It is sent before this one.
	Owner object.ID
	// Peers are field managers whose objects are taken over, for this object, beside
	// those of the delivery.
	Peers []string
	// Loose objects are created where they are absent, left alone where they
	// exist, and never part of an inventory (Argo CD's CreateNamespace).
	Loose bool
	// Wave orders the objects of a delivery: lower ones come first.
	Wave int
	// Treatment is what the object asks for itself.
	Treatment Treatment
	// Ignored are the fields of it that belong to whoever sets them in the
	// cluster; Digest does not cover them.
	Ignored *Ignored
	// Warnings are about what was left out of the source's manifest, or changed;
	// each begins with the field it is about.
	Warnings []string
	// Needs are the Secrets that other objects of the delivery make for this one, and
	// for which it waits before it is sent.
	Needs []object.Need
}

// Treatment is how an object of the source wants to be treated, by its own
// marks. The zero value is the usual one.
type Treatment struct {
	// Skip, if not empty, is why the object is neither applied nor pruned.
	Skip string
	// IfNotPresent creates the object where it is absent, and leaves it alone after.
	IfNotPresent bool
	// Merge leaves the fields of others alone that a take-over would remove.
	Merge bool
	// Force deletes the object and creates it again where an immutable field changed.
	Force bool
	// Unjudged objects do not count in the health of their delivery.
	Unjudged bool
}

// Sight says what is known of an object in the cluster.
type Sight uint8

// What can be known of an object in the cluster.
const (
	// Absent: the watch of its kind is complete and does not show it.
	Absent Sight = iota
	// AsApplied: its fingerprint stands; nobody changed what we applied.
	AsApplied
	// Drifted: the watch proves that what we own was changed or taken.
	Drifted
	// Unsure: it exists, and the watch can neither prove nor exclude a change
	// (never applied by us, or generation moved under a standing fingerprint).
	Unsure
	// KindUnknown: the cluster does not serve the kind (yet).
	KindUnknown
)

// Observed is what the cluster shows of one object.
type Observed struct {
	Sight           Sight
	UID             types.UID
	ResourceVersion string
	Digest          [32]byte // of the Desired that was last applied here; zero if never
	Owner           string   // the delivery that its marks name; empty if none
	Deleting        bool
	Kept            bool           // its own marks say that it must not be deleted now
	By              string         // field manager that caused a drift, if known
	Live            *object.Object // only where a preview raised it; nil in the controller
	DryRun          *object.Object // the result of a dry run beside Live; nil in the controller
	Generation      int64          // 0 for kinds that have none
	Ours            [16]byte       // hash of our entry in managedFields; zero if there is none
	// Peers: others who hold objects to Git, or people by hand, have applied it, and
	// what they set has to become ours for it to go when Git drops it.
	Peers bool
}

// Op is what to do with one object.
type Op string

// The operations.
const (
	Keep    Op = "keep"    // already as desired: no request
	Create  Op = "create"  // absent: one apply
	Update  Op = "update"  // desired changed: one apply
	Revert  Op = "revert"  // desired is the same, the live object is not: one apply
	Confirm Op = "confirm" // cannot be told from the watch: one apply, which changes nothing if all is well
	Prune   Op = "prune"   // left the desired set: one delete with preconditions
	Release Op = "release" // left the desired set, but stays alive: drop it from the inventory only
	Refuse  Op = "refuse"  // owned by another delivery, or forbidden
	Await   Op = "await"   // cannot be sent yet: its kind is not served, or its predecessor is still going
	Leave   Op = "leave"   // differs or is left over, and the delivery does not correct that by itself
	Hold    Op = "hold"    // left the desired set, and its prune waits for somebody's word
	Skip    Op = "skip"    // the object itself asks to be left alone
)

// Action is one operation on one object.
type Action struct {
	Op       Op
	ID       object.ID
	Kind     schema.Kind
	Desired  *Desired // nil for Prune and Release
	Observed Observed
	Reason   string // for people
	Wave     int
	Held     bool // the delivery has applied it before
	// Surplus are fields that others added to the object and that go before it is applied.
	Surplus []object.Path
	// After sends the object only when those before it in its stage were answered.
	After bool
	// Lacks is who makes the Secret that an Await waits for; zero where it waits for
	// something else.
	Lacks object.ID
}

// Adopts reports whether executing a takes the object over from others who
// applied it: it is the first time that we apply it, and theirs shows.
func (a Action) Adopts() bool {
	return a.Op.Applies() && a.Op != Create && a.Observed.Peers && a.Observed.Digest == [32]byte{} &&
		a.Desired != nil && !a.Desired.Treatment.Merge
}

// Stage is a set of actions that may run in any order; the next stage starts
// when Gate is satisfied.
type Stage struct {
	Name    string
	Wave    int
	Actions []Action
	// Gate holds back the stages behind until the objects of this one are ready
	// (CRDs established, namespaces active).
	Gate bool
}

// Plan is what to do, in order.
type Plan struct {
	Stages []Stage
	// HealthyBefore is the wave that is sent only when every object of the waves
	// before it is healthy; nil: no wave is held back for the sake of health.
	HealthyBefore *int
	// Held are the objects of which the prune waits for a word, and HeldDigest
	// names that set: who confirms it says this digest. Empty where nothing is held.
	Held       []object.ID
	HeldDigest string
	// Confirmed are the objects whose prune was held back until now.
	Confirmed []object.ID
	// Mask has the secret values of what the plan was made from; nil: nothing is masked.
	Mask *secret.Mask
}

// Actions returns the actions of all stages, in order.
func (p Plan) Actions() []Action {
	n := 0
	for _, s := range p.Stages {
		n += len(s.Actions)
	}
	all := make([]Action, 0, n)
	for _, s := range p.Stages {
		all = append(all, s.Actions...)
	}
	return all
}

// Changes reports whether executing p would send a request.
func (p Plan) Changes() bool {
	for _, a := range p.Actions() {
		if a.Op.Sends() {
			return true
		}
	}
	return false
}

// Conflict returns, for a plan that wants to write objects of other deliveries,
// the error that refuses it as a whole; nil if there are none.
func (p Plan) Conflict() *fault.Error {
	for _, a := range p.Actions() {
		if a.Op == Refuse && a.Desired != nil {
			return fault.New(fault.Conflict, "%s", a.Reason).On(a.ID.String()).
				At(a.Desired.Origin.File, a.Desired.Origin.Line).
				WithHint("remove it from one of the two deliveries")
		}
	}
	return nil
}

// Sends reports whether an operation is a request to the API server.
func (o Op) Sends() bool {
	switch o {
	case Create, Update, Revert, Confirm, Prune:
		return true
	default:
		return false
	}
}

// Applies reports whether an operation is a server-side apply, and so needs the
// body of the desired object.
func (o Op) Applies() bool { return o.Sends() && o != Prune }
