package argo

import (
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	api "github.com/holdfastcd/holdfast/api/argo/v1alpha1"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/source"
	"github.com/holdfastcd/holdfast/internal/tree/treetest"
)

const (
	commitA = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	commitB = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
)

var (
	noon    = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	options = Options{Namespace: "argocd"}
)

// web is an Application with nothing unusual about it.
const web = `
apiVersion: argoproj.io/v1alpha1
kind: Application
metadata: {name: web, namespace: argocd}
spec:
  project: shop
  source: {repoURL: https://git.example.com/shop/deploy.git, path: apps/web, targetRevision: main}
  destination: {server: https://kubernetes.default.svc, namespace: shop}
  syncPolicy: {automated: {prune: true, selfHeal: true}}
`

// shop is its project.
const shop = `
apiVersion: argoproj.io/v1alpha1
kind: AppProject
metadata: {name: shop, namespace: argocd}
spec:
  sourceRepos: [https://git.example.com/shop/*]
  destinations: [{server: https://kubernetes.default.svc, namespace: "shop*"}]
  destinationServiceAccounts:
  - {server: https://kubernetes.default.svc, namespace: shop, defaultServiceAccount: deployer}
`

func parse(t testing.TB, text string) *unstructured.Unstructured {
	t.Helper()
	var m map[string]any
	if err := yaml.Unmarshal([]byte(text), &m); err != nil {
		t.Fatal(err)
	}
	b, err := (&unstructured.Unstructured{Object: m}).MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	u := &unstructured.Unstructured{}
	if err := u.UnmarshalJSON(b); err != nil {
		t.Fatal(err)
	}
	return u
}

func application(t testing.TB, change ...func(*api.Application)) *api.Application {
	t.Helper()
	app, err := Decode(parse(t, web))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range change {
		c(app)
	}
	return app
}

// project compiles a project of which the spec is replaced, if one is given.
func project(t testing.TB, spec string) *Project {
	t.Helper()
	text := shop
	if spec != "" {
		text = "apiVersion: argoproj.io/v1alpha1\nkind: AppProject\nmetadata: {name: shop, namespace: argocd}\nspec:\n" + spec
	}
	p, err := DecodeProject(parse(t, text))
	if err != nil {
		t.Fatal(err)
	}
	c, err := Compile(p)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func revision(commit string, files ...string) source.Revision {
	m := map[string][]byte{"apps/web/deploy.yaml": []byte("{}")}
	for _, f := range files {
		m[f] = []byte("{}")
	}
	return source.Revision{Commit: commit, Branch: "main", Tree: treetest.FromFiles(m)}
}

// text is an error as a person reads it; empty for none. Every error of this
// package must be classified.
func text(t testing.TB, err error) string {
	t.Helper()
	if err == nil {
		return ""
	}
	if fault.KindOf(err) == fault.Internal {
		t.Errorf("nobody classified the error %v", err)
	}
	return fault.KindOf(err).String() + ": " + err.Error()
}
