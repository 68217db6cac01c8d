package argo

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	kschema "k8s.io/apimachinery/pkg/runtime/schema"

	api "github.com/holdfastcd/holdfast/api/argo/v1alpha1"
	"github.com/holdfastcd/holdfast/internal/delivery"
	"github.com/holdfastcd/holdfast/internal/dialect"
	"github.com/holdfastcd/holdfast/internal/source"
	"github.com/holdfastcd/holdfast/test/harness"
)

var deployments = kschema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"}

func permissive(env *dialect.Env) { env.Permissive = true }

// The manifests that introductions print name no account and no project of their
// own: a root that delivers Applications, a project for a family of namespaces that
// permits nothing cluster-wide, and an Application that is synced by hand.
func TestLivePrintedManifests(t *testing.T) {
	r := newRig(t, permissive)
	created := "apps-" + r.ns
	r.text(t, appprojects, `{apiVersion: argoproj.io/v1alpha1, kind: AppProject, metadata: {name: family}, spec: {
		description: what the family runs,
		sourceRepos: ["https://git.example.com/me/fleet.git"],
		destinations: [{namespace: "apps-*", server: "https://kubernetes.default.svc"}, {namespace: `+r.ns+`, server: "https://kubernetes.default.svc"}],
		clusterResourceWhitelist: [],
		namespaceResourceBlacklist: [{group: "", kind: ResourceQuota}, {group: "", kind: LimitRange}],
		roles: [{name: viewer, policies: ["p, proj:family:viewer, applications, get, family/*, allow"]}]}}`)
	child := func(name, project, ns, policy string) string {
		return fmt.Sprintf(`{apiVersion: argoproj.io/v1alpha1, kind: Application, metadata: {name: %s, namespace: %s}, spec: {project: %s,
			source: {repoURL: "https://git.example.com/me/fleet.git", targetRevision: main, path: apps/%s/overlays/prod},
			destination: {server: "https://kubernetes.default.svc", namespace: %s}%s}}`, name, r.ns, project, name, ns, policy)
	}
	head := r.remote.commit(map[string]string{
		"clusters/home/apps.yaml": child("auto", "default", created, ", syncPolicy: {automated: {prune: true, selfHeal: true}, syncOptions: [CreateNamespace=true]}") +
			"\n---\n" + child("hand", "family", r.ns, "") + "\n---\n" + child("quota", "family", r.ns, ", syncPolicy: {automated: {}}"),
		"apps/auto/base/kustomization.yaml":           "resources: [a.yaml]",
		"apps/auto/base/a.yaml":                       cm("a", "1"),
		"apps/auto/overlays/prod/kustomization.yaml":  "resources: [../../base]\nnamePrefix: prod-",
		"apps/hand/overlays/prod/kustomization.yaml":  "resources: [b.yaml]",
		"apps/hand/overlays/prod/b.yaml":              cm("b", "1"),
		"apps/quota/overlays/prod/kustomization.yaml": "resources: [q.yaml]",
		"apps/quota/overlays/prod/q.yaml":             "apiVersion: v1\nkind: LimitRange\nmetadata: {name: q}\nspec: {limits: []}\n",
	})
	r.text(t, applications, `{apiVersion: argoproj.io/v1alpha1, kind: Application, metadata: {name: root}, spec: {project: default,
		source: {repoURL: "https://git.example.com/me/fleet.git", targetRevision: main, path: clusters/home},
		destination: {server: "https://kubernetes.default.svc"},
		syncPolicy: {automated: {prune: true, selfHeal: true}, syncOptions: [CreateNamespace=true]}}}`)
	root := r.await(t, "root", "to be synced", syncedAt(head))
	if len(root.Status.Conditions) != 1 || root.Status.Conditions[0].Type != ConditionPermissive || !root.Status.Summary.IsAppOfApps {
		t.Errorf("the root's status is %+v", root.Status)
	}
	r.await(t, "auto", "to be synced", syncedAt(head))
	r.cluster.Await(t, harness.ConfigMaps, created, "prod-a", "to be in the namespace that was made for it", value("1"))
	r.await(t, "hand", "to wait for somebody", func(a *api.Application) bool {
		return a.Status.Sync.Revision == head && a.Status.Sync.Status == api.SyncStatusCodeOutOfSync
	})
	r.patch(t, applications, "hand", `{"operation":{"sync":{}}}`)
	r.await(t, "hand", "to be synced", syncedAt(head))
	r.await(t, "quota", "to be refused by its project", func(a *api.Application) bool {
		for _, c := range a.Status.Conditions {
			if strings.Contains(c.Message, "resource :LimitRange is not permitted in project family") && strings.Contains(c.Message, "q.yaml:1") {
				return true
			}
		}
		return false
	})
}

// What a project does not permit it does not permit to delete, either.
func TestLiveProjectGuardsDeletes(t *testing.T) {
	r := newRig(t)
	first := r.remote.commit(map[string]string{"web/a.yaml": cm("a", "1"), "web/b.yaml": cm("b", "1")})
	r.app(t, "web", "web", healing, finalizerBackground)
	r.await(t, "web", "to be synced", syncedAt(first))
	r.patch(t, appprojects, "shop", `{"spec":{"namespaceResourceBlacklist":[{"group":"","kind":"ConfigMap"}]}}`)
	r.await(t, "web", "to be refused", func(a *api.Application) bool {
		return len(a.Status.Conditions) == 1 && strings.Contains(a.Status.Conditions[0].Message, "is not permitted in project shop")
	})
	if err := r.in(applications, r.ns).Delete(t.Context(), "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	r.await(t, "web", "to say why it stays", func(a *api.Application) bool {
		return len(a.Status.Conditions) == 1 && a.Status.Conditions[0].Type == api.ConditionDeletionError &&
			strings.Contains(a.Status.Conditions[0].Message, "not permitted")
	})
	r.cluster.Await(t, harness.ConfigMaps, r.ns, "a", "to be there", value("1"))
	r.patch(t, appprojects, "shop", `{"spec":{"namespaceResourceBlacklist":null}}`)
	r.cluster.Await(t, applications, r.ns, "web", "to be gone", harness.Gone)
	r.cluster.Await(t, harness.ConfigMaps, r.ns, "a", "to be gone", harness.Gone)
}

// An operation that waits can be stopped; waves wait for health.
func TestLiveWavesAndTermination(t *testing.T) {
	r := newRig(t)
	deployment := func(name, wave string) string {
		return fmt.Sprintf(`{apiVersion: apps/v1, kind: Deployment, metadata: {name: %s, annotations: {argocd.argoproj.io/sync-wave: "%s"}}, spec: {replicas: 1,
			selector: {matchLabels: {app: %[1]s}}, template: {metadata: {labels: {app: %[1]s}}, spec: {nodeSelector: {nobody: has-this}, containers: [{name: c, image: "example.com/%[1]s:1"}]}}}}`, name, wave)
	}
	r.remote.commit(map[string]string{"web/one.yaml": deployment("one", "-1"), "web/two.yaml": deployment("two", "2")})
	r.app(t, "web", "web", `{}`)
	r.await(t, "web", "to be compared", func(a *api.Application) bool { return len(a.Status.Resources) == 2 })
	r.patch(t, applications, "web", `{"operation":{"sync":{},"initiatedBy":{"username":"alice"}}}`)
	app := r.await(t, "web", "to wait for the first wave", func(a *api.Application) bool {
		return a.Operation != nil && a.Status.OperationState != nil && a.Status.OperationState.Phase == api.OperationRunning
	})
	if w := app.Status.Resources[0].SyncWave; w != -1 {
		t.Errorf("the first wave is %d", w)
	}
	r.cluster.Await(t, deployments, r.ns, "one", "to be there", harness.Exists)
	r.cluster.Await(t, deployments, r.ns, "two", "to be held back", harness.Gone)
	r.patch(t, applications, "web", `{"status":{"operationState":{"phase":"Terminating"}}}`)
	app = r.await(t, "web", "to have stopped", over(api.OperationFailed))
	if m := app.Status.OperationState.Message; m != "Operation terminated" || len(app.Status.History) != 0 {
		t.Errorf("got %q, history %+v", m, app.Status.History)
	}
	if diff := strings.Join(app.Status.Summary.Images, " "); diff != "example.com/one:1 example.com/two:1" {
		t.Errorf("the images are %q", diff)
	}
	r.cluster.Await(t, deployments, r.ns, "two", "to be held back still", harness.Gone)
}

// Whoever scales keeps what they set, and is not shown as different.
func TestLiveIgnoredDifferences(t *testing.T) {
	r := newRig(t)
	first := r.remote.commit(map[string]string{"web/d.yaml": `{apiVersion: apps/v1, kind: Deployment, metadata: {name: d}, spec: {replicas: 1,
		selector: {matchLabels: {app: d}}, template: {metadata: {labels: {app: d}}, spec: {containers: [{name: c, image: "example.com/d:1"}]}}}}`})
	r.app(t, "web", "web", `{automated: {selfHeal: true}, syncOptions: [RespectIgnoreDifferences=true]}`)
	r.patch(t, applications, "web", `{"spec":{"ignoreDifferences":[{"group":"apps","kind":"Deployment","jsonPointers":["/spec/replicas"]}]}}`)
	r.await(t, "web", "to be synced", func(a *api.Application) bool {
		return syncedAt(first)(a) && len(a.Status.Sync.ComparedTo.IgnoreDifferences) == 1
	})
	r.patch(t, deployments, "d", `{"spec":{"replicas":4}}`)
	mark := r.cluster.Mark(t)
	second := r.remote.commit(map[string]string{"web/d.yaml": strings.Replace(r.remote.files["web/d.yaml"], "d:1", "d:2", 1)})
	r.patch(t, applications, "web", `{"metadata":{"annotations":{"argocd.argoproj.io/refresh":"normal"}}}`)
	r.await(t, "web", "to be synced", syncedAt(second))
	r.cluster.Await(t, deployments, r.ns, "d", "to be new, and as many as somebody said", func(o *unstructured.Unstructured) bool {
		replicas, _, _ := unstructured.NestedInt64(o.Object, "spec", "replicas")
		image, _, _ := unstructured.NestedFieldNoCopy(o.Object, "spec", "template", "spec", "containers")
		return replicas == 4 && strings.Contains(fmt.Sprint(image), "d:2")
	})
	if n := len(r.stored(t, mark, "deployments")); n != 1 {
		t.Errorf("a new image took %d writes", n)
	}
}

// A process that observes writes nothing at all, and tells what it would do.
func TestLiveObserve(t *testing.T) {
	var mu sync.Mutex
	reports := map[string]delivery.Report{}
	told := make(chan struct{}, 100)
	r := newRig(t, func(env *dialect.Env) {
		env.Observe = true
		env.Observed = func(id delivery.ID, report delivery.Report) {
			mu.Lock()
			reports[id.Name] = report
			mu.Unlock()
			select {
			case told <- struct{}{}:
			default:
			}
		}
	})
	r.remote.commit(map[string]string{"web/a.yaml": cm("a", "1"), "web/b.yaml": cm("b", "1")})
	r.text(t, harness.ConfigMaps, cm("b", "2"))
	mark := r.cluster.Mark(t)
	r.app(t, "web", "web", healing, finalizerResources)
	wanted := func() bool {
		mu.Lock()
		defer mu.Unlock()
		return reports["web"].Observed && len(reports["web"].Objects) == 2
	}
	for !wanted() {
		select {
		case <-told:
		case <-t.Context().Done():
			t.Fatal("nothing was told")
		}
	}
	mu.Lock()
	objects := reports["web"].Objects
	mu.Unlock()
	ops := map[string]string{}
	for _, o := range objects {
		ops[o.ID.Name] = fmt.Sprint(o.Would, " ", o.Outcome, " ", o.Fields)
	}
	if ops["a"] != "true created []" || !strings.HasPrefix(ops["b"], "true configured ") || !strings.Contains(ops["b"], "data.value") {
		t.Errorf("got %v", ops)
	}
	for _, resource := range []string{"configmaps", "applications", "events"} {
		if list := r.stored(t, mark, resource); len(list) != 0 {
			t.Errorf("it wrote %s: %+v", resource, list)
		}
	}
}

// A chart is rendered for the cluster that it goes to, with what the Application and
// the repository say of its values.
func TestLiveChart(t *testing.T) {
	r := newRig(t)
	head := r.remote.commit(map[string]string{
		"web/Chart.yaml":              "apiVersion: v2\nname: web\nversion: 1.0.0\n",
		"web/values.yaml":             "a: chart\nb: chart\nc: chart\nd: chart\n",
		"env/prod.yaml":               "b: file\nc: file\nd: file\n",
		"web/.argocd-source-web.yaml": "helm: {parameters: [{name: d, value: $ARGOCD_APP_NAME}]}\n",
		"web/templates/a.yaml": `{apiVersion: v1, kind: ConfigMap, metadata: {name: "{{ .Release.Name }}", namespace: "{{ .Release.Namespace }}"},
			data: {value: "{{ .Values.a }} {{ .Values.b }} {{ .Values.c }} {{ .Values.d }}", served: "{{ .Capabilities.APIVersions.Has "argoproj.io/v1alpha1/Application" }}"}}`,
		"web/templates/test.yaml": `{apiVersion: v1, kind: ConfigMap, metadata: {name: test, annotations: {helm.sh/hook: test}}}`,
	})
	r.app(t, "web", "web", healing)
	r.patch(t, applications, "web", `{"spec":{"source":{"helm":{"releaseName":"rel","valueFiles":["/env/prod.yaml"],"valuesObject":{"c":"inline","d":"inline"}}}}}`)
	app := r.await(t, "web", "to be synced", func(a *api.Application) bool { return syncedAt(head)(a) && a.Status.Sync.ComparedTo.Source.Helm != nil })
	if app.Status.SourceType != "Helm" || len(app.Status.Conditions) != 0 {
		t.Errorf("the status is %+v", app.Status)
	}
	r.cluster.Await(t, harness.ConfigMaps, r.ns, "rel", "to have its values", value("chart file inline web"))
	r.cluster.Await(t, harness.ConfigMaps, r.ns, "rel", "to know the cluster", func(o *unstructured.Unstructured) bool {
		served, _, _ := unstructured.NestedString(o.Object, "data", "served")
		return served == "true"
	})
	r.cluster.Await(t, harness.ConfigMaps, r.ns, "test", "not to be delivered", harness.Gone)
}

// A namespace that is made has what it shall have, also when it was there before.
func TestLiveNamespaceMetadata(t *testing.T) {
	r := newRig(t, permissive)
	ns := "made-" + r.ns
	head := r.remote.commit(map[string]string{"web/a.yaml": cm("a", "1")})
	r.text(t, appprojects, `{apiVersion: argoproj.io/v1alpha1, kind: AppProject, metadata: {name: wide}, spec: {sourceRepos: ["*"],
		destinations: [{server: "*", namespace: "*"}], clusterResourceWhitelist: [{group: "", kind: Namespace}]}}`)
	r.text(t, applications, `{apiVersion: argoproj.io/v1alpha1, kind: Application, metadata: {name: web, finalizers: [`+finalizerBackground+`]}, spec: {project: wide,
		source: {repoURL: "https://git.example.com/shop", path: web}, destination: {name: in-cluster, namespace: `+ns+`},
		syncPolicy: {automated: {selfHeal: true}, syncOptions: [CreateNamespace=true], managedNamespaceMetadata: {labels: {team: shop}}}}}`)
	app := r.await(t, "web", "to be synced", syncedAt(head))
	if len(app.Status.Resources) != 1 {
		t.Errorf("the namespace is part of the Application: %+v", app.Status.Resources)
	}
	namespaces := kschema.GroupVersionResource{Version: "v1", Resource: "namespaces"}
	labelled := func(o *unstructured.Unstructured) bool { return o != nil && o.GetLabels()["team"] == "shop" }
	r.cluster.Await(t, namespaces, "", ns, "to have its label", labelled)
	r.patch(t, applications, "web", `{"spec":{"syncPolicy":{"managedNamespaceMetadata":{"annotations":{"a":"b"}}}}}`)
	r.cluster.Await(t, namespaces, "", ns, "to have its annotation", func(o *unstructured.Unstructured) bool {
		return labelled(o) && o.GetAnnotations()["a"] == "b"
	})
	if err := r.in(applications, r.ns).Delete(t.Context(), "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	r.cluster.Await(t, applications, r.ns, "web", "to be gone", harness.Gone)
	r.cluster.Await(t, harness.ConfigMaps, ns, "a", "to be gone", harness.Gone)
	r.cluster.Await(t, namespaces, "", ns, "to stay", labelled)
}

// What follows a tag or a range of versions is asked for as it is written, and looks
// again when a tag is pushed.
func TestLiveTargets(t *testing.T) {
	r := newRig(t)
	head := r.remote.commit(map[string]string{"web/a.yaml": cm("a", "1")})
	r.app(t, "web", "web", healing)
	r.patch(t, applications, "web", `{"spec":{"source":{"targetRevision":">=1.0 <2"}}}`)
	r.await(t, "web", "to be synced", func(a *api.Application) bool {
		return syncedAt(head)(a) && a.Status.Sync.ComparedTo.Source.TargetRevision == ">=1.0 <2"
	})
	second := r.remote.commit(map[string]string{"web/a.yaml": cm("a", "2")})
	r.hub.Refresh("https://git.example.com/shop")
	r.argo.Refresh("https://git.example.com/shop", "") // a tag
	r.await(t, "web", "to be synced", syncedAt(second))
	r.remote.mu.Lock()
	defer r.remote.mu.Unlock()
	if last := r.remote.asked[len(r.remote.asked)-1]; last != (source.Ref{Target: ">=1.0 <2"}) {
		t.Errorf("asked for %+v", last)
	}
}
