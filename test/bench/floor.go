package main

import (
	"context"

	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"
)

// inFlight is how many requests the floor keeps on their way.
const inFlight = 16

var resources = map[string]schema.GroupVersionResource{
	"ConfigMap":      {Version: "v1", Resource: "configmaps"},
	"Service":        {Version: "v1", Resource: "services"},
	"ServiceAccount": {Version: "v1", Resource: "serviceaccounts"},
	"Deployment":     {Group: "apps", Version: "v1", Resource: "deployments"},
}

// write is one prepared request.
type write struct {
	resource        schema.GroupVersionResource
	namespace, name string
	body            []byte
}

// writes prepares the applies of the whole fleet into namespaces with a prefix.
func (f *fleet) writes(prefix string) ([]write, error) {
	var all []write
	for i := range f.apps {
		namespace := prefix + appName(i)
		for _, text := range f.files(i, namespace) {
			body, err := yaml.YAMLToJSON([]byte(text))
			if err != nil {
				return nil, err
			}
			var head metav1.PartialObjectMetadata
			if err := yaml.Unmarshal([]byte(text), &head); err != nil {
				return nil, err
			}
			all = append(all, write{resources[head.Kind], namespace, head.Name, body})
		}
	}
	return all, nil
}

// floor sends the writes and does nothing else: what no deliverer can beat.
func floor(ctx context.Context, config *rest.Config, all []write) error {
	config = rest.CopyConfig(config)
	config.UserAgent = "floor"
	c, err := metadata.NewForConfig(config)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(inFlight)
	force := true
	for _, w := range all {
		g.Go(func() error {
			_, err := c.Resource(w.resource).Namespace(w.namespace).Patch(ctx, w.name, types.ApplyPatchType, w.body,
				metav1.PatchOptions{FieldManager: "floor", Force: &force})
			return err
		})
	}
	return g.Wait()
}
