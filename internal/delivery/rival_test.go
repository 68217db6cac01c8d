package delivery

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfastcd/holdfast/internal/cluster"
	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/plan"
)

// Two deliveries find an object absent and make it at the same moment. Whoever's mark
// is written over is told, whichever of them the object's events go to.
func TestRivalsAreTold(t *testing.T) {
	o := object.ID{Kind: "ConfigMap", Namespace: "shop", Name: "web"}
	first, second := ID{Kind: "Application", Namespace: "argocd", Name: "first"}, ID{Kind: "Application", Namespace: "argocd", Name: "second"}
	var told []string
	e := &Engine{states: map[ID]*state{}, named: map[string]*state{}, owners: map[object.ID]*state{}, rivals: rivals{}}
	e.OnEvent(func(id ID) { told = append(told, id.Name) })
	states := map[ID]*state{}
	for _, id := range []ID{first, second} {
		states[id] = &state{id: id, claims: map[object.ID]struct{}{}}
		e.states[id] = states[id]
		e.claim(states[id], []plan.Desired{{ID: o}}, nil)
	}
	mark := func(owner ID) func() {
		return func() { e.dispatch(cluster.Event{ID: o, Record: cluster.Record{Owner: owner.String()}}) }
	}
	for _, tc := range []struct {
		reason string
		do     func()
		want   []string
	}{
		{"the second's write came first: both look", mark(second), []string{"first", "second"}},
		{"the first wrote over it: the second must know", mark(first), []string{"first", "second"}},
		{"what happens to it from now on is the first's alone", mark(first), []string{"first"}},
		{"nor does its end concern the second, which would race to make it", func() { e.dispatch(cluster.Event{ID: o, Gone: true}) }, []string{"first"}},
		{"the second does not want it any more", func() { e.claim(states[second], nil, nil); mark(second)() }, []string{"first"}},
	} {
		told = nil
		tc.do()
		if diff := cmp.Diff(tc.want, told); diff != "" {
			t.Errorf("%s: %s", tc.reason, diff)
		}
	}
	if len(e.rivals) != 0 {
		t.Errorf("left behind: %v", e.rivals)
	}
}
