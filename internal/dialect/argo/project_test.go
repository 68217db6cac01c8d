package argo

import (
	"strings"
	"testing"

	"github.com/holdfastcd/holdfast/internal/cluster"
	"github.com/holdfastcd/holdfast/internal/object"
)

func TestDestinations(t *testing.T) {
	const here = "https://kubernetes.default.svc"
	tests := []struct {
		reason, destinations, namespace string
		want                            bool
	}{
		{"named", `[{server: ` + here + `, namespace: shop}]`, "shop", true},
		{"not named", `[{server: ` + here + `, namespace: shop}]`, "other", false},
		{"globs", `[{server: "https://*", namespace: "shop-*"}]`, "shop-a", true},
		{"by the cluster's name", `[{name: in-cluster, namespace: "*"}]`, "shop", true},
		{"another cluster", `[{server: "https://prod", namespace: "*"}]`, "shop", false},
		{"no cluster", `[{namespace: "*"}]`, "shop", false},
		{"none", `[]`, "shop", false},
		{"a denied namespace", `[{server: "*", namespace: "*"}, {server: "*", namespace: "!kube-*"}]`, "kube-system", false},
		{"beside a denied namespace", `[{server: "*", namespace: "*"}, {server: "*", namespace: "!kube-*"}]`, "shop", true},
		{"a denial goes before, wherever it stands", `[{server: "*", namespace: "!kube-*"}, {server: "*", namespace: "*"}]`, "kube-system", false},
		{"a denial alone permits nothing", `[{server: "*", namespace: "!kube-*"}]`, "shop", false},
		{"a denied namespace elsewhere", `[{server: "*", namespace: "*"}, {server: "https://prod", namespace: "!shop"}]`, "shop", true},
		{"a denied server, in its namespace", `[{server: "*", namespace: "*"}, {server: "!` + here + `", namespace: shop}]`, "shop", false},
		{"a denied server, in another namespace", `[{server: "*", namespace: "*"}, {server: "!` + here + `", namespace: shop}]`, "other", true},
		{"a denied name, in its namespace", `[{server: "*", namespace: "*"}, {name: "!in-cluster", namespace: shop}]`, "shop", false},
		{"a denied name, in any namespace", `[{server: "*", namespace: "*"}, {name: "!in-cluster", namespace: shop}]`, "other", false},
	}
	for _, tc := range tests {
		t.Run(tc.reason, func(t *testing.T) {
			p := project(t, "  destinations: "+tc.destinations)
			if got := p.permits(tc.namespace); got != tc.want {
				t.Errorf("got %v", got)
			}
			err := p.rules.Permits(object.ID{Kind: "ConfigMap", Namespace: tc.namespace, Name: "a"}, true)
			if (err == nil) != tc.want {
				t.Errorf("the rules say %v", err)
			}
		})
	}
}

func TestSourceRepos(t *testing.T) {
	tests := []struct {
		reason, repos, url string
		want               bool
	}{
		{"named", `["https://git.example.com/a/b"]`, "https://git.example.com/a/b", true},
		{"with .git and slash", `["https://git.example.com/a/b.git"]`, "https://git.example.com/a/b/", true},
		{"in other letters", `["https://Git.example.com/A/b"]`, "https://git.example.com/a/B", true},
		{"everything", `["*"]`, "https://git.example.com/a/b", true},
		{"a star does not span slashes", `["https://git.example.com/*"]`, "https://git.example.com/a/b", false},
		{"two do", `["https://git.example.com/**"]`, "https://git.example.com/a/b", true},
		{"another scheme", `["https://git.example.com/**"]`, "http://git.example.com/a/b", false},
		{"denied", `["!https://git.example.com/a/**", "*"]`, "https://git.example.com/a/b", false},
		{"denied with .git", `["*", "!https://git.example.com/a/b.git"]`, "https://git.example.com/a/b", false},
		{"a denial alone permits nothing", `["!https://git.example.com/a/**"]`, "https://other.example.com/a/b", false},
		{"none", `[]`, "https://git.example.com/a/b", false},
	}
	for _, tc := range tests {
		t.Run(tc.reason, func(t *testing.T) {
			if got := project(t, "  sourceRepos: "+tc.repos).PermitsSource(tc.url); got != tc.want {
				t.Errorf("got %v", got)
			}
		})
	}
}

func TestAccount(t *testing.T) {
	const first = `
  destinationServiceAccounts:
  - {server: "https://prod", namespace: "*", defaultServiceAccount: never}
  - {server: "https://kubernetes.*", namespace: "team-*", defaultServiceAccount: deployer}
  - {server: "*", namespace: "shop", defaultServiceAccount: "platform:shop"}
  - {server: "*", namespace: "", defaultServiceAccount: "root"}
  - {server: "*", namespace: "odd", defaultServiceAccount: "a:b:c"}
  - {server: "*", namespace: "*", defaultServiceAccount: "rest"}`
	tests := []struct {
		reason, spec, namespace string
		permissive              bool
		want                    cluster.Account
		err                     string
	}{
		{"in the destination namespace", first, "team-a", false, cluster.ServiceAccount("team-a", "deployer"), ""},
		{"named with its namespace", first, "shop", false, cluster.ServiceAccount("platform", "shop"), ""},
		{"no destination namespace", first, "", false, cluster.ServiceAccount("argocd", "root"), ""},
		{"the first match counts", first, "other", false, cluster.ServiceAccount("other", "rest"), ""},
		{"not a name", first, "odd", true, cluster.Account{}, "Invalid: AppProject shop: defaultServiceAccount"},
		{"none", "  description: x", "shop", false, cluster.Account{}, `destinationServiceAccounts: [{server: "https://kubernetes.default.svc", namespace: "shop", defaultServiceAccount: <name>}]`},
		{"none, permissive", "  description: x", "shop", true, cluster.Account{}, ""},
	}
	for _, tc := range tests {
		t.Run(tc.reason, func(t *testing.T) {
			got, err := project(t, tc.spec).Account(tc.namespace, "argocd", tc.permissive)
			if msg := text(t, err); tc.err == "" && msg != "" || !strings.Contains(msg, tc.err) {
				t.Errorf("got error %q, want %q", msg, tc.err)
			}
			if got != tc.want {
				t.Errorf("got %v, want %v", got, tc.want)
			}
		})
	}
}

func TestCompileRefuses(t *testing.T) {
	tests := []struct{ reason, spec, want string }{
		{"signatures", `{signatureKeys: [{keyID: A}]}`, "Unsupported: AppProject shop: spec.signatureKeys is not"},
		{"source integrity", `{sourceIntegrity: {git: {policies: []}}}`, ""},
		{"source integrity with a policy", `{sourceIntegrity: {git: {policies: [{repos: [{url: "*"}], gpg: {mode: head}}]}}}`, "spec.sourceIntegrity is"},
		{"windows", `{syncWindows: [{kind: deny, schedule: "* * * * *", duration: 1h}]}`, "spec.syncWindows is"},
		{"scoped clusters", `{permitOnlyProjectScopedClusters: true}`, "spec.permitOnlyProjectScopedClusters is"},
		{"what is coming", `{magic: true}`, "spec.magic is"},
		{"a denial of everything", `{destinations: [{server: "*", namespace: "!*"}]}`, "denies everything"},
		{"a broken pattern", `{destinations: [{server: "*", namespace: "a["}]}`, "Invalid: AppProject shop"},
		{"a broken pattern of kinds", `{clusterResourceBlacklist: [{group: "[", kind: "*"}]}`, "is malformed"},
		{"an account that denies", `{destinationServiceAccounts: [{server: "!x", namespace: "*", defaultServiceAccount: a}]}`, "cannot deny"},
		{"roles are for the API", `{roles: [{name: dev, policies: ["p, a, b, c, d, allow"]}]}`, ""},
	}
	for _, tc := range tests {
		t.Run(tc.reason, func(t *testing.T) {
			p, err := DecodeProject(parse(t, "metadata: {name: shop}\napiVersion: argoproj.io/v1alpha1\nkind: AppProject\nspec: "+tc.spec))
			if err == nil {
				_, err = Compile(p)
			}
			if got := text(t, err); tc.want == "" && got != "" || !strings.Contains(got, tc.want) {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

func TestRules(t *testing.T) {
	const both = `  destinations: [{server: "*", namespace: "*"}]
`
	role := object.ID{Group: "rbac.authorization.k8s.io", Kind: "ClusterRole", Name: "a"}
	cm := object.ID{Kind: "ConfigMap", Namespace: "shop", Name: "a"}
	tests := []struct {
		reason, spec string
		id           object.ID
		want         bool
	}{
		{"no cluster-scoped kind by default", both, role, false},
		{"one that is listed", both + `  clusterResourceWhitelist: [{group: "rbac*", kind: "*"}]`, role, true},
		{"one that is listed by name", both + `  clusterResourceWhitelist: [{group: "*", kind: "*", name: "b*"}]`, role, false},
		{"one that is denied", both + "  clusterResourceWhitelist: [{group: '*', kind: '*'}]\n  clusterResourceBlacklist: [{group: '*', kind: ClusterRole}]", role, false},
		{"every namespaced kind by default", both, cm, true},
		{"an empty list permits none", both + `  namespaceResourceWhitelist: []`, cm, false},
		{"a list", both + `  namespaceResourceWhitelist: [{group: "", kind: ConfigMap}]`, cm, true},
		{"denied", both + `  namespaceResourceBlacklist: [{group: "", kind: "Config*"}]`, cm, false},
	}
	for _, tc := range tests {
		t.Run(tc.reason, func(t *testing.T) {
			err := project(t, tc.spec).rules.Permits(tc.id, tc.id.Namespace != "")
			if (err == nil) != tc.want {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestVersionIsOfTheRules(t *testing.T) {
	base := project(t, "  description: a\n  sourceRepos: ['*']").rules.Version
	if got := project(t, "  description: b\n  sourceRepos: ['*']\n  roles: [{name: r}]").rules.Version; got != base {
		t.Error("a description or role makes everything be judged again")
	}
	if got := project(t, "  sourceRepos: ['*']\n  namespaceResourceWhitelist: []").rules.Version; got == base {
		t.Error("a rule has changed, and nobody notices")
	}
}
