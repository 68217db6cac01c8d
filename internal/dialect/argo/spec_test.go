package argo

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/yaml"

	api "github.com/holdfastcd/holdfast/api/argo/v1alpha1"
	"github.com/holdfastcd/holdfast/internal/cluster"
	"github.com/holdfastcd/holdfast/internal/delivery"
	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/plan"
	"github.com/holdfastcd/holdfast/internal/policy"
	"github.com/holdfastcd/holdfast/internal/render"
	"github.com/holdfastcd/holdfast/internal/source"
	"github.com/holdfastcd/holdfast/internal/tree/treetest"
)

func TestSpec(t *testing.T) {
	app := application(t, func(a *api.Application) {
		a.Spec.SyncPolicy.SyncOptions = []string{"CreateNamespace=true", "PrunePropagationPolicy=background"}
		a.Status.Resources = []api.ResourceStatus{
			{Version: "v1", Kind: "Service", Namespace: "shop", Name: "b", SyncWave: 3},
			{Version: "v1", Kind: "ConfigMap", Namespace: "shop", Name: "a"},
			{Version: "v1", Kind: "ConfigMap", Namespace: "shop", Name: "wanted", Health: &api.HealthStatus{Status: "Missing"}},
			{Group: "argoproj.io", Version: "v1alpha1", Kind: "Application", Namespace: "argocd", Name: "web"},
		}
	})
	got, err := Spec(app, project(t, ""), revision(commitA), options)
	if err != nil {
		t.Fatal(err)
	}
	want := delivery.Spec{
		NamespaceHint: "CreateNamespace=true does nothing, as project shop does not permit Namespaces: " +
			`add to the AppProject: spec: {clusterResourceWhitelist: [{group: "", kind: Namespace}]}`,
		ID:        delivery.ID{Kind: "Application", Namespace: "argocd", Name: "web"},
		Render:    render.Request{Path: "apps/web", Tool: render.Plain},
		Namespace: "shop",
		Account:   cluster.ServiceAccount("shop", "deployer"),
		Prune:     true,
		Revert:    true,
		Inventory: []delivery.Entry{ // in order, without the Application itself, and without what is only wanted
			{ID: object.ID{Kind: "ConfigMap", Namespace: "shop", Name: "a"}, Version: "v1"},
			{ID: object.ID{Kind: "Service", Namespace: "shop", Name: "b"}, Version: "v1", Wave: 3},
		},
		// The project permits no cluster-scoped objects: no namespace is created.
		CreateNamespace: false,
		Profile: delivery.Profile{
			FieldManager: "argocd-controller",
			Marks:        delivery.Marks{Tracking: &delivery.Tracking{Annotation: "argocd.argoproj.io/tracking-id", App: "web", Namespace: "shop"}},
			Propagation:  "Background",
			WaveKeys:     []string{"argocd.argoproj.io/sync-wave", "helm.sh/hook-weight"},
			PruneMarked:  true,
		},
	}
	ignore := []cmp.Option{
		cmpopts.IgnoreFields(delivery.Spec{}, "Revision", "Rules"),
		cmpopts.IgnoreFields(delivery.Profile{}, "Plan", "Screen", "Treat"),
	}
	if diff := cmp.Diff(want, got, ignore...); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if got.Rules.Project != "shop" || got.Rules.Version == "" || got.Profile.Screen == nil || got.Profile.Treat == nil || !got.Profile.Plan.GateWaves || got.Profile.Plan.Brake.Share == 0 || got.Profile.Plan.Forget {
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
	confirmPrune := func(a *api.Application) { a.Spec.SyncPolicy.SyncOptions = []string{"Prune=confirm"} }
	approvedAt := func(at time.Time) func(*api.Application) {
		return func(a *api.Application) {
			a.Annotations = map[string]string{annApproved: at.Format(time.RFC3339)}
			a.Status.OperationState = &api.OperationState{Phase: api.OperationSucceeded, StartedAt: metav1.NewTime(noon)}
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
		{"a confirmation is asked for", []func(*api.Application){confirmPrune, synced(commitA)}, false, true, false, false},
		{"a confirmation is asked for, and given before the sync", []func(*api.Application){confirmPrune, approvedAt(noon.Add(-time.Hour))}, false, true, false, false},
		{"a confirmation is asked for, and given", []func(*api.Application){confirmPrune, approvedAt(noon)}, true, true, false, false},
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
		{"a chart", "", nil, []string{"apps/web/Chart.yaml"}, ""},
		{"replicas that are no number", "", func(a *api.Application) {
			a.Spec.Source.Kustomize = &api.ApplicationSourceKustomize{Replicas: []api.KustomizeReplica{{Name: "a", Count: intstr.FromString("x")}}}
		}, nil, `Invalid: spec.source.kustomize.replicas: the count "x" of "a"`},
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
	cluster := Options{Namespace: "argocd", Capabilities: func() render.Capabilities {
		return render.Capabilities{KubeVersion: "v1.36.0", APIVersions: []string{"v1", "v1/Pod"}}
	}}
	served := &render.Capabilities{KubeVersion: "v1.36.0", APIVersions: []string{"v1", "v1/Pod"}}
	tests := []struct {
		reason string
		source string // in YAML
		files  map[string]string
		want   render.Request
		kind   api.ApplicationSourceType
	}{
		{"detected, plain", `{path: ./apps/web/}`, nil, render.Request{Path: "apps/web", Tool: render.Plain}, "Directory"},
		{"detected, kustomize", `{path: apps/web}`, map[string]string{"apps/web/kustomization.yml": ""}, render.Request{Path: "apps/web", Tool: render.Kustomize}, "Kustomize"},
		{"the root", `{path: .}`, map[string]string{"Kustomization": ""}, render.Request{Path: ".", Tool: render.Kustomize}, "Kustomize"},
		{
			"detected, a chart, which goes before a kustomization", `{path: a}`,
			map[string]string{"a/Chart.yaml": "", "a/kustomization.yaml": ""},
			render.Request{Path: "a", Tool: render.Helm, Helm: &render.HelmRequest{ReleaseName: "web", Namespace: "shop", SkipTests: true}, Capabilities: served},
			"Helm",
		},
		{
			"directory", `{path: a, directory: {recurse: true, include: i, exclude: e}}`,
			map[string]string{"a/kustomization.yaml": ""},
			render.Request{Path: "a", Tool: render.Plain, Recurse: true, Include: "i", Exclude: "e"},
			"Directory",
		},
		{
			"jsonnet, with build variables", `{path: a, directory: {jsonnet: {libs: [/lib, vendor/x/], tlas: [{name: arg, value: "$ARGOCD_APP_NAME-$$x"}], extVars: [{name: v, value: "1", code: true}]}}}`, nil,
			render.Request{Path: "a", Tool: render.Plain, Jsonnet: &render.Jsonnet{
				Libraries: []string{"lib", "vendor/x"}, TLAs: []render.Variable{{Name: "arg", Value: "web-$x"}}, ExtVars: []render.Variable{{Name: "v", Value: "1", Code: true}},
			}},
			"Directory",
		},
		{"a directory that says nothing", `{path: a, directory: {recurse: false}}`, map[string]string{"a/kustomization.yaml": ""}, render.Request{Path: "a", Tool: render.Kustomize}, "Kustomize"},
		{
			"kustomize", `{path: a, kustomize: {namePrefix: p, nameSuffix: s, namespace: ns, images: ["a=b:${ARGOCD_APP_REVISION_SHORT}"]}}`, nil,
			render.Request{Path: "a", Tool: render.Kustomize, NamePrefix: "p", NameSuffix: "s", Namespace: "ns", Images: []string{"a=b:aaaaaaa"}},
			"Kustomize",
		},
		{
			"kustomize, all of it", `{path: a, kustomize: {
				replicas: [{name: a, count: 2}, {name: b, count: "3"}], components: [../c], ignoreMissingComponents: true,
				commonLabels: {l: $ARGOCD_APP_NAMESPACE}, forceCommonLabels: true, labelWithoutSelector: true, labelIncludeTemplates: true,
				commonAnnotations: {a: $ARGOCD_APP_REVISION_SHORT_8}, forceCommonAnnotations: true, commonAnnotationsEnvsubst: true,
				patches: [{path: p.yaml, target: {kind: Deployment, labelSelector: "x=y"}, options: {allowNameChange: true}}, {patch: "x"}],
				kubeVersion: "1.30", apiVersions: [x/v1]}}`, nil,
			render.Request{
				Path: "a", Tool: render.Kustomize, Capabilities: &render.Capabilities{KubeVersion: "1.30", APIVersions: []string{"x/v1"}},
				Overrides: &render.Overrides{
					Replicas: []render.Replicas{{Name: "a", Count: 2}, {Name: "b", Count: 3}}, Components: []string{"../c"}, IgnoreMissingComponents: true,
					Labels: map[string]string{"l": "shop"}, ForceLabels: true, LabelTemplates: true,
					Annotations: map[string]string{"a": "aaaaaaaa"}, ForceAnnotations: true,
					Patches: []render.Patch{
						{Path: "p.yaml", Target: &render.PatchTarget{Kind: "Deployment", LabelSelector: "x=y"}, Options: map[string]bool{"allowNameChange": true}},
						{Patch: "x"},
					},
				},
			},
			"Kustomize",
		},
		{
			"kustomize, labels are for selectors and annotations are literal unless somebody says so", `{path: a, kustomize: {commonLabels: {l: x}, commonAnnotations: {a: $ARGOCD_APP_NAME}}}`, nil,
			render.Request{Path: "a", Tool: render.Kustomize, Overrides: &render.Overrides{
				Labels: map[string]string{"l": "x"}, LabelSelectors: true, Annotations: map[string]string{"a": "$ARGOCD_APP_NAME"},
			}},
			"Kustomize",
		},
		{
			"helm", `{path: a, helm: {releaseName: r, namespace: ns, version: v3, valueFiles: [v.yaml, /env/$ARGOCD_APP_NAME.yaml], ignoreMissingValueFiles: true,
				values: "a: 1", parameters: [{name: p, value: "${ARGOCD_APP_SOURCE_TARGET_REVISION}-$NOBODY", forceString: true}],
				fileParameters: [{name: f, path: x/y}], skipCrds: true, skipSchemaValidation: true, kubeVersion: v1.30.1, apiVersions: [x/v1]}}`, nil,
			render.Request{
				Path: "a", Tool: render.Helm, Capabilities: &render.Capabilities{KubeVersion: "v1.30.1", APIVersions: []string{"x/v1"}},
				Helm: &render.HelmRequest{
					ReleaseName: "r", Namespace: "ns", ValueFiles: []string{"v.yaml", "/env/web.yaml"}, IgnoreMissingValueFiles: true, Values: "a: 1",
					Parameters:     []render.HelmParameter{{Name: "p", Value: "main-", ForceString: true}},
					FileParameters: []render.HelmFile{{Name: "f", Path: "x/y"}}, SkipCRDs: true, SkipTests: true, SkipSchemaValidation: true,
				},
			},
			"Helm",
		},
		{
			"helm, the object goes before the text", `{path: a, helm: {values: "a: 1", valuesObject: {b: {c: 2}}}}`, nil,
			render.Request{Path: "a", Tool: render.Helm, Helm: &render.HelmRequest{ReleaseName: "web", Namespace: "shop", Values: "b:\n  c: 2\n", SkipTests: true}, Capabilities: served},
			"Helm",
		},
		{
			"the repository lays over it: for all, then for one", `{path: a, kustomize: {images: ["x:1"], namePrefix: p-}}`,
			map[string]string{
				"a/.argocd-source.yaml":      "path: elsewhere\nrepoURL: file:///etc\nkustomize: {images: ['x:2'], nameSuffix: -s}",
				"a/.argocd-source-web.yaml":  "kustomize: {images: ['x:3'], namePrefix: null}",
				"a/.argocd-source-else.yaml": "kustomize: {images: ['x:4']}",
			},
			render.Request{Path: "a", Tool: render.Kustomize, Images: []string{"x:3"}, NameSuffix: "-s"},
			"Kustomize",
		},
	}
	for _, tc := range tests {
		t.Run(tc.reason, func(t *testing.T) {
			app := application(t, func(a *api.Application) {
				a.Spec.Source.Path = ""
				a.UID, a.CreationTimestamp = "u-1", metav1.NewTime(noon)
				if err := yaml.UnmarshalStrict([]byte(tc.source), a.Spec.Source); err != nil {
					t.Fatal(err)
				}
			})
			if err := Validate(app, cluster); err != nil {
				t.Fatal(err)
			}
			files := map[string][]byte{"a/x": nil}
			for name, content := range tc.files {
				files[name] = []byte(content)
			}
			got, err := request(app, source.Revision{Commit: commitA, Tree: treetest.FromFiles(files)}, cluster)
			if err != nil {
				t.Fatal(err)
			}
			if got.Helm != nil && (got.Helm.Seed != "Application/argocd/web@u-1" || got.Helm.Now != noon.Unix()) {
				t.Errorf("what is random follows from %q", got.Helm.Seed)
			}
			if diff := cmp.Diff(tc.want, got, cmpopts.IgnoreFields(render.HelmRequest{}, "Seed", "Now")); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			if kind := sourceType(got); kind != tc.kind {
				t.Errorf("got source type %s", kind)
			}
		})
	}
}

func TestOverrideRefuses(t *testing.T) {
	for content, want := range map[string]string{
		"a: b: c":                           "Invalid: apps/web/.argocd-source.yaml: the file is no YAML object",
		"[1]":                               "Invalid: apps/web/.argocd-source.yaml: the file is no YAML object",
		"helm: 1":                           "Invalid: apps/web/.argocd-source.yaml: the file does not fit a source",
		"plugin: {name: x}":                 "Unsupported: apps/web/.argocd-source.yaml: spec.source.plugin is not supported yet",
		"magic: 1":                          "spec.source.magic is",
		"helm: {valueFiles: ['$o/v.yaml']}": "files of other sources",
		"helm: {skipCrds: true}\nkustomize: {namePrefix: x}": "sets helm and kustomize",
		strings.Repeat(" ", maxOverride+1):                   "Limit: apps/web/.argocd-source.yaml",
	} {
		_, err := request(application(t), source.Revision{Commit: commitA, Tree: treetest.FromFiles(map[string][]byte{"apps/web/.argocd-source.yaml": []byte(content)})}, options)
		if got := text(t, err); !strings.Contains(got, want) {
			t.Errorf("%.40q: got %q, want %q", content, got, want)
		}
	}
}

func TestRef(t *testing.T) {
	for target, want := range map[string]source.Ref{
		"":                       {},
		"HEAD":                   {},
		"main":                   {Target: "main"},
		"v1.2":                   {Target: "v1.2"},
		">=1.0 <2":               {Target: ">=1.0 <2"},
		"refs/heads/a/b":         {Name: "refs/heads/a/b"},
		"refs/pull/1/head":       {Name: "refs/pull/1/head"},
		commitA:                  {Commit: commitA},
		"AAAAAAAA":               {Target: "AAAAAAAA"},
		strings.ToUpper(commitA): {Commit: commitA},
	} {
		if got := ref(target); got != want {
			t.Errorf("%q: got %+v, want %+v", target, got, want)
		}
	}
}

func TestTreat(t *testing.T) {
	tests := []struct {
		reason      string
		annotations map[string]string
		want        plan.Treatment
	}{
		{"nothing", nil, plan.Treatment{}},
		{"force, alone or to replace", map[string]string{annSyncOptions: "Replace=true, Force=true"}, plan.Treatment{Force: true}},
		{"skip", map[string]string{annHook: "Skip"}, plan.Treatment{Skip: "its annotation argocd.argoproj.io/hook is Skip"}},
		{"a test of Helm's", map[string]string{annHelmHook: "test, test-failure"}, plan.Treatment{Skip: "it is a hook of Helm's that no delivery runs: test, test-failure"}},
		{"a definition of Helm's", map[string]string{annHelmHook: "crd-install"}, plan.Treatment{}},
		{"health is nobody's business", map[string]string{annIgnoreHealth: "true"}, plan.Treatment{Unjudged: true}},
		{"health is somebody's business", map[string]string{annIgnoreHealth: "false"}, plan.Treatment{}},
	}
	for _, tc := range tests {
		u := &unstructured.Unstructured{}
		u.SetAnnotations(tc.annotations)
		if got := treat(u); got != tc.want {
			t.Errorf("%s: got %+v", tc.reason, got)
		}
	}
}

func TestScreen(t *testing.T) {
	tests := []struct{ reason, key, value, want string }{
		{"nothing", "a", "b", ""},
		{"a hook", "argocd.argoproj.io/hook", "PreSync", "annotation argocd.argoproj.io/hook is not supported yet"},
		{"a misspelt hook", "argocd.argoproj.io/hook", "presync", "annotation argocd.argoproj.io/hook is"},
		{"a skip", "argocd.argoproj.io/hook", "Skip", ""},
		{"a skip and more", "argocd.argoproj.io/hook", "Skip,PreSync", "annotation argocd.argoproj.io/hook is"},
		{"a hook of Helm's", "helm.sh/hook", "pre-install", "annotation helm.sh/hook is"},
		{"a test of Helm's", "helm.sh/hook", "test", ""},
		{"a test of Helm's and more", "helm.sh/hook", "test,post-install", "annotation helm.sh/hook is"},
		{"a definition of Helm's", "helm.sh/hook", "crd-install", ""},
		{"a wave", "argocd.argoproj.io/sync-wave", "-1", ""},
		{"options that are honoured", "argocd.argoproj.io/sync-options", "Prune=false, Delete=false,ServerSideApply=true,SkipDryRunOnMissingResource=true", ""},
		{"an option that is not", "argocd.argoproj.io/sync-options", "Prune=false,Replace=true", "sync-options: Replace=true is"},
		{"replaced by force", "argocd.argoproj.io/sync-options", "Force=true,Replace=true", ""},
		{"an option that nobody knows", "argocd.argoproj.io/sync-options", "Magic=true", "sync-options: Magic=true is"},
		{"extraneous", "argocd.argoproj.io/compare-options", "IgnoreExtraneous", ""},
		{"a comparison that nobody knows", "argocd.argoproj.io/compare-options", "Magic", "compare-options: Magic is"},
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
	deployment := object.ID{Group: "apps", Kind: "Deployment", Namespace: "shop", Name: "a"}
	role := object.ID{Group: "rbac.x.io", Kind: "ClusterRole", Name: "a:b"}
	tests := []struct {
		reason, tracking string
		on               object.ID
		want             string
	}{
		{"nothing", "", deployment, ""},
		{"no identity", "web", deployment, ""},
		{"an Application", "web:apps/Deployment:shop/a", deployment, "Application/argocd/web"},
		{"one elsewhere", "team_web:apps/Deployment:shop/a", deployment, "Application/team/web"},
		{"nobody's", ":apps/Deployment:shop/a", deployment, ""},
		{"a cluster-scoped object is named with the destination", "web:rbac.x.io/ClusterRole:shop/a:b", role, "Application/argocd/web"},
		{"copied to another namespace", "web:apps/Deployment:else/a", deployment, ""},
		{"copied to another name", "web:apps/Deployment:shop/b", deployment, ""},
		{"copied to another kind", "web:apps/ReplicaSet:shop/a", deployment, ""},
		{"of the core", "web:/ConfigMap:shop/a", object.ID{Kind: "ConfigMap", Namespace: "shop", Name: "a"}, "Application/argocd/web"},
	}
	for _, tc := range tests {
		if got := Owner("argocd")(tc.on, nil, map[string]string{annTracking: tc.tracking}); got != tc.want {
			t.Errorf("%s: got %q, want %q", tc.reason, got, tc.want)
		}
	}
}

func TestKept(t *testing.T) {
	tests := []struct {
		reason             string
		marks              map[string]string
		inPrune, inDeleted bool
	}{
		{"nothing", nil, false, false},
		{"prune", map[string]string{annSyncOptions: "Replace=false, Prune=false"}, true, false},
		{"delete", map[string]string{annSyncOptions: "Delete=false"}, false, true},
		{"both", map[string]string{annSyncOptions: "Delete=false,Prune=false"}, true, true},
		{"a confirmation", map[string]string{annSyncOptions: "Prune=confirm"}, true, false},
		{"pruned", map[string]string{annSyncOptions: "Prune=true,PruneLast=true"}, false, false},
		{"Helm", map[string]string{annHelmPolicy: "keep"}, true, true},
		{"a definition", map[string]string{annTracking: "web:apiextensions.k8s.io/CustomResourceDefinition:shop/a.b"}, false, true},
		{"anything else", map[string]string{annTracking: "web:apps/Deployment:shop/a"}, false, false},
	}
	for _, tc := range tests {
		t.Run(tc.reason, func(t *testing.T) {
			if inPrune, inDelete := Kept(nil, tc.marks); inPrune != tc.inPrune || inDelete != tc.inDeleted {
				t.Errorf("got %v, %v", inPrune, inDelete)
			}
		})
	}
}
