// Package cel judges deliveries by ValidatingAdmissionPolicies, as the API server does:
// expressions are compiled in its environment and evaluated by its code
// (k8s.io/apiserver/pkg/admission/plugin/cel), with its limits of cost; what a policy is
// for, its parameters and what comes of an error are decided here, from the documents
// and the case, because the API server's own code for these asks a cluster.
//
// Sources: https://kubernetes.io/docs/reference/access-authn-authz/validating-admission-policy/
// and k8s.io/apiserver/pkg/admission/plugin/policy.
package cel

import (
	"context"
	"fmt"
	"slices"
	"strings"
	_ "time/tzdata" // expressions name time zones, and the cage has no files of them

	registration "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/policy"
)

// Engine compiles ValidatingAdmissionPolicies (v1 and v1beta1) and their bindings. It has
// no state; its zero value is ready.
type Engine struct{}

var _ policy.Engine = Engine{}

// Name returns how messages call the language.
func (Engine) Name() string { return "CEL" }

// binding puts a rule into effect.
type binding struct {
	manifest

	name   string
	spec   *registration.ValidatingAdmissionPolicyBindingSpec
	match  *constraint     // nil: everything that the policy is for
	params labels.Selector // nil: by name, or none
}

// Compile takes the policies and bindings among the documents, and the objects beside
// them that are parameters. A policy without a binding, a binding without a policy, what
// cannot be read or does not compile, and what no delivery can match are flaws. The
// program is nil where there is nothing to judge by. Errors are those of ctx, and
// Internal.
func (Engine) Compile(ctx context.Context, all []policy.Document) (policy.Program, []bool, []policy.Flaw, error) {
	s := &set{documents: all, claimed: make([]bool, len(all)), policies: map[string]*rule{}, bindings: map[string]bool{}}
	for i, d := range all {
		if concerns(d) {
			s.read(i)
		}
	}
	if len(s.rules) == 0 && len(s.bound) == 0 {
		return nil, s.claimed, s.flaws, nil
	}
	if err := s.compile(ctx); err != nil {
		return nil, nil, nil, err
	}
	s.bind()
	s.gather()
	if len(s.ready) == 0 {
		return nil, s.claimed, s.flaws, nil
	}
	return &Program{rules: s.ready, params: s.params}, s.claimed, s.flaws, nil
}

// set is the policies of one source while they are put together.
type set struct {
	documents []policy.Document
	claimed   []bool
	flaws     []policy.Flaw

	rules []*checkedPolicy
	bound []*checkedBinding
	// policies are those with a name, by it; nil for one that has a flaw.
	policies map[string]*rule
	bindings map[string]bool
	ready    []*rule
	params   params
}

type checkedPolicy struct {
	*checker

	typed *registration.ValidatingAdmissionPolicy
}

type checkedBinding struct {
	*checker

	typed *registration.ValidatingAdmissionPolicyBinding
}

// read takes the policies and bindings of one file.
func (s *set) read(i int) {
	s.claimed[i] = true
	manifests, line, err := read(i, s.documents[i])
	if err != nil {
		s.flaws = append(s.flaws, policy.Flaw{File: s.documents[i].File, Line: line, Message: err.Error()})
		return
	}
	some := false
	for _, m := range manifests {
		kind, version := m.text("kind"), m.text("apiVersion")
		if of, _, _ := strings.Cut(version, "/"); of != group {
			continue
		}
		c := &checker{manifest: m}
		switch kind {
		case kindPolicy:
			p := &checkedPolicy{c, &registration.ValidatingAdmissionPolicy{}}
			if c.version(version) && c.typed(p.typed) {
				c.policySpec(&p.typed.Spec)
			}
			s.rules = append(s.rules, p)
		case kindBinding:
			b := &checkedBinding{c, &registration.ValidatingAdmissionPolicyBinding{}}
			if c.version(version) && c.typed(b.typed) {
				c.bindingSpec(&b.typed.Spec)
			}
			s.bound = append(s.bound, b)
		case "MutatingAdmissionPolicy", "MutatingAdmissionPolicyBinding":
			c.add("a "+kind+" changes objects, which no delivery does: what is delivered is what was written", "kind")
			s.flaws = append(s.flaws, c.flaws...)
		default:
			continue
		}
		some = true
	}
	s.claimed[i] = some
}

func (c *checker) version(text string) bool {
	return c.demand(slices.Contains(versions, text), fmt.Sprintf("version %s is not supported; v1 has all that it had", text), "apiVersion")
}

// compile compiles the policies that are well so far.
func (s *set) compile(ctx context.Context) error {
	k, err := newCompiler()
	if err != nil {
		return fault.New(fault.Internal, "the environment of CEL cannot be made: %s", err)
	}
	for _, p := range s.rules {
		if err := ctx.Err(); err != nil {
			return err
		}
		name := p.text("metadata", "name")
		if _, twice := s.policies[name]; twice && name != "" {
			p.add("there are two policies with this name", "metadata", "name")
		}
		var r *rule
		if len(p.flaws) == 0 {
			r = k.compile(p.checker, name, &p.typed.Spec)
		}
		s.policies[name] = r
		s.flaws = append(s.flaws, p.flaws...)
	}
	return nil
}

// bind joins bindings with their policies.
func (s *set) bind() {
	named := map[string]bool{}
	for _, b := range s.bound {
		name, of := b.text("metadata", "name"), b.text("spec", "policyName")
		named[of] = true
		if b.demand(!s.bindings[name] || name == "", "there are two bindings with this name", "metadata", "name"); len(b.flaws) == 0 {
			s.join(b, name, of)
		}
		s.bindings[name] = true
		s.flaws = append(s.flaws, b.flaws...)
	}
	for _, p := range s.rules {
		name := p.text("metadata", "name")
		if !named[name] && name != "" {
			p.flaws = nil
			p.add("no "+kindBinding+" names this policy, so it is in effect nowhere", "metadata", "name")
			s.flaws = append(s.flaws, p.flaws...)
		}
		if r := s.policies[name]; r != nil && len(r.bindings) > 0 && r.node == p.node {
			s.ready = append(s.ready, r)
		}
	}
}

func (s *set) join(c *checkedBinding, name, of string) {
	r, known := s.policies[of]
	if !known {
		c.add(fmt.Sprintf("there is no %s with the name %q for it to put into effect", kindPolicy, of), "spec", "policyName")
		return
	}
	b := &binding{manifest: c.manifest, name: name, spec: &c.typed.Spec}
	var err error
	if m := b.spec.MatchResources; m != nil {
		if b.match, err = newConstraint(m); err != nil {
			c.add(err.Error(), "spec", "matchResources")
		}
	}
	if p := b.spec.ParamRef; p != nil && p.Selector != nil {
		if b.params, err = selectorOf(p.Selector); err != nil {
			c.add("paramRef.selector cannot be used: "+err.Error(), "spec", "paramRef", "selector")
		}
	}
	if r != nil && len(c.flaws) == 0 {
		r.bindings = append(r.bindings, b)
	}
}

// gather takes the parameters that lie beside the policies: in their files, and in
// others that hold objects of the kinds wanted. Those are claimed.
func (s *set) gather() {
	s.params = wanted(s.ready)
	if len(s.params) == 0 {
		return
	}
	var beside []manifest
	for i, d := range s.documents {
		if !s.params.mentioned(d) {
			continue
		}
		manifests, line, err := read(i, d)
		if err != nil && !s.claimed[i] { // the flaws of those that are claimed are known
			s.flaws = append(s.flaws, policy.Flaw{File: d.File, Line: line, Message: "it may hold parameters of a policy: " + err.Error()})
		}
		beside = append(beside, manifests...)
	}
	for _, m := range beside { // definitions first: they say how to read the others
		if m.text("kind") == "CustomResourceDefinition" {
			s.params.add(m.value)
		}
	}
	for _, m := range beside {
		if s.params.add(m.value) {
			s.claimed[m.document] = true
		}
	}
}
