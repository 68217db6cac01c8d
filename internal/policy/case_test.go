package policy

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	kschema "k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/schema"
)

func parsed(t *testing.T, text string) object.Object {
	t.Helper()
	o := object.Object{Unstructured: unstructured.Unstructured{}, Origin: object.Origin{File: "web/all.yaml", Line: 3}}
	if err := yaml.Unmarshal([]byte(text), &o.Object); err != nil {
		t.Fatal(err)
	}
	return o
}

// Values of Secrets are nobody's business, whatever field they stand in.
func TestCaseHidesSecrets(t *testing.T) {
	o := parsed(t, `{apiVersion: v1, kind: Secret, metadata: {name: s, namespace: a, annotations: {kubectl.kubernetes.io/last-applied-configuration: hunter2}},
		data: {a: aHVudGVyMg==}, stringData: {b: hunter2}}`)
	was := o.DeepCopy()
	c := NewCase([]object.Object{o}, schema.Table{}, nil, func(object.ID) map[string]any { return o.Object })
	for _, shown := range []map[string]any{c.Subjects[0].Object, c.Subjects[0].Old} {
		want := map[string]any{"a": hiddenData}
		if diff := cmp.Diff(want, shown["data"]); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff(map[string]any{"b": Hidden}, shown["stringData"]); diff != "" {
			t.Error(diff)
		}
		if notes, _, _ := unstructured.NestedStringMap(shown, "metadata", "annotations"); len(notes) > 0 {
			t.Error("what kubectl noted holds the values, too")
		}
	}
	if diff := cmp.Diff(was.Object, o.Object); diff != "" {
		t.Errorf("what is delivered was changed:\n%s", diff)
	}
}

// A workload brings the Pod that its controller would make, complete as any Pod.
func TestCasePods(t *testing.T) {
	tests := []struct{ reason, object, want string }{
		{
			"a Deployment", "{apiVersion: apps/v1, kind: Deployment, metadata: {name: web, namespace: a}, spec: {template: {metadata: {labels: {app: web}}, spec: {containers: [{name: c}]}}}}",
			"{apiVersion: v1, kind: Pod, metadata: {name: web, namespace: a, labels: {app: web}}, spec: {containers: [{name: c}]}, complete: true}",
		},
		{
			"a CronJob, two templates deep", "{apiVersion: batch/v1, kind: CronJob, metadata: {name: j, namespace: a}, spec: {jobTemplate: {spec: {template: {spec: {containers: []}}}}}}",
			"{apiVersion: v1, kind: Pod, metadata: {name: j, namespace: a}, spec: {containers: []}, complete: true}",
		},
		{"what makes none", "{apiVersion: v1, kind: ConfigMap, metadata: {name: c, namespace: a}}", ""},
		{"a template that is none", "{apiVersion: apps/v1, kind: Deployment, metadata: {name: web}, spec: {template: oops}}", ""},
		{"a kind of the same name", "{apiVersion: example.org/v1, kind: Deployment, metadata: {name: web}, spec: {template: {spec: {}}}}", ""},
	}
	for _, tt := range tests {
		complete := func(o map[string]any) { o["complete"] = true }
		c := NewCase([]object.Object{parsed(t, tt.object)}, schema.Table{}, complete, nil)
		if tt.want == "" {
			if len(c.Subjects) != 1 {
				t.Errorf("%s: %v", tt.reason, c.Subjects[1:])
			}
			continue
		}
		if len(c.Subjects) != 2 || c.Subjects[1].Of == nil || *c.Subjects[1].Of != 0 || c.Subjects[1].Resource != "pods" {
			t.Errorf("%s: %+v", tt.reason, c.Subjects)
			continue
		}
		if diff := cmp.Diff(parsed(t, tt.want).Object, c.Subjects[1].Object); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.reason, diff)
		}
		id, origin := c.about(1)
		if id != c.Subjects[0].ID() || origin.Line != 3 {
			t.Errorf("%s: it is told of %s", tt.reason, id)
		}
	}
}

// Namespaces that the delivery brings are known by their labels, and kinds by their resource.
func TestCaseKnows(t *testing.T) {
	gvk := kschema.GroupVersionKind{Version: "v1", Kind: "Namespace"}
	kinds := schema.Table{gvk: {GVK: gvk, Resource: "namespaces"}}
	c := NewCase([]object.Object{parsed(t, "{apiVersion: v1, kind: Namespace, metadata: {name: a, labels: {team: x}}}")}, kinds, nil, nil)
	want := map[string]map[string]string{"a": {"team": "x", "kubernetes.io/metadata.name": "a"}}
	if diff := cmp.Diff(want, c.Namespaces); diff != "" {
		t.Error(diff)
	}
	if s := c.Subjects[0]; s.Resource != "namespaces" || s.Namespaced {
		t.Errorf("%+v", s)
	}
}
