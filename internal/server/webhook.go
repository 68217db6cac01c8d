package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/source"
)

// Refresher is told that a branch of a repository has moved, or, where branch is
// empty, a tag. The URL is as the provider writes it. Refresh must not block: it marks what to fetch again.
type Refresher interface {
	Refresh(url, branch string)
}

const (
	// maxWebhook is the largest body that is read. Pushes of thousands of
	// commits stay below it.
	maxWebhook = 10 << 20
	// webhooksAtOnce bounds the bodies in memory, which are there before anybody
	// knows who sent them.
	webhooksAtOnce = 4
	// secretAge is how long a secret is used without asking for it again.
	secretAge = 10 * time.Second
)

// webhook serves the webhooks of GitHub, GitLab, Gitea and Gogs. All it can cause
// is that sources look again.
type webhook struct {
	slots  chan struct{}
	secret *secret
	pushes *pushes
}

func newWebhook(o Options) webhook {
	return webhook{
		slots:  make(chan struct{}, webhooksAtOnce),
		secret: &secret{ask: o.Secrets, now: o.Clock},
		pushes: newPushes(o.Refreshers, o.Clock),
	}
}

// serve checks a webhook from the outside in: who sends it, how large it is, who
// signed it, and only then what it says.
func (h webhook) serve(w http.ResponseWriter, r *http.Request) error {
	from, err := sender(r.Header)
	if err != nil {
		return err
	}
	select {
	case h.slots <- struct{}{}:
		defer func() { <-h.slots }()
	default:
		return fault.New(fault.Waiting, "too many webhooks at once").WithHint("send it again")
	}
	body, err := read(w, r)
	if err != nil {
		return err
	}
	if err := h.verify(r.Context(), from, r.Header, body); err != nil {
		return err
	}
	event := r.Header.Get(from.event)
	if !slices.Contains(from.pushes, event) {
		return text(w, "nothing to do for this event")
	}
	p, err := parsePush(r.Header.Get("Content-Type"), body)
	if err != nil {
		return err
	}
	if !p.moved {
		return text(w, "nothing to do: nothing to deliver has moved")
	}
	if !h.pushes.tell(p) {
		return fault.New(fault.Waiting, "too many different pushes at once").WithHint("send it again")
	}
	return text(w, "refreshing")
}

func read(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	tooLarge := fault.New(fault.Limit, "the body is larger than %d bytes", maxWebhook)
	if r.ContentLength > maxWebhook {
		return nil, tooLarge
	}
	// A buffer of the right size: one that grows takes several times as much.
	body := bytes.NewBuffer(make([]byte, 0, max(r.ContentLength, 0)+bytes.MinRead))
	_, err := body.ReadFrom(http.MaxBytesReader(w, r.Body, maxWebhook))
	var limit *http.MaxBytesError
	switch {
	case errors.As(err, &limit):
		return nil, tooLarge
	case err != nil:
		return nil, fault.New(fault.Invalid, "the body could not be read")
	}
	return body.Bytes(), nil
}

// verify checks that the provider's secret was used, where one is configured.
// Without any secret anybody may cause a refresh, which is bounded (see pushes)
// and changes nothing that the next poll would not. Where one provider has a
// secret, the others need one too: otherwise whoever cannot sign as the one would
// say to be the other.
func (h webhook) verify(ctx context.Context, from provider, header http.Header, body []byte) error {
	secrets, err := h.secret.get(ctx)
	if err != nil {
		return fault.New(fault.Unreachable, "the webhook's secret cannot be read").Because(err)
	}
	if secrets == (Secrets{}) {
		return nil
	}
	key := from.secret(secrets)
	if key == "" {
		return fault.New(fault.Unauthorized, "webhooks of %s are not taken without a secret, because those of another provider have one", from.name).
			WithHint("set %s in argocd-secret, and the same in the webhook's settings", from.key)
	}
	signed, right := from.check([]byte(key), header, body)
	switch {
	case !signed:
		return fault.New(fault.Unauthorized, "the webhook is not signed").
			WithHint("enter the secret of argocd-secret, key %s, in the webhook's settings", from.key)
	case !right:
		return fault.New(fault.Unauthorized, "the webhook's signature is wrong").
			WithHint("the secrets of the webhook and of argocd-secret, key %s, differ", from.key)
	}
	return nil
}

// push is what a push event says: a branch, and the addresses of its repository.
type push struct {
	moved  bool   // false if there is nothing to fetch: the ref was deleted, or is of no interest
	branch string // empty: a tag, which any range of versions may be about
	urls   []string
}

// gone is what a push event names as the new commit of a ref that was deleted.
const gone = "0000000000"

// parsePush reads a push event, as JSON or as the form that GitHub also sends.
// It fails with Invalid. The providers name the addresses of a repository, of
// which at least one must be there, each in its own way.
func parsePush(contentType string, body []byte) (push, error) {
	if media, _, _ := mime.ParseMediaType(contentType); media == "application/x-www-form-urlencoded" {
		form, err := url.ParseQuery(string(body))
		if err != nil {
			return push{}, fault.New(fault.Invalid, "the body is no form")
		}
		body = []byte(form.Get("payload"))
	}
	var event struct {
		Ref        string `json:"ref"`
		After      string `json:"after"`
		Deleted    bool   `json:"deleted"`
		Repository struct {
			CloneURL string `json:"clone_url"`
			HTMLURL  string `json:"html_url"`
			SSHURL   string `json:"ssh_url"`
		} `json:"repository"`
		Project struct { // GitLab's
			HTTPURL string `json:"git_http_url"`
			SSHURL  string `json:"git_ssh_url"`
			WebURL  string `json:"web_url"`
		} `json:"project"`
	}
	if err := json.Unmarshal(body, &event); err != nil {
		return push{}, fault.New(fault.Invalid, "the body is no push event in JSON")
	}
	r, g := event.Repository, event.Project
	p := push{urls: addresses(r.CloneURL, r.HTMLURL, r.SSHURL, g.HTTPURL, g.WebURL, g.SSHURL)}
	if len(p.urls) == 0 || event.Ref == "" {
		return push{}, fault.New(fault.Invalid, "the push event names no ref or no repository")
	}
	branch, isBranch := strings.CutPrefix(event.Ref, "refs/heads/")
	if isBranch {
		p.branch = branch
	}
	p.moved = (isBranch || strings.HasPrefix(event.Ref, "refs/tags/")) && !event.Deleted && !strings.HasPrefix(event.After, gone)
	return p, nil
}

// addresses drops empty addresses and those that mean the same as an earlier one.
func addresses(all ...string) []string {
	var distinct []string
	seen := map[string]bool{"": true}
	for _, a := range all {
		if a == "" || len(a) > 2048 {
			continue
		}
		if n := source.NormalizeURL(a); !seen[n] {
			seen[n] = true
			distinct = append(distinct, a)
		}
	}
	return distinct
}

// secret remembers the configured secrets for a moment, so that strangers cannot
// make the API server work.
type secret struct {
	ask func(context.Context) (Secrets, error)
	now func() time.Time

	mu    sync.Mutex
	value Secrets
	err   error
	asked time.Time
}

func (s *secret) get(ctx context.Context) (Secrets, error) {
	if s.ask == nil {
		return Secrets{}, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := s.now(); s.asked.IsZero() || now.Sub(s.asked) > secretAge {
		// A sender that hangs up must not leave its error to the next.
		s.value, s.err = s.ask(context.WithoutCancel(ctx))
		s.asked = now
	}
	return s.value, s.err
}
