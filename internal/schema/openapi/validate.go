package openapi

import (
	"encoding/base64"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/holdfastcd/holdfast/internal/nearest"
)

// place is where in an object something is.
type place struct {
	up    *place
	field string // "" for an item of a list
	index int
	key   bool // field is a key of a map, and no field of a type
}

func (p *place) String() string {
	if p == nil {
		return ""
	}
	above := p.up.String()
	switch {
	case p.field == "" && !p.key:
		return above + "[" + strconv.Itoa(p.index) + "]"
	case p.key:
		return above + "[" + strconv.Quote(p.field) + "]"
	case above == "":
		return p.field
	}
	return above + "." + p.field
}

// isItem says whether a place is in a list.
func (p *place) isItem() bool { return p != nil && p.field == "" && !p.key }

// inStatus says whether a place is in what a controller writes, and no author.
func (p *place) inStatus() bool {
	for ; p != nil; p = p.up {
		if p.up == nil {
			return p.field == "status"
		}
	}
	return false
}

// validation is the judgement of one object.
type validation struct {
	problems []Problem
}

func (v *validation) tellf(at *place, format string, args ...any) {
	if len(v.problems) < most {
		v.problems = append(v.problems, Problem{Path: at.String(), Message: fmt.Sprintf(format, args...)})
	}
}

// named judges that an object has a name, or asks for one.
func (v *validation) named(o map[string]any) {
	metadata, isMap := o["metadata"].(map[string]any)
	if o["metadata"] == nil || isMap && metadata["name"] == nil && metadata["generateName"] == nil {
		v.tellf(&place{field: "metadata"}, "missing required field %q", "name")
	}
}

// value judges a value and what is in it.
func (v *validation) value(n *node, x any, at *place) {
	if x == nil {
		if at.isItem() && n.rules != nil && !n.rules.nullable {
			v.tellf(at, "invalid type: got %q, expected %q", "null", typeNames[n.form])
		}
		return // absent, to the server, but in a list of a custom resource
	}
	if !v.form(n, x, at) {
		return
	}
	switch x := x.(type) {
	case map[string]any:
		v.object(n, x, at)
	case []any:
		v.list(n, x, at)
	case string:
		if n.enum != nil && x != "" && !slices.Contains(n.enum, x) && !at.inStatus() {
			v.tellf(at, "unsupported value %s: supported values: %s", printed(x), quoted(n.enum))
		}
	}
	if n.rules != nil {
		v.rule(n, x, at)
	}
}

func (v *validation) list(n *node, items []any, at *place) {
	if n.item == nil {
		return
	}
	for i, item := range items {
		v.value(n.item, item, &place{up: at, index: i})
	}
}

func quoted(values []string) string {
	all := make([]string, len(values))
	for i, value := range values {
		all[i] = strconv.Quote(value)
	}
	return strings.Join(all, ", ")
}

// object judges the fields of an object, or the values of a map.
func (v *validation) object(n *node, o map[string]any, at *place) {
	for name, x := range o {
		f, known := n.fields[name]
		switch {
		case known:
			v.value(f, x, &place{up: at, field: name})
		case n.form == '{' || n.fields == nil && n.item != nil:
			if n.item != nil {
				v.value(n.item, x, &place{up: at, field: name, key: true})
			}
		case n.form == '@' && !n.open:
			v.unknownField(n, name, at)
		}
	}
	for _, name := range n.required {
		if !n.holds(o, name) && !at.inStatus() {
			v.tellf(at, "missing required field %q", name)
		}
	}
}

// holds says whether an object has a field: null counts only where it is a value.
func (n *node) holds(o map[string]any, name string) bool {
	x, there := o[name]
	f := n.fields[name]
	return x != nil || there && f != nil && f.rules != nil && f.rules.nullable
}

func (v *validation) unknownField(n *node, name string, at *place) {
	if len(v.problems) >= most {
		return
	}
	known := make([]string, 0, len(n.fields))
	for field := range n.fields {
		known = append(known, field)
	}
	message := fmt.Sprintf("unknown field %q", name)
	if field := meant(name, known); field != "" {
		message += fmt.Sprintf("; did you mean %q?", field)
	}
	v.tellf(&place{up: at, field: name}, "%s", message)
}

// typeNames are the forms in the words of JSON Schema.
var typeNames = map[byte]string{
	's': "string", 'i': "integer", 'l': "integer", 'b': "boolean", 'n': "number", 'x': "string", 't': "string",
	'u': "integer or string", 'q': "quantity", '[': "array", '{': "object", '@': "object",
}

// typeOf names the type of a value in the words of JSON Schema.
func typeOf(x any) string {
	switch x := x.(type) {
	case nil:
		return "null"
	case string:
		return "string"
	case bool:
		return "boolean"
	case []any:
		return "array"
	case map[string]any:
		return "object"
	default:
		if f, ok := number(x); ok && f == math.Trunc(f) {
			return "integer"
		}
		return "number"
	}
}

// number returns the value of what decoders make of a number.
func number(x any) (float64, bool) {
	switch x := x.(type) {
	case int64:
		return float64(x), true
	case float64:
		return x, true
	case int:
		return float64(x), true
	case uint64:
		return float64(x), true
	case int32:
		return float64(x), true
	}
	return 0, false
}

// form judges the type of a value, and what a text of that type has to look like.
func (v *validation) form(n *node, x any, at *place) bool {
	if fits(n.form, typeOf(x)) {
		return v.content(n.form, x, at)
	}
	v.tellf(at, "invalid type: got %q, expected %q", typeOf(x), typeNames[n.form])
	return false
}

func fits(form byte, typ string) bool {
	switch form {
	case 's', 'x', 't':
		return typ == "string"
	case 'i', 'l':
		return typ == "integer"
	case 'b':
		return typ == "boolean"
	case 'n':
		return typ == "number" || typ == "integer"
	case 'u':
		return typ == "integer" || typ == "string"
	case 'q':
		return typ == "integer" || typ == "number" || typ == "string"
	case '[':
		return typ == "array"
	case '{', '@':
		return typ == "object"
	}
	return true
}

// content judges a value of the right type by what its form asks for.
func (v *validation) content(form byte, x any, at *place) bool {
	s, isText := x.(string)
	switch {
	case form == 'i' || form == 'u' && !isText:
		if f, _ := number(x); f < math.MinInt32 || f > math.MaxInt32 {
			v.tellf(at, "invalid value: %v is not an integer of 32 bits", x)
			return false
		}
	case form == 'q' && isText:
		if _, err := resource.ParseQuantity(s); err != nil {
			v.tellf(at, "invalid quantity %s: such as 500m, 2 or 1Gi is expected", printed(s))
			return false
		}
	case form == 'x':
		if _, err := base64.StdEncoding.DecodeString(s); err != nil {
			v.tellf(at, "illegal base64 data") // what is here may be secret
			return false
		}
	case form == 't':
		if _, err := time.Parse(time.RFC3339, s); err != nil {
			v.tellf(at, "invalid time %s: such as 2026-01-02T15:04:05Z is expected", printed(s))
			return false
		}
	}
	return true
}

// meant returns the one of known that was probably meant; "" if none is close.
func meant(name string, known []string) string {
	best, distance := "", 3
	slices.Sort(known)
	for _, k := range known {
		if strings.EqualFold(k, name) {
			return k
		}
		if d := nearest.Distance(name, k, distance); d < distance && d < len(name)/2+1 {
			best, distance = k, d
		}
	}
	return best
}
