package health

import "fmt"

func progressing(format string, args ...any) Verdict {
	return Verdict{Status: Progressing, Message: fmt.Sprintf(format, args...)}
}

var (
	healthy    = Verdict{Status: Healthy}
	unobserved = Verdict{Status: Progressing, Message: "the latest spec has not been observed yet"}
)

func judgeDeployment(v view) Verdict {
	if v.yes("spec.paused") {
		return Verdict{Status: Suspended, Message: "the Deployment is paused"}
	}
	if !v.observed() {
		return unobserved
	}
	if c := v.condition("Progressing"); c.reason == "ProgressDeadlineExceeded" {
		return Verdict{Status: Degraded, Message: "the rollout exceeded its progress deadline"}
	}
	want, updated := v.num("spec.replicas"), v.num("status.updatedReplicas")
	if updated < want {
		return progressing("%d of %d new replicas are updated", updated, want)
	}
	if old := v.num("status.replicas") - updated; old > 0 {
		return progressing("%d old replicas are pending termination", old)
	}
	if available := v.num("status.availableReplicas"); available < updated {
		return progressing("%d of %d updated replicas are available", available, updated)
	}
	return healthy
}

// judgeStatefulSet trusts a finished partition: the API server sets a partition
// of 0 by default, so updateRevision decides only where rollingUpdate is absent.
func judgeStatefulSet(v view) Verdict {
	if v.num("status.observedGeneration") == 0 || !v.observed() {
		return unobserved
	}
	want, ready, updated := v.num("spec.replicas"), v.num("status.readyReplicas"), v.num("status.updatedReplicas")
	if ready < want {
		return progressing("%d of %d replicas are ready", ready, want)
	}
	strategy := v.str("spec.updateStrategy.type")
	if strategy == "RollingUpdate" && v.has("spec.updateStrategy.rollingUpdate") {
		return judgePartition(v, want, updated)
	}
	if strategy == "OnDelete" {
		return healthy
	}
	if v.str("status.updateRevision") != v.str("status.currentRevision") {
		return progressing("%d of %d replicas are at the new revision", updated, want)
	}
	return healthy
}

func judgePartition(v view, want, updated int64) Verdict {
	const partition = "spec.updateStrategy.rollingUpdate.partition"
	if !v.has("spec.replicas") || !v.has(partition) {
		return healthy
	}
	if due := want - v.num(partition); updated < due {
		return progressing("%d of %d replicas of the partition are updated", updated, due)
	}
	return healthy
}

func judgeDaemonSet(v view) Verdict {
	if !v.observed() {
		return unobserved
	}
	if v.str("spec.updateStrategy.type") == "OnDelete" {
		return healthy
	}
	want := v.num("status.desiredNumberScheduled")
	if updated := v.num("status.updatedNumberScheduled"); updated < want {
		return progressing("%d of %d Pods are updated", updated, want)
	}
	if available := v.num("status.numberAvailable"); available < want {
		return progressing("%d of %d Pods are available", available, want)
	}
	return healthy
}

func judgeReplicaSet(v view) Verdict {
	if !v.observed() {
		return unobserved
	}
	if c := v.condition("ReplicaFailure"); c.holds() {
		return Verdict{Status: Degraded, Message: c.text()}
	}
	if want, available := v.num("spec.replicas"), v.num("status.availableReplicas"); available < want {
		return progressing("%d of %d replicas are available", available, want)
	}
	return healthy
}

// judgeJob reads conditions by their type alone, but for Suspended. So a Suspended
// condition that is False, which a resumed Job carries while it runs, counts as
// complete: a quirk of Argo CD's.
func judgeJob(v view) Verdict {
	var failed, suspended, complete bool
	var message string
	for _, c := range v.conditions() {
		switch c.kind {
		case "Failed":
			failed, message = true, c.text()
		case "Suspended":
			suspended, complete = suspended || c.holds(), true
		case "Complete":
			complete = true
		}
	}
	switch {
	case failed:
		return Verdict{Status: Degraded, Message: message}
	case suspended:
		return Verdict{Status: Suspended, Message: "the Job is suspended"}
	case complete:
		return healthy
	}
	return Verdict{Status: Progressing, Message: "the Job has not finished"}
}

// judgeCronJob compares when it last ran with when that last went well; times are
// RFC 3339 in UTC, which sort as texts.
func judgeCronJob(v view) Verdict {
	scheduled, succeeded := v.str("status.lastScheduleTime"), v.str("status.lastSuccessfulTime")
	active, _ := v.get("status.active").([]any)
	switch {
	case v.yes("spec.suspend"):
		return Verdict{Status: Suspended, Message: "the CronJob is suspended"}
	case !v.has("status"):
		return Verdict{Status: Progressing, Message: "waiting for the CronJob"}
	case scheduled == "":
		return Verdict{Status: Healthy, Message: "it has not been scheduled yet"}
	case succeeded == "":
		return Verdict{Status: Healthy, Message: "it has never completed"}
	case len(active) > 0:
		return Verdict{Status: Healthy, Message: "a Job is running"}
	case succeeded < scheduled:
		return Verdict{Status: Degraded, Message: "the last Job was not successful"}
	}
	return healthy
}
