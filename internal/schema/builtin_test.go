package schema

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"
	clientscheme "k8s.io/client-go/kubernetes/scheme"
)

func TestBuiltin(t *testing.T) {
	tests := []struct {
		gvk    schema.GroupVersionKind
		reason string
		want   Kind
	}{
		{gvk: schema.GroupVersionKind{Version: "v1", Kind: "ConfigMap"}, reason: "core has no name", want: Kind{Resource: "configmaps", Namespaced: true}},
		{gvk: schema.GroupVersionKind{Version: "v1", Kind: "Namespace"}, reason: "namespaces are in none", want: Kind{Resource: "namespaces"}},
		{gvk: schema.GroupVersionKind{Group: "networking.k8s.io", Version: "v1", Kind: "Ingress"}, reason: "an uneven plural", want: Kind{Resource: "ingresses", Namespaced: true}},
		{gvk: schema.GroupVersionKind{Group: "rbac.authorization.k8s.io", Version: "v1", Kind: "ClusterRole"}, reason: "cluster scope", want: Kind{Resource: "clusterroles"}},
	}
	for _, tt := range tests {
		tt.want.GVK = tt.gvk
		got, ok := Builtin().Lookup(tt.gvk)
		if !ok {
			t.Errorf("%s: %s is missing", tt.reason, tt.gvk)
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.reason, diff)
		}
	}
	if _, ok := Builtin().Lookup(schema.GroupVersionKind{Version: "v1", Kind: "Nothing"}); ok {
		t.Error("an unknown kind was found")
	}
}

// The client library knows the kinds of its Kubernetes version by name. It
// guesses plurals by the same rule as the API's own conventions.
func TestBuiltinAgreesWithTheClientLibrary(t *testing.T) {
	elsewhere := map[string]bool{"apiextensions.k8s.io": true, "apiregistration.k8s.io": true}
	for gvk, kind := range Builtin() {
		if !elsewhere[gvk.Group] && !clientscheme.Scheme.Recognizes(gvk) {
			t.Errorf("%s is not a kind of Kubernetes", gvk)
		}
		plural, _ := meta.UnsafeGuessKindToResource(gvk)
		if kind.Resource != plural.Resource && gvk.Kind != "Endpoints" {
			t.Errorf("%s: resource %s, want %s", gvk, kind.Resource, plural.Resource)
		}
	}
}
