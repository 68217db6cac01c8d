package tree

import (
	"archive/tar"
	"errors"
	"io"
	"path"
	"strings"

	"github.com/holdfastcd/holdfast/internal/fault"
)

// Tar adds the files of a tar archive, which is read to its end, or to where what it says
// of itself is too much. Files and symlinks within the tree are taken, directories are
// where files are; anything else (hard links, devices) is refused. Whatever is below a
// directory .git is left out, as in Git. Errors are *fault.Error: Invalid for what is no
// archive, Refused, Limit.
func (b *Builder) Tar(r io.Reader) error {
	all, _ := b.Room()
	// The headers and the padding of a file have a few blocks; names may take more.
	in := &metered{r: r, left: all + int64(b.of.limits.Count)*4*blockSize}
	archive := tar.NewReader(in)
	for n := 0; ; n++ {
		h, err := archive.Next()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return in.told(err)
		case n >= b.of.limits.Count:
			return fault.New(fault.Limit, "the archive has more than %d entries", b.of.limits.Count)
		}
		if err := b.entry(h, archive); err != nil {
			return in.told(err)
		}
	}
}

const blockSize = 512

// entry adds what one header of an archive describes.
func (b *Builder) entry(h *tar.Header, content io.Reader) error {
	if hidden(h.Name) {
		return nil
	}
	switch h.Typeflag {
	case tar.TypeXGlobalHeader: // what git archive says of the commit
		return nil
	case tar.TypeDir:
		_, err := cleanName(h.Name)
		return err
	case tar.TypeSymlink:
		return b.Symlink(h.Name, h.Linkname)
	case tar.TypeReg:
		return b.regular(h, content)
	}
	return fault.New(fault.Refused, "only files, directories and symlinks can be delivered").At(path.Clean(h.Name), 0)
}

func (b *Builder) regular(h *tar.Header, r io.Reader) error {
	if _, each := b.Room(); h.Size > each {
		return fault.New(fault.Limit, "the file has %d bytes, and %d are allowed, or left", h.Size, each).At(path.Clean(h.Name), 0)
	}
	content, err := io.ReadAll(r) // no more than the header says
	if err != nil {
		return err
	}
	return b.File(h.Name, content)
}

// hidden reports whether a name is one of Git's own.
func hidden(name string) bool {
	for step := range strings.SplitSeq(path.Clean(name), "/") {
		if step == ".git" {
			return true
		}
	}
	return false
}

// metered is a reader that ends in an error where it has given too much.
type metered struct {
	r    io.Reader
	left int64
	err  error // that ended it
}

// Read implements io.Reader.
func (m *metered) Read(p []byte) (int, error) {
	if m.err != nil {
		return 0, m.err
	}
	if m.left <= 0 {
		m.err = fault.New(fault.Limit, "the archive unpacks to more than is allowed")
		return 0, m.err
	}
	n, err := m.r.Read(p[:min(int64(len(p)), m.left)])
	m.left -= int64(n)
	if err != nil && !errors.Is(err, io.EOF) {
		m.err = err
	}
	return n, err
}

// told is an error of an archive as ours.
func (m *metered) told(err error) error {
	if own, ok := errors.AsType[*fault.Error](err); ok {
		return own
	}
	if own, ok := errors.AsType[*fault.Error](m.err); ok {
		return own
	}
	return fault.New(fault.Invalid, "it is no archive that can be unpacked: %v", err).Because(err)
}
