package delivery

import (
	"crypto/sha256"
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	kschema "k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/plan"
	"github.com/holdfastcd/holdfast/internal/policy"
	"github.com/holdfastcd/holdfast/internal/schema"
	"github.com/holdfastcd/holdfast/internal/substitute"
)

func parse(t *testing.T, texts ...string) []object.Object {
	t.Helper()
	var all []object.Object
	for i, text := range texts {
		o := object.Object{Unstructured: unstructured.Unstructured{}, Origin: object.Origin{File: "all.yaml", Line: 10*i + 1}}
		if err := yaml.Unmarshal([]byte(text), &o.Object); err != nil {
			t.Fatal(err)
		}
		all = append(all, o)
	}
	return all
}

func kinds(names ...string) schema.Table {
	t := schema.Table{}
	for _, n := range names {
		name, cluster := strings.CutPrefix(n, "cluster:")
		gvk := kschema.GroupVersionKind{Version: "v1", Kind: name}
		t[gvk] = schema.Kind{GVK: gvk, Resource: strings.ToLower(name) + "s", Namespaced: !cluster}
	}
	return t
}

func digest(b []byte) [32]byte { return sha256.Sum256(b) }

func TestPlace(t *testing.T) {
	known := kinds("ConfigMap", "cluster:Namespace")
	tests := map[string]struct {
		reason, in, namespace string
		want                  string // namespace it ends up in
		fail                  fault.Kind
		says                  string
	}{
		"names one":      {"a namespace in the manifest stays", "{apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: b}}", "apps", "b", 0, ""},
		"names none":     {"the delivery's namespace is the default", "{apiVersion: v1, kind: ConfigMap, metadata: {name: a}}", "apps", "apps", 0, ""},
		"cluster-scoped": {"a cluster-scoped object has none, whatever it says", "{apiVersion: v1, kind: Namespace, metadata: {name: a, namespace: b}}", "apps", "", 0, ""},
		"nowhere": {
			"a guess would put it into somebody's namespace", "{apiVersion: v1, kind: ConfigMap, metadata: {name: a}}", "", "",
			fault.Invalid, "all.yaml:1: ConfigMap/a: the object names no namespace",
		},
		"unknown kind": {
			"the whole delivery is refused, with the place", "{apiVersion: example.org/v1, kind: Thing, metadata: {name: a}}", "apps", "",
			fault.NotFound, "all.yaml:1: Thing.example.org/a: the cluster does not know the kind Thing in example.org/v1",
		},
		"no name": {"it cannot be held to Git", "{apiVersion: v1, kind: ConfigMap}", "apps", "", fault.Invalid, "all.yaml:1: the ConfigMap has no metadata.name"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			placed, err := Spec{Namespace: tc.namespace}.place(parse(t, tc.in), known)
			if tc.says != "" {
				if fault.KindOf(err) != tc.fail || !strings.HasPrefix(err.Error(), tc.says) {
					t.Fatalf("%s: got %v, want %s", tc.reason, err, tc.says)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := placed[0].GetNamespace(); got != tc.want {
				t.Errorf("%s: got %q, want %q", tc.reason, got, tc.want)
			}
		})
	}
}

func TestCompleteMarks(t *testing.T) {
	spec := Spec{
		Namespace: "apps",
		Profile: Profile{Marks: Marks{
			Labels:   map[string]string{"owner": "me"},
			Tracking: &Tracking{Annotation: "track", App: "web", Namespace: "apps"},
		}},
	}
	known := kinds("ConfigMap", "cluster:Namespace")
	in := parse(t,
		"{apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: apps, labels: {x: 'y'}, creationTimestamp: null}}",
		"{apiVersion: v1, kind: Namespace, metadata: {name: b}}")
	admitted, err := policy.Rules{}.Admit(in, known)
	if err != nil {
		t.Fatal(err)
	}
	desired, err := spec.complete(admitted, known, digest)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"annotations":{"track":"web:/ConfigMap:apps/a"},"labels":{"owner":"me","x":"y"},"name":"a","namespace":"apps"}}`,
		`{"apiVersion":"v1","kind":"Namespace","metadata":{"annotations":{"track":"web:/Namespace:apps/b"},"labels":{"owner":"me"},"name":"b"}}`,
	}
	for i, w := range want {
		if diff := cmp.Diff(w, string(desired[i].Body.Reveal())); diff != "" {
			t.Errorf("object %d (-want +got):\n%s", i, diff)
		}
		if desired[i].Digest != digest([]byte(w)) {
			t.Errorf("object %d: the digest is not that of the body", i)
		}
	}
}

func TestCompleteCreatesTheNamespace(t *testing.T) {
	known := kinds("ConfigMap", "cluster:Namespace")
	spec := Spec{Namespace: "apps", CreateNamespace: true, Profile: Profile{Marks: Marks{Labels: map[string]string{"owner": "me"}}}}
	complete := func(texts ...string) []string {
		admitted, err := policy.Rules{}.Admit(parse(t, texts...), known)
		if err != nil {
			t.Fatal(err)
		}
		desired, err := spec.complete(admitted, known, digest)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, d := range desired {
			loose, err := json.Marshal(d.Loose)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, d.ID.String()+" loose="+string(loose))
		}
		return got
	}
	got := complete("{apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: apps}}")
	if diff := cmp.Diff([]string{"ConfigMap/apps/a loose=false", "Namespace/apps loose=true"}, got); diff != "" {
		t.Errorf("a namespace that nobody declares is made and left alone (-want +got):\n%s", diff)
	}
	got = complete("{apiVersion: v1, kind: Namespace, metadata: {name: apps}}")
	if diff := cmp.Diff([]string{"Namespace/apps loose=false"}, got); diff != "" {
		t.Errorf("one that is declared is the declared one (-want +got):\n%s", diff)
	}
}

func TestSpecKeyCoversWhatObjectsDependOn(t *testing.T) {
	base := Spec{Namespace: "apps", Profile: Profile{FieldManager: "m"}}
	changes := map[string]func(*Spec){
		"path":      func(s *Spec) { s.Render.Path = "other" },
		"namespace": func(s *Spec) { s.Namespace = "other" },
		"create":    func(s *Spec) { s.CreateNamespace = true },
		"manager":   func(s *Spec) { s.Profile.FieldManager = "other" },
		"marks":     func(s *Spec) { s.Profile.Marks.Labels = map[string]string{"a": "b"} },
		"rules":     func(s *Spec) { s.Rules.Version = "2" },
		"variables": func(s *Spec) { s.Substitute = &substitute.Variables{Variables: map[string]string{"a": "b"}} },
		"ignored":   func(s *Spec) { s.Ignore = []plan.Ignore{{Kind: "Deployment", Pointers: []string{"/spec/replicas"}}} },
		"waves":     func(s *Spec) { s.Profile.WaveKeys = []string{"wave"} },
	}
	e := &Engine{Options: Options{Digest: digest}}
	for name, change := range changes {
		s := base
		change(&s)
		if e.key(s) == e.key(base) {
			t.Errorf("another %s gives other objects, but the key is the same", name)
		}
	}
}
