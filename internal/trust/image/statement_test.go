package image

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/holdfastcd/holdfast/internal/trust"
)

func TestScans(t *testing.T) {
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	tests := []struct {
		reason, result, worst string
		fails                 bool
	}{
		{"Trivy without findings", `{"SchemaVersion":2}`, "", false},
		{"Trivy, the worst of several", `{"Results":[{"Vulnerabilities":[{"Severity":"LOW"},{"Severity":"HIGH"}]},{"Vulnerabilities":null},{"Vulnerabilities":[{"Severity":"MEDIUM"}]}]}`, "HIGH", false},
		{"Trivy, a severity that nobody gave", `{"Results":[{"Vulnerabilities":[{"VulnerabilityID":"CVE-1"}]}]}`, "UNKNOWN", false},
		{"a severity that is not known counts as the worst", `{"Results":[{"Vulnerabilities":[{"Severity":"DREADFUL"}]}]}`, "CRITICAL", false},
		{"Grype", `{"matches":[{"vulnerability":{"severity":"Negligible"}},{"vulnerability":{"severity":"Medium"}}]}`, "MEDIUM", false},
		{"Grype without findings", `{"matches":[]}`, "", false},
		{"SARIF with scores", `{"runs":[{"tool":{"driver":{"rules":[{"id":"a","properties":{"security-severity":"7.5"}},{"id":"b","properties":{"security-severity":"2"}}]}},"results":[{"ruleId":"a"},{"ruleId":"b"}]}]}`, "HIGH", false},
		{"SARIF without a score", `{"runs":[{"results":[{"ruleId":"a"}]}]}`, "CRITICAL", false},
		{"SARIF with a score that is no number", `{"runs":[{"tool":{"driver":{"rules":[{"id":"a","properties":{"security-severity":"NaN"}}]}},"results":[{"ruleId":"a"}]}]}`, "CRITICAL", false},
		{"another scanner must not pass for clean", `{"findings":[]}`, "", true},
		{"no result", `null`, "", true},
		{"results of another form", `{"Results":{"Vulnerabilities":[]}}`, "", true},
		{"a list", `[]`, "", true},
	}
	for _, tc := range tests {
		predicate := `{"scanner":{"uri":"x","result":` + tc.result + `},"metadata":{"scanFinishedOn":"2026-03-01T12:00:00Z"}}`
		worst, scanned, err := readScan([]byte(predicate))
		if (err != nil) != tc.fails || worst != tc.worst || err == nil && !scanned.Equal(at) {
			t.Errorf("%s: %q, %v, %v", tc.reason, worst, scanned, err)
		}
	}
}

func TestProvenance(t *testing.T) {
	tests := []struct {
		reason, kind, predicate string
		builder, repository     string
		fails                   bool
	}{
		{
			"0.2, as GitHub's generator writes it", predicateSLSA02,
			`{"builder":{"id":"b"},"invocation":{"configSource":{"uri":"git+https://github.com/o/r@refs/tags/v1"}}}`, "b", "https://github.com/o/r", false,
		},
		{"0.2 without source", predicateSLSA02, `{"builder":{"id":"b"}}`, "b", "", false},
		{"no builder", predicateSLSA02, `{"builder":{}}`, "", "", true},
		{
			"1, GitHub's workflow", predicateSLSA1,
			`{"buildDefinition":{"externalParameters":{"workflow":{"repository":"https://github.com/o/r"}}},"runDetails":{"builder":{"id":"b"}}}`, "b", "https://github.com/o/r", false,
		},
		{
			"1, source as text", predicateSLSA1,
			`{"buildDefinition":{"externalParameters":{"source":"git+https://github.com/o/r.git@refs/heads/main"}},"runDetails":{"builder":{"id":"b"}}}`, "b", "https://github.com/o/r", false,
		},
		{
			"1, source as object", predicateSLSA1,
			`{"buildDefinition":{"externalParameters":{"source":{"uri":"git+https://gitlab.com/g/p"}}},"runDetails":{"builder":{"id":"b"}}}`, "b", "https://gitlab.com/g/p", false,
		},
		{
			"1, the first dependency", predicateSLSA1,
			`{"buildDefinition":{"resolvedDependencies":[{"uri":"git+https://gitlab.com/g/p#abc"}]},"runDetails":{"builder":{"id":"b"}}}`, "b", "https://gitlab.com/g/p", false,
		},
		{"1, no builder", predicateSLSA1, `{"runDetails":{}}`, "", "", true},
		{"not an object", predicateSLSA1, `[]`, "", "", true},
	}
	for _, tc := range tests {
		var p trust.Proof
		s := statement{Kind: tc.kind, Predicate: json.RawMessage(tc.predicate)}
		err := s.claim(&p)
		if (err != nil) != tc.fails || p.Builder != tc.builder || p.Repository != tc.repository {
			t.Errorf("%s: %q from %q, %v", tc.reason, p.Builder, p.Repository, err)
		}
	}
}

func TestRepositoryOf(t *testing.T) {
	for uri, want := range map[string]string{
		"":                       "",
		"https://GitHub.com/O/r": "https://github.com/O/r",
		"git+ssh://git@github.com/o/r.git@refs/heads/x":               "ssh://github.com/o/r",
		"https://user:secret@github.com/o/r/":                         "https://github.com/o/r",
		"https://github.com/o/r?x=y#z":                                "https://github.com/o/r",
		"git@github.com:o/r.git":                                      "git@github.com:o/r",
		"https://github.com@evil.example/o/r":                         "https://evil.example/o/r",
		"git+https://github.com/o/r@https://github.com/trusted/other": "https://github.com/o/r",
	} {
		if got := repositoryOf(uri); got != want {
			t.Errorf("%s: %q, want %q", uri, got, want)
		}
	}
}

// FuzzRead holds the readers of artifacts to never panic, and to claim nothing of
// what they do not know.
func FuzzRead(f *testing.F) {
	f.Add(mediaSimple, `{"critical":{"image":{"docker-manifest-digest":"sha256:00"},"type":"cosign container image signature"}}`, "AAAA", "")
	f.Add(mediaEnvelope, `{"payloadType":"application/vnd.in-toto+json","payload":"e30=","signatures":[{"sig":"AAAA"}]}`, "", "")
	f.Add(mediaBundle+".v0.3+json", `{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","verificationMaterial":{"publicKey":{"hint":"x"}},"dsseEnvelope":{"payload":"e30=","payloadType":"application/vnd.in-toto+json","signatures":[{"sig":"AAAA"}]}}`, "", "")
	f.Add(mediaBundle+".v0.3+json", `{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","verificationMaterial":{"certificate":{"rawBytes":""}},"messageSignature":{}}`, "", "")
	f.Add(mediaSimple, `{}`, "AAAA", `{"SignedEntryTimestamp":"AAAA","Payload":{"body":"e30=","integratedTime":1,"logIndex":1,"logID":"00"}}`)
	f.Fuzz(func(t *testing.T, media, content, signature, entry string) {
		a := artifact{media: media, content: []byte(content)}
		a.blob.Annotations = map[string]string{noteSignature: signature, noteLog: entry, noteCert: "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"}
		s, err := read(a)
		if err == nil && s.claim == "" && s.statement == nil {
			t.Errorf("it claims nothing, and there is no statement")
		}
		if err == nil && s.statement != nil {
			_ = s.statement.claim(&trust.Proof{})
		}
	})
}
