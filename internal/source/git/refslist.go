package git

import (
	"context"
	"io"
	"sync"
	"time"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/source"
)

const (
	// shortList is how much of a list of refs may be read before its turn: some
	// 10,000 of them. A ref takes four times its length in memory.
	shortList = 1 << 20
	// listTime is how long a server may take to send the rest.
	listTime = 20 * time.Second
)

// refsList is what a server is sending of its refs. A large one is read in its turn,
// so that there is one of them in memory, whatever many servers send; and in some
// time, because others wait. The methods do nothing on a nil refsList.
type refsList struct {
	turns *source.Turns
	ctx   context.Context //nolint:containedctx // of the one fetch that this is part of

	mu   sync.Mutex
	read int64
	give func()
	stop *time.Timer
	err  error
}

// grow counts what was read from body, and waits for a turn when it is much. body is
// closed when the turn is over.
func (l *refsList) grow(n int64, body io.Closer) error {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	l.read += n
	wait := l.read > shortList && l.give == nil
	l.mu.Unlock()
	if !wait {
		return l.failed()
	}
	give, err := l.turns.Take(l.ctx, tenantOf(l.ctx))
	if err != nil {
		return l.fail(err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.give = give
	l.stop = time.AfterFunc(listTime, func() {
		_ = l.fail(fault.New(fault.Limit, "the Git server took more than %s to name its branches and tags, of which there are many", listTime))
		_ = body.Close()
	})
	return nil
}

// leave gives the turn back.
func (l *refsList) leave() {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.give != nil {
		l.stop.Stop()
		l.give()
	}
	l.read, l.give = 0, nil
}

// fail notes and returns what is wrong, because whoever decodes the list hides it.
func (l *refsList) fail(err error) error {
	if l == nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil {
		l.err = err
	}
	return l.err
}

func (l *refsList) failed() error {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}
