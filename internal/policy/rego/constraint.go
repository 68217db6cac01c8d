package rego

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/holdfastcd/holdfast/internal/policy"
)

// constraint is a use of a template.
type constraint struct {
	name       string
	manifest   manifest
	match      match
	parameters *ast.Term
	warn       bool
	template   *template
	// selection is which subjects it is for, with others that are for the same.
	selection int
	// rules are those of the gate's joint unit that are its own; none: it is asked by
	// itself.
	rules span
}

func (c *constraint) joined() bool { return c.rules.to > c.rules.from }

// constraintSpec is the spec of a constraint.
type constraintSpec struct {
	EnforcementAction string         `json:"enforcementAction"`
	Match             *match         `json:"match"`
	Parameters        map[string]any `json:"parameters"`
	Scoped            []struct {
		Action string                  `json:"action"`
		Points []struct{ Name string } `json:"enforcementPoints"`
	} `json:"scopedEnforcementActions"`
}

// match selects what a constraint is for, as Gatekeeper does (its pkg/mutation/match).
type match struct {
	Source string `json:"source"`
	Kinds  []struct {
		APIGroups []string `json:"apiGroups"`
		Kinds     []string `json:"kinds"`
	} `json:"kinds"`
	Scope              string                `json:"scope"`
	Namespaces         []string              `json:"namespaces"`
	ExcludedNamespaces []string              `json:"excludedNamespaces"`
	LabelSelector      *metav1.LabelSelector `json:"labelSelector"`
	NamespaceSelector  *metav1.LabelSelector `json:"namespaceSelector"`
	Name               string                `json:"name"`

	labels, namespaceLabels labels.Selector
}

// newConstraint reads a constraint, for its template.
func newConstraint(m manifest, t *template) (constraint, error) {
	c := constraint{name: m.GetName(), manifest: m, template: t}
	if c.name == "" {
		return c, errors.New("it has no name")
	}
	var spec constraintSpec
	if m.Object["spec"] != nil {
		if err := strict(m.Object["spec"], &spec); err != nil {
			return c, fmt.Errorf("its spec cannot be read: %w", err)
		}
	}
	var err error
	if c.warn, err = spec.warns(); err != nil {
		return c, err
	}
	if spec.Match != nil {
		c.match = *spec.Match
	}
	if err := c.match.check(); err != nil {
		return c, fmt.Errorf("spec.match: %w", err)
	}
	if spec.Parameters == nil {
		spec.Parameters = map[string]any{}
	}
	if err := t.parameters.check(spec.Parameters); err != nil {
		return c, errors.New(oneLine(err.Error()))
	}
	c.parameters, err = newConverter().object(spec.Parameters, 0)
	return c, err
}

// warns reports whether the constraint only warns. Of actions by place, that of the
// webhook counts, whose part a delivery's gate has; one that is not for it only warns.
func (s *constraintSpec) warns() (bool, error) {
	actions := []string{s.EnforcementAction}
	switch {
	case s.EnforcementAction == "scoped":
		actions = nil
		for _, scoped := range s.Scoped {
			action := "warn"
			for _, p := range scoped.Points {
				if p.Name == "*" || p.Name == "validation.gatekeeper.sh" {
					action = scoped.Action
				}
			}
			actions = append(actions, action)
		}
		if len(actions) == 0 {
			return false, errors.New("its enforcementAction is scoped, and scopedEnforcementActions is empty")
		}
	case len(s.Scoped) > 0:
		return false, errors.New("scopedEnforcementActions needs the enforcementAction scoped")
	}
	for _, action := range actions {
		if !slices.Contains([]string{"", "deny", "warn", "dryrun"}, action) {
			return false, fmt.Errorf("enforcementAction %q is not known; deny, warn, dryrun and scoped are", action)
		}
	}
	return !slices.Contains(actions, "deny") && !slices.Contains(actions, ""), nil
}

// check prepares the selectors, and refuses values that Gatekeeper's schema does.
func (m *match) check() error {
	if !slices.Contains([]string{"", "*", "Cluster", "Namespaced"}, m.Scope) {
		return fmt.Errorf("scope %q is not known; *, Cluster and Namespaced are", m.Scope)
	}
	if !slices.Contains([]string{"", "All", "Original", "Generated"}, m.Source) {
		return fmt.Errorf("source %q is not known; All, Original and Generated are", m.Source)
	}
	var err error
	if m.LabelSelector != nil {
		if m.labels, err = metav1.LabelSelectorAsSelector(m.LabelSelector); err != nil {
			return fmt.Errorf("labelSelector: %w", err)
		}
	}
	if m.NamespaceSelector != nil {
		if m.namespaceLabels, err = metav1.LabelSelectorAsSelector(m.NamespaceSelector); err != nil {
			return fmt.Errorf("namespaceSelector: %w", err)
		}
	}
	return nil
}

// errNamespace: nobody knows the labels of the namespace.
var errNamespace = errors.New("labels of the namespace are not known, and spec.match.namespaceSelector asks for them")

// matches reports whether the constraint is for a subject: as it will be, or as it is now.
func (m *match) matches(c *policy.Case, s *policy.Subject) (bool, error) {
	generated := s.Of != nil
	if m.Source == "Original" && generated || m.Source == "Generated" && !generated {
		return false, nil
	}
	ok, err := m.object(c, s.Object)
	if ok || err != nil || s.Old == nil {
		return ok, err
	}
	return m.object(c, s.Old)
}

func (m *match) object(c *policy.Case, object map[string]any) (bool, error) {
	o := &unstructured.Unstructured{Object: object}
	gvk := o.GroupVersionKind()
	own := gvk.Group == "" && gvk.Kind == "Namespace"
	namespace := o.GetNamespace()
	switch {
	case !m.kind(gvk.Group, gvk.Kind),
		m.Scope == "Cluster" && !own && namespace != "",
		m.Scope == "Namespaced" && (own || namespace == ""),
		m.labels != nil && !m.labels.Matches(labels.Set(o.GetLabels())),
		m.Name != "" && !m.named(o):
		return false, nil
	}
	if own {
		namespace = o.GetName()
	}
	if !m.within(namespace) {
		return false, nil
	}
	return m.namespace(c, o, own, namespace)
}

// within reports whether the namespaces that are listed permit one. What lies in none is
// not disqualified.
func (m *match) within(namespace string) bool {
	return namespace == "" ||
		(len(m.Namespaces) == 0 || slices.ContainsFunc(m.Namespaces, wild(namespace))) &&
			!slices.ContainsFunc(m.ExcludedNamespaces, wild(namespace))
}

// namespace puts the namespace of an object before namespaceSelector.
func (m *match) namespace(c *policy.Case, o *unstructured.Unstructured, own bool, namespace string) (bool, error) {
	switch {
	case m.namespaceLabels == nil || namespace == "":
		return true, nil
	case own:
		return m.namespaceLabels.Matches(labels.Set(o.GetLabels())), nil
	}
	known, ok := c.Namespaces[namespace]
	if !ok {
		return false, errNamespace
	}
	return m.namespaceLabels.Matches(labels.Set(known)), nil
}

func (m *match) kind(group, kind string) bool {
	has := func(list []string, value string) bool {
		return len(list) == 0 || slices.Contains(list, "*") || slices.Contains(list, value)
	}
	for _, k := range m.Kinds {
		if has(k.APIGroups, group) && has(k.Kinds, kind) {
			return true
		}
	}
	return len(m.Kinds) == 0
}

func (m *match) named(o *unstructured.Unstructured) bool {
	return wild(o.GetName())(m.Name) || strings.HasSuffix(m.Name, "*") && wild(o.GetGenerateName())(m.Name)
}

// wild returns what tells whether a pattern, in which * may stand at the beginning and at
// the end, matches a name.
func wild(name string) func(string) bool {
	return func(pattern string) bool {
		rest, before := strings.CutPrefix(pattern, "*")
		rest, after := strings.CutSuffix(rest, "*")
		switch {
		case before && after, pattern == "*":
			return strings.Contains(name, rest)
		case before:
			return strings.HasSuffix(name, rest)
		case after:
			return strings.HasPrefix(name, rest)
		default:
			return name == pattern
		}
	}
}
