package rego

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/holdfastcd/holdfast/internal/policy"
)

// TestAgainstOPA asks OPA itself, one query for each rule and object as conftest does it,
// and compares what it says with what is found here.
func TestAgainstOPA(t *testing.T) {
	files, err := filepath.Glob("testdata/conftest/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	compared := 0
	for _, file := range files {
		archive, err := txtar.ParseFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var documents []policy.Document
		var c *policy.Case
		special := false
		for _, f := range archive.Files {
			switch {
			case f.Name == "objects.yaml":
				c = newCase(t, readObjects(t, f.Data), nil)
			case f.Name == "delivery.json", strings.Contains(f.Name, "data."), strings.Contains(string(f.Data), exception):
				special = true // what conftest does around OPA, and what is ours
			case strings.HasSuffix(f.Name, ".rego") && !strings.HasSuffix(f.Name, "_test.rego"):
				documents = append(documents, policy.Document{File: f.Name, Content: f.Data})
			}
		}
		if special {
			continue
		}
		compared++
		program, _, flaws, err := Engine{}.Compile(t.Context(), documents)
		if err != nil || len(flaws) > 0 {
			t.Fatal(flaws, err)
		}
		found, err := program.Judge(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, f := range found.List {
			got = append(got, f.Policy+"/"+f.Rule+" "+f.Message)
		}
		slices.Sort(got)
		if diff := cmp.Diff(byOPA(t, documents, c), slices.Compact(got)); diff != "" {
			t.Errorf("%s: OPA, Holdfast:\n%s", file, diff)
		}
	}
	if compared < 10 {
		t.Errorf("only %d cases compared", compared)
	}
}

// byOPA returns the messages of all rules on all objects.
func byOPA(t *testing.T, documents []policy.Document, c *policy.Case) []string {
	t.Helper()
	options := []func(*rego.Rego){}
	var queries []string
	for _, d := range documents {
		module, flaw := parseModule(d.File, string(d.Content))
		if flaw != nil {
			t.Fatal(flaw)
		}
		options = append(options, rego.ParsedModule(module))
		for _, r := range module.Rules {
			if name, ok := askedName(r); ok {
				queries = append(queries, strings.TrimPrefix(module.Package.Path.String(), "data.")+"/"+name)
			}
		}
	}
	var all []string
	for _, q := range queries {
		for _, s := range c.Subjects {
			text := "data." + strings.ReplaceAll(q, "/", ".")
			results, err := rego.New(append(options, rego.Query(text), rego.Input(s.Object), rego.SetRegoVersion(ast.RegoV1))...).Eval(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, result := range results {
				for _, item := range result.Expressions[0].Value.([]any) {
					switch item := item.(type) {
					case string:
						all = append(all, q+" "+item)
					case map[string]any:
						all = append(all, q+" "+item["msg"].(string))
					}
				}
			}
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}
