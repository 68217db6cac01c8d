package reach

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/holdfastcd/holdfast/internal/fault"
)

// Way is how a server is reached whose name is another's text.
type Way struct {
	What           string // who is reached, for messages: "the registry"
	CA             []byte // PEM, trusted instead of the system's
	AllowLinkLocal bool   // also at addresses that [Link] refuses
}

// Transport returns a transport that goes this way: over TLS 1.2 at least where it goes over
// TLS, and by the process's proxy. Errors: Invalid, if CA holds no certificate.
func (w Way) Transport() (*http.Transport, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if len(w.CA) > 0 {
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(w.CA) {
			return nil, fault.New(fault.Invalid, "the certificate authority that is named for %s holds no PEM certificate", w.What)
		}
	}
	dialer := &net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}
	if !w.AllowLinkLocal {
		dialer.Control = func(_, address string, _ syscall.RawConn) error { return Link(w.What, address) }
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

// Bounded is a transport for one piece of work: it sends no more than that may need, and
// nothing in the clear that was not asked for in the clear. It is safe for concurrent use.
type Bounded struct {
	Base  http.RoundTripper
	Work  string // for messages: "one image"
	Clear string // host, with its port, that is spoken to by HTTP; this machine is so by itself
	Hint  string // what to do about another

	MaxRequests int64 // redirects and tries again included
	MaxTotal    int64 // bytes of all answers
	MaxAnswer   func(*http.Request) int64

	requests, bytes atomic.Int64
}

// RoundTrip implements http.RoundTripper. Errors: Limit, Refused, and those of Base.
func (b *Bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	if b.requests.Add(1) > b.MaxRequests {
		return nil, fault.New(fault.Limit, "%s takes more than %d requests", b.Work, b.MaxRequests)
	}
	if r.URL.Scheme != "https" && r.URL.Host != b.Clear && !local(r.URL.Hostname()) {
		return nil, fault.New(fault.Refused, "%s is asked by %s, not by https", r.URL.Host, r.URL.Scheme).WithHint("%s", b.Hint)
	}
	resp, err := b.Base.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	limit := b.MaxAnswer(r)
	if resp.ContentLength > limit && r.Method != http.MethodHead {
		_ = resp.Body.Close()
		return nil, fault.New(fault.Limit, "%s answers with %d bytes, more than %d", r.URL.Host, resp.ContentLength, limit)
	}
	resp.Body = &body{ReadCloser: resp.Body, of: b, limit: limit, left: limit}
	return resp, nil
}

// body is that of an answer, and ends in an error where it is too long.
type body struct {
	io.ReadCloser

	of          *Bounded
	limit, left int64
}

// Read implements io.Reader. Errors: those of the body, and Limit.
func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.left -= int64(n)
	if b.left < 0 || b.of.bytes.Add(int64(n)) > b.of.MaxTotal {
		return n, fault.New(fault.Limit, "an answer to %s is larger than %d bytes, or all are than %d", b.of.Work, b.limit, b.of.MaxTotal)
	}
	return n, err
}

// Cause says, without an address, why a request to a server failed: what is left of a
// sentence that begins with the server.
func Cause(err error) string {
	if unknown, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return "has a certificate that is not trusted: " + unknown.Err.Error()
	}
	if op, ok := errors.AsType[*net.OpError](err); ok {
		return "cannot be reached: " + op.Err.Error()
	}
	if dns, ok := errors.AsType[*net.DNSError](err); ok {
		return "has no address: " + dns.Err
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return "does not answer in time"
	}
	if _, ok := errors.AsType[*url.Error](err); ok || errors.Is(err, io.ErrUnexpectedEOF) {
		return "does not answer, or not to the end"
	}
	return "answers with something else than what was asked for"
}

// local reports whether a host is this machine by its name or address.
func local(host string) bool {
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}
