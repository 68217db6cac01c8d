package audit

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/mod/sumdb/note"

	"github.com/holdfastcd/holdfast/internal/fault"
)

// Key signs the checkpoints of a log, and verifies them.
type Key struct {
	Signer   note.Signer
	Verifier note.Verifier
	// Public is the line that verifies checkpoints
	// (https://c2sp.org/signed-note#verifier-keys): what is given to auditors.
	Public string
}

// maxKey bounds a key file.
const maxKey = 4 << 10

// NewKey makes an Ed25519 key for the log called origin, from random, and returns
// it in the form that [ParseKey] reads: a secret.
func NewKey(random io.Reader, origin string) ([]byte, error) {
	private, _, err := note.GenerateKey(random, origin)
	if err != nil {
		return nil, fault.New(fault.Internal, "cannot make a key for the audit log: %s", err)
	}
	return []byte(private + "\n"), nil
}

// ParseKey reads a private key (PRIVATE+KEY+name+hash+base64, see
// golang.org/x/mod/sumdb/note). What is no such key is Invalid; its text is not told.
func ParseKey(text []byte) (Key, error) {
	bad := fault.New(fault.Invalid, "the audit log's key is not one: a line PRIVATE+KEY+name+hash+key is expected").
		WithHint("restore the key, or begin a new log in another directory")
	line := strings.TrimSpace(string(text))
	if len(text) > maxKey {
		return Key{}, bad
	}
	signer, err := note.NewSigner(line)
	if err != nil {
		return Key{}, bad
	}
	public, err := publicOf(line, signer)
	if err != nil {
		return Key{}, bad
	}
	verifier, err := note.NewVerifier(public)
	if err != nil || verifier.KeyHash() != signer.KeyHash() {
		return Key{}, bad
	}
	return Key{Signer: signer, Verifier: verifier, Public: public}, nil
}

// publicOf returns the verifier's line of a private key that note has accepted:
// its last field is the algorithm (1: Ed25519) and the seed.
func publicOf(private string, signer note.Signer) (string, error) {
	fields := strings.SplitN(private, "+", 5) // the last may hold a '+' itself
	raw, err := base64.StdEncoding.DecodeString(fields[len(fields)-1])
	if err != nil || len(raw) != 1+ed25519.SeedSize || raw[0] != 1 {
		return "", errors.New("not an Ed25519 key")
	}
	public, ok := ed25519.NewKeyFromSeed(raw[1:]).Public().(ed25519.PublicKey)
	if !ok {
		return "", errors.New("not an Ed25519 key")
	}
	hash := signer.KeyHash()
	return fmt.Sprintf("%s+%s+%s", signer.Name(),
		hex.EncodeToString([]byte{byte(hash >> 24), byte(hash >> 16), byte(hash >> 8), byte(hash)}),
		base64.StdEncoding.EncodeToString(append([]byte{1}, public...))), nil
}

// LoadOrCreateKey returns the key kept in the file path, which only its owner may
// read; where there is none, one is made for origin from random, and is on disk
// before it is returned. A file that others can read is Refused, one that is no key
// Invalid.
func LoadOrCreateKey(path, origin string, random io.Reader) (Key, error) {
	text, err := readKey(path)
	if errors.Is(err, fs.ErrNotExist) {
		if text, err = NewKey(random, origin); err == nil {
			err = writeFile(filepath.Dir(path), path, text)
		}
	}
	if err != nil {
		return Key{}, fault.From(err)
	}
	key, err := ParseKey(text)
	if err != nil {
		return Key{}, fault.From(err).At(path, 0)
	}
	return key, nil
}

func readKey(path string) ([]byte, error) {
	f, err := os.Open(filepath.Clean(path)) //nolint:gosec // where the key is, its owner says
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fs.ErrNotExist
	}
	if err != nil {
		return nil, unusable(path, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, unusable(path, err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fault.New(fault.Refused, "others than its owner may read the audit log's key (mode %#o)", info.Mode().Perm()).
			At(path, 0).WithHint("chmod 600 %s", path)
	}
	return readBounded(f, path, maxKey)
}
