package argo

import (
	"context"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	corev1 "k8s.io/api/core/v1"

	api "github.com/holdfastcd/holdfast/api/argo/v1alpha1"
)

// memoryServer is an API server in memory that counts patches.
func memoryServer(t *testing.T, objects ...client.Object) (client.WithWatch, *[]string) {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := corev1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	mapper := meta.NewDefaultRESTMapper(nil)
	mapper.Add(api.GroupVersion.WithKind(api.ApplicationKind), meta.RESTScopeNamespace)
	mapper.Add(api.GroupVersion.WithKind(api.AppProjectKind), meta.RESTScopeNamespace)
	mapper.Add(corev1.SchemeGroupVersion.WithKind("Secret"), meta.RESTScopeNamespace)
	patches := &[]string{}
	return fake.NewClientBuilder().WithScheme(scheme).WithRESTMapper(mapper).WithObjects(objects...).
		WithIndex(&corev1.ConfigMap{}, "metadata.name", func(o client.Object) []string { return []string{o.GetName()} }).
		WithInterceptorFuncs(interceptor.Funcs{
			Patch: func(ctx context.Context, c client.WithWatch, o client.Object, p client.Patch, opts ...client.PatchOption) error {
				b, err := p.Data(o)
				if err != nil {
					return err
				}
				*patches = append(*patches, string(b))
				return c.Patch(ctx, o, p, opts...)
			},
		}).Build(), patches
}

func TestUpdate(t *testing.T) {
	u := parse(t, web)
	u.SetAnnotations(map[string]string{annRefresh: "normal", annRefreshTimestamp: "x", "mine": "y"})
	u.Object["status"] = map[string]any{"theirs": "stays", "sourceType": "Directory"}
	c, patches := memoryServer(t, u)
	d := newDesk(c, c)
	name := client.ObjectKeyFromObject(u)
	get := func() (*unstructured.Unstructured, *api.Application) {
		u, err := d.get(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		app, err := Decode(u)
		if err != nil {
			t.Fatal(err)
		}
		return u, app
	}

	u, app := get()
	if err := d.update(t.Context(), u, app.Status, app.Status, answers{}); err != nil || len(*patches) != 0 {
		t.Fatalf("an equal status was written: %v, %v", *patches, err)
	}
	after := *app.Status.DeepCopy()
	after.SourceType = "Kustomize"
	after.Conditions = []api.ApplicationCondition{{Type: "SyncError", Message: "m"}}
	if err := d.update(t.Context(), u, app.Status, after, answers{refresh: true}); err != nil {
		t.Fatal(err)
	}
	if len(*patches) != 1 || strings.Contains((*patches)[0], "theirs") || strings.Contains((*patches)[0], `"spec"`) {
		t.Errorf("sent %v", *patches)
	}
	u, app = get()
	if app.Status.SourceType != "Kustomize" || len(app.Status.Conditions) != 1 || app.Spec.Source == nil {
		t.Errorf("got %+v", app.Status)
	}
	if theirs, _, _ := unstructured.NestedString(u.Object, "status", "theirs"); theirs != "stays" {
		t.Error("what others keep in the status was lost")
	}
	if a := app.Annotations; len(a) != 1 || a["mine"] != "y" {
		t.Errorf("annotations are %v", a)
	}

	// An operation that is over goes with the patch that tells of it.
	ordered := u.DeepCopy()
	ordered.Object["operation"] = map[string]any{"sync": map[string]any{}}
	if err := c.Update(t.Context(), ordered); err != nil {
		t.Fatal(err)
	}
	u, app = get()
	if app.Operation == nil {
		t.Fatal("the operation was not read")
	}
	if err := d.update(t.Context(), u, app.Status, app.Status, answers{operation: true}); err != nil {
		t.Fatal(err)
	}
	if u, app = get(); app.Operation != nil {
		t.Error("the operation is still there")
	}

	// A request to refresh that comes meanwhile is not taken away.
	stale := u.DeepCopy()
	fresh := u.DeepCopy()
	fresh.SetAnnotations(map[string]string{annRefresh: "hard"})
	if err := c.Update(t.Context(), fresh); err != nil {
		t.Fatal(err)
	}
	stale.SetAnnotations(map[string]string{annRefresh: "normal"})
	if err := d.update(t.Context(), stale, app.Status, app.Status, answers{refresh: true}); !apierrors.IsConflict(err) {
		t.Errorf("got error %v, want a conflict", err)
	}
}

// What was just written is what the next pass starts from, even if the cache lags.
func TestGetOwnWrites(t *testing.T) {
	u := parse(t, web)
	c, _ := memoryServer(t, u)
	lagging, _ := memoryServer(t, u)
	d := newDesk(lagging, c)
	name := client.ObjectKeyFromObject(u)
	u, err := d.get(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.update(t.Context(), u, api.ApplicationStatus{}, api.ApplicationStatus{SourceType: "Helm"}, answers{}); err != nil {
		t.Fatal(err)
	}
	u, err = d.get(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	if app, _ := Decode(u); app.Status.SourceType != "Helm" {
		t.Error("the pass starts from what the last one replaced")
	}
}

func TestRelease(t *testing.T) {
	u := parse(t, web)
	u.SetFinalizers([]string{finalizerResources, "other/one", finalizerForeground})
	c, _ := memoryServer(t, u)
	d := newDesk(c, c)
	u, err := d.get(t.Context(), client.ObjectKeyFromObject(u))
	if err != nil {
		t.Fatal(err)
	}
	if err := d.release(t.Context(), u); err != nil {
		t.Fatal(err)
	}
	u, _ = d.get(t.Context(), client.ObjectKeyFromObject(u))
	if f := u.GetFinalizers(); len(f) != 1 || f[0] != "other/one" {
		t.Errorf("finalizers are %v", f)
	}
}

func TestWish(t *testing.T) {
	set := func(path string, value any) func(*unstructured.Unstructured) {
		return func(u *unstructured.Unstructured) {
			_ = unstructured.SetNestedField(u.Object, value, strings.Split(path, "/")...)
		}
	}
	note := func(key, value string) func(*unstructured.Unstructured) {
		return func(u *unstructured.Unstructured) { u.SetAnnotations(map[string]string{key: value}) }
	}
	tests := []struct {
		reason        string
		before, after func(*unstructured.Unstructured)
		want          bool
	}{
		{"nothing", nil, nil, false},
		{"our status", nil, set("status/sourceType", "Helm"), false},
		{"managed fields and generation", nil, set("metadata/generation", int64(7)), false},
		{"spec", nil, set("spec/project", "other"), true},
		{"an operation", nil, set("operation/dryRun", true), true},
		{"an annotation", nil, note("a", "b"), true},
		{"labels", nil, func(u *unstructured.Unstructured) { u.SetLabels(map[string]string{"a": "b"}) }, true},
		{"a request to refresh", nil, note(annRefresh, "normal"), true},
		{"a harder one", note(annRefresh, "normal"), note(annRefresh, "hard"), true},
		{"the same one, still there", note(annRefresh, "normal"), note(annRefresh, "normal"), false},
		{"an end of the operation is asked for", nil, set("status/operationState/phase", "Terminating"), true},
		{"still", set("status/operationState/phase", "Terminating"), set("status/operationState/phase", "Terminating"), false},
		{"its answer", note(annRefresh, "normal"), nil, false},
		{"a finalizer", nil, func(u *unstructured.Unstructured) { u.SetFinalizers([]string{"a/b"}) }, true},
		{"deletion", nil, func(u *unstructured.Unstructured) { now := metav1.NewTime(noon); u.SetDeletionTimestamp(&now) }, true},
	}
	for _, tc := range tests {
		t.Run(tc.reason, func(t *testing.T) {
			before, after := parse(t, web), parse(t, web)
			if tc.before != nil {
				tc.before(before)
			}
			if tc.after != nil {
				tc.after(after)
			}
			if got := wish(before, after); got != tc.want {
				t.Errorf("got %v", got)
			}
		})
	}
}
