package why

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/holdfastcd/holdfast/internal/audit"
	"github.com/holdfastcd/holdfast/internal/audit/remote"
	"github.com/holdfastcd/holdfast/internal/object"
)

// slack is how much later than its outcome a request may be noted by the API server,
// whose clock is another and counts whole seconds.
const slack = 2 * time.Second

// driftLinks tell what became of the object since it was applied: what the log saw,
// and what the live object shows.
func driftLinks(managed *unstructured.Unstructured, sync *remote.Found, since, all []remote.Found) []Link {
	var links []Link
	for _, e := range since {
		if l, ok := event(e); ok {
			links = append(links, l)
		}
	}
	switch {
	case managed.GetUID() == "":
		if sync != nil {
			since = append([]remote.Found{*sync}, since...)
		}
		return append(links, gone(since))
	case sync == nil:
		return append(links, Link{Name: LinkDrift, State: Unproven, Text: []string{"What was applied is not known, so nothing can be compared."}})
	}
	links = append(links, compare(managed, *sync, since))
	if still := added(managed, all); len(still) > 0 {
		links = append(links, Link{
			Name: LinkDrift, State: Unproven, By: "the log, and the live object",
			Text: append([]string{"Others added fields that are still there, and that nothing delivered asks for:"}, first(still, 12)...),
		})
	}
	return links
}

// added names the fields that others added at any time, as the log saw, and that
// somebody still owns. What is delivered does not take them away, unless it is strict.
func added(managed *unstructured.Unstructured, found []remote.Found) []string {
	var live, list []string
	for _, e := range managed.GetManagedFields() {
		if e.Subresource != "status" {
			live = append(live, fields(e)...)
		}
	}
	seen := map[string]bool{}
	for _, f := range found { // the newest first: it knows who was the last
		if f.Change == nil {
			continue
		}
		for _, name := range f.Change.Added {
			there := slices.ContainsFunc(live, func(l string) bool {
				rest, below := strings.CutPrefix(l, name)
				return below && (rest == "" || rest[0] == '.' || rest[0] == '[')
			})
			if !there || seen[name] {
				continue
			}
			seen[name] = true
			if f.Change.By != "" {
				name += ", by " + f.Change.By
			}
			list = append(list, name)
		}
	}
	return list
}

// event tells one later entry of the log.
func event(e remote.Found) (Link, bool) {
	l := Link{Name: LinkDrift, State: Proven, By: entry(e)}
	switch e.Entry.Action {
	case audit.Drift:
		l.Text = []string{"edited " + stamp(e.Entry.Time)}
	case audit.Revert:
		l.Text = []string{"reverted " + stamp(e.Entry.Time)}
		if e.Outcome != nil {
			l.Text[0] += ": " + e.Outcome.Entry.Result
		}
	case audit.Retract:
		l.Text = []string{"its delivery was deleted " + stamp(e.Entry.Time)}
	case audit.Sync:
		l.State = Unproven
		l.Text = []string{"a sync since then did not reach it, " + stamp(e.Entry.Time)}
	default:
		return Link{}, false
	}
	c := e.Change
	if c == nil {
		return l, true
	}
	switch {
	case c.By == "":
	case e.Entry.Action == audit.Revert:
		l.Text = append(l.Text, "It had been changed by "+c.By+".")
	default:
		l.Text[0] += ", by " + c.By
	}
	if len(c.Fields) > 0 {
		l.Text = append(l.Text, "fields "+strings.Join(first(c.Fields, 12), ", "))
	}
	if len(c.Added) > 0 {
		l.Text = append(l.Text, "added "+strings.Join(first(c.Added, 12), ", "))
	}
	return l, true
}

// gone tells what is known of an object that is not there.
func gone(since []remote.Found) Link {
	for _, e := range slices.Backward(since) {
		if e.Change != nil && (e.Change.Operation == opPrune || e.Entry.Action == audit.Retract) {
			return Link{Name: LinkDrift, State: Proven, Text: []string{"It was pruned " + stamp(e.Entry.Time) + "."}, By: entry(e)}
		}
	}
	return Link{Name: LinkDrift, State: Broken, Text: []string{"It was applied, and it is gone; the log does not say by whom."}, By: "the API server"}
}

// compare holds the live object against what was applied last.
func compare(managed *unstructured.Unstructured, sync remote.Found, since []remote.Found) Link {
	last := sync
	for _, e := range since {
		if e.Entry.Action == audit.Revert && e.Change != nil {
			last = e
		}
	}
	l := Link{Name: LinkDrift, State: Unproven, By: "the live object"}
	want := sync.Change.After
	others := writers(managed, last)
	if asApplied(managed, want) {
		l.State, l.By = Proven, "the digest of "+entry(sync)
		l.Text = []string{"Its fields are those that were applied."}
		if len(others) > 0 {
			l.State = Unproven
			l.Text = append(l.Text, "Fields beside them were written by "+strings.Join(others, "; "))
		}
		return l
	}
	if len(others) > 0 {
		l.Text = []string{"changed since it was applied, by " + strings.Join(others, "; ")}
		if want == "" || keyed(want) {
			l.Text = append(l.Text, "Whether fields that were applied changed cannot be told here.")
			return l
		}
		l.State = Broken
		return l
	}
	l.Text = []string{"Nobody else has written it since it was applied."}
	switch {
	case want == "":
		l.Text = append(l.Text, "Its digest is not recorded.")
	case keyed(want):
		l.Text = append(l.Text, "Its digest is keyed, because it holds a secret: only the controller can compare it.")
	default:
		l.Text = append(l.Text, "Its digest is not the recorded one, as where the API server writes a value in another form.")
	}
	return l
}

func keyed(digest string) bool { return strings.HasPrefix(digest, "hmac-") }

// writers names the field managers that wrote the object after it was applied, with
// when and what; status apart.
func writers(u *unstructured.Unstructured, last remote.Found) []string {
	applied := last.Entry.Time
	if last.Outcome != nil {
		applied = last.Outcome.Entry.Time
	}
	var list []string
	for _, e := range u.GetManagedFields() {
		if e.Subresource == "status" || e.Time == nil || !e.Time.After(applied.Add(slack)) || statusOnly(e) {
			continue
		}
		list = append(list, fmt.Sprintf("%s, %s (%s)", e.Manager, stamp(e.Time.Time), strings.Join(first(fields(e), 6), ", ")))
	}
	return list
}

// statusOnly reports whether an entry is about what controllers report, on kinds
// that have no subresource for it.
func statusOnly(e metav1.ManagedFieldsEntry) bool {
	owned := object.OwnedIn([]metav1.ManagedFieldsEntry{e})
	delete(owned, "f:status")
	return len(owned.Leaves()) == 0
}

// fields renders the fields of an entry as people write them.
func fields(e metav1.ManagedFieldsEntry) []string {
	var list []string
	for _, path := range object.OwnedIn([]metav1.ManagedFieldsEntry{e}).Leaves() {
		var b strings.Builder
		for _, step := range path {
			b.WriteString(stepName(step))
		}
		list = append(list, strings.TrimPrefix(b.String(), "."))
	}
	return list
}

// stepName renders one step: .name, [key=value] for an item of a list.
func stepName(step string) string {
	kind, name, _ := strings.Cut(step, ":")
	if kind == "f" {
		return "." + name
	}
	var key map[string]any
	if kind != "k" || json.Unmarshal([]byte(name), &key) != nil {
		return "[" + name + "]"
	}
	parts := make([]string, 0, len(key))
	for _, k := range slices.Sorted(maps.Keys(key)) {
		parts = append(parts, fmt.Sprintf("%s=%v", k, key[k]))
	}
	return "[" + strings.Join(parts, ",") + "]"
}

// asApplied reports whether the fields that one of the appliers owns, as they are
// now, are what was applied: their JSON has the digest.
func asApplied(u *unstructured.Unstructured, want string) bool {
	if !strings.HasPrefix(want, "sha256:") {
		return false
	}
	for _, e := range u.GetManagedFields() {
		if e.Operation != metav1.ManagedFieldsOperationApply || e.Subresource != "" || e.FieldsV1 == nil {
			continue
		}
		owned, err := object.ParseOwned(e.FieldsV1.GetRawBytes())
		if err != nil {
			continue
		}
		body, err := json.Marshal(applied(u, owned))
		if err != nil {
			continue
		}
		sum := sha256.Sum256(bytes.TrimSpace(body))
		if "sha256:"+hex.EncodeToString(sum[:]) == want {
			return true
		}
	}
	return false
}

// applied returns the object with the fields in owned alone, and what names it.
func applied(u *unstructured.Unstructured, owned object.Owned) map[string]any {
	part, _ := pick(u.Object, owned).(map[string]any)
	if part == nil {
		part = map[string]any{}
	}
	part["apiVersion"], part["kind"] = u.GetAPIVersion(), u.GetKind()
	metadata, _ := part["metadata"].(map[string]any)
	if metadata == nil {
		metadata = map[string]any{}
	}
	metadata["name"] = u.GetName()
	if u.GetNamespace() != "" {
		metadata["namespace"] = u.GetNamespace()
	}
	part["metadata"] = metadata
	return part
}

// pick returns the part of content that owned names; nil if there is none.
func pick(content any, owned object.Owned) any {
	if len(owned) == 0 {
		return content // with all that it holds
	}
	switch c := content.(type) {
	case map[string]any:
		part := map[string]any{}
		for name, value := range c {
			if below, ok := owned["f:"+name]; ok {
				part[name] = pick(value, set(below))
			}
		}
		return part
	case []any:
		part := []any{}
		for _, item := range c {
			if path, ok := owned.Locate([]any{item}, []any{0}); ok && len(path) == 1 {
				part = append(part, pick(item, set(owned[path[0]])))
			}
		}
		return part
	}
	return content
}

func set(v any) object.Owned {
	m, _ := v.(map[string]any)
	return m
}
