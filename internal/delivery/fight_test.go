package delivery

import (
	"testing"
	"time"
)

func TestFightBacksOff(t *testing.T) {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	at := func(s float64) time.Time { return start.Add(time.Duration(s * float64(time.Second))) }
	f := &fight{}
	for i, s := range []float64{0, 1} {
		f.reverted(at(s))
		if f.hold(at(s)) != 0 {
			t.Fatalf("revert %d holds; only the third within the window may", i+1)
		}
	}
	now := at(2)
	for _, seconds := range []int{2, 6, 18, 54, 162, 300, 300} {
		want := time.Duration(seconds) * time.Second
		f.reverted(now)
		if got := f.hold(now); got != want {
			t.Fatalf("at %s: holds %s, want %s", now, got, want)
		}
		now = now.Add(f.hold(now))
		if f.hold(now) != 0 {
			t.Fatal("the back-off does not end")
		}
	}
	now = now.Add(fightMost + time.Second)
	f.reverted(now)
	if f.hold(now) != 0 {
		t.Error("after a quiet time the first revert must not hold")
	}
}

func TestFightSlowRevertsArePeace(t *testing.T) {
	f := &fight{}
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for range 10 {
		f.reverted(now)
		if f.hold(now) != 0 {
			t.Fatal("a revert every six seconds is no fight")
		}
		now = now.Add(6 * time.Second)
	}
	var none *fight
	if none.hold(now) != 0 {
		t.Error("no fight holds nothing")
	}
}

func TestPause(t *testing.T) {
	now := time.Unix(1000, 0)
	tests := map[string]struct {
		reason string
		fight  fight
		want   time.Duration
	}{
		"at peace":         {"nothing is waited for", fight{}, 0},
		"held":             {"the next revert waits for the back-off", fight{holding: true, until: now.Add(time.Second)}, time.Second},
		"held, time is up": {"a back-off that ends while the pass runs must not leave the object for ever", fight{holding: true, until: now}, time.Millisecond},
		"backs off":        {"what was not held this time is looked at when its time is up", fight{until: now.Add(time.Second)}, time.Second},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if got := tc.fight.pause(now); got != tc.want {
				t.Errorf("%s: %s, want %s", tc.reason, got, tc.want)
			}
			if tc.fight.holding {
				t.Error("the next pass decides anew")
			}
		})
	}
}
