package rego

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/holdfastcd/holdfast/internal/policy"
	"github.com/holdfastcd/holdfast/internal/policy/judge"
	"github.com/holdfastcd/holdfast/internal/worker"
)

// manyObjects returns n objects of six kinds, of usual size.
func manyObjects(tb testing.TB, n int) []byte {
	tb.Helper()
	var b strings.Builder
	for i := range n {
		switch i % 6 {
		case 0, 1, 2:
			kind := []string{"Deployment", "StatefulSet", "DaemonSet"}[i%6]
			fmt.Fprintf(&b, `---
{apiVersion: apps/v1, kind: %s, metadata: {name: w%d, namespace: ns%d, labels: {app: w%[2]d, team: t%d}, annotations: {example.com/owner: "team %[4]d"}},
spec: {replicas: %[4]d, selector: {matchLabels: {app: w%[2]d}}, template: {metadata: {labels: {app: w%[2]d}}, spec: {serviceAccountName: w%[2]d, securityContext: {runAsNonRoot: true},
containers: [{name: main, image: "registry.example/w%[2]d:1.%[4]d", args: [--port=8080, --verbose], env: [{name: MODE, value: fast}, {name: HOST, valueFrom: {fieldRef: {fieldPath: status.hostIP}}}],
ports: [{containerPort: 8080, name: http}], resources: {requests: {cpu: 100m, memory: 64Mi}, limits: {memory: 128Mi}}, readinessProbe: {httpGet: {path: /ready, port: http}},
securityContext: {allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {drop: [ALL]}}, volumeMounts: [{name: tmp, mountPath: /tmp}]},
{name: side, image: "registry.example/side:2", resources: {limits: {memory: 16Mi}}, securityContext: {allowPrivilegeEscalation: false}}], volumes: [{name: tmp, emptyDir: {}}]}}}}
`, kind, i, i%40, i%7)
		case 3:
			fmt.Fprintf(&b, "---\n{apiVersion: v1, kind: Service, metadata: {name: s%d, namespace: ns%d, labels: {app: w%[1]d}}, spec: {type: ClusterIP, selector: {app: w%[1]d}, ports: [{port: 80, targetPort: http, name: http}]}}\n", i, i%40)
		case 4:
			fmt.Fprintf(&b, "---\n{apiVersion: v1, kind: ConfigMap, metadata: {name: c%d, namespace: ns%d}, data: {a: \"1\", b: \"2\", config.yaml: \"listen: :8080\\nmode: fast\\n\"}}\n", i, i%40)
		case 5:
			fmt.Fprintf(&b, "---\n{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: i%d, namespace: ns%d}, spec: {rules: [{host: h%[1]d.example.com, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: s%[1]d, port: {name: http}}}}]}}]}}\n", i, i%40)
		}
	}
	return []byte(b.String())
}

// shared is what the policies of the benchmark import.
const shared = `package lib.kube

containers contains c if some c in input.spec.containers

containers contains c if some c in input.spec.template.spec.containers

reviewed contains c if some c in input.request.object.spec.containers
`

// manyPlain returns n policies, each in a package of its own, in equal parts on objects
// and on requests.
func manyPlain(n int) []policy.Document {
	kinds := []string{"Pod", "Deployment", "Service", "Ingress"}
	documents := []policy.Document{{File: "lib.rego", Content: []byte(shared)}}
	for i := range n {
		text := fmt.Sprintf(`package p%d

import data.lib.kube

deny contains msg if {
	some c in kube.containers
	not c.resources.limits.memory
	msg := sprintf("%%s: container %%s has no limit %d", [input.metadata.name, c.name])
}

deny_name contains msg if {
	regex.match("^forbidden-%[1]d", input.metadata.name)
	msg := "the name is forbidden"
}

deny_labels contains msg if {
	missing := {"app"} - object.keys(input.spec.selector.matchLabels)
	count(missing) > 0
	msg := sprintf("missing %%v", [missing])
}
`, i, i)
		if i%2 == 1 {
			text = fmt.Sprintf(`package p%d

import data.lib.kube

deny contains msg if {
	input.request.kind.kind == "%s"
	some c in kube.reviewed
	endswith(c.image, ":latest%[1]d")
	msg := sprintf("%%s is latest", [c.image])
}

deny contains msg if {
	input.request.operation in {"CREATE", "UPDATE"}
	startswith(input.request.namespace, "kube-%[1]d")
	msg := "not there"
}
`, i, kinds[i/2%len(kinds)])
		}
		documents = append(documents, policy.Document{File: fmt.Sprintf("p%d.rego", i), Content: []byte(text)})
	}
	return documents
}

// manyTemplates returns n templates with a constraint each, every one for all objects.
func manyTemplates(n int) []policy.Document {
	var documents []policy.Document
	for i := range n {
		documents = append(documents, policy.Document{File: fmt.Sprintf("t%d.yaml", i), Content: fmt.Appendf(nil, `apiVersion: templates.gatekeeper.sh/v1
kind: ConstraintTemplate
metadata: {name: rule%d}
spec:
  crd: {spec: {names: {kind: Rule%[1]d}, validation: {openAPIV3Schema: {type: object, properties: {image: {type: string}}}}}}
  targets:
  - target: admission.k8s.gatekeeper.sh
    rego: |
      package rule%[1]d

      violation[{"msg": msg}] {
        c := containers[_]
        startswith(c.image, input.parameters.image)
        msg := sprintf("%%v: image %%v", [input.review.name, c.image])
      }

      containers[c] { c := input.review.object.spec.containers[_] }

      containers[c] { c := input.review.object.spec.initContainers[_] }
---
apiVersion: constraints.gatekeeper.sh/v1beta1
kind: Rule%[1]d
metadata: {name: c}
spec: {parameters: {image: "bad%[1]d/"}}
`, i)})
	}
	return documents
}

// TestSpeed has many policies judge many objects in a worker: a few of the objects that
// are promised, or all of them with HOLDFAST_LONG.
func TestSpeed(t *testing.T) {
	objects, bar := 200/raceFactor, 15*time.Second // others may have the machine
	if os.Getenv("HOLDFAST_LONG") != "" {
		objects, bar = 5000, 5*time.Second
	}
	c := newCase(t, readObjects(t, manyObjects(t, objects)), nil)
	text, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	for name, documents := range map[string][]policy.Document{"plain": manyPlain(50), "templates": manyTemplates(50)} {
		pool := worker.NewPool(worker.Options{Size: 1, MemoryLimit: memoryFactor * 400 << 20, KeepMemory: 1 << 30})
		defer pool.Close()
		j := judge.New(pool, nil, "")
		set := policy.Set{Name: "s", Documents: documents}
		for _, state := range []string{"cold", "warm"} {
			start := time.Now()
			decisions, err := j.Judge(t.Context(), []policy.Set{set}, c, start)
			took := time.Since(start)
			if err != nil {
				t.Fatal(err)
			}
			if first := decisions[0].Verdicts[0]; strings.Contains(first.Rule, "policies/") {
				t.Fatal(first.Message)
			}
			t.Logf("%s, %s: %d objects (%d subjects, %d MiB of JSON), %d documents: %s, %d verdicts", name, state, objects, len(c.Subjects), len(text)>>20, len(documents), took.Round(time.Millisecond), len(decisions[0].Verdicts))
			if took > bar*raceFactor {
				t.Errorf("%s, %s: it took %s", name, state, took)
			}
		}
	}
}

func BenchmarkJudge(b *testing.B) {
	c := newCase(b, readObjects(b, manyObjects(b, 500)), nil)
	for name, documents := range map[string][]policy.Document{"plain": manyPlain(50), "templates": manyTemplates(50)} {
		b.Run(name, func(b *testing.B) {
			program, _, flaws, err := Engine{}.Compile(b.Context(), documents)
			if err != nil || len(flaws) > 0 {
				b.Fatal(flaws, err)
			}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := program.Judge(b.Context(), c); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("compile", func(b *testing.B) {
		documents := manyPlain(50)
		for b.Loop() {
			if _, _, _, err := (Engine{}).Compile(b.Context(), documents); err != nil {
				b.Fatal(err)
			}
		}
	})
}
