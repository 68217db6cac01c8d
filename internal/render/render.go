// Package render turns a tree into Kubernetes objects: plain directories and
// Kustomize. What is asked is a [Request]; what comes out is a [Result] with
// the reads it came from, so that an unchanged set of reads is known to render
// the same.
//
// The renderers themselves run in a worker (package worker): they see the tree
// through a pipe and nothing else.
package render

import (
	"context"

	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/tree"
)

// Tool chooses the renderer.
type Tool string

// The tools.
const (
	// Detect takes Kustomize if the directory has a kustomization file, else Plain (Argo CD's rule).
	Detect Tool = ""
	// Plain reads YAML and JSON documents from a directory.
	Plain Tool = "plain"
	// Kustomize builds a kustomization, which must exist.
	Kustomize Tool = "kustomize"
	// KustomizeOrGenerate builds a kustomization; where there is none, one that
	// lists every YAML file below the path (Flux's rule).
	KustomizeOrGenerate Tool = "kustomize-or-generate"
)

// Request is everything that rendering depends on besides the tree. It is
// comparable by its JSON form, which is part of the cache key.
type Request struct {
	Path string `json:"path"` // directory in the tree
	Tool Tool   `json:"tool,omitempty"`

	// Plain only.
	Recurse bool   `json:"recurse,omitempty"`
	Include string `json:"include,omitempty"` // glob on the path below Path; {a,b} sets allowed
	Exclude string `json:"exclude,omitempty"`

	// Kustomize only: overrides laid over the kustomization file in memory.
	Namespace  string   `json:"namespace,omitempty"`
	NamePrefix string   `json:"namePrefix,omitempty"`
	NameSuffix string   `json:"nameSuffix,omitempty"`
	Images     []string `json:"images,omitempty"` // [old=]new[:tag|@digest]
}

// Result is what one request gave on one tree.
type Result struct {
	Objects []object.Object
	Trace   tree.Trace // every path read, listed, followed or found absent, with its digest
	Digest  [32]byte   // of the objects in their order, not of their origins: equal for equal output
	Cached  bool       // nothing was rendered: the trace of an earlier result holds
}

// Renderer renders requests. Errors are *fault.Error with file and line where
// there is one: NotFound (path), Invalid (YAML, kustomization), Refused
// (remote base, symlink out of the tree), Limit (size, depth, count, time, memory).
type Renderer interface {
	Render(ctx context.Context, req Request, t tree.Tree) (Result, error)
}
