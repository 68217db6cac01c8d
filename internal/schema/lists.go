package schema

import (
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/runtime/schema"
)

// List is a list whose items a server-side apply tells apart by keys.
type List struct {
	// Path are the field names that lead to the list; lists on the way are passed through.
	Path []string
	// Keys are the fields that make an item's key; none: the item itself is.
	Keys []Key
	// Join is a list in each item that grows together where two items have the
	// same key; empty if the last item replaces those before.
	Join string
}

// Key is one field of an item's key, and what it is where it is not written.
type Key struct{ Field, Default string }

// Lists returns the lists of a kind in which Kubernetes accepts two items of the
// same key from a create or an update, but not from a server-side apply. (Where
// it accepts them from nobody, as in a Service's ports, its answer is the best
// there is; custom resources are all of that sort.) Source of the keys: the
// x-kubernetes-list-map-keys of the built-in kinds. Nobody may change the result.
func Lists(gk schema.GroupKind) []List {
	if lists, ok := lists()[gk]; ok {
		return lists
	}
	return ofMetadata
}

// Lists of every object, and of the pods in some.
var (
	ofMetadata = []List{
		{Path: []string{"metadata", "finalizers"}},
		{Path: []string{"metadata", "ownerReferences"}, Keys: []Key{{Field: "uid"}}},
	}
	ofContainer = []List{
		{Path: []string{"env"}, Keys: []Key{{Field: "name"}}},
		{Path: []string{"ports"}, Keys: []Key{{Field: "containerPort"}, {"protocol", "TCP"}}},
	}
	ofPod = []List{
		{Path: []string{"imagePullSecrets"}, Keys: []Key{{Field: "name"}}},
		{Path: []string{"hostAliases"}, Keys: []Key{{Field: "ip"}}, Join: "hostnames"},
	}
)

// templates say where the kinds that make pods describe them.
var templates = map[schema.GroupKind]string{
	{Kind: "Pod"}:                        "spec",
	{Kind: "PodTemplate"}:                "template.spec",
	{Kind: "ReplicationController"}:      "spec.template.spec",
	{Group: "apps", Kind: "Deployment"}:  "spec.template.spec",
	{Group: "apps", Kind: "DaemonSet"}:   "spec.template.spec",
	{Group: "apps", Kind: "StatefulSet"}: "spec.template.spec",
	{Group: "apps", Kind: "ReplicaSet"}:  "spec.template.spec",
	{Group: "batch", Kind: "Job"}:        "spec.template.spec",
	{Group: "batch", Kind: "CronJob"}:    "spec.jobTemplate.spec.template.spec",
}

var lists = sync.OnceValue(func() map[schema.GroupKind][]List {
	all := map[schema.GroupKind][]List{
		{Kind: "ServiceAccount"}: append([]List{{Path: []string{"secrets"}, Keys: []Key{{Field: "name"}}}}, ofMetadata...),
	}
	for gk, path := range templates {
		pod := strings.Split(path, ".")
		kind := append([]List{}, ofMetadata...)
		for _, l := range ofPod {
			kind = append(kind, l.below(pod...))
		}
		for _, containers := range []string{"initContainers", "containers"} {
			for _, l := range ofContainer {
				kind = append(kind, l.below(append(append([]string{}, pod...), containers)...))
			}
		}
		all[gk] = kind
	}
	return all
})

// below returns l as the field names in front of it find it.
func (l List) below(path ...string) List {
	l.Path = append(append([]string{}, path...), l.Path...)
	return l
}
