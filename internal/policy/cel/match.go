package cel

import (
	"fmt"
	"slices"

	registration "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/plugin/webhook/predicates/rules"
)

// nameLabel is the label that every namespace has, with its own name.
const nameLabel = "kubernetes.io/metadata.name"

// constraint is what a policy or a binding is for. It decides as package
// k8s.io/apiserver/pkg/admission/plugin/policy/matching does, from what is in the case
// instead of a cluster.
type constraint struct {
	rules, exclude      []registration.NamedRuleWithOperations
	namespaces, objects labels.Selector
	exact               bool
}

// newConstraint compiles selectors, with the API server's defaults; the error says
// which cannot be.
func newConstraint(m *registration.MatchResources) (*constraint, error) {
	c := &constraint{rules: m.ResourceRules, exclude: m.ExcludeResourceRules, exact: deref(m.MatchPolicy) == string(registration.Exact)}
	var err error
	if c.namespaces, err = selectorOf(m.NamespaceSelector); err != nil {
		return nil, fmt.Errorf("namespaceSelector cannot be used: %w", err)
	}
	if c.objects, err = selectorOf(m.ObjectSelector); err != nil {
		return nil, fmt.Errorf("objectSelector cannot be used: %w", err)
	}
	return c, nil
}

// selectorOf reads a selector; nil is the empty one, which selects everything.
func selectorOf(s *metav1.LabelSelector) (labels.Selector, error) {
	if s == nil {
		return labels.Everything(), nil
	}
	return metav1.LabelSelectorAsSelector(s)
}

// matches reports whether the constraint is for a request. The error says why nobody
// can tell; there is none where the request is not concerned in any case.
func (c *constraint) matches(in *request) (bool, error) {
	found, convert := matchRules(c.rules, c.exact, in)
	if len(c.rules) == 0 {
		found = true
	}
	if !found && convert == nil || !c.objects.Empty() && !in.labelled(c.objects) {
		return false, nil
	}
	selected, unknown := in.inNamespace(c.namespaces)
	if !selected {
		return false, nil
	}
	excluded, unsure := matchRules(c.exclude, c.exact, in)
	switch {
	case excluded:
		return false, nil
	case unsure != nil:
		return false, unsure
	case unknown != nil:
		return false, unknown
	}
	return found, convert
}

// matchRules reports whether one of the rules is for a request. Where only a rule on
// another version of the resource is, and equivalent versions count, the API server
// would convert the object, if it serves that version: the error says so.
func matchRules(all []registration.NamedRuleWithOperations, exact bool, in *request) (bool, error) {
	var equivalent error
	for i := range all {
		r := &all[i]
		if len(r.ResourceNames) > 0 && !slices.Contains(r.ResourceNames, in.attributes.GetName()) {
			continue
		}
		m := rules.Matcher{Rule: r.RuleWithOperations, Attr: in.attributes}
		if m.Matches() {
			return true, nil
		}
		if exact || equivalent != nil {
			continue
		}
		for _, version := range r.APIVersions {
			other := in.attributes.GetResource()
			other.Version = version
			if m.Attr = (inVersion{in.attributes, other}); m.Matches() {
				equivalent = fmt.Errorf("a rule is for version %s of %s, and matchPolicy Equivalent would have the object converted from %s, which only a cluster can do; name this version in apiVersions as well",
					version, other.GroupResource(), in.attributes.GetResource().Version)
			}
		}
	}
	return false, equivalent
}

// inVersion is a request in another version of its resource.
type inVersion struct {
	admission.Attributes

	resource schema.GroupVersionResource
}

// GetResource implements admission.Attributes.
func (v inVersion) GetResource() schema.GroupVersionResource { return v.resource }

// labelled reports whether the object, or that which it replaces, is selected.
func (r *request) labelled(s labels.Selector) bool {
	return s.Matches(labels.Set(r.object.GetLabels())) || r.old != nil && s.Matches(labels.Set(r.old.GetLabels()))
}

// inNamespace reports whether the namespace is selected; what has none always is. Of a
// namespace that nobody knows, its name is known, and so is one label. Where that does
// not decide, the error says so, as the API server's does of a namespace that is not
// there.
func (r *request) inNamespace(s labels.Selector) (bool, error) {
	if s.Empty() || r.attributes.GetNamespace() == "" {
		return true, nil
	}
	if r.labels != nil {
		return s.Matches(labels.Set(r.labels)), nil
	}
	byName := labels.Set{nameLabel: r.attributes.GetNamespace()}
	requirements, _ := s.Requirements()
	decided := true
	for _, need := range requirements {
		if need.Key() != nameLabel {
			decided = false
		} else if !need.Matches(byName) {
			return false, nil
		}
	}
	if decided {
		return true, nil
	}
	return true, r.unknownNamespace()
}

func (r *request) unknownNamespace() error {
	return fmt.Errorf("nothing is known of the namespace %s: the delivery does not hold it, and no cluster told of it", r.attributes.GetNamespace())
}
