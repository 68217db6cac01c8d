package cluster

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfastcd/holdfast/internal/health"
)

func rec(version string, generation int64) Record {
	return Record{UID: "u", ResourceVersion: version, Generation: generation}
}

func TestRecordsPut(t *testing.T) {
	healthy := rec("6", 1)
	healthy.Judged, healthy.Health = true, health.Verdict{Status: health.Healthy}
	entries := rec("6", 1)
	entries.Entries = []Entry{{Manager: "m", Hash: Hash{1}}}
	tests := []struct {
		name, reason string
		old          *Record
		seen         Record
		news         bool
		want         Record
	}{
		{"new", "the first sight of an object is news", nil, rec("5", 1), true, rec("5", 1)},
		{"status only", "a version alone says nothing where there is a generation", new(rec("5", 1)), rec("6", 1), false, rec("6", 1)},
		{"no generation", "where there is none, a version is all there is", new(rec("5", 0)), rec("6", 0), true, rec("6", 0)},
		{"the same again", "our own apply, seen by the watch", new(rec("5", 0)), rec("5", 0), false, rec("5", 0)},
		{"late", "an event from before our own apply", new(rec("7", 2)), rec("6", 1), false, rec("7", 2)},
		{"generation", "what is desired moved", new(rec("5", 1)), rec("6", 2), true, rec("6", 2)},
		{"health", "health moved", new(rec("5", 1)), healthy, true, healthy},
		{"managers", "a manager came", new(rec("5", 1)), entries, true, entries},
		{"not a number", "versions that cannot be compared are taken as they come", new(rec("b", 1)), rec("a", 2), true, rec("a", 2)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := &records{all: map[key]Record{}}
			if tt.old != nil {
				s.all[key{"ns", "n"}] = *tt.old
			}
			if news := s.put(key{"ns", "n"}, tt.seen); news != tt.news {
				t.Errorf("%s: news is %t", tt.reason, news)
			}
			got, _ := s.get(key{"ns", "n"})
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tt.reason, diff)
			}
		})
	}
}

func TestRecordsNote(t *testing.T) {
	healthy := rec("5", 1)
	healthy.Judged, healthy.Health = true, health.Verdict{Status: health.Healthy}
	tests := []struct {
		name, reason string
		old          *Record
		noted        Record
		whole        bool
		version      string
		status       health.Status
	}{
		{"created", "nothing is known of its health yet", nil, rec("6", 1), true, "6", health.Progressing},
		{"created, not judged", "nobody judges the kind", nil, rec("6", 1), false, "6", ""},
		{"changed", "the controller has to observe it", &healthy, rec("6", 2), true, "6", health.Progressing},
		{"only labels", "what is desired of the controller is the same", &healthy, rec("6", 1), true, "6", health.Healthy},
		{"the watch is as far", "it knows more", &healthy, rec("5", 1), true, "5", health.Healthy},
		{"the watch is further", "it knows more", &healthy, rec("4", 2), true, "5", health.Healthy},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := &records{all: map[key]Record{}}
			if tt.old != nil {
				s.all[key{"", "n"}] = *tt.old
			}
			s.note(key{"", "n"}, tt.noted, tt.whole)
			got, _ := s.get(key{"", "n"})
			if got.ResourceVersion != tt.version || got.Health.Status != tt.status || got.Judged != (tt.status != "") {
				t.Errorf("%s: got %+v", tt.reason, got)
			}
		})
	}
}

func TestRecordsRemoveAndReplace(t *testing.T) {
	s := &records{all: map[key]Record{}}
	a, b, c := key{"ns", "a"}, key{"ns", "b"}, key{"ns", "c"}
	s.put(a, rec("5", 1))
	s.note(b, rec("20", 1), false) // applied by us after the list below was made
	s.put(c, rec("6", 1))
	if s.remove(b, "19") {
		t.Error("a deletion from before our own apply was taken")
	}
	changes := s.replace(map[key]Record{c: rec("6", 1)}, "10")
	want := []change{{a, rec("5", 1), true}}
	if diff := cmp.Diff(want, changes, cmp.AllowUnexported(change{}, key{})); diff != "" {
		t.Errorf("changes of a list (-want +got):\n%s", diff)
	}
	if _, ok := s.get(b); !ok {
		t.Error("an object that we made after the list was dropped by it")
	}
	if !s.remove(c, "11") || s.remove(c, "11") {
		t.Error("a deletion is news once")
	}
}
