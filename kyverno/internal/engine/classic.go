package engine

import (
	"fmt"
	"slices"
	"sync"

	kyvernov1 "github.com/kyverno/kyverno/api/kyverno/v1"
	"github.com/kyverno/kyverno/pkg/autogen"
	matchutils "github.com/kyverno/kyverno/pkg/utils/match"
	validation "github.com/kyverno/kyverno/pkg/validation/policy"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/holdfastcd/holdfast/internal/policy"
)

// annotationAutogen is how a policy says for which kinds Kyverno derives rules.
const annotationAutogen = "pod-policies.kyverno.io/autogen-controllers"

// classic is a ClusterPolicy or Policy (kyverno.io).
type classic struct {
	item   item
	policy kyvernov1.PolicyInterface // only with rules that can be judged
	lines  map[string]int            // of rules, by name
	// when are the policy's own matchConditions; nil: none.
	when *conditions
	// lenient: Kyverno admits what this policy could not be evaluated on.
	lenient bool
	// silent: Kyverno does not judge by it when objects are admitted, but reports.
	silent bool

	mu    sync.Mutex
	kinds map[schema.GroupVersionKind]*derived // as asked for
	rules map[string]*celRule
}

// derived is a policy as it is for one kind: with the rules that Kyverno derives from
// those about Pods, and without those that match other kinds.
type derived struct {
	policy kyvernov1.PolicyInterface
	rules  map[string]*kyvernov1.Rule // as they were written or derived
	cel    map[string]*celRule
	// labels: it looks at labels of namespaces beyond the name.
	labels bool
	loops  loops
}

// compileClassic reads a policy. It is nil where nothing of it can be judged.
func compileClassic(it item, maps map[string]*corev1.ConfigMap) (*classic, []policy.Flaw) {
	var p kyvernov1.PolicyInterface = &kyvernov1.ClusterPolicy{}
	if it.kind == "Policy" {
		p = &kyvernov1.Policy{}
	}
	if err := decode(&it, p); err != nil {
		return nil, []policy.Flaw{it.flaw(0, "%s", err)}
	}
	if it.kind == "Policy" && p.GetNamespace() == "" {
		return nil, []policy.Flaw{it.flaw(0, "a Policy is for its namespace, and this one names none")}
	}
	c := &classic{
		item: it, policy: p, lines: it.lines("rules"), silent: !p.AdmissionProcessingEnabled(),
		kinds: map[schema.GroupVersionKind]*derived{}, rules: map[string]*celRule{},
	}
	flaws := c.sort(maps)
	if len(p.GetSpec().Rules) == 0 {
		if len(flaws) == 0 {
			flaws = append(flaws, it.flaw(0, "it has no rule"))
		}
		return nil, flaws
	}
	if err := c.check(); err != nil {
		return nil, append(flaws, it.flaw(0, "%s", err))
	}
	return c, flaws
}

// sort takes out the rules that are not judged.
func (c *classic) sort(maps map[string]*corev1.ConfigMap) []policy.Flaw {
	var flaws []policy.Flaw
	spec := c.policy.GetSpec()
	namespace := c.policy.GetNamespace()
	spec.Rules = slices.DeleteFunc(spec.Rules, func(r kyvernov1.Rule) bool {
		why := refuse(&r, namespace, maps)
		if why != "" {
			flaws = append(flaws, c.item.flaw(c.lines[r.Name], "rule %s is not judged: %s", r.Name, why))
		}
		return why != ""
	})
	for i := range spec.Rules {
		forgetRoles(&spec.Rules[i])
	}
	return flaws
}

// check has Kyverno say whether it would take the policy, and compiles what is compiled.
func (c *classic) check() error {
	spec := c.policy.GetSpec()
	if err := checkActions(spec); err != nil {
		return err
	}
	failure := spec.FailurePolicy
	if w := spec.WebhookConfiguration; w != nil {
		if w.FailurePolicy != nil {
			failure = w.FailurePolicy
		}
		when, err := compileConditions(w.MatchConditions, c.policy.GetKind(), c.policy.GetName())
		if err != nil {
			return err
		}
		c.when = when
		spec.WebhookConfiguration = nil // judged here, where an error is told
	}
	c.lenient = failure != nil && *failure == kyvernov1.Ignore
	if _, err := validation.Validate(c.policy, nil, nil, true, "", ""); err != nil {
		return err
	}
	for _, r := range autogen.Default.ComputeRules(c.policy, "") {
		if !r.HasValidateCEL() {
			continue
		}
		compiled, err := compileCEL(&r, c.policy)
		if err != nil {
			return fmt.Errorf("rule %s: %w", r.Name, err)
		}
		c.rules[r.Name] = compiled
	}
	return nil
}

// checkActions refuses words that Kyverno would take for Audit.
func checkActions(spec *kyvernov1.Spec) error {
	check := func(a kyvernov1.ValidationFailureAction) error {
		if a != "" && !a.IsValid() {
			return fmt.Errorf("the action %q is neither Enforce nor Audit", string(a))
		}
		return nil
	}
	actions := []kyvernov1.ValidationFailureAction{spec.ValidationFailureAction}
	for _, o := range spec.ValidationFailureActionOverrides {
		actions = append(actions, o.Action)
	}
	for _, r := range spec.Rules {
		if r.Validation.FailureAction != nil {
			actions = append(actions, *r.Validation.FailureAction)
		}
		for _, o := range r.Validation.FailureActionOverrides {
			actions = append(actions, o.Action)
		}
	}
	if a := spec.ApplyRules; a != nil && *a != kyvernov1.ApplyAll && *a != kyvernov1.ApplyOne {
		return fmt.Errorf("applyRules %q is neither All nor One", string(*a))
	}
	for _, a := range actions {
		if err := check(a); err != nil {
			return err
		}
	}
	return nil
}

// of returns the policy as it is for a kind; nil if it is not for it.
func (c *classic) of(gvk schema.GroupVersionKind) *derived {
	c.mu.Lock()
	defer c.mu.Unlock()
	d, ok := c.kinds[gvk]
	if !ok {
		d = c.derive(gvk)
		c.kinds[gvk] = d
	}
	return d
}

func (c *classic) derive(gvk schema.GroupVersionKind) *derived {
	d := &derived{rules: map[string]*kyvernov1.Rule{}, cel: c.rules}
	var rules []kyvernov1.Rule
	for _, r := range autogen.Default.ComputeRules(c.policy, gvk.Kind) {
		if !mayMatch(&r.MatchResources, gvk) {
			continue
		}
		d.labels = d.labels || looksAtLabels(&r, c.policy.GetSpec())
		d.rules[r.Name] = r.DeepCopy()
		d.loops.add(d.rules[r.Name])
		rules = append(rules, standIn(r))
	}
	if len(rules) == 0 {
		return nil
	}
	d.policy = c.policy.CreateDeepCopy()
	d.policy.GetSpec().Rules = rules
	annotations := d.policy.GetAnnotations()
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations[annotationAutogen] = "none" // it is done
	d.policy.SetAnnotations(annotations)
	return d
}

// standIn is what Kyverno's engine gets for a rule. A rule in CEL becomes one that denies
// whatever it is for: Kyverno would compile the expressions for each object again, so they
// are evaluated here, compiled once. Violations that exist already are looked at here too,
// so that they are told and not skipped.
func standIn(r kyvernov1.Rule) kyvernov1.Rule {
	v := r.Validation.DeepCopy()
	no := false
	v.AllowExistingViolations = &no
	if r.HasValidateCEL() {
		v.CEL, v.Message, v.Deny = nil, "", &kyvernov1.Deny{}
		r.CELPreconditions = nil
	}
	r.Validation = v
	return r
}

// mayMatch says whether a match can be for a kind, whatever else it asks for.
func mayMatch(m *kyvernov1.MatchResources, gvk schema.GroupVersionKind) bool {
	may := func(f kyvernov1.ResourceFilter) bool {
		return len(f.Kinds) == 0 || matchutils.CheckKind(f.Kinds, gvk, "", true)
	}
	switch {
	case len(m.Any) > 0:
		return slices.ContainsFunc(m.Any, may)
	case len(m.All) > 0:
		return !slices.ContainsFunc(m.All, func(f kyvernov1.ResourceFilter) bool { return !may(f) })
	}
	return may(kyvernov1.ResourceFilter{ResourceDescription: m.ResourceDescription})
}

// looksAtLabels says whether a rule depends on labels of namespaces other than the one
// that says their name.
func looksAtLabels(r *kyvernov1.Rule, spec *kyvernov1.Spec) bool {
	var selectors []*metav1.LabelSelector
	for _, m := range []*kyvernov1.MatchResources{&r.MatchResources, r.ExcludeResources} {
		if m == nil {
			continue
		}
		selectors = append(selectors, m.NamespaceSelector)
		for _, f := range slices.Concat(m.Any, m.All) {
			selectors = append(selectors, f.NamespaceSelector)
		}
	}
	for _, o := range slices.Concat(r.Validation.FailureActionOverrides, spec.ValidationFailureActionOverrides) {
		selectors = append(selectors, o.NamespaceSelector)
	}
	return slices.ContainsFunc(selectors, beyondName)
}

// beyondName says whether a selector asks for another label than the name that the API
// server puts on every namespace.
func beyondName(s *metav1.LabelSelector) bool {
	if s == nil {
		return false
	}
	for k := range s.MatchLabels {
		if k != corev1.LabelMetadataName {
			return true
		}
	}
	return slices.ContainsFunc(s.MatchExpressions, func(r metav1.LabelSelectorRequirement) bool { return r.Key != corev1.LabelMetadataName })
}
