package audit

import (
	"context"
	"errors"
	"slices"

	"github.com/holdfastcd/holdfast/internal/fault"
)

// Delivered is what a delivery delivered last.
type Delivered struct {
	Index  uint64 // of the outcome, of its intent while it is on its way, or of a later entry that a commit left it untouched
	UID    string // of the custom resource that it was delivered for; "" if only untouched entries tell of it
	Source Source
	Pins   map[string]string // image name → digest, as it was applied; not to be changed
}

// Last returns what a delivery (Kind/namespace/name) delivered last, as the log
// remembers it: the source of the last sync whose outcome was delivered, or of the
// last commit that left it untouched since. false: never, or it was retracted since.
// An error (*fault.Error) says that nobody can tell: the log cannot be read, or its
// files are not what was written to them.
func (l *Log) Last(delivery string) (Delivered, bool, error) {
	if j, ok := l.later.awaited.of(delivery); ok {
		if d, outcome, err := l.foretold(j); err != nil || outcome != "" {
			return d, outcome == Sync, err
		}
	}
	s, ok := l.index.lastOf(delivery)
	if !ok {
		return Delivered{}, false, nil
	}
	if s.known != nil {
		return *s.known, true, nil
	}
	known, err := l.delivered(delivery, s)
	if err != nil {
		l.o.Log.Error("what was delivered last cannot be read from the audit log", "delivery", delivery, "err", err)
		return Delivered{}, false, err
	}
	l.index.remember(delivery, s, known)
	return known, true, nil
}

// foretold is what an outcome on its way into the log will tell, whose intent is in the
// log, and of which action that was: "" if it tells nothing.
func (l *Log) foretold(j job) (d Delivered, of Action, err error) {
	asked, err := l.provenOf(context.Background(), j.entry.Delivery, *j.entry.Of)
	if err != nil || asked.Action == Retract {
		return d, asked.Action, err
	}
	if asked.Action != Sync {
		return d, "", nil
	}
	d = Delivered{Index: *j.entry.Of, UID: asked.UID, Source: deref(asked.Source), Pins: map[string]string{}}
	if j.entry.Source != nil {
		d.Source = *j.entry.Source
	}
	return d, Sync, l.pins(asked, d.Pins)
}

// delivered reads what the entries of s tell. The index, which named them, is believed
// as little as the files: they must be of the delivery.
func (l *Log) delivered(delivery string, s seen) (Delivered, error) {
	ctx := context.Background()
	latest, err := l.provenOf(ctx, delivery, s.Latest)
	if err != nil {
		return Delivered{}, err
	}
	d := Delivered{Index: s.Latest, UID: latest.UID, Pins: map[string]string{}}
	outcome := latest
	if s.Outcome != s.Latest {
		if outcome, err = l.provenOf(ctx, delivery, s.Outcome); err != nil {
			return Delivered{}, err
		}
	}
	if outcome.Of != nil { // else it was as desired when it was first seen
		asked, err := l.provenOf(ctx, delivery, *outcome.Of)
		if err == nil {
			err = errors.Join(l.pins(asked, d.Pins), l.pins(outcome, d.Pins))
		}
		if err != nil {
			return Delivered{}, err
		}
		d.UID, d.Source = asked.UID, deref(asked.Source)
	}
	if latest.Source != nil {
		d.Source = *latest.Source
	}
	return d, nil
}

// provenOf is proven for an entry by which something of a delivery was delivered.
func (l *Log) provenOf(ctx context.Context, delivery string, i uint64) (Entry, error) {
	e, err := l.proven(ctx, i)
	if err != nil {
		return e, err
	}
	told := e.Action.intends() || e.Action == Outcome && e.Of != nil
	if told && e.Delivery == delivery || e.Action == Untouched && slices.Contains(e.Deliveries, delivery) {
		return e, nil
	}
	return e, fault.New(fault.Internal, "the audit log's index names entry %d for what %s delivered last, which is not about that", i, delivery).
		WithHint("delete the directory index of the audit log while the controller is stopped: it is made anew")
}

func deref(s *Source) Source {
	if s == nil {
		return Source{}
	}
	return *s
}

// pins adds the images of an entry's record.
func (l *Log) pins(e Entry, pins map[string]string) error {
	r, err := l.Record(e)
	if err != nil || r == nil {
		return err
	}
	for _, image := range r.Images {
		if image.Digest != "" {
			pins[image.Name] = image.Digest
		}
	}
	return nil
}

func (x *index) lastOf(delivery string) (seen, bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	s, ok := x.last[delivery]
	return s, ok
}

// remember keeps what s came to, unless the log went on in the meantime.
func (x *index) remember(delivery string, s seen, d Delivered) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if now := x.last[delivery]; now == s {
		s.known = &d
		x.last[delivery] = s
	}
}

// foresee puts a source in place that an entry on its way will tell.
func (x *index) foresee(delivery string, src Source) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if s := x.last[delivery]; s.known != nil {
		known := *s.known
		known.Source = src
		s.known = &known
		x.last[delivery] = s
	}
}

// Found is an entry that concerns an object or a delivery, and what came of it.
type Found struct {
	Index uint64
	Entry Entry
	// Change is the entry's of the object; zero where a delivery was asked for, or
	// where only the outcome names the object.
	Change Change
	// Outcome closes the entry, if it is an intent; nil while it is open. Result is
	// the outcome's change of the object, nil if it names none.
	Outcome      *Entry
	OutcomeIndex uint64
	Result       *Change
}

// maxFound bounds what About and Concerning return.
const maxFound = 1000

// About returns the entries that changed an object (group/version/Kind/namespace/name;
// its version does not matter), newest first, at most limit: 1000 at most, and if 0.
// An intent comes once, with its outcome. Internal if the index or the log cannot be
// read.
func (l *Log) About(object string, limit int) ([]Found, error) {
	return l.search(keyOf(byObject, objectKey(object)), limit, func(f *Found) (bool, error) { return l.changes(f, object) })
}

// Concerning returns the entries of a delivery (Kind/namespace/name), newest first, as
// About does. Those it shares with others ([Untouched]) are left out.
func (l *Log) Concerning(delivery string, limit int) ([]Found, error) {
	return l.search(keyOf(byDelivery, delivery), limit, func(f *Found) (bool, error) { return f.Entry.Delivery == delivery, nil })
}

// search returns what postings of key lead to and keep agrees to.
func (l *Log) search(key uint64, limit int, keep func(*Found) (bool, error)) ([]Found, error) {
	if limit <= 0 || limit > maxFound {
		limit = maxFound
	}
	// An intent and its outcome may both be posted, for each version of an object.
	posted, err := l.index.find(key, 2*limit+2)
	if err != nil {
		return nil, err
	}
	var found []Found
	have := map[uint64]bool{}
	for _, i := range posted {
		if have[i] { // its outcome was found before it
			continue
		}
		f, err := l.found(i)
		if err != nil {
			return nil, err
		}
		if have[f.Index] {
			continue
		}
		have[f.Index] = true
		if ok, err := keep(&f); err != nil {
			return nil, err
		} else if !ok {
			continue
		}
		if found = append(found, f); len(found) == limit {
			break
		}
	}
	return found, nil
}

// found reads the entry i, or, if that is an outcome, its intent, with the outcome.
func (l *Log) found(i uint64) (Found, error) {
	e, err := l.Entry(i)
	if err != nil {
		return Found{}, err
	}
	if e.Action == Outcome && e.Of != nil {
		asked, err := l.Entry(*e.Of)
		return Found{Index: *e.Of, Entry: asked, Outcome: &e, OutcomeIndex: i}, err
	}
	f := Found{Index: i, Entry: e}
	if !e.Action.intends() {
		return f, nil
	}
	outcomes, err := l.index.find(outcomeKey(i), 2)
	if err != nil {
		return f, err
	}
	for _, j := range outcomes {
		outcome, err := l.Entry(j)
		if err != nil {
			return f, err
		}
		if outcome.Of != nil && *outcome.Of == i {
			f.Outcome, f.OutcomeIndex = &outcome, j
			break
		}
	}
	return f, nil
}

// changes fills in what f did to an object, and reports whether it did anything.
func (l *Log) changes(f *Found, object string) (bool, error) {
	asked, err := l.changeOf(f.Entry, object)
	if err != nil {
		return false, err
	}
	if f.Outcome != nil {
		if f.Result, err = l.changeOf(*f.Outcome, object); err != nil {
			return false, err
		}
	}
	if asked != nil {
		f.Change = *asked
	}
	return asked != nil || f.Result != nil, nil
}

// changeOf returns the change of an object that an entry's record holds, or nil.
func (l *Log) changeOf(e Entry, object string) (*Change, error) {
	r, err := l.Record(e)
	if err != nil || r == nil {
		return nil, err
	}
	return r.Change(object), nil
}
