package plan

import (
	"encoding/json"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/secret"
)

// Change is one field that a plan would change: from live to desired. Values
// are JSON; those of a Secret are never shown.
type Change struct {
	Path string `json:"path"`           // e.g. spec.template.spec.containers[0].image
	From string `json:"from,omitempty"` // empty if the field is added
	To   string `json:"to,omitempty"`   // empty if the field is removed
}

// hidden stands for a value that must not be shown.
const hidden = "(secret)"

// unmanaged are the fields that every write moves, or that no declaration holds.
var unmanaged = [][]string{
	{"metadata", "managedFields"},
	{"metadata", "resourceVersion"},
	{"metadata", "generation"},
	{"metadata", "uid"},
	{"metadata", "creationTimestamp"},
	{"status"},
	{"metadata", "annotations", "kubectl.kubernetes.io/last-applied-configuration"},
}

// Diff returns the fields in which live differs from desired, by path. Either
// may be nil, for an object that is created or deleted.
func Diff(live, desired *object.Object) []Change {
	return diff(live, desired, nil)
}

// Fields returns what an action of p changes, see [Diff], where its live object and a
// dry run are at hand. Of a field that holds a secret value, before or after, it tells
// that it changes and nothing else.
func (p Plan) Fields(a Action) []Change {
	if a.Observed.Live == nil || a.Observed.DryRun == nil {
		return nil
	}
	return diff(a.Observed.Live, a.Observed.DryRun, p.Mask)
}

func diff(live, desired *object.Object, mask *secret.Mask) []Change {
	from, to := managed(live), managed(desired)
	d := differ{secret: isSecret(live) || isSecret(desired), mask: mask}
	d.walk("", from, to)
	slices.SortFunc(d.changes, func(a, b Change) int { return strings.Compare(a.Path, b.Path) })
	return d.changes
}

func isSecret(o *object.Object) bool {
	return o != nil && o.GetKind() == "Secret" && o.GroupVersionKind().Group == ""
}

// managed returns a copy of o's content without the unmanaged fields.
func managed(o *object.Object) map[string]any {
	if o == nil {
		return map[string]any{}
	}
	content := o.DeepCopy().Object
	for _, path := range unmanaged {
		remove(content, path)
	}
	return content
}

// remove deletes the field at path, and maps that become empty by it.
func remove(m map[string]any, path []string) {
	if len(path) == 1 {
		delete(m, path[0])
		return
	}
	child, ok := m[path[0]].(map[string]any)
	if !ok {
		return
	}
	remove(child, path[1:])
	if len(child) == 0 {
		delete(m, path[0])
	}
}

type differ struct {
	secret  bool
	mask    *secret.Mask
	changes []Change
}

func (d *differ) walk(path string, from, to any) {
	switch f := from.(type) {
	case map[string]any:
		if t, ok := to.(map[string]any); ok {
			d.maps(path, f, t)
			return
		}
	case []any:
		if t, ok := to.([]any); ok && len(t) == len(f) {
			for i := range f {
				d.walk(fmt.Sprintf("%s[%d]", path, i), f[i], t[i])
			}
			return
		}
	}
	if !reflect.DeepEqual(from, to) {
		d.changes = append(d.changes, d.change(path, from, to))
	}
}

// change shows both values of a field, or neither. Where something is sealed, what was
// there before may have been, too, and is not shown if it is gone, or may be any text.
func (d *differ) change(path string, from, to any) Change {
	c := Change{Path: d.mask.Text(path), From: d.show(path, from), To: d.show(path, to)}
	if c.From != "" && d.mask.Sealed() && (c.To == "" || isText(path)) {
		c.From = hidden
	}
	if d.mask.Holds(c.From) || d.mask.Holds(c.To) {
		for _, shown := range []*string{&c.From, &c.To} {
			if *shown != "" {
				*shown = hidden
			}
		}
	}
	return c
}

// freeText are fields that may hold any text.
var freeText = regexp.MustCompile(`^(data|binaryData)\b|\.(env|args|command|annotations)\b`)

func isText(path string) bool { return freeText.MatchString(path) }

func (d *differ) maps(path string, from, to map[string]any) {
	for k, v := range from {
		d.walk(join(path, k), v, to[k])
	}
	for k, v := range to {
		if _, both := from[k]; !both {
			d.walk(join(path, k), nil, v)
		}
	}
}

// join extends a path by a key, quoting keys that hold dots or slashes.
func join(path, key string) string {
	if strings.ContainsAny(key, "./[]") {
		return fmt.Sprintf("%s[%q]", path, key)
	}
	if path == "" {
		return key
	}
	return path + "." + key
}

// show renders a value as JSON, unless it may be secret.
func (d *differ) show(path string, v any) string {
	if v == nil {
		return ""
	}
	if d.secret && !plainInSecret(path) {
		return hidden
	}
	b, err := json.Marshal(v)
	if err != nil {
		return hidden
	}
	return string(b)
}

// plainInSecret reports whether a top-level field of a Secret may be shown.
func plainInSecret(path string) bool {
	top, _, _ := strings.Cut(path, ".")
	return top == "metadata" || top == "type" || top == "kind" || top == "apiVersion" || top == "immutable"
}
