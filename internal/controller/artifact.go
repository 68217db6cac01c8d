package controller

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/holdfastcd/holdfast/internal/delivery"
	"github.com/holdfastcd/holdfast/internal/dialect/flux"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/policy"
	"github.com/holdfastcd/holdfast/internal/source"
	"github.com/holdfastcd/holdfast/internal/source/bucket"
	"github.com/holdfastcd/holdfast/internal/source/oci"
	"github.com/holdfastcd/holdfast/internal/trust"
)

// verifyArtifact judges what did not come from Git: an artifact by what is demanded of
// images, by its own name and digest. A history that nobody can show is not whole. Errors
// are *fault.Error: Refused, Unreachable.
func verifyArtifact(ctx context.Context, images delivery.Images, r source.Revision, d trust.Demands, now time.Time) error {
	if r.History != nil {
		return nil
	}
	for _, p := range d.Policies {
		if !p.Audit && !p.Rewind && p.Broken == "" {
			return fault.New(fault.Refused, "policy %q demands a history that is never rewound, and this source has none", p.Name).
				WithHint("keep it in a Git repository, or set spec.history.rewind of the TrustPolicy to allow").
				Because(trust.RefusedError{p.Name})
		}
	}
	if r.Artifact == "" {
		return nil
	}
	found, err := images.Examine(ctx, []string{r.Artifact}, d, map[string]string{r.Artifact: "sha256:" + r.Commit})
	if err != nil {
		return err
	}
	verdicts := policy.Images(found, d, now)
	if refusal := policy.Refusal(verdicts); refusal != nil {
		return refusal.Because(policy.RefusedBy(verdicts))
	}
	return nil
}

// sourceCredential reads a Secret for the address of a source, in the format that is for
// its kind. Errors are *fault.Error: NotFound, Refused, Unreachable for the Secret, and
// those of what it holds.
func sourceCredential(ctx context.Context, reader client.Reader, url string, secret types.NamespacedName) (source.Credential, error) {
	if !source.IsArtifact(url) && !source.IsBucket(url) {
		return flux.Credential(ctx, reader, url, secret)
	}
	at := "Secret " + secret.String()
	var s corev1.Secret
	err := reader.Get(ctx, secret, &s)
	switch {
	case apierrors.IsNotFound(err):
		return source.Credential{}, fault.New(fault.NotFound, "%s does not exist", at)
	case apierrors.IsForbidden(err):
		return source.Credential{}, fault.New(fault.Refused, "Holdfast may not read %s", at).
			WithHint("grant Holdfast's own account get on secrets in namespace %s", secret.Namespace).Because(err)
	case err != nil:
		return source.Credential{}, fault.New(fault.Unreachable, "%s cannot be read", at).Because(err)
	}
	var c source.Credential
	if id := secret.String() + "@" + string(s.UID) + ":" + s.ResourceVersion; source.IsBucket(url) {
		c, err = bucket.Credential(id, s.Data)
	} else {
		c, err = oci.Credential(id, url, s.Data)
	}
	if err != nil {
		return source.Credential{}, fault.From(err).On(at)
	}
	return c, nil
}
