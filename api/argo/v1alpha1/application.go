package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Application asks that what a source renders be held in a destination.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:path=applications,shortName=app;apps
// +kubebuilder:printcolumn:name="Sync Status",type=string,JSONPath=`.status.sync.status`
// +kubebuilder:printcolumn:name="Health Status",type=string,JSONPath=`.status.health.status`
// +kubebuilder:printcolumn:name="Revision",type=string,JSONPath=`.status.sync.revision`,priority=10
// +kubebuilder:printcolumn:name="Project",type=string,JSONPath=`.spec.project`,priority=10
type Application struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`

	// +required
	Spec   ApplicationSpec   `json:"spec"`
	Status ApplicationStatus `json:"status,omitzero"`
	// Operation requests work. Whoever wants a sync writes it; the controller
	// removes it when the work is done and keeps the account in status.operationState.
	Operation *Operation `json:"operation,omitempty"`
}

// ApplicationList is a list of Applications.
//
// +kubebuilder:object:root=true
type ApplicationList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata"`

	Items []Application `json:"items"`
}

// ApplicationSpec says what to deliver, where to, and how.
type ApplicationSpec struct {
	// Source is where the manifests come from. It does not count when sources or
	// sourceHydrator is set.
	Source *ApplicationSource `json:"source,omitempty"`
	// Sources are several sources whose manifests are delivered together.
	Sources []ApplicationSource `json:"sources,omitempty"`
	// SourceHydrator renders one branch into another and delivers from that one.
	SourceHydrator *SourceHydrator `json:"sourceHydrator,omitempty"`
	// Destination is the cluster, and the namespace for objects that name none.
	//
	// +required
	Destination ApplicationDestination `json:"destination"`
	// Project is the AppProject whose rules apply. Empty means default.
	Project string `json:"project"`
	// SyncPolicy says when and how to sync. Without it, syncs are manual.
	SyncPolicy *SyncPolicy `json:"syncPolicy,omitempty"`
	// IgnoreDifferences lists parts of live objects that may differ from Git.
	IgnoreDifferences []ResourceIgnoreDifferences `json:"ignoreDifferences,omitempty"`
	// Info is shown to people; values that are URLs become links.
	Info []Info `json:"info,omitempty"`
	// RevisionHistoryLimit is how many deliveries status.history keeps: 10 when
	// absent, none when 0.
	RevisionHistoryLimit *int64 `json:"revisionHistoryLimit,omitempty"`
}

// ApplicationDestination names a cluster, by server or by name, and a namespace.
type ApplicationDestination struct {
	// Server is the URL of the cluster's API; https://kubernetes.default.svc is
	// the cluster that the controller runs in.
	Server string `json:"server,omitempty"`
	// Name is the cluster's name, instead of server; in-cluster is the
	// cluster that the controller runs in.
	Name string `json:"name,omitempty"`
	// Namespace is given to namespaced objects that name none.
	Namespace string `json:"namespace,omitempty"`
}

// Info is a name and a value shown to people.
type Info struct {
	// +required
	Name string `json:"name"`
	// +required
	Value string `json:"value"`
}

// ResourceIgnoreDifferences selects objects and parts of them that are not compared.
type ResourceIgnoreDifferences struct {
	// Group is a glob over API groups; empty is the core group.
	Group string `json:"group,omitempty"`
	// Kind is a glob over kinds.
	//
	// +required
	Kind      string `json:"kind"`
	Name      string `json:"name,omitempty"`
	Namespace string `json:"namespace,omitempty"`
	// JSONPointers are RFC 6901 paths of what to ignore.
	JSONPointers []string `json:"jsonPointers,omitempty"`
	// JQPathExpressions are jq paths of what to ignore.
	JQPathExpressions []string `json:"jqPathExpressions,omitempty"`
	// ManagedFieldsManagers are field managers whose fields are ignored.
	ManagedFieldsManagers []string `json:"managedFieldsManagers,omitempty"`
}

// SyncPolicy says when and how an Application is synced.
type SyncPolicy struct {
	// Automated syncs without being asked. An empty object turns it on.
	Automated *SyncPolicyAutomated `json:"automated,omitempty"`
	// SyncOptions are Key=value switches for the whole Application.
	SyncOptions []string `json:"syncOptions,omitempty"`
	// Retry says how failed syncs are tried again.
	Retry *RetryStrategy `json:"retry,omitempty"`
	// ManagedNamespaceMetadata is put on a namespace made by CreateNamespace=true.
	ManagedNamespaceMetadata *ManagedNamespaceMetadata `json:"managedNamespaceMetadata,omitempty"`
}

// SyncPolicyAutomated is the policy of automated syncs.
type SyncPolicyAutomated struct {
	// Enabled is true when absent; false switches automation off and keeps its settings.
	Enabled *bool `json:"enabled,omitempty"`
	// Prune deletes objects that left the source.
	Prune *bool `json:"prune,omitempty"`
	// SelfHeal reverts changes made in the cluster.
	SelfHeal *bool `json:"selfHeal,omitempty"`
	// AllowEmpty permits a sync that would prune everything.
	AllowEmpty *bool `json:"allowEmpty,omitempty"`
}

// RetryStrategy says how often and at what distance a failed sync is tried again.
type RetryStrategy struct {
	// Limit is the number of retries; negative is without end.
	Limit int64 `json:"limit,omitempty"`
	// Backoff is the distance between attempts.
	Backoff *Backoff `json:"backoff,omitempty"`
	// Refresh resolves the revision anew for each attempt.
	Refresh bool `json:"refresh,omitempty"`
}

// Backoff is a distance between attempts that grows by a factor.
type Backoff struct {
	// Duration is the first distance, such as 5s; a bare number counts seconds.
	Duration string `json:"duration,omitempty"`
	// Factor multiplies the distance after each failure.
	Factor *int64 `json:"factor,omitempty"`
	// MaxDuration bounds the distance.
	MaxDuration string `json:"maxDuration,omitempty"`
}

// ManagedNamespaceMetadata is what to put on a created namespace.
type ManagedNamespaceMetadata struct {
	Labels      map[string]string `json:"labels,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}
