package flux

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"hash"
	"io"
	"net/http"
	"path"
	"strconv"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/types"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/tree"
)

// defaultBaseURL is where a Service named holdfast in its own namespace serves.
const defaultBaseURL = "http://holdfast.holdfast-system.svc.cluster.local./"

// Bounds of an artifact, before compression, and of how many are made at once.
const (
	maxArtifactFile   = 64 << 20
	maxArtifactTotal  = 1 << 30
	maxArtifactCount  = 500_000 // of files and directories: few objects make a tree of very many
	maxArtifactDepth  = 1000
	keptArtifacts     = 2
	archivesAtOnce    = 2
	artifactMediaType = "application/gzip"
)

// The modes that a file, a program and a directory have in an artifact.
const (
	modeFile       = 0o600
	modeExecutable = 0o700
	modeDir        = 0o750
)

// Artifacts serves the trees of GitRepositories as tar.gz files, under
// /gitrepository/<namespace>/<name>/<commit>.tar.gz. Nothing is stored: the same
// tree always packs to the same bytes, so a file is packed when it is asked for.
type Artifacts struct {
	// BaseURL is what clients in the cluster reach the handler by. It is set
	// before the first request.
	BaseURL string

	making  chan struct{} // a slot for each archive that is made to know its digest
	serving chan struct{} // a slot for each that is sent; its reader may be slow

	mu    sync.Mutex
	files map[types.NamespacedName][]artifact // newest first
}

// artifact is one tree as it is offered.
type artifact struct {
	name   string // file name
	tree   tree.Tree
	size   int64
	digest string // sha256:hex of the packed bytes
}

func newArtifacts() *Artifacts {
	return &Artifacts{
		BaseURL: defaultBaseURL,
		making:  make(chan struct{}, archivesAtOnce),
		serving: make(chan struct{}, archivesAtOnce),
		files:   map[types.NamespacedName][]artifact{},
	}
}

// add packs the tree of a revision once, to know its digest, and offers it from
// then on. Of one source the last two are offered. Errors are *fault.Error: those
// of the tree, and Limit.
func (a *Artifacts) add(ctx context.Context, source types.NamespacedName, e edition) (artifact, error) {
	made := artifact{name: e.revision.Commit + ".tar.gz", tree: e.revision.Tree}
	a.mu.Lock()
	for _, known := range a.files[source] {
		if known.tree == made.tree {
			a.mu.Unlock()
			return known, nil
		}
	}
	a.mu.Unlock()
	meter := &meter{hash: sha256.New()}
	if err := pack(ctx, a.making, meter, made.tree); err != nil {
		return artifact{}, err
	}
	made.size, made.digest = meter.size, "sha256:"+hex.EncodeToString(meter.hash.Sum(nil))
	a.mu.Lock()
	defer a.mu.Unlock()
	files := append([]artifact{made}, a.files[source]...)
	a.files[source] = files[:min(len(files), keptArtifacts)]
	return made, nil
}

func (a *Artifacts) drop(source types.NamespacedName) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.files, source)
}

// path returns where an artifact is served, without a leading slash.
func (f artifact) path(source types.NamespacedName) string {
	return path.Join("gitrepository", source.Namespace, source.Name, f.name)
}

func (a *Artifacts) url(p string) string { return strings.TrimSuffix(a.BaseURL, "/") + "/" + p }

// find returns what a URL path asks for.
func (a *Artifacts) find(urlPath string) (artifact, bool) {
	parts := strings.Split(strings.TrimPrefix(urlPath, "/"), "/")
	if len(parts) != 4 || parts[0] != "gitrepository" {
		return artifact{}, false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, f := range a.files[types.NamespacedName{Namespace: parts[1], Name: parts[2]}] {
		if f.name == parts[3] {
			return f, true
		}
	}
	return artifact{}, false
}

// ServeHTTP implements [http.Handler]. What is not offered, or not any more, is
// not found.
func (a *Artifacts) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "only GET and HEAD", http.StatusMethodNotAllowed)
		return
	}
	f, ok := a.find(r.URL.Path)
	if !ok {
		http.NotFound(w, r)
		return
	}
	etag := `"` + f.digest + `"`
	w.Header().Set("ETag", etag)
	if r.Header.Get("If-None-Match") == etag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	w.Header().Set("Content-Type", artifactMediaType)
	w.Header().Set("Content-Length", strconv.FormatInt(f.size, 10))
	if r.Method == http.MethodHead {
		return
	}
	if err := pack(r.Context(), a.serving, w, f.tree); err != nil {
		// Bytes may be out already: cutting the connection is what says so.
		panic(http.ErrAbortHandler)
	}
}

// pack writes a tree as tar.gz, once a slot is free.
func pack(ctx context.Context, slots chan struct{}, w io.Writer, t tree.Tree) error {
	select {
	case slots <- struct{}{}:
		defer func() { <-slots }()
	case <-ctx.Done():
		return fault.New(fault.Unreachable, "packing the artifact was interrupted").Because(ctx.Err())
	}
	zip, err := gzip.NewWriterLevel(w, gzip.BestSpeed)
	if err != nil {
		return fault.New(fault.Internal, "cannot compress").Because(err)
	}
	p := packer{ctx: ctx, tree: t, out: tar.NewWriter(zip)}
	if err := p.dir("", 0); err != nil {
		return err
	}
	if err := p.out.Close(); err != nil {
		return cannotWrite(err)
	}
	if err := zip.Close(); err != nil {
		return cannotWrite(err)
	}
	return nil
}

// packer writes a tree to a tar: regular files and directories only, in the
// order of their names, with nothing in it that depends on when or by whom.
type packer struct {
	ctx   context.Context
	tree  tree.Tree
	out   *tar.Writer
	bytes int64
	count int
}

func (p *packer) dir(name string, depth int) error {
	if err := p.ctx.Err(); err != nil {
		return fault.New(fault.Unreachable, "packing the artifact was interrupted").Because(err)
	}
	if depth > maxArtifactDepth {
		return fault.New(fault.Limit, "the source has more than %d directories within each other", maxArtifactDepth)
	}
	entries, err := p.tree.ReadDir(name)
	if err != nil {
		return err
	}
	if p.count += len(entries); p.count > maxArtifactCount {
		return fault.New(fault.Limit, "the source has more than %d files and directories", maxArtifactCount).
			WithHint("leave out what is not delivered, in a %s file", ignoreFile)
	}
	for _, e := range entries {
		at := path.Join(name, e.Name)
		switch {
		case e.Kind == tree.Dir:
			if err := p.out.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: at + "/", Mode: modeDir}); err != nil {
				return cannotWrite(err)
			}
			err = p.dir(at, depth+1)
		case e.Kind.IsFile():
			err = p.file(at, e.Kind)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (p *packer) file(name string, kind tree.Kind) error {
	content, err := p.tree.ReadFile(name, maxArtifactFile)
	if err != nil {
		return err
	}
	if p.bytes += int64(len(content)); p.bytes > maxArtifactTotal {
		return fault.New(fault.Limit, "the source has more than %d bytes", maxArtifactTotal).
			WithHint("leave out what is not delivered, in a %s file", ignoreFile)
	}
	header := &tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(content)), Mode: modeFile}
	if kind == tree.Executable {
		header.Mode = modeExecutable
	}
	if err := p.out.WriteHeader(header); err != nil {
		return cannotWrite(err)
	}
	if _, err := p.out.Write(content); err != nil {
		return cannotWrite(err)
	}
	return nil
}

func cannotWrite(err error) error {
	return fault.New(fault.Internal, "the artifact could not be written").Because(err)
}

// meter counts and digests what is written to it.
type meter struct {
	hash hash.Hash
	size int64
}

func (m *meter) Write(b []byte) (int, error) {
	m.size += int64(len(b))
	return m.hash.Write(b)
}
