package dialect_test

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/controller/priorityqueue"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/holdfastcd/holdfast/internal/dialect"
)

func object(name string) types.NamespacedName { return types.NamespacedName{Name: name} }

// triggered is a trigger with a queue, and who works on what is in it.
type triggered struct {
	dialect.Trigger
	queue priorityqueue.PriorityQueue[reconcile.Request]
}

func newTriggered(t *testing.T) *triggered {
	t.Helper()
	tr := &triggered{queue: priorityqueue.New[reconcile.Request](t.Name())}
	if err := tr.Start(t.Context(), tr.queue); err != nil {
		t.Fatal(err)
	}
	return tr
}

// queued takes everything that is in the queue now.
func (tr *triggered) queued() []string {
	synctest.Wait()
	var names []string
	for range tr.queue.Len() {
		request, _ := tr.queue.Get()
		tr.queue.Done(request)
		names = append(names, request.Name)
	}
	return names
}

func (tr *triggered) want(t *testing.T, reason string, want ...string) {
	t.Helper()
	if got := tr.queued(); !slices.Equal(got, want) {
		t.Errorf("%s: queued are %v, want %v", reason, got, want)
	}
}

// judged is what a commit means to objects, in the order in which they are judged.
func judged(priorities map[string]dialect.Priority) func(func(types.NamespacedName, dialect.Priority) bool) {
	return func(yield func(types.NamespacedName, dialect.Priority) bool) {
		for _, name := range []string{"a", "b", "c", "d"} {
			if p, ok := priorities[name]; ok && !yield(object(name), p) {
				return
			}
		}
	}
}

// What a commit changes is done before what it leaves alone begins: else idle workers
// would have the API server write statuses while it is rendered.
func TestWhatIsChangedGoesFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := newTriggered(t)
		defer tr.queue.ShutDown()
		commit := judged(map[string]dialect.Priority{"a": dialect.Untouched, "b": dialect.Touched, "c": dialect.Untouched, "d": dialect.Touched})
		tr.AddAll(commit)
		tr.want(t, "a commit changes two of four", "b", "d")
		tr.Settled(object("d"))
		tr.want(t, "one of them is done")
		tr.AddAll(judged(map[string]dialect.Priority{"a": dialect.Untouched, "b": dialect.Untouched, "d": dialect.Untouched}))
		tr.want(t, "the next commit changes nothing, but the one before is not through")
		tr.Settled(object("b"))
		tr.want(t, "both are done", "a", "c", "b", "d")
		tr.AddAll(judged(map[string]dialect.Priority{"a": dialect.Untouched, "b": dialect.Normal}))
		tr.want(t, "a commit that changes nothing holds nothing up", "b", "a")
	})
}

// What takes long to change keeps nobody from telling the new revision for long.
func TestWhatIsLeftAloneWaitsASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := newTriggered(t)
		defer tr.queue.ShutDown()
		tr.AddAll(judged(map[string]dialect.Priority{"a": dialect.Untouched, "b": dialect.Touched}))
		tr.want(t, "at first", "b")
		time.Sleep(time.Second - time.Nanosecond)
		tr.want(t, "before the second is over")
		time.Sleep(time.Nanosecond)
		tr.want(t, "after a second", "a")
		tr.Settled(object("b"))
		tr.want(t, "the end of what took long")
		tr.AddAll(judged(map[string]dialect.Priority{"a": dialect.Untouched}))
		tr.want(t, "it is not waited for again", "a")
	})
}
