package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// The second floor is what the custom resources themselves cost the API server,
// half as much again as the objects: each is created, gets the finalizer that
// must stand before the first apply, and says in its status what was delivered.
// Clients of Flux and of Argo CD read all of that, so no deliverer can leave it out.
// There is no controller yet, and what was made is deleted before there is one.

// floorNew creates the resources, and writes finalizers and statuses once.
func (b *bench) floorNew(ctx context.Context) (time.Duration, error) {
	all := b.resources()
	c, err := client.New(b.account, client.Options{Scheme: b.client.Scheme()})
	if err != nil {
		return 0, err
	}
	return timed(func() error {
		return each(ctx, all, func(ctx context.Context, o client.Object) error {
			if err := c.Create(ctx, o); err != nil {
				return err
			}
			if b.dialect == "flux" { // an Application brings its finalizer along
				finalizer := client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"finalizers":["finalizers.fluxcd.io"]}}`))
				if err := c.Patch(ctx, o, finalizer); err != nil {
					return err
				}
			}
			return b.floorStatus(ctx, c, o, 0)
		})
	})
}

// floorStatuses writes a new revision into each status, as a commit makes necessary.
func (b *bench) floorStatuses(ctx context.Context) (time.Duration, error) {
	all := b.resources()
	c, err := client.New(b.account, client.Options{Scheme: b.client.Scheme()})
	if err != nil {
		return 0, err
	}
	b.serial++
	return timed(func() error {
		return each(ctx, all, func(ctx context.Context, o client.Object) error { return b.floorStatus(ctx, c, o, b.serial) })
	})
}

// clearFloor deletes what floorNew made, before there is a controller that would deliver it.
func (b *bench) clearFloor(ctx context.Context) error {
	return each(ctx, b.resources(), func(ctx context.Context, o client.Object) error {
		free := client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`))
		if err := b.client.Patch(ctx, o, free); err != nil {
			return client.IgnoreNotFound(err)
		}
		return client.IgnoreNotFound(b.client.Delete(ctx, o))
	})
}

// floorStatus patches a status as long as the real one.
func (b *bench) floorStatus(ctx context.Context, c client.Client, o client.Object, serial int) error {
	revision := fmt.Sprintf("main@sha1:%040d", serial)
	if b.dialect == "argo" {
		return c.Patch(ctx, o, client.RawPatch(types.MergePatchType, fmt.Appendf(nil,
			`{"status":{"sync":{"status":"Synced","revision":%q},"health":{"status":"Healthy"}}}`, revision)))
	}
	var entries []string
	for n := range b.objects {
		entries = append(entries, fmt.Sprintf(`{"id":"%s_%s-settings-%02d__ConfigMap","v":"v1"}`, o.GetName(), o.GetName(), n))
	}
	return c.Status().Patch(ctx, o, client.RawPatch(types.MergePatchType, fmt.Appendf(nil,
		`{"status":{"lastAppliedRevision":%[1]q,"lastAttemptedRevision":%[1]q,"inventory":{"entries":[%[2]s]},"conditions":[{"type":"Ready",`+
			`"status":"True","reason":"ReconciliationSucceeded","message":"Applied revision: %[1]s","lastTransitionTime":"2026-01-01T00:00:00Z"}]}}`,
		revision, strings.Join(entries, ","))))
}

// each does one thing to every object, as many at once as the floor.
func each(ctx context.Context, all []client.Object, do func(context.Context, client.Object) error) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(inFlight)
	for _, o := range all {
		g.Go(func() error { return do(ctx, o) })
	}
	return g.Wait()
}
