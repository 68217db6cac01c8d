package delivery

import (
	"encoding/json"
	"slices"
	"strconv"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/plan"
	"github.com/holdfastcd/holdfast/internal/policy"
	"github.com/holdfastcd/holdfast/internal/schema"
	"github.com/holdfastcd/holdfast/internal/secret"
)

// Digester makes keyed digests of desired objects; keyed, because a digest of a
// Secret must not allow to guess its values.
type Digester func(body []byte) [32]byte

// place works on the rendered objects themselves: they are the caller's own. It
// gives every object the namespace it will live in: the one it names, or
// the delivery's; none if it is cluster-scoped. Errors are *fault.Error: Invalid
// for an object that cannot be sent, NotFound for a kind that neither the
// cluster nor the delivery itself knows.
func (s Spec) place(objects []object.Object, kinds schema.Kinds) ([]object.Object, error) {
	for i := range objects {
		o := &objects[i]
		if err := object.Check(&o.Unstructured); err != nil {
			return nil, fault.New(fault.Invalid, "%s", err).At(o.Origin.File, o.Origin.Line)
		}
		kind, ok := kinds.Lookup(o.GroupVersionKind())
		if !ok {
			return nil, fault.New(fault.NotFound, "the cluster does not know the kind %s in %s", o.GetKind(), o.GetAPIVersion()).
				On(o.ID().String()).At(o.Origin.File, o.Origin.Line).
				WithHint("install its CustomResourceDefinition, or deliver it together with this object")
		}
		switch {
		case !kind.Namespaced:
			o.SetNamespace("")
		case o.GetNamespace() == "" && s.Namespace == "":
			return nil, fault.New(fault.Invalid, "the object names no namespace").
				On(o.ID().String()).At(o.Origin.File, o.Origin.Line).
				WithHint("set metadata.namespace, or a target namespace for the delivery")
		case o.GetNamespace() == "":
			o.SetNamespace(s.Namespace)
		}
	}
	return objects, nil
}

// complete turns admitted objects into what will be sent: normalised, marked as
// this delivery's, marshalled and digested.
func (s Spec) complete(admitted policy.Admitted, kinds schema.Kinds, digest Digester) ([]plan.Desired, error) {
	ignores, err := plan.CompileIgnores(s.Ignore)
	if err != nil {
		return nil, err
	}
	objects := admitted.Objects()
	desired := make([]plan.Desired, 0, len(objects)+1)
	for i := range objects {
		o := &objects[i]
		id := o.ID()
		warnings := object.Normalise(&o.Unstructured, schema.Lists(id.GroupKind()))
		s.Profile.Marks.apply(&o.Unstructured, id)
		d, err := seal(o, kinds, digest, ignores.For(id, s.Profile.Marks.keys()...))
		if err != nil {
			return nil, err
		}
		d.Warnings = warnings
		s.Profile.tend(&d, o)
		desired = append(desired, d)
	}
	if !s.CreateNamespace || s.Namespace == "" || holdsNamespace(desired, s.Namespace) {
		return desired, nil
	}
	namespace, err := seal(s.newNamespace(), kinds, digest, nil)
	namespace.Loose = len(s.NamespaceLabels)+len(s.NamespaceAnnotations) == 0
	return append(desired, namespace), err
}

// seal marshals and digests an object. The digest leaves out the ignored fields:
// a change of them in the source is no change.
func seal(o *object.Object, kinds schema.Kinds, digest Digester, ignored *plan.Ignored) (plan.Desired, error) {
	body, err := json.Marshal(o.Object)
	told := body
	if bare := ignored.Without(o.Object); err == nil && bare != nil {
		told, err = json.Marshal(bare)
	}
	if err != nil {
		return plan.Desired{}, fault.New(fault.Invalid, "the object is not valid JSON").
			On(o.ID().String()).At(o.Origin.File, o.Origin.Line)
	}
	kind, _ := kinds.Lookup(o.GroupVersionKind())
	return plan.Desired{ID: o.ID(), Kind: kind, Origin: o.Origin, Digest: digest(told), Body: secret.Hide(body), Ignored: ignored}, nil
}

func holdsNamespace(desired []plan.Desired, name string) bool {
	return slices.ContainsFunc(desired, func(d plan.Desired) bool {
		return d.ID == object.ID{Kind: "Namespace", Name: name}
	})
}

func (s Spec) newNamespace() *object.Object {
	o := &object.Object{Unstructured: unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1",
		"kind":       "Namespace",
		"metadata":   map[string]any{"name": s.Namespace},
	}}}
	if len(s.NamespaceLabels) > 0 {
		o.SetLabels(s.NamespaceLabels)
	}
	if len(s.NamespaceAnnotations) > 0 {
		o.SetAnnotations(s.NamespaceAnnotations)
	}
	return o
}

// tend reads from an object what it asks for itself.
func (p Profile) tend(d *plan.Desired, o *object.Object) {
	if p.Treat != nil {
		d.Treatment = p.Treat(&o.Unstructured)
	}
	if len(p.WaveKeys) == 0 {
		return
	}
	annotations := o.GetAnnotations()
	for _, key := range p.WaveKeys {
		if wave, err := strconv.Atoi(annotations[key]); err == nil {
			d.Wave = wave
			return
		}
	}
}
