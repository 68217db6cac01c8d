package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/policy"
	"github.com/holdfastcd/holdfast/internal/policy/judge"
	"github.com/holdfastcd/holdfast/internal/schema"
	"github.com/holdfastcd/holdfast/internal/worker"
)

// byHand has the test be the program, as somebody at a terminal runs it.
const byHand = "HOLDFAST_TEST_BY_HAND"

// TestMain lets the test be its own worker: the same handlers, in the same cage.
func TestMain(m *testing.M) {
	if os.Getenv(byHand) != "" {
		main()
	}
	worker.RunIfWorker(handlers())
	os.Exit(m.Run())
}

// nobody is the pool of Holdfast's own engines: none of them is for these documents.
type nobody struct{ worker *judge.Bench }

func (n nobody) Do(_ context.Context, _ string, payload []byte, files worker.Files) ([]byte, error) {
	return n.worker.Handler(payload, files)
}

// pool starts workers as Holdfast does.
func pool(t testing.TB, o worker.Options) *judge.Judge {
	t.Helper()
	p := worker.NewPool(o)
	t.Cleanup(p.Close)
	return judge.New(nobody{judge.NewBench(nil, nil, judge.IsKyverno)}, p, "")
}

func objects(t testing.TB, text string) []object.Object {
	t.Helper()
	var all []object.Object
	for doc := range strings.SplitSeq(text, "\n---\n") {
		var o map[string]any
		if err := yaml.Unmarshal([]byte(doc), &o); err != nil {
			t.Fatal(err)
		}
		all = append(all, object.Object{Unstructured: unstructured.Unstructured{Object: o}})
	}
	return all
}

// kinds are those that the tests use.
func kinds() schema.Kinds { return schema.Builtin() }

func decide(t testing.TB, j *judge.Judge, policies, delivered string) []string {
	t.Helper()
	set := policy.Set{Name: "set", Documents: []policy.Document{{File: "policy.yaml", Content: []byte(policies)}}}
	c := policy.NewCase(objects(t, delivered), kinds(), nil, nil)
	all, err := j.Judge(t.Context(), []policy.Set{set}, c, time.Unix(0, 0))
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, v := range all[0].Verdicts {
		lines = append(lines, strings.TrimSpace(fmt.Sprintf("%s %s %s: %s", v.Outcome, v.Rule, v.Object, v.Message)))
	}
	return lines
}

// guide is the policy that the guides of GitOps show, letter by letter.
const guide = `# Kyverno policy: require all Pods to have resource limits
apiVersion: kyverno.io/v1
kind: ClusterPolicy
metadata:
  name: require-resource-limits
spec:
  validationFailureAction: Enforce
  rules:
  - name: check-container-limits
    match:
      resources:
        kinds: [Pod]
    validate:
      message: "All containers must have resource limits."
      pattern:
        spec:
          containers:
          - resources:
              limits:
                memory: "?*"
                cpu: "?*"
`

const deployment = `apiVersion: apps/v1
kind: Deployment
metadata: {name: %s, namespace: shop}
spec:
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: web
        image: example.org/web:1.2.3
        resources: {limits: {memory: 64Mi%s}}
`

// TestCaged has a worker judge as Holdfast starts it: without files, network and
// environment.
func TestCaged(t *testing.T) {
	j := pool(t, worker.Options{Size: 1})
	want := "fail require-resource-limits/autogen-check-container-limits Deployment.apps/shop/bad: validation error: All containers must have resource limits. rule autogen-check-container-limits failed at path /spec/template/spec/containers/0/resources/limits/cpu/"
	for _, what := range []string{"a new worker", "one that is there"} {
		start := time.Now()
		got := decide(t, j, guide, fmt.Sprintf(deployment, "good", ", cpu: 100m")+"---\n"+fmt.Sprintf(deployment, "bad", ""))
		peak, used := child(t)
		t.Logf("%s: %s, %s of processors so far, resident %d MiB at most", what, time.Since(start).Round(time.Millisecond), used, peak)
		if len(got) != 1 || got[0] != want {
			t.Errorf("got %q", got)
		}
	}
}

// TestByHand: whoever runs the program is told what it is.
func TestByHand(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program := exec.CommandContext(t.Context(), self)
	program.Env = []string{byHand + "=yes"}
	out, err := program.CombinedOutput()
	if code := exitCode(err); code != 2 || !strings.Contains(string(out), judge.EnvKyverno) {
		t.Errorf("exit %d, and it says %q", code, out)
	}
}

func exitCode(err error) int {
	if e, ok := err.(*exec.ExitError); ok { //nolint:errorlint // it is not wrapped
		return e.ExitCode()
	}
	return 0
}

// elements is a list of n strings, as JMESPath writes it.
func elements(n int) string { return "[" + strings.TrimSuffix(strings.Repeat("'a',", n), ",") + "]" }

// TestHostile: a policy, or an object, that takes more than its share ends its worker and
// is refused; the next job finds a new one.
func TestHostile(t *testing.T) {
	const classic = "apiVersion: kyverno.io/v1\nkind: ClusterPolicy\nmetadata: {name: hostile}\nspec:\n  validationFailureAction: Enforce\n  background: false\n  rules:\n  - name: r\n    match: {any: [{resources: {kinds: [ConfigMap]}}]}\n"
	grow := "    context:\n    - {name: v0, variable: {value: aaaaaaaaaaaaaaaa}}\n"
	for i := range 40 {
		grow += fmt.Sprintf("    - {name: v%d, variable: {jmesPath: \"join('', [v%d, v%d])\"}}\n", i+1, i, i)
	}
	double := "'aaaaaaaaaaaaaaaa'" + strings.Repeat(" | join('', [@, @])", 40)
	loops := "foreach: [{list: \"" + elements(100) + "\", deny: {conditions: {any: [{key: a, operator: Equals, value: b}]}}}]"
	for range 4 {
		loops = "foreach: [{list: \"" + elements(100) + "\", " + loops + "}]"
	}
	list := strings.ReplaceAll(elements(100), "'a'", "1")
	for _, c := range []struct {
		name, policies, objects, want, reason string
	}{
		{
			"doubles", classic + "    validate: {message: x, deny: {conditions: {any: [{key: \"{{ length(" + double + ") }}\", operator: GreaterThan, value: 1}]}}}\n",
			"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, namespace: shop}\n", "fail", "an expression whose value doubles forty times: its worker is ended",
		},
		{
			"loops", classic + "    validate: {message: x, " + loops + "}\n",
			"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, namespace: shop}\n", "took longer", "loops in loops: its worker is ended",
		},
		{
			"grows", classic + grow + "    validate: {message: x, deny: {conditions: {any: [{key: \"{{ length(v40) }}\", operator: GreaterThan, value: 1}]}}}\n",
			"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, namespace: shop}\n", "context size limit exceeded", "variables that double forty times: Kyverno's own bound",
		},
		{
			"endless", "apiVersion: policies.kyverno.io/v1\nkind: ValidatingPolicy\nmetadata: {name: hostile}\nspec:\n  matchConstraints: {resourceRules: [{apiGroups: [\"\"], apiVersions: [v1], operations: [CREATE], resources: [configmaps]}]}\n" +
				"  variables: [{name: l, expression: \"" + list + "\"}]\n  validations: [{expression: \"variables.l.all(a, variables.l.all(b, variables.l.all(c, variables.l.all(d, variables.l.all(e, variables.l.all(f, a == 1))))))\"}]\n",
			"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, namespace: shop}\n", "cost limit exceeded", "a million million steps: Kyverno's own bound",
		},
		{
			"turns", classic + "    validate: {message: x, deny: {conditions: {any: [{key: \"{{ request.object.metadata.annotations.a }}\", operator: Equals, value: x}]}}}\n",
			"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, namespace: shop, annotations: {a: \"{{ request.object.metadata.annotations.a }}\"}}\n", "pass", "an object whose value is a variable that is itself: values are not read as variables",
		},
		{
			"deep", classic + "    validate: {pattern: " + strings.Repeat("{a: ", 20000) + "b" + strings.Repeat("}", 20000) + "}\n",
			"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, namespace: shop}\n", "max depth", "a pattern twenty thousand levels deep",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			j := pool(t, worker.Options{Size: 1, Deadline: 5 * time.Second, MemoryLimit: 256 << 20})
			start := time.Now()
			got := decide(t, j, c.policies, c.objects)
			t.Logf("%s: %.200s", time.Since(start).Round(time.Millisecond), got)
			if len(got) != 1 || !strings.Contains(got[0], c.want) || !strings.HasPrefix(got[0], "fail") && c.want != "pass" || len(got[0]) > 2000 {
				t.Errorf("%s: got %q", c.reason, got)
			}
			if got := decide(t, j, guide, c.objects); len(got) != 1 || !strings.HasPrefix(got[0], "pass") {
				t.Errorf("the next job: %q", got)
			}
		})
	}
}
