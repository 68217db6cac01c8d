package server

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
)

// recorder is a Refresher that remembers.
type recorder struct {
	mu   sync.Mutex
	seen []string
}

func (r *recorder) Refresh(url, branch string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seen = append(r.seen, url+"#"+branch)
}

func (r *recorder) all() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.seen...)
}

const pushBody = `{"ref":"refs/heads/main","repository":{"clone_url":"https://git.example/org/fleet.git","html_url":"https://git.example/org/fleet","ssh_url":"git@git.example:org/fleet.git"}}`

const gitLabBody = `{"object_kind":"push","ref":"refs/heads/main","after":"95790bf891e76fee5e1747ab589903a6a1f80f22",
"project":{"git_http_url":"https://git.example/org/fleet.git","web_url":"https://git.example/org/fleet","git_ssh_url":"git@git.example:org/fleet.git"},
"repository":{"name":"fleet","url":"git@git.example:org/fleet.git"}}`

func sign(secret, body string) string {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(body))
	return "sha256=" + hex.EncodeToString(mac.Sum(nil))
}

func TestWebhook(t *testing.T) {
	secretsAre := func(s Secrets) func(context.Context) (Secrets, error) {
		return func(context.Context) (Secrets, error) { return s, nil }
	}
	secretIs := func(s string) func(context.Context) (Secrets, error) { return secretsAre(Secrets{GitHub: s}) }
	tests := []struct {
		name, reason string
		method       string
		header       map[string]string
		body         string
		secret       func(context.Context) (Secrets, error)
		code         int
		says         string
		refreshed    []string
	}{
		{
			name: "push", reason: "the three addresses of GitHub mean one repository",
			header: map[string]string{"X-GitHub-Event": "push"}, body: pushBody,
			code: 200, refreshed: []string{"https://git.example/org/fleet.git#main"},
		},
		{
			name: "form", reason: "GitHub's other content type carries the same event",
			header: map[string]string{"X-GitHub-Event": "push", "Content-Type": "application/x-www-form-urlencoded"},
			body:   "payload=" + url.QueryEscape(pushBody),
			code:   200, refreshed: []string{"https://git.example/org/fleet.git#main"},
		},
		{
			name: "signed", reason: "a good signature is accepted",
			header: map[string]string{"X-GitHub-Event": "push", "X-Hub-Signature-256": sign("s3cret", pushBody)},
			body:   pushBody, secret: secretIs("s3cret"),
			code: 200, refreshed: []string{"https://git.example/org/fleet.git#main"},
		},
		{
			name: "unsigned", reason: "where a secret is configured, nobody goes without",
			header: map[string]string{"X-GitHub-Event": "push"}, body: pushBody, secret: secretIs("s3cret"),
			code: 401, says: "not signed",
		},
		{
			name: "badly signed", reason: "another secret is no secret",
			header: map[string]string{"X-GitHub-Event": "push", "X-Hub-Signature-256": sign("other", pushBody)},
			body:   pushBody, secret: secretIs("s3cret"),
			code: 401, says: "signature is wrong",
		},
		{
			name: "signature that is no hexadecimal", reason: "a malformed signature is a wrong one",
			header: map[string]string{"X-GitHub-Event": "push", "X-Hub-Signature-256": "sha256=zz"},
			body:   pushBody, secret: secretIs("s3cret"),
			code: 401, says: "signature is wrong",
		},
		{
			name: "secret unknown", reason: "an error while checking is a refusal",
			header: map[string]string{"X-GitHub-Event": "push"}, body: pushBody,
			secret: func(context.Context) (Secrets, error) { return Secrets{}, errors.New("hunter2") },
			code:   503, says: "cannot be read",
		},
		{
			name: "unsigned ping", reason: "a ping tells its sender whether the secret is right",
			header: map[string]string{"X-GitHub-Event": "ping"}, body: `{}`, secret: secretIs("s3cret"),
			code: 401, says: "not signed",
		},
		{
			name: "ping", reason: "GitHub pings a new webhook", header: map[string]string{"X-GitHub-Event": "ping"}, body: `{}`,
			code: 200, says: "nothing to do",
		},
		{
			name: "tag", reason: "a range of versions may be about it", header: map[string]string{"X-GitHub-Event": "push"},
			body: strings.Replace(pushBody, "refs/heads/main", "refs/tags/v1", 1),
			code: 200, says: "refreshing", refreshed: []string{"https://git.example/org/fleet.git#"},
		},
		{
			name: "note", reason: "nothing that is delivered lives there", header: map[string]string{"X-GitHub-Event": "push"},
			body: strings.Replace(pushBody, "refs/heads/main", "refs/notes/x", 1),
			code: 200, says: "nothing to do",
		},
		{
			name: "deleted branch", reason: "there is nothing to fetch", header: map[string]string{"X-GitHub-Event": "push"},
			body: `{"deleted":true,` + pushBody[1:],
			code: 200, says: "nothing to do",
		},
		{
			name: "other event", reason: "settings that send everything are wrong", header: map[string]string{"X-GitHub-Event": "issues"},
			body: `{}`, code: 400, says: "push and ping",
		},
		{
			name: "GitLab", reason: "it names the repository in its own way", header: map[string]string{"X-Gitlab-Event": "Push Hook"},
			body: gitLabBody, code: 200, refreshed: []string{"https://git.example/org/fleet.git#main"},
		},
		{
			name: "GitLab with its token", reason: "GitLab sends the secret itself", header: map[string]string{"X-Gitlab-Event": "Push Hook", "X-Gitlab-Token": "s3cret"},
			body: gitLabBody, secret: secretsAre(Secrets{GitLab: "s3cret"}), code: 200, refreshed: []string{"https://git.example/org/fleet.git#main"},
		},
		{
			name: "GitLab without its token", reason: "where a secret is configured, nobody goes without", header: map[string]string{"X-Gitlab-Event": "Push Hook"},
			body: gitLabBody, secret: secretsAre(Secrets{GitLab: "s3cret"}), code: 401, says: "not signed",
		},
		{
			name: "GitLab with another token", reason: "another secret is no secret", header: map[string]string{"X-Gitlab-Event": "Push Hook", "X-Gitlab-Token": "s3cre"},
			body: gitLabBody, secret: secretsAre(Secrets{GitLab: "s3cret"}), code: 401, says: "webhook.gitlab.secret",
		},
		{
			name: "GitLab, a tag that was deleted", reason: "there is nothing to fetch", header: map[string]string{"X-Gitlab-Event": "Tag Push Hook"},
			body: strings.NewReplacer("refs/heads/main", "refs/tags/v1", "95790bf8", gone).Replace(gitLabBody), code: 200, says: "nothing to do",
		},
		{
			name: "GitLab, something else", reason: "it can be told to send everything", header: map[string]string{"X-Gitlab-Event": "Issue Hook"},
			body: `{}`, code: 200, says: "nothing to do",
		},
		{
			name: "Gitea", reason: "it sends the headers of GitHub and Gogs as well",
			header: map[string]string{"X-Gitea-Event": "push", "X-Gogs-Event": "push", "X-GitHub-Event": "push"},
			body:   pushBody, code: 200, refreshed: []string{"https://git.example/org/fleet.git#main"},
		},
		{
			name: "Gitea, signed", reason: "its signature has no prefix",
			header: map[string]string{"X-Gitea-Event": "push", "X-Gogs-Event": "push", "X-Gitea-Signature": strings.TrimPrefix(sign("s3cret", pushBody), "sha256=")},
			body:   pushBody, secret: secretsAre(Secrets{Gogs: "s3cret"}), code: 200, refreshed: []string{"https://git.example/org/fleet.git#main"},
		},
		{
			name: "Gogs, badly signed", reason: "another secret is no secret",
			header: map[string]string{"X-Gogs-Event": "push", "X-Gogs-Signature": strings.TrimPrefix(sign("other", pushBody), "sha256=")},
			body:   pushBody, secret: secretsAre(Secrets{Gogs: "s3cret"}), code: 401, says: "signature is wrong",
		},
		{
			name: "Gitea instead of GitHub", reason: "who cannot sign as the one must not say to be the other",
			header: map[string]string{"X-Gogs-Event": "push"}, body: pushBody, secret: secretIs("s3cret"), code: 401, says: "webhook.gogs.secret",
		},
		{
			name: "Bitbucket", reason: "other providers are named", header: map[string]string{"X-Event-Key": "repo:refs_changed"},
			body: `{}`, code: 400, says: "Bitbucket Server come in a later version",
		},
		{name: "nobody", reason: "no header, no webhook", body: `{}`, code: 400, says: "X-GitHub-Event"},
		{
			name: "no JSON", reason: "the body is a stranger's", header: map[string]string{"X-GitHub-Event": "push"},
			body: `{"ref":`, code: 400, says: "no push event",
		},
		{
			name: "no repository", reason: "nothing can be refreshed", header: map[string]string{"X-GitHub-Event": "push"},
			body: `{"ref":"refs/heads/main"}`, code: 400, says: "no ref or no repository",
		},
		{
			name: "too large", reason: "the bound holds before anything is parsed", header: map[string]string{"X-GitHub-Event": "push"},
			body: strings.Repeat(" ", maxWebhook+1), code: 413, says: "larger than",
		},
		{name: "GET", reason: "a webhook is a POST", method: "GET", header: map[string]string{"X-GitHub-Event": "push"}, code: 405},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			to := &recorder{}
			srv := httptest.NewServer(New(Options{Refreshers: []Refresher{to}, Secrets: tt.secret}).Handler())
			defer srv.Close()
			method := tt.method
			if method == "" {
				method = "POST"
			}
			code, body, _ := send(t, method, srv.URL+"/api/webhook", tt.header, tt.body)
			if code != tt.code || !strings.Contains(body, tt.says) {
				t.Errorf("%s: got %d %q, want %d saying %q", tt.reason, code, body, tt.code, tt.says)
			}
			if strings.Contains(body, "hunter2") {
				t.Errorf("the answer tells what only the log may: %q", body)
			}
			if diff := cmp.Diff(tt.refreshed, to.all()); diff != "" {
				t.Errorf("%s: refreshed (-want +got):\n%s", tt.reason, diff)
			}
		})
	}
}

func send(t *testing.T, method, url string, header map[string]string, body string) (int, string, http.Header) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range header {
		req.Header.Set(k, v)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(b), res.Header
}

// A body without a length is bounded as well.
func TestWebhookChunkedBodyIsBounded(t *testing.T) {
	srv := httptest.NewServer(New(Options{}).Handler())
	defer srv.Close()
	body := io.MultiReader(bytes.NewReader(make([]byte, maxWebhook)), strings.NewReader("x"))
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, srv.URL+"/api/webhook", body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Github-Event", "push")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusRequestEntityTooLarge {
		t.Errorf("got %d, want 413", res.StatusCode)
	}
}

func TestPushesAreCoalesced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		to := &recorder{}
		p := newPushes([]Refresher{to}, time.Now)
		a := push{branch: "main", urls: []string{"https://git.example/a"}}
		for range 1000 {
			if !p.tell(a) {
				t.Fatal("a known branch was refused")
			}
		}
		if got := len(to.all()); got != refreshBurst {
			t.Errorf("at once: %d refreshes, want %d", got, refreshBurst)
		}
		time.Sleep(time.Second) // of the bubble's clock
		synctest.Wait()
		if got := len(to.all()); got != refreshBurst+1 {
			t.Errorf("a second later: %d refreshes, want the one that stands for all others, %d", got, refreshBurst+1)
		}
		b := push{branch: "main", urls: []string{"https://git.example/b"}}
		p.tell(b)
		if got := to.all(); got[len(got)-1] != "https://git.example/b#main" {
			t.Error("one branch's pushes delayed another's")
		}
	})
}

func TestPushesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPushes([]Refresher{&recorder{}}, time.Now)
		tell := func(i int) bool {
			return p.tell(push{branch: fmt.Sprint(i), urls: []string{"https://git.example/a"}})
		}
		for i := range maxBranches {
			if !tell(i) {
				t.Fatalf("branch %d was refused", i)
			}
		}
		if tell(maxBranches) {
			t.Error("one too many was taken")
		}
		time.Sleep(rested + time.Second) // of the bubble's clock
		if !tell(maxBranches) {
			t.Error("branches nobody speaks of any more take the room of others")
		}
	})
}

func TestSecretIsAskedForSeldom(t *testing.T) {
	now, asked := time.Unix(1000, 0), 0
	s := &secret{now: func() time.Time { return now }, ask: func(context.Context) (Secrets, error) {
		asked++
		return Secrets{GitHub: "s3cret"}, nil
	}}
	for range 5 {
		if got, err := s.get(t.Context()); got.GitHub != "s3cret" || err != nil {
			t.Fatalf("got %v, %v", got, err)
		}
	}
	now = now.Add(secretAge + 1)
	_, _ = s.get(t.Context())
	if asked != 2 {
		t.Errorf("asked %d times, want 2", asked)
	}
}

func TestPort(t *testing.T) {
	reg := prometheus.NewRegistry()
	gauge := prometheus.NewGauge(prometheus.GaugeOpts{Name: "holdfast_test", Help: "A test."})
	reg.MustRegister(gauge)
	notReady := errors.New("watching the cluster has not begun")
	var log bytes.Buffer
	srv := httptest.NewServer(New(Options{
		Hooks:     http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "hook") }),
		Artifacts: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("oh") }),
		Metrics:   reg,
		Ready:     func() error { return notReady },
		Log:       slog.New(slog.NewTextHandler(&log, nil)),
	}).Handler())
	defer srv.Close()
	tests := []struct {
		path, reason string
		code         int
		says         string
	}{
		{"/healthz", "the process lives", 200, "ok"},
		{"/readyz", "and says why it is not ready", 503, notReady.Error()},
		{"/metrics", "metrics are Prometheus's", 200, "holdfast_test 0"},
		{"/hook/abc", "receivers have their own handler", 200, "hook"},
		{"/gitrepository/a/b", "a panic is one request's", 500, "internal error"},
		{"/", "there is nothing else", 404, ""},
	}
	for _, tt := range tests {
		code, body, header := send(t, "GET", srv.URL+tt.path, nil, "")
		if code != tt.code || !strings.Contains(body, tt.says) {
			t.Errorf("%s: %s: got %d %q, want %d saying %q", tt.path, tt.reason, code, body, tt.code, tt.says)
		}
		if header.Get("X-Content-Type-Options") != "nosniff" || !strings.HasPrefix(header.Get("Content-Security-Policy"), "default-src 'none'") {
			t.Errorf("%s: headers are missing: %v", tt.path, header)
		}
	}
	if !strings.Contains(log.String(), "a handler panicked") {
		t.Errorf("nobody hears of the panic: %s", log.String())
	}
}

// Requests under way are finished when the process is asked to end.
func TestServeEndsInOrder(t *testing.T) {
	begun, release := make(chan struct{}), make(chan struct{})
	s := New(Options{Hooks: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(begun)
		<-release
		fmt.Fprint(w, "done")
	})})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, l) }()
	answer := make(chan string, 1)
	go func() {
		res, err := http.Get("http://" + l.Addr().String() + "/hook/x")
		if err != nil {
			answer <- err.Error()
			return
		}
		defer res.Body.Close()
		b, _ := io.ReadAll(res.Body)
		answer <- string(b)
	}()
	<-begun
	cancel()
	close(release)
	if got := <-answer; got != "done" {
		t.Errorf("the request under way got %q", got)
	}
	if err := <-served; err != nil {
		t.Errorf("Serve: %v", err)
	}
}

func FuzzParsePush(f *testing.F) {
	f.Add("application/json", []byte(pushBody))
	f.Add("application/x-www-form-urlencoded", []byte("payload="+url.QueryEscape(pushBody)))
	f.Fuzz(func(t *testing.T, contentType string, body []byte) {
		p, err := parsePush(contentType, body)
		if err == nil && len(p.urls) == 0 {
			t.Error("a push of no repository")
		}
	})
}
