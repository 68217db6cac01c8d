package flux

import (
	"strings"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"

	"github.com/holdfastcd/holdfast/internal/cluster"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/substitute"
)

// Bounds of what is substituted: it is held in memory for each delivery.
const (
	maxVariables     = 1000
	maxVariableBytes = 1 << 20
)

// substituteMark is what an object carries on which nothing is substituted.
const substituteMark = markPrefix + "substitute"

// VariablesRef names a ConfigMap or Secret of variables, and who reads it: the
// account that delivers, because whoever may write a Kustomization would
// otherwise read every Secret of its namespace through it.
type VariablesRef struct {
	Account               cluster.Account
	Kind, Namespace, Name string
}

// checkPostBuild refuses what names nothing.
func checkPostBuild(ks *kustomizev1.Kustomization) error {
	if ks.Spec.PostBuild == nil {
		return nil
	}
	switch s := ks.GetSubstituteStrategy(); s {
	case kustomizev1.SubstituteStrategyWithVariables, kustomizev1.SubstituteStrategyAlways:
	default:
		return fault.New(fault.Invalid, "spec.postBuild.substituteStrategy %q is not known", s)
	}
	for i, ref := range ks.Spec.PostBuild.SubstituteFrom {
		if ref.Name == "" || ref.Kind != kindSecret && ref.Kind != kindConfigMap {
			return fault.New(fault.Invalid, "spec.postBuild.substituteFrom[%d] names no Secret and no ConfigMap", i)
		}
	}
	return nil
}

// substitution gathers the variables of a Kustomization: those of the references
// in their order, then its own; later ones win. Nil: nothing is substituted.
func (o Options) substitution(ks *kustomizev1.Kustomization, account cluster.Account) (*substitute.Variables, error) {
	p := ks.Spec.PostBuild
	if p == nil {
		return nil, nil //nolint:nilnil // nothing to substitute is no error
	}
	variables, secret := map[string]string{}, map[string]bool{}
	for _, ref := range p.SubstituteFrom {
		values, err := o.variables(ref, VariablesRef{Account: account, Kind: ref.Kind, Namespace: ks.Namespace, Name: ref.Name})
		if err != nil {
			return nil, err
		}
		if err := addVariables(variables, values, ref.Kind+" "+ks.Namespace+"/"+ref.Name); err != nil {
			return nil, err
		}
		note(secret, values, ref.Kind == kindSecret)
	}
	if err := addVariables(variables, p.Substitute, "spec.postBuild.substitute"); err != nil {
		return nil, err
	}
	note(secret, p.Substitute, false)
	if len(variables) == 0 && ks.GetSubstituteStrategy() != kustomizev1.SubstituteStrategyAlways {
		return nil, nil //nolint:nilnil // as above
	}
	return &substitute.Variables{
		Variables: variables,
		Secret:    secret,
		Disabled:  [2]string{substituteMark, kustomizev1.DisabledValue},
		Strict:    true,
	}, nil
}

// note marks the values that count now as secret, or as not.
func note(secret map[string]bool, values map[string]string, is bool) {
	for name := range values {
		if delete(secret, name); is {
			secret[name] = true
		}
	}
}

// variables reads one reference; one that is optional may be missing.
func (o Options) variables(ref kustomizev1.SubstituteReference, at VariablesRef) (map[string]string, error) {
	err := error(fault.New(fault.NotFound, "%s %s/%s, which spec.postBuild.substituteFrom names, is in the cluster and cannot be read here", at.Kind, at.Namespace, at.Name))
	var values map[string]string
	if o.Variables != nil {
		values, err = o.Variables(at)
	}
	if ref.Optional && fault.KindOf(err) == fault.NotFound {
		return map[string]string{}, nil
	}
	return values, err
}

// addVariables adds values under their names. Their line breaks go, as Flux has it.
func addVariables(to, values map[string]string, from string) error {
	size := 0
	for name, value := range values {
		if !substitute.IsName(name) {
			return fault.New(fault.Invalid, "the variable %q of %s has a name that is not permitted", name, from).
				WithHint("letters, digits and underscores, not beginning with a digit")
		}
		to[name] = strings.ReplaceAll(value, "\n", "")
		size += len(value)
	}
	if len(to) > maxVariables || size > maxVariableBytes {
		return fault.New(fault.Limit, "there are more than %d variables, or more than %d bytes of them in %s", maxVariables, maxVariableBytes, from)
	}
	return nil
}
