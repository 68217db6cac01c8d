package image

import (
	"bytes"
	"context"
	"encoding/hex"
	"strings"

	"github.com/sigstore/sigstore-go/pkg/verify"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/trust"
	"github.com/holdfastcd/holdfast/internal/trust/keyless"
)

// certified verifies signatures by certificates that were given to identities.
type certified struct{ *keyless.Verifier }

// newCertified reads a trusted root. Errors: Invalid.
func newCertified(s trust.Sigstore) (checker, error) {
	v, err := keyless.New(s, verify.WithoutStatementPredicate())
	return certified{v}, err
}

// verify implements checker.
func (k certified) verify(_ context.Context, s signed, n object.ImageName) (signer, error) {
	switch {
	case isNotation(s.media):
		return signer{}, fault.New(fault.Unsupported, "it is a signature of notation, not a keyless one")
	case s.keyed || s.bundle == nil:
		return signer{}, fault.New(fault.Unsupported, "it is by a key, not keyless")
	}
	result, err := k.Verify(s.bundle, artifactOf(s, n))
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
