package audit

import (
	"context"
	"sync"

	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/tessera/client"

	"github.com/holdfastcd/holdfast/internal/fault"
)

// proven returns the i-th entry, if it is the one that the tree has there: the hash of
// the tree is remembered, and was compared with the checkpoint when the log was opened.
// What is decided by must not be what somebody wrote to the files in between. Errors
// are *fault.Error: Invalid, where the files were changed.
func (l *Log) proven(ctx context.Context, i uint64) (Entry, error) {
	data, h := l.tail.at(i)
	if data != nil { // this process wrote it
		return leaf{data: data}.entry(i, i+1)
	}
	list, err := l.bundle(ctx, i, h)
	if err != nil {
		return Entry{}, fault.From(err)
	}
	hashes, err := l.prover.inclusion(ctx, l.files, i, h.Size)
	if err != nil {
		return Entry{}, fault.From(err)
	}
	found := leaf{data: list[i%width]}
	if err := proof.VerifyInclusion(rfc6962.DefaultHasher, i, h.Size, rfc6962.DefaultHasher.HashLeaf(found.data), hashes, h.Root); err != nil {
		l.prover.forget()
		return Entry{}, damaged(where(i, h.Size), "entry %d is not the one that was written", i).
			WithHint("holdfast audit verify names what was changed; restore the log, or begin a new one in another directory")
	}
	return found.entry(i, h.Size)
}

// prover makes proofs of inclusion, and keeps the tiles that it has read for a while:
// after a start many are asked for, of entries that lie together. What it reads need
// not be right, for then the proof does not hold.
type prover struct {
	mu      sync.Mutex
	size    uint64
	builder *client.ProofBuilder
	uses    int
}

// maxUses bounds the tiles that a prover keeps.
const maxUses = 256

func (p *prover) inclusion(ctx context.Context, r Reader, i, size uint64) ([][]byte, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.uses++; p.builder == nil || p.size != size || p.uses > maxUses {
		builder, err := client.NewProofBuilder(ctx, size, tileFetcher(r))
		if err != nil {
			return nil, err
		}
		p.builder, p.size, p.uses = builder, size, 1
	}
	return p.builder.InclusionProof(ctx, i)
}

// forget has the tiles read again.
func (p *prover) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.builder = nil
}
