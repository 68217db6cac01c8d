package audit

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/holdfastcd/holdfast/internal/fault"
)

// later writes entries that nobody waits for, in order, and tries again what fails.
// They are held back for the next entry that somebody waits for, and are written in one
// batch with it: an intent right behind an outcome would else wait for two batches, the
// outcome's and its own.
type later struct {
	queue chan job
	quit  chan struct{} // closed: nothing is held back, and what fails is not tried again
	once  sync.Once
	done  chan struct{}
	mu    sync.RWMutex
	ended bool
	lost  int

	awaited  awaited
	released chan struct{} // an entry that somebody waits for took along what is held
}

type job struct {
	entry  Entry
	record *Record
}

// held is a job whose record is stored, and whose entry waits for others to be written with.
type held struct {
	job
	pending

	err error // why it is not on its way
}

// retryAfter is how long a failing disk is left alone, holdFor how long an entry is held back.
const (
	retryAfter = time.Second
	holdFor    = 100 * time.Millisecond
)

// Later writes e with its record soon, after what Later was given before. Nothing is
// lost before the process is killed: while the disk fails it is tried again, and once
// 8192 entries wait, callers wait too. After Close it does nothing. What e tells of a
// delivery, [Log.Last] knows at once.
func (l *Log) Later(e Entry, r *Record) {
	if e.Time.IsZero() {
		e.Time = l.o.Clock().UTC()
	}
	l.later.mu.RLock()
	defer l.later.mu.RUnlock()
	if l.later.ended {
		l.o.Log.Error("an entry came after the audit log was closed", "action", e.Action, "delivery", e.Delivery)
		return
	}
	j := job{e, r}
	l.later.awaited.begin(j)
	l.later.queue <- j
}

func (q *later) start(l *Log) {
	q.queue, q.quit, q.done = make(chan job, maxBacklog), make(chan struct{}), make(chan struct{})
	q.released = make(chan struct{}, 1)
	go q.run(l)
}

// stop writes what waits, and reports what could not be written.
func (q *later) stop() error {
	if q.queue == nil {
		return nil
	}
	q.once.Do(func() {
		close(q.quit)
		q.mu.Lock() // callers that wait for room are served first
		q.ended = true
		q.mu.Unlock()
		close(q.queue)
	})
	<-q.done
	if q.lost > 0 {
		return fault.New(fault.Internal, "%d entries of the audit log could not be written", q.lost)
	}
	return nil
}

// run writes batches until the queue is closed and empty.
func (q *later) run(l *Log) {
	defer close(q.done)
	var again []job
	for {
		batch := q.hold(l, again)
		if len(batch) == 0 {
			return
		}
		again = q.settle(l, batch)
	}
}

// hold returns the next batch, which is on its way, or none if there will be none. What
// is tried again goes at once; else it waits until an entry takes it along, until it is
// full or has waited long enough, or until one cannot be stored.
func (q *later) hold(l *Log, again []job) (batch []*held) {
	select {
	case <-q.released: // of the batch before
	default:
	}
	defer l.release()
	take := func(j job) (room bool) {
		batch = append(batch, l.holdBack(j))
		return len(batch) < batchSize && batch[len(batch)-1].err == nil
	}
	for _, j := range again {
		take(j)
	}
	var over <-chan time.Time
	for room := len(again) == 0; room; {
		if j, some := q.next(len(batch) == 0, over); some {
			room = take(j)
		} else {
			return batch
		}
		if over == nil {
			over = time.After(holdFor)
		}
	}
	return batch
}

// next waits for another job; false if the batch is to be written without one. The first
// job is waited for as long as there may be one.
func (q *later) next(first bool, over <-chan time.Time) (j job, some bool) {
	select { // what waits already comes along, whatever else there is
	case j, some = <-q.queue:
		return j, some
	default:
	}
	released, quit := q.released, q.quit
	if first {
		released, quit = nil, nil
	}
	select {
	case j, some = <-q.queue:
	case <-released:
	case <-over:
	case <-quit:
		j, some = <-q.queue // it is closed soon
	}
	return j, some
}

// holdBack stores the record of a job, and holds its entry.
func (l *Log) holdBack(j job) *held {
	h := &held{job: j}
	if h.pending, h.err = l.encode(context.Background(), j.entry, j.record); h.err != nil {
		return h
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held = append(l.held, h)
	return h
}

// release puts what is held on its way.
func (l *Log) release() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sendHeld()
}

// sendHeld is release for who has the lock.
func (l *Log) sendHeld() {
	for _, h := range l.held {
		if l.closed {
			h.err = errClosed
			continue
		}
		l.send(context.Background(), &h.pending)
	}
	l.held = nil
}

// settle waits until a batch is written, and returns what is to be tried again.
func (q *later) settle(l *Log, batch []*held) (again []job) {
	var last error
	for _, h := range batch {
		if h.err == nil {
			if got := <-h.done; !got.durable {
				h.err = got.err
			}
		}
		switch {
		case h.err == nil:
			q.awaited.end(h.job)
			continue
		case q.hopeless(h.err):
			q.lost++
			q.awaited.end(h.job)
			l.o.Log.Error("an entry of the audit log is lost", "action", h.job.entry.Action, "delivery", h.job.entry.Delivery, "err", h.err)
		default:
			again = append(again, h.job)
		}
		last = h.err
	}
	if len(again) > 0 {
		l.o.Log.Error("the audit log cannot be written; it is tried again", "entries", len(again), "err", last)
		select {
		case <-time.After(retryAfter):
		case <-q.quit:
		}
	}
	return again
}

// hopeless reports whether trying again is pointless: the entry itself is refused, or
// the log is being closed.
func (q *later) hopeless(err error) bool {
	select {
	case <-q.quit:
		return true
	default:
		return fault.KindOf(err) == fault.Limit
	}
}

// awaited are the outcomes that are on their way: what a delivery delivered last must
// not wait for the disk.
type awaited struct {
	mu   sync.Mutex
	jobs map[string]job // by delivery, the newest one
}

func (a *awaited) begin(j job) {
	if j.entry.Action != Outcome || j.entry.Of == nil || j.entry.Result != ResultDelivered {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.jobs == nil {
		a.jobs = map[string]job{}
	}
	a.jobs[j.entry.Delivery] = j
}

func (a *awaited) end(j job) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if known, ok := a.jobs[j.entry.Delivery]; ok && j.entry.Of != nil && *j.entry.Of == *known.entry.Of {
		delete(a.jobs, j.entry.Delivery)
	}
}

func (a *awaited) of(delivery string) (job, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	j, ok := a.jobs[delivery]
	return j, ok
}

// sharing gathers the deliveries that one commit leaves untouched into one entry.
type sharing struct {
	mu      sync.Mutex
	entries map[Source]*shared
	ended   bool
}

type shared struct {
	entry Entry
	bytes int
	timer *time.Timer
}

// Bounds of a shared entry, and of how many are gathered at a time.
const (
	maxSharedBytes = 24 << 10
	maxShared      = 256
)

// Untouched notes that the commit of src, in which who took part, changes nothing of
// a delivery. One entry tells it of all deliveries that are named in [Options.Gather];
// [Log.Last] knows it at once.
func (l *Log) Untouched(src Source, who []Person, delivery string) {
	if _, ok, err := l.Last(delivery); ok && err == nil {
		l.index.foresee(delivery, src)
	}
	s := &l.sharing
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return
	}
	g := s.entries[src]
	if g == nil {
		if len(s.entries) >= maxShared {
			s.flushAll(l)
		}
		g = s.begin(l, src, who)
	}
	if slices.Contains(g.entry.Deliveries, delivery) {
		return
	}
	g.entry.Deliveries = append(g.entry.Deliveries, delivery)
	if g.bytes += len(delivery) + 3; g.bytes >= maxSharedBytes {
		s.flush(l, src)
	}
}

func (s *sharing) begin(l *Log, src Source, who []Person) *shared {
	if s.entries == nil {
		s.entries = map[Source]*shared{}
	}
	g := &shared{entry: Entry{Time: l.o.Clock().UTC(), Action: Untouched, Source: &src, Who: who}}
	g.timer = time.AfterFunc(l.o.Gather, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.entries[src] == g {
			s.flush(l, src)
		}
	})
	s.entries[src] = g
	return g
}

// flush sends one entry on its way.
func (s *sharing) flush(l *Log, src Source) {
	g := s.entries[src]
	g.timer.Stop()
	delete(s.entries, src)
	l.Later(g.entry, nil)
}

func (s *sharing) flushAll(l *Log) {
	for src := range s.entries {
		s.flush(l, src)
	}
}

func (s *sharing) stop(l *Log) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	s.flushAll(l)
}
