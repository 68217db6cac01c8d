package render

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/holdfastcd/holdfast/internal/tree"
	"github.com/holdfastcd/holdfast/internal/tree/treetest"
	"github.com/holdfastcd/holdfast/internal/worker"
)

const deployment = `apiVersion: apps/v1
kind: Deployment
metadata:
  name: %s
  labels: {app: %[1]s}
spec:
  replicas: 2
  selector:
    matchLabels: {app: %[1]s}
  template:
    metadata:
      labels: {app: %[1]s}
    spec:
      containers:
      - name: main
        image: nginx:1.27
        ports: [{containerPort: 80}]
        resources:
          requests: {cpu: 100m, memory: 64Mi}
`

const jsonnetFive = `local deployment(name) = {
  apiVersion: 'apps/v1', kind: 'Deployment', metadata: { name: name, labels: { app: name } },
  spec: {
    replicas: 2, selector: { matchLabels: { app: name } },
    template: {
      metadata: { labels: { app: name } },
      spec: { containers: [{
        name: 'main', image: 'nginx:1.27', ports: [{ containerPort: 80 }],
        resources: { requests: { cpu: '100m', memory: '64Mi' } },
      }] },
    },
  },
};
[deployment(name) for name in ['a', 'b', 'c', 'd', 'e']]
`

// benchmarks are the requests of the benchmarks, by name. The listed ones are
// what Flux gives for a directory without a kustomization; with a prefix,
// kustomize has to build it.
func benchmarks() map[string]Request {
	return map[string]Request{
		"plain": {Path: "plain"}, "base": {Path: "base"}, "patched": {Path: "patched"}, "jsonnet": {Path: "jsonnet"},
		"listed":           {Path: "listed", Tool: KustomizeOrGenerate},
		"listed-namespace": {Path: "listed", Tool: KustomizeOrGenerate, Namespace: "team"},
		"listed-prefix":    {Path: "listed", Tool: KustomizeOrGenerate, NamePrefix: "p-"},
	}
}

// five returns a tree with one directory of five objects, and a kustomization
// over it with a patch and another without.
func five() tree.Tree {
	files := map[string][]byte{}
	names := []string{"a.yaml", "b.yaml", "c.yaml", "d.yaml", "e.yaml"}
	for _, name := range names {
		files["plain/"+name] = fmt.Appendf(nil, deployment, strings.TrimSuffix(name, ".yaml"))
		files["base/"+name] = files["plain/"+name]
	}
	base := "resources: [" + strings.Join(names, ", ") + "]\n"
	for _, name := range names { // as Flux finds it
		files["listed/"+name] = files["plain/"+name]
	}
	files["jsonnet/five.jsonnet"] = []byte(jsonnetFive)
	files["base/kustomization.yaml"] = []byte(base + "namespace: shop\nimages: [{name: nginx, newTag: '2'}]\n")
	files["patched/kustomization.yaml"] = []byte("resources: [../base]\npatches: [{path: p.yaml}]\n")
	files["patched/p.yaml"] = []byte("apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\nspec: {replicas: 5}\n")
	return treetest.FromFiles(files)
}

func BenchmarkRender(b *testing.B) {
	source := five()
	all := benchmarks()
	for _, name := range slices.Sorted(maps.Keys(all)) {
		req := all[name]
		b.Run(name, func(b *testing.B) {
			r := newRenderer(b, worker.Options{Size: 1})
			for range 5 { // warm
				if _, err := r.Render(b.Context(), req, source); err != nil {
					b.Fatal(err)
				}
			}
			before := child(b)
			for b.Loop() {
				if _, err := r.Render(b.Context(), req, source); err != nil {
					b.Fatal(err)
				}
			}
			b.StopTimer()
			after := child(b)
			b.ReportMetric(after.pss, "PSS-MiB")
			b.ReportMetric(after.rss, "RSS-MiB")
			b.ReportMetric((after.cpu-before.cpu)/float64(b.N), "worker-cpu-ms/op")
		})
	}
}

// BenchmarkInside is the same without pipes: what the worker itself does.
func BenchmarkInside(b *testing.B) {
	source := five()
	all := benchmarks()
	for _, name := range slices.Sorted(maps.Keys(all)) {
		req := all[name]
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := render(req, tree.NewView(source, tree.Limits{}), &extra{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkCached(b *testing.B) {
	source := five()
	s := NewCache(always(newRenderer(b, worker.Options{})), 1<<20).In("")
	req := Request{Path: "base"}
	if _, err := s.Render(b.Context(), req, source); err != nil {
		b.Fatal(err)
	}
	b.Run("unchanged", func(b *testing.B) {
		for b.Loop() {
			if _, ok := s.Unchanged(req, source); !ok {
				b.Fatal("changed")
			}
		}
	})
	b.Run("result", func(b *testing.B) {
		for b.Loop() {
			if r, err := s.Render(b.Context(), req, source); err != nil || !r.Cached {
				b.Fatal("rendered", err)
			}
		}
	})
}

// BenchmarkFirst is a worker's start and its first rendering.
func BenchmarkFirst(b *testing.B) {
	source := five()
	all := benchmarks()
	for _, name := range slices.Sorted(maps.Keys(all)) {
		req := all[name]
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				pool := worker.NewPool(worker.Options{})
				if _, err := New(pool).Render(b.Context(), req, source); err != nil {
					b.Fatal(err)
				}
				pool.Close()
			}
		})
	}
}

// usage is what /proc tells of our only child.
type usage struct{ pss, rss, cpu float64 } // MiB, ms

func child(b *testing.B) usage {
	b.Helper()
	all, err := os.ReadDir("/proc")
	if err != nil {
		b.Skip("no /proc")
	}
	for _, e := range all {
		stat, err := os.ReadFile("/proc/" + e.Name() + "/stat")
		if err != nil {
			continue
		}
		fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		if len(fields) < 13 || fields[1] != strconv.Itoa(os.Getpid()) || fields[0] == "Z" {
			continue
		}
		var u usage
		for _, ticks := range fields[11:13] { // user and system time, in 1/100 s
			n, _ := strconv.ParseFloat(ticks, 64)
			u.cpu += n * 10
		}
		rollup, _ := os.ReadFile("/proc/" + e.Name() + "/smaps_rollup")
		for line := range strings.Lines(string(rollup)) {
			if f := strings.Fields(line); len(f) == 3 {
				kb, _ := strconv.ParseFloat(f[1], 64)
				switch f[0] {
				case "Pss:":
					u.pss = kb / 1024
				case "Rss:":
					u.rss = kb / 1024
				}
			}
		}
		return u
	}
	return usage{}
}
