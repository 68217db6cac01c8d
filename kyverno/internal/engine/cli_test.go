package engine

import (
	"io"
	"maps"
	"slices"
	"strings"
	"testing"

	policiesv1beta1 "github.com/kyverno/api/api/policies.kyverno.io/v1beta1"
	kyvernov1 "github.com/kyverno/kyverno/api/kyverno/v1"
	"github.com/kyverno/kyverno/cmd/cli/kubectl-kyverno/processor"
	"github.com/kyverno/kyverno/cmd/cli/kubectl-kyverno/store"
	"github.com/kyverno/kyverno/cmd/cli/kubectl-kyverno/variables"
	engineapi "github.com/kyverno/kyverno/pkg/engine/api"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/holdfastcd/holdfast/internal/policy"
)

// byCLI has the library behind Kyverno's command line judge a case, and returns what
// fails or errs: policy/rule and the object.
func byCLI(t *testing.T, documents []policy.Document, c *policy.Case) []string {
	t.Helper()
	var classics []kyvernov1.PolicyInterface
	var moderns []policiesv1beta1.ValidatingPolicyLike
	for _, d := range documents {
		items, _ := read(d)
		for i := range items {
			var into any
			switch items[i].kind {
			case "ClusterPolicy":
				p := &kyvernov1.ClusterPolicy{}
				classics, into = append(classics, p), p
			case "Policy":
				p := &kyvernov1.Policy{}
				classics, into = append(classics, p), p
			case "ValidatingPolicy":
				p := &policiesv1beta1.ValidatingPolicy{}
				moderns, into = append(moderns, p), p
			default:
				continue
			}
			if err := decode(&items[i], into); err != nil {
				t.Fatal(err)
			}
		}
	}
	s := &store.Store{}
	s.SetLocal(true)
	vars, err := variables.New(io.Discard, nil, "", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for i := range c.Subjects {
		if c.Subjects[i].Of != nil {
			continue
		}
		p := processor.PolicyProcessor{
			Store: s, Policies: classics, ValidatingPolicies: moderns, Resource: *(&unstructured.Unstructured{Object: c.Subjects[i].Object}).DeepCopy(),
			Variables: vars, NamespaceSelectorMap: c.Namespaces, Rc: &processor.ResultCounts{}, Out: io.Discard,
		}
		responses, err := p.ApplyPoliciesOnResource()
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range responses {
			for _, rule := range r.PolicyResponse.Rules {
				if rule.HasStatus(engineapi.RuleStatusFail, engineapi.RuleStatusError) {
					name := rule.Name()
					if name == "" { // a ValidatingPolicy's rules have no names
						name = "validations[" + rule.Properties()["cel.validationIndex"] + "]"
					}
					found[r.Policy().GetName()+"/"+name+" "+nameOf(c, i)] = true
				}
			}
		}
	}
	return slices.Sorted(maps.Keys(found))
}

// nameOf is how the tests call a subject.
func nameOf(c *policy.Case, i int) string {
	o := unstructured.Unstructured{Object: c.Subjects[i].Object}
	return strings.Trim(o.GetKind()+"/"+o.GetName(), "/")
}
