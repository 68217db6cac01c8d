package own

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/sigstore/sigstore-go/pkg/root"
	"golang.org/x/crypto/ssh"
)

// The checks below find what is no key before a signature is judged by it. They
// return what is wrong and what to do, never what the key holds.

// checkGPG wants OpenPGP public keys, armoured, and no private ones.
func checkGPG(text []byte) error {
	keys, err := openpgp.ReadArmoredKeyRing(bytes.NewReader(text))
	if err != nil || len(keys) == 0 {
		return errors.New("it holds no OpenPGP public key; write it with gpg --armor --export")
	}
	for _, k := range keys {
		if k.PrivateKey != nil {
			return errors.New("it holds a private key; revoke it, and write the public one with gpg --armor --export")
		}
	}
	return nil
}

// checkSSH wants lines of allowed_signers, of which every one has a key
// (ssh-keygen(1), ALLOWED SIGNERS).
func checkSSH(text []byte) error {
	if bytes.Contains(text, []byte("PRIVATE KEY-----")) {
		return errors.New("it holds a private key; replace it, and write lines of allowed_signers: ADDRESS ssh-ed25519 AAAA…")
	}
	found := false
	number := 0
	for line := range strings.Lines(string(text)) {
		number++
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		if !holdsKey(strings.Fields(line)) {
			return fmt.Errorf("line %d has no principal and key; write lines of allowed_signers: ADDRESS ssh-ed25519 AAAA…", number)
		}
		found = true
	}
	if !found {
		return errors.New("it has no line of allowed_signers; write ADDRESS ssh-ed25519 AAAA…")
	}
	return nil
}

// holdsKey finds type and key behind the principals and the options of a line.
func holdsKey(fields []string) bool {
	for i := 1; i+1 < len(fields); i++ {
		if _, _, _, _, err := ssh.ParseAuthorizedKey([]byte(fields[i] + " " + fields[i+1])); err == nil {
			return true
		}
	}
	return false
}

// checkCertificates wants certificates in PEM, and nothing else.
func checkCertificates(text []byte) error {
	found := false
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		if strings.Contains(block.Type, "PRIVATE KEY") {
			return errors.New("it holds a private key; replace it, and write certificates alone")
		}
		if block.Type != "CERTIFICATE" {
			return fmt.Errorf("it holds a %s; write certificates in PEM", strings.ToLower(block.Type))
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return errors.New("it holds a certificate that cannot be read")
		}
		found = true
	}
	if !found {
		return errors.New("it holds no certificate; write certificates in PEM")
	}
	return nil
}

// checkPublicKey wants one public key in PEM.
func checkPublicKey(text []byte) error {
	block, _ := pem.Decode(text)
	switch {
	case block == nil:
		return errors.New("it holds no public key; write it in PEM, as cosign public-key does")
	case strings.Contains(block.Type, "PRIVATE KEY"):
		return errors.New("it holds a private key; replace it, and write the public one, as cosign public-key does")
	}
	if _, err := x509.ParsePKIXPublicKey(block.Bytes); err != nil {
		return errors.New("it holds a public key of a kind that is not known")
	}
	return nil
}

// checkTrustedRoot wants sigstore's trusted_root.json.
func checkTrustedRoot(text []byte) error {
	if _, err := root.NewTrustedRootFromJSON(text); err != nil {
		return errors.New("it is no trusted_root.json of sigstore; write one with cosign trusted-root create, or take that of your instance")
	}
	return nil
}
