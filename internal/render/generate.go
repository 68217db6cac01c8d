package render

import (
	"bytes"
	"errors"
	"io"
	"path"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
	"sigs.k8s.io/kustomize/api/types"
	"sigs.k8s.io/kustomize/kyaml/resid"

	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/tree"
)

// listing is what a generated kustomization lists, by paths in the tree: the
// YAML files below a directory, and directories with a kustomization of their own.
type listing struct{ files, dirs []string }

func (l listing) empty() bool { return len(l.files)+len(l.dirs) == 0 }

// find lists the request's directory as Flux does.
func (b *build) find() (listing, error) {
	var l listing
	w := &walker{files: b.fs.files, recurse: true}
	w.wanted = func(name string) bool { return path.Ext(name) == ".yaml" || path.Ext(name) == ".yml" }
	w.enter = func(dir string, entries []tree.Entry) bool {
		if dir == b.dir || !slices.ContainsFunc(entries, isKustomization) {
			return true
		}
		l.dirs = append(l.dirs, dir)
		return false
	}
	err := w.walk(b.dir)
	l.files = w.found
	slices.Sort(l.files)
	return l, err
}

func isKustomization(e tree.Entry) bool {
	return slices.Contains(kustomizationNames, e.Name) && e.Kind != tree.Dir
}

// below returns a path relative to the request's directory.
func (b *build) below(name string) string {
	return strings.TrimPrefix(strings.TrimPrefix(name, b.dir), "/")
}

// generate lays a kustomization file over the directory, and returns its path.
func (b *build) generate(l listing) (string, error) {
	k := types.Kustomization{TypeMeta: types.TypeMeta{APIVersion: types.KustomizationVersion, Kind: types.KustomizationKind}}
	for _, name := range slices.Concat(l.files, l.dirs) {
		k.Resources = append(k.Resources, b.below(name))
	}
	slices.Sort(k.Resources)
	name := path.Join(b.dir, kustomizationNames[0])
	return name, b.fs.lay(name, &k)
}

// list gives what kustomize would build from a kustomization that lists these
// files and sets a namespace at most, without kustomize, and several times as
// fast. It reports false wherever kustomize could have something of its own to
// say (aliases, lists, references between objects that carry a namespace), and
// wherever anything is wrong: then kustomize builds, or says what it is.
func (b *build) list(l listing) (output, bool) {
	if len(l.dirs) > 0 || !b.onlyLists() {
		return nil, false
	}
	p := &plainList{namespace: b.req.Namespace, limits: newBudget(), ids: map[resid.ResId]bool{}}
	for _, name := range l.files {
		if below := b.below(name); remoteFile(below) || remoteRepository(below) {
			return nil, false
		}
		content, err := b.fs.readFile(name)
		if err != nil || !p.read(name, content) {
			return nil, false
		}
	}
	if !p.place() {
		return nil, false
	}
	var out output
	for _, d := range p.found {
		if b.stamp(d.value, p.limits) != nil || out.add(d.value, d.origin) != nil {
			return nil, false
		}
	}
	return out, true
}

// onlyLists reports whether the request lays nothing over the kustomization but
// a namespace, and labels and annotations that are set after the build.
func (b *build) onlyLists() bool {
	req := b.req
	if req.NamePrefix != "" || req.NameSuffix != "" || len(req.Images) > 0 {
		return false
	}
	o := req.Overrides
	return o == nil || len(o.Patches) == 0 && len(o.Replicas) == 0 && len(o.Components) == 0 &&
		(len(o.Labels) == 0 || b.stampsLabels()) && (len(o.Annotations) == 0 || b.stampsAnnotations())
}

// plainList collects objects that kustomize would pass on as they are, but for
// their namespace.
type plainList struct {
	namespace string
	limits    *budget
	found     []listed
	ids       map[resid.ResId]bool
}

type listed struct {
	value  map[string]any
	origin object.Origin
}

// read takes the objects of one file. False means that it is not for us.
func (p *plainList) read(file string, content []byte) bool {
	if !plainDocuments(content) {
		return false
	}
	decoder := yaml.NewDecoder(bytes.NewReader(content))
	for {
		var root yaml.Node
		err := decoder.Decode(&root)
		if err != nil {
			return errors.Is(err, io.EOF)
		}
		if len(root.Content) == 0 || root.Content[0].Tag == "!!null" {
			continue
		}
		node := root.Content[0]
		if !plainNode(node) {
			return false
		}
		value, err := nodeValue(node, p.limits)
		m, ok := value.(map[string]any)
		if err != nil || !ok || p.limits.count() != nil || !p.plainObject(m) {
			return false
		}
		p.found = append(p.found, listed{value: m, origin: object.Origin{File: file, Line: node.Line}})
	}
}

// plainDocuments reports whether kustomize, which splits a file into documents
// by its text, and our parser see the same documents.
func plainDocuments(content []byte) bool {
	if bytes.ContainsAny(content, "\r\ufeff\u0085\u2028\u2029") {
		return false
	}
	for line := range bytes.Lines(content) {
		switch {
		case bytes.HasPrefix(line, []byte("---")):
			if rest := bytes.TrimSpace(line[3:]); len(rest) > 0 && rest[0] != '#' {
				return false
			}
		case bytes.HasPrefix(line, []byte("...")), bytes.HasPrefix(line, []byte("%")):
			return false
		}
	}
	return true
}

// plainNode reports whether a value holds nothing but mappings with text for
// keys, sequences and scalars without explicit tags.
func plainNode(n *yaml.Node) bool {
	if n.Anchor != "" || n.Kind == yaml.AliasNode || n.Style&yaml.TaggedStyle != 0 {
		return false
	}
	for i, child := range n.Content {
		if n.Kind == yaml.MappingNode && i%2 == 0 && (child.Kind != yaml.ScalarNode || child.Tag != "!!str") {
			return false
		}
		if !plainNode(child) {
			return false
		}
	}
	return true
}

// entangled are kinds that kustomize changes, or may refuse, for the sake of
// their references to other objects.
var entangled = []string{
	"ValidatingWebhookConfiguration", "MutatingWebhookConfiguration", "APIService", "Node", "StorageClass",
}

// plainObject reports whether kustomize takes an object as it is.
func (p *plainList) plainObject(m map[string]any) bool {
	kind, _ := m["kind"].(string)
	if identify(m) != nil || strings.HasSuffix(kind, "List") || slices.Contains(entangled, kind) {
		return false
	}
	meta, _ := m["metadata"].(map[string]any)
	if _, ok := meta["namespace"].(string); meta["namespace"] != nil && !ok {
		return false
	}
	for _, field := range []string{"labels", "annotations"} {
		if value, set := meta[field]; set && !plainTexts(value) {
			return false
		}
	}
	return p.enter(m)
}

// plainTexts reports whether v is a map of texts, and has none by which
// kustomize is told something.
func plainTexts(v any) bool {
	texts, ok := v.(map[string]any)
	for key, value := range texts {
		if _, isText := value.(string); !isText || strings.Contains(key, "config.kubernetes.io/") || strings.Contains(key, "config.k8s.io/") {
			return false
		}
	}
	return ok && len(texts) > 0
}

// enter remembers an object's identity as kustomize sees it, and reports
// whether it is new.
func (p *plainList) enter(m map[string]any) bool {
	id := identity(m)
	id.Namespace = id.EffectiveNamespace()
	known := p.ids[id]
	p.ids[id] = true
	return !known
}

func identity(m map[string]any) resid.ResId {
	apiVersion, _ := m["apiVersion"].(string)
	kind, _ := m["kind"].(string)
	meta, _ := m["metadata"].(map[string]any)
	name, _ := meta["name"].(string)
	namespace, _ := meta["namespace"].(string)
	group, version := resid.ParseGroupVersion(apiVersion)
	return resid.NewResIdWithNamespace(resid.NewGvk(group, version, kind), name, namespace)
}

// place sets the namespace as kustomize's namespace transformer does: on every
// object that is not certainly of the cluster, and on subjects named default.
func (p *plainList) place() bool {
	if p.namespace != "" {
		clear(p.ids)
		for _, d := range p.found {
			if !p.move(d.value) || !p.enter(d.value) {
				return false
			}
		}
	}
	return p.settled()
}

func (p *plainList) move(m map[string]any) bool {
	id := identity(m)
	switch id.Kind {
	case "Namespace": // it would be renamed
		return false
	case "CustomResourceDefinition": // its webhook's namespace would be set
		if spec, _ := m["spec"].(map[string]any); spec["conversion"] != nil {
			return false
		}
	case "RoleBinding", "ClusterRoleBinding":
		for _, s := range asList(m["subjects"]) {
			if subject, ok := s.(map[string]any); ok && subject["name"] == "default" {
				subject["namespace"] = p.namespace
			}
		}
	}
	if meta, ok := m["metadata"].(map[string]any); ok && !id.IsClusterScoped() {
		meta["namespace"] = p.namespace
	}
	return p.limits.spend(len(p.namespace)+16) == nil
}

// settled reports whether every subject that names a service account of the
// list has its namespace already: kustomize would set it.
func (p *plainList) settled() bool {
	accounts := map[string][]string{} // namespaces, by name
	for _, d := range p.found {
		if id := identity(d.value); id.Kind == "ServiceAccount" && id.Namespace != "" {
			accounts[id.Name] = append(accounts[id.Name], id.Namespace)
		}
	}
	for _, d := range p.found {
		if kind := d.value["kind"]; kind != "RoleBinding" && kind != "ClusterRoleBinding" {
			continue
		}
		if !settledSubjects(d.value["subjects"], accounts) {
			return false
		}
	}
	return true
}

func settledSubjects(subjects any, accounts map[string][]string) bool {
	if _, isList := subjects.([]any); subjects != nil && !isList {
		return false
	}
	for _, s := range asList(subjects) {
		subject, _ := s.(map[string]any)
		name, ok := subject["name"].(string)
		if !ok {
			return false
		}
		for _, namespace := range accounts[name] {
			if subject["namespace"] != namespace {
				return false
			}
		}
	}
	return true
}

func asList(v any) []any {
	list, _ := v.([]any)
	return list
}
