package tree

import (
	"cmp"
	"errors"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/holdfastcd/holdfast/internal/fault"
)

// memory is a tree held in maps by path.
type memory struct {
	entries map[string]Entry
	dirs    map[string][]Entry // sorted by name
	content map[string][]byte  // files and symlink targets; a file over the limit has none
	sizes   map[string]int64   // of the files that have no content
}

// FromFS loads a file system, usually a directory named on the command line,
// into an immutable tree with the digests that Git would give it. As in Git,
// directories named .git and empty directories do not exist; ignore rules are
// not applied. A file over limits.FileBytes is listed and has its digest, and
// cannot be read. Errors are *fault.Error: Limit when the whole is too large,
// Refused for what is neither file, directory nor symlink, NotFound and
// Internal for what cannot be read.
func FromFS(fsys fs.FS, limits Limits) (Tree, error) {
	l := newLoader(fsys, limits.withDefaults())
	if err := fs.WalkDir(fsys, ".", l.visit); err != nil {
		return nil, err
	}
	return l.tree(), nil
}

type loader struct {
	fsys   fs.FS
	limits Limits
	bytes  int64
	memory
}

func newLoader(fsys fs.FS, limits Limits) *loader {
	return &loader{fsys: fsys, limits: limits, memory: memory{
		entries: map[string]Entry{}, dirs: map[string][]Entry{"": nil},
		content: map[string][]byte{}, sizes: map[string]int64{},
	}}
}

func (l *loader) visit(name string, d fs.DirEntry, err error) error {
	if err != nil {
		return readError(name, err)
	}
	if name == "." && !d.IsDir() {
		return fault.New(fault.Invalid, "this is not a directory")
	}
	if d.Name() == ".git" {
		if d.IsDir() {
			return fs.SkipDir
		}
		return nil
	}
	if d.IsDir() {
		return nil
	}
	if len(l.entries) >= l.limits.Count {
		return fault.New(fault.Limit, "the directory has more than %d files", l.limits.Count)
	}
	switch d.Type() {
	case 0:
		return l.file(name, d)
	case fs.ModeSymlink:
		return l.symlink(name)
	default:
		return fault.New(fault.Refused, "only files, directories and symlinks can be delivered").At(name, 0)
	}
}

func (l *loader) file(name string, d fs.DirEntry) error {
	info, err := d.Info()
	if err != nil {
		return readError(name, err)
	}
	f, err := l.fsys.Open(name)
	if err != nil {
		return readError(name, err)
	}
	defer func() { _ = f.Close() }() // only read from: nothing to lose
	kind := File
	if info.Mode()&0o111 != 0 {
		kind = Executable
	}
	if info.Size() > l.limits.FileBytes {
		return l.large(name, kind, f, info.Size())
	}
	if l.bytes += info.Size(); l.bytes > l.limits.TotalBytes {
		return fault.New(fault.Limit, "the directory's files have more than %d bytes", l.limits.TotalBytes)
	}
	// One byte more than was announced shows a file that grows under our eyes.
	content, err := io.ReadAll(io.LimitReader(f, info.Size()+1))
	if err != nil {
		return readError(name, err)
	}
	if int64(len(content)) != info.Size() {
		return fault.New(fault.Internal, "the file changed while it was read").At(name, 0)
	}
	l.add(name, kind, BlobDigest(content), content)
	return nil
}

// large takes the digest of a file without keeping it.
func (l *loader) large(name string, kind Kind, f io.Reader, size int64) error {
	h := NewBlobHash(size)
	n, err := io.Copy(h, io.LimitReader(f, size+1))
	if err != nil {
		return readError(name, err)
	}
	if n != size {
		return fault.New(fault.Internal, "the file changed while it was read").At(name, 0)
	}
	l.sizes[name] = size
	l.add(name, kind, Digest(h.Sum(nil)), nil)
	return nil
}

func (l *loader) symlink(name string) error {
	links, ok := l.fsys.(fs.ReadLinkFS)
	if !ok {
		return fault.New(fault.Refused, "this file system cannot tell where the symlink points").At(name, 0)
	}
	target, err := links.ReadLink(name)
	if err != nil {
		return readError(name, err)
	}
	l.add(name, Symlink, BlobDigest([]byte(target)), []byte(target))
	return nil
}

func (l *loader) add(name string, kind Kind, digest Digest, content []byte) {
	e := Entry{Name: path.Base(name), Kind: kind, Digest: digest}
	l.entries[name] = e
	if content != nil || l.sizes[name] == 0 {
		l.content[name] = content
	}
	for dir := parent(name); ; dir = parent(dir) {
		known := l.dirs[dir] != nil
		l.dirs[dir] = append(l.dirs[dir], e)
		if known || dir == "" {
			return
		}
		e = Entry{Name: path.Base(dir), Kind: Dir}
		l.entries[dir] = e
	}
}

// tree completes the directories: their digests, deepest first, and the order
// of their entries.
func (l *loader) tree() *memory {
	names := make([]string, 0, len(l.dirs))
	for name := range l.dirs {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int { return cmp.Compare(len(b), len(a)) })
	for _, name := range names {
		children := l.dirs[name]
		slices.SortFunc(children, func(a, b Entry) int { return cmp.Compare(a.Name, b.Name) })
		for i, c := range children {
			children[i] = l.entries[path.Join(name, c.Name)]
		}
		l.entries[name] = Entry{Name: path.Base(name), Kind: Dir, Digest: treeDigest(children)}
	}
	l.entries[""] = Entry{Kind: Dir, Digest: l.entries[""].Digest}
	return &l.memory
}

func (m *memory) Stat(name string) (Entry, error) {
	if e, ok := m.entries[literal(name)]; ok {
		return e, nil
	}
	return Entry{}, NotExist(name)
}

func (m *memory) ReadDir(name string) ([]Entry, error) {
	e, err := m.Stat(name)
	if err != nil {
		return nil, err
	}
	if e.Kind != Dir {
		return nil, NotExist(name)
	}
	return slices.Clone(m.dirs[literal(name)]), nil
}

func (m *memory) ReadFile(name string, limit int64) ([]byte, error) {
	name = literal(name)
	content, ok := m.content[name]
	if ok && int64(len(content)) <= limit {
		return slices.Clone(content), nil
	}
	if ok {
		return nil, TooLarge(name, int64(len(content)), limit)
	}
	if size, ok := m.sizes[name]; ok {
		return nil, TooLarge(name, size, min(limit, size-1))
	}
	return nil, NotExist(name)
}

func literal(name string) string {
	if name == "." {
		return ""
	}
	return name
}

// parent returns the directory that holds name; "" is the root.
func parent(name string) string {
	if i := strings.LastIndexByte(name, '/'); i >= 0 {
		return name[:i]
	}
	return ""
}

func readError(name string, err error) error {
	kind := fault.Internal
	if errors.Is(err, fs.ErrNotExist) {
		kind = fault.NotFound
	}
	if at, ok := errors.AsType[*fs.PathError](err); ok {
		err = at.Err
	}
	return fault.New(kind, "cannot read: %v", err).At(name, 0).Because(err)
}
