package dialect

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/holdfastcd/holdfast/internal/delivery"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/plan"
)

// StillFetching is when to ask again for a source that takes long to fetch.
const StillFetching = 2 * time.Second

// AtOnce is the time after which a pass is due that asks for another without an event.
const AtOnce = time.Millisecond

// Settle turns the end of a pass, and when the next one is due by the clock (0:
// an event will bring it), into what the controller runtime is told. An object
// that changed since it was read is looked at again at once; the end of one that
// is gone is on its way. What comes by the clock is not urgent, whatever brought
// it here this time.
func Settle(after time.Duration, err error) (reconcile.Result, error) {
	switch {
	case apierrors.IsConflict(err):
		after, err = AtOnce, nil
	case apierrors.IsNotFound(err):
		err = nil
	}
	priority := int(Untouched)
	return reconcile.Result{RequeueAfter: after, Priority: &priority}, err
}

// Memories hold what is remembered of objects between their passes. The zero
// value is ready, and safe for concurrent use.
type Memories[T any] struct {
	mu sync.Mutex
	of map[types.NamespacedName]*T
}

// Of returns the memory of an object, a new one at first sight.
func (m *Memories[T]) Of(name types.NamespacedName) *T {
	m.mu.Lock()
	defer m.mu.Unlock()
	known, ok := m.of[name]
	if !ok {
		if m.of == nil {
			m.of = map[types.NamespacedName]*T{}
		}
		known = new(T)
		m.of[name] = known
	}
	return known
}

// Drop forgets an object and returns what was remembered; nil if nothing was.
func (m *Memories[T]) Drop(name types.NamespacedName) *T {
	m.mu.Lock()
	defer m.mu.Unlock()
	known := m.of[name]
	delete(m.of, name)
	return known
}

// Finding tells what a pass that only observed would do: to Observed, and in the
// log, with counts, if that is not what it said last. It returns what it says now.
func (e *Env) Finding(id delivery.ID, report delivery.Report, last string) string {
	if e.Observed != nil {
		e.Observed(id, report)
	}
	says := summary(report)
	args := []any{"delivery", id.String(), "would", says}
	if report.Err != nil {
		args = append(args, "error", report.Err.Error())
		says += ": " + report.Err.Error()
	}
	if says == last {
		return last
	}
	e.Log.Info("observed", args...)
	return says
}

// EndFinding withdraws what [Env.Finding] told of a resource that does not exist
// any more, or is not only observed.
func (e *Env) EndFinding(id delivery.ID) {
	if e.Observed != nil {
		e.Observed(id, delivery.Report{})
	}
}

// summary counts what a report would change: "2 create, 1 prune".
func summary(report delivery.Report) string {
	counts := map[string]int{}
	for _, o := range report.Objects {
		switch {
		case o.Outcome == delivery.Left && o.Op != "":
			counts[string(o.Op)]++
		case o.Outcome != delivery.Unchanged && o.Outcome != delivery.Exempt:
			counts[string(o.Outcome)]++
		}
	}
	if len(counts) == 0 {
		return "nothing"
	}
	parts := make([]string, 0, len(counts))
	for _, what := range slices.Sorted(maps.Keys(counts)) {
		parts = append(parts, strconv.Itoa(counts[what])+" "+what)
	}
	return strings.Join(parts, ", ")
}

// AnnotationConfirm confirms, on the resource of a delivery, the prunes that wait
// for a word: its value is the digest that the resource's condition names.
const AnnotationConfirm = plan.ConfirmAnnotation

// AnnotationStrict on the resource of a delivery, if "true", removes from its objects
// what others add to them.
const AnnotationStrict = "holdfast.dev/strict"

// Strict reads [AnnotationStrict] from a resource's annotations. It fails with Invalid
// for what is neither true nor false.
func Strict(annotations map[string]string) (bool, error) {
	switch v := annotations[AnnotationStrict]; v {
	case "true":
		return true, nil
	case "", "false":
		return false, nil
	default:
		return false, fault.New(fault.Invalid, "the annotation %s is %q", AnnotationStrict, clip(v)).WithHint("set it to \"true\" or \"false\"")
	}
}

func clip(s string) string { return s[:min(len(s), 40)] }

// Brake is what stops a delivery that would delete a lot.
func Brake() plan.Brake { return plan.DefaultBrake() }
