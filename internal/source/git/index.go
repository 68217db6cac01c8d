package git

import (
	"bufio"
	"bytes"
	"cmp"
	"compress/zlib"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"slices"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/pjbgf/sha1cd"

	"github.com/holdfastcd/holdfast/internal/fault"
)

// The cost of indexing: memory for delta bases, objects in one pack (some 50 bytes of
// memory each, 150 with deltas that name their bases by id), and the largest object
// that a delta may make. Larger files are fine where they stand for themselves.
const (
	indexCache    = 16 << 20
	maxDeltaBytes = 64 << 20
	maxObjects    = 1_000_000
	manyObjects   = 5_000 // less than a MiB
)

// indexer finds out what is in a pack that came from a server: it checks the
// pack's checksum, gives each object the id that its content has, and refuses
// what is not whole. A thin pack, which builds upon objects that it does not
// hold, is completed with them, so that each pack stands for itself. go-git's parser is not used because it inflates every
// object into memory, whatever its size, and caches up to 96 MiB of them.
type indexer struct {
	ctx     context.Context
	pack    *pack
	objects []object
	byID    map[plumbing.Hash]int64 // only when a delta names its base by id
	refs    map[int64]plumbing.Hash // delta's offset → id of its base
	lookup  lookup
	added   int // objects that complete a thin pack
	buffer  []byte
	deflate *zlib.Writer // made when first needed: it is large

	large  func() error      // called once before much memory is taken; nil: no more
	grow   func(int64) error // called before the file grows
	weight int64             // of what deltas are made of and make, as they say
}

// lookup returns an object that was here before, or errMissing.
type lookup func(id plumbing.Hash, limit int64) (plumbing.ObjectType, []byte, error)

type object struct {
	id     plumbing.Hash
	offset int64
	crc    uint32
}

// indexPack writes the index of the pack in file to w and returns the pack's
// checksum and the number of its objects. It may append to the file. Errors are
// errCorrupt (wrapped), a *fault.Error of kind Limit, or the context's.
func indexPack(ctx context.Context, file *os.File, w io.Writer, lookup lookup) (sum plumbing.Hash, n int, err error) {
	return newIndexer(ctx, file, lookup).run(w)
}

func newIndexer(ctx context.Context, file *os.File, lookup lookup) *indexer {
	x := &indexer{ctx: ctx, refs: map[int64]plumbing.Hash{}, lookup: lookup, buffer: make([]byte, 64<<10)}
	x.pack = &pack{file: file, bases: newLRU[baseKey, base](indexCache), find: x.find}
	x.grow = func(int64) error { return nil }
	return x
}

// enter waits until memory may be taken.
func (x *indexer) enter() error {
	if x.large == nil {
		return nil
	}
	return x.large()
}

func (x *indexer) run(w io.Writer) (sum plumbing.Hash, n int, err error) {
	raw, err := x.pack.checkPack()
	if err != nil {
		return sum, 0, err
	}
	copy(sum[:], raw)
	if got, err := x.checksum(); err != nil || got != sum {
		return sum, 0, cmp.Or(err, fmt.Errorf("%w: the pack's checksum does not match", errCorrupt))
	}
	if err := x.scan(); err != nil {
		return sum, 0, err
	}
	if err := x.resolve(); err != nil {
		return sum, 0, err
	}
	if x.added > 0 {
		if sum, err = x.seal(); err != nil {
			return sum, 0, err
		}
	}
	if err := x.grow(namesAt + int64(len(x.objects))*(hashSize+8+8) + 2*hashSize); err != nil {
		return sum, 0, err
	}
	return sum, len(x.objects), x.write(w, sum)
}

func (x *indexer) checksum() (sum plumbing.Hash, err error) {
	h := sha1cd.New()
	in := contextReader{x.ctx, io.NewSectionReader(x.pack.file, 0, x.pack.size-hashSize)}
	_, err = x.copy(h, in)
	h.Sum(sum[:0])
	return sum, err
}

// scan walks through the pack once and identifies everything but deltas.
func (x *indexer) scan() error {
	in := &positioned{r: bufio.NewReaderSize(io.NewSectionReader(x.pack.file, 0, x.pack.size-hashSize), 128<<10)}
	head := make([]byte, packHeader)
	if _, err := io.ReadFull(in, head); err != nil {
		return errCorrupt
	}
	if head[7] != 2 && head[7] != 3 {
		return fmt.Errorf("%w: unknown pack version", errCorrupt)
	}
	count := int(head[8])<<24 | int(head[9])<<16 | int(head[10])<<8 | int(head[11])
	// The smallest object has three bytes: a pack cannot promise more than it holds.
	if int64(count) > x.pack.size/3 {
		return fmt.Errorf("%w: too many objects", errCorrupt)
	}
	if count > maxObjects {
		return fault.New(fault.Limit, "the Git server sent %d objects at once, %d are allowed", count, maxObjects).
			WithHint("deliver a branch or tag, or a commit that is not far back in its history")
	}
	if count > manyObjects {
		if err := x.enter(); err != nil {
			return err
		}
	}
	x.objects = make([]object, 0, count)
	z := &inflater{}
	for range count {
		if err := x.ctx.Err(); err != nil {
			return err
		}
		o, err := x.scanObject(in, z)
		if err != nil {
			return err
		}
		x.objects = append(x.objects, o)
	}
	if in.n != x.pack.size-hashSize {
		return fmt.Errorf("%w: there is data after the last object", errCorrupt)
	}
	if x.weight > largePack {
		return x.enter()
	}
	return nil
}

func (x *indexer) scanObject(in *positioned, z *inflater) (object, error) {
	o := object{offset: in.n}
	head, err := in.r.Peek(48)
	if err != nil && !errors.Is(err, io.EOF) {
		return o, err
	}
	h, ref, err := parseHeader(head, o.offset)
	if err != nil {
		return o, err
	}
	if h.kind == plumbing.REFDeltaObject {
		x.refs[o.offset] = ref
	}
	if _, err := io.CopyN(io.Discard, in, h.data-o.offset); err != nil {
		return o, errCorrupt
	}
	if err := z.reset(in); err != nil {
		return o, errCorrupt
	}
	hasher := plumbing.NewHasher(h.kind, h.size)
	var sink io.Writer = hasher
	var delta beginning
	if h.isDelta() {
		sink = &delta
	}
	// One byte more than announced: reading to the end also checks zlib's sum.
	n, err := x.copy(sink, io.LimitReader(contextReader{x.ctx, z}, h.size+1))
	if errors.Is(err, x.ctx.Err()) && err != nil {
		return o, err
	}
	if err != nil || n != h.size {
		return o, fmt.Errorf("%w: an object is not as long as it says", errCorrupt)
	}
	if h.isDelta() {
		x.weigh(h.size, delta.b)
	} else {
		o.id = hasher.Sum()
	}
	o.crc, err = x.crc(o.offset, in.n)
	return o, err
}

// weigh adds what a delta takes, and what it is made of and makes; what it says
// about that is checked when it is applied.
func (x *indexer) weigh(size int64, delta []byte) {
	from, n := binary.Uvarint(delta)
	to, _ := binary.Uvarint(delta[max(n, 0):])
	x.weight += size + int64(min(from, maxDeltaBytes)+min(to, maxDeltaBytes))
}

// beginning keeps the two sizes that a delta begins with.
type beginning struct{ b []byte }

func (s *beginning) Write(p []byte) (int, error) {
	s.b = append(s.b, p[:min(len(p), 2*binary.MaxVarintLen64-len(s.b))]...)
	return len(p), nil
}

func (x *indexer) crc(from, to int64) (uint32, error) {
	h := crc32.NewIEEE()
	_, err := x.copy(h, io.NewSectionReader(x.pack.file, from, to-from))
	return h.Sum32(), err
}

// copy is io.Copy with one buffer for all objects.
func (x *indexer) copy(w io.Writer, r io.Reader) (int64, error) {
	return io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{r}, x.buffer)
}

// resolve identifies the deltas. Bases that are given by id may come later in
// the pack, or not at all, so that it may take several rounds.
func (x *indexer) resolve() error {
	if len(x.refs) > 0 {
		x.byID = make(map[plumbing.Hash]int64, len(x.objects))
		for _, o := range x.objects {
			if !o.id.IsZero() {
				x.byID[o.id] = o.offset
			}
		}
	}
	for left := -1; left != 0; {
		missing, err := x.round()
		if err != nil {
			return err
		}
		if missing == left {
			if err := x.complete(); err != nil {
				return err
			}
		}
		left = missing
	}
	return nil
}

// round identifies what can be, and returns how many objects are left.
func (x *indexer) round() (missing int, err error) {
	for i := range x.objects {
		if !x.objects[i].id.IsZero() {
			continue
		}
		err := x.identify(&x.objects[i])
		if errors.Is(err, errMissing) {
			missing++
			continue
		}
		if err != nil {
			return 0, err
		}
	}
	return missing, nil
}

// complete appends the bases that a thin pack leaves out, where its trailer
// stands: seal writes a new one.
func (x *indexer) complete() error {
	before := x.added
	for _, id := range x.refs {
		if _, ok := x.byID[id]; ok {
			continue
		}
		kind, content, err := x.base(id)
		if errors.Is(err, errMissing) {
			continue // it may be made by a delta that waits for another base
		}
		if err != nil {
			return err
		}
		if err := x.append(id, kind, content); err != nil {
			return err
		}
	}
	if x.added == before {
		return fmt.Errorf("%w: a delta's base is missing", errCorrupt)
	}
	return nil
}

// base returns an object that a thin pack builds upon; a large one in its turn.
func (x *indexer) base(id plumbing.Hash) (plumbing.ObjectType, []byte, error) {
	if x.large != nil {
		kind, content, err := x.lookup(id, largePack)
		if fault.KindOf(err) != fault.Limit || err == nil {
			return kind, content, err
		}
		if err := x.enter(); err != nil {
			return 0, nil, err
		}
	}
	return x.lookup(id, maxDeltaBytes)
}

func (x *indexer) append(id plumbing.Hash, kind plumbing.ObjectType, content []byte) error {
	var b bytes.Buffer
	b.Write(objectHeader(kind, int64(len(content))))
	if x.deflate == nil {
		var err error
		if x.deflate, err = zlib.NewWriterLevel(nil, zlib.BestSpeed); err != nil {
			return err
		}
	}
	x.deflate.Reset(&b)
	if _, err := x.deflate.Write(content); err != nil {
		return err
	}
	if err := x.deflate.Close(); err != nil {
		return err
	}
	if err := x.grow(int64(b.Len())); err != nil {
		return err
	}
	o := object{id: id, offset: x.pack.size - hashSize, crc: crc32.ChecksumIEEE(b.Bytes())}
	if _, err := x.pack.file.WriteAt(b.Bytes(), o.offset); err != nil {
		return err
	}
	x.pack.size += int64(b.Len())
	x.objects, x.byID[id] = append(x.objects, o), o.offset
	x.added++
	return nil
}

// seal makes a completed pack valid: its count, and its checksum, which it returns.
func (x *indexer) seal() (plumbing.Hash, error) {
	if _, err := x.pack.file.WriteAt(binary.BigEndian.AppendUint32(nil, uint32(len(x.objects))), 8); err != nil {
		return plumbing.ZeroHash, err
	}
	sum, err := x.checksum()
	if err != nil {
		return sum, err
	}
	_, err = x.pack.file.WriteAt(sum[:], x.pack.size-hashSize)
	return sum, err
}

func (x *indexer) identify(o *object) error {
	if err := x.ctx.Err(); err != nil {
		return err
	}
	kind, content, err := x.pack.build(o.offset, maxDeltaBytes)
	if err != nil {
		return err
	}
	o.id = plumbing.ComputeHash(kind, content)
	if x.byID != nil {
		x.byID[o.id] = o.offset
	}
	// It may well be the base of the next one.
	x.pack.bases.put(baseKey{x.pack, o.offset}, base{kind, content}, int64(len(content))+64)
	return nil
}

func (x *indexer) find(id plumbing.Hash) (int64, error) {
	if offset, ok := x.byID[id]; ok {
		return offset, nil
	}
	return -1, nil
}

// write writes the index, version 2 of git's pack-format, straight from the list
// of objects: go-git's writer takes five times the memory.
func (x *indexer) write(w io.Writer, sum plumbing.Hash) error {
	slices.SortFunc(x.objects, func(a, b object) int { return bytes.Compare(a.id[:], b.id[:]) })
	h := sha1cd.New()
	out := bufio.NewWriterSize(io.MultiWriter(w, h), 64<<10)
	number := func(n uint32) { _, _ = out.Write(binary.BigEndian.AppendUint32(out.AvailableBuffer(), n)) } // errors stay until Flush
	_, _ = out.WriteString("\xfftOc\x00\x00\x00\x02")
	n := 0
	for first := range 256 {
		for n < len(x.objects) && int(x.objects[n].id[0]) == first {
			n++
		}
		number(uint32(n))
	}
	for _, o := range x.objects {
		_, _ = out.Write(o.id[:])
	}
	for _, o := range x.objects {
		number(o.crc)
	}
	var far []int64
	for _, o := range x.objects {
		if o.offset < largeOffset {
			number(uint32(o.offset))
			continue
		}
		number(uint32(largeOffset + len(far)))
		far = append(far, o.offset)
	}
	for _, offset := range far {
		number(uint32(offset >> 32))
		number(uint32(offset & (1<<32 - 1)))
	}
	_, _ = out.Write(sum[:])
	if err := out.Flush(); err != nil {
		return err
	}
	_, err := w.Write(h.Sum(nil))
	return err
}

// positioned counts what is read. It reads single bytes on request, so that
// flate takes no more than belongs to an object.
type positioned struct {
	r *bufio.Reader
	n int64
}

func (p *positioned) Read(b []byte) (int, error) {
	n, err := p.r.Read(b)
	p.n += int64(n)
	return n, err
}

func (p *positioned) ReadByte() (byte, error) {
	b, err := p.r.ReadByte()
	if err == nil {
		p.n++
	}
	return b, err
}

// contextReader ends a long read when its context ends.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c contextReader) Read(b []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(b)
}
