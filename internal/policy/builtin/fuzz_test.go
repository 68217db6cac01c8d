package builtin

import (
	"context"
	"encoding/json"
	"testing"

	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/policy"
	"github.com/holdfastcd/holdfast/internal/schema"
)

// Whatever an object looks like, it is judged or a flaw.
func FuzzJudge(f *testing.F) {
	for _, row := range []string{
		`{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"d","namespace":"n","labels":1},"spec":{"template":{"metadata":{"annotations":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"i","securityContext":{"privileged":true}}],"volumes":[{"hostPath":{}},{"image":{}}]}}}}`,
		`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p"},"spec":{"ephemeralContainers":[{"image":7}],"resources":{"limits":{"memory":"x"}}}}`,
		`{"apiVersion":"networking.k8s.io/v1","kind":"NetworkPolicy","spec":{"ingress":[{"from":[{"ipBlock":{"cidr":"::/0","except":["1"]}}]}]}}`,
		`{"apiVersion":"v1","kind":"Service","spec":{"type":"LoadBalancer","externalIPs":[""]}}`,
		`{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"ClusterRole","aggregationRule":{"clusterRoleSelectors":[{}]},"rules":[{"verbs":["*"]}]}`,
		`{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"RoleBinding","roleRef":{"name":"cluster-admin"},"subjects":[{}]}`,
		`{"apiVersion":"v1","kind":"Secret","data":[]}`,
		`{"apiVersion":"v1","kind":"PersistentVolume","spec":{"hostPath":{"path":"a"},"local":{}}}`,
		`{"kind":"Namespace","apiVersion":"v1","metadata":7}`,
	} {
		f.Add([]byte(row))
	}
	p := everything(f)
	f.Fuzz(func(t *testing.T, content []byte) {
		o := object.Object{}
		if json.Unmarshal(content, &o.Object) != nil || o.Object == nil {
			return
		}
		c := piped(t, policy.NewCase([]object.Object{o}, schema.Builtin(), nil, nil))
		found, err := p.Judge(context.Background(), c)
		if err != nil {
			t.Fatal(err)
		}
		for _, finding := range found.List {
			if finding.Subject != 0 || finding.Message == "" {
				t.Errorf("%+v", finding)
			}
		}
	})
}

// Whatever parameters look like, they compile or are flaws.
func FuzzParameters(f *testing.F) {
	for _, seed := range []string{"", "null", "{}", `{"tags":["a"],"exemptNamespaces":["["]}`, `{"version":"v1.0"}`, `{"max":{"memory":"1"}}`, `{"allow":["0.0.0.0/0"]}`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, parameters string) {
		for _, a := range Names() {
			p, flaws := Compile([]policy.Builtin{{Name: a.Name, Parameters: json.RawMessage(parameters)}})
			if (p == nil) != (len(flaws) > 0) {
				t.Errorf("%s %q: %v and %v", a.Name, parameters, p, flaws)
			}
		}
	})
}
