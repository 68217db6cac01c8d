package cel_test

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/policy"
	"github.com/holdfastcd/holdfast/internal/policy/cel"
	"github.com/holdfastcd/holdfast/internal/schema"
	"github.com/holdfastcd/holdfast/internal/schema/defaults"
)

// The expressions of policies as people have them; each is used by several.
var everyday = []string{
	"object.spec.template.spec.containers.all(c, !c.image.endsWith(':latest'))",
	"object.spec.template.spec.containers.all(c, has(c.resources.limits) && 'memory' in c.resources.limits)",
	"object.spec.replicas <= 5",
	"'team' in object.metadata.labels",
	"!has(object.spec.template.spec.hostNetwork) || !object.spec.template.spec.hostNetwork",
	"object.spec.template.spec.containers.all(c, c.image.matches('^registry[.]example[.]org/[a-z]+:[0-9.]+$'))",
	"request.operation == 'UPDATE' || object.metadata.name.size() < 60",
	"namespaceObject.metadata.labels['stage'] == 'dev' || object.spec.replicas > 0",
	"variables.containers.all(c, c.name != 'debug')",
	"object.spec.selector.matchLabels.all(k, k in object.spec.template.metadata.labels)",
}

// manyPolicies returns n policies, with their bindings; some have a rule about Pods.
func manyPolicies(n int) []policy.Document {
	var b strings.Builder
	for i := range n {
		resources, expression := "deployments", everyday[i%len(everyday)]
		if i%5 == 4 && i%10 != 9 {
			resources, expression = "pods", "object.spec.containers.all(c, !has(c.securityContext) || !has(c.securityContext.privileged) || !c.securityContext.privileged)"
		}
		variables := ""
		if strings.Contains(expression, "variables.") {
			variables = "  variables: [{name: containers, expression: object.spec.template.spec.containers}]\n"
		}
		fmt.Fprintf(&b, `---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: policy-%[1]d}
spec:
  matchConstraints:
    resourceRules: [{apiGroups: ["", apps], apiVersions: [v1], operations: [CREATE, UPDATE], resources: [%[2]s]}]
%[3]s  validations: [{expression: "%[4]s", message: "rule %[1]d"}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: policy-%[1]d}
spec: {policyName: policy-%[1]d, validationActions: [Deny]}
`, i, resources, variables, expression)
	}
	return []policy.Document{{File: "policies.yaml", Content: []byte(b.String())}}
}

// manyObjects is a case of n Deployments, of which none breaks a rule, and their Pods.
func manyObjects(n int) *policy.Case {
	all := make([]object.Object, n)
	for i := range all {
		name := fmt.Sprintf("web-%d", i)
		all[i] = object.Object{Unstructured: unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "apps/v1", "kind": "Deployment",
			"metadata": map[string]any{"name": name, "namespace": fmt.Sprintf("team-%d", i%50), "labels": map[string]any{"app": name, "team": "web"}},
			"spec": map[string]any{
				"replicas": 3.0, "selector": map[string]any{"matchLabels": map[string]any{"app": name}},
				"template": map[string]any{"metadata": map[string]any{"labels": map[string]any{"app": name}}, "spec": map[string]any{"containers": []any{
					map[string]any{"name": "app", "image": "registry.example.org/app:1.2.3", "resources": map[string]any{"limits": map[string]any{"memory": "64Mi"}}},
					map[string]any{"name": "log", "image": "registry.example.org/log:4.5", "resources": map[string]any{"limits": map[string]any{"memory": "32Mi"}}},
				}}},
			},
		}}}
	}
	c := policy.NewCase(all, schema.Builtin(), defaults.Complete, nil)
	for i := range 50 {
		c.Namespaces[fmt.Sprintf("team-%d", i)] = map[string]string{"stage": "dev"}
	}
	return c
}

// TestBar measures 5,000 objects, and the Pods of all of them, before 50 policies, each
// of which is for every workload or every Pod: under 5 s on two processors, which is
// 10 s of them (the machine may do other things), and under 500 MiB. Without
// HOLDFAST_LONG a fiftieth of the objects is judged, and the bar is that it ends well.
func TestBar(t *testing.T) {
	objects, within := 100, time.Duration(0)
	if os.Getenv("HOLDFAST_LONG") != "" {
		objects, within = 5000, 10*time.Second
	}
	c := manyObjects(objects)
	documents := manyPolicies(50)
	runtime.GC()
	before := used(t)
	program, _, flaws, err := cel.Engine{}.Compile(t.Context(), documents)
	if err != nil || len(flaws) > 0 {
		t.Fatal(err, flaws)
	}
	compiled := used(t)
	found, err := program.Judge(t.Context(), c)
	if err != nil || len(found.List) > 0 {
		t.Fatal(err, found.List)
	}
	judged := used(t)
	if n := found.Judged["policy-0"]; n != objects {
		t.Errorf("a policy for Deployments judged %d of %d", n, objects)
	}
	took := judged.cpu - before.cpu
	t.Logf("%d objects, %d subjects, 50 policies: compiled in %s, judged in %s (CPU %s), %d MiB allocated for policies, resident at most %d MiB",
		objects, len(c.Subjects), compiled.wall-before.wall, judged.wall-compiled.wall, judged.cpu-compiled.cpu, (compiled.heap-before.heap)>>20, judged.resident>>20)
	if within > 0 && took > within {
		t.Errorf("it took %s of processors", took)
	}
	if judged.resident > 500<<20 {
		t.Errorf("%d MiB", judged.resident>>20)
	}
}

type usage struct {
	wall, cpu      time.Duration
	heap, resident int64
}

var began = time.Now()

func used(tb testing.TB) usage {
	tb.Helper()
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		tb.Fatal(err)
	}
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return usage{time.Since(began), time.Duration(r.Utime.Nano() + r.Stime.Nano()), int64(m.HeapAlloc), r.Maxrss << 10}
}

// BenchmarkJudge is one Deployment and its Pod before 50 policies.
func BenchmarkJudge(b *testing.B) {
	program, _, _, err := cel.Engine{}.Compile(b.Context(), manyPolicies(50))
	if err != nil {
		b.Fatal(err)
	}
	c := manyObjects(1)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := program.Judge(b.Context(), c); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkCompile is 50 policies with their bindings.
func BenchmarkCompile(b *testing.B) {
	documents := manyPolicies(50)
	b.ReportAllocs()
	for b.Loop() {
		if _, _, _, err := (cel.Engine{}).Compile(b.Context(), documents); err != nil {
			b.Fatal(err)
		}
	}
}
