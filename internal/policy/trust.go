package policy

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/trust"
)

// The outcomes of a rule.
const (
	Pass  = "pass"
	Fail  = "fail"  // and what was judged is refused
	Audit = "audit" // failed, and is only told
	// Excused: it failed, and an exception holds until its day.
	Excused = "excused"
)

// Verdict is what one rule of one policy says.
type Verdict struct {
	Policy  string
	Rule    string // what was judged, e.g. images/signature
	Image   string // as the objects name it; "" where it is not about one
	Outcome string // one of the constants above
	Message string // why, in words
	// Object is what it is about, and File and Line where that stands; "" for the whole
	// of a delivery.
	Object string
	File   string
	Line   int
	// Path is the field, as Kubernetes writes it.
	Path string
	// Revision, Source and SourceLine are where the policy was read from.
	Revision, Source string
	SourceLine       int
	// Severity is info, low, medium, high or critical, and Reference an address that
	// explains the rule; "" where the policy does not say.
	Severity, Reference string
	// Passing: it failed because a registry did not answer, or does not have yet
	// what it may have soon.
	Passing bool
}

// The rules on images.
const (
	RulePolicy     = "images/policy"     // the policy can be judged at all
	RuleName       = "images/name"       // the name can be read
	RulePinned     = "images/pinned"     // it is given by digest
	RuleDigest     = "images/digest"     // its digest is known
	RuleRegistry   = "images/registry"   // it comes from where it may
	RuleSignature  = "images/signature"  // somebody signed it who may
	RuleProvenance = "images/provenance" // it was built where and from what it may
	RuleScan       = "images/scan"       // it was scanned, and not badly
	RuleSBOM       = "images/sbom"       // its parts are listed
)

// Images judges what was found about images by the policies of a delivery, in
// their order, at a moment: one verdict for each rule that a policy has for an
// image. What nobody demanded is not judged.
func Images(images []trust.Image, d trust.Demands, now time.Time) []Verdict {
	var all []Verdict
	for _, p := range d.Policies {
		if p.Images == nil {
			continue
		}
		if p.Broken != "" {
			all = append(all, outcome(p, Verdict{Rule: RulePolicy, Message: "it cannot be judged: " + p.Broken}, false))
			continue
		}
		for _, img := range images {
			all = append(all, judgeImage(p, img, now)...)
		}
	}
	return all
}

// Refusal returns an error that tells the verdicts which refuse; nil if none does.
// It is Unreachable, which is tried again, where all that failed may pass; else
// Refused.
func Refusal(verdicts []Verdict) *fault.Error {
	kind := fault.Unreachable
	var lines []string
	for _, v := range verdicts {
		if v.Outcome != Fail {
			continue
		}
		if !v.Passing {
			kind = fault.Refused
		}
		lines = append(lines, v.String())
	}
	if len(lines) == 0 {
		return nil
	}
	const most = 5
	if more := len(lines) - most; more > 0 {
		lines = append(lines[:most], fmt.Sprintf("and %d more", more))
	}
	return fault.New(kind, "%s", strings.Join(lines, "; "))
}

// RefusedBy names the policies of the verdicts that refuse, each once.
func RefusedBy(verdicts []Verdict) trust.RefusedError {
	var names trust.RefusedError
	for _, v := range verdicts {
		if v.Outcome == Fail && !slices.Contains(names, v.Policy) {
			names = append(names, v.Policy)
		}
	}
	return names
}

// String tells a verdict in one line.
func (v Verdict) String() string {
	about := "policy " + v.Policy
	if v.Image != "" {
		about += ": image " + v.Image
	}
	if v.Object != "" {
		about += ": " + v.Rule + ": " + v.Object
	}
	if v.Object != "" && v.File != "" {
		about += fmt.Sprintf(" (%s:%d)", v.File, v.Line)
	}
	return about + ": " + v.Message
}

// outcome completes a verdict of p.
func outcome(p trust.Policy, v Verdict, holds bool) Verdict {
	v.Policy = p.Name
	switch {
	case holds:
		v.Outcome, v.Passing = Pass, false
	case p.Audit:
		v.Outcome = Audit
	default:
		v.Outcome = Fail
	}
	return v
}

// judgeImage judges one image by one policy.
func judgeImage(p trust.Policy, img trust.Image, now time.Time) []Verdict {
	n, err := object.ParseImage(img.Name)
	if err != nil {
		return []Verdict{outcome(p, Verdict{Rule: RuleName, Image: img.Name, Message: err.Error()}, false)}
	}
	if !object.Concerns(p.Images.Match, n) {
		return nil
	}
	var all []Verdict
	add := func(rule string, holds bool, format string, args ...any) {
		all = append(all, outcome(p, Verdict{Rule: rule, Image: img.Name, Message: fmt.Sprintf(format, args...), Passing: img.Unreachable}, holds))
	}
	if p.Images.Pinned {
		add(RulePinned, n.Digest != "", "%s", said(n.Digest != "", "given by digest", "it must be given by digest, as name@sha256:..."))
		all[len(all)-1].Passing = false
	}
	if len(p.Images.Allowed) > 0 {
		holds, message := allowed(p.Images.Allowed, n)
		add(RuleRegistry, holds, "%s", message)
		all[len(all)-1].Passing = false
	}
	if img.Digest == "" || n.Digest != "" && n.Digest != img.Digest {
		add(RuleDigest, false, "what it is could not be found out%s", because(img))
		return all
	}
	for _, rule := range claims {
		if message, holds, asked := rule.judge(p, img, now); asked {
			add(rule.name, holds, "%s", message)
		}
	}
	return all
}

func said(holds bool, yes, no string) string {
	if holds {
		return yes
	}
	return no
}

// allowed reports whether one of the patterns matches. A pattern that cannot be
// read permits nothing, and is told.
func allowed(patterns []string, n object.ImageName) (bool, string) {
	name := n.Registry + "/" + n.Repository
	var unreadable string
	for _, text := range patterns {
		p, err := object.ParseImagePattern(text)
		if err != nil {
			unreadable = "; " + err.Error()
		} else if p.Matches(n) {
			return true, name + " is permitted by " + text
		}
	}
	return false, name + " is none of the images that are permitted (" + strings.Join(patterns, ", ") + ")" + unreadable
}

// because is what was found to be wrong with an image, for the end of a message.
func because(img trust.Image) string {
	if len(img.Problems) == 0 {
		return ""
	}
	return ": " + strings.Join(img.Problems, "; ")
}

// claims are the rules that proofs are asked for.
var claims = []struct {
	name  string
	judge func(p trust.Policy, img trust.Image, now time.Time) (message string, holds, asked bool)
}{
	{RuleSignature, judgeSignature},
	{RuleProvenance, judgeProvenance},
	{RuleScan, judgeScan},
	{RuleSBOM, judgeSBOM},
}

// proofs returns what was proven to p of a claim, by one of its authorities.
func proofs(p trust.Policy, img trust.Image, claim string, own []trust.Authority) []trust.Proof {
	if len(own) == 0 {
		own = p.Images.Authorities
	}
	var found []trust.Proof
	for _, proof := range img.Proofs {
		if proof.Claim == claim && proof.Signer.Policy == p.Name &&
			slices.ContainsFunc(own, func(a trust.Authority) bool { return a.Name == proof.Signer.Authority }) {
			found = append(found, proof)
		}
	}
	return found
}

// by tells who signed.
func by(proof trust.Proof) string {
	if proof.Signer.Identity == "" {
		return proof.Signer.Authority
	}
	return proof.Signer.Authority + " (" + proof.Signer.Identity + ")"
}

// names lists the authorities that a claim is accepted of.
func names(p trust.Policy, own []trust.Authority) string {
	if len(own) == 0 {
		own = p.Images.Authorities
	}
	list := make([]string, len(own))
	for i, a := range own {
		list[i] = a.Name
	}
	return strings.Join(list, ", ")
}

func judgeSignature(p trust.Policy, img trust.Image, _ time.Time) (message string, holds, asked bool) {
	if len(p.Images.Authorities) == 0 {
		return "", false, false
	}
	if found := proofs(p, img, trust.ClaimSignature, nil); len(found) > 0 {
		return "signed by " + by(found[0]), true, true
	}
	return fmt.Sprintf("it is not signed by one of those who must have (%s)%s", names(p, nil), because(img)), false, true
}

func judgeProvenance(p trust.Policy, img trust.Image, _ time.Time) (message string, holds, asked bool) {
	want := p.Images.Provenance
	if want == nil {
		return "", false, false
	}
	message = fmt.Sprintf("it has no SLSA provenance that is signed by one of those who must have (%s)%s", names(p, want.Authorities), because(img))
	for _, proof := range proofs(p, img, trust.ClaimProvenance, want.Authorities) {
		switch {
		case !matchesOne(want.Builders, proof.Builder):
			message = fmt.Sprintf("its provenance names the builder %s, and one of these is demanded: %s", proof.Builder, strings.Join(want.Builders, ", "))
		case !matchesOne(want.Repositories, proof.Repository):
			message = fmt.Sprintf("its provenance names the source %s, and one of these is demanded: %s", proof.Repository, strings.Join(want.Repositories, ", "))
		default:
			return fmt.Sprintf("built by %s from %s, says %s", proof.Builder, proof.Repository, by(proof)), true, true
		}
	}
	return message, false, true
}

// matchesOne reports whether a pattern matches value, a URI; none: any value. A
// pattern without a scheme is for any.
func matchesOne(patterns []string, value string) bool {
	return len(patterns) == 0 || slices.ContainsFunc(patterns, func(pattern string) bool {
		if strings.Contains(pattern, "://") {
			return object.Wild(pattern, value)
		}
		if _, rest, has := strings.Cut(value, "://"); has {
			return object.Wild(pattern, rest)
		}
		return object.Wild(pattern, value)
	})
}

// judgeScan judges the latest scan: an older one that was clean is history.
func judgeScan(p trust.Policy, img trust.Image, now time.Time) (message string, holds, asked bool) {
	want := p.Images.Scan
	if want == nil {
		return "", false, false
	}
	found := proofs(p, img, trust.ClaimScan, want.Authorities)
	if len(found) == 0 {
		return fmt.Sprintf("it has no vulnerability scan that is signed by one of those who must have (%s)%s", names(p, want.Authorities), because(img)), false, true
	}
	last := slices.MaxFunc(found, func(a, b trust.Proof) int { return a.ScannedAt.Compare(b.ScannedAt) })
	at := last.ScannedAt.UTC().Format(time.RFC3339)
	bar := slices.Index(severities, strings.ToUpper(want.Below))
	switch worst := slices.Index(severities, last.Worst); {
	case last.ScannedAt.After(now.Add(trust.Skew)):
		message = "its scan is of " + at + ", which is yet to come: a clock is off"
	case want.MaxAge > 0 && now.Sub(last.ScannedAt) > want.MaxAge:
		message = fmt.Sprintf("its last scan is of %s, more than %s ago: scan it again", at, want.MaxAge)
	case want.Below != "" && bar < 2:
		message = fmt.Sprintf("%q is not a severity: LOW, MEDIUM, HIGH and CRITICAL are", want.Below)
	case want.Below != "" && (worst < 0 || worst >= bar):
		message = fmt.Sprintf("its last scan (%s) found something of severity %s, and nothing of %s or above is permitted", at, last.Worst, want.Below)
	default:
		return fmt.Sprintf("scanned at %s, worst finding %s, says %s", at, said(last.Worst != "", last.Worst, "none"), by(last)), true, true
	}
	return message, false, true
}

// severities that can be asked for and found, in their order. UNKNOWN is below
// what can be asked for.
var severities = []string{"", "UNKNOWN", "LOW", "MEDIUM", "HIGH", "CRITICAL"}

func judgeSBOM(p trust.Policy, img trust.Image, _ time.Time) (message string, holds, asked bool) {
	if p.Images.SBOM == nil {
		return "", false, false
	}
	if found := proofs(p, img, trust.ClaimSBOM, p.Images.SBOM.Authorities); len(found) > 0 {
		return "its SBOM is signed by " + by(found[0]), true, true
	}
	return fmt.Sprintf("it has no SBOM that is signed by one of those who must have (%s)%s", names(p, p.Images.SBOM.Authorities), because(img)), false, true
}
