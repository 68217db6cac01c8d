package flux

import (
	"fmt"
	"strings"
	"testing"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/fluxcd/pkg/apis/kustomize"
	"github.com/fluxcd/pkg/apis/meta"
	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"github.com/holdfastcd/holdfast/internal/cluster"
	"github.com/holdfastcd/holdfast/internal/delivery"
	"github.com/holdfastcd/holdfast/internal/dialect"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/health"
	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/plan"
	"github.com/holdfastcd/holdfast/internal/render"
	"github.com/holdfastcd/holdfast/internal/source"
	"github.com/holdfastcd/holdfast/internal/substitute"
	"github.com/holdfastcd/holdfast/internal/tree"
	"github.com/holdfastcd/holdfast/internal/tree/treetest"
)

// kustomization returns one that asks for nothing special, changed by change.
func kustomization(change func(*kustomizev1.Kustomization)) *kustomizev1.Kustomization {
	ks := &kustomizev1.Kustomization{
		ObjectMeta: metav1.ObjectMeta{Namespace: "apps", Name: "web", Generation: 3},
		Spec: kustomizev1.KustomizationSpec{
			Interval:           metav1.Duration{Duration: 10 * time.Minute},
			Path:               "./deploy/web",
			Prune:              true,
			ServiceAccountName: "deployer",
			SourceRef:          kustomizev1.CrossNamespaceSourceReference{Kind: "GitRepository", Name: "fleet"},
		},
	}
	if change != nil {
		change(ks)
	}
	return ks
}

func TestSpec(t *testing.T) {
	ks := kustomization(func(ks *kustomizev1.Kustomization) {
		ks.Spec.TargetNamespace = "shop"
		ks.Status.Inventory = &kustomizev1.ResourceInventory{Entries: []kustomizev1.ResourceRef{{ID: "shop_web_apps_Deployment", Version: "v1"}}}
	})
	revision := source.Revision{Commit: strings.Repeat("a", 40), Branch: "main", Tree: treetest.FromFiles(nil)}
	spec, err := Spec(ks, revision, Options{})
	if err != nil {
		t.Fatal(err)
	}
	spec.Revision, spec.Profile.Plan.Stages = source.Revision{}, nil
	want := delivery.Spec{
		ID:        delivery.ID{Kind: "Kustomization", Namespace: "apps", Name: "web"},
		Render:    render.Request{Path: "deploy/web", Tool: render.KustomizeOrGenerate, Namespace: "shop"},
		Namespace: "shop",
		Account:   cluster.Account{User: "system:serviceaccount:apps:deployer"},
		Prune:     true, Revert: true,
		Inventory: []delivery.Entry{{ID: object.ID{Group: "apps", Kind: "Deployment", Namespace: "shop", Name: "web"}, Version: "v1"}},
		Profile: delivery.Profile{
			FieldManager: "kustomize-controller",
			Marks: delivery.Marks{Labels: map[string]string{
				"kustomize.toolkit.fluxcd.io/name": "web", "kustomize.toolkit.fluxcd.io/namespace": "apps",
			}},
			Propagation: "Background",
			NoHealth:    true,
			Health:      health.Options{Kstatus: true},
		},
	}
	spec.Profile.Treat, spec.Opener = nil, nil
	want.Profile.Plan.Brake = dialect.Brake()
	want.Profile.Plan.Forget, want.Profile.Plan.AllowEmpty = true, true
	if diff := cmp.Diff(want, spec, cmp.AllowUnexported(source.Credential{})); diff != "" {
		t.Errorf("Spec (-want +got):\n%s", diff)
	}
}

// What shapes the objects is asked of the renderer; what marks them, and what is
// left alone, of the engine.
func TestSpecInFull(t *testing.T) {
	ks := kustomization(func(ks *kustomizev1.Kustomization) {
		ks.Annotations = map[string]string{"holdfast.dev/confirm-prune": "d1"}
		ks.Spec.NamePrefix, ks.Spec.NameSuffix, ks.Spec.Force, ks.Spec.Wait = "a-", "-b", true, true
		ks.Spec.Components, ks.Spec.IgnoreMissingComponents = []string{"../c"}, true
		ks.Spec.Images = []kustomize.Image{
			{Name: "nginx", NewTag: "1.2"}, {Name: "localhost:5000/x", NewName: "y", NewTag: "1", Digest: "sha256:abc"}, {Name: "z", NewName: "zz"}, {Name: "same"},
		}
		ks.Spec.Patches = []kustomize.Patch{{Patch: "p1"}, {Patch: "p2", Target: &kustomize.Selector{Kind: "Deployment", LabelSelector: "a=b"}}}
		ks.Spec.CommonMetadata = &kustomizev1.CommonMetadata{
			Labels: map[string]string{"team": "a", "kustomize.toolkit.fluxcd.io/name": "forged"}, Annotations: map[string]string{"note": "b"},
		}
		ks.Spec.Ignore = []kustomizev1.IgnoreRule{
			{Paths: []string{"/spec/replicas"}, Target: &kustomize.Selector{Group: "apps", Kind: "Deployment", Name: "web"}}, {Paths: []string{"/data"}},
		}
		ks.Spec.PostBuild = &kustomizev1.PostBuild{
			Substitute: map[string]string{"own": "x", "both": "inline"},
			SubstituteFrom: []kustomizev1.SubstituteReference{
				{Kind: "ConfigMap", Name: "vars"}, {Kind: "Secret", Name: "vars"}, {Kind: "ConfigMap", Name: "none", Optional: true},
			},
		}
	})
	spec, err := Spec(ks, source.Revision{}, Options{Variables: func(ref VariablesRef) (map[string]string, error) {
		switch ref {
		case VariablesRef{cluster.ServiceAccount("apps", "deployer"), "ConfigMap", "apps", "vars"}:
			return map[string]string{"both": "map", "twice": "map", "key": "two\nlines\n"}, nil
		case VariablesRef{cluster.ServiceAccount("apps", "deployer"), "Secret", "apps", "vars"}:
			return map[string]string{"twice": "secret"}, nil
		}
		return nil, fault.New(fault.NotFound, "no %v", ref)
	}})
	if err != nil {
		t.Fatal(err)
	}
	want := delivery.Spec{
		ID: spec.ID, Account: spec.Account, Prune: true, Revert: true, Force: true, Confirmed: "d1", Profile: spec.Profile,
		Render: render.Request{
			Path: "deploy/web", Tool: render.KustomizeOrGenerate, NamePrefix: "a-", NameSuffix: "-b",
			Images: []string{"nginx=*:1.2", "localhost:5000/x=y@sha256:abc", "z=zz"},
			Overrides: &render.Overrides{
				Components: []string{"../c"}, IgnoreMissingComponents: true,
				Patches: []render.Patch{{Patch: "p1"}, {Patch: "p2", Target: &render.PatchTarget{Kind: "Deployment", LabelSelector: "a=b"}}},
			},
		},
		Substitute: &substitute.Variables{
			Variables: map[string]string{"own": "x", "both": "inline", "twice": "secret", "key": "twolines"},
			Secret:    map[string]bool{"twice": true},
			Disabled:  [2]string{"kustomize.toolkit.fluxcd.io/substitute", "disabled"},
			Strict:    true,
		},
		Ignore: []plan.Ignore{{Group: "apps", Kind: "Deployment", Name: "web", Pointers: []string{"/spec/replicas"}}, {Pointers: []string{"/data"}}},
	}
	spec.Profile.Treat, want.Profile.Treat, spec.Opener = nil, nil, nil
	if diff := cmp.Diff(want, spec, cmp.AllowUnexported(source.Credential{})); diff != "" {
		t.Errorf("Spec (-want +got):\n%s", diff)
	}
	marks := delivery.Marks{
		Labels:      map[string]string{"team": "a", "kustomize.toolkit.fluxcd.io/name": "web", "kustomize.toolkit.fluxcd.io/namespace": "apps"},
		Annotations: map[string]string{"note": "b"},
	}
	if diff := cmp.Diff(marks, spec.Profile.Marks); diff != "" || spec.Profile.NoHealth {
		t.Errorf("marks (-want +got):\n%s", diff)
	}
	if len(ks.Spec.CommonMetadata.Labels) != 2 || ks.Spec.CommonMetadata.Labels["kustomize.toolkit.fluxcd.io/name"] != "forged" {
		t.Error("the object itself was changed")
	}
}

// Nothing is substituted without a variable, unless that is asked for.
func TestSubstituteStrategy(t *testing.T) {
	for _, tc := range []struct {
		reason string
		build  *kustomizev1.PostBuild
		want   bool
	}{
		{"nothing said", nil, false},
		{"no variables", &kustomizev1.PostBuild{}, false},
		{"no variables, and their defaults", &kustomizev1.PostBuild{SubstituteStrategy: "Always"}, true},
		{"a variable", &kustomizev1.PostBuild{Substitute: map[string]string{"a": ""}}, true},
	} {
		spec, err := Spec(kustomization(func(ks *kustomizev1.Kustomization) { ks.Spec.PostBuild = tc.build }), source.Revision{}, Options{})
		if err != nil || (spec.Substitute != nil) != tc.want {
			t.Errorf("%s: %v, %v", tc.reason, spec.Substitute, err)
		}
	}
}

func TestVariablesAreBounded(t *testing.T) {
	for reason, values := range map[string]map[string]string{
		"one that is too long": {"a": strings.Repeat("x", maxVariableBytes+1)},
		"too many": func() map[string]string {
			m := map[string]string{}
			for i := range maxVariables + 1 {
				m[fmt.Sprintf("v%d", i)] = ""
			}
			return m
		}(),
	} {
		if err := addVariables(map[string]string{}, values, "x"); fault.KindOf(err) != fault.Limit {
			t.Errorf("%s: %v", reason, err)
		}
	}
}

func TestTreatment(t *testing.T) {
	object := func(labels, annotations map[string]string) *unstructured.Unstructured {
		u := &unstructured.Unstructured{Object: map[string]any{}}
		u.SetLabels(labels)
		u.SetAnnotations(annotations)
		return u
	}
	mark := func(key, value string) map[string]string {
		return map[string]string{"kustomize.toolkit.fluxcd.io/" + key: value}
	}
	for _, tc := range []struct {
		reason string
		object *unstructured.Unstructured
		want   plan.Treatment
	}{
		{"as usual", object(nil, mark("ssa", "Override")), plan.Treatment{}},
		{"left alone", object(nil, mark("reconcile", "Disabled")), plan.Treatment{Skip: "it is marked kustomize.toolkit.fluxcd.io/reconcile: disabled"}},
		{"ignored, by a label", object(mark("ssa", "ignore"), nil), plan.Treatment{Skip: "it is marked kustomize.toolkit.fluxcd.io/ssa: Ignore"}},
		{"created only", object(nil, mark("ssa", "IfNotPresent")), plan.Treatment{IfNotPresent: true}},
		{"shared", object(nil, mark("ssa", "merge")), plan.Treatment{Merge: true}},
		{"made anew", object(nil, mark("force", "Enabled")), plan.Treatment{Force: true}},
		{"what is kept is applied", object(nil, mark("prune", "disabled")), plan.Treatment{}},
	} {
		if diff := cmp.Diff(tc.want, treatment(tc.object)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tc.reason, diff)
		}
	}
}

func TestSpecPath(t *testing.T) {
	for in, want := range map[string]string{"": "", "./": "", ".": "", "/a/b": "a/b", "./a/../b/": "b", "../../etc": "etc"} {
		spec, err := Spec(kustomization(func(ks *kustomizev1.Kustomization) { ks.Spec.Path = in }), source.Revision{}, Options{})
		if err != nil || spec.Render.Path != want {
			t.Errorf("path %q: got %q, %v, want %q", in, spec.Render.Path, err, want)
		}
	}
}

func TestSpecRefuses(t *testing.T) {
	for _, tc := range []struct {
		reason string
		change func(*kustomizev1.Kustomization)
		kind   fault.Kind
		text   string
	}{
		{"a field is named", func(ks *kustomizev1.Kustomization) {
			ks.Spec.Decryption = &kustomizev1.Decryption{Provider: "sops", ServiceAccountName: "kms"}
		}, fault.Unsupported, "spec.decryption.serviceAccountName is not supported yet"},
		{"all fields are named, in order", func(ks *kustomizev1.Kustomization) {
			ks.Spec.HealthCheckExprs = []kustomize.CustomHealthCheck{{APIVersion: "v1", Kind: "x"}}
			ks.Spec.KubeConfig = &meta.KubeConfigReference{SecretRef: &meta.SecretKeyReference{Name: "x"}}
			ks.Spec.DependsOn = []kustomizev1.DependencyReference{{Name: "crds"}, {Name: "x", ReadyExpr: "true"}}
			ks.Spec.BuildMetadata = []kustomizev1.BuildMetadataOption{"originAnnotations"}
		}, fault.Unsupported, "spec.buildMetadata, spec.dependsOn[1].readyExpr, spec.healthCheckExprs, spec.kubeConfig are not supported yet"},
		{
			"a dependency of another namespace", func(ks *kustomizev1.Kustomization) {
				ks.Spec.DependsOn = []kustomizev1.DependencyReference{{Name: "x", Namespace: "other"}}
			},
			fault.Refused, "can't access 'Kustomization/other/x', cross-namespace references have been blocked",
		},
		{
			"an image rule that says something else", func(ks *kustomizev1.Kustomization) {
				ks.Spec.Images = []kustomize.Image{{Name: "nginx", NewTag: "1=2"}}
			},
			fault.Invalid, "spec.images[0]",
		},
		{"a field to ignore that is no pointer", func(ks *kustomizev1.Kustomization) {
			ks.Spec.Ignore = []kustomizev1.IgnoreRule{{Paths: []string{"spec.replicas"}}}
		}, fault.Invalid, "spec.ignore[0].paths"},
		{"objects to ignore by expression", func(ks *kustomizev1.Kustomization) {
			ks.Spec.Ignore = []kustomizev1.IgnoreRule{{Paths: []string{"/spec"}, Target: &kustomize.Selector{Name: "web-.*"}}}
		}, fault.Unsupported, "spec.ignore[0].target.name"},
		{"objects to ignore by label", func(ks *kustomizev1.Kustomization) {
			ks.Spec.Ignore = []kustomizev1.IgnoreRule{{Paths: []string{"/spec"}, Target: &kustomize.Selector{LabelSelector: "a=b"}}}
		}, fault.Unsupported, "spec.ignore[0].target.labelSelector"},
		{"objects to ignore by version", func(ks *kustomizev1.Kustomization) {
			ks.Spec.Ignore = []kustomizev1.IgnoreRule{{Paths: []string{"/spec"}, Target: &kustomize.Selector{Version: "v1"}}}
		}, fault.Unsupported, "spec.ignore[0].target.version"},
		{"a check of nothing", func(ks *kustomizev1.Kustomization) {
			ks.Spec.HealthChecks = []meta.NamespacedObjectKindReference{{Kind: "Deployment"}}
		}, fault.Invalid, "spec.healthChecks[0]"},
		{"variables of something else", func(ks *kustomizev1.Kustomization) {
			ks.Spec.PostBuild = &kustomizev1.PostBuild{SubstituteFrom: []kustomizev1.SubstituteReference{{Kind: "Pod", Name: "x"}}}
		}, fault.Invalid, "spec.postBuild.substituteFrom[0]"},
		{"a variable that no template could name", func(ks *kustomizev1.Kustomization) {
			ks.Spec.PostBuild = &kustomizev1.PostBuild{Substitute: map[string]string{"a-b": "c"}}
		}, fault.Invalid, `the variable "a-b" of spec.postBuild.substitute`},
		{"variables that nobody can read", func(ks *kustomizev1.Kustomization) {
			ks.Spec.PostBuild = &kustomizev1.PostBuild{SubstituteFrom: []kustomizev1.SubstituteReference{{Kind: "Secret", Name: "x"}}}
		}, fault.NotFound, "Secret apps/x"},
		{
			"another kind of source", func(ks *kustomizev1.Kustomization) { ks.Spec.SourceRef.Kind = "Bucket" },
			fault.Unsupported, "spec.sourceRef.kind Bucket is not supported yet",
		},
		{
			"a source of another namespace", func(ks *kustomizev1.Kustomization) { ks.Spec.SourceRef.Namespace = "other" },
			fault.Refused, "can't access 'GitRepository/other/fleet', cross-namespace references have been blocked",
		},
		{
			"no account", func(ks *kustomizev1.Kustomization) { ks.Spec.ServiceAccountName = "" },
			fault.Refused, "--default-service-account",
		},
		{
			"an account of another namespace", func(ks *kustomizev1.Kustomization) { ks.Spec.ServiceAccountName = "x:admin" },
			fault.Invalid, "spec.serviceAccountName",
		},
		{
			"no namespace", func(ks *kustomizev1.Kustomization) { ks.Spec.TargetNamespace = "A B" },
			fault.Invalid, "spec.targetNamespace",
		},
		{
			"an unknown policy", func(ks *kustomizev1.Kustomization) { ks.Spec.DeletionPolicy = "Maybe" },
			fault.Invalid, "spec.deletionPolicy",
		},
	} {
		t.Run(tc.reason, func(t *testing.T) {
			_, err := Spec(kustomization(tc.change), source.Revision{}, Options{})
			if err == nil || fault.KindOf(err) != tc.kind || !strings.Contains(err.Error(), tc.text) {
				t.Errorf("got %v (%s), want %s: %s", err, fault.KindOf(err), tc.kind, tc.text)
			}
		})
	}
}

func TestSpecAccepts(t *testing.T) {
	for _, tc := range []struct {
		reason  string
		change  func(*kustomizev1.Kustomization)
		options Options
		account string
	}{
		{"wait includes every check that is listed", func(ks *kustomizev1.Kustomization) {
			ks.Spec.Wait = true
			ks.Spec.HealthChecks = []meta.NamespacedObjectKindReference{{Kind: "Deployment", Name: "web"}}
		}, Options{}, "system:serviceaccount:apps:deployer"},
		{
			"the default account is of the object's own namespace", func(ks *kustomizev1.Kustomization) { ks.Spec.ServiceAccountName = "" },
			Options{DefaultServiceAccount: "default", Permissive: true},
			"system:serviceaccount:apps:default",
		},
		{
			"permissive permits other namespaces", func(ks *kustomizev1.Kustomization) {
				ks.Spec.SourceRef.Namespace = "other"
				ks.Spec.DependsOn = []kustomizev1.DependencyReference{{Name: "x", Namespace: "other"}}
			},
			Options{Permissive: true},
			"system:serviceaccount:apps:deployer",
		},
		{
			"permissive is the last resort", func(ks *kustomizev1.Kustomization) { ks.Spec.ServiceAccountName = "" },
			Options{Permissive: true},
			"",
		},
		{
			"its own namespace is no other", func(ks *kustomizev1.Kustomization) { ks.Spec.SourceRef.Namespace = "apps" },
			Options{},
			"system:serviceaccount:apps:deployer",
		},
	} {
		t.Run(tc.reason, func(t *testing.T) {
			spec, err := Spec(kustomization(tc.change), source.Revision{}, tc.options)
			if err != nil || spec.Account.User != tc.account {
				t.Errorf("got account %q, %v, want %q", spec.Account.User, err, tc.account)
			}
		})
	}
}

func TestUnsupported(t *testing.T) {
	known := fields{"a": nil, "b": {"c": nil}}
	for _, tc := range []struct {
		reason string
		spec   map[string]any
		want   string
	}{
		{"known", map[string]any{"a": map[string]any{"x": "y"}, "b": map[string]any{"c": "d"}}, ""},
		{"off is off", map[string]any{"x": false, "y": "", "z": nil, "l": []any{}, "m": map[string]any{}, "n": int64(0), "f": 0.0}, ""},
		{"unknown", map[string]any{"x": true}, "spec.x is"},
		{"below", map[string]any{"b": map[string]any{"x": "y"}}, "spec.b.x is"},
		{"in a list", map[string]any{"b": []any{map[string]any{"c": "d"}, map[string]any{"x": "y"}}}, "spec.b[1].x is"},
	} {
		t.Run(tc.reason, func(t *testing.T) {
			err := unsupported(tc.spec, known)
			if (err == nil) != (tc.want == "") || err != nil && !strings.HasPrefix(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}

var inventoryIDs = []struct {
	reason string
	id     object.ID
	text   string
}{
	{"namespaced", object.ID{Group: "apps", Kind: "Deployment", Namespace: "shop", Name: "web"}, "shop_web_apps_Deployment"},
	{"core group", object.ID{Kind: "ConfigMap", Namespace: "shop", Name: "web"}, "shop_web__ConfigMap"},
	{"cluster-scoped", object.ID{Group: "apiextensions.k8s.io", Kind: "CustomResourceDefinition", Name: "a.b.c"}, "_a.b.c_apiextensions.k8s.io_CustomResourceDefinition"},
	{"neither", object.ID{Kind: "Namespace", Name: "shop"}, "_shop__Namespace"},
	{"colons of RBAC", object.ID{Group: rbacGroup, Kind: "ClusterRole", Name: "system:web:view"}, "_system__web__view_rbac.authorization.k8s.io_ClusterRole"},
}

func TestInventoryID(t *testing.T) {
	for _, tc := range inventoryIDs {
		t.Run(tc.reason, func(t *testing.T) {
			if got := formatID(tc.id); got != tc.text {
				t.Errorf("formatID: got %q, want %q", got, tc.text)
			}
			if got, ok := parseID(tc.text); !ok || got != tc.id {
				t.Errorf("parseID: got %v, %t, want %v", got, ok, tc.id)
			}
		})
	}
	for _, bad := range []string{"", "_", "__", "a_b_c", "ns__apps_Deployment", "ns_name_apps_"} {
		if id, ok := parseID(bad); ok {
			t.Errorf("parseID(%q) found %v", bad, id)
		}
	}
}

func FuzzInventoryID(f *testing.F) {
	for _, tc := range inventoryIDs {
		f.Add(tc.text)
	}
	f.Fuzz(func(t *testing.T, s string) {
		id, ok := parseID(s)
		if !ok {
			return
		}
		if again, ok := parseID(formatID(id)); !ok || again != id {
			t.Errorf("%q: %v becomes %v, %t", s, id, again, ok)
		}
	})
}

func TestMarks(t *testing.T) {
	ours := map[string]string{"kustomize.toolkit.fluxcd.io/name": "web", "kustomize.toolkit.fluxcd.io/namespace": "apps"}
	if got := Owner(object.ID{}, ours, nil); got != "Kustomization/apps/web" {
		t.Errorf("Owner: got %q", got)
	}
	delete(ours, "kustomize.toolkit.fluxcd.io/namespace")
	if got := Owner(object.ID{}, ours, nil); got != "" {
		t.Errorf("Owner without a namespace: got %q", got)
	}
	for _, tc := range []struct {
		labels, annotations map[string]string
		want                bool
	}{
		{nil, nil, false},
		{map[string]string{"kustomize.toolkit.fluxcd.io/prune": "Disabled"}, nil, true},
		{nil, map[string]string{"kustomize.toolkit.fluxcd.io/prune": "disabled"}, true},
		{nil, map[string]string{"kustomize.toolkit.fluxcd.io/reconcile": "DISABLED"}, true},
		{nil, map[string]string{"kustomize.toolkit.fluxcd.io/prune": "enabled"}, false},
	} {
		if prune, del := Kept(tc.labels, tc.annotations); prune != tc.want || del != tc.want {
			t.Errorf("Kept(%v, %v): got %t, %t", tc.labels, tc.annotations, prune, del)
		}
	}
}

var noon = time.Date(2026, 8, 1, 12, 0, 0, 0, time.UTC)

func sickReport(status health.Status) *delivery.Report {
	verdict := health.Verdict{Status: status, Message: "0 of 1 replicas"}
	id := object.ID{Group: "apps", Kind: "Deployment", Namespace: "shop", Name: "web"}
	return &delivery.Report{
		Objects:   []delivery.Object{{ID: id, Desired: true, Outcome: delivery.Unchanged, Health: &verdict}},
		Inventory: []delivery.Entry{{ID: id, Version: "v1"}},
		Health:    verdict,
	}
}

func failedReport(err *fault.Error, objects ...delivery.Object) *delivery.Report {
	return &delivery.Report{Err: err, Objects: objects}
}

func TestJudge(t *testing.T) {
	base := outcome{now: noon, generation: 3, revision: "main@sha1:abc", path: "./deploy/web", timeout: time.Minute, waited: 5 * time.Second}
	leftover := delivery.Object{ID: object.ID{Kind: "ConfigMap", Namespace: "shop", Name: "old"}, Outcome: delivery.Failed}
	for _, tc := range []struct {
		reason string
		change func(*outcome)
		ready  metav1.ConditionStatus
		name   string
		text   string
	}{
		{
			"applied", func(o *outcome) { o.report = sickReport(health.Degraded) },
			"True", "ReconciliationSucceeded", "Applied revision: main@sha1:abc",
		},
		{
			"healthy", func(o *outcome) { o.wait, o.report = true, sickReport(health.Healthy) },
			"True", "ReconciliationSucceeded", "Applied revision: main@sha1:abc",
		},
		{
			"becoming healthy", func(o *outcome) { o.wait, o.report = true, sickReport(health.Progressing) },
			"Unknown", "Progressing", "Deployment/shop/web (Progressing: 0 of 1 replicas)",
		},
		{"not healthy in time", func(o *outcome) {
			o.wait, o.report, o.waited = true, sickReport(health.Progressing), time.Minute
		}, "False", "HealthCheckFailed", "health check failed after 1m0s: Deployment/shop/web"},
		{
			"failed early", func(o *outcome) { o.wait, o.report = true, sickReport(health.Degraded) },
			"False", "HealthCheckFailed", "health check failed after 5s: Deployment/shop/web",
		},
		{
			"a stage that is not ready", func(o *outcome) { o.report = failedReport(fault.New(fault.Waiting, "not established")) },
			"Unknown", "Progressing", "not established",
		},
		{"a stage that never is", func(o *outcome) {
			o.report, o.waited = failedReport(fault.New(fault.Waiting, "not established")), time.Minute
		}, "False", "ReconciliationFailed", "timed out after 1m0s: not established"},
		{
			"a broken file", func(o *outcome) { o.report = failedReport(fault.New(fault.Invalid, "not YAML").At("a.yaml", 3)) },
			"False", "BuildFailed", "a.yaml:3: not YAML",
		},
		{"no such path", func(o *outcome) {
			err := tree.NotExist("deploy/web")
			o.report = failedReport(fault.From(err))
		}, "False", "ArtifactFailed", "kustomization path not found: ./deploy/web"},
		{"no such file", func(o *outcome) {
			o.report = failedReport(fault.From(tree.NotExist("deploy/web/base.yaml")))
		}, "False", "BuildFailed", "deploy/web/base.yaml"},
		{
			"the API server says no", func(o *outcome) { o.report = failedReport(fault.New(fault.Rejected, "no")) },
			"False", "ReconciliationFailed", "no",
		},
		{
			"only pruning failed", func(o *outcome) { o.report = failedReport(fault.New(fault.Rejected, "no"), leftover) },
			"False", "PruneFailed", "no",
		},
		{
			"early", func(o *outcome) {
				o.early, o.reason = fault.New(fault.NotFound, "Source artifact not found"), "ArtifactFailed"
			},
			"False", "ArtifactFailed", "Source artifact not found",
		},
	} {
		t.Run(tc.reason, func(t *testing.T) {
			o := base
			tc.change(&o)
			v := o.judge()
			if v.ready != tc.ready || v.reason != tc.name || !strings.Contains(v.message, tc.text) {
				t.Errorf("got %s %s %q, want %s %s %q", v.ready, v.reason, v.message, tc.ready, tc.name, tc.text)
			}
		})
	}
}

func TestFailureReasonsAreComplete(t *testing.T) {
	for k := fault.Internal; k <= fault.Waiting; k++ {
		if failureReasons[k] == "" {
			t.Errorf("no reason for %s", k)
		}
	}
}

// kinds renders the conditions as Type=Status(Reason).
func kinds(conditions []metav1.Condition) map[string]string {
	out := map[string]string{}
	for _, c := range conditions {
		out[c.Type] = string(c.Status) + " " + c.Reason
	}
	return out
}

func TestNext(t *testing.T) {
	first := outcome{now: noon, generation: 1, requested: "t1", revision: "main@sha1:aaa", rendered: true, wait: true, timeout: time.Minute, report: sickReport(health.Progressing)}
	s := next(kustomizev1.KustomizationStatus{ObservedGeneration: -1}, first)
	if diff := cmp.Diff(map[string]string{"Ready": "Unknown Progressing", "Reconciling": "True Progressing", "Healthy": "Unknown Progressing"}, kinds(s.Conditions)); diff != "" {
		t.Errorf("while waiting (-want +got):\n%s", diff)
	}
	if s.ObservedGeneration != -1 || s.LastAttemptedRevision != "main@sha1:aaa" || s.LastAppliedRevision != "" || len(s.History) != 0 || s.LastHandledReconcileAt != "t1" {
		t.Errorf("while waiting: %+v", s)
	}
	if diff := cmp.Diff([]kustomizev1.ResourceRef{{ID: "shop_web_apps_Deployment", Version: "v1"}}, s.Inventory.Entries); diff != "" {
		t.Errorf("inventory (-want +got):\n%s", diff)
	}

	later := first
	later.now, later.waited = noon.Add(time.Second), time.Second
	if diff := cmp.Diff(s, next(s, later)); diff != "" {
		t.Errorf("time alone is no news (-want +got):\n%s", diff)
	}

	done := later
	done.report = sickReport(health.Healthy)
	s = next(s, done)
	if diff := cmp.Diff(map[string]string{"Ready": "True ReconciliationSucceeded", "Healthy": "True Succeeded"}, kinds(s.Conditions)); diff != "" {
		t.Errorf("done (-want +got):\n%s", diff)
	}
	if s.ObservedGeneration != 1 || s.LastAppliedRevision != "main@sha1:aaa" || len(s.History) != 1 || s.History[0].LastReconciledStatus != "ReconciliationSucceeded" {
		t.Errorf("done: %+v", s)
	}
	done.now = noon.Add(time.Hour)
	if diff := cmp.Diff(s, next(s, done)); diff != "" {
		t.Errorf("the same again is no news (-want +got):\n%s", diff)
	}

	untouched := done
	untouched.revision, untouched.rendered = "main@sha1:bbb", false
	s = next(s, untouched)
	if s.LastAppliedRevision != "main@sha1:bbb" || len(s.History) != 1 || s.History[0].TotalReconciliations != 2 || s.History[0].Metadata["revision"] != "main@sha1:bbb" {
		t.Errorf("untouched: %+v", s.History)
	}

	broken := untouched
	broken.revision, broken.rendered = "main@sha1:ccc", true
	broken.report = &delivery.Report{Err: fault.New(fault.Invalid, "not YAML"), Inventory: done.report.Inventory}
	s = next(s, broken)
	if diff := cmp.Diff(map[string]string{"Ready": "False BuildFailed", "Reconciling": "True ProgressingWithRetry", "Healthy": "Unknown BuildFailed"}, kinds(s.Conditions)); diff != "" {
		t.Errorf("broken (-want +got):\n%s", diff)
	}
	broken.now = noon.Add(time.Hour)
	if diff := cmp.Diff(s, next(s, broken)); diff != "" {
		t.Errorf("the same failure is no news (-want +got):\n%s", diff)
	}
	if s.LastAppliedRevision != "main@sha1:bbb" || s.LastAttemptedRevision != "main@sha1:ccc" || len(s.Inventory.Entries) != 1 || len(s.History) != 1 {
		t.Errorf("broken: %+v", s)
	}

	stalled := outcome{now: noon, generation: 2, early: fault.New(fault.Unsupported, "spec.x is not supported yet"), reason: reasonUnsupported, stalled: true}
	s = next(s, stalled)
	if diff := cmp.Diff(map[string]string{"Ready": "False UnsupportedField", "Stalled": "True UnsupportedField"}, kinds(s.Conditions)); diff != "" {
		t.Errorf("stalled (-want +got):\n%s", diff)
	}
	stalled.now = noon.Add(time.Hour)
	if diff := cmp.Diff(s, next(s, stalled)); diff != "" {
		t.Errorf("the same stall is no news (-want +got):\n%s", diff)
	}
	if s.ObservedGeneration != 2 || len(s.Inventory.Entries) != 1 {
		t.Errorf("stalled: %+v", s)
	}
}

// With a list of checks, the others do not count; what is held does.
func TestJudgeListed(t *testing.T) {
	someOnly := outcome{now: noon, generation: 1, revision: "r", wait: true, timeout: time.Minute, report: sickReport(health.Progressing)}
	someOnly.checked = []delivery.Object{{ID: object.ID{Kind: "Pod", Name: "x"}, Desired: true, Health: &health.Verdict{Status: health.Healthy}}}
	if v := someOnly.judge(); v.ready != "True" {
		t.Errorf("what is not listed counts: %+v", v)
	}
	someOnly.report = &delivery.Report{Held: []object.ID{{Kind: "Namespace", Name: "shop"}}, HeldDigest: "d1"}
	if v := someOnly.judge(); v.reason != "PruneHeld" || !strings.Contains(v.message, "Namespace/shop (annotate this object with holdfast.dev/confirm-prune=d1)") {
		t.Errorf("held: %+v", v)
	}
	someOnly.report.Err = fault.New(fault.Waiting, "1 objects left the source")
	if v := someOnly.judge(); v.reason != "PruneHeld" {
		t.Errorf("held, as the engine tells it: %+v", v)
	}
	someOnly.report.Err = fault.New(fault.Rejected, "no")
	if v := someOnly.judge(); v.reason != "ReconciliationFailed" {
		t.Errorf("a failure comes first: %+v", v)
	}
}

func TestNextPermissive(t *testing.T) {
	o := outcome{now: noon, generation: 1, revision: "r", permissive: "own identity", report: &delivery.Report{}}
	s := next(kustomizev1.KustomizationStatus{}, o)
	if kinds(s.Conditions)["Permissive"] != "True PermissiveMode" {
		t.Errorf("not shown: %v", kinds(s.Conditions))
	}
	o.permissive = ""
	if s = next(s, o); kinds(s.Conditions)["Permissive"] != "" {
		t.Errorf("still shown: %v", kinds(s.Conditions))
	}
}

func TestPatience(t *testing.T) {
	var p patience
	at := func(s int) time.Time { return noon.Add(time.Duration(s) * time.Second) }
	waiting, lost, done := verdict{ready: "Unknown"}, verdict{ready: "False"}, verdict{ready: "True"}
	p.settle(waiting, p.waited("r1", at(0)), at(0))
	if got := p.waited("r1", at(7)); got != 7*time.Second {
		t.Errorf("waited %s", got)
	}
	p.settle(lost, 7*time.Second, at(7))
	if got := p.waited("r1", at(60)); got != 7*time.Second {
		t.Errorf("time goes on after it was lost: %s", got)
	}
	p.settle(waiting, 7*time.Second, at(60))
	if got := p.waited("r1", at(61)); got != time.Second {
		t.Errorf("hope starts anew, got %s", got)
	}
	if got := p.waited("r2", at(70)); got != 0 {
		t.Errorf("another revision waits from its own start, got %s", got)
	}
	p.settle(done, 0, at(70))
	if got := p.waited("r2", at(90)); got != 0 {
		t.Errorf("what is done waits no more, got %s", got)
	}
}

func TestNews(t *testing.T) {
	id := func(name string) object.ID { return object.ID{Kind: "ConfigMap", Namespace: "shop", Name: name} }
	report := delivery.Report{Objects: []delivery.Object{
		{ID: id("b"), Outcome: delivery.Configured},
		{ID: id("a"), Outcome: delivery.Created},
		{ID: id("c"), Outcome: delivery.Pruned},
		{ID: id("d"), Outcome: delivery.Unchanged},
	}}
	text, drift := news(report)
	if want := "ConfigMap/shop/a created\nConfigMap/shop/b configured\nConfigMap/shop/c deleted"; text != want || drift {
		t.Errorf("got %q, %t", text, drift)
	}
	report.Objects[0].Outcome = delivery.Reverted
	if text, drift = news(report); !strings.Contains(text, "ConfigMap/shop/b configured") || !drift {
		t.Errorf("got %q, %t", text, drift)
	}
}

func TestOrphans(t *testing.T) {
	for _, tc := range []struct {
		policy         string
		prune, suspend bool
		want           bool
	}{
		{"", true, false, false},
		{"", false, false, true},
		{"", true, true, true},
		{"MirrorPrune", true, false, false},
		{"Delete", false, false, false},
		{"Delete", false, true, true},
		{"WaitForTermination", false, false, false},
		{"Orphan", true, false, true},
		{"Nonsense", true, false, true},
	} {
		ks := kustomization(func(ks *kustomizev1.Kustomization) {
			ks.Spec.DeletionPolicy, ks.Spec.Prune, ks.Spec.Suspend = tc.policy, tc.prune, tc.suspend
		})
		if got := orphans(ks); got != tc.want {
			t.Errorf("%+v: got %t", tc, got)
		}
	}
}

func TestSpreadAndBackOff(t *testing.T) {
	seen := map[time.Duration]bool{}
	for _, uid := range []string{"a", "b", "c", "d"} {
		got := spread(10*time.Minute, types.UID(uid))
		if got < 570*time.Second || got > 630*time.Second {
			t.Errorf("spread moves too far: %s", got)
		}
		seen[got] = true
	}
	if len(seen) < 2 {
		t.Error("spread does not spread")
	}
	for n, want := range map[int]time.Duration{0: 2 * time.Second, 1: 4 * time.Second, 2: 8 * time.Second, 50: time.Minute} {
		if got := backOff(n, time.Minute); got != want {
			t.Errorf("backOff(%d): got %s, want %s", n, got, want)
		}
	}
}
