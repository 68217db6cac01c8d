package builtin

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/holdfastcd/holdfast/internal/object"
)

const rbacPage = "https://kubernetes.io/docs/concepts/security/rbac-good-practices/"

// access are the policies on who may do what to the cluster.
func access() []definition {
	return []definition{
		define(About{
			Name:      "no-wildcard-rbac",
			Summary:   "Roles name what they permit, and permit no way to more rights; nobody is bound to cluster-admin.",
			Reference: rbacPage, Severity: "high",
		}, func() rbacParameters {
			return rbacParameters{
				Wildcards: []string{"verbs", "resources", "apiGroups", "nonResourceURLs"},
				Verbs:     []string{"escalate", "bind", "impersonate"},
				Roles:     []string{"cluster-admin"},
				Subjects:  []string{"system:masters", "system:unauthenticated", "system:anonymous"},
			}
		}, noWildcardRBAC),
		define(About{
			Name:      "no-service-account-token",
			Summary:   "Pods do not carry a token for the API server which they do not need.",
			Reference: "https://kubernetes.io/docs/tasks/configure-pod-container/configure-service-account/#opt-out-of-api-credential-automounting", Severity: "low",
		}, func() tokenParameters { return tokenParameters{} }, noServiceAccountToken),
		define(About{
			Name:      "no-plaintext-secret",
			Summary:   "Every Secret with values comes of something sealed: a SOPS file or a SealedSecret.",
			Reference: "https://kubernetes.io/docs/concepts/security/secrets-good-practices/", Severity: "critical",
		}, func() secretParameters { return secretParameters{} }, noPlaintextSecret),
	}
}

type rbacParameters struct {
	exempt

	Wildcards []string `doc:"fields of rules in which * is refused"                                       json:"wildcards"`
	Verbs     []string `doc:"verbs that are refused, for they lead to more rights"                        json:"verbs"`
	PodsExec  bool     `doc:"permission to run commands in Pods (pods/exec, pods/attach) is refused, too" json:"podsExec"`
	Roles     []string `doc:"roles that nobody may be bound to; globs"                                    json:"roles"`
	Subjects  []string `doc:"users and groups that may not be bound to any role; globs"                   json:"subjects"`
}

func rbacKind(kind string) schema.GroupKind {
	return schema.GroupKind{Group: rbacv1.GroupName, Kind: kind}
}

// A ClusterRole has the fields of a Role and one more, and their bindings the same: each
// pair is read as one type.
func noWildcardRBAC(p rbacParameters) (judge, error) {
	err := errors.Join(
		oneOf("wildcards", p.Wildcards, "verbs", "resources", "apiGroups", "nonResourceURLs"),
		checkGlobs("roles", p.Roles), checkGlobs("subjects", p.Subjects), p.check())
	return func(_ *view, r *reporter) {
		for i, role := range typed[rbacv1.ClusterRole](r, p.exempt, rbacKind("ClusterRole"), rbacKind("Role")) {
			for j := range role.Rules {
				p.judgeRule(r, i, fmt.Sprintf("rules[%d]", j), role.Rules[j])
			}
			p.judgeAggregation(r, i, role.AggregationRule)
		}
		for i, binding := range typed[rbacv1.ClusterRoleBinding](r, p.exempt, rbacKind("ClusterRoleBinding"), rbacKind("RoleBinding")) {
			p.judgeBinding(r, i, binding)
		}
	}, err
}

func (p rbacParameters) judgeRule(r *reporter, subject int, at string, rule rbacv1.PolicyRule) {
	for _, field := range []struct {
		name   string
		values []string
	}{{"verbs", rule.Verbs}, {"resources", rule.Resources}, {"apiGroups", rule.APIGroups}, {"nonResourceURLs", rule.NonResourceURLs}} {
		if at := at + "." + field.name; slices.Contains(p.Wildcards, field.name) {
			for i, value := range field.values {
				if wild(field.name, value) {
					r.findingf(subject, "wildcard", fmt.Sprintf("%s[%d]", at, i), "%q permits every one there is, and will be: list the %s that are needed", value, field.name)
				}
			}
		}
	}
	for i, verb := range rule.Verbs {
		if slices.Contains(p.Verbs, verb) {
			r.findingf(subject, "escalation", fmt.Sprintf("%s.verbs[%d]", at, i), "the verb %s leads to rights beyond those listed: take it away", verb)
		}
	}
	p.judgeResources(r, subject, at, rule)
}

// wild reports whether a value of a field stands for all: * by itself, every resource's
// subresource (*/scale), or every path (/*).
func wild(field, value string) bool {
	return value == "*" || field == "resources" && strings.HasPrefix(value, "*/") || field == "nonResourceURLs" && value == "/*"
}

// judgeResources judges resources that lead to more rights if they are made.
func (p rbacParameters) judgeResources(r *reporter, subject int, at string, rule rbacv1.PolicyRule) {
	if !slices.ContainsFunc(rule.APIGroups, func(g string) bool { return g == "" || g == "*" }) {
		return
	}
	makes := slices.Contains(rule.Verbs, "create") || slices.Contains(rule.Verbs, "*")
	for i, name := range rule.Resources {
		path := fmt.Sprintf("%s.resources[%d]", at, i)
		switch {
		case makes && name == "serviceaccounts/token":
			r.findingf(subject, "escalation", path, "whoever makes tokens has the rights of every service account there: take it away, or make the tokens where they are used")
		// A command is run by a request to connect, which asks for create, or get in a
		// browser's way.
		case p.PodsExec && (makes || slices.Contains(rule.Verbs, "get")) && (name == "pods/exec" || name == "pods/attach"):
			r.findingf(subject, "exec", path, "%s runs commands with the rights of any Pod there: take it away", name)
		}
	}
}

// judgeAggregation refuses a role that takes in every other.
func (p rbacParameters) judgeAggregation(r *reporter, subject int, a *rbacv1.AggregationRule) {
	if a == nil || len(p.Wildcards) == 0 {
		return
	}
	for i := range a.ClusterRoleSelectors {
		if all(&a.ClusterRoleSelectors[i]) {
			r.findingf(subject, "wildcard", fmt.Sprintf("aggregationRule.clusterRoleSelectors[%d]", i), "an empty selector takes in every ClusterRole: name a label")
		}
	}
}

func (p rbacParameters) judgeBinding(r *reporter, subject int, binding *rbacv1.ClusterRoleBinding) {
	if anyGlob(p.Roles, binding.RoleRef.Name) {
		r.findingf(subject, "binding", "roleRef.name", "it binds to %s: make a role of what is needed, and bind to that", binding.RoleRef.Name)
	}
	for i, s := range binding.Subjects {
		if s.Kind != rbacv1.ServiceAccountKind && anyGlob(p.Subjects, s.Name) {
			r.findingf(subject, "binding", fmt.Sprintf("subjects[%d].name", i), "it gives rights to %s: name who needs them", s.Name)
		}
	}
}

type tokenParameters struct {
	exempt

	AllowExplicit bool `doc:"a Pod that sets automountServiceAccountToken to true by itself passes" json:"allowExplicit"`
}

func noServiceAccountToken(p tokenParameters) (judge, error) {
	return func(v *view, r *reporter) {
		// Of a Pod by itself nobody knows whether its account opts out.
		without := map[object.ID]bool{} // service accounts that mount none
		for i, id := range v.ids {
			if id.Group == "" && id.Kind == rbacv1.ServiceAccountKind {
				account, err := read[corev1.ServiceAccount](&v.c.Subjects[i])
				without[id] = err == nil && account.AutomountServiceAccountToken != nil && !*account.AutomountServiceAccountToken
			}
		}
		for pod := range r.pods(p.exempt) {
			account := object.ID{Kind: rbacv1.ServiceAccountKind, Namespace: v.ids[pod.subject].Namespace, Name: pod.spec.ServiceAccountName}
			if account.Name == "" {
				account.Name = "default"
			}
			said := pod.spec.AutomountServiceAccountToken
			if said != nil && (!*said || p.AllowExplicit) || said == nil && (without[account] || v.c.Alone) {
				continue
			}
			r.findingf(pod.subject, "", pod.at+"spec.automountServiceAccountToken",
				"the Pod gets a token of service account %s: set automountServiceAccountToken to false, here or on the account in the same delivery", account.Name)
		}
	}, p.check()
}

type secretParameters struct {
	exempt

	ExemptTypes []string `doc:"types of Secrets that are not judged, as bootstrap.kubernetes.io/token" json:"exemptTypes"`
}

// The values are hidden, and need not be known: whoever made the case says which Secrets
// came of something sealed, and every other with values is in plaintext.
func noPlaintextSecret(p secretParameters) (judge, error) {
	return func(v *view, r *reporter) {
		if v.c.Alone { // it comes of no repository
			return
		}
		for i, s := range r.all(p.exempt, schema.GroupKind{Kind: "Secret"}) {
			kind, _ := s.Object["type"].(string)
			if s.Sealed || kind != "" && slices.Contains(p.ExemptTypes, kind) {
				continue
			}
			for _, field := range []string{"data", "stringData"} {
				if values, ok := s.Object[field].(map[string]any); !ok && s.Object[field] != nil || len(values) > 0 {
					r.findingf(i, "", field, "the Secret stands in plaintext in the repository: replace its values, for they are known; then seal it with SOPS or as a SealedSecret, or have an ExternalSecret fetch it")
					break
				}
			}
		}
	}, p.check()
}
