package backup

import (
	"context"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/holdfastcd/holdfast/internal/fault"
)

// Change says what restoring does to a Secret.
type Change string

// The changes.
const (
	Create    Change = "created"
	Replace   Change = "replaced"
	Unchanged Change = "unchanged"
)

// Step is one Secret of a backup, and what restoring it does.
type Step struct {
	Secret corev1.Secret
	Change Change

	live *corev1.Secret
}

// Plan compares a backup with the cluster. Keys that are there with the same content
// stay as they are, whatever their labels say by now. Other content under the same
// name is refused as a whole, unless force is set. Errors are Conflict and Rejected.
func (c Clients) Plan(ctx context.Context, secrets []corev1.Secret, force bool) ([]Step, error) {
	var steps []Step
	var differ []string
	for _, s := range secrets {
		live, err := c.Kube.CoreV1().Secrets(s.Namespace).Get(ctx, s.Name, metav1.GetOptions{})
		step := Step{Secret: s, Change: Replace, live: live}
		switch {
		case apierrors.IsNotFound(err):
			step.Change = Create
		case err != nil:
			return nil, failed(err, "read Secret "+s.Namespace+"/"+s.Name)
		case maps.EqualFunc(live.Data, s.Data, slices.Equal) && live.Type == s.Type:
			step.Change = Unchanged
		default:
			differ = append(differ, s.Namespace+"/"+s.Name)
		}
		steps = append(steps, step)
	}
	if len(differ) > 0 && !force {
		return nil, fault.New(fault.Conflict, "the cluster has other keys under the names of %s; nothing was restored", strings.Join(differ, ", ")).
			WithHint("back those up first, then replace them with --force")
	}
	return steps, nil
}

// Restore does what the steps of a plan say. A Secret that has changed since is left,
// and an error. Errors are Rejected and NotFound (a namespace).
func (c Clients) Restore(ctx context.Context, steps []Step) error {
	for _, s := range steps {
		if err := c.restore(ctx, s); err != nil {
			return failed(err, "restore Secret "+s.Secret.Namespace+"/"+s.Secret.Name)
		}
	}
	return nil
}

func (c Clients) restore(ctx context.Context, s Step) error {
	secrets := c.Kube.CoreV1().Secrets(s.Secret.Namespace)
	made := bare(&s.Secret)
	switch s.Change {
	case Create:
		_, err := secrets.Create(ctx, &made, metav1.CreateOptions{})
		return err
	case Replace:
		// Type and content of an immutable Secret cannot change: a new one takes its place.
		if s.live.Immutable != nil && *s.live.Immutable || s.live.Type != made.Type {
			if err := secrets.Delete(ctx, made.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &s.live.UID, ResourceVersion: &s.live.ResourceVersion}}); err != nil {
				return err
			}
			_, err := secrets.Create(ctx, &made, metav1.CreateOptions{})
			return err
		}
		made.ResourceVersion = s.live.ResourceVersion
		_, err := secrets.Update(ctx, &made, metav1.UpdateOptions{})
		return err
	case Unchanged:
	}
	return nil
}
