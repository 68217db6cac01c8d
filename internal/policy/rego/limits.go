package rego

import (
	"context"
	"errors"
	"math"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"time"

	"github.com/holdfastcd/holdfast/internal/fault"
)

const (
	// look is how often the memory in use is looked at.
	look = 10 * time.Millisecond
	// share is how much of the free memory, in percent, evaluation may hold. The
	// collector lets the heap grow by half between two of its runs, so that there is room
	// for one more.
	share = 55
	// patience is how long a rule by itself may take on one object, when it is looked for
	// what took all the time; and all of them may take searching.
	patience, searching = time.Second, 6 * time.Second
)

// watchMemory calls full once memory runs short: sooner than the worker's limit ends the
// process, so that a message can name the rule. It does nothing in a process that has no
// limit. The function that it returns ends the watch.
func watchMemory(full func()) func() {
	limit := debug.SetMemoryLimit(-1)
	if limit == math.MaxInt64 {
		return func() {}
	}
	first := live()
	most := first + max(limit-first, 0)*share/100
	done := make(chan struct{})
	go func() {
		ticker := time.NewTicker(look)
		defer ticker.Stop()
		for {
			select {
			case <-done:
				return
			case <-ticker.C:
				if live() > most {
					full()
					return
				}
			}
		}
	}()
	return func() { close(done) }
}

// live is the memory that the last run of the collector found in use.
func live() int64 {
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(sample)
	return int64(sample[0].Value.Uint64())
}

// culprit finds which rule took all the time or memory, by asking each of the unit again,
// and tells it.
func (r *run) culprit(ctx context.Context, reason error) error {
	what, too := "takes too long", "policies in Rego took longer than "+r.program.limit.String()+" together"
	if errors.Is(reason, errLarge) {
		what, too = "needs too much memory", "policies in Rego needed too much memory"
		runtime.GC()
	}
	s := r.stuck
	each, err := s.unit.each()
	if err != nil {
		each = nil
	}
	deadline := time.Now().Add(searching)
	for i := 0; i < len(each) && time.Now().Before(deadline); i++ {
		env, end := within(ctx, patience)
		env.inventory = r.inventory
		_, err := s.unit.run(env, each[i], s.input, &reply{})
		end()
		if !errors.Is(err, errStopped) {
			continue
		}
		rule := s.unit.rules[i]
		return fault.New(fault.Limit, "rule %s %s on %s", rule.title(), what, nameOf(s.of)).At(rule.file, rule.line)
	}
	return fault.New(fault.Limit, "%s; the last was on %s", too, nameOf(s.of))
}
