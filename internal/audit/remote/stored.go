package remote

import (
	"context"
	"encoding/json"
	"slices"
	"strings"

	"github.com/holdfastcd/holdfast/internal/audit"
	"github.com/holdfastcd/holdfast/internal/fault"
)

// bundle is how many entries lie in one file of a log.
const bundle = 256

// maxRecords bounds how many records are read to find an object in a log without index.
const maxRecords = 2000

// Reading reads a log where it lies: beside the controller that writes it, or in a
// directory.
type Reading struct {
	audit.Reader

	teller string
	size   func(context.Context) (uint64, error)
	// index finds entries about an object, and those of a delivery; nil: the log is searched.
	index, deliveries func(name string, limit int) ([]audit.Found, error)
}

// Kept reads the log that this process writes.
func Kept(l *audit.Log) *Reading {
	return &Reading{
		Reader: l.Reader(), teller: "this controller",
		size:  l.Readable,
		index: l.About, deliveries: l.Concerning,
	}
}

// Stored reads the files of a log, up to what its checkpoint says, which is not
// verified. The teller says where they lie.
func Stored(r audit.Reader, teller string) *Reading {
	return &Reading{Reader: r, teller: teller, size: func(ctx context.Context) (uint64, error) { return audit.Signed(ctx, r) }}
}

// Teller says who tells the log.
func (s *Reading) Teller() string { return s.teller }

// Entries returns the entries that q chooses. Errors are *fault.Error.
func (s *Reading) Entries(ctx context.Context, q Query) (Page, error) {
	size, err := s.size(ctx)
	if err != nil {
		return Page{}, err
	}
	if q.Limit <= 0 || q.Limit > MaxEntries {
		q.Limit = MaxEntries
	}
	p := page{Page: Page{Size: size, Entries: []Found{}}, q: q}
	if s.deliveries != nil && q.Delivery != "" && q.Action != "" && q.Action != audit.Untouched && q.From == nil && q.Before == nil {
		return s.ofDelivery(q, size)
	}
	read := s.backward
	if q.From != nil {
		read = s.forward
	}
	err = read(ctx, &p)
	return p.Page, err
}

// ofDelivery asks the index, which knows the newest entries of a delivery.
func (s *Reading) ofDelivery(q Query, size uint64) (Page, error) {
	p := Page{Size: size, Entries: []Found{}}
	known, err := s.deliveries(q.Delivery, MaxEntries)
	if err != nil {
		return p, err
	}
	for _, k := range known {
		if e, ok := Visible(k.Entry, q.Namespace); ok && q.Matches(&e) && len(p.Entries) < q.Limit {
			p.Entries = append(p.Entries, Found{Index: k.Index, Entry: e})
		}
	}
	return p, nil
}

// page is a page while it is made.
type page struct {
	Page

	q     Query
	bytes int
	seen  int
}

// take looks at an entry, and reports whether there is room for another.
func (p *page) take(i uint64, e audit.Entry) bool {
	p.seen++
	if e, ok := Visible(e, p.q.Namespace); ok && p.q.Matches(&e) {
		f := Found{Index: i, Entry: e}
		p.Entries = append(p.Entries, f)
		text, _ := json.Marshal(f) //nolint:errchkjson // as it will be sent; it was read as JSON
		p.bytes += len(text)
	}
	return len(p.Entries) < p.q.Limit && p.bytes < MaxPage && p.seen < MaxScan
}

// forward takes entries from From on.
func (s *Reading) forward(ctx context.Context, p *page) error {
	i := *p.q.From
	p.Next = &i // where it ends, once it has
	for e, err := range audit.Entries(ctx, s.Reader, i, max(i, p.Size)) {
		if err != nil {
			return err
		}
		i++
		if !p.take(i-1, e) {
			break
		}
	}
	return nil
}

// backward takes entries before Before, newest first: file by file, each from its end.
func (s *Reading) backward(ctx context.Context, p *page) error {
	end := p.Size
	if p.q.Before != nil {
		end = min(end, *p.q.Before)
	}
	for end > 0 {
		start := (end - 1) / bundle * bundle
		entries, err := s.some(ctx, start, end, p.Size)
		if err != nil {
			return err
		}
		for i, e := range slices.Backward(entries) {
			if !p.q.Since.IsZero() && e.Time.Before(p.q.Since) && e.Action != audit.Untouched {
				// Entries are in the order of their writing, which is that of their times
				// but for those that several deliveries share.
				return nil
			}
			if !p.take(start+uint64(i), e) {
				next := start + uint64(i)
				if next > 0 {
					p.Next = &next
				}
				return nil
			}
		}
		end = start
	}
	return nil
}

// some reads the entries of one file, from index start to end.
func (s *Reading) some(ctx context.Context, start, end, size uint64) ([]audit.Entry, error) {
	entries := make([]audit.Entry, 0, bundle)
	for e, err := range audit.Entries(ctx, s.Reader, start, size) {
		if err != nil {
			return nil, err
		}
		if entries = append(entries, e); start+uint64(len(entries)) >= end {
			break
		}
	}
	return entries, nil
}

// About returns the entries about an object ([audit.ObjectName]), newest first, with what
// came of them; of deliveries of one namespace alone, where it is not empty. Errors are
// *fault.Error.
func (s *Reading) About(ctx context.Context, object, namespace string, limit int) ([]Found, error) {
	if strings.Count(object, "/") < 4 || len(object) > 1024 {
		return nil, fault.New(fault.Invalid, "%.80q names no object", object).WithHint("group/version/Kind/namespace/name")
	}
	limit = min(max(limit, 1), MaxAbout)
	var all []Found
	var err error
	if s.index != nil {
		all, err = s.looked(ctx, object, limit)
	} else {
		all, err = s.searched(ctx, object, limit)
	}
	if err != nil {
		return nil, err
	}
	var visible []Found
	for _, f := range all {
		var ok bool
		if f.Entry, ok = Visible(f.Entry, namespace); ok && len(visible) < limit {
			visible = append(visible, f)
		}
	}
	return visible, nil
}

// looked asks the index, for some more than are wanted: others may not be visible.
func (s *Reading) looked(ctx context.Context, object string, limit int) ([]Found, error) {
	known, err := s.index(object, 2*limit)
	if err != nil {
		return nil, err
	}
	all := make([]Found, 0, len(known))
	for _, k := range known {
		f := Found{Index: k.Index, Entry: k.Entry}
		if k.Outcome != nil {
			f.Outcome = &Found{Index: k.OutcomeIndex, Entry: *k.Outcome}
		}
		if err := s.complete(ctx, &f, object); err != nil {
			return nil, err
		}
		all = append(all, f)
	}
	return all, nil
}

// searched goes through the log from its end.
func (s *Reading) searched(ctx context.Context, object string, limit int) ([]Found, error) {
	size, err := s.size(ctx)
	if err != nil {
		return nil, err
	}
	var all []Found
	outcomes := map[uint64]Found{}
	read := 0
	for end := size; end > 0 && len(all) < limit && read < maxRecords; end = (end - 1) / bundle * bundle {
		start := (end - 1) / bundle * bundle
		entries, err := s.some(ctx, start, end, size)
		if err != nil {
			return nil, err
		}
		for i, e := range slices.Backward(entries) {
			f := Found{Index: start + uint64(i), Entry: e}
			if e.Action == audit.Outcome && e.Of != nil {
				outcomes[*e.Of] = f
				continue
			}
			if e.Record == "" || len(all) == limit {
				continue
			}
			if o, ok := outcomes[f.Index]; ok {
				f.Outcome = &o
			}
			read++
			if err := s.complete(ctx, &f, object); err != nil {
				return nil, err
			}
			if f.Change != nil {
				all = append(all, f)
			}
		}
	}
	return all, nil
}

// complete reads what the records of an entry, and of its outcome, say.
func (s *Reading) complete(ctx context.Context, f *Found, object string) error {
	if f.Entry.Record != "" {
		record, err := audit.ReadRecord(ctx, s.Reader, f.Entry.Record)
		if err != nil {
			return err
		}
		f.Change = record.Change(object)
		record.Objects = nil
		f.Record = &record
	}
	if f.Outcome == nil || f.Outcome.Entry.Record == "" {
		return nil
	}
	record, err := audit.ReadRecord(ctx, s.Reader, f.Outcome.Entry.Record)
	f.Outcome.Change = record.Change(object)
	return err
}
