package e2e

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestCheckByCluster checks a repository against what a cluster serves: the scope of a
// kind that the repository does not define, and the labels of a namespace.
func TestCheckByCluster(t *testing.T) {
	w := theWorld(t)
	ns := w.tenant(t)
	w.apply(t, `apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: shelves.checked.example.com}
spec:
  group: checked.example.com
  scope: Namespaced
  names: {kind: Shelf, plural: shelves}
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, properties: {boards: {type: integer}}}}}}
`)
	t.Cleanup(func() {
		_ = w.cluster.Dynamic().Resource(definitions).Delete(context.Background(), "shelves.checked.example.com", metav1.DeleteOptions{})
	})
	dir := t.TempDir()
	write := func(name, text string) {
		must(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700))
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	write("repo/app.yaml", `{apiVersion: checked.example.com/v1, kind: Shelf, metadata: {name: oak, namespace: `+ns+`}, spec: {bords: 3}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: there, namespace: `+ns+`}}
`)
	write("rules/named.yaml", `{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingAdmissionPolicy, metadata: {name: named}, spec: {
  matchConstraints: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: `+ns+`}}, resourceRules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [configmaps]}]},
  validations: [{expression: "false", message: nothing may lie there}]}}
---
{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingAdmissionPolicyBinding, metadata: {name: named}, spec: {policyName: named, validationActions: [Deny]}}
`)
	check := func(more ...string) (string, int) {
		t.Helper()
		out, errs, code := w.holdfast(t, append([]string{"check", filepath.Join(dir, "repo"), "--no-cache"}, more...)...)
		return out + errs, code
	}
	if said, code := check(); code != 0 || !strings.Contains(said, "the schema is not known of Shelf") {
		t.Errorf("without a cluster the kind is not known: ended with %d and said\n%s", code, said)
	}
	said, code := check("--cluster", "--policy", filepath.Join(dir, "rules"))
	if code != 1 || !strings.Contains(said, `unknown field "bords"`) || !strings.Contains(said, "nothing may lie there") || !strings.Contains(said, "ConfigMap/"+ns+"/there") {
		t.Errorf("with it, both are: ended with %d and said\n%s", code, said)
	}
}
