package dialect

import (
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
)

// PeerQuiet is for how long a peer must have left a resource alone before Holdfast
// delivers it again. Argo CD looks at every application within four minutes.
const PeerQuiet = 5 * time.Minute

// peerManagers are the field managers by which the controllers of Argo CD and Flux
// write the status of their resources, by kind. Argo CD's kinds have no status
// subresource.
var peerManagers = map[string]struct{ manager, subresource string }{
	"Application":   {"argocd-application-controller", ""},
	"Kustomization": {"gotk-kustomize-controller", "status"},
	"GitRepository": {"gotk-source-controller", "status"},
	"Receiver":      {"gotk-notification-controller", "status"},
}

// Peers notices that another controller writes the status of resources that
// Holdfast delivers, by the times in their managedFields: the entry of the peer's
// manager moves. The zero value is ready; a nil one notices nothing.
type Peers struct {
	mu   sync.Mutex
	seen map[types.UID]trace
}

// trace is what was last seen of a peer's work on one resource.
type trace struct {
	at    metav1.Time // of the peer's entry
	moved time.Time   // when we saw it move; zero: not since the resource is ours
}

// maxTraces bounds what is remembered; resources that ended are never taken out
// one by one. Forgetting makes a peer's next write the first that is seen.
const maxTraces = 50_000

// expect notes the work of a peer that is at its place.
func (p *Peers) expect(u *unstructured.Unstructured) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.set(u.GetUID(), trace{at: entry(u)})
}

// active returns the manager of a peer that has written the resource's status since
// it is ours, and not been quiet since; "" if there is none. It reports true when it
// says so for the first time.
func (p *Peers) active(u *unstructured.Unstructured, now time.Time) (string, bool) {
	if p == nil {
		return "", false
	}
	at := entry(u)
	p.mu.Lock()
	defer p.mu.Unlock()
	last, known := p.seen[u.GetUID()]
	if !known {
		p.set(u.GetUID(), trace{at: at})
		return "", false
	}
	held := !last.moved.IsZero() && now.Sub(last.moved) < PeerQuiet
	if last.at.Before(&at) {
		p.set(u.GetUID(), trace{at: at, moved: now})
		return peerManagers[u.GetKind()].manager, !held
	}
	if held {
		return peerManagers[u.GetKind()].manager, false
	}
	return "", false
}

func (p *Peers) set(id types.UID, t trace) {
	if p.seen == nil || len(p.seen) >= maxTraces {
		p.seen = map[types.UID]trace{}
	}
	p.seen[id] = t
}

// entry is when the peer last wrote the status of a resource; zero if it never did.
func entry(u *unstructured.Unstructured) metav1.Time {
	peer, ok := peerManagers[u.GetKind()]
	if !ok {
		return metav1.Time{}
	}
	var last metav1.Time
	for _, f := range u.GetManagedFields() {
		if f.Manager == peer.manager && f.Subresource == peer.subresource && f.Operation == metav1.ManagedFieldsOperationUpdate &&
			f.Time != nil && last.Before(f.Time) {
			last = *f.Time
		}
	}
	return last
}

// Slim drops from an object's managedFields what nobody needs: the fields. Who
// wrote, and when, stays. It is the transform of a cache.
func Slim(in any) (any, error) {
	o, ok := in.(metav1.Object)
	if !ok {
		return in, nil
	}
	entries := o.GetManagedFields()
	for i := range entries {
		entries[i].FieldsV1 = nil
	}
	o.SetManagedFields(entries)
	return in, nil
}
