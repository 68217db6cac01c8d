package cli

import (
	"context"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	kschema "k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/holdfastcd/holdfast/internal/check"
)

// askCluster reads what only the cluster knows and verdicts hang on, where it is asked
// for. A version that a flag names counts more than that of the cluster.
func (o *Check) askCluster(ctx context.Context) error {
	if !o.ByCluster {
		return nil
	}
	cfg, err := o.config()
	if err != nil {
		return err
	}
	if o.Kubernetes == "" {
		if o.Kubernetes, err = minorOf(cfg); err != nil {
			return err
		}
	}
	c, err := client.New(cfg, client.Options{})
	if err != nil {
		return classify(err, "connect to the cluster")
	}
	o.Cluster = &check.Cluster{}
	if o.Cluster.Definitions, err = definitionsOf(ctx, c); err != nil {
		return err
	}
	o.Cluster.Namespaces, err = namespaceLabels(ctx, c)
	return err
}

// minorOf is the minor version of a cluster, such as 1.36.
func minorOf(cfg *rest.Config) (string, error) {
	asks, err := discovery.NewDiscoveryClientForConfig(cfg)
	if err != nil {
		return "", classify(err, "connect to the cluster")
	}
	version, err := asks.ServerVersion()
	if err != nil {
		return "", classify(err, "ask the cluster for its version")
	}
	return version.Major + "." + strings.TrimRight(version.Minor, "+"), nil // a provider may add a plus
}

// definitionsOf are the CustomResourceDefinitions of a cluster, their names and specs.
func definitionsOf(ctx context.Context, c client.Client) ([]map[string]any, error) {
	list := &unstructured.UnstructuredList{}
	list.SetGroupVersionKind(kschema.GroupVersionKind{Group: "apiextensions.k8s.io", Version: "v1", Kind: "CustomResourceDefinitionList"})
	if err := c.List(ctx, list); err != nil {
		return nil, kubeFault(err, "list CustomResourceDefinitions")
	}
	all := make([]map[string]any, 0, len(list.Items))
	for _, u := range list.Items {
		all = append(all, map[string]any{
			"apiVersion": u.GetAPIVersion(), "kind": u.GetKind(), "metadata": map[string]any{"name": u.GetName()}, "spec": u.Object["spec"],
		})
	}
	return all, nil
}
