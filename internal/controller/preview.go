package controller

import (
	"context"
	"crypto/sha256"
	"log/slog"
	"time"

	"k8s.io/client-go/rest"

	"github.com/holdfastcd/holdfast/internal/cluster"
	"github.com/holdfastcd/holdfast/internal/delivery"
	"github.com/holdfastcd/holdfast/internal/object"
	"github.com/holdfastcd/holdfast/internal/render"
)

// Previewer returns an engine on a cluster that is good for previews: the same as
// the controller's, without a memory. It watches until ctx ends. Errors are those
// of connecting: Invalid, Unreachable, Unauthorized, Rejected.
func Previewer(ctx context.Context, cfg *rest.Config, r render.Renderer, argoNamespace string) (*delivery.Engine, error) {
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
		Alive: func(string) bool { return true },
	}), nil
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
