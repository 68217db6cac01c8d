package delivery

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/holdfastcd/holdfast/internal/audit"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/source"
	"github.com/holdfastcd/holdfast/internal/trust"
)

// Commits verifies revisions; *commit.Verifier is one.
type Commits interface {
	// Verify judges a revision by the demands. last is the commit of the same
	// repository that the delivery delivered, proven, before; "" for none. Errors
	// are *fault.Error and name the commit and what to do.
	Verify(ctx context.Context, r source.Revision, d trust.Demands, last string) (trust.Verified, error)
}

// Alert is what people should hear of once, as an event.
type Alert struct {
	Reason, Message string
}

// The reasons of alerts.
const (
	// AlertRewound: a branch lost the commit that was delivered last.
	AlertRewound = "HistoryRewound"
	// AlertUnproven: a demand did not hold of a policy that only audits.
	AlertUnproven = "TrustUnproven"
	// AlertRefused: what was demanded was not proven, and nothing is delivered.
	AlertRefused = "VerificationError"
)

// untrusted marks an error as one of trust: one that names no policy that refuses is
// by all of them.
func untrusted(err error) error {
	if isUntrusted(err) {
		return err
	}
	f := fault.From(err)
	return f.Because(errors.Join(trust.RefusedError{}, f.Cause))
}

// isUntrusted reports whether an error is a refusal of trust.
func isUntrusted(err error) bool {
	_, ok := errors.AsType[trust.RefusedError](err)
	return ok
}

// proof is what came of verifying a revision. It stands for the same commit under
// the same demands: a pass with nothing to do verifies nothing.
type proof struct {
	url, ref, commit, version string

	evidence trust.Evidence
	// upon names the policies that the commit was proven to since which this one was
	// judged; nil: it was judged since the first commit that each policy trusts.
	upon *string
	err  error
	at   time.Time
}

// holds reports whether p answers for spec.
func (p *proof) holds(spec Spec, now time.Time) bool {
	if p == nil || p.commit != spec.Revision.Commit || p.url != spec.Revision.URL || p.version != spec.Trust.Version {
		return false
	}
	if p.ref == "" && spec.Revision.Ref() != "" { // whoever names a commit may mean an older one; a branch may not
		return false
	}
	return p.err == nil || fault.KindOf(p.err).Terminal() && now.Sub(p.at) < retryLimit
}

// verify returns the revision of a spec as one that proved what is demanded of it,
// from memory where that was found out before. Errors are those of [Commits].
func (e *Engine) verify(ctx context.Context, spec Spec, st *state) (trust.Verified, error) {
	now := e.Clock()
	if p := st.proof; p.holds(spec, now) {
		return trust.Vouch(spec.Revision, p.evidence, spec.Trust), p.err
	}
	if e.Commits == nil {
		if len(spec.Trust.Policies) > 0 {
			return trust.Verified{}, untrusted(fault.New(fault.Internal, "nothing can be verified here"))
		}
		return trust.Vouch(spec.Revision, trust.Evidence{}, spec.Trust), nil
	}
	last, err := e.last(spec)
	var verified trust.Verified
	base := ""
	if err == nil {
		verified, base, err = e.judge(ctx, spec, last)
	}
	if ctx.Err() != nil {
		return verified, err // it says nothing of the revision
	}
	if err != nil {
		err = untrusted(err)
	}
	before := st.proof
	st.proof = &proof{
		url: spec.Revision.URL, ref: spec.Revision.Ref(), commit: spec.Revision.Commit, version: spec.Trust.Version,
		evidence: verified.Evidence(), err: err, at: now,
	}
	if base != "" && !verified.Evidence().Rewound {
		st.proof.upon = &last.Verified
	}
	if before.news(st.proof) {
		e.alarm(ctx, spec, st, last)
	}
	return verified, err
}

// news reports whether next says something that p did not.
func (p *proof) news(next *proof) bool {
	return p == nil || p.commit != next.commit || p.url != next.url || p.version != next.version ||
		(p.err == nil) != (next.err == nil) || p.err != nil && fault.KindOf(p.err) != fault.KindOf(next.err)
}

// last returns what was delivered last. Where something is demanded, that must be
// known: else a branch could be rewound, and a range be judged from anywhere.
func (e *Engine) last(spec Spec) (audit.Source, error) {
	last, _, err := e.Audit.Last(spec.ID.String())
	if err == nil || len(spec.Trust.Policies) == 0 {
		return last.Source, nil
	}
	f := fault.From(err)
	return audit.Source{}, fault.New(fault.Internal, "what was delivered last cannot be told by the audit log: %s", f.Msg).
		WithHint("%s", f.Hint).Because(err)
}

// judge has a revision verified, from the right base on, which it returns, too.
func (e *Engine) judge(ctx context.Context, spec Spec, last audit.Source) (v trust.Verified, base string, err error) {
	if last.Commit != "" && last.URL == spec.Revision.URL {
		if base, err = baseOf(ctx, spec, last); err != nil {
			return trust.Verified{}, "", err
		}
	}
	v, err = e.Commits.Verify(ctx, spec.Revision, spec.Trust, base)
	return v, base, err
}

// baseOf returns the commit since which a revision has to be judged: the one that
// was delivered last, as the audit log remembers it and nobody else. What was
// delivered before a policy enforced proves nothing to it; and who asks for a commit
// by its id may mean an older one, which is not a branch that was rewound.
func baseOf(ctx context.Context, spec Spec, last audit.Source) (string, error) {
	history := spec.Revision.History
	byID := spec.Revision.Ref() == ""
	proven := provenTo(spec.Trust, last.Verified)
	if proven && !byID || history == nil || last.Commit == spec.Revision.Commit && proven {
		return last.Commit, nil
	}
	contains, err := history.Contains(ctx, last.Commit)
	switch {
	case err != nil:
		return "", err
	case byID && !contains, contains && !proven:
		return "", nil
	}
	return last.Commit, nil
}

// provenTo reports whether every policy that enforces the proof of commits is among
// those, named by provenBy, that a delivered commit was proven to.
func provenTo(d trust.Demands, provenBy string) bool {
	for _, p := range d.Policies {
		if p.Commits != nil && !p.Audit && !isNamed(provenBy, p.Name) {
			return false
		}
	}
	return true
}

// provenBy names the policies that a revision was proven to. One that only audits has
// no say in where a range begins: it is named only where it was named before.
func (p *proof) provenBy(d trust.Demands) string {
	var list []string
	for _, q := range d.Policies {
		whole := q.Commits == nil || !q.Commits.Range || p.upon == nil || isNamed(*p.upon, q.Name)
		if q.Commits != nil && (!q.Audit || len(p.evidence.Unproven) == 0 && whole) {
			list = append(list, q.Name)
		}
	}
	return strings.Join(list, ",")
}

// isNamed reports whether a policy is among those that provenBy names.
func isNamed(provenBy, policy string) bool { return strings.Contains(","+provenBy+",", ","+policy+",") }

// alarm tells, and records, what was found out about a revision for the first time.
func (e *Engine) alarm(ctx context.Context, spec Spec, st *state, last audit.Source) {
	p := st.proof
	rewound := p.evidence.Rewound || p.err != nil && lost(ctx, spec.Revision, last)
	if rewound {
		text := fmt.Sprintf("the history of %s was rewritten: %s does not contain %s, which was delivered last",
			spec.Revision.URL, spec.Revision.Commit, last.Commit)
		st.alerts = append(st.alerts, Alert{AlertRewound, text})
		entry := e.entry(spec, st, audit.Rewind)
		entry.Reason = text
		e.later(st, entry, nil)
	}
	for _, u := range p.evidence.Unproven {
		st.alerts = append(st.alerts, Alert{AlertUnproven, u})
	}
}

// lost reports whether a revision is known not to contain what was delivered last.
func lost(ctx context.Context, r source.Revision, last audit.Source) bool {
	if r.History == nil || r.Ref() == "" || last.Commit == "" || last.URL != r.URL {
		return false
	}
	contains, err := r.History.Contains(ctx, last.Commit)
	return err == nil && !contains
}

// judged tells which policies refuse a delivery, or would, if that is new.
func (e *Engine) judged(spec Spec, st *state, report Report) {
	if e.Judged == nil || report.Err != nil && !report.Untrusted && report.Err.Kind != fault.Waiting {
		return // it says nothing of trust
	}
	var refusing []string
	if report.Untrusted {
		refusing = spec.Trust.Refusing(report.Err)
	}
	unproven := st.unprovenTo(spec.Trust)
	now := strings.Join([]string{strings.Join(refusing, ","), strings.Join(unproven, ","), spec.Trust.Version}, " ")
	if st.judged == nil || *st.judged != now {
		st.judged = &now
		e.Judged(spec.ID, refusing, unproven)
	}
}
