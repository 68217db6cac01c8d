package cel

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/google/cel-go/common/types"
	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	plugin "k8s.io/apiserver/pkg/admission/plugin/cel"
	limits "k8s.io/apiserver/pkg/apis/cel"
	apiservercel "k8s.io/apiserver/pkg/cel"
)

// decision is an expression that an object does not hold to.
type decision struct {
	message string
	at      []any // the field of the policy
	failed  bool  // an error, which failurePolicy is for
	always  bool  // refuses whatever the binding's actions are
}

// input is what the expressions of one policy see of a request. What they do not use is
// left out, because it is converted for every evaluation.
type input struct {
	*request

	admission *admissionv1.AdmissionRequest
	namespace *corev1.Namespace
	bound     plugin.OptionalVariableBindings
}

// evaluate judges a request by the expressions of a policy, with a parameter or nil. It
// composes them as Validate of k8s.io/apiserver/pkg/admission/plugin/policy/validating
// does; evaluation itself, with its limits of cost, is the library's.
func (r *rule) evaluate(ctx context.Context, in *request, param runtime.Object) []decision {
	in.stored()
	i := &input{request: in, bound: plugin.OptionalVariableBindings{VersionedParams: param}}
	if r.uses.request {
		i.admission = in.admission
	}
	if matched, err := r.conditionsHold(ctx, i); err != nil {
		return []decision{r.failure(in, err, "spec", "matchConditions")}
	} else if !matched {
		return nil
	}
	if r.uses.namespace {
		if err := in.namespaceKnown(r.uses.annotations); err != nil {
			return []decision{r.failure(in, err, "spec", "validations")}
		}
		i.namespace = plugin.CreateNamespaceObject(in.namespace)
	}
	results, left, err := r.group(ctx, r.validations, i, limits.RuntimeCELCostBudget)
	if err != nil {
		return []decision{r.failure(in, err, "spec", "validations")}
	}
	var messages []plugin.EvaluationResult
	var outOfMessages error
	if r.messages != nil {
		messages, _, outOfMessages = r.group(ctx, r.messages, i, left)
	}
	var all []decision
	for n := range results {
		var written plugin.EvaluationResult
		if n < len(messages) {
			written = messages[n]
		}
		if d, broken := r.decide(in, n, &results[n], &written, outOfMessages); broken {
			all = append(all, d)
		}
	}
	return append(all, r.annotate(ctx, i)...)
}

// group evaluates expressions that share a budget, and returns what is left of it.
func (r *rule) group(ctx context.Context, e plugin.ConditionEvaluator, i *input, budget int64) ([]plugin.EvaluationResult, int64, error) {
	return e.ForInput(r.in(ctx), i.versioned, i.admission, i.bound, i.namespace, budget)
}

// conditionsHold evaluates matchConditions: one that does not hold outweighs errors of
// others. Source: k8s.io/apiserver/pkg/admission/plugin/webhook/matchconditions.
func (r *rule) conditionsHold(ctx context.Context, i *input) (bool, error) {
	if r.conditions == nil {
		return true, nil
	}
	results, _, err := r.conditions.ForInput(ctx, i.versioned, i.admission, i.bound, nil, limits.RuntimeCELCostBudgetMatchConditions)
	if err != nil {
		return false, err
	}
	var failed []error
	for n := range results {
		if results[n].Error != nil {
			failed = append(failed, results[n].Error)
		}
		if results[n].EvalResult == types.False {
			return false, nil
		}
	}
	if len(failed) > 0 {
		return false, utilerrors.NewAggregate(failed)
	}
	return true, nil
}

// failure is an error that ends the evaluation of a policy.
func (r *rule) failure(in *request, err error, at ...any) decision {
	message := err.Error()
	if r.uses.user && in.attributes.GetUserInfo() == nil && strings.Contains(message, "userInfo") {
		message += " (nobody knows here who applies it)"
	}
	return decision{message: message, at: at, failed: true}
}

// decide judges by the result of one validation and of its messageExpression.
func (r *rule) decide(in *request, n int, result, written *plugin.EvaluationResult, outOfMessages error) (decision, bool) {
	at := []any{"spec", "validations", n, "expression"}
	switch {
	case result.Error != nil:
		return r.failure(in, result.Error, at...), true
	case errors.Is(outOfMessages, apiservercel.ErrInternal) || errors.Is(outOfMessages, apiservercel.ErrOutOfBudget):
		return r.failure(in, fmt.Errorf("failed messageExpression: %w", outOfMessages), "spec", "validations", n, "messageExpression"), true
	case result.EvalResult == types.True:
		return decision{}, false
	}
	return decision{message: r.message(n, written), at: at}, true
}

// message is what a policy says of a validation that does not hold: what its expression
// makes, if that is one line of text and not too long, or what is written, or else the
// expression itself.
func (r *rule) message(n int, written *plugin.EvaluationResult) string {
	v := r.spec.Validations[n]
	if written.Error == nil && written.EvalResult != nil {
		text, _ := written.EvalResult.Value().(string)
		text = strings.TrimSpace(text)
		if text != "" && len(text) <= limits.MaxEvaluatedMessageExpressionSizeBytes && !strings.Contains(text, "\n") {
			return text
		}
	}
	if v.Message != "" {
		return strings.TrimSpace(v.Message)
	}
	return "failed expression: " + strings.TrimSpace(v.Expression)
}

// annotate evaluates audit annotations, of which only errors matter here: they refuse,
// unless failurePolicy is Ignore.
func (r *rule) annotate(ctx context.Context, i *input) []decision {
	if r.annotations == nil {
		return nil
	}
	results, _, err := r.group(ctx, r.annotations, i, limits.RuntimeCELCostBudget)
	if err != nil {
		return []decision{r.failure(i.request, err, "spec", "auditAnnotations")}
	}
	var all []decision
	for n := range results {
		if results[n].Error != nil {
			d := r.failure(i.request, results[n].Error, "spec", "auditAnnotations", n, "valueExpression")
			d.always = true
			all = append(all, d)
		}
	}
	return all
}

// namespaceKnown returns an error where expressions look at a namespace of which nobody
// knows what they ask. Objects without a namespace have none in the API server either.
func (r *request) namespaceKnown(annotations bool) error {
	name := r.attributes.GetNamespace()
	switch {
	case name == "" || r.attributes.GetKind().Kind == "Namespace" && r.attributes.GetKind().Group == "":
		return nil
	case r.namespace == nil:
		return r.unknownNamespace()
	case annotations && !r.annotated:
		return fmt.Errorf("an expression looks at annotations of the namespace %s, of which only the labels are known here", name)
	}
	return nil
}
