package render

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/tree"
	"github.com/holdfastcd/holdfast/internal/tree/treetest"
	"github.com/holdfastcd/holdfast/internal/worker"
)

// jsonnetArgument reads an argument of the corpus: extvar=name=value and so on.
func jsonnetArgument(req *Request, key, value string) bool {
	j := req.Jsonnet
	if j == nil {
		j = &Jsonnet{}
	}
	name, value, _ := strings.Cut(value, "=")
	switch key {
	case "extvar", "extcode":
		j.ExtVars = append(j.ExtVars, Variable{Name: name, Value: value, Code: key == "extcode"})
	case "tla", "tlacode":
		j.TLAs = append(j.TLAs, Variable{Name: name, Value: value, Code: key == "tlacode"})
	case "lib":
		j.Libraries = append(j.Libraries, name)
	default:
		return false
	}
	req.Jsonnet = j
	return true
}

// TestJsonnetLimits: a program that the interpreter does not stop ends its
// worker, or itself, and nothing else; the fault names its file.
func TestJsonnetLimits(t *testing.T) {
	r := newRenderer(t, worker.Options{Size: 1, Deadline: 5 * time.Second})
	good := files(t, "a/ok.jsonnet", `{apiVersion: "v1", kind: "ConfigMap", metadata: {name: "ok"}}`)
	tests := []struct {
		reason, program string
		msg             string
	}{
		{"a tail call without end", `local f(n) = if n < 0 then 0 else f(n + 1) tailstrict; f(0)`, "rendering "},
		{"a call without end", `local f(n) = 1 + f(n + 1); f(0)`, "recurses too deeply"},
		{"an object that holds itself", `local a = {b: a}; a`, ""},
		{"a large array", `std.makeArray(1000000000, function(i) i)`, ""},
		{"a long string", `std.repeat("x", 2000000000)`, ""},
		{"a string that doubles", `std.foldl(function(s, i) s + s, std.range(1, 40), "x")`, ""},
		{"a deep result", `std.foldl(function(v, i) [v], std.range(1, 20000), [])`, ""},
		{"a result just too deep", `{apiVersion: "v1", kind: "X", metadata: {name: "x"}, v: std.foldl(function(v, i) [v], std.range(1, 150), [])}`, "deeper than 100"},
		{"a deep program", strings.Repeat("[", 200_000) + strings.Repeat("]", 200_000), ""},
		{"many objects", `[{apiVersion: "v1", kind: "X", metadata: {name: "x"}} for i in std.range(1, 20001)]`, ""},
		{"a large file as numbers", `importbin "large.bin"`, ""},
		{"a file that is too large", `importstr "huge.bin"`, "the file has 10485760"},
	}
	for _, tt := range tests {
		t.Run(tt.reason, func(t *testing.T) {
			bad := treetest.FromFiles(map[string][]byte{
				"a/bad.jsonnet": []byte(tt.program), "a/large.bin": make([]byte, 8<<20), "a/huge.bin": make([]byte, 10<<20),
			})
			_, err := r.Render(t.Context(), Request{Path: "a"}, bad)
			f, ok := errors.AsType[*fault.Error](err)
			if !ok || f.Kind != fault.Limit || !strings.HasPrefix(f.File, "a/") || !strings.Contains(f.Msg, tt.msg) {
				t.Errorf("%v: %.300v", fault.KindOf(err), err)
			}
			if len(err.Error()) > 500 || strings.Contains(err.Error(), "goroutine") {
				t.Errorf("%d bytes of error", len(err.Error()))
			}
			result, err := r.Render(t.Context(), Request{Path: "a"}, good)
			if err != nil || len(result.Objects) != 1 {
				t.Errorf("the next rendering: %v", err)
			}
		})
	}
}

// TestJsonnetTrace: what a program imported, and where it looked in vain, is
// what its result depends on.
func TestJsonnetTrace(t *testing.T) {
	source := map[string][]byte{
		"app/a.jsonnet":        []byte(`local l = import "lib.libsonnet"; l.config("a") + {data: {t: importstr "t.txt"}}`),
		"app/t.txt":            []byte("text"),
		"vendor/lib.libsonnet": []byte(`{config(n):: {apiVersion: "v1", kind: "ConfigMap", metadata: {name: n}}}`),
		"app/other.libsonnet":  []byte(`error "nobody imports this"`),
	}
	req := Request{Path: "app", Tool: Plain, Jsonnet: &Jsonnet{Libraries: []string{"vendor"}}}
	result, err := newRenderer(t, worker.Options{}).Render(t.Context(), req, treetest.FromFiles(source))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, read := range result.Trace {
		if read.Op == tree.OpFile {
			got = append(got, read.Path)
		}
		if read.Op == tree.OpAbsent {
			got = append(got, "no "+read.Path)
		}
	}
	want := []string{"app/a.jsonnet", "no app/lib.libsonnet", "app/t.txt", "vendor/lib.libsonnet"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestJsonnetQuiet: what a program traces must not reach the pipe, nor a log.
func TestJsonnetQuiet(t *testing.T) {
	source := files(t, "a.jsonnet", `std.trace("r\n{}", {apiVersion: "v1", kind: "ConfigMap", metadata: {name: std.trace("x", "n")}})`)
	r := newRenderer(t, worker.Options{Size: 1})
	for range 2 {
		if result, err := r.Render(t.Context(), Request{}, source); err != nil || result.Objects[0].GetName() != "n" {
			t.Fatal(err)
		}
	}
}

func FuzzJsonnet(f *testing.F) {
	for _, seed := range []string{
		`{}`, `[]`, `null`, `local a = import "b.libsonnet"; a`, `[null, {kind: "List", items: [{}]}]`, `error "x"`, `{a: self.b}`,
		`function(x) x`, `import "../../x"`, `importstr "a"`, `std.extVar("a")`, `"\u0000"`, `1e400`, `{assert false}`, "\xff", `{`, `|||`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, program []byte) {
		if len(program) > 200 || strings.Contains(string(program), "std") || strings.Contains(string(program), "tailstrict") {
			t.Skip("the worker's limits are not here")
		}
		source := treetest.FromFiles(map[string][]byte{"f.jsonnet": program, "b.libsonnet": []byte(`{kind: "X"}`)})
		_, err := render(Request{Tool: Plain}, tree.NewView(source, tree.Limits{}), &extra{})
		if err == nil {
			return
		}
		e, ok := errors.AsType[*fault.Error](err)
		if !ok || e.Msg == "" || e.File != "f.jsonnet" && e.File != "b.libsonnet" || e.Kind == fault.Internal {
			t.Errorf("%v: %v", fault.KindOf(err), err)
		}
	})
}
