package rego

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
	"sigs.k8s.io/yaml"

	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/policy"
	"github.com/holdfastcd/holdfast/internal/policy/judge"
	"github.com/holdfastcd/holdfast/internal/schema"
	"github.com/holdfastcd/holdfast/internal/worker"
)

var update = flag.Bool("update", false, "write what is found into testdata")

// TestMain makes the test binary the worker of the tests.
func TestMain(m *testing.M) {
	worker.RunIfWorker(map[string]worker.Handler{
		judge.Kind: judge.NewBench([]policy.Engine{Engine{}}, nil, nil).Handler,
		impatient:  judge.NewBench([]policy.Engine{Engine{Limit: 1500 * time.Millisecond}}, nil, nil).Handler,
	})
	os.Exit(m.Run())
}

// impatient is judging with less time.
const impatient = "judging in a hurry"

// hurry is a pool whose workers have less time.
type hurry struct{ *worker.Pool }

func (p hurry) Do(ctx context.Context, _ string, payload []byte, files worker.Files) ([]byte, error) {
	return p.Pool.Do(ctx, impatient, payload, files)
}

// readObjects reads objects of a file with several documents.
func readObjects(tb testing.TB, text []byte) []object.Object {
	tb.Helper()
	var all []object.Object
	for _, c := range chunks(policy.Document{File: "objects.yaml", Content: text}) {
		var o object.Object
		if err := yaml.Unmarshal(c.text, &o.Object); err != nil {
			tb.Fatal(err)
		}
		if o.Object != nil {
			o.Origin = object.Origin{File: "objects.yaml", Line: c.base + 1}
			all = append(all, o)
		}
	}
	return all
}

// newCase puts objects before policies as a worker does: out of JSON.
func newCase(tb testing.TB, objects, live []object.Object) *policy.Case {
	tb.Helper()
	c := policy.NewCase(objects, schema.Builtin(), nil, func(id object.ID) map[string]any {
		for i := range live {
			if live[i].ID() == id {
				return live[i].Object
			}
		}
		return nil
	})
	text, err := json.Marshal(c)
	if err != nil {
		tb.Fatal(err)
	}
	var read policy.Case
	if err := json.Unmarshal(text, &read); err != nil {
		tb.Fatal(err)
	}
	return &read
}

// told writes what is found, one line each.
func told(c *policy.Case, found policy.Findings, flaws []policy.Flaw) string {
	var b strings.Builder
	for _, f := range append(flaws, found.Flaws...) {
		fmt.Fprintf(&b, "flaw %s\n", f)
	}
	for _, f := range found.List {
		word, more := "deny", ""
		if f.Warn {
			word = "warn"
		}
		if f.Severity != "" {
			more += " [" + f.Severity + "]"
		}
		if f.Reference != "" {
			more += " <" + f.Reference + ">"
		}
		s := c.Subjects[f.Subject]
		if s.Of != nil {
			more += fmt.Sprintf(" (the pod of %s)", c.Subjects[*s.Of].ID().Kind)
		}
		fmt.Fprintf(&b, "%s %s/%s %s %s:%d: %s%s\n", word, f.Policy, f.Rule, s.ID(), f.File, f.Line, f.Message, more)
	}
	return b.String()
}

// TestCases judges what stands in testdata: the comment is the reason for the verdict, in
// want. Files with the name of one of these are no policies: objects.yaml (what is
// delivered), live.yaml (what is in the cluster), delivery.json.
func TestCases(t *testing.T) {
	files, err := filepath.Glob("testdata/*/*.txtar")
	if err != nil || len(files) < 30 {
		t.Fatalf("%d cases: %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.ToSlash(file[len("testdata/"):]), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if len(bytes.TrimSpace(archive.Comment)) == 0 {
				t.Error("there is no reason")
			}
			got := judgeArchive(t, archive)
			want := &archive.Files[len(archive.Files)-1]
			if want.Name != "want" {
				t.Fatal("the last file is not want")
			}
			if *update {
				want.Data = []byte(got)
				if err := os.WriteFile(file, txtar.Format(archive), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if diff := cmp.Diff(string(want.Data), got); diff != "" {
				t.Errorf("%s\nwant, got:\n%s", bytes.TrimSpace(archive.Comment), diff)
			}
		})
	}
}

func judgeArchive(t *testing.T, archive *txtar.Archive) string {
	t.Helper()
	var documents []policy.Document
	var objects, live []object.Object
	var delivery policy.Delivery
	for _, f := range archive.Files {
		switch f.Name {
		case "objects.yaml":
			objects = readObjects(t, f.Data)
		case "live.yaml":
			live = readObjects(t, f.Data)
		case "delivery.json":
			if err := json.Unmarshal(f.Data, &delivery); err != nil {
				t.Fatal(err)
			}
		case "want":
		default:
			documents = append(documents, policy.Document{File: f.Name, Content: f.Data})
		}
	}
	c := newCase(t, objects, live)
	c.Delivery = delivery
	program, _, flaws, err := Engine{}.Compile(t.Context(), documents)
	if err != nil {
		t.Fatal(err)
	}
	var found policy.Findings
	if program != nil {
		if found, err = program.Judge(t.Context(), c); err != nil {
			return "error " + err.Error() + "\n"
		}
	}
	return told(c, found, flaws)
}
