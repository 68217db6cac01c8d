package engine

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/yaml"

	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/policy"
	"github.com/holdfastcd/holdfast/internal/schema"
)

func objects(t testing.TB, text string) []object.Object {
	t.Helper()
	var all []object.Object
	for doc := range strings.SplitSeq(text, "---\n") {
		var o map[string]any
		if err := yaml.Unmarshal([]byte(doc), &o); err != nil {
			t.Fatal(err)
		}
		if o != nil {
			all = append(all, object.Object{Unstructured: unstructured.Unstructured{Object: o}})
		}
	}
	return all
}

// newCase is a delivery of objects, of which live are in the cluster already.
func newCase(t testing.TB, text, live string) *policy.Case {
	t.Helper()
	lived := map[object.ID]map[string]any{}
	for _, o := range objects(t, live) {
		lived[o.ID()] = o.Object
	}
	return policy.NewCase(objects(t, text), schema.Builtin(), nil, func(id object.ID) map[string]any { return lived[id] })
}

// verdicts compiles policies and returns what they find, a line each: fail or warn, the
// rule, the subject and the field; flaw and what it says.
func verdicts(t testing.TB, documents []policy.Document, c *policy.Case) (lines []string, found policy.Findings) {
	t.Helper()
	p, _, flaws, err := New().Compile(t.Context(), documents)
	if err != nil {
		t.Fatal(err)
	}
	if p != nil {
		if found, err = p.Judge(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range found.List {
		word := "fail"
		if f.Warn {
			word = "warn"
		}
		lines = append(lines, strings.TrimSpace(fmt.Sprintf("%s %s/%s %s %s", word, f.Policy, f.Rule, nameOf(c, f.Subject), f.Path)))
	}
	for _, f := range slices.Concat(flaws, found.Flaws) {
		if f.File == "" || f.Line == 0 {
			t.Errorf("a flaw without a place: %+v", f)
		}
		lines = append(lines, "flaw "+strings.Join(strings.Fields(f.String()), " "))
	}
	slices.Sort(lines)
	return lines, found
}

// TestCases are policies with the verdict that Kyverno's documentation gives. The comment
// of each file is its reason. Where nothing says why not, the library behind Kyverno's
// own command line comes to the same.
func TestCases(t *testing.T) {
	files, err := filepath.Glob("testdata/cases/*.txtar")
	if err != nil || len(files) < 30 {
		t.Fatalf("%d cases, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			a, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			part := map[string]string{}
			for _, f := range a.Files {
				part[f.Name] = string(f.Data)
			}
			documents := []policy.Document{{File: "policy.yaml", Content: []byte(part["policy"])}}
			c := newCase(t, part["objects"], part["live"])
			c.Delivery.Account = strings.TrimSpace(part["account"])
			got, found := verdicts(t, documents, c)
			want := strings.Split(strings.TrimSpace(part["want"]), "\n")
			if part["want"] == "" {
				want = nil
			}
			compare(t, got, want)
			for _, f := range found.List {
				if m := strings.TrimSpace(part["message"]); !strings.Contains(f.Message, m) {
					t.Errorf("the message is %q, without %q", f.Message, m)
				}
				if f.Severity != strings.TrimSpace(part["severity"]) || f.File != "policy.yaml" || f.Line == 0 {
					t.Errorf("severity or place: %+v", f)
				}
			}
			if part["cli"] == "" {
				if diff := cmp.Diff(byCLI(t, documents, c), rules(want)); diff != "" {
					t.Errorf("Kyverno's command line differs (-it +want):\n%s", diff)
				}
			}
			if t.Failed() {
				t.Logf("%s\n%s", a.Comment, strings.Join(got, "\n"))
			}
		})
	}
}

// compare takes flaws by what they contain, and everything else by the letter.
func compare(t *testing.T, got, want []string) {
	t.Helper()
	for _, w := range want {
		i := slices.IndexFunc(got, func(g string) bool {
			text, flaw := strings.CutPrefix(w, "flaw ")
			return g == w || flaw && strings.HasPrefix(g, "flaw ") && strings.Contains(g, text)
		})
		if i < 0 {
			t.Errorf("missing: %s", w)
			continue
		}
		got = slices.Delete(slices.Clone(got), i, i+1)
	}
	for _, g := range got {
		t.Errorf("unexpected: %s", g)
	}
}

// rules are the rules and subjects of findings.
func rules(lines []string) []string {
	var all []string
	for _, l := range lines {
		if f := strings.Fields(l); len(f) >= 3 && f[0] != "flaw" {
			all = append(all, f[1]+" "+f[2])
		}
	}
	slices.Sort(all)
	return all
}

// TestLines: findings and flaws name the line of their rule, also in the second document
// of a file.
func TestLines(t *testing.T) {
	text, err := os.ReadFile("testdata/lines.yaml")
	if err != nil {
		t.Fatal(err)
	}
	documents := []policy.Document{{File: "lines.yaml", Content: text}}
	c := newCase(t, "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a, namespace: shop}\nspec: {template: {spec: {containers: []}}}\n", "")
	p, claimed, flaws, err := New().Compile(t.Context(), documents)
	if err != nil || !claimed[0] {
		t.Fatal(claimed, err)
	}
	found, err := p.Judge(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	line := func(text string) int { return slices.Index(strings.Split(string(mustRead(t)), "\n"), text) + 1 }
	if len(flaws) != 1 || flaws[0].Line != line("  - name: changes") {
		t.Errorf("flaws: %+v", flaws)
	}
	got := map[string]int{}
	for _, f := range found.List {
		got[f.Policy+"/"+f.Rule] = f.Line
	}
	want := map[string]int{
		"first/autogen-labels":  line("  - name: labels"),
		"second/validations[1]": line("  - expression: has(object.metadata.labels)"),
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func mustRead(t *testing.T) []byte {
	t.Helper()
	text, err := os.ReadFile("testdata/lines.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// TestClaims: files of other engines are left alone, and so is what only looks like one.
func TestClaims(t *testing.T) {
	documents := []policy.Document{
		{File: "a.rego", Content: []byte("package kyverno.io/x\n")},
		{File: "b.yaml", Content: []byte("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n")},
		{File: "c.yaml", Content: []byte("apiVersion: admissionregistration.k8s.io/v1\nkind: ValidatingAdmissionPolicy\n")},
		{File: "d.json", Content: []byte(`{"apiVersion":"v1","kind":"List","items":[{"apiVersion":"kyverno.io/v1","kind":"ClusterPolicy","metadata":{"name":"x"},"spec":{"rules":[]}}]}`)},
		{File: "e.yaml", Content: []byte("apiVersion: kyverno.io/v1\n" + strings.Repeat("# a\n", maxDocument/4))},
	}
	p, claimed, flaws, err := New().Compile(t.Context(), documents)
	if err != nil || p != nil {
		t.Fatal(p, err)
	}
	var files []string
	for _, f := range flaws {
		files = append(files, f.File)
	}
	if diff := cmp.Diff([]bool{false, false, false, true, true}, claimed); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"e.yaml", "d.json"}, files); diff != "" {
		t.Error(diff)
	}
}

// TestHoldsNoLoggers: what Kyverno's engine makes to log with goes nowhere, and is not held.
func TestHoldsNoLoggers(t *testing.T) {
	New()
	if sink := log.Log.WithName("x").GetSink(); sink != (log.NullLogSink{}) {
		t.Errorf("a logger writes to a %T: it waits for a log, and holds what it was made with", sink)
	}
}

// TestField: paths are written as Kubernetes writes them.
func TestField(t *testing.T) {
	for pointer, want := range map[string]string{
		"/spec/containers/0/resources/limits/cpu/": "spec.containers[0].resources.limits.cpu",
		"/metadata/labels/":                        "metadata.labels",
		"/":                                        "",
	} {
		if got := field(pointer); got != want {
			t.Errorf("%s is %q", pointer, got)
		}
	}
}
