package remote_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/holdfastcd/holdfast/deploy"
	"github.com/holdfastcd/holdfast/internal/audit"
	"github.com/holdfastcd/holdfast/internal/audit/remote"
	"github.com/holdfastcd/holdfast/internal/cli"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/server"
	"github.com/holdfastcd/holdfast/internal/why"
	"github.com/holdfastcd/holdfast/test/harness"
)

func TestMain(m *testing.M) {
	run("version") // the first command silences libraries, which is not done while they are in use
	harness.Main(m)
}

// installation is a log that is served as a controller in a cluster does it: behind a
// Service, by the account and with the roles that are installed.
type installation struct {
	cluster *harness.Cluster
	clients kubernetes.Interface
	system  string // its namespace
	team    string // the namespace of a tenant
	log     *audit.Log
	dir     string
	key     audit.Key
}

func install(t *testing.T) *installation {
	t.Helper()
	i := &installation{cluster: harness.Shared(t)}
	i.system, i.team = i.cluster.Namespace(t), i.cluster.Namespace(t)
	var err error
	if i.clients, err = kubernetes.NewForConfig(i.cluster.Config()); err != nil {
		t.Fatal(err)
	}
	i.apply(t)
	i.open(t)
	i.serve(t)
	return i
}

// apply installs the roles and accounts as they are delivered.
func (i *installation) apply(t *testing.T) {
	t.Helper()
	c, err := client.New(i.cluster.Config(), client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	objects, err := deploy.Manifests(deploy.Options{Namespace: i.system})
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range objects {
		switch o.GetKind() {
		case "ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding":
			if err := c.Apply(t.Context(), client.ApplyConfigurationFromUnstructured(o), client.FieldOwner("test"), client.ForceOwnership); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func (i *installation) open(t *testing.T) {
	t.Helper()
	i.dir = filepath.Join(t.TempDir(), "log")
	var err error
	if i.key, err = audit.LoadOrCreateKey(filepath.Join(t.TempDir(), "key"), "test", strings.NewReader(strings.Repeat("k", 100))); err != nil {
		t.Fatal(err)
	}
	if i.log, err = audit.Open(t.Context(), audit.Options{Dir: i.dir, Signer: i.key.Signer, Verifier: i.key.Verifier}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := i.log.Close(); err != nil {
			t.Error(err)
		}
	})
}

// serve answers behind a Service called holdfast. The API server forwards to no
// loopback address.
func (i *installation) serve(t *testing.T) {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", harness.Address(t)+":0")
	if err != nil {
		t.Fatal(err)
	}
	cfg := i.cluster.Config()
	cfg.Impersonate.UserName = "system:serviceaccount:" + i.system + ":holdfast"
	reviewer, err := remote.NewReviewer(cfg, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{ReadHeaderTimeout: time.Second, Handler: server.New(server.Options{Audit: &server.Audit{
		Log: remote.Kept(i.log), Files: audit.Files(audit.Dir(i.dir)), Key: i.key.Public, Review: reviewer.Review,
	}}).Handler()}
	go func() { _ = s.Serve(l) }() // it ends with the test
	t.Cleanup(func() { _ = s.Close() })

	host, _, _ := net.SplitHostPort(l.Addr().String())
	port := int32(l.Addr().(*net.TCPAddr).Port)
	_, err = i.clients.CoreV1().Services(i.system).Create(t.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "holdfast"},
		Spec:       corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "http", Port: 80}}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	// The API server's proxy looks for these, and not for EndpointSlices.
	_, err = i.clients.CoreV1().Endpoints(i.system).Create(t.Context(), &corev1.Endpoints{ //nolint:staticcheck // see above
		ObjectMeta: metav1.ObjectMeta{Name: "holdfast"},
		Subsets: []corev1.EndpointSubset{{ //nolint:staticcheck // see above
			Addresses: []corev1.EndpointAddress{{IP: host, TargetRef: i.pod(t, host)}},
			Ports:     []corev1.EndpointPort{{Name: "http", Port: port}},
		}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

// pod makes a Pod that claims an address: the API server forwards to Pods alone.
func (i *installation) pod(t *testing.T, ip string) *corev1.ObjectReference {
	t.Helper()
	pods := i.clients.CoreV1().Pods(i.system)
	p, err := pods.Create(t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "holdfast"},
		Spec:       corev1.PodSpec{SchedulerName: "nobody", Containers: []corev1.Container{{Name: "holdfast", Image: "holdfast"}}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	p.Status.PodIP, p.Status.PodIPs = ip, []corev1.PodIP{{IP: ip}}
	if _, err := pods.UpdateStatus(t.Context(), p, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	return &corev1.ObjectReference{Kind: "Pod", Namespace: i.system, Name: p.Name, UID: p.UID}
}

// as returns the configuration of a user, who has the rights of roles in namespaces.
func (i *installation) as(t *testing.T, user string, roles map[string]string) *rest.Config {
	t.Helper()
	for namespace, role := range roles {
		_, err := i.clients.RbacV1().RoleBindings(namespace).Create(t.Context(), &rbacv1.RoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: user + "-" + role},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: role},
			Subjects:   []rbacv1.Subject{{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: user}},
		}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
	}
	cfg := i.cluster.Config()
	cfg.Impersonate.UserName = user
	return cfg
}

// role makes a role.
func (i *installation) role(t *testing.T, namespace, name string, rules ...rbacv1.PolicyRule) {
	t.Helper()
	_, err := i.clients.RbacV1().Roles(namespace).Create(t.Context(), &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: rules}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

var (
	reach = rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"services/proxy"}, ResourceNames: []string{"holdfast:http"}, Verbs: []string{"get"}}
	token = rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"serviceaccounts/token"}, ResourceNames: []string{remote.Account}, Verbs: []string{"create"}}
)

// client asks by the way of the command line: a token of the first account to be had,
// and the API server between.
func (i *installation) client(t *testing.T, cfg *rest.Config) *remote.Client {
	t.Helper()
	c, err := remote.Proxied(cfg, types.NamespacedName{Namespace: i.system, Name: "holdfast"}, remote.TokenOf(cfg, time.Now,
		types.NamespacedName{Namespace: i.system, Name: remote.Account}, types.NamespacedName{Namespace: i.team, Name: remote.Account}))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// tokenOf returns a token of an account in the team's namespace.
func (i *installation) tokenOf(t *testing.T, account string, audiences ...string) remote.Token {
	t.Helper()
	answer, err := i.clients.CoreV1().ServiceAccounts(i.team).CreateToken(t.Context(), account,
		&authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{Audiences: audiences}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return remote.Fixed(answer.Status.Token)
}

// tenant makes an account that may read entries of the team's deliveries.
func (i *installation) tenant(t *testing.T) {
	t.Helper()
	_, err := i.clients.CoreV1().ServiceAccounts(i.team).Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: remote.Account}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = i.clients.RbacV1().RoleBindings(i.team).Create(t.Context(), &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: remote.Account},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "holdfast-audit-reader"},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Name: remote.Account, Namespace: i.team}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	i.role(t, i.team, "token", token)
	i.role(t, i.system, "reach", reach)
}

// Who may read what, as the API server judges it.
func TestRights(t *testing.T) {
	i := install(t)
	i.tenant(t)
	for _, delivery := range []string{"Kustomization/" + i.team + "/apps", "Application/argocd/shop"} {
		if _, err := i.log.Append(t.Context(), audit.Entry{Action: audit.Refuse, Delivery: delivery}, nil); err != nil {
			t.Fatal(err)
		}
	}
	auditor := i.client(t, i.as(t, "auditor", map[string]string{i.system: "holdfast-auditor"}))
	member := i.client(t, i.as(t, "member", map[string]string{i.system: "reach", i.team: "token"}))
	visitor := i.client(t, i.as(t, "visitor", map[string]string{i.system: "reach"}))
	outsider := i.client(t, i.as(t, "outsider", nil))
	direct := func(token remote.Token) *remote.Client {
		c, err := remote.Proxied(i.cluster.Config(), types.NamespacedName{Namespace: i.system, Name: "holdfast"}, token)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	cases := map[string]struct {
		reason    string
		client    *remote.Client
		namespace string
		want      int
		kind      fault.Kind
		fails     bool
	}{
		"Auditor":          {reason: "the installed roles suffice to read everything", client: auditor, want: 2},
		"Member":           {reason: "a namespaced reader sees its namespace", client: member, namespace: i.team, want: 1},
		"MemberAll":        {reason: "and nothing else", client: member, fails: true, kind: fault.Refused},
		"MemberElsewhere":  {reason: "and no other namespace", client: member, namespace: "argocd", fails: true, kind: fault.Refused},
		"Visitor":          {reason: "who gets no token reads nothing", client: visitor, fails: true, kind: fault.Refused},
		"Outsider":         {reason: "who has no right at all reads nothing", client: outsider, fails: true, kind: fault.Refused},
		"NobodysToken":     {reason: "a token that the API server does not know", client: direct(remote.Fixed("abc")), fails: true, kind: fault.Unauthorized},
		"NoToken":          {reason: "an administrator's own rights are not shown to the controller", client: direct(remote.Fixed("")), fails: true, kind: fault.Unauthorized},
		"OtherAudience":    {reason: "a token for the API server must not be taken: whoever sees it could use it there", client: direct(i.tokenOf(t, remote.Account)), namespace: i.team, fails: true, kind: fault.Unauthorized},
		"OtherAccount":     {reason: "the right audience is no right to read", client: direct(i.tokenOf(t, "default", remote.Audience)), namespace: i.team, fails: true, kind: fault.Refused},
		"AccountOfTheTeam": {reason: "the token alone counts, whoever sends it", client: direct(i.tokenOf(t, remote.Account, remote.Audience)), namespace: i.team, want: 1},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			page, err := tc.client.Entries(t.Context(), remote.Query{Namespace: tc.namespace})
			if (err != nil) != tc.fails || tc.fails && fault.KindOf(err) != tc.kind {
				t.Fatalf("%s: got error %v (%v)", tc.reason, err, fault.KindOf(err))
			}
			if len(page.Entries) != tc.want {
				t.Errorf("%s: %d entries", tc.reason, len(page.Entries))
			}
			if _, err := tc.client.Read(t.Context(), "checkpoint", 4096); (err != nil) != (tc.fails || tc.namespace != "") {
				t.Errorf("%s: the files of the log: %v", tc.reason, err)
			}
		})
	}
}

// kubeconfig writes the configuration of a user to a file.
func kubeconfig(t *testing.T, i *installation, user string) string {
	t.Helper()
	raw, err := os.ReadFile(i.cluster.Kubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	var doc map[string]any
	if err := yaml.Unmarshal(raw, &doc); err != nil {
		t.Fatal(err)
	}
	for _, u := range doc["users"].([]any) {
		u.(map[string]any)["user"].(map[string]any)["as"] = user
	}
	if raw, err = yaml.Marshal(doc); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// run runs a command line.
func run(args ...string) (code int, out, errs string) {
	var o, e bytes.Buffer
	code = cli.Run(args, cli.Process{In: strings.NewReader(""), Out: &o, Err: &e, Lookup: func(string) (string, bool) { return "", false }})
	return code, o.String(), e.String()
}

// From a live Pod to the entry of the log, and the log from elsewhere, by the command line.
func TestCommandLine(t *testing.T) {
	i := install(t)
	i.tenant(t)
	i.deliver(t)
	pods := i.pods(t)
	as := kubeconfig(t, i, "member")
	i.role(t, i.team, "view", rbacv1.PolicyRule{APIGroups: []string{"", "apps"}, Resources: []string{"pods", "replicasets", "deployments"}, Verbs: []string{"get", "list"}})
	i.as(t, "member", map[string]string{i.system: "reach", i.team: "token"})
	i.as(t, "member", map[string]string{i.team: "view"})
	service := "--service=" + i.system + "/holdfast"

	for _, object := range []string{"pod/" + pods[0], "deploy/web", "deployments.apps/web"} {
		code, out, errs := run("why", object, "-n", i.team, "-o", "json", "--kubeconfig", as, service)
		if code != 0 {
			t.Fatalf("why %s: %d %s", object, code, errs)
		}
		var chain why.Chain
		if err := json.Unmarshal([]byte(out), &chain); err != nil {
			t.Fatal(err)
		}
		states := map[string]why.State{}
		for _, l := range chain.Links {
			states[l.Name] = l.State
		}
		if states[why.LinkDelivery] != why.Proven || states[why.LinkDrift] != why.Proven || states[why.LinkSource] != why.Proven || states[why.LinkSigner] != why.Unproven {
			t.Errorf("why %s:\n%s", object, out)
		}
	}
	code, out, errs := run("why", "cm/none", "-n", i.team, "--kubeconfig", i.cluster.Kubeconfig(), service)
	if code != 2 || !strings.Contains(errs, "not found") {
		t.Errorf("why of nothing: %d %s %s", code, out, errs)
	}
	code, out, errs = run("audit", "log", "-n", i.team, "--kubeconfig", as, service)
	if code != 0 || strings.Count(out, "\n") != 2 || !strings.Contains(out, "sync  Kustomization/"+i.team+"/apps") {
		t.Errorf("audit log: %d %s%s", code, out, errs)
	}
	if code, out, errs = run("audit", "log", "--kubeconfig", as, service); code != 2 || !strings.Contains(errs, "token") {
		t.Errorf("audit log of everything, by a member: %d %s%s", code, out, errs)
	}
	i.administer(t, service)
}

// administer does what takes the right to the whole log.
func (i *installation) administer(t *testing.T, service string) {
	t.Helper()
	admin := []string{"--kubeconfig", i.cluster.Kubeconfig(), service}
	with := func(args ...string) (int, string, string) { return run(append(args, admin...)...) }
	code, key, errs := with("audit", "key")
	if code != 0 || strings.TrimSpace(key) != i.key.Public {
		t.Fatalf("audit key: %d %s%s", code, key, errs)
	}
	i.signed(t)
	code, checkpoint, errs := with("audit", "checkpoint")
	if code != 0 {
		t.Fatalf("audit checkpoint: %d %s", code, errs)
	}
	file := filepath.Join(t.TempDir(), "checkpoint")
	if err := os.WriteFile(file, []byte(checkpoint), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := i.log.Append(t.Context(), audit.Entry{Action: audit.Policy}, nil); err != nil {
		t.Fatal(err)
	}
	i.signed(t)
	code, out, errs := with("audit", "verify", "--checkpoint", file, "--key", strings.TrimSpace(key))
	if code != 0 || !strings.Contains(out, "is its unchanged") {
		t.Errorf("audit verify: %d %s%s", code, out, errs)
	}
	code, out, errs = with("audit", "export", "--from", "1")
	if code != 0 || strings.Count(out, "\n") != int(i.log.Size())-1 || !strings.HasPrefix(out, `{"index":1,`) {
		t.Errorf("audit export: %d %s%s", code, out, errs)
	}
}

// signed waits until a checkpoint covers all entries.
func (i *installation) signed(t *testing.T) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; {
		if n, err := audit.Signed(t.Context(), i.log.Reader()); err == nil && n == i.log.Size() {
			return
		} else if time.Now().After(deadline) {
			t.Fatalf("the log is signed up to %d: %v", n, err)
		}
	}
}

// deliver applies a Deployment as a delivery does, and records it.
func (i *installation) deliver(t *testing.T) {
	t.Helper()
	body := []byte(`{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"labels":{"kustomize.toolkit.fluxcd.io/name":"apps","kustomize.toolkit.fluxcd.io/namespace":"` + i.team +
		`"},"name":"web","namespace":"` + i.team + `"},"spec":{"replicas":1,"selector":{"matchLabels":{"app":"web"}},"template":{"metadata":{"labels":{"app":"web"}},"spec":{"containers":[{"image":"registry.example.org/web:1@sha256:` +
		strings.Repeat("a", 64) + `","name":"web","ports":[{"containerPort":8080}],"resources":{"limits":{"memory":"64Mi"}}}]}}}}`)
	force := true
	d, err := i.clients.AppsV1().Deployments(i.team).Patch(t.Context(), "web", types.ApplyPatchType, body, metav1.PatchOptions{FieldManager: "kustomize-controller", Force: &force})
	if err != nil {
		t.Fatal(err)
	}
	change := audit.Change{Object: "apps/v1/Deployment/" + i.team + "/web", Operation: "create", After: digest(body), Images: []string{d.Spec.Template.Spec.Containers[0].Image}}
	delivery := "Kustomization/" + i.team + "/apps"
	at, err := i.log.Append(context.WithoutCancel(t.Context()), audit.Entry{
		Action: audit.Sync, Delivery: delivery, Source: &audit.Source{URL: "https://git.example.org/a.git", Commit: strings.Repeat("1", 40)},
	}, &audit.Record{Objects: []audit.Change{change}})
	if err != nil {
		t.Fatal(err)
	}
	change.UID, change.Outcome = string(d.UID), "created"
	if _, err := i.log.Append(t.Context(), audit.Entry{Action: audit.Outcome, Delivery: delivery, Of: &at, Result: audit.ResultDelivered}, &audit.Record{Objects: []audit.Change{change}}); err != nil {
		t.Fatal(err)
	}
}

// pods waits for the Pod of the Deployment.
func (i *installation) pods(t *testing.T) []string {
	t.Helper()
	i.cluster.Await(t, harness.Deployments, i.team, "web", "to be ready", harness.Ready(1))
	list, err := i.clients.CoreV1().Pods(i.team).List(t.Context(), metav1.ListOptions{})
	if err != nil || len(list.Items) != 1 {
		t.Fatalf("%v %v", list, err)
	}
	return []string{list.Items[0].Name}
}

func digest(body []byte) string {
	sum := sha256.Sum256(body)
	return "sha256:" + hex.EncodeToString(sum[:])
}
