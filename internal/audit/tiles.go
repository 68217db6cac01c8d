package audit

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"math"
	"strconv"
	"strings"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/tessera/api/layout"
	"github.com/transparency-dev/tessera/client"
	"golang.org/x/mod/sumdb/note"

	"github.com/holdfastcd/holdfast/internal/fault"
)

// Sizes of https://c2sp.org/tlog-tiles.
const (
	width     = layout.TileWidth // hashes in a tile, and entries in a bundle
	maxEntry  = math.MaxUint16
	maxBundle = width * (2 + maxEntry)
	maxTile   = width * sha256.Size
	maxState  = 4 << 10 // of checkpoints, and of tessera's own small files
)

// The names of files.
const (
	checkpointName = layout.CheckpointPath
	stateName      = ".state/treeState" // tessera's, see its storage/posix
)

var ranges = compact.RangeFactory{Hash: rfc6962.DefaultHasher.HashChildren}

// damaged is a log that is not what it was.
func damaged(name, format string, args ...any) *fault.Error {
	return fault.New(fault.Invalid, format, args...).At(name, 0)
}

// head is the size of a tree and its hash.
type head struct {
	Size uint64 `json:"size"`
	Root []byte `json:"root"`
}

// partial is how many of the 256 hashes or entries a tile of a tree of this size
// has, 0 for all.
func partial(level, index, size uint64) uint8 { return layout.PartialTileSize(level, index, size) }

// count is what partial means.
func count(p uint8) int {
	if p == 0 {
		return width
	}
	return int(p)
}

// readTile returns the hashes of a tile, cut from a later one where that has taken
// its place.
func readTile(ctx context.Context, r Reader, level, index uint64, p uint8) ([]byte, error) {
	name := layout.TilePath(level, index, p)
	data, err := r.Read(ctx, name, maxTile)
	want := count(p) * sha256.Size
	if errors.Is(err, fs.ErrNotExist) && p > 0 {
		full := layout.TilePath(level, index, 0)
		if later, err := r.Read(ctx, full, maxTile); err == nil && len(later) == maxTile {
			return later[:want], nil
		}
	}
	if err != nil {
		return nil, err
	}
	if len(data) != want {
		return nil, damaged(name, "the tile has %d bytes instead of %d", len(data), want)
	}
	return data, nil
}

// readBundle returns the first entries of a bundle: as many as it has in a log of
// this size. Where a later file has taken the place of that size's, it is cut.
func readBundle(ctx context.Context, r Reader, index, size uint64) ([][]byte, error) {
	p := partial(0, index, size)
	name := layout.EntriesPath(index, p)
	data, err := r.Read(ctx, name, maxBundle)
	exact := true
	if errors.Is(err, fs.ErrNotExist) && p > 0 {
		if later, found, e := laterBundle(ctx, r, index); e == nil {
			name, data, err, exact = later, found, nil, false
		}
	}
	if err != nil {
		return nil, err
	}
	entries, err := splitBundle(name, index*width, data)
	if err != nil {
		return nil, err
	}
	if want := count(p); exact && len(entries) != want || len(entries) < want {
		return nil, damaged(name, "the file has %d entries instead of %d", len(entries), want)
	}
	return entries[:count(p)], nil
}

// laterBundle reads the newest file of a bundle: the full one, or, where the reader
// can tell how far the log goes, the one that was written last.
func laterBundle(ctx context.Context, r Reader, index uint64) (name string, data []byte, err error) {
	name = layout.EntriesPath(index, 0)
	data, err = r.Read(ctx, name, maxBundle)
	if !errors.Is(err, fs.ErrNotExist) {
		return name, data, err
	}
	state, e := readState(ctx, r)
	if e != nil || state.Size <= index*width || state.Size >= (index+1)*width {
		return name, data, err
	}
	name = layout.EntriesPath(index, partial(0, index, state.Size))
	data, err = r.Read(ctx, name, maxBundle)
	return name, data, err
}

// splitBundle takes entries apart, each behind its length in two bytes; first is the
// index of the first one.
func splitBundle(name string, first uint64, data []byte) ([][]byte, error) {
	entries := make([][]byte, 0, width)
	for len(data) > 0 {
		if len(data) < 2 || len(data)-2 < int(binary.BigEndian.Uint16(data)) {
			return nil, damaged(name, "entry %d is cut off", first+uint64(len(entries)))
		}
		n := 2 + int(binary.BigEndian.Uint16(data))
		entries, data = append(entries, data[2:n:n]), data[n:]
	}
	return entries, nil
}

// leaves yields the entries from (from, to] of a log that holds at least to, as they
// were hashed, with their indexes.
func leaves(ctx context.Context, r Reader, from, to uint64) iter.Seq2[uint64, leaf] {
	return func(yield func(uint64, leaf) bool) {
		for i := from; i < to; {
			bundle := i / width
			entries, err := readBundle(ctx, r, bundle, to)
			if err == nil && ctx.Err() != nil {
				err = ctx.Err()
			}
			if err != nil {
				yield(i, leaf{err: err})
				return
			}
			for ; i < to && i/width == bundle; i++ {
				if !yield(i, leaf{data: entries[i%width]}) {
					return
				}
			}
		}
	}
}

// leaf is an entry as it was hashed, or why it cannot be read.
type leaf struct {
	data []byte
	err  error
}

// where names the file that holds an entry of a log of this size.
func where(index, size uint64) string {
	return layout.EntriesPathForLogIndex(index, size)
}

// entry decodes the leaf, the i-th of a log of this size.
func (l leaf) entry(i, size uint64) (Entry, error) {
	var e Entry
	if l.err != nil {
		return e, l.err
	}
	err := fromJSON(where(i, size), fmt.Sprintf("entry %d", i), l.data, &e)
	return e, err
}

// tileFetcher gives tiles to tessera's proofs.
func tileFetcher(r Reader) client.TileFetcherFunc {
	return func(ctx context.Context, level, index uint64, p uint8) ([]byte, error) {
		return readTile(ctx, r, level, index, p)
	}
}

// rootAt computes the hash of the first size entries from the tiles.
func rootAt(ctx context.Context, r Reader, size uint64) ([]byte, error) {
	if size == 0 {
		return rfc6962.DefaultHasher.EmptyRoot(), nil
	}
	hashes, err := client.FetchRangeNodes(ctx, size, tileFetcher(r))
	if err != nil {
		return nil, fault.From(err)
	}
	nodes, err := ranges.NewRange(0, size, hashes)
	if err != nil {
		return nil, fault.From(err)
	}
	return rootOf(nodes)
}

// rootOf is the hash of the tree that a range from 0 covers.
func rootOf(r *compact.Range) ([]byte, error) {
	if r.End() == 0 {
		return rfc6962.DefaultHasher.EmptyRoot(), nil
	}
	return r.GetRootHash(nil)
}

// openCheckpoint verifies a checkpoint (https://c2sp.org/tlog-checkpoint), the
// content of the file name.
func openCheckpoint(name string, raw []byte, v note.Verifier) (head, error) {
	n, err := note.Open(raw, note.VerifierList(v))
	if err != nil {
		hint := "give the key that the log's controller signs with"
		return head{}, damaged(name, "the checkpoint is not signed by %s: %s", v.Name(), strings.TrimPrefix(err.Error(), "note: ")).WithHint("%s", hint)
	}
	for _, s := range n.Sigs { // note takes any spelling of the same bytes
		if _, err := base64.StdEncoding.Strict().DecodeString(s.Base64); err != nil {
			return head{}, damaged(name, "the checkpoint's signature is spelled in another way than it was written")
		}
	}
	if !strings.HasPrefix(n.Text, v.Name()+"\n") || strings.Count(n.Text, "\n") != 3 {
		return head{}, damaged(name, "the checkpoint is not one of %s", v.Name())
	}
	return parseCheckpoint(name, n.Text)
}

// parseCheckpoint reads the text of a checkpoint, the content of the file name,
// without looking at signatures.
func parseCheckpoint(name, text string) (head, error) {
	lines := strings.SplitN(text, "\n", 4)
	if len(lines) != 4 {
		return head{}, damaged(name, "the checkpoint has not three lines")
	}
	size, err := strconv.ParseUint(lines[1], 10, 63)
	if err != nil || strconv.FormatUint(size, 10) != lines[1] {
		return head{}, damaged(name, "the checkpoint's size is no number")
	}
	root, err := base64.StdEncoding.Strict().DecodeString(lines[2])
	if err != nil || len(root) != sha256.Size {
		return head{}, damaged(name, "the checkpoint's hash is none")
	}
	return head{size, root}, nil
}

// readCheckpoint returns the newest checkpoint of a log.
func readCheckpoint(ctx context.Context, r Reader, v note.Verifier) (raw []byte, h head, err error) {
	if raw, err = r.Read(ctx, checkpointName, maxState); err != nil {
		return nil, head{}, err
	}
	h, err = openCheckpoint(checkpointName, raw, v)
	return raw, h, err
}

// readState returns how far tessera has come, signed or not.
func readState(ctx context.Context, r Reader) (head, error) {
	var h head
	raw, err := r.Read(ctx, stateName, maxState)
	if err != nil {
		return h, err
	}
	err = json.Unmarshal(raw, &h)
	again, _ := json.Marshal(h) //nolint:errchkjson // plain data
	if err != nil || !bytes.Equal(raw, again) || len(h.Root) != sha256.Size {
		return head{}, damaged(stateName, "the state of the tree cannot be read")
	}
	return h, nil
}
