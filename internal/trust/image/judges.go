package image

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/trust"
)

// judges are the authorities of demands with their keys parsed.
type judges struct{ policies []judge }

// judge verifies for one policy.
type judge struct {
	policy   string
	claims   map[string][]authority // who may make which claim
	problems []string               // of keys that cannot be used
}

// checker is what an authority knows signers by.
type checker interface {
	// verify returns who signed s, and when as far as that is proven. Errors are
	// *fault.Error: Refused if it was somebody else, Unsupported if the checker is
	// not for signatures of this kind.
	verify(ctx context.Context, s signed, n object.ImageName) (signer, error)
}

// signer is whom a verifier found.
type signer struct {
	identity, issuer string
	fingerprint      string
	chain            []string  // fingerprints of the certificates above it
	at               time.Time // zero: not proven
	expires          time.Time // of the signature; zero: never
	ends             time.Time // of its certificates; zero: never, or it does not matter
}

// authority is a trust.Authority with its keys parsed.
type authority struct {
	trust.Authority

	kind string
	checker
}

// judgesOf returns the judges of demands, parsed once for each version.
func (e *Examiner) judgesOf(d trust.Demands) *judges {
	if j, ok := e.judges.get(d.Version, time.Time{}); ok {
		return j
	}
	j := &judges{}
	for _, p := range d.Policies {
		j.policies = append(j.policies, newJudge(p))
	}
	e.judges.put(d.Version, j, time.Time{})
	return j
}

// newJudge parses the keys of a policy.
func newJudge(p trust.Policy) judge {
	j := judge{policy: p.Name, claims: map[string][]authority{}}
	if p.Images == nil || p.Broken != "" {
		return j
	}
	// Authorities of one name in two places may hold different keys: each claim has
	// its own.
	add := func(claim string, own []trust.Authority) {
		if len(own) == 0 {
			own = p.Images.Authorities
		}
		j.claims[claim] = nil
		for _, a := range own {
			known, err := newAuthority(a)
			if err != nil {
				j.problems = append(j.problems, fmt.Sprintf("policy %s: authority %s: %s", p.Name, a.Name, err))
				continue
			}
			j.claims[claim] = append(j.claims[claim], known)
		}
	}
	if len(p.Images.Authorities) > 0 {
		add(trust.ClaimSignature, nil)
	}
	if p.Images.Provenance != nil {
		add(trust.ClaimProvenance, p.Images.Provenance.Authorities)
	}
	if p.Images.Scan != nil {
		add(trust.ClaimScan, p.Images.Scan.Authorities)
	}
	if p.Images.SBOM != nil {
		add(trust.ClaimSBOM, p.Images.SBOM.Authorities)
	}
	return j
}

// Check reports what is wrong with an authority for images: its keys cannot be read,
// are too weak, or of a kind that is not supported. Errors: Invalid, Unsupported.
func Check(a trust.Authority) error {
	kinds := 0
	for _, keys := range [][]byte{a.GPG, a.SSH, a.X509, a.Key, a.Notation} {
		kinds += min(1, len(keys))
	}
	if a.Sigstore != nil {
		kinds++
	}
	if kinds > 1 {
		return fault.New(fault.Invalid, "it has several kinds of keys").WithHint("make an authority of each")
	}
	_, err := newAuthority(a)
	return err
}

// newAuthority parses the keys of an authority. Errors: Invalid, Unsupported.
func newAuthority(a trust.Authority) (authority, error) {
	var v checker
	var kind string
	var err error
	switch {
	case len(a.Key) > 0:
		kind = "key"
		v, err = newKey(a.Key)
	case a.Sigstore != nil:
		kind = "sigstore"
		v, err = newCertified(*a.Sigstore)
	case len(a.Notation) > 0:
		kind = "notation"
		v, err = newNotary(a.Notation)
	default:
		err = fault.New(fault.Unsupported, "it has neither key nor sigstore nor notation, and nothing else signs images").
			WithHint("name the Secret or ConfigMap with its key")
	}
	return authority{Authority: a, kind: kind, checker: v}, err
}

// wanted returns the claims that these policies ask for.
func (j *judges) wanted(indices []int) wanted {
	w := wanted{claims: map[string]bool{}}
	for _, i := range indices {
		for claim := range j.policies[i].claims {
			w.claims[claim] = true
		}
	}
	return w
}

// proven is what a judge found.
type proven struct {
	proofs   []trust.Proof
	problems []string
	until    time.Time // when it has to be judged again; zero: never
	whole    bool      // every claim that is asked for was made by somebody
}

// prove verifies what is attached to n for each claim that the policy asks for.
func (j judge) prove(ctx context.Context, attached []artifact, n object.ImageName, now time.Time) proven {
	result := proven{problems: slices.Clone(j.problems), until: j.boundary(now)}
	made := map[string]bool{}
	for _, a := range attached {
		s, err := read(a)
		if err != nil {
			result.problems = append(result.problems, fmt.Sprintf("policy %s: %s: %s", j.policy, a, err))
			continue
		}
		judging, asked := j.claims[s.claim]
		if !asked {
			continue
		}
		p, expires, err := j.judge(ctx, s, judging, n, now)
		if err != nil {
			result.problems = append(result.problems, fmt.Sprintf("policy %s: %s: %s", j.policy, a, err))
			continue
		}
		p.Layout, p.Artifact = a.layout, a.manifest
		made[s.claim] = true
		result.proofs = append(result.proofs, p)
		if expires.After(now) {
			result.until = earliest(result.until, expires)
		}
	}
	result.whole = len(made) == len(j.claims)
	return result
}

// judge returns the proof that s is by the first authority that knows it, and says
// what it claims of n. Errors are *fault.Error, of the authority that came nearest.
func (j judge) judge(ctx context.Context, s signed, judging []authority, n object.ImageName, now time.Time) (trust.Proof, time.Time, error) {
	if err := s.names(n); err != nil {
		return trust.Proof{}, time.Time{}, err
	}
	if len(judging) == 0 {
		return trust.Proof{}, time.Time{}, fault.New(fault.Refused, "nobody is named who may sign a %s", s.claim)
	}
	var problem error
	for _, a := range judging {
		who, err := a.verify(ctx, s, n)
		if err == nil {
			err = a.counts(who, now)
		}
		if err != nil {
			if problem == nil || fault.KindOf(problem) == fault.Unsupported {
				problem = prefixed(a.Name, err)
			}
			continue
		}
		p := trust.Proof{SignedAt: who.at, Claim: s.claim, Signer: trust.Signer{
			Policy: j.policy, Authority: a.Name, Kind: a.kind,
			Fingerprint: who.fingerprint, Identity: who.identity, Issuer: who.issuer,
		}}
		if s.statement != nil && s.claim != trust.ClaimSignature {
			err = s.statement.claim(&p)
		}
		return p, earliest(who.expires, who.ends), err
	}
	return trust.Proof{}, time.Time{}, problem
}

// prefixed names the authority in an error.
func prefixed(name string, err error) error {
	own := *fault.From(err)
	own.Msg = "authority " + name + ": " + own.Msg
	return &own
}

// boundary returns when an authority next begins or ends to count; zero: never.
func (j judge) boundary(now time.Time) time.Time {
	var first time.Time
	for list := range maps.Values(j.claims) {
		for _, a := range list {
			for _, t := range []time.Time{a.NotBefore, a.NotAfter} {
				if t.After(now) {
					first = earliest(first, t)
				}
			}
		}
	}
	return first
}

// earliest returns the earlier of two times, where zero is never.
func earliest(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
