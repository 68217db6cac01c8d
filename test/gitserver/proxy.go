package gitserver

import (
	"bufio"
	"context"
	"encoding/base64"
	"io"
	"maps"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
)

// ProxyOptions configure a proxy. The zero value serves everybody.
type ProxyOptions struct {
	// Username and Password, if either is set, are asked of every client.
	Username, Password string
	// Resolve says where to connect for a host:port; others are taken as they are.
	// It lets a test use names that only the proxy knows.
	Resolve map[string]string
}

// Proxy is an HTTP proxy on a loopback port: CONNECT for TLS and SSH, and plain
// requests with a whole URL.
type Proxy struct {
	opts     ProxyOptions
	listener net.Listener
	server   *http.Server
	client   *http.Transport
	running  sync.WaitGroup
	open     context.Context //nolint:containedctx // ends what was connected when the test ends

	requests, refused atomic.Int64
}

// NewProxy starts a proxy that ends with the test.
func NewProxy(t T, opts ProxyOptions) *Proxy {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	open, end := context.WithCancel(context.Background())
	p := &Proxy{opts: opts, listener: listener, open: open}
	p.client = &http.Transport{DialContext: p.dial}
	p.server = &http.Server{Handler: p}
	p.running.Go(func() { _ = p.server.Serve(listener) })
	t.Cleanup(func() {
		end()
		_ = p.server.Close()
		p.client.CloseIdleConnections()
		p.running.Wait()
	})
	return p
}

// URL returns the proxy's address.
func (p *Proxy) URL() string { return "http://" + p.listener.Addr().String() }

// Requests returns how many requests were let through.
func (p *Proxy) Requests() int { return int(p.requests.Load()) }

// Refused returns how many requests lacked the right credentials.
func (p *Proxy) Refused() int { return int(p.refused.Load()) }

func (p *Proxy) dial(ctx context.Context, network, address string) (net.Conn, error) {
	if to, ok := p.opts.Resolve[address]; ok {
		address = to
	}
	return (&net.Dialer{}).DialContext(ctx, network, address)
}

// ServeHTTP implements http.Handler.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	want := "Basic " + base64.StdEncoding.EncodeToString([]byte(p.opts.Username+":"+p.opts.Password))
	if p.opts.Username+p.opts.Password != "" && r.Header.Get("Proxy-Authorization") != want {
		p.refused.Add(1)
		w.Header().Set("Proxy-Authenticate", `Basic realm="proxy"`)
		http.Error(w, "the proxy wants credentials", http.StatusProxyAuthRequired)
		return
	}
	p.requests.Add(1)
	if r.Method == http.MethodConnect {
		p.connect(w, r)
		return
	}
	p.forward(w, r)
}

func (p *Proxy) forward(w http.ResponseWriter, r *http.Request) {
	out := r.Clone(r.Context())
	out.RequestURI = ""
	for name := range out.Header {
		if strings.HasPrefix(name, "Proxy-") {
			out.Header.Del(name)
		}
	}
	res, err := p.client.RoundTrip(out)
	if err != nil {
		http.Error(w, "the proxy cannot connect", http.StatusBadGateway)
		return
	}
	defer res.Body.Close()
	maps.Copy(w.Header(), res.Header)
	w.WriteHeader(res.StatusCode)
	_, _ = io.Copy(w, res.Body) // the client notices
}

func (p *Proxy) connect(w http.ResponseWriter, r *http.Request) {
	there, err := p.dial(r.Context(), "tcp", r.Host)
	if err != nil {
		http.Error(w, "the proxy cannot connect", http.StatusBadGateway)
		return
	}
	here, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		_ = there.Close()
		return
	}
	context.AfterFunc(p.open, func() {
		_ = there.Close()
		_ = here.Close()
	})
	_, _ = io.WriteString(here, "HTTP/1.1 200 Connection established\r\n\r\n")
	p.running.Go(func() { pipe(there, buffered.Reader, here) })
	p.running.Go(func() { pipe(here, bufio.NewReader(there), there) })
}

// pipe copies until one side ends, and then ends the other.
func pipe(to net.Conn, from *bufio.Reader, source net.Conn) {
	_, _ = io.Copy(to, from)
	_ = to.Close()
	_ = source.Close()
}
