package object

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestBeyond(t *testing.T) {
	base := `{"f:spec":{"f:replicas":{},"f:selector":{},"f:template":{"f:spec":{"f:containers":{
		"k:{\"name\":\"web\"}":{".":{},"f:image":{},"f:name":{}}}}}}}`
	tests := []struct {
		name, theirs string
		want         []string
		reason       string
	}{
		{
			name: "a field", theirs: `{"f:spec":{"f:template":{"f:spec":{"f:hostPID":{}}}}}`,
			want: []string{"spec.template.spec.hostPID"}, reason: "the base has nothing there",
		},
		{
			name: "a list's item", theirs: `{"f:spec":{"f:template":{"f:spec":{"f:containers":{"k:{\"name\":\"evil\"}":{".":{},"f:image":{},"f:name":{}}}}}}}`,
			want: []string{"spec.template.spec.containers[name=evil]"}, reason: "an item is one thing, whatever it holds",
		},
		{
			name:   "a field of a known item",
			theirs: `{"f:spec":{"f:template":{"f:spec":{"f:containers":{"k:{\"name\":\"web\"}":{"f:securityContext":{"f:privileged":{}}}}}}}}`,
			want:   []string{"spec.template.spec.containers[name=web].securityContext.privileged"}, reason: "the item is the base's, the field is not",
		},
		{
			name: "shared", theirs: `{"f:spec":{"f:replicas":{},"f:selector":{"f:matchLabels":{"f:app":{}}}}}`,
			want: nil, reason: "the base has both, one with all that it holds",
		},
		{
			name: "a map and its keys", theirs: `{"f:metadata":{"f:annotations":{".":{},"f:example.com/a":{},"f:plain":{}}}}`,
			want: []string{`metadata.annotations["example.com/a"]`, "metadata.annotations.plain"}, reason: "each key may be somebody else's",
		},
		{
			name: "an empty struct", theirs: `{"f:spec":{"f:emptyDir":{".":{}}}}`,
			want: []string{"spec.emptyDir"}, reason: "there is nothing below it to name",
		},
		{
			name: "an item of a set", theirs: `{"f:metadata":{"f:finalizers":{".":{},"v:\"secret-looking\"":{}}}}`,
			want: []string{"metadata.finalizers[]"}, reason: "a value is not shown",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var got []string
			for _, p := range owned(t, tt.theirs).Beyond(owned(t, base)) {
				got = append(got, p.String())
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tt.reason, diff)
			}
		})
	}
}

func TestPointer(t *testing.T) {
	content := map[string]any{
		"metadata": map[string]any{"annotations": map[string]any{"a/b~c": "x"}},
		"items":    []any{map[string]any{"name": "one"}, map[string]any{"name": "two", "value": "x"}},
	}
	tests := []struct {
		path   Path
		want   string
		ok     bool
		reason string
	}{
		{Path{"f:metadata", "f:annotations", "f:a/b~c"}, "/metadata/annotations/a~1b~0c", true, "slashes and tildes are escaped"},
		{Path{"f:items", `k:{"name":"two"}`, "f:value"}, "/items/1/value", true, "an item is found by its key"},
		{Path{"f:items", `k:{"name":"three"}`}, "", false, "it is not there"},
		{Path{}, "", false, "the whole object is no field"},
	}
	for _, tt := range tests {
		got, ok := tt.path.Pointer(content)
		if got != tt.want && ok || ok != tt.ok {
			t.Errorf("%v: %q, %v: %s", tt.path, got, ok, tt.reason)
		}
	}
}
