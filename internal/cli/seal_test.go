package cli

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/yaml"

	"github.com/bitnami/sealed-secrets/pkg/crypto"

	"github.com/holdfastcd/holdfast/internal/secret/sealed"
	"github.com/holdfastcd/holdfast/internal/server"
	"github.com/holdfastcd/holdfast/test/harness"
)

const plainSecret = `apiVersion: v1
kind: Secret
metadata: {name: db, namespace: shop, labels: {app: shop}}
stringData: {password: hunter2hunter2}
`

// sealingKey makes a key, valid until a time, and the file of its certificate.
func sealingKey(t *testing.T, until time.Time) (key *sealed.Key, cert string) {
	t.Helper()
	private, c, err := crypto.GeneratePrivateKeyAndCert(2048, time.Until(until), "")
	if err != nil {
		t.Fatal(err)
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
	key, err = sealed.ReadKey(&corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{sealed.KeyLabel: sealed.KeyActive}},
		Data: map[string][]byte{
			corev1.TLSPrivateKeyKey: pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(private)}), corev1.TLSCertKey: text,
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return key, write(t, "cert.pem", string(text))
}

func write(t *testing.T, name, content string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// opened returns a value of a SealedSecret, opened.
func opened(t *testing.T, key *sealed.Key, document []byte, name string) string {
	t.Helper()
	o := &unstructured.Unstructured{}
	if err := yaml.Unmarshal(document, &o.Object); err != nil {
		t.Fatal(err)
	}
	k, err := sealed.Of(key)
	if err != nil {
		t.Fatal(err)
	}
	s, err := k.Unseal(o, nil)
	if err != nil {
		t.Fatal(err)
	}
	var typed corev1.Secret
	b, err := s.MarshalJSON()
	if err == nil {
		err = json.Unmarshal(b, &typed)
	}
	if err != nil {
		t.Fatal(err)
	}
	return string(typed.Data[name])
}

func TestSeal(t *testing.T) {
	key, cert := sealingKey(t, time.Now().Add(time.Hour))
	inNoNamespace := strings.ReplaceAll(plainSecret, ", namespace: shop", "")
	for _, tc := range []struct {
		name, stdin string
		args        []string
		scope       sealed.Scope
		namespace   string
	}{
		{"yaml", plainSecret, nil, sealed.Strict, "shop"},
		{"json", plainSecret, []string{"-o", "json"}, sealed.Strict, "shop"},
		{"scope", plainSecret, []string{"--scope", "cluster-wide"}, sealed.ClusterWide, "shop"},
		{"scope of the Secret", strings.ReplaceAll(plainSecret, "name: db", `name: db, annotations: {`+sealed.AnnotationNamespaceWide+`: "true"}`), nil, sealed.NamespaceWide, "shop"},
		{"namespace", inNoNamespace, []string{"-n", "other"}, sealed.Strict, "other"},
		{"file", "", []string{"-f", write(t, "s.yaml", plainSecret)}, sealed.Strict, "shop"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			code, out, errs := run(nil, tc.stdin, append([]string{"seal", "--cert", cert}, tc.args...)...)
			if code != 0 || strings.Contains(out+errs, "hunter2") {
				t.Fatalf("%d %s%s", code, out, errs)
			}
			if got := opened(t, key, []byte(out), "password"); got != "hunter2hunter2" {
				t.Errorf("got %q", got)
			}
			o := &unstructured.Unstructured{}
			if err := yaml.Unmarshal([]byte(out), &o.Object); err != nil {
				t.Fatal(err)
			}
			if sealed.ScopeOf(o.GetAnnotations()) != tc.scope || o.GetNamespace() != tc.namespace {
				t.Errorf("sealed %s for %s", sealed.ScopeOf(o.GetAnnotations()), o.GetNamespace())
			}
		})
	}
	code, out, _ := run(nil, plainSecret+"---\n"+strings.ReplaceAll(plainSecret, "name: db", "name: two"), "seal", "--cert", cert)
	if code != 0 || strings.Count(out, "---") != 1 || strings.Count(out, "kind: SealedSecret") != 2 {
		t.Errorf("two Secrets: %d %s", code, out)
	}
}

func TestSealRaw(t *testing.T) {
	key, cert := sealingKey(t, time.Now().Add(time.Hour))
	code, out, errs := run(nil, "hunter2hunter2", "seal", "--raw", "--cert", cert, "-n", "shop", "--name", "db")
	if code != 0 {
		t.Fatal(errs)
	}
	document := "apiVersion: bitnami.com/v1alpha1\nkind: SealedSecret\nmetadata: {name: db, namespace: shop}\nspec: {encryptedData: {x: " + strings.TrimSpace(out) + "}}\n"
	if got := opened(t, key, []byte(document), "x"); got != "hunter2hunter2" {
		t.Errorf("got %q", got)
	}
}

func TestSealMerges(t *testing.T) {
	key, cert := sealingKey(t, time.Now().Add(time.Hour))
	_, out, _ := run(nil, plainSecret, "seal", "--cert", cert)
	file := write(t, "db.yaml", out)
	more := "apiVersion: v1\nkind: Secret\nmetadata: {name: whatever}\nstringData: {token: hunter3}\n"
	code, out, errs := run(nil, more, "seal", "--cert", cert, "--merge-into", file)
	if code != 0 || out != "" {
		t.Fatalf("%d %s%s", code, out, errs)
	}
	merged, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if opened(t, key, merged, "token") != "hunter3" || opened(t, key, merged, "password") != "hunter2hunter2" {
		t.Errorf("%s", merged)
	}
	if left, err := os.ReadDir(filepath.Dir(file)); err != nil || len(left) != 1 {
		t.Errorf("files are left: %v %v", left, err)
	}
}

func TestSealRefuses(t *testing.T) {
	_, cert := sealingKey(t, time.Now().Add(time.Hour))
	_, expired := sealingKey(t, time.Now().Add(-time.Hour))
	plain := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) }))
	t.Cleanup(plain.Close)
	for _, tc := range []struct {
		name, stdin string
		args        []string
		says        string
	}{
		{"nothing", "", []string{"--cert", cert}, "no Secret"},
		{"no Secret", strings.ReplaceAll(plainSecret, "kind: Secret", "kind: ConfigMap"), []string{"--cert", cert}, "ConfigMap"},
		{"another namespace", plainSecret, []string{"--cert", cert, "-n", "other"}, "-n says other"},
		{"no such scope", plainSecret, []string{"--cert", cert, "--scope", "wide"}, "no scope"},
		{"an old certificate", plainSecret, []string{"--cert", expired}, "expired"},
		{"no certificate", plainSecret, []string{"--cert", write(t, "x", "hunter2")}, "no certificate"},
		{"a certificate that travels in the clear", plainSecret, []string{"--cert", "http://example.org/cert.pem"}, "https URL"},
		{"no answer", plainSecret, []string{"--cert", plain.URL}, "418"},
		{"a value without a name", "x", []string{"--cert", cert, "--raw"}, "--name"},
		{"two ways at once", "x", []string{"--raw", "--sops"}, "exclude"},
		{"SOPS without a path", "x", []string{"--sops"}, "needs a file"},
		{"SOPS without rules", "", []string{"--sops", "-f", write(t, "x.yaml", plainSecret)}, ".sops.yaml"},
		{"nothing to merge into", plainSecret, []string{"--cert", cert, "--merge-into", write(t, "y.yaml", plainSecret)}, "one SealedSecret"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			code, out, errs := run(nil, tc.stdin, append([]string{"seal"}, tc.args...)...)
			if code != exitFailed || !strings.Contains(errs, tc.says) || out != "" || strings.Contains(errs, "hunter2") {
				t.Errorf("%d %q %q", code, out, errs)
			}
		})
	}
}

// TestSealAnew asks a controller's own handler, at an address of this machine.
func TestSealAnew(t *testing.T) {
	key, cert := sealingKey(t, time.Now().Add(time.Hour))
	keys, err := sealed.Of(key)
	if err != nil {
		t.Fatal(err)
	}
	controller := httptest.NewServer(server.New(server.Options{Sealing: keys}).Handler())
	t.Cleanup(controller.Close)
	fake := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/busy/v1/rotate":
			w.WriteHeader(http.StatusServiceUnavailable)
		case "/other/v1/rotate":
			_, _ = w.Write([]byte(`{"apiVersion":"bitnami.com/v1alpha1","kind":"SealedSecret","metadata":{"name":"other","namespace":"shop"}}`))
		case "/moved/v1/rotate":
			http.Redirect(w, r, controller.URL+"/v1/rotate", http.StatusTemporaryRedirect)
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	t.Cleanup(fake.Close)

	_, before, _ := run(nil, plainSecret, "seal", "--controller", controller.URL)
	two := before + "---\n" + strings.ReplaceAll(before, "name: db", "name: db # the same") // one more document
	file := write(t, "db.yaml", two)
	code, out, errs := run(nil, "", "seal", "--re-encrypt", "--controller", controller.URL, "-f", file)
	if code != exitOK || strings.Count(out, "---") != 1 || opened(t, key, []byte(strings.Split(out, "---")[0]), "password") != "hunter2hunter2" {
		t.Fatalf("%d %s%s", code, out, errs)
	}
	if code, out, errs := run(nil, "", "seal", "--re-encrypt", "-w", "--controller", controller.URL, "-f", file); code != exitOK || out != "" {
		t.Fatalf("%d %s%s", code, out, errs)
	}
	after, err := os.ReadFile(file)
	if err != nil || string(after) == two || strings.Count(string(after), "kind: SealedSecret") != 2 || opened(t, key, []byte(strings.Split(string(after), "---")[0]), "password") != "hunter2hunter2" {
		t.Errorf("%v %s", err, after)
	}

	moved := strings.ReplaceAll(before, "namespace: shop", "namespace: other")
	for _, tc := range []struct {
		reason, stdin string
		args          []string
		says          string
	}{
		{"it is sealed for another namespace", moved, []string{"--controller", controller.URL}, "SealedSecret/other/db: it does not open with the keys of the controller"},
		{"a Secret is not sealed yet", plainSecret, []string{"--controller", controller.URL}, "only SealedSecrets"},
		{"there is nothing", "", []string{"--controller", controller.URL}, "no SealedSecret to seal anew"},
		{"the controller has much to do", before, []string{"--controller", fake.URL + "/busy"}, "try again later"},
		{"the answer is another object", before, []string{"--controller", fake.URL + "/other"}, "not this SealedSecret"},
		{"it asks to go elsewhere", before, []string{"--controller", fake.URL + "/moved"}, "307"},
		{"nobody is there", before, []string{"--controller", fake.URL + "/none"}, "404"},
		{"who answers cannot be told", before, []string{"--controller", "http://example.org"}, "https URL"},
		{"a password in an address", before, []string{"--controller", "https://u:hunter2@example.org"}, "https URL"},
		{"the newest key is taken, and no other", before, []string{"--cert", cert}, "takes no --cert"},
		{"standard input cannot be written", before, []string{"-w"}, "needs files"},
	} {
		t.Run(tc.reason, func(t *testing.T) {
			code, out, errs := run(nil, tc.stdin, append([]string{"seal", "--re-encrypt"}, tc.args...)...)
			if code != exitFailed || !strings.Contains(errs, tc.says) || out != "" || strings.Contains(errs, "hunter2") {
				t.Errorf("%d %q %q", code, out, errs)
			}
		})
	}
	bad := write(t, "bad.yaml", before+"---\n"+moved)
	content, _ := os.ReadFile(bad)
	if code, _, errs := run(nil, "", "seal", "--re-encrypt", "-w", "--controller", controller.URL, "-f", bad); code != exitFailed || !strings.Contains(errs, "bad.yaml") {
		t.Errorf("%d %s", code, errs)
	}
	if now, _ := os.ReadFile(bad); !bytes.Equal(now, content) {
		t.Error("a file was written of which one object failed")
	}
}

func TestSealWithSOPS(t *testing.T) {
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	rules := write(t, ".sops.yaml", "creation_rules:\n- path_regex: prod/.*\n  encrypted_regex: ^(data|stringData)$\n  age: "+id.Recipient().String()+"\n")
	dir := filepath.Join(filepath.Dir(rules), "clusters", "prod")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "db.yaml")
	if err := os.WriteFile(file, []byte(plainSecret), 0o640); err != nil {
		t.Fatal(err)
	}
	code, out, errs := run(nil, "", "seal", "--sops", "-f", file)
	if code != 0 || strings.Contains(out, "hunter2") || !strings.Contains(out, "ENC[AES256_GCM") {
		t.Fatalf("%d %s%s", code, out, errs)
	}
	if code, out, errs := run(nil, "", "seal", "--sops", "-w", "-f", file); code != 0 || out != "" {
		t.Fatalf("%d %s%s", code, out, errs)
	}
	written, err := os.ReadFile(file)
	info, statErr := os.Stat(file)
	if err != nil || statErr != nil || bytes.Contains(written, []byte("hunter2")) || info.Mode().Perm() != 0o640 {
		t.Errorf("%v %v %v %s", err, statErr, info.Mode(), written)
	}
	if code, _, errs := run(nil, "", "seal", "--sops", "-f", file); code != exitFailed || !strings.Contains(errs, "sealed already (change it with `sops edit`") {
		t.Errorf("%d %s", code, errs)
	}
}

// TestKeys goes through the life of keys, with a cluster of its own.
func TestKeys(t *testing.T) {
	if testing.Short() {
		t.Skip("needs a cluster")
	}
	c, err := harness.Start(t.Context(), harness.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Stop() })
	kube, err := kubernetes.NewForConfig(c.Config())
	if err != nil {
		t.Fatal(err)
	}
	at := []string{"--kubeconfig", c.Kubeconfig()}
	keys := func(want int, args ...string) string {
		t.Helper()
		code, out, errs := run(nil, "", append(append([]string{"keys"}, args...), at...)...)
		if code != want || strings.Contains(out+errs, "PRIVATE") {
			t.Fatalf("keys %v: %d %s%s", args, code, out, errs)
		}
		return out + errs
	}
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "keys.age")
	if said := keys(exitFailed, "backup", "--out", file); !strings.Contains(said, "no recipient") {
		t.Error(said)
	}
	to := []string{"backup", "--recipient", id.Recipient().String(), "--out", file}
	if said := keys(exitFailed, to...); !strings.Contains(said, "no keys to save") {
		t.Error(said)
	}
	old, err := sealed.Create(t.Context(), kube, "kube-system", time.Now().Add(-time.Hour), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if said := keys(exitOK, "rotate"); !strings.Contains(said, "kube-system/sealed-secrets-key") || !strings.Contains(said, "--re-encrypt") {
		t.Errorf("it lies where the newest was: %s", said)
	}
	for line := range strings.Lines(keys(exitOK, "list")) {
		if newest := strings.Contains(line, "SHA256:") && !strings.Contains(line, old.Fingerprint); newest != strings.Contains(line, "active, seals") {
			t.Errorf("the newest key seals, and no other: %s", line)
		}
	}
	if said := keys(exitOK, "list"); strings.Count(said, "SHA256:") != 2 || !strings.Contains(said, old.Fingerprint) {
		t.Error(said)
	}
	sopsKey := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "sops-age"},
		Data:       map[string][]byte{"id.agekey": []byte(id.String())},
	}
	if _, err := kube.CoreV1().Secrets("default").Create(t.Context(), sopsKey, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if said := keys(exitOK, "list", "--secret", "default/sops-age"); !strings.Contains(said, id.Recipient().String()) || strings.Contains(said, id.String()) {
		t.Errorf("a key for decryption is listed by its recipient: %s", said)
	}
	if said := keys(exitOK, to...); strings.Count(said, "saved Secret") != 2 {
		t.Error(said)
	}
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info, err)
	}
	if said := keys(exitFailed, to...); !strings.Contains(said, "already") {
		t.Errorf("a backup is written over: %s", said)
	}
	namespace, name, _ := strings.Cut(old.Secret, "/")
	if err := kube.CoreV1().Secrets(namespace).Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	identity := filepath.Join(dir, "key.txt")
	if err := os.WriteFile(identity, []byte(id.String()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	restore := []string{"restore", "-f", file, "--identity", identity}
	if said := keys(exitOK, append(restore, "--dry-run")...); !strings.Contains(said, old.Secret+": would be created") {
		t.Error(said)
	}
	if said := keys(exitOK, restore...); !strings.Contains(said, old.Secret+": created") || strings.Count(said, "unchanged") != 1 {
		t.Error(said)
	}
	if said := keys(exitOK, "list", "-o", "json"); !strings.Contains(said, old.Fingerprint) {
		t.Error(said)
	}
}
