package sops

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"slices"
	"strings"

	"filippo.io/age"
	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	sopsage "github.com/getsops/sops/v3/age"

	"github.com/holdfastcd/holdfast/internal/fault"
)

// openAge opens a data key with the age identities, which the library is handed; it
// looks for others if there are none. Errors: errOther, or Refused.
func (k *Keys) openAge(recipient string, sealed []byte) ([]byte, error) {
	if len(k.age) == 0 {
		return nil, errOther
	}
	var identities sopsage.ParsedIdentities
	ours := false
	for _, i := range k.age {
		identities = append(identities, i.Identity)
		ours = ours || i.fingerprint == recipient
	}
	key := &sopsage.MasterKey{Recipient: recipient}
	key.SetEncryptedDataKey(sealed)
	identities.ApplyToMasterKey(key)
	plain, err := key.Decrypt()
	if err == nil {
		return plain, nil
	}
	if _, none := errors.AsType[*age.NoIdentityMatchError](err); none && !ours {
		return nil, errOther
	}
	return nil, damagedKey(shown(recipient))
}

func damagedKey(recipient string) *fault.Error {
	return fault.New(fault.Refused, "the data key that is sealed for %s is damaged", recipient).
		WithHint("restore the file as it was sealed")
}

// openPGP opens a data key with the OpenPGP keys. The library reads keys from files
// only, and asks agents and the gpg program; this does what it does with a key ring in
// memory. Errors: errOther, or Refused.
func (k *Keys) openPGP(fingerprint string, sealed []byte) ([]byte, error) {
	if len(k.pgp) == 0 {
		return nil, errOther
	}
	ring := make(openpgp.EntityList, 0, len(k.pgp))
	for _, e := range k.pgp {
		ring = append(ring, e.Entity)
	}
	block, err := armor.Decode(bytes.NewReader(sealed))
	if err != nil {
		return nil, damagedKey("PGP " + shown(fingerprint))
	}
	size := int64(maxSealedKey)
	message, err := openpgp.ReadMessage(block.Body, ring, nil, &packet.Config{MaxDecompressedMessageSize: &size})
	if err != nil && !k.hasPGP(fingerprint) {
		return nil, errOther
	}
	if err != nil || !message.IsEncrypted {
		return nil, damagedKey("PGP " + shown(fingerprint))
	}
	// To the end: what authenticates the message comes last.
	plain, err := io.ReadAll(io.LimitReader(message.UnverifiedBody, size))
	if err != nil {
		return nil, damagedKey("PGP " + shown(fingerprint))
	}
	return plain, nil
}

// hasPGP reports whether the key that a file names is at hand.
func (k *Keys) hasPGP(fingerprint string) bool {
	return slices.ContainsFunc(k.pgp, func(e entity) bool { return e.is(fingerprint) })
}

// is reports whether a fingerprint in a file, which may be that of a subkey, or only
// its end, is that of e.
func (e entity) is(fingerprint string) bool {
	wanted := strings.ToUpper(strings.Trim(strings.ReplaceAll(fingerprint, " ", ""), "!"))
	if len(wanted) < minFingerprint {
		return false
	}
	if strings.HasSuffix(e.fingerprint, wanted) {
		return true
	}
	return slices.ContainsFunc(e.Subkeys, func(sub openpgp.Subkey) bool {
		return strings.HasSuffix(hexUpper(sub.PublicKey.Fingerprint), wanted)
	})
}

// minFingerprint is a long key ID, in hexadecimal digits.
const minFingerprint = 16

func hexUpper(b []byte) string { return strings.ToUpper(hex.EncodeToString(b)) }
