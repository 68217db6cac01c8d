package plan

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/holdfastcd/holdfast/internal/object"
)

func parse(t *testing.T, text string) *object.Object {
	t.Helper()
	if text == "" {
		return nil
	}
	o := &object.Object{Unstructured: unstructured.Unstructured{}}
	if err := yaml.Unmarshal([]byte(text), &o.Object); err != nil {
		t.Fatal(err)
	}
	return o
}

func TestDiff(t *testing.T) {
	tests := map[string]struct {
		reason        string
		live, desired string
		want          []Change
	}{
		"equal but for what a write moves": {
			reason:  "server-kept fields and status are not differences",
			live:    "{kind: Deployment, metadata: {name: a, resourceVersion: '7', generation: 2, managedFields: [{manager: x}]}, spec: {replicas: 1}, status: {replicas: 1}}",
			desired: "{kind: Deployment, metadata: {name: a, resourceVersion: '8'}, spec: {replicas: 1}}",
		},
		"a value": {
			reason:  "the path reads like the manifest",
			live:    "{kind: Deployment, spec: {template: {spec: {containers: [{name: c, image: 'a:1'}]}}}}",
			desired: "{kind: Deployment, spec: {template: {spec: {containers: [{name: c, image: 'a:2'}]}}}}",
			want:    []Change{{Path: "spec.template.spec.containers[0].image", From: `"a:1"`, To: `"a:2"`}},
		},
		"added and removed": {
			reason:  "a missing side is empty",
			live:    "{kind: ConfigMap, data: {gone: x}}",
			desired: "{kind: ConfigMap, data: {app.yaml: z}}",
			want:    []Change{{Path: "data.gone", From: `"x"`}, {Path: `data["app.yaml"]`, To: `"z"`}},
		},
		"a secret": {
			reason:  "that a secret value changed may be shown, the value never",
			live:    "{apiVersion: v1, kind: Secret, metadata: {name: s, labels: {a: b}}, data: {p: aGVsbG8=}, stringData: {q: hello}}",
			desired: "{apiVersion: v1, kind: Secret, metadata: {name: s, labels: {a: c}}, data: {p: d29ybGQ=}}",
			want: []Change{
				{Path: "data.p", From: hidden, To: hidden},
				{Path: "metadata.labels.a", From: `"b"`, To: `"c"`},
				{Path: "stringData", From: hidden},
			},
		},
		"a secret with a copy of itself in an annotation": {
			reason:  "the annotation of kubectl apply holds the values in the clear",
			live:    `{apiVersion: v1, kind: Secret, metadata: {annotations: {kubectl.kubernetes.io/last-applied-configuration: '{"data":{"p":"aGVsbG8="}}'}}}`,
			desired: "{apiVersion: v1, kind: Secret}",
		},
		"a created secret": {
			reason:  "a whole object on one side is no way around the mask",
			desired: "{apiVersion: v1, kind: Secret, data: {p: aGVsbG8=}}",
			want: []Change{
				{Path: "apiVersion", To: `"v1"`}, {Path: "data", To: hidden}, {Path: "kind", To: `"Secret"`},
			},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got := Diff(parse(t, tc.live), parse(t, tc.desired))
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tc.reason, diff)
			}
		})
	}
}
