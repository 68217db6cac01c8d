package gitserver

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func start(t *testing.T, opts Options) (*Server, *Repo) {
	t.Helper()
	s, err := Start(t.TempDir(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	r, err := s.Create("team/fleet")
	if err != nil {
		t.Fatal(err)
	}
	return s, r
}

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func TestCommits(t *testing.T) {
	day := time.Date(2024, 2, 29, 12, 0, 0, 0, time.UTC)
	s, r := start(t, Options{Now: func() time.Time { return day }})
	str := must[string](t)
	first := str(r.Commit("first", Put("a", "1"), PutExecutable("run", "x"), Link("l", "a"), Put(`odd "name"\`, "o"), Put("d/x", "x")))
	second := str(r.Commit("second", Put("a", "2"), Delete("d"), Put("new", "n")))
	if got := str(r.Git("show", second+":a")); got != "2" {
		t.Errorf("a is %q", got)
	}
	if got := str(r.Git("ls-tree", "--name-only", "-z", second)); got != "a\x00l\x00new\x00odd \"name\"\\\x00run\x00" {
		t.Errorf("files are %q", got)
	}
	if got := str(r.Git("log", "-1", "--format=%cI %s")); got != "2024-02-29T12:00:00Z second" && got != "2024-02-29T12:00:00+00:00 second" {
		t.Errorf("the commit is %q", got)
	}
	reverted := str(r.Revert(second))
	if a, b := str(r.Git("rev-parse", reverted+"^{tree}")), str(r.Git("rev-parse", first+"^{tree}")); a != b {
		t.Errorf("after the revert the tree is %s, want %s", a, b)
	}
	amended := str(r.Amend("other", Put("a", "3")))
	if parent := str(r.Git("rev-parse", amended+"^")); parent != second {
		t.Errorf("the amended commit has parent %s, want %s", parent, second)
	}
	side := str(r.Branch("side").Commit("alone", Clear(), Put("s", "s")))
	want := map[string]string{"main": amended, "side": side}
	if diff := cmp.Diff(want, must[map[string]string](t)(r.Branches())); diff != "" {
		t.Errorf("branches (-want +got):\n%s", diff)
	}
	if err := r.Branch("side").Remove(); err != nil {
		t.Error(err)
	}
	if _, err := s.Create("team/fleet"); err == nil {
		t.Error("a repository was created twice")
	}
	if _, err := r.Branch("side").Head(); err == nil {
		t.Error("a removed branch has a head")
	}
}

// TestPushes clones, commits and pushes with git, as a person does.
func TestPushes(t *testing.T) {
	var pushes []Push
	s, r := start(t, Options{OnPush: func(p Push) { pushes = append(pushes, p) }})
	str := must[string](t)
	first := str(r.Commit("first", Put("a", "1")))
	if len(pushes) > 0 {
		t.Error("a commit made by the program counts as a push")
	}
	work := filepath.Join(t.TempDir(), "work")
	git := func(args ...string) string {
		t.Helper()
		cmd := exec.Command("git", args...)
		cmd.Env = append(s.environment(), "GIT_AUTHOR_NAME=t", "GIT_AUTHOR_EMAIL=t@example.com", "GIT_COMMITTER_NAME=t", "GIT_COMMITTER_EMAIL=t@example.com")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	git("clone", "--quiet", r.URL(), work)
	if err := os.WriteFile(filepath.Join(work, "a"), []byte(strings.Repeat("large enough for chunks ", 100_000)), 0o600); err != nil {
		t.Fatal(err)
	}
	git("-C", work, "commit", "--quiet", "-am", "edit")
	second := git("-C", work, "rev-parse", "HEAD")
	git("-C", work, "-c", "http.postBuffer=1024", "push", "--quiet", "origin", "HEAD:main", "HEAD:new")
	git("-C", work, "push", "--quiet", "origin", ":new")
	if diff := cmp.Diff(map[Push]bool{
		{"team/fleet", "main", first, second}: true, {"team/fleet", "new", "", second}: true,
		{"team/fleet", "new", second, ""}: true,
	}, set(pushes)); diff != "" {
		t.Errorf("pushes (-want +got):\n%s", diff)
	}
}

func set(pushes []Push) map[Push]bool {
	m := map[Push]bool{}
	for _, p := range pushes {
		m[p] = true
	}
	return m
}

func TestBasicAuth(t *testing.T) {
	_, r := start(t, Options{Username: "u", Password: "p"})
	for password, want := range map[string]int{"p": http.StatusOK, "x": http.StatusUnauthorized, "": http.StatusUnauthorized} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, r.URL()+"/info/refs?service=git-upload-pack", nil)
		if err != nil {
			t.Fatal(err)
		}
		if password != "" {
			req.SetBasicAuth("u", password)
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != want {
			t.Errorf("password %q: status %d, want %d", password, res.StatusCode, want)
		}
	}
}

func TestTagsAndRefs(t *testing.T) {
	_, r := start(t, Options{})
	str := must[string](t)
	id := str(r.Commit("first", Put("a", "1")))
	for name, message := range map[string]string{"plain": "", "annotated": "note"} {
		if err := r.Tag(name, id, message); err != nil {
			t.Fatal(err)
		}
		if got := str(r.Git("rev-parse", name+"^{commit}")); got != id {
			t.Errorf("tag %s leads to %s", name, got)
		}
		if got := str(r.Git("cat-file", "-t", name)) == "tag"; got != (message != "") {
			t.Errorf("tag %s is annotated: %v", name, got)
		}
	}
	if err := r.SetRef("refs/pull/1/head", id); err != nil {
		t.Fatal(err)
	}
	if got := str(r.Git("rev-parse", "refs/pull/1/head")); got != id {
		t.Errorf("the ref is at %s", got)
	}
	if err := r.RemoveRef("refs/pull/1/head"); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Git("rev-parse", "--verify", "refs/pull/1/head"); err == nil {
		t.Error("the ref is still there")
	}
}

func TestProxy(t *testing.T) {
	s := New(t, Options{TLS: true, Token: "t0ken"})
	p := NewProxy(t, ProxyOptions{Username: "u", Password: "p", Resolve: map[string]string{"git.example.com:443": s.Addr()}})
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(s.CA())
	get := func(user *url.Userinfo) (int, error) {
		proxy, err := url.Parse(p.URL())
		if err != nil {
			t.Fatal(err)
		}
		proxy.User = user
		transport := &http.Transport{Proxy: http.ProxyURL(proxy), TLSClientConfig: &tls.Config{RootCAs: pool}}
		defer transport.CloseIdleConnections()
		res, err := (&http.Client{Transport: transport}).Get("https://git.example.com/none.git/info/refs")
		if err != nil {
			return 0, err
		}
		return res.StatusCode, res.Body.Close()
	}
	if code, err := get(url.UserPassword("u", "p")); err != nil || code != http.StatusUnauthorized {
		t.Errorf("through the proxy, without the server's token: %d, %v", code, err)
	}
	if _, err := get(nil); err == nil || p.Refused() != 1 || p.Requests() != 1 {
		t.Errorf("without credentials: %v; %d refused, %d served, want one of each", err, p.Refused(), p.Requests())
	}
}
