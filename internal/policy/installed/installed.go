// Package installed tells what the policies that lie in a cluster mean to deliveries: of
// ValidatingAdmissionPolicy, of Kyverno and of Gatekeeper, which kinds they are, what they
// refer to, and which of them have an effect.
package installed

import (
	"bytes"
	"cmp"
	"slices"
	"strings"

	kschema "k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/policy"
	"github.com/holdfastcd/holdfast/internal/policy/cel"
	"github.com/holdfastcd/holdfast/internal/schema"
)

// The names of what may be installed, as a PolicySet's spec.cluster has them.
const (
	Admission  = "ValidatingAdmissionPolicy"
	Kyverno    = "Kyverno"
	Gatekeeper = "Gatekeeper"
)

// The bounds of one name.
const (
	MaxPolicies = 2000
	MaxBytes    = 16 << 20
)

// kinds are those of the objects behind each name.
var kinds = map[string][]kschema.GroupKind{
	Admission: {
		{Group: "admissionregistration.k8s.io", Kind: "ValidatingAdmissionPolicy"},
		{Group: "admissionregistration.k8s.io", Kind: "ValidatingAdmissionPolicyBinding"},
	},
	Kyverno: {
		{Group: "kyverno.io", Kind: "ClusterPolicy"},
		{Group: "kyverno.io", Kind: "Policy"},
		{Group: "policies.kyverno.io", Kind: "ValidatingPolicy"},
	},
	Gatekeeper: {{Group: templateGroup, Kind: "ConstraintTemplate"}},
}

// Kinds are those of the objects behind a name; nil if the name is not known.
func Kinds(name string) []kschema.GroupKind { return kinds[name] }

// The kinds of Gatekeeper's: each ConstraintTemplate defines the kind of its constraints.
const (
	templateGroup   = "templates.gatekeeper.sh"
	constraintGroup = "constraints.gatekeeper.sh"
)

// Part is what one list, or one watch, is of: all objects of a kind, or some.
type Part struct {
	kschema.GroupKind

	Version   string // "" for the one that the cluster prefers
	Namespace string // "" for any
	Name      string // "" for any
	Labels    string // a selector; "" for any
}

// Kind is what a cluster serves of it; false if it serves nothing.
func (p Part) Kind(lookup func(kschema.GroupKind) (schema.Kind, bool)) (schema.Kind, bool) {
	kind, ok := lookup(p.GroupKind)
	if p.Version != "" {
		kind.GVK.Version = p.Version
	}
	return kind, ok
}

// InEffect returns, of the policies of a name, one object a document,
// those that can mean something to a delivery. What a cluster holds without effect is
// there for others, and no mistake of a set that takes it in.
func InEffect(name string, all []policy.Document) []policy.Document {
	switch name {
	case Admission:
		all, _ = cel.InEffect(all)
	case Gatekeeper:
		all = constrained(all)
	}
	return all
}

// gatekept is what tells a template and a constraint apart.
type gatekept struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Spec       struct {
		CRD struct {
			Spec struct {
				Names struct {
					Kind string `json:"kind"`
				} `json:"names"`
			} `json:"spec"`
		} `json:"crd"`
	} `json:"spec"`
}

// defines is the kind of the constraints of a template; "" for what is none.
func (g gatekept) defines() string {
	if group, _, _ := strings.Cut(g.APIVersion, "/"); group == templateGroup {
		return g.Spec.CRD.Spec.Names.Kind
	}
	return ""
}

func gatekeptIn(all []policy.Document) []gatekept {
	heads := make([]gatekept, len(all))
	for i, d := range all {
		if yaml.Unmarshal(d.Content, &heads[i]) != nil {
			heads[i] = gatekept{} // those who compile it say what is wrong with it
		}
	}
	return heads
}

// constrained leaves out templates that nobody has set a constraint by, and constraints
// whose template is gone.
func constrained(all []policy.Document) []policy.Document {
	heads, defined, used := gatekeptIn(all), map[string]bool{}, map[string]bool{}
	for _, h := range heads {
		if kind := h.defines(); kind != "" {
			defined[kind] = true
		} else {
			used[h.Kind] = true
		}
	}
	var kept []policy.Document
	for i, h := range heads {
		if kind := h.defines(); kind != "" && used[kind] || kind == "" && (h.Kind == "" || defined[h.Kind]) {
			kept = append(kept, all[i])
		}
	}
	return kept
}

// namedBy is what the policies of a name refer to: the constraints of templates, and the
// parameters of bindings. Secrets are none: no policy is given what they hold.
func namedBy(name string, all []policy.Document) []Part {
	var more []Part
	switch name {
	case Gatekeeper:
		for _, h := range gatekeptIn(all) {
			if kind := h.defines(); kind != "" {
				more = append(more, Part{GroupKind: kschema.GroupKind{Group: constraintGroup, Kind: kind}})
			}
		}
	case Admission:
		_, params := cel.InEffect(all)
		for _, p := range params {
			if gk := p.Kind.GroupKind(); gk != (kschema.GroupKind{Kind: "Secret"}) {
				more = append(more, Part{gk, p.Kind.Version, p.Namespace, p.Name, p.Labels})
			}
		}
	}
	return more
}

// Taken is what a name stands for.
type Taken struct {
	Documents []policy.Document
	Served    bool // the cluster serves one of its kinds
}

// Take returns the policies behind a name, in the order of their names, with what they
// refer to; lookup tells how the cluster serves a kind, and read returns the objects of a
// part. Errors are those of read, and Limit.
func Take(name string, lookup func(kschema.GroupKind) (schema.Kind, bool), read func(Part) ([]policy.Document, error)) (Taken, error) {
	var t Taken
	add := func(p Part) error {
		if _, served := p.Kind(lookup); !served {
			return nil
		}
		t.Served = true
		found, err := read(p)
		t.Documents = append(t.Documents, found...)
		return err
	}
	for _, gk := range kinds[name] {
		if err := add(Part{GroupKind: gk}); err != nil {
			return t, err
		}
	}
	policies := len(t.Documents)
	for _, p := range namedBy(name, t.Documents) {
		if err := add(p); err != nil {
			return t, err
		}
	}
	for i := range t.Documents[policies:] {
		if name == Admission {
			quiet(&t.Documents[policies+i])
		}
	}
	var err error
	if t.Documents, err = sorted(t.Documents); err == nil {
		t.Documents = InEffect(name, t.Documents)
	}
	return t, err
}

// quiet writes a parameter so that nothing in it looks like a policy of another
// language: it may be a tenant's, and would be a flaw of the set.
func quiet(d *policy.Document) {
	d.Content = bytes.ReplaceAll(d.Content, []byte("/"), []byte(`\u002f`))
}

// sorted returns documents in the order of their names, each once. The error is Limit.
func sorted(all []policy.Document) ([]policy.Document, error) {
	all = slices.SortedFunc(slices.Values(all), func(a, b policy.Document) int {
		return cmp.Or(strings.Compare(a.File, b.File), bytes.Compare(a.Content, b.Content))
	})
	// Kinds of two groups may have one name.
	all = slices.CompactFunc(all, func(a, b policy.Document) bool { return a.File == b.File && bytes.Equal(a.Content, b.Content) })
	size := 0
	for _, d := range all {
		size += len(d.Content)
	}
	if len(all) > MaxPolicies || size > MaxBytes {
		return nil, TooMany()
	}
	return all, nil
}

// TooMany is the error that there are more objects than the bounds permit.
func TooMany() error {
	return fault.New(fault.Limit, "with their parameters they are more than %d objects or %d MiB", MaxPolicies, MaxBytes>>20).
		WithHint("name parameters in bindings by namespace and name")
}
