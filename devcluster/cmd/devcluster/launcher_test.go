package main

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/holdfastcd/holdfast/devcluster/internal/kube"
	"github.com/holdfastcd/holdfast/devcluster/internal/pki"
	"github.com/holdfastcd/holdfast/devcluster/internal/rundir"
)

// Set in the environment, these have the test binary be another program.
const (
	asLauncher = "DEVCLUSTER_TEST_AS_LAUNCHER" // the devcluster command
	asParent   = "DEVCLUSTER_TEST_AS_PARENT"   // a program that starts the devcluster command, like somebody's test
)

func TestMain(m *testing.M) {
	switch {
	case os.Getenv(asLauncher) != "":
		main()
	case os.Getenv(asParent) != "":
		parent()
	}
	os.Exit(m.Run())
}

// parent starts a cluster, passes on what its launcher says, and holds the launcher's standard input until it is killed.
func parent() {
	command := exec.Command(os.Args[0], "up", "--parent-stdin", "-o", "json")
	command.Env = append(os.Environ(), asLauncher+"=1")
	command.Stdout, command.Stderr = os.Stdout, os.Stderr
	held, err := command.StdinPipe()
	if err == nil {
		err = command.Run()
	}
	fmt.Fprintln(os.Stderr, "the launcher ended before its parent:", held, err)
	os.Exit(1)
}

// launcherCommand is the devcluster command with args, as its own process.
func launcherCommand(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	command := exec.Command(self, args...)
	command.Env = append(os.Environ(), asLauncher+"=1")
	command.Stderr = os.Stderr
	return command
}

// launched is a cluster that a launcher process runs.
type launched struct {
	rundir.State

	client  *kube.Client
	command *exec.Cmd
	stdin   io.Closer
}

// launch starts a cluster and stops it when the test ends.
func launch(t *testing.T, args ...string) *launched {
	t.Helper()
	l, err := tryLaunch(t, args...)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func tryLaunch(t *testing.T, args ...string) (*launched, error) {
	command := launcherCommand(t, append([]string{"up", "--parent-stdin", "-o", "json"}, args...)...)
	stdin, err := command.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := command.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := command.Start(); err != nil {
		return nil, err
	}
	l := &launched{command: command, stdin: stdin}
	t.Cleanup(l.stop)
	line, err := bufio.NewReader(stdout).ReadBytes('\n')
	if err != nil {
		return nil, fmt.Errorf("the launcher said nothing on its standard output: %w", err)
	}
	if err := json.Unmarshal(line, &l.State); err != nil {
		return nil, err
	}
	l.client, err = clientFor(l.Kubeconfig)
	return l, err
}

// stop stops the cluster as a parent does that ends: it lets go of the launcher's standard input.
func (l *launched) stop() {
	_ = l.stdin.Close()
	_ = l.command.Wait()
}

// clientFor reads a kubeconfig of ours.
func clientFor(kubeconfig string) (*kube.Client, error) {
	content, err := os.ReadFile(kubeconfig)
	if err != nil {
		return nil, err
	}
	value := func(key string) string {
		match := regexp.MustCompile(key + `: (\S+)`).FindSubmatch(content)
		if match == nil {
			return ""
		}
		return string(match[1])
	}
	data := func(key string) []byte {
		decoded, decodeErr := base64.StdEncoding.DecodeString(value(key))
		err = errors.Join(err, decodeErr)
		return decoded
	}
	authority := data("certificate-authority-data")
	identity := pki.Pair{Certificate: data("client-certificate-data"), Key: data("client-key-data")}
	if err != nil {
		return nil, err
	}
	return kube.New(value("server"), "devcluster-test", authority, identity)
}

// processIDs are all processes of a cluster.
func (l *launched) processIDs() []int {
	pids := []int{l.Launcher}
	for _, pid := range l.Processes {
		pids = append(pids, pid)
	}
	return pids
}

// awaitEnd waits until none of the processes runs. A process that is not our child gives no event when it ends.
func awaitEnd(t *testing.T, pids []int) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for _, pid := range pids {
		for runs(pid) {
			if time.Now().After(deadline) {
				t.Fatalf("process %d still runs", pid)
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
}

// runs says whether a process runs. One that has ended and that nobody has waited for does not.
func runs(pid int) bool {
	if errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
		return false
	}
	stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	return err != nil || !strings.Contains(string(stat), ") Z ")
}

// needsCluster skips a test that starts clusters in a short run.
func needsCluster(t *testing.T) context.Context {
	t.Helper()
	if testing.Short() {
		t.Skip("starts a real cluster; run without -short")
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func TestTwoSideBySide(t *testing.T) {
	ctx := needsCluster(t)
	type result struct {
		cluster *launched
		err     error
	}
	results := make(chan result, 2)
	for range cap(results) {
		go func() {
			cluster, err := tryLaunch(t, "--nodes=2")
			results <- result{cluster, err}
		}()
	}
	servers := map[string]bool{}
	for range cap(results) {
		r := <-results
		if r.err != nil {
			t.Fatal(r.err)
		}
		servers[r.cluster.Server] = true
		var nodes struct{ Items []json.RawMessage }
		if err := r.cluster.client.Do(ctx, "GET", "/api/v1/nodes", nil, &nodes); err != nil {
			t.Fatal(err)
		}
		if len(nodes.Items) != 2 {
			t.Errorf("%s has %d nodes; want 2", r.cluster.Server, len(nodes.Items))
		}
	}
	if len(servers) != 2 {
		t.Errorf("the clusters are one: %v", servers)
	}
}

// TestParentKilled kills a launcher's parent with a signal that it cannot handle.
func TestParentKilled(t *testing.T) {
	needsCluster(t)
	command := launcherCommand(t)
	command.Env = append(os.Environ(), asParent+"=1")
	stdout, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	var l launched
	if err := json.NewDecoder(stdout).Decode(&l.State); err != nil {
		t.Fatal(err)
	}
	if err := command.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = command.Wait()
	awaitEnd(t, l.processIDs())
	if _, err := os.Stat(l.Dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the cluster's directory is still there: %v", err)
	}
}

// TestLauncherKilled kills the launcher itself. Nobody is left to remove its directory, so the next launcher does.
func TestLauncherKilled(t *testing.T) {
	needsCluster(t)
	l := launch(t)
	if err := l.command.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = l.command.Wait()
	awaitEnd(t, l.processIDs())
	if err := rundir.Sweep(os.TempDir()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(l.Dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the cluster's directory is still there: %v", err)
	}
}

func TestKubeconfigAndDown(t *testing.T) {
	needsCluster(t)
	dir := filepath.Join(t.TempDir(), "cluster")
	l := launch(t, "--dir", dir)
	path, err := launcherCommand(t, "kubeconfig", "--dir", dir).Output()
	if err != nil || strings.TrimSpace(string(path)) != l.Kubeconfig {
		t.Errorf("kubeconfig printed %q, %v; want %q", path, err, l.Kubeconfig)
	}
	if err := launcherCommand(t, "down", "--dir", dir).Run(); err != nil {
		t.Fatal(err)
	}
	if err := l.command.Wait(); err != nil {
		t.Errorf("the launcher ended with %v; want success", err)
	}
	awaitEnd(t, l.processIDs())
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the cluster's directory is still there: %v", err)
	}
}

func TestUsage(t *testing.T) {
	for _, tt := range []struct {
		reason string
		args   string
		code   int
		says   string
	}{
		{"help is no error", "help", 0, ""},
		{"an unknown command is named", "fly", 2, `there is no command "fly"`},
		{"a stray argument is named", "up now", 2, `got "now"`},
		{"an unknown output is named", "up -o yaml", 2, `got "yaml"`},
		{"a cluster needs a node", "up --nodes=0", 2, "at least 1"},
		{"a place without a cluster says how to start one", "kubeconfig --dir /nonexistent", 1, "devcluster up --dir /nonexistent"},
	} {
		var out, messages strings.Builder
		code := run(t.Context(), strings.Fields(tt.args), streams{in: strings.NewReader(""), out: &out, err: &messages})
		if code != tt.code || !strings.Contains(messages.String(), tt.says) {
			t.Errorf("%s: %s: exit code %d and %q; want %d and %q", tt.reason, tt.args, code, messages.String(), tt.code, tt.says)
		}
	}
}
