// Package commit verifies who signed the commits and tags of a revision. It judges
// the bytes that Git hashed, never a parse that was encoded again, so that a signature
// which is right for another commit is wrong for this one.
//
// Signatures are those that git makes: OpenPGP (RFC 9580), SSH (OpenSSH's
// PROTOCOL.sshsig, with allowed_signers), and CMS (X.509, and gitsign's with a
// certificate of Sigstore).
package commit

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/source"
	"github.com/holdfastcd/holdfast/internal/trust"
)

const (
	maxRange    = 50_000 // commits judged at once
	maxEvidence = 100    // commits told
	maxResults  = 20_000
	maxSpans    = 1_000
	maxKeyrings = 1_000
	// refusedFor is how long a signature that was refused is not looked at again.
	refusedFor = time.Minute
)

// Options configure a verifier. Zero fields take the defaults.
type Options struct {
	Clock func() time.Time // default time.Now
	Log   *slog.Logger     // default none
}

// Verifier verifies revisions. It remembers what it verified, and is safe for
// concurrent use.
type Verifier struct {
	now func() time.Time
	log *slog.Logger

	mu          sync.Mutex
	authorities map[[sha256.Size]byte]*authority
	results     map[question]result
	spans       map[span]proven        // ranges that were proven, whole
	busy        map[span]chan struct{} // ranges that are being judged
}

// span is a range of commits as one policy judges it. Ids stand for all that is
// behind them, so that what was proven of one stays so under the same policy.
type span struct{ commit, base, policy, version string }

// proven is what is kept of a range: how many commits it has, and those to tell.
type proven struct {
	told   []trust.Commit
	judged int
}

// question is what a result answers: the bytes, the keys, and the time that counts.
type question struct {
	object, authority [sha256.Size]byte
	floor             int64
}

type result struct {
	found []finding
	err   error
	at    time.Time
}

// New returns a verifier.
func New(o Options) *Verifier {
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Verifier{
		now: o.Clock, log: o.Log, authorities: map[[sha256.Size]byte]*authority{}, results: map[question]result{},
		spans: map[span]proven{}, busy: map[span]chan struct{}{},
	}
}

// Verify judges a revision by what is demanded of it. last is the commit of the same
// repository that was delivered, and proven, before; "" for none. What policies that
// only audit miss is among the evidence. Errors are *fault.Error: Refused where
// something is not proven, with the commit, its author, the policy and what to do, and
// [trust.RefusedError] for all policies that refuse as their cause; else those of
// [source.History]. With an error, the result holds the evidence alone,
// and no revision.
func (v *Verifier) Verify(ctx context.Context, r source.Revision, d trust.Demands, last string) (trust.Verified, error) {
	var e trust.Evidence
	contained, err := v.contained(ctx, r, d, last)
	if err != nil {
		return trust.Verified{}, err
	}
	e.Rewound = last != "" && !contained
	if !contained {
		last = ""
	}
	var refusal error
	var by trust.RefusedError
	for _, p := range d.Policies {
		problem := v.judge(ctx, r, p, d.Version, last, &e)
		switch {
		case problem == nil:
			continue
		case p.Audit:
			e.Unproven = append(e.Unproven, problem.Error())
			continue
		}
		by = append(by, p.Name)
		if refusal == nil || fault.KindOf(refusal) == fault.Refused && fault.KindOf(problem) != fault.Refused {
			refusal = problem // one that may pass by itself says more
		}
	}
	if refusal != nil {
		f := fault.From(refusal)
		return trust.Vouch(source.Revision{}, e, d), f.Because(errors.Join(by, f.Cause))
	}
	return trust.Vouch(r, e, d), nil
}

// contained reports whether a revision has the commit that was delivered last among
// its ancestors. If nobody demands anything, what cannot be found out is no obstacle.
func (v *Verifier) contained(ctx context.Context, r source.Revision, d trust.Demands, last string) (bool, error) {
	if last == "" || last == r.Commit || r.History == nil {
		return last != "", nil
	}
	contained, err := r.History.Contains(ctx, last)
	if err != nil && len(d.Policies) == 0 {
		v.log.WarnContext(ctx, "it was not found out whether the branch was rewound", "repository", r.URL, "error", err)
		return true, nil
	}
	return contained, err
}

// judge returns why a policy does not hold. Its evidence is added.
func (v *Verifier) judge(ctx context.Context, r source.Revision, p trust.Policy, version, last string, e *trust.Evidence) error {
	switch {
	case p.Broken != "":
		return fault.New(fault.Refused, "policy %q cannot be judged: %s", p.Name, p.Broken).WithHint("correct the TrustPolicy, or what it refers to")
	case e.Rewound && !p.Rewind:
		return fault.New(fault.Refused, "policy %q: the branch was rewound: commit %s does not contain the commit that was delivered last", p.Name, r.Commit).
			WithHint("push a commit on top of the one that was delivered, or set spec.history.rewind of the TrustPolicy to allow")
	case p.Commits == nil:
		return nil
	case r.History == nil:
		return fault.New(fault.Refused, "policy %q demands signed commits, and this source has none", p.Name).WithHint("deliver from a Git repository")
	}
	j, err := v.newJudge(r, p, version)
	if err != nil {
		return err
	}
	if p.Commits.Range {
		return j.span(ctx, last, e)
	}
	return j.head(ctx, last, e)
}

// judge is one policy about the commits of one revision.
type judge struct {
	*source.Revision

	v           *Verifier
	policy      string
	version     string // of all that is demanded; "" if that has none
	demand      trust.Commits
	authorities []*authority
	forge       []*authority
	now         time.Time
}

func (v *Verifier) newJudge(r source.Revision, p trust.Policy, version string) (*judge, error) {
	j := &judge{Revision: &r, v: v, policy: p.Name, version: version, demand: *p.Commits, now: v.now()}
	for _, group := range []struct {
		from []trust.Authority
		to   *[]*authority
	}{{p.Commits.Authorities, &j.authorities}, {p.Commits.Forge, &j.forge}} {
		for _, a := range group.from {
			read, err := v.authority(a)
			if err != nil {
				f := fault.From(err)
				return nil, fault.New(fault.Refused, "policy %q cannot be judged: %s", p.Name, f.Msg).WithHint("%s", f.Hint)
			}
			*group.to = append(*group.to, read)
		}
	}
	if len(j.authorities) == 0 {
		return nil, fault.New(fault.Refused, "policy %q cannot be judged: it names nobody who may sign commits", p.Name).WithHint("add an authority")
	}
	return j, nil
}

// authority returns an authority with its keys read, from memory if it was before.
func (v *Verifier) authority(a trust.Authority) (*authority, error) {
	digest := digestOfAuthority(a)
	v.mu.Lock()
	known := v.authorities[digest]
	v.mu.Unlock()
	if known != nil {
		return known, nil
	}
	read, err := readAuthority(a)
	if err != nil {
		return nil, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.authorities) >= maxKeyrings {
		clear(v.authorities)
	}
	v.authorities[digest] = read
	return read, nil
}

// object is one commit or tag to be judged.
type object struct {
	id    string
	raw   []byte
	floor time.Time
	tag   bool

	signed

	malformed error
}

// head judges the revision's commit, or the tag that it was found by. What is behind
// the commit that was delivered last tells no more than that it is not older.
func (j *judge) head(ctx context.Context, last string, e *trust.Evidence) error {
	if j.Commit == j.demand.From[j.URL] {
		e.Base = j.Commit
		return nil
	}
	c, err := j.read(ctx, j.Commit)
	if err != nil {
		return err
	}
	if last != "" && last != j.Commit {
		before, err := j.read(ctx, last)
		if err != nil {
			return err
		}
		c.floor = before.made
	}
	told := []trust.Commit{j.examine(c)}
	if told[0].Signer == nil {
		if tag, ok, err := j.examineTag(ctx, c.floor); err != nil {
			return err
		} else if ok {
			told = append(told, tag)
		}
	}
	e.Judged++
	return j.conclude(told, e)
}

// span judges every commit since the last one that was proven, or else since the one
// that is named as the first to trust.
func (j *judge) span(ctx context.Context, last string, e *trust.Evidence) error {
	base := cmp.Or(last, j.demand.From[j.URL])
	key := span{j.Commit, base, j.policy, j.version}
	known, done, err := j.v.wait(ctx, key)
	if err != nil {
		return err
	}
	e.Base = base
	if done == nil {
		e.Judged += known.judged
		e.Commits = tell(e.Commits, known.told, nil)
		return nil
	}
	defer done()
	told, err := j.examineSpan(ctx, base, last)
	if err != nil {
		return err
	}
	e.Judged += len(told)
	if err := j.conclude(told, e); err != nil {
		return err
	}
	if j.version != "" {
		j.v.remember(key, proven{slices.Clone(told[:min(len(told), maxEvidence)]), len(told)})
	}
	return nil
}

// wait returns what was proven of a range. If nothing was yet, done is not nil: the
// caller judges it, and others who ask for the same wait until it calls done. Errors:
// Unreachable, if the context ends.
func (v *Verifier) wait(ctx context.Context, key span) (known proven, done func(), err error) {
	for {
		v.mu.Lock()
		known, ok := v.spans[key]
		running := v.busy[key]
		if !ok && running == nil {
			v.busy[key] = make(chan struct{})
		}
		v.mu.Unlock()
		switch {
		case ok:
			return known, nil, nil
		case running == nil:
			return proven{}, func() { v.leave(key) }, nil
		}
		select {
		case <-running:
		case <-ctx.Done():
			return proven{}, nil, fault.New(fault.Unreachable, "the commits were not verified in time").Because(ctx.Err())
		}
	}
}

func (v *Verifier) leave(key span) {
	v.mu.Lock()
	defer v.mu.Unlock()
	close(v.busy[key])
	delete(v.busy, key)
}

func (v *Verifier) remember(key span, p proven) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.spans) >= maxSpans {
		clear(v.spans)
	}
	v.spans[key] = p
}

// examineSpan judges the commits since base.
func (j *judge) examineSpan(ctx context.Context, base, last string) ([]trust.Commit, error) {
	ids, err := j.since(ctx, base)
	if err != nil {
		return nil, err
	}
	told, err := j.examineAll(ctx, base, ids)
	if err != nil {
		return nil, err
	}
	first := j.demand.From[j.URL]
	if first != "" && last != "" && first != last && slices.ContainsFunc(told, unproven) {
		told = j.behindFirst(ctx, first, told)
	}
	return told, nil
}

func unproven(c trust.Commit) bool { return c.Signer == nil }

// since lists the commits to judge. Errors: Refused if base is not among the ancestors.
func (j *judge) since(ctx context.Context, base string) ([]string, error) {
	ids, err := j.History.Since(ctx, base, !j.demand.All)
	switch {
	case err != nil && fault.KindOf(err) == fault.NotFound:
		return nil, fault.New(fault.Refused, "policy %q: commit %s does not contain %s, the first commit to trust", j.policy, j.Commit, base).
			WithHint("name one that the branch contains, in the TrustPolicy's spec.commits.from for %s", j.URL)
	case err != nil:
		return nil, err
	case len(ids) > maxRange:
		return nil, fault.New(fault.Refused, "policy %q: there are %d commits to judge, %d are allowed at once", j.policy, len(ids), maxRange).
			WithHint("name a later first commit to trust, in the TrustPolicy's spec.commits.from for %s", j.URL)
	}
	return ids, nil
}

// behindFirst drops what is behind the first commit to trust, where that was named
// later than the last delivery was proven.
func (j *judge) behindFirst(ctx context.Context, first string, told []trust.Commit) []trust.Commit {
	ids, err := j.History.Since(ctx, first, !j.demand.All)
	if err != nil {
		return told // it is elsewhere, or cannot be found out: then nothing is spared
	}
	wanted := map[string]bool{}
	for _, id := range ids {
		wanted[id] = true
	}
	return slices.DeleteFunc(told, func(c trust.Commit) bool { return !wanted[c.ID] })
}

// examineAll judges commits that are listed children first, and finds out for each how
// old it can be at most, by its ancestors in the list and the base.
func (j *judge) examineAll(ctx context.Context, base string, ids []string) ([]trust.Commit, error) {
	youngest := map[string]time.Time{} // of a commit and its ancestors
	if base != "" && len(ids) > 0 {
		b, err := j.read(ctx, base)
		if err != nil {
			return nil, err
		}
		youngest[base] = b.made
	}
	told := make([]trust.Commit, len(ids))
	for i, id := range slices.Backward(ids) {
		c, err := j.read(ctx, id)
		if err != nil {
			return nil, err
		}
		for _, p := range c.parents {
			c.floor = latest(c.floor, youngest[p])
		}
		youngest[id] = latest(c.floor, c.made)
		told[i] = j.examine(c)
	}
	return told, nil
}

func latest(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// read returns a commit, whose bytes are those that Git hashed.
func (j *judge) read(ctx context.Context, id string) (object, error) {
	raw, err := j.History.Commit(ctx, id)
	if err != nil {
		return object{}, err
	}
	if !hashes("commit", id, raw) {
		return object{}, fault.New(fault.Internal, "commit %s has other content than its id stands for", id)
	}
	o := object{id: id, raw: raw}
	o.signed, o.malformed = parseCommit(raw)
	return o, nil
}

// examineTag judges the annotated tag by which the revision was found; false if there is none.
func (j *judge) examineTag(ctx context.Context, floor time.Time) (trust.Commit, bool, error) {
	id, raw, err := j.History.Tag(ctx)
	if err != nil || id == "" {
		return trust.Commit{}, false, err
	}
	if !hashes("tag", id, raw) {
		return trust.Commit{}, false, fault.New(fault.Internal, "tag %s has other content than its id stands for", id)
	}
	o := object{id: id, raw: raw, tag: true, floor: floor}
	switch o.signed, o.malformed = parseTag(raw); {
	case o.malformed != nil: // which is what is told of it
	case o.kind != "commit":
		o.malformed = fmt.Errorf("it points to a %.20s: only tags of commits are judged", o.kind)
	case o.target != j.Commit:
		o.malformed = errors.New("it points to another commit than the one that is delivered")
	case o.name != j.Tag:
		o.malformed = fmt.Errorf("it calls itself %.80q, and was found as %.80q", o.name, j.Tag)
	}
	return j.examine(o), true, nil //nolint:nilerr // what is wrong with a tag is said of it
}

// examine says who signed an object, or why that is not proven.
func (j *judge) examine(o object) trust.Commit {
	c := trust.Commit{ID: o.id, Tag: o.tag, Author: o.by.String()}
	if o.by == (ident{}) {
		c.Author = "somebody"
	}
	err := o.malformed
	if err == nil && len(o.signature) == 0 {
		err = errUnsigned
	}
	if t := latest(o.made, o.floor); err == nil && t.After(j.now.Add(trust.Skew)) {
		err = fmt.Errorf("it is dated %s, or follows what is, and now it is %s: a clock is wrong, theirs or ours", stamp(t), stamp(j.now))
	}
	if err != nil {
		c.Problem = err.Error()
		return c
	}
	author := ""
	if j.demand.AuthorMatches {
		author = o.by.address
		if author == "" {
			c.Problem = "its author has no address, and must be the signer"
			return c
		}
	}
	if c.Signer, c.SignedAt, err = j.signer(o, j.authorities, author); err == nil {
		return c
	}
	if len(o.parents) > 1 && len(j.forge) > 0 {
		signer, at, other := j.signer(o, j.forge, "")
		if other == nil {
			c.Signer, c.SignedAt = signer, at
			return c
		}
		err = telling(err, other)
	}
	c.Problem = err.Error()
	return c
}

// signer returns the first of the authorities who signed.
func (j *judge) signer(o object, authorities []*authority, author string) (*trust.Signer, time.Time, error) {
	var refusal error
	for _, a := range authorities {
		found, err := j.v.verify(a, o, j.now)
		if err != nil {
			refusal = telling(refusal, err)
			continue
		}
		for _, f := range found {
			if err := a.accept(f, author); err != nil {
				refusal = telling(refusal, err)
				continue
			}
			return a.signer(j.policy, f, o.by.address), f.proven, nil
		}
	}
	return nil, time.Time{}, refusal
}

// telling returns that of two refusals which says more than that a key is unknown.
func telling(a, b error) error {
	var unknown unknownError
	if a == nil || errors.As(a, &unknown) {
		return b
	}
	return a
}

// verify is an authority's, from memory where it was asked the same before.
func (v *Verifier) verify(a *authority, o object, now time.Time) ([]finding, error) {
	q := question{digestOf(o.raw), a.digest, o.floor.Unix()}
	v.mu.Lock()
	known, ok := v.results[q]
	v.mu.Unlock()
	if ok && (known.err == nil || now.Sub(known.at) < refusedFor) {
		return known.found, known.err
	}
	found, err := a.verify(o.signed, times{made: o.made, floor: o.floor, now: now})
	for _, f := range found {
		if err == nil && f.proven.IsZero() && f.at.to.After(now.Add(trust.Skew)) {
			err = fmt.Errorf("its signature is dated %s, and now it is %s: a clock is wrong, theirs or ours", stamp(f.at.to), stamp(now))
		}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.results) >= maxResults {
		clear(v.results)
	}
	v.results[q] = result{found, err, now}
	return found, err
}

// conclude adds what was found to the evidence, and refuses if something is not
// proven. If a commit and its tag were judged, one of them suffices.
func (j *judge) conclude(told []trust.Commit, e *trust.Evidence) error {
	tagged := slices.ContainsFunc(told, func(c trust.Commit) bool { return c.Tag && c.Signer != nil })
	var missing []trust.Commit
	for _, c := range told {
		if c.Signer == nil && !tagged {
			missing = append(missing, c)
		}
	}
	e.Commits = tell(e.Commits, told, missing)
	if len(missing) == 0 {
		return nil
	}
	worst := missing[0]
	if len(missing) == 2 && missing[1].Tag && missing[0].Problem == errUnsigned.Error() {
		worst = missing[1]
	}
	return j.refusal(worst, len(missing)-1)
}

// tell adds commits to the evidence, as many as fit, and the first one that is missing
// in any case.
func tell(evidence, told, missing []trust.Commit) []trust.Commit {
	room := max(0, maxEvidence-len(evidence))
	short := told[:min(len(told), room)]
	evidence = append(evidence, short...)
	if len(missing) > 0 && len(evidence) > 0 && !slices.ContainsFunc(short, func(c trust.Commit) bool { return c.ID == missing[0].ID }) {
		evidence[len(evidence)-1] = missing[0]
	}
	return evidence
}

func (j *judge) refusal(c trust.Commit, more int) error {
	what := "commit"
	if c.Tag {
		what = "tag"
	}
	var names []string
	for _, a := range j.authorities {
		names = append(names, a.Name)
	}
	also := ""
	if more > 0 && !c.Tag {
		also = fmt.Sprintf("; and so for %d more", more)
	}
	hint := "push a commit on top, signed by an authority of the policy: " + strings.Join(names, ", ")
	if j.demand.Range || c.Tag { // one on top does not help; what is not delivered yet may be replaced
		hint = "have it signed anew by an authority of the policy: " + strings.Join(names, ", ")
	}
	if j.demand.Range && j.demand.From[j.URL] == "" {
		hint += fmt.Sprintf("; or name the first commit to trust in the TrustPolicy's spec.commits.from for %s", j.URL)
	}
	return fault.New(fault.Refused, "policy %q: %s %s by %s is not proven: %s%s", j.policy, what, c.ID, c.Author, c.Problem, also).WithHint("%s", hint)
}
