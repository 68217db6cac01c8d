package render

import (
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"io"
	"math/big"
	"net/netip"
	"reflect"
	"strings"
	"text/template"
	"time"

	"golang.org/x/crypto/blowfish" //nolint:staticcheck // nothing new: bcrypt is made of it

	"github.com/holdfastcd/holdfast/internal/fault"
)

// The sizes of keys are those of sprig.
const (
	certificateBits = 2048
	keyBits         = 4096
)

// keyPair is what functions that make certificates give to a template.
type keyPair struct{ Cert, Key string }

// certificates returns the functions that make keys and certificates. Go's own
// generators take no seed since 1.26, so that keys are made here of numbers from
// the stream, and signatures without chance.
func (s *seed) certificates() template.FuncMap {
	return template.FuncMap{
		"genPrivateKey": s.privateKey,
		"genCA": func(cn string, days int) (keyPair, error) {
			return s.issue("genCA", certRequest{cn: cn, days: days, ca: true}, nil)
		},
		"genCAWithKey": func(cn string, days int, key string) (keyPair, error) {
			return s.issue("genCAWithKey", certRequest{cn: cn, days: days, ca: true, key: key, withKey: true}, nil)
		},
		"genSelfSignedCert": func(cn string, ips, names []any, days int) (keyPair, error) {
			return s.issue("genSelfSignedCert", certRequest{cn: cn, ips: ips, names: names, days: days}, nil)
		},
		"genSelfSignedCertWithKey": func(cn string, ips, names []any, days int, key string) (keyPair, error) {
			return s.issue("genSelfSignedCertWithKey", certRequest{cn: cn, ips: ips, names: names, days: days, key: key, withKey: true}, nil)
		},
		"genSignedCert": func(cn string, ips, names []any, days int, ca any) (keyPair, error) {
			return s.issue("genSignedCert", certRequest{cn: cn, ips: ips, names: names, days: days}, ca)
		},
		"genSignedCertWithKey": func(cn string, ips, names []any, days int, ca any, key string) (keyPair, error) {
			return s.issue("genSignedCertWithKey", certRequest{cn: cn, ips: ips, names: names, days: days, key: key, withKey: true}, ca)
		},
	}
}

// certRequest is what a certificate is asked to be.
type certRequest struct {
	cn         string
	ips, names []any
	days       int
	ca         bool
	key        string // PEM
	withKey    bool
}

// issue makes a certificate, signed by ca, or by itself where ca is nil.
func (s *seed) issue(function string, req certRequest, ca any) (keyPair, error) {
	r := s.stream(function, req.cn, req.ips, req.names, req.days, req.key)
	cert, err := s.template(r, req)
	if err != nil {
		return keyPair{}, err
	}
	var key crypto.Signer
	if req.withKey {
		key, err = parseKey(req.key)
	} else {
		key, err = rsaKey(r, certificateBits)
	}
	if err != nil {
		return keyPair{}, err
	}
	parent, signer := cert, key
	if ca != nil {
		if parent, signer, err = authority(ca); err != nil {
			return keyPair{}, err
		}
	}
	// Without a source of chance, ECDSA signs as RFC 6979 says; RSA and Ed25519 need none.
	der, err := x509.CreateCertificate(nil, cert, parent, key.Public(), signer)
	if err != nil {
		return keyPair{}, fault.New(fault.Invalid, "error creating certificate")
	}
	encoded, err := encodeKey(key)
	return keyPair{Cert: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), Key: encoded}, err
}

// template is a certificate with the fields that sprig sets.
func (s *seed) template(r io.Reader, req certRequest) (*x509.Certificate, error) {
	serial := make([]byte, 16)
	read(r, serial)
	cert := &x509.Certificate{
		SerialNumber:          new(big.Int).SetBytes(serial),
		Subject:               pkix.Name{CommonName: req.cn},
		NotBefore:             s.now,
		NotAfter:              s.now.Add(24 * time.Hour * time.Duration(req.days)),
		KeyUsage:              x509.KeyUsageKeyEncipherment | x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
		IsCA:                  req.ca,
	}
	if req.ca {
		cert.KeyUsage |= x509.KeyUsageCertSign
	}
	for _, ip := range req.ips {
		text, _ := ip.(string)
		address, err := netip.ParseAddr(text)
		if err != nil {
			return nil, fault.New(fault.Invalid, "error parsing ip")
		}
		cert.IPAddresses = append(cert.IPAddresses, address.AsSlice())
	}
	for _, name := range req.names {
		text, ok := name.(string)
		if !ok {
			return nil, fault.New(fault.Invalid, "an alternate name is not a string")
		}
		cert.DNSNames = append(cert.DNSNames, text)
	}
	return cert, nil
}

// authority reads certificate and key of ca: ours, or what sprig's
// buildCustomCert gives, whose type has no name outside.
func authority(ca any) (*x509.Certificate, crypto.Signer, error) {
	v := reflect.ValueOf(ca)
	if v.Kind() != reflect.Struct || !v.FieldByName("Cert").IsValid() || !v.FieldByName("Key").IsValid() {
		return nil, nil, fault.New(fault.Invalid, "wrong type for value: expected a certificate")
	}
	block, _ := pem.Decode([]byte(v.FieldByName("Cert").String()))
	if block == nil {
		return nil, nil, fault.New(fault.Invalid, "unable to decode certificate")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, nil, fault.New(fault.Invalid, "error parsing certificate")
	}
	key, err := parseKey(v.FieldByName("Key").String())
	return cert, key, err
}

// privateKey is genPrivateKey.
func (s *seed) privateKey(kind string) (string, error) {
	var key crypto.Signer
	var err error
	r := s.stream("genPrivateKey", kind)
	switch kind {
	case "", "rsa":
		key, err = rsaKey(r, keyBits)
	case "ecdsa":
		key = ecdsaKey(r)
	case "ed25519":
		b := make([]byte, ed25519.SeedSize)
		read(r, b)
		key = ed25519.NewKeyFromSeed(b)
	default:
		return "", fault.New(fault.Unsupported, "genPrivateKey does not make keys of this type: expected rsa, ecdsa or ed25519")
	}
	if err != nil {
		return "", err
	}
	return encodeKey(key)
}

func ecdsaKey(r io.Reader) *ecdsa.PrivateKey {
	b := make([]byte, 32)
	for {
		read(r, b)
		if key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), b); err == nil {
			return key // all but one in 2^32 numbers are keys
		}
	}
}

// rsaKey makes a key of the first two primes that the stream gives (FIPS 186-5,
// A.1.3, in its plain form).
func rsaKey(r io.Reader, bits int) (*rsa.PrivateKey, error) {
	one, e, small := big.NewInt(1), big.NewInt(65537), smallPrimes()
	for {
		p, q := prime(r, bits/2, small), prime(r, bits/2, small)
		n := new(big.Int).Mul(p, q)
		phi := new(big.Int).Mul(new(big.Int).Sub(p, one), new(big.Int).Sub(q, one))
		d := new(big.Int).ModInverse(e, phi)
		if d == nil || p.Cmp(q) == 0 || n.BitLen() != bits {
			continue
		}
		key := &rsa.PrivateKey{PublicKey: rsa.PublicKey{N: n, E: int(e.Int64())}, D: d, Primes: []*big.Int{p, q}}
		key.Precompute()
		if err := key.Validate(); err != nil {
			return nil, fault.New(fault.Internal, "the key that was made is not valid: %v", err)
		}
		return key, nil
	}
}

// prime returns the first prime in the stream, with its two highest bits set.
// What shares a factor with small is no prime, and costs no test.
func prime(r io.Reader, bits int, small *big.Int) *big.Int {
	b, one, n := make([]byte, bits/8), big.NewInt(1), new(big.Int)
	for {
		read(r, b)
		b[0] |= 0xC0
		b[len(b)-1] |= 1
		n.SetBytes(b)
		if new(big.Int).GCD(nil, nil, n, small).Cmp(one) == 0 && n.ProbablyPrime(8) {
			return n
		}
	}
}

// smallPrimes returns the product of the odd primes below 4000.
func smallPrimes() *big.Int {
	product := big.NewInt(3)
	for n := int64(5); n < 4000; n += 2 {
		if p := big.NewInt(n); p.ProbablyPrime(0) {
			product.Mul(product, p)
		}
	}
	return product
}

// encodeKey writes a key in the form that sprig gives it.
func encodeKey(key crypto.Signer) (string, error) {
	block := &pem.Block{}
	var err error
	switch k := key.(type) {
	case *rsa.PrivateKey:
		block.Type, block.Bytes = "RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(k)
	case *ecdsa.PrivateKey:
		block.Type = "EC PRIVATE KEY"
		block.Bytes, err = x509.MarshalECPrivateKey(k)
	default:
		block.Type = "PRIVATE KEY"
		block.Bytes, err = x509.MarshalPKCS8PrivateKey(k)
	}
	if err != nil {
		return "", fault.New(fault.Invalid, "error parsing private key")
	}
	return string(pem.EncodeToMemory(block)), nil
}

func parseKey(text string) (crypto.Signer, error) {
	bad := fault.New(fault.Invalid, "error parsing private key")
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return nil, bad
	}
	var key any
	var err error
	switch block.Type {
	case "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(block.Bytes)
	default:
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	}
	signer, ok := key.(crypto.Signer)
	if err != nil || !ok {
		return nil, bad
	}
	return signer, nil
}

// The parameters of bcrypt as sprig uses it: cost 10, the text that is
// encrypted, and its own base64 (Provos and Mazières, "A Future-Adaptable
// Password Scheme", 1999).
const (
	bcryptCost     = 10
	bcryptText     = "OrpheanBeholderScryDoubt"
	bcryptAlphabet = "./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
	bcryptLongest  = 72
)

// bcrypt hashes a password with a salt from the stream; the library that sprig
// uses takes none.
func (s *seed) bcrypt(password string) (string, error) { return s.hash("bcrypt", password) }

func (s *seed) hash(function, password string) (string, error) {
	if len(password) > bcryptLongest {
		return "", fault.New(fault.Invalid, "bcrypt takes at most %d bytes", bcryptLongest)
	}
	salt := make([]byte, 16)
	read(s.stream(function, password), salt)
	key := append([]byte(password), 0)
	c, err := blowfish.NewSaltedCipher(key, salt)
	if err != nil {
		return "", fault.New(fault.Internal, "bcrypt: %v", err)
	}
	for range 1 << bcryptCost {
		blowfish.ExpandKey(key, c)
		blowfish.ExpandKey(salt, c)
	}
	sum := []byte(bcryptText)
	for block := sum; len(block) > 0; block = block[blowfish.BlockSize:] {
		for range 64 {
			c.Encrypt(block, block)
		}
	}
	encoding := base64.NewEncoding(bcryptAlphabet).WithPadding(base64.NoPadding)
	return "$2a$10$" + encoding.EncodeToString(salt) + encoding.EncodeToString(sum[:23]), nil
}

func (s *seed) htpasswd(user, password string) (string, error) {
	if strings.Contains(user, ":") {
		return "", fault.New(fault.Invalid, "invalid username")
	}
	hash, err := s.hash("htpasswd", password)
	return user + ":" + hash, err
}

// encrypt is encryptAES: AES-256 in CBC mode, the vector before the text.
func (s *seed) encrypt(password, text string) (string, error) {
	if text == "" {
		return "", nil
	}
	key := make([]byte, 32)
	copy(key, password)
	block, err := aes.NewCipher(key)
	if err != nil {
		return "", fault.New(fault.Internal, "encryptAES: %v", err)
	}
	pad := aes.BlockSize - len(text)%aes.BlockSize
	sealed := make([]byte, aes.BlockSize, aes.BlockSize+len(text)+pad)
	read(s.stream("encryptAES", password, text), sealed)
	sealed = append(append(sealed, text...), strings.Repeat(string(rune(pad)), pad)...)
	cipher.NewCBCEncrypter(block, sealed[:aes.BlockSize]).CryptBlocks(sealed[aes.BlockSize:], sealed[aes.BlockSize:])
	return base64.StdEncoding.EncodeToString(sealed), nil
}
