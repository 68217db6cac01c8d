package secret

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/holdfastcd/holdfast/internal/fault"
)

// Bounds of a mask. Values shorter than minMasked would tear holes into words that
// are no secret; more than maxMasked bytes of values are not searched for: all that is
// said is withheld instead.
const (
	minMasked  = 4
	minLine    = 8
	maxMasked  = 8 << 20
	masked     = "***"
	withheld   = "the message is withheld: the delivery opens more secret values than can be masked"
	lineBreaks = "\r\n"
)

// Mask replaces values that were opened in what is said about them. It belongs to one
// pass over one delivery, and goes with it. The zero value masks nothing; it is safe
// for concurrent use.
type Mask struct {
	mu       sync.Mutex
	forms    map[string]struct{}
	size     int
	replacer *strings.Replacer
}

// Add has a value be masked from now on: as it is, in base64, and as JSON and Go quote
// it; of several lines also each by itself.
func (m *Mask) Add(value string) {
	trimmed := strings.TrimSpace(value)
	if len(trimmed) < minMasked {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.forget()
	for _, form := range []string{value, trimmed} {
		m.add(form)
	}
	if !strings.ContainsAny(trimmed, lineBreaks) {
		return
	}
	for line := range strings.FieldsFuncSeq(trimmed, func(r rune) bool { return strings.ContainsRune(lineBreaks, r) }) {
		if line = strings.TrimSpace(line); len(line) >= minLine {
			m.add(line)
		}
	}
}

// Opened reports whether anything was added.
func (m *Mask) Opened() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.size > 0
}

func (m *Mask) forget() { m.replacer = nil }

func (m *Mask) add(form string) {
	if m.forms == nil {
		m.forms = map[string]struct{}{}
	}
	if _, ok := m.forms[form]; ok || m.size > maxMasked {
		return
	}
	m.size += len(form)
	for _, f := range forms(form) {
		m.forms[f] = struct{}{}
	}
}

// forms are the ways in which a value may be written.
func forms(value string) []string {
	all := []string{value, strings.Trim(strconv.Quote(value), `"`)}
	for _, enc := range []*base64.Encoding{base64.StdEncoding, base64.RawStdEncoding, base64.URLEncoding, base64.RawURLEncoding} {
		all = append(all, enc.EncodeToString([]byte(value)))
	}
	if quoted, err := json.Marshal(value); err == nil {
		all = append(all, strings.Trim(string(quoted), `"`))
	}
	return all
}

// Text returns s with every value in it replaced by "***".
func (m *Mask) Text(s string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.size == 0 || s == "" {
		return s
	}
	if m.size > maxMasked {
		return withheld
	}
	if m.replacer == nil {
		m.replacer = m.replace()
	}
	return m.replacer.Replace(s)
}

// Holds reports whether a value is in s.
func (m *Mask) Holds(s string) bool { return m.Text(s) != s }

// replace has longer values go first: one may be the beginning of another.
func (m *Mask) replace() *strings.Replacer {
	sorted := make([]string, 0, len(m.forms))
	for form := range m.forms {
		sorted = append(sorted, form)
	}
	slices.SortFunc(sorted, func(a, b string) int {
		if len(a) != len(b) {
			return len(b) - len(a)
		}
		return strings.Compare(a, b)
	})
	pairs := make([]string, 0, 2*len(sorted))
	for _, form := range sorted {
		pairs = append(pairs, form, masked)
	}
	return strings.NewReplacer(pairs...)
}

// Error returns err with its text masked, and its kind, place and cause for errors.Is
// as they were; nil for nil.
func (m *Mask) Error(err error) error {
	if err == nil || !m.Holds(err.Error()) {
		return err
	}
	var f *fault.Error
	if !errors.As(err, &f) {
		return fault.New(fault.Internal, "%s", m.Text(err.Error()))
	}
	return m.Fault(f)
}

// Fault is [Mask.Error] of an error whose type is known.
func (m *Mask) Fault(f *fault.Error) *fault.Error {
	if f == nil {
		return nil
	}
	c := *f
	c.Msg, c.Hint, c.Object, c.File = m.Text(f.Msg), m.Text(f.Hint), m.Text(f.Object), m.Text(f.File)
	return &c
}
