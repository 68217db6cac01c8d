package commit

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/holdfastcd/holdfast/internal/trust"
)

// TestGitWithGpgsm judges what Git and gpgsm make together, which is BER and no DER.
func TestGitWithGpgsm(t *testing.T) {
	if testing.Short() {
		t.Skip("starts an agent")
	}
	for _, tool := range []string{"gpgsm", "gpgconf", "openssl"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Fatalf("%s is not installed: make signing-tools", tool)
		}
	}
	dir := newGpgsmHome(t)
	authority := trust.Authority{Name: "people"}
	var err error
	if authority.X509, err = os.ReadFile(filepath.Join(dir, "root.pem")); err != nil {
		t.Fatal(err)
	}
	run(t, dir, "git", "init", "-q", "repo")
	repo := filepath.Join(dir, "repo")
	for key, value := range map[string]string{
		"user.name": "Ada", "user.email": "ada@example.com", "user.signingkey": "ada@example.com",
		"gpg.format": "x509", "gpg.x509.program": filepath.Join(dir, "sign"),
	} {
		run(t, repo, "git", "config", key, value)
	}
	run(t, repo, "git", "commit", "-q", "--allow-empty", "-S", "-m", "a change")
	run(t, repo, "git", "tag", "-s", "-m", "a release", "v1")
	commit, err := parseCommit(run(t, repo, "git", "cat-file", "commit", "HEAD"))
	if err != nil {
		t.Fatal(err)
	}
	tag, err := parseTag(run(t, repo, "git", "cat-file", "tag", "v1"))
	if err != nil {
		t.Fatal(err)
	}
	a, err := readAuthority(authority)
	if err != nil {
		t.Fatal(err)
	}
	for _, object := range []signed{commit, tag} {
		found, err := a.verify(object, times{made: object.made, now: time.Now()})
		if err != nil {
			t.Fatalf("%s\n%v", object.signature, err)
		}
		if err := a.accept(found[0], "ada@example.com"); err != nil {
			t.Error(err)
		}
		object.payload = bytes.Replace(object.payload, []byte("a "), []byte("A "), 1)
		_, err = a.verify(object, times{made: object.made, now: time.Now()})
		checkError(t, err, "of another content")
	}
}

// newGpgsmHome makes a directory with gpgsm's keyring, which has Ada's key, with the
// root certificate, and with the program sign, that signs for Git without asking.
func newGpgsmHome(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "gpgsm") // short: sockets are in it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	rootKey := newKey(t)
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	root := certify(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: "root"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(1, 0, 0),
	}, nil, rootKey.Public(), rootKey)
	ada := person()
	ada.NotBefore, ada.NotAfter = time.Now().Add(-time.Hour), time.Now().AddDate(1, 0, 0)
	leaf := certify(t, ada, root, key.Public(), rootKey)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha1.Sum(root.Raw) // by which gpgsm's list of trust names it
	gpgsm := "gpgsm --homedir " + dir + " --batch --pinentry-mode loopback --passphrase-fd 3 --disable-crl-checks"
	for name, content := range map[string]string{
		"root.pem":       string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.Raw})),
		"ada.pem":        string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf.Raw})) + string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})),
		"gpg-agent.conf": "allow-loopback-pinentry\n",
		"trustlist.txt":  fmt.Sprintf("%X S relax\n", sum),
		"passphrase":     "x\n",
		"sign":           "#!/bin/sh\nexec " + gpgsm + ` "$@" 3<` + dir + "/passphrase\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { run(t, dir, "gpgconf", "--homedir", dir, "--kill", "all") })
	run(t, dir, "openssl", "pkcs12", "-export", "-in", "ada.pem", "-passout", "pass:x", "-out", "ada.p12",
		"-keypbe", "PBE-SHA1-3DES", "-certpbe", "PBE-SHA1-3DES", "-macalg", "sha1") // what older gpgsm reads
	run(t, dir, "./sign", "--import", "root.pem")
	run(t, dir, "./sign", "--import", "ada.p12")
	return dir
}

// run runs a command and returns what it prints.
func run(t *testing.T, dir, name string, args ...string) []byte {
	t.Helper()
	command := exec.Command(name, args...)
	command.Dir = dir
	command.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null")
	var problems bytes.Buffer
	command.Stderr = &problems
	out, err := command.Output()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, problems.String())
	}
	return out
}
