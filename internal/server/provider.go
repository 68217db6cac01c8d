package server

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"net/http"
	"strings"

	"github.com/holdfastcd/holdfast/internal/fault"
)

// Secrets are what providers sign their webhooks with; "" where none is configured.
// Gogs's is Gitea's as well.
type Secrets struct{ GitHub, GitLab, Gogs string }

// provider is whoever sends webhooks of one form.
type provider struct {
	name   string
	key    string   // of its secret, in argocd-secret
	event  string   // the header that names the event
	pushes []string // the events that say that a ref has moved
	secret func(Secrets) string
	// check reports whether a webhook carries a signature, and whether it is right.
	check func(key []byte, header http.Header, body []byte) (signed, right bool)
}

// The providers. Each documents its headers: GitHub "Webhook events and payloads"
// and "Validating webhook deliveries", GitLab "Webhook events" and "Secret token",
// Gitea "Webhooks".
var (
	gitHub = provider{
		name: "GitHub", key: "webhook.github.secret", event: "X-Github-Event", pushes: []string{"push"},
		secret: func(s Secrets) string { return s.GitHub },
		check: func(key []byte, header http.Header, body []byte) (bool, bool) {
			given, signed := strings.CutPrefix(header.Get("X-Hub-Signature-256"), "sha256=")
			return signed, signature(key, given, body)
		},
	}
	gitLab = provider{
		name: "GitLab", key: "webhook.gitlab.secret", event: "X-Gitlab-Event", pushes: []string{"Push Hook", "Tag Push Hook"},
		secret: func(s Secrets) string { return s.GitLab },
		check: func(key []byte, header http.Header, _ []byte) (bool, bool) {
			given := header.Get("X-Gitlab-Token")
			// Digests have one length, so that the comparison tells nothing of the key's.
			want, got := sha256.Sum256(key), sha256.Sum256([]byte(given))
			return given != "", subtle.ConstantTimeCompare(want[:], got[:]) == 1
		},
	}
	gogs = provider{
		name: "Gitea or Gogs", key: "webhook.gogs.secret", event: "X-Gogs-Event", pushes: []string{"push"},
		secret: func(s Secrets) string { return s.Gogs },
		check: func(key []byte, header http.Header, body []byte) (bool, bool) {
			given := header.Get("X-Gitea-Signature")
			if given == "" {
				given = header.Get("X-Gogs-Signature")
			}
			return given != "", signature(key, given, body)
		},
	}
)

// signature reports whether given is the HMAC-SHA256 of body, in hexadecimal.
func signature(key []byte, given string, body []byte) bool {
	mac := hmac.New(sha256.New, key)
	mac.Write(body)
	got, err := hex.DecodeString(given)
	return err == nil && hmac.Equal(got, mac.Sum(nil))
}

// strangers are the headers by which webhooks are known that are not taken.
var strangers = []struct{ header, name string }{
	{"X-Hook-Uuid", "Bitbucket Cloud"},
	{"X-Event-Key", "Bitbucket Server"},
	{"X-Vss-Activityid", "Azure DevOps"},
}

// sender tells by its headers who sends a webhook. It fails with Unsupported and
// Invalid. Gitea sends the headers of Gogs and of GitHub beside its own.
func sender(header http.Header) (provider, error) {
	for _, s := range strangers {
		if header.Get(s.header) != "" {
			return provider{}, fault.New(fault.Unsupported, "webhooks of %s come in a later version", s.name).
				WithHint("use a Receiver of type generic-hmac")
		}
	}
	switch {
	case header.Get("X-Gogs-Event") != "":
		return gogs, nil
	case header.Get("X-Gitea-Event") != "":
		gitea := gogs
		gitea.event = "X-Gitea-Event"
		return gitea, nil
	case header.Get("X-Gitlab-Event") != "":
		return gitLab, nil
	}
	switch header.Get("X-Github-Event") {
	case "push", "ping":
		return gitHub, nil
	case "":
		return provider{}, fault.New(fault.Invalid,
			"this is no webhook of GitHub, GitLab, Gitea or Gogs: the header X-GitHub-Event, X-Gitlab-Event or X-Gitea-Event is missing")
	}
	return provider{}, fault.New(fault.Unsupported, "only the events push and ping are taken").
		WithHint("choose \"just the push event\" in the webhook's settings")
}
