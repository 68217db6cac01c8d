package render

import (
	"regexp"
	"strings"

	"github.com/holdfastcd/holdfast/internal/fault"
)

// glob is a compiled pattern; nil matches nothing.
type glob struct{ re *regexp.Regexp }

// compileGlob understands *, ?, [a-z], [!a-z], {a,b} and \. As in Argo CD, a *
// crosses slashes. An empty pattern gives nil. Errors are fault.Invalid.
func compileGlob(pattern string) (*glob, error) { //nolint:cyclop // one case for each sign of the language
	if pattern == "" {
		return nil, nil //nolint:nilnil // a nil glob matches nothing
	}
	var b strings.Builder
	b.WriteString(`(?s)^`)
	depth := 0
	for i := 0; i < len(pattern); i++ {
		switch c := pattern[i]; {
		case c == '*':
			b.WriteString(`.*`)
		case c == '?':
			b.WriteString(`.`)
		case c == '[':
			end := strings.IndexByte(pattern[i:], ']')
			if end < 2 {
				return nil, badGlob(pattern, "a [ without its ]")
			}
			b.WriteString(class(pattern[i+1 : i+end]))
			i += end
		case c == '{':
			depth++
			b.WriteString(`(?:`)
		case c == '}' && depth > 0:
			depth--
			b.WriteString(`)`)
		case c == ',' && depth > 0:
			b.WriteString(`|`)
		case c == '\\' && i+1 < len(pattern):
			i++
			b.WriteString(regexp.QuoteMeta(pattern[i : i+1]))
		default:
			b.WriteString(regexp.QuoteMeta(pattern[i : i+1]))
		}
	}
	if depth > 0 {
		return nil, badGlob(pattern, "a { without its }")
	}
	re, err := regexp.Compile(b.String() + `$`)
	if err != nil {
		return nil, badGlob(pattern, "it cannot be understood")
	}
	return &glob{re}, nil
}

// class translates the inside of [ ].
func class(inside string) string {
	not := ""
	if inside[0] == '!' || inside[0] == '^' {
		not, inside = "^", inside[1:]
	}
	return "[" + not + strings.NewReplacer(`\`, `\\`, `[`, `\[`, `^`, `\^`).Replace(inside) + "]"
}

func badGlob(pattern, why string) error {
	return fault.New(fault.Invalid, "the pattern %q is not a glob: %s", pattern, why)
}

func (g *glob) match(name string) bool { return g != nil && g.re.MatchString(name) }
