package commit

import (
	"bytes"
	"crypto"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"

	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/verify"
	"google.golang.org/protobuf/proto"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/trust"
)

// attributeLogEntry is where gitsign keeps the transparency log's entry: a
// dev.sigstore.rekor.v1.TransparencyLogEntry in protobuf, as an OCTET STRING, without
// the body, which follows from the rest.
const attributeLogEntry = "1.3.6.1.4.1.57264.3.1"

// verifySigstore judges a signature of gitsign: the certificate is one of the trusted
// root's, was given to one of the identities, is in certificate transparency (where the
// root has such logs), and the transparency log or a timestamp proves that the
// signature was made while it was valid. Nothing is asked over the network.
func verifySigstore(m *message, a *authority, t times) (finding, error) {
	entity, err := m.bundle(a.Sigstore.IgnoreLog)
	if err != nil {
		return finding{}, err
	}
	result, err := a.keyless.Verify(entity, verify.WithArtifact(bytes.NewReader(m.signed)))
	if err != nil {
		return finding{}, fault.New(fault.Refused, "the sigstore signature does not verify: %s", err)
	}
	at, err := provenTimes(result)
	if err != nil {
		return finding{}, err
	}
	if at.to.After(t.now.Add(trust.Skew)) {
		return finding{}, notYet(at.to, t.now)
	}
	chains, err := verify.VerifyLeafCertificate(at.from, m.signer, a.keyless.Root())
	if err != nil {
		return finding{}, fault.New(fault.Refused, "the certificate was not valid at %s: %s", stamp(at.from), err)
	}
	summary := result.Signature.Certificate
	f := m.finding(chains, a.Revoked)
	f.kind, f.names, f.issuer = "sigstore", []string{summary.SubjectAlternativeName}, summary.Issuer
	f.at, f.proven = at, at.from
	f.owns = func(address string) bool { return sameAddress(summary.SubjectAlternativeName, address) }
	return f, nil
}

// provenTimes are from the earliest to the latest time at which a log or an authority
// saw the signature.
func provenTimes(result *verify.VerificationResult) (interval, error) {
	if len(result.VerifiedTimestamps) == 0 {
		return interval{}, fault.New(fault.Refused, "nothing proves when the signature was made")
	}
	var at interval
	for i, t := range result.VerifiedTimestamps {
		if i == 0 || t.Timestamp.Before(at.from) {
			at.from = t.Timestamp
		}
		if t.Timestamp.After(at.to) {
			at.to = t.Timestamp
		}
	}
	return at, nil
}

// bundle is the signature as a sigstore bundle: of the signed attributes, with what
// the unsigned ones prove about it.
func (m *message) bundle(ignoreLog bool) (*bundle.Bundle, error) {
	digest := m.hash.New()
	digest.Write(m.signed)
	b := &protobundle.Bundle{
		MediaType: "application/vnd.dev.sigstore.bundle.v0.3+json",
		VerificationMaterial: &protobundle.VerificationMaterial{
			Content: &protobundle.VerificationMaterial_Certificate{Certificate: &protocommon.X509Certificate{RawBytes: m.signer.Raw}},
		},
		Content: &protobundle.Bundle_MessageSignature{MessageSignature: &protocommon.MessageSignature{
			MessageDigest: &protocommon.HashOutput{Algorithm: hashNames[m.hash], Digest: digest.Sum(nil)}, Signature: m.signature,
		}},
	}
	if response := m.timestampResponse(); response != nil {
		b.VerificationMaterial.TimestampVerificationData = &protobundle.TimestampVerificationData{
			Rfc3161Timestamps: []*protocommon.RFC3161SignedTimestamp{{SignedTimestamp: response}},
		}
	}
	if !ignoreLog {
		entry, err := m.logEntry()
		if err != nil {
			return nil, err
		}
		b.VerificationMaterial.TlogEntries = []*protorekor.TransparencyLogEntry{entry}
		if entry.GetInclusionProof() == nil { // the log's promise is enough only in the first version
			b.MediaType = "application/vnd.dev.sigstore.bundle+json;version=0.1"
		}
	}
	entity, err := bundle.NewBundle(b)
	if err != nil {
		return nil, fault.New(fault.Refused, "the signature cannot be judged as a sigstore bundle: %s", err)
	}
	return entity, nil
}

// hashNames are sigstore's names for the digests.
var hashNames = map[crypto.Hash]protocommon.HashAlgorithm{
	crypto.SHA256: protocommon.HashAlgorithm_SHA2_256,
	crypto.SHA384: protocommon.HashAlgorithm_SHA2_384,
	crypto.SHA512: protocommon.HashAlgorithm_SHA2_512,
}

// logEntry is the transparency log's entry that is in the signature.
func (m *message) logEntry() (*protorekor.TransparencyLogEntry, error) {
	encoded := m.octets(attributeLogEntry)
	if encoded == nil {
		return nil, fault.New(fault.Refused, "the signature does not contain its entry of the transparency log, and signatures are verified offline").
			WithHint("set gitsign.rekorMode to offline, and sign again")
	}
	entry := &protorekor.TransparencyLogEntry{}
	if err := proto.Unmarshal(encoded, entry); err != nil {
		return nil, fault.New(fault.Refused, "the entry of the transparency log in the signature is malformed")
	}
	if entry.GetInclusionProof().GetCheckpoint().GetEnvelope() == "" {
		entry.InclusionProof = nil // older entries have only the log's promise, which is as signed
	}
	if len(entry.GetCanonicalizedBody()) > 0 {
		return entry, nil
	}
	var err error
	entry.CanonicalizedBody, err = m.logBody()
	return entry, err
}

// logBody is the body of the log's entry, a hashedrekord 0.0.1 of the signed attributes
// in canonical JSON: sorted, and without anything that would need an escape.
func (m *message) logBody() ([]byte, error) {
	type object = map[string]any
	digest := crypto.SHA256.New()
	digest.Write(m.signed)
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: m.signer.Raw})
	body, err := json.Marshal(object{
		"apiVersion": "0.0.1", "kind": "hashedrekord",
		"spec": object{
			"data": object{"hash": object{"algorithm": "sha256", "value": hex.EncodeToString(digest.Sum(nil))}},
			"signature": object{
				"content":   base64.StdEncoding.EncodeToString(m.signature),
				"publicKey": object{"content": base64.StdEncoding.EncodeToString(certificate)},
			},
		},
	})
	if err != nil {
		return nil, fault.New(fault.Internal, "encode a log entry: %s", err)
	}
	return body, nil
}
