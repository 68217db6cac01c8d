package schema

import (
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/runtime/schema"
)

func TestLists(t *testing.T) {
	tests := []struct {
		gk     schema.GroupKind
		reason string
		has    []string // some of the paths
		not    string
	}{
		{schema.GroupKind{Group: "example.com", Kind: "Thing"}, "every object has metadata", []string{"metadata.finalizers", "metadata.ownerReferences"}, "spec"},
		{schema.GroupKind{Kind: "Pod"}, "a pod", []string{"metadata.finalizers", "spec.containers.env", "spec.initContainers.ports", "spec.hostAliases"}, "template"},
		{schema.GroupKind{Group: "apps", Kind: "Deployment"}, "a template", []string{"spec.template.spec.containers.env", "spec.template.spec.imagePullSecrets"}, "spec.containers"},
		{schema.GroupKind{Group: "batch", Kind: "CronJob"}, "a template in a template", []string{"spec.jobTemplate.spec.template.spec.containers.ports"}, "spec.template"},
		{schema.GroupKind{Kind: "ServiceAccount"}, "its secrets", []string{"secrets"}, "imagePullSecrets"},
		{schema.GroupKind{Kind: "Service"}, "two equal ports are refused from everybody", nil, "spec.ports"},
	}
	for _, tt := range tests {
		var paths []string
		for _, l := range Lists(tt.gk) {
			paths = append(paths, strings.Join(l.Path, "."))
		}
		for _, p := range tt.has {
			if !slices.Contains(paths, p) {
				t.Errorf("%s: %s is missing in %v", tt.reason, p, paths)
			}
		}
		if slices.ContainsFunc(paths, func(p string) bool { return strings.HasPrefix(p, tt.not) }) {
			t.Errorf("%s: %s is among %v", tt.reason, tt.not, paths)
		}
	}
}
