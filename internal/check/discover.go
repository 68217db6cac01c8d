package check

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"

	"github.com/holdfastcd/holdfast/internal/delivery"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/secret"
	"github.com/holdfastcd/holdfast/internal/source"
)

const (
	maxManifest   = 4 << 20 // bytes of a file in which objects are looked for
	maxDepth      = 8       // deliveries that deliver deliveries
	maxDeliveries = 2000
	atOnce        = 2 // workers
)

// unit is a delivery of the repository.
type unit struct {
	asked    object.Object // what asks for it; empty for a directory
	raw      bool          // as it stands in a file, and not as it is rendered
	delivery Delivery
	rendered delivery.Rendered
	mask     *secret.Mask
	err      error
	reused   bool // what it is rendered to was known from another state
}

// name is how people are told of a unit.
func (u *unit) name() string {
	if id := u.delivery.Spec.ID; id.Name != "" && id.Kind != "" {
		return id.String()
	}
	if u.asked.Object != nil {
		return u.asked.ID().String()
	}
	return cmp.Or(u.delivery.Spec.Render.Path, ".")
}

// discovery finds what a state of the repository would deliver, and renders it.
type discovery struct {
	*Engine

	options Options
	state   *state
	report  *Report
	known   *Known
	scopes  *scopes
	remotes []string

	files    []string                   // with objects that matter, or may
	seen     map[[sha256.Size]byte]bool // objects that were asked for already, with their place
	replaced []object.Object            // what is rendered in the place of raw objects
	units    []*unit
	prior    map[string]*unit // of another state, by key
	sources  map[string]bool  // URLs that are this repository; nil: not decided
	mu       sync.Mutex
}

func newDiscovery(e *Engine, o Options, s *state, remotes []string, report *Report) *discovery {
	d := &discovery{
		Engine: e, options: o, state: s, report: report, remotes: remotes,
		seen:   map[[sha256.Size]byte]bool{},
		scopes: newScopes(e.Dialects.Kinds(), o.Cluster),
	}
	d.known = &Known{Find: d.find, Here: d.here, Kubernetes: o.Kubernetes, Sealed: func(file string) {
		d.noticef("sealed files were judged as they are, without their values, %s among them", d.state.place(file))
	}}
	return d
}

func (d *discovery) noticef(format string, args ...any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if strings.HasPrefix(format, "sealed files") && slices.ContainsFunc(d.report.Notices, func(n string) bool { return strings.HasPrefix(n, "sealed files") }) {
		return
	}
	d.report.noticef(format, args...)
}

// run fills in the units: those that objects of the repository ask for, one level after
// the other, or else its directories.
func (d *discovery) run(ctx context.Context, below string) error {
	asked := d.raw(below)
	d.decide(asked)
	if len(asked) == 0 {
		return d.directories(ctx, below)
	}
	for depth := 0; len(asked) > 0; depth++ {
		if depth == maxDepth {
			d.report.noticef("deliveries that deliver deliveries: only %d levels were followed", maxDepth)
			break
		}
		made, err := d.level(ctx, asked, depth == 0)
		if err != nil {
			return err
		}
		asked = d.delivered(made)
	}
	d.units = slices.DeleteFunc(d.units, func(u *unit) bool { return u.raw && d.isReplaced(u.asked) })
	return nil
}

// raw reads the objects that matter from the files, as they stand there, and returns
// those that ask for deliveries.
func (d *discovery) raw(below string) []object.Object {
	var asked []object.Object
	for _, name := range d.state.names() {
		if !isManifest(name) || below != "" && name != below && !strings.HasPrefix(name, below+"/") {
			continue
		}
		content, err := d.state.ReadFile(name, maxManifest)
		if err != nil || !bytes.Contains(content, []byte("apiVersion")) {
			continue
		}
		d.files = append(d.files, name)
		if !mayMatter(content) {
			continue
		}
		for _, o := range parse(name, content) {
			kind := o.GroupVersionKind().GroupKind()
			d.scopes.learn(&o)
			if d.Dialects.Reads(kind) {
				d.known.Objects = append(d.known.Objects, o)
			}
			if d.Dialects.Asks(kind) {
				asked = append(asked, o)
				d.first(o)
			}
		}
	}
	return asked
}

// groups are what stands in a file that matters to discovery.
var groups = [][]byte{
	[]byte(".toolkit.fluxcd.io/"), []byte("argoproj.io/"), []byte("holdfast.dev/"), []byte("apiextensions.k8s.io/"),
	[]byte("admissionregistration.k8s.io/"), []byte("kyverno.io/"), []byte("gatekeeper.sh/"),
}

func mayMatter(content []byte) bool {
	return slices.ContainsFunc(groups, func(g []byte) bool { return bytes.Contains(content, g) })
}

func isManifest(name string) bool {
	switch path.Ext(name) {
	case ".yaml", ".yml", ".json":
		return true
	}
	return false
}

// parse reads the objects of a file, each with its line. What is no object is left out,
// and so is a template: where it is delivered, it is rendered.
func parse(name string, content []byte) []object.Object {
	if object.Aliased(content) {
		return nil
	}
	var all []object.Object
	for _, doc := range documents(content) {
		var o map[string]any
		text, err := yaml.YAMLToJSON(doc.text)
		if err != nil || json.Unmarshal(text, &o) != nil {
			continue
		}
		at := object.Origin{File: name, Line: doc.line}
		items, isList := o["items"].([]any)
		if kind, _ := o["kind"].(string); !isList || !strings.HasSuffix(kind, "List") {
			items = []any{o}
		}
		for _, item := range items {
			if m, ok := item.(map[string]any); ok && m["kind"] != nil && m["apiVersion"] != nil {
				all = append(all, object.Object{Unstructured: unstructured.Unstructured{Object: normal(m)}, Origin: at})
			}
		}
	}
	return all
}

// normal has whole numbers be so, as everywhere else.
func normal(m map[string]any) map[string]any {
	u := unstructured.Unstructured{}
	if text, err := json.Marshal(m); err == nil && u.UnmarshalJSON(text) == nil {
		return u.Object
	}
	return m
}

type document struct {
	text  []byte
	first int // its first line
	line  int // the first one that says something
}

// documents cuts a file where documents end.
func documents(content []byte) []document {
	var all []document
	var current document
	n := 0
	flush := func() {
		if current.line > 0 {
			all = append(all, current)
		}
		current = document{first: n + 1}
	}
	current.first = 1
	for line := range bytes.Lines(content) {
		n++
		if bytes.HasPrefix(line, []byte("---")) {
			flush()
			continue
		}
		text := bytes.TrimSpace(line)
		if current.line == 0 && len(text) > 0 && text[0] != '#' && text[0] != '%' {
			current.line = n
		}
		current.text = append(current.text, line...)
	}
	flush()
	return all
}

// first reports whether an object is asked for the first time.
func (d *discovery) first(o object.Object) bool {
	text, err := json.Marshal([]any{o.Origin.File, o.Object})
	if err != nil {
		return false
	}
	sum := sha256.Sum256(text)
	if d.seen[sum] {
		return false
	}
	d.seen[sum] = true
	return true
}

// level renders what objects ask for.
func (d *discovery) level(ctx context.Context, asked []object.Object, raw bool) ([]*unit, error) {
	var made []*unit
	for _, o := range asked {
		if len(d.units)+len(made) == maxDeliveries {
			return nil, fault.New(fault.Limit, "there are more than %d deliveries", maxDeliveries)
		}
		s := d.Dialects.Source(o, d.known)
		if s.Elsewhere == "" && !d.isHere(s) {
			s.Elsewhere = "it comes from " + withoutUser(s.URL)
		}
		if s.Elsewhere != "" {
			d.report.noticef("%s was not judged: %s", o.ID(), s.Elsewhere)
			continue
		}
		u := &unit{asked: o, raw: raw}
		made = append(made, u)
		if u.delivery, u.err = d.Dialects.Deliver(ctx, o, d.known, d.state); u.err == nil {
			for _, n := range u.delivery.Notices {
				d.noticef("%s", n)
			}
		}
	}
	d.units = append(d.units, made...)
	return made, d.render(ctx, made)
}

// render renders units, a few at a time.
func (d *discovery) render(ctx context.Context, units []*unit) error {
	return each(ctx, units, func(u *unit) {
		u.mask = &secret.Mask{}
		if u.err != nil {
			return
		}
		if u.reuse(d.prior[u.key()], d.state) {
			return
		}
		u.delivery.Spec.Revision = source.Revision{Commit: "local", Tree: d.state}
		u.rendered, u.err = delivery.Render(ctx, d.Renderer, u.delivery.Spec, d.scopes, u.mask)
		for i := range u.rendered.Objects {
			d.scopes.learn(&u.rendered.Objects[i])
		}
	})
}

// each does something for each of a list, a few at a time. It fails if ctx ends.
func each[T any](ctx context.Context, list []T, do func(T)) error {
	var wait sync.WaitGroup
	next := make(chan T)
	for range atOnce {
		wait.Go(func() {
			for one := range next {
				do(one)
			}
		})
	}
	for _, one := range list {
		if ctx.Err() != nil {
			break
		}
		next <- one
	}
	close(next)
	wait.Wait()
	if err := ctx.Err(); err != nil {
		return fault.New(fault.Internal, "the check was cancelled").Because(err)
	}
	return nil
}

// delivered returns the objects among what was rendered that ask for deliveries and were
// not known, and takes in what else matters.
func (d *discovery) delivered(made []*unit) []object.Object {
	var asked []object.Object
	for _, u := range made {
		for i := range u.rendered.Objects {
			o := u.rendered.Objects[i]
			kind := o.GroupVersionKind().GroupKind()
			if !d.Dialects.Reads(kind) {
				continue
			}
			o.Object = runtime.DeepCopyJSON(o.Object)
			if d.first(o) {
				d.replaced = append(d.replaced, o)
				d.known.Objects = slices.DeleteFunc(d.known.Objects, func(k object.Object) bool { return same(k, o) })
				d.known.Objects = append(d.known.Objects, o)
				if d.Dialects.Asks(kind) {
					asked = append(asked, o)
				}
			}
		}
	}
	return asked
}

// isReplaced reports whether something else is delivered of where a raw object stands: a
// kustomization changed it.
func (d *discovery) isReplaced(raw object.Object) bool {
	return slices.ContainsFunc(d.replaced, func(o object.Object) bool { return same(raw, o) })
}

// same reports whether two objects are of one document: it may have got another name.
func same(a, b object.Object) bool {
	if a.Origin.File != b.Origin.File || a.GroupVersionKind().GroupKind() != b.GroupVersionKind().GroupKind() {
		return false
	}
	return a.GetName() == b.GetName() || a.Origin.Line == b.Origin.Line && a.Origin.Line > 0
}

// decide says which addresses are those of this repository: the ones of its remotes;
// where none of these is named, the ones whose paths it has.
func (d *discovery) decide(asked []object.Object) {
	urls, matches := map[string]bool{}, map[string]bool{}
	var sources []Source
	for _, o := range asked {
		s := d.Dialects.Source(o, d.known)
		if s.URL == "" || s.Elsewhere != "" {
			continue
		}
		sources = append(sources, s)
		urls[source.NormalizeURL(s.URL)] = true
	}
	for _, r := range d.remotes {
		if urls[source.NormalizeURL(r)] {
			matches[source.NormalizeURL(r)] = true
		}
	}
	if len(matches) > 0 {
		d.sources = matches
		return
	}
	for _, s := range sources {
		p := strings.Trim(path.Clean("/"+s.Path), "/")
		_, err := d.state.Stat(p)
		if err == nil && (p != "" || len(urls) == 1) || len(urls) == 1 && len(d.remotes) == 0 {
			matches[source.NormalizeURL(s.URL)] = true
		}
	}
	d.sources = matches
}

func (d *discovery) here(url string) bool {
	url = source.NormalizeURL(url)
	return d.sources[url] || slices.ContainsFunc(d.remotes, func(r string) bool { return source.NormalizeURL(r) == url })
}

func (d *discovery) isHere(s Source) bool {
	if s.URL == "" {
		_, err := d.state.Stat(strings.Trim(path.Clean("/"+s.Path), "/"))
		return err == nil
	}
	return d.here(s.URL)
}

// withoutUser takes what may be a password out of an address.
func withoutUser(url string) string {
	scheme, rest, ok := strings.Cut(url, "://")
	if !ok {
		return url
	}
	if i := strings.LastIndexByte(rest, '@'); i >= 0 && !strings.Contains(rest[:i], "/") {
		rest = rest[i+1:]
	}
	return scheme + "://" + rest
}

// find looks for an object among what is rendered, and else in the files.
func (d *discovery) find(kind, namespace, name string) (object.Object, bool) {
	fits := func(o *object.Object) bool {
		return o.GetKind() == kind && o.GetName() == name && (o.GetNamespace() == namespace || o.GetNamespace() == "") && o.GetAPIVersion() == "v1"
	}
	for _, u := range d.units {
		for i := range u.rendered.Objects {
			if fits(&u.rendered.Objects[i]) {
				return u.rendered.Objects[i], true
			}
		}
	}
	for _, file := range d.files {
		content, err := d.state.ReadFile(file, maxManifest)
		if err != nil || !bytes.Contains(content, []byte(name)) || !bytes.Contains(content, []byte(kind)) {
			continue
		}
		for _, o := range parse(file, content) {
			if fits(&o) {
				return o, true
			}
		}
	}
	return object.Object{}, false
}

// key of a unit is the same in another state of the repository.
func (u *unit) key() string {
	return fmt.Sprintf("%s %s", u.name(), u.asked.Origin.File)
}
