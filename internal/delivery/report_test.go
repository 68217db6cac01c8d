package delivery

import (
	"testing"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/health"
	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/plan"
)

func TestDegradedWaveFailsByName(t *testing.T) {
	second := 1
	degraded := &health.Verdict{Status: health.Degraded, Message: "deadline"}
	id := object.ID{Group: "apps", Kind: "Deployment", Namespace: "shop", Name: "web"}
	tests := map[string]struct {
		reason string
		before *int
		object Object
		want   string
	}{
		"degraded":       {"it will not become healthy by itself", &second, Object{ID: id, Desired: true, Health: degraded}, "Deployment.apps/shop/web: the objects after wave 0 are not sent: it is degraded: deadline"},
		"the last wave":  {"nothing waits for it", &second, Object{ID: id, Desired: true, Health: degraded, Wave: 1}, ""},
		"nothing new":    {"nothing waits at all", nil, Object{ID: id, Desired: true, Health: degraded}, ""},
		"on its way":     {"it may still become healthy", &second, Object{ID: id, Desired: true, Health: &health.Verdict{Status: health.Progressing}}, ""},
		"unjudged":       {"it asks not to count", &second, Object{ID: id, Desired: true, Health: degraded, Unjudged: true}, ""},
		"a leftover":     {"it is not waited for", &second, Object{ID: id, Health: degraded}, ""},
		"without health": {"there is nothing to wait for", &second, Object{ID: id, Desired: true}, ""},
	}
	for name, tc := range tests {
		got := sick(plan.Plan{HealthyBefore: tc.before}, []Object{tc.object})
		switch {
		case tc.want == "" && got != nil, tc.want != "" && got == nil:
			t.Errorf("%s: %s: got %v", name, tc.reason, got)
		case got != nil && (got.Error() != tc.want || got.Kind != fault.Rejected):
			t.Errorf("%s: %s: got %s %s", name, tc.reason, got.Kind, got)
		}
	}
}
