package audit

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/holdfastcd/holdfast/internal/fault"
)

// later writes entries in the background, in order, and tries again what fails.
type later struct {
	queue chan job
	quit  chan struct{} // closed: what fails is not tried again
	once  sync.Once
	done  chan struct{}
	mu    sync.RWMutex
	ended bool
	lost  int
}

type job struct {
	entry  Entry
	record *Record
}

// retryAfter is how long a failing disk is left alone.
const retryAfter = time.Second

// Later writes e with its record soon, after what Later was given before. Nothing is
// lost before the process is killed: while the disk fails it is tried again, and once
// 8192 entries wait, callers wait too. After Close it does nothing.
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
	l.later.queue <- job{e, r}
}

func (q *later) start(l *Log) {
	q.queue, q.quit, q.done = make(chan job, maxBacklog), make(chan struct{}), make(chan struct{})
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
	var batch []job
	for {
		if len(batch) == 0 {
			j, ok := <-q.queue
			if !ok {
				return
			}
			batch = append(batch, j)
		}
		batch = q.gather(batch)
		batch = q.write(l, batch)
	}
}

// gather adds what waits already.
func (q *later) gather(batch []job) []job {
	for len(batch) < batchSize {
		select {
		case j, ok := <-q.queue:
			if !ok {
				return batch
			}
			batch = append(batch, j)
		default:
			return batch
		}
	}
	return batch
}

// write writes a batch and returns what is to be tried again.
func (q *later) write(l *Log, batch []job) []job {
	sent := make([]pending, len(batch))
	fails := make([]error, len(batch))
	for i, j := range batch {
		sent[i], fails[i] = l.submit(context.Background(), j.entry, j.record)
	}
	var again []job
	var last error
	for i, j := range batch {
		if fails[i] == nil {
			fails[i] = (<-sent[i].done).err
		}
		if err := fails[i]; err != nil {
			if !q.hopeless(err) {
				again = append(again, j)
			} else {
				q.lost++
				l.o.Log.Error("an entry of the audit log is lost", "action", j.entry.Action, "delivery", j.entry.Delivery, "err", err)
			}
			last = err
		}
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
