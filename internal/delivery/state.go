package delivery

import (
	"encoding/json"
	"errors"
	"time"

	"github.com/holdfastcd/holdfast/internal/cluster"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/plan"
	"github.com/holdfastcd/holdfast/internal/render"
	"github.com/holdfastcd/holdfast/internal/secret"
	"github.com/holdfastcd/holdfast/internal/tree"
)

// state is what the engine remembers of a delivery between passes. Only the
// running pass of the delivery touches it, but for what the engine's lock guards.
type state struct {
	id ID

	key     [32]byte     // what desired was made from, with
	trace   tree.Trace   // what was read for it
	asked   render.Asked // what was asked of the cluster's capabilities for it
	answers string       // and what they answered
	desired []plan.Desired
	images  []string
	failed  *failure // why there is nothing desired
	opened  bool     // something was sealed of what desired was made from
	sealing string   // who opened SealedSecrets among desired, see Engine.sealing

	mask *secret.Mask // of what the pass under way has opened; nil between passes

	proof     *proof                 // what came of verifying the revision
	admission *admission             // what was found about the images of desired
	plaintext *plaintext             // what stands open in what desired was made from
	runs      map[object.ID][]string // the images of each object of desired
	sent      map[object.ID]string   // digests of what was last applied, as the log names them
	settled   string                 // what was last recorded as delivered, see settledKey
	refusal   string                 // what was last recorded as refused
	alarmed   string                 // what was last told as refused
	judged    *string                // which policies were last told to refuse it; nil: none was
	alerts    []Alert                // to be told with the report of this pass
	ruling    *ruling                // what policies said of desired
	offence   *ruling                // what they said of what was refused last; nil: nothing is
	told      *ruling                // which of them was told last
	toldOnce  bool                   // one of them was

	prints  map[object.ID]cluster.Fingerprint
	fights  map[object.ID]*fight
	differs map[object.ID]cluster.Fingerprint // compared by value when it was this, and found to differ
	cleared map[object.ID]bool                // whose prune somebody confirmed
	seen    map[object.ID]comparison          // under Observe
	notices map[object.ID]*notice             // of what others wrote to
	unnamed []unnamed                         // changes by others of whom more may become known
	again   time.Duration                     // when to look at what others keep writing to; 0: at the next event
	swept   int                               // kinds that were searched for objects with our marks

	lacking map[object.ID]time.Time // Secrets that are needed and missing, since when

	expects map[object.ID]struct{} // those whose events are routed here; guarded by the engine's lock
	claims  map[object.ID]struct{} // guarded by the engine's lock
	wanted  map[object.ID]struct{} // what others claim; guarded by the engine's lock
	writer  *string                // in whose name it is applied; nil: not known yet; guarded by the engine's lock
	strays  map[object.ID]bool     // objects with our marks; guarded by the engine's lock
}

// clear notes that somebody confirmed the prune of these objects: what fails of it
// is tried again without another word.
func (st *state) clear(ids []object.ID) {
	for _, id := range ids {
		if st.cleared == nil {
			st.cleared = map[object.ID]bool{}
		}
		st.cleared[id] = true
	}
}

// stray notes an object that carries the delivery's marks.
func (st *state) stray(id object.ID) {
	if st.strays == nil {
		st.strays = map[object.ID]bool{}
	}
	st.strays[id] = true
}

// state returns the memory of a delivery, from disk at first sight.
func (e *Engine) state(id ID) *state {
	e.mu.Lock()
	st, ok := e.states[id]
	e.mu.Unlock()
	if ok {
		return st
	}
	prints, err := e.Memory.Load(id.String())
	if err != nil {
		e.Log.Warn("cannot read fingerprints; objects are checked once more", "delivery", id.String(), "error", err)
	}
	if prints == nil {
		prints = map[object.ID]cluster.Fingerprint{}
	}
	st = &state{id: id, prints: prints, fights: map[object.ID]*fight{}, differs: map[object.ID]cluster.Fingerprint{}, claims: map[object.ID]struct{}{}}
	e.mu.Lock()
	defer e.mu.Unlock()
	if first, ok := e.states[id]; ok { // somebody was here meanwhile
		return first
	}
	e.states[id] = st
	return st
}

// key digests what the desired objects depend on besides the tree and the
// capabilities. It is keyed, because variables may be secret.
func (e *Engine) key(s Spec) [32]byte {
	request := s.Render
	request.Capabilities = nil
	return e.digestOf(request, s)
}

// failureKey digests the capabilities, too: a rendering that failed did not say
// what it asked of them.
func (e *Engine) failureKey(s Spec) [32]byte { return e.digestOf(s.Render, s, e.unsealedBy()) }

func (e *Engine) digestOf(request render.Request, s Spec, more ...string) [32]byte {
	request.Keys = s.opener().ID()
	b, err := json.Marshal([]any{
		request, s.Substitute, s.Ignore, s.Namespace, s.CreateNamespace, s.NamespaceLabels, s.NamespaceAnnotations,
		s.Profile.FieldManager, s.Profile.Marks, s.Profile.WaveKeys, s.Rules.Version, s.Trust.Version, s.policies(), more,
	})
	if err != nil {
		return [32]byte{}
	}
	return e.Digest(b)
}

// policies identifies the sets that judge, and the delivery as they know it.
func (s Spec) policies() any {
	if len(s.Policies.List) == 0 {
		return nil
	}
	return []any{s.Policies.Version, s.context()}
}

// failure remembers that a source cannot be delivered as it is.
type failure struct {
	key  [32]byte
	root tree.Digest
	err  error
	at   time.Time
}

// retryLimit is after how long a source that exceeded a limit is tried again: time
// and memory may have been short because others were busy. So is one that a key service
// refused to open.
const retryLimit = 5 * time.Minute

// failureOf returns what to remember of an error; nil for those that may end
// without a change of the source.
func failureOf(err error, key [32]byte, spec Spec, now time.Time) *failure {
	_, lies := errors.AsType[*flaw](err)
	root := rootOf(spec)
	if !lies || !fault.KindOf(err).Terminal() || root == "" {
		return nil
	}
	return &failure{key: key, root: root, err: err, at: now}
}

// stands reports whether the failure would only happen again.
func (f *failure) stands(key [32]byte, spec Spec, now time.Time) bool {
	if f == nil || f.key != key || f.root != rootOf(spec) {
		return false
	}
	passes := fault.KindOf(f.err) == fault.Limit || errors.Is(f.err, secret.ErrService)
	return !passes || now.Sub(f.at) < retryLimit
}

// rootOf identifies the whole tree of a spec; empty if that cannot be told.
func rootOf(spec Spec) tree.Digest {
	if spec.Revision.Tree == nil {
		return ""
	}
	entry, err := spec.Revision.Tree.Stat("")
	if err != nil {
		return ""
	}
	return entry.Digest
}
