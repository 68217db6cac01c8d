package argo

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	api "github.com/holdfastcd/holdfast/api/argo/v1alpha1"
	"github.com/holdfastcd/holdfast/internal/dialect"
	"github.com/holdfastcd/holdfast/internal/source"
)

// push says that a branch of a repository has moved.
type push struct{ url, branch string } // url normalised; branch empty: any

// maxPushes bounds what is remembered to be spread. Beyond it, Applications find
// out when they look by the clock.
const maxPushes = 1024

// pushes are waiting to be spread to the Applications that they concern.
type pushes struct {
	mu      sync.Mutex
	waiting map[push]bool
	wake    chan struct{}
}

func newPushes() *pushes {
	return &pushes{waiting: map[push]bool{}, wake: make(chan struct{}, 1)}
}

func (p *pushes) add(one push) {
	p.mu.Lock()
	if len(p.waiting) < maxPushes {
		p.waiting[one] = true
	}
	p.mu.Unlock()
	select {
	case p.wake <- struct{}{}:
	default: // somebody is on the way already
	}
}

func (p *pushes) take() []push {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := slices.Collect(maps.Keys(p.waiting))
	clear(p.waiting)
	return all
}

// Refresh has the Applications that follow a branch of a repository look at it at
// once, those that it changes first. An empty branch stands for all. It does not
// block. The hub must have been told before.
func (a *Argo) Refresh(repoURL, branch string) {
	a.pushes.add(push{source.NormalizeURL(repoURL), branch})
}

// noteHead remembers where a request led, and reports whether that is new: the
// branch has moved since it was last looked at.
func (a *Argo) noteHead(request source.Request, commit string) bool {
	if request.Ref.Commit != "" {
		return false
	}
	key := request.Key()
	a.mu.Lock()
	defer a.mu.Unlock()
	before, known := a.heads[key]
	if len(a.heads) > maxPushes {
		clear(a.heads) // mostly of credentials long gone; forgetting costs nothing but a poll
	}
	a.heads[key] = commit
	return known && before != commit
}

// spread queues the Applications that pushes concern, until ctx ends.
func (a *Argo) spread(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-a.pushes.wake:
		}
		for _, one := range a.pushes.take() {
			a.spreadOne(ctx, one)
		}
	}
}

func (a *Argo) spreadOne(ctx context.Context, one push) {
	apps, err := a.desk.list(ctx, a.env.ArgoNamespace)
	if err != nil {
		a.env.Log.Warn("cannot list Applications", "error", err)
		return
	}
	a.trigger.AddAll(func(yield func(types.NamespacedName, dialect.Priority) bool) {
		for i := range apps {
			if !follows(&apps[i], one) {
				continue
			}
			priority, concerned := a.urgency(ctx, &apps[i])
			if concerned && !yield(client.ObjectKeyFromObject(&apps[i]), priority) {
				return
			}
		}
	})
}

// branches is how the full name of a branch begins.
const branches = "refs/heads/"

// follows reports whether an Application's source is a branch that was pushed to, or
// may be about a tag that was. What HEAD stands for is known to the repository only.
func follows(u *unstructured.Unstructured, one push) bool {
	url, _, _ := unstructured.NestedString(u.Object, "spec", "source", "repoURL")
	if url == "" || source.NormalizeURL(url) != one.url {
		return false
	}
	target, _, _ := unstructured.NestedString(u.Object, "spec", "source", "targetRevision")
	r := ref(target)
	switch {
	case r.Commit != "":
		return false
	case one.branch == "" || r == (source.Ref{}):
		return true
	}
	return strings.TrimPrefix(target, branches) == strings.TrimPrefix(one.branch, branches)
}

// urgency says how soon an Application should look at its source, and whether it
// need at all. In doubt it should, soon.
func (a *Argo) urgency(ctx context.Context, u *unstructured.Unstructured) (dialect.Priority, bool) {
	app, err := Decode(u)
	if err != nil {
		return dialect.Normal, false // it is not delivered anyway
	}
	project, err := a.project(ctx, app.Spec.Project)
	if err != nil {
		return dialect.Normal, false
	}
	request, err := Request(app, project, a.options)
	if err != nil {
		return dialect.Normal, false
	}
	revision, _, err := a.fetch(ctx, request, project, poll(nameOf(app)))
	if err != nil {
		return dialect.Touched, true
	}
	if s := app.Status.Sync; s.Revision == revision.Commit && s.Status != api.SyncStatusCodeUnknown && len(app.Status.Conditions) == 0 {
		return dialect.Normal, false
	}
	m := a.memories.Of(nameOf(app))
	if !m.mu.TryLock() {
		return dialect.Touched, true // a pass is running, perhaps on the old revision
	}
	defer m.mu.Unlock()
	spec, err := Spec(app, project, revision, a.options)
	spec.Opener = m.opener
	if err == nil {
		err = a.env.Demand(&spec, app, app.Spec.Project, request.URL)
	}
	if err == nil && a.env.Engine.Unchanged(spec) {
		return dialect.Untouched, true
	}
	return dialect.Touched, true
}
