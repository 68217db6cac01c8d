package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/holdfastcd/holdfast/test/gitserver"
)

// kyvernoProgram is what `make kyverno` builds.
const kyvernoProgram = "../../bin/holdfast-kyverno"

var definitions = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}

// define has the cluster serve a kind of anything, until the test ends.
func (w *world) define(t *testing.T, group, version, kind, plural, scope string) {
	t.Helper()
	w.apply(t, fmt.Sprintf(`apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: %[4]s.%[1]s}
spec:
  group: %[1]s
  scope: %[5]s
  names: {kind: %[3]s, plural: %[4]s}
  versions:
  - name: %[2]s
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
`, group, version, kind, plural, scope))
	name := plural + "." + group
	t.Cleanup(func() {
		_ = w.cluster.Dynamic().Resource(definitions).Delete(context.Background(), name, metav1.DeleteOptions{})
	})
	w.cluster.Await(t, definitions, "", name, "to be served", says("Established", "True"))
	if !poll(t, func() bool { // discovery follows, without an event
		list, err := w.kube.Discovery().ServerResourcesForGroupVersion(group + "/" + version)
		return err == nil && slices.ContainsFunc(list.APIResources, func(r metav1.APIResource) bool { return r.Kind == kind })
	}) {
		t.Fatalf("%s is not discovered", name)
	}
}

// template is a policy of Gatekeeper's, with the constraint that is set by it.
const template = `apiVersion: templates.gatekeeper.sh/v1
kind: ConstraintTemplate
metadata: {name: forbiddenvalue}
spec:
  crd:
    spec:
      names: {kind: ForbiddenValue}
      validation:
        openAPIV3Schema:
          type: object
          properties:
            value: {type: string}
  targets:
  - target: admission.k8s.gatekeeper.sh
    rego: |
      package forbiddenvalue
      violation[{"msg": msg}] {
        input.review.object.data.value == input.parameters.value
        msg := sprintf("the value %s is forbidden", [input.parameters.value])
      }
---
apiVersion: constraints.gatekeeper.sh/v1beta1
kind: ForbiddenValue
metadata: {name: NAME}
spec:
  match: {kinds: [{apiGroups: [""], kinds: [ConfigMap]}], namespaces: [NAME]}
  parameters: {value: VALUE}
`

const clusterPolicy = `apiVersion: kyverno.io/v1
kind: ClusterPolicy
metadata: {name: NAME}
spec:
  validationFailureAction: Enforce
  rules:
  - name: value
    match: {any: [{resources: {kinds: [ConfigMap], namespaces: [NAME]}}]}
    validate:
      message: the value VALUE is forbidden
      pattern: {data: {value: "!VALUE"}}
`

const validatingPolicy = `apiVersion: policies.kyverno.io/v1
kind: ValidatingPolicy
metadata: {name: NAME}
spec:
  validationActions: [Deny]
  matchConstraints:
    resourceRules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE, UPDATE], resources: [configmaps]}]
  validations:
  - expression: "object.data.value != 'VALUE'"
    message: the value VALUE is forbidden
`

// TestPoliciesOfTheCluster judges by what lies in the cluster of Kyverno and Gatekeeper:
// their kinds appear late, and what is put there, changed and deleted counts at once.
func TestPoliciesOfTheCluster(t *testing.T) {
	tests := []struct {
		reason, name, policy string
		define               func(*testing.T, *world)
		resource             schema.GroupVersionResource // that the policy is taken away by
		namespaced           bool
	}{
		{
			"templates and constraints", "Gatekeeper", template, func(t *testing.T, w *world) {
				t.Helper()
				w.define(t, "templates.gatekeeper.sh", "v1", "ConstraintTemplate", "constrainttemplates", "Cluster")
				w.define(t, "constraints.gatekeeper.sh", "v1beta1", "ForbiddenValue", "forbiddenvalues", "Cluster")
			}, schema.GroupVersionResource{Group: "constraints.gatekeeper.sh", Version: "v1beta1", Resource: "forbiddenvalues"}, false,
		},
		{
			"a ClusterPolicy", "Kyverno", clusterPolicy, func(t *testing.T, w *world) {
				t.Helper()
				w.define(t, "kyverno.io", "v1", "ClusterPolicy", "clusterpolicies", "Cluster")
			}, schema.GroupVersionResource{Group: "kyverno.io", Version: "v1", Resource: "clusterpolicies"}, false,
		},
		{
			"a Policy of a namespace", "Kyverno",
			strings.NewReplacer("ClusterPolicy", "Policy", "name: NAME", "name: NAME, namespace: NAME", ", namespaces: [NAME]", "").Replace(clusterPolicy), func(t *testing.T, w *world) {
				t.Helper()
				w.define(t, "kyverno.io", "v1", "Policy", "policies", "Namespaced")
			},
			schema.GroupVersionResource{Group: "kyverno.io", Version: "v1", Resource: "policies"},
			true,
		},
		{
			"a ValidatingPolicy", "Kyverno", validatingPolicy, func(t *testing.T, w *world) {
				t.Helper()
				w.define(t, "policies.kyverno.io", "v1", "ValidatingPolicy", "validatingpolicies", "Cluster")
			}, schema.GroupVersionResource{Group: "policies.kyverno.io", Version: "v1", Resource: "validatingpolicies"}, false,
		},
	}
	for _, tt := range tests {
		t.Run(tt.reason, func(t *testing.T) {
			if _, err := os.Stat(kyvernoProgram); err != nil && tt.name == "Kyverno" {
				t.Skip("Kyverno's engine is not built: make kyverno")
			}
			w := theWorld(t)
			ns := w.tenant(t)
			put := func(value string) {
				w.apply(t, strings.NewReplacer("NAME", ns, "VALUE", value).Replace(tt.policy))
			}
			within := ""
			if tt.namespaced {
				within = ns
			}
			repo := w.repository(t, map[string]string{"app/config.yaml": configMap("settings", "one")})
			one, err := repo.Head()
			must(t, err)
			w.policySet(t, ns, "  select: {namespaces: ["+ns+"]}\n  cluster: ["+tt.name+"]\n")
			w.cluster.Await(t, policySets, "", ns, "to say that the cluster has no such kind", func(o *unstr) bool {
				return says("Absent", "True NotServed", tt.name)(o) && says("Ready", "True NoPolicies")(o)
			})
			w.flux(t, ns, repo.URL(), "./app")
			await := func(aim string, is func(*unstr) bool) {
				t.Helper()
				w.cluster.Await(t, kustomizations, ns, "app", aim, is)
			}
			await("to be delivered, because there is no policy", appliedAt(one))

			tt.define(t, w)
			put("two")
			w.cluster.Await(t, policySets, "", ns, "to judge by a kind that appeared", func(o *unstr) bool {
				return says("Ready", "True Enforced")(o) && !says("Absent", "True")(o)
			})
			two := commit(t, repo, gitserver.Put("app/config.yaml", configMap("settings", "two")))
			w.main.push(t, repo)
			await("to be refused by the policy", says("Ready", "False PolicyViolation", "the value two is forbidden"))
			put("three")
			await("to be delivered once the policy has changed", appliedAt(two))
			put("two")
			await("to be told of what is live", says("PolicyWarning", "True", "the value two is forbidden"))
			put("three")
			three := commit(t, repo, gitserver.Put("app/config.yaml", configMap("settings", "three")))
			w.main.push(t, repo)
			await("to be refused by the policy as it is now", says("Ready", "False PolicyViolation", "the value three is forbidden"))
			must(t, w.cluster.Dynamic().Resource(tt.resource).Namespace(within).Delete(t.Context(), ns, metav1.DeleteOptions{}))
			await("to be delivered once the policy is gone", appliedAt(three))
			w.cluster.Await(t, policySets, "", ns, "to have nothing to judge by", says("Ready", "True NoPolicies"))
		})
	}
}

// TestParametersOfTheCluster has a ValidatingAdmissionPolicy with a ConfigMap for its
// parameters judge before the API server does.
func TestParametersOfTheCluster(t *testing.T) {
	w := theWorld(t)
	ns := w.tenant(t)
	w.apply(t, strings.ReplaceAll(`apiVersion: v1
kind: ConfigMap
metadata: {name: limits, namespace: NAME}
data: {forbidden: two}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: NAME}
spec:
  paramKind: {apiVersion: v1, kind: ConfigMap}
  matchConstraints:
    namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: NAME}}
    resourceRules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE, UPDATE], resources: [configmaps]}]
  validations:
  - {expression: "!has(object.data.value) || object.data.value != params.data.forbidden", message: this value is forbidden}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: NAME}
spec: {policyName: NAME, validationActions: [Deny], paramRef: {name: limits, parameterNotFoundAction: Deny}}
`, "NAME", ns))
	t.Cleanup(func() {
		for _, resource := range []string{"validatingadmissionpolicies", "validatingadmissionpolicybindings"} {
			of := schema.GroupVersionResource{Group: "admissionregistration.k8s.io", Version: "v1", Resource: resource}
			_ = w.cluster.Dynamic().Resource(of).Delete(context.Background(), ns, metav1.DeleteOptions{})
		}
	})
	repo := w.repository(t, map[string]string{"app/config.yaml": configMap("settings", "one")})
	one, err := repo.Head()
	must(t, err)
	w.policySet(t, ns, "  select: {namespaces: ["+ns+"]}\n  cluster: [ValidatingAdmissionPolicy]\n")
	w.flux(t, ns, repo.URL(), "./app")
	await := func(aim string, is func(*unstr) bool) {
		t.Helper()
		w.cluster.Await(t, kustomizations, ns, "app", aim, is)
	}
	await("to be delivered", appliedAt(one))
	two := commit(t, repo, gitserver.Put("app/config.yaml", configMap("settings", "two")))
	w.main.push(t, repo)
	await("to be refused by the parameter", says("Ready", "False PolicyViolation", "this value is forbidden"))
	w.apply(t, "{apiVersion: v1, kind: ConfigMap, metadata: {name: limits, namespace: "+ns+"}, data: {forbidden: three}}")
	await("to be delivered once the parameter has changed", appliedAt(two))
}

// TestPolicyCheck tries a set before it is there, as a platform engineer would.
func TestPolicyCheck(t *testing.T) {
	t.Parallel()
	w := theWorld(t)
	ns := w.tenant(t)
	repo := w.repository(t, map[string]string{"app/policy.yaml": ingress("web", "0.0.0.0/0"), "app/config.yaml": configMap("settings", "one")})
	head, err := repo.Head()
	must(t, err)
	w.flux(t, ns, repo.URL(), "./app")
	w.cluster.Await(t, kustomizations, ns, "app", "to be applied", appliedAt(head))
	dir := t.TempDir()
	file := filepath.Join(dir, "set.yaml")
	write := func(spec string) {
		must(t, os.WriteFile(file, []byte("{apiVersion: holdfast.dev/v1alpha1, kind: PolicySet, metadata: {name: tried}, spec: "+spec+"}\n"), 0o600))
	}
	check := func(want int, says string, more ...string) string {
		t.Helper()
		out, errs, code := w.holdfast(t, append([]string{"policy", "check", "-f", file, "-n", ns, "--default-service-account", "deployer"}, more...)...)
		if code != want || !strings.Contains(out+errs, says) {
			t.Errorf("ended with %d, want %d and %q; it said\n%s%s", code, want, says, out, errs)
		}
		return out
	}
	const public = `builtin: [{name: no-public-ingress}]`
	write(`{` + public + `}`)
	check(1, "would be refused: NetworkPolicy.networking.k8s.io/"+ns+"/web", "ks/app")
	var found []struct{ Delivery, Revision, Policy, Rule, Object, Outcome, Message string }
	must(t, json.Unmarshal([]byte(check(1, "", "-o", "json")), &found))
	if len(found) != 1 || found[0].Outcome != "fail" || found[0].Revision != head || found[0].Delivery != "Kustomization/"+ns+"/app" ||
		!strings.Contains(found[0].Object, "/web") || !strings.Contains(found[0].Rule, "no-public-ingress") {
		t.Errorf("as JSON: %+v", found)
	}
	write(`{mode: warn, ` + public + `}`)
	check(0, "would be told")
	write(`{select: {namespaces: [elsewhere]}, ` + public + `}`)
	check(0, "no policy set is for it")
	write(`{builtin: [{name: no-latest-tag}]}`)
	check(0, "tried: ok")
	check(0, "There is no delivery to judge", "--selector", "team=nobody")
	write(`{buildin: [], ` + public + `}`)
	check(1, `unknown field "spec.buildin"`)
	write(`{cluster: [Gatekeeper]}`)
	check(0, "the cluster serves no policies of Gatekeeper")
	write(`{sources: [{git: {url: "` + repo.URL() + `-gone"}}]}`)
	check(2, "tried")

	rules, err := w.git.Create("checked-" + ns)
	must(t, err)
	commit(t, rules, gitserver.Put("rules/cm.rego", "package p\nimport rego.v1\ndeny contains msg if { input.kind == \"ConfigMap\"; msg := sprintf(\"no %s\", [input.metadata.name]) }\n"))
	write(`{sources: [{git: {url: "` + rules.URL() + `"}, path: rules}]}`)
	check(1, "no settings")

	// What is not pushed yet, by a set of the cluster.
	w.policySet(t, ns, "  mode: warn\n  select: {namespaces: ["+ns+"]}\n  "+public+"\n")
	source := filepath.Join(dir, "src")
	must(t, os.MkdirAll(filepath.Join(source, "app"), 0o750))
	must(t, os.WriteFile(filepath.Join(source, "app", "policy.yaml"), []byte(ingress("web", "10.0.0.0/8")), 0o600))
	out, errs, code := w.holdfast(t, "policy", "check", "ks/app", "-n", ns, "--default-service-account", "deployer", "--source", source)
	if code != 0 || !strings.Contains(out, ns+": ok: every policy holds") {
		t.Errorf("a checkout by the sets of the cluster: ended with %d\n%s%s", code, out, errs)
	}
}
