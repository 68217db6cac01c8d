package git

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-git/go-git/v5/plumbing/transport"
	githttp "github.com/go-git/go-git/v5/plumbing/transport/http"
	"golang.org/x/net/http/httpproxy"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/source"
)

const (
	dialTimeout = 15 * time.Second
	// maxRoutes bounds the credentials whose connections are kept open.
	maxRoutes = 128
	// maxPEM is larger than any bundle of certificates or known hosts in use.
	maxPEM = 1 << 20
)

// route is the way of one credential to servers: what it trusts, what it shows,
// and the proxy it takes. Its connections are used for that credential only.
type route struct {
	http  *http.Transport
	git   transport.Transport
	proxy func(*url.URL) (*url.URL, error) // nil: none of the credential's own
	plain *net.Dialer                      // for what is not HTTP
}

// newRoute reads what a credential says of the way. Errors: Invalid.
func newRoute(opts Options, secret source.Secret) (*route, error) {
	asked := new(atomic.Bool)
	trust, certified, err := tlsConfig(secret, asked)
	if err != nil {
		return nil, err
	}
	proxy, err := proxyOf(secret.Proxy)
	if err != nil {
		return nil, err
	}
	base := &http.Transport{
		Proxy:                  opts.Proxy,
		OnProxyConnectResponse: checkConnect,
		DialContext:            opts.dialer().DialContext,
		TLSHandshakeTimeout:    15 * time.Second,
		TLSClientConfig:        trust,
		ResponseHeaderTimeout:  time.Minute,
		MaxResponseHeaderBytes: 64 << 10,
		MaxIdleConnsPerHost:    4,
		IdleConnTimeout:        90 * time.Second,
		ForceAttemptHTTP2:      true,
	}
	if proxy != nil {
		base.Proxy = func(req *http.Request) (*url.URL, error) { return proxy(req.URL) }
	}
	// go-git's transport drops credentials when a redirect leaves the host,
	// and follows redirects of the first question only. It does not know of
	// certificates, so that the guard looks after those.
	client := &http.Client{Transport: guard{base, opts, certified, asked}}
	return &route{http: base, git: githttp.NewClient(client), proxy: proxy, plain: opts.dialer()}, nil
}

func (r *route) close() { r.http.CloseIdleConnections() }

// tlsConfig is whom to trust, and what to show to who asks for a certificate,
// which is noted in asked.
func tlsConfig(secret source.Secret, asked *atomic.Bool) (config *tls.Config, certified bool, err error) {
	config = &tls.Config{MinVersion: tls.VersionTLS12}
	if len(secret.CA) > 0 {
		config.RootCAs = x509.NewCertPool()
		if len(secret.CA) > maxPEM || !config.RootCAs.AppendCertsFromPEM(secret.CA) {
			return nil, false, fault.New(fault.Invalid, "the CA in the Secret is no certificate in PEM")
		}
	}
	pair := &tls.Certificate{} // shows nothing
	if certified = len(secret.ClientCert)+len(secret.ClientKey) > 0; certified {
		if pair, err = clientPair(secret); err != nil {
			return nil, false, err
		}
	}
	config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		asked.Store(true)
		return pair, nil
	}
	return config, certified, nil
}

func clientPair(secret source.Secret) (*tls.Certificate, error) {
	if len(secret.ClientCert) > maxPEM || len(secret.ClientKey) > maxKey {
		return nil, fault.New(fault.Invalid, "the client certificate in the Secret is too large")
	}
	pair, err := tls.X509KeyPair(secret.ClientCert, secret.ClientKey)
	if err != nil { // whose text may repeat parts of it
		return nil, fault.New(fault.Invalid, "the client certificate in the Secret is not a pair of certificate and key in PEM")
	}
	return &pair, nil
}

// proxyOf returns what chooses the proxy for a URL, nil if there is none. As
// usual, an exception list always holds the machine's own addresses, too.
func proxyOf(p *source.Proxy) (func(*url.URL) (*url.URL, error), error) {
	if p == nil {
		return nil, nil //nolint:nilnil // no proxy is a valid answer
	}
	u, err := url.Parse(p.URL)
	if err != nil || u.Host == "" {
		return nil, fault.New(fault.Invalid, "the address of the proxy cannot be parsed").WithHint("write http://host:port")
	}
	switch u.Scheme {
	case "http", "https", "socks5":
	default:
		return nil, fault.New(fault.Invalid, "proxies of scheme %q are not supported", u.Scheme).WithHint("use http, https or socks5")
	}
	if u.User != nil {
		return nil, fault.New(fault.Refused, "the address of the proxy holds credentials").WithHint("give them as username and password")
	}
	if p.Username != "" || p.Password != "" {
		u.User = url.UserPassword(p.Username, p.Password)
	}
	if strings.TrimSpace(p.NoProxy) == "" {
		return func(*url.URL) (*url.URL, error) { return u, nil }, nil
	}
	config := httpproxy.Config{HTTPProxy: u.String(), HTTPSProxy: u.String(), NoProxy: p.NoProxy}
	return config.ProxyFunc(), nil
}

// checkConnect turns a proxy's refusal into an error of ours.
func checkConnect(_ context.Context, _ *url.URL, _ *http.Request, res *http.Response) error {
	return proxyStatus(res.StatusCode)
}

func proxyStatus(code int) error {
	switch {
	case code == http.StatusProxyAuthRequired:
		return fault.New(fault.Unauthorized, "the proxy asks for other credentials").
			WithHint("check username and password of the proxy")
	case code >= 300:
		return fault.New(fault.Unreachable, "the proxy does not connect to the Git server: it answers with status %d", code)
	}
	return nil
}
