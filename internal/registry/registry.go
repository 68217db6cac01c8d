// Package registry asks one repository of a registry for manifests and blobs
// (https://github.com/opencontainers/distribution-spec), by way of
// go-containerregistry: bounded by the transport that it is given, and with errors that
// hold no address with a secret in it.
package registry

import (
	"context"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/reach"
)

// Options are how a repository is asked.
type Options struct {
	Transport          http.RoundTripper
	Username, Password string // both empty: anonymous
	Clear              bool   // by HTTP; the transport must permit it, too
	// Hint is what to do where the registry refuses the credential.
	Hint string
}

// Repository is one repository of a registry.
type Repository struct {
	Puller *remote.Puller
	Name   name.Repository

	hint string
}

// Open returns the repository of a name, host/path. Nothing is asked yet. Errors:
// Invalid, for a name that is none.
func Open(of string, o Options) (*Repository, error) {
	var options []name.Option
	if o.Clear {
		options = append(options, name.Insecure)
	}
	repo, err := name.NewRepository(of, options...)
	if err != nil {
		return nil, fault.New(fault.Invalid, "%s is not a repository", of)
	}
	auth := authn.Anonymous
	if o.Username != "" || o.Password != "" {
		auth = authn.FromConfig(authn.AuthConfig{Username: o.Username, Password: o.Password})
	}
	puller, err := remote.NewPuller(remote.WithTransport(o.Transport), remote.WithAuth(auth), remote.WithUserAgent("holdfast"),
		remote.WithRetryBackoff(remote.Backoff{Duration: 200 * time.Millisecond, Factor: 3, Jitter: 0.1, Steps: 3}))
	if err != nil {
		return nil, fault.New(fault.Internal, "the registry's client cannot be made")
	}
	return &Repository{Puller: puller, Name: repo, hint: o.Hint}, nil
}

// Manifest returns the manifest at ref; nil if there is none. Errors: those of
// [Repository.Told].
func (r *Repository) Manifest(ctx context.Context, ref name.Reference) (*remote.Descriptor, error) {
	found, err := r.Puller.Get(ctx, ref)
	switch {
	case isNotFound(err):
		return nil, nil //nolint:nilnil // nothing there is an answer, not an error
	case err != nil:
		return nil, r.Told(err)
	}
	return found, nil
}

// Blob returns the bytes that d describes, which have its digest: limit at most. Errors:
// Limit, and those of [Repository.Told].
func (r *Repository) Blob(ctx context.Context, d v1.Descriptor, limit int64) ([]byte, error) {
	if d.Size > limit || d.Digest.Algorithm != "sha256" {
		return nil, fault.New(fault.Limit, "%s has %d bytes, more than %d, or is not named by sha256", d.Digest, d.Size, limit)
	}
	layer, err := r.Puller.Layer(ctx, r.Name.Digest(d.Digest.String()))
	if err != nil {
		return nil, r.Told(err)
	}
	body, err := layer.Compressed()
	if err != nil {
		return nil, r.Told(err)
	}
	defer body.Close()
	content, err := io.ReadAll(io.LimitReader(body, limit+1))
	if err != nil {
		return nil, r.Told(err)
	}
	return content, nil
}

func isNotFound(err error) bool {
	failed, ok := errors.AsType[*transport.Error](err)
	return ok && failed.StatusCode == http.StatusNotFound
}

// Told returns what a client of registries says as a *fault.Error, without
// addresses that could hold a secret: NotFound, Unauthorized, Unreachable, or
// what the transport itself refused.
func (r *Repository) Told(err error) error {
	if own, ok := errors.AsType[*fault.Error](err); ok {
		return own
	}
	host := r.Name.RegistryStr()
	if failed, ok := errors.AsType[*transport.Error](err); ok {
		switch failed.StatusCode {
		case http.StatusNotFound:
			return fault.New(fault.NotFound, "registry %s does not have it", host).WithHint("push it, or correct the name")
		case http.StatusUnauthorized, http.StatusForbidden:
			return fault.New(fault.Unauthorized, "registry %s answers %d", host, failed.StatusCode).WithHint("%s", r.hint)
		}
		return fault.New(fault.Unreachable, "registry %s answers %d", host, failed.StatusCode).
			WithHint("it is asked again by itself")
	}
	return fault.New(fault.Unreachable, "registry %s %s", host, reach.Cause(err)).
		WithHint("it is asked again by itself; check its name, the network and its certificate authority").Because(err)
}
