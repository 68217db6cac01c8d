package check

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"

	"github.com/pmezard/go-difflib/difflib"
	k8sschema "k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/schema"
)

// The operations of a change.
const (
	Added   = "added"
	Removed = "removed"
	Altered = "changed"
)

// Change is an object that would be delivered otherwise than before.
type Change struct {
	Delivery  string `json:"delivery"`
	Object    string `json:"object"`
	Operation string `json:"operation"`
	File      string `json:"file,omitempty"`
	Line      int    `json:"line,omitempty"`
	// Diff is the difference of the object as YAML, without secret values.
	Diff string `json:"diff"`

	id object.ID
}

const (
	maxDiffed = 256 << 10 // bytes of an object that is compared line by line
	maxDiff   = 20 << 10  // bytes of a difference that are kept
)

// compareObjects returns what is different between two renderings of a delivery; nil
// stands for none.
func compareObjects(now, then *unit) []Change {
	var changes []Change
	before := map[object.ID]*object.Object{}
	if then != nil {
		for i := range then.rendered.Objects {
			before[then.rendered.Objects[i].ID()] = &then.rendered.Objects[i]
		}
	}
	text := func(s string) string {
		for _, u := range []*unit{now, then} {
			if u != nil {
				s = u.mask.Text(s)
			}
		}
		return s
	}
	if now != nil {
		for i := range now.rendered.Objects {
			o := &now.rendered.Objects[i]
			old := before[o.ID()]
			delete(before, o.ID())
			if old == nil || !equal(o, old) {
				changes = append(changes, newChange(now, o, old, text))
			}
		}
	}
	for _, old := range before {
		changes = append(changes, newChange(then, nil, old, text))
	}
	slices.SortStableFunc(changes, func(a, b Change) int { return object.Compare(a.id, b.id) })
	return changes
}

func equal(a, b *object.Object) bool {
	one, err := json.Marshal(a.Object)
	other, failed := json.Marshal(b.Object)
	return err == nil && failed == nil && string(one) == string(other)
}

func newChange(u *unit, o, old *object.Object, mask func(string) string) Change {
	c := Change{Delivery: u.name(), Operation: Altered}
	about := o
	switch {
	case o == nil:
		c.Operation, about = Removed, old
	case old == nil:
		c.Operation = Added
	}
	c.id = about.ID()
	c.Object, c.File, c.Line = c.id.String(), about.Origin.File, about.Origin.Line
	c.Diff = mask(difference(shown(old, o, "old"), shown(o, old, "new")))
	return c
}

// shown is an object as people read it. Secret values are hidden; that one differs from
// the other object's is told.
func shown(o, other *object.Object, which string) string {
	if o == nil {
		return ""
	}
	hidden := bare(o)
	for _, field := range []string{"data", "stringData"} {
		values, _ := hidden[field].(map[string]any)
		if o.GetKind() != "Secret" || o.GetAPIVersion() != "v1" {
			break
		}
		for key := range values {
			values[key] = "[secret]"
			if other != nil && !reflect.DeepEqual(value(o, field, key), value(other, field, key)) {
				values[key] = "[secret: " + which + " value]"
			}
		}
	}
	text, err := yaml.Marshal(hidden)
	if err != nil || len(text) > maxDiffed {
		return "# too large to be shown\n"
	}
	return string(text)
}

func value(o *object.Object, field, key string) any {
	values, _ := o.Object[field].(map[string]any)
	return values[key]
}

// difference is a unified diff, without its head.
func difference(before, after string) string {
	text, err := difflib.GetUnifiedDiffString(difflib.UnifiedDiff{A: lines(before), B: lines(after), Context: 3})
	if err != nil {
		return ""
	}
	for range 2 { // the names of files, of which there are none
		if strings.HasPrefix(text, "--- ") || strings.HasPrefix(text, "+++ ") {
			_, text, _ = strings.Cut(text, "\n")
		}
	}
	if len(text) > maxDiff {
		text = text[:strings.LastIndexByte(text[:maxDiff], '\n')+1] + "… and more\n"
	}
	return text
}

func lines(text string) []string {
	if text == "" {
		return nil
	}
	return strings.SplitAfter(strings.TrimSuffix(text, "\n")+"\n", "\n")[:strings.Count(strings.TrimSuffix(text, "\n"), "\n")+1]
}

// noKinds knows none: nothing of them is shown.
type noKinds struct{}

// Lookup implements schema.Kinds.
func (noKinds) Lookup(k8sschema.GroupVersionKind) (schema.Kind, bool) { return schema.Kind{}, false }
