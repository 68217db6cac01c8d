package delivery

import (
	"context"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	kschema "k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/policy"
	"github.com/holdfastcd/holdfast/internal/render"
	"github.com/holdfastcd/holdfast/internal/schema"
	"github.com/holdfastcd/holdfast/internal/secret"
	"github.com/holdfastcd/holdfast/internal/tree"
	"github.com/holdfastcd/holdfast/internal/trust"
)

// rendering gives these objects, whatever is asked for.
type rendering []object.Object

func (r rendering) Render(context.Context, render.Request, tree.Tree) (render.Result, error) {
	return render.Result{Objects: r}, nil
}

// telling opens SealedSecrets whose template answers a question about the value by failing.
type telling struct{ opened int }

func (u *telling) Unseal(*unstructured.Unstructured, func() error) (*unstructured.Unstructured, error) {
	u.opened++
	return nil, fault.New(fault.Invalid, "the template key (line 3) fails")
}

func (*telling) ID() string        { return "keys" }
func (*telling) Elsewhere() string { return "" }

// What a project may not deliver is not opened: the template of a SealedSecret is not
// sealed, and whoever copies somebody's value could ask it questions.
func TestNothingIsOpenedThatMayNotBeDelivered(t *testing.T) {
	gvk := kschema.GroupVersionKind{Group: "bitnami.com", Version: "v1alpha1", Kind: "SealedSecret"}
	known := kinds("Secret")
	known[gvk] = schema.Kind{GVK: gvk, Resource: "sealedsecrets", Namespaced: true}
	const manifest = "{apiVersion: bitnami.com/v1alpha1, kind: SealedSecret, metadata: {name: db, namespace: theirs}}"
	ours := func(namespace string) bool { return namespace == "ours" }
	tests := []struct {
		reason, says string
		rules        policy.Rules
		opened       int
	}{
		{"another's namespace", "namespace theirs is not permitted in project p", policy.Rules{Project: "p", Namespaces: ours}, 0},
		{
			"SealedSecrets, but no Secrets", "resource :Secret is not permitted in project p",
			policy.Rules{Project: "p", NamespaceDeny: []policy.GroupKind{{Group: "", Kind: "Secret"}}},
			0,
		},
		{"what is permitted is opened", "the template key (line 3) fails", policy.Rules{Project: "p"}, 1},
	}
	for _, tt := range tests {
		u := &telling{}
		_, err := Spec{Rules: tt.rules}.compose(t.Context(), trust.Verified{}, stages{
			render: rendering(parse(t, manifest)), served: known, examine: unexamined, digest: digest, unsealer: u, mask: &secret.Mask{},
		})
		if err == nil || !strings.Contains(err.Error(), tt.says) || !strings.HasPrefix(err.Error(), "all.yaml:1: ") || u.opened != tt.opened {
			t.Errorf("%s: %v, opened %d times, want %q and %d", tt.reason, err, u.opened, tt.says, tt.opened)
		}
	}
}

// The operations with private keys of one pass are bounded, and end with it.
func TestTurns(t *testing.T) {
	turn := turns(t.Context())
	for range maxTurns {
		if err := turn(); err != nil {
			t.Fatal(err)
		}
	}
	if err := turn(); fault.KindOf(err) != fault.Limit {
		t.Errorf("got %v, want Limit", err)
	}
	over, end := context.WithCancel(t.Context())
	end()
	if err := turns(over)(); err == nil {
		t.Error("the pass is over")
	}
}
