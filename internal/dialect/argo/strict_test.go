package argo

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/holdfastcd/holdfast/internal/fault"
)

func TestValidate(t *testing.T) {
	tests := []struct {
		reason string
		change string // laid over the Application, as YAML
		want   string // part of the error; empty: none
	}{
		{"the usual is fine", ``, ""},
		{"automated off keeps its settings", `spec: {syncPolicy: {automated: {enabled: false}}}`, ""},
		{"a block that says nothing is absent", `spec: {source: {helm: {}, plugin: {}, kustomize: {images: []}}, ignoreDifferences: []}`, ""},
		{"for people only", `spec: {info: [{name: url, value: "https://x"}], revisionHistoryLimit: 0}`, ""},
		{"kustomize", `spec: {source: {kustomize: {namePrefix: a-, nameSuffix: -z, namespace: other, images: ["a=b:1"]}}}`, ""},
		{"directory", `spec: {source: {directory: {recurse: true, include: "*.yaml", exclude: "x*"}}}`, ""},
		{"options that are what happens anyway", `spec: {syncPolicy: {syncOptions: [ServerSideApply=true, CreateNamespace=true, PruneLast=true, ApplyOutOfSyncOnly=true, PrunePropagationPolicy=background]}}`, ""},
		{"helm", `spec: {source: {helm: {version: v3, releaseName: r, valueFiles: [a.yaml, /b/*.yaml, "$ARGOCD_APP_NAME.yaml"], values: "a: 1", valuesObject: {a: 1}, parameters: [{name: a, value: b}], skipTests: true}}}`, ""},
		{"retry", `spec: {syncPolicy: {retry: {limit: -1, refresh: true, backoff: {duration: "10", factor: 3, maxDuration: 10m}}}}`, ""},
		{"a namespace with labels", `spec: {syncPolicy: {syncOptions: [CreateNamespace=true], managedNamespaceMetadata: {labels: {a: b}}}}`, ""},
		{"differences", `spec: {ignoreDifferences: [{group: apps, kind: Deployment, jsonPointers: [/spec/replicas], jqPathExpressions: [".spec.template.spec.containers[].image"], managedFieldsManagers: [hpa]}]}`, ""},
		{"client-side apply", `spec: {syncPolicy: {syncOptions: [ServerSideApply=false, Validate=false]}}`, ""},
		{"replaced by force", `spec: {syncPolicy: {syncOptions: [Replace=true, Force=true]}}`, ""},
		{"a range of versions", `spec: {source: {targetRevision: ">=1.2 <2"}}`, ""},
		{"a tag by ref", `spec: {source: {targetRevision: refs/tags/v1}}`, ""},
		{"ssh", `spec: {source: {repoURL: "git@github.com:a/b.git"}}`, ""},
		{"head", `spec: {source: {targetRevision: HEAD}}`, ""},
		{"a commit", `spec: {source: {targetRevision: "` + commitA + `"}}`, ""},
		{"a branch with slashes", `spec: {source: {targetRevision: refs/heads/release/1.x-lts}}`, ""},
		{"cluster by name", `spec: {destination: {server: "", name: in-cluster}}`, ""},
		{"server-side differences", `metadata: {annotations: {argocd.argoproj.io/compare-options: ServerSideDiff=true}}`, ""},
		{"annotations of others", `metadata: {annotations: {notifications.argoproj.io/subscribe.on-deployed.slack: x, argocd.argoproj.io/manifest-generate-paths: .}}`, ""},

		{"extension filter", `spec: {source: {directory: {disableExtensionFilter: true}}}`, "spec.source.directory.disableExtensionFilter is"},
		{"several by name, in order", `spec: {source: {plugin: {name: x}, chart: x, tagPrefix: v}}`, "Unsupported: spec.source.chart, spec.source.plugin, spec.source.tagPrefix are not supported yet"},
		{"part of a block", `spec: {source: {kustomize: {namePrefix: a-, version: v5}}}`, "spec.source.kustomize.version is"},
		{"credentials for whoever has the chart", `spec: {source: {helm: {passCredentials: true}}}`, "spec.source.helm.passCredentials is"},
		{"an old Helm", `spec: {source: {helm: {version: v2}}}`, `spec.source.helm.version: "v2" is`},
		{"values of another source", `spec: {source: {helm: {valueFiles: [$values/a.yaml]}}}`, "files of other sources"},
		{"values from a server", `spec: {source: {helm: {valueFiles: ["https://x/a.yaml"]}}}`, "files from other servers"},
		{"a distance that is none", `spec: {syncPolicy: {retry: {limit: 1, backoff: {duration: soon}}}}`, `Invalid: spec.syncPolicy.retry: backoff: "soon" is`},
		{"a distance that shrinks", `spec: {syncPolicy: {retry: {limit: 1, backoff: {factor: 0}}}}`, "backoff.factor is less than 1"},
		{"a path of jq that runs", `spec: {ignoreDifferences: [{kind: A, jqPathExpressions: ["def f: f; f"]}]}`, "spec.ignoreDifferences: "},
		{"a pointer that is none", `spec: {ignoreDifferences: [{kind: A, jsonPointers: ["spec/replicas"]}]}`, "spec.ignoreDifferences: "},
		{"two tools", `spec: {source: {directory: {recurse: true}, kustomize: {namePrefix: a-}}}`, "Invalid: spec.source sets directory and kustomize"},
		{"an argument for a command", `spec: {source: {targetRevision: "--upload-pack=x"}}`, "Invalid: spec.source.targetRevision"},
		{"plugin", `spec: {source: {plugin: {name: x}}}`, "spec.source.plugin is"},
		{"several sources", `spec: {sources: [{repoURL: "https://x/y", path: a}]}`, "spec.sources is"},
		{"ref", `spec: {source: {ref: values}}`, "spec.source.ref is"},
		{"hydrator", `spec: {sourceHydrator: {drySource: {repoURL: a, targetRevision: b, path: c}}}`, "spec.sourceHydrator is"},
		{"an option", `spec: {syncPolicy: {syncOptions: [Replace=true]}}`, "spec.syncPolicy.syncOptions: Replace=true is"},
		{"an option nobody knows", `spec: {syncPolicy: {syncOptions: [Magic=true]}}`, "syncOptions: Magic=true is"},
		{"a field nobody knows", `spec: {source: {magic: 1}}`, "spec.source.magic is"},
		{"deletion hooks", `metadata: {finalizers: [post-delete-finalizer.argocd.argoproj.io/cleanup]}`, "finalizer post-delete-finalizer.argocd.argoproj.io/cleanup is"},
		{"client-side differences", `metadata: {annotations: {argocd.argoproj.io/compare-options: "ServerSideDiff=false"}}`, "compare-options: ServerSideDiff=false is"},
		{"another namespace", `metadata: {namespace: elsewhere}`, "Applications outside of namespace argocd"},

		{"another cluster", `spec: {destination: {server: "https://other:6443"}}`, "spec.destination.server: clusters other than"},
		{"another cluster by name", `spec: {destination: {server: "", name: prod}}`, "spec.destination.name: clusters other than"},
		{"two clusters", `spec: {destination: {name: in-cluster}}`, "sets both server and name"},
		{"no cluster", `spec: {destination: {server: ""}}`, "names no cluster"},
		{"no path", `spec: {source: {path: ""}}`, "Invalid: spec.source.path is missing"},
		{"a path that leaves", `spec: {source: {path: a/../../b}}`, "leaves the repository"},
		{"an absolute path", `spec: {source: {path: /etc}}`, "leaves the repository"},
		{"a file", `spec: {source: {repoURL: "file:///etc"}}`, "Refused: spec.source.repoURL: file URLs"},
		{"oci", `spec: {source: {repoURL: "oci://ghcr.io/a/b"}}`, "Unsupported: spec.source.repoURL"},
		{"a password", `spec: {source: {repoURL: "https://u:hunter2@x/y"}}`, "Refused: spec.source.repoURL"},
	}
	for _, tc := range tests {
		t.Run(tc.reason, func(t *testing.T) {
			u := parse(t, web)
			lay(t, u, tc.change)
			app, err := Decode(u)
			if err == nil {
				err = Validate(app, options)
			}
			got := text(t, err)
			if tc.want == "" && got != "" || !strings.Contains(got, tc.want) {
				t.Errorf("got %q, want %q", got, tc.want)
			}
			if strings.Contains(got, "hunter2") {
				t.Error("the error tells a password")
			}
		})
	}
}

// lay merges YAML over an object.
func lay(t *testing.T, u *unstructured.Unstructured, change string) {
	t.Helper()
	var m map[string]any
	if err := yaml.Unmarshal([]byte(change), &m); err != nil {
		t.Fatal(err)
	}
	var merge func(into, from map[string]any)
	merge = func(into, from map[string]any) {
		for k, v := range from {
			child, ok := v.(map[string]any)
			under, also := into[k].(map[string]any)
			if ok && also {
				merge(under, child)
				continue
			}
			into[k] = v
		}
	}
	merge(u.Object, m)
	*u = *parse(t, marshal(t, u.Object))
}

func marshal(t *testing.T, v any) string {
	t.Helper()
	b, err := yaml.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestDecodeWhatDoesNotFit(t *testing.T) {
	u := parse(t, web)
	if err := unstructured.SetNestedField(u.Object, "yes", "spec", "syncPolicy", "automated", "prune"); err != nil {
		t.Fatal(err)
	}
	u.Object["status"] = map[string]any{"resources": []any{map[string]any{"kind": "ConfigMap", "name": "a"}}}
	app, err := Decode(u)
	if fault.KindOf(err) != fault.Invalid {
		t.Errorf("got error %v, want an Invalid one", err)
	}
	if app.Name != "web" || len(app.Status.Resources) != 1 {
		t.Errorf("metadata or inventory were lost: %+v", app)
	}
}
