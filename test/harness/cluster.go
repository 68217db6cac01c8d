package harness

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// stopWithin is how long a cluster may take to end before its launcher is killed.
const stopWithin = 20 * time.Second

// Options say what cluster to start.
type Options struct {
	// Nodes is how many nodes there are. Zero means one.
	Nodes int
	// Audit records every request, for Requests. It costs the API server some time.
	Audit bool
	// AuditWebhook is the path of a kubeconfig that says where the API server sends its audit events. Empty means nowhere.
	AuditWebhook string
	// Messages is where progress and troubles of the cluster are told. Nil means nowhere.
	Messages io.Writer
}

// Cluster is a running cluster.
type Cluster struct {
	launcher *exec.Cmd
	hold     io.Closer // the launcher's standard input; the cluster lives while it is open
	stderr   *tail
	state    state
	config   *rest.Config
	dynamic  *dynamic.DynamicClient
	audit    auditLog
}

// state is what the launcher prints when the cluster is ready.
type state struct {
	Dir        string         `json:"dir"`
	Kubeconfig string         `json:"kubeconfig"`
	AuditLog   string         `json:"auditLog"`
	Processes  map[string]int `json:"processes"`
}

// Start starts a cluster of the caller's own, for a test that cannot share one. It returns when the cluster is ready. The
// cluster ends by Stop, or with this process.
func Start(ctx context.Context, options Options) (*Cluster, error) {
	module, err := findModule()
	if err != nil {
		return nil, err
	}
	program, err := buildLauncher(ctx, module)
	if err != nil {
		return nil, err
	}
	if options.Messages == nil {
		options.Messages = io.Discard
	}
	c := &Cluster{stderr: &tail{next: options.Messages}}
	if err := c.launch(ctx, program, module, options); err != nil {
		return nil, err
	}
	return c, c.connect()
}

// findModule returns the directory of the devcluster module, in the repository that the current directory lies in.
func findModule() (string, error) {
	here, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find the current directory: %w", err)
	}
	for dir := here; ; dir = filepath.Dir(dir) {
		module := filepath.Join(dir, "devcluster")
		if _, err := os.Stat(filepath.Join(module, "go.mod")); err == nil {
			return module, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("no directory above %s has a devcluster module: run the test inside the Holdfast repository", here)
		}
	}
}

// buildLauncher builds the devcluster command beside the module. It stays there: one that is up to date is not linked again,
// which costs a second of each package's tests. Packages are tested side by side, so one builds while the others wait.
func buildLauncher(ctx context.Context, module string) (string, error) {
	dir := filepath.Join(filepath.Dir(module), "bin")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("make a directory for the devcluster command: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, ".launcher.lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return "", fmt.Errorf("lock the devcluster command: %w", err)
	}
	defer func() { _ = lock.Close() }() // and so unlocks it
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return "", fmt.Errorf("lock the devcluster command: %w", err)
	}
	program := filepath.Join(dir, "launcher")
	build := exec.CommandContext(ctx, "go", "build", "-o", program, "./cmd/devcluster")
	build.Dir = module
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
	if output, err := build.CombinedOutput(); err != nil {
		return "", errors.Join(context.Cause(ctx), fmt.Errorf("build the devcluster command: %w\n%s", err, output))
	}
	return program, nil
}

// launch starts the launcher and waits until it says that the cluster is ready.
func (c *Cluster) launch(ctx context.Context, program, module string, options Options) error {
	args := []string{"up", "--parent-stdin", "-o=json", "--source=" + module, "--nodes=" + strconv.Itoa(max(1, options.Nodes))}
	if options.Audit {
		args = append(args, "--audit")
	}
	if options.AuditWebhook != "" {
		args = append(args, "--audit-webhook="+options.AuditWebhook)
	}
	// Its context is not the caller's, which ends only the wait for it.
	c.launcher = exec.CommandContext(context.WithoutCancel(ctx), program, args...)
	c.launcher.Stderr = c.stderr
	// Ctrl-C in a terminal ends the test, and the launcher by that, but not before the test had its chance to clean up.
	c.launcher.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stdin, err := c.launcher.StdinPipe()
	if err != nil {
		return fmt.Errorf("make a pipe to the devcluster command: %w", err)
	}
	stdout, err := c.launcher.StdoutPipe()
	if err != nil {
		return fmt.Errorf("make a pipe from the devcluster command: %w", err)
	}
	if err := c.launcher.Start(); err != nil {
		return fmt.Errorf("start the devcluster command: %w", err)
	}
	c.hold = stdin
	unwatch := context.AfterFunc(ctx, func() { _ = stdin.Close() }) // ends the launcher, and so the reading below
	defer unwatch()
	line, err := bufio.NewReader(stdout).ReadBytes('\n')
	if err != nil {
		end := c.end()
		return errors.Join(context.Cause(ctx), fmt.Errorf("the cluster did not start: %w\n%s", errors.Join(err, end), c.stderr))
	}
	if err := json.Unmarshal(line, &c.state); err != nil {
		return errors.Join(fmt.Errorf("read what the devcluster command says (%q): %w", line, err), c.Stop())
	}
	return nil
}

// connect makes the clients that the cluster's methods use.
func (c *Cluster) connect() error {
	config, err := clientcmd.BuildConfigFromFlags("", c.state.Kubeconfig)
	if err != nil {
		return errors.Join(fmt.Errorf("read the cluster's kubeconfig: %w", err), c.Stop())
	}
	config.QPS = -1 // the API server limits clients, fairly; a limit here would only slow tests down
	config.UserAgent = "holdfast-harness"
	c.config = config
	c.audit.path = c.state.AuditLog
	c.dynamic, err = dynamic.NewForConfig(config)
	if err != nil {
		return errors.Join(fmt.Errorf("make a client of the cluster: %w", err), c.Stop())
	}
	return nil
}

// Stop ends the cluster and removes everything it wrote.
func (c *Cluster) Stop() error {
	_ = c.hold.Close() // closed already if the start was given up
	if err := c.end(); err != nil {
		return fmt.Errorf("stop the cluster: %w\n%s", err, c.stderr)
	}
	return nil
}

// end waits for the launcher to end, and kills it if it does not.
func (c *Cluster) end() error {
	timer := time.AfterFunc(stopWithin, func() { _ = c.launcher.Process.Kill() })
	defer timer.Stop()
	return c.launcher.Wait()
}

// Config returns the configuration of an administrator's client, without a rate limit. It is the caller's to change: set
// UserAgent to tell clients apart in the audit log, Impersonate to be somebody else.
func (c *Cluster) Config() *rest.Config { return rest.CopyConfig(c.config) }

// Kubeconfig returns the path of an administrator's kubeconfig.
func (c *Cluster) Kubeconfig() string { return c.state.Kubeconfig }

// Dynamic returns an administrator's client.
func (c *Cluster) Dynamic() dynamic.Interface { return c.dynamic }

// tail passes on what it is given and remembers the end of it, for an error.
type tail struct {
	next io.Writer
	last []byte
}

// tailSize is how much a tail remembers.
const tailSize = 4 << 10

// Write implements io.Writer.
func (t *tail) Write(p []byte) (int, error) {
	t.last = append(t.last, p...)
	t.last = t.last[max(0, len(t.last)-tailSize):]
	return t.next.Write(p)
}

// String returns the remembered end. It must not be called while the writer lives.
func (t *tail) String() string { return strings.TrimSpace(string(bytes.ToValidUTF8(t.last, nil))) }
