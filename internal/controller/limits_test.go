package controller

import (
	"testing"

	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/holdfastcd/holdfast/deploy"
)

// TestDataFitsItsVolume: the kubelet evicts the Pod whose emptyDir is full. A quarter
// is left for what is replaced while it is written.
func TestDataFitsItsVolume(t *testing.T) {
	objs, err := deploy.Manifests(deploy.Options{})
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for _, o := range objs {
		volumes, _, _ := unstructured.NestedSlice(o.Object, "spec", "template", "spec", "volumes")
		for _, v := range volumes {
			v, _ := v.(map[string]any)
			text, ok, _ := unstructured.NestedString(v, "emptyDir", "sizeLimit")
			if !ok {
				continue
			}
			found = true
			if size := resource.MustParse(text); size.Value()*3/4 < DefaultDataLimit {
				t.Errorf("the data may take %d bytes, and its volume has %s", int64(DefaultDataLimit), text)
			}
		}
	}
	if !found {
		t.Error("the Deployment has no emptyDir with a limit")
	}
}
