package dialect_test

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/holdfastcd/holdfast/internal/delivery"
	"github.com/holdfastcd/holdfast/internal/dialect"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/plan"
)

func TestSettle(t *testing.T) {
	thing := schema.GroupResource{Resource: "things"}
	other := errors.New("other")
	for _, tc := range []struct {
		reason string
		err    error
		after  time.Duration
		want   error
	}{
		{"done", nil, time.Minute, nil},
		{"it has moved", apierrors.NewConflict(thing, "x", nil), time.Millisecond, nil},
		{"it is gone", apierrors.NewNotFound(thing, "x"), time.Minute, nil},
		{"something else", other, time.Minute, other},
	} {
		got, err := dialect.Settle(time.Minute, tc.err)
		if got.RequeueAfter != tc.after || !errors.Is(err, tc.want) || got.Priority == nil || *got.Priority != int(dialect.Untouched) {
			t.Errorf("%s: got %+v, %v", tc.reason, got, err)
		}
	}
}

func TestMemories(t *testing.T) {
	var m dialect.Memories[int]
	name := types.NamespacedName{Name: "x"}
	*m.Of(name) = 7
	if got := *m.Of(name); got != 7 {
		t.Errorf("got %d", got)
	}
	if got := m.Drop(name); got == nil || *got != 7 {
		t.Errorf("dropped %v", got)
	}
	if got := m.Drop(name); got != nil || *m.Of(name) != 0 {
		t.Errorf("it was not dropped: %v", got)
	}
}

// What is observed is told every time, and logged when it changes.
func TestFinding(t *testing.T) {
	var log bytes.Buffer
	told := 0
	env := &dialect.Env{Log: slog.New(slog.NewTextHandler(&log, nil)), Observed: func(delivery.ID, delivery.Report) { told++ }}
	id := delivery.ID{Kind: "Kustomization", Namespace: "apps", Name: "web"}
	report := delivery.Report{Objects: []delivery.Object{
		{Outcome: delivery.Left, Op: plan.Create}, {Outcome: delivery.Left, Op: plan.Create}, {Outcome: delivery.Left, Op: plan.Prune}, {Outcome: delivery.Unchanged},
	}}
	last := env.Finding(id, report, "")
	last = env.Finding(id, report, last)
	if last != "2 create, 1 prune" || strings.Count(log.String(), "\n") != 1 || told != 2 {
		t.Errorf("says %q, told %d, log:\n%s", last, told, log.String())
	}
	last = env.Finding(id, delivery.Report{}, last)
	last = env.Finding(id, delivery.Report{Err: fault.New(fault.Invalid, "a.yaml is broken")}, last)
	if last != "nothing: a.yaml is broken" || !strings.Contains(log.String(), "a.yaml is broken") {
		t.Errorf("says %q, log:\n%s", last, log.String())
	}
}
