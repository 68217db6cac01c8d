package check

import (
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/secret"
	"github.com/holdfastcd/holdfast/internal/tree"
)

func memory(files map[string]string) *state {
	leaves := map[string]leaf{}
	for name, content := range files {
		leaves[name] = leaf{tree.File, tree.BlobDigest([]byte(content))}
	}
	return newState("", leaves, func(name string, _ int64) ([]byte, error) { return []byte(files[name]), nil })
}

func TestLines(t *testing.T) {
	const text = `# two documents
apiVersion: v1
kind: ConfigMap
metadata: {name: a}
---

apiVersion: v1
kind: Pod
metadata:
  name: b
  labels:
    app.kubernetes.io/name: b
spec:
  containers:
  - name: one
    image: x
  - name: two
    image: "y:1"
`
	found := &trial{discovery: &discovery{state: memory(map[string]string{
		"a.yaml": text, "template.yaml": "kind: Pod\nmetadata:\n{{- include .x }}\n  a: b\n", "alias.yaml": "kind: Pod\na: &a b\nc: *a\n",
	})}}
	tests := []struct {
		reason, file, kind, path string
		line, want               int
	}{
		{"the object itself", "a.yaml", "Pod", "", 7, 7},
		{"a field", "a.yaml", "Pod", "spec.containers[1].image", 7, 18},
		{"a field that is not there stands where it would be", "a.yaml", "Pod", "spec.containers[1].resources.limits", 7, 17},
		{"a key with dots", "a.yaml", "Pod", `metadata.labels[app.kubernetes.io/name]`, 7, 12},
		{"the first document", "a.yaml", "ConfigMap", "metadata.name", 2, 4},
		{"another kind stands there: something made the object of it", "a.yaml", "Secret", "metadata.name", 2, 2},
		{"a template holds no object", "template.yaml", "Pod", "metadata", 1, 1},
		{"aliases are not unfolded", "alias.yaml", "Pod", "c", 1, 1},
		{"a file that is not there", "none.yaml", "Pod", "c", 3, 3},
		{"no line is known", "a.yaml", "Pod", "metadata", 0, 0},
	}
	for _, tc := range tests {
		o := &object.Object{Origin: object.Origin{File: tc.file, Line: tc.line}}
		o.Object = map[string]any{"kind": tc.kind}
		if got := found.line(o, tc.path); got != tc.want {
			t.Errorf("%s: line %d, want %d", tc.reason, got, tc.want)
		}
	}
	o := &object.Object{Origin: object.Origin{File: "a.yaml", Line: 7}}
	o.Object = map[string]any{"kind": "Pod"}
	if got := found.lineOf(o, "y:1"); got != 18 {
		t.Errorf("a value stands on line %d", got)
	}
}

func TestStateIsATree(t *testing.T) {
	s := memory(map[string]string{"a/b/c.yaml": "x", "a/d.yaml": "y", "e": "z"})
	entries, err := s.ReadDir("a")
	if err != nil || len(entries) != 2 || entries[0].Name != "b" || entries[0].Kind != tree.Dir {
		t.Errorf("%v %v", entries, err)
	}
	inside := s.within("a")
	if content, err := inside.ReadFile("b/c.yaml", 10); err != nil || string(content) != "x" {
		t.Errorf("%s %v", content, err)
	}
	if inside.place("d.yaml") != "a/d.yaml" {
		t.Error("a path is told from the root of the repository")
	}
	if _, err := inside.Stat("e"); err == nil {
		t.Error("what is outside is not there")
	}
	v := tree.NewView(s, tree.Limits{})
	if _, err := v.ReadFile("a/d.yaml"); err != nil || !v.Trace().Holds(s) {
		t.Errorf("a trace holds on the same tree: %v", err)
	}
	if changed := memory(map[string]string{"a/d.yaml": "other"}); v.Trace().Holds(changed) {
		t.Error("a trace does not hold on another")
	}
}

// A secret value is in no difference, whichever way an object changes.
func TestChangesHideSecrets(t *testing.T) {
	made := func(kind, field string, values map[string]any) *unit {
		u := &unit{mask: &secret.Mask{}}
		o := object.Object{Unstructured: unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "v1", "kind": kind, "metadata": map[string]any{"name": "x", "annotations": map[string]any{
				"kubectl.kubernetes.io/last-applied-configuration": "hunter-in-annotation",
			}}, field: values,
		}}}
		u.rendered.Objects = []object.Object{o}
		return u
	}
	one := made("Secret", "stringData", map[string]any{"same": "hunter-same", "p": "hunter-old", "odd": map[string]any{"a": "hunter-odd"}})
	two := made("Secret", "stringData", map[string]any{"same": "hunter-same", "p": "hunter-new", "odd": []any{"hunter-odd"}})
	for reason, pair := range map[string][2]*unit{"changed": {two, one}, "added": {one, nil}, "removed": {nil, one}} {
		changes := compareObjects(pair[0], pair[1])
		if len(changes) != 1 || changes[0].Operation != reason || strings.Contains(changes[0].Diff, "hunter") || !strings.Contains(changes[0].Diff, "[secret") {
			t.Errorf("%s: %+v", reason, changes)
		}
	}
	if changes := compareObjects(two, one); !strings.Contains(changes[0].Diff, "[secret: new value]") || !strings.Contains(changes[0].Diff, " same: '[secret]'") {
		t.Errorf("that a value differs is told, and that another does not: %s", changes[0].Diff)
	}
	plain, other := made("ConfigMap", "data", map[string]any{"a": "hunter2hunter2"}), made("ConfigMap", "data", map[string]any{"a": "b"})
	plain.mask.Add("hunter2hunter2") // a variable that is secret
	if changes := compareObjects(other, plain); strings.Contains(changes[0].Diff, "hunter2hunter2") {
		t.Errorf("what is secret elsewhere is shown: %s", changes[0].Diff)
	}
	if changes := compareObjects(one, one); changes != nil {
		t.Errorf("nothing changed: %+v", changes)
	}
}

func TestSettle(t *testing.T) {
	f := func(delivery string, line int, severity string) Finding {
		return Finding{Kind: KindPolicy, Severity: severity, Rule: "r", Message: "m", File: "a.yaml", Line: line, Deliveries: []string{delivery}, subject: "Pod/x"}
	}
	got := settle([]Finding{f("two", 3, Warning), f("one", 3, Error), f("one", 9, Error), f("one", 3, Error)})
	if len(got) != 2 || got[0].Severity != Error || !slices.Equal(got[0].Deliveries, []string{"one", "two"}) {
		t.Errorf("one place is told once, with its deliveries: %+v", got)
	}
	if got[0].Fingerprint != got[1].Fingerprint || got[0].Fingerprint == "" {
		t.Error("a fingerprint is of no line")
	}
}

func TestCache(t *testing.T) {
	c := &Cache{Dir: t.TempDir(), Version: "1"}
	c.keep("key", Report{Files: 7})
	if r, ok := c.look("key"); !ok || r.Files != 7 {
		t.Error("a report is kept")
	}
	c.keep("wide", Report{uncachable: true})
	c.keep("undecided", Report{Undecided: []string{"x"}})
	for _, key := range []string{"wide", "undecided", "", "other"} {
		if _, ok := c.look(key); ok {
			t.Errorf("%q was not to be kept", key)
		}
	}
	var none *Cache
	none.keep("key", Report{})
	if _, ok := none.look("key"); ok {
		t.Error("no cache keeps nothing")
	}
	r := &repository{dir: "/none", below: ""}
	r.root = nil
	day := time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)
	keys := map[string]string{}
	for reason, made := range map[string]func() (*Cache, Options, map[string]string){
		"the same":         func() (*Cache, Options, map[string]string) { return c, Options{Now: day}, nil },
		"a flag":           func() (*Cache, Options, map[string]string) { return c, Options{Now: day, HonorInline: true}, nil },
		"a day":            func() (*Cache, Options, map[string]string) { return c, Options{Now: day.Add(24 * time.Hour)}, nil },
		"another program":  func() (*Cache, Options, map[string]string) { return &Cache{Version: "2"}, Options{Now: day}, nil },
		"a file":           func() (*Cache, Options, map[string]string) { return c, Options{Now: day}, map[string]string{"a": "b"} },
		"a content":        func() (*Cache, Options, map[string]string) { return c, Options{Now: day}, map[string]string{"a": "c"} },
		"a policy by flag": func() (*Cache, Options, map[string]string) { return c, Options{Now: day, Sets: []SelectedSet{{}}}, nil },
	} {
		cache, o, files := made()
		key := cache.keyOf(r, o, nil, memory(files))
		if other, ok := keys[key]; ok {
			t.Errorf("%s and %s have one key", reason, other)
		}
		keys[key] = reason
	}
	if same := c.keyOf(r, Options{Now: day.Add(time.Hour)}, nil, memory(nil)); keys[same] != "the same" {
		t.Error("the hour does not count")
	}
}

// What looks like a repository's YAML never ends the search for objects.
func FuzzParse(f *testing.F) {
	f.Add([]byte("apiVersion: v1\nkind: List\nitems: [{apiVersion: v1, kind: Pod}]\n---\n{{ x }}\n"))
	f.Add([]byte("a: &a [*a]\n"))
	f.Fuzz(func(t *testing.T, content []byte) {
		for _, o := range parse("a.yaml", content) {
			if o.GetKind() == "" && o.Object["kind"] == nil || o.Origin.Line < 1 {
				t.Errorf("%+v", o)
			}
		}
	})
}
