package main

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/notaryproject/notation-core-go/signature/cose"
	"github.com/notaryproject/notation-core-go/signature/jws"
	"github.com/notaryproject/notation-go"
	"github.com/notaryproject/notation-go/registry"
	"github.com/notaryproject/notation-go/signer"
	"oras.land/oras-go/v2/registry/remote"
)

// signNotation signs an image as "notation sign" does.
func signNotation(ctx context.Context, r request) error {
	image, at, err := references(r)
	if err != nil {
		return err
	}
	if image != at {
		return fmt.Errorf("notation signs where the image is; copy the referrer to replay it")
	}
	block, _ := pem.Decode(r.Key)
	if block == nil {
		return fmt.Errorf("the key is no PEM")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return err
	}
	chain, err := certificates(r.Certificates)
	if err != nil {
		return err
	}
	made, err := signer.NewGenericSigner(key, chain)
	if err != nil {
		return err
	}
	repository, err := notationRepository(image)
	if err != nil {
		return err
	}
	options := notation.SignOptions{ArtifactReference: image.String(), UserMetadata: r.Annotations}
	options.SignatureMediaType = jws.MediaTypeEnvelope
	if r.Format == "cose" {
		options.SignatureMediaType = cose.MediaTypeEnvelope
	}
	if r.Expiry != "" {
		if options.ExpiryDuration, err = time.ParseDuration(r.Expiry); err != nil {
			return err
		}
	}
	_, err = notation.Sign(ctx, made, repository, options)
	return err
}

// notationRepository is where the signature goes, over HTTP.
func notationRepository(image name.Digest) (registry.Repository, error) {
	repository, err := remote.NewRepository(image.Repository.String())
	if err != nil {
		return nil, err
	}
	repository.PlainHTTP = true
	return registry.NewRepository(repository), nil
}

// certificates parses a PEM chain.
func certificates(text []byte) ([]*x509.Certificate, error) {
	var chain []*x509.Certificate
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		chain = append(chain, c)
	}
	return chain, nil
}
