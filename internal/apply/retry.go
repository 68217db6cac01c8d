package apply

import (
	"context"
	"errors"
	"time"

	"github.com/holdfastcd/holdfast/internal/cluster"
	"github.com/holdfastcd/holdfast/internal/fault"
)

// Delays between tries: 0.1 s, 0.3 s, 0.9 s, each between half and all of it.
const (
	firstDelay = 100 * time.Millisecond
	factor     = 3
	maxDelay   = 5 * time.Second
)

// try calls f until it succeeds, fails for good, or has had its tries. All
// requests may be repeated: an apply says the same twice, and a delete carries
// what it expects to find.
func (e *executor) try(ctx context.Context, f func() error) error {
	delay := firstDelay
	for n := 1; ; n++ {
		err := f()
		if err == nil || n >= e.Attempts || !passing(err) {
			return err
		}
		wait := max(time.Duration(float64(delay)*(1+e.Jitter())/2), cluster.RetryAfter(err))
		if wait > maxDelay || e.Sleep(ctx, wait) != nil {
			return err
		}
		delay *= factor
	}
}

// passing reports failures that a moment may mend: no answer, a busy or failing
// API server, a kind that was established only just now, an object that somebody
// changed at the same time. A request that ran into its deadline has waited enough.
func passing(err error) bool {
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return false
	case errors.Is(err, cluster.ErrNotServed), errors.Is(err, cluster.ErrChanged):
		return true
	}
	return fault.KindOf(err) == fault.Unreachable
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
