package oci_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/source"
	"github.com/holdfastcd/holdfast/internal/source/oci"
	"github.com/holdfastcd/holdfast/internal/tree"
	"github.com/holdfastcd/holdfast/test/signing"
)

const (
	flux  = "application/vnd.cncf.flux.content.v1.tar+gzip"
	plain = "application/vnd.oci.image.layer.v1.tar+gzip"
	rego  = "application/vnd.cncf.openpolicyagent.policy.layer.v1+rego"
	title = "org.opencontainers.image.title"
)

// packed is a tar of files, compressed by gzip.
func packed(tb testing.TB, headers ...tar.Header) []byte {
	tb.Helper()
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	w := tar.NewWriter(z)
	for _, h := range headers {
		content := h.Uname // a place for it in the tables below
		h.Uname = ""
		if h.Typeflag == 0 || h.Typeflag == tar.TypeReg {
			h.Typeflag, h.Size = tar.TypeReg, int64(len(content))
		}
		h.Mode = 0o644
		if err := w.WriteHeader(&h); err != nil {
			tb.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			if _, err := io.WriteString(w, content); err != nil {
				tb.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	if err := z.Close(); err != nil {
		tb.Fatal(err)
	}
	return out.Bytes()
}

func file(name, content string) tar.Header { return tar.Header{Name: name, Uname: content} }

// layer is one of an artifact.
func layer(media string, content []byte, notes ...string) mutate.Addendum {
	a := mutate.Addendum{Layer: static.NewLayer(content, types.MediaType(media)), Annotations: map[string]string{}}
	for i := 0; i+1 < len(notes); i += 2 {
		a.Annotations[notes[i]] = notes[i+1]
	}
	return a
}

// push pushes an artifact, and returns the digits of its digest.
func push(tb testing.TB, tag string, layers ...mutate.Addendum) string {
	tb.Helper()
	made, err := mutate.Append(mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), "application/vnd.cncf.flux.config.v1+json"), layers...)
	if err != nil {
		tb.Fatal(err)
	}
	at, err := name.NewTag(tag)
	if err != nil {
		tb.Fatal(err)
	}
	if err := remote.Write(at, made); err != nil {
		tb.Fatalf("push %s: %v", tag, err)
	}
	digest, err := made.Digest()
	if err != nil {
		tb.Fatal(err)
	}
	return digest.Hex
}

// content are the files of a tree.
func content(tb testing.TB, t tree.Tree) map[string]string {
	tb.Helper()
	all := map[string]string{}
	var walk func(dir string)
	walk = func(dir string) {
		entries, err := t.ReadDir(dir)
		if err != nil {
			tb.Fatal(err)
		}
		for _, e := range entries {
			at := strings.TrimPrefix(dir+"/"+e.Name, "/")
			if e.Kind == tree.Dir {
				walk(at)
				continue
			}
			text, err := t.ReadFile(at, 1<<20)
			if err != nil {
				tb.Fatal(err)
			}
			all[at] = string(text)
		}
	}
	walk("")
	return all
}

func fetch(tb testing.TB, f *oci.Fetcher, url string, ref source.Ref) (source.Revision, error) {
	tb.Helper()
	return f.Fetch(context.Background(), source.Request{URL: url, Ref: ref})
}

// TestArtifacts fetches each form of artifact from both registries.
func TestArtifacts(t *testing.T) {
	t.Parallel()
	mebi := strings.Repeat("a", 1<<20)
	archive := packed(t, tar.Header{Name: "./", Typeflag: tar.TypeDir}, file("./p/a.rego", "package a"), file("b.yaml", "b"), file(".git/config", "x"))
	tests := []struct {
		name, reason string
		layers       []mutate.Addendum
		want         map[string]string
		kind         fault.Kind
		text         string
	}{
		{name: "flux", reason: "flux push artifact", layers: []mutate.Addendum{layer(flux, archive)}, want: map[string]string{"p/a.rego": "package a", "b.yaml": "b"}},
		{name: "fluxfirst", reason: "its content counts, whatever is beside it", layers: []mutate.Addendum{layer(plain, packed(t, file("x", "x"))), layer(flux, archive)}, want: map[string]string{"p/a.rego": "package a", "b.yaml": "b"}},
		{name: "bundle", reason: "opa build and push: one layer", layers: []mutate.Addendum{layer(plain, archive)}, want: map[string]string{"p/a.rego": "package a", "b.yaml": "b"}},
		{
			name: "conftest", reason: "conftest push: a layer for each file",
			layers: []mutate.Addendum{layer(rego, []byte("package a"), title, "policy/a.rego"), layer("application/vnd.oci.image.layer.v1.tar", []byte("b"), title, "b.yaml")},
			want:   map[string]string{"policy/a.rego": "package a", "b.yaml": "b"},
		},
		{
			name: "oras", reason: "oras push of a file and a directory",
			layers: []mutate.Addendum{layer("text/plain", []byte("a"), title, "a.rego"), layer(plain, packed(t, file("d/b.yaml", "b")), title, "d", "io.deis.oras.content.unpack", "true")},
			want:   map[string]string{"a.rego": "a", "d/b.yaml": "b"},
		},
		{name: "image", reason: "an image of several layers is no artifact", layers: []mutate.Addendum{layer(plain, archive), layer(plain, packed(t, file("x", "x")))}, kind: fault.Unsupported, text: "without a name"},
		{name: "other", reason: "a layer of which nobody knows what it is", layers: []mutate.Addendum{layer("application/zip", archive)}, kind: fault.Unsupported, text: "application/zip without a name"},
		{name: "nogzip", reason: "a layer that is not what it says", layers: []mutate.Addendum{layer(flux, []byte("package a"))}, kind: fault.Invalid, text: "not compressed"},
		{name: "notar", reason: "an archive that is none", layers: []mutate.Addendum{layer(flux, packed(t, file("a", "a"))[:40])}, kind: fault.Invalid, text: "no archive"},
		{name: "out", reason: "a name that leads out", layers: []mutate.Addendum{layer(flux, packed(t, file("../a.rego", "a")))}, kind: fault.Refused, text: "leads out"},
		{name: "outnamed", reason: "so does the name of a file", layers: []mutate.Addendum{layer(rego, []byte("a"), title, "../a.rego")}, kind: fault.Refused, text: "leads out"},
		{name: "absolute", reason: "an absolute one", layers: []mutate.Addendum{layer(flux, packed(t, file("/etc/a.rego", "a")))}, kind: fault.Refused, text: "leads out"},
		{name: "link", reason: "a symlink that leads out", layers: []mutate.Addendum{layer(flux, packed(t, tar.Header{Name: "p/a.rego", Typeflag: tar.TypeSymlink, Linkname: "../../etc/passwd"}))}, kind: fault.Refused, text: "leads out"},
		{name: "hard", reason: "a hard link", layers: []mutate.Addendum{layer(flux, packed(t, tar.Header{Name: "a", Typeflag: tar.TypeLink, Linkname: "b"}))}, kind: fault.Refused, text: "only files"},
		{name: "twice", reason: "a file that is there twice", layers: []mutate.Addendum{layer(flux, packed(t, file("a", "a"), file("./a", "b")))}, kind: fault.Refused, text: "twice"},
		{name: "large", reason: "a file that is too large", layers: []mutate.Addendum{layer(flux, packed(t, file("a", mebi+"a")))}, kind: fault.Limit, text: "the file has"},
		{name: "bomb", reason: "many that are, together, and small as they are sent", layers: []mutate.Addendum{layer(flux, packed(t, file("a", mebi), file("b", mebi), file("c", mebi), file("d", "d")))}, kind: fault.Limit, text: "the file has"},
		{name: "many", reason: "more files than are allowed", layers: []mutate.Addendum{layer(flux, packed(t, numbered(60)...))}, kind: fault.Limit, text: "more than 50"},
		{name: "deep", reason: "a file that lies too deep", layers: []mutate.Addendum{layer(flux, packed(t, file(strings.Repeat("d/", 70)+"a", "a")))}, kind: fault.Limit, text: "deeper"},
	}
	for host, at := range map[string]string{"registry": signing.Registry(t), "distribution": signing.Distribution(t)} {
		for _, tt := range tests {
			t.Run(host+"/"+tt.name, func(t *testing.T) {
				t.Parallel()
				url := at + "/policies/" + tt.name
				digest := push(t, url+":v1", tt.layers...)
				f := oci.New(oci.Options{Limits: tree.Limits{FileBytes: 1 << 20, TotalBytes: 3 << 20, Count: 50}})
				got, err := fetch(t, f, "oci://"+url, source.Ref{Tag: "v1"})
				if tt.want == nil {
					if err == nil || fault.KindOf(err) != tt.kind || !strings.Contains(err.Error(), tt.text) {
						t.Errorf("%s: got %v", tt.reason, err)
					}
					return
				}
				if err != nil {
					t.Fatalf("%s: %v", tt.reason, err)
				}
				if got.Commit != digest || got.Tag != "v1" || got.Artifact != url+":v1" || got.URL != url || got.History != nil {
					t.Errorf("%s: the revision is %+v, and sha256:%s was pushed", tt.reason, got, digest)
				}
				if diff := cmp.Diff(tt.want, content(t, got.Tree)); diff != "" {
					t.Errorf("%s (-want +got):\n%s", tt.reason, diff)
				}
			})
		}
	}
}

func numbered(n int) []tar.Header {
	var all []tar.Header
	for i := range n {
		all = append(all, file(fmt.Sprintf("%d.rego", i), "a"))
	}
	return all
}

// TestRefs tries how a revision is chosen.
func TestRefs(t *testing.T) {
	t.Parallel()
	at := signing.Registry(t) + "/policies/refs"
	digests := map[string]string{}
	for _, tag := range []string{"latest", "v1.0.0", "1.2.0", "v2.0.0-rc.1", "v1.10.0", "1.9", "nonsense"} {
		digests[tag] = push(t, at+":"+tag, layer(flux, packed(t, file("a.rego", tag))))
	}
	tests := []struct {
		reason string
		ref    source.Ref
		tag    string // by which it was found
		want   string
		kind   fault.Kind
	}{
		{"nothing is the tag latest", source.Ref{}, "latest", "latest", 0},
		{"a tag", source.Ref{Tag: "v1.0.0"}, "v1.0.0", "v1.0.0", 0},
		{"the highest version, by its numbers", source.Ref{SemVer: "1.x"}, "v1.10.0", "v1.10.0", 0},
		{"one before a release, where it is asked for", source.Ref{SemVer: ">=1.0.0-0"}, "v2.0.0-rc.1", "v2.0.0-rc.1", 0},
		{"a digest", source.Ref{Commit: digests["1.2.0"]}, "", "1.2.0", 0},
		{"a tag that is not there", source.Ref{Tag: "v3"}, "", "", fault.NotFound},
		{"a range that nothing is in", source.Ref{SemVer: ">3"}, "", "", fault.NotFound},
		{"a range that is none", source.Ref{SemVer: "one"}, "", "", fault.Invalid},
		{"a digest that is not there", source.Ref{Commit: strings.Repeat("a", 64)}, "", "", fault.NotFound},
		{"half a digest", source.Ref{Commit: digests["1.2.0"][:40]}, "", "", fault.Invalid},
		{"a tag that none can be", source.Ref{Tag: "../x"}, "", "", fault.Invalid},
		{"a branch", source.Ref{Branch: "main"}, "", "", fault.Invalid},
	}
	for _, tt := range tests {
		got, err := fetch(t, oci.New(oci.Options{}), "oci://"+at, tt.ref)
		if tt.want == "" {
			if err == nil || fault.KindOf(err) != tt.kind {
				t.Errorf("%s: got %v", tt.reason, err)
			}
			continue
		}
		if err != nil || got.Commit != digests[tt.want] || got.Tag != tt.tag {
			t.Errorf("%s: got %s by %q, %v", tt.reason, got.Commit, got.Tag, err)
		}
	}
}

// guarded is a registry that wants a credential, over TLS, and can be broken.
type guarded struct {
	*httptest.Server

	inner http.Handler
	sent  atomic.Int64 // blobs
	wrong atomic.Bool  // blobs are others than were asked for
	down  atomic.Bool
	away  atomic.Value // where blobs are instead
}

func newGuarded(tb testing.TB) *guarded {
	tb.Helper()
	g := &guarded{inner: registry.New(registry.Logger(log.New(io.Discard, "", 0)))}
	g.Server = httptest.NewUnstartedServer(g)
	g.Config.ErrorLog = log.New(io.Discard, "", 0)
	g.StartTLS()
	tb.Cleanup(g.Close)
	return g
}

// ServeHTTP implements http.Handler.
func (g *guarded) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	user, word, _ := r.BasicAuth()
	blob := r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/")
	away, _ := g.away.Load().(string)
	switch {
	case g.down.Load():
		w.WriteHeader(http.StatusServiceUnavailable)
	case user != "robot" || word != "secret-word":
		w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
		w.WriteHeader(http.StatusUnauthorized)
	case blob && g.wrong.Load():
		_, _ = io.WriteString(w, "package evil")
	case blob && away != "":
		http.Redirect(w, r, away+r.URL.Path, http.StatusTemporaryRedirect)
	default:
		if blob {
			g.sent.Add(1)
		}
		g.inner.ServeHTTP(w, r)
	}
}

func (g *guarded) host() string { return strings.TrimPrefix(g.URL, "https://") }

func (g *guarded) ca() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: g.Certificate().Raw})
}

// push puts an artifact into it, past its guard.
func (g *guarded) push(tb testing.TB, tag, text string) string {
	tb.Helper()
	open := httptest.NewServer(g.inner)
	defer open.Close()
	return push(tb, strings.TrimPrefix(open.URL, "http://")+"/policies/a:"+tag, layer(flux, packed(tb, file("a.rego", text))))
}

func (g *guarded) request(tb testing.TB, user, word string) source.Request {
	tb.Helper()
	c, err := oci.Credential("ns/s@1", "oci://"+g.host()+"/policies/a", map[string][]byte{
		"ca.crt":            g.ca(),
		".dockerconfigjson": []byte(`{"auths": {"https://` + g.host() + `/v2/": {"username": "` + user + `", "password": "` + word + `"}, "other.example": {"auth": "eDp5"}}}`),
	})
	if err != nil {
		tb.Fatal(err)
	}
	return source.Request{URL: "oci://" + g.host() + "/policies/a", Ref: source.Ref{Tag: "v1"}, Credential: c}
}

// TestGuarded tries a registry with TLS and a password: what is asked of it, and what is not.
func TestGuarded(t *testing.T) {
	t.Parallel()
	g := newGuarded(t)
	first := g.push(t, "v1", "one")
	f, req := oci.New(oci.Options{}), g.request(t, "robot", "secret-word")
	get := func(reason, want string, kind fault.Kind, text string) {
		t.Helper()
		got, err := f.Fetch(t.Context(), req)
		switch {
		case want != "" && (err != nil || got.Commit != want):
			t.Errorf("%s: got %s, %v", reason, got.Commit, err)
		case want == "" && (err == nil || fault.KindOf(err) != kind || !strings.Contains(err.Error(), text) || strings.Contains(err.Error(), "secret-word")):
			t.Errorf("%s: got %v", reason, err)
		}
	}
	get("who may read it, does", first, 0, "")
	get("and again", first, 0, "")
	if n := g.sent.Load(); n != 1 {
		t.Errorf("a layer that did not change was sent %d times", n)
	}
	second := g.push(t, "v1", "two")
	get("a tag that moved", second, 0, "")
	if n := g.sent.Load(); n != 2 {
		t.Errorf("the layer that changed was sent: %d", n)
	}
	g.push(t, "v1", "three")
	g.wrong.Store(true)
	get("a layer that is another than the manifest names", "", fault.Unreachable, "something else")
	g.wrong.Store(false)
	var heard atomic.Value
	other := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		heard.Store("asked " + r.Header.Get("Authorization"))
		w.WriteHeader(http.StatusNotFound)
	}))
	defer other.Close()
	g.away.Store(other.URL)
	get("a layer that is elsewhere", "", fault.NotFound, "")
	if text, _ := heard.Load().(string); text != "asked " {
		t.Errorf("the other host heard %q", text)
	}
	g.away.Store("http://registry.example")
	get("a layer that is elsewhere, in the clear", "", fault.Refused, "not by https")
	g.away.Store("")
	g.down.Store(true)
	get("a registry that is down", "", fault.Unreachable, "503")
	g.down.Store(false)
	req = g.request(t, "robot", "wrong")
	get("a wrong password", "", fault.Unauthorized, "secretRef")
	req.Credential = source.Credential{}
	get("a certificate that nobody vouches for", "", fault.Unreachable, "")
	req.URL = "oci+http://" + g.host() + "/policies/a"
	get("HTTP where TLS is spoken", "", fault.Unreachable, "")
	g.Close()
	req = g.request(t, "robot", "secret-word")
	get("a registry that is gone", "", fault.Unreachable, "cannot be reached")
}

// TestClear tries that a registry away from this machine is not asked by HTTP, unless the
// source says so.
func TestClear(t *testing.T) {
	t.Parallel()
	for url, want := range map[string]bool{
		"oci://registry.example/a": false, "oci://10.1.2.3:5000/a": false, "oci://127.0.0.1:5000/a": true, "oci+http://registry.example/a": true,
	} {
		var open atomic.Bool
		f := oci.New(oci.Options{Transport: round(func(r *http.Request) (*http.Response, error) {
			if r.URL.Scheme == "https" {
				return nil, http.ErrSchemeMismatch
			}
			open.Store(true)
			return &http.Response{StatusCode: http.StatusNotFound, Body: http.NoBody, Request: r, Header: http.Header{}}, nil
		})})
		if _, err := fetch(t, f, url, source.Ref{}); err == nil {
			t.Errorf("%s: nothing is there", url)
		}
		if open.Load() != want {
			t.Errorf("%s: asked in the clear: %v", url, open.Load())
		}
	}
}

type round func(*http.Request) (*http.Response, error)

// RoundTrip implements http.RoundTripper.
func (f round) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// TestIndex tries an index of images.
func TestIndex(t *testing.T) {
	t.Parallel()
	at := signing.PushIndex(t, signing.Registry(t)+"/policies/index:v1")
	repository, _, _ := strings.Cut(at.Ref, "@")
	if _, err := fetch(t, oci.New(oci.Options{}), "oci://"+repository, source.Ref{Tag: "v1"}); fault.KindOf(err) != fault.Unsupported {
		t.Errorf("got %v", err)
	}
}

// TestEndless tries a registry that answers without end.
func TestEndless(t *testing.T) {
	t.Parallel()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v2/" {
			return
		}
		w.Header().Set("Content-Type", string(types.OCIManifestSchema1))
		for err := error(nil); err == nil; {
			_, err = io.WriteString(w, strings.Repeat(" ", 64<<10))
		}
	}))
	defer s.Close()
	f := oci.New(oci.Options{Limits: tree.Limits{FileBytes: 1 << 10, TotalBytes: 1 << 20, Count: 10}})
	for _, ref := range []source.Ref{{}, {SemVer: "1.x"}} {
		if _, err := fetch(t, f, "oci://"+strings.TrimPrefix(s.URL, "http://")+"/a", ref); fault.KindOf(err) != fault.Limit {
			t.Errorf("%+v: got %v", ref, err)
		}
	}
}

func TestCredential(t *testing.T) {
	config := func(auths string) map[string][]byte {
		return map[string][]byte{".dockerconfigjson": []byte(`{"auths": {` + auths + `}}`)}
	}
	tests := []struct {
		reason, url string
		data        map[string][]byte
		user, word  string
		kind        fault.Kind // of the error, if no user is wanted
	}{
		{"username and password", "oci://r.example/a", map[string][]byte{"username": []byte("u"), "password": []byte("secret-word")}, "u", "secret-word", 0},
		{"Docker's encoding", "oci://r.example/a", config(`"r.example": {"auth": "dTpzZWNyZXQtd29yZA=="}`), "u", "secret-word", 0},
		{"the longest beginning of the name", "oci://r.example/team/a", config(`"r.example": {"auth": "eDp5"}, "r.example/team": {"auth": "dTpw"}, "r.example/other": {"auth": "eDp5"}`), "u", "p", 0},
		{"not the beginning of a word", "oci://r.example/teams", config(`"r.example/team": {"auth": "dTpw"}`), "", "", fault.Unauthorized},
		{"Docker's own host", "oci://docker.io/team/a", config(`"https://index.docker.io/v1/": {"username": "u", "password": "p"}`), "u", "p", 0},
		{"another host", "oci://r.example/a", config(`"q.example": {"auth": "dTpw"}`), "", "", fault.Unauthorized},
		{"a host that ends alike", "oci://r.example/a", config(`"evil.r.example": {"auth": "dTpw"}`), "", "", fault.Unauthorized},
		{"another port", "oci://r.example:5000/a", config(`"r.example": {"auth": "dTpw"}`), "", "", fault.Unauthorized},
		{"a token", "oci://r.example/a", config(`"r.example": {"identitytoken": "secret-word"}`), "", "", fault.Unsupported},
		{"an encoding that is none", "oci://r.example/a", config(`"r.example": {"auth": "secret-word"}`), "", "", fault.Invalid},
		{"no JSON", "oci://r.example/a", map[string][]byte{".dockerconfigjson": []byte("secret-word")}, "", "", fault.Invalid},
		{"one of two", "oci://r.example/a", map[string][]byte{"username": []byte("u")}, "", "", fault.Unauthorized},
		{"two ways", "oci://r.example/a", map[string][]byte{"username": []byte("u"), "password": []byte("p"), ".dockerconfigjson": []byte("{}")}, "", "", fault.Unauthorized},
		{"a client certificate", "oci://r.example/a", map[string][]byte{"tls.crt": []byte("x")}, "", "", fault.Unsupported},
		{"nothing", "oci://r.example/a", nil, "", "", fault.Unauthorized},
		{"a bucket", "s3://r.example/abc?region=x", map[string][]byte{"username": []byte("u"), "password": []byte("p")}, "", "", fault.Unsupported},
	}
	for _, tt := range tests {
		got, err := oci.Credential("ns/s@1", tt.url, tt.data)
		if tt.user == "" {
			if err == nil || fault.KindOf(err) != tt.kind || strings.Contains(err.Error(), "secret-word") {
				t.Errorf("%s: got %v", tt.reason, err)
			}
			continue
		}
		if s := got.Secret(); err != nil || s.Username != tt.user || s.Password != tt.word || strings.Contains(got.String(), "secret-word") {
			t.Errorf("%s: got %s, %v", tt.reason, s.Username, err)
		}
	}
}
