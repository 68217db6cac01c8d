package plan

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/holdfastcd/holdfast/internal/object"
)

// ConfirmAnnotation is where people put the digest of the prunes that they
// confirm, on the resource that asks for a delivery.
const ConfirmAnnotation = "holdfast.dev/confirm-prune"

// Brake stops plans that would delete a lot at once, until somebody confirms.
type Brake struct {
	// Share is the part of a delivery's inventory, in percent, beyond which a
	// prune waits for a word; 0: no brake. A delivery of fewer than Least objects has none.
	Share, Least int
	// Protected are kinds of which every prune waits for a word.
	Protected []schema.GroupKind
}

// DefaultBrake is the brake of deliveries that ask for none of their own: more
// than half of at least five objects, and whatever takes other objects or data
// with it.
func DefaultBrake() Brake {
	return Brake{Share: 50, Least: 5, Protected: Precious()}
}

// Precious are the kinds of which a deletion takes other things with it that nobody
// can create again.
func Precious() []schema.GroupKind {
	return []schema.GroupKind{
		{Kind: "Namespace"},
		{Kind: "PersistentVolume"},
		{Kind: "PersistentVolumeClaim"},
		{Group: "apiextensions.k8s.io", Kind: "CustomResourceDefinition"},
	}
}

// NoBrake lets everything go.
func NoBrake() Brake { return Brake{Share: 100} }

// IsZero reports whether b says nothing.
func (b Brake) IsZero() bool { return b.Share == 0 && b.Least == 0 && b.Protected == nil }

// brake turns prunes that nobody has confirmed into holds. It returns which prunes
// need a word, the digest of that, and whether the word was given.
func brake(in Input, gone []Action) (ids []object.ID, digest string, confirmed bool) {
	held := in.Profile.Brake.stops(in, gone)
	if len(held) == 0 {
		return nil, "", false
	}
	for _, a := range held {
		ids = append(ids, a.ID)
	}
	digest = heldDigest(held)
	confirmed = digest == in.Confirmed
	for _, a := range held {
		if !confirmed {
			a.Op = Hold
			a.Reason = fmt.Sprintf("%s; to confirm, set the annotation %s: %s", a.Reason, ConfirmAnnotation, digest)
		}
	}
	return ids, digest, confirmed
}

// stops returns the prunes that need a word, with the reason for it.
func (b Brake) stops(in Input, gone []Action) []*Action {
	var prunes, held []*Action
	for i := range gone {
		if a := &gone[i]; a.Op == Prune && (in.Cleared == nil || !in.Cleared(a.ID)) {
			prunes = append(prunes, a)
		}
	}
	all := len(in.Inventory)
	mass := b.Share > 0 && all >= b.Least && len(prunes)*100 > b.Share*all
	for _, a := range prunes {
		switch {
		case slices.Contains(b.Protected, a.ID.GroupKind()):
			a.Reason = "it left the source, and a " + a.ID.Kind + " is deleted only when somebody confirms"
		case mass:
			a.Reason = fmt.Sprintf("it left the source together with %d of the %d objects of the delivery", len(prunes), all)
		default:
			continue
		}
		held = append(held, a)
	}
	slices.SortFunc(held, func(a, b *Action) int { return object.Compare(a.ID, b.ID) })
	return held
}

// heldDigest names a set of objects, and not others that may bear their names later.
func heldDigest(held []*Action) string {
	h := sha256.New()
	for _, a := range held {
		for _, s := range []string{a.ID.Group, a.ID.Kind, a.ID.Namespace, a.ID.Name, cmp.Or(string(a.Observed.UID), "-")} {
			fmt.Fprintf(h, "%d:%s", len(s), s)
		}
	}
	return hex.EncodeToString(h.Sum(nil)[:6])
}
