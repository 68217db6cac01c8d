package flux

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	notificationv1 "github.com/fluxcd/notification-controller/api/v1"
	"github.com/fluxcd/pkg/apis/meta"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/holdfastcd/holdfast/internal/dialect"
	"github.com/holdfastcd/holdfast/internal/fault"
)

// receiverFields are the fields of a Receiver's spec that are supported. Events
// mean nothing to the generic types.
var receiverFields = fields{
	"type": nil, "interval": nil, "suspend": nil, "events": nil,
	"secretRef": {"name": nil},
	"resources": {"apiVersion": nil, "kind": nil, "name": nil, "namespace": nil, "matchLabels": nil},
}

// receiverTypes are the senders that are known.
var receiverTypes = []string{
	notificationv1.GenericReceiver, notificationv1.GenericHMACReceiver, notificationv1.GitHubReceiver, notificationv1.GitLabReceiver,
}

// receivers reconciles Receivers: it tells at which path each one listens.
type receivers struct {
	env  *dialect.Env
	desk *desk
}

// Reconcile implements the controller runtime's reconciler.
func (c *receivers) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	return dialect.Settle(c.reconcile(ctx, req.NamespacedName))
}

// reconcile looks once and returns when to look again; 0: when the object changes.
// One that is only observed has its path from whoever serves it: the same.
func (c *receivers) reconcile(ctx context.Context, name types.NamespacedName) (time.Duration, error) {
	u, err := c.desk.get(ctx, name)
	if err != nil || u == nil {
		return 0, err
	}
	observing := c.env.Observing(u)
	if given, err := c.env.HandBack(ctx, u); given || err != nil || observing {
		return 0, err
	}
	r, bad := decode[notificationv1.Receiver](u)
	if !r.DeletionTimestamp.IsZero() {
		return 0, c.desk.setFinalizer(ctx, u, false)
	}
	if dialect.Suspended(u) {
		return 0, nil
	}
	token, problem := c.token(ctx, u, r, bad)
	status := received(r, token, problem, c.env.Clock())
	written, err := c.desk.setStatus(ctx, u, &r.Status, &status)
	if err != nil {
		return 0, err
	}
	if written && problem != nil {
		c.env.Events.Event(u, corev1.EventTypeWarning, problem.reason(), clip(problem.err.Error(), maxEvent))
	}
	if problem != nil && problem.stalled {
		return 0, nil
	}
	// The Secret is not watched.
	return spread(max(r.GetInterval(), minInterval), r.UID), nil
}

// receiverProblem is why a Receiver does not listen.
type receiverProblem struct {
	err     *fault.Error
	stalled bool
}

func (p *receiverProblem) reason() string {
	if p.stalled {
		return specReason(p.err.Kind)
	}
	return "TokenNotFound"
}

// token returns the token that senders have to know.
func (c *receivers) token(ctx context.Context, u *unstructured.Unstructured, r *notificationv1.Receiver, bad *fault.Error) (string, *receiverProblem) {
	if bad != nil {
		return "", &receiverProblem{err: bad, stalled: true}
	}
	if err := checkReceiver(u, r); err != nil {
		return "", &receiverProblem{err: fault.From(err), stalled: true}
	}
	token, err := readToken(ctx, c.env.Reader, r)
	if err != nil {
		return "", &receiverProblem{err: err}
	}
	return token, nil
}

// readToken reads a Receiver's token. An empty one would let everybody in.
func readToken(ctx context.Context, reader client.Reader, r *notificationv1.Receiver) (string, *fault.Error) {
	secret, err := readSecret(ctx, reader, r.Namespace, r.Spec.SecretRef.Name)
	if err != nil {
		return "", err
	}
	token := string(secret.Data["token"])
	if token == "" {
		return "", fault.New(fault.NotFound, "Secret %s/%s does not hold a token", secret.Namespace, secret.Name)
	}
	return token, nil
}

// checkReceiver refuses what is not supported, by name, and what is not permitted.
func checkReceiver(u *unstructured.Unstructured, r *notificationv1.Receiver) error {
	if !slices.Contains(receiverTypes, r.Spec.Type) {
		return fault.New(fault.Unsupported, "spec.type %s is not supported yet", r.Spec.Type).
			WithHint("use one of %s", strings.Join(receiverTypes, ", "))
	}
	spec, _ := u.Object["spec"].(map[string]any)
	if err := unsupported(spec, receiverFields); err != nil {
		return err
	}
	if r.Spec.SecretRef == nil || r.Spec.SecretRef.Name == "" {
		return fault.New(fault.Invalid, "spec.secretRef names no Secret").WithHint("its key token is what senders sign with")
	}
	for i := range r.Spec.Resources {
		if err := checkResource(r, i); err != nil {
			return err
		}
	}
	return nil
}

func checkResource(r *notificationv1.Receiver, i int) error {
	ref := r.Spec.Resources[i]
	group, ok := resourceKinds[ref.Kind]
	switch {
	case !ok:
		return fault.New(fault.Unsupported, "spec.resources[%d].kind %s is not supported yet", i, ref.Kind).
			WithHint("use GitRepository or Kustomization")
	case ref.APIVersion != "" && ref.APIVersion != group:
		return fault.New(fault.Unsupported, "spec.resources[%d].apiVersion %s is not supported yet", i, ref.APIVersion).WithHint("use %s", group)
	case ref.Namespace != "" && ref.Namespace != r.Namespace:
		return blocked(ref.Kind, ref.Namespace, ref.Name).WithHint("create a Receiver in namespace %s", ref.Namespace)
	case len(ref.MatchLabels) > 0 && ref.Name != anyName:
		return fault.New(fault.Invalid, "spec.resources[%d].matchLabels chooses nothing beside a name", i).WithHint("set name to '*'")
	}
	return nil
}

// anyName stands for all names in a reference.
const anyName = "*"

// resourceKinds are the kinds that a Receiver can refresh, with their versions.
var resourceKinds = map[string]string{
	sourcev1.GitRepositoryKind:    sourcev1.GroupVersion.String(),
	kustomizev1.KustomizationKind: kustomizev1.GroupVersion.String(),
}

// received is the status of a Receiver.
func received(r *notificationv1.Receiver, token string, p *receiverProblem, now time.Time) notificationv1.ReceiverStatus {
	status := *r.Status.DeepCopy()
	b := board{conditions: &status.Conditions, generation: r.Generation, now: now}
	if t := requested(r.Annotations); t != "" {
		status.LastHandledReconcileAt = t
	}
	if p != nil {
		status.WebhookPath = ""
		b.set(meta.ReadyCondition, metav1.ConditionFalse, p.reason(), p.err.Error())
		if p.stalled {
			status.ObservedGeneration = r.Generation
			b.progress(true, false, p.reason(), p.err.Error())
			return status
		}
		b.progress(false, true, meta.ProgressingWithRetryReason, p.err.Error())
		return status
	}
	status.WebhookPath = hookPath(token, r.Name, r.Namespace)
	status.ObservedGeneration = r.Generation
	b.progress(false, false, "", "")
	b.set(meta.ReadyCondition, metav1.ConditionTrue, meta.SucceededReason, "Receiver initialized for path: "+status.WebhookPath)
	return status
}

// hookPath is where a Receiver listens: who does not know the token does not
// know the path.
func hookPath(token, name, namespace string) string {
	sum := sha256.Sum256([]byte(token + name + namespace))
	return notificationv1.ReceiverWebhookPath + hex.EncodeToString(sum[:])
}
