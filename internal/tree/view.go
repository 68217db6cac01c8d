package tree

import (
	"cmp"
	"errors"
	"path"
	"slices"
	"strings"

	"github.com/holdfastcd/holdfast/internal/fault"
)

// maxTarget is more than any path or symlink target that an operating system accepts.
const maxTarget = 4096

// View is the door through which a renderer sees a tree. It follows symlinks
// that stay inside the tree, refuses those that do not, counts what it gives
// out, and records every question with the digest of its answer, absences
// included. It is for one goroutine.
//
// What a view tells is no more than what it records: the entries it returns
// carry no digests, so that nothing can depend on content that was not read.
type View struct {
	tree   Tree
	limits Limits
	bytes  int64
	asked  int
	reads  map[question]Digest
}

type question struct {
	op   Op
	path string
}

// NewView returns a view of t that has recorded nothing yet.
func NewView(t Tree, limits Limits) *View {
	return &View{tree: t, limits: limits.withDefaults(), reads: map[question]Digest{}}
}

// ReadFile returns the content of the file at name. Errors are *fault.Error:
// NotFound (wrapping [ErrNotExist]), Invalid (a directory), Refused (leaves the
// tree), Limit.
func (v *View) ReadFile(name string) ([]byte, error) {
	p, e, err := v.resolve(name)
	if err != nil {
		return nil, err
	}
	if !e.Kind.IsFile() {
		v.record(OpKind, p, kindDigest(e.Kind))
		return nil, wrongKind(p, e.Kind, "file")
	}
	content, err := v.tree.ReadFile(p, v.limits.FileBytes)
	if err != nil {
		return nil, err
	}
	if v.bytes += int64(len(content)); v.bytes > v.limits.TotalBytes {
		return nil, fault.New(fault.Limit, "more than %d bytes were read from the source", v.limits.TotalBytes).At(p, 0)
	}
	v.record(OpFile, p, e.Digest)
	return content, nil
}

// ReadDir returns names and kinds of the entries of the directory at name,
// sorted by name. Errors are as for ReadFile, with Invalid for a file.
func (v *View) ReadDir(name string) ([]Entry, error) {
	p, e, err := v.resolve(name)
	if err != nil {
		return nil, err
	}
	if e.Kind != Dir {
		v.record(OpKind, p, kindDigest(e.Kind))
		return nil, wrongKind(p, e.Kind, "directory")
	}
	entries, err := v.tree.ReadDir(p)
	if err != nil {
		return nil, err
	}
	v.record(OpDir, p, ListingDigest(entries))
	bare := make([]Entry, len(entries))
	for i, e := range entries {
		bare[i] = Entry{Name: e.Name, Kind: e.Kind}
	}
	return bare, nil
}

// Stat returns the kind of what is at name, and its name, after symlinks.
// Errors are NotFound, Refused and Limit as for ReadFile.
func (v *View) Stat(name string) (Entry, error) {
	_, e, err := v.Resolve(name)
	return e, err
}

// Resolve is Stat that also returns the path which name leads to: clean,
// relative to the root ("" itself), and free of symlinks.
func (v *View) Resolve(name string) (string, Entry, error) {
	p, e, err := v.resolve(name)
	if err != nil {
		return "", Entry{}, err
	}
	v.record(OpKind, p, kindDigest(e.Kind))
	return p, Entry{Name: e.Name, Kind: e.Kind}, nil
}

// Trace returns what was asked so far, sorted by path and operation.
func (v *View) Trace() Trace {
	trace := make(Trace, 0, len(v.reads))
	for q, d := range v.reads {
		trace = append(trace, Read{Op: q.op, Path: q.path, Digest: d})
	}
	slices.SortFunc(trace, func(a, b Read) int {
		return cmp.Or(cmp.Compare(a.Path, b.Path), cmp.Compare(a.Op, b.Op))
	})
	return trace
}

func (v *View) record(op Op, p string, d Digest) { v.reads[question{op, p}] = d }

// resolve returns the literal path and entry that name leads to. It records
// symlinks and absences; the caller records what it takes from the entry.
func (v *View) resolve(name string) (string, Entry, error) {
	if v.asked++; v.asked > v.limits.Count {
		return "", Entry{}, fault.New(fault.Limit, "the source was asked more than %d times", v.limits.Count)
	}
	if len(name) > maxTarget {
		return "", Entry{}, fault.New(fault.Limit, "a path of %d bytes is too long", len(name))
	}
	if path.IsAbs(name) || strings.IndexByte(name, 0) >= 0 {
		return "", Entry{}, fault.New(fault.Refused, "the path %q is not relative to the source", name)
	}
	// The common case costs one look: a clean path without symlinks.
	if p := literal(name); p == "" || path.Clean(p) == p && !strings.HasPrefix(p, "..") {
		e, err := v.tree.Stat(p)
		if err == nil && e.Kind != Symlink {
			return p, e, nil
		}
		if err != nil && !errors.Is(err, ErrNotExist) {
			return "", Entry{}, err
		}
	}
	w := walk{view: v, asked: name, rest: strings.Split(name, "/")}
	return w.run()
}

// walk resolves a path step by step, as an operating system does: "link/.." is
// the parent of what link points to.
type walk struct {
	view  *View
	asked string
	at    []string // resolved so far: directories only, no symlinks
	rest  []string
	hops  int
	link  string // the symlink followed last, "" if none
	to    string // its target
}

func (w *walk) run() (string, Entry, error) {
	entry := Entry{Kind: Dir}
	for len(w.rest) > 0 {
		step := w.rest[0]
		w.rest = w.rest[1:]
		switch step {
		case "", ".":
			continue
		case "..":
			if len(w.at) == 0 {
				return "", Entry{}, w.escapes()
			}
			w.at = w.at[:len(w.at)-1]
			continue
		}
		var err error
		if entry, err = w.enter(step); err != nil {
			return "", Entry{}, err
		}
	}
	p := strings.Join(w.at, "/")
	if entry.Kind == Dir { // also after "..", when entry is stale
		var err error
		if entry, err = w.view.tree.Stat(p); err != nil {
			return "", Entry{}, err
		}
	}
	return p, entry, nil
}

// enter goes one name down, or replaces a symlink by its target.
func (w *walk) enter(step string) (Entry, error) {
	p := path.Join(path.Join(w.at...), step)
	e, err := w.view.tree.Stat(p)
	if errors.Is(err, ErrNotExist) {
		w.view.record(OpAbsent, p, "")
		return Entry{}, w.notExist(p)
	}
	if err != nil {
		return Entry{}, err
	}
	if e.Kind == Symlink {
		return Entry{Kind: Dir}, w.follow(p, e)
	}
	if e.Kind != Dir && len(w.rest) > 0 {
		w.view.record(OpKind, p, kindDigest(e.Kind)) // a file has nothing below it
		return Entry{}, w.notExist(p)
	}
	w.at = append(w.at, step)
	return e, nil
}

func (w *walk) follow(p string, e Entry) error {
	if w.hops++; w.hops > w.view.limits.Hops {
		return fault.New(fault.Limit, "more than %d symlinks lead on from %s", w.view.limits.Hops, w.asked).At(p, 0)
	}
	target, err := w.view.tree.ReadFile(p, maxTarget)
	if err != nil {
		return err
	}
	w.view.record(OpLink, p, e.Digest)
	w.link, w.to = p, string(target)
	if path.IsAbs(w.to) || strings.IndexByte(w.to, 0) >= 0 || w.to == "" {
		return w.escapes()
	}
	w.rest = append(strings.Split(w.to, "/"), w.rest...)
	return nil
}

func (w *walk) escapes() error {
	if w.link == "" {
		return fault.New(fault.Refused, "the path %q leaves the source", w.asked)
	}
	return fault.New(fault.Refused, "the symlink points to %q, outside of the source", w.to).At(w.link, 0)
}

func (w *walk) notExist(p string) error {
	var f *fault.Error
	if w.link == "" || !errors.As(NotExist(p), &f) {
		return NotExist(p)
	}
	return f.WithHint("the symlink %s points there", w.link)
}

func wrongKind(p string, is Kind, want string) error {
	f := fault.New(fault.Invalid, "this is a %s, not a %s", is, want).At(p, 0)
	if is == Submodule {
		return f.WithHint("submodules are not fetched")
	}
	return f
}
