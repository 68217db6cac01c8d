package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/restmapper"
	"sigs.k8s.io/yaml"

	"github.com/holdfastcd/holdfast/test/harness"
)

var (
	kustomizations  = schema.GroupVersionResource{Group: "kustomize.toolkit.fluxcd.io", Version: "v1", Resource: "kustomizations"}
	gitRepositories = schema.GroupVersionResource{Group: "source.toolkit.fluxcd.io", Version: "v1", Resource: "gitrepositories"}
	receivers       = schema.GroupVersionResource{Group: "notification.toolkit.fluxcd.io", Version: "v1", Resource: "receivers"}
	applications    = schema.GroupVersionResource{Group: "argoproj.io", Version: "v1alpha1", Resource: "applications"}
)

// apply applies YAML documents as the administrator.
func (w *world) apply(t *testing.T, text string) {
	t.Helper()
	for doc := range strings.SplitSeq(text, "\n---\n") {
		o := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(doc), &o.Object); err != nil {
			t.Fatalf("%v in\n%s", err, doc)
		}
		body, err := json.Marshal(o)
		must(t, err)
		force := true
		_, err = w.resource(t, o).Patch(t.Context(), o.GetName(), types.ApplyPatchType, body, metav1.PatchOptions{FieldManager: "admin", Force: &force})
		if err != nil {
			t.Fatalf("%v in\n%s", err, doc)
		}
	}
}

func (w *world) resource(t *testing.T, o *unstructured.Unstructured) dynamic.ResourceInterface {
	t.Helper()
	groups, err := restmapper.GetAPIGroupResources(w.kube.Discovery())
	must(t, err)
	gvk := o.GroupVersionKind()
	mapping, err := restmapper.NewDiscoveryRESTMapper(groups).RESTMapping(gvk.GroupKind(), gvk.Version)
	must(t, err)
	if mapping.Scope.Name() == meta.RESTScopeNameRoot {
		return w.cluster.Dynamic().Resource(mapping.Resource)
	}
	return w.cluster.Dynamic().Resource(mapping.Resource).Namespace(o.GetNamespace())
}

// patch changes an object by hand, as a person with kubectl would.
func (w *world) patch(t *testing.T, resource schema.GroupVersionResource, namespace, name, mergePatch string) {
	t.Helper()
	_, err := w.cluster.Dynamic().Resource(resource).Namespace(namespace).
		Patch(t.Context(), name, types.MergePatchType, []byte(mergePatch), metav1.PatchOptions{FieldManager: "kubectl-edit"})
	must(t, err)
}

// field reads a nested field as text; a number in brackets indexes a list.
func field(o *unstructured.Unstructured, path string) string {
	if o == nil {
		return "<none>"
	}
	var at any = o.Object
	for step := range strings.SplitSeq(path, ".") {
		switch v := at.(type) {
		case map[string]any:
			at = v[strings.ReplaceAll(step, "~", ".")]
		case []any:
			var i int
			if _, err := fmt.Sscan(step, &i); err != nil || i >= len(v) {
				return "<none>"
			}
			at = v[i]
		}
	}
	if at == nil {
		return "<none>"
	}
	return fmt.Sprint(at)
}

// has is the condition that a field has a value.
func has(path, want string) harness.Condition {
	return func(o *unstructured.Unstructured) bool { return field(o, path) == want }
}

// condition finds a condition by type and returns "status reason: message".
func condition(o *unstructured.Unstructured, kind string) string {
	if o == nil {
		return "<none>"
	}
	list, _, _ := unstructured.NestedSlice(o.Object, "status", "conditions")
	for _, item := range list {
		c, ok := item.(map[string]any)
		if ok && c["type"] == kind {
			return fmt.Sprintf("%v %v: %v", c["status"], c["reason"], c["message"])
		}
	}
	return "<none>"
}

// says is the condition that a condition's text contains all parts.
func says(kind string, parts ...string) harness.Condition {
	return func(o *unstructured.Unstructured) bool {
		text := condition(o, kind)
		for _, p := range parts {
			if !strings.Contains(text, p) {
				return false
			}
		}
		return true
	}
}

// appliedAt is the condition that a Kustomization is Ready at a commit.
func appliedAt(commit string) harness.Condition {
	return func(o *unstructured.Unstructured) bool {
		return strings.HasSuffix(field(o, "status.lastAppliedRevision"), commit) && strings.HasPrefix(condition(o, "Ready"), "True")
	}
}

// syncedAt is the condition that an Application is Synced at a commit.
func syncedAt(commit string) harness.Condition {
	return func(o *unstructured.Unstructured) bool {
		return field(o, "status.sync.status") == "Synced" && field(o, "status.sync.revision") == commit
	}
}

// gitRepository makes a GitRepository "app".
func (w *world) gitRepository(t *testing.T, namespace, url string, extra ...string) {
	t.Helper()
	w.apply(t, fmt.Sprintf(`
apiVersion: source.toolkit.fluxcd.io/v1
kind: GitRepository
metadata: {name: app, namespace: %[1]s}
spec:
  url: %[2]s
  interval: 10m
  ref: {branch: main}
%[3]s`, namespace, url, strings.Join(extra, "\n")))
}

// kustomization makes a Kustomization of the GitRepository "app", with extra
// lines in its spec.
func (w *world) kustomization(t *testing.T, namespace, name, path string, extra ...string) {
	t.Helper()
	w.apply(t, fmt.Sprintf(`
apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: %[2]s, namespace: %[1]s}
spec:
  interval: 10m
  path: %[3]s
  prune: true
  serviceAccountName: deployer
  sourceRef: {kind: GitRepository, name: app}
%[4]s`, namespace, name, path, strings.Join(extra, "\n")))
}

// flux makes a GitRepository and a Kustomization "app" over a repository, with
// extra lines in the Kustomization's spec; its objects live in its own namespace.
func (w *world) flux(t *testing.T, namespace, url, path string, extra ...string) {
	t.Helper()
	w.gitRepository(t, namespace, url)
	w.kustomization(t, namespace, "app", path, append(extra, "  targetNamespace: "+namespace)...)
}

func configMap(name, value string) string {
	return fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: %s\ndata:\n  value: %q\n", name, value)
}

func deployment(name string, replicas int) string {
	return fmt.Sprintf(`apiVersion: apps/v1
kind: Deployment
metadata:
  name: %[1]s
spec:
  replicas: %[2]d
  selector:
    matchLabels: {app: %[1]s}
  template:
    metadata:
      labels: {app: %[1]s}
    spec:
      containers:
        - name: main
          image: registry.example/%[1]s:v1
`, name, replicas)
}
