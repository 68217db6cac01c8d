package sealed

import (
	"encoding/base64"
	"fmt"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/object"
)

// What a SealedSecret is called.
const (
	Group      = "bitnami.com"
	APIVersion = Group + "/v1alpha1"
	Kind       = "SealedSecret"
)

// Bounds of one SealedSecret; etcd takes about 1.5 MiB.
const (
	maxValues = 4096
	maxSealed = 4 << 20
)

// form is a SealedSecret, read.
type form struct {
	namespace, name string
	scope           Scope // by its own annotations, never by those of the template
	values          map[string][]byte
	template        secretTemplate
}

// secretTemplate is what a Secret is made by.
type secretTemplate struct {
	namespace, name string // of no effect; they tell what it may have been sealed for
	labels          map[string]any
	annotations     map[string]any
	finalizers      []any
	kind            string
	immutable       *bool
	data            map[string]string
}

// label is what the values are bound to.
func (f *form) label() []byte { return f.scope.label(f.namespace, f.name) }

// keys are the keys of the values, in order.
func (f *form) keys() []string { return slices.Sorted(maps.Keys(f.values)) }

// IsSealedSecret reports whether o is one, of the version that can be opened.
func IsSealedSecret(o *unstructured.Unstructured) bool {
	return o.GetAPIVersion() == APIVersion && o.GetKind() == Kind
}

func identify(o *unstructured.Unstructured) string {
	return object.ID{Group: Group, Kind: Kind, Namespace: o.GetNamespace(), Name: o.GetName()}.String()
}

// read checks o whole: a field that is not known is refused by name. Errors are
// Invalid, Unsupported and Limit on the object.
func read(o *unstructured.Unstructured) (*form, error) {
	f, err := readForm(o)
	if err != nil {
		return nil, fault.From(err).On(identify(o))
	}
	return f, nil
}

func readForm(o *unstructured.Unstructured) (*form, error) {
	if !IsSealedSecret(o) {
		return nil, fault.New(fault.Unsupported, "%s %s is no SealedSecret of %s", o.GetAPIVersion(), o.GetKind(), APIVersion)
	}
	if o.GetName() == "" || o.GetNamespace() == "" {
		return nil, fault.New(fault.Invalid, "a SealedSecret needs a name and a namespace")
	}
	spec, _, err := mapping(o.Object, "spec", "spec")
	if err != nil {
		return nil, err
	}
	if _, old := spec["data"]; old && spec["data"] != nil {
		return nil, fault.New(fault.Unsupported, "spec.data is the form of 2018").WithHint("seal the Secret again: each value by itself, in spec.encryptedData")
	}
	if err := only(spec, "spec", "template", "encryptedData", "data"); err != nil {
		return nil, err
	}
	f := &form{namespace: o.GetNamespace(), name: o.GetName(), scope: ScopeOf(o.GetAnnotations())}
	if f.values, err = readValues(spec); err != nil {
		return nil, err
	}
	f.template, err = readTemplate(spec)
	return f, err
}

func readValues(spec map[string]any) (map[string][]byte, error) {
	encrypted, err := texts(spec, "encryptedData", "spec.encryptedData")
	if err != nil {
		return nil, err
	}
	if len(encrypted) > maxValues {
		return nil, fault.New(fault.Limit, "spec.encryptedData has more than %d values", maxValues)
	}
	values, size := make(map[string][]byte, len(encrypted)), 0
	for _, key := range slices.Sorted(maps.Keys(encrypted)) {
		if size += len(encrypted[key]); size > maxSealed {
			return nil, fault.New(fault.Limit, "spec.encryptedData has more than %d bytes", maxSealed)
		}
		if err := dataKey(key, "spec.encryptedData"); err != nil {
			return nil, err
		}
		// Strict, so that no character can be changed without notice.
		if values[key], err = base64.StdEncoding.Strict().DecodeString(encrypted[key]); err != nil {
			return nil, fault.New(fault.Refused, "the sealed value %s is damaged: it is not base64", key).WithHint("seal it again")
		}
	}
	return values, nil
}

func readTemplate(spec map[string]any) (secretTemplate, error) {
	t := secretTemplate{}
	fields, ok, err := mapping(spec, "template", "spec.template")
	if err != nil || !ok {
		return t, err
	}
	if err := only(fields, "spec.template", "metadata", "type", "immutable", "data"); err != nil {
		return t, err
	}
	switch kind := fields["type"].(type) {
	case nil:
	case string:
		t.kind = kind
	default:
		return t, wrong("spec.template.type", "a string")
	}
	switch immutable := fields["immutable"].(type) {
	case nil:
	case bool:
		t.immutable = &immutable
	default:
		return t, wrong("spec.template.immutable", "true or false")
	}
	if t.data, err = texts(fields, "data", "spec.template.data"); err != nil {
		return t, err
	}
	for key := range t.data {
		if err := dataKey(key, "spec.template.data"); err != nil {
			return t, err
		}
	}
	return t, t.readMetadata(fields)
}

// readMetadata takes what a Secret gets of the template's metadata. Name and namespace
// are the SealedSecret's.
func (t *secretTemplate) readMetadata(fields map[string]any) error {
	const path = "spec.template.metadata"
	metadata, ok, err := mapping(fields, "metadata", path)
	if err != nil || !ok {
		return err
	}
	if err := only(metadata, path, "name", "namespace", "labels", "annotations", "finalizers", "creationTimestamp"); err != nil {
		return err
	}
	t.name, _ = metadata["name"].(string)
	t.namespace, _ = metadata["namespace"].(string)
	for field, to := range map[string]*map[string]any{"labels": &t.labels, "annotations": &t.annotations} {
		all, err := texts(metadata, field, path+"."+field)
		if err != nil {
			return err
		}
		for key, value := range all {
			if *to == nil {
				*to = map[string]any{}
			}
			(*to)[key] = value
		}
	}
	finalizers, _, err := unstructured.NestedStringSlice(metadata, "finalizers")
	if err != nil {
		return wrong(path+".finalizers", "a list of strings")
	}
	for _, f := range finalizers {
		t.finalizers = append(t.finalizers, f)
	}
	return nil
}

func dataKey(key, path string) error {
	if problems := validation.IsConfigMapKey(key); len(problems) > 0 {
		return fault.New(fault.Invalid, "%s has the key %q, which no Secret can have", path, key)
	}
	return nil
}

func wrong(path, want string) *fault.Error {
	return fault.New(fault.Invalid, "%s is not %s", path, want)
}

// mapping returns a field that is an object; ok is false if there is none.
func mapping(in map[string]any, field, path string) (out map[string]any, ok bool, err error) {
	switch m := in[field].(type) {
	case nil:
		return nil, false, nil
	case map[string]any:
		return m, true, nil
	}
	return nil, false, wrong(path, "an object")
}

// texts returns a field that is an object of strings.
func texts(in map[string]any, field, path string) (map[string]string, error) {
	m, ok, err := mapping(in, field, path)
	if err != nil || !ok {
		return nil, err
	}
	out := make(map[string]string, len(m))
	for key, value := range m {
		text, ok := value.(string)
		if !ok {
			return nil, wrong(path+"."+key, "a string")
		}
		out[key] = text
	}
	return out, nil
}

// only refuses fields that are not among known.
func only(in map[string]any, path string, known ...string) error {
	var more []string
	for field := range in {
		if !slices.Contains(known, field) {
			more = append(more, fmt.Sprintf("%s.%s", path, field))
		}
	}
	if len(more) == 0 {
		return nil
	}
	slices.Sort(more)
	return fault.New(fault.Unsupported, "a SealedSecret has no effect on %s", strings.Join(more, ", ")).WithHint("remove it")
}

// secret returns the Secret that f is for, with data.
func (f *form) secret(data map[string][]byte) *unstructured.Unstructured {
	encoded := make(map[string]any, len(data))
	for key, value := range data {
		encoded[key] = base64.StdEncoding.EncodeToString(value)
	}
	s := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "Secret", "data": encoded}}
	s.SetNamespace(f.namespace)
	s.SetName(f.name)
	metadata, _ := s.Object["metadata"].(map[string]any)
	if f.template.labels != nil {
		metadata["labels"] = f.template.labels
	}
	if f.template.annotations != nil {
		metadata["annotations"] = f.template.annotations
	}
	if f.template.finalizers != nil {
		metadata["finalizers"] = f.template.finalizers
	}
	if f.template.kind != "" {
		s.Object["type"] = f.template.kind
	}
	if f.template.immutable != nil {
		s.Object["immutable"] = *f.template.immutable
	}
	return s
}
