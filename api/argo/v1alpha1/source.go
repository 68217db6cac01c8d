package v1alpha1

import (
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// ApplicationSource is one place that manifests come from, and how to render them.
// At most one of helm, kustomize, directory and plugin is set.
type ApplicationSource struct {
	// RepoURL is a Git repository, a Helm repository or, with oci://, an OCI one.
	//
	// +required
	RepoURL string `json:"repoURL"`
	// Path is a directory in a Git repository or OCI artifact.
	Path string `json:"path,omitempty"`
	// TargetRevision is a branch, tag, commit, HEAD, or a version or range of a chart.
	TargetRevision string `json:"targetRevision,omitempty"`
	// Chart is the name of a chart in a Helm repository.
	Chart string `json:"chart,omitempty"`
	// Ref is the name by which value files of other sources reach into this one.
	Ref string `json:"ref,omitempty"`
	// Name labels this source for people.
	Name string `json:"name,omitempty"`
	// TagPrefix limits which tags a semantic version range in targetRevision sees.
	TagPrefix string `json:"tagPrefix,omitempty"`

	Helm      *ApplicationSourceHelm      `json:"helm,omitempty"`
	Kustomize *ApplicationSourceKustomize `json:"kustomize,omitempty"`
	Directory *ApplicationSourceDirectory `json:"directory,omitempty"`
	Plugin    *ApplicationSourcePlugin    `json:"plugin,omitempty"`
}

// ApplicationSourceHelm says how to render a chart. Later in this list wins: the
// chart's values, valueFiles, values, valuesObject, parameters.
type ApplicationSourceHelm struct {
	// ValueFiles are paths, globs, $ref/ paths or URLs of value files.
	ValueFiles []string `json:"valueFiles,omitempty"`
	// Parameters are single values by their dotted path.
	Parameters []HelmParameter `json:"parameters,omitempty"`
	// FileParameters are single values read from files.
	FileParameters []HelmFileParameter `json:"fileParameters,omitempty"`
	// ReleaseName is the Application's name when empty.
	ReleaseName string `json:"releaseName,omitempty"`
	// Values are values as YAML text.
	Values string `json:"values,omitempty"`
	// ValuesObject are values as an object; they win over values.
	//
	// +kubebuilder:validation:Type=object
	// +kubebuilder:pruning:PreserveUnknownFields
	ValuesObject *runtime.RawExtension `json:"valuesObject,omitempty"`
	// Version names a major version of Helm; it has no effect any more.
	Version string `json:"version,omitempty"`
	// PassCredentials sends credentials to every host that a chart is fetched from.
	PassCredentials bool `json:"passCredentials,omitempty"`
	// IgnoreMissingValueFiles skips value files that do not exist.
	IgnoreMissingValueFiles bool `json:"ignoreMissingValueFiles,omitempty"`
	// SkipCrds leaves out the chart's crds directory.
	SkipCrds bool `json:"skipCrds,omitempty"`
	// SkipTests leaves out test manifests.
	SkipTests bool `json:"skipTests,omitempty"`
	// SkipSchemaValidation does not check values against the chart's schema.
	SkipSchemaValidation bool `json:"skipSchemaValidation,omitempty"`
	// Namespace is the release namespace; the destination's when empty.
	Namespace string `json:"namespace,omitempty"`
	// KubeVersion is the Kubernetes version that templates see.
	KubeVersion string `json:"kubeVersion,omitempty"`
	// APIVersions are the API versions that templates see.
	APIVersions []string `json:"apiVersions,omitempty"`
}

// HelmParameter sets one value.
type HelmParameter struct {
	Name  string `json:"name,omitempty"`
	Value string `json:"value,omitempty"`
	// ForceString keeps numbers and booleans as text.
	ForceString bool `json:"forceString,omitempty"`
}

// HelmFileParameter sets one value to the content of a file.
type HelmFileParameter struct {
	Name string `json:"name,omitempty"`
	Path string `json:"path,omitempty"`
}

// ApplicationSourceKustomize is merged into the kustomization at the source's path.
type ApplicationSourceKustomize struct {
	NamePrefix string `json:"namePrefix,omitempty"`
	NameSuffix string `json:"nameSuffix,omitempty"`
	// Images are overrides of the form [old=]new[:tag|@digest].
	Images []string `json:"images,omitempty"`
	// Replicas overrides the replica counts of workloads by name.
	Replicas []KustomizeReplica `json:"replicas,omitempty"`
	Patches  []KustomizePatch   `json:"patches,omitempty"`
	// Components are directories of Kustomize components.
	Components []string `json:"components,omitempty"`
	// IgnoreMissingComponents skips components that do not exist.
	IgnoreMissingComponents bool              `json:"ignoreMissingComponents,omitempty"`
	CommonLabels            map[string]string `json:"commonLabels,omitempty"`
	CommonAnnotations       map[string]string `json:"commonAnnotations,omitempty"`
	// ForceCommonLabels replaces labels that are there already.
	ForceCommonLabels bool `json:"forceCommonLabels,omitempty"`
	// ForceCommonAnnotations replaces annotations that are there already.
	ForceCommonAnnotations bool `json:"forceCommonAnnotations,omitempty"`
	// CommonAnnotationsEnvsubst fills build variables into annotation values.
	CommonAnnotationsEnvsubst bool `json:"commonAnnotationsEnvsubst,omitempty"`
	// LabelWithoutSelector keeps common labels out of selectors.
	LabelWithoutSelector bool `json:"labelWithoutSelector,omitempty"`
	// LabelIncludeTemplates puts common labels on pod templates although selectors go without.
	LabelIncludeTemplates bool `json:"labelIncludeTemplates,omitempty"`
	// Namespace is given to every namespaced object.
	Namespace string `json:"namespace,omitempty"`
	// Version names a configured Kustomize binary.
	Version string `json:"version,omitempty"`
	// KubeVersion is the Kubernetes version that inflated charts see.
	KubeVersion string `json:"kubeVersion,omitempty"`
	// APIVersions are the API versions that inflated charts see.
	APIVersions []string `json:"apiVersions,omitempty"`
}

// KustomizeReplica sets the replica count of the workloads with a name.
type KustomizeReplica struct {
	// +required
	Name string `json:"name"`
	// +required
	Count intstr.IntOrString `json:"count"`
}

// KustomizePatch is a patch, inline or in a file, and what it applies to.
type KustomizePatch struct {
	Path    string             `json:"path,omitempty"`
	Patch   string             `json:"patch,omitempty"`
	Target  *KustomizeSelector `json:"target,omitempty"`
	Options map[string]bool    `json:"options,omitempty"`
}

// KustomizeSelector selects objects by patterns of their identity and by selectors.
type KustomizeSelector struct {
	Group              string `json:"group,omitempty"`
	Version            string `json:"version,omitempty"`
	Kind               string `json:"kind,omitempty"`
	Name               string `json:"name,omitempty"`
	Namespace          string `json:"namespace,omitempty"`
	LabelSelector      string `json:"labelSelector,omitempty"`
	AnnotationSelector string `json:"annotationSelector,omitempty"`
}

// ApplicationSourceDirectory says which files of a directory are manifests.
type ApplicationSourceDirectory struct {
	// Recurse descends into subdirectories.
	Recurse bool `json:"recurse,omitempty"`
	// Include is a glob, or a {set,of} globs, that paths must match.
	Include string `json:"include,omitempty"`
	// Exclude is a glob, or a {set,of} globs, that paths must not match.
	Exclude string `json:"exclude,omitempty"`
	// DisableExtensionFilter reads files whatever their name ends in.
	DisableExtensionFilter bool `json:"disableExtensionFilter,omitempty"`
	// Jsonnet says how .jsonnet files are evaluated.
	Jsonnet ApplicationSourceJsonnet `json:"jsonnet,omitzero"`
}

// ApplicationSourceJsonnet is what Jsonnet programs are given.
type ApplicationSourceJsonnet struct {
	// ExtVars are external variables.
	ExtVars []JsonnetVar `json:"extVars,omitempty"`
	// TLAs are top-level arguments.
	TLAs []JsonnetVar `json:"tlas,omitempty"`
	// Libs are directories to import from.
	Libs []string `json:"libs,omitempty"`
}

// JsonnetVar is a variable: text or, with code, an expression.
type JsonnetVar struct {
	// +required
	Name string `json:"name"`
	// +required
	Value string `json:"value"`
	Code  bool   `json:"code,omitempty"`
}

// ApplicationSourcePlugin names a config management plugin and what it is given.
type ApplicationSourcePlugin struct {
	// Name is the plugin's name, or name-version.
	Name       string            `json:"name,omitempty"`
	Env        []EnvEntry        `json:"env,omitempty"`
	Parameters []PluginParameter `json:"parameters,omitempty"`
}

// EnvEntry is one environment variable.
type EnvEntry struct {
	// +required
	Name string `json:"name"`
	// +required
	Value string `json:"value"`
}

// PluginParameter is a parameter whose value is a text, a list or a map.
type PluginParameter struct {
	Name   string            `json:"name,omitempty"`
	String *string           `json:"string,omitempty"`
	Array  []string          `json:"array,omitzero"`
	Map    map[string]string `json:"map,omitzero"`
}

// SourceHydrator renders a dry source, commits the result and delivers from there.
type SourceHydrator struct {
	// DrySource is where the unrendered manifests are.
	//
	// +required
	DrySource DrySource `json:"drySource"`
	// SyncSource is where the rendered manifests are delivered from.
	//
	// +required
	SyncSource SyncSource `json:"syncSource"`
	// HydrateTo is a branch to commit to instead of the one delivered from.
	HydrateTo *HydrateTo `json:"hydrateTo,omitempty"`
}

// DrySource is the unrendered side of a SourceHydrator.
type DrySource struct {
	// +required
	RepoURL string `json:"repoURL"`
	// +required
	TargetRevision string `json:"targetRevision"`
	// +required
	Path string `json:"path"`

	Helm      *ApplicationSourceHelm      `json:"helm,omitempty"`
	Kustomize *ApplicationSourceKustomize `json:"kustomize,omitempty"`
	Directory *ApplicationSourceDirectory `json:"directory,omitempty"`
	Plugin    *ApplicationSourcePlugin    `json:"plugin,omitempty"`
}

// SyncSource is the rendered side of a SourceHydrator.
type SyncSource struct {
	// RepoURL is the dry source's repository when empty.
	RepoURL string `json:"repoURL,omitempty"`
	// +required
	TargetBranch string `json:"targetBranch"`
	// Path is a directory, never the root of the repository.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:Pattern=`^.{2,}|[^./]$`
	Path string `json:"path"`
}

// HydrateTo is the branch that rendered manifests are committed to.
type HydrateTo struct {
	// +required
	TargetBranch string `json:"targetBranch"`
}
