package leak

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"
	"testing"

	"filippo.io/age"
	"github.com/google/go-cmp/cmp"
	"github.com/zricethezav/gitleaks/v8/detect"
)

// Secrets are made when the test runs, so that no scanner trips over this file.

func random(t testing.TB, n int, letters string) string {
	t.Helper()
	b := make([]byte, n)
	if _, err := rand.Read(b); err != nil {
		t.Fatal(err)
	}
	for i := range b {
		b[i] = letters[int(b[i])%len(letters)]
	}
	return string(b)
}

const (
	lower    = "abcdefghijklmnopqrstuvwxyz"
	upper    = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
	digits   = "0123456789"
	alphabet = lower + upper + digits
)

// word is random, and has letters and digits enough for every rule that goes by entropy.
func word(t testing.TB, n int) string {
	for {
		if w := random(t, n, alphabet); entropy(w) > 3.9 || n < 20 && entropy(w) > 3.6 {
			return w
		}
	}
}

func hexadecimal(t testing.TB) string {
	for {
		if w := random(t, 40, "0123456789abcdef"); entropy(w) > 3.6 {
			return w
		}
	}
}

func privateKey(t testing.TB) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

func ageKey(t testing.TB) string {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	return id.String()
}

func b64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

func indent(s, by string) string {
	return by + strings.ReplaceAll(strings.TrimSpace(s), "\n", "\n"+by) + "\n"
}

// sample is a file and what is in it.
type sample struct {
	name, reason string
	file         string
	content      string
	want         []string // line:rule
	values       []string // that must not be told
}

func samples(t testing.TB) []sample {
	pass, key, ageID := word(t, 24), privateKey(t), ageKey(t)
	aws := "AKIA" + random(t, 16, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567")
	github := "ghp_" + word(t, 36)
	slack := "xoxb-" + random(t, 12, digits) + "-" + random(t, 12, digits) + "-" + word(t, 24)
	post := "AGE-SECRET-KEY-PQ-1" + random(t, 58, upper+digits)
	secret := "apiVersion: v1\nkind: Secret\nmetadata:\n  name: a\n"
	return []sample{
		{name: "data", reason: "base64 seals nothing", file: "a.yaml", content: secret + "data:\n  password: " + b64(pass) + "\n", want: []string{"6:kubernetes-secret"}, values: []string{pass}},
		{name: "stringData", reason: "however weak it is", file: "a.yaml", content: secret + "stringData:\n  password: changeme\n", want: []string{"6:kubernetes-secret"}, values: []string{"changeme"}},
		{name: "block", reason: "a value of several lines is one", file: "a.yml", content: secret + "stringData:\n  conf: |\n    user: a\n    password: " + pass + "\n  other: x\n", want: []string{"6:kubernetes-secret", "9:kubernetes-secret"}, values: []string{pass}},
		{name: "json", reason: "JSON, indented by tabs", file: "a.json", content: "{\n\t\"apiVersion\": \"v1\",\n\t\"kind\": \"Secret\",\n\t\"stringData\": {\n\t\t\"p\": \"" + pass + "\"\n\t}\n}\n", want: []string{"5:kubernetes-secret"}, values: []string{pass}},
		{name: "list", reason: "within a List", file: "a.yaml", content: "apiVersion: v1\nkind: List\nitems:\n- kind: ConfigMap\n  data: {a: b}\n- apiVersion: v1\n  kind: Secret\n  data:\n    p: " + b64(pass) + "\n", want: []string{"9:kubernetes-secret"}, values: []string{pass}},
		{name: "documents", reason: "the second of three, beside one that is no YAML", file: "a.yaml", content: "a: [\n---\n" + secret + "stringData: {p: hunter2}\n--- # more\nb: c\n", want: []string{"7:kubernetes-secret"}, values: []string{"hunter2"}},
		{name: "anchor", reason: "behind an alias and a merge", file: "a.yaml", content: "x: &x\n  p: hunter22\n---\n" + "base: &b {p: hunter22}\napiVersion: v1\nkind: Secret\nstringData:\n  <<: *b\n", want: []string{"4:kubernetes-secret"}, values: []string{"hunter22"}},
		{name: "default", reason: "a variable with a default holds the default", file: "a.yaml", content: secret + "stringData:\n  p: ${PASSWORD:=hunter2}\n", want: []string{"6:kubernetes-secret"}, values: []string{"hunter2"}},
		{name: "template", reason: "a literal value in a template of a chart", file: "templates/a.yaml", content: "{{- if .Values.x }}\n" + secret + "data:\n  a: {{ .Values.a | b64enc }}\n  b: " + b64(pass) + "\n{{- end }}\n", want: []string{"8:kubernetes-secret"}, values: []string{pass}},
		{name: "tls", reason: "the key, not the certificate", file: "a.yaml", content: secret + "stringData:\n  tls.crt: |\n    -----BEGIN CERTIFICATE-----\n    MIIB\n    -----END CERTIFICATE-----\n  tls.key: |\n" + indent(key, "    "), want: []string{"10:private-key"}, values: pemLines(key)},
		{name: "tls in base64", reason: "told as a key", file: "a.yaml", content: secret + "data:\n  tls.key: " + b64(key) + "\n", want: []string{"6:private-key"}, values: []string{b64(key)[60:90]}},
		{name: "sealing key", reason: "it opens everything", file: "a.yaml", content: "apiVersion: v1\nkind: Secret\nmetadata:\n  labels: {sealedsecrets.bitnami.com/sealed-secrets-key: active}\ndata:\n  tls.key: " + b64(key) + "\n", want: []string{"6:sealing-key"}, values: []string{b64(key)[60:90]}},
		{name: "age in a Secret", reason: "the keys of a delivery", file: "a.yaml", content: secret + "stringData:\n  id.agekey: " + ageID + "\n", want: []string{"6:age-secret-key"}, values: []string{ageID}},
		{name: "age file", reason: "as age-keygen writes it", file: "keys.txt", content: "# created: 2026-01-01\n" + ageID + "\n", want: []string{"2:age-secret-key"}, values: []string{ageID}},
		{name: "post-quantum age", reason: "a kind that gitleaks does not know", file: "keys.txt", content: post + "\n", want: []string{"1:age-secret-key"}, values: []string{post}},
		{name: "pem", reason: "a key by itself", file: "id_key", content: key, want: []string{"1:private-key"}, values: pemLines(key)},
		{name: "pem in base64", reason: "in a ConfigMap", file: "a.yaml", content: "kind: ConfigMap\ndata:\n  k: " + b64(key) + "\n", want: []string{"3:private-key"}, values: []string{b64(key)[60:90]}},
		{name: "literal", reason: "a secretGenerator with literals", file: "x/kustomization.yaml", content: "secretGenerator:\n- name: a\n  literals:\n  - user=${USER}\n  - pass=hunter2\n  - empty=\n", want: []string{"5:kustomize-literal"}, values: []string{"hunter2"}},
		{name: "aws", reason: "by its form", file: "a.env", content: "id=" + aws + "\n", want: []string{"1:aws-access-token"}, values: []string{aws}},
		{name: "github", reason: "by its form", file: "ci.sh", content: "git clone https://x:" + github + "@example.com/a.git\n", want: []string{"1:github-pat"}, values: []string{github}},
		{name: "slack", reason: "by its form", file: "values.yaml", content: "x:\n  y: " + slack + "\n", want: []string{"2:slack-bot-token"}, values: []string{slack}},
		{name: "values", reason: "by its entropy", file: "values.yaml", content: "auth:\n  password: " + pass + "\n", want: []string{"2:generic-api-key"}, values: []string{pass}},
		{name: "hexadecimal", reason: "a sum is one only where it is called so", file: "values.yaml", content: "auth:\n  apiToken: " + hexadecimal(t) + "\n", want: []string{"2:generic-api-key"}},
		{name: "allowed inline", reason: "is found, and marked", file: "a.env", content: "id=" + aws + " # gitleaks:" + "allow\n", want: []string{"1:aws-access-token inline"}, values: []string{aws}},
		{name: "beside what is sealed", reason: "what SOPS left open", file: "a.yaml", content: "apiVersion: v1\nkind: Secret\nstringData:\n  a: ENC[AES256_GCM,data:aaaa,iv:bbbb,tag:cccc,type:str]\n  b: hunter2\nsops:\n  mac: ENC[AES256_GCM,data:aaaa,iv:bbbb,tag:cccc,type:str]\n", want: []string{"5:kubernetes-secret"}, values: []string{"hunter2"}},
		{name: "template of a SealedSecret", reason: "it is not sealed", file: "a.yaml", content: "apiVersion: bitnami.com/v1alpha1\nkind: SealedSecret\nspec:\n  encryptedData:\n    a: " + b64(word(t, 90)) + "\n  template:\n    data:\n      apiToken: " + pass + "\n", want: []string{"8:generic-api-key"}, values: []string{pass}},
	}
}

func pemLines(key string) []string {
	all := strings.Split(strings.TrimSpace(key), "\n")
	return all[1 : len(all)-1]
}

func TestSecretsAreFound(t *testing.T) {
	c := rules(t)
	for _, tt := range samples(t) {
		t.Run(tt.name, func(t *testing.T) {
			out := search(c, item{Path: tt.file}, []byte(tt.content), []byte("0123456789abcdef"))
			var got []string
			for _, f := range out.Findings {
				line := fmt.Sprintf("%d:%s", f.Line, f.Rule)
				if f.Inline {
					line += " inline"
				}
				got = append(got, line)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("%s (-want +got):\n%s\n%s", tt.reason, diff, tt.content)
			}
			told, err := json.Marshal(out)
			if err != nil {
				t.Fatal(err)
			}
			for _, v := range tt.values {
				for part := range slices.Chunk([]byte(v), 6) {
					if len(part) == 6 && strings.Contains(string(told), string(part)) {
						t.Errorf("a part of the value is told: %s", told)
					}
				}
			}
		})
	}
}

func TestWhatIsSealedIsNotFound(t *testing.T) {
	const enc = "ENC[AES256_GCM,data:p673w==,iv:YY=,aad:UQ==,tag:A=,type:str]"
	armour := "-----BEGIN AGE ENCRYPTED FILE-----\n" + indent(b64(word(t, 120)), "") + "-----END AGE ENCRYPTED FILE-----\n"
	tests := []struct{ name, reason, file, content string }{
		{"sops", "a Secret whose values SOPS sealed", "a.yaml", "apiVersion: v1\nkind: Secret\ndata:\n  token: " + enc + "\nsops:\n  age:\n  - recipient: age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p\n    enc: |\n" + indent(armour, "      ") + "  kms:\n  - arn: a\n    enc: " + b64(word(t, 60)) + "\n    secret_key: " + word(t, 30) + "\n  mac: " + enc + "\n  version: 3.13.0\n"},
		{"sops dotenv", "in dotenv", "a.env", "TOKEN=" + enc + "\nsops_mac=" + enc + "\nsops_age__list_0__map_enc=" + strings.ReplaceAll(armour, "\n", `\n`) + "\n"},
		{"sops file in base64", "a sealed file as a value", "a.yaml", "apiVersion: v1\nkind: Secret\ndata:\n  f: " + b64("a: "+enc+"\nsops:\n  mac: "+enc+"\n") + "\n"},
		{"sealed secret", "what the sealing key sealed", "a.yaml", "apiVersion: bitnami.com/v1alpha1\nkind: SealedSecret\nspec:\n  encryptedData:\n    token: " + word(t, 100) + "\n    apiKey: " + word(t, 100) + "\n  template: {type: Opaque}\n"},
		{"empty", "nothing is in it", "a.yaml", "apiVersion: v1\nkind: Secret\ndata: {a: \"\", b: null, c: ~}\n"},
		{"nothing", "no data at all", "a.yaml", "apiVersion: v1\nkind: Secret\ntype: kubernetes.io/service-account-token\n"},
		{"placeholders", "filled in later", "a.yaml", "apiVersion: v1\nkind: Secret\nstringData:\n  a: ${PASSWORD}\n  b: <path:kv/data/a#b>\n  c: '{{ .Values.c }}'\n  d: $(PASSWORD)\n  e: ref+vault://kv/a#/b\n  f: postgres://${USER}:${PASSWORD}@db\ndata:\n  g: " + b64("<path:kv/data/a#b | base64encode>") + "\n"},
		{"external", "it names where the values are", "a.yaml", "apiVersion: external-secrets.io/v1\nkind: ExternalSecret\nspec:\n  secretStoreRef: {name: vault-backend1, kind: ClusterSecretStore}\n  data:\n  - secretKey: db-password1\n    remoteRef: {key: secret/data/shop/db2, property: password}\n"},
		{"other group", "it is somebody else's kind", "a.yaml", "apiVersion: example.com/v1\nkind: Secret\ndata: {a: b}\n"},
		{"public", "certificates are for everybody", "a.yaml", "apiVersion: v1\nkind: Secret\ndata:\n  ca.crt: " + b64("-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n") + "\n"},
		{"recipient", "whoever seals needs the public key", "keys.yaml", "# public key: age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p\nage_key: age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p\n"},
		{"lock", "gitleaks' own list of files", "package-lock.json", `{"token": "` + word(t, 30) + `"}`},
		{"binary", "nobody reads it", "a.yaml", "\x00apiVersion: v1\nkind: Secret\nstringData: {a: b}\n"},
	}
	c := rules(t)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if out := search(c, item{Path: tt.file}, []byte(tt.content), nil); len(out.Findings) > 0 {
				t.Errorf("%s: found\n%s in\n%s", tt.reason, show(out.Findings), tt.content)
			}
		})
	}
}

// The loop around the rules is ours: gitleaks' own detector finds the same, but for what
// package leak tunes or says better.
func TestAsGitleaks(t *testing.T) {
	c := rules(t)
	d := detect.NewDetector(*c)
	d.IgnoreGitleaksAllow = true
	n := 0
	for _, s := range samples(t) {
		var want, got []string
		for _, f := range d.Detect(detect.Fragment{Raw: s.content, FilePath: s.file}) { //nolint:staticcheck // its successor is of the next major version
			want = append(want, f.RuleID+" "+f.Secret)
		}
		hits := byRules(c, s.file, s.content)
		for _, h := range hits {
			if h.rule == generic && !slices.Contains(want, generic+" "+h.value) {
				continue // gitleaks leaves it out beside another of the line; we do in distinct
			}
			got = append(got, h.rule+" "+h.value)
		}
		want = slices.DeleteFunc(want, func(w string) bool {
			return strings.HasPrefix(w, generic+" ") && !slices.Contains(got, w) && harmlessAnywhere(s.content, strings.TrimPrefix(w, generic+" "))
		})
		n += len(want)
		slices.Sort(want)
		slices.Sort(got)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-gitleaks +ours):\n%s", s.name, diff)
		}
	}
	if n < 10 {
		t.Errorf("only %d findings were compared", n)
	}
}

func harmlessAnywhere(text, value string) bool {
	i := strings.Index(text, value)
	if i < 0 {
		return false
	}
	line := lines(text, i, i)
	before, _, _ := strings.Cut(line, value)
	return harmless(line, before, value)
}

func TestFingerprints(t *testing.T) {
	c := rules(t)
	at := func(path, before, value, salt string) string {
		out := search(c, item{Path: path}, []byte(before+"apiVersion: v1\nkind: Secret\nstringData: {p: "+value+"}\n"), []byte(salt))
		return out.Findings[len(out.Findings)-1].Fingerprint
	}
	const salt = "0123456789abcdef"
	base := at("a.yaml", "", "hunter2", salt)
	tests := []struct {
		reason string
		got    string
		same   bool
	}{
		{"lines above do not count", at("a.yaml", "# hello\n\n", "hunter2", salt), true},
		{"another value", at("a.yaml", "", "hunter3", salt), false},
		{"another path", at("b.yaml", "", "hunter2", salt), false},
		{"another repository", at("a.yaml", "", "hunter2", "fedcba9876543210"), false},
		{"no salt", at("a.yaml", "", "hunter2", ""), false},
	}
	for _, tt := range tests {
		if (tt.got == base) != tt.same {
			t.Errorf("%s: %s, %s before", tt.reason, tt.got, base)
		}
	}
	if at("a.yaml", "", "hunter2", "") != at("a.yaml", "", "hunter3", "") {
		t.Error("without a salt the value must be no part of it: it could be guessed")
	}
}

func FuzzSearch(f *testing.F) {
	c := rules(f)
	for _, s := range samples(f) {
		f.Add(s.file, []byte(s.content))
	}
	f.Fuzz(func(t *testing.T, path string, content []byte) {
		if len(content) > 1<<14 {
			return
		}
		lines := strings.Count(string(content), "\n") + 1
		out := search(c, item{Path: path}, content, nil)
		for _, found := range out.Findings {
			if found.Line < 1 || found.Line > lines || found.Column < 1 || found.File != path {
				t.Errorf("%+v", found)
			}
		}
		search(c, item{Path: path, Role: asEnv}, content, nil)
		search(c, item{Path: path, Role: asValue}, content, nil)
	})
}
