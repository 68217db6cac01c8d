package image_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/holdfastcd/holdfast/internal/policy"
	"github.com/holdfastcd/holdfast/internal/trust"
	"github.com/holdfastcd/holdfast/internal/trust/image"
	"github.com/holdfastcd/holdfast/test/signing"
)

const (
	subject = "release@example.com"
	issuer  = "https://issuer.example.com"
)

// kind is one way to sign images.
type kind struct {
	name string
	// sign signs an image; the signature is put beside at. wrong: somebody else signs.
	sign func(t *testing.T, made signers, image, at string, wrong, expired bool)
	// authority is who should have signed.
	authority func(made signers) trust.Authority
	// fingerprint of whom proofs name; "" where each signature has its own.
	fingerprint func(made signers) string
	// dated: the signature proves when it was made, so that it cannot expire with
	// its authority.
	dated bool
}

// signers are those who sign in these tests, and somebody else of each kind.
type signers struct {
	key, otherKey             *signing.Key
	store, otherStore         *signing.Sigstore
	authority, otherAuthority *signing.Authority
	leaf, otherLeaf           *signing.Certificate
}

func newSigners(t *testing.T) signers {
	t.Helper()
	s := signers{
		key: signing.NewKey(t), otherKey: signing.NewKey(t),
		store: signing.NewSigstore(t), otherStore: signing.NewSigstore(t),
		authority: signing.NewAuthority(t, "images"), otherAuthority: signing.NewAuthority(t, "images"),
	}
	now := time.Now()
	s.leaf = s.authority.Issue(t, "release", now.Add(-time.Hour), now.Add(time.Hour))
	s.otherLeaf = s.otherAuthority.Issue(t, "release", now.Add(-time.Hour), now.Add(time.Hour))
	return s
}

func kinds() []kind {
	byKey := func(layout signing.Layout) kind {
		return kind{
			sign: func(t *testing.T, made signers, image, at string, wrong, _ bool) {
				key := made.key
				if wrong {
					key = made.otherKey
				}
				signing.Cosign(t, image, signing.Options{By: signing.By{Key: key}, Layout: layout, Attach: at})
			},
			authority:   func(made signers) trust.Authority { return trust.Authority{Key: made.key.Public} },
			fingerprint: func(made signers) string { return pemFingerprint(made.key.Public) },
		}
	}
	keyless := func(layout signing.Layout, stamp bool) kind {
		return kind{
			dated: true,
			sign: func(t *testing.T, made signers, image, at string, wrong, expired bool) {
				by := signing.By{Sigstore: made.store, Subject: subject, Issuer: issuer, Stamp: stamp, NoLog: stamp}
				if wrong {
					by.Subject = "mallory@example.com"
				}
				if expired {
					by.At, by.LogAfter = time.Now().Add(-2*time.Hour), time.Hour
				}
				signing.Cosign(t, image, signing.Options{By: by, Layout: layout, Attach: at})
			},
			authority: func(made signers) trust.Authority {
				return trust.Authority{Sigstore: &trust.Sigstore{
					TrustedRoot: made.store.TrustedRoot, IgnoreLog: stamp,
					Identities: []trust.Identity{{Issuer: issuer, Subject: subject}},
				}}
			},
		}
	}
	notation := func(cose bool) kind {
		return kind{
			sign: func(t *testing.T, made signers, image, at string, wrong, expired bool) {
				o := signing.NotationOptions{Certificate: made.leaf, COSE: cose}
				if wrong {
					o.Certificate = made.otherLeaf
				}
				if expired {
					o.Expiry = time.Hour
				}
				signing.Notation(t, image, o)
				if at != "" {
					move(t, image, at)
				}
			},
			authority:   func(made signers) trust.Authority { return trust.Authority{Notation: made.authority.Root} },
			fingerprint: func(made signers) string { return derFingerprint(made.leaf.Leaf.Raw) },
		}
	}
	all := map[string]kind{
		"key in a tag": byKey(signing.Tags), "key in a bundle": byKey(signing.Bundles),
		"keyless in a tag": keyless(signing.Tags, false), "keyless in a bundle": keyless(signing.Bundles, false),
		"keyless with a timestamp in a tag": keyless(signing.Tags, true), "keyless with a timestamp in a bundle": keyless(signing.Bundles, true),
		"notation as JWS": notation(false), "notation as COSE": notation(true),
	}
	var list []kind
	for name, k := range all {
		k.name = name
		list = append(list, k)
	}
	return list
}

func pemFingerprint(text []byte) string {
	block, _ := pem.Decode(text)
	return derFingerprint(block.Bytes)
}

func derFingerprint(der []byte) string {
	sum := sha256.Sum256(der)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// move has what refers to an image refer to another one, and nothing to the first.
func move(t *testing.T, from, to string) {
	t.Helper()
	source, target := digestOf(t, from), digestOf(t, to)
	index, err := remote.Referrers(source)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	subject, err := remote.Head(target)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range manifest.Manifests {
		artifact, err := remote.Image(source.Context().Digest(d.Digest.String()))
		if err != nil {
			t.Fatal(err)
		}
		moved := mutate.Subject(artifact, v1.Descriptor{MediaType: subject.MediaType, Digest: subject.Digest, Size: subject.Size}).(v1.Image)
		digest, err := moved.Digest()
		if err != nil {
			t.Fatal(err)
		}
		if err := remote.Write(target.Context().Digest(digest.String()), moved); err != nil {
			t.Fatal(err)
		}
	}
}

func digestOf(t *testing.T, image string) name.Digest {
	t.Helper()
	d, err := name.NewDigest(image)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// demand is a policy with one authority of that name for signatures.
func demand(a trust.Authority) trust.Demands {
	a.Name = "release"
	return trust.NewDemands(trust.Policy{Name: "production", Images: &trust.Images{Authorities: []trust.Authority{a}}})
}

// look examines one image and judges it.
func look(t *testing.T, e *image.Examiner, name string, d trust.Demands) (trust.Image, []policy.Verdict) {
	t.Helper()
	found, err := e.Examine(context.Background(), []string{name}, d, nil)
	if err != nil {
		t.Fatal(err)
	}
	return found[0], policy.Images(found, d, time.Now())
}

// TestSignatures tries every kind of signature in every case on two registries, of
// which one has the list of referrers and the other the tag that stands for it.
func TestSignatures(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the signer")
	}
	made := newSigners(t)
	hosts := map[string]string{"referrers": signing.Registry(t), "fallback": signing.Distribution(t)}
	for host, address := range hosts {
		for _, k := range kinds() {
			t.Run(host+"/"+k.name, func(t *testing.T) {
				t.Parallel()
				for _, tc := range cases() {
					t.Run(tc.name, func(t *testing.T) {
						t.Parallel()
						tc.try(t, k, made, address)
					})
				}
			})
		}
	}
}

// attempt is one case of a signature.
type attempt struct {
	name            string
	unsigned, wrong bool
	expired, replay bool
	authority       func(a *trust.Authority, fingerprint string)
	want            string // in the refusal; "" if it holds
	wantNotation    string // instead of it, of notation
}

func cases() []attempt {
	now := time.Now()
	return []attempt{
		{name: "signed"},
		{name: "unsigned", unsigned: true, want: "no signature and no attestation is attached"},
		{name: "wrongly signed", wrong: true, want: "policy production"},
		{name: "replayed", replay: true, want: "another image"},
		{name: "expired", expired: true, want: "certificate", wantNotation: "expired at"},
		{name: "revoked", authority: func(a *trust.Authority, fingerprint string) {
			a.Revoked = []trust.Revocation{{Fingerprint: strings.ToUpper(fingerprint)}}
		}, want: "is revoked"},
		{name: "not yet valid", authority: func(a *trust.Authority, _ string) { a.NotBefore = now.Add(time.Hour) }, want: "before the authority counts"},
		{name: "no longer valid", authority: func(a *trust.Authority, _ string) { a.NotAfter = now.Add(-time.Hour) }, want: "ceased to count"},
		{name: "of another identity", authority: func(a *trust.Authority, _ string) { a.Identities = []string{"CN=nobody"} }, want: "not one of its identities"},
	}
}

func (tc attempt) try(t *testing.T, k kind, made signers, host string) {
	repository := host + "/" + strings.ToLower(strings.NewReplacer(" ", "-", "/", "-").Replace(t.Name()[len("TestSignatures/"):]))
	pushed := signing.PushIndex(t, repository+":v1")
	// A signature of notation may expire; who looks at it is in the future then.
	ahead := time.Duration(0)
	if tc.expired && strings.HasPrefix(k.name, "notation") {
		ahead = 2 * time.Hour
	}
	e := image.New(image.Options{Clock: func() time.Time { return time.Now().Add(ahead) }})
	switch {
	case tc.expired && strings.HasPrefix(k.name, "key in"):
		t.Skip("a key signs without end; its authority ends")
	case tc.replay:
		other := signing.Push(t, repository+":v2")
		k.sign(t, made, other.Ref, pushed.Ref, false, false)
	case !tc.unsigned:
		k.sign(t, made, pushed.Ref, "", tc.wrong, tc.expired)
	}
	authority := k.authority(made)
	if tc.authority != nil {
		var fingerprint string
		if k.fingerprint != nil {
			fingerprint = k.fingerprint(made)
		} else {
			found, _ := look(t, e, pushed.Tag, demand(k.authority(made)))
			if len(found.Proofs) != 1 {
				t.Fatalf("it does not verify without the case: %v", found.Problems)
			}
			fingerprint = found.Proofs[0].Signer.Fingerprint
		}
		tc.authority(&authority, fingerprint)
	}
	want := tc.want
	if tc.wantNotation != "" && strings.HasPrefix(k.name, "notation") {
		want = tc.wantNotation
	}
	found, verdicts := look(t, e, pushed.Tag, demand(authority))
	refusal := policy.Refusal(verdicts)
	if found.Digest != pushed.Digest || found.Pinned != pushed.Tag+"@"+pushed.Digest {
		t.Errorf("resolved to %q, %q", found.Digest, found.Pinned)
	}
	switch {
	case want == "" && (refusal != nil || len(found.Proofs) != 1):
		t.Errorf("refused: %v; proofs %v, problems %q", refusal, found.Proofs, found.Problems)
	case want != "" && refusal == nil:
		t.Errorf("not refused; proofs %+v", found.Proofs)
	case want != "" && !strings.Contains(refusal.Error(), want):
		t.Errorf("refused with\n%s\nwithout %q", refusal, want)
	case want == "" && found.Proofs[0].SignedAt.IsZero() == k.dated:
		t.Errorf("signed at %v", found.Proofs[0].SignedAt)
	}
}

// childOf returns the name of the first image that an index holds.
func childOf(t *testing.T, index string) string {
	t.Helper()
	ref := digestOf(t, index)
	found, err := remote.Index(ref)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := found.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	return ref.Context().Digest(manifest.Manifests[0].Digest.String()).String()
}
