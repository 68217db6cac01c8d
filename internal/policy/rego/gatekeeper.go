package rego

import (
	"fmt"
	"slices"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/holdfastcd/holdfast/internal/policy"
)

// gatekeeper reads ConstraintTemplates and their constraints.
func (s *sources) gatekeeper(all []policy.Document) (gate, []policy.Flaw) {
	var templates, constraints []manifest
	var flaws []policy.Flaw
	for i, d := range all {
		if s.claimed[i] || !isGatekeepers(d) {
			continue
		}
		found, bad := readManifests(d)
		s.claimed[i] = len(found)+len(bad) > 0
		flaws = append(flaws, bad...)
		for _, m := range found {
			switch group := m.GroupVersionKind().Group; {
			case group == "templates.gatekeeper.sh" && m.GetKind() == "ConstraintTemplate":
				templates = append(templates, m)
			case group == "constraints.gatekeeper.sh":
				constraints = append(constraints, m)
			case group == "syncset.gatekeeper.sh": // data.inventory has all objects of the delivery
			default:
				flaws = append(flaws, m.flaw(fmt.Sprintf("kind %s of %s is not supported", m.GetKind(), group), "ConstraintTemplates and their constraints are"))
			}
		}
	}
	order, bad := join(templates, constraints)
	flaws = append(flaws, bad...)
	g, bad := newGate(order)
	return g, append(flaws, bad...)
}

// join compiles templates, and gives each its constraints. One without the other can
// match nothing.
func join(templates, constraints []manifest) ([]*template, []policy.Flaw) {
	var flaws []policy.Flaw
	var order []*template
	kinds := map[string]*template{} // nil for those that do not compile
	for _, m := range templates {
		t, bad := newTemplate(m)
		flaws = append(flaws, bad...)
		if t == nil {
			kind, _, _ := unstructured.NestedString(m.Object, "spec", "crd", "spec", "names", "kind")
			kinds[kind] = nil
			continue
		}
		if _, twice := kinds[t.kind]; twice {
			flaws = append(flaws, m.flaw("there is another template of kind "+t.kind, ""))
			continue
		}
		kinds[t.kind] = t
		order = append(order, t)
	}
	for _, m := range constraints {
		t, known := kinds[m.GetKind()]
		if !known {
			flaws = append(flaws, m.flaw("it can match nothing: there is no ConstraintTemplate of kind "+m.GetKind(), "put the template into the same set"))
		}
		if t == nil {
			continue
		}
		if flaw := t.use(m); flaw != nil {
			flaws = append(flaws, *flaw)
		}
	}
	for _, t := range order {
		if !slices.ContainsFunc(constraints, func(m manifest) bool { return m.GetKind() == t.kind }) {
			flaws = append(flaws, t.manifest.flaw("it can match nothing: there is no constraint of kind "+t.kind, "put a constraint into the same set"))
		}
	}
	return order, flaws
}

// use adds a constraint to its template.
func (t *template) use(m manifest) *policy.Flaw {
	c, err := newConstraint(m, t)
	if err == nil && slices.ContainsFunc(t.constraints, func(o *constraint) bool { return o.name == c.name }) {
		err = fmt.Errorf("there is another constraint %s of this kind", c.name)
	}
	if err != nil {
		f := m.flaw(err.Error(), "")
		return &f
	}
	t.constraints = append(t.constraints, &c)
	return nil
}

// constraints puts a subject before the constraints that are for it.
func (r *run) constraints(env environment, i int, in *inputs, judged map[string]int) error {
	g := &r.program.gate
	if len(g.constraints) == 0 {
		return nil
	}
	chosen, sets := g.choose(r.c, in.subject)
	var said reply
	if len(sets) > 0 {
		review, err := in.theRequest()
		if err != nil {
			return err
		}
		input := ast.ObjectTerm(in.pair("review", review), in.pair(own, g.parameters))
		if said, err = r.ask(env, i, g.joint, input, sets); err != nil {
			return err
		}
	}
	for _, c := range g.constraints {
		switch choice := chosen[c.selection]; {
		case choice.err != nil:
			f := c.manifest.flaw(fmt.Sprintf("it cannot be evaluated on %s: %s", nameOf(in.subject), choice.err), "")
			r.found[i].flaws = append(r.found[i].flaws, f)
			continue
		case !choice.ok:
			continue
		}
		judged[c.template.kind]++
		if c.joined() {
			r.tell(i, g.joint, said, c.rules, c.finding)
		} else if err := r.alone(env, i, in, c); err != nil {
			return err
		}
	}
	return nil
}

// alone puts a subject before one constraint.
func (r *run) alone(env environment, i int, in *inputs, c *constraint) error {
	review, err := in.theRequest()
	if err != nil {
		return err
	}
	u := c.template.unit
	input := ast.ObjectTerm(in.pair("review", review), in.pair("parameters", c.parameters))
	said, err := r.ask(env, i, u, input, nil)
	if err == nil {
		r.tell(i, u, said, span{0, len(u.rules)}, c.finding)
	}
	return err
}

// finding is that of a constraint: the template is the policy, and it the rule.
func (c *constraint) finding(_ *rule, f policy.Finding) policy.Finding {
	f.Policy, f.Rule, f.Warn = c.template.kind, c.name, c.warn
	return f
}

// inventory stores the objects of a case where templates look for the other objects of
// the cluster; nil if none does.
func (p *program) inventory(c *policy.Case) (storage.Store, error) {
	if !slices.ContainsFunc(p.gate.constraints, func(c *constraint) bool { return c.template.unit.inventory }) {
		return nil, nil //nolint:nilnil // nobody asks for it
	}
	tree := map[string]any{"namespace": map[string]any{}, "cluster": map[string]any{}}
	for i := range c.Subjects {
		s := &c.Subjects[i]
		if s.Of != nil {
			continue
		}
		o := unstructured.Unstructured{Object: s.Object}
		path := []string{"cluster", o.GetAPIVersion(), o.GetKind()}
		if namespace := o.GetNamespace(); namespace != "" {
			path = []string{"namespace", namespace, o.GetAPIVersion(), o.GetKind()}
		}
		at := tree
		for _, word := range path {
			next, ok := at[word].(map[string]any)
			if !ok {
				next = map[string]any{}
				at[word] = next
			}
			at = next
		}
		at[o.GetName()] = s.Object
	}
	t, err := newConverter().object(map[string]any{"inventory": tree}, 0)
	if err != nil {
		return nil, err
	}
	return inmem.NewFromASTObject(t.Value.(ast.Object)), nil //nolint:forcetypeassert // a map becomes an object
}
