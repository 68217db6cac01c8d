package policy

import (
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/schema"
)

func TestMarkSealed(t *testing.T) {
	tests := []struct {
		object string
		want   bool
		reason string
	}{
		{"{apiVersion: v1, kind: Secret, metadata: {name: a}, stringData: {a: opened, b: opened}}", true, "all of it"},
		{"{apiVersion: v1, kind: Secret, metadata: {name: a}, stringData: {a: opened, b: plain}}", false, "one is in plaintext"},
		{"{apiVersion: v1, kind: Secret, metadata: {name: a}, data: {a: b3BlbmVk}}", true, "sealed before it was encoded"},
		{"{apiVersion: v1, kind: Secret, metadata: {name: a}, data: {a: opened-as-it-is}}", true, "sealed after it was encoded"},
		{"{apiVersion: v1, kind: Secret, metadata: {name: a}, stringData: {a: b3BlbmVk}}", false, "what is not base64 is not decoded"},
		{"{apiVersion: v1, kind: Secret, metadata: {name: a}, data: {a: cGxhaW4=}, stringData: {b: opened}}", false, "both fields count"},
		{"{apiVersion: v1, kind: Secret, metadata: {name: a}, data: {a: ''}}", true, "nothing is there"},
		{"{apiVersion: v1, kind: Secret, metadata: {name: made}, stringData: {a: plain}}", true, "made of a SealedSecret"},
		{"{apiVersion: v1, kind: Secret, metadata: {name: a}, stringData: [opened]}", false, "no form of a Secret"},
		{"{apiVersion: v1, kind: Secret, metadata: {name: a}, stringData: {a: 7}}", false, "no text"},
		{"{apiVersion: v1, kind: ConfigMap, metadata: {name: a}, data: {a: opened}}", false, "no Secret"},
	}
	for _, test := range tests {
		var o object.Object
		if err := yaml.Unmarshal([]byte(test.object), &o.Object); err != nil {
			t.Fatal(err)
		}
		objects := []object.Object{o}
		c := NewCase(objects, schema.Builtin(), nil, nil)
		c.MarkSealed(objects, func(id object.ID, value string) bool {
			return id.Name == "made" || strings.HasPrefix(value, "opened")
		})
		if c.Subjects[0].Sealed != test.want {
			t.Errorf("%s: sealed: %v, want %v: %s", test.object, c.Subjects[0].Sealed, test.want, test.reason)
		}
	}
}
