package bucket

import (
	"context"
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/holdfastcd/holdfast/internal/audit"
	"github.com/holdfastcd/holdfast/internal/fault"
)

// lease is the right to write, held in the database: a name, and a beat that the holder
// has go up five times in the time of a takeover. Another process takes the log when it
// has seen the beat stand still for that long by its own clock; the holder acknowledges
// nothing once half of it has passed since it last knew that the claim was its own. No
// two clocks are compared.
type lease struct {
	db       Database
	takeover time.Duration

	mu    sync.Mutex
	claim Claim
	known time.Time // before the database last said that the claim is ours
	sure  bool      // that it has the beat that we know

	lost chan struct{}
	stop context.CancelFunc
	done sync.WaitGroup
}

var _ audit.Lease = (*lease)(nil)

// Own implements [audit.Store]. Who comes back with the same directory takes its own
// claim at once: the directory's lock says that the process before has ended.
func (s *Store) Own(ctx context.Context, dir string) (audit.Lease, error) {
	if s.o.Database == nil {
		return nil, fault.New(fault.Invalid, "the database of the audit log is not given").On(s.o.Where)
	}
	me, err := writer(filepath.Join(dir, "writer"))
	if err != nil {
		return nil, err
	}
	l := &lease{db: s.o.Database, takeover: s.o.Takeover, lost: make(chan struct{})}
	if err := l.acquire(ctx, me); err != nil {
		return nil, err
	}
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	l.stop = stop
	l.done.Go(func() { l.beat(running) })
	return l, nil
}

// writer is the name of who writes from a directory, made at the first time.
func writer(path string) (string, error) {
	text, err := os.ReadFile(filepath.Clean(path))
	if err == nil && len(text) > 0 {
		return strings.TrimSpace(string(text)), nil
	}
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		name := rand.Text()
		if err = os.WriteFile(path, []byte(name+"\n"), 0o600); err == nil {
			return name, nil
		}
	}
	return "", fault.New(fault.Internal, "%s", err).At(path, 0).WithHint("see to the directory of the audit log").Because(err)
}

// acquire waits until the claim is ours.
func (l *lease) acquire(ctx context.Context, me string) error {
	poll := time.NewTicker(l.takeover / 20)
	defer poll.Stop()
	var last Claim
	var since time.Time
	for {
		start := time.Now()
		seen, err := l.db.Claim(ctx)
		if err != nil && ctx.Err() != nil && !since.IsZero() {
			return l.waiting()
		}
		if err != nil {
			return err
		}
		if seen != last || since.IsZero() {
			last, since = seen, start
		}
		if seen.Holder == "" || seen.Holder == me || time.Since(since) > l.takeover {
			next := Claim{me, seen.Beat + 1}
			ok, err := l.db.Swap(ctx, seen, next)
			if err != nil {
				return err
			}
			if ok {
				l.claim, l.known, l.sure = next, start, true
				return nil
			}
		}
		select {
		case <-poll.C:
		case <-ctx.Done():
			return l.waiting()
		}
	}
}

// waiting is why the log is not ours yet.
func (l *lease) waiting() error {
	return fault.New(fault.Waiting, "another process writes to the audit log").
		WithHint("two controllers cannot share a log; wait for the other one to end, or for %s after it is gone", l.takeover)
}

// beat keeps the claim until it is lost.
func (l *lease) beat(ctx context.Context) {
	tick := time.NewTicker(l.takeover / 5)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if !l.renew(ctx) {
			close(l.lost)
			return
		}
	}
}

// renew has the beat go up; false if the claim is another's. What fails is tried again.
func (l *lease) renew(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, l.takeover/5)
	defer cancel()
	start := time.Now()
	next := Claim{l.claim.Holder, l.claim.Beat + 1}
	ok, err := l.db.Swap(ctx, l.claim, next)
	if err == nil && !ok && !l.sure {
		// The last answer was lost; what was asked for may have been done.
		var seen Claim
		if seen, err = l.db.Claim(ctx); err == nil {
			ok = seen == next
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.sure = false
		return true
	}
	if ok {
		l.claim, l.known, l.sure = next, start, true
	}
	return ok
}

// Err implements [audit.Lease].
func (l *lease) Err() error {
	select {
	case <-l.lost:
		return fault.New(fault.Waiting, "another process has taken the audit log").
			WithHint("two controllers cannot share a log: end one of them")
	default:
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if silent := time.Since(l.known); silent > l.takeover/2 {
		return fault.New(fault.Waiting, "the database of the audit log has not answered for %s: another process may have taken the log", silent.Round(time.Second)).
			WithHint("see to the database of the audit log")
	}
	return nil
}

// Lost implements [audit.Lease].
func (l *lease) Lost() <-chan struct{} { return l.lost }

// Close implements [audit.Lease].
func (l *lease) Close() error {
	l.stop()
	l.done.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), l.takeover/2)
	defer cancel()
	if _, err := l.db.Swap(ctx, l.claim, Claim{"", l.claim.Beat + 1}); err != nil {
		return err // the next one waits for the takeover
	}
	return nil
}
