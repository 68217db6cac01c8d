package secret

import (
	"context"
	"sync"

	"github.com/holdfastcd/holdfast/internal/tree"
)

// Tree is a tree whose sealed files are opened as they are read. Entries keep the
// digests of the files as they are committed, so that a trace of what was read from it
// is a trace of the tree below. It is safe for concurrent use if that tree is.
type Tree struct {
	tree.Tree

	opener Opener
	mask   *Mask

	mu     sync.Mutex
	ctx    context.Context //nolint:containedctx // a tree is read within one rendering, whose context this is
	opened []Text
	failed error // the first, of opening
}

// NewTree returns t, opened by o within ctx; values that come out are added to mask.
func NewTree(ctx context.Context, t tree.Tree, o Opener, mask *Mask) *Tree {
	return &Tree{Tree: t, ctx: ctx, opener: o, mask: mask}
}

// Within has files be opened within ctx from now on, which is that of the job that
// reads them: a key service that does not answer holds it up for no longer than that.
func (t *Tree) Within(ctx context.Context) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ctx = ctx
}

func (t *Tree) within() context.Context {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.ctx
}

// ReadFile returns the content of a file, opened if it is sealed. The limit is on both
// forms. Errors are those of the tree, and of [Opener.Open].
func (t *Tree) ReadFile(path string, limit int64) ([]byte, error) {
	content, err := t.Tree.ReadFile(path, limit)
	if err != nil {
		return nil, err
	}
	opened, sealed, err := t.opener.Open(t.within(), path, content)
	if err != nil {
		t.fail(err)
		return nil, err
	}
	if !sealed {
		return content, nil
	}
	t.note(opened.Values)
	plain := opened.Content.Reveal()
	if int64(len(plain)) > limit {
		return nil, tree.TooLarge(path, int64(len(plain)), limit)
	}
	return plain, nil
}

func (t *Tree) note(values []Text) {
	for _, v := range values {
		t.mask.AddSealed(string(v.Reveal()))
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.opened = append(t.opened, values...)
}

func (t *Tree) fail(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.failed == nil {
		t.failed = err
	}
}

// Failed returns the first error of opening a file; nil if there was none. A renderer
// may take a file that it could not read for one that is not there, and go on.
func (t *Tree) Failed() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.failed
}

// Opened returns the values that came out of all files so far.
func (t *Tree) Opened() []Text {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.opened
}
