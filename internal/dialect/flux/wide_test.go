package flux_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/holdfastcd/holdfast/internal/delivery"
	"github.com/holdfastcd/holdfast/internal/dialect"
	"github.com/holdfastcd/holdfast/test/gitserver"
	"github.com/holdfastcd/holdfast/test/harness"
)

func named(names ...string) []any {
	var refs []any
	for _, n := range names {
		refs = append(refs, map[string]any{"name": n})
	}
	return refs
}

// A chain is delivered link by link, each when the one before is ready, and with
// every commit again; a broken link holds back those behind it, and says so.
func TestDependsOn(t *testing.T) {
	x := start(t).tenant(t)
	first := x.commit(
		gitserver.Put("a/a.yaml", configMap("a", "1")), gitserver.Put("b/b.yaml", configMap("b", "1")), gitserver.Put("c/c.yaml", configMap("c", "1")))
	x.source()
	x.deliver("c", map[string]any{"dependsOn": named("b")})
	x.deliver("b", map[string]any{"dependsOn": named("a")})
	x.await(kustomizations, "b", "to wait", is("Ready", "False", "DependencyNotReady", "dependency '"+x.namespace+"/a' is not ready: it does not exist"))
	x.deliver("a", nil)
	for _, name := range []string{"a", "b", "c"} {
		x.await(kustomizations, name, "to be ready", applied(first))
	}
	mark := x.cluster.Mark(t)
	second := x.push(gitserver.Put("a/a.yaml", configMap("a", "2")))
	x.await(kustomizations, "c", "to be ready again", applied(second))
	if got := x.requests(mark); count(got, "patch kustomizations/status b")+count(got, "patch kustomizations/status c") > 2 {
		t.Errorf("the wait for a commit was told: %v", got)
	}
	x.push(gitserver.Put("a/a.yaml", "a: b: c"), gitserver.Put("c/c.yaml", configMap("c", "3")))
	x.await(kustomizations, "b", "to tell", is("Ready", "False", "DependencyNotReady", "BuildFailed: a/a.yaml:1"))
	x.await(kustomizations, "c", "to wait behind it", is("Ready", "False", "DependencyNotReady", "/b' is not ready"))
	x.has("c", "1")
	last := x.push(gitserver.Put("a/a.yaml", configMap("a", "4")))
	x.await(kustomizations, "c", "to recover", applied(last))
	x.has("c", "3")

	x.patch(kustomizations, "a", `{"spec":{"dependsOn":[{"name":"c"}]}}`)
	for _, name := range []string{"a", "b", "c"} {
		x.await(kustomizations, name, "to name the circle", is("Ready", "False", "DependencyNotReady", "circular dependency: "+x.namespace+"/"+name+" depends on "))
	}
	x.patch(kustomizations, "a", `{"spec":{"dependsOn":null}}`)
	x.await(kustomizations, "c", "to be let out", applied(last))
}

func variables(name string, labels, data map[string]any) map[string]any {
	return map[string]any{"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": name, "labels": labels}, "data": data}
}

// Variables come from the object, from ConfigMaps and from Secrets; those that are
// labelled are followed.
func TestPostBuild(t *testing.T) {
	x := start(t).tenant(t)
	first := x.commit(gitserver.Put("web/a.yaml", configMap("a", "${inline}-${map}-${secret}-${none:=default}")), gitserver.Put("web/b.yaml", `apiVersion: v1
kind: ConfigMap
metadata:
  name: b
  annotations: {kustomize.toolkit.fluxcd.io/substitute: disabled}
data: {key: "${inline}"}
`))
	x.source()
	x.deliver("web", map[string]any{"postBuild": map[string]any{
		"substitute": map[string]any{"inline": "i"},
		"substituteFrom": []any{
			map[string]any{"kind": "ConfigMap", "name": "vars"},
			map[string]any{"kind": "Secret", "name": "vars"},
			map[string]any{"kind": "ConfigMap", "name": "nowhere", "optional": true},
		},
	}})
	x.await(kustomizations, "web", "to miss its variables", is("Ready", "False", "BuildFailed", "ConfigMap "+x.namespace+"/vars"))
	x.create(secrets, map[string]any{"apiVersion": "v1", "kind": "Secret", "metadata": map[string]any{"name": "vars"}, "stringData": map[string]any{"secret": "s"}})
	x.create(harness.ConfigMaps, variables("vars", map[string]any{"reconcile.fluxcd.io/watch": "Enabled"}, map[string]any{"map": "m"}))
	x.await(kustomizations, "web", "to be ready", applied(first))
	x.has("a", "i-m-s-default")
	x.has("b", "${inline}")
	x.patch(harness.ConfigMaps, "vars", `{"data":{"map":"n"}}`)
	x.has("a", "i-n-s-default")
	x.push(gitserver.Put("web/a.yaml", configMap("a", "${unset}")))
	x.await(kustomizations, "web", "to tell", is("Ready", "False", "BuildFailed", "web/a.yaml"))
	x.has("a", "i-n-s-default")
}

// What an account may not read, its Kustomization does not get to know.
func TestVariablesNeedARight(t *testing.T) {
	x := start(t).tenant(t)
	x.commit(gitserver.Put("web/a.yaml", configMap("a", "${password}")))
	x.create(harness.ServiceAccounts, map[string]any{"apiVersion": "v1", "kind": "ServiceAccount", "metadata": map[string]any{"name": "weak"}})
	x.create(secrets, map[string]any{"apiVersion": "v1", "kind": "Secret", "metadata": map[string]any{"name": "vars"}, "stringData": map[string]any{"password": "hunter2"}})
	x.source()
	x.deliver("web", map[string]any{"serviceAccountName": "weak", "postBuild": map[string]any{
		"substituteFrom": []any{map[string]any{"kind": "Secret", "name": "vars"}},
	}})
	o := x.await(kustomizations, "web", "to be refused", is("Ready", "False", "BuildFailed", "may not read Secret "+x.namespace+"/vars"))
	if strings.Contains(fmt.Sprint(o.Object["status"]), "hunter2") {
		t.Error("the value is in the status")
	}
}

const sleeper = `apiVersion: apps/v1
kind: Deployment
metadata: {name: %s}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers: [{name: web, image: nginx}]
      nodeSelector: %s
`

// Only the objects that are listed count, whoever delivers them; a check of what
// never comes fails in time, and an event ends it.
func TestHealthChecks(t *testing.T) {
	x := start(t).tenant(t)
	first := x.commit(
		gitserver.Put("web/a.yaml", fmt.Sprintf(sleeper, "web", "{}")), gitserver.Put("web/b.yaml", fmt.Sprintf(sleeper, "never", "{nowhere: x}")),
		gitserver.Put("api/c.yaml", configMap("c", "1")))
	checks := func(names ...string) map[string]any {
		var all []any
		for _, n := range names {
			all = append(all, map[string]any{"apiVersion": "apps/v1", "kind": "Deployment", "name": n, "namespace": x.namespace})
		}
		return map[string]any{"healthChecks": all, "timeout": "2s", "retryInterval": "1h"}
	}
	x.source()
	x.deliver("api", checks("other"))
	x.await(kustomizations, "api", "to wait in vain", is("Ready", "False", "HealthCheckFailed", "Deployment/"+x.namespace+"/other (Missing)"))
	x.deliver("web", checks("web"))
	ks := x.await(kustomizations, "web", "to be ready", applied(first))
	if condition(ks, "Healthy") != "True" {
		t.Errorf("not healthy: %v", ks.Object["status"])
	}
	x.create(harness.Deployments, map[string]any{
		"apiVersion": "apps/v1", "kind": "Deployment", "metadata": map[string]any{"name": "other"},
		"spec": map[string]any{
			"selector": map[string]any{"matchLabels": map[string]any{"app": "other"}},
			"template": map[string]any{
				"metadata": map[string]any{"labels": map[string]any{"app": "other"}},
				"spec":     map[string]any{"containers": []any{map[string]any{"name": "x", "image": "nginx"}}},
			},
		},
	})
	x.await(kustomizations, "api", "to be ready when the other is", applied(first))

	y := x.tenant(t)
	y.commit(gitserver.Put("spy/a.yaml", configMap("a", "1")))
	y.source()
	y.deliver("spy", checksIn(x.namespace, "web"))
	y.await(kustomizations, "spy", "to learn nothing", is("Ready", "False", "HealthCheckFailed", "(Unknown"))
}

func checksIn(namespace, name string) map[string]any {
	return map[string]any{"timeout": "1s", "healthChecks": []any{
		map[string]any{"apiVersion": "apps/v1", "kind": "Deployment", "name": name, "namespace": namespace},
	}}
}

// One repository, many who ask for it: none sees, or moves, what another delivers.
func TestOneURLManyTenants(t *testing.T) {
	w := start(t)
	server, err := gitserver.Start(filepath.Join(t.TempDir(), "git"), gitserver.Options{Username: "u", Password: "p", TLS: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
	other, err := gitserver.Start(filepath.Join(t.TempDir(), "git"), gitserver.Options{TLS: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := other.Close(); err != nil {
			t.Error(err)
		}
	})
	repo, err := server.Create("shared")
	if err != nil {
		t.Fatal(err)
	}
	first, err := repo.Commit("first", gitserver.Put("web/a.yaml", configMap("a", "1")))
	if err != nil {
		t.Fatal(err)
	}
	good := map[string]any{"username": "u", "password": "p", "ca.crt": string(server.CA())}
	owner := w.tenant(t)
	owner.asks(repo.URL(), good, nil, map[string]any{"branch": "main"})
	owner.deliver("web", nil)
	owner.await(kustomizations, "web", "to be ready", applied(first))

	ca := string(server.CA())
	for _, tc := range []struct {
		reason      string
		auth, proxy map[string]any
		status      string
	}{
		{"no credential", map[string]any{"ca.crt": ca}, nil, "AuthenticationFailed"},
		{"a wrong one", map[string]any{"username": "u", "password": "wrong", "ca.crt": ca}, nil, "AuthenticationFailed"},
		{"nobody is trusted", map[string]any{"username": "u", "password": "p"}, nil, "GitOperationFailed"},
		{"another is trusted", map[string]any{"username": "u", "password": "p", "ca.crt": string(other.CA())}, nil, "GitOperationFailed"},
		{"another way", good, map[string]any{"address": "http://127.0.0.1:1"}, "GitOperationFailed"},
	} {
		t.Run(tc.reason, func(t *testing.T) {
			x := w.tenant(t)
			// A commit that somebody else has fetched is no secret to guess.
			for name, ref := range map[string]map[string]any{"fleet": {"branch": "main"}, "guess": {"commit": first}} {
				x.asksAs(name, repo.URL(), tc.auth, tc.proxy, ref)
				x.await(gitRepositories, name, "to be refused", is("Ready", "False", tc.status, ""))
			}
			x.deliver("web", nil)
			x.await(kustomizations, "web", "to have nothing", is("Ready", "False", "ArtifactFailed", "Source artifact not found"))
		})
	}
	second, err := repo.Commit("second", gitserver.Put("web/a.yaml", configMap("a", "2")))
	if err != nil {
		t.Fatal(err)
	}
	w.hub.Refresh(repo.URL())
	w.flux.Refresh(repo.URL(), "main")
	owner.await(kustomizations, "web", "to go on", applied(second))
	owner.has("a", "2")
}

func (x tenant) asks(url string, auth, proxy, ref map[string]any) {
	x.Helper()
	x.asksAs("fleet", url, auth, proxy, ref)
}

// asksAs creates a GitRepository, with Secrets of its own.
func (x tenant) asksAs(name, url string, auth, proxy, ref map[string]any) {
	x.Helper()
	spec := map[string]any{"url": url, "interval": "1h", "timeout": "10s", "ref": ref}
	for field, data := range map[string]map[string]any{"secretRef": auth, "proxySecretRef": proxy} {
		if data == nil {
			continue
		}
		secret := name + "-" + strings.ToLower(field)
		x.create(secrets, map[string]any{"apiVersion": "v1", "kind": "Secret", "metadata": map[string]any{"name": secret}, "stringData": data})
		spec[field] = map[string]any{"name": secret}
	}
	x.create(gitRepositories, map[string]any{
		"apiVersion": sourcev1.GroupVersion.String(), "kind": "GitRepository", "metadata": map[string]any{"name": name}, "spec": spec,
	})
}

// Every kind of ref is named as Flux names it.
func TestRefs(t *testing.T) {
	x := start(t).tenant(t)
	first := x.commit(gitserver.Put("web/a.yaml", configMap("a", "1")))
	for tag, message := range map[string]string{"v1.0.0": "", "v1.2.0": "signed", "v2.0.0": ""} {
		if err := x.repo.Tag(tag, first, message); err != nil {
			t.Fatal(err)
		}
	}
	if err := x.repo.SetRef("refs/pull/1/head", first); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		ref  map[string]any
		want string
	}{
		"branch": {map[string]any{"branch": "main"}, "main@sha1:"},
		"tag":    {map[string]any{"tag": "v1.2.0"}, "v1.2.0@sha1:"},
		"range":  {map[string]any{"semver": "1.x"}, "v1.2.0@sha1:"},
		"name":   {map[string]any{"name": "refs/pull/1/head"}, "refs/pull/1/head@sha1:"},
		"commit": {map[string]any{"commit": first}, "sha1:"},
		"both":   {map[string]any{"commit": first, "branch": "main"}, "main@sha1:"},
	} {
		x.asksAs(name, x.repo.URL(), nil, nil, tc.ref)
		x.await(gitRepositories, name, "to have fetched", is("Ready", "True", "Succeeded", "stored artifact for revision '"+tc.want+first+"'"))
	}
}

// An object asks for its own treatment.
func TestMarkedObjects(t *testing.T) {
	x := start(t).tenant(t)
	marked := func(name, value, key, mark string) string {
		return strings.Replace(configMap(name, value), "metadata:\n", "metadata:\n  annotations: {kustomize.toolkit.fluxcd.io/"+key+": "+mark+"}\n", 1)
	}
	first := x.commit(gitserver.Put("web/a.yaml", configMap("a", "1")), gitserver.Put("web/b.yaml", marked("b", "1", "ssa", "IfNotPresent")),
		gitserver.Put("web/c.yaml", marked("c", "1", "reconcile", "disabled")))
	x.source()
	x.deliver("web", nil)
	x.await(kustomizations, "web", "to be ready", applied(first))
	x.has("b", "1")
	second := x.push(gitserver.Put("web/b.yaml", marked("b", "2", "ssa", "IfNotPresent")), gitserver.Put("web/a.yaml", configMap("a", "2")))
	x.await(kustomizations, "web", "to be ready", applied(second))
	x.has("a", "2")
	x.has("b", "1")
	x.await(harness.ConfigMaps, "c", "not to be there", func(o *unstructured.Unstructured) bool { return o == nil })
}

// A process that observes tells what it would do, and writes nothing at all.
func TestObserve(t *testing.T) {
	if testing.Short() {
		t.Skip("it needs a cluster")
	}
	c, err := harness.Start(t.Context(), harness.Options{Audit: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Stop(); err != nil {
			t.Error(err)
		}
	})
	told := make(chan delivery.Report, 1000)
	w, err := newWorld(t, c, func(env *dialect.Env) {
		env.Observe, env.Observed = true, func(_ delivery.ID, r delivery.Report) { told <- r }
	})
	if err != nil {
		t.Fatal(err)
	}
	x := w.tenant(t)
	x.commit(gitserver.Put("web/a.yaml", configMap("a", "1")), gitserver.Put("web/b.yaml", configMap("b", "1")))
	x.create(harness.ConfigMaps, variables("b", nil, map[string]any{"key": "other"}))
	mark := c.Mark(t)
	x.source()
	x.deliver("web", map[string]any{"dependsOn": named("never")})
	would := func(report delivery.Report) string {
		var all []string
		for _, o := range report.Objects {
			all = append(all, fmt.Sprintf("%s %s %v", o.Op, o.ID.Name, o.Fields))
		}
		return strings.Join(all, ", ")
	}
	deadline := time.After(time.Minute)
	for last := ""; ; {
		select {
		case report := <-told:
			if last = would(report); report.Observed && strings.Contains(last, "create a") && strings.Contains(last, " b [") {
				equal(t, "what was written", x.requests(mark), nil)
				t.Log(last)
				return
			}
		case <-deadline:
			t.Fatalf("it would %s", last)
		}
	}
}

// What takes a lot with it waits for a word.
func TestMassPruneWaits(t *testing.T) {
	x := start(t).tenant(t)
	var changes, deletions []gitserver.Change
	for i := range 6 {
		file := fmt.Sprintf("web/%d.yaml", i)
		changes = append(changes, gitserver.Put(file, configMap(fmt.Sprintf("m%d", i), "1")))
		if i > 0 {
			deletions = append(deletions, gitserver.Delete(file))
		}
	}
	first := x.commit(changes...)
	x.source()
	x.deliver("web", nil)
	x.await(kustomizations, "web", "to be ready", applied(first))
	second := x.push(append(deletions, gitserver.Put("web/0.yaml", configMap("m0", "2")))...)
	o := x.await(kustomizations, "web", "to wait", is("Ready", "False", "PruneHeld", "holdfast.dev/confirm-prune="))
	x.has("m0", "2")
	x.has("m5", "1")
	message, _ := conditionOf(o, "Ready")["message"].(string)
	_, digest, _ := strings.Cut(strings.TrimSuffix(message, ")"), "holdfast.dev/confirm-prune=")
	x.patch(kustomizations, "web", `{"metadata":{"annotations":{"holdfast.dev/confirm-prune":"`+digest+`"}}}`)
	x.await(kustomizations, "web", "to go on", applied(second))
	x.await(harness.ConfigMaps, "m5", "to be pruned", harness.Gone)
}
