package render

import (
	"crypto/sha3"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strconv"
	"text/template"
	"time"

	_ "time/tzdata" // the cage has no files of time zones

	"github.com/Masterminds/sprig/v3"

	"github.com/holdfastcd/holdfast/internal/fault"
)

// standstill is the time that templates are told where the request names none.
var standstill = time.Date(2020, time.January, 1, 0, 0, 0, 0, time.UTC)

// maxRandom bounds how many characters one call may make.
const maxRandom = 1 << 20

// seed stands in for chance and time in templates: what a function gives
// follows from the request's seed, the release, the template, the arguments, and
// how often it was called so in that template. So a rendering gives the same
// every time, and a template more or less changes nothing in the others.
type seed struct {
	root  []byte
	now   time.Time
	extra *extra
	file  string // the template that runs
	calls map[string]uint64
}

func newSeed(r *release) *seed {
	s := &seed{now: standstill, extra: r.extra, calls: map[string]uint64{}}
	if r.Now != 0 {
		s.now = time.Unix(r.Now, 0).UTC()
	}
	for _, part := range []string{r.Seed, r.dir, r.ReleaseName, r.Namespace} {
		s.root = appendPart(s.root, part)
	}
	return s
}

func appendPart(b []byte, part string) []byte {
	return append(binary.BigEndian.AppendUint64(b, uint64(len(part))), part...)
}

// fileFunction is what tells the seed which template runs. Templates begin
// with a call of it, put there on their first line when the chart is loaded.
const fileFunction = "_holdfastTemplate"

// beginFile returns the call for the template at a path.
func beginFile(name string) string { return "{{" + fileFunction + " " + strconv.Quote(name) + "}}" }

// stream notes a call of a function and returns its randomness: SHAKE256 over
// everything it follows from.
func (s *seed) stream(function string, args ...any) io.Reader {
	s.use(function)
	b := appendPart(appendPart(slices.Clone(s.root), s.file), function)
	for _, arg := range args {
		b = appendPart(b, fmt.Sprintf("%q", arg))
	}
	n := s.calls[string(b)]
	s.calls[string(b)]++
	h := sha3.NewSHAKE256()
	_, _ = h.Write(binary.BigEndian.AppendUint64(b, n)) // never fails
	return h
}

// use notes that the template that runs called a function.
func (s *seed) use(function string) {
	n := s.extra.note(s.file)
	n.Functions = appendNew(n.Functions, function)
}

// functions are the template functions that would differ from one rendering to
// the next, in a form that does not.
func (s *seed) functions() template.FuncMap {
	list := template.FuncMap{
		fileFunction: func(name string) string { s.file = name; return "" },
		"keys":       sortedKeys,
		"values":     sortedValues,
	}
	maps.Copy(list, s.random())
	maps.Copy(list, s.time())
	maps.Copy(list, s.certificates())
	return list
}

func sortedKeys(dicts ...map[string]any) []string {
	all := []string{}
	for _, d := range dicts {
		all = append(all, slices.Sorted(maps.Keys(d))...)
	}
	return all
}

func sortedValues(dict map[string]any) []any {
	all := make([]any, 0, len(dict))
	for _, key := range slices.Sorted(maps.Keys(dict)) {
		all = append(all, dict[key])
	}
	return all
}

// The alphabets of sprig's functions.
const (
	numeric = "0123456789"
	alpha   = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
)

func (s *seed) random() template.FuncMap {
	ascii := make([]byte, 0, '~'-' '+1)
	for c := byte(' '); c <= '~'; c++ {
		ascii = append(ascii, c)
	}
	return template.FuncMap{
		"randAlphaNum": s.characters("randAlphaNum", alpha+numeric),
		"randAlpha":    s.characters("randAlpha", alpha),
		"randNumeric":  s.characters("randNumeric", numeric),
		"randAscii":    s.characters("randAscii", string(ascii)),
		"randBytes":    s.bytes,
		"randInt":      s.integer,
		"shuffle":      s.shuffle,
		"uuidv4":       s.uuid,
		"bcrypt":       s.bcrypt,
		"htpasswd":     s.htpasswd,
		"encryptAES":   s.encrypt,
	}
}

func (s *seed) characters(function, alphabet string) func(int) (string, error) {
	return func(count int) (string, error) {
		r, err := s.many(function, count)
		if err != nil {
			return "", err
		}
		text := make([]byte, max(count, 0))
		for i := range text {
			text[i] = alphabet[below(r, uint64(len(alphabet)))]
		}
		return string(text), nil
	}
}

func (s *seed) many(function string, count int) (io.Reader, error) {
	if count > maxRandom {
		return nil, fault.New(fault.Limit, "%s of more than %d", function, maxRandom)
	}
	return s.stream(function, count), nil
}

// below returns a number from 0 to n-1, all with the same chance.
func below(r io.Reader, n uint64) uint64 {
	var b [8]byte
	for {
		read(r, b[:])
		if v := binary.BigEndian.Uint64(b[:]); v < math.MaxUint64-math.MaxUint64%n {
			return v % n
		}
	}
}

// read fills b from a stream of ours, which has no end.
func read(r io.Reader, b []byte) { _, _ = io.ReadFull(r, b) }

func (s *seed) bytes(count int) (string, error) {
	r, err := s.many("randBytes", count)
	if err != nil {
		return "", err
	}
	b := make([]byte, max(count, 0))
	read(r, b)
	return base64.StdEncoding.EncodeToString(b), nil
}

func (s *seed) integer(low, high int) (int, error) {
	if high <= low {
		return 0, fault.New(fault.Invalid, "randInt expected a range that is not empty")
	}
	return low + int(below(s.stream("randInt", low, high), uint64(high-low))), nil
}

func (s *seed) shuffle(text string) string {
	runes := []rune(text)
	r := s.stream("shuffle", text)
	for i := len(runes) - 1; i > 0; i-- {
		j := below(r, uint64(i+1))
		runes[i], runes[j] = runes[j], runes[i]
	}
	return string(runes)
}

// uuid is of version 4 and variant 1 (RFC 9562).
func (s *seed) uuid() string {
	var b [16]byte
	read(s.stream("uuidv4"), b[:])
	b[6], b[8] = b[6]&0x0F|0x40, b[8]&0x3F|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// time returns the functions that ask for the time. Those that also take one
// are sprig's own where they are given one.
func (s *seed) time() template.FuncMap {
	list := template.FuncMap{
		"now":           s.present("now"),
		"ago":           s.ago,
		"durationRound": s.durationRound,
	}
	for name, f := range sprig.TxtFuncMap() {
		switch f := f.(type) {
		case func(string, any) string:
			if name == "date" {
				list[name] = func(format string, t any) string { return f(format, s.orNow(name, t)) }
			}
		case func(string, any, string) string:
			if name == "dateInZone" || name == "date_in_zone" {
				list[name] = func(format string, t any, zone string) string { return f(format, s.orNow(name, t), zone) }
			}
		case func(any) string:
			if name == "htmlDate" {
				list[name] = func(t any) string { return f(s.orNow(name, t)) }
			}
		case func(any, string) string:
			if name == "htmlDateInZone" {
				list[name] = func(t any, zone string) string { return f(s.orNow(name, t), zone) }
			}
		}
	}
	return list
}

func (s *seed) present(function string) func() time.Time {
	return func() time.Time {
		s.use(function)
		return s.now
	}
}

// orNow returns t if sprig takes it for a time, and the present if sprig would
// look at the clock.
func (s *seed) orNow(function string, t any) any {
	switch t := t.(type) {
	case time.Time, int64, int, int32:
		return t
	case *time.Time:
		if t != nil {
			return *t
		}
	}
	return s.present(function)()
}

func (s *seed) ago(t any) string {
	s.use("ago")
	then := s.now
	switch t := t.(type) {
	case time.Time:
		then = t
	case int64:
		then = time.Unix(t, 0)
	case int:
		then = time.Unix(int64(t), 0)
	}
	return s.now.Sub(then).Round(time.Second).String()
}

func (s *seed) durationRound(d any) string {
	if t, ok := d.(time.Time); ok {
		s.use("durationRound")
		d = int64(s.now.Sub(t))
	}
	round, _ := sprig.TxtFuncMap()["durationRound"].(func(any) string) // a test holds that it is one
	return round(d)
}
