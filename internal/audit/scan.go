package audit

import (
	"context"
	"iter"
)

// Entries yields the entries from index from on of a log that has size of them,
// durable or signed. An error ends it. Nothing is proven by reading them: see [Verify].
func Entries(ctx context.Context, r Reader, from, size uint64) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		for i, found := range leaves(ctx, r, from, size) {
			if e, err := found.entry(i, size); !yield(e, err) || err != nil {
				return
			}
		}
	}
}
