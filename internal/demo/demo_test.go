package demo

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/holdfastcd/holdfast/internal/fault"
)

func TestFindRepo(t *testing.T) {
	root, err := FindRepo(".")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(root, "go.mod")); err != nil {
		t.Errorf("found %s, which is no root: %v", root, err)
	}
	_, err = FindRepo(t.TempDir())
	if fault.KindOf(err) != fault.NotFound || !strings.Contains(err.Error(), "git clone") {
		t.Errorf("elsewhere: got %v, want what to do", err)
	}
}

func TestFleetFiles(t *testing.T) {
	const url = "http://127.0.0.1:1234/fleet.git"
	files, err := fleetFiles(filepath.Join("..", "..", "examples", "fleet"), url)
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range files {
		if strings.Contains(content, placeholder) {
			t.Errorf("%s still holds the placeholder", name)
		}
	}
	if !strings.Contains(files["clusters/dev/root-argo.yaml"], url) {
		t.Error("the root does not hold the address")
	}
	// The demo's own commit must find what it changes.
	if !strings.Contains(files["apps/shop/overlays/dev/kustomization.yaml"], "count: 2") {
		t.Error("the commit that the demo makes would change nothing")
	}
}

func TestLogWaitsForTheController(t *testing.T) {
	file, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	l := &log{file: file, ready: make(chan struct{})}
	for _, part := range []string{"time=x level=INFO msg=listening addr", "ess=127.0.0.1:42\ntime=x level=INFO msg=", "ready\nmore\n"} {
		select {
		case <-l.ready:
			t.Fatal("ready too early")
		default:
		}
		if _, err := l.Write([]byte(part)); err != nil {
			t.Fatal(err)
		}
	}
	<-l.ready
	if got := l.address(); got != "127.0.0.1:42" {
		t.Errorf("address %q", got)
	}
	if !strings.HasSuffix(l.last(), "more") {
		t.Errorf("last %q", l.last())
	}
}

func TestStepsInAPipe(t *testing.T) {
	var out bytes.Buffer
	s := &steps{out: &out}
	if _, err := s.Write([]byte("devcluster: building\ndevcluster: ready in 3s\n")); err != nil {
		t.Fatal(err)
	}
	if got := out.String(); got != "    building\n" {
		t.Errorf("got %q", got)
	}
}
