package judge

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfastcd/holdfast/internal/policy"
	"github.com/holdfastcd/holdfast/internal/worker"
)

func TestIsKyverno(t *testing.T) {
	for _, c := range []struct {
		content string
		want    bool
		reason  string
	}{
		{"apiVersion: kyverno.io/v1\nkind: ClusterPolicy\n", true, "the classic group"},
		{"kind: ValidatingPolicy\napiVersion: policies.kyverno.io/v1beta1\n", true, "the newer group, the kind first"},
		{"apiVersion: \"kyverno.io/v2\"\n", true, "in quotes"},
		{`{"kind":"ClusterPolicy","apiVersion":"kyverno.io/v1"}`, true, "JSON"},
		{`{"kind":"List","apiVersion":"v1","items":[{"apiVersion" : "kyverno.io/v1"}]}`, true, "the second apiVersion of a line"},
		{"apiVersion: v1\nkind: ConfigMap\n---\napiVersion: kyverno.io/v1\nkind: Policy\n", true, "the second document"},
		{"apiVersion: v1\nkind: List\nitems:\n- apiVersion: kyverno.io/v1\n  kind: Policy\n", true, "an item of a List"},
		{"apiVersion: v1\nkind: ConfigMap\nmetadata:\n  annotations: {policies.kyverno.io/title: x}\n", false, "an annotation of Kyverno's is no policy"},
		{"package kyverno.io/v1", false, "Rego that says the name"},
		{"apiVersion: notkyverno.io/v1\n", false, "another group that ends alike"},
		{"apiVersion:\n  kyverno.io/v1\n", true, "the value on the next line"},
		{"apiVersion: kyverno.io\n", false, "no version"},
		{"", false, "nothing"},
	} {
		if got := IsKyverno(policy.Document{Content: []byte(c.content)}); got != c.want {
			t.Errorf("%s: got %v", c.reason, got)
		}
	}
}

func TestFindKyverno(t *testing.T) {
	dir := t.TempDir()
	file := func(name string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	beside := file("a/holdfast-kyverno", 0o755)
	self := file("a/holdfast", 0o755)
	alone := file("b/holdfast", 0o755)
	other := file("c/other", 0o755)
	text := file("d/holdfast-kyverno", 0o644)
	for _, c := range []struct {
		told, self, path, hint, reason string
	}{
		{"", self, beside, "", "beside the program"},
		{other, self, other, "", "what is said counts before what is beside"},
		{other, "", other, "", "the program need not know where it is"},
		{"", alone, "", "put holdfast-kyverno", "it is not installed"},
		{"", filepath.Join(dir, "d/holdfast"), "", "put holdfast-kyverno", "a file that cannot be run"},
		{text, self, "", "HOLDFAST_KYVERNO says", "what is said is wrong: nothing else is taken in its place"},
		{dir, self, "", "HOLDFAST_KYVERNO says", "a directory"},
	} {
		path, hint := findKyverno(c.told, c.self)
		if path != c.path || !strings.Contains(hint, c.hint) || (hint == "") != (path != "") {
			t.Errorf("%s: got %q, %q", c.reason, path, hint)
		}
	}
	if path, _ := FindKyverno(func(name string) string {
		return map[string]string{EnvKyverno: other}[name]
	}); path != other {
		t.Errorf("the environment says %s, and it found %q", other, path)
	}
}

// asked is a Pool that answers with a bench, and remembers what it was asked.
type asked struct {
	bench *Bench
	files [][]string
}

func (a *asked) Do(_ context.Context, _ string, payload []byte, files worker.Files) ([]byte, error) {
	var t task
	if err := json.Unmarshal(payload, &t); err != nil {
		return nil, err
	}
	var names []string
	for _, d := range t.Documents {
		names = append(names, d.File)
	}
	a.files = append(a.files, names)
	return a.bench.Handler(payload, files)
}

// TestBesideKyverno: what stands beside a policy of Kyverno's may be a ConfigMap that it
// reads, so that its engine sees all files of the set; and sets without such a policy do
// not need it.
func TestBesideKyverno(t *testing.T) {
	own := &asked{bench: NewBench(nil, nil, IsKyverno)}
	theirs := &asked{bench: NewBench(nil, nil, nil)}
	set := policy.Set{Name: "s", Documents: []policy.Document{
		{File: "map.yaml", Content: []byte("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n")},
		{File: "policy.yaml", Content: []byte("apiVersion: kyverno.io/v1\nkind: ClusterPolicy\n")},
	}}
	judge := func(j *Judge, s policy.Set) policy.Decision {
		t.Helper()
		all, err := j.Judge(t.Context(), []policy.Set{s}, &policy.Case{}, time.Unix(0, 0))
		if err != nil {
			t.Fatal(err)
		}
		return all[0]
	}
	judge(New(own, theirs, ""), set)
	if diff := cmp.Diff([][]string{{"map.yaml", "policy.yaml"}}, theirs.files); diff != "" {
		t.Error(diff)
	}
	d := judge(New(own, nil, "install it"), set)
	if len(d.Verdicts) != 1 || d.Verdicts[0].Outcome != policy.Fail || !strings.Contains(d.Verdicts[0].Message, "install it") || d.Verdicts[0].Source != "policy.yaml" {
		t.Errorf("its absence is no refusal that names the file: %+v", d.Verdicts)
	}
	set.Documents = set.Documents[:1]
	judge(New(own, theirs, ""), set)
	if len(theirs.files) != 1 {
		t.Errorf("Kyverno was asked about a set without a policy of its")
	}
}
