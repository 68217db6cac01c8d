package sealed

import (
	"context"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"

	"github.com/holdfastcd/holdfast/internal/fault"
)

// stockSelectors are the labels of the stock controller's Deployment: of its chart, of
// its chart in older versions or under another name, and of its plain manifest.
var stockSelectors = []string{
	"app.kubernetes.io/name=sealed-secrets",
	"app.kubernetes.io/part-of=sealed-secrets",
	"name=sealed-secrets-controller",
}

// stockImage begins the last part of the stock controller's image, whatever registry
// it is mirrored to.
const stockImage = "sealed-secrets"

// maxKeys bounds the sealing keys of a cluster: each is tried on what does not open.
const maxKeys = 256

const reviewTimeout = 10 * time.Second

// recheck is after how long a Deployment is judged again: its account may have got its
// rights after it was seen, and no event of the Deployment tells.
const recheck = time.Minute

// Run reads the sealing keys and looks for the stock controller, follows both, and
// renews keys where it is asked to, until ctx ends. It returns nil.
func (k *Keys) Run(ctx context.Context) error {
	for _, ns := range k.Namespaces {
		secrets := k.Client.CoreV1().Secrets(ns)
		k.follow(ctx, ns, &corev1.Secret{}, 0, &cache.ListWatch{
			ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
				o.LabelSelector = KeyLabel
				return secrets.List(ctx, o)
			},
			WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
				o.LabelSelector = KeyLabel
				return secrets.Watch(ctx, o)
			},
		}, k.noteSecret)
	}
	deployments := k.Client.AppsV1().Deployments(metav1.NamespaceAll)
	for _, selector := range stockSelectors {
		k.follow(ctx, selector, &appsv1.Deployment{}, k.Recheck, &cache.ListWatch{
			ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
				o.LabelSelector = selector
				return deployments.List(ctx, o)
			},
			WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
				o.LabelSelector = selector
				return deployments.Watch(ctx, o)
			},
		}, k.noteDeployment)
	}
	k.renew(ctx)
	<-ctx.Done()
	return nil
}

// follow hands what lw shows to note, with gone for what is there no more, and all of it
// again every so often; 0: never. What cannot be seen is remembered under name.
func (k *Keys) follow(
	ctx context.Context, name string, kind runtime.Object, again time.Duration, lw *cache.ListWatch, note func(ctx context.Context, o any, gone bool),
) {
	i := cache.NewSharedInformer(lw, kind, again)
	_ = i.SetTransform(slim) // fails once it runs
	_ = i.SetWatchErrorHandlerWithContext(func(_ context.Context, _ *cache.Reflector, err error) { k.unseen(name, err) })
	seen, err := i.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { note(ctx, o, false) },
		UpdateFunc: func(_, o any) { note(ctx, o, false) },
		DeleteFunc: func(o any) {
			if last, ok := o.(cache.DeletedFinalStateUnknown); ok {
				o = last.Obj
			}
			note(ctx, o, true)
		},
	})
	if err != nil {
		return // it was stopped: ctx is over
	}
	go i.RunWithContext(ctx)
	go func() {
		if cache.WaitForCacheSync(ctx.Done(), seen.HasSynced) {
			k.seen(name)
		}
	}()
}

// slim drops what is not looked at. Of a Deployment that leaves no environment.
func slim(o any) (any, error) {
	switch o := o.(type) {
	case *corev1.Secret:
		o.ManagedFields, o.Annotations = nil, nil
	case *appsv1.Deployment:
		small := &appsv1.Deployment{}
		small.Namespace, small.Name, small.UID, small.ResourceVersion, small.Labels = o.Namespace, o.Name, o.UID, o.ResourceVersion, o.Labels
		small.Spec.Replicas, small.Status.Replicas = o.Spec.Replicas, o.Status.Replicas
		small.Spec.Template.Spec.ServiceAccountName = o.Spec.Template.Spec.ServiceAccountName
		for _, c := range o.Spec.Template.Spec.Containers {
			small.Spec.Template.Spec.Containers = append(small.Spec.Template.Spec.Containers, corev1.Container{Image: c.Image})
		}
		return small, nil
	}
	return o, nil
}

// unseen remembers why something cannot be watched. Keys in a namespace that may not
// be read are done without; whether another controller runs must be known.
func (k *Keys) unseen(name string, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.unread[name] == nil {
		k.Log.Warn("cannot watch what SealedSecrets are opened with", "at", name, "error", err)
	}
	k.unread[name] = err
	if apierrors.IsForbidden(err) && !slices.Contains(stockSelectors, name) {
		delete(k.pending, name)
	}
	k.settle()
}

func (k *Keys) seen(name string) {
	k.mu.Lock()
	delete(k.pending, name)
	delete(k.unread, name)
	k.settle()
	ready := k.waiting == nil
	k.mu.Unlock()
	if ready {
		k.changed()
	}
}

// settle says whether anything can be opened yet; with k.mu held.
func (k *Keys) settle() {
	k.waiting = nil
	if len(k.pending) == 0 {
		return
	}
	k.waiting = errUnread
	for _, name := range slices.Sorted(maps.Keys(k.pending)) {
		if err := k.unread[name]; err != nil {
			k.waiting = fault.New(fault.Waiting, "what SealedSecrets are opened with cannot be seen (%s): %s", name, err).
				WithHint("Holdfast's account needs list and watch on Secrets in the namespaces of sealing keys, and on Deployments")
			return
		}
	}
}

// unusedNote names the keys that are not at hand: compromised ones, and the namespaces
// whose keys may not be read.
func (k *Keys) unusedNote() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	var names []string
	for _, ns := range k.Namespaces {
		if k.unread[ns] != nil {
			names = append(names, ns)
		}
	}
	note := ""
	if len(k.barred) > 0 {
		note = "; compromised, and not used: " + newRing(slices.Collect(maps.Values(k.barred))).String()
	}
	if names != nil {
		note += "; those in namespace " + strings.Join(names, ", ") + " may not be read"
	}
	return note
}

func (k *Keys) changed() {
	select {
	case k.wake <- struct{}{}:
	default:
	}
	if k.Changed != nil {
		k.Changed()
	}
}

// noteSecret takes or drops the key in a Secret. One that cannot be read is told, and
// keeps no other from being used.
func (k *Keys) noteSecret(_ context.Context, o any, gone bool) {
	s, ok := o.(*corev1.Secret)
	if !ok {
		return
	}
	name := s.Namespace + "/" + s.Name
	var key, barred *Key
	if !gone {
		var err error
		if key, err = ReadKey(s); err != nil {
			k.Log.Warn("a sealing key cannot be used", "error", err)
		}
	}
	if s.Labels[KeyLabel] == KeyCompromised {
		key, barred = nil, key
	}
	k.mu.Lock()
	k.bar(name, barred)
	switch {
	case key == nil:
		delete(k.secrets, name)
	case k.secrets[name] != nil || len(k.secrets) < maxKeys:
		k.secrets[name] = key
	default:
		k.Log.Warn("a sealing key is left out: there are too many", "secret", name, "limit", maxKeys)
	}
	before, after := k.ring.Load(), newRing(k.usable())
	k.ring.Store(after)
	tell := k.waiting == nil && (before.id != after.id || before.newest() != after.newest())
	k.mu.Unlock()
	if tell {
		k.changed()
	}
}

// usable are the keys that open: none that a Secret says is compromised, whichever other
// Secret holds it too.
func (k *Keys) usable() []*Key {
	barred := map[string]bool{}
	for _, key := range k.barred {
		barred[key.Fingerprint] = true
	}
	var all []*Key
	for _, key := range k.secrets {
		if !barred[key.Fingerprint] {
			all = append(all, key)
		}
	}
	return all
}

// bar remembers that the key in a Secret is compromised; nil: none is.
func (k *Keys) bar(name string, key *Key) {
	if key == nil {
		delete(k.barred, name)
	} else {
		k.barred[name] = key
	}
}

// noteDeployment takes notice of a stock controller that runs, runs no more, or is gone.
func (k *Keys) noteDeployment(ctx context.Context, o any, gone bool) {
	d, ok := o.(*appsv1.Deployment)
	if !ok {
		return
	}
	name := d.Namespace + "/" + d.Name
	runs := !gone && runsStock(d) && k.trusted(ctx, d)
	k.mu.Lock()
	if runs {
		k.stock[name] = true
	} else {
		delete(k.stock, name)
	}
	before := k.elseNote
	k.elseNote = ""
	if len(k.stock) > 0 {
		k.elseNote = "the Sealed Secrets controller, Deployment " + slices.Min(slices.Collect(maps.Keys(k.stock)))
	}
	after, tell := k.elseNote, k.waiting == nil && before != k.elseNote
	k.mu.Unlock()
	if before != after {
		k.Log.Info("who opens SealedSecrets has changed", "controller", after)
	}
	if tell {
		k.changed()
	}
}

// runsStock reports whether d runs the stock controller, or has not ended it yet.
func runsStock(d *appsv1.Deployment) bool {
	if d.Spec.Replicas != nil && *d.Spec.Replicas == 0 && d.Status.Replicas == 0 {
		return false
	}
	return slices.ContainsFunc(d.Spec.Template.Spec.Containers, func(c corev1.Container) bool {
		return strings.HasPrefix(path.Base(c.Image), stockImage)
	})
}

// trusted reports whether d can be the cluster's controller, and not only look like it:
// otherwise any tenant could keep everybody's SealedSecrets shut by the labels of a
// Deployment. It is, where the keys are, or where its account may make Secrets in every
// namespace.
func (k *Keys) trusted(ctx context.Context, d *appsv1.Deployment) bool {
	if slices.Contains(k.Namespaces, d.Namespace) {
		return true
	}
	account := d.Spec.Template.Spec.ServiceAccountName
	if account == "" {
		account = "default"
	}
	ctx, cancel := context.WithTimeout(ctx, reviewTimeout)
	defer cancel()
	review, err := k.Client.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{
		Spec: authorizationv1.SubjectAccessReviewSpec{
			User:               "system:serviceaccount:" + d.Namespace + ":" + account,
			Groups:             []string{"system:serviceaccounts", "system:serviceaccounts:" + d.Namespace, "system:authenticated"},
			ResourceAttributes: &authorizationv1.ResourceAttributes{Verb: "create", Resource: "secrets"},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		k.Log.Warn("cannot tell whether a Deployment is the cluster's Sealed Secrets controller; it is taken for it", "deployment", d.Namespace+"/"+d.Name, "error", err)
		return true
	}
	return review.Status.Allowed
}
