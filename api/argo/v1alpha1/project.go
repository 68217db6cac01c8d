package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// AppProject says what the Applications that name it may deliver, from where and to where.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:path=appprojects,shortName=appproj;appprojs
type AppProject struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`

	// +required
	Spec   AppProjectSpec   `json:"spec"`
	Status AppProjectStatus `json:"status,omitzero"`
}

// AppProjectList is a list of AppProjects.
//
// +kubebuilder:object:root=true
type AppProjectList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata"`

	Items []AppProject `json:"items"`
}

// AppProjectSpec are the rules of a project.
type AppProjectSpec struct {
	// SourceRepos are globs over repository URLs; one that begins with ! denies.
	SourceRepos []string `json:"sourceRepos,omitempty"`
	// Destinations are where may be delivered to.
	Destinations []ProjectDestination `json:"destinations,omitempty"`
	Description  string               `json:"description,omitempty"`
	// Roles are for people and machines that use the API.
	Roles []ProjectRole `json:"roles,omitempty"`
	// ClusterResourceWhitelist are the cluster-scoped kinds that may be delivered;
	// none when empty.
	ClusterResourceWhitelist []ClusterResource `json:"clusterResourceWhitelist,omitempty"`
	// ClusterResourceBlacklist are cluster-scoped kinds that may not be delivered.
	ClusterResourceBlacklist []ClusterResource `json:"clusterResourceBlacklist,omitempty"`
	// NamespaceResourceWhitelist are the namespaced kinds that may be delivered: all
	// when absent, none when present and empty. The two are kept apart on the way
	// out, too.
	NamespaceResourceWhitelist []GroupKind `json:"namespaceResourceWhitelist,omitzero"`
	// NamespaceResourceBlacklist are namespaced kinds that may not be delivered.
	NamespaceResourceBlacklist []GroupKind `json:"namespaceResourceBlacklist,omitempty"`
	// OrphanedResources asks for objects in the destinations that no Application owns.
	OrphanedResources *OrphanedResources `json:"orphanedResources,omitempty"`
	// SyncWindows are times at which syncs are allowed or denied.
	SyncWindows []SyncWindow `json:"syncWindows,omitempty"`
	// SignatureKeys are PGP keys of which one must have signed the commit; superseded
	// by sourceIntegrity.
	SignatureKeys []SignatureKey `json:"signatureKeys,omitempty"`
	// SourceIntegrity says how sources are verified.
	SourceIntegrity *SourceIntegrity `json:"sourceIntegrity,omitempty"`
	// SourceNamespaces are the namespaces, globs or /regular expressions/, whose
	// Applications may name this project.
	SourceNamespaces []string `json:"sourceNamespaces,omitempty"`
	// PermitOnlyProjectScopedClusters refuses clusters that belong to no project.
	PermitOnlyProjectScopedClusters bool `json:"permitOnlyProjectScopedClusters,omitempty"`
	// DestinationServiceAccounts are the accounts that deliveries act as; the first
	// match counts.
	DestinationServiceAccounts []DestinationServiceAccount `json:"destinationServiceAccounts,omitempty"`
}

// ProjectDestination is a glob over each of a cluster's server, its name and a
// namespace; one that begins with ! denies.
type ProjectDestination struct {
	Server    string `json:"server,omitempty"`
	Name      string `json:"name,omitempty"`
	Namespace string `json:"namespace,omitempty"`
}

// GroupKind is a glob over groups and one over kinds.
type GroupKind struct {
	// +required
	Group string `json:"group"`
	// +required
	Kind string `json:"kind"`
}

// ClusterResource is a glob over groups and kinds, and perhaps over names.
type ClusterResource struct {
	// +required
	Group string `json:"group"`
	// +required
	Kind string `json:"kind"`
	Name string `json:"name,omitempty"`
}

// OrphanedResources says how objects that no Application owns are treated.
type OrphanedResources struct {
	// Warn puts a condition on the Applications; on when absent.
	Warn *bool `json:"warn,omitempty"`
	// Ignore are objects that do not count.
	Ignore []OrphanedResource `json:"ignore,omitempty"`
}

// OrphanedResource is a glob over each part of an object's identity.
type OrphanedResource struct {
	Group string `json:"group,omitempty"`
	Kind  string `json:"kind,omitempty"`
	Name  string `json:"name,omitempty"`
}

// ProjectRole is a set of policies with who has them.
type ProjectRole struct {
	// +required
	Name        string `json:"name"`
	Description string `json:"description,omitempty"`
	// Policies are lines of a policy file, without the role.
	Policies []string `json:"policies,omitempty"`
	// JWTTokens are the tokens issued for this role, without their secret.
	JWTTokens []JWTToken `json:"jwtTokens,omitempty"`
	// Groups are groups of single sign-on that have this role.
	Groups []string `json:"groups,omitempty"`
}

// JWTToken is a token as far as it may be written down.
type JWTToken struct {
	// IssuedAt is in seconds since 1970.
	//
	// +required
	IssuedAt int64 `json:"iat"`
	// ExpiresAt is in seconds since 1970; 0 is never.
	ExpiresAt int64  `json:"exp,omitempty"`
	ID        string `json:"id,omitempty"`
}

// SyncWindow allows or denies syncs at times, for some Applications.
type SyncWindow struct {
	// Kind is allow or deny.
	Kind string `json:"kind,omitempty"`
	// Schedule is when the window opens, as a cron line of five fields.
	Schedule string `json:"schedule,omitempty"`
	// Duration is how long it stays open.
	Duration string `json:"duration,omitempty"`
	// TimeZone is what the schedule means; UTC when empty.
	TimeZone string `json:"timeZone,omitempty"`
	// Applications are globs over names.
	Applications []string `json:"applications,omitempty"`
	// Namespaces are globs over destination namespaces.
	Namespaces []string `json:"namespaces,omitempty"`
	// Clusters are globs over destination clusters.
	Clusters []string `json:"clusters,omitempty"`
	// ManualSync lets people sync although the window forbids it.
	ManualSync bool `json:"manualSync,omitempty"`
	// UseAndOperator asks that all of the lists that are set match, not just one.
	UseAndOperator bool `json:"andOperator,omitempty"`
	// SyncOverrun lets a running sync go on when the window ends it.
	SyncOverrun bool   `json:"syncOverrun,omitempty"`
	Description string `json:"description,omitempty"`
}

// SignatureKey is a PGP key by its ID.
type SignatureKey struct {
	// +required
	KeyID string `json:"keyID"`
}

// SourceIntegrity says how sources are verified.
type SourceIntegrity struct {
	Git *SourceIntegrityGit `json:"git,omitempty"`
}

// SourceIntegrityGit are policies for Git; the first that matches counts.
type SourceIntegrityGit struct {
	// +required
	Policies []SourceIntegrityGitPolicy `json:"policies"`
}

// SourceIntegrityGitPolicy says how some repositories are verified.
type SourceIntegrityGitPolicy struct {
	// +required
	Repos []SourceIntegrityGitRepo `json:"repos"`
	// +required
	GPG *SourceIntegrityGitGPG `json:"gpg"`
}

// SourceIntegrityGitRepo is a glob over repository URLs; one that begins with ! excludes.
type SourceIntegrityGitRepo struct {
	// +required
	URL string `json:"url"`
}

// SourceIntegrityGitGPG says which commits must be signed, and by whom.
type SourceIntegrityGitGPG struct {
	// Mode is none, head or strict.
	//
	// +required
	Mode string `json:"mode"`
	// Keys are the IDs of the keys that count.
	Keys []string `json:"keys,omitempty"`
}

// DestinationServiceAccount says which account deliveries to some destinations act as.
type DestinationServiceAccount struct {
	// Server is a glob over the URLs of clusters.
	//
	// +required
	Server string `json:"server"`
	// Namespace is a glob over destination namespaces.
	Namespace string `json:"namespace,omitempty"`
	// DefaultServiceAccount is a name, or namespace:name.
	//
	// +required
	DefaultServiceAccount string `json:"defaultServiceAccount"`
}

// AppProjectStatus is what is known of a project.
type AppProjectStatus struct {
	// JWTTokensByRole are the tokens issued, by role.
	JWTTokensByRole map[string]JWTTokens `json:"jwtTokensByRole,omitempty"`
}

// JWTTokens is a list of tokens.
type JWTTokens struct {
	Items []JWTToken `json:"items,omitempty"`
}
