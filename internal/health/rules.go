package health

import (
	"slices"

	"k8s.io/apimachinery/pkg/runtime/schema"
)

// rule judges the objects of one kind.
type rule struct {
	// versions are those that the rule can read; all of them when empty. An object
	// of another version is Unknown: its fields may mean something else.
	versions []string
	judge    func(view) Verdict
}

func (r rule) covers(version string) bool {
	return len(r.versions) == 0 || slices.Contains(r.versions, version)
}

// Groups with several kinds.
const (
	apps       = "apps"
	fluxSource = "source.toolkit.fluxcd.io"
	fluxImage  = "image.toolkit.fluxcd.io"
	external   = "external-secrets.io"
)

// rules are the kinds that have health. It is never written to.
var rules = map[schema.GroupKind]rule{
	{Group: apps, Kind: "Deployment"}:                                 {[]string{"v1"}, judgeDeployment},
	{Group: apps, Kind: "StatefulSet"}:                                {[]string{"v1"}, judgeStatefulSet},
	{Group: apps, Kind: "DaemonSet"}:                                  {[]string{"v1"}, judgeDaemonSet},
	{Group: apps, Kind: "ReplicaSet"}:                                 {[]string{"v1"}, judgeReplicaSet},
	{Group: "", Kind: "Pod"}:                                          {[]string{"v1"}, judgePod},
	{Group: "batch", Kind: "Job"}:                                     {[]string{"v1"}, judgeJob},
	{Group: "batch", Kind: "CronJob"}:                                 {[]string{"v1"}, judgeCronJob},
	{Group: "policy", Kind: "PodDisruptionBudget"}:                    {[]string{"v1"}, judgeBudget},
	{Group: "autoscaling", Kind: "HorizontalPodAutoscaler"}:           {[]string{"v1", "v2", "v2beta1", "v2beta2"}, judgeAutoscaler},
	{Group: "", Kind: "Service"}:                                      {[]string{"v1"}, judgeService},
	{Group: "networking.k8s.io", Kind: "Ingress"}:                     {nil, judgeIngress},
	{Group: "extensions", Kind: "Ingress"}:                            {nil, judgeIngress},
	{Group: "", Kind: "PersistentVolumeClaim"}:                        {[]string{"v1"}, judgeClaim},
	{Group: "", Kind: "Namespace"}:                                    {[]string{"v1"}, judgeNamespace},
	{Group: "apiregistration.k8s.io", Kind: "APIService"}:             {[]string{"v1", "v1beta1"}, judgeAPIService},
	{Group: "apiextensions.k8s.io", Kind: "CustomResourceDefinition"}: {nil, judgeDefinition},
	{Group: "argoproj.io", Kind: "Workflow"}:                          {nil, judgeWorkflow},

	{Group: fluxSource, Kind: "GitRepository"}:                    {nil, judgeFlux},
	{Group: fluxSource, Kind: "OCIRepository"}:                    {nil, judgeFlux},
	{Group: fluxSource, Kind: "Bucket"}:                           {nil, judgeFlux},
	{Group: fluxSource, Kind: "HelmRepository"}:                   {nil, judgeHelmRepository},
	{Group: fluxSource, Kind: "HelmChart"}:                        {nil, judgeFlux},
	{Group: "kustomize.toolkit.fluxcd.io", Kind: "Kustomization"}: {nil, judgeFlux},
	{Group: "helm.toolkit.fluxcd.io", Kind: "HelmRelease"}:        {nil, judgeFlux},
	{Group: fluxImage, Kind: "ImageRepository"}:                   {nil, judgeFlux},
	{Group: fluxImage, Kind: "ImagePolicy"}:                       {nil, judgeFlux},
	{Group: fluxImage, Kind: "ImageUpdateAutomation"}:             {nil, judgeFlux},
	{Group: "notification.toolkit.fluxcd.io", Kind: "Receiver"}:   {nil, judgeFlux},

	{Group: external, Kind: "ExternalSecret"}:        {nil, judgeExternal},
	{Group: external, Kind: "SecretStore"}:           {nil, judgeExternal},
	{Group: external, Kind: "ClusterSecretStore"}:    {nil, judgeExternal},
	{Group: external, Kind: "PushSecret"}:            {nil, judgeExternal},
	{Group: external, Kind: "ClusterExternalSecret"}: {nil, judgeSpread},
	{Group: external, Kind: "ClusterPushSecret"}:     {nil, judgeSpread},
	{Group: "bitnami.com", Kind: "SealedSecret"}:     {nil, judgeSealed},
}

// hookFinalizer keeps a finished hook until its phase of a sync is over. Such an
// object is judged by what it did, although it is being deleted.
const hookFinalizer = "argocd.argoproj.io/hook-finalizer"

// pendingDeletion judges objects of any kind that are being deleted.
func pendingDeletion(v view) (Verdict, bool) {
	if !v.has("metadata.deletionTimestamp") {
		return Verdict{}, false
	}
	finalizers, _ := v.get("metadata.finalizers").([]any)
	for _, f := range finalizers {
		if f == hookFinalizer {
			return Verdict{}, false
		}
	}
	return Verdict{Status: Progressing, Message: "Pending deletion"}, true
}
