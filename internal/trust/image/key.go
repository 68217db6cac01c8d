package image

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"strings"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/object"
)

// key verifies signatures by one public key, as cosign makes them.
type key struct {
	public      crypto.PublicKey
	fingerprint string
}

// newKey reads a public key in PEM. Errors: Invalid, Unsupported.
func newKey(text []byte) (checker, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fault.New(fault.Invalid, "its key is not in PEM; write it as cosign public-key does")
	}
	if strings.Contains(block.Type, "PRIVATE") {
		return nil, fault.New(fault.Invalid, "its key is a private one; replace it, and write the public one, as cosign public-key does")
	}
	public, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, fault.New(fault.Invalid, "its key (%.40s) cannot be read; write it as cosign public-key does", block.Type)
	}
	switch k := public.(type) {
	case *ecdsa.PublicKey, ed25519.PublicKey:
	case *rsa.PublicKey:
		if k.Size() < 256 || k.Size() > 1024 {
			return nil, fault.New(fault.Unsupported, "its key has %d bits, and 2048 to 8192 are accepted", k.Size()*8)
		}
	default:
		return nil, fault.New(fault.Unsupported, "its key is of a kind that is not known").WithHint("ECDSA, RSA and Ed25519 are")
	}
	return key{public, fingerprint(block.Bytes)}, nil
}

// verify implements checker.
func (k key) verify(_ context.Context, s signed, n object.ImageName) (signer, error) {
	switch {
	case isNotation(s.media):
		return signer{}, fault.New(fault.Unsupported, "it is a signature of notation, not by a bare key")
	case !s.keyed:
		return signer{}, fault.New(fault.Unsupported, "it is keyless, not by a bare key")
	}
	ok := false
	if s.message != nil {
		ok = k.signed(s.message, s.signature)
	} else if digest, err := hex.DecodeString(strings.TrimPrefix(n.Digest, "sha256:")); err == nil {
		ok = k.signedDigest(crypto.SHA256, digest, s.signature)
	}
	if !ok {
		return signer{}, fault.New(fault.Refused, "it is not signed by the key %s", short(k.fingerprint))
	}
	return signer{fingerprint: k.fingerprint}, nil
}

// signed reports whether signature is over message. cosign hashes with SHA-256
// whatever the key; newer tools choose the hash by the curve.
func (k key) signed(message, signature []byte) bool {
	if public, ok := k.public.(ed25519.PublicKey); ok {
		return ed25519.Verify(public, message, signature)
	}
	for _, hash := range []crypto.Hash{crypto.SHA256, crypto.SHA384, crypto.SHA512} {
		h := hash.New()
		h.Write(message)
		if k.signedDigest(hash, h.Sum(nil), signature) {
			return true
		}
	}
	return false
}

func (k key) signedDigest(hash crypto.Hash, digest, signature []byte) bool {
	if len(digest) < sha256.Size {
		return false
	}
	switch public := k.public.(type) {
	case *ecdsa.PublicKey:
		return ecdsa.VerifyASN1(public, digest, signature)
	case *rsa.PublicKey:
		return rsa.VerifyPKCS1v15(public, hash, digest, signature) == nil ||
			rsa.VerifyPSS(public, hash, digest, signature, nil) == nil
	}
	return false
}
