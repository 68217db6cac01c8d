package openapi

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const definition = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {kind: Widget, plural: widgets}
  versions:
  - name: v1
    served: true
    storage: true
    schema:
      openAPIV3Schema:
        type: object
        required: [spec]
        properties:
          spec:
            type: object
            required: [size, mode]
            properties:
              size: {type: integer, minimum: 1, maximum: 10}
              mode: {type: string, default: plain}
              small: {type: integer, format: int32}
              half: {type: number, multipleOf: 0.5}
              above: {type: number, minimum: 0, exclusiveMinimum: true}
              color: {type: string, enum: [red, green]}
              code: {type: string, pattern: '^[a-z]+$', maxLength: 5, minLength: 2}
              when: {type: string, format: date-time}
              port: {x-kubernetes-int-or-string: true}
              share: {x-kubernetes-int-or-string: true, anyOf: [{type: integer}, {type: string}], pattern: '^[0-9]+%?$'}
              maybe: {type: string, nullable: true}
              free: {type: object, x-kubernetes-preserve-unknown-fields: true, properties: {known: {type: string}}}
              any: {x-kubernetes-preserve-unknown-fields: true}
              labels: {type: object, maxProperties: 2, additionalProperties: {type: string}}
              parts: {type: array, minItems: 1, maxItems: 3, x-kubernetes-list-type: map, x-kubernetes-list-map-keys: [name], items: {type: object, required: [name], properties: {name: {type: string}, n: {type: integer}}}}
              tags: {type: array, x-kubernetes-list-type: set, items: {type: string}}
              either: {type: object, properties: {a: {type: string}, b: {type: string}}, oneOf: [{required: [a]}, {required: [b]}]}
              notx: {type: string, not: {enum: [x]}}
              both: {type: string, allOf: [{minLength: 2}, {maxLength: 3}]}
              whole: {type: object, x-kubernetes-embedded-resource: true, x-kubernetes-preserve-unknown-fields: true}
  - name: v1alpha1
    served: false
    storage: false
    schema: {openAPIV3Schema: {type: object}}
`

// custom are specs of a Widget. Of one that is wrong the API server says, among
// other things, what strict is.
var custom = []struct {
	name, spec string
	want       []string
	strict     string
}{
	{"small", `{size: 1}`, nil, ""},
	{"all", `{size: 10, mode: x, small: 1, half: 1.5, above: 0.1, color: red, code: abc, when: "2026-01-02T15:04:05Z", port: 1, share: "5%", maybe: null, free: {x: 1, known: a}, any: [1], labels: {a: b}, parts: [{name: a}], tags: [a, b], either: {a: x}, notx: z, both: ab, whole: {apiVersion: v1, kind: Pod, x: 1}}`, nil, ""},
	{"missing", `{}`, []string{`spec: missing required field "size"`}, "spec.size: Required value"},
	{"unknown", `{size: 1, colour: red}`, []string{`spec.colour: unknown field "colour"; did you mean "color"?`}, `unknown field "spec.colour"`},
	{"unknown below", `{size: 1, parts: [{name: a, m: 1}]}`, []string{`spec.parts[0].m: unknown field "m"`}, `unknown field "spec.parts[0].m"`},
	{"type", `{size: "1"}`, []string{`spec.size: invalid type: got "string", expected "integer"`}, "must be of type integer"},
	{"fraction", `{size: 1.5}`, []string{`spec.size: invalid type: got "number", expected "integer"`}, "must be of type integer"},
	{"null", `{size: 1, color: null}`, nil, ""},
	{"null that is required", `{size: null}`, []string{`spec: missing required field "size"`}, "spec.size: Required value"},
	{"null in a list", `{size: 1, tags: [null]}`, []string{`spec.tags[0]: invalid type: got "null", expected "string"`}, "must be of type string"},
	{"too small", `{size: 0}`, []string{`spec.size: invalid value 0: should be greater than or equal to 1`}, "should be greater than or equal to 1"},
	{"too large", `{size: 11}`, []string{`spec.size: invalid value 11: should be less than or equal to 10`}, "should be less than or equal to 10"},
	{"not above", `{size: 1, above: 0}`, []string{`spec.above: invalid value 0: should be greater than 0`}, "should be greater than 0"},
	{"no multiple", `{size: 1, half: 0.3}`, []string{`spec.half: invalid value 0.3: should be a multiple of 0.5`}, "should be a multiple of 0.5"},
	{"enum", `{size: 1, color: blue}`, []string{`spec.color: unsupported value "blue": supported values: "red", "green"`}, `Unsupported value: "blue"`},
	{"pattern", `{size: 1, code: A1b}`, []string{`spec.code: invalid value "A1b": should match '^[a-z]+$'`}, "should match '^[a-z]+$'"},
	{"too long", `{size: 1, code: abcdef}`, []string{`spec.code: should have at most 5 chars`}, "may not be more than 5"},
	{"too short", `{size: 1, code: a}`, []string{`spec.code: should have at least 2 chars`}, "should be at least 2 chars long"},
	{"time", `{size: 1, when: today}`, []string{`spec.when: invalid value "today": must be of type date-time`}, "must be of type date-time"},
	{"int or string", `{size: 1, port: true}`, []string{`spec.port: invalid type: got "boolean", expected "integer or string"`}, "must be of type"},
	{"pattern of int or string", `{size: 1, share: half}`, []string{`spec.share: invalid value "half": should match '^[0-9]+%?$'`}, "should match"},
	{"known in free", `{size: 1, free: {known: 1}}`, []string{`spec.free.known: invalid type: got "integer", expected "string"`}, "must be of type string"},
	{"values", `{size: 1, labels: {a: 1}}`, []string{`spec.labels["a"]: invalid type: got "integer", expected "string"`}, "must be of type string"},
	{"many values", `{size: 1, labels: {a: a, b: b, c: c}}`, []string{`spec.labels: should have at most 2 properties`}, "must have at most 2"},
	{"few items", `{size: 1, parts: []}`, []string{`spec.parts: should have at least 1 items`}, "should have at least 1 items"},
	{"many items", `{size: 1, parts: [{name: a}, {name: b}, {name: c}, {name: d}]}`, []string{`spec.parts: should have at most 3 items`}, "must have at most 3 items"},
	{"no key", `{size: 1, parts: [{n: 1}]}`, []string{`spec.parts[0]: missing required field "name"`}, "name: Required value"},
	{"same key", `{size: 1, parts: [{name: a}, {name: a, n: 1}]}`, []string{`spec.parts[1]: duplicate value: name="a"`}, "Duplicate value"},
	{"same item", `{size: 1, tags: [a, a]}`, []string{`spec.tags[1]: duplicate value: "a"`}, "Duplicate value"},
	{"neither", `{size: 1, either: {}}`, []string{`spec.either: must validate one and only one schema (oneOf)`}, "must validate one and only one schema (oneOf)"},
	{"both", `{size: 1, either: {a: x, b: z}}`, []string{`spec.either: must validate one and only one schema (oneOf)`}, "must validate one and only one schema (oneOf)"},
	{"not", `{size: 1, notx: x}`, []string{`spec.notx: must not validate the schema (not)`}, "must not validate the schema (not)"},
	{"all of", `{size: 1, both: abcd}`, []string{`spec.both: should have at most 3 chars`}, "may not be more than 3"},
	{"not whole", `{size: 1, whole: {x: 1}}`, []string{`spec.whole: missing required field "apiVersion"`, `spec.whole: missing required field "kind"`}, "whole.apiVersion: Required value"},
}

func widget(t testing.TB, spec string) map[string]any {
	t.Helper()
	return read(t, "apiVersion: example.com/v1\nkind: Widget\nmetadata: {name: a}\nspec: "+spec)[0]
}

func TestCustom(t *testing.T) {
	s, failed := schemas(t, "").With(append(read(t, definition), map[string]any{"kind": "Other"}))
	if len(failed) > 0 {
		t.Fatal(failed)
	}
	for _, tt := range custom {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, told(s.Validate(widget(t, tt.spec)))); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	o := widget(t, "{size: 1}")
	o["metadata"] = map[string]any{"name": "a", "label": "x"}
	o["apiVersion"] = "example.com/v1"
	if got := told(s.Validate(o)); len(got) != 1 || !strings.Contains(got[0], `unknown field "label"`) {
		t.Errorf("metadata is not that of every object: %v", got)
	}
	o["apiVersion"] = "example.com/v1alpha1"
	if got := told(s.Validate(o)); len(got) != 1 || !strings.Contains(got[0], "use example.com/v1") {
		t.Errorf("a version that is not served: %v", got)
	}
	if schemas(t, "").Knows("example.com/v1", "Widget") || !s.Knows("example.com/v1", "Widget") {
		t.Error("With changed the schemas that it was called on")
	}
}

func TestBadDefinitions(t *testing.T) {
	of := func(schema string) string {
		return "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: a}\nspec: {group: b, names: {kind: C}, versions: [{name: v1, schema: {openAPIV3Schema: " + schema + "}}]}"
	}
	tests := []struct{ name, definition, want string }{
		{"nothing", "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition", "spec.group"},
		{"no versions", "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nspec: {group: a, names: {kind: B}}", "spec.versions"},
		{"old", "apiVersion: apiextensions.k8s.io/v1beta1\nkind: CustomResourceDefinition\nspec: {group: a, names: {kind: B}, version: v1}", "spec.versions"},
		{"no schema", "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nspec: {group: a, names: {kind: B}, versions: [{name: v1}]}", "openAPIV3Schema is missing"},
		{"no object", of("{type: string}"), "not of type object"},
		{"no type", of("{type: object, properties: {a: {}}}"), "a: a field has no type"},
		{"bad type", of("{type: object, properties: {a: {type: text}}}"), `"text" is no type`},
		{"bad pattern", of("{type: object, properties: {a: {type: string, pattern: '('}}}"), "pattern: "},
		{"bad property", of("{type: object, properties: {a: 1}}"), "no object"},
		{"bad items", of("{type: object, properties: {a: {type: array, items: {type: x}}}}"), "items: "},
		{"bad values", of("{type: object, properties: {a: {type: object, additionalProperties: {type: x}}}}"), "additionalProperties: "},
		{"bad part", of("{type: object, properties: {a: {type: object, anyOf: [{type: x}]}}}"), "anyOf: "},
		{"deep", of(strings.Repeat("{type: array, items: ", 150) + "{type: string}" + strings.Repeat("}", 150)), "levels deep"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s, failed := schemas(t, "").With(read(t, tt.definition))
			if len(failed) != 1 || !strings.Contains(failed[0].Error(), tt.want) {
				t.Errorf("errors are %v, want one with %q", failed, tt.want)
			}
			if len(s.custom) > 0 {
				t.Errorf("there are kinds: %v", s.custom)
			}
		})
	}
}

func FuzzWith(f *testing.F) {
	for _, schema := range []string{
		"{type: object, properties: {spec: {type: object, properties: {a: {type: string, pattern: a+}}}}}",
		"{type: object, x-kubernetes-preserve-unknown-fields: true, properties: {spec: {type: array, items: {type: integer, minimum: 1}}}}",
		"{type: object, anyOf: [{required: [spec]}], not: {properties: {spec: {enum: [1]}}}}",
	} {
		f.Add("apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nspec: {group: b, names: {kind: C}, versions: [{name: v1, schema: {openAPIV3Schema: "+schema+"}}]}", "{a: b}")
	}
	f.Fuzz(func(t *testing.T, crd, spec string) {
		definition, err := yamlObject(crd)
		if err != nil {
			return
		}
		s, _ := schemas(t, "").With([]map[string]any{definition})
		body, err := yamlObject(spec)
		if err != nil {
			return
		}
		for k := range s.custom {
			s.Validate(map[string]any{"apiVersion": k.version, "kind": k.name, "metadata": map[string]any{"name": "a"}, "spec": body})
		}
	})
}
