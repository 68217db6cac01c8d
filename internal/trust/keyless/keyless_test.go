package keyless

import (
	"testing"

	"github.com/sigstore/sigstore-go/pkg/fulcio/certificate"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/trust"
)

func TestExpressionsMatchWhole(t *testing.T) {
	identity, err := identityOf(trust.Identity{IssuerRegexp: "https://issuer.example.com|https://other.example.com", SubjectRegexp: `https://git\.example\.com/team/.*`})
	if err != nil {
		t.Fatal(err)
	}
	const issuer, subject = "https://other.example.com", "https://git.example.com/team/app"
	for _, tt := range []struct {
		reason, issuer, subject string
		want                    bool
	}{
		{"both match", issuer, subject, true},
		{"made up before it", issuer, "https://evil.example.org/?" + subject, false},
		{"made up around the issuer", issuer + ".evil.example.org", subject, false},
		{"an alternative is anchored, too", "x" + issuer, subject, false},
		{"the end is the end of the text, not of a line", issuer + "\n", subject, false},
	} {
		got := identity.Verify(certificate.Summary{SubjectAlternativeName: tt.subject, Extensions: certificate.Extensions{Issuer: tt.issuer}}) == nil
		if got != tt.want {
			t.Errorf("%s: issuer %q, subject %q: matches %v, want %v", tt.reason, tt.issuer, tt.subject, got, tt.want)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	right := []trust.Identity{{Issuer: "i", Subject: "s"}}
	for _, tt := range []struct {
		reason string
		s      trust.Sigstore
	}{
		{"anybody can have a certificate", trust.Sigstore{TrustedRoot: []byte("{}")}},
		{"no trusted root", trust.Sigstore{Identities: right}},
		{"a root of nothing", trust.Sigstore{TrustedRoot: []byte("{}"), Identities: right}},
	} {
		if _, err := New(tt.s); fault.KindOf(err) != fault.Invalid {
			t.Errorf("%s: error %v, want Invalid", tt.reason, err)
		}
	}
	if _, err := identityOf(trust.Identity{Issuer: "i"}); fault.KindOf(err) != fault.Invalid {
		t.Errorf("half an identity: error %v, want Invalid", err)
	}
}
