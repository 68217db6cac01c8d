package argo

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	api "github.com/holdfastcd/holdfast/api/argo/v1alpha1"
	"github.com/holdfastcd/holdfast/internal/delivery"
	"github.com/holdfastcd/holdfast/internal/dialect"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/health"
	"github.com/holdfastcd/holdfast/internal/object"
)

// Conditions of our own, beside those of Argo CD.
const (
	// ConditionPermissive says that an Application is delivered with Holdfast's
	// own identity, because its project names no account.
	ConditionPermissive api.ApplicationConditionType = "PermissiveWarning"
	// ConditionContested says that somebody else keeps changing an object.
	ConditionContested api.ApplicationConditionType = "ContestedResourceWarning"
	// ConditionHeld says that a prune waits for somebody's word, and for which.
	ConditionHeld api.ApplicationConditionType = "PruneHeldWarning"
	// ConditionUnproven says that a demand does not hold of a TrustPolicy that only
	// audits.
	ConditionUnproven api.ApplicationConditionType = "TrustWarning"
	// ConditionPolicy says that policies find fault, and only tell.
	ConditionPolicy api.ApplicationConditionType = "PolicyWarning"
)

// found is what one pass over an Application found and did.
type found struct {
	at     time.Time
	commit string // empty if no revision was had
	order  *order // what somebody has asked for; nil: nothing
	// detour: the order led to another revision than the spec does, so that what was
	// found says nothing about how source and cluster compare.
	detour bool
	// ended is the account of an operation that ended before anything was looked at.
	ended      *api.OperationState
	sourceType api.ApplicationSourceType
	attempt    attempt
	// report is what came of delivering or comparing; nil if it did not get that far.
	report *delivery.Report
	// err is why it did not get that far, and as which condition that is shown.
	err  *fault.Error
	as   api.ApplicationConditionType
	warn []api.ApplicationCondition
}

// refused reports whether nothing could be compared at all: report or not, the
// objects are as they were before, and nobody knows how they differ.
func (f found) refused() bool {
	if f.report == nil {
		return true
	}
	if f.report.Err == nil {
		return false
	}
	for _, o := range f.report.Objects {
		if o.Outcome != delivery.Left {
			return false
		}
	}
	return true
}

// transition returns the status that an Application has after a pass. It is equal
// to the status before, times included, if the pass found nothing new.
func transition(app *api.Application, f found) api.ApplicationStatus {
	s := *app.Status.DeepCopy()
	s.ControllerNamespace = app.Namespace
	s.ResourceHealthSource = api.ResourceHealthLocationAppTree
	s.Resources = resources(app.Status.Resources, f)
	s.Sync = syncStatus(app, f)
	s.Health = healthStatus(app.Status.Health, f)
	if f.sourceType != "" {
		s.SourceType = f.sourceType
	}
	s.Summary.IsAppOfApps = slices.ContainsFunc(s.Resources, isApplication)
	if !f.refused() {
		s.Summary.Images = f.report.Images
	}
	s.OperationState = operation(app, f, s.Sync.Status)
	s.History = history(app, s.OperationState)
	s.Conditions = conditions(app.Status.Conditions, wanted(app, f, s.OperationState), f.at)
	if !apiequality.Semantic.DeepEqual(s, app.Status) {
		s.ReconciledAt = &metav1.Time{Time: f.at.Truncate(time.Second)}
	}
	return s
}

func isApplication(r api.ResourceStatus) bool {
	return r.Group == api.GroupVersion.Group && r.Kind == api.ApplicationKind
}

// resources lists what an Application holds and wants. It is also the inventory:
// nothing leaves it before it is gone or given up.
func resources(before []api.ResourceStatus, f found) []api.ResourceStatus {
	if f.refused() {
		after := slices.Clone(before)
		for i := range after {
			after[i].Status = api.SyncStatusCodeUnknown
		}
		return after
	}
	held := map[object.ID]bool{}
	for _, e := range f.report.Inventory {
		held[e.ID] = true
	}
	var after []api.ResourceStatus
	for _, o := range f.report.Objects {
		if r, part := resource(o, held[o.ID], f.report.Observed); part {
			after = append(after, r)
		}
	}
	slices.SortFunc(after, func(a, b api.ResourceStatus) int {
		return cmp.Or(cmp.Compare(a.Group, b.Group), cmp.Compare(a.Kind, b.Kind),
			cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return after
}

// resource tells one object; false if it is not part of the Application.
func resource(o delivery.Object, held, observed bool) (api.ResourceStatus, bool) {
	switch {
	case loose(o):
		return api.ResourceStatus{}, false
	case !held && (!o.Desired || o.Outcome == delivery.Exempt), observed && o.Outcome == delivery.Released:
		return api.ResourceStatus{}, false
	}
	r := api.ResourceStatus{
		Group: o.ID.Group, Version: o.GVK.Version, Kind: o.ID.Kind, Namespace: o.ID.Namespace, Name: o.ID.Name,
		Status: api.SyncStatusCodeOutOfSync, RequiresPruning: !o.Desired, SyncWave: int64(o.Wave),
		RequiresDeletionConfirmation: o.Outcome == delivery.Held,
	}
	if o.Desired && o.Synced() {
		r.Status = api.SyncStatusCodeSynced
	}
	if !held && o.Health != nil && o.Health.Status == health.Missing {
		// Never applied, and so nothing that the Application holds; see [inventory].
		r.Health = &api.HealthStatus{Status: api.HealthStatusCode(health.Missing)}
	}
	return r, true
}

// loose reports whether an object is the destination namespace that was created
// beside the source: it is not part of the Application. Whatever a source renders
// says where it stands in it.
func loose(o delivery.Object) bool {
	return o.Desired && o.Origin.File == "" && o.ID.Kind == "Namespace" && o.ID.Group == ""
}

func syncStatus(app *api.Application, f found) api.SyncStatus {
	if f.detour && app.Status.Sync.Status != "" {
		return app.Status.Sync // of the spec; the next pass looks at that
	}
	s := api.SyncStatus{Status: api.SyncStatusCodeSynced, ComparedTo: comparedTo(app), Revision: f.commit}
	if s.Revision == "" {
		s.Revision = app.Status.Sync.Revision
	}
	if f.refused() {
		s.Status = api.SyncStatusCodeUnknown
		return s
	}
	for _, o := range f.report.Objects {
		if !o.Synced() && !loose(o) {
			s.Status = api.SyncStatusCodeOutOfSync
		}
	}
	return s
}

// healthStatus is the worst health over the objects that count: missing ones do
// not unless all are missing, and child Applications speak for themselves.
func healthStatus(before api.HealthStatus, f found) api.HealthStatus {
	after := before
	switch {
	case f.as == api.ConditionInvalidSpecError, f.report != nil && f.refused() && len(f.report.Objects) == 0:
		after = api.HealthStatus{Status: api.HealthStatusCode(health.Unknown)}
	case f.report != nil:
		v, culprits := worst(f.report.Objects)
		after = api.HealthStatus{Status: api.HealthStatusCode(v), Message: culprits}
	case before.Status == "":
		after = api.HealthStatus{Status: api.HealthStatusCode(health.Unknown)}
	}
	after.LastTransitionTime = before.LastTransitionTime
	if after.Status != before.Status || before.LastTransitionTime == nil {
		after.LastTransitionTime = &metav1.Time{Time: f.at.Truncate(time.Second)}
	}
	return after
}

func worst(objects []delivery.Object) (health.Status, string) {
	var verdicts []health.Verdict
	desired, missing := 0, 0
	for _, o := range objects {
		if !o.Desired || loose(o) || o.Outcome == delivery.Exempt {
			continue
		}
		desired++
		switch {
		case o.Health == nil || o.Unjudged || o.Health.Generic:
		case o.Health.Status == health.Missing:
			missing++
		case o.ID.Kind != api.ApplicationKind || o.ID.Group != api.GroupVersion.Group:
			verdicts = append(verdicts, *o.Health)
		}
	}
	if missing > 0 && missing == desired {
		return health.Missing, ""
	}
	status := health.Aggregate(verdicts).Status
	if status == health.Healthy || status == health.Progressing {
		return status, "" // who is still busy changes by the second
	}
	return status, culprits(objects, status)
}

// culprits names the first objects of a health.
func culprits(objects []delivery.Object, status health.Status) string {
	const most = 3
	var names []string
	for _, o := range objects {
		if o.Health == nil || !o.Desired || o.Unjudged || o.Health.Status != status {
			continue
		}
		if len(names) == most {
			names = append(names, "and others")
			break
		}
		name := o.ID.Kind + " " + strings.TrimPrefix(o.ID.Namespace+"/"+o.ID.Name, "/")
		if o.Health.Message != "" {
			name += ": " + o.Health.Message
		}
		names = append(names, name)
	}
	return strings.Join(names, "; ")
}

// wanted lists the conditions that stand after a pass.
func wanted(app *api.Application, f found, op *api.OperationState) []api.ApplicationCondition {
	list := slices.Clone(f.warn)
	add := func(t api.ApplicationConditionType, format string, args ...any) {
		list = append(list, api.ApplicationCondition{Type: t, Message: fmt.Sprintf(format, args...)})
	}
	switch {
	case f.err != nil:
		add(f.as, "%s", f.err)
	case f.report != nil && f.refused():
		add(api.ConditionComparisonError, "%s", f.report.Err)
	}
	if syncsItself(app) && failed(op) && op.SyncResult.Revision == f.commit && sameSource(op.SyncResult.Source, app.Spec.Source) {
		add(api.ConditionSyncError, "Failed last sync attempt to %s: %s", op.SyncResult.Revision, op.Message)
	}
	if f.report != nil && len(f.report.Held) > 0 {
		add(ConditionHeld, "the prune of %s waits for a word: kubectl annotate application -n %s %s --overwrite %s=%s",
			few(f.report.Held), app.Namespace, app.Name, dialect.AnnotationConfirm, f.report.HeldDigest)
	}
	if f.report != nil && len(f.report.Unproven) > 0 {
		add(ConditionUnproven, "%s", strings.Join(f.report.Unproven, "; "))
	}
	if f.report != nil && len(f.report.Warned) > 0 {
		add(ConditionPolicy, "%s", strings.Join(f.report.Warned, "; "))
	}
	return append(list, contested(f)...)
}

// few names the first of some objects.
func few(ids []object.ID) string {
	const most = 5
	names := make([]string, 0, most)
	for _, id := range ids[:min(len(ids), most)] {
		names = append(names, id.String())
	}
	text := strings.Join(names, ", ")
	if n := len(ids); n > most {
		text += fmt.Sprintf(" and %d more", n-most)
	}
	return text
}

// failed reports whether the last attempt of an operation failed.
func failed(op *api.OperationState) bool {
	return op != nil && op.SyncResult != nil && op.Phase != api.OperationSucceeded && op.FinishedAt != nil
}

// contested lists the objects that somebody else keeps changing.
func contested(f found) []api.ApplicationCondition {
	var list []api.ApplicationCondition
	if f.report == nil || f.report.RetryAfter == 0 {
		return nil
	}
	for _, o := range f.report.Objects {
		if o.Contested {
			list = append(list, api.ApplicationCondition{Type: ConditionContested, Message: o.ID.String() + ": " + o.Message})
		}
	}
	return list
}

// conditions gives each wanted condition the time since which it stands.
func conditions(before, wanted []api.ApplicationCondition, now time.Time) []api.ApplicationCondition {
	for i := range wanted {
		w := &wanted[i]
		w.LastTransitionTime = &metav1.Time{Time: now.Truncate(time.Second)}
		for _, b := range before {
			if b.Type == w.Type && b.Message == w.Message && b.LastTransitionTime != nil {
				w.LastTransitionTime = b.LastTransitionTime
			}
		}
	}
	slices.SortStableFunc(wanted, func(a, b api.ApplicationCondition) int { return cmp.Compare(a.Type, b.Type) })
	return wanted
}
