// Package internal_test guards the rooms of the design: what each package may
// import is an assertion with a reason.
package internal_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/holdfastcd/holdfast/"

// pkg is a package of the module, with what it imports outside of its tests, on any
// system.
type pkg struct {
	path    string // below the module
	imports map[string]bool
}

// list reads the imports of all packages of the module. The files are read here, and
// not by a process, so that the go command knows that what this test says of them is
// old when they change.
func list(t *testing.T) []pkg {
	t.Helper()
	const root = ".."
	found := map[string]pkg{}
	err := filepath.WalkDir(root, func(file string, e fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case e.IsDir():
			return elsewhere(root, file)
		case !strings.HasSuffix(file, ".go") || strings.HasSuffix(file, "_test.go"):
			return nil
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, filepath.Dir(file))
		if err != nil {
			return err
		}
		name = filepath.ToSlash(name)
		if found[name].imports == nil {
			found[name] = pkg{name, map[string]bool{}}
		}
		for _, i := range parsed.Imports {
			found[name].imports[strings.Trim(i.Path.Value, `"`)] = true
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return slices.SortedFunc(maps.Values(found), func(a, b pkg) int { return strings.Compare(a.path, b.path) })
}

// elsewhere skips directories that hold no packages of the module.
func elsewhere(root, dir string) error {
	name := filepath.Base(dir)
	if dir == root {
		return nil
	}
	if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil || name == "testdata" || name[0] == '.' || name[0] == '_' {
		return fs.SkipDir
	}
	return nil
}

// rule forbids imports to some packages.
type rule struct {
	of     []string // packages below the module, path.Match patterns
	never  []string // import paths; a trailing /... covers everything below
	except []string // of `of`
	reason string
}

var rules = []rule{
	{
		of: []string{"internal/policy/rego", "internal/policy/cel", "internal/policy/builtin", "internal/policy/installed", "internal/nearest", "internal/tree", "internal/object", "internal/schema", "internal/schema/*", "internal/policy", "internal/plan", "internal/health", "internal/render", "internal/substitute"},
		never: []string{
			"k8s.io/client-go/...", "sigs.k8s.io/controller-runtime/...", "net", "net/http", "os", "os/exec", "syscall",
			module + "internal/cluster", module + "internal/source/...", module + "internal/store",
		},
		reason: "the core is a function of its input: no cluster, network, clock or environment",
	},
	{
		of: []string{"internal/*", "internal/source/*", "internal/trust/*", "internal/audit/*"},
		// The functions of substitution are Flux's library, which knows no resource;
		// operate is a client of the custom resources, like the command line.
		except: []string{"internal/cli", "internal/dialect", "internal/controller", "internal/demo", "internal/overview", "internal/operate", "internal/substitute"},
		never:  []string{module + "internal/dialect/...", module + "api/...", "github.com/fluxcd/...", "sigs.k8s.io/controller-runtime/..."},
		reason: "the engine knows no kind of custom resource; what the dialects differ in is data",
	},
	{
		of:     []string{"internal/dialect/flux"},
		never:  []string{module + "internal/dialect/argo", module + "internal/dialect/own", module + "api/argo/...", module + "api/holdfast/..."},
		reason: "dialects do not know each other",
	},
	{
		of: []string{"internal/dialect/own"},
		never: []string{
			module + "internal/dialect/argo", module + "internal/dialect/flux", module + "api/argo/...", "github.com/fluxcd/...",
			module + "internal/policy/rego", module + "internal/policy/cel", module + "internal/policy/builtin", module + "internal/policy/judge",
			module + "internal/cluster", module + "internal/render",
		},
		reason: "what must be proven, and what is judged by, is the same in every dialect, and judged elsewhere",
	},
	{
		of:     []string{"internal/dialect/argo"},
		never:  []string{module + "internal/dialect/flux", module + "internal/dialect/own", module + "api/holdfast/...", "github.com/fluxcd/..."},
		reason: "dialects do not know each other",
	},
	{
		of: []string{"internal/operate"},
		never: []string{
			module + "internal/dialect/flux", module + "internal/dialect/argo",
			module + "internal/cluster", module + "internal/delivery", module + "internal/apply",
		},
		reason: "an order is a write to a custom resource; a controller answers it",
	},
	{
		of:     []string{"api/*/*"},
		never:  []string{module + "internal/..."},
		reason: "API types are plain data",
	},
	{
		of:     []string{"internal/*", "internal/*/*", "cmd/*", "api/*/*", "deploy"},
		except: []string{"internal/demo"},
		never:  []string{module + "test/...", module + "devcluster/..."},
		reason: "the product does not link its test bed; the demo is the one door to it",
	},
	{
		of:     []string{"internal/demo"},
		never:  []string{module + "test/harness", module + "test/e2e", module + "test/bench", module + "devcluster/..."},
		reason: "the demo needs a Git server, and nothing else of the test bed",
	},
	{
		of:     []string{"internal/policy"},
		never:  []string{module + "internal/render", module + "internal/delivery", module + "internal/trust/commit", module + "internal/trust/image"},
		reason: "policy judges objects and evidence, wherever they come from",
	},
	{
		of:     []string{"internal/object", "internal/schema", "internal/schema/*", "internal/tree", "internal/render", "internal/plan"},
		never:  []string{module + "internal/trust/...", module + "internal/audit/...", module + "internal/policy"},
		reason: "what is made and planned knows nothing of what is demanded of it",
	},
	{
		of: []string{"internal/trust", "internal/trust/*"},
		never: []string{
			module + "internal/policy", module + "internal/delivery", module + "internal/cluster", module + "internal/audit/...",
			module + "internal/plan", module + "internal/apply", module + "internal/render", module + "internal/store", module + "internal/server",
			"k8s.io/...", "sigs.k8s.io/...", "os", "os/exec",
		},
		reason: "trust gathers evidence: it asks no cluster, and whether evidence suffices for images is policy's to say",
	},
	{
		of:     []string{"internal/trust", "internal/trust/commit"},
		never:  []string{"net", "net/http", module + "internal/trust/image"},
		reason: "commits are judged by their bytes, keys and history, offline",
	},
	{
		of:     []string{"internal/trust/image"},
		never:  []string{module + "internal/trust/commit", module + "internal/source/..."},
		reason: "images are judged wherever their commit came from",
	},
	{
		of: []string{"internal/audit"},
		never: []string{
			module + "internal/delivery", module + "internal/cluster", module + "internal/policy", module + "internal/plan", module + "internal/apply",
			module + "internal/render", module + "internal/trust/commit", module + "internal/trust/image", "k8s.io/...", "sigs.k8s.io/...", "os/exec",
		},
		reason: "the log is files and values: what it records is handed to it, and it is read and verified without a cluster",
	},
	{
		of:     []string{"internal/audit/remote"},
		never:  []string{module + "internal/delivery", module + "internal/cluster", module + "internal/server", module + "internal/controller", module + "internal/why"},
		reason: "what is agreed with readers of the log is the same at both ends",
	},
	{
		of: []string{"internal/why"},
		never: []string{
			module + "internal/cli", module + "internal/delivery", module + "internal/cluster", module + "internal/apply", module + "internal/server",
			module + "internal/controller", module + "internal/operate", module + "internal/trust/commit", module + "internal/trust/image",
		},
		reason: "a chain is told from the cluster and the log, as they are: nothing is judged again, and nothing written",
	},
	{
		of:     []string{"internal/server"},
		never:  []string{module + "internal/cluster", module + "internal/delivery", module + "internal/controller", "k8s.io/client-go/..."},
		reason: "whatever the port serves is handed to it",
	},
	{
		of:     []string{"internal/writes"},
		never:  []string{module + "internal/delivery", module + "internal/cluster", module + "internal/server", "net/http", "k8s.io/...", "os"},
		reason: "a memory is handed what it remembers",
	},
	{
		of:     []string{"internal/*", "internal/*/*"},
		except: []string{"internal/cli", "internal/demo"},
		never:  []string{"github.com/spf13/cobra", "flag"},
		reason: "flags are parsed in one place",
	},
}

func (r rule) concerns(p string) bool {
	match := func(pattern string) bool {
		ok, err := path.Match(pattern, p)
		return ok && err == nil
	}
	return slices.ContainsFunc(r.of, match) && !slices.ContainsFunc(r.except, match)
}

func forbidden(patterns []string, imported string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		if root, all := strings.CutSuffix(p, "/..."); all {
			return imported == root || strings.HasPrefix(imported, root+"/")
		}
		return imported == p
	})
}

func TestImports(t *testing.T) {
	used := make([]bool, len(rules))
	for _, p := range list(t) {
		for i, r := range rules {
			if !r.concerns(p.path) {
				continue
			}
			used[i] = true
			for imported := range p.imports {
				if forbidden(r.never, imported) {
					t.Errorf("%s imports %s: %s", p.path, imported, r.reason)
				}
			}
		}
	}
	for i, r := range rules {
		if !used[i] {
			t.Errorf("rule %d (%s) concerns no package any more", i, r.reason)
		}
	}
}

func TestNoGrabBags(t *testing.T) {
	for _, p := range list(t) {
		switch path.Base(p.path) {
		case "util", "utils", "common", "helpers", "misc", "shared", "base":
			t.Errorf("%s: a package is named for a noun of the problem", p.path)
		}
	}
}
