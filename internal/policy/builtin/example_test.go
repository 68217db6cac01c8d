package builtin

import (
	"encoding/json"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"github.com/holdfastcd/holdfast/internal/policy"
)

// The example's set refuses the application as it was, and admits it as it is.
func TestExample(t *testing.T) {
	const dir = "../../../examples/policies/"
	var set struct {
		Spec struct {
			Builtin []struct {
				Name       string
				Parameters json.RawMessage
			}
		}
	}
	if err := yaml.Unmarshal([]byte(file(t, dir+"policyset.yaml")), &set); err != nil {
		t.Fatal(err)
	}
	var on []policy.Builtin
	for _, b := range set.Spec.Builtin {
		on = append(on, policy.Builtin{Name: b.Name, Parameters: b.Parameters})
	}
	p, flaws := Compile(on)
	if len(flaws) > 0 || len(on) == 0 {
		t.Fatalf("%d policies, and %v", len(on), flaws)
	}
	for name, want := range map[string][]string{
		"before": {
			"Deployment/storefront: privileged spec.template.spec.containers[0].securityContext.privileged",
			"Deployment/storefront: tag spec.template.spec.containers[0].image",
			"NetworkPolicy/storefront: network-policy spec.ingress[0].from[1].ipBlock.cidr",
		},
		"after": {},
	} {
		c := caseOf(t, file(t, dir+"shop/"+name+"/shop.yaml"))
		if diff := cmp.Diff(want, told(c, judged(t, p, c))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func file(t *testing.T, name string) string {
	t.Helper()
	content, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}
