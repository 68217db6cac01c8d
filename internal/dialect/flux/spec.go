package flux

import (
	"cmp"
	"maps"
	"path"
	"strings"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/holdfastcd/holdfast/internal/cluster"
	"github.com/holdfastcd/holdfast/internal/delivery"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/plan"
	"github.com/holdfastcd/holdfast/internal/render"
	"github.com/holdfastcd/holdfast/internal/source"
)

// The marks by which Flux's clients know whose an object is, and what it asks for.
const (
	markPrefix    = "kustomize.toolkit.fluxcd.io/"
	nameMark      = markPrefix + "name"
	namespaceMark = markPrefix + "namespace"
	pruneMark     = markPrefix + "prune"
	reconcileMark = markPrefix + "reconcile"
	applyMark     = markPrefix + "ssa"
)

// fieldManager is the name under which Flux applies: taking it over makes the
// change of controllers silent.
const fieldManager = "kustomize-controller"

// Options are what the process decides for all Kustomizations.
type Options struct {
	// DefaultServiceAccount is the account, in the Kustomization's namespace, of
	// those that name none; empty: they are refused unless Permissive.
	DefaultServiceAccount string
	// Permissive delivers with Holdfast's own identity where no account is named.
	Permissive bool
}

// kustomizationFields are the fields of a Kustomization's spec that are supported.
var kustomizationFields = fields{
	"interval": nil, "retryInterval": nil, "timeout": nil, "suspend": nil, "wait": nil,
	"path": nil, "prune": nil, "deletionPolicy": nil, "targetNamespace": nil, "serviceAccountName": nil,
	"sourceRef": {"apiVersion": nil, "kind": nil, "name": nil, "namespace": nil},
}

// Spec translates a Kustomization on a revision of its source to a delivery. It
// has no effect and asks nobody: the controller, build and diff share it. Errors
// are *fault.Error: Unsupported (a field, by name), Refused (a reference to
// another namespace; no account), Invalid.
func Spec(ks *kustomizev1.Kustomization, revision source.Revision, o Options) (delivery.Spec, error) {
	if err := check(ks); err != nil {
		return delivery.Spec{}, err
	}
	account, err := o.account(ks)
	if err != nil {
		return delivery.Spec{}, err
	}
	spec := identity(ks, account)
	spec.Revision = revision
	spec.Namespace = ks.Spec.TargetNamespace
	spec.Render = render.Request{
		// A path is below the root of the source, whatever it says.
		Path:      strings.TrimPrefix(path.Clean("/"+ks.Spec.Path), "/"),
		Tool:      render.KustomizeOrGenerate,
		Namespace: ks.Spec.TargetNamespace,
	}
	return spec, nil
}

// identity is what a delivery is without its source: enough to remove it.
func identity(ks *kustomizev1.Kustomization, account cluster.Account) delivery.Spec {
	return delivery.Spec{
		ID:        delivery.ID{Kind: kustomizev1.KustomizationKind, Namespace: ks.Namespace, Name: ks.Name},
		Account:   account,
		Prune:     ks.Spec.Prune,
		Revert:    true,
		Inventory: readInventory(ks.Status.Inventory),
		Profile:   profile(ks.Namespace, ks.Name),
	}
}

// profile is what Flux's clients expect of every object that is applied.
func profile(namespace, name string) delivery.Profile {
	return delivery.Profile{
		FieldManager: fieldManager,
		Marks:        delivery.Marks{Labels: map[string]string{nameMark: name, namespaceMark: namespace}},
		Plan: plan.Profile{
			Stages: []plan.StageRule{
				{Name: "definitions", Gate: true, Kinds: []schema.GroupKind{
					{Group: "apiextensions.k8s.io", Kind: "CustomResourceDefinition"},
					{Kind: "Namespace"},
					{Group: rbacGroup, Kind: "ClusterRole"},
				}},
				{Name: "classes", Gate: true, Kinds: []schema.GroupKind{{Group: "*", Kind: "*Class"}}},
			},
			Forget:     true,
			AllowEmpty: true,
		},
		Propagation: "Background",
	}
}

// check refuses what is not supported, and what is not permitted.
func check(ks *kustomizev1.Kustomization) error {
	spec, err := asMap(&ks.Spec)
	if err != nil {
		return err
	}
	return checkFields(spec, ks)
}

// checkFields is check on the fields as they were written: the API server may
// know some that this version's types do not.
func checkFields(spec map[string]any, ks *kustomizev1.Kustomization) error {
	known := kustomizationFields
	if ks.Spec.Wait {
		// Waiting for everything includes whatever is listed.
		known = fields{"healthChecks": nil}
		maps.Copy(known, kustomizationFields)
	}
	if err := unsupported(spec, known); err != nil {
		return err
	}
	if err := checkSource(ks); err != nil {
		return err
	}
	return checkNames(ks)
}

func checkSource(ks *kustomizev1.Kustomization) error {
	ref := ks.Spec.SourceRef
	if ref.APIVersion != "" && ref.APIVersion != sourcev1.GroupVersion.String() {
		return fault.New(fault.Unsupported, "spec.sourceRef.apiVersion %s is not supported yet", ref.APIVersion).
			WithHint("use %s", sourcev1.GroupVersion)
	}
	if ref.Kind != sourcev1.GitRepositoryKind {
		return fault.New(fault.Unsupported, "spec.sourceRef.kind %s is not supported yet", ref.Kind).WithHint("use a GitRepository")
	}
	if ref.Namespace != "" && ref.Namespace != ks.Namespace {
		return fault.New(fault.Refused, "can't access '%s/%s/%s', cross-namespace references have been blocked", ref.Kind, ref.Namespace, ref.Name).
			WithHint("create the source in namespace %s", ks.Namespace)
	}
	return nil
}

func checkNames(ks *kustomizev1.Kustomization) error {
	if ns := ks.Spec.TargetNamespace; ns != "" && len(validation.IsDNS1123Label(ns)) > 0 {
		return fault.New(fault.Invalid, "spec.targetNamespace %q is not the name of a namespace", ns)
	}
	if sa := ks.Spec.ServiceAccountName; sa != "" && len(validation.IsDNS1123Subdomain(sa)) > 0 {
		return fault.New(fault.Invalid, "spec.serviceAccountName %q is not the name of a service account", sa)
	}
	switch policy := ks.GetDeletionPolicy(); policy {
	case kustomizev1.DeletionPolicyMirrorPrune, kustomizev1.DeletionPolicyDelete,
		kustomizev1.DeletionPolicyWaitForTermination, kustomizev1.DeletionPolicyOrphan:
		return nil
	default:
		return fault.New(fault.Invalid, "spec.deletionPolicy %q is not known", policy)
	}
}

// account returns who delivers a Kustomization.
func (o Options) account(ks *kustomizev1.Kustomization) (cluster.Account, error) {
	if name := cmp.Or(ks.Spec.ServiceAccountName, o.DefaultServiceAccount); name != "" {
		return cluster.ServiceAccount(ks.Namespace, name), nil
	}
	if o.Permissive {
		return cluster.Account{}, nil
	}
	return cluster.Account{}, fault.New(fault.Refused, "spec.serviceAccountName names no account to deliver with").
		WithHint("set it to a service account in namespace %s, or start Holdfast with --default-service-account", ks.Namespace)
}

// orphans reports whether deleting a Kustomization leaves its objects alone.
func orphans(ks *kustomizev1.Kustomization) bool {
	switch ks.GetDeletionPolicy() {
	case kustomizev1.DeletionPolicyDelete, kustomizev1.DeletionPolicyWaitForTermination:
		return ks.Spec.Suspend
	case kustomizev1.DeletionPolicyMirrorPrune:
		return ks.Spec.Suspend || !ks.Spec.Prune
	}
	return true
}

// Owner reads from an object's marks which Kustomization it belongs to, as
// Kind/namespace/name; empty if none.
func Owner(labels, _ map[string]string) string {
	name, namespace := labels[nameMark], labels[namespaceMark]
	if name == "" || namespace == "" {
		return ""
	}
	return delivery.ID{Kind: kustomizev1.KustomizationKind, Namespace: namespace, Name: name}.String()
}

// Kept reads from an object's marks that it must not be pruned.
func Kept(labels, annotations map[string]string) bool {
	for _, marks := range []map[string]string{labels, annotations} {
		if strings.EqualFold(marks[pruneMark], kustomizev1.DisabledValue) ||
			strings.EqualFold(marks[reconcileMark], kustomizev1.DisabledValue) ||
			strings.EqualFold(marks[applyMark], kustomizev1.IgnoreValue) {
			return true
		}
	}
	return false
}
