package dialect

import (
	"context"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	toolscache "k8s.io/client-go/tools/cache"

	"github.com/holdfastcd/holdfast/internal/fault"
)

// SecretWatch watches the metadata of Secrets in a namespace that options choose.
type SecretWatch func(namespace string, options metav1.ListOptions) toolscache.ListerWatcher

// WatchSecrets returns the watch of a cluster's Secrets. Errors are *fault.Error of
// kind Unreachable.
func WatchSecrets(cfg *rest.Config) (SecretWatch, error) {
	c, err := metadata.NewForConfig(cfg)
	if err != nil {
		return nil, fault.New(fault.Unreachable, "cannot set up the connection to the cluster: %s", err).Because(err)
	}
	secrets := c.Resource(corev1.SchemeGroupVersion.WithResource("secrets"))
	return func(namespace string, chosen metav1.ListOptions) toolscache.ListerWatcher {
		of := secrets.Namespace(namespace)
		choose := func(o metav1.ListOptions) metav1.ListOptions {
			o.LabelSelector, o.FieldSelector = chosen.LabelSelector, chosen.FieldSelector
			return o
		}
		return &toolscache.ListWatch{
			ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
				return of.List(ctx, choose(o))
			},
			WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
				return of.Watch(ctx, choose(o))
			},
		}
	}, nil
}

// Start has the Secrets that are used be watched until ctx ends; it implements the
// controller runtime's Runnable.
func (d *Decryption) Start(ctx context.Context) error {
	for {
		d.watch(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-d.more:
		}
	}
}

// watch begins the watches of the places that have none yet.
func (d *Decryption) watch(ctx context.Context) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for p, ring := range d.places {
		if ring.stop == nil && d.o.Watch != nil {
			d.start(ctx, p, ring)
		}
	}
}

// start begins the watch of a place. d.mu is held.
func (d *Decryption) start(ctx context.Context, p place, ring *keyring) {
	ctx, stop := context.WithCancel(ctx)
	ring.stop, ring.seen = stop, map[string]string{}
	informer := toolscache.NewSharedIndexInformer(d.o.Watch(p.Namespace, p.options()), &metav1.PartialObjectMetadata{}, 0, nil)
	// The errors below are those of an informer that has been started.
	_ = informer.SetTransform(onlyState)
	_ = informer.SetWatchErrorHandlerWithContext(func(_ context.Context, _ *toolscache.Reflector, err error) {
		d.failed(p, ring, err)
	})
	registration, _ := informer.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { d.saw(p, ring, o, false) },
		UpdateFunc: func(_, o any) { d.saw(p, ring, o, false) },
		DeleteFunc: func(o any) { d.saw(p, ring, o, true) },
	})
	go informer.RunWithContext(ctx)
	go func() {
		if toolscache.WaitForCacheSync(ctx.Done(), registration.HasSynced) {
			d.complete(p, ring)
		}
	}()
}

// onlyState drops all of an object but what tells one state of it from another.
func onlyState(o any) (any, error) {
	m, ok := o.(*metav1.PartialObjectMetadata)
	if !ok {
		return o, nil
	}
	return &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{
		Namespace: m.Namespace, Name: m.Name, UID: m.UID, ResourceVersion: m.ResourceVersion,
	}}, nil
}

// saw takes in what the watch of a place shows.
func (d *Decryption) saw(p place, ring *keyring, o any, gone bool) {
	if last, ok := o.(toolscache.DeletedFinalStateUnknown); ok {
		o = last.Obj
	}
	m, ok := o.(metav1.Object)
	if !ok {
		return
	}
	d.mu.Lock()
	if ring.seen[m.GetName()] = stateOf(m); gone {
		delete(ring.seen, m.GetName())
	}
	tell := ring.watched && !ring.shown()
	d.mu.Unlock()
	if tell {
		d.tell(p)
	}
}

// failed takes in that a watch failed. What it showed stands through an outage; after
// a refusal the Secrets are listed now and then.
func (d *Decryption) failed(p place, ring *keyring, err error) {
	d.o.Log.Debug("cannot watch the keys for sealed files", "at", p.String(), "error", err)
	if !apierrors.IsForbidden(err) && !apierrors.IsUnauthorized(err) {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	ring.watched = false
}

// complete notes that the watch of a place shows all that is there.
func (d *Decryption) complete(p place, ring *keyring) {
	d.mu.Lock()
	ring.watched = true
	tell := ring.read && !ring.shown()
	d.mu.Unlock()
	if tell {
		d.tell(p)
	}
}

// tell asks for a pass of all who use a place.
func (d *Decryption) tell(p place) {
	d.mu.Lock()
	holders := maps.Clone(d.holders)
	d.mu.Unlock()
	for id, places := range holders {
		if slices.Contains(places, p) && d.o.Notify != nil {
			d.o.Notify(id)
		}
	}
}
