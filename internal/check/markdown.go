package check

import (
	"fmt"
	"io"
	"strings"
)

// maxComment bounds a report in Markdown: GitHub takes comments of 65,536 characters,
// and other hosts more.
const maxComment = 60_000

// maxRows and maxNotes bound the findings and the notices that a comment lists.
const (
	maxRows  = 50
	maxNotes = 10
)

// writeMarkdown writes the report as a comment on a pull request: what would be wrong,
// and what would be delivered otherwise. Nothing in it can be taken for markup.
func (r Report) writeMarkdown(w io.Writer) error {
	var b strings.Builder
	b.WriteString("### Holdfast: " + r.headline() + "\n")
	r.findingRows(&b)
	for _, text := range r.Undecided {
		b.WriteString("\n**Could not be told:** " + inline(text) + "\n")
	}
	if r.Base != "" {
		fmt.Fprintf(&b, "\n#### What would be delivered otherwise than at `%.12s`\n\n", r.Base)
		r.tally(&b)
	}
	b.WriteString(r.diffs(maxComment - b.Len()))
	r.footnotes(&b)
	text := b.String()
	if len(text) > maxComment {
		text = strings.ToValidUTF8(text[:maxComment], "") + "\n… and more\n"
	}
	_, err := io.WriteString(w, text)
	return err
}

// headline sums a report up.
func (r Report) headline() string {
	errors, warnings := r.Count(Error), r.Count(Warning)
	var parts []string
	switch {
	case len(r.Undecided) > 0:
		parts = append(parts, "could not be told")
	case errors == 0 && warnings == 0:
		parts = append(parts, "nothing is wrong")
	}
	if errors > 0 {
		parts = append(parts, amount(errors, "error"))
	}
	if warnings > 0 {
		parts = append(parts, amount(warnings, "warning"))
	}
	if r.Base != "" {
		parts = append(parts, amount(len(r.Changes), "object")+" changed")
	}
	return strings.Join(parts, ", ")
}

func amount(n int, of string) string {
	if n == 1 {
		return "1 " + of
	}
	return fmt.Sprintf("%d %ss", n, of)
}

func (r Report) findingRows(b *strings.Builder) {
	if len(r.Findings) == 0 {
		return
	}
	b.WriteString("\n| | where | rule | what |\n|---|---|---|---|\n")
	for i, f := range r.Findings {
		if i == maxRows {
			fmt.Fprintf(b, "\n… and %d more.\n", len(r.Findings)-maxRows)
			return
		}
		what := f.words()
		if f.Object != "" {
			what = f.Object + ": " + what
		}
		rule := inline(f.Rule)
		if strings.HasPrefix(f.Reference, "https://") && !strings.ContainsAny(f.Reference, " ()<>\"") {
			rule = "[" + rule + "](" + f.Reference + ")"
		}
		fmt.Fprintf(b, "| %s | `%s` | %s | %s |\n", f.Severity, strings.ReplaceAll(cell(f.place()), "`", "'"), rule, inline(bounded(what, 400)))
	}
}

// tally counts changes by what happens.
func (r Report) tally(b *strings.Builder) {
	n := map[string]int{}
	for _, c := range r.Changes {
		n[c.Operation]++
	}
	if len(r.Changes) == 0 {
		b.WriteString("Nothing.\n")
		return
	}
	fmt.Fprintf(b, "%d added, %d changed, %d removed.\n", n[Added], n[Altered], n[Removed])
}

// diffs writes the changes, as many as there is room for, in blocks to be opened.
func (r Report) diffs(room int) string {
	const reserved = 5000 // for what follows
	var b strings.Builder
	for i, c := range r.Changes {
		fence := fence(c.Diff)
		block := fmt.Sprintf("\n<details><summary>%s <code>%s</code>, by %s</summary>\n\n%sdiff\n%s%s\n\n</details>\n",
			c.Operation, escape(c.Object), escape(c.Delivery), fence, printable(c.Diff), fence)
		if b.Len()+len(block) > room-reserved {
			fmt.Fprintf(&b, "\n… and %s more, for which there is no room here: see `holdfast check --diff-base`.\n", amount(len(r.Changes)-i, "object"))
			break
		}
		b.WriteString(block)
	}
	return b.String()
}

// fence is longer than any in a text.
func fence(text string) string {
	fence := "```"
	for strings.Contains(text, fence) {
		fence += "`"
	}
	return fence
}

// printable leaves out what could steer a terminal, but for the ends of lines.
func printable(text string) string {
	var b strings.Builder
	for l := range strings.Lines(text) {
		b.WriteString(line(strings.TrimRight(l, "\r\n")) + "\n")
	}
	return b.String()
}

func (r Report) footnotes(b *strings.Builder) {
	if len(r.Notices) > 0 {
		b.WriteString("\n<details><summary>What was not judged, and other notes</summary>\n\n")
		for i, n := range r.Notices {
			if i == maxNotes {
				fmt.Fprintf(b, "- … and %d more\n", len(r.Notices)-maxNotes)
				break
			}
			b.WriteString("- " + inline(bounded(n, 300)) + "\n")
		}
		b.WriteString("\n</details>\n")
	}
	fmt.Fprintf(b, "\n<sub>%s and %s judged.</sub>\n", amount(r.Objects, "object"), amount(r.Files, "file"))
}

// cell keeps a text within its cell of a table.
func cell(s string) string { return strings.ReplaceAll(line(s), "|", "\\|") }

// inline is a text in which nothing is markup.
func inline(s string) string {
	var b strings.Builder
	for _, c := range line(s) {
		switch {
		case strings.ContainsRune("\\`*_{}[]()#+!|~$", c):
			b.WriteByte('\\')
			b.WriteRune(c)
		case c == '@': // nobody is called
			b.WriteString("@\u200b")
		case c == '<':
			b.WriteString("&lt;")
		case c == '&':
			b.WriteString("&amp;")
		default:
			b.WriteRune(c)
		}
	}
	return b.String()
}

// escape is a text in HTML.
func escape(s string) string {
	return strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", `"`, "&quot;").Replace(line(s))
}

func bounded(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}
