package cel

import (
	"slices"

	registration "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kschema "k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	"github.com/holdfastcd/holdfast/internal/policy"
)

// Param is where a binding looks for its parameters.
type Param struct {
	Kind kschema.GroupVersionKind
	// Namespace holds them; "" where that is the namespace of what is judged, or the kind
	// has none.
	Namespace string
	// Name is that of the only one; "" where Labels, a selector, picks some.
	Name, Labels string
}

// lying is a policy or a binding as it lies in a cluster.
type lying struct {
	Kind     string `json:"kind"`
	Metadata struct {
		Name string `json:"name"`
	} `json:"metadata"`
	Spec struct {
		PolicyName       string                       `json:"policyName"`
		ParamKind        *registration.ParamKind      `json:"paramKind"`
		ParamRef         *registration.ParamRef       `json:"paramRef"`
		MatchConstraints *registration.MatchResources `json:"matchConstraints"`
	} `json:"spec"`
}

// InEffect takes the policies and bindings of a cluster, one object a document, and
// returns those that can mean something to a delivery, with where their parameters are.
// In a file, a policy that is for deletions alone, or that no binding names, is a
// mistake, and a flaw; in a cluster it is there for others. What cannot be read stays:
// [Engine.Compile] says what is wrong with it. The same documents bring the same answer.
func InEffect(all []policy.Document) (kept []policy.Document, params []Param) {
	objects := make([]*lying, len(all))
	policies, bound := map[string]*lying{}, map[string]bool{}
	for i, d := range all {
		var o lying
		if yaml.Unmarshal(d.Content, &o) != nil {
			continue
		}
		objects[i] = &o
		if o.Kind == kindPolicy && !o.idle() {
			policies[o.Metadata.Name] = &o
		}
	}
	for _, o := range objects {
		if o != nil && o.Kind == kindBinding {
			bound[o.Spec.PolicyName] = true
		}
	}
	for i, o := range objects {
		switch {
		case o == nil:
		case o.Kind == kindPolicy && (o.idle() || !bound[o.Metadata.Name]), o.Kind == kindBinding && policies[o.Spec.PolicyName] == nil:
			continue
		case o.Kind == kindBinding:
			params = append(params, o.params(policies[o.Spec.PolicyName])...)
		}
		kept = append(kept, all[i])
	}
	return kept, params
}

// idle reports whether nothing that is delivered can be what a policy is for.
func (o *lying) idle() bool {
	m := o.Spec.MatchConstraints
	return m != nil && len(m.ResourceRules) > 0 && !slices.ContainsFunc(m.ResourceRules, possible)
}

// params is where a binding looks for its parameters; none if it takes none.
func (o *lying) params(of *lying) []Param {
	kind, ref := of.Spec.ParamKind, o.Spec.ParamRef
	if kind == nil || ref == nil || (ref.Name == "") == (ref.Selector == nil) {
		return nil
	}
	p := Param{Kind: kschema.FromAPIVersionAndKind(kind.APIVersion, kind.Kind), Namespace: ref.Namespace, Name: ref.Name}
	if ref.Selector != nil {
		selector, err := metav1.LabelSelectorAsSelector(ref.Selector)
		if err != nil {
			return nil // a flaw of the binding
		}
		p.Labels = selector.String()
	}
	return []Param{p}
}
