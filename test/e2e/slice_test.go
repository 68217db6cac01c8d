package e2e

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/holdfastcd/holdfast/internal/worker"
	"github.com/holdfastcd/holdfast/test/gitserver"
	"github.com/holdfastcd/holdfast/test/harness"
)

var clusterRoles = schema.GroupVersionResource{Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "clusterroles"}

// pending makes the Pods of a Deployment wait for ever, and the Deployment impatient.
func pending(text string) string {
	text = strings.Replace(text, "    metadata:\n", "    metadata:\n      annotations: {devcluster.holdfast.dev/pod: pending}\n", 1)
	return strings.Replace(text, "spec:\n", "spec:\n  progressDeadlineSeconds: 1\n", 1)
}

// TestFluxHealthAndDependencies: variables from a Secret, a health check that fails,
// and a dependency; what waits goes on when the event comes, and not at the next
// interval, which is ten minutes away.
func TestFluxHealthAndDependencies(t *testing.T) {
	w := theWorld(t)
	ns := w.tenant(t)
	repo := w.repository(t, map[string]string{
		"app/web.yaml":     pending(deployment("web", 1)),
		"app/config.yaml":  configMap("settings", "${region}-${tier:=basic}"),
		"next/config.yaml": configMap("second", "two"),
	})
	w.apply(t, "apiVersion: v1\nkind: Secret\nmetadata: {name: cluster, namespace: "+ns+"}\nstringData: {region: north}\n")
	w.gitRepository(t, ns, repo.URL())
	w.kustomization(t, ns, "second", "./next", "  targetNamespace: "+ns, "  retryInterval: 10m", "  dependsOn: [{name: app}]")
	w.kustomization(t, ns, "app", "./app", "  targetNamespace: "+ns, "  retryInterval: 10m", "  timeout: 5m",
		"  healthChecks: [{apiVersion: apps/v1, kind: Deployment, name: web, namespace: "+ns+"}]",
		"  postBuild: {substituteFrom: [{kind: Secret, name: cluster}]}")
	w.cluster.Await(t, harness.ConfigMaps, ns, "settings", "to have the Secret's value", has("data.value", "north-basic"))
	w.cluster.Await(t, kustomizations, ns, "app", "to fail its check long before its timeout", says("Ready", "False HealthCheckFailed", "web"))
	w.cluster.Await(t, kustomizations, ns, "second", "to wait for the first", says("Ready", "False DependencyNotReady", ns+"/app"))
	w.cluster.Await(t, harness.ConfigMaps, ns, "second", "not to be delivered", harness.Gone)

	healthy := commit(t, repo, gitserver.Put("app/web.yaml", deployment("web", 1)))
	w.main.push(t, repo)
	w.cluster.Await(t, kustomizations, ns, "app", "to be healthy", func(o *unstr) bool {
		return appliedAt(healthy)(o) && strings.HasPrefix(condition(o, "Healthy"), "True")
	})
	w.cluster.Await(t, kustomizations, ns, "second", "to follow", appliedAt(healthy))
	w.cluster.Await(t, harness.ConfigMaps, ns, "second", "to be delivered", has("data.value", "two"))
}

// TestArgoRetries: what fails is tried again as the Application says, counted, and
// given up after the last try; what can be done meanwhile is done.
func TestArgoRetries(t *testing.T) {
	w := theWorld(t)
	ns := w.cluster.Namespace(t)
	w.account(t, ns, "deployer") // no rights yet
	repo := w.repository(t, map[string]string{"app/config.yaml": configMap("settings", "one")})
	w.project(t, ns, repo.URL())
	retry := func(limit int) string {
		return fmt.Sprintf("{automated: {}, retry: {limit: %d, backoff: {duration: 1s, factor: 1, maxDuration: 1s}}}", limit)
	}
	w.apply(t, application(ns+"-few", ns, repo.URL(), "app", ns, retry(1)))
	w.cluster.Await(t, applications, argocd, ns+"-few", "to give up", func(o *unstr) bool {
		return field(o, "status.operationState.phase") == "Failed" && field(o, "status.operationState.retryCount") == "1" &&
			strings.Contains(field(o, "status.operationState.message"), "retried 1 times")
	})
	must(t, w.cluster.Dynamic().Resource(applications).Namespace(argocd).Delete(t.Context(), ns+"-few", metav1.DeleteOptions{}))
	w.apply(t, application(ns, ns, repo.URL(), "app", ns, retry(100)))
	w.cluster.Await(t, applications, argocd, ns, "to try again", func(o *unstr) bool {
		return field(o, "status.operationState.phase") == "Running" && strings.Contains(field(o, "status.operationState.message"), "Retrying attempt #2")
	})
	w.apply(t, fmt.Sprintf(`
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: deployer, namespace: %[1]s}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: admin}
subjects: [{kind: ServiceAccount, name: deployer, namespace: %[1]s}]
`, ns))
	w.cluster.Await(t, applications, argocd, ns, "to succeed once its account may", has("status.operationState.phase", "Succeeded"))
	w.cluster.Await(t, harness.ConfigMaps, ns, "settings", "to be delivered", has("data.value", "one"))
}

// TestScaledBySomebodyElse: a field that is left to an autoscaler is neither shown
// as different, nor set back, nor falls to its default when the source omits it.
func TestScaledBySomebodyElse(t *testing.T) {
	w := theWorld(t)
	ns := w.tenant(t)
	repo := w.repository(t, map[string]string{"app/web.yaml": deployment("web", 2)})
	head, err := repo.Head()
	must(t, err)
	w.project(t, ns, repo.URL())
	w.apply(t, strings.Replace(application(ns, ns, repo.URL(), "app", ns,
		"{automated: {prune: true, selfHeal: true}, syncOptions: [RespectIgnoreDifferences=true]}"),
		"  syncPolicy:", "  ignoreDifferences: [{group: apps, kind: Deployment, jsonPointers: [/spec/replicas]}]\n  syncPolicy:", 1))
	w.cluster.Await(t, applications, argocd, ns, "to be synced", syncedAt(head))

	_, err = w.cluster.Dynamic().Resource(harness.Deployments).Namespace(ns).Patch(t.Context(), "web", types.MergePatchType,
		[]byte(`{"spec":{"replicas":4}}`), metav1.PatchOptions{FieldManager: "kube-controller-manager"}, "scale")
	must(t, err)
	w.cluster.Await(t, harness.Deployments, ns, "web", "to be scaled", harness.Ready(4))
	omitted := strings.NewReplacer("  replicas: 2\n", "", "web:v1", "web:v2").Replace(deployment("web", 2))
	next := commit(t, repo, gitserver.Put("app/web.yaml", omitted))
	w.main.push(t, repo)
	w.cluster.Await(t, applications, argocd, ns, "to be synced", syncedAt(next))
	web := w.cluster.Await(t, harness.Deployments, ns, "web", "to have the new image", has("spec.template.spec.containers.0.image", "registry.example/web:v2"))
	if got := field(web, "spec.replicas"); got != "4" {
		t.Errorf("replicas were left to somebody else, who said 4, and are %s", got)
	}
}

// TestAggregatedClusterRole: a role of which Kubernetes fills the rules that Git
// declares to be none is no fight, however often they change.
func TestAggregatedClusterRole(t *testing.T) {
	w := theWorld(t)
	ns := w.tenant(t)
	w.clusterAdmin(t, ns, "deployer")
	name := "all-of-" + ns
	repo := w.repository(t, map[string]string{"app/role.yaml": fmt.Sprintf(`apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata:
  name: %[1]s
aggregationRule:
  clusterRoleSelectors: [{matchLabels: {part-of: %[1]s}}]
rules: []
`, name)})
	head, err := repo.Head()
	must(t, err)
	mark := w.cluster.Mark(t)
	w.gitRepository(t, ns, repo.URL())
	w.kustomization(t, ns, "app", "./app")
	w.cluster.Await(t, kustomizations, ns, "app", "to be applied", appliedAt(head))
	const parts = 6
	for i := range parts {
		part := fmt.Sprintf("%s-%d", name, i)
		w.apply(t, fmt.Sprintf(`
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: %s, labels: {part-of: %s}}
rules: [{apiGroups: [""], resources: [pods], resourceNames: [%q], verbs: [get]}]
`, part, name, part))
		t.Cleanup(func() {
			_ = w.cluster.Dynamic().Resource(clusterRoles).Delete(context.Background(), part, metav1.DeleteOptions{})
		})
		w.cluster.Await(t, clusterRoles, "", name, "to be filled", func(o *unstr) bool { return strings.Contains(field(o, "rules"), part) })
	}
	next := commit(t, repo, gitserver.Put("README.md", "nothing of interest\n"))
	w.main.push(t, repo)
	w.cluster.Await(t, kustomizations, ns, "app", "to have been looked at", appliedAt(next))
	role := w.cluster.Await(t, clusterRoles, "", name, "to be there", harness.Exists)
	if rules, _ := role.Object["rules"].([]any); len(rules) != parts {
		t.Errorf("the role has %d rules, not %d", len(rules), parts)
	}
	sent := w.cluster.RequestsSince(t, mark, harness.Writes, func(r harness.Request) bool {
		return strings.Contains(r.URI, "/clusterroles/"+name+"?fieldManager=kustomize-controller")
	})
	if len(sent) > 1+parts {
		t.Errorf("it was applied %d times: once, and once to look after each change of somebody else, is enough", len(sent))
	}
}

// TestJsonnetApplication: a program with a library, an external variable and a
// top-level argument is delivered, and again when what it imports changes.
func TestJsonnetApplication(t *testing.T) {
	w := theWorld(t)
	ns := w.tenant(t)
	repo := w.repository(t, map[string]string{
		"app/main.jsonnet": `local names = import 'names.libsonnet';
function(size) [{apiVersion: 'v1', kind: 'ConfigMap', metadata: {name: n}, data: {value: std.extVar('region') + '-' + size}} for n in names]
`,
		"lib/names.libsonnet": `['one', 'two']`,
	})
	w.project(t, ns, repo.URL())
	w.apply(t, strings.Replace(application(ns, ns, repo.URL(), "app", ns, automated), "targetRevision: main}",
		"targetRevision: main, directory: {jsonnet: {libs: [lib], extVars: [{name: region, value: north}], tlas: [{name: size, value: large}]}}}", 1))
	for _, name := range []string{"one", "two"} {
		w.cluster.Await(t, harness.ConfigMaps, ns, name, "to be delivered", has("data.value", "north-large"))
	}
	next := commit(t, repo, gitserver.Put("lib/names.libsonnet", `['two']`))
	w.main.push(t, repo)
	w.cluster.Await(t, harness.ConfigMaps, ns, "one", "to be pruned", harness.Gone)
	w.cluster.Await(t, applications, argocd, ns, "to be synced", syncedAt(next))
}

// TestHandBackToArgo: what an Application took over from client-side applies is
// Argo CD's again when its objects are left behind: what it applies holds, and what
// it leaves out goes.
func TestHandBackToArgo(t *testing.T) {
	w := theWorld(t)
	ns := w.tenant(t)
	repo := w.repository(t, map[string]string{"app/config.yaml": configMap("settings", "one")})
	head, err := repo.Head()
	must(t, err)
	mark := fmt.Sprintf("metadata:\n  annotations: {argocd.argoproj.io/tracking-id: %q}\n", ns+":/ConfigMap:"+ns+"/settings")
	w.writeAs(t, "argocd-controller", false, strings.Replace(inNamespace(configMap("settings", "zero"), ns), "metadata:\n", mark, 1)+"  stale: left Git long ago\n")
	w.project(t, ns, repo.URL())
	w.apply(t, strings.Replace(application(ns, ns, repo.URL(), "app", ns, automated), "  finalizers: [resources-finalizer.argocd.argoproj.io]\n", "", 1))
	w.cluster.Await(t, applications, argocd, ns, "to be synced", syncedAt(head))
	cm := w.cluster.Await(t, harness.ConfigMaps, ns, "settings", "to lose what left Git", has("data.stale", "<none>"))
	if _, there := cm.GetAnnotations()[lastApplied]; there || field(cm, "data.value") != "one" || !slices.Equal(managers(cm), []string{"argocd-controller Apply"}) {
		t.Errorf("it was not taken over: managers %v, %v", managers(cm), cm.Object)
	}
	must(t, w.cluster.Dynamic().Resource(applications).Namespace(argocd).Delete(t.Context(), ns, metav1.DeleteOptions{}))
	w.cluster.Await(t, applications, argocd, ns, "to be gone", harness.Gone)
	w.writeAs(t, "argocd-controller", true, strings.NewReplacer("metadata:\n", mark, "value:", "other:").Replace(inNamespace(configMap("settings", "two"), ns)))
	w.cluster.Await(t, harness.ConfigMaps, ns, "settings", "to be the peer's again", func(o *unstr) bool {
		return field(o, "data.value") == "<none>" && field(o, "data.other") == "two"
	})
}

// TestDryRunAndRollback: an Application with a history is tried without effect, taken
// back, and forward again.
func TestDryRunAndRollback(t *testing.T) {
	w := theWorld(t)
	ns := w.tenant(t)
	repo := w.repository(t, map[string]string{"app/config.yaml": configMap("settings", "one")})
	w.project(t, ns, repo.URL())
	w.apply(t, application(ns, ns, repo.URL(), "app", ns, "{}"))
	w.says(t, 0, "", "sync", ns)
	for _, value := range []string{"two", "three"} {
		commit(t, repo, gitserver.Put("app/config.yaml", configMap("settings", value)))
		w.says(t, 0, "", "sync", ns)
	}
	w.cluster.Await(t, harness.ConfigMaps, ns, "settings", "to hold the third", has("data.value", "three"))
	history := func(want int) {
		t.Helper()
		app := w.cluster.Await(t, applications, argocd, ns, "to exist", harness.Exists)
		if list := field(app, "status.history"); strings.Count(list, "deployedAt:") != want {
			t.Errorf("the history has not %d entries: %s", want, list)
		}
	}
	history(3)
	unchanged := func(after string) {
		t.Helper()
		if cm := w.cluster.Await(t, harness.ConfigMaps, ns, "settings", "to exist", harness.Exists); field(cm, "data.value") != "three" {
			t.Errorf("%s changed it to %s", after, field(cm, "data.value"))
		}
	}
	fourth := commit(t, repo, gitserver.Put("app/config.yaml", configMap("settings", "four")))
	w.says(t, 0, "", "sync", ns, "--dry-run", "--revision", fourth)
	unchanged("a dry run")
	w.says(t, 0, "", "rollback", ns, "0", "--dry-run")
	unchanged("a dry run of going back")
	history(3)
	w.says(t, 0, "rolled back to entry 0", "rollback", ns, "0")
	w.cluster.Await(t, harness.ConfigMaps, ns, "settings", "to hold the first", has("data.value", "one"))
	w.says(t, 0, fourth[:7], "sync", ns)
	w.cluster.Await(t, harness.ConfigMaps, ns, "settings", "to hold the last", has("data.value", "four"))
	history(5)
}

// pushed is a push event as a provider sends it, to the controller or a Receiver.
func (c *controller) pushed(t *testing.T, path string, header map[string]string, body []byte) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+c.address+path, strings.NewReader(string(body)))
	must(t, err)
	req.Header.Set("Content-Type", "application/json")
	for name, value := range header {
		req.Header.Set(name, value)
	}
	resp, err := http.DefaultClient.Do(req)
	must(t, err)
	must(t, resp.Body.Close())
	return resp.StatusCode
}

// gitLabPush and giteaPush are what those say of a repository's head.
func gitLabPush(t *testing.T, repo *gitserver.Repo) []byte {
	t.Helper()
	return event(t, repo, map[string]any{"object_kind": "push", "project": map[string]any{"git_http_url": repo.URL(), "web_url": strings.TrimSuffix(repo.URL(), ".git")}})
}

func giteaPush(t *testing.T, repo *gitserver.Repo) []byte {
	t.Helper()
	return event(t, repo, map[string]any{"repository": map[string]any{"clone_url": repo.URL(), "html_url": strings.TrimSuffix(repo.URL(), ".git")}})
}

func event(t *testing.T, repo *gitserver.Repo, about map[string]any) []byte {
	t.Helper()
	head, err := repo.Head()
	must(t, err)
	about["ref"], about["after"] = "refs/heads/main", head
	body, err := json.Marshal(about)
	must(t, err)
	return body
}

func signature(key string, body []byte) string {
	mac := hmac.New(sha256.New, []byte(key))
	mac.Write(body)
	return hex.EncodeToString(mac.Sum(nil))
}

// TestPushesOfEveryProvider: GitLab and Gitea at the one webhook, GitHub and GitLab
// at Receivers: who is who it says is heard, and what it tells is live at once.
func TestPushesOfEveryProvider(t *testing.T) {
	w := theWorld(t)
	ns := w.tenant(t)
	repo := w.repository(t, map[string]string{"app/config.yaml": configMap("settings", "none")})
	w.flux(t, ns, repo.URL(), "./app")
	w.apply(t, "apiVersion: v1\nkind: Secret\nmetadata: {name: hook, namespace: "+ns+"}\nstringData: {token: correct-horse}\n")
	paths := map[string]string{}
	for _, kind := range []string{"github", "gitlab"} {
		w.apply(t, fmt.Sprintf(`
apiVersion: notification.toolkit.fluxcd.io/v1
kind: Receiver
metadata: {name: %s, namespace: %s}
spec: {type: %[1]s, events: [push, "Push Hook"], secretRef: {name: hook}, resources: [{kind: GitRepository, name: app}]}
`, kind, ns))
		r := w.cluster.Await(t, receivers, ns, kind, "to be ready", says("Ready", "True"))
		paths[kind] = field(r, "status.webhookPath")
	}
	w.cluster.Await(t, harness.ConfigMaps, ns, "settings", "to be delivered", has("data.value", "none"))
	tests := []struct {
		reason, value string
		path          string
		body          func(*testing.T, *gitserver.Repo) []byte
		header        func(body []byte) map[string]string
		forged        map[string]string
	}{
		{
			"GitLab", "gitlab", "/api/webhook", gitLabPush,
			func([]byte) map[string]string { return map[string]string{"X-Gitlab-Event": "Push Hook"} }, nil,
		},
		{
			"Gitea, which sends the headers of others too", "gitea", "/api/webhook", giteaPush,
			func([]byte) map[string]string {
				return map[string]string{"X-Gitea-Event": "push", "X-Gogs-Event": "push", "X-Github-Event": "push"}
			}, nil,
		},
		{
			"a Receiver for GitHub", "receiver-github", paths["github"], giteaPush,
			func(body []byte) map[string]string {
				return map[string]string{"X-Github-Event": "push", "X-Hub-Signature-256": "sha256=" + signature("correct-horse", body)}
			},
			map[string]string{"X-Github-Event": "push", "X-Hub-Signature-256": "sha256=" + strings.Repeat("0", 64)},
		},
		{
			"a Receiver for GitLab", "receiver-gitlab", paths["gitlab"], gitLabPush,
			func([]byte) map[string]string {
				return map[string]string{"X-Gitlab-Event": "Push Hook", "X-Gitlab-Token": "correct-horse"}
			},
			map[string]string{"X-Gitlab-Event": "Push Hook", "X-Gitlab-Token": "wrong-horse"},
		},
	}
	for _, tc := range tests {
		commit(t, repo, gitserver.Put("app/config.yaml", configMap("settings", tc.value)))
		body := tc.body(t, repo)
		if tc.forged != nil {
			if code := w.main.pushed(t, tc.path, tc.forged, body); code < 400 {
				t.Errorf("%s: a forgery was answered with %d", tc.reason, code)
			}
		}
		if code := w.main.pushed(t, tc.path, tc.header(body), body); code != http.StatusOK {
			t.Errorf("%s was answered with %d", tc.reason, code)
		}
		w.cluster.Await(t, harness.ConfigMaps, ns, "settings", "to be as "+tc.reason+" says", has("data.value", tc.value))
	}
}

// table asks for a resource as kubectl get prints it.
func (w *world) table(t *testing.T, resource schema.GroupVersionResource, namespace, name string) (columns, cells []string) {
	t.Helper()
	raw, err := w.kube.Discovery().RESTClient().Get().AbsPath("/apis", resource.Group, resource.Version, "namespaces", namespace, resource.Resource, name).
		SetHeader("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io").DoRaw(t.Context())
	must(t, err)
	var table metav1.Table
	must(t, json.Unmarshal(raw, &table))
	if len(table.Rows) != 1 {
		t.Fatalf("%d rows of %s", len(table.Rows), name)
	}
	for i, c := range table.ColumnDefinitions {
		if c.Priority > 0 || c.Name == "Age" {
			continue
		}
		columns, cells = append(columns, c.Name), append(cells, fmt.Sprint(table.Rows[0].Cells[i]))
	}
	return columns, cells
}

// TestKubectlGet: what a person sees of each kind is what Flux and Argo CD show.
func TestKubectlGet(t *testing.T) {
	w := theWorld(t)
	ns := w.tenant(t)
	repo := w.repository(t, map[string]string{"app/config.yaml": configMap("settings", "one"), "argo/config.yaml": configMap("other", "one")})
	head, err := repo.Head()
	must(t, err)
	w.project(t, ns, repo.URL())
	w.flux(t, ns, repo.URL(), "./app")
	w.apply(t, application(ns, ns, repo.URL(), "argo", ns, automated))
	w.cluster.Await(t, kustomizations, ns, "app", "to be applied", appliedAt(head))
	w.cluster.Await(t, applications, argocd, ns, "to be healthy", func(o *unstr) bool {
		return syncedAt(head)(o) && field(o, "status.health.status") == "Healthy"
	})
	revision := "main@sha1:" + head
	tests := []struct {
		resource        schema.GroupVersionResource
		namespace, name string
		columns, cells  []string
	}{
		{gitRepositories, ns, "app", []string{"Name", "URL", "Ready", "Status"}, []string{"app", repo.URL(), "True", "stored artifact for revision '" + revision + "'"}},
		{kustomizations, ns, "app", []string{"Name", "Ready", "Status"}, []string{"app", "True", "Applied revision: " + revision}},
		{applications, argocd, ns, []string{"Name", "Sync Status", "Health Status"}, []string{ns, "Synced", "Healthy"}},
	}
	for _, tc := range tests {
		columns, cells := w.table(t, tc.resource, tc.namespace, tc.name)
		if !slices.Equal(columns, tc.columns) || !slices.Equal(cells, tc.cells) {
			t.Errorf("%s: %q %q, want %q %q", tc.resource.Resource, columns, cells, tc.columns, tc.cells)
		}
	}
}

// TestMoreBadInput: what a neighbour's test of bad input leaves out.
func TestMoreBadInput(t *testing.T) {
	w := theWorld(t)
	ns := w.tenant(t)
	repo := w.repository(t, map[string]string{
		"deep/deep.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: deep\ndata: " + strings.Repeat("{a: ", 300) + "x" + strings.Repeat("}", 300) + "\n",
	})
	t.Run("three hundred levels", func(t *testing.T) {
		w.flux(t, ns, repo.URL(), "./deep")
		w.cluster.Await(t, kustomizations, ns, "app", "to say where it is too deep", says("Ready", "False BuildFailed", "deep/deep.yaml"))
	})
	t.Run("a server that nobody vouches for", func(t *testing.T) {
		git, err := gitserver.Start(t.TempDir(), gitserver.Options{TLS: true})
		must(t, err)
		t.Cleanup(func() { _ = git.Close() })
		untrusted, err := git.Create("untrusted")
		must(t, err)
		commit(t, untrusted, gitserver.Put("app/config.yaml", configMap("settings", "one")))
		other := w.tenant(t)
		w.flux(t, other, untrusted.URL(), "./app")
		w.cluster.Await(t, gitRepositories, other, "app", "to say that it does not trust the server", says("Ready", "False", "certificate"))
		w.cluster.Await(t, harness.ConfigMaps, other, "settings", "not to be delivered", harness.Gone)
	})
	t.Run("a path of this machine", func(t *testing.T) {
		o := &unstr{Object: map[string]any{
			"apiVersion": "source.toolkit.fluxcd.io/v1", "kind": "GitRepository", "metadata": map[string]any{"name": "file", "namespace": ns},
			"spec": map[string]any{"url": "file:///etc", "interval": "10m"},
		}}
		_, err := w.cluster.Dynamic().Resource(gitRepositories).Namespace(ns).Create(t.Context(), o, metav1.CreateOptions{})
		if !apierrors.IsInvalid(err) {
			t.Errorf("a file URL in a tenant's object: %v", err)
		}
	})
	if !w.main.alive() {
		t.Fatalf("the controller ended:\n%s", w.main.log)
	}
}

// children returns the processes that this one started with an argument.
func children(t *testing.T, argument string) []int {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	must(t, err)
	var pids []int
	for _, name := range stats {
		stat, err := os.ReadFile(name)
		if err != nil {
			continue // it has ended
		}
		_, after, _ := strings.Cut(string(stat), ") ")
		line, _ := os.ReadFile(filepath.Join(filepath.Dir(name), "cmdline")) // it may have ended
		if f := strings.Fields(after); len(f) < 2 || f[1] != strconv.Itoa(os.Getpid()) || !strings.HasSuffix(string(line), "\x00"+argument+"\x00") {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(name)))
		must(t, err)
		pids = append(pids, pid)
	}
	return pids
}

// TestWorkersAreCheap: a worker of the real binary, with all that it links, is there
// at once and holds little memory of its own.
func TestWorkersAreCheap(t *testing.T) {
	w := theWorld(t)
	const (
		memory = 15 << 20 // 14.3 MiB with the engines of policies linked in
		starts = 3        // as many as it takes the program to start and end; 1.2 measured, 1.6 on a machine with twice the work
	)
	best, floor, least := time.Hour, time.Hour, int64(1<<40)
	for range 5 {
		began := time.Now()
		w.says(t, 0, "holdfast", "version")
		floor = min(floor, time.Since(began))
		pool := worker.NewPool(worker.Options{Size: 1, Command: []string{w.binary, worker.Arg}})
		start := time.Now()
		// A job of no kind comes back as soon as the worker answers.
		if _, err := pool.Do(t.Context(), "nothing", nil, nil); err == nil || !strings.Contains(err.Error(), "does not know the job") {
			t.Fatalf("the worker does not answer: %v", err)
		}
		best = min(best, time.Since(start))
		for _, pid := range children(t, worker.Arg) {
			least = min(least, anonymous(t, pid))
		}
		pool.Close()
	}
	t.Logf("a worker starts in %s, where `holdfast version` takes %s, and has %.1f MiB of its own", best.Round(time.Millisecond), floor.Round(time.Millisecond), float64(least)/(1<<20))
	if best > starts*floor {
		t.Errorf("the fastest of five starts took %s, and that of `holdfast version` %s", best, floor)
	}
	if least > memory {
		t.Errorf("an empty worker has %d MiB of memory of its own", least>>20)
	}
}

// anonymous returns how many bytes of a process's memory are not those of a file.
func anonymous(t *testing.T, pid int) int64 {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	must(t, err)
	for line := range strings.Lines(string(status)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "RssAnon:" {
			kib, err := strconv.ParseInt(f[1], 10, 64)
			must(t, err)
			return kib << 10
		}
	}
	t.Fatalf("no RssAnon of %d", pid)
	return 0
}
