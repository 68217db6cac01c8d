package delivery

import (
	"context"
	"testing"

	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/render"
	"github.com/holdfastcd/holdfast/internal/schema"
	"github.com/holdfastcd/holdfast/internal/secret"
	"github.com/holdfastcd/holdfast/internal/substitute"
	"github.com/holdfastcd/holdfast/internal/tree"
	"github.com/holdfastcd/holdfast/internal/tree/treetest"
)

// opening is a renderer whose objects were made of files that stood sealed.
type opening struct {
	object map[string]any
	opened []string
}

func (r opening) Render(context.Context, render.Request, tree.Tree) (render.Result, error) {
	o := object.Object{}
	o.Object = r.object
	out := render.Result{Objects: []object.Object{o}}
	for _, v := range r.opened {
		out.Opened = append(out.Opened, secret.Hide([]byte(v)))
	}
	return out, nil
}

// TestSealedWithVariables holds that what stood sealed is masked, and known to policies
// as sealed, after variables were put into it; and that what is filled in from a Secret
// of the cluster is no plaintext either.
func TestSealedWithVariables(t *testing.T) {
	tests := []struct {
		reason, value string
		opened        []string
		sealed        bool
		masked        string
	}{
		{"no variable", "pass", []string{"pass"}, true, "pass"},
		{"a variable in what was sealed", "a-${who}-z", []string{"a-${who}-z"}, true, "a-me-z"},
		{"one that is not secret, in plaintext", "a-${who}-z", nil, false, "a-me-z"},
		{"a secret one", "${token}", nil, true, "t0ps3cret"},
		{"a secret one, among more", "https://me:${token}@host", nil, true, "t0ps3cret"},
		{"plaintext beside something sealed", "open", []string{"other"}, false, "open"},
	}
	for _, tt := range tests {
		t.Run(tt.reason, func(t *testing.T) {
			spec := Spec{Substitute: &substitute.Variables{Variables: map[string]string{"who": "me", "token": "t0ps3cret"}, Secret: map[string]bool{"token": true}}}
			mask := &secret.Mask{}
			r := opening{map[string]any{
				"apiVersion": "v1", "kind": "Secret", "metadata": map[string]any{"name": "s", "namespace": "n"}, "stringData": map[string]any{"v": tt.value},
			}, tt.opened}
			got, err := spec.source(t.Context(), stages{render: r, mask: mask}, treetest.FromFiles(nil))
			if err != nil {
				t.Fatal(err)
			}
			hide(mask, got.Objects...)
			c := spec.Case(got.Objects, schema.Builtin(), Around{Sealed: func(_ object.ID, value string) bool { return mask.FromSealed(value) }})
			if c.Subjects[0].Sealed != tt.sealed {
				t.Errorf("sealed is %v, want %v", c.Subjects[0].Sealed, tt.sealed)
			}
			if !mask.Holds("it says " + tt.masked) {
				t.Errorf("%q is not masked", tt.masked)
			}
		})
	}
	mask := &secret.Mask{}
	mask.AddSealed("user=${who}")
	follow(mask, map[string]any{"data": map[string]any{"c": "user=${who}", "l": []any{"user=${who}"}}}, map[string]any{"data": map[string]any{"c": "user=me", "l": []any{"user=you"}}})
	if text := mask.Text("user=me, user=you"); text != "***, ***" {
		t.Errorf("what is no Secret, and stood sealed, is masked: %s", text)
	}
}
