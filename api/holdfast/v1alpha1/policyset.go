package v1alpha1

import (
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// PolicySet is policies, and the deliveries whose objects they judge before anything of
// them is applied. Several that select one delivery add up: each must hold.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:path=policysets,scope=Cluster,shortName=pset,categories=holdfast
// +kubebuilder:printcolumn:name="Mode",type=string,JSONPath=`.spec.mode`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Selected",type=integer,JSONPath=`.status.selected`
// +kubebuilder:printcolumn:name="Refused",type=integer,JSONPath=`.status.refused`
// +kubebuilder:printcolumn:name="Warned",type=integer,JSONPath=`.status.warned`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Revision",type=string,priority=1,JSONPath=`.status.revision`
// +kubebuilder:printcolumn:name="Status",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Ready")].message`
type PolicySet struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`

	// +required
	Spec   PolicySetSpec   `json:"spec"`
	Status PolicySetStatus `json:"status,omitzero"`
}

// PolicySetList is a list of PolicySets.
//
// +kubebuilder:object:root=true
type PolicySetList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata"`

	Items []PolicySet `json:"items"`
}

// ModeWarn is the mode of a PolicySet that refuses nothing.
const ModeWarn = "warn"

// PolicySetSpec is what is judged by, and which deliveries.
//
// +kubebuilder:pruning:PreserveUnknownFields
// +kubebuilder:validation:XValidation:rule="has(self.sources) || has(self.inline) || has(self.builtin) || has(self.cluster)",message="the set has no policies: set sources, inline, builtin or cluster"
type PolicySetSpec struct {
	// Mode is enforce, which refuses a delivery that breaks a policy, or warn, which
	// delivers it and tells.
	//
	// +kubebuilder:validation:Enum=enforce;warn
	// +kubebuilder:default=enforce
	Mode string `json:"mode,omitempty"`
	// Select says which deliveries the set is for; all of them if it is empty.
	Select Select `json:"select,omitzero"`
	// Sources are where files with policies are kept.
	//
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	Sources []PolicySource `json:"sources,omitempty"`
	// Inline are files with policies, in the object itself.
	//
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	// +listType=map
	// +listMapKey=name
	Inline []InlinePolicy `json:"inline,omitempty"`
	// Builtin switches on policies that Holdfast brings.
	//
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	// +listType=map
	// +listMapKey=name
	Builtin []BuiltinPolicy `json:"builtin,omitempty"`
	// Cluster takes in the policies that lie in the cluster, of these kinds.
	//
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=3
	// +kubebuilder:validation:items:Enum=ValidatingAdmissionPolicy;Kyverno;Gatekeeper
	// +listType=set
	Cluster []string `json:"cluster,omitempty"`
	// Exceptions excuse what would fail, each until a day.
	//
	// +kubebuilder:validation:MaxItems=256
	Exceptions []PolicyException `json:"exceptions,omitempty"`
}

// The kinds of policies in the cluster.
const (
	ClusterValidatingAdmissionPolicy = "ValidatingAdmissionPolicy"
	ClusterKyverno                   = "Kyverno"
	ClusterGatekeeper                = "Gatekeeper"
)

// PolicySource is where files with policies are kept.
//
// +kubebuilder:pruning:PreserveUnknownFields
// +kubebuilder:validation:XValidation:rule="[has(self.git), has(self.gitRepositoryRef), has(self.oci), has(self.bucket)].filter(x, x).size() == 1",message="set exactly one of git, gitRepositoryRef, oci and bucket"
type PolicySource struct {
	// Git is a repository, by its address.
	Git *GitSource `json:"git,omitempty"`
	// GitRepositoryRef is a GitRepository of Flux's, which is fetched as it says.
	GitRepositoryRef *ObjectRef `json:"gitRepositoryRef,omitempty"`
	// OCI is an artifact in a registry.
	OCI *OCISource `json:"oci,omitempty"`
	// Bucket is a bucket of S3, or of what speaks like it.
	Bucket *BucketSource `json:"bucket,omitempty"`
	// Path is the directory, or the file, in the source; all of it if it is empty. Read
	// are files named *.rego, *.yaml, *.yml and *.json.
	//
	// +kubebuilder:validation:MaxLength=1024
	Path string `json:"path,omitempty"`
}

// GitSource is a Git repository.
//
// +kubebuilder:pruning:PreserveUnknownFields
type GitSource struct {
	// URL is its address: https, or ssh.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=2048
	URL string `json:"url"`
	// Ref chooses a revision; the branch that the server's HEAD names if it is empty.
	Ref GitRef `json:"ref,omitzero"`
	// SecretRef names a Secret in the format of Flux's Git sources: username and
	// password, bearerToken, identity and known_hosts, ca.crt.
	SecretRef *ObjectRef `json:"secretRef,omitempty"`
	// Interval is how often the server is asked; 5m if it is empty.
	Interval *metav1.Duration `json:"interval,omitempty"`
}

// GitRef chooses a revision of a repository. At most one is set, but for a commit
// beside the branch that it must be on.
//
// +kubebuilder:pruning:PreserveUnknownFields
type GitRef struct {
	// +kubebuilder:validation:MaxLength=1024
	Branch string `json:"branch,omitempty"`
	// +kubebuilder:validation:MaxLength=1024
	Tag string `json:"tag,omitempty"`
	// SemVer is a range of versions; the highest tag within it counts.
	//
	// +kubebuilder:validation:MaxLength=1024
	SemVer string `json:"semver,omitempty"`
	// Commit is a full commit id.
	//
	// +kubebuilder:validation:Pattern=`^([0-9a-f]{40}|[0-9a-f]{64})$`
	Commit string `json:"commit,omitempty"`
}

// OCISource is an artifact in a registry: one layer that is a tar compressed by gzip, as
// flux push artifact and opa build make it, or files with names, as oras push and conftest
// push do.
//
// +kubebuilder:pruning:PreserveUnknownFields
type OCISource struct {
	// URL is its address without a tag: oci://host/repository.
	//
	// +required
	// +kubebuilder:validation:Pattern=`^oci://.+$`
	// +kubebuilder:validation:MaxLength=2048
	URL string `json:"url"`
	// Ref chooses a revision; the tag latest if it is empty.
	Ref OCIRef `json:"ref,omitzero"`
	// SecretRef names a Secret with what the registry is asked by: .dockerconfigjson, or
	// username and password; and ca.crt.
	SecretRef *ObjectRef `json:"secretRef,omitempty"`
	// Interval is how often the registry is asked; 5m if it is empty.
	Interval *metav1.Duration `json:"interval,omitempty"`
	// Insecure speaks HTTP to the registry: anybody on the way may change the policies.
	Insecure bool `json:"insecure,omitempty"`
}

// OCIRef chooses a revision of an artifact. At most one is set.
//
// +kubebuilder:pruning:PreserveUnknownFields
type OCIRef struct {
	// +kubebuilder:validation:MaxLength=128
	Tag string `json:"tag,omitempty"`
	// SemVer is a range of versions; the highest tag within it counts.
	//
	// +kubebuilder:validation:MaxLength=1024
	SemVer string `json:"semver,omitempty"`
	// Digest is that of the manifest.
	//
	// +kubebuilder:validation:Pattern=`^sha256:[0-9a-f]{64}$`
	Digest string `json:"digest,omitempty"`
}

// BucketSource is a bucket of S3, or of what speaks like it.
//
// +kubebuilder:pruning:PreserveUnknownFields
type BucketSource struct {
	// Endpoint is the server: a host, with a port where it has one.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Endpoint string `json:"endpoint"`
	// Name is that of the bucket.
	//
	// +required
	// +kubebuilder:validation:MinLength=3
	// +kubebuilder:validation:MaxLength=63
	Name string `json:"name"`
	// Region is the bucket's; us-east-1 if it is empty.
	//
	// +kubebuilder:validation:MaxLength=63
	Region string `json:"region,omitempty"`
	// Prefix is what the keys of objects begin with that are read; all if it is empty. It
	// stays a part of their names.
	//
	// +kubebuilder:validation:MaxLength=1024
	Prefix string `json:"prefix,omitempty"`
	// SecretRef names a Secret with accesskey and secretkey, and ca.crt. Without it, the
	// bucket is asked without credentials.
	SecretRef *ObjectRef `json:"secretRef,omitempty"`
	// Interval is how often the bucket is listed; 5m if it is empty.
	Interval *metav1.Duration `json:"interval,omitempty"`
	// Insecure speaks HTTP to the server: anybody on the way may change the policies.
	Insecure bool `json:"insecure,omitempty"`
}

// InlinePolicy is a file with policies.
//
// +kubebuilder:pruning:PreserveUnknownFields
type InlinePolicy struct {
	// Name is that of a file, which says what it holds: no-latest.rego, vap.yaml.
	//
	// +required
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9][A-Za-z0-9._-]*\.(rego|yaml|yml|json)$`
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
	// Content is what the file holds.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=524288
	Content string `json:"content"`
}

// BuiltinPolicy switches on one of Holdfast's own policies.
//
// +kubebuilder:pruning:PreserveUnknownFields
type BuiltinPolicy struct {
	// Name is which.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Name string `json:"name"`
	// Parameters are what the policy leaves to choose.
	//
	// +kubebuilder:pruning:PreserveUnknownFields
	Parameters *apiextensionsv1.JSON `json:"parameters,omitempty"`
}

// PolicyException excuses what would fail. Of the patterns that are set, all must
// match; each is a glob, and one that is not set matches anything.
//
// +kubebuilder:pruning:PreserveUnknownFields
// +kubebuilder:validation:XValidation:rule="has(self.policy) || has(self.rule) || has(self.kind) || has(self.namespace) || has(self.name)",message="the exception would excuse everything: set policy, rule, kind, namespace or name"
type PolicyException struct {
	// Policy is the name of a policy, as verdicts have it before the slash.
	//
	// +kubebuilder:validation:MaxLength=253
	Policy string `json:"policy,omitempty"`
	// Rule is a rule of it, as verdicts have it behind the slash.
	//
	// +kubebuilder:validation:MaxLength=253
	Rule string `json:"rule,omitempty"`
	// Kind is that of the object.
	//
	// +kubebuilder:validation:MaxLength=253
	Kind string `json:"kind,omitempty"`
	// Namespace is that of the object.
	//
	// +kubebuilder:validation:MaxLength=253
	Namespace string `json:"namespace,omitempty"`
	// Name is that of the object.
	//
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name,omitempty"`
	// Owner answers for it.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Owner string `json:"owner"`
	// Reason is for people.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	Reason string `json:"reason"`
	// Expires is the last day on which it counts, as 2006-01-02; at most a year ahead.
	//
	// +required
	// +kubebuilder:validation:Pattern=`^[0-9]{4}-[0-9]{2}-[0-9]{2}$`
	Expires string `json:"expires"`
}

// The conditions of a PolicySet, beside those of a TrustPolicy.
const (
	// ConditionStale is there, as True, where a source cannot be had, and what was read
	// of it before is judged by.
	ConditionStale = "Stale"
	// ConditionExpiring is there, as True, where an exception ends within a week, or has
	// ended.
	ConditionExpiring = "ExceptionExpiring"
	// ConditionAbsent is there, as True, where the cluster serves no kind of something that
	// spec.cluster names.
	ConditionAbsent = "Absent"
)

// PolicySetStatus is how a set stands.
type PolicySetStatus struct {
	// ObservedGeneration is the generation that the status is about.
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// Conditions are Ready, and Broken, Stale and ExceptionExpiring where it is.
	//
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
	// Revision is what the policies were read from: commits, or a digest where there is none.
	Revision string `json:"revision,omitempty"`
	// Selected is how many deliveries the set is for.
	Selected int64 `json:"selected"`
	// Refused is how many of them it refuses at present; absent while nobody knows. Those
	// whose objects are live, and of which it would refuse the next change, count too.
	Refused *int64 `json:"refused,omitempty"`
	// Warned is how many it only warns of; absent while nobody knows.
	Warned *int64 `json:"warned,omitempty"`
	// Failing are the first of both.
	//
	// +kubebuilder:validation:MaxItems=20
	// +listType=atomic
	Failing []FailingDelivery `json:"failing,omitempty"`
}

// The outcomes of a delivery that a set finds fault with.
const (
	OutcomeRefused      = "Refused"
	OutcomeWouldRefuse  = "WouldRefuse"
	OutcomePolicyWarned = "Warned"
)

// FailingDelivery is a delivery that a set finds fault with.
type FailingDelivery struct {
	// Delivery is Kind/namespace/name.
	Delivery string `json:"delivery"`
	// Outcome is Refused; WouldRefuse, where what is found was live before the set
	// forbade it, and stays until its next change; or Warned.
	Outcome string `json:"outcome"`
	// Message is the first finding.
	Message string `json:"message,omitempty"`
}
