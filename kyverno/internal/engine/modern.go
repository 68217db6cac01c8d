package engine

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	policiesv1beta1 "github.com/kyverno/api/api/policies.kyverno.io/v1beta1"
	"github.com/kyverno/kyverno/pkg/cel/matching"
	"github.com/kyverno/kyverno/pkg/cel/policies/vpol/autogen"
	vpol "github.com/kyverno/kyverno/pkg/cel/policies/vpol/compiler"
	admissionv1 "k8s.io/api/admission/v1"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/admission"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/policy"
)

// modern is a ValidatingPolicy (policies.kyverno.io).
type modern struct {
	item   item
	policy policiesv1beta1.ValidatingPolicyLike
	// compiled are the policy itself and those that Kyverno derives from it for what
	// makes Pods.
	compiled []*vpol.Policy
	lines    map[string]int // of validations, by number
	// labels: it depends on labels of namespaces beyond the name.
	labels bool
	warn   bool
	// lenient: Kyverno admits what this policy could not be evaluated on.
	lenient bool
}

func compileModern(it item, exceptions []modernException) (*modern, []policy.Flaw) {
	var p policiesv1beta1.ValidatingPolicyLike = &policiesv1beta1.ValidatingPolicy{}
	if it.kind == "NamespacedValidatingPolicy" {
		p = &policiesv1beta1.NamespacedValidatingPolicy{}
	}
	if err := decode(&it, p); err != nil {
		return nil, []policy.Flaw{it.flaw(0, "%s", err)}
	}
	spec := p.GetValidatingPolicySpec()
	if why := refuseModern(&it, p); why != "" {
		return nil, []policy.Flaw{it.flaw(0, "%s", why)}
	}
	m := &modern{
		item: it, policy: p, lines: it.lines("validations"), labels: modernLabels(spec),
		warn:    !spec.AdmissionEnabled() || !slices.Contains(spec.ValidationActions(), admissionregistrationv1.Deny),
		lenient: p.GetFailurePolicy(false) == admissionregistrationv1.Ignore,
	}
	if err := m.compile(exceptions); err != nil {
		return nil, []policy.Flaw{it.flaw(0, "%s", err)}
	}
	return m, nil
}

// compile has Kyverno compile the policy, and what it derives from it.
func (m *modern) compile(exceptions []modernException) error {
	var mine []*policiesv1beta1.PolicyException
	for _, e := range exceptions {
		for _, ref := range e.exception.Spec.PolicyRefs {
			if ref.Name == m.policy.GetName() && ref.Kind == m.policy.GetKind() {
				mine = append(mine, e.exception)
			}
		}
	}
	all := []policiesv1beta1.ValidatingPolicyLike{m.policy}
	derived, err := autogen.Autogen(m.policy)
	if err != nil {
		return err
	}
	for _, config := range slices.Sorted(maps.Keys(derived)) {
		if config == autogen.ExtractionReplacementsRef {
			return fmt.Errorf("autogen for other kinds than those of Kubernetes is not supported")
		}
		one, _ := m.policy.DeepCopyObject().(policiesv1beta1.ValidatingPolicyLike)
		*one.GetValidatingPolicySpec() = *derived[config].Spec
		all = append(all, one)
	}
	for _, one := range all {
		compiled, errs := vpol.NewCompiler().Compile(one, mine)
		if len(errs) > 0 {
			return fmt.Errorf("it does not compile: %s", errs[len(errs)-1].Error())
		}
		m.compiled = append(m.compiled, compiled)
	}
	return nil
}

// refuseModern says why a policy is not judged; "" if it is.
func refuseModern(it *item, p policiesv1beta1.ValidatingPolicyLike) string {
	spec := p.GetValidatingPolicySpec()
	switch mode := string(spec.EvaluationMode()); {
	case mode != "Kubernetes":
		return "evaluation mode " + mode + " is not for objects of Kubernetes"
	case it.kind == "NamespacedValidatingPolicy" && p.GetNamespace() == "":
		return "a NamespacedValidatingPolicy is for its namespace, and this one names none"
	case len(spec.Validations) == 0:
		return "it has no validations"
	case spec.MatchConstraints == nil || len(spec.MatchConstraints.ResourceRules) == 0:
		return "it has no matchConstraints, and can match nothing"
	}
	for _, a := range spec.ValidationActions() {
		if a != admissionregistrationv1.Deny && a != admissionregistrationv1.Audit && a != admissionregistrationv1.Warn {
			return fmt.Sprintf("the action %q is neither Deny nor Audit nor Warn", string(a))
		}
	}
	if !slices.ContainsFunc(spec.MatchConstraints.ResourceRules, modernMay) {
		return "it is for neither CREATE nor UPDATE of objects, and can match nothing that is delivered"
	}
	for name, expression := range modernExpressions(spec) {
		if why := reaches(expression); why != "" {
			return name + " " + why
		}
	}
	return ""
}

// modernMay says whether a rule can match anything that is delivered.
func modernMay(r admissionregistrationv1.NamedRuleWithOperations) bool {
	operation := slices.ContainsFunc(r.Operations, func(o admissionregistrationv1.OperationType) bool {
		return o == admissionregistrationv1.Create || o == admissionregistrationv1.Update || o == admissionregistrationv1.OperationAll
	})
	return operation && slices.ContainsFunc(r.Resources, func(name string) bool { return name == "*/*" || !strings.Contains(name, "/") })
}

// modernExpressions are the expressions of a policy, by how messages call them.
func modernExpressions(spec *policiesv1beta1.ValidatingPolicySpec) map[string]string {
	found := map[string]string{}
	for _, c := range spec.MatchConditions {
		found["matchCondition "+c.Name] = c.Expression
	}
	for _, v := range spec.Variables {
		found["variable "+v.Name] = v.Expression
	}
	for i, v := range spec.Validations {
		found[fmt.Sprintf("validations[%d]", i)] = v.Expression
		found[fmt.Sprintf("validations[%d].messageExpression", i)] = v.MessageExpression
	}
	for _, a := range spec.AuditAnnotations {
		found["auditAnnotation "+a.Key] = a.ValueExpression
	}
	return found
}

func modernLabels(spec *policiesv1beta1.ValidatingPolicySpec) bool {
	if beyondName(spec.MatchConstraints.NamespaceSelector) {
		return true
	}
	for _, e := range modernExpressions(spec) {
		if strings.Contains(e, "namespaceObject") {
			return true
		}
	}
	return false
}

// modern judges a subject by the ValidatingPolicies.
func (j *judging) modern(ctx context.Context, s *subject) error {
	if len(j.program.modern) == 0 {
		return nil
	}
	v, err := j.attributes(s)
	if err != nil {
		return fault.New(fault.Invalid, "%s cannot be shown to CEL: %s", s.name(), err)
	}
	request := j.request(s)
	for _, m := range j.program.modern {
		if m.policy.GetNamespace() != "" && m.policy.GetNamespace() != s.object.GetNamespace() {
			continue
		}
		for _, compiled := range m.compiled {
			if err := guarded(func() error { return j.modernOne(ctx, m, compiled, s, v.Attributes, request) }); err != nil {
				j.modernFailed(m, s, 0, err)
			}
		}
	}
	return nil
}

// request is what expressions know of the admission.
func (j *judging) request(s *subject) *admissionv1.AdmissionRequest {
	no := false
	kind, resource := metav1.GroupVersionKind(s.gvk), metav1.GroupVersionResource(s.gvr)
	return &admissionv1.AdmissionRequest{
		Kind: kind, Resource: resource, RequestKind: &kind, RequestResource: &resource,
		Name: s.object.GetName(), Namespace: s.object.GetNamespace(), Operation: admissionv1.Operation(s.verb),
		UserInfo: j.user.AdmissionUserInfo, DryRun: &no,
	}
}

// matches says whether the constraints of a policy are for a subject.
func matches(compiled *vpol.Policy, s *subject, attr admission.Attributes) (bool, error) {
	var namespace runtime.Object
	if n := s.namespaceOf(); n != nil {
		namespace = n
	}
	return matching.NewMatcher().Match(&matching.MatchCriteria{Constraints: compiled.MatchConstraints()}, attr, namespace)
}

func (j *judging) modernOne(ctx context.Context, m *modern, compiled *vpol.Policy, s *subject, attr admission.Attributes, request *admissionv1.AdmissionRequest) error {
	matched, err := matches(compiled, s, attr)
	if err == nil && !matched {
		return nil
	}
	if m.labels && !s.known {
		j.cannot(m.item, 0, "labels/"+s.object.GetNamespace(), "it looks at the namespace %s, whose labels are not known here", s.object.GetNamespace())
		return nil
	}
	if err != nil {
		j.modernFailed(m, s, 0, err)
		return nil
	}
	var namespace runtime.Object = &unstructured.Unstructured{}
	if n := s.namespaceOf(); n != nil {
		namespace = n
	}
	result, err := compiled.Evaluate(ctx, nil, attr, request, namespace, nothing{})
	switch {
	case err != nil:
		j.modernFailed(m, s, 0, err)
	case result == nil || len(result.Exceptions) > 0: // conditions are not met, or it is excepted
	case result.Error != nil:
		j.modernFailed(m, s, result.Index, result.Error)
	case !result.Result:
		j.modernTell(m, s, result.Index, result.Message, m.warn)
	}
	if result != nil && len(result.Exceptions) == 0 {
		j.found.Judged[m.item.name]++
	}
	return nil
}

func (m *modern) line(validation int) int {
	if line := m.lines[fmt.Sprint(validation)]; line != 0 {
		return line
	}
	return m.item.line
}

func (j *judging) modernTell(m *modern, s *subject, validation int, message string, warn bool) {
	annotations := m.policy.GetAnnotations()
	j.found.List = append(j.found.List, policy.Finding{
		Policy: m.item.name, Rule: fmt.Sprintf("validations[%d]", validation), Subject: s.index, Message: describe(annotations, shorten(message)),
		Warn: warn, Severity: severity(annotations), Reference: annotations["policies.kyverno.io/reference"],
		File: m.item.file, Line: m.line(validation),
	})
}

// modernFailed tells of a policy that could not be evaluated on an object.
func (j *judging) modernFailed(m *modern, s *subject, validation int, err error) {
	if m.warn || m.lenient {
		j.modernTell(m, s, validation, "it could not be evaluated: "+err.Error(), true)
		return
	}
	j.cannot(m.item, m.line(validation), fmt.Sprint(validation), "validations[%d] could not be evaluated on %s: %s", validation, s.name(), err)
}
