package audit

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/transparency-dev/tessera"
)

// Store is where a log lies: what files and buckets have in common. Its files have the
// names of https://c2sp.org/tlog-tiles, records beside them; .state/treeState tells how
// far the tree goes, signed or not, as JSON ({"size":3,"root":"base64"}). Errors are
// *fault.Error, and never tell credentials. Package audittest has the tests of what is
// demanded here.
type Store interface { //nolint:interfacebloat // a store is all of it, or none
	Lister
	// Where says where the log is, for people.
	Where() string
	// Put writes a file whole or not at all: when it returns, it is durable. A file that
	// is there already stays as it is (false), unless it is to be replaced.
	Put(ctx context.Context, name string, data []byte, replace bool) (written bool, err error)
	// Own waits until no other process may write to the log: Waiting, if ctx ends before.
	// dir is on this machine, and locked: the processes that use it come one after the other.
	Own(ctx context.Context, dir string) (Lease, error)
	// Tidy removes files that a log of this size, signed so far, does not need.
	Tidy(ctx context.Context, size, signed uint64) error
	// Driver keeps the tree. What it was given is durable when it has an index; it may
	// take a while until the files tell it.
	Driver(ctx context.Context) (Driver, error)
	// MinSign is the least time between two checkpoints.
	MinSign() time.Duration
}

// Driver is what a log wants of tessera's drivers: the appender itself, without
// tessera's wrapping, which reads the state of the tree ten times a second for
// metrics, also when nothing happens.
type Driver interface {
	Appender(ctx context.Context, o *tessera.AppendOptions) (*tessera.Appender, tessera.LogReader, error)
}

// Lease is the right to write to a log.
type Lease interface {
	// Err is why nothing may be acknowledged now: Waiting. It may pass, unless Lost is closed.
	Err() error
	// Lost is closed once another process has the right.
	Lost() <-chan struct{}
	// Close gives it back.
	Close() error
}

// folder is a Store of files in a directory.
type folder struct{ Dir }

// Where implements Store.
func (f folder) Where() string { return string(f.Dir) }

// Put implements Store.
func (f folder) Put(_ context.Context, name string, data []byte, replace bool) (bool, error) {
	path := filepath.Join(string(f.Dir), filepath.FromSlash(name))
	if err := makeDir(filepath.Dir(path)); err != nil {
		return false, err
	}
	if !replace {
		if _, err := os.Stat(path); err == nil { //nolint:gosec // where the log is, its owner says
			return false, syncDir(filepath.Dir(path)) // a crash may have come before this
		}
	}
	drafts := filepath.Join(string(f.Dir), draftsDir)
	if err := makeDir(drafts); err != nil {
		return false, err
	}
	return true, writeFile(drafts, path, data)
}

// Own implements Store: the directory's lock is enough.
func (f folder) Own(context.Context, string) (Lease, error) { return forever{}, nil }

// Tidy implements Store: it removes what a crash left of a batch that was never
// acknowledged, drafts of tessera's, and partial tiles where the full one is signed.
func (f folder) Tidy(_ context.Context, size, signed uint64) error {
	dir := string(f.Dir)
	err := fs.WalkDir(os.DirFS(dir), ".", func(name string, e fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case name == "records", name == indexDir:
			return fs.SkipDir
		case e.IsDir(), !superfluous(name, size, signed):
			return nil
		}
		return os.Remove(filepath.Join(dir, filepath.FromSlash(name)))
	})
	if err != nil {
		return unusable(dir, err)
	}
	return nil
}

// Driver implements Store.
func (f folder) Driver(ctx context.Context) (Driver, error) {
	made, err := posixDriver(ctx, string(f.Dir))
	if err != nil {
		return nil, err
	}
	d, ok := made.(Driver)
	if !ok {
		return nil, errors.New("tessera's driver cannot append")
	}
	return d, nil
}

// MinSign implements Store: it is tessera's.
func (f folder) MinSign() time.Duration { return 100 * time.Millisecond }

// forever is a lease that nobody can take.
type forever struct{}

// Err implements Lease.
func (forever) Err() error { return nil }

// Lost implements Lease.
func (forever) Lost() <-chan struct{} { return nil }

// Close implements Lease.
func (forever) Close() error { return nil }
