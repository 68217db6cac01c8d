// Package overview summarises what is delivered: the resources of both dialects in
// one vocabulary, for people. It reads custom resources only.
package overview

import (
	"cmp"
	"slices"
	"strconv"
	"strings"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/fluxcd/pkg/apis/meta"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	api "github.com/holdfastcd/holdfast/api/argo/v1alpha1"
	"github.com/holdfastcd/holdfast/internal/dialect"
	"github.com/holdfastcd/holdfast/internal/fault"
)

// The states of a delivery or source, whatever its dialect calls them.
const (
	Synced      = "Synced"
	OutOfSync   = "OutOfSync"
	Failed      = "Failed"
	Progressing = "Progressing"
	Suspended   = "Suspended"
	Unknown     = "Unknown"
)

// Row is what there is to say of one resource.
type Row struct {
	Kind      string `json:"kind"`
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	Source    string `json:"source"`
	Path      string `json:"path,omitempty"`
	Revision  string `json:"revision,omitempty"`
	State     string `json:"state"`
	Health    string `json:"health,omitempty"`
	Message   string `json:"message,omitempty"`
	Objects   int    `json:"objects"`
	// Takeover says, of a resource that was taken over from Argo CD or Flux, how
	// that stands: "true", "suspended" or "handback".
	Takeover string `json:"takeover,omitempty"`
}

// Read summarises a resource given as plain JSON. It fails with Invalid for one that
// its type cannot hold, and for other kinds.
func Read(u *unstructured.Unstructured) (Row, error) {
	var o client.Object
	switch u.GetKind() {
	case kustomizev1.KustomizationKind:
		o = &kustomizev1.Kustomization{}
	case sourcev1.GitRepositoryKind:
		o = &sourcev1.GitRepository{}
	case api.ApplicationKind:
		o = &api.Application{}
	default:
		return Row{}, fault.New(fault.Invalid, "a %s asks for no delivery", u.GetKind())
	}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, o); err != nil {
		return Row{}, fault.New(fault.Invalid, "it cannot be read: %s", err).On(u.GetKind() + "/" + u.GetNamespace() + "/" + u.GetName())
	}
	return Describe(o), nil
}

// Describe summarises an Application, GitRepository or Kustomization.
func Describe(o client.Object) Row {
	r := Row{Namespace: o.GetNamespace(), Name: o.GetName()}
	switch o := o.(type) {
	case *kustomizev1.Kustomization:
		r.kustomization(o)
		r.whose(o, o.Spec.Suspend)
	case *sourcev1.GitRepository:
		r.gitRepository(o)
	case *api.Application:
		r.application(o)
		skip, err := strconv.ParseBool(o.Annotations[annotationSkip])
		r.whose(o, err == nil && skip)
	}
	if !o.GetDeletionTimestamp().IsZero() {
		r.State = Progressing
		r.Message = strings.TrimSuffix("being deleted; "+r.Message, "; ")
	}
	return r
}

const annotationSkip = "argocd.argoproj.io/skip-reconcile"

// whose says who delivers a resource that the controller of its kind was told to
// leave alone: nobody, unless it was taken over.
func (r *Row) whose(o client.Object, left bool) {
	r.Takeover = dialect.TakenBy(o.GetAnnotations(), left)
	switch {
	case r.Takeover == dialect.TakenBack:
		r.State, r.Message = Progressing, strings.TrimSuffix("being handed back; "+r.Message, "; ")
	case left && r.Takeover != dialect.TakenOver:
		r.State = Suspended
	}
}

func (r *Row) kustomization(ks *kustomizev1.Kustomization) {
	r.Kind = kustomizev1.KustomizationKind
	r.Source, r.Path = ks.Spec.SourceRef.Kind+"/"+ks.Spec.SourceRef.Name, ks.Spec.Path
	r.Revision = cmp.Or(ks.Status.LastAppliedRevision, ks.Status.LastAttemptedRevision)
	if ks.Status.Inventory != nil {
		r.Objects = len(ks.Status.Inventory.Entries)
	}
	r.State, r.Message = fluxState(false, ks.Generation, ks.Status.ObservedGeneration, ks.Status.Conditions)
	if r.State == Synced {
		r.Message = cmp.Or(warning(ks.Status.Conditions), r.Message)
	}
	if c := apimeta.FindStatusCondition(ks.Status.Conditions, meta.HealthyCondition); c != nil {
		r.Health = map[metav1.ConditionStatus]string{
			metav1.ConditionTrue: "Healthy", metav1.ConditionUnknown: "Progressing", metav1.ConditionFalse: "Degraded",
		}[c.Status]
		if r.State == Failed && c.Status == metav1.ConditionUnknown {
			r.Health = Unknown // nothing is under way: what was refused, or failed, was not looked at
		}
	}
}

// warnings are the conditions of a delivery that is applied, and would not be if it were
// new; of Applications, too.
var warnings = []string{"Unproven", "TrustWarning", "PolicyWarning"}

// warning is what a condition says that refused nothing.
func warning(conditions []metav1.Condition) string {
	for _, kind := range warnings {
		if c := apimeta.FindStatusCondition(conditions, kind); c != nil && c.Status == metav1.ConditionTrue {
			return "warning: " + c.Message
		}
	}
	return ""
}

func (r *Row) gitRepository(g *sourcev1.GitRepository) {
	r.Kind = sourcev1.GitRepositoryKind
	r.Source = g.Spec.URL
	if g.Status.Artifact != nil {
		r.Revision = g.Status.Artifact.Revision
	}
	r.State, r.Message = fluxState(g.Spec.Suspend, g.Generation, g.Status.ObservedGeneration, g.Status.Conditions)
}

// fluxState reads a state off Flux's conditions. What a condition says counts
// only for the generation that it was made for.
func fluxState(suspended bool, generation, observed int64, conditions []metav1.Condition) (state, message string) {
	ready := apimeta.FindStatusCondition(conditions, meta.ReadyCondition)
	if ready != nil {
		message = ready.Message
	}
	switch {
	case suspended:
		return Suspended, message
	case ready == nil:
		return Unknown, "nobody has looked at it yet; is the controller running?"
	case ready.Status == metav1.ConditionFalse && ready.Reason != meta.DependencyNotReadyReason:
		return Failed, message
	case ready.Status != metav1.ConditionTrue || generation != observed:
		return Progressing, message
	}
	return Synced, message
}

func (r *Row) application(app *api.Application) {
	r.Kind = api.ApplicationKind
	if s := app.Spec.Source; s != nil {
		r.Source, r.Path = s.RepoURL, s.Path
	}
	r.Revision = app.Status.Sync.Revision
	r.Health = string(app.Status.Health.Status)
	r.Objects = len(app.Status.Resources)
	r.State, r.Message = argoState(app)
}

func argoState(app *api.Application) (state, message string) {
	status := &app.Status
	for _, c := range status.Conditions {
		if c.Fails() {
			return Failed, c.Message
		}
	}
	op := status.OperationState
	switch {
	case op != nil && (op.Phase == api.OperationFailed || op.Phase == api.OperationError) && status.Sync.Status != api.SyncStatusCodeSynced:
		return Failed, op.Message
	case op != nil && op.Phase == api.OperationRunning:
		return Progressing, op.Message
	case status.Sync.Status == api.SyncStatusCodeSynced:
		return Synced, cmp.Or(status.Health.Message, warned(status.Conditions))
	case status.Sync.Status == api.SyncStatusCodeOutOfSync:
		return OutOfSync, cmp.Or(held(status.Conditions), status.Health.Message, unsynced(status.Resources))
	case status.Sync.Status == "":
		return Unknown, "nobody has looked at it yet; is the controller running?"
	}
	return Unknown, status.Health.Message
}

// warned is what a condition says that refused nothing.
func warned(conditions []api.ApplicationCondition) string {
	for _, c := range conditions {
		if slices.Contains(warnings, string(c.Type)) {
			return "warning: " + c.Message
		}
	}
	return ""
}

// held is what the condition says of a prune that waits for somebody's word.
func held(conditions []api.ApplicationCondition) string {
	for _, c := range conditions {
		if c.Type == "PruneHeldWarning" {
			return c.Message
		}
	}
	return ""
}

// unsynced names the first objects that are not as the source wants them.
func unsynced(resources []api.ResourceStatus) string {
	var names []string
	for _, o := range resources {
		if o.Status == api.SyncStatusCodeOutOfSync {
			names = append(names, o.Kind+"/"+o.Name)
		}
	}
	if len(names) > 3 {
		names = append(names[:3], "…")
	}
	if len(names) == 0 {
		return ""
	}
	return "differs: " + strings.Join(names, ", ")
}

// ShortRevision shortens the object id in a revision, which is the whole or
// stands behind its last colon.
func ShortRevision(s string) string {
	at := strings.LastIndexByte(s, '@') + 1
	branch, digest := s[:at], s[at:]
	digest = digest[strings.LastIndexByte(digest, ':')+1:]
	return branch + digest[:min(8, len(digest))]
}
