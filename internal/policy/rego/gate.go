package rego

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/policy"
)

// gate is all constraints of a program, in the order of their templates.
type gate struct {
	constraints []*constraint
	selections  []*selection
	// joint asks all constraints at once whose programs can stand beside each other, with
	// these parameters by their index; nil: there are none.
	joint      *unit
	parameters *ast.Term
}

// selection is which subjects constraints are for: often many are for the same.
type selection struct {
	match    *match
	template *template // for the operations
	sets     []int     // of the joint unit
}

// mostCopies is how many rules of templates the joint unit may have: each constraint has
// a copy of those of its template. Constraints beyond are asked each by itself.
const mostCopies = 3000

// newGate prepares constraints. Flaws are those of templates that cannot be asked.
func newGate(templates []*template) (gate, []policy.Flaw) {
	var g gate
	known := map[string]int{}
	for _, t := range templates {
		for _, c := range t.constraints {
			text, err := json.Marshal([]any{c.match, t.operations})
			key := string(text)
			if err != nil {
				key = strconv.Itoa(len(g.constraints)) // it is like no other
			}
			if _, ok := known[key]; !ok {
				known[key] = len(g.selections)
				g.selections = append(g.selections, &selection{match: &c.match, template: t})
			}
			c.selection = known[key]
			g.constraints = append(g.constraints, c)
		}
	}
	if err := g.join(); err != nil {
		g.joint = nil // what is wrong is told of each by itself
		for _, c := range g.constraints {
			c.rules = span{}
		}
	}
	var flaws []policy.Flaw
	for _, t := range templates {
		if !slices.ContainsFunc(t.constraints, func(c *constraint) bool { return !c.joined() }) {
			continue
		}
		if err := t.unit.prepare(together); err != nil {
			flaws = append(flaws, t.manifest.flaw(oneLine(err.Error()), ""))
			g.constraints = slices.DeleteFunc(g.constraints, func(c *constraint) bool { return c.template == t && !c.joined() })
		}
	}
	return g, flaws
}

// join makes the joint unit: each constraint has a copy of its template's program, in
// packages of its own, that reads the parameters from a place of their own. So the input
// is the same for all, and they are one query.
func (g *gate) join() error {
	u := &unit{data: map[string]any{}, shape: asReview}
	mains := map[int]parsed{}
	var parameters [][2]*ast.Term
	copies := 0
	for i, c := range g.constraints {
		modules := c.template.unit.modules
		for _, m := range modules {
			copies += len(m.module.Rules)
		}
		if copies > mostCopies || !movable(modules) {
			continue
		}
		name := own + strconv.Itoa(i)
		for k, m := range modules {
			moved, err := move(m.module, name)
			if err != nil {
				return err
			}
			copied := parsed{name + m.key, moved}
			u.modules = append(u.modules, copied)
			if k == 0 {
				mains[i] = copied
			}
		}
		parameters = append(parameters, [2]*ast.Term{ast.StringTerm(name), c.parameters})
		u.inventory = u.inventory || c.template.unit.inventory
	}
	if len(mains) == 0 {
		return nil
	}
	compiler, flaws := compile(u.modules)
	if len(flaws) > 0 {
		return fault.New(fault.Invalid, "%s", flaws[0].Message)
	}
	g.joint, g.parameters = u, ast.ObjectTerm(parameters...)
	return g.ask(compiler, mains)
}

// ask gives the joint unit its rules: those of constraints for the same subjects stand
// together. mains are the modules with the rules, by constraint.
func (g *gate) ask(compiler *ast.Compiler, mains map[int]parsed) error {
	u := g.joint
	var of []int // the selection of each rule
	for s := range g.selections {
		for i, c := range g.constraints {
			main, ok := mains[i]
			if !ok || c.selection != s {
				continue
			}
			found := violations(compiler, main)
			if len(found) != len(c.template.unit.rules) {
				return fault.New(fault.Internal, "template %s has %d rules, and its copy %d", c.template.kind, len(c.template.unit.rules), len(found))
			}
			c.rules = span{len(u.rules), len(u.rules) + len(found)}
			for k, r := range c.template.unit.rules {
				r.from, r.key, r.body = found[k].from, found[k].key, found[k].body
				u.rules = append(u.rules, r)
				of = append(of, s)
			}
		}
	}
	if err := u.prepare(func(i int) int { return of[i] }); err != nil {
		return err
	}
	for k, set := range u.sets {
		s := g.selections[of[set.from]]
		s.sets = append(s.sets, k)
	}
	return nil
}

// choice is whether a selection is for a subject, or why that cannot be told.
type choice struct {
	ok  bool
	err error
}

// choose returns what the selections choose, and the sets of the joint unit to ask.
func (g *gate) choose(c *policy.Case, s *policy.Subject) (chosen []choice, sets []int) {
	operation := "CREATE"
	if s.Old != nil {
		operation = "UPDATE"
	}
	chosen = make([]choice, len(g.selections))
	for i, sel := range g.selections {
		if !sel.template.operates(operation) {
			continue
		}
		ok, err := sel.match.matches(c, s)
		if chosen[i] = (choice{ok && err == nil, err}); chosen[i].ok {
			sets = append(sets, sel.sets...)
		}
	}
	return chosen, sets
}

// movable reports whether copies of modules can stand beside others: nothing in them looks
// at input or data as a whole, puts another input in its place, or asks for its own name.
func movable(modules []parsed) bool {
	ok := true
	for _, m := range modules {
		path := m.module.Package.Path
		ok = ok && len(path) > 1 && !path[1].Equal(ast.StringTerm("inventory")) && references(m.module, func(x ast.Ref) bool {
			word, isWord := second(x)
			switch x[0].Value.(ast.Var) { //nolint:forcetypeassert // as references gives them
			case "rego":
				return word != "metadata" // which tells the package
			case "input", "data":
				return isWord && !strings.HasPrefix(word, own)
			}
			return true
		})
	}
	return ok
}

// references calls f with all references in a module that begin with a variable, and
// reports whether it returned true for all, and input is never replaced. Input and data by
// themselves are references, too.
func references(m *ast.Module, f func(ast.Ref) bool) bool {
	ok := true
	var visitor *ast.GenericVisitor
	visitor = ast.NewGenericVisitor(func(x any) bool {
		switch x := x.(type) {
		case *ast.Head:
			for _, t := range x.Reference[min(1, len(x.Reference)):] {
				visitor.Walk(t)
			}
		case *ast.With:
			target, isRef := x.Target.Value.(ast.Ref)
			ok = ok && isRef && !target[0].Equal(ast.InputRootDocument)
		case ast.Var:
			ok = ok && f(ast.Ref{ast.NewTerm(x)})
		case ast.Ref:
			if _, isVar := x[0].Value.(ast.Var); isVar {
				ok = ok && f(x)
				x = x[1:]
			}
			for _, t := range x {
				visitor.Walk(t)
			}
			return true
		}
		return !ok
	})
	visitor.Walk(m)
	return ok
}

// second is the word with which a reference goes on after its beginning.
func second(x ast.Ref) (string, bool) {
	if len(x) < 2 {
		return "", false
	}
	word, ok := x[1].Value.(ast.String)
	return string(word), ok
}

// move returns a copy of a module whose packages begin with a name, and which finds the
// parameters under that name.
func move(m *ast.Module, name string) (*ast.Module, error) {
	m = m.Copy()
	for _, i := range m.Imports {
		if path, ok := i.Path.Value.(ast.Ref); ok && ast.RootDocumentNames.Contains(path[0]) {
			i.Alias = i.Name() // the last word of its path, which will be another
		}
	}
	var t ast.Transformer
	t = ast.NewGenericTransformer(func(x any) (any, error) {
		switch x := x.(type) {
		case ast.Ref:
			return moveRef(x, name), nil
		case *ast.SomeDecl: // which ast.Transform leaves out
			for i, symbol := range x.Symbols {
				v, err := ast.Transform(t, symbol.Value)
				if err != nil {
					return nil, err
				}
				x.Symbols[i] = &ast.Term{Value: v.(ast.Value), Location: symbol.Location} //nolint:forcetypeassert // it was a value
			}
		}
		return x, nil
	})
	if _, err := ast.Transform(t, m); err != nil {
		return nil, fmt.Errorf("moving a program: %w", err)
	}
	// What stayed where it was would be undefined, and the rule would pass.
	if !references(m, func(x ast.Ref) bool { return x.Equal(moveRef(x, name)) }) {
		return nil, fault.New(fault.Internal, "not all of a program could be moved")
	}
	return m, nil
}

// moveRef returns where a reference leads from a copy. Terms may stand in two places: one
// that was moved is left.
func moveRef(x ast.Ref, name string) ast.Ref {
	switch word, ok := second(x); {
	case !ok || strings.HasPrefix(word, own):
	case x[0].Equal(ast.InputRootDocument) && word == "parameters":
		return append(ast.Ref{x[0], ast.StringTerm(own), ast.StringTerm(name)}, x[2:]...)
	case x[0].Equal(ast.DefaultRootDocument) && word != "inventory":
		return append(ast.Ref{x[0], ast.StringTerm(name + "." + word)}, x[2:]...)
	}
	return x
}
