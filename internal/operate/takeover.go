package operate

import (
	"time"

	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	api "github.com/holdfastcd/holdfast/api/argo/v1alpha1"
	"github.com/holdfastcd/holdfast/internal/dialect"
	"github.com/holdfastcd/holdfast/internal/fault"
)

// Settle is for how long a resource must not have changed for the peer to count as
// gone from it: what it had begun when it was told to leave is then over.
const Settle = 3 * time.Second

// CanTake refuses, before anything is written, resources that cannot be taken over:
// Unsupported for those that deliver nothing, Refused for those that are suspended
// or being deleted.
func CanTake(u *unstructured.Unstructured) error {
	if err := one(u); err != nil {
		return err
	}
	if dialect.Taken(u) == dialect.TakenOver {
		return fault.New(fault.Refused, "it is taken over already").On(Name(u)).WithHint("'holdfast handback %s' hands it back", short(u))
	}
	return ready(u)
}

func one(u *unstructured.Unstructured) error {
	if u.GetKind() != Application.Kind && u.GetKind() != Kustomization.Kind {
		return fault.New(fault.Unsupported, "a %s delivers nothing, so there is nothing to take over", u.GetKind()).
			On(Name(u)).WithHint("take over what it is the source of; both may fetch it side by side")
	}
	return nil
}

// Leave is the first step of a take-over: it tells the peer to leave the resource
// alone. From here on nobody delivers it.
func Leave(u *unstructured.Unstructured) error {
	if dialect.LeftAlone(u) {
		return fault.New(fault.Refused, "somebody else has just suspended it").On(Name(u))
	}
	dialect.SetLeftAlone(u, true)
	return nil
}

// Idle reports whether the controller of a resource has nothing under way for it.
func Idle(u *unstructured.Unstructured) bool {
	if u.GetKind() == Application.Kind {
		_, asked := u.Object["operation"]
		phase, _, _ := unstructured.NestedString(u.Object, "status", "operationState", "phase")
		return !asked && phase != "Running" && phase != "Terminating"
	}
	status, err := conditions(u)
	if err != nil {
		return false
	}
	c := apimeta.FindStatusCondition(status.Conditions, "Reconciling")
	return c == nil || c.Status != metav1.ConditionTrue
}

// Take is the second step: the resource is Holdfast's, which is asked to look at it
// at once. It fails with Refused if the peer was called back in between.
func Take(u *unstructured.Unstructured, token string) error {
	if !dialect.LeftAlone(u) {
		return calledBack(u)
	}
	dialect.Annotate(u, dialect.AnnotationTakeover, dialect.TakenOver)
	if u.GetKind() == Application.Kind {
		dialect.Annotate(u, AnnotationRefresh, "normal")
		return nil
	}
	dialect.Annotate(u, AnnotationRequested, token)
	return nil
}

// calledBack says who may have removed the marks of a take-over.
func calledBack(u *unstructured.Unstructured) error {
	err := fault.New(fault.Refused, "somebody has removed the mark by which the other controller leaves it alone, so it is not Holdfast's").On(Name(u))
	for _, owner := range u.GetOwnerReferences() {
		if owner.Kind == "ApplicationSet" {
			return err.WithHint("ApplicationSet %s made it: list %s and argocd.argoproj.io/skip-reconcile in its spec.preservedFields.annotations",
				owner.Name, dialect.AnnotationTakeover)
		}
	}
	return err.WithHint("perhaps a parent applies it from Git: leave spec.suspend out there")
}

// Taken returns the function for [Cluster.Await] that waits until Holdfast has
// answered a take-over: it has looked at the resource, and delivered it where it is
// delivered by itself. It fails with Rejected if the delivery failed, and with
// Refused if the resource is not Holdfast's any more.
func Taken(token string) func(*unstructured.Unstructured) (bool, error) {
	return func(u *unstructured.Unstructured) (bool, error) {
		if dialect.Taken(u) != dialect.TakenOver {
			return false, calledBack(u)
		}
		if u.GetKind() != Application.Kind {
			return handled(u, token)
		}
		if u.GetAnnotations()[AnnotationRefresh] != "" {
			return false, nil
		}
		return delivered(u)
	}
}

// delivered reads off an Application whether it is as its source wants it, where it
// sees to that itself.
func delivered(u *unstructured.Unstructured) (bool, error) {
	app, err := decode(u)
	if err != nil {
		return false, err
	}
	for _, c := range app.Status.Conditions {
		if c.Fails() {
			return false, fault.New(fault.Rejected, "%s: %s", c.Type, c.Message).On(Name(u))
		}
	}
	op := app.Status.OperationState
	failed := op != nil && (op.Phase == api.OperationFailed || op.Phase == api.OperationError)
	if failed && app.Status.Sync.Status != api.SyncStatusCodeSynced {
		return false, fault.New(fault.Rejected, "the sync failed: %s", op.Message).On(Name(u))
	}
	return !automated(app) || app.Status.Sync.Status == api.SyncStatusCodeSynced, nil
}

// Return asks Holdfast to end with a resource and to give it back, see
// [dialect.TakenBack]; where the peer has been called back already, what is left of
// the marks goes. It fails with Refused for what was not taken over.
func Return(u *unstructured.Unstructured) error {
	if err := one(u); err != nil {
		return err
	}
	switch {
	case u.GetAnnotations()[dialect.AnnotationTakeover] == "":
		return fault.New(fault.Refused, "it was not taken over").On(Name(u))
	case dialect.Taken(u) == "":
		// The peer was called back without us. What is left of our mark would make its
		// next suspension a take-over.
		return Undo(u)
	}
	dialect.Annotate(u, dialect.AnnotationTakeover, dialect.TakenBack)
	return nil
}

// Returned is for [Cluster.Await]: it waits until a resource is the peer's again.
func Returned(u *unstructured.Unstructured) (bool, error) { return dialect.Taken(u) == "", nil }

// Undo takes the marks of a take-over away without asking Holdfast, for when nobody
// answers.
func Undo(u *unstructured.Unstructured) error {
	dialect.Release(u)
	return nil
}
