package plan

import (
	"testing"

	"github.com/holdfastcd/holdfast/internal/object"
)

// TestLoose: what is made where it is missing is nobody's, and left alone; but nothing
// is sent into a namespace that goes.
func TestLoose(t *testing.T) {
	namespace := object.ID{Kind: "Namespace", Name: "apps"}
	tests := map[string]struct {
		reason string
		seen   Observed
		want   Op
	}{
		"missing":          {"it is made", Observed{Sight: Absent}, Create},
		"there":            {"whoever made it", Observed{Sight: Unsure}, Keep},
		"another's":        {"it is not asked for as an object", Observed{Sight: Unsure, Owner: "Application/argocd/other"}, Keep},
		"going":            {"what is sent into it would be refused", Observed{Sight: Unsure, Deleting: true}, Await},
		"another's, going": {"it comes back for all of them", Observed{Sight: Unsure, Owner: "Application/argocd/other", Deleting: true}, Await},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			p, err := Make(Input{
				Owner:   me,
				Desired: []Desired{{ID: namespace, Digest: v1, Loose: true}},
				Observe: func(object.ID) Observed { return tc.seen },
				Alive:   func(string) bool { return true },
			})
			if err != nil {
				t.Fatal(err)
			}
			if got := p.Actions()[0].Op; got != tc.want {
				t.Errorf("%s: got %s, want %s", tc.reason, got, tc.want)
			}
		})
	}
}
