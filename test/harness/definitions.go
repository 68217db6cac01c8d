package harness

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/yaml"
)

// Definitions are custom resource definitions that a Go module carries: those of a real operator, without its code.
type Definitions struct {
	Module, Version string
	Sum             string // of the module, as go.sum has it: what the proxy gives is what was looked at
	Files           []string
	// AlsoServed are versions that are served although the module's definitions do not serve them any more.
	AlsoServed []string
}

// The definitions of operators that deliveries have to do with.
var (
	ExternalSecrets = Definitions{
		Module: "github.com/external-secrets/external-secrets", Version: "v1.3.2", Sum: "h1:u2J8RjlHIeF0oZCqtl92adI/uZWUwOesJIDkfql6LqQ=",
		Files: []string{
			"config/crds/bases/external-secrets.io_externalsecrets.yaml", "config/crds/bases/external-secrets.io_secretstores.yaml",
			"config/crds/bases/external-secrets.io_pushsecrets.yaml", "config/crds/bases/external-secrets.io_clusterexternalsecrets.yaml",
			"config/crds/bases/generators.external-secrets.io_passwords.yaml",
		},
		AlsoServed: []string{"v1beta1"},
	}
	SealedSecrets = Definitions{
		Module: "github.com/bitnami/sealed-secrets", Version: "v0.38.4",
		Files: []string{"helm/sealed-secrets/crds/bitnami.com_sealedsecrets.yaml"},
	}
)

var customResourceDefinitions = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}

// Define makes definitions that the cluster does not have yet, and waits until it serves them. They stay until the cluster ends:
// tests that share it share them.
func (c *Cluster) Define(tb testing.TB, definitions Definitions) {
	tb.Helper()
	dir := definitions.fetch(tb)
	var names []string
	for _, file := range definitions.Files {
		for _, crd := range read(tb, filepath.Join(dir, filepath.FromSlash(file))) {
			definitions.serve(crd)
			_, err := c.dynamic.Resource(customResourceDefinitions).Create(tb.Context(), crd, metav1.CreateOptions{})
			if err != nil && !apierrors.IsAlreadyExists(err) {
				tb.Fatalf("define %s: %v", crd.GetName(), err)
			}
			names = append(names, crd.GetName())
		}
	}
	for _, name := range names {
		c.Await(tb, customResourceDefinitions, "", name, "to be served", established)
	}
}

// fetch returns the directory of the module. The go command gets it from the module cache or the proxy, and checks it.
func (d Definitions) fetch(tb testing.TB) string {
	tb.Helper()
	command := exec.CommandContext(tb.Context(), "go", "mod", "download", "-json", d.Module+"@"+d.Version)
	command.Dir = tb.TempDir() // outside of any module: nothing of this one may change
	command.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=-mod=mod")
	output, err := command.Output()
	var got struct {
		Dir   string `json:"Dir"`
		Sum   string `json:"Sum"`
		Error string `json:"Error"`
	}
	if parsed := json.Unmarshal(output, &got); err != nil || parsed != nil || got.Dir == "" {
		tb.Fatalf("get the module %s: %v %v %s", d.Module, err, parsed, got.Error)
	}
	if d.Sum != "" && got.Sum != d.Sum {
		tb.Fatalf("the module %s@%s has the sum %s, not %s", d.Module, d.Version, got.Sum, d.Sum)
	}
	return got.Dir
}

// read reads the definitions in a file of YAML documents.
func read(tb testing.TB, file string) []*unstructured.Unstructured {
	tb.Helper()
	f, err := os.Open(file)
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	var all []*unstructured.Unstructured
	for decoder := yaml.NewYAMLOrJSONDecoder(f, 4096); ; {
		crd := &unstructured.Unstructured{}
		switch err := decoder.Decode(&crd.Object); {
		case errors.Is(err, io.EOF):
			return all
		case err != nil:
			tb.Fatal(fmt.Errorf("read %s: %w", file, err))
		case len(crd.Object) > 0:
			all = append(all, crd)
		}
	}
}

// serve has a definition serve what d says besides.
func (d Definitions) serve(crd *unstructured.Unstructured) {
	versions, _, _ := unstructured.NestedSlice(crd.Object, "spec", "versions") // a definition has them
	for _, v := range versions {
		version, _ := v.(map[string]any)
		for _, name := range d.AlsoServed {
			if version["name"] == name {
				version["served"] = true
			}
		}
	}
	_ = unstructured.SetNestedSlice(crd.Object, versions, "spec", "versions")
}

// established is the condition that a definition is served.
func established(crd *unstructured.Unstructured) bool {
	if crd == nil {
		return false
	}
	conditions, _, _ := unstructured.NestedSlice(crd.Object, "status", "conditions")
	for _, c := range conditions {
		if condition, _ := c.(map[string]any); condition["type"] == "Established" && condition["status"] == "True" {
			return true
		}
	}
	return false
}
