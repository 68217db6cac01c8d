package builtin

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/policy"
	"github.com/holdfastcd/holdfast/internal/schema"
	"github.com/holdfastcd/holdfast/test/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

// caseOf makes a case of YAML documents, as it comes out of a worker's pipe.
func caseOf(t testing.TB, text string) *policy.Case {
	t.Helper()
	var objects []object.Object
	for i, document := range strings.Split(text, "\n---\n") {
		o := object.Object{Origin: object.Origin{File: "objects.yaml", Line: i + 1}}
		if err := yaml.Unmarshal([]byte(document), &o.Object); err != nil {
			t.Fatalf("%s: %v", document, err)
		}
		if o.Object != nil {
			objects = append(objects, o)
		}
	}
	return piped(t, policy.NewCase(objects, schema.Builtin(), nil, nil))
}

// piped is a case after a worker has read it.
func piped(t testing.TB, c *policy.Case) *policy.Case {
	t.Helper()
	sent, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	read := new(policy.Case)
	if err := json.Unmarshal(sent, read); err != nil {
		t.Fatal(err)
	}
	return read
}

// compiled compiles one policy, with parameters in YAML.
func compiled(t testing.TB, name, parameters string) policy.Program {
	t.Helper()
	p, flaws := Compile([]policy.Builtin{{Name: name, Parameters: raw(t, parameters)}})
	if len(flaws) > 0 {
		t.Fatalf("%s: %v", name, flaws)
	}
	return p
}

func raw(t testing.TB, parameters string) json.RawMessage {
	t.Helper()
	if parameters == "" {
		return nil
	}
	text, err := yaml.YAMLToJSON([]byte(parameters))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// judged is what a program finds in a case, which it can judge.
func judged(t testing.TB, p policy.Program, c *policy.Case) policy.Findings {
	t.Helper()
	found, err := p.Judge(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	if len(found.Flaws) > 0 {
		t.Fatalf("it could not be judged: %v", found.Flaws)
	}
	names := Names()
	for _, f := range found.List {
		about := slices.IndexFunc(names, func(a About) bool { return a.Name == f.Policy })
		if about < 0 || f.Severity != names[about].Severity || f.Reference != names[about].Reference || f.Message == "" || f.Path == "" {
			t.Errorf("a finding lacks what people need: %+v", f)
		}
		if c.Subjects[f.Subject].Of != nil {
			t.Errorf("a finding is about a Pod that nobody delivered: %+v", f)
		}
	}
	return found
}

// told renders findings as kind/name: rule path.
func told(c *policy.Case, found policy.Findings) []string {
	lines := []string{}
	for _, f := range found.List {
		id := c.Subjects[f.Subject].ID()
		line := fmt.Sprintf("%s/%s: %s %s", id.Kind, id.Name, f.Rule, f.Path)
		lines = append(lines, strings.ReplaceAll(line, ":  ", ": "))
	}
	slices.Sort(lines)
	return lines
}
