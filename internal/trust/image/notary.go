package image

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"time"

	"github.com/notaryproject/notation-core-go/revocation"
	"github.com/notaryproject/notation-core-go/revocation/result"
	"github.com/notaryproject/notation-core-go/signature"
	_ "github.com/notaryproject/notation-core-go/signature/cose" // registers this form of envelope
	_ "github.com/notaryproject/notation-core-go/signature/jws"  // registers this form of envelope
	"github.com/notaryproject/notation-go"
	"github.com/notaryproject/notation-go/verifier"
	"github.com/notaryproject/notation-go/verifier/trustpolicy"
	"github.com/notaryproject/notation-go/verifier/truststore"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/trust"
)

// notary verifies signatures of notation against roots that it holds.
type notary struct{ notation.Verifier }

// newNotary reads the roots, certificates in PEM. Errors: Invalid.
func newNotary(text []byte) (notary, error) {
	roots, err := trust.Certificates(text)
	if err != nil {
		return notary{}, err
	}
	// Every signature is checked whole but for revocation by OCSP and CRL, which
	// would ask whatever address a certificate names; the authority's own list counts.
	v, err := verifier.NewWithOptions(&trustpolicy.Document{
		Version: "1.0",
		TrustPolicies: []trustpolicy.TrustPolicy{{
			Name:           store,
			RegistryScopes: []string{"*"},
			SignatureVerification: trustpolicy.SignatureVerification{
				VerificationLevel: trustpolicy.LevelStrict.Name,
				Override:          map[trustpolicy.ValidationType]trustpolicy.ValidationAction{trustpolicy.TypeRevocation: trustpolicy.ActionSkip},
				VerifyTimestamp:   trustpolicy.OptionAfterCertExpiry,
			},
			TrustStores:       []string{"ca:" + store, "signingAuthority:" + store, "tsa:" + store},
			TrustedIdentities: []string{"*"},
		}},
	}, certificates(roots), nil, verifier.VerifierOptions{RevocationCodeSigningValidator: offline{}, RevocationTimestampingValidator: offline{}})
	if err != nil {
		return notary{}, fault.New(fault.Invalid, "its certificates cannot be used: %s", oneLine(err))
	}
	return notary{v}, nil
}

// store is the name of the one trust store.
const store = "policy"

// certificates are a trust store that is in memory.
type certificates []*x509.Certificate

// GetCertificates implements truststore.X509TrustStore. An authority of timestamps
// must be a root; so are those that sign for others.
func (c certificates) GetCertificates(_ context.Context, kind truststore.Type, _ string) ([]*x509.Certificate, error) {
	if kind != truststore.TypeTSA {
		return c, nil
	}
	var roots []*x509.Certificate
	for _, root := range c {
		if root.IsCA && root.CheckSignatureFrom(root) == nil {
			roots = append(roots, root)
		}
	}
	return roots, nil
}

// offline is a revocation check that asks nobody.
type offline struct{}

// ValidateContext implements revocation.Validator.
func (offline) ValidateContext(_ context.Context, o revocation.ValidateContextOptions) ([]*result.CertRevocationResult, error) {
	results := make([]*result.CertRevocationResult, len(o.CertChain))
	for i := range results {
		results[i] = &result.CertRevocationResult{Result: result.ResultNonRevokable}
	}
	return results, nil
}

// verify implements checker. A time is proven where an authority of timestamps
// or a signing authority said it; in the common scheme the signer only claims it.
func (v notary) verify(ctx context.Context, s signed, n object.ImageName) (signer, error) {
	if !isNotation(s.media) {
		return signer{}, fault.New(fault.Unsupported, "it is a signature of cosign's kind, not of notation")
	}
	outcome, err := v.Verify(ctx, ocispec.Descriptor{
		MediaType: string(s.target.MediaType), Digest: digest.Digest(n.Digest), Size: s.target.Size,
	}, s.content, notation.VerifierVerifyOptions{ArtifactReference: "registry.invalid/image@" + n.Digest, SignatureMediaType: s.media})
	if err != nil && targets(outcome) != "" && targets(outcome) != n.Digest {
		return signer{}, anotherImage(n)
	}
	if over := ended(outcome, err); over != nil {
		return signer{}, fault.New(fault.Refused, "the certificate %q expired at %s, and no timestamp proves that it signed before", over.Subject, stamp(over.NotAfter)).
			WithHint("sign the image again, or with a timestamp of an authority whose root is among the roots here")
	}
	if err != nil {
		return signer{}, fault.New(fault.Refused, "%s", oneLine(err)).
			WithHint("it must be a signature of notation over this image by a certificate that the authority's roots vouch for")
	}
	info := outcome.EnvelopeContent.SignerInfo
	who := signer{expires: info.SignedAttributes.Expiry}
	if info.SignedAttributes.SigningScheme == signature.SigningSchemeX509SigningAuthority {
		who.at = info.SignedAttributes.SigningTime
	}
	for i, c := range info.CertificateChain {
		if i == 0 {
			who.fingerprint, who.identity = fingerprint(c.Raw), c.Subject.String()
		} else {
			who.chain = append(who.chain, fingerprint(c.Raw))
		}
		who.ends = earliest(who.ends, c.NotAfter)
	}
	return who, nil
}

// targets returns the digest that a signature of notation is over; "" if that is
// not known.
func targets(outcome *notation.VerificationOutcome) string {
	var payload struct {
		TargetArtifact struct {
			Digest string `json:"digest"`
		} `json:"targetArtifact"`
	}
	if outcome == nil || outcome.EnvelopeContent == nil || json.Unmarshal(outcome.EnvelopeContent.Payload.Content, &payload) != nil {
		return ""
	}
	return payload.TargetArtifact.Digest
}

// ended returns the certificate whose end is why a signature does not verify; nil
// if that is not why.
func ended(outcome *notation.VerificationOutcome, err error) *x509.Certificate {
	if err == nil || outcome == nil || outcome.EnvelopeContent == nil || len(outcome.VerificationResults) == 0 {
		return nil
	}
	last := outcome.VerificationResults[len(outcome.VerificationResults)-1]
	if last.Type != trustpolicy.TypeAuthenticTimestamp || last.Error == nil {
		return nil
	}
	now := time.Now() // as the library does
	for _, c := range outcome.EnvelopeContent.SignerInfo.CertificateChain {
		if now.After(c.NotAfter) {
			return c
		}
	}
	return nil
}
