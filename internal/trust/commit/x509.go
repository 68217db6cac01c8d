package commit

import (
	"crypto/x509"
	"encoding/asn1"
	"slices"
	"time"

	"github.com/sigstore/sigstore-go/pkg/root"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/trust"
)

// verifyCMS finds whose a CMS signature of payload is, as gpgsm and smimesign (an
// authority with X509) and gitsign (one with Sigstore) make it. Errors: Refused, Limit.
func verifyCMS(a *authority, payload, armoured []byte, t times) (finding, error) {
	m, err := parseMessage(armoured)
	if err != nil {
		return finding{}, err
	}
	if err := m.covers(payload); err != nil {
		return finding{}, err
	}
	if a.keyless != nil {
		return verifySigstore(m, a, t)
	}
	return verifyX509(m, a, t)
}

// verifyX509 judges the signer's certificate: its chain ends in one of the authority's,
// it is for signing, and it was valid when it signed. That is the time that a timestamp
// of the same authority proves, else whenever the commit can have been made.
func verifyX509(m *message, a *authority, t times) (finding, error) {
	proven, at := m.timestamp(a.x509), t.at(t.made)
	if proven.After(t.now.Add(trust.Skew)) {
		return finding{}, notYet(proven, t.now)
	}
	if !proven.IsZero() {
		at = interval{proven, proven}
	}
	chains, err := m.chains(a.x509, at)
	if err != nil {
		return finding{}, err
	}
	f := m.finding(chains, a.Revoked)
	f.kind, f.names, f.at, f.proven = "x509", certificateNames(m.signer), at, proven
	f.owns = func(address string) bool {
		return slices.ContainsFunc(m.signer.EmailAddresses, func(own string) bool { return sameAddress(own, address) })
	}
	return f, nil
}

// finding tells of the certificates of a chain, one without a revoked certificate if
// there is any.
func (m *message) finding(chains [][]*x509.Certificate, revoked []trust.Revocation) finding {
	var f finding
	for _, chain := range chains {
		f.fingerprints = nil
		for _, c := range chain {
			f.fingerprints = append(f.fingerprints, certificateFingerprint(c))
		}
		if !slices.ContainsFunc(revoked, func(r trust.Revocation) bool {
			return slices.ContainsFunc(f.fingerprints, func(own string) bool { return trust.SameFingerprint(r.Fingerprint, own) })
		}) {
			break
		}
	}
	return f
}

// notYet says that a proven time is in the future.
func notYet(at, now time.Time) error {
	return fault.New(fault.Refused, "the signature is proven to be of %s, and now it is %s", stamp(at), stamp(now)).
		WithHint("check the clock of the controller")
}

// chains are the ways from the signer's certificate to roots, RFC 5280, that were valid
// from the beginning to the end of an interval. The certificate must be for signing mail
// or code, as far as it is limited.
func (m *message) chains(roots []*x509.Certificate, at interval) ([][]*x509.Certificate, error) {
	name := certificateFingerprint(m.signer)
	switch usage := m.signer.KeyUsage; {
	case at.from.Before(m.signer.NotBefore):
		return nil, fault.New(fault.Refused, "the certificate %s is valid from %s on, and the signature is of %s", name, stamp(m.signer.NotBefore), stamp(at.from))
	case at.to.After(m.signer.NotAfter):
		return nil, fault.New(fault.Refused, "the certificate %s expired at %s, and the signature is of %s", name, stamp(m.signer.NotAfter), stamp(at.to))
	case usage != 0 && usage&(x509.KeyUsageDigitalSignature|x509.KeyUsageContentCommitment) == 0:
		return nil, fault.New(fault.Refused, "the certificate %s is not for signing", name)
	}
	options := x509.VerifyOptions{
		Roots: pool(roots), Intermediates: pool(m.others), CurrentTime: at.from,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageEmailProtection, x509.ExtKeyUsageCodeSigning},
	}
	chains, err := m.signer.Verify(options)
	if options.CurrentTime = at.to; err == nil && !at.to.Equal(at.from) {
		chains, err = m.signer.Verify(options)
	}
	if err != nil {
		return nil, fault.New(fault.Refused, "the certificate %s of %q does not lead to the authority: %s", name, m.signer.Subject, err)
	}
	return chains, nil
}

// pool is a pool of certificates.
func pool(all []*x509.Certificate) *x509.CertPool {
	p := x509.NewCertPool()
	for _, c := range all {
		p.AddCert(c)
	}
	return p
}

// timestamp is when an RFC 3161 timestamp proves that the signature existed; zero if
// there is none whose authority leads to roots.
func (m *message) timestamp(roots []*x509.Certificate) time.Time {
	response := m.timestampResponse()
	if response == nil {
		return time.Time{}
	}
	for _, r := range roots {
		authority := root.SigstoreTimestampingAuthority{Root: r}
		if proven, err := authority.Verify(response, m.signature); err == nil {
			return proven.Time
		}
	}
	return time.Time{} // it proves nothing, like none; what the commit says counts
}

// timestampResponse returns the token that CMS keeps as the response that libraries
// verify: RFC 3161, section 2.4.2, with the status granted. nil if
// there is none that is small enough.
func (m *message) timestampResponse() []byte {
	token := m.unsigned[attributeTimeStamp]
	if token == nil || len(token) > maxTimestamp {
		return nil
	}
	response, err := asn1.Marshal(struct {
		Status struct{ Status int }
		Token  asn1.RawValue
	}{Token: asn1.RawValue{FullBytes: token}})
	if err != nil {
		return nil
	}
	return response
}

// certificateNames are the names that a certificate is for: its addresses and URIs, and
// its subject.
func certificateNames(c *x509.Certificate) []string {
	names := slices.Clone(c.EmailAddresses)
	for _, u := range c.URIs {
		names = append(names, u.String())
	}
	if c.Subject.CommonName != "" {
		names = append(names, c.Subject.CommonName)
	}
	if subject := c.Subject.String(); subject != "" {
		names = append(names, subject)
	}
	return names
}
