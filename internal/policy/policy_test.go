package policy

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	kschema "k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/schema"
)

func TestPermits(t *testing.T) {
	role := object.ID{Group: "rbac.authorization.k8s.io", Kind: "ClusterRole", Name: "admin"}
	secret := object.ID{Kind: "Secret", Namespace: "apps-web", Name: "s"}
	tests := map[string]struct {
		reason     string
		rules      Rules
		id         object.ID
		namespaced bool
		want       string // part of the refusal; empty: permitted
	}{
		"no project":              {"the zero rules permit everything", Rules{}, role, false, ""},
		"cluster, nothing listed": {"an empty whitelist permits no cluster-scoped kind", Rules{Project: "p"}, role, false, "not permitted in project p"},
		"cluster, listed": {
			"a listed kind is permitted",
			Rules{Project: "p", ClusterAllow: []GroupKind{{Group: "rbac.authorization.k8s.io", Kind: "*"}}},
			role, false, "",
		},
		"cluster, listed by name": {
			"a name narrows the entry",
			Rules{Project: "p", ClusterAllow: []GroupKind{{Group: "*", Kind: "ClusterRole", Name: "view-*"}}},
			role, false, "not permitted",
		},
		"cluster, denied": {
			"the blacklist wins",
			Rules{Project: "p", ClusterAllow: []GroupKind{{Group: "*", Kind: "*"}}, ClusterDeny: []GroupKind{{Group: "*", Kind: "ClusterRole"}}},
			role, false, "not permitted",
		},
		"namespaced, no lists":   {"a nil whitelist permits all namespaced kinds", Rules{Project: "p"}, secret, true, ""},
		"namespaced, empty list": {"an empty whitelist permits none", Rules{Project: "p", NamespaceAllow: []GroupKind{}}, secret, true, "not permitted"},
		"namespaced, denied": {
			"the blacklist wins",
			Rules{Project: "p", NamespaceDeny: []GroupKind{{Group: "", Kind: "Secret"}}},
			secret, true, "not permitted",
		},
		"namespace": {
			"a namespace outside the destinations is refused",
			Rules{Project: "p", Namespaces: func(ns string) bool { return ns == "other" }},
			secret, true, "namespace apps-web",
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			err := tc.rules.Permits(tc.id, tc.namespaced)
			switch {
			case tc.want == "" && err != nil:
				t.Errorf("%s: refused: %v", tc.reason, err)
			case tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)):
				t.Errorf("%s: got %v, want %q", tc.reason, err, tc.want)
			}
		})
	}
}

func TestAdmitRefusesTheWholeDelivery(t *testing.T) {
	o := func(kind, name string, line int) object.Object {
		u := unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": kind}}
		u.SetName(name)
		u.SetNamespace("apps")
		return object.Object{Unstructured: u, Origin: object.Origin{File: "all.yaml", Line: line}}
	}
	kinds := schema.Table{}
	for _, kind := range []string{"ConfigMap", "Secret"} {
		gvk := kschema.GroupVersionKind{Version: "v1", Kind: kind}
		kinds[gvk] = schema.Kind{GVK: gvk, Namespaced: true}
	}
	rules := Rules{Project: "p", NamespaceDeny: []GroupKind{{Group: "", Kind: "Secret"}}}
	_, err := rules.Admit([]object.Object{o("ConfigMap", "good", 1), o("Secret", "bad", 7)}, kinds)
	if fault.KindOf(err) != fault.Refused || !strings.HasPrefix(err.Error(), "all.yaml:7: Secret/apps/bad: ") {
		t.Errorf("got %v, want a refusal at all.yaml:7", err)
	}
	admitted, err := Rules{}.Admit([]object.Object{o("ConfigMap", "good", 1)}, kinds)
	if err != nil || len(admitted.Objects()) != 1 {
		t.Errorf("got %v, %v", admitted, err)
	}
}
