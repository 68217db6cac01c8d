package render

import (
	"fmt"
	"testing"

	"github.com/holdfastcd/holdfast/internal/tree"
	"github.com/holdfastcd/holdfast/internal/worker"
)

// partly is a kustomization that patches a part of a Thing, with a schema that
// calls Things of a group lists to be merged by name; without a group, no schema.
func partly(t *testing.T, group string, size int) tree.Tree {
	t.Helper()
	kustomization := "resources: [thing.yaml]\npatches:\n- patch: |\n    apiVersion: one.example/v1\n    kind: Thing\n" +
		fmt.Sprintf("    metadata: {name: t}\n    spec:\n      parts:\n      - {name: b, size: %d}\n", size)
	pairs := []string{"thing.yaml", "apiVersion: one.example/v1\nkind: Thing\nmetadata: {name: t}\nspec:\n  parts:\n  - {name: a, size: 1}\n  - {name: b, size: 2}\n"}
	if group != "" {
		kustomization += "openapi: {path: schema.json}\n"
		pairs = append(pairs, "schema.json", fmt.Sprintf(`{"definitions": {"x.%[1]s.Thing": {"type": "object",
  "x-kubernetes-group-version-kind": [{"group": %[1]q, "kind": "Thing", "version": "v1"}],
  "properties": {"spec": {"type": "object", "properties": {"parts": {"type": "array",
    "items": {"type": "object", "properties": {"name": {"type": "string"}, "size": {"type": "integer"}}},
    "x-kubernetes-patch-merge-key": "name", "x-kubernetes-patch-strategy": "merge"}}}}}}}`, group))
	}
	return files(t, append(pairs, "kustomization.yaml", kustomization)...)
}

// TestSideBySide: many builds asked for at once, of tenants whose schemas say
// different things of one kind, give each what it gives alone. In one process at
// the same time, krusty's builds mix their schemas up.
func TestSideBySide(t *testing.T) {
	r := newRenderer(t, worker.Options{Size: 2})
	tenants := []struct {
		group string // that the schema is about
		parts int
	}{
		{"one.example", 2},
		{"two.example", 1},
		{"", 1},
	}
	const builds = 60
	errs := make(chan error, builds)
	for i := range builds {
		tenant := tenants[i%len(tenants)]
		source := partly(t, tenant.group, 100+i)
		go func() {
			result, err := r.Render(t.Context(), Request{}, source)
			if err != nil {
				errs <- err
				return
			}
			spec, _ := result.Objects[0].Object["spec"].(map[string]any)
			parts, _ := spec["parts"].([]any)
			if want := fmt.Sprintf("map[name:b size:%d]", 100+i); len(parts) != tenant.parts || fmt.Sprint(parts[0]) != want {
				errs <- fmt.Errorf("build %d, with a schema about %q: parts are %v, want %d of them, the first %s", i, tenant.group, parts, tenant.parts, want)
				return
			}
			errs <- nil
		}()
	}
	for range builds {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}
