// Package builtin holds Holdfast's own policies: each is switched on by its name, takes
// parameters, and says where its reasons are written down. They judge the objects of a
// delivery before they are applied, and know nothing of a cluster but what the case says.
package builtin

import (
	"context"
	"slices"
	"strings"

	"github.com/holdfastcd/holdfast/internal/policy"
)

// About describes one policy.
type About struct {
	Name    string `json:"name"`
	Summary string `json:"summary"`
	// Reference is an address that explains why.
	Reference string `json:"reference"`
	// Severity is that of its findings: info, low, medium, high or critical.
	Severity   string      `json:"severity"`
	Parameters []Parameter `json:"parameters"`
}

// Parameter describes one parameter of a policy.
type Parameter struct {
	Name    string `json:"name"`
	Type    string `json:"type"`    // string, boolean, list of strings, map of strings
	Default string `json:"default"` // as JSON; "" for none
	Summary string `json:"summary"`
}

// definition is a policy before its parameters are known.
type definition struct {
	about   About
	compile func(raw []byte, about About) (judge, []policy.Flaw)
}

// judge looks at a case and reports what a policy finds.
type judge func(v *view, r *reporter)

// definitions are all policies, in the order in which they are listed.
func definitions() []definition {
	return slices.Concat(standards(), images(), containers(), network(), access(), objects())
}

// Names returns the policies that there are.
func Names() []About {
	all := definitions()
	list := make([]About, len(all))
	for i, d := range all {
		list[i] = d.about
	}
	return list
}

// program is policies with their parameters.
type program struct {
	rules []rule
}

type rule struct {
	about About
	judge judge
}

// Compile makes a program of the policies that are switched on; nil if none can be. A
// name that is not known, one that is given twice, and parameters that cannot be used are
// flaws, which tell the names that are.
func Compile(switched []policy.Builtin) (policy.Program, []policy.Flaw) {
	all := definitions()
	p := &program{}
	var flaws []policy.Flaw
	for i, b := range switched {
		at := slices.IndexFunc(all, func(d definition) bool { return d.about.Name == b.Name })
		if at < 0 {
			flaws = append(flaws, unknown(b.Name, all))
			continue
		}
		if slices.ContainsFunc(switched[:i], func(other policy.Builtin) bool { return other.Name == b.Name }) {
			flaws = append(flaws, policy.Flaw{Policy: b.Name, Message: "this policy is switched on twice", Hint: "keep one, or put the other into a PolicySet of its own"})
			continue
		}
		d := all[at]
		judged, wrong := d.compile(b.Parameters, d.about)
		flaws = append(flaws, wrong...)
		if judged != nil && len(wrong) == 0 {
			p.rules = append(p.rules, rule{d.about, judged})
		}
	}
	if len(p.rules) == 0 {
		return nil, flaws
	}
	return p, flaws
}

func unknown(name string, all []definition) policy.Flaw {
	names := make([]string, len(all))
	for i, d := range all {
		names[i] = d.about.Name
	}
	near := meant(name, names)
	hint := "those that are: " + strings.Join(names, ", ")
	if len(near) > 0 {
		hint = "did you mean " + strings.Join(near, " or ") + "?"
	}
	return policy.Flaw{Policy: name, Message: "there is no built-in policy of this name", Hint: hint}
}

// Judge implements [policy.Program]. Objects that cannot be read as their kind are flaws;
// errors are those of ctx.
func (p *program) Judge(ctx context.Context, c *policy.Case) (policy.Findings, error) {
	found := policy.Findings{Judged: map[string]int{}}
	v := newView(c)
	for i := range p.rules {
		if err := ctx.Err(); err != nil {
			return policy.Findings{}, err
		}
		r := &reporter{about: &p.rules[i].about, found: &found, view: v}
		p.rules[i].judge(v, r)
	}
	found.Flaws = append(found.Flaws, v.flaws...)
	return found, nil
}
