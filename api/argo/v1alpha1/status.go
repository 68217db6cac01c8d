package v1alpha1

import (
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ApplicationStatus is what the controller found and did.
type ApplicationStatus struct {
	// Resources are the objects of the Application and how each of them stands.
	Resources []ResourceStatus `json:"resources,omitempty"`
	// Sync is the comparison of source and cluster.
	Sync SyncStatus `json:"sync,omitzero"`
	// Health is the worst health among the objects that count.
	Health HealthStatus `json:"health,omitzero"`
	// History are the deliveries so far, oldest first.
	History []RevisionHistory `json:"history,omitempty"`
	// Conditions are errors and warnings that stand.
	Conditions []ApplicationCondition `json:"conditions,omitempty"`
	// ReconciledAt is when source and cluster were last compared.
	ReconciledAt *metav1.Time `json:"reconciledAt,omitempty"`
	// OperationState is the running operation, or the last one.
	OperationState *OperationState `json:"operationState,omitempty"`
	// ObservedAt is no longer written.
	ObservedAt *metav1.Time `json:"observedAt,omitempty"`
	// SourceType is the tool that rendered the source.
	SourceType ApplicationSourceType `json:"sourceType,omitempty"`
	// SourceTypes are the tools that rendered several sources.
	SourceTypes []ApplicationSourceType `json:"sourceTypes,omitempty"`
	// Summary is gathered from the live objects.
	Summary ApplicationSummary `json:"summary,omitzero"`
	// ResourceHealthSource is appTree when resources carry no health of their own.
	ResourceHealthSource ResourceHealthLocation `json:"resourceHealthSource,omitempty"`
	// ControllerNamespace is where the controller that serves this object runs.
	ControllerNamespace string `json:"controllerNamespace,omitempty"`
	// SourceHydrator is the state of hydration.
	SourceHydrator SourceHydratorStatus `json:"sourceHydrator,omitzero"`
}

// SyncStatusCode says whether a cluster is as its source.
type SyncStatusCode string

// The sync statuses.
const (
	SyncStatusCodeUnknown   SyncStatusCode = "Unknown"
	SyncStatusCodeSynced    SyncStatusCode = "Synced"
	SyncStatusCodeOutOfSync SyncStatusCode = "OutOfSync"
)

// SyncStatus is the result of a comparison and what was compared.
type SyncStatus struct {
	// +required
	Status     SyncStatusCode `json:"status"`
	ComparedTo ComparedTo     `json:"comparedTo,omitzero"`
	// Revision is the one that was compared.
	Revision string `json:"revision,omitempty"`
	// Revisions are the ones of several sources.
	Revisions []string `json:"revisions,omitempty"`
}

// ComparedTo is the part of the spec that a comparison used.
type ComparedTo struct {
	Source            *ApplicationSource          `json:"source,omitempty"`
	Sources           []ApplicationSource         `json:"sources,omitempty"`
	Destination       ApplicationDestination      `json:"destination"`
	IgnoreDifferences []ResourceIgnoreDifferences `json:"ignoreDifferences,omitempty"`
}

// HealthStatusCode is a health, as Argo CD names it.
type HealthStatusCode string

// HealthStatus is a health and since when it stands.
type HealthStatus struct {
	Status  HealthStatusCode `json:"status,omitempty"`
	Message string           `json:"message,omitempty"`
	// LastTransitionTime is when status last changed.
	LastTransitionTime *metav1.Time `json:"lastTransitionTime,omitempty"`
}

// ResourceStatus is how one object of an Application stands.
type ResourceStatus struct {
	Group     string         `json:"group,omitempty"`
	Version   string         `json:"version,omitempty"`
	Kind      string         `json:"kind,omitempty"`
	Namespace string         `json:"namespace,omitempty"`
	Name      string         `json:"name,omitempty"`
	Status    SyncStatusCode `json:"status,omitempty"`
	Health    *HealthStatus  `json:"health,omitempty"`
	// Hook is true for hooks, which have no sync status.
	Hook bool `json:"hook,omitempty"`
	// RequiresPruning is true for live objects that left the source.
	RequiresPruning bool `json:"requiresPruning,omitempty"`
	// RequiresDeletionConfirmation is true for objects that wait for a word before they are deleted.
	RequiresDeletionConfirmation bool  `json:"requiresDeletionConfirmation,omitempty"`
	SyncWave                     int64 `json:"syncWave,omitempty"`
}

// RevisionHistory is one delivery.
type RevisionHistory struct {
	// Revision is what was delivered.
	Revision string `json:"revision,omitempty"`
	// Revisions are what was delivered from several sources.
	Revisions []string `json:"revisions,omitempty"`
	// DeployedAt is when the delivery was complete.
	//
	// +required
	DeployedAt metav1.Time `json:"deployedAt"`
	// ID counts deliveries; a rollback names one.
	//
	// +required
	ID              int64               `json:"id"`
	Source          *ApplicationSource  `json:"source,omitempty"`
	Sources         []ApplicationSource `json:"sources,omitempty"`
	DeployStartedAt *metav1.Time        `json:"deployStartedAt,omitempty"`
	InitiatedBy     OperationInitiator  `json:"initiatedBy,omitzero"`
}

// ApplicationConditionType is a kind of error or warning.
type ApplicationConditionType string

// The conditions of an Application: those that end in Error, and those that end in Warning.
const (
	ConditionDeletionError           ApplicationConditionType = "DeletionError"
	ConditionInvalidSpecError        ApplicationConditionType = "InvalidSpecError"
	ConditionComparisonError         ApplicationConditionType = "ComparisonError"
	ConditionSyncError               ApplicationConditionType = "SyncError"
	ConditionUnknownError            ApplicationConditionType = "UnknownError"
	ConditionSharedResourceWarning   ApplicationConditionType = "SharedResourceWarning"
	ConditionRepeatedResourceWarning ApplicationConditionType = "RepeatedResourceWarning"
	ConditionExcludedResourceWarning ApplicationConditionType = "ExcludedResourceWarning"
	ConditionOrphanedResourceWarning ApplicationConditionType = "OrphanedResourceWarning"
)

// ApplicationCondition is an error or a warning that stands while it is listed.
type ApplicationCondition struct {
	// +required
	Type ApplicationConditionType `json:"type"`
	// +required
	Message            string       `json:"message"`
	LastTransitionTime *metav1.Time `json:"lastTransitionTime,omitempty"`
}

// Fails reports whether the condition says that something failed: the types that do
// end in Error.
func (c *ApplicationCondition) Fails() bool { return strings.HasSuffix(string(c.Type), "Error") }

// OperationPhase is how far an operation, or a hook, has come.
type OperationPhase string

// The phases. Terminating is also written by clients, to stop an operation.
const (
	OperationRunning     OperationPhase = "Running"
	OperationTerminating OperationPhase = "Terminating"
	OperationSucceeded   OperationPhase = "Succeeded"
	OperationFailed      OperationPhase = "Failed"
	OperationError       OperationPhase = "Error"
)

// OperationState is the account of an operation. A Running one with finishedAt
// set waits for its next attempt.
type OperationState struct {
	// +required
	Operation Operation `json:"operation"`
	// +required
	Phase      OperationPhase       `json:"phase"`
	Message    string               `json:"message,omitempty"`
	SyncResult *SyncOperationResult `json:"syncResult,omitempty"`
	// +required
	StartedAt  metav1.Time  `json:"startedAt"`
	FinishedAt *metav1.Time `json:"finishedAt,omitempty"`
	// RetryCount is the number of attempts after the first.
	RetryCount int64 `json:"retryCount,omitempty"`
}

// SyncOperationResult is what a sync did.
type SyncOperationResult struct {
	// Resources are the objects that the sync touched.
	Resources []ResourceResult `json:"resources,omitempty"`
	// Revision is the one that was synced. It is written even when empty.
	Revision string `json:"revision"`
	// Revisions are the ones of several sources.
	Revisions                []string                  `json:"revisions,omitempty"`
	Source                   *ApplicationSource        `json:"source,omitempty"`
	Sources                  []ApplicationSource       `json:"sources,omitempty"`
	ManagedNamespaceMetadata *ManagedNamespaceMetadata `json:"managedNamespaceMetadata,omitempty"`
}

// ResultCode is what a sync did to an object.
type ResultCode string

// The result codes.
const (
	ResultCodeSynced       ResultCode = "Synced"
	ResultCodeSyncFailed   ResultCode = "SyncFailed"
	ResultCodePruned       ResultCode = "Pruned"
	ResultCodePruneSkipped ResultCode = "PruneSkipped"
)

// HookType is when a hook runs.
type HookType string

// The hook types.
const (
	HookTypePreSync    HookType = "PreSync"
	HookTypeSync       HookType = "Sync"
	HookTypePostSync   HookType = "PostSync"
	HookTypeSyncFail   HookType = "SyncFail"
	HookTypeSkip       HookType = "Skip"
	HookTypePreDelete  HookType = "PreDelete"
	HookTypePostDelete HookType = "PostDelete"
)

// SyncPhase is the part of a sync that an object belongs to.
type SyncPhase string

// The sync phases.
const (
	SyncPhasePreSync  SyncPhase = "PreSync"
	SyncPhaseSync     SyncPhase = "Sync"
	SyncPhasePostSync SyncPhase = "PostSync"
	SyncPhaseSyncFail SyncPhase = "SyncFail"
)

// ResourceResult is what a sync did to one object. Identity is written in full,
// empty parts included, as clients expect.
type ResourceResult struct {
	Group     string     `json:"group"`
	Version   string     `json:"version"`
	Kind      string     `json:"kind"`
	Namespace string     `json:"namespace"`
	Name      string     `json:"name"`
	Status    ResultCode `json:"status,omitempty"`
	Message   string     `json:"message,omitempty"`
	HookType  HookType   `json:"hookType,omitempty"`
	// HookPhase is how far a hook has come; Running, Succeeded or Failed for others.
	HookPhase OperationPhase `json:"hookPhase,omitempty"`
	SyncPhase SyncPhase      `json:"syncPhase,omitempty"`
	// Images are the container images of the object.
	Images []string `json:"images,omitempty"`
}

// ApplicationSourceType is the tool that renders a source.
type ApplicationSourceType string

// The source types.
const (
	ApplicationSourceTypeHelm      ApplicationSourceType = "Helm"
	ApplicationSourceTypeKustomize ApplicationSourceType = "Kustomize"
	ApplicationSourceTypeDirectory ApplicationSourceType = "Directory"
	ApplicationSourceTypePlugin    ApplicationSourceType = "Plugin"
)

// ResourceHealthLocation says where the health of single objects is to be found.
type ResourceHealthLocation string

// ResourceHealthLocationAppTree means: not in status.resources.
const ResourceHealthLocationAppTree ResourceHealthLocation = "appTree"

// ApplicationSummary is gathered from the live objects of an Application.
type ApplicationSummary struct {
	// ExternalURLs are where its ingresses and services can be reached.
	ExternalURLs []string `json:"externalURLs,omitempty"`
	// Images are the container images in use.
	Images []string `json:"images,omitempty"`
	// IsAppOfApps is true when it delivers Applications.
	IsAppOfApps bool `json:"isAppOfApps,omitempty"`
}

// SourceHydratorStatus is the state of hydration.
type SourceHydratorStatus struct {
	CurrentOperation        *HydrateOperation           `json:"currentOperation,omitempty"`
	LastSuccessfulOperation *SuccessfulHydrateOperation `json:"lastSuccessfulOperation,omitempty"`
	// LastComparedDryRevision is the dry commit that was last looked at.
	LastComparedDryRevision string `json:"lastComparedDryRevision,omitempty"`
}

// HydrateOperationPhase is how far a hydration has come.
type HydrateOperationPhase string

// The phases of a hydration.
const (
	HydrateOperationPhaseHydrating HydrateOperationPhase = "Hydrating"
	HydrateOperationPhaseHydrated  HydrateOperationPhase = "Hydrated"
	HydrateOperationPhaseFailed    HydrateOperationPhase = "Failed"
)

// HydrateOperation is a hydration, running or done.
type HydrateOperation struct {
	StartedAt  *metav1.Time          `json:"startedAt,omitempty"`
	FinishedAt *metav1.Time          `json:"finishedAt,omitempty"`
	Phase      HydrateOperationPhase `json:"phase,omitempty"`
	Message    string                `json:"message,omitempty"`
	// DrySHA is the commit that was rendered.
	DrySHA string `json:"drySHA,omitempty"`
	// HydratedSHA is the commit that holds the result.
	HydratedSHA    string          `json:"hydratedSHA,omitempty"`
	SourceHydrator *SourceHydrator `json:"sourceHydrator,omitempty"`
}

// SuccessfulHydrateOperation is the last hydration that worked.
type SuccessfulHydrateOperation struct {
	// DrySHA is the commit that was rendered.
	DrySHA string `json:"drySHA,omitempty"`
	// HydratedSHA is the commit that holds the result.
	HydratedSHA    string          `json:"hydratedSHA,omitempty"`
	SourceHydrator *SourceHydrator `json:"sourceHydrator,omitempty"`
}
