package commit

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"encoding/pem"

	"github.com/digitorus/pkcs7"

	"github.com/holdfastcd/holdfast/internal/fault"
)

// What a CMS signature of a commit may be at most. A certificate is some 2 KiB, a
// timestamp 6 KiB, a log entry 3 KiB; the nesting is 15 or so.
const (
	maxCMS          = 128 << 10
	maxDepth        = 40
	maxCertificates = 16
	maxTimestamp    = 16 << 10
	maxRSA          = 8192 // bits; the time that a check takes grows with their square
)

// Attributes of CMS (RFC 5652, section 11; RFC 3161, appendix A), and OIDs that are
// compared to.
const (
	attributeContentType   = "1.2.840.113549.1.9.3"
	attributeMessageDigest = "1.2.840.113549.1.9.4"
	attributeTimeStamp     = "1.2.840.113549.1.9.16.2.14"
	oidPSS                 = "1.2.840.113549.1.1.10"
)

// message is a CMS signature that was parsed, and nothing else.
type message struct {
	signer    *x509.Certificate   // the only signer's
	others    []*x509.Certificate // that came along
	hash      crypto.Hash
	pss       bool              // an RSA signature of the probabilistic scheme
	signed    []byte            // the signed attributes as they are hashed: a SET in DER
	attrs     map[string][]byte // signed attributes by OID, values of a single one
	unsigned  map[string][]byte
	signature []byte
}

// cmsHashes are the digest algorithms that count. SHA-1 does not.
var cmsHashes = map[string]crypto.Hash{
	"2.16.840.1.101.3.4.2.1": crypto.SHA256,
	"2.16.840.1.101.3.4.2.2": crypto.SHA384,
	"2.16.840.1.101.3.4.2.3": crypto.SHA512,
}

// parseMessage parses an armoured CMS signature: RFC 5652, detached, one signer, with
// signed attributes. gpgsm, smimesign and gitsign make no other. Errors: Refused, Limit.
func parseMessage(armoured []byte) (*message, error) {
	if len(armoured) > 2*maxCMS {
		return nil, fault.New(fault.Limit, "the signature has %d bytes, more than %d", len(armoured), 2*maxCMS)
	}
	block, rest := pem.Decode(armoured)
	if block == nil || block.Type != "SIGNED MESSAGE" || len(bytes.TrimSpace(rest)) > 0 {
		return nil, fault.New(fault.Refused, "the signature is no PEM block of type SIGNED MESSAGE")
	}
	if err := boundBER(block.Bytes); err != nil {
		return nil, err
	}
	parsed, err := pkcs7.Parse(block.Bytes)
	if err != nil {
		return nil, fault.New(fault.Refused, "the signature is malformed: %s", err)
	}
	switch {
	case len(parsed.Signers) != 1:
		return nil, fault.New(fault.Refused, "the signature has %d signers that are named by issuer and serial number, want one", len(parsed.Signers))
	case len(parsed.Content) > 0:
		return nil, fault.New(fault.Refused, "the signature brings its own content; it must be detached")
	case len(parsed.Certificates) > maxCertificates:
		return nil, fault.New(fault.Limit, "the signature has %d certificates, more than %d", len(parsed.Certificates), maxCertificates)
	}
	for _, c := range parsed.Certificates {
		if key, ok := c.PublicKey.(*rsa.PublicKey); ok && key.N.BitLen() > maxRSA {
			return nil, fault.New(fault.Limit, "the signature has an RSA key of %d bits, more than %d", key.N.BitLen(), maxRSA)
		}
	}
	return newMessage(parsed)
}

// newMessage takes out of a parsed CMS what counts.
func newMessage(parsed *pkcs7.PKCS7) (*message, error) {
	info := parsed.Signers[0]
	m := &message{
		signer: parsed.GetOnlySigner(), others: parsed.Certificates, signature: info.EncryptedDigest,
		pss: info.DigestEncryptionAlgorithm.Algorithm.String() == oidPSS,
	}
	if m.signer == nil {
		return nil, fault.New(fault.Refused, "the signature does not bring its signer's certificate")
	}
	var known bool
	if m.hash, known = cmsHashes[info.DigestAlgorithm.Algorithm.String()]; !known {
		return nil, fault.New(fault.Refused, "the signature uses the digest algorithm %s; SHA-256, SHA-384 and SHA-512 count", info.DigestAlgorithm.Algorithm)
	}
	if len(info.AuthenticatedAttributes) == 0 {
		return nil, fault.New(fault.Refused, "the signature has no signed attributes")
	}
	m.attrs, m.unsigned = map[string][]byte{}, map[string][]byte{}
	for _, a := range info.AuthenticatedAttributes {
		if m.attrs[a.Type.String()] != nil {
			return nil, fault.New(fault.Refused, "the signature has the attribute %s twice", a.Type)
		}
		m.attrs[a.Type.String()] = a.Value.Bytes
	}
	for _, a := range info.UnauthenticatedAttributes {
		m.unsigned[a.Type.String()] = a.Value.Bytes
	}
	var err error
	if m.signed, err = asn1.MarshalWithParams(info.AuthenticatedAttributes, "set"); err != nil {
		return nil, fault.New(fault.Refused, "the signed attributes are malformed: %s", err)
	}
	return m, nil
}

// covers checks that the signature is of payload: its digest is in the signed
// attributes (RFC 5652, section 5.4), and these are what the certificate's key signed.
func (m *message) covers(payload []byte) error {
	var kind asn1.ObjectIdentifier
	if rest, err := asn1.Unmarshal(m.attrs[attributeContentType], &kind); err != nil || len(rest) > 0 || !kind.Equal(pkcs7.OIDData) {
		return fault.New(fault.Refused, "the signature is not one of plain data")
	}
	var digest []byte
	if rest, err := asn1.Unmarshal(m.attrs[attributeMessageDigest], &digest); err != nil || len(rest) > 0 {
		return fault.New(fault.Refused, "the signature has no digest of what was signed")
	}
	h := m.hash.New()
	h.Write(payload)
	if !bytes.Equal(h.Sum(nil), digest) {
		return fault.New(fault.Refused, "the signature is of another content: it was moved here, or the commit was changed")
	}
	algorithm, err := m.algorithm()
	if err != nil {
		return err
	}
	if err := m.signer.CheckSignature(algorithm, m.signed, m.signature); err != nil {
		return fault.New(fault.Refused, "the signature does not verify with its certificate: %s", err)
	}
	return nil
}

// algorithm is the signature's: it follows from the key and the digest.
func (m *message) algorithm() (x509.SignatureAlgorithm, error) {
	byHash := map[crypto.Hash][3]x509.SignatureAlgorithm{
		crypto.SHA256: {x509.SHA256WithRSA, x509.SHA256WithRSAPSS, x509.ECDSAWithSHA256},
		crypto.SHA384: {x509.SHA384WithRSA, x509.SHA384WithRSAPSS, x509.ECDSAWithSHA384},
		crypto.SHA512: {x509.SHA512WithRSA, x509.SHA512WithRSAPSS, x509.ECDSAWithSHA512},
	}[m.hash]
	switch m.signer.PublicKey.(type) {
	case *rsa.PublicKey:
		if m.pss {
			return byHash[1], nil
		}
		return byHash[0], nil
	case *ecdsa.PublicKey:
		return byHash[2], nil
	case ed25519.PublicKey:
		return x509.PureEd25519, nil
	}
	return 0, fault.New(fault.Refused, "the certificate's key is of an unknown algorithm: %s", m.signer.PublicKeyAlgorithm)
}

// octets returns an unsigned attribute that is an OCTET STRING; nil if there is none.
func (m *message) octets(id string) []byte {
	var value []byte
	if rest, err := asn1.Unmarshal(m.unsigned[id], &value); err != nil || len(rest) > 0 {
		return nil
	}
	return value
}

// certificateFingerprint is how a certificate is named in evidence, messages and
// revocations.
func certificateFingerprint(c *x509.Certificate) string {
	h := crypto.SHA256.New()
	h.Write(c.Raw)
	return "sha256:" + hex.EncodeToString(h.Sum(nil))
}

// boundBER bounds size and depth of BER before it is parsed: X.690, section 8.1. It
// takes no tags above 30 and nothing that sticks out of what contains it.
func boundBER(b []byte) error {
	if len(b) > maxCMS {
		return fault.New(fault.Limit, "the signature has %d bytes, more than %d", len(b), maxCMS)
	}
	end, ok := berObject(b, 0, 0)
	if !ok || end != len(b) {
		return fault.New(fault.Refused, "the signature is malformed, or nested deeper than %d", maxDepth)
	}
	return nil
}

// berObject returns where the object that begins at b[at] ends.
func berObject(b []byte, at, depth int) (int, bool) {
	if depth > maxDepth || len(b)-at < 2 || b[at]&0x1f == 0x1f {
		return 0, false
	}
	constructed := b[at]&0x20 != 0
	length, at, ok := berLength(b, at+1)
	switch {
	case !ok || (length < 0 && !constructed):
		return 0, false
	case length < 0:
		return berChildren(b, at, depth, true)
	case !constructed:
		return at + length, true
	}
	end, ok := berChildren(b[:at+length], at, depth, false)
	return end, ok && end == at+length
}

// berChildren returns where the last of the objects that begin at b[at] ends: at the
// end of b or, for an indefinite length, behind two zero bytes.
func berChildren(b []byte, at, depth int, indefinite bool) (int, bool) {
	for first := true; at < len(b) || indefinite; first = false {
		if indefinite && !first && len(b)-at >= 2 && b[at] == 0 && b[at+1] == 0 {
			return at + 2, true
		}
		var ok bool
		if at, ok = berObject(b, at, depth+1); !ok {
			return 0, false
		}
	}
	return at, true
}

// berLength reads the length at b[at], -1 for an indefinite one, and returns where the
// content begins.
func berLength(b []byte, at int) (length, content int, ok bool) {
	first := int(b[at])
	at++
	switch {
	case first == 0x80:
		return -1, at, true
	case first < 0x80:
		return first, at, at+first <= len(b)
	}
	count := first & 0x7f
	if count > 3 || len(b)-at < count { // three bytes are more than maxCMS
		return 0, 0, false
	}
	for _, c := range b[at : at+count] {
		length = length<<8 | int(c)
	}
	at += count
	return length, at, at+length <= len(b)
}
