package render

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path"
	"strings"

	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"sigs.k8s.io/kustomize/api/types"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/tree"
	"github.com/holdfastcd/holdfast/internal/worker"
)

// defaultRelease is what Helm calls a release that has no name.
const defaultRelease = "release-name"

// inflation renders the charts that kustomizations name under helmCharts, which
// kustomize itself would start a helm program for. What a chart gives is laid
// over the tree where its templates are, and joins the kustomization's resources.
type inflation struct {
	req   Request
	extra *extra
	real  map[string]string // file laid over the tree → the template it came from
}

// origin returns where an object came from that kustomize found in a file.
func (in *inflation) origin(o object.Origin) object.Origin {
	if name, ok := in.real[o.File]; ok {
		return object.Origin{File: name}
	}
	return o
}

// inflate renders k's charts and takes them out of k. The file at k's path then
// reads so.
func (in *inflation) inflate(k *kustomizationFile, dir string, fs *overlay) error {
	charts, globals := k.HelmCharts, types.HelmGlobals{}
	if k.HelmGlobals != nil {
		globals = *k.HelmGlobals
	}
	for i := range charts {
		c := &inflated{HelmChart: charts[i], globals: globals, k: k, dir: dir, files: fs.files, in: in}
		objects, err := c.render()
		if err != nil {
			return err
		}
		for _, o := range objects {
			if err := in.lay(k, dir, fs, o); err != nil {
				return err
			}
		}
	}
	k.HelmCharts, k.HelmGlobals, k.HelmChartInflationGenerator = nil, nil, nil
	return fs.lay(k.name, &k.Kustomization)
}

// lay puts one object over the tree, and into k's resources.
func (in *inflation) lay(k *kustomizationFile, dir string, fs *overlay, o manifest) error {
	text, err := json.Marshal(o.value)
	if err != nil {
		return fault.New(fault.Invalid, "this has no JSON form: %v", err).At(o.origin.File, 0)
	}
	name := o.origin.File
	for n := 2; fs.over[name] != nil; n++ {
		ext := path.Ext(o.origin.File)
		name = fmt.Sprintf("%s.%d%s", strings.TrimSuffix(o.origin.File, ext), n, ext)
	}
	fs.over[name], in.real[name] = text, o.origin.File
	k.Resources = append(k.Resources, relative(dir, name))
	return nil
}

// relative returns the path from a directory to a file, both in the tree.
func relative(dir, name string) string {
	levels := 0
	for dir != "" && dir != "." && !strings.HasPrefix(name, dir+"/") {
		levels++
		dir = path.Dir(dir)
	}
	return strings.Repeat("../", levels) + strings.TrimPrefix(name, dir+"/")
}

// inflated is one entry of helmCharts.
type inflated struct {
	types.HelmChart
	globals types.HelmGlobals
	k       *kustomizationFile
	dir     string // of the kustomization
	files   worker.Files
	in      *inflation
}

func (c *inflated) fault(kind fault.Kind, format string, args ...any) *fault.Error {
	line := c.k.line(c.Name)
	if line == 0 {
		line = max(c.k.line("helmCharts"), c.k.line("helmChartInflationGenerator"))
	}
	return fault.New(kind, "helmCharts: "+format, args...).At(c.k.name, line)
}

func (c *inflated) render() ([]manifest, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	chart, err := c.locate()
	if err != nil {
		return nil, err
	}
	values, err := c.values(chart)
	if err != nil {
		return nil, err
	}
	r := &release{
		HelmRequest: HelmRequest{
			ReleaseName: cmp.Or(c.ReleaseName, defaultRelease), Namespace: cmp.Or(c.Namespace, "default"), Values: string(values),
			SkipCRDs: !c.IncludeCRDs, SkipTests: c.SkipTests,
		},
		dir: chart, caps: c.capabilities(), files: c.files, extra: &extra{}, limits: newBudget(),
	}
	if c.in.req.Helm != nil {
		r.Seed, r.Now = c.in.req.Helm.Seed, c.in.req.Helm.Now
	}
	objects, err := r.render()
	c.join(r.extra)
	if err != nil || !c.SkipHooks {
		return objects, err
	}
	var kept []manifest
	for _, o := range objects {
		if o.annotation(hookAnnotation) == "" {
			kept = append(kept, o)
		}
	}
	return kept, nil
}

// join adds what the chart's rendering gave besides objects. What the
// kustomization says itself of the cluster is not asked of the request.
func (c *inflated) join(x *extra) {
	if c.KubeVersion != "" {
		x.asked.KubeVersion = false
	}
	if len(c.ApiVersions) > 0 {
		x.asked.APIVersions = nil
	}
	c.in.extra.asked.add(x.asked)
	for _, n := range x.notes {
		have := c.in.extra.note(n.File)
		for _, f := range n.Functions {
			have.Functions = appendNew(have.Functions, f)
		}
		for _, key := range n.Repeated {
			have.Repeated = appendNew(have.Repeated, key)
		}
	}
}

// check refuses what cannot be done.
func (c *inflated) check() error {
	switch {
	case c.Name == "":
		return c.fault(fault.Invalid, "a chart has no name")
	case c.NameTemplate != "":
		return c.fault(fault.Unsupported, "nameTemplate is not supported").WithHint("write the name as releaseName")
	case c.globals.ConfigHome != "":
		return c.fault(fault.Unsupported, "helmGlobals.configHome is not supported").WithHint("no helm program is started, so there is nothing to configure")
	}
	switch c.ValuesMerge {
	case "", "override", "merge", "replace":
		return nil
	}
	return c.fault(fault.Invalid, "valuesMerge must be override, merge or replace, not %q", c.ValuesMerge)
}

// locate returns the directory of the chart, as kustomize lays charts out:
// chartHome/name, or chartHome/name-version/name for what it has fetched.
func (c *inflated) locate() (string, error) {
	home, err := c.path(cmp.Or(c.globals.ChartHome, types.HelmDefaultHome))
	if err != nil {
		return "", err
	}
	if leaves(home, c.Name) || path.IsAbs(c.Name) {
		return "", c.fault(fault.Refused, "the path %q leaves the source", c.Name)
	}
	dir := path.Join(home, c.Name)
	if c.Version != "" && c.Repo != "" {
		dir = path.Join(home, c.Name+"-"+c.Version, c.Name)
	}
	there, err := isChart(dir, c.files)
	if err != nil {
		return "", err
	}
	if there {
		dir, _, err = c.files.Resolve(dir)
		return dir, err
	}
	if c.Repo != "" {
		return "", c.fault(fault.Refused, "remote charts are not fetched: %s of %s is not in the source", c.Name, withoutUser(c.Repo)).
			WithHint("vendor the chart: commit it as %s", dir)
	}
	return "", c.fault(fault.Invalid, "there is no chart %s", dir)
}

// path returns the path in the tree of one that is relative to the kustomization.
func (c *inflated) path(name string) (string, error) {
	if remoteFile(name) {
		return "", c.fault(fault.Refused, "%s is not part of the source", withoutUser(name))
	}
	if path.IsAbs(name) || leaves(c.dir, name) {
		return "", c.fault(fault.Refused, "the path %q leaves the source", name)
	}
	return path.Join(c.dir, name), nil
}

// values returns what kustomize would hand to helm: the file of values (that of
// the chart if none is named) joined with the inline values, then the additional
// files. It is JSON.
func (c *inflated) values(chart string) ([]byte, error) {
	values, err := c.fileValues(chart)
	if err != nil {
		return nil, err
	}
	if inline := c.ValuesInline; len(inline) > 0 {
		switch c.ValuesMerge {
		case "replace":
			values = inline
		case "merge": // what the file says wins
			values = joinValues(inline, values)
		default:
			values = joinValues(values, inline)
		}
	}
	for _, name := range c.AdditionalValuesFiles {
		layer, err := c.read(name)
		if err != nil {
			return nil, err
		}
		values = loader.MergeMaps(values, layer)
	}
	text, err := json.Marshal(values)
	if err != nil {
		return nil, c.fault(fault.Invalid, "valuesInline of %s has no JSON form", c.Name)
	}
	return text, nil
}

func (c *inflated) fileValues(chart string) (map[string]any, error) {
	if c.ValuesFile != "" {
		return c.read(c.ValuesFile)
	}
	values, err := readValues(c.files, path.Join(chart, "values.yaml"), c.in.extra)
	if errors.Is(err, tree.ErrNotExist) {
		return map[string]any{}, nil
	}
	return values, err
}

func (c *inflated) read(name string) (map[string]any, error) {
	at, err := c.path(name)
	if err != nil {
		return nil, err
	}
	values, err := readValues(c.files, at, c.in.extra)
	if err != nil {
		return nil, missingValues(at, err)
	}
	return values, nil
}

// joinValues lays b over a; a null in b takes away what a has.
func joinValues(a, b map[string]any) map[string]any {
	out := make(map[string]any, len(a))
	maps.Copy(out, a)
	for key, value := range b {
		below, isMap := value.(map[string]any)
		under, wasMap := out[key].(map[string]any)
		switch {
		case value == nil:
			delete(out, key)
		case isMap && wasMap:
			out[key] = joinValues(under, below)
		default:
			out[key] = value
		}
	}
	return out
}

// capabilities are the request's, but for what the kustomization says itself.
func (c *inflated) capabilities() *Capabilities {
	caps := Capabilities{}
	if c.in.req.Capabilities != nil {
		caps = *c.in.req.Capabilities
	}
	set(&caps.KubeVersion, c.KubeVersion)
	if len(c.ApiVersions) > 0 {
		caps.APIVersions = c.ApiVersions
	}
	return &caps
}
