package apply_test

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"github.com/holdfastcd/holdfast/internal/apply"
	"github.com/holdfastcd/holdfast/internal/cluster"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/plan"
	"github.com/holdfastcd/holdfast/test/harness"
)

const us = "holdfast"

func (s *site) replicas(t *testing.T, o *unstructured.Unstructured) int64 {
	t.Helper()
	n, _, _ := unstructured.NestedInt64(s.get(t, o).Object, "spec", "replicas")
	return n
}

// TestIgnoredReplicas: a field that a delivery ignores and respects has whatever
// value the cluster gives it, whoever owns it.
func TestIgnoredReplicas(t *testing.T) {
	rule := plan.Ignore{Kind: "Deployment", Pointers: []string{"/spec/replicas"}, Respect: true}
	source := func(replicas, image string) string {
		return strings.NewReplacer("replicas: 1,", replicas, `image: "web:1"`, `image: "`+image+`"`).Replace(newWeb)
	}
	s := newSite(t)
	h := s.hold(t, us, source("replicas: 3,", "web:1"), rule)
	h.must(t, apply.Created)
	if n := s.replicas(t, h.o); n != 3 {
		t.Fatalf("created with %d replicas: nobody has another value yet", n)
	}
	h.source(t, source("replicas: 1,", "web:2"), rule)
	h.must(t, apply.Configured)
	if n := s.replicas(t, h.o); n != 3 {
		t.Errorf("a change beside it set replicas to %d", n)
	}
	h.source(t, source("", "web:3"), rule)
	h.must(t, apply.Configured)
	if n := s.replicas(t, h.o); n != 3 {
		t.Errorf("gone from the source, replicas fell to %d", n)
	}
	s.patch(t, h.o, types.MergePatchType, "kubectl", `{"spec":{"replicas":5}}`, "scale")
	h.level(t)
	h.source(t, source("replicas: 2,", "web:4"), rule)
	h.must(t, apply.Configured)
	if n := s.replicas(t, h.o); n != 5 {
		t.Errorf("a change beside it undid a manual scale: %d replicas", n)
	}
	for _, m := range s.get(t, h.o).GetManagedFields() {
		if m.Manager == us && strings.Contains(m.FieldsV1.GetRawString(), "f:replicas") {
			t.Error("we own what somebody else sets")
		}
	}
}

// TestImmutable: a field that is set once is told about; with force the object is
// made anew, without anybody waiting for it.
func TestImmutable(t *testing.T) {
	s := newSite(t)
	const job = `{apiVersion: batch/v1, kind: Job, metadata: {name: once}, spec: {suspend: true, template: {spec: {restartPolicy: Never, containers: [{name: c, image: "i:1"}]}}}}`
	h := s.hold(t, us, job)
	uid := h.must(t, apply.Created).Record.UID
	h.level(t)
	h.source(t, strings.Replace(job, "i:1", "i:2", 1))
	r := h.must(t, apply.Failed)
	if fault.KindOf(r.Err) != fault.Rejected || !strings.Contains(r.Err.Error(), "spec.template") || !strings.Contains(r.Err.Error(), "force") {
		t.Errorf("the error must name the field, and what to do: %v", r.Err)
	}
	h.options.Force = true
	r = h.must(t, apply.Waiting)
	if !strings.Contains(r.Err.Error(), "replaced by force") {
		t.Errorf("got %v", r.Err)
	}
	h.await(t, "gone", func(o plan.Observed) bool { return o.Sight == plan.Absent })
	if created := h.must(t, apply.Created); created.Record.UID == uid {
		t.Error("it is still the same object")
	}

	const claim = `{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: data}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}`
	h = s.hold(t, us, claim)
	h.must(t, apply.Created)
	h.level(t)
	h.options.Force = true
	h.source(t, strings.Replace(claim, "ReadWriteOnce", "ReadWriteMany", 1))
	if r := h.must(t, apply.Failed); !strings.Contains(r.Err.Error(), "never replaced by force") {
		t.Errorf("data must not go by force: %v", r.Err)
	}
}

// TestConcurrentWrite: what somebody else does during a check is not what the
// check did.
func TestConcurrentWrite(t *testing.T) {
	s := newSite(t)
	h := s.hold(t, us, `{apiVersion: v1, kind: ConfigMap, metadata: {name: a}, data: {k: v}}`)
	h.must(t, apply.Created)
	s.patch(t, h.o, types.MergePatchType, "kubectl-edit", `{"data":{"other":"1"}}`)
	h.level(t)
	seen := h.observe(h.desired.ID)
	s.patch(t, h.o, types.MergePatchType, "kubectl-edit", `{"data":{"other":"2"}}`)
	a := plan.Action{Op: plan.Confirm, ID: h.desired.ID, Kind: h.desired.Kind, Desired: &h.desired, Observed: seen}
	res := apply.Execute(t.Context(), plan.Plan{Stages: []plan.Stage{{Actions: []plan.Action{a}}}}, h.As(cluster.Account{}), apply.Options{Manager: us})
	if got := res.Objects[0].Outcome; got != apply.Unchanged {
		t.Errorf("got %s: our fields were as desired all the time", got)
	}
}

// TestDuplicates: Kubernetes takes from a create what it refuses from a server-side
// apply; we deliver it, and what runs is the same.
func TestDuplicates(t *testing.T) {
	const workload = `{apiVersion: apps/v1, kind: Deployment, metadata: {name: twice, finalizers: [example.com/x, example.com/x]}, spec: {
		replicas: 0, selector: {matchLabels: {app: a}}, template: {metadata: {labels: {app: a}}, spec: {
		imagePullSecrets: [{name: s}, {name: s}], hostAliases: [{ip: 10.0.0.1, hostnames: [a]}, {ip: 10.0.0.1, hostnames: [b]}],
		containers: [{name: c, image: "i:1", env: [{name: A, value: "1"}, {name: B, value: b}, {name: A, value: "2"}],
		ports: [{containerPort: 80, name: http}, {containerPort: 80, name: web}]}]}}}}`
	const account = `{apiVersion: v1, kind: ServiceAccount, metadata: {name: twice}, secrets: [{name: s}, {name: s}]}`
	for name, text := range map[string]string{"workload": workload, "account": account} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			o := s.parse(t, text)
			api := s.api(t, o)
			t.Cleanup(func() { // a finalizer must not keep the namespace
				_, _ = api.Patch(context.Background(), "twice", types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{})
			})
			if _, err := s.api(t, o).Apply(t.Context(), o.GetName(), o, metav1.ApplyOptions{FieldManager: us}); err == nil || !strings.Contains(err.Error(), "duplicate") {
				t.Fatalf("as it is, a server-side apply of it must be refused for duplicates: %v", err)
			}
			s.create(t, "kubectl-client-side-apply", o)
			h := s.hold(t, us, text)
			if len(h.desired.Warnings) == 0 {
				t.Error("nobody is warned")
			}
			if r := h.pass(t); r.Err != nil || r.Outcome != apply.Configured {
				t.Fatalf("taking it over: %s, %v", r.Outcome, r.Err)
			}
			if r := h.pass(t); r.Err != nil {
				t.Fatal(r.Err)
			}
			if name != "workload" {
				return
			}
			containers, _, _ := unstructured.NestedSlice(s.get(t, h.o).Object, "spec", "template", "spec", "containers")
			c, _ := containers[0].(map[string]any)
			env := []any{map[string]any{"name": "A", "value": "2"}, map[string]any{"name": "B", "value": "b"}}
			if diff := cmp.Diff(env, c["env"]); diff != "" {
				t.Errorf("the last value counts, as in a running container (-want +got):\n%s", diff)
			}
		})
	}
}

// TestAcceptedElsewhere guards the table of lists: of those that it does not name,
// Kubernetes accepts two items of a key from nobody.
func TestAcceptedElsewhere(t *testing.T) {
	s := newSite(t)
	for name, text := range map[string]string{
		"service ports": `{apiVersion: v1, kind: Service, metadata: {name: x}, spec: {ports: [{name: a, port: 80}, {name: b, port: 80}]}}`,
		"containers":    `{apiVersion: v1, kind: Pod, metadata: {name: x}, spec: {containers: [{name: c, image: i}, {name: c, image: i}]}}`,
		"volumes":       `{apiVersion: v1, kind: Pod, metadata: {name: x}, spec: {volumes: [{name: v}, {name: v}], containers: [{name: c, image: i}]}}`,
		"mounts":        `{apiVersion: v1, kind: Pod, metadata: {name: x}, spec: {volumes: [{name: v}], containers: [{name: c, image: i, volumeMounts: [{name: v, mountPath: /x}, {name: v, mountPath: /x}]}]}}`,
		"spread":        `{apiVersion: v1, kind: Pod, metadata: {name: x}, spec: {topologySpreadConstraints: [{maxSkew: 1, topologyKey: a, whenUnsatisfiable: DoNotSchedule}, {maxSkew: 1, topologyKey: a, whenUnsatisfiable: DoNotSchedule}], containers: [{name: c, image: i}]}}`,
		"gates":         `{apiVersion: v1, kind: Pod, metadata: {name: x}, spec: {schedulingGates: [{name: a}, {name: a}], containers: [{name: c, image: i}]}}`,
		"webhooks": `{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingWebhookConfiguration, metadata: {name: x}, webhooks: [
			{name: a.example.com, clientConfig: {url: "https://x.example.com"}, sideEffects: None, admissionReviewVersions: [v1]}, {name: a.example.com, clientConfig: {url: "https://x.example.com"}, sideEffects: None, admissionReviewVersions: [v1]}]}`,
	} {
		o := s.parse(t, text)
		if _, err := s.api(t, o).Create(t.Context(), o, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}); !apierrors.IsInvalid(err) {
			t.Errorf("%s: got %v, want Invalid", name, err)
		}
	}
}

// TestAggregatedRole holds a role of which a controller of Kubernetes fills the
// rules, which the source declares to be none.
func TestAggregatedRole(t *testing.T) {
	s := newSite(t)
	name := "all-" + s.ns
	text := `{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: ` + name + `}, rules: [],
		aggregationRule: {clusterRoleSelectors: [{matchLabels: {part-of: ` + name + `}}]}}`
	part := func(n, verb string) string {
		return `{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: ` + n + `-` + name + `, labels: {part-of: ` + name + `}},
		rules: [{apiGroups: [""], resources: [pods], verbs: [` + verb + `]}]}`
	}
	s.as(t, "test", `{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {name: `+name+`},
		roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin}, subjects: [{kind: ServiceAccount, name: deployer, namespace: `+s.ns+`}]}`)
	h := s.hold(t, us, text)
	mark := harness.Shared(t).Mark(t)
	h.must(t, apply.Created)
	for _, n := range []string{"one", "two", "three"} {
		s.as(t, "test", part(n, "get"))
		harness.Shared(t).Await(t, h.desired.Kind.GVR(), "", name, "to be aggregated", func(o *unstructured.Unstructured) bool {
			rules, _, _ := unstructured.NestedSlice(o.Object, "rules")
			return len(rules) > 0
		})
		h.level(t)
		if r := h.pass(t); r.Outcome != apply.Unchanged {
			t.Errorf("the controller's write was taken for a change of ours: %s (%s)", r.Outcome, r.Action.Op)
		}
		h.level(t)
		if r := h.pass(t); r.Action.Op != plan.Keep {
			t.Errorf("after one check: %s", r.Action.Op)
		}
	}
	rules, _, _ := unstructured.NestedSlice(s.get(t, h.o).Object, "rules")
	if sent := s.sent(t, mark); len(sent) > 4 || len(rules) == 0 {
		t.Errorf("sent %v, and the role has %d rules", sent, len(rules))
	}
}

// TestOwnedByDesign: lists that controllers add to are not taken from them.
func TestOwnedByDesign(t *testing.T) {
	s := newSite(t)
	h := s.hold(t, us, `{apiVersion: v1, kind: ServiceAccount, metadata: {name: a}, secrets: [{name: mine}]}`)
	h.must(t, apply.Created)
	s.patch(t, h.o, types.StrategicMergePatchType, "token-controller", `{"secrets":[{"name":"theirs"}]}`)
	h.level(t)
	h.must(t, apply.Unchanged)
	secrets, _, _ := unstructured.NestedSlice(s.get(t, h.o).Object, "secrets")
	if len(secrets) != 2 {
		t.Errorf("secrets are %v", secrets)
	}
}

// TestWaysToChange changes what we hold in every way: each is one apply, and the
// one after is none.
func TestWaysToChange(t *testing.T) {
	s := newSite(t)
	changes := map[string]func(t *testing.T, o *unstructured.Unstructured){
		"scale": func(t *testing.T, o *unstructured.Unstructured) {
			s.patch(t, o, types.MergePatchType, "kubectl", `{"spec":{"replicas":4}}`, "scale")
		},
		"set image": func(t *testing.T, o *unstructured.Unstructured) {
			s.patch(t, o, types.StrategicMergePatchType, "kubectl-set", `{"spec":{"template":{"spec":{"containers":[{"name":"web","image":"other"}]}}}}`)
		},
		"edit of a list": func(t *testing.T, o *unstructured.Unstructured) {
			s.patch(t, o, types.JSONPatchType, "kubectl-edit", `[{"op":"replace","path":"/spec/template/spec/containers/0/env/0/value","value":"other"}]`)
		},
		"removed field": func(t *testing.T, o *unstructured.Unstructured) {
			s.patch(t, o, types.MergePatchType, "kubectl-edit", `{"metadata":{"labels":{"keep":null}}}`)
		},
		"forced apply": func(t *testing.T, _ *unstructured.Unstructured) {
			s.as(t, "rival", strings.Replace(newWeb, "web:1", "rival", 1))
		},
		"reset of managedFields": func(t *testing.T, o *unstructured.Unstructured) {
			s.patch(t, o, types.JSONPatchType, "kubectl-edit", `[{"op":"replace","path":"/metadata/managedFields","value":[{}]},{"op":"replace","path":"/spec/replicas","value":4}]`)
		},
		"apply under our own name": func(t *testing.T, _ *unstructured.Unstructured) {
			s.as(t, us, strings.Replace(newWeb, "keep: x", "keep: other, more: z", 1))
		},
	}
	for name, change := range changes {
		t.Run(name, func(t *testing.T) {
			name := strings.ReplaceAll(name, " ", "-")
			h := s.hold(t, us, newWeb)
			if err := s.api(t, h.o).Delete(t.Context(), "web", metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
				t.Fatal(err)
			}
			h.await(t, "gone", func(o plan.Observed) bool { return o.Sight == plan.Absent })
			h.must(t, apply.Created)
			harness.Shared(t).Await(t, harness.Deployments, s.ns, "web", "to be ready", harness.Ready(1))
			want := ours(s.get(t, h.o))
			change(t, h.o)
			h.level(t)
			mark := harness.Shared(t).Mark(t)
			if r := h.pass(t); r.Outcome != apply.Reverted {
				t.Fatalf("%s: %s (%s), %v", name, r.Outcome, r.Action.Op, r.Err)
			}
			if sent := s.sent(t, mark); !slices.Equal(sent, []string{"patch by deployer"}) {
				t.Errorf("sent %v, want one apply", sent)
			}
			if diff := cmp.Diff(want, ours(s.get(t, h.o))); diff != "" {
				t.Errorf("after the revert (-want +got):\n%s", diff)
			}
		})
	}
}

// ours is what the source says about a Deployment, as it is live.
func ours(o *unstructured.Unstructured) map[string]any {
	spec, _, _ := unstructured.NestedMap(o.Object, "spec")
	return map[string]any{"labels": o.GetLabels(), "spec": spec}
}

// TestRefusedApply: what refuses a Secret is told without its values.
func TestRefusedApply(t *testing.T) {
	s := newSite(t)
	h := s.hold(t, us, `{apiVersion: v1, kind: Secret, metadata: {name: s}, type: Opaque, data: {k: dG9wLXNlY3JldA==}}`)
	h.must(t, apply.Created)
	h.level(t)
	h.source(t, `{apiVersion: v1, kind: Secret, metadata: {name: s}, type: example.com/other, data: {k: dG9wLXNlY3JldA==}}`)
	r := h.must(t, apply.Failed)
	if !strings.Contains(r.Err.Error(), "type") || strings.Contains(r.Err.Error(), "dG9wLXNlY3JldA") || strings.Contains(r.Err.Error(), "top-secret") {
		t.Errorf("got %v", r.Err)
	}
}
