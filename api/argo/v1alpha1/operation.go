package v1alpha1

// Operation is a request for work on an Application.
type Operation struct {
	// Sync asks for a sync; an empty object syncs what the spec says, with hooks.
	Sync *SyncOperation `json:"sync,omitempty"`
	// InitiatedBy is who asked.
	InitiatedBy OperationInitiator `json:"initiatedBy,omitzero"`
	// Info is kept with the operation for people.
	Info []Info `json:"info,omitempty"`
	// Retry says how a failure is tried again.
	Retry RetryStrategy `json:"retry,omitzero"`
}

// OperationInitiator is who asked for an operation.
type OperationInitiator struct {
	Username string `json:"username,omitempty"`
	// Automated is true when the controller asked itself.
	Automated bool `json:"automated,omitempty"`
}

// SyncOperation says what to sync and how, where it differs from the spec.
type SyncOperation struct {
	// Revision is synced instead of the source's target revision.
	Revision string `json:"revision,omitempty"`
	// Revisions are the same for each of several sources.
	Revisions []string `json:"revisions,omitempty"`
	// Source is synced instead of the spec's source; a rollback uses it.
	Source *ApplicationSource `json:"source,omitempty"`
	// Sources are the same for several sources.
	Sources []ApplicationSource `json:"sources,omitempty"`
	// Prune deletes objects that left the source.
	Prune bool `json:"prune,omitempty"`
	// DryRun changes nothing.
	DryRun bool `json:"dryRun,omitempty"`
	// SyncStrategy is with hooks when absent.
	SyncStrategy *SyncStrategy `json:"syncStrategy,omitempty"`
	// Resources limits the sync to some objects; hooks do not run then.
	Resources []SyncOperationResource `json:"resources,omitempty"`
	// Manifests are delivered instead of what the source renders.
	Manifests []string `json:"manifests,omitempty"`
	// SyncOptions are Key=value switches for this sync.
	SyncOptions []string `json:"syncOptions,omitempty"`
	// AutoHealAttemptsCount counts the self-heal attempts at this revision.
	AutoHealAttemptsCount int64 `json:"autoHealAttemptsCount,omitempty"`
}

// SyncStrategy chooses between syncing without and with hooks.
type SyncStrategy struct {
	// Apply syncs without hooks.
	Apply *SyncStrategyApply `json:"apply,omitempty"`
	// Hook syncs with hooks.
	Hook *SyncStrategyHook `json:"hook,omitempty"`
}

// SyncStrategyApply syncs without hooks.
type SyncStrategyApply struct {
	// Force deletes and creates objects that cannot be changed in place.
	Force bool `json:"force,omitempty"`
}

// SyncStrategyHook syncs with hooks.
type SyncStrategyHook struct {
	// Force deletes and creates objects that cannot be changed in place.
	Force bool `json:"force,omitempty"`
}

// SyncOperationResource names one object of a partial sync.
type SyncOperationResource struct {
	Group string `json:"group,omitempty"`
	// +required
	Kind string `json:"kind"`
	// +required
	Name      string `json:"name"`
	Namespace string `json:"namespace,omitempty"`
}
