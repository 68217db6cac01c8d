package check

import (
	"maps"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	k8sschema "k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/schema"
)

// scopes are the kinds that are known without a cluster, those of one that is asked, and
// those that the repository defines. A kind that nobody knows is taken as namespaced, unless its name says
// otherwise. It is safe for concurrent use.
type scopes struct {
	mu          sync.Mutex
	known       schema.Table
	definitions map[string]map[string]any // CustomResourceDefinitions, by name
}

func newScopes(known schema.Table, cluster *Cluster) *scopes {
	s := &scopes{known: maps.Clone(known), definitions: map[string]map[string]any{}}
	if cluster != nil {
		for _, d := range cluster.Definitions {
			maps.Copy(s.known, schema.FromCRD(&unstructured.Unstructured{Object: d}))
		}
	}
	return s
}

// learn takes in the kinds that an object defines.
func (s *scopes) learn(o *object.Object) {
	defined := schema.FromCRD(&o.Unstructured)
	if len(defined) == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.Copy(s.known, defined)
	s.definitions[o.GetName()] = o.Object
}

// Lookup implements schema.Kinds.
func (s *scopes) Lookup(gvk k8sschema.GroupVersionKind) (schema.Kind, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if k, ok := s.known.Lookup(gvk); ok {
		return k, true
	}
	return schema.Kind{GVK: gvk, Resource: strings.ToLower(gvk.Kind) + "s", Namespaced: !strings.HasPrefix(gvk.Kind, "Cluster")}, true
}

// defined lists the definitions, by name.
func (s *scopes) defined() map[string]map[string]any {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.definitions)
}
