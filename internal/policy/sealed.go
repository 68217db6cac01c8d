package policy

import (
	"encoding/base64"

	"github.com/holdfastcd/holdfast/internal/object"
)

// MarkSealed notes which Secrets of a case stand sealed in their source: all of their
// values do. objects are those that the case was made of, with their values; sealed tells
// whether a value of a Secret came of something sealed, and is asked for what is base64
// both ways.
func (c *Case) MarkSealed(objects []object.Object, sealed func(id object.ID, value string) bool) {
	for i := range objects {
		if id := objects[i].ID(); i < len(c.Subjects) && id.Group == "" && id.Kind == "Secret" {
			c.Subjects[i].Sealed = allSealed(objects[i].Object, func(value string) bool { return sealed(id, value) })
		}
	}
}

// allSealed reports whether each value of a Secret is sealed. Where nothing is, nothing is
// in plaintext either.
func allSealed(o map[string]any, sealed func(value string) bool) bool {
	for _, field := range []string{"data", "stringData"} {
		values, ok := o[field].(map[string]any)
		if !ok && o[field] != nil {
			return false
		}
		for _, v := range values {
			text, isText := v.(string)
			decoded, err := base64.StdEncoding.DecodeString(text)
			is := text == "" || sealed(text) || field == "data" && err == nil && sealed(string(decoded))
			if !isText && v != nil || !is {
				return false
			}
		}
	}
	return true
}
