package rego

import (
	"fmt"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/holdfastcd/holdfast/internal/policy"
)

// shape is what a rule is given as input.
type shape int

const (
	// asObject: the object itself.
	asObject shape = iota
	// asDelivered: the object itself, and beside its fields the delivery.
	asDelivered
	// asRequest: an AdmissionReview with the request.
	asRequest
	// asReview: what Gatekeeper gives to a template: review and parameters.
	asReview
)

// requestFields are the fields of an admission request that are known before the API
// server has been asked; with those of userInfo.
var requestFields = []string{
	"kind", "requestKind", "resource", "requestResource", "operation", "name", "namespace",
	"object", "oldObject", "userInfo", "dryRun", "options", "namespaceObject", "_unstable",
}

// reach tells what rules come to read, through all that they call.
type reach struct {
	compiler *ast.Compiler
	data     map[string]any
	hint     string          // what to do about data that is missing
	used     map[string]bool // packages, by path
}

func newReach(compiler *ast.Compiler, data map[string]any, hint string) *reach {
	return &reach{compiler, data, hint, map[string]bool{}}
}

// uses is what a rule comes to read.
type uses struct {
	review, delivery bool
	// bare: input as a whole is handed on; named: request or review occurs as a word. Both
	// together are taken for a use of input.request that cannot be followed.
	bare, named bool
	inventory   bool
	unknown     []policy.Flaw // what nothing can be behind
	request     []policy.Flaw // what is not in a request
	parameters  *policy.Flaw
	other       []policy.Flaw // what a template is not given
}

func (u *uses) shape() shape {
	switch {
	case u.review || u.bare && u.named:
		return asRequest
	case u.delivery:
		return asDelivered
	default:
		return asObject
	}
}

// flaws are the reasons for which a rule could never hold.
func (u *uses) flaws(r rule, template bool) []policy.Flaw {
	list := slices.Clone(u.unknown)
	if template || u.shape() == asRequest {
		list = append(list, u.request...)
	}
	if template {
		list = append(list, u.other...)
	}
	if !template && u.shape() == asRequest && u.parameters != nil {
		list = append(list, *u.parameters)
	}
	for i := range list {
		list[i].Policy = r.title()
	}
	return list
}

// of walks rules and all that they call.
func (r *reach) of(rules []*ast.Rule) *uses {
	u := &uses{}
	queue := slices.Clone(rules)
	seen := map[*ast.Rule]bool{}
	for len(queue) > 0 {
		next := queue[0]
		queue = queue[1:]
		if seen[next] {
			continue
		}
		seen[next] = true
		r.used[next.Module.Package.Path.String()] = true
		r.look(next, u)
		for d := range r.compiler.Graph.Dependencies(next) {
			if dependency, ok := d.(*ast.Rule); ok {
				queue = append(queue, dependency)
			}
		}
	}
	return u
}

// look notes what one rule reads.
func (r *reach) look(of *ast.Rule, u *uses) {
	var visitor *ast.GenericVisitor
	line := of.Location
	visitor = ast.NewGenericVisitor(func(x any) bool {
		switch x := x.(type) {
		case *ast.Expr:
			if x.Location != nil && x.Location.Row > 0 {
				line = x.Location
			}
		case ast.Var:
			u.bare = u.bare || x == "input"
		case ast.String:
			u.named = u.named || x == "request" || x == "review"
		case ast.Ref:
			r.ref(x, line, u)
			for _, t := range x[1:] {
				visitor.Walk(t)
			}
			return true
		}
		return false
	})
	visitor.Walk(of)
}

// ref notes what a reference reads.
func (r *reach) ref(x ast.Ref, line *ast.Location, u *uses) {
	head, ok := x[0].Value.(ast.Var)
	if !ok {
		return
	}
	words := constants(x)
	switch head {
	case "input":
		u.input(words, line)
	case "data":
		u.inventory = u.inventory || len(words) > 0 && words[0] == "inventory" || len(words) == 0
		if name := r.undefined(x, words); name != "" {
			u.unknown = addFlaw(u.unknown, line, fmt.Sprintf("nothing defines %s, so that it could never hold", name), r.hint)
		}
	}
}

func addFlaw(list []policy.Flaw, line *ast.Location, message, hint string) []policy.Flaw {
	f := policy.Flaw{Message: message, Hint: hint}
	if line != nil {
		f.File, f.Line = line.File, line.Row
	}
	if slices.Contains(list, f) {
		return list
	}
	return append(list, f)
}

// input notes which part of the input is read; words are its constant beginning.
func (u *uses) input(words []string, line *ast.Location) {
	if len(words) == 0 {
		u.bare = true
		return
	}
	if words[0] != "review" && words[0] != "parameters" {
		u.other = addFlaw(u.other, line, "a template is given input.review and input.parameters, and no input."+words[0], "")
	}
	switch words[0] {
	case "delivery":
		u.delivery = true
	case "parameters":
		if u.parameters == nil {
			u.parameters = &addFlaw(nil, line, "input.parameters is known to ConstraintTemplates only", "")[0]
		}
	case "request", "review":
		u.review = true
		if len(words) > 1 && !slices.Contains(requestFields, words[1]) {
			u.request = addFlaw(u.request, line, fmt.Sprintf("input.%s.%s is not known before the API server is asked", words[0], words[1]), "")
		}
		if len(words) > 2 && words[1] == "userInfo" && words[2] != "username" && words[2] != "groups" {
			u.request = addFlaw(u.request, line, fmt.Sprintf("input.%s.userInfo.%s is not known before the API server is asked", words[0], words[2]), "")
		}
	}
}

// constants are the words with which a reference goes on, as far as they are text.
func constants(x ast.Ref) []string {
	var words []string
	for _, t := range x[1:] {
		word, ok := t.Value.(ast.String)
		if !ok {
			break
		}
		words = append(words, string(word))
	}
	return words
}

// undefined returns what a reference to data asks for, if neither a rule nor a document
// can be there; "" otherwise.
func (r *reach) undefined(x ast.Ref, words []string) string {
	prefix := x[:len(words)+1]
	if len(words) == 0 || len(r.compiler.GetRulesForVirtualDocument(prefix)) > 0 || len(r.compiler.GetRulesWithPrefix(prefix)) > 0 {
		return ""
	}
	var here any = r.data
	for _, word := range words {
		object, ok := here.(map[string]any)
		if !ok {
			return ""
		}
		if here, ok = object[word]; !ok {
			return prefix.String()
		}
	}
	return ""
}

// unused tells of packages without a rule that is asked, which no rule that is asked
// uses: who wrote them believes that they are judged by.
func (r *reach) unused(modules []parsed, rules []rule) []policy.Flaw {
	var flaws []policy.Flaw
	own := map[string]bool{}
	for _, rule := range rules {
		if !rule.exception {
			own["data."+rule.policy] = true
		}
	}
	for _, m := range modules {
		path := m.module.Package.Path.String()
		if own[path] || r.used[path] {
			continue
		}
		own[path] = true // told once
		flaws = append(flaws, policy.Flaw{
			File: m.module.Package.Location.File, Line: m.module.Package.Location.Row, Policy: strings.TrimPrefix(path, "data."),
			Message: "the package has no rule that is asked, and no such rule uses it",
			Hint:    "rules that are asked are deny, violation and warn, and those with such a prefix, as deny_root",
		})
	}
	return flaws
}
