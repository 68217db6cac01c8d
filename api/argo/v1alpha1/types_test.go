package v1alpha1_test

import (
	"os"
	"reflect"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"

	"github.com/holdfastcd/holdfast/api/argo/v1alpha1"
)

// TestRoundTrip reads objects in which every field is set and writes them again:
// nothing that users write may be unknown, renamed or lost.
func TestRoundTrip(t *testing.T) {
	cases := map[string]struct {
		reason string
		into   any
	}{
		"application.yaml": {"Applications are written back by clients and by us", &v1alpha1.Application{}},
		"appproject.yaml":  {"projects are written back by clients", &v1alpha1.AppProject{}},
	}
	for file, tc := range cases {
		t.Run(file, func(t *testing.T) {
			data, err := os.ReadFile("testdata/" + file)
			if err != nil {
				t.Fatal(err)
			}
			if err := yaml.UnmarshalStrict(data, tc.into); err != nil {
				t.Fatalf("%s: %v", tc.reason, err)
			}
			out, err := yaml.Marshal(tc.into)
			if err != nil {
				t.Fatal(err)
			}
			var want, got map[string]any
			if err := yaml.Unmarshal(data, &want); err != nil {
				t.Fatal(err)
			}
			if err := yaml.Unmarshal(out, &got); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s: read and written again (-want +got):\n%s", tc.reason, diff)
			}
			for _, path := range unset(reflect.ValueOf(tc.into).Elem(), "") {
				t.Errorf("%s: the example leaves %s unset, so nothing is known of it", file, path)
			}
		})
	}
}

// unset lists the fields of our own types that are zero in every element they occur in.
func unset(v reflect.Value, path string) []string {
	switch {
	case v.Kind() == reflect.Pointer && !v.IsNil():
		return unset(v.Elem(), path)
	case v.Kind() == reflect.Slice && v.Len() > 0:
		return unset(v.Index(v.Len()-1), path+"[]")
	case v.Kind() != reflect.Struct || v.Type().PkgPath() != reflect.TypeFor[v1alpha1.Application]().PkgPath():
		return nil
	}
	var paths []string
	for i := range v.NumField() {
		f := v.Type().Field(i)
		if f.Anonymous {
			continue
		}
		at := path + "." + f.Name
		if v.Field(i).IsZero() {
			paths = append(paths, at)
		}
		paths = append(paths, unset(v.Field(i), at)...)
	}
	return paths
}

// TestMinimal writes what says nothing: no empty blocks may appear, since clients
// compare sources by value.
func TestMinimal(t *testing.T) {
	cases := map[string]struct {
		reason string
		in     any
		want   string
	}{
		"Source":    {"blocks that nobody wrote stay away", v1alpha1.ApplicationSource{RepoURL: "r"}, `{"repoURL":"r"}`},
		"Status":    {"an Application nobody looked at has an empty status", v1alpha1.ApplicationStatus{}, `{}`},
		"Operation": {"the shortest request for a sync", v1alpha1.Operation{Sync: &v1alpha1.SyncOperation{}}, `{"sync":{}}`},
		"Automated": {"an empty block is on, and must survive", v1alpha1.SyncPolicy{Automated: &v1alpha1.SyncPolicyAutomated{}}, `{"automated":{}}`},
		"NoKinds": {
			"no list permits all kinds",
			v1alpha1.AppProjectSpec{},
			`{}`,
		},
		"EmptyKinds": {
			"an empty list permits none; losing it would open the project",
			v1alpha1.AppProjectSpec{NamespaceResourceWhitelist: []v1alpha1.GroupKind{}},
			`{"namespaceResourceWhitelist":[]}`,
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			out, err := yaml.Marshal(tc.in)
			if err != nil {
				t.Fatal(err)
			}
			got, err := yaml.YAMLToJSON(out)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, string(got)); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tc.reason, diff)
			}
		})
	}
}

func TestAddToScheme(t *testing.T) {
	s := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(s); err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{v1alpha1.ApplicationKind, v1alpha1.AppProjectKind, "ApplicationList", "AppProjectList"} {
		if !s.Recognizes(v1alpha1.GroupVersion.WithKind(kind)) {
			t.Errorf("the scheme does not know %s", kind)
		}
	}
}
