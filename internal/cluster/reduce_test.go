package cluster

import (
	"encoding/json"
	"net/http"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	gvk "k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"

	"github.com/holdfastcd/holdfast/internal/health"
	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/plan"
	"github.com/holdfastcd/holdfast/internal/schema"
)

func testCluster(t testing.TB, o Options) *Cluster {
	t.Helper()
	c, err := Connect(&rest.Config{Host: "https://127.0.0.1:1"}, o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

var widgetKind = schema.Kind{GVK: gvk.GroupVersionKind{Group: "example.com", Version: "v1", Kind: "Widget"}, Resource: "widgets", Namespaced: true}

const widget = `{"apiVersion":"example.com/v1","kind":"Widget","metadata":{"name":"w","namespace":"ns","uid":"u","resourceVersion":"7",
"generation":2,"labels":{"owner":"me"},"annotations":{"keep":"yes"},"deletionTimestamp":"2026-01-02T03:04:05Z","managedFields":[
{"manager":"us","operation":"Apply","apiVersion":"example.com/v1","time":"2026-01-02T03:04:05Z","fieldsType":"FieldsV1","fieldsV1":{"f:spec":{"k:{\"name\":\"a\u0026b\"}":{}}}},
{"manager":"controller","operation":"Update","subresource":"status","apiVersion":"example.com/v1","fieldsType":"FieldsV1","fieldsV1":{"f:status":{}}},
{"manager":"them","operation":"Update","apiVersion":"example.com/v1","fieldsType":"FieldsV1","fieldsV1":{"f:data":{}}}]},
"spec":{"size":3},"status":{"ready":true},"data":{"a":1}}`

func TestReduce(t *testing.T) {
	var judged map[string]any
	c := testCluster(t, Options{
		Owner: func(_ object.ID, labels, _ map[string]string) string { return labels["owner"] },
		Kept:  func(_, annotations map[string]string) (bool, bool) { return annotations["keep"] == "yes", false },
		Health: func(o *unstructured.Unstructured) (health.Verdict, bool) {
			judged = o.Object
			return health.Verdict{Status: health.Healthy}, true
		},
	})
	decode := func(w *watcher, data string) runtime.Object {
		t.Helper()
		info, _ := runtime.SerializerInfoForMediaType(codecs().SupportedMediaTypes(), "application/json")
		o, _, err := decoder{c: c, w: w, codec: info.Serializer}.Decode([]byte(data), nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		return o
	}
	whole := &watcher{c: c, kind: widgetKind, whole: true}
	s := decode(whole, widget).(*seen)
	want := Record{
		UID: "u", ResourceVersion: "7", Generation: 2, Owner: "me", KeptInPrune: true, Deleting: true,
		Judged: true, Health: health.Verdict{Status: health.Healthy},
	}
	entries := s.record.Entries
	s.record.Entries = nil
	if diff := cmp.Diff(want, s.record); diff != "" {
		t.Errorf("record (-want +got):\n%s", diff)
	}
	if len(entries) != 2 || entries[0].Manager != "us" || !entries[0].Apply || entries[1].Manager != "them" || entries[1].Apply {
		t.Errorf("entries %+v, want ours and theirs, without status", entries)
	}
	delete(judged, "metadata")
	wantObject := map[string]any{
		"apiVersion": "example.com/v1", "kind": "Widget", "spec": map[string]any{"size": int64(3)},
		"status": map[string]any{"ready": true}, "data": map[string]any{"a": int64(1)},
	}
	if diff := cmp.Diff(wantObject, judged); diff != "" {
		t.Errorf("what is judged (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(entries, decode(nil, widget).(*seen).record.Entries); diff != "" {
		t.Errorf("the same object, by its metadata (-want +got):\n%s", diff)
	}

	list := decode(whole, `{"apiVersion":"example.com/v1","kind":"WidgetList","metadata":{"resourceVersion":"9"},"items":[`+widget+`]}`).(*seenList)
	if list.ResourceVersion != "9" || len(list.Items) != 1 || list.Items[0].(*seen).key != (key{"ns", "w"}) {
		t.Errorf("list: %+v", list)
	}
	mark := decode(whole, `{"apiVersion":"example.com/v1","kind":"Widget","metadata":{"resourceVersion":"9","annotations":{"k8s.io/initial-events-end":"true"}}}`).(*seen)
	if m := mark.GetObjectMeta(); !mark.end || m.GetResourceVersion() != "9" || m.GetAnnotations()[metav1.InitialEventsAnnotationKey] != "true" || mark.record.Judged {
		t.Errorf("bookmark: %+v", mark)
	}
	if _, ok := decode(whole, `{"apiVersion":"v1","kind":"Status","status":"Failure","code":410}`).(*metav1.Status); !ok {
		t.Error("an error is not a Status")
	}
}

func TestHashEntry(t *testing.T) {
	at := metav1.Unix(1, 0)
	base := metav1.ManagedFieldsEntry{
		Manager: "m", Operation: "Apply", APIVersion: "v1", Time: &at, FieldsType: "FieldsV1",
		FieldsV1: metav1.NewFieldsV1(`{"k:{\"name\":\"a&<b>\"}":{}}`),
	}
	tests := []struct {
		name, reason string
		change       func(*metav1.ManagedFieldsEntry)
		same         bool
	}{
		{"escaped", "JSON brings it escaped, protobuf does not", func(e *metav1.ManagedFieldsEntry) {
			e.FieldsV1 = metav1.NewFieldsV1(`{"k:{\"name\":\"a\u0026\u003cb\u003e\"}":{}}`)
		}, true},
		{"backslash", "an escaped backslash is no escape", func(e *metav1.ManagedFieldsEntry) {
			e.FieldsV1 = metav1.NewFieldsV1(`{"k:{\"name\":\"a\\u0026<b>\"}":{}}`)
		}, false},
		{"fields", "what is owned", func(e *metav1.ManagedFieldsEntry) { e.FieldsV1 = metav1.NewFieldsV1(`{}`) }, false},
		{"time", "when", func(e *metav1.ManagedFieldsEntry) { later := metav1.Unix(2, 0); e.Time = &later }, false},
		{"no time", "a reset leaves none", func(e *metav1.ManagedFieldsEntry) { e.Time = nil }, false},
		{"version", "of the API", func(e *metav1.ManagedFieldsEntry) { e.APIVersion = "v2" }, false},
		{"subresource", "through what", func(e *metav1.ManagedFieldsEntry) { e.Subresource = "scale" }, false},
		{"manager", "it is kept beside the hash", func(e *metav1.ManagedFieldsEntry) { e.Manager = "n" }, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			other := *base.DeepCopy()
			tt.change(&other)
			if same := hashEntry(&base) == hashEntry(&other); same != tt.same {
				t.Errorf("%s: same is %t", tt.reason, same)
			}
		})
	}
}

// FuzzPlainJSON checks that undoing escapes gives what an encoder that does not
// escape would have written.
func FuzzPlainJSON(f *testing.F) {
	f.Add("a&b<c>\u2028 \\u0026 \\\\u0026")
	f.Fuzz(func(t *testing.T, s string) {
		escaped, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		var a, b string
		if json.Unmarshal(escaped, &a) != nil || json.Unmarshal(plainJSON(escaped), &b) != nil || a != b {
			t.Errorf("%q became %q, by way of %s", a, b, plainJSON(escaped))
		}
	})
}

func TestSight(t *testing.T) {
	record := Record{UID: "u", ResourceVersion: "5", Generation: 3, Entries: []Entry{{Manager: "us", Apply: true, Hash: Hash{1}}, {Manager: "them", Hash: Hash{2}}}}
	f, ok := record.Fingerprint("us", [32]byte{9})
	if !ok || f.ResourceVersion != "" || f.Digest != [32]byte{9} {
		t.Fatalf("got %+v", f)
	}
	tests := []struct {
		name, reason string
		change       func(*Record)
		want         plan.Sight
	}{
		{"nothing", "it stands", func(*Record) {}, plan.AsApplied},
		{"status", "the version alone moves with status", func(r *Record) { r.ResourceVersion = "6" }, plan.AsApplied},
		{"addition", "others may add what we do not own, if generation stands", func(r *Record) { r.Entries = append(r.Entries, Entry{Manager: "more"}) }, plan.AsApplied},
		{"generation", "a webhook may have changed a value of ours", func(r *Record) { r.Generation = 4 }, plan.Unsure},
		{"generation by status", "where status has no subresource, writing it moves the generation", func(r *Record) {
			r.Generation = 4
			r.Entries = append(r.Entries, Entry{Manager: "reporter", Status: true, Hash: Hash{3}})
		}, plan.AsApplied},
		{"generation by status and others", "somebody else wrote too, and a webhook may have changed a value of ours", func(r *Record) {
			r.Generation = 4
			r.Entries = append(r.Entries, Entry{Manager: "reporter", Status: true, Hash: Hash{3}}, Entry{Manager: "more", Hash: Hash{4}})
		}, plan.Unsure},
		{"our entry", "a field of ours was taken", func(r *Record) { r.Entries = []Entry{{Manager: "us", Apply: true, Hash: Hash{7}}} }, plan.Drifted},
		{"no entry", "managedFields were reset", func(r *Record) { r.Entries = nil }, plan.Drifted},
		{"an update under our name", "that is another entry", func(r *Record) { r.Entries = []Entry{{Manager: "us", Hash: Hash{1}}} }, plan.Drifted},
		{"another object", "it was made anew", func(r *Record) { r.UID = "v" }, plan.Drifted},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := record
			tt.change(&r)
			if got := r.Sight(f, "us"); got != tt.want {
				t.Errorf("%s: got %d, want %d", tt.reason, got, tt.want)
			}
		})
	}
	without := Record{UID: "u", ResourceVersion: "5", Entries: record.Entries}
	f, _ = without.Fingerprint("us", [32]byte{})
	without.ResourceVersion = "6"
	if got := without.Sight(f, "us"); got != plan.Unsure {
		t.Errorf("where there is no generation, the version counts: got %d", got)
	}
}

func TestCompose(t *testing.T) {
	crd := func(established bool, versions ...string) *declared {
		d := &declared{}
		d.spec.Group, d.spec.Scope, d.spec.Names.Kind, d.spec.Names.Plural = "example.com", "Namespaced", "Widget", "widgets"
		raw := `[{"type":"Established","status":"False"}]`
		if established {
			raw = `[{"type":"Established","status":"True"}]`
		}
		if err := json.Unmarshal([]byte(raw), &d.status.Conditions); err != nil {
			t.Fatal(err)
		}
		for _, v := range versions {
			d.spec.Versions = append(d.spec.Versions, struct {
				Name   string `json:"name"`
				Served bool   `json:"served"`
			}{v, v != "v0"})
		}
		return d
	}
	tests := []struct {
		name, reason string
		discovered   bool
		seen         map[string]*declared
		preferred    string // version of Widget; empty: not served
	}{
		{"discovered", "an aggregated API has no definition", true, nil, "v1"},
		{"not established", "it is not served yet, whatever discovery said", true, map[string]*declared{"widgets.example.com": crd(false, "v1")}, ""},
		{"established", "at once, without discovery", false, map[string]*declared{"widgets.example.com": crd(true, "v1beta1", "v2", "v10", "v0")}, "v10"},
		{"gone", "discovery may lag behind", true, map[string]*declared{"widgets.example.com": nil}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := testCluster(t, Options{})
			if tt.discovered {
				c.crds.discovered.add(widgetKind)
			}
			var added []gvk.GroupKind
			c.SubscribeKinds(func(kinds []gvk.GroupKind) { added = kinds })
			c.publish()()
			c.learn(tt.seen)
			k, ok := c.LookupGroupKind(widgetKind.GVK.GroupKind())
			if k.GVK.Version != tt.preferred || ok != (tt.preferred != "") {
				t.Errorf("%s: got %+v, %t", tt.reason, k, ok)
			}
			if ok && (len(added) != 1 || !k.Namespaced || k.Resource != "widgets") {
				t.Errorf("%s: told of %v, kind %+v", tt.reason, added, k)
			}
			if _, served := c.Kinds().Lookup(widgetKind.GVK.GroupKind().WithVersion("v0")); served {
				t.Error("a version that is not served was found")
			}
		})
	}
}

func TestVerb(t *testing.T) {
	tests := map[string]string{
		"GET /api/v1/namespaces/a":                     "get",
		"GET /apis?timeout=32s":                        "get",
		"GET /api/v1/pods?resourceVersion=0":           "list",
		"GET /api/v1/pods?watch=true":                  "watch",
		"PATCH /api/v1/pods/a?fieldManager=m":          "apply",
		"PATCH /api/v1/pods/a?dryRun=All&force=true":   "dry-run",
		"DELETE /api/v1/pods/a":                        "delete",
		"POST /apis/authorization.k8s.io/v1/something": "other",
	}
	for line, want := range tests {
		var method, target string
		for i := range line {
			if line[i] == ' ' {
				method, target = line[:i], line[i+1:]
			}
		}
		r, err := http.NewRequest(method, "https://host"+target, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		if got := verbs[verb(r)]; got != want {
			t.Errorf("%s: got %s, want %s", line, got, want)
		}
	}
}
