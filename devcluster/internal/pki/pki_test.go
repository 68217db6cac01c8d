package pki_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfastcd/holdfast/devcluster/internal/pki"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func newAuthority(t *testing.T) *pki.Authority {
	t.Helper()
	authority, err := pki.NewAuthority(now)
	if err != nil {
		t.Fatal(err)
	}
	return authority
}

// verify checks that pair is a key and a certificate for usage that authority signed, and returns the certificate.
func verify(t *testing.T, authority *pki.Authority, pair pki.Pair, host string, usage x509.ExtKeyUsage, at time.Time) *x509.Certificate {
	t.Helper()
	loaded, err := tls.X509KeyPair(pair.Certificate, pair.Key)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(authority.Certificate())
	_, err = loaded.Leaf.Verify(x509.VerifyOptions{
		Roots: roots, DNSName: host, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{usage},
	})
	if err != nil {
		t.Fatal(err)
	}
	return loaded.Leaf
}

func TestClient(t *testing.T) {
	authority := newAuthority(t)
	pair, err := authority.Client("jane", "system:masters", "devs")
	if err != nil {
		t.Fatal(err)
	}
	leaf := verify(t, authority, pair, "", x509.ExtKeyUsageClientAuth, now)
	groups := slices.Sorted(slices.Values(leaf.Subject.Organization)) // a set, encoded in an order of its own
	if leaf.Subject.CommonName != "jane" || !slices.Equal(groups, []string{"devs", "system:masters"}) {
		t.Errorf("certificate is of %s; want jane in system:masters and devs", leaf.Subject)
	}
}

func TestServer(t *testing.T) {
	authority := newAuthority(t)
	pair, err := authority.Server("127.0.0.1", "localhost")
	if err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"127.0.0.1", "localhost"} {
		verify(t, authority, pair, host, x509.ExtKeyUsageServerAuth, now)
	}
	// A clock that stepped back, and a cluster forgotten for three weeks.
	verify(t, authority, pair, "localhost", x509.ExtKeyUsageServerAuth, now.Add(-30*time.Minute))
	verify(t, authority, pair, "localhost", x509.ExtKeyUsageServerAuth, now.Add(21*24*time.Hour))
}

func TestSigningKey(t *testing.T) {
	private, public, err := pki.SigningKey()
	if err != nil {
		t.Fatal(err)
	}
	privateBlock, _ := pem.Decode(private)
	publicBlock, _ := pem.Decode(public)
	if privateBlock == nil || publicBlock == nil {
		t.Fatalf("not PEM:\n%s\n%s", private, public)
	}
	key, err := x509.ParseECPrivateKey(privateBlock.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	other, err := x509.ParsePKIXPublicKey(publicBlock.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if !key.PublicKey.Equal(other) {
		t.Error("the public key is not the private key's")
	}
}

func TestKubeconfig(t *testing.T) {
	content := string(pki.Kubeconfig("https://127.0.0.1:1234", "jane", []byte("CA"), pki.Pair{Certificate: []byte("C"), Key: []byte("K")}))
	for _, line := range []string{
		"    server: https://127.0.0.1:1234\n",
		"    certificate-authority-data: " + base64.StdEncoding.EncodeToString([]byte("CA")) + "\n",
		"    client-certificate-data: " + base64.StdEncoding.EncodeToString([]byte("C")) + "\n",
		"    client-key-data: " + base64.StdEncoding.EncodeToString([]byte("K")) + "\n",
		"    user: jane\n",
		"current-context: devcluster\n",
	} {
		if !strings.Contains(content, line) {
			t.Errorf("no line %q in:\n%s", line, content)
		}
	}
}
