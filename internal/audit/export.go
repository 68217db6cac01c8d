package audit

import (
	"context"
	"io"

	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/tessera/client"
	"golang.org/x/mod/sumdb/note"

	"github.com/holdfastcd/holdfast/internal/fault"
)

// Numbered is an entry with its index; as JSON, one line of an export.
type Numbered struct {
	Index uint64 `json:"index"`
	Entry
}

// Signed returns how many entries the newest checkpoint of a log says there are. It
// verifies nothing: see [Verify].
func Signed(ctx context.Context, r Reader) (uint64, error) {
	raw, err := r.Read(ctx, checkpointName, maxState)
	if err != nil {
		return 0, err
	}
	h, err := parseCheckpoint(checkpointName, string(raw))
	return h.Size, err
}

// Export writes the signed entries of a log from the index from on as JSON Lines,
// oldest first, an entry with its index a line. It verifies nothing.
func Export(ctx context.Context, r Reader, w io.Writer, from uint64) error {
	to, err := Signed(ctx, r)
	if err != nil {
		return err
	}
	for e, err := range Entries(ctx, r, from, to) {
		if err != nil {
			return err
		}
		line, err := toJSON(Numbered{from, e})
		if err != nil {
			return err
		}
		if _, err := w.Write(append(line, '\n')); err != nil {
			return fault.New(fault.Internal, "the export cannot be written: %s", err).Because(err)
		}
		from++
	}
	return nil
}

// Proof shows that an entry is part of a log, to whoever has the log's verifier and
// not the log (https://www.rfc-editor.org/rfc/rfc9162#section-2.1.3).
type Proof struct {
	Index      uint64   `json:"index"`
	Leaf       []byte   `json:"leaf"`   // the entry as it was hashed
	Hashes     [][]byte `json:"hashes"` // from the leaf's sibling upwards
	Checkpoint []byte   `json:"checkpoint"`
}

// Prove returns a proof of the entry index: NotFound if no checkpoint signs it.
func Prove(ctx context.Context, r Reader, index uint64) (Proof, error) {
	raw, err := r.Read(ctx, checkpointName, maxState)
	if err != nil {
		return Proof{}, err
	}
	h, err := parseCheckpoint(checkpointName, string(raw))
	if err != nil {
		return Proof{}, err
	}
	if index >= h.Size {
		return Proof{}, fault.New(fault.NotFound, "entry %d is not signed; %d entries are", index, h.Size)
	}
	entries, err := readBundle(ctx, r, index/width, h.Size)
	if err != nil {
		return Proof{}, err
	}
	builder, err := client.NewProofBuilder(ctx, h.Size, tileFetcher(r))
	if err != nil {
		return Proof{}, fault.From(err)
	}
	hashes, err := builder.InclusionProof(ctx, index)
	if err != nil {
		return Proof{}, fault.From(err)
	}
	return Proof{Index: index, Leaf: entries[index%width], Hashes: hashes, Checkpoint: raw}, nil
}

// Verify returns the entry if p proves that it is part of the log of v: Invalid if not.
func (p Proof) Verify(v note.Verifier) (Entry, error) {
	h, err := openCheckpoint(checkpointName, p.Checkpoint, v)
	if err != nil {
		return Entry{}, err
	}
	leafHash := rfc6962.DefaultHasher.HashLeaf(p.Leaf)
	if err := proof.VerifyInclusion(rfc6962.DefaultHasher, p.Index, h.Size, leafHash, p.Hashes, h.Root); err != nil {
		return Entry{}, fault.New(fault.Invalid, "the proof does not hold: %s", err)
	}
	return leaf{data: p.Leaf}.entry(p.Index, h.Size)
}
