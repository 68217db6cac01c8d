// Package render turns a tree into Kubernetes objects: plain directories,
// Jsonnet, Kustomize and Helm charts. What is asked is a [Request]; what comes out is a [Result] with
// the reads it came from, so that an unchanged set of reads is known to render
// the same.
//
// The renderers themselves run in a worker (package worker): they see the tree
// through a pipe and nothing else.
package render

import (
	"context"

	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/secret"
	"github.com/holdfastcd/holdfast/internal/tree"
)

// Tool chooses the renderer.
type Tool string

// The tools.
const (
	// Detect takes Helm if the directory has a Chart.yaml, Kustomize if it has a
	// kustomization file, else Plain (Argo CD's rule).
	Detect Tool = ""
	// Plain reads YAML and JSON documents from a directory, and runs Jsonnet.
	Plain Tool = "plain"
	// Kustomize builds a kustomization, which must exist.
	Kustomize Tool = "kustomize"
	// KustomizeOrGenerate builds a kustomization; where there is none, one that
	// lists every YAML file below the path (Flux's rule).
	KustomizeOrGenerate Tool = "kustomize-or-generate"
	// Helm renders a chart as `helm template` does.
	Helm Tool = "helm"
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
	Namespace  string     `json:"namespace,omitempty"`
	NamePrefix string     `json:"namePrefix,omitempty"`
	NameSuffix string     `json:"nameSuffix,omitempty"`
	Images     []string   `json:"images,omitempty"` // [old=]new[:tag|@digest]
	Overrides  *Overrides `json:"overrides,omitempty"`

	// Jsonnet is for the .jsonnet files that Plain finds; nil: without variables.
	Jsonnet *Jsonnet `json:"jsonnet,omitempty"`
	// Helm is for the tool Helm, which needs it.
	Helm *HelmRequest `json:"helm,omitempty"`
	// Capabilities are what charts are told of the cluster.
	Capabilities *Capabilities `json:"capabilities,omitempty"`
	// Keys identifies what the sealed files of the tree are opened with. The tree opens
	// them; that another key may open them otherwise is all that matters here.
	Keys string `json:"keys,omitempty"`
}

// Overrides are the rarer settings laid over a kustomization file.
type Overrides struct {
	Labels           map[string]string `json:"labels,omitempty"`
	LabelSelectors   bool              `json:"labelSelectors,omitempty"` // labels also in selectors
	LabelTemplates   bool              `json:"labelTemplates,omitempty"` // labels also in pod templates
	ForceLabels      bool              `json:"forceLabels,omitempty"`    // over labels that the file sets
	Annotations      map[string]string `json:"annotations,omitempty"`
	ForceAnnotations bool              `json:"forceAnnotations,omitempty"`
	Replicas         []Replicas        `json:"replicas,omitempty"`
	Patches          []Patch           `json:"patches,omitempty"`
	Components       []string          `json:"components,omitempty"` // paths, relative to the kustomization
	// IgnoreMissingComponents leaves out components that the tree does not have.
	IgnoreMissingComponents bool `json:"ignoreMissingComponents,omitempty"`
}

// Replicas sets how many replicas the workload of a name has.
type Replicas struct {
	Name  string `json:"name"`
	Count int64  `json:"count"`
}

// Patch is a strategic merge patch or a JSON patch, given as text or as a file.
type Patch struct {
	Path    string          `json:"path,omitempty"`
	Patch   string          `json:"patch,omitempty"`
	Target  *PatchTarget    `json:"target,omitempty"`
	Options map[string]bool `json:"options,omitempty"`
}

// PatchTarget selects what a patch is for; its fields are regular expressions
// and selectors, as kustomize reads them.
type PatchTarget struct {
	Group              string `json:"group,omitempty"`
	Version            string `json:"version,omitempty"`
	Kind               string `json:"kind,omitempty"`
	Namespace          string `json:"namespace,omitempty"`
	Name               string `json:"name,omitempty"`
	LabelSelector      string `json:"labelSelector,omitempty"`
	AnnotationSelector string `json:"annotationSelector,omitempty"`
}

// Jsonnet is what Jsonnet programs are given.
type Jsonnet struct {
	ExtVars   []Variable `json:"extVars,omitempty"`
	TLAs      []Variable `json:"tlas,omitempty"`      // top-level arguments
	Libraries []string   `json:"libraries,omitempty"` // directories in the tree, from its root
}

// Variable is a named string, or code.
type Variable struct {
	Name  string `json:"name"`
	Value string `json:"value"`
	Code  bool   `json:"code,omitempty"`
}

// HelmRequest is what a chart is rendered with. Values come from the chart, from
// the files in their order, from Values, from the parameters; later ones win.
type HelmRequest struct {
	ReleaseName string `json:"releaseName"`
	Namespace   string `json:"namespace"`
	// ValueFiles are paths in the tree: relative to the chart, or from the root
	// of the tree where they begin with a slash. Globs are allowed.
	ValueFiles              []string        `json:"valueFiles,omitempty"`
	IgnoreMissingValueFiles bool            `json:"ignoreMissingValueFiles,omitempty"`
	Values                  string          `json:"values,omitempty"` // YAML
	Parameters              []HelmParameter `json:"parameters,omitempty"`
	FileParameters          []HelmFile      `json:"fileParameters,omitempty"`
	SkipCRDs                bool            `json:"skipCRDs,omitempty"`
	SkipTests               bool            `json:"skipTests,omitempty"`
	SkipSchemaValidation    bool            `json:"skipSchemaValidation,omitempty"`
	// Seed is what random functions of templates follow from, with the chart's
	// path, release and namespace. It names the delivery. Who knows it knows
	// every password that a chart makes up.
	Seed string `json:"seed,omitempty"`
	// Now is what time templates are told, in seconds since 1970: the moment of
	// the delivery's creation, so that certificates begin there. 0 is 2020-01-01.
	Now int64 `json:"now,omitempty"`
}

// HelmParameter is one value, by its path as `helm --set` reads it.
type HelmParameter struct {
	Name        string `json:"name"`
	Value       string `json:"value"`
	ForceString bool   `json:"forceString,omitempty"`
}

// HelmFile is one value that is the content of a file.
type HelmFile struct {
	Name string `json:"name"`
	Path string `json:"path"`
}

// Capabilities are the versions that a chart may ask for.
type Capabilities struct {
	KubeVersion string   `json:"kubeVersion,omitempty"`
	APIVersions []string `json:"apiVersions,omitempty"` // group/version and group/version/Kind
}

// Result is what one request gave on one tree.
type Result struct {
	Objects []object.Object
	Trace   tree.Trace // every path read, listed, followed or found absent, with its digest
	// Digest is of the objects in their order, not of their origins: equal for equal
	// output. It is not keyed, and may tell their values: it never leaves the process.
	Digest [32]byte
	Cached bool   // nothing was rendered: the trace of an earlier result holds
	Notes  []Note // on files of charts, sorted by file
	Asked  Asked  // what of the request's capabilities the result depends on
	// Opened are the values that were opened for it, where the tree opens sealed files.
	Opened []secret.Text
}

// Renderer renders requests. Errors are *fault.Error with file and line where
// there is one: NotFound (path), Invalid (YAML, kustomization), Refused
// (remote base, symlink out of the tree), Limit (size, depth, count, time, memory).
type Renderer interface {
	Render(ctx context.Context, req Request, t tree.Tree) (Result, error)
}
