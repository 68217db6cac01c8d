package argo

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	api "github.com/holdfastcd/holdfast/api/argo/v1alpha1"
	"github.com/holdfastcd/holdfast/internal/cluster"
	"github.com/holdfastcd/holdfast/internal/delivery"
	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/policy"
	"github.com/holdfastcd/holdfast/internal/render"
	"github.com/holdfastcd/holdfast/internal/source"
)

func TestSpec(t *testing.T) {
	app := application(t, func(a *api.Application) {
		a.Spec.SyncPolicy.SyncOptions = []string{"CreateNamespace=true", "PrunePropagationPolicy=background"}
		a.Status.Resources = []api.ResourceStatus{
			{Version: "v1", Kind: "Service", Namespace: "shop", Name: "b"},
			{Version: "v1", Kind: "ConfigMap", Namespace: "shop", Name: "a"},
			{Group: "argoproj.io", Version: "v1alpha1", Kind: "Application", Namespace: "argocd", Name: "web"},
		}
	})
	got, err := Spec(app, project(t, ""), revision(commitA), options)
	if err != nil {
		t.Fatal(err)
	}
	want := delivery.Spec{
		ID:        delivery.ID{Kind: "Application", Namespace: "argocd", Name: "web"},
		Render:    render.Request{Path: "apps/web"},
		Namespace: "shop",
		Account:   cluster.ServiceAccount("shop", "deployer"),
		Prune:     true,
		Revert:    true,
		Inventory: []delivery.Entry{ // in order, and without the Application itself
			{ID: object.ID{Kind: "ConfigMap", Namespace: "shop", Name: "a"}, Version: "v1"},
			{ID: object.ID{Kind: "Service", Namespace: "shop", Name: "b"}, Version: "v1"},
		},
		// The project permits no cluster-scoped objects: no namespace is created.
		CreateNamespace: false,
		Profile: delivery.Profile{
			FieldManager: "argocd-controller",
			Marks:        delivery.Marks{Tracking: &delivery.Tracking{Annotation: "argocd.argoproj.io/tracking-id", App: "web", Namespace: "shop"}},
			Propagation:  "Background",
		},
	}
	ignore := []cmp.Option{
		cmpopts.IgnoreFields(delivery.Spec{}, "Revision", "Rules"),
		cmpopts.IgnoreFields(delivery.Profile{}, "Plan", "Screen"),
	}
	if diff := cmp.Diff(want, got, ignore...); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if got.Rules.Project != "shop" || got.Rules.Version == "" || got.Profile.Screen == nil || got.Profile.Plan.Forget {
		t.Errorf("rules, screen or profile are missing: %+v", got)
	}
	if stage := got.Profile.Plan.Stages[0]; !stage.Gate || len(stage.Kinds) != 2 {
		t.Errorf("definitions do not come first: %+v", stage)
	}
}

func TestSpecVariants(t *testing.T) {
	yes, no := true, false
	automated := func(p api.SyncPolicyAutomated) func(*api.Application) {
		return func(a *api.Application) { a.Spec.SyncPolicy.Automated = &p }
	}
	synced := func(commit string) func(*api.Application) {
		return func(a *api.Application) {
			a.Status.Sync = api.SyncStatus{Status: api.SyncStatusCodeSynced, Revision: commit, ComparedTo: comparedTo(a)}
		}
	}
	tests := []struct {
		reason                     string
		change                     []func(*api.Application)
		prune, revert, allow, make bool
	}{
		{"everything", []func(*api.Application){automated(api.SyncPolicyAutomated{Prune: &yes, SelfHeal: &yes, AllowEmpty: &yes})}, true, true, true, false},
		{"nothing, at first sight", []func(*api.Application){automated(api.SyncPolicyAutomated{})}, false, true, false, false},
		{"nothing, once synced", []func(*api.Application){automated(api.SyncPolicyAutomated{}), synced(commitA)}, false, false, false, false},
		{"nothing, and a new revision", []func(*api.Application){automated(api.SyncPolicyAutomated{}), synced(commitB)}, false, true, false, false},
		{"nothing, and a new source", []func(*api.Application){automated(api.SyncPolicyAutomated{}), synced(commitA), func(a *api.Application) {
			a.Spec.Source.Directory = &api.ApplicationSourceDirectory{Recurse: true}
		}}, false, true, false, false},
		{"said to be off", []func(*api.Application){automated(api.SyncPolicyAutomated{Prune: &no, SelfHeal: &no}), synced(commitA)}, false, false, false, false},
		{"the option goes before", []func(*api.Application){func(a *api.Application) { a.Spec.SyncPolicy.SyncOptions = []string{"Prune=false"} }}, false, true, false, false},
		{"a namespace", []func(*api.Application){func(a *api.Application) { a.Spec.SyncPolicy.SyncOptions = []string{"CreateNamespace=true"} }}, true, true, false, true},
	}
	p := project(t, `
  sourceRepos: ["*"]
  destinations: [{server: "*", namespace: "*"}]
  clusterResourceWhitelist: [{group: "", kind: Namespace}]
  destinationServiceAccounts: [{server: "*", namespace: "*", defaultServiceAccount: d}]`)
	for _, tc := range tests {
		t.Run(tc.reason, func(t *testing.T) {
			got, err := Spec(application(t, tc.change...), p, revision(commitA), options)
			if err != nil {
				t.Fatal(err)
			}
			if got.Prune != tc.prune || got.Revert != tc.revert || got.Profile.Plan.AllowEmpty != tc.allow || got.CreateNamespace != tc.make {
				t.Errorf("prune %v, revert %v, allow empty %v, create namespace %v", got.Prune, got.Revert, got.Profile.Plan.AllowEmpty, got.CreateNamespace)
			}
		})
	}
}

func TestSpecRefuses(t *testing.T) {
	tests := []struct {
		reason, project string
		change          func(*api.Application)
		files           []string
		want            string
	}{
		{"a source", "  sourceRepos: ['https://else/*']", nil, nil, "Refused: the source https://git.example.com/shop/deploy.git is not permitted in project shop (add it to spec.sourceRepos"},
		{"a destination", "  sourceRepos: ['*']", nil, nil, "Refused: the destination https://kubernetes.default.svc, namespace shop, is not permitted in project shop"},
		{"no account", "  sourceRepos: ['*']\n  destinations: [{server: '*', namespace: '*'}]", nil, nil, "Refused: project shop names no service account"},
		{"a chart", "", nil, []string{"apps/web/Chart.yaml"}, "Unsupported: apps/web/Chart.yaml: Helm charts"},
		{"a chart taken for a directory", "", func(a *api.Application) { a.Spec.Source.Directory = &api.ApplicationSourceDirectory{Recurse: true} }, []string{"apps/web/Chart.yaml"}, ""},
		{"overrides", "", nil, []string{"apps/web/.argocd-source.yaml"}, "Unsupported: apps/web/.argocd-source.yaml"},
		{"overrides of its own", "", nil, []string{"apps/web/.argocd-source-web.yaml"}, "Unsupported: apps/web/.argocd-source-web.yaml"},
		{"overrides of another", "", nil, []string{"apps/web/.argocd-source-else.yaml"}, ""},
		{"what is refused anyway", "", func(a *api.Application) { a.Spec.Source.Chart = "x" }, nil, "spec.source.chart"},
	}
	for _, tc := range tests {
		t.Run(tc.reason, func(t *testing.T) {
			app := application(t)
			if tc.change != nil {
				tc.change(app)
			}
			_, err := Spec(app, project(t, tc.project), revision(commitA, tc.files...), options)
			if got := text(t, err); tc.want == "" && got != "" || !strings.Contains(got, tc.want) {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

func TestOpenProject(t *testing.T) {
	got, err := Spec(application(t), Open("shop"), revision(commitA), options)
	if err != nil {
		t.Fatal(err)
	}
	if got.Account != (cluster.Account{}) || got.Rules.Project != (policy.Rules{}).Project {
		t.Errorf("got %+v", got)
	}
}

func TestRenderRequest(t *testing.T) {
	tests := []struct {
		reason string
		source api.ApplicationSource
		files  []string
		want   render.Request
		kind   api.ApplicationSourceType
	}{
		{"detected, plain", api.ApplicationSource{Path: "./apps/web/"}, nil, render.Request{Path: "apps/web"}, "Directory"},
		{"detected, kustomize", api.ApplicationSource{Path: "apps/web"}, []string{"apps/web/kustomization.yml"}, render.Request{Path: "apps/web"}, "Kustomize"},
		{"the root", api.ApplicationSource{Path: "."}, []string{"Kustomization"}, render.Request{Path: "."}, "Kustomize"},
		{
			"directory",
			api.ApplicationSource{Path: "a", Directory: &api.ApplicationSourceDirectory{Recurse: true, Include: "i", Exclude: "e"}},
			[]string{"a/kustomization.yaml"},
			render.Request{Path: "a", Tool: render.Plain, Recurse: true, Include: "i", Exclude: "e"},
			"Directory",
		},
		{"a directory that says nothing", api.ApplicationSource{Path: "a", Directory: &api.ApplicationSourceDirectory{}}, []string{"a/kustomization.yaml"}, render.Request{Path: "a"}, "Kustomize"},
		{
			"kustomize",
			api.ApplicationSource{Path: "a", Kustomize: &api.ApplicationSourceKustomize{NamePrefix: "p", NameSuffix: "s", Namespace: "n", Images: []string{"i"}}},
			nil,
			render.Request{Path: "a", Tool: render.Kustomize, NamePrefix: "p", NameSuffix: "s", Namespace: "n", Images: []string{"i"}},
			"Kustomize",
		},
	}
	for _, tc := range tests {
		t.Run(tc.reason, func(t *testing.T) {
			r := revision(commitA, tc.files...)
			got, err := request(&tc.source, "web", r.Tree)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			if kind := sourceType(got, r.Tree); kind != tc.kind {
				t.Errorf("got source type %s", kind)
			}
		})
	}
}

func TestRef(t *testing.T) {
	for target, want := range map[string]source.Ref{
		"":                       {},
		"HEAD":                   {},
		"main":                   {Branch: "main"},
		"refs/heads/a/b":         {Branch: "a/b"},
		commitA:                  {Commit: commitA},
		"AAAAAAAA":               {Branch: "AAAAAAAA"},
		strings.ToUpper(commitA): {Commit: commitA},
	} {
		if got := ref(target); got != want {
			t.Errorf("%q: got %+v, want %+v", target, got, want)
		}
	}
}

func TestScreen(t *testing.T) {
	tests := []struct{ reason, key, value, want string }{
		{"nothing", "a", "b", ""},
		{"a hook", "argocd.argoproj.io/hook", "PreSync", "annotation argocd.argoproj.io/hook is not supported yet"},
		{"a misspelt hook", "argocd.argoproj.io/hook", "presync", "annotation argocd.argoproj.io/hook is"},
		{"a skip", "argocd.argoproj.io/hook", "Skip", "annotation argocd.argoproj.io/hook is"},
		{"a hook of Helm's", "helm.sh/hook", "pre-install", "annotation helm.sh/hook is"},
		{"wave 0", "argocd.argoproj.io/sync-wave", "0", ""},
		{"wave -0", "argocd.argoproj.io/sync-wave", "-0", ""},
		{"a wave", "argocd.argoproj.io/sync-wave", "-1", "sync-wave other than 0 is"},
		{"wave 10", "argocd.argoproj.io/sync-wave", "10", "sync-wave other than 0 is"},
		{"options that are honoured", "argocd.argoproj.io/sync-options", "Prune=false, Delete=false,ServerSideApply=true", ""},
		{"an option that is not", "argocd.argoproj.io/sync-options", "Prune=false,Replace=true", "sync-options: Replace=true is"},
		{"extraneous", "argocd.argoproj.io/compare-options", "IgnoreExtraneous", "compare-options: IgnoreExtraneous is"},
		{"kept by Helm's word", "helm.sh/resource-policy", "keep", ""},
	}
	for _, tc := range tests {
		t.Run(tc.reason, func(t *testing.T) {
			o := object.Object{Unstructured: unstructured.Unstructured{Object: map[string]any{
				"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": "a", "annotations": map[string]any{tc.key: tc.value}},
			}}, Origin: object.Origin{File: "x/y.yaml", Line: 7}}
			got := text(t, Screen([]object.Object{o}))
			if tc.want == "" && got != "" || !strings.Contains(got, tc.want) {
				t.Errorf("got %q, want %q", got, tc.want)
			}
			if tc.want != "" && !strings.HasPrefix(got, "Unsupported: x/y.yaml:7: ConfigMap/a: ") {
				t.Errorf("the place is missing: %q", got)
			}
		})
	}
}

func TestOwner(t *testing.T) {
	for id, want := range map[string]string{
		"":                                "",
		"web":                             "",
		"web:/ConfigMap:shop/a":           "Application/argocd/web",
		"team_web:apps/Deployment:s/a":    "Application/team/web",
		":apps/Deployment:s/a":            "",
		"web:rbac.x.io/ClusterRole:s/a:b": "Application/argocd/web",
	} {
		if got := Owner("argocd")(nil, map[string]string{annTracking: id}); got != want {
			t.Errorf("%q: got %q, want %q", id, got, want)
		}
	}
}

func TestKept(t *testing.T) {
	tests := []struct {
		reason string
		marks  map[string]string
		want   bool
	}{
		{"nothing", nil, false},
		{"prune", map[string]string{annSyncOptions: "Replace=false, Prune=false"}, true},
		{"delete", map[string]string{annSyncOptions: "Delete=false"}, true},
		{"a confirmation", map[string]string{annSyncOptions: "Prune=confirm"}, true},
		{"pruned", map[string]string{annSyncOptions: "Prune=true,PruneLast=true"}, false},
		{"Helm", map[string]string{annHelmPolicy: "keep"}, true},
		{"a definition", map[string]string{annTracking: "web:apiextensions.k8s.io/CustomResourceDefinition:shop/a.b"}, true},
		{"anything else", map[string]string{annTracking: "web:apps/Deployment:shop/a"}, false},
	}
	for _, tc := range tests {
		t.Run(tc.reason, func(t *testing.T) {
			if got := Kept(nil, tc.marks); got != tc.want {
				t.Errorf("got %v", got)
			}
		})
	}
}
