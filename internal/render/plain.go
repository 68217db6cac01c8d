package render

import (
	"bytes"
	"errors"
	"path"
	"slices"
	"strings"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/tree"
	"github.com/holdfastcd/holdfast/internal/worker"
)

// skipMarker in a file keeps the file out; Argo CD's users write it.
const skipMarker = "+argocd:skip-file-rendering"

// kustomizationNames are the names of a kustomization file, in kustomize's order.
var kustomizationNames = []string{"kustomization.yaml", "kustomization.yml", "Kustomization"}

// plain renders every manifest of a directory.
func plain(req Request, files worker.Files) (output, error) {
	dir, err := directory(req, files)
	if err != nil {
		return nil, err
	}
	names, err := plainFiles(req, dir, files)
	if err != nil {
		return nil, err
	}
	jsonnet, err := newPrograms(req, dir, files)
	if err != nil {
		return nil, err
	}
	var out output
	b := newBudget()
	for _, name := range names {
		content, err := files.ReadFile(name)
		if err != nil {
			return nil, err
		}
		if bytes.Contains(content, []byte(skipMarker)) {
			continue
		}
		read := parse
		if path.Ext(name) == ".jsonnet" {
			read = jsonnet.evaluate
		}
		docs, err := read(name, content, b)
		if err != nil {
			return nil, err
		}
		for _, d := range docs {
			if err := out.add(d.value, object.Origin{File: name, Line: d.line}); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

// directory returns the request's directory, free of symlinks. Errors are
// NotFound, Invalid (a file) and what files returns.
func directory(req Request, files worker.Files) (string, error) {
	dir, e, err := files.Resolve(req.directory())
	if errors.Is(err, tree.ErrNotExist) {
		return "", fault.New(fault.NotFound, "the path does not exist in the source").At(req.Path, 0)
	}
	if err != nil {
		return "", err
	}
	if e.Kind != tree.Dir {
		return "", fault.New(fault.Invalid, "path %q is a %s in the source, not a directory", req.Path, e.Kind)
	}
	return dir, nil
}

// plainFiles returns the files to render, sorted by path.
func plainFiles(req Request, dir string, files worker.Files) ([]string, error) {
	include, err := compileGlob(req.Include)
	if err != nil {
		return nil, err
	}
	exclude, err := compileGlob(req.Exclude)
	if err != nil {
		return nil, err
	}
	w := &walker{files: files, recurse: req.Recurse, wanted: func(name string) bool {
		base, below := path.Base(name), strings.TrimPrefix(name, dir+"/")
		return isManifest(base) && !slices.Contains(kustomizationNames, base) &&
			(include == nil || include.match(below)) && !exclude.match(below)
	}}
	if err := w.walk(dir); err != nil {
		return nil, err
	}
	slices.Sort(w.found)
	return w.found, nil
}

func isManifest(name string) bool {
	switch path.Ext(name) {
	case ".yaml", ".yml", ".json", ".jsonnet":
		return true
	}
	return false
}

// walker lists files of a directory. What is hidden is left out; a symlink to
// a file counts as a file, one to a directory is not entered (it could lead back).
type walker struct {
	files   worker.Files
	recurse bool
	wanted  func(name string) bool
	enter   func(dir string, entries []tree.Entry) bool // nil means every one
	found   []string
}

func (w *walker) walk(dir string) error {
	entries, err := w.files.ReadDir(dir)
	if err != nil {
		return err
	}
	if w.enter != nil && !w.enter(dir, entries) {
		return nil
	}
	for _, e := range entries {
		if err := w.entry(path.Join(dir, e.Name), e); err != nil {
			return err
		}
	}
	return nil
}

func (w *walker) entry(name string, e tree.Entry) error {
	if strings.HasPrefix(e.Name, ".") {
		return nil
	}
	if e.Kind == tree.Dir {
		if w.recurse {
			return w.walk(name)
		}
		return nil
	}
	if !w.wanted(name) {
		return nil
	}
	if e.Kind == tree.Symlink {
		var err error
		if _, e, err = w.files.Resolve(name); err != nil {
			return err
		}
	}
	if e.Kind.IsFile() {
		w.found = append(w.found, name)
	}
	return nil
}
