package own

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	api "github.com/holdfastcd/holdfast/api/holdfast/v1alpha1"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/tree/treetest"
	"github.com/holdfastcd/holdfast/internal/trust"
)

var noon = time.Date(2026, 5, 10, 12, 0, 0, 0, time.UTC)

// compiled is a set of a spec.
func compiled(t *testing.T, spec string) CompiledSet {
	t.Helper()
	u := written(t, spec)
	u.SetKind(api.PolicySetKind)
	return CompilePolicySet(u, noon)
}

func TestCompilePolicySet(t *testing.T) {
	got := compiled(t, `
mode: warn
select: {namespaces: [team-*]}
sources:
- git: {url: "https://git.example.com/platform/policies", ref: {branch: main}, secretRef: {namespace: holdfast-system, name: git}, interval: 1s}
  path: /rego/
- gitRepositoryRef: {namespace: flux-system, name: policies}
- oci: {url: "oci://registry.example.com/team/policies", ref: {semver: 1.x}, secretRef: {namespace: holdfast-system, name: pull}, interval: 2m, insecure: true}
- oci: {url: "oci://registry.example.com/team/policies", ref: {digest: "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"}}
- bucket: {endpoint: "s3.example.com:9000", name: policies, prefix: a b/, secretRef: {namespace: holdfast-system, name: s3}}
  path: a b/rego
inline: [{name: a.rego, content: "package a"}]
builtin: [{name: no-latest, parameters: {allow: [x]}}]
cluster: [ValidatingAdmissionPolicy]
exceptions: [{policy: a, kind: Deployment, owner: ann, reason: a test, expires: "2026-05-20"}]
`)
	if got.Set.Broken != "" || !got.Set.Warn || got.Reason != ReasonWarns {
		t.Fatalf("a set with everything compiles: %+v", got)
	}
	if !got.Selects(trust.Subject{Namespace: "team-a"}) || got.Selects(trust.Subject{Namespace: "other"}) {
		t.Error("it is for what it selects")
	}
	first := got.Sources[0]
	if first.Path != "rego" || first.Interval != minInterval || first.Secret.Name != "git" || first.Ref.Branch != "main" {
		t.Errorf("a source by its address: %+v", first)
	}
	if r := got.Sources[1]; r.Repository.String() != "flux-system/policies" || r.Interval != defaultInterval {
		t.Errorf("a source by reference: %+v", r)
	}
	if o := got.Sources[2]; o.Place != "oci+http://registry.example.com/team/policies" || o.URL != "" || o.Ref.SemVer != "1.x" || o.Secret.Name != "pull" ||
		o.Interval != 2*time.Minute || o.String() != "artifact registry.example.com/team/policies" {
		t.Errorf("an artifact: %+v", o)
	}
	if o := got.Sources[3]; o.Place != "oci://registry.example.com/team/policies" || len(o.Ref.Commit) != 64 {
		t.Errorf("an artifact by its digest: %+v", o)
	}
	if b := got.Sources[4]; b.Place != "s3://s3.example.com:9000/policies?prefix=a+b%2F&region=us-east-1" || b.Path != "a b/rego" || b.Interval != defaultInterval ||
		b.String() != "bucket s3.example.com:9000/policies at a b/rego" {
		t.Errorf("a bucket: %+v", b)
	}
	if b := got.Set.Builtins[0]; b.Name != "no-latest" || string(b.Parameters) != `{"allow":["x"]}` {
		t.Errorf("a builtin with parameters: %+v", b)
	}
	e := got.Set.Exceptions[0]
	if last := time.Date(2026, 5, 20, 23, 59, 59, 0, time.UTC); !last.Before(e.Expires) || e.Expires.Format(time.DateOnly) != "2026-05-20" {
		t.Errorf("an exception counts to the end of its last day: %s", e.Expires)
	}
	a, b := got.With(nil, ""), compiled(t, `{inline: [{name: a.rego, content: "package b"}]}`).With(nil, "")
	if !strings.HasPrefix(a.Revision, "sha256:") || a.Revision == b.Revision {
		t.Errorf("without a source, the revision tells contents apart: %s, %s", a.Revision, b.Revision)
	}
}

func TestPolicySetsThatAreBroken(t *testing.T) {
	const policies = `builtin: [{name: no-latest}]`
	tests := []struct{ name, reason, spec, want string }{
		{"unknown field", "a slip is no permission", `{` + policies + `, exeptions: []}`, `unknown field "spec.exeptions"`},
		{"oci", "it is no address", `{sources: [{oci: {url: x}}]}`, "spec.sources[0].oci.url"},
		{"oci tag", "it has a field of its own", `{sources: [{oci: {url: "oci://x.example/y:v1"}}]}`, "write them into ref"},
		{"oci in the clear", "it has a field of its own", `{sources: [{oci: {url: "oci+http://x.example/y"}}]}`, "insecure: true"},
		{"oci digest", "half a digest is none", `{sources: [{oci: {url: "oci://x.example/y", ref: {digest: "sha256:0123"}}}]}`, "spec.sources[0].oci.ref.digest"},
		{"oci digest of SHA-1", "nor is a commit", `{sources: [{oci: {url: "oci://x.example/y", ref: {digest: "sha256:0123456789abcdef0123456789abcdef01234567"}}}]}`, "spec.sources[0].oci.ref.digest"},
		{"oci refs", "which of them", `{sources: [{oci: {url: "oci://x.example/y", ref: {tag: a, semver: 1.x}}}]}`, "set one of tag, semver"},
		{"oci verify", "what Flux has and a TrustPolicy says", `{sources: [{oci: {url: "oci://x.example/y", verify: {provider: cosign}}}]}`, `unknown field "spec.sources[0].oci.verify"`},
		{"oci secret", "in which namespace", `{sources: [{oci: {url: "oci://x.example/y", secretRef: {name: a}}}]}`, "namespace and name"},
		{"oci as git", "another address", `{sources: [{git: {url: "oci://x.example/y"}}]}`, "name it in oci"},
		{"bucket as git", "another address", `{sources: [{git: {url: "s3://x.example/abc"}}]}`, "name it in bucket"},
		{"bucket", "no name", `{sources: [{bucket: {endpoint: s3.example}}]}`, "spec.sources[0].bucket"},
		{"bucket of Google's", "another language", `{sources: [{bucket: {endpoint: storage.googleapis.com, name: abc}}]}`, "Google Cloud Storage are not supported"},
		{"bucket of Azure's", "another language", `{sources: [{bucket: {endpoint: me.blob.core.windows.net, name: abc}}]}`, "Azure Blob Storage are not supported"},
		{"bucket provider", "another field", `{sources: [{bucket: {endpoint: s3.example, name: abc, provider: azure}}]}`, `unknown field "spec.sources[0].bucket.provider"`},
		{"two places", "which of them", `{sources: [{oci: {url: "oci://x.example/y"}, bucket: {endpoint: s3.example, name: abc}}]}`, "exactly one of git"},
		{"nothing", "a set without policies passes everything", `{mode: enforce}`, "has no policies"},
		{"mode", "a mode that nobody knows", `{mode: audit, ` + policies + `}`, "write enforce or warn"},
		{"two sources in one", "which of them", `{sources: [{git: {url: "https://x.example/y"}, gitRepositoryRef: {namespace: a, name: b}}]}`, "exactly one of git"},
		{"two refs", "which of them", `{sources: [{git: {url: "https://x.example/y", ref: {tag: a, branch: b}}}]}`, "set one of branch, tag"},
		{"name", "the name says the language", `{inline: [{name: policy.txt, content: x}]}`, "end it in .rego"},
		{"path as name", "it is a file's name", `{inline: [{name: ../a.rego, content: x}]}`, "spec.inline[0].name"},
		{"cluster", "a kind that nobody knows", `{cluster: [Pod]}`, "spec.cluster[0]"},
		{"everything excused", "an exception is for something", `{` + policies + `, exceptions: [{owner: a, reason: b, expires: "2026-06-01"}]}`, "would excuse everything"},
		{"no owner", "somebody answers for it", `{` + policies + `, exceptions: [{kind: Pod, reason: b, expires: "2026-06-01"}]}`, "owner, reason and expires"},
		{"no reason", "somebody knows why", `{` + policies + `, exceptions: [{kind: Pod, owner: b, expires: "2026-06-01"}]}`, "owner, reason and expires"},
		{"no end", "it ends", `{` + policies + `, exceptions: [{kind: Pod, owner: b, reason: c}]}`, "owner, reason and expires"},
		{"date", "a date", `{` + policies + `, exceptions: [{kind: Pod, owner: b, reason: c, expires: tomorrow}]}`, "is no date"},
		{"far", "at most a year", `{` + policies + `, exceptions: [{kind: Pod, owner: b, reason: c, expires: "2027-06-01"}]}`, "more than a year"},
		{"glob", "a pattern that matches nothing excuses nothing, in silence", `{` + policies + `, exceptions: [{kind: "[", owner: b, reason: c, expires: "2026-06-01"}]}`, "no pattern"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := compiled(t, tt.spec)
			if !strings.Contains(got.Set.Broken, tt.want) || got.Reason == "" {
				t.Errorf("%s: got %q (%s), want %q in it", tt.reason, got.Set.Broken, got.Reason, tt.want)
			}
			if !got.Selects(trust.Subject{Namespace: "any"}) {
				t.Error("what cannot be read selects everything that it does not name")
			}
		})
	}
	if got := compiled(t, `{`+policies+`, exceptions: [{kind: Pod, owner: b, reason: c, expires: "2025-06-01"}]}`).Set.Broken; got != "" {
		t.Errorf("an exception that has ended breaks nothing: %s", got)
	}
}

func TestReadPolicies(t *testing.T) {
	many := map[string][]byte{}
	for i := range maxPolicies + 1 {
		many[fmt.Sprintf("p/%d.rego", i)] = []byte("package p")
	}
	tests := []struct {
		name, reason, path string
		files              map[string][]byte
		want               []string
		kind               fault.Kind
	}{
		{
			name: "directory", reason: "files with policies, in the order of their names", path: "p",
			files: map[string][]byte{"p/b.rego": {1}, "p/a/x.yaml": {1}, "p/a/x_test.rego": {1}, "p/README.md": {1}, "p/.git/x.rego": {1}, "q/c.rego": {1}, "p/d.json": {1}},
			want:  []string{"p/a/x.yaml", "p/b.rego", "p/d.json"},
		},
		{name: "file", reason: "one file", path: "p/b.rego", files: map[string][]byte{"p/b.rego": {1}}, want: []string{"p/b.rego"}},
		{name: "root", reason: "all of it", files: map[string][]byte{"b.yml": {1}}, want: []string{"b.yml"}},
		{name: "none", reason: "a path without policies judges nothing, and is no success", path: "p", files: map[string][]byte{"p/README.md": {1}}, kind: fault.Invalid},
		{name: "missing", reason: "a path that is not there", path: "q", files: map[string][]byte{"p/a.rego": {1}}, kind: fault.NotFound},
		{name: "many", reason: "bounded in number", path: "p", files: many, kind: fault.Limit},
		{name: "large", reason: "bounded in size", path: "p", files: map[string][]byte{"p/a.rego": make([]byte, maxPolicyFile+1)}, kind: fault.Limit},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ReadPolicies(treetest.FromFiles(tt.files), tt.path)
			if tt.want == nil {
				if fault.KindOf(err) != tt.kind || err == nil {
					t.Fatalf("%s: got %v", tt.reason, err)
				}
				return
			}
			var files []string
			for _, d := range got {
				files = append(files, d.File)
			}
			if diff := cmp.Diff(tt.want, files); diff != "" || err != nil {
				t.Errorf("%s: %v (-want +got):\n%s", tt.reason, err, diff)
			}
		})
	}
}

// What the user's page shows compiles as it stands.
func TestPagesOfPolicies(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "..", "..", "docs", "policy.md"))
	if err != nil {
		t.Fatal(err)
	}
	blocks := strings.Split(string(page), "\n```yaml\n")[1:]
	if len(blocks) == 0 {
		t.Fatal("the page shows nothing")
	}
	for _, block := range blocks {
		text, _, _ := strings.Cut(block, "\n```")
		u := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(text), &u.Object); err != nil {
			t.Fatalf("%v in\n%s", err, text)
		}
		if got := CompilePolicySet(u, noon); got.Set.Broken != "" || u.GetKind() != api.PolicySetKind {
			t.Errorf("%s: %s", u.GetName(), got.Set.Broken)
		}
	}
}
