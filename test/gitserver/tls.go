package gitserver

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"time"
)

// authority is a CA made for one server, with the server's own certificate and
// one for its client.
type authority struct {
	ca                    []byte // PEM
	pool                  *x509.CertPool
	server                tls.Certificate
	clientCert, clientKey []byte // PEM
}

// CA returns the certificate to trust, in PEM; nil if the server has no TLS.
func (s *Server) CA() []byte {
	if s.trust == nil {
		return nil
	}
	return s.trust.ca
}

// ClientCert returns a certificate that the server's CA signed for a client, and
// its key, in PEM; nil if the server has no TLS.
func (s *Server) ClientCert() (cert, key []byte) {
	if s.trust == nil {
		return nil, nil
	}
	return s.trust.clientCert, s.trust.clientKey
}

func newAuthority(now time.Time) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	root := certificate(1, now)
	root.IsCA, root.BasicConstraintsValid, root.KeyUsage = true, true, x509.KeyUsageCertSign
	raw, err := x509.CreateCertificate(rand.Reader, root, root, key.Public(), key)
	if err != nil {
		return nil, err
	}
	if root, err = x509.ParseCertificate(raw); err != nil {
		return nil, err
	}
	a := &authority{ca: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw}), pool: x509.NewCertPool()}
	a.pool.AddCert(root)
	cert, private, err := issue(certificate(2, now), root, key)
	if err != nil {
		return nil, err
	}
	if a.server, err = tls.X509KeyPair(cert, private); err != nil {
		return nil, err
	}
	a.clientCert, a.clientKey, err = issue(certificate(3, now), root, key)
	return a, err
}

// certificate is a template for this machine, good for a day around now, and
// around the real time, by which TLS judges.
func certificate(serial int64, now time.Time) *x509.Certificate {
	from, to := now, time.Now()
	if to.Before(from) {
		from, to = to, from
	}
	return &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "Holdfast Test"},
		NotBefore: from.AddDate(0, 0, -1), NotAfter: to.AddDate(0, 0, 1),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		DNSNames:    []string{"localhost", "git.example.com"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
	}
}

func issue(template, ca *x509.Certificate, caKey *ecdsa.PrivateKey) (cert, key []byte, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, ca, private.Public(), caKey)
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

func (a *authority) config(clients bool) *tls.Config {
	c := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{a.server}}
	if clients {
		c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, a.pool
	}
	return c
}
