package render

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/tree"
	"github.com/holdfastcd/holdfast/internal/tree/treetest"
	"github.com/holdfastcd/holdfast/internal/worker"
)

// bothWays renders a directory without a kustomization file by the plain
// parser, if it takes it, and by kustomize.
func bothWays(t *testing.T, req Request, source tree.Tree) (fast output, taken bool, slow output, err error) {
	t.Helper()
	req.Tool = KustomizeOrGenerate
	b, err := newBuild(req, tree.NewView(source, tree.Limits{}), &extra{})
	if err != nil {
		t.Fatal(err)
	}
	l, err := b.find()
	if err != nil {
		t.Fatal(err)
	}
	fast, taken = b.list(l)
	b, err = newBuild(req, tree.NewView(source, tree.Limits{}), &extra{})
	if err != nil {
		t.Fatal(err)
	}
	b.always = true
	slow, err = b.build()
	return fast, taken, slow, err
}

// bare prints objects with their files. Lines are left out: kustomize has fewer.
func bare(objects output) string {
	var b strings.Builder
	for _, o := range objects {
		fmt.Fprintf(&b, "%s %s\n", o.File, o.Object)
	}
	return b.String()
}

const rbac = `apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: b}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: r}
subjects:
- {kind: ServiceAccount, name: %s}
- {kind: ServiceAccount, name: other, namespace: elsewhere}
- {kind: User, name: default}
`

// TestListedAsBuilt: what is rendered without kustomize is what kustomize
// renders, and the common directories are.
func TestListedAsBuilt(t *testing.T) {
	object := func(apiVersion, kind, meta, rest string) string {
		return fmt.Sprintf("apiVersion: %s\nkind: %s\nmetadata: {%s}\n%s\n---\n", apiVersion, kind, meta, rest)
	}
	cm := configMap
	tests := []struct {
		reason string
		fast   string // without a namespace, with one: y, n
		files  map[string]string
	}{
		{"a deployment", "yy", map[string]string{"a.yaml": fmt.Sprintf(deployment, "web")}},
		{"several files and depths", "yy", map[string]string{"b.yaml": cm("b"), "a/z.yml": cm("z"), "a.yaml": cm("a"), "a-b/c.yaml": cm("c"), "x.json": "{}"}},
		{"several documents, empty ones, comments", "yy", map[string]string{"a.yaml": "# head\n---\n" + cm("a") + "---\n---\n# only words\n--- # more\n" + cm("b") + "---\n"}},
		{"JSON in YAML", "yy", map[string]string{"a.yaml": `{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "n": [1, null, {}]}`}},
		{"scalars of YAML 1.1", "yy", map[string]string{"a.yaml": cm("a") + "data: {a: yes, b: 0777, c: 1e3, d: 2001-01-01, e: ~, f: 'no', g: 0x1F, h: 12:30}\nimmutable: off\n"}},
		{"block scalars", "yy", map[string]string{"a.yaml": cm("a") + "data:\n  a: |+\n    x\n    ---\n    y\n\n---\n" + cm("b") + "data:\n  a: >-\n    x\n    y\n  b: |\n    last"}},
		{"kinds of the cluster", "yy", map[string]string{"a.yaml": object("rbac.authorization.k8s.io/v1", "ClusterRole", "name: a", "rules: []") +
			object("v1", "PersistentVolume", "name: a, namespace: odd", "") + object("example.com/v1", "Custom", "name: a", "") + object("v1", "Pod", "name: a, namespace: b", "")}},
		{"a namespace", "yn", map[string]string{"a.yaml": object("v1", "Namespace", "name: a", "") + cm("a")}},
		{"labels and annotations", "yy", map[string]string{"a.yaml": object("v1", "ConfigMap", `name: a, labels: {a: b, c: "yes"}, annotations: {d: "true", e: "1", f: "", g: "null", h: "a: b"}`, "")}},
		{"annotations that are empty", "nn", map[string]string{"a.yaml": object("v1", "ConfigMap", "name: a, annotations: {}", "")}},
		{"labels that are no texts", "nn", map[string]string{"a.yaml": object("v1", "ConfigMap", "name: a, labels: {a: 1}", "")}},
		{"local configuration", "nn", map[string]string{"a.yaml": object("v1", "ConfigMap", "name: a, annotations: {config.kubernetes.io/local-config: 'true'}", "") + cm("b")}},
		{"a name with a hash", "nn", map[string]string{"a.yaml": object("v1", "ConfigMap", "name: a, annotations: {kustomize.config.k8s.io/needs-hash: 'true'}", "") + cm("b")}},
		{"a list", "nn", map[string]string{"a.yaml": "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: ConfigMap, metadata: {name: a}}\n"}},
		{"lists among objects, whose order is odd", "nn", map[string]string{"a.yaml": "apiVersion: v1\nkind: ConfigMapList\nitems:\n- {apiVersion: v1, kind: ConfigMap, metadata: {name: z}}\n---\n" + cm("a")}},
		{"anchors", "nn", map[string]string{"a.yaml": cm("a") + "data: {a: &x text, b: *x}\n"}},
		{"a merge key", "nn", map[string]string{"a.yaml": cm("a") + "x: &x {a: b}\ndata:\n  <<: *x\n"}},
		{"Windows line ends", "nn", map[string]string{"a.yaml": strings.ReplaceAll(cm("a")+"---\n"+cm("b"), "\n", "\r\n")}},
		{"the same object twice", "nn", map[string]string{"a.yaml": cm("a"), "b.yaml": cm("a")}},
		{"the same name in two namespaces", "yn", map[string]string{"a.yaml": object("v1", "ConfigMap", "name: a, namespace: x", "") + object("v1", "ConfigMap", "name: a, namespace: z", "")}},
		{"the default namespace by name and by silence", "nn", map[string]string{"a.yaml": object("v1", "ConfigMap", "name: a, namespace: default", "") + cm("a")}},
		{"two versions of a kind", "yy", map[string]string{"a.yaml": object("x.io/v1", "A", "name: a", "") + object("x.io/v2", "A", "name: a", "")}},
		{"a binding to an account that is not here", "yy", map[string]string{"a.yaml": fmt.Sprintf(rbac, "sa")}},
		{"a binding to the default account", "yy", map[string]string{"a.yaml": fmt.Sprintf(rbac, "default")}},
		{"a binding to an account of the directory", "yn", map[string]string{"a.yaml": fmt.Sprintf(rbac, "sa"), "b.yaml": object("v1", "ServiceAccount", "name: sa", "")}},
		{"a binding to an account with a namespace", "nn", map[string]string{"a.yaml": fmt.Sprintf(rbac, "sa"), "b.yaml": object("v1", "ServiceAccount", "name: sa, namespace: x", "")}},
		{"a binding that names the account's namespace", "yy", map[string]string{"a.yaml": fmt.Sprintf(rbac, "sa, namespace: team"), "b.yaml": object("v1", "ServiceAccount", "name: sa, namespace: team", "")}},
		{"a webhook", "nn", map[string]string{"a.yaml": object("admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration", "name: a",
			"webhooks: [{name: a.b.c, clientConfig: {service: {name: s, namespace: x}}}]") + object("v1", "Service", "name: s, namespace: x", "")}},
		{"an API service", "nn", map[string]string{"a.yaml": object("apiregistration.k8s.io/v1", "APIService", "name: a", "spec: {service: {name: s, namespace: x}}")}},
		{"a definition", "yy", map[string]string{"a.yaml": object("apiextensions.k8s.io/v1", "CustomResourceDefinition", "name: a", "spec: {group: x}")}},
		{"a definition with a webhook", "yn", map[string]string{"a.yaml": object("apiextensions.k8s.io/v1", "CustomResourceDefinition", "name: a",
			"spec: {conversion: {strategy: Webhook, webhook: {clientConfig: {service: {name: s, namespace: x}}}}}")}},
		{"references by name", "yy", map[string]string{"a.yaml": cm("c") + "---\n" + strings.ReplaceAll(fmt.Sprintf(deployment, "web"), "image: nginx:1.27",
			"envFrom: [{configMapRef: {name: c}}]\n        image: nginx:1.27")}},
		{"no object", "nn", map[string]string{"a.yaml": "a: b\n"}},
		{"no YAML", "nn", map[string]string{"a.yaml": "a: [\n"}},
		{"a key twice", "nn", map[string]string{"a.yaml": cm("a") + "kind: Secret\n"}},
		{"another kustomization below", "nn", map[string]string{"a.yaml": cm("a"), "b/kustomization.yaml": "resources: [c.yaml]\n", "b/c.yaml": cm("c")}},
	}
	for _, tt := range tests {
		source := map[string][]byte{}
		for name, content := range tt.files {
			source["d/"+name] = []byte(content)
		}
		for i, namespace := range []string{"", "team"} {
			req := Request{Path: "d", Namespace: namespace}
			fast, taken, slow, err := bothWays(t, req, treetest.FromFiles(source))
			if want := tt.fast[i] == 'y'; taken != want {
				t.Errorf("%s, namespace %q: without kustomize is %v", tt.reason, namespace, taken)
			}
			if !taken {
				continue
			}
			if err != nil {
				t.Errorf("%s, namespace %q: kustomize says %v", tt.reason, namespace, err)
			}
			if diff := cmp.Diff(bare(slow), bare(fast)); diff != "" {
				t.Errorf("%s, namespace %q (-kustomize +listed):\n%s", tt.reason, namespace, diff)
			}
			for _, o := range fast {
				if o.Line == 0 {
					t.Errorf("%s: no line for %s", tt.reason, o.Object)
				}
			}
		}
	}
}

// TestListedLimits: what the plain parser bounds is bounded here too, whoever
// comes to render it, and the next rendering goes on.
func TestListedLimits(t *testing.T) {
	deep := func(n int) string { return strings.Repeat("[", n) + strings.Repeat("]", n) }
	tests := []struct {
		reason, content, msg string
	}{
		{"300 levels", configMap("x") + "data: " + deep(300) + "\n", "deeper than 100"},
		{"deeper than the parser goes", deep(20000), ""},
		{"a 10 MiB manifest", configMap("x") + "data: {x: " + strings.Repeat("y", 10<<20) + "}\n", "the file has 10485"},
		{"aliases of aliases", configMap("x") + "data:\n  a: &a [x,x,x,x,x,x,x,x,x,x]\n  b: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a]\n" +
			"  c: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b,*b]\n  d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c,*c]\n  e: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d,*d]\n" +
			"  f: [*e,*e,*e,*e,*e,*e,*e,*e,*e,*e,*e,*e]\n", "aliases unfold"},
	}
	r := newRenderer(t, worker.Options{Size: 1})
	for _, tt := range tests {
		for _, namespace := range []string{"", "team"} {
			req := Request{Path: "a", Tool: KustomizeOrGenerate, Namespace: namespace}
			_, err := r.Render(t.Context(), req, treetest.FromFiles(map[string][]byte{"a/x.yaml": []byte(tt.content)}))
			f, ok := errors.AsType[*fault.Error](err)
			if !ok || f.Kind != fault.Limit && tt.msg != "" || f.File != "a/x.yaml" || !strings.Contains(f.Msg, tt.msg) {
				t.Errorf("%s: %.300v", tt.reason, err)
			}
			if _, err := r.Render(t.Context(), req, treetest.FromFiles(map[string][]byte{"a/x.yaml": []byte(configMap("x"))})); err != nil {
				t.Errorf("after %s: %v", tt.reason, err)
			}
		}
	}
}

func FuzzListedAsBuilt(f *testing.F) {
	for _, seed := range []string{
		configMap("a"), configMap("a") + "---\n" + configMap("b"), fmt.Sprintf(deployment, "a"), fmt.Sprintf(rbac, "default"),
		"a: b", "--- #\n" + configMap("a") + "...\n", configMap("a") + "data: {a: |\n", configMap("a") + "--- x\n", "\n\n---\n---\n" + configMap("a"),
		configMap("a") + "x: [~, {a: ~}, '', \"\"]\n", configMap("a") + "\"x\": !!str 1\n", configMap("a") + "? a\n: b\n", configMap("yes"),
		"apiVersion: v1\nkind: Secret\nmetadata:\n  name: x\n  annotations: {a: \"yes\", b: 'x\ty'}\nstringData:\n  a: |2\n     x\n",
	} {
		f.Add([]byte(seed), "team")
		f.Add([]byte(seed), "")
	}
	f.Fuzz(func(t *testing.T, content []byte, namespace string) {
		if len(content) > 2000 || !isName(namespace) {
			t.Skip()
		}
		fast, taken, slow, err := bothWays(t, Request{Namespace: namespace}, treetest.FromFiles(map[string][]byte{"a.yaml": content}))
		if !taken {
			return
		}
		if err != nil { // it may refuse more: what it does not understand of references
			return
		}
		if diff := cmp.Diff(bare(slow), bare(fast)); diff != "" {
			t.Errorf("-kustomize +listed:\n%s", diff)
		}
	})
}

func isName(s string) bool {
	return len(s) < 64 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz-0123456789") == ""
}

func TestIndexLines(t *testing.T) {
	content := "# head\n\napiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a # why\n---\n" +
		"kind: \"Secret\"\nmetadata: {name: b}\n---\n\napiVersion: v1\nmetadata:\n  labels: {}\n  name: c\nkind: ConfigMap\n---\n{kind: Flow}\n"
	tests := []struct {
		reason, kind, name string
		want               int
	}{
		{"by kind and name", "ConfigMap", "a", 3},
		{"by kind and name, keys in another order", "ConfigMap", "c", 12},
		{"the only one of its kind, renamed", "Secret", "prefix-b", 8},
		{"one of two, renamed", "ConfigMap", "prefix-a", 0},
		{"what is not there", "Service", "a", 0},
		{"what is not in block style", "Flow", "", 0},
	}
	index := indexLines([]byte(content))
	for _, tt := range tests {
		if got := index.line(tt.kind, tt.name); got != tt.want {
			t.Errorf("%s: line %d, want %d", tt.reason, got, tt.want)
		}
	}
}

// overrideArgument reads overrides=JSON of the corpus.
func overrideArgument(t *testing.T, req *Request, key, value string) bool {
	t.Helper()
	if key != "overrides" {
		return false
	}
	req.Overrides = &Overrides{}
	if err := json.Unmarshal([]byte(value), req.Overrides); err != nil {
		t.Fatal(err)
	}
	return true
}
