// Package kube is a client for a Kubernetes API server with just what starting a cluster takes: requests, and waiting for an
// object by watching it. It uses the standard library only, so that the devcluster command compiles in a second.
package kube

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/holdfastcd/holdfast/devcluster/internal/pki"
)

// retryDelay is the pause between two tries of something that gives no event: a server that does not listen yet.
const retryDelay = 20 * time.Millisecond

// StatusError is an answer other than success.
type StatusError struct {
	Code    int
	Message string
}

func (e *StatusError) Error() string {
	return fmt.Sprintf("the API server answered %d: %s", e.Code, e.Message)
}

// Client talks to one API server as one user.
type Client struct {
	server    string
	userAgent string
	http      *http.Client
}

// New returns a client that trusts authority (PEM), shows identity, and names itself userAgent.
func New(server, userAgent string, authority []byte, identity pki.Pair) (*Client, error) {
	certificate, err := tls.X509KeyPair(identity.Certificate, identity.Key)
	if err != nil {
		return nil, fmt.Errorf("read the client certificate: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(authority) {
		return nil, errors.New("read the authority's certificate: no PEM certificate in it")
	}
	transport := &http.Transport{
		TLSClientConfig: &tls.Config{
			MinVersion:   tls.VersionTLS12,
			RootCAs:      roots,
			Certificates: []tls.Certificate{certificate},
		},
		ForceAttemptHTTP2: true,
	}
	return &Client{server: server, userAgent: userAgent, http: &http.Client{Transport: transport}}, nil
}

// Do sends a request with body, if not nil, as JSON, and decodes the answer into result, if not nil. An answer that is not
// success is a *StatusError.
func (c *Client) Do(ctx context.Context, method, path string, body, result any) error {
	response, err := c.send(ctx, method, path, body)
	if err != nil {
		return err
	}
	defer discard(response.Body)
	if result == nil {
		_, err = io.Copy(io.Discard, response.Body)
		return err
	}
	if err := json.NewDecoder(response.Body).Decode(result); err != nil {
		return fmt.Errorf("decode the answer to %s %s: %w", method, path, err)
	}
	return nil
}

// Ready waits until the API server says at /readyz that it is.
func (c *Client) Ready(ctx context.Context) error {
	for {
		err := c.Do(ctx, http.MethodGet, "/readyz", nil, nil)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w; its last answer: %w", ctx.Err(), err)
		case <-time.After(retryDelay):
		}
	}
}

// Await watches the objects at path, a list with an optional query, until done says true of one of them.
func (c *Client) Await(ctx context.Context, path string, done func(object json.RawMessage) bool) error {
	separator := "?"
	if strings.Contains(path, "?") {
		separator = "&"
	}
	for {
		found, err := c.watch(ctx, path+separator+"watch=1", done)
		if found || err != nil {
			return err
		}
	}
}

// watch follows one watch to its end, and says whether done was satisfied. The server ends watches now and then.
func (c *Client) watch(ctx context.Context, path string, done func(json.RawMessage) bool) (bool, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	response, err := c.send(ctx, http.MethodGet, path, nil)
	if err != nil {
		return false, err
	}
	defer discard(response.Body)
	for decoder := json.NewDecoder(response.Body); ; {
		var event struct {
			Type   string          `json:"type"`
			Object json.RawMessage `json:"object"`
		}
		if err := decoder.Decode(&event); err != nil {
			return false, ctx.Err()
		}
		switch event.Type {
		case "ERROR":
			return false, fmt.Errorf("watch %s: %s", path, event.Object)
		case "DELETED", "BOOKMARK":
		default:
			if done(event.Object) {
				return true, nil
			}
		}
	}
}

// discard closes a body that was read as far as it is wanted.
func discard(body io.Closer) { _ = body.Close() }

// send sends a request and returns the answer if it is success.
func (c *Client) send(ctx context.Context, method, path string, body any) (*http.Response, error) {
	var content io.Reader
	if body != nil {
		encoded, err := json.Marshal(body)
		if err != nil {
			return nil, fmt.Errorf("encode the body of %s %s: %w", method, path, err)
		}
		content = bytes.NewReader(encoded)
	}
	request, err := http.NewRequestWithContext(ctx, method, c.server+path, content)
	if err != nil {
		return nil, err
	}
	request.Header.Set("User-Agent", c.userAgent)
	request.Header.Set("Content-Type", "application/json")
	response, err := c.http.Do(request)
	if err != nil {
		return nil, err
	}
	if response.StatusCode < 300 {
		return response, nil
	}
	defer discard(response.Body)
	message, _ := io.ReadAll(io.LimitReader(response.Body, 4<<10)) // what could be read is the best there is to say
	return nil, &StatusError{Code: response.StatusCode, Message: strings.TrimSpace(string(message))}
}
