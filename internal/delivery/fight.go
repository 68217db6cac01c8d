package delivery

import "time"

// Reverting the same object again and again means that somebody else wants it
// otherwise. The third revert within the window backs off.
const (
	fightWindow  = 10 * time.Second
	fightReverts = 3
	fightFirst   = 2 * time.Second
	fightFactor  = 3
	fightMost    = 5 * time.Minute
)

// fight remembers the reverts of one object.
type fight struct {
	reverts []time.Time
	wait    time.Duration // the last back-off; 0 when at peace
	until   time.Time     // no revert before this
}

// reverted notes a revert at now and backs off if it was one too many.
func (f *fight) reverted(now time.Time) {
	if f.wait > 0 && now.Sub(f.until) > fightMost {
		*f = fight{}
	}
	f.reverts = append(f.reverts, now)
	if n := len(f.reverts); n > fightReverts {
		f.reverts = f.reverts[n-fightReverts:]
	}
	escalated := f.wait > 0 // one revert after a back-off that did not help
	many := len(f.reverts) == fightReverts && now.Sub(f.reverts[0]) <= fightWindow
	if !escalated && !many {
		return
	}
	f.wait = min(max(f.wait*fightFactor, fightFirst), fightMost)
	f.until = now.Add(f.wait)
}

// hold returns how long the next revert must wait; 0 if it need not.
func (f *fight) hold(now time.Time) time.Duration {
	if f == nil || !now.Before(f.until) {
		return 0
	}
	return f.until.Sub(now)
}
