package flux

import (
	"errors"
	"maps"
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
	maxIgnoreCopies   = 1_000_000 // patterns of all directories with lists of their own
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

// rules are the patterns that count in one directory, and what they say of the
// directory itself. The last pattern that matches a path decides. A pattern that
// matches a directory matches everything in it, so that for an entry only its own
// name is looked at: nearly every pattern is a name, or the end of one, and found
// in a table; the few others are tried one by one.
type rules struct {
	*patterns
	// dir is the position of the last pattern that matches the directory; 0: none does.
	dir int
}

// patterns are a list of patterns, compiled.
type patterns struct {
	count int
	// includes are those that take something back in: a directory which is left
	// out may then still hold what is not.
	includes map[int]bool
	names    map[string]last // by the whole name
	ends     map[string]last // by the end of the name, from a dot on: *.tar.gz
	others   []other
}

// last are the positions of the last pattern for anything of a name, and of the
// last for directories alone, counted from 1; 0: there is none.
type last struct{ any, dirs int }

// other is a pattern that no table can find.
type other struct {
	at      int
	pattern gitignore.Pattern
}

// with returns r followed by the patterns in lines, which count below domain.
func (r rules) with(lines, domain []string) (rules, error) {
	out := &patterns{includes: map[int]bool{}, names: map[string]last{}, ends: map[string]last{}}
	if old := r.patterns; old != nil {
		out = &patterns{old.count, maps.Clone(old.includes), maps.Clone(old.names), maps.Clone(old.ends), slices.Clip(old.others)}
	}
	for _, line := range lines {
		line = strings.TrimSuffix(line, "\r")
		if strings.TrimSpace(line) == "" || strings.HasPrefix(line, "#") {
			continue
		}
		out.add(line, domain)
	}
	if out.count > maxIgnorePatterns {
		return rules{}, fault.New(fault.Limit, "the source is filtered by more than %d patterns", maxIgnorePatterns)
	}
	return rules{out, r.dir}, nil
}

// add compiles one pattern.
func (p *patterns) add(line string, domain []string) {
	p.count++
	text, includes := strings.CutPrefix(line, "!")
	if includes {
		p.includes[p.count] = true
	}
	text, dirs := strings.CutSuffix(text, "/")
	text = strings.TrimPrefix(text, "**/") // which is what a name without it means
	end, isEnd := strings.CutPrefix(text, "*.")
	switch {
	case !strings.ContainsAny(text, special):
		enter(p.names, text, p.count, dirs)
	case isEnd && !strings.ContainsAny(end, special):
		enter(p.ends, "."+end, p.count, dirs)
	default:
		p.others = append(p.others, other{p.count, gitignore.ParsePattern(line, domain)})
	}
}

// special is what makes a pattern more than a name; a blank, because one at the
// end of a line may or may not be part of it.
const special = `/*?[]\ `

func enter(table map[string]last, name string, at int, dirs bool) {
	l := table[name]
	if dirs {
		l.dirs = at
	} else {
		l.any = at
	}
	table[name] = l
}

// match returns the position of the last pattern that matches an entry of the
// directory dir, to which r belongs; 0: none does.
func (r rules) match(dir, name string, isDir bool) int {
	best := max(r.dir, r.names[name].of(isDir))
	for i := range len(name) {
		if name[i] == '.' {
			best = max(best, r.ends[name[i:]].of(isDir))
		}
	}
	var parts []string
	for _, o := range slices.Backward(r.others) {
		if o.at <= best {
			break
		}
		if parts == nil {
			parts = append(split(dir), name)
		}
		if o.pattern.Match(parts, isDir) != gitignore.NoMatch {
			return o.at
		}
	}
	return best
}

func (l last) of(isDir bool) int {
	if isDir {
		return max(l.any, l.dirs)
	}
	return l.any
}

// hides reports whether an entry of the directory dir is left out.
func (r rules) hides(dir, name string, kind tree.Kind) bool {
	isDir := kind == tree.Dir
	if isDir && len(r.includes) > 0 {
		return false
	}
	at := r.match(dir, name, isDir)
	return at > 0 && !r.includes[at]
}

// filtered is a tree seen through ignore rules.
type filtered struct {
	tree tree.Tree
	base rules
	err  error

	mu     sync.Mutex
	dirs   map[string]rules // by directory: what counts for its entries
	copies int
}

// Stat implements [tree.Tree].
func (f *filtered) Stat(name string) (tree.Entry, error) {
	e, err := f.tree.Stat(name)
	if err != nil {
		return e, err
	}
	at := clean(name)
	if at == "" {
		return e, nil
	}
	dir, base := cut(at)
	r, err := f.rules(dir)
	switch {
	case err != nil:
		return tree.Entry{}, err
	case r.hides(dir, base, e.Kind):
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
	dir := clean(name)
	r, err := f.rules(dir)
	if err != nil {
		return nil, err
	}
	entries := make([]tree.Entry, 0, len(all))
	for _, e := range all {
		if !r.hides(dir, e.Name, e.Kind) {
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
func (f *filtered) rules(dir string) (rules, error) {
	if f.err != nil {
		return rules{}, f.err
	}
	f.mu.Lock()
	known, ok := f.dirs[dir]
	f.mu.Unlock()
	if ok {
		return known, nil
	}
	r := f.base
	if dir != "" {
		above, name := cut(dir)
		var err error
		if r, err = f.rules(above); err != nil {
			return rules{}, err
		}
		r.dir = r.match(above, name, true)
	}
	r, err := f.own(r, dir)
	if err != nil {
		return rules{}, err
	}
	f.mu.Lock()
	f.dirs[dir] = r
	f.mu.Unlock()
	return r, nil
}

// own adds what the directory's own ignore file says to r.
func (f *filtered) own(r rules, dir string) (rules, error) {
	name := path.Join(dir, ignoreFile)
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
	mine, err := r.with(strings.Split(string(content), "\n"), split(dir))
	if err != nil {
		return rules{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.copies += mine.count; f.copies > maxIgnoreCopies {
		return rules{}, fault.New(fault.Limit, "too many directories of the source have a %s of their own", ignoreFile).At(name, 0)
	}
	return mine, nil
}

// clean returns a path without what leads nowhere; "" for the root.
func clean(name string) string {
	c := path.Clean(name)
	if c == "." || c == "/" {
		return ""
	}
	if !strings.HasPrefix(c, "/") && !strings.HasPrefix(c, "..") {
		return c
	}
	return strings.TrimPrefix(path.Clean("/"+name), "/")
}

// cut returns the directory and the name of a clean path.
func cut(name string) (dir, base string) {
	i := strings.LastIndexByte(name, '/')
	return name[:max(i, 0)], name[i+1:]
}

// split returns the names on a clean path; none for the root.
func split(name string) []string {
	if name == "" {
		return nil
	}
	return strings.Split(name, "/")
}
