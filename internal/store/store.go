// Package store is the data directory of a process: what makes a restart cheap
// and nothing that is needed to be right. Losing the directory costs time and
// requests; it holds no object and no credential.
//
//	layout        version of this layout
//	lock          held while a process uses the directory
//	key           random key of the digests, mode 0600
//	git/          object stores of Git repositories
//	fingerprints/ one file for each delivery
package store

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/holdfastcd/holdfast/internal/fault"
)

// layout is the version of the directory's layout. A process refuses a directory
// whose layout it does not know rather than guess at it.
const layout = "1"

// Store is an open data directory. It is safe for concurrent use.
type Store struct {
	dir  string
	root *os.Root
	lock io.Closer
	key  [32]byte

	writing sync.Mutex // one file is replaced at a time

	mu     sync.Mutex
	limit  int64 // of all fingerprints
	total  int64
	uses   int64
	prints map[string]printed // by the names of their files
}

// Open opens the data directory dir, which it creates if need be, and locks it.
// Errors: Conflict (another process uses it), Unsupported (a newer version wrote
// it), Invalid (it cannot be created, read or locked).
func Open(dir string) (*Store, error) { return open(dir, rand.Reader) }

func open(dir string, random io.Reader) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, unusable(dir, err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, unusable(dir, err)
	}
	s := &Store{dir: dir, root: root, limit: defaultLimit, prints: map[string]printed{}}
	if err := s.prepare(random); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// prepare locks the directory before it reads or writes anything in it.
func (s *Store) prepare(random io.Reader) (err error) {
	s.lock, err = lockFile(s.root, "lock")
	if errors.Is(err, errLocked) {
		return fault.New(fault.Conflict, "another process uses the data directory %s", s.dir).
			WithHint("stop it, or give this one a directory of its own").Because(err)
	}
	if err != nil {
		return unusable(s.dir, err)
	}
	if err := s.checkLayout(); err != nil {
		return err
	}
	for _, d := range []string{"git", "fingerprints"} {
		if err := s.root.MkdirAll(d, 0o700); err != nil {
			return unusable(s.dir, err)
		}
	}
	if err := s.loadKey(random); err != nil {
		return err
	}
	return s.measure()
}

func unusable(dir string, err error) error {
	reason := err.Error()
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		reason = p.Op + " " + p.Path + ": " + p.Err.Error()
	}
	return fault.New(fault.Invalid, "cannot use the data directory %s: %s", dir, reason).Because(err)
}

func (s *Store) checkLayout() error {
	b, err := s.root.ReadFile("layout")
	if errors.Is(err, fs.ErrNotExist) {
		return s.replace("layout", []byte(layout+"\n"))
	}
	if err != nil {
		return unusable(s.dir, err)
	}
	if v := strings.TrimSpace(string(b)); v != layout {
		return fault.New(fault.Unsupported, "the data directory %s has layout %.20q, this version knows %s", s.dir, v, layout).
			WithHint("use an empty directory; everything in it is made anew")
	}
	return nil
}

// loadKey reads the key, or makes one. A key that was cut short is replaced: the
// digests made with it are then worth nothing, which costs requests only.
func (s *Store) loadKey(random io.Reader) error {
	b, err := s.root.ReadFile("key")
	if err == nil && len(b) == len(s.key) {
		copy(s.key[:], b)
		return nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return unusable(s.dir, err)
	}
	if _, err := io.ReadFull(random, s.key[:]); err != nil {
		return unusable(s.dir, err)
	}
	return s.replace("key", s.key[:])
}

// Key returns the secret key of this directory's digests.
func (s *Store) Key() [32]byte { return s.key }

// Git returns the directory for the object stores of Git repositories.
func (s *Store) Git() string { return filepath.Join(s.dir, "git") }

// Close gives the directory up for another process. Everything saved is in its
// file already.
func (s *Store) Close() error {
	err := s.root.Close()
	if s.lock != nil {
		err = errors.Join(err, s.lock.Close())
	}
	return err
}

// Digest returns a digest of data under the key of this directory (HMAC-SHA256):
// without the key, nobody can tell from a stored digest whether a guessed object,
// a Secret above all, is the one it was made from.
func (s *Store) Digest(data []byte) [32]byte {
	h := hmac.New(sha256.New, s.key[:])
	h.Write(data)
	var sum [32]byte
	h.Sum(sum[:0])
	return sum
}

// replace writes a file, with mode 0600, whole or not at all. It does not wait for
// the disk: a file lost in a power failure is made anew, as said above.
func (s *Store) replace(name string, data []byte) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	const draft = "new"
	err := s.root.WriteFile(draft, data, 0o600)
	if err == nil {
		err = s.root.Rename(draft, name)
	}
	if err != nil {
		return unusable(s.dir, err)
	}
	return nil
}
