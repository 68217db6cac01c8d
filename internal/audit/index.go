package audit

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/holdfastcd/holdfast/internal/fault"
)

// The index is derived from the log: entries by object and by delivery, what each
// delivery delivered last, which intents are open. It lies in sorted files ("a
// log-structured merge tree", with no deletes), is never waited for, and is rebuilt
// if it does not fit the log. Its memory is bounded by what was not yet written
// (flushPostings) and by the number of deliveries.
type index struct {
	dir, drafts string
	seal        seal

	mu       sync.Mutex
	fresh    []posting
	since    int            // entries noted since the last flush
	segments []*segment     // oldest first
	tree     *compact.Range // over all entries that were noted
	last     map[string]seen
	open     map[uint64]Action
	serial   int
	merging  bool
	failed   error // the first failure to write; then it only remembers last and open

	merges sync.WaitGroup
}

// Bounds of what a crash leaves to be read again, and of memory.
const (
	flushEntries  = 4096
	flushPostings = 64 << 10
	mergeWidth    = 8
	maxManifest   = 256 << 20
)

const manifestName = "manifest.json"

// seen is what the log says of a delivery's last state.
type seen struct {
	Outcome uint64 `json:"outcome"` // of the last sync that was delivered, or the first untouched entry if there was none
	Latest  uint64 `json:"latest"`  // Outcome, or a later entry that a commit left it untouched
	// known is what that comes to, once it was asked for.
	known *Delivered
}

// manifest is the index's table of contents, replaced as a whole. It is signed with the
// key of the log: what deliveries delivered last is decided by.
type manifest struct {
	Version  int               `json:"version"`
	Size     uint64            `json:"size"`  // of the log that the segments cover
	Nodes    [][]byte          `json:"nodes"` // of the tree over these entries: they say which log it is
	Segments []*segment        `json:"segments"`
	Last     map[string]seen   `json:"last"`
	Open     map[uint64]Action `json:"open"`
	Serial   int               `json:"serial"`
}

const indexVersion = 2

// keyOf is what postings call something: the first 8 bytes of its SHA-256. Two things
// may share one, so what is found is compared by name.
func keyOf(kind, name string) uint64 {
	sum := sha256.Sum256([]byte(kind + "\x00" + name))
	return binary.BigEndian.Uint64(sum[:])
}

// The kinds of keys.
const (
	byObject   = "object"
	byDelivery = "delivery"
	byIntent   = "intent" // to its outcome
)

func outcomeKey(of uint64) uint64 { return keyOf(byIntent, strconv.FormatUint(of, 10)) }

// newIndex returns an empty index, to be filled from the first entry on.
func newIndex(dir, drafts string, s seal) *index {
	return &index{
		dir: dir, drafts: drafts, seal: s, tree: ranges.NewEmptyRange(0),
		last: map[string]seen{}, open: map[uint64]Action{},
	}
}

// loadIndex reads the index in dir, and returns nil if there is none to be used, such as
// one that somebody else wrote.
func loadIndex(ctx context.Context, dir, drafts string, seal seal) *index {
	raw, err := Dir(dir).Read(ctx, manifestName, maxManifest)
	if err != nil {
		return nil
	}
	var m manifest
	text, ours := seal.open(raw)
	if !ours || fromJSON(manifestName, "the index", text, &m) != nil || m.Version != indexVersion {
		return nil
	}
	x := newIndex(dir, drafts, seal)
	x.serial, x.segments = m.Serial, m.Segments
	if m.Last != nil {
		x.last = m.Last
	}
	if m.Open != nil {
		x.open = m.Open
	}
	if x.tree, err = ranges.NewRange(0, m.Size, m.Nodes); err != nil {
		return nil
	}
	for _, s := range x.segments {
		if s == nil || s.open(dir) != nil {
			x.forget()
			return nil
		}
	}
	return x
}

// size is the number of entries that were noted.
func (x *index) size() uint64 {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.tree.End()
}

// root is the hash of the tree over the entries that were noted.
func (x *index) root() ([]byte, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return rootOf(x.tree)
}

// note takes the i-th entry in, which must be the next one: data is its leaf, r its
// record if it has one.
func (x *index) note(i uint64, data []byte, e *Entry, r *Record) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if want := x.tree.End(); i != want {
		return fault.New(fault.Internal, "entry %d comes where entry %d is expected", i, want)
	}
	if err := x.tree.Append(rfc6962.DefaultHasher.HashLeaf(data), nil); err != nil {
		return fault.From(err)
	}
	x.since++
	x.post(i, e, r)
	x.track(i, e)
	if x.since >= flushEntries || len(x.fresh) >= flushPostings {
		return x.flush()
	}
	return nil
}

// post remembers what the i-th entry concerns.
func (x *index) post(i uint64, e *Entry, r *Record) {
	if x.failed != nil {
		return
	}
	if e.Action == Outcome && e.Of != nil {
		x.fresh = append(x.fresh, posting{outcomeKey(*e.Of), i})
	}
	if e.Delivery != "" {
		x.fresh = append(x.fresh, posting{keyOf(byDelivery, e.Delivery), i})
	}
	if r == nil {
		return
	}
	for _, c := range r.Objects {
		x.fresh = append(x.fresh, posting{keyOf(byObject, objectKey(c.Object)), i})
	}
}

// track follows what deliveries delivered last, and which intents are open.
func (x *index) track(i uint64, e *Entry) {
	switch {
	case e.Action.intends():
		x.open[i] = e.Action
	case e.Action == Outcome && e.Of != nil:
		action := x.open[*e.Of]
		delete(x.open, *e.Of)
		if e.Result == ResultDelivered && action == Sync {
			x.last[e.Delivery] = seen{Outcome: i, Latest: i}
		}
		if e.Result == ResultDelivered && action == Retract {
			delete(x.last, e.Delivery)
		}
	case e.Action == Untouched && e.Source != nil:
		for _, d := range e.Deliveries {
			x.untouched(d, i, *e.Source)
		}
	}
}

// untouched notes in which entry a delivery was left as it is by a commit.
func (x *index) untouched(delivery string, i uint64, src Source) {
	s, ok := x.last[delivery]
	if !ok { // it was as desired when it was first seen
		s.Outcome = i
	}
	s.Latest = i
	if s.known != nil {
		known := *s.known
		known.Index, known.Source = i, src
		s.known = &known
	}
	x.last[delivery] = s
}

// intends reports whether an outcome follows an entry of this action.
func (a Action) intends() bool { return a == Sync || a == Revert || a == Retract }

// flush writes what is fresh. After a failure, which it tells once, the log works;
// only looking up fails, and the next start reads more of the log again.
func (x *index) flush() (err error) {
	if x.failed == nil {
		x.failed = x.write()
		err = x.failed
	}
	x.fresh, x.since = nil, 0
	return err
}

func (x *index) write() error {
	if len(x.fresh) > 0 {
		x.serial++
		s, err := writeSegment(x.dir, x.drafts, segmentName(x.serial), ordered(x.fresh))
		if err != nil {
			return err
		}
		x.segments = append(x.segments, s)
	}
	if err := x.writeManifest(); err != nil {
		return err
	}
	x.merge()
	return nil
}

func segmentName(serial int) string { return fmt.Sprintf("%08d.postings", serial) }

func (x *index) writeManifest() error {
	m := manifest{
		Version: indexVersion, Size: x.tree.End(), Nodes: x.tree.Hashes(), Segments: x.segments,
		Last: x.last, Open: x.open, Serial: x.serial,
	}
	text, err := toJSON(m)
	if err == nil {
		text, err = x.seal.close(text)
	}
	if err != nil {
		return err
	}
	return writeFile(x.drafts, filepath.Join(x.dir, manifestName), text)
}

// merge begins to join neighbouring small segments into one, if there are enough of
// them: so every posting is written again log(n) times, and a search looks into as
// many files.
func (x *index) merge() {
	lo, hi := mergeable(x.segments)
	if x.merging || hi == 0 {
		return
	}
	x.merging = true
	x.serial++
	old, name := slices.Clone(x.segments[lo:hi]), segmentName(x.serial)
	x.merges.Go(func() {
		s, err := writeSegment(x.dir, x.drafts, name, merged(old))
		x.mu.Lock()
		defer x.mu.Unlock()
		x.merging = false
		if err != nil {
			x.failed = err
			return
		}
		x.segments = slices.Replace(x.segments, lo, hi, s) // others only append to it
		if x.failed = x.writeManifest(); x.failed != nil {
			return // the old files may still be asked for
		}
		for _, s := range old {
			s.file.Close()
			os.Remove(filepath.Join(x.dir, s.Name))
		}
		x.merge()
	})
}

// mergeable returns the first run of at least mergeWidth segments of one size or
// smaller, hi 0 if there is none.
func mergeable(list []*segment) (lo, hi int) {
	for bound := flushPostings; bound < 1<<40; bound *= mergeWidth {
		lo = 0
		for i, s := range list {
			if s.Count > bound {
				lo = i + 1
			}
			if i+1-lo >= mergeWidth {
				return lo, i + 1
			}
		}
	}
	return 0, 0
}

// find returns the indexes of entries with key, newest first, at most limit.
func (x *index) find(key uint64, limit int) ([]uint64, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.failed != nil {
		return nil, fault.New(fault.Internal, "the index of the audit log cannot be kept: %s", x.failed).Because(x.failed)
	}
	var list []uint64
	for _, p := range slices.Backward(x.fresh) {
		if p.key == key && len(list) < limit {
			list = append(list, p.index)
		}
	}
	for _, s := range slices.Backward(x.segments) {
		if len(list) >= limit {
			break
		}
		var err error
		if list, err = s.find(list, key, limit); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// intents returns the indexes of those that are open, oldest first.
func (x *index) intents() []uint64 {
	x.mu.Lock()
	defer x.mu.Unlock()
	return slices.Sorted(maps.Keys(x.open))
}

// close writes the index out, and forgets its files.
func (x *index) close() error {
	x.mu.Lock()
	_ = x.flush() // told below
	x.mu.Unlock()
	x.merges.Wait()
	x.mu.Lock()
	defer x.mu.Unlock()
	x.forget()
	return x.failed
}

func (x *index) forget() {
	for _, s := range x.segments {
		if s != nil && s.file != nil {
			s.file.Close()
		}
	}
}

// sweep removes files that the index does not know: those of a crash.
func (x *index) sweep() error {
	files, err := os.ReadDir(x.dir)
	if err != nil {
		return unusable(x.dir, err)
	}
	for _, f := range files {
		known := f.Name() == manifestName || slices.ContainsFunc(x.segments, func(s *segment) bool { return s.Name == f.Name() })
		if !known {
			os.Remove(filepath.Join(x.dir, f.Name()))
		}
	}
	return nil
}
