// Package internal_test guards the rooms of the design: what each package may
// import is an assertion with a reason.
package internal_test

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"path"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/holdfastcd/holdfast/"

// pkg is what `go list -json` says of a package.
type pkg struct {
	ImportPath string   `json:"ImportPath"`
	Imports    []string `json:"Imports"`
}

func list(t *testing.T) []pkg {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports", module+"...").Output()
	if err != nil {
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			t.Fatalf("go list: %v\n%s", err, exit.Stderr)
		}
		t.Fatal(err)
	}
	var all []pkg
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
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
		of: []string{"internal/tree", "internal/object", "internal/schema", "internal/policy", "internal/plan", "internal/health", "internal/render", "internal/substitute"},
		never: []string{
			"k8s.io/client-go/...", "sigs.k8s.io/controller-runtime/...", "net", "net/http", "os", "os/exec", "syscall",
			module + "internal/cluster", module + "internal/source/...", module + "internal/store",
		},
		reason: "the core is a function of its input: no cluster, network, clock or environment",
	},
	{
		of: []string{"internal/*", "internal/source/*"},
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
		of:     []string{"internal/dialect/own"},
		never:  []string{module + "internal/dialect/argo", module + "internal/dialect/flux", module + "api/argo/...", "github.com/fluxcd/..."},
		reason: "what must be proven is the same in every dialect",
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
		never:  []string{module + "internal/render", module + "internal/delivery"},
		reason: "policy judges objects, wherever they come from",
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
		name := strings.TrimPrefix(p.ImportPath, module)
		for i, r := range rules {
			if !r.concerns(name) {
				continue
			}
			used[i] = true
			for _, imported := range p.Imports {
				if forbidden(r.never, imported) {
					t.Errorf("%s imports %s: %s", name, imported, r.reason)
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
		switch name := path.Base(p.ImportPath); name {
		case "util", "utils", "common", "helpers", "misc", "shared", "base":
			t.Errorf("%s: a package is named for a noun of the problem", p.ImportPath)
		}
	}
}
