// Package keyless verifies signatures by certificates that were given to identities, as
// Sigstore has them, offline against a given trusted root. What a policy demands of them
// is the same for commits and for images.
package keyless

import (
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/verify"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/trust"
)

// Verifier verifies signatures. It is safe for concurrent use.
type Verifier struct {
	root       *root.TrustedRoot
	verifier   *verify.Verifier
	identities []verify.PolicyOption
}

// New reads a trusted root. What it names is demanded: certificate transparency where
// it has such a log, the signature's own log unless the policy does without. Errors:
// Invalid.
func New(s trust.Sigstore, more ...verify.VerifierOption) (*Verifier, error) {
	material, err := root.NewTrustedRootFromJSON(s.TrustedRoot)
	if err != nil {
		return nil, fault.New(fault.Invalid, "its trusted root is malformed; write a trusted_root.json of sigstore with cosign trusted-root create, or take that of your instance").Because(err)
	}
	if len(s.Identities) == 0 {
		return nil, fault.New(fault.Invalid, "it names no identity, and anybody can have a certificate").
			WithHint("name the issuer and the subject of who may sign")
	}
	options := append([]verify.VerifierOption{verify.WithTransparencyLog(1), verify.WithObserverTimestamps(1)}, more...)
	if s.IgnoreLog {
		options = append([]verify.VerifierOption{verify.WithSignedTimestamps(1)}, more...)
	}
	if len(material.CTLogs()) > 0 {
		options = append(options, verify.WithSignedCertificateTimestamps(1))
	}
	v := &Verifier{root: material}
	if v.verifier, err = verify.NewVerifier(material, options...); err != nil {
		return nil, fault.New(fault.Invalid, "its trusted root cannot be used: %s", err)
	}
	for _, i := range s.Identities {
		identity, err := identityOf(i)
		if err != nil {
			return nil, err
		}
		v.identities = append(v.identities, verify.WithCertificateIdentity(identity))
	}
	return v, nil
}

// identityOf has expressions match all of a value: one that matches somewhere inside
// also matches what somebody has made up around it.
func identityOf(i trust.Identity) (verify.CertificateIdentity, error) {
	identity, err := verify.NewShortCertificateIdentity(i.Issuer, whole(i.IssuerRegexp), i.Subject, whole(i.SubjectRegexp))
	if err != nil {
		return identity, fault.New(fault.Invalid, "one of its identities cannot be used: %s", err).
			WithHint("each needs an issuer and a subject, or regular expressions for them")
	}
	return identity, nil
}

func whole(expression string) string {
	if expression == "" {
		return ""
	}
	return `\A(?:` + expression + `)\z`
}

// Root returns the trusted root.
func (v *Verifier) Root() *root.TrustedRoot { return v.root }

// Verify verifies that an entity signs an artifact, and was signed by one of the
// identities. Errors are those of sigstore-go, and may repeat what strangers wrote.
func (v *Verifier) Verify(entity verify.SignedEntity, artifact verify.ArtifactPolicyOption) (*verify.VerificationResult, error) {
	return v.verifier.Verify(entity, verify.NewPolicy(artifact, v.identities...))
}
