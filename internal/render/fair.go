package render

import (
	"context"
	"errors"
	"sync"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/tree"
	"github.com/holdfastcd/holdfast/internal/worker"
)

// Fair keeps renderings that take long from holding up those that do not: what
// does not end within the quick renderer's deadline moves to the patient one, where
// there is one rendering at a time and nobody queues. So a tenant whose programs
// never end costs the others a few seconds for each of them, once.
type Fair struct {
	quick, patient Renderer
	turn           chan struct{} // of the one that takes long

	mu   sync.Mutex
	long map[string]struct{} // scopes whose last rendering took long
}

// maxLong bounds what is remembered; forgetting it costs seconds.
const maxLong = 10_000

// ErrTurn is the cause of the error of a rendering that has to wait for its turn.
var ErrTurn = errors.New("another long rendering is under way")

// NewFair returns a renderer over two whose deadlines differ.
func NewFair(quick, patient Renderer) *Fair {
	return &Fair{quick: quick, patient: patient, turn: make(chan struct{}, 1), long: map[string]struct{}{}}
}

// In returns the renderer of one scope, which is a delivery. Besides the errors of
// [Renderer] it returns Waiting with [ErrTurn].
func (f *Fair) In(scope string) Renderer { return &turns{f, scope} }

// turns is the part of a Fair that belongs to one scope.
type turns struct {
	fair  *Fair
	scope string
}

// Render implements [Renderer].
func (s *turns) Render(ctx context.Context, req Request, t tree.Tree) (Result, error) {
	if !s.fair.takesLong(s.scope) {
		result, err := s.fair.quick.Render(ctx, req, t)
		if !errors.Is(err, worker.ErrDeadline) {
			return result, err
		}
		s.fair.note(s.scope, true)
	}
	select {
	case s.fair.turn <- struct{}{}:
		defer func() { <-s.fair.turn }()
	default:
		return Result{}, fault.New(fault.Waiting, "it takes long to render, and another one that does is being rendered").Because(ErrTurn)
	}
	result, err := s.fair.patient.Render(ctx, req, t)
	if err == nil {
		s.fair.note(s.scope, false)
	}
	return result, err
}

func (f *Fair) takesLong(scope string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, long := f.long[scope]
	return long
}

func (f *Fair) note(scope string, long bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !long {
		delete(f.long, scope)
		return
	}
	if len(f.long) >= maxLong {
		clear(f.long)
	}
	f.long[scope] = struct{}{}
}
