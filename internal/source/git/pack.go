package git

import (
	"bufio"
	"bytes"
	"cmp"
	"compress/zlib"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"sync"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/format/packfile"

	"github.com/holdfastcd/holdfast/internal/fault"
)

// The layout of a pack and of its index, version 2, as far as it is needed.
const (
	packHeader    = 12
	idxHeader     = 8
	fanoutSize    = 256 * 4
	namesAt       = idxHeader + fanoutSize
	hashSize      = 20
	maxDeltaChain = 4095 // Git's own bound
	largeOffset   = 1 << 31
	maxIndexInRAM = 1 << 20
)

var (
	errCorrupt = errors.New("the object store is damaged")
	errMissing = errors.New("no such object")
)

// pack reads objects straight from one pack file, several at a time, with
// nothing in memory but a small index. go-git's own reader is not used because
// it is for one goroutine, keeps a map of all offsets, and inflates an object
// before it can be asked whether that is too large.
type pack struct {
	name  string
	file  *os.File
	size  int64
	bases *lru[baseKey, base]

	fanout [256]uint32
	index  io.ReaderAt // the whole index: in memory if it is small
	closer io.Closer   // of index, if it is a file

	// find returns where an object begins, -1 if it is not in the pack.
	find func(id plumbing.Hash) (int64, error)
}

// baseKey names an object that others are built upon.
type baseKey struct {
	pack   *pack
	offset int64
}

type base struct {
	kind    plumbing.ObjectType
	content []byte
}

// openPack opens a pack and its index and checks that they are whole and
// belong together, as far as can be told without reading all of them. What is
// read later is checked against its id.
func openPack(dir, name string, bases *lru[baseKey, base]) (_ *pack, err error) {
	p := &pack{name: name, bases: bases}
	p.find = p.findInIndex
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	if p.file, err = os.Open(filepath.Join(dir, name+".pack")); err != nil { //nolint:gosec // the name is a hash that we made
		return nil, err
	}
	sum, err := p.checkPack()
	if err != nil {
		return nil, err
	}
	return p, p.openIndex(filepath.Join(dir, name+".idx"), sum)
}

// checkPack looks at both ends of the pack and returns its checksum.
func (p *pack) checkPack() ([]byte, error) {
	info, err := p.file.Stat()
	if err != nil {
		return nil, err
	}
	p.size = info.Size()
	var head [packHeader]byte
	sum := make([]byte, hashSize)
	if _, err := p.file.ReadAt(head[:], 0); err != nil || !bytes.HasPrefix(head[:], []byte("PACK")) {
		return nil, errCorrupt
	}
	if _, err := p.file.ReadAt(sum, p.size-hashSize); err != nil {
		return nil, errCorrupt
	}
	return sum, nil
}

func (p *pack) openIndex(name string, sum []byte) error {
	f, err := os.Open(name) //nolint:gosec // the name is a hash that we made
	if err != nil {
		return err
	}
	p.index, p.closer = f, f
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.Size() <= maxIndexInRAM {
		content := make([]byte, info.Size())
		if _, err := f.ReadAt(content, 0); err != nil {
			return err
		}
		p.index, p.closer = bytes.NewReader(content), nil
		f.Close() // only read from
	}
	return p.checkIndex(info.Size(), sum)
}

func (p *pack) checkIndex(size int64, sum []byte) error {
	var head [namesAt]byte
	if _, err := p.index.ReadAt(head[:], 0); err != nil || !bytes.HasPrefix(head[:], []byte("\xfftOc\x00\x00\x00\x02")) {
		return errCorrupt
	}
	for i := range p.fanout {
		p.fanout[i] = binary.BigEndian.Uint32(head[idxHeader+4*i:])
		if i > 0 && p.fanout[i] < p.fanout[i-1] {
			return errCorrupt
		}
	}
	if size < namesAt+p.count()*(hashSize+8)+2*hashSize {
		return errCorrupt
	}
	have := make([]byte, hashSize)
	if _, err := p.index.ReadAt(have, size-2*hashSize); err != nil || !bytes.Equal(have, sum) {
		return errCorrupt
	}
	return nil
}

func (p *pack) count() int64 { return int64(p.fanout[255]) }

func (p *pack) close() {
	if p.file != nil {
		p.file.Close() // only read from
	}
	if p.closer != nil {
		p.closer.Close() // only read from
	}
}

// findInIndex looks an id up with a binary search.
func (p *pack) findInIndex(id plumbing.Hash) (int64, error) {
	lo, hi := int64(0), int64(p.fanout[id[0]])
	if id[0] > 0 {
		lo = int64(p.fanout[id[0]-1])
	}
	var name [hashSize]byte
	var failed error
	n := lo + int64(sort.Search(int(hi-lo), func(i int) bool {
		if _, err := p.index.ReadAt(name[:], namesAt+(lo+int64(i))*hashSize); err != nil {
			failed = errCorrupt
		}
		return bytes.Compare(name[:], id[:]) >= 0
	}))
	if failed != nil || n == hi {
		return -1, failed
	}
	if _, err := p.index.ReadAt(name[:], namesAt+n*hashSize); err != nil {
		return -1, errCorrupt
	}
	if name != id {
		return -1, nil
	}
	return p.offset(n)
}

// offset returns where the n-th object of the index begins.
func (p *pack) offset(n int64) (int64, error) {
	offsets := namesAt + p.count()*(hashSize+4)
	var b [8]byte
	if _, err := p.index.ReadAt(b[:4], offsets+4*n); err != nil {
		return -1, errCorrupt
	}
	small := int64(binary.BigEndian.Uint32(b[:4]))
	if small < largeOffset {
		return small, nil
	}
	if _, err := p.index.ReadAt(b[:], offsets+4*p.count()+8*(small-largeOffset)); err != nil {
		return -1, errCorrupt
	}
	return int64(binary.BigEndian.Uint64(b[:]) & (1<<63 - 1)), nil
}

// header is what stands before an object's compressed data.
type header struct {
	kind plumbing.ObjectType
	size int64 // inflated: of the object, or of the delta
	base int64 // where the object begins that a delta changes
	data int64 // where the compressed data begins
}

func (h header) isDelta() bool { return h.kind.IsDelta() }

func (p *pack) header(offset int64) (header, error) {
	var b [48]byte
	if offset < packHeader || offset >= p.size-hashSize {
		return header{}, errCorrupt
	}
	n, err := p.file.ReadAt(b[:], offset)
	if err != nil && !errors.Is(err, io.EOF) {
		return header{}, err
	}
	h, ref, err := parseHeader(b[:n], offset)
	if err != nil || h.kind != plumbing.REFDeltaObject {
		return h, err
	}
	if h.base, err = p.find(ref); err == nil && h.base < 0 {
		err = errMissing
	}
	return h, err
}

// parseHeader reads an object's header; b begins with it. For a delta against
// an object given by id, it returns the id instead of the offset.
func parseHeader(b []byte, offset int64) (h header, ref plumbing.Hash, err error) {
	if len(b) == 0 {
		return h, ref, errCorrupt
	}
	c := b[0]
	h.kind, h.size = plumbing.ObjectType(c>>4&7), int64(c&15)
	i := 1
	for shift := 4; c&0x80 != 0; shift += 7 {
		if i >= len(b) || shift > 56 {
			return h, ref, errCorrupt
		}
		c = b[i]
		h.size |= int64(c&0x7f) << shift
		i++
	}
	switch h.kind {
	case plumbing.CommitObject, plumbing.TreeObject, plumbing.BlobObject, plumbing.TagObject:
	case plumbing.OFSDeltaObject:
		back, n, err := parseBack(b[i:])
		if err != nil || back <= 0 || back > offset-packHeader {
			return h, ref, errCorrupt
		}
		h.base = offset - back
		i += n
	case plumbing.REFDeltaObject:
		if len(b)-i < hashSize {
			return h, ref, errCorrupt
		}
		i += copy(ref[:], b[i:])
	default:
		return h, ref, errCorrupt
	}
	h.data = offset + int64(i)
	return h, ref, nil
}

// parseBack reads how far before a delta its base begins.
func parseBack(b []byte) (back int64, n int, err error) {
	for {
		if n >= len(b) || n > 8 {
			return 0, 0, errCorrupt
		}
		c := b[n]
		n++
		back |= int64(c & 0x7f)
		if c&0x80 == 0 {
			return back, n, nil
		}
		back = (back + 1) << 7
	}
}

// stat returns kind and size of the object at offset without inflating it.
func (p *pack) stat(offset int64) (plumbing.ObjectType, int64, error) {
	h, err := p.header(offset)
	if err != nil || !h.isDelta() {
		return h.kind, h.size, err
	}
	size, err := p.deltaResult(h)
	if err != nil {
		return 0, 0, err
	}
	for depth := 0; h.isDelta(); depth++ {
		if depth > maxDeltaChain {
			return 0, 0, errCorrupt
		}
		if h, err = p.header(h.base); err != nil {
			return 0, 0, err
		}
	}
	return h.kind, size, nil
}

// deltaResult returns the size of what a delta makes.
func (p *pack) deltaResult(h header) (int64, error) {
	in, err := p.inflate(h.data)
	if err != nil {
		return 0, err
	}
	defer in.release()
	var head [20]byte
	n, err := io.ReadFull(in, head[:])
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return 0, errCorrupt
	}
	return resultSize(head[:n])
}

// resultSize reads the second of the two sizes that a delta begins with.
func resultSize(delta []byte) (int64, error) {
	_, n := binary.Uvarint(delta)
	if n <= 0 {
		return 0, errCorrupt
	}
	size, n := binary.Uvarint(delta[n:])
	if n <= 0 || size > 1<<62 {
		return 0, errCorrupt
	}
	return int64(size), nil
}

// read returns the object at offset. An object of more than limit bytes, or
// one built upon one of more than maxDeltaBytes (Git builds small objects upon
// larger ones), is a *fault.Error of kind Limit, found before it is inflated.
func (p *pack) read(offset, limit int64) (plumbing.ObjectType, []byte, error) {
	if _, size, err := p.stat(offset); err != nil || size > limit {
		return 0, nil, cmp.Or(err, tooLarge(size, limit))
	}
	return p.build(offset, max(limit, maxDeltaBytes))
}

// build inflates the object at offset and all that it is built upon.
func (p *pack) build(offset, limit int64) (plumbing.ObjectType, []byte, error) {
	var deltas [][]byte
	var places []int64
	var object base
	var held int64 // by deltas, all of which are needed at once
	for {
		if known, ok := p.bases.get(baseKey{p, offset}); ok {
			object = known
			break
		}
		h, err := p.header(offset)
		if err != nil {
			return 0, nil, err
		}
		content, err := p.inflateAll(h, limit)
		if err != nil {
			return 0, nil, err
		}
		if !h.isDelta() {
			object = base{h.kind, content}
			if len(deltas) > 0 {
				p.bases.put(baseKey{p, offset}, object, int64(len(content))+64)
			}
			break
		}
		if held += h.size; held > 2*limit {
			return 0, nil, tooLarge(held, 2*limit)
		}
		if deltas, places = append(deltas, content), append(places, offset); len(deltas) > maxDeltaChain {
			return 0, nil, errCorrupt
		}
		offset = h.base
	}
	for i, delta := range slices.Backward(deltas) {
		content, err := patch(object.content, delta, limit)
		if err != nil {
			return 0, nil, err
		}
		object.content = content
		if i > 0 {
			p.bases.put(baseKey{p, places[i]}, object, int64(len(content))+64)
		}
	}
	return object.kind, object.content, nil
}

func patch(content, delta []byte, limit int64) ([]byte, error) {
	size, err := resultSize(delta)
	if err != nil {
		return nil, err
	}
	if size > limit {
		return nil, tooLarge(size, limit)
	}
	patched, err := packfile.PatchDelta(content, delta)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errCorrupt, err)
	}
	return patched, nil
}

func (p *pack) inflateAll(h header, limit int64) ([]byte, error) {
	if h.size > limit {
		return nil, tooLarge(h.size, limit)
	}
	in, err := p.inflate(h.data)
	if err != nil {
		return nil, err
	}
	defer in.release()
	content := make([]byte, h.size)
	if _, err := io.ReadFull(in, content); err != nil {
		return nil, errCorrupt
	}
	return content, nil
}

// inflater is a reader of compressed data that is used again and again.
type inflater struct {
	buffer *bufio.Reader
	io.Reader
}

var inflaters = sync.Pool{New: func() any { return &inflater{buffer: bufio.NewReaderSize(nil, 4096)} }}

func (p *pack) inflate(data int64) (*inflater, error) {
	in := inflaters.Get().(*inflater) //nolint:forcetypeassert // the pool makes nothing else
	in.buffer.Reset(io.NewSectionReader(p.file, data, p.size-hashSize-data))
	if err := in.reset(in.buffer); err != nil {
		in.release()
		return nil, errCorrupt
	}
	return in, nil
}

func (in *inflater) reset(r io.Reader) (err error) {
	if z, ok := in.Reader.(zlib.Resetter); ok {
		return z.Reset(r, nil)
	}
	in.Reader, err = zlib.NewReader(r)
	return err
}

func (in *inflater) release() {
	in.buffer.Reset(nil)
	inflaters.Put(in)
}

func tooLarge(size, limit int64) error {
	return fault.New(fault.Limit, "an object in the repository has %d bytes, %d are allowed", size, limit)
}
