package object

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/holdfastcd/holdfast/internal/schema"
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
		"injected bundle of a conversion": {
			reason: "cert-manager is asked to inject it",
			in:     "{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: a, annotations: {cert-manager.io/inject-ca-from: b/c}}, spec: {conversion: {webhook: {clientConfig: {caBundle: eA==, url: u}}}}}",
			want:   "{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: a, annotations: {cert-manager.io/inject-ca-from: b/c}}, spec: {conversion: {webhook: {clientConfig: {url: u}}}}}",
		},
		"own bundle of a conversion": {
			reason: "nobody is asked to inject one, so it is ours",
			in:     "{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: a}, spec: {conversion: {webhook: {clientConfig: {caBundle: eA==, url: u}}}}}",
			want:   "{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: a}, spec: {conversion: {webhook: {clientConfig: {caBundle: eA==, url: u}}}}}",
		},
		"place for a bundle": {
			reason: "who leaves it empty has it filled by somebody",
			in:     "{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingWebhookConfiguration, metadata: {name: a}, webhooks: [{name: a, clientConfig: {caBundle: ''}}, {name: b, clientConfig: {caBundle: Cg==}}, {name: c, clientConfig: {caBundle: eA==}}]}",
			want:   "{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingWebhookConfiguration, metadata: {name: a}, webhooks: [{name: a, clientConfig: {}}, {name: b, clientConfig: {}}, {name: c, clientConfig: {caBundle: eA==}}]}",
		},
		"bundle of an API": {
			reason: "OpenShift injects too",
			in:     "{apiVersion: apiregistration.k8s.io/v1, kind: APIService, metadata: {name: a, annotations: {service.beta.openshift.io/inject-cabundle: 'true'}}, spec: {caBundle: eA==, group: g}}",
			want:   "{apiVersion: apiregistration.k8s.io/v1, kind: APIService, metadata: {name: a, annotations: {service.beta.openshift.io/inject-cabundle: 'true'}}, spec: {group: g}}",
		},
		"no secrets of an account": {
			reason: "an empty list says nothing, and reads as if it did",
			in:     "{apiVersion: v1, kind: ServiceAccount, metadata: {name: a}, secrets: []}",
			want:   "{apiVersion: v1, kind: ServiceAccount, metadata: {name: a}}",
		},
		"secrets of an account": {
			reason: "named ones are owned one by one, and in nobody's way",
			in:     "{apiVersion: v1, kind: ServiceAccount, metadata: {name: a}, secrets: [{name: x}]}",
			want:   "{apiVersion: v1, kind: ServiceAccount, metadata: {name: a}, secrets: [{name: x}]}",
		},
		"nulls": {
			reason: "client-side apply takes null for absent; those in lists are not ours to judge",
			in:     "{kind: X, metadata: {name: a, annotations: {x: null}}, spec: {a: null, b: {c: null}, d: [{e: null, f: 1}, null]}}",
			want:   "{kind: X, metadata: {name: a}, spec: {b: {}, d: [{f: 1}, null]}}",
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got, want := parse(t, tc.in), parse(t, tc.want)
			Normalise(got, nil)
			if diff := cmp.Diff(want.Object, got.Object); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tc.reason, diff)
			}
			again := got.DeepCopy()
			Normalise(again, nil)
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

func TestNormaliseWarns(t *testing.T) {
	lists := []schema.List{
		{Path: []string{"metadata", "finalizers"}},
		{Path: []string{"spec", "hostAliases"}, Keys: []schema.Key{{Field: "ip"}}, Join: "hostnames"},
		{Path: []string{"spec", "containers", "env"}, Keys: []schema.Key{{Field: "name"}}},
		{Path: []string{"spec", "containers", "ports"}, Keys: []schema.Key{{Field: "containerPort"}, {Field: "protocol", Default: "TCP"}}},
	}
	tests := map[string]struct {
		reason, in, want string
		warnings         []string
	}{
		"nothing": {
			reason: "what is fine is not talked about", in: "{kind: Pod, metadata: {name: a}, status: {x: 1}}", want: "{kind: Pod, metadata: {name: a}}",
		},
		"managedFields": {
			reason: "a copy of a live object", in: "{kind: Pod, metadata: {name: a, managedFields: [{manager: x}]}}", want: "{kind: Pod, metadata: {name: a}}",
			warnings: []string{"metadata.managedFields: it belongs to the API server and is left out"},
		},
		"environment": {
			reason: "the last one counts, as in a pod, where the first one stood",
			in:     "{kind: Pod, metadata: {name: a}, spec: {containers: [{name: x}, {name: y, env: [{name: A, value: '1'}, {name: B}, {name: A, valueFrom: {}}]}]}}",
			want:   "{kind: Pod, metadata: {name: a}, spec: {containers: [{name: x}, {name: y, env: [{name: A, valueFrom: {}}, {name: B}]}]}}",
			warnings: []string{
				"spec.containers[1].env: there are two items of name A; the last one counts",
			},
		},
		"ports": {
			reason: "a protocol that is not written is TCP; another protocol is another port",
			in:     "{kind: Pod, metadata: {name: a}, spec: {containers: [{name: x, ports: [{containerPort: 80}, {containerPort: 80, protocol: UDP}, {containerPort: 80, protocol: TCP, name: http}]}]}}",
			want:   "{kind: Pod, metadata: {name: a}, spec: {containers: [{name: x, ports: [{containerPort: 80, protocol: TCP, name: http}, {containerPort: 80, protocol: UDP}]}]}}",
			warnings: []string{
				"spec.containers[0].ports: there are two items of containerPort 80, protocol TCP; the last one counts",
			},
		},
		"hosts": {
			reason: "a pod knows the names of both",
			in:     "{kind: Pod, metadata: {name: a}, spec: {hostAliases: [{ip: 10.0.0.1, hostnames: [x]}, {ip: 10.0.0.1, hostnames: ['y']}]}}",
			want:   "{kind: Pod, metadata: {name: a}, spec: {hostAliases: [{ip: 10.0.0.1, hostnames: [x, 'y']}]}}",
			warnings: []string{
				"spec.hostAliases: there are two items of ip 10.0.0.1; the last one counts",
			},
		},
		"a set": {
			reason: "once is enough", in: "{kind: Pod, metadata: {name: a, finalizers: [x, 'y', x]}}", want: "{kind: Pod, metadata: {name: a, finalizers: [x, 'y']}}",
			warnings: []string{"metadata.finalizers: there are two items of x; the last one counts"},
		},
		"no key": {
			reason: "the API server says what is wrong", in: "{kind: Pod, metadata: {name: a}, spec: {containers: [{env: [{value: x}, 7, {value: x}]}]}}",
			want: "{kind: Pod, metadata: {name: a}, spec: {containers: [{env: [{value: x}, 7, {value: x}]}]}}",
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got := parse(t, tc.in)
			warnings := Normalise(got, lists)
			if diff := cmp.Diff(tc.warnings, warnings); diff != "" {
				t.Errorf("%s: warnings (-want +got):\n%s", tc.reason, diff)
			}
			if diff := cmp.Diff(parse(t, tc.want).Object, got.Object); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tc.reason, diff)
			}
			if again := Normalise(got, lists); len(again) > 0 {
				t.Errorf("a second time warns: %q", again)
			}
		})
	}
}
