package render

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"io/fs"
	"maps"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/loader/archive"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/ignore"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/tree"
	"github.com/holdfastcd/holdfast/internal/worker"
)

const chartFile = "Chart.yaml"

// Bounds of one chart, its dependencies included.
const (
	maxChartFiles = 10_000
	maxChartBytes = 64 << 20 // unpacked
	maxChartDepth = 16       // of directories, and of charts in charts
)

// chartLoader loads a chart and everything in it. Helm's own loader does the
// reading of each chart; finding the files, opening archives and the order of
// the dependencies, which Helm leaves to chance, are ours.
type chartLoader struct {
	files   worker.Files
	origins map[*common.File]string // the path in the tree of each template and file
	raw     map[*common.File]string // the same of each file as it was read
	count   int
	bytes   int64
}

// directory loads the chart in a directory, without what its .helmignore names.
func (l *chartLoader) directory(dir string, depth int) (*chart.Chart, error) {
	if depth > maxChartDepth {
		return nil, fault.New(fault.Limit, "charts depend on each other more than %d deep", maxChartDepth).At(path.Join(dir, chartFile), 0)
	}
	rules := ignore.Empty()
	text, err := l.files.ReadFile(path.Join(dir, ignore.HelmIgnore))
	if err == nil {
		if rules, err = ignore.Parse(bytes.NewReader(text)); err != nil {
			return nil, fault.New(fault.Invalid, "%v", err).At(path.Join(dir, ignore.HelmIgnore), 0)
		}
	} else if !errors.Is(err, tree.ErrNotExist) {
		return nil, err
	}
	rules.AddDefaults()
	w := &chartWalker{loader: l, rules: rules, top: dir}
	if err := w.walk("", 0); err != nil {
		return nil, err
	}
	return l.build(dir, w.found, depth, true)
}

// build makes a chart of its files. It has nested charts where charts/ has
// directories or archives; inTree says that at is a directory of the tree.
func (l *chartLoader) build(at string, files []*archive.BufferedFile, depth int, inTree bool) (*chart.Chart, error) {
	if depth > maxChartDepth {
		return nil, fault.New(fault.Limit, "charts nest deeper than %d", maxChartDepth).At(at, 0)
	}
	own, nested := split(files)
	c, err := loader.LoadFiles(own)
	if err != nil {
		return nil, chartFault(at, err)
	}
	for _, f := range slices.Concat(c.Templates, c.Files) {
		l.origins[f] = path.Join(at, f.Name)
	}
	for _, f := range c.Raw {
		l.raw[f] = path.Join(at, f.Name)
	}
	for _, name := range slices.Sorted(maps.Keys(nested)) {
		sub, err := l.nested(path.Join(at, "charts", name), nested[name], depth+1, inTree)
		if err != nil {
			return nil, err
		}
		c.AddDependency(sub)
	}
	if inTree {
		return c, l.local(c, at, depth)
	}
	return c, nil
}

// split takes the files of the charts below charts/ out of a chart's.
func split(files []*archive.BufferedFile) ([]*archive.BufferedFile, map[string][]*archive.BufferedFile) {
	var own []*archive.BufferedFile
	nested := map[string][]*archive.BufferedFile{}
	for _, f := range files {
		below, ok := strings.CutPrefix(f.Name, "charts/")
		if !ok || path.Ext(f.Name) == ".prov" {
			own = append(own, f)
			continue
		}
		name, rest, _ := strings.Cut(below, "/")
		if strings.IndexAny(name, "_.") != 0 {
			nested[name] = append(nested[name], &archive.BufferedFile{Name: rest, Data: f.Data})
		}
	}
	return own, nested
}

// nested loads what is at charts/name: files of a directory, or an archive.
func (l *chartLoader) nested(at string, files []*archive.BufferedFile, depth int, inTree bool) (*chart.Chart, error) {
	if files[0].Name != "" {
		return l.build(at, files, depth, inTree)
	}
	if path.Ext(at) != ".tgz" {
		return nil, fault.New(fault.Invalid, "charts/ may hold only charts").At(at, 0).WithHint("a name that begins with _ or . is left alone")
	}
	unpacked, err := l.unpack(files[0].Data)
	if err != nil {
		if f, ok := errors.AsType[*fault.Error](err); ok {
			return nil, f.At(at, 0)
		}
		return nil, fault.New(fault.Invalid, "this is not a chart's archive: %v", err).At(at, 0)
	}
	return l.build(at, unpacked, depth, false)
}

// local adds the dependencies that a chart names by file:// and does not have
// in charts/.
func (l *chartLoader) local(c *chart.Chart, at string, depth int) error {
	for _, d := range c.Metadata.Dependencies {
		where, ok := strings.CutPrefix(d.Repository, "file://")
		if !ok || slices.ContainsFunc(c.Dependencies(), func(have *chart.Chart) bool { return have.Name() == d.Name }) {
			continue
		}
		if path.IsAbs(where) || leaves(at, where) {
			return fault.New(fault.Refused, "the dependency %s leaves the source", d.Name).At(path.Join(at, chartFile), 0)
		}
		there, err := isChart(path.Join(at, where), l.files)
		if err != nil {
			return err
		}
		if !there {
			continue // what is missing is told later, if it is used
		}
		sub, err := l.directory(path.Join(at, where), depth+1)
		if err != nil {
			return err
		}
		c.AddDependency(sub)
	}
	return nil
}

// take counts a file.
func (l *chartLoader) take(size int) *fault.Error {
	l.count++
	if l.count > maxChartFiles {
		return fault.New(fault.Limit, "the chart has more than %d files", maxChartFiles)
	}
	if l.bytes += int64(size); l.bytes > maxChartBytes {
		return fault.New(fault.Limit, "the chart has more than %d MiB", maxChartBytes>>20)
	}
	return nil
}

// unpack returns the files in an archive, whose one top directory is the
// chart. What is unpacked is counted before it is kept, headers included.
func (l *chartLoader) unpack(packed []byte) ([]*archive.BufferedFile, error) {
	unzipped, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, err
	}
	const headers = maxChartFiles * 2048
	bounded := &io.LimitedReader{R: unzipped, N: maxChartBytes + headers}
	r := tar.NewReader(bounded)
	var found []*archive.BufferedFile
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) && bounded.N > 0 {
			return found, nil
		}
		if bounded.N <= 0 {
			return nil, fault.New(fault.Limit, "the archive unpacks to more than %d MiB", maxChartBytes>>20)
		}
		if err != nil {
			return nil, err
		}
		if h.Typeflag == tar.TypeDir || h.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		f, err := l.unpackOne(h, r)
		if err != nil {
			return nil, err
		}
		found = append(found, f)
	}
}

// unpackOne returns the file of one entry.
func (l *chartLoader) unpackOne(h *tar.Header, r io.Reader) (*archive.BufferedFile, error) {
	if h.Typeflag != tar.TypeReg {
		return nil, fault.New(fault.Refused, "the archive holds %q, which is not a file", h.Name)
	}
	_, name, _ := strings.Cut(strings.ReplaceAll(h.Name, `\`, "/"), "/")
	if !fs.ValidPath(name) || name == "." {
		return nil, fault.New(fault.Refused, "the path %q in the archive leaves the chart", h.Name)
	}
	if h.Size > maxFile {
		return nil, fault.New(fault.Limit, "%s has more than %d bytes", name, maxFile)
	}
	if err := l.take(int(h.Size)); err != nil {
		return nil, err
	}
	data, err := io.ReadAll(r)
	return &archive.BufferedFile{Name: name, Data: withoutMark(data)}, err
}

// withoutMark removes the byte order mark that some editors write.
func withoutMark(data []byte) []byte { return bytes.TrimPrefix(data, []byte("\xEF\xBB\xBF")) }

// chartWalker finds the files of a chart. Like Helm it follows symlinks, which
// the tree keeps inside of itself.
type chartWalker struct {
	loader *chartLoader
	rules  *ignore.Rules
	top    string
	found  []*archive.BufferedFile
}

func (w *chartWalker) walk(below string, depth int) error {
	dir := path.Join(w.top, below)
	if depth > maxChartDepth {
		return fault.New(fault.Limit, "the chart has directories more than %d deep", maxChartDepth).At(dir, 0)
	}
	entries, err := w.loader.files.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Kind == tree.Symlink {
			_, target, err := w.loader.files.Resolve(path.Join(dir, e.Name))
			if err != nil {
				return err
			}
			e.Kind = target.Kind
		}
		if err := w.entry(path.Join(below, e.Name), e, depth); err != nil {
			return err
		}
	}
	return nil
}

func (w *chartWalker) entry(name string, e tree.Entry, depth int) error {
	if w.rules.Ignore(name, entryInfo{e}) {
		return nil
	}
	if e.Kind == tree.Dir {
		return w.walk(name, depth+1)
	}
	data, err := w.loader.files.ReadFile(path.Join(w.top, name))
	if err != nil {
		return err
	}
	if err := w.loader.take(len(data)); err != nil {
		return err.At(w.top, 0)
	}
	w.found = append(w.found, &archive.BufferedFile{Name: name, Data: withoutMark(data)})
	return nil
}

// entryInfo is what rules of .helmignore ask of a file.
type entryInfo struct{ entry tree.Entry }

// Name implements fs.FileInfo.
func (i entryInfo) Name() string { return i.entry.Name }

// Size implements fs.FileInfo.
func (i entryInfo) Size() int64 { return 0 }

// Mode implements fs.FileInfo.
func (i entryInfo) Mode() fs.FileMode {
	if i.IsDir() {
		return fs.ModeDir
	}
	return 0
}

// ModTime implements fs.FileInfo.
func (i entryInfo) ModTime() time.Time { return time.Time{} }

// IsDir implements fs.FileInfo.
func (i entryInfo) IsDir() bool { return i.entry.Kind == tree.Dir }

// Sys implements fs.FileInfo.
func (i entryInfo) Sys() any { return nil }

var (
	cannotLoad = regexp.MustCompile(`^cannot load ([\w.]+): `)
	lineInText = regexp.MustCompile(`line (\d+)`)
)

// chartFault explains why Helm could not load the chart in a directory. What a
// library says of a file of values is left out: it may quote one.
func chartFault(at string, err error) error {
	text, file := err.Error(), chartFile
	m := cannotLoad.FindStringSubmatch(text)
	if m != nil {
		file = m[1]
	}
	line := 0
	if n := lineInText.FindStringSubmatch(text); n != nil {
		line, _ = strconv.Atoi(n[1])
	}
	switch {
	case m != nil:
		return fault.New(fault.Invalid, "not valid YAML").At(path.Join(at, file), line)
	case strings.HasPrefix(text, chartFile+" file is missing"):
		return fault.New(fault.Invalid, "there is no %s", chartFile).At(at, 0)
	}
	return fault.New(fault.Invalid, "%s", shorten(strings.TrimPrefix(text, "validation: "))).At(path.Join(at, file), 0)
}
