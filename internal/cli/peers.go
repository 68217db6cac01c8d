package cli

import (
	"context"
	"fmt"
	"slices"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	k8sschema "k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/holdfastcd/holdfast/deploy"
	"github.com/holdfastcd/holdfast/internal/fault"
)

// peers are the controllers that write what Holdfast would, by the labels that their
// installations give them, and the kinds that they run as.
var peers = []struct {
	name, key, value string
	kinds            []string
}{
	{"Argo CD", "app.kubernetes.io/name", "argocd-application-controller", []string{"StatefulSet", "Deployment"}},
	{"Flux", "app", "kustomize-controller", []string{"Deployment"}},
}

// noPeers fails with Conflict if a controller of Argo CD or Flux runs in the cluster.
func noPeers(ctx context.Context, c client.Client) error {
	for _, peer := range peers {
		for _, kind := range peer.kinds {
			list := &unstructured.UnstructuredList{}
			list.SetGroupVersionKind(k8sschema.GroupVersionKind{Group: "apps", Version: "v1", Kind: kind + "List"})
			if err := c.List(ctx, list, client.MatchingLabels{peer.key: peer.value}); err != nil {
				return kubeFault(err, "look for "+peer.name)
			}
			for i := range list.Items {
				if !runs(&list.Items[i]) {
					continue
				}
				return fault.New(fault.Conflict, "%s runs in this cluster, as %s/%s", peer.name, list.Items[i].GetNamespace(), list.Items[i].GetName()).
					WithHint("install beside it with --observe or --takeover, or scale it down first; --beside-peers installs all the same")
			}
		}
	}
	return nil
}

// mayServe fails with Refused if Holdfast was installed to observe and nothing else:
// it could not answer a take-over. A role that is not there, or that we may not see,
// says nothing: perhaps the controller runs elsewhere, with other rights.
func mayServe(ctx context.Context, cfg *rest.Config) error {
	c, err := client.New(cfg, client.Options{Mapper: fixedMapper(nil)})
	if err != nil {
		return classify(err, "connect to the cluster")
	}
	role := &unstructured.Unstructured{}
	role.SetGroupVersionKind(rbacv1.SchemeGroupVersion.WithKind("ClusterRole"))
	if err := c.Get(ctx, client.ObjectKey{Name: deploy.ServeRole}, role); err != nil || !deploy.ReadsOnly(role) {
		return nil //nolint:nilerr // see above
	}
	return fault.New(fault.Refused, "Holdfast is installed with --observe here, and may not write").
		WithHint("run 'holdfast install --takeover' first: it goes on observing everything else")
}

// runs reports whether a workload wants any Pods.
func runs(u *unstructured.Unstructured) bool {
	wanted, set, err := unstructured.NestedInt64(u.Object, "spec", "replicas")
	return err == nil && (!set || wanted > 0)
}

// definitions leaves those out of objects that somebody else has installed, and says
// so, unless they are to be replaced. It fails with Conflict where one of them lacks
// the version that Holdfast reads, and where replacing one would lose a version in
// which objects are stored.
func (o *Install) definitions(ctx context.Context, c client.Client, objects []*unstructured.Unstructured, p Process) ([]*unstructured.Unstructured, error) {
	var left []*unstructured.Unstructured
	for _, object := range objects {
		if object.GetKind() != "CustomResourceDefinition" {
			left = append(left, object)
			continue
		}
		keep, err := o.foreign(ctx, c, object)
		if err != nil {
			return nil, err
		}
		if keep {
			fmt.Fprintf(p.Out, "%s/%s kept: somebody else has installed it\n", object.GetKind(), object.GetName())
			continue
		}
		left = append(left, object)
	}
	return left, nil
}

// foreign reports whether a definition is in the cluster already, is not ours, and shall stay.
func (o *Install) foreign(ctx context.Context, c client.Client, ours *unstructured.Unstructured) (bool, error) {
	live := &unstructured.Unstructured{}
	live.SetGroupVersionKind(ours.GroupVersionKind())
	err := c.Get(ctx, client.ObjectKeyFromObject(ours), live)
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, kubeFault(err, "read "+ours.GetKind()+" "+ours.GetName())
	}
	versions, served := versionsOf(ours, "name"), versionsOf(live, "served")
	installed := slices.ContainsFunc(live.GetManagedFields(), func(f metav1.ManagedFieldsEntry) bool { return f.Manager == installer })
	if !installed && (!o.ReplaceCRDs || ours.GetName() == deploy.SealedSecrets) {
		for _, v := range versions {
			if !slices.Contains(served, v) {
				return false, fault.New(fault.Conflict, "%s is installed without version %s, which Holdfast reads", ours.GetName(), v).
					WithHint("upgrade what installed it, or replace it with --replace-crds")
			}
		}
		return true, nil
	}
	stored, _, _ := unstructured.NestedStringSlice(live.Object, "status", "storedVersions")
	for _, v := range stored {
		if !slices.Contains(versions, v) {
			return false, fault.New(fault.Conflict, "objects of %s are stored as version %s, which Holdfast's definition does not have", ours.GetName(), v).
				WithHint("migrate them first ('flux migrate' does it for Flux's kinds), or keep the definition that is there")
		}
	}
	return false, nil
}

// versionsOf lists the versions of a definition: all ("name"), or those that are served.
func versionsOf(crd *unstructured.Unstructured, which string) []string {
	list, _, _ := unstructured.NestedSlice(crd.Object, "spec", "versions")
	var names []string
	for _, one := range list {
		v, _ := one.(map[string]any)
		name, _ := v["name"].(string)
		if served, _ := v["served"].(bool); which == "name" || served {
			names = append(names, name)
		}
	}
	return names
}
