package demo

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/holdfastcd/holdfast/internal/fault"
)

// Bounds on the ends of children.
const (
	controllerEnds = 15 * time.Second
	clusterEnds    = 30 * time.Second
)

// devcluster is the running cluster. It ends when the pipe to it closes, and so
// with this process, whatever ends that.
type devcluster struct {
	Dir        string `json:"dir"`
	Kubeconfig string `json:"kubeconfig"`

	cmd  *exec.Cmd
	hold io.Closer
}

// startCluster builds the launcher, which is small, and starts a cluster, which
// it builds on first use.
func startCluster(ctx context.Context, repo string, messages io.Writer) (*devcluster, error) {
	module := filepath.Join(repo, "devcluster")
	program := filepath.Join(repo, "bin", "devcluster")
	build := exec.CommandContext(ctx, "go", "build", "-o", program, "./cmd/devcluster") //nolint:gosec // paths in the checkout that the user named
	build.Dir = module
	build.Env = append(os.Environ(), "GOWORK=off", "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fault.New(fault.Internal, "cannot build the devcluster command: %s\n%s", err, out).WithHint("is Go installed?")
	}
	c := &devcluster{cmd: exec.CommandContext(context.WithoutCancel(ctx), program, "up", "--parent-stdin", "-o=json", "--source="+module)} //nolint:gosec // built above
	c.cmd.Stderr = messages
	apart(c.cmd)
	var err error
	if c.hold, err = c.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := c.cmd.Start(); err != nil {
		return nil, fault.New(fault.Internal, "cannot start the devcluster command: %s", err)
	}
	unwatch := context.AfterFunc(ctx, func() { _ = c.hold.Close() })
	defer unwatch()
	line, err := bufio.NewReader(out).ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, c)
	}
	if err != nil {
		return nil, errors.Join(fault.New(fault.Internal, "the cluster did not start").Because(err), c.stop())
	}
	return c, nil
}

// stop ends the cluster and waits until its files are gone.
func (c *devcluster) stop() error {
	_ = c.hold.Close() // closed already if the start was given up
	timer := time.AfterFunc(clusterEnds, func() { _ = c.cmd.Process.Kill() })
	defer timer.Stop()
	if err := c.cmd.Wait(); err != nil {
		return fmt.Errorf("the cluster: %w", err)
	}
	return nil
}

// apart keeps Ctrl-C in a terminal from reaching a child before us: children end
// in order.
func apart(cmd *exec.Cmd) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true
}

// controller is the running holdfast controller.
type controller struct {
	cmd     *exec.Cmd
	log     *log
	logFile string
	address string
	ended   chan struct{} // closed when it has
	how     error         // it ended; set before
}

// startController starts the binary and waits until it says that it is ready.
func startController(ctx context.Context, holdfast, kubeconfig, dir string) (*controller, error) {
	c := &controller{logFile: filepath.Join(dir, "controller.log"), ended: make(chan struct{})}
	file, err := os.Create(c.logFile)
	if err != nil {
		return nil, err
	}
	c.log = &log{file: file, ready: make(chan struct{})}
	c.cmd = exec.CommandContext(context.WithoutCancel(ctx), holdfast, "controller", "--kubeconfig", kubeconfig, //nolint:gosec // this program itself
		"--data-dir", filepath.Join(dir, "data"), "--listen", "127.0.0.1:0")
	c.cmd.Stderr, c.cmd.Stdout = c.log, c.log
	c.cmd.WaitDelay = time.Second
	dieWithUs(c.cmd)
	apart(c.cmd)
	if err := c.cmd.Start(); err != nil {
		return nil, fault.New(fault.Internal, "cannot start %s: %s", holdfast, err)
	}
	go func() {
		c.how = c.cmd.Wait()
		close(c.ended)
	}()
	select {
	case <-c.log.ready:
		c.address = c.log.address()
		return c, nil
	case <-c.ended:
		return c, fault.New(fault.Internal, "the controller ended: %v", c.how)
	case <-ctx.Done():
		return c, ctx.Err()
	}
}

// stop asks the controller to end, and makes it if it does not.
func (c *controller) stop() error {
	_ = c.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	select {
	case <-c.ended:
		return nil
	case <-time.After(controllerEnds):
		_ = c.cmd.Process.Kill()
		<-c.ended
		return errors.New("the controller did not end when asked")
	}
}

// log keeps what the controller says, and waits for two lines of it.
type log struct {
	file  *os.File
	ready chan struct{}

	mu      sync.Mutex
	tail    []string
	partial string
	listens string
	told    bool
}

var listening = regexp.MustCompile(`msg=listening address=(\S+)`)

// Write implements io.Writer.
func (l *log) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	lines := strings.Split(l.partial+string(b), "\n")
	l.partial = lines[len(lines)-1]
	for _, line := range lines[:len(lines)-1] {
		l.tail = append(l.tail, line)
		if m := listening.FindStringSubmatch(line); m != nil {
			l.listens = m[1]
		}
		if strings.HasSuffix(line, " msg=ready") && !l.told {
			l.told = true
			close(l.ready)
		}
	}
	l.tail = l.tail[max(0, len(l.tail)-10):]
	return l.file.Write(b)
}

func (l *log) address() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.listens
}

func (l *log) last() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.tail, "\n")
}
