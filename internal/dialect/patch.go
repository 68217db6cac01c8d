package dialect

import (
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// StatusPatch returns the merge patch (RFC 7396) that makes one status of
// another; both are what JSON is read into, and nil is none. Only the statuses
// are compared: to write both objects out costs more than all else on our side of
// a request.
func StatusPatch(from any, to map[string]any) (client.Patch, error) {
	before, after := &unstructured.Unstructured{Object: map[string]any{}}, &unstructured.Unstructured{Object: map[string]any{"status": to}}
	if from != nil {
		before.Object["status"] = from
	}
	data, err := client.MergeFrom(before).Data(after)
	if err != nil {
		return nil, err
	}
	return client.RawPatch(types.MergePatchType, data), nil
}
