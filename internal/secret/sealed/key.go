package sealed

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/bitnami/sealed-secrets/pkg/crypto"
	corev1 "k8s.io/api/core/v1"

	"github.com/holdfastcd/holdfast/internal/fault"
)

// KeyLabel marks the Secrets that hold sealing keys; its value says what for.
const KeyLabel = annotations + "sealed-secrets-key"

// Values of KeyLabel. Any other value but KeyCompromised opens, and seals no longer.
const (
	KeyActive      = "active"
	KeyCompromised = "compromised" // neither opens nor seals
)

// Bounds of a sealing key.
const (
	maxPEM  = 64 << 10
	minBits = 2048
	maxBits = 8192
)

// Key is one sealing key. What it prints is its fingerprint; the private half stays
// inside.
type Key struct {
	// Secret is the namespace/name of the Secret that it was read from.
	Secret      string
	Fingerprint string // of the public half, as the stock controller writes it
	// Active keys seal what is sealed from now on; others only open what was.
	Active      bool
	Certificate *x509.Certificate

	private func() *rsa.PrivateKey // a function, so that nothing prints it
}

// String returns fingerprint and place of the key.
func (k *Key) String() string { return k.Fingerprint + " (Secret " + k.Secret + ")" }

// Format writes [Key.String] for every verb.
func (k *Key) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(k.String())) } // there is nobody to tell

// ReadKey reads the sealing key in a Secret of type kubernetes.io/tls: an RSA key and
// its certificate, in PEM. Errors are Invalid on the Secret, and quote nothing of it.
func ReadKey(s *corev1.Secret) (*Key, error) {
	where := "Secret/" + s.Namespace + "/" + s.Name
	private, err := parsePrivate(s.Data[corev1.TLSPrivateKeyKey])
	if err != nil {
		return nil, fault.New(fault.Invalid, "%s is no sealing key: %s", corev1.TLSPrivateKeyKey, err).On(where).
			WithHint("a sealing key is an RSA key of %d to %d bits, in PEM", minBits, maxBits)
	}
	cert, err := ParseCertificate(s.Data[corev1.TLSCertKey])
	if err != nil {
		return nil, fault.From(err).On(where)
	}
	if !private.PublicKey.Equal(cert.PublicKey) {
		return nil, fault.New(fault.Invalid, "%s is the certificate of another key than %s", corev1.TLSCertKey, corev1.TLSPrivateKeyKey).On(where)
	}
	fingerprint, err := crypto.PublicKeyFingerprint(&private.PublicKey)
	if err != nil {
		return nil, fault.New(fault.Invalid, "the key has no fingerprint").On(where)
	}
	return &Key{
		Secret: s.Namespace + "/" + s.Name, Fingerprint: fingerprint, Active: s.Labels[KeyLabel] == KeyActive,
		Certificate: cert, private: func() *rsa.PrivateKey { return private },
	}, nil
}

// parsePrivate errors quote nothing of what is parsed.
func parsePrivate(content []byte) (*rsa.PrivateKey, error) {
	if len(content) > maxPEM {
		return nil, errors.New("it is too long")
	}
	block, _ := pem.Decode(content)
	if block == nil {
		return nil, errors.New("it is not PEM")
	}
	private, err := x509.ParsePKCS1PrivateKey(block.Bytes)
	if err != nil {
		key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if err != nil {
			return nil, errors.New("it is neither PKCS #1 nor PKCS #8")
		}
		var ok bool
		if private, ok = key.(*rsa.PrivateKey); !ok {
			return nil, errors.New("it is not an RSA key")
		}
	}
	if bits := private.N.BitLen(); bits < minBits || bits > maxBits {
		return nil, fmt.Errorf("it has %d bits", bits)
	}
	return private, nil
}

// ParseCertificate reads the first certificate of PEM that a value is to be sealed for.
// Errors are Invalid.
func ParseCertificate(content []byte) (*x509.Certificate, error) {
	const hint = "it is what 'kubeseal --fetch-cert' or /v1/cert.pem of the controller give"
	if len(content) > maxPEM {
		return nil, fault.New(fault.Invalid, "the certificate is too long").WithHint(hint)
	}
	block, _ := pem.Decode(content)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, fault.New(fault.Invalid, "there is no certificate in PEM").WithHint(hint)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fault.New(fault.Invalid, "the certificate cannot be read").WithHint(hint)
	}
	public, ok := cert.PublicKey.(*rsa.PublicKey)
	if !ok || public.N.BitLen() < minBits || public.N.BitLen() > maxBits {
		return nil, fault.New(fault.Invalid, "the certificate is not of an RSA key of %d to %d bits", minBits, maxBits).WithHint(hint)
	}
	return cert, nil
}

// What becomes of a value that does not open.
var (
	errOther   = errors.New("sealed with another key, or for another place")
	errDamaged = errors.New("damaged")
)

// Bytes of the parts of a sealed value: two with the length of the RSA part, that
// part, and AES-256-GCM with a nonce of zeros, since each value has a key of its own.
const (
	lengthBytes  = 2
	sessionBytes = 32
	tagBytes     = 16
)

// wellFormed reports whether a value has its parts.
func wellFormed(value []byte) bool {
	return len(value) >= lengthBytes && len(value) >= lengthBytes+int(binary.BigEndian.Uint16(value))+tagBytes
}

// fits reports whether k can have been what a well-formed value was sealed with.
func (k *Key) fits(value []byte) bool {
	return int(binary.BigEndian.Uint16(value)) == k.private().Size()
}

// open returns what is in a well-formed value that k fits. Errors are errOther, which
// cannot be told from a damaged RSA part, and errDamaged.
func (k *Key) open(value, label []byte) ([]byte, error) {
	private := k.private()
	body := value[lengthBytes+private.Size():]
	session, err := rsa.DecryptOAEP(sha256.New(), nil, private, value[lengthBytes:lengthBytes+private.Size()], label)
	if err != nil {
		return nil, errOther
	}
	if len(session) != sessionBytes {
		return nil, errDamaged
	}
	block, err := aes.NewCipher(session)
	if err != nil {
		return nil, errDamaged
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		return nil, errDamaged
	}
	plain, err := gcm.Open([]byte{}, make([]byte, gcm.NonceSize()), body, nil)
	if err != nil {
		return nil, errDamaged
	}
	return plain, nil
}

// ring is the sealing keys at hand, newest first. It does not change.
type ring struct {
	keys []*Key
	id   string
}

func newRing(keys []*Key) *ring {
	r := &ring{keys: slices.Clone(keys)}
	slices.SortFunc(r.keys, func(a, b *Key) int {
		if c := b.Certificate.NotBefore.Compare(a.Certificate.NotBefore); c != 0 {
			return c
		}
		if c := strings.Compare(a.Fingerprint, b.Fingerprint); c != 0 || a.Active == b.Active {
			return c
		}
		if a.Active {
			return -1
		}
		return 1
	})
	r.keys = slices.CompactFunc(r.keys, func(a, b *Key) bool { return a.Fingerprint == b.Fingerprint })
	var all []string
	for _, k := range r.keys {
		all = append(all, k.Fingerprint)
	}
	slices.Sort(all)
	sum := sha256.Sum256([]byte(strings.Join(slices.Compact(all), "\n")))
	r.id = hex.EncodeToString(sum[:16])
	if len(r.keys) == 0 {
		r.id = ""
	}
	return r
}

// newest returns the key that seals; nil if there is none.
func (r *ring) newest() *Key {
	for _, k := range r.keys {
		if k.Active {
			return k
		}
	}
	return nil
}

// Newest returns the one of keys that seals: the newest that is active; nil if none is.
func Newest(keys []*Key) *Key { return newRing(keys).newest() }

// holds reports whether the key of a fingerprint is at hand.
func (r *ring) holds(fingerprint string) bool {
	return slices.ContainsFunc(r.keys, func(k *Key) bool { return k.Fingerprint == fingerprint })
}

const maxNamed = 5

// String names the keys, for errors.
func (r *ring) String() string {
	if len(r.keys) == 0 {
		return "none"
	}
	var names []string
	for _, k := range r.keys[:min(len(r.keys), maxNamed)] {
		names = append(names, k.String())
	}
	if more := len(r.keys) - maxNamed; more > 0 {
		names = append(names, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(names, ", ")
}

// splitName returns the parts of namespace/name.
func splitName(s string) (namespace, name string) {
	namespace, name, _ = strings.Cut(s, "/")
	return namespace, name
}
