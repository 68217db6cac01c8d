package flux

import (
	"context"
	"time"

	"github.com/fluxcd/pkg/apis/meta"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/holdfastcd/holdfast/internal/fault"
)

// gitProblem is why a GitRepository has no new artifact.
type gitProblem struct {
	err     *fault.Error
	stalled bool // only a change of the object helps
	url     bool // its URL must not be fetched
	secret  bool // its credentials cannot be used
	storage bool // it was fetched, and could not be packed
}

// reason is the problem's name on the object.
func (p *gitProblem) reason() string {
	switch {
	case p.url:
		return sourcev1.URLInvalidReason
	case p.storage:
		return sourcev1.ArchiveOperationFailedReason
	case p.secret, p.err.Kind == fault.Unauthorized:
		return sourcev1.AuthenticationFailedReason
	case p.stalled:
		return specReason(p.err.Kind)
	}
	return sourcev1.GitOperationFailedReason
}

// fetched is the status of a GitRepository whose artifact is there.
func fetched(repo *sourcev1.GitRepository, artifact meta.Artifact, now time.Time) sourcev1.GitRepositoryStatus {
	status := *repo.Status.DeepCopy()
	artifact.LastUpdateTime = metav1.NewTime(now).Rfc3339Copy()
	if old := status.Artifact; old != nil && old.Revision == artifact.Revision && old.Digest == artifact.Digest {
		artifact.LastUpdateTime = old.LastUpdateTime
	}
	status.Artifact = &artifact
	message := "stored artifact for revision '" + artifact.Revision + "'"
	b := board{conditions: &status.Conditions, generation: repo.Generation, now: now}
	b.drop(sourcev1.FetchFailedCondition, sourcev1.StorageOperationFailedCondition, sourcev1.ArtifactOutdatedCondition)
	b.progress(false, false, "", "")
	b.set(meta.ReadyCondition, metav1.ConditionTrue, meta.SucceededReason, message)
	b.set(sourcev1.ArtifactInStorageCondition, metav1.ConditionTrue, meta.SucceededReason, message)
	status.ObservedGeneration = repo.Generation
	status.ObservedIgnore = repo.Spec.Ignore
	if token := requested(repo.Annotations); token != "" {
		status.LastHandledReconcileAt = token
	}
	return status
}

// fetching is the status of a GitRepository that is fetched for the first time.
func fetching(repo *sourcev1.GitRepository, now time.Time) sourcev1.GitRepositoryStatus {
	status := *repo.Status.DeepCopy()
	const message = "the repository is being fetched; its server takes its time"
	b := board{conditions: &status.Conditions, generation: repo.Generation, now: now}
	b.progress(false, true, meta.ProgressingReason, message)
	b.set(meta.ReadyCondition, metav1.ConditionUnknown, meta.ProgressingReason, message)
	return status
}

// failed is the status of a GitRepository that has a problem; its last artifact stays.
func failed(repo *sourcev1.GitRepository, p *gitProblem, now time.Time) sourcev1.GitRepositoryStatus {
	status := *repo.Status.DeepCopy()
	message := p.err.Error()
	b := board{conditions: &status.Conditions, generation: repo.Generation, now: now}
	b.set(meta.ReadyCondition, metav1.ConditionFalse, p.reason(), message)
	b.flag(sourcev1.FetchFailedCondition, !p.storage, p.reason(), message)
	b.flag(sourcev1.StorageOperationFailedCondition, p.storage, p.reason(), message)
	if p.stalled {
		b.progress(true, false, p.reason(), message)
		status.ObservedGeneration = repo.Generation
	} else {
		b.progress(false, true, meta.ProgressingWithRetryReason, message)
	}
	if token := requested(repo.Annotations); token != "" {
		status.LastHandledReconcileAt = token
	}
	return status
}

// entry is an artifact as a status tells it.
func (f artifact) entry(a *Artifacts, source types.NamespacedName, label string) meta.Artifact {
	size, at := f.size, f.path(source)
	return meta.Artifact{Digest: f.digest, Path: at, URL: a.url(at), Revision: label, Size: &size}
}

// readSecret reads a Secret. What goes wrong is a *fault.Error without values.
func readSecret(ctx context.Context, reader client.Reader, namespace, name string) (*corev1.Secret, *fault.Error) {
	var secret corev1.Secret
	err := reader.Get(ctx, types.NamespacedName{Namespace: namespace, Name: name}, &secret)
	at := namespace + "/" + name
	switch {
	case err == nil:
		return &secret, nil
	case apierrors.IsNotFound(err):
		return nil, fault.New(fault.NotFound, "Secret %s does not exist", at)
	case apierrors.IsForbidden(err):
		return nil, fault.New(fault.Refused, "Holdfast may not read Secret %s", at).
			WithHint("grant Holdfast's own account get on secrets in namespace %s", namespace)
	}
	return nil, fault.New(fault.Unreachable, "Secret %s cannot be read", at).Because(err)
}
