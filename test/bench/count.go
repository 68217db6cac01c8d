package main

import (
	"fmt"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

func deployments() client.ObjectList { return &appsv1.DeploymentList{} }

// countFleet counts the objects of a list that belong to the fleet and carry the
// version that its last commit gave their application.
func countFleet(list client.ObjectList, f *fleet) (int, error) {
	want := map[string]string{}
	for i := range f.apps {
		want[appName(i)] = fmt.Sprintf("v%d", f.version[i])
	}
	n := 0
	err := meta.EachListItem(list, func(o runtime.Object) error {
		accessor, err := meta.Accessor(o)
		if err != nil {
			return err
		}
		labels := accessor.GetLabels()
		if !strings.HasPrefix(accessor.GetNamespace(), "floor-") && labels["version"] == want[labels["app"]] {
			n++
		}
		return nil
	})
	return n, err
}
