package git

import (
	"fmt"
	"testing"

	"github.com/holdfastcd/holdfast/internal/source"
	"github.com/holdfastcd/holdfast/internal/tree"
	"github.com/holdfastcd/holdfast/test/gitserver"
)

// fleet fills a repository with n directories of five files.
func fleet(b *testing.B, repo *gitserver.Repo, n int) {
	b.Helper()
	files := map[string]string{}
	for i := range n {
		for j := range 5 {
			files[fmt.Sprintf("apps/app-%03d/object-%d.yaml", i, j)] = fmt.Sprintf(
				"apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: app-%03d-%d\n  namespace: team-%d\ndata:\n  value: \"%d\"\n", i, j, i%10, i*j)
		}
	}
	push(b, repo, gitserver.Files(files)...)
}

func BenchmarkFirstFetch100x5(b *testing.B) {
	_, repo := newServer(b, gitserver.Options{})
	fleet(b, repo, 100)
	b.ReportAllocs()
	for b.Loop() {
		s, err := New(b.TempDir(), Options{})
		if err != nil {
			b.Fatal(err)
		}
		fetch(b, s, source.Request{URL: repo.URL()})
		s.Close()
	}
}

func BenchmarkFetchKnownHead(b *testing.B) {
	_, repo := newServer(b, gitserver.Options{})
	fleet(b, repo, 100)
	s := newStore(b, b.TempDir(), Options{})
	for b.Loop() {
		fetch(b, s, source.Request{URL: repo.URL()})
	}
}

func BenchmarkFetchSmallCommit(b *testing.B) {
	_, repo := newServer(b, gitserver.Options{})
	fleet(b, repo, 100)
	s := newStore(b, b.TempDir(), Options{})
	fetch(b, s, source.Request{URL: repo.URL()})
	i := 0
	for b.Loop() {
		b.StopTimer()
		i++
		push(b, repo, gitserver.Put("apps/app-007/object-0.yaml", fmt.Sprintf("value: %d\n", i)))
		b.StartTimer()
		fetch(b, s, source.Request{URL: repo.URL()})
	}
}

func BenchmarkReadAllFiles100x5(b *testing.B) {
	_, repo := newServer(b, gitserver.Options{})
	fleet(b, repo, 100)
	s := newStore(b, b.TempDir(), Options{})
	rev := fetch(b, s, source.Request{URL: repo.URL()})
	b.ReportAllocs()
	for b.Loop() {
		readAll(b, tree.NewView(rev.Tree, tree.Limits{}))
	}
}

func readAll(b *testing.B, v *tree.View) {
	b.Helper()
	for i := range 100 {
		dir := fmt.Sprintf("apps/app-%03d", i)
		entries, err := v.ReadDir(dir)
		if err != nil {
			b.Fatal(err)
		}
		for _, e := range entries {
			if _, err := v.ReadFile(dir + "/" + e.Name); err != nil {
				b.Fatal(err)
			}
		}
	}
}

// BenchmarkHolds asks whether the traces of a hundred applications hold on the
// next commit, as happens for each one.
func BenchmarkHolds(b *testing.B) {
	_, repo := newServer(b, gitserver.Options{})
	fleet(b, repo, 100)
	s := newStore(b, b.TempDir(), Options{})
	v := tree.NewView(fetch(b, s, source.Request{URL: repo.URL()}).Tree, tree.Limits{})
	readAll(b, v)
	trace := v.Trace()
	push(b, repo, gitserver.Put("README.md", "changed\n"))
	next := fetch(b, s, source.Request{URL: repo.URL()}).Tree
	b.ReportAllocs()
	for b.Loop() {
		if !trace.Holds(next) {
			b.Fatal("a commit elsewhere changed the trace")
		}
	}
	b.ReportMetric(float64(len(trace)), "reads/op")
}
