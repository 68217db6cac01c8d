package worker

import (
	"context"
	"errors"
	"os"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/holdfastcd/holdfast/internal/fault"
)

// Options bound a pool and its workers. A zero field takes its default.
type Options struct {
	// Command starts a worker: a program's path and its arguments. The default
	// is this program with [Arg]. Nothing of the environment is passed on.
	Command []string
	// Size is how many jobs run at once; default the number of processors, at most 2.
	Size int
	// Patience is how long a job may wait for a worker before another one is
	// started beside those that are busy; none by default. A worker holds 30 MiB.
	Patience time.Duration
	// MemoryLimit is how many bytes a job may use; default 256 MiB. A worker
	// that needs more is ended.
	MemoryLimit int64
	// Deadline is how long a job may take; default 30 s.
	Deadline time.Duration
	// IdleAfter is how long a worker is kept without a job; default 30 s.
	IdleAfter time.Duration
	// Recycle is after how many jobs a worker is replaced; default 2000.
	Recycle int
	// KeepMemory is how many bytes a worker may hold after a job and still be
	// used again; default 96 MiB.
	KeepMemory int64
	// MaxFrame bounds the payload, each file and the result; default 72 MiB.
	MaxFrame int64
}

func (o Options) withDefaults() Options {
	def(&o.Size, min(runtime.GOMAXPROCS(0), 2))
	def(&o.MemoryLimit, 256<<20)
	def(&o.Deadline, 30*time.Second)
	def(&o.IdleAfter, 30*time.Second)
	def(&o.Recycle, 2000)
	def(&o.KeepMemory, 96<<20)
	def(&o.MaxFrame, 72<<20)
	return o
}

func def[T int | int64 | time.Duration](field *T, value T) {
	if *field <= 0 {
		*field = value
	}
}

// Pool runs jobs in workers. It starts them when they are needed and ends them
// when they are not; it has no goroutine of its own while it has no worker.
// It is safe for concurrent use.
type Pool struct {
	options Options
	slots   chan struct{} // one token for each job that runs, or is next

	mu      sync.Mutex
	free    []*process      // the one used last at the end, so that the others grow idle
	busy    int             // workers that start or have a job
	waiting []chan *process // those who are patient, the first to come first
	closed  bool
}

// NewPool returns a pool that has started nothing yet. [Pool.Close] ends it.
func NewPool(o Options) *Pool {
	o = o.withDefaults()
	return &Pool{options: o, slots: make(chan struct{}, o.Size)}
}

// ErrDeadline is the cause of the error of a job that took longer than the pool's
// deadline.
var ErrDeadline = errors.New("deadline")

// Do runs a job of this kind in a worker and returns the handler's result. The
// kind should read as the subject of a sentence ("rendering"): messages say
// "rendering took longer than 30s".
//
// Errors are *fault.Error: the handler's own; Limit, naming the limit, when the
// job was ended; Internal when a worker does not start or broke, or when ctx is
// done (ctx's error is the cause then).
func (p *Pool) Do(ctx context.Context, kind string, payload []byte, files Files) ([]byte, error) {
	if int64(len(payload)) > p.options.MaxFrame {
		return nil, fault.New(fault.Limit, "%s was given more than %d MiB", kind, p.options.MaxFrame>>20)
	}
	w, err := p.admit(ctx, kind)
	if err != nil {
		return nil, err
	}
	defer p.release()
	return p.run(ctx, w, kind, payload, files)
}

// admit waits for a slot and a worker, with patience from now on. Who got both
// releases the slot.
func (p *Pool) admit(ctx context.Context, kind string) (*process, error) {
	impatient := time.NewTimer(p.options.Patience)
	defer impatient.Stop()
	if !p.acquire(ctx) {
		return nil, cancelled(ctx, kind)
	}
	w, err := p.take(ctx, impatient.C)
	if err != nil {
		p.release()
	}
	return w, err
}

// acquire waits for a slot; false means that ctx is done and there is none.
func (p *Pool) acquire(ctx context.Context) bool {
	if ctx.Err() != nil { // select would take any of the ready cases
		return false
	}
	select {
	case p.slots <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

func (p *Pool) release() { <-p.slots }

// run does the job and puts the worker back, or ends it.
func (p *Pool) run(parent context.Context, w *process, kind string, payload []byte, files Files) ([]byte, error) {
	ctx, cancel := context.WithTimeoutCause(parent, p.options.Deadline, ErrDeadline)
	defer cancel()
	defer w.stderr.Reset()
	stop := context.AfterFunc(ctx, w.kill)
	if asks, ok := files.(Bounded); ok {
		asks.Within(ctx)
	}
	body, err := w.run(kind, payload, files, p.options)
	killed := !stop()
	own, isOwn := errors.AsType[*fault.Error](err)
	if isOwn && late(ctx) {
		err = own.Because(ErrDeadline) // a file that gives up at the deadline races with the kill
	}
	if !killed && (err == nil || isOwn) {
		p.put(w)
		return body, err
	}
	w.end()
	p.leave()
	switch {
	case err == nil || isOwn: // it was done just in time
		return body, err
	case killed && late(ctx):
		return nil, fault.New(fault.Limit, "%s took longer than %s", kind, p.options.Deadline).Because(ErrDeadline)
	case killed:
		return nil, cancelled(parent, kind)
	}
	return nil, w.autopsy(kind, err, p.options)
}

// late reports whether a job's context is over because of the pool's deadline.
func late(ctx context.Context) bool { return errors.Is(context.Cause(ctx), ErrDeadline) }

func cancelled(ctx context.Context, kind string) error {
	return fault.New(fault.Internal, "%s was cancelled", kind).Because(ctx.Err())
}

// take returns a free worker, one that becomes free while there is patience, or
// a new one.
func (p *Pool) take(ctx context.Context, impatient <-chan time.Time) (*process, error) {
	for {
		w, next, err := p.look()
		if err != nil {
			return nil, err
		}
		if next != nil {
			w = p.await(ctx, next, impatient)
		}
		if w == nil {
			return p.start(ctx)
		}
		if !w.ended() {
			return w, nil
		}
		w.end() // it died while it was idle
		p.leave()
	}
}

// look returns a free worker, which is busy then; or, if there are only busy
// ones and the pool is patient, where the next one that is free will come.
func (p *Pool) look() (free *process, next chan *process, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(p.free)
	switch {
	case p.closed:
		return nil, nil, fault.New(fault.Internal, "the workers have been shut down")
	case n > 0:
		free, p.free = p.free[n-1], p.free[:n-1]
		free.idle.Stop()
		p.busy++
	case p.busy > 0 && p.options.Patience > 0:
		next = make(chan *process, 1)
		p.waiting = append(p.waiting, next)
	}
	return free, next, nil
}

// await returns the worker that comes; nil if a new one has to be started.
func (p *Pool) await(ctx context.Context, next chan *process, impatient <-chan time.Time) *process {
	select {
	case w := <-next:
		return w
	case <-impatient:
	case <-ctx.Done():
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if i := slices.Index(p.waiting, next); i >= 0 {
		p.waiting = slices.Delete(p.waiting, i, i+1)
		return nil
	}
	return <-next // it came at the same moment
}

// leave notes that a worker is no more; who waits for one starts his own.
func (p *Pool) leave() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.busy--
	p.hand(nil)
}

// hand gives a worker, or the leave to start one, to who has waited longest. The
// caller holds the lock; false means that nobody waits.
func (p *Pool) hand(w *process) bool {
	if len(p.waiting) == 0 {
		return false
	}
	p.waiting[0] <- w
	p.waiting = slices.Delete(p.waiting, 0, 1)
	return true
}

// start starts a worker, which is busy then.
func (p *Pool) start(ctx context.Context) (*process, error) {
	if ctx.Err() != nil {
		return nil, cancelled(ctx, "starting a worker")
	}
	o := p.options
	if len(o.Command) == 0 {
		self, err := os.Executable()
		if err != nil {
			return nil, fault.New(fault.Internal, "this program does not find itself: %v", err)
		}
		o.Command = []string{self, Arg}
	}
	p.mu.Lock()
	p.busy++
	p.mu.Unlock()
	w, err := start(ctx, o)
	if err != nil {
		p.leave()
	}
	return w, err
}

// put keeps a worker for the next job, unless it is worn out.
func (p *Pool) put(w *process) {
	p.mu.Lock()
	if p.closed || w.jobs >= p.options.Recycle || w.memory > p.options.KeepMemory {
		p.mu.Unlock()
		w.end()
		p.leave()
		return
	}
	defer p.mu.Unlock()
	if p.hand(w) {
		return
	}
	p.busy--
	p.free = append(p.free, w)
	w.idle = time.AfterFunc(p.options.IdleAfter, func() { p.retire(w) })
}

// retire ends a worker that is still free.
func (p *Pool) retire(w *process) {
	p.mu.Lock()
	i := slices.Index(p.free, w)
	if i >= 0 {
		p.free = slices.Delete(p.free, i, i+1)
	}
	p.mu.Unlock()
	if i >= 0 {
		w.end()
	}
}

// Cage starts a worker, if none is free, and returns what is in force around
// it, in words. Errors are fault.Internal.
func (p *Pool) Cage(ctx context.Context) (string, error) {
	w, err := p.admit(ctx, "looking at the cage")
	if err != nil {
		return "", err
	}
	defer p.release()
	defer p.put(w)
	return w.cage, nil
}

// Close ends the free workers now and the busy ones after their job. Later jobs fail.
func (p *Pool) Close() {
	p.mu.Lock()
	free := p.free
	p.free, p.closed = nil, true
	p.mu.Unlock()
	for _, w := range free {
		w.idle.Stop()
		w.end()
	}
}
