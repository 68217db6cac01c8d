package builtin

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"path"
	"reflect"
	"slices"
	"strings"

	"github.com/holdfastcd/holdfast/internal/nearest"
	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/policy"
)

// exempt are parameters that every policy has.
type exempt struct {
	ExemptNamespaces []string `doc:"namespaces that are not judged; globs" json:"exemptNamespaces"`
}

// check says what is wrong with exemptions. One that exempts everything is wrong: the
// policy could match nothing.
func (e exempt) check() error {
	for _, glob := range e.ExemptNamespaces {
		if strings.Trim(glob, "*") == "" {
			return fmt.Errorf("exemptNamespaces: %q exempts everything: take the policy away instead", glob)
		}
	}
	return checkGlobs("exemptNamespaces", e.ExemptNamespaces)
}

func (e exempt) covers(namespace string) bool { return anyGlob(e.ExemptNamespaces, namespace) }

// exemptImages are parameters of policies about images.
type exemptImages struct {
	ExemptImages []string `doc:"images that are not judged; patterns such as registry.example.org/team/**" json:"exemptImages"`
}

func (e exemptImages) check() error {
	if slices.Contains(e.ExemptImages, "**") {
		return errors.New(`exemptImages: "**" exempts everything: take the policy away instead`)
	}
	return checkImagePatterns("exemptImages", e.ExemptImages)
}

// has reports whether an image is exempt. What cannot be read is not.
func (e exemptImages) has(image string) bool {
	n, err := object.ParseImage(image)
	return err == nil && len(e.ExemptImages) > 0 && object.Concerns(e.ExemptImages, n)
}

func checkImagePatterns(name string, patterns []string) error {
	for _, p := range patterns {
		if _, err := object.ParseImagePattern(p); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

func checkGlobs(name string, globs []string) error {
	for _, g := range globs {
		if _, err := path.Match(g, ""); err != nil || g == "" {
			return fmt.Errorf("%s: %q is not a glob", name, g)
		}
	}
	return nil
}

func anyGlob(globs []string, value string) bool {
	return slices.ContainsFunc(globs, func(g string) bool { return policy.Glob(g, value) })
}

// oneOf says which of the words of a parameter is none that it knows.
func oneOf(name string, words []string, known ...string) error {
	for _, w := range words {
		if !slices.Contains(known, w) {
			return fmt.Errorf("%s: %q is not known: %s are", name, w, strings.Join(known, ", "))
		}
	}
	return nil
}

// define describes a policy whose parameters are P: a struct whose fields have names in
// json tags and their meaning in doc tags. compile gets them with what is given in place
// of the defaults; its error is about them, and becomes a flaw.
func define[P any](about About, defaults func() P, compile func(P) (judge, error)) definition {
	about.Parameters = describe(reflect.ValueOf(defaults()))
	return definition{about: about, compile: func(raw []byte, about About) (judge, []policy.Flaw) {
		p := defaults()
		if flaws := decode(raw, about, &p); len(flaws) > 0 {
			return nil, flaws
		}
		judged, err := compile(p)
		return judged, flawsOf(err, about)
	}}
}

// flawsOf makes a flaw of each error that was joined.
func flawsOf(err error, about About) []policy.Flaw {
	if err == nil {
		return nil
	}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var flaws []policy.Flaw
		for _, e := range joined.Unwrap() {
			flaws = append(flaws, flawsOf(e, about)...)
		}
		return flaws
	}
	return []policy.Flaw{{Policy: about.Name, Message: "parameters." + err.Error()}}
}

// describe reads the parameters of a policy off their type and defaults.
func describe(v reflect.Value) []Parameter {
	var list []Parameter
	for i := range v.NumField() {
		field := v.Type().Field(i)
		if field.Anonymous {
			list = append(list, describe(v.Field(i))...)
			continue
		}
		p := Parameter{Name: field.Tag.Get("json"), Summary: field.Tag.Get("doc")}
		switch field.Type.Kind() {
		case reflect.Slice:
			p.Type = "list of strings"
		case reflect.Map:
			p.Type = "map of strings"
		case reflect.Bool:
			p.Type = "boolean"
		default:
			p.Type = "string"
		}
		if !v.Field(i).IsZero() {
			value, _ := json.Marshal(v.Field(i).Interface()) //nolint:errchkjson // strings, booleans, and lists and maps of them
			p.Default = string(value)
		}
		list = append(list, p)
	}
	return list
}

// decode reads parameters strictly: whatever is not known is a flaw, by its name.
func decode(raw []byte, about About, into any) []policy.Flaw {
	if len(bytes.TrimSpace(raw)) == 0 {
		return nil
	}
	var given map[string]json.RawMessage
	if err := json.Unmarshal(raw, &given); err != nil {
		return []policy.Flaw{{Policy: about.Name, Message: "parameters are not an object"}}
	}
	names := make([]string, len(about.Parameters))
	for i, p := range about.Parameters {
		names[i] = p.Name
	}
	var flaws []policy.Flaw
	for name, value := range given {
		at := slices.Index(names, name)
		if at < 0 {
			hint := "those that are: " + strings.Join(names, ", ")
			if near := meant(name, names); len(near) > 0 {
				hint = "did you mean " + strings.Join(near, " or ") + "?"
			}
			flaws = append(flaws, policy.Flaw{Policy: about.Name, Message: fmt.Sprintf("parameters.%s is not known", name), Hint: hint})
			continue
		}
		one, _ := json.Marshal(map[string]json.RawMessage{name: value}) //nolint:errchkjson // it was JSON
		if empty(value) || json.Unmarshal(one, into) != nil {
			flaws = append(flaws, policy.Flaw{Policy: about.Name, Message: fmt.Sprintf("parameters.%s is not a %s", name, about.Parameters[at].Type)})
		}
	}
	slices.SortFunc(flaws, func(a, b policy.Flaw) int { return strings.Compare(a.Message, b.Message) })
	return flaws
}

// empty reports whether a value is null, or a list or map that holds one: nothing that
// anybody means.
func empty(value json.RawMessage) bool {
	var list []json.RawMessage
	var object map[string]json.RawMessage
	if json.Unmarshal(value, &list) != nil {
		list = nil
	}
	if json.Unmarshal(value, &object) == nil {
		list = slices.AppendSeq(list, maps.Values(object))
	}
	return bytes.Equal(bytes.TrimSpace(value), []byte("null")) || slices.ContainsFunc(list, empty)
}

// meant returns the names that differ from one that is not known by a slip: at most
// three of them.
func meant(name string, names []string) []string {
	const most = 3
	if len(name) > nearest.Longest {
		return nil
	}
	var near []string
	for _, n := range names {
		far := 1 + max(2, len(n)/3)
		if nearest.Distance(strings.ToLower(name), strings.ToLower(n), far) < far || len(name) > most && strings.Contains(n, name) {
			near = append(near, n)
		}
	}
	slices.SortStableFunc(near, func(a, b string) int {
		return nearest.Distance(name, a, math.MaxInt) - nearest.Distance(name, b, math.MaxInt)
	})
	return near[:min(len(near), most)]
}
