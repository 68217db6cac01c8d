package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/cyberphone/json-canonicalization/go/src/webpki.org/jsoncanonicalizer"
	"github.com/digitorus/timestamp"
	ct "github.com/google/certificate-transparency-go"
	"github.com/google/certificate-transparency-go/tls"
	ctutil "github.com/google/certificate-transparency-go/x509util"
	"github.com/sigstore/rekor/pkg/generated/client/entries"
	"github.com/sigstore/rekor/pkg/generated/models"
	"github.com/sigstore/rekor/pkg/types"
	"github.com/sigstore/rekor/pkg/util"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/sign"
	"github.com/sigstore/sigstore/pkg/signature"
)

// sigstore is a certificate authority, a certificate transparency log, a
// transparency log and a timestamp authority, with keys that nobody else has.
type sigstore struct {
	root, intermediate, stamper          *x509.Certificate
	intermediateKey, stamperKey, ct, log *ecdsa.PrivateKey
}

// age is how long the sigstore claims to exist already, and will: signatures may
// be made in the past.
const age = 10 * 365 * 24 * time.Hour

// certificateLife is what Fulcio gives.
const certificateLife = 10 * time.Minute

// The extensions of Fulcio's certificates: https://github.com/sigstore/fulcio/blob/main/docs/oid-info.md
var (
	oidIssuerV1 = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 1}
	oidIssuerV2 = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 8}
	// RFC 6962, section 3.3.
	oidSCTs = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 2}
	// RFC 5280: extended key usage, critical in a timestamp authority's certificate (RFC 3161, section 2.3).
	oidExtendedKeyUsage = asn1.ObjectIdentifier{2, 5, 29, 37}
	oidTimeStamping     = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 8}
)

// newSigstore makes a sigstore, and answers its name and trusted root.
func (s *server) newSigstore() (answer, error) {
	made, err := makeSigstore()
	if err != nil {
		return answer{}, err
	}
	trusted, err := made.trustedRoot()
	if err != nil {
		return answer{}, err
	}
	name := strconv.Itoa(len(s.sigstores) + 1)
	s.sigstores[name] = made
	return answer{Sigstore: name, TrustedRoot: trusted}, nil
}

// makeSigstore makes the keys and certificates of a sigstore.
func makeSigstore() (*sigstore, error) {
	keys := make([]*ecdsa.PrivateKey, 5)
	for i := range keys {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, err
		}
		keys[i] = key
	}
	s := &sigstore{intermediateKey: keys[1], stamperKey: keys[2], ct: keys[3], log: keys[4]}
	authority := func(name string) *x509.Certificate {
		return &x509.Certificate{
			Subject: pkix.Name{CommonName: name, Organization: []string{"sigstore.test"}}, KeyUsage: x509.KeyUsageCertSign,
			BasicConstraintsValid: true, IsCA: true,
			NotBefore: time.Now().Add(-age), NotAfter: time.Now().Add(age),
		}
	}
	var err error
	if s.root, err = certify(authority("sigstore"), nil, keys[0].Public(), keys[0]); err != nil {
		return nil, err
	}
	intermediate := authority("sigstore-intermediate")
	intermediate.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}
	if s.intermediate, err = certify(intermediate, s.root, keys[1].Public(), keys[0]); err != nil {
		return nil, err
	}
	usage, err := asn1.Marshal([]asn1.ObjectIdentifier{oidTimeStamping})
	if err != nil {
		return nil, err
	}
	s.stamper, err = certify(&x509.Certificate{
		Subject: pkix.Name{CommonName: "sigstore-tsa"}, KeyUsage: x509.KeyUsageDigitalSignature,
		NotBefore: time.Now().Add(-age), NotAfter: time.Now().Add(age),
		ExtraExtensions: []pkix.Extension{{Id: oidExtendedKeyUsage, Critical: true, Value: usage}},
	}, s.root, keys[2].Public(), keys[0])
	return s, err
}

// certify signs a certificate; a nil parent makes it its own.
func certify(template, parent *x509.Certificate, public crypto.PublicKey, key crypto.Signer) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	if template.SerialNumber == nil {
		template.SerialNumber = serial
	}
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// trustedRoot is the sigstore's trusted_root.json.
func (s *sigstore) trustedRoot() ([]byte, error) {
	begin, end := time.Now().Add(-age), time.Now().Add(age)
	log := func(key *ecdsa.PrivateKey, url string) (map[string]*root.TransparencyLog, error) {
		id, err := keyID(key)
		return map[string]*root.TransparencyLog{hex.EncodeToString(id[:]): {
			BaseURL: url, ID: id[:], ValidityPeriodStart: begin, ValidityPeriodEnd: end,
			HashFunc: crypto.SHA256, PublicKey: key.Public(), SignatureHashFunc: crypto.SHA256,
		}}, err
	}
	certificates, err := log(s.ct, "https://ct.sigstore.test")
	if err != nil {
		return nil, err
	}
	entries, err := log(s.log, "https://rekor.sigstore.test")
	if err != nil {
		return nil, err
	}
	trusted, err := root.NewTrustedRoot(root.TrustedRootMediaType01,
		[]root.CertificateAuthority{&root.FulcioCertificateAuthority{
			Root: s.root, Intermediates: []*x509.Certificate{s.intermediate},
			ValidityPeriodStart: begin, ValidityPeriodEnd: end, URI: "https://fulcio.sigstore.test",
		}},
		certificates,
		[]root.TimestampingAuthority{&root.SigstoreTimestampingAuthority{
			Root: s.root, Leaf: s.stamper, ValidityPeriodStart: begin, ValidityPeriodEnd: end, URI: "https://tsa.sigstore.test",
		}},
		entries)
	if err != nil {
		return nil, err
	}
	return trusted.MarshalJSON()
}

// keyID is what logs are known by: the SHA-256 of their public key.
func keyID(key *ecdsa.PrivateKey) ([sha256.Size]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	return sha256.Sum256(der), err
}

// session is one signing with the sigstore. It is its Fulcio, Rekor and timestamp
// authority towards sigstore-go.
type session struct {
	*sigstore
	identity identity
	begin    time.Time // of the certificate
	logged   time.Time // when log and timestamp authority see the signature
	noSCT    bool
}

// newSession returns the session that a request asks for.
func (s *server) newSession(r request) (*session, error) {
	known, ok := s.sigstores[r.Sigstore]
	if !ok {
		return nil, fmt.Errorf("there is no sigstore %q", r.Sigstore)
	}
	begin := r.At
	if begin.IsZero() {
		begin = time.Now().Add(-2 * time.Second)
	}
	after := time.Second
	if r.LogAfter != "" {
		var err error
		if after, err = time.ParseDuration(r.LogAfter); err != nil {
			return nil, err
		}
	}
	return &session{sigstore: known, identity: r.Identity, begin: begin.Truncate(time.Second), logged: begin.Add(after), noSCT: r.NoSCT}, nil
}

// GetCertificate is Fulcio: a certificate for the session's identity, which a
// certificate transparency log has seen.
func (s *session) GetCertificate(_ context.Context, pair sign.Keypair, _ *sign.CertificateProviderOptions) ([]byte, error) {
	template, err := s.template()
	if err != nil {
		return nil, err
	}
	// The log signs the certificate as it is without the list of its signatures,
	// and that is what comes out as long as nothing else changes: the serial
	// number is set, and extensions are in order.
	before, err := certify(template, s.intermediate, pair.GetPublicKey(), s.intermediateKey)
	if err != nil || s.noSCT {
		return raw(before), err
	}
	list, err := s.promise(before)
	if err != nil {
		return nil, err
	}
	template.ExtraExtensions = append(template.ExtraExtensions, pkix.Extension{Id: oidSCTs, Value: list})
	after, err := certify(template, s.intermediate, pair.GetPublicKey(), s.intermediateKey)
	return raw(after), err
}

// raw returns a certificate's DER, nil of none.
func raw(c *x509.Certificate) []byte {
	if c == nil {
		return nil
	}
	return c.Raw
}

// template is the certificate that the session's identity gets.
func (s *session) template() (*x509.Certificate, error) {
	issuer, err := asn1.MarshalWithParams(s.identity.Issuer, "utf8")
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		NotBefore: s.begin, NotAfter: s.begin.Add(certificateLife),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
		ExtraExtensions: []pkix.Extension{
			{Id: oidIssuerV1, Value: []byte(s.identity.Issuer)},
			{Id: oidIssuerV2, Value: issuer},
		},
	}
	if !strings.Contains(s.identity.Subject, "://") {
		template.EmailAddresses = []string{s.identity.Subject}
		return template, nil
	}
	subject, err := url.Parse(s.identity.Subject)
	template.URIs = []*url.URL{subject}
	return template, err
}

// promise is the certificate transparency log's signature of a certificate, as a
// list of one in the form of an extension: RFC 6962, sections 3.2 and 3.3.
func (s *session) promise(c *x509.Certificate) ([]byte, error) {
	id, err := keyID(s.ct)
	if err != nil {
		return nil, err
	}
	when := uint64(s.begin.UnixMilli())
	sct := ct.SignedCertificateTimestamp{SCTVersion: ct.V1, LogID: ct.LogID{KeyID: id}, Timestamp: when}
	input, err := ct.SerializeSCTSignatureInput(sct, ct.LogEntry{Leaf: ct.MerkleTreeLeaf{
		Version: ct.V1, LeafType: ct.TimestampedEntryLeafType,
		TimestampedEntry: &ct.TimestampedEntry{
			Timestamp: when, EntryType: ct.PrecertLogEntryType,
			PrecertEntry: &ct.PreCert{
				IssuerKeyHash:  sha256.Sum256(s.intermediate.RawSubjectPublicKeyInfo),
				TBSCertificate: c.RawTBSCertificate,
			},
		},
	}})
	if err != nil {
		return nil, err
	}
	digest := sha256.Sum256(input)
	sct.Signature.Algorithm = tls.SignatureAndHashAlgorithm{Hash: tls.SHA256, Signature: tls.ECDSA}
	if sct.Signature.Signature, err = s.ct.Sign(rand.Reader, digest[:], crypto.SHA256); err != nil {
		return nil, err
	}
	list, err := ctutil.MarshalSCTsIntoSCTList([]*ct.SignedCertificateTimestamp{&sct})
	if err != nil {
		return nil, err
	}
	encoded, err := tls.Marshal(*list)
	if err != nil {
		return nil, err
	}
	return asn1.Marshal(encoded)
}

// CreateLogEntry is Rekor: it takes an entry in, and proves that.
func (s *session) CreateLogEntry(p *entries.CreateLogEntryParams, _ ...entries.ClientOption) (*entries.CreateLogEntryCreated, error) {
	entry, err := types.UnmarshalEntry(p.ProposedEntry)
	if err != nil {
		return nil, err
	}
	body, err := types.CanonicalizeEntry(context.Background(), entry)
	if err != nil {
		return nil, err
	}
	made, err := s.entry(body)
	if err != nil {
		return nil, err
	}
	const uuid = "entry"
	return &entries.CreateLogEntryCreated{ETag: uuid, Payload: models.LogEntry{uuid: *made}}, nil
}

// GetLogEntryByUUID is not needed: each entry is new.
func (s *session) GetLogEntryByUUID(*entries.GetLogEntryByUUIDParams, ...entries.ClientOption) (*entries.GetLogEntryByUUIDOK, error) {
	return nil, fmt.Errorf("there is no such entry")
}

// entry is a log entry of a body in a tree of two, with both proofs that Rekor gives.
func (s *session) entry(body []byte) (*models.LogEntryAnon, error) {
	id, err := keyID(s.log)
	if err != nil {
		return nil, err
	}
	logID, index, when := hex.EncodeToString(id[:]), int64(0), s.logged.Unix()
	encoded := base64.StdEncoding.EncodeToString(body)
	promise, err := s.promiseEntry(map[string]any{"body": encoded, "integratedTime": when, "logID": logID, "logIndex": index})
	if err != nil {
		return nil, err
	}
	leaf, neighbour := sha256.Sum256(append([]byte{0}, body...)), sha256.Sum256([]byte("\x00another"))
	head := sha256.Sum256(append(append([]byte{1}, leaf[:]...), neighbour[:]...))
	signer, err := signature.LoadECDSASignerVerifier(s.log, crypto.SHA256)
	if err != nil {
		return nil, err
	}
	checkpoint, err := util.CreateAndSignCheckpoint(context.Background(), "rekor.sigstore.test", 1, 2, head[:], signer)
	if err != nil {
		return nil, err
	}
	size, headHex, text := int64(2), hex.EncodeToString(head[:]), string(checkpoint)
	return &models.LogEntryAnon{
		Body: encoded, IntegratedTime: &when, LogID: &logID, LogIndex: &index,
		Verification: &models.LogEntryAnonVerification{
			SignedEntryTimestamp: promise,
			InclusionProof: &models.InclusionProof{
				TreeSize: &size, RootHash: &headHex, LogIndex: &index,
				Hashes: []string{hex.EncodeToString(neighbour[:])}, Checkpoint: &text,
			},
		},
	}, nil
}

// promiseEntry is the log's signed entry timestamp.
func (s *session) promiseEntry(payload map[string]any) ([]byte, error) {
	text, err := json.Marshal(payload)
	if err != nil {
		return nil, err
	}
	if text, err = jsoncanonicalizer.Transform(text); err != nil {
		return nil, err
	}
	digest := sha256.Sum256(text)
	return s.log.Sign(rand.Reader, digest[:], crypto.SHA256)
}

// RoundTrip is the timestamp authority.
func (s *session) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	query, err := timestamp.ParseRequest(body)
	if err != nil {
		return nil, err
	}
	stamp := timestamp.Timestamp{
		HashAlgorithm: query.HashAlgorithm, HashedMessage: query.HashedMessage, Time: s.logged,
		Policy: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 2}, ExtraExtensions: query.Extensions,
	}
	response, err := stamp.CreateResponseWithOpts(s.stamper, s.stamperKey, crypto.SHA256)
	if err != nil {
		return nil, err
	}
	return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(bytes.NewReader(response)), Request: r}, nil
}
