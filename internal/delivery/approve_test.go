package delivery_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/holdfastcd/holdfast/internal/audit"
	"github.com/holdfastcd/holdfast/internal/delivery"
)

// TestApprovals has prunes wait for a word, and looks for who gave it: never the
// author of the commit that dropped the objects.
func TestApprovals(t *testing.T) {
	tests := map[string]struct {
		reason string
		brake  bool // the word is the digest of what is held back
		spec   func(*delivery.Spec)
		want   string // of the entry's reason
	}{
		"brake":    {"most of a delivery goes", true, func(*delivery.Spec) {}, "the prune of 5 objects was confirmed by "},
		"dialect":  {"the dialect held it back", false, func(s *delivery.Spec) { s.Approval = "deletion-approved: today" }, "the prune of 1 objects was confirmed by deletion-approved: today"},
		"no need":  {"a small prune waits for nobody", false, func(*delivery.Spec) {}, ""},
		"no prune": {"a word that nothing waited for is no approval", false, func(s *delivery.Spec) { s.Approval, s.Prune = "deletion-approved: today", false }, ""},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			w := newTrusted(t)
			docs := make([]string, 6)
			for i := range docs {
				docs[i] = config(fmt.Sprintf("c%d", i), "x")
			}
			w.push(first, docs...)
			w.until("delivery", applied)
			w.log.told()
			w.spec.ApprovedBy = []audit.Person{{Role: audit.RoleApprover, Name: "kubectl-annotate"}}
			tc.spec(&w.spec)
			if tc.brake {
				w.push(second, docs[0])
				w.spec.Confirmed = w.pass().HeldDigest
				same(t, "what waits is no decision", 0, len(w.log.told()))
			} else {
				w.push(second, docs[1:]...)
			}
			w.until("the prune", applied)
			at := slices.IndexFunc(w.log.entries, func(e audit.Entry) bool { return e.Action == audit.Approve })
			if tc.want == "" {
				same(t, tc.reason, -1, at)
				return
			}
			same(t, tc.reason+": the approval is recorded before what it permits", 0, at)
			same(t, "who has approved, and nobody else", w.spec.ApprovedBy, w.log.entries[at].Who)
			if reason := w.log.entries[at].Reason; !strings.HasPrefix(reason, tc.want) || !strings.Contains(reason, w.spec.Confirmed) || !strings.Contains(reason, "ConfigMap") {
				t.Errorf("%s: the reason names the word and the objects: %q", tc.reason, reason)
			}
		})
	}
}
