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
// what others refer to comes first, what calls into the API server last. What makes
// Secrets follows what it is opened or authorised with.
var kindOrder = rank(
	"Namespace", "ResourceQuota", "LimitRange", "NetworkPolicy", "PodDisruptionBudget", "PriorityClass", "StorageClass",
	"ServiceAccount", "SealedSecret", "Secret", "ConfigMap", "PersistentVolume", "PersistentVolumeClaim",
	"CustomResourceDefinition", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding",
	"SecretStore", "ClusterSecretStore", "ExternalSecret", "ClusterExternalSecret", "PushSecret", "ClusterPushSecret", "Service",
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
func Rank(id ID) int {
	if id.Group == generators {
		return kindOrder["SecretStore"]
	}
	if r, ok := kindOrder[id.Kind]; ok {
		return r
	}
	if r, ok := lastKinds[id.Kind]; ok {
		return 2000 + r
	}
	return 1000
}

// CompareRank orders identities for sending: by rank of the kind, then by identity.
func CompareRank(a, b ID) int {
	return cmp.Or(cmp.Compare(Rank(a), Rank(b)), Compare(a, b))
}

// Step tells apart what is sent side by side: where two objects that follow each other
// in the order of [CompareRank] have different steps, the second is sent when those
// before were answered. Only what makes Secrets has a step of its own.
func Step(id ID) int {
	switch {
	case id.IsSealedSecret():
		return 1
	case isSource(id):
		return 2
	case id.Group == external:
		return 3
	}
	return 0
}

// isSource reports whether an object says where the operator of external secrets gets
// values from.
func isSource(id ID) bool {
	return id.Group == generators || id.Group == external && (id.Kind == "SecretStore" || id.Kind == "ClusterSecretStore")
}
