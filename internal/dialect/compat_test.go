package dialect_test

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/holdfastcd/holdfast/deploy"
	"github.com/holdfastcd/holdfast/internal/dialect/argo"
	"github.com/holdfastcd/holdfast/internal/dialect/flux"
	"github.com/holdfastcd/holdfast/internal/fault"
)

// page is what users read about compatibility.
const page = "../../docs/compatibility.md"

// updatePage has the test write the tables instead of comparing them.
var updatePage = os.Getenv("HOLDFAST_UPDATE") != ""

// kind is one table: the smallest object that is accepted, and who judges it.
type kind struct {
	crd, base string
	check     func(*unstructured.Unstructured) error
	// values are for fields of which only some values are supported, where the
	// definition does not list them.
	values map[string]any
}

// sections are the tables by the name of their markers.
var sections = map[string][]kind{
	"flux": {
		{"gitrepositories.source.toolkit.fluxcd.io", `{kind: GitRepository, spec: {url: "https://git.example/r.git", interval: 1m}}`, flux.Check, nil},
		{"kustomizations.kustomize.toolkit.fluxcd.io", `{kind: Kustomization, metadata: {namespace: team}, spec: {interval: 1m, prune: true, sourceRef: {kind: GitRepository, name: r}}}`, flux.Check, map[string]any{
			"sourceRef.apiVersion": "source.toolkit.fluxcd.io/v1",
		}},
		{"receivers.notification.toolkit.fluxcd.io", `{kind: Receiver, metadata: {namespace: team}, spec: {type: generic-hmac, secretRef: {name: s}, resources: [{kind: GitRepository, name: r}]}}`, flux.Check, map[string]any{
			"resources[].apiVersion": "source.toolkit.fluxcd.io/v1",
		}},
	},
	"argo": {
		{"applications.argoproj.io", `{kind: Application, spec: {project: p, destination: {server: "https://kubernetes.default.svc"}, source: {repoURL: "https://git.example/r.git", path: "."}}}`, checkApplication, map[string]any{
			"destination.server":     argo.Server,
			"syncPolicy.syncOptions": []any{"CreateNamespace=true"},
			"source.helm.version":    "v3",
			// Paths want a form of their own.
			"ignoreDifferences[].jqPathExpressions": []any{".spec.replicas"},
		}},
		{"appprojects.argoproj.io", `{kind: AppProject, metadata: {name: p}, spec: {}}`, checkProject, nil},
	},
}

func checkApplication(u *unstructured.Unstructured) error {
	app, err := argo.Decode(u)
	if err != nil {
		return err
	}
	return argo.Validate(app, argo.Options{})
}

func checkProject(u *unstructured.Unstructured) error {
	project, err := argo.DecodeProject(u)
	if err != nil {
		return err
	}
	_, err = argo.Compile(project)
	return err
}

// The tables in docs/compatibility.md say what the controllers do: each field of
// each definition is set, and the dialect itself is asked.
func TestCompatibilityPage(t *testing.T) {
	crds, err := deploy.CRDs()
	if err != nil {
		t.Fatal(err)
	}
	written, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	text := string(written)
	for _, name := range slices.Sorted(maps.Keys(sections)) {
		var tables strings.Builder
		for _, k := range sections[name] {
			at := slices.IndexFunc(crds, func(c *unstructured.Unstructured) bool { return c.GetName() == k.crd })
			if at < 0 {
				t.Fatalf("there is no definition %s", k.crd)
			}
			tables.WriteString(k.table(t, crds[at]))
		}
		text = between(t, text, name, tables.String())
	}
	if updatePage {
		if err := os.WriteFile(page, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if text != string(written) {
		t.Errorf("%s does not say what the dialects do; run HOLDFAST_UPDATE=1 go test ./internal/dialect -run CompatibilityPage", page)
	}
}

// between replaces what stands between the markers of a section.
func between(t *testing.T, text, name, tables string) string {
	t.Helper()
	begin, end := "<!-- generated:"+name+" -->\n", "<!-- /generated:"+name+" -->"
	before, rest, ok := strings.Cut(text, begin)
	_, after, closed := strings.Cut(rest, end)
	if !ok || !closed {
		t.Fatalf("%s has no section %s", page, name)
	}
	return before + begin + tables + "\n" + end + after
}

// answer is what the dialect says to one field.
type answer struct{ path, says string }

const (
	supported = "supported"
	refused   = "refused"
)

// table renders the answers to every field of a kind.
func (k kind) table(t *testing.T, crd *unstructured.Unstructured) string {
	t.Helper()
	if err := k.ask(nil, nil); err != "" {
		t.Fatalf("the smallest object of %s is refused: %s", k.crd, err)
	}
	spec := specOf(t, crd)
	answers := k.walk(nil, spec)
	slices.SortStableFunc(answers, func(a, b answer) int { return cmp.Compare(a.path, b.path) })
	answers = slices.CompactFunc(answers, func(a, b answer) bool { return a.path == b.path })
	if !slices.ContainsFunc(answers, func(a answer) bool { return a.says == refused }) {
		t.Fatalf("%s: nothing is refused, so nothing is checked", k.crd)
	}
	name, _, _ := unstructured.NestedString(crd.Object, "spec", "names", "kind")
	var b strings.Builder
	fmt.Fprintf(&b, "\n### `%s`\n\n| field of `spec` | |\n|---|---|\n", name)
	for _, a := range answers {
		fmt.Fprintf(&b, "| `%s` | %s |\n", a.path, a.says)
	}
	return b.String()
}

// specOf returns the schema of the spec in the version that is stored.
func specOf(t *testing.T, crd *unstructured.Unstructured) map[string]any {
	t.Helper()
	versions, _, _ := unstructured.NestedSlice(crd.Object, "spec", "versions")
	for _, v := range versions {
		version, _ := v.(map[string]any)
		if version["storage"] != true {
			continue
		}
		if spec, ok, _ := unstructured.NestedMap(version, "schema", "openAPIV3Schema", "properties", "spec"); ok {
			return spec
		}
	}
	t.Fatalf("%s has no stored version with a spec", crd.GetName())
	return nil
}

// walk asks for every field at and below path. A field of which every part gets
// one answer is one line.
func (k kind) walk(path []string, schema map[string]any) []answer {
	properties, below := fieldsOf(schema)
	if len(properties) == 0 {
		return []answer{k.leaf(path, schema)}
	}
	path = append(slices.Clone(path), below...)
	var answers []answer
	for _, name := range slices.Sorted(maps.Keys(properties)) {
		property, _ := properties[name].(map[string]any)
		answers = append(answers, k.walk(append(slices.Clone(path), name), property)...)
	}
	if whole := strings.TrimSuffix(join(path), "[]"); whole != "" && !slices.ContainsFunc(answers, func(a answer) bool { return a.says != supported }) {
		return []answer{{whole, supported}}
	}
	return answers
}

// fieldsOf returns the named fields of an object, or of the objects in a list.
func fieldsOf(schema map[string]any) (properties map[string]any, below []string) {
	if items, ok := schema["items"].(map[string]any); ok {
		properties, _ = items["properties"].(map[string]any)
		return properties, []string{"[]"}
	}
	properties, _ = schema["properties"].(map[string]any)
	return properties, nil
}

// leaf asks for one field; for one with a choice of values, for each of them.
func (k kind) leaf(path []string, schema map[string]any) answer {
	choices, _ := schema["enum"].([]any)
	if value, known := k.values[join(path)]; known {
		if name := k.ask(path, value); name != "" {
			return answer{name, refused}
		}
		if name := k.ask(path, sample(schema)); name == "" {
			return answer{join(path), supported}
		}
		return answer{join(path), "supported; some values are refused"}
	}
	if len(choices) == 0 {
		if name := k.ask(path, sample(schema)); name != "" {
			return answer{name, refused}
		}
		return answer{join(path), supported}
	}
	var yes, no []string
	name := ""
	for _, choice := range choices {
		if by := k.ask(path, choice); by != "" {
			no, name = append(no, fmt.Sprintf("`%v`", choice)), by
			continue
		}
		yes = append(yes, fmt.Sprintf("`%v`", choice))
	}
	switch {
	case len(no) == 0:
		return answer{join(path), supported}
	case len(yes) == 0 || name != join(path): // the field itself, or one above it
		return answer{name, refused}
	}
	return answer{join(path), fmt.Sprintf("supported: %s; refused: %s", strings.Join(yes, ", "), strings.Join(no, ", "))}
}

// named finds the field that a refusal names.
var named = regexp.MustCompile(`spec\.([A-Za-z0-9.\[\]]+[A-Za-z0-9])`)

// ask sets one field of the smallest object and returns the name by which the
// dialect refuses it; empty if it is not refused as unsupported.
func (k kind) ask(path []string, value any) string {
	o := map[string]any{}
	if err := yaml.Unmarshal([]byte(k.base), &o); err != nil {
		return err.Error()
	}
	if len(path) > 0 {
		o["spec"] = put(o["spec"], path, value)
	}
	err := k.check(&unstructured.Unstructured{Object: o})
	var f *fault.Error
	if !errors.As(err, &f) || f.Kind != fault.Unsupported {
		return ""
	}
	found := named.FindStringSubmatch(f.Msg)
	if found == nil {
		return "unnamed: " + f.Msg
	}
	return strings.ReplaceAll(found[1], "[0]", "[]")
}

// put returns in with the value at path, in the first item of lists.
func put(in any, path []string, value any) any {
	if len(path) == 0 {
		return value
	}
	if path[0] == "[]" {
		list, _ := in.([]any)
		if len(list) == 0 {
			list = []any{nil}
		}
		list[0] = put(list[0], path[1:], value)
		return list
	}
	m, _ := in.(map[string]any)
	if m == nil {
		m = map[string]any{}
	}
	m[path[0]] = put(m[path[0]], path[1:], value)
	return m
}

func join(path []string) string {
	return strings.ReplaceAll(strings.Join(path, "."), ".[]", "[]")
}

// sample makes a value that says something, as a schema wants it.
func sample(schema map[string]any) any {
	pattern, _ := schema["pattern"].(string)
	switch schema["type"] {
	case "boolean":
		return true
	case "integer", "number":
		return int64(1)
	case "array":
		items, _ := schema["items"].(map[string]any)
		return []any{sample(items)}
	case "object":
		values, _ := schema["additionalProperties"].(map[string]any)
		if values == nil {
			return map[string]any{"key": "value"}
		}
		return map[string]any{"key": sample(values)}
	}
	switch {
	case strings.Contains(pattern, "ms|s|m"):
		return "1m"
	case schema["format"] == "date-time":
		return "2026-01-01T00:00:00Z"
	}
	return "value"
}
