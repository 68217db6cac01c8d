package git

import (
	"bufio"
	"compress/zlib"
	"context"
	"encoding/binary"
	"io"
	"slices"
	"sync"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/pjbgf/sha1cd"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/tree"
)

// compactLater makes one pack of many, in the background, while readers read
// on and the next fetch waits. It takes over the caller's lock by waiting for it.
func (r *repo) compactLater(running *sync.WaitGroup, tenant string) {
	running.Go(func() {
		ctx := withTenant(context.Background(), tenant)
		if r.lock(ctx) != nil {
			return
		}
		defer r.unlock()
		defer r.settle(tenant)
		if r.packCount() <= 1 {
			return
		}
		// If it fails, the old packs still serve, and the next fetch tries again.
		_ = r.compact(ctx)
	})
}

// compact writes the commits whose trees somebody holds, without history, into
// one new pack, and drops everything else: old revisions that nobody can ask
// for again are garbage, and what is dropped in error can be fetched.
func (r *repo) compact(ctx context.Context) error {
	held := slices.DeleteFunc(r.held(), func(s *snapshot) bool {
		return s.damaged.Load() || s.generation.Load() != r.generation.Load()
	})
	ids, err := r.reachable(held)
	if err != nil {
		return err
	}
	reader, writer := io.Pipe()
	var p *pack
	done := make(chan error, 1)
	go func() {
		var err error
		p, err = r.install(ctx, reader, 1<<40)
		reader.CloseWithError(err)
		done <- err
	}()
	writer.CloseWithError(r.writePack(writer, ids))
	if err := <-done; err != nil {
		return err
	}
	var tips []plumbing.Hash
	for _, s := range held {
		tips = append(tips, s.commit)
	}
	return r.replace(p, state{Tips: tips, Shallow: tips})
}

// replace swaps all packs for one (or none), the state on disk first: a
// process that is killed in between finds either the old packs or the new one.
func (r *repo) replace(p *pack, st state) error {
	var packs []*pack
	if p != nil {
		packs, st.Packs = []*pack{p}, []string{p.name}
	}
	if err := r.save(st); err != nil {
		return err
	}
	r.mu.Lock() // waits until nobody reads
	old := r.packs
	r.packs = packs
	closeAll(old)
	r.mu.Unlock()
	return r.sweep(st)
}

func (r *repo) held() []*snapshot {
	r.mu.RLock()
	defer r.mu.RUnlock()
	var held []*snapshot
	for _, weak := range r.live {
		if s := weak.Value(); s != nil {
			held = append(held, s)
		}
	}
	return held
}

// reachable returns the commits, trees and files of snapshots, each once. It keeps
// its own list of what is left: directories may be nested as deep as anybody likes.
func (r *repo) reachable(held []*snapshot) ([]plumbing.Hash, error) {
	var ids []plumbing.Hash
	seen := map[plumbing.Hash]bool{}
	visit := func(id plumbing.Hash) bool {
		if seen[id] {
			return false
		}
		seen[id] = true
		ids = append(ids, id)
		return true
	}
	for _, s := range held {
		visit(s.commit)
		for dirs := []plumbing.Hash{s.root}; len(dirs) > 0; {
			id := dirs[len(dirs)-1]
			dirs = dirs[:len(dirs)-1]
			if !visit(id) {
				continue
			}
			below, err := r.below(id, s, visit)
			if err != nil {
				s.damaged.Store(true) // and left out next time
				return nil, err
			}
			dirs = append(dirs, below...)
		}
	}
	return ids, nil
}

// below visits the files of a directory, and returns the directories in it.
func (r *repo) below(id plumbing.Hash, s *snapshot, visit func(plumbing.Hash) bool) ([]plumbing.Hash, error) {
	entries, err := r.listing(digest(id), s)
	if err != nil && fault.KindOf(err) == fault.Invalid {
		return nil, nil // one tenant's, which must not keep the others' from being tidied
	}
	var dirs []plumbing.Hash
	for _, e := range entries {
		switch e.Kind {
		case tree.Dir:
			dirs = append(dirs, hash(e.Digest))
		case tree.Submodule:
		default:
			if visit(hash(e.Digest)) && !r.has(hash(e.Digest)) {
				return nil, errMissing
			}
		}
	}
	return dirs, err
}

func (r *repo) has(id plumbing.Hash) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	_, _, err := r.locate(id)
	return err == nil
}

// writePack writes a pack of whole objects, without deltas.
func (r *repo) writePack(w io.Writer, ids []plumbing.Hash) error {
	sum := sha1cd.New()
	out := bufio.NewWriterSize(io.MultiWriter(w, sum), 64<<10)
	_, _ = out.WriteString("PACK\x00\x00\x00\x02") // errors stay with out until Flush
	var count [4]byte
	binary.BigEndian.PutUint32(count[:], uint32(len(ids)))
	_, _ = out.Write(count[:])
	z, err := zlib.NewWriterLevel(out, zlib.BestSpeed)
	if err != nil {
		return err
	}
	for _, id := range ids {
		if err := r.writeObject(out, z, id); err != nil {
			return err
		}
	}
	if err := out.Flush(); err != nil {
		return err
	}
	_, err = w.Write(sum.Sum(nil))
	return err
}

// writeObject copies one object. A large file passes through in pieces.
func (r *repo) writeObject(out *bufio.Writer, z *zlib.Writer, id plumbing.Hash) error {
	r.mu.RLock()
	defer r.mu.RUnlock()
	p, offset, err := r.locate(id)
	if err != nil {
		return err
	}
	kind, size, err := p.stat(offset)
	if err != nil {
		return err
	}
	_, _ = out.Write(objectHeader(kind, size))
	z.Reset(out)
	if err := p.copyTo(z, offset); err != nil {
		return err
	}
	return z.Close()
}

func (p *pack) copyTo(w io.Writer, offset int64) error {
	h, err := p.header(offset)
	if err != nil {
		return err
	}
	if h.isDelta() {
		_, content, err := p.build(offset, maxDeltaBytes)
		if err != nil {
			return err
		}
		_, err = w.Write(content)
		return err
	}
	in, err := p.inflate(h.data)
	if err != nil {
		return err
	}
	defer in.release()
	_, err = io.CopyN(w, in, h.size)
	return err
}

// objectHeader is the inverse of parseHeader for whole objects.
func objectHeader(kind plumbing.ObjectType, size int64) []byte {
	b := []byte{byte(kind)<<4 | byte(size&15)}
	for size >>= 4; size > 0; size >>= 7 {
		b[len(b)-1] |= 0x80
		b = append(b, byte(size&0x7f))
	}
	return b
}
