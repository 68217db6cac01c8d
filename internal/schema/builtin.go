package schema

import (
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Each line is a group, its versions, and kinds; a kind's resource is its name in
// lower case with an s, or stands behind an equals sign. "core" is the group
// without a name. Only kinds that can be delivered are here: no reviews, no
// evictions, no other things that are asked rather than kept.
const (
	namespacedKinds = `
core v1 ConfigMap Endpoints=endpoints Event LimitRange PersistentVolumeClaim Pod PodTemplate ReplicationController ResourceQuota Secret Service ServiceAccount
apps v1,v1beta1,v1beta2 ControllerRevision Deployment StatefulSet
apps v1,v1beta2 DaemonSet ReplicaSet
autoscaling v1,v2 HorizontalPodAutoscaler
batch v1 Job
batch v1,v1beta1 CronJob
certificates.k8s.io v1beta1 PodCertificateRequest
coordination.k8s.io v1,v1beta1 Lease
coordination.k8s.io v1alpha2,v1beta1 LeaseCandidate
discovery.k8s.io v1,v1beta1 EndpointSlice
events.k8s.io v1,v1beta1 Event
extensions v1beta1 DaemonSet Deployment Ingress=ingresses NetworkPolicy=networkpolicies ReplicaSet
networking.k8s.io v1 NetworkPolicy=networkpolicies
networking.k8s.io v1,v1beta1 Ingress=ingresses
policy v1,v1beta1 PodDisruptionBudget
rbac.authorization.k8s.io v1,v1alpha1,v1beta1 Role RoleBinding
resource.k8s.io v1,v1beta1,v1beta2 ResourceClaim ResourceClaimTemplate
scheduling.k8s.io v1alpha2 PodGroup Workload
storage.k8s.io v1,v1alpha1,v1beta1 CSIStorageCapacity=csistoragecapacities
`
	clusterKinds = `
core v1 Namespace Node PersistentVolume
admissionregistration.k8s.io v1,v1alpha1,v1beta1 MutatingAdmissionPolicy=mutatingadmissionpolicies MutatingAdmissionPolicyBinding ValidatingAdmissionPolicy=validatingadmissionpolicies ValidatingAdmissionPolicyBinding
admissionregistration.k8s.io v1,v1beta1 MutatingWebhookConfiguration ValidatingWebhookConfiguration
apiextensions.k8s.io v1 CustomResourceDefinition
apiregistration.k8s.io v1 APIService
certificates.k8s.io v1,v1beta1 CertificateSigningRequest
certificates.k8s.io v1alpha1,v1beta1 ClusterTrustBundle
flowcontrol.apiserver.k8s.io v1,v1beta1,v1beta2,v1beta3 FlowSchema PriorityLevelConfiguration
networking.k8s.io v1,v1beta1 IngressClass=ingressclasses IPAddress=ipaddresses ServiceCIDR
node.k8s.io v1,v1alpha1,v1beta1 RuntimeClass=runtimeclasses
rbac.authorization.k8s.io v1,v1alpha1,v1beta1 ClusterRole ClusterRoleBinding
resource.k8s.io v1,v1beta1,v1beta2 DeviceClass=deviceclasses ResourceSlice
resource.k8s.io v1alpha3,v1beta2 DeviceTaintRule
scheduling.k8s.io v1,v1beta1 PriorityClass=priorityclasses
storage.k8s.io v1,v1alpha1,v1beta1 VolumeAttachment VolumeAttributesClass=volumeattributesclasses
storage.k8s.io v1,v1beta1 CSIDriver CSINode StorageClass=storageclasses
storagemigration.k8s.io v1beta1 StorageVersionMigration
`
)

// Builtin returns the kinds that Kubernetes itself serves, or served in versions
// that manifests still name, for those who have no cluster to ask. Nobody may
// change the table.
var Builtin = sync.OnceValue(func() Table {
	t := Table{}
	t.enter(namespacedKinds, true)
	t.enter(clusterKinds, false)
	return t
})

func (t Table) enter(lines string, namespaced bool) {
	for line := range strings.Lines(strings.TrimSpace(lines)) {
		fields := strings.Fields(line)
		group := fields[0]
		if group == "core" {
			group = ""
		}
		for version := range strings.SplitSeq(fields[1], ",") {
			for _, entry := range fields[2:] {
				kind, resource, given := strings.Cut(entry, "=")
				if !given {
					resource = strings.ToLower(kind) + "s"
				}
				gvk := schema.GroupVersionKind{Group: group, Version: version, Kind: kind}
				t[gvk] = Kind{GVK: gvk, Resource: resource, Namespaced: namespaced}
			}
		}
	}
}
