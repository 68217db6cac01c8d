package policy

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/trust"
)

const digest = "sha256:0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a"

// proof is a proof of a claim to policy p by authority a.
func proof(claim string, change ...func(*trust.Proof)) trust.Proof {
	p := trust.Proof{Claim: claim, Signer: trust.Signer{Policy: "p", Authority: "a"}}
	for _, c := range change {
		c(&p)
	}
	return p
}

func TestImages(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	a := []trust.Authority{{Name: "a"}}
	scanned := func(worst string, ago time.Duration) trust.Proof {
		return proof(trust.ClaimScan, func(p *trust.Proof) { p.Worst, p.ScannedAt = worst, now.Add(-ago) })
	}
	tests := []struct {
		reason string
		image  trust.Image
		demand trust.Images
		want   map[string]string // outcome by rule
		says   string            // in the refusal
	}{
		{reason: "nothing is demanded of it", image: trust.Image{Name: "nginx:1", Digest: digest}, want: map[string]string{}},
		{reason: "it is not meant", image: trust.Image{Name: "nginx:1"}, demand: trust.Images{Match: []string{"ghcr.io"}, Pinned: true}, want: map[string]string{}},
		{reason: "its name cannot be read", image: trust.Image{Name: "NGINX"}, demand: trust.Images{Match: []string{"ghcr.io"}}, want: map[string]string{RuleName: Fail}, says: "NGINX"},
		{reason: "not pinned", image: trust.Image{Name: "nginx:1", Digest: digest}, demand: trust.Images{Pinned: true}, want: map[string]string{RulePinned: Fail}, says: "by digest"},
		{reason: "pinned", image: trust.Image{Name: "nginx:1@" + digest, Digest: digest}, demand: trust.Images{Pinned: true}, want: map[string]string{RulePinned: Pass}},
		{reason: "unresolved", image: trust.Image{Name: "nginx:1", Problems: []string{"registry down"}}, want: map[string]string{RuleDigest: Fail}, says: "registry down"},
		{reason: "evidence of another digest", image: trust.Image{Name: "nginx@" + digest, Digest: "sha256:other"}, want: map[string]string{RuleDigest: Fail}},
		{reason: "permitted", image: trust.Image{Name: "nginx:1", Digest: digest}, demand: trust.Images{Allowed: []string{"ghcr.io", "docker.io/library/*"}}, want: map[string]string{RuleRegistry: Pass}},
		{reason: "not permitted", image: trust.Image{Name: "ghcr.io.evil.org/x", Digest: digest}, demand: trust.Images{Allowed: []string{"ghcr.io/**"}}, want: map[string]string{RuleRegistry: Fail}, says: "ghcr.io.evil.org/x is none"},
		{reason: "a pattern that cannot be read permits nothing", image: trust.Image{Name: "ghcr.io/x", Digest: digest}, demand: trust.Images{Allowed: []string{"ghcr.io*"}}, want: map[string]string{RuleRegistry: Fail}, says: "wildcard"},
		{reason: "signed", image: trust.Image{Name: "x", Digest: digest, Proofs: []trust.Proof{proof(trust.ClaimSignature)}}, demand: trust.Images{Authorities: a}, want: map[string]string{RuleSignature: Pass}},
		{reason: "unsigned", image: trust.Image{Name: "x", Digest: digest, Problems: []string{"no signature"}}, demand: trust.Images{Authorities: a}, want: map[string]string{RuleSignature: Fail}, says: "must have (a): no signature"},
		{
			reason: "proven to another policy", demand: trust.Images{Authorities: a}, want: map[string]string{RuleSignature: Fail},
			image: trust.Image{Name: "x", Digest: digest, Proofs: []trust.Proof{proof(trust.ClaimSignature, func(p *trust.Proof) { p.Signer.Policy = "q" })}},
		},
		{
			reason: "signed by another authority", demand: trust.Images{Authorities: a}, want: map[string]string{RuleSignature: Fail},
			image: trust.Image{Name: "x", Digest: digest, Proofs: []trust.Proof{proof(trust.ClaimSignature, func(p *trust.Proof) { p.Signer.Authority = "b" })}},
		},
		{
			reason: "an attestation of an authority that may not make it", want: map[string]string{RuleSBOM: Fail},
			demand: trust.Images{SBOM: &trust.Attested{Authorities: []trust.Authority{{Name: "b"}}}},
			image:  trust.Image{Name: "x", Digest: digest, Proofs: []trust.Proof{proof(trust.ClaimSBOM)}},
		},
		{
			reason: "an SBOM of the image's authority where none other is named", want: map[string]string{RuleSBOM: Pass, RuleSignature: Fail},
			demand: trust.Images{Authorities: a, SBOM: &trust.Attested{}},
			image:  trust.Image{Name: "x", Digest: digest, Proofs: []trust.Proof{proof(trust.ClaimSBOM)}},
		},
		{
			reason: "the last scan counts", want: map[string]string{RuleScan: Fail}, says: "severity HIGH",
			demand: trust.Images{Scan: &trust.Scan{Attested: trust.Attested{Authorities: a}, Below: "high"}},
			image:  trust.Image{Name: "x", Digest: digest, Proofs: []trust.Proof{scanned("", time.Hour), scanned("HIGH", time.Minute), scanned("LOW", time.Hour)}},
		},
		{
			reason: "a severity in a policy that is none", want: map[string]string{RuleScan: Fail}, says: "is not a severity",
			demand: trust.Images{Scan: &trust.Scan{Attested: trust.Attested{Authorities: a}, Below: "UNKNOWN"}},
			image:  trust.Image{Name: "x", Digest: digest, Proofs: []trust.Proof{scanned("", 0)}},
		},
		{
			reason: "a scan without time is old", want: map[string]string{RuleScan: Fail}, says: "scan it again",
			demand: trust.Images{Scan: &trust.Scan{Attested: trust.Attested{Authorities: a}, MaxAge: time.Hour}},
			image:  trust.Image{Name: "x", Digest: digest, Proofs: []trust.Proof{proof(trust.ClaimScan)}},
		},
		{
			reason: "a repository by its path alone", want: map[string]string{RuleProvenance: Pass},
			demand: trust.Images{Provenance: &trust.Provenance{Attested: trust.Attested{Authorities: a}, Repositories: []string{"github.com/o/*"}}},
			image: trust.Image{Name: "x", Digest: digest, Proofs: []trust.Proof{proof(trust.ClaimProvenance, func(p *trust.Proof) {
				p.Repository = "https://github.com/o/r"
			})}},
		},
		{
			reason: "a repository that only ends so", want: map[string]string{RuleProvenance: Fail},
			demand: trust.Images{Provenance: &trust.Provenance{Attested: trust.Attested{Authorities: a}, Repositories: []string{"github.com/o/*"}}},
			image: trust.Image{Name: "x", Digest: digest, Proofs: []trust.Proof{proof(trust.ClaimProvenance, func(p *trust.Proof) {
				p.Repository = "https://evil.org/github.com/o/r"
			})}},
		},
	}
	for _, tc := range tests {
		for _, audit := range []bool{false, true} {
			verdicts := Images([]trust.Image{tc.image}, trust.NewDemands(trust.Policy{Name: "p", Audit: audit, Images: &tc.demand}), now)
			got, want := map[string]string{}, map[string]string{}
			for _, v := range verdicts {
				got[v.Rule] = v.Outcome
			}
			for rule, outcome := range tc.want {
				if want[rule] = outcome; audit && outcome == Fail {
					want[rule] = Audit
				}
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s, audit %v (-want +got):\n%s%v", tc.reason, audit, diff, verdicts)
			}
			if refusal := Refusal(verdicts); audit && refusal != nil {
				t.Errorf("%s: refused, and only told: %v", tc.reason, refusal)
			} else if !audit && tc.says != "" && (refusal == nil || !strings.Contains(refusal.Error(), tc.says)) {
				t.Errorf("%s: refused with %v, without %q", tc.reason, refusal, tc.says)
			}
		}
	}
}

func TestImagesBroken(t *testing.T) {
	broken := trust.Policy{Name: "p", Broken: "Secret keys is missing", Images: &trust.Images{}}
	for _, images := range [][]trust.Image{nil, {{Name: "x", Digest: digest}}} {
		verdicts := Images(images, trust.NewDemands(broken), time.Time{})
		if len(verdicts) != 1 || verdicts[0].Outcome != Fail || !strings.Contains(verdicts[0].Message, "Secret keys is missing") {
			t.Errorf("a policy that cannot be judged refuses: %v", verdicts)
		}
	}
	if got := Images(nil, trust.NewDemands(trust.Policy{Name: "p", Commits: &trust.Commits{}}), time.Time{}); got != nil {
		t.Errorf("a policy without images judges none: %v", got)
	}
}

func TestRefusal(t *testing.T) {
	fail := Verdict{Policy: "p", Outcome: Fail, Message: "m"}
	passing := fail
	passing.Passing = true
	tests := []struct {
		reason   string
		verdicts []Verdict
		want     fault.Kind
		none     bool
	}{
		{"none", nil, 0, true},
		{"nothing fails", []Verdict{{Outcome: Pass}, {Outcome: Audit}}, 0, true},
		{"for good", []Verdict{fail}, fault.Refused, false},
		{"it may pass", []Verdict{passing, {Outcome: Pass}}, fault.Unreachable, false},
		{"one of two is for good", []Verdict{passing, fail}, fault.Refused, false},
	}
	for _, tc := range tests {
		got := Refusal(tc.verdicts)
		if (got == nil) != tc.none || got != nil && got.Kind != tc.want {
			t.Errorf("%s: %v", tc.reason, got)
		}
	}
	if got := Refusal(make([]Verdict, 0)); got != nil {
		t.Errorf("none: %v", got)
	}
	many := []Verdict{fail, fail, fail, fail, fail, fail, fail}
	if got := Refusal(many); strings.Count(got.Error(), "policy p") != 5 || !strings.Contains(got.Error(), "and 2 more") {
		t.Errorf("many: %v", got)
	}
}
