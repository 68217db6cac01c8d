package defaults

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"

	"github.com/holdfastcd/holdfast/internal/schema"
	"github.com/holdfastcd/holdfast/test/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

// decided are the fields that a cluster decides, by allocation, by configuration or
// for its own book-keeping.
var decided = []string{
	"metadata.", "status", "spec.clusterIP", "spec.ipFamil", "spec.ports[].nodePort", "spec.healthCheckNodePort", "spec.volumeClaimTemplates[].status",
	"Job spec.selector.matchLabels.batch", "Job spec.template.metadata.labels.", "Pod spec.tolerations", "Pod spec.priority", "Pod spec.preemptionPolicy",
	"Namespace spec.finalizers", "Node spec.taints",
	"APIService spec.caBundle",
}

// ofAll are metadata that is compared all the same.
var ofAll = []string{"metadata.labels.kubernetes.io/metadata.name", "metadata.labels.app"}

// TestServer asks the API server what it would store of each object of the corpus,
// and compares that with what Complete makes of it.
func TestServer(t *testing.T) {
	cluster := harness.Shared(t)
	namespace := cluster.Namespace(t)
	for _, sent := range corpus(t) {
		o := &unstructured.Unstructured{Object: sent}
		t.Run(o.GetKind()+"/"+o.GetName(), func(t *testing.T) {
			kind, ok := schema.Builtin().Lookup(o.GroupVersionKind())
			if !ok {
				t.Fatal("the kind is not known")
			}
			resource := cluster.Dynamic().Resource(kind.GVR())
			create := resource.Create
			if kind.Namespaced {
				create = resource.Namespace(namespace).Create
			}
			stored, err := create(t.Context(), o, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
			if err != nil {
				t.Fatal(err)
			}
			completed := o.DeepCopy().Object
			Complete(completed)
			compare(completed, stored.Object, "", func(path string) {
				if !isDecided(o.GetKind(), path) && apart[path] == "" || apartOnly(o.GetKind(), path) {
					got, _ := json.Marshal(completed["spec"])
					want, _ := json.Marshal(stored.Object["spec"])
					t.Errorf("%s differs:\n got %s\nwant %s", path, got, want)
				}
			})
		})
	}
}

// apartOnly says of fields that are apart in invalid objects, or before admission,
// that they are compared here: nothing in the corpus is refused, and all of it has
// gone through admission.
func apartOnly(kind, path string) bool {
	return !isDecided(kind, path) && (strings.HasPrefix(path, "spec.serviceAccount") || strings.HasPrefix(apart[path], "a rolling update"))
}

func isDecided(kind, path string) bool {
	if slices.Contains(ofAll, path) {
		return false
	}
	for _, p := range decided {
		if strings.HasPrefix(path, p) || strings.HasPrefix(kind+" "+path, p) {
			return true
		}
	}
	return false
}

// corpus reads the objects to send.
func corpus(t *testing.T) []map[string]any {
	t.Helper()
	data, err := os.ReadFile("testdata/corpus.yaml")
	if err != nil {
		t.Fatal(err)
	}
	documents := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(data), 4096)
	var all []map[string]any
	for {
		var o map[string]any
		err := documents.Decode(&o)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		whole(o)
		all = append(all, o)
	}
	if len(all) < 50 {
		t.Fatalf("only %d objects", len(all))
	}
	return all
}
