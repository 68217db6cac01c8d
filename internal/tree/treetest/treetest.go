// Package treetest makes trees for tests.
package treetest

import (
	"io/fs"
	"math"
	"testing/fstest"

	"github.com/holdfastcd/holdfast/internal/tree"
)

// FromFiles returns a tree of regular files, given by their paths: clean and
// relative ones, none the parent of another. It panics for others.
func FromFiles(files map[string][]byte) tree.Tree {
	fsys := fstest.MapFS{}
	for name, content := range files {
		if !fs.ValidPath(name) || name == "." {
			panic("not a path of a file: " + name)
		}
		fsys[name] = &fstest.MapFile{Data: content, Mode: 0o644}
	}
	t, err := tree.FromFS(fsys, tree.Limits{TotalBytes: math.MaxInt64, Count: math.MaxInt, FileBytes: math.MaxInt64 - 1})
	if err != nil {
		panic(err)
	}
	return t
}
