package render

import (
	"context"
	"encoding/json"
	"errors"
	"path"
	"strings"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/secret"
	"github.com/holdfastcd/holdfast/internal/tree"
	"github.com/holdfastcd/holdfast/internal/worker"
)

// jobKind is the name of our job, and the subject of sentences about it.
const jobKind = "rendering"

// Caged renders in workers.
type Caged struct{ pool *worker.Pool }

// New returns a renderer that works in pool's workers, which must have been
// given [Handlers].
func New(pool *worker.Pool) *Caged { return &Caged{pool: pool} }

// Render renders req on t; see [Renderer].
func (c *Caged) Render(ctx context.Context, req Request, t tree.Tree) (Result, error) {
	payload, err := json.Marshal(req)
	if err != nil {
		return Result{}, fault.New(fault.Internal, "the request has no JSON form: %v", err)
	}
	view := &watched{View: tree.NewView(t, tree.Limits{FileBytes: maxFile, TotalBytes: maxRead}), tree: t}
	body, err := c.pool.Do(ctx, jobKind, payload, view)
	if opens, ok := t.(interface{ Failed() error }); ok && opens.Failed() != nil {
		failed := opens.Failed() // whatever was made without the file
		if errors.Is(err, worker.ErrDeadline) {
			failed = fault.From(failed).Because(worker.ErrDeadline) // others must not wait with it
		}
		return Result{}, failed
	}
	if err != nil {
		return Result{}, view.blame(withCause(err))
	}
	var done finished
	if err := json.Unmarshal(body, &done); err != nil {
		return Result{}, fault.New(fault.Internal, "the result cannot be read: %v", err)
	}
	objects, digest, err := unpack(done.Objects)
	if err != nil {
		return Result{}, err
	}
	result := Result{Objects: objects, Trace: view.Trace(), Digest: digest, Notes: done.Notes, Asked: done.Asked}
	if opens, ok := t.(interface{ Opened() []secret.Text }); ok {
		result.Opened = opens.Opened()
	}
	return result, nil
}

// watched is a view that remembers which Jsonnet program or chart a worker runs:
// one that is ended over its limits cannot say so itself.
type watched struct {
	*tree.View
	tree    tree.Tree
	program string
}

// Within implements worker.Bounded, for a tree that opens what is read.
func (w *watched) Within(ctx context.Context) {
	if asks, ok := w.tree.(worker.Bounded); ok {
		asks.Within(ctx)
	}
}

// ReadFile is asked for a chart's description before its templates run. A chart
// within the last one is a dependency of it.
func (w *watched) ReadFile(name string) ([]byte, error) {
	if dir := path.Dir(w.program); path.Base(name) == chartFile && (path.Base(w.program) != chartFile || !strings.HasPrefix(name, dir+"/") && dir != ".") {
		w.program = name
	}
	return w.View.ReadFile(name)
}

// Resolve is asked for a program's file before it runs.
func (w *watched) Resolve(name string) (string, tree.Entry, error) {
	if path.Ext(name) == ".jsonnet" {
		w.program = name
	}
	return w.View.Resolve(name)
}

// blame gives the fault of a worker that was ended the program that it ran.
func (w *watched) blame(err error) error {
	if f, ok := errors.AsType[*fault.Error](err); ok && f.Kind == fault.Limit && f.File == "" && w.program != "" {
		return f.At(w.program, 0)
	}
	return err
}

// withCause gives a fault back the cause that it lost on the pipe: what a
// rendering does not find is a path.
func withCause(err error) error {
	if f, ok := errors.AsType[*fault.Error](err); ok && f.Kind == fault.NotFound && f.Cause == nil {
		return f.Because(tree.ErrNotExist)
	}
	return err
}

// Handlers returns what runs inside a worker, for [worker.RunIfWorker].
func Handlers() map[string]worker.Handler {
	return map[string]worker.Handler{jobKind: handle}
}

// handle is the job inside the worker: a request in, rendered objects out.
func handle(payload []byte, files worker.Files) ([]byte, error) {
	var req Request
	if err := json.Unmarshal(payload, &req); err != nil {
		return nil, fault.New(fault.Internal, "the request cannot be read: %v", err)
	}
	var x extra
	out, err := render(req, files, &x)
	if err != nil {
		return nil, err
	}
	if out == nil {
		out = output{}
	}
	return json.Marshal(finished{Objects: out, Notes: x.sorted(), Asked: x.asked})
}

// finished is what a worker sends back.
type finished struct {
	Objects output `json:"objects"`
	Notes   []Note `json:"notes,omitempty"`
	Asked   Asked  `json:"asked"`
}

func render(req Request, files worker.Files, x *extra) (output, error) {
	switch req.Tool {
	case Plain:
		return plain(req, files)
	case Kustomize, KustomizeOrGenerate:
		return kustomize(req, files, x)
	case Helm:
		return helm(req, files, x)
	case Detect:
		return detect(req, files, x)
	}
	return nil, fault.New(fault.Unsupported, "there is no renderer %q", req.Tool)
}

// detect chooses as Argo CD does.
func detect(req Request, files worker.Files, x *extra) (output, error) {
	dir, err := directory(req, files)
	if err != nil {
		return nil, err
	}
	chart, err := isChart(dir, files)
	if err != nil {
		return nil, err
	}
	if chart {
		return helm(req, files, x)
	}
	name, err := newOverlay(files).kustomizationIn(dir)
	if err != nil {
		return nil, err
	}
	if name != "" {
		return kustomize(req, files, x)
	}
	return plain(req, files)
}
