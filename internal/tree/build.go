package tree

import (
	"io/fs"
	"path"
	"slices"
	"strings"
	"unicode"

	"github.com/holdfastcd/holdfast/internal/fault"
)

// maxDepth bounds how deep a file of an archive or a bucket may lie.
const maxDepth = 64

// Builder makes a tree of files that come one by one, from an archive or a bucket. What it
// is given is a stranger's: a name that leaves the tree, stands twice, or is a file and a
// directory, is refused, and no more is taken than the limits say.
type Builder struct {
	of *loader
}

// NewBuilder returns a builder of an empty tree.
func NewBuilder(limits Limits) *Builder { return &Builder{newLoader(nil, limits.withDefaults())} }

// Room returns how many bytes the files that are yet to come may have: all of them, and one.
func (b *Builder) Room() (all, each int64) {
	all = b.of.limits.TotalBytes - b.of.bytes
	return all, min(all, b.of.limits.FileBytes)
}

// File adds a file, and keeps content. Errors: Refused for its name, Limit.
func (b *Builder) File(name string, content []byte) error {
	name, err := b.place(name)
	if err != nil {
		return err
	}
	if all, each := b.Room(); int64(len(content)) > each {
		return fault.New(fault.Limit, "the file has %d bytes, of %d that are allowed and %d that are left", len(content), b.of.limits.FileBytes, all).At(name, 0)
	}
	b.of.bytes += int64(len(content))
	b.of.add(name, File, BlobDigest(content), slices.Clip(content))
	return nil
}

// Symlink adds a symlink to another place in the tree. Errors: Refused for its name, or for
// a target outside of the tree; Limit.
func (b *Builder) Symlink(name, target string) error {
	name, err := b.place(name)
	if err != nil {
		return err
	}
	if end := path.Join(path.Dir(name), target); path.IsAbs(target) || !fs.ValidPath(end) || strings.ContainsRune(target, '\\') {
		return fault.New(fault.Refused, "the symlink leads out of the source").At(name, 0)
	}
	b.of.add(name, Symlink, BlobDigest([]byte(target)), []byte(target))
	return nil
}

// Tree returns what was added. Nothing may be added after it.
func (b *Builder) Tree() Tree { return b.of.tree() }

// place returns the clean form of a name that is free.
func (b *Builder) place(name string) (string, error) {
	clean, err := cleanName(name)
	if err != nil {
		return "", err
	}
	if len(b.of.entries) >= b.of.limits.Count {
		return "", fault.New(fault.Limit, "the source has more than %d files and directories", b.of.limits.Count)
	}
	if _, taken := b.of.entries[clean]; taken || clean == "." {
		return "", fault.New(fault.Refused, "it is there twice, and what counts is not clear").At(clean, 0)
	}
	for dir := parent(clean); dir != ""; dir = parent(dir) {
		if e, ok := b.of.entries[dir]; ok && e.Kind != Dir {
			return "", fault.New(fault.Refused, "it lies below %s, which is a %s", dir, e.Kind).At(clean, 0)
		}
	}
	return clean, nil
}

// cleanName returns the clean form of a relative name that stays in the tree. Errors:
// Refused, Limit.
func cleanName(name string) (string, error) {
	clean := path.Clean(name)
	switch {
	case !fs.ValidPath(clean) || slices.Contains(strings.Split(name, "/"), "..") || strings.ContainsRune(name, '\\') || strings.ContainsFunc(name, unicode.IsControl):
		return "", fault.New(fault.Refused, "the name %.200q leads out of the source, or is that of no file", name)
	case strings.Count(clean, "/") >= maxDepth:
		return "", fault.New(fault.Limit, "the file lies deeper than %d directories", maxDepth).At(clean[:min(len(clean), 200)], 0)
	}
	return clean, nil
}
