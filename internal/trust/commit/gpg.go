package commit

import (
	"bytes"
	"crypto"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/armor"
	pgperrors "github.com/ProtonMail/go-crypto/openpgp/errors"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	openpgp "github.com/ProtonMail/go-crypto/openpgp/v2"
)

const (
	minRSA     = 2048
	maxGPGKeys = 1_000

	keyBegin = "-----BEGIN PGP PUBLIC KEY BLOCK-----"
	keyEnd   = "-----END PGP PUBLIC KEY BLOCK-----"
	sigBegin = "-----BEGIN PGP SIGNATURE-----"
	sigEnd   = "-----END PGP SIGNATURE-----"
)

// gpgKey is one OpenPGP key with its subkeys. It is kept as bytes and parsed for
// every signature: the library notes in a parsed key which of its parts are valid at
// the time that it was asked for first.
type gpgKey struct {
	raw []byte
	ids []uint64 // of the key and its subkeys
}

// parseGPG reads armoured public keys, one block or more. What is no key, or one that
// cannot be read, is refused: a key that is skipped silently would be missed later.
func parseGPG(text []byte) ([]gpgKey, error) {
	var keys []gpgKey
	for rest := bytes.TrimSpace(text); len(rest) > 0; rest = bytes.TrimSpace(rest) {
		switch {
		case bytes.Contains(rest, []byte("PRIVATE KEY BLOCK-----")):
			return nil, errors.New("there is a private key; revoke it, and write the public one with gpg --armor --export")
		case !bytes.HasPrefix(rest, []byte(keyBegin)):
			return nil, errors.New("there is something else than armoured public keys; write them with gpg --armor --export")
		}
		end := bytes.Index(rest, []byte(keyEnd))
		if end < 0 {
			return nil, errors.New("a block of keys does not end")
		}
		end += len(keyEnd)
		block, err := armor.Decode(bytes.NewReader(rest[:end]))
		if err != nil || block.Type != openpgp.PublicKeyType {
			return nil, errors.New("a block of keys is malformed")
		}
		if keys, err = appendKeys(keys, block.Body); err != nil {
			return nil, err
		}
		rest = rest[end:]
	}
	if len(keys) == 0 {
		return nil, errors.New("there is no key")
	}
	return keys, nil
}

func appendKeys(keys []gpgKey, in io.Reader) ([]gpgKey, error) {
	packets := packet.NewReader(in)
	for {
		entity, err := openpgp.ReadEntity(packets)
		if errors.Is(err, io.EOF) {
			return keys, nil
		}
		if err != nil {
			return nil, fmt.Errorf("key %d cannot be read, or is of a kind that is not supported", len(keys)+1)
		}
		if entity.PrivateKey != nil {
			return nil, errors.New("there is a private key")
		}
		var raw bytes.Buffer
		if err := entity.Serialize(&raw); err != nil {
			return nil, fmt.Errorf("key %d is of a kind that is not supported", len(keys)+1)
		}
		key := gpgKey{raw: raw.Bytes(), ids: []uint64{entity.PrimaryKey.KeyId}}
		for _, s := range entity.Subkeys {
			key.ids = append(key.ids, s.PublicKey.KeyId)
		}
		if keys = append(keys, key); len(keys) > maxGPGKeys {
			return nil, fmt.Errorf("there are more than %d keys", maxGPGKeys)
		}
	}
}

func (k gpgKey) parse() (*openpgp.Entity, error) {
	return openpgp.ReadEntity(packet.NewReader(bytes.NewReader(k.raw)))
}

// gpgConfig says what is accepted (RFC 9580): no SHA-1 or MD5 anywhere, also not where
// a key vouches for its own parts.
func gpgConfig(now time.Time) *packet.Config {
	weak := map[crypto.Hash]bool{crypto.SHA1: true, crypto.MD5: true, crypto.RIPEMD160: true}
	return &packet.Config{
		Time: func() time.Time { return now }, MinRSABits: minRSA,
		RejectHashAlgorithms: weak, RejectMessageHashAlgorithms: weak,
	}
}

// verifyGPG judges an OpenPGP signature by the keys of an authority.
func verifyGPG(keys []gpgKey, payload, armoured []byte, t times) (finding, error) {
	sig, raw, err := parseGPGSignature(armoured)
	if err != nil {
		return finding{}, err
	}
	at := t.at(sig.CreationTime)
	refusal := unknownKey(fmt.Sprintf("GPG key %016X", *sig.IssuerKeyId))
	for _, k := range keys {
		if !slices.Contains(k.ids, *sig.IssuerKeyId) {
			continue
		}
		f, err := k.verify(sig, raw, payload, at, t.now)
		if err == nil {
			return f, nil
		}
		refusal = err
	}
	return finding{}, refusal
}

// parseGPGSignature reads one armoured detached signature of one packet.
func parseGPGSignature(armoured []byte) (*packet.Signature, []byte, error) {
	malformed := errors.New("the GPG signature is malformed, or of a kind that is not supported")
	text := bytes.TrimSpace(armoured)
	if !bytes.HasPrefix(text, []byte(sigBegin)) || bytes.Index(text, []byte(sigEnd)) != len(text)-len(sigEnd) {
		return nil, nil, malformed
	}
	block, err := armor.Decode(bytes.NewReader(text))
	if err != nil || block.Type != openpgp.SignatureType {
		return nil, nil, malformed
	}
	raw, err := io.ReadAll(block.Body)
	if err != nil {
		return nil, nil, malformed
	}
	packets := packet.NewReader(bytes.NewReader(raw))
	first, err := packets.Next()
	sig, ok := first.(*packet.Signature)
	if err != nil || !ok || sig.IssuerKeyId == nil {
		return nil, nil, malformed
	}
	if _, err := packets.Next(); !errors.Is(err, io.EOF) {
		return nil, nil, errors.New("there is more than one GPG signature")
	}
	if sig.SigType != packet.SigTypeBinary {
		return nil, nil, errors.New("the GPG signature is not one of bytes, which is what git makes")
	}
	return sig, raw, nil
}

func (k gpgKey) verify(sig *packet.Signature, raw, payload []byte, at interval, now time.Time) (finding, error) {
	entity, err := k.parse()
	if err != nil {
		return finding{}, errors.New("the key cannot be read")
	}
	primary := fmt.Sprintf("%X", entity.PrimaryKey.Fingerprint)
	if now.Before(sig.CreationTime) {
		now = sig.CreationTime // how far ahead it may be, Verifier.verify says
	}
	config := gpgConfig(now)
	details, err := openpgp.VerifyDetachedSignatureReader(openpgp.EntityList{entity}, bytes.NewReader(payload), bytes.NewReader(raw), config)
	if err == nil {
		if _, err = io.Copy(io.Discard, details.UnverifiedBody); err == nil {
			err = details.SignatureError
		}
	}
	if err != nil {
		return finding{}, gpgError(err, primary, sig)
	}
	signer := details.SignedBy.PublicKey
	f := finding{kind: "gpg", fingerprints: []string{primary}, at: at}
	if !bytes.Equal(signer.Fingerprint, entity.PrimaryKey.Fingerprint) {
		f.fingerprints = append(f.fingerprints, fmt.Sprintf("%X", signer.Fingerprint))
	}
	if at.to.After(sig.CreationTime) {
		// The library has judged the key at the time that the signature claims. It must
		// stand at the last time, too, at which the commit can have been made.
		if entity, err = k.parse(); err != nil {
			return finding{}, errors.New("the key cannot be read")
		}
		if _, ok := entity.SigningKeyById(at.to, signer.KeyId, config); !ok {
			return finding{}, fmt.Errorf("GPG key %s had expired, or was revoked, by %s, and the commit is not older", primary, stamp(at.to))
		}
	}
	f.names = addresses(entity, at.to, config)
	f.owns = func(address string) bool {
		for _, name := range f.names {
			if sameAddress(name, address) {
				return true
			}
		}
		return false
	}
	return f, nil
}

// gpgError says what is wrong in our words: those of the library may repeat what
// strangers wrote.
func gpgError(err error, key string, sig *packet.Signature) error {
	switch {
	case sig.Hash == crypto.SHA1 || sig.Hash == crypto.MD5 || sig.Hash == crypto.RIPEMD160:
		return fmt.Errorf("the GPG signature uses %s, which is too weak", sig.Hash)
	case errors.Is(err, pgperrors.ErrKeyExpired):
		return fmt.Errorf("GPG key %s had expired by %s, when the commit was signed", key, stamp(sig.CreationTime))
	case errors.Is(err, pgperrors.ErrKeyRevoked):
		return fmt.Errorf("GPG key %s is revoked", key)
	case errors.Is(err, pgperrors.ErrSignatureExpired):
		return fmt.Errorf("the signature by GPG key %s, or what vouches for the key, has expired", key)
	case errors.Is(err, pgperrors.ErrSignatureOlderThanKey):
		return fmt.Errorf("the signature claims to be older than the GPG key %s that made it", key)
	}
	if _, ok := errors.AsType[pgperrors.WeakAlgorithmError](err); ok {
		return fmt.Errorf("GPG key %s is too weak: RSA needs %d bits, and DSA and some curves are not accepted", key, minRSA)
	}
	if _, ok := errors.AsType[pgperrors.StructuralError](err); ok || strings.Contains(err.Error(), "self signature") {
		return fmt.Errorf("GPG key %s may not sign: it, or the subkey that signed, was not valid for signing at %s (not vouched for, for another use, or only by a weak hash)", key, stamp(sig.CreationTime))
	}
	return errWrong
}

// addresses are those that a key vouches for at a time.
func addresses(entity *openpgp.Entity, at time.Time, config *packet.Config) []string {
	var list []string
	for _, id := range entity.Identities {
		if _, err := id.Verify(at, config); err != nil {
			continue
		}
		address := id.UserId.Email
		if address == "" && strings.Contains(id.UserId.Id, "@") && !strings.ContainsAny(id.UserId.Id, " <>()") {
			address = id.UserId.Id
		}
		if address != "" {
			list = append(list, address)
		}
	}
	return sorted(list)
}
