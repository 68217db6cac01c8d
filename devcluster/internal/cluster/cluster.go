// Package cluster starts a throw-away Kubernetes cluster, keeps it running, and removes it.
package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/holdfastcd/holdfast/devcluster/internal/component"
	"github.com/holdfastcd/holdfast/devcluster/internal/kube"
	"github.com/holdfastcd/holdfast/devcluster/internal/process"
	"github.com/holdfastcd/holdfast/devcluster/internal/rundir"
)

const (
	// readyWithin is how long a start may take before it counts as failed. It is long because a start shares the machine
	// with whatever tests run beside it.
	readyWithin = 2 * time.Minute
	// shortLived is how soon after its start an ended component is taken for broken rather than killed.
	shortLived = time.Second
	// tailLines is how many lines of a component's log go into an error.
	tailLines = 15
	// dialDelay is the pause between two looks for etcd's socket.
	dialDelay = 5 * time.Millisecond
)

// Options say what cluster to start.
type Options struct {
	// Binary is the control plane program.
	Binary string
	// Dir is the directory for everything the cluster writes. Empty means a new one under the system's temporary directory.
	Dir string
	// Audit turns the audit log on.
	Audit bool
	// AuditWebhook is the path of a kubeconfig that says where audit events are sent. Empty means nowhere.
	AuditWebhook string
	// Nodes is how many nodes there are.
	Nodes int
	// Keep leaves the directory in place when the cluster stops.
	Keep bool
	// Messages is where a component's unexpected end is told.
	Messages io.Writer
}

// Cluster is a running cluster.
type Cluster struct {
	options     Options
	settings    component.Settings
	credentials component.Credentials
	client      *kube.Client
	dir         *rundir.Dir
	port        *portHold
	failed      chan error // the first component that could not be kept running

	mu        sync.Mutex
	processes map[string]*process.Process
	ready     bool
	stopped   bool
	watchers  sync.WaitGroup
}

// Start starts a cluster and returns when it is ready: the API server answers, the default service account exists, and every
// node is ready. When it cannot, nothing is left running.
func Start(ctx context.Context, options Options) (*Cluster, error) {
	if err := rundir.Sweep(os.TempDir()); err != nil {
		return nil, err
	}
	dir, err := rundir.Create(options.Dir, os.TempDir())
	if err != nil {
		return nil, err
	}
	c := &Cluster{
		options:   options,
		dir:       dir,
		failed:    make(chan error, 1),
		processes: map[string]*process.Process{},
	}
	if err := c.start(ctx); err != nil {
		return nil, errors.Join(err, c.Stop())
	}
	return c, nil
}

func (c *Cluster) start(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, readyWithin, fmt.Errorf("the cluster was not ready within %s", readyWithin))
	defer cancel()
	if err := c.prepare(); err != nil {
		return err
	}
	begun := make(chan error, 1)
	go func() { begun <- c.begin(ctx) }() // ends with ctx, and starts nothing once the cluster is stopped
	select {
	case err := <-c.failed:
		return err
	case err := <-begun:
		if err != nil {
			return c.explain(ctx, err)
		}
	}
	c.mu.Lock()
	c.ready = true
	c.mu.Unlock()
	return c.publish()
}

// explain prefers a component's failure, and the reason that ctx ended, to err, which is only what was being waited for.
func (c *Cluster) explain(ctx context.Context, err error) error {
	select {
	case failure := <-c.failed:
		return failure
	default:
	}
	if ctx.Err() != nil {
		return fmt.Errorf("%w: %w", context.Cause(ctx), err)
	}
	return err
}

// prepare takes a port and writes the files that the components read.
func (c *Cluster) prepare() error {
	var err error
	if c.port, err = holdPort(); err != nil {
		return err
	}
	c.settings = component.Settings{Port: c.port.port, Audit: c.options.Audit, AuditWebhook: c.options.AuditWebhook}
	files, credentials, err := component.Files(c.settings, time.Now())
	if err != nil {
		return err
	}
	for name, content := range files {
		if err := c.dir.Write(name, content); err != nil {
			return err
		}
	}
	c.credentials = credentials
	c.client, err = kube.New(c.settings.Server(), "devcluster", credentials.Authority, credentials.Launcher)
	if err != nil {
		return err
	}
	return c.dir.Write("kubeconfig", credentials.Kubeconfig)
}

// begin starts the components in the order of what they need, and waits until the cluster works.
func (c *Cluster) begin(ctx context.Context) error {
	if err := c.launch(component.Storage()); err != nil {
		return err
	}
	if err := awaitSocket(ctx, c.path("etcd.sock")); err != nil {
		return err
	}
	if err := c.launch(component.API(c.settings)); err != nil {
		return err
	}
	if err := c.client.Ready(ctx); err != nil {
		return fmt.Errorf("wait for the API server: %w", err)
	}
	for _, worker := range component.Workers() {
		if err := c.launch(worker); err != nil {
			return err
		}
	}
	for _, object := range component.Objects(c.options.Nodes) {
		if err := c.client.Do(ctx, http.MethodPost, object.Path, object.Body, nil); err != nil {
			return fmt.Errorf("create an object at %s: %w", object.Path, err)
		}
	}
	return c.awaitWorking(ctx)
}

// awaitSocket waits until something listens on the socket at path.
func awaitSocket(ctx context.Context, path string) error {
	var dialer net.Dialer
	for {
		connection, err := dialer.DialContext(ctx, "unix", path)
		if err == nil {
			return connection.Close()
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for etcd: %w", err)
		case <-time.After(dialDelay):
		}
	}
}

// awaitWorking waits until the controllers and the nodes have shown that they work.
func (c *Cluster) awaitWorking(ctx context.Context) error {
	anything := func(json.RawMessage) bool { return true }
	err := c.client.Await(ctx, "/api/v1/namespaces/default/serviceaccounts?fieldSelector=metadata.name%3Ddefault", anything)
	if err != nil {
		return fmt.Errorf("wait for the default service account: %w", err)
	}
	ready := map[string]bool{}
	err = c.client.Await(ctx, "/api/v1/nodes", func(raw json.RawMessage) bool {
		if name, ok := readyNode(raw); ok {
			ready[name] = true
		}
		return len(ready) == c.options.Nodes
	})
	if err != nil {
		return fmt.Errorf("wait for the nodes to be ready: %w", err)
	}
	return nil
}

// readyNode returns the name of a node, and whether it is ready.
func readyNode(raw json.RawMessage) (name string, ready bool) {
	var node struct {
		Metadata struct {
			Name string `json:"name"`
		} `json:"metadata"`
		Status struct {
			Conditions []struct {
				Type   string `json:"type"`
				Status string `json:"status"`
			} `json:"conditions"`
		} `json:"status"`
	}
	if err := json.Unmarshal(raw, &node); err != nil {
		return "", false
	}
	for _, condition := range node.Status.Conditions {
		if condition.Type == "Ready" && condition.Status == "True" {
			return node.Metadata.Name, true
		}
	}
	return node.Metadata.Name, false
}

// launch starts a component and sees to it that it stays.
func (c *Cluster) launch(what component.Component) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stopped {
		return errors.New("the cluster was stopped")
	}
	started, err := process.Start(process.Spec{
		Name: what.Name,
		Path: c.options.Binary,
		Args: append([]string{what.Name}, what.Args...),
		Dir:  c.dir.Path(),
		// Nothing of the user's own environment, or home, may change how a component behaves.
		Env: []string{"HOME=" + c.dir.Path(), "TMPDIR=" + c.dir.Path()},
		Log: c.path(what.Name + ".log"),
	})
	if err != nil {
		return err
	}
	c.processes[what.Name] = started
	c.watchers.Go(func() { c.keep(what, started) })
	return nil
}

// keep waits for the end of a component. One that was killed while the cluster is in use is started again, as a kubelet would
// do; one that cannot run ends the cluster.
func (c *Cluster) keep(what component.Component, running *process.Process) {
	<-running.Done()
	c.mu.Lock()
	stopped, ready := c.stopped, c.ready
	c.mu.Unlock()
	if stopped {
		return
	}
	end := running.Err()
	if end == nil {
		end = errors.New("exit status 0")
	}
	if !ready || time.Since(running.Started()) < shortLived {
		c.fail(fmt.Errorf("%s ended: %w; its last lines:\n%s", what.Name, end, running.Tail(tailLines)))
		return
	}
	_, _ = fmt.Fprintf(c.options.Messages, "devcluster: %s ended (%v); starting it again\n", what.Name, end) // news, not needed
	if err := c.launch(what); err != nil {
		c.fail(err)
		return
	}
	if err := c.publish(); err != nil {
		c.fail(err)
	}
}

// fail reports the first failure to whoever waits.
func (c *Cluster) fail(err error) {
	select {
	case c.failed <- err:
	default:
	}
}

// publish records the state of the cluster in its directory.
func (c *Cluster) publish() error { return c.dir.Publish(c.State()) }

// State describes the cluster.
func (c *Cluster) State() rundir.State {
	state := rundir.State{
		Dir:        c.dir.Path(),
		Kubeconfig: c.path("kubeconfig"),
		Server:     c.settings.Server(),
		Launcher:   os.Getpid(),
		Processes:  map[string]int{},
	}
	if c.options.Audit {
		state.AuditLog = c.path(component.AuditLog)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for name, running := range c.processes {
		state.Processes[name] = running.PID()
	}
	return state
}

// Wait returns nil when ctx is done, and an error when a component cannot be kept running.
func (c *Cluster) Wait(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case err := <-c.failed:
		return err
	}
}

// Stop ends every component at once and removes the cluster's directory.
func (c *Cluster) Stop() error {
	c.mu.Lock()
	c.stopped = true
	processes := maps.Clone(c.processes)
	c.mu.Unlock()
	for _, running := range processes {
		running.Kill()
	}
	c.watchers.Wait()
	if c.port != nil {
		c.port.release()
	}
	if c.options.Keep {
		c.dir.Release()
		return nil
	}
	return c.dir.Remove()
}

// path is where name lies in the cluster's directory.
func (c *Cluster) path(name string) string { return filepath.Join(c.dir.Path(), name) }
