package cluster

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/plan"
)

// entry reads "manager operation[/subresource] apiVersion fields".
func entry(text string) metav1.ManagedFieldsEntry {
	f := strings.SplitN(text, " ", 4)
	operation, sub, _ := strings.Cut(f[1], "/")
	return metav1.ManagedFieldsEntry{
		Manager: f[0], Operation: metav1.ManagedFieldsOperationType(operation), Subresource: sub, APIVersion: f[2], FieldsType: "FieldsV1",
		FieldsV1: metav1.NewFieldsV1(f[3]), Time: &metav1.Time{Time: time.Unix(1, 0)},
	}
}

func entries(texts ...string) []metav1.ManagedFieldsEntry {
	var all []metav1.ManagedFieldsEntry
	for _, t := range texts {
		all = append(all, entry(t))
	}
	return all
}

func show(all []metav1.ManagedFieldsEntry) []string {
	var texts []string
	for _, e := range all {
		op := string(e.Operation)
		if e.Subresource != "" {
			op += "/" + e.Subresource
		}
		texts = append(texts, e.Manager+" "+op+" "+e.APIVersion+" "+e.FieldsV1.GetRawString())
	}
	return texts
}

func TestFold(t *testing.T) {
	tests := map[string]struct {
		reason       string
		annotation   string
		before, want []string
	}{
		"nobody else": {"nothing to do", "", []string{`us Apply v1 {"f:a":{}}`, `other Update v1 {"f:b":{}}`}, nil},
		"one peer": {
			"its entry becomes ours", "",
			[]string{`kubectl-client-side-apply Update v1 {"f:a":{}}`, `other Update v1 {"f:b":{}}`},
			[]string{`us Apply v1 {"f:a":{}}`, `other Update v1 {"f:b":{}}`},
		},
		"many": {
			"all in one", "",
			[]string{`kubectl-edit Update v1 {"f:a":{}}`, `us Update v1 {"f:b":{}}`, `us Apply v1 {"f:c":{}}`, `gotk-x Apply v1 {"f:d":{}}`},
			[]string{`us Apply v1 {"f:a":{},"f:b":{},"f:c":{},"f:d":{}}`},
		},
		"subresources": {
			"what came through scale or status is no manifest's", "", []string{`kubectl Update/scale v1 {"f:a":{}}`, `us Update/status v1 {"f:b":{}}`}, nil,
		},
		"other commands": {"a scale is not a manifest", "", []string{`kubectl-scale Update v1 {"f:a":{}}`, `kubectl-rollout Update v1 {"f:b":{}}`}, nil},
		"status": {
			"of kinds without a subresource for it: not ours to remove", "",
			[]string{`argocd-application-controller Update v1 {"f:status":{"f:x":{}},"f:spec":{}}`},
			[]string{`us Apply v1 {"f:spec":{}}`},
		},
		"the annotation": {
			"goes by itself", "{}",
			[]string{`kubectl Update v1 {"f:metadata":{"f:annotations":{".":{},"f:` + object.LastApplied + `":{},"f:x":{}}}}`},
			[]string{`us Apply v1 {"f:metadata":{"f:annotations":{".":{},"f:x":{}}}}`},
		},
		"another version": {
			"paths may differ, but not in metadata", "",
			[]string{`us Apply v2 {"f:spec":{"f:b":{}}}`, `kubectl Update v1 {"f:spec":{"f:a":{}},"f:metadata":{"f:labels":{}}}`},
			[]string{`us Apply v2 {"f:metadata":{"f:labels":{}},"f:spec":{"f:b":{}}}`},
		},
		"nobody knows": {
			"what a client-side apply says that it sent", `{"spec":{"a":1}}`,
			[]string{`before-first-apply Update v1 {"f:spec":{"f:a":{},"f:b":{}}}`},
			[]string{`us Apply v1 {"f:spec":{"f:a":{}}}`},
		},
		"nobody knows, and nothing tells": {
			"then it is nobody's", "",
			[]string{`us Apply v1 {"f:c":{}}`, `before-first-apply Update v1 {"f:spec":{"f:a":{},"f:b":{}}}`},
			[]string{`us Apply v1 {"f:c":{}}`},
		},
		"restarted": {
			"to remove the annotation is a restart", "",
			[]string{`kubectl-edit Update v1 {"f:spec":{"f:template":{"f:metadata":{"f:annotations":{".":{},"f:kubectl.kubernetes.io/restartedAt":{},"f:x":{}}}}}}`},
			[]string{`us Apply v1 {"f:spec":{"f:template":{"f:metadata":{"f:annotations":{"f:x":{}}}}}}`},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			m := &metav1.ObjectMeta{ManagedFields: entries(tc.before...), ResourceVersion: "7"}
			if tc.annotation != "" {
				m.Annotations = map[string]string{object.LastApplied: tc.annotation}
			}
			got, changed, err := fold(m, "v1", "us", Peers())
			if err != nil {
				t.Fatal(err)
			}
			if changed != (tc.want != nil) {
				t.Fatalf("%s: changed is %t", tc.reason, changed)
			}
			if changed {
				if diff := cmp.Diff(tc.want, show(got)); diff != "" {
					t.Errorf("%s (-want +got):\n%s", tc.reason, diff)
				}
			}
			patch, err := upgrade(m, "v1", "us", Peers())
			if err != nil || (patch == nil) != (!changed && tc.annotation == "") {
				t.Errorf("the patch is %s, %v", patch, err)
			}
			if patch != nil && !strings.Contains(string(patch), `{"op":"replace","path":"/metadata/resourceVersion","value":"7"}`) {
				t.Errorf("a concurrent write would be lost: %s", patch)
			}
			var c Cluster
			if r := (Record{Entries: c.entries(m.ManagedFields)}); r.Peered("us", Peers()) != changed {
				t.Errorf("the record says peered %t", !changed)
			}
		})
	}
}

func TestFoldRefusesNonsense(t *testing.T) {
	m := &metav1.ObjectMeta{ManagedFields: entries(`kubectl Update v1 nonsense`)}
	if _, err := upgrade(m, "v1", "us", Peers()); err == nil {
		t.Error("fields that cannot be read were adopted")
	}
}

func TestForesee(t *testing.T) {
	object := func(content string, texts ...string) *unstructured.Unstructured {
		o := &unstructured.Unstructured{}
		if err := json.Unmarshal([]byte(content), &o.Object); err != nil {
			t.Fatal(err)
		}
		o.SetManagedFields(entries(texts...))
		return o
	}
	const content = `{"apiVersion":"v1","data":{"ours":"1","stale":"1","theirs":"1"}}`
	live := object(content, `kubectl-client-side-apply Update v1 {"f:data":{"f:ours":{},"f:stale":{},"f:theirs":{}}}`, `other Update v1 {"f:data":{"f:theirs":{}}}`)
	dry := object(content, `us Apply v1 {"f:data":{"f:ours":{}}}`)
	Foresee(live, dry, "us", Peers())
	want := map[string]any{"ours": "1", "theirs": "1"}
	if diff := cmp.Diff(want, dry.Object["data"]); diff != "" {
		t.Errorf("what a take-over will leave (-want +got):\n%s", diff)
	}

	// What a client-side apply owns and did not send are defaults, which come back.
	const defaulted = `{"apiVersion":"v1","spec":{"ours":"1","stale":"1","default":"1","edited":"1"}}`
	live = object(defaulted, `argocd-controller Update v1 {"f:spec":{"f:ours":{},"f:stale":{},"f:default":{}}}`, `kubectl-edit Update v1 {"f:spec":{"f:edited":{}}}`)
	live.SetAnnotations(map[string]string{"kubectl.kubernetes.io/last-applied-configuration": `{"spec":{"ours":"0","stale":"1"}}`})
	dry = object(defaulted, `us Apply v1 {"f:spec":{"f:ours":{}}}`)
	Foresee(live, dry, "us", Peers())
	want = map[string]any{"ours": "1", "default": "1"}
	if diff := cmp.Diff(want, dry.Object["spec"]); diff != "" {
		t.Errorf("what a take-over from a client-side apply will leave (-want +got):\n%s", diff)
	}
}

// Some aggregated APIs keep no managedFields: the resource version is all there is
// to go by.
func TestSightWithoutManagedFields(t *testing.T) {
	r := Record{UID: "u", ResourceVersion: "1", Generation: 1}
	f, ok := r.Fingerprint("us", [32]byte{1})
	if !ok {
		t.Fatal("it would be applied at every pass")
	}
	moved, other, noted := r, r, r
	moved.ResourceVersion = "2"
	other.UID = "v"
	noted.Entries = []Entry{{Manager: "them"}}
	tests := map[string]struct {
		reason string
		now    Record
		want   plan.Sight
	}{
		"as it was": {"no request", r, plan.AsApplied},
		"moved":     {"one apply tells", moved, plan.Unsure},
		"made anew": {"it is another object", other, plan.Drifted},
		"noted":     {"the API has managedFields now, and we are not among them", noted, plan.Drifted},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if got := tc.now.Sight(f, "us"); got != tc.want {
				t.Errorf("%s: sight %d, want %d", tc.reason, got, tc.want)
			}
		})
	}
}
