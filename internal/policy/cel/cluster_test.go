package cel_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	kschema "k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/holdfastcd/holdfast/internal/policy"
	"github.com/holdfastcd/holdfast/internal/policy/cel"
)

func TestInEffect(t *testing.T) {
	const (
		rules   = `matchConstraints: {resourceRules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [pods]}]}`
		binding = `kind: ValidatingAdmissionPolicyBinding, metadata: {name: b}, spec: {policyName: p, validationActions: [Deny]`
	)
	of := func(old, now string) string {
		return `{kind: ValidatingAdmissionPolicy, metadata: {name: p}, spec: {` + strings.Replace(rules, old, now, 1) + `, paramKind: {apiVersion: v1, kind: ConfigMap}}}`
	}
	configMap := kschema.GroupVersionKind{Version: "v1", Kind: "ConfigMap"}
	tests := []struct {
		reason    string
		documents []string
		kept      string // by index
		params    []cel.Param
	}{
		{"a policy with its binding", []string{of("", ""), "{" + binding + "}}"}, "01", nil},
		{"a policy alone", []string{of("", "")}, "", nil},
		{"a binding alone", []string{"{" + binding + "}}"}, "", nil},
		{"a policy for deletion", []string{of("CREATE", "DELETE"), "{" + binding + "}}"}, "", nil},
		{"a policy for connecting", []string{of("CREATE", "CONNECT"), "{" + binding + "}}"}, "", nil},
		{"a policy for a subresource", []string{of("[pods]", "[pods/exec, pods/status]"), "{" + binding + "}}"}, "", nil},
		{"a policy for all that pods have", []string{of("[pods]", `["pods/*"]`), "{" + binding + "}}"}, "01", nil},
		{"a policy for every operation", []string{of("CREATE", `"*"`), "{" + binding + "}}"}, "01", nil},
		{"what cannot be read", []string{"{kind: [ValidatingAdmissionPolicy"}, "0", nil},
		{"what is something else", []string{"{kind: ConfigMap, metadata: {name: p}}"}, "0", nil},
		{
			"a parameter by name",
			[]string{of("", ""), "{" + binding + ", paramRef: {name: x, namespace: team, parameterNotFoundAction: Deny}}}"},
			"01",
			[]cel.Param{{Kind: configMap, Namespace: "team", Name: "x"}},
		},
		{
			"parameters by labels, where the object is",
			[]string{of("", ""), "{" + binding + ", paramRef: {selector: {matchLabels: {a: b}}, parameterNotFoundAction: Deny}}}"},
			"01",
			[]cel.Param{{Kind: configMap, Labels: "a=b"}},
		},
	}
	for _, tt := range tests {
		t.Run(tt.reason, func(t *testing.T) {
			var all []policy.Document
			for i, text := range tt.documents {
				all = append(all, policy.Document{File: string(rune('0' + i)), Content: []byte(text)})
			}
			kept, params := cel.InEffect(all)
			var files []string
			for _, d := range kept {
				files = append(files, d.File)
			}
			if got := strings.Join(files, ""); got != tt.kept || !slices.Equal(params, tt.params) {
				t.Errorf("kept %q, want %q; parameters: %s", got, tt.kept, cmp.Diff(tt.params, params))
			}
		})
	}
}
