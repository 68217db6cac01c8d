// Package delivery joins the stages: a revision is rendered, completed, admitted,
// planned and applied, and what came of it is told as a value. It knows no kind
// of custom resource; what the dialects differ in is data in a [Spec].
package delivery

import (
	"maps"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/holdfastcd/holdfast/internal/cluster"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/health"
	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/plan"
	"github.com/holdfastcd/holdfast/internal/policy"
	"github.com/holdfastcd/holdfast/internal/render"
	"github.com/holdfastcd/holdfast/internal/source"
)

// ID names a delivery: the custom resource that asks for it.
type ID struct {
	Kind, Namespace, Name string
}

// String renders Kind/namespace/name, which is also how marks name an owner.
func (id ID) String() string { return id.Kind + "/" + id.Namespace + "/" + id.Name }

// Spec is everything that one delivery asks for.
type Spec struct {
	ID       ID
	Revision source.Revision
	Render   render.Request

	// Namespace is given to namespaced objects that name none.
	Namespace string
	// CreateNamespace creates Namespace where it does not exist.
	CreateNamespace bool
	// Account is who every request about the delivery's objects is sent as.
	Account cluster.Account
	Rules   policy.Rules
	// Prune deletes what left the source; Revert corrects what others changed.
	Prune, Revert bool
	// Inventory is what the delivery holds, as its status remembers it.
	Inventory []Entry
	Profile   Profile
}

// Entry is one object in an inventory, as a status stores it.
type Entry struct {
	ID      object.ID
	Version string // of the API it was applied with; may be empty
}

// Profile is what a dialect wants done its own way. It is data: stages read it,
// none asks which dialect it is.
type Profile struct {
	FieldManager string
	Marks        Marks
	Plan         plan.Profile
	// Propagation is how owned objects of a pruned object go: Background,
	// Foreground or Orphan.
	Propagation string
	// Screen refuses rendered objects that ask for what the dialect does not have
	// yet, with a *fault.Error that names file and line; nil refuses none. It is
	// the same for every delivery of a dialect.
	Screen func([]object.Object) error
}

// Marks say on every object whose it is.
type Marks struct {
	Labels map[string]string
	// Tracking, if set, is an annotation "<App>:<group>/<Kind>:<namespace>/<name>".
	Tracking *Tracking
}

// Tracking is Argo CD's tracking annotation.
type Tracking struct {
	Annotation string // its key
	App        string
	Namespace  string // stands for the namespace of cluster-scoped objects
}

// apply sets the marks on o.
func (m Marks) apply(o *unstructured.Unstructured, id object.ID) {
	if len(m.Labels) > 0 {
		labels := o.GetLabels()
		if labels == nil {
			labels = map[string]string{}
		}
		maps.Copy(labels, m.Labels)
		o.SetLabels(labels)
	}
	if m.Tracking == nil {
		return
	}
	annotations := o.GetAnnotations()
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations[m.Tracking.Annotation] = m.Tracking.value(id)
	o.SetAnnotations(annotations)
}

func (t Tracking) value(id object.ID) string {
	namespace := id.Namespace
	if namespace == "" {
		namespace = t.Namespace
	}
	return t.App + ":" + id.Group + "/" + id.Kind + ":" + namespace + "/" + id.Name
}

// Outcome is what came of one object in one pass.
type Outcome string

// The outcomes.
const (
	Unchanged  Outcome = "unchanged"
	Created    Outcome = "created"
	Configured Outcome = "configured"
	Reverted   Outcome = "reverted" // a change made in the cluster was undone
	Pruned     Outcome = "pruned"
	Released   Outcome = "released" // left the inventory, stays in the cluster
	Left       Outcome = "left"     // differs or is left over, and the delivery does not correct that by itself
	Skipped    Outcome = "skipped"  // an earlier stage did not complete
	Waiting    Outcome = "waiting"
	Refused    Outcome = "refused"
	Failed     Outcome = "failed"
)

// Object is what a report says of one object.
type Object struct {
	ID      object.ID
	GVK     schema.GroupVersionKind
	Origin  object.Origin
	Desired bool // it is in the source; otherwise a leftover
	Outcome Outcome
	Message string
	// Contested: somebody else keeps changing it, and reverts back off.
	Contested bool
	Health    *health.Verdict // nil for kinds that have none
}

// Synced reports whether the object is as the source wants it.
func (o Object) Synced() bool {
	switch o.Outcome {
	case Unchanged, Created, Configured, Reverted:
		return o.Desired
	case Pruned, Released:
		return true
	default:
		return false
	}
}

// Report is what came of one pass over a delivery.
type Report struct {
	// Objects are those of the source, in the order of the plan, and leftovers.
	Objects []Object
	// Inventory is what the delivery holds now; it replaces the one in the status.
	Inventory []Entry
	// Health is the worst over the objects; Healthy for none.
	Health health.Verdict
	// Err is why the source could not be delivered as a whole; nil if it was.
	// Kind Waiting means that an event will bring the next pass.
	Err *fault.Error
	// RetryAfter asks for another pass after a while, without an event; 0: none.
	RetryAfter time.Duration
}

// Applied reports whether every object is as the source wants it.
func (r Report) Applied() bool { return r.Err == nil }

// Changed lists the objects that this pass created, changed, reverted or pruned.
func (r Report) Changed() []Object {
	var changed []Object
	for _, o := range r.Objects {
		switch o.Outcome {
		case Created, Configured, Reverted, Pruned:
			changed = append(changed, o)
		default: // it was left as it is
		}
	}
	return changed
}
