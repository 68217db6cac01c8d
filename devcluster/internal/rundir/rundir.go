// Package rundir is the directories of running clusters. A cluster's directory holds a lock file that its launcher keeps locked,
// so anybody can tell a running cluster from what a killed launcher left behind.
package rundir

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/holdfastcd/holdfast/devcluster/internal/flock"
)

const (
	lockName  = "devcluster.lock"
	stateName = "devcluster.json"
	prefix    = "holdfast-devcluster-"
	unborn    = ".new-" + prefix // while it has no lock yet
)

// State is what a running cluster says about itself.
type State struct {
	// Dir is the cluster's directory.
	Dir string `json:"dir"`
	// Kubeconfig is the path of an administrator's kubeconfig.
	Kubeconfig string `json:"kubeconfig"`
	// Server is the URL of the API server.
	Server string `json:"server"`
	// AuditLog is the path of the audit log, or empty if it is off.
	AuditLog string `json:"auditLog,omitempty"`
	// Launcher is the process id of the devcluster command.
	Launcher int `json:"launcher"`
	// Processes are the process ids of the components, by name.
	Processes map[string]int `json:"processes"`
}

// Dir is a cluster directory that this process holds.
type Dir struct {
	path string
	lock *flock.Lock
}

// Create makes the directory of a new cluster at path, or, if path is empty, a new one under parent. A path that holds the
// leavings of a dead cluster is emptied; one that holds anything else is refused.
func Create(path, parent string) (*Dir, error) {
	if path == "" {
		return createUnder(parent)
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("find the cluster's directory: %w", err)
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("make the cluster's directory: %w", err)
	}
	if err := refuseForeign(path); err != nil {
		return nil, err
	}
	lock, err := flock.Try(filepath.Join(path, lockName))
	if errors.Is(err, flock.ErrHeld) {
		return nil, fmt.Errorf("a cluster is running in %s: stop it with devcluster down --dir %s, or choose another --dir", path, path)
	}
	if err != nil {
		return nil, err
	}
	if err := empty(path); err != nil {
		lock.Release()
		return nil, err
	}
	return &Dir{path: path, lock: lock}, nil
}

// createUnder makes a directory that appears under its final name only when its lock is held, so that Sweep never takes it for
// a dead cluster's.
func createUnder(parent string) (*Dir, error) {
	temporary, err := os.MkdirTemp(parent, unborn)
	if err != nil {
		return nil, fmt.Errorf("make the cluster's directory: %w", err)
	}
	lock, err := flock.Try(filepath.Join(temporary, lockName))
	if err != nil {
		return nil, err
	}
	path := filepath.Join(parent, prefix+filepath.Base(temporary)[len(unborn):])
	if err := os.Rename(temporary, path); err != nil {
		return nil, fmt.Errorf("name the cluster's directory: %w", err)
	}
	return &Dir{path: path, lock: lock}, nil
}

// refuseForeign refuses a directory that has files but was no cluster's.
func refuseForeign(path string) error {
	entries, err := os.ReadDir(path)
	if err != nil {
		return fmt.Errorf("read the cluster's directory: %w", err)
	}
	if len(entries) == 0 {
		return nil
	}
	if _, err := os.Stat(filepath.Join(path, lockName)); err != nil {
		return fmt.Errorf("%s has files that no devcluster made, and a cluster removes its directory when it stops: "+
			"give --dir a directory that is empty or does not exist", path)
	}
	return nil
}

// empty removes everything in a directory but its lock.
func empty(path string) error {
	entries, err := os.ReadDir(path)
	if err != nil {
		return fmt.Errorf("read the cluster's directory: %w", err)
	}
	for _, entry := range entries {
		if entry.Name() == lockName {
			continue
		}
		if err := os.RemoveAll(filepath.Join(path, entry.Name())); err != nil {
			return fmt.Errorf("remove what an earlier cluster left: %w", err)
		}
	}
	return nil
}

// Path is where the directory is.
func (d *Dir) Path() string { return d.path }

// Write writes a file in the directory.
func (d *Dir) Write(name string, content []byte) error {
	if err := os.WriteFile(filepath.Join(d.path, name), content, 0o600); err != nil {
		return fmt.Errorf("write a file of the cluster: %w", err)
	}
	return nil
}

// Publish records state for Read and Running. Readers see the old or the new state, never half of one.
func (d *Dir) Publish(state State) error {
	content, err := json.MarshalIndent(state, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the cluster's state: %w", err)
	}
	if err := d.Write(stateName+".new", content); err != nil {
		return err
	}
	final := filepath.Join(d.path, stateName)
	if err := os.Rename(final+".new", final); err != nil {
		return fmt.Errorf("publish the cluster's state: %w", err)
	}
	return nil
}

// Remove removes the directory and everything in it.
func (d *Dir) Remove() error {
	defer d.lock.Release()
	if err := os.RemoveAll(d.path); err != nil {
		return fmt.Errorf("remove the cluster's directory: %w", err)
	}
	return nil
}

// Release leaves the directory as it is.
func (d *Dir) Release() { d.lock.Release() }

// Alive says whether a running cluster holds the directory at path.
func Alive(path string) bool { return flock.Held(filepath.Join(path, lockName)) }

// Read returns the state of the cluster in the directory at path.
func Read(path string) (State, error) {
	if !Alive(path) {
		return State{}, fmt.Errorf("no cluster is running in %s: start one with devcluster up --dir %s", path, path)
	}
	content, err := os.ReadFile(filepath.Join(path, stateName))
	if errors.Is(err, fs.ErrNotExist) {
		return State{}, fmt.Errorf("the cluster in %s is still starting: try again in some seconds", path)
	}
	if err != nil {
		return State{}, fmt.Errorf("read the state of the cluster in %s: %w", path, err)
	}
	var state State
	if err := json.Unmarshal(content, &state); err != nil {
		return State{}, fmt.Errorf("read the state of the cluster in %s: %w", path, err)
	}
	return state, nil
}

// Running returns the directories under parent that running clusters hold, of those made without a path.
func Running(parent string) ([]string, error) {
	found, err := filepath.Glob(filepath.Join(parent, prefix+"*"))
	if err != nil {
		return nil, fmt.Errorf("look for clusters: %w", err)
	}
	var running []string
	for _, path := range found {
		if Alive(path) {
			running = append(running, path)
		}
	}
	return running, nil
}

// Sweep removes the directories under parent that killed launchers left behind.
func Sweep(parent string) error {
	found, err := filepath.Glob(filepath.Join(parent, prefix+"*"))
	if err != nil {
		return fmt.Errorf("look for what is left of dead clusters: %w", err)
	}
	for _, path := range found {
		lock, err := flock.TryExisting(filepath.Join(path, lockName))
		if err != nil {
			continue // alive, gone meanwhile, or another user's
		}
		err = os.RemoveAll(path)
		lock.Release()
		if err != nil {
			return fmt.Errorf("remove what is left of a dead cluster: %w", err)
		}
	}
	return nil
}
