package plan

import (
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/holdfastcd/holdfast/internal/object"
)

// excuse names fields that others add to managed objects by design. It excuses by
// field, not by who says to have set it: a field manager is a name that anybody may
// take. Only where the field is worth something to an attacker must it be one of
// managers, too.
type excuse struct {
	group, kind string // may hold stars; kind empty: every kind
	field       string // as object.Path shows it; may hold stars
	managers    []string
	kept        bool // it is told, and not removed: removing it is worse than leaving it
	why         string
}

// The groups with a name of their own.
const (
	core      = ""
	admission = "admissionregistration.k8s.io"
)

// injectors are who put certificates into what Kubernetes has to trust.
var injectors = []string{"cert-manager-cainjector", "cainjector", "service-ca-operator", "olm", "kube-controller-manager"}

// excuses are the fields that controllers of Kubernetes, and those that most clusters
// have, add to objects of others.
var excuses = []excuse{
	{field: "status*", why: "status is what controllers report"},
	{field: "metadata.finalizers*", why: "who cleans up after an object says so on it"},
	{field: "metadata.managedFields*", why: "it is the record itself"},
	{field: `metadata.annotations["deployment.kubernetes.io/*"]`, why: "revisions of Deployments"},
	{field: `metadata.annotations["deprecated.daemonset.template.generation"]`, why: "the API server counts DaemonSets' templates"},
	{field: `metadata.annotations["kubernetes.io/*"]`, why: "notes of the control plane"},
	{field: `metadata.annotations["control-plane.alpha.kubernetes.io/leader"]`, why: "leader election"},
	{field: `metadata.annotations["autoscaling.alpha.kubernetes.io/*"]`, why: "what old versions of autoscalers hold"},
	{field: `metadata.annotations["endpoints.kubernetes.io/*"]`, why: "times of endpoints"},
	{field: `metadata.annotations["batch.kubernetes.io/*"]`, why: "notes of the Job controller"},
	{field: `metadata.annotations["cronjob.kubernetes.io/*"]`, why: "notes of the CronJob controller"},
	{field: `metadata.annotations["pv.kubernetes.io/*"]`, why: "binding of volumes"},
	{field: `metadata.annotations["volume.kubernetes.io/*"]`, why: "binding of volumes"},
	{field: `metadata.annotations["volume.beta.kubernetes.io/*"]`, why: "binding of volumes"},
	{field: `metadata.annotations["cloud.google.com/neg-status"]`, why: "what GKE reports of a Service"},
	{field: `metadata.annotations["field.cattle.io/*"]`, why: "what Rancher reports"},
	{field: `metadata.annotations["cni.projectcalico.org/*"]`, why: "addresses of Pods"},
	{field: `metadata.annotations["k8s.ovn.org/*"]`, why: "addresses of Pods"},
	{field: `metadata.annotations["k8s.v1.cni.cncf.io/network-status*"]`, why: "addresses of Pods"},
	{field: `metadata.annotations["openshift.io/*"]`, kind: "Namespace", why: "ranges of users that OpenShift gives to a namespace"},
	{field: `metadata.labels["kubernetes.io/metadata.name"]`, kind: "Namespace", why: "the API server sets it"},
	{field: `metadata.labels["kube-aggregator.kubernetes.io/automanaged"]`, kind: "APIService", why: "the API server sets it"},
	{field: "spec.finalizers*", kind: "Namespace", why: "the API server sets it"},
	{field: "spec.replicas", group: "*", managers: []string{"horizontal-pod-autoscaler", "keda-operator", "vpa-recommender"}, why: "autoscalers choose it where the source does not"},

	{field: "spec.volumeName", kind: "PersistentVolumeClaim", why: "binding of volumes"},
	{field: "spec.claimRef*", kind: "PersistentVolume", why: "binding of volumes"},
	{field: "spec.clusterIP*", kind: "Service", why: "the API server gives addresses"},
	{field: "spec.ipFamil*", kind: "Service", why: "the API server gives addresses"},
	{field: "spec.healthCheckNodePort", kind: "Service", why: "the API server gives ports"},
	{field: "spec.ports[*].nodePort", kind: "Service", why: "the API server gives ports"},
	{field: "spec.nodeName", kind: "Pod", why: "the scheduler chooses it"},
	{field: "data.token", kind: "Secret", managers: []string{"kube-controller-manager"}, why: "tokens of accounts"},
	{field: "data.namespace", kind: "Secret", managers: []string{"kube-controller-manager"}, why: "tokens of accounts"},
	{field: `data["ca.crt"]`, kind: "Secret", managers: []string{"kube-controller-manager"}, why: "tokens of accounts"},
	{field: "secrets*", kind: "ServiceAccount", why: "tokens of the account"},
	{field: "imagePullSecrets*", kind: "ServiceAccount", why: "registries that are set for a namespace", managers: []string{"openshift-controller-manager", "kube-controller-manager"}},
	{field: "rules*", group: "rbac.authorization.k8s.io", kind: "ClusterRole", managers: []string{"clusterrole-aggregation-controller", "kube-controller-manager"}, why: "rules of aggregated roles"},
	{field: "spec.selector*", group: "batch", kind: "Job", why: "the API server makes it"},
	{field: `spec.template.metadata.labels["*controller-uid"]`, group: "batch", kind: "Job", why: "the API server makes it"},
	{field: `spec.template.metadata.labels["*job-name"]`, group: "batch", kind: "Job", why: "the API server makes it"},

	{field: "webhooks*clientConfig.caBundle", group: admission, kind: "*", managers: injectors, why: "injected certificates"},
	{field: "spec.caBundle", group: "apiregistration.k8s.io", kind: "APIService", managers: injectors, why: "injected certificates"},
	{field: "spec.conversion*caBundle", group: "apiextensions.k8s.io", kind: "CustomResourceDefinition", managers: injectors, why: "injected certificates"},

	{field: `metadata.annotations["argocd.argoproj.io/refresh"]`, group: "argoproj.io", kind: "Application", why: "somebody asks for a pass"},
	{field: "operation*", group: "argoproj.io", kind: "Application", why: "somebody asks for a sync"},
	{field: `metadata.annotations["reconcile.fluxcd.io/*"]`, why: "somebody asks for a pass"},
	{field: `metadata.annotations["holdfast.dev/confirm-prune"]`, why: "somebody's word, which the audit log has"},

	{field: `*.annotations["kubectl.kubernetes.io/restartedAt"]`, group: "*", kept: true, why: "removing it restarts the Pods once more"},
	{field: "spec.suspend", group: "*.toolkit.fluxcd.io", kept: true, why: "who suspends a delivery means it"},
	{field: `metadata.annotations["holdfast.dev/*"]`, kept: true, why: "who writes them means this delivery, and the audit log has it"},
}

// excuseFor finds what excuses a field of a kind, as it is shown, that manager owns.
func excuseFor(gk schema.GroupKind, field, manager string) (excuse, bool) {
	i := slices.IndexFunc(excuses, func(e excuse) bool {
		return glob(e.group, gk.Group) && glob(e.kind, gk.Kind) && glob(e.field, field) &&
			(e.managers == nil || slices.Contains(e.managers, manager))
	})
	if i < 0 {
		return excuse{}, false
	}
	return excuses[i], true
}

// fleeting are the kinds that go by themselves when they are done.
var fleeting = []schema.GroupKind{{Group: core, Kind: "Pod"}, {Group: core, Kind: "Event"}, {Group: "batch", Kind: "Job"}}

// Fleeting reports whether objects of a kind go by themselves, so that it is no news
// if one is gone.
func Fleeting(gk schema.GroupKind) bool { return slices.Contains(fleeting, gk) }

// statusInPlace are the kinds of which we write the status and which have no
// subresource for it.
var statusInPlace = []schema.GroupKind{{Group: "argoproj.io", Kind: "Application"}}

// StatusInPlace reports whether a kind's status is written like its other fields.
func StatusInPlace(gk schema.GroupKind) bool { return slices.Contains(statusInPlace, gk) }

// inMetadata reports whether a path is about labels, annotations and the like, of which
// each key may be somebody else's.
func inMetadata(p object.Path) bool { return len(p) > 0 && strings.EqualFold(p[0], "f:metadata") }
