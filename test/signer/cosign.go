package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/sigstore/cosign/v3/pkg/cosign/bundle"
	"github.com/sigstore/cosign/v3/pkg/oci"
	"github.com/sigstore/cosign/v3/pkg/oci/mutate"
	"github.com/sigstore/cosign/v3/pkg/oci/remote"
	"github.com/sigstore/cosign/v3/pkg/oci/static"
	cosigntypes "github.com/sigstore/cosign/v3/pkg/types"
	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	"github.com/sigstore/sigstore-go/pkg/sign"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/sigstore/sigstore/pkg/signature/payload"
	"google.golang.org/protobuf/encoding/protojson"
)

// The media types of what is signed in attestations.
const (
	intoto       = "application/vnd.in-toto+json"
	dsseEnvelope = types.MediaType("application/vnd.dsse.envelope.v1+json")
)

// sign signs an image as "cosign sign" does.
func (s *server) sign(ctx context.Context, r request) error {
	image, at, err := references(r)
	if err != nil {
		return err
	}
	if r.Layout == "bundle" {
		statement, err := makeStatement(image, cosigntypes.CosignSignPredicateType, []byte("{}"))
		if err != nil {
			return err
		}
		return s.writeBundle(ctx, r, at, cosigntypes.CosignSignPredicateType, statement)
	}
	annotations := map[string]any{}
	for k, v := range r.Annotations {
		annotations[k] = v
	}
	text, err := (&payload.Cosign{Image: image, Annotations: annotations}).MarshalJSON()
	if err != nil {
		return err
	}
	made, err := s.bundle(ctx, r, &sign.PlainData{Data: text})
	if err != nil {
		return err
	}
	value := base64.StdEncoding.EncodeToString(made.GetMessageSignature().GetSignature())
	signed, err := static.NewSignature(text, value, s.options(made)...)
	if err != nil {
		return err
	}
	entity, err := mutate.AttachSignatureToEntity(remote.SignedUnknown(at), signed)
	if err != nil {
		return err
	}
	return remote.WriteSignatures(at.Repository, entity)
}

// attest attests a predicate about an image as "cosign attest" does.
func (s *server) attest(ctx context.Context, r request) error {
	image, at, err := references(r)
	if err != nil {
		return err
	}
	statement, err := makeStatement(image, r.PredicateType, r.Predicate)
	if err != nil {
		return err
	}
	if r.Layout == "bundle" {
		return s.writeBundle(ctx, r, at, r.PredicateType, statement)
	}
	made, err := s.bundle(ctx, r, &sign.DSSEData{Data: statement, PayloadType: intoto})
	if err != nil {
		return err
	}
	envelope, err := legacyEnvelope(made)
	if err != nil {
		return err
	}
	options := append(s.options(made), static.WithLayerMediaType(dsseEnvelope))
	options = append([]static.Option{static.WithAnnotations(map[string]string{"predicateType": r.PredicateType})}, options...)
	signed, err := static.NewAttestation(envelope, options...)
	if err != nil {
		return err
	}
	entity, err := attach(at, signed)
	if err != nil {
		return err
	}
	return remote.WriteAttestations(at.Repository, entity)
}

// attach puts an attestation beside those that an image has.
func attach(at name.Digest, signed oci.Signature) (oci.SignedEntity, error) {
	return mutate.AttachAttestationToEntity(remote.SignedUnknown(at), signed)
}

// legacyEnvelope is a bundle's DSSE envelope in JSON as the old layout has it.
func legacyEnvelope(b *protobundle.Bundle) ([]byte, error) {
	envelope := b.GetDsseEnvelope()
	type dsseSignature struct {
		KeyID string `json:"keyid"`
		Sig   []byte `json:"sig"`
	}
	return json.Marshal(struct {
		PayloadType string          `json:"payloadType"`
		Payload     []byte          `json:"payload"`
		Signatures  []dsseSignature `json:"signatures"`
	}{envelope.GetPayloadType(), envelope.GetPayload(), []dsseSignature{{Sig: envelope.GetSignatures()[0].GetSig()}}})
}

// writeBundle signs a statement and puts the bundle beside an image, as a referrer.
func (s *server) writeBundle(ctx context.Context, r request, at name.Digest, predicate string, statement []byte) error {
	made, err := s.bundle(ctx, r, &sign.DSSEData{Data: statement, PayloadType: intoto})
	if err != nil {
		return err
	}
	text, err := protojson.Marshal(made)
	if err != nil {
		return err
	}
	return remote.WriteAttestationNewBundleFormat(at, text, predicate)
}

// bundle signs with the key or, without one, with a certificate of the sigstore.
func (s *server) bundle(ctx context.Context, r request, content sign.Content) (*protobundle.Bundle, error) {
	options := sign.BundleOptions{Context: ctx}
	pair, err := r.pair()
	if err != nil {
		return nil, err
	}
	if r.Sigstore == "" {
		return sign.Bundle(content, pair, options)
	}
	session, err := s.newSession(r)
	if err != nil {
		return nil, err
	}
	if len(r.Key) == 0 {
		options.CertificateProvider = session
	}
	if !r.NoLog {
		options.TransparencyLogs = []sign.Transparency{sign.NewRekor(&sign.RekorOptions{Client: session})}
	}
	if r.Stamp {
		options.TimestampAuthorities = []*sign.TimestampAuthority{sign.NewTimestampAuthority(
			&sign.TimestampAuthorityOptions{URL: "https://tsa.sigstore.test", Transport: session})}
	}
	return sign.Bundle(content, pair, options)
}

// options are what the old layout keeps of a bundle in annotations.
func (s *server) options(b *protobundle.Bundle) []static.Option {
	var options []static.Option
	material := b.GetVerificationMaterial()
	if c := material.GetCertificate(); c != nil {
		leaf := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.GetRawBytes()})
		var chain []byte
		for _, known := range s.sigstores {
			if parsed, err := x509.ParseCertificate(c.GetRawBytes()); err == nil && parsed.CheckSignatureFrom(known.intermediate) == nil {
				chain = bytes.Join([][]byte{
					pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: known.intermediate.Raw}),
					pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: known.root.Raw}),
				}, nil)
			}
		}
		options = append(options, static.WithCertChain(leaf, chain))
	}
	if logged := material.GetTlogEntries(); len(logged) > 0 {
		options = append(options, static.WithBundle(&bundle.RekorBundle{
			SignedEntryTimestamp: logged[0].GetInclusionPromise().GetSignedEntryTimestamp(),
			Payload: bundle.RekorPayload{
				Body: logged[0].GetCanonicalizedBody(), IntegratedTime: logged[0].GetIntegratedTime(),
				LogIndex: logged[0].GetLogIndex(), LogID: hex.EncodeToString(logged[0].GetLogId().GetKeyId()),
			},
		}))
	}
	if stamps := material.GetTimestampVerificationData().GetRfc3161Timestamps(); len(stamps) > 0 {
		options = append(options, static.WithRFC3161Timestamp(bundle.TimestampToRFC3161Timestamp(stamps[0].GetSignedTimestamp())))
	}
	return options
}

// references are the image that is signed, and the one that gets the signature.
func references(r request) (image, at name.Digest, err error) {
	if image, err = name.NewDigest(r.Image); err != nil {
		return image, at, err
	}
	if r.Attach == "" {
		return image, image, nil
	}
	at, err = name.NewDigest(r.Attach)
	return image, at, err
}

// makeStatement is the in-toto statement that an attestation signs.
func makeStatement(image name.Digest, predicateType string, predicate []byte) ([]byte, error) {
	algorithm, digest, ok := bytes.Cut([]byte(image.DigestStr()), []byte(":"))
	if !ok {
		return nil, fmt.Errorf("%s has no digest", image)
	}
	return json.Marshal(map[string]any{
		"_type": "https://in-toto.io/Statement/v1",
		"subject": []any{map[string]any{
			"name": image.Repository.String(), "digest": map[string]string{string(algorithm): string(digest)},
		}},
		"predicateType": predicateType,
		"predicate":     json.RawMessage(predicate),
	})
}

// pair is the key to sign with, a new one if the request names none.
func (r request) pair() (sign.Keypair, error) {
	if len(r.Key) == 0 {
		return sign.NewEphemeralKeypair(nil)
	}
	block, _ := pem.Decode(r.Key)
	if block == nil {
		return nil, fmt.Errorf("the key is no PEM")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	signer, ok := parsed.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("%T does not sign", parsed)
	}
	details, err := signature.GetDefaultAlgorithmDetails(signer.Public())
	if err != nil {
		return nil, err
	}
	return &pair{signer: signer, details: details}, nil
}

// pair is a key that the test chose.
type pair struct {
	signer  crypto.Signer
	details signature.AlgorithmDetails
}

func (p *pair) GetHashAlgorithm() protocommon.HashAlgorithm { return p.details.GetProtoHashType() }
func (p *pair) GetSigningAlgorithm() protocommon.PublicKeyDetails {
	return p.details.GetSignatureAlgorithm()
}
func (p *pair) GetPublicKey() crypto.PublicKey { return p.signer.Public() }

// GetKeyAlgorithm is asked for by Fulcio only.
func (p *pair) GetKeyAlgorithm() string { return "" }

// GetHint is the digest of the public key.
func (p *pair) GetHint() []byte {
	der, err := x509.MarshalPKIXPublicKey(p.signer.Public())
	if err != nil {
		return nil
	}
	digest := sha256.Sum256(der)
	return []byte(base64.StdEncoding.EncodeToString(digest[:]))
}

func (p *pair) GetPublicKeyPem() (string, error) {
	der, err := x509.MarshalPKIXPublicKey(p.signer.Public())
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})), err
}

// SignData signs data, and returns the signature and the digest that was signed.
func (p *pair) SignData(_ context.Context, data []byte) (signed, digest []byte, err error) {
	signer, err := signature.LoadSignerFromAlgorithmDetails(p.signer, p.details)
	if err != nil {
		return nil, nil, err
	}
	if signed, err = signer.SignMessage(bytes.NewReader(data)); err != nil {
		return nil, nil, err
	}
	if hash := p.details.GetHashType(); hash != 0 {
		h := hash.New()
		h.Write(data)
		return signed, h.Sum(nil), nil
	}
	return signed, nil, nil
}
