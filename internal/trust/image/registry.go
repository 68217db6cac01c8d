package image

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/reach"
	"github.com/holdfastcd/holdfast/internal/trust"
)

// What one examination of one image may take from a registry.
const (
	maxRequests = 400       // redirects and tries again included
	maxTotal    = 256 << 20 // bytes of all answers
	maxManifest = 4 << 20
	maxBlob     = 64 << 20 // an SBOM of a large image has tens of MiB
)

func checkAddress(address string) error { return reach.Link("the registry", address) }

// newTransport returns the transport to registries whose certificates ca (PEM)
// vouches for; none: the system's. Errors: Invalid, if ca holds no certificate.
func (o Options) newTransport(ca []byte) (http.RoundTripper, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if len(ca) > 0 {
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(ca) {
			return nil, fault.New(fault.Invalid, "the certificate authority that the policy names for the registry holds no PEM certificate")
		}
	}
	dialer := &net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}
	if !o.AllowLinkLocal {
		dialer.Control = func(_, address string, _ syscall.RawConn) error { return checkAddress(address) }
	}
	return &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            dialer.DialContext,
		TLSClientConfig:        config,
		ForceAttemptHTTP2:      true,
		TLSHandshakeTimeout:    10 * time.Second,
		ResponseHeaderTimeout:  20 * time.Second,
		IdleConnTimeout:        90 * time.Second,
		MaxIdleConns:           32,
		MaxIdleConnsPerHost:    8,
		MaxResponseHeaderBytes: 1 << 20,
	}, nil
}

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
	rt, err := e.options.newTransport(ca)
	if err == nil {
		e.transports.put(key, rt, time.Time{})
	}
	return rt, err
}

// bounded is a transport for the examination of one image: it sends no more than
// that may need, and nothing in the clear that was not asked for in the clear.
type bounded struct {
	base     http.RoundTripper
	insecure string // host that is spoken to by HTTP; "" for none
	requests atomic.Int64
	bytes    atomic.Int64
}

// RoundTrip implements http.RoundTripper. Errors: Limit, Refused.
func (b *bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	if b.requests.Add(1) > maxRequests {
		return nil, fault.New(fault.Limit, "one image takes more than %d requests to its registry", maxRequests)
	}
	if r.URL.Scheme != "https" && r.URL.Host != b.insecure && !loopback(r.URL.Hostname()) {
		return nil, fault.New(fault.Refused, "%s is asked by %s, not by https", r.URL.Host, r.URL.Scheme).
			WithHint("give it a certificate, or name it in the policy's registries with insecure: true")
	}
	resp, err := b.base.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	limit := int64(maxBlob)
	if path := r.URL.Path; strings.Contains(path, "/manifests/") || strings.Contains(path, "/referrers/") {
		limit = maxManifest
	}
	if resp.ContentLength > limit && r.Method != http.MethodHead {
		_ = resp.Body.Close()
		return nil, fault.New(fault.Limit, "%s answers with %d bytes, more than %d", r.URL.Host, resp.ContentLength, limit)
	}
	resp.Body = &boundedBody{ReadCloser: resp.Body, limit: limit, left: limit, total: &b.bytes}
	return resp, nil
}

// boundedBody is the body of an answer that ends in an error where it is too long.
type boundedBody struct {
	io.ReadCloser

	limit, left int64
	total       *atomic.Int64
}

// Read implements io.Reader. Errors: those of the body, and Limit.
func (b *boundedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.left -= int64(n)
	if b.left < 0 || b.total.Add(int64(n)) > maxTotal {
		return n, fault.New(fault.Limit, "what is attached to the image is larger than %d bytes, or than %d in all", b.limit, maxTotal)
	}
	return n, err
}

// loopback reports whether host is this machine by its name or address.
func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}

// repository is one repository of a registry, as the policies ask for it.
type repository struct {
	puller *remote.Puller
	name   name.Repository
}

// open returns the repository of n. Errors: Invalid.
func (e *Examiner) open(n object.ImageName, d trust.Demands) (*repository, error) {
	access := accessTo(n.Registry, d)
	base, err := e.transportFor(access.CA)
	if err != nil {
		return nil, err
	}
	rt, options := &bounded{base: base}, []name.Option{}
	if access.Insecure {
		rt.insecure, options = n.Registry, append(options, name.Insecure)
	}
	repo, err := name.NewRepository(n.Registry+"/"+n.Repository, options...)
	if err != nil {
		return nil, fault.New(fault.Invalid, "%s/%s is not a repository", n.Registry, n.Repository)
	}
	auth := authn.Anonymous
	if user, password := access.Credential.Basic(); user != "" || password != "" {
		auth = authn.FromConfig(authn.AuthConfig{Username: user, Password: password})
	}
	puller, err := remote.NewPuller(remote.WithTransport(rt), remote.WithAuth(auth), remote.WithUserAgent("holdfast"),
		remote.WithRetryBackoff(remote.Backoff{Duration: 200 * time.Millisecond, Factor: 3, Jitter: 0.1, Steps: 3}))
	if err != nil {
		return nil, fault.New(fault.Internal, "the registry's client cannot be made")
	}
	return &repository{puller: puller, name: repo}, nil
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

// resolve returns the digest that tag has now; "" is latest. Errors: those of [told].
func (r *repository) resolve(ctx context.Context, tag string) (string, error) {
	if tag == "" {
		tag = "latest"
	}
	ref := r.name.Tag(tag)
	if found, err := r.puller.Head(ctx, ref); err == nil && found.Digest.Algorithm == "sha256" {
		return found.Digest.String(), nil
	}
	// Some registries answer HEAD badly; the manifest itself has a digest by its bytes.
	found, err := r.puller.Get(ctx, ref)
	if err != nil {
		return "", told(err, r.name.RegistryStr())
	}
	if found.Digest.Algorithm != "sha256" {
		return "", fault.New(fault.Unsupported, "the registry names the image by %s, and only sha256 is known", found.Digest.Algorithm)
	}
	return found.Digest.String(), nil
}

// manifest returns the manifest at ref; nil if there is none. Errors: those of [told].
func (r *repository) manifest(ctx context.Context, ref name.Reference) (*remote.Descriptor, error) {
	found, err := r.puller.Get(ctx, ref)
	switch {
	case isNotFound(err):
		return nil, nil //nolint:nilnil // nothing there is an answer, not an error
	case err != nil:
		return nil, told(err, r.name.RegistryStr())
	}
	return found, nil
}

// blob returns the bytes that d describes, which have its digest. Errors: those of [told].
func (r *repository) blob(ctx context.Context, d v1.Descriptor) ([]byte, error) {
	if d.Size > maxBlob || d.Digest.Algorithm != "sha256" {
		return nil, fault.New(fault.Limit, "%s has %d bytes, more than %d, or is not named by sha256", d.Digest, d.Size, maxBlob)
	}
	layer, err := r.puller.Layer(ctx, r.name.Digest(d.Digest.String()))
	if err != nil {
		return nil, told(err, r.name.RegistryStr())
	}
	body, err := layer.Compressed()
	if err != nil {
		return nil, told(err, r.name.RegistryStr())
	}
	defer body.Close()
	content, err := io.ReadAll(io.LimitReader(body, maxBlob+1))
	if err != nil {
		return nil, told(err, r.name.RegistryStr())
	}
	return content, nil
}

func isNotFound(err error) bool {
	failed, ok := errors.AsType[*transport.Error](err)
	return ok && failed.StatusCode == http.StatusNotFound
}

// told returns what a client of registries says as a *fault.Error, without
// addresses that could hold a secret: NotFound, Unauthorized, Unreachable, or
// what the transport itself refused.
func told(err error, host string) error {
	if own, ok := errors.AsType[*fault.Error](err); ok {
		return own
	}
	if failed, ok := errors.AsType[*transport.Error](err); ok {
		switch failed.StatusCode {
		case http.StatusNotFound:
			return fault.New(fault.NotFound, "registry %s does not have it", host).WithHint("push it, or correct the name")
		case http.StatusUnauthorized, http.StatusForbidden:
			return fault.New(fault.Unauthorized, "registry %s answers %d", host, failed.StatusCode).
				WithHint("name a Secret with a credential that may read it in the policy's registries")
		}
		return fault.New(fault.Unreachable, "registry %s answers %d", host, failed.StatusCode).
			WithHint("it is asked again by itself")
	}
	reason := "does not answer"
	if unknown, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		reason = "has a certificate that is not trusted: " + unknown.Err.Error()
	} else if op, ok := errors.AsType[*net.OpError](err); ok {
		reason = "cannot be reached: " + op.Err.Error()
	} else if errors.Is(err, context.DeadlineExceeded) {
		reason = "does not answer in time"
	} else if dns, ok := errors.AsType[*net.DNSError](err); ok {
		reason = "has no address: " + dns.Err
	}
	return fault.New(fault.Unreachable, "registry %s %s", host, reason).
		WithHint("it is asked again by itself; check its name, the network and its certificate authority").Because(err)
}
