package remote

import (
	"context"
	"encoding/json"
	"io"
	"io/fs"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	coreclient "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"

	"github.com/holdfastcd/holdfast/internal/audit"
	"github.com/holdfastcd/holdfast/internal/fault"
)

// Bounds of a client.
const (
	maxAnswer      = 32 << 20 // bytes of entries
	maxComplaint   = 4 << 10  // bytes of a message about a failure
	requestTimeout = time.Minute
	tokenSeconds   = 600 // the shortest life that the API server gives
	tokenSpare     = time.Minute
	tries          = 5 // of a request that the controller asks to wait with
)

var _ audit.Reader = (*Client)(nil)

// Token returns a token to show to the controller.
type Token func(ctx context.Context) (string, error)

// Client reads the log of a controller. It may be used by several goroutines.
type Client struct {
	http   *http.Client
	base   *url.URL
	token  Token
	teller string
}

// Direct returns a client of the controller at a URL, without the API server between.
// The token travels to that URL: it has to be https, or this machine. It fails with Invalid.
func Direct(base string, token Token) (*Client, error) {
	u, err := url.Parse(base)
	if err != nil || u.Host == "" || u.User != nil || u.Scheme != "https" && u.Scheme != "http" {
		return nil, fault.New(fault.Invalid, "the controller's address is no http or https URL").WithHint("write it like https://holdfast.example.org")
	}
	if u.Scheme == "http" && !loopback(u.Hostname()) {
		return nil, fault.New(fault.Invalid, "a token would travel to %s in the clear", u.Host).
			WithHint("use https, a port-forward to this machine, or the way through the API server")
	}
	return &Client{http: &http.Client{Timeout: requestTimeout, CheckRedirect: stay}, base: u, token: token, teller: "the controller at " + u.Host}, nil
}

// loopback reports whether a host is this machine: 127.0.0.1.example.org is not.
func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	address, err := netip.ParseAddr(host)
	return err == nil && address.IsLoopback()
}

// stay follows no redirect: the token is for nobody else.
func stay(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// Proxied returns a client of the controller behind a Service, by way of the API
// server, which a user needs `get` on services/proxy for. It fails with Invalid.
func Proxied(cfg *rest.Config, service types.NamespacedName, token Token) (*Client, error) {
	client, err := rest.HTTPClientFor(cfg)
	if err != nil {
		return nil, fault.New(fault.Invalid, "cannot use the configuration of the cluster: %s", err).Because(err)
	}
	base, _, err := rest.DefaultServerUrlFor(cfg)
	if err != nil {
		return nil, fault.New(fault.Invalid, "cannot use the configuration of the cluster: %s", err).Because(err)
	}
	client.Timeout = requestTimeout
	client.CheckRedirect = stay
	return &Client{
		http: client, token: token, teller: "the controller behind Service " + service.String(),
		base: base.JoinPath("api/v1/namespaces", service.Namespace, "services", service.Name+":http", "proxy"),
	}, nil
}

// TokenOf asks the API server for tokens of the first service account that it gives
// any of, and keeps each until it is about to end. Errors of the token are
// *fault.Error: Refused where no account's may be had.
func TokenOf(cfg *rest.Config, clock func() time.Time, accounts ...types.NamespacedName) Token {
	var mu sync.Mutex
	var token string
	var until time.Time
	return func(ctx context.Context) (string, error) {
		mu.Lock()
		defer mu.Unlock()
		if token != "" && clock().Before(until) {
			return token, nil
		}
		client, err := coreclient.NewForConfig(cfg)
		if err != nil {
			return "", fault.New(fault.Invalid, "cannot use the configuration of the cluster: %s", err).Because(err)
		}
		var answer *authenticationv1.TokenRequest
		for _, account := range accounts {
			if answer, err = request(ctx, client, account); err == nil {
				break
			}
			if !apierrors.IsForbidden(err) && !apierrors.IsNotFound(err) {
				return "", fault.New(fault.Unreachable, "cannot ask for a token: %s", err).Because(err)
			}
		}
		if answer == nil {
			return "", noToken(accounts)
		}
		token, until = answer.Status.Token, answer.Status.ExpirationTimestamp.Add(-tokenSpare)
		return token, nil
	}
}

// request asks for a token of one account.
func request(ctx context.Context, client coreclient.CoreV1Interface, account types.NamespacedName) (*authenticationv1.TokenRequest, error) {
	seconds := int64(tokenSeconds)
	answer, err := client.ServiceAccounts(account.Namespace).CreateToken(ctx, account.Name, &authenticationv1.TokenRequest{
		Spec: authenticationv1.TokenRequestSpec{Audiences: []string{Audience}, ExpirationSeconds: &seconds},
	}, metav1.CreateOptions{})
	if err != nil {
		return nil, err
	}
	return answer, nil
}

func noToken(accounts []types.NamespacedName) error {
	names := make([]string, 0, len(accounts))
	for _, a := range accounts {
		names = append(names, a.String())
	}
	return fault.New(fault.Refused, "no token of ServiceAccount %s can be had", strings.Join(names, ", nor of ")).
		WithHint("'holdfast install' makes it, and you need the verb create on its serviceaccounts/token; the files of a log are read with --dir")
}

// Fixed returns a token that is known.
func Fixed(token string) Token { return func(context.Context) (string, error) { return token, nil } }

// Teller says who tells the log.
func (c *Client) Teller() string { return c.teller }

// About returns the entries about an object ([audit.ObjectName]), newest first; of deliveries
// of one namespace alone, where it is not empty. Errors are those of [Client.Read].
func (c *Client) About(ctx context.Context, object, namespace string, limit int) ([]Found, error) {
	var found []Found
	err := c.ask(ctx, PathAbout, url.Values{
		"object": {object}, "namespace": {namespace}, "limit": {strconv.Itoa(limit)},
	}, &found)
	return found, err
}

// Entries returns the entries that q chooses. Errors are those of [Client.Read].
func (c *Client) Entries(ctx context.Context, q Query) (Page, error) {
	var p Page
	err := c.ask(ctx, PathEntries, q.values(), &p)
	return p, err
}

// Read implements [audit.Reader] for those who may read the whole log. Errors are
// *fault.Error: NotFound, Unauthorized, Refused, Rejected (the API server between),
// Unreachable, Waiting, Limit.
func (c *Client) Read(ctx context.Context, name string, limit int64) ([]byte, error) {
	return c.get(ctx, Root+name, nil, limit)
}

func (c *Client) ask(ctx context.Context, path string, query url.Values, into any) error {
	body, err := c.get(ctx, path, query, maxAnswer)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(body, into); err != nil {
		return fault.New(fault.Invalid, "%s sends what is no answer about the audit log", c.teller).Because(err)
	}
	return nil
}

// get sends one request, and again while the controller asks to wait.
func (c *Client) get(ctx context.Context, path string, query url.Values, limit int64) ([]byte, error) {
	for try := 1; ; try++ {
		body, wait, err := c.send(ctx, path, query, limit)
		if err == nil || wait == 0 || try == tries {
			return body, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(min(wait, time.Second) * time.Duration(try)):
		}
	}
}

// send sends one request. It returns how long to wait before another, where that helps.
func (c *Client) send(ctx context.Context, path string, query url.Values, limit int64) ([]byte, time.Duration, error) {
	token, err := c.token(ctx)
	if err != nil {
		return nil, 0, err
	}
	to := c.base.JoinPath(path)
	to.RawQuery = query.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, to.String(), http.NoBody)
	if err != nil {
		return nil, 0, fault.New(fault.Invalid, "the controller's address cannot be used").Because(err)
	}
	req.Header.Set(Header, token)
	res, err := c.http.Do(req)
	if err != nil {
		return nil, 0, fault.New(fault.Unreachable, "%s cannot be reached: %s", c.teller, err).Because(err)
	}
	defer func() { _ = res.Body.Close() }() // it was read, or is given up
	if res.StatusCode != http.StatusOK {
		err := c.refused(res)
		if fault.KindOf(err) == fault.Waiting {
			return nil, retryAfter(res), err
		}
		return nil, 0, err
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, limit+1))
	switch {
	case err != nil:
		return nil, 0, fault.New(fault.Unreachable, "the answer of %s broke off: %s", c.teller, err).Because(err)
	case int64(len(body)) > limit:
		return nil, 0, fault.New(fault.Limit, "%s sends more than %d bytes for %s", c.teller, limit, path)
	}
	return body, 0, nil
}

func retryAfter(res *http.Response) time.Duration {
	if s, err := strconv.Atoi(res.Header.Get("Retry-After")); err == nil && s > 0 && s < 60 {
		return time.Duration(s) * time.Second
	}
	return time.Second
}

// refused turns an answer that is none into a fault. The API server, where it stands
// between, answers in JSON; the controller in words.
func (c *Client) refused(res *http.Response) error {
	said, _ := io.ReadAll(io.LimitReader(res.Body, maxComplaint)) // what can be read of it
	message := strings.TrimSpace(string(said))
	var status metav1.Status
	between := strings.Contains(res.Header.Get("Content-Type"), "json") && json.Unmarshal(said, &status) == nil
	if between {
		message = status.Message
	}
	kinds := map[int]fault.Kind{
		http.StatusBadRequest: fault.Invalid, http.StatusUnauthorized: fault.Unauthorized, http.StatusForbidden: fault.Refused,
		http.StatusNotFound: fault.NotFound, http.StatusRequestEntityTooLarge: fault.Limit, http.StatusServiceUnavailable: fault.Waiting,
	}
	kind, known := kinds[res.StatusCode]
	switch {
	case !known:
		kind = fault.Unreachable
	case between && kind == fault.Refused:
		return fault.New(fault.Rejected, "%s cannot be reached through the API server: %s", c.teller, message).
			WithHint("you need the verb get on services/proxy there, or name the controller with --server URL")
	case between && kind == fault.Waiting:
		kind = fault.Unreachable // nobody is behind the Service
	case !between && kind == fault.NotFound:
		return fault.New(kind, "%s has no such file", c.teller).Because(fs.ErrNotExist)
	}
	return fault.New(kind, "%s answers: %s", c.teller, message)
}
