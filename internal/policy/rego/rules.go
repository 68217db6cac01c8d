package rego

import (
	"regexp"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/holdfastcd/holdfast/internal/policy"
)

// asked are the names of rules that are asked, as conftest has them.
var asked = regexp.MustCompile(`^(deny|violation|warn)(_[a-zA-Z0-9]+)*$`)

// exception is the rule in which conftest looks for the rules that do not count.
const exception = "exception"

// rule is one thing that is asked: a definition of a partial set by itself, so that what
// it finds can name its line; or a whole rule, where its definitions belong together.
type rule struct {
	policy, name string // the package, and the rule in it
	warn         bool
	exception    bool
	file         string
	line         int
	severity     string
	reference    string

	// set: it is a definition of a set, and what it gives are messages; otherwise it gives
	// one value, from which messages are read.
	set bool
	// from are the compiled rules that it is, key and body how it is asked.
	from []*ast.Rule
	key  *ast.Term
	body ast.Body
}

// define returns the rules of compiled modules that are asked, in the order of the modules.
func define(compiler *ast.Compiler, modules []parsed) []rule {
	var rules []rule
	notes := compiler.GetAnnotationSet()
	whole := map[string]int{}
	for _, m := range modules {
		module := compiler.Modules[m.key]
		for _, r := range module.Rules {
			name, ok := askedName(r)
			if !ok {
				continue
			}
			path := module.Package.Path.Append(ast.StringTerm(name))
			if i, ok := whole[path.String()]; ok {
				rules[i].from = append(rules[i].from, r)
				continue
			}
			found := rule{
				policy: strings.TrimPrefix(module.Package.Path.String(), "data."), name: name,
				warn: strings.HasPrefix(name, "warn"), exception: name == exception,
				file: r.Location.File, line: r.Location.Row, from: []*ast.Rule{r},
			}
			found.severity, found.reference = about(notes, r)
			if len(r.Head.Ref()) == 1 && r.Head.RuleKind() == ast.MultiValue && name != exception {
				found.set, found.key, found.body = true, r.Head.Key, r.Body
			} else {
				whole[path.String()] = len(rules)
				found.key = ast.VarTerm("value")
				found.body = ast.NewBody(ast.Equality.Expr(found.key, ast.NewTerm(path)))
			}
			rules = append(rules, found)
		}
	}
	return rules
}

// askedName returns the name of a rule that is asked.
func askedName(r *ast.Rule) (string, bool) {
	ref := r.Head.Ref()
	if len(ref) == 0 || len(r.Head.Args) > 0 {
		return "", false
	}
	name, ok := ref[0].Value.(ast.Var)
	return string(name), ok && (asked.MatchString(string(name)) || name == exception)
}

// about returns severity and reference from a rule's METADATA: custom.severity, and the
// first of its related_resources; what is said nearest counts.
func about(notes *ast.AnnotationSet, r *ast.Rule) (severity, reference string) {
	if notes == nil {
		return "", ""
	}
	for _, n := range notes.Chain(r) {
		if n.Annotations == nil {
			continue
		}
		if text, ok := n.Annotations.Custom["severity"].(string); ok && severity == "" {
			severity = severityOf(text)
		}
		if more := n.Annotations.RelatedResources; len(more) > 0 && reference == "" {
			reference = more[0].Ref.String()
		}
	}
	return severity, reference
}

// severityOf returns a severity as findings have it; "" for other words.
func severityOf(text string) string {
	switch text = strings.ToLower(text); text {
	case "info", "low", "medium", "high", "critical":
		return text
	}
	return ""
}

// compilePlain compiles modules that are asked about objects and admission requests.
func compilePlain(modules []parsed, data map[string]any) ([]*unit, []policy.Flaw) {
	compiler, flaws := compile(modules)
	if len(flaws) > 0 {
		return nil, flaws
	}
	rules := define(compiler, modules)
	reach := newReach(compiler, data, "put it into a data.json or data.yaml, empty if it may be")
	units := map[shape]*unit{}
	var order []*unit
	for _, r := range rules {
		uses := reach.of(r.from)
		flaws = append(flaws, uses.flaws(r, false)...)
		if r.exception {
			continue
		}
		u := units[uses.shape()]
		if u == nil {
			u = &unit{modules: modules, data: data, shape: uses.shape()}
			units[u.shape] = u
			order = append(order, u)
		}
		u.rules = append(u.rules, r)
	}
	flaws = append(flaws, reach.unused(modules, rules)...)
	for _, u := range order {
		u.except(rules)
		if err := u.prepare(together); err != nil {
			flaws = append(flaws, policy.Flaw{File: u.rules[0].file, Line: u.rules[0].line, Message: oneLine(err.Error())})
		}
	}
	return order, flaws
}

// compile compiles modules together, as OPA does with what it is given.
func compile(modules []parsed) (*ast.Compiler, []policy.Flaw) {
	all := map[string]*ast.Module{}
	for _, m := range modules {
		all[m.key] = m.module
	}
	compiler := ast.NewCompiler().WithCapabilities(capabilities()).SetErrorLimit(mostErrors)
	if compiler.Compile(all); compiler.Failed() {
		return nil, compileFlaws(compiler.Errors)
	}
	return compiler, nil
}
