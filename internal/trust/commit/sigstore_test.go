package commit

import (
	"bytes"
	"encoding/json"
	"encoding/pem"
	"testing"
	"time"

	"github.com/sigstore/sigstore-go/pkg/root"

	"github.com/holdfastcd/holdfast/internal/trust"
	"github.com/holdfastcd/holdfast/internal/trust/keyless"
	"github.com/holdfastcd/holdfast/test/signing"
)

const forgeIssuer = "https://token.actions.githubusercontent.com"

// byIdentity trusts a sigstore, and one identity of it.
func byIdentity(s *signing.Sigstore) trust.Authority {
	return trust.Authority{Name: "people", Sigstore: &trust.Sigstore{
		TrustedRoot: s.TrustedRoot, Identities: []trust.Identity{{Issuer: forgeIssuer, Subject: "ada@example.com"}},
	}}
}

func TestVerifySigstore(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the signer")
	}
	store, other := signing.NewSigstore(t), signing.NewSigstore(t)
	ada := signing.By{Sigstore: store, Subject: "ada@example.com", Issuer: forgeIssuer, At: noon}
	tests := []struct {
		reason    string
		by        func(*signing.By)
		authority func(*trust.Authority)
		content   []byte // what is claimed to be signed; nil: what was
		now       time.Time
		want      string // in the error; "" for none
	}{
		{reason: "signed"},
		{
			reason: "an identity by patterns",
			authority: func(a *trust.Authority) {
				a.Sigstore.Identities[0] = trust.Identity{IssuerRegexp: "^https://token[.].*$", SubjectRegexp: "^.*@example[.]com$"}
			},
		},
		{
			reason: "somebody else",
			by:     func(b *signing.By) { b.Subject = "eve@example.com" },
			want:   "failed to verify certificate identity",
		},
		{
			reason: "the same address of another issuer",
			by:     func(b *signing.By) { b.Issuer = "https://accounts.example.org" },
			want:   "failed to verify certificate identity",
		},
		{
			reason:    "no identity demanded",
			authority: func(a *trust.Authority) { a.Sigstore.Identities = nil },
			want:      "names no identity",
		},
		{reason: "replayed on another commit", content: rawCommit(noon, "another"), want: "of another content"},
		{
			reason:    "another sigstore",
			authority: func(a *trust.Authority) { a.Sigstore.TrustedRoot = other.TrustedRoot },
			want:      "not enough verified log entries",
		},
		{
			reason:    "another sigstore, with the same log",
			authority: func(a *trust.Authority) { a.Sigstore.TrustedRoot = mixRoots(t, store, other, "certificateAuthorities") },
			want:      "failed to verify leaf certificate",
		},
		{
			reason:    "certificate transparency of others",
			authority: func(a *trust.Authority) { a.Sigstore.TrustedRoot = mixRoots(t, store, other, "ctlogs") },
			want:      "failed to verify signed certificate timestamp",
		},
		{
			reason: "not in certificate transparency",
			by:     func(b *signing.By) { b.NoSCT = true },
			want:   "failed to verify signed certificate timestamp",
		},
		{
			reason:    "not in certificate transparency, which the root does not have",
			by:        func(b *signing.By) { b.NoSCT = true },
			authority: func(a *trust.Authority) { a.Sigstore.TrustedRoot = mixRoots(t, store, nil, "ctlogs") },
		},
		{
			reason: "logged when the certificate had expired",
			by:     func(b *signing.By) { b.LogAfter = 11 * time.Minute },
			want:   "integrated time outside certificate validity",
		},
		{
			reason: "logged before the certificate was valid",
			by:     func(b *signing.By) { b.LogAfter = -time.Minute },
			want:   "integrated time outside certificate validity",
		},
		{reason: "logged in the future", now: noon.Add(-time.Hour), want: "now it is"},
		{reason: "not in the log", by: func(b *signing.By) { b.NoLog = true }, want: "set gitsign.rekorMode to offline"},
		{
			reason:    "not in the log, with a timestamp instead",
			by:        func(b *signing.By) { b.NoLog, b.Stamp = true, true },
			authority: func(a *trust.Authority) { a.Sigstore.IgnoreLog = true },
		},
		{
			reason:    "without log and timestamp",
			by:        func(b *signing.By) { b.NoLog = true },
			authority: func(a *trust.Authority) { a.Sigstore.IgnoreLog = true },
			want:      "verified signed timestamps",
		},
		{
			reason:    "a timestamp of when the certificate had expired",
			by:        func(b *signing.By) { b.NoLog, b.Stamp, b.LogAfter = true, true, time.Hour },
			authority: func(a *trust.Authority) { a.Sigstore.IgnoreLog = true },
			want:      "failed to verify leaf certificate",
		},
		{reason: "with both", by: func(b *signing.By) { b.Stamp = true }},
		{
			reason:    "before the authority counts",
			authority: func(a *trust.Authority) { a.NotBefore = noon.Add(time.Hour) },
			want:      "counts from 2026-06-01T13:00:00Z",
		},
		{
			reason:    "after the authority counted",
			authority: func(a *trust.Authority) { a.NotAfter = noon.Add(-time.Hour) },
			want:      "counted until 2026-06-01T11:00:00Z",
		},
		{
			reason:    "the certificate authority is revoked",
			authority: func(a *trust.Authority) { a.Revoked = []trust.Revocation{{Fingerprint: authorityPrint(t, store)}} },
			want:      "is revoked",
		},
		{
			reason: "the certificate authority is revoked later",
			authority: func(a *trust.Authority) {
				a.Revoked = []trust.Revocation{{Fingerprint: authorityPrint(t, store), Since: noon.Add(time.Hour)}}
			},
		},
		{
			reason:    "an unknown trusted root",
			authority: func(a *trust.Authority) { a.Sigstore.TrustedRoot = []byte("{}") },
			want:      "trusted root is malformed",
		},
		{
			reason:    "of our own authority",
			authority: func(a *trust.Authority) { *a = newTestCA(t).authority() },
			want:      "does not lead to the authority",
		},
	}
	for _, tc := range tests {
		t.Run(tc.reason, func(t *testing.T) {
			content, by, authority, now := rawCommit(noon, "a change"), ada, byIdentity(store), judged
			if tc.by != nil {
				tc.by(&by)
			}
			if tc.authority != nil {
				tc.authority(&authority)
			}
			if !tc.now.IsZero() {
				now = tc.now
			}
			signature := signing.Commit(t, content, by)
			if tc.content != nil {
				content = tc.content
			}
			signer, proven, err := judgeCMS(authority, signature, content, now)
			checkError(t, err, tc.want)
			if err != nil {
				return
			}
			want := trust.Signer{Policy: "policy", Authority: "people", Kind: "sigstore", Fingerprint: signer.Fingerprint, Identity: by.Subject, Issuer: by.Issuer}
			if signer != want || !proven.Equal(noon.Add(time.Second)) {
				t.Errorf("got %+v at %s, want %+v at %s", signer, proven, want, noon.Add(time.Second))
			}
		})
	}
}

// TestVerifySigstoreFlipped flips bytes of a signature, the log's entry in it among them.
func TestVerifySigstoreFlipped(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the signer")
	}
	store, content := signing.NewSigstore(t), rawCommit(noon, "a change")
	good := signing.Commit(t, content, signing.By{Sigstore: store, Subject: "ada@example.com", Issuer: forgeIssuer, At: noon})
	block, _ := pem.Decode(good)
	a, err := readAuthority(byIdentity(store))
	if err != nil {
		t.Fatal(err)
	}
	passed := 0
	for i := 0; i < len(block.Bytes); i += 3 {
		flipped := bytes.Clone(block.Bytes)
		flipped[i] ^= 0x01
		if found, err := verifyCMS(a, content, armour(flipped), times{made: noon, now: judged}); err == nil {
			passed++
			if found.names[0] != "ada@example.com" || !found.proven.Equal(noon.Add(time.Second)) {
				t.Errorf("byte %d of %d: %+v", i, len(block.Bytes), found)
			}
		}
	}
	// Some bytes say the same twice: versions, the lists of algorithms, the log's index.
	if passed > len(block.Bytes)/3/20 {
		t.Errorf("%d of %d flipped bytes do not count", passed, len(block.Bytes)/3)
	}
}

// mixRoots is the trusted root of one sigstore with a part of another's, nil for none.
func mixRoots(t *testing.T, of, other *signing.Sigstore, part string) []byte {
	t.Helper()
	var whole, with map[string]json.RawMessage
	if err := json.Unmarshal(of.TrustedRoot, &whole); err != nil {
		t.Fatal(err)
	}
	delete(whole, part)
	if other != nil {
		if err := json.Unmarshal(other.TrustedRoot, &with); err != nil {
			t.Fatal(err)
		}
		whole[part] = with[part]
	}
	mixed, err := json.Marshal(whole)
	if err != nil {
		t.Fatal(err)
	}
	return mixed
}

// authorityPrint is the fingerprint of a sigstore's intermediate certificate.
func authorityPrint(t *testing.T, s *signing.Sigstore) string {
	t.Helper()
	trusted, err := keyless.New(*byIdentity(s).Sigstore)
	if err != nil {
		t.Fatal(err)
	}
	return certificateFingerprint(trusted.Root().FulcioCertificateAuthorities()[0].(*root.FulcioCertificateAuthority).Intermediates[0])
}
