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
	// share is how much of the free memory, in percent, evaluation may hold; full is at
	// how much of all memory the collector runs whatever it was told, so that more is
	// seen while there is room.
	share, full = 55, 75
	// patience is how long a rule by itself may take on one object, when it is looked for
	// what took all the time; and all of them may take searching.
	patience, searching = time.Second, 6 * time.Second
)

// watchMemory calls short once memory runs short: sooner than the worker's limit ends the
// process, so that a message can name the rule. It does nothing in a process that has no
// limit. The function that it returns ends the watch.
func watchMemory(short func()) func() {
	limit := debug.SetMemoryLimit(-1)
	if limit == math.MaxInt64 {
		return func() {}
	}
	debug.SetMemoryLimit(limit / 100 * full)
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
					short()
					return
				}
			}
		}
	}()
	return func() {
		close(done)
		debug.SetMemoryLimit(limit)
	}
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
	var rules []int
	each, err := s.unit.each()
	if err == nil {
		rules = s.unit.members(s.sets)
	}
	deadline := time.Now().Add(searching)
	for _, i := range rules {
		if time.Now().After(deadline) {
			break
		}
		env, end := within(ctx, patience)
		env.inventory = r.inventory
		_, err := s.unit.run(env, &each, each.only([]int{i}), s.input, &reply{})
		end()
		if !errors.Is(err, errStopped) {
			continue
		}
		rule := &s.unit.rules[i]
		return fault.New(fault.Limit, "rule %s %s on %s", rule.title(), what, nameOf(s.of)).At(rule.file, rule.line)
	}
	return fault.New(fault.Limit, "%s; the last was on %s", too, nameOf(s.of))
}
