package substitute_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/util/json"
	"sigs.k8s.io/yaml"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/substitute"
)

// disabled is how Flux marks objects that are left as they are.
var disabled = [2]string{"kustomize.toolkit.fluxcd.io/substitute", "disabled"}

func parse(t testing.TB, text string) object.Object {
	t.Helper()
	o := object.Object{Origin: object.Origin{File: "app/all.yaml", Line: 7}}
	raw, err := yaml.YAMLToJSON([]byte(text))
	if err == nil {
		err = json.Unmarshal(raw, &o.Object)
	}
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func data(value string) string {
	return "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, namespace: apps}\ndata: {key: " + value + "}\n"
}

func TestObjects(t *testing.T) {
	vars := map[string]string{
		"name": "web", "three": "3", "yes": "true", "empty": "", "lines": "one\ntwo\n", "path": "a/b/c", "Up": "ABC",
		"map": "{a: 1}", "quoted": `"3"`, "dots": "1.10",
	}
	tests := map[string]struct {
		reason, in string
		want       any // of data.key
		lenient    bool
	}{
		"value":              {reason: "the plain case", in: `"${name}-${name}"`, want: "web-web"},
		"number":             {reason: "without quotes in the text, a value has the type that it looks like", in: `"${three}"`, want: int64(3)},
		"boolean":            {reason: "so has a boolean", in: `"${yes}"`, want: true},
		"number in a text":   {reason: "a text around it keeps it one", in: `"v${three}"`, want: "v3"},
		"quotes in a value":  {reason: "and so do quotes in the value", in: `"${quoted}"`, want: "3"},
		"a version":          {reason: "a quirk that users of Flux quote away", in: `"${dots}"`, want: 1.1},
		"structure":          {reason: "a value may be more than a text", in: `"${map}"`, want: map[string]any{"a": int64(1)}},
		"newlines":           {reason: "newlines are taken out of values", in: `"${lines}"`, want: "onetwo"},
		"default":            {reason: "what is not set has its default", in: `"${none:=d}"`, want: "d"},
		"default of empty":   {reason: "what is empty, too", in: `"${empty:-d}"`, want: "d"},
		"nested default":     {reason: "a default may be a variable", in: `"${none:-${name}}"`, want: "web"},
		"escaped":            {reason: "two dollars are one, and stop", in: `"$${name}"`, want: "${name}"},
		"plain dollar":       {reason: "a variable without braces is none", in: `"$name costs $5"`, want: "$name costs $5"},
		"upper":              {reason: "letters", in: `"${name^^}"`, want: "WEB"},
		"lower":              {reason: "letters", in: `"${Up,,}"`, want: "abc"},
		"length":             {reason: "length", in: `"x${#name}"`, want: "x3"},
		"substring":          {reason: "part of a value", in: `"${path:2:1}"`, want: "b"},
		"prefix":             {reason: "without its beginning", in: `"${path#*/}"`, want: "b/c"},
		"suffix":             {reason: "without its end", in: `"${path%/*}"`, want: "a/b"},
		"replaced":           {reason: "one for another", in: `"${Up/B/-}"`, want: "A-C"},
		"unset, lenient":     {reason: "nothing, where that is allowed", in: `"x${none}"`, want: "x", lenient: true},
		"no object is equal": {reason: "text that has nothing to replace stays as it is", in: `"yes"`, want: "yes"},
		"offset and length":  {reason: "part of a value", in: `"x${name:1:2}"`, want: "xeb"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			out, err := substitute.Variables{Variables: vars, Disabled: disabled, Strict: !tc.lenient}.Objects([]object.Object{parse(t, data(tc.in))})
			if err != nil {
				t.Fatal(err)
			}
			values, _ := out[0].Object["data"].(map[string]any)
			if diff := cmp.Diff(tc.want, values["key"]); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tc.reason, diff)
			}
		})
	}
}

// TestValuesThatUnfold: a value is anybody's, and what it makes of an object is
// bounded before it is in memory.
func TestValuesThatUnfold(t *testing.T) {
	long := strings.Repeat("x", 100_000)
	tests := map[string]struct {
		reason, text string
		variables    map[string]string
		kind         fault.Kind
	}{
		"aliases":          {"ten thousand times a long text", "x: ${v}\n", map[string]string{"v": "{a: &a " + long + ", b: [" + strings.Repeat("*a, ", 50_000) + "]}"}, fault.Invalid},
		"by default":       {"also from the text itself", "x: '${v:=[&a [1], *a]}'\n", nil, fault.Invalid},
		"in two values":    {"neither of which holds both", "x: ['${a}', '${b}']\n", map[string]string{"a": "&a [1]", "b": "*a"}, fault.Invalid},
		"parts":            {"three bytes of text are hundreds in memory", "x: ${v}\n", map[string]string{"v": "[" + strings.Repeat("{},", 200_000) + "]"}, fault.Limit},
		"parts by a value": {"put in for each letter", "x: \"[${v//x/{},}]\"\n", map[string]string{"v": strings.Repeat("x", 200_000)}, fault.Limit},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			o := parse(t, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n"+tc.text)
			_, err := substitute.Variables{Variables: tc.variables}.Objects([]object.Object{o})
			if fault.KindOf(err) != tc.kind || err != nil && !strings.Contains(err.Error(), "app/all.yaml:7") {
				t.Errorf("%.300v, want kind %v: %s", err, tc.kind, tc.reason)
			}
		})
	}
	o := parse(t, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\ndata: {run: 'a && b *.txt ${v}'}\n")
	if _, err := (substitute.Variables{Variables: map[string]string{"v": "& *"}}).Objects([]object.Object{o}); err != nil {
		t.Errorf("the signs of aliases in a text: %v", err)
	}
}

func TestDisabled(t *testing.T) {
	for _, place := range []string{"labels", "annotations"} {
		text := strings.Replace(data(`"${name}"`), "name: a,", "name: a, "+place+": {kustomize.toolkit.fluxcd.io/substitute: Disabled},", 1)
		out, err := substitute.Variables{Variables: map[string]string{"name": "x"}, Disabled: disabled}.Objects([]object.Object{parse(t, text)})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(parse(t, text), out[0]); diff != "" {
			t.Errorf("%s (-want +got):\n%s", place, diff)
		}
	}
}

func TestErrors(t *testing.T) {
	secret := "hunter2: [}"
	long := strings.Repeat("a", 1<<20)
	vars := map[string]string{"password": secret, "long": long, "a": "aaa"}
	tests := map[string]struct {
		reason, in string
		vars       map[string]string
		kind       fault.Kind
		says       string
	}{
		"not set":        {"the variable is named", `"${nme}"`, vars, fault.Invalid, "the variable nme is not set"},
		"no expression":  {"bash's own are not all known", `"${a b}"`, vars, fault.Invalid, "not an expression"},
		"unclosed":       {"half an expression", `"${a"`, vars, fault.Invalid, "not an expression"},
		"broken by it":   {"a value that breaks the text is not shown", `"${password}"`, vars, fault.Invalid, "with the values of password in it"},
		"no object":      {"so that it is none", `"${a}"`, map[string]string{"a": "}"}, fault.Invalid, "with the values of a in it"},
		"a bad name":     {"names are those of a shell", `"x"`, map[string]string{"a-b": "x"}, fault.Invalid, `"a-b" is not the name of a variable`},
		"panic":          {"a length that no integer holds", `"${a:1:9223372036854775807}"`, vars, fault.Invalid, "not an expression"},
		"growth":         {"each letter becomes a thousand", `"${long//a/` + strings.Repeat("b", 1000) + `}"`, vars, fault.Limit, "too much"},
		"quadratic":      {"patterns take time by the square", `"${long##*b}"`, vars, fault.Limit, "too much"},
		"many":           {"there is an end to what is copied", `"` + strings.Repeat("${long}", 100) + `"`, vars, fault.Limit, "too much"},
		"too many":       {"each is a step deeper", `"` + strings.Repeat("${a}", 30_000) + `"`, vars, fault.Limit, "30000 variables"},
		"nested":         {"each level copies what is inside", `"` + strings.Repeat("${a:-", 15_000) + long[:100_000] + strings.Repeat("}", 15_000) + `"`, vars, fault.Limit, "too much"},
		"escapes":        {"each escape copies the text", `"` + strings.Repeat("$$", 100_000) + `"`, vars, fault.Limit, "escaped"},
		"escaped slash":  {"so does each in a replacement", `"${a/` + strings.Repeat(`\\/`, 100_000) + `/b}"`, vars, fault.Limit, "escaped"},
		"its own output": {"a value is not looked at again", `"${b}"`, map[string]string{"b": "$("}, 0, ""},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := substitute.Variables{Variables: tc.vars, Disabled: disabled, Strict: true}.Objects([]object.Object{parse(t, data(tc.in))})
			if tc.says == "" {
				if err != nil {
					t.Errorf("%s: %v", tc.reason, err)
				}
				return
			}
			if err == nil || fault.KindOf(err) != tc.kind || !strings.Contains(err.Error(), tc.says) {
				t.Fatalf("%s: got %.300v, want %s saying %s", tc.reason, err, tc.kind, tc.says)
			}
			if name != "a bad name" && !strings.HasPrefix(err.Error(), "app/all.yaml:7: ConfigMap/apps/a: ") {
				t.Errorf("the place is missing: %.300v", err)
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("it tells a value: %v", err)
			}
		})
	}
}

// Whatever text and value, an object or an error comes back, and no error tells the value.
func FuzzObjects(f *testing.F) {
	f.Add("${a}-${b:=c}", "v")
	f.Add("${a//b/c}${a:1:2}${a##*/}$${a}", "a/b")
	f.Add("${a:1:9223372036854775807}", "[[")
	f.Fuzz(func(t *testing.T, text, value string) {
		o := parse(t, data(`"x"`))
		o.Object["data"] = map[string]any{"key": text}
		secret := "secret-" + value
		out, err := substitute.Variables{Variables: map[string]string{"a": secret, "b": value}, Strict: true}.Objects([]object.Object{o})
		switch {
		case err != nil && strings.Contains(err.Error(), secret) && value != "":
			t.Errorf("%q tells the value: %v", text, err)
		case err == nil && out[0].Object == nil:
			t.Errorf("%q: neither object nor error", text)
		}
	})
}

func BenchmarkObjects(b *testing.B) {
	var all []object.Object
	for i := range 10 {
		all = append(all, parse(b, data(fmt.Sprintf(`"${name}-%d"`, i))))
	}
	v := substitute.Variables{Variables: map[string]string{"name": "web"}}
	for b.Loop() {
		objects := make([]object.Object, len(all))
		for i := range all {
			objects[i] = object.Object{Unstructured: *all[i].DeepCopy()}
		}
		if _, err := v.Objects(objects); err != nil {
			b.Fatal(err)
		}
	}
}
