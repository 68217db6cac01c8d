package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	k8sschema "k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/holdfastcd/holdfast/deploy"
	"github.com/holdfastcd/holdfast/internal/schema"
	"github.com/holdfastcd/holdfast/internal/secret/sealed"
)

// Install is what to install, and where.
type Install struct {
	Connection

	CRDsOnly    bool
	Export      bool
	ReplaceCRDs bool
	BesidePeers bool
	deploy.Options
}

func (o *Install) bind(s settings) {
	o.Connection.bind(s)
	s.toggle(&o.CRDsOnly, "crds-only", "only the definitions of the kinds that Holdfast reads, for a controller that runs elsewhere")
	s.toggle(&o.Export, "export", "print the objects as YAML, and do not talk to any cluster")
	s.text(&o.Namespace, "namespace", deploy.DefaultNamespace, "`NAMESPACE` that Holdfast runs in")
	s.text(&o.Image, "image", "", "container `IMAGE`, best with its digest (default: that of this version)")
	s.text(&o.AuditClaim, "audit-claim", "", "`NAME` of a PersistentVolumeClaim for the audit log (default: one of 10Gi is made, which needs a default StorageClass)")
	s.text(&o.DataClaim, "data-claim", "", "`NAME` of a PersistentVolumeClaim for the data directory (default: none; it is fetched again)")
	s.flags.StringSliceVar(&o.Tenants, "tenants", nil, "`NAMESPACES` whose service accounts Holdfast may act as (default: all)")
	s.bind("tenants")
	s.flags.StringSliceVar(&o.SealingKeys, "sealing-key-namespace", nil, "`NAMESPACE` with keys of SealedSecrets that Holdfast opens beside its own, such as "+sealed.StockNamespace+"; repeatable")
	s.bind("sealing-key-namespace")
	s.toggle(&o.Observe, "observe", "look beside Argo CD or Flux, with no right to write as itself")
	s.toggle(&o.Takeover, "takeover", "look beside Argo CD or Flux, and deliver what 'holdfast takeover' takes over")
	s.toggle(&o.Admission, "admission", "have the API server ask Holdfast about what others write into namespaces with the label holdfast.dev/admission")
	s.toggle(&o.Permissive, "permissive", "UNSAFE: give Holdfast's own account cluster-admin, for deliveries that name no account")
	s.toggle(&o.ReplaceCRDs, "replace-crds", "replace definitions that somebody else has installed")
	s.toggle(&o.BesidePeers, "beside-peers", "install a Holdfast that delivers, although Argo CD or Flux runs")
	s.flags.StringArrayVar(&o.Args, "arg", nil, "further `ARGUMENT` of the controller, such as --arg=--log-level=debug; repeatable")
}

const installExamples = `  # install into the cluster of the current context
  holdfast install

  # beside Argo CD or Flux: look first, then take over one application at a time
  holdfast install --observe
  holdfast install --takeover

  # only the kinds, to run the controller on this machine
  holdfast install --crds-only
  holdfast controller --kubeconfig ~/.kube/config --data-dir ./data

  # look at it first, or keep it in Git
  holdfast install --export > holdfast.yaml`

func newInstall(p Process) *cobra.Command {
	var o Install
	cmd := &cobra.Command{
		Use:   "install",
		Short: "Install Holdfast into a cluster, or print what would be installed",
		Long: `Install Holdfast into a cluster: the definitions of the kinds that it reads, its
account and permissions, and a Deployment. It can be run again at any time; every
object is a server-side apply.

Definitions that Argo CD or Flux has installed stay as they are, if they have the
version that Holdfast reads. Where a controller of Argo CD or Flux runs, Holdfast is
only installed beside it: with --observe, which reads, or with --takeover.

Exit codes: 0 it is installed, or printed; 2 it is not, at least not all of it.`,
		Example: installExamples,
		RunE: func(cmd *cobra.Command, _ []string) error {
			objects, err := o.objects()
			if err != nil {
				return err
			}
			if o.Export {
				b, err := deploy.YAML(objects)
				if err != nil {
					return err
				}
				_, err = p.Out.Write(b)
				return err
			}
			cfg, err := o.config()
			if err != nil {
				return err
			}
			return o.install(cmd.Context(), cfg, objects, p)
		},
	}
	o.bind(settings{cmd.Flags()})
	return cmd
}

func (o *Install) objects() ([]*unstructured.Unstructured, error) {
	objects, err := deploy.CRDs()
	if err != nil || o.CRDsOnly {
		return objects, err
	}
	manifests, err := deploy.Manifests(o.Options)
	return append(objects, manifests...), err
}

// installer is the field manager of what is installed.
const installer = "holdfast-install"

// established bounds the wait for definitions to be served.
const established = 30 * time.Second

// install applies objects one by one, and waits until the definitions among them
// are served.
func (o *Install) install(ctx context.Context, cfg *rest.Config, objects []*unstructured.Unstructured, p Process) error {
	c, err := client.New(cfg, client.Options{Mapper: fixedMapper(objects)})
	if err != nil {
		return classify(err, "connect to the cluster")
	}
	if !o.CRDsOnly && !o.Observe && !o.Takeover && !o.BesidePeers {
		if err := noPeers(ctx, c); err != nil {
			return err
		}
	}
	if objects, err = o.definitions(ctx, c, objects, p); err != nil {
		return err
	}
	for _, object := range objects {
		err := c.Apply(ctx, client.ApplyConfigurationFromUnstructured(object), client.FieldOwner(installer), client.ForceOwnership)
		if err != nil {
			return kubeFault(err, "apply "+object.GetKind()+" "+object.GetName())
		}
		fmt.Fprintf(p.Out, "%s/%s applied\n", object.GetKind(), object.GetName())
	}
	return awaitServed(ctx, c, objects)
}

// fixedMapper knows the kinds of what is installed, so that nothing has to be discovered.
func fixedMapper(objects []*unstructured.Unstructured) meta.RESTMapper {
	m := meta.NewDefaultRESTMapper(nil)
	add := func(kinds schema.Table) {
		for gvk, k := range kinds {
			scope := meta.RESTScopeRoot
			if k.Namespaced {
				scope = meta.RESTScopeNamespace
			}
			m.AddSpecific(gvk, k.GVR(), k.GVR(), scope)
		}
	}
	add(schema.Builtin())
	for _, o := range objects {
		add(schema.FromCRD(o))
	}
	return m
}

// awaitServed waits until lists of the newly defined kinds are answered.
func awaitServed(ctx context.Context, c client.Client, objects []*unstructured.Unstructured) error {
	ctx, cancel := context.WithTimeout(ctx, established)
	defer cancel()
	for _, o := range objects {
		for gvk := range schema.FromCRD(o) {
			if err := awaitKind(ctx, c, gvk); err != nil {
				return kubeFault(err, "wait for "+gvk.Kind+" to be served")
			}
		}
	}
	return nil
}

// awaitKind asks until it is answered: an API server that begins to serve a kind
// sends no event about it.
func awaitKind(ctx context.Context, c client.Client, gvk k8sschema.GroupVersionKind) error {
	for {
		list := &unstructured.UnstructuredList{}
		list.SetGroupVersionKind(gvk)
		err := c.List(ctx, list, client.Limit(1))
		if err == nil || !apierrors.IsNotFound(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}
