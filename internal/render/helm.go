package render

import (
	"bytes"
	"errors"
	"io"
	"maps"
	"path"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
	"helm.sh/helm/v4/pkg/chart/common"
	commonutil "helm.sh/helm/v4/pkg/chart/common/util"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	chartutil "helm.sh/helm/v4/pkg/chart/v2/util"
	"helm.sh/helm/v4/pkg/engine"
	releaseutil "helm.sh/helm/v4/pkg/release/v1/util"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/tree"
	"github.com/holdfastcd/holdfast/internal/worker"
)

// defaultKubeVersion is what charts are told where the request names no version.
const defaultKubeVersion = "v1.36.0"

// notesFile ends the names of templates that are for people.
const notesFile = "NOTES.txt"

// hookAnnotation marks an object as a hook, and says of what.
const hookAnnotation = "helm.sh/hook"

// helm renders the request's chart.
func helm(req Request, files worker.Files, x *extra) (output, error) {
	dir, err := directory(req, files)
	if err != nil {
		return nil, err
	}
	if req.Helm == nil {
		return nil, fault.New(fault.Invalid, "a chart needs a release name").At(path.Join(dir, chartFile), 0)
	}
	r := &release{HelmRequest: *req.Helm, dir: dir, caps: req.Capabilities, files: files, extra: x, limits: newBudget()}
	objects, err := r.render()
	if err != nil {
		return nil, err
	}
	var out output
	for _, o := range objects {
		if err := out.add(o.value, o.origin); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// release is one chart on its way to objects.
type release struct {
	HelmRequest
	dir   string // of the chart
	caps  *Capabilities
	files worker.Files
	extra *extra

	limits *budget
	loader *chartLoader
	paths  map[string]string // the path in the tree of each template, by Helm's name for a template
	words  vocabulary        // what may be said in messages
}

// manifest is one object that a chart gives.
type manifest struct {
	value  map[string]any
	origin object.Origin
}

// annotation returns the value of an annotation, "" if there is none.
func (m manifest) annotation(key string) string {
	meta, _ := m.value["metadata"].(map[string]any)
	annotations, _ := meta["annotations"].(map[string]any)
	text, _ := annotations[key].(string)
	return text
}

// render does what `helm template` does, and returns the objects in Helm's
// order: what is in crds/, then the rest by kind, then the hooks.
func (r *release) render() ([]manifest, error) {
	if err := chartutil.ValidateReleaseName(r.ReleaseName); err != nil {
		return nil, fault.New(fault.Invalid, "%q cannot be the name of a release", r.ReleaseName).
			WithHint("at most 53 characters: lower-case letters, digits, - and .")
	}
	c, err := r.load()
	if err != nil {
		return nil, err
	}
	values, err := r.values()
	if err != nil {
		return nil, err
	}
	caps, err := r.capabilities(c)
	if err != nil {
		return nil, err
	}
	if err := r.resolve(c, values); err != nil {
		return nil, err
	}
	options := common.ReleaseOptions{Name: r.ReleaseName, Namespace: r.Namespace, Revision: 1, IsInstall: true}
	top, err := commonutil.ToRenderValuesWithSchemaValidation(c, values, options, caps, true)
	if err != nil {
		return nil, r.explain("the values cannot be joined with those of the chart", err)
	}
	if err := r.validate(c, top); err != nil {
		return nil, err
	}
	return r.execute(c, top)
}

// load reads the chart and remembers where its files are.
func (r *release) load() (*chart.Chart, error) {
	r.loader = &chartLoader{files: r.files, origins: map[*common.File]string{}, raw: map[*common.File]string{}}
	c, err := r.loader.directory(r.dir, 0)
	if err != nil {
		return nil, err
	}
	if c.Metadata.Type == "library" {
		return nil, fault.New(fault.Invalid, "a library chart gives no objects of its own").At(path.Join(r.dir, chartFile), 0)
	}
	r.words = newVocabulary()
	for f := range r.loader.raw {
		r.extra.asked.scan(f.Data)
		if strings.HasPrefix(f.Name, "templates/") {
			r.words.learn(f.Data)
		}
	}
	return c, nil
}

// capabilities returns what the chart may know of the cluster, and checks that
// the chart accepts its version.
func (r *release) capabilities(c *chart.Chart) (*common.Capabilities, error) {
	caps := common.DefaultCapabilities.Copy()
	asked := Capabilities{KubeVersion: defaultKubeVersion}
	if r.caps != nil {
		asked.APIVersions = r.caps.APIVersions
		set(&asked.KubeVersion, r.caps.KubeVersion)
	}
	version, err := common.ParseKubeVersion(asked.KubeVersion)
	if err != nil {
		return nil, fault.New(fault.Invalid, "%q is not a version of Kubernetes", asked.KubeVersion)
	}
	caps.KubeVersion = *version
	caps.APIVersions = slices.Concat(caps.APIVersions, asked.APIVersions)
	want := c.Metadata.KubeVersion
	if want == "" {
		return caps, nil
	}
	r.extra.asked.KubeVersion = true
	if !chartutil.IsCompatibleRange(want, version.String()) {
		return nil, fault.New(fault.Invalid, "the chart is for Kubernetes %s, and this is %s", want, version.String()).
			At(path.Join(r.dir, chartFile), 0)
	}
	return caps, nil
}

// resolve decides which dependencies are in, and refuses the chart if one that
// is in is not there: Helm would leave it out in silence below the first level.
func (r *release) resolve(c *chart.Chart, values map[string]any) error {
	if err := chartutil.ProcessDependencies(c, values); err != nil {
		return r.explain("the dependencies cannot be resolved", err)
	}
	r.paths = map[string]string{}
	return r.follow(c)
}

func (r *release) follow(c *chart.Chart) error {
	for _, t := range c.Templates {
		r.paths[path.Join(c.ChartFullPath(), t.Name)] = r.loader.origins[t]
	}
	for _, want := range c.Metadata.Dependencies {
		if !slices.ContainsFunc(c.Dependencies(), func(d *chart.Chart) bool { return d.Name() == want.Name }) {
			return r.missing(c, want)
		}
	}
	for _, d := range c.Dependencies() {
		if err := r.follow(d); err != nil {
			return err
		}
	}
	return nil
}

// missing is what is said of a dependency that is not in the tree.
func (r *release) missing(c *chart.Chart, d *chart.Dependency) error {
	file, text := r.raw(c, chartFile)
	var root yaml.Node
	_ = yaml.Unmarshal(text, &root) // the chart was loaded from it
	where := ""
	if d.Repository != "" {
		where = " of " + withoutUser(d.Repository)
	}
	return fault.New(fault.Refused, "chart %s: the dependency %s %s%s is not in charts/", c.Name(), d.Name, d.Version, where).
		At(file, lineOf(&root, d.Name)).WithHint("vendor it: run helm dependency build and commit charts/")
}

// raw returns the path in the tree, and the content, of a file of a chart. An
// alias of a chart has the files of the chart.
func (r *release) raw(c *chart.Chart, name string) (string, []byte) {
	for _, f := range c.Raw {
		if f.Name == name {
			return r.loader.raw[f], f.Data
		}
	}
	return path.Join(r.dir, name), nil
}

// execute runs the templates and takes the objects out of what they give.
func (r *release) execute(c *chart.Chart, top common.Values) ([]manifest, error) {
	var crds []manifest
	var err error
	if !r.SkipCRDs {
		if crds, err = r.crds(c); err != nil {
			return nil, err
		}
	}
	for f, name := range r.loader.origins { // so that it is known which template runs
		if strings.HasPrefix(f.Name, "templates/") && !strings.HasPrefix(path.Base(f.Name), "_") {
			f.Data = slices.Concat([]byte(beginFile(name)), f.Data)
		}
	}
	seed := newSeed(r)
	texts, err := engine.Engine{CustomTemplateFuncs: seed.functions()}.Render(c, top)
	if err != nil {
		return nil, r.templateFault(err)
	}
	var found []manifest
	for _, name := range slices.Sorted(maps.Keys(texts)) {
		if strings.HasSuffix(name, notesFile) {
			continue
		}
		objects, err := r.collect(r.paths[name], texts[name])
		if err != nil {
			return nil, err
		}
		found = append(found, objects...)
	}
	found = slices.DeleteFunc(found, func(m manifest) bool { return r.SkipTests && isTest(m) })
	slices.SortStableFunc(found, func(a, b manifest) int { return rank(a) - rank(b) })
	return append(crds, found...), nil
}

// crds returns what is in the directories crds/ of the chart and its
// dependencies, once, however often a dependency is used.
func (r *release) crds(c *chart.Chart) ([]manifest, error) {
	var found []manifest
	seen := map[*common.File]bool{}
	for _, crd := range c.CRDObjects() {
		if seen[crd.File] {
			continue
		}
		seen[crd.File] = true
		objects, err := r.collect(r.loader.origins[crd.File], string(crd.File.Data))
		if err != nil {
			return nil, err
		}
		found = append(found, objects...)
	}
	return found, nil
}

// rank orders objects as Helm installs them: by kind, kinds it does not know
// last, and hooks after all.
func rank(m manifest) int {
	kind, _ := m.value["kind"].(string)
	n := slices.Index(releaseutil.InstallOrder, kind)
	if n < 0 {
		n = len(releaseutil.InstallOrder)
	}
	if m.annotation(hookAnnotation) != "" {
		n += 2 * len(releaseutil.InstallOrder)
	}
	return n
}

// isTest reports whether m is a hook that tests a release.
func isTest(m manifest) bool {
	for event := range strings.SplitSeq(m.annotation(hookAnnotation), ",") {
		switch strings.ToLower(strings.TrimSpace(event)) {
		case "test", "test-success", "test-failure":
			return true
		}
	}
	return false
}

// collect returns the objects in what a template gave. Lines there are not
// lines of the template, so that none are told.
func (r *release) collect(file, text string) ([]manifest, error) {
	parts := releaseutil.SplitManifests(text)
	names := slices.Collect(maps.Keys(parts))
	slices.SortFunc(names, func(a, b string) int { // manifest-0, manifest-1, ... manifest-10
		if len(a) != len(b) {
			return len(a) - len(b)
		}
		return strings.Compare(a, b)
	})
	var found []manifest
	for i, name := range names {
		docs, err := r.parse(file, parts[name])
		if err != nil {
			f, ok := errors.AsType[*fault.Error](err)
			if !ok {
				return nil, err
			}
			f = f.At(file, 0)
			if f.Kind == fault.Invalid {
				f.Msg = r.words.redact(f.Msg)
			}
			if len(names) > 1 {
				f = f.WithHint("in document %d of what the template gives", i+1)
			}
			return nil, f
		}
		for _, d := range docs {
			found = append(found, manifest{d.value, object.Origin{File: file}})
		}
	}
	return found, nil
}

// parse returns the objects of one document. Of a key that is there twice the
// last one counts, as it does for Helm; it is noted.
func (r *release) parse(file, text string) ([]document, error) {
	var root yaml.Node
	switch err := yaml.NewDecoder(bytes.NewReader([]byte(text))).Decode(&root); {
	case errors.Is(err, io.EOF):
		return nil, nil
	case err != nil:
		return nil, yamlFault(err)
	}
	for _, key := range dropRepeated(&root, 0) {
		r.extra.note(file).Repeated = appendNew(r.extra.note(file).Repeated, key)
	}
	return appendDocument(nil, &root, r.limits)
}

// dropRepeated removes all but the last of equal keys, and returns their names.
func dropRepeated(n *yaml.Node, depth int) []string {
	if depth > maxDepth {
		return nil // refused later
	}
	var dropped []string
	if n.Kind == yaml.MappingNode {
		last := map[string]int{}
		for i := 0; i+1 < len(n.Content); i += 2 {
			last[n.Content[i].Value] = i
		}
		if len(last) < len(n.Content)/2 {
			var kept []*yaml.Node
			for i := 0; i+1 < len(n.Content); i += 2 {
				key := n.Content[i]
				if key.Kind == yaml.ScalarNode && key.Tag != "!!merge" && last[key.Value] != i {
					dropped = append(dropped, key.Value)
					continue
				}
				kept = append(kept, key, n.Content[i+1])
			}
			n.Content = kept
		}
	}
	for _, child := range n.Content {
		dropped = append(dropped, dropRepeated(child, depth+1)...)
	}
	return dropped
}

func appendNew(list []string, text string) []string {
	if slices.Contains(list, text) {
		return list
	}
	return append(list, text)
}

// isChart reports whether a directory holds a chart.
func isChart(dir string, files worker.Files) (bool, error) {
	_, e, err := files.Resolve(path.Join(dir, chartFile))
	if errors.Is(err, tree.ErrNotExist) {
		return false, nil
	}
	return err == nil && e.Kind.IsFile(), err
}
