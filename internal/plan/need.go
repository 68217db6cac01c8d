package plan

import (
	"slices"

	"github.com/holdfastcd/holdfast/internal/object"
)

// Presence is whether a Secret that an object needs is in the cluster.
type Presence uint8

// The presences.
const (
	There   Presence = iota // or nobody can tell
	Missing                 // and to be waited for
	Overdue                 // missing, and waited for long enough
)

// holdBack has the objects that are new in this plan wait for the Secrets that they need
// and that other objects of the delivery make. What is only put right again does not
// wait, nor does anybody for a maker that is not there and not being sent.
func holdBack(in Input, actions []Action) {
	if in.Needed == nil {
		return
	}
	index := make(map[object.ID]int, len(actions))
	for i := range actions {
		index[actions[i].ID] = i
	}
	for i := range actions {
		a := &actions[i]
		if a.Desired == nil || !a.news() {
			continue
		}
		for _, n := range a.Desired.Needs {
			at, ok := index[n.Maker]
			if !ok || !actions[at].comes() {
				continue
			}
			switch in.Needed(n.Secret) {
			case Missing:
				a.Op, a.Lacks = Await, n.Maker
				a.Reason = "waits for " + n.Secret.String() + ", which " + n.Maker.String() + " is to make"
			case Overdue:
				a.Reason += "; sent without " + n.Secret.String() + ", which " + n.Maker.String() + " has not made in time"
			case There:
			}
			if a.Op == Await {
				break
			}
		}
	}
}

// comes reports whether the object of an action is in the cluster, or will be.
func (a Action) comes() bool {
	exists := a.Observed.Sight != Absent && a.Observed.Sight != KindUnknown
	return exists || a.Op.Applies() || a.Op == Await
}

// step marks where a stage has to wait for what it has sent: before and behind objects
// that make Secrets, and what these take values from.
func step(actions []Action) {
	for i := 1; i < len(actions); i++ {
		actions[i].After = object.Step(actions[i].ID) != object.Step(actions[i-1].ID)
	}
}

// inTurn lets what makes Secrets go after the workloads of its namespace that may use
// them, and stores after what takes values from them, or has to remove values there:
// its own controller may not finish without.
func inTurn(gone []Action) {
	var going []Action
	for _, a := range gone {
		if a.Op == Prune || a.Op == Await {
			going = append(going, a)
		}
	}
	for i := range gone {
		a := &gone[i]
		if a.Op != Prune || object.Step(a.ID) == 0 {
			continue
		}
		first := slices.IndexFunc(going, func(other Action) bool {
			return other.Wave >= a.Wave && goesBefore(other.ID, a.ID) // earlier waves go later
		})
		if first >= 0 {
			a.Op, a.Reason = Await, "it is deleted after "+going[first].ID.String()
		}
	}
}

// goesBefore reports whether a must be gone before b, which has to do with Secrets, is
// deleted. What one names of the other is not known any more.
func goesBefore(a, b object.ID) bool {
	if a.Namespace != b.Namespace && a.Namespace != "" && b.Namespace != "" {
		return false
	}
	const source, maker = 2, 3
	switch object.Step(b) {
	case source:
		return object.Step(a) == maker
	default:
		return object.Runs(a)
	}
}
