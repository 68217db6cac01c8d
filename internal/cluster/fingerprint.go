package cluster

import (
	"k8s.io/apimachinery/pkg/types"

	"github.com/holdfastcd/holdfast/internal/plan"
)

// Fingerprint is what is remembered of an object after we applied it: as long
// as it stands, the object is as it was applied. It holds no part of the object.
type Fingerprint struct {
	UID             types.UID `json:"uid"`
	Ours            Hash      `json:"ours"`                      // our entry in managedFields, fields and time
	Generation      int64     `json:"generation,omitempty"`      // 0 for kinds that have none
	ResourceVersion string    `json:"resourceVersion,omitempty"` // only where neither Generation nor our entry tells
	Others          Hash      `json:"others"`                    // everybody else's entries, without status and scale
	Status          Hash      `json:"status"`                    // entries of Options.StatusManager
	Digest          [32]byte  `json:"digest"`                    // keyed digest of the desired object
}

// Fingerprint takes the fingerprint of r as applied by manager from a desired
// object with the given digest. It reports false if manager has no Apply entry
// where others have theirs. On kinds without managedFields nobody has; then the
// resource version is all there is to go by.
func (r Record) Fingerprint(manager string, digest [32]byte) (Fingerprint, bool) {
	ours, ok := r.applied(manager)
	f := Fingerprint{UID: r.UID, Ours: ours, Generation: r.Generation, Digest: digest}
	f.Others, f.Status = r.rest(manager)
	if r.Generation == 0 || !ok {
		f.ResourceVersion = r.ResourceVersion
	}
	return f, ok || len(r.Entries) == 0
}

// Sight says what r proves about an object whose fingerprint after our last
// apply was f.
//
// A standing entry of ours proves that no other request took or changed a field
// that we own, with one exception: a mutating webhook may change a value during
// somebody else's request and leave our entry as it was. Such a change moves the
// generation, or the resourceVersion of kinds without one, and makes us Unsure.
func (r Record) Sight(f Fingerprint, manager string) plan.Sight {
	ours, ok := r.applied(manager)
	switch {
	case r.UID == f.UID && f.Ours == Hash{} && len(r.Entries) == 0:
		return r.sameVersion(f)
	case r.UID != f.UID, !ok, ours != f.Ours:
		return plan.Drifted
	case r.Generation != f.Generation && !r.onlyStatus(f, manager):
		return plan.Unsure
	case r.Generation == 0 && r.ResourceVersion != f.ResourceVersion:
		return plan.Unsure
	}
	return plan.AsApplied
}

// sameVersion is all that can be said of an object without managedFields.
func (r Record) sameVersion(f Fingerprint) plan.Sight {
	if r.ResourceVersion != f.ResourceVersion {
		return plan.Unsure
	}
	return plan.AsApplied
}

// Ours returns the hash of manager's entry; the zero Hash if it has none.
func (r Record) Ours(manager string) Hash {
	h, _ := r.applied(manager)
	return h
}

// onlyStatus reports whether a move of the generation is explained by a write of
// status to a kind that has no subresource for it.
func (r Record) onlyStatus(f Fingerprint, manager string) bool {
	others, status := r.rest(manager)
	return others == f.Others && status != f.Status
}

// Foreign is a hash of what others own beside what we applied. inPlace: the kind has no
// subresource for status, so that what the manager of status owns is none of it; with
// other kinds that is a name like any other.
func (f Fingerprint) Foreign(inPlace bool) Hash {
	if inPlace {
		return f.Others
	}
	return f.Others.with(f.Status)
}

// rest hashes the entries that are not manager's own: everybody else's, and
// those of status. Who scales an object of which we own the replicas takes them from
// our entry; otherwise it is no business of ours.
func (r Record) rest(manager string) (others, status Hash) {
	for _, e := range r.Entries {
		switch {
		case e.Apply && e.Manager == manager, e.Scale:
		case e.Status:
			status = status.with(e.Hash)
		default:
			others = others.with(e.Hash)
		}
	}
	return others, status
}

// with adds a hash to a set of hashes; the order does not matter.
func (h Hash) with(other Hash) Hash {
	for i := range h {
		h[i] ^= other[i]
	}
	return h
}

// applied returns the hash of manager's Apply entry.
func (r Record) applied(manager string) (Hash, bool) {
	for _, e := range r.Entries {
		if e.Apply && e.Manager == manager {
			return e.Hash, true
		}
	}
	return Hash{}, false
}

// Others returns the managers other than ours that own fields, for messages.
func (r Record) Others(manager string) []string {
	var names []string
	for _, e := range r.Entries {
		if e.Manager != manager || !e.Apply {
			names = append(names, e.Manager)
		}
	}
	return names
}
