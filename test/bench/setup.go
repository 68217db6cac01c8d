package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/controller-runtime/pkg/client"

	argov1 "github.com/holdfastcd/holdfast/api/argo/v1alpha1"
	"github.com/holdfastcd/holdfast/test/gitserver"
	"github.com/holdfastcd/holdfast/test/harness"
)

// bench is one run: a cluster, a repository, a controller, and what was measured.
type bench struct {
	options

	dir     string
	cluster *harness.Cluster
	config  *rest.Config
	client  client.WithWatch
	// kubeconfig and account are what the controller, and the floor, are known by.
	kubeconfig string
	account    *rest.Config
	git        *gitserver.Server
	repo       *gitserver.Repo
	fleet      *fleet
	tracker    *tracker

	controller *exec.Cmd
	exited     chan error
	address    string
	peak       *peak
	endPeak    context.CancelFunc

	serial, edited int
	result         result
}

func (b *bench) progressf(format string, args ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", args...)
}

// prepare starts the cluster and the Git server and installs what the fleet
// needs; none of it is measured.
func prepare(ctx context.Context, o options) (*bench, error) {
	b := &bench{options: o, fleet: newFleet(o.apps, o.objects)}
	b.result = result{Dialect: o.dialect, Apps: o.apps, Objects: o.objects}
	steps := []func(context.Context) error{b.makeDir, b.startCluster, b.startGit, b.install, b.identify, b.tenants, b.signCommits, b.applyPolicies}
	for _, step := range steps {
		if err := step(ctx); err != nil {
			b.close()
			return nil, err
		}
	}
	return b, nil
}

func (b *bench) makeDir(context.Context) (err error) {
	b.dir, err = os.MkdirTemp("", "holdfast-bench-")
	return err
}

func (b *bench) startCluster(ctx context.Context) (err error) {
	b.progressf("starting the control plane")
	b.cluster, err = harness.Start(ctx, harness.Options{Audit: b.count, Messages: os.Stderr})
	if err != nil {
		return err
	}
	b.config = b.cluster.Config()
	b.config.QPS, b.config.UserAgent = -1, "bench"
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		clientgoscheme.AddToScheme, sourcev1.AddToScheme, kustomizev1.AddToScheme, argov1.AddToScheme,
	} {
		if err := add(scheme); err != nil {
			return err
		}
	}
	b.client, err = client.NewWithWatch(b.config, client.Options{Scheme: scheme})
	return err
}

func (b *bench) startGit(context.Context) (err error) {
	if b.git, err = gitserver.Start(filepath.Join(b.dir, "git"), gitserver.Options{}); err != nil {
		return err
	}
	if b.repo, err = b.git.Create("fleet"); err != nil {
		return err
	}
	_, err = b.repo.Commit("the fleet", b.fleet.changes(b.fleet.all()...)...)
	return err
}

// install applies the custom resource definitions.
func (b *bench) install(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, b.holdfast, "install", "--crds-only", "--kubeconfig", b.cluster.Kubeconfig())
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("install the definitions: %w\n%s", err, out)
	}
	version, err := exec.CommandContext(ctx, b.holdfast, "version").Output()
	b.result.Controller = strings.TrimSpace(string(version))
	return err
}

// identify gives the controller, and the floor, a service account with a token,
// as they have in a cluster: a certificate is verified at every request.
func (b *bench) identify(ctx context.Context) error {
	name := metav1.ObjectMeta{Name: "holdfast", Namespace: "default"}
	binding := &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "holdfast-bench"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"},
		Subjects:   []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: name.Namespace, Name: name.Name}},
	}
	if err := b.create(ctx, []client.Object{&corev1.ServiceAccount{ObjectMeta: name}, binding}); err != nil {
		return err
	}
	clients, err := kubernetes.NewForConfig(b.config)
	if err != nil {
		return err
	}
	token, err := clients.CoreV1().ServiceAccounts(name.Namespace).CreateToken(ctx, name.Name, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	file, err := clientcmd.LoadFromFile(b.cluster.Kubeconfig())
	if err != nil {
		return err
	}
	for user := range file.AuthInfos {
		file.AuthInfos[user] = &clientcmdapi.AuthInfo{Token: token.Status.Token}
	}
	b.kubeconfig = filepath.Join(b.dir, "kubeconfig")
	if err := clientcmd.WriteToFile(*file, b.kubeconfig); err != nil {
		return err
	}
	if b.account, err = clientcmd.BuildConfigFromFlags("", b.kubeconfig); err != nil {
		return err
	}
	b.account.QPS, b.account.WarningHandler = -1, rest.NoWarnings{}
	return nil
}

// tenants makes a namespace for every application, of the fleet and of the
// floor, and the account that delivers.
func (b *bench) tenants(ctx context.Context) error {
	b.progressf("making %d namespaces", 2*b.apps)
	objects := []client.Object{
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: fluxNamespace}},
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: argoNamespace}},
	}
	for i := range b.apps {
		for _, prefix := range []string{"", "floor-"} {
			objects = append(objects, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: prefix + appName(i)}})
		}
	}
	if err := b.create(ctx, objects); err != nil {
		return err
	}
	binding := &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: account},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "admin"},
	}
	objects = objects[:0]
	for _, ns := range []string{fluxNamespace, argoNamespace} {
		objects = append(objects, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: account, Namespace: ns}})
		binding.Subjects = append(binding.Subjects, rbacv1.Subject{Kind: "ServiceAccount", Namespace: ns, Name: account})
	}
	return b.create(ctx, append(objects, binding))
}

func (b *bench) create(ctx context.Context, objects []client.Object) error {
	return each(ctx, objects, func(ctx context.Context, o client.Object) error { return b.client.Create(ctx, o) })
}

// start starts the controller, with the source but without applications, and
// waits until it is ready.
func (b *bench) start(ctx context.Context) error {
	if err := b.clearFloor(ctx); err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	b.address = listener.Addr().String()
	listener.Close()
	log, err := b.controllerLog()
	if err != nil {
		return err
	}
	b.controller = exec.Command(b.holdfast, "controller", "--kubeconfig", b.kubeconfig,
		"--data-dir", filepath.Join(b.dir, "data"), "--listen", b.address, "--argocd-namespace", argoNamespace)
	b.controller.Stdout, b.controller.Stderr = log, log
	b.controller.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if b.profile != "" {
		b.controller.Env = append(os.Environ(), "HOLDFAST_PPROF="+b.profile)
	}
	if err := b.controller.Start(); err != nil {
		return err
	}
	b.exited = make(chan error, 1)
	go func() { b.exited <- b.controller.Wait() }()
	sampling, end := context.WithCancel(context.Background())
	b.peak, b.endPeak = watchPeak(sampling, b.pid()), end
	if err := b.awaitReady(ctx); err != nil {
		return err
	}
	return b.prepareSource(ctx)
}

func (b *bench) controllerLog() (io.Writer, error) {
	if b.keepLog == "" {
		return io.Discard, nil
	}
	return os.Create(b.keepLog)
}

func (b *bench) pid() int {
	if b.controller == nil || b.controller.Process == nil {
		return 0
	}
	return b.controller.Process.Pid
}

// awaitReady polls the readiness endpoint: there is no event for a port that opens.
func (b *bench) awaitReady(ctx context.Context) error {
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+b.address+"/readyz", nil)
		if err != nil {
			return err
		}
		if resp, err := http.DefaultClient.Do(req); err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case err := <-b.exited:
			return fmt.Errorf("the controller ended: %w; see --log", errors.Join(err, errors.New("not ready")))
		case <-ctx.Done():
			return fmt.Errorf("the controller is not ready: %w", ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// prepareSource brings the source (Flux) or the project (Argo CD) and begins to track.
func (b *bench) prepareSource(ctx context.Context) (err error) {
	if b.dialect == "argo" {
		if err := b.client.Create(ctx, b.fleet.project()); err != nil {
			return err
		}
		b.tracker, err = track(context.WithoutCancel(ctx), b.client, &argov1.ApplicationList{}, argoNamespace)
		return err
	}
	if err := b.client.Create(ctx, b.fleet.gitRepository(b.repo.URL())); err != nil {
		return err
	}
	w, err := b.client.Watch(ctx, &sourcev1.GitRepositoryList{}, client.InNamespace(fluxNamespace))
	if err != nil {
		return err
	}
	defer w.Stop()
	for ev := range w.ResultChan() {
		if r, ok := ev.Object.(*sourcev1.GitRepository); ok && r.Status.Artifact != nil {
			break
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	b.tracker, err = track(context.WithoutCancel(ctx), b.client, &kustomizev1.KustomizationList{}, fluxNamespace)
	return err
}

// resources are the applications' custom resources.
func (b *bench) resources() []client.Object {
	var objects []client.Object
	for i := range b.apps {
		if b.dialect == "argo" {
			objects = append(objects, b.fleet.application(i, b.repo.URL()))
			continue
		}
		objects = append(objects, b.fleet.kustomization(i))
	}
	return objects
}

// arrived waits until every application says that it is applied at a commit.
func (b *bench) arrived(ctx context.Context, commit string) error {
	return b.tracker.until(ctx, b.apps, func(s state) bool { return s.ready && strings.HasSuffix(s.revision, commit) })
}

func (b *bench) commit(path, content string) (string, error) {
	return b.repo.Commit("change "+path, gitserver.Put(path, content))
}

// push tells the controller of a commit, as a forge would.
func (b *bench) push(ctx context.Context, commit string) error {
	body, err := json.Marshal(map[string]any{
		"ref": "refs/heads/main", "after": commit,
		"repository": map[string]any{"html_url": strings.TrimSuffix(b.repo.URL(), ".git"), "clone_url": b.repo.URL(), "default_branch": "main"},
	})
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+b.address+"/api/webhook", bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-Github-Event", "push")
	digest := sha256.Sum256([]byte(commit))
	req.Header.Set("X-Github-Delivery", hex.EncodeToString(digest[:8]))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
		return fmt.Errorf("the webhook answered %s: %s", resp.Status, text)
	}
	return nil
}

// awaitConfigMap begins to watch an application's ConfigMap; the function that it
// returns waits until ok holds.
func (b *bench) awaitConfigMap(ctx context.Context, name string, ok func(*corev1.ConfigMap) bool) (func() error, error) {
	w, err := b.client.Watch(ctx, &corev1.ConfigMapList{}, client.InNamespace(name), client.MatchingFields{"metadata.name": name})
	if err != nil {
		return nil, err
	}
	return func() error {
		defer w.Stop()
		for {
			select {
			case ev, open := <-w.ResultChan():
				if c, is := ev.Object.(*corev1.ConfigMap); is && ok(c) {
					return nil
				}
				if !open {
					return errors.New("the watch ended")
				}
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}, nil
}

// renderings reads from the controller's metrics how many deliveries it has rendered.
func (b *bench) renderings(ctx context.Context) int {
	if b.address == "" {
		return 0
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+b.address+"/metrics", nil)
	if err != nil {
		return 0
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		if value, ok := strings.CutPrefix(lines.Text(), "holdfast_renderings_total "); ok {
			n, _ := strconv.ParseFloat(value, 64)
			return int(n)
		}
	}
	return 0
}

// requests counts what the controller has sent so far, by verb.
func (b *bench) requests() map[string]int {
	counts := map[string]int{}
	if !b.count {
		return counts
	}
	all, err := b.cluster.Audited()
	if err != nil {
		b.progressf("cannot read the audit log: %v", err)
		return counts
	}
	for _, r := range all {
		if !strings.HasPrefix(r.UserAgent, "holdfast") {
			continue
		}
		verb := kindOf(r)
		counts[verb]++
	}
	return counts
}

// kindOf names a request by what it is for, where its verb alone does not tell.
func kindOf(r harness.Request) string {
	switch {
	case r.Resource == "events":
		return "event"
	case r.Subresource == "status":
		return "status"
	case r.Verb == "patch" && (r.Group == "argoproj.io" || strings.HasSuffix(r.Group, ".fluxcd.io")):
		return "resource patch"
	case r.Verb == "patch":
		return "apply"
	}
	return r.Verb + " " + r.Resource
}

func since(before, after map[string]int) map[string]int {
	diff := map[string]int{}
	for verb, n := range after {
		if n > before[verb] {
			diff[verb] = n - before[verb]
		}
	}
	return diff
}

// verify counts the delivered objects: a benchmark of nothing would be fast.
func (b *bench) verify(ctx context.Context) error {
	total := 0
	for _, list := range []client.ObjectList{&corev1.ConfigMapList{}, &corev1.ServiceList{}, &corev1.ServiceAccountList{}, deployments()} {
		if err := b.client.List(ctx, list, client.HasLabels{"app"}); err != nil {
			return err
		}
		n, err := countFleet(list, b.fleet)
		if err != nil {
			return err
		}
		total += n
	}
	if want := b.apps * b.objects; total != want {
		return fmt.Errorf("%d objects stand at their last version, not %d", total, want)
	}
	return nil
}

// close ends everything that prepare and start began.
func (b *bench) close() {
	if b.pid() != 0 {
		_ = b.controller.Process.Signal(syscall.SIGTERM)
		select {
		case <-b.exited:
		case <-time.After(10 * time.Second):
			_ = b.controller.Process.Kill()
		}
		b.endPeak()
	}
	if b.git != nil {
		_ = b.git.Close()
	}
	if b.cluster != nil {
		_ = b.cluster.Stop()
	}
	if b.dir != "" {
		_ = os.RemoveAll(b.dir)
	}
}
