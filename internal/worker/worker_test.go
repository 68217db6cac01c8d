package worker

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/tree"
	"github.com/holdfastcd/holdfast/internal/tree/treetest"
)

// TestMain makes the test binary a worker, an ill-behaved worker, or a parent
// that dies, when it is started as one.
func TestMain(m *testing.M) {
	RunIfWorker(map[string]Handler{
		"echoing":   func(p []byte, _ Files) ([]byte, error) { return p, nil },
		"reading":   reading,
		"escaping":  escaping,
		"computing": computing,
		"hogging":   hogging,
		"looping":   func([]byte, Files) ([]byte, error) { looping(); return nil, nil },
		"recursing": func([]byte, Files) ([]byte, error) { return []byte{byte(recurse(1))}, nil },
		"panicking": func([]byte, Files) ([]byte, error) { panic("oh no") },
		"indexing":  func(p []byte, _ Files) ([]byte, error) { return []byte{"abc"[len(p)+7]}, nil },
		"crashing": func([]byte, Files) ([]byte, error) {
			go panic("hunter2 is the word")
			select {}
		},
		"signalling": signalling,
		"growing":    func(p []byte, _ Files) ([]byte, error) { return make([]byte, 8<<20), nil },
	})
	if len(os.Args) == 3 && os.Args[1] == "hostile" {
		hostile(os.Args[2])
		os.Exit(0)
	}
	if len(os.Args) == 2 && os.Args[1] == "parent" {
		parent()
	}
	os.Exit(m.Run())
}

func reading(p []byte, files Files) ([]byte, error) {
	op, name, _ := strings.Cut(string(p), " ")
	switch op {
	case "read":
		return files.ReadFile(name)
	case "list":
		entries, err := files.ReadDir(name)
		return fmt.Append(nil, entries), err
	}
	at, e, err := files.Resolve(name)
	return fmt.Append(nil, at, " ", e.Kind), err
}

// escaping tries what a cage must not let through.
func escaping(p []byte, _ Files) ([]byte, error) {
	var err error
	switch how, arg, _ := strings.Cut(string(p), " "); how {
	case "dial":
		_, err = net.Dial("tcp", arg)
	case "listen":
		_, err = net.Listen("tcp", "127.0.0.1:0")
	case "unix":
		_, err = net.Dial("unix", arg)
	case "open":
		_, err = os.Open(arg)
	case "create":
		err = os.WriteFile(arg, []byte("x"), 0o600)
	case "exec":
		err = exec.Command(arg).Run()
	case "stat":
		_, err = os.Stat(arg)
	case "signal":
		err = signalParent()
	default:
		return nil, errors.New("unknown way out")
	}
	if err != nil {
		return []byte(err.Error()), nil
	}
	return nil, errors.New("it got out")
}

// computing allocates, collects, and uses timers and goroutines.
func computing([]byte, Files) ([]byte, error) {
	done := make(chan int)
	for i := range 8 {
		go func() {
			sum := 0
			for j := range 2000 {
				b := bytes.Repeat([]byte{byte(i)}, 4096)
				sum += len(b) + j
			}
			done <- sum
		}()
	}
	for range 8 {
		<-done
	}
	runtime.GC()
	<-time.After(time.Millisecond)
	return []byte("done"), nil
}

func hogging([]byte, Files) ([]byte, error) {
	var all [][]byte
	for {
		b := make([]byte, 1<<20)
		for i := range b {
			b[i] = 1
		}
		all = append(all, b)
		if len(all) > 1<<14 {
			return nil, errors.New("16 GiB and still alive")
		}
	}
}

func looping() {
	for i := 0; ; i++ {
		_ = i
	}
}

func recurse(n int) int {
	if n == 0 {
		return 0
	}
	return recurse(n+1) + 1
}

func signalling(_ []byte, files Files) ([]byte, error) {
	if _, err := files.ReadFile("now"); err != nil {
		return nil, err
	}
	looping()
	return nil, nil
}

// hostile speaks the protocol badly.
func hostile(how string) {
	_, _ = readFrame(os.Stdin, 0)
	_ = writeFrame(os.Stdout, frameHello, hello{Cage: "none"}, nil)
	_, _ = readFrame(os.Stdin, 1<<20)
	switch how {
	case "garbage":
		_, _ = io.Copy(os.Stdout, strings.NewReader(strings.Repeat("garbage ", 1<<16)))
	case "giant":
		var prefix [prefixSize]byte
		prefix[0] = frameResult
		binary.BigEndian.PutUint32(prefix[5:], 1<<32-1)
		_, _ = os.Stdout.Write(prefix[:])
	case "head":
		var prefix [prefixSize]byte
		prefix[0] = frameQuery
		binary.BigEndian.PutUint32(prefix[1:], maxHead+1)
		_, _ = os.Stdout.Write(prefix[:])
	case "field":
		_ = writeFrame(os.Stdout, frameResult, map[string]any{"surprise": 1}, nil)
	case "question":
		_ = writeFrame(os.Stdout, frameQuery, query{Op: "delete", Path: "x"}, nil)
	case "quit":
		return
	case "kind":
		_ = writeFrame(os.Stdout, frameResult, result{Error: &wireError{Kind: 200, Msg: "\x1b[31mred"}}, nil)
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// parent starts a worker with an endless job, says its number and is killed.
func parent() {
	p := NewPool(Options{Deadline: time.Hour})
	_, _ = p.Do(context.Background(), "signalling", nil, announce{p})
	os.Exit(0)
}

type announce struct{ p *Pool }

func (announce) ReadFile(string) ([]byte, error) {
	fmt.Println("working")
	return nil, nil
}
func (announce) ReadDir(string) ([]tree.Entry, error)       { return nil, nil }
func (announce) Resolve(string) (string, tree.Entry, error) { return "", tree.Entry{}, nil }
func newPool(t *testing.T, o Options) *Pool {
	t.Helper()
	p := NewPool(o)
	t.Cleanup(p.Close)
	return p
}

func files(content map[string]string) Files {
	m := map[string][]byte{}
	for k, v := range content {
		m[k] = []byte(v)
	}
	return tree.NewView(treetest.FromFiles(m), tree.Limits{})
}

func TestFiles(t *testing.T) {
	p := newPool(t, Options{})
	view := files(map[string]string{"a/b.yaml": "x: 1\n", "a/c/d": ""})
	tests := []struct {
		reason, ask, want string
		kind              fault.Kind
		absent            bool
	}{
		{reason: "content crosses the pipe as it is", ask: "read a/b.yaml", want: "x: 1\n"},
		{reason: "an empty file is empty", ask: "read a/c/d", want: ""},
		{reason: "names and kinds", ask: "list a", want: fmt.Sprint([]tree.Entry{{Name: "b.yaml", Kind: tree.File}, {Name: "c", Kind: tree.Dir}})},
		{reason: "paths are resolved by the view", ask: "resolve a/c/..", want: "a directory"},
		{reason: "absence is told apart", ask: "read a/z", kind: fault.NotFound, absent: true},
		{reason: "a refusal stays one", ask: "read ../z", kind: fault.Refused},
		{reason: "no frame can hold it", ask: "read " + strings.Repeat("z", maxHead), kind: fault.Invalid},
	}
	for _, tt := range tests {
		got, err := p.Do(t.Context(), "reading", []byte(tt.ask), view)
		if tt.kind == fault.Internal && err != nil || tt.kind != fault.Internal && fault.KindOf(err) != tt.kind {
			t.Errorf("%s: error %v, want kind %v", tt.reason, err, tt.kind)
		}
		if errors.Is(err, tree.ErrNotExist) != tt.absent {
			t.Errorf("%s: errors.Is(%v, ErrNotExist) is not %v", tt.reason, err, tt.absent)
		}
		if diff := cmp.Diff(tt.want, string(got)); diff != "" {
			t.Errorf("%s: %s", tt.reason, diff)
		}
	}
	if len(view.(*tree.View).Trace()) != 5 {
		t.Errorf("trace: %v", view.(*tree.View).Trace())
	}
}

func TestCageHolds(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip(Cage())
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	socket := filepath.Join(t.TempDir(), "s")
	u, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	p := newPool(t, Options{})
	words, err := p.Cage(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Log(words)
	for _, way := range []string{
		"dial " + l.Addr().String(), "listen", "unix " + socket, "open /etc/passwd", "open /proc/self/environ",
		"create " + filepath.Join(t.TempDir(), "x"), "exec /bin/true", "stat /etc", "signal",
	} {
		got, err := p.Do(t.Context(), "escaping", []byte(way), nil)
		if err != nil {
			t.Errorf("%s: %v", way, err)
		}
		if !strings.Contains(string(got), "not permitted") {
			t.Errorf("%s: %s", way, got)
		}
	}
	got, err := p.Do(t.Context(), "computing", nil, nil)
	if err != nil || string(got) != "done" {
		t.Errorf("computing in the cage: %q, %v", got, err)
	}
}

func TestJobsFailAlone(t *testing.T) {
	p := newPool(t, Options{MemoryLimit: 192 << 20, Deadline: 20 * time.Second})
	tests := []struct {
		reason, job string
		kind        fault.Kind
		msg         string
	}{
		{"a panic is caught, and what it says is not told", "panicking", fault.Internal, "panicking failed inside: a panic with a string in worker.TestMain"},
		{"what the runtime says is", "indexing", fault.Internal, "indexing failed inside: runtime error: index out of range [7] with length 3 in worker.TestMain"},
		{"memory is bounded, and the limit is named", "hogging", fault.Limit, "hogging needed more than 192 MiB of memory"},
		{"a stack overflow cannot be caught, only survived", "recursing", fault.Limit, "recursing recursed too deeply: more than 32 MiB of stack" +
			" or recursing needed more than 192 MiB of memory"}, // the race detector keeps its own stacks,
		{"unknown", "juggling", fault.Internal, `the worker does not know the job "juggling"`},
	}
	for _, tt := range tests {
		_, err := p.Do(t.Context(), tt.job, nil, nil)
		var f *fault.Error
		if !errors.As(err, &f) || f.Kind != tt.kind || !strings.Contains(tt.msg, f.Msg) && !strings.HasPrefix(f.Msg, tt.msg) {
			t.Errorf("%s: %v", tt.reason, err)
		}
		got, err := p.Do(t.Context(), "echoing", []byte("next"), nil)
		if err != nil || string(got) != "next" {
			t.Errorf("%s: the next job: %q, %v", tt.reason, got, err)
		}
	}
}

func TestDeadline(t *testing.T) {
	p := newPool(t, Options{Deadline: 200 * time.Millisecond})
	_, err := p.Do(t.Context(), "looping", nil, nil)
	var f *fault.Error
	if !errors.As(err, &f) || f.Kind != fault.Limit || f.Msg != "looping took longer than 200ms" {
		t.Errorf("deadline: %v", err)
	}
	if got, err := p.Do(t.Context(), "echoing", []byte("next"), nil); err != nil || string(got) != "next" {
		t.Errorf("the next job: %q, %v", got, err)
	}
}

// hung gives up a file when the job's time is over, and says so.
type hung struct {
	NoFiles
	ctx context.Context
}

func (h *hung) Within(ctx context.Context) { h.ctx = ctx }

func (h *hung) ReadFile(name string) ([]byte, error) {
	<-h.ctx.Done()
	return nil, fault.New(fault.Unreachable, "%s did not come", name)
}

// Whether the worker passes on that a file did not come or is killed before it can,
// is a race; that the deadline was the reason is told either way.
func TestDeadlineWithinAFile(t *testing.T) {
	p := newPool(t, Options{Size: 1, Deadline: 10 * time.Millisecond})
	for i := range 20 {
		if _, err := p.Do(t.Context(), "signalling", nil, &hung{}); !errors.Is(err, ErrDeadline) {
			t.Fatalf("%d: %v", i, err)
		}
	}
}

// during calls do when the worker asks for a file, which is in the middle of a job.
type during struct{ do func() }

func (d during) ReadFile(string) ([]byte, error)            { d.do(); return nil, nil }
func (d during) ReadDir(string) ([]tree.Entry, error)       { return nil, nil }
func (d during) Resolve(string) (string, tree.Entry, error) { return "", tree.Entry{}, nil }

func TestCancel(t *testing.T) {
	p := newPool(t, Options{})
	ctx, cancel := context.WithCancel(t.Context())
	_, err := p.Do(ctx, "signalling", nil, during{cancel})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled in the middle: %v", err)
	}
	if _, err = p.Do(ctx, "echoing", nil, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled before: %v", err)
	}
}

func TestKilledFromOutside(t *testing.T) {
	p := newPool(t, Options{Size: 1})
	if _, err := p.Do(t.Context(), "echoing", nil, nil); err != nil {
		t.Fatal(err)
	}
	w := p.free[0]
	_, err := p.Do(t.Context(), "signalling", nil, during{w.kill})
	var f *fault.Error
	if !errors.As(err, &f) || f.Kind != fault.Internal || !strings.Contains(f.Msg, "signal: killed") || f.Hint == "" {
		t.Errorf("killed in the middle: %v", err)
	}
	if _, err := p.Do(t.Context(), "echoing", nil, nil); err != nil {
		t.Errorf("the next job: %v", err)
	}
	w = p.free[0]
	w.kill()
	<-w.done
	if _, err := p.Do(t.Context(), "echoing", nil, nil); err != nil {
		t.Errorf("a worker that died while idle is replaced: %v", err)
	}
}

func TestHostileWorker(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		how  string
		kind fault.Kind
		msg  string
	}{
		{"garbage", fault.Limit, "echoing gave more than 72 MiB"},
		{"giant", fault.Limit, "echoing gave more than 72 MiB"},
		{"head", fault.Limit, "echoing gave more than 72 MiB"},
		{"field", fault.Internal, "cut off: protocol violation"},
		{"question", fault.Internal, "cut off: protocol violation: unknown question"},
		{"quit", fault.Internal, "the worker ended: exit status 0"},
		{"kind", fault.Internal, "[31mred"},
	}
	for _, tt := range tests {
		p := newPool(t, Options{Command: []string{self, "hostile", tt.how}})
		_, err := p.Do(t.Context(), "echoing", nil, files(nil))
		if fault.KindOf(err) != tt.kind || !strings.Contains(err.Error(), tt.msg) || strings.Contains(err.Error(), "\x1b") {
			t.Errorf("%s: %v", tt.how, err)
		}
	}
}

func TestParentDeath(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the test looks for the worker in /proc")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// The worker inherits none of the parent's output, so a pipe of our own tells when it is gone.
	cmd := exec.Command(self, "parent")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, len("working\n"))); err != nil {
		t.Fatal(err)
	}
	workers := children(cmd.Process.Pid)
	if len(workers) != 1 {
		t.Fatalf("cannot find the worker: %v", workers)
	}
	w, err := os.FindProcess(workers[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if !goneSoon(w) {
		t.Error("the worker outlives its parent")
	}
}

func TestReuse(t *testing.T) {
	t.Run("a worker does many jobs, then is replaced", func(t *testing.T) {
		p := newPool(t, Options{Size: 1, Recycle: 2})
		var pids []int
		for range 3 {
			if _, err := p.Do(t.Context(), "echoing", nil, nil); err != nil {
				t.Fatal(err)
			}
			if len(p.free) > 0 {
				pids = append(pids, p.free[0].cmd.Process.Pid)
			}
		}
		if len(pids) != 2 || pids[0] == pids[1] {
			t.Errorf("workers kept after the jobs: %v", pids)
		}
	})
	t.Run("one that holds too much memory is replaced", func(t *testing.T) {
		p := newPool(t, Options{Size: 1, KeepMemory: 4 << 20})
		if _, err := p.Do(t.Context(), "growing", nil, nil); err != nil {
			t.Fatal(err)
		}
		if len(p.free) != 0 {
			t.Error("kept")
		}
	})
	t.Run("an idle one is ended", func(t *testing.T) {
		p := newPool(t, Options{Size: 1, IdleAfter: 50 * time.Millisecond})
		var w *process
		if _, err := p.Do(t.Context(), "reading", []byte("read x"), during{func() {}}); err != nil {
			t.Fatal(err)
		}
		p.mu.Lock()
		if len(p.free) > 0 {
			w = p.free[0]
		}
		p.mu.Unlock()
		if w != nil {
			<-w.done
		}
	})
	t.Run("a closed pool takes no jobs", func(t *testing.T) {
		p := newPool(t, Options{})
		if _, err := p.Do(t.Context(), "echoing", nil, nil); err != nil {
			t.Fatal(err)
		}
		w := p.free[0]
		p.Close()
		<-w.done
		if _, err := p.Do(t.Context(), "echoing", nil, nil); err == nil {
			t.Error("it took one")
		}
	})
}

func TestParallel(t *testing.T) {
	p := newPool(t, Options{Size: 2})
	errs := make(chan error)
	for i := range 20 {
		go func() {
			want := fmt.Sprint("payload ", i)
			got, err := p.Do(t.Context(), "echoing", []byte(want), nil)
			if err == nil && string(got) != want {
				err = fmt.Errorf("got %q, want %q", got, want)
			}
			errs <- err
		}()
	}
	for range 20 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if len(p.free) > 2 {
		t.Errorf("%d workers for 2 slots", len(p.free))
	}
}

// TestPatience has two jobs for a pool that keeps to one worker while it can.
func TestPatience(t *testing.T) {
	started := func(p *Pool) int {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.busy + len(p.free)
	}
	// during the first job the second one is given to the pool, and awaits a worker.
	second := func(t *testing.T, p *Pool, end func(waiting *sync.WaitGroup)) {
		t.Helper()
		var later sync.WaitGroup
		first := during{func() {
			later.Go(func() {
				if _, err := p.Do(t.Context(), "echoing", nil, nil); err != nil {
					t.Error(err)
				}
			})
			for waits := 0; waits == 0; runtime.Gosched() {
				p.mu.Lock()
				waits = len(p.waiting) + max(p.busy-1, 0) + len(p.free)
				p.mu.Unlock()
			}
			end(&later)
		}}
		_, _ = p.Do(t.Context(), "reading", []byte("read x"), first)
		later.Wait()
	}
	t.Run("a short job's worker is awaited", func(t *testing.T) {
		p := newPool(t, Options{Size: 2, Patience: time.Hour})
		second(t, p, func(*sync.WaitGroup) {})
		if n := started(p); n != 1 {
			t.Errorf("%d workers", n)
		}
	})
	t.Run("a long job does not hold up another", func(t *testing.T) {
		p := newPool(t, Options{Size: 2, Patience: 10 * time.Millisecond})
		second(t, p, (*sync.WaitGroup).Wait)
		if n := started(p); n != 2 {
			t.Errorf("%d workers", n)
		}
	})
	t.Run("one that dies leaves its place", func(t *testing.T) {
		p := newPool(t, Options{Size: 2, Patience: time.Hour, Recycle: 1})
		second(t, p, func(*sync.WaitGroup) {})
		if n := started(p); n != 0 {
			t.Errorf("%d workers kept", n)
		}
	})
	t.Run("who gives up waits no more", func(t *testing.T) {
		p := newPool(t, Options{Size: 2, Patience: time.Hour})
		ctx, cancel := context.WithCancel(t.Context())
		gaveUp := make(chan error, 1)
		first := during{func() {
			go func() {
				_, err := p.Do(ctx, "echoing", nil, nil)
				gaveUp <- err
			}()
			cancel()
			if err := <-gaveUp; !errors.Is(err, context.Canceled) {
				t.Errorf("got %v", err)
			}
		}}
		if _, err := p.Do(t.Context(), "reading", []byte("read x"), first); err != nil {
			t.Fatal(err)
		}
		if len(p.waiting) != 0 || p.busy != 0 || len(p.free) != 1 {
			t.Errorf("%d wait, %d busy, %d free", len(p.waiting), p.busy, len(p.free))
		}
	})
}

func TestLargePayload(t *testing.T) {
	p := newPool(t, Options{MaxFrame: 4 << 20})
	big := bytes.Repeat([]byte("x"), 4<<20)
	got, err := p.Do(t.Context(), "echoing", big, nil)
	if err != nil || !bytes.Equal(got, big) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if _, err = p.Do(t.Context(), "echoing", append(big, 'x'), nil); fault.KindOf(err) != fault.Limit {
		t.Errorf("payload over the limit: %v", err)
	}
	if _, err = p.Do(t.Context(), "growing", nil, nil); fault.KindOf(err) != fault.Limit {
		t.Errorf("result over the limit: %v", err)
	}
}

func FuzzFrame(f *testing.F) {
	var buf bytes.Buffer
	_ = writeFrame(&buf, frameResult, result{Memory: 1}, []byte("body"))
	f.Add(buf.Bytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := readFrame(bytes.NewReader(data), 1<<16)
		if err != nil {
			return
		}
		if len(got.head) > maxHead || len(got.body) > 1<<16 {
			t.Errorf("over the bounds: %d, %d", len(got.head), len(got.body))
		}
		var r result
		if got.decode(&r) == nil && r.Error != nil {
			_ = r.Error.fault().Error()
		}
	})
}

func BenchmarkStart(b *testing.B) {
	for b.Loop() {
		p := NewPool(Options{})
		if _, err := p.Do(b.Context(), "echoing", nil, nil); err != nil {
			b.Fatal(err)
		}
		p.Close()
	}
}

func BenchmarkEcho(b *testing.B) {
	p := NewPool(Options{})
	defer p.Close()
	for b.Loop() {
		if _, err := p.Do(b.Context(), "echoing", nil, nil); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkReadFile(b *testing.B) {
	p := NewPool(Options{})
	defer p.Close()
	v := files(map[string]string{"x": "y"})
	for b.Loop() {
		if _, err := p.Do(b.Context(), "reading", []byte("read x"), v); err != nil {
			b.Fatal(err)
		}
		v = files(map[string]string{"x": "y"})
	}
}

// What a dying worker writes may hold what its job was given.
func TestLastWordsHoldNoValue(t *testing.T) {
	p := newPool(t, Options{MemoryLimit: 192 << 20, Deadline: 20 * time.Second})
	_, err := p.Do(t.Context(), "crashing", nil, nil)
	if fault.KindOf(err) != fault.Internal || strings.Contains(err.Error(), "hunter2") || !strings.Contains(err.Error(), "a panic, of which the text is left out") {
		t.Errorf("got %v", err)
	}
	tests := []struct{ reason, line, want string }{
		{"the runtime's own words", "fatal error: all goroutines are asleep - deadlock!", "fatal error: all goroutines are asleep - deadlock!"},
		{"a panic of the runtime's", "panic: runtime error: index out of range [3] with length 1", "panic: runtime error: index out of range [3] with length 1"},
		{"anybody's panic", "panic: hunter2", "a panic, of which the text is left out"},
		{"a library that prints", "warning: hunter2 is weak", "what it wrote is left out"},
	}
	for _, tt := range tests {
		if got := ofRuntime(tt.line); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.reason, got, tt.want)
		}
	}
}
