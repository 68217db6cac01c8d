package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"unicode"

	"golang.org/x/term"
	"sigs.k8s.io/yaml"

	"github.com/holdfastcd/holdfast/internal/fault"
)

// encode prints v as JSON or YAML. It fails with Invalid for another format.
func encode(w io.Writer, format string, v any) error {
	switch format {
	case "json":
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		e.SetEscapeHTML(false)
		return e.Encode(v)
	case "yaml":
		b, err := yaml.Marshal(v)
		if err != nil {
			return fault.New(fault.Internal, "cannot write YAML: %s", err)
		}
		_, err = w.Write(b)
		return err
	}
	return fault.New(fault.Invalid, "%q is no output format", format).WithHint("choose json or yaml")
}

// table prints rows in columns. Cells come from clusters and files, so that
// characters that could steer a terminal are left out.
func table(w io.Writer, rows [][]string) error {
	t := tabwriter.NewWriter(w, 0, 8, 3, ' ', 0)
	for _, row := range rows {
		for i, cell := range row {
			row[i] = plain(cell)
			if row[i] == "" {
				row[i] = "-"
			}
		}
		fmt.Fprintln(t, strings.TrimRight(strings.Join(row, "\t"), "\t"))
	}
	return t.Flush()
}

// plain returns s on one line and without control characters.
func plain(s string) string {
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

// palette colours text, on a terminal only.
type palette bool

const (
	red    = "31"
	green  = "32"
	yellow = "33"
	bold   = "1"
	faint  = "2"
)

// colours returns a palette for w: of use on a terminal, unless $NO_COLOR is set.
func colours(w io.Writer, p Process) palette {
	if v, set := p.Lookup("NO_COLOR"); set && v != "" {
		return false
	}
	if v, _ := p.Lookup("TERM"); v == "dumb" {
		return false
	}
	return palette(isTerminal(w))
}

func (c palette) paint(code, s string) string {
	if !c || s == "" {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
