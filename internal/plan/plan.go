// Package plan compares what is desired with what is observed and decides what
// to do, as a value: it can be printed, shown, approved and executed, and making
// it has no effect.
package plan

import (
	"k8s.io/apimachinery/pkg/types"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/schema"
)

// Desired is one object as it shall be: complete, marked, normalised.
type Desired struct {
	ID     object.ID
	Kind   schema.Kind
	Origin object.Origin
	// Digest is a keyed digest of Body; equal digests mean an equal request.
	Digest [32]byte
	// Body is the object as JSON, as a server-side apply sends it. It is nil
	// where an object is known by its digest only, which suffices to keep it.
	Body []byte
	// Loose objects are created where they are absent, left alone where they
	// exist, and never part of an inventory (Argo CD's CreateNamespace).
	Loose bool
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
	Kept            bool           // its own marks say that it must not be pruned
	By              string         // field manager that caused a drift, if known
	Live            *object.Object // only where a preview raised it; nil in the controller
	DryRun          *object.Object // the result of a dry run beside Live; nil in the controller
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
)

// Action is one operation on one object.
type Action struct {
	Op       Op
	ID       object.ID
	Kind     schema.Kind
	Desired  *Desired // nil for Prune and Release
	Observed Observed
	Reason   string // for people
}

// Stage is a set of actions that may run in any order; the next stage starts
// when Gate is satisfied.
type Stage struct {
	Name    string
	Actions []Action
	// Gate holds back the stages behind until the objects of this one are ready
	// (CRDs established, namespaces active).
	Gate bool
}

// Plan is what to do, in order.
type Plan struct {
	Stages []Stage
}

// Actions returns the actions of all stages, in order.
func (p Plan) Actions() []Action {
	var all []Action
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
