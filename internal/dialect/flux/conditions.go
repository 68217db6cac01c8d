package flux

import (
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
	"time"

	"github.com/fluxcd/pkg/apis/meta"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/predicate"

	"github.com/holdfastcd/holdfast/internal/delivery"
	"github.com/holdfastcd/holdfast/internal/dialect"
)

// Reasons that Flux has no word for.
const (
	reasonUnsupported = "UnsupportedField"
	reasonInvalid     = "InvalidSpec"
	reasonDenied      = "AccessDenied"
	reasonDrift       = "DriftCorrected"
	reasonHeld        = "PruneHeld"
	reasonAuditOnly   = "AuditOnly"
	reasonWarned      = "PolicyWarning"
	// reasonViolation tells that policies forbid a revision.
	reasonViolation = delivery.AlertViolation
	// reasonUntrusted is the one by which Flux's sources tell that a signature was not
	// what it should be.
	reasonUntrusted = sourcev1.VerificationError
	// conditionPermissive is set where Holdfast writes with its own identity.
	conditionPermissive = "Permissive"
	// conditionUnproven is set where a demand does not hold of a TrustPolicy that only
	// audits.
	conditionUnproven = "Unproven"
	// conditionPolicyWarning is set where policies find fault, and only tell.
	conditionPolicyWarning = "PolicyWarning"
)

// Bounds of what is written for people.
const (
	maxCondition = 20_000
	maxEvent     = 1000
)

// board is the list of conditions of one object, as of one moment.
type board struct {
	conditions *[]metav1.Condition
	generation int64
	now        time.Time
}

// set makes a condition be there; its time moves only with its status.
func (b board) set(kind string, status metav1.ConditionStatus, reason, message string) {
	apimeta.SetStatusCondition(b.conditions, metav1.Condition{
		Type: kind, Status: status, Reason: reason, Message: clip(message, maxCondition),
		ObservedGeneration: b.generation,
		// A status holds whole seconds; so does what is compared with it.
		LastTransitionTime: metav1.NewTime(b.now).Rfc3339Copy(),
	})
}

func (b board) drop(kinds ...string) {
	for _, k := range kinds {
		apimeta.RemoveStatusCondition(b.conditions, k)
	}
}

// flag makes a condition be there, as True, or not be there.
func (b board) flag(kind string, on bool, reason, message string) {
	if !on {
		b.drop(kind)
		return
	}
	b.set(kind, metav1.ConditionTrue, reason, message)
}

// progress flags the two conditions that are only there while true.
func (b board) progress(stalled, reconciling bool, reason, message string) {
	b.flag(meta.StalledCondition, stalled, reason, message)
	b.flag(meta.ReconcilingCondition, reconciling, reason, message)
}

func clip(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most-4], "") + " …"
}

// requested returns the token by which somebody asked for a reconciliation.
func requested(annotations map[string]string) string {
	return annotations[meta.ReconcileRequestAnnotation]
}

// words are the annotations by which people ask for something.
var words = []string{meta.ReconcileRequestAnnotation, dialect.AnnotationConfirm, dialect.AnnotationTakeover, dialect.AnnotationStrict}

// wanted lets those updates through that ask for work: what we wrote ourselves
// does not.
func wanted() predicate.Predicate {
	return predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
		if e.ObjectOld == nil || e.ObjectNew == nil {
			return false
		}
		return e.ObjectOld.GetGeneration() != e.ObjectNew.GetGeneration() ||
			e.ObjectOld.GetUID() != e.ObjectNew.GetUID() ||
			e.ObjectOld.GetDeletionTimestamp().IsZero() != e.ObjectNew.GetDeletionTimestamp().IsZero() ||
			slices.ContainsFunc(words, func(key string) bool {
				return e.ObjectOld.GetAnnotations()[key] != e.ObjectNew.GetAnnotations()[key]
			})
	}}
}

// The pace of retries.
const (
	firstRetry  = 2 * time.Second
	mostRetry   = 5 * time.Minute
	minInterval = time.Second
)

// backOff is the pause before try number n+1, at most limit.
func backOff(failures int, limit time.Duration) time.Duration {
	return max(minInterval, min(firstRetry<<min(failures, 12), limit))
}

// spread moves an interval by up to a twentieth, each object by its own share, so
// that what was created together does not stay together.
func spread(interval time.Duration, uid types.UID) time.Duration {
	h := fnv.New32a()
	_, _ = fmt.Fprint(h, uid) // a hash cannot fail
	share := int64(h.Sum32()%1000) - 500
	return max(minInterval, interval+time.Duration(int64(interval)/10000*share))
}
