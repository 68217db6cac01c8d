package operate

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	api "github.com/holdfastcd/holdfast/api/argo/v1alpha1"
	"github.com/holdfastcd/holdfast/internal/dialect"
	"github.com/holdfastcd/holdfast/internal/fault"
)

// The annotations that ask for something.
const (
	// AnnotationRequested asks Flux's kinds for a reconciliation; its value comes
	// back in status.lastHandledReconcileAt.
	AnnotationRequested = "reconcile.fluxcd.io/requestedAt"
	// AnnotationRefresh asks Applications for a comparison, and is taken away by it.
	AnnotationRefresh = "argocd.argoproj.io/refresh"
)

// Sync is what a sync may be asked for. Only Confirm is of use to Flux's kinds.
type Sync struct {
	Revision string // instead of the one that the source names
	Prune    bool   // delete what left the source
	DryRun   bool   // change nothing
	Force    bool   // delete and create what cannot be changed in place
	// Resources limits the sync to some objects, written group:kind:name or
	// group:kind:namespace/name; the group of core kinds is empty.
	Resources []string
	// Confirm is the digest of the prunes to confirm; empty: none.
	Confirm string
	// User is who asks.
	User string
}

// check refuses what only an Application can do, by name.
func (s Sync) check(u *unstructured.Unstructured) error {
	if u.GetKind() == Application.Kind {
		return nil
	}
	for _, o := range []struct {
		given bool
		name  string
		hint  string
	}{
		{s.Revision != "", "--revision", "it delivers what its source says: change the ref of the source in Git"},
		{s.Prune, "--prune", "set spec.prune"},
		{s.DryRun, "--dry-run", "use 'holdfast diff'"},
		{s.Force, "--force", "set spec.force"},
		{len(s.Resources) > 0, "--resource", "a Kustomization is delivered as a whole"},
	} {
		if o.given {
			return fault.New(fault.Unsupported, "%s is for Applications", o.name).On(Name(u)).WithHint("%s", o.hint)
		}
	}
	return nil
}

// Ask writes the request for a sync into a resource: the operation of an
// Application, as Argo CD's clients do, or the annotation of Flux's kinds, with
// token, which must not have been used before. It fails with Invalid, Unsupported,
// and Refused if the resource is suspended, being deleted, or already at it.
func (s Sync) Ask(u *unstructured.Unstructured, token string) error {
	if err := s.check(u); err != nil {
		return err
	}
	if err := ready(u); err != nil {
		return err
	}
	if s.Confirm != "" {
		dialect.Annotate(u, dialect.AnnotationConfirm, s.Confirm)
	}
	if u.GetKind() != Application.Kind {
		dialect.Annotate(u, AnnotationRequested, token)
		return nil
	}
	if only, err := s.OnlyConfirms(u); err != nil || only {
		dialect.Annotate(u, AnnotationRefresh, "normal")
		return err
	}
	op, err := s.operation(u)
	if err != nil {
		return err
	}
	return start(u, op)
}

// OnlyConfirms reports whether a sync says a word to an Application that prunes by
// itself, and nothing else: then there is no operation, which would not prune, and
// [Confirmed] waits for the answer. It fails with Invalid where the word would have
// no effect.
func (s Sync) OnlyConfirms(u *unstructured.Unstructured) (bool, error) {
	if s.Confirm == "" || s.Prune || u.GetKind() != Application.Kind {
		return false, nil
	}
	app, err := decode(u)
	if err != nil {
		return false, err
	}
	if !automated(app) || !isTrue(app.Spec.SyncPolicy.Automated.Prune) {
		return false, fault.New(fault.Invalid, "it does not prune by itself, so there is nothing to confirm").On(Name(u)).
			WithHint("give --prune as well")
	}
	if s.Revision != "" || s.DryRun || s.Force || len(s.Resources) > 0 {
		return false, fault.New(fault.Invalid, "--confirm-prune goes with --prune or alone").On(Name(u)).WithHint("give --prune as well")
	}
	return true, nil
}

// Confirmed is for [Cluster.Await]: it waits until an Application that prunes by
// itself has done so. It fails with Rejected if a prune is held back still, and says
// why.
func Confirmed(u *unstructured.Unstructured) (bool, error) {
	app, err := decode(u)
	if err != nil || u.GetAnnotations()[AnnotationRefresh] != "" {
		return false, err
	}
	for _, c := range app.Status.Conditions {
		if c.Type == held {
			return false, fault.New(fault.Rejected, "%s", c.Message).On(Name(u)).WithHint("that was another word: 'holdfast diff' tells the one that counts now")
		}
	}
	return delivered(u)
}

// held is the type of the condition of an Application whose prune waits for a word.
const held = "PruneHeldWarning"

// ready refuses orders to a resource that nobody would answer for.
func ready(u *unstructured.Unstructured) error {
	switch {
	case u.GetDeletionTimestamp() != nil:
		return fault.New(fault.Refused, "it is being deleted").On(Name(u))
	case dialect.Suspended(u):
		return fault.New(fault.Refused, "it is suspended").On(Name(u)).WithHint("holdfast resume %s", short(u))
	}
	return nil
}

// short renders a resource as the commands take it.
func short(u *unstructured.Unstructured) string {
	return strings.ToLower(u.GetKind()) + "/" + u.GetName() + " -n " + u.GetNamespace()
}

// operation is the operation that a sync of an Application is.
func (s Sync) operation(u *unstructured.Unstructured) (*api.Operation, error) {
	app, err := decode(u)
	if err != nil {
		return nil, err
	}
	if target := target(app); automated(app) && !s.DryRun && s.Revision != "" && s.Revision != target {
		return nil, fault.New(fault.Refused, "it is synced by itself to %s, which would undo a sync to %s at once", cmp.Or(target, "HEAD"), s.Revision).
			On(Name(u)).WithHint("change spec.source.targetRevision, or remove spec.syncPolicy.automated first")
	}
	op := &api.Operation{
		Sync:        &api.SyncOperation{Revision: s.Revision, Prune: s.Prune, DryRun: s.DryRun},
		InitiatedBy: api.OperationInitiator{Username: s.User},
	}
	if s.Force {
		op.Sync.SyncStrategy = &api.SyncStrategy{Hook: &api.SyncStrategyHook{Force: true}}
	}
	if p := app.Spec.SyncPolicy; p != nil {
		op.Sync.SyncOptions = p.SyncOptions
		if p.Retry != nil {
			op.Retry = *p.Retry
		}
	}
	for _, name := range s.Resources {
		one, err := resource(name)
		if err != nil {
			return nil, err
		}
		op.Sync.Resources = append(op.Sync.Resources, one)
	}
	return op, nil
}

// resource reads group:kind:name and group:kind:namespace/name.
func resource(s string) (api.SyncOperationResource, error) {
	parts := strings.Split(s, ":")
	if len(parts) != 3 || parts[1] == "" || parts[2] == "" {
		return api.SyncOperationResource{}, fault.New(fault.Invalid, "%q names no object", s).
			WithHint("write group:kind:name, such as apps:Deployment:web or :Service:web")
	}
	r := api.SyncOperationResource{Group: parts[0], Kind: parts[1], Name: parts[2]}
	if namespace, name, both := strings.Cut(parts[2], "/"); both {
		r.Namespace, r.Name = namespace, name
	}
	return r, nil
}

// Missing is a fault NotFound for what a sync was limited to and an Application does not
// have: neither before nor after it. It is nil if the Application has all of it.
func (s Sync) Missing(before, after *unstructured.Unstructured) error {
	var known []api.ResourceStatus
	for _, u := range []*unstructured.Unstructured{before, after} {
		app, err := decode(u)
		if err != nil {
			return err
		}
		known = append(known, app.Status.Resources...)
	}
	for _, name := range s.Resources {
		one, err := resource(name)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(known, func(r api.ResourceStatus) bool {
			return r.Group == one.Group && r.Kind == one.Kind && r.Name == one.Name && (one.Namespace == "" || r.Namespace == one.Namespace)
		}) {
			return fault.New(fault.NotFound, "it has no object %s: nothing was sent for it", name).
				On(Name(after)).WithHint("status.resources of the Application lists what it has")
		}
	}
	return nil
}

// start puts an operation into an Application, where there is none, and takes the
// account of the last one away, as Argo CD does.
func start(u *unstructured.Unstructured, op *api.Operation) error {
	if _, busy := u.Object["operation"]; busy {
		return fault.New(fault.Refused, "another operation is in progress").On(Name(u)).WithHint("wait until it is over")
	}
	b, err := json.Marshal(op)
	if err != nil {
		return fault.New(fault.Internal, "cannot write the operation: %s", err)
	}
	var plain map[string]any
	if err := json.Unmarshal(b, &plain); err != nil {
		return fault.New(fault.Internal, "cannot write the operation: %s", err)
	}
	u.Object["operation"] = plain
	// What was fetched a minute ago is not what somebody wants who asks now.
	dialect.Annotate(u, AnnotationRefresh, "normal")
	unstructured.RemoveNestedField(u.Object, "status", "operationState")
	return nil
}

func decode(u *unstructured.Unstructured) (*api.Application, error) {
	app := &api.Application{}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, app); err != nil {
		return nil, fault.New(fault.Invalid, "it cannot be read: %s", err).On(Name(u))
	}
	return app, nil
}

func automated(app *api.Application) bool {
	p := app.Spec.SyncPolicy
	return p != nil && p.Automated != nil && (p.Automated.Enabled == nil || *p.Automated.Enabled)
}

func isTrue(b *bool) bool { return b != nil && *b }

func target(app *api.Application) string {
	if app.Spec.Source == nil {
		return ""
	}
	return app.Spec.Source.TargetRevision
}

// Source names the source of a Kustomization; false for others, and for sources of
// kinds that are not served.
func Source(u *unstructured.Unstructured) (Choice, bool) {
	kind, _, _ := unstructured.NestedString(u.Object, "spec", "sourceRef", "kind")
	name, _, _ := unstructured.NestedString(u.Object, "spec", "sourceRef", "name")
	namespace, _, _ := unstructured.NestedString(u.Object, "spec", "sourceRef", "namespace")
	if u.GetKind() != Kustomization.Kind || kind != GitRepository.Kind || name == "" {
		return Choice{}, false
	}
	return Choice{Kind: GitRepository, Namespace: cmp.Or(namespace, u.GetNamespace()), Name: name}, true
}

// Answered returns the function for [Cluster.Await] that waits for the answer to a
// request with a token, or to an operation: true when what was asked for is done.
// It fails with Rejected if it failed, and says why.
func Answered(token string) func(*unstructured.Unstructured) (bool, error) {
	return func(u *unstructured.Unstructured) (bool, error) {
		if u.GetKind() == Application.Kind {
			return operated(u)
		}
		return handled(u, token)
	}
}

// operated reads off an Application whether its operation is over.
func operated(u *unstructured.Unstructured) (bool, error) {
	if _, waiting := u.Object["operation"]; waiting {
		return false, nil
	}
	phase, _, _ := unstructured.NestedString(u.Object, "status", "operationState", "phase")
	message, _, _ := unstructured.NestedString(u.Object, "status", "operationState", "message")
	finished, _, _ := unstructured.NestedString(u.Object, "status", "operationState", "finishedAt")
	switch api.OperationPhase(phase) {
	case api.OperationSucceeded:
		return true, nil
	case api.OperationFailed, api.OperationError:
		if finished != "" {
			return false, fault.New(fault.Rejected, "the sync failed: %s", message).On(Name(u)).WithHint(correct)
		}
	default: // under way, or not begun
	}
	return false, refusal(u)
}

// refusal is the condition of an Application that says why nobody begins.
func refusal(u *unstructured.Unstructured) error {
	list, _, _ := unstructured.NestedSlice(u.Object, "status", "conditions")
	for _, one := range list {
		c, _ := one.(map[string]any)
		if c["type"] == string(api.ConditionInvalidSpecError) {
			return fault.New(fault.Rejected, "%s", fmt.Sprint(c["message"])).On(Name(u)).WithHint(correct)
		}
	}
	return nil
}

// handled reads off a resource of Flux's whether a request was handled and the
// resource is ready for it.
func handled(u *unstructured.Unstructured, token string) (bool, error) {
	status, err := conditions(u)
	if err != nil || status.LastHandledReconcileAt != token {
		return false, err
	}
	// What never got through has conditions, but no observed generation of its own.
	ready := apimeta.FindStatusCondition(status.Conditions, "Ready")
	switch {
	case ready == nil || ready.Status == metav1.ConditionUnknown || ready.ObservedGeneration != u.GetGeneration():
		return false, nil
	case ready.Status == metav1.ConditionTrue:
		return true, nil
	case slices.Contains([]string{"DependencyNotReady", "Progressing"}, ready.Reason):
		return false, nil
	}
	return false, fault.New(fault.Rejected, "%s: %s", ready.Reason, ready.Message).On(Name(u)).WithHint(correct)
}

// correct is what to do about a delivery that failed.
const correct = "correct what the message names, and sync again"

// fluxStatus is what Flux's kinds have in common.
type fluxStatus struct {
	LastHandledReconcileAt string             `json:"lastHandledReconcileAt"`
	Conditions             []metav1.Condition `json:"conditions"`
}

func conditions(u *unstructured.Unstructured) (fluxStatus, error) {
	var s fluxStatus
	status, ok := u.Object["status"].(map[string]any)
	if !ok {
		return s, nil
	}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(status, &s); err != nil {
		return s, fault.New(fault.Invalid, "its status cannot be read: %s", err).On(Name(u))
	}
	return s, nil
}

// Token makes the value of a request out of a time, as Flux's own client does.
func Token(now time.Time) string { return now.Format(time.RFC3339Nano) }
