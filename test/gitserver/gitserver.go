// Package gitserver is a real Git server on a loopback port: bare repositories
// served by `git http-backend`, over HTTP, HTTPS with a CA of its own, and SSH,
// and [Proxy], through which it can be reached. Tests, the demo and the benchmark deliver from
// it, and a person may clone from it and push to it. It needs the git binary,
// and nothing of the user's Git configuration. Anyone who can reach the port
// may push: it is for throw-away repositories only.
package gitserver

import (
	"bytes"
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/cgi"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// maxPush bounds the body of one request, which is held in memory.
const maxPush = 256 << 20

// Push is what one push over HTTP did to one branch. Before or After is empty
// for a branch that was created or deleted.
type Push struct {
	Repo, Branch, Before, After string
}

// Options configure a server. The zero value serves everybody.
type Options struct {
	// Address to listen on; default a free port of 127.0.0.1.
	Address string
	// Username and Password, if either is set, are asked of every request.
	Username, Password string
	// Token, if set, is asked of every request as a bearer token.
	Token string
	// TLS serves https with a certificate of a CA that nobody knows but [Server.CA].
	TLS bool
	// ClientCert demands the certificate of [Server.ClientCert]; it implies TLS.
	ClientCert bool
	// AuthorizedKeys, if set, has SSH be served, too, on a port of its own, to
	// those who hold one of these keys. Each is a line as ssh-keygen writes it.
	AuthorizedKeys []string
	// OnPush is called after a push over HTTP, once for each branch it changed,
	// before the pusher gets the answer. Commits made with [Repo] do not count.
	OnPush func(Push)
	// Wrap may put a handler around the server's own, to count, break or delay.
	Wrap func(http.Handler) http.Handler
	// Now dates the commits made with [Repo]; default time.Now.
	Now func() time.Time
}

// Server serves the repositories of one directory.
type Server struct {
	dir, home string
	opts      Options
	http      *http.Server
	listener  net.Listener
	pushing   sync.Mutex
	served    chan struct{}
	trust     *authority // nil without TLS
	ssh       *sshServer // nil without authorised keys
}

// Start serves the bare repositories below dir, a directory that it may create.
// It fails when there is no git, no directory, or no port.
func Start(dir string, opts Options) (*Server, error) {
	if _, err := exec.LookPath("git"); err != nil {
		return nil, fmt.Errorf("the Git server needs git: %w", err)
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.Address == "" {
		opts.Address = "127.0.0.1:0"
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	s := &Server{dir: dir, home: filepath.Join(dir, ".home"), opts: opts, served: make(chan struct{})}
	if err := os.MkdirAll(s.home, 0o755); err != nil {
		return nil, err
	}
	s.listener, err = (&net.ListenConfig{}).Listen(context.Background(), "tcp", opts.Address)
	if err != nil {
		return nil, err
	}
	s.http = &http.Server{Handler: s.handler(), ReadHeaderTimeout: 10 * time.Second, ErrorLog: log.New(io.Discard, "", 0)}
	serve := func() error { return s.http.Serve(s.listener) }
	if opts.TLS || opts.ClientCert {
		if s.trust, err = newAuthority(opts.Now()); err != nil {
			return nil, errors.Join(err, s.listener.Close())
		}
		s.http.TLSConfig = s.trust.config(opts.ClientCert)
		serve = func() error { return s.http.ServeTLS(s.listener, "", "") }
	}
	if len(opts.AuthorizedKeys) > 0 {
		if s.ssh, err = s.serveSSH(opts.AuthorizedKeys); err != nil {
			return nil, errors.Join(err, s.listener.Close())
		}
	}
	go func() {
		defer close(s.served)
		_ = serve() // ends with Close
	}()
	return s, nil
}

// T is the part of testing.TB that [New] needs.
type T interface {
	Helper()
	Fatal(args ...any)
	TempDir() string
	Cleanup(f func())
}

// New starts a server for a test, which ends with it; its repositories are in a
// directory of the test's.
func New(t T, opts Options) *Server {
	t.Helper()
	s, err := Start(t.TempDir(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// Close stops serving at once and waits for the server's goroutine. The
// repositories stay.
func (s *Server) Close() error {
	err := s.http.Close()
	<-s.served
	if s.ssh != nil {
		err = errors.Join(err, s.ssh.close())
	}
	return err
}

// BaseURL returns the server's address without a trailing slash.
func (s *Server) BaseURL() string {
	if s.trust != nil {
		return "https://" + s.Addr()
	}
	return "http://" + s.Addr()
}

// Addr returns host:port of the HTTP server.
func (s *Server) Addr() string { return s.listener.Addr().String() }

// URL returns the address of a repository.
func (s *Server) URL(repo string) string { return s.BaseURL() + "/" + repo + ".git" }

func (s *Server) handler() http.Handler {
	var h http.Handler = http.HandlerFunc(s.serve)
	if s.opts.Username != "" || s.opts.Password != "" {
		h = s.authenticate(h)
	}
	if s.opts.Token != "" {
		h = s.authorize(h)
	}
	if s.opts.Wrap != nil {
		h = s.opts.Wrap(h)
	}
	return h
}

func (s *Server) authenticate(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		if subtle.ConstantTimeCompare([]byte(user+"\x00"+password), []byte(s.opts.Username+"\x00"+s.opts.Password)) != 1 {
			w.Header().Set("WWW-Authenticate", `Basic realm="git"`)
			http.Error(w, "credentials are required", http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (s *Server) authorize(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if subtle.ConstantTimeCompare([]byte(r.Header.Get("Authorization")), []byte("Bearer "+s.opts.Token)) != 1 {
			w.Header().Set("WWW-Authenticate", `Bearer realm="git"`)
			http.Error(w, "a token is required", http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	// CGI needs to know the length of a body; git sends large pushes in chunks.
	if r.ContentLength < 0 {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxPush))
		if err != nil {
			http.Error(w, "the request is too large", http.StatusRequestEntityTooLarge)
			return
		}
		r.Body, r.ContentLength, r.TransferEncoding = io.NopCloser(bytes.NewReader(body)), int64(len(body)), nil
	}
	backend := &cgi.Handler{
		Path: "git", Args: []string{"http-backend"}, Root: "/", Dir: s.dir,
		Env:    append(s.environment(), "GIT_PROJECT_ROOT="+s.dir, "GIT_HTTP_EXPORT_ALL=1"),
		Stderr: io.Discard,
	}
	if path, err := exec.LookPath("git"); err == nil {
		backend.Path = path
	}
	if name, ok := strings.CutSuffix(r.URL.Path, "/git-receive-pack"); ok && r.Method == http.MethodPost {
		s.receive(backend, strings.TrimSuffix(strings.TrimPrefix(name, "/"), ".git"), w, r)
		return
	}
	backend.ServeHTTP(w, r)
}

// receive serves a push and tells which branches it moved.
func (s *Server) receive(backend http.Handler, name string, w http.ResponseWriter, r *http.Request) {
	if s.opts.OnPush == nil {
		backend.ServeHTTP(w, r)
		return
	}
	s.pushing.Lock() // one at a time, so that a change is told once
	defer s.pushing.Unlock()
	before, err := s.Repo(name).Branches()
	if err != nil {
		http.NotFound(w, r)
		return
	}
	backend.ServeHTTP(w, r)
	after, err := s.Repo(name).Branches()
	if err != nil {
		return
	}
	for branch, sha := range after {
		if before[branch] != sha {
			s.opts.OnPush(Push{name, branch, before[branch], sha})
		}
	}
	for branch, sha := range before {
		if after[branch] == "" {
			s.opts.OnPush(Push{name, branch, sha, ""})
		}
	}
}

// environment is all that git gets to see: no configuration but its own.
func (s *Server) environment() []string {
	return []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + s.home, "XDG_CONFIG_HOME=" + s.home,
		"GIT_CONFIG_NOSYSTEM=1", "GIT_TERMINAL_PROMPT=0", "LC_ALL=C",
	}
}

// git runs git in a repository and returns what it printed.
func (s *Server) git(dir string, stdin []byte, args ...string) (string, error) {
	cmd := exec.Command("git", args...)
	cmd.Dir, cmd.Env, cmd.Stdin = dir, s.environment(), bytes.NewReader(stdin)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("git %s: %w: %s", args[0], err, strings.TrimSpace(stderr.String()))
	}
	return strings.TrimSuffix(string(out), "\n"), nil
}

// errNoChange says that a commit would have been empty.
var errNoChange = errors.New("nothing to commit")
