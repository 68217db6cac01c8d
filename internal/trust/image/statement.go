package image

import (
	"cmp"
	"encoding/json"
	"strconv"
	"strings"
	"time"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/trust"
)

// The types of predicates that are known.
const (
	predicateSign   = "https://sigstore.dev/cosign/sign/v1"
	predicateSLSA02 = "https://slsa.dev/provenance/v0.2"
	predicateSLSA1  = "https://slsa.dev/provenance/v1"
	predicateScan   = "https://cosign.sigstore.dev/attestation/vuln/v1"
	predicateSPDX   = "https://spdx.dev/Document" // and a version
	predicateCDX    = "https://cyclonedx.org/bom" // and a version

	payloadStatement = "application/vnd.in-toto+json"
)

// claimOf returns what a predicate of this type claims; "" if that is not known.
func claimOf(predicate string) string {
	switch {
	case predicate == predicateSign:
		return trust.ClaimSignature
	case predicate == predicateSLSA02, predicate == predicateSLSA1:
		return trust.ClaimProvenance
	case predicate == predicateScan:
		return trust.ClaimScan
	case versionOf(predicate, predicateSPDX), versionOf(predicate, predicateCDX):
		return trust.ClaimSBOM
	}
	return ""
}

func versionOf(predicate, base string) bool {
	return predicate == base || strings.HasPrefix(predicate, base+"/")
}

// statement is what an attestation says of its subjects
// (https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md).
type statement struct {
	Type      string          `json:"_type"`
	Subject   []subject       `json:"subject"`
	Kind      string          `json:"predicateType"`
	Predicate json.RawMessage `json:"predicate"`
}

type subject struct {
	Digest map[string]string `json:"digest"`
}

// readStatement reads the payload of an envelope. Errors: Invalid, Unsupported.
func readStatement(payloadType string, payload []byte) (statement, error) {
	var s statement
	if payloadType != payloadStatement {
		return s, fault.New(fault.Unsupported, "its payload is of type %q, not a statement of in-toto", payloadType)
	}
	if err := json.Unmarshal(payload, &s); err != nil {
		return s, fault.New(fault.Invalid, "its statement is not JSON of the form that in-toto gives it")
	}
	switch s.Type {
	case "https://in-toto.io/Statement/v0.1", "https://in-toto.io/Statement/v1":
		return s, nil
	}
	return s, fault.New(fault.Unsupported, "its statement is of type %q, which is not known", s.Type)
}

// about reports whether digest is a subject of s.
func (s statement) about(digest string) bool {
	hex := strings.TrimPrefix(digest, "sha256:")
	for _, subject := range s.Subject {
		if subject.Digest["sha256"] == hex {
			return true
		}
	}
	return false
}

// claim adds to p what the statement's predicate says. Errors: Invalid, Unsupported.
func (s statement) claim(p *trust.Proof) error {
	var err error
	p.Claim = claimOf(s.Kind)
	switch {
	case s.Kind == predicateSLSA02:
		p.Builder, p.Repository, err = readSLSA02(s.Predicate)
	case s.Kind == predicateSLSA1:
		p.Builder, p.Repository, err = readSLSA1(s.Predicate)
	case p.Claim == trust.ClaimScan:
		p.Worst, p.ScannedAt, err = readScan(s.Predicate)
	case p.Claim == trust.ClaimSBOM:
		err = readSBOM(s.Predicate)
	}
	return err
}

type (
	identified struct {
		ID string `json:"id"`
	}
	located struct {
		URI string `json:"uri"`
	}
)

// readSLSA02 reads https://slsa.dev/spec/v0.2/provenance.
func readSLSA02(predicate []byte) (builder, repository string, err error) {
	var p struct {
		Builder    identified `json:"builder"`
		Invocation struct {
			ConfigSource located `json:"configSource"`
		} `json:"invocation"`
	}
	if json.Unmarshal(predicate, &p) != nil || p.Builder.ID == "" {
		return "", "", fault.New(fault.Invalid, "its provenance names no builder")
	}
	return p.Builder.ID, repositoryOf(p.Invocation.ConfigSource.URI), nil
}

// readSLSA1 reads https://slsa.dev/spec/v1.0/provenance. Where the source is named
// depends on the build type: GitHub's builders say workflow.repository or source,
// Tekton and others list it as the first resolved dependency.
func readSLSA1(predicate []byte) (builder, repository string, err error) {
	var p struct {
		BuildDefinition struct {
			ExternalParameters   map[string]json.RawMessage `json:"externalParameters"`
			ResolvedDependencies []located                  `json:"resolvedDependencies"`
		} `json:"buildDefinition"`
		RunDetails struct {
			Builder identified `json:"builder"`
		} `json:"runDetails"`
	}
	if json.Unmarshal(predicate, &p) != nil || p.RunDetails.Builder.ID == "" {
		return "", "", fault.New(fault.Invalid, "its provenance names no builder")
	}
	var named struct {
		Repository string `json:"repository"`
		URI        string `json:"uri"`
	}
	var source string
	external := p.BuildDefinition.ExternalParameters
	_ = json.Unmarshal(external["workflow"], &named) // absent, or of another build type: the next may be there
	if named.Repository == "" && json.Unmarshal(external["source"], &source) != nil {
		_ = json.Unmarshal(external["source"], &named)
	}
	uri := cmp.Or(named.Repository, source, named.URI)
	if uri == "" && len(p.BuildDefinition.ResolvedDependencies) > 0 {
		uri = p.BuildDefinition.ResolvedDependencies[0].URI
	}
	return p.RunDetails.Builder.ID, repositoryOf(uri), nil
}

// repositoryOf returns the repository that a URI of a source names: without
// git+, the ref behind @, query, fragment, and .git.
func repositoryOf(uri string) string {
	uri = strings.TrimPrefix(uri, "git+")
	uri, _, _ = strings.Cut(uri, "#")
	uri, _, _ = strings.Cut(uri, "?")
	if scheme, rest, ok := strings.Cut(uri, "://"); ok {
		host, path, _ := strings.Cut(rest, "/")
		host = host[strings.LastIndexByte(host, '@')+1:] // what stands before it may be a secret
		path, _, _ = strings.Cut(path, "@")
		uri = strings.ToLower(scheme+"://"+host) + "/" + path
	}
	return strings.TrimSuffix(strings.TrimSuffix(uri, "/"), ".git")
}

// readSBOM holds an SBOM to saying which form it has, SPDX or CycloneDX.
func readSBOM(predicate []byte) error {
	var p struct {
		SPDX   string `json:"spdxVersion"`
		SPDXID string `json:"SPDXID"`
		CDX    string `json:"bomFormat"`
	}
	if json.Unmarshal(predicate, &p) == nil && (p.SPDX != "" || p.SPDXID != "" || p.CDX != "") {
		return nil
	}
	// cosign keeps SPDX's text form as a string.
	var text string
	if json.Unmarshal(predicate, &text) == nil && strings.Contains(text, "SPDXVersion:") {
		return nil
	}
	return fault.New(fault.Invalid, "it holds no SBOM of SPDX or CycloneDX")
}

// Severities, from what does not count to the worst.
var severities = []string{"", "UNKNOWN", "LOW", "MEDIUM", "HIGH", "CRITICAL"}

// worse returns the worse of two severities. One that is not known is the worst:
// it must not pass for harmless.
func worse(a, b string) string {
	if rank(b) > rank(a) {
		return severities[rank(b)]
	}
	return a
}

func rank(severity string) int {
	switch severity = strings.ToUpper(severity); severity {
	case "NEGLIGIBLE", "NONE", "INFO":
		severity = "UNKNOWN"
	case "MODERATE":
		severity = "MEDIUM"
	case "IMPORTANT":
		severity = "HIGH"
	}
	for i, s := range severities {
		if s == severity {
			return i
		}
	}
	return len(severities) - 1
}

// readScan reads https://github.com/sigstore/cosign/blob/main/specs/COSIGN_VULN_ATTESTATION_SPEC.md:
// the worst finding ("" if there is none), and when the scan ended. Errors: Invalid,
// and Unsupported for a scanner whose result has a form that is not known.
func readScan(predicate []byte) (worst string, at time.Time, err error) {
	var p struct {
		Scanner struct {
			Result json.RawMessage `json:"result"`
		} `json:"scanner"`
		Metadata struct {
			Started  time.Time `json:"scanStartedOn"`
			Finished time.Time `json:"scanFinishedOn"`
		} `json:"metadata"`
	}
	if json.Unmarshal(predicate, &p) != nil {
		return "", at, fault.New(fault.Invalid, "its scan has not the form of cosign's vuln predicate")
	}
	if at = p.Metadata.Finished; at.IsZero() {
		at = p.Metadata.Started
	}
	var form map[string]json.RawMessage
	if json.Unmarshal(p.Scanner.Result, &form) != nil {
		return "", at, fault.New(fault.Invalid, "its scan holds no result")
	}
	for _, known := range []struct {
		field string
		read  func(json.RawMessage) (string, error)
	}{{"matches", readGrype}, {"runs", readSARIF}, {"Results", readTrivy}} {
		if content, ok := form[known.field]; ok {
			worst, err = known.read(content)
			if err != nil {
				return "", at, fault.New(fault.Invalid, "the result of its scan (%s) cannot be read", known.field)
			}
			return worst, at, nil
		}
	}
	if _, ok := form["SchemaVersion"]; ok {
		return "", at, nil // Trivy leaves out Results where it found nothing to scan
	}
	return "", at, fault.New(fault.Unsupported, "the result of its scan is not that of Trivy, Grype or SARIF").
		WithHint("attest the scanner's JSON output as it is")
}

// readTrivy reads the Results of Trivy's report.
func readTrivy(content json.RawMessage) (worst string, err error) {
	var results []struct {
		Vulnerabilities []struct {
			Severity string `json:"Severity"`
		} `json:"Vulnerabilities"`
	}
	err = json.Unmarshal(content, &results)
	for _, r := range results {
		for _, v := range r.Vulnerabilities {
			worst = worse(worst, cmp.Or(v.Severity, "UNKNOWN"))
		}
	}
	return worst, err
}

// readGrype reads the matches of Grype's report.
func readGrype(content json.RawMessage) (worst string, err error) {
	var matches []struct {
		Vulnerability struct {
			Severity string `json:"severity"`
		} `json:"vulnerability"`
	}
	err = json.Unmarshal(content, &matches)
	for _, m := range matches {
		worst = worse(worst, cmp.Or(m.Vulnerability.Severity, "UNKNOWN"))
	}
	return worst, err
}

// readSARIF reads the runs of a SARIF log. The severity is a rule's score, as
// GitHub reads it: 9 is critical, 7 high, 4 medium. A result without a rule that
// says it is the worst.
func readSARIF(content json.RawMessage) (worst string, err error) {
	var runs []struct {
		Tool struct {
			Driver struct {
				Rules []struct {
					ID         string `json:"id"`
					Properties struct {
						Score string `json:"security-severity"`
					} `json:"properties"`
				} `json:"rules"`
			} `json:"driver"`
		} `json:"tool"`
		Results []struct {
			RuleID string `json:"ruleId"`
		} `json:"results"`
	}
	err = json.Unmarshal(content, &runs)
	for _, run := range runs {
		scores := map[string]string{}
		for _, rule := range run.Tool.Driver.Rules {
			scores[rule.ID] = rule.Properties.Score
		}
		for _, r := range run.Results {
			worst = worse(worst, severityOf(scores[r.RuleID]))
		}
	}
	return worst, err
}

func severityOf(score string) string {
	n, err := strconv.ParseFloat(score, 64)
	switch {
	case err != nil || !(n < 9): // NaN too
		return "CRITICAL"
	case n >= 7:
		return "HIGH"
	case n >= 4:
		return "MEDIUM"
	}
	return "LOW"
}
