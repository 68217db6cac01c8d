package dialect

import (
	"context"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/holdfastcd/holdfast/internal/delivery"
)

// AnnotationTakeover marks a resource that Holdfast delivers although it observes
// everything else, because Argo CD or Flux runs in the same cluster. It counts only
// beside the mark by which that peer leaves a resource alone, see [LeftAlone]: who
// takes that away has handed the resource back.
const AnnotationTakeover = "holdfast.dev/takeover"

// The values of AnnotationTakeover. Others count as none.
const (
	// TakenOver: Holdfast delivers the resource.
	TakenOver = "true"
	// TakenPaused: neither Holdfast nor the peer delivers it.
	TakenPaused = "suspended"
	// TakenBack asks Holdfast to end, and then to take the marks away.
	TakenBack = "handback"
)

const (
	groupArgo      = "argoproj.io"
	annotationSkip = "argocd.argoproj.io/skip-reconcile"
)

// LeftAlone reports whether a resource carries the mark by which its own controller
// leaves it alone: the annotation skip-reconcile for Argo CD's kinds, spec.suspend
// for Flux's.
func LeftAlone(u *unstructured.Unstructured) bool {
	if isArgo(u) {
		skip, err := strconv.ParseBool(u.GetAnnotations()[annotationSkip]) // as Argo CD reads it
		return err == nil && skip
	}
	suspended, _, err := unstructured.NestedBool(u.Object, "spec", "suspend")
	return err == nil && suspended
}

// SetLeftAlone sets or removes the mark that [LeftAlone] reads.
func SetLeftAlone(u *unstructured.Unstructured, leave bool) {
	switch {
	case isArgo(u) && leave:
		Annotate(u, annotationSkip, "true")
	case isArgo(u):
		Annotate(u, annotationSkip, "")
	case leave:
		// What is not an object is not a resource of Flux's: the API server refuses it.
		_ = unstructured.SetNestedField(u.Object, true, "spec", "suspend")
	default:
		unstructured.RemoveNestedField(u.Object, "spec", "suspend")
	}
}

// Annotate sets an annotation; an empty value removes it.
func Annotate(u *unstructured.Unstructured, key, value string) {
	annotations := u.GetAnnotations()
	if value == "" {
		delete(annotations, key)
	} else {
		if annotations == nil {
			annotations = map[string]string{}
		}
		annotations[key] = value
	}
	u.SetAnnotations(annotations)
}

func isArgo(u *unstructured.Unstructured) bool {
	group, _, _ := strings.Cut(u.GetAPIVersion(), "/")
	return group == groupArgo
}

// Taken returns the value of AnnotationTakeover if it counts: it is known, and the
// peer was told to leave the resource alone. Otherwise "".
func Taken(u *unstructured.Unstructured) string {
	return TakenBy(u.GetAnnotations(), LeftAlone(u))
}

// TakenBy is [Taken] of a resource with these annotations, that is left alone or not.
func TakenBy(annotations map[string]string, leftAlone bool) string {
	value := annotations[AnnotationTakeover]
	switch value {
	case TakenOver, TakenPaused, TakenBack:
		if leftAlone {
			return value
		}
	}
	return ""
}

// Suspended reports whether nothing is to be done about a resource at all: it is
// suspended in the way of its kind. On a resource that was taken over, that mark
// speaks to the peer, and AnnotationTakeover to Holdfast.
func Suspended(u *unstructured.Unstructured) bool {
	switch Taken(u) {
	case TakenOver:
		return false
	case TakenPaused, TakenBack:
		return true
	}
	return LeftAlone(u)
}

// Observing reports whether a pass over a resource must write nothing, neither to
// objects nor to the resource itself: the process observes and the resource was not
// taken over, or a peer is still at work on it. It is to be asked at the start of
// every pass, before anything else, the end of a resource included: what is
// observed is retracted by the peer.
func (e *Env) Observing(u *unstructured.Unstructured) bool {
	if e.Observe && Taken(u) == "" {
		e.Peers.expect(u)
		return true
	}
	if e.stillServed(u) {
		return true
	}
	e.EndFinding(delivery.ID{Kind: u.GetKind(), Namespace: u.GetNamespace(), Name: u.GetName()})
	return false
}

// stillServed reports whether a peer is at work on a resource that is Holdfast's,
// and tells it once each time it begins.
func (e *Env) stillServed(u *unstructured.Unstructured) bool {
	peer, began := e.Peers.active(u, e.now())
	if began {
		name := u.GetKind() + "/" + u.GetNamespace() + "/" + u.GetName()
		e.Log.Warn("a peer still serves a resource that is Holdfast's; it is only observed", "delivery", name, "manager", peer)
		if e.Events != nil {
			e.Events.Eventf(u, "Warning", ReasonPeer,
				"%s still writes this resource, so Holdfast does not deliver it until that has been quiet for %s: "+
					"scale the other controller down, or have it leave this resource alone (holdfast takeover)", peer, PeerQuiet)
		}
	}
	return peer != ""
}

// ReasonPeer is the reason of the event about a peer that still writes.
const ReasonPeer = "PeerStillRuns"

// HandBack answers [TakenBack]: it takes both marks away in one patch, which fails
// with a conflict if the resource has moved, and reports true if the resource is not
// Holdfast's any more. It is to be called where no pass over the resource can be
// under way, which is at the start of the next one.
func (e *Env) HandBack(ctx context.Context, u *unstructured.Unstructured) (bool, error) {
	if Taken(u) != TakenBack {
		return false, nil
	}
	next := u.DeepCopy()
	Release(next)
	patch := client.MergeFromWithOptions(u, client.MergeFromWithOptimisticLock{})
	return true, client.IgnoreNotFound(e.Client.Patch(ctx, next, patch, client.FieldOwner(StatusManager)))
}

// Release takes the marks of a take-over away: the resource is the peer's again.
func Release(u *unstructured.Unstructured) {
	Annotate(u, AnnotationTakeover, "")
	SetLeftAlone(u, false)
}
