package sealed

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"maps"
	"slices"

	"github.com/bitnami/sealed-secrets/pkg/crypto"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/object"
)

// SealValue returns value, sealed with a certificate for a place, as it stands in
// spec.encryptedData. Errors are Invalid (no RSA certificate) and Internal.
func SealValue(cert *x509.Certificate, value []byte, scope Scope, namespace, name string) (string, error) {
	public, ok := cert.PublicKey.(*rsa.PublicKey)
	if !ok {
		return "", fault.New(fault.Invalid, "the certificate is not of an RSA key")
	}
	sealed, err := crypto.HybridEncrypt(rand.Reader, public, value, scope.label(namespace, name))
	if err != nil {
		return "", fault.New(fault.Internal, "the value cannot be encrypted")
	}
	return base64.StdEncoding.EncodeToString(sealed), nil
}

// lastApplied are annotations in which clients keep a copy of the whole object.
var lastApplied = []string{"kubectl.kubernetes.io/last-applied-configuration", "kubecfg.ksonnet.io/last-applied-configuration"}

// Seal returns the SealedSecret of a Secret: every value of its data and stringData
// sealed with a certificate for a scope, and the rest of it, but what an API server
// adds, as template. Errors are Invalid and Unsupported on the Secret, and Internal;
// they tell no value.
func Seal(cert *x509.Certificate, secret *unstructured.Unstructured, scope Scope) (*unstructured.Unstructured, error) {
	id := object.ID{Kind: secret.GetKind(), Namespace: secret.GetNamespace(), Name: secret.GetName()}.String()
	sealed, err := seal(cert, secret, scope)
	if err != nil {
		return nil, fault.From(err).On(id)
	}
	return sealed, nil
}

func seal(cert *x509.Certificate, secret *unstructured.Unstructured, scope Scope) (*unstructured.Unstructured, error) {
	if secret.GetKind() != "Secret" || secret.GetAPIVersion() != "v1" {
		return nil, fault.New(fault.Invalid, "only a Secret can be sealed, not %s %s", secret.GetAPIVersion(), secret.GetKind())
	}
	if secret.GetName() == "" || secret.GetNamespace() == "" {
		return nil, fault.New(fault.Invalid, "the Secret needs a name and a namespace to be sealed for")
	}
	if err := only(secret.Object, "Secret", "apiVersion", "kind", "metadata", "data", "stringData", "type", "immutable"); err != nil {
		return nil, err
	}
	values, err := plainValues(secret)
	if err != nil {
		return nil, err
	}
	encrypted := make(map[string]any, len(values))
	for _, key := range slices.Sorted(maps.Keys(values)) {
		if encrypted[key], err = SealValue(cert, values[key], scope, secret.GetNamespace(), secret.GetName()); err != nil {
			return nil, err
		}
	}
	template := map[string]any{"metadata": templateMetadata(secret, scope)}
	for _, field := range []string{"type", "immutable"} {
		if v, ok := secret.Object[field]; ok {
			template[field] = v
		}
	}
	o := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": APIVersion, "kind": Kind,
		"spec": map[string]any{"encryptedData": encrypted, "template": template},
	}}
	o.SetNamespace(secret.GetNamespace())
	o.SetName(secret.GetName())
	if scope != Strict {
		o.SetAnnotations(scope.annotate(nil))
	}
	return o, nil
}

func templateMetadata(secret *unstructured.Unstructured, scope Scope) map[string]any {
	m := map[string]any{"name": secret.GetName(), "namespace": secret.GetNamespace()}
	annotations := secret.GetAnnotations()
	for _, name := range lastApplied {
		delete(annotations, name)
	}
	if annotations = scope.annotate(annotations); len(annotations) > 0 {
		m["annotations"] = anyMap(annotations)
	}
	if labels := secret.GetLabels(); len(labels) > 0 {
		m["labels"] = anyMap(labels)
	}
	return m
}

func anyMap(in map[string]string) map[string]any {
	out := make(map[string]any, len(in))
	for key, value := range in {
		out[key] = value
	}
	return out
}

// plainValues returns what is in data and stringData, which wins.
func plainValues(secret *unstructured.Unstructured) (map[string][]byte, error) {
	data, err := texts(secret.Object, "data", "data")
	if err != nil {
		return nil, err
	}
	text, err := texts(secret.Object, "stringData", "stringData")
	if err != nil {
		return nil, err
	}
	values := make(map[string][]byte, len(data)+len(text))
	for key, encoded := range data {
		if values[key], err = base64.StdEncoding.DecodeString(encoded); err != nil {
			return nil, fault.New(fault.Invalid, "data.%s is not base64", key).WithHint("what is not encoded belongs in stringData")
		}
	}
	for key, value := range text {
		values[key] = []byte(value)
	}
	if len(values) == 0 {
		return nil, fault.New(fault.Invalid, "the Secret has neither data nor stringData")
	}
	for key := range values {
		if err := dataKey(key, "data"); err != nil {
			return nil, err
		}
	}
	return values, nil
}

// Merge adds the values, labels, annotations and templated values of more to o, and
// replaces those of the same name. Both have to be sealed for the same place. It fails
// with Invalid on o otherwise.
func Merge(o, more *unstructured.Unstructured) error {
	a, err := read(o)
	if err != nil {
		return err
	}
	b, err := read(more)
	if err != nil {
		return err
	}
	if string(a.label()) != string(b.label()) || a.scope != b.scope {
		return fault.New(fault.Invalid, "it is sealed %s, and what is to be merged %s for %s/%s", a.scope, b.scope, b.namespace, b.name).
			On(identify(o)).WithHint("seal for the same name, namespace and scope")
	}
	for _, path := range [][]string{
		{"spec", "encryptedData"},
		{"spec", "template", "data"},
		{"spec", "template", "metadata", "labels"},
		{"spec", "template", "metadata", "annotations"},
	} {
		from, _, _ := unstructured.NestedMap(more.Object, path...) // read above
		for key, value := range from {
			if err := unstructured.SetNestedField(o.Object, value, append(slices.Clone(path), key)...); err != nil {
				return fault.New(fault.Invalid, "%s cannot be merged", path[len(path)-1]).On(identify(o))
			}
		}
	}
	return nil
}

// Verify reports whether the values of the SealedSecret in content, JSON, open here. It
// waits for its turn, and tells nothing else: templates are not run for strangers, who
// could have them answer questions about the values by failing or not. Errors are
// Invalid, Unsupported and Limit (no such object), Waiting (too many ask, or the keys
// are not read), and Refused: it does not open.
func (k *Keys) Verify(ctx context.Context, content []byte) error {
	_, f, err := decode(content)
	if err != nil {
		return err
	}
	_, err = k.open(f, k.stranger(ctx))
	return closed(err)
}

// Reseal returns the SealedSecret in content, JSON, with every value sealed anew by the
// newest key, for the same scope, namespace and name: those of the SealedSecret, that
// its values open with. Neither template nor annotations are read for it, nor changed.
// Errors are those of Verify, and NotFound: there is no key to seal with.
func (k *Keys) Reseal(ctx context.Context, content []byte) ([]byte, error) {
	o, f, err := decode(content)
	if err != nil {
		return nil, err
	}
	newest := k.ring.Load().newest()
	if newest == nil {
		return nil, fault.New(fault.NotFound, "the cluster has no active sealing key")
	}
	data, err := k.open(f, k.stranger(ctx))
	if err != nil {
		return nil, closed(err)
	}
	encrypted := make(map[string]any, len(data))
	for key, value := range data {
		if encrypted[key], err = SealValue(newest.Certificate, value, f.scope, f.namespace, f.name); err != nil {
			return nil, err
		}
	}
	if err := unstructured.SetNestedMap(o.Object, encrypted, "spec", "encryptedData"); err != nil {
		return nil, fault.New(fault.Invalid, "spec is not an object")
	}
	out, err := o.MarshalJSON()
	if err != nil {
		return nil, fault.New(fault.Internal, "the SealedSecret cannot be written")
	}
	return out, nil
}

// closed leaves of an error what a stranger may know: that it does not open.
func closed(err error) error {
	switch fault.KindOf(err) {
	case fault.Refused, fault.NotFound:
		return fault.New(fault.Refused, "the SealedSecret does not open with the keys of this cluster")
	default:
		return err
	}
}

// decode reads one SealedSecret.
func decode(content []byte) (*unstructured.Unstructured, *form, error) {
	o := &unstructured.Unstructured{}
	if err := json.Unmarshal(content, &o.Object); err != nil || o.Object == nil {
		return nil, nil, fault.New(fault.Invalid, "the body is not one SealedSecret in JSON")
	}
	f, err := read(o)
	return o, f, err
}
