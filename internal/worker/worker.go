// Package worker is the cage in which Holdfast runs what a tenant wrote:
// templates, patches, programs.
//
// A worker is our own binary started again. It is given no credentials, no
// environment and no file: it speaks over its standard input and output, asks
// for the paths it wants, and the parent answers from the job's [Files]. Before
// its first job it shuts itself in (see [Cage]). It takes one job at a time and
// lives for many; when it takes too long, needs too much memory or breaks in any
// other way, it is killed, that job fails, and the next one gets a new worker.
//
// The parent trusts nothing that a worker says: every frame has a bound that is
// checked before it is read.
//
// A program that wants workers calls [RunIfWorker] first thing in main, and
// [Pool.Do] afterwards. Tests do the same from TestMain.
package worker

import (
	"context"
	"errors"
	"strings"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/tree"
)

// Arg is the hidden argument that makes a process a worker.
const Arg = "worker"

// Files is a job's only door to files. [tree.View] implements it: what it
// refuses is refused, and what it records is what the result depends on.
//
// Errors should be *fault.Error, and wrap [tree.ErrNotExist] where nothing is
// at the path; both survive the way into the worker. One goroutine at a time
// uses a Files.
type Files interface {
	// ReadFile returns the content of the file at name.
	ReadFile(name string) ([]byte, error)
	// ReadDir returns names and kinds of a directory's entries, sorted by name.
	ReadDir(name string) ([]tree.Entry, error)
	// Resolve returns the path that name leads to, free of symlinks and relative
	// to the root, and what is there.
	Resolve(name string) (string, tree.Entry, error)
}

// NoFiles is the Files of a job that reads none.
type NoFiles struct{}

var _ Files = NoFiles{}

// ReadFile implements Files: there is nothing.
func (NoFiles) ReadFile(name string) ([]byte, error) { return nil, tree.NotExist(name) }

// ReadDir implements Files: there is nothing.
func (NoFiles) ReadDir(name string) ([]tree.Entry, error) { return nil, tree.NotExist(name) }

// Resolve implements Files: there is nothing.
func (NoFiles) Resolve(name string) (string, tree.Entry, error) {
	return "", tree.Entry{}, tree.NotExist(name)
}

// Bounded is a Files that may wait for others, such as key services. It is told before
// a job begins in which context to wait: what the job asks for must not hold its place
// for longer than the job itself may.
type Bounded interface {
	Within(ctx context.Context)
}

// Handler does one kind of job inside a worker. Its payload and result are
// bytes of the caller's choosing; an error that is a *fault.Error reaches the
// caller of [Pool.Do] as such, any other as fault.Internal.
type Handler func(payload []byte, files Files) ([]byte, error)

// config is what a worker is told once, before its first job.
type config struct {
	MemoryLimit int64 `json:"memoryLimit"` // bytes that jobs may use beyond what the empty worker uses
	MaxFrame    int64 `json:"maxFrame"`    // largest body that the parent will send
}

// hello is a worker's answer to its config: it is ready, and how it is caged.
type hello struct {
	Cage  string     `json:"cage,omitempty"`
	Error *wireError `json:"error,omitempty"`
}

// job starts a job; the frame's body is its payload.
type job struct {
	Kind string `json:"kind"`
}

// query asks for one path.
type query struct {
	Op   string `json:"op"` // one of the op constants
	Path string `json:"path"`
}

const (
	opRead    = "read"
	opList    = "list"
	opResolve = "resolve"
)

// answer is the reply to a query. The body holds a file's content, or a
// directory's entries as JSON.
type answer struct {
	Path  string     `json:"path,omitempty"` // opResolve
	Entry *wireEntry `json:"entry,omitempty"`
	Error *wireError `json:"error,omitempty"`
}

// result ends a job; the body is what the handler returned.
type result struct {
	Error  *wireError `json:"error,omitempty"`
	Memory int64      `json:"memory"` // bytes the worker holds from the operating system
}

type wireEntry struct {
	Name string    `json:"n"`
	Kind tree.Kind `json:"k"`
}

// wireError is a *fault.Error on its way through a pipe.
type wireError struct {
	Kind     fault.Kind `json:"kind"`
	Object   string     `json:"object,omitempty"`
	File     string     `json:"file,omitempty"`
	Line     int        `json:"line,omitempty"`
	Msg      string     `json:"msg"`
	Hint     string     `json:"hint,omitempty"`
	NotExist bool       `json:"notExist,omitempty"`
}

// toWire reduces err to what may cross the pipe; nil stays nil.
func toWire(err error) *wireError {
	if err == nil {
		return nil
	}
	var f *fault.Error
	if !errors.As(err, &f) {
		f = fault.New(fault.Internal, "%v", err)
	}
	return &wireError{
		Kind: f.Kind, Object: clip(f.Object), File: clip(f.File), Line: f.Line,
		Msg: clip(f.Msg), Hint: clip(f.Hint), NotExist: errors.Is(err, tree.ErrNotExist),
	}
}

// fault turns e back into an error that can be shown: lengths and characters
// are bounded, an unknown kind counts as Internal.
func (e *wireError) fault() *fault.Error {
	f := &fault.Error{
		Kind: e.Kind, Object: clip(e.Object), File: clip(e.File), Line: max(e.Line, 0),
		Msg: clip(e.Msg), Hint: clip(e.Hint),
	}
	if e.Kind > fault.Waiting {
		f.Kind = fault.Internal
	}
	if e.NotExist {
		f.Cause = tree.ErrNotExist
	}
	return f
}

// clip bounds a text and takes control characters out of it.
func clip(s string) string {
	const most = 4096
	if len(s) > most {
		s = s[:most] + "…"
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\n' && r != '\t' || r == 0x7f {
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, "�"))
}
