package plan

import (
	"encoding/json"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/object"
)

const web = `{apiVersion: apps/v1, kind: Deployment, metadata: {name: web, namespace: apps, labels: {mark: m, team: t}, annotations: {example.com/a: x}},
spec: {replicas: 3, template: {spec: {containers: [{name: app, image: "1", env: [{name: A, value: a}, {name: B, value: b}]}, {name: injected, image: "2"}]}}}}`

func ignoring(t *testing.T, rules ...Ignore) *Ignored {
	t.Helper()
	all, err := CompileIgnores(rules)
	if err != nil {
		t.Fatal(err)
	}
	return all.For(object.ID{Group: "apps", Kind: "Deployment", Namespace: "apps", Name: "web"}, "mark")
}

func TestIgnoredWithout(t *testing.T) {
	tests := map[string]struct {
		reason string
		rule   Ignore
		gone   []string // texts that must not be left
		stays  []string // texts that must be
	}{
		"pointer":          {"RFC 6901", Ignore{Pointers: []string{"/spec/replicas"}}, []string{"replicas"}, []string{"image"}},
		"escaped pointer":  {"~1 is a slash", Ignore{Pointers: []string{"/metadata/annotations/example.com~1a"}}, []string{"example.com/a", "annotations"}, []string{"team"}},
		"pointer to item":  {"by its index", Ignore{Pointers: []string{"/spec/template/spec/containers/1"}}, []string{"injected"}, []string{"app"}},
		"pointer nowhere":  {"is nothing", Ignore{Pointers: []string{"/spec/none/such", "/spec/replicas/x", "/spec/template/spec/containers/-"}}, nil, []string{"replicas"}},
		"path":             {"jq", Ignore{Paths: []string{".spec.replicas"}}, []string{"replicas"}, []string{"image"}},
		"quoted":           {"names with dots and slashes", Ignore{Paths: []string{`.metadata.annotations["example.com/a"]`}}, []string{"example.com/a"}, []string{"team"}},
		"quoted, dotted":   {"the other way to quote", Ignore{Paths: []string{`.metadata."annotations"."example.com/a"`}}, []string{"example.com/a"}, []string{"team"}},
		"every item":       {"brackets", Ignore{Paths: []string{".spec.template.spec.containers[].image"}}, []string{"image"}, []string{"injected", "env"}},
		"every item, any":  {"a question mark changes nothing", Ignore{Paths: []string{".spec.template.spec.containers[]?.image?"}}, []string{"image"}, []string{"injected"}},
		"select":           {"one item by its name", Ignore{Paths: []string{`.spec.template.spec.containers[] | select(.name == "injected")`}}, []string{"injected", `"2"`}, []string{"app"}},
		"select below":     {"and what is below it", Ignore{Paths: []string{`.spec.template.spec.containers[] | select(.name=="app").env[] | select(.name == "A" or .name == "C") | .value`}}, []string{`"a"`}, []string{`"b"`, `"A"`}},
		"select, function": {"by the beginning of a name", Ignore{Paths: []string{`.spec.template.spec.containers[]|select(.name|startswith("inj"))`}}, []string{"injected"}, []string{"app"}},
		"select, not":      {"all but one", Ignore{Paths: []string{`.spec.template.spec.containers[] | select((.name == "app") | not)`}}, []string{"injected"}, []string{"app"}},
		"select, unequal":  {"all but one", Ignore{Paths: []string{`.spec.template.spec.containers[] | select(.name != "app" and .image == "2")`}}, []string{"injected"}, []string{"app"}},
		"select, present":  {"a field that is there", Ignore{Paths: []string{`.spec.template.spec.containers[] | select(.env)`}}, []string{`"app"`}, []string{"injected"}},
		"two items":        {"the last go first, so that places hold", Ignore{Paths: []string{".spec.template.spec.containers[0], .spec.template.spec.containers[1]"}}, []string{"app\"", "injected"}, []string{"replicas"}},
		"from the end":     {"as in jq", Ignore{Paths: []string{".spec.template.spec.containers[-1]"}}, []string{"injected"}, []string{"app"}},
		"alternative":      {"the first that is there", Ignore{Paths: []string{".spec.none // .spec.replicas"}}, []string{"replicas"}, []string{"image"}},
		"labels":           {"the delivery's marks are not ignored", Ignore{Pointers: []string{"/metadata/labels"}}, []string{"team"}, []string{`"mark":"m"`}},
		"a mark":           {"not by its name either", Ignore{Pointers: []string{"/metadata/labels/mark"}}, nil, []string{`"mark":"m"`}},
		"identity":         {"an object without it is none", Ignore{Paths: []string{".metadata", ".kind", ".metadata.name", "."}}, nil, []string{"Deployment", `"name":"web"`}},
		"another kind":     {"rules choose objects", Ignore{Kind: "StatefulSet", Pointers: []string{"/spec/replicas"}}, nil, []string{"replicas"}},
		"another name":     {"by name", Ignore{Name: "we", Pointers: []string{"/spec/replicas"}}, nil, []string{"replicas"}},
		"a star":           {"in any part of a name", Ignore{Group: "app*", Kind: "*ment", Namespace: "*", Name: "w*b", Pointers: []string{"/spec/replicas"}}, []string{"replicas"}, nil},
		"managers":         {"who owns what is not known of a manifest", Ignore{Managers: []string{"hpa"}}, nil, []string{"replicas"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			o := parse(t, web).Object
			bare := ignoring(t, tc.rule).Without(o)
			if bare == nil {
				bare = o
			}
			got, err := json.Marshal(bare)
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range tc.gone {
				if strings.Contains(string(got), s) {
					t.Errorf("%s: %s is left in %s", tc.reason, s, got)
				}
			}
			for _, s := range tc.stays {
				if !strings.Contains(string(got), s) {
					t.Errorf("%s: %s is gone from %s", tc.reason, s, got)
				}
			}
			if diff := cmp.Diff(parse(t, web).Object, o); diff != "" {
				t.Errorf("the object itself changed:\n%s", diff)
			}
		})
	}
}

func TestCompileIgnoresRefuses(t *testing.T) {
	tests := map[string]struct {
		reason string
		rule   Ignore
		kind   fault.Kind
		says   string
	}{
		"no slash":      {"a pointer begins with one", Ignore{Pointers: []string{"spec/replicas"}}, fault.Invalid, "spec/replicas"},
		"everything":    {"the whole object", Ignore{Pointers: []string{""}}, fault.Invalid, "no JSON pointer"},
		"metadata":      {"all of metadata is the name too", Ignore{Pointers: []string{"/metadata"}}, fault.Unsupported, "metadata"},
		"a function":    {"named", Ignore{Paths: []string{".metadata.labels | with_entries(.value)"}}, fault.Unsupported, "with_entries"},
		"recursion":     {"it finds too much", Ignore{Paths: []string{"..|.image"}}, fault.Unsupported, `".."`},
		"a slice":       {"not yet", Ignore{Paths: []string{".spec.args[1:2]"}}, fault.Unsupported, "[1:2]"},
		"a definition":  {"no programs", Ignore{Paths: []string{"def f: f; f"}}, fault.Unsupported, `"def"`},
		"a range":       {"no loops", Ignore{Paths: []string{"[range(1e9)]"}}, fault.Unsupported, `"[range"`},
		"test":          {"no regular expressions", Ignore{Paths: []string{`.a[] | select(.name | test("^x"))`}}, fault.Unsupported, `"test"`},
		"destructuring": {"rare", Ignore{Paths: []string{`.a ?// .b`}}, fault.Unsupported, "?//"},
		"two paths":     {"compared with each other", Ignore{Paths: []string{`.a[] | select(.b == .c)`}}, fault.Unsupported, ".c)"},
		"half":          {"no end", Ignore{Paths: []string{`.a[] | select(.b == "x"`}}, fault.Unsupported, "( without )"},
		"a value":       {"no field", Ignore{Paths: []string{`.a == "x"`}}, fault.Invalid, "names no field"},
		"empty":         {"no path", Ignore{Paths: []string{""}}, fault.Unsupported, `""`},
		"deep":          {"bounded", Ignore{Paths: []string{strings.Repeat("(", 100) + ".a" + strings.Repeat(")", 100)}}, fault.Unsupported, `"("`},
		"long":          {"bounded", Ignore{Paths: []string{"." + strings.Repeat("a", 5000)}}, fault.Limit, "bytes"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := CompileIgnores([]Ignore{tc.rule})
			if fault.KindOf(err) != tc.kind || err == nil || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("%s: got %v (%s), want %s with %s", tc.reason, err, fault.KindOf(err), tc.kind, tc.says)
			}
		})
	}
	if _, err := CompileIgnores(make([]Ignore, 2000)); fault.KindOf(err) != fault.Limit {
		t.Errorf("too many rules: got %v", err)
	}
}

// settled is what is applied of a desired Deployment, given who owns what of the
// live one.
func TestSettle(t *testing.T) {
	const body = `{spec: {replicas: 3, template: {spec: {containers: [{name: app, image: "1"}, {name: new, image: "9"}]}}}}`
	const live = `{spec: {replicas: 5, paused: true, template: {spec: {containers: [{name: other}, {name: app, image: "7"}]}}}}`
	mine := func(fields string) [3]string { return [3]string{"me", "Apply", fields} }
	other := func(fields string) [3]string { return [3]string{"hpa", "Update", fields} }
	const replicas = `{"f:spec":{"f:replicas":{}}}`
	const image = `{"f:spec":{"f:template":{"f:spec":{"f:containers":{"k:{\"name\":\"app\"}":{"f:image":{},"f:name":{}}}}}}}`
	tests := map[string]struct {
		reason  string
		rule    Ignore
		owners  [][3]string
		want    string
		adopted bool
	}{
		"ours alone": {
			"by omission it would fall to its default",
			Ignore{Pointers: []string{"/spec/replicas"}},
			[][3]string{mine(replicas)},
			`{spec: {replicas: 5, template: {spec: {containers: [{name: app, image: "1"}, {name: new, image: "9"}]}}}}`, true,
		},
		"another's": {
			"it is left to them",
			Ignore{Pointers: []string{"/spec/replicas"}},
			[][3]string{other(replicas)},
			`{spec: {template: {spec: {containers: [{name: app, image: "1"}, {name: new, image: "9"}]}}}}`, false,
		},
		"both's": {
			"let go, it stays with them",
			Ignore{Pointers: []string{"/spec/replicas"}},
			[][3]string{mine(replicas), other(replicas)},
			`{spec: {template: {spec: {containers: [{name: app, image: "1"}, {name: new, image: "9"}]}}}}`, false,
		},
		"nobody's": {
			"a default, or a webhook's",
			Ignore{Pointers: []string{"/spec/replicas"}},
			nil,
			`{spec: {template: {spec: {containers: [{name: app, image: "1"}, {name: new, image: "9"}]}}}}`, false,
		},
		"ours, and gone from the source": {
			"by omission it would be lost",
			Ignore{Pointers: []string{"/spec/paused"}},
			[][3]string{mine(`{"f:spec":{"f:paused":{}}}`)},
			`{spec: {paused: true, replicas: 3, template: {spec: {containers: [{name: app, image: "1"}, {name: new, image: "9"}]}}}}`, true,
		},
		"an item by its key": {
			"its place differs, and a new item is as its source says",
			Ignore{Paths: []string{".spec.template.spec.containers[].image"}},
			[][3]string{mine(image)},
			`{spec: {replicas: 3, template: {spec: {containers: [{name: app, image: "7"}, {name: new, image: "9"}]}}}}`, true,
		},
		"a manager's": {
			"all that it owns, but no keys",
			Ignore{Managers: []string{"hpa"}},
			[][3]string{mine(replicas), other(image)},
			`{spec: {replicas: 3, template: {spec: {containers: [{name: app}, {name: new, image: "9"}]}}}}`, false,
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			tc.rule.Respect = true
			now, desired := parse(t, live), parse(t, body)
			var entries []metav1.ManagedFieldsEntry
			for _, o := range tc.owners {
				entries = append(entries, metav1.ManagedFieldsEntry{
					Manager: o[0], Operation: metav1.ManagedFieldsOperationType(o[1]), FieldsV1: metav1.NewFieldsV1(o[2]),
				})
			}
			now.SetManagedFields(entries)
			ignored := ignoring(t, tc.rule)
			if got := ignored.Settle(desired.Object, &now.Unstructured, "me"); got != tc.adopted {
				t.Errorf("%s: adopted %t, want %t", tc.reason, got, tc.adopted)
			}
			if diff := cmp.Diff(parse(t, tc.want).Object, desired.Object); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tc.reason, diff)
			}
			if !ignored.Respected() || ignoring(t, Ignore{Pointers: []string{"/spec/replicas"}}).Respected() {
				t.Error("Respected says what the rules do not")
			}
		})
	}
}

func TestClear(t *testing.T) {
	live, dry := parse(t, web), parse(t, strings.Replace(strings.Replace(web, "replicas: 3", "replicas: 1", 1), `image: "1"`, `image: "5"`, 1))
	live.SetManagedFields([]metav1.ManagedFieldsEntry{
		{Manager: "hpa", Operation: "Update", FieldsV1: metav1.NewFieldsV1(`{"f:spec":{"f:replicas":{}},"f:metadata":{"f:labels":{"f:mark":{}}}}`)},
	})
	ignoring(t, Ignore{Managers: []string{"hpa"}}, Ignore{Paths: []string{".spec.template.spec.containers[0].image"}}).Clear(&live.Unstructured, &dry.Unstructured)
	if diff := Diff(live, dry); len(diff) > 0 {
		t.Errorf("what is ignored differs: %v", diff)
	}
	if live.GetLabels()["mark"] != "m" {
		t.Error("a mark was ignored")
	}
}

func FuzzCompileIgnores(f *testing.F) {
	for _, s := range []string{".a.b", `.a["b"]`, ".a[0]", ".a[]?", `.a[] | select(.name == "x") // .b`, "(.a,.b)[1]", "/a/b~1c", ".[][][]|.[]"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, expression string) {
		o := parse(t, web).Object
		for _, r := range []Ignore{{Paths: []string{expression}}, {Pointers: []string{expression}}} {
			all, err := CompileIgnores([]Ignore{r})
			if err != nil {
				if k := fault.KindOf(err); k != fault.Unsupported && k != fault.Invalid && k != fault.Limit {
					t.Fatalf("%q: a %s error: %v", expression, k, err)
				}
				continue
			}
			bare := all.For(object.ID{Kind: "Deployment"}).Without(o)
			if bare != nil && bare["kind"] != "Deployment" {
				t.Fatalf("%q: the identity is gone", expression)
			}
		}
	})
}

// TestAlternativesAreBounded: a short expression finds a large object many times over.
func TestAlternativesAreBounded(t *testing.T) {
	large := map[string]any{}
	for i := range maxFound {
		large[strconv.Itoa(i)] = "x"
	}
	q, err := parsePath(strings.TrimSuffix(strings.Repeat(".[],", 500), ","))
	if err != nil {
		t.Fatal(err)
	}
	if n := len(q(found{value: large})); n > maxFound {
		t.Errorf("%d parts are found, want %d at most", n, maxFound)
	}
}
