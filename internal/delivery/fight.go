package delivery

import (
	"context"
	"fmt"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/holdfastcd/holdfast/internal/plan"
)

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

	holding bool // the pass under way leaves the object to the other side

	by     string   // the field manager on the other side
	fields []string // that it changes; nil until somebody looked
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
	f.fields = nil // it may be about something else by now
}

// hold returns how long the next revert must wait; 0 if it need not.
func (f *fight) hold(now time.Time) time.Duration {
	if f == nil || !now.Before(f.until) {
		return 0
	}
	return f.until.Sub(now)
}

// pause ends a pass and returns how long the next revert must wait; 0 if there is nothing
// to wait for. What was held is tried again also if its time was up before the pass was.
func (f *fight) pause(now time.Time) time.Duration {
	wait := f.hold(now)
	if f.holding {
		wait = max(wait, time.Millisecond)
	}
	f.holding = false
	return wait
}

// holdFights turns reverts of objects in a fight into waiting. Each time that one
// begins to wait, the object is looked at once, to name what the fight is about.
func (e *Engine) holdFights(ctx context.Context, spec Spec, p plan.Plan, st *state) {
	now := e.Clock()
	for i := range p.Stages {
		for j := range p.Stages[i].Actions {
			a := &p.Stages[i].Actions[j]
			f := st.fights[a.ID]
			if a.Op != plan.Revert || f.hold(now) == 0 {
				continue
			}
			if f.fields == nil {
				e.inspect(ctx, spec, a, f)
				f.fields = st.mask.Texts(f.fields) // they outlive the pass
			}
			a.Op, a.Reason, f.holding = plan.Leave, f.story(), true
		}
	}
}

// story tells what a fight is about.
func (f *fight) story() string {
	who, what := "somebody else", "it"
	if f.by != "" {
		who = f.by
	}
	if len(f.fields) > 0 {
		what = strings.Join(f.fields, ", ")
	}
	return fmt.Sprintf("%s keeps changing %s; reverts back off", who, what)
}

// inspect finds out what a fight is about: which fields differ from the source, and
// who wrote the object last. Failing that, what the watch shows has to do.
func (e *Engine) inspect(ctx context.Context, spec Spec, a *plan.Action, f *fight) {
	f.by, f.fields = a.Observed.By, []string{}
	seen := a.Observed
	if a.Desired == nil || a.Desired.Body.IsZero() || e.compare(ctx, e.Cluster.As(spec.Account), spec, *a.Desired, &seen) != nil {
		return
	}
	f.fields = fieldsOf(plan.Diff(seen.Live, seen.DryRun))
	for _, p := range a.Surplus { // an apply leaves what others added
		f.fields = append(f.fields, p.String())
	}
	var last metav1.Time
	entries := seen.Live.GetManagedFields()
	for i := range entries {
		m := &entries[i]
		if m.Subresource != "status" && m.Manager != spec.Profile.FieldManager && m.Time != nil && !m.Time.Before(&last) {
			f.by, last = m.Manager, *m.Time
		}
	}
}

// fieldsOf names the first fields that differ.
func fieldsOf(changes []plan.Change) []string {
	fields := make([]string, 0, min(len(changes), MaxFields))
	for _, c := range changes[:min(len(changes), MaxFields)] {
		fields = append(fields, c.Path)
	}
	return fields
}
