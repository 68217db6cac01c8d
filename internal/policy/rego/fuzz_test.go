package rego

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/txtar"

	"github.com/holdfastcd/holdfast/internal/policy"
)

// FuzzCompile reads any documents: as Rego, as data, as Gatekeeper's. What is claimed is a
// program or a flaw, and neither panics; a program judges an object.
func FuzzCompile(f *testing.F) {
	files, err := filepath.Glob("testdata/*/*.txtar")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		archive, err := txtar.ParseFile(file)
		if err != nil {
			f.Fatal(err)
		}
		for _, entry := range archive.Files {
			f.Add(entry.Name, string(entry.Data))
		}
	}
	f.Add("a.yaml", "kind: List\nitems: [{apiVersion: templates.gatekeeper.sh/v1}]\n---\n&a [*a]\n")
	f.Fuzz(func(t *testing.T, name, text string) {
		if len(text) > 4096 || strings.Contains(text, "range") {
			return // what takes long is stopped by other means
		}
		documents := []policy.Document{{File: "lib.rego", Content: []byte("package lib.a\n\nx := 1\n")}, {File: name, Content: []byte(text)}}
		program, claimed, flaws, err := Engine{Limit: time.Second}.Compile(t.Context(), documents)
		if err != nil || len(claimed) != 2 {
			t.Fatal(claimed, err)
		}
		if claimed[1] && program == nil && len(flaws) == 0 {
			t.Error("claimed, and nothing is said of it")
		}
		if program == nil {
			return
		}
		var c policy.Case
		if err := json.Unmarshal([]byte(`{"subjects": [{"object": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "namespace": "b"}, "spec": {"containers": [{"image": "a"}]}}, "resource": "pods", "namespaced": true}]}`), &c); err != nil {
			t.Fatal(err)
		}
		if _, err := program.Judge(t.Context(), &c); err != nil && !strings.Contains(err.Error(), "too") {
			t.Error(err)
		}
	})
}
