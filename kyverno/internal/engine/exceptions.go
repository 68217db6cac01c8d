package engine

import (
	policiesv1beta1 "github.com/kyverno/api/api/policies.kyverno.io/v1beta1"
	kyvernov1 "github.com/kyverno/kyverno/api/kyverno/v1"
	kyvernov2 "github.com/kyverno/kyverno/api/kyverno/v2"

	"github.com/holdfastcd/holdfast/internal/policy"
)

// modernException is an exception from ValidatingPolicies.
type modernException struct {
	exception *policiesv1beta1.PolicyException
}

// except takes in the exceptions that stand beside the policies; those of deliveries
// count for nothing. What is not simple is a flaw.
func (p *program) except(items []item) []policy.Flaw {
	var flaws []policy.Flaw
	for i := range items {
		it := &items[i]
		var why string
		if it.group == "kyverno.io" {
			why = p.exceptClassic(it)
		} else {
			why = p.exceptModern(it)
		}
		if why != "" {
			f := it.flaw(0, "PolicyException is not honoured: %s", why)
			f.Hint = "a PolicySet's own exceptions have an owner, a reason and a date"
			flaws = append(flaws, f)
		}
	}
	return flaws
}

func (p *program) exceptClassic(it *item) string {
	e := &kyvernov2.PolicyException{}
	if err := decode(it, e); err != nil {
		return err.Error()
	}
	if errs := e.Validate(); len(errs) > 0 {
		return errs.ToAggregate().Error()
	}
	switch {
	case e.Spec.Conditions != nil:
		return "it has conditions"
	case len(e.Spec.PodSecurity) > 0:
		return "it is for controls of podSecurity"
	}
	for _, filters := range []kyvernov1.ResourceFilters{e.Spec.Match.Any, e.Spec.Match.All} {
		for i := range filters {
			if why := notSimple(&filters[i]); why != "" {
				return why
			}
		}
	}
	p.exceptions = append(p.exceptions, e)
	return ""
}

// notSimple says what of a filter Kyverno evaluates with what only a cluster knows, or
// does not evaluate at all.
func notSimple(f *kyvernov1.ResourceFilter) string {
	switch {
	case len(f.Roles)+len(f.ClusterRoles)+len(f.Subjects) > 0:
		return "it is for certain users"
	case f.NamespaceSelector != nil:
		return "it has a namespaceSelector"
	case len(f.Operations) > 0:
		return "it is for certain operations, which Kyverno does not look at"
	}
	return ""
}

func (p *program) exceptModern(it *item) string {
	e := &policiesv1beta1.PolicyException{}
	if err := decode(it, e); err != nil {
		return err.Error()
	}
	if errs := e.Validate(); len(errs) > 0 {
		return errs.ToAggregate().Error()
	}
	switch {
	case e.Spec.ExpiresAt != nil:
		return "it has a date, and policies here have no clock"
	case e.Spec.EvaluationMode != "" && e.Spec.EvaluationMode != "Kubernetes":
		return "it is for evaluation mode " + string(e.Spec.EvaluationMode)
	}
	for _, c := range e.Spec.MatchConditions {
		if why := reaches(c.Expression); why != "" {
			return "its condition " + c.Name + " " + why
		}
	}
	p.modernOnes = append(p.modernOnes, modernException{e})
	return ""
}

// Find implements Kyverno's interface of exceptions: those for a rule of a policy.
func (p *program) Find(policyName, rule string) ([]*kyvernov2.PolicyException, error) {
	var found []*kyvernov2.PolicyException
	for _, e := range p.exceptions {
		if e.Contains(policyName, rule) {
			found = append(found, e)
		}
	}
	return found, nil
}
