package health

import (
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Report is the verdict on one object, with the object's identity as written. Status
// is empty when the kind has no health.
type Report struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Namespace  string `json:"namespace"`
	Name       string `json:"name"`
	Status     Status `json:"status"`
	Message    string `json:"message"`
}

// JudgeAll judges objects in the order given. A List, which is how clients print
// several objects, stands for its items.
func (o Options) JudgeAll(objs []*unstructured.Unstructured) []Report {
	reports := make([]Report, 0, len(objs))
	for _, obj := range objs {
		if obj == nil {
			continue
		}
		items, isList := obj.Object["items"].([]any)
		if !isList || !strings.HasSuffix(obj.GetKind(), "List") {
			reports = append(reports, o.report(obj))
			continue
		}
		for _, item := range items {
			if fields, ok := item.(map[string]any); ok {
				reports = append(reports, o.report(&unstructured.Unstructured{Object: fields}))
			}
		}
	}
	return reports
}

func (o Options) report(obj *unstructured.Unstructured) Report {
	verdict, _ := o.Judge(obj)
	return Report{
		APIVersion: obj.GetAPIVersion(), Kind: obj.GetKind(), Namespace: obj.GetNamespace(), Name: obj.GetName(),
		Status: verdict.Status, Message: verdict.Message,
	}
}
