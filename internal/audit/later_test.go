package audit

import (
	"fmt"
	"testing"
	"time"
)

// Entries that nobody waits for are written with the next one that somebody waits for,
// before it and in order; and soon, if there is none.
func TestHeldBack(t *testing.T) {
	l := open(t, t.TempDir())
	begin := add(t, l, Entry{Action: Suspend, Delivery: "first"}, nil)
	for round := range 5 {
		for i := range 3 {
			l.Later(Entry{Action: Suspend, Delivery: fmt.Sprint(round, i)}, objects(fmt.Sprint(round, i)))
		}
		for n := 0; n < 3; { // their records are stored, but not their entries
			l.mu.Lock()
			n = len(l.held)
			l.mu.Unlock()
			if l.Size() > begin+1 { // held for too long, on a busy machine
				n = 3
			}
		}
		at := add(t, l, Entry{Action: Resume, Delivery: fmt.Sprint(round)}, nil)
		if at != begin+4 {
			t.Fatalf("round %d: the entry came to %d, want %d", round, at, begin+4)
		}
		for i := range uint64(3) {
			if e, err := l.Entry(begin + 1 + i); err != nil || e.Delivery != fmt.Sprint(round, i) {
				t.Errorf("round %d: entry %d is %+v %v", round, begin+1+i, e, err)
			}
		}
		begin = at
	}
	l.Later(Entry{Action: Suspend, Delivery: "last"}, nil)
	for end := time.Now().Add(time.Minute); l.Size() <= begin+1; {
		if time.Now().After(end) {
			t.Fatal("it is held for ever")
		}
		time.Sleep(time.Millisecond)
	}
}

// What was delivered last is known before the outcome is on disk.
func TestForetold(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir)
	const d = "Kustomization/web/shop"
	intent := func(a Action, commit string) uint64 {
		return add(t, l, Entry{Action: a, Delivery: d, UID: "u1", Source: &Source{URL: "u", Commit: commit}}, objects("a"))
	}
	at := intent(Sync, "c1")
	l.Later(Entry{Action: Outcome, Delivery: d, Of: &at, Result: ResultDelivered}, nil)
	if last, ok, err := l.Last(d); err != nil || !ok || last.Source.Commit != "c1" || last.UID != "u1" {
		t.Errorf("%+v %v %v", last, ok, err)
	}
	failed := intent(Sync, "c2")
	l.Later(Entry{Action: Outcome, Delivery: d, Of: &failed, Result: ResultFailed}, nil)
	reverted := intent(Revert, "c1")
	l.Later(Entry{Action: Outcome, Delivery: d, Of: &reverted, Result: ResultDelivered}, nil)
	if last, ok, err := l.Last(d); err != nil || !ok || last.Source.Commit != "c1" {
		t.Errorf("what failed, and a revert, change nothing: %+v %v %v", last, ok, err)
	}
	gone := intent(Retract, "c1")
	l.Later(Entry{Action: Outcome, Delivery: d, Of: &gone, Result: ResultDelivered}, nil)
	if last, ok, err := l.Last(d); err != nil || ok {
		t.Errorf("nothing is delivered of what was retracted: %+v %v %v", last, ok, err)
	}
	closeLog(t, l)
	l = open(t, dir)
	if _, ok, err := l.Last(d); err != nil || ok {
		t.Errorf("as the log says: %v %v", ok, err)
	}
}
