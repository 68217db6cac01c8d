package signing

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"testing"
	"time"
)

// Key is a signing key.
type Key struct {
	Private []byte // PEM, PKCS #8
	Public  []byte // PEM
	signer  crypto.Signer
}

// NewKey makes a key on the curve P-256, as cosign does.
func NewKey(tb testing.TB) *Key {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	return KeyOf(tb, key)
}

// KeyOf wraps a key of any kind.
func KeyOf(tb testing.TB, key crypto.Signer) *Key {
	tb.Helper()
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		tb.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		tb.Fatal(err)
	}
	return &Key{
		Private: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}),
		Public:  pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}),
		signer:  key,
	}
}

// Authority is a certificate authority of one certificate.
type Authority struct {
	Root []byte // PEM
	cert *x509.Certificate
	key  *Key
}

// NewAuthority makes a certificate authority as notation wants it.
func NewAuthority(tb testing.TB, name string) *Authority {
	tb.Helper()
	key := NewKey(tb)
	cert := certify(tb, &x509.Certificate{
		Subject: subject(name), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		NotBefore: time.Now().Add(-5 * 365 * 24 * time.Hour), NotAfter: time.Now().Add(5 * 365 * 24 * time.Hour),
	}, nil, key, key)
	return &Authority{Root: encode(cert), cert: cert, key: key}
}

// Certificate is a certificate with its key.
type Certificate struct {
	Chain []byte // PEM, leaf first, with the root
	Leaf  *x509.Certificate
	Key   *Key
}

// Issue makes a certificate for code signing, valid from begin to end.
func (a *Authority) Issue(tb testing.TB, name string, begin, end time.Time) *Certificate {
	tb.Helper()
	key := NewKey(tb)
	leaf := certify(tb, &x509.Certificate{
		Subject: subject(name), KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
		NotBefore: begin, NotAfter: end,
	}, a.cert, key, a.key)
	return &Certificate{Chain: append(encode(leaf), a.Root...), Leaf: leaf, Key: key}
}

// subject is a name that notation's trust policies can select by.
func subject(name string) pkix.Name {
	return pkix.Name{CommonName: name, Organization: []string{"Holdfast"}, Country: []string{"CH"}, Province: []string{"ZH"}}
}

// certify signs a certificate for the key of owner; a nil parent makes it its own.
func certify(tb testing.TB, template, parent *x509.Certificate, owner, issuer *Key) *x509.Certificate {
	tb.Helper()
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		tb.Fatal(err)
	}
	template.SerialNumber = serial
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, owner.signer.Public(), issuer.signer)
	if err != nil {
		tb.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		tb.Fatal(err)
	}
	return cert
}

// encode is a certificate in PEM.
func encode(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}

// NotationOptions say how notation signs.
type NotationOptions struct {
	Certificate *Certificate
	COSE        bool          // else JWS
	Expiry      time.Duration // the signature ends so long after now; 0: never
	Metadata    map[string]string
}

// Notation signs an image, "registry/repository@sha256:…", as "notation sign" does.
func Notation(tb testing.TB, image string, o NotationOptions) {
	tb.Helper()
	r := map[string]any{
		"op": "notation", "image": image, "key": o.Certificate.Key.Private, "certificates": o.Certificate.Chain,
		"annotations": o.Metadata,
	}
	if o.COSE {
		r["format"] = "cose"
	}
	if o.Expiry != 0 {
		r["expiry"] = o.Expiry.String()
	}
	ask(tb, r)
}
