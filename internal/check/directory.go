package check

import (
	"bytes"
	"context"
	"path"
	"regexp"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/holdfastcd/holdfast/internal/delivery"
	"github.com/holdfastcd/holdfast/internal/render"
	"github.com/holdfastcd/holdfast/internal/tree"
)

// inNamespace is where objects of a directory live that name no namespace.
const inNamespace = "default"

// kustomizations are the names of a kustomization file.
var kustomizations = []string{"kustomization.yaml", "kustomization.yml", "Kustomization"}

// directories has the directory itself be judged, where nothing asks for deliveries: its
// charts, the kustomizations that no other builds on, and the manifests beside them.
func (d *discovery) directories(ctx context.Context, below string) error {
	l := layout{discovery: d, built: map[string]bool{}, plain: map[string][]string{}}
	if e, err := d.state.Stat(below); err == nil && e.Kind.IsFile() {
		l.file(below)
	} else {
		l.visit(below, false)
	}
	var units []*unit
	for _, dir := range l.roots {
		if !l.built[dir] {
			units = append(units, d.directoryUnit(dir, render.Detect, ""))
		}
	}
	for dir, names := range l.plain {
		units = append(units, d.directoryUnit(dir, render.Plain, "{"+strings.Join(names, ",")+"}"))
	}
	slices.SortFunc(units, func(a, b *unit) int { return strings.Compare(a.name(), b.name()) })
	d.units = units
	return d.render(ctx, units)
}

func (d *discovery) directoryUnit(dir string, tool render.Tool, include string) *unit {
	u := &unit{delivery: Delivery{Spec: delivery.Spec{
		Namespace: inNamespace,
		Render:    render.Request{Path: dir, Tool: tool, Include: include},
	}}}
	if d.Left != nil {
		u.delivery.Spec.Opener = d.Left(d.known.Sealed)
	}
	name := path.Base(dir)
	if name == "." {
		name = "release"
	}
	u.delivery.Spec.Render.Helm = &render.HelmRequest{ReleaseName: releaseName(name), Namespace: inNamespace}
	return u
}

var notInName = regexp.MustCompile(`[^a-z0-9-]+`)

// releaseName makes a name for a release of a directory's.
func releaseName(dir string) string {
	name := strings.Trim(notInName.ReplaceAllString(strings.ToLower(dir), "-"), "-")
	return name[:min(len(name), 50)]
}

// layout is how a directory is laid out.
type layout struct {
	*discovery

	roots []string            // charts and kustomizations
	built map[string]bool     // directories that a kustomization builds on
	plain map[string][]string // manifests, by directory
}

// visit looks through a directory and those below it, but for those of charts. What lies
// inside of a kustomization and is none itself is the kustomization's: patches, say.
func (l *layout) visit(dir string, inside bool) {
	entries, err := l.state.ReadDir(dir)
	if err != nil {
		return
	}
	has := func(name string) bool {
		return slices.ContainsFunc(entries, func(e tree.Entry) bool { return e.Name == name && e.Kind.IsFile() })
	}
	if has("Chart.yaml") {
		l.roots = append(l.roots, dir)
		return
	}
	if i := slices.IndexFunc(kustomizations, has); i >= 0 {
		inside = true
		l.kustomization(dir, path.Join(dir, kustomizations[i]))
	}
	for _, e := range entries {
		name := path.Join(dir, e.Name)
		switch {
		case strings.HasPrefix(e.Name, "."):
		case e.Kind == tree.Dir:
			l.visit(name, inside)
		case !inside && e.Kind.IsFile():
			l.file(name)
		}
	}
}

// kustomization notes a kustomization and what it builds on. A component is no root.
func (l *layout) kustomization(dir, name string) {
	var k struct {
		Kind       string   `json:"kind"`
		Resources  []string `json:"resources"`
		Bases      []string `json:"bases"`
		Components []string `json:"components"`
	}
	content, err := l.state.ReadFile(name, maxManifest)
	if err == nil && yaml.Unmarshal(content, &k) == nil {
		for _, base := range slices.Concat(k.Resources, k.Bases, k.Components) {
			l.built[path.Join(dir, base)] = true
		}
	}
	if k.Kind != "Component" {
		l.roots = append(l.roots, dir)
	}
}

var holdsKind = regexp.MustCompile(`(?m)(?:^|[{,])\s*["']?kind["']?\s*:\s*\S`)

// file notes a manifest: a file that holds an object, and is no template of one.
func (l *layout) file(name string) {
	content, err := l.state.ReadFile(name, maxManifest)
	if err != nil || !isManifest(name) || slices.Contains(kustomizations, path.Base(name)) {
		return
	}
	if !bytes.Contains(content, []byte("apiVersion")) || !holdsKind.Match(content) || strings.ContainsAny(name, "{},*?[]!") {
		return
	}
	if bytes.Contains(content, []byte("{{")) && len(parse(name, content)) == 0 {
		return
	}
	dir := path.Dir(name)
	if dir == "." {
		dir = ""
	}
	l.plain[dir] = append(l.plain[dir], path.Base(name))
}
