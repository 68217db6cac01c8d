package e2e

import (
	"context"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/holdfastcd/holdfast/test/gitserver"
	"github.com/holdfastcd/holdfast/test/harness"
)

// TestOthersAreJudged has the API server ask about what somebody writes past Git: an open
// NetworkPolicy is refused, and so is a change of what is delivered; also while nobody
// answers, but then nowhere else.
func TestOthersAreJudged(t *testing.T) {
	w := theWorld(t)
	w.main.terminate(t)
	t.Cleanup(func() { w.restart(t) })
	w.says(t, 0, "ClusterRole/holdfast-admission applied", "install", "--admission")
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	address := listener.Addr().String()
	must(t, listener.Close())
	flags := []string{"--admission-address=" + address, "--admission-url=https://" + address}
	data := filepath.Join(t.TempDir(), "data")
	c, err := w.startController(data, flags...)
	must(t, err)
	t.Cleanup(func() {
		_ = w.kube.AdmissionregistrationV1().ValidatingWebhookConfigurations().Delete(context.Background(), "holdfast", metav1.DeleteOptions{})
	})

	ns, elsewhere := w.tenant(t), w.tenant(t)
	w.patch(t, harness.Namespaces, "", ns, `{"metadata":{"labels":{"holdfast.dev/admission":"locked"}}}`)
	w.policySet(t, ns, "  select: {namespaces: ["+ns+"]}\n  builtin: [{name: no-public-ingress}]\n")
	repo := w.repository(t, map[string]string{"app/policy.yaml": ingress("web", "10.0.0.0/8"), "app/config.yaml": configMap("settings", "one")})
	head, err := repo.Head()
	must(t, err)
	w.flux(t, ns, repo.URL(), "./app")
	w.cluster.Await(t, kustomizations, ns, "app", "to be delivered past the gate", appliedAt(head))

	cfg := w.cluster.Config()
	cfg.Impersonate.UserName, cfg.Impersonate.Groups = "ann", []string{"system:authenticated"}
	ann, err := kubernetes.NewForConfig(cfg)
	must(t, err)
	w.apply(t, "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRoleBinding\nmetadata: {name: ann}\n"+
		"roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: admin}\nsubjects: [{kind: User, name: ann, apiGroup: rbac.authorization.k8s.io}]\n")
	open := func(namespace string) error {
		_, err := ann.NetworkingV1().NetworkPolicies(namespace).Create(t.Context(), &networkingv1.NetworkPolicy{
			ObjectMeta: metav1.ObjectMeta{Name: "open"},
			Spec: networkingv1.NetworkPolicySpec{Ingress: []networkingv1.NetworkPolicyIngressRule{{
				From: []networkingv1.NetworkPolicyPeer{{IPBlock: &networkingv1.IPBlock{CIDR: "0.0.0.0/0"}}},
			}}},
		}, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		return err
	}
	until(t, "the open policy to be refused", func() bool { return forbidden(open(ns), "no-public-ingress") })
	if err := open(elsewhere); err != nil {
		t.Errorf("a namespace without the label: %v", err)
	}
	change := func() error {
		_, err := ann.CoreV1().ConfigMaps(ns).Patch(t.Context(), "settings", types.MergePatchType, []byte(`{"data":{"value":"mine"}}`), metav1.PatchOptions{})
		return err
	}
	if err := change(); !forbidden(err, "ConfigMap/"+ns+"/settings is held by Kustomization/"+ns+"/app") {
		t.Errorf("a change of what is delivered: %v", err)
	}
	two := commit(t, repo, gitserver.Put("app/config.yaml", configMap("settings", "two")))
	c.push(t, repo)
	w.cluster.Await(t, kustomizations, ns, "app", "to be delivered past the lock", appliedAt(two))

	c.kill()
	if err := change(); err == nil || !apierrors.IsInternalError(err) {
		t.Errorf("nobody answers, and it is not refused: %v", err)
	}
	if err := open(elsewhere); err != nil {
		t.Errorf("nobody answers, and others wait for it: %v", err)
	}
	three := commit(t, repo, gitserver.Put("app/config.yaml", configMap("settings", "three")))
	c, err = w.startController(data, flags...)
	must(t, err)
	w.cluster.Await(t, kustomizations, ns, "app", "to come back by itself", appliedAt(three))
	c.terminate(t)
}

func forbidden(err error, says string) bool {
	return apierrors.IsForbidden(err) && strings.Contains(err.Error(), says)
}

// until asks again: nothing tells when the API server has heard of a webhook.
func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	end := time.After(time.Minute)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !is() {
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("waited for %s in vain", what)
		}
	}
}
