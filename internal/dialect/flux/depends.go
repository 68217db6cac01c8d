package flux

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/fluxcd/pkg/apis/meta"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/holdfastcd/holdfast/internal/dialect"
	"github.com/holdfastcd/holdfast/internal/fault"
)

// behindGrace is for how long a Kustomization waits, without a word, for
// dependencies that are ready and have not got to its revision yet: with every
// commit they are, for a moment.
const behindGrace = 2 * time.Second

// dependenciesOf names what a Kustomization depends on.
func dependenciesOf(ks *kustomizev1.Kustomization) []types.NamespacedName {
	names := make([]types.NamespacedName, 0, len(ks.Spec.DependsOn))
	for _, d := range ks.Spec.DependsOn {
		names = append(names, types.NamespacedName{Namespace: cmp.Or(d.Namespace, ks.Namespace), Name: d.Name})
	}
	return names
}

// dependencyIndex indexes Kustomizations by those that they depend on.
func dependencyIndex(o client.Object) []string {
	var names []string
	for _, name := range readDependencies(o) {
		names = append(names, name.String())
	}
	return names
}

// readDependencies is dependenciesOf for an object as it is written.
func readDependencies(o client.Object) []types.NamespacedName {
	u, ok := o.(*unstructured.Unstructured)
	if !ok {
		return nil
	}
	listed, _, err := unstructured.NestedSlice(u.Object, "spec", "dependsOn")
	if err != nil {
		return nil
	}
	var names []types.NamespacedName
	for _, item := range listed {
		ref, _ := item.(map[string]any)
		name, _ := ref["name"].(string)
		namespace, _ := ref["namespace"].(string)
		if name != "" {
			names = append(names, types.NamespacedName{Namespace: cmp.Or(namespace, u.GetNamespace()), Name: name})
		}
	}
	return names
}

// wake queues those who depend on a Kustomization of which the status was written.
func (c *kustomizations) wake(ctx context.Context, name types.NamespacedName) {
	all, err := c.desk.list(ctx, client.MatchingFields{byDependency: name.String()})
	if err != nil {
		c.env.Log.Error("cannot look up dependents", "kustomization", name.String(), "error", err)
		return
	}
	for i := range all {
		c.trigger.Add(types.NamespacedName{Namespace: all[i].GetNamespace(), Name: all[i].GetName()}, dialect.Touched)
	}
}

// depend says in o why a Kustomization must wait for others. It reports true, and
// when to look again, if that is not worth a word yet. What is only observed does
// not wait: whoever serves it does.
func (c *kustomizations) depend(ctx context.Context, p pass, e edition, o *outcome) (time.Duration, bool) {
	if p.observing {
		return 0, false
	}
	why, behind := c.unready(ctx, p.ks, e.label)
	switch {
	case why == nil:
		p.memory.behind = time.Time{}
		return 0, false
	case behind:
		now := c.env.Clock()
		if p.memory.behind.IsZero() {
			p.memory.behind = now
		}
		if left := behindGrace - now.Sub(p.memory.behind); left > 0 {
			return left, true
		}
	}
	o.early, o.reason = why, meta.DependencyNotReadyReason
	return 0, false
}

// unready says which dependency is not ready; nil if all are. behind: those that
// are not are ready on an older revision of the same source.
func (c *kustomizations) unready(ctx context.Context, ks *kustomizev1.Kustomization, label string) (why *fault.Error, behind bool) {
	names := dependenciesOf(ks)
	if len(names) == 0 {
		return nil, false
	}
	if circle := c.circle(ctx, nameOf(ks)); circle != nil {
		return fault.New(fault.Waiting, "circular dependency: %s", strings.Join(circle, " depends on ")).
			WithHint("take spec.dependsOn out of one of them"), false
	}
	for _, name := range names {
		problem, late := c.dependency(ctx, ks, name, label)
		if problem == "" || late && why != nil {
			continue
		}
		why, behind = fault.New(fault.Waiting, "dependency '%s' is not ready: %s", name, problem), late
		if !late {
			break
		}
	}
	return why, behind
}

// dependency says why one dependency is not ready, as Flux judges it: its last
// generation was seen, it is ready, and, if it delivers from the same source,
// from the same revision. late: the last is all that is missing.
func (c *kustomizations) dependency(ctx context.Context, ks *kustomizev1.Kustomization, name types.NamespacedName, label string) (problem string, late bool) {
	u, err := c.desk.get(ctx, name)
	switch {
	case err != nil:
		return err.Error(), false
	case u == nil:
		return "it does not exist", false
	}
	d, bad := decode[kustomizev1.Kustomization](u)
	ready := apimeta.FindStatusCondition(d.Status.Conditions, meta.ReadyCondition)
	switch {
	case bad != nil:
		return bad.Error(), false
	case ready == nil || d.Status.ObservedGeneration != d.Generation:
		return "it was not delivered yet", false
	case ready.Status != metav1.ConditionTrue:
		return fmt.Sprintf("%s: %s", ready.Reason, clip(ready.Message, maxEvent)), false
	case sourceOf(d) == sourceOf(ks) && d.Status.LastAppliedRevision != label:
		return "its revision " + d.Status.LastAppliedRevision + " is not the current one", true
	}
	return "", false
}

// maxCircle bounds the search for circles.
const maxCircle = 10_000

// circle returns the names on the shortest way from a Kustomization, along what
// each depends on, back to itself; nil if there is none.
func (c *kustomizations) circle(ctx context.Context, start types.NamespacedName) []string {
	from := map[types.NamespacedName]types.NamespacedName{}
	for queue := []types.NamespacedName{start}; len(queue) > 0 && len(from) < maxCircle; queue = queue[1:] {
		at := queue[0]
		u, err := c.desk.get(ctx, at)
		if err != nil || u == nil {
			continue
		}
		for _, next := range readDependencies(u) {
			if next == start {
				return way(from, start, at)
			}
			if _, seen := from[next]; !seen {
				from[next] = at
				queue = append(queue, next)
			}
		}
	}
	return nil
}

// way reads from the steps that were taken how they lead from start to last, and
// back to start.
func way(from map[types.NamespacedName]types.NamespacedName, start, last types.NamespacedName) []string {
	names := []string{start.String()}
	for at := last; at != start; at = from[at] {
		names = append(names, at.String())
	}
	names = append(names, start.String())
	slices.Reverse(names)
	return names
}
