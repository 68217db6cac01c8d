package plan

import (
	"slices"

	"github.com/holdfastcd/holdfast/internal/object"
)

// waves says in which wave objects are sent. What others need goes no later than
// the first of them: a Namespace before what lives in it, a definition before the
// objects of its kind. These are Argo CD's rules.
type waves struct {
	earliest map[string]int // of those who need a thing, by its name
}

func wavesOf(desired []Desired) waves {
	if !slices.ContainsFunc(desired, func(d Desired) bool { return d.Wave != 0 }) {
		return waves{}
	}
	w := waves{earliest: map[string]int{}}
	for i := range desired {
		d := &desired[i]
		w.need("Namespace/"+d.ID.Namespace, d.Wave)
		w.need("CustomResourceDefinition/"+d.Kind.Resource+"."+d.ID.Group, d.Wave)
	}
	return w
}

func (w waves) need(name string, wave int) {
	if first, ok := w.earliest[name]; !ok || wave < first {
		w.earliest[name] = wave
	}
}

func (w waves) of(d *Desired) int {
	if w.earliest != nil && d.ID.Namespace == "" {
		if first, ok := w.earliest[d.ID.Kind+"/"+d.ID.Name]; ok {
			return min(first, d.Wave)
		}
	}
	return d.Wave
}

// gate returns the last wave that brings something new, and has each stage before
// it wait for the health of the one before; nil where there is nothing to wait for.
// Where nothing is new, what others changed is reverted at once, however the rest
// fares.
func gate(profile Profile, stages []Stage) *int {
	if !profile.GateWaves || len(stages) == 0 || stages[0].Wave == stages[len(stages)-1].Wave {
		return nil
	}
	for _, last := range slices.Backward(stages) {
		if !slices.ContainsFunc(last.Actions, Action.news) {
			continue
		}
		for i := range stages {
			stages[i].Gate = stages[i].Gate || stages[i].Wave < last.Wave
		}
		return &last.Wave
	}
	return nil
}

// news reports whether an action brings something that the cluster did not have.
func (a Action) news() bool {
	switch a.Op {
	case Update:
		return true
	case Create:
		return !a.Held
	case Confirm:
		return a.Observed.Digest == [32]byte{}
	case Await:
		return a.Lacks != object.ID{} // it is held back, and new all the same
	default:
		return false
	}
}

// oneWave lets leftovers go wave by wave, the last wave first: those of a wave wait
// until nothing of the later ones is left. They are in that order already.
func oneWave(gone []Action) {
	first := slices.IndexFunc(gone, func(a Action) bool { return a.Op == Prune || a.Op == Await })
	if first < 0 {
		return
	}
	for i := range gone {
		if a := &gone[i]; a.Op == Prune && a.Wave < gone[first].Wave {
			a.Op, a.Reason = Await, "it is deleted after "+gone[first].ID.String()
		}
	}
}
