package cluster

import (
	"slices"
	"strconv"
	"sync"

	"github.com/holdfastcd/holdfast/internal/health"
	"github.com/holdfastcd/holdfast/internal/object"
)

// key names an object within its kind.
type key struct{ namespace, name string }

func keyOf(id object.ID) key { return key{id.Namespace, id.Name} }

// records is what is kept of the objects of one kind. Two sources feed it, the
// watch and the answers to our own requests; resource versions of one resource
// are ordered, so whichever is older loses.
type records struct {
	mu  sync.RWMutex
	all map[key]Record
}

// change is one difference that a watch made.
type change struct {
	key    key
	record Record
	gone   bool
}

func (s *records) get(k key) (Record, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	r, ok := s.all[k]
	return r, ok
}

// owned returns the objects whose marks name owner.
func (s *records) owned(owner string) []key {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var keys []key
	for k, r := range s.all {
		if r.Owner == owner {
			keys = append(keys, k)
		}
	}
	return keys
}

// put takes what the watch shows and reports whether it says anything new.
func (s *records) put(k key, r Record) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.set(k, r)
}

func (s *records) set(k key, r Record) bool {
	old, ok := s.all[k]
	if ok && newer(old.ResourceVersion, r.ResourceVersion) {
		return false
	}
	s.all[k] = r
	return !ok || !old.same(r)
}

// remove takes a deletion that the watch shows and reports whether it is new.
func (s *records) remove(k key, resourceVersion string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	old, ok := s.all[k]
	if !ok || newer(old.ResourceVersion, resourceVersion) {
		return false
	}
	delete(s.all, k)
	return true
}

// replace takes a complete list as of resourceVersion and returns what it changed.
func (s *records) replace(list map[key]Record, resourceVersion string) []change {
	s.mu.Lock()
	defer s.mu.Unlock()
	var changes []change
	for k, old := range s.all {
		if _, ok := list[k]; !ok && !newer(old.ResourceVersion, resourceVersion) {
			delete(s.all, k)
			changes = append(changes, change{k, old, true})
		}
	}
	for k, r := range list {
		if s.set(k, r) {
			changes = append(changes, change{k, r, false})
		}
	}
	return changes
}

// note takes the answer to our own request, unless the watch is as far already.
// The answer does not show health: until the watch does, an object whose desired
// state moved is in progress.
func (s *records) note(k key, r Record, whole bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old, ok := s.all[k]
	if ok && !newer(r.ResourceVersion, old.ResourceVersion) {
		return
	}
	switch {
	case ok && old.UID == r.UID && (old.Generation == r.Generation || !old.Judged):
		r.Judged, r.Health = old.Judged, old.Health
	case whole:
		r.Judged = true
		r.Health = health.Verdict{Status: health.Progressing, Message: "waiting for the controller to observe it"}
	}
	s.all[k] = r
}

func (s *records) forget(k key, uid string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if string(s.all[k].UID) == uid {
		delete(s.all, k)
	}
}

// same reports whether two records mean the same. The resource version alone
// means something only where there is no generation.
func (r Record) same(o Record) bool {
	return r.UID == o.UID && r.Generation == o.Generation && r.Owner == o.Owner &&
		r.KeptInPrune == o.KeptInPrune && r.KeptInDelete == o.KeptInDelete && r.Deleting == o.Deleting && r.Judged == o.Judged && r.Health == o.Health &&
		(r.Generation != 0 || r.ResourceVersion == o.ResourceVersion) && slices.Equal(r.Entries, o.Entries)
}

// newer reports whether resource version a is newer than b. Versions that are
// not numbers cannot be compared; then neither is.
func newer(a, b string) bool {
	x, errX := strconv.ParseUint(a, 10, 64)
	y, errY := strconv.ParseUint(b, 10, 64)
	return errX == nil && errY == nil && x > y
}
