package internal_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
)

// revealers are the packages that may look into a secret.Text, each with what for.
var revealers = map[string]string{
	"internal/secret":   "hands what was opened to the renderer, and to the mask",
	"internal/render":   "keeps it sealed in the cache",
	"internal/delivery": "digests, masks and compares it, by dry runs",
	"internal/apply":    "sends it",
	"internal/cli":      "prints what a delivery would apply, for whoever has the keys; judges images in it",
}

// TestWhoReveals finds every call of a method Reveal: there is no other way into a
// secret.Text.
func TestWhoReveals(t *testing.T) {
	used := map[string]bool{}
	const root = ".."
	err := filepath.WalkDir(root, func(file string, e fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case e.IsDir():
			return elsewhere(root, file)
		case !strings.HasSuffix(file, ".go") || strings.HasSuffix(file, "_test.go"):
			return nil
		}
		files := token.NewFileSet()
		parsed, err := parser.ParseFile(files, file, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		dir, err := filepath.Rel(root, filepath.Dir(file))
		if err != nil {
			return err
		}
		ast.Inspect(parsed, func(n ast.Node) bool {
			if s, ok := n.(*ast.SelectorExpr); ok && s.Sel.Name == "Reveal" {
				used[filepath.ToSlash(dir)] = true
				if revealers[filepath.ToSlash(dir)] == "" {
					t.Errorf("%s: %s may not look into secrets", files.Position(s.Pos()), dir)
				}
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for dir := range revealers {
		if !used[dir] {
			t.Errorf("%s reveals nothing any more: take it off the list", dir)
		}
	}
}
