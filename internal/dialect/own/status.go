package own

import (
	"context"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	api "github.com/holdfastcd/holdfast/api/holdfast/v1alpha1"
	"github.com/holdfastcd/holdfast/internal/dialect"
	"github.com/holdfastcd/holdfast/internal/trust"
)

const (
	// together is how long changes of a status are gathered after one was written.
	together = time.Second
	// recount finds deliveries that are gone, of which nobody tells.
	recount = 5 * time.Minute
	// maxMessage bounds a condition's.
	maxMessage = 8 << 10
)

// note remembers that a delivery has asked. o.mu is held.
func (o *Own) note(s trust.Subject) {
	key := name(s.Kind, s.Namespace, s.Name)
	known := o.subjects[key]
	if known == nil {
		known = &subject{}
		o.subjects[key] = known
	} else if reflect.DeepEqual(known.Subject, s) {
		return
	}
	s.Labels = maps.Clone(s.Labels)
	known.Subject = s
	o.recount()
}

// Judged tells which policies refuse a delivery at present; none: it was judged,
// and is not refused.
func (o *Own) Judged(kind, namespace, of string, refused []string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	s := o.subjects[name(kind, namespace, of)]
	if s == nil || s.told && slices.Equal(s.refused, refused) {
		return
	}
	s.told, s.refused = true, slices.Clone(refused)
	o.recount()
}

// recount has the status of all policies be looked at. o.mu is held.
func (o *Own) recount() {
	for name := range o.policies {
		o.trigger.Add(types.NamespacedName{Name: name}, dialect.Untouched)
	}
}

// count says how many deliveries a policy is for, and how many it refuses; nil if
// none of them was judged. o.mu is held.
func (o *Own) count(p *current) (selected int64, refused *int64) {
	n := int64(0)
	for _, s := range o.subjects {
		if !p.Selects(s.Subject) {
			continue
		}
		selected++
		if s.told {
			refused = &n
		}
		if slices.Contains(s.refused, p.Policy.Name) {
			n++
		}
	}
	return selected, refused
}

// sweep forgets deliveries that are gone, now and then.
func (o *Own) sweep() {
	o.mu.Lock()
	if o.now().Sub(o.swept) < recount {
		o.mu.Unlock()
		return
	}
	o.swept = o.now()
	asked := slices.Collect(maps.Keys(o.subjects))
	o.mu.Unlock()
	for _, key := range asked {
		if o.options.Alive(key) {
			continue
		}
		o.mu.Lock()
		delete(o.subjects, key)
		o.mu.Unlock()
	}
}

// reconcile writes the status of a policy, if it says something else than before.
func (o *Own) reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	o.sweep()
	o.mu.Lock()
	p := o.policies[req.Name]
	if p == nil {
		o.mu.Unlock()
		return reconcile.Result{}, nil
	}
	if soon := together - o.now().Sub(o.wrote[req.Name]); soon > 0 {
		o.mu.Unlock()
		return reconcile.Result{RequeueAfter: soon}, nil
	}
	u, compiled := p.object, p.Compiled
	selected, refused := o.count(p)
	o.mu.Unlock()
	before := &api.TrustPolicy{}
	if status, ok := u.Object["status"]; ok {
		// What cannot be read is replaced.
		_ = runtime.DefaultUnstructuredConverter.FromUnstructured(map[string]any{"status": status}, before)
	}
	after := before.DeepCopy()
	after.Status.ObservedGeneration = u.GetGeneration()
	after.Status.Selected, after.Status.Refused = selected, refused
	o.conditions(&after.Status.Conditions, compiled, u.GetGeneration())
	again := reconcile.Result{RequeueAfter: recount}
	_, there := u.Object["status"]
	if o.env.Client == nil || there && reflect.DeepEqual(before.Status, after.Status) {
		return again, nil
	}
	o.mu.Lock()
	o.wrote[req.Name] = o.now()
	o.mu.Unlock()
	err := o.write(ctx, before, after, u.GetName())
	if apierrors.IsForbidden(err) && o.env.Observe {
		return again, nil // who only observes has no right to write
	}
	return again, client.IgnoreNotFound(err)
}

func (o *Own) write(ctx context.Context, before, after *api.TrustPolicy, name string) error {
	return patchStatus(ctx, o.env.Client, api.TrustPolicyKind, name, &before.Status, &after.Status, before.Status.ObservedGeneration == 0)
}

// patchStatus writes what a status says now and did not before; first: there was none.
func patchStatus(ctx context.Context, c client.Client, kind, name string, before, after any, first bool) error {
	status, err := runtime.DefaultUnstructuredConverter.ToUnstructured(after)
	if err != nil {
		return err
	}
	old, err := runtime.DefaultUnstructuredConverter.ToUnstructured(before)
	if err != nil {
		return err
	}
	base, next := blank(kind, name), blank(kind, name)
	base.Object["status"], next.Object["status"] = old, status
	if first {
		delete(base.Object, "status")
	}
	return c.Status().Patch(ctx, next, client.MergeFrom(base), client.FieldOwner(dialect.StatusManager))
}

// conditions say how a policy stands.
func (o *Own) conditions(list *[]metav1.Condition, c Compiled, generation int64) {
	ready := metav1.Condition{Type: api.ConditionReady, Status: metav1.ConditionTrue, Reason: c.Reason, ObservedGeneration: generation}
	ready.LastTransitionTime = metav1.NewTime(o.now()).Rfc3339Copy()
	switch {
	case c.Policy.Broken != "":
		ready.Status = metav1.ConditionFalse
		ready.Message = c.brokenMessage()
	case c.Waiting:
		ready.Status, ready.Message = metav1.ConditionUnknown, "what it names is being read; what it selects waits"
	case c.Policy.Audit:
		ready.Message = "what is not proven is delivered, and told"
	default:
		ready.Message = "what is not proven is refused"
	}
	apimeta.SetStatusCondition(list, ready)
	if c.Policy.Broken == "" {
		apimeta.RemoveStatusCondition(list, api.ConditionBroken)
		return
	}
	broken := ready
	broken.Type, broken.Status = api.ConditionBroken, metav1.ConditionTrue
	apimeta.SetStatusCondition(list, broken)
}

func (c Compiled) brokenMessage() string {
	effect := "what it selects is refused"
	if c.Policy.Audit {
		effect = "nothing is judged by it"
	}
	text := fmt.Sprintf("%s, until this is corrected: %s", effect, c.Policy.Broken)
	return text[:min(len(text), maxMessage)]
}
