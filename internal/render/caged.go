package render

import (
	"context"
	"encoding/json"
	"errors"
	"path"

	"github.com/holdfastcd/holdfast/internal/fault"
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
	view := tree.NewView(t, tree.Limits{FileBytes: maxFile, TotalBytes: maxRead})
	body, err := c.pool.Do(ctx, jobKind, payload, view)
	if err != nil {
		return Result{}, withCause(err)
	}
	objects, digest, err := decode(body)
	if err != nil {
		return Result{}, err
	}
	return Result{Objects: objects, Trace: view.Trace(), Digest: digest}, nil
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
	out, err := render(req, files)
	if err != nil {
		return nil, err
	}
	if out == nil {
		out = output{}
	}
	return json.Marshal(out)
}

func render(req Request, files worker.Files) (output, error) {
	switch req.Tool {
	case Plain:
		return plain(req, files)
	case Kustomize, KustomizeOrGenerate:
		return kustomize(req, files)
	case Detect:
		return detect(req, files)
	}
	return nil, fault.New(fault.Unsupported, "there is no renderer %q", req.Tool)
}

// detect chooses as Argo CD does.
func detect(req Request, files worker.Files) (output, error) {
	dir, err := directory(req, files)
	if err != nil {
		return nil, err
	}
	name, err := newOverlay(files).kustomizationIn(dir)
	if err != nil {
		return nil, err
	}
	if name != "" {
		return kustomize(req, files)
	}
	if _, e, err := files.Resolve(path.Join(dir, "Chart.yaml")); err == nil && e.Kind.IsFile() {
		return nil, fault.New(fault.Unsupported, "Helm charts are not supported").At(path.Join(dir, "Chart.yaml"), 0)
	}
	return plain(req, files)
}
