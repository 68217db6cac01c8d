package cel

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"

	admission "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	kjson "sigs.k8s.io/json"

	"github.com/holdfastcd/holdfast/internal/policy"
)

// The API group, and its kinds that are read here.
const (
	group       = "admissionregistration.k8s.io"
	kindPolicy  = "ValidatingAdmissionPolicy"
	kindBinding = "ValidatingAdmissionPolicyBinding"
)

// versions of the group whose policies have the fields of v1.
var versions = []string{group + "/v1", group + "/v1beta1"}

// checker gathers what is wrong with one manifest. What it demands is what the API
// server demands of such an object before it stores it:
// https://kubernetes.io/docs/reference/kubernetes-api/policy-resources/validating-admission-policy-v1/
type checker struct {
	manifest

	flaws []policy.Flaw
}

func (c *checker) add(message string, way ...any) { c.flaws = append(c.flaws, c.flaw(message, way...)) }

// demand adds a flaw unless a condition holds, and returns the condition.
func (c *checker) demand(holds bool, message string, way ...any) bool {
	if !holds {
		c.add(message, way...)
	}
	return holds
}

// typed reads the manifest into a type of the API, strictly.
func (c *checker) typed(into any) bool {
	text, err := json.Marshal(c.value)
	if err != nil {
		c.add("it cannot be read: " + plain(err))
		return false
	}
	strict, err := kjson.UnmarshalStrict(text, into, kjson.DisallowUnknownFields)
	if err != nil {
		var way []any
		if found := mistyped.FindStringSubmatch(err.Error()); found != nil {
			way = steps(found[1])
		}
		c.add("it cannot be read: "+strings.TrimPrefix(plain(err), "json: "), way...)
	}
	for _, err := range strict {
		var way []any
		if f, ok := err.(kjson.FieldError); ok { //nolint:errorlint // the library returns them unwrapped, and wraps none
			way = steps(f.FieldPath())
		}
		c.add(plain(err), way...)
	}
	if name := c.text("metadata", "name"); name == "" {
		c.add("it has no name", "metadata")
	}
	return len(c.flaws) == 0
}

// mistyped finds the field in the error that a value is of the wrong type; the indexes
// of lists are not in it.
var mistyped = regexp.MustCompile(`Go struct field \w+\.(\S+) of type`)

var step = regexp.MustCompile(`[^.\[\]]+|\[\d+\]`)

// steps turns spec.variables[0].name into a path.
func steps(text string) []any {
	var way []any
	for _, s := range step.FindAllString(text, -1) {
		var i int
		if n, err := fmt.Sscanf(s, "[%d]", &i); n == 1 && err == nil {
			way = append(way, i)
			continue
		}
		way = append(way, s)
	}
	return way
}

// policySpec checks what is not an expression.
func (c *checker) policySpec(s *admission.ValidatingAdmissionPolicySpec) {
	c.oneOf(deref(s.FailurePolicy), []string{"", "Fail", "Ignore"}, "spec", "failurePolicy")
	if s.ParamKind != nil {
		c.demand(s.ParamKind.APIVersion != "" && s.ParamKind.Kind != "" && strings.Count(s.ParamKind.APIVersion, "/") < 2,
			"spec.paramKind must have an apiVersion and a kind", "spec", "paramKind")
		c.demand(s.ParamKind.APIVersion != "v1" || s.ParamKind.Kind != "Secret",
			"its parameters are Secrets, and no policy is given what a Secret holds; keep them in ConfigMaps", "spec", "paramKind")
	}
	if c.demand(s.MatchConstraints != nil && len(s.MatchConstraints.ResourceRules) > 0,
		"spec.matchConstraints.resourceRules must hold a rule: without one it is for nothing", "spec", "matchConstraints") {
		c.match(s.MatchConstraints, "spec", "matchConstraints")
		c.demand(slices.ContainsFunc(s.MatchConstraints.ResourceRules, possible),
			"it can match nothing that is delivered: none of its rules is for CREATE or UPDATE of a whole resource",
			"spec", "matchConstraints", "resourceRules")
	}
	c.demand(len(s.Validations) > 0 || len(s.AuditAnnotations) > 0, "spec.validations must hold an expression", "spec")
	c.demand(len(s.MatchConditions) <= 64, "spec.matchConditions must not hold more than 64 conditions", "spec", "matchConditions")
	c.names(len(s.MatchConditions), func(i int) string { return s.MatchConditions[i].Name }, "spec", "matchConditions")
	c.names(len(s.Variables), func(i int) string { return s.Variables[i].Name }, "spec", "variables")
	for i, v := range s.Variables {
		c.demand(identifier.MatchString(v.Name), fmt.Sprintf("the variable %q is no name that an expression could use", v.Name), "spec", "variables", i)
	}
	for i, v := range s.Validations {
		message := strings.TrimSpace(v.Message)
		c.demand(v.Message == "" || message != "" && !strings.ContainsAny(message, "\r\n"),
			"message must be one line of text", "spec", "validations", i, "message")
		c.oneOf(deref(v.Reason), []string{"", "Unauthorized", "Forbidden", "Invalid", "RequestEntityTooLarge"}, "spec", "validations", i, "reason")
	}
}

var identifier = regexp.MustCompile(`^[_a-zA-Z][_a-zA-Z0-9]*$`)

func deref[T ~string](p *T) string {
	if p == nil {
		return ""
	}
	return string(*p)
}

func (c *checker) oneOf(value string, known []string, way ...any) {
	if slices.Contains(known, value) {
		return
	}
	field := way[len(way)-1]
	if _, index := field.(int); index {
		field = way[len(way)-2]
	}
	named := slices.DeleteFunc(slices.Clone(known), func(s string) bool { return s == "" })
	c.add(fmt.Sprintf("%v must be one of %s, not %q", field, strings.Join(named, ", "), value), way...)
}

// names demands that each of a list has a name of its own.
func (c *checker) names(n int, name func(int) string, way ...any) {
	seen := map[string]bool{}
	for i := range n {
		at := slices.Concat(way, []any{i})
		c.demand(name(i) != "", fmt.Sprintf("%v has an item without a name", way[len(way)-1]), at...)
		c.demand(!seen[name(i)] || name(i) == "", fmt.Sprintf("%v has two items with the name %q", way[len(way)-1], name(i)), at...)
		seen[name(i)] = true
	}
}

// bindingSpec checks a binding by itself.
func (c *checker) bindingSpec(s *admission.ValidatingAdmissionPolicyBindingSpec) {
	c.demand(s.PolicyName != "", "spec.policyName must name a policy", "spec")
	if s.MatchResources != nil {
		c.match(s.MatchResources, "spec", "matchResources")
	}
	c.demand(len(s.ValidationActions) > 0, "spec.validationActions must hold Deny, Warn or Audit: without one nothing comes of it", "spec", "validationActions")
	for i, a := range s.ValidationActions {
		c.oneOf(string(a), []string{"Deny", "Warn", "Audit"}, "spec", "validationActions", i)
		c.demand(!slices.Contains(s.ValidationActions[:i], a), fmt.Sprintf("validationActions names %s twice", a), "spec", "validationActions", i)
	}
	c.demand(!slices.Contains(s.ValidationActions, admission.Deny) || !slices.Contains(s.ValidationActions, admission.Warn),
		"validationActions must not hold both Deny and Warn", "spec", "validationActions")
	if p := s.ParamRef; p != nil {
		c.demand((p.Name != "") != (p.Selector != nil), "paramRef must have a name or a selector, and not both", "spec", "paramRef")
		c.selector(p.Selector, "spec", "paramRef", "selector")
		if c.demand(p.ParameterNotFoundAction != nil, "paramRef.parameterNotFoundAction must be Allow or Deny", "spec", "paramRef") {
			c.oneOf(string(*p.ParameterNotFoundAction), []string{"Allow", "Deny"}, "spec", "paramRef", "parameterNotFoundAction")
		}
	}
}

// match checks what a policy or a binding is for.
func (c *checker) match(m *admission.MatchResources, way ...any) {
	at := func(more ...any) []any { return slices.Concat(way, more) }
	c.oneOf(deref(m.MatchPolicy), []string{"", "Exact", "Equivalent"}, at("matchPolicy")...)
	c.selector(m.NamespaceSelector, at("namespaceSelector")...)
	c.selector(m.ObjectSelector, at("objectSelector")...)
	for i := range m.ResourceRules {
		c.rule(&m.ResourceRules[i], at("resourceRules", i)...)
	}
	for i := range m.ExcludeResourceRules {
		c.rule(&m.ExcludeResourceRules[i], at("excludeResourceRules", i)...)
	}
}

func (c *checker) rule(r *admission.NamedRuleWithOperations, way ...any) {
	at := func(more ...any) []any { return slices.Concat(way, more) }
	lists := map[string][]string{"apiGroups": r.APIGroups, "apiVersions": r.APIVersions, "resources": r.Resources}
	for _, field := range []string{"apiGroups", "apiVersions", "resources"} {
		c.demand(len(lists[field]) > 0, fmt.Sprintf("%s must name something: an empty list matches nothing", field), at(field)...)
		c.demand(len(lists[field]) < 2 || field == "resources" || !slices.Contains(lists[field], "*"),
			fmt.Sprintf("%s holds *, and must not name others beside it", field), at(field)...)
	}
	c.demand(len(r.Operations) > 0, "operations must name something: an empty list matches nothing", at("operations")...)
	for i, o := range r.Operations {
		c.oneOf(string(o), []string{"*", "CREATE", "UPDATE", "DELETE", "CONNECT"}, at("operations", i)...)
	}
	c.oneOf(deref(r.Scope), []string{"", "*", "Cluster", "Namespaced"}, at("scope")...)
}

func (c *checker) selector(s *metav1.LabelSelector, way ...any) {
	for _, err := range validation.ValidateLabelSelector(s, validation.LabelSelectorValidationOptions{}, nil) {
		c.add(fmt.Sprintf("%v cannot be used: %s", way[len(way)-1], err.ErrorBody()), slices.Concat(way, steps(err.Field))...)
	}
}

// possible reports whether a rule can be for an object that is delivered.
func possible(r admission.NamedRuleWithOperations) bool {
	written := slices.ContainsFunc(r.Operations, func(o admission.OperationType) bool {
		return o == admission.OperationAll || o == admission.Create || o == admission.Update
	})
	whole := slices.ContainsFunc(r.Resources, func(text string) bool {
		_, sub, divided := strings.Cut(text, "/")
		return !divided || sub == "*" || sub == ""
	})
	return written && whole
}
