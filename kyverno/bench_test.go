package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/holdfastcd/holdfast/internal/policy"
	"github.com/holdfastcd/holdfast/internal/policy/judge"
	"github.com/holdfastcd/holdfast/kyverno/internal/engine"
)

// library is n policies of the kinds that Kyverno's own library has: patterns, deny,
// foreach, CEL, pod security, and ValidatingPolicies.
func library(n int) []policy.Document {
	const head = "apiVersion: kyverno.io/v1\nkind: ClusterPolicy\nmetadata: {name: p%d}\nspec:\n  validationFailureAction: Enforce\n  rules:\n  - name: r\n    match: {any: [{resources: {kinds: [%s]}}]}\n    validate:\n      message: m\n%s"
	bodies := []struct{ kinds, body string }{
		{"Pod", "      pattern: {spec: {containers: [{resources: {limits: {memory: \"?*\", cpu: \"?*\"}}}]}}\n"},
		{"Pod", "      pattern: {spec: {=(volumes): [{X(hostPath): \"null\"}]}}\n"},
		{"Pod", "      foreach:\n      - list: request.object.spec.containers\n        deny: {conditions: {any: [{key: \"{{ element.securityContext.privileged || `false` }}\", operator: Equals, value: true}]}}\n"},
		{"Pod", "      podSecurity: {level: baseline, version: latest}\n"},
		{"Pod", "      anyPattern: [{spec: {securityContext: {runAsNonRoot: true}}}, {spec: {containers: [{securityContext: {runAsNonRoot: true}}]}}]\n"},
		{"Service", "      deny: {conditions: {all: [{key: \"{{ request.object.spec.type || 'ClusterIP' }}\", operator: Equals, value: NodePort}]}}\n"},
		{"ConfigMap", "      pattern: {metadata: {labels: {team: \"?*\"}}}\n"},
		{"Deployment", "      cel: {expressions: [{expression: \"!has(object.spec.replicas) || object.spec.replicas <= 5\"}]}\n"},
		{"Namespace, Service, ConfigMap, Deployment", "      deny: {conditions: {any: [{key: \"{{ request.object.metadata.name }}\", operator: Equals, value: forbidden}]}}\n"},
	}
	var all []policy.Document
	for i := range n {
		text := fmt.Sprintf("apiVersion: policies.kyverno.io/v1\nkind: ValidatingPolicy\nmetadata: {name: p%d}\nspec:\n  matchConstraints: {resourceRules: [{apiGroups: [apps], apiVersions: [v1], operations: [CREATE], resources: [deployments]}]}\n  validations: [{expression: \"object.metadata.name != 'x'\"}]\n", i)
		if k := i % (len(bodies) + 1); k < len(bodies) {
			text = fmt.Sprintf(head, i, bodies[k].kinds, bodies[k].body)
		}
		all = append(all, policy.Document{File: fmt.Sprintf("p%d.yaml", i), Content: []byte(text)})
	}
	return all
}

// fleet is n objects, two of five with Pods.
func fleet(n int) string {
	var b strings.Builder
	for i := range n {
		if b.Len() > 0 {
			b.WriteString("\n---\n")
		}
		meta := fmt.Sprintf("metadata: {name: o%d, namespace: n%d, labels: {team: a, app.kubernetes.io/name: x, app.kubernetes.io/part-of: shop}}\n", i, i%50)
		switch i % 5 {
		case 0, 1:
			fmt.Fprintf(&b, "apiVersion: apps/v1\nkind: Deployment\n%sspec: {replicas: 2, selector: {matchLabels: {app: x}}, template: {metadata: {labels: {app: x}}, spec: {securityContext: {runAsNonRoot: true}, containers: [{name: a, image: \"example.org/team/a:1.2.3\", ports: [{containerPort: 8080}], env: [{name: A, value: b}, {name: C, value: d}], resources: {limits: {memory: 64Mi, cpu: 100m}, requests: {memory: 64Mi, cpu: 100m}}, readinessProbe: {httpGet: {path: /, port: 8080}}}, {name: b, image: \"example.org/team/b:1.2.3\", resources: {limits: {memory: 64Mi, cpu: 100m}}}]}}}\n", meta)
		case 2:
			fmt.Fprintf(&b, "apiVersion: v1\nkind: Service\n%sspec: {type: ClusterIP, selector: {app: x}, ports: [{port: 80, targetPort: 8080}]}\n", meta)
		default:
			fmt.Fprintf(&b, "apiVersion: v1\nkind: ConfigMap\n%sdata: {a: b, c: d, e: |\n  many\n  lines\n  }\n", meta)
		}
	}
	return strings.ReplaceAll(b.String(), "e: |\n  many\n  lines\n  }", "e: many lines}")
}

// TestScale holds the bar: 5,000 objects against 50 policies in 15 s and 500 MiB.
// HOLDFAST_LONG judges all of them; otherwise it is a tenth of the objects. Time is that
// of the processors, shared out among two of them: other tests may run beside it.
func TestScale(t *testing.T) {
	n, bar := 500, 3*time.Second
	if os.Getenv("HOLDFAST_LONG") != "" {
		n, bar = 5000, 15*time.Second
	}
	o := judge.KyvernoOptions("")
	o.Command, o.Size, o.Deadline = nil, 1, 5*time.Minute // this program is its own worker; others run beside it
	j := pool(t, o)
	set := policy.Set{Name: "set", Documents: library(50)}
	c := policy.NewCase(objects(t, fleet(n)), kinds(), nil, nil)
	for _, what := range []string{"first", "again"} {
		_, before := child(t)
		start := time.Now()
		all, err := j.Judge(t.Context(), []policy.Set{set}, c, time.Unix(0, 0))
		took := time.Since(start)
		if err != nil {
			t.Fatal(err)
		}
		peak, after := child(t)
		cpu := after - before
		t.Logf("%s: %d objects, 50 policies: %s, of processors %s; resident %d MiB at most", what, n, took.Round(time.Millisecond), cpu, peak)
		if cpu/2 > bar {
			t.Errorf("it took %s of two processors; the bar is %s", cpu/2, bar)
		}
		if peak > 500 {
			t.Errorf("the worker had %d MiB; the bar is 500", peak)
		}
		if v := all[0].Verdicts; len(v) != 1 || v[0].Outcome != policy.Pass {
			t.Errorf("%d verdicts, such as %+v", len(v), v[0])
		}
	}
}

// child is the largest resident size in MiB of a child of this process, and the time of
// processors that it used.
func child(t *testing.T) (peak int, used time.Duration) {
	t.Helper()
	dirs, err := os.ReadDir("/proc")
	if err != nil {
		t.Skip("no /proc")
	}
	for _, d := range dirs {
		status, err := os.ReadFile("/proc/" + d.Name() + "/status")
		if err != nil || !strings.Contains(string(status), fmt.Sprintf("PPid:\t%d\n", os.Getpid())) {
			continue
		}
		for line := range strings.Lines(string(status)) {
			var kb int
			if _, err := fmt.Sscanf(line, "VmHWM: %d kB", &kb); err == nil {
				peak = kb >> 10
			}
		}
		stat, err := os.ReadFile("/proc/" + d.Name() + "/stat")
		if err != nil {
			continue
		}
		_, rest, _ := strings.Cut(string(stat), ") ")
		if f := strings.Fields(rest); len(f) > 12 {
			user, _ := strconv.Atoi(f[11])
			system, _ := strconv.Atoi(f[12])
			used = time.Duration(user+system) * 10 * time.Millisecond
		}
	}
	return peak, used
}

// BenchmarkJudge judges without a worker, for profiles.
func BenchmarkJudge(b *testing.B) {
	c := policy.NewCase(objects(b, fleet(500)), kinds(), nil, nil)
	p, _, flaws, err := engine.New().Compile(b.Context(), library(50))
	if err != nil || len(flaws) > 0 {
		b.Fatal(flaws, err)
	}
	for b.Loop() {
		if found, err := p.Judge(b.Context(), c); err != nil || len(found.List)+len(found.Flaws) > 0 {
			b.Fatal(found.List, found.Flaws, err)
		}
	}
}
