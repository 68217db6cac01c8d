package builtin

import (
	"context"
	"fmt"
	"syscall"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"

	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/policy"
	"github.com/holdfastcd/holdfast/internal/schema"
)

// everything is all policies, those with parameters that are required with them.
func everything(t testing.TB) policy.Program {
	t.Helper()
	var on []policy.Builtin
	for _, a := range Names() {
		b := policy.Builtin{Name: a.Name}
		if a.Name == "allowed-images" {
			b.Parameters = raw(t, "{images: [registry.example.org/**]}")
		}
		on = append(on, b)
	}
	p, flaws := Compile(on)
	if len(flaws) > 0 {
		t.Fatal(flaws)
	}
	return p
}

// fleet is n objects, of which every fourth workload keeps to all rules and the others to
// few.
func fleet(t testing.TB, n int) *policy.Case {
	t.Helper()
	bad := `{apiVersion: apps/v1, kind: Deployment, metadata: {}, spec: {template: {spec: {hostNetwork: true, volumes: [{name: h, hostPath: {path: /}}], containers: [{name: c, image: c, securityContext: {privileged: true}}, {name: d, image: d}]}}}}`
	var shapes []map[string]any
	for _, text := range []string{
		"{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {}, spec: {podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 0.0.0.0/0}}]}]}}",
		"{apiVersion: v1, kind: Service, metadata: {}, spec: {type: LoadBalancer}}",
		"{apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {}, rules: [{apiGroups: [''], resources: [pods, '*'], verbs: [get, bind]}]}",
		"{apiVersion: v1, kind: Secret, metadata: {}, stringData: {a: b}}",
		`{apiVersion: apps/v1, kind: Deployment, metadata: {labels: {app.kubernetes.io/name: d}}, spec: {template: {spec: {automountServiceAccountToken: false, securityContext: {runAsNonRoot: true, seccompProfile: {type: RuntimeDefault}}, containers: [{name: c, image: "registry.example.org/c:1` + pinned + `", resources: {limits: {memory: 1Gi}, requests: {cpu: 1}}, securityContext: {readOnlyRootFilesystem: true, allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}}]}}}}`,
		bad, bad, bad,
	} {
		var o map[string]any
		if err := yaml.Unmarshal([]byte(text), &o); err != nil {
			t.Fatal(err)
		}
		shapes = append(shapes, o)
	}
	objects := make([]object.Object, n)
	for i := range objects {
		objects[i].Object = runtime.DeepCopyJSON(shapes[i%len(shapes)])
		objects[i].SetName(fmt.Sprintf("o%d", i))
		objects[i].SetNamespace(fmt.Sprintf("team-%d", i%50))
	}
	return piped(t, policy.NewCase(objects, schema.Builtin(), nil, nil))
}

// 5,000 objects against all policies: the bar is 2 s. What counts is the time of the
// processor, which does not depend on who else is at work; another goroutine collects
// garbage meanwhile, so that nobody waits longer than that.
func TestSpeed(t *testing.T) {
	const objects, bar = 5000, 2 * time.Second
	p, c := everything(t), fleet(t, objects)
	before := busy(t)
	found, err := p.Judge(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	took := busy(t) - before
	t.Logf("%d objects against %d policies: %d findings in %s", objects, len(Names()), len(found.List), took)
	if took > bar && !raced {
		t.Errorf("it takes %s, more than %s", took, bar)
	}
	if len(found.List) < objects {
		t.Errorf("%d findings: the objects are not judged", len(found.List))
	}
}

// busy is how long processors have worked for this process.
func busy(t testing.TB) time.Duration {
	t.Helper()
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		t.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

func BenchmarkJudge(b *testing.B) {
	p, c := everything(b), fleet(b, 5000)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := p.Judge(context.Background(), c); err != nil {
			b.Fatal(err)
		}
	}
}
