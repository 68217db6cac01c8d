// Command schemas makes the file of schemas that internal/schema/openapi embeds, out of what the releases of Kubernetes say of
// themselves: the OpenAPI documents in the module k8s.io/kubernetes, and the marks in the source of k8s.io/api.
//
//	schemas OUTPUT DEFAULTS VERSION...        such as: schemas openapi.txt.gz table.txt v1.36.3 v1.37.2
//
// The modules are downloaded by the go command. DEFAULTS is the table of internal/schema/defaults: what has a default there is
// not required, whatever the documents say. The head of the output explains its format.
package main

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "schemas:", err)
		os.Exit(1)
	}
}

// run makes the file that the first argument names from the releases that the others name, oldest first.
func run(args []string) error {
	if len(args) < 3 || len(args) > 10 {
		return fmt.Errorf("name the output, the table of defaults, and one to eight versions such as v1.37.2, oldest first")
	}
	filled, err := readDefaults(args[1])
	if err != nil {
		return err
	}
	t := &table{filled: filled, definitions: map[string][]variant{}, kinds: map[string]variant{}}
	var last *source
	for i, version := range args[2:] {
		release, err := newRelease(version)
		if err != nil {
			return err
		}
		t.minors = append(t.minors, release.minor)
		if err := t.add(release, 1<<i); err != nil {
			return fmt.Errorf("%s: %w", version, err)
		}
		last = release.source
	}
	var packed bytes.Buffer
	zip, err := gzip.NewWriterLevel(&packed, gzip.BestCompression)
	if err != nil {
		return err
	}
	if _, err := zip.Write(t.text(last.gone)); err != nil {
		return err
	}
	if err := zip.Close(); err != nil {
		return err
	}
	return os.WriteFile(args[0], packed.Bytes(), 0o644) //nolint:gosec // part of the repository
}

// readDefaults reads which fields get a value where they are absent. Zeros and empty objects are none: they stand for what is
// missing.
func readDefaults(file string) (map[string]bool, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	filled := map[string]bool{}
	current := ""
	for line := range strings.Lines(string(data)) {
		words := strings.Fields(line)
		switch {
		case len(words) == 0:
		case line[0] != ' ':
			current = words[0]
		case strings.Contains(line, " ? ") || strings.Contains(line, " = ") && !slices.Contains([]string{"0", "false", "{}"}, words[len(words)-1]):
			filled[current+" "+strings.TrimRight(words[0], "~[]{}")] = true
		}
	}
	return filled, nil
}

// release is one release of Kubernetes.
type release struct {
	minor  string // such as "1.37"
	dir    string // of its OpenAPI documents
	source *source
}

func newRelease(version string) (*release, error) {
	parts := strings.Split(strings.TrimPrefix(version, "v"), ".")
	if len(parts) != 3 || parts[0] != "1" {
		return nil, fmt.Errorf("%q is no version of Kubernetes such as v1.37.2", version)
	}
	dir, err := download("k8s.io/kubernetes", version)
	if err != nil {
		return nil, err
	}
	r := &release{minor: "1." + parts[1], dir: filepath.Join(dir, "api/openapi-spec/v3"), source: newSource()}
	for module, below := range map[string]string{"k8s.io/api": "", "k8s.io/apiextensions-apiserver": "pkg/apis", "k8s.io/kube-aggregator": "pkg/apis"} {
		dir, err := download(module, "v0."+parts[1]+"."+parts[2])
		if err != nil {
			return nil, err
		}
		if err := r.source.read(filepath.Join(dir, below), module); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// download has the go command fetch a module and returns where it is.
func download(module, version string) (string, error) {
	command := exec.Command("go", "mod", "download", "-json", module+"@"+version)
	command.Dir = os.TempDir() // outside of any module, whose choice of versions is not asked
	out, err := command.Output()
	var result struct{ Dir, Error string }
	if decodeErr := json.Unmarshal(out, &result); err != nil || decodeErr != nil || result.Dir == "" {
		return "", fmt.Errorf("download %s@%s: %w %s", module, version, err, result.Error)
	}
	return result.Dir, nil
}

// gvk is a kind as the documents write it.
type gvk struct{ Group, Version, Kind string }

func (k gvk) apiVersion() string { return strings.TrimPrefix(k.Group+"/"+k.Version, "/") }

// schema is the part of an OpenAPI schema that Kubernetes uses for its own kinds.
type schema struct {
	Ref        string             `json:"$ref"`
	Type       string             `json:"type"`
	Format     string             `json:"format"`
	AllOf      []*schema          `json:"allOf"`
	OneOf      []*schema          `json:"oneOf"`
	Items      *schema            `json:"items"`
	Values     *schema            `json:"additionalProperties"`
	Properties map[string]*schema `json:"properties"`
	Required   []string           `json:"required"`
	Kinds      []gvk              `json:"x-kubernetes-group-version-kind"`
}

// document is one OpenAPI document: of one group and version.
type document struct {
	Paths map[string]struct {
		Post struct {
			Kind gvk `json:"x-kubernetes-group-version-kind"`
		} `json:"post"`
	} `json:"paths"`
	Components struct {
		Schemas map[string]*schema `json:"schemas"`
	} `json:"components"`
}

// variant is a text and the releases in which it holds, a bit each.
type variant struct {
	body     string
	releases int
}

// table is all that goes into the file.
type table struct {
	filled      map[string]bool // fields with a default, as "core/v1.Secret type"
	minors      []string
	definitions map[string][]variant // by name
	kinds       map[string]variant   // by "apiVersion Kind"; the body is the definition's name
}

// add enters a release.
func (t *table) add(r *release, bit int) error {
	files, err := filepath.Glob(filepath.Join(r.dir, "*_openapi.json"))
	if err != nil {
		return err
	}
	schemas, served := map[string]*schema{}, map[gvk]bool{}
	for _, file := range files {
		var d document
		data, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		if err := json.Unmarshal(data, &d); err != nil {
			return fmt.Errorf("read %s: %w", file, err)
		}
		maps.Copy(schemas, d.Components.Schemas)
		for path, operations := range d.Paths {
			if operations.Post.Kind.Kind != "" && !isSubresource(path) {
				served[operations.Post.Kind] = true
			}
		}
	}
	if len(served) < 50 {
		return fmt.Errorf("only %d kinds: the documents are read wrongly", len(served))
	}
	w := &writer{schemas: schemas, enums: r.source, filled: t.filled, done: map[string]string{}}
	for _, name := range slices.Sorted(maps.Keys(schemas)) {
		for _, k := range schemas[name].Kinds {
			if served[k] && len(schemas[name].Properties) > 0 && schemas[name].Properties["metadata"] != nil {
				key := k.apiVersion() + " " + k.Kind
				t.kinds[key] = variant{name, t.kinds[key].releases | bit}
				w.define(name)
			}
		}
	}
	for name, body := range w.done {
		t.enter(name, body, bit)
	}
	return nil
}

// isSubresource says whether a path leads to a part of an object, such as its scale.
func isSubresource(path string) bool { return strings.Contains(path, "{name}/") }

// enter notes a definition; one that another release has too is there once.
func (t *table) enter(name, body string, bit int) {
	for i, v := range t.definitions[name] {
		if v.body == body {
			t.definitions[name][i].releases |= bit
			return
		}
	}
	t.definitions[name] = append(t.definitions[name], variant{body, bit})
}

const header = `# Schemas of the kinds of Kubernetes. Made by "make schemas"; do not edit.
#
#   minors MINOR...                    the releases; a release is the bit of its place in a mask
#   gone MINOR VERSION KIND [VERSION]  not served since that release; what to use instead
#   kind MASK VERSION KIND TYPE        served by these releases, and described there
#   type MASK TYPE                     a type in these releases; its fields follow
#    FIELD[!] FORM[=A|B]               ! is required; with the values that are allowed
#
# A form is s(tring), i(nteger of 32 bits), l(ong integer), b(oolean), n(umber), x (bytes in base64), t(ime), u (integer or
# string), q(uantity), * (anything), [ and the form of a list's items, { and that of a map's values, or @ and a type.
`

// text writes the file.
func (t *table) text(gone map[string]removal) []byte {
	var b bytes.Buffer
	b.WriteString(header)
	fmt.Fprintf(&b, "minors %s\n", strings.Join(t.minors, " "))
	for _, key := range slices.Sorted(maps.Keys(gone)) {
		if r := gone[key]; r.minor != 0 {
			fmt.Fprintf(&b, "%s\n", strings.TrimSpace(fmt.Sprintf("gone 1.%d %s %s", r.minor, key, r.instead)))
		}
	}
	for _, key := range slices.Sorted(maps.Keys(t.kinds)) {
		fmt.Fprintf(&b, "kind %x %s %s\n", t.kinds[key].releases, key, t.kinds[key].body)
	}
	for _, name := range slices.Sorted(maps.Keys(t.definitions)) {
		for _, v := range t.definitions[name] {
			fmt.Fprintf(&b, "type %x %s\n%s", v.releases, name, v.body)
		}
	}
	return b.Bytes()
}
