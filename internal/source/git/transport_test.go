package git

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/source"
	"github.com/holdfastcd/holdfast/test/gitserver"
)

// sshServer serves a repository over SSH to the holder of the key it returns.
func sshServer(t testing.TB, passphrase string) (*gitserver.Server, *gitserver.Repo, source.Secret) {
	t.Helper()
	key, line, err := gitserver.NewSSHKey(passphrase)
	if err != nil {
		t.Fatal(err)
	}
	s, repo := newServer(t, gitserver.Options{AuthorizedKeys: []string{line}})
	return s, repo, source.Secret{SSHKey: key, Password: passphrase, KnownHosts: s.KnownHosts()}
}

func TestSSH(t *testing.T) {
	server, repo, secret := sshServer(t, "")
	first := push(t, repo, gitserver.Put("a", "1"), gitserver.Put("dir/same", "s"))
	second := push(t, repo, gitserver.Put("a", "2"))
	third := push(t, repo, gitserver.Put("a", "3"))
	s := newStore(t, t.TempDir(), Options{})
	req := source.Request{URL: server.SSHURL("fleet"), Credential: source.NewCredential("key", secret)}

	rev := fetch(t, s, req)
	if rev.Commit != third || rev.Branch != "main" || content(t, rev.Tree, "a") != "3" {
		t.Errorf("HEAD is %s on %s, want %s on main", rev.Commit, rev.Branch, third)
	}
	for id, want := range map[string]string{first: "1", second: "2"} { // which takes several questions on one connection
		old := req
		old.Ref = source.Ref{Commit: id}
		if rev := fetch(t, s, old); content(t, rev.Tree, "a") != want || content(t, rev.Tree, "dir/same") != "s" {
			t.Errorf("commit %s has other content", id)
		}
	}
	fourth := push(t, repo, gitserver.Put("a", "4"))
	if rev := fetch(t, s, req); rev.Commit != fourth || content(t, rev.Tree, "a") != "4" {
		t.Error("a new commit is not seen")
	}
	if again := fetch(t, s, req); again.Tree != fetch(t, s, req).Tree {
		t.Error("the same commit gives another tree value")
	}
	if _, err := s.Fetch(t.Context(), source.Request{URL: req.URL, Credential: req.Credential, Ref: source.Ref{Commit: strings.Repeat("12", 20)}}); fault.KindOf(err) != fault.NotFound {
		t.Errorf("a commit that is nowhere: %v", err)
	}
	hashed := secret
	hashed.KnownHosts = append([]byte("# a comment\n\nother.example.com ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl\n"), server.HashedKnownHosts()...)
	fetch(t, s, source.Request{URL: req.URL, Credential: source.NewCredential("hashed", hashed)})
}

func TestSSHRefusals(t *testing.T) {
	server, repo, right := sshServer(t, "")
	push(t, repo, gitserver.Put("a", "1"))
	encrypting, encrypted, locked := sshServer(t, "open sesame") // costs seconds to open, with the race detector
	push(t, encrypted, gitserver.Put("a", "1"))
	if _, err := server.Create("empty"); err != nil {
		t.Fatal(err)
	}
	_, _, other := sshServer(t, "")
	with := func(change func(*source.Secret)) source.Secret {
		s := right
		change(&s)
		return s
	}
	hostOf := strings.Fields(string(right.KnownHosts))[0]
	tests := []struct {
		reason string
		url    string
		secret source.Secret
		kind   fault.Kind
		text   string
	}{
		{"a key", "", right, 0, ""},
		{"an encrypted key and its passphrase", encrypting.SSHURL("fleet"), locked, 0, ""},
		{"no passphrase", "", with(func(s *source.Secret) { s.SSHKey = locked.SSHKey }), fault.Invalid, "passphrase"},
		{"a wrong passphrase", "", with(func(s *source.Secret) { s.SSHKey, s.Password = locked.SSHKey, "guess-42" }), fault.Invalid, "cannot be read"},
		{"no key", "", with(func(s *source.Secret) { s.SSHKey = nil }), fault.Unauthorized, "the key identity"},
		{"nonsense for a key", "", with(func(s *source.Secret) { s.SSHKey = []byte("guess-42") }), fault.Invalid, "cannot be read"},
		{"another key", "", with(func(s *source.Secret) { s.SSHKey, s.Password = other.SSHKey, "" }), fault.Unauthorized, "refused the SSH key"},
		{"no known hosts", "", with(func(s *source.Secret) { s.KnownHosts = nil }), fault.Refused, "the key known_hosts"},
		{"known hosts that cannot be read", "", with(func(s *source.Secret) { s.KnownHosts = []byte("guess-42\n") }), fault.Invalid, "known_hosts cannot be read"},
		{"known hosts of another server", "", with(func(s *source.Secret) { s.KnownHosts = other.KnownHosts }), fault.Unreachable, "has no key for"},
		{"another host's key", "", with(func(s *source.Secret) {
			_, key, _ := strings.Cut(string(other.KnownHosts), " ")
			s.KnownHosts = []byte(hostOf + " " + key)
		}), fault.Unreachable, "not the one in known_hosts"},
		{"a revoked host key", "", with(func(s *source.Secret) {
			s.KnownHosts = append([]byte("@revoked "+string(s.KnownHosts)), s.KnownHosts...)
		}), fault.Unreachable, "is revoked"},
		{"a key of another kind", "", with(func(s *source.Secret) {
			s.KnownHosts = []byte(hostOf + " ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBEmKSENjQEezOmxkZMy7opKgwFB9nkt5YRrYMjNuG5N87uRgg6CLrbo5wAdT/y6v0mKV0U2w0WZ2YB/++Tpockg=\n")
		}), fault.Unreachable, "offers no host key"},
		{"no such repository", server.SSHURL("none"), right, fault.NotFound, "no such repository"},
		{"an empty repository", server.SSHURL("empty"), right, fault.NotFound, "the repository is empty"},
	}
	s := newStore(t, t.TempDir(), Options{})
	for i, test := range tests {
		if test.url == "" {
			test.url = server.SSHURL("fleet")
		}
		_, err := s.Fetch(t.Context(), source.Request{URL: test.url, Credential: source.NewCredential(fmt.Sprint(i), test.secret)})
		t.Log(test.reason, "→", err, "·", errors.Unwrap(err))
		if test.text == "" {
			if err != nil {
				t.Errorf("%s: %v", test.reason, err)
			}
			continue
		}
		wantFault(t, err, test.kind, test.text)
		if strings.Contains(fmt.Sprintf("%+v %v", err, errors.Unwrap(err)), "guess-42") {
			t.Errorf("%s: the error tells a secret", test.reason)
		}
	}
	_, err := s.Fetch(t.Context(), source.Request{URL: server.SSHURL("fleet")})
	wantFault(t, err, fault.Refused, "cannot be checked")
}

// TestSSHServersThatDoNotBehave has one that says nothing, and one that sends refs
// without end.
func TestSSHServersThatDoNotBehave(t *testing.T) {
	server, repo, secret := sshServer(t, "")
	head := push(t, repo, gitserver.Put("a", "1"))
	for i := range 100 {
		if err := repo.SetRef(fmt.Sprintf("refs/heads/a-branch-of-some-length-%d", i), head); err != nil {
			t.Fatal(err)
		}
	}
	req := source.Request{URL: server.SSHURL("fleet"), Credential: source.NewCredential("key", secret)}
	_, err := newStore(t, t.TempDir(), Options{MaxRefs: 1 << 10}).Fetch(t.Context(), req)
	wantFault(t, err, fault.Limit, "more than is allowed")
	_, err = newStore(t, t.TempDir(), Options{MaxPack: 100}).Fetch(t.Context(), req)
	wantFault(t, err, fault.Limit, "more than 100 bytes")

	silent, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	_, port, _ := net.SplitHostPort(silent.Addr().String())
	_, line, _ := strings.Cut(string(secret.KnownHosts), " ")
	secret.KnownHosts = []byte("[127.0.0.1]:" + port + " " + line)
	req = source.Request{URL: "ssh://git@127.0.0.1:" + port + "/x", Credential: source.NewCredential("silent", secret)}
	_, err = newStore(t, t.TempDir(), Options{Timeout: 300 * time.Millisecond}).Fetch(t.Context(), req)
	wantFault(t, err, fault.Unreachable, "did not answer in time")
}

func TestSSHQuotesPaths(t *testing.T) {
	for path, want := range map[string]string{
		"/a/b.git": "'/a/b.git'", "/a b": "'/a b'", "/a'b": `'/a'\''b'`, "/a!b": `'/a'\!'b'`, "$(id)": "'$(id)'",
	} {
		if got := quoted(path); got != want {
			t.Errorf("%s becomes %s, want %s", path, got, want)
		}
	}
}

func TestSSHAlgorithmsFollowKnownHosts(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := signerOf(source.Secret{SSHKey: pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})}); err != nil {
		t.Errorf("a key in the old form: %v", err)
	}
	r := newRemote(t.TempDir(), Options{})
	check, err := r.hostKeys([]byte("host ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABAQDEbKq5U57fhzQ3SBbs3NVmgY2ouYZfPhc6cXBNEFpRT3T100fnbkYw+EHi76nwsp+uGxk08kh4GG881DrgotptrJj2dJxXpWp/SFdVu5S9fFU6l6dCTC9IBYYCCV8PvXbBZ3oDZyyyJT7/vXSaUdbk3x9MeNlYrgItm2KY6MdHYEg8R994Sspn1sE4Ydey5DfG/WNWVrzFCI0sWI3yj4zuCcUXFz9sEG8fIYikD9rNuohiMenWjkj6oLTwZGVW2q4wRL0051XBkmfnPD/H6gqOML9MbZQ8D6/+az0yF9oD61SkifhBNBRRNaIab/Np7XD61siR8zNMG/vCKjFGICnp\n"))
	if err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprint(algorithmsFor(check, "host:22"))
	if got != "[rsa-sha2-512 rsa-sha2-256]" {
		t.Errorf("for an RSA key: %s, want no SHA-1", got)
	}
	if got := algorithmsFor(check, "other:22"); got != nil {
		t.Errorf("for an unknown host: %v", got)
	}
}

func TestBearerToken(t *testing.T) {
	_, repo := newServer(t, gitserver.Options{Token: "t0ken"})
	push(t, repo, gitserver.Put("a", "1"))
	s := newStore(t, t.TempDir(), Options{})
	fetch(t, s, source.Request{URL: repo.URL(), Credential: source.NewCredential("a", source.Secret{Token: "t0ken"})})
	_, err := s.Fetch(t.Context(), source.Request{URL: repo.URL(), Credential: source.NewCredential("b", source.Secret{Token: "guess-42"})})
	wantFault(t, err, fault.Unauthorized, "refused the credentials")
	_, err = s.Fetch(t.Context(), source.Request{URL: repo.URL()})
	wantFault(t, err, fault.Unauthorized, "asks for credentials")
}

func TestTLS(t *testing.T) {
	open, repo := newServer(t, gitserver.Options{TLS: true})
	push(t, repo, gitserver.Put("a", "1"))
	closed, private := newServer(t, gitserver.Options{ClientCert: true})
	push(t, private, gitserver.Put("a", "1"))
	cert, key := closed.ClientCert()
	strangerCert, strangerKey := open.ClientCert()
	tests := []struct {
		reason string
		url    string
		secret source.Secret
		kind   fault.Kind
		text   string
	}{
		{"its CA", repo.URL(), source.Secret{CA: open.CA()}, 0, ""},
		{"the system's trust", repo.URL(), source.Secret{}, fault.Unreachable, "is not trusted"},
		{"another CA", repo.URL(), source.Secret{CA: closed.CA()}, fault.Unreachable, "is not trusted"},
		{"nonsense for a CA", repo.URL(), source.Secret{CA: []byte("x")}, fault.Invalid, "no certificate in PEM"},
		{"the right client certificate", private.URL(), source.Secret{CA: closed.CA(), ClientCert: cert, ClientKey: key}, 0, ""},
		{"no client certificate", private.URL(), source.Secret{CA: closed.CA()}, fault.Unauthorized, "another client certificate"},
		{"a client certificate of another CA", private.URL(), source.Secret{CA: closed.CA(), ClientCert: strangerCert, ClientKey: strangerKey}, fault.Unauthorized, "another client certificate"},
		{"a certificate without its key", private.URL(), source.Secret{CA: closed.CA(), ClientCert: cert}, fault.Invalid, "certificate and key"},
		{"the key of another certificate", private.URL(), source.Secret{CA: closed.CA(), ClientCert: cert, ClientKey: strangerKey}, fault.Invalid, "certificate and key"},
		{"TLS with one who does not speak it", strings.Replace(repoOf(t), "http:", "https:", 1), source.Secret{}, fault.Unreachable, "does not speak TLS"},
	}
	s := newStore(t, t.TempDir(), Options{})
	for i, test := range tests {
		rev, err := s.Fetch(t.Context(), source.Request{URL: test.url, Credential: source.NewCredential(fmt.Sprint(i), test.secret)})
		t.Log(test.reason, "→", err, "·", errors.Unwrap(err))
		switch {
		case test.text != "":
			wantFault(t, err, test.kind, test.text)
		case err != nil:
			t.Errorf("%s: %v", test.reason, err)
		case content(t, rev.Tree, "a") != "1":
			t.Errorf("%s: other content", test.reason)
		}
	}
}

func repoOf(t *testing.T) string {
	t.Helper()
	_, repo := newServer(t, gitserver.Options{})
	return repo.URL()
}

// TestRedirects has servers that send those who come elsewhere.
func TestRedirects(t *testing.T) {
	target, repo := newServer(t, gitserver.Options{TLS: true})
	push(t, repo, gitserver.Put("a", "1"))
	plain, _ := newServer(t, gitserver.Options{})
	secret := source.Secret{CA: target.CA(), Username: "robot", Password: "s3cret"}
	secret.ClientCert, secret.ClientKey = target.ClientCert()

	// The origin trusts the same CA, so that only the host differs.
	origin := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		base := target.BaseURL()
		if strings.HasPrefix(r.URL.Path, "/down") {
			base = plain.BaseURL()
		}
		http.Redirect(w, r, base+"/fleet.git/info/refs?"+r.URL.RawQuery, http.StatusFound)
	}))
	origin.StartTLS()
	defer origin.Close()
	secret.CA = append(secret.CA, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: origin.Certificate().Raw})...)
	s := newStore(t, t.TempDir(), Options{})
	_, err := s.Fetch(t.Context(), source.Request{URL: origin.URL + "/x.git", Credential: source.NewCredential("cert", secret)})
	wantFault(t, err, fault.Refused, "must not see the client certificate")

	secret.ClientCert, secret.ClientKey = nil, nil
	fetch(t, s, source.Request{URL: origin.URL + "/x.git", Credential: source.NewCredential("ca", secret)})
	_, err = s.Fetch(t.Context(), source.Request{URL: origin.URL + "/down.git", Credential: source.NewCredential("ca", secret)})
	t.Log("from https to http →", err)
	wantFault(t, err, fault.Unreachable, "")
}

// TestProxies uses a name that only the proxy can resolve.
func TestProxies(t *testing.T) {
	server, repo, key := sshServer(t, "")
	push(t, repo, gitserver.Put("a", "1"))
	secure, private := newServer(t, gitserver.Options{TLS: true})
	push(t, private, gitserver.Put("a", "1"))
	resolve := map[string]string{"git.example.com:80": server.Addr(), "git.example.com:443": secure.Addr(), "git.example.com:22": server.SSHAddr()}
	open := gitserver.NewProxy(t, gitserver.ProxyOptions{Resolve: resolve})
	closed := gitserver.NewProxy(t, gitserver.ProxyOptions{Resolve: resolve, Username: "p", Password: "w"})
	socks := socksProxy(t, resolve)
	key.KnownHosts = server.KnownHosts("git.example.com")
	urls := []string{"http://git.example.com/fleet.git", "https://git.example.com/fleet.git", "ssh://git@git.example.com/fleet.git", "git@git.example.com:fleet.git"}
	tests := []struct {
		reason string
		proxy  source.Proxy
		kind   fault.Kind
		text   string
	}{
		{"a proxy", source.Proxy{URL: open.URL()}, 0, ""},
		{"a proxy with credentials", source.Proxy{URL: closed.URL(), Username: "p", Password: "w"}, 0, ""},
		{"a proxy with other exceptions", source.Proxy{URL: open.URL(), NoProxy: "other.example.com,10.0.0.0/8"}, 0, ""},
		{"a SOCKS proxy", source.Proxy{URL: socks}, 0, ""},
		{"wrong credentials", source.Proxy{URL: closed.URL(), Username: "p", Password: "guess-42"}, fault.Unauthorized, "the proxy asks for other credentials"},
		{"no credentials", source.Proxy{URL: closed.URL()}, fault.Unauthorized, "the proxy asks for other credentials"},
		{"an exception", source.Proxy{URL: open.URL(), NoProxy: ".example.com"}, fault.Unreachable, ""},
		{"a dead proxy", source.Proxy{URL: "http://127.0.0.1:1"}, fault.Unreachable, "the proxy does not connect"},
		{"a proxy with a URL that holds credentials", source.Proxy{URL: "http://p:guess-42@127.0.0.1:1"}, fault.Refused, "holds credentials"},
		{"a proxy of another kind", source.Proxy{URL: "ftp://127.0.0.1:1"}, fault.Invalid, `scheme "ftp"`},
		{"nonsense", source.Proxy{URL: "127.0.0.1:1"}, fault.Invalid, "cannot be parsed"},
	}
	for i, test := range tests {
		s := newStore(t, t.TempDir(), Options{Timeout: 20 * time.Second, Proxy: func(*http.Request) (*url.URL, error) {
			t.Errorf("%s: the process's proxy was asked", test.reason)
			return nil, errors.New("not this one")
		}})
		for _, url := range urls {
			secret := key
			secret.CA, secret.Proxy = secure.CA(), &test.proxy
			_, err := s.Fetch(t.Context(), source.Request{URL: url, Credential: source.NewCredential(fmt.Sprint(i), secret)})
			t.Log(test.reason, url, "→", err)
			if test.kind == 0 && err != nil {
				t.Errorf("%s, %s: %v", test.reason, url, err)
			}
			if test.kind != 0 {
				wantFault(t, err, test.kind, test.text)
			}
			if strings.Contains(fmt.Sprintf("%+v %v", err, err), "guess-42") {
				t.Errorf("%s: the password is in the error", test.reason)
			}
		}
	}
	// Without one of its own, a request takes the process's way.
	s := newStore(t, t.TempDir(), Options{Proxy: func(*http.Request) (*url.URL, error) { return url.Parse(open.URL()) }})
	before := open.Requests()
	fetch(t, s, source.Request{URL: urls[0]})
	if open.Requests() == before {
		t.Error("the process's proxy was not used")
	}
}

// socksProxy is a SOCKS5 proxy (RFC 1928) for names, without authentication.
func socksProxy(t *testing.T, resolve map[string]string) string {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	t.Cleanup(func() { listener.Close(); cancel(); running.Wait() })
	serve := func(here net.Conn) {
		defer here.Close()
		head := make([]byte, 2+255)
		read := func(n int) []byte { _, _ = io.ReadFull(here, head[:n]); return head[:n] }
		read(int(read(2)[1])) // the methods it knows
		_, _ = here.Write([]byte{5, 0})
		n := int(read(5)[4]) // version, connect, 0, a name, its length
		name := string(read(n))
		port := read(2)
		there, err := net.Dial("tcp", resolve[fmt.Sprintf("%s:%d", name, int(port[0])<<8|int(port[1]))])
		if err != nil {
			return
		}
		defer there.Close()
		context.AfterFunc(ctx, func() { here.Close(); there.Close() })
		_, _ = here.Write([]byte{5, 0, 0, 1, 0, 0, 0, 0, 0, 0})
		running.Go(func() { _, _ = io.Copy(there, here); there.Close() })
		_, _ = io.Copy(here, there)
	}
	running.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			running.Go(func() { serve(conn) })
		}
	})
	return "socks5://" + listener.Addr().String()
}
