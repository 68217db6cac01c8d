package rundir_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/holdfastcd/holdfast/devcluster/internal/rundir"
)

func create(t *testing.T, path, parent string) *rundir.Dir {
	t.Helper()
	dir, err := rundir.Create(path, parent)
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func TestPublishedStateIsReadWhileAlive(t *testing.T) {
	dir := create(t, "", t.TempDir())
	if _, err := rundir.Read(dir.Path()); err == nil {
		t.Error("a cluster that is still starting was read as ready")
	}
	want := rundir.State{Dir: dir.Path(), Kubeconfig: "k", Processes: map[string]int{"etcd": 7}}
	if err := dir.Publish(want); err != nil {
		t.Fatal(err)
	}
	got, err := rundir.Read(dir.Path())
	if err != nil {
		t.Fatal(err)
	}
	if got.Kubeconfig != "k" || got.Processes["etcd"] != 7 {
		t.Errorf("read %+v; want %+v", got, want)
	}
	dir.Release()
	if _, err := rundir.Read(dir.Path()); err == nil {
		t.Error("a dead cluster was read as ready")
	}
}

func TestSweepTakesTheDeadOnly(t *testing.T) {
	parent := t.TempDir()
	alive, dead := create(t, "", parent), create(t, "", parent)
	dead.Release()
	if err := rundir.Sweep(parent); err != nil {
		t.Fatal(err)
	}
	if !exists(alive.Path()) || exists(dead.Path()) {
		t.Errorf("alive is there: %t; dead is there: %t", exists(alive.Path()), exists(dead.Path()))
	}
	running, err := rundir.Running(parent)
	if err != nil {
		t.Fatal(err)
	}
	if len(running) != 1 || running[0] != alive.Path() {
		t.Errorf("running: %q; want %q", running, alive.Path())
	}
	if err := alive.Remove(); err != nil || exists(alive.Path()) {
		t.Errorf("removed: %v; still there: %t", err, exists(alive.Path()))
	}
}

func TestChosenDirectory(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new", "cluster")
	first := create(t, path, "")
	if _, err := rundir.Create(path, ""); err == nil {
		t.Error("a second cluster got the directory of a running one")
	}
	if err := first.Write("leavings", nil); err != nil {
		t.Fatal(err)
	}
	first.Release() // as if it had been killed
	create(t, path, "")
	if exists(filepath.Join(path, "leavings")) {
		t.Error("the leavings of a dead cluster are still there")
	}
}

func TestForeignFilesAreRefused(t *testing.T) {
	path := t.TempDir()
	thesis := filepath.Join(path, "thesis.txt")
	if err := os.WriteFile(thesis, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := rundir.Create(path, ""); err == nil {
		t.Error("a directory with somebody's files was taken")
	}
	if !exists(thesis) {
		t.Error("somebody's file was removed")
	}
}
