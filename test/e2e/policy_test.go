package e2e

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/holdfastcd/holdfast/internal/audit"
	"github.com/holdfastcd/holdfast/test/gitserver"
	"github.com/holdfastcd/holdfast/test/harness"
)

var (
	policySets    = schema.GroupVersionResource{Group: "holdfast.dev", Version: "v1alpha1", Resource: "policysets"}
	policyReports = schema.GroupVersionResource{Group: "wgpolicyk8s.io", Version: "v1alpha2", Resource: "policyreports"}
)

// policySet makes a PolicySet, waits until it is judged by, and takes it away after the test.
func (w *world) policySet(t *testing.T, name, spec string) {
	t.Helper()
	w.apply(t, fmt.Sprintf("apiVersion: holdfast.dev/v1alpha1\nkind: PolicySet\nmetadata: {name: %s}\nspec:\n%s", name, spec))
	t.Cleanup(func() {
		// Not the test's context, which has ended.
		_ = w.cluster.Dynamic().Resource(policySets).Delete(context.Background(), name, metav1.DeleteOptions{})
	})
}

// ingress is a NetworkPolicy that lets an address block in.
func ingress(name, block string) string {
	return fmt.Sprintf(`apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: %s}
spec:
  podSelector: {}
  policyTypes: [Ingress]
  ingress: [{from: [{ipBlock: {cidr: %s}}]}]
`, name, block)
}

// TestPublicIngressIsCaught is the promise of the guides: a NetworkPolicy opened to the
// world by a copied line does not reach the cluster.
func TestPublicIngressIsCaught(t *testing.T) {
	t.Parallel()
	w := theWorld(t)
	w.reports(t)
	ns := w.tenant(t)
	repo := w.repository(t, map[string]string{"app/policy.yaml": ingress("web", "10.0.0.0/8"), "app/config.yaml": configMap("settings", "one")})
	one, err := repo.Head()
	must(t, err)
	w.policySet(t, ns, "  select: {namespaces: ["+ns+"]}\n  builtin: [{name: no-public-ingress}]\n")
	w.flux(t, ns, repo.URL(), "./app")
	await := func(aim string, c harness.Condition) {
		t.Helper()
		w.cluster.Await(t, kustomizations, ns, "app", aim, c)
	}
	await("to be delivered", appliedAt(one))
	w.cluster.Await(t, policySets, "", ns, "to say what it is for", func(o *unstr) bool {
		return has("status.selected", "1")(o) && has("status.refused", "0")(o) && says("Ready", "True Enforced")(o)
	})
	bad := commit(t, repo, gitserver.Put("app/policy.yaml", ingress("web", "0.0.0.0/0")), gitserver.Put("app/config.yaml", configMap("settings", "two")))
	w.main.push(t, repo)
	await("to refuse the whole commit, by rule, object and place", says("Ready", "False PolicyViolation", "no-public-ingress", "NetworkPolicy.networking.k8s.io/"+ns+"/web", "app/policy.yaml:1", "0.0.0.0/0"))
	if text := w.event(t, ns, "app", "PolicyViolation"); !strings.Contains(text, "no-public-ingress") {
		t.Errorf("the event does not name the rule: %s", text)
	}
	w.cluster.Await(t, harness.ConfigMaps, ns, "settings", "to be in its last good state", has("data.value", "one"))
	w.cluster.Await(t, policySets, "", ns, "to tell that it refuses one", func(o *unstr) bool {
		return has("status.refused", "1")(o) && strings.Contains(field(o, "status.failing"), "Kustomization/"+ns+"/app")
	})
	w.cluster.Await(t, policyReports, ns, "holdfast-kustomization-app", "to report it", func(o *unstr) bool {
		return has("summary.fail", "1")(o) && strings.Contains(field(o, "results"), "no-public-ingress")
	})
	var refused []audit.Entry
	poll(t, func() bool { // entries are signed a moment after they are written
		refused = refusals(w.main.decisions(t, "Kustomization/"+ns+"/app"))
		return len(refused) > 0
	})
	if len(refused) != 1 || refused[0].Source.Commit != bad || len(refused[0].Verdicts) == 0 || !strings.Contains(refused[0].Verdicts[0].Rule, "no-public-ingress") || refused[0].Verdicts[0].Revision == "" {
		t.Errorf("the log has one refusal with its verdict: %+v", refused)
	}

	three := commit(t, repo, gitserver.Put("app/policy.yaml", ingress("web", "10.1.0.0/16")))
	w.main.push(t, repo)
	await("to deliver the corrected commit", appliedAt(three))
	w.cluster.Await(t, policyReports, ns, "holdfast-kustomization-app", "to report that", has("summary.fail", "0"))
	var stdout string
	if !poll(t, func() bool {
		stdout, _, _ = w.holdfast(t, "why", "networkpolicy/web", "-n", ns, "--dir", filepath.Join(w.main.data, "audit"))
		return strings.Contains(stdout, "policy/"+ns+": pass") && strings.Contains(stdout, "policy revision sha256:")
	}) {
		t.Errorf("why does not name the policies that judged it:\n%s", stdout)
	}
}

func refusals(all []audit.Entry) []audit.Entry {
	var list []audit.Entry
	for _, e := range all {
		if e.Action == audit.Refuse {
			list = append(list, e)
		}
	}
	return list
}

// noLatest is the policy of the guides, as an admission webhook is given it.
const noLatest = `    package kubernetes.admission
    deny[msg] {
      input.request.kind.kind == "Deployment"
      image := input.request.object.spec.template.spec.containers[_].image
      endswith(image, ":latest")
      msg := sprintf("%s is not pinned", [image])
    }
`

// TestPoliciesOfAnApplication changes what an Application is judged by while it is live.
func TestPoliciesOfAnApplication(t *testing.T) {
	t.Parallel()
	w := theWorld(t)
	ns := w.tenant(t)
	latest := strings.Replace(deployment("web", 1), ":v1", ":latest", 1)
	repo := w.repository(t, map[string]string{"app/web.yaml": latest})
	one, err := repo.Head()
	must(t, err)
	w.project(t, ns, repo.URL())
	w.apply(t, application(ns, ns, repo.URL(), "app", ns, "{automated: {prune: true, selfHeal: true}}"))
	await := func(aim string, c harness.Condition) {
		t.Helper()
		w.cluster.Await(t, applications, argocd, ns, aim, c)
	}
	await("to be delivered without policies", syncedAt(one))
	set := "  select: {projects: [" + ns + "]}\n  inline:\n  - name: latest.rego\n    content: |\n" + strings.ReplaceAll("  "+strings.ReplaceAll(noLatest, "\n", "\n  "), "\n  \n", "\n")
	w.policySet(t, ns, set)
	await("to tell of what is live, and would be refused", func(o *unstr) bool {
		return syncedAt(one)(o) && strings.Contains(field(o, "status.conditions"), "PolicyWarning") && strings.Contains(field(o, "status.conditions"), "next change")
	})
	w.event(t, argocd, ns, "PolicyWarning")
	w.cluster.Await(t, policySets, "", ns, "to name it before it blocks", func(o *unstr) bool {
		return strings.Contains(field(o, "status.failing"), "WouldRefuse")
	})
	commit(t, repo, gitserver.Put("app/web.yaml", strings.Replace(latest, "replicas: 1", "replicas: 2", 1)))
	w.main.push(t, repo)
	await("to refuse the next change", func(o *unstr) bool {
		return field(o, "status.sync.status") == "Unknown" && strings.Contains(field(o, "status.conditions"), "is not pinned")
	})
	w.event(t, argocd, ns, "PolicyViolation")

	until := time.Now().AddDate(0, 0, 3).Format(time.DateOnly)
	w.patch(t, policySets, "", ns, `{"spec":{"exceptions":[{"kind":"Deployment","name":"web","owner":"ann","reason":"a test","expires":"`+until+`"}]}}`)
	await("to be delivered by an exception, which is told of before it ends", func(o *unstr) bool {
		return field(o, "status.sync.status") == "Synced" && strings.Contains(field(o, "status.conditions"), "ends on "+until)
	})
	w.cluster.Await(t, policySets, "", ns, "to say that an exception ends", says("ExceptionExpiring", "True"))
}

// TestPoliciesOfARepository reads policies from Git, and survives that it is gone.
func TestPoliciesOfARepository(t *testing.T) {
	t.Parallel()
	w := theWorld(t)
	ns := w.tenant(t)
	rules, err := w.git.Create("rules-" + ns)
	must(t, err)
	one := commit(t, rules, gitserver.Put("policies/latest.rego", strings.ReplaceAll(noLatest, "\n    ", "\n")[4:]), gitserver.Put("README.md", "no policy"))
	repo := w.repository(t, map[string]string{"app/web.yaml": deployment("web", 1)})
	head, err := repo.Head()
	must(t, err)
	w.policySet(t, ns, "  select: {namespaces: ["+ns+"]}\n  sources: [{git: {url: "+rules.URL()+", ref: {branch: main}, interval: 10s}, path: policies}]\n")
	w.cluster.Await(t, policySets, "", ns, "to be read", func(o *unstr) bool {
		return has("status.revision", one)(o) && says("Ready", "True Enforced")(o)
	})
	w.flux(t, ns, repo.URL(), "./app")
	await := func(aim string, c harness.Condition) {
		t.Helper()
		w.cluster.Await(t, kustomizations, ns, "app", aim, c)
	}
	await("to be delivered", appliedAt(head))
	commit(t, repo, gitserver.Put("app/web.yaml", strings.Replace(deployment("web", 1), ":v1", ":latest", 1)))
	w.main.push(t, repo)
	await("to be refused", says("Ready", "False PolicyViolation", "is not pinned"))

	broken := commit(t, rules, gitserver.Put("policies/latest.rego", "package kubernetes.admission\ndeny[msg] {"))
	w.main.push(t, rules)
	w.cluster.Await(t, policySets, "", ns, "to name the file that cannot be compiled", func(o *unstr) bool {
		return has("status.revision", broken)(o) && says("Ready", "False InvalidPolicy", "policies/latest.rego")(o)
	})
	await("to be refused for that", says("Ready", "False PolicyViolation", "policies/latest.rego"))

	two := commit(t, rules, gitserver.Put("policies/latest.rego", strings.ReplaceAll(strings.ReplaceAll(noLatest, "\n    ", "\n")[4:], ":latest", ":oldest")))
	w.main.push(t, rules)
	w.cluster.Await(t, policySets, "", ns, "to be read again", has("status.revision", two))
	await("to be delivered by the policies as they are now", says("Ready", "True"))

	commit(t, rules, gitserver.Delete("policies/latest.rego"))
	w.main.push(t, rules)
	w.cluster.Await(t, policySets, "", ns, "to keep what it read last, and say so", func(o *unstr) bool {
		return has("status.revision", two)(o) && says("Ready", "True")(o) && says("Stale", "True SourceFailed", "policies")(o)
	})
}

// reports has the cluster serve PolicyReports.
func (w *world) reports(t *testing.T) {
	t.Helper()
	w.apply(t, `apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  name: policyreports.wgpolicyk8s.io
  annotations: {api-approved.kubernetes.io: "unapproved, for a test"}
spec:
  group: wgpolicyk8s.io
  scope: Namespaced
  names: {kind: PolicyReport, listKind: PolicyReportList, plural: policyreports, singular: policyreport}
  versions:
  - name: v1alpha2
    served: true
    storage: true
    schema:
      openAPIV3Schema:
        type: object
        properties:
          scope: {type: object, x-kubernetes-preserve-unknown-fields: true}
          summary:
            type: object
            properties: {pass: {type: integer}, fail: {type: integer}, warn: {type: integer}, error: {type: integer}, skip: {type: integer}}
          results:
            type: array
            items:
              type: object
              required: [policy]
              properties:
                source: {type: string}
                policy: {type: string}
                rule: {type: string}
                message: {type: string}
                category: {type: string}
                scored: {type: boolean}
                result: {type: string, enum: [pass, fail, warn, error, skip]}
                severity: {type: string, enum: [critical, high, low, medium, info]}
                timestamp:
                  type: object
                  required: [seconds, nanos]
                  properties: {seconds: {type: integer, format: int64}, nanos: {type: integer, format: int32}}
                resources: {type: array, items: {type: object, x-kubernetes-preserve-unknown-fields: true}}
                properties: {type: object, additionalProperties: {type: string}}
`)
	w.cluster.Await(t, schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}, "", "policyreports.wgpolicyk8s.io",
		"to be established", says("Established", "True"))
}
