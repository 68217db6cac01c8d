package render

import (
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"testing"
	"time"

	"github.com/Masterminds/sprig/v3"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/bcrypt"

	"github.com/holdfastcd/holdfast/internal/worker"
)

// seeded are templates that use chance or time, by the function that is noted,
// each with what its result must look like.
var seeded = []struct{ function, template, want string }{
	{"randAlphaNum", `{{ randAlphaNum 20 }}`, `^[A-Za-z0-9]{20}$`},
	{"randAlpha", `{{ randAlpha 20 }}`, `^[A-Za-z]{20}$`},
	{"randNumeric", `{{ randNumeric 20 }}`, `^[0-9]{20}$`},
	{"randAscii", `{{ randAscii 20 | b64enc }}`, `^.{28}$`},
	{"randBytes", `{{ randBytes 12 }}`, `^[A-Za-z0-9+/]{16}$`},
	{"randInt", `{{ randInt 100000 900000 }}`, `^[0-9]{6}$`},
	{"shuffle", `{{ shuffle "abcdefghijklmnopqrstuvwxyz" }}`, `^[a-z]{26}$`},
	{"uuidv4", `{{ uuidv4 }}`, `^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`},
	{"bcrypt", `{{ bcrypt "word" }}`, `^\$2a\$10\$.{53}$`},
	{"htpasswd", `{{ htpasswd "user" "word" }}`, `^user:\$2a\$10\$.{53}$`},
	{"encryptAES", `{{ encryptAES "key" "text" }}`, `^[A-Za-z0-9+/=]{44}$`},
	{"genPrivateKey", `{{ genPrivateKey "ecdsa" }}`, `^-----BEGIN EC PRIVATE KEY`},
	{"genPrivateKey", `{{ genPrivateKey "ed25519" }}`, `^-----BEGIN PRIVATE KEY`},
	{"genCA", `{{ (genCA "ca" 10).Cert }}`, `^-----BEGIN CERTIFICATE`},
	{"genCAWithKey", `{{ (genCAWithKey "ca" 10 (genPrivateKey "ecdsa")).Cert }}`, `^-----BEGIN CERTIFICATE`},
	{"genSelfSignedCert", `{{ (genSelfSignedCert "x" (list "10.0.0.1") (list "a.example.com") 10).Cert }}`, `^-----BEGIN CERTIFICATE`},
	{"genSelfSignedCertWithKey", `{{ (genSelfSignedCertWithKey "x" (list) (list) 10 (genPrivateKey "ed25519")).Cert }}`, `^-----BEGIN CERTIFICATE`},
	{"genSignedCert", `{{ (genSignedCert "x" nil (list "a") 10 (genCA "ca" 10)).Key }}`, `^-----BEGIN RSA PRIVATE KEY`},
	{"genSignedCertWithKey", `{{ (genSignedCertWithKey "x" (list) (list) 10 (genCAWithKey "ca" 9 (genPrivateKey "ecdsa")) (genPrivateKey "ecdsa")).Cert }}`, `^-----BEGIN CERTIFICATE`},
	{"now", `{{ now }}`, `^2023-11-14 22:13:20 \+0000 UTC$`},
	{"now", `{{ now | date "2006-01-02" }}`, `^2023-11-14$`},
	{"date", `{{ date "2006" "no time" }}`, `^2023$`},
	{"dateInZone", `{{ dateInZone "15" nil "Asia/Tokyo" }}`, `^07$`},
	{"date_in_zone", `{{ date_in_zone "15" nil "Asia/Tokyo" }}`, `^07$`},
	{"htmlDate", `{{ htmlDate nil }}`, `^2023-11-14$`},
	{"htmlDateInZone", `{{ htmlDateInZone nil "Asia/Tokyo" }}`, `^2023-11-15$`},
	{"ago", `{{ ago (int64 1699999900) }}`, `^1m40s$`},
	{"durationRound", `{{ toDate "2006" "2020" | durationRound }}`, `^3y$`},
}

var ofTime = []string{"now", "date", "dateInZone", "date_in_zone", "htmlDate", "htmlDateInZone", "ago", "durationRound"}

const testNow = 1_700_000_000

func seededChart(extra ...string) []string {
	pairs := []string{"c/Chart.yaml", "{apiVersion: v2, name: c, version: 1.0.0}"}
	for i, s := range seeded {
		pairs = append(pairs, fmt.Sprintf("c/templates/t%02d.yaml", i), fmt.Sprintf(
			"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: t%02d}\ndata:\n  v: |-\n    {{- with (include \"t%d\" $) }}{{ . | nindent 4 }}{{ end }}\n{{ define \"t%d\" }}%s{{ end }}",
			i, i, i, s.template))
	}
	return append(pairs, extra...)
}

func seededRequest() Request {
	return Request{Path: "c", Tool: Helm, Helm: &HelmRequest{ReleaseName: "r", Namespace: "n", Seed: "delivery", Now: testNow}}
}

// TestHelmSeed: what would be random gives the same in every worker, differs
// between deliveries, and is noted.
func TestHelmSeed(t *testing.T) {
	source := files(t, seededChart()...)
	render := func(r *Caged, req Request) Result {
		t.Helper()
		result, err := r.Render(t.Context(), req, source)
		if err != nil {
			t.Fatal(err)
		}
		return result
	}
	patient := worker.Options{Deadline: 10 * time.Minute} // keys take their time
	r := newRenderer(t, patient)
	first := render(r, seededRequest())
	if again := render(newRenderer(t, patient), seededRequest()); again.Digest != first.Digest {
		t.Error("a rendering in another worker differs")
	}
	other := seededRequest()
	other.Helm.Seed = "another"
	second := render(r, other)
	for i, s := range seeded {
		got, different := value(first, i), value(second, i)
		if !regexp.MustCompile(s.want).MatchString(got) {
			t.Errorf("%s gave %q", s.template, got)
		}
		random := !slices.Contains(ofTime, s.function)
		if random == (got == different) {
			t.Errorf("%s: the same for another delivery: %v", s.template, got == different)
		}
		file := fmt.Sprintf("c/templates/t%02d.yaml", i)
		if n := slices.IndexFunc(first.Notes, func(n Note) bool { return n.File == file }); n < 0 || !slices.Contains(first.Notes[n].Functions, s.function) {
			t.Errorf("%s is not noted on %s: %v", s.function, file, first.Notes)
		}
	}
}

func value(r Result, i int) string {
	for _, o := range r.Objects {
		if o.GetName() == fmt.Sprintf("t%02d", i) {
			data, _ := o.Object["data"].(map[string]any)
			text, _ := data["v"].(string)
			return text
		}
	}
	return ""
}

// TestHelmSeedIsLocal: another template, before or after, changes no value.
func TestHelmSeedIsLocal(t *testing.T) {
	r := newRenderer(t, worker.Options{})
	chart := []string{
		"c/Chart.yaml", "{apiVersion: v2, name: c, version: 1.0.0}",
		"c/templates/m.yaml", configMap("m") + "data: {a: {{ randAlpha 9 }}, b: {{ randAlpha 9 }}}\n",
	}
	render := func(pairs ...string) map[string]any {
		result, err := r.Render(t.Context(), seededRequest(), files(t, pairs...))
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range result.Objects {
			if o.GetName() == "m" {
				return o.Object
			}
		}
		return nil
	}
	alone := render(chart...)
	together := render(append(chart,
		"c/templates/a.yaml", configMap("a")+"data: {a: {{ randAlpha 9 }}}\n",
		"c/templates/z.yaml", configMap("z")+"data: {a: {{ randAlpha 9 }}}\n")...)
	if diff := cmp.Diff(alone, together); diff != "" {
		t.Error(diff)
	}
	data, _ := alone["data"].(map[string]any)
	if data["a"] == data["b"] {
		t.Error("two calls give the same")
	}
}

// chancy are the functions of sprig that would not give the same twice and are
// not in the table above, each with why that is right.
var chancy = map[string]string{
	"date_modify": "it is given a time", "dateModify": "it is given a time",
	"env": "Helm has none", "expandenv": "Helm has none", "getHostByName": "Helm's engine gives an empty string",
}

// TestHelmFunctionsCovered: every function that sprig itself marks as giving
// different results each time is replaced or absent.
func TestHelmFunctionsCovered(t *testing.T) {
	replaced := (&seed{extra: &extra{}, calls: map[string]uint64{}}).functions()
	hermetic := sprig.HermeticTxtFuncMap()
	for name := range sprig.TxtFuncMap() {
		if _, ok := hermetic[name]; !ok && replaced[name] == nil && chancy[name] == "" {
			t.Errorf("sprig says that %s is not repeatable", name)
		}
	}
	for _, s := range seeded {
		if replaced[s.function] == nil {
			t.Errorf("%s is not replaced", s.function)
		}
	}
	if _, ok := sprig.TxtFuncMap()["durationRound"].(func(any) string); !ok {
		t.Error("durationRound is of another type now")
	}
	for name := range maps.Keys(replaced) {
		if sprig.TxtFuncMap()[name] == nil && name != fileFunction {
			t.Errorf("%s is no function of sprig", name)
		}
	}
}

// TestHelmCrypto: what is made without chance is good for what it is for.
func TestHelmCrypto(t *testing.T) {
	s := &seed{extra: &extra{}, calls: map[string]uint64{}, now: time.Unix(testNow, 0)}
	hash, err := s.bcrypt("word")
	if err != nil || bcrypt.CompareHashAndPassword([]byte(hash), []byte("word")) != nil {
		t.Errorf("bcrypt: %q %v", hash, err)
	}
	sealed, err := s.encrypt("key", "some text that is longer than a block")
	decrypt, _ := sprig.TxtFuncMap()["decryptAES"].(func(string, string) (string, error))
	if got, derr := decrypt("key", sealed); err != nil || derr != nil || got != "some text that is longer than a block" {
		t.Errorf("encryptAES: %q %v %v", got, err, derr)
	}
	for _, kind := range []string{"rsa", "ecdsa", "ed25519"} {
		req := certRequest{cn: "ca", days: 10, ca: true}
		if kind != "rsa" {
			req.key, err = s.privateKey(kind)
			req.withKey = true
		}
		if err != nil {
			t.Fatal(err)
		}
		ca, err := s.issue("genCA", req, nil)
		if err != nil {
			t.Fatal(kind, err)
		}
		leaf, err := s.issue("genSignedCert", certRequest{cn: "leaf", names: []any{"a.example.com"}, days: 10}, ca)
		if err != nil {
			t.Fatal(kind, err)
		}
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM([]byte(ca.Cert))
		block, _ := pem.Decode([]byte(leaf.Cert))
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		at := time.Unix(testNow, 0).Add(time.Hour)
		if _, err := cert.Verify(x509.VerifyOptions{DNSName: "a.example.com", Roots: roots, CurrentTime: at}); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
	}
	if _, err := s.privateKey("dsa"); err == nil {
		t.Error("a DSA key is made")
	}
}

// TestHelmLargeKey: genPrivateKey makes RSA keys of 4096 bits, the same ones.
func TestHelmLargeKey(t *testing.T) {
	if testing.Short() {
		t.Skip("two keys take seconds")
	}
	var keys [2]string
	for i := range keys {
		s := &seed{extra: &extra{}, calls: map[string]uint64{}}
		var err error
		if keys[i], err = s.privateKey("rsa"); err != nil {
			t.Fatal(err)
		}
	}
	block, _ := pem.Decode([]byte(keys[0]))
	key, err := x509.ParsePKCS1PrivateKey(block.Bytes)
	if err != nil || key.N.BitLen() != 4096 || keys[0] != keys[1] {
		t.Errorf("%v, equal %v", err, keys[0] == keys[1])
	}
}

// TestHelmBelow: numbers have no favourites.
func TestHelmBelow(t *testing.T) {
	s := &seed{extra: &extra{}, calls: map[string]uint64{}}
	counts := make([]int, 10)
	for range 20000 {
		counts[below(s.stream("x"), 10)]++
	}
	for digit, n := range counts {
		if n < 1800 || n > 2200 {
			t.Errorf("%d came %d times of 20000", digit, n)
		}
	}
}

// TestHelmAsked: the cache asks only for what a chart looks at.
func TestHelmAsked(t *testing.T) {
	tests := []struct {
		reason, template string
		want             Asked
	}{
		{"nothing", "a: {{ .Values.a }}", Asked{}},
		{"one version", `{{ if .Capabilities.APIVersions.Has "x/v1" }}`, Asked{APIVersions: []string{"x/v1"}}},
		{"from the root", "{{ $.Capabilities.APIVersions.Has `x/v1` }}", Asked{APIVersions: []string{"x/v1"}}},
		{"the version of Kubernetes", `{{ semverCompare ">1" .Capabilities.KubeVersion.Version }}`, Asked{KubeVersion: true}},
		{"Helm's own version", `{{ .Capabilities.HelmVersion.Version }}`, Asked{}},
		{"a name that is computed", `{{ .Capabilities.APIVersions.Has $x }}`, Asked{All: true}},
		{"the whole list", `{{ range .Capabilities.APIVersions }}`, Asked{All: true}},
		{"under another name", `{{ $c := .Capabilities }}`, Asked{All: true}},
		{"by index", `{{ index . "Capabilities" }}`, Asked{All: true}},
		{"everything printed", `{{ toYaml . }}`, Asked{All: true}},
		{"Linux capabilities", `capabilities: {drop: [ALL]}`, Asked{}},
	}
	for _, tt := range tests {
		var got Asked
		got.scan([]byte(tt.template))
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s:\n%s", tt.reason, diff)
		}
	}
}

// TestHelmCache: a version of an API that nobody looks for changes nothing;
// one that is looked for does.
func TestHelmCache(t *testing.T) {
	counter := newRenderer(t, worker.Options{})
	cache := NewCache(always(counter), 1<<20).In("x")
	source := files(t, "c/Chart.yaml", "{apiVersion: v2, name: c, version: 1.0.0}",
		"c/templates/a.yaml", configMap("a")+`data: {has: {{ .Capabilities.APIVersions.Has "x/v1" | quote }}, r: {{ randAlpha 3 }}}`)
	steps := []struct {
		reason string
		apis   []string
		kube   string
		cached bool
	}{
		{"first", nil, "v1.36.0", false},
		{"the same", nil, "v1.36.0", true},
		{"another API", []string{"y/v1"}, "v1.36.0", true},
		{"another version of Kubernetes", nil, "v1.37.0", true},
		{"the API", []string{"x/v1", "y/v1"}, "v1.36.0", false},
		{"still", []string{"x/v1"}, "v1.36.0", true},
		{"gone", []string{"y/v1"}, "v1.36.0", false},
	}
	for _, step := range steps {
		req := seededRequest()
		req.Capabilities = &Capabilities{KubeVersion: step.kube, APIVersions: step.apis}
		_, unchanged := cache.Unchanged(req, source)
		result, err := cache.Render(t.Context(), req, source)
		if err != nil || result.Cached != step.cached || unchanged != step.cached {
			t.Errorf("%s: cached %v, unchanged %v, %v", step.reason, result.Cached, unchanged, err)
		}
		if len(result.Notes) != 1 {
			t.Errorf("%s: notes %v", step.reason, result.Notes)
		}
	}
}

// TestHelmCacheHoldsAll: every field of the request is in the key.
func TestHelmCacheHoldsAll(t *testing.T) {
	s := NewCache(always(nil), 1).In("x")
	text, err := s.key(seededRequest())
	if err != nil {
		t.Fatal(err)
	}
	var got []any
	if err := json.Unmarshal([]byte(text), &got); err != nil || len(got) != 2 {
		t.Fatal(text, err)
	}
	for _, change := range []func(h *HelmRequest){
		func(h *HelmRequest) { h.Seed = "x" }, func(h *HelmRequest) { h.Now = 1 }, func(h *HelmRequest) { h.Values = "a: 1" },
		func(h *HelmRequest) { h.ReleaseName = "x" }, func(h *HelmRequest) { h.Namespace = "x" }, func(h *HelmRequest) { h.SkipCRDs = true },
		func(h *HelmRequest) { h.SkipTests = true }, func(h *HelmRequest) { h.SkipSchemaValidation = true },
		func(h *HelmRequest) { h.IgnoreMissingValueFiles = true }, func(h *HelmRequest) { h.ValueFiles = []string{"x"} },
		func(h *HelmRequest) { h.Parameters = []HelmParameter{{Name: "x"}} }, func(h *HelmRequest) { h.FileParameters = []HelmFile{{Name: "x"}} },
	} {
		req := seededRequest()
		change(req.Helm)
		if other, err := s.key(req); err != nil || other == text {
			t.Errorf("%+v has the same key", req.Helm)
		}
	}
}
