package object

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func owned(t *testing.T, text string) Owned {
	t.Helper()
	o, err := ParseOwned([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func plain(t *testing.T, v any) any {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	var out any
	if err := json.Unmarshal(raw, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestUnion(t *testing.T) {
	tests := map[string]struct{ reason, a, b, want string }{
		"apart":    {"both", `{"f:a":{}}`, `{"f:b":{}}`, `{"f:a":{},"f:b":{}}`},
		"below":    {"fields of one map", `{"f:a":{"f:x":{}}}`, `{"f:a":{"f:y":{}}}`, `{"f:a":{"f:x":{},"f:y":{}}}`},
		"the same": {"once", `{"f:a":{"f:x":{}}}`, `{"f:a":{"f:x":{}}}`, `{"f:a":{"f:x":{}}}`},
		"a map and what it holds": {
			"the map itself is owned beside its field", `{"f:a":{}}`, `{"f:a":{"f:x":{}}}`, `{"f:a":{".":{},"f:x":{}}}`,
		},
		"items": {
			"a list by keys", `{"f:a":{"k:{\"name\":\"x\"}":{".":{},"f:name":{}}}}`, `{"f:a":{"k:{\"name\":\"y\"}":{".":{}}}}`,
			`{"f:a":{"k:{\"name\":\"x\"}":{".":{},"f:name":{}},"k:{\"name\":\"y\"}":{".":{}}}}`,
		},
		"nothing": {"is nothing", `{}`, `{"f:a":{}}`, `{"f:a":{}}`},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			a, b := owned(t, tc.a), owned(t, tc.b)
			for _, got := range []Owned{a.Union(b), b.Union(a)} {
				if diff := cmp.Diff(plain(t, owned(t, tc.want)), plain(t, got)); diff != "" {
					t.Errorf("%s (-want +got):\n%s", tc.reason, diff)
				}
			}
			if diff := cmp.Diff(plain(t, owned(t, tc.a)), plain(t, a)); diff != "" {
				t.Errorf("a union changed what it was made of:\n%s", diff)
			}
		})
	}
}

func TestOwnedWithoutAndWithin(t *testing.T) {
	o := owned(t, `{"f:metadata":{"f:annotations":{".":{},"f:a":{},"f:b":{}}},"f:spec":{"f:ports":{"k:{\"port\":80,\"protocol\":\"TCP\"}":{".":{},"f:name":{}}},"f:args":{}}}`)
	got := o.Without("f:metadata", "f:annotations", "f:a").Without("f:spec", "f:args").Without("f:no", "f:such")
	want := owned(t, `{"f:metadata":{"f:annotations":{".":{},"f:b":{}}},"f:spec":{"f:ports":{"k:{\"port\":80,\"protocol\":\"TCP\"}":{".":{},"f:name":{}}}}}`)
	if diff := cmp.Diff(plain(t, want), plain(t, got)); diff != "" {
		t.Errorf("Without (-want +got):\n%s", diff)
	}
	content := parse(t, "{metadata: {annotations: {a: '1'}}, spec: {ports: [{port: 80, name: x}], other: 1}}").Object
	got = o.Within(content)
	want = owned(t, `{"f:metadata":{"f:annotations":{".":{},"f:a":{}}},"f:spec":{"f:ports":{"k:{\"port\":80,\"protocol\":\"TCP\"}":{".":{},"f:name":{}}}}}`)
	if diff := cmp.Diff(plain(t, want), plain(t, got)); diff != "" {
		t.Errorf("Within: an item is found though the default of its key is not written (-want +got):\n%s", diff)
	}
}

func TestPath(t *testing.T) {
	const keys = `{"f:spec":{"f:containers":{"k:{\"name\":\"a\"}":{".":{},"f:image":{}},"k:{\"name\":\"b\"}":{"f:image":{},"f:args":{}}},"f:finalizers":{"v:\"x\"":{}}}}`
	o := owned(t, keys)
	content := parse(t, "{spec: {containers: [{name: b, image: '1', args: [x, y]}, {name: a, image: '2'}], finalizers: [x]}}").Object
	tests := map[string]struct {
		reason string
		way    []any
		want   Path
		has    bool
	}{
		"by key":     {"an item has a name that outlives its place", []any{"spec", "containers", 1, "image"}, Path{"f:spec", "f:containers", `k:{"name":"a"}`, "f:image"}, true},
		"by value":   {"sets", []any{"spec", "finalizers", 0}, Path{"f:spec", "f:finalizers", `v:"x"`}, true},
		"whole list": {"who owns a list owns its items", []any{"spec", "containers", 0, "args", 1}, Path{"f:spec", "f:containers", `k:{"name":"b"}`, "f:args"}, true},
		"not owned":  {"a field of an owned item need not be", []any{"spec", "containers", 1, "name"}, Path{"f:spec", "f:containers", `k:{"name":"a"}`, "f:name"}, false},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got, _ := o.Locate(content, tc.way)
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Fatalf("%s (-want +got):\n%s", tc.reason, diff)
			}
			if o.Has(got) != tc.has {
				t.Errorf("%s: owned %t, want %t", tc.reason, !tc.has, tc.has)
			}
		})
	}
	for _, unknown := range [][]any{{"spec", "containers", 7}, {"spec", "containers", 2, "image"}} {
		more := parse(t, "{spec: {containers: [{}, {}, {name: c, image: x}]}}").Object
		if p, ok := o.Locate(more, unknown); ok {
			t.Errorf("an item that nobody knows is at %v", p)
		}
	}
	if diff := cmp.Diff(Path{"f:a", "i:2", "f:b"}, PathOf([]any{"a", 2, "b"})); diff != "" {
		t.Error(diff)
	}
	image := Path{"f:spec", "f:containers", `k:{"name":"a"}`, "f:image"}
	if v, ok := image.Get(content); !ok || v != "2" {
		t.Errorf("Get: %v, %t", v, ok)
	}
	if !image.Set(content, "3") || (Path{"f:spec", "f:containers", `k:{"name":"c"}`, "f:image"}).Set(content, "4") {
		t.Error("Set must change an item that is there, and none that is not")
	}
	if !(Path{"f:metadata", "f:labels", "f:x"}).Set(content, "y") {
		t.Error("Set must make maps on the way")
	}
	(Path{"f:spec", "f:containers", `k:{"name":"b"}`}).Delete(content)
	(Path{"f:spec", "f:finalizers", `v:"x"`}).Delete(content)
	want := parse(t, "{metadata: {labels: {x: 'y'}}, spec: {containers: [{name: a, image: '3'}], finalizers: []}}").Object
	if diff := cmp.Diff(want, content); diff != "" {
		t.Errorf("after Set and Delete (-want +got):\n%s", diff)
	}
}
