package worker

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/holdfastcd/holdfast/internal/fault"
)

// startDeadline is generous: a start takes some tens of milliseconds.
const startDeadline = 30 * time.Second

// process is the parent's side of one worker. One goroutine at a time uses it.
type process struct {
	cmd    *exec.Cmd
	in     *os.File
	out    *os.File
	reader *bufio.Reader
	stderr *excerpt
	done   chan struct{} // closed when the process has ended and stderr is complete

	cage   string
	jobs   int
	memory int64       // what it held after its last job
	idle   *time.Timer // ends it while it has nothing to do
}

// start starts a worker and waits until it is caged. Errors are fault.Internal.
func start(ctx context.Context, o Options) (*process, error) {
	childIn, in, err := os.Pipe()
	if err != nil {
		return nil, fault.New(fault.Internal, "no pipe for a worker: %v", err)
	}
	out, childOut, err := os.Pipe()
	if err != nil {
		childIn.Close()
		in.Close()
		return nil, fault.New(fault.Internal, "no pipe for a worker: %v", err)
	}
	p := &process{in: in, out: out, reader: bufio.NewReaderSize(out, prefixSize), stderr: &excerpt{}, done: make(chan struct{})}
	p.cmd = &exec.Cmd{
		Path: o.Command[0], Args: o.Command, Dir: string(os.PathSeparator),
		Env:   []string{"GOTRACEBACK=single", "GOMAXPROCS=2"},
		Stdin: childIn, Stdout: childOut, Stderr: p.stderr,
		SysProcAttr: sysProcAttr(), WaitDelay: time.Second,
	}
	err = p.cmd.Start()
	// Ours must be closed before the first read: a worker's end shows as the end of its output.
	childIn.Close()
	childOut.Close()
	if err != nil {
		in.Close()
		out.Close()
		return nil, fault.New(fault.Internal, "the worker does not start: %v", err)
	}
	go func() {
		_ = p.cmd.Wait() // how it ended is in cmd.ProcessState
		close(p.done)
	}()
	if err := p.greet(ctx, o); err != nil {
		p.end()
		return nil, err
	}
	return p, nil
}

// greet exchanges config and hello.
func (p *process) greet(ctx context.Context, o Options) error {
	ctx, cancel := context.WithTimeout(ctx, startDeadline)
	defer cancel()
	stop := context.AfterFunc(ctx, p.kill)
	defer stop()
	var h hello
	f, err := p.exchangeConfig(o)
	if err == nil {
		err = f.decode(&h)
	}
	if err != nil {
		p.end()
		if ctx.Err() != nil {
			return fault.New(fault.Internal, "a worker's start was cut off: %v", ctx.Err()).Because(ctx.Err())
		}
		return fault.New(fault.Internal, "the worker did not start: %s", p.lastWords(err))
	}
	if h.Error != nil {
		return h.Error.fault()
	}
	p.cage = clip(h.Cage)
	return nil
}

func (p *process) exchangeConfig(o Options) (frame, error) {
	if err := writeFrame(p.in, frameConfig, config{MemoryLimit: o.MemoryLimit, MaxFrame: o.MaxFrame}, nil); err != nil {
		return frame{}, err
	}
	f, err := readFrame(p.reader, 0)
	if err == nil && f.kind != frameHello {
		err = errProtocol
	}
	return f, err
}

// run does one job. An error that is a *fault.Error is the job's own and leaves
// the worker usable; after any other the worker must be ended.
func (p *process) run(kind string, payload []byte, files Files, o Options) ([]byte, error) {
	p.jobs++
	if err := writeFrame(p.in, frameJob, job{Kind: kind}, payload); err != nil {
		return nil, err
	}
	for {
		f, err := readFrame(p.reader, o.MaxFrame)
		if err != nil {
			return nil, err
		}
		switch f.kind {
		case frameQuery:
			if err := p.answer(f, files); err != nil {
				return nil, err
			}
		case frameResult:
			return p.result(f)
		default:
			return nil, fmt.Errorf("%w: unexpected frame %q", errProtocol, f.kind)
		}
	}
}

func (p *process) result(f frame) ([]byte, error) {
	var r result
	if err := f.decode(&r); err != nil {
		return nil, err
	}
	p.memory = r.Memory
	if r.Error != nil {
		return nil, r.Error.fault()
	}
	return f.body, nil
}

// answer answers one query from files.
func (p *process) answer(f frame, files Files) error {
	var q query
	if err := f.decode(&q); err != nil {
		return err
	}
	var a answer
	var body []byte
	var err error
	switch q.Op {
	case opRead:
		body, err = files.ReadFile(q.Path)
	case opList:
		body, err = listing(files, q.Path)
	case opResolve:
		a.Path, a.Entry, err = resolved(files, q.Path)
	default:
		return fmt.Errorf("%w: unknown question %q", errProtocol, q.Op)
	}
	if err != nil {
		a, body = answer{Error: toWire(err)}, nil
	}
	return writeFrame(p.in, frameAnswer, a, body)
}

func listing(files Files, name string) ([]byte, error) {
	entries, err := files.ReadDir(name)
	if err != nil {
		return nil, err
	}
	listed := make([]wireEntry, len(entries))
	for i, e := range entries {
		listed[i] = wireEntry{Name: e.Name, Kind: e.Kind}
	}
	return json.Marshal(listed)
}

func resolved(files Files, name string) (string, *wireEntry, error) {
	p, e, err := files.Resolve(name)
	return p, &wireEntry{Name: e.Name, Kind: e.Kind}, err
}

// kill ends the process at once; safe to call at any time, from anywhere.
func (p *process) kill() { _ = p.cmd.Process.Kill() }

// end kills the process, waits for it and closes the pipes.
func (p *process) end() {
	p.kill()
	<-p.done
	p.in.Close()
	p.out.Close()
}

// ended reports whether the process is gone.
func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// autopsy says why a job of this kind failed with err, which was not the job's
// own error. The process must have ended.
func (p *process) autopsy(kind string, err error, o Options) *fault.Error {
	switch words := p.stderr.String(); {
	case errors.Is(err, errTooLarge):
		return fault.New(fault.Limit, "%s gave more than %d MiB", kind, o.MaxFrame>>20)
	case errors.Is(err, errProtocol):
		return fault.New(fault.Internal, "%s: the worker was cut off: %v", kind, err)
	case strings.Contains(words, "stack overflow") || strings.Contains(words, "stack exceeds"):
		return fault.New(fault.Limit, "%s recursed too deeply: more than %d MiB of stack", kind, maxStack>>20).
			WithHint("something in the input refers to itself")
	case outOfMemory(words) || words == "" && p.exitCode() == silentExit:
		return fault.New(fault.Limit, "%s needed more than %d MiB of memory", kind, o.MemoryLimit>>20)
	}
	f := fault.New(fault.Internal, "%s: the worker ended: %s", kind, p.lastWords(err))
	if p.exitCode() == -1 { // by a signal
		return f.WithHint("if the container is short of memory, the kernel may have ended it")
	}
	return f
}

// silentExit is how a program built with the race detector ends when two of its
// threads are refused memory at once: the second one ends the process before
// the first has said why.
const silentExit = 66

// exitCode returns what the process ended with, -1 for a signal, -2 while it is not known.
func (p *process) exitCode() int {
	if p.cmd.ProcessState == nil {
		return -2
	}
	return p.cmd.ProcessState.ExitCode()
}

// outOfMemory recognises how the Go runtime and the C library die of a limit.
func outOfMemory(words string) bool {
	for _, sign := range []string{
		"out of memory", "cannot allocate memory", "cannot map pages", "failed to allocate", "pthread_create failed",
		"failed to reserve", "unable to mmap",
	} {
		if strings.Contains(words, sign) {
			return true
		}
	}
	return false
}

// lastWords describes the end of a process for a log: how it ended, and what the Go
// runtime said first. Anything else that was written may hold what the job was given,
// and is not told.
func (p *process) lastWords(err error) string {
	state := err.Error()
	if p.cmd.ProcessState != nil {
		state = p.cmd.ProcessState.String()
	}
	if line, _, _ := strings.Cut(strings.TrimSpace(p.stderr.String()), "\n"); line != "" {
		state += ": " + clip(ofRuntime(line))
	}
	return state
}

// ofRuntime returns a line that the Go runtime or this package wrote, and of any other
// how it begins.
func ofRuntime(line string) string {
	for _, begin := range []string{"fatal error: ", "runtime: ", "runtime error: ", "panic: runtime error: ", "worker: ", "SIG", "unexpected fault address"} {
		if strings.HasPrefix(line, begin) {
			return line
		}
	}
	if strings.HasPrefix(line, "panic: ") {
		return "a panic, of which the text is left out"
	}
	return "what it wrote is left out"
}

// excerpt keeps the beginning of what is written to it: a Go program that dies
// says why first, and where after.
type excerpt struct {
	mu  sync.Mutex
	buf []byte
}

const excerptSize = 8 << 10

// Write never fails.
func (e *excerpt) Write(b []byte) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.buf = append(e.buf, b[:min(len(b), excerptSize-len(e.buf))]...)
	return len(b), nil
}

// String returns what was kept.
func (e *excerpt) String() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return string(e.buf)
}

// Reset forgets what was kept, so that one job's warnings do not fill the space
// of another's last words, and do not outlive it.
func (e *excerpt) Reset() {
	e.mu.Lock()
	defer e.mu.Unlock()
	clear(e.buf)
	e.buf = e.buf[:0]
}
