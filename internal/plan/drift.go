package plan

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/holdfastcd/holdfast/internal/object"
)

// Touch is one field that somebody else wrote.
type Touch struct {
	Field   string    // its path, never its value
	Manager string    // the field manager that owns it; a claim
	At      time.Time // when that was recorded, to the second; zero if nobody owns it
}

// Drift is what others did to an object that a delivery holds.
type Drift struct {
	// Changed are fields of the source that have another value, or are gone; Added are
	// fields that the source does not have.
	Changed, Added []Touch
	// Surplus is what must be removed so that the object holds nothing that was added.
	Surplus []object.Path
}

// None reports whether there is nothing to tell.
func (d Drift) None() bool { return len(d.Changed) == 0 && len(d.Added) == 0 }

// Scene is where a drift is looked for.
type Scene struct {
	ID object.ID
	// Live is the object with its managedFields. It is changed: ignored fields go.
	Live *unstructured.Unstructured
	// Desired is the object as it was applied; nil: as the fields tell that Manager owns.
	Desired *unstructured.Unstructured
	// Manager is our field manager. Moved: its own entry is not as it left it.
	Manager string
	Moved   bool
	Ignored *Ignored
	// Shared: the object's own marks say that others may add to it.
	Shared bool
}

// maxTouches bounds what is told of one object.
const maxTouches = 100

// FindDrift compares what others own of a live object, and what it lacks, with what was
// applied. Fields that controllers add by design are left out.
func FindDrift(s Scene) Drift {
	entries := s.Live.GetManagedFields()
	gone := &unstructured.Unstructured{Object: map[string]any{}}
	if s.Desired != nil {
		gone = s.Desired
	}
	s.Ignored.Clear(s.Live, gone)
	ours := object.OwnedIn(slices.DeleteFunc(slices.Clone(entries), func(m metav1.ManagedFieldsEntry) bool { return !own(m, s.Manager) }))
	f := finder{Scene: s, ours: ours, seen: map[string]bool{}}
	slices.SortStableFunc(entries, func(a, b metav1.ManagedFieldsEntry) int { return -when(a).Compare(when(b)) })
	for _, m := range entries {
		f.entry(m)
	}
	if s.Desired != nil && s.Moved {
		f.lost(entries)
	}
	f.drift.Surplus = f.surplus()
	return f.drift
}

// own reports whether m is what manager applied.
func own(m metav1.ManagedFieldsEntry, manager string) bool {
	return isOurs(m, manager) && m.Subresource == ""
}

func when(m metav1.ManagedFieldsEntry) time.Time {
	if m.Time == nil {
		return time.Time{}
	}
	return m.Time.Time
}

// finder gathers the drift of one object.
type finder struct {
	Scene

	ours   object.Owned
	seen   map[string]bool
	drift  Drift
	added  []object.Path // of drift.Added that may be removed
	spared []object.Path // what others added and may stay
}

// entry looks at what one manager owns.
func (f *finder) entry(m metav1.ManagedFieldsEntry) {
	if m.FieldsV1 == nil || m.Subresource == "status" || own(m, f.Manager) && (f.Desired == nil || !f.Moved) {
		return
	}
	fields, err := object.ParseOwned(m.FieldsV1.GetRawBytes())
	if err != nil {
		return
	}
	if m.APIVersion != f.Live.GetAPIVersion() { // paths may differ
		fields = object.Owned{"f:metadata": fields["f:metadata"]}
	}
	fields = fields.Within(f.Live.Object)
	beyond := fields.Beyond(f.ours)
	if own(m, f.Manager) { // somebody took our name: what was sent under it and is not in the source
		beyond = fields.Leaves()
	}
	for _, p := range beyond {
		f.field(p, m)
	}
}

// field judges one field that m owns.
func (f *finder) field(p object.Path, m metav1.ManagedFieldsEntry) {
	if key(p) {
		return
	}
	if f.Desired != nil {
		if want, ok := p.Get(f.Desired.Object); ok {
			if live, _ := p.Get(f.Live.Object); f.Moved && !own(m, f.Manager) && !reflect.DeepEqual(want, live) {
				f.note(&f.drift.Changed, p, m)
			}
			return
		}
	}
	if m.Subresource == "scale" {
		return // who scales what the source leaves open does what it is for
	}
	if own(m, f.Manager) { // our own apply removes it
		f.note(&f.drift.Added, f.trim(p), m)
		return
	}
	if f.Shared {
		return
	}
	switch e, excused := excuseFor(f.ID.GroupKind(), p.String(), m.Manager); {
	case excused && !e.kept:
		f.spared = append(f.spared, p)
	case excused:
		f.spared = append(f.spared, p)
		f.note(&f.drift.Added, p, m)
	default:
		f.added = append(f.added, p)
		f.note(&f.drift.Added, p, m)
	}
}

// trim shortens p to the first item of a list that is not desired.
func (f *finder) trim(p object.Path) object.Path {
	for n, step := range p {
		if _, ok := p[:n+1].Get(f.Desired.Object); !ok && !strings.HasPrefix(step, "f:") {
			return p[:n+1]
		}
	}
	return p
}

// key reports whether p is a field by which its item is known: it comes with it.
func key(p object.Path) bool {
	if len(p) < 2 {
		return false
	}
	text, item := strings.CutPrefix(p[len(p)-2], "k:")
	var fields map[string]any
	if !item || json.Unmarshal([]byte(text), &fields) != nil {
		return false
	}
	_, is := fields[strings.TrimPrefix(p[len(p)-1], "f:")]
	return is
}

// note adds a field, once.
func (f *finder) note(to *[]Touch, p object.Path, m metav1.ManagedFieldsEntry) {
	text := p.String()
	if f.seen[text] || len(*to) >= maxTouches {
		return
	}
	f.seen[text] = true
	*to = append(*to, Touch{Field: text, Manager: m.Manager, At: when(m)})
}

// lost finds what the source has and the live object has not. Who removed a field owns
// nothing by it: it counts as done by whoever wrote last.
func (f *finder) lost(entries []metav1.ManagedFieldsEntry) {
	last := slices.IndexFunc(entries, func(m metav1.ManagedFieldsEntry) bool {
		return !own(m, f.Manager) && m.Subresource != "status"
	})
	m := metav1.ManagedFieldsEntry{}
	if last >= 0 {
		m = entries[last]
	}
	if len(f.ours) == 0 {
		f.note(&f.drift.Changed, object.Path{"f:metadata", "f:managedFields"}, m)
	}
	// Where nobody owns anything any more, values have to tell.
	by := lack{values: len(f.ours) == 0}
	for _, p := range by.of(f.Desired.Object, f.Live.Object, nil) {
		if p[0] != "f:status" && p[0] != "f:stringData" { // neither is stored as it is sent
			f.note(&f.drift.Changed, p, m)
		}
	}
}

// lack finds what a live object has not; with values, also what it has otherwise.
type lack struct{ values bool }

// of returns the fields of want that live lacks, in order.
func (l lack) of(want, live any, way object.Path) []object.Path {
	var all []object.Path
	at := func(step string) object.Path { return append(slices.Clone(way), step) }
	switch want := want.(type) {
	case map[string]any:
		fields, _ := live.(map[string]any)
		for name, w := range want {
			if v, ok := fields[name]; ok {
				all = append(all, l.of(w, v, at("f:"+name))...)
			} else if !hollow(w) {
				all = append(all, at("f:"+name))
			}
		}
	case []any:
		items, _ := live.([]any)
		for i, w := range want {
			all = append(all, l.item(w, i, items, at)...)
		}
	default:
		if l.values && !reflect.DeepEqual(want, live) {
			return []object.Path{way}
		}
	}
	slices.SortFunc(all, slices.Compare[object.Path])
	return slices.CompactFunc(all, slices.Equal[object.Path])
}

// item is of for an item of a list: one with a name is found by it, another by its
// place, a plain value anywhere.
func (l lack) item(want any, i int, live []any, at func(string) object.Path) []object.Path {
	fields, isMap := want.(map[string]any)
	if !isMap {
		if !slices.ContainsFunc(live, func(v any) bool { return reflect.DeepEqual(want, v) }) {
			return []object.Path{at("v:")}
		}
		return nil
	}
	step := object.PathOf([]any{i})[0]
	if name, ok := fields["name"].(string); ok {
		step = "k:" + text(map[string]any{"name": name})
	}
	v, ok := object.Path{step}.Get(live)
	if !ok {
		return []object.Path{at(step)}
	}
	return l.of(want, v, at(step))
}

// hollow reports whether a value says nothing, so that an API server may drop it.
func hollow(v any) bool {
	switch v := v.(type) {
	case nil:
		return true
	case map[string]any:
		return len(v) == 0
	case []any:
		return len(v) == 0
	case string:
		return v == ""
	}
	return false
}

// surplus returns what to remove: where all below a field was added, the field itself,
// for what is left of it might not be valid. Of metadata every key counts for itself.
func (f *finder) surplus() []object.Path {
	var roots []object.Path
	for _, p := range f.added {
		root := p
		for n := len(p) - 1; n > 0 && !inMetadata(p) && f.foreign(p[:n]); n-- {
			root = p[:n]
		}
		roots = append(roots, slices.Clone(root))
	}
	slices.SortFunc(roots, slices.Compare[object.Path])
	return slices.CompactFunc(roots, slices.Equal[object.Path])
}

// foreign reports whether nothing at p is ours, or may stay.
func (f *finder) foreign(p object.Path) bool {
	begins := func(q object.Path) bool { return len(q) >= len(p) && slices.Equal(q[:len(p)], p) }
	desired := false
	if f.Desired != nil {
		_, desired = p.Get(f.Desired.Object)
	}
	return !desired && !f.ours.Has(p) && !slices.ContainsFunc(f.spared, begins)
}
