package image

import (
	"bytes"
	"context"
	"encoding/hex"
	"strings"

	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/verify"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/trust"
)

// keyless verifies signatures by certificates that were given to identities.
type keyless struct {
	verifier   *verify.Verifier
	identities []verify.PolicyOption
}

// newKeyless reads a trusted root. What it names is demanded: certificate
// transparency where it has such a log, the signature's own log unless the policy
// does without. Errors: Invalid.
func newKeyless(s trust.Sigstore) (checker, error) {
	material, err := root.NewTrustedRootFromJSON(s.TrustedRoot)
	if err != nil {
		return nil, fault.New(fault.Invalid, "its trusted root cannot be read: %s", err).
			WithHint("it is sigstore's trusted_root.json, which cosign trusted-root create prints")
	}
	options := []verify.VerifierOption{verify.WithoutStatementPredicate()}
	if len(material.CTLogs()) > 0 {
		options = append(options, verify.WithSignedCertificateTimestamps(1))
	}
	if s.IgnoreLog {
		options = append(options, verify.WithSignedTimestamps(1))
	} else {
		options = append(options, verify.WithTransparencyLog(1), verify.WithObserverTimestamps(1))
	}
	v, err := verify.NewVerifier(material, options...)
	if err != nil {
		return nil, fault.New(fault.Invalid, "its trusted root cannot be used: %s", err)
	}
	k := keyless{verifier: v}
	for _, i := range s.Identities {
		identity, err := verify.NewShortCertificateIdentity(i.Issuer, whole(i.IssuerRegexp), i.Subject, whole(i.SubjectRegexp))
		if err != nil {
			return nil, fault.New(fault.Invalid, "one of its identities cannot be used: %s", err).
				WithHint("each needs an issuer and a subject, or regular expressions for them")
		}
		k.identities = append(k.identities, verify.WithCertificateIdentity(identity))
	}
	if len(k.identities) == 0 {
		return nil, fault.New(fault.Invalid, "it names no identity, and anybody may have a certificate").
			WithHint("name the issuer and the subject of who may sign")
	}
	return k, nil
}

// whole has an expression match all of a value, not any part of it.
func whole(expression string) string {
	if expression == "" {
		return ""
	}
	return "^(?:" + expression + ")$"
}

// verify implements checker.
func (k keyless) verify(_ context.Context, s signed, n object.ImageName) (signer, error) {
	switch {
	case isNotation(s.media):
		return signer{}, fault.New(fault.Unsupported, "it is a signature of notation, not a keyless one")
	case s.keyed || s.bundle == nil:
		return signer{}, fault.New(fault.Unsupported, "it is by a key, not keyless")
	}
	result, err := k.verifier.Verify(s.bundle, verify.NewPolicy(artifactOf(s, n), k.identities...))
	if err != nil {
		return signer{}, fault.New(fault.Refused, "%s", oneLine(err)).
			WithHint("the signer's identity, the log and the time must be those that the authority's trusted root knows")
	}
	who := signer{}
	for _, t := range result.VerifiedTimestamps {
		who.at = earliest(who.at, t.Timestamp)
	}
	content, err := s.bundle.VerificationContent()
	if err != nil || content.Certificate() == nil || result.Signature == nil || result.Signature.Certificate == nil || who.at.IsZero() {
		return signer{}, fault.New(fault.Refused, "its certificate, or when it was used, is not known")
	}
	who.fingerprint = fingerprint(content.Certificate().Raw)
	who.identity = result.Signature.Certificate.SubjectAlternativeName
	who.issuer = result.Signature.Certificate.Issuer
	return who, nil
}

// artifactOf returns what the signature must be over: the payload that names the
// image, or the image's own digest.
func artifactOf(s signed, n object.ImageName) verify.ArtifactPolicyOption {
	if s.message != nil && s.statement == nil {
		return verify.WithArtifact(bytes.NewReader(s.message))
	}
	digest, _ := hex.DecodeString(strings.TrimPrefix(n.Digest, "sha256:")) // ParseImage saw to its form
	return verify.WithArtifactDigest("sha256", digest)
}

// oneLine is the text of another library's error, in one bounded line.
func oneLine(err error) string {
	text := strings.Join(strings.Fields(err.Error()), " ")
	if len(text) > 300 {
		text = text[:300] + "…"
	}
	return text
}
