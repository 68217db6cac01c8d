package sops

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/reach"
	"github.com/holdfastcd/holdfast/internal/secret"
)

// Bounds of one request to a key service.
const (
	dialTimeout    = 5 * time.Second
	requestTimeout = 15 * time.Second
	maxAnswer      = 256 << 10
)

// client returns what key services are asked with: files name their addresses, so that
// it goes neither where machines keep what is for them alone, nor where it is sent on.
func (o Options) client() *http.Client {
	transport := o.Transport
	if transport == nil {
		dialer := &net.Dialer{Timeout: dialTimeout, KeepAlive: 30 * time.Second}
		dialer.Control = func(_, address string, _ syscall.RawConn) error { return o.checkAddress(address) }
		transport = &http.Transport{
			Proxy:                  o.Proxy,
			DialContext:            dialer.DialContext,
			TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: o.RootCAs},
			ForceAttemptHTTP2:      true,
			TLSHandshakeTimeout:    dialTimeout,
			ResponseHeaderTimeout:  requestTimeout,
			IdleConnTimeout:        30 * time.Second,
			MaxIdleConns:           8,
			MaxResponseHeaderBytes: 64 << 10,
		}
	}
	return &http.Client{
		Transport:     &answers{base: transport, clock: o.clock, paused: map[string]pause{}},
		Timeout:       requestTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// checkAddress refuses the addresses of this machine, and those at which machines keep
// what is for nobody but them (RFC 3927, RFC 4291, metadata services). Errors: Refused.
func (o Options) checkAddress(address string) error {
	if !o.AllowLinkLocal {
		if err := reach.Link("the key service", address); err != nil {
			return err
		}
	}
	if !o.AllowLoopback {
		return reach.Loopback("the key service", address)
	}
	return nil
}

// How long a key service that did not answer is left alone: who waits for it keeps
// others from their turn.
const (
	firstPause = 10 * time.Second
	lastPause  = 5 * time.Minute
)

// pause says until when a key service is not asked.
type pause struct {
	until time.Time
	wait  time.Duration
}

// answers bounds how much of an answer is read, and leaves those alone for a while who
// do not give any. What is remembered is of one Secret's keys: no tenant has another's
// key service be left alone.
type answers struct {
	base  http.RoundTripper
	clock func() time.Time

	mu     sync.Mutex
	paused map[string]pause // by host
}

// leave notes whether a host answered.
func (a *answers) leave(host string, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, ours := errors.AsType[*fault.Error](err); err == nil || ours || errors.Is(err, context.Canceled) {
		delete(a.paused, host)
		return
	}
	wait := min(max(firstPause, 2*a.paused[host].wait), lastPause)
	if _, known := a.paused[host]; known || len(a.paused) < maxPaused {
		a.paused[host] = pause{a.clock().Add(wait), wait}
	}
}

// maxPaused bounds the hosts that are remembered: files name them.
const maxPaused = 64

// RoundTrip implements http.RoundTripper.
func (a *answers) RoundTrip(r *http.Request) (*http.Response, error) {
	a.mu.Lock()
	left := a.paused[r.URL.Host].until.Sub(a.clock())
	a.mu.Unlock()
	if left > 0 {
		return nil, fault.New(fault.Unreachable, "%s did not answer, and is asked again in %s", shown(r.URL.Host), left.Round(time.Second)).
			WithHint("is it up, and reachable from here?")
	}
	resp, err := a.base.RoundTrip(r)
	a.leave(r.URL.Host, err)
	if err == nil {
		resp.Body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(resp.Body, maxAnswer), resp.Body}
	}
	return resp, err
}

// hosts has only some hosts be asked, whatever a library finds in the environment.
type hosts struct {
	client *http.Client
	only   []string
}

// Do implements the transport of Azure's libraries. Errors: Refused.
func (h hosts) Do(r *http.Request) (*http.Response, error) {
	for _, host := range h.only {
		if strings.EqualFold(r.URL.Host, host) && r.URL.Scheme == "https" {
			return h.client.Do(r) //nolint:gosec // the host is one of those that may be asked
		}
	}
	return nil, fault.New(fault.Refused, "a key service would be asked at %s, which neither file nor key Secret names", shown(r.URL.Host))
}

// post sends a question as JSON and reads the answer into out. name is the service in
// messages; the answer's text, which may quote what was asked, is not in them. Errors:
// those of [unanswered] and [status].
func post(ctx context.Context, client *http.Client, name, url string, header http.Header, question, out any) error {
	body, err := json.Marshal(question)
	if err != nil {
		return fault.New(fault.Internal, "a question to %s cannot be written", name)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return fault.New(fault.Invalid, "the address of %s cannot be read", name)
	}
	if header != nil {
		r.Header = header
	}
	r.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(r)
	if err != nil {
		return unanswered(name, err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return status(name, resp.StatusCode)
	}
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		return fault.New(fault.Unreachable, "%s gave an answer that cannot be read", name)
	}
	return nil
}

// unanswered is the error where no answer came: Refused for an address that is not to
// be asked, Unauthorized where a token was refused, Unreachable for the rest.
func unanswered(name string, err error) *fault.Error {
	if f, ok := errors.AsType[*fault.Error](err); ok {
		return f
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return fault.New(fault.Unreachable, "%s did not answer in time", name).Because(err)
	}
	return fault.New(fault.Unreachable, "%s does not answer", name).Because(err).WithHint("is it up, and reachable from here?")
}

// status is the error for an answer that is none; its cause is [secret.ErrService].
func status(name string, code int) *fault.Error {
	return refusal(name, code).Because(secret.ErrService)
}

func refusal(name string, code int) *fault.Error {
	switch {
	case code == http.StatusUnauthorized || code == http.StatusForbidden:
		return fault.New(fault.Unauthorized, "%s does not let these credentials open the file (status %d)", name, code).
			WithHint("check the credentials in the key Secret, and what the service lets them do with the key")
	case code == http.StatusNotFound:
		return fault.New(fault.NotFound, "%s does not know the key (status %d)", name, code)
	case code == http.StatusBadRequest:
		return fault.New(fault.Refused, "%s does not take the data key of the file for one that it sealed (status %d)", name, code).
			WithHint("restore the file as it was sealed, or seal it anew with `sops updatekeys`")
	case code >= 300 && code < 400:
		return fault.New(fault.Refused, "%s sends elsewhere (status %d), and credentials are not sent on", name, code).
			WithHint("seal the file for the address where the service is")
	}
	return fault.New(fault.Unreachable, "%s failed (status %d)", name, code)
}

// first tries credentials one after the other, and returns the first success or else
// the first error.
func first[C any](credentials []C, try func(C) ([]byte, error)) ([]byte, error) {
	failed := errOther
	for i, c := range credentials {
		out, err := try(c)
		if err == nil {
			return out, nil
		}
		if i == 0 || errors.Is(failed, errOther) {
			failed = err
		}
	}
	return nil, failed
}
