package admission

import (
	"crypto/tls"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/holdfastcd/holdfast/test/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

// TestLive has a real API server ask: for the namespaces that carry the label, and no
// others, also when nobody answers.
func TestLive(t *testing.T) {
	c := harness.Shared(t)
	g := gate(&law{}, Policies)
	guarded, other := c.Namespace(t), c.Namespace(t)
	g.Labels = func(string) (map[string]string, bool) { return map[string]string{Label: Locked}, true }
	certificate, ca, err := Certificate([]string{"127.0.0.1"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{ReadHeaderTimeout: time.Second, Handler: g.Handler(), TLSConfig: &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12}}
	go func() { _ = s.ServeTLS(l, "", "") }() // it ends with the test
	t.Cleanup(func() { _ = s.Close() })

	root := clients(t, c, "", "system:masters")
	_, err = root.RbacV1().ClusterRoleBindings().Create(t.Context(), &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "ann-" + guarded}, Subjects: []rbacv1.Subject{{Kind: "User", Name: "ann", APIGroup: rbacv1.GroupName}},
		RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	hooks := root.AdmissionregistrationV1().ValidatingWebhookConfigurations()
	hook := Configuration(Target{Namespace: "holdfast-system", URL: "https://" + l.Addr().String() + Path}, ca, g.Self)
	hook.Name += "-" + guarded
	if _, err := hooks.Create(t.Context(), hook, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := hooks.Delete(t.Context(), hook.Name, metav1.DeleteOptions{}); err != nil && t.Context().Err() == nil {
			t.Error(err)
		}
	})
	label(t, root, guarded)

	ann := clients(t, c, "ann")
	write := func(namespace, name, value string) error {
		_, err := ann.CoreV1().ConfigMaps(namespace).Create(t.Context(), &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{"a": value},
		}, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		return err
	}
	until(t, "a bad object to be refused", func() bool {
		return refusal(write(guarded, "a", "bad"), "policy s: p/r: ConfigMap/"+guarded+"/a: a is bad")
	})
	if err := write(guarded, "a", "good"); err != nil {
		t.Errorf("a good object: %v", err)
	}
	if err := write(other, "a", "bad"); err != nil {
		t.Errorf("a namespace without the label: %v", err)
	}
	held, err := root.CoreV1().ConfigMaps(guarded).Create(t.Context(), &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: "held", Labels: map[string]string{"by": "shop"}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatalf("who may break the glass: %v", err)
	}
	held.Data = map[string]string{"a": "mine"}
	if _, err := ann.CoreV1().ConfigMaps(guarded).Update(t.Context(), held, metav1.UpdateOptions{}); !refusal(err, "is held by Kustomization/apps/shop") {
		t.Errorf("a held object: %v", err)
	}
	if err := ann.CoreV1().ConfigMaps(guarded).Delete(t.Context(), "held", metav1.DeleteOptions{}); !refusal(err, "is held by") {
		t.Errorf("its end: %v", err)
	}
	if _, err := clients(t, c, g.Self[0], "system:masters").CoreV1().ConfigMaps(guarded).Update(t.Context(), held, metav1.UpdateOptions{}); err != nil {
		t.Errorf("Holdfast itself: %v", err)
	}

	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	until(t, "the namespace to be closed", func() bool { return write(guarded, "b", "good") != nil })
	if err := write(other, "b", "good"); err != nil {
		t.Errorf("nobody answers, and others are not concerned: %v", err)
	}
	if err := root.CoreV1().Namespaces().Delete(t.Context(), guarded, metav1.DeleteOptions{DryRun: []string{metav1.DryRunAll}}); err != nil {
		t.Errorf("what belongs to no namespace is never asked about: %v", err)
	}
}

func clients(t *testing.T, c *harness.Cluster, user string, groups ...string) kubernetes.Interface {
	t.Helper()
	cfg := c.Config()
	if user != "" {
		cfg.Impersonate.UserName, cfg.Impersonate.Groups = user, append(slices.Clone(groups), "system:authenticated")
	}
	all, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := all.AuthenticationV1().SelfSubjectReviews().Create(t.Context(), &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	return all
}

func label(t *testing.T, root kubernetes.Interface, namespace string) {
	t.Helper()
	n, err := root.CoreV1().Namespaces().Get(t.Context(), namespace, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	metav1.SetMetaDataLabel(&n.ObjectMeta, Label, Locked)
	if _, err := root.CoreV1().Namespaces().Update(t.Context(), n, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
}

func refusal(err error, says string) bool {
	return apierrors.IsForbidden(err) && strings.Contains(err.Error(), says)
}

// until asks again, for nothing tells when the API server has heard of a webhook.
func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	end := time.After(30 * time.Second)
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
