package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	crdinstall "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/install"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apiserviceinstall "k8s.io/kube-aggregator/pkg/apis/apiregistration/install"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	_ "k8s.io/kubernetes/pkg/controlplane" // enters all kinds that the API server serves into its scheme
)

// kind is one kind that objects can be made of.
type kind struct {
	gvk schema.GroupVersionKind
	typ reflect.Type
}

// server is what the API server does between reading an object and storing it, as far as it depends on the object alone.
type server struct {
	schemes []*runtime.Scheme
	kinds   []kind
}

// notKept are kinds that are asked or reported, and never kept as somebody wrote them.
var notKept = []string{
	"Binding", "Event", "Eviction", "LocalSubjectAccessReview", "Scale", "SelfSubjectAccessReview", "SelfSubjectReview", "SelfSubjectRulesReview",
	"StorageVersion", "SubjectAccessReview", "TokenRequest", "TokenReview",
}

func newServer() (*server, error) {
	crds, services := runtime.NewScheme(), runtime.NewScheme()
	crdinstall.Install(crds)
	apiserviceinstall.Install(services)
	served, err := findServed()
	if err != nil {
		return nil, err
	}
	s := &server{schemes: []*runtime.Scheme{legacyscheme.Scheme, crds, services}}
	for _, scheme := range s.schemes {
		for gvk, typ := range scheme.AllKnownTypes() {
			if kept(gvk, served) {
				s.kinds = append(s.kinds, kind{gvk, typ})
			}
		}
	}
	slices.SortFunc(s.kinds, func(a, b kind) int { return strings.Compare(a.gvk.String(), b.gvk.String()) })
	if len(s.kinds) < 50 {
		return nil, fmt.Errorf("the scheme has only %d kinds", len(s.kinds))
	}
	return s, nil
}

// kept says whether objects of a kind are written by people and stored. The scheme has more: what is no longer served, and
// what is in no version that lasts.
func kept(gvk schema.GroupVersionKind, served map[schema.GroupVersionKind]bool) bool {
	return served[gvk] && !slices.Contains(notKept, gvk.Kind) && !strings.Contains(gvk.Version, "alpha") &&
		!strings.HasSuffix(gvk.Kind, "List") && !strings.HasSuffix(gvk.Kind, "Options")
}

// findServed reads which kinds the server describes, from the specification beside its source.
func findServed() (map[schema.GroupVersionKind]bool, error) {
	dir, err := sourceOf("k8s.io/kubernetes")
	if err != nil {
		return nil, err
	}
	files, err := filepath.Glob(filepath.Join(dir, "api/openapi-spec/v3/*_openapi.json"))
	if err != nil {
		return nil, err
	}
	served := map[schema.GroupVersionKind]bool{}
	for _, file := range files {
		var spec struct {
			Paths map[string]struct {
				Post struct {
					Kind schema.GroupVersionKind `json:"x-kubernetes-group-version-kind"`
				} `json:"post"`
			} `json:"paths"`
		}
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		if err := json.Unmarshal(data, &spec); err != nil {
			return nil, fmt.Errorf("read %s: %w", file, err)
		}
		for _, path := range spec.Paths {
			served[path.Post.Kind] = true
		}
	}
	return served, nil
}

// sourceOf returns where the source of a module is that this program is built with.
func sourceOf(module string) (string, error) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", module).Output()
	if err != nil {
		return "", fmt.Errorf("find the source of %s (run this in the devcluster module): %w", module, err)
	}
	return strings.TrimSpace(string(out)), nil
}

// store returns o as the server would store it: with defaults, and converted to the internal form and back. The error says
// that the server could not have read it.
func (s *server) store(k kind, o map[string]any) (stored map[string]any, err error) {
	defer func() {
		if r := recover(); r != nil { // a conversion that trusts validation, which is not here
			err = fmt.Errorf("%v", r)
		}
	}()
	scheme := s.schemeOf(k.gvk)
	data, err := json.Marshal(o)
	if err != nil {
		return nil, err
	}
	typed, err := scheme.New(k.gvk)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(data, typed); err != nil {
		return nil, err
	}
	scheme.Default(typed)
	internal, err := scheme.ConvertToVersion(typed, schema.GroupVersion{Group: k.gvk.Group, Version: runtime.APIVersionInternal})
	if err != nil {
		return nil, err
	}
	back, err := scheme.ConvertToVersion(internal, k.gvk.GroupVersion())
	if err != nil {
		return nil, err
	}
	if data, err = json.Marshal(back); err != nil {
		return nil, err
	}
	return stored, json.Unmarshal(data, &stored)
}

func (s *server) schemeOf(gvk schema.GroupVersionKind) *runtime.Scheme {
	for _, scheme := range s.schemes {
		if scheme.Recognizes(gvk) {
			return scheme
		}
	}
	return s.schemes[0]
}
