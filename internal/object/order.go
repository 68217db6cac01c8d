package object

import (
	"cmp"
)

// Compare orders identities by group, kind, namespace and name.
func Compare(a, b ID) int {
	return cmp.Or(cmp.Compare(a.Group, b.Group), cmp.Compare(a.Kind, b.Kind),
		cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}

// kindOrder is the order in which kinds are sent when nothing else decides:
// what others refer to comes first, what calls into the API server last.
var kindOrder = rank(
	"Namespace", "ResourceQuota", "LimitRange", "NetworkPolicy", "PodDisruptionBudget", "PriorityClass", "StorageClass",
	"ServiceAccount", "Secret", "ConfigMap", "PersistentVolume", "PersistentVolumeClaim",
	"CustomResourceDefinition", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding", "Service",
	"DaemonSet", "Pod", "ReplicationController", "ReplicaSet", "Deployment", "HorizontalPodAutoscaler",
	"StatefulSet", "Job", "CronJob", "IngressClass", "Ingress", "APIService",
)

// lastKinds come behind every other kind: once they are there, they judge what follows.
var lastKinds = rank("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration",
	"MutatingAdmissionPolicyBinding", "ValidatingAdmissionPolicyBinding")

func rank(kinds ...string) map[string]int {
	m := make(map[string]int, len(kinds))
	for i, k := range kinds {
		m[k] = i + 1
	}
	return m
}

// Rank is the place of a kind in the order of sending; unknown kinds come after
// the known ones and before the admission webhooks.
func Rank(kind string) int {
	if r, ok := kindOrder[kind]; ok {
		return r
	}
	if r, ok := lastKinds[kind]; ok {
		return 2000 + r
	}
	return 1000
}

// CompareRank orders identities for sending: by rank of the kind, then by identity.
func CompareRank(a, b ID) int {
	return cmp.Or(cmp.Compare(Rank(a.Kind), Rank(b.Kind)), Compare(a, b))
}
