package git

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

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
	opts Options
	dir  string // for short-lived files
	file transport.Transport
	// lists are turns with a list of refs that is large.
	lists *source.Turns

	mu     sync.Mutex
	routes *lru[string, *route] // by the ID of the credential
}

// connection is one exchange with a server, which has told its refs.
type connection struct {
	upload uploader
	refs   *packp.AdvRefs
	list   *refsList
}

// forget drops the refs when they were resolved, so that others can have theirs.
// What the server can do is kept.
func (c *connection) forget() {
	c.refs.References, c.refs.Peeled, c.refs.Shallows = nil, nil, nil
	c.list.leave()
}

// uploader sends packs.
type uploader interface {
	UploadPack(ctx context.Context, req *packp.UploadPackRequest) (*packp.UploadPackResponse, error)
	Close() error
}

func newRemote(dir string, opts Options) *remote {
	routes := newLRU[string, *route](maxRoutes)
	routes.dropped = (*route).close
	return &remote{opts: opts, dir: dir, file: server.NewClient(disk{}), routes: routes, lists: source.NewTurns(1, 1)}
}

func (r *remote) close() { r.routes.clear() }

// route returns the way of a credential. Errors: Invalid.
func (r *remote) route(c source.Credential) (*route, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if known, ok := r.routes.get(c.ID); ok {
		return known, nil
	}
	way, err := newRoute(r.opts, c.Secret())
	if err != nil {
		return nil, err
	}
	r.routes.put(c.ID, way, 1)
	return way, nil
}

// connect asks for the refs that the request's credential may see.
func (r *remote) connect(ctx context.Context, req source.Request) (*connection, error) {
	list := &refsList{turns: r.lists, ctx: ctx}
	upload, refs, err := r.ask(ctx, req, list)
	if err != nil {
		list.leave()
		return nil, cmp.Or(list.failed(), err) // the decoder hides what was wrong
	}
	return &connection{upload, refs, list}, nil
}

func (r *remote) ask(ctx context.Context, req source.Request, list *refsList) (uploader, *packp.AdvRefs, error) {
	if _, _, _, ok := source.SplitSSH(req.URL); ok {
		return r.connectSSH(ctx, req, list)
	}
	endpoint, err := transport.NewEndpoint(req.URL)
	if err != nil {
		return nil, nil, fault.New(fault.Invalid, "the URL cannot be parsed")
	}
	client := r.file
	if endpoint.Protocol != "file" {
		way, err := r.route(req.Credential)
		if err != nil {
			return nil, nil, err
		}
		client = way.git
	}
	upload, err := client.NewUploadPackSession(endpoint, authentication(req.Credential.Secret()))
	if err != nil {
		return nil, nil, err
	}
	trip := &trip{origin: origin(req.URL), list: list}
	refs, err := upload.AdvertisedReferencesContext(context.WithValue(ctx, tripKey{}, trip))
	return upload, refs, err
}

// authentication is what HTTP sends along, nil for nothing.
func authentication(s source.Secret) transport.AuthMethod {
	switch {
	case s.Token != "":
		return &githttp.TokenAuth{Token: s.Token}
	case s.Username != "" || s.Password != "":
		return &githttp.BasicAuth{Username: s.Username, Password: s.Password}
	}
	return nil
}

// origin is scheme and host of a URL.
func origin(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return ""
	}
	return u.Scheme + "://" + strings.ToLower(u.Host)
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

// guard turns refusals into errors of ours, bounds what is read, and keeps a
// client certificate at home.
type guard struct {
	next      http.RoundTripper
	opts      Options
	certified bool         // next shows a client certificate to whoever asks for one
	asked     *atomic.Bool // a server asked for one, and has not answered since
}

// hungUp explains an error after a handshake in which the server asked for a
// certificate: it says what it does not like about it, and hangs up, and whoever
// still writes by then does not get to hear it.
func (g guard) hungUp(err error) error {
	var timeout net.Error
	if !g.asked.Load() || errors.As(err, &timeout) && timeout.Timeout() || errors.Is(err, context.Canceled) {
		return err
	}
	return errClientCert().Because(err)
}

// trip is the first question of a fetch, with all of its redirects.
type trip struct {
	origin string
	list   *refsList
}

// tripKey is where a request's context holds its trip.
type tripKey struct{}

func (g guard) RoundTrip(req *http.Request) (*http.Response, error) {
	trip, _ := req.Context().Value(tripKey{}).(*trip)
	if g.certified && trip != nil && origin(req.URL.String()) != trip.origin {
		return nil, fault.New(fault.Refused, "the Git server redirects to another host, which must not see the client certificate").
			WithHint("write the URL that it redirects to")
	}
	res, err := g.next.RoundTrip(req)
	if err != nil {
		return nil, g.hungUp(err)
	}
	g.asked.Store(false)
	if err := checkStatus(req, res); err != nil {
		res.Body.Close() // nothing of it is wanted
		return nil, err
	}
	limit := g.opts.MaxRefs
	if req.Method == http.MethodPost {
		limit = g.opts.MaxPack + g.opts.MaxPack/64 + 1<<20 // the pack in its envelopes
	}
	b := &bounded{ReadCloser: res.Body, left: limit}
	if trip != nil {
		b.list = trip.list
	}
	res.Body = b
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
			WithHint("check the Secret's username and password, or its token, and what the account may read")
	case code == http.StatusProxyAuthRequired:
		return proxyStatus(code)
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
	list *refsList // of refs, if this is one

	named int    // commits that the server names before it sends a pack
	tail  []byte // what was read last
}

// maxNamed bounds the commits that a server answers with; go-git keeps them all.
const maxNamed = 100_000

func errOver() error { return fault.New(fault.Limit, "the Git server sent more than is allowed") }

func (b *bounded) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, b.list.fail(errOver())
	}
	n, err := b.ReadCloser.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	if err := b.list.grow(int64(n), b.ReadCloser); err != nil {
		return 0, err
	}
	if b.count(p[:n]) > maxNamed {
		return 0, errOver()
	}
	return n, err
}

// count counts the lines by which a server names commits. In a pack, which is
// compressed, such words are rare.
func (b *bounded) count(p []byte) int {
	const longest = "shallow "
	seen := slices.Concat(b.tail, p)
	for _, sign := range []string{"ACK", longest} {
		b.named += bytes.Count(seen, []byte(sign)) - bytes.Count(b.tail, []byte(sign))
	}
	b.tail = append(b.tail[:0], seen[max(0, len(seen)-len(longest)+1):]...)
	return b.named
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
	if _, address, _, ok := source.SplitSSH(raw); ok {
		return address
	}
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
	var verify *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	var op *net.OpError
	var path *fs.PathError
	var link *os.LinkError
	var f *fault.Error
	switch {
	case errors.As(err, &timeout) && timeout.Timeout():
		f = fault.New(fault.Unreachable, "the Git server at %s did not answer in time", host)
	case errors.As(err, &dns):
		f = fault.New(fault.Unreachable, "the host %s cannot be found", dns.Name)
	case errors.As(err, &verify):
		f = fault.New(fault.Unreachable, "the certificate of the Git server at %s is not trusted", host).
			WithHint("if it is from a CA of your own, put that into the Secret as ca.crt")
	case errors.As(err, &record), errors.Is(err, http.ErrSchemeMismatch):
		f = fault.New(fault.Unreachable, "the Git server at %s does not speak TLS", host)
	case errors.As(err, &op):
		f = network(op, host)
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

func errClientCert() *fault.Error {
	return fault.New(fault.Unauthorized, "the Git server asks for another client certificate").
		WithHint("refer to a Secret with the keys tls.crt and tls.key")
}

// network judges by the operation that failed, as net/http and crypto/tls name it.
func network(op *net.OpError, host string) *fault.Error {
	switch {
	case op.Op == "remote error" && strings.Contains(op.Err.Error(), "certificate"):
		return errClientCert()
	case op.Op == "proxyconnect" || op.Op == "socks connect":
		return fault.New(fault.Unreachable, "the proxy does not connect to the Git server at %s: %v", host, op.Err)
	}
	return fault.New(fault.Unreachable, "the Git server at %s cannot be reached: %v", host, op.Err)
}
