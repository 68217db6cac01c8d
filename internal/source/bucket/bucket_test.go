package bucket

import (
	"context"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/source"
	"github.com/holdfastcd/holdfast/internal/tree"
	"github.com/holdfastcd/holdfast/test/stores"
)

// world is a bucket on a server that speaks S3, behind one that counts what passes.
type world struct {
	server *stores.Buckets
	client *s3.Client
	name   string
	front  *httptest.Server
	seen   *front
}

// front counts and changes what passes.
type front struct {
	http.Handler

	mu     sync.Mutex
	read   []string
	before func(w http.ResponseWriter, r *http.Request) bool // false: it has answered
}

// ServeHTTP implements http.Handler.
func (f *front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	before := f.before
	if r.URL.Query().Get("list-type") == "" {
		_, key, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
		f.read = append(f.read, key)
	}
	f.mu.Unlock()
	if before == nil || before(w, r) {
		f.Handler.ServeHTTP(w, r)
	}
}

// took returns the keys of the objects that were read since it was asked last.
func (f *front) took() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	all := f.read
	f.read = nil
	slices.Sort(all)
	return all
}

func (f *front) on(before func(w http.ResponseWriter, r *http.Request) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.before = before
}

func newWorld(t *testing.T, server *stores.Buckets) *world {
	t.Helper()
	w := &world{server: server, name: server.Bucket(t)}
	w.client = s3.New(s3.Options{
		Region: "us-east-1", BaseEndpoint: &server.Endpoint, UsePathStyle: true,
		Credentials: credentials.NewStaticCredentialsProvider(stores.AccessKey, stores.SecretKey, ""),
	})
	to, err := url.Parse(server.Endpoint)
	if err != nil {
		t.Fatal(err)
	}
	// The host is part of what is signed, and stays as it is.
	w.seen = &front{Handler: &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(to)
		r.Out.Host = r.In.Host
	}}}
	w.front = httptest.NewUnstartedServer(w.seen)
	w.front.Config.ErrorLog = log.New(io.Discard, "", 0)
	w.front.StartTLS()
	t.Cleanup(w.front.Close)
	return w
}

func (w *world) put(t *testing.T, files map[string]string) {
	t.Helper()
	for key, content := range files {
		if _, err := w.client.PutObject(t.Context(), &s3.PutObjectInput{Bucket: &w.name, Key: &key, Body: strings.NewReader(content)}); err != nil {
			t.Fatal(err)
		}
	}
}

func (w *world) remove(t *testing.T, key string) {
	t.Helper()
	if _, err := w.client.DeleteObject(t.Context(), &s3.DeleteObjectInput{Bucket: &w.name, Key: aws.String(key)}); err != nil {
		t.Fatal(err)
	}
}

func (w *world) at(prefix string) source.Bucket {
	return source.Bucket{Endpoint: strings.TrimPrefix(w.front.URL, "https://"), Name: w.name, Region: "us-east-1", Prefix: prefix}
}

func (w *world) request(t *testing.T, at source.Bucket, access, secret string) source.Request {
	t.Helper()
	c, err := Credential("ns/s@"+secret, map[string][]byte{
		"accesskey": []byte(access), "secretkey": []byte(secret),
		"ca.crt": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: w.front.Certificate().Raw}),
	})
	if err != nil {
		t.Fatal(err)
	}
	return source.Request{URL: at.URL(), Credential: c}
}

// files are those of a tree, by their names.
func files(t *testing.T, r tree.Tree) map[string]string {
	t.Helper()
	all := map[string]string{}
	var walk func(dir string)
	walk = func(dir string) {
		entries, err := r.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			at := strings.TrimPrefix(dir+"/"+e.Name, "/")
			if e.Kind == tree.Dir {
				walk(at)
				continue
			}
			text, err := r.ReadFile(at, 1<<20)
			if err != nil {
				t.Fatal(err)
			}
			all[at] = string(text)
		}
	}
	walk("")
	return all
}

// Test runs all that needs a server, with one of them.
func Test(t *testing.T) {
	if testing.Short() {
		t.Skip("it needs a server of buckets")
	}
	server := stores.S3(t)
	for name, test := range map[string]func(*testing.T, *world){"Fetch": fetches, "Refusals": refusals, "Moving": moving, "Bounds": bounds} {
		t.Run(name, func(t *testing.T) { test(t, newWorld(t, server)) })
	}
	t.Run("Down", func(t *testing.T) {
		w := newWorld(t, server)
		w.put(t, map[string]string{"a.rego": "a"})
		req := w.request(t, w.at(""), stores.AccessKey, stores.SecretKey)
		w.front.Close()
		if _, err := New(Options{}).Fetch(t.Context(), req); fault.KindOf(err) != fault.Unreachable || !strings.Contains(err.Error(), "cannot be reached") {
			t.Errorf("a server that is gone: %v", err)
		}
	})
}

func fetches(t *testing.T, w *world) {
	w.put(t, map[string]string{"p/a.rego": "package a", "p/sub/b.yaml": "b", "q/c.rego": "c"})
	f, req := New(Options{}), w.request(t, w.at("p/"), stores.AccessKey, stores.SecretKey)
	get := func(reason string, want map[string]string, took ...string) string {
		t.Helper()
		got, err := f.Fetch(t.Context(), req)
		if err != nil {
			t.Fatalf("%s: %v", reason, err)
		}
		if found := files(t, got.Tree); !maps.Equal(found, want) {
			t.Errorf("%s: got %v", reason, found)
		}
		if read := w.seen.took(); !slices.Equal(read, took) {
			t.Errorf("%s: read %q, want %q", reason, read, took)
		}
		if got.History != nil || got.URL != w.at("").Endpoint+"/"+w.name {
			t.Errorf("%s: %+v", reason, got)
		}
		return got.Commit
	}
	first := get("what has the prefix, under its whole name", map[string]string{"p/a.rego": "package a", "p/sub/b.yaml": "b"}, "p/a.rego", "p/sub/b.yaml")
	if again := get("nothing changed", map[string]string{"p/a.rego": "package a", "p/sub/b.yaml": "b"}); again != first {
		t.Errorf("it is %s, and was %s", again, first)
	}
	w.put(t, map[string]string{"p/a.rego": "package b"})
	second := get("one changed", map[string]string{"p/a.rego": "package b", "p/sub/b.yaml": "b"}, "p/a.rego")
	w.remove(t, "p/sub/b.yaml")
	third := get("one is gone", map[string]string{"p/a.rego": "package b"})
	w.put(t, map[string]string{"p/a.rego": "package a", "p/sub/b.yaml": "b"})
	fourth := get("all is as it was", map[string]string{"p/a.rego": "package a", "p/sub/b.yaml": "b"}, "p/a.rego", "p/sub/b.yaml")
	if len(first) != 64 || first == second || second == third || fourth != first {
		t.Errorf("a revision is known by its content: %s, %s, %s, %s", first, second, third, fourth)
	}
	other := w.request(t, w.at("p/"), stores.AccessKey, "wrong")
	if _, err := f.Fetch(t.Context(), other); fault.KindOf(err) != fault.Unauthorized {
		t.Errorf("what one credential was shown is not another's: %v", err)
	}
}

func refusals(t *testing.T, w *world) {
	w.put(t, map[string]string{"p/a.rego": "package a"})
	missing, elsewhere := w.at(""), w.at("")
	missing.Name, elsewhere.Clear = "missing", true
	anonymous := w.request(t, w.at(""), stores.AccessKey, stores.SecretKey)
	anonymous.Credential = source.NewCredential("ca", source.Secret{CA: anonymous.Credential.Secret().CA})
	untrusted := w.request(t, w.at(""), stores.AccessKey, stores.SecretKey)
	untrusted.Credential = source.NewCredential("no-ca", source.Secret{Username: stores.AccessKey, Password: stores.SecretKey})
	branch := w.request(t, w.at(""), stores.AccessKey, stores.SecretKey)
	branch.Ref.Branch = "main"
	tests := []struct {
		reason string
		req    source.Request
		kind   fault.Kind
		text   string
	}{
		{"a secret that is wrong", w.request(t, w.at(""), stores.AccessKey, "secret-word"), fault.Unauthorized, "secretRef"},
		{"no key", anonymous, fault.Unauthorized, "secretRef"},
		{"a bucket that is not there", w.request(t, missing, stores.AccessKey, stores.SecretKey), fault.NotFound, "no bucket missing"},
		{"a prefix that nothing has", w.request(t, w.at("none/"), stores.AccessKey, stores.SecretKey), fault.NotFound, `"none/"`},
		{"a certificate that nobody vouches for", untrusted, fault.Unreachable, "not trusted"},
		{"HTTP where TLS is spoken", w.request(t, elsewhere, stores.AccessKey, stores.SecretKey), fault.Unreachable, ""},
		{"a branch", branch, fault.Invalid, "no branches"},
	}
	for _, tt := range tests {
		_, err := New(Options{}).Fetch(t.Context(), tt.req)
		if err == nil || fault.KindOf(err) != tt.kind || !strings.Contains(err.Error(), tt.text) || strings.Contains(err.Error(), "secret-word") {
			t.Errorf("%s: got %v", tt.reason, err)
		}
	}
	var heard []string
	other := httptest.NewTLSServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { heard = append(heard, r.URL.Path) }))
	defer other.Close()
	w.seen.on(func(to http.ResponseWriter, r *http.Request) bool {
		http.Redirect(to, r, other.URL+r.URL.Path, http.StatusTemporaryRedirect)
		return false
	})
	_, err := New(Options{}).Fetch(t.Context(), w.request(t, w.at(""), stores.AccessKey, stores.SecretKey))
	if fault.KindOf(err) != fault.Invalid || len(heard) > 0 {
		t.Errorf("a redirect is not followed: %v, the other host heard %q", err, heard)
	}
}

// moving tries objects that change while they are read.
func moving(t *testing.T, w *world) {
	w.put(t, map[string]string{"a.rego": "one", "b.rego": "one"})
	f, req := New(Options{}), w.request(t, w.at(""), stores.AccessKey, stores.SecretKey)
	changes := 1
	w.seen.on(func(_ http.ResponseWriter, r *http.Request) bool {
		if changes > 0 && strings.HasSuffix(r.URL.Path, "/a.rego") {
			changes--
			w.put(t, map[string]string{"a.rego": fmt.Sprint(changes), "b.rego": fmt.Sprint(changes)})
		}
		return true
	})
	got, err := f.Fetch(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	if found := files(t, got.Tree); found["a.rego"] != "0" || found["b.rego"] != "0" {
		t.Errorf("one state, not half of two: %v", found)
	}
	changes = 10
	if _, err := New(Options{}).Fetch(t.Context(), req); fault.KindOf(err) != fault.Unreachable || !strings.Contains(err.Error(), "another than the bucket listed") {
		t.Errorf("what never stands still: %v", err)
	}
	w.seen.on(func(to http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, "/b.rego") {
			return true
		}
		_, _ = io.WriteString(to, "x") // and no ETag
		return false
	})
	if _, err := New(Options{}).Fetch(t.Context(), req); fault.KindOf(err) != fault.Unreachable {
		t.Errorf("an object that is another than was listed: %v", err)
	}
}

func bounds(t *testing.T, w *world) {
	limits := tree.Limits{FileBytes: 100, TotalBytes: 250, Count: 5}
	hundred := strings.Repeat("x", 100)
	tests := []struct {
		reason string
		files  map[string]string
		kind   fault.Kind
	}{
		{"one that is too large", map[string]string{"a": hundred + "x"}, fault.Limit},
		{"too much together", map[string]string{"a": hundred, "b": hundred, "c": hundred}, fault.Limit},
		{"too many", map[string]string{"a": "", "b": "", "c": "", "d": "", "e": "", "f": ""}, fault.Limit},
		{"too deep", map[string]string{strings.Repeat("d/", 65) + "a": ""}, fault.Limit},
		{"all that is allowed", map[string]string{"a": hundred, "b": hundred, "c": "", "d": ""}, 0},
	}
	for i, tt := range tests {
		prefix := fmt.Sprintf("p%d/", i)
		within := map[string]string{}
		for key, content := range tt.files {
			within[prefix+key] = content
		}
		w.put(t, within)
		_, err := New(Options{Limits: limits}).Fetch(t.Context(), w.request(t, w.at(prefix), stores.AccessKey, stores.SecretKey))
		if ok := tt.kind == 0; ok != (err == nil) || !ok && fault.KindOf(err) != tt.kind {
			t.Errorf("%s: got %v", tt.reason, err)
		}
	}
}

// TestHostileServers tries what no server that means well lists.
func TestHostileServers(t *testing.T) {
	listing := func(keys ...string) string {
		var all strings.Builder
		for _, key := range keys {
			all.WriteString("<Contents><Key>" + key + "</Key><ETag>\"e\"</ETag><Size>1</Size></Contents>")
		}
		return "<ListBucketResult>" + all.String() + "</ListBucketResult>"
	}
	tests := []struct {
		reason, prefix, list string
		kind                 fault.Kind
	}{
		{"a name that leads out", "", listing("../a.rego"), fault.Refused},
		{"one in the middle", "", listing("p/../../a.rego"), fault.Refused},
		{"an absolute one", "", listing("/etc/a.rego"), fault.Refused},
		{"a file that is a directory, too", "", listing("a", "a/b"), fault.Refused},
		{"the same twice", "", listing("a", "a"), fault.Refused},
		{"what was not asked for", "p/", listing("q/a.rego"), fault.Unreachable},
		{"no ETag", "", "<ListBucketResult><Contents><Key>a</Key><Size>1</Size></Contents></ListBucketResult>", fault.Unreachable},
		{"a list without end", "", "<ListBucketResult><IsTruncated>true</IsTruncated><NextContinuationToken>x</NextContinuationToken></ListBucketResult>", fault.NotFound},
		{"a list that is too long", "", strings.Repeat(" ", maxListing+1), fault.Limit},
		{"no list", "", "nonsense", fault.NotFound},
		{"nothing but directories", "", "<ListBucketResult><Contents><Key>a/</Key><ETag>e</ETag><Size>0</Size></Contents></ListBucketResult>", fault.NotFound},
	}
	for _, tt := range tests {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Query().Get("list-type") != "" {
				_, _ = io.WriteString(w, tt.list)
				return
			}
			w.Header().Set("ETag", `"e"`)
			_, _ = io.WriteString(w, "x")
		}))
		at := source.Bucket{Endpoint: strings.TrimPrefix(s.URL, "http://"), Name: "abc", Region: "us-east-1", Prefix: tt.prefix, Clear: true}
		if _, err := New(Options{}).Fetch(context.Background(), source.Request{URL: at.URL()}); err == nil || fault.KindOf(err) != tt.kind {
			t.Errorf("%s: got %v", tt.reason, err)
		}
		s.Close()
	}
}

// TestClear tries that no server is asked by HTTP, unless the source says so.
func TestClear(t *testing.T) {
	for _, open := range []bool{false, true} {
		asked := map[string]bool{}
		f := New(Options{Transport: round(func(r *http.Request) (*http.Response, error) {
			asked[r.URL.Scheme+" "+r.Header.Get("Authorization")] = true
			return &http.Response{StatusCode: http.StatusNotFound, Body: http.NoBody, Request: r, Header: http.Header{}}, nil
		})})
		at := source.Bucket{Endpoint: "s3.example", Name: "abc", Region: "us-east-1", Clear: open}
		if _, err := f.Fetch(t.Context(), source.Request{URL: at.URL()}); err == nil {
			t.Error("nothing is there")
		}
		want := map[string]bool{map[bool]string{true: "http ", false: "https "}[open]: true} // anonymous, whatever the environment holds
		if !maps.Equal(asked, want) {
			t.Errorf("asked by %v, want %v", asked, want)
		}
	}
}

type round func(*http.Request) (*http.Response, error)

// RoundTrip implements http.RoundTripper.
func (f round) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestCredential(t *testing.T) {
	tests := []struct {
		reason string
		data   map[string]string
		kind   fault.Kind
		ok     bool
	}{
		{"as Flux has them", map[string]string{"accesskey": "a", "secretkey": "secret-word"}, 0, true},
		{"a certificate alone", map[string]string{"ca.crt": "x"}, 0, true},
		{"one of two", map[string]string{"accesskey": "a"}, fault.Unauthorized, false},
		{"nothing", nil, fault.Unauthorized, false},
		{"Google's", map[string]string{"serviceaccount": "secret-word"}, fault.Unsupported, false},
		{"Azure's", map[string]string{"accountKey": "secret-word"}, fault.Unsupported, false},
	}
	for _, tt := range tests {
		data := map[string][]byte{}
		for key, value := range tt.data {
			data[key] = []byte(value)
		}
		got, err := Credential("ns/s@1", data)
		switch {
		case tt.ok && (err != nil || got.Secret().Password != tt.data["secretkey"] || strings.Contains(got.String(), "secret-word")):
			t.Errorf("%s: got %s, %v", tt.reason, got, err)
		case !tt.ok && (err == nil || fault.KindOf(err) != tt.kind || strings.Contains(err.Error(), "secret-word")):
			t.Errorf("%s: got %v", tt.reason, err)
		}
	}
}
