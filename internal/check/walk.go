package check

import (
	"context"
	"errors"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/go-git/go-git/v5/plumbing/format/gitignore"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/secret/leak"
)

const (
	maxListed  = 500_000 // files of a directory
	maxIgnore  = 1 << 20 // bytes of a .gitignore
	gitDir     = ".git"
	ignoreFile = ".gitignore"
)

// listing is what lies below what was named: paths from the root of the repository.
type listing struct{ names, links []string }

// view is the working tree, as far as it was named.
type view struct {
	listing

	state *state
}

// working reads the working tree: the files that Git tracks, and others that it does not
// ignore. s is told what is left out; nil: nobody is.
func (r *repository) working(s *search) (view, error) {
	found, err := r.list()
	if err != nil {
		return view{}, err
	}
	tracked, err := r.tracked()
	if err != nil && s != nil {
		s.report.noticef("Git's index cannot be read (%s): files that are tracked and ignored were not searched", fault.From(err).Msg)
	}
	for _, name := range tracked {
		if r.covers(name) && r.isFile(name) {
			found.names = append(found.names, name)
		}
	}
	slices.Sort(found.names)
	found.names = slices.Compact(found.names)
	state, err := r.workingTree(found)
	return view{found, state}, err
}

// directory searches the files of the working tree.
func (r *repository) directory(ctx context.Context, s *search, found view) error {
	files := make([]leak.File, len(found.names))
	for i, name := range found.names {
		files[i] = r.file(name)
	}
	look := func(_ int, name string) (leak.File, bool) {
		s.report.uncachable = s.report.uncachable || !r.covers(name)
		return r.file(name), r.isFile(name)
	}
	return s.files(ctx, files, look, nil, nil)
}

// file is one of the working tree. Its digest is not known before it is read: nothing of it is kept.
func (r *repository) file(name string) leak.File {
	return leak.File{Path: name, Read: func(limit int64) ([]byte, error) { return r.read(name, limit) }}
}

// list returns the files below what was named, without those that are ignored.
func (r *repository) list() (listing, error) {
	w := &walk{repository: r}
	if r.below != "" && r.isFile(r.below) {
		return listing{names: []string{r.below}}, nil
	}
	if r.git != nil {
		w.learn(path.Join(gitDir, "info", "exclude"), nil)
	}
	if r.below != "" {
		for _, dir := range parents(r.below) {
			w.learn(path.Join(dir, ignoreFile), split(dir))
		}
	}
	dir := r.below
	if dir == "" {
		dir = "."
	}
	err := w.visit(dir)
	return w.found, err
}

// walk is a way through a directory.
type walk struct {
	*repository

	patterns []gitignore.Pattern
	found    listing
}

// learn adds the patterns of a file of ignores, if there is one.
func (w *walk) learn(file string, domain []string) {
	content, err := w.read(file, maxIgnore)
	if err != nil {
		return // what is not ignored is searched
	}
	for line := range strings.Lines(string(content)) {
		line = strings.TrimRight(line, "\r\n")
		if strings.TrimSpace(line) != "" && !strings.HasPrefix(line, "#") {
			w.patterns = append(w.patterns, gitignore.ParsePattern(line, domain))
		}
	}
}

func split(dir string) []string {
	if dir == "." {
		return nil
	}
	return strings.Split(dir, "/")
}

func (w *walk) visit(dir string) error {
	entries, err := fs.ReadDir(w.root.FS(), dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it went away meanwhile
	}
	if err != nil {
		return unreadable(dir, err)
	}
	known := len(w.patterns)
	defer func() { w.patterns = w.patterns[:known] }()
	w.learn(path.Join(dir, ignoreFile), split(dir))
	ignored := gitignore.NewMatcher(w.patterns)
	for _, e := range entries {
		name := path.Join(dir, e.Name())
		switch {
		case e.Name() == gitDir, ignored.Match(strings.Split(name, "/"), e.IsDir()):
			continue
		case e.IsDir():
			if err := w.visit(name); err != nil {
				return err
			}
		case e.Type().IsRegular():
			if len(w.found.names) >= maxListed {
				return fault.New(fault.Limit, "the directory has more than %d files", maxListed).At(filepath.ToSlash(dir), 0)
			}
			w.found.names = append(w.found.names, name)
		case e.Type() == fs.ModeSymlink:
			w.found.links = append(w.found.links, name)
		}
	}
	return nil
}
