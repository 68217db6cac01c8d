package flux

import (
	"fmt"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/go-git/go-git/v5/plumbing/format/gitignore"

	"github.com/holdfastcd/holdfast/internal/tree"
	"github.com/holdfastcd/holdfast/internal/tree/treetest"
)

// reference is what the compiled patterns stand for: each pattern tried on each path.
type reference []gitignore.Pattern

func (r reference) hides(parts []string, isDir bool) bool {
	return gitignore.NewMatcher(r).Match(parts, isDir)
}

// The compiled patterns say of every path what go-git's say, tried one by one.
func TestPatternsMeanWhatTheySay(t *testing.T) {
	names := []string{"a", "b.yaml", "c.tar.gz", ".git", "x y", "README.md", ".sops.yaml", "dir", "a.b.c", "gz"}
	lines := []string{
		"a", "!a", "b.yaml", "*.yaml", "!*.yaml", "*.tar.gz", "*.gz", ".git/", "dir/", "!dir/", "/a", "/dir/*", "dir/a", "**/dir/a",
		"**/b.yaml", "a/**", "**", "*", "!*", "x y", "x y ", "[ab]", "?", "*.b.c", "/", "!", "*.", "*/", "a/**/dir", `\!a`, `x\ `, "**/*.md", "**/a/",
		"*.tar.*", ".sops.yaml",
	}
	r := rand.New(rand.NewPCG(1, 2)) // the same cases every time
	for range 3000 {
		var text []string
		for range 1 + r.IntN(6) {
			text = append(text, lines[r.IntN(len(lines))])
		}
		var want reference
		for _, line := range text {
			want = append(want, gitignore.ParsePattern(line, nil))
		}
		at, err := rules{}.with(text, nil)
		if err != nil {
			t.Fatal(err)
		}
		var parts []string
		for depth := range 4 {
			parts = append(parts, names[r.IntN(len(names))])
			dir, base := strings.Join(parts[:depth], "/"), parts[depth]
			for _, isDir := range []bool{false, true} {
				got := at.match(dir, base, isDir)
				if hides := got > 0 && !at.includes[got]; hides != want.hides(parts, isDir) {
					t.Fatalf("%q, directory %t: hidden %t; patterns %q", strings.Join(parts, "/"), isDir, hides, text)
				}
			}
			at.dir = at.match(dir, base, true)
		}
	}
}

// Patterns in a directory count below it, and behind those of the one above.
func TestPatternsOfDirectories(t *testing.T) {
	tr := Filter(treetest.FromFiles(map[string][]byte{
		".sourceignore": []byte("*.md\nkeep/\n"), "a/.sourceignore": []byte("!x.md\n/only\n"),
		"a/x.md": nil, "a/y.md": nil, "a/only": nil, "a/b/only": nil, "a/b/x.md": nil, "b/x.md": nil, "only": nil,
	}), nil)
	got := slices.DeleteFunc(walk(t, tr, ""), func(s string) bool { return path.Base(s) == ".sourceignore" })
	want := []string{"a/b/only", "a/b/x.md", "a/x.md", "only"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// fleet is a repository of a hundred applications.
func fleetFiles() (files map[string][]byte, paths []string) {
	files = map[string][]byte{}
	for app := range 100 {
		for file := range 6 {
			p := fmt.Sprintf("apps/app-%03d/manifest-%d.yaml", app, file)
			files[p] = nil
			paths = append(paths, p)
		}
	}
	return files, paths
}

// Every commit makes a new tree, on which the paths that were read are looked at
// again: what this costs beside the tree itself.
func BenchmarkFilter(b *testing.B) {
	files, paths := fleetFiles()
	plain := treetest.FromFiles(files)
	look := func(b *testing.B, t func() tree.Tree) {
		b.Helper()
		for b.Loop() {
			seen := t()
			for _, p := range paths {
				if _, err := seen.Stat(p); err != nil {
					b.Fatal(err)
				}
			}
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(paths)), "ns/path")
	}
	b.Run("unfiltered", func(b *testing.B) { look(b, func() tree.Tree { return plain }) })
	b.Run("filtered", func(b *testing.B) { look(b, func() tree.Tree { return Filter(plain, nil) }) })
	b.Run("one by one", func(b *testing.B) { look(b, func() tree.Tree { return newSlow(plain) }) })
}

// slow is a filter that tries each pattern on each path.
type slow struct {
	tree.Tree
	patterns reference
}

func newSlow(t tree.Tree) slow {
	s := slow{Tree: t}
	for _, line := range slices.Concat(versionControl, defaults) {
		s.patterns = append(s.patterns, gitignore.ParsePattern(line, nil))
	}
	return s
}

func (s slow) Stat(name string) (tree.Entry, error) {
	e, err := s.Tree.Stat(name)
	if err == nil && s.patterns.hides(strings.Split(name, "/"), e.Kind == tree.Dir) {
		err = tree.NotExist(name)
	}
	return e, err
}
