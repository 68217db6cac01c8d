// Package substitute replaces variables in rendered objects, as Flux's postBuild
// does: objects and variables in, objects out.
//
// An object is written as YAML, ${expressions} in the text are replaced with bash's
// string functions, and the text is read again, so that a value is typed by where it
// stands: "3" without quotes around it becomes a number. What bash calls ${v:-d},
// ${v:=d}, ${v#p}, ${v%p}, ${v/a/b}, ${v:1:2}, ${v^}, ${v,,} and ${#v} works; $${v}
// stays ${v}. The functions are those of github.com/fluxcd/pkg/envsubst.
//
// Values may be secret: no error holds one. What substitution may cost is bounded
// before it is done, since the text may be anybody's.
package substitute

import (
	"errors"
	"regexp"
	"slices"
	"strings"

	"github.com/fluxcd/pkg/envsubst"
	"k8s.io/apimachinery/pkg/util/json"
	"sigs.k8s.io/yaml"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/object"
)

// Variables are what is put in, and where not.
type Variables struct {
	Variables map[string]string
	// Secret are the names of those whose values are secret.
	Secret map[string]bool
	// Disabled is the label or annotation, key and value, of objects that are left
	// as they are.
	Disabled [2]string
	// Strict refuses variables that are not set and have no default.
	Strict bool
}

var validName = regexp.MustCompile(`^[_[:alpha:]][_[:alpha:][:digit:]]*$`)

// IsName reports whether a variable may be called name: as those of a shell.
func IsName(name string) bool { return validName.MatchString(name) }

// Objects replaces variables in every object, in place, and returns them. Newlines
// are taken out of the values, as Flux does. Errors are *fault.Error with object,
// file, line and the variable: Invalid for a name that is none, an expression that
// cannot be read, a variable without a value, and text that is no object any more;
// Limit for what would cost too much.
func (v Variables) Objects(objects []object.Object) ([]object.Object, error) {
	values := make(map[string]string, len(v.Variables))
	for name, value := range v.Variables {
		if !IsName(name) {
			return nil, fault.New(fault.Invalid, "%.100q is not the name of a variable", name).
				WithHint("names consist of letters, digits and underscores, and begin with no digit")
		}
		values[name] = strings.ReplaceAll(value, "\n", "")
	}
	b := newBudget()
	for i := range objects {
		o := &objects[i]
		if v.skips(o) {
			continue
		}
		if err := v.object(o, values, b); err != nil {
			return nil, err.On(o.ID().String()).At(o.Origin.File, o.Origin.Line)
		}
	}
	return objects, nil
}

// skips reports whether an object asks to be left as it is. Flux reads labels and
// annotations alike.
func (v Variables) skips(o *object.Object) bool {
	key, value := v.Disabled[0], v.Disabled[1]
	return key != "" && (strings.EqualFold(o.GetLabels()[key], value) || strings.EqualFold(o.GetAnnotations()[key], value))
}

func (v Variables) object(o *object.Object, values map[string]string, b *budget) *fault.Error {
	text, err := yaml.Marshal(o.Object)
	if err != nil {
		return fault.New(fault.Invalid, "the object cannot be written as YAML")
	}
	if !strings.Contains(string(text), "$") {
		return nil
	}
	if err := b.take(string(text), values); err != nil {
		return err
	}
	missing := ""
	out, err := eval(string(text), func(name string) (string, bool) {
		value, ok := values[name]
		if !ok && v.Strict {
			missing = name // the last one asked for is the one that the error is about
		}
		return value, ok || !v.Strict
	})
	switch {
	case err != nil && missing != "":
		return fault.New(fault.Invalid, "the variable %s is not set", missing).
			WithHint("set it, give it a default as in ${%s:=default}, or write $${%s} for the text itself", missing, missing)
	case err != nil:
		return fault.New(fault.Invalid, "a ${...} in it is not an expression: %s", err).
			WithHint("write $${...} for text that is not meant for substitution")
	}
	return read(o, out, string(text))
}

// eval is envsubst.Eval for text that may be anybody's: where the library gives up
// in a panic, as for a length that no integer holds, the expression is to blame.
func eval(text string, value func(string) (string, bool)) (out string, err error) {
	defer func() {
		if recover() != nil {
			err = errors.New("bad substitution")
		}
	}()
	return envsubst.Eval(text, value)
}

// read takes an object from its text. What a parser says of it is not told: it may
// quote a value.
func read(o *object.Object, text, before string) *fault.Error {
	if object.Aliased([]byte(text)) { // an object was written without, so that they stand in a value
		return fault.New(fault.Invalid, "with the values of %s in it, it holds aliases of YAML, or is not YAML any more", strings.Join(used(before), ", ")).
			WithHint("put quotes around values that hold characters of YAML")
	}
	if marks(text)-marks(before) > maxAdded {
		return fault.New(fault.Limit, "with the values of %s in it, it has more than %d parts more", strings.Join(used(before), ", "), maxAdded)
	}
	raw, err := yaml.YAMLToJSON([]byte(text))
	var fields map[string]any
	if err == nil {
		err = json.Unmarshal(raw, &fields)
	}
	if err != nil || fields == nil {
		return fault.New(fault.Invalid, "with the values of %s in it, it is not YAML any more", strings.Join(used(before), ", ")).
			WithHint("put quotes around values that hold characters of YAML")
	}
	o.Object = fields
	return nil
}

// marks counts the characters of which every part of YAML needs one.
func marks(text string) int {
	n := 0
	for _, mark := range []string{",", "[", "{", "\n"} {
		n += strings.Count(text, mark)
	}
	return n
}

var expression = regexp.MustCompile(`\$\{#?([_[:alpha:]][_[:alpha:][:digit:]]*)`)

// used names the first variables that a text asks for.
func used(text string) []string {
	const most = 5
	var names []string
	for _, m := range expression.FindAllStringSubmatch(text, 10*most) {
		if !slices.Contains(names, m[1]) && len(names) < most {
			names = append(names, m[1])
		}
	}
	return names
}
