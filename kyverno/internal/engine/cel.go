package engine

import (
	"context"
	"errors"
	"fmt"

	kyvernov1 "github.com/kyverno/kyverno/api/kyverno/v1"
	"github.com/kyverno/kyverno/pkg/admissionpolicy"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	"k8s.io/apiserver/pkg/admission/plugin/webhook/matchconditions"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
)

// celRule is the CEL of a rule (validate.cel, celPreconditions), compiled by Kyverno's
// compiler.
type celRule struct {
	validator validating.Validator
}

// compileCEL compiles the expressions of a rule. Expressions may not ask the authorizer,
// which only a cluster has.
func compileCEL(r *kyvernov1.Rule, p kyvernov1.PolicyInterface) (*celRule, error) {
	expressions := make([]admissionregistrationv1.Validation, len(r.Validation.CEL.Expressions))
	copy(expressions, r.Validation.CEL.Expressions)
	for i := range expressions {
		if expressions[i].Message == "" {
			expressions[i].Message = r.Validation.Message
		}
	}
	compiler, err := admissionpolicy.NewCompiler(r.CELPreconditions, r.Validation.CEL.Variables)
	if err != nil {
		return nil, err
	}
	compiler.WithValidations(expressions)
	compiler.WithAuditAnnotations(r.Validation.CEL.AuditAnnotations)
	none := cel.OptionalVariableDeclarations{}
	compiler.CompileVariables(none)
	filter := compiler.CompileValidations(none)
	messages := compiler.CompileMessageExpressions(none)
	audit := compiler.CompileAuditAnnotationsExpressions(none)
	conditions := compiler.CompileMatchConditions(none)
	for _, c := range []cel.ConditionEvaluator{filter, messages, audit, conditions} {
		if err := errors.Join(c.CompilationErrors()...); err != nil {
			return nil, err
		}
	}
	matcher := matchconditions.NewMatcher(conditions, nil, p.GetKind(), "", p.GetName())
	return &celRule{validating.NewValidator(filter, matcher, audit, messages, nil, nil)}, nil
}

// deny returns what the first expression says that an object breaks; "" if it breaks
// none, or the preconditions are not met.
func (r *celRule) deny(ctx context.Context, v *admission.VersionedAttributes, namespace *corev1.Namespace) string {
	result := r.validator.Validate(ctx, v.GetResource(), v, nil, namespace, celconfig.RuntimeCELCostBudget, nil)
	for _, d := range result.Decisions {
		if d.Action == validating.ActionDeny {
			return d.Message
		}
	}
	return ""
}

// conditions are CEL conditions under which a policy is for an object.
type conditions struct {
	matcher matchconditions.Matcher
}

func compileConditions(written []admissionregistrationv1.MatchCondition, kind, name string) (*conditions, error) {
	if len(written) == 0 {
		return nil, nil //nolint:nilnil // no conditions are no error
	}
	compiler, err := admissionpolicy.NewCompiler(written, nil)
	if err != nil {
		return nil, err
	}
	filter := compiler.CompileMatchConditions(cel.OptionalVariableDeclarations{})
	if err := errors.Join(filter.CompilationErrors()...); err != nil {
		return nil, fmt.Errorf("webhookConfiguration.matchConditions: %w", err)
	}
	return &conditions{matchconditions.NewMatcher(filter, nil, kind, "", name)}, nil
}

// met says whether a policy is for an object. Kyverno takes an error for a no; here it is
// returned.
func (c *conditions) met(ctx context.Context, v *admission.VersionedAttributes) (bool, error) {
	result := c.matcher.Match(ctx, v, nil, nil)
	return result.Matches, result.Error
}

// versioned are the attributes of an admission as CEL sees them.
func versioned(attr admission.Attributes) (*admission.VersionedAttributes, error) {
	return admission.NewVersionedAttributes(attr, attr.GetKind(), admission.NewObjectInterfacesFromScheme(runtime.NewScheme()))
}
