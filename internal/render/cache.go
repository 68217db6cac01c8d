package render

import (
	"bytes"
	"compress/flate"
	"container/list"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/json"
	"io"
	"sync"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/secret"
	"github.com/holdfastcd/holdfast/internal/tree"
)

// Cache remembers what was rendered and what was read for it. A request whose
// reads have the same answers on another tree has the same result, and nothing
// is rendered. For each request and scope the latest result is kept.
//
// Two things are kept, each within its own bound, least recently used first to
// go: the output, compressed and then sealed (AES-256-GCM) under a key that the
// process makes for each cache and nobody else has; and the knowledge of reads and
// digest, which is small and tells by itself that nothing changed (see
// [Scoped.Unchanged]). So nothing that a rendering opened stays in memory as it is.
//
// It is safe for concurrent use if its inner renderer is.
type Cache struct {
	inner func(scope string) Renderer
	limit int64 // of each kind
	seal  cipher.AEAD

	mu      sync.Mutex
	entries map[string]*list.Element // of *cached
	recent  *list.List               // front: used last
	output  int64                    // bytes of all bodies
	known   int64                    // estimated bytes of all traces

	press   sync.Mutex
	deflate *flate.Writer // takes most of a MiB to make
}

// cached is one entry. Its fields but body do not change.
type cached struct {
	key     string
	trace   tree.Trace
	asked   Asked
	answers string // to what was asked
	notes   []Note
	digest  [32]byte
	size    int64  // estimate of all but the body
	body    []byte // sealed
}

// NewCache returns an empty cache before the renderer of each scope, as [Fair.In]
// gives it, that keeps at most maxBytes of compressed output, and as much again of
// knowledge.
func NewCache(inner func(scope string) Renderer, maxBytes int64) *Cache {
	return &Cache{inner: inner, limit: maxBytes, seal: newSeal(), entries: map[string]*list.Element{}, recent: list.New()}
}

// newSeal returns what seals under a new key.
func newSeal() cipher.AEAD {
	key := make([]byte, 32)
	_, _ = rand.Read(key) // never fails
	block, err := aes.NewCipher(key)
	if err != nil {
		panic(err) // the length is right
	}
	seal, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic(err) // AES has the block size that GCM is for
	}
	return seal
}

// Scoped is the part of a cache that belongs to one scope.
type Scoped struct {
	cache *Cache
	scope string
}

// In returns the part of the cache for one scope. Results never cross from one
// scope to another: whoever could not read a source must not learn from the
// cache what is in it.
func (c *Cache) In(scope string) *Scoped { return &Scoped{cache: c, scope: scope} }

// Render returns the kept result if its trace holds on t, with Cached set, and
// renders otherwise. Errors are those of the inner renderer; they are not kept.
func (s *Scoped) Render(ctx context.Context, req Request, t tree.Tree) (Result, error) {
	key, err := s.key(req)
	if err != nil {
		return Result{}, err
	}
	e, body := s.cache.lookup(key)
	if body != nil && e.holds(req, t) {
		if result, err := s.cache.result(e, body); err == nil {
			return result, nil
		}
	}
	result, err := s.cache.inner(s.scope).Render(ctx, req, t)
	if err != nil {
		return Result{}, err
	}
	return result, s.cache.store(key, req, result)
}

// Unchanged reports whether req renders on t to what it gave last, without
// rendering anything, and the digest of that. It may say no where yes is true.
func (s *Scoped) Unchanged(req Request, t tree.Tree) (digest [32]byte, unchanged bool) {
	key, err := s.key(req)
	if err != nil {
		return digest, false
	}
	e, _ := s.cache.lookup(key)
	if e == nil || !e.holds(req, t) {
		return digest, false
	}
	return e.digest, true
}

// key leaves out the capabilities: of these, a result depends on what was asked.
func (s *Scoped) key(req Request) (string, error) {
	req.Capabilities = nil
	text, err := json.Marshal([]any{s.scope, req})
	if err != nil {
		return "", fault.New(fault.Internal, "the request has no JSON form: %v", err)
	}
	return string(text), nil
}

// lookup returns an entry and its body at this moment; nil where there is none.
func (c *Cache) lookup(key string) (*cached, []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	el := c.entries[key]
	if el == nil {
		return nil, nil
	}
	c.recent.MoveToFront(el)
	e := entryOf(el)
	return e, e.body
}

func entryOf(el *list.Element) *cached {
	e, _ := el.Value.(*cached) // the list holds nothing else
	return e
}

// holds reports whether everything that was asked for e has the same answer.
func (e *cached) holds(req Request, t tree.Tree) bool {
	return e.asked.Answers(req.Capabilities) == e.answers && e.trace.Holds(t)
}

// kept is what a body holds.
type kept struct {
	Objects json.RawMessage `json:"objects"`
	Opened  [][]byte        `json:"opened,omitempty"`
}

// result opens a body of an entry.
func (c *Cache) result(e *cached, body []byte) (Result, error) {
	packed, err := c.seal.Open(nil, nil, body, []byte(e.key))
	if err != nil {
		return Result{}, err
	}
	text, err := io.ReadAll(io.LimitReader(flate.NewReader(bytes.NewReader(packed)), 2*maxOutput))
	if err != nil {
		return Result{}, err
	}
	var k kept
	if err := json.Unmarshal(text, &k); err != nil {
		return Result{}, err
	}
	objects, digest, err := decode(k.Objects)
	if err != nil {
		return Result{}, err
	}
	result := Result{Objects: objects, Trace: e.trace, Digest: digest, Notes: e.notes, Asked: e.asked, Cached: true}
	for _, v := range k.Opened {
		result.Opened = append(result.Opened, secret.Hide(v))
	}
	return result, nil
}

// store keeps a result in the place of the last one.
func (c *Cache) store(key string, req Request, r Result) error {
	packed, err := c.compress(r)
	if err != nil {
		return err
	}
	body := c.seal.Seal(nil, nil, packed, []byte(key)) //nolint:gosec // this one makes its nonces itself
	clear(packed)
	e := &cached{
		key: key, trace: r.Trace, asked: r.Asked, answers: r.Asked.Answers(req.Capabilities), notes: r.Notes,
		digest: r.Digest, body: body,
	}
	e.size = int64(len(key)+len(e.answers)) + 256
	for _, n := range r.Notes {
		e.size += int64(len(n.File)) + 128
	}
	for _, read := range r.Trace {
		e.size += int64(len(read.Path)+len(read.Digest)) + 48
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if old := c.entries[key]; old != nil {
		c.remove(old)
	}
	c.entries[key] = c.recent.PushFront(e)
	c.output += int64(len(e.body))
	c.known += e.size
	c.shrink()
	return nil
}

// shrink keeps the bounds: bodies go before knowledge.
func (c *Cache) shrink() {
	for el := c.recent.Back(); el != nil && c.output > c.limit; el = el.Prev() {
		e := entryOf(el)
		c.output -= int64(len(e.body))
		e.body = nil
	}
	for c.known > c.limit {
		c.remove(c.recent.Back())
	}
}

func (c *Cache) remove(el *list.Element) {
	e := entryOf(el)
	c.recent.Remove(el)
	delete(c.entries, e.key)
	c.output -= int64(len(e.body))
	c.known -= e.size
}

func (c *Cache) compress(r Result) ([]byte, error) {
	objects, err := encode(r.Objects)
	if err != nil {
		return nil, err
	}
	k := kept{Objects: objects}
	for _, v := range r.Opened {
		k.Opened = append(k.Opened, v.Reveal())
	}
	text, err := json.Marshal(k)
	if err != nil {
		return nil, err
	}
	c.press.Lock()
	defer c.press.Unlock()
	var buf bytes.Buffer
	if c.deflate == nil {
		if c.deflate, err = flate.NewWriter(&buf, flate.BestSpeed); err != nil {
			return nil, err
		}
	}
	c.deflate.Reset(&buf)
	if _, err := c.deflate.Write(text); err != nil {
		return nil, err
	}
	if err := c.deflate.Close(); err != nil {
		return nil, err
	}
	return bytes.Clone(buf.Bytes()), nil
}
