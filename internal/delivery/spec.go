// Package delivery joins the stages: a revision is rendered, completed, admitted,
// planned and applied, and what came of it is told as a value. It knows no kind
// of custom resource; what the dialects differ in is data in a [Spec].
package delivery

import (
	"maps"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/holdfastcd/holdfast/internal/audit"
	"github.com/holdfastcd/holdfast/internal/cluster"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/health"
	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/plan"
	"github.com/holdfastcd/holdfast/internal/policy"
	"github.com/holdfastcd/holdfast/internal/render"
	"github.com/holdfastcd/holdfast/internal/secret"
	"github.com/holdfastcd/holdfast/internal/source"
	"github.com/holdfastcd/holdfast/internal/substitute"
	"github.com/holdfastcd/holdfast/internal/trust"
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
	// NamespaceHint is what to do where Namespace does not exist; empty: the usual.
	NamespaceHint string
	// NamespaceLabels and NamespaceAnnotations are held on a Namespace that
	// CreateNamespace is for, also where it exists already. It is never pruned.
	NamespaceLabels, NamespaceAnnotations map[string]string
	// Account is who every request about the delivery's objects is sent as.
	Account cluster.Account
	Rules   policy.Rules
	// Prune deletes what left the source; Revert corrects what others changed.
	Prune, Revert bool
	// Inventory is what the delivery holds, as its status remembers it.
	Inventory []Entry
	Profile   Profile

	// Substitute replaces variables in what was rendered; nil: nothing is.
	Substitute *substitute.Variables
	// Opener opens sealed files with the keys that the delivery may use; nil: there are
	// none, and a sealed file refuses the delivery.
	Opener secret.Opener
	// Ignore are the fields that belong to whoever sets them in the cluster.
	Ignore []plan.Ignore
	// Only restricts a pass to some objects of the source; nil: all. What is not
	// among them is reported as it stands, and nothing is pruned but what is.
	Only []object.ID
	// Force deletes and creates again objects of which an immutable field changed.
	Force bool
	// Confirmed is the digest by which somebody confirmed the prunes that the
	// brake holds back, see [plan.Brake] and [Report.HeldDigest]; any other
	// digest confirms nothing.
	Confirmed string
	// Approval is the word that a person gave for prunes which the dialect holds back
	// without one; "" where none was needed. ApprovedBy is who gave it, or Confirmed.
	Approval   string
	ApprovedBy []audit.Person
	// Observe makes a pass that writes nothing: its report says what would
	// change, see [Report.Observed].
	Observe bool
	// UID of the custom resource, for the audit log.
	UID string
	// Trust is what must be proven of the revision and of its images.
	Trust trust.Demands
	// Policies are the sets that judge the objects, and Labels those of the resource that
	// asks for the delivery, for them.
	Policies policy.Sets
	Labels   map[string]string
	// Strict removes from delivered objects what others added to them, as a policy among
	// Trust may demand, too.
	Strict bool
	// By is who asked for this pass, for the audit log; empty: nobody in
	// particular, it follows its source.
	By []audit.Person
}

// Entry is one object in an inventory, as a status stores it.
type Entry struct {
	ID      object.ID
	Version string // of the API it was applied with; may be empty
	Wave    int    // of its last apply, where the status remembers it
}

// Profile is what a dialect wants done its own way. It is data: stages read it,
// none asks which dialect it is.
type Profile struct {
	FieldManager string
	// Peers are the field managers whose objects are taken over at first sight,
	// a star at the end for any ending; nil: [cluster.Peers].
	Peers []string
	Marks Marks
	Plan  plan.Profile
	// Propagation is how owned objects of a pruned object go: Background,
	// Foreground or Orphan.
	Propagation string
	// Screen refuses rendered objects that ask for what the dialect does not have
	// yet, with a *fault.Error that names file and line; nil refuses none. It is
	// the same for every delivery of a dialect.
	Screen func([]object.Object) error
	// Treat reads from an object of the source how it wants to be treated; nil:
	// as usual. It is the same for every delivery of a dialect.
	Treat func(*unstructured.Unstructured) plan.Treatment
	// WaveKeys are the annotations that hold an object's wave: the first that is
	// a whole number counts. None: everything is in wave 0.
	WaveKeys []string
	// PruneMarked counts objects that carry the delivery's marks to its
	// inventory, of the kinds that it uses, wherever they came from.
	PruneMarked bool
	// NoHealth leaves the objects unjudged: what nobody asks for is watched by
	// its metadata alone.
	NoHealth bool
	// Health chooses the rules by which objects are judged.
	Health health.Options
}

// Marks say on every object whose it is.
type Marks struct {
	Labels      map[string]string
	Annotations map[string]string
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
	if m.Tracking == nil && len(m.Annotations) == 0 {
		return
	}
	annotations := o.GetAnnotations()
	if annotations == nil {
		annotations = map[string]string{}
	}
	maps.Copy(annotations, m.Annotations)
	if m.Tracking != nil {
		annotations[m.Tracking.Annotation] = m.Tracking.value(id)
	}
	o.SetAnnotations(annotations)
}

// keys are those of the labels and annotations that the marks are.
func (m Marks) keys() []string {
	keys := slices.Collect(maps.Keys(m.Labels))
	if m.Tracking != nil {
		keys = append(keys, m.Tracking.Annotation)
	}
	return keys
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
	Held       Outcome = "held"   // its prune waits for somebody's word
	Exempt     Outcome = "exempt" // the object itself asks to be left alone
)

// Object is what a report says of one object.
type Object struct {
	ID      object.ID
	GVK     schema.GroupVersionKind
	Origin  object.Origin
	Desired bool // it is in the source; otherwise a leftover
	Outcome Outcome
	Message string
	Wave    int
	// Op is what the plan wanted for the object, also where nothing was sent.
	Op plan.Op
	// Would: nothing was sent, and Outcome is what a pass would do.
	Would bool
	// Contested: somebody else keeps changing it, and reverts back off. By is the
	// field manager that does, Fields what it changes.
	Contested bool
	By        string
	// Fields are the fields in which the object differs from the source, by path
	// and without values, of contested objects and of those that were only
	// observed; at most [MaxFields].
	Fields []string
	// Warnings are about what was left out of its manifest, see Origin; each
	// begins with the field it is about.
	Warnings []string
	Health   *health.Verdict // nil for kinds that have none
	// Unjudged objects are not part of the report's health.
	Unjudged bool
}

// MaxFields bounds the fields that a report names of one object.
const MaxFields = 20

// Synced reports whether the object is as the source wants it.
func (o Object) Synced() bool {
	if o.Would {
		return false
	}
	switch o.Outcome {
	case Unchanged, Created, Configured, Reverted, Exempt:
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
	// Observed: nothing was written. Objects that a pass would change have Would
	// set, and name what differs in Fields; Inventory is as it was.
	Observed bool
	// Held are the objects of which the prune waits for a word, and HeldDigest
	// is that word: a pass with [Spec.Confirmed] equal to it prunes them.
	Held       []object.ID
	HeldDigest string
	// Images are the images that the desired objects run, sorted, each once.
	Images []string
	// Untrusted: Err is that something demanded was not proven.
	Untrusted bool
	// Unproven are the demands that did not hold of policies which only audit.
	Unproven []string
	// Violates: Err is that policies forbid the revision.
	Violates bool
	// Warned is what policies only tell; bounded.
	Warned []string
	// Alerts are what came up in this pass and is to be told once.
	Alerts []Alert
}

// Changed lists the objects that this pass created, changed, reverted or pruned.
func (r Report) Changed() []Object {
	var changed []Object
	for _, o := range r.Objects {
		if o.Would {
			continue
		}
		switch o.Outcome {
		case Created, Configured, Reverted, Pruned:
			changed = append(changed, o)
		default: // it was left as it is
		}
	}
	return changed
}
