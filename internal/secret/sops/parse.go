package sops

import (
	"bufio"
	"bytes"
	"crypto/ed25519"
	"crypto/rsa"
	"errors"
	"maps"
	"path"
	"slices"
	"strings"

	"filippo.io/age"
	"filippo.io/age/agessh"
	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	pgperrors "github.com/ProtonMail/go-crypto/openpgp/errors"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	"golang.org/x/crypto/ssh"

	"github.com/holdfastcd/holdfast/internal/fault"
)

// Entries of a key Secret, as Flux reads them, and one of our own.
const (
	entryVault     = "sops.vault-token"
	entryAddresses = "sops.vault-address"
	entryAWS       = "sops.aws-kms"
	entryAzure     = "sops.azure-kv"
	entryGCP       = "sops.gcp-kms"
)

// Bounds of a key Secret.
const (
	maxEntry = 1 << 20
	maxKeys  = 100
)

const readEntries = "*.agekey, *.asc, " + entryVault + ", " + entryAWS + ", " + entryAzure + ", " + entryGCP

// Parse reads a key Secret in Flux's format: entries *.agekey (age identities, one a
// line, post-quantum ones too, or an SSH key in PEM), *.asc (armored OpenPGP keys),
// sops.vault-token, sops.aws-kms, sops.azure-kv and sops.gcp-kms. One is ours:
// sops.vault-address lists the addresses that the Vault token is for, without which it
// is sent to whatever https address a file names. Other entries are not read, and a
// Secret that has none of these is refused. Errors are *fault.Error (Invalid,
// Unsupported, Limit) that name the entry, never what is in it.
func Parse(entries map[string][]byte, o Options) (*Keys, error) {
	quiet()
	if o.Timeout == 0 {
		o.Timeout = defaultTimeout
	}
	k := &Keys{limit: o.Timeout}
	client := o.client()
	for _, name := range slices.Sorted(maps.Keys(entries)) {
		content := entries[name]
		if len(content) > maxEntry {
			return nil, about(name, fault.Limit, "has more than %d bytes", maxEntry)
		}
		var err error
		switch {
		case path.Ext(name) == ".agekey":
			err = k.parseAge(name, content)
		case path.Ext(name) == ".asc":
			err = k.parsePGP(name, content)
		case name == entryVault:
			err = k.parseVault(content, entries, o, client)
		case name == entryAWS:
			err = k.parseAWS(content, client)
		case name == entryAzure:
			err = k.parseAzure(content, client)
		case name == entryGCP:
			err = k.parseGCP(content, client)
		}
		if err != nil {
			return nil, err
		}
	}
	if len(k.fingerprints()) == 0 && len(k.public) == 0 {
		return nil, fault.New(fault.Invalid, "the key Secret holds no key: its entries are %s", listed(names(entries))).
			WithHint("entries that are read: %s", readEntries)
	}
	if len(k.age)+len(k.pgp) > maxKeys {
		return nil, fault.New(fault.Limit, "the key Secret holds more than %d keys", maxKeys)
	}
	return k, nil
}

func names(entries map[string][]byte) []string {
	if len(entries) == 0 {
		return []string{"none"}
	}
	all := slices.Sorted(maps.Keys(entries))
	for i, name := range all {
		all[i] = shown(name)
	}
	return all
}

func about(entry string, kind fault.Kind, format string, args ...any) *fault.Error {
	return fault.New(kind, "entry %s of the key Secret "+format, append([]any{shown(entry)}, args...)...)
}

func (k *Keys) parseAge(entry string, content []byte) error {
	if bytes.Contains(content, []byte("-----BEGIN ")) {
		return k.parseSSH(entry, content)
	}
	found := 0
	for line := range strings.Lines(string(content)) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		i, err := parseIdentity(entry, line)
		if err != nil {
			return err
		}
		k.age = append(k.age, i)
		found++
	}
	if found == 0 {
		return about(entry, fault.Invalid, "holds no age identity")
	}
	return nil
}

func parseIdentity(entry, line string) (identity, error) {
	switch {
	case strings.HasPrefix(line, "AGE-SECRET-KEY-PQ-1"):
		if i, err := age.ParseHybridIdentity(line); err == nil {
			return identity{i.Recipient().String(), i}, nil
		}
	case strings.HasPrefix(line, "AGE-SECRET-KEY-1"):
		if i, err := age.ParseX25519Identity(line); err == nil {
			return identity{i.Recipient().String(), i}, nil
		}
	case strings.HasPrefix(line, "AGE-PLUGIN-"):
		return identity{}, about(entry, fault.Unsupported, "holds an identity of an age plugin, which would be a program to start").
			WithHint("seal for an age key that needs no plugin")
	}
	return identity{}, about(entry, fault.Invalid, "is no age identity").
		WithHint("a line begins with AGE-SECRET-KEY-, or with #")
}

// parseSSH reads an SSH key that files are sealed for by age.
func (k *Keys) parseSSH(entry string, content []byte) error {
	raw, err := ssh.ParseRawPrivateKey(content)
	if _, locked := errors.AsType[*ssh.PassphraseMissingError](err); locked {
		return about(entry, fault.Unsupported, "holds an SSH key with a passphrase").WithHint("take it off with ssh-keygen -p")
	}
	if err != nil {
		return about(entry, fault.Invalid, "is neither an age identity nor an SSH key")
	}
	i, public, err := sshIdentity(raw)
	if err != nil {
		return about(entry, fault.Unsupported, "holds an SSH key that age cannot use").WithHint("age takes ed25519, and RSA of 2048 bits or more")
	}
	k.age = append(k.age, identity{ssh.FingerprintSHA256(public), i})
	return nil
}

func sshIdentity(raw any) (age.Identity, ssh.PublicKey, error) {
	switch key := raw.(type) {
	case *ed25519.PrivateKey:
		return sshIdentity(*key)
	case ed25519.PrivateKey:
		public, err := ssh.NewPublicKey(key.Public())
		if err != nil {
			return nil, nil, err
		}
		i, err := agessh.NewEd25519Identity(key)
		return i, public, err
	case *rsa.PrivateKey:
		public, err := ssh.NewPublicKey(key.Public())
		if err != nil {
			return nil, nil, err
		}
		i, err := agessh.NewRSAIdentity(key)
		return i, public, err
	}
	return nil, nil, errors.New("not a kind of key that age knows")
}

// parsePGP reads armored keys, of which an entry may hold several.
func (k *Keys) parsePGP(entry string, content []byte) error {
	rest := bufio.NewReader(bytes.NewReader(content)) // one for all blocks: the decoder reads ahead
	found := 0
	for {
		block, err := armor.Decode(rest)
		if err != nil { // no other block
			break
		}
		if block.Type != openpgp.PrivateKeyType && block.Type != openpgp.PublicKeyType {
			return about(entry, fault.Invalid, "holds something that is no OpenPGP key")
		}
		ring, err := openpgp.ReadKeyRing(block.Body)
		if err != nil {
			return brokenPGP(entry, err)
		}
		for _, e := range ring {
			if err := k.addPGP(entry, e); err != nil {
				return err
			}
			found++
		}
	}
	if found == 0 {
		return about(entry, fault.Invalid, "holds no armored OpenPGP key").WithHint("gpg --export-secret-keys --armor")
	}
	return nil
}

func brokenPGP(entry string, err error) error {
	if _, ok := errors.AsType[pgperrors.UnsupportedError](err); ok {
		return about(entry, fault.Unsupported, "holds an OpenPGP key of a kind that is not supported")
	}
	return about(entry, fault.Invalid, "cannot be read as an OpenPGP key")
}

func (k *Keys) addPGP(entry string, e *openpgp.Entity) error {
	fingerprint := hexUpper(e.PrimaryKey.Fingerprint)
	private := []*packet.PrivateKey{e.PrivateKey}
	for _, sub := range e.Subkeys {
		private = append(private, sub.PrivateKey)
	}
	has := false
	for _, p := range private {
		switch {
		case p == nil || p.Dummy():
		case p.Encrypted:
			return about(entry, fault.Unsupported, "holds the OpenPGP key %s with a passphrase", fingerprint).
				WithHint("export it without one")
		default:
			has = true
		}
	}
	if !has {
		k.public = append(k.public, entity{fingerprint, e})
		return nil
	}
	k.pgp = append(k.pgp, entity{fingerprint, e})
	return nil
}
