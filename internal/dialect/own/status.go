package own

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	api "github.com/holdfastcd/holdfast/api/holdfast/v1alpha1"
	"github.com/holdfastcd/holdfast/internal/dialect"
)

const (
	// together is how long changes of a status are gathered after one was written.
	together = time.Second
	// recount finds deliveries that are gone, of which nobody tells.
	recount = 5 * time.Minute
	// maxMessage bounds a condition's.
	maxMessage = 8 << 10
)

// writeStatus has the status of an object say what fill makes of it, if that is something
// else than before; mu is held while it does. It returns when to look again; 0: when
// somebody asks. Errors are those of the API server.
func writeStatus[S any, O held, T any](ctx context.Context, r *roster[O, T], of string, fill func(O, *S)) (time.Duration, error) {
	r.mu.Lock()
	o, ok := r.objects[of]
	if !ok {
		r.mu.Unlock()
		return 0, nil
	}
	if soon := together - r.now().Sub(r.wrote[of]); soon > 0 {
		r.mu.Unlock()
		return soon, nil
	}
	var before, after S
	status, there := o.last().object.Object["status"]
	if fields, ok := status.(map[string]any); ok {
		// What cannot be read is replaced.
		_ = runtime.DefaultUnstructuredConverter.FromUnstructured(fields, &before)
		_ = runtime.DefaultUnstructuredConverter.FromUnstructured(fields, &after)
	}
	fill(o, &after)
	same := there && reflect.DeepEqual(before, after)
	if same || r.env.Client == nil {
		r.mu.Unlock()
		return recount, nil
	}
	r.wrote[of] = r.now()
	r.mu.Unlock()
	err := patchStatus(ctx, r.env.Client, blank(r.kind, of), &before, &after)
	if apierrors.IsForbidden(err) && r.env.Observe {
		err = nil // who only observes has no right to write
	}
	return recount, client.IgnoreNotFound(err)
}

// patchStatus writes what the status of an object says now and did not before.
func patchStatus(ctx context.Context, c client.Client, u *unstructured.Unstructured, before, after any) error {
	status, err := runtime.DefaultUnstructuredConverter.ToUnstructured(after)
	if err != nil {
		return err
	}
	old, err := runtime.DefaultUnstructuredConverter.ToUnstructured(before)
	if err != nil {
		return err
	}
	var from any
	if old["observedGeneration"] != nil { // else there was none
		from = old
	}
	patch, err := dialect.StatusPatch(from, status)
	if err != nil {
		return err
	}
	return c.Status().Patch(ctx, u, patch, client.FieldOwner(dialect.StatusManager))
}

// blank returns an object of one of Holdfast's kinds, of a name.
func blank(kind, name string) *unstructured.Unstructured {
	u := &unstructured.Unstructured{}
	u.SetGroupVersionKind(api.GroupVersion.WithKind(kind))
	u.SetName(name)
	return u
}

// Judged tells which policies refuse a delivery at present, and which would but only
// audit; none: it was judged, and proved what they demand.
func (o *Own) Judged(kind, namespace, of string, refused, unproven []string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	s := o.subjects[name(kind, namespace, of)]
	if s == nil || s.told != nil && slices.Equal(s.told.refused, refused) && slices.Equal(s.told.unproven, unproven) {
		return
	}
	s.told = &judgement{slices.Clone(refused), slices.Clone(unproven)}
	o.recount()
}

// reconcile writes the status of a policy, if it says something else than before.
func (o *Own) reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	o.sweep()
	again, err := writeStatus(ctx, o.roster, req.Name, o.status)
	return reconcile.Result{RequeueAfter: again}, err
}

// status says how a policy stands, how many deliveries it is for, and how many of them it
// refuses, or would; nil if none was judged. o.mu is held.
func (o *Own) status(p *current, out *api.TrustPolicyStatus) {
	out.ObservedGeneration, out.Selected, out.Refused, out.Unproven = p.object.GetGeneration(), 0, nil, nil
	var refused, unproven int64
	for _, s := range o.askers(p) {
		out.Selected++
		if s.told == nil {
			continue
		}
		out.Refused, out.Unproven = &refused, &unproven
		if slices.Contains(s.told.refused, p.Policy.Name) {
			refused++
		}
		if slices.Contains(s.told.unproven, p.Policy.Name) {
			unproven++
		}
	}
	o.conditions(&out.Conditions, p.Compiled, out.ObservedGeneration)
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
