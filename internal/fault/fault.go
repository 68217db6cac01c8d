// Package fault is the closed set of ways in which a delivery can fail.
//
// Every stage returns its failures as *Error (possibly wrapped). The kind says
// what happens next (retry, wait for a change, wait for an event); the dialects
// map it once to condition reasons and the command line once to exit codes. An
// Error never carries a secret: causes are reduced to text at the stage that
// understands them.
package fault

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
)

// Kind classifies a failure by what has to happen before it can go away.
type Kind uint8

// The kinds, each with what ends it.
const (
	Internal     Kind = iota // a defect of ours, or an error nobody classified; retried with back-off
	Invalid                  // the object or a file is wrong; ends when it changes
	Unsupported              // a field or feature this version does not have; ends when it is removed
	NotFound                 // a path, ref, source or kind is missing; retried
	Unauthorized             // credentials were refused; retried
	Unreachable              // the other side did not answer; retried
	Refused                  // a rule (project, security default) forbids it; ends when rule or object changes
	Conflict                 // another delivery owns the object; ends when it lets go
	Limit                    // a bound (size, depth, time, memory) was exceeded; ends when the input changes
	Rejected                 // the API server did not accept an object; retried
	Waiting                  // something else must come first; an event or a retry ends it
)

var names = [...]string{
	"Internal", "Invalid", "Unsupported", "NotFound", "Unauthorized", "Unreachable",
	"Refused", "Conflict", "Limit", "Rejected", "Waiting",
}

// String returns the kind's stable name.
func (k Kind) String() string {
	if int(k) < len(names) {
		return names[k]
	}
	return "Internal"
}

// Terminal reports whether trying again without a change is pointless.
func (k Kind) Terminal() bool {
	return k == Invalid || k == Unsupported || k == Refused || k == Limit
}

// Error is one failure, told to the person who can end it.
type Error struct {
	Kind   Kind
	Object string // the object it is about, as Kind/namespace/name; may be empty
	File   string // path in the source tree; may be empty
	Line   int    // 1-based line in File; 0 when unknown
	Msg    string // what is wrong, lower case, no secret
	Hint   string // what to do, if that is not plain from Msg
	Cause  error  // the error below, for errors.Is; its text is not printed
}

// Error renders "file:line: object: message (hint)". What would move a
// terminal's cursor, or the words of a line, is replaced: names of files and
// objects are whatever a repository calls them, and end in conditions and logs.
func (e *Error) Error() string {
	var b strings.Builder
	if e.File != "" {
		b.WriteString(strings.Map(inLine, e.File))
		if e.Line > 0 {
			fmt.Fprintf(&b, ":%d", e.Line)
		}
		b.WriteString(": ")
	}
	if e.Object != "" {
		b.WriteString(strings.Map(inLine, e.Object) + ": ")
	}
	b.WriteString(strings.Map(inText, e.Msg))
	if e.Hint != "" {
		b.WriteString(" (" + strings.Map(inText, e.Hint) + ")")
	}
	return b.String()
}

// inLine keeps what stays on its line and in its place.
func inLine(r rune) rune {
	if unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) {
		return unicode.ReplacementChar
	}
	return r
}

// inText keeps line breaks and tabs beside that.
func inText(r rune) rune {
	if r == '\n' || r == '\t' {
		return r
	}
	return inLine(r)
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Cause }

// New returns an Error of kind k with a formatted message.
func New(k Kind, format string, args ...any) *Error {
	return &Error{Kind: k, Msg: fmt.Sprintf(format, args...)}
}

// At returns a copy of e that names a place in the source tree.
func (e *Error) At(file string, line int) *Error {
	c := *e
	c.File, c.Line = file, line
	return &c
}

// On returns a copy of e that names an object.
func (e *Error) On(object string) *Error {
	c := *e
	c.Object = object
	return &c
}

// WithHint returns a copy of e that says what to do.
func (e *Error) WithHint(format string, args ...any) *Error {
	c := *e
	c.Hint = fmt.Sprintf(format, args...)
	return &c
}

// Because returns a copy of e with a cause for errors.Is; the text stays as it is.
func (e *Error) Because(cause error) *Error {
	c := *e
	c.Cause = cause
	return &c
}

// KindOf returns the kind of the first *Error in err's chain, Internal if there is none.
func KindOf(err error) Kind {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Kind
	}
	return Internal
}

// From returns err as an *Error: the first in its chain, or else, because nobody
// classified it, a new one of kind Internal with its text.
func From(err error) *Error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	return New(Internal, "%s", err).Because(err)
}
