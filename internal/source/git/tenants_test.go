package git

import (
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/source"
	"github.com/holdfastcd/holdfast/test/gitserver"
)

// TestTenantsWithOneURL has an owner, who delivers from a private repository, and
// others who know its address and the ids of its commits, and bring what they
// like: nothing, a guess, a CA or a proxy of their own. The objects are in the
// store by then.
func TestTenantsWithOneURL(t *testing.T) {
	var w wire
	server, repo := newServer(t, gitserver.Options{TLS: true, Username: "owner", Password: "s3cret", Wrap: w.wrap})
	private := push(t, repo, gitserver.Put("a", "private"))
	impostor, fake := newServer(t, gitserver.Options{TLS: true})
	push(t, fake, gitserver.Put("a", "forged"))
	const url = "https://git.example.com/fleet.git"
	way := gitserver.NewProxy(t, gitserver.ProxyOptions{Resolve: map[string]string{"git.example.com:443": server.Addr()}})
	detour := gitserver.NewProxy(t, gitserver.ProxyOptions{Resolve: map[string]string{"git.example.com:443": impostor.Addr()}})

	// The impostor says that its branch is at the owner's commit, and has nothing else.
	claim := fakeHead(t, private)
	claimed := gitserver.NewProxy(t, gitserver.ProxyOptions{Resolve: map[string]string{"git.example.com:443": claim.Addr()}})

	owner := source.NewCredential("owner", source.Secret{Username: "owner", Password: "s3cret", CA: server.CA(), Proxy: &source.Proxy{URL: way.URL()}})
	s := newStore(t, t.TempDir(), Options{})
	check := func(when string) {
		t.Helper()
		rev := fetch(t, s, source.Request{URL: url, Credential: owner})
		if rev.Commit != private || content(t, rev.Tree, "a") != "private" {
			t.Errorf("%s, the owner gets %s with %q", when, rev.Commit, content(t, rev.Tree, "a"))
		}
	}
	check("at first")
	others := []struct {
		reason string
		secret source.Secret
		kind   fault.Kind // 0: it gets what its own server has
	}{
		{"no credential", source.Secret{CA: server.CA(), Proxy: &source.Proxy{URL: way.URL()}}, fault.Unauthorized},
		{"a wrong credential", source.Secret{Username: "owner", Password: "guess", CA: server.CA(), Proxy: &source.Proxy{URL: way.URL()}}, fault.Unauthorized},
		{"the system's trust", source.Secret{Username: "owner", Password: "s3cret", Proxy: &source.Proxy{URL: way.URL()}}, fault.Unreachable},
		{"another CA", source.Secret{Username: "owner", Password: "s3cret", CA: impostor.CA(), Proxy: &source.Proxy{URL: way.URL()}}, fault.Unreachable},
		{"another proxy", source.Secret{CA: server.CA(), Proxy: &source.Proxy{URL: detour.URL()}}, fault.Unreachable},
		{"another CA and proxy", source.Secret{CA: impostor.CA(), Proxy: &source.Proxy{URL: detour.URL()}}, 0},
		{"a server that claims the commit", source.Secret{CA: claim.CA(), Proxy: &source.Proxy{URL: claimed.URL()}}, fault.Unreachable},
	}
	for _, o := range others {
		credential := source.NewCredential(o.reason, o.secret)
		for _, ref := range []source.Ref{{}, {Branch: "main"}, {Commit: private}, {Target: private[:8]}, {Branch: "main", Commit: private}} {
			rev, err := s.Fetch(t.Context(), source.Request{URL: url, Ref: ref, Credential: credential})
			switch {
			case err == nil && (o.kind != 0 || rev.Commit == private || content(t, rev.Tree, "a") != "forged"):
				t.Errorf("%s, %+v: it gets %s", o.reason, ref, rev.Commit)
			case err != nil && o.kind != 0 && fault.KindOf(err) != o.kind:
				t.Errorf("%s, %+v: %v (%v), want %v", o.reason, ref, err, fault.KindOf(err), o.kind)
			case err != nil && o.kind == 0 && fault.KindOf(err) != fault.NotFound:
				t.Errorf("%s, %+v: %v, want NotFound", o.reason, ref, err)
			}
		}
		w.reset()
		check("after " + o.reason)
		if w.posts.Load() != 0 {
			t.Errorf("%s made the owner fetch anew", o.reason)
		}
	}
	stores, err := filepath.Glob(filepath.Join(s.dir, "*", stateFile))
	if err != nil || len(stores) < 2 {
		t.Errorf("stores: %v %v", stores, err)
	}
}

// fakeHead serves a repository, with TLS, whose only branch is at a commit that
// the server does not have.
func fakeHead(t *testing.T, id string) *gitserver.Server {
	t.Helper()
	s, _ := newServer(t, gitserver.Options{TLS: true, Wrap: func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPost {
				w.Header().Set("Content-Type", "application/x-git-upload-pack-result")
				return
			}
			w.Header().Set("Content-Type", "application/x-git-upload-pack-advertisement")
			line := id + " refs/heads/main\x00symref=HEAD:refs/heads/main shallow\n"
			_, _ = w.Write([]byte("001e# service=git-upload-pack\n0000" + pkt(line) + "0000"))
		})
	}})
	return s
}

func pkt(line string) string {
	const digits = "0123456789abcdef"
	n := len(line) + 4
	return string([]byte{digits[n>>12], digits[n>>8&15], digits[n>>4&15], digits[n&15]}) + line
}

func TestConnectionsAreNotShared(t *testing.T) {
	seen := map[string]string{} // remote address → who used it
	_, repo := newServer(t, gitserver.Options{Wrap: func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			user, _, _ := r.BasicAuth()
			if before, ok := seen[r.RemoteAddr]; ok && before != user {
				t.Errorf("%q uses the connection of %q", user, before)
			}
			seen[r.RemoteAddr] = user
			next.ServeHTTP(w, r)
		})
	}})
	push(t, repo, gitserver.Put("a", "1"))
	s := newStore(t, t.TempDir(), Options{})
	for range 3 {
		for _, user := range []string{"", "one", "two"} {
			c := source.Credential{}
			if user != "" {
				c = source.NewCredential(user, source.Secret{Username: user, Password: "p"})
			}
			fetch(t, s, source.Request{URL: repo.URL(), Credential: c})
		}
	}
	if len(seen) > 3 {
		t.Errorf("%d connections for three credentials, want them kept", len(seen))
	}
}

func TestRoutesAreBounded(t *testing.T) {
	r := newRemote(t.TempDir(), Options{})
	closed := 0
	r.routes.dropped = func(way *route) { closed++; way.close() }
	for i := range maxRoutes + 5 {
		if _, err := r.route(source.NewCredential(strings.Repeat("x", i+1), source.Secret{})); err != nil {
			t.Fatal(err)
		}
	}
	if closed != 5 {
		t.Errorf("%d routes were closed, want the 5 that are too many", closed)
	}
	if r.close(); closed != maxRoutes+5 {
		t.Errorf("%d routes are closed in the end, want all %d", closed, maxRoutes+5)
	}
}
