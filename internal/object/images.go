package object

import (
	"maps"
	"slices"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// podSpecs are where built-in kinds keep the specification of their Pods.
var podSpecs = map[ID][]string{
	{Kind: "Pod"}:                           {"spec"},
	{Kind: "PodTemplate"}:                   {"template", "spec"},
	{Kind: "ReplicationController"}:         {"spec", "template", "spec"},
	{Group: "apps", Kind: "Deployment"}:     {"spec", "template", "spec"},
	{Group: "apps", Kind: "StatefulSet"}:    {"spec", "template", "spec"},
	{Group: "apps", Kind: "DaemonSet"}:      {"spec", "template", "spec"},
	{Group: "apps", Kind: "ReplicaSet"}:     {"spec", "template", "spec"},
	{Group: "batch", Kind: "Job"}:           {"spec", "template", "spec"},
	{Group: "batch", Kind: "CronJob"}:       {"spec", "jobTemplate", "spec", "template", "spec"},
	{Group: "argoproj.io", Kind: "Rollout"}: {"spec", "template", "spec"},
}

// Images returns the images that the workloads among objects run, sorted, each once.
func Images(objects []Object) []string {
	images := map[string]bool{}
	for i := range objects {
		o := &objects[i]
		path, ok := podSpecs[ID{Group: o.GroupVersionKind().Group, Kind: o.GetKind()}]
		if !ok {
			continue
		}
		for _, list := range []string{"initContainers", "containers"} {
			containers, _, err := unstructured.NestedFieldNoCopy(o.Object, append(slices.Clone(path), list)...)
			if err != nil {
				continue
			}
			items, _ := containers.([]any)
			for _, item := range items {
				container, _ := item.(map[string]any)
				if image, _ := container["image"].(string); image != "" {
					images[image] = true
				}
			}
		}
	}
	return slices.Sorted(maps.Keys(images))
}
