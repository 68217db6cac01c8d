package flux

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	notificationv1 "github.com/fluxcd/notification-controller/api/v1"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/holdfastcd/holdfast/internal/fault"
)

// fields are the fields of a spec that are supported. A nil value takes a field
// as it is; another names the fields below it, in objects and in lists of them.
type fields map[string]fields

// unsupported refuses, by name, every field of a spec that is set and not
// known. A field that holds its zero value asks for nothing and passes. The
// error is a *fault.Error of kind Unsupported.
func unsupported(spec map[string]any, known fields) error {
	found := known.strange("spec", spec)
	if len(found) == 0 {
		return nil
	}
	slices.Sort(found)
	verb := "is"
	if len(found) > 1 {
		verb = "are"
	}
	return fault.New(fault.Unsupported, "%s %s not supported yet", strings.Join(found, ", "), verb).
		WithHint("nothing is done as long as it is set; remove it, or leave this object to Flux")
}

// strange lists the paths below path that are set and not known.
func (f fields) strange(path string, value any) []string {
	var found []string
	switch v := value.(type) {
	case map[string]any:
		for name := range maps.Keys(v) {
			below, known := f[name]
			switch {
			case !known && !isZero(v[name]):
				found = append(found, path+"."+name)
			case known && below != nil:
				found = append(found, below.strange(path+"."+name, v[name])...)
			}
		}
	case []any:
		for i, item := range v {
			found = append(found, f.strange(fmt.Sprintf("%s[%d]", path, i), item)...)
		}
	}
	return found
}

// isZero reports whether a decoded JSON value asks for nothing.
func isZero(v any) bool {
	switch v := v.(type) {
	case nil:
		return true
	case bool:
		return !v
	case string:
		return v == ""
	case int64:
		return v == 0
	case float64:
		return v == 0
	case []any:
		return len(v) == 0
	case map[string]any:
		return len(v) == 0
	}
	return false
}

// asMap returns a typed spec as decoded JSON.
func asMap(spec any) (map[string]any, error) {
	m, err := runtime.DefaultUnstructuredConverter.ToUnstructured(spec)
	if err != nil {
		return nil, fault.New(fault.Invalid, "the spec cannot be written as JSON").Because(err)
	}
	return m, nil
}

// Check refuses what this version does not do of a GitRepository, Kustomization
// or Receiver as it is written: what its controller refuses before it asks
// anybody. It has no effect. Errors are *fault.Error: Unsupported, naming each
// field or the kind; Refused for a reference to another namespace; Invalid.
func Check(u *unstructured.Unstructured) error {
	switch kind := u.GetKind(); kind {
	case sourcev1.GitRepositoryKind:
		return checked(u, checkRepository)
	case notificationv1.ReceiverKind:
		return checked(u, checkReceiver)
	case kustomizev1.KustomizationKind:
		return checked(u, func(u *unstructured.Unstructured, ks *kustomizev1.Kustomization) error {
			spec, _ := u.Object["spec"].(map[string]any)
			return Options{}.checkFields(spec, ks)
		})
	default:
		return fault.New(fault.Unsupported, "the kind %s is not supported", kind)
	}
}

func checked[T any](u *unstructured.Unstructured, check func(*unstructured.Unstructured, *T) error) error {
	o, bad := decode[T](u)
	if bad != nil {
		return bad
	}
	return check(u, o)
}
