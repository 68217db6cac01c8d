package plan

import (
	"fmt"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/types"

	"github.com/holdfastcd/holdfast/internal/object"
)

// leaving is a delivery of n ConfigMaps, of which the first k left the source.
func leaving(n, k int) Input {
	in := Input{
		Owner: me, Prune: true, Profile: Profile{Brake: DefaultBrake(), AllowEmpty: true},
		Observe: func(id object.ID) Observed {
			return Observed{Sight: AsApplied, Owner: me, Digest: v1, UID: types.UID("uid of " + id.Name)}
		},
	}
	for i := range n {
		id := configMap(fmt.Sprintf("c%d", i))
		in.Inventory = append(in.Inventory, Entry{ID: id})
		if i >= k {
			in.Desired = append(in.Desired, Desired{ID: id, Digest: v1})
		}
	}
	return in
}

func count(p Plan, op Op) int {
	n := 0
	for _, a := range p.Actions() {
		if a.Op == op {
			n++
		}
	}
	return n
}

func plans(t *testing.T, in Input) Plan {
	t.Helper()
	p, err := Make(in)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestBrake(t *testing.T) {
	tests := []struct {
		reason      string
		all, gone   int
		held        int
		protected   bool // a Namespace leaves, too
		permissions func(*Input)
	}{
		{reason: "half may go", all: 10, gone: 5},
		{reason: "more than half may not", all: 10, gone: 6, held: 6},
		{reason: "a small delivery may lose all", all: 4, gone: 4},
		{reason: "five objects are not small", all: 5, gone: 3, held: 3},
		{reason: "a namespace takes everything in it with it", all: 4, gone: 1, protected: true, held: 1},
		{
			reason: "where nothing is pruned, nothing is held", all: 10, gone: 10,
			permissions: func(in *Input) { in.Prune = false },
		},
		{
			reason: "no brake", all: 10, gone: 10, protected: true,
			permissions: func(in *Input) { in.Profile.Brake = NoBrake() },
		},
		{
			reason: "what somebody confirmed before is no mass", all: 10, gone: 6,
			permissions: func(in *Input) { in.Cleared = func(object.ID) bool { return true } },
		},
	}
	for _, tc := range tests {
		in := leaving(tc.all, tc.gone)
		if tc.protected {
			in.Inventory = append(in.Inventory, Entry{ID: object.ID{Kind: "Namespace", Name: "apps"}})
		}
		if tc.permissions != nil {
			tc.permissions(&in)
		}
		p := plans(t, in)
		if n := count(p, Hold); n != tc.held || len(p.Held) != tc.held || (p.HeldDigest == "") != (tc.held == 0) {
			t.Errorf("%s: %d held, %v, digest %q", tc.reason, n, p.Held, p.HeldDigest)
		}
	}
}

func TestBrakeIsConfirmedByDigest(t *testing.T) {
	in := leaving(10, 6)
	p := plans(t, in)
	for _, a := range p.Actions() {
		if a.Op == Hold && !strings.Contains(a.Reason, ConfirmAnnotation+": "+p.HeldDigest) {
			t.Errorf("the reason does not say what to do: %s", a.Reason)
		}
	}
	in.Confirmed = p.HeldDigest
	if done := plans(t, in); count(done, Prune) != 6 || len(done.Confirmed) != 6 || done.Held != nil {
		t.Errorf("it was confirmed: %+v", done)
	}
	more := leaving(10, 7)
	more.Confirmed = p.HeldDigest
	if again := plans(t, more); count(again, Prune) != 0 {
		t.Error("a word for six objects does not do for seven")
	}
	anew := leaving(10, 6)
	anew.Confirmed = p.HeldDigest
	anew.Observe = func(id object.ID) Observed {
		return Observed{Sight: AsApplied, Owner: me, Digest: v1, UID: types.UID("another " + id.Name)}
	}
	if again := plans(t, anew); count(again, Prune) != 0 {
		t.Error("a word for objects that are gone does not do for others of their names")
	}
}
