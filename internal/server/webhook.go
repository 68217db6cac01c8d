package server

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/source"
)

// Refresher is told that a branch of a repository has moved. The URL is as the
// provider writes it. Refresh must not block: it marks what to fetch again.
type Refresher interface {
	Refresh(url, branch string)
}

const (
	// maxWebhook is the largest body that is read. Pushes of thousands of
	// commits stay below it.
	maxWebhook = 10 << 20
	// webhooksAtOnce bounds the bodies in memory.
	webhooksAtOnce = 16
	// secretAge is how long a secret is used without asking for it again.
	secretAge = 10 * time.Second
)

// providers are the headers by which other providers' webhooks are known.
var providers = []struct{ header, name string }{
	{"X-Gitlab-Event", "GitLab"},
	{"X-Hook-UUID", "Bitbucket Cloud"},
	{"X-Event-Key", "Bitbucket Server"},
	{"X-Gogs-Event", "Gogs or Gitea"},
	{"X-Vss-Activityid", "Azure DevOps"},
}

// webhook serves GitHub's webhooks. All it can cause is that sources look again.
type webhook struct {
	slots  chan struct{}
	secret *secret
	pushes *pushes
}

func newWebhook(o Options) webhook {
	return webhook{
		slots:  make(chan struct{}, webhooksAtOnce),
		secret: &secret{ask: o.Secret, now: o.Clock},
		pushes: newPushes(o.Refreshers, o.Clock),
	}
}

// serve checks a webhook from the outside in: who sends it, how large it is, who
// signed it, and only then what it says.
func (h webhook) serve(w http.ResponseWriter, r *http.Request) error {
	event, err := githubEvent(r.Header)
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
	if err := h.verify(r.Context(), r.Header, body); err != nil {
		return err
	}
	if event != "push" {
		return text(w, "nothing to do for "+event)
	}
	p, err := parsePush(r.Header.Get("Content-Type"), body)
	if err != nil {
		return err
	}
	if p.branch == "" {
		return text(w, "nothing to do: no branch has moved")
	}
	if !h.pushes.tell(p) {
		return fault.New(fault.Waiting, "too many different pushes at once").WithHint("send it again")
	}
	return text(w, "refreshing")
}

func githubEvent(header http.Header) (string, error) {
	for _, p := range providers {
		if header.Get(p.header) != "" {
			return "", fault.New(fault.Unsupported, "webhooks of %s come in a later version", p.name).
				WithHint("send GitHub's push event, or use a Receiver of type generic-hmac")
		}
	}
	switch event := header.Get("X-Github-Event"); event {
	case "push", "ping":
		return event, nil
	case "":
		return "", fault.New(fault.Invalid, "this is no webhook of GitHub: the header X-GitHub-Event is missing")
	default:
		return "", fault.New(fault.Unsupported, "only the events push and ping are taken").
			WithHint("choose \"just the push event\" in the webhook's settings")
	}
}

func read(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	tooLarge := fault.New(fault.Limit, "the body is larger than %d bytes", maxWebhook)
	if r.ContentLength > maxWebhook {
		return nil, tooLarge
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxWebhook))
	var limit *http.MaxBytesError
	switch {
	case errors.As(err, &limit):
		return nil, tooLarge
	case err != nil:
		return nil, fault.New(fault.Invalid, "the body could not be read")
	}
	return body, nil
}

// verify checks the signature where a secret is configured. Without one anybody
// may cause a refresh, which is bounded (see pushes) and changes nothing that
// the next poll would not.
func (h webhook) verify(ctx context.Context, header http.Header, body []byte) error {
	key, err := h.secret.get(ctx)
	if err != nil {
		return fault.New(fault.Unreachable, "the webhook's secret cannot be read").Because(err)
	}
	if key == "" {
		return nil
	}
	given, ok := strings.CutPrefix(header.Get("X-Hub-Signature-256"), "sha256=")
	if !ok {
		return fault.New(fault.Unauthorized, "the webhook is not signed").
			WithHint("enter the secret of argocd-secret, key webhook.github.secret, in the webhook's settings")
	}
	mac := hmac.New(sha256.New, []byte(key))
	mac.Write(body)
	if got, err := hex.DecodeString(given); err != nil || !hmac.Equal(got, mac.Sum(nil)) {
		return fault.New(fault.Unauthorized, "the webhook's signature is wrong").
			WithHint("the secrets of the webhook and of argocd-secret, key webhook.github.secret, differ")
	}
	return nil
}

// push is what a push event says: a branch, and the addresses of its repository.
type push struct {
	branch string // empty: no branch moved, or it was deleted
	urls   []string
}

// parsePush reads a push event, as JSON or as the form that GitHub also sends.
// It fails with Invalid.
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
		Deleted    bool   `json:"deleted"`
		Repository struct {
			CloneURL string `json:"clone_url"`
			HTMLURL  string `json:"html_url"`
			SSHURL   string `json:"ssh_url"`
		} `json:"repository"`
	}
	if err := json.Unmarshal(body, &event); err != nil {
		return push{}, fault.New(fault.Invalid, "the body is no push event in JSON")
	}
	p := push{urls: addresses(event.Repository.CloneURL, event.Repository.HTMLURL, event.Repository.SSHURL)}
	if len(p.urls) == 0 || event.Ref == "" {
		return push{}, fault.New(fault.Invalid, "the push event names no ref or no repository")
	}
	if branch, ok := strings.CutPrefix(event.Ref, "refs/heads/"); ok && !event.Deleted {
		p.branch = branch
	}
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

// secret remembers the configured secret for a moment, so that strangers cannot
// make the API server work.
type secret struct {
	ask func(context.Context) (string, error)
	now func() time.Time

	mu    sync.Mutex
	value string
	err   error
	asked time.Time
}

func (s *secret) get(ctx context.Context) (string, error) {
	if s.ask == nil {
		return "", nil
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
