package check

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"unicode"
)

// The forms in which a report can be written.
const (
	Text     = "text"
	JSON     = "json"
	SARIF    = "sarif"
	JUnit    = "junit"
	Markdown = "markdown"
)

// Formats are all of them.
func Formats() []string { return []string{Text, JSON, SARIF, JUnit, Markdown} }

// Style is how a piece of text looks on a terminal.
type Style int

// The styles.
const (
	Bold Style = iota + 1
	Faint
	Bad
	Careful
	Good
)

// Paint gives a text a style, or returns it as it is.
type Paint func(Style, string) string

// Write writes the report in a form; version is that of this program. Errors are those
// of w.
func (r Report) Write(w io.Writer, format, version string, paint Paint) error {
	switch format {
	case JSON:
		return r.writeJSON(w)
	case SARIF:
		return r.writeSARIF(w, version)
	case JUnit:
		return r.writeJUnit(w)
	case Markdown:
		return r.writeMarkdown(w)
	default:
		return r.writeText(w, paint)
	}
}

// place is where a finding is, as compilers write it.
func (f Finding) place() string {
	text := "(no file)"
	if f.File != "" {
		text = f.File
	}
	if f.Line > 0 {
		text += fmt.Sprintf(":%d", f.Line)
	}
	if f.Line > 0 && f.Column > 0 {
		text += fmt.Sprintf(":%d", f.Column)
	}
	if f.Commit != "" {
		text = f.Commit[:min(len(f.Commit), 12)] + ":" + text
	}
	return text
}

// String tells a finding to people, in one line.
func (f Finding) String() string {
	text := f.place() + ": " + f.Rule + ": " + f.words()
	if f.Object != "" {
		text += " (" + f.Object + ")"
	}
	if f.Kind == KindSecret {
		text += " [" + f.Fingerprint + "]"
	}
	return line(text)
}

// words are the message, and what is to be said of the line.
func (f Finding) words() string {
	if f.Inline {
		return f.Message + " Its line says gitleaks:allow, which does not count without --honor-inline-allow."
	}
	return f.Message
}

// about says in words which object, field, delivery and policy a finding is of.
func (f Finding) about() []string {
	var lines []string
	object := f.Object
	if f.Path != "" {
		object = strings.TrimPrefix(object+", "+f.Path, ", ")
	}
	if n := len(f.Deliveries); n > 0 && f.Deliveries[0] != f.Object {
		object = strings.TrimPrefix(object+", in "+f.Deliveries[0], ", ")
		if n > 1 {
			object += fmt.Sprintf(" and %d more", n-1)
		}
	}
	if object != "" {
		lines = append(lines, object)
	}
	policy := ""
	switch {
	case f.Kind == KindProject:
		policy = "AppProject " + f.Policy
	case f.Kind == KindTrust:
		policy = "TrustPolicy " + f.Policy
	case f.Policy != "":
		policy = "policy set " + f.Policy
	}
	if f.Source != "" && f.Source != f.File {
		policy += " (" + f.Source
		if f.SourceLine > 0 {
			policy += fmt.Sprintf(":%d", f.SourceLine)
		}
		policy += ")"
	}
	if f.Reference != "" {
		policy = strings.TrimPrefix(policy+"; "+f.Reference, "; ")
	}
	if policy != "" {
		lines = append(lines, policy)
	}
	return lines
}

// line has a text be one line that steers no terminal.
func line(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return ' '
		case unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r):
			return -1
		}
		return r
	}, s)
}

// writeText writes findings, by file, and what would be delivered otherwise.
func (r Report) writeText(w io.Writer, paint Paint) error {
	if paint == nil {
		paint = func(_ Style, s string) string { return s }
	}
	var b strings.Builder
	last := "\x00"
	for _, f := range r.Findings {
		file := f.File
		if f.Commit != "" {
			file = f.Commit[:min(len(f.Commit), 12)] + ":" + file
		}
		if file == "" {
			file = "(no file)"
		}
		if file != last {
			if last != "\x00" {
				b.WriteByte('\n')
			}
			last = file
			b.WriteString(paint(Bold, line(file)) + "\n")
		}
		f.writeText(&b, paint)
	}
	r.writeChanges(&b, paint)
	_, err := io.WriteString(w, b.String())
	return err
}

func (f Finding) writeText(b *strings.Builder, paint Paint) {
	at := ""
	if f.Line > 0 {
		at = fmt.Sprint(f.Line)
	}
	if f.Line > 0 && f.Column > 0 {
		at += fmt.Sprintf(":%d", f.Column)
	}
	style := Bad
	if f.Severity == Warning {
		style = Careful
	}
	text := line(f.Rule + ": " + f.words())
	if f.Kind == KindSecret {
		text += " [" + f.Fingerprint + "]"
	}
	fmt.Fprintf(b, "  %-7s %s %s\n", at, paint(style, fmt.Sprintf("%-7s", f.Severity)), text)
	for _, more := range f.about() {
		fmt.Fprintf(b, "  %16s%s\n", "", paint(Faint, line(more)))
	}
}

func (r Report) writeChanges(b *strings.Builder, paint Paint) {
	signs := map[string]string{Added: paint(Good, "+"), Removed: paint(Bad, "-"), Altered: paint(Careful, "~")}
	for i, c := range r.Changes {
		if i == 0 && len(r.Findings) > 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(b, "%s %s  %s\n", signs[c.Operation], line(c.Object), paint(Faint, line(c.Delivery)))
		for text := range strings.Lines(c.Diff) {
			text = strings.TrimRight(text, "\n")
			style := Faint
			switch {
			case strings.HasPrefix(text, "+"):
				style = Good
			case strings.HasPrefix(text, "-"):
				style = Bad
			}
			b.WriteString("    " + paint(style, line(text)) + "\n")
		}
	}
}

// writeJSON writes the report as JSON.
func (r Report) writeJSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(r)
}
