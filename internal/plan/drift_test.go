package plan_test

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/plan"
)

const driftManager = "deliverer"

// applied is a Deployment as it was applied, and what managedFields say we own of it.
const (
	appliedDeployment = `{apiVersion: apps/v1, kind: Deployment, metadata: {name: web, namespace: shop, labels: {app: web}},
		spec: {selector: {matchLabels: {app: web}}, template: {metadata: {labels: {app: web}},
		spec: {containers: [{name: web, image: web:1, env: [{name: A, value: a}]}]}}}}`
	ownedDeployment = `{"f:metadata":{"f:labels":{"f:app":{}}},"f:spec":{"f:selector":{},"f:template":{"f:metadata":{"f:labels":{"f:app":{}}},
		"f:spec":{"f:containers":{"k:{\"name\":\"web\"}":{".":{},"f:name":{},"f:image":{},"f:env":{"k:{\"name\":\"A\"}":{".":{},"f:name":{},"f:value":{}}}}}}}}}`
)

// theirs is an entry of somebody else: manager, subresource, fields.
type theirs struct{ manager, sub, fields string }

// live makes a live object from YAML, ours being the fields that we own, empty: none.
func live(t *testing.T, text, ours string, others ...theirs) *unstructured.Unstructured {
	t.Helper()
	o := parse(t, text)
	var entries []metav1.ManagedFieldsEntry
	add := func(manager, sub, fields string, op metav1.ManagedFieldsOperationType) {
		if !json.Valid([]byte(fields)) {
			t.Fatalf("no JSON: %s", fields)
		}
		entries = append(entries, metav1.ManagedFieldsEntry{
			Manager: manager, Operation: op, APIVersion: o.GetAPIVersion(), Subresource: sub, FieldsType: "FieldsV1", FieldsV1: metav1.NewFieldsV1(fields),
		})
	}
	if ours != "" {
		add(driftManager, "", ours, metav1.ManagedFieldsOperationApply)
	}
	for _, m := range others {
		add(m.manager, m.sub, m.fields, metav1.ManagedFieldsOperationUpdate)
	}
	o.SetManagedFields(entries)
	return o
}

func parse(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	o := &unstructured.Unstructured{}
	raw, err := yaml.YAMLToJSON([]byte(text))
	if err == nil {
		err = o.UnmarshalJSON(raw)
	}
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// show renders a drift: changed ~, added +, to be removed -.
func showDrift(d plan.Drift) []string {
	var lines []string
	for _, c := range d.Changed {
		lines = append(lines, fmt.Sprintf("~ %s by %s", c.Field, c.Manager))
	}
	for _, a := range d.Added {
		lines = append(lines, fmt.Sprintf("+ %s by %s", a.Field, a.Manager))
	}
	for _, s := range d.Surplus {
		lines = append(lines, "- "+s.String())
	}
	return lines
}

func TestFindDrift(t *testing.T) {
	deployment := func(spec, pod, container string) string {
		return `{apiVersion: apps/v1, kind: Deployment, metadata: {name: web, namespace: shop, labels: {app: web}, uid: x},
			spec: {` + spec + `selector: {matchLabels: {app: web}}, template: {metadata: {labels: {app: web}},
			spec: {` + pod + `containers: [{name: web, image: web:1, ` + container + `env: [{name: A, value: a}]}, {name: evil, image: evil:1}]}}}}`
	}
	tests := []struct {
		name   string
		live   *unstructured.Unstructured
		moved  bool
		shared bool
		want   []string
		reason string
	}{
		{
			name: "a sidecar and hostPID",
			live: live(t, deployment("", "hostPID: true, ", ""), ownedDeployment, theirs{"kubectl-edit", "", `{"f:spec":{"f:template":{"f:spec":{
				"f:hostPID":{},"f:containers":{"k:{\"name\":\"evil\"}":{".":{},"f:name":{},"f:image":{}}}}}}}`}),
			want: []string{
				"+ spec.template.spec.containers[name=evil] by kubectl-edit", "+ spec.template.spec.hostPID by kubectl-edit",
				"- spec.template.spec.containers[name=evil]", "- spec.template.spec.hostPID",
			},
			reason: "they do not revert by themselves",
		},
		{
			name: "privileged, in a container of ours",
			live: live(t, deployment("", "", "securityContext: {privileged: true}, "), ownedDeployment, theirs{"kubectl-patch", "", `{"f:spec":{"f:template":{"f:spec":{
				"f:containers":{"k:{\"name\":\"web\"}":{"f:securityContext":{".":{},"f:privileged":{}}}}}}}}`}),
			want: []string{
				"+ spec.template.spec.containers[name=web].securityContext.privileged by kubectl-patch",
				"- spec.template.spec.containers[name=web].securityContext",
			},
			reason: "the deepest field is told, and all that was added with it is removed",
		},
		{
			name: "an image", moved: true,
			live: live(t, `{apiVersion: apps/v1, kind: Deployment, metadata: {name: web, namespace: shop, labels: {app: web}},
				spec: {selector: {matchLabels: {app: web}}, template: {metadata: {labels: {app: web}},
				spec: {containers: [{name: web, image: evil:1, env: [{name: A, value: a}]}]}}}}`,
				`{"f:metadata":{"f:labels":{"f:app":{}}},"f:spec":{"f:selector":{},"f:template":{"f:metadata":{"f:labels":{"f:app":{}}},
				"f:spec":{"f:containers":{"k:{\"name\":\"web\"}":{".":{},"f:name":{},"f:env":{"k:{\"name\":\"A\"}":{".":{},"f:name":{},"f:value":{}}}}}}}}}`,
				theirs{"kubectl-set", "", `{"f:spec":{"f:template":{"f:spec":{"f:containers":{"k:{\"name\":\"web\"}":{"f:image":{}}}}}}}`}),
			want: []string{"~ spec.template.spec.containers[name=web].image by kubectl-set"}, reason: "the source has it, with another value",
		},
		{
			name: "a variable that is gone", moved: true,
			live: live(t, `{apiVersion: apps/v1, kind: Deployment, metadata: {name: web, namespace: shop, labels: {app: web}},
				spec: {selector: {matchLabels: {app: web}}, template: {metadata: {labels: {app: web}}, spec: {containers: [{name: web, image: "web:1"}]}}}}`,
				`{"f:metadata":{"f:labels":{"f:app":{}}}}`, theirs{"kubectl-edit", "", `{"f:spec":{"f:paused":{}}}`}),
			want: []string{"~ spec.template.spec.containers[name=web].env by kubectl-edit"}, reason: "who removes owns nothing by it, and wrote last",
		},
		{
			name: "what controllers do",
			live: live(t, `{apiVersion: apps/v1, kind: Deployment, metadata: {name: web, labels: {app: web}, finalizers: [x], annotations: {deployment.kubernetes.io/revision: "1", mine: x}},
				spec: {replicas: 3, selector: {matchLabels: {app: web}}}, status: {replicas: 1}}`, ownedDeployment,
				theirs{"kube-controller-manager", "", `{"f:metadata":{"f:finalizers":{".":{},"v:\"x\"":{}},"f:annotations":{".":{},"f:deployment.kubernetes.io/revision":{}}},"f:status":{"f:replicas":{}}}`},
				theirs{"kube-controller-manager", "scale", `{"f:spec":{"f:replicas":{}}}`},
				theirs{"somebody", "status", `{"f:status":{"f:replicas":{}}}`}),
			want: nil, reason: "a normal cluster is quiet",
		},
		{
			name: "who says to be a controller",
			live: live(t, deployment("", "hostPID: true, ", ""), ownedDeployment, theirs{"kube-controller-manager", "", `{"f:spec":{"f:template":{"f:spec":{"f:hostPID":{}}}}}`}),
			want: []string{"+ spec.template.spec.hostPID by kube-controller-manager", "- spec.template.spec.hostPID"}, reason: "a manager is a name that anybody may take",
		},
		{
			name: "our own name", moved: true,
			live: live(t, deployment("", "hostPID: true, ", ""), `{"f:spec":{"f:template":{"f:spec":{"f:hostPID":{},
				"f:containers":{"k:{\"name\":\"evil\"}":{".":{},"f:name":{},"f:image":{}}}}}}}`),
			want: []string{
				"+ spec.template.spec.containers[name=evil] by deliverer", "+ spec.template.spec.hostPID by deliverer",
			},
			reason: "our next apply removes what is not in the source",
		},
		{
			name: "a restart",
			live: live(t, `{apiVersion: apps/v1, kind: Deployment, metadata: {name: web}, spec: {template: {metadata: {annotations: {kubectl.kubernetes.io/restartedAt: now}}}}}`,
				ownedDeployment, theirs{"kubectl-rollout", "", `{"f:spec":{"f:template":{"f:metadata":{"f:annotations":{".":{},"f:kubectl.kubernetes.io/restartedAt":{}}}}}}`}),
			want:   []string{`+ spec.template.metadata.annotations["kubectl.kubernetes.io/restartedAt"] by kubectl-rollout`},
			reason: "it is told, and removing it would restart once more",
		},
		{
			name: "no record at all", moved: true,
			live: live(t, appliedDeployment, ""),
			want: []string{"~ metadata.managedFields by "}, reason: "somebody wiped it",
		},
		{
			name: "no record, and another image", moved: true,
			live: live(t, `{apiVersion: apps/v1, kind: Deployment, metadata: {name: web, namespace: shop, labels: {app: web}},
				spec: {selector: {matchLabels: {app: web}}, template: {metadata: {labels: {app: web}},
				spec: {containers: [{name: web, image: evil:1, env: [{name: A, value: a}]}]}}}}`, ""),
			want:   []string{"~ metadata.managedFields by ", "~ spec.template.spec.containers[name=web].image by "},
			reason: "what nobody owns is told by its value",
		},
		{
			name: "an object that others may add to", shared: true,
			live: live(t, deployment("", "hostPID: true, ", ""), ownedDeployment, theirs{"partner", "", `{"f:spec":{"f:template":{"f:spec":{"f:hostPID":{}}}}}`}),
			want: nil, reason: "its own marks say so",
		},
		{
			name: "what is not there any more",
			live: live(t, appliedDeployment, ownedDeployment, theirs{"old", "", `{"f:spec":{"f:template":{"f:spec":{"f:hostPID":{}}}}}`}),
			want: nil, reason: "an owner of nothing has added nothing",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := plan.FindDrift(plan.Scene{
				ID:   object.ID{Group: "apps", Kind: "Deployment", Namespace: "shop", Name: "web"},
				Live: tt.live, Desired: parse(t, appliedDeployment), Manager: driftManager, Moved: tt.moved, Shared: tt.shared,
			})
			if diff := cmp.Diff(tt.want, showDrift(got)); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tt.reason, diff)
			}
		})
	}
}

func TestIgnoredFieldsDoNotDrift(t *testing.T) {
	id := object.ID{Group: "apps", Kind: "Deployment", Namespace: "shop", Name: "web"}
	rules, err := plan.CompileIgnores([]plan.Ignore{{Group: "apps", Pointers: []string{"/spec/template/spec/hostPID"}}})
	if err != nil {
		t.Fatal(err)
	}
	seen := live(t, `{apiVersion: apps/v1, kind: Deployment, metadata: {name: web}, spec: {template: {spec: {hostPID: true, hostIPC: true}}}}`,
		ownedDeployment, theirs{"kubectl", "", `{"f:spec":{"f:template":{"f:spec":{"f:hostPID":{},"f:hostIPC":{}}}}}`})
	got := showDrift(plan.FindDrift(plan.Scene{ID: id, Live: seen, Manager: driftManager, Ignored: rules.For(id)}))
	want := []string{"+ spec.template.spec.hostIPC by kubectl", "- spec.template.spec.hostIPC"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("an ignored field belongs to whoever sets it (-want +got):\n%s", diff)
	}
}

func TestFleetingKinds(t *testing.T) {
	if !plan.Fleeting(schema.GroupKind{Group: "batch", Kind: "Job"}) || plan.Fleeting(schema.GroupKind{Group: "apps", Kind: "Deployment"}) {
		t.Error("Jobs go by themselves, Deployments do not")
	}
}

func TestDriftScaled(t *testing.T) {
	tests := []struct {
		name, desired string
		moved         bool
		want          []string
		reason        string
	}{
		{
			name: "replicas of the source", desired: "replicas: 2, ", moved: true, want: []string{"~ spec.replicas by kubectl"},
			reason: "kubectl scale is the edit that people make first, and it is reverted: who made it is told",
		},
		{name: "replicas that the source leaves open", moved: true, reason: "that is what scale is for"},
		{name: "nobody touched what is ours", desired: "replicas: 2, ", reason: "an autoscaler of something else"},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			text := func(replicas string) string {
				return `{apiVersion: apps/v1, kind: Deployment, metadata: {name: web, namespace: shop}, spec: {` + replicas + `paused: false}}`
			}
			d := plan.FindDrift(plan.Scene{
				Live:    live(t, text("replicas: 7, "), `{"f:spec":{"f:paused":{}}}`, theirs{"kubectl", "scale", `{"f:spec":{"f:replicas":{}}}`}),
				Desired: parse(t, text(tc.desired)), Manager: driftManager, Moved: tc.moved,
			})
			if diff := cmp.Diff(tc.want, showDrift(d)); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tc.reason, diff)
			}
		})
	}
}
