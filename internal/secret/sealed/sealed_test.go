package sealed

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	stock "github.com/bitnami/sealed-secrets/pkg/apis/sealedsecrets/v1alpha1"
	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/kubernetes/scheme"

	"github.com/holdfastcd/holdfast/internal/fault"
)

const value = "correct horse battery staple"

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// two are keys that all tests share, of the shortest size allowed; what is made in a
// cluster (live_test.go) has the full one.
var two = sync.OnceValues(func() ([2]*corev1.Secret, error) {
	var all [2]*corev1.Secret
	for i := range all {
		s, err := newKey(minBits, "kube-system", start.Add(time.Duration(i)*time.Hour), rand.Reader)
		if err != nil {
			return all, err
		}
		s.Name = fmt.Sprint("key", i)
		all[i] = s
	}
	return all, nil
})

func secretKey(t *testing.T, i int) *corev1.Secret {
	t.Helper()
	all, err := two()
	if err != nil {
		t.Fatal(err)
	}
	return all[i].DeepCopy()
}

func key(t *testing.T, i int) *Key {
	t.Helper()
	k, err := ReadKey(secretKey(t, i))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func keys(t *testing.T, all ...*Key) *Keys {
	t.Helper()
	k, err := Of(all...)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// stockSealed seals s with the stock library.
func stockSealed(t *testing.T, k *Key, s *corev1.Secret) *unstructured.Unstructured {
	t.Helper()
	public, _ := k.Certificate.PublicKey.(*rsa.PublicKey)
	sealed, err := stock.NewSealedSecret(scheme.Codecs, public, s)
	if err != nil {
		t.Fatal(err)
	}
	sealed.APIVersion, sealed.Kind = APIVersion, Kind
	return toUnstructured(t, sealed)
}

func toUnstructured(t *testing.T, o any) *unstructured.Unstructured {
	t.Helper()
	b, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	u := &unstructured.Unstructured{}
	if err := json.Unmarshal(b, &u.Object); err != nil {
		t.Fatal(err)
	}
	return u
}

func plainSecret(scope Scope) *corev1.Secret {
	return &corev1.Secret{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"},
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "shop", Name: "db", Labels: map[string]string{"app": "shop"},
			Annotations: scope.annotate(map[string]string{"note": "yes"}),
		},
		Type: corev1.SecretTypeOpaque,
		Data: map[string][]byte{"password": []byte(value), "empty": {}, "binary": {0, 255, 1}},
	}
}

func TestWhatTheStockLibrarySealsOpens(t *testing.T) {
	for _, scope := range []Scope{Strict, NamespaceWide, ClusterWide} {
		t.Run(scope.String(), func(t *testing.T) {
			plain := plainSecret(scope)
			immutable := true
			plain.Immutable = &immutable
			got, err := keys(t, key(t, 0), key(t, 1)).Unseal(stockSealed(t, key(t, 0), plain), nil)
			if err != nil {
				t.Fatal(err)
			}
			want := toUnstructured(t, plain)
			unstructured.RemoveNestedField(want.Object, "metadata", "creationTimestamp")
			if diff := cmp.Diff(want.Object, got.Object); diff != "" {
				t.Errorf("the Secret differs (-want +got):\n%s", diff)
			}
		})
	}
}

func TestScopesMayMoveAsFarAsTheySay(t *testing.T) {
	for _, tc := range []struct {
		scope           Scope
		namespace, name string
		opens           bool
		says            string
		reason          string
	}{
		{Strict, "shop", "db", true, "", "its own place"},
		{Strict, "shop", "other", false, "sealed for the name shop/db", "strict is bound to the name; the template tells the old one"},
		{Strict, "other", "db", false, "sealed for the name shop/db", "strict is bound to the namespace"},
		{NamespaceWide, "shop", "other", true, "", "any name in the namespace"},
		{NamespaceWide, "other", "db", false, "sealed for the whole namespace shop", "no other namespace"},
		{ClusterWide, "other", "other", true, "", "anywhere"},
	} {
		t.Run(fmt.Sprint(tc.scope, "/", tc.namespace, "/", tc.name), func(t *testing.T) {
			o := stockSealed(t, key(t, 0), plainSecret(tc.scope))
			o.SetNamespace(tc.namespace)
			o.SetName(tc.name)
			_, err := keys(t, key(t, 0)).Unseal(o, nil)
			if (err == nil) != tc.opens {
				t.Fatalf("%s: %v", tc.reason, err)
			}
			if err != nil && (fault.KindOf(err) != fault.Refused || !strings.Contains(err.Error(), tc.says)) {
				t.Errorf("%s: got %q, want %q", tc.reason, err, tc.says)
			}
		})
	}
}

func TestScopeIsTakenFromTheSealedSecretAlone(t *testing.T) {
	o := stockSealed(t, key(t, 0), plainSecret(ClusterWide))
	o.SetAnnotations(nil)
	_, err := keys(t, key(t, 0)).Unseal(o, nil)
	if fault.KindOf(err) != fault.Refused || !strings.Contains(err.Error(), "sealed for the whole cluster") {
		t.Errorf("the template's annotations say nothing: %v", err)
	}
}

// TestEveryByteOfAValueIsProtected changes every byte with HOLDFAST_LONG=1; otherwise
// those at the borders of the parts, and of the rest each seventh, every bit in turn.
func TestEveryByteOfAValueIsProtected(t *testing.T) {
	key := key(t, 0)
	k, wrapped := keys(t, key), lengthBytes+key.private().Size()
	o := stockSealed(t, key, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "db"}, Data: map[string][]byte{"password": []byte(value)},
	})
	text, _, _ := unstructured.NestedString(o.Object, "spec", "encryptedData", "password")
	sealedValue, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	for i := range sealedValue {
		border := i <= lengthBytes || i == wrapped-1 || i == wrapped || i == len(sealedValue)-1
		if os.Getenv("HOLDFAST_LONG") == "" && !border && i%7 != 0 {
			continue
		}
		changed := append([]byte(nil), sealedValue...)
		changed[i] ^= 1 << (i % 8)
		_ = unstructured.SetNestedField(o.Object, base64.StdEncoding.EncodeToString(changed), "spec", "encryptedData", "password")
		_, err := k.Unseal(o, nil)
		if kind := fault.KindOf(err); err == nil || kind != fault.Refused && kind != fault.NotFound {
			t.Fatalf("byte %d of %d may be changed: %v", i, len(sealedValue), err)
		}
		if strings.Contains(err.Error(), "horse") {
			t.Fatalf("an error tells the value: %v", err)
		}
	}
	// The last character before the padding has bits that mean nothing.
	if strings.HasSuffix(text, "=") {
		last := strings.TrimRight(text, "=")
		other := last[:len(last)-1] + string(rune(last[len(last)-1]+1)) + text[len(last):]
		_ = unstructured.SetNestedField(o.Object, other, "spec", "encryptedData", "password")
		if _, err := k.Unseal(o, nil); err == nil {
			t.Error("a character of base64 may be changed")
		}
	}
}

func TestTheTemplateIsNotProtected(t *testing.T) {
	o := stockSealed(t, key(t, 0), plainSecret(Strict))
	_ = unstructured.SetNestedField(o.Object, "another", "spec", "template", "metadata", "labels", "app")
	_ = unstructured.SetNestedField(o.Object, "{{ .password }}", "spec", "template", "data", "copy")
	got, err := keys(t, key(t, 0)).Unseal(o, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got.GetLabels()["app"] != "another" {
		t.Error("the format has begun to protect the template: say so in the docs")
	}
}

func TestErrorsSayWhatIsKnown(t *testing.T) {
	mine := stockSealed(t, key(t, 0), plainSecret(Strict))
	for _, tc := range []struct {
		name   string
		change func(o *unstructured.Unstructured)
		keys   []*Key
		kind   fault.Kind
		says   []string
	}{
		{"no key", nil, nil, fault.NotFound, []string{"keys at hand: none", "holdfast keys restore"}},
		{"another key", nil, []*Key{key(t, 1)}, fault.NotFound, []string{key(t, 1).Fingerprint, "kube-system/key1", "SealedSecret.bitnami.com/shop/db"}},
		{"no base64", set("*", "spec", "encryptedData", "password"), []*Key{key(t, 0)}, fault.Refused, []string{"password is damaged"}},
		{"too short", set("AAAA", "spec", "encryptedData", "password"), []*Key{key(t, 0)}, fault.Refused, []string{"password is damaged"}},
		{"no text", set(int64(3), "spec", "encryptedData", "password"), []*Key{key(t, 0)}, fault.Invalid, []string{"spec.encryptedData.password is not a string"}},
		{"another field", set("x", "spec", "recipe"), []*Key{key(t, 0)}, fault.Unsupported, []string{"spec.recipe"}},
		{"the old form", set("x", "spec", "data"), []*Key{key(t, 0)}, fault.Unsupported, []string{"spec.data"}},
		{"an owner of its own", set([]any{}, "spec", "template", "metadata", "ownerReferences"), []*Key{key(t, 0)}, fault.Unsupported, []string{"spec.template.metadata.ownerReferences"}},
		{"a key that no Secret has", set("x", "spec", "template", "data", "a b"), []*Key{key(t, 0)}, fault.Invalid, []string{`"a b"`}},
		{"no namespace", func(o *unstructured.Unstructured) { o.SetNamespace("") }, []*Key{key(t, 0)}, fault.Invalid, []string{"namespace"}},
		{"another version", func(o *unstructured.Unstructured) { o.SetAPIVersion("bitnami.com/v2") }, []*Key{key(t, 0)}, fault.Unsupported, []string{"bitnami.com/v2"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			o := mine.DeepCopy()
			if tc.change != nil {
				tc.change(o)
			}
			k := keys(t, tc.keys...)
			for range 2 { // the second answer is remembered
				_, err := k.Unseal(o, nil)
				if fault.KindOf(err) != tc.kind || err == nil {
					t.Fatalf("got %v, want %v", err, tc.kind)
				}
				for _, s := range tc.says {
					if !strings.Contains(err.Error(), s) {
						t.Errorf("%q does not say %q", err, s)
					}
				}
			}
		})
	}
}

func set(v any, path ...string) func(*unstructured.Unstructured) {
	return func(o *unstructured.Unstructured) { _ = unstructured.SetNestedField(o.Object, v, path...) }
}

// TestRSAIsPaidOnce compares with the bare cost of the same RSA operations. Both are
// measured in turns, in processor time, and the fastest round counts. HOLDFAST_LONG=1 does it with 1,000
// values and holds the time to its bar; otherwise the operations are counted.
func TestRSAIsPaidOnce(t *testing.T) {
	n, rounds := 2, 3
	if os.Getenv("HOLDFAST_LONG") != "" {
		n, rounds = 1000, 2
	}
	plain := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "db"}, Data: map[string][]byte{}}
	for i := range n {
		plain.Data[fmt.Sprint("k", i)] = []byte(value)
	}
	k0 := key(t, 0)
	o := stockSealed(t, k0, plain)
	f, err := read(o)
	if err != nil {
		t.Fatal(err)
	}
	bare, whole, again := time.Hour, time.Hour, time.Hour
	for range rounds {
		bare = min(bare, took(t, func() error {
			for _, v := range f.values {
				_, err := rsa.DecryptOAEP(sha256.New(), nil, k0.private(), v[lengthBytes:lengthBytes+k0.private().Size()], []byte("shop/db"))
				if err != nil {
					return err
				}
			}
			return nil
		}))
		k := keys(t, k0)
		unseal := func() error { _, err := k.Unseal(o, nil); return err }
		whole, again = min(whole, took(t, unseal)), min(again, took(t, unseal))
	}
	t.Logf("%d values: RSA alone %v, unsealed %v, again %v", n, bare, whole, again)
	if os.Getenv("HOLDFAST_LONG") != "" && whole > bare*12/10 { // of few values, on a busy machine, times say nothing
		t.Errorf("%d values took %v, more than 1.2 times the %v of their RSA operations", n, whole, bare)
	}
	k, operations := keys(t, k0, key(t, 1)), 0
	for i, want := range []int{n + 1, 0} { // one more, with the newest key, before it is known which one fits
		operations = 0
		if _, err := k.open(f, func() error { operations++; return nil }); err != nil || operations != want {
			t.Errorf("time %d: %d RSA operations, want %d: %v", i, operations, want, err)
		}
	}
}

// took returns the processor time of this process for f: others may be busy meanwhile.
func took(t *testing.T, f func() error) time.Duration {
	t.Helper()
	begin := spent(t)
	if err := f(); err != nil {
		t.Fatal(err)
	}
	return spent(t) - begin
}

func spent(t *testing.T) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func TestAKeyThatIsGoneOpensNothing(t *testing.T) {
	k := keys(t, key(t, 0), key(t, 1))
	o := stockSealed(t, key(t, 0), plainSecret(Strict))
	if _, err := k.Unseal(o, nil); err != nil {
		t.Fatal(err)
	}
	k.ring.Store(newRing([]*Key{key(t, 1)}))
	if _, err := k.Unseal(o, nil); fault.KindOf(err) != fault.NotFound {
		t.Errorf("what was opened once opens without its key: %v", err)
	}
	k.ring.Store(newRing([]*Key{key(t, 1), key(t, 0)}))
	if _, err := k.Unseal(o, nil); err != nil {
		t.Errorf("the key is back: %v", err)
	}
}

func TestNothingOpenedLiesInMemoryInPlain(t *testing.T) {
	k := keys(t, key(t, 0))
	if _, err := k.Unseal(stockSealed(t, key(t, 0), plainSecret(Strict)), nil); err != nil {
		t.Fatal(err)
	}
	n := 0
	for at := k.memory.used.Front(); at != nil; at = at.Next() {
		e, _ := at.Value.(*entry)
		n++
		if strings.Contains(string(e.content), "horse") {
			t.Error("an opened value is kept in plain")
		}
	}
	if n != 3 {
		t.Errorf("%d values are remembered, want 3", n)
	}
}

func TestMemoryIsBounded(t *testing.T) {
	m, err := newMemory(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	k := &Key{Fingerprint: "k"}
	big := make([]byte, 1<<20)
	for i := range 40 {
		m.opened(digestOf([]byte(fmt.Sprint(i))), k, big)
		m.opened(digestOf([]byte(fmt.Sprint(i))), k, big) // replaces
	}
	if m.size > memoryBytes || m.used.Len() != len(m.byName) || m.used.Len() != memoryBytes>>20-1 {
		t.Errorf("%d bytes in %d entries, %d by name", m.size, m.used.Len(), len(m.byName))
	}
	r := &ring{keys: []*Key{k}}
	if _, _, known := m.get(digestOf([]byte("0")), r); known {
		t.Error("the oldest is still there")
	}
	if got, _, known := m.get(digestOf([]byte("39")), r); !known || len(got) != len(big) {
		t.Error("the latest is gone")
	}
}

func TestKeys(t *testing.T) {
	older, newer := key(t, 0), key(t, 1)
	retired := secretKey(t, 1)
	retired.Labels[KeyLabel] = "retired"
	old, err := ReadKey(retired)
	if err != nil {
		t.Fatal(err)
	}
	cert := func(k *Key) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: k.Certificate.Raw}))
	}
	if got := string(keys(t, older, newer).Certificate()); got != cert(newer) {
		t.Error("the newest seals")
	}
	if got := string(keys(t, older, old).Certificate()); got != cert(older) {
		t.Error("what is not active seals no longer")
	}
	if keys(t).Certificate() != nil || keys(t).ID() != "" {
		t.Error("without keys there is neither certificate nor ID")
	}
	if a, b := keys(t, older, newer).ID(), keys(t, newer, older).ID(); a != b || a == keys(t, newer).ID() {
		t.Error("the ID is of the set of keys")
	}
	for _, shown := range []string{fmt.Sprintf("%v", older), fmt.Sprintf("%#v", older), fmt.Sprintf("%x", older), fmt.Sprintf("%+v", *older)} {
		if strings.Contains(shown, older.private().D.String()) || strings.Contains(shown, fmt.Sprintf("%x", older.private().D)) {
			t.Error("a key prints its private half")
		}
	}
}

func TestBadKeysAreRefusedAndNotQuoted(t *testing.T) {
	for name, change := range map[string]func(*corev1.Secret){
		"no key":              func(s *corev1.Secret) { delete(s.Data, corev1.TLSPrivateKeyKey) },
		"no PEM":              func(s *corev1.Secret) { s.Data[corev1.TLSPrivateKeyKey] = []byte("hunter2") },
		"no RSA":              func(s *corev1.Secret) { s.Data[corev1.TLSPrivateKeyKey] = s.Data[corev1.TLSCertKey] },
		"no certificate":      func(s *corev1.Secret) { delete(s.Data, corev1.TLSCertKey) },
		"another certificate": func(s *corev1.Secret) { s.Data[corev1.TLSCertKey] = secretKey(t, 1).Data[corev1.TLSCertKey] },
		"too long":            func(s *corev1.Secret) { s.Data[corev1.TLSPrivateKeyKey] = make([]byte, maxPEM+1) },
	} {
		s := secretKey(t, 0)
		change(s)
		if _, err := ReadKey(s); fault.KindOf(err) != fault.Invalid || strings.Contains(err.Error(), "hunter2") || !strings.Contains(err.Error(), "Secret/kube-system/key0") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTheStockLibraryReadsNewKeys(t *testing.T) {
	s := secretKey(t, 0)
	if s.Type != corev1.SecretTypeTLS || s.Labels[KeyLabel] != KeyActive || s.GenerateName != keyPrefix {
		t.Errorf("the Secret is not in the stock form: %+v", s.ObjectMeta)
	}
	k := key(t, 0)
	if k.Certificate.NotBefore != start || k.Certificate.NotAfter != start.Add(keyValidity) {
		t.Errorf("valid from %v to %v", k.Certificate.NotBefore, k.Certificate.NotAfter)
	}
}
