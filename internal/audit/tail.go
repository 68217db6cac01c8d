package audit

import (
	"bytes"
	"context"
	"slices"
	"sync"
)

// tail keeps the newest entries, with the hash of the tree at each: a store may take a
// while until its files tell an entry, and what this process wrote needs no proof. It
// also knows a size of the tree at which every tile can be read.
type tail struct {
	mu      sync.Mutex
	base    head // all before it can be read
	entries []recent
}

// recent is an entry as it was hashed, and the hash of the tree that it ends.
type recent struct{ data, root []byte }

// maxTail is how many entries the tail has before it is cut.
const maxTail = 512

// begin says how far the log can be read.
func (t *tail) begin(h head) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.base, t.entries = h, nil
}

// add takes the next entry in, and reports whether the tail should be cut.
func (t *tail) add(data, root []byte) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.entries = append(t.entries, recent{data, root})
	return len(t.entries) >= maxTail && len(t.entries)%(maxTail/8) == 0
}

// at returns the i-th entry, if the tail has it, and else where to read it.
func (t *tail) at(i uint64) (data []byte, base head) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if i >= t.base.Size && i-t.base.Size < uint64(len(t.entries)) {
		data = t.entries[i-t.base.Size].data
	}
	return data, t.base
}

// cut forgets what the files tell by now.
func (t *tail) cut(ctx context.Context, r Reader) error {
	state, err := readState(ctx, r)
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if state.Size <= t.base.Size || state.Size > t.base.Size+uint64(len(t.entries)) {
		return nil // nothing new, or entries that are not noted yet
	}
	n := int(state.Size - t.base.Size)
	if !bytes.Equal(state.Root, t.entries[n-1].root) {
		return damaged(stateName, "the tree has another hash at %d entries than those that were written", state.Size)
	}
	t.base, t.entries = state, slices.Clone(t.entries[n:])
	return nil
}
