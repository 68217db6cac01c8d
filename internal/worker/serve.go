package worker

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"strconv"
	"strings"
	"time"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/tree"
)

const (
	// maxStack turns a recursion without end into a quick death; Go's own bound
	// of 1 GiB would be a slow one.
	maxStack = 32 << 20
	// gcPercent keeps a worker with a large job small.
	gcPercent = 35
	// ballast is allocated and never touched, so that it takes no memory: with
	// it, the collector lets a worker with a small job make ballast/2 of garbage
	// before it runs, instead of 2 MiB. It halves the time of small jobs.
	ballast = 24 << 20
	// settle is how long a worker is idle before it gives memory back.
	settle = 500 * time.Millisecond
)

// RunIfWorker makes this process a worker and never returns, if it was started
// as one; otherwise it does nothing. handlers are the kinds of jobs it can do,
// by name. It is to be called before anything else, so that the worker has
// opened nothing.
func RunIfWorker(handlers map[string]Handler) {
	if len(os.Args) != 2 || os.Args[1] != Arg {
		return
	}
	in, out := os.Stdin, os.Stdout
	os.Stdout = os.Stderr // whatever a library prints must not look like a message
	if err := serve(in, out, handlers); err != nil {
		fmt.Fprintf(os.Stderr, "worker: %v\nThis command is started by holdfast itself.\n", err)
		os.Exit(2)
	}
	os.Exit(0)
}

// serve speaks the worker's side of the protocol until in ends.
func serve(in io.Reader, out io.Writer, handlers map[string]Handler) error {
	r := bufio.NewReader(in)
	weight := make([]byte, ballast)
	defer runtime.KeepAlive(weight)
	conf, err := configure(r, out)
	if err != nil {
		return err
	}
	s := &server{out: out, handlers: handlers, frames: make(chan frame)}
	go s.read(r, conf.MaxFrame)
	for {
		if err := s.job(s.nextJob()); err != nil {
			return err
		}
	}
}

// configure receives the config, enters the cage and says so.
func configure(in io.Reader, out io.Writer) (config, error) {
	var conf config
	f, err := readFrame(in, 0)
	if err != nil {
		return conf, err
	}
	if f.kind != frameConfig {
		return conf, errProtocol
	}
	if err := f.decode(&conf); err != nil {
		return conf, err
	}
	time.Local = time.UTC // the zone's file cannot be opened later
	// Libraries may log what a tenant wrote; this covers package log too.
	slog.SetDefault(slog.New(slog.DiscardHandler))
	debug.SetMaxStack(maxStack)
	debug.SetGCPercent(gcPercent)
	debug.SetMemoryLimit(conf.MemoryLimit + ballast)
	pages := ProgramPages()
	cage, err := enter(conf.MemoryLimit)
	pages.GiveBack()
	if err != nil {
		// Fail closed: a worker that is not caged as its platform allows does no job.
		err = fault.New(fault.Internal, "the worker could not be caged: %v", err)
	}
	return conf, writeFrame(out, frameHello, hello{Cage: cage, Error: toWire(err)}, nil)
}

// server is a worker at work.
type server struct {
	out      io.Writer
	handlers map[string]Handler
	frames   chan frame
}

// read takes in frames, and ends the process when the parent is gone: also in
// the middle of a job that would never end by itself.
func (s *server) read(in io.Reader, maxFrame int64) {
	for {
		f, err := readFrame(in, maxFrame)
		if err != nil {
			os.Exit(0)
		}
		s.frames <- f
	}
}

// nextJob waits for a frame, and gives memory back while there is none.
func (s *server) nextJob() frame {
	idle := time.NewTimer(settle)
	defer idle.Stop()
	select {
	case f := <-s.frames:
		return f
	case <-idle.C:
		debug.FreeOSMemory()
	}
	return <-s.frames
}

func (s *server) job(f frame) error {
	if f.kind != frameJob {
		return errProtocol
	}
	var j job
	if err := f.decode(&j); err != nil {
		return err
	}
	body, err := s.handle(j.Kind, f.body)
	return writeFrame(s.out, frameResult, result{Error: toWire(err), Memory: heldMemory()}, body)
}

// handle runs the handler; a panic in it is that job's failure.
func (s *server) handle(kind string, payload []byte) (body []byte, err error) {
	h, ok := s.handlers[kind]
	if !ok {
		return nil, fault.New(fault.Internal, "the worker does not know the job %q", kind)
	}
	defer func() {
		if v := recover(); v != nil {
			body, err = nil, fault.New(fault.Internal, "%s failed inside: %s", kind, cause(v))
		}
	}()
	if body, err = h(payload, (*remote)(s)); err != nil {
		return nil, err
	}
	return body, nil
}

// cause says what a panic was about, and where. What the runtime says holds no value
// that is not a number; what anybody else says may hold whatever it was given, so that
// it is left out.
func cause(v any) string {
	what := fmt.Sprintf("a panic with a %T", v)
	if e, ok := v.(runtime.Error); ok {
		what = e.Error()
	}
	frames := runtime.CallersFrames(callers())
	for more := true; more; {
		var f runtime.Frame
		f, more = frames.Next()
		if f.Function != "" && !strings.HasPrefix(f.Function, "runtime.") {
			return what + " in " + path.Base(f.Function) + ":" + strconv.Itoa(f.Line)
		}
	}
	return what
}

// callers are those of whoever panicked.
func callers() []uintptr {
	pcs := make([]uintptr, 32)
	return pcs[:runtime.Callers(4, pcs)] // this, cause, and the function that recovers
}

// heldMemory is what the Go runtime holds from the operating system, as good as known.
func heldMemory() int64 {
	samples := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	metrics.Read(samples)
	return int64(samples[0].Value.Uint64()-samples[1].Value.Uint64()) - ballast
}

// remote is the worker's side of a job's Files.
type remote server

// ask sends a query and waits for its answer. An error in the protocol ends
// the worker: there is nobody to tell.
func (r *remote) ask(op, name string) (answer, []byte, error) {
	if err := writeFrame(r.out, frameQuery, query{Op: op, Path: name}, nil); err != nil {
		if errors.Is(err, errTooLarge) {
			return answer{}, nil, fault.New(fault.Invalid, "a path of %d bytes is too long", len(name))
		}
		os.Exit(0)
	}
	f := <-r.frames
	var a answer
	if f.kind != frameAnswer || f.decode(&a) != nil {
		os.Exit(2)
	}
	if a.Error != nil {
		return answer{}, nil, a.Error.fault()
	}
	return a, f.body, nil
}

func (r *remote) ReadFile(name string) ([]byte, error) {
	_, body, err := r.ask(opRead, name)
	return body, err
}

func (r *remote) ReadDir(name string) ([]tree.Entry, error) {
	_, body, err := r.ask(opList, name)
	if err != nil {
		return nil, err
	}
	var listed []wireEntry
	if err := json.Unmarshal(body, &listed); err != nil {
		return nil, fault.New(fault.Internal, "a listing could not be read: %v", err)
	}
	entries := make([]tree.Entry, len(listed))
	for i, e := range listed {
		entries[i] = tree.Entry{Name: e.Name, Kind: e.Kind}
	}
	return entries, nil
}

func (r *remote) Resolve(name string) (string, tree.Entry, error) {
	a, _, err := r.ask(opResolve, name)
	if err != nil {
		return "", tree.Entry{}, err
	}
	if a.Entry == nil {
		return "", tree.Entry{}, fault.New(fault.Internal, "an answer without an entry")
	}
	return a.Path, tree.Entry{Name: a.Entry.Name, Kind: a.Entry.Kind}, nil
}
