package builtin

import (
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"github.com/holdfastcd/holdfast/test/harness"
)

// The API server's own admission says the same of the same Pods.
func TestStandardsOfTheAPIServer(t *testing.T) {
	cluster := harness.Shared(t)
	compared := 0
	for level, findings := range map[string]func(standardRow) []string{
		"baseline":   func(r standardRow) []string { return r.baseline },
		"restricted": func(r standardRow) []string { return r.restricted },
	} {
		ns := cluster.Namespace(t)
		patch := `{"metadata":{"labels":{"pod-security.kubernetes.io/enforce":"` + level + `"}}}`
		if _, err := cluster.Dynamic().Resource(harness.Namespaces).Patch(t.Context(), ns, types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
		for _, row := range standardRows {
			pod := &unstructured.Unstructured{Object: row.pod(t)}
			pod.SetNamespace(ns)
			_, err := cluster.Dynamic().Resource(harness.Pods).Namespace(ns).Create(t.Context(), pod, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
			refused := apierrors.IsForbidden(err) && strings.Contains(err.Error(), "violates PodSecurity")
			if err != nil && !refused {
				t.Logf("%s, %s: not compared, for it is refused for other reasons: %v", level, row.name, err)
				continue
			}
			compared++
			if want := len(findings(row)) > 0; refused != want {
				t.Errorf("%s, %s: the API server refuses it: %v, and %q is found: %s: %v", level, row.name, refused, findings(row), row.reason, err)
			}
		}
	}
	if all := 2 * len(standardRows); compared < all*8/10 {
		t.Errorf("only %d of %d were compared", compared, all)
	}
	t.Logf("%d Pods compared", compared)
}
