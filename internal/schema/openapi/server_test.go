package openapi

import (
	"os"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	kschema "k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/holdfastcd/holdfast/internal/schema"
	"github.com/holdfastcd/holdfast/test/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

// dryRun asks the API server what it says of an object with strict validation; "" if
// it would take it.
func dryRun(t *testing.T, cluster *harness.Cluster, kinds schema.Kinds, namespace string, o map[string]any) string {
	t.Helper()
	u := &unstructured.Unstructured{Object: o}
	kind, ok := kinds.Lookup(u.GroupVersionKind())
	if !ok {
		t.Fatalf("%s is not known", u.GroupVersionKind())
	}
	resource := cluster.Dynamic().Resource(kind.GVR())
	create := resource.Create
	if kind.Namespaced {
		create = resource.Namespace(namespace).Create
	}
	_, err := create(t.Context(), u.DeepCopy(), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}, FieldValidation: metav1.FieldValidationStrict})
	if err != nil {
		return err.Error()
	}
	return ""
}

// TestServer compares with a real API server: what is bad here is refused there for
// the same reason, and what is taken there is good here.
func TestServer(t *testing.T) {
	cluster := harness.Shared(t)
	namespace := cluster.Namespace(t)
	for _, tt := range bad {
		t.Run(tt.name, func(t *testing.T) {
			if got := dryRun(t, cluster, schema.Builtin(), namespace, read(t, tt.object)[0]); !strings.Contains(got, tt.strict) || got == "" {
				t.Errorf("the API server says %q, and not %q", got, tt.strict)
			}
		})
	}
	data, err := os.ReadFile("../defaults/testdata/corpus.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range read(t, string(data)) {
		if got := dryRun(t, cluster, schema.Builtin(), namespace, o); got != "" {
			t.Errorf("TestCorpus takes a bad object for a good one: %s", got)
		}
	}
}

// TestCustomServer does so for custom resources, with the definition of the table.
func TestCustomServer(t *testing.T) {
	cluster := harness.Shared(t)
	namespace := cluster.Namespace(t)
	definition := read(t, definition)[0]
	resource := cluster.Dynamic().Resource(kschema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"})
	if _, err := resource.Create(t.Context(), &unstructured.Unstructured{Object: definition}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	cluster.Await(t, kschema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}, "", "widgets.example.com", "to be served", served)
	kinds := schema.FromCRD(&unstructured.Unstructured{Object: definition})
	for _, tt := range custom {
		t.Run(tt.name, func(t *testing.T) {
			got := dryRun(t, cluster, kinds, namespace, widget(t, tt.spec))
			if (got == "") != (len(tt.want) == 0) || !strings.Contains(got, tt.strict) {
				t.Errorf("the API server says %q, and not %q", got, tt.strict)
			}
		})
	}
}

// served is the condition that a definition's kind can be used.
func served(o *unstructured.Unstructured) bool {
	if o == nil {
		return false
	}
	conditions, _, _ := unstructured.NestedSlice(o.Object, "status", "conditions")
	for _, c := range conditions {
		if condition, ok := c.(map[string]any); ok && condition["type"] == "Established" && condition["status"] == "True" {
			return true
		}
	}
	return false
}
