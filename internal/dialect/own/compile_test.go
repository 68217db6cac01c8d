package own

import (
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/ssh"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	api "github.com/holdfastcd/holdfast/api/holdfast/v1alpha1"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/trust"
)

// written parses a TrustPolicy named p with a spec.
func written(t testing.TB, spec string) *unstructured.Unstructured {
	t.Helper()
	u := blank(api.TrustPolicyKind, "p")
	var m map[string]any
	if err := yaml.Unmarshal([]byte(spec), &m); err != nil {
		t.Fatal(err)
	}
	u.Object["spec"] = m
	return u
}

// holding reads from a map of "Kind namespace/name" to data.
func holding(all map[string]map[string]string) Read {
	return func(r Ref) (Content, error) {
		data, ok := all[r.String()]
		switch {
		case r.Name == "unread":
			return Content{}, errUnread(r)
		case r.Name == "forbidden":
			return Content{}, fault.New(fault.Rejected, "no")
		case !ok:
			return Content{}, fault.New(fault.NotFound, "no")
		}
		c := Content{Data: map[string][]byte{}, Version: "v1"}
		for k, v := range data {
			c.Data[k] = []byte(v)
		}
		return c, nil
	}
}

// sshKey is a line of allowed_signers.
func sshKey(t testing.TB) string {
	t.Helper()
	public, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return "me@example.com namespaces=\"git\" " + string(ssh.MarshalAuthorizedKey(key))
}

func pemOf(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

// pair returns a certificate, the public and the private key of it, in PEM.
func pair(t testing.TB) (certificate, public, private string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	privateDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pemOf("CERTIFICATE", der), publicKey(t, key.Public()), pemOf("PRIVATE KEY", privateDER)
}

// publicKey is a public key in PEM.
func publicKey(t testing.TB, key any) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pemOf("PUBLIC KEY", der)
}

func quoted(s string) string {
	b, _ := json.Marshal(s)
	return string(b)
}

func TestCompile(t *testing.T) {
	line := sshKey(t)
	ca, public, _ := pair(t)
	u := written(t, `
mode: audit
commits:
  verify: range
  line: all
  from: [{repository: "git@git.example.com:shop/web.git", commit: "0123456789012345678901234567890123456789"}]
  authorities:
  - {name: me, ssh: {inline: `+quoted(line)+`}, identities: ["*@example.com"], notBefore: "2026-01-01T00:00:00Z",
     revoked: [{fingerprint: " SHA256:abc ", since: "2026-02-01T00:00:00Z", reason: lost}]}
  - {name: cards, x509: {configMapRef: {namespace: keys, name: ca, key: ca.pem}}}
  authorMatches: true
history: {rewind: allow}
images:
  pinned: required
  authorities: [{name: release, key: {secretRef: {namespace: keys, name: release, key: cosign.pub}}}]
  scan: {below: HIGH, maxAge: 24h}
  registries: [{host: registry.example.com, pullSecretRef: {namespace: keys, name: pull}}]
  paths: [{group: example.com, kind: Runner, path: spec.image}]
strict: true`)
	got := Compile(u, holding(map[string]map[string]string{
		"ConfigMap keys/ca":   {"ca.pem": ca},
		"Secret keys/release": {"cosign.pub": public},
		"Secret keys/pull":    {".dockerconfigjson": `{"auths": {"https://registry.example.com/v1/": {"auth": "` + base64.StdEncoding.EncodeToString([]byte("me:pass:word")) + `"}}}`},
	}))
	at := func(s string) time.Time {
		v, err := time.Parse(time.RFC3339, s)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	want := trust.Policy{
		Name: "p", Audit: true, Rewind: true,
		Commits: &trust.Commits{
			Range: true, All: true, AuthorMatches: true,
			From: map[string]string{"git.example.com/shop/web": "0123456789012345678901234567890123456789"},
			Authorities: []trust.Authority{
				{
					Name: "me", SSH: []byte(line), Identities: []string{"*@example.com"}, NotBefore: at("2026-01-01T00:00:00Z"),
					Revoked: []trust.Revocation{{Fingerprint: "SHA256:abc", Since: at("2026-02-01T00:00:00Z")}},
				},
				{Name: "cards", X509: []byte(ca)},
			},
		},
		Images: &trust.Images{
			Pinned: true, Authorities: []trust.Authority{{Name: "release", Key: []byte(public)}},
			Scan:       &trust.Scan{Below: "HIGH", MaxAge: 24 * time.Hour},
			Registries: []trust.Registry{{Host: "registry.example.com"}},
			Paths:      []object.ImagePath{{Group: "example.com", Kind: "Runner", Path: "spec.image"}},
		},
	}
	if got.Policy.Broken != "" {
		t.Fatal(got.Policy.Broken)
	}
	user, password := got.Policy.Images.Registries[0].Credential.Basic()
	if user != "me" || password != "pass:word" {
		t.Errorf("the pull secret was read as %q %q", user, password)
	}
	got.Policy.Images.Registries[0].Credential = trust.Credential{}
	if diff := cmp.Diff(want, got.Policy, cmp.AllowUnexported(trust.Credential{})); diff != "" {
		t.Errorf("compiled (-want +got):\n%s", diff)
	}
	if got.Reason != ReasonAudited || len(got.Refs) != 3 {
		t.Errorf("reason %s, refs %v", got.Reason, got.Refs)
	}
	if text := fmt.Sprintf("%+v %#v", got, got); strings.Contains(text, "pass:word") {
		t.Error("a compiled policy shows a password")
	}
}

func TestDefaults(t *testing.T) {
	line := quoted(sshKey(t))
	got := Compile(written(t, `{commits: {authorities: [{name: me, ssh: {inline: `+line+`}}]}, strict: true}`), holding(nil))
	p := got.Policy
	if p.Broken != "" || p.Audit || p.Rewind || !p.Strict || p.Commits.Range || p.Commits.All {
		t.Errorf("who says little gets the strict form of it: %+v", p)
	}
	if !got.Selects(trust.Subject{Kind: "Kustomization", Namespace: "any", Name: "any"}) {
		t.Error("no selection selects everything")
	}
	audit := Compile(written(t, `{mode: audit, strict: true}`), holding(nil)).Policy
	if audit.Strict || !audit.Rewind {
		t.Errorf("who only audits removes nothing, and who does not speak of commits refuses none: %+v", audit)
	}
}

func TestBroken(t *testing.T) {
	line := quoted(sshKey(t))
	ca, public, private := pair(t)
	weak := publicKey(t, &rsa.PublicKey{N: new(big.Int).SetBit(big.NewInt(1), 1023, 1), E: 65537})
	agreement, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	exchange := publicKey(t, agreement.Public())
	ok := `authorities: [{name: me, ssh: {inline: ` + line + `}}]`
	key := func(s string) string { return `{images: {authorities: [{name: a, ` + s + `}]}}` }
	commit := func(s string) string { return `{commits: {authorities: [{name: a, ` + s + `}]}}` }
	tests := map[string]struct {
		reason, spec string
		want         string // part of the message
		why          string // reason of the condition
	}{
		"nothing demanded":    {"a policy that is none is a mistake", `{mode: enforce}`, "demands nothing", ReasonInvalid},
		"no spec":             {"", `{}`, "demands nothing", ReasonInvalid},
		"unknown field":       {"a slip must not be no demand", `{comits: {}, strict: true}`, `unknown field "spec.comits"`, ReasonUnknown},
		"unknown field deep":  {"nor far inside", `{commits: {authorMatch: true, ` + ok + `}}`, `unknown field "spec.commits.authorMatch"`, ReasonUnknown},
		"unknown in labels":   {"nor in what is Kubernetes' own", `{strict: true, select: {labels: {matchlabels: {a: b}}}}`, `spec.select.labels.matchlabels`, ReasonUnknown},
		"no word for secrets": {"what is to be done must be said", `{secrets: {}}`, `spec.secrets.plaintext: "" is not known`, ReasonInvalid},
		"endless allowance":   {"nothing is for ever", `{secrets: {plaintext: Refuse, allow: [{path: a, rule: b, reason: c}]}}`, "spec.secrets.allow[0].expires", ReasonInvalid},
		"allowed for nothing": {"somebody must have had a reason", `{secrets: {plaintext: Refuse, allow: [{path: a, rule: b, expires: "2027-01-01"}]}}`, "path, rule and reason", ReasonInvalid},
		"odd fingerprint":     {"", `{secrets: {plaintext: Refuse, allow: [{path: a, rule: b, reason: c, fingerprint: x, expires: "2027-01-01"}]}}`, "fingerprint", ReasonInvalid},
		"unknown mode":        {"", `{mode: warn, strict: true}`, `"warn" is not known`, ReasonInvalid},
		"unknown verify":      {"", `{commits: {verify: tail, ` + ok + `}}`, `"tail" is not known; write head or range`, ReasonInvalid},
		"unknown rewind":      {"", `{history: {rewind: maybe}}`, `"maybe" is not known`, ReasonInvalid},
		"wrong type":          {"", `{commits: [], strict: true}`, "cannot unmarshal array into Go struct field TrustPolicySpec.spec.commits", ReasonInvalid},
		"nobody may sign":     {"", `{commits: {verify: head}}`, "names nobody", ReasonInvalid},
		"line without range":  {"it would have no effect", `{commits: {line: all, ` + ok + `}}`, "are for verify: range", ReasonInvalid},
		"from is no commit":   {"", `{commits: {verify: range, from: [{repository: h/r, commit: main}], ` + ok + `}}`, "no full commit id", ReasonInvalid},
		"from twice":          {"which one counts?", `{commits: {verify: range, from: [{repository: h/r, commit: ` + strings.Repeat("a", 40) + `}, {repository: "https://h/r.git", commit: ` + strings.Repeat("b", 40) + `}], ` + ok + `}}`, "named twice", ReasonInvalid},
		"two kinds of keys":   {"", commit(`ssh: {inline: ` + line + `}, gpg: {inline: a}`), "exactly one of gpg, ssh", ReasonInvalid},
		"two places":          {"", commit(`ssh: {inline: ` + line + `, secretRef: {namespace: a, name: b, key: c}}`), "exactly one of inline", ReasonInvalid},
		"a name twice":        {"verdicts could not tell", `{commits: {authorities: [{name: a, ssh: {inline: ` + line + `}}, {name: a, ssh: {inline: ` + line + `}}]}}`, "used twice", ReasonInvalid},
		"dates":               {"", commit(`ssh: {inline: ` + line + `}, notBefore: "2026-02-01T00:00:00Z", notAfter: "2026-01-01T00:00:00Z"`), "notAfter is before", ReasonInvalid},
		"no such ConfigMap":   {"it says which, and what to do", commit(`ssh: {configMapRef: {namespace: ns, name: m, key: k}}`), "ConfigMap ns/m does not exist; create it", ReasonMissing},
		"no such key":         {"", commit(`ssh: {configMapRef: {namespace: keys, name: some, key: k}}`), `ConfigMap keys/some has no key "k"; add it`, ReasonMissing},
		"empty key":           {"", commit(`ssh: {configMapRef: {namespace: keys, name: some, key: empty}}`), `has no key "empty"`, ReasonMissing},
		"no namespace":        {"", commit(`ssh: {configMapRef: {name: m, key: k}}`), "namespace and name are both needed", ReasonInvalid},
		"forbidden":           {"", commit(`ssh: {secretRef: {namespace: ns, name: forbidden, key: k}}`), "may not be read: permit list and watch", ReasonDenied},
		"no GPG key":          {"", commit(`gpg: {inline: hello}`), "something else than armoured public keys; write them with gpg", ReasonKey},
		"no SSH key":          {"", commit(`ssh: {inline: "# nobody"}`), "no signer is allowed: there is no line but comments; write lines of allowed_signers", ReasonKey},
		"SSH key alone":       {"authorized_keys is not allowed_signers", commit(`ssh: {inline: "ssh-ed25519 AAAA"}`), "line 1: there is no key behind principals", ReasonKey},
		"SSH key, private":    {"", commit(`ssh: {inline: "-----BEGIN OPENSSH PRIVATE KEY-----"}`), "private key", ReasonKey},
		"no certificate":      {"", commit(`x509: {inline: hello}`), "no certificate", ReasonKey},
		"not a certificate":   {"", commit(`x509: {inline: ` + quoted(public) + `}`), "there is a public key", ReasonKey},
		"private in chain":    {"", commit(`x509: {inline: ` + quoted(ca+private) + `}`), "private key", ReasonKey},
		"no public key":       {"", key(`key: {inline: hello}`), "its key is not in PEM", ReasonKey},
		"a private key":       {"somebody should know", key(`key: {inline: ` + quoted(private) + `}`), "a private one; replace it", ReasonKey},
		"unknown algorithm":   {"", key(`key: {inline: ` + quoted(pemOf("PUBLIC KEY", []byte("x"))) + `}`), "its key (PUBLIC KEY) cannot be read", ReasonKey},
		"no trusted root":     {"", key(`sigstore: {trustedRoot: {inline: "{}"}, identities: [{issuer: i, subject: s}]}`), "its trusted root is malformed; write a trusted_root.json", ReasonKey},
		"anybody":             {"keyless without an identity is no demand", key(`sigstore: {trustedRoot: {inline: "{}"}}`), "names nobody: anybody", ReasonInvalid},
		"half an identity":    {"", key(`sigstore: {trustedRoot: {inline: "{}"}, identities: [{issuer: i}]}`), "exactly one of subject", ReasonInvalid},
		"bad expression":      {"", key(`sigstore: {trustedRoot: {inline: "{}"}, identities: [{issuer: i, subjectRegexp: "("}]}`), "missing closing )", ReasonInvalid},
		"attested by nobody":  {"", `{images: {sbom: {}}}`, "nobody is named who may sign", ReasonInvalid},
		"severity":            {"", `{images: {scan: {below: high, authorities: [{name: a, key: {inline: ` + quoted(public) + `}}]}}}`, "no severity", ReasonInvalid},
		"age":                 {"", `{images: {scan: {below: LOW, maxAge: 0s, authorities: [{name: a, key: {inline: ` + quoted(public) + `}}]}}}`, "no scan is younger", ReasonInvalid},
		"bad glob":            {"a pattern that matches nothing would judge nothing", `{images: {match: ["[a"]}}`, "spec.images.match[0]: pattern", ReasonInvalid},
		"bad host":            {"a wildcard inside of a host reaches into other domains", `{images: {allowed: ["registry.*.com/**"]}}`, "its first labels only", ReasonInvalid},
		"a tag in a pattern":  {"it would match nothing", `{images: {allowed: ["*/web:v1"]}}`, "neither tags nor digests", ReasonInvalid},
		"builder":             {"[ab] would stand for itself", `{images: {provenance: {builders: ["https://ci.example.com/[ab]"], authorities: [{name: a, key: {inline: ` + quoted(public) + `}}]}}}`, "spec.images.provenance.builders[0]", ReasonInvalid},
		"source":              {"and so would ?", `{images: {provenance: {repositories: ["https://git.example.com/?"], authorities: [{name: a, key: {inline: ` + quoted(public) + `}}]}}}`, "spec.images.provenance.repositories[0]", ReasonInvalid},
		"weak key":            {"told at once, not by the first image", key(`key: {inline: ` + quoted(weak) + `}`), "1024 bits, and 2048 to 8192 are accepted", ReasonKey},
		"unknown curve":       {"", key(`key: {inline: ` + quoted(exchange) + `}`), "kind that is not known", ReasonKey},
		"pull secret":         {"", `{images: {registries: [{host: r.example, pullSecretRef: {namespace: keys, name: pull}}]}}`, "no user and password for r.example", ReasonMissing},
		"host":                {"", `{images: {registries: [{host: "https://r.example"}]}}`, "no name of a registry", ReasonInvalid},
	}
	read := holding(map[string]map[string]string{
		"ConfigMap keys/some": {"other": "x", "empty": ""},
		"Secret keys/pull":    {".dockerconfigjson": `{"auths": {"other.example": {"username": "u", "password": "hush"}}}`},
	})
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got := Compile(written(t, tt.spec), read)
			if !strings.Contains(got.Policy.Broken, tt.want) || got.Policy.Broken == "" || got.Reason != tt.why {
				t.Errorf("%s: want %s %q, got %s %q", tt.reason, tt.why, tt.want, got.Reason, got.Policy.Broken)
			}
			if strings.Contains(got.Policy.Broken, "hush") || strings.Contains(got.Policy.Broken, "BEGIN") {
				t.Errorf("the message repeats a secret: %s", got.Policy.Broken)
			}
		})
	}
}

// What is broken about a policy does not change whom it is for, nor that it enforces.
func TestBrokenStillSelects(t *testing.T) {
	a, b := trust.Subject{Kind: "Kustomization", Namespace: "a"}, trust.Subject{Kind: "Kustomization", Namespace: "b"}
	for name, tt := range map[string]struct {
		reason, spec string
		b, audit     bool
	}{
		"unknown field":     {"the selection can be read", `{select: {namespaces: [a]}, comits: {}}`, false, false},
		"wrong type":        {"the selection can be read without the rest", `{mode: audit, select: {namespaces: [a]}, commits: 3}`, false, true},
		"wrong selection":   {"nobody can tell whom it is for", `{mode: audit, select: {namespaces: a}, strict: true}`, true, false},
		"unknown selection": {"a slip in the selection is seen by all", `{select: {namespace: [a]}, strict: true}`, true, false},
	} {
		got := Compile(written(t, tt.spec), holding(nil))
		if got.Policy.Broken == "" || !got.Selects(a) || got.Selects(b) != tt.b || got.Policy.Audit != tt.audit {
			t.Errorf("%s: %s: %+v selects a: %v, b: %v", name, tt.reason, got.Policy, got.Selects(a), got.Selects(b))
		}
	}
}

func TestWaiting(t *testing.T) {
	got := Compile(written(t, `{commits: {authorities: [{name: a, ssh: {secretRef: {namespace: ns, name: unread, key: k}}}]}}`), holding(nil))
	if !got.Waiting || got.Policy.Broken != "" || got.Reason != ReasonReading {
		t.Errorf("a key that was not read yet is not missing: %+v", got)
	}
}

func TestFingerprint(t *testing.T) {
	line := quoted(sshKey(t))
	spec := `{commits: {authorities: [{name: a, ssh: {inline: ` + line + `}}]}, select: {namespaces: [%s]}, mode: %s}`
	of := func(ns, mode string) string {
		return Compile(written(t, fmt.Sprintf(spec, ns, mode)), holding(nil)).print
	}
	first, again := of("a", "enforce"), of("a", "enforce")
	if first != again {
		t.Error("the same policy has two fingerprints")
	}
	if of("a", "enforce") == of("b", "enforce") || of("a", "enforce") == of("a", "audit") {
		t.Error("two policies have one fingerprint")
	}
}

// Whatever somebody writes into a policy: it is compiled, or broken, and never panics.
func FuzzCompile(f *testing.F) {
	f.Add(`{"mode":"enforce","select":{"repositories":["h/**"]},"commits":{"authorities":[{"name":"a","ssh":{"inline":"x"}}]}}`)
	f.Add(`{"images":{"scan":{"below":"HIGH","maxAge":"1h"},"registries":[{"host":"h","pullSecretRef":{"namespace":"n","name":"m"}}]}}`)
	f.Fuzz(func(_ *testing.T, spec string) {
		var m map[string]any
		if json.Unmarshal([]byte(spec), &m) != nil {
			return
		}
		u := blank(api.TrustPolicyKind, "p")
		u.Object["spec"] = m
		Compile(u, holding(nil)).Selects(trust.Subject{})
	})
}
