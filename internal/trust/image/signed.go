package image

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"strings"

	"github.com/sigstore/sigstore-go/pkg/bundle"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/trust"
)

// signed is an artifact read, and not verified: what was signed, and by what that
// can be checked.
type signed struct {
	artifact

	claim     string
	message   []byte // what the signature is over; nil: the image's manifest itself
	signature []byte // of a key; nil for notation
	subject   string // digest that a simple signature or a bare one names
	statement *statement
	// bundle is what keyless verification takes; nil where there is no certificate.
	bundle *bundle.Bundle
	keyed  bool // the signer is a key, not a certificate
}

// read reads an artifact. Errors: Invalid, Unsupported.
func read(a artifact) (signed, error) {
	switch {
	case isNotation(a.media):
		return signed{artifact: a, claim: trust.ClaimSignature, subject: a.target.Digest.String()}, nil
	case a.media == mediaSimple:
		return readSimple(a)
	case a.media == mediaEnvelope:
		return readEnvelope(a)
	case strings.HasPrefix(a.media, mediaBundle):
		return readBundle(a)
	}
	return signed{}, fault.New(fault.Unsupported, "signatures of type %s are not known", a.media)
}

// names returns an error if s is not about the image: a signature that was made for
// another one, and copied.
func (s signed) names(n object.ImageName) error {
	switch {
	case s.statement != nil && s.statement.about(n.Digest), s.statement == nil && s.subject == n.Digest:
		return nil
	}
	return anotherImage(n)
}

func anotherImage(n object.ImageName) error {
	return fault.New(fault.Refused, "it was made for another image: it does not name the digest %s", short(n.Digest)).
		WithHint("sign this image, by its digest")
}

// readSimple reads cosign's payload in the form of
// https://github.com/containers/image/blob/main/docs/containers-signature.5.md.
func readSimple(a artifact) (signed, error) {
	var payload struct {
		Critical struct {
			Type  string `json:"type"`
			Image struct {
				Digest string `json:"docker-manifest-digest"`
			} `json:"image"`
		} `json:"critical"`
	}
	if err := json.Unmarshal(a.content, &payload); err != nil {
		return signed{}, fault.New(fault.Invalid, "its payload is not JSON of the form that cosign signs")
	}
	if kind := payload.Critical.Type; kind != "cosign container image signature" && kind != "atomic container signature" {
		return signed{}, fault.New(fault.Unsupported, "its payload is of type %q, which is not known", kind)
	}
	signature, err := base64.StdEncoding.DecodeString(a.blob.Annotations[noteSignature])
	if err != nil || len(signature) == 0 {
		return signed{}, fault.New(fault.Invalid, "its annotation %s holds no signature in base64", noteSignature)
	}
	s := signed{artifact: a, claim: trust.ClaimSignature, message: a.content, signature: signature, subject: payload.Critical.Image.Digest}
	sum := sha256.Sum256(a.content)
	return s.assemble(map[string]any{"messageSignature": map[string]any{
		"messageDigest": map[string]any{"algorithm": "SHA2_256", "digest": sum[:]},
		"signature":     signature,
	}})
}

// envelope is DSSE's (https://github.com/secure-systems-lab/dsse/blob/master/envelope.md).
type envelope struct {
	PayloadType string `json:"payloadType"`
	Payload     []byte `json:"payload"`
	Signatures  []struct {
		KeyID string `json:"keyid,omitempty"`
		Sig   []byte `json:"sig"`
	} `json:"signatures"`
}

// readEnvelope reads an attestation in a tag of cosign's.
func readEnvelope(a artifact) (signed, error) {
	var e envelope
	if err := json.Unmarshal(a.content, &e); err != nil {
		return signed{}, fault.New(fault.Invalid, "its envelope is not JSON of the form that DSSE gives it")
	}
	s, err := fromEnvelope(a, e)
	if err != nil {
		return s, err
	}
	return s.assemble(map[string]any{"dsseEnvelope": e})
}

// fromEnvelope reads the statement of an envelope, which must be signed once.
func fromEnvelope(a artifact, e envelope) (signed, error) {
	if len(e.Signatures) != 1 {
		return signed{}, fault.New(fault.Unsupported, "its envelope holds %d signatures, and one is expected", len(e.Signatures))
	}
	stated, err := readStatement(e.PayloadType, e.Payload)
	if err != nil {
		return signed{}, err
	}
	claim := claimOf(stated.Kind)
	return signed{artifact: a, claim: claim, message: preAuthenticated(e.PayloadType, e.Payload), signature: e.Signatures[0].Sig, statement: &stated}, nil
}

// preAuthenticated is what DSSE signs: PAE of
// https://github.com/secure-systems-lab/dsse/blob/master/protocol.md.
func preAuthenticated(payloadType string, payload []byte) []byte {
	return fmt.Appendf(nil, "DSSEv1 %d %s %d %s", len(payloadType), payloadType, len(payload), payload)
}

// readBundle reads a sigstore bundle.
func readBundle(a artifact) (signed, error) {
	b := &bundle.Bundle{}
	if err := b.UnmarshalJSON(a.content); err != nil {
		return signed{}, fault.New(fault.Invalid, "it is no sigstore bundle: %s", err)
	}
	content, err := b.VerificationContent()
	if err != nil {
		return signed{}, fault.New(fault.Invalid, "its bundle holds neither certificate nor key: %s", err)
	}
	keyed := content.Certificate() == nil
	signature, err := b.SignatureContent()
	if err != nil {
		return signed{}, fault.New(fault.Invalid, "its bundle holds no signature: %s", err)
	}
	if message := signature.MessageSignatureContent(); message != nil {
		digest := message.Digest()
		return signed{
			artifact: a, claim: trust.ClaimSignature, signature: message.Signature(),
			subject: "sha256:" + hex.EncodeToString(digest), bundle: b, keyed: keyed,
		}, nil
	}
	raw := signature.EnvelopeContent().RawEnvelope()
	payload, err := raw.DecodeB64Payload()
	if err != nil {
		return signed{}, fault.New(fault.Invalid, "the payload of its envelope is not in base64")
	}
	e := envelope{PayloadType: raw.PayloadType, Payload: payload}
	e.Signatures = append(e.Signatures, struct {
		KeyID string `json:"keyid,omitempty"`
		Sig   []byte `json:"sig"`
	}{Sig: signature.Signature()})
	s, err := fromEnvelope(a, e)
	s.bundle, s.keyed = b, keyed
	return s, err
}

// assemble adds to s the bundle that stands for what cosign keeps in annotations,
// where there is a certificate: one form, and one way to verify it.
func (s signed) assemble(content map[string]any) (signed, error) {
	notes := s.blob.Annotations
	s.keyed = notes[noteCert] == ""
	if s.keyed {
		return s, nil
	}
	block, _ := pem.Decode([]byte(notes[noteCert]))
	if block == nil {
		return s, fault.New(fault.Invalid, "its annotation %s holds no PEM certificate", noteCert)
	}
	material := map[string]any{"x509CertificateChain": map[string]any{
		"certificates": []any{map[string]any{"rawBytes": block.Bytes}},
	}}
	if notes[noteLog] != "" {
		entry, err := logEntry([]byte(notes[noteLog]))
		if err != nil {
			return s, err
		}
		material["tlogEntries"] = []any{entry}
	}
	if notes[noteTimestamp] != "" {
		var stamp struct {
			Signed []byte `json:"SignedRFC3161Timestamp"`
		}
		if json.Unmarshal([]byte(notes[noteTimestamp]), &stamp) != nil {
			return s, fault.New(fault.Invalid, "its annotation %s holds no timestamp", noteTimestamp)
		}
		material["timestampVerificationData"] = map[string]any{
			"rfc3161Timestamps": []any{map[string]any{"signedTimestamp": stamp.Signed}},
		}
	}
	content["mediaType"] = mediaBundle + "+json;version=0.1"
	content["verificationMaterial"] = material
	text, err := json.Marshal(content)
	if err != nil {
		return s, fault.New(fault.Internal, "a bundle cannot be made of it")
	}
	s.bundle = &bundle.Bundle{}
	if err := s.bundle.UnmarshalJSON(text); err != nil {
		return s, fault.New(fault.Invalid, "its annotations make no sigstore bundle: %s", err)
	}
	return s, nil
}

// logEntry returns an entry of a transparency log in the form that bundles have it,
// from the one in cosign's annotation.
func logEntry(annotation []byte) (map[string]any, error) {
	var kept struct {
		SignedEntryTimestamp []byte `json:"SignedEntryTimestamp"`
		Payload              struct {
			Body           []byte `json:"body"`
			IntegratedTime int64  `json:"integratedTime"`
			LogIndex       int64  `json:"logIndex"`
			LogID          string `json:"logID"`
		} `json:"Payload"`
	}
	invalid := fault.New(fault.Invalid, "its annotation %s holds no entry of a transparency log", noteLog)
	if json.Unmarshal(annotation, &kept) != nil {
		return nil, invalid
	}
	id, err := hex.DecodeString(kept.Payload.LogID)
	var kind struct {
		Version string `json:"apiVersion"`
		Kind    string `json:"kind"`
	}
	if err != nil || json.Unmarshal(kept.Payload.Body, &kind) != nil {
		return nil, invalid
	}
	return map[string]any{
		"logIndex":          fmt.Sprint(kept.Payload.LogIndex),
		"integratedTime":    fmt.Sprint(kept.Payload.IntegratedTime),
		"logId":             map[string]any{"keyId": id},
		"kindVersion":       map[string]any{"kind": kind.Kind, "version": kind.Version},
		"inclusionPromise":  map[string]any{"signedEntryTimestamp": kept.SignedEntryTimestamp},
		"canonicalizedBody": kept.Payload.Body,
	}, nil
}
