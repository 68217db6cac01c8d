package render

import (
	"bytes"
	"path"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
	"sigs.k8s.io/kustomize/api/types"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/tree"
)

// maxKustomizations bounds how many kustomization files one build may join.
const maxKustomizations = 500

// survey walks the kustomization files that a build will use, before
// kustomize runs, and looks at every entry that names a path. What would leave
// the tree (a remote base, "../../..") is refused here with file and line;
// kustomize itself would start to fetch it, and report the failure as text.
type survey struct {
	fs        *overlay
	seen      map[string]bool // directories
	resources []string        // files that hold objects
	schemas   bool            // some kustomization brings its own schema
	charts    *inflation
}

// entry is one path in a kustomization file.
type entry struct {
	field, text string
	base        bool // may be a directory, or a repository
}

// kustomizationFile is a parsed kustomization file.
type kustomizationFile struct {
	name string
	text []byte
	root yaml.Node // for line numbers; zero if it cannot be had
	types.Kustomization
}

// load reads and checks one kustomization file. Errors are Invalid with file
// and line, or what the file system returned.
func (s *survey) load(name string) (*kustomizationFile, error) {
	text, err := s.fs.readFile(name)
	if err != nil {
		return nil, err
	}
	k := &kustomizationFile{name: name, text: text}
	if err := yaml.Unmarshal(text, &k.root); err != nil {
		f := locate(text, yamlFault(err))
		return nil, f.At(name, max(f.Line, 1))
	}
	if err := k.Unmarshal(text); err != nil {
		return nil, k.invalid(err)
	}
	k.FixKustomization()
	if problems := k.EnforceFields(); len(problems) > 0 {
		return nil, fault.New(fault.Invalid, "%s", strings.Join(problems, "; ")).At(name, k.line("kind"))
	}
	return k, nil
}

var unknownField = regexp.MustCompile(`unknown field "([^"]+)"`)

// invalid explains why a kustomization file could not be decoded.
func (k *kustomizationFile) invalid(err error) error {
	text := err.Error()
	if m := unknownField.FindStringSubmatch(text); m != nil {
		return fault.New(fault.Invalid, "kustomize has no field %q", m[1]).At(k.name, k.line(m[1]))
	}
	text = strings.TrimPrefix(text, "invalid Kustomization: ")
	text = strings.ReplaceAll(text, "json: cannot unmarshal", "cannot read")
	text = strings.ReplaceAll(text, "Go struct field ", "")
	return fault.New(fault.Invalid, "%s", shorten(text)).At(k.name, 1)
}

// line returns the line on which a text stands as a key or a value, or as the
// path of a key=path; 0 if it is not found.
func (k *kustomizationFile) line(text string) int { return lineOf(&k.root, text) }

func lineOf(n *yaml.Node, text string) int {
	if n.Kind == yaml.ScalarNode && (n.Value == text || strings.HasSuffix(n.Value, "="+text)) {
		return n.Line
	}
	for _, c := range n.Content {
		if line := lineOf(c, text); line > 0 {
			return line
		}
	}
	return 0
}

// visit surveys the kustomization in a directory, and those it builds on.
func (s *survey) visit(dir string) error {
	if s.seen[dir] {
		return nil // kustomize reports cycles
	}
	if len(s.seen) >= maxKustomizations {
		return fault.New(fault.Limit, "more than %d kustomizations build on each other", maxKustomizations)
	}
	s.seen[dir] = true
	name, err := s.fs.kustomizationIn(dir)
	if err != nil {
		return err
	}
	if name == "" {
		return fault.New(fault.Invalid, "the directory %q has no kustomization file", dir)
	}
	k, err := s.load(name)
	if err != nil {
		return err
	}
	return s.check(k, dir)
}

func (s *survey) check(k *kustomizationFile, dir string) error {
	if len(k.OpenAPI) > 0 || len(k.Crds) > 0 {
		s.schemas = true
	}
	for _, e := range k.entries() {
		if err := s.entry(k, dir, e); err != nil {
			return err
		}
	}
	for field, list := range k.plugins() {
		for _, text := range list {
			if err := s.plugin(k, dir, field, text); err != nil {
				return err
			}
		}
	}
	if len(k.HelmCharts) > 0 || k.HelmGlobals != nil {
		return s.charts.inflate(k, dir, s.fs)
	}
	return nil
}

// entries returns every field that names a file or directory, but for plugins.
func (k *kustomizationFile) entries() []entry {
	var list []entry
	add := func(field string, base bool, texts ...string) {
		for _, text := range texts {
			list = append(list, entry{field, text, base})
		}
	}
	add("resources", true, k.Resources...)
	add("components", true, k.Components...)
	add("crds", false, k.Crds...)
	add("configurations", false, k.Configurations...)
	if p, ok := k.OpenAPI["path"]; ok {
		add("openapi", false, p)
	}
	for _, p := range k.PatchesStrategicMerge { //nolint:staticcheck // deprecated, and in use
		if !strings.Contains(string(p), "\n") && !strings.Contains(string(p), ": ") { // else it is inline
			add("patchesStrategicMerge", false, string(p))
		}
	}
	for _, p := range slices.Concat(k.Patches, k.PatchesJson6902) { //nolint:staticcheck // deprecated, and in use
		if p.Path != "" {
			add("patches", false, p.Path)
		}
	}
	for _, r := range k.Replacements {
		if r.Path != "" {
			add("replacements", false, r.Path)
		}
	}
	for _, c := range k.ConfigMapGenerator {
		add("configMapGenerator", false, sources(c.KvPairSources)...)
	}
	for _, c := range k.SecretGenerator {
		add("secretGenerator", false, sources(c.KvPairSources)...)
	}
	return list
}

// sources returns the paths in a generator's files ([key=]path) and envs.
func sources(kv types.KvPairSources) []string {
	paths := slices.Clone(kv.EnvSources)
	if kv.EnvSource != "" {
		paths = append(paths, kv.EnvSource)
	}
	for _, f := range kv.FileSources {
		if _, after, ok := strings.Cut(f, "="); ok && !remoteFile(f) {
			f = after
		}
		paths = append(paths, f)
	}
	return paths
}

func (k *kustomizationFile) plugins() map[string][]string {
	return map[string][]string{"generators": k.Generators, "transformers": k.Transformers, "validators": k.Validators}
}

// entry checks one path, and follows it to another kustomization.
func (s *survey) entry(k *kustomizationFile, dir string, e entry) error {
	at := k.line(e.text)
	if remoteFile(e.text) || e.base && remoteRepository(e.text) {
		return fault.New(fault.Refused, "%s: %s is not part of the source", e.field, withoutUser(e.text)).At(k.name, at).
			WithHint("remote bases are off: copy it into the repository")
	}
	if path.IsAbs(e.text) || leaves(dir, e.text) {
		return fault.New(fault.Refused, "%s: the path %q leaves the source", e.field, e.text).At(k.name, at)
	}
	kind, target, err := s.look(path.Join(dir, e.text))
	if err != nil {
		return err
	}
	switch {
	case kind == 0:
		return fault.New(fault.Invalid, "%s: %q does not exist", e.field, e.text).At(k.name, at)
	case kind == tree.Dir && e.base:
		return s.follow(k, target, e, at)
	case kind == tree.Dir:
		return fault.New(fault.Invalid, "%s: %q is a directory, not a file", e.field, e.text).At(k.name, at)
	case e.field == "resources":
		s.resources = append(s.resources, target)
	}
	return nil
}

// follow surveys a directory that an entry names.
func (s *survey) follow(k *kustomizationFile, dir string, e entry, line int) error {
	name, err := s.fs.kustomizationIn(dir)
	if err != nil {
		return err
	}
	if name == "" {
		return fault.New(fault.Invalid, "%s: the directory %q has no kustomization file", e.field, e.text).At(k.name, line)
	}
	return s.visit(dir)
}

// look says what is at a path: nothing (0), a file or a directory. Reading is
// the cheapest question, because kustomize will read the file anyway.
func (s *survey) look(name string) (tree.Kind, string, error) {
	if _, err := s.fs.readFile(name); err == nil {
		return tree.File, name, nil
	}
	if s.fs.first != nil {
		return 0, "", s.fs.first
	}
	at, e, err := s.fs.resolve(name)
	if s.fs.first != nil {
		return 0, "", s.fs.first
	}
	if err != nil {
		return 0, "", nil //nolint:nilerr // it is not there, and kustomize says so
	}
	return e.Kind, at, nil
}

// leaves reports whether a relative path climbs out of the tree.
func leaves(dir, text string) bool {
	joined := path.Join(dir, text)
	return joined == ".." || strings.HasPrefix(joined, "../")
}

// plugin checks a generator, transformer or validator: a file, a directory
// with a kustomization, or the configuration itself.
func (s *survey) plugin(k *kustomizationFile, dir, field, text string) error {
	if strings.Contains(text, "\n") || strings.Contains(text, ": ") {
		return s.pluginConfig(k.name, k.line(field), []byte(text))
	}
	if err := s.entry(k, dir, entry{field, text, true}); err != nil {
		return err
	}
	name := path.Join(dir, text)
	if config, err := s.fs.readFile(name); err == nil {
		return s.pluginConfig(name, 0, config)
	}
	return nil
}

// pluginConfig refuses what kustomize would have to start a program for.
func (s *survey) pluginConfig(file string, line int, config []byte) error {
	decoder := yaml.NewDecoder(bytes.NewReader(config))
	for {
		var doc yaml.Node
		if err := decoder.Decode(&doc); err != nil {
			return nil //nolint:nilerr // the end; what is unreadable kustomize reports
		}
		if len(doc.Content) == 0 {
			continue
		}
		at := line + doc.Content[0].Line
		if line == 0 {
			at = doc.Content[0].Line
		}
		if err := builtinOnly(doc.Content[0]); err != nil {
			return err.At(file, at)
		}
	}
}

func builtinOnly(n *yaml.Node) *fault.Error {
	var meta struct {
		APIVersion string `yaml:"apiVersion"`
		Kind       string `yaml:"kind"`
	}
	_ = n.Decode(&meta) // what is unreadable kustomize reports
	switch {
	case meta.Kind == "HelmChartInflationGenerator":
		return fault.New(fault.Unsupported, "HelmChartInflationGenerator as a plugin is not supported").
			WithHint("name the chart under helmCharts in the kustomization")
	case meta.APIVersion != "builtin":
		return foreignPlugin(meta.Kind)
	}
	if text := findScalar(n, remoteFile); text != "" {
		return fault.New(fault.Refused, "%s is not part of the source", withoutUser(text)).
			WithHint("remote bases are off: copy it into the repository")
	}
	return nil
}

func foreignPlugin(kind string) *fault.Error {
	return fault.New(fault.Refused, "%s would run a program of its own", kind).
		WithHint("only kustomize's builtin plugins are run")
}

// findScalar returns the first single-line scalar that meets the condition.
func findScalar(n *yaml.Node, meets func(string) bool) string {
	if n.Kind == yaml.ScalarNode && !strings.Contains(n.Value, "\n") && meets(n.Value) {
		return n.Value
	}
	for _, c := range n.Content {
		if text := findScalar(c, meets); text != "" {
			return text
		}
	}
	return ""
}

// remoteFile reports whether kustomize would take a file's path for a URL.
func remoteFile(text string) bool {
	text = strings.ToLower(text)
	return strings.HasPrefix(text, "http:") || strings.HasPrefix(text, "https:") || strings.Contains(text, "://")
}

var userAtHost = regexp.MustCompile(`^[a-zA-Z][a-zA-Z0-9-]*@[^/:]+[/:]`)

// remoteRepository reports whether kustomize would take a base's path for a
// repository: ssh addresses without a scheme, and GitHub's host alone.
func remoteRepository(text string) bool {
	text = strings.ToLower(text)
	return strings.HasPrefix(text, "git::") || strings.HasPrefix(text, "github.com/") ||
		strings.HasPrefix(text, "github.com:") || userAtHost.MatchString(text)
}

var userInfo = regexp.MustCompile(`//[^/@\s]*@`)

// withoutUser takes user and password out of a URL.
func withoutUser(text string) string { return userInfo.ReplaceAllString(text, "//") }
