package sealed_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	stock "github.com/bitnami/sealed-secrets/pkg/apis/sealedsecrets/v1alpha1"
	"github.com/bitnami/sealed-secrets/pkg/crypto"
	"github.com/bitnami/sealed-secrets/pkg/kubeseal"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/secret"
	"github.com/holdfastcd/holdfast/internal/secret/sealed"
	"github.com/holdfastcd/holdfast/internal/server"
	"github.com/holdfastcd/holdfast/test/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

var _ secret.Unsealer = (*sealed.Keys)(nil)

// room is a cluster with a namespace for keys.
type room struct {
	t       *testing.T
	cluster *harness.Cluster
	kube    kubernetes.Interface
	system  string // with keys
	keys    *sealed.Keys
	made    int
	changes atomic.Int64
	tell    chan struct{}
	now     atomic.Pointer[time.Time]
}

func newRoom(t *testing.T, change func(*sealed.Options)) *room {
	t.Helper()
	c := harness.Shared(t)
	kube, err := kubernetes.NewForConfig(c.Config())
	if err != nil {
		t.Fatal(err)
	}
	r := &room{t: t, cluster: c, kube: kube, system: c.Namespace(t), tell: make(chan struct{}, 100)}
	now := time.Now()
	r.now.Store(&now)
	o := sealed.Options{
		Client: kube, Namespaces: []string{r.system}, Clock: func() time.Time { return *r.now.Load() },
		Changed: func() {
			r.changes.Add(1)
			select {
			case r.tell <- struct{}{}:
			default:
			}
		},
	}
	if change != nil {
		change(&o)
	}
	if r.keys, err = sealed.New(o); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *room) run() {
	ctx, cancel := context.WithCancel(r.t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = r.keys.Run(ctx) // returns nil
	}()
	r.t.Cleanup(func() { cancel(); <-done })
}

// await waits for changes until want holds.
func (r *room) await(aim string, want func() bool) {
	r.t.Helper()
	limit := time.After(30 * time.Second)
	for !want() {
		select {
		case <-r.tell:
		case <-limit:
			r.t.Fatalf("waited in vain for %s", aim)
		}
	}
}

// makeKey makes a key as the stock controller does, but shorter.
func (r *room) makeKey() *sealed.Key {
	r.t.Helper()
	return r.makeKeySince(time.Now().Add(-time.Minute))
}

func (r *room) makeKeySince(since time.Time) *sealed.Key {
	r.t.Helper()
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		r.t.Fatal(err)
	}
	r.made++ // certificates count seconds, and the newest is to be told
	cert, err := crypto.SignKeyWithNotBefore(rand.Reader, private, since.Add(time.Duration(r.made)*time.Second), 2*sealed.RenewEvery, "")
	if err != nil {
		r.t.Fatal(err)
	}
	s, err := r.kube.CoreV1().Secrets(r.system).Create(r.t.Context(), &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "sealed-secrets-key", Labels: map[string]string{sealed.KeyLabel: sealed.KeyActive}},
		Type:       corev1.SecretTypeTLS,
		Data: map[string][]byte{
			corev1.TLSPrivateKeyKey: pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(private)}),
			corev1.TLSCertKey:       pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}),
		},
	}, metav1.CreateOptions{})
	if err != nil {
		r.t.Fatal(err)
	}
	k, err := sealed.ReadKey(s)
	if err != nil {
		r.t.Fatal(err)
	}
	return k
}

func sealWith(t *testing.T, k *sealed.Key) *unstructured.Unstructured {
	t.Helper()
	public, _ := k.Certificate.PublicKey.(*rsa.PublicKey)
	s, err := stock.NewSealedSecret(scheme.Codecs, public, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "db"}, Data: map[string][]byte{"password": []byte("hunter2")},
	})
	if err != nil {
		t.Fatal(err)
	}
	s.APIVersion, s.Kind = sealed.APIVersion, sealed.Kind
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	o := &unstructured.Unstructured{}
	if err := o.UnmarshalJSON(b); err != nil {
		t.Fatal(err)
	}
	return o
}

func TestKeysFollowTheCluster(t *testing.T) {
	r := newRoom(t, nil)
	key := r.makeKey()
	o := sealWith(t, key)
	if _, err := r.keys.Unseal(o, nil); fault.KindOf(err) != fault.Waiting {
		t.Fatalf("before the keys are read: %v", err)
	}
	r.run()
	r.await("the keys to be read", func() bool { return r.keys.ID() != "" && r.changes.Load() > 0 })
	if _, err := r.keys.Unseal(o, nil); err != nil {
		t.Fatal(err)
	}
	before := r.keys.ID()
	second := r.makeKey()
	r.await("the second key", func() bool { return r.keys.ID() != before })
	ns, name, _ := strings.Cut(key.Secret, "/")
	patch := []byte(`{"metadata":{"labels":{"` + sealed.KeyLabel + `":"` + sealed.KeyCompromised + `"}}}`)
	if _, err := r.kube.CoreV1().Secrets(ns).Patch(t.Context(), name, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	r.await("the first key to be dropped", func() bool {
		_, err := r.keys.Unseal(o, nil)
		return fault.KindOf(err) == fault.NotFound &&
			strings.Contains(err.Error(), "keys at hand: "+second.String()+"; compromised, and not used: "+key.String())
	})
}

func TestTheStockControllerIsSeenComingAndGoing(t *testing.T) {
	r := newRoom(t, func(o *sealed.Options) { o.Recheck = time.Second })
	r.makeKey()
	r.run()
	r.await("the keys to be read", func() bool { return r.keys.ID() != "" && r.changes.Load() > 0 })
	if name := r.keys.Elsewhere(); name != "" {
		t.Fatalf("%s is not there", name)
	}
	// A tenant's Deployment that only looks like it keeps nobody's SealedSecrets shut.
	tenant := r.cluster.Namespace(t)
	r.deploy(tenant, "fake", map[string]string{"app.kubernetes.io/name": "sealed-secrets"}, "evil/sealed-secrets-controller:1")
	r.deploy(r.system, "web", map[string]string{"app.kubernetes.io/name": "sealed-secrets"}, "nginx:1")
	r.deploy(r.system, "controller", map[string]string{"name": "sealed-secrets-controller"}, "mirror.example.org/x/sealed-secrets-controller:0.38.4@sha256:00")
	r.await("the stock controller", func() bool { return strings.Contains(r.keys.Elsewhere(), r.system+"/controller") })
	scale := []byte(`{"spec":{"replicas":0}}`)
	if _, err := r.kube.AppsV1().Deployments(r.system).Patch(t.Context(), "controller", types.MergePatchType, scale, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	r.await("the stock controller to end", func() bool { return r.keys.Elsewhere() == "" })

	// One whose account may write Secrets everywhere is the cluster's, wherever it is,
	// also when it gets the right later. So would the one that looks like it be.
	if err := r.kube.AppsV1().Deployments(tenant).Delete(t.Context(), "fake", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	r.deploy(tenant, "real", map[string]string{"app.kubernetes.io/part-of": "sealed-secrets"}, "sealed-secrets-controller")
	binding, err := r.kube.RbacV1().ClusterRoleBindings().Create(t.Context(), &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "sealed-"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: tenant, Name: "default"}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = r.kube.RbacV1().ClusterRoleBindings().Delete(context.WithoutCancel(t.Context()), binding.Name, metav1.DeleteOptions{})
	})
	r.await("the stock controller elsewhere", func() bool { return strings.Contains(r.keys.Elsewhere(), tenant+"/real") })
	if err := r.kube.AppsV1().Deployments(tenant).Delete(t.Context(), "real", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	r.await("the stock controller to be gone", func() bool { return r.keys.Elsewhere() == "" })
}

func (r *room) deploy(namespace, name string, labels map[string]string, image string) {
	r.t.Helper()
	pod := map[string]string{"d": name}
	_, err := r.kube.AppsV1().Deployments(namespace).Create(r.t.Context(), &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels},
		Spec: appsv1.DeploymentSpec{
			Paused:   true, // no Pods are needed
			Selector: &metav1.LabelSelector{MatchLabels: pod},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: pod}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: image}}}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		r.t.Fatal(err)
	}
}

func TestTheFirstKeyIsMadeWhereItIsAskedFor(t *testing.T) {
	r := newRoom(t, nil)
	r.run()
	r.await("the namespace to be read", func() bool { return r.changes.Load() > 0 })
	if _, err := r.keys.Fetch(t.Context()); fault.KindOf(err) != fault.NotFound {
		t.Errorf("nobody asked for a key to be made: %v", err)
	}
	r = newRoom(t, func(o *sealed.Options) { o.Create, o.Renew = true, sealed.RenewEvery })
	if _, err := r.keys.Fetch(t.Context()); fault.KindOf(err) != fault.Waiting {
		t.Errorf("keys may be there: %v", err)
	}
	r.run()
	r.await("the namespace to be read", func() bool { return r.changes.Load() > 0 })
	cert, err := r.keys.Fetch(t.Context())
	if err != nil || !bytes.Equal(cert, r.keys.Certificate()) {
		t.Fatalf("%v", err)
	}
	made, err := sealed.ParseCertificate(cert)
	if err != nil {
		t.Fatal(err)
	}
	if public, _ := made.PublicKey.(*rsa.PublicKey); public.Size() != 4096/8 {
		t.Errorf("a key of %d bytes, unlike those of the stock controller", public.Size())
	}
	if again, err := r.keys.Fetch(t.Context()); err != nil || !bytes.Equal(cert, again) {
		t.Error("another key was made")
	}
	list, err := r.kube.CoreV1().Secrets(r.system).List(t.Context(), metav1.ListOptions{LabelSelector: sealed.KeyLabel + "=" + sealed.KeyActive})
	if err != nil || len(list.Items) != 1 {
		t.Errorf("%d keys, %v", len(list.Items), err)
	}
}

func TestKeysAreRenewed(t *testing.T) {
	r := newRoom(t, func(o *sealed.Options) { o.Renew = sealed.RenewEvery })
	old := r.makeKeySince(time.Now().Add(-sealed.RenewEvery - time.Hour))
	r.run()
	var cert []byte
	r.await("a new key", func() bool {
		cert = r.keys.Certificate()
		c, err := sealed.ParseCertificate(cert)
		return err == nil && c.NotBefore.After(old.Certificate.NotBefore)
	})
	if _, err := r.keys.Unseal(sealWith(t, old), nil); err != nil {
		t.Errorf("the old key opens no longer: %v", err)
	}
}

// TestTheStockClient drives the library of kubeseal against the port, by way of the API
// server's proxy for Services.
func TestTheStockClient(t *testing.T) {
	r := newRoom(t, nil)
	r.makeKey()
	r.run()
	r.await("the keys to be read", func() bool { return r.keys.ID() != "" && r.changes.Load() > 0 })
	r.serve()
	client := clientConfig{r.cluster.Config()}

	cert, err := kubeseal.OpenCert(t.Context(), client, r.system, "holdfast", "")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cert.Close() }()
	public, err := kubeseal.ParseKey(cert)
	if err != nil {
		t.Fatal(err)
	}
	plain := `{"apiVersion":"v1","kind":"Secret","metadata":{"name":"db","namespace":"shop"},"stringData":{"password":"hunter2"}}`
	var sealedSecret bytes.Buffer
	if err := kubeseal.Seal(client, "json", strings.NewReader(plain), &sealedSecret, scheme.Codecs, public, stock.StrictScope, false, "", ""); err != nil {
		t.Fatal(err)
	}
	if err := kubeseal.ValidateSealedSecret(t.Context(), client, r.system, "holdfast", bytes.NewReader(sealedSecret.Bytes())); err != nil {
		t.Errorf("verify: %v", err)
	}
	moved := strings.ReplaceAll(sealedSecret.String(), `"shop"`, `"other"`)
	if err := kubeseal.ValidateSealedSecret(t.Context(), client, r.system, "holdfast", strings.NewReader(moved)); err == nil || !strings.Contains(err.Error(), "unable to decrypt") {
		t.Errorf("verify of what does not open: %v", err)
	}
	second := r.makeKey()
	r.await("the second key to seal", func() bool {
		c, err := sealed.ParseCertificate(r.keys.Certificate())
		return err == nil && c.Equal(second.Certificate)
	})
	var again bytes.Buffer
	if err := kubeseal.ReEncryptSealedSecret(t.Context(), client, r.system, "holdfast", "json", bytes.NewReader(sealedSecret.Bytes()), &again, scheme.Codecs); err != nil {
		t.Fatal(err)
	}
	o := &unstructured.Unstructured{}
	if err := o.UnmarshalJSON(again.Bytes()); err != nil {
		t.Fatal(err)
	}
	only, err := sealed.Of(second)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := only.Unseal(o, nil); err != nil {
		t.Errorf("sealed anew, it does not open with the new key alone: %v", err)
	}
}

type clientConfig struct{ *rest.Config }

func (c clientConfig) ClientConfig() (*rest.Config, error) { return rest.CopyConfig(c.Config), nil }
func (clientConfig) Namespace() (string, bool, error)      { return "default", false, nil }

// serve answers behind a Service called holdfast. The API server forwards to Pods alone,
// and to no loopback address.
func (r *room) serve() {
	r.t.Helper()
	l, err := (&net.ListenConfig{}).Listen(r.t.Context(), "tcp", harness.Address(r.t)+":0")
	if err != nil {
		r.t.Fatal(err)
	}
	s := &http.Server{ReadHeaderTimeout: time.Second, Handler: server.New(server.Options{Sealing: r.keys}).Handler()}
	go func() { _ = s.Serve(l) }() // it ends with the test
	r.t.Cleanup(func() { _ = s.Close() })

	host, _, _ := net.SplitHostPort(l.Addr().String())
	address, _ := l.Addr().(*net.TCPAddr)
	pods := r.kube.CoreV1().Pods(r.system)
	p, err := pods.Create(r.t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "holdfast"},
		Spec:       corev1.PodSpec{SchedulerName: "nobody", Containers: []corev1.Container{{Name: "holdfast", Image: "holdfast"}}},
	}, metav1.CreateOptions{})
	if err != nil {
		r.t.Fatal(err)
	}
	p.Status.PodIP, p.Status.PodIPs = host, []corev1.PodIP{{IP: host}}
	if _, err := pods.UpdateStatus(r.t.Context(), p, metav1.UpdateOptions{}); err != nil {
		r.t.Fatal(err)
	}
	_, err = r.kube.CoreV1().Services(r.system).Create(r.t.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "holdfast"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "http", Port: 80}}},
	}, metav1.CreateOptions{})
	if err != nil {
		r.t.Fatal(err)
	}
	_, err = r.kube.CoreV1().Endpoints(r.system).Create(r.t.Context(), &corev1.Endpoints{ //nolint:staticcheck // the proxy looks for these
		ObjectMeta: metav1.ObjectMeta{Name: "holdfast"},
		Subsets: []corev1.EndpointSubset{{ //nolint:staticcheck // see above
			Addresses: []corev1.EndpointAddress{{IP: host, TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: r.system, Name: p.Name, UID: p.UID}}},
			Ports:     []corev1.EndpointPort{{Name: "http", Port: int32(address.Port)}},
		}},
	}, metav1.CreateOptions{})
	if err != nil {
		r.t.Fatal(err)
	}
}
