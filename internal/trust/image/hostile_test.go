package image_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/holdfastcd/holdfast/internal/policy"
	"github.com/holdfastcd/holdfast/internal/trust"
	"github.com/holdfastcd/holdfast/internal/trust/image"
	"github.com/holdfastcd/holdfast/test/signing"
)

// attach puts layers beside an image: as a tag with this suffix, or, without one,
// as an artifact that refers to it.
func attach(t *testing.T, at, suffix string, layers ...mutate.Addendum) {
	t.Helper()
	ref := digestOf(t, at)
	made, err := mutate.Append(mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON), layers...)
	if err != nil {
		t.Fatal(err)
	}
	var into name.Reference = ref.Context().Tag(strings.Replace(ref.DigestStr(), ":", "-", 1) + suffix)
	if suffix == "" {
		about, err := remote.Head(ref)
		if err != nil {
			t.Fatal(err)
		}
		made = mutate.Subject(made, v1.Descriptor{MediaType: about.MediaType, Digest: about.Digest, Size: about.Size}).(v1.Image)
		digest, err := made.Digest()
		if err != nil {
			t.Fatal(err)
		}
		into = ref.Context().Digest(digest.String())
	}
	if err := remote.Write(into, made); err != nil {
		t.Fatal(err)
	}
}

// layer is one layer of an artifact.
func layer(media, content string, notes map[string]string) mutate.Addendum {
	return mutate.Addendum{Layer: static.NewLayer([]byte(content), types.MediaType(media)), Annotations: notes}
}

const (
	simple   = "application/vnd.dev.cosign.simplesigning.v1+json"
	envelope = "application/vnd.dsse.envelope.v1+json"
	bundle   = "application/vnd.dev.sigstore.bundle.v0.3+json"
	noteSig  = "dev.cosignproject.cosign/signature"
	noteCert = "dev.sigstore.cosign/certificate"
	noteLog  = "dev.sigstore.cosign/bundle"
)

// TestMalformed tries what somebody who may write to the registry could put there:
// each is a line that says what is wrong, and proves nothing.
func TestMalformed(t *testing.T) {
	t.Parallel()
	host, key := signing.Registry(t), signing.NewKey(t)
	payload := func(kind, digest string) string {
		return fmt.Sprintf(`{"critical":{"identity":{"docker-reference":""},"image":{"docker-manifest-digest":%q},"type":%q},"optional":null}`, digest, kind)
	}
	const cosign = "cosign container image signature"
	statement := func(kind, predicate, digest string) string {
		body := fmt.Sprintf(`{"_type":%q,"subject":[{"name":"x","digest":{"sha256":%q}}],"predicateType":%q,"predicate":{}}`, kind, strings.TrimPrefix(digest, "sha256:"), predicate)
		return fmt.Sprintf(`{"payloadType":"application/vnd.in-toto+json","payload":%q,"signatures":[{"sig":"AAAA"}]}`, base64.StdEncoding.EncodeToString([]byte(body)))
	}
	certificate := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("junk")}))
	tests := []struct {
		reason string
		suffix string
		layer  func(digest string) mutate.Addendum
		want   string
	}{
		{"a payload that is not JSON", ".sig", func(string) mutate.Addendum { return layer(simple, "{", map[string]string{noteSig: "AAAA"}) }, "is not JSON"},
		{"a payload of another type", ".sig", func(d string) mutate.Addendum {
			return layer(simple, payload("something else", d), map[string]string{noteSig: "AAAA"})
		}, `type "something else"`},
		{"no signature", ".sig", func(d string) mutate.Addendum { return layer(simple, payload(cosign, d), nil) }, "holds no signature"},
		{"a signature that is not base64", ".sig", func(d string) mutate.Addendum {
			return layer(simple, payload(cosign, d), map[string]string{noteSig: "%%"})
		}, "holds no signature"},
		{"a signature that is junk", ".sig", func(d string) mutate.Addendum {
			return layer(simple, payload(cosign, d), map[string]string{noteSig: "AAAA"})
		}, "is not signed by the key"},
		{"a payload that names no digest", ".sig", func(string) mutate.Addendum {
			return layer(simple, payload(cosign, ""), map[string]string{noteSig: "AAAA"})
		}, "another image"},
		{"a certificate that is no PEM", ".sig", func(d string) mutate.Addendum {
			return layer(simple, payload(cosign, d), map[string]string{noteSig: "AAAA", noteCert: "x"})
		}, "no PEM certificate"},
		{"a certificate that is junk", ".sig", func(d string) mutate.Addendum {
			return layer(simple, payload(cosign, d), map[string]string{noteSig: "AAAA", noteCert: certificate})
		}, "keyless"},
		{"a log entry that is junk", ".sig", func(d string) mutate.Addendum {
			return layer(simple, payload(cosign, d), map[string]string{noteSig: "AAAA", noteCert: certificate, noteLog: "{}"})
		}, "no entry of a transparency log"},
		{"an envelope that is not JSON", ".att", func(string) mutate.Addendum { return layer(envelope, "[", nil) }, "envelope is not JSON"},
		{"an envelope without signatures", ".att", func(string) mutate.Addendum {
			return layer(envelope, `{"payloadType":"application/vnd.in-toto+json","payload":"e30="}`, nil)
		}, "holds 0 signatures"},
		{"an envelope of something else", ".att", func(string) mutate.Addendum {
			return layer(envelope, `{"payloadType":"text/plain","payload":"e30=","signatures":[{"sig":"AAAA"}]}`, nil)
		}, `of type "text/plain"`},
		{"a statement of another version", ".att", func(d string) mutate.Addendum {
			return layer(envelope, statement("https://in-toto.io/Statement/v9", "https://spdx.dev/Document", d), nil)
		}, "Statement/v9"},
		{"a statement about nothing", ".att", func(string) mutate.Addendum {
			return layer(envelope, statement("https://in-toto.io/Statement/v1", "https://spdx.dev/Document", ""), nil)
		}, "another image"},
		{"a statement that is signed by nobody", ".att", func(d string) mutate.Addendum {
			return layer(envelope, statement("https://in-toto.io/Statement/v1", "https://spdx.dev/Document", d), nil)
		}, "is not signed by the key"},
		{"a bundle that is none", "", func(string) mutate.Addendum { return layer(bundle, "{}", nil) }, "no sigstore bundle"},
		{"a bundle of a version to come", "", func(string) mutate.Addendum {
			return layer("application/vnd.dev.sigstore.bundle.v9.0+json", `{"mediaType":"application/vnd.dev.sigstore.bundle.v9.0+json"}`, nil)
		}, "no sigstore bundle"},
		{"a signature of notation that is junk", "", func(string) mutate.Addendum { return layer("application/jose+json", "{}", nil) }, "a signature of notation"},
	}
	for i, tc := range tests {
		t.Run(tc.reason, func(t *testing.T) {
			pushed := signing.Push(t, fmt.Sprintf("%s/team/app%d:v1", host, i))
			attach(t, pushed.Ref, tc.suffix, tc.layer(pushed.Digest))
			d := trust.NewDemands(trust.Policy{Name: "production", Images: &trust.Images{
				Authorities: []trust.Authority{{Name: "release", Key: key.Public}}, SBOM: &trust.Attested{},
			}})
			found, verdicts := look(t, image.New(image.Options{}), pushed.Ref, d)
			if len(found.Proofs) > 0 {
				t.Errorf("it proves %+v", found.Proofs)
			}
			expect(t, tc.reason, verdicts, tc.want)
		})
	}
}

// TestNotationJunk tries what notation's own reader makes of junk.
func TestNotationJunk(t *testing.T) {
	t.Parallel()
	host, authority := signing.Registry(t), signing.NewAuthority(t, "images")
	for i, tc := range []struct{ media, content string }{
		{"application/jose+json", "{}"},
		{"application/jose+json", `{"payload":"e30","protected":"e30","header":{"x5c":[]},"signature":"AAAA"}`},
		{"application/cose", "\x84\x00"},
		{"application/cose", ""},
	} {
		pushed := signing.Push(t, fmt.Sprintf("%s/team/app%d:v1", host, i))
		attach(t, pushed.Ref, "", layer(tc.media, tc.content, nil))
		_, verdicts := look(t, image.New(image.Options{}), pushed.Ref, demand(trust.Authority{Notation: authority.Root}))
		expect(t, tc.content, verdicts, "authority release")
	}
}

// TestFlood tries more signatures than are looked at: the last ones count.
func TestFlood(t *testing.T) {
	t.Parallel()
	host := signing.Registry(t)
	pushed := signing.Push(t, host+"/team/app:v1")
	var layers []mutate.Addendum
	for i := range 100 {
		layers = append(layers, layer(simple, fmt.Sprintf(`{"n":%d}`, i), map[string]string{noteSig: "AAAA"}))
	}
	attach(t, pushed.Ref, ".sig", layers...)
	found, verdicts := look(t, image.New(image.Options{}), pushed.Ref, demand(trust.Authority{Key: signing.NewKey(t).Public}))
	expect(t, "a flood", verdicts, "hold 100 signatures")
	if len(found.Problems) > 20 {
		t.Errorf("%d problems", len(found.Problems))
	}
}

// TestKeysRefused tries keys that cannot be used: the policy says so.
func TestKeysRefused(t *testing.T) {
	t.Parallel()
	host := signing.Registry(t)
	pushed := signing.Push(t, host+"/team/app:v1")
	attach(t, pushed.Ref, ".sig", layer(simple, "{}", map[string]string{noteSig: "AAAA"}))
	for _, tc := range []struct {
		reason    string
		authority trust.Authority
		want      string
	}{
		{"no key", trust.Authority{}, "neither key nor sigstore nor notation"},
		{"a key of commits", trust.Authority{SSH: []byte("x ssh-ed25519 AAAA")}, "neither key nor sigstore nor notation"},
		{"no PEM", trust.Authority{Key: []byte("hello")}, "is not in PEM"},
		{"a private key", trust.Authority{Key: signing.NewKey(t).Private}, "a private one"},
		{"junk in PEM", trust.Authority{Key: pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: []byte("x")})}, "cannot be read"},
		{"an algorithm that does not sign", trust.Authority{Key: []byte("-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VuAyEAhSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=\n-----END PUBLIC KEY-----\n")}, "is not known"},
		{"a trusted root that is none", trust.Authority{Sigstore: &trust.Sigstore{TrustedRoot: []byte("{}")}}, "trusted root"},
		{"roots that are none", trust.Authority{Notation: []byte("x")}, "no certificate in PEM"},
		{"a root that is junk", trust.Authority{Notation: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")})}, "cannot be read"},
	} {
		_, verdicts := look(t, image.New(image.Options{}), pushed.Ref, demand(tc.authority))
		expect(t, tc.reason, verdicts, tc.want)
	}
}

// TestRegistries tries registries that do not do what they should.
func TestRegistries(t *testing.T) {
	t.Parallel()
	key := signing.NewKey(t).Public
	tests := []struct {
		reason   string
		answer   http.HandlerFunc
		image    string // "" is an image of the registry, by digest
		want     string
		retried  bool // it may hold later
		requests int64
	}{
		{reason: "it is down", want: "cannot be reached", retried: true},
		{reason: "it fails", answer: status(http.StatusInternalServerError), want: "answers 500", retried: true},
		{reason: "it knows us not", answer: status(http.StatusForbidden), want: "name a Secret with a credential", retried: true},
		{reason: "it has no such tag", answer: status(http.StatusNotFound), image: ":v1", want: "does not have it", retried: true},
		{reason: "it never answers", answer: func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, want: "in time", retried: true},
		{reason: "it is where a machine keeps its secrets", image: "169.254.169.254/team/app@sha256:" + strings.Repeat("a", 64), want: "a link-local address"},
		{reason: "it sends us round", answer: func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, r.URL.Path, http.StatusTemporaryRedirect)
		}, want: "", requests: 400},
		{reason: "it sends us to a machine's metadata", answer: redirect("http://169.254.169.254/latest"), want: "", requests: 100},
		{reason: "it sends us to the clear", answer: redirect("http://registry.example.org/v2/"), want: "", requests: 100},
		{reason: "it answers without end", answer: func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/v2/" {
				return
			}
			w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
			for r.Context().Err() == nil {
				if _, err := w.Write(bytes.Repeat([]byte{' '}, 1<<20)); err != nil {
					return
				}
			}
		}, want: "larger than"},
	}
	for _, tc := range tests {
		t.Run(tc.reason, func(t *testing.T) {
			t.Parallel()
			var requests atomic.Int64
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				requests.Add(1)
				if tc.answer != nil {
					tc.answer(w, r)
				}
			}))
			defer server.Close()
			host := strings.TrimPrefix(server.URL, "http://")
			if tc.answer == nil {
				server.Close()
			}
			name := host + "/team/app@sha256:" + strings.Repeat("a", 64)
			if strings.Contains(tc.image, "/") {
				name = tc.image
			} else if tc.image != "" {
				name = host + "/team/app" + tc.image
			}
			found, verdicts := look(t, image.New(image.Options{Timeout: 3 * time.Second}), name, demand(trust.Authority{Key: key}))
			if len(found.Proofs) > 0 {
				t.Errorf("it proves %+v", found.Proofs)
			}
			if tc.want == "" {
				tc.want = "it is not signed"
			}
			expect(t, tc.reason, verdicts, tc.want)
			if got := policy.Refusal(verdicts).Kind.Terminal(); tc.retried && got {
				t.Errorf("refused for good: %v", verdicts)
			}
			if tc.requests > 0 && requests.Load() > tc.requests {
				t.Errorf("asked %d times", requests.Load())
			}
		})
	}
}

func status(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
}

func redirect(to string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, to, http.StatusTemporaryRedirect) }
}

// TestClear tries that a registry away from this machine is asked by HTTP only
// where the policy says so, whatever its name looks like.
func TestClear(t *testing.T) {
	t.Parallel()
	digest := "@sha256:" + strings.Repeat("a", 64)
	tests := []struct {
		reason     string
		image      string
		registries []trust.Registry
		clear      bool
	}{
		{"a name", "registry.example.org/team/app", nil, false},
		{"an address of a private network", "10.1.2.3:5000/team/app", nil, false},
		{"a name of the local network", "registry.local/team/app", nil, false},
		{"loopback", "127.0.0.1:5000/team/app", nil, true},
		{"what the policy says", "registry.example.org/team/app", []trust.Registry{{Host: "registry.example.org", Insecure: true}}, true},
		{"what the policy says of another", "registry.example.org/team/app", []trust.Registry{{Host: "example.org", Insecure: true}}, false},
	}
	for _, tc := range tests {
		asked := &recorder{plain: true}
		d := trust.NewDemands(trust.Policy{Name: "p", Images: &trust.Images{
			Registries: tc.registries, Authorities: []trust.Authority{{Name: "release", Key: signing.NewKey(t).Public}},
		}})
		_, verdicts := look(t, image.New(image.Options{Transport: asked}), tc.image+digest, d)
		if asked.clear.Load() != tc.clear {
			t.Errorf("%s: asked in the clear: %v", tc.reason, asked.clear.Load())
		}
		expect(t, tc.reason, verdicts, "not signed")
	}
}

// recorder is a network in which every registry is empty, and speaks HTTP where
// plain is set.
type recorder struct {
	plain bool
	clear atomic.Bool
	count atomic.Int64
	auth  atomic.Value // the last credential, as host and header
}

// RoundTrip implements http.RoundTripper.
func (r *recorder) RoundTrip(q *http.Request) (*http.Response, error) {
	r.count.Add(1)
	if q.URL.Scheme == "http" {
		r.clear.Store(true)
	} else if r.plain {
		return nil, http.ErrSchemeMismatch
	}
	if user, password, ok := q.BasicAuth(); ok {
		r.auth.Store(q.URL.Host + " " + user + ":" + password)
	}
	w := httptest.NewRecorder()
	switch {
	case q.URL.Path != "/v2/":
		w.WriteHeader(http.StatusNotFound)
	case q.Header.Get("Authorization") == "":
		w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
		w.WriteHeader(http.StatusUnauthorized)
	}
	resp := w.Result()
	resp.Request = q
	return resp, nil
}

// TestCredential tries that a registry gets the credential that is for it, and
// that nobody hears it.
func TestCredential(t *testing.T) {
	t.Parallel()
	asked := &recorder{}
	d := trust.NewDemands(trust.Policy{Name: "p", Images: &trust.Images{
		Registries:  []trust.Registry{{Host: "registry.example.org", Credential: trust.NewCredential("ns/pull@1", "robot", "secret-word")}},
		Authorities: []trust.Authority{{Name: "release", Key: signing.NewKey(t).Public}},
	}})
	e := image.New(image.Options{Transport: asked})
	digest := "@sha256:" + strings.Repeat("a", 64)
	found, err := e.Examine(context.Background(), []string{"registry.example.org/app" + digest}, d, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := asked.auth.Load().(string); got != "registry.example.org robot:secret-word" {
		t.Errorf("authenticated as %q", got)
	}
	text, err := json.Marshal(found)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(text, []byte("secret-word")) {
		t.Errorf("the secret is told: %s", text)
	}
	asked.auth.Store("")
	if _, err := e.Examine(context.Background(), []string{"other.example.org/app" + digest}, d, nil); err != nil {
		t.Fatal(err)
	}
	if got := asked.auth.Load().(string); got != "" && strings.Contains(got, "secret-word") {
		t.Errorf("another registry is told %q", got)
	}
}
