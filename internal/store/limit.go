package store

import (
	"errors"
	"io/fs"
	"slices"
)

// printed is what is known of a file of fingerprints without reading it.
type printed struct {
	size int64
	used int64 // counts up; before the first use here, the order of the files' times
}

// overhead is what a file takes beside its bytes, about.
const overhead = 4 << 10

// Bound sets how many bytes all fingerprints may take, and drops what is too much:
// what was unused for longest goes first. Who loses some is asked for again at the
// API server, object by object. Errors: Invalid, if the directory fails.
func (s *Store) Bound(bytes int64) error {
	s.mu.Lock()
	s.limit = bytes
	s.mu.Unlock()
	return s.shrink("")
}

// measure finds out what an earlier process left.
func (s *Store) measure() error {
	files, err := fs.ReadDir(s.root.FS(), "fingerprints")
	if err != nil {
		return unusable(s.dir, err)
	}
	infos := make([]fs.FileInfo, 0, len(files))
	for _, f := range files {
		if info, err := f.Info(); err == nil && info.Mode().IsRegular() {
			infos = append(infos, info)
		}
	}
	slices.SortFunc(infos, func(a, b fs.FileInfo) int { return a.ModTime().Compare(b.ModTime()) })
	for _, info := range infos {
		s.note("fingerprints/"+info.Name(), info.Size(), s.next())
	}
	return nil
}

// next returns the next moment of use.
func (s *Store) next() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.uses++
	return s.uses
}

func (s *Store) note(name string, size, used int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old, ok := s.prints[name]; ok {
		s.total -= old.size + overhead
	}
	s.prints[name] = printed{size, used}
	s.total += size + overhead
}

func (s *Store) touch(name string) {
	used := s.next()
	s.mu.Lock()
	defer s.mu.Unlock()
	if p, ok := s.prints[name]; ok {
		p.used = used
		s.prints[name] = p
	}
}

// shrink keeps the bound; keep stays, whatever it takes.
func (s *Store) shrink(keep string) error {
	for {
		name := s.oldest(keep)
		if name == "" {
			return nil
		}
		if err := s.remove(name); err != nil {
			return err
		}
	}
}

// oldest returns what was unused for longest, "" if there is room.
func (s *Store) oldest(keep string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.total <= s.limit {
		return ""
	}
	oldest := ""
	for name, p := range s.prints {
		if name != keep && (oldest == "" || p.used < s.prints[oldest].used) {
			oldest = name
		}
	}
	return oldest
}

// remove removes a file of fingerprints; it is no error if there is none.
func (s *Store) remove(name string) error {
	if err := s.root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return unusable(s.dir, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if old, ok := s.prints[name]; ok {
		s.total -= old.size + overhead
		delete(s.prints, name)
	}
	return nil
}
