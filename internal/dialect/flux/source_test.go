package flux

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/fluxcd/pkg/apis/meta"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/source"
	"github.com/holdfastcd/holdfast/internal/tree"
	"github.com/holdfastcd/holdfast/internal/tree/treetest"
)

func files(names ...string) tree.Tree {
	all := map[string][]byte{}
	for _, n := range names {
		name, content, _ := strings.Cut(n, "=")
		all[name] = []byte(content)
	}
	return treetest.FromFiles(all)
}

// walk lists the files below dir.
func walk(t *testing.T, tr tree.Tree, dir string) []string {
	t.Helper()
	entries, err := tr.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, e := range entries {
		name := strings.TrimPrefix(dir+"/"+e.Name, "/")
		if e.Kind == tree.Dir {
			found = append(found, walk(t, tr, name)...)
		} else {
			found = append(found, name)
		}
	}
	return found
}

func TestFilter(t *testing.T) {
	word := func(s string) *string { return &s }
	for _, tc := range []struct {
		reason string
		ignore *string
		files  []string
		want   []string
	}{
		{
			"what other tools need is left out", nil,
			[]string{".gitignore", ".github/workflows/ci.yaml", ".sops.yaml", "a/.sops.yaml", "logo.png", "a/app.yaml", "docs/x.tar.gz"},
			[]string{"a/app.yaml"},
		},
		{
			"spec.ignore replaces all but version control", word("/docs/\n# not a pattern\n\n"),
			[]string{".gitignore", ".github/ci.yaml", "docs/a.md", "a/docs/b.md"},
			[]string{".github/ci.yaml", "a/docs/b.md"},
		},
		{
			"everything but one directory", word("/*\n!/deploy"),
			[]string{"a.yaml", "deploy/b.yaml", "other/c.yaml"},
			[]string{"deploy/b.yaml"},
		},
		{
			"everything but a directory further down", word("/*\n!/deploy/prod"),
			[]string{"a.yaml", "deploy/b.yaml", "deploy/prod/c.yaml"},
			[]string{"deploy/prod/c.yaml"},
		},
		{
			"ignore files count where they are, and below", nil,
			[]string{"a/.sourceignore=*.md\n!keep.md\n", "a/x.md", "a/keep.md", "a/b/y.md", "z.md"},
			[]string{"a/.sourceignore", "a/keep.md", "z.md"},
		},
		{
			"ignore files have the last word", nil,
			[]string{".sourceignore=!logo.png", "logo.png", "other.png"},
			[]string{".sourceignore", "logo.png"},
		},
	} {
		t.Run(tc.reason, func(t *testing.T) {
			filtered := Filter(files(tc.files...), tc.ignore)
			if diff := cmp.Diff(tc.want, walk(t, filtered, "")); diff != "" {
				t.Errorf("visible (-want +got):\n%s", diff)
			}
			for _, f := range tc.files {
				name, content, _ := strings.Cut(f, "=")
				visible := strings.Contains("\n"+strings.Join(tc.want, "\n")+"\n", "\n"+name+"\n")
				got, err := filtered.ReadFile(name, 1000)
				if visible && (err != nil || string(got) != content) || !visible && !errors.Is(err, tree.ErrNotExist) {
					t.Errorf("ReadFile(%s): %q, %v", name, got, err)
				}
			}
		})
	}
}

func TestFilterBounds(t *testing.T) {
	for reason, content := range map[string]string{
		"patterns": strings.Repeat("*.x\n", maxIgnorePatterns+1),
		"bytes":    strings.Repeat("x", maxIgnoreBytes+1),
	} {
		_, err := Filter(files(".sourceignore="+content, "a"), nil).Stat("a")
		if fault.KindOf(err) != fault.Limit {
			t.Errorf("too many %s: got %v", reason, err)
		}
	}
	many := strings.Repeat("*.x\n", maxIgnorePatterns+1)
	if _, err := Filter(files("a"), &many).ReadDir(""); fault.KindOf(err) != fault.Limit {
		t.Errorf("spec.ignore: got %v", err)
	}
}

// A trace over a filtered tree must see that a filter changed.
func TestFilterIsTraced(t *testing.T) {
	before := Filter(files("a/x.yaml", "a/y.yaml"), nil)
	view := tree.NewView(before, tree.Limits{})
	if _, err := view.ReadDir("a"); err != nil {
		t.Fatal(err)
	}
	if _, err := view.ReadFile("a/x.yaml"); err != nil {
		t.Fatal(err)
	}
	trace := view.Trace()
	if !trace.Holds(Filter(files("a/x.yaml", "a/y.yaml", "b"), nil)) {
		t.Error("another file elsewhere changes nothing")
	}
	if trace.Holds(Filter(files("a/x.yaml", "a/y.yaml", ".sourceignore=y.yaml"), nil)) {
		t.Error("a file that is left out now is a change")
	}
}

var fleet = types.NamespacedName{Namespace: "apps", Name: "fleet"}

func offered(t *testing.T, tr tree.Tree, commit string) (*Artifacts, artifact) {
	t.Helper()
	a := newArtifacts()
	made, err := a.add(context.Background(), fleet, edition{revision: source.Revision{Commit: commit, Tree: tr}})
	if err != nil {
		t.Fatal(err)
	}
	return a, made
}

func TestArtifact(t *testing.T) {
	content := files("b.yaml=bee", "a/x.yaml=ex")
	a, made := offered(t, Filter(content, nil), "c0ffee")
	srv := httptest.NewServer(a)
	defer srv.Close()
	res, err := http.Get(srv.URL + "/gitrepository/apps/fleet/c0ffee.tar.gz")
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK || int64(len(body)) != made.size {
		t.Fatalf("%s, %d bytes of %d, %v", res.Status, len(body), made.size, err)
	}
	sum := sha256.Sum256(body)
	if got := "sha256:" + hex.EncodeToString(sum[:]); got != made.digest {
		t.Errorf("digest: served %s, told %s", got, made.digest)
	}
	if _, again := offered(t, Filter(files("a/x.yaml=ex", "b.yaml=bee"), nil), "other"); again.digest != made.digest {
		t.Error("the same files pack to other bytes")
	}
	if diff := cmp.Diff([]string{"a/ 750 ", "a/x.yaml 600 ex", "b.yaml 600 bee"}, unpack(t, body)); diff != "" {
		t.Errorf("content (-want +got):\n%s", diff)
	}
}

func unpack(t *testing.T, body []byte) []string {
	t.Helper()
	zip, err := gzip.NewReader(bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for in := tar.NewReader(zip); ; {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return found
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.ModTime.Unix() != 0 || h.Uid != 0 || h.Gid != 0 || h.Uname != "" {
			t.Errorf("%s tells when or by whom it was packed: %v %d %d %s", h.Name, h.ModTime, h.Uid, h.Gid, h.Uname)
		}
		content, err := io.ReadAll(in)
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, h.Name+" "+strings.TrimLeft(hexMode(h.Mode), "0")+" "+string(content))
	}
}

func hexMode(mode int64) string {
	digits := "01234567"
	return string([]byte{digits[mode>>6&7], digits[mode>>3&7], digits[mode&7]})
}

func TestArtifactHandler(t *testing.T) {
	a, made := offered(t, files("x"), "c0ffee")
	for _, tc := range []struct {
		reason, method, path, match string
		status                      int
	}{
		{"it is there", "GET", "/gitrepository/apps/fleet/c0ffee.tar.gz", "", 200},
		{"asked for its size", "HEAD", "/gitrepository/apps/fleet/c0ffee.tar.gz", "", 200},
		{"known already", "GET", "/gitrepository/apps/fleet/c0ffee.tar.gz", `"` + made.digest + `"`, 304},
		{"another revision", "GET", "/gitrepository/apps/fleet/beef.tar.gz", "", 404},
		{"another source", "GET", "/gitrepository/apps/other/c0ffee.tar.gz", "", 404},
		{"above", "GET", "/gitrepository/apps/fleet/../fleet/c0ffee.tar.gz", "", 404},
		{"nothing to write", "POST", "/gitrepository/apps/fleet/c0ffee.tar.gz", "", 405},
	} {
		t.Run(tc.reason, func(t *testing.T) {
			r := httptest.NewRequest(tc.method, "http://x/", nil)
			r.URL.Path = tc.path
			r.Header.Set("If-None-Match", tc.match)
			w := httptest.NewRecorder()
			a.ServeHTTP(w, r)
			if w.Code != tc.status {
				t.Errorf("got %d, want %d", w.Code, tc.status)
			}
			if tc.method == "HEAD" && w.Header().Get("Content-Length") == "" {
				t.Error("HEAD does not tell the length")
			}
		})
	}
}

func TestArtifactsKeepTheLastTwo(t *testing.T) {
	a, _ := offered(t, files("x"), "one")
	for _, commit := range []string{"two", "three"} {
		if _, err := a.add(context.Background(), fleet, edition{revision: source.Revision{Commit: commit, Tree: files(commit)}}); err != nil {
			t.Fatal(err)
		}
	}
	for commit, want := range map[string]bool{"one": false, "two": true, "three": true} {
		if _, ok := a.find("/gitrepository/apps/fleet/" + commit + ".tar.gz"); ok != want {
			t.Errorf("%s: offered %t", commit, ok)
		}
	}
	a.drop(fleet)
	if _, ok := a.find("/gitrepository/apps/fleet/three.tar.gz"); ok {
		t.Error("offered after its source is gone")
	}
}

func TestCatalog(t *testing.T) {
	c := newCatalog()
	e := edition{revision: source.Revision{Commit: "a", Tree: files("x")}, label: "main@sha1:a"}
	if !c.fail(fleet, fault.New(fault.NotFound, "no branch")) {
		t.Error("a first failure is news for those who wait")
	}
	if c.fail(fleet, fault.New(fault.NotFound, "no branch")) {
		t.Error("the same failure is no news")
	}
	if !c.publish(fleet, e) || c.publish(fleet, e) {
		t.Error("a revision is news once")
	}
	if c.fail(fleet, fault.New(fault.Unreachable, "down")) {
		t.Error("a failure is no news for those who have a revision")
	}
	if got, ok := c.get(fleet); !ok || !got.has() || got.err == nil {
		t.Errorf("the last revision stays: %+v", got)
	}
	if c.publish(fleet, e) {
		t.Error("the same revision after a failure is no news")
	}
	if got, _ := c.get(fleet); got.err != nil {
		t.Errorf("the failure is over: %v", got.err)
	}
	e.ignore = "*.md"
	if !c.publish(fleet, e) {
		t.Error("another filter is news")
	}
	if !c.drop(fleet) || c.drop(fleet) {
		t.Error("dropping is news once")
	}
}

func TestRevisionName(t *testing.T) {
	sha1, sha256 := strings.Repeat("a", 40), strings.Repeat("b", 64)
	for want, r := range map[string]source.Revision{
		"main@sha1:" + sha1:      {Branch: "main", Commit: sha1},
		"v1@sha1:" + sha1:        {Tag: "v1", Commit: sha1},
		"refs/x/1@sha1:" + sha1:  {Name: "refs/x/1", Commit: sha1},
		"sha1:" + sha1:           {Commit: sha1},
		"a@b/c@sha256:" + sha256: {Branch: "a@b/c", Commit: sha256},
	} {
		if got := RevisionName(r); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		if ref, commit := parseRevision(want); ref != r.Ref() || commit != r.Commit {
			t.Errorf("parseRevision(%s): %q %q", want, ref, commit)
		}
	}
}

func TestRefOf(t *testing.T) {
	for _, tc := range []struct {
		reason string
		ref    *sourcev1.GitRepositoryRef
		want   source.Ref
	}{
		{"Flux's default", nil, source.Ref{Branch: "master"}},
		{"nothing said", &sourcev1.GitRepositoryRef{}, source.Ref{Branch: "master"}},
		{"a branch", &sourcev1.GitRepositoryRef{Branch: "main"}, source.Ref{Branch: "main"}},
		{"a commit needs no branch", &sourcev1.GitRepositoryRef{Commit: "abc"}, source.Ref{Commit: "abc"}},
		{"a commit of a branch", &sourcev1.GitRepositoryRef{Commit: "abc", Branch: "main"}, source.Ref{Commit: "abc", Branch: "main"}},
		{"a tag outweighs a branch", &sourcev1.GitRepositoryRef{Tag: "v1", Branch: "main"}, source.Ref{Tag: "v1"}},
		{"a range outweighs a tag", &sourcev1.GitRepositoryRef{SemVer: "1.x", Tag: "v1"}, source.Ref{SemVer: "1.x"}},
		{"a name outweighs a range", &sourcev1.GitRepositoryRef{Name: "refs/pull/1/head", SemVer: "1.x"}, source.Ref{Name: "refs/pull/1/head"}},
		{"a commit outweighs a name", &sourcev1.GitRepositoryRef{Commit: "abc", Name: "refs/pull/1/head"}, source.Ref{Commit: "abc"}},
	} {
		if got := RefOf(&sourcev1.GitRepository{Spec: sourcev1.GitRepositorySpec{Reference: tc.ref}}); got != tc.want {
			t.Errorf("%s: got %+v", tc.reason, got)
		}
	}
}

func TestCheckRepository(t *testing.T) {
	for _, tc := range []struct {
		reason string
		spec   map[string]any
		want   string
	}{
		{"all that is supported", map[string]any{
			"url": "https://x/y", "interval": "1m", "timeout": "60s", "suspend": false, "provider": "generic", "ignore": "*.md",
			"secretRef": map[string]any{"name": "s"}, "proxySecretRef": map[string]any{"name": "p"}, "recurseSubmodules": false,
			"ref": map[string]any{"branch": "main", "commit": "c", "tag": "t", "semver": "1.x", "name": "refs/x"},
		}, ""},
		{"signatures", map[string]any{"verify": map[string]any{"mode": "HEAD"}}, "spec.verify is not supported yet"},
		{"submodules", map[string]any{"recurseSubmodules": true}, "spec.recurseSubmodules is not supported yet"},
		{"parts of it", map[string]any{"sparseCheckout": []any{"a"}}, "spec.sparseCheckout is not supported yet"},
		{"others in it", map[string]any{"include": []any{map[string]any{"repository": map[string]any{"name": "x"}}}}, "spec.include is not supported yet"},
		{"a provider", map[string]any{"provider": "aws"}, "spec.provider aws is not supported yet"},
		{"a field that did not exist when this was written", map[string]any{"later": map[string]any{"x": "y"}}, "spec.later is not supported yet"},
	} {
		t.Run(tc.reason, func(t *testing.T) {
			u := &unstructured.Unstructured{Object: map[string]any{"spec": tc.spec}}
			repo, bad := decode[sourcev1.GitRepository](u)
			if bad != nil {
				t.Fatal(bad)
			}
			err := checkRepository(u, repo)
			if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}

// secretOf makes a Secret that holds a value for each key.
func secretOf(name string, keys ...string) *corev1.Secret {
	s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "apps", Name: name, UID: "u-" + types.UID(name), ResourceVersion: "7"}, Data: map[string][]byte{}}
	for _, k := range keys {
		key, value, set := strings.Cut(k, "=")
		if !set {
			value = "secret-" + key
		}
		s.Data[key] = []byte(value)
	}
	return s
}

func TestCredential(t *testing.T) {
	const https, ssh = "https://x/y", "ssh://git@x/y"
	for _, tc := range []struct {
		reason      string
		url         string
		auth, proxy []string // keys of the Secrets; nil: none is named
		want        source.Secret
		id          string
		kind        fault.Kind
		text        string
	}{
		{reason: "anonymous", url: https},
		{
			reason: "a password", url: https, auth: []string{"username", "password", "note"},
			want: source.Secret{Username: "secret-username", Password: "secret-password"}, id: "apps/git@u-git:7",
		},
		{reason: "a token", url: https, auth: []string{"bearerToken"}, want: source.Secret{Token: "secret-bearerToken"}, id: "apps/git@u-git:7"},
		{
			reason: "an authority, by its older name too", url: https, auth: []string{"caFile"},
			want: source.Secret{CA: []byte("secret-caFile")}, id: "apps/git@u-git:7",
		},
		{
			reason: "the newer names count", url: https, auth: []string{"ca.crt", "caFile", "tls.crt", "certFile", "tls.key", "keyFile"},
			want: source.Secret{CA: []byte("secret-ca.crt"), ClientCert: []byte("secret-tls.crt"), ClientKey: []byte("secret-tls.key")}, id: "apps/git@u-git:7",
		},
		{
			reason: "a key for ssh; what is for https is not sent", url: ssh, auth: []string{"identity", "known_hosts", "password", "identity.pub", "bearerToken"},
			want: source.Secret{SSHKey: []byte("secret-identity"), KnownHosts: []byte("secret-known_hosts"), Password: "secret-password"}, id: "ssh apps/git@u-git:7",
		},
		{
			reason: "a way", url: https, proxy: []string{"address=http://proxy:3128", "username", "password"},
			want: source.Secret{Proxy: &source.Proxy{URL: "http://proxy:3128", Username: "secret-username", Password: "secret-password"}}, id: "proxy apps/way@u-way:7",
		},
		{
			reason: "both are in the name", url: https, auth: []string{"bearerToken"}, proxy: []string{"address=socks5://proxy:1080"},
			want: source.Secret{Token: "secret-bearerToken", Proxy: &source.Proxy{URL: "socks5://proxy:1080"}}, id: "apps/git@u-git:7 proxy apps/way@u-way:7",
		},
		{reason: "an app of GitHub", url: https, auth: []string{"githubAppID", "password"}, kind: fault.Unsupported, text: "key githubAppID of Secret apps/git is not supported yet"},
		{reason: "half a password", url: https, auth: []string{"username"}, kind: fault.Unauthorized, text: "does not hold username and password"},
		{reason: "two ways to authenticate", url: https, auth: []string{"username", "password", "bearerToken"}, kind: fault.Unauthorized, text: "both a bearerToken and"},
		{reason: "a certificate without its key", url: https, auth: []string{"tls.crt"}, kind: fault.Unauthorized, text: "does not hold tls.key"},
		{reason: "a key without its certificate", url: https, auth: []string{"keyFile"}, kind: fault.Unauthorized, text: "does not hold tls.crt"},
		{reason: "nothing that helps", url: https, auth: []string{"identity", "known_hosts"}, kind: fault.Unauthorized, text: "does not hold username and password, bearerToken"},
		{reason: "ssh without a Secret", url: ssh, kind: fault.Unauthorized, text: "spec.secretRef names no Secret"},
		{reason: "ssh without a key", url: ssh, auth: []string{"known_hosts"}, kind: fault.Unauthorized, text: "does not hold identity"},
		{reason: "ssh with any server", url: ssh, auth: []string{"identity"}, kind: fault.Unauthorized, text: "does not hold known_hosts"},
		{reason: "a way to nowhere", url: https, proxy: []string{"username"}, kind: fault.Unauthorized, text: "Secret apps/way does not hold address"},
		{reason: "no way", url: https, proxy: []string{"address=file:///etc"}, kind: fault.Invalid, text: "not the URL of a proxy"},
		{reason: "credentials where they would be logged", url: https, proxy: []string{"address=http://u:secret-p@proxy"}, kind: fault.Invalid, text: "holds credentials"},
	} {
		t.Run(tc.reason, func(t *testing.T) {
			repo := gitRepository("fleet", tc.url, nil)
			var objects []client.Object
			if tc.auth != nil {
				repo.Spec.SecretRef = &meta.LocalObjectReference{Name: "git"}
				objects = append(objects, secretOf("git", tc.auth...))
			}
			if tc.proxy != nil {
				repo.Spec.ProxySecretRef = &meta.LocalObjectReference{Name: "way"}
				objects = append(objects, secretOf("way", tc.proxy...))
			}
			c, err := credential(t.Context(), newHookPlace(t, objects...).client, repo)
			if tc.text != "" {
				if err == nil || err.Kind != tc.kind || !strings.Contains(err.Error(), tc.text) || strings.Contains(err.Error(), "secret-") {
					t.Errorf("got %v, want %s: %s", err, tc.kind, tc.text)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, c.Secret()); diff != "" || c.ID != tc.id {
				t.Errorf("ID %q, want %q; secret (-want +got):\n%s", c.ID, tc.id, diff)
			}
		})
	}
}

func TestGitStatus(t *testing.T) {
	repo := &sourcev1.GitRepository{ObjectMeta: metav1.ObjectMeta{Generation: 2, Annotations: map[string]string{meta.ReconcileRequestAnnotation: "t1"}}}
	repo.Status.ObservedGeneration = -1
	repo.Status = fetching(repo, noon)
	if diff := cmp.Diff(map[string]string{"Ready": "Unknown Progressing", "Reconciling": "True Progressing"}, kinds(repo.Status.Conditions)); diff != "" {
		t.Errorf("the first fetch takes long (-want +got):\n%s", diff)
	}
	if repo.Status.ObservedGeneration != -1 || repo.Status.LastHandledReconcileAt != "" {
		t.Errorf("what is under way is not handled: %+v", repo.Status)
	}
	repo.Status = failed(repo, &gitProblem{err: fault.New(fault.Unreachable, "no answer")}, noon)
	if diff := cmp.Diff(map[string]string{
		"Ready": "False GitOperationFailed", "FetchFailed": "True GitOperationFailed", "Reconciling": "True ProgressingWithRetry",
	}, kinds(repo.Status.Conditions)); diff != "" {
		t.Errorf("unreachable (-want +got):\n%s", diff)
	}
	if repo.Status.ObservedGeneration != -1 || repo.Status.LastHandledReconcileAt != "t1" {
		t.Errorf("unreachable: %+v", repo.Status)
	}

	size := int64(3)
	made := meta.Artifact{Revision: "main@sha1:a", Digest: "sha256:x", Size: &size}
	repo.Status = fetched(repo, made, noon)
	if diff := cmp.Diff(map[string]string{"Ready": "True Succeeded", "ArtifactInStorage": "True Succeeded"}, kinds(repo.Status.Conditions)); diff != "" {
		t.Errorf("fetched (-want +got):\n%s", diff)
	}
	if got := repo.Status.Conditions[0].Message; got != "stored artifact for revision 'main@sha1:a'" {
		t.Errorf("message: %s", got)
	}
	if diff := cmp.Diff(repo.Status, fetched(repo, made, noon.Add(time.Hour))); diff != "" {
		t.Errorf("the same again is no news (-want +got):\n%s", diff)
	}

	for _, tc := range []struct {
		reason  string
		problem gitProblem
		want    map[string]string
	}{
		{
			"wrong password",
			gitProblem{err: fault.New(fault.Unauthorized, "no")},
			map[string]string{"Ready": "False AuthenticationFailed", "FetchFailed": "True AuthenticationFailed", "Reconciling": "True ProgressingWithRetry", "ArtifactInStorage": "True Succeeded"},
		},
		{
			"an address that must not be fetched",
			gitProblem{err: fault.New(fault.Refused, "no"), url: true, stalled: true},
			map[string]string{"Ready": "False URLInvalid", "FetchFailed": "True URLInvalid", "Stalled": "True URLInvalid", "ArtifactInStorage": "True Succeeded"},
		},
		{
			"a field",
			gitProblem{err: fault.New(fault.Unsupported, "no"), stalled: true},
			map[string]string{"Ready": "False UnsupportedField", "FetchFailed": "True UnsupportedField", "Stalled": "True UnsupportedField", "ArtifactInStorage": "True Succeeded"},
		},
		{
			"packing",
			gitProblem{err: fault.New(fault.Limit, "no"), storage: true},
			map[string]string{"Ready": "False ArchiveOperationFailed", "StorageOperationFailed": "True ArchiveOperationFailed", "Reconciling": "True ProgressingWithRetry", "ArtifactInStorage": "True Succeeded"},
		},
	} {
		got := failed(repo, &tc.problem, noon)
		again := repo.DeepCopy()
		again.Status = got
		if diff := cmp.Diff(got, failed(again, &tc.problem, noon.Add(time.Hour))); diff != "" {
			t.Errorf("%s: the same again is no news (-want +got):\n%s", tc.reason, diff)
		}
		if diff := cmp.Diff(tc.want, kinds(got.Conditions)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tc.reason, diff)
		}
		if got.Artifact == nil {
			t.Errorf("%s: the last artifact is gone", tc.reason)
		}
	}
}

func TestDecodeSurvivesBadSpecs(t *testing.T) {
	object := func(interval, status string) *unstructured.Unstructured {
		return &unstructured.Unstructured{Object: map[string]any{
			"metadata": map[string]any{"name": "fleet", "generation": int64(4)},
			"spec":     map[string]any{"url": "https://x/y", "interval": interval},
			"status":   map[string]any{"observedGeneration": int64(3), "artifact": map[string]any{"lastUpdateTime": status}},
		}}
	}
	good := "2026-08-01T12:00:00Z"
	for _, tc := range []struct {
		reason           string
		u                *unstructured.Unstructured
		bad, spec, state bool
	}{
		{"fine", object("1m", good), false, true, true},
		{"a duration that no type can hold", object("99999999999999h", good), true, false, true},
		{"a status that cannot be read is written anew", object("1m", "yesterday"), false, true, false},
		{"neither", object("99999999999999h", "yesterday"), true, false, false},
	} {
		t.Run(tc.reason, func(t *testing.T) {
			repo, bad := decode[sourcev1.GitRepository](tc.u)
			if (bad != nil) != tc.bad {
				t.Errorf("bad: %v", bad)
			}
			if repo.Name != "fleet" || repo.Generation != 4 {
				t.Errorf("metadata: %+v", repo.ObjectMeta)
			}
			if got := repo.Spec.URL != ""; got != tc.spec {
				t.Errorf("spec is there: %t", got)
			}
			if got := repo.Status.ObservedGeneration == 3; got != tc.state {
				t.Errorf("status is there: %t", got)
			}
		})
	}
}
