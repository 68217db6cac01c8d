package trust_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/trust"
)

func TestPoliciesThatRefuseAreKnownByValue(t *testing.T) {
	demands := trust.Demands{Policies: []trust.Policy{{Name: "audits", Audit: true}, {Name: "images"}, {Name: "signed"}}}
	refused := fault.New(fault.Refused, "policy images says no")
	below := errors.New("below")
	for _, tc := range []struct {
		reason string
		err    error
		want   []string
	}{
		{"the one that refuses is told", refused.Because(trust.RefusedError{"signed"}), []string{"signed"}},
		{"what is below does not hide it", refused.Because(errors.Join(trust.RefusedError{"signed"}, below)), []string{"signed"}},
		{"it is about all", refused.Because(trust.RefusedError{}), []string{"images", "signed"}},
		{"what is in a text counts for nothing", refused.Because(below), []string{"images", "signed"}},
	} {
		if got := demands.Refusing(tc.err); !slices.Equal(got, tc.want) {
			t.Errorf("%s: got %v, want %v", tc.reason, got, tc.want)
		}
	}
}
