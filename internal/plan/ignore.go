package plan

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/object"
)

// Ignore names fields of some objects that a delivery leaves to whoever sets
// them in the cluster. Empty selectors match everything; all may hold stars.
type Ignore struct {
	Group, Kind, Namespace, Name string
	Core                         bool     // the group is the core group, which has no name
	Pointers                     []string // JSON pointers (RFC 6901)
	Paths                        []string // jq paths, see CompileIgnores
	Managers                     []string // every field that one of these field managers owns
	// Respect leaves the fields alone also where the object is applied for another
	// reason; otherwise they are only left out where it is compared (Argo CD's
	// RespectIgnoreDifferences).
	Respect bool
}

// Bounds of what is ignored.
const (
	maxIgnores    = 1000 // rules of a delivery
	maxExpression = 2048 // bytes of a path
)

// Ignores are rules about ignored fields, ready for use.
type Ignores []*ignore

type ignore struct {
	Ignore

	queries []query
}

// CompileIgnores reads rules. Paths are a part of jq's path expressions: .a.b,
// .a["b"], .a[0], .a[], each with a question mark or without, joined by pipes,
// commas and //, and select() with comparisons to values, startswith, endswith,
// not, and, or. Nothing of a path ever runs as a program, and a path that an
// object does not have matches nothing. Errors are *fault.Error: Unsupported for
// anything else of jq, Invalid for what is neither, Limit for too much.
func CompileIgnores(rules []Ignore) (Ignores, error) {
	if len(rules) > maxIgnores {
		return nil, fault.New(fault.Limit, "there are more than %d rules about ignored fields", maxIgnores)
	}
	all := make(Ignores, 0, len(rules))
	for _, r := range rules {
		compiled := &ignore{Ignore: r}
		for _, p := range r.Pointers {
			q, err := pointer(p)
			if err != nil {
				return nil, err
			}
			compiled.queries = append(compiled.queries, q)
		}
		for _, p := range r.Paths {
			q, err := parsePath(p)
			if err != nil {
				return nil, err
			}
			compiled.queries = append(compiled.queries, q)
		}
		all = append(all, compiled)
	}
	return all, nil
}

// pointer reads a JSON pointer.
func pointer(text string) (query, error) {
	rest, ok := strings.CutPrefix(text, "/")
	switch {
	case len(text) > maxExpression:
		return nil, fault.New(fault.Limit, "an ignored JSON pointer has more than %d bytes", maxExpression)
	case !ok || rest == "":
		return nil, fault.New(fault.Invalid, "%q is no JSON pointer to a field", text).WithHint("begin it with a slash: /spec/replicas")
	case rest == "metadata":
		return nil, fault.New(fault.Unsupported, "all of metadata cannot be ignored").WithHint("name the fields, such as /metadata/labels")
	}
	var steps []string
	for step := range strings.SplitSeq(rest, "/") {
		steps = append(steps, strings.NewReplacer("~1", "/", "~0", "~").Replace(step))
	}
	return func(in found) []found {
		for _, step := range steps {
			next := in.field(step)
			if i, err := strconv.Atoi(step); err == nil && len(next) == 0 {
				next = in.index(i)
			}
			if len(next) == 0 {
				return nil
			}
			in = next[0]
		}
		return []found{in}
	}, nil
}

// For returns what the rules say about one object; nil if they say nothing. Labels
// and annotations of the names in kept are never ignored: they are the delivery's marks.
func (all Ignores) For(id object.ID, kept ...string) *Ignored {
	i := &Ignored{kept: kept}
	for _, r := range all {
		if (r.Core && id.Group == "" || !r.Core && glob(r.Group, id.Group)) && glob(r.Kind, id.Kind) && glob(r.Namespace, id.Namespace) && glob(r.Name, id.Name) {
			i.rules = append(i.rules, r)
		}
	}
	if len(i.rules) == 0 {
		return nil
	}
	return i
}

// glob matches a name against a pattern with stars; an empty one matches all.
func glob(pattern, name string) bool {
	parts := strings.Split(pattern, "*")
	if pattern == "" || len(parts) == 1 {
		return pattern == "" || pattern == name
	}
	rest, ok := strings.CutPrefix(name, parts[0])
	if !ok {
		return false
	}
	last := parts[len(parts)-1]
	for _, part := range parts[1 : len(parts)-1] {
		at := strings.Index(rest, part)
		if at < 0 {
			return false
		}
		rest = rest[at+len(part):]
	}
	return strings.HasSuffix(rest, last)
}

// Ignored are the ignored fields of one object. A nil one ignores nothing.
type Ignored struct {
	rules []*ignore
	kept  []string
}

// Respected reports whether some of the fields are left alone also in an apply.
func (i *Ignored) Respected() bool {
	return i != nil && slices.ContainsFunc(i.rules, func(r *ignore) bool { return r.Respect })
}

// Without returns a copy of content without the fields that pointers and paths
// name; nil if it has none of them.
func (i *Ignored) Without(content map[string]any) map[string]any {
	if i == nil {
		return nil
	}
	ways := i.ways(content, false)
	if len(ways) == 0 {
		return nil
	}
	bare := runtime.DeepCopyJSON(content)
	i.drop(bare, ways)
	return bare
}

// Clear removes the ignored fields from a live object and from what an apply
// would make of it, those of managers as the live object has them.
func (i *Ignored) Clear(live, dry *unstructured.Unstructured) {
	if i == nil {
		return
	}
	var others []object.Path
	for _, r := range i.rules {
		others = append(others, i.spare(ownedBy(live, func(m metav1.ManagedFieldsEntry) bool {
			return slices.Contains(r.Managers, m.Manager)
		}).Leaves())...)
	}
	for _, o := range []*unstructured.Unstructured{live, dry} {
		i.drop(o.Object, i.ways(o.Object, false))
		for _, p := range others {
			p.Delete(o.Object)
		}
	}
}

// drop removes the fields at ways, the last items of a list first, so that the
// others keep their places.
func (i *Ignored) drop(content map[string]any, ways [][]any) {
	slices.SortFunc(ways, func(a, b []any) int { return compareWays(b, a) })
	for _, w := range ways {
		object.PathOf(w).Delete(content)
	}
}

// Settle makes body, a desired object, what is applied over live by manager:
// a respected field that others own is left out of it; one that manager alone
// owns has its live value, for it would be lost by omission; one that the live
// object does not have is left out. It reports whether a live value was taken
// over, which is good only for this version of the object.
func (i *Ignored) Settle(body map[string]any, live *unstructured.Unstructured, manager string) bool {
	ours := ownedBy(live, func(m metav1.ManagedFieldsEntry) bool { return isOurs(m, manager) })
	others := ownedBy(live, func(m metav1.ManagedFieldsEntry) bool { return !isOurs(m, manager) })
	adopted := false
	for _, p := range i.respected(body, live, ours.Union(others)) {
		value, there := p.Get(live.Object)
		switch {
		case newItem(p, live.Object):
		case there && ours.Has(p) && !others.Has(p):
			adopted = p.Set(body, runtime.DeepCopyJSONValue(value)) || adopted
		default:
			p.Delete(body)
		}
	}
	return adopted
}

func isOurs(m metav1.ManagedFieldsEntry, manager string) bool {
	return m.Manager == manager && m.Operation == metav1.ManagedFieldsOperationApply
}

// newItem reports whether p leads through an item of a list that live does not
// have: such an item is as new as an object that is created.
func newItem(p object.Path, live map[string]any) bool {
	for n, step := range p {
		if strings.HasPrefix(step, "f:") {
			continue
		}
		if _, ok := p[:n+1].Get(live); !ok {
			return true
		}
	}
	return false
}

// respected returns the respected fields of body and live, by their leaves. A
// list that is owned as a whole is one leaf.
func (i *Ignored) respected(body map[string]any, live *unstructured.Unstructured, owned object.Owned) []object.Path {
	var paths []object.Path
	for _, content := range []map[string]any{body, live.Object} {
		for _, w := range i.ways(content, true) {
			if p, ok := owned.Locate(content, w); ok { // otherwise it is as new as what is created
				paths = append(paths, p)
			}
		}
	}
	for _, r := range i.rules {
		if r.Respect {
			paths = append(paths, i.spare(ownedBy(live, func(m metav1.ManagedFieldsEntry) bool {
				return slices.Contains(r.Managers, m.Manager)
			}).Leaves())...)
		}
	}
	var leaves []object.Path
	for _, p := range paths {
		leaves = append(leaves, spread(p, body, live.Object)...)
	}
	slices.SortFunc(leaves, slices.Compare[object.Path])
	return slices.CompactFunc(leaves, slices.Equal[object.Path])
}

// spread replaces a map by the fields that it has in one of the contents.
func spread(p object.Path, contents ...map[string]any) []object.Path {
	var all []object.Path
	for _, content := range contents {
		v, _ := p.Get(content)
		fields, ok := v.(map[string]any)
		if !ok {
			continue
		}
		for name := range fields {
			all = append(all, spread(append(slices.Clone(p), "f:"+name), contents...)...)
		}
	}
	if len(all) == 0 {
		all = append(all, p)
	}
	return all
}

// ways returns where pointers and paths of the rules lead in content.
func (i *Ignored) ways(content map[string]any, respected bool) [][]any {
	if i == nil {
		return nil
	}
	var all [][]any
	for _, r := range i.rules {
		if respected && !r.Respect {
			continue
		}
		for _, q := range r.queries {
			for _, f := range q(found{value: content}) {
				all = append(all, i.guard(f)...)
			}
		}
	}
	slices.SortFunc(all, compareWays)
	return slices.CompactFunc(all, func(a, b []any) bool { return compareWays(a, b) == 0 })
}

// guard keeps an object's identity and the marks of its delivery from being ignored.
func (i *Ignored) guard(f found) [][]any {
	names, _ := f.value.(map[string]any)
	switch {
	case len(f.way) == 0 || len(f.way) == 1 && (f.way[0] == "metadata" || f.way[0] == "kind" || f.way[0] == "apiVersion"):
		return nil
	case f.way[0] != "metadata":
		return [][]any{f.way}
	case f.way[1] == "name", f.way[1] == "namespace":
		return nil
	case f.way[1] != "labels" && f.way[1] != "annotations":
		return [][]any{f.way}
	case len(f.way) > 2:
		if name, _ := f.way[2].(string); slices.Contains(i.kept, name) {
			return nil
		}
		return [][]any{f.way}
	}
	var all [][]any
	for name := range names {
		if !slices.Contains(i.kept, name) {
			all = append(all, append(slices.Clone(f.way), name))
		}
	}
	return all
}

// spare leaves out of paths the marks of the delivery, and the keys of list items.
func (i *Ignored) spare(paths []object.Path) []object.Path {
	return slices.DeleteFunc(paths, func(p object.Path) bool {
		last := strings.TrimPrefix(p[len(p)-1], "f:")
		mark := len(p) == 3 && p[0] == "f:metadata" && slices.Contains(i.kept, last)
		key := len(p) > 1 && strings.HasPrefix(p[len(p)-2], "k:") && strings.Contains(p[len(p)-2], text(last)+":")
		return mark || key
	})
}

// ownedBy returns the fields in the entries of o's managedFields that pick chooses.
func ownedBy(o *unstructured.Unstructured, pick func(metav1.ManagedFieldsEntry) bool) object.Owned {
	return object.OwnedIn(slices.DeleteFunc(o.GetManagedFields(), func(m metav1.ManagedFieldsEntry) bool { return !pick(m) }))
}

// compareWays orders ways: by their steps, numbers by size.
func compareWays(a, b []any) int {
	return slices.CompareFunc(a, b, func(x, y any) int {
		i, isX := x.(int)
		j, isY := y.(int)
		if isX && isY {
			return i - j
		}
		return strings.Compare(text(x), text(y))
	})
}

// text renders a step or a value for comparison.
func text(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return ""
	}
	return string(b)
}
