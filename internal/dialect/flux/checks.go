package flux

import (
	"cmp"
	"context"
	"sync"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/fluxcd/pkg/apis/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/holdfastcd/holdfast/internal/cluster"
	"github.com/holdfastcd/holdfast/internal/delivery"
	"github.com/holdfastcd/holdfast/internal/dialect"
	"github.com/holdfastcd/holdfast/internal/fault"
	"github.com/holdfastcd/holdfast/internal/health"
	"github.com/holdfastcd/holdfast/internal/object"
	hschema "github.com/holdfastcd/holdfast/internal/schema"
)

// check judges the objects that spec.healthChecks names: by the report what the
// delivery holds; others by what its account sees of them, again whenever a watch
// says that they moved.
func (c *kustomizations) check(ctx context.Context, ks *kustomizev1.Kustomization, spec delivery.Spec, report delivery.Report) []delivery.Object {
	known := make(map[object.ID]delivery.Object, len(report.Objects))
	for _, o := range report.Objects {
		known[o.ID] = o
	}
	checked := make([]delivery.Object, 0, len(ks.Spec.HealthChecks))
	var others []object.ID
	for _, ref := range ks.Spec.HealthChecks {
		gvk, kind, served := c.kindOf(ref)
		id := object.ID{Group: gvk.Group, Kind: gvk.Kind, Name: ref.Name}
		if !served || kind.Namespaced {
			id.Namespace = cmp.Or(ref.Namespace, spec.Namespace, ks.Namespace)
		}
		o, ours := known[id]
		if !ours {
			o = delivery.Object{ID: id, GVK: gvk, Desired: true, Health: &health.Verdict{Status: health.Missing, Message: "the cluster does not serve this kind"}}
			if served {
				others = append(others, id)
			}
		}
		if !ours && served {
			o.Health = c.look(ctx, spec.Account, kind, id)
		}
		checked = append(checked, o)
	}
	c.checks.set(nameOf(ks), others)
	return checked
}

// kindOf finds how the cluster serves a kind that a check names.
func (c *kustomizations) kindOf(ref meta.NamespacedObjectKindReference) (schema.GroupVersionKind, hschema.Kind, bool) {
	gvk := schema.FromAPIVersionAndKind(ref.APIVersion, ref.Kind)
	kind, ok := c.env.Engine.Cluster.Kinds().Lookup(gvk)
	return gvk, kind, ok
}

// look judges an object of somebody else's. It is read as the delivery's account:
// what that may not see, its owner must not learn here.
func (c *kustomizations) look(ctx context.Context, account cluster.Account, kind hschema.Kind, id object.ID) *health.Verdict {
	// First the watch: what moves after the look below is then not missed.
	if err := c.env.Engine.Cluster.WatchWhole(ctx, kind); err != nil {
		return &health.Verdict{Status: health.Unknown, Message: fault.From(err).Error()}
	}
	live, err := c.env.Engine.Cluster.As(account).Get(ctx, kind, id)
	switch {
	case fault.KindOf(err) == fault.NotFound && err != nil:
		return &health.Verdict{Status: health.Missing}
	case err != nil:
		return &health.Verdict{Status: health.Unknown, Message: fault.From(err).Error()}
	}
	verdict, ok := health.Options{Kstatus: true}.Judge(live)
	if !ok {
		verdict = health.Verdict{Status: health.Healthy} // it is there, and has no health
	}
	return &verdict
}

// watchlist says which Kustomizations are waiting for objects that others deliver.
type watchlist struct {
	mu   sync.Mutex
	by   map[object.ID]map[types.NamespacedName]bool
	held map[types.NamespacedName][]object.ID
}

// set replaces what a Kustomization is waiting for.
func (w *watchlist) set(name types.NamespacedName, ids []object.ID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, id := range w.held[name] {
		if delete(w.by[id], name); len(w.by[id]) == 0 {
			delete(w.by, id)
		}
	}
	delete(w.held, name)
	if len(ids) == 0 {
		return
	}
	if w.by == nil {
		w.by, w.held = map[object.ID]map[types.NamespacedName]bool{}, map[types.NamespacedName][]object.ID{}
	}
	w.held[name] = ids
	for _, id := range ids {
		if w.by[id] == nil {
			w.by[id] = map[types.NamespacedName]bool{}
		}
		w.by[id][name] = true
	}
}

// moved queues those who are waiting for an object.
func (w *watchlist) moved(id object.ID, trigger *dialect.Trigger) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for name := range w.by[id] {
		trigger.Add(name, dialect.Touched)
	}
}
