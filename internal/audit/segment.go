package audit

import (
	"bufio"
	"cmp"
	"encoding/binary"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sort"

	"github.com/holdfastcd/holdfast/internal/fault"
)

// posting says that an entry concerns what the key stands for.
type posting struct {
	key   uint64 // see keyOf
	index uint64
}

func (p posting) compare(q posting) int {
	return cmp.Or(cmp.Compare(p.key, q.key), cmp.Compare(p.index, q.index))
}

// A segment's file is blocks of blockSize bytes: blockCount postings, sorted over the
// whole file, each a key and an index in 8 bytes, and in the last 4 bytes the CRC-32C
// of what is before them. What the last block has no postings for is zero.
const (
	postingSize = 16
	blockSize   = 4096
	blockCount  = (blockSize - postingSize) / postingSize
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// segment is a sorted file of the postings of a run of entries. It never changes.
type segment struct {
	Name  string `json:"name"`
	Count int    `json:"count"` // of postings
	file  *os.File
}

// open opens the file, whose size must be that of its postings.
func (s *segment) open(dir string) error {
	f, err := os.Open(filepath.Join(dir, filepath.Base(s.Name))) //nolint:gosec // a name in the index's directory
	if err != nil {
		return unusable(s.Name, err)
	}
	info, err := f.Stat()
	if err != nil || s.Count < 0 || info.Size() != int64(blocks(s.Count))*blockSize {
		f.Close()
		return damaged(s.Name, "the index has another size than it was written with")
	}
	s.file = f
	return nil
}

func blocks(count int) int { return (count + blockCount - 1) / blockCount }

// block returns the n-th block's postings.
func (s *segment) block(n int) ([]posting, error) {
	var raw [blockSize]byte
	if _, err := s.file.ReadAt(raw[:], int64(n)*blockSize); err != nil {
		return nil, unusable(s.Name, err)
	}
	if crc32.Checksum(raw[:blockSize-4], castagnoli) != binary.BigEndian.Uint32(raw[blockSize-4:]) {
		return nil, damaged(s.Name, "the index is damaged in block %d", n).WithHint("delete the directory index of the log; it is rebuilt")
	}
	list := make([]posting, min(blockCount, s.Count-n*blockCount))
	for i := range list {
		at := raw[i*postingSize:]
		list[i] = posting{binary.BigEndian.Uint64(at), binary.BigEndian.Uint64(at[8:])}
	}
	return list, nil
}

// cursor reads single postings of a segment, keeping the block that it read last.
type cursor struct {
	*segment
	n    int
	have []posting
	err  error
}

// at returns the i-th posting; after a failure, which it notes, a zero one.
func (c *cursor) at(i int) posting {
	n := i / blockCount
	if c.err == nil && (c.have == nil || c.n != n) {
		c.have, c.err = c.block(n)
		c.n = n
	}
	if c.err != nil {
		return posting{}
	}
	return c.have[i%blockCount]
}

// find appends to list the entries of key, newest first, until there are limit.
func (s *segment) find(list []uint64, key uint64, limit int) ([]uint64, error) {
	c := cursor{segment: s}
	end := sort.Search(s.Count, func(i int) bool { return c.at(i).key > key })
	for i := end - 1; i >= 0 && len(list) < limit && c.err == nil; i-- {
		p := c.at(i)
		if p.key != key || c.err != nil {
			break
		}
		list = append(list, p.index)
	}
	return list, c.err
}

// writeSegment writes the postings that next yields, in order, to a new segment.
func writeSegment(dir, drafts, name string, next func() (posting, bool, error)) (*segment, error) {
	s := &segment{Name: name}
	err := writeWith(drafts, filepath.Join(dir, name), func(w io.Writer) error {
		out := bufio.NewWriterSize(w, 1<<18)
		for {
			n, err := writeBlock(out, next)
			s.Count += n
			if err != nil {
				return err
			}
			if n < blockCount {
				return out.Flush()
			}
		}
	})
	if err != nil {
		return nil, fault.From(err)
	}
	return s, s.open(dir)
}

// writeBlock writes one block, unless nothing is left, and returns how many postings it took.
func writeBlock(w io.Writer, next func() (posting, bool, error)) (int, error) {
	var raw [blockSize]byte
	n := 0
	for n < blockCount {
		p, ok, err := next()
		if err != nil {
			return n, err
		}
		if !ok {
			break
		}
		binary.BigEndian.PutUint64(raw[n*postingSize:], p.key)
		binary.BigEndian.PutUint64(raw[n*postingSize+8:], p.index)
		n++
	}
	if n == 0 {
		return 0, nil
	}
	binary.BigEndian.PutUint32(raw[blockSize-4:], crc32.Checksum(raw[:blockSize-4], castagnoli))
	_, err := w.Write(raw[:])
	return n, err
}

// ordered yields the postings of a list that it sorts.
func ordered(list []posting) func() (posting, bool, error) {
	slices.SortFunc(list, posting.compare)
	return func() (p posting, ok bool, err error) {
		if len(list) == 0 {
			return p, false, nil
		}
		p, list = list[0], list[1:]
		return p, true, nil
	}
}

// merged yields the postings of several segments in order.
func merged(segments []*segment) func() (posting, bool, error) {
	type source struct {
		cursor
		i int
	}
	sources := make([]*source, len(segments))
	for i, s := range segments {
		sources[i] = &source{cursor: cursor{segment: s}}
	}
	return func() (posting, bool, error) {
		var least *source
		var p posting
		for _, s := range sources {
			if s.i == s.Count {
				continue
			}
			q := s.at(s.i)
			if s.err != nil {
				return posting{}, false, s.err
			}
			if least == nil || q.compare(p) < 0 {
				least, p = s, q
			}
		}
		if least == nil {
			return posting{}, false, nil
		}
		least.i++
		return p, true, nil
	}
}
