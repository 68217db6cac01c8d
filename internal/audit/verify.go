package audit

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/tessera/api/layout"
	"golang.org/x/mod/sumdb/note"

	"github.com/holdfastcd/holdfast/internal/fault"
)

// VerifyOptions say what a log is verified against.
type VerifyOptions struct {
	Verifier note.Verifier // of the key that signs the log
	// Against is a checkpoint that was kept elsewhere; nil: the log is compared with
	// its own alone, which an older copy of the whole log satisfies too.
	Against []byte
	// Former verify Against, if the key was changed since.
	Former []note.Verifier
	// SkipRecords leaves the records out, which most of the reading is for.
	SkipRecords bool
	// Progress, if set, is told how many entries were verified, now and then.
	Progress func(entries, of uint64)
}

// Verified is what was proven of a log.
type Verified struct {
	Size       uint64 // entries that the checkpoint signs
	Root       []byte
	Checkpoint []byte // to be kept elsewhere, for the next time
	Kept       uint64 // entries that the checkpoint kept elsewhere signs
	// Unsigned entries follow those that are signed: whole, but not proven. Only a
	// directory tells of them.
	Unsigned uint64
	Records  uint64 // entries with a record that was verified
	// Strange are files in the directory that no part of the log is in, at most 100.
	Strange []string
}

// Verify proves that a log is whole: that every entry, tile and record is the one
// that its newest checkpoint signs, and that this checkpoint continues the one kept
// elsewhere. What was changed, dropped, added or reordered is a fault Invalid or
// NotFound with the file, and the entry where it is one.
func Verify(ctx context.Context, r Reader, o VerifyOptions) (Verified, error) {
	v := verification{r: r, o: o, tree: ranges.NewEmptyRange(0), marks: map[uint64][]byte{}, records: map[string]bool{}}
	if err := v.run(ctx); err != nil {
		return Verified{}, fault.From(err)
	}
	return v.out, nil
}

// verification is one run of Verify.
type verification struct {
	r   Reader
	o   VerifyOptions
	out Verified

	files  []string // that there are, if the reader can tell
	signed head
	kept   head
	state  head // how far the entries go; signed, where the reader cannot tell

	tree    *compact.Range
	levels  [][]byte          // hashes of tiles above the lowest that are not full yet
	marks   map[uint64][]byte // hashes of the tree at sizes that matter
	records map[string]bool   // digests of records that were verified, bounded
}

func (v *verification) run(ctx context.Context) error {
	if err := v.begin(ctx); err != nil {
		return err
	}
	for _, size := range []uint64{v.kept.Size, v.signed.Size} {
		v.marks[size] = nil
	}
	v.mark()
	for bundle := uint64(0); bundle*width < v.state.Size; bundle++ {
		if err := v.bundle(ctx, bundle); err != nil {
			return err
		}
		if v.o.Progress != nil && bundle%width == 0 {
			v.o.Progress(v.tree.End(), v.state.Size)
		}
	}
	if err := v.compare(); err != nil {
		return err
	}
	if err := v.edge(ctx); err != nil {
		return err
	}
	return v.rest(ctx)
}

// begin reads what the entries are compared with. The list of files comes first:
// a live log goes on growing.
func (v *verification) begin(ctx context.Context) (err error) {
	if l, ok := v.r.(Lister); ok {
		for name, err := range l.List(ctx) {
			if err != nil {
				return err
			}
			if !strings.HasPrefix(name, "records/") { // those are looked at one by one
				v.files = append(v.files, name)
			}
		}
	}
	if v.out.Checkpoint, v.signed, err = readCheckpoint(ctx, v.r, v.o.Verifier); err != nil {
		return err
	}
	if v.kept, err = v.keptHead(); err != nil {
		return err
	}
	v.state = v.signed
	if v.files != nil {
		if v.state, err = readState(ctx, v.r); err != nil {
			return err
		}
	}
	if v.state.Size < v.signed.Size {
		return damaged(stateName, "the log ends at entry %d, but is signed up to %d: it was cut", v.state.Size, v.signed.Size)
	}
	v.out.Size, v.out.Root, v.out.Kept = v.signed.Size, v.signed.Root, v.kept.Size
	v.out.Unsigned = v.state.Size - v.signed.Size
	return nil
}

// keptHead opens the checkpoint that was kept elsewhere.
func (v *verification) keptHead() (head, error) {
	if v.o.Against == nil {
		return head{}, nil
	}
	const name = "the checkpoint kept elsewhere"
	var kept head
	var err error
	for _, by := range append([]note.Verifier{v.o.Verifier}, v.o.Former...) {
		if kept, err = openCheckpoint(name, v.o.Against, by); err == nil {
			break
		}
	}
	if err != nil { // that says nothing about the log
		return head{}, fault.New(fault.Refused, "%s cannot be compared with: %s", name, fault.From(err).Msg).
			WithHint("give what audit checkpoint printed, and the key of that time").Because(err)
	}
	if kept.Size > v.signed.Size {
		return head{}, damaged(checkpointName, "the log is signed up to entry %d, the checkpoint kept elsewhere up to %d: the log was cut, or is an older copy", v.signed.Size, kept.Size)
	}
	return kept, nil
}

// bundle takes in the entries of one bundle, and compares them with their tile.
func (v *verification) bundle(ctx context.Context, n uint64) error {
	p := partial(0, n, v.state.Size)
	entries, err := readBundle(ctx, v.r, n, v.state.Size)
	if errors.Is(err, fs.ErrNotExist) && min(v.state.Size, (n+1)*width) > v.signed.Size {
		return damaged(stateName, "the state of the tree tells of %d entries, of which %d are signed, but not all are there", v.state.Size, v.signed.Size)
	}
	if err != nil {
		return err
	}
	tile, err := readTile(ctx, v.r, 0, n, p)
	if err != nil {
		return err
	}
	for i, data := range entries {
		index := n*width + uint64(i)
		hash := rfc6962.DefaultHasher.HashLeaf(data)
		if !bytes.Equal(hash, tile[i*sha256.Size:(i+1)*sha256.Size]) {
			return v.blame(ctx, index, p)
		}
		if err := v.tree.Append(hash, v.node); err != nil {
			return err
		}
		v.mark()
		if err := v.entry(ctx, index, data); err != nil {
			return err
		}
	}
	return v.upper(ctx)
}

// mark keeps the hash of the tree at the sizes that matter.
func (v *verification) mark() {
	if _, matters := v.marks[v.tree.End()]; matters {
		v.marks[v.tree.End()], _ = rootOf(v.tree) // a range from 0 has a root
	}
}

// node is told each node of the tree that will not change again; those that tiles
// hold are kept until their tile can be compared.
func (v *verification) node(id compact.NodeID, hash []byte) {
	if id.Level == 0 || id.Level%8 != 0 {
		return
	}
	level := int(id.Level / 8)
	for len(v.levels) < level {
		v.levels = append(v.levels, nil)
	}
	v.levels[level-1] = append(v.levels[level-1], hash...)
}

// upper compares the tiles above the lowest that have become full.
func (v *verification) upper(ctx context.Context) error {
	for i, hashes := range v.levels {
		if len(hashes) < maxTile {
			continue
		}
		level := uint64(i + 1)
		if err := v.tile(ctx, level, v.tree.End()>>(8*(level+1))-1, 0, hashes); err != nil {
			return err
		}
		v.levels[i] = nil
	}
	return nil
}

// edge compares the tiles above the lowest that are not full.
func (v *verification) edge(ctx context.Context) error {
	for i, hashes := range v.levels {
		level := uint64(i + 1)
		if len(hashes) == 0 {
			continue
		}
		index := v.state.Size >> (8 * (level + 1))
		if err := v.tile(ctx, level, index, partial(level, index, v.state.Size), hashes); err != nil {
			return err
		}
	}
	return nil
}

func (v *verification) tile(ctx context.Context, level, index uint64, p uint8, want []byte) error {
	got, err := readTile(ctx, v.r, level, index, p)
	if err == nil && !bytes.Equal(got, want) {
		err = damaged(layout.TilePath(level, index, p), "the tile was changed: it does not have the hashes of the entries below it")
	}
	return err
}

// entry checks what an entry says: it refers backwards, and its record is there.
func (v *verification) entry(ctx context.Context, i uint64, data []byte) error {
	var e struct { // the rest may be of a later version
		Of     *uint64 `json:"of"`
		Record string  `json:"record"`
	}
	if err := fromJSON(where(i, v.state.Size), fmt.Sprintf("entry %d", i), data, &e); err != nil {
		return err
	}
	if e.Of != nil && *e.Of >= i {
		return damaged(where(i, v.state.Size), "entry %d is the outcome of entry %d, which comes later", i, *e.Of)
	}
	if e.Record == "" || v.o.SkipRecords {
		return nil
	}
	v.out.Records++
	if v.records[e.Record] {
		return nil
	}
	if _, _, err := recordText(ctx, v.r, e.Record); err != nil {
		f := *fault.From(err)
		f.Msg = fmt.Sprintf("the record of entry %d: %s", i, f.Msg)
		return &f
	}
	if len(v.records) >= maxKnown {
		clear(v.records)
	}
	v.records[e.Record] = true
	return nil
}

// blame says which of an entry and its hash in the tile was changed: the one without
// which the tree has the hash that is signed, or at least that tessera notes.
func (v *verification) blame(ctx context.Context, i uint64, p uint8) error {
	entry := damaged(where(i, v.state.Size), "entry %d was changed: it does not have the hash that the tree has for it", i)
	tile := damaged(layout.TilePath(0, i/width, p), "the tile was changed: it does not have the hash of entry %d", i)
	want := v.signed
	if i >= v.signed.Size {
		want = v.state
	}
	tree := ranges.NewEmptyRange(0)
	for n, found := range leaves(ctx, v.r, 0, want.Size) {
		if found.err != nil {
			return errors.Join(entry, found.err)
		}
		if err := tree.Append(rfc6962.DefaultHasher.HashLeaf(found.data), nil); err != nil {
			return fault.From(err).At(where(n, want.Size), 0)
		}
	}
	if root, err := rootOf(tree); err == nil && bytes.Equal(root, want.Root) {
		return tile
	}
	return entry
}

// compare compares the hashes of the tree with those that are signed.
func (v *verification) compare() error {
	whole, err := rootOf(v.tree)
	if err != nil {
		return err
	}
	switch {
	case !bytes.Equal(v.marks[v.signed.Size], v.signed.Root):
		return damaged(checkpointName, "the first %d entries are not those that the checkpoint signs: they were rewritten, reordered or exchanged", v.signed.Size)
	case v.o.Against != nil && !bytes.Equal(v.marks[v.kept.Size], v.kept.Root):
		return damaged(checkpointName, "the first %d entries are not those that the checkpoint kept elsewhere signs: the log was rewritten, and signed again", v.kept.Size)
	case !bytes.Equal(whole, v.state.Root):
		return damaged(stateName, "the last %d entries, which are not signed yet, do not have the hash that was noted for them", v.out.Unsigned)
	}
	return nil
}

// rest looks at the files that the entries did not lead to.
func (v *verification) rest(ctx context.Context) error {
	for _, name := range v.files {
		if err := v.file(ctx, name); err != nil {
			return err
		}
	}
	l, ok := v.r.(Lister)
	if !ok || v.o.SkipRecords {
		return nil
	}
	for name, err := range l.List(ctx) {
		if err == nil && strings.HasPrefix(name, "records/") {
			err = v.stored(ctx, name)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// stored checks a record's file, also if no entry leads to it any more: a crash may
// come between the two.
func (v *verification) stored(ctx context.Context, name string) error {
	parts := strings.Split(name, "/")
	digest := digestPrefix + parts[len(parts)-1]
	if want, _ := recordName(digest); want != name {
		v.strange(name)
		return nil
	}
	if v.records[digest] {
		return nil
	}
	_, _, err := recordText(ctx, v.r, digest)
	return err
}

func (v *verification) strange(name string) {
	if len(v.out.Strange) < 100 {
		v.out.Strange = append(v.out.Strange, name)
	}
}

// private are files that are beside the log, and derived from it or empty.
var private = []string{lockName, ".state/treeState.lock", ".state/publish.lock", ".state/gcState.lock"}

// file checks a file that is not a record.
func (v *verification) file(ctx context.Context, name string) error {
	t, isTile := parseTile(name)
	switch {
	case name == checkpointName, name == stateName:
		return nil // read before
	case strings.HasPrefix(name, indexDir+"/"), strings.HasPrefix(name, draftsDir+"/"):
		return nil // derived, and checked where it is used
	case slices.Contains(private, name), name == ".state/version", name == ".state/gcState":
		return v.small(ctx, name)
	case strings.HasPrefix(name, "tile/") && isTile:
		return v.earlier(ctx, t)
	}
	v.strange(name)
	return nil
}

// small checks tessera's own files, which hold next to nothing.
func (v *verification) small(ctx context.Context, name string) error {
	data, err := v.r.Read(ctx, name, maxState)
	if err != nil {
		return err
	}
	ok := len(data) == 0
	switch name {
	case ".state/version":
		ok = string(data) == "1"
	case ".state/gcState":
		var state struct {
			FromSize uint64 `json:"fromSize"`
		}
		err := json.Unmarshal(data, &state)
		again, _ := json.Marshal(state) //nolint:errchkjson // plain data
		ok = err == nil && bytes.Equal(again, data) && state.FromSize%width == 0 && state.FromSize <= v.state.Size
	}
	if !ok {
		return damaged(name, "the file does not have the content that was written")
	}
	return nil
}

// earlier checks a partial tile that a later one has taken the place of.
func (v *verification) earlier(ctx context.Context, t tileFile) error {
	most := t.most(v.state.Size)
	now := t
	now.partial = partial(t.level, t.index, v.state.Size)
	if t.end() > most { // of a log that is being written, or was not opened since a crash
		v.strange(t.name())
		return nil
	}
	if t == now || t.partial == 0 {
		return nil // read before
	}
	old, err := v.r.Read(ctx, t.name(), maxBundle)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // a live log tidies up
	}
	if err != nil {
		return err
	}
	whole, err := v.r.Read(ctx, now.name(), maxBundle)
	if errors.Is(err, fs.ErrNotExist) {
		whole, err = v.r.Read(ctx, now.full().name(), maxBundle)
	}
	if err != nil {
		return err
	}
	if want := prefix(t, whole); !bytes.Equal(old, want) {
		return damaged(t.name(), "the file was changed: it is not what later files begin with")
	}
	return nil
}

// prefix is what of a later file of a tile an earlier one has.
func prefix(t tileFile, whole []byte) []byte {
	if !t.entries {
		return whole[:min(len(whole), count(t.partial)*sha256.Size)]
	}
	entries, err := splitBundle(t.name(), 0, whole)
	if err != nil || len(entries) < count(t.partial) {
		return nil
	}
	n := 0
	for _, e := range entries[:count(t.partial)] {
		n += 2 + len(e)
	}
	return whole[:n]
}
