package object

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Beyond returns the fields of o at which base has nothing, in order: a list's item as
// a whole, and of everything else the fields that hold no others.
func (o Owned) Beyond(base Owned) []Path {
	var fields []Path
	for _, step := range slices.Sorted(maps.Keys(o)) {
		if step == "." {
			continue
		}
		theirs, known := base[step]
		within, deeper := below(theirs), below(o[step])
		if known && (len(within) == 0 || len(deeper) == 0) {
			continue // one of the two is the field with all that it holds
		}
		item := !strings.HasPrefix(step, "f:")
		if !known && (item || bare(deeper)) {
			fields = append(fields, Path{step})
			continue
		}
		for _, rest := range deeper.Beyond(within) {
			fields = append(fields, append(Path{step}, rest...))
		}
	}
	return fields
}

// bare reports whether o is a field without any below.
func bare(o Owned) bool {
	_, self := o["."]
	return len(o) == 0 || self && len(o) == 1
}

// String renders a path for people: spec.containers[name=web].image. An item of a set
// is its value, which is not shown: spec.names[].
func (p Path) String() string {
	var b strings.Builder
	for _, step := range p {
		kind, rest, _ := strings.Cut(step, ":")
		switch {
		case kind == "k":
			b.WriteString("[" + keys(rest) + "]")
		case kind == "i":
			b.WriteString("[" + rest + "]")
		case kind == "v":
			b.WriteString("[]")
		case strings.ContainsAny(rest, "./[]") || rest == "":
			b.WriteString("[" + strconv.Quote(rest) + "]")
		default:
			if b.Len() > 0 {
				b.WriteByte('.')
			}
			b.WriteString(rest)
		}
	}
	return b.String()
}

// keys renders what an item of a list is known by.
func keys(text string) string {
	var fields map[string]any
	if json.Unmarshal([]byte(text), &fields) != nil {
		return "?"
	}
	parts := make([]string, 0, len(fields))
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		parts = append(parts, fmt.Sprintf("%s=%v", name, fields[name]))
	}
	return strings.Join(parts, ",")
}

// Pointer returns the JSON pointer (RFC 6901) of what content has at p; false if it has
// nothing there.
func (p Path) Pointer(content any) (string, bool) {
	var b strings.Builder
	for _, step := range p {
		b.WriteByte('/')
		next, ok := follow(content, step)
		if !ok {
			return "", false
		}
		if name, isField := strings.CutPrefix(step, "f:"); isField {
			b.WriteString(strings.NewReplacer("~", "~0", "/", "~1").Replace(name))
		} else {
			items, _ := content.([]any)
			b.WriteString(strconv.Itoa(indexOf(items, step)))
		}
		content = next
	}
	return b.String(), len(p) > 0
}
