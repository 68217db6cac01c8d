package argo

import (
	"encoding/json"
	"errors"
	"maps"
	"path"

	"sigs.k8s.io/yaml"

	api "github.com/holdfastcd/holdfast/api/argo/v1alpha1"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/tree"
)

// maxOverride bounds a file that overrides a source before it is parsed.
const maxOverride = 1 << 18

// overridden returns an Application's source with what .argocd-source.yaml and
// .argocd-source-<name>.yaml in its directory lay over it, in this order, each as a
// JSON merge patch (RFC 7396). Only the blocks of the tools can be changed: which
// repository, path and revision is delivered is not the repository's to say. Errors
// are *fault.Error that name the file: Invalid, Limit, and Unsupported for what the
// Application itself could not ask for.
func overridden(app *api.Application, look *tree.View) (*api.ApplicationSource, error) {
	s := app.Spec.Source
	for _, name := range []string{".argocd-source.yaml", ".argocd-source-" + app.Name + ".yaml"} {
		file := path.Join(s.Path, name)
		text, err := look.ReadFile(file)
		if errors.Is(err, tree.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if s, err = override(s, text); err != nil {
			return nil, fault.From(err).At(file, 0)
		}
	}
	return s, nil
}

func override(s *api.ApplicationSource, text []byte) (*api.ApplicationSource, error) {
	if object.Aliased(text) { // what they unfold to is nowhere bounded here
		return nil, fault.New(fault.Invalid, "the file is no YAML, or holds aliases, which are not taken here").
			WithHint("write out what they stand for")
	}
	var patch map[string]any
	if err := yaml.Unmarshal(text, &patch); err != nil {
		return nil, fault.New(fault.Invalid, "the file is no YAML object")
	}
	base, err := asMap(s)
	if err != nil {
		return nil, err
	}
	b, err := json.Marshal(mergePatch(base, patch))
	if err != nil {
		return nil, fault.New(fault.Invalid, "the file cannot be laid over the source")
	}
	merged := &api.ApplicationSource{}
	if err := json.Unmarshal(b, merged); err != nil {
		return nil, fault.New(fault.Invalid, "the file does not fit a source: %s", err)
	}
	out := s.DeepCopy()
	out.Helm, out.Kustomize, out.Directory, out.Plugin = merged.Helm, merged.Kustomize, merged.Directory, merged.Plugin
	var patched struct {
		Source map[string]any `json:"source"`
	}
	if err := json.Unmarshal(append(append([]byte(`{"source":`), b...), '}'), &patched); err != nil {
		return nil, fault.New(fault.Invalid, "the file cannot be laid over the source")
	}
	for _, fixed := range []string{"repoURL", "path", "targetRevision", "chart", "ref", "name", "tagPrefix"} {
		delete(patched.Source, fixed)
	}
	refused, err := unsupported(patched, supported)
	if err == nil && len(refused) > 0 {
		err = notYet(refused)
	}
	if err == nil {
		err = checkTools(out)
	}
	return out, err
}

func asMap(v any) (map[string]any, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, fault.New(fault.Invalid, "the source cannot be read").Because(err)
	}
	var m map[string]any
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, fault.New(fault.Invalid, "the source cannot be read").Because(err)
	}
	return m, nil
}

// mergePatch lays patch over base: null removes, objects merge, all else replaces.
func mergePatch(base, patch map[string]any) map[string]any {
	out := make(map[string]any, len(base)+len(patch))
	maps.Copy(out, base)
	for k, v := range patch {
		child, isMap := v.(map[string]any)
		switch {
		case v == nil:
			delete(out, k)
		case isMap:
			under, _ := out[k].(map[string]any)
			out[k] = mergePatch(under, child)
		default:
			out[k] = v
		}
	}
	return out
}
