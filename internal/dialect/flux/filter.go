package flux

import (
	"errors"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/go-git/go-git/v5/plumbing/format/gitignore"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/tree"
)

// ignoreFile names the files in a source that say what is left out of it.
const ignoreFile = ".sourceignore"

// Bounds of one list of patterns: each is tried on each path.
const (
	maxIgnoreBytes    = 64 << 10
	maxIgnorePatterns = 1000
)

// versionControl is left out always; defaults are left out unless spec.ignore
// says something else.
var (
	versionControl = []string{".git/", ".gitignore", ".gitmodules", ".gitattributes"}
	defaults       = []string{
		"*.jpg", "*.jpeg", "*.gif", "*.png", "*.wmv", "*.flv", "*.tar.gz", "*.zip",
		".github/", ".circleci/", ".travis.yml", ".gitlab-ci.yml", "appveyor.yml", ".drone.yml",
		"cloudbuild.yaml", "codeship-services.yml", "codeship-steps.yml",
		"**/.goreleaser.yml", "**/.goreleaser.yaml", "**/.sops.yaml", "**/.flux.yaml",
	}
)

// Filter returns t without what a Flux source leaves out: files of version
// control, then what ignore says (nil: the usual pictures, archives and settings
// of other tools), then what .sourceignore files say, the later ones having the
// last word. All are patterns as in a .gitignore. The filter works path by path,
// when asked: making it costs nothing. Looking at a path whose patterns exceed
// their bounds fails with a *fault.Error of kind Limit.
func Filter(t tree.Tree, ignore *string) tree.Tree {
	lines := slices.Clone(versionControl)
	if ignore == nil {
		lines = append(lines, defaults...)
	} else {
		lines = append(lines, strings.Split(*ignore, "\n")...)
	}
	base, err := rules{}.with(lines, nil)
	return &filtered{tree: t, base: base, err: err, dirs: map[string]rules{}}
}

// rules are the patterns that count in one directory.
type rules struct {
	patterns []gitignore.Pattern
	// readmits: a pattern takes something back in, so that a directory which is
	// left out may still hold what is not.
	readmits bool
}

// with returns r followed by the patterns in lines, which count below domain.
func (r rules) with(lines, domain []string) (rules, error) {
	out := rules{patterns: slices.Clip(r.patterns), readmits: r.readmits}
	for _, line := range lines {
		line = strings.TrimSuffix(line, "\r")
		if strings.TrimSpace(line) == "" || strings.HasPrefix(line, "#") {
			continue
		}
		out.patterns = append(out.patterns, gitignore.ParsePattern(line, domain))
		out.readmits = out.readmits || strings.HasPrefix(line, "!")
	}
	if len(out.patterns) > maxIgnorePatterns {
		return rules{}, fault.New(fault.Limit, "the source is filtered by more than %d patterns", maxIgnorePatterns)
	}
	return out, nil
}

func (r rules) hides(parts []string, kind tree.Kind) bool {
	if kind == tree.Dir && r.readmits {
		return false
	}
	return gitignore.NewMatcher(r.patterns).Match(parts, kind == tree.Dir)
}

// filtered is a tree seen through ignore rules.
type filtered struct {
	tree tree.Tree
	base rules
	err  error

	mu   sync.Mutex
	dirs map[string]rules // by directory: what counts for its entries
}

// Stat implements [tree.Tree].
func (f *filtered) Stat(name string) (tree.Entry, error) {
	e, err := f.tree.Stat(name)
	if err != nil {
		return e, err
	}
	parts := split(name)
	if len(parts) == 0 {
		return e, nil
	}
	r, err := f.rules(parts[:len(parts)-1])
	switch {
	case err != nil:
		return tree.Entry{}, err
	case r.hides(parts, e.Kind):
		return tree.Entry{}, tree.NotExist(name)
	}
	return e, nil
}

// ReadDir implements [tree.Tree].
func (f *filtered) ReadDir(name string) ([]tree.Entry, error) {
	if _, err := f.Stat(name); err != nil {
		return nil, err
	}
	all, err := f.tree.ReadDir(name)
	if err != nil {
		return nil, err
	}
	parts := split(name)
	r, err := f.rules(parts)
	if err != nil {
		return nil, err
	}
	entries := make([]tree.Entry, 0, len(all))
	for _, e := range all {
		if !r.hides(append(slices.Clip(parts), e.Name), e.Kind) {
			entries = append(entries, e)
		}
	}
	return entries, nil
}

// ReadFile implements [tree.Tree].
func (f *filtered) ReadFile(name string, limit int64) ([]byte, error) {
	if _, err := f.Stat(name); err != nil {
		return nil, err
	}
	return f.tree.ReadFile(name, limit)
}

// rules returns what counts for the entries of a directory: the rules of the
// one above, and its own file.
func (f *filtered) rules(dir []string) (rules, error) {
	if f.err != nil {
		return rules{}, f.err
	}
	key := strings.Join(dir, "/")
	f.mu.Lock()
	known, ok := f.dirs[key]
	f.mu.Unlock()
	if ok {
		return known, nil
	}
	r := f.base
	if len(dir) > 0 {
		var err error
		if r, err = f.rules(dir[:len(dir)-1]); err != nil {
			return rules{}, err
		}
	}
	r, err := f.own(r, dir)
	if err != nil {
		return rules{}, err
	}
	f.mu.Lock()
	f.dirs[key] = r
	f.mu.Unlock()
	return r, nil
}

// own adds what the directory's own ignore file says to r.
func (f *filtered) own(r rules, dir []string) (rules, error) {
	name := path.Join(path.Join(dir...), ignoreFile)
	e, err := f.tree.Stat(name)
	if errors.Is(err, tree.ErrNotExist) || err == nil && !e.Kind.IsFile() {
		return r, nil
	}
	if err != nil {
		return rules{}, err
	}
	content, err := f.tree.ReadFile(name, maxIgnoreBytes)
	if err != nil {
		return rules{}, err
	}
	return r.with(strings.Split(string(content), "\n"), dir)
}

// split returns the names on a path; none for the root.
func split(name string) []string {
	name = strings.TrimPrefix(path.Clean("/"+name), "/")
	if name == "" {
		return nil
	}
	return strings.Split(name, "/")
}
