package cel_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfastcd/holdfast/internal/policy"
	"github.com/holdfastcd/holdfast/internal/policy/cel"
)

const simple = `
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: simple}
spec:
  paramKind: {apiVersion: v1, kind: ConfigMap}
  matchConstraints:
    resourceRules: [{apiGroups: [""], apiVersions: [v1], operations: ["*"], resources: [configmaps]}]
  validations: [{expression: "object.data.size() < int(params.data.max)"}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: simple}
spec:
  policyName: simple
  validationActions: [Deny]
  paramRef: {name: limits, namespace: default, parameterNotFoundAction: Deny}
`

func TestClaimed(t *testing.T) {
	documents := []policy.Document{
		{File: "simple.yaml", Content: []byte(simple)},
		{File: "simple.json", Content: []byte(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"limits","namespace":"default"},"data":{"max":"3"}}`)},
		{File: "other.yaml", Content: []byte("apiVersion: v1\nkind: Service\nmetadata: {name: s}\n")},
		{File: "kyverno.yaml", Content: []byte("apiVersion: policies.kyverno.io/v1\nkind: ValidatingPolicy\nmetadata: {name: s} # not admissionregistration.k8s.io\n")},
		{File: "rules.rego", Content: []byte("package a\n# kind: ValidatingAdmissionPolicy of admissionregistration.k8s.io, kind: ConfigMap\n")},
		{File: "README.md", Content: []byte("```yaml" + simple + "```")},
		{File: "broken.yaml", Content: []byte("a: [")},
		{File: "template.yaml", Content: []byte("kind: Deployment\nspec: {{ .Values.spec }}")},
	}
	program, claimed, flaws, err := cel.Engine{}.Compile(t.Context(), documents)
	if err != nil || program == nil || len(flaws) > 0 {
		t.Fatal(program, flaws, err)
	}
	want := []bool{true, true, false, false, false, false, false, false}
	if diff := cmp.Diff(want, claimed); diff != "" {
		t.Errorf("policies, bindings and their parameters are claimed, and nothing else: (-want +got):\n%s", diff)
	}
}

func TestNothing(t *testing.T) {
	program, claimed, flaws, err := cel.Engine{}.Compile(t.Context(), []policy.Document{{File: "a.yaml", Content: []byte("kind: Service\n")}})
	if program != nil || len(claimed) != 1 || claimed[0] || len(flaws) > 0 || err != nil {
		t.Error("documents of other languages are left to others", program, claimed, flaws, err)
	}
}

func TestFlawsOfFiles(t *testing.T) {
	tests := map[string]struct{ reason, content, want string }{
		"long": {"a file has a bound", simple + strings.Repeat("#\n", 2<<20), "a.yaml: the file is longer than 3 MiB"},
		"deep": {"nesting has a bound", simple + "---\na: " + strings.Repeat("[", 200) + strings.Repeat("]", 200), "nests deeper than 100 levels"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			_, _, flaws, err := cel.Engine{}.Compile(t.Context(), []policy.Document{{File: "a.yaml", Content: []byte(tc.content)}})
			if err != nil {
				t.Fatal(err)
			}
			if len(flaws) != 1 || !strings.Contains(flaws[0].String(), tc.want) {
				t.Errorf("%s: %v", tc.reason, flaws)
			}
		})
	}
}

func TestUnreadableParameters(t *testing.T) {
	_, _, flaws, err := cel.Engine{}.Compile(t.Context(), []policy.Document{
		{File: "simple.yaml", Content: []byte(simple)}, {File: "limits.yaml", Content: []byte("kind: ConfigMap\ndata: {\n")},
	})
	if err != nil || len(flaws) != 1 || flaws[0].File != "limits.yaml" {
		t.Errorf("a file that may hold parameters must be readable: %v, %v", flaws, err)
	}
}

func TestCancelled(t *testing.T) {
	program, _, _, err := cel.Engine{}.Compile(t.Context(), manyPolicies(5))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, _, err := (cel.Engine{}).Compile(ctx, manyPolicies(5)); !errors.Is(err, context.Canceled) {
		t.Errorf("compiling goes on: %v", err)
	}
	if _, err := program.Judge(ctx, manyObjects(5)); !errors.Is(err, context.Canceled) {
		t.Errorf("judging goes on: %v", err)
	}
}

// TestOrder has many findings, from several processors: they come in the order of the
// subjects, and the same each time; the case is not changed.
func TestOrder(t *testing.T) {
	documents := manyPolicies(12)
	for i := range documents {
		documents[i].Content = []byte(strings.ReplaceAll(string(documents[i].Content), "debug", "log"))
	}
	program, _, _, err := cel.Engine{}.Compile(t.Context(), documents)
	if err != nil {
		t.Fatal(err)
	}
	c, same := manyObjects(200), manyObjects(200)
	first, err := program.Judge(t.Context(), c)
	if err != nil || len(first.List) != 200 {
		t.Fatal(len(first.List), err)
	}
	for i, f := range first.List {
		if f.Subject != i {
			t.Fatalf("finding %d is about subject %d", i, f.Subject)
		}
	}
	again, err := program.Judge(t.Context(), c)
	if diff := cmp.Diff(first, again); err != nil || diff != "" {
		t.Error(err, diff)
	}
	if diff := cmp.Diff(same, c); diff != "" {
		t.Errorf("the case was changed: %s", diff)
	}
}

// FuzzCompile has the engine read anything: it must not fail, and say of every flaw
// where it is.
func FuzzCompile(f *testing.F) {
	for _, s := range stories(f) {
		for _, d := range s.documents {
			f.Add(d.Content)
		}
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		c := manyObjects(1)
		program, claimed, flaws, err := cel.Engine{}.Compile(t.Context(), []policy.Document{{File: "a.yaml", Content: content}})
		if err != nil || len(claimed) != 1 {
			t.Fatal(claimed, err)
		}
		for _, flaw := range flaws {
			if flaw.File == "" || flaw.Message == "" || strings.Contains(flaw.Message, "\n") {
				t.Errorf("%+v", flaw)
			}
		}
		if program == nil {
			return
		}
		if _, err := program.Judge(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	})
}
