package commit

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/digitorus/pkcs7"
	"github.com/digitorus/timestamp"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/trust"
)

// noon is when the tests' commits are made, and judged when they are judged.
var (
	noon   = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)
	judged = noon.AddDate(0, 1, 0)
)

// rawCommit is a commit as Git hashes it, without a signature.
func rawCommit(at time.Time, message string) []byte {
	return fmt.Appendf(nil, "tree 4b825dc642cb6eb9a060e54bf8d69288fbee4904\nauthor Ada <ada@example.com> %d +0000\ncommitter Forge <noreply@example.com> %d +0000\n\n%s\n",
		at.Unix(), at.Unix(), message)
}

// testCA is a certificate authority with an intermediate one.
type testCA struct {
	root, issuer *x509.Certificate
	key          crypto.Signer
}

func newTestCA(t testing.TB) *testCA {
	t.Helper()
	rootKey, key := newKey(t), newKey(t)
	authority := func(name string) *x509.Certificate {
		return &x509.Certificate{
			Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
			NotBefore: noon.AddDate(-5, 0, 0), NotAfter: noon.AddDate(5, 0, 0),
		}
	}
	root := certify(t, authority("root"), nil, rootKey.Public(), rootKey)
	return &testCA{root: root, issuer: certify(t, authority("people"), root, key.Public(), rootKey), key: key}
}

func newKey(t testing.TB) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// certify signs a certificate; a nil parent makes it its own.
func certify(t testing.TB, template, parent *x509.Certificate, public crypto.PublicKey, key crypto.Signer) *x509.Certificate {
	t.Helper()
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 100))
	if err != nil {
		t.Fatal(err)
	}
	template.SerialNumber = serial
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// person is a certificate for signing mail, as companies give them to people.
func person() *x509.Certificate {
	return &x509.Certificate{
		Subject: pkix.Name{CommonName: "Ada Lovelace", Organization: []string{"Example"}}, EmailAddresses: []string{"lovelace@example.com", "ada@example.com"}, SubjectKeyId: []byte{1, 2, 3},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageEmailProtection},
		NotBefore: noon.AddDate(-1, 0, 0), NotAfter: noon.AddDate(1, 0, 0),
	}
}

// authority trusts the CA.
func (ca *testCA) authority() trust.Authority {
	return trust.Authority{Name: "people", X509: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.root.Raw})}
}

// sign issues a certificate and signs content with it.
func (ca *testCA) sign(t testing.TB, template *x509.Certificate, content []byte) (*x509.Certificate, []byte) {
	t.Helper()
	key := newKey(t)
	leaf := certify(t, template, ca.issuer, key.Public(), ca.key)
	return leaf, signCMS(t, content, leaf, key, pkcs7.OIDDigestAlgorithmSHA256, ca.issuer)
}

// signCMS signs content with a key, detached.
func signCMS(t testing.TB, content []byte, leaf *x509.Certificate, key crypto.Signer, digest asn1.ObjectIdentifier, chain ...*x509.Certificate) []byte {
	t.Helper()
	data, err := pkcs7.NewSignedData(content)
	if err != nil {
		t.Fatal(err)
	}
	data.SetDigestAlgorithm(digest)
	if err := data.AddSignerChain(leaf, key, chain, pkcs7.SignerInfoConfig{}); err != nil {
		t.Fatal(err)
	}
	data.Detach()
	der, err := data.Finish()
	if err != nil {
		t.Fatal(err)
	}
	return armour(der)
}

func armour(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "SIGNED MESSAGE", Bytes: der})
}

func TestVerifyX509(t *testing.T) {
	ca, other := newTestCA(t), newTestCA(t)
	tests := []struct {
		reason    string
		leaf      func(*x509.Certificate)
		authority func(*trust.Authority, *x509.Certificate)
		signed    []byte // what is claimed to be signed; nil: what was
		now       time.Time
		identity  string
		want      string // in the error; "" for none
	}{
		{reason: "signed", identity: "ada@example.com"},
		{
			reason:    "an identity that matches a pattern",
			authority: func(a *trust.Authority, _ *x509.Certificate) { a.Identities = []string{"love*@example.com"} },
			identity:  "ada@example.com",
		},
		{
			reason: "an identity by the whole subject",
			authority: func(a *trust.Authority, _ *x509.Certificate) {
				a.Identities = []string{"CN=Ada Lovelace,O=Example"}
			},
			identity: "ada@example.com",
		},
		{
			reason:    "nobody of the authority",
			authority: func(a *trust.Authority, _ *x509.Certificate) { a.Identities = []string{"*@example.org"} },
			want:      "is of lovelace@example.com, ada@example.com, Ada Lovelace",
		},
		{
			reason:    "another authority",
			authority: func(a *trust.Authority, _ *x509.Certificate) { a.X509 = other.authority().X509 },
			want:      "does not lead to the authority",
		},
		{reason: "replayed on another commit", signed: rawCommit(noon, "another"), want: "of another content"},
		{
			reason: "expired when the commit was made",
			leaf:   func(c *x509.Certificate) { c.NotAfter = noon.Add(-time.Hour) },
			want:   "expired at 2026-06-01T11:00:00Z, and the signature is of 2026-06-01T12:00:00Z",
		},
		{
			reason: "expired since",
			leaf:   func(c *x509.Certificate) { c.NotAfter = noon.Add(time.Hour) }, identity: "ada@example.com",
		},
		{
			reason: "not yet valid",
			leaf:   func(c *x509.Certificate) { c.NotBefore = noon.Add(time.Hour) },
			want:   "is valid from 2026-06-01T13:00:00Z",
		},
		{
			reason: "revoked",
			authority: func(a *trust.Authority, c *x509.Certificate) {
				a.Revoked = []trust.Revocation{{Fingerprint: certificateFingerprint(c)}}
			},
			want: "is revoked",
		},
		{
			reason: "revoked since a day before",
			authority: func(a *trust.Authority, c *x509.Certificate) {
				a.Revoked = []trust.Revocation{{Fingerprint: certificateFingerprint(c), Since: noon.AddDate(0, 0, -1)}}
			},
			want: "is revoked since 2026-05-31",
		},
		{
			reason: "revoked since a day later",
			authority: func(a *trust.Authority, c *x509.Certificate) {
				a.Revoked = []trust.Revocation{{Fingerprint: certificateFingerprint(c), Since: noon.AddDate(0, 0, 1)}}
			},
			identity: "ada@example.com",
		},
		{
			reason: "the issuer is revoked",
			authority: func(a *trust.Authority, _ *x509.Certificate) {
				a.Revoked = []trust.Revocation{{Fingerprint: strings.ToUpper(certificateFingerprint(ca.issuer))}}
			},
			want: "is revoked",
		},
		{
			reason:    "before the authority counts",
			authority: func(a *trust.Authority, _ *x509.Certificate) { a.NotBefore = noon.Add(time.Hour) },
			want:      "counts from 2026-06-01T13:00:00Z",
		},
		{
			reason:    "after the authority counted",
			authority: func(a *trust.Authority, _ *x509.Certificate) { a.NotAfter = noon.Add(-time.Hour) },
			want:      "counted until 2026-06-01T11:00:00Z",
		},

		{
			reason: "a certificate of a web server",
			leaf:   func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} },
			want:   "incompatible key usage",
		},
		{
			reason: "a certificate for encryption",
			leaf:   func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyEncipherment },
			want:   "is not for signing",
		},
		{
			reason:    "an authority of another kind",
			authority: func(a *trust.Authority, _ *x509.Certificate) { a.X509 = nil },
			want:      "exactly one of",
		},
		{
			reason:    "an authority without a certificate",
			authority: func(a *trust.Authority, _ *x509.Certificate) { a.X509 = []byte("none") },
			want:      "there is no certificate in PEM",
		},
	}
	for _, tc := range tests {
		t.Run(tc.reason, func(t *testing.T) {
			content, template, authority := rawCommit(noon, "a change"), person(), ca.authority()
			if tc.leaf != nil {
				tc.leaf(template)
			}
			leaf, signature := ca.sign(t, template, content)
			if tc.authority != nil {
				tc.authority(&authority, leaf)
			}
			if tc.signed != nil {
				content = tc.signed
			}
			now := judged
			if !tc.now.IsZero() {
				now = tc.now
			}
			signer, proven, err := judgeCMS(authority, signature, content, now)
			checkError(t, err, tc.want)
			if err != nil {
				return
			}
			want := trust.Signer{Policy: "policy", Authority: "people", Kind: "x509", Fingerprint: certificateFingerprint(leaf), Identity: tc.identity}
			if signer != want || !proven.IsZero() {
				t.Errorf("got %+v at %s, want %+v at no proven time", signer, proven, want)
			}
		})
	}
}

// checkError checks that err holds want, "" for none.
func checkError(t testing.TB, err error, want string) {
	t.Helper()
	if want == "" {
		if err != nil {
			t.Fatal(err)
		}
		return
	}
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Fatalf("got %v, want an error with %q", err, want)
	}
}

func TestVerifyX509Algorithms(t *testing.T) {
	ca, content := newTestCA(t), rawCommit(noon, "a change")
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		reason string
		key    crypto.Signer
		digest asn1.ObjectIdentifier
		want   string
	}{
		{"RSA with SHA-256", rsaKey, pkcs7.OIDDigestAlgorithmSHA256, ""},
		{"RSA with SHA-512", rsaKey, pkcs7.OIDDigestAlgorithmSHA512, ""},
		{"RSA with SHA-1", rsaKey, pkcs7.OIDDigestAlgorithmSHA1, "uses the digest algorithm 1.3.14.3.2.26"},
		{"ECDSA with SHA-384", newKey(t), pkcs7.OIDDigestAlgorithmSHA384, ""},
	}
	for _, tc := range tests {
		t.Run(tc.reason, func(t *testing.T) {
			leaf := certify(t, person(), ca.issuer, tc.key.Public(), ca.key)
			_, _, err := judgeCMS(ca.authority(), signCMS(t, content, leaf, tc.key, tc.digest, ca.issuer), content, judged)
			checkError(t, err, tc.want)
		})
	}
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Fatal("openssl is not installed: make signing-tools")
	}
	pss := []string{"-keyopt", "rsa_padding_mode:pss", "-keyopt", "rsa_pss_saltlen:digest"}
	for _, tc := range []struct {
		key  crypto.Signer
		args []string
		want string
	}{
		{rsaKey, nil, ""},
		{rsaKey, pss, ""},
		{newKey(t), nil, ""},
		{newKey(t), []string{"-cades"}, ""},
		{newKey(t), []string{"-md", "sha1"}, "uses the digest algorithm"},
		{newKey(t), []string{"-noattr"}, "no signed attributes"},
		{newKey(t), []string{"-nodetach"}, "brings its own content"},
		{newKey(t), []string{"-nocerts"}, "does not bring its signer's certificate"},
		{newKey(t), []string{"-keyid"}, "named by issuer and serial number"},
	} {
		t.Run(fmt.Sprintf("openssl %T %v", tc.key, tc.args), func(t *testing.T) {
			leaf := certify(t, person(), ca.issuer, tc.key.Public(), ca.key)
			_, _, err := judgeCMS(ca.authority(), openssl(t, content, leaf, tc.key, ca.issuer, tc.args...), content, judged)
			checkError(t, err, tc.want)
		})
	}
}

// openssl signs content with the command of that name.
func openssl(t *testing.T, content []byte, leaf *x509.Certificate, key crypto.Signer, issuer *x509.Certificate, args ...string) []byte {
	t.Helper()
	dir := t.TempDir()
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{
		"key": {Type: "PRIVATE KEY", Bytes: private}, "leaf": {Type: "CERTIFICATE", Bytes: leaf.Raw}, "issuer": {Type: "CERTIFICATE", Bytes: issuer.Raw},
	} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	args = append([]string{"cms", "-sign", "-binary", "-outform", "DER", "-signer", "leaf", "-inkey", "key", "-certfile", "issuer"}, args...)
	command := exec.CommandContext(t.Context(), "openssl", args...)
	command.Dir, command.Stdin = dir, bytes.NewReader(content)
	var problems bytes.Buffer
	command.Stderr = &problems
	der, err := command.Output()
	if err != nil {
		t.Fatalf("openssl %v: %v\n%s", args, err, problems.String())
	}
	return armour(der)
}

func TestVerifyCMSMalformed(t *testing.T) {
	ca, content := newTestCA(t), rawCommit(noon, "a change")
	_, good := ca.sign(t, person(), content)
	block, _ := pem.Decode(good)
	a, err := readAuthority(ca.authority())
	if err != nil {
		t.Fatal(err)
	}
	nested := bytes.Repeat([]byte{0x30, 0x80}, 5000)
	tests := []struct {
		reason    string
		signature []byte
		want      string
	}{
		{"nothing", nil, "no PEM block"},
		{"not armoured", block.Bytes, "no PEM block"},
		{"of another type", pem.EncodeToMemory(&pem.Block{Type: "CMS", Bytes: block.Bytes}), "no PEM block"},
		{"two of them", append(bytes.Clone(good), good...), "no PEM block"},
		{"too large", bytes.Repeat([]byte("A"), 2*maxCMS+1), "more than"},
		{"too large when decoded", armour(make([]byte, maxCMS+1)), "more than"},
		{"cut off", armour(block.Bytes[:len(block.Bytes)-1]), "malformed"},
		{"with something behind", armour(append(bytes.Clone(block.Bytes), 0, 0)), "malformed"},
		{"nested without end", armour(nested), "nested deeper"},
		{"no CMS", armour([]byte{0x30, 0x03, 0x02, 0x01, 0x01}), "malformed"},
	}
	for _, tc := range tests {
		t.Run(tc.reason, func(t *testing.T) {
			_, err := verifyCMS(a, content, tc.signature, times{made: noon, now: judged})
			checkError(t, err, tc.want)
		})
	}
}

func TestVerifyX509Timestamp(t *testing.T) {
	ca, other, content := newTestCA(t), newTestCA(t), rawCommit(noon, "a change")
	tests := []struct {
		reason string
		by     *testCA
		at     time.Time
		leaf   func(*x509.Certificate)
		want   string
	}{
		{"a timestamp proves when", ca, noon.Add(time.Minute), nil, ""},
		{"after the certificate", ca, noon.AddDate(0, 0, 2), func(c *x509.Certificate) { c.NotAfter = noon.AddDate(0, 0, 1) }, "expired at 2026-06-02"},
		{"in the future", ca, judged.Add(time.Hour), nil, "proven to be of 2026-07-01T13:00:00Z, and now it is"},
	}
	for _, tc := range tests {
		t.Run(tc.reason, func(t *testing.T) {
			template := person()
			if tc.leaf != nil {
				tc.leaf(template)
			}
			_, proven, err := judgeCMS(ca.authority(), stamped(t, ca, tc.by, template, content, tc.at), content, judged)
			checkError(t, err, tc.want)
			if err == nil && !proven.Equal(tc.at) {
				t.Errorf("proven to be of %s, want %s", proven, tc.at)
			}
		})
	}
	t.Run("of another authority, which proves nothing", func(t *testing.T) {
		_, proven, err := judgeCMS(ca.authority(), stamped(t, ca, other, person(), content, noon), content, judged)
		if err != nil || !proven.IsZero() {
			t.Errorf("proven to be of %s: %v", proven, err)
		}
	})
}

// stamped is a signature by a certificate of ca, with a timestamp of a time by another.
func stamped(t *testing.T, ca, by *testCA, template *x509.Certificate, content []byte, at time.Time) []byte {
	t.Helper()
	key := newKey(t)
	leaf := certify(t, template, ca.issuer, key.Public(), ca.key)
	data, err := pkcs7.NewSignedData(content)
	if err != nil {
		t.Fatal(err)
	}
	data.SetDigestAlgorithm(pkcs7.OIDDigestAlgorithmSHA256)
	if err := data.AddSignerChain(leaf, key, []*x509.Certificate{ca.issuer}, pkcs7.SignerInfoConfig{}); err != nil {
		t.Fatal(err)
	}
	info := &data.GetSignedData().SignerInfos[0]
	token := by.stamp(t, info.EncryptedDigest, at)
	if err := info.SetUnauthenticatedAttributes([]pkcs7.Attribute{{
		Type: asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 16, 2, 14}, Value: asn1.RawValue{FullBytes: token},
	}}); err != nil {
		t.Fatal(err)
	}
	data.Detach()
	der, err := data.Finish()
	if err != nil {
		t.Fatal(err)
	}
	return armour(der)
}

// stamp is a timestamp of the authority: RFC 3161.
func (ca *testCA) stamp(t *testing.T, signature []byte, at time.Time) []byte {
	t.Helper()
	usage, err := asn1.Marshal([]asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 8}})
	if err != nil {
		t.Fatal(err)
	}
	key := newKey(t)
	leaf := certify(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: "clock"}, KeyUsage: x509.KeyUsageDigitalSignature,
		NotBefore: noon.AddDate(-1, 0, 0), NotAfter: noon.AddDate(1, 0, 0),
		ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 37}, Critical: true, Value: usage}},
	}, ca.issuer, key.Public(), ca.key)
	digest := sha256.Sum256(signature)
	template := timestamp.Timestamp{
		HashAlgorithm: crypto.SHA256, HashedMessage: digest[:], Time: at, Policy: asn1.ObjectIdentifier{1, 2, 3},
		AddTSACertificate: true, Certificates: []*x509.Certificate{ca.issuer},
	}
	response, err := template.CreateResponseWithOpts(leaf, key, crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := timestamp.ParseResponse(response)
	if err != nil {
		t.Fatal(err)
	}
	return parsed.RawToken
}

// TestVerifyCMSFlipped flips each byte of a signature: none of them may verify, but for
// those that are no part of what is judged.
func TestVerifyCMSFlipped(t *testing.T) {
	ca, content := newTestCA(t), rawCommit(noon, "a change")
	leaf, good := ca.sign(t, person(), content)
	block, _ := pem.Decode(good)
	signature := bytes.LastIndex(block.Bytes, []byte{0x04, 0x48})
	if signature < 0 {
		signature = len(block.Bytes) - 64
	}
	for i := range block.Bytes {
		flipped := bytes.Clone(block.Bytes)
		flipped[i] ^= 0x01
		signer, _, err := judgeCMS(ca.authority(), armour(flipped), content, judged)
		if err == nil && (signer.Fingerprint != certificateFingerprint(leaf) || i >= signature) {
			t.Errorf("byte %d of %d does not count: %+v", i, len(block.Bytes), signer)
		}
	}
}

func FuzzVerifyCMS(f *testing.F) {
	ca, content := newTestCA(f), rawCommit(noon, "a change")
	_, good := ca.sign(f, person(), content)
	block, _ := pem.Decode(good)
	f.Add(block.Bytes)
	f.Add([]byte{0x30, 0x80, 0x00, 0x00})
	other := rawCommit(noon, "another")
	own, err := readAuthority(ca.authority())
	if err != nil {
		f.Fatal(err)
	}
	keyless, err := readAuthority(trust.Authority{Name: "forge", Sigstore: &trust.Sigstore{
		TrustedRoot: []byte(`{"mediaType":"application/vnd.dev.sigstore.trustedroot+json;version=0.1"}`),
		Identities:  []trust.Identity{{IssuerRegexp: ".*", SubjectRegexp: ".*"}},
	}})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, der []byte) {
		for _, a := range []*authority{own, keyless} {
			if found, err := verifyCMS(a, other, armour(der), times{made: noon, now: judged}); err == nil {
				t.Errorf("%+v signed what they did not", found)
			}
			if _, err := verifyCMS(a, content, armour(der), times{made: noon, now: judged}); err != nil && !fault.KindOf(err).Terminal() {
				t.Errorf("an error of kind %s: %v", fault.KindOf(err), err)
			}
		}
	})
}

// judgeCMS returns who signed content, as an authority judges it, and when that is
// proven to be.
func judgeCMS(a trust.Authority, signature, content []byte, now time.Time) (trust.Signer, time.Time, error) {
	s, err := parseCommit(content)
	if err != nil {
		return trust.Signer{}, time.Time{}, err
	}
	s.signature = signature
	read, err := readAuthority(a)
	if err != nil {
		return trust.Signer{}, time.Time{}, err
	}
	found, err := read.verify(s, times{made: s.made, now: now})
	if err != nil {
		return trust.Signer{}, time.Time{}, err
	}
	if err := read.accept(found[0], ""); err != nil {
		return trust.Signer{}, time.Time{}, err
	}
	return *read.signer("policy", found[0], s.by.address), found[0].proven, nil
}
