package image

import (
	"context"
	"crypto/sha256"
	"net/http"
	"strings"
	"time"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/reach"
	"github.com/holdfastcd/holdfast/internal/registry"
	"github.com/holdfastcd/holdfast/internal/trust"
)

// What one examination of one image may take from a registry.
const (
	maxRequests = 400       // redirects and tries again included
	maxTotal    = 256 << 20 // bytes of all answers
	maxManifest = 4 << 20
	maxBlob     = 64 << 20 // an SBOM of a large image has tens of MiB
)

// transportFor returns the transport for a certificate authority, kept between
// images so that connections are.
func (e *Examiner) transportFor(ca []byte) (http.RoundTripper, error) {
	if e.options.Transport != nil {
		return e.options.Transport, nil
	}
	key := sha256.Sum256(ca)
	if rt, ok := e.transports.get(key, time.Time{}); ok {
		return rt, nil
	}
	rt, err := reach.Way{What: "the registry", CA: ca, AllowLinkLocal: e.options.AllowLinkLocal}.Transport()
	if err == nil {
		e.transports.put(key, rt, time.Time{})
	}
	return rt, err
}

// bounded is a transport for the examination of one image.
func bounded(base http.RoundTripper) *reach.Bounded {
	return &reach.Bounded{
		Base: base, Work: "one image", MaxRequests: maxRequests, MaxTotal: maxTotal,
		Hint: "give it a certificate, or name it in the policy's registries with insecure: true",
		MaxAnswer: func(r *http.Request) int64 {
			if path := r.URL.Path; strings.Contains(path, "/manifests/") || strings.Contains(path, "/referrers/") {
				return maxManifest
			}
			return maxBlob
		},
	}
}

// repository is one repository of a registry, as the policies ask for it.
type repository struct{ *registry.Repository }

// open returns the repository of n. Errors: Invalid.
func (e *Examiner) open(n object.ImageName, d trust.Demands) (*repository, error) {
	access := accessTo(n.Registry, d)
	base, err := e.transportFor(access.CA)
	if err != nil {
		return nil, err
	}
	rt := bounded(base)
	if access.Insecure {
		rt.Clear = n.Registry
	}
	user, password := access.Credential.Basic()
	repo, err := registry.Open(n.Registry+"/"+n.Repository, registry.Options{
		Transport: rt, Username: user, Password: password, Clear: access.Insecure,
		Hint: "name a Secret with a credential that may read it in the policy's registries",
	})
	if err != nil {
		return nil, err
	}
	return &repository{repo}, nil
}

// accessTo returns how policies say that host is asked: the first that names it.
func accessTo(host string, d trust.Demands) trust.Registry {
	for _, p := range d.Policies {
		if p.Images == nil {
			continue
		}
		for _, r := range p.Images.Registries {
			if r.Host == host || host == "docker.io" && r.Host == "index.docker.io" {
				return r
			}
		}
	}
	return trust.Registry{Host: host}
}

// resolve returns the digest that tag has now; "" is latest. Errors: those of [registry.Repository.Told].
func (r *repository) resolve(ctx context.Context, tag string) (string, error) {
	if tag == "" {
		tag = "latest"
	}
	ref := r.Name.Tag(tag)
	if found, err := r.Puller.Head(ctx, ref); err == nil && found.Digest.Algorithm == "sha256" {
		return found.Digest.String(), nil
	}
	// Some registries answer HEAD badly; the manifest itself has a digest by its bytes.
	found, err := r.Puller.Get(ctx, ref)
	if err != nil {
		return "", r.Told(err)
	}
	if found.Digest.Algorithm != "sha256" {
		return "", fault.New(fault.Unsupported, "the registry names the image by %s, and only sha256 is known", found.Digest.Algorithm)
	}
	return found.Digest.String(), nil
}
