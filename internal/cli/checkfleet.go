package cli

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	kschema "k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	api "github.com/holdfastcd/holdfast/api/argo/v1alpha1"
	trustapi "github.com/holdfastcd/holdfast/api/holdfast/v1alpha1"
	"github.com/holdfastcd/holdfast/deploy"
	"github.com/holdfastcd/holdfast/internal/check"
	"github.com/holdfastcd/holdfast/internal/dialect"
	"github.com/holdfastcd/holdfast/internal/dialect/flux"
	"github.com/holdfastcd/holdfast/internal/dialect/own"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/policy"
	"github.com/holdfastcd/holdfast/internal/policy/installed"
	"github.com/holdfastcd/holdfast/internal/render"
	"github.com/holdfastcd/holdfast/internal/schema"
	"github.com/holdfastcd/holdfast/internal/secret"
	"github.com/holdfastcd/holdfast/internal/source"
	"github.com/holdfastcd/holdfast/internal/tree"
	"github.com/holdfastcd/holdfast/internal/trust"
)

// fleet reads the custom resources of a repository for [check.Engine]: as `holdfast
// build` does, and with it the controller.
type fleet struct {
	now         time.Time
	definitions func() []*unstructured.Unstructured // of what Holdfast serves; read when they are needed
}

func newFleet(now time.Time) *fleet {
	return &fleet{now: now, definitions: sync.OnceValue(func() []*unstructured.Unstructured {
		served, err := deploy.CRDs()
		if err != nil {
			return nil // they are part of the program, and a test reads them
		}
		return served
	})}
}

const (
	groupFlux       = "kustomize.toolkit.fluxcd.io"
	groupConstraint = "constraints.gatekeeper.sh"
)

// asking are the kinds that ask for deliveries; those with a reason are not read yet.
var asking = map[kschema.GroupKind]string{
	{Group: groupFlux, Kind: kustomizev1.KustomizationKind}:    "",
	{Group: api.GroupVersion.Group, Kind: api.ApplicationKind}: "",
	{Group: api.GroupVersion.Group, Kind: "ApplicationSet"}:    "ApplicationSets are not read yet",
	{Group: "helm.toolkit.fluxcd.io", Kind: "HelmRelease"}:     "HelmReleases are not read yet",
}

// inCluster are the kinds of policies that lie in a cluster, by what a PolicySet calls them.
var inCluster = map[string][]kschema.GroupKind{
	trustapi.ClusterValidatingAdmissionPolicy: {
		{Group: "admissionregistration.k8s.io", Kind: "ValidatingAdmissionPolicy"},
		{Group: "admissionregistration.k8s.io", Kind: "ValidatingAdmissionPolicyBinding"},
	},
	trustapi.ClusterKyverno: {
		{Group: "kyverno.io", Kind: "ClusterPolicy"}, {Group: "kyverno.io", Kind: "Policy"}, {Group: "policies.kyverno.io", Kind: "ValidatingPolicy"},
	},
	trustapi.ClusterGatekeeper: {{Group: "templates.gatekeeper.sh", Kind: "ConstraintTemplate"}},
}

// Asks implements check.Dialects.
func (f *fleet) Asks(kind kschema.GroupKind) bool {
	_, ok := asking[kind]
	return ok
}

// Reads implements check.Dialects.
func (f *fleet) Reads(kind kschema.GroupKind) bool {
	switch kind {
	case kschema.GroupKind{Group: sourcev1.GroupVersion.Group, Kind: sourcev1.GitRepositoryKind},
		kschema.GroupKind{Group: api.GroupVersion.Group, Kind: "AppProject"},
		kschema.GroupKind{Group: trustapi.GroupVersion.Group, Kind: trustapi.PolicySetKind},
		kschema.GroupKind{Group: trustapi.GroupVersion.Group, Kind: trustapi.TrustPolicyKind}:
		return true
	}
	return f.Asks(kind) || lies(kind) != ""
}

// lies returns what a PolicySet calls the policies of a kind; "" if they are none.
func lies(kind kschema.GroupKind) string {
	for name, kinds := range inCluster {
		if slices.Contains(kinds, kind) {
			return name
		}
	}
	if kind.Group == groupConstraint {
		return trustapi.ClusterGatekeeper
	}
	return ""
}

// Kinds implements check.Dialects.
func (f *fleet) Kinds() schema.Table {
	known := maps.Clone(schema.Builtin())
	for _, crd := range f.definitions() {
		maps.Copy(known, schema.FromCRD(crd))
	}
	return known
}

// Definitions implements check.Dialects.
func (f *fleet) Definitions() []map[string]any {
	var all []map[string]any
	for _, crd := range f.definitions() {
		all = append(all, crd.Object)
	}
	return all
}

// request gathers what an object and those around it ask for.
func (f *fleet) request(asked object.Object, known *check.Known) (requested, error) {
	var r requested
	for i := range known.Objects {
		if o := &known.Objects[i]; !f.Asks(o.GroupVersionKind().GroupKind()) {
			_ = r.take(&o.Unstructured) // what is wrong with it is told where it is delivered
		}
	}
	return r, r.take(&asked.Unstructured)
}

// Source implements check.Dialects.
func (f *fleet) Source(asked object.Object, known *check.Known) check.Source {
	kind := asked.GroupVersionKind().GroupKind()
	if why := asking[kind]; why != "" {
		return check.Source{Elsewhere: why}
	}
	if kind.Kind == api.ApplicationKind {
		return sourceOf(asked)
	}
	text := func(fields ...string) string {
		s, _, _ := unstructured.NestedString(asked.Object, fields...)
		return s
	}
	s := check.Source{Path: text("spec", "path")}
	if k := text("spec", "sourceRef", "kind"); k != sourcev1.GitRepositoryKind {
		s.Elsewhere = "its source is of kind " + k
		return s
	}
	s.URL = repositoryURL(known, cmp.Or(text("spec", "sourceRef", "namespace"), asked.GetNamespace(), fluxNamespace), text("spec", "sourceRef", "name"))
	return s
}

// repositoryURL is the address of a GitRepository; "" if it is not in the repository.
func repositoryURL(known *check.Known, namespace, name string) string {
	for i := range known.Objects {
		o := &known.Objects[i]
		if o.GetKind() == sourcev1.GitRepositoryKind && o.GetName() == name && cmp.Or(o.GetNamespace(), fluxNamespace) == namespace {
			url, _, _ := unstructured.NestedString(o.Object, "spec", "url")
			return url
		}
	}
	return ""
}

// sourceOf is the source of an Application.
func sourceOf(asked object.Object) check.Source {
	text := func(field string) string {
		s, _, _ := unstructured.NestedString(asked.Object, "spec", "source", field)
		return s
	}
	s := check.Source{URL: text("repoURL"), Path: text("path")}
	if many, _, _ := unstructured.NestedSlice(asked.Object, "spec", "sources"); len(many) > 0 {
		s.Elsewhere = "several sources are not supported yet"
	} else if chart := text("chart"); chart != "" {
		s.Elsewhere = "its source is the chart " + chart + " of a registry"
	}
	return s
}

// Deliver implements check.Dialects.
func (f *fleet) Deliver(ctx context.Context, asked object.Object, known *check.Known, t tree.Tree) (check.Delivery, error) {
	r, err := f.request(asked, known)
	if err != nil {
		return check.Delivery{}, err
	}
	revision := source.Revision{Commit: "local", Tree: t}
	d := check.Delivery{Subject: subjectOf(r)}
	if len(r.applications) == 1 {
		err = f.application(&d, &r, revision, known)
	} else {
		err = f.kustomization(ctx, &d, &r, revision, known)
	}
	return d, err
}

func (f *fleet) application(d *check.Delivery, r *requested, revision source.Revision, known *check.Known) error {
	app := r.applications[0]
	project := cmp.Or(app.Spec.Project, "default")
	if r.project(project) == nil {
		d.Notices = append(d.Notices, fmt.Sprintf("the AppProject %s is not in the repository: its rules were not judged", project))
	}
	var err error
	d.Spec, err = r.application(app, revision, previewOptions{Permissive: true, capabilities: func() render.Capabilities {
		return render.Capabilities{KubeVersion: known.Kubernetes}
	}})
	d.Spec.Opener = dialect.Left(known.Sealed)
	return named(err, api.ApplicationKind, app.Namespace, app.Name)
}

func (f *fleet) kustomization(_ context.Context, d *check.Delivery, r *requested, revision source.Revision, known *check.Known) error {
	ks := r.kustomizations[0]
	missing := ""
	options := flux.Options{
		Permissive: true,
		Opener:     func(string, string) (secret.Opener, error) { return dialect.Left(known.Sealed), nil },
		Variables: func(ref flux.VariablesRef) (map[string]string, error) {
			o, ok := known.Find(ref.Kind, ref.Namespace, ref.Name)
			if ok && !holdsSealed(o.Object) {
				return (&requested{configs: []*unstructured.Unstructured{&o.Unstructured}}).variable(ref)
			}
			missing = ref.Kind + " " + ref.Namespace + "/" + ref.Name
			return nil, fault.New(fault.NotFound, "%s is not in the repository", missing)
		},
	}
	revision.Tree = flux.Filter(revision.Tree, r.ignored(ks))
	spec, err := flux.Spec(ks, revision, options)
	if missing != "" && (err == nil || fault.KindOf(err) == fault.NotFound) {
		// Without the variables the objects are judged as they were written.
		d.Notices = append(d.Notices, fmt.Sprintf("the variables of %s are not in the repository: what Kustomization/%s/%s delivers was judged without them", missing, ks.Namespace, ks.Name))
		d.Open = true
		options.Variables = func(flux.VariablesRef) (map[string]string, error) { return map[string]string{}, nil }
		if spec, err = flux.Spec(ks, revision, options); err == nil {
			spec.Substitute = nil
		}
	}
	d.Spec = spec
	return named(err, kustomizev1.KustomizationKind, ks.Namespace, ks.Name)
}

// Policies implements check.Dialects.
func (f *fleet) Policies(known *check.Known, t tree.Tree) check.Policies {
	var all check.Policies
	for i := range known.Objects {
		o := &known.Objects[i]
		if o.GroupVersionKind().Group != trustapi.GroupVersion.Group {
			continue
		}
		switch o.GetKind() {
		case trustapi.PolicySetKind:
			set, notices := f.set(o, known, t)
			all.Sets, all.Notices = append(all.Sets, set), append(all.Notices, notices...)
		case trustapi.TrustPolicyKind:
			p, notices := trustPolicy(o, known)
			all.Trust, all.Notices = append(all.Trust, p), append(all.Notices, notices...)
		}
	}
	return all
}

// set compiles a PolicySet. Sources that are this repository are read from it; others
// are not judged, and told.
func (f *fleet) set(o *object.Object, known *check.Known, t tree.Tree) (check.SelectedSet, []string) {
	compiled := own.CompilePolicySet(&o.Unstructured, f.now)
	var notices []string
	var documents []policy.Document
	for _, s := range compiled.Sources {
		url := s.URL
		if s.Repository.Name != "" {
			url = repositoryURL(known, s.Repository.Namespace, s.Repository.Name)
		}
		if url == "" || !known.Here(url) {
			notices = append(notices, fmt.Sprintf("policy set %s: %s is another source, and was not judged", o.GetName(), s))
			continue
		}
		read, err := own.ReadPolicies(t, strings.Trim(path.Clean("/"+s.Path), "/"))
		if err != nil {
			compiled.Set.Broken = cmp.Or(compiled.Set.Broken, err.Error())
		}
		documents = append(documents, read...)
	}
	for _, name := range compiled.Cluster {
		found := installed.InEffect(name, documentsOf(name, known))
		documents = append(documents, found...)
		notices = append(notices, fmt.Sprintf("policy set %s: of %s, the %d in the repository were judged, and not those in a cluster", o.GetName(), name, len(found)))
	}
	set := compiled.With(documents, "")
	if len(set.Documents)+len(set.Builtins) == 0 && set.Broken == "" {
		// There is nothing to judge by, for no fault of the set.
		return check.SelectedSet{Set: set, Selects: func(trust.Subject) bool { return false }}, notices
	}
	return check.SelectedSet{Set: set, Selects: compiled.Selects, Origin: o.Origin}, notices
}

// documentsOf are the policies of a kind that lie in the repository.
func documentsOf(name string, known *check.Known) []policy.Document {
	var all []policy.Document
	for i := range known.Objects {
		o := &known.Objects[i]
		if lies(o.GroupVersionKind().GroupKind()) != name {
			continue
		}
		content, err := yaml.Marshal(o.Object)
		if err == nil {
			all = append(all, policy.Document{File: o.Origin.File, Content: content})
		}
	}
	return all
}

// trustPolicy compiles a TrustPolicy, for what can be told of it offline.
func trustPolicy(o *object.Object, known *check.Known) (check.SelectedTrust, []string) {
	compiled := own.Compile(&o.Unstructured, func(r own.Ref) (own.Content, error) {
		found, ok := known.Find(r.Kind, r.Namespace, r.Name)
		if !ok {
			return own.Content{}, fault.New(fault.NotFound, "%s is not in the repository", r)
		}
		return contentOf(&found.Unstructured, r)
	})
	p := compiled.Policy
	if compiled.Reason == own.ReasonMissing || compiled.Reason == own.ReasonKey {
		p.Broken = "" // keys may be in the cluster alone, and are not needed here
	}
	var left []string
	if p.Commits != nil {
		left = append(left, "signatures of commits")
	}
	if i := p.Images; i != nil && (len(i.Authorities) > 0 || i.Provenance != nil || i.Scan != nil || i.SBOM != nil) {
		left = append(left, "signatures and attestations of images")
	}
	var notices []string
	if len(left) > 0 {
		notices = append(notices, fmt.Sprintf("trust policy %s: %s were not judged here: see 'holdfast trust check'", p.Name, strings.Join(left, " and ")))
	}
	return check.SelectedTrust{Policy: p, Selects: compiled.Selects, Origin: o.Origin}, notices
}
