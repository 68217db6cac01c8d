package signing_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/verify"

	"github.com/holdfastcd/holdfast/test/signing"
)

const (
	subject = "dev@example.com"
	issuer  = "https://issuer.example.com"
)

// registries are the registries that everything is tried on.
func registries(t *testing.T) map[string]string {
	t.Helper()
	if testing.Short() {
		t.Skip("builds the signer")
	}
	return map[string]string{"go-containerregistry": signing.Registry(t), "distribution": signing.Distribution(t)}
}

func TestBundleVerifies(t *testing.T) {
	store := signing.NewSigstore(t)
	for kind, host := range registries(t) {
		tests := []struct {
			reason string
			by     signing.By
			want   string // in the error; "" for none
		}{
			{"a certificate that the logs have seen", signing.By{}, ""},
			{"signed a year ago", signing.By{At: time.Now().AddDate(-1, 0, 0)}, ""},
			{"logged when the certificate was over", signing.By{LogAfter: time.Hour}, "certificate"},
			{"not in the log", signing.By{NoLog: true}, "log"},
			{"not in certificate transparency", signing.By{NoSCT: true}, "certificate timestamp"},
		}
		for _, tc := range tests {
			t.Run(kind+"/"+tc.reason, func(t *testing.T) {
				image := signing.Push(t, host+"/team/app:v1")
				tc.by.Sigstore, tc.by.Subject, tc.by.Issuer = store, subject, issuer
				signing.Cosign(t, image.Ref, signing.Options{By: tc.by, Layout: signing.Bundles})
				err := verifyBundle(t, image, store)
				if tc.want == "" && err != nil {
					t.Fatal(err)
				}
				if tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
					t.Fatalf("got %v, want an error with %q", err, tc.want)
				}
			})
		}
	}
}

// verifyBundle verifies the only bundle that refers to an image.
func verifyBundle(t *testing.T, image signing.Pushed, store *signing.Sigstore) error {
	t.Helper()
	var b bundle.Bundle
	if err := json.Unmarshal(layer(t, referrer(t, image)), &b); err != nil {
		t.Fatal(err)
	}
	trusted, err := root.NewTrustedRootFromJSON(store.TrustedRoot)
	if err != nil {
		t.Fatal(err)
	}
	v, err := verify.NewVerifier(trusted, verify.WithTransparencyLog(1), verify.WithIntegratedTimestamps(1), verify.WithSignedCertificateTimestamps(1))
	if err != nil {
		t.Fatal(err)
	}
	identity, err := verify.NewShortCertificateIdentity(issuer, "", subject, "")
	if err != nil {
		t.Fatal(err)
	}
	digest, err := hex.DecodeString(strings.TrimPrefix(image.Digest, "sha256:"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = v.Verify(&b, verify.NewPolicy(verify.WithArtifactDigest("sha256", digest), verify.WithCertificateIdentity(identity)))
	return err
}

func TestTagVerifies(t *testing.T) {
	for kind, host := range registries(t) {
		t.Run(kind, func(t *testing.T) {
			key, image := signing.NewKey(t), signing.PushIndex(t, host+"/team/app:v1")
			signing.Cosign(t, image.Ref, signing.Options{By: signing.By{Key: key}})
			text, annotations := tagged(t, image, ".sig")
			if !bytes.Contains(text, []byte(image.Digest)) {
				t.Errorf("the payload does not name %s: %s", image.Digest, text)
			}
			if !valid(t, key, text, annotations["dev.cosignproject.cosign/signature"]) {
				t.Error("the signature does not verify")
			}
			store := signing.NewSigstore(t)
			signing.Attest(t, image.Ref, signing.Scan(time.Now(), "HIGH"), signing.Options{By: signing.By{Sigstore: store, Subject: subject, Issuer: issuer}})
			_, annotations = tagged(t, image, ".att")
			for _, want := range []string{"dev.sigstore.cosign/certificate", "dev.sigstore.cosign/chain", "dev.sigstore.cosign/bundle", "predicateType"} {
				if annotations[want] == "" {
					t.Errorf("the attestation has no annotation %s", want)
				}
			}
		})
	}
}

// valid says whether a signature in base64 is the key's.
func valid(t *testing.T, key *signing.Key, text []byte, signature string) bool {
	t.Helper()
	raw, err := base64.StdEncoding.DecodeString(signature)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(key.Public)
	public, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256(text)
	return ecdsa.VerifyASN1(public.(*ecdsa.PublicKey), digest[:], raw)
}

func TestNotationRefers(t *testing.T) {
	for kind, host := range registries(t) {
		t.Run(kind, func(t *testing.T) {
			authority, image := signing.NewAuthority(t, "images"), signing.Push(t, host+"/team/app:v1")
			certificate := authority.Issue(t, "release", time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
			signing.Notation(t, image.Ref, signing.NotationOptions{Certificate: certificate, COSE: kind == "distribution"})
			if len(layer(t, referrer(t, image))) == 0 {
				t.Error("the signature is empty")
			}
		})
	}
}

// referrer returns the only artifact that refers to an image.
func referrer(t *testing.T, image signing.Pushed) v1.Image {
	t.Helper()
	ref, err := name.NewDigest(image.Ref)
	if err != nil {
		t.Fatal(err)
	}
	index, err := remote.Referrers(ref)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	if len(manifest.Manifests) != 1 {
		t.Fatalf("%d referrers, want 1", len(manifest.Manifests))
	}
	artifact, err := remote.Image(ref.Context().Digest(manifest.Manifests[0].Digest.String()))
	if err != nil {
		t.Fatal(err)
	}
	return artifact
}

// tagged returns the payload and annotations of what cosign put into a tag.
func tagged(t *testing.T, image signing.Pushed, suffix string) (text []byte, annotations map[string]string) {
	t.Helper()
	ref, err := name.NewDigest(image.Ref)
	if err != nil {
		t.Fatal(err)
	}
	artifact, err := remote.Image(ref.Context().Tag(strings.Replace(image.Digest, ":", "-", 1) + suffix))
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := artifact.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	return layer(t, artifact), manifest.Layers[0].Annotations
}

// layer returns the content of an artifact's first layer.
func layer(t *testing.T, artifact v1.Image) []byte {
	t.Helper()
	layers, err := artifact.Layers()
	if err != nil || len(layers) == 0 {
		t.Fatalf("%d layers: %v", len(layers), err)
	}
	content, err := layers[0].Compressed()
	if err != nil {
		t.Fatal(err)
	}
	defer content.Close()
	all, err := io.ReadAll(content)
	if err != nil {
		t.Fatal(err)
	}
	return all
}
