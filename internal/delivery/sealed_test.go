package delivery_test

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/secret/sealed"
	"github.com/holdfastcd/holdfast/internal/secret/sops"
	"github.com/holdfastcd/holdfast/test/harness"
)

// TestSOPS is the way of a file that SOPS sealed for an age key, from Git to the cluster.
func TestSOPS(t *testing.T) {
	w := newWorld(t)
	ours, theirs := identity(t), identity(t)
	file := func(to *age.X25519Identity, value string) string {
		content := "apiVersion: v1\nkind: Secret\nmetadata:\n    name: a\nstringData:\n    key: " + value + "\n"
		rules := "creation_rules:\n- age: " + to.Recipient().String() + "\n  encrypted_regex: ^(data|stringData)$\n"
		out, err := sops.Encrypt(file, []byte(content), []byte(rules))
		if err != nil {
			t.Fatal(err)
		}
		return string(out)
	}
	keysOf := func(ids ...*age.X25519Identity) *sops.Keys {
		var all []*sops.Keys
		for _, id := range ids {
			k, err := sops.Parse(map[string][]byte{"a.agekey": []byte(id.String())}, sops.Options{})
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, k)
		}
		return sops.Join(all...)
	}
	w.spec.Opener = keysOf(ours)
	w.commit(file(ours, word))
	quiet(t, w.until("the delivery", applied))
	w.value("a", word)
	tests := []struct {
		reason, content string
		kind            fault.Kind
	}{
		{"a name that the MAC covers was changed", strings.Replace(file(ours, "other-"+word), "name: a", "name: b", 1), fault.Refused},
		{"sealed for somebody else", file(theirs, "other-"+word), fault.NotFound},
	}
	for _, tt := range tests {
		w.commit(tt.content)
		for range 2 {
			r := w.pass()
			quiet(t, r)
			if r.Err == nil || r.Err.Kind != tt.kind || r.Err.File != "all.yaml" {
				t.Errorf("%s: %v", tt.reason, r.Err)
			}
		}
		w.value("a", word)
	}
	w.spec.Opener = keysOf(ours, theirs)
	w.until("the delivery with a key that came later", applied)
	w.value("a", "other-"+word)
}

func identity(t *testing.T) *age.X25519Identity {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// TestSealingKeys is the way of a SealedSecret with real keys.
func TestSealingKeys(t *testing.T) {
	w, _ := newSealedWorld(t)
	s, err := sealed.NewKey("keys", time.Now(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s.Name = "key"
	key, err := sealed.ReadKey(s)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := sealed.Of(key)
	if err != nil {
		t.Fatal(err)
	}
	w.engine.Unsealer = keys
	plain := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "Secret", "metadata": map[string]any{"name": "a", "namespace": w.ns}, "stringData": map[string]any{"key": word},
	}}
	o, err := sealed.Seal(key.Certificate, plain, sealed.Strict)
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(o.Object)
	if err != nil {
		t.Fatal(err)
	}
	w.delivered(string(text))
	made := w.value("a", word)
	if owner := w.harness.Await(t, sealedSecrets, w.ns, "a", "to be there", harness.Exists); ownerOf(made).UID != owner.GetUID() {
		t.Errorf("owners: %+v", made.GetOwnerReferences())
	}
	good := string(text)
	synced := func(want string) harness.Condition {
		return func(o *unstructured.Unstructured) bool {
			all, _, _ := unstructured.NestedSlice(o.Object, "status", "conditions")
			return len(all) == 1 && all[0].(map[string]any)["status"] == want && !strings.Contains(fmt.Sprint(all), word)
		}
	}
	values, _, _ := unstructured.NestedStringMap(o.Object, "spec", "encryptedData")
	w.commit(strings.Replace(good, values["key"], "AAAA"+values["key"][4:], 1))
	if r := w.pass(); r.Err == nil {
		t.Error("a damaged value was opened")
	}
	w.harness.Await(t, sealedSecrets, w.ns, "a", "to say that it is not opened", synced("False"))
	w.value("a", word)
	w.delivered(good)
	w.harness.Await(t, sealedSecrets, w.ns, "a", "to say that it is opened", synced("True"))
	o.SetName("b") // sealed for another name
	if text, err = json.Marshal(o.Object); err != nil {
		t.Fatal(err)
	}
	w.commit(string(text))
	r := w.pass()
	quiet(t, r)
	if r.Err == nil || r.Err.Kind != fault.Refused || !strings.Contains(r.Err.Error(), fmt.Sprintf("SealedSecret.bitnami.com/%s/b", w.ns)) {
		t.Errorf("got %v", r.Err)
	}
	w.value("a", word)
}
