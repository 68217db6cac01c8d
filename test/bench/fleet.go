package main

import (
	"fmt"
	"strings"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	argov1 "github.com/holdfastcd/holdfast/api/argo/v1alpha1"

	"github.com/holdfastcd/holdfast/test/gitserver"
)

// fleet is what is benchmarked: apps applications of objects each, all
// in one repository, each in a namespace of its own.
type fleet struct {
	apps, objects int
	version       map[int]int // of each application; it is in every object
}

func newFleet(apps, objects int) *fleet {
	return &fleet{apps: apps, objects: objects, version: map[int]int{}}
}

func appName(i int) string { return fmt.Sprintf("app-%04d", i) }

// files are the manifests of one application in the namespace given.
func (f *fleet) files(i int, namespace string) map[string]string {
	out := map[string]string{}
	for n := range f.objects {
		name, text := f.object(i, n, namespace)
		out[name] = text
	}
	return out
}

// object is the nth object of an application: a ServiceAccount, a Service and a
// Deployment without replicas (pods are the cluster's work, not the deliverer's),
// then ConfigMaps.
func (f *fleet) object(i, n int, namespace string) (file, text string) {
	app, version := appName(i), f.version[i]
	head := func(api, kind, name string) string {
		return fmt.Sprintf("apiVersion: %s\nkind: %s\nmetadata:\n  name: %s\n  namespace: %s\n  labels:\n    app: %s\n    version: v%d\n", api, kind, name, namespace, app, version)
	}
	switch n {
	case 0:
		return "configmap.yaml", head("v1", "ConfigMap", app) + fmt.Sprintf("data:\n  version: \"%d\"\n", version)
	case 1:
		return "service.yaml", head("v1", "Service", app) + "spec:\n  selector:\n    app: " + app + "\n  ports:\n    - name: http\n      port: 80\n"
	case 2:
		return "deployment.yaml", head("apps/v1", "Deployment", app) + fmt.Sprintf(`spec:
  replicas: 0
  selector:
    matchLabels:
      app: %s
  template:
    metadata:
      labels:
        app: %s
    spec:
      containers:
        - name: main
          image: registry.example/%s:v%d
          ports:
            - containerPort: 8080
          resources:
            limits:
              cpu: 100m
              memory: 64Mi
`, app, app, app, version)
	case 3:
		return "serviceaccount.yaml", head("v1", "ServiceAccount", app)
	default:
		return fmt.Sprintf("settings-%02d.yaml", n), head("v1", "ConfigMap", fmt.Sprintf("%s-settings-%02d", app, n)) +
			fmt.Sprintf("data:\n  version: \"%d\"\n  settings: |\n%s", version, strings.Repeat("    key = value\n", 20))
	}
}

// changes are the files of some applications, as a commit.
func (f *fleet) changes(apps ...int) []gitserver.Change {
	var all []gitserver.Change
	for _, i := range apps {
		for name, text := range f.files(i, appName(i)) {
			all = append(all, gitserver.Put("apps/"+appName(i)+"/"+name, text))
		}
	}
	return all
}

func (f *fleet) all() []int {
	apps := make([]int, f.apps)
	for i := range apps {
		apps[i] = i
	}
	return apps
}

const (
	fluxNamespace = "flux-system"
	argoNamespace = "argocd"
	account       = "deployer"
)

func (f *fleet) gitRepository(url string) *sourcev1.GitRepository {
	r := &sourcev1.GitRepository{}
	r.Name, r.Namespace = "fleet", fluxNamespace
	r.Spec.URL = url
	r.Spec.Interval = metav1.Duration{Duration: 10 * 60e9}
	r.Spec.Reference = &sourcev1.GitRepositoryRef{Branch: "main"}
	return r
}

func (f *fleet) kustomization(i int) *kustomizev1.Kustomization {
	k := &kustomizev1.Kustomization{}
	k.Name, k.Namespace = appName(i), fluxNamespace
	k.Spec.Interval = metav1.Duration{Duration: 10 * 60e9}
	k.Spec.Path = "./apps/" + appName(i)
	k.Spec.Prune = true
	k.Spec.ServiceAccountName = account
	k.Spec.SourceRef = kustomizev1.CrossNamespaceSourceReference{Kind: "GitRepository", Name: "fleet"}
	return k
}

func (f *fleet) application(i int, url string) *argov1.Application {
	on := true
	a := &argov1.Application{}
	a.Name, a.Namespace = appName(i), argoNamespace
	a.Spec.Project = "fleet"
	a.Spec.Source = &argov1.ApplicationSource{RepoURL: url, Path: "apps/" + appName(i), TargetRevision: "main"}
	a.Spec.Destination = argov1.ApplicationDestination{Server: "https://kubernetes.default.svc", Namespace: appName(i)}
	a.Spec.SyncPolicy = &argov1.SyncPolicy{Automated: &argov1.SyncPolicyAutomated{Prune: &on, SelfHeal: &on}}
	return a
}

func (f *fleet) project() *argov1.AppProject {
	p := &argov1.AppProject{}
	p.Name, p.Namespace = "fleet", argoNamespace
	p.Spec.SourceRepos = []string{"*"}
	p.Spec.Destinations = []argov1.ProjectDestination{{Server: "https://kubernetes.default.svc", Namespace: "app-*"}}
	p.Spec.DestinationServiceAccounts = []argov1.DestinationServiceAccount{{
		Server: "https://kubernetes.default.svc", Namespace: "*", DefaultServiceAccount: argoNamespace + ":" + account,
	}}
	return p
}
