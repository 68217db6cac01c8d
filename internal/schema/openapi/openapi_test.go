package openapi

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"
)

// read makes objects of YAML.
func read(t testing.TB, text string) []map[string]any {
	t.Helper()
	var all []map[string]any
	for document := range strings.SplitSeq(text, "\n---\n") {
		data, err := yaml.YAMLToJSON([]byte(document))
		if err != nil {
			t.Fatal(err)
		}
		decoder := json.NewDecoder(strings.NewReader(string(data)))
		decoder.UseNumber()
		var o map[string]any
		if err := decoder.Decode(&o); err != nil {
			t.Fatal(err)
		}
		numbers(o)
		all = append(all, o)
	}
	return all
}

// numbers turns numbers into those of Kubernetes' objects.
func numbers(v any) any {
	switch v := v.(type) {
	case json.Number:
		if i, err := v.Int64(); err == nil {
			return i
		}
		f, _ := v.Float64()
		return f
	case map[string]any:
		for key := range v {
			v[key] = numbers(v[key])
		}
	case []any:
		for i := range v {
			v[i] = numbers(v[i])
		}
	}
	return v
}

func schemas(t testing.TB, minor string) *Schemas {
	t.Helper()
	s, err := For(minor)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestFor(t *testing.T) {
	if got := len(Minors()); got != 4 {
		t.Errorf("there are %d minors: %v", got, Minors())
	}
	for _, minor := range Minors() {
		if got := schemas(t, minor).Minor(); got != minor {
			t.Errorf("For(%q) is of %q", minor, got)
		}
	}
	if got, newest := schemas(t, "").Minor(), Minors()[3]; got != newest {
		t.Errorf("no minor is %s, want %s", got, newest)
	}
	_, err := For("1.2")
	if err == nil || !strings.Contains(err.Error(), strings.Join(Minors(), ", ")) {
		t.Errorf("1.2: %v", err)
	}
}

// TestDecode reads all of the file: that every form in it is known, and every
// release whole.
func TestDecode(t *testing.T) {
	for i, minor := range Minors() {
		s, err := decode(unpacked(), Minors(), i)
		if err != nil {
			t.Fatal(err)
		}
		if len(s.builtin) < 70 {
			t.Errorf("%s has only %d kinds", minor, len(s.builtin))
		}
		seen := map[*node]bool{}
		for k, n := range s.builtin {
			wellFormed(t, k.name, n, seen)
		}
	}
	for _, bad := range []string{"kind\n", "kind x v1 Pod a\n", "gone 1.x v1 A\n", "gone 1.2 v1\n", "type 1 a\n field\n", ""} {
		if s, err := decode(bad, []string{"1.30"}, 0); err == nil {
			t.Errorf("%q was read: %v", bad, s)
		}
	}
}

func wellFormed(t *testing.T, path string, n *node, seen map[*node]bool) {
	t.Helper()
	if seen[n] {
		return
	}
	seen[n] = true
	if !strings.ContainsRune("silbnxtuq*[{@", rune(n.form)) || (n.form == '[' || n.form == '{') != (n.item != nil) || n.form == '@' && len(n.fields) == 0 {
		t.Errorf("%s has the form %q, with %d fields", path, n.form, len(n.fields))
	}
	if n.item != nil {
		wellFormed(t, path+"[]", n.item, seen)
	}
	for name, f := range n.fields {
		wellFormed(t, path+"."+name, f, seen)
	}
}

// TestCorpus finds nothing wrong with objects that the API server takes.
func TestCorpus(t *testing.T) {
	data, err := os.ReadFile("../defaults/testdata/corpus.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, minor := range Minors() {
		for _, o := range read(t, string(data)) {
			for _, p := range schemas(t, minor).Validate(o) {
				t.Errorf("%s: %s: %v", minor, o["kind"], p)
			}
		}
	}
}

// bad are objects with what is wrong with them. Where the API server refuses them
// for the same reason, "strict" is a part of what it says; the test with a real one
// is TestServer.
var bad = []struct {
	name, object string
	want         []string
	strict       string
}{
	{"unknown field", deployment("  replica: 3"), []string{`spec.replica: unknown field "replica"; did you mean "replicas"?`}, `unknown field "spec.replica"`},
	{"unknown field at the top", configMap("dataa: {}"), []string{`dataa: unknown field "dataa"; did you mean "data"?`}, `unknown field "dataa"`},
	{"unknown field in a list", pod("    imagePullPolcy: Always"), []string{`spec.containers[0].imagePullPolcy: unknown field "imagePullPolcy"; did you mean "imagePullPolicy"?`}, `unknown field "spec.containers[0].imagePullPolcy"`},
	{"case of a field", pod("    Image: a"), []string{`spec.containers[0].Image: unknown field "Image"; did you mean "image"?`}, `unknown field "spec.containers[0].Image"`},
	{"unknown field in metadata", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, label: {a: b}}", []string{`metadata.label: unknown field "label"; did you mean "labels"?`}, `unknown field "metadata.label"`},
	{"unknown field in deep", pod("    resources: {limit: {cpu: 1}}"), []string{`spec.containers[0].resources.limit: unknown field "limit"; did you mean "limits"?`}, `unknown field "spec.containers[0].resources.limit"`},
	{"field on the wrong level", "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 80}]}\nselector: {app: a}", []string{`selector: unknown field "selector"`}, `unknown field "selector"`},
	{"text for a number", deployment("  replicas: many"), []string{`spec.replicas: invalid type: got "string", expected "integer"`}, "spec.replicas"},
	{"a number in quotes", deployment(`  replicas: "3"`), []string{`spec.replicas: invalid type: got "string", expected "integer"`}, "spec.replicas"},
	{"a fraction", deployment("  replicas: 1.5"), []string{`spec.replicas: invalid type: got "number", expected "integer"`}, "cannot unmarshal number 1.5"},
	{"too large a number", deployment("  replicas: 3000000000"), []string{`spec.replicas: invalid value: 3000000000 is not an integer of 32 bits`}, "cannot unmarshal number 3000000000"},
	{"a number for text", configMap("data: {a: 1}"), []string{`data["a"]: invalid type: got "integer", expected "string"`}, "cannot unmarshal number"},
	{"a truth for text", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, annotations: {a: true}}", []string{`metadata.annotations["a"]: invalid type: got "boolean", expected "string"`}, "cannot unmarshal bool"},
	{"text for a truth", pod(`    tty: "yes"`), []string{`spec.containers[0].tty: invalid type: got "string", expected "boolean"`}, "tty"},
	{"an object for a list", pod("    ports: {containerPort: 80}"), []string{`spec.containers[0].ports: invalid type: got "object", expected "array"`}, "cannot unmarshal object"},
	{"a list for an object", pod("    resources: [1]"), []string{`spec.containers[0].resources: invalid type: got "array", expected "object"`}, "cannot unmarshal array"},
	{"text for an object", pod("    securityContext: root"), []string{`spec.containers[0].securityContext: invalid type: got "string", expected "object"`}, "cannot unmarshal string"},
	{"text for a list", pod("    command: sleep 5"), []string{`spec.containers[0].command: invalid type: got "string", expected "array"`}, "cannot unmarshal string"},
	{"environment of numbers", pod("    env: [{name: A, value: 1}]"), []string{`spec.containers[0].env[0].value: invalid type: got "integer", expected "string"`}, "cannot unmarshal number"},
	{"bad quantity", pod("    resources: {limits: {memory: 1GiB}}"), []string{`spec.containers[0].resources.limits["memory"]: invalid quantity "1GiB": such as 500m, 2 or 1Gi is expected`}, "quantities must match"},
	{"a truth for a quantity", pod("    resources: {limits: {memory: true}}"), []string{`spec.containers[0].resources.limits["memory"]: invalid type: got "boolean", expected "quantity"`}, "quantities must match"},
	{"neither a number nor a text", pod("    livenessProbe: {httpGet: {port: {}}}"), []string{`spec.containers[0].livenessProbe.httpGet.port: invalid type: got "object", expected "integer or string"`}, "cannot unmarshal object"},
	{"not base64", "apiVersion: v1\nkind: Secret\nmetadata: {name: a}\ndata: {a: hunter2!}", []string{`data["a"]: illegal base64 data`}, "illegal base64 data"},
	{"bad time", "apiVersion: coordination.k8s.io/v1\nkind: Lease\nmetadata: {name: a}\nspec: {renewTime: today}", []string{`spec.renewTime: invalid time "today": such as 2026-01-02T15:04:05Z is expected`}, "parsing time"},
	{"bad value of an enumeration", pod("    imagePullPolicy: Sometimes"), []string{`spec.containers[0].imagePullPolicy: unsupported value "Sometimes": supported values: "Always", "IfNotPresent", "Never"`}, `Unsupported value: "Sometimes"`},
	{"bad protocol", "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 80, protocol: HTTP}]}", []string{`spec.ports[0].protocol: unsupported value "HTTP": supported values: "SCTP", "TCP", "UDP"`}, `Unsupported value: "HTTP"`},
	{"bad type of Service", "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {type: Clusterip, ports: [{port: 80}]}", []string{`spec.type: unsupported value "Clusterip": supported values: "ClusterIP", "ExternalName", "LoadBalancer", "NodePort"`}, `Unsupported value: "Clusterip"`},
	{"bad type of a path", "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: a}\nspec: {rules: [{http: {paths: [{path: /, pathType: prefix, backend: {service: {name: a, port: {number: 1}}}}]}}]}", []string{`spec.rules[0].http.paths[0].pathType: unsupported value "prefix": supported values: "Exact", "ImplementationSpecific", "Prefix"`}, `Unsupported value: "prefix"`},
	{"bad operation", "apiVersion: admissionregistration.k8s.io/v1\nkind: ValidatingWebhookConfiguration\nmetadata: {name: a}\nwebhooks: [{name: a.example.com, sideEffects: None, admissionReviewVersions: [v1], clientConfig: {url: 'https://example.com'}, rules: [{apiGroups: [''], apiVersions: [v1], resources: [pods], operations: [MAKE]}]}]", []string{`webhooks[0].rules[0].operations[0]: unsupported value "MAKE": supported values: "*", "CONNECT", "CREATE", "DELETE", "UPDATE"`}, `Unsupported value: "MAKE"`},
	{"no name of a container", "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{image: a}]}", []string{`spec.containers[0]: missing required field "name"`}, "spec.containers[0].name: Required value"},
	{"no containers", "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {}", []string{`spec: missing required field "containers"`}, "spec.containers: Required value"},
	{"no selector", "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\nspec: {template: {metadata: {labels: {a: b}}, spec: {containers: [{name: a, image: b}]}}}", []string{`spec: missing required field "selector"`}, "spec.selector: Required value"},
	{"no roleRef", "apiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\nmetadata: {name: a}\nsubjects: []", []string{`missing required field "roleRef"`}, "roleRef.name: Required value"},
	{"no pathType", "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: a}\nspec: {rules: [{http: {paths: [{path: /, backend: {service: {name: a, port: {number: 1}}}}]}}]}", []string{`spec.rules[0].http.paths[0]: missing required field "pathType"`}, "pathType: Required value"},
	{"fields of an older version", "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: a}\nspec: {rules: [{http: {paths: [{path: /, pathType: Prefix, backend: {serviceName: a, servicePort: 1}}]}}]}", []string{`spec.rules[0].http.paths[0].backend.serviceName: unknown field "serviceName"`, `spec.rules[0].http.paths[0].backend.servicePort: unknown field "servicePort"`}, `unknown field "spec.rules[0].http.paths[0].backend.serviceName"`},
	{"no schedule", "apiVersion: batch/v1\nkind: CronJob\nmetadata: {name: a}\nspec: {jobTemplate: {spec: {template: {spec: {restartPolicy: Never, containers: [{name: a, image: b}]}}}}}", []string{`spec: missing required field "schedule"`}, "spec.schedule: Required value"},
	{"no name", "apiVersion: v1\nkind: ConfigMap\nmetadata: {}", []string{`metadata: missing required field "name"`}, "name or generateName is required"},
}

func deployment(more string) string {
	return "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\nspec:\n  selector: {matchLabels: {a: b}}\n  template: {metadata: {labels: {a: b}}, spec: {containers: [{name: a, image: b}]}}\n" + more
}

func pod(more string) string {
	return "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec:\n  containers:\n  - name: a\n    image: b\n" + more
}

func configMap(more string) string {
	return "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n" + more
}

func TestValidate(t *testing.T) {
	for _, tt := range bad {
		t.Run(tt.name, func(t *testing.T) {
			for _, minor := range Minors() {
				if diff := cmp.Diff(tt.want, told(schemas(t, minor).Validate(read(t, tt.object)[0]))); diff != "" {
					t.Errorf("%s (-want +got):\n%s", minor, diff)
				}
			}
		})
	}
}

func told(problems []Problem) []string {
	var all []string
	for _, p := range problems {
		all = append(all, p.String())
	}
	return all
}

func TestKinds(t *testing.T) {
	tests := []struct {
		version, kind, minor, want string
		unknown                    bool
		reason                     string
	}{
		{"extensions/v1beta1", "Ingress", "1.36", `apiVersion: no matches for kind "Ingress" in version "extensions/v1beta1": not served since Kubernetes 1.22; use networking.k8s.io/v1`, false, "gone, and moved"},
		{"policy/v1beta1", "PodSecurityPolicy", "1.36", `apiVersion: no matches for kind "PodSecurityPolicy" in version "policy/v1beta1": not served since Kubernetes 1.25; use Pod Security admission`, false, "gone for good"},
		{"batch/v1beta1", "CronJob", "1.34", `apiVersion: no matches for kind "CronJob" in version "batch/v1beta1": not served since Kubernetes 1.25; use batch/v1`, false, "gone, and newer in the same group"},
		{"storage.k8s.io/v1beta1", "VolumeAttributesClass", "1.37", `apiVersion: no matches for kind "VolumeAttributesClass" in version "storage.k8s.io/v1beta1": not served since Kubernetes 1.37; use storage.k8s.io/v1`, false, "gone between two of the releases"},
		{"storage.k8s.io/v1beta1", "VolumeAttributesClass", "1.36", ``, false, "served by the release before"},
		{"certificates.k8s.io/v1", "ClusterTrustBundle", "1.36", `apiVersion: no matches for kind "ClusterTrustBundle" in version "certificates.k8s.io/v1"; use certificates.k8s.io/v1beta1`, false, "not yet there"},
		{"apps/v1", "Deploymnt", "1.36", `apiVersion: no matches for kind "Deploymnt" in version "apps/v1"; use kind Deployment`, false, "misspelt"},
		{"v1", "Deployment", "1.36", `apiVersion: no matches for kind "Deployment" in version "v1"`, false, "not in that group"},
		{"example.com/v1", "Thing", "1.36", `apiVersion: no matches for kind "Thing" in version "example.com/v1"`, true, "somebody's own"},
		{"", "Pod", "1.36", `missing required field "apiVersion"`, false, "no version"},
		{"v1", "", "1.36", `missing required field "kind"`, false, "no kind"},
	}
	for _, tt := range tests {
		t.Run(tt.reason, func(t *testing.T) {
			got := schemas(t, tt.minor).Validate(map[string]any{
				"apiVersion": tt.version, "kind": tt.kind, "metadata": map[string]any{"name": "a"}, "driverName": "a",
			})
			want := []string{tt.want}
			if tt.want == "" {
				want = nil
			}
			if diff := cmp.Diff(want, told(got)); diff != "" {
				t.Fatalf("(-want +got):\n%s", diff)
			}
			if len(got) == 1 && errors.Is(got[0].Err, ErrUnknownKind) != tt.unknown {
				t.Errorf("unknown is %v", !tt.unknown)
			}
		})
	}
}

func TestList(t *testing.T) {
	list := map[string]any{"apiVersion": "v1", "kind": "List", "items": []any{read(t, bad[0].object)[0], read(t, configMap("data: {}"))[0], 7}}
	want := []string{"items[0]." + bad[0].want[0], `items[2]: missing required field "apiVersion"`}
	if diff := cmp.Diff(want, told(schemas(t, "").Validate(list))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestManyProblems(t *testing.T) {
	o := map[string]any{"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": "a"}}
	for i := range 5000 {
		o[fmt.Sprintf("field%d", i)] = 1
	}
	if got := len(schemas(t, "").Validate(o)); got != most {
		t.Errorf("%d problems are told, want %d", got, most)
	}
}

func TestNothingIsSpilled(t *testing.T) {
	for _, p := range schemas(t, "").Validate(read(t, "apiVersion: v1\nkind: Secret\nmetadata: {name: a}\ndata: {a: hunter2!}\nstringData: {b: 12345}")[0]) {
		if strings.Contains(p.String(), "hunter2") || strings.Contains(p.String(), "12345") {
			t.Errorf("%v", p)
		}
	}
}

func FuzzValidate(f *testing.F) {
	for _, tt := range bad[:5] {
		data, err := yaml.YAMLToJSON([]byte(tt.object))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var o map[string]any
		if json.Unmarshal(data, &o) == nil {
			schemas(t, "").Validate(o)
		}
	})
}

func BenchmarkFor(b *testing.B) {
	minors := Minors()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := decode(unpacked(), minors, len(minors)-1); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkValidate judges 5,000 objects, as a large repository has.
func BenchmarkValidate(b *testing.B) {
	data, err := os.ReadFile("../defaults/testdata/corpus.yaml")
	if err != nil {
		b.Fatal(err)
	}
	objects := read(b, string(data))
	s := schemas(b, "")
	b.ReportAllocs()
	for b.Loop() {
		for i := range 5000 {
			s.Validate(objects[i%len(objects)])
		}
	}
}

// yamlObject reads one object.
func yamlObject(text string) (map[string]any, error) {
	var o map[string]any
	err := yaml.Unmarshal([]byte(text), &o)
	return o, err
}
