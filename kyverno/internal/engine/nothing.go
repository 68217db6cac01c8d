package engine

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/kyverno/kyverno/pkg/cel/libs"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// errNothing is what a policy gets that asks the world for something.
var errNothing = errors.New("policies are judged without network and cluster")

// nothing is the world as ValidatingPolicies may ask for it: each question is an error,
// should one get past the refusal by name.
type nothing struct{}

var _ libs.Context = nothing{}

func (nothing) GetGlobalReference(string, string) (any, error) { return nil, errNothing }

func (nothing) GetImageData(string, []remote.Option) (map[string]any, error) { return nil, errNothing }

func (nothing) ListResources(string, string, string, map[string]string) (*unstructured.UnstructuredList, error) {
	return nil, errNothing
}

func (nothing) GetResource(string, string, string, string) (*unstructured.Unstructured, error) {
	return nil, errNothing
}

func (nothing) PostResource(string, string, string, map[string]any) (*unstructured.Unstructured, error) {
	return nil, errNothing
}

func (nothing) ToGVR(string, string) (*schema.GroupVersionResource, error) { return nil, errNothing }

func (nothing) GenerateResources(string, []map[string]any) error { return errNothing }

func (nothing) GetHTTPMocks() map[string]any { return nil }

func (nothing) GetGeneratedResources() []*unstructured.Unstructured { return nil }

func (nothing) ClearGeneratedResources() {}

func (nothing) SetGenerateContext(string, string, string, string, string, string, string, string, bool, bool) {
}

func (n nothing) Clone() libs.Context { return n }

// configMaps are the ConfigMaps that rules may read: those beside the policies and, for
// rules that compute the name, those of the delivery. A ConfigMap that a rule names
// outright is its author's: a delivery must not bring its own.
type configMaps struct {
	beside    map[string]*corev1.ConfigMap
	delivered map[string]map[string]any
}

// Get implements Kyverno's resolver of ConfigMaps. Names that rules give outright were
// found beside the policies when they were compiled.
func (c configMaps) Get(_ context.Context, namespace, name string) (*corev1.ConfigMap, error) {
	key := mapName(namespace, name)
	if m, ok := c.beside[key]; ok {
		return m, nil
	}
	o, ok := c.delivered[key]
	if !ok {
		return nil, fmt.Errorf("ConfigMap %s is neither beside the policies nor in the delivery", key)
	}
	m := &corev1.ConfigMap{Data: map[string]string{}}
	m.Namespace, m.Name = namespace, name
	data, _, err := unstructured.NestedStringMap(o, "data")
	if err != nil {
		return nil, fmt.Errorf("ConfigMap %s: %w", key, err)
	}
	for k, v := range data {
		m.Data[k] = v
	}
	return m, nil
}

// computed says whether a name is computed when a rule is evaluated.
func computed(name string) bool { return strings.Contains(name, "{{") }
