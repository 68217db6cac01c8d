package render

import (
	"encoding/json"
	"errors"
	"path"
	"path/filepath"
	"strings"

	"sigs.k8s.io/kustomize/api/types"
	"sigs.k8s.io/kustomize/kyaml/filesys"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/tree"
	"github.com/holdfastcd/holdfast/internal/worker"
)

// mount is where kustomize sees the tree. It is not the root, so that a path
// with too many ".." shows.
const mount = "/source"

// overlay is the file system that kustomize sees: the tree, read when it is
// asked for and once only, with a few files laid over it in memory. It cannot be
// written to. It remembers the first fault that is more than "not there",
// because kustomize reduces errors to text, or ignores them.
type overlay struct {
	files worker.Files
	over  map[string][]byte // by path in the tree
	read  map[string]content
	order []string // of first successful reads
	first *fault.Error
}

type content struct {
	data []byte
	err  error
}

func newOverlay(files worker.Files) *overlay {
	return &overlay{files: files, over: map[string][]byte{}, read: map[string]content{}}
}

// lay puts a kustomization file over the tree. Errors: Internal.
func (o *overlay) lay(name string, k *types.Kustomization) error {
	text, err := json.Marshal(k)
	if err != nil {
		return fault.New(fault.Internal, "the kustomization has no JSON form: %v", err)
	}
	o.over[name] = text
	return nil
}

// readFile reads a file by its path in the tree.
func (o *overlay) readFile(name string) ([]byte, error) {
	if data, ok := o.over[name]; ok {
		return data, nil
	}
	c, ok := o.read[name]
	if !ok {
		if c.data, c.err = o.files.ReadFile(name); c.err == nil && isManifest(path.Base(name)) {
			c.err = boundAliases(name, c.data)
		}
		o.read[name] = c
		if o.note(c.err); c.err == nil {
			o.order = append(o.order, name)
		}
	}
	return c.data, c.err
}

// resolve looks at a path in the tree.
func (o *overlay) resolve(name string) (string, tree.Entry, error) {
	if _, ok := o.over[name]; ok {
		return name, tree.Entry{Name: path.Base(name), Kind: tree.File}, nil
	}
	at, e, err := o.files.Resolve(name)
	o.note(err)
	return at, e, err
}

// note remembers the first fault that must not be lost. NotFound and Invalid
// (a directory read as a file) are how kustomize finds out what a path is.
func (o *overlay) note(err error) {
	var f *fault.Error
	if o.first == nil && errors.As(err, &f) && f.Kind != fault.NotFound && f.Kind != fault.Invalid {
		o.first = f
	}
}

// kustomizationIn returns the path of a directory's kustomization file, "" if
// there is none. More than one is Invalid.
func (o *overlay) kustomizationIn(dir string) (string, error) {
	found := ""
	for _, name := range kustomizationNames {
		p := path.Join(dir, name)
		_, err := o.readFile(p)
		var f *fault.Error
		if errors.As(err, &f) && f.Kind != fault.NotFound && f.Kind != fault.Invalid {
			return "", err
		}
		if err == nil && found != "" {
			return "", fault.New(fault.Invalid, "there is also %s: kustomize takes only one", name).At(found, 0)
		}
		if err == nil {
			found = p
		}
	}
	return found, nil
}

// inTree returns the path in the tree of a path that kustomize uses.
func (o *overlay) inTree(name string) (string, error) {
	if !path.IsAbs(name) {
		name = path.Join(mount, name)
	}
	name = path.Clean(name)
	if name == mount {
		return "", nil
	}
	if in, ok := strings.CutPrefix(name, mount+"/"); ok {
		return in, nil
	}
	err := fault.New(fault.Refused, "the path %q leaves the source", name)
	o.note(err)
	return "", err
}

// ReadFile implements filesys.FileSystem.
func (o *overlay) ReadFile(name string) ([]byte, error) {
	in, err := o.inTree(name)
	if err != nil {
		return nil, err
	}
	return o.readFile(in)
}

// CleanedAbs implements filesys.FileSystem: it follows symlinks.
func (o *overlay) CleanedAbs(name string) (filesys.ConfirmedDir, string, error) {
	in, err := o.inTree(name)
	if err != nil {
		return "", "", err
	}
	at, e, err := o.resolve(in)
	if err != nil {
		return "", "", err
	}
	at = path.Join(mount, at)
	if e.Kind == tree.Dir {
		return filesys.ConfirmedDir(at), "", nil
	}
	return filesys.ConfirmedDir(path.Dir(at)), path.Base(at), nil
}

func (o *overlay) kind(name string) tree.Kind {
	in, err := o.inTree(name)
	if err != nil {
		return 0
	}
	_, e, err := o.resolve(in)
	if err != nil {
		return 0
	}
	return e.Kind
}

// IsDir implements filesys.FileSystem.
func (o *overlay) IsDir(name string) bool { return o.kind(name) == tree.Dir }

// Exists implements filesys.FileSystem.
func (o *overlay) Exists(name string) bool { return o.kind(name) != 0 }

// ReadDir implements filesys.FileSystem.
func (o *overlay) ReadDir(name string) ([]string, error) {
	in, err := o.inTree(name)
	if err != nil {
		return nil, err
	}
	entries, err := o.files.ReadDir(in)
	o.note(err)
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name
	}
	return names, err
}

// errReadOnly is for what a build has no need of.
func errReadOnly(name string) error {
	return fault.New(fault.Internal, "kustomize may only read %q", name)
}

// Open implements filesys.FileSystem; a build does not use it.
func (o *overlay) Open(name string) (filesys.File, error) { return nil, errReadOnly(name) }

// Create implements filesys.FileSystem.
func (o *overlay) Create(name string) (filesys.File, error) { return nil, errReadOnly(name) }

// Mkdir implements filesys.FileSystem.
func (o *overlay) Mkdir(name string) error { return errReadOnly(name) }

// MkdirAll implements filesys.FileSystem.
func (o *overlay) MkdirAll(name string) error { return errReadOnly(name) }

// RemoveAll implements filesys.FileSystem.
func (o *overlay) RemoveAll(name string) error { return errReadOnly(name) }

// WriteFile implements filesys.FileSystem.
func (o *overlay) WriteFile(name string, _ []byte) error { return errReadOnly(name) }

// Glob implements filesys.FileSystem; a build does not use it.
func (o *overlay) Glob(pattern string) ([]string, error) { return nil, errReadOnly(pattern) }

// Walk implements filesys.FileSystem; a build does not use it.
func (o *overlay) Walk(name string, _ filepath.WalkFunc) error { return errReadOnly(name) }
