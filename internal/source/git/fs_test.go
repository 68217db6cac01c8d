package git

import (
	"io/fs"
	"path"
	"testing/fstest"

	"github.com/holdfastcd/holdfast/internal/tree"
)

// fsOf reads a whole tree as a file system: whoever walks it touches every object.
type fsOf struct{ tree.Tree }

func (f fsOf) Open(name string) (fs.File, error) {
	files := fstest.MapFS{}
	if err := f.collect(".", files); err != nil {
		return nil, err
	}
	return files.Open(name)
}

func (f fsOf) collect(dir string, files fstest.MapFS) error {
	entries, err := f.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := path.Join(dir, e.Name)
		if e.Kind == tree.Dir {
			if err := f.collect(name, files); err != nil {
				return err
			}
			continue
		}
		content, err := f.ReadFile(name, 1<<30)
		if err != nil {
			return err
		}
		files[name] = &fstest.MapFile{Data: content, Mode: 0o644}
	}
	return nil
}
