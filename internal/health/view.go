package health

import (
	"encoding/json"
	"math"
	"strings"
)

// view reads an object of unknown shape by dotted paths. What is absent or null
// reads as zero. What has the wrong type reads as zero, too, and is remembered, so
// that no rule has to check and none can overlook it.
type view struct {
	fields map[string]any
	at     string  // path of fields in the object
	odd    *string // the first path with a wrong type
}

func look(fields map[string]any) view {
	return view{fields: fields, odd: new(string)}
}

// maxMessage bounds what an object may say about itself: a verdict is kept for every
// object and shown in lists.
const maxMessage = 500

// settle returns the verdict of a rule with its message bounded, unless the rule read a
// field of the wrong type.
func (v view) settle(verdict Verdict) Verdict {
	if *v.odd == "" {
		if len(verdict.Message) > maxMessage {
			verdict.Message = strings.ToValidUTF8(verdict.Message[:maxMessage], "") + "…"
		}
		return verdict
	}
	return Verdict{Status: Unknown, Message: "field " + *v.odd + " has an unexpected type"}
}

func (v view) wrong(path string) {
	if *v.odd == "" {
		*v.odd = v.at + path
	}
}

// get returns what is at path, nil when there is nothing.
func (v view) get(path string) any {
	fields, rest := v.fields, path
	for {
		head, tail, more := strings.Cut(rest, ".")
		value := fields[head]
		if !more || value == nil {
			return value
		}
		next, ok := value.(map[string]any)
		if !ok {
			v.wrong(strings.TrimSuffix(path, "."+tail))
			return nil
		}
		fields, rest = next, tail
	}
}

func (v view) has(path string) bool { return v.get(path) != nil }

func (v view) str(path string) string {
	value := v.get(path)
	s, ok := value.(string)
	if !ok && value != nil {
		v.wrong(path)
	}
	return s
}

func (v view) yes(path string) bool {
	value := v.get(path)
	b, ok := value.(bool)
	if !ok && value != nil {
		v.wrong(path)
	}
	return b
}

// num returns a whole number, 0 when there is none.
func (v view) num(path string) int64 {
	switch n := v.get(path).(type) {
	case nil:
		return 0
	case int64:
		return n
	case int:
		return int64(n)
	case float64: // objects read from YAML without a schema
		if n == math.Trunc(n) && math.Abs(n) < 1<<53 {
			return int64(n)
		}
	case json.Number:
		if i, err := n.Int64(); err == nil {
			return i
		}
	}
	v.wrong(path)
	return 0
}

// list returns the objects of a list.
func (v view) list(path string) []view {
	value := v.get(path)
	items, ok := value.([]any)
	if !ok && value != nil {
		v.wrong(path)
	}
	views := make([]view, 0, len(items))
	for _, item := range items {
		fields, ok := item.(map[string]any)
		if !ok {
			v.wrong(path)
			continue
		}
		views = append(views, view{fields: fields, at: v.at + path + "[].", odd: v.odd})
	}
	return views
}

// annotation returns the value of an annotation, whose name has dots in it.
func (v view) annotation(name string) string {
	value := v.get("metadata.annotations")
	all, ok := value.(map[string]any)
	if !ok && value != nil {
		v.wrong("metadata.annotations")
	}
	return view{fields: map[string]any{"value": all[name]}, at: "metadata.annotations ", odd: v.odd}.str("value")
}

// condition is one entry of status.conditions.
type condition struct {
	kind, status, reason, message string
	generation                    int64 // 0 when it does not say
}

// holds reports whether a condition is there and true.
func (c condition) holds() bool { return c.status == "True" }

// text is what a condition tells people.
func (c condition) text() string {
	if c.message != "" {
		return c.message
	}
	return c.reason
}

func (v view) conditions() []condition {
	entries := v.list("status.conditions")
	all := make([]condition, 0, len(entries))
	for _, c := range entries {
		all = append(all, condition{
			kind: c.str("type"), status: c.str("status"), reason: c.str("reason"),
			message: c.str("message"), generation: c.num("observedGeneration"),
		})
	}
	return all
}

// condition returns the first condition of a kind, the zero condition if there is none.
func (v view) condition(kind string) condition {
	for _, c := range v.conditions() {
		if c.kind == kind {
			return c
		}
	}
	return condition{}
}

// observed reports whether the controller of an object has seen its latest spec.
func (v view) observed() bool {
	return v.num("metadata.generation") <= v.num("status.observedGeneration")
}
