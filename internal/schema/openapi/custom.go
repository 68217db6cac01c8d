package openapi

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// rules are what a custom resource's schema says of a value beside its form.
type rules struct {
	nullable           bool
	enum               []any
	pattern            *regexp.Regexp
	format             string
	least, most        float64  // of a number; infinite if there is no limit
	above, below       bool     // the limits themselves are not allowed
	multiple           float64  // 0: none
	shortest, longest  int      // of a text, a list or a map; -1: none
	keys               []string // of a list whose items have keys
	set                bool     // a list whose items differ
	all, any, one, not []*node
}

// deepest is how deep a schema may be.
const deepest = 100

// errDeep is what a schema is refused with that is deeper.
var errDeep = fmt.Errorf("the schema is more than %d levels deep", deepest)

// define enters the kinds of a CustomResourceDefinition.
func (s *Schemas) define(crd map[string]any) error {
	metadata, _ := crd["metadata"].(map[string]any)
	spec, _ := crd["spec"].(map[string]any)
	names, _ := spec["names"].(map[string]any)
	group, name := text(spec, "group"), text(names, "kind")
	fail := func(err error) error {
		return fmt.Errorf("CustomResourceDefinition %s: %w", text(metadata, "name"), err)
	}
	if group == "" || name == "" {
		return fail(errors.New("spec.group or spec.names.kind is missing"))
	}
	versions, _ := spec["versions"].([]any)
	if len(versions) == 0 {
		return fail(errors.New("spec.versions is missing: there is no schema"))
	}
	var failed []error
	for _, item := range versions {
		version, _ := item.(map[string]any)
		if version["served"] == false {
			continue
		}
		n, err := s.version(version, spec)
		if err != nil {
			failed = append(failed, fail(fmt.Errorf("version %s: %w", text(version, "name"), err)))
			continue
		}
		s.custom[kind{group + "/" + text(version, "name"), name}] = n
	}
	return errors.Join(failed...)
}

// version reads the schema of one version. Kind, version and metadata are those of
// every object.
func (s *Schemas) version(version, spec map[string]any) (*node, error) {
	holder, _ := version["schema"].(map[string]any)
	schema, _ := holder["openAPIV3Schema"].(map[string]any)
	if schema == nil {
		return nil, errors.New("schema.openAPIV3Schema is missing")
	}
	n, err := structural(schema, 0)
	if err != nil {
		return nil, err
	}
	if n.form != '@' {
		return nil, errors.New("schema.openAPIV3Schema is not of type object")
	}
	if n.fields == nil {
		n.fields = map[string]*node{}
	}
	for _, name := range []string{"apiVersion", "kind"} {
		n.fields[name] = &node{form: 's'}
	}
	n.fields["metadata"] = s.metadata
	n.open = n.open || spec["preserveUnknownFields"] == true
	return n, nil
}

// structural reads a schema that says of every field what it is; one that only
// judges values is read by judging.
func structural(schema map[string]any, depth int) (*node, error) {
	n, err := judging(schema, depth)
	if err != nil {
		return nil, err
	}
	n.open = schema["x-kubernetes-preserve-unknown-fields"] == true
	if schema["x-kubernetes-embedded-resource"] == true {
		n.embed()
	}
	if n.form == 0 && !n.open && schema["x-kubernetes-int-or-string"] != true {
		return nil, errors.New("a field has no type")
	}
	return n, nil
}

// embed lets a field hold a whole object.
func (n *node) embed() {
	if n.fields == nil {
		n.fields = map[string]*node{}
	}
	for _, name := range []string{"apiVersion", "kind"} {
		n.fields[name] = &node{form: 's'}
		n.required = append(n.required, name)
	}
	if n.fields["metadata"] == nil {
		n.fields["metadata"] = &node{form: '{'}
	}
}

// formOf are the forms of JSON Schema's types.
var formOf = map[string]byte{"string": 's', "integer": 'l', "boolean": 'b', "number": 'n', "array": '[', "object": '@', "": 0}

func judging(schema map[string]any, depth int) (*node, error) {
	if depth > deepest {
		return nil, errDeep
	}
	form, known := formOf[text(schema, "type")]
	if !known {
		return nil, fmt.Errorf("%q is no type", text(schema, "type"))
	}
	n := &node{form: form}
	if schema["x-kubernetes-int-or-string"] == true {
		n.form = 'u'
	}
	if form == 'l' && schema["format"] == "int32" {
		n.form = 'i'
	}
	var err error
	if n.rules, err = readRules(schema, depth); err != nil {
		return nil, err
	}
	return n, n.parts(schema, depth)
}

// parts reads what is in an object, a map or a list. Below not, anyOf and their
// like, fields have no types.
func (n *node) parts(schema map[string]any, depth int) error {
	read := structural
	if n.form == 0 {
		read = judging
	}
	if values, ok := schema["additionalProperties"]; ok && n.form == '@' {
		n.form = '{'
		if of, ok := values.(map[string]any); ok {
			item, err := read(of, depth+1)
			if err != nil {
				return fmt.Errorf("additionalProperties: %w", err)
			}
			n.item = item
		}
	}
	if items, ok := schema["items"].(map[string]any); ok {
		item, err := read(items, depth+1)
		if err != nil {
			return fmt.Errorf("items: %w", err)
		}
		n.item = item
	}
	properties, _ := schema["properties"].(map[string]any)
	if len(properties) > 0 {
		n.fields = make(map[string]*node, len(properties))
	}
	for name, of := range properties {
		property, ok := of.(map[string]any)
		if !ok {
			return fmt.Errorf("%s: the schema is no object", name)
		}
		field, err := read(property, depth+1)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		n.fields[name] = field
	}
	n.require(schema, properties)
	return nil
}

// require reads which fields must be there. The server fills in those that have a
// default before it looks.
func (n *node) require(schema, properties map[string]any) {
	required, _ := schema["required"].([]any)
	for _, r := range required {
		name, ok := r.(string)
		property, _ := properties[name].(map[string]any)
		if _, filled := property["default"]; ok && !filled {
			n.required = append(n.required, name)
		}
	}
}

// readRules reads the rest of a schema.
func readRules(schema map[string]any, depth int) (*rules, error) {
	r := &rules{least: math.Inf(-1), most: math.Inf(1), shortest: -1, longest: -1, format: text(schema, "format")}
	_, filled := schema["default"]
	r.nullable = filled || schema["nullable"] == true || text(schema, "type") == "" && schema["x-kubernetes-int-or-string"] != true
	r.enum, _ = schema["enum"].([]any)
	if pattern := text(schema, "pattern"); pattern != "" {
		compiled, err := regexp.Compile(pattern)
		if err != nil {
			return nil, fmt.Errorf("pattern: %w", err)
		}
		r.pattern = compiled
	}
	r.limits(schema)
	r.set = schema["x-kubernetes-list-type"] == "set"
	keys, _ := schema["x-kubernetes-list-map-keys"].([]any)
	for _, key := range keys {
		if name, ok := key.(string); ok {
			r.keys = append(r.keys, name)
		}
	}
	for name, into := range map[string]*[]*node{"allOf": &r.all, "anyOf": &r.any, "oneOf": &r.one, "not": &r.not} {
		list, isList := schema[name].([]any)
		if one, isOne := schema[name].(map[string]any); isOne && !isList {
			list = []any{one}
		}
		for _, item := range list {
			sub, _ := item.(map[string]any)
			n, err := judging(sub, depth+1)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			n.open = true
			*into = append(*into, n)
		}
	}
	return r, nil
}

// limits reads the numbers.
func (r *rules) limits(schema map[string]any) {
	for name, into := range map[string]*float64{"minimum": &r.least, "maximum": &r.most, "multipleOf": &r.multiple} {
		if f, ok := number(schema[name]); ok {
			*into = f
		}
	}
	r.above, r.below = schema["exclusiveMinimum"] == true, schema["exclusiveMaximum"] == true
	for _, of := range []string{"Length", "Items", "Properties"} {
		if f, ok := number(schema["min"+of]); ok {
			r.shortest = int(f)
		}
		if f, ok := number(schema["max"+of]); ok {
			r.longest = int(f)
		}
	}
}

// rule judges a value of the right form.
func (v *validation) rule(n *node, x any, at *place) {
	r := n.rules
	if len(r.enum) > 0 && !contains(r.enum, x) {
		v.tellf(at, "unsupported value %s: supported values: %s", printed(x), printedAll(r.enum))
	}
	switch x := x.(type) {
	case string:
		v.textRule(r, x, at)
	case []any:
		v.size(r, len(x), "items", at)
		v.distinct(r, x, at)
	case map[string]any:
		v.size(r, len(x), "properties", at)
	default:
		if f, ok := number(x); ok {
			v.numberRule(r, f, at)
		}
	}
	v.combined(r, x, at)
}

func (v *validation) textRule(r *rules, x string, at *place) {
	v.size(r, utf8.RuneCountInString(x), "chars", at)
	if r.pattern != nil && !r.pattern.MatchString(x) {
		v.tellf(at, "invalid value %s: should match '%s'", printed(x), r.pattern)
	}
	if r.format == "date-time" {
		if _, err := time.Parse(time.RFC3339, x); err != nil {
			v.tellf(at, "invalid value %s: must be of type date-time", printed(x))
		}
	}
}

func (v *validation) numberRule(r *rules, f float64, at *place) {
	switch {
	case f < r.least || r.above && f == r.least:
		v.tellf(at, "invalid value %v: should be greater than%s %v", f, orEqual(r.above), r.least)
	case f > r.most || r.below && f == r.most:
		v.tellf(at, "invalid value %v: should be less than%s %v", f, orEqual(r.below), r.most)
	case r.multiple > 0 && math.Mod(f, r.multiple) != 0:
		v.tellf(at, "invalid value %v: should be a multiple of %v", f, r.multiple)
	}
}

func orEqual(exclusive bool) string {
	if exclusive {
		return ""
	}
	return " or equal to"
}

func (v *validation) size(r *rules, size int, of string, at *place) {
	if r.shortest >= 0 && size < r.shortest {
		v.tellf(at, "should have at least %d %s", r.shortest, of)
	}
	if r.longest >= 0 && size > r.longest {
		v.tellf(at, "should have at most %d %s", r.longest, of)
	}
}

// distinct judges that the items of a list that has keys, or is a set, differ.
func (v *validation) distinct(r *rules, items []any, at *place) {
	if len(r.keys) == 0 && !r.set {
		return
	}
	seen := map[string]bool{}
	for i, item := range items {
		key := whole(item)
		if len(r.keys) > 0 {
			o, _ := item.(map[string]any)
			var parts []string
			for _, name := range r.keys {
				parts = append(parts, name+"="+whole(o[name]))
			}
			key = strings.Join(parts, ",")
		}
		if seen[key] {
			v.tellf(&place{up: at, index: i}, "duplicate value: %.100s", key)
		}
		seen[key] = true
	}
}

// combined judges allOf, anyOf, oneOf and not.
func (v *validation) combined(r *rules, x any, at *place) {
	for _, n := range r.all {
		v.value(n, x, at)
	}
	if len(r.any) > 0 && fitting(r.any, x) == 0 {
		v.tellf(at, "must validate at least one schema (anyOf)")
	}
	if len(r.one) > 0 && fitting(r.one, x) != 1 {
		v.tellf(at, "must validate one and only one schema (oneOf)")
	}
	if fitting(r.not, x) > 0 {
		v.tellf(at, "must not validate the schema (not)")
	}
}

func fitting(nodes []*node, x any) int {
	count := 0
	for _, n := range nodes {
		var v validation
		if v.value(n, x, nil); len(v.problems) == 0 {
			count++
		}
	}
	return count
}

// contains says whether a value is one of several. Numbers are compared by value.
func contains(all []any, x any) bool {
	f, isNumber := number(x)
	for _, a := range all {
		if g, ok := number(a); ok && isNumber && f == g || reflect.DeepEqual(a, x) {
			return true
		}
	}
	return false
}

func printedAll(values []any) string {
	all := make([]string, len(values))
	for i, value := range values {
		all[i] = printed(value)
	}
	return strings.Join(all, ", ")
}

// whole writes a value as JSON, to be compared.
func whole(x any) string {
	data, err := json.Marshal(x)
	if err != nil {
		return fmt.Sprint(x)
	}
	return string(data)
}

// printed writes a value as JSON, as far as a message can take it.
func printed(x any) string {
	shown := whole(x)
	if text, ok := x.(string); ok {
		shown = strconv.Quote(text)
	}
	if len(shown) > 100 {
		return strings.ToValidUTF8(shown[:97], "") + "..."
	}
	return shown
}
