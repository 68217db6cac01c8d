package own

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	kschema "k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/policy"
	"github.com/holdfastcd/holdfast/internal/policy/cel"
	"github.com/holdfastcd/holdfast/internal/schema"
	"github.com/holdfastcd/holdfast/test/harness"
)

// put makes or changes objects, which go with the test.
func (r *setRig) put(t *testing.T, manifests string) {
	t.Helper()
	for text := range strings.SplitSeq(manifests, "---\n") {
		var u unstructured.Unstructured
		if err := yaml.Unmarshal([]byte(text), &u.Object); err != nil {
			t.Fatalf("%v in %s", err, text)
		}
		resource, ok := r.resource(u.GroupVersionKind().GroupKind())
		if !ok {
			t.Fatalf("%s is not served", u.GetKind())
		}
		of := r.cluster.Dynamic().Resource(resource.GVR())
		if _, err := of.Namespace(u.GetNamespace()).Apply(t.Context(), u.GetName(), &u, metav1.ApplyOptions{FieldManager: "ann", Force: true}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = of.Namespace(u.GetNamespace()).Delete(context.Background(), u.GetName(), metav1.DeleteOptions{})
		})
	}
}

// resource is how the cluster serves the kinds that tests put there.
func (r *setRig) resource(gk kschema.GroupKind) (schema.Kind, bool) {
	return schema.Builtin().Lookup(gk.WithVersion("v1"))
}

// vap is a ValidatingAdmissionPolicy with its binding, for the ConfigMaps of a test.
func vap(name, label, spec, binding string) string {
	return fmt.Sprintf(`apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: %[1]s}
spec:
  matchConstraints:
    objectSelector: {matchLabels: {test: %[2]s}}
    resourceRules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE, UPDATE], resources: [configmaps]}]
%[3]s
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: %[1]s}
spec: {policyName: %[1]s, validationActions: [Deny]%[4]s}
`, name, label, spec, binding)
}

// TestLiveParameters has policies of the cluster, with parameters in kinds of Kubernetes'
// own, judge what the API server judges by them.
func TestLiveParameters(t *testing.T) {
	r := newSetRig(t)
	beside := r.cluster.Namespace(t)
	limit := "  paramKind: {apiVersion: v1, kind: ConfigMap}\n  validations: [{expression: \"object.data.size() <= int(params.data.most)\"}]"
	tests := []struct {
		reason, spec, binding, params string
		one, two                      bool // whether an object with so many entries is refused
	}{
		{
			"by name, in a namespace", limit, fmt.Sprintf(", paramRef: {name: limits, namespace: %s, parameterNotFoundAction: Deny}", beside),
			fmt.Sprintf(`{apiVersion: v1, kind: ConfigMap, metadata: {name: limits, namespace: %s}, data: {most: "1", note: "apiVersion: kyverno.io/v1\nkind: ClusterPolicy"}}`, beside), false, true,
		},
		{
			"by name, in the namespace of the object", limit, ", paramRef: {name: limits, parameterNotFoundAction: Deny}",
			fmt.Sprintf(`{apiVersion: v1, kind: ConfigMap, metadata: {name: limits, namespace: %s}, data: {most: "1"}}`, r.ns), false, true,
		},
		{
			"by labels: it must hold to all", limit, fmt.Sprintf(", paramRef: {selector: {matchLabels: {limits: %s}}, namespace: %s, parameterNotFoundAction: Deny}", r.ns, beside),
			fmt.Sprintf("{apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: %[1]s, labels: {limits: %[2]s}}, data: {most: \"5\"}}\n---\n"+
				"{apiVersion: v1, kind: ConfigMap, metadata: {name: b, namespace: %[1]s, labels: {limits: %[2]s}}, data: {most: \"1\"}}\n---\n"+
				"{apiVersion: v1, kind: ConfigMap, metadata: {name: c, namespace: %[1]s, labels: {limits: other}}, data: {most: \"0\"}}", beside, r.ns), false, true,
		},
		{"missing, which refuses", limit, fmt.Sprintf(", paramRef: {name: nowhere, namespace: %s, parameterNotFoundAction: Deny}", beside), "", true, true},
		{"missing, which is allowed", limit, fmt.Sprintf(", paramRef: {name: nowhere, namespace: %s, parameterNotFoundAction: Allow}", beside), "", false, false},
		{
			"of a kind without namespaces", "  paramKind: {apiVersion: v1, kind: Namespace}\n  validations: [{expression: \"object.data.size() <= int(params.metadata.labels['most'])\"}]",
			fmt.Sprintf(", paramRef: {name: %s, parameterNotFoundAction: Deny}", beside),
			fmt.Sprintf(`{apiVersion: v1, kind: Namespace, metadata: {name: %s, labels: {most: "1"}}}`, beside), false, true,
		},
		{
			"of another group", "  paramKind: {apiVersion: policy/v1, kind: PodDisruptionBudget}\n  validations: [{expression: \"object.data.size() <= params.spec.minAvailable\"}]",
			fmt.Sprintf(", paramRef: {name: %s, namespace: %s, parameterNotFoundAction: Deny}", r.ns, beside),
			fmt.Sprintf(`{apiVersion: policy/v1, kind: PodDisruptionBudget, metadata: {name: %s, namespace: %s}, spec: {minAvailable: 1, selector: {matchLabels: {a: b}}}}`, r.ns, beside), false, true,
		},
	}
	r.write(t, r.ns, `{cluster: [ValidatingAdmissionPolicy]}`)
	for i, tt := range tests {
		name := fmt.Sprintf("%s-%d", r.ns, i)
		if tt.params != "" {
			r.put(t, tt.params)
		}
		r.put(t, vap(name, name, tt.spec, tt.binding))
	}
	idle := strings.Replace(vap(r.ns+"-idle", r.ns, "  validations: [{expression: \"false\"}]", ""), "[CREATE, UPDATE]", "[DELETE]", 1)
	alone, _, _ := strings.Cut(vap(r.ns+"-alone", r.ns, "  validations: [{expression: \"false\"}]", ""), "---\n")
	r.put(t, idle+"---\n"+alone)
	r.run(t)
	for i, tt := range tests {
		t.Run(tt.reason, func(t *testing.T) {
			name := fmt.Sprintf("%s-%d", r.ns, i)
			r.same(t, name, 1, tt.one)
			r.same(t, name, 2, tt.two)
		})
	}
	t.Run("a parameter that changes", func(t *testing.T) {
		r.put(t, strings.Replace(tests[0].params, `most: "1"`, `most: "2"`, 1))
		r.same(t, r.ns+"-0", 2, false)
		if err := r.cluster.Dynamic().Resource(harness.ConfigMaps).Namespace(beside).Delete(t.Context(), "limits", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		r.same(t, r.ns+"-0", 1, true)
	})
	t.Run("what means nothing to a delivery", func(t *testing.T) {
		r.judgedBy(t, "judged by what can match", func(l []policy.Set) bool {
			return !slices.ContainsFunc(l[0].Documents, func(d policy.Document) bool {
				return strings.Contains(d.File, r.ns+"-idle") || strings.Contains(d.File, r.ns+"-alone")
			})
		})
	})
}

// same waits until a ConfigMap with so many entries is refused, or not, by the sets and
// by the API server alike.
func (r *setRig) same(t *testing.T, name string, entries int, refused bool) {
	t.Helper()
	data := map[string]any{}
	for i := range entries {
		data[fmt.Sprint("k", i)] = "v"
	}
	var o object.Object
	o.Object = map[string]any{
		"apiVersion": "v1", "kind": "ConfigMap", "data": data,
		"metadata": map[string]any{"name": "judged", "namespace": r.ns, "labels": map[string]any{"test": name}},
	}
	said := ""
	r.judgedBy(t, "judged as the API server judges", func(l []policy.Set) bool {
		if len(l) == 0 {
			return false
		}
		program, _, flaws, err := cel.Engine{}.Compile(t.Context(), l[0].Documents)
		if err != nil || len(flaws) > 0 || program == nil {
			said = fmt.Sprint(flaws, err)
			return false
		}
		found, err := program.Judge(t.Context(), policy.NewCase([]object.Object{o}, schema.Builtin(), nil, nil))
		said = fmt.Sprint(found.List, err)
		fails := slices.ContainsFunc(found.List, func(f policy.Finding) bool { return !f.Warn })
		return err == nil && fails == refused
	}, func() string { return said })
	deadline := time.Now().Add(20 * time.Second)
	for { // there is no event for a policy that the API server has taken in
		_, err := r.cluster.Dynamic().Resource(harness.ConfigMaps).Namespace(r.ns).Create(t.Context(), &o.Unstructured, metav1.CreateOptions{DryRun: []string{"All"}})
		if apierrors.IsInvalid(err) == refused && (err == nil || refused) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the API server says %v, which is not what the sets say: %s", err, said)
		}
	}
}

func TestLivePoliciesOfTheCluster(t *testing.T) {
	r := newSetRig(t)
	r.write(t, r.ns, `{cluster: [ValidatingAdmissionPolicy, Kyverno]}`)
	r.run(t)
	none := func(l []policy.Set) bool { return len(l) == 0 || !holds(l[0], r.ns) }
	r.judgedBy(t, "judged by the cluster's policies, of which there are none", none)
	r.awaitSet(t, r.ns, "to say what the cluster does not serve", is("Absent", "True", ReasonNotServed, "Kyverno: the cluster serves none of ClusterPolicy.kyverno.io"))
	r.put(t, vap(r.ns, r.ns, `  validations: [{expression: "true"}]`, ""))
	r.judgedBy(t, "judged by a policy that came", func(l []policy.Set) bool { return len(l) == 1 && holds(l[0], r.ns) })
	vaps, _ := r.resource(kschema.GroupKind{Group: "admissionregistration.k8s.io", Kind: "ValidatingAdmissionPolicy"})
	if err := r.cluster.Dynamic().Resource(vaps.GVR()).Delete(t.Context(), r.ns, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	r.judgedBy(t, "judged by none that went", none)
	r.awaitSet(t, r.ns, "to say that nothing is there to judge by", is("Ready", "True", ReasonNothing, "nothing is refused"))
}

func holds(s policy.Set, name string) bool {
	return slices.ContainsFunc(s.Documents, func(d policy.Document) bool {
		return d.File == "cluster/ValidatingAdmissionPolicy/"+name+".json" && strings.Contains(string(d.Content), "matchConstraints")
	})
}
