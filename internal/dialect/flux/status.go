package flux

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/fluxcd/pkg/apis/meta"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/holdfastcd/holdfast/internal/delivery"
	"github.com/holdfastcd/holdfast/internal/dialect"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/health"
	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/tree"
)

// outcome is everything that a pass over a Kustomization found out.
type outcome struct {
	now        time.Time
	took       time.Duration
	generation int64
	requested  string // the token of a manual request
	revision   string // as a status names it; empty if there was none to deliver
	path       string
	permissive string // what only permissive mode permits of it; empty: nothing
	rendered   bool   // was rendered, or known to render, other than the pass before

	// early is why the engine was not even asked, and under which reason; stalled
	// if only a change of the object helps.
	early   *fault.Error
	reason  string
	stalled bool

	report  *delivery.Report  // nil with early
	wait    bool              // health is part of being ready
	checked []delivery.Object // the objects whose health that is; nil: all
	waited  time.Duration     // for this revision
	timeout time.Duration
}

// verdict is what an outcome means for whoever looks at the object.
type verdict struct {
	ready   metav1.ConditionStatus
	reason  string
	message string
	stalled bool
	// sick: everything is applied, and its health is what is missing.
	sick bool
	// event: something else has to change first, and says so; terminal: trying
	// again without a change is pointless.
	event, terminal bool
}

func (v verdict) pending() bool { return v.ready == metav1.ConditionUnknown }

// judge decides what an outcome means.
func (o outcome) judge() verdict {
	if o.early != nil {
		return verdict{
			ready: metav1.ConditionFalse, reason: o.reason, message: o.early.Error(), stalled: o.stalled,
			event: o.reason != meta.BuildFailedReason, terminal: o.early.Kind.Terminal(),
		}
	}
	if onlyHeld(*o.report) {
		return verdict{ready: metav1.ConditionFalse, reason: reasonHeld, message: held(*o.report), event: true}
	}
	if err := o.report.Err; err != nil {
		return o.judgeError(err)
	}
	state := worst(o.counted())
	if !o.wait || state == health.Healthy || state == health.Suspended {
		return verdict{ready: metav1.ConditionTrue, reason: meta.ReconciliationSucceededReason, message: "Applied revision: " + o.revision}
	}
	sick := strings.Join(unhealthy(o.counted()), "; ")
	if state == health.Degraded || o.waited >= o.timeout {
		return verdict{
			ready: metav1.ConditionFalse, reason: meta.HealthCheckFailedReason, sick: true,
			message: fmt.Sprintf("health check failed after %s: %s", o.waited.Round(time.Second), sick),
		}
	}
	return verdict{ready: metav1.ConditionUnknown, reason: meta.ProgressingReason, message: "waiting for " + sick, sick: true}
}

// counted are the objects whose health is part of being ready.
func (o outcome) counted() []delivery.Object {
	if o.checked != nil {
		return o.checked
	}
	return o.report.Objects
}

// worst is the health of all that count.
func worst(objects []delivery.Object) health.Status {
	var verdicts []health.Verdict
	for _, o := range objects {
		if counts(o) {
			verdicts = append(verdicts, *o.Health)
		}
	}
	return health.Aggregate(verdicts).Status
}

// counts reports whether an object's health is part of its delivery's.
func counts(o delivery.Object) bool { return o.Desired && !o.Unjudged && o.Health != nil }

// onlyHeld reports whether prunes that wait for a word are all that is missing.
func onlyHeld(report delivery.Report) bool {
	if len(report.Held) == 0 || report.Err != nil && report.Err.Kind != fault.Waiting {
		return false
	}
	return !slices.ContainsFunc(report.Objects, func(o delivery.Object) bool {
		return o.Desired && (o.Outcome == delivery.Waiting || o.Outcome == delivery.Skipped)
	})
}

// held tells what waits for a word, and which.
func held(report delivery.Report) string {
	names := make([]string, 0, len(report.Held))
	for _, id := range report.Held {
		names = append(names, title(id))
	}
	if len(names) > maxNamed {
		names = append(names[:maxNamed:maxNamed], fmt.Sprintf("and %d more", len(names)-maxNamed))
	}
	return fmt.Sprintf("everything is applied, but %d objects that left the source are not deleted before somebody confirms it: %s (annotate this object with %s=%s)",
		len(report.Held), strings.Join(names, ", "), dialect.AnnotationConfirm, report.HeldDigest)
}

// found is what a pass that only observed found out.
func (o outcome) found() delivery.Report {
	if o.report != nil {
		return *o.report
	}
	return delivery.Report{Err: o.early, Observed: true}
}

func (o outcome) judgeError(err *fault.Error) verdict {
	v := verdict{ready: metav1.ConditionFalse, message: err.Error(), terminal: err.Kind.Terminal()}
	switch {
	case o.report.Violates:
		v.reason = reasonViolation
	case o.report.Untrusted:
		v.reason = reasonUntrusted
	case err.Kind == fault.Waiting && o.waited < o.timeout:
		v.ready, v.reason = metav1.ConditionUnknown, meta.ProgressingReason
	case err.Kind == fault.Waiting:
		v.reason = meta.ReconciliationFailedReason
		v.message = fmt.Sprintf("timed out after %s: %s", o.waited.Round(time.Second), v.message)
	case err.Kind == fault.NotFound && errors.Is(err, tree.ErrNotExist) && samePath(err.File, o.path):
		v.reason, v.message = meta.ArtifactFailedReason, "kustomization path not found: "+o.path
	case onlyLeftoversFailed(o.report.Objects):
		v.reason = meta.PruneFailedReason
	default:
		v.reason = failureReasons[err.Kind]
	}
	return v
}

// failureReasons is the reason for each kind of failure of a delivery.
var failureReasons = map[fault.Kind]string{
	fault.Internal:     meta.ReconciliationFailedReason,
	fault.Invalid:      meta.BuildFailedReason,
	fault.Unsupported:  meta.BuildFailedReason,
	fault.NotFound:     meta.BuildFailedReason,
	fault.Unauthorized: meta.ReconciliationFailedReason,
	fault.Unreachable:  meta.ReconciliationFailedReason,
	fault.Refused:      meta.BuildFailedReason,
	fault.Conflict:     meta.ReconciliationFailedReason,
	fault.Limit:        meta.BuildFailedReason,
	fault.Rejected:     meta.ReconciliationFailedReason,
	fault.Waiting:      meta.ReconciliationFailedReason,
}

// specReason is the reason for each kind of error in a spec.
func specReason(kind fault.Kind) string {
	switch kind {
	case fault.Unsupported:
		return reasonUnsupported
	case fault.Refused:
		return reasonDenied
	default:
		return reasonInvalid
	}
}

func samePath(a, b string) bool { return path.Clean("/"+a) == path.Clean("/"+b) }

// onlyLeftoversFailed reports whether all that failed was to be pruned.
func onlyLeftoversFailed(objects []delivery.Object) bool {
	failed := false
	for _, o := range objects {
		if o.Outcome != delivery.Failed && o.Outcome != delivery.Refused {
			continue
		}
		if o.Desired {
			return false
		}
		failed = true
	}
	return failed
}

// maxNamed bounds the objects that a message names.
const maxNamed = 5

// unhealthy names the objects that keep a delivery from being healthy.
func unhealthy(objects []delivery.Object) []string {
	var names []string
	for _, o := range objects {
		if !counts(o) || o.Health.Status == health.Healthy || o.Health.Status == health.Suspended {
			continue
		}
		text := string(o.Health.Status)
		if o.Health.Message != "" {
			text += ": " + o.Health.Message
		}
		names = append(names, fmt.Sprintf("%s (%s)", title(o.ID), text))
	}
	if len(names) > maxNamed {
		names = append(names[:maxNamed:maxNamed], fmt.Sprintf("and %d more", len(names)-maxNamed))
	}
	return names
}

// title names an object as Flux's clients know it: Kind/namespace/name.
func title(id object.ID) string {
	if id.Namespace == "" {
		return id.Kind + "/" + id.Name
	}
	return id.Kind + "/" + id.Namespace + "/" + id.Name
}

// next is the status after an outcome. It equals old if nothing is new: times
// and counts alone are no news.
func next(old kustomizev1.KustomizationStatus, o outcome) kustomizev1.KustomizationStatus {
	v := o.judge()
	status := *old.DeepCopy()
	o.setConditions(board{conditions: &status.Conditions, generation: o.generation, now: o.now}, v)
	if v.ready == metav1.ConditionTrue || v.stalled {
		status.ObservedGeneration = o.generation
	}
	if o.requested != "" {
		status.LastHandledReconcileAt = o.requested
	}
	if o.revision != "" {
		status.LastAttemptedRevision = o.revision
	}
	if v.ready == metav1.ConditionTrue {
		status.LastAppliedRevision = o.revision
	}
	if o.report != nil && (len(o.report.Inventory) > 0 || status.Inventory != nil || v.ready == metav1.ConditionTrue) {
		status.Inventory = writeInventory(o.report.Inventory)
	}
	if equality.Semantic.DeepEqual(old, status) {
		return old
	}
	o.addHistory(&status, v)
	return status
}

// setConditions sets all conditions of a Kustomization.
func (o outcome) setConditions(b board, v verdict) {
	b.set(meta.ReadyCondition, v.ready, v.reason, v.message)
	switch {
	case v.pending():
		b.progress(false, true, v.reason, v.message)
	case v.ready == metav1.ConditionFalse && !v.stalled:
		b.progress(false, true, meta.ProgressingWithRetryReason, v.message)
	default:
		b.progress(v.stalled, false, v.reason, v.message)
	}
	o.setHealthy(b, v)
	b.flag(conditionPermissive, o.permissive != "", "PermissiveMode", o.permissive)
	if o.report != nil {
		b.flag(conditionUnproven, len(o.report.Unproven) > 0, reasonAuditOnly, strings.Join(o.report.Unproven, "; "))
		b.flag(conditionPolicyWarning, len(o.report.Warned) > 0, reasonWarned, strings.Join(o.report.Warned, "; "))
	}
}

// setHealthy sets the condition that is there only where health was asked for.
func (o outcome) setHealthy(b board, v verdict) {
	switch {
	case !o.wait || o.early != nil:
		b.drop(meta.HealthyCondition)
	case v.ready == metav1.ConditionTrue:
		b.set(meta.HealthyCondition, metav1.ConditionTrue, meta.SucceededReason, "Health check passed")
	case v.sick:
		b.set(meta.HealthyCondition, v.ready, v.reason, v.message)
	default:
		b.set(meta.HealthyCondition, metav1.ConditionUnknown, v.reason, "not everything is applied yet")
	}
}

// addHistory notes a finished attempt. Attempts on the same content with the
// same end share an entry; content is told apart by where it was first seen.
func (o outcome) addHistory(status *kustomizev1.KustomizationStatus, v verdict) {
	if v.pending() || o.report == nil || v.reason == meta.BuildFailedReason || v.reason == meta.ArtifactFailedReason {
		return
	}
	digest := ""
	if latest := status.History.Latest(); latest != nil && (!o.rendered || latest.Metadata["revision"] == o.revision) {
		digest = latest.Digest
	}
	if digest == "" {
		sum := sha256.Sum256(fmt.Appendf(nil, "%s\x00%d", o.revision, o.generation))
		digest = "sha256:" + hex.EncodeToString(sum[:])
	}
	status.History.Upsert(digest, metav1.NewTime(o.now).Rfc3339Copy().Time, o.took.Round(time.Millisecond), v.reason,
		map[string]string{"revision": o.revision})
}

// news tells, for an event, what a pass changed in the cluster; empty if nothing.
// drift reports that something was reverted.
func news(report delivery.Report) (text string, drift bool) {
	var lines []string
	for _, o := range report.Changed() {
		verb := string(o.Outcome)
		switch o.Outcome {
		case delivery.Reverted:
			verb, drift = "configured", true
		case delivery.Pruned:
			verb = "deleted"
		default: // the outcome's own name says it
		}
		lines = append(lines, title(o.ID)+" "+verb)
	}
	slices.Sort(lines)
	return clip(strings.Join(lines, "\n"), maxEvent), drift
}
