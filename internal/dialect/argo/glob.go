package argo

import (
	"fmt"
	"regexp"
	"strings"
)

// maxGlob bounds a pattern before it is compiled.
const maxGlob = 1024

// glob is a compiled pattern. Regular expressions of this engine match in linear
// time, whatever a tenant writes.
type glob struct {
	re     *regexp.Regexp
	denies bool
}

// compileGlob compiles a pattern of *, **, ?, [sets], {alternatives} and a leading
// ! for denial. With a separator only ** spans it, and * alone still matches
// everything, as in the source repositories of a project. The error says what is
// wrong with the pattern: a broken one must stop whoever relies on it, because as
// a denial it would match nothing.
func compileGlob(pattern string, separator bool) (glob, error) {
	body, denies := strings.CutPrefix(pattern, "!")
	switch {
	case len(pattern) > maxGlob:
		return glob{}, fmt.Errorf("the pattern is longer than %d characters", maxGlob)
	case denies && (body == "" || body == "*"):
		return glob{}, fmt.Errorf("the pattern %q denies everything", pattern)
	case body == "*":
		separator = false
	}
	expr, err := translate(body, separator)
	if err != nil {
		return glob{}, fmt.Errorf("the pattern %q %w", pattern, err)
	}
	re, err := regexp.Compile(expr)
	if err != nil {
		return glob{}, fmt.Errorf("the pattern %q is malformed", pattern)
	}
	return glob{re: re, denies: denies}, nil
}

func (g glob) match(value string) bool { return g.re.MatchString(value) }

// translate writes a pattern as a regular expression.
func translate(pattern string, separator bool) (string, error) {
	one := "."
	if separator {
		one = "[^/]"
	}
	var b strings.Builder
	b.WriteString(`(?s)\A`)
	depth := 0
	for i := 0; i < len(pattern); {
		text, n, err := token(pattern[i:], one, &depth)
		if err != nil {
			return "", err
		}
		b.WriteString(text)
		i += n
	}
	if depth != 0 {
		return "", fmt.Errorf("has an unclosed {")
	}
	b.WriteString(`\z`)
	return b.String(), nil
}

// token translates the first token of rest and says how long it is.
func token(rest, one string, depth *int) (string, int, error) {
	switch c := rest[0]; {
	case strings.HasPrefix(rest, "**"):
		return ".*", 2, nil
	case c == '*':
		return one + "*", 1, nil
	case c == '?':
		return one, 1, nil
	case c == '[':
		return class(rest)
	case c == '{':
		*depth++
		return "(?:", 1, nil
	case c == '}' && *depth > 0:
		*depth--
		return ")", 1, nil
	case c == ',' && *depth > 0:
		return "|", 1, nil
	case c == '\\' && len(rest) > 1:
		return regexp.QuoteMeta(rest[1:2]), 2, nil
	default:
		return regexp.QuoteMeta(rest[:1]), 1, nil
	}
}

// class translates a [set], which ! or ^ negates.
func class(rest string) (string, int, error) {
	end := strings.IndexByte(rest, ']')
	if end < 2 {
		return "", 0, fmt.Errorf("has an unclosed or empty [")
	}
	set := rest[1:end]
	negation := ""
	if set[0] == '!' || set[0] == '^' {
		negation, set = "^", set[1:]
	}
	if set == "" || strings.ContainsAny(set, `[\`) {
		return "", 0, fmt.Errorf("has a malformed [set]")
	}
	return "[" + negation + set + "]", end + 1, nil
}
