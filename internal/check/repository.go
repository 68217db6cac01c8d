package check

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/go-git/go-billy/v5/osfs"
	"github.com/go-git/go-git/v5/plumbing/cache"
	"github.com/go-git/go-git/v5/storage/filesystem"
	"github.com/go-git/go-git/v5/storage/filesystem/dotgit"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/secret/leak"
	"github.com/holdfastcd/holdfast/internal/tree"
)

// repository is a directory with what is below it. All paths are from its root, where
// .git is; without one the directory that was named is the root.
type repository struct {
	root  *os.Root // nothing outside of it is read, whatever a symlink says
	dir   string
	below string              // what was named, from the root; "" for all
	git   *filesystem.Storage // nil: it is none of Git's
	meta  string              // Git's directory of this working tree
}

// open finds the repository of a path. Errors are *fault.Error.
func open(name string) (*repository, error) {
	full, err := filepath.Abs(name)
	if err == nil {
		full, err = filepath.EvalSymlinks(full)
	}
	if err != nil {
		return nil, unreadable(name, err)
	}
	info, err := os.Stat(full)
	if err != nil {
		return nil, unreadable(name, err)
	}
	dir := full
	if !info.IsDir() {
		dir = filepath.Dir(full)
	}
	r := &repository{dir: dir}
	if err := r.find(); err != nil {
		return nil, err
	}
	if r.root, err = os.OpenRoot(r.dir); err != nil {
		return nil, unreadable(name, err)
	}
	below, err := filepath.Rel(r.dir, full)
	if err != nil {
		return nil, unreadable(name, err)
	}
	if r.below = filepath.ToSlash(below); r.below == "." {
		r.below = ""
	}
	return r, nil
}

func (r *repository) close() {
	_ = r.root.Close() // only read from
	if r.git != nil {
		_ = r.git.Close()
	}
}

// find looks for .git in the directory and those above it.
func (r *repository) find() error {
	for dir := r.dir; ; {
		info, err := os.Lstat(filepath.Join(dir, ".git"))
		if err == nil {
			r.dir = dir
			return r.openGit(info.IsDir())
		}
		up := filepath.Dir(dir)
		if up == dir {
			return nil
		}
		dir = up
	}
}

// openGit opens the objects of the repository. The working trees that `git worktree`
// adds, and submodules, have a file that names Git's directory; working trees share
// objects and refs with the one that they were made from.
func (r *repository) openGit(isDir bool) error {
	r.meta = filepath.Join(r.dir, ".git")
	if !isDir {
		content, err := readSmall(r.meta)
		named, ok := strings.CutPrefix(strings.TrimSpace(content), "gitdir: ")
		if err != nil || !ok {
			return fault.New(fault.Invalid, "the file .git does not name a directory of Git").At(".git", 0)
		}
		r.meta = below(r.dir, named)
	}
	store := osfs.New(r.meta)
	if shared, err := readSmall(filepath.Join(r.meta, "commondir")); err == nil {
		common := osfs.New(below(r.meta, strings.TrimSpace(shared)))
		r.git = filesystem.NewStorage(dotgit.NewRepositoryFilesystem(store, common), cache.NewObjectLRUDefault())
		return nil
	}
	r.git = filesystem.NewStorageWithOptions(store, cache.NewObjectLRUDefault(), filesystem.Options{AlternatesFS: osfs.New("/")})
	return nil
}

func below(dir, name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(dir, name)
}

// readSmall reads one of Git's own small files.
func readSmall(name string) (string, error) {
	f, err := os.Open(name) //nolint:gosec // of the repository that the user named
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }() // only read from
	content, err := io.ReadAll(io.LimitReader(f, 4096))
	return string(content), err
}

// allowList reads the repository's list of what is allowed.
func (r *repository) allowList(now time.Time) (leak.AllowList, error) {
	const most = 1 << 20
	content, err := r.read(leak.AllowFile, most)
	if errors.Is(err, tree.ErrNotExist) {
		return leak.AllowList{}, nil
	}
	if err != nil {
		return leak.AllowList{}, err
	}
	return leak.ParseAllowList(content, now)
}

// remotes are the addresses that Git's own file names for this repository.
func (r *repository) remotes() []string {
	if r.git == nil {
		return nil
	}
	c, err := r.git.Config()
	if err != nil {
		return nil // it names none that can be read
	}
	var all []string
	for _, remote := range c.Remotes {
		all = append(all, remote.URLs...)
	}
	slices.Sort(all)
	return all
}

// read returns the content of a regular file.
func (r *repository) read(name string, limit int64) ([]byte, error) {
	f, err := r.root.Open(filepath.FromSlash(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, tree.NotExist(name)
	}
	if err != nil {
		return nil, unreadable(name, err)
	}
	defer func() { _ = f.Close() }() // only read from
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, unreadable(name, err)
	case !info.Mode().IsRegular():
		return nil, tree.NotExist(name)
	case info.Size() > limit:
		return nil, tree.TooLarge(name, info.Size(), limit)
	}
	content, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, unreadable(name, err)
	}
	if int64(len(content)) > limit {
		return nil, tree.TooLarge(name, int64(len(content)), limit)
	}
	return content, nil
}

// isFile reports whether a regular file is at a path, and no symlink.
func (r *repository) isFile(name string) bool {
	info, err := r.root.Lstat(filepath.FromSlash(name))
	return err == nil && info.Mode().IsRegular()
}

// covers reports whether a path is what was named, or below it.
func (r *repository) covers(name string) bool {
	return r.below == "" || name == r.below || strings.HasPrefix(name, r.below+"/")
}

func unreadable(name string, err error) error {
	kind := fault.Invalid
	if errors.Is(err, fs.ErrNotExist) {
		kind = fault.NotFound
	}
	if at, ok := errors.AsType[*fs.PathError](err); ok {
		err = at.Err
	}
	return fault.New(kind, "cannot read: %s", err).At(name, 0)
}

// parents lists the directories above a path, the root first.
func parents(name string) []string {
	var all []string
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		all = append([]string{dir}, all...)
	}
	return append([]string{"."}, all...)
}
