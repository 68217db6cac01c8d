package rego

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/policy"
)

// templateOf returns a template of this kind with constraints, each with the rest of its spec.
func templateOf(kind, program, libs string, constraints ...string) policy.Document {
	indent := func(text string) string { return strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n      ") }
	text := "apiVersion: templates.gatekeeper.sh/v1\nkind: ConstraintTemplate\nmetadata: {name: " + strings.ToLower(kind) + "}\nspec:\n" +
		"  crd: {spec: {names: {kind: " + kind + "}, validation: {legacySchema: true}}}\n  targets:\n  - target: admission.k8s.gatekeeper.sh\n" +
		"    rego: |\n      " + indent(program) + "\n"
	if libs != "" {
		text += "    libs:\n    - |\n      " + indent(libs) + "\n"
	}
	for i, spec := range constraints {
		text += "---\napiVersion: constraints.gatekeeper.sh/v1beta1\nkind: " + kind + "\nmetadata: {name: c" + string(rune('a'+i)) + "}\nspec: " + spec + "\n"
	}
	return policy.Document{File: strings.ToLower(kind) + ".yaml", Content: []byte(text)}
}

// intricate are templates that read input and data in many ways.
func intricate() map[string][]policy.Document {
	one := func(d policy.Document) []policy.Document { return []policy.Document{d} }
	const both = "{parameters: {names: [web], count: \"1\", deep: {x: {word: z}}}}"
	return map[string][]policy.Document{
		"parameters by an import": one(templateOf("Imported", `package imported
import input.parameters
import input.parameters.deep.x
violation[{"msg": msg}] { parameters.names[_] == input.review.name; msg := sprintf("%v %v", [parameters, x.word]) }`, "", both)),
		"a lib by an import, and by its path": one(templateOf("Libs", `package libs
import data.lib.names
violation[{"msg": msg}] { names.match(input.parameters.names); data.lib.names.match(input.parameters["names"]); msg := data.lib.names.word }
violation[{"msg": msg}] { data.lib[k].word; msg := k }`, `package lib.names
word := input.parameters.deep.x.word
match(list) { list[_] == input.review.name }`, both, "{parameters: {names: [other]}}")),
		"input as a whole": one(templateOf("Whole", `package whole
violation[{"msg": msg}] { walk(input, [path, "web"]); path[0] == "parameters"; msg := sprintf("%v", [path]) }`, "", both)),
		"another input": one(templateOf("Replaced", `package replaced
violation[{"msg": msg}] { ok with input.parameters as {"count": 7}; msg := "seven" }
ok { input.parameters.count == 7 }`, "", both)),
		"the other objects": one(templateOf("Others", `package others
violation[{"msg": msg}] { data.inventory.namespace[ns][_][kind][name]; name == input.parameters.names[_]; msg := sprintf("%v/%v/%v", [ns, kind, name]) }`, "", both)),
		"what is not there": one(templateOf("Absent", `package absent
violation[{"msg": "no such parameter"}] { not input.parameters.none }
violation[{"msg": msg}] { msg := sprintf("%v", [object.get(input.parameters, "count", "none")]) }
violation[{"msg": msg}] { msg := {x | x := input.parameters[_][_]}[_] }`, "", both, "{}")),
		"an error of one that is not for it is not told": one(templateOf("Number", `package number
violation[{"msg": msg}] { to_number(input.parameters.count) > 0; msg := "more than none" }`, "",
			"{parameters: {count: \"1\"}}", "{match: {kinds: [{apiGroups: [\"\"], kinds: [Secret]}]}, parameters: {count: many}}")),
		"an error is told": one(templateOf("Number", `package number
violation[{"msg": msg}] { to_number(input.parameters.count) > 0; msg := "more than none" }`, "", "{parameters: {count: \"1\"}}", "{parameters: {count: many}}")),
		"a conflict, and others are heard": {templateOf("Clash", `package clash
violation[{"msg": msg}] { msg := name }
name = "a" { input.review.name }
name = "b" { input.parameters.count }`, "", "{}", both), templateOf("Fine", `package fine
violation[{"msg": "fine"}] { input.review.name }`, "", "{enforcementAction: warn}", "{match: {namespaces: [elsewhere]}}")},
		"equal packages and helpers": {templateOf("First", `package same
violation[{"msg": x[_]}] { true }
x[n] { n := input.parameters.names[_] }`, "", both, "{match: {name: web}, parameters: {names: [b, c]}}"), templateOf("Second", `package same
violation[{"msg": x}] { true }
x = sprintf("%v", [input.parameters]) { true }`, "", both)},
	}
}

// asEach judges a case, with the constraints together, or each by itself. It returns what
// is said, and how many were asked together.
func asEach(t *testing.T, documents []policy.Document, c *policy.Case, alone bool) (text string, joined int) {
	t.Helper()
	made, _, flaws, err := Engine{}.Compile(t.Context(), documents)
	if err != nil || made == nil {
		return told(c, policy.Findings{}, flaws), 0
	}
	p := made.(*program)
	for _, member := range p.gate.constraints {
		if !alone && member.joined() {
			joined++
		}
		if !alone {
			continue
		}
		member.rules = span{}
		if u := member.template.unit; u.sets == nil {
			if err := u.prepare(together); err != nil {
				t.Fatal(err)
			}
		}
		p.gate.selections[member.selection].sets = nil
	}
	found, err := p.Judge(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return told(c, found, flaws), joined
}

// TestJoint: constraints that are asked together say what each says by itself.
func TestJoint(t *testing.T) {
	joined := 0
	compare := func(reason string, documents []policy.Document, objects []object.Object) string {
		c := newCase(t, objects, nil)
		alone, _ := asEach(t, documents, c, true)
		both, n := asEach(t, documents, c, false)
		if joined += n; alone != both {
			t.Errorf("%s: alone, together:\n%s", reason, cmp.Diff(alone, both))
		}
		return both
	}
	objects := readObjects(t, []byte("{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}}\n---\n{apiVersion: v1, kind: ConfigMap, metadata: {name: other, namespace: shop}}\n"))
	for reason, documents := range intricate() {
		if said := compare(reason, documents, objects); !strings.Contains(said, "deny ") {
			t.Errorf("%s: nothing is found:\n%s", reason, said)
		}
	}
	files, err := filepath.Glob("testdata/gatekeeper/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		archive, err := txtar.ParseFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var documents []policy.Document
		for _, f := range archive.Files {
			switch f.Name {
			case "objects.yaml":
				objects = readObjects(t, f.Data)
			case "want", "live.yaml", "delivery.json":
			default:
				documents = append(documents, policy.Document{File: f.Name, Content: f.Data})
			}
		}
		compare(file, documents, objects)
	}
	if joined < 30 {
		t.Errorf("only %d constraints were asked together", joined)
	}
}

// TestMovable: what reads input or data as a whole stays by itself.
func TestMovable(t *testing.T) {
	for reason, documents := range intricate() {
		made, _, flaws, err := Engine{}.Compile(t.Context(), documents)
		if err != nil || len(flaws) > 0 {
			t.Fatal(reason, flaws, err)
		}
		want := reason != "input as a whole" && reason != "another input"
		for _, c := range made.(*program).gate.constraints {
			if c.joined() != want {
				t.Errorf("%s: together is %t", reason, c.joined())
			}
		}
	}
}
