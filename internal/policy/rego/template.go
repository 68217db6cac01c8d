package rego

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/holdfastcd/holdfast/internal/policy"
)

// target is the only target that Gatekeeper has.
const target = "admission.k8s.gatekeeper.sh"

// templateSpec is the spec of a ConstraintTemplate, as far as it is judged by
// (github.com/open-policy-agent/frameworks/constraint, pkg/apis/templates/v1).
type templateSpec struct {
	CRD struct {
		Spec struct {
			Names struct {
				Kind       string   `json:"kind"`
				ShortNames []string `json:"shortNames"`
			} `json:"names"`
			Validation *struct {
				OpenAPIV3Schema json.RawMessage `json:"openAPIV3Schema"`
				LegacySchema    *bool           `json:"legacySchema"`
			} `json:"validation"`
		} `json:"spec"`
	} `json:"crd"`
	Targets []struct {
		Target     string   `json:"target"`
		Rego       string   `json:"rego"`
		Libs       []string `json:"libs"`
		Operations []string `json:"operations"`
		Code       []struct {
			Engine string         `json:"engine"`
			Source map[string]any `json:"source"`
		} `json:"code"`
	} `json:"targets"`
}

// template is a ConstraintTemplate that was compiled.
type template struct {
	manifest    manifest
	kind        string
	unit        *unit // prepared where constraints are asked each by itself
	parameters  *parameters
	operations  []string
	constraints []*constraint
}

// regoSource is the program of a template, each text with the number of lines that stand
// before it in its file.
type regoSource struct {
	version ast.RegoVersion
	main    regoText
	libs    []regoText
}

type regoText struct {
	text   string
	offset int
}

// strict decodes an object's field, and refuses by name what it does not know.
func strict(from any, into any) error {
	text, err := json.Marshal(from)
	if err != nil {
		return err
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err = d.Decode(into); err != nil {
		return errors.New(strings.ReplaceAll(oneLine(err.Error()), "json: unknown field", "there is no field"))
	}
	return nil
}

// newTemplate compiles a ConstraintTemplate.
func newTemplate(m manifest) (*template, []policy.Flaw) {
	refuse := func(format string, args ...any) (*template, []policy.Flaw) {
		return nil, []policy.Flaw{m.flaw(fmt.Sprintf(format, args...), "")}
	}
	switch m.GetAPIVersion() {
	case "templates.gatekeeper.sh/v1", "templates.gatekeeper.sh/v1beta1", "templates.gatekeeper.sh/v1alpha1":
	default:
		return refuse("apiVersion %s is not known", m.GetAPIVersion())
	}
	var spec templateSpec
	if err := strict(m.Object["spec"], &spec); err != nil {
		return refuse("its spec cannot be read: %s", err)
	}
	t := &template{manifest: m, kind: spec.CRD.Spec.Names.Kind}
	switch {
	case t.kind == "":
		return refuse("spec.crd.spec.names.kind is missing")
	case m.GetName() != strings.ToLower(t.kind):
		return refuse("its name must be %s, its kind in small letters", strings.ToLower(t.kind))
	case len(spec.Targets) != 1 || spec.Targets[0].Target != target:
		return refuse("spec.targets must have one entry, whose target is %s", target)
	}
	t.operations = spec.Targets[0].Operations
	if len(t.operations) > 0 && !t.operates("CREATE") && !t.operates("UPDATE") {
		return refuse("it matches nothing: its operations are %s, and a delivery creates and updates", strings.Join(t.operations, ", "))
	}
	source, flaw := m.source(&spec)
	if flaw != nil {
		return nil, []policy.Flaw{*flaw}
	}
	var err error
	if t.parameters, err = newParameters(&spec, m.GetAPIVersion()); err != nil {
		return refuse("spec.crd.spec.validation: %s", oneLine(err.Error()))
	}
	var flaws []policy.Flaw
	t.unit, flaws = m.compile(source, t.kind)
	if len(flaws) > 0 {
		return nil, flaws
	}
	return t, nil
}

// operates reports whether the template is for an operation.
func (t *template) operates(operation string) bool {
	return len(t.operations) == 0 || slices.Contains(t.operations, operation) || slices.Contains(t.operations, "*")
}

// source finds the program of a template: in the target itself, or among its code.
func (m manifest) source(spec *templateSpec) (regoSource, *policy.Flaw) {
	refuse := func(message, hint string) (regoSource, *policy.Flaw) {
		f := m.flaw(message, hint)
		return regoSource{}, &f
	}
	from := spec.Targets[0]
	at := []any{"spec", "targets", 0}
	s := regoSource{version: ast.RegoV0, main: regoText{from.Rego, m.offset(append(at, "rego")...)}}
	libs, version := from.Libs, ""
	var others []string
	for i, code := range from.Code {
		if code.Engine != "Rego" {
			others = append(others, code.Engine)
			continue
		}
		if from.Rego != "" {
			return refuse("its program stands twice: in rego, and in code", "")
		}
		at = []any{"spec", "targets", 0, "code", i, "source"}
		var fields struct {
			Rego, Version string
			Libs          []string
		}
		if err := strict(code.Source, &fields); err != nil {
			return refuse(fmt.Sprintf("code[%d].source cannot be read: %s", i, err), "")
		}
		s.main = regoText{fields.Rego, m.offset(append(at, "rego")...)}
		libs, version = fields.Libs, fields.Version
	}
	if s.main.text == "" && len(others) > 0 {
		return refuse("its engine "+strings.Join(others, ", ")+" is not supported; Rego is", "write the rule as a ValidatingAdmissionPolicy, or in Rego")
	}
	if s.main.text == "" {
		return refuse("it has no program in Rego", "")
	}
	switch version {
	case "", "v0":
	case "v1":
		s.version = ast.RegoV1
	default:
		return refuse(fmt.Sprintf("version %q of Rego is not known; v0 and v1 are", version), "")
	}
	for i, lib := range libs {
		s.libs = append(s.libs, regoText{lib, m.offset(append(at, "libs", i)...)})
	}
	return s, nil
}

// compile compiles the program of a template: a package with a rule violation, and
// packages below lib.
func (m manifest) compile(s regoSource, kind string) (*unit, []policy.Flaw) {
	refuse := func(message, hint string) (*unit, []policy.Flaw) {
		return nil, []policy.Flaw{m.flaw(message, hint)}
	}
	var modules []parsed
	for i, text := range append([]regoText{s.main}, s.libs...) {
		module, err := parseAs(m.file, strings.Repeat("\n", text.offset)+text.text, s.version)
		if err != nil || module == nil {
			return nil, []policy.Flaw{m.unparsed(err)}
		}
		path := module.Package.Path
		if isLib := len(path) > 1 && path[1].Equal(ast.StringTerm("lib")); i > 0 && !isLib {
			return refuse("the package of a lib must begin with lib, and "+path.String()[len("data."):]+" does not", "")
		}
		modules = append(modules, parsed{fmt.Sprintf("%s#%d", m.file, i), module})
	}
	compiler, flaws := compile(modules)
	if len(flaws) > 0 {
		return nil, flaws
	}
	u := &unit{modules: modules, data: map[string]any{}, shape: asReview}
	reach := newReach(compiler, map[string]any{"inventory": nil}, "a template sees data.inventory, and data.lib of its own libs")
	for _, r := range violations(compiler, modules[0]) {
		uses := reach.of(r.from)
		r.policy = kind
		flaws = append(flaws, uses.flaws(r, true)...)
		u.inventory = u.inventory || uses.inventory
		u.rules = append(u.rules, r)
	}
	if len(u.rules) == 0 {
		return refuse("it has no rule violation[{\"msg\": msg}]", "")
	}
	if len(flaws) > 0 {
		return nil, flaws
	}
	return u, nil
}

// violations are the rules of a template's program that are asked.
func violations(compiler *ast.Compiler, main parsed) []rule {
	return slices.DeleteFunc(define(compiler, []parsed{main}), func(r rule) bool { return r.name != "violation" || !r.set })
}

// unparsed tells of a program that is not Rego of its version.
func (m manifest) unparsed(err error) policy.Flaw {
	f := m.flaw("its program is empty", "")
	if err != nil {
		line, text := firstError(err)
		f.Line, f.Message = max(line, m.line), "it is not Rego: "+text
		f.Hint = "a program of a template is Rego v0, unless its source says version: v1"
	}
	return f
}
