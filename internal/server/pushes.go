package server

import (
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/holdfastcd/holdfast/internal/source"
)

// Bounds on what webhooks cause. A branch is refreshed at once for the first
// few pushes, then at a steady pace; what comes in between joins the next turn.
const (
	refreshPace  = 5 // a second, for one branch
	refreshBurst = 40
	maxBranches  = 256 // told about lately, or waiting
)

// rested is when a limiter is as good as new.
const rested = refreshBurst / refreshPace * time.Second

// pushes tells refreshers about pushes, no more often than they can bear.
type pushes struct {
	to  []Refresher
	now func() time.Time

	mu       sync.Mutex
	branches map[branch]*pace
}

type branch struct{ url, name string } // url normalised

type pace struct {
	limit   *rate.Limiter
	waiting bool
	last    time.Time
}

func newPushes(to []Refresher, now func() time.Time) *pushes {
	return &pushes{to: to, now: now, branches: map[branch]*pace{}}
}

// tell passes a push on, now or soon. It reports false if there are too many
// different ones to remember.
func (p *pushes) tell(push push) bool {
	taken := true
	for _, url := range push.urls {
		taken = p.one(url, push.branch) && taken
	}
	return taken
}

func (p *pushes) one(url, name string) bool {
	now := p.now()
	key := branch{source.NormalizeURL(url), name}
	p.mu.Lock()
	b := p.find(key, now)
	if b == nil {
		p.mu.Unlock()
		return false
	}
	if b.waiting {
		p.mu.Unlock()
		return true
	}
	delay := b.limit.ReserveN(now, 1).DelayFrom(now)
	b.waiting, b.last = delay > 0, now.Add(delay)
	p.mu.Unlock()
	if delay == 0 {
		p.refresh(url, name)
		return true
	}
	time.AfterFunc(delay, func() {
		p.mu.Lock()
		b.waiting = false
		p.mu.Unlock()
		p.refresh(url, name)
	})
	return true
}

// find returns the pace of a branch; nil if there is no room for another one.
func (p *pushes) find(key branch, now time.Time) *pace {
	if b, ok := p.branches[key]; ok {
		return b
	}
	if len(p.branches) >= maxBranches {
		for k, b := range p.branches {
			if !b.waiting && now.Sub(b.last) > rested {
				delete(p.branches, k)
			}
		}
	}
	if len(p.branches) >= maxBranches {
		return nil
	}
	b := &pace{limit: rate.NewLimiter(refreshPace, refreshBurst), last: now}
	p.branches[key] = b
	return b
}

func (p *pushes) refresh(url, branch string) {
	for _, r := range p.to {
		r.Refresh(url, branch)
	}
}
