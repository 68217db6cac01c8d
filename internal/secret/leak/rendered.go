package leak

import (
	"encoding/base64"
	"regexp"
	"slices"
	"strings"
)

// Value is one of a rendered Secret.
type Value struct {
	Object string // the Secret, for people
	Key    string
	Text   string // never told
}

// minRendered is how long a value must be to be looked for in files: shorter ones are
// part of too many words.
const minRendered = 8

// plainKeys are those under which Secrets hold what is none.
var plainKeys = regexp.MustCompile(`(?i)(?:^|[-_.])(?:user(?:-?name)?|host(?:-?name)?|port|database|db(?:-?name)?|type|name|ur[il]|endpoint|region|bucket|project|namespace|server|issuer|client-?id)$`)

// withPassword is an address that holds a password.
var withPassword = regexp.MustCompile(`://[^/@\s]*:[^/@\s]+@`)

// Standing returns where values of rendered Secrets stand in files as they are, or in
// base64: a values file that a chart makes a Secret of is one no rule knows. What was
// found in the same place already is left out, and so are files that cannot be read,
// which [Scanner.Search] told of.
func Standing(values []Value, files []File, already []Finding, salt []byte) []Finding {
	values = slices.DeleteFunc(slices.Clone(values), func(v Value) bool { return !sought(v) })
	if len(values) == 0 {
		return nil
	}
	taken := map[string][]int{}
	for _, f := range already {
		taken[f.File] = append(taken[f.File], f.Line)
	}
	var all []Finding
	for _, file := range files {
		content, err := file.Read(maxFile)
		if err != nil {
			continue
		}
		text, counted := string(content), 0
		for _, v := range values {
			at := stands(text, v.Text)
			if at < 0 {
				continue
			}
			f := Finding{File: file.Path, Rule: RuleRendered, Description: "The value of " + v.Key + " in " + v.Object + ", which is rendered from it, stands here."}
			f.Line, f.Column = position(text, at)
			if slices.Contains(taken[f.File], f.Line) || slices.Contains(taken[f.File], f.Line-1) {
				continue
			}
			f.Fingerprint = fingerprint(salt, f, v.Text, counted)
			counted++
			all = append(all, f)
		}
	}
	return all
}

// sought reports whether a value is worth looking for.
func sought(v Value) bool {
	text := strings.TrimSpace(v.Text)
	if len(text) < minRendered || strings.ContainsAny(text, "\r\n") || !open(text) {
		return false
	}
	return !plainKeys.MatchString(v.Key) || withPassword.MatchString(text)
}

// stands returns where a value is in a text, by itself; -1 if it is not.
func stands(text, value string) int {
	value = strings.TrimSpace(value)
	for _, form := range []string{value, base64.StdEncoding.EncodeToString([]byte(value))} {
		for from := 0; ; {
			i := strings.Index(text[from:], form)
			if i < 0 {
				break
			}
			at := from + i
			if bounded(text, at) && bounded(text, at+len(form)) {
				return at
			}
			from = at + 1
		}
	}
	return -1
}

// bounded reports whether no word goes on across a place in a text.
func bounded(text string, at int) bool {
	return at == 0 || at == len(text) || !inWord(text[at-1]) || !inWord(text[at])
}

func inWord(c byte) bool {
	return c == '_' || '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}
