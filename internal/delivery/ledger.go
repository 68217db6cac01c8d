package delivery

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/holdfastcd/holdfast/internal/apply"
	"github.com/holdfastcd/holdfast/internal/audit"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/plan"
	"github.com/holdfastcd/holdfast/internal/policy"
	"github.com/holdfastcd/holdfast/internal/render"
	"github.com/holdfastcd/holdfast/internal/secret"
	"github.com/holdfastcd/holdfast/internal/tree"
	"github.com/holdfastcd/holdfast/internal/trust"
)

// Audit is the log of decisions; *audit.Log is one.
type Audit interface {
	// Append writes an entry and returns its index when both it and its record are
	// durable.
	Append(ctx context.Context, e audit.Entry, r *audit.Record) (uint64, error)
	// Later writes an entry soon, in the order of the calls.
	Later(e audit.Entry, r *audit.Record)
	// Untouched notes that a commit changed nothing of a delivery.
	Untouched(src audit.Source, who []audit.Person, delivery string)
	// Last returns what a delivery delivered last, as the log remembers it; false:
	// nothing. An error says that nobody can tell.
	Last(delivery string) (audit.Delivered, bool, error)
}

// unlogged is the log of those who send nothing, such as previews.
type unlogged struct{}

// Append implements Audit.
func (unlogged) Append(context.Context, audit.Entry, *audit.Record) (uint64, error) { return 0, nil }

// Later implements Audit.
func (unlogged) Later(audit.Entry, *audit.Record) {}

// Untouched implements Audit.
func (unlogged) Untouched(audit.Source, []audit.Person, string) {}

// Last implements Audit.
func (unlogged) Last(string) (audit.Delivered, bool, error) { return audit.Delivered{}, false, nil }

// errUnlogged is the cause of refusals to do what cannot be recorded.
var errUnlogged = errors.New("the audit log cannot be written")

// append writes an entry about a pass, without a value that the pass opened, and waits
// for it; see [Audit].
func (e *Engine) append(ctx context.Context, st *state, entry audit.Entry, r *audit.Record) (uint64, error) {
	entry, r = discreetEntry(entry, r, st.mask)
	return e.Audit.Append(ctx, entry, r)
}

// later is append without the wait.
func (e *Engine) later(st *state, entry audit.Entry, r *audit.Record) {
	e.Audit.Later(discreetEntry(entry, r, st.mask))
}

// discreetEntry is an entry and its record without a secret value.
func discreetEntry(entry audit.Entry, r *audit.Record, mask *secret.Mask) (audit.Entry, *audit.Record) {
	if !mask.Opened() {
		return entry, r
	}
	entry.Reason = mask.Text(entry.Reason)
	entry.Verdicts = slices.Clone(entry.Verdicts)
	for i := range entry.Verdicts {
		entry.Verdicts[i].Message = mask.Text(entry.Verdicts[i].Message)
	}
	if r == nil {
		return entry, nil
	}
	copied := *r
	copied.Objects = slices.Clone(r.Objects)
	for i := range copied.Objects {
		o := &copied.Objects[i]
		o.Message, o.By = mask.Text(o.Message), mask.Text(o.By)
		o.Fields, o.Added = mask.Texts(o.Fields), mask.Texts(o.Added)
	}
	return entry, &copied
}

// Bounds of what a record names.
const (
	maxInputs  = 200
	maxCommits = 20
)

// intent is what was recorded before the first write of a pass.
type intent struct {
	index  uint64
	action audit.Action
	source *audit.Source
}

// intend makes the intent of a plan durable. Nothing may be sent before it returns,
// and nothing at all if it fails. A plan that sends nothing has none.
func (e *Engine) intend(ctx context.Context, spec Spec, st *state, p plan.Plan, retract bool) (*intent, error) {
	if !p.Changes() {
		return nil, nil //nolint:nilnil // nothing to record is no failure
	}
	if !retract { // deleting the delivery is a word of its own
		if err := e.approve(ctx, spec, st, p); err != nil {
			return nil, err
		}
	}
	if st.settled == "" {
		e.recall(spec, st)
	}
	entry := e.entry(spec, st, st.actionOf(spec, p, retract))
	entry.Counts = countOps(p)
	if !retract {
		entry.Verdicts, entry.Commits = st.verdicts(spec.Trust), st.commits()
	}
	index, err := e.append(ctx, st, entry, e.record(spec, st, p))
	if err != nil {
		return nil, unrecorded(err)
	}
	return &intent{index, entry.Action, entry.Source}, nil
}

// unrecorded is why nothing is applied when the log fails.
func unrecorded(err error) error {
	kind := fault.KindOf(err)
	if kind.Terminal() {
		kind = fault.Internal // to be tried again: it is not the source's fault
	}
	cause := fault.From(err)
	hint := cause.Hint // of who knows what the log lies on
	if hint == "" {
		hint = "see to what the audit log lies on: its volume, or its bucket and database"
	}
	why := strings.TrimPrefix(cause.Msg, errUnlogged.Error()+": ")
	return fault.New(kind, "nothing is applied, because %s: %s", errUnlogged, why).
		WithHint("%s", hint).Because(errUnlogged)
}

// approve records that somebody gave the word for which prunes waited. Who wrote or
// signed the commit did not.
func (e *Engine) approve(ctx context.Context, spec Spec, st *state, p plan.Plan) error {
	approved, word := p.Confirmed, spec.Confirmed
	if spec.Approval != "" {
		approved, word = pruned(p), spec.Approval
	}
	if len(approved) == 0 {
		return nil
	}
	entry := e.entry(spec, st, audit.Approve)
	entry.Who = spec.ApprovedBy
	entry.Reason = fmt.Sprintf("the prune of %d objects was confirmed by %s: %s", len(approved), word, few(names(approved)))
	if _, err := e.append(ctx, st, entry, nil); err != nil {
		return unrecorded(err)
	}
	return nil
}

// pruned are the objects that a plan deletes.
func pruned(p plan.Plan) []object.ID {
	var ids []object.ID
	for _, a := range p.Actions() {
		if a.Op == plan.Prune {
			ids = append(ids, a.ID)
		}
	}
	return ids
}

// actionOf names what a plan does: it corrects drift if it sends nothing but what
// was sent before, of the revision that was delivered last.
func (st *state) actionOf(spec Spec, p plan.Plan, retract bool) audit.Action {
	if retract {
		return audit.Retract
	}
	drift := func(a plan.Action) bool {
		known := a.Desired != nil && a.Observed.Digest == a.Desired.Digest
		return !a.Op.Sends() || a.Op != plan.Prune && known
	}
	if st.settled == settledKey(spec, st) && !slices.ContainsFunc(p.Actions(), func(a plan.Action) bool { return !drift(a) }) {
		return audit.Revert
	}
	return audit.Sync
}

// conclude records what came of an intent.
func (e *Engine) conclude(ctx context.Context, spec Spec, st *state, in *intent, res apply.Result, report Report) {
	if in == nil {
		e.untouched(ctx, spec, st, report)
		return
	}
	entry := audit.Entry{
		Time: e.Clock().UTC(), Action: audit.Outcome, Delivery: spec.ID.String(), UID: spec.UID,
		Source: in.source, Of: &in.index, Result: resultOf(spec, report), Counts: map[string]int{},
	}
	if report.Err != nil {
		entry.Reason = report.Err.Error()
	}
	record := &audit.Record{}
	for _, o := range res.Objects {
		if !o.Action.Op.Sends() {
			continue
		}
		entry.Counts[string(o.Outcome)]++
		record.Objects = append(record.Objects, st.changed(spec, e, o))
	}
	if entry.Result == audit.ResultDelivered {
		st.settled = settledKey(spec, st)
	}
	e.logSent(in.action, entry)
	e.later(st, entry, record)
}

// logSent says in the process's log, which is not the audit log, what a pass sent, in
// counts. What failed is told by who serves the resource, and not at each of its retries.
func (e *Engine) logSent(action audit.Action, outcome audit.Entry) {
	if outcome.Result == audit.ResultFailed {
		return
	}
	args := []any{"delivery", outcome.Delivery}
	if outcome.Source != nil {
		args = append(args, "revision", outcome.Source.Commit)
	}
	for _, what := range slices.Sorted(maps.Keys(outcome.Counts)) {
		args = append(args, what, outcome.Counts[what])
	}
	if outcome.Result != audit.ResultDelivered {
		args = append(args, "result", outcome.Result)
	}
	done := map[audit.Action]string{audit.Sync: "delivered", audit.Revert: "reverted drift", audit.Retract: "retracted"}
	e.Log.Info(done[action], args...)
}

// resultOf says how far a pass came. A sync of some objects is never the whole.
func resultOf(spec Spec, report Report) string {
	switch {
	case report.Err != nil && report.Err.Kind != fault.Waiting:
		return audit.ResultFailed
	case report.Err != nil, spec.Only != nil:
		return audit.ResultPartial
	}
	return audit.ResultDelivered
}

// untouched records that a commit left a delivery as it is.
func (e *Engine) untouched(ctx context.Context, spec Spec, st *state, report Report) {
	key := settledKey(spec, st)
	if st.settled == "" {
		e.recall(spec, st)
	}
	if spec.Revision.Commit == "" || st.settled == key || resultOf(spec, report) != audit.ResultDelivered {
		return
	}
	_, ok, err := e.Audit.Last(spec.ID.String())
	if err != nil {
		return // it may be told when the log can be read again
	}
	st.settled = key
	if !ok { // all is as it was sent before the log began, which begins here
		e.begin(ctx, spec, st)
		return
	}
	e.Audit.Untouched(st.source(spec), st.people(spec, false), spec.ID.String())
}

// begin records what is delivered without anything being sent for it.
func (e *Engine) begin(ctx context.Context, spec Spec, st *state) {
	entry := e.entry(spec, st, audit.Sync)
	entry.Verdicts, entry.Commits = st.verdicts(spec.Trust), st.commits()
	index, err := e.append(ctx, st, entry, e.record(spec, st, plan.Plan{}))
	if err != nil {
		st.settled = "" // the next pass tries again
		e.Log.Error("the audit log cannot be written", "delivery", spec.ID.String(), "error", err)
		return
	}
	e.later(st, audit.Entry{
		Time: e.Clock().UTC(), Action: audit.Outcome, Delivery: spec.ID.String(), UID: spec.UID,
		Source: entry.Source, Of: &index, Result: audit.ResultDelivered,
	}, nil)
}

// recall reads from the log, after a restart, what was delivered last.
func (e *Engine) recall(spec Spec, st *state) {
	last, ok, err := e.Audit.Last(spec.ID.String())
	src := st.source(spec)
	if ok && err == nil && last.Source.URL == src.URL && last.Source.Commit == src.Commit && last.Source.Verified == src.Verified {
		st.settled = settledKey(spec, st)
	}
}

// settledKey names a revision and what it was proven to.
func settledKey(spec Spec, st *state) string {
	src := st.source(spec)
	return src.URL + " " + src.Commit + " " + src.Verified
}

// refuse is the report of a pass that was refused as a whole, which is recorded once
// for each delivery, revision and reason.
func (e *Engine) refuse(spec Spec, st *state, err error) Report {
	err = st.mask.Error(err)
	report := e.refused(spec, err)
	report.Untrusted, report.Violates = isUntrusted(err), isViolation(err)
	if errors.Is(err, render.ErrTurn) || errors.Is(err, errUnlogged) || report.Err.Kind == fault.Waiting {
		return report // it passes
	}
	key := fmt.Sprintf("%s %s %s %s", spec.Revision.Commit, spec.Trust.Version, spec.Policies.Version, report.Err.Kind)
	if report.Err.Kind.Terminal() { // others may word the same trouble in many ways
		key += " " + report.Err.Error()
	}
	if (report.Untrusted || report.Violates) && st.alarmed != key {
		st.alarmed = key
		reason := AlertRefused
		if report.Violates {
			reason = AlertViolation
		}
		st.alerts = append(st.alerts, Alert{reason, report.Err.Error()})
	}
	if spec.Observe || st.refusal == key {
		return report
	}
	st.refusal = key
	entry := e.entry(spec, st, audit.Refuse)
	entry.Reason = report.Err.Error()
	entry.Commits = st.commits()
	if report.Violates {
		entry.Verdicts = st.offence.rulings(true, nil)
	}
	e.later(st, entry, nil)
	return report
}

// Record writes a decision about a delivery that no pass makes: it was suspended,
// resumed, rolled back.
func (e *Engine) Record(entry audit.Entry) {
	entry.Time = e.Clock().UTC()
	e.Audit.Later(entry, nil)
}

// entry begins an entry about a delivery.
func (e *Engine) entry(spec Spec, st *state, action audit.Action) audit.Entry {
	entry := audit.Entry{
		Time: e.Clock().UTC(), Action: action, Delivery: spec.ID.String(), UID: spec.UID, Who: st.people(spec, true),
	}
	if spec.Revision.Commit != "" {
		src := st.source(spec)
		entry.Source = &src
	}
	return entry
}

// source is the revision of a spec as the log names it.
func (st *state) source(spec Spec) audit.Source {
	r := spec.Revision
	src := audit.Source{URL: r.URL, Ref: r.Ref(), Commit: r.Commit, Tree: rootOf(spec).String()}
	if p := st.proof; p != nil && p.err == nil && p.commit == r.Commit {
		src.Verified = p.provenBy(spec.Trust)
	}
	return src
}

// people are who took part: author and committer as the commit claims, who signed
// it, and, with asked, who asked for the pass.
func (st *state) people(spec Spec, asked bool) []audit.Person {
	var who []audit.Person
	add := func(role, name string) {
		if name != "" {
			who = append(who, audit.Person{Role: role, Name: name})
		}
	}
	add(audit.RoleAuthor, spec.Revision.Author)
	add(audit.RoleCommitter, spec.Revision.Committer)
	for _, c := range st.commits() {
		if s := c.Signer; s != nil && (c.ID == spec.Revision.Commit || c.Tag) {
			name := s.Identity
			if name == "" {
				name = s.Fingerprint
			}
			who = append(who, audit.Person{Role: audit.RoleSigner, Name: name, Proven: true, By: s.Kind + " " + s.Fingerprint})
		}
	}
	if asked {
		who = append(who, spec.By...)
	}
	return who
}

// commits is what was proven of the commits, bounded.
func (st *state) commits() []trust.Commit {
	if st.proof == nil {
		return nil
	}
	all := st.proof.evidence.Commits
	return all[:min(len(all), maxCommits)]
}

// verdicts are what the policies said of what is applied.
func (st *state) verdicts(d trust.Demands) []audit.Verdict {
	var list []audit.Verdict
	for _, p := range d.Policies {
		if p.Commits == nil || st.proof == nil {
			continue
		}
		v := audit.Verdict{Rule: "trust/" + p.Name + "/commits", Outcome: policy.Pass}
		if p.Audit && slices.Contains(st.proof.evidence.UnprovenTo, p.Name) {
			v.Outcome, v.Message = policy.Audit, few(st.proof.evidence.Unproven)
		}
		list = append(list, v)
	}
	var judged []policy.Verdict
	if st.admission != nil {
		judged = st.admission.verdicts
	}
	if st.plaintext != nil {
		judged = append(slices.Clone(judged), st.plaintext.verdicts...)
	}
	for _, v := range judged {
		list = append(list, audit.Verdict{
			Rule: "trust/" + v.Policy + "/" + v.Rule, Outcome: v.Outcome, Object: v.Image, Message: v.Message,
		})
	}
	return append(list, st.ruling.rulings(false, st.desired)...)
}

func countOps(p plan.Plan) map[string]int {
	counts := map[string]int{}
	for _, a := range p.Actions() {
		if a.Op.Sends() {
			counts[string(a.Op)]++
		}
	}
	return counts
}

// record is what an intent is about.
func (e *Engine) record(spec Spec, st *state, p plan.Plan) *audit.Record {
	r := &audit.Record{Render: renderOf(spec, st.trace)}
	if slices.ContainsFunc(st.desired, func(d plan.Desired) bool { return isSecret(d.ID) }) {
		// Of a file of Git, the values of a Secret that comes of it could be guessed.
		for file, digest := range r.Render.Inputs {
			r.Render.Inputs[file] = keyedDigest(e.Digest([]byte(digest)))
		}
	}
	if st.admission != nil {
		r.Images = st.admission.images
	}
	for _, a := range p.Actions() {
		if a.Op.Sends() {
			r.Objects = append(r.Objects, st.change(spec, e.Digest, a))
		}
	}
	return r
}

// change is one action as the log tells it.
func (st *state) change(spec Spec, keyed Digester, a plan.Action) audit.Change {
	c := audit.Change{Object: audit.ObjectName(a.ID, a.Kind.GVK.Version), Operation: string(a.Op), UID: string(a.Observed.UID)}
	switch {
	case a.Op == plan.Create, a.Op == plan.Revert: // it was not there, or what was there is not known
	case st.sent[a.ID] != "":
		c.Before = st.sent[a.ID]
	case a.Observed.Digest != [32]byte{}:
		c.Before = keyedDigest(a.Observed.Digest)
	}
	if d := a.Desired; d != nil && a.Op != plan.Prune {
		c.After, c.File, c.Line, c.Images = st.digestOf(spec, keyed, *d), d.Origin.File, d.Origin.Line, st.runs[a.ID]
	}
	if a.Op == plan.Revert {
		c.By = a.Observed.By
	}
	for _, p := range a.Surplus {
		c.Added = append(c.Added, p.String())
	}
	return c
}

// changed is what came of one action, and notes what is live now.
func (st *state) changed(spec Spec, e *Engine, o apply.ObjectResult) audit.Change {
	a := o.Action
	c := audit.Change{
		Object: audit.ObjectName(a.ID, a.Kind.GVK.Version), Operation: string(a.Op),
		Outcome: string(o.Outcome), UID: string(o.Record.UID),
	}
	if o.Err != nil {
		c.Message = fault.From(o.Err).Msg
	}
	switch o.Outcome {
	case apply.Created, apply.Configured, apply.Reverted, apply.Unchanged:
		if a.Desired != nil {
			c.After = st.digestOf(spec, e.Digest, *a.Desired)
			if st.sent == nil {
				st.sent = map[object.ID]string{}
			}
			st.sent[a.ID] = c.After
		}
	case apply.Pruned:
		delete(st.sent, a.ID)
	default: // what is live is what was
	}
	return c
}

// digestOf is the digest of an object as it is applied. That of a Secret is keyed,
// and so are those of all objects of a delivery with variables, which may come from
// one, or with sealed files: nobody can guess values by it.
func (st *state) digestOf(spec Spec, keyed Digester, d plan.Desired) string {
	if isSecret(d.ID) || spec.Substitute != nil || st.opened {
		return keyedDigest(keyed(d.Body.Reveal()))
	}
	sum := sha256.Sum256(d.Body.Reveal())
	return "sha256:" + hex.EncodeToString(sum[:])
}

func isSecret(id object.ID) bool { return id.Group == "" && id.Kind == "Secret" }

func keyedDigest(sum [32]byte) string { return "hmac-sha256:" + hex.EncodeToString(sum[:]) }

// renderOf is what was rendered, from what.
func renderOf(spec Spec, trace tree.Trace) *audit.Render {
	r := &audit.Render{Tool: string(spec.Render.Tool), Path: spec.Render.Path, Inputs: map[string]string{}}
	for _, read := range trace {
		switch {
		case read.Op != tree.OpFile:
		case len(r.Inputs) == maxInputs:
			r.More++
		default:
			r.Inputs[read.Path] = read.Digest.String()
		}
	}
	return r
}
