package audit

import (
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/holdfastcd/holdfast/internal/fault"
)

// The modes of what is written.
const (
	dirMode  = 0o755
	fileMode = 0o600
)

// unusable is a fault of the disk, or of its permissions.
func unusable(path string, err error) error {
	if f, ok := errors.AsType[*fault.Error](err); ok {
		return f
	}
	if path, ok := errors.AsType[*fs.PathError](err); ok {
		err = path.Err // the path is told once
	}
	return fault.New(fault.Internal, "%s", err).At(path, 0).Because(err).
		WithHint("see to the volume of the audit log")
}

// readBounded reads all of r, the content of the file name, refusing more than limit bytes.
func readBounded(r io.Reader, name string, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, unusable(name, err)
	}
	if int64(len(data)) > limit {
		return nil, fault.New(fault.Limit, "the file is longer than %d bytes", limit).At(name, 0)
	}
	return data, nil
}

// toJSON is the JSON of our own plain data.
func toJSON(v any) ([]byte, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return nil, fault.New(fault.Internal, "%T cannot be written as JSON: %s", v, err)
	}
	return text, nil
}

// fromJSON reads what toJSON wrote. what names it, in the file name. Fields that this
// version does not know were written by a later one, and are left out.
func fromJSON(name, what string, text []byte, v any) error {
	if err := json.Unmarshal(text, v); err != nil {
		return damaged(name, "%s is not JSON as it was written: %s", what, err)
	}
	return nil
}

// writeFile writes a file whole or not at all: when it returns nil, the content and
// the name are on disk. It is drafted in the directory drafts.
func writeFile(drafts, path string, data []byte) error {
	return writeWith(drafts, path, func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	})
}

// writeWith is writeFile for content that fill writes.
func writeWith(drafts, path string, fill func(io.Writer) error) error {
	f, err := os.CreateTemp(drafts, "new-*")
	if err != nil {
		return unusable(path, err)
	}
	defer os.Remove(f.Name()) // gone, if all went well
	err = fill(f)
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path) //nolint:gosec // where the log is, its owner says
	}
	if err == nil {
		err = syncDir(filepath.Dir(path))
	}
	if err != nil {
		return unusable(path, err)
	}
	return nil
}

// syncDir puts the names in a directory on disk.
func syncDir(dir string) error {
	d, err := os.Open(filepath.Clean(dir)) //nolint:gosec // where the log is, its owner says
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// makeDir makes a directory and its parents; their names are on disk when it returns nil.
func makeDir(dir string) error {
	if _, err := os.Stat(dir); err == nil { //nolint:gosec // where the log is, its owner says
		return nil
	}
	parent := filepath.Dir(dir)
	if parent != dir {
		if err := makeDir(parent); err != nil {
			return err
		}
	}
	if err := os.Mkdir(dir, dirMode); err != nil && !errors.Is(err, fs.ErrExist) { //nolint:gosec // where the log is, its owner says
		return unusable(dir, err)
	}
	if err := syncDir(parent); err != nil {
		return unusable(parent, err)
	}
	return nil
}
