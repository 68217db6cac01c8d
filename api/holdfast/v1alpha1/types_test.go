package v1alpha1_test

import (
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"

	"github.com/holdfastcd/holdfast/api/holdfast/v1alpha1"
)

// TestRoundTrip reads objects in which every field is set and writes them again:
// nothing that users write may be unknown, renamed or lost.
func TestRoundTrip(t *testing.T) {
	cases := map[string]struct {
		reason string
		into   any
	}{
		"trustpolicy.yaml": {"its status is written by us", &v1alpha1.TrustPolicy{}},
		"policyset.yaml":   {"its status is written by us", &v1alpha1.PolicySet{}},
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
		})
	}
}

func TestAddToScheme(t *testing.T) {
	s := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(s); err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{v1alpha1.TrustPolicyKind, "TrustPolicyList", v1alpha1.PolicySetKind, "PolicySetList"} {
		if !s.Recognizes(v1alpha1.GroupVersion.WithKind(kind)) {
			t.Errorf("the scheme does not know %s", kind)
		}
	}
}
