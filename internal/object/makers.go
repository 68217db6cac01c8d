package object

import (
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
)

// Groups of what makes Secrets.
const (
	external   = "external-secrets.io"
	generators = "generators.external-secrets.io"
	bitnami    = "bitnami.com"
)

const sealedKind = "SealedSecret"

// SealedSecret is the identity of a SealedSecret.
func SealedSecret(namespace, name string) ID {
	return ID{Group: bitnami, Kind: sealedKind, Namespace: namespace, Name: name}
}

// IsSealedSecret reports whether id is a SealedSecret's.
func (id ID) IsSealedSecret() bool { return id.Group == bitnami && id.Kind == sealedKind }

// maker is a kind whose controller makes Secrets.
type maker struct {
	// makes returns the Secrets that an object of the kind has made, among objects.
	makes func(o *Object, among []Object) []ID
	// sources are where an object names what its values come from: paths to maps with
	// the fields kind and name.
	sources []string
	// operator is how the repository of its controller's image ends.
	operator string
}

// makers are the kinds that have Secrets made. Sources: the types of
// external-secrets.io/v1 and bitnami.com/v1alpha1; a SealedSecret is opened under its
// own name.
var makers = map[ID]maker{
	{Group: external, Kind: "ExternalSecret"}: {
		makes: func(o *Object, _ []Object) []ID {
			spec, _ := o.Object["spec"].(map[string]any)
			return named(targetOf(spec, o.GetName()), o.GetNamespace())
		},
		sources:  sourcesBelow("spec"),
		operator: "external-secrets/external-secrets",
	},
	{Group: external, Kind: "ClusterExternalSecret"}: {
		makes:    madeBySpread,
		sources:  sourcesBelow("spec.externalSecretSpec"),
		operator: "external-secrets/external-secrets",
	},
	{Group: bitnami, Kind: sealedKind}: {
		makes:    func(o *Object, _ []Object) []ID { return named(o.GetName(), o.GetNamespace()) },
		operator: "sealed-secrets-controller",
	},
}

func makerOf(id ID) (maker, bool) {
	m, ok := makers[ID{Group: id.Group, Kind: id.Kind}]
	return m, ok
}

func sourcesBelow(spec string) []string {
	return []string{
		spec + ".secretStoreRef.name", spec + ".data[].sourceRef.storeRef.name",
		spec + ".dataFrom[].sourceRef.storeRef.name", spec + ".dataFrom[].sourceRef.generatorRef.name",
	}
}

// named returns the Secret of a name in each of the namespaces; none has no name.
func named(name string, namespaces ...string) []ID {
	if name == "" {
		return nil
	}
	ids := make([]ID, 0, len(namespaces))
	for _, ns := range namespaces {
		ids = append(ids, ID{Kind: "Secret", Namespace: ns, Name: name})
	}
	return ids
}

// targetOf returns the name of the Secret that the spec of an ExternalSecret makes; ""
// if it makes none: it fills one that others make (Merge), keeps what it fetches to
// itself (None), or makes something else.
func targetOf(spec map[string]any, name string) string {
	target, _ := spec["target"].(map[string]any)
	if target["creationPolicy"] == "Merge" || target["creationPolicy"] == "None" {
		return ""
	}
	if manifest, other := target["manifest"].(map[string]any); other && manifest["kind"] != "Secret" {
		return ""
	}
	if given, _ := target["name"].(string); given != "" {
		return given
	}
	return name
}

// madeBySpread returns what a ClusterExternalSecret makes in the namespaces that it
// names, and in those among objects that it selects. Of others, nobody knows here.
func madeBySpread(o *Object, among []Object) []ID {
	spec, _ := o.Object["spec"].(map[string]any)
	inner, _ := spec["externalSecretSpec"].(map[string]any)
	name, _ := spec["externalSecretName"].(string)
	if name == "" {
		name = o.GetName()
	}
	var namespaces []string
	given, _ := spec["namespaces"].([]any)
	for _, ns := range given {
		if ns, ok := ns.(string); ok {
			namespaces = append(namespaces, ns)
		}
	}
	selectors, _ := spec["namespaceSelectors"].([]any)
	for _, s := range append(slices.Clone(selectors), spec["namespaceSelector"]) {
		namespaces = append(namespaces, selected(s, among)...)
	}
	return named(targetOf(inner, name), namespaces...)
}

// selected returns the names of the Namespaces among objects that a selector matches. A
// selector that cannot be read matches none.
func selected(selector any, among []Object) []string {
	fields, ok := selector.(map[string]any)
	if !ok {
		return nil
	}
	var typed metav1.LabelSelector
	if runtime.DefaultUnstructuredConverter.FromUnstructured(fields, &typed) != nil {
		return nil
	}
	matcher, err := metav1.LabelSelectorAsSelector(&typed)
	if err != nil {
		return nil
	}
	var names []string
	for i := range among {
		o := &among[i]
		if o.ID() != (ID{Kind: "Namespace", Name: o.GetName()}) {
			continue
		}
		has := labels.Merge(o.GetLabels(), labels.Set{"kubernetes.io/metadata.name": o.GetName()})
		if matcher.Matches(has) {
			names = append(names, o.GetName())
		}
	}
	return names
}

// sourcesOf returns the stores and generators that an object takes values from, as one
// that works in a namespace.
func (m maker) sourcesOf(o *Object, namespace string) []ID {
	var ids []ID
	for _, path := range m.sources {
		walkPath(o.Object, path, func(ref map[string]any, field string) {
			name, _ := ref[field].(string)
			if name == "" {
				return
			}
			id := ID{Group: external, Kind: "SecretStore", Namespace: namespace, Name: name}
			if kind, _ := ref["kind"].(string); kind != "" {
				id.Kind = kind
			}
			if strings.HasSuffix(path, ".generatorRef.name") {
				id.Group = generators
			}
			if strings.HasPrefix(id.Kind, "Cluster") {
				id.Namespace = ""
			}
			ids = append(ids, id)
		})
	}
	return ids
}
