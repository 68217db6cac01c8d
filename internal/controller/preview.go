package controller

import (
	"context"
	"crypto/sha256"
	"log/slog"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/holdfastcd/holdfast/internal/cluster"
	"github.com/holdfastcd/holdfast/internal/delivery"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/render"
	"github.com/holdfastcd/holdfast/internal/secret"
	"github.com/holdfastcd/holdfast/internal/secret/sealed"
)

// Previewer returns an engine on a cluster that is good for previews: the same as
// the controller's, without a memory. It watches until ctx ends. SealedSecrets are
// opened by unsealer; nil: they stay as they are. Errors are those of connecting:
// Invalid, Unreachable, Unauthorized, Rejected.
func Previewer(ctx context.Context, cfg *rest.Config, r render.Renderer, argoNamespace string, unsealer secret.Unsealer) (*delivery.Engine, error) {
	log := slog.New(slog.DiscardHandler)
	c, err := cluster.Connect(cfg, clusterOptions(argoNamespace, log))
	if err != nil {
		return nil, err
	}
	if err := c.Start(ctx); err != nil {
		return nil, err
	}
	return delivery.New(delivery.Options{
		Renderer: func(delivery.ID) render.Renderer { return r },
		Cluster:  c,
		Memory:   forgetful{},
		Digest:   sha256.Sum256, // never leaves the process
		Clock:    time.Now,
		Log:      log,
		// Whether another owner still exists does not matter to a preview: it is shown.
		Alive:    func(string) bool { return true },
		Unsealer: unsealer,
	}), nil
}

// previewKeysWithin is how long a preview waits for the keys of SealedSecrets.
const previewKeysWithin = 5 * time.Second

// PreviewKeys returns what opens SealedSecrets with the sealing keys in namespaces, for
// as long as ctx is good; nil if whoever asks may not read all of them. Errors are
// Unreachable and Invalid.
func PreviewKeys(ctx context.Context, cfg *rest.Config, namespaces []string) (secret.Unsealer, error) {
	clients, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, fault.New(fault.Invalid, "cannot set up the connection to the cluster: %s", err).Because(err)
	}
	for _, ns := range namespaces {
		_, err := clients.CoreV1().Secrets(ns).List(ctx, metav1.ListOptions{LabelSelector: sealed.KeyLabel, Limit: 1})
		switch {
		case apierrors.IsForbidden(err):
			return nil, nil //nolint:nilnil // it is no error that somebody has no such right
		case err != nil:
			return nil, fault.New(fault.Unreachable, "the sealing keys in namespace %s cannot be read: %s", ns, err).Because(err)
		}
	}
	ready := make(chan struct{})
	keys, err := sealed.New(sealed.Options{Client: clients, Namespaces: namespaces, Changed: sync.OnceFunc(func() { close(ready) })})
	if err != nil {
		return nil, err
	}
	go func() { _ = keys.Run(ctx) }() // it ends with ctx, and never fails
	select {
	case <-ready:
		return keys, nil
	case <-ctx.Done():
	case <-time.After(previewKeysWithin): // what is missing is the right to see who else opens them
	}
	return nil, nil //nolint:nilnil // as above
}

// forgetful is a memory of nothing.
type forgetful struct{}

// Load implements delivery.Memory.
func (forgetful) Load(string) (map[object.ID]cluster.Fingerprint, error) {
	return map[object.ID]cluster.Fingerprint{}, nil
}

// Save implements delivery.Memory.
func (forgetful) Save(string, map[object.ID]cluster.Fingerprint) error { return nil }

// Delete implements delivery.Memory.
func (forgetful) Delete(string) error { return nil }
