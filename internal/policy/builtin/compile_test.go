package builtin

import (
	"context"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfastcd/holdfast/internal/policy"
)

func TestFlaws(t *testing.T) {
	tests := []struct {
		name, parameters string
		want             []string
		reason           string
	}{
		{"no-latest-tags", "", []string{"no-latest-tags: there is no built-in policy of this name (did you mean no-latest-tag?)"}, "a slip"},
		{"digests", "", []string{"digests: there is no built-in policy of this name (did you mean image-digests?)"}, "a part of a name"},
		{"no-latest-tag", "{exemptImage: [a], Tags: [b]}", []string{
			"no-latest-tag: parameters.Tags is not known (did you mean tags?)", "no-latest-tag: parameters.exemptImage is not known (did you mean exemptImages?)",
		}, "unknown fields are told by name, and case counts"},
		{"no-latest-tag", "{zzzzzzzzzz: 1}", []string{"no-latest-tag: parameters.zzzzzzzzzz is not known (those that are: exemptNamespaces, exemptImages, tags)"}, "nothing is near"},
		{"no-latest-tag", "[a]", []string{"no-latest-tag: parameters are not an object"}, "a list"},
		{"no-latest-tag", "{tags: latest}", []string{"no-latest-tag: parameters.tags is not a list of strings"}, "a string"},
		{"no-latest-tag", "{tags: [1]}", []string{"no-latest-tag: parameters.tags is not a list of strings"}, "a number"},
		{"no-latest-tag", "{tags: [null]}", []string{"no-latest-tag: parameters.tags is not a list of strings"}, "nothing"},
		{"no-latest-tag", "{tags: null}", []string{"no-latest-tag: parameters.tags is not a list of strings"}, "nothing"},
		{"no-latest-tag", "{tags: []}", []string{"no-latest-tag: parameters.tags: none is refused: take the policy away instead"}, "can match nothing"},
		{"no-latest-tag", "{tags: ['[']}", []string{`no-latest-tag: parameters.tags: "[" is not a glob`}, "a glob that cannot be read"},
		{"no-latest-tag", "{exemptNamespaces: ['*']}", []string{`no-latest-tag: parameters.exemptNamespaces: "*" exempts everything: take the policy away instead`}, "can match nothing"},
		{"no-latest-tag", "{exemptNamespaces: ['['], exemptImages: ['a:1', '**']}", []string{
			`no-latest-tag: parameters.exemptNamespaces: "[" is not a glob`, `no-latest-tag: parameters.exemptImages: "**" exempts everything: take the policy away instead`,
		}, "each is told"},
		{"image-digests", "{exemptImages: ['a/b:1']}", []string{`image-digests: parameters.exemptImages: pattern "a/b:1": only letters, digits, ., _, -, / and the wildcards * and ** are known, and neither tags nor digests`}, "tags are no part of patterns"},
		{"allowed-images", "", []string{"allowed-images: parameters.images: it is required: list the images that may run, as registry.example.org/**"}, "a required parameter"},
		{"pod-security-baseline", "{version: v1.99}", []string{`pod-security-baseline: parameters.version: "v1.99" is none of latest, v1.0 to v1.36`}, "nobody knows that here"},
		{"pod-security-baseline", "{version: '1.36'}", []string{`pod-security-baseline: parameters.version: "1.36" is none of latest, v1.0 to v1.36`}, "as the API server's label has it"},
		{"resource-limits", "{limits: [], requests: []}", []string{"resource-limits: parameters.limits, requests and max are empty: take the policy away instead"}, "can match nothing"},
		{"resource-limits", "{max: {memory: much}}", []string{`resource-limits: parameters.max.memory: "much" is not a quantity, such as 500m or 4Gi`}, "no quantity"},
		{"no-public-ingress", "{allow: [10.0.0.0]}", []string{`no-public-ingress: parameters.allow: "10.0.0.0" is not an address block such as 10.0.0.0/8`}, "no block"},
		{"no-public-ingress", "{allow: ['::/0']}", []string{"no-public-ingress: parameters.allow: it holds every address: take the policy away instead"}, "can match nothing"},
		{"no-wildcard-rbac", "{wildcards: [verb]}", []string{`no-wildcard-rbac: parameters.wildcards: "verb" is not known: verbs, resources, apiGroups, nonResourceURLs are`}, "a word of a list"},
		{"no-host-mounts", "{allowPaths: [/], also: [x]}", []string{`no-host-mounts: parameters.allowPaths: "/" is not the path of a directory below /`}, "everything"},
		{"required-labels", "{labels: [=a]}", []string{`required-labels: parameters.labels: "=a" is neither a name nor name=glob`}, "no name"},
	}
	for _, test := range tests {
		p, flaws := Compile([]policy.Builtin{{Name: test.name, Parameters: raw(t, test.parameters)}})
		if p != nil {
			t.Errorf("%s %s: a policy that is flawed must not judge", test.name, test.parameters)
		}
		var got []string
		for _, f := range flaws {
			got = append(got, f.String())
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s %s: %s (-want +got):\n%s", test.name, test.parameters, test.reason, diff)
		}
	}
}

// A flaw of one policy keeps none of the others from judging.
func TestFlawsBesidePolicies(t *testing.T) {
	p, flaws := Compile([]policy.Builtin{{Name: "nothing"}, {Name: "no-latest-tag"}, {Name: "no-latest-tag"}})
	if len(flaws) != 2 || !strings.Contains(flaws[1].Message, "twice") {
		t.Errorf("flaws: %v", flaws)
	}
	c := caseOf(t, image("app"))
	if got := told(c, judged(t, p, c)); len(got) != 1 {
		t.Errorf("findings: %q", got)
	}
	if p, flaws := Compile(nil); p != nil || flaws != nil {
		t.Errorf("nothing is switched on: %v %v", p, flaws)
	}
}

// What cannot be read as its kind is a flaw that says where and what; the rest is judged.
func TestUnreadable(t *testing.T) {
	c := caseOf(t, join(
		"{apiVersion: apps/v1, kind: Deployment, metadata: {name: odd, namespace: team}, spec: {template: {spec: {containers: [{name: c, image: c, securityContext: {privileged: \"yes\"}}]}}}}",
		"{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: np, namespace: team}, spec: {ingress: {}}}",
		image("app"),
	))
	var on []policy.Builtin
	for _, name := range []string{"no-latest-tag", "no-privileged", "no-public-ingress"} {
		on = append(on, policy.Builtin{Name: name})
	}
	p, _ := Compile(on)
	found, err := p.Judge(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range found.Flaws {
		got = append(got, f.String())
	}
	want := []string{
		"objects.yaml:2: no-public-ingress: NetworkPolicy.networking.k8s.io/team/np cannot be judged, for it is not a NetworkPolicy: json: cannot unmarshal object into Go struct field NetworkPolicySpec.spec.ingress of type []v1.NetworkPolicyIngressRule",
		"objects.yaml:1: Pod/team/odd cannot be judged, for it is not a Pod: json: cannot unmarshal string into Go struct field SecurityContext.spec.containers.securityContext.privileged of type bool",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if len(found.List) != 2 { // the Pod, and the image of the Deployment that was read otherwise
		t.Errorf("findings: %v", found.List)
	}
}

func TestJudgeEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := compiled(t, "no-latest-tag", "").Judge(ctx, caseOf(t, image("app"))); err == nil {
		t.Error("a judgement that nobody waits for ends")
	}
}
