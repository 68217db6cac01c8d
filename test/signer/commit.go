package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"math/big"
	"time"

	"github.com/digitorus/timestamp"
	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	"github.com/sigstore/sigstore-go/pkg/sign"
	"google.golang.org/protobuf/proto"
)

// The objects of CMS, RFC 5652, and what gitsign adds to it.
var (
	oidData          = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 1}
	oidSignedData    = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 2}
	oidContentType   = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 3}
	oidMessageDigest = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 4}
	oidSigningTime   = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 5}
	oidTimeStamp     = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 16, 2, 14}
	oidSHA256        = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 1}
	oidECDSA         = asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2}
	oidLogEntry      = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 3, 1}
)

type contentInfo struct {
	Type    asn1.ObjectIdentifier
	Content asn1.RawValue `asn1:"optional,explicit,tag:0"`
}

type signedData struct {
	Version          int
	DigestAlgorithms []pkix.AlgorithmIdentifier `asn1:"set"`
	Content          encapsulated
	Certificates     asn1.RawValue
	SignerInfos      []signerInfo `asn1:"set"`
}

type encapsulated struct {
	Type asn1.ObjectIdentifier
}

type signerInfo struct {
	Version            int
	Certificate        issuerAndSerial
	DigestAlgorithm    pkix.AlgorithmIdentifier
	Signed             asn1.RawValue
	SignatureAlgorithm pkix.AlgorithmIdentifier
	Signature          []byte
	Unsigned           []attribute `asn1:"optional,omitempty,set,tag:1"`
}

type issuerAndSerial struct {
	Issuer asn1.RawValue
	Serial *big.Int
}

type attribute struct {
	Type   asn1.ObjectIdentifier
	Values []asn1.RawValue `asn1:"set"`
}

// signCommit signs a commit as gitsign does that keeps the log's entry in the
// signature: the log has the hash of the signed attributes, and the entry is kept
// without its body, which follows from the rest.
func (s *server) signCommit(ctx context.Context, r request) ([]byte, error) {
	digest := sha256.Sum256(r.Payload)
	signed, err := attributes(map[*asn1.ObjectIdentifier]any{
		&oidContentType: oidData, &oidMessageDigest: digest[:], &oidSigningTime: time.Now().UTC(),
	})
	if err != nil {
		return nil, err
	}
	set, err := asn1.MarshalWithParams(signed, "set")
	if err != nil {
		return nil, err
	}
	made, err := s.bundle(ctx, r, &sign.PlainData{Data: set})
	if err != nil {
		return nil, err
	}
	unsigned, err := unsignedAttributes(made)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(made.GetVerificationMaterial().GetCertificate().GetRawBytes())
	if err != nil {
		return nil, fmt.Errorf("commits are signed with a sigstore's certificate: %w", err)
	}
	return assemble(leaf, set, made.GetMessageSignature().GetSignature(), unsigned)
}

// assemble makes the armoured message.
func assemble(leaf *x509.Certificate, signed, signature []byte, unsigned []attribute) ([]byte, error) {
	if _, ok := leaf.PublicKey.(*ecdsa.PublicKey); !ok {
		return nil, fmt.Errorf("the certificate has a key of type %T", leaf.PublicKey)
	}
	var attrs asn1.RawValue
	if _, err := asn1.Unmarshal(signed, &attrs); err != nil {
		return nil, err
	}
	sha := pkix.AlgorithmIdentifier{Algorithm: oidSHA256}
	content, err := asn1.Marshal(signedData{
		Version: 1, DigestAlgorithms: []pkix.AlgorithmIdentifier{sha}, Content: encapsulated{oidData},
		Certificates: asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0, IsCompound: true, Bytes: leaf.Raw},
		SignerInfos: []signerInfo{{
			Version: 1, Certificate: issuerAndSerial{asn1.RawValue{FullBytes: leaf.RawIssuer}, leaf.SerialNumber},
			DigestAlgorithm:    sha,
			Signed:             asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0, IsCompound: true, Bytes: attrs.Bytes},
			SignatureAlgorithm: pkix.AlgorithmIdentifier{Algorithm: oidECDSA},
			Signature:          signature, Unsigned: unsigned,
		}},
	})
	if err != nil {
		return nil, err
	}
	der, err := asn1.Marshal(contentInfo{
		Type:    oidSignedData,
		Content: asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0, IsCompound: true, Bytes: content},
	})
	return pem.EncodeToMemory(&pem.Block{Type: "SIGNED MESSAGE", Bytes: der}), err
}

// unsignedAttributes are a bundle's log entry and timestamp.
func unsignedAttributes(b *protobundle.Bundle) ([]attribute, error) {
	all := map[*asn1.ObjectIdentifier]any{}
	material := b.GetVerificationMaterial()
	for _, entry := range material.GetTlogEntries() {
		entry.CanonicalizedBody = nil
		encoded, err := proto.Marshal(entry)
		if err != nil {
			return nil, err
		}
		all[&oidLogEntry] = encoded
	}
	for _, stamp := range material.GetTimestampVerificationData().GetRfc3161Timestamps() {
		parsed, err := timestamp.ParseResponse(stamp.GetSignedTimestamp())
		if err != nil {
			return nil, err
		}
		all[&oidTimeStamp] = asn1.RawValue{FullBytes: parsed.RawToken}
	}
	return attributes(all)
}

// attributes encodes attributes of one value each.
func attributes(all map[*asn1.ObjectIdentifier]any) ([]attribute, error) {
	var list []attribute
	for id, value := range all {
		encoded, err := asn1.Marshal(value)
		if err != nil {
			return nil, err
		}
		list = append(list, attribute{Type: *id, Values: []asn1.RawValue{{FullBytes: encoded}}})
	}
	return list, nil
}
