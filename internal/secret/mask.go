package secret

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode"

	"github.com/holdfastcd/holdfast/internal/fault"
)

// Bounds of a mask. Values shorter than minMasked would tear holes into words that
// are no secret; more than maxMasked bytes of values are not searched for: all that is
// said is withheld instead.
const (
	minMasked  = 4
	minLine    = 8 // of a value of several lines
	minWithin  = 8 // of a value that base64 of something longer may hold
	maxMasked  = 4 << 20
	maxValues  = 100_000 // each costs some 300 bytes to be searched for
	masked     = "***"
	withheld   = "the message is withheld: the delivery opens more secret values than can be masked"
	lineBreaks = "\r\n"
)

// telling are values that tell nothing, and would tear holes into every message.
var telling = []string{
	"true", "false", "null", "none", "True", "False",
	// Of documents that are sealed whole.
	"Secret", "ConfigMap", "Deployment", "Service", "Opaque", "apps/v1",
}

// Mask replaces values that were opened in what is said about them. It belongs to one
// pass over one delivery, and goes with it. The zero value masks nothing, and so does
// nil, to which nothing can be added; it is safe for concurrent use.
type Mask struct {
	mu     sync.Mutex
	values map[string]struct{}
	size   int
	sealed bool
	opened map[string]struct{} // values that stood sealed, short ones, too
	search searcher            // of values; nil: to be made
}

// Format writes nothing of a mask, whatever the verb.
func (m *Mask) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte("[mask]")) } // there is nobody to tell

// Add has a value be masked from now on: as it is, as JSON, YAML, URLs and Go quote it,
// and in base64, also as a part of something longer; of several lines also each by
// itself. The beginning of a value is masked where dots say that it was cut off.
func (m *Mask) Add(value string) {
	trimmed := strings.TrimSpace(value)
	if len(trimmed) < minMasked || slices.Contains(telling, trimmed) {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.add(value)
	m.add(trimmed)
	if !strings.ContainsAny(trimmed, lineBreaks) {
		return
	}
	for line := range strings.FieldsFuncSeq(trimmed, func(r rune) bool { return strings.ContainsRune(lineBreaks, r) }) {
		if line = strings.TrimSpace(line); len(line) >= minLine {
			m.add(line)
		}
	}
}

func (m *Mask) add(value string) {
	if m.values == nil {
		m.values = map[string]struct{}{}
	}
	if _, ok := m.values[value]; ok || m.full() {
		return
	}
	m.values[value], m.size, m.search = struct{}{}, m.size+len(value), nil
}

// AddSealed is [Mask.Add] for a value that stands sealed in what is delivered.
func (m *Mask) AddSealed(value string) {
	m.AddFilled(value)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sealed = true
}

// AddFilled is [Mask.Add] for a value that is filled in from elsewhere, and stands in
// nothing that is delivered: like one that stood sealed, it is in plaintext nowhere.
func (m *Mask) AddFilled(value string) {
	m.Add(value)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.opened == nil {
		m.opened = map[string]struct{}{}
	}
	m.opened[value] = struct{}{}
}

// FromSealed reports whether a text is a value that stood sealed or was filled in, or has
// one in it that is too long to be there by chance.
func (m *Mask) FromSealed(text string) bool {
	if m == nil {
		return false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.opened[text]; ok {
		return true
	}
	for value := range m.opened {
		if len(value) >= minWithin && strings.Contains(text, value) {
			return true
		}
	}
	return false
}

// Sealed reports whether something stood sealed. What stood there before is no value
// that the mask knows.
func (m *Mask) Sealed() bool {
	if m == nil {
		return false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.sealed
}

// full reports whether there is more than can be searched for.
func (m *Mask) full() bool { return m.size > maxMasked || len(m.values) > maxValues }

// Opened reports whether anything was added.
func (m *Mask) Opened() bool {
	if m == nil {
		return false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.size > 0
}

// Holds reports whether a value is in s.
func (m *Mask) Holds(s string) bool { return m.Text(s) != s }

// Text returns s with every value in it replaced by "***".
func (m *Mask) Text(s string) string {
	if m == nil || s == "" {
		return s
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.size == 0:
		return s
	case m.full():
		return withheld
	case m.search == nil: // most masks are never asked: nothing goes wrong
		m.search = newSearcher(m.values)
	}
	return m.search.mask(s)
}

// Texts masks each of a list, which is not changed.
func (m *Mask) Texts(list []string) []string {
	if m == nil || list == nil {
		return list
	}
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = m.Text(s)
	}
	return out
}

// Error returns err with its text masked, and its kind, place and cause for errors.Is
// as they were; nil for nil.
func (m *Mask) Error(err error) error {
	if err == nil || !m.Holds(err.Error()) {
		return err
	}
	f, ok := errors.AsType[*fault.Error](err)
	if !ok {
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

// searcher finds the forms of values in a text: they are sorted, by the bytes that they
// begin with. What it costs goes with the text, and not with how many values a tenant
// has sealed.
type searcher map[[minMasked]byte][]string

func newSearcher(values map[string]struct{}) searcher {
	s := make(searcher, len(values))
	for v := range values {
		for _, f := range forms(v) {
			if len(f) >= minMasked {
				begin := [minMasked]byte([]byte(f))
				s[begin] = append(s[begin], f)
			}
		}
	}
	for begin, all := range s {
		slices.Sort(all)
		s[begin] = slices.Compact(all)
	}
	return s
}

// forms are the ways in which a value may be written.
func forms(value string) []string {
	all := []string{
		value, inner(strconv.Quote(value)), inner(strconv.QuoteToASCII(value)),
		strings.ReplaceAll(value, "'", "''"), // as YAML quotes it
		url.QueryEscape(value), url.PathEscape(value), url.UserPassword("", value).String()[1:],
		printable(value),
	}
	for _, escape := range []bool{true, false} {
		var b bytes.Buffer
		e := json.NewEncoder(&b)
		e.SetEscapeHTML(escape)
		_ = e.Encode(value) //nolint:errchkjson // a string, into memory
		all = append(all, inner(strings.TrimSpace(b.String())))
	}
	for _, enc := range []*base64.Encoding{base64.StdEncoding, base64.URLEncoding} {
		text := enc.EncodeToString([]byte(value))
		all = append(all, text, strings.TrimRight(text, "="))
		if len(value) >= minWithin {
			all = append(all, within(enc, value)...)
		}
	}
	return all
}

// inner is a quoted text without its quotes.
func inner(quoted string) string { return quoted[1 : len(quoted)-1] }

// printable is a value as it passes those who take out what cannot be shown.
func printable(value string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) && r != '\n' && r != '\t' {
			return -1
		}
		return r
	}, strings.ToValidUTF8(value, "�"))
}

// within returns how base64 writes a value in the middle of something longer: one form
// for each of the three ways in which it may lie, without what its neighbours decide.
func within(enc *base64.Encoding, value string) []string {
	var all []string
	for before := range 3 {
		text := enc.EncodeToString(append(make([]byte, before), value...))
		first := (8*before + 5) / 6             // the first character that is the value's alone
		last := (8 * (before + len(value))) / 6 // and the end of these; no padding
		all = append(all, text[first:last])
	}
	return all
}

// mask replaces what it finds. Values that overlap go together.
func (s searcher) mask(text string) string {
	var hide []bool
	cut, until := cuts(text), 0
	for i := range len(text) {
		if rest := text[i:]; len(rest) >= minMasked {
			if all := s[[minMasked]byte([]byte(rest[:minMasked]))]; all != nil {
				until = max(until, i+whole(all, rest), begun(all, text, i, cut))
			}
		}
		if until <= i {
			continue
		}
		if hide == nil {
			hide = make([]bool, len(text))
		}
		hide[i] = true
	}
	if hide == nil {
		return text
	}
	return redact(text, hide)
}

// whole returns the length of the longest of all, sorted, that rest begins with; 0 if it
// begins with none.
func whole(all []string, rest string) int {
	for len(rest) >= minMasked {
		at, exact := slices.BinarySearch(all, rest)
		if exact {
			return len(rest)
		}
		if at == 0 {
			return 0
		}
		// Whatever rest begins with sorts before it, and is a part of what they have in common.
		before := all[at-1]
		if strings.HasPrefix(rest, before) {
			return len(before)
		}
		rest = rest[:common(before, rest)]
	}
	return 0
}

// common returns how many bytes two texts have in common at their beginning.
func common(a, b string) int {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	return min(len(a), len(b))
}

// begun returns where the last beginning of one of all, sorted, ends that is at i in a
// text and ends where that was cut off; 0 if there is none.
func begun(all []string, text string, i int, cut []int) int {
	last := 0
	for _, end := range cut {
		if end-i < minMasked {
			continue
		}
		at, _ := slices.BinarySearch(all, text[i:end])
		if at == len(all) || !strings.HasPrefix(all[at], text[i:end]) {
			break // nor does anything begin with more
		}
		last = end
	}
	return last
}

// cuts returns where dots say that a text was cut off, in order.
func cuts(text string) []int {
	var all []int
	for _, dots := range []string{"...", "…", " …"} {
		for at := 0; ; {
			i := strings.Index(text[at:], dots)
			if i < 0 {
				break
			}
			all = append(all, at+i)
			at += i + len(dots)
		}
	}
	slices.Sort(all)
	return all
}

// redact writes "***" for each part that is hidden.
func redact(text string, hide []bool) string {
	var b strings.Builder
	for i := range len(text) {
		switch {
		case !hide[i]:
			b.WriteByte(text[i])
		case i == 0 || !hide[i-1]:
			b.WriteString(masked)
		}
	}
	return b.String()
}
