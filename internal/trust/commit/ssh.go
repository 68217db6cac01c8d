package commit

import (
	"bytes"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"
)

// namespace is the purpose that git gives to its signatures.
const namespace = "git"

// sshFormats are the signatures that are accepted; "ssh-rsa" is RSA with SHA-1.
var sshFormats = []string{
	ssh.KeyAlgoED25519, ssh.KeyAlgoSKED25519, ssh.KeyAlgoRSASHA256, ssh.KeyAlgoRSASHA512,
	ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521, ssh.KeyAlgoSKECDSA256,
}

// verifySSH judges a signature as OpenSSH's PROTOCOL.sshsig has it, by the lines of
// an authority. It returns one finding for each line that permits it.
func verifySSH(lines []allowed, payload, armoured []byte, t times) ([]finding, error) {
	sig, err := parseSSH(armoured)
	if err != nil {
		return nil, err
	}
	if err := sshsig.Verify(bytes.NewReader(payload), sig, sig.PublicKey, sig.HashAlgorithm, namespace); err != nil {
		return nil, errWrong
	}
	key := sig.PublicKey
	cert, certified := key.(*ssh.Certificate)
	if certified {
		key = cert.Key
	}
	if err := checkStrength(key); err != nil {
		return nil, err
	}
	at := t.at(t.made)
	var found []finding
	refusal := unknownKey("SSH key " + ssh.FingerprintSHA256(key))
	for _, a := range lines {
		if a.authority != certified || !certified && !equalKeys(a.key, key) || certified && !equalKeys(a.key, cert.SignatureKey) {
			continue
		}
		f, err := a.finding(key, cert, at)
		if err != nil {
			refusal = err
			continue
		}
		found = append(found, f)
	}
	if len(found) == 0 {
		return nil, refusal
	}
	return found, nil
}

// parseSSH reads an armoured signature, and nothing else beside it.
func parseSSH(armoured []byte) (*sshsig.Signature, error) {
	block, rest := pem.Decode(armoured)
	if block == nil || len(bytes.TrimSpace(rest)) > 0 || len(block.Headers) > 0 || block.Type != sshsig.PEMType {
		return nil, errors.New("the SSH signature is malformed")
	}
	sig, err := sshsig.ParseSignature(block.Bytes)
	if err != nil {
		return nil, errors.New("the SSH signature is malformed, or of a kind that is not supported")
	}
	if sig.Namespace != namespace {
		return nil, fmt.Errorf("the SSH signature is for %.40q, not for %q", sig.Namespace, namespace)
	}
	if !slices.Contains(sshFormats, sig.Signature.Format) {
		return nil, fmt.Errorf("SSH signatures of the kind %.40q are too weak, or not supported", sig.Signature.Format)
	}
	return sig, nil
}

func equalKeys(a, b ssh.PublicKey) bool { return bytes.Equal(a.Marshal(), b.Marshal()) }

// finding is what a line says of a key, or of a certificate by its authority.
func (a allowed) finding(key ssh.PublicKey, cert *ssh.Certificate, at interval) (finding, error) {
	name := ssh.FingerprintSHA256(key)
	if a.namespaces != "" && !matchesList(namespace, a.namespaces) {
		return finding{}, fmt.Errorf("SSH key %s is not allowed for %q", name, namespace)
	}
	if !a.after.IsZero() && at.from.Before(a.after) {
		return finding{}, fmt.Errorf("SSH key %s is not valid before %s, and the commit is dated %s", name, stamp(a.after), stamp(at.from))
	}
	if !a.before.IsZero() && at.to.After(a.before) {
		return finding{}, fmt.Errorf("SSH key %s is not valid after %s, and the commit is dated %s", name, stamp(a.before), stamp(at.to))
	}
	f := finding{kind: "ssh", fingerprints: []string{name}, names: []string{a.principals}, at: at}
	f.owns = func(address string) bool { return matchesList(address, a.principals) }
	if cert == nil {
		return f, nil
	}
	principals, err := a.certified(cert, at)
	if err != nil {
		return finding{}, fmt.Errorf("the SSH certificate of %s is not valid: %w", name, err)
	}
	f.names, f.fingerprints = principals, append(f.fingerprints, ssh.FingerprintSHA256(a.key))
	f.owns = func(address string) bool {
		return slices.ContainsFunc(principals, func(p string) bool { return sameAddress(p, address) })
	}
	return f, nil
}

// certified returns the principals of a certificate that its authority may name.
func (a allowed) certified(cert *ssh.Certificate, at interval) ([]string, error) {
	if cert.CertType != ssh.UserCert {
		return nil, errors.New("it is not for a user")
	}
	if !slices.Contains(sshFormats, cert.Signature.Format) {
		return nil, fmt.Errorf("its signature is of the kind %.40q, which is too weak", cert.Signature.Format)
	}
	var names []string
	for _, p := range cert.ValidPrincipals {
		if matchesList(p, a.principals) {
			names = append(names, p)
		}
	}
	if len(names) == 0 {
		return nil, errors.New("it names no principal that its authority may name")
	}
	for _, moment := range []time.Time{at.from, at.to} {
		checker := ssh.CertChecker{Clock: func() time.Time { return moment }}
		if err := checker.CheckCert(names[0], cert); err != nil {
			return nil, fmt.Errorf("at %s: %w", stamp(moment), err)
		}
	}
	return names, nil
}
