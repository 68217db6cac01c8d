package health_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	"github.com/holdfastcd/holdfast/internal/health"
)

func object(t testing.TB, text string) *unstructured.Unstructured {
	t.Helper()
	obj := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(text), &obj.Object); err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	return obj
}

// A row is one case of one rule. The object is head, then the fields.
type row struct {
	reason string
	fields string
	want   health.Status
	says   string // part of the message
}

type suite struct {
	head string
	rows []row
}

// suites are the rules by kind, in the order of the table of Argo CD's.
var suites = map[string]suite{
	"Deployment": {"apiVersion: apps/v1\nkind: Deployment\n", []row{
		{"paused wins over everything", "spec: {paused: true, replicas: 3}", health.Suspended, "paused"},
		{"status of an older spec says nothing", "metadata: {generation: 2}\nstatus: {observedGeneration: 1}", health.Progressing, "observed"},
		{"a missed deadline does not mend itself", "status: {conditions: [{type: Progressing, status: \"False\", reason: ProgressDeadlineExceeded}]}", health.Degraded, "deadline"},
		{"not all replicas are new", "spec: {replicas: 3}\nstatus: {updatedReplicas: 1}", health.Progressing, "1 of 3 new"},
		{"old replicas still run", "spec: {replicas: 3}\nstatus: {updatedReplicas: 3, replicas: 4}", health.Progressing, "1 old"},
		{"new replicas do not serve yet", "spec: {replicas: 3}\nstatus: {updatedReplicas: 3, replicas: 3, availableReplicas: 2}", health.Progressing, "2 of 3 updated"},
		{"all is new and serves", "metadata: {generation: 2}\nspec: {replicas: 3}\nstatus: {observedGeneration: 2, updatedReplicas: 3, replicas: 3, availableReplicas: 3}", health.Healthy, ""},
		{"zero replicas are all there", "metadata: {generation: 1}\nspec: {replicas: 0}\nstatus: {observedGeneration: 1}", health.Healthy, ""},
		{"a controller that has seen nothing yet", "metadata: {generation: 1}\nspec: {replicas: 0}", health.Progressing, "observed"},
	}},
	"StatefulSet": {"apiVersion: apps/v1\nkind: StatefulSet\n", []row{
		{"never observed, even without a generation", "spec: {replicas: 0}", health.Progressing, "observed"},
		{"older spec", "metadata: {generation: 2}\nstatus: {observedGeneration: 1}", health.Progressing, "observed"},
		{"not all are ready", "spec: {replicas: 3}\nstatus: {observedGeneration: 1, readyReplicas: 2}", health.Progressing, "2 of 3 replicas are ready"},
		{"the partition is being rolled", "spec: {replicas: 3, updateStrategy: {type: RollingUpdate, rollingUpdate: {partition: 1}}}\nstatus: {observedGeneration: 1, readyReplicas: 3, updatedReplicas: 1}", health.Progressing, "1 of 2"},
		{"the partition is done, the rest is meant to be old", "spec: {replicas: 3, updateStrategy: {type: RollingUpdate, rollingUpdate: {partition: 1}}}\nstatus: {observedGeneration: 1, readyReplicas: 3, updatedReplicas: 2, updateRevision: b, currentRevision: a}", health.Healthy, ""},
		{"a strategy without a partition counts as done", "spec: {replicas: 3, updateStrategy: {type: RollingUpdate, rollingUpdate: {}}}\nstatus: {observedGeneration: 1, readyReplicas: 3}", health.Healthy, ""},
		{"OnDelete waits for people", "spec: {replicas: 1, updateStrategy: {type: OnDelete}}\nstatus: {observedGeneration: 1, readyReplicas: 1, updateRevision: b, currentRevision: a}", health.Healthy, ""},
		{"without rollingUpdate the revisions decide", "spec: {replicas: 1, updateStrategy: {type: RollingUpdate}}\nstatus: {observedGeneration: 1, readyReplicas: 1, updateRevision: b, currentRevision: a}", health.Progressing, "new revision"},
		{"one revision, all ready", "spec: {replicas: 1}\nstatus: {observedGeneration: 1, readyReplicas: 1, updateRevision: a, currentRevision: a}", health.Healthy, ""},
	}},
	"DaemonSet": {"apiVersion: apps/v1\nkind: DaemonSet\n", []row{
		{"older spec", "metadata: {generation: 2}\nstatus: {observedGeneration: 1}", health.Progressing, "observed"},
		{"OnDelete waits for people", "spec: {updateStrategy: {type: OnDelete}}\nstatus: {desiredNumberScheduled: 3}", health.Healthy, ""},
		{"not all are new", "status: {desiredNumberScheduled: 3, updatedNumberScheduled: 1}", health.Progressing, "1 of 3 Pods are updated"},
		{"not all serve", "status: {desiredNumberScheduled: 3, updatedNumberScheduled: 3, numberAvailable: 2}", health.Progressing, "2 of 3 Pods are available"},
		{"all new, all serve", "status: {desiredNumberScheduled: 3, updatedNumberScheduled: 3, numberAvailable: 3}", health.Healthy, ""},
	}},
	"ReplicaSet": {"apiVersion: apps/v1\nkind: ReplicaSet\n", []row{
		{"older spec", "metadata: {generation: 2}\nstatus: {observedGeneration: 1}", health.Progressing, "observed"},
		{"Pods cannot be made", "status: {conditions: [{type: ReplicaFailure, status: \"True\", message: quota}]}", health.Degraded, "quota"},
		{"a failure that is over", "status: {conditions: [{type: ReplicaFailure, status: \"False\"}]}", health.Healthy, ""},
		{"not all serve", "spec: {replicas: 2}\nstatus: {availableReplicas: 1}", health.Progressing, "1 of 2"},
		{"all serve", "spec: {replicas: 2}\nstatus: {availableReplicas: 2}", health.Healthy, ""},
	}},
	"Pod": {"apiVersion: v1\nkind: Pod\n", []row{
		{"image errors begin with Err", "spec: {restartPolicy: Always}\nstatus: {phase: Pending, containerStatuses: [{name: a, state: {waiting: {reason: ErrImagePull, message: no such image}}}]}", health.Degraded, "no such image"},
		{"configuration errors end in Error", "spec: {restartPolicy: Always}\nstatus: {phase: Pending, containerStatuses: [{name: a, state: {waiting: {reason: CreateContainerConfigError}}}]}", health.Degraded, "CreateContainerConfigError"},
		{"crash loops end in BackOff", "spec: {restartPolicy: Always}\nstatus: {phase: Running, containerStatuses: [{name: a, state: {waiting: {reason: CrashLoopBackOff}}}]}", health.Degraded, "CrashLoopBackOff"},
		{"waiting as such is no failure", "spec: {restartPolicy: Always}\nstatus: {phase: Pending, containerStatuses: [{name: a, state: {waiting: {reason: ContainerCreating}}}]}", health.Progressing, ""},
		{"a hook that waits for its image may still run", "spec: {restartPolicy: Never}\nstatus: {phase: Pending, containerStatuses: [{name: a, state: {waiting: {reason: ErrImagePull}}}]}", health.Progressing, ""},
		{"pending", "status: {phase: Pending, message: unschedulable}", health.Progressing, "unschedulable"},
		{"succeeded", "status: {phase: Succeeded}", health.Healthy, ""},
		{"failed, in its own words", "status: {phase: Failed, message: evicted}", health.Degraded, "evicted"},
		{"failed, in its container's words", "status: {phase: Failed, containerStatuses: [{name: a, state: {terminated: {message: boom, exitCode: 1}}}]}", health.Degraded, "boom"},
		{"killed for its memory", "status: {phase: Failed, containerStatuses: [{name: a, state: {terminated: {reason: OOMKilled, exitCode: 137}}}]}", health.Degraded, "OOMKilled"},
		{"failed without words: init containers first", "status: {phase: Failed, initContainerStatuses: [{name: i, state: {terminated: {exitCode: 3}}}], containerStatuses: [{name: a, state: {terminated: {exitCode: 1}}}]}", health.Degraded, `"i" failed with exit code 3`},
		{"running and ready", "spec: {restartPolicy: Always}\nstatus: {phase: Running, conditions: [{type: Ready, status: \"True\"}]}", health.Healthy, ""},
		{"running, restarted, not ready", "spec: {restartPolicy: Always}\nstatus: {phase: Running, containerStatuses: [{name: a, lastState: {terminated: {exitCode: 1}}}]}", health.Degraded, "restarted"},
		{"running, not ready yet", "spec: {restartPolicy: Always}\nstatus: {phase: Running, conditions: [{type: Ready, status: \"False\"}]}", health.Progressing, ""},
		{"running to its end, although ready", "spec: {restartPolicy: OnFailure}\nstatus: {phase: Running, conditions: [{type: Ready, status: \"True\"}]}", health.Progressing, ""},
		{"asked to be judged as if restarted for ever", "metadata: {annotations: {argocd.argoproj.io/ignore-restart-policy: \"true\"}}\nspec: {restartPolicy: Never}\nstatus: {phase: Running, conditions: [{type: Ready, status: \"True\"}]}", health.Healthy, ""},
		{"a hook cannot ask for that", "metadata: {annotations: {argocd.argoproj.io/ignore-restart-policy: \"true\", argocd.argoproj.io/hook: PreSync}}\nspec: {restartPolicy: Never}\nstatus: {phase: Running, conditions: [{type: Ready, status: \"True\"}]}", health.Progressing, ""},
		{"nor can a Helm hook", "metadata: {annotations: {argocd.argoproj.io/ignore-restart-policy: \"true\", helm.sh/hook: pre-install}}\nspec: {restartPolicy: Never}\nstatus: {phase: Running, conditions: [{type: Ready, status: \"True\"}]}", health.Progressing, ""},
		{"a phase nobody knows", "status: {phase: Unknown}", health.Unknown, ""},
		{"no phase", "spec: {}", health.Unknown, ""},
	}},
	"Job": {"apiVersion: batch/v1\nkind: Job\n", []row{
		{"running", "status: {active: 1}", health.Progressing, "not finished"},
		{"failed, whatever else it says", "status: {conditions: [{type: Failed, status: \"True\", message: deadline}, {type: Complete, status: \"True\"}]}", health.Degraded, "deadline"},
		{"suspended", "status: {conditions: [{type: Suspended, status: \"True\"}]}", health.Suspended, "suspended"},
		{"complete", "status: {conditions: [{type: Complete, status: \"True\"}]}", health.Healthy, ""},
		{"quirk: resumed and running again counts as complete", "status: {active: 1, conditions: [{type: Suspended, status: \"False\"}]}", health.Healthy, ""},
		{"conditions that say nothing about the end", "status: {conditions: [{type: FailureTarget, status: \"True\"}]}", health.Progressing, ""},
	}},
	"CronJob": {"apiVersion: batch/v1\nkind: CronJob\nspec: {schedule: '* * * * *'}\n", []row{
		{"nobody has looked at it", "", health.Progressing, "waiting"},
		{"it was not due yet", "status: {}", health.Healthy, "not been scheduled"},
		{"its first Job may still run", "status: {lastScheduleTime: \"2026-01-02T03:04:05Z\"}", health.Healthy, "never completed"},
		{"a running Job is later than the last success", "status: {lastScheduleTime: \"2026-01-02T03:04:05Z\", lastSuccessfulTime: \"2026-01-02T03:03:05Z\", active: [{name: a}]}", health.Healthy, "running"},
		{"the last Job ended, and not well", "status: {lastScheduleTime: \"2026-01-02T03:04:05Z\", lastSuccessfulTime: \"2026-01-02T03:03:05Z\"}", health.Degraded, "not successful"},
		{"the last Job ended well", "status: {lastScheduleTime: \"2026-01-02T03:04:05Z\", lastSuccessfulTime: \"2026-01-02T03:04:15Z\"}", health.Healthy, ""},
	}},
	"SuspendedCronJob": {"apiVersion: batch/v1\nkind: CronJob\nspec: {suspend: true}\n", []row{
		{"people suspended it", "status: {}", health.Suspended, "suspended"},
	}},
	"PodDisruptionBudget": {"apiVersion: policy/v1\nkind: PodDisruptionBudget\n", []row{
		{"nobody has looked at it", "status: {}", health.Progressing, "waiting"},
		{"it allows disruptions", "status: {conditions: [{type: DisruptionAllowed, status: \"True\", reason: SufficientPods}]}", health.Healthy, "SufficientPods"},
		{"one Pod that must not go is a use", "status: {conditions: [{type: DisruptionAllowed, status: \"False\", reason: InsufficientPods}]}", health.Healthy, "InsufficientPods"},
		{"it cannot be computed", "status: {conditions: [{type: DisruptionAllowed, status: \"False\", reason: SyncFailed}]}", health.Degraded, "SyncFailed"},
	}},
	"HorizontalPodAutoscaler": {"apiVersion: autoscaling/v2\nkind: HorizontalPodAutoscaler\n", []row{
		{"nothing is known", "status: {}", health.Progressing, "waiting"},
		{"its target cannot be read", "status: {conditions: [{type: AbleToScale, status: \"False\", reason: FailedGetScale, message: no target}]}", health.Degraded, "no target"},
		{"its target cannot be written", "status: {conditions: [{type: AbleToScale, status: \"False\", reason: FailedUpdateScale}]}", health.Degraded, "FailedUpdateScale"},
		{"its metric cannot be read", "status: {conditions: [{type: ScalingActive, status: \"False\", reason: FailedGetResourceMetric}]}", health.Degraded, ""},
		{"its selector is wrong", "status: {conditions: [{type: ScalingActive, status: \"False\", reason: InvalidSelector}]}", health.Degraded, ""},
		{"able to scale", "status: {conditions: [{type: AbleToScale, status: \"True\", reason: ReadyForNewScale}]}", health.Healthy, ""},
		{"at its limit is healthy", "status: {conditions: [{type: ScalingLimited, status: \"True\", reason: TooManyReplicas}]}", health.Healthy, ""},
		{"quirk: the first condition decides", "status: {conditions: [{type: AbleToScale, status: \"True\"}, {type: ScalingActive, status: \"False\", reason: FailedGetResourceMetric}]}", health.Healthy, ""},
		{"other reasons are not known to be failures", "status: {conditions: [{type: ScalingActive, status: \"False\", reason: ScalingDisabled}]}", health.Progressing, ""},
	}},
	"HorizontalPodAutoscalerV1": {"apiVersion: autoscaling/v1\nkind: HorizontalPodAutoscaler\n", []row{
		{"without conditions", "status: {}", health.Progressing, "waiting"},
		{"version 1 keeps conditions in an annotation", `metadata: {annotations: {autoscaling.alpha.kubernetes.io/conditions: '[{"type":"AbleToScale","status":"True"}]'}}`, health.Healthy, ""},
		{"failures, too", `metadata: {annotations: {autoscaling.alpha.kubernetes.io/conditions: '[{"type":"ScalingActive","status":"False","reason":"InvalidSelector"}]'}}`, health.Degraded, "InvalidSelector"},
		{"an annotation that is no list", `metadata: {annotations: {autoscaling.alpha.kubernetes.io/conditions: '{'}}`, health.Unknown, "not readable"},
	}},
	"Service": {"apiVersion: v1\nkind: Service\n", []row{
		{"inside the cluster there is nothing to wait for", "spec: {type: ClusterIP}", health.Healthy, ""},
		{"a load balancer without an address", "spec: {type: LoadBalancer}", health.Progressing, "address"},
		{"a load balancer with one", "spec: {type: LoadBalancer}\nstatus: {loadBalancer: {ingress: [{ip: 192.0.2.1}]}}", health.Healthy, ""},
	}},
	"Ingress": {"apiVersion: networking.k8s.io/v1\nkind: Ingress\n", []row{
		{"no address", "status: {loadBalancer: {}}", health.Progressing, "address"},
		{"an address", "status: {loadBalancer: {ingress: [{hostname: a.example.org}]}}", health.Healthy, ""},
	}},
	"OldIngress": {"apiVersion: extensions/v1beta1\nkind: Ingress\n", []row{
		{"the same under its old name", "status: {loadBalancer: {ingress: [{ip: 192.0.2.1}]}}", health.Healthy, ""},
	}},
	"PersistentVolumeClaim": {"apiVersion: v1\nkind: PersistentVolumeClaim\n", []row{
		{"its volume is gone", "status: {phase: Lost}", health.Degraded, "lost"},
		{"no volume yet", "status: {phase: Pending}", health.Progressing, "waiting"},
		{"it has one", "status: {phase: Bound}", health.Healthy, ""},
		{"anything else", "status: {phase: Released}", health.Unknown, "Released"},
	}},
	"APIService": {"apiVersion: apiregistration.k8s.io/v1\nkind: APIService\n", []row{
		{"it answers", "status: {conditions: [{type: Available, status: \"True\", reason: Passed}]}", health.Healthy, "Passed"},
		{"it does not", "status: {conditions: [{type: Available, status: \"False\", message: no endpoints}]}", health.Progressing, "no endpoints"},
		{"nobody asked yet", "status: {}", health.Progressing, "waiting"},
	}},
	"Workflow": {"apiVersion: argoproj.io/v1alpha1\nkind: Workflow\n", []row{
		{"not started", "status: {}", health.Progressing, ""},
		{"pending", "status: {phase: Pending}", health.Progressing, ""},
		{"running", "status: {phase: Running, message: step 1}", health.Progressing, "step 1"},
		{"succeeded", "status: {phase: Succeeded}", health.Healthy, ""},
		{"failed", "status: {phase: Failed}", health.Degraded, ""},
		{"error", "status: {phase: Error}", health.Degraded, ""},
		{"anything else", "status: {phase: Paused}", health.Unknown, "Paused"},
	}},
	"CustomResourceDefinition": {"apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\n", []row{
		{"just created", "spec: {}", health.Progressing, "not served"},
		{"served", "status: {conditions: [{type: NamesAccepted, status: \"True\"}, {type: Established, status: \"True\"}]}", health.Healthy, ""},
		{"its names are taken", "status: {conditions: [{type: NamesAccepted, status: \"False\", message: taken}]}", health.Degraded, "taken"},
		{"served without a structural schema", "status: {conditions: [{type: Established, status: \"True\"}, {type: NonStructuralSchema, status: \"True\", message: bad}]}", health.Degraded, "bad"},
		{"on its way out", "status: {conditions: [{type: Established, status: \"True\"}, {type: Terminating, status: \"True\"}]}", health.Progressing, "removed"},
	}},
	"Namespace": {"apiVersion: v1\nkind: Namespace\n", []row{
		{"objects can be created in it", "status: {phase: Active}", health.Healthy, ""},
		{"they no longer can", "status: {phase: Terminating}", health.Progressing, "Terminating"},
		{"nobody has looked at it", "spec: {}", health.Progressing, "observed"},
	}},
	"Flux": {"apiVersion: kustomize.toolkit.fluxcd.io/v1\nkind: Kustomization\n", []row{
		{"suspended by people", "spec: {suspend: true}\nstatus: {conditions: [{type: Ready, status: \"False\"}]}", health.Suspended, "suspended"},
		{"a new object", "metadata: {generation: 1}\nstatus: {observedGeneration: -1}", health.Progressing, "observed"},
		{"stalled needs people", "status: {conditions: [{type: Stalled, status: \"True\", message: bad URL}]}", health.Degraded, "bad URL"},
		{"ready for an older spec", "metadata: {generation: 2}\nstatus: {observedGeneration: 1, conditions: [{type: Ready, status: \"True\"}]}", health.Progressing, "observed"},
		{"ready", "metadata: {generation: 2}\nstatus: {observedGeneration: 2, conditions: [{type: Ready, status: \"True\", message: Applied}]}", health.Healthy, "Applied"},
		{"working", "status: {conditions: [{type: Ready, status: Unknown, message: building}]}", health.Progressing, "building"},
		{"a failure does not move observedGeneration: its condition knows better", "metadata: {generation: 2}\nstatus: {observedGeneration: 1, conditions: [{type: Ready, status: \"False\", observedGeneration: 2, message: no path}]}", health.Degraded, "no path"},
	}},
	"HelmRepository": {"apiVersion: source.toolkit.fluxcd.io/v1\nkind: HelmRepository\n", []row{
		{"a registry is an address that nobody reconciles", "spec: {type: oci}", health.Healthy, ""},
		{"an index is", "spec: {type: default}", health.Progressing, ""},
	}},

	"ExternalSecret":        externalSecrets,
	"SecretStore":           secretStores,
	"ClusterSecretStore":    clusterSecretStores,
	"PushSecret":            pushSecrets,
	"ClusterExternalSecret": clusterExternalSecrets,
	"ClusterPushSecret":     clusterPushSecrets,
	"SealedSecret":          sealedSecrets,
}

func TestJudge(t *testing.T) {
	for kind, s := range suites {
		t.Run(kind, func(t *testing.T) {
			for _, r := range s.rows {
				got, ok := health.Options{}.Judge(object(t, s.head+r.fields))
				if !ok {
					t.Errorf("%s: the kind has no health", r.reason)
				}
				if got.Status != r.want || !strings.Contains(got.Message, r.says) {
					t.Errorf("%s: want %s saying %q, got %+v for\n%s", r.reason, r.want, r.says, got, r.fields)
				}
				if got.Generic {
					t.Errorf("%s: a kind with a rule was judged by the generic one", r.reason)
				}
			}
		})
	}
}

// TestAnyKind holds for objects whatever their kind.
func TestAnyKind(t *testing.T) {
	const widget = "apiVersion: example.org/v1\nkind: Widget\n"
	ready := func(status string) string {
		return fmt.Sprintf("status: {conditions: [{type: Ready, status: %q, message: m}]}", status)
	}
	kstatus := health.Options{Kstatus: true}
	cases := map[string]struct {
		reason  string
		options health.Options
		object  string
		want    health.Verdict
		none    bool
	}{
		"Deleting": {
			"whatever is being deleted is pending",
			health.Options{},
			"apiVersion: v1\nkind: ConfigMap\nmetadata: {deletionTimestamp: \"2026-01-02T03:04:05Z\"}",
			health.Verdict{Status: health.Progressing, Message: "Pending deletion"},
			false,
		},
		"DeletingWorkload": {
			"however well it fares",
			health.Options{},
			"apiVersion: apps/v1\nkind: Deployment\nmetadata: {deletionTimestamp: \"2026-01-02T03:04:05Z\", finalizers: [a]}",
			health.Verdict{Status: health.Progressing, Message: "Pending deletion"},
			false,
		},
		"DeletingHook": {
			"a finished hook that is only held for its phase is judged by what it did",
			health.Options{},
			"apiVersion: batch/v1\nkind: Job\nmetadata: {deletionTimestamp: \"2026-01-02T03:04:05Z\", finalizers: [argocd.argoproj.io/hook-finalizer]}\n" +
				"status: {conditions: [{type: Complete}]}",
			health.Verdict{Status: health.Healthy},
			false,
		},
		"OtherVersion": {
			"the fields of another version may mean something else",
			health.Options{},
			"apiVersion: apps/v1beta1\nkind: Deployment",
			health.Verdict{Status: health.Unknown, Message: "no rule for version v1beta1"},
			false,
		},
		"NoRule":         {"most kinds have no health", health.Options{}, "apiVersion: v1\nkind: ConfigMap", health.Verdict{}, true},
		"OtherGroup":     {"a kind is more than its name", health.Options{}, "apiVersion: example.org/v1\nkind: Deployment", health.Verdict{}, true},
		"Application":    {"a child Application has none, as in Argo CD", kstatus, "apiVersion: argoproj.io/v1alpha1\nkind: Application\nstatus: {health: {status: Degraded}}", health.Verdict{}, true},
		"GenericUnasked": {"Argo CD does not judge custom kinds by Ready", health.Options{}, widget + ready("False"), health.Verdict{}, true},
		"GenericReady":   {"Ready says it", kstatus, widget + ready("True"), health.Verdict{Status: health.Healthy, Message: "m", Generic: true}, false},
		"GenericNot":     {"not ready may still become so", kstatus, widget + ready("False"), health.Verdict{Status: health.Progressing, Message: "m", Generic: true}, false},
		"GenericUnknown": {"so may unknown", kstatus, widget + ready("Unknown"), health.Verdict{Status: health.Progressing, Message: "m", Generic: true}, false},
		"GenericStalled": {
			"stalled will not", kstatus, widget + "status: {conditions: [{type: Stalled, status: \"True\", reason: Bad}]}",
			health.Verdict{Status: health.Degraded, Message: "Bad", Generic: true},
			false,
		},
		"GenericReconciling": {
			"work goes on although the last result was good", kstatus,
			widget + "status: {conditions: [{type: Ready, status: \"True\"}, {type: Reconciling, status: \"True\", message: r}]}",
			health.Verdict{Status: health.Progressing, Message: "r", Generic: true},
			false,
		},
		"GenericOld": {
			"a condition of an older spec says nothing", kstatus,
			widget + "metadata: {generation: 3}\nstatus: {observedGeneration: 2, conditions: [{type: Ready, status: \"True\"}]}",
			health.Verdict{Status: health.Progressing, Message: "the latest spec has not been observed yet", Generic: true},
			false,
		},
		"GenericUnversioned": {
			"a controller that does not count generations is believed", kstatus,
			widget + "metadata: {generation: 3}\n" + ready("True"),
			health.Verdict{Status: health.Healthy, Message: "m", Generic: true},
			false,
		},
		"GenericSilent": {"without conditions there is nothing to judge by", kstatus, widget + "status: {phase: Fine}", health.Verdict{}, true},
		"OddType": {
			"a rule must not judge what it cannot read",
			health.Options{},
			"apiVersion: apps/v1\nkind: Deployment\nspec: {replicas: many}",
			health.Verdict{Status: health.Unknown, Message: "field spec.replicas has an unexpected type"},
			false,
		},
		"OddNested": {
			"the field is named in full",
			health.Options{},
			"apiVersion: apps/v1\nkind: ReplicaSet\nstatus: {conditions: [{type: 7}]}",
			health.Verdict{Status: health.Unknown, Message: "field status.conditions[].type has an unexpected type"},
			false,
		},
		"OddFraction": {
			"half a replica is none",
			health.Options{},
			"apiVersion: apps/v1\nkind: Deployment\nspec: {replicas: 1.5}",
			health.Verdict{Status: health.Unknown, Message: "field spec.replicas has an unexpected type"},
			false,
		},
		"OddParent": {
			"a status that is a text",
			health.Options{},
			"apiVersion: v1\nkind: PersistentVolumeClaim\nstatus: Bound",
			health.Verdict{Status: health.Unknown, Message: "field status has an unexpected type"},
			false,
		},
		"Empty": {"an object without a kind", kstatus, "{}", health.Verdict{}, true},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got, ok := tc.options.Judge(object(t, tc.object))
			if ok == tc.none {
				t.Fatalf("%s: has health: %v", tc.reason, ok)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tc.reason, diff)
			}
		})
	}
	if _, ok := (health.Options{}).Judge(nil); ok {
		t.Error("nothing has health")
	}
}

func TestLongMessage(t *testing.T) {
	obj := object(t, "apiVersion: v1\nkind: Pod\nstatus: {phase: Failed, message: \""+strings.Repeat("ä", 4000)+"\"}")
	got, _ := health.Options{}.Judge(obj)
	if len(got.Message) > 510 || !strings.HasSuffix(got.Message, "ä…") {
		t.Errorf("a message of %d bytes was kept as %d: %q", 8000, len(got.Message), got.Message)
	}
}

func TestOrder(t *testing.T) {
	best := []health.Status{health.Healthy, health.Suspended, health.Progressing, health.Missing, health.Degraded, health.Unknown}
	for i, a := range best {
		for j, b := range best {
			if got := health.Worse(a, b); got != (i > j) {
				t.Errorf("Worse(%s, %s) = %v", a, b, got)
			}
		}
	}
	if !health.Worse("Nonsense", health.Degraded) {
		t.Error("a status that nobody knows must not look good")
	}
}

func TestAggregate(t *testing.T) {
	v := func(s health.Status, m string) health.Verdict { return health.Verdict{Status: s, Message: m} }
	cases := map[string]struct {
		reason string
		in     []health.Verdict
		want   health.Verdict
	}{
		"Nothing":  {"nothing to judge is fine", nil, v(health.Healthy, "")},
		"One":      {"one verdict stands", []health.Verdict{v(health.Healthy, "m")}, v(health.Healthy, "m")},
		"Worst":    {"the worst wins", []health.Verdict{v(health.Progressing, "p"), v(health.Degraded, "d"), v(health.Healthy, "")}, v(health.Degraded, "d")},
		"Unknown":  {"what is unknown may be worse", []health.Verdict{v(health.Unknown, "u"), v(health.Degraded, "d")}, v(health.Unknown, "u")},
		"First":    {"of equals the first, so that messages do not flicker", []health.Verdict{v(health.Degraded, "1"), v(health.Degraded, "2")}, v(health.Degraded, "1")},
		"Missing":  {"missing is worse than progressing", []health.Verdict{v(health.Missing, "m"), v(health.Progressing, "p")}, v(health.Missing, "m")},
		"Suspends": {"suspended is worse than healthy", []health.Verdict{v(health.Healthy, ""), v(health.Suspended, "s")}, v(health.Suspended, "s")},
	}
	for name, tc := range cases {
		if diff := cmp.Diff(tc.want, health.Aggregate(tc.in)); diff != "" {
			t.Errorf("%s: %s (-want +got):\n%s", name, tc.reason, diff)
		}
	}
}

func TestNeedsObject(t *testing.T) {
	cases := map[schema.GroupKind]struct{ argo, kstatus bool }{
		{Group: "apps", Kind: "Deployment"}:                           {true, true},
		{Group: "", Kind: "Pod"}:                                      {true, true},
		{Group: "kustomize.toolkit.fluxcd.io", Kind: "Kustomization"}: {true, true},
		{Group: "", Kind: "ConfigMap"}:                                {false, false},
		{Group: "rbac.authorization.k8s.io", Kind: "Role"}:            {false, false},
		{Group: "batch", Kind: "CronJob"}:                             {true, true},
		{Group: "cert-manager.io", Kind: "Certificate"}:               {false, true},
		{Group: "example.org", Kind: "Deployment"}:                    {false, true},
	}
	for gk, want := range cases {
		if got := (health.Options{}).NeedsObject(gk); got != want.argo {
			t.Errorf("%s: needs the object: %v", gk, got)
		}
		if got := (health.Options{Kstatus: true}).NeedsObject(gk); got != want.kstatus {
			t.Errorf("%s with Kstatus: needs the object: %v", gk, got)
		}
	}
}

// TestNeedsWhatItJudges ties the two together: a kind that is judged but watched as
// metadata only would be judged wrong.
func TestNeedsWhatItJudges(t *testing.T) {
	for kind, s := range suites {
		gk := object(t, s.head).GroupVersionKind().GroupKind()
		if !(health.Options{}).NeedsObject(gk) {
			t.Errorf("%s: %s is judged, but NeedsObject does not say so", kind, gk)
		}
	}
}

func TestJudgeAll(t *testing.T) {
	objs := []*unstructured.Unstructured{
		object(t, "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: a, namespace: team}\nstatus: {phase: Lost}"),
		object(t, "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: ConfigMap, metadata: {name: b}}\n- 7\n"+
			"- {apiVersion: v1, kind: Namespace, metadata: {name: c}, status: {phase: Active}}"),
		nil,
		object(t, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: d}\nitems: []"),
	}
	got, err := json.Marshal(health.Options{}.JudgeAll(objs))
	if err != nil {
		t.Fatal(err)
	}
	want := `[` +
		`{"apiVersion":"v1","kind":"PersistentVolumeClaim","namespace":"team","name":"a","status":"Degraded","message":"the volume is lost"},` +
		`{"apiVersion":"v1","kind":"ConfigMap","namespace":"","name":"b","status":"","message":""},` +
		`{"apiVersion":"v1","kind":"Namespace","namespace":"","name":"c","status":"Healthy","message":""},` +
		`{"apiVersion":"v1","kind":"ConfigMap","namespace":"","name":"d","status":"","message":""}]`
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// odd are the values that no rule expects somewhere.
var odd = []any{
	nil, "", "text", true, int64(-1), 1.5, json.Number("x"),
	[]any{},
	[]any{nil},
	[]any{"a", int64(1)},
	map[string]any{},
	map[string]any{"type": int64(1)},
	[]any{map[string]any{"state": "x", "type": []any{}}},
	struct{}{},
}

// TestOddTypes puts every odd value in place of every field of every object above:
// whatever the cluster sends, a verdict comes back.
func TestOddTypes(t *testing.T) {
	n := 0
	for _, kind := range slices.Sorted(maps.Keys(suites)) {
		for _, r := range suites[kind].rows {
			fields := object(t, suites[kind].head+r.fields).Object
			mutate(fields, func() {
				n++
				verdict, ok := health.Options{Kstatus: true}.Judge(&unstructured.Unstructured{Object: fields})
				if ok && health.Worse(verdict.Status, health.Degraded) && verdict.Status != health.Unknown {
					t.Errorf("%s: %+v is no verdict", kind, verdict)
				}
			})
		}
	}
	if n < 1000 {
		t.Errorf("only %d mutations were tried", n)
	}
}

// mutate calls f with each field of m, at any depth, replaced by each odd value.
func mutate(m map[string]any, f func()) {
	for key, value := range m {
		for _, o := range odd {
			m[key] = o
			f()
		}
		m[key] = value
		mutateIn(value, f)
	}
}

func mutateIn(value any, f func()) {
	switch v := value.(type) {
	case map[string]any:
		mutate(v, f)
	case []any:
		for _, item := range v {
			mutateIn(item, f)
		}
	}
}

func FuzzJudge(f *testing.F) {
	for _, s := range suites {
		for _, r := range s.rows {
			data, err := json.Marshal(object(f, s.head+r.fields).Object)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(data)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var fields map[string]any
		if json.Unmarshal(data, &fields) != nil {
			t.Skip()
		}
		obj := &unstructured.Unstructured{Object: fields}
		for _, o := range []health.Options{{}, {Kstatus: true}} {
			verdict, ok := o.Judge(obj)
			if ok == (verdict.Status == "") {
				t.Errorf("has health: %v, verdict %+v", ok, verdict)
			}
			again, _ := o.Judge(obj)
			if verdict != again {
				t.Errorf("judged twice, differently: %+v, %+v", verdict, again)
			}
			o.JudgeAll([]*unstructured.Unstructured{obj})
		}
	})
}
