package git

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/source"
	"github.com/holdfastcd/holdfast/internal/tree"
	"github.com/holdfastcd/holdfast/internal/tree/treetest"
	"github.com/holdfastcd/holdfast/test/gitserver"
)

// wire counts what goes over the wire, and may break it.
type wire struct {
	gets, posts atomic.Int64
	bytes       atomic.Int64 // of the answers to posts
	connections sync.Map
	breakPost   atomic.Bool // cut the next answers to posts short
}

func (w *wire) wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.connections.Store(r.RemoteAddr, true)
		if r.Method == http.MethodGet {
			w.gets.Add(1)
			next.ServeHTTP(rw, r)
			return
		}
		w.posts.Add(1)
		next.ServeHTTP(&meter{ResponseWriter: rw, wire: w}, r)
	})
}

type meter struct {
	http.ResponseWriter
	wire *wire
	sent int
}

func (m *meter) Write(b []byte) (int, error) {
	m.wire.bytes.Add(int64(len(b)))
	if m.wire.breakPost.Load() && m.sent+len(b) > 600 {
		_, _ = m.ResponseWriter.Write(b[:max(0, 600-m.sent)])
		panic(http.ErrAbortHandler) // closes the connection in mid-answer
	}
	m.sent += len(b)
	return m.ResponseWriter.Write(b)
}

func (w *wire) reset() { w.gets.Store(0); w.posts.Store(0); w.bytes.Store(0) }

func newServer(t testing.TB, opts gitserver.Options) (*gitserver.Server, *gitserver.Repo) {
	t.Helper()
	s, err := gitserver.Start(t.TempDir(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	repo, err := s.Create("fleet")
	if err != nil {
		t.Fatal(err)
	}
	return s, repo
}

func newStore(t testing.TB, dir string, opts Options) *Store {
	t.Helper()
	s, err := New(dir, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func push(t testing.TB, r *gitserver.Repo, changes ...gitserver.Change) string {
	t.Helper()
	id, err := r.Commit("change", changes...)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func fetch(t testing.TB, s *Store, req source.Request) source.Revision {
	t.Helper()
	rev, err := s.Fetch(t.Context(), req)
	if err != nil {
		t.Fatalf("Fetch(%+v): %v", req.Key(), err)
	}
	return rev
}

func content(t testing.TB, tr tree.Tree, name string) string {
	t.Helper()
	b, err := tr.ReadFile(name, 1<<20)
	if err != nil {
		t.Fatalf("ReadFile(%s): %v", name, err)
	}
	return string(b)
}

func wantFault(t testing.TB, err error, kind fault.Kind, text string) {
	t.Helper()
	var f *fault.Error
	if !errors.As(err, &f) || f.Kind != kind || !strings.Contains(f.Error(), text) {
		t.Errorf("error is %v (%v), want %v with %q", err, fault.KindOf(err), kind, text)
	}
}

func TestFetchBranches(t *testing.T) {
	_, repo := newServer(t, gitserver.Options{})
	first := push(t, repo, gitserver.Put("apps/a.yaml", "a: 1\n"), gitserver.PutExecutable("run.sh", "#!/bin/sh\n"),
		gitserver.Link("link", "apps/a.yaml"), gitserver.Put("apps-b/x", "x"), gitserver.Put("apps.txt", "y"))
	if err := repo.Branch("release/1.0").Set(first); err != nil {
		t.Fatal(err)
	}
	second := push(t, repo, gitserver.Put("apps/a.yaml", "a: 2\n"), gitserver.Delete("apps-b"))
	s := newStore(t, t.TempDir(), Options{})

	head := fetch(t, s, source.Request{URL: repo.URL()})
	if head.Commit != second || head.Branch != "main" || content(t, head.Tree, "apps/a.yaml") != "a: 2\n" {
		t.Errorf("HEAD is %s on %s, want %s on main", head.Commit, head.Branch, second)
	}
	old := fetch(t, s, source.Request{URL: repo.URL(), Ref: source.Ref{Branch: "release/1.0"}})
	if old.Commit != first || content(t, old.Tree, "apps/a.yaml") != "a: 1\n" {
		t.Errorf("release/1.0 is %s, want %s", old.Commit, first)
	}
	want := []tree.Entry{
		{Name: "apps", Kind: tree.Dir},
		{Name: "apps-b", Kind: tree.Dir},
		{Name: "apps.txt", Kind: tree.File},
		{Name: "link", Kind: tree.Symlink},
		{Name: "run.sh", Kind: tree.Executable},
	}
	entries, err := old.Tree.ReadDir("")
	if err != nil {
		t.Fatal(err)
	}
	for i := range entries {
		entries[i].Digest = ""
	}
	if diff := cmp.Diff(want, entries); diff != "" {
		t.Errorf("root of the old tree (-want +got):\n%s", diff)
	}
	if content(t, old.Tree, "link") != "apps/a.yaml" {
		t.Error("a symlink's content is not its target")
	}
	for _, name := range []string{"none", "apps/none", "run.sh/x", "link/x", "apps//a.yaml"} {
		if _, err := old.Tree.Stat(name); !errors.Is(err, tree.ErrNotExist) {
			t.Errorf("Stat(%s) = %v, want ErrNotExist", name, err)
		}
	}
	if _, err := old.Tree.ReadFile("apps", 10); !errors.Is(err, tree.ErrNotExist) {
		t.Errorf("ReadFile of a directory: %v", err)
	}
}

func TestDigestsAreGits(t *testing.T) {
	_, repo := newServer(t, gitserver.Options{})
	push(t, repo, gitserver.Put("a/b/c.yaml", "c"), gitserver.Put("a.b", "1"), gitserver.Put("a/z", "2"), gitserver.Put("empty", ""))
	rev := fetch(t, newStore(t, t.TempDir(), Options{}), source.Request{URL: repo.URL()})
	local := treetest.FromFiles(map[string][]byte{"a/b/c.yaml": []byte("c"), "a.b": []byte("1"), "a/z": []byte("2"), "empty": nil})
	for _, name := range []string{"", "a", "a/b", "a/b/c.yaml", "a.b", "empty"} {
		want, err := rev.Tree.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		got, err := local.Stat(name)
		if err != nil || got.Digest != want.Digest || got.Kind != want.Kind || got.Name != want.Name {
			t.Errorf("%q: in memory %v %s (%v), in Git %v %s", name, got.Kind, got.Digest, err, want.Kind, want.Digest)
		}
	}
	gits, err := repo.Git("rev-parse", "main^{tree}")
	if root, _ := local.Stat(""); err != nil || root.Digest.String() != gits {
		t.Errorf("root is %s, git says %s (%v)", root.Digest, gits, err)
	}
}

func TestKnownHeadCostsOneGet(t *testing.T) {
	var w wire
	_, repo := newServer(t, gitserver.Options{Wrap: w.wrap})
	push(t, repo, gitserver.Put("a", "1"))
	dir := t.TempDir()
	s := newStore(t, dir, Options{})
	req := source.Request{URL: repo.URL()}
	first := fetch(t, s, req)
	w.reset()
	for range 3 {
		if again := fetch(t, s, req); again.Tree != first.Tree {
			t.Error("the same commit gives another tree value")
		}
	}
	if w.gets.Load() != 3 || w.posts.Load() != 0 {
		t.Errorf("three fetches of a known head cost %d GETs and %d POSTs, want 3 and 0", w.gets.Load(), w.posts.Load())
	}
	// A process started again knows it, too.
	s.Close()
	w.reset()
	again := fetch(t, newStore(t, dir, Options{}), req)
	if content(t, again.Tree, "a") != "1" || w.posts.Load() != 0 {
		t.Errorf("after a restart %d POSTs were sent, want 0", w.posts.Load())
	}
	connections := 0
	w.connections.Range(func(any, any) bool { connections++; return true })
	if connections > 2 { // one for each of the two stores
		t.Errorf("%d connections were opened, want them kept alive", connections)
	}
}

func TestIncrementalFetchTransfersOnlyNewObjects(t *testing.T) {
	var w wire
	_, repo := newServer(t, gitserver.Options{Wrap: w.wrap})
	noise := make([]byte, 1<<20)
	if _, err := rand.Read(noise); err != nil {
		t.Fatal(err)
	}
	push(t, repo, gitserver.Put("big", string(noise)), gitserver.Put("dir/small", "1"), gitserver.Put("dir/other", "o"))
	s := newStore(t, t.TempDir(), Options{})
	req := source.Request{URL: repo.URL()}
	fetch(t, s, req)
	if w.bytes.Load() < 1<<20 {
		t.Fatalf("the first fetch transferred %d bytes only", w.bytes.Load())
	}
	for i := range 3 {
		w.reset()
		push(t, repo, gitserver.Put("dir/between", fmt.Sprint(i)))
		want := push(t, repo, gitserver.Put("dir/small", fmt.Sprint("v", i)))
		rev := fetch(t, s, req)
		if rev.Commit != want || content(t, rev.Tree, "dir/small") != fmt.Sprint("v", i) || content(t, rev.Tree, "dir/other") != "o" {
			t.Errorf("round %d: wrong content at %s", i, rev.Commit)
		}
		if b, err := rev.Tree.ReadFile("big", 2<<20); err != nil || !bytes.Equal(b, noise) {
			t.Errorf("round %d: the file that did not change cannot be read: %v", i, err)
		}
		if n := w.bytes.Load(); n > 4096 {
			t.Errorf("round %d: %d bytes were transferred for a small commit", i, n)
		}
	}
	if history := countCommits(t, s, req); history != 4 {
		t.Errorf("the store holds %d commits, want the 4 that were fetched and no history", history)
	}
}

// countCommits asks git what is in the packs of a store, and so proves at the
// same time that packs and indexes are as git wants them.
func countCommits(t *testing.T, s *Store, req source.Request) int {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(s.repo(req).dir, "*.idx"))
	if err != nil || len(names) == 0 {
		t.Fatalf("no packs: %v", err)
	}
	out, err := exec.Command("git", append([]string{"verify-pack", "-v"}, names...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("git verify-pack: %v\n%s", err, out)
	}
	return strings.Count(string(out), " commit ")
}

func TestForcePushAndRollback(t *testing.T) {
	_, repo := newServer(t, gitserver.Options{})
	base := push(t, repo, gitserver.Put("a", "base"))
	push(t, repo, gitserver.Put("a", "good"))
	s := newStore(t, t.TempDir(), Options{})
	req := source.Request{URL: repo.URL()}
	fetch(t, s, req)
	forced, err := repo.Amend("other", gitserver.Put("a", "forced"))
	if err != nil {
		t.Fatal(err)
	}
	if rev := fetch(t, s, req); rev.Commit != forced || content(t, rev.Tree, "a") != "forced" {
		t.Errorf("after a forced push the head is %s", rev.Commit)
	}
	if err := repo.Set(base); err != nil { // back to a commit that was never a head here
		t.Fatal(err)
	}
	if rev := fetch(t, s, req); rev.Commit != base || content(t, rev.Tree, "a") != "base" {
		t.Errorf("after a reset the head is %s, want %s", rev.Commit, base)
	}
	if err := repo.Set(forced); err != nil {
		t.Fatal(err)
	}
	reverted, err := repo.Revert(forced)
	if err != nil {
		t.Fatal(err)
	}
	if rev := fetch(t, s, req); rev.Commit != reverted || content(t, rev.Tree, "a") != "base" {
		t.Errorf("after a revert a is %q", content(t, rev.Tree, "a"))
	}
}

func TestPinnedCommits(t *testing.T) {
	_, repo := newServer(t, gitserver.Options{})
	var ids []string
	for i := range 5 {
		ids = append(ids, push(t, repo, gitserver.Put("a", fmt.Sprint(i)), gitserver.Put("dir/same", "s")))
	}
	side := push(t, repo.Branch("side"), gitserver.Put("side", "x"))
	sideHead := push(t, repo.Branch("side"), gitserver.Put("side", "y"))
	gone := push(t, repo.Branch("gone"), gitserver.Put("gone", "x"))
	if err := repo.Branch("gone").Remove(); err != nil {
		t.Fatal(err)
	}
	if _, err := repo.Git("-c", "user.name=t", "-c", "user.email=t@example.com", "tag", "-a", "-m", "x", "v1", gone); err != nil {
		t.Fatal(err)
	}
	orphan := push(t, repo.Branch("orphan"), gitserver.Put("o", "x"))
	if err := repo.Branch("orphan").Remove(); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		reason string
		ref    source.Ref
		kind   fault.Kind
		fails  string
	}{
		{reason: "the head of the default branch", ref: source.Ref{Commit: ids[4]}},
		{reason: "in the history of the default branch", ref: source.Ref{Commit: ids[1]}},
		{reason: "in the history of the branch named", ref: source.Ref{Branch: "main", Commit: ids[0]}},
		{reason: "the head of another branch", ref: source.Ref{Commit: sideHead}},
		{reason: "in the history of another branch", ref: source.Ref{Commit: side}},
		{reason: "reachable from a tag only", ref: source.Ref{Commit: gone}},
		{reason: "not in the branch named", ref: source.Ref{Branch: "main", Commit: side}, kind: fault.NotFound, fails: `branch "main" does not contain`},
		{reason: "on the server, but in no branch", ref: source.Ref{Commit: orphan}, kind: fault.NotFound, fails: "no branch or tag contains"},
		{reason: "nowhere", ref: source.Ref{Commit: strings.Repeat("12", 20)}, kind: fault.NotFound, fails: "no branch or tag contains"},
		{reason: "a short id could mean two commits", ref: source.Ref{Commit: ids[0][:8]}, kind: fault.Invalid, fails: "is not a commit id"},
	}
	shared := newStore(t, t.TempDir(), Options{})
	for _, test := range tests {
		for name, s := range map[string]*Store{"fresh": newStore(t, t.TempDir(), Options{}), "shared": shared} {
			rev, err := s.Fetch(t.Context(), source.Request{URL: repo.URL(), Ref: test.ref})
			if test.fails != "" {
				wantFault(t, err, test.kind, test.fails)
				continue
			}
			if err != nil || rev.Commit != test.ref.Commit || rev.Branch != test.ref.Branch {
				t.Errorf("%s (%s store): %+v, %v", test.reason, name, rev, err)
				continue
			}
			if _, err := tree.FromFS(fsOf{rev.Tree}, tree.Limits{}); err != nil {
				t.Errorf("%s (%s store): the tree is not whole: %v", test.reason, name, err)
			}
		}
	}
	// A pinned commit stays provable when the branch moves on.
	push(t, repo, gitserver.Put("a", "new"))
	if rev := fetch(t, shared, source.Request{URL: repo.URL(), Ref: source.Ref{Branch: "main", Commit: ids[2]}}); content(t, rev.Tree, "a") != "2" {
		t.Error("wrong content for a pinned commit after the branch moved")
	}
	// ... and no longer when it is forced away.
	if err := repo.Set(side); err != nil {
		t.Fatal(err)
	}
	_, err := shared.Fetch(t.Context(), source.Request{URL: repo.URL(), Ref: source.Ref{Branch: "main", Commit: ids[2]}})
	wantFault(t, err, fault.NotFound, "does not contain")
}

func TestMissingRefs(t *testing.T) {
	server, repo := newServer(t, gitserver.Options{})
	if _, err := server.Create("empty"); err != nil {
		t.Fatal(err)
	}
	head := push(t, repo, gitserver.Put("a", "1"))
	for _, name := range []string{"release-1.0", "release-2.0", "b1", "b2", "b3", "b4"} {
		if err := repo.Branch(name).Set(head); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := repo.Git("tag", "v7", head); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		reason, url, branch, text string
		kind                      fault.Kind
	}{
		{"a branch that does not exist names those that look alike", repo.URL(), "release-3.0", `no branch "release-3.0" (there are: release-1.0, release-2.0,`, fault.NotFound},
		{"a tag is no branch", repo.URL(), "v7", "there is a tag of that name", fault.NotFound},
		{"an empty repository", server.URL("empty"), "", "the repository is empty", fault.NotFound},
		{"an empty repository and a branch", server.URL("empty"), "main", "the repository is empty", fault.NotFound},
		{"no such repository", server.URL("none"), "", "there is no such repository", fault.NotFound},
	}
	s := newStore(t, t.TempDir(), Options{})
	for _, test := range tests {
		_, err := s.Fetch(t.Context(), source.Request{URL: test.url, Ref: source.Ref{Branch: test.branch}})
		t.Log(test.reason, "→", err)
		wantFault(t, err, test.kind, test.text)
	}
}

func TestCredentials(t *testing.T) {
	_, repo := newServer(t, gitserver.Options{Username: "robot", Password: "s3cret"})
	push(t, repo, gitserver.Put("a", "1"))
	s := newStore(t, t.TempDir(), Options{})
	tests := []struct {
		reason     string
		credential source.Credential
		text       string
	}{
		{"right", source.NewCredential("a", source.Secret{Username: "robot", Password: "s3cret"}), ""},
		{"missing", source.Credential{}, "refer to a Secret with the keys username and password"},
		{"wrong", source.NewCredential("b", source.Secret{Username: "robot", Password: "guess-42"}), "refused the credentials"},
	}
	for _, test := range tests {
		_, err := s.Fetch(t.Context(), source.Request{URL: repo.URL(), Credential: test.credential})
		if test.text == "" {
			if err != nil {
				t.Errorf("%s credentials: %v", test.reason, err)
			}
			continue
		}
		wantFault(t, err, fault.Unauthorized, test.text)
		if strings.Contains(fmt.Sprintf("%+v %v", err, errors.Unwrap(err)), "guess-42") {
			t.Errorf("%s credentials: the password is in the error: %v", test.reason, err)
		}
	}
}

// TestCredentialsSeeTheirOwnRefs has two accounts at one URL, one of which may
// not see the secret branch. That its objects are in the shared store must not
// help the other account.
func TestCredentialsSeeTheirOwnRefs(t *testing.T) {
	_, repo := newServer(t, gitserver.Options{})
	public := push(t, repo, gitserver.Put("a", "public"))
	if err := repo.Branch("secret").Set(public); err != nil {
		t.Fatal(err)
	}
	private := push(t, repo.Branch("secret"), gitserver.Put("a", "private"))
	secretHead := push(t, repo.Branch("secret"), gitserver.Put("a", "more private"))
	// The front shows the guest another repository at the same URL: a copy
	// without the secret branch.
	if _, err := repo.Git("clone", "--quiet", "--bare", "--single-branch", "--branch", "main", repo.Dir(), filepath.Join(filepath.Dir(repo.Dir()), "guest.git")); err != nil {
		t.Fatal(err)
	}
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r2 := r.Clone(r.Context())
		if user, _, _ := r.BasicAuth(); user == "guest" {
			r2.URL.Path = strings.Replace(r.URL.Path, "/fleet.git", "/guest.git", 1)
		}
		forward(w, r2, repo.URL())
	}))
	defer front.Close()
	url := front.URL + "/fleet.git"
	owner, guest := source.NewCredential("owner", source.Secret{Username: "owner", Password: "1"}), source.NewCredential("guest", source.Secret{Username: "guest", Password: "2"})
	s := newStore(t, t.TempDir(), Options{})

	fetch(t, s, source.Request{URL: url, Ref: source.Ref{Branch: "secret"}, Credential: owner})
	fetch(t, s, source.Request{URL: url, Ref: source.Ref{Branch: "secret", Commit: private}, Credential: owner})
	_, err := s.Fetch(t.Context(), source.Request{URL: url, Ref: source.Ref{Branch: "secret"}, Credential: guest})
	wantFault(t, err, fault.NotFound, `no branch "secret"`)
	for _, id := range []string{private, secretHead} {
		_, err := s.Fetch(t.Context(), source.Request{URL: url, Ref: source.Ref{Commit: id}, Credential: guest})
		wantFault(t, err, fault.NotFound, "no branch or tag contains")
	}
	if rev := fetch(t, s, source.Request{URL: url, Credential: guest}); content(t, rev.Tree, "a") != "public" {
		t.Error("the guest does not see the public branch")
	}
}

func forward(w http.ResponseWriter, r *http.Request, backend string) {
	base := strings.TrimSuffix(backend, "/fleet.git")
	req, err := http.NewRequestWithContext(r.Context(), r.Method, base+r.URL.Path+"?"+r.URL.RawQuery, r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	req.Header.Set("Content-Type", r.Header.Get("Content-Type"))
	req.ContentLength = r.ContentLength
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer res.Body.Close()
	w.Header().Set("Content-Type", res.Header.Get("Content-Type"))
	w.WriteHeader(res.StatusCode)
	_, _ = io.Copy(w, res.Body)
}

func TestRedirectToAnotherHostDropsCredentials(t *testing.T) {
	var seen sync.Map
	_, repo := newServer(t, gitserver.Options{Wrap: func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if h := r.Header.Get("Authorization"); h != "" {
				seen.Store(r.Method, h)
			}
			next.ServeHTTP(w, r)
		})
	}})
	push(t, repo, gitserver.Put("a", "1"))
	var atOrigin atomic.Int64
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			atOrigin.Add(1)
		}
		http.Redirect(w, r, repo.URL()+"/info/refs?"+r.URL.RawQuery, http.StatusMovedPermanently)
	}))
	defer origin.Close()
	s := newStore(t, t.TempDir(), Options{})
	rev := fetch(t, s, source.Request{URL: origin.URL + "/x.git", Credential: source.NewCredential("id", source.Secret{Username: "robot", Password: "s3cret"})})
	if content(t, rev.Tree, "a") != "1" || atOrigin.Load() == 0 {
		t.Fatal("the redirect was not followed with credentials for the origin")
	}
	seen.Range(func(method, header any) bool {
		t.Errorf("the other host got %s on %s", header, method)
		return true
	})
}

func TestUnreachableServers(t *testing.T) {
	dead := httptest.NewServer(http.NotFoundHandler())
	dead.Close()
	slow := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	t.Cleanup(slow.Close)
	answer := func(f http.HandlerFunc) string {
		s := httptest.NewServer(f)
		t.Cleanup(s.Close)
		return s.URL
	}
	advertise := func(body string) string {
		return answer(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/x-git-upload-pack-advertisement")
			_, _ = w.Write([]byte(body))
		})
	}
	tests := []struct {
		reason, url, text string
		kind              fault.Kind
	}{
		{"nobody listens", dead.URL, "cannot be reached", fault.Unreachable},
		{"no answer", slow.URL, "did not answer in time", fault.Unreachable},
		{"a failing server", answer(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }), "status 503", fault.Unreachable},
		{"a forbidding server", answer(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }), "asks for credentials", fault.Unauthorized},
		{"a web page", answer(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>")) }), "not that of a Git server", fault.Unreachable},
		{"nonsense", advertise("zzzz"), "the exchange with the Git server at", fault.Unreachable},
		{"endless refs", advertise("001e# service=git-upload-pack\n0000" + "003a" + strings.Repeat("1", 40) + " HEAD\x00shallow\n" + strings.Repeat("0040"+strings.Repeat("1", 40)+" refs/heads/abcdefg\n", 4000)), "", fault.Limit},
		{"an unknown host", "http://host.invalid/x", "", fault.Unreachable},
	}
	s := newStore(t, t.TempDir(), Options{Timeout: 2 * time.Second, MaxRefs: 1 << 10})
	for _, test := range tests {
		t.Run(test.reason, func(t *testing.T) {
			t.Parallel()
			_, err := s.Fetch(context.Background(), source.Request{URL: test.url})
			t.Log(err)
			wantFault(t, err, test.kind, test.text)
		})
	}
}

func TestFileURLs(t *testing.T) {
	_, repo := newServer(t, gitserver.Options{})
	old := push(t, repo, gitserver.Put("a", "1"))
	url := "file://" + repo.Dir()
	_, err := newStore(t, t.TempDir(), Options{}).Fetch(t.Context(), source.Request{URL: url})
	wantFault(t, err, fault.Refused, "controller's own disk")

	s := newStore(t, t.TempDir(), Options{AllowFile: true})
	if rev := fetch(t, s, source.Request{URL: url}); content(t, rev.Tree, "a") != "1" || rev.Branch != "main" {
		t.Error("an allowed file URL gives something else")
	}
	push(t, repo, gitserver.Put("a", "2"))
	if rev := fetch(t, s, source.Request{URL: url}); content(t, rev.Tree, "a") != "2" {
		t.Error("a new commit is not seen")
	}
	if rev := fetch(t, s, source.Request{URL: url, Ref: source.Ref{Commit: old}}); content(t, rev.Tree, "a") != "1" {
		t.Error("an old commit is not seen")
	}
	_, err = s.Fetch(t.Context(), source.Request{URL: "file:///nowhere/at/all"})
	wantFault(t, err, fault.NotFound, "no such repository")
}

func TestLimits(t *testing.T) {
	_, repo := newServer(t, gitserver.Options{})
	noise := make([]byte, 300<<10)
	if _, err := rand.Read(noise); err != nil {
		t.Fatal(err)
	}
	zeros := strings.Repeat("\x00", 64<<20) // little when compressed
	push(t, repo, gitserver.Put("noise", string(noise)), gitserver.Put("bomb", zeros))
	_, err := newStore(t, t.TempDir(), Options{MaxPack: 100 << 10}).Fetch(t.Context(), source.Request{URL: repo.URL()})
	wantFault(t, err, fault.Limit, "more than 102400 bytes")

	s := newStore(t, t.TempDir(), Options{})
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	rev := fetch(t, s, source.Request{URL: repo.URL()})
	_, err = rev.Tree.ReadFile("bomb", 16<<20)
	runtime.ReadMemStats(&after)
	wantFault(t, err, fault.Limit, "16777216 are allowed")
	wantFault(t, err, fault.Limit, "bomb: ")
	if used := after.TotalAlloc - before.TotalAlloc; used > 24<<20 {
		t.Errorf("a file of 64 MiB that nobody may read cost %d bytes of memory", used)
	}
}

func TestKilledInMidFetch(t *testing.T) {
	var w wire
	_, repo := newServer(t, gitserver.Options{Wrap: w.wrap})
	push(t, repo, gitserver.Put("a", "1"))
	dir := t.TempDir()
	s := newStore(t, dir, Options{})
	req := source.Request{URL: repo.URL()}
	fetch(t, s, req)
	noise := make([]byte, 10<<10)
	if _, err := rand.Read(noise); err != nil {
		t.Fatal(err)
	}
	want := push(t, repo, gitserver.Put("b", string(noise)))
	w.breakPost.Store(true)
	_, err := s.Fetch(t.Context(), req)
	wantFault(t, err, fault.Unreachable, "")
	w.breakPost.Store(false)
	if rev := fetch(t, s, req); rev.Commit != want || content(t, rev.Tree, "b") != string(noise) {
		t.Error("the fetch after a broken one is wrong")
	}
	left, err := filepath.Glob(filepath.Join(s.repo(req).dir, "incoming-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
}

// TestDamagedStores puts the files into the states in which a killed process or
// a bad disk may leave them.
func TestDamagedStores(t *testing.T) {
	_, repo := newServer(t, gitserver.Options{})
	push(t, repo, gitserver.Put("a", "1"), gitserver.Put("dir/b", strings.Repeat("b", 1000)))
	req := source.Request{URL: repo.URL()}
	damage := func(pattern string, f func(name string, content []byte) error) func(string) error {
		return func(dir string) error {
			names, err := filepath.Glob(filepath.Join(dir, pattern))
			if err != nil || len(names) != 1 {
				return fmt.Errorf("%v %w", names, err)
			}
			content, err := os.ReadFile(names[0])
			if err != nil {
				return err
			}
			if err := os.Chmod(names[0], 0o600); err != nil {
				return err
			}
			return f(names[0], content)
		}
	}
	half := func(name string, content []byte) error { return os.WriteFile(name, content[:len(content)/2], 0o600) }
	empty := func(name string, _ []byte) error { return os.WriteFile(name, nil, 0o600) }
	gone := func(name string, _ []byte) error { return os.Remove(name) }
	flip := func(name string, content []byte) error {
		for i := 20; i < len(content)-20; i++ { // the whole inside
			content[i] ^= 0x55
		}
		return os.WriteFile(name, content, 0o600)
	}
	tests := []struct {
		reason string
		do     func(dir string) error
	}{
		{"half a pack", damage("*.pack", half)},
		{"an empty pack", damage("*.pack", empty)},
		{"no pack", damage("*.pack", gone)},
		{"rot in the pack", damage("*.pack", flip)},
		{"half an index", damage("*.idx", half)},
		{"no index", damage("*.idx", gone)},
		{"rot in the index", damage("*.idx", flip)},
		{"half a state", damage("state.json", half)},
		{"an empty state", damage("state.json", empty)},
		{"no state", damage("state.json", gone)},
		{"leftovers", func(dir string) error { return os.WriteFile(filepath.Join(dir, "incoming-1.pack"), []byte("x"), 0o600) }},
	}
	for _, test := range tests {
		t.Run(test.reason, func(t *testing.T) {
			dir := t.TempDir()
			first := newStore(t, dir, Options{})
			fetch(t, first, req)
			first.Close()
			place := first.repo(req).dir
			if err := test.do(place); err != nil {
				t.Fatal(err)
			}
			s := newStore(t, dir, Options{})
			// Rot where nobody looked yet shows when it is read, and the fetch after that mends it.
			var rev source.Revision
			for attempt := range 2 {
				rev = fetch(t, s, req)
				if _, err := rev.Tree.ReadFile("dir/b", 1<<20); err == nil {
					break
				} else if attempt == 1 {
					t.Fatal(err)
				}
			}
			if content(t, rev.Tree, "dir/b") != strings.Repeat("b", 1000) || content(t, rev.Tree, "a") != "1" {
				t.Error("the mended store has other content")
			}
			files, err := os.ReadDir(place)
			if err != nil || len(files) != 3 {
				t.Errorf("the store's directory holds %v (%v), want pack, index and state", files, err)
			}
		})
	}
}

func TestManyPacksBecomeOne(t *testing.T) {
	_, repo := newServer(t, gitserver.Options{})
	push(t, repo, gitserver.Put("base/file", strings.Repeat("text ", 5000)), gitserver.Put("a", "start"))
	s := newStore(t, t.TempDir(), Options{MaxPacks: 4})
	req := source.Request{URL: repo.URL()}
	held := fetch(t, s, req) // somebody renders from it all the while
	var last source.Revision
	for i := range 12 {
		push(t, repo, gitserver.Put("a", fmt.Sprint(i)), gitserver.Put("base/file", strings.Repeat("text ", 5000)+fmt.Sprint(i)))
		last = fetch(t, s, req)
		if content(t, last.Tree, "a") != fmt.Sprint(i) {
			t.Fatalf("round %d has other content", i)
		}
	}
	s.background.Wait()
	if n := s.repo(req).packCount(); n > 5 {
		t.Errorf("%d packs piled up, want 5 at most", n)
	}
	countCommits(t, s, req) // git finds the packs sound
	if content(t, held.Tree, "a") != "start" || content(t, held.Tree, "base/file") != strings.Repeat("text ", 5000) {
		t.Error("a tree that is still held lost its content")
	}
	if rev := fetch(t, s, req); rev.Commit != last.Commit {
		t.Errorf("the head became %s", rev.Commit)
	}
	pinned, err := repo.Git("rev-parse", "main~5")
	if err != nil {
		t.Fatal(err)
	}
	if rev := fetch(t, s, source.Request{URL: repo.URL(), Ref: source.Ref{Branch: "main", Commit: pinned}}); content(t, rev.Tree, "a") != "6" {
		t.Error("a commit of the history that was dropped has other content")
	}
}

func TestConcurrentUse(t *testing.T) {
	_, repo := newServer(t, gitserver.Options{})
	files := map[string]string{}
	for i := range 50 {
		files[fmt.Sprintf("apps/%d/x.yaml", i)] = fmt.Sprintf("value: %d\n", i)
	}
	push(t, repo, gitserver.Files(files)...)
	s := newStore(t, t.TempDir(), Options{MaxPacks: 2})
	var wg sync.WaitGroup
	for worker := range 4 {
		wg.Go(func() {
			for round := range 5 {
				if worker == 0 {
					if _, err := repo.Commit("more", gitserver.Put("round", fmt.Sprint(round))); err != nil {
						t.Error(err)
					}
				}
				rev, err := s.Fetch(context.Background(), source.Request{URL: repo.URL()})
				if err != nil {
					t.Error(err)
					continue
				}
				for i := range 50 {
					if b, err := rev.Tree.ReadFile(fmt.Sprintf("apps/%d/x.yaml", i), 100); err != nil || string(b) != fmt.Sprintf("value: %d\n", i) {
						t.Errorf("file %d: %q %v", i, b, err)
					}
				}
			}
		})
	}
	wg.Wait()
}
