package render

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/api/resmap"
	"sigs.k8s.io/kustomize/api/resource"
	"sigs.k8s.io/kustomize/api/types"
	"sigs.k8s.io/kustomize/kyaml/openapi"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/worker"
)

// kustomize builds the request's kustomization. It must not run twice at once
// in a process: kustomize keeps schemas for the whole of it.
func kustomize(req Request, files worker.Files, x *extra) (output, error) {
	b, err := newBuild(req, files, x)
	if err != nil {
		return nil, err
	}
	return b.build()
}

// build is one kustomize build.
type build struct {
	req     Request
	dir     string
	fs      *overlay
	survey  *survey
	name    string // the kustomization file
	origins bool   // the user wants the origin annotations
	lines   map[string]lineIndex
	always  bool // leave nothing to the plain parser
}

func newBuild(req Request, files worker.Files, x *extra) (*build, error) {
	dir, err := directory(req, files)
	if err != nil {
		return nil, err
	}
	fs := newOverlay(files)
	return &build{
		req: req, dir: dir, fs: fs, lines: map[string]lineIndex{},
		survey: &survey{fs: fs, seen: map[string]bool{}, charts: &inflation{req: req, extra: x, real: map[string]string{}}},
	}, nil
}

func (b *build) build() (output, error) {
	name, err := b.fs.kustomizationIn(b.dir)
	if err != nil {
		return nil, err
	}
	if name == "" && b.req.Tool != KustomizeOrGenerate {
		return nil, fault.New(fault.NotFound, "path %q has no kustomization file", b.req.Path)
	}
	if name != "" {
		return b.krusty(name)
	}
	l, err := b.find()
	if err != nil || l.empty() && !b.hasComponents() {
		return nil, err
	}
	if out, ok := b.list(l); ok && !b.always {
		return out, nil
	}
	if name, err = b.generate(l); err != nil {
		return nil, err
	}
	return b.krusty(name)
}

// krusty has kustomize build the kustomization file of this name.
func (b *build) krusty(name string) (output, error) {
	if err := b.survey.visit(b.dir); err != nil {
		return nil, err
	}
	if err := b.override(name); err != nil {
		return nil, err
	}
	m, err := b.run()
	if err != nil {
		return nil, b.explain(err)
	}
	if b.fs.first != nil { // kustomize went on without what was refused
		return nil, b.fs.first
	}
	return b.collect(m)
}

// run runs kustomize. Schemas that a kustomization brings stay in the process
// and would be the next tenant's too: around such a build they are forgotten.
func (b *build) run() (m resmap.ResMap, err error) {
	if b.survey.schemas {
		openapi.ResetOpenAPI()
		defer openapi.ResetOpenAPI()
	}
	defer func() {
		if v := recover(); v != nil { // some malformed inputs make kustomize panic
			err = fmt.Errorf("kustomize broke on this input: %v", v)
		}
	}()
	options := krusty.MakeDefaultOptions()
	options.LoadRestrictions = types.LoadRestrictionsNone // the tree is the restriction
	return krusty.MakeKustomizer(options).Run(b.fs, path.Join(mount, b.dir))
}

// collect takes the objects out of what kustomize built.
func (b *build) collect(m resmap.ResMap) (output, error) {
	var out output
	limits := newBudget()
	for _, res := range m.Resources() {
		origin, err := b.origin(res)
		if err != nil {
			return nil, err
		}
		value, err := nodeValue(res.YNode(), limits)
		if err != nil {
			return nil, atFile(err, origin.File)
		}
		o, ok := value.(map[string]any)
		if !ok {
			return nil, notAnObject(value).At(origin.File, 0)
		}
		if err := limits.count(); err != nil {
			return nil, err
		}
		origin.Line = b.line(origin.File, o)
		if err := b.stamp(o, limits); err != nil {
			return nil, atFile(err, origin.File)
		}
		if err := out.add(o, b.survey.charts.origin(origin)); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// origin reads the annotation that says where res comes from, and removes it
// unless the user asked for it.
func (b *build) origin(res *resource.Resource) (object.Origin, error) {
	o, err := res.GetOrigin()
	if err != nil || o == nil {
		return object.Origin{File: b.name}, nil //nolint:nilerr // the user wrote an annotation of that name
	}
	file := o.Path
	if file == "" {
		file = o.ConfiguredIn
	}
	if !b.origins {
		if err := res.SetOrigin(nil); err != nil {
			return object.Origin{}, fault.New(fault.Invalid, "annotations: %v", err).At(path.Join(b.dir, file), 0)
		}
	}
	return object.Origin{File: path.Join(b.dir, file)}, nil
}

func atFile(err error, file string) error {
	if f, ok := err.(*fault.Error); ok { //nolint:errorlint // ours, just returned
		return f.At(file, 0)
	}
	return err
}

// explain turns kustomize's error into ours: a fault of the file system first,
// then what a closer look at the files shows, and else its text, cut down to
// what is wrong.
func (b *build) explain(err error) error {
	if b.fs.first != nil {
		return b.fs.first
	}
	text := placeholders.ReplaceAllString(strings.ReplaceAll(err.Error(), mount+"/", ""), "")
	at := b.blamed(text)
	if m := foreign.FindStringSubmatch(text); m != nil {
		return foreignPlugin(m[1]).At(at, 0)
	}
	if f := b.inspect(text); f != nil {
		return f
	}
	if _, id, ok := strings.Cut(text, "already registered id: "); ok {
		id, _, _ = strings.Cut(id, "'")
		return fault.New(fault.Invalid, "%s is there already", id).At(at, 0).
			WithHint("two resources of the kustomization have the same kind, name and namespace")
	}
	return fault.New(fault.Invalid, "%s", shorten(text)).At(at, 0)
}

// placeholders are what kustomize writes for parts that an identity does not have.
var placeholders = regexp.MustCompile(`\.\[no(Grp|Ns)\]`)

var foreign = regexp.MustCompile(`external plugins disabled; unable to load external plugin '([^']*)'`)

// inspect reads the files again by our own parser, which knows lines, if
// kustomize complained about one.
func (b *build) inspect(text string) error {
	names := b.survey.resources
	if strings.Contains(text, "yaml") || strings.Contains(text, "YAML") || strings.Contains(text, "json") {
		names = slices.Concat(names, b.fs.order)
	}
	for _, name := range names {
		if !isManifest(path.Base(name)) {
			continue
		}
		content, err := b.fs.readFile(name)
		if err != nil {
			continue
		}
		docs, err := parse(name, content, newBudget())
		resource := slices.Contains(b.survey.resources, name)
		if err != nil && (resource || fault.KindOf(err) == fault.Invalid && strings.Contains(err.Error(), "not valid")) {
			return err
		}
		if !resource {
			continue
		}
		for _, d := range docs {
			if err := identify(d.value); err != nil {
				return err.At(name, d.line)
			}
		}
	}
	return nil
}

var quotedPath = regexp.MustCompile(`(?:path|from|at|File:) '?([^'\s:]+)'?`)

// blamed returns the file that kustomize's error names last, or the kustomization.
func (b *build) blamed(text string) string {
	for _, m := range slices.Backward(quotedPath.FindAllStringSubmatch(text, -1)) {
		for _, name := range []string{path.Join(b.dir, m[1]), m[1]} {
			if slices.Contains(b.fs.order, name) {
				return name
			}
			if in, err := b.fs.kustomizationIn(name); err == nil && in != "" {
				return in
			}
		}
	}
	return b.name
}

// shorten takes the inner end of kustomize's chain of errors.
func shorten(text string) string {
	if i := strings.LastIndex(text, "': "); i >= 0 {
		text = text[i+3:]
	}
	text = strings.Join(strings.Fields(text), " ")
	if len(text) > 400 {
		text = strings.ToValidUTF8(text[:400], "") + "…"
	}
	return text
}
