package health_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfastcd/holdfast/internal/health"
)

const (
	deployment = "apiVersion: apps/v1\nkind: Deployment\n"
	pod        = "apiVersion: v1\nkind: Pod\n"
	service    = "apiVersion: v1\nkind: Service\n"
	job        = "apiVersion: batch/v1\nkind: Job\n"
)

// rolled is the status of a Deployment of one replica that is all there.
func rolled(conditions string) string {
	return deployment + "spec: {replicas: 1, progressDeadlineSeconds: 600}\n" +
		"status: {replicas: 1, updatedReplicas: 1, availableReplicas: 1, readyReplicas: 1, conditions: [" + conditions + "]}"
}

// The two peers do not agree on these; each one's users wait on its own verdict.
func TestBothPeers(t *testing.T) {
	tests := map[string]struct {
		reason, object string
		argo, flux     health.Status // empty: no health
	}{
		"address":            {"a load balancer may never get an address", service + "spec: {type: LoadBalancer, clusterIP: 10.0.0.1}", health.Progressing, health.Healthy},
		"no cluster address": {"it gets this one at once", service + "spec: {type: LoadBalancer}", health.Progressing, health.Progressing},
		"ingress":            {"neither may an ingress", "apiVersion: networking.k8s.io/v1\nkind: Ingress", health.Progressing, health.Healthy},
		"old ingress":        {"under its old name, too", "apiVersion: extensions/v1beta1\nkind: Ingress", health.Progressing, health.Healthy},
		"autoscaler":         {"kstatus knows no autoscaler", "apiVersion: autoscaling/v2\nkind: HorizontalPodAutoscaler", health.Progressing, health.Healthy},
		"api service":        {"nor an API service", "apiVersion: apiregistration.k8s.io/v1\nkind: APIService", health.Progressing, health.Healthy},
		"namespace":          {"nor a namespace", "apiVersion: v1\nkind: Namespace", health.Progressing, health.Healthy},
		"cron job":           {"nor a suspended CronJob", "apiVersion: batch/v1\nkind: CronJob\nspec: {suspend: true}", health.Suspended, health.Healthy},
		"budget":             {"nor a budget", "apiVersion: policy/v1\nkind: PodDisruptionBudget", health.Progressing, health.Healthy},
		"lost claim":         {"kstatus waits for ever", "apiVersion: v1\nkind: PersistentVolumeClaim\nstatus: {phase: Lost}", health.Degraded, health.Progressing},
		"bound claim":        {"both know a bound one", "apiVersion: v1\nkind: PersistentVolumeClaim\nstatus: {phase: Bound}", health.Healthy, health.Healthy},
		"failed pod":         {"an end is an end to kstatus", pod + "status: {phase: Failed}", health.Degraded, health.Healthy},
		"one-time pod":       {"a Pod that runs to its end is ready meanwhile", pod + "spec: {restartPolicy: Never}\nstatus: {phase: Running, conditions: [{type: Ready, status: \"True\"}]}", health.Progressing, health.Healthy},
		"crashing pod":       {"both see a crash loop", pod + "spec: {restartPolicy: Always}\nstatus: {phase: Running, containerStatuses: [{name: a, state: {waiting: {reason: CrashLoopBackOff}}}]}", health.Degraded, health.Degraded},
		"starting pod":       {"both wait for one that starts", pod + "spec: {restartPolicy: Always}\nstatus: {phase: Running}", health.Progressing, health.Progressing},
		"pending pod":        {"both wait for a place", pod + "status: {phase: Pending, message: no room}", health.Progressing, health.Progressing},
		"resumed job":        {"kstatus waits for the end", job + "status: {active: 1, conditions: [{type: Suspended, status: \"False\"}]}", health.Healthy, health.Progressing},
		"complete job":       {"both know it", job + "status: {conditions: [{type: Complete, status: \"True\"}]}", health.Healthy, health.Healthy},
		"failed job":         {"both know it", job + "status: {conditions: [{type: Failed, status: \"True\"}]}", health.Degraded, health.Degraded},
		"paused":             {"kstatus waits for a paused rollout", deployment + "spec: {paused: true}", health.Suspended, health.Progressing},
		"not rolled out":     {"kstatus reads the conditions", rolled(""), health.Healthy, health.Progressing},
		"not available": {
			"all of them", rolled(`{type: Progressing, status: "True", reason: NewReplicaSetAvailable}`), health.Healthy, health.Progressing,
		},
		"rolled out": {
			"until both are content", rolled(`{type: Progressing, status: "True", reason: NewReplicaSetAvailable}, {type: Available, status: "True"}`),
			health.Healthy, health.Healthy,
		},
		"not ready": {
			"one replica is the default", deployment + "status: {observedGeneration: 1}", health.Healthy, health.Progressing,
		},
		"quota": {
			"a quota may be raised", "apiVersion: apps/v1\nkind: ReplicaSet\nstatus: {conditions: [{type: ReplicaFailure, status: \"True\"}]}",
			health.Degraded, health.Progressing,
		},
		"custom":        {"Argo CD does not know it", "apiVersion: example.org/v1\nkind: Widget\nstatus: {conditions: [{type: Ready, status: \"False\"}]}", "", health.Progressing},
		"silent custom": {"nobody does", "apiVersion: example.org/v1\nkind: Widget", "", ""},
		"config":        {"there is nothing to know", "apiVersion: v1\nkind: ConfigMap", "", ""},
		"definition":    {"both wait for it", "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition", health.Progressing, health.Progressing},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			both, ok := health.Both(object(t, tc.object))
			if ok != (tc.argo != "" || tc.flux != "") {
				t.Errorf("%s: has health: %v", tc.reason, ok)
			}
			if !ok {
				return
			}
			for _, side := range []struct {
				options health.Options
				want    health.Status
			}{{health.Options{}, tc.argo}, {health.Options{Kstatus: true}, tc.flux}} {
				got, judged := both.By(side.options)
				if judged != (side.want != "") || got.Status != side.want || got.Kstatus != "" {
					t.Errorf("%s: under %+v it is %+v, want %s", tc.reason, side.options, got, side.want)
				}
				alone, _ := side.options.Judge(object(t, tc.object))
				if alone.Status != side.want {
					t.Errorf("%s: judged alone under %+v it is %+v", tc.reason, side.options, alone)
				}
			}
		})
	}
}

func TestByOfOneKind(t *testing.T) {
	v := health.Verdict{Status: health.Degraded, Message: "m"}
	for _, o := range []health.Options{{}, {Kstatus: true}} {
		if got, ok := v.By(o); !ok || got != v {
			t.Errorf("a verdict of one kind says the same to everybody (-want +got):\n%s", cmp.Diff(v, got))
		}
	}
}
