package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/holdfastcd/holdfast/test/harness"
	"github.com/holdfastcd/holdfast/test/signing"
)

// TestWhatCannotBeProven has nothing applied where a policy cannot be judged, or what it
// asks for cannot be had, and the object say why and what to do.
func TestWhatCannotBeProven(t *testing.T) {
	w := theWorld(t)
	key := signing.NewKey(t)
	const exchange = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VuAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n"
	tests := map[string]struct {
		reason, policy string
		says           []string
	}{
		"registry is down": {
			"nobody listens there", fmt.Sprintf("  images: {authorities: [{name: release, key: {inline: %q}}]}\n", key.Public),
			[]string{"127.0.0.1:1", "cannot be reached"},
		},
		"missing key": {
			"the ConfigMap was not made", "  commits: {authorities: [{name: me, ssh: {configMapRef: {namespace: default, name: no-such, key: keys}}}]}\n",
			[]string{"ConfigMap default/no-such does not exist; create it"},
		},
		"unknown algorithm": {
			"it is a key for agreement, not for signatures", fmt.Sprintf("  images: {authorities: [{name: release, key: {inline: %q}}]}\n", exchange),
			[]string{"kind that is not known"},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			ns := w.tenant(t)
			repo := w.repository(t, map[string]string{"app/shop.yaml": running("shop", "127.0.0.1:1/shop:v1"), "app/config.yaml": configMap("settings", "one")})
			w.apply(t, fmt.Sprintf("apiVersion: holdfast.dev/v1alpha1\nkind: TrustPolicy\nmetadata: {name: %[1]s}\nspec:\n  select: {namespaces: [%[1]s]}\n%[2]s", ns, tc.policy))
			t.Cleanup(func() { // not with the test's context, which has ended
				_ = w.cluster.Dynamic().Resource(trustPolicies).Delete(context.Background(), ns, metav1.DeleteOptions{})
			})
			w.cluster.Await(t, trustPolicies, "", ns, "to be judged by, or broken", func(o *unstr) bool { return condition(o, "Ready") != "" })
			w.flux(t, ns, repo.URL(), "./app")
			w.cluster.Await(t, kustomizations, ns, "app", "to say why, and what to do", says("Ready", append([]string{"False"}, tc.says...)...))
			for _, resource := range []string{"settings", "shop"} {
				gvr := harness.ConfigMaps
				if resource == "shop" {
					gvr = harness.Deployments
				}
				if _, err := w.cluster.Dynamic().Resource(gvr).Namespace(ns).Get(t.Context(), resource, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
					t.Errorf("%s: %s was applied (%v)", tc.reason, resource, err)
				}
			}
			if refused := w.cluster.Await(t, kustomizations, ns, "app", "to exist", harness.Exists); strings.Contains(field(refused, "status.inventory"), ns) {
				t.Errorf("%s: it holds %s", tc.reason, field(refused, "status.inventory"))
			}
		})
	}
}
