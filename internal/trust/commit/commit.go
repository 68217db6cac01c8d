// Package commit verifies who signed the commits and tags of a revision. It judges
// the bytes that Git hashed, never a parse that was encoded again, so that a signature
// which is right for another commit is wrong for this one.
//
// Signatures are those that git makes: OpenPGP (RFC 9580), SSH (OpenSSH's
// PROTOCOL.sshsig, with allowed_signers), and CMS (X.509, and gitsign's with a
// certificate of Sigstore).
package commit

import (
	"context"
	"crypto/sha256"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/source"
	"github.com/holdfastcd/holdfast/internal/trust"
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
			e.Unproven, e.UnprovenTo = append(e.Unproven, problem.Error()), append(e.UnprovenTo, p.Name)
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
