package health

import (
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// kstatusRules are the kinds on which kstatus, by which Flux waits, and Argo CD do not
// agree. The facts are those of sigs.k8s.io/cli-utils/pkg/kstatus; Jobs are waited for
// until they end, as Flux does. It is never written to.
var kstatusRules = map[schema.GroupKind]func(view) Verdict{
	{Group: apps, Kind: "Deployment"}:                       waitDeployment,
	{Group: apps, Kind: "ReplicaSet"}:                       waitReplicaSet,
	{Group: "", Kind: "Pod"}:                                waitPod,
	{Group: "batch", Kind: "Job"}:                           waitJob,
	{Group: "batch", Kind: "CronJob"}:                       waitNot,
	{Group: "autoscaling", Kind: "HorizontalPodAutoscaler"}: waitNot,
	{Group: "", Kind: "Service"}:                            waitService,
	{Group: "networking.k8s.io", Kind: "Ingress"}:           waitNot,
	{Group: "extensions", Kind: "Ingress"}:                  waitNot,
	{Group: "", Kind: "PersistentVolumeClaim"}:              waitClaim,
	{Group: "", Kind: "Namespace"}:                          waitNot,
	{Group: "apiregistration.k8s.io", Kind: "APIService"}:   waitNot,
	{Group: "policy", Kind: "PodDisruptionBudget"}:          waitNot,

	{Group: external, Kind: "ExternalSecret"}:        waitExternal,
	{Group: external, Kind: "SecretStore"}:           waitExternal,
	{Group: external, Kind: "ClusterSecretStore"}:    waitExternal,
	{Group: external, Kind: "PushSecret"}:            waitExternal,
	{Group: external, Kind: "ClusterExternalSecret"}: waitSpread,
	{Group: external, Kind: "ClusterPushSecret"}:     waitSpread,
	{Group: "bitnami.com", Kind: "SealedSecret"}:     waitSealed,
}

// Both judges obj by the rules of Argo CD and by those of kstatus, for those who
// keep one verdict for readers of either kind; see [Verdict.By]. The result is false
// when the kind of obj has no health under either.
func Both(obj *unstructured.Unstructured) (Verdict, bool) {
	v, argo := Options{}.Judge(obj)
	k, waited := Options{Kstatus: true}.Judge(obj)
	if !argo {
		v = k
		v.Generic = true
	}
	v.Kstatus = k.Status
	if v.Message == "" {
		v.Message = k.Message
	}
	return v, argo || waited
}

// By returns what a verdict made by [Both] says under o; false if the kind has no
// health then. A verdict of one kind says the same to everybody.
func (v Verdict) By(o Options) (Verdict, bool) {
	generic, both := v.Generic, v.Kstatus != ""
	switch {
	case !o.Kstatus && generic:
		return Verdict{}, false
	case o.Kstatus && both:
		v.Status = v.Kstatus
	}
	v.Kstatus = ""
	if both && v.Status == Healthy && !generic {
		v.Message = "" // it may belong to the other verdict
	}
	return v, true
}

func waitNot(view) Verdict { return healthy }

// waitDeployment adds what Argo CD does not look at: a rollout that says itself that
// it is done. A paused one never does.
func waitDeployment(v view) Verdict {
	if verdict := judgeDeployment(v); verdict.Status != Healthy {
		if verdict.Status == Suspended {
			verdict.Status = Progressing
		}
		return verdict
	}
	want := int64(1)
	if v.has("spec.replicas") {
		want = v.num("spec.replicas")
	}
	const noDeadline = 1<<31 - 1
	rolled := !v.has("spec.progressDeadlineSeconds") || v.num("spec.progressDeadlineSeconds") == noDeadline
	if c := v.condition("Progressing"); c.holds() && c.reason == "NewReplicaSetAvailable" {
		rolled = true
	}
	switch ready := v.num("status.readyReplicas"); {
	case ready < want:
		return progressing("%d of %d replicas are ready", ready, want)
	case !rolled:
		return progressing("the rollout is not complete")
	case !v.condition("Available").holds():
		return progressing("the Deployment is not available")
	}
	return healthy
}

// waitReplicaSet has no failures: a quota may be raised.
func waitReplicaSet(v view) Verdict {
	verdict := judgeReplicaSet(v)
	if verdict.Status == Degraded {
		verdict.Status = Progressing
	}
	return verdict
}

// waitPod counts a Pod that has ended as done, however it ended: a quirk of kstatus.
func waitPod(v view) Verdict {
	switch phase := v.str("status.phase"); phase {
	case "Succeeded", phaseFailed:
		return healthy
	case "Running":
		if v.condition("Ready").holds() {
			return healthy
		}
		for _, c := range v.list("status.containerStatuses") {
			if c.str("state.waiting.reason") == "CrashLoopBackOff" {
				return Verdict{Status: Degraded, Message: "container " + c.str("name") + " crashes again and again"}
			}
		}
		return progressing("the Pod is not ready")
	default:
		return Verdict{Status: Progressing, Message: strings.TrimSpace("the Pod is not running " + v.str("status.message"))}
	}
}

func waitJob(v view) Verdict {
	if c := v.condition("Failed"); c.holds() {
		return Verdict{Status: Degraded, Message: c.text()}
	}
	if v.condition("Complete").holds() {
		return healthy
	}
	return Verdict{Status: Progressing, Message: "the Job has not finished"}
}

// waitService does not wait for the address of a load balancer.
func waitService(v view) Verdict {
	if v.str("spec.type") == "LoadBalancer" && v.str("spec.clusterIP") == "" {
		return progressing("the Service has no address in the cluster yet")
	}
	return healthy
}

func waitClaim(v view) Verdict {
	if v.str("status.phase") == "Bound" {
		return healthy
	}
	return progressing("waiting for a volume")
}
