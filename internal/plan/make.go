package plan

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/object"
	hschema "github.com/holdfastcd/holdfast/internal/schema"
)

// Entry is one object that a delivery has applied before.
type Entry struct {
	ID   object.ID
	Kind hschema.Kind // zero if the cluster does not serve it any more
	Wave int          // of its last apply
}

// StageRule names the kinds of one stage, by group and kind; either may begin
// with a star, which stands for any beginning.
type StageRule struct {
	Name  string
	Kinds []schema.GroupKind
	Gate  bool
}

// Profile is how a dialect wants its deliveries planned.
type Profile struct {
	Stages []StageRule // in order; what no rule names comes last
	// Forget drops an object that left the desired set from the inventory when
	// the delivery does not prune; otherwise it stays and is shown as left over.
	Forget bool
	// AllowEmpty permits to prune everything that a delivery holds.
	AllowEmpty bool
	// GateWaves sends the objects of a wave when those of the waves before are
	// healthy; otherwise waves are an order alone.
	GateWaves bool
	// Brake stops plans that prune a lot at once.
	Brake Brake
}

// Input is what a plan is made from.
type Input struct {
	Owner     string // this delivery, as its marks name it
	Desired   []Desired
	Inventory []Entry
	Observe   func(object.ID) Observed // for every ID in Desired and Inventory
	Alive     func(owner string) bool  // whether another delivery still exists
	Permits   func(Entry) *fault.Error // whether an object may be pruned; nil permits all
	Prune     bool                     // delete what left the desired set
	Revert    bool                     // correct what others changed
	Profile   Profile
	// Only restricts the plan to some objects; nil: all.
	Only func(object.ID) bool
	// Confirmed is the digest of the prunes that somebody confirmed, see
	// [Plan.HeldDigest]; Cleared are objects whose prune was confirmed before.
	Confirmed string
	Cleared   func(object.ID) bool
	// Needed says whether a Secret among [Desired.Needs] is there; nil: nobody waits.
	Needed func(object.ID) Presence
}

// Make compares and decides. Errors are *fault.Error: Invalid for an object that
// is desired twice (naming both places), Refused for a plan that would prune
// everything.
//
// Within a wave the stages follow the rules of the profile; leftovers go last. What is
// new and needs a Secret that another object makes waits for it, see [Input.Needed].
func Make(in Input) (Plan, error) {
	if err := unique(in.Desired); err != nil {
		return Plan{}, err
	}
	held := make(map[object.ID]bool, len(in.Inventory))
	for _, e := range in.Inventory {
		held[e.ID] = true
	}
	var p Plan
	waves := wavesOf(in.Desired)
	actions := make([]Action, 0, len(in.Desired))
	for i := range in.Desired {
		d := &in.Desired[i]
		a := only(in, decide(in, held[d.ID], d))
		a.Wave = waves.of(d)
		actions = append(actions, a)
	}
	follow(in, actions)
	holdBack(in, actions)
	p.Stages = stagesOf(in.Profile, actions)
	p.HealthyBefore = gate(in.Profile, p.Stages)
	gone := leftovers(in)
	if err := emptied(in, gone); err != nil {
		return Plan{}, err
	}
	if ids, digest, confirmed := brake(in, gone); confirmed {
		p.Confirmed = ids
	} else {
		p.Held, p.HeldDigest = ids, digest
	}
	inTurn(gone)
	if in.Profile.GateWaves {
		oneWave(gone)
	}
	if len(gone) > 0 {
		p.Stages = append(p.Stages, Stage{Name: "leftovers", Actions: gone})
	}
	return p, nil
}

// stagesOf sorts actions into stages: by wave, then by the rules of the profile,
// then by kind.
func stagesOf(profile Profile, actions []Action) []Stage {
	last := len(profile.Stages)
	slices.SortStableFunc(actions, func(a, b Action) int {
		if a.Wave != b.Wave {
			return cmp.Compare(a.Wave, b.Wave)
		}
		return object.CompareRank(a.ID, b.ID)
	})
	var stages []Stage
	for from := 0; from < len(actions); {
		wave, to := actions[from].Wave, from
		parts := make([]Stage, last+1)
		for ; to < len(actions) && actions[to].Wave == wave; to++ {
			at := stageOf(profile.Stages, actions[to].ID.GroupKind(), last)
			if parts[at].Actions == nil {
				parts[at].Actions = make([]Action, 0, len(actions)-to)
			}
			parts[at].Actions = append(parts[at].Actions, actions[to])
		}
		for at, s := range parts {
			s.Name, s.Wave = "objects", wave
			if at < last {
				s.Name, s.Gate = profile.Stages[at].Name, profile.Stages[at].Gate
			}
			if step(s.Actions); len(s.Actions) > 0 {
				stages = append(stages, s)
			}
		}
		from = to
	}
	return stages
}

// follow has what is made from another object be sent whenever that one is: its owner
// reference may be to another object of the same name now.
func follow(in Input, actions []Action) {
	sent := map[object.ID]bool{}
	for _, a := range actions {
		if a.Op.Applies() {
			sent[a.ID] = true
		}
	}
	for i := range actions {
		if a := &actions[i]; a.Op == Keep && sent[a.Desired.Owner] && held(a.Desired) {
			a.Op, a.Reason = Confirm, "what it is made from is sent"
			*a = only(in, *a)
		}
	}
}

// held reports whether an object that exists is held to what is desired.
func held(d *Desired) bool { return !d.Loose && !d.Treatment.IfNotPresent }

// only restricts an action to what a pass is for.
func only(in Input, a Action) Action {
	if in.Only != nil && !in.Only(a.ID) && (a.Op.Sends() || a.Op == Await) {
		a.Op, a.Reason = Leave, "it is not among the objects that this sync is for"
	}
	return a
}

// unique refuses a set in which an object occurs twice.
func unique(desired []Desired) error {
	seen := make(map[object.ID]object.Origin, len(desired))
	for _, d := range desired {
		first, double := seen[d.ID]
		if double {
			return fault.New(fault.Invalid, "the object is declared twice, first at %s", place(first)).
				On(d.ID.String()).At(d.Origin.File, d.Origin.Line).WithHint("remove one of the two")
		}
		seen[d.ID] = d.Origin
	}
	return nil
}

func place(o object.Origin) string {
	switch {
	case o.File == "":
		return "an unknown place"
	case o.Line == 0:
		return o.File
	}
	return fmt.Sprintf("%s:%d", o.File, o.Line)
}

// stageOf returns the index of the first rule that names gk, or last.
func stageOf(rules []StageRule, gk schema.GroupKind, last int) int {
	for i, r := range rules {
		if slices.ContainsFunc(r.Kinds, func(k schema.GroupKind) bool { return matches(k.Group, gk.Group) && matches(k.Kind, gk.Kind) }) {
			return i
		}
	}
	return last
}

// matches compares a name with a rule's: equal, or by a suffix behind a star.
func matches(rule, name string) bool {
	suffix, star := strings.CutPrefix(rule, "*")
	return rule == name || star && strings.HasSuffix(name, suffix)
}

// decide chooses the operation for one desired object; held says that the
// delivery has applied it before.
func decide(in Input, held bool, d *Desired) Action {
	seen := in.Observe(d.ID)
	a := Action{ID: d.ID, Kind: d.Kind, Desired: d, Observed: seen, Held: held}
	switch {
	case d.Treatment.Skip != "":
		a.Op, a.Reason = Skip, d.Treatment.Skip
	case seen.Sight == KindUnknown:
		a.Op, a.Reason = Await, "the cluster does not serve this kind yet"
	case seen.Sight == Absent && !in.Revert && held && (seen.Digest == [32]byte{} || seen.Digest == d.Digest):
		a.Op, a.Reason = Leave, "it was deleted in the cluster"
	case seen.Sight == Absent:
		a.Op, a.Reason = Create, "it does not exist"
	case d.Loose && !seen.Deleting, d.Treatment.IfNotPresent: // what lives in a namespace cannot be sent while it goes
		a.Op, a.Reason = Keep, ""
	case !d.Loose && foreign(in, seen):
		a.Op, a.Reason = Refuse, "it belongs to "+seen.Owner
	case seen.Deleting:
		a.Op, a.Reason = Await, "its predecessor is still being deleted"
	default:
		a.Op, a.Reason = correct(in, d, seen)
	}
	return a
}

// foreign reports whether an object belongs to another delivery that still exists.
func foreign(in Input, seen Observed) bool {
	return seen.Owner != "" && seen.Owner != in.Owner && in.Alive != nil && in.Alive(seen.Owner)
}

// correct chooses the operation for an object that exists and is ours to write.
func correct(in Input, d *Desired, seen Observed) (Op, string) {
	known := seen.Digest != [32]byte{}
	sight := seen.Sight
	if seen.Live != nil {
		sight = compareLive(seen)
	}
	switch {
	case known && seen.Digest != d.Digest:
		return Update, "the source has changed"
	case sight == AsApplied:
		return Keep, ""
	case sight == Unsure && !known:
		return Confirm, "it was not applied by this delivery yet"
	case !in.Revert && known:
		return Leave, changedBy(seen)
	case sight == Unsure:
		return Confirm, "it was changed in a way that its managed fields do not tell"
	case !known:
		return Update, "it differs from the source"
	}
	return Revert, changedBy(seen)
}

// compareLive settles by value what the fingerprint cannot: the live object
// against what a dry run of the apply would make of it.
func compareLive(seen Observed) Sight {
	if len(Diff(seen.Live, seen.DryRun)) == 0 {
		return AsApplied
	}
	return Drifted
}

func changedBy(seen Observed) string {
	if seen.By == "" {
		return "it was changed in the cluster"
	}
	return "it was changed in the cluster by " + seen.By
}

// leftovers decides about every object of the inventory that is no longer desired.
func leftovers(in Input) []Action {
	desired := make(map[object.ID]bool, len(in.Desired))
	for _, d := range in.Desired {
		desired[d.ID] = true
	}
	var actions []Action
	for _, e := range in.Inventory {
		if !desired[e.ID] {
			actions = append(actions, only(in, part(in, e)))
		}
	}
	// What was sent last goes first.
	slices.SortStableFunc(actions, func(a, b Action) int {
		return cmp.Or(cmp.Compare(b.Wave, a.Wave), object.CompareRank(b.ID, a.ID))
	})
	return actions
}

// part chooses the operation for an object that left the desired set.
func part(in Input, e Entry) Action {
	seen := in.Observe(e.ID)
	a := Action{ID: e.ID, Kind: e.Kind, Observed: seen, Wave: e.Wave, Held: true}
	switch {
	case seen.Sight == Absent || seen.Sight == KindUnknown:
		a.Op, a.Reason = Release, "it is gone"
	case seen.Owner != in.Owner:
		a.Op, a.Reason = Release, "it does not carry this delivery's marks any more"
	case seen.Kept:
		a.Op, a.Reason = Release, "it is marked to be kept"
	case seen.Deleting:
		a.Op, a.Reason = Await, "it is being deleted"
	case !in.Prune && in.Profile.Forget:
		a.Op, a.Reason = Release, "it left the source, and this delivery does not prune"
	case !in.Prune:
		a.Op, a.Reason = Leave, "it left the source and requires pruning"
	default:
		a.Op, a.Reason = Prune, "it left the source"
		if in.Permits != nil {
			if err := in.Permits(e); err != nil {
				a.Op, a.Reason = Refuse, err.Msg
			}
		}
	}
	return a
}

// emptied refuses a plan that prunes the last object of a delivery.
func emptied(in Input, gone []Action) error {
	if len(in.Desired) > 0 || in.Profile.AllowEmpty {
		return nil
	}
	for _, a := range gone {
		if a.Op == Prune {
			return fault.New(fault.Refused, "the source is empty: this would prune all %d objects of the delivery", len(gone)).
				WithHint("allow an empty source, or delete the delivery itself")
		}
	}
	return nil
}
