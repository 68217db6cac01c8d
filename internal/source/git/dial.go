package git

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"net"
	"net/http"
	"net/url"

	"golang.org/x/net/proxy"

	"github.com/holdfastcd/holdfast/internal/fault"
)

// dial connects to host:port for a protocol that is not HTTP, directly or through
// the credential's proxy. The process's own proxy is for HTTP, as everywhere.
func (r *route) dial(ctx context.Context, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	if r.proxy == nil {
		return r.plain.DialContext(ctx, "tcp", address)
	}
	// The lists of exceptions know the schemes of HTTP only.
	way, err := r.proxy(&url.URL{Scheme: "https", Host: address})
	if err != nil {
		return nil, err
	}
	if way == nil {
		return r.plain.DialContext(ctx, "tcp", address)
	}
	if way.Scheme == "socks5" {
		return r.dialSocks(ctx, way, address)
	}
	return r.dialConnect(ctx, way, address)
}

func (r *route) dialSocks(ctx context.Context, way *url.URL, address string) (net.Conn, error) {
	d, err := proxy.FromURL(withPort(way, "1080"), r.plain)
	if err != nil {
		return nil, err
	}
	if d, ok := d.(proxy.ContextDialer); ok {
		return d.DialContext(ctx, "tcp", address)
	}
	return nil, fault.New(fault.Internal, "the proxy cannot be dialled")
}

// dialConnect asks an HTTP proxy for a connection (RFC 9110, section 9.3.6).
func (r *route) dialConnect(ctx context.Context, way *url.URL, address string) (net.Conn, error) {
	port := map[string]string{"http": "80", "https": "443"}[way.Scheme]
	conn, err := r.plain.DialContext(ctx, "tcp", withPort(way, port).Host)
	if err != nil {
		return nil, &net.OpError{Op: "proxyconnect", Net: "tcp", Err: err}
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	if way.Scheme == "https" {
		conn = tls.Client(conn, &tls.Config{MinVersion: tls.VersionTLS12, ServerName: way.Hostname()})
	}
	conn, err = requestConnect(conn, way.User, address)
	if !stop() && err != nil {
		return nil, ctx.Err() // it was closed, and that is why
	}
	return conn, err
}

func requestConnect(conn net.Conn, user *url.Userinfo, address string) (net.Conn, error) {
	req := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: address}, Host: address, Header: http.Header{}}
	if user != nil {
		password, _ := user.Password()
		req.Header.Set("Proxy-Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(user.Username()+":"+password)))
	}
	in := bufio.NewReaderSize(conn, 64<<10)
	err := req.Write(conn)
	if err == nil {
		var res *http.Response
		if res, err = http.ReadResponse(in, req); err == nil { //nolint:bodyclose // what follows is not a body
			err = proxyStatus(res.StatusCode)
		}
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return buffered{conn, in}, nil
}

// buffered is a connection of which some bytes were read already.
type buffered struct {
	net.Conn

	in *bufio.Reader
}

func (b buffered) Read(p []byte) (int, error) { return b.in.Read(p) }

func withPort(u *url.URL, port string) *url.URL {
	if u.Port() != "" {
		return u
	}
	c := *u
	c.Host = net.JoinHostPort(u.Hostname(), port)
	return &c
}
