package render

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
	"sigs.k8s.io/yaml"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/tree"
	"github.com/holdfastcd/holdfast/internal/tree/treetest"
	"github.com/holdfastcd/holdfast/internal/worker"
)

var update = flag.Bool("update", false, "write what is rendered into testdata")

// TestMain makes the test binary the worker of the tests: everything here is
// rendered in the cage.
func TestMain(m *testing.M) {
	worker.RunIfWorker(Handlers())
	os.Exit(m.Run())
}

func newRenderer(tb testing.TB, o worker.Options) *Caged {
	tb.Helper()
	pool := worker.NewPool(o)
	tb.Cleanup(pool.Close)
	return New(pool)
}

// files makes a tree of path, content, path, content...; a content that begins
// with "-> " is a symlink.
func files(tb testing.TB, pairs ...string) tree.Tree {
	tb.Helper()
	dir := tb.TempDir()
	for i := 0; i < len(pairs); i += 2 {
		name := filepath.Join(dir, pairs[i])
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			tb.Fatal(err)
		}
		var err error
		if target, ok := strings.CutPrefix(pairs[i+1], "-> "); ok {
			err = os.Symlink(strings.TrimSpace(target), name)
		} else {
			err = os.WriteFile(name, []byte(pairs[i+1]), 0o644)
		}
		if err != nil {
			tb.Fatal(err)
		}
	}
	t, err := tree.FromFS(os.DirFS(dir), tree.Limits{})
	if err != nil {
		tb.Fatal(err)
	}
	return t
}

// TestCorpus renders testdata/*.txtar. The archive's comment has one line for
// each request:
//
//	render tool=kustomize path=apps recurse include={a,b}.yaml
//
// The output, or the error, is in the file want, and want2 and so on for
// further requests. All runs in the cage, in workers that are used again.
func TestCorpus(t *testing.T) {
	archives, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(archives) == 0 {
		t.Fatal("no corpus", err)
	}
	r := newRenderer(t, worker.Options{Size: 1})
	cage, err := r.pool.Cage(t.Context())
	if err != nil || runtime.GOOS == "linux" && !strings.Contains(cage, "seccomp") {
		t.Fatalf("cage %q, %v", cage, err)
	}
	for _, name := range archives {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txtar"), func(t *testing.T) { corpus(t, r, name) })
	}
}

func corpus(t *testing.T, r Renderer, name string) {
	a, err := txtar.ParseFile(name)
	if err != nil {
		t.Fatal(err)
	}
	var pairs []string
	want := map[string]int{}
	for i, f := range a.Files {
		if strings.HasPrefix(f.Name, "want") {
			want[f.Name] = i
			continue
		}
		pairs = append(pairs, f.Name, string(f.Data))
	}
	source := files(t, packed(t, pairs)...)
	n, changed := 0, false
	for line := range strings.Lines(string(a.Comment)) {
		args, ok := strings.CutPrefix(strings.TrimSpace(line), "render ")
		if !ok {
			continue
		}
		n++
		key := "want"
		if n > 1 {
			key = fmt.Sprint("want", n)
		}
		result, err := r.Render(t.Context(), asked(t, args), source)
		got := show(result.Objects, err) + showExtra(result)
		i, ok := want[key]
		if *update && (!ok || string(a.Files[i].Data) != got) {
			if !ok {
				a.Files = append(a.Files, txtar.File{Name: key})
				i = len(a.Files) - 1
			}
			a.Files[i].Data, changed = []byte(got), true
			continue
		}
		if !ok {
			t.Fatalf("%s: no file %s", name, key)
		}
		if diff := cmp.Diff(string(a.Files[i].Data), got); diff != "" {
			t.Errorf("render %s (-want +got):\n%s", args, diff)
		}
	}
	if n == 0 {
		t.Error("nothing is rendered")
	}
	if changed {
		if err := os.WriteFile(name, txtar.Format(a), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func asked(t *testing.T, args string) Request {
	t.Helper()
	var req Request
	if strings.HasPrefix(args, "{") {
		d := json.NewDecoder(strings.NewReader(args))
		d.DisallowUnknownFields()
		if err := d.Decode(&req); err != nil {
			t.Fatalf("%s: %v", args, err)
		}
		return req
	}
	for arg := range strings.FieldsSeq(args) {
		key, value, _ := strings.Cut(arg, "=")
		switch key {
		case "tool":
			req.Tool = Tool(value)
		case "path":
			req.Path = value
		case "recurse":
			req.Recurse = true
		case "include":
			req.Include = value
		case "exclude":
			req.Exclude = value
		case "namespace":
			req.Namespace = value
		case "prefix":
			req.NamePrefix = value
		case "suffix":
			req.NameSuffix = value
		case "image":
			req.Images = append(req.Images, value)
		default:
			if !jsonnetArgument(&req, key, value) && !overrideArgument(t, &req, key, value) {
				t.Fatalf("unknown argument %q", arg)
			}
		}
	}
	return req
}

// show prints objects with their origins, or the error with its kind.
func show(objects []object.Object, err error) string {
	if err != nil {
		return fmt.Sprintf("%s: %v\n", fault.KindOf(err), err)
	}
	var b bytes.Buffer
	for i := range objects {
		o := &objects[i]
		fmt.Fprintf(&b, "--- # %s:%d\n", o.Origin.File, o.Origin.Line)
		text, err := yaml.Marshal(o.Object)
		if err != nil {
			return err.Error()
		}
		b.Write(text)
	}
	if b.Len() == 0 {
		return "nothing\n"
	}
	return b.String()
}

func configMap(name string) string {
	return "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: " + name + "\n"
}

func TestLimits(t *testing.T) {
	bomb := "a: &a [x,x,x,x,x,x,x,x,x,x]\n"
	for c := 'b'; c <= 'h'; c++ {
		bomb += fmt.Sprintf("%c: &%c [%s]\n", c, c, strings.TrimSuffix(strings.Repeat("*"+string(c-1)+",", 10), ","))
	}
	large := configMap("large") + "data:\n  big: &big " + strings.Repeat("x", 1<<20) + "\n  l:\n" + strings.Repeat("  - *big\n", 70)
	tests := []struct {
		reason, file, content string
		path, msg             string
	}{
		{"a 10 MiB manifest", "a/big.yaml", configMap("x") + "data:\n  x: " + strings.Repeat("y", 10<<20) + "\n", "a/big.yaml", "the file has 10485"},
		{"an alias bomb", "a/bomb.yaml", configMap("x") + "data:\n  " + strings.ReplaceAll(bomb, "\n", "\n  ") + "\n", "a/bomb.yaml", "excessive aliasing"},
		{"few aliases of a large value", "a/large.yaml", large, "a/large.yaml", "more than 64 MiB"},
		{"deep YAML", "a/deep.yaml", configMap("x") + "data: " + strings.Repeat("[", 200) + strings.Repeat("]", 200) + "\n", "a/deep.yaml", "deeper than 100"},
		{"deeper than the parser goes", "a/deep.yaml", strings.Repeat("[", 20000), "a/deep.yaml", "max depth"},
		{"deep JSON", "a/deep.json", `{"apiVersion":"v1","kind":"X","metadata":{"name":"x"},"a":` + strings.Repeat("[", 200) + strings.Repeat("]", 200) + "}", "a/deep.json", "deeper than 100"},
		{"many objects", "a/many.yaml", strings.Repeat(configMap("x")+"---\n", maxObjects+1), "a/many.yaml", "more than 20000 objects"},
	}
	r := newRenderer(t, worker.Options{})
	for _, tt := range tests {
		_, err := r.Render(t.Context(), Request{Path: "a", Tool: Plain}, files(t, tt.file, tt.content))
		var f *fault.Error
		if !errors.As(err, &f) || f.Kind != fault.Limit || f.File != tt.path || !strings.Contains(f.Msg, tt.msg) {
			t.Errorf("%s: %.300v", tt.reason, err)
		}
	}
	big := files(t, "a/big.yaml", tests[0].content, "a/kustomization.yaml", "resources: [big.yaml]\n")
	_, err := r.Render(t.Context(), Request{Path: "a"}, big)
	var f *fault.Error
	if !errors.As(err, &f) || f.Kind != fault.Limit || f.File != "a/big.yaml" {
		t.Errorf("a 10 MiB manifest in a kustomization: %v", err)
	}
}

// TestKustomizeBomb: what only kustomize's own parser sees is bounded by the worker.
func TestKustomizeBomb(t *testing.T) {
	var pairs []string
	for i := range 30 {
		pairs = append(pairs, fmt.Sprintf("l%d/kustomization.yaml", i),
			"resources: [a, b]\n",
			fmt.Sprintf("l%d/a/kustomization.yaml", i), fmt.Sprintf("namePrefix: a%d\nresources: [../../l%d]\n", i, i+1),
			fmt.Sprintf("l%d/b/kustomization.yaml", i), fmt.Sprintf("namePrefix: b%d\nresources: [../../l%d]\n", i, i+1))
	}
	pairs = append(pairs, "l30/kustomization.yaml", "resources: [x.yaml]\n", "l30/x.yaml", configMap("x"))
	r := newRenderer(t, worker.Options{MemoryLimit: 128 << 20, Deadline: 3e9})
	_, err := r.Render(t.Context(), Request{Path: "l0"}, files(t, pairs...))
	if fault.KindOf(err) != fault.Limit || !strings.HasPrefix(err.Error(), "rendering ") {
		t.Errorf("2^30 objects: %v", err)
	}
}

// TestSchemasDoNotLeak builds, in one worker, a kustomization with a schema
// that makes a custom kind's list merge by name, then another tenant's with a
// schema that does not know the kind, and one without.
func TestSchemasDoNotLeak(t *testing.T) {
	schema := func(group string) string {
		return fmt.Sprintf(`{"definitions": {"x.%[1]s.Thing": {"type": "object",
  "x-kubernetes-group-version-kind": [{"group": %[1]q, "kind": "Thing", "version": "v1"}],
  "properties": {"spec": {"type": "object", "properties": {"parts": {"type": "array",
    "items": {"type": "object", "properties": {"name": {"type": "string"}, "size": {"type": "integer"}}},
    "x-kubernetes-patch-merge-key": "name", "x-kubernetes-patch-strategy": "merge"}}}}}}}`, group)
	}
	thing := "apiVersion: one.example/v1\nkind: Thing\nmetadata: {name: t}\nspec:\n  parts:\n  - {name: a, size: 1}\n  - {name: b, size: 2}\n"
	kustomization := "resources: [thing.yaml]\npatches:\n- patch: |\n    apiVersion: one.example/v1\n    kind: Thing\n" +
		"    metadata: {name: t}\n    spec:\n      parts:\n      - {name: b, size: 3}\n"
	tenant := func(openapi string) tree.Tree {
		if openapi == "" {
			return files(t, "kustomization.yaml", kustomization, "thing.yaml", thing)
		}
		return files(t, "kustomization.yaml", kustomization+"openapi: {path: schema.json}\n", "thing.yaml", thing, "schema.json", openapi)
	}
	one, two, none := tenant(schema("one.example")), tenant(schema("two.example")), tenant("")
	r := newRenderer(t, worker.Options{Size: 1})
	steps := []struct {
		reason string
		source tree.Tree
		parts  int
	}{
		{"without a schema the list is replaced", none, 1},
		{"with its schema the list is merged", one, 2},
		{"another tenant's schema does not know the kind", two, 1},
		{"no schema after schemas", none, 1},
		{"and again with", one, 2},
		{"no schema after the one that knows", none, 1},
	}
	for _, s := range steps {
		result, err := r.Render(t.Context(), Request{}, s.source)
		if err != nil {
			t.Fatalf("%s: %v", s.reason, err)
		}
		spec, _ := result.Objects[0].Object["spec"].(map[string]any)
		parts, _ := spec["parts"].([]any)
		if len(parts) != s.parts {
			t.Errorf("%s: parts are %v", s.reason, parts)
		}
	}
}

func TestTrace(t *testing.T) {
	source := map[string][]byte{
		"base/kustomization.yaml": []byte("resources: [cm.yaml]\n"), "base/cm.yaml": []byte(configMap("base")),
		"app/kustomization.yaml": []byte("resources: [../base]\n"), "other/x.yaml": []byte(configMap("x")),
	}
	change := func(name, content string) tree.Tree {
		files := map[string][]byte{}
		maps.Copy(files, source)
		files[name] = []byte(content)
		return treetest.FromFiles(files)
	}
	r := newRenderer(t, worker.Options{})
	result, err := r.Render(t.Context(), Request{Path: "app"}, treetest.FromFiles(source))
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		reason string
		tree   tree.Tree
		holds  bool
	}{
		{"the same tree", treetest.FromFiles(source), true},
		{"another directory", change("other/x.yaml", configMap("z")), true},
		{"a new file that nothing names", change("app/readme.yaml", configMap("z")), true},
		{"the base's content", change("base/cm.yaml", configMap("z")), false},
		{"a second kustomization file, which is an error", change("base/Kustomization", "resources: []\n"), false},
	}
	for _, tt := range tests {
		if got := result.Trace.Holds(tt.tree); got != tt.holds {
			t.Errorf("%s: holds is %v", tt.reason, got)
		}
	}
}

func TestDigest(t *testing.T) {
	r := newRenderer(t, worker.Options{})
	render := func(content string) Result {
		result, err := r.Render(t.Context(), Request{Tool: Plain}, files(t, "x.yaml", content))
		if err != nil {
			t.Fatal(err)
		}
		return result
	}
	a, moved, other := render(configMap("x")), render("# a comment\n\n"+configMap("x")), render(configMap("z"))
	if a.Digest != moved.Digest || a.Digest == other.Digest || a.Digest == [32]byte{} {
		t.Errorf("digests: %x, moved %x, other %x", a.Digest, moved.Digest, other.Digest)
	}
	if moved.Objects[0].Origin.Line != 3 {
		t.Errorf("line %d", moved.Objects[0].Origin.Line)
	}
}

// TestScalars compares our reading of YAML with that of Kubernetes' own tools.
func TestScalars(t *testing.T) {
	for _, scalar := range []string{
		"yes", "No", "on", "OFF", "y", "n", "true", "True", "~", "null", "", "'yes'", `"no"`, "!!str yes", "|-\n    yes",
		"1", "-1", "0777", "0o17", "0x1F", "0b11", "1_000", "1.5", "1e3", "1E3", ".5", "5.", "+1", "12:30", "1.2.3", "9223372036854775808",
		"2001-01-01", "2001-12-14T21:59:43Z", "!!binary aGk=", "[yes, 1]", "{yes: no, 1: 2, 1.5: x}", "<<", "=", "a: b",
		"!custom x", "&a x", "0.1", "1e400", "007", "08", "-0", "0",
	} {
		text := "apiVersion: v1\nkind: X\nmetadata:\n  name: x\nv: " + scalar + "\n"
		var want map[string]any
		wantErr := yaml.Unmarshal([]byte(text), &want)
		docs, err := parse("x.yaml", []byte(text), newBudget())
		if (err != nil) != (wantErr != nil) {
			t.Errorf("%s: error %v, Kubernetes has %v", scalar, err, wantErr)
			continue
		}
		if err != nil {
			continue
		}
		got, _ := json.Marshal(docs[0].value)
		reference, _ := json.Marshal(want)
		if string(got) != string(reference) {
			t.Errorf("%s: %s, Kubernetes has %s", scalar, got, reference)
		}
	}
}

func TestUnknownTool(t *testing.T) {
	_, err := newRenderer(t, worker.Options{}).Render(t.Context(), Request{Tool: "unknown"}, files(t))
	if fault.KindOf(err) != fault.Unsupported {
		t.Error(err)
	}
}

func TestHostileResult(t *testing.T) {
	for _, body := range []string{``, `{}`, `[{"object":1}]`, `[{"object":{}}]`, `[{"object":{"apiVersion":"v1","kind":"X"}}]`} {
		if _, _, err := decode([]byte(body)); err == nil {
			t.Errorf("%q was taken for objects", body)
		}
	}
}

func TestParseImage(t *testing.T) {
	tests := []struct{ in, want string }{
		{"nginx:1.2", "nginx||1.2|"},
		{"nginx@sha256:ab", "nginx|||sha256:ab"},
		{"nginx=reg:5000/nginx", "nginx|reg:5000/nginx||"},
		{"nginx=reg:5000/nginx:1.2", "nginx|reg:5000/nginx|1.2|"},
		{"nginx=*:1.2", "nginx||1.2|"},
		{"reg:5000/a/b=c@sha256:ab", "reg:5000/a/b|c||sha256:ab"},
		{"nginx", ""},
		{"", ""},
		{"=x:1", ""},
	}
	for _, tt := range tests {
		i, err := parseImage(tt.in)
		got := ""
		if err == nil {
			got = strings.Join([]string{i.Name, i.NewName, i.NewTag, i.Digest}, "|")
		}
		if got != tt.want {
			t.Errorf("%q: %q, want %q", tt.in, got, tt.want)
		}
	}
}

func TestGlob(t *testing.T) {
	tests := []struct {
		pattern, name string
		want          bool
	}{
		{"*.yaml", "a.yaml", true},
		{"*.yaml", "a/b.yaml", true},
		{"*.yaml", "a.yml", false},
		{"{a,b}.yaml", "b.yaml", true},
		{"{a,b}.yaml", "c.yaml", false},
		{"{*.yml,env-{x,y}/*}", "env-y/q.yaml", true},
		{"env?.yaml", "env1.yaml", true},
		{"[a-c].yaml", "b.yaml", true},
		{"[!a-c].yaml", "b.yaml", false},
		{`a\*`, "a*", true},
		{`a\*`, "ab", false},
		{"a.b", "axb", false},
		{"(x|y)+", "(x|y)+", true},
		{"a,b", "a,b", true},
	}
	for _, tt := range tests {
		g, err := compileGlob(tt.pattern)
		if err != nil || g.match(tt.name) != tt.want {
			t.Errorf("%q on %q: %v, %v", tt.pattern, tt.name, g.match(tt.name), err)
		}
	}
	for _, bad := range []string{"[a", "{a", "[z-a]"} {
		if _, err := compileGlob(bad); fault.KindOf(err) != fault.Invalid {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// counting counts renderings.
type counting struct {
	inner Renderer
	n     int
}

func (c *counting) Render(ctx context.Context, req Request, t tree.Tree) (Result, error) {
	c.n++
	return c.inner.Render(ctx, req, t)
}

func TestCache(t *testing.T) {
	inner := &counting{inner: newRenderer(t, worker.Options{})}
	c := NewCache(always(inner), 1<<20)
	one := treetest.FromFiles(map[string][]byte{"a/x.yaml": []byte(configMap("x"))})
	unrelated := treetest.FromFiles(map[string][]byte{"a/x.yaml": []byte(configMap("x")), "b/y.yaml": []byte(configMap("z"))})
	changed := treetest.FromFiles(map[string][]byte{"a/x.yaml": []byte(configMap("z"))})
	req := Request{Path: "a"}
	steps := []struct {
		reason string
		scope  string
		tree   tree.Tree
		cached bool
		name   string
	}{
		{"first", "s", one, false, "x"},
		{"again", "s", one, true, "x"},
		{"a commit elsewhere", "s", unrelated, true, "x"},
		{"another scope", "t", one, false, "x"},
		{"a commit here", "s", changed, false, "z"},
		{"and again", "s", changed, true, "z"},
		{"only the latest is kept", "s", one, false, "x"},
	}
	for _, s := range steps {
		before := inner.n
		_, unchanged := c.In(s.scope).Unchanged(req, s.tree)
		result, err := c.In(s.scope).Render(t.Context(), req, s.tree)
		if err != nil {
			t.Fatal(err)
		}
		if result.Cached != s.cached || unchanged != s.cached || (inner.n == before) != s.cached {
			t.Errorf("%s: cached %v, unchanged %v, rendered %d times", s.reason, result.Cached, unchanged, inner.n-before)
		}
		if result.Objects[0].GetName() != s.name || result.Objects[0].Origin.File != "a/x.yaml" {
			t.Errorf("%s: got %s from %v", s.reason, result.Objects[0].GetName(), result.Objects[0].Origin)
		}
		if digest, _ := c.In(s.scope).Unchanged(req, s.tree); digest != result.Digest {
			t.Errorf("%s: digests differ", s.reason)
		}
	}
}

func TestCacheBounds(t *testing.T) {
	inner := newRenderer(t, worker.Options{})
	source := treetest.FromFiles(map[string][]byte{"a/x.yaml": []byte(configMap("x")), "b/x.yaml": []byte(configMap("x"))})
	a, b := Request{Path: "a"}, Request{Path: "b"}
	fill := func(limit int64) *Cache {
		c := NewCache(always(inner), limit)
		for _, req := range []Request{a, b} {
			if _, err := c.In("").Render(t.Context(), req, source); err != nil {
				t.Fatal(err)
			}
		}
		return c
	}
	size := fill(1 << 20)
	if size.output == 0 || size.known <= size.output {
		t.Fatalf("output %d, known %d: the test needs more knowledge than output", size.output, size.known)
	}
	t.Run("the older output goes first", func(t *testing.T) {
		c := fill(1 << 20)
		c.limit = c.output - 1
		c.mu.Lock()
		known := c.known
		c.known = 0 // only the output is over its bound
		c.shrink()
		c.known = known
		c.mu.Unlock()
		if _, ok := c.In("").Unchanged(a, source); !ok {
			t.Error("what is known was lost with the output")
		}
		if _, body := c.lookup(mustKey(t, c, a)); body != nil {
			t.Error("the older output is still there")
		}
		if _, body := c.lookup(mustKey(t, c, b)); body == nil {
			t.Error("the newer output is gone")
		}
	})
	t.Run("knowledge is bounded too", func(t *testing.T) {
		c := fill(size.known - 1)
		if _, ok := c.In("").Unchanged(a, source); ok {
			t.Error("the older knowledge is still there")
		}
		if _, ok := c.In("").Unchanged(b, source); !ok {
			t.Error("the newer knowledge is gone")
		}
	})
}

func mustKey(t *testing.T, c *Cache, req Request) string {
	t.Helper()
	key, err := c.In("").key(req)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		configMap("x"), "---\n# c\n---\n" + configMap("x"), "a: &a [*a]\n", "a: &a {b: 1}\nc: {<<: *a}\n", "- 1\n", "{\"a\": 1,}",
		"? [a]\n: b\n", "a: 1\na: 2\n", "!!binary aGk=: x\n", "%YAML 1.1\n---\na: yes\n", "kind: List\napiVersion: v1\nitems: [{kind: List, items: [null]}]\n",
		"a: .inf", "a: !!float x", "\ufeffa: 1", "a: 2001-01-01",
	} {
		f.Add([]byte(seed), false)
		f.Add([]byte(seed), true)
	}
	f.Fuzz(func(t *testing.T, content []byte, isJSON bool) {
		name := "f.yaml"
		if isJSON {
			name = "f.json"
		}
		docs, err := parse(name, content, newBudget())
		lines := bytes.Count(content, []byte("\n")) + bytes.Count(content, []byte("\r")) + bytes.Count(content, []byte("\u0085")) +
			bytes.Count(content, []byte("\u2028")) + bytes.Count(content, []byte("\u2029")) + 2
		if err != nil {
			var f *fault.Error
			if !errors.As(err, &f) || f.File != name || f.Line < 1 || f.Line > lines || f.Msg == "" {
				t.Errorf("%d lines: %v", lines, err)
			}
			return
		}
		for _, d := range docs {
			if d.line < 1 || d.line > lines {
				t.Errorf("line %d of %d", d.line, lines)
			}
			var out output
			if identify(d.value) == nil && out.add(d.value, object.Origin{}) != nil {
				t.Errorf("no JSON form: %v", d.value)
			}
		}
	})
}

// TestValuesAreCounted: what takes a place in memory is counted before it does.
func TestValuesAreCounted(t *testing.T) {
	for text, want := range map[string]int{
		`{}`:                        1,
		`{"a":[1,2,3]}`:             4,
		`{"a":"[{,\"[{,\\"}`:        1,
		`{"a":"\\","b":[[],[],{}]}`: 8,
	} {
		if got := values([]byte(text)); got != want {
			t.Errorf("%s holds %d values, want %d", text, got, want)
		}
	}
	dense := rendered{File: "a.yaml", Line: 3, Object: []byte(`{"x":[` + strings.Repeat("{},", maxValues/2) + `{}]}`)}
	if _, _, err := unpack(output{dense}); fault.KindOf(err) != fault.Limit || !strings.Contains(err.Error(), "a.yaml:3") {
		t.Errorf("%v, want Limit and a.yaml:3", err)
	}
}
