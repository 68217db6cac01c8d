package plan

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"unicode"

	"github.com/holdfastcd/holdfast/internal/fault"
)

// found is a value, and the way to it from the root of an object: field names and
// list indexes. What is not part of the object (a literal, a comparison) has none.
type found struct {
	way   []any
	value any
}

func (f found) step(s, value any) found {
	return found{append(slices.Clone(f.way), s), value}
}

func (f found) field(name string) []found {
	if m, ok := f.value.(map[string]any); ok {
		if v, ok := m[name]; ok {
			return []found{f.step(name, v)}
		}
	}
	return nil
}

func (f found) index(i int) []found {
	list, ok := f.value.([]any)
	if i < 0 {
		i += len(list)
	}
	if !ok || i < 0 || i >= len(list) {
		return nil
	}
	return []found{f.step(i, list[i])}
}

func (f found) each() []found {
	var all []found
	switch v := f.value.(type) {
	case []any:
		for i, item := range v {
			all = append(all, f.step(i, item))
		}
	case map[string]any:
		for name, item := range v {
			all = append(all, f.step(name, item))
		}
	}
	return all
}

func (f found) truthy() bool { return f.value != nil && f.value != false }

// query finds parts of a value. It never fails: what is not there is not found.
type query func(found) []found

// Bounds of an expression and of what it finds.
const (
	maxFound = 10000
	maxDepth = 50
)

// parsePath compiles an expression that names fields.
func parsePath(text string) (query, error) {
	if len(text) > maxExpression {
		return nil, fault.New(fault.Limit, "an ignored path has more than %d bytes", maxExpression)
	}
	p := &parser{text: text, rest: text}
	q := p.pipe()
	if p.space(); p.err == nil && p.rest != "" {
		p.refuse(p.word())
	}
	if p.err == nil && !p.path {
		p.err = fault.New(fault.Invalid, "%q names no field", text)
	}
	return q, p.err
}

// parser reads an expression from left to right. After an error it reads nothing more.
type parser struct {
	text, rest string
	depth      int
	path       bool // what was read last names fields
	err        error
}

// refuse notes that the expression goes on with something that is not supported.
func (p *parser) refuse(what string) query {
	if p.err == nil {
		p.err = fault.New(fault.Unsupported, "%q in the ignored path %q is not supported", what, p.text).
			WithHint(`paths such as .spec.replicas, .items[], .containers[] | select(.name == "x") are`)
	}
	p.rest = ""
	return func(found) []found { return nil }
}

// word is what stands next, for messages.
func (p *parser) word() string {
	end := strings.IndexFunc(p.rest, func(r rune) bool { return unicode.IsSpace(r) || r == '(' || r == '|' })
	if end <= 0 {
		return p.rest
	}
	return p.rest[:end]
}

func (p *parser) space() { p.rest = strings.TrimLeftFunc(p.rest, unicode.IsSpace) }

// take consumes sign, if it stands next.
func (p *parser) take(sign string) bool {
	p.space()
	rest, ok := strings.CutPrefix(p.rest, sign)
	if ok {
		p.rest = rest
	}
	return ok
}

// takeWord consumes a name that stands next and does not go on.
func (p *parser) takeWord(word string) bool {
	p.space()
	rest, ok := strings.CutPrefix(p.rest, word)
	if !ok || rest != "" && isName(rune(rest[0])) {
		return false
	}
	p.rest = rest
	return true
}

func isName(r rune) bool { return r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r) }

// pipe reads a | b: b of everything that a finds.
func (p *parser) pipe() query {
	if p.depth++; p.depth > maxDepth {
		return p.refuse("(")
	}
	defer func() { p.depth-- }()
	q := p.comma()
	for p.take("|") {
		q = then(q, p.comma())
	}
	return q
}

// then finds b in everything that a finds, up to the bound.
func then(a, b query) query {
	return func(in found) []found {
		var all []found
		for _, f := range a(in) {
			if all = append(all, b(f)...); len(all) > maxFound {
				return all[:maxFound]
			}
		}
		return all
	}
}

// comma reads a, b: what either finds.
func (p *parser) comma() query {
	q := p.alternative()
	path := p.path
	for p.take(",") {
		a, b := q, p.alternative()
		path = path && p.path
		q = func(in found) []found {
			all := a(in)
			if len(all) < maxFound {
				all = append(all, b(in)...)
			}
			return all[:min(len(all), maxFound)]
		}
	}
	p.path = path
	return q
}

// alternative reads a // b: what a finds that is not null or false, else what b finds.
func (p *parser) alternative() query {
	a := p.or()
	path := p.path
	if !p.take("//") {
		return a
	}
	if p.depth++; p.depth > maxDepth {
		return p.refuse("//")
	}
	defer func() { p.depth-- }()
	b := p.alternative()
	p.path = path && p.path
	return func(in found) []found {
		good := slices.DeleteFunc(a(in), func(f found) bool { return !f.truthy() })
		if len(good) > 0 {
			return good
		}
		return b(in)
	}
}

func (p *parser) or() query {
	q := p.and()
	for p.takeWord("or") {
		q = p.logic(q, p.and(), func(a, b bool) bool { return a || b })
	}
	return q
}

func (p *parser) and() query {
	q := p.comparison()
	for p.takeWord("and") {
		q = p.logic(q, p.comparison(), func(a, b bool) bool { return a && b })
	}
	return q
}

func (p *parser) logic(a, b query, join func(a, b bool) bool) query {
	p.path = false
	return func(in found) []found { return []found{{value: join(anyTrue(a(in)), anyTrue(b(in)))}} }
}

func anyTrue(all []found) bool { return slices.ContainsFunc(all, found.truthy) }

// comparison reads a == value, and a != value.
func (p *parser) comparison() query {
	q := p.term()
	want := true
	switch {
	case p.take("=="):
	case p.take("!="):
		want = false
	default:
		return q
	}
	value, ok := p.literal()
	if !ok {
		return p.refuse("a comparison with " + p.word())
	}
	p.path = false
	return func(in found) []found {
		all := q(in)
		if len(all) == 0 {
			all = []found{{}} // a field that is not there is null
		}
		is := slices.ContainsFunc(all, func(f found) bool { return same(f.value, value) == want })
		return []found{{value: is}}
	}
}

// same compares values; numbers by their size, whatever type holds them.
func same(a, b any) bool { return reflect.DeepEqual(a, b) || text(a) == text(b) }

// term reads a path, a function, or an expression in parentheses, and the
// suffixes behind it.
func (p *parser) term() query {
	p.space()
	p.path = true
	switch {
	case p.takeWord("select"):
		return p.suffixes(p.selection())
	case p.takeWord("not"):
		p.path = false
		return func(in found) []found { return []found{{value: !in.truthy()}} }
	case p.takeWord("startswith"):
		return p.affix(strings.HasPrefix)
	case p.takeWord("endswith"):
		return p.affix(strings.HasSuffix)
	case p.take("("):
		q := p.pipe()
		if !p.take(")") {
			return p.refuse("( without )")
		}
		return p.suffixes(q)
	case strings.HasPrefix(p.rest, "..") || !strings.HasPrefix(p.rest, "."):
		return p.refuse(p.word())
	}
	here := func(in found) []found { return []found{in} }
	if name, ok := p.name(); ok {
		return p.suffixes(func(in found) []found { return in.field(name) })
	}
	p.rest = p.rest[1:] // the dot
	return p.suffixes(here)
}

// name reads .name or ."name".
func (p *parser) name() (string, bool) {
	rest, ok := strings.CutPrefix(p.rest, ".")
	if !ok {
		return "", false
	}
	if strings.HasPrefix(rest, `"`) {
		before := p.rest
		p.rest = rest
		if s, ok := p.literal(); ok {
			name, isString := s.(string)
			return name, isString
		}
		p.rest = before
		return "", false
	}
	end := strings.IndexFunc(rest, func(r rune) bool { return !isName(r) })
	if end < 0 {
		end = len(rest)
	}
	if end == 0 || unicode.IsDigit(rune(rest[0])) {
		return "", false
	}
	p.rest = rest[end:]
	return rest[:end], true
}

// suffixes reads .name, [index], ["name"], [] and ? behind a term.
func (p *parser) suffixes(q query) query {
	path := p.path
	for p.err == nil {
		switch {
		case strings.HasPrefix(p.rest, "?//"):
			return p.refuse("?//")
		case strings.HasPrefix(p.rest, "?"):
			p.rest = p.rest[1:] // nothing here fails anyway
		case strings.HasPrefix(p.rest, ".["):
			p.rest = p.rest[1:]
		case strings.HasPrefix(p.rest, "["):
			p.rest = p.rest[1:]
			q = then(q, p.bracket())
		case strings.HasPrefix(p.rest, "."):
			name, ok := p.name()
			if !ok {
				return p.refuse(p.word())
			}
			q = then(q, func(in found) []found { return in.field(name) })
		default:
			p.path = path
			return q
		}
	}
	return q
}

// bracket reads what stands between [ and ].
func (p *parser) bracket() query {
	if p.take("]") {
		return found.each
	}
	value, ok := p.literal()
	if !ok || !p.take("]") {
		return p.refuse("[" + p.word())
	}
	switch v := value.(type) {
	case string:
		return func(in found) []found { return in.field(v) }
	case float64:
		return func(in found) []found { return in.index(int(v)) }
	}
	return p.refuse("[" + text(value) + "]")
}

// selection reads the condition of select.
func (p *parser) selection() query {
	if !p.take("(") {
		return p.refuse("select without a condition")
	}
	condition := p.pipe()
	if !p.take(")") {
		return p.refuse("( without )")
	}
	p.path = true
	return func(in found) []found {
		if anyTrue(condition(in)) {
			return []found{in}
		}
		return nil
	}
}

// affix reads the argument of startswith and endswith.
func (p *parser) affix(has func(s, affix string) bool) query {
	if !p.take("(") {
		return p.refuse("a function without its argument")
	}
	value, _ := p.literal()
	affix, ok := value.(string)
	if !ok || !p.take(")") {
		return p.refuse("an argument that is no string")
	}
	p.path = false
	return func(in found) []found {
		s, ok := in.value.(string)
		return []found{{value: ok && has(s, affix)}}
	}
}

// literal reads a string, a number, true, false or null.
func (p *parser) literal() (any, bool) {
	p.space()
	d := json.NewDecoder(strings.NewReader(p.rest))
	if p.rest == "" || strings.ContainsRune("[{", rune(p.rest[0])) {
		return nil, false
	}
	var v any
	if d.Decode(&v) != nil {
		return nil, false
	}
	p.rest = p.rest[d.InputOffset():]
	return v, true
}
