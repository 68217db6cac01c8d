package own

import (
	"bytes"
	"context"
	"log/slog"
	"maps"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/kubernetes"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/holdfastcd/holdfast/internal/audit"
	"github.com/holdfastcd/holdfast/internal/dialect"
	"github.com/holdfastcd/holdfast/internal/fault"
)

// keyring watches the ConfigMaps and Secrets that policies name, each by its name
// alone: nothing else is read, and list and watch of these names is all that it
// needs to be permitted.
type keyring struct {
	client kubernetes.Interface
	// changed is told that something else is to be read now; by is who wrote it, as
	// managedFields claim.
	changed func(r Ref, by []audit.Person)
	log     *slog.Logger

	mu      sync.Mutex
	context context.Context // nil until it runs
	watched map[Ref]*watched
}

// watched is one ConfigMap or Secret.
type watched struct {
	stop    context.CancelFunc
	content Content
	err     error // nil: content stands
}

func newKeyring(c kubernetes.Interface, log *slog.Logger, changed func(Ref, []audit.Person)) *keyring {
	return &keyring{client: c, log: log, changed: changed, watched: map[Ref]*watched{}}
}

// errUnread is what is known of what was not read yet.
func errUnread(r Ref) error {
	return fault.New(fault.Waiting, "%s has not been read yet", r)
}

// read implements [Read] from what is watched; what is not, is from now on.
func (k *keyring) read(r Ref) (Content, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	w, ok := k.watched[r]
	if !ok {
		w = &watched{err: errUnread(r)}
		k.watched[r] = w
		k.start(k.context, r, w)
	}
	return w.content, w.err
}

// run has watches begin, those that are asked for already first.
func (k *keyring) run(ctx context.Context) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.context = ctx
	for r, w := range k.watched {
		k.start(ctx, r, w)
	}
}

// keep ends the watches of all but what is still named.
func (k *keyring) keep(named map[Ref]bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for r, w := range k.watched {
		if named[r] {
			continue
		}
		if w.stop != nil {
			w.stop()
		}
		delete(k.watched, r)
	}
}

// start begins a watch, unless ctx is nil because nothing runs yet. k.mu is held.
func (k *keyring) start(ctx context.Context, r Ref, w *watched) {
	if ctx == nil || w.stop != nil {
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	w.stop = cancel
	resource, of := "configmaps", client.Object(&corev1.ConfigMap{})
	if r.Kind == "Secret" {
		resource, of = "secrets", &corev1.Secret{}
	}
	only := func(o *metav1.ListOptions) {
		o.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, r.Name).String()
	}
	lw := toolscache.NewFilteredListWatchFromClient(k.client.CoreV1().RESTClient(), resource, r.Namespace, only)
	informer := toolscache.NewSharedIndexInformer(lw, of, 0, nil)
	// The errors below are those of an informer that has been started.
	_ = informer.SetWatchErrorHandlerWithContext(func(_ context.Context, _ *toolscache.Reflector, err error) { k.failed(r, w, err) })
	_, _ = informer.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { k.seen(r, w, o) },
		UpdateFunc: func(_, o any) { k.seen(r, w, o) },
		DeleteFunc: func(any) { k.gone(r, w) },
	})
	go informer.RunWithContext(ctx)
	go func() {
		if toolscache.WaitForCacheSync(ctx.Done(), informer.HasSynced) && len(informer.GetStore().ListKeys()) == 0 {
			k.gone(r, w)
		}
	}()
}

// seen takes in what a ConfigMap or Secret holds now.
func (k *keyring) seen(r Ref, w *watched, o any) {
	var content Content
	switch o := o.(type) {
	case *corev1.Secret:
		content = contentOf(o, o.Data, nil)
	case *corev1.ConfigMap:
		content = contentOf(o, o.BinaryData, o.Data)
	default:
		return
	}
	k.mu.Lock()
	same := w.err == nil && maps.EqualFunc(w.content.Data, content.Data, bytes.Equal)
	if !same {
		w.content, w.err = content, nil
	}
	k.mu.Unlock()
	if !same {
		k.changed(r, content.Writer)
	}
}

// contentOf is what an object holds; text may be nil.
func contentOf(o client.Object, data map[string][]byte, text map[string]string) Content {
	c := Content{Data: maps.Clone(data), Version: string(o.GetUID()) + ":" + o.GetResourceVersion(), Writer: dialect.LastWriter(o)}
	if c.Data == nil {
		c.Data = make(map[string][]byte, len(text))
	}
	for name, value := range text {
		c.Data[name] = []byte(value)
	}
	return c
}

// gone takes in that there is no such object.
func (k *keyring) gone(r Ref, w *watched) {
	k.set(r, w, fault.New(fault.NotFound, "%s does not exist", r))
}

// failed takes in that the object cannot be read. What was read before stands
// through an outage, but not through a refusal.
func (k *keyring) failed(r Ref, w *watched, err error) {
	if apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err) {
		k.set(r, w, fault.New(fault.Rejected, "%s may not be read", r).Because(err))
		return
	}
	k.log.Debug("cannot watch what a TrustPolicy names", "object", r.String(), "error", err)
}

func (k *keyring) set(r Ref, w *watched, err error) {
	k.mu.Lock()
	same := w.err != nil && fault.KindOf(w.err) == fault.KindOf(err)
	w.content, w.err = Content{}, err
	k.mu.Unlock()
	if !same {
		k.changed(r, nil)
	}
}
