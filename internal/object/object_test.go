package object

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

func parse(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	o := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(text), &o.Object); err != nil {
		t.Fatal(err)
	}
	return o
}

func TestNormalise(t *testing.T) {
	tests := map[string]struct{ reason, in, want string }{
		"server-kept fields": {
			reason: "a copy of a live object must not carry what only the API server may write",
			in:     "{kind: ConfigMap, metadata: {name: a, uid: u, resourceVersion: '1', generation: 3, creationTimestamp: null, selfLink: /x, managedFields: [{}]}, status: {x: 1}}",
			want:   "{kind: ConfigMap, metadata: {name: a}}",
		},
		"empty maps": {
			reason: "labels: {} and no labels are the same request",
			in:     "{kind: ConfigMap, metadata: {name: a, labels: {}, annotations: null}}",
			want:   "{kind: ConfigMap, metadata: {name: a}}",
		},
		"last applied": {
			reason: "the annotation of client-side apply would grow with every round",
			in:     "{kind: ConfigMap, metadata: {name: a, annotations: {kubectl.kubernetes.io/last-applied-configuration: '{}'}}}",
			want:   "{kind: ConfigMap, metadata: {name: a}}",
		},
		"aggregated role": {
			reason: "its rules belong to the aggregation controller",
			in:     "{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: a}, aggregationRule: {clusterRoleSelectors: []}, rules: []}",
			want:   "{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: a}, aggregationRule: {clusterRoleSelectors: []}}",
		},
		"plain role": {
			reason: "without aggregation the rules are ours",
			in:     "{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: a}, rules: []}",
			want:   "{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: a}, rules: []}",
		},
		"string data": {
			reason: "stringData is write-only: applied as it is, its removal would go unseen; it wins over data",
			in:     "{apiVersion: v1, kind: Secret, metadata: {name: a}, data: {k: b2xk}, stringData: {k: new, l: x}}",
			want:   "{apiVersion: v1, kind: Secret, metadata: {name: a}, data: {k: bmV3, l: eA==}}",
		},
		"string data of a wrong type": {
			reason: "the API server's refusal says more than ours would",
			in:     "{apiVersion: v1, kind: Secret, metadata: {name: a}, stringData: {k: 7}}",
			want:   "{apiVersion: v1, kind: Secret, metadata: {name: a}, stringData: {k: 7}}",
		},
		"injected bundle": {
			reason: "a controller injects the bundle of a conversion webhook",
			in:     "{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: a}, spec: {conversion: {webhook: {clientConfig: {caBundle: eA==, url: u}}}}}",
			want:   "{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: a}, spec: {conversion: {webhook: {clientConfig: {url: u}}}}}",
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got, want := parse(t, tc.in), parse(t, tc.want)
			Normalise(got)
			if diff := cmp.Diff(want.Object, got.Object); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tc.reason, diff)
			}
			again := got.DeepCopy()
			Normalise(again)
			if diff := cmp.Diff(got.Object, again.Object); diff != "" {
				t.Errorf("a second time changes it:\n%s", diff)
			}
		})
	}
}

func TestCheck(t *testing.T) {
	for in, want := range map[string]string{
		"{apiVersion: v1, kind: Pod, metadata: {name: a}}":          "",
		"{kind: Pod, metadata: {name: a}}":                          "apiVersion",
		"{apiVersion: v1, metadata: {name: a}}":                     "kind",
		"{apiVersion: v1, kind: Pod}":                               "name",
		"{apiVersion: v1, kind: Pod, metadata: {generateName: a-}}": "generateName",
	} {
		err := Check(parse(t, in))
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("Check(%s) = %v, want something about %q", in, err, want)
		}
	}
}

func TestIDString(t *testing.T) {
	for want, id := range map[string]ID{
		"ConfigMap/apps/a":       {Kind: "ConfigMap", Namespace: "apps", Name: "a"},
		"Namespace/a":            {Kind: "Namespace", Name: "a"},
		"Deployment.apps/apps/a": {Group: "apps", Kind: "Deployment", Namespace: "apps", Name: "a"},
	} {
		if got := id.String(); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}
