package image_test

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"strings"
	"testing"
	"time"

	"github.com/holdfastcd/holdfast/internal/policy"
	"github.com/holdfastcd/holdfast/internal/trust"
	"github.com/holdfastcd/holdfast/internal/trust/image"
	"github.com/holdfastcd/holdfast/test/signing"
)

const (
	builder    = "https://github.com/actions/runner/github-hosted"
	repository = "https://github.com/example/app"
)

// TestAttestations tries what attestations say, and who says it, by key and
// keyless, in both layouts.
func TestAttestations(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the signer")
	}
	made := newSigners(t)
	hosts := map[string]string{"referrers": signing.Registry(t), "fallback": signing.Distribution(t)}
	key := trust.Authority{Name: "build", Key: made.key.Public}
	keyless := trust.Authority{Name: "build", Sigstore: &trust.Sigstore{
		TrustedRoot: made.store.TrustedRoot, Identities: []trust.Identity{{Issuer: issuer, SubjectRegexp: "[a-z]+@example\\.com"}},
	}}
	day := 24 * time.Hour
	now := time.Now()
	tests := []struct {
		reason string
		says   []signing.Predicate // in their order
		wrong  bool                // somebody else says it
		replay bool                // it is said of another image
		demand trust.Images
		want   string // in the refusal; "" for none
	}{
		{
			reason: "provenance of version 1", says: []signing.Predicate{signing.Provenance(builder, repository)},
			demand: trust.Images{Provenance: &trust.Provenance{Builders: []string{builder}, Repositories: []string{"https://github.com/example/*"}}},
		},
		{
			reason: "provenance of version 0.2", says: []signing.Predicate{signing.Provenance02(builder, repository)},
			demand: trust.Images{Provenance: &trust.Provenance{Builders: []string{"github.com/actions/**"}, Repositories: []string{"github.com/example/app"}}},
		},
		{
			reason: "another builder", says: []signing.Predicate{signing.Provenance("https://evil.example/builder", repository)},
			demand: trust.Images{Provenance: &trust.Provenance{Builders: []string{builder}}}, want: "names the builder https://evil.example/builder",
		},
		{
			reason: "another source", says: []signing.Predicate{signing.Provenance(builder, "https://github.com/evil/app")},
			demand: trust.Images{Provenance: &trust.Provenance{Repositories: []string{repository}}}, want: "names the source https://github.com/evil/app",
		},
		{
			reason: "the second of two is the right one", says: []signing.Predicate{signing.Provenance("https://other.example", repository), signing.Provenance(builder, repository)},
			demand: trust.Images{Provenance: &trust.Provenance{Builders: []string{builder}}},
		},
		{
			reason: "provenance by somebody else", says: []signing.Predicate{signing.Provenance(builder, repository)}, wrong: true,
			demand: trust.Images{Provenance: &trust.Provenance{}}, want: "no SLSA provenance",
		},
		{
			reason: "provenance of another image", says: []signing.Predicate{signing.Provenance(builder, repository)}, replay: true,
			demand: trust.Images{Provenance: &trust.Provenance{}}, want: "made for another image",
		},
		{
			reason: "no provenance, and a scan does not stand for it", says: []signing.Predicate{signing.Scan(now)},
			demand: trust.Images{Provenance: &trust.Provenance{}}, want: "no SLSA provenance",
		},
		{
			reason: "an attestation is no signature", says: []signing.Predicate{signing.Provenance(builder, repository)},
			demand: trust.Images{Authorities: []trust.Authority{key}}, want: "it is not signed",
		},
		{reason: "a clean scan", says: []signing.Predicate{signing.Scan(now)}, demand: trust.Images{Scan: &trust.Scan{Below: "LOW", MaxAge: day}}},
		{reason: "findings below the bar", says: []signing.Predicate{signing.Scan(now, "LOW", "MEDIUM", "UNKNOWN")}, demand: trust.Images{Scan: &trust.Scan{Below: "HIGH"}}},
		{
			reason: "a finding at the bar", says: []signing.Predicate{signing.Scan(now, "LOW", "HIGH")},
			demand: trust.Images{Scan: &trust.Scan{Below: "HIGH"}}, want: "found something of severity HIGH",
		},
		{
			reason: "a finding above the bar", says: []signing.Predicate{signing.Scan(now, "CRITICAL")},
			demand: trust.Images{Scan: &trust.Scan{Below: "HIGH"}}, want: "found something of severity CRITICAL",
		},
		{
			reason: "an old scan", says: []signing.Predicate{signing.Scan(now.Add(-3 * day))},
			demand: trust.Images{Scan: &trust.Scan{MaxAge: 2 * day}}, want: "scan it again",
		},
		{
			reason: "an old scan is history: the last one found something", says: []signing.Predicate{signing.Scan(now, "HIGH"), signing.Scan(now.Add(-day))},
			demand: trust.Images{Scan: &trust.Scan{Below: "HIGH"}}, want: "found something",
		},
		{
			reason: "a scan of tomorrow", says: []signing.Predicate{signing.Scan(now.Add(day))},
			demand: trust.Images{Scan: &trust.Scan{MaxAge: day}}, want: "a clock is off",
		},
		{reason: "an SBOM of SPDX", says: []signing.Predicate{signing.Bill(signing.SPDX)}, demand: trust.Images{SBOM: &trust.Attested{}}},
		{reason: "an SBOM of CycloneDX", says: []signing.Predicate{signing.Bill(signing.CycloneDX)}, demand: trust.Images{SBOM: &trust.Attested{}}},
		{
			reason: "an SBOM that is none", says: []signing.Predicate{{Type: signing.SPDX, Content: map[string]any{}}},
			demand: trust.Images{SBOM: &trust.Attested{}}, want: "holds no SBOM",
		},
	}
	for hostName, host := range hosts {
		for _, layout := range []signing.Layout{signing.Tags, signing.Bundles} {
			for _, who := range []trust.Authority{key, keyless} {
				kind := "keyless"
				by := signing.By{Sigstore: made.store, Subject: subject, Issuer: issuer}
				other := signing.By{Sigstore: made.otherStore, Subject: subject, Issuer: issuer}
				if who.Sigstore == nil {
					kind, by, other = "key", signing.By{Key: made.key}, signing.By{Key: made.otherKey}
				}
				t.Run(strings.Join([]string{hostName, string(layout), kind}, "/"), func(t *testing.T) {
					t.Parallel()
					for i, tc := range tests {
						pushed := signing.Push(t, host+"/"+kind+"/"+string(layout)+":v"+string(rune('a'+i)))
						o := signing.Options{By: by, Layout: layout}
						if tc.wrong {
							o.By = other
						}
						about := pushed.Ref
						if tc.replay {
							about, o.Attach = signing.Push(t, host+"/"+kind+"/"+string(layout)+":other").Ref, pushed.Ref
						}
						for _, p := range tc.says {
							signing.Attest(t, about, p, o)
						}
						attested := trust.Attested{Authorities: []trust.Authority{who}}
						d := tc.demand // the tables share what it points to
						if d.Provenance != nil {
							p := *d.Provenance
							p.Attested, d.Provenance = attested, &p
						}
						if d.Scan != nil {
							s := *d.Scan
							s.Attested, d.Scan = attested, &s
						}
						if d.SBOM != nil {
							d.SBOM = &attested
						}
						_, verdicts := look(t, image.New(image.Options{}), pushed.Ref, trust.NewDemands(trust.Policy{Name: "production", Images: &d}))
						expect(t, tc.reason, verdicts, tc.want)
					}
				})
			}
		}
	}
}

// expect holds verdicts to a refusal with want in it; "" to none.
func expect(t *testing.T, reason string, verdicts []policy.Verdict, want string) {
	t.Helper()
	refusal := policy.Refusal(verdicts)
	switch {
	case len(verdicts) == 0:
		t.Errorf("%s: nothing was judged", reason)
	case want == "" && refusal != nil:
		t.Errorf("%s: refused: %s", reason, refusal)
	case want != "" && refusal == nil:
		t.Errorf("%s: not refused", reason)
	case want != "" && !strings.Contains(refusal.Error(), want):
		t.Errorf("%s: refused with\n%s\nwithout %q", reason, refusal, want)
	}
}

// TestKeyless tries what the sigstore behind a signature must prove.
func TestKeyless(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("builds the signer")
	}
	store, other := signing.NewSigstore(t), signing.NewSigstore(t)
	host := signing.Registry(t)
	workflow := "https://github.com/example/app/.github/workflows/release.yaml@refs/tags/v1.0.0"
	right := trust.Identity{Issuer: issuer, Subject: subject}
	tests := []struct {
		reason string
		by     signing.By
		trust  trust.Sigstore
		want   string
	}{
		{"another sigstore", signing.By{Sigstore: other}, trust.Sigstore{Identities: []trust.Identity{right}}, "authority release"},
		{"not logged", signing.By{NoLog: true}, trust.Sigstore{Identities: []trust.Identity{right}}, "log"},
		{"not logged, but a timestamp is enough", signing.By{NoLog: true, Stamp: true}, trust.Sigstore{Identities: []trust.Identity{right}, IgnoreLog: true}, ""},
		{"a timestamp is not enough where the log is demanded", signing.By{NoLog: true, Stamp: true}, trust.Sigstore{Identities: []trust.Identity{right}}, "log"},
		{"no certificate transparency", signing.By{NoSCT: true}, trust.Sigstore{Identities: []trust.Identity{right}}, "certificate timestamp"},
		{"another issuer", signing.By{Issuer: "https://evil.example.com"}, trust.Sigstore{Identities: []trust.Identity{right}}, "evil.example.com"},
		{"signed a year ago", signing.By{At: time.Now().AddDate(-1, 0, 0)}, trust.Sigstore{Identities: []trust.Identity{right}}, ""},
		{"signed tomorrow", signing.By{At: time.Now().AddDate(0, 0, 1)}, trust.Sigstore{Identities: []trust.Identity{right}}, "is yet to come"},
		{"one of two identities", signing.By{}, trust.Sigstore{Identities: []trust.Identity{{Issuer: issuer, Subject: "x@example.com"}, right}}, ""},
		{"a workflow by expression", signing.By{Subject: workflow}, trust.Sigstore{Identities: []trust.Identity{{Issuer: issuer, SubjectRegexp: `https://github\.com/example/.*@refs/tags/v.*`}}}, ""},
		{
			"an expression is for the whole subject",
			signing.By{Subject: "release@example.com.evil.org"},
			trust.Sigstore{Identities: []trust.Identity{{Issuer: issuer, SubjectRegexp: `release@example\.com`}}},
			"authority release",
		},
		{"nobody is named", signing.By{}, trust.Sigstore{}, "anybody can have a certificate"},
		{"an issuer is missing", signing.By{}, trust.Sigstore{Identities: []trust.Identity{{Subject: subject}}}, "needs an issuer"},
	}
	for i, tc := range tests {
		for _, layout := range []signing.Layout{signing.Tags, signing.Bundles} {
			pushed := signing.Push(t, host+"/team/"+string(layout)+":v"+string(rune('a'+i)))
			by := tc.by
			if by.Sigstore == nil {
				by.Sigstore = store
			}
			if by.Subject == "" {
				by.Subject = subject
			}
			if by.Issuer == "" {
				by.Issuer = issuer
			}
			signing.Cosign(t, pushed.Ref, signing.Options{By: by, Layout: layout})
			tc.trust.TrustedRoot = store.TrustedRoot
			_, verdicts := look(t, image.New(image.Options{}), pushed.Ref, demand(trust.Authority{Sigstore: &tc.trust}))
			expect(t, string(layout)+": "+tc.reason, verdicts, tc.want)
		}
	}
}

// TestNotation tries the certificates behind a signature of notation.
func TestNotation(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("builds the signer")
	}
	authority, host, now := signing.NewAuthority(t, "images"), signing.Registry(t), time.Now()
	valid := authority.Issue(t, "release", now.Add(-time.Hour), now.Add(time.Hour))
	brief := authority.Issue(t, "release", now.Add(-time.Hour), now.Add(2*time.Second))
	tests := []struct {
		reason string
		leaf   *signing.Certificate
		after  time.Time // when it is looked at; zero: at once
		revoke []trust.Revocation
		names  []string
		want   string
	}{
		{reason: "valid", leaf: valid},
		{reason: "the root is revoked", leaf: valid, revoke: []trust.Revocation{{Fingerprint: pemFingerprint(authority.Root)}}, want: "is revoked"},
		{
			reason: "revoked tomorrow, and no time is proven", leaf: valid,
			revoke: []trust.Revocation{{Fingerprint: derFingerprint(valid.Leaf.Raw), Since: now.Add(24 * time.Hour)}}, want: "is revoked",
		},
		{reason: "one of the identities", leaf: valid, names: []string{"CN=release,*"}},
		{reason: "the certificate is over", leaf: brief, after: brief.Leaf.NotAfter, want: "no timestamp proves"},
	}
	for i, tc := range tests {
		pushed := signing.Push(t, host+"/team/app:v"+string(rune('a'+i)))
		signing.Notation(t, pushed.Ref, signing.NotationOptions{Certificate: tc.leaf})
		<-time.After(time.Until(tc.after)) // notation's library has a clock of its own
		_, verdicts := look(t, image.New(image.Options{}), pushed.Ref, demand(trust.Authority{
			Notation: authority.Root, Revoked: tc.revoke, Identities: tc.names,
		}))
		expect(t, tc.reason, verdicts, tc.want)
	}
}

// TestKeys tries the kinds of keys that cosign signs with.
func TestKeys(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("builds the signer")
	}
	host := signing.Registry(t)
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsa2048, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	_, edwards, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for kind, key := range map[string]*signing.Key{
		"p384": signing.KeyOf(t, p384), "rsa": signing.KeyOf(t, rsa2048), "ed25519": signing.KeyOf(t, edwards),
	} {
		for _, layout := range []signing.Layout{signing.Tags, signing.Bundles} {
			pushed := signing.Push(t, host+"/"+kind+":"+string(layout))
			signing.Cosign(t, pushed.Ref, signing.Options{By: signing.By{Key: key}, Layout: layout})
			_, verdicts := look(t, image.New(image.Options{}), pushed.Ref, demand(trust.Authority{Key: key.Public}))
			expect(t, kind+" in a "+string(layout), verdicts, "")
			_, verdicts = look(t, image.New(image.Options{}), pushed.Ref, demand(trust.Authority{Key: signing.NewKey(t).Public}))
			expect(t, kind+" is not the key", verdicts, "is not signed by the key")
		}
	}
}

// TestIndex tries that a signature counts for what it names and nothing near it:
// of an index, not of its parts.
func TestIndex(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("builds the signer")
	}
	host, key := signing.Registry(t), signing.NewKey(t)
	index := signing.PushIndex(t, host+"/team/app:v1")
	signing.Cosign(t, index.Ref, signing.Options{By: signing.By{Key: key}})
	d := demand(trust.Authority{Key: key.Public})
	_, verdicts := look(t, image.New(image.Options{}), index.Tag, d)
	expect(t, "the index is signed", verdicts, "")
	child := childOf(t, index.Ref)
	_, verdicts = look(t, image.New(image.Options{}), child, d)
	expect(t, "what is in the index is another digest", verdicts, "no signature")
}

// TestOneOf tries that one of several authorities is enough, and that each policy
// asks for its own.
func TestOneOf(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("builds the signer")
	}
	host, key, other := signing.Registry(t), signing.NewKey(t), signing.NewKey(t)
	pushed := signing.Push(t, host+"/team/app:v1")
	signing.Cosign(t, pushed.Ref, signing.Options{By: signing.By{Key: key}})
	a, b := trust.Authority{Name: "a", Key: key.Public}, trust.Authority{Name: "b", Key: other.Public}
	one := func(name string, audit bool, list ...trust.Authority) trust.Policy {
		return trust.Policy{Name: name, Audit: audit, Images: &trust.Images{Authorities: list}}
	}
	tests := []struct {
		reason string
		demand trust.Demands
		want   string
	}{
		{"one of two", trust.NewDemands(one("p", false, b, a)), ""},
		{"two policies, of which one does not hold", trust.NewDemands(one("p", false, a), one("q", false, b)), "policy q"},
		{"one that does not hold only audits", trust.NewDemands(one("p", false, a), one("q", true, b)), ""},
		{
			"authorities of one name are told apart by what they sign",
			trust.NewDemands(trust.Policy{Name: "p", Images: &trust.Images{
				Authorities: []trust.Authority{{Name: "x", Key: other.Public}},
				SBOM:        &trust.Attested{Authorities: []trust.Authority{{Name: "x", Key: key.Public}}},
			}}), "not signed by one of those",
		},
		{"a broken policy proves nothing", trust.NewDemands(trust.Policy{Name: "p", Broken: "its key is missing", Images: &trust.Images{}}), "its key is missing"},
	}
	for _, tc := range tests {
		_, verdicts := look(t, image.New(image.Options{}), pushed.Ref, tc.demand)
		expect(t, tc.reason, verdicts, tc.want)
	}
}
