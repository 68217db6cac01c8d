package sealed

import (
	"container/list"
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/binary"
	"io"
	"sync"

	"github.com/holdfastcd/holdfast/internal/fault"
)

// Bounds of what is remembered. An entry costs about 200 bytes more than its content.
const (
	memoryBytes   = 16 << 20
	entryOverhead = 256
)

// digest names a value and the place that it is opened for.
type digest [sha256.Size]byte

func digestOf(value []byte, parts ...[]byte) digest {
	h := sha256.New()
	for _, p := range append(parts, value) {
		_, _ = h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(p)))) // cannot fail
		_, _ = h.Write(p)
	}
	return digest(h.Sum(nil))
}

// memory remembers what values came to, so that RSA is paid once for each. What was
// opened is kept encrypted under a key that lives in memory only. The oldest in use go
// first. It is safe for concurrent use.
type memory struct {
	gcm cipher.AEAD

	mu     sync.Mutex
	byName map[digest]*list.Element
	used   *list.List // of *entry, latest first
	size   int
}

// entry is what one value came to: content, or why it does not open.
type entry struct {
	name    digest
	key     string // fingerprint of the key that opened it
	content []byte // encrypted
	failed  *fault.Error
	ring    string // the keys with which it failed
}

func (e *entry) size() int {
	n := entryOverhead + len(e.content)
	if e.failed != nil {
		n += len(e.failed.Msg) + len(e.failed.Hint)
	}
	return n
}

func newMemory(random io.Reader) (*memory, error) {
	key := make([]byte, sessionBytes)
	if _, err := io.ReadFull(random, key); err != nil {
		return nil, fault.New(fault.Internal, "there is no randomness: %s", err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fault.New(fault.Internal, "the cache cannot be encrypted: %s", err)
	}
	gcm, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, fault.New(fault.Internal, "the cache cannot be encrypted: %s", err)
	}
	return &memory{gcm: gcm, byName: map[digest]*list.Element{}, used: list.New()}, nil
}

// get returns what the value called name comes to with the keys of r; known is false
// if that is not known.
func (m *memory) get(name digest, r *ring) (content []byte, failed *fault.Error, known bool) {
	m.mu.Lock()
	at := m.byName[name]
	if at == nil {
		m.mu.Unlock()
		return nil, nil, false
	}
	m.used.MoveToFront(at)
	e, _ := at.Value.(*entry)
	m.mu.Unlock()
	if e.failed != nil {
		return nil, e.failed, e.ring == r.id
	}
	if !r.holds(e.key) {
		return nil, nil, false
	}
	content, err := m.gcm.Open([]byte{}, nil, e.content, name[:])
	return content, nil, err == nil
}

func (m *memory) opened(name digest, by *Key, content []byte) {
	m.put(&entry{name: name, key: by.Fingerprint, content: m.gcm.Seal(nil, nil, content, name[:])}) //nolint:gosec // this AEAD makes the nonce itself, by chance
}

func (m *memory) failed(name digest, r *ring, why *fault.Error) {
	m.put(&entry{name: name, ring: r.id, failed: why})
}

func (m *memory) put(e *entry) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if old := m.byName[e.name]; old != nil {
		m.drop(old)
	}
	m.byName[e.name] = m.used.PushFront(e)
	m.size += e.size()
	for m.size > memoryBytes && m.used.Len() > 1 {
		m.drop(m.used.Back())
	}
}

func (m *memory) drop(at *list.Element) {
	e, _ := m.used.Remove(at).(*entry)
	delete(m.byName, e.name)
	m.size -= e.size()
}
