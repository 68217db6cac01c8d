package git

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-git/go-billy/v5/osfs"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/cache"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
	"github.com/go-git/go-git/v5/plumbing/storer"
	"github.com/go-git/go-git/v5/plumbing/transport"
	githttp "github.com/go-git/go-git/v5/plumbing/transport/http"
	"github.com/go-git/go-git/v5/plumbing/transport/server"
	"github.com/go-git/go-git/v5/storage/filesystem"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/source"
)

// remote opens connections to Git servers.
type remote struct {
	http *http.Transport
	git  transport.Transport
	file transport.Transport
}

// connection is one exchange with a server, which has told its refs.
type connection struct {
	upload transport.UploadPackSession
	refs   *packp.AdvRefs
}

func newRemote(opts Options) *remote {
	base := &http.Transport{
		Proxy:                  opts.Proxy,
		DialContext:            (&net.Dialer{Timeout: 15 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSHandshakeTimeout:    15 * time.Second,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
		ResponseHeaderTimeout:  time.Minute,
		MaxResponseHeaderBytes: 64 << 10,
		MaxIdleConnsPerHost:    4,
		IdleConnTimeout:        90 * time.Second,
		ForceAttemptHTTP2:      true,
	}
	// go-git's transport drops credentials when a redirect leaves the host,
	// and follows redirects of the first question only.
	client := &http.Client{Transport: guard{base, opts}}
	return &remote{http: base, git: githttp.NewClient(client), file: server.NewClient(disk{})}
}

func (r *remote) close() { r.http.CloseIdleConnections() }

// connect asks for the refs that the request's credential may see.
func (r *remote) connect(ctx context.Context, req source.Request) (*connection, error) {
	endpoint, err := transport.NewEndpoint(req.URL)
	if err != nil {
		return nil, fault.New(fault.Invalid, "the URL cannot be parsed")
	}
	client := r.git
	if endpoint.Protocol == "file" {
		client = r.file
	}
	var auth transport.AuthMethod
	if user, password := req.Credential.Basic(); user != "" || password != "" {
		auth = &githttp.BasicAuth{Username: user, Password: password}
	}
	upload, err := client.NewUploadPackSession(endpoint, auth)
	if err != nil {
		return nil, err
	}
	over := new(atomic.Bool)
	refs, err := upload.AdvertisedReferencesContext(context.WithValue(ctx, overKey{}, over))
	if over.Load() {
		return nil, errOver() // the decoder has hidden it
	}
	if err != nil {
		return nil, err
	}
	return &connection{upload, refs}, nil
}

// disk opens repositories named by file URLs.
type disk struct{}

func (disk) Load(endpoint *transport.Endpoint) (storer.Storer, error) {
	dir := endpoint.Path
	if info, err := os.Stat(filepath.Join(dir, ".git")); err == nil && info.IsDir() {
		dir = filepath.Join(dir, ".git")
	}
	if _, err := os.Stat(filepath.Join(dir, "HEAD")); err != nil {
		return nil, transport.ErrRepositoryNotFound
	}
	return filesystem.NewStorage(osfs.New(dir), cache.NewObjectLRU(cache.MiByte)), nil
}

// guard turns refusals into errors of ours and bounds what is read.
type guard struct {
	next http.RoundTripper
	opts Options
}

func (g guard) RoundTrip(req *http.Request) (*http.Response, error) {
	res, err := g.next.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	if err := checkStatus(req, res); err != nil {
		res.Body.Close() // nothing of it is wanted
		return nil, err
	}
	limit := g.opts.MaxRefs
	if req.Method == http.MethodPost {
		limit = g.opts.MaxPack + g.opts.MaxPack/64 + 1<<20 // the pack in its envelopes
	}
	over, _ := req.Context().Value(overKey{}).(*atomic.Bool)
	res.Body = &bounded{res.Body, limit, over}
	return res, nil
}

func checkStatus(req *http.Request, res *http.Response) error {
	switch code := res.StatusCode; {
	case code == http.StatusUnauthorized || code == http.StatusForbidden:
		if req.Header.Get("Authorization") == "" {
			return fault.New(fault.Unauthorized, "the Git server asks for credentials").
				WithHint("refer to a Secret with the keys username and password")
		}
		return fault.New(fault.Unauthorized, "the Git server refused the credentials").
			WithHint("check username and password in the Secret, and what the account may read")
	case code == http.StatusNotFound || code == http.StatusGone:
		return fault.New(fault.NotFound, "there is no such repository").
			WithHint("some servers answer so when credentials are missing or may not read it")
	case code >= 400:
		return fault.New(fault.Unreachable, "the Git server answered with status %d", code)
	case code >= 200 && code < 300 && !strings.HasPrefix(res.Header.Get("Content-Type"), "application/x-git-upload-pack-"):
		return fault.New(fault.Unreachable, "the server's answer is not that of a Git server").
			WithHint("check that the URL is the one to clone from")
	}
	return nil
}

// bounded is a response's body of a limited size.
type bounded struct {
	io.ReadCloser
	left int64
	over *atomic.Bool // may be nil
}

// overKey is where a request's context says to note that a body was too large.
type overKey struct{}

func errOver() error { return fault.New(fault.Limit, "the Git server sent more than is allowed") }

func (b *bounded) Read(p []byte) (int, error) {
	if b.left <= 0 {
		if b.over != nil {
			b.over.Store(true)
		}
		return 0, errOver()
	}
	n, err := b.ReadCloser.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}

// Close reads the few bytes after the last message, so that the connection can
// be used again.
func (b *bounded) Close() error {
	_, _ = io.CopyN(io.Discard, b.ReadCloser, 16<<10) // whatever comes, it is closed now
	return b.ReadCloser.Close()
}

// classify turns any error of a fetch into a *fault.Error without secrets.
func (r *remote) classify(err error, req source.Request) error {
	var ours *fault.Error
	var hidden *plumbing.UnexpectedError // it does not unwrap itself
	switch {
	case errors.As(err, &ours):
		return ours
	case errors.As(err, &hidden):
		return r.classify(hidden.Err, req)
	case errors.Is(err, transport.ErrEmptyRemoteRepository):
		return fault.New(fault.NotFound, "the repository is empty: it has no commit to deliver yet")
	case errors.Is(err, transport.ErrRepositoryNotFound):
		return fault.New(fault.NotFound, "there is no such repository")
	case errors.Is(err, errCorrupt) || errors.Is(err, errMissing):
		return fault.New(fault.Unreachable, "the Git server did not send what its refs name").Because(err)
	case errors.Is(err, context.Canceled):
		return fault.New(fault.Unreachable, "the fetch was stopped").Because(err)
	}
	return unreachable(err, hostOf(req.URL))
}

// hostOf names the server of a repository for messages.
func hostOf(raw string) string {
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" {
		return "the repository"
	}
	return u.Host
}

// unreachable says what kept host from answering.
func unreachable(err error, host string) error {
	var timeout net.Error
	var dns *net.DNSError
	var unknown x509.UnknownAuthorityError
	var verify *tls.CertificateVerificationError
	var op *net.OpError
	var path *fs.PathError
	var link *os.LinkError
	var f *fault.Error
	switch {
	case errors.As(err, &timeout) && timeout.Timeout():
		f = fault.New(fault.Unreachable, "the Git server at %s did not answer in time", host)
	case errors.As(err, &dns):
		f = fault.New(fault.Unreachable, "the host %s cannot be found", dns.Name)
	case errors.As(err, &unknown), errors.As(err, &verify):
		f = fault.New(fault.Unreachable, "the certificate of the Git server at %s is not trusted", host)
	case errors.As(err, &op):
		f = fault.New(fault.Unreachable, "the Git server at %s cannot be reached: %v", host, op.Err)
	case errors.As(err, &link):
		f = fault.New(fault.Internal, "the object store cannot be used: %v", link.Err)
	case errors.As(err, &path):
		f = fault.New(fault.Internal, "the object store cannot be used: %v", path.Err)
	default:
		// Texts of others may repeat what was sent; say only that it failed.
		f = fault.New(fault.Unreachable, "the exchange with the Git server at %s failed", host)
	}
	return f.Because(err)
}
