package process_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/holdfastcd/holdfast/devcluster/internal/process"
)

// shell starts a shell script as a process.
func shell(t *testing.T, script string) *process.Process {
	t.Helper()
	dir := t.TempDir()
	p, err := process.Start(process.Spec{
		Name: "shell", Path: "/bin/sh", Args: []string{"-c", script}, Dir: dir, Env: os.Environ(), Log: filepath.Join(dir, "log"),
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestKill(t *testing.T) {
	p := shell(t, "read forever")
	select {
	case <-p.Done():
		t.Fatalf("it ended by itself: %v: its standard input should stay open", p.Err())
	default:
	}
	p.Kill()
	if p.Err() == nil {
		t.Error("a killed process is said to have ended well")
	}
	p.Kill() // once more does no harm
}

func TestTail(t *testing.T) {
	p := shell(t, "i=0; while [ $i -lt 5000 ]; do echo line $i; i=$((i+1)); done; echo last >&2; exit 3")
	<-p.Done()
	if p.Err() == nil || p.Err().Error() != "exit status 3" {
		t.Errorf("ended with %v; want exit status 3", p.Err())
	}
	if got, want := p.Tail(3), "line 4998\nline 4999\nlast"; got != want {
		t.Errorf("tail is %q; want %q", got, want)
	}
}

func TestStartFailure(t *testing.T) {
	_, err := process.Start(process.Spec{Name: "ghost", Path: "/nonexistent/ghost", Log: filepath.Join(t.TempDir(), "log")})
	if err == nil || !strings.Contains(err.Error(), "start ghost") {
		t.Errorf("got error %v; want one that names the program", err)
	}
}
