package render

import (
	"bytes"
	"errors"
	"path"
	"slices"
	"strconv"
	"strings"

	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/strvals"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/tree"
	"github.com/holdfastcd/holdfast/internal/worker"
)

// maxValueFiles bounds what the globs of one request may match.
const maxValueFiles = 200

// values joins the values that the request gives, in Helm's order: files, text,
// parameters, parameters that are strings, and contents of files.
func (r *release) values() (map[string]any, error) {
	values := map[string]any{}
	for _, pattern := range r.ValueFiles {
		names, err := r.valueFiles(pattern)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			layer, err := readValues(r.files, name, r.extra)
			if err != nil {
				if r.IgnoreMissingValueFiles && errors.Is(err, tree.ErrNotExist) {
					continue
				}
				return nil, missingValues(name, err)
			}
			values = loader.MergeMaps(values, layer)
		}
	}
	layer, err := parseValues([]byte(r.Values))
	if err != nil {
		err.Msg = "the values of the request: " + err.Msg
		return nil, err
	}
	values = loader.MergeMaps(values, layer)
	r.extra.asked.scan([]byte(r.Values))
	return values, r.parameters(values)
}

func missingValues(name string, err error) error {
	if errors.Is(err, tree.ErrNotExist) {
		return fault.New(fault.Invalid, "there is no such file of values").At(name, 0)
	}
	return err
}

// readValues reads a file of values, which may hold templates for tpl.
func readValues(files worker.Files, name string, x *extra) (map[string]any, error) {
	text, err := files.ReadFile(name)
	if err != nil {
		return nil, err
	}
	x.asked.scan(text)
	values, f := parseValues(text)
	if f != nil {
		return nil, f.At(name, f.Line)
	}
	return values, nil
}

// parseValues reads values as Helm does, which makes every number a float.
// Its errors do not quote the text.
func parseValues(text []byte) (map[string]any, *fault.Error) {
	if err := boundAliases("", text); err != nil {
		return nil, fault.New(fault.Limit, "YAML aliases unfold to more than %d nodes", maxUnfolded)
	}
	values, err := loader.LoadValues(bytes.NewReader(withoutMark(text)))
	if err == nil {
		return values, nil
	}
	line := 0
	if m := lineInText.FindStringSubmatch(err.Error()); m != nil {
		line, _ = strconv.Atoi(m[1])
	}
	return nil, fault.New(fault.Invalid, "values must be a YAML mapping").At("", line)
}

// valueFiles returns the paths in the tree that an entry of ValueFiles means.
func (r *release) valueFiles(pattern string) ([]string, error) {
	name, err := r.place(pattern)
	if err != nil || !strings.ContainsAny(name, "*?[") {
		return []string{name}, err
	}
	if _, err := path.Match(name, ""); err != nil {
		return nil, badGlob(pattern, "it cannot be understood")
	}
	g := &fileGlob{files: r.files}
	if err := g.walk("", strings.Split(name, "/")); err != nil {
		return nil, err
	}
	if len(g.found) == 0 && !r.IgnoreMissingValueFiles {
		return nil, fault.New(fault.Invalid, "no file of values matches %q", pattern).At(r.dir, 0)
	}
	slices.Sort(g.found)
	return slices.Compact(g.found), nil
}

// place returns the path in the tree of a path that is relative to the chart,
// or to the root of the tree if it begins with a slash.
func (r *release) place(name string) (string, error) {
	if remoteFile(name) {
		return "", fault.New(fault.Refused, "the file of values %s is not part of the source", withoutUser(name)).At(r.dir, 0)
	}
	dir := r.dir
	if path.IsAbs(name) {
		dir, name = "", strings.TrimLeft(name, "/")
	}
	if leaves(dir, name) {
		return "", fault.New(fault.Refused, "the path %q leaves the source", name).At(r.dir, 0)
	}
	return path.Join(dir, name), nil
}

// parameters lays the parameters over values.
func (r *release) parameters(values map[string]any) error {
	for _, forced := range []bool{false, true} {
		parse := strvals.ParseInto
		if forced {
			parse = strvals.ParseIntoString
		}
		for _, p := range r.Parameters {
			if p.ForceString != forced {
				continue
			}
			if err := parse(p.Name+"="+oneValue(p.Value), values); err != nil {
				return badParameter(p.Name)
			}
		}
	}
	for _, p := range r.FileParameters {
		if err := r.fileParameter(p, values); err != nil {
			return err
		}
	}
	return nil
}

func (r *release) fileParameter(p HelmFile, values map[string]any) error {
	name, err := r.place(p.Path)
	if err != nil {
		return err
	}
	content, err := r.files.ReadFile(name)
	if err != nil {
		return missingValues(name, err)
	}
	read := func([]rune) (any, error) { return string(content), nil }
	if err := strvals.ParseIntoFile(p.Name+"=file", values, read); err != nil {
		return badParameter(p.Name)
	}
	return nil
}

func badParameter(name string) error {
	return fault.New(fault.Invalid, "the parameter %q cannot be set", name).
		WithHint("a name is as helm --set reads it: keys with dots between, lists with [0]; or it goes through a value that is no mapping")
}

// oneValue escapes the commas of a value, which would begin another parameter;
// {a,b} is Helm's way to write a list.
func oneValue(value string) string {
	if strings.HasPrefix(value, "{") && strings.HasSuffix(value, "}") {
		return value
	}
	var b strings.Builder
	for i := range len(value) {
		if value[i] == ',' && (i == 0 || value[i-1] != '\\') {
			b.WriteByte('\\')
		}
		b.WriteByte(value[i])
	}
	return b.String()
}

// fileGlob finds files by a path whose segments are patterns; ** stands for any
// number of directories. Only directories that can match are listed.
type fileGlob struct {
	files worker.Files
	found []string
	steps int
}

func (g *fileGlob) walk(dir string, segments []string) error {
	if g.steps++; g.steps > maxChartFiles {
		return fault.New(fault.Limit, "a pattern of value files looks at more than %d directories", maxChartFiles).At(dir, 0)
	}
	if !strings.ContainsAny(segments[0], "*?[") && len(segments) > 1 {
		return g.walk(path.Join(dir, segments[0]), segments[1:])
	}
	entries, err := g.files.ReadDir(dir)
	if err != nil {
		if errors.Is(err, tree.ErrNotExist) || fault.KindOf(err) == fault.Invalid {
			return nil
		}
		return err
	}
	if segments[0] == "**" && len(segments) > 1 {
		if err := g.walk(dir, segments[1:]); err != nil {
			return err
		}
	}
	for _, e := range entries {
		if err := g.entry(dir, e, segments); err != nil {
			return err
		}
	}
	return nil
}

func (g *fileGlob) entry(dir string, e tree.Entry, segments []string) error {
	name := path.Join(dir, e.Name)
	if matched, _ := path.Match(segments[0], e.Name); !matched { // the pattern is known to be good
		return nil
	}
	switch {
	case e.Kind == tree.Dir && segments[0] == "**":
		return g.walk(name, segments)
	case e.Kind == tree.Dir && len(segments) > 1:
		return g.walk(name, segments[1:])
	case e.Kind == tree.Dir || len(segments) > 1:
		return nil
	}
	if len(g.found) >= maxValueFiles {
		return fault.New(fault.Limit, "more than %d files of values", maxValueFiles).At(name, 0)
	}
	g.found = append(g.found, name)
	return nil
}
