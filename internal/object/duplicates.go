package object

import (
	"fmt"
	"strings"

	"github.com/holdfastcd/holdfast/internal/schema"
)

// unite leaves one item of each key in every list that l describes below value,
// which path leads to, and returns a warning for each item that goes. The last
// item of a key wins, as in a running pod's environment, in the place of the
// first, so that what refers to it still stands behind it.
func unite(value any, path string, rest []string, l schema.List) []string {
	switch v := value.(type) {
	case []any:
		var warnings []string
		for i, item := range v {
			warnings = append(warnings, unite(item, fmt.Sprintf("%s[%d]", path, i), rest, l)...)
		}
		return warnings
	case map[string]any:
		next, below := rest[0], rest[1:]
		if len(below) > 0 {
			return unite(v[next], join(path, next), below, l)
		}
		list, ok := v[next].([]any)
		if !ok {
			return nil
		}
		kept, warnings := distinct(list, join(path, next), l)
		v[next] = kept
		return warnings
	}
	return nil
}

func join(path, field string) string {
	if path == "" {
		return field
	}
	return path + "." + field
}

func distinct(list []any, path string, l schema.List) ([]any, []string) {
	var warnings []string
	kept := make([]any, 0, len(list))
	at := make(map[string]int, len(list))
	for _, item := range list {
		key, ok := keyOf(item, l.Keys)
		first, double := at[key]
		switch {
		case !ok: // the API server's refusal says more than ours would
			kept = append(kept, item)
		case double:
			warnings = append(warnings, fmt.Sprintf("%s: there are two items of %s; the last one counts", path, key))
			kept[first] = joined(kept[first], item, l.Join)
		default:
			at[key] = len(kept)
			kept = append(kept, item)
		}
	}
	return kept, warnings
}

// keyOf renders the key of an item; false if it has none.
func keyOf(item any, keys []schema.Key) (string, bool) {
	if len(keys) == 0 {
		s, ok := item.(string)
		return s, ok
	}
	m, ok := item.(map[string]any)
	if !ok {
		return "", false
	}
	parts := make([]string, 0, len(keys))
	for _, k := range keys {
		v := m[k.Field]
		if v == nil && k.Default == "" {
			return "", false
		}
		if v == nil {
			v = k.Default
		}
		parts = append(parts, fmt.Sprintf("%s %v", k.Field, v))
	}
	return strings.Join(parts, ", "), true
}

// joined is the last of two items of one key, with both their lists of the given name.
func joined(first, last any, list string) any {
	a, _ := first.(map[string]any)
	b, _ := last.(map[string]any)
	if list == "" || a == nil || b == nil {
		return last
	}
	x, _ := a[list].([]any)
	y, _ := b[list].([]any)
	b[list] = append(append([]any{}, x...), y...)
	return b
}
