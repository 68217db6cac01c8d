package build

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// tinyModule makes a devcluster module whose control plane prints a word.
func tinyModule(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	write(t, dir, "go.mod", "module "+modulePath+"\n\ngo 1.26.0\n\nrequire k8s.io/kubernetes v1.36.3\n")
	write(t, dir, "go.sum", "")
	write(t, dir, "cmd/controlplane/main.go", "package main\n\nfunc main() { println(\"hello\") }\n")
	return dir
}

func write(t *testing.T, dir, name, content string) {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// locked is a buffer that several builders may write to.
type locked struct {
	mu     sync.Mutex
	buffer bytes.Buffer
}

func (l *locked) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buffer.Write(p)
}

func TestConcurrentFirstUsersBuildOnce(t *testing.T) {
	builder := Builder{Source: tinyModule(t), Cache: t.TempDir()}
	messages := &locked{}
	builder.Messages = messages
	var users sync.WaitGroup
	for range 4 {
		users.Go(func() {
			program, err := builder.Program(context.Background())
			if err != nil {
				t.Error(err)
				return
			}
			said, err := exec.Command(program).CombinedOutput()
			if err != nil || string(said) != "hello\n" {
				t.Errorf("the program said %q, %v", said, err)
			}
		})
	}
	users.Wait()
	if built := strings.Count(messages.buffer.String(), "building the Kubernetes control plane"); built != 1 {
		t.Errorf("built %d times; want once:\n%s", built, messages.buffer.String())
	}
}

func TestFailedBuildShowsWhyAndLeavesNothing(t *testing.T) {
	builder := Builder{Source: tinyModule(t), Cache: t.TempDir(), Messages: &locked{}}
	write(t, builder.Source, "cmd/controlplane/main.go", "package main\n\nfunc main() { undefinedName() }\n")
	_, err := builder.Program(context.Background())
	if err == nil || !strings.Contains(err.Error(), "undefined: undefinedName") {
		t.Fatalf("got error %v; want the compiler's", err)
	}
	write(t, builder.Source, "cmd/controlplane/main.go", "package main\n\nfunc main() {}\n")
	if _, err := builder.Program(context.Background()); err != nil {
		t.Errorf("after the fix: %v", err)
	}
}

func TestKeyFollowsEverySource(t *testing.T) {
	dir := tinyModule(t)
	key := func() string {
		t.Helper()
		r, err := newRecipe(dir)
		if err != nil {
			t.Fatal(err)
		}
		return r.key
	}
	seen := map[string]string{key(): "the start"}
	for _, change := range []struct{ name, content string }{
		{"go.sum", "\n"},
		{"go.mod", "module " + modulePath + "\n\ngo 1.26.0\n\nrequire k8s.io/kubernetes v1.36.4\n"},
		{"cmd/controlplane/main.go", "package main\n"},
		{"cmd/controlplane/more.go", "package main\n"},
	} {
		write(t, dir, change.name, change.content)
		k := key()
		if before, known := seen[k]; known {
			t.Errorf("a change of %s gave the key of %s", change.name, before)
		}
		seen[k] = change.name
	}
	last := key()
	write(t, dir, "cmd/controlplane/main_test.go", "package main\n")
	if key() != last {
		t.Error("a test file changed the key")
	}
}

func TestReleaseIsThatOfGoMod(t *testing.T) {
	r, err := newRecipe(tinyModule(t))
	if err != nil {
		t.Fatal(err)
	}
	flags := strings.Join(r.args, " ")
	for _, flag := range []string{
		"-s -w",
		"-X k8s.io/component-base/version.gitVersion=v1.36.3",
		"-X k8s.io/client-go/pkg/version.gitMinor=36",
	} {
		if !strings.Contains(flags, flag) {
			t.Errorf("no %q in %s", flag, flags)
		}
	}
}

func TestFindModule(t *testing.T) {
	repository := t.TempDir()
	write(t, repository, "devcluster/go.mod", "module "+modulePath+"\n")
	write(t, repository, "internal/deep/go.txt", "")
	want := filepath.Join(repository, "devcluster")
	for _, from := range []string{".", "devcluster", "internal/deep"} {
		got, err := FindModule(filepath.Join(repository, from))
		if err != nil || got != want {
			t.Errorf("from %s: got %q, %v; want %q", from, got, err, want)
		}
	}
	if got, err := FindModule(t.TempDir()); err == nil {
		t.Errorf("found %q from outside any repository", got)
	}
}

func TestPrune(t *testing.T) {
	cache := t.TempDir()
	now := time.Now()
	for name, age := range map[string]time.Duration{"current": 100 * 24 * time.Hour, "recent": time.Hour, "old": 15 * 24 * time.Hour} {
		write(t, cache, name+"/"+programName, "")
		if err := os.Chtimes(filepath.Join(cache, name, programName), now, now.Add(-age)); err != nil {
			t.Fatal(err)
		}
	}
	if err := prune(cache, "current", now); err != nil {
		t.Fatal(err)
	}
	for name, kept := range map[string]bool{"current": true, "recent": true, "old": false} {
		if _, err := os.Stat(filepath.Join(cache, name)); (err == nil) != kept {
			t.Errorf("%s is there: %t; want %t", name, err == nil, kept)
		}
	}
}
