// Package e2e walks the promises of the README: a real Git server, a real API
// server, the real binary as a process of its own with the rights that
// `holdfast install` gives it.
package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/holdfastcd/holdfast/test/gitserver"
	"github.com/holdfastcd/holdfast/test/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

// world is a cluster with the definitions and rights of Holdfast, and a Git server.
type world struct {
	cluster    *harness.Cluster
	git        *gitserver.Server
	kube       kubernetes.Interface
	binary     string
	kubeconfig string // of Holdfast's own account
	data       string // directory of the controller that the tests share
	main       *controller
}

var built struct {
	once  sync.Once
	world *world
	err   error
}

// theWorld returns what the tests of this package share, with a running controller. Tests
// that mostly wait, and touch nothing but their own namespaces, are parallel: they run
// beside each other when those that stop the controller, or count requests, are through.
func theWorld(t *testing.T) *world {
	t.Helper()
	cluster := harness.Shared(t)
	built.once.Do(func() { built.world, built.err = build(cluster) })
	if built.err != nil {
		t.Fatal(built.err)
	}
	logged := len(built.world.main.log.String())
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the controller said:\n%s", tail(built.world.main.log.String(), logged))
		}
	})
	return built.world
}

// tail cuts what was logged before, and all but the last part of the rest.
func tail(log string, from int) string {
	const most = 8 << 10
	if from > len(log) { // another controller since
		from = 0
	}
	log = log[from:]
	return log[max(0, len(log)-most):]
}

// build outlives the test that comes first: what it makes ends with the process.
func build(cluster *harness.Cluster) (*world, error) {
	dir, err := os.MkdirTemp("", "holdfast-e2e-")
	if err != nil {
		return nil, err
	}
	harness.AtEnd(func() { _ = os.RemoveAll(dir) })
	w := &world{cluster: cluster, binary: filepath.Join(dir, "holdfast"), kubeconfig: filepath.Join(dir, "kubeconfig")}
	if out, err := compile(w.binary).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build holdfast: %w\n%s", err, out)
	}
	if kyverno, err := filepath.Abs(kyvernoProgram); err == nil {
		// Beside the binary is where it is looked for; tests that need it say if it is not there.
		_ = os.Symlink(kyverno, filepath.Join(dir, filepath.Base(kyvernoProgram)))
	}
	if w.kube, err = kubernetes.NewForConfig(cluster.Config()); err != nil {
		return nil, err
	}
	if out, err := exec.Command(w.binary, "install", "--kubeconfig", cluster.Kubeconfig()).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("holdfast install: %w\n%s", err, out)
	}
	if err := w.writeKubeconfig(); err != nil {
		return nil, err
	}
	if w.git, err = gitserver.Start(filepath.Join(dir, "git"), gitserver.Options{}); err != nil {
		return nil, err
	}
	w.data = filepath.Join(dir, "data")
	w.main, err = w.startController(w.data)
	return w, err
}

// compile is how `make build` makes the binary.
func compile(binary string) *exec.Cmd {
	cmd := exec.Command("go", "build", "-o", binary, "github.com/holdfastcd/holdfast/cmd/holdfast")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	return cmd
}

// restart puts the controller that the tests share back after a test that ended it.
// It keeps nothing in a directory of that test, which goes with it.
func (w *world) restart(t *testing.T) {
	t.Helper()
	c, err := w.startController(w.data)
	must(t, err)
	w.main = c
}

// writeKubeconfig makes a kubeconfig that holds a token of the account that the
// installation made, and no other right.
func (w *world) writeKubeconfig() error {
	ctx := context.Background()
	hour := int64(3600)
	token, err := w.kube.CoreV1().ServiceAccounts("holdfast-system").CreateToken(ctx, "holdfast",
		&authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &hour}}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	admin := w.cluster.Config()
	return clientcmd.WriteToFile(clientcmdapi.Config{
		CurrentContext: "holdfast",
		Contexts:       map[string]*clientcmdapi.Context{"holdfast": {Cluster: "dev", AuthInfo: "holdfast"}},
		AuthInfos:      map[string]*clientcmdapi.AuthInfo{"holdfast": {Token: token.Status.Token}},
		Clusters: map[string]*clientcmdapi.Cluster{"dev": {
			Server: admin.Host, CertificateAuthority: admin.CAFile, CertificateAuthorityData: admin.CAData,
		}},
	}, w.kubeconfig)
}

// controller is a running `holdfast controller`.
type controller struct {
	cmd     *exec.Cmd
	address string
	data    string // directory
	log     *logBuffer
	exited  chan struct{}
}

// startController starts a controller and waits until it is ready. It ends with
// this process at the latest.
func (w *world) startController(data string, flags ...string) (*controller, error) {
	c, err := w.launch(data, flags...)
	if err != nil {
		return nil, err
	}
	return c, c.awaitReady()
}

// launch is startController without the wait.
func (w *world) launch(data string, flags ...string) (*controller, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	c := &controller{address: listener.Addr().String(), data: data, log: &logBuffer{}, exited: make(chan struct{})}
	listener.Close()
	args := append([]string{"controller", "--kubeconfig", w.kubeconfig, "--data-dir", data, "--listen", c.address}, flags...)
	c.cmd = exec.Command(w.binary, args...)
	c.cmd.Stdout, c.cmd.Stderr = c.log, c.log
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := c.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		_ = c.cmd.Wait()
		close(c.exited)
	}()
	return c, nil
}

// awaitReady polls: there is no event for a port that opens.
func (c *controller) awaitReady() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		resp, err := http.Get("http://" + c.address + "/readyz")
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-c.exited:
			return fmt.Errorf("the controller ended:\n%s", c.log)
		case <-ctx.Done():
			return fmt.Errorf("the controller is not ready:\n%s", c.log)
		case <-tick.C:
		}
	}
}

// kill ends the controller as a crash would.
func (c *controller) kill() {
	_ = c.cmd.Process.Kill()
	<-c.exited
}

// terminate ends the controller in order.
func (c *controller) terminate(t *testing.T) {
	t.Helper()
	must(t, c.cmd.Process.Signal(syscall.SIGTERM))
	<-c.exited
}

// pid is the process id; the tests check that nothing makes it change.
func (c *controller) alive() bool {
	select {
	case <-c.exited:
		return false
	default:
		return true
	}
}

// logBuffer keeps what the controller logs.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// push tells a controller of a commit as GitHub does.
func (c *controller) push(t *testing.T, repo *gitserver.Repo) {
	t.Helper()
	head, err := repo.Head()
	if err != nil {
		t.Fatal(err)
	}
	body, err := json.Marshal(map[string]any{
		"ref": "refs/heads/main", "after": head,
		"repository": map[string]any{"html_url": strings.TrimSuffix(repo.URL(), ".git"), "clone_url": repo.URL(), "default_branch": "main"},
	})
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+c.address+"/api/webhook", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-Github-Event", "push")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("the webhook answered %s", resp.Status)
	}
}

// repository makes a repository with a first commit.
func (w *world) repository(t *testing.T, files map[string]string) *gitserver.Repo {
	t.Helper()
	name := strings.ToLower(strings.NewReplacer("/", "-", "_", "-").Replace(t.Name()))
	repo, err := w.git.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	commit(t, repo, gitserver.Files(files)...)
	return repo
}

func commit(t *testing.T, repo *gitserver.Repo, changes ...gitserver.Change) string {
	t.Helper()
	id, err := repo.Commit("change", changes...)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// tenant makes a namespace with an account "deployer" that may do everything in it.
func (w *world) tenant(t *testing.T) string {
	t.Helper()
	namespace := w.cluster.Namespace(t)
	w.account(t, namespace, "deployer", namespace)
	return namespace
}

// account makes a service account and binds it to admin in some namespaces; with
// none it has no rights.
func (w *world) account(t *testing.T, namespace, name string, in ...string) {
	t.Helper()
	ctx := t.Context()
	sa := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace}}
	if _, err := w.kube.CoreV1().ServiceAccounts(namespace).Create(ctx, sa, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, target := range in {
		w.apply(t, fmt.Sprintf(`
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: %[2]s, namespace: %[3]s}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: admin}
subjects: [{kind: ServiceAccount, name: %[2]s, namespace: %[1]s}]
`, namespace, name, target))
	}
}

// clusterAdmin lets an account do everything everywhere; for what is cluster-scoped.
func (w *world) clusterAdmin(t *testing.T, namespace, name string) {
	t.Helper()
	w.apply(t, fmt.Sprintf(`
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: %[1]s-%[2]s}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin}
subjects: [{kind: ServiceAccount, name: %[2]s, namespace: %[1]s}]
`, namespace, name))
}

// must fails the test on an error.
func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// holdfast runs the command line and returns its output and exit code.
func (w *world) holdfast(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), w.binary, args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+w.cluster.Kubeconfig())
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}
