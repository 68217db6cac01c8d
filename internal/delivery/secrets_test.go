package delivery_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	kschema "k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	"github.com/holdfastcd/holdfast/internal/cluster"
	"github.com/holdfastcd/holdfast/internal/delivery"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/health"
	"github.com/holdfastcd/holdfast/internal/plan"
	"github.com/holdfastcd/holdfast/internal/policy"
	hsecret "github.com/holdfastcd/holdfast/internal/secret"
	"github.com/holdfastcd/holdfast/test/harness"
)

const word = "hunter2-hunter2"

// keys open what lock sealed for one of them.
type keys struct {
	names  []string
	opened *atomic.Int64
}

func lock(key, content string) string {
	return "locked:" + key + ":" + fmt.Sprint(len(content)) + ":" + base64.StdEncoding.EncodeToString([]byte(content))
}

// Open implements secret.Opener.
func (k keys) Open(_ context.Context, file string, content []byte) (hsecret.Opened, bool, error) {
	parts := strings.SplitN(string(content), ":", 4)
	if parts[0] != "locked" {
		return hsecret.Opened{}, false, nil
	}
	if !slices.Contains(k.names, parts[1]) {
		return hsecret.Opened{}, true, fault.New(fault.NotFound, "no key of the delivery fits: it is sealed for %s", parts[1]).At(file, 0)
	}
	first, _, _ := strings.Cut(parts[3], "\n")
	plain, err := base64.StdEncoding.DecodeString(first)
	if err != nil || fmt.Sprint(len(plain)) != parts[2] {
		return hsecret.Opened{}, true, fault.New(fault.Refused, "the file was changed since it was sealed").At(file, 0)
	}
	k.opened.Add(1)
	return hsecret.Opened{Content: hsecret.Hide(plain), Values: []hsecret.Text{hsecret.Hide([]byte(word))}}, true, nil
}

// ID implements secret.Opener.
func (k keys) ID() string { return strings.Join(k.names, ",") }

// unsealer opens SealedSecrets whose values are "sealed:NAMESPACE/NAME:VALUE".
type unsealer struct {
	opened    atomic.Int64
	id, other string
}

// Unseal implements secret.Unsealer.
func (u *unsealer) Unseal(o *unstructured.Unstructured, _ func() error) (*unstructured.Unstructured, error) {
	values, _, _ := unstructured.NestedStringMap(o.Object, "spec", "encryptedData")
	data := map[string]any{}
	for key, v := range values {
		plain, ok := strings.CutPrefix(v, "sealed:"+o.GetNamespace()+"/"+o.GetName()+":")
		if !ok {
			return nil, fault.New(fault.Refused, "%s does not open: it is damaged, or sealed for another name or namespace", key)
		}
		data[key] = base64.StdEncoding.EncodeToString([]byte(plain))
	}
	u.opened.Add(1)
	made := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "Secret", "data": data}}
	made.SetName(o.GetName())
	made.SetNamespace(o.GetNamespace())
	return made, nil
}

// ID implements secret.Unsealer.
func (u *unsealer) ID() string { return u.id }

// Elsewhere implements secret.Unsealer.
func (u *unsealer) Elsewhere() string { return u.other }

func secretNamed(name, value string) string {
	return fmt.Sprintf("{apiVersion: v1, kind: Secret, metadata: {name: %s}, stringData: {key: %q}}", name, value)
}

func (w *world) sealedSecret(name string, values map[string]string) string {
	data := map[string]string{}
	for k, v := range values {
		data[k] = "sealed:" + w.ns + "/" + name + ":" + v
	}
	text, err := json.Marshal(data)
	if err != nil {
		w.t.Fatal(err)
	}
	return fmt.Sprintf("{apiVersion: bitnami.com/v1alpha1, kind: SealedSecret, metadata: {name: %s}, spec: {encryptedData: %s}}", name, text)
}

// value waits until a Secret has a value.
func (w *world) value(name, value string) *unstructured.Unstructured {
	w.t.Helper()
	return w.harness.Await(w.t, secrets, w.ns, name, "to have its value", func(o *unstructured.Unstructured) bool {
		if o == nil {
			return false
		}
		v, _, _ := unstructured.NestedString(o.Object, "data", "key")
		return v == base64.StdEncoding.EncodeToString([]byte(value))
	})
}

// quiet fails if a report tells the word.
func quiet(t *testing.T, r delivery.Report) {
	t.Helper()
	text := fmt.Sprintf("%+v %v", r, r.Err)
	for _, o := range r.Objects {
		text += fmt.Sprintf("%+v %+v", o, o.Health)
	}
	if strings.Contains(text, word) || strings.Contains(text, base64.StdEncoding.EncodeToString([]byte(word))) {
		t.Errorf("the report tells it: %s", text)
	}
}

func TestSealedFile(t *testing.T) {
	w := newWorld(t)
	opened := &atomic.Int64{}
	w.spec.Opener = keys{[]string{"k1"}, opened}
	w.commit(lock("k1", secretNamed("a", word)))
	quiet(t, w.until("the delivery", applied))
	w.value("a", word)
	before, n := w.cluster.Requests(), opened.Load()
	w.until("nothing to do", applied)
	if n != opened.Load() || w.cluster.Requests()["apply"] != before["apply"] {
		t.Errorf("an unchanged commit is opened %d times more, and sends %v after %v", opened.Load()-n, w.cluster.Requests(), before)
	}
	refused := []struct {
		reason, content string
		kind            fault.Kind
		says            string
	}{
		{"what was changed since it was sealed", strings.Replace(lock("k1", secretNamed("a", word)), ":", ":k1:", 1), fault.Refused, "all.yaml: the file was changed"},
		{"no key fits", lock("k2", secretNamed("a", "other-"+word)), fault.NotFound, "all.yaml: no key of the delivery fits: it is sealed for k2"},
	}
	for _, tt := range refused {
		w.commit(strings.Replace(tt.content, ":k1:k1:", ":k1:9", 1))
		r := w.pass()
		quiet(t, r)
		if r.Err == nil || r.Err.Kind != tt.kind || !strings.Contains(r.Err.Error(), tt.says) {
			t.Errorf("%s: %v", tt.reason, r.Err)
		}
		w.value("a", word)
	}
	w.spec.Opener = keys{[]string{"k1", "k2"}, opened}
	quiet(t, w.until("the delivery with another key", applied))
	w.value("a", "other-"+word)
}

func TestSealedWithoutKeys(t *testing.T) {
	const mark = "ENC[AES256_GCM,data:x,iv:y,tag:z,type:str]"
	inData := base64.StdEncoding.EncodeToString([]byte(mark))
	tests := []struct{ reason, doc, says string }{
		{"a whole file", "{apiVersion: v1, kind: Secret, metadata: {name: a}, data: {a: '" + mark + "'}, sops: {mac: x}}", "all.yaml: the file is sealed, and the delivery names no keys"},
		{"a value that nobody opened", "{apiVersion: v1, kind: Secret, metadata: {name: a}, data: {a: " + inData + "}}", "all.yaml:1: Secret/a: data.a is sealed, and was not opened (give the delivery the keys"},
		{"a value as text", "{apiVersion: v1, kind: Secret, metadata: {name: a}, stringData: {a: '" + mark + "'}}", "all.yaml:1: Secret/a: stringData.a is sealed"},
		{"metadata of SOPS alone", "{apiVersion: v1, kind: ConfigMap, metadata: {name: a}, sops: {mac: x}}", "all.yaml:1: ConfigMap/a: the ConfigMap is sealed"},
	}
	w := newWorld(t)
	for _, tt := range tests {
		w.commit(tt.doc)
		if r := w.pass(); r.Err == nil || r.Err.Kind != fault.NotFound || !strings.Contains(r.Err.Error(), tt.says) {
			t.Errorf("%s: %v", tt.reason, r.Err)
		}
	}
	w.commit("{apiVersion: v1, kind: Secret, metadata: {name: a, annotations: {kustomize.toolkit.fluxcd.io/decrypt: disabled}}, data: {a: " + inData + "}}")
	w.until("one that asks to stay sealed", applied)
}

func TestSealedValueOfSecret(t *testing.T) {
	w := newWorld(t)
	w.spec.Opener = keys{[]string{"k1"}, &atomic.Int64{}}
	const asSOPS = "\n#lastmodified"
	data := func(content string) string {
		return fmt.Sprintf("{apiVersion: v1, kind: Secret, metadata: {name: a}, data: {key: %s}}", base64.StdEncoding.EncodeToString([]byte(content)))
	}
	w.commit(data(lock("k1", word) + asSOPS))
	quiet(t, w.until("the delivery", applied))
	w.value("a", word)
	w.commit(secretNamed("a", lock("k1", "text-"+word)+asSOPS))
	quiet(t, w.until("the delivery as text", applied))
	w.value("a", "text-"+word)
	w.commit(data(strings.Replace(lock("k1", word), ":", ":k1:", 1) + asSOPS))
	for range 2 {
		r := w.pass()
		if r.Err == nil || r.Err.Kind != fault.NotFound && r.Err.Kind != fault.Refused || !strings.Contains(r.Err.Error(), "all.yaml:1: Secret/a: data.key: ") {
			t.Errorf("got %v", r.Err)
		}
	}
	w.value("a", "text-"+word)
}

// Whoever is told of an error by the API server, or reads the log, learns no value.
func TestOpenedValuesAreMasked(t *testing.T) {
	w := newWorld(t)
	log := &ledger{}
	w.engine.Audit = log
	push := func(content string) {
		w.commit(lock("k1", content))
		w.spec.Revision.URL, w.spec.Revision.Commit = repository, first
	}
	w.spec.Opener = keys{[]string{"k1"}, &atomic.Int64{}}
	push("{apiVersion: v1, kind: ConfigMap, metadata: {name: ok}, data: {key: " + word + "}}\n---\n" +
		"{apiVersion: v1, kind: Service, metadata: {name: bad}, spec: {type: " + word + ", ports: [{port: 80}]}}")
	r := w.pass()
	quiet(t, r)
	if r.Err == nil || !strings.Contains(r.Err.Error(), "***") {
		t.Errorf("the API server quotes it: %v", r.Err)
	}
	text, err := json.Marshal([]any{log.entries, log.records})
	if err != nil || bytes.Contains(text, []byte(word)) || bytes.Contains(text, []byte(`"sha256:`)) && bytes.Contains(text, []byte(`"after":"sha256:`)) {
		t.Errorf("the log tells it, or a digest by which it can be guessed: %s, %v", text, err)
	}
	if !bytes.Contains(text, []byte("hmac-sha256:")) {
		t.Errorf("digests are not keyed: %s", text)
	}
	p, err := w.engine.Preview(t.Context(), w.spec)
	if err != nil || strings.Contains(fmt.Sprintf("%+v", p), word) {
		t.Errorf("a preview: %+v, %v", p, err)
	}
	push("{apiVersion: v1, kind: ConfigMap, metadata: {name: ok}, data: {key: none, other: more}}")
	w.until("the change", applied)
	push("{apiVersion: v1, kind: ConfigMap, metadata: {name: ok}, data: {key: " + word + ", other: less}}")
	if p, err = w.engine.Preview(t.Context(), w.spec); err != nil {
		t.Fatal(err)
	}
	var fields []plan.Change
	for _, a := range p.Actions() {
		fields = append(fields, p.Fields(a)...)
	}
	if got := fmt.Sprint(fields); got != `[{data.key (secret) (secret)} {data.other (secret) "less"}]` {
		t.Errorf("a preview shows %s", got)
	}
}

func newSealedWorld(t *testing.T) (*world, *unsealer) {
	t.Helper()
	w := newWorld(t)
	w.harness.Define(t, harness.SealedSecrets)
	u := &unsealer{id: "one"}
	w.engine.Unsealer = u
	return w, u
}

func (w *world) delivered(doc string) {
	w.t.Helper()
	w.commit(doc)
	w.until("the delivery", func(r delivery.Report) bool {
		if r.Err != nil && r.Err.Kind == fault.NotFound { // the kind was defined only now
			w.late.Add(int64(60e9))
			return false
		}
		return r.Err == nil && r.Health.Status == health.Healthy
	})
}

func ownerOf(o *unstructured.Unstructured) metav1.OwnerReference {
	if refs := o.GetOwnerReferences(); len(refs) == 1 {
		return refs[0]
	}
	return metav1.OwnerReference{}
}

// A SealedSecret of a namespace where the account of the delivery may not write is not
// even opened: who copied it could ask questions about its value.
func TestSealedSecretOfOthers(t *testing.T) {
	w, u := newSealedWorld(t)
	w.spec.Account = cluster.ServiceAccount(w.ns, "default")
	w.commit(w.sealedSecret("a", map[string]string{"key": word}))
	r := w.until("the refusal", func(r delivery.Report) bool {
		w.late.Add(int64(60e9)) // the kind may have been defined only now
		return r.Err != nil && r.Err.Kind == fault.Rejected
	})
	if want := "Secret/" + w.ns + "/a: it is not opened, because system:serviceaccount:" + w.ns + ":default may not patch it"; u.opened.Load() != 0 || !strings.Contains(r.Err.Error(), want) {
		t.Errorf("opened %d times, %v, want %s", u.opened.Load(), r.Err, want)
	}
	for gvr, body := range map[kschema.GroupVersionResource]string{
		{Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "roles"}: `{apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {name: a},
			rules: [{apiGroups: [""], resources: [secrets], resourceNames: [a], verbs: [patch]},
			{apiGroups: [""], resources: [secrets], verbs: [create]}, {apiGroups: [bitnami.com], resources: [sealedsecrets], verbs: [create, patch]}]}`,
		{Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "rolebindings"}: `{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: a},
			roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: a}, subjects: [{kind: ServiceAccount, name: default, namespace: ` + w.ns + `}]}`,
	} {
		o := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(body), &o.Object); err != nil {
			t.Fatal(err)
		}
		if _, err := w.harness.Dynamic().Resource(gvr).Namespace(w.ns).Create(t.Context(), o, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	w.until("the delivery, with rights on this very Secret", applied)
	w.value("a", word)
}

func TestSealedSecret(t *testing.T) {
	w, u := newSealedWorld(t)
	w.delivered(w.sealedSecret("a", map[string]string{"key": word}))
	sealed := w.harness.Await(t, sealedSecrets, w.ns, "a", "to be there", harness.Exists)
	made := w.value("a", word)
	if ref := ownerOf(made); ref.UID != sealed.GetUID() || ref.Kind != "SealedSecret" || ref.APIVersion != "bitnami.com/v1alpha1" || ref.Controller == nil || !*ref.Controller {
		t.Errorf("owner: %+v", made.GetOwnerReferences())
	}
	status, _, _ := unstructured.NestedMap(sealed.Object, "status")
	conditions, _, _ := unstructured.NestedSlice(status, "conditions")
	if len(conditions) != 1 || status["observedGeneration"] != sealed.GetGeneration() {
		t.Errorf("status: %v", status)
	}
	if r := w.pass(); len(r.Inventory) != 2 {
		t.Errorf("both are held: %v", r.Inventory)
	}
	before, n := w.cluster.Requests(), u.opened.Load()
	w.until("nothing to do", applied)
	if n != u.opened.Load() || fmt.Sprint(before) != fmt.Sprint(w.cluster.Requests()) {
		t.Errorf("an unchanged commit: opened %d times more, %v after %v", u.opened.Load()-n, w.cluster.Requests(), before)
	}
	u.id = "two"
	w.until("a pass with more keys", applied)
	if n == u.opened.Load() {
		t.Error("with other keys it may come out differently")
	}

	w.commit(strings.Replace(w.sealedSecret("a", map[string]string{"key": "other-" + word}), "/a:", "/b:", 1))
	r := w.pass()
	quiet(t, r)
	if r.Err == nil || r.Err.Kind != fault.Refused || !strings.Contains(r.Err.Error(), "all.yaml:1: SealedSecret.bitnami.com/"+w.ns+"/a: key does not open") {
		t.Errorf("got %v", r.Err)
	}
	w.value("a", word)

	w.commit(w.sealedSecret("a", map[string]string{"key": word}))
	if err := w.harness.Dynamic().Resource(sealedSecrets).Namespace(w.ns).Delete(t.Context(), "a", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	w.until("both to be back", func(r delivery.Report) bool {
		owner, err := w.harness.Dynamic().Resource(sealedSecrets).Namespace(w.ns).Get(t.Context(), "a", metav1.GetOptions{})
		if err != nil || owner.GetUID() == sealed.GetUID() {
			return false
		}
		made, err := w.harness.Dynamic().Resource(secrets).Namespace(w.ns).Get(t.Context(), "a", metav1.GetOptions{})
		return r.Err == nil && err == nil && made.GetDeletionTimestamp() == nil && ownerOf(made).UID == owner.GetUID()
	})

	w.spec.Confirmed = ""
	w.commit(config("other", "x"))
	w.until("both to be gone", func(r delivery.Report) bool { return r.Err == nil && len(r.Inventory) == 1 })
	w.harness.Await(t, secrets, w.ns, "a", "to be gone", harness.Gone)
}

func TestSealedSecretIsHeld(t *testing.T) {
	w, _ := newSealedWorld(t)
	w.delivered(w.sealedSecret("a", map[string]string{"key": word}))
	uid := w.value("a", word).GetUID()
	patch := []byte(`{"data":{"key":"eA=="}}`)
	if _, err := w.harness.Dynamic().Resource(secrets).Namespace(w.ns).
		Patch(t.Context(), "a", "application/merge-patch+json", patch, metav1.PatchOptions{FieldManager: "meddler"}); err != nil {
		t.Fatal(err)
	}
	r := w.until("the revert", func(r delivery.Report) bool { return strings.Contains(show(r), "Secret a reverted") })
	quiet(t, r)
	if made := w.value("a", word); made.GetUID() != uid {
		t.Error("it is another Secret now")
	}
}

// Rules of a project hold for what is made of a SealedSecret, too.
func TestSealedSecretAndRules(t *testing.T) {
	w, _ := newSealedWorld(t)
	w.delivered(config("a", "x"))
	w.spec.Rules = policy.Rules{
		Version: "1", Project: "p", NamespaceDeny: []policy.GroupKind{{Kind: "Secret"}},
	}
	w.commit(w.sealedSecret("a", map[string]string{"key": word}))
	if r := w.pass(); r.Err == nil || r.Err.Kind != fault.Refused || !strings.Contains(r.Err.Error(), "Secret/"+w.ns+"/a") {
		t.Errorf("got %v", r.Err)
	}
}

// What the stock controller made is taken over, with all that it wrote and Git has not.
func TestSealedSecretTakenOver(t *testing.T) {
	w, _ := newSealedWorld(t)
	doc := w.sealedSecret("a", map[string]string{"key": word})
	owner := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(doc), &owner.Object); err != nil {
		t.Fatal(err)
	}
	owner, err := w.harness.Dynamic().Resource(sealedSecrets).Namespace(w.ns).Create(t.Context(), owner, metav1.CreateOptions{FieldManager: "kubectl-create"})
	if err != nil {
		t.Fatal(err)
	}
	made := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "Secret", "data": map[string]any{"key": "eA==", "old": "eA=="}}}
	made.SetName("a")
	yes := true
	made.SetOwnerReferences([]metav1.OwnerReference{{
		APIVersion: "bitnami.com/v1alpha1", Kind: "SealedSecret", Name: "a", UID: owner.GetUID(), Controller: &yes, BlockOwnerDeletion: &yes,
	}})
	before, err := w.harness.Dynamic().Resource(secrets).Namespace(w.ns).Create(t.Context(), made, metav1.CreateOptions{FieldManager: "controller"})
	if err != nil {
		t.Fatal(err)
	}
	w.delivered(doc)
	after := w.value("a", word)
	data, _, _ := unstructured.NestedMap(after.Object, "data")
	if after.GetUID() != before.GetUID() || len(data) != 1 || ownerOf(after).UID != owner.GetUID() {
		t.Errorf("data %d, owners %+v", len(data), after.GetOwnerReferences())
	}
}

func TestSealedSecretOpenedElsewhere(t *testing.T) {
	w, u := newSealedWorld(t)
	w.delivered(w.sealedSecret("a", map[string]string{"key": word}))
	u.other = "the Sealed Secrets controller, Deployment kube-system/sealed-secrets"
	r := w.until("it to be left to the other", applied)
	w.want(r, "no Secret is made, and none pruned", `
		SealedSecret a unchanged
	`)
	if !strings.Contains(strings.Join(r.Objects[0].Warnings, ""), "Deployment kube-system/sealed-secrets") {
		t.Errorf("warnings: %v", r.Objects[0].Warnings)
	}
	w.value("a", word)
	u.other = ""
	w.until("it to be taken back", func(r delivery.Report) bool { return r.Err == nil && len(r.Inventory) == 2 })
}
