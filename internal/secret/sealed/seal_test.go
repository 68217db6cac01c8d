package sealed

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"

	stock "github.com/bitnami/sealed-secrets/pkg/apis/sealedsecrets/v1alpha1"
	"github.com/bitnami/sealed-secrets/pkg/crypto"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/kubernetes/scheme"

	"github.com/holdfastcd/holdfast/internal/fault"
)

func stockOpened(t *testing.T, k *Key, o *unstructured.Unstructured) map[string][]byte {
	t.Helper()
	b, err := o.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	s := &stock.SealedSecret{}
	if err := json.Unmarshal(b, s); err != nil {
		t.Fatal(err)
	}
	out, err := s.Unseal(scheme.Codecs, map[string]*rsa.PrivateKey{k.Fingerprint: k.private()})
	if err != nil {
		t.Fatal(err)
	}
	return out.Data
}

func TestWhatIsSealedHereOpensWithTheStockLibrary(t *testing.T) {
	k := key(t, 0)
	for _, scope := range []Scope{Strict, NamespaceWide, ClusterWide} {
		t.Run(scope.String(), func(t *testing.T) {
			plain := plainSecret(Strict)
			plain.StringData = map[string]string{"text": "x", "password": "stringData wins"}
			plain.Annotations["kubectl.kubernetes.io/last-applied-configuration"] = value
			plain.UID, plain.OwnerReferences = "u", []metav1.OwnerReference{{Kind: "x"}}
			o, err := Seal(k.Certificate, toUnstructured(t, plain), scope)
			if err != nil {
				t.Fatal(err)
			}
			if b, _ := o.MarshalJSON(); bytes.Contains(b, []byte("horse")) || bytes.Contains(b, []byte("wins")) {
				t.Errorf("a value is in the SealedSecret: %s", b)
			}
			want := map[string][]byte{"empty": {}, "binary": {0, 255, 1}, "text": []byte("x"), "password": []byte("stringData wins")}
			if diff := cmp.Diff(want, stockOpened(t, k, o), cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			ours, err := keys(t, k).Unseal(o, nil)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, decoded(t, ours.Object["data"])); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if got := ours.GetLabels()["app"]; got != "shop" {
				t.Errorf("labels are lost: %q", got)
			}
		})
	}
}

func TestSealRefuses(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*unstructured.Unstructured)
		kind   fault.Kind
		says   string
	}{
		"no Secret":    {func(o *unstructured.Unstructured) { o.SetKind("ConfigMap") }, fault.Invalid, "ConfigMap"},
		"no name":      {func(o *unstructured.Unstructured) { o.SetName("") }, fault.Invalid, "needs a name"},
		"no namespace": {func(o *unstructured.Unstructured) { o.SetNamespace("") }, fault.Invalid, "namespace"},
		"no base64":    {set("hunter 2", "data", "password"), fault.Invalid, "data.password"},
		"no values":    {func(o *unstructured.Unstructured) { delete(o.Object, "data") }, fault.Invalid, "neither"},
		"a slip":       {set(map[string]any{}, "dada"), fault.Unsupported, "dada"},
		"a bad key":    {set("eA==", "data", "a b"), fault.Invalid, `"a b"`},
	} {
		t.Run(name, func(t *testing.T) {
			o := toUnstructured(t, plainSecret(Strict))
			tc.change(o)
			_, err := Seal(key(t, 0).Certificate, o, Strict)
			if err == nil || fault.KindOf(err) != tc.kind || !strings.Contains(err.Error(), tc.says) || strings.Contains(err.Error(), "hunter") {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestMerge(t *testing.T) {
	k := key(t, 0)
	more := plainSecret(Strict)
	more.Data = map[string][]byte{"password": []byte("new"), "token": []byte("t")}
	more.Labels = map[string]string{"tier": "db"}
	into, add := stockSealed(t, k, plainSecret(Strict)), stockSealed(t, k, more)
	if err := Merge(into, add); err != nil {
		t.Fatal(err)
	}
	got, err := keys(t, k).Unseal(into, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string][]byte{"password": []byte("new"), "token": []byte("t"), "empty": {}, "binary": {0, 255, 1}}
	if diff := cmp.Diff(want, decoded(t, got.Object["data"])); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]string{"app": "shop", "tier": "db"}, got.GetLabels()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if err := Merge(into, stockSealed(t, k, plainSecret(ClusterWide))); fault.KindOf(err) != fault.Invalid {
		t.Errorf("scopes are mixed up: %v", err)
	}
}

func TestVerify(t *testing.T) {
	k := keys(t, key(t, 0))
	good, _ := stockSealed(t, key(t, 0), plainSecret(Strict)).MarshalJSON()
	foreign, _ := stockSealed(t, key(t, 1), plainSecret(Strict)).MarshalJSON()
	oracle := stockSealed(t, key(t, 0), plainSecret(Strict))
	set(`{{ if hasPrefix "c" .password }}{{ fail "yes" }}{{ end }}`, "spec", "template", "data", "x")(oracle)
	asked, _ := oracle.MarshalJSON()
	for name, tc := range map[string]struct {
		body []byte
		kind fault.Kind
		ok   bool
	}{
		"it opens":                          {good, 0, true},
		"sealed for another cluster":        {foreign, fault.Refused, false},
		"no JSON":                           {[]byte("x"), fault.Invalid, false},
		"nothing":                           {[]byte("null"), fault.Invalid, false},
		"something else":                    {[]byte(`{"apiVersion":"v1","kind":"Secret"}`), fault.Unsupported, false},
		"a template asks about a value":     {asked, 0, true},
		"another place, which is not named": {bytes.ReplaceAll(good, []byte(`"shop"`), []byte(`"mine"`)), fault.Refused, false},
	} {
		err := k.Verify(t.Context(), tc.body)
		if (err == nil) != tc.ok || err != nil && fault.KindOf(err) != tc.kind {
			t.Errorf("%s: %v", name, err)
		}
		if err != nil && strings.Contains(err.Error(), "SHA256:") {
			t.Errorf("%s: a stranger is told about keys: %v", name, err)
		}
	}
}

// TestResealDoesNotWidenTheScope: the stock controller once took the scope to seal anew
// from annotations of the template, which anybody can write (CVE-2026-22728).
func TestResealDoesNotWidenTheScope(t *testing.T) {
	older, newer := key(t, 0), key(t, 1)
	k := keys(t, older, newer)
	o := stockSealed(t, older, plainSecret(Strict))
	set(map[string]any{AnnotationClusterWide: "true", AnnotationNamespaceWide: "true"}, "spec", "template", "metadata", "annotations")(o)
	set("evil", "spec", "template", "metadata", "namespace")(o)
	set("{{ .password }}", "spec", "template", "data", "copy")(o)
	body, _ := o.MarshalJSON()
	out, err := k.Reseal(t.Context(), body)
	if err != nil {
		t.Fatal(err)
	}
	again := &unstructured.Unstructured{}
	if err := json.Unmarshal(out, &again.Object); err != nil {
		t.Fatal(err)
	}
	sealedValues, _, _ := unstructured.NestedStringMap(again.Object, "spec", "encryptedData")
	if len(sealedValues) != 3 {
		t.Errorf("what a template makes was sealed: %v", len(sealedValues))
	}
	for name, text := range sealedValues {
		raw, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			t.Fatal(err)
		}
		private := map[string]*rsa.PrivateKey{"": newer.private()}
		for _, label := range []string{"", "shop", "evil", "evil/db"} {
			if _, err := crypto.HybridDecrypt(rand.Reader, private, raw, []byte(label)); err == nil {
				t.Errorf("%s opens for %q", name, label)
			}
		}
		if _, err := crypto.HybridDecrypt(rand.Reader, private, raw, []byte("shop/db")); err != nil {
			t.Errorf("%s does not open for its own place with the new key", name)
		}
	}
	unstructured.RemoveNestedField(o.Object, "spec", "encryptedData")
	unstructured.RemoveNestedField(again.Object, "spec", "encryptedData")
	if diff := cmp.Diff(o.Object, again.Object); diff != "" {
		t.Errorf("more than the values was changed:\n%s", diff)
	}
	// A wider scope claimed by the object itself does not open in the first place.
	o = stockSealed(t, older, plainSecret(Strict))
	o.SetAnnotations(map[string]string{AnnotationClusterWide: "true"})
	body, _ = o.MarshalJSON()
	if _, err := k.Reseal(t.Context(), body); fault.KindOf(err) != fault.Refused {
		t.Errorf("got %v", err)
	}
	if _, err := keys(t).Reseal(t.Context(), body); fault.KindOf(err) != fault.NotFound {
		t.Errorf("without keys: %v", err)
	}
}

func TestStrangersArePaced(t *testing.T) {
	k := keys(t, key(t, 0))
	k.pace.SetBurst(0)
	k.pace.SetLimit(0)
	body, _ := stockSealed(t, key(t, 0), plainSecret(Strict)).MarshalJSON()
	if err := k.Verify(t.Context(), body); fault.KindOf(err) != fault.Waiting {
		t.Errorf("got %v", err)
	}
	if _, err := k.Unseal(stockSealed(t, key(t, 0), plainSecret(Strict)), nil); err != nil {
		t.Errorf("deliveries wait for strangers: %v", err)
	}
}

func FuzzUnseal(f *testing.F) {
	f.Add([]byte(`{"apiVersion":"bitnami.com/v1alpha1","kind":"SealedSecret","metadata":{"name":"a","namespace":"b"},"spec":{"encryptedData":{"a":"AgBx"},"template":{"metadata":{"labels":{"a":"b"}},"type":"x","immutable":true,"data":{"c":"{{ .a }}"}}}}`))
	k, err := Of()
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(_ *testing.T, body []byte) {
		o := &unstructured.Unstructured{}
		if json.Unmarshal(body, &o.Object) != nil || o.Object == nil {
			return
		}
		_, _ = k.Unseal(o, nil)
	})
}
