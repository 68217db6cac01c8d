package secret

import (
	"context"

	"github.com/holdfastcd/holdfast/internal/tree"
)

// Tree is a tree whose sealed files are opened as they are read. Entries keep the
// digests of the files as they are committed, so that a trace of what was read from it
// is a trace of the tree below.
type Tree struct {
	tree.Tree

	ctx    context.Context //nolint:containedctx // a tree is read within one rendering, whose context this is
	opener Opener
	mask   *Mask
}

// NewTree returns t, opened by o within ctx; values that come out are added to mask.
func NewTree(ctx context.Context, t tree.Tree, o Opener, mask *Mask) *Tree {
	return &Tree{Tree: t, ctx: ctx, opener: o, mask: mask}
}

// ReadFile returns the content of a file, opened if it is sealed. The limit is on both
// forms. Errors are those of the tree, and of [Opener.Open].
func (t *Tree) ReadFile(path string, limit int64) ([]byte, error) {
	content, err := t.Tree.ReadFile(path, limit)
	if err != nil {
		return nil, err
	}
	opened, sealed, err := t.opener.Open(t.ctx, path, content)
	if err != nil || !sealed {
		return content, err
	}
	for _, v := range opened.Values {
		t.mask.Add(string(v.Reveal()))
	}
	plain := opened.Content.Reveal()
	if int64(len(plain)) > limit {
		return nil, tree.TooLarge(path, int64(len(plain)), limit)
	}
	return plain, nil
}
