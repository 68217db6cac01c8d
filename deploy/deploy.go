// Package deploy holds what a cluster installs to run Holdfast: the definitions of
// the kinds that it serves, and the manifests of Holdfast itself. They are embedded,
// so that an installation is always that of the binary that makes it; nothing here
// talks to a cluster.
//
// The files under crds are generated from Go types: those of api, and those
// that the Flux project publishes. `make generate` writes them, and a test is red
// while they are older than their types. What is under shared is written by hand, for
// kinds that are another project's.
package deploy

import (
	"bytes"
	"embed"
	"errors"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/yaml"
	sigsyaml "sigs.k8s.io/yaml"

	"github.com/holdfastcd/holdfast/internal/fault"
)

// DefaultNamespace is where Holdfast runs unless told otherwise.
const DefaultNamespace = "holdfast-system"

// ServeRole is the ClusterRole by which Holdfast's own account writes to the resources
// that it serves; with [Options.Observe] it only reads.
const ServeRole = "holdfast-serve"

const (
	tenantRole      = "holdfast-tenant"
	kindNamespace   = "Namespace"
	kindDeployment  = "Deployment"
	kindRole        = "Role"
	kindRoleBinding = "RoleBinding"
	kindClusterRole = "ClusterRole"
	kindClusterBind = "ClusterRoleBinding"
)

//go:generate go test . -run=TestGenerated -update

//go:embed crds/*.yaml shared/*.yaml manifests/*.yaml permissive/*.yaml admission/*.yaml
var files embed.FS

// Options are the choices that an installation leaves to whoever makes it. The zero
// value is the installation as the manifests are written.
type Options struct {
	// Namespace is where Holdfast runs; DefaultNamespace when empty.
	Namespace string
	// Image is the container image, best by digest; that of the manifests when empty.
	Image string
	// Tenants are the namespaces whose service accounts Holdfast may act as and whose
	// Secrets it may get; all of them when empty.
	Tenants []string
	// DataClaim names a PersistentVolumeClaim in Namespace for the data directory,
	// which is lost with the Pod when empty.
	DataClaim string
	// AuditClaim names a PersistentVolumeClaim in Namespace for the audit log; when empty,
	// one is made.
	AuditClaim string
	// Permissive lets deliveries that name no account be made by Holdfast's own, which
	// is given cluster-admin for it, as Argo CD and Flux are by default.
	Permissive bool
	// Observe runs beside Argo CD or Flux and writes nothing: Holdfast's own account gets
	// no right to. Acting as the tenants' accounts, for dry runs, it keeps.
	Observe bool
	// Takeover observes too, and delivers what is taken over from the peer, resource by
	// resource: the rights are those of a whole installation.
	Takeover bool
	// SealingKeys are the namespaces, beside Namespace, with keys of SealedSecrets that
	// Holdfast opens; none: it looks into that of the stock controller, as far as it may.
	SealingKeys []string
	// Admission has the API server ask Holdfast about what others write into namespaces
	// with the label holdfast.dev/admission.
	Admission bool
	// Args are further arguments of the controller.
	Args []string
}

// SealedSecrets is the definition of SealedSecrets. Where there is one, it is never replaced.
const SealedSecrets = "sealedsecrets.bitnami.com"

// CRDs returns the definitions of the kinds that Holdfast serves, ordered by name. The
// caller owns them. An error is a defect of this package.
func CRDs() ([]*unstructured.Unstructured, error) {
	own, err := read("crds")
	if err != nil {
		return nil, err
	}
	shared, err := read("shared")
	all := slices.Concat(own, shared)
	slices.SortStableFunc(all, func(a, b *unstructured.Unstructured) int {
		return strings.Compare(groupFirst(a.GetName()), groupFirst(b.GetName()))
	})
	return all, err
}

// groupFirst turns plural.group into group_plural, as the files are named.
func groupFirst(name string) string {
	plural, group, _ := strings.Cut(name, ".")
	return group + "_" + plural
}

// Manifests returns the objects of Holdfast itself with o applied, in the order in
// which they are to be created. The caller owns them. The error is Invalid when o
// names something that cannot be a name in a cluster.
func Manifests(o Options) ([]*unstructured.Unstructured, error) {
	if o.Namespace == "" {
		o.Namespace = DefaultNamespace
	}
	if err := o.validate(); err != nil {
		return nil, err
	}
	objs, err := o.read()
	if err != nil {
		return nil, err
	}
	for _, obj := range objs {
		if err := o.adapt(obj); err != nil {
			return nil, err
		}
	}
	return o.bindTenants(o.bindSealingKeys(o.needed(objs))), nil
}

// YAML renders objects as one stream of documents, in the order given.
func YAML(objs []*unstructured.Unstructured) ([]byte, error) {
	var b bytes.Buffer
	for _, obj := range objs {
		doc, err := sigsyaml.Marshal(obj.Object)
		if err != nil {
			return nil, fault.New(fault.Internal, "write %s %s as YAML: %v", obj.GetKind(), obj.GetName(), err)
		}
		b.WriteString("---\n")
		b.Write(doc)
	}
	return b.Bytes(), nil
}

func (o Options) validate() error {
	if o.Observe && o.Admission {
		return fault.New(fault.Invalid, "--observe has no right to have the API server ask").WithHint("give --observe or --admission")
	}
	if o.Observe && o.Takeover {
		return fault.New(fault.Invalid, "--observe has no right to take anything over").WithHint("give --observe or --takeover")
	}
	for _, ns := range slices.Concat([]string{o.Namespace}, o.Tenants, o.SealingKeys) {
		if len(validation.IsDNS1123Label(ns)) > 0 {
			return fault.New(fault.Invalid, "%q is not a name for a namespace", ns).
				WithHint("lower case letters, digits and -, 63 at most")
		}
	}
	for _, claim := range []string{o.DataClaim, o.AuditClaim} {
		if claim != "" && len(validation.IsDNS1123Subdomain(claim)) > 0 {
			return fault.New(fault.Invalid, "%q is not a name for a PersistentVolumeClaim", claim)
		}
	}
	return nil
}

// read returns the manifests as they are written, and those of what was asked for besides
// before the Deployment that needs them.
func (o Options) read() ([]*unstructured.Unstructured, error) {
	objs, err := read("manifests")
	for _, extra := range []struct {
		wanted bool
		dir    string
	}{{o.Permissive, "permissive"}, {o.Admission, "admission"}} {
		if err != nil || !extra.wanted {
			continue
		}
		var more []*unstructured.Unstructured
		more, err = read(extra.dir)
		last := len(objs) - 1
		objs = append(append(objs[:last:last], more...), objs[last])
	}
	return objs, err
}

// sealingKeys is the role by which the keys of SealedSecrets are read and made.
const sealingKeys = "holdfast-sealing-keys"

// auditKey is the role by which the key of the audit log is made as a Secret,
// sealedSecrets the one that lets those who may write Secrets write sealed ones.
const (
	auditKey      = "holdfast-audit-key"
	sealedSecrets = "holdfast-sealedsecrets"
)

// needed leaves out the claim for the audit log where another is named; for who may write
// nothing also the right to make its key, which lies beside the log then, and what
// tenants of a cluster that somebody else delivers to have already.
func (o Options) needed(objs []*unstructured.Unstructured) []*unstructured.Unstructured {
	return slices.DeleteFunc(objs, func(obj *unstructured.Unstructured) bool {
		return o.AuditClaim != "" && obj.GetKind() == "PersistentVolumeClaim" ||
			o.Observe && (obj.GetName() == auditKey || obj.GetName() == sealedSecrets)
	})
}

// adapt moves obj into o's namespace and gives the Deployment its image, arguments
// and volume.
func (o Options) adapt(obj *unstructured.Unstructured) error {
	if obj.GetKind() == kindNamespace {
		obj.SetName(o.Namespace)
	}
	if obj.GetNamespace() != "" {
		obj.SetNamespace(o.Namespace)
	}
	if err := o.adaptSubjects(obj); err != nil {
		return err
	}
	if o.Observe && (obj.GetKind() == kindClusterRole && obj.GetName() == ServeRole || obj.GetKind() == kindRole && obj.GetName() == sealingKeys) {
		return readOnly(obj)
	}
	if obj.GetKind() != kindDeployment {
		return nil
	}
	return o.adaptPod(obj)
}

// adaptSubjects follows the service account into o's namespace.
func (o Options) adaptSubjects(obj *unstructured.Unstructured) error {
	subjects, found, err := unstructured.NestedSlice(obj.Object, "subjects")
	if err != nil || !found {
		return err
	}
	for _, s := range subjects {
		if m, ok := s.(map[string]any); ok {
			m["namespace"] = o.Namespace
		}
	}
	return unstructured.SetNestedSlice(obj.Object, subjects, "subjects")
}

// ReadsOnly reports whether a role, as a cluster has it, permits no write.
func ReadsOnly(role *unstructured.Unstructured) bool {
	rules, _, _ := unstructured.NestedSlice(role.Object, "rules")
	return !slices.ContainsFunc(rules, func(rule any) bool {
		m, _ := rule.(map[string]any)
		verbs, _, _ := unstructured.NestedStringSlice(m, "verbs")
		return slices.ContainsFunc(verbs, writes)
	})
}

func writes(verb string) bool { return !slices.Contains([]string{"get", "list", "watch"}, verb) }

// readOnly leaves the verbs of a role that read, and the rules that have one.
func readOnly(role *unstructured.Unstructured) error {
	rules, _, err := unstructured.NestedSlice(role.Object, "rules")
	if err != nil {
		return err
	}
	var left []any
	for _, rule := range rules {
		m, _ := rule.(map[string]any)
		verbs, _, err := unstructured.NestedStringSlice(m, "verbs")
		if err != nil {
			return err
		}
		verbs = slices.DeleteFunc(verbs, writes)
		if len(verbs) == 0 {
			continue
		}
		if err := unstructured.SetNestedStringSlice(m, verbs, "verbs"); err != nil {
			return err
		}
		left = append(left, m)
	}
	return unstructured.SetNestedSlice(role.Object, left, "rules")
}

func (o Options) adaptPod(obj *unstructured.Unstructured) error {
	pod, _, err := unstructured.NestedMap(obj.Object, "spec", "template", "spec")
	if err != nil {
		return err
	}
	containers, _, err := unstructured.NestedSlice(pod, "containers")
	if err != nil || len(containers) != 1 {
		return fault.New(fault.Internal, "the Deployment's manifest does not have one container")
	}
	c, _ := containers[0].(map[string]any)
	if o.Image != "" {
		c["image"] = o.Image
	}
	args, _, err := unstructured.NestedStringSlice(c, "args")
	if err != nil {
		return err
	}
	if o.Permissive {
		args = append(args, "--permissive")
	}
	if o.Observe || o.Takeover {
		args = append(args, "--observe")
	}
	if o.Admission {
		args = append(args, "--admission-address=:9443")
		ports, _, _ := unstructured.NestedSlice(c, "ports")
		c["ports"] = append(ports, map[string]any{"name": "admission", "containerPort": int64(9443), "protocol": "TCP"})
	}
	if o.Observe {
		args = append(args, "--audit-key=/audit/audit.key")
	}
	if len(o.SealingKeys) > 0 {
		args = append(args, "--sealing-key-namespace="+strings.Join(append(slices.Clone(o.SealingKeys), o.Namespace), ","))
	}
	if err := unstructured.SetNestedStringSlice(c, append(args, o.Args...), "args"); err != nil {
		return err
	}
	pod["containers"] = containers
	o.claim(pod, "data", o.DataClaim)
	o.claim(pod, "audit", o.AuditClaim)
	return unstructured.SetNestedMap(obj.Object, pod, "spec", "template", "spec")
}

// claim puts a PersistentVolumeClaim where pod has the volume called name; an empty
// one leaves it as it is.
func (Options) claim(pod map[string]any, name, claim string) {
	volumes, _, _ := unstructured.NestedSlice(pod, "volumes")
	for i, v := range volumes {
		if m, ok := v.(map[string]any); ok && m["name"] == name && claim != "" {
			volumes[i] = map[string]any{"name": name, "persistentVolumeClaim": map[string]any{"claimName": claim}}
		}
	}
	pod["volumes"] = volumes
}

// bindSealingKeys makes the role for sealing keys, and its binding, in each of the
// namespaces that have some, too.
func (o Options) bindSealingKeys(objs []*unstructured.Unstructured) []*unstructured.Unstructured {
	var more []*unstructured.Unstructured
	for _, ns := range slices.Compact(slices.Sorted(slices.Values(o.SealingKeys))) {
		for _, obj := range objs {
			if obj.GetName() == sealingKeys && ns != o.Namespace {
				there := obj.DeepCopy()
				there.SetNamespace(ns)
				more = append(more, there)
			}
		}
	}
	last := len(objs) - 1 // the Deployment, which needs them
	return append(append(objs[:last:last], more...), objs[last])
}

// bindTenants replaces the binding of the tenant role that reaches every namespace
// by one in each of o's tenants. Without tenants, objs is returned as it is.
func (o Options) bindTenants(objs []*unstructured.Unstructured) []*unstructured.Unstructured {
	if len(o.Tenants) == 0 {
		return objs
	}
	i := slices.IndexFunc(objs, func(obj *unstructured.Unstructured) bool {
		return obj.GetKind() == kindClusterBind && obj.GetName() == tenantRole
	})
	if i < 0 {
		return objs
	}
	var bindings []*unstructured.Unstructured
	tenants := slices.Sorted(slices.Values(o.Tenants))
	for _, ns := range slices.Compact(tenants) {
		b := objs[i].DeepCopy()
		b.SetKind(kindRoleBinding)
		b.SetNamespace(ns)
		bindings = append(bindings, b)
	}
	return slices.Replace(objs, i, i+1, bindings...)
}

// read parses the files of a directory in the order of their names.
func read(dir string) ([]*unstructured.Unstructured, error) {
	entries, err := fs.ReadDir(files, dir)
	if err != nil {
		return nil, err
	}
	var objs []*unstructured.Unstructured
	for _, e := range entries {
		file := path.Join(dir, e.Name())
		data, err := fs.ReadFile(files, file)
		if err != nil {
			return nil, err
		}
		more, err := parse(data)
		if err != nil {
			return nil, fault.New(fault.Internal, "parse embedded manifest: %v", err).At(file, 0)
		}
		objs = append(objs, more...)
	}
	return objs, nil
}

// parse reads a stream of documents. Numbers stay whole, as clients expect of
// unstructured objects.
func parse(data []byte) ([]*unstructured.Unstructured, error) {
	var objs []*unstructured.Unstructured
	dec := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(data), 4096)
	for {
		var doc runtime.RawExtension
		err := dec.Decode(&doc)
		if errors.Is(err, io.EOF) {
			return objs, nil
		}
		if err != nil {
			return nil, err
		}
		if len(doc.Raw) == 0 {
			continue
		}
		obj := &unstructured.Unstructured{}
		if err := obj.UnmarshalJSON(doc.Raw); err != nil {
			return nil, err
		}
		objs = append(objs, obj)
	}
}
