package flux

import (
	"cmp"
	"context"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/fluxcd/pkg/apis/kustomize"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/holdfastcd/holdfast/internal/cluster"
	"github.com/holdfastcd/holdfast/internal/delivery"
	"github.com/holdfastcd/holdfast/internal/dialect"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/health"
	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/plan"
	"github.com/holdfastcd/holdfast/internal/render"
	"github.com/holdfastcd/holdfast/internal/secret"
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
	forceMark     = markPrefix + "force"
	revisionMark  = markPrefix + "revision" // on events
)

// fieldManager is the name under which Flux applies: taking it over makes the
// change of controllers silent.
const fieldManager = "kustomize-controller"

// providerSOPS is the one provider of spec.decryption that there is.
const providerSOPS = "sops"

// Options are what the process decides for all Kustomizations.
type Options struct {
	// DefaultServiceAccount is the account, in the Kustomization's namespace, of
	// those that name none; empty: they are refused unless Permissive.
	DefaultServiceAccount string
	// Permissive delivers with Holdfast's own identity where no account is named,
	// and permits references to other namespaces.
	Permissive bool
	// Variables reads what spec.postBuild.substituteFrom names; nil: nothing can
	// be read. Its errors are *fault.Error; NotFound is none if the reference is
	// optional.
	Variables func(VariablesRef) (map[string]string, error)
	// Opener returns what opens sealed files with the keys that spec.decryption names:
	// those of a Secret of the Kustomization's namespace, or, without a name, those that
	// are for all; nil: there are none. Its errors are *fault.Error.
	Opener func(namespace, name string) (secret.Opener, error)
}

// kustomizationFields are the fields of a Kustomization's spec that are supported.
var kustomizationFields = fields{
	"interval": nil, "retryInterval": nil, "timeout": nil, "suspend": nil, "wait": nil, "force": nil,
	"path": nil, "prune": nil, "deletionPolicy": nil, "targetNamespace": nil, "serviceAccountName": nil,
	"sourceRef":    {"apiVersion": nil, "kind": nil, "name": nil, "namespace": nil},
	"dependsOn":    {"name": nil, "namespace": nil},
	"healthChecks": {"apiVersion": nil, "kind": nil, "name": nil, "namespace": nil},
	"decryption":   {"provider": nil, "secretRef": {"name": nil}},
	"postBuild": {
		"substitute": nil, "substituteStrategy": nil,
		"substituteFrom": {"kind": nil, "name": nil, "optional": nil},
	},
	"commonMetadata": {"labels": nil, "annotations": nil},
	"namePrefix":     nil, "nameSuffix": nil, "components": nil, "ignoreMissingComponents": nil,
	"images":  {"name": nil, "newName": nil, "newTag": nil, "digest": nil},
	"patches": {"patch": nil, "target": selectorFields},
	"ignore":  {"paths": nil, "target": {"group": nil, "kind": nil, "namespace": nil, "name": nil}},
}

// selectorFields choose objects that a patch is for.
var selectorFields = fields{
	"group": nil, "version": nil, "kind": nil, "namespace": nil, "name": nil, "labelSelector": nil, "annotationSelector": nil,
}

// Spec translates a Kustomization on a revision of its source to a delivery. It
// has no effect, and asks nobody but o.Variables and o.Opener: the controller, build
// and diff share it. Errors are *fault.Error: Unsupported (a field, by name), Refused (a
// reference to another namespace; no account), Invalid, and those of o.Variables and
// o.Opener.
func Spec(ks *kustomizev1.Kustomization, revision source.Revision, o Options) (delivery.Spec, error) {
	spec, err := o.plain(ks, revision)
	if err != nil {
		return delivery.Spec{}, err
	}
	if spec.Substitute, err = o.substitution(ks, spec.Account); err != nil {
		return delivery.Spec{}, err
	}
	spec.Opener, err = o.opener(ks)
	return spec, err
}

// opener returns what opens the sealed files of a Kustomization. Without
// spec.decryption it is given no keys, not even those that are for all.
func (o Options) opener(ks *kustomizev1.Kustomization) (secret.Opener, error) {
	d := ks.Spec.Decryption
	if d == nil || o.Opener == nil {
		return selective{dialect.Sealed(dialect.SealedHint)}, nil
	}
	name := ""
	if d.SecretRef != nil {
		name = d.SecretRef.Name
	}
	opener, err := o.Opener(ks.Namespace, name)
	if _, left := opener.(*secret.Left); left || err != nil {
		return opener, err
	}
	return selective{opener}, nil
}

// selective opens what does not ask to stay sealed.
type selective struct{ secret.Opener }

var staysSealed = regexp.MustCompile(`(?mi)^\s*["']?kustomize\.toolkit\.fluxcd\.io/decrypt["']?:\s*["']?disabled["']?\s*,?\s*$`)

// Open implements secret.Opener. Whether the document may stay as it is, is judged
// when it is rendered: what the mark was not on is refused then.
func (s selective) Open(ctx context.Context, file string, content []byte) (secret.Opened, bool, error) {
	if staysSealed.Match(content) {
		return secret.Opened{}, false, nil
	}
	return s.Opener.Open(ctx, file, content)
}

// plain is Spec without variables and keys: what only the object itself decides.
func (o Options) plain(ks *kustomizev1.Kustomization, revision source.Revision) (delivery.Spec, error) {
	if err := o.check(ks); err != nil {
		return delivery.Spec{}, err
	}
	account, err := o.account(ks)
	if err != nil {
		return delivery.Spec{}, err
	}
	spec := identity(ks, account)
	if spec.Strict, err = dialect.Strict(ks.Annotations); err != nil {
		return delivery.Spec{}, err
	}
	spec.Revision = revision
	spec.Namespace = ks.Spec.TargetNamespace
	spec.Render = build(ks)
	spec.Force = ks.Spec.Force
	spec.Ignore = ignored(ks)
	if m := ks.Spec.CommonMetadata; m != nil {
		labels := maps.Clone(m.Labels)
		if labels == nil {
			labels = map[string]string{}
		}
		maps.Copy(labels, spec.Profile.Marks.Labels) // whose an object is, nobody overrides
		spec.Profile.Marks.Labels = labels
		spec.Profile.Marks.Annotations = m.Annotations
	}
	return spec, nil
}

// build is what is asked of the renderer.
func build(ks *kustomizev1.Kustomization) render.Request {
	request := render.Request{
		// A path is below the root of the source, whatever it says.
		Path:       strings.TrimPrefix(path.Clean("/"+ks.Spec.Path), "/"),
		Tool:       render.KustomizeOrGenerate,
		Namespace:  ks.Spec.TargetNamespace,
		NamePrefix: ks.Spec.NamePrefix,
		NameSuffix: ks.Spec.NameSuffix,
	}
	for _, image := range ks.Spec.Images {
		if text, changes := imageRule(image); changes {
			request.Images = append(request.Images, text)
		}
	}
	if len(ks.Spec.Patches) == 0 && len(ks.Spec.Components) == 0 {
		return request
	}
	request.Overrides = &render.Overrides{Components: ks.Spec.Components, IgnoreMissingComponents: ks.Spec.IgnoreMissingComponents}
	for _, p := range ks.Spec.Patches {
		patch := render.Patch{Patch: p.Patch}
		if t := p.Target; t != nil {
			patch.Target = &render.PatchTarget{
				Group: t.Group, Version: t.Version, Kind: t.Kind, Namespace: t.Namespace, Name: t.Name,
				LabelSelector: t.LabelSelector, AnnotationSelector: t.AnnotationSelector,
			}
		}
		request.Overrides.Patches = append(request.Overrides.Patches, patch)
	}
	return request
}

// imageRule writes a rule as kustomize's command line has it, name=new:tag or
// name=new@digest, where * keeps a name; false for one that changes nothing.
func imageRule(image kustomize.Image) (string, bool) {
	rule := image.Name + "=" + cmp.Or(image.NewName, "*")
	switch {
	case image.Digest != "": // it leaves the tag no say
		return rule + "@" + image.Digest, true
	case image.NewTag != "":
		return rule + ":" + image.NewTag, true
	}
	return rule, image.NewName != ""
}

// ignored are the fields that are left to whoever sets them in the cluster.
func ignored(ks *kustomizev1.Kustomization) []plan.Ignore {
	var rules []plan.Ignore
	for _, rule := range ks.Spec.Ignore {
		out := plan.Ignore{Pointers: rule.Paths}
		if t := rule.Target; t != nil {
			out.Group, out.Kind, out.Namespace, out.Name = t.Group, t.Kind, t.Namespace, t.Name
		}
		rules = append(rules, out)
	}
	return rules
}

// identity is what a delivery is without its source: enough to remove it.
func identity(ks *kustomizev1.Kustomization, account cluster.Account) delivery.Spec {
	return delivery.Spec{
		ID:        delivery.ID{Kind: kustomizev1.KustomizationKind, Namespace: ks.Namespace, Name: ks.Name},
		Account:   account,
		Prune:     ks.Spec.Prune,
		Revert:    true,
		Confirmed: ks.Annotations[dialect.AnnotationConfirm],
		Inventory: readInventory(ks.Status.Inventory),
		Profile:   profile(ks),
		UID:       string(ks.UID),

		ApprovedBy: dialect.Approver(ks),
	}
}

// profile is what Flux's clients expect of every object that is applied.
func profile(ks *kustomizev1.Kustomization) delivery.Profile {
	return delivery.Profile{
		FieldManager: fieldManager,
		Marks:        delivery.Marks{Labels: map[string]string{nameMark: ks.Name, namespaceMark: ks.Namespace}},
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
			Brake:      dialect.Brake(),
		},
		Propagation: "Background",
		Treat:       treatment,
		NoHealth:    !judged(ks),
		Health:      health.Options{Kstatus: true},
	}
}

// judged reports whether health is part of a Kustomization's being ready.
func judged(ks *kustomizev1.Kustomization) bool { return ks.Spec.Wait || len(ks.Spec.HealthChecks) > 0 }

// treatment reads from an object's marks how it wants to be applied.
func treatment(u *unstructured.Unstructured) plan.Treatment {
	var t plan.Treatment
	for _, marks := range []map[string]string{u.GetLabels(), u.GetAnnotations()} {
		is := func(key, value string) bool { return strings.EqualFold(marks[key], value) }
		switch {
		case is(reconcileMark, kustomizev1.DisabledValue):
			t.Skip = "it is marked " + reconcileMark + ": " + kustomizev1.DisabledValue
		case is(applyMark, kustomizev1.IgnoreValue):
			t.Skip = "it is marked " + applyMark + ": " + kustomizev1.IgnoreValue
		}
		t.IfNotPresent = t.IfNotPresent || is(applyMark, kustomizev1.IfNotPresentValue)
		t.Merge = t.Merge || is(applyMark, kustomizev1.MergeValue)
		t.Force = t.Force || is(forceMark, kustomizev1.EnabledValue)
	}
	return t
}

// check refuses what is not supported, and what is not permitted.
func (o Options) check(ks *kustomizev1.Kustomization) error {
	spec, err := asMap(&ks.Spec)
	if err != nil {
		return err
	}
	return o.checkFields(spec, ks)
}

// checkFields is check on the fields as they were written: the API server may
// know some that this version's types do not.
func (o Options) checkFields(spec map[string]any, ks *kustomizev1.Kustomization) error {
	if err := unsupported(spec, kustomizationFields); err != nil {
		return err
	}
	for _, check := range []func(*kustomizev1.Kustomization) error{o.checkReferences, checkNames, checkImages, checkIgnore, checkPostBuild, checkHealthChecks, checkDecryption} {
		if err := check(ks); err != nil {
			return err
		}
	}
	return nil
}

// checkReferences refuses sources and dependencies that cannot be, or must not be, used.
func (o Options) checkReferences(ks *kustomizev1.Kustomization) error {
	ref := ks.Spec.SourceRef
	if ref.APIVersion != "" && ref.APIVersion != sourcev1.GroupVersion.String() {
		return fault.New(fault.Unsupported, "spec.sourceRef.apiVersion %s is not supported yet", ref.APIVersion).
			WithHint("use %s", sourcev1.GroupVersion)
	}
	if ref.Kind != sourcev1.GitRepositoryKind {
		return fault.New(fault.Unsupported, "spec.sourceRef.kind %s is not supported yet", ref.Kind).WithHint("use a GitRepository")
	}
	if o.Permissive {
		return nil
	}
	if ref.Namespace != "" && ref.Namespace != ks.Namespace {
		return blocked(ref.Kind, ref.Namespace, ref.Name).WithHint("create the source in namespace %s", ks.Namespace)
	}
	for _, d := range ks.Spec.DependsOn {
		if d.Namespace != "" && d.Namespace != ks.Namespace {
			return blocked(kustomizev1.KustomizationKind, d.Namespace, d.Name).WithHint("depend on Kustomizations of namespace %s", ks.Namespace)
		}
	}
	return nil
}

// blocked is the refusal of a reference to another namespace, in Flux's words.
func blocked(kind, namespace, name string) *fault.Error {
	return fault.New(fault.Refused, "can't access '%s/%s/%s', cross-namespace references have been blocked", kind, namespace, name)
}

// elsewhere names the references to other namespaces that only permissive mode
// permits.
func elsewhere(ks *kustomizev1.Kustomization) []string {
	var found []string
	if ns := ks.Spec.SourceRef.Namespace; ns != "" && ns != ks.Namespace {
		found = append(found, "spec.sourceRef")
	}
	if slices.ContainsFunc(ks.Spec.DependsOn, func(d kustomizev1.DependencyReference) bool {
		return d.Namespace != "" && d.Namespace != ks.Namespace
	}) {
		found = append(found, "spec.dependsOn")
	}
	return found
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

// checkImages refuses what cannot be written as a rule: its parts would be read
// as something else.
func checkImages(ks *kustomizev1.Kustomization) error {
	for i, image := range ks.Spec.Images {
		if image.Name == "" || strings.ContainsAny(image.Name+image.NewName+image.NewTag, "=@* ") || strings.ContainsAny(image.Digest, "=@* ") {
			return fault.New(fault.Invalid, "spec.images[%d] does not name an image, or what it becomes, as kustomize has it", i)
		}
	}
	return nil
}

// checkIgnore refuses targets that are more than names: what they choose could
// not be told from what they say.
func checkIgnore(ks *kustomizev1.Kustomization) error {
	for i, rule := range ks.Spec.Ignore {
		for _, p := range rule.Paths {
			if !strings.HasPrefix(p, "/") {
				return fault.New(fault.Invalid, "spec.ignore[%d].paths: %q is not a JSON pointer", i, p).WithHint("begin it with a slash")
			}
		}
		if rule.Target == nil {
			continue
		}
		for field, value := range map[string]string{
			"group": rule.Target.Group, "kind": rule.Target.Kind, "namespace": rule.Target.Namespace, "name": rule.Target.Name,
		} {
			if strings.ContainsAny(value, `*+?()[]{}|\^$`) {
				return fault.New(fault.Unsupported, "spec.ignore[%d].target.%s: regular expressions are not supported yet", i, field).WithHint("write out the name")
			}
		}
	}
	return nil
}

// checkDecryption refuses providers other than SOPS, and keys that are nowhere.
func checkDecryption(ks *kustomizev1.Kustomization) error {
	d := ks.Spec.Decryption
	switch {
	case d == nil:
		return nil
	case d.Provider == "":
		return fault.New(fault.Invalid, "spec.decryption.provider is missing").WithHint("set it to %s", providerSOPS)
	case d.Provider != providerSOPS:
		return fault.New(fault.Unsupported, "spec.decryption.provider %q is not supported", d.Provider).WithHint("use %s", providerSOPS)
	case d.SecretRef != nil && d.SecretRef.Name == "":
		return fault.New(fault.Invalid, "spec.decryption.secretRef names no Secret")
	}
	return nil
}

// checkHealthChecks refuses checks that name nothing.
func checkHealthChecks(ks *kustomizev1.Kustomization) error {
	for i, c := range ks.Spec.HealthChecks {
		if c.Kind == "" || c.Name == "" {
			return fault.New(fault.Invalid, "spec.healthChecks[%d] names no object", i)
		}
		if _, err := schema.ParseGroupVersion(c.APIVersion); err != nil {
			return fault.New(fault.Invalid, "spec.healthChecks[%d].apiVersion %q is not one", i, c.APIVersion)
		}
	}
	return nil
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
func Owner(_ object.ID, labels, _ map[string]string) string {
	name, namespace := labels[nameMark], labels[namespaceMark]
	if name == "" || namespace == "" {
		return ""
	}
	return delivery.ID{Kind: kustomizev1.KustomizationKind, Namespace: namespace, Name: name}.String()
}

// Kept reads from an object's marks that it must stay when it leaves the source,
// and when its Kustomization is deleted; Flux does not tell the two apart.
func Kept(labels, annotations map[string]string) (inPrune, inDelete bool) {
	for _, marks := range []map[string]string{labels, annotations} {
		if strings.EqualFold(marks[pruneMark], kustomizev1.DisabledValue) ||
			strings.EqualFold(marks[reconcileMark], kustomizev1.DisabledValue) ||
			strings.EqualFold(marks[applyMark], kustomizev1.IgnoreValue) {
			return true, true
		}
	}
	return false, false
}
